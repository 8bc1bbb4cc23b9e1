package entry

import "strconv"

// The number rule: integers of at most twenty digits pass as spelled. Any other number passes if the shortest decimal of
// the nearest float64 has the same value, so that a reader who keeps numbers as float64 prints the value that was written.
const (
	maxIntegerDigits = 20
	// Decimals of up to 15 significant digits in the normal range always survive float64.
	safeDigits = 15
	// No float64 has a shortest decimal of more digits.
	maxDigits = 17
)

const inexactMsg = "no float64 has this value; write it as a string"

// number scans the JSON number at p, which is a digit or a minus sign.
func number(b []byte, p int) (int, *FieldError) {
	start := p
	if b[p] == '-' {
		p++
	}
	first := p
	for p < len(b) && b[p]-'0' <= 9 {
		p++
	}
	digits := p - first
	if digits == 0 {
		return p, fault("", p, "want a digit")
	}
	if digits > 1 && b[first] == '0' {
		return p, fault("", first, "a number that begins with 0")
	}
	if p >= len(b) || (b[p] != '.' && b[p]|0x20 != 'e') {
		if digits > maxIntegerDigits && !exact(b[first:p]) {
			return p, fault("", start, "an integer of more than twenty digits: "+inexactMsg)
		}
		return p, nil
	}
	if b[p] == '.' {
		from := p + 1
		for p++; p < len(b) && b[p]-'0' <= 9; p++ {
		}
		if p == from {
			return p, fault("", p, "want a digit after the point")
		}
		digits += p - from
	}
	safe := digits <= safeDigits
	if p < len(b) && b[p]|0x20 == 'e' {
		if p++; p < len(b) && (b[p] == '+' || b[p] == '-') {
			p++
		}
		from := p
		for p < len(b) && b[p]-'0' <= 9 {
			p++
		}
		if p == from {
			return p, fault("", p, "want a digit in the exponent")
		}
		safe = safe && p-from <= 2
	}
	if !safe && !exact(b[first:p]) {
		return p, fault("", start, inexactMsg)
	}
	return p, nil
}

// exact decides the number rule for a valid number without its sign, in one pass over its digits whatever its exponent.
func exact(b []byte) bool {
	d, ok := parseDecimal(b)
	if !ok || d.n == 0 {
		return ok
	}
	if d.exp > 310 || d.exp < -330 {
		return false
	}
	var buf [40]byte
	text := append(buf[:0], d.digits[:d.n]...)
	text = append(text, 'e')
	text = strconv.AppendInt(text, d.exp-int64(d.n), 10)
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f == 0 {
		return false
	}
	got, ok := parseDecimal(strconv.AppendFloat(buf[:0], f, 'e', -1, 64))
	return ok && got == d
}

// decimal is 0.ddd × 10^exp without leading or trailing zeros; zero has no digits.
type decimal struct {
	digits [maxDigits]byte
	n      int
	exp    int64
}

// parseDecimal reads a valid number without a sign. It is not ok with more than maxDigits significant digits.
func parseDecimal(b []byte) (d decimal, ok bool) {
	zeros, point := 0, false
	i := 0
	for ; i < len(b) && b[i]|0x20 != 'e'; i++ {
		c := b[i]
		if c == '.' {
			point = true
			continue
		}
		if !point && (d.n > 0 || c != '0') {
			d.exp++
		}
		switch {
		case c == '0' && d.n == 0:
			if point {
				d.exp--
			}
		case c == '0':
			zeros++
		default:
			if d.n+zeros+1 > maxDigits {
				return d, false
			}
			for ; zeros > 0; zeros-- {
				d.digits[d.n] = '0'
				d.n++
			}
			d.digits[d.n] = c
			d.n++
		}
	}
	if d.n == 0 {
		return decimal{}, true
	}
	d.exp += exponent(b[i:])
	return d, true
}

// exponent reads e±ddd and stops counting far outside float64's range and any number of digits.
func exponent(b []byte) (v int64) {
	if len(b) == 0 {
		return 0
	}
	b = b[1:]
	negative := b[0] == '-'
	if negative || b[0] == '+' {
		b = b[1:]
	}
	for _, c := range b {
		if v = v*10 + int64(c-'0'); v > 1<<40 {
			v = 1 << 40
		}
	}
	if negative {
		return -v
	}
	return v
}
