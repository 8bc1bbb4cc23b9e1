package query

import (
	"strconv"
	"strings"
)

// Decimal is an exact decimal number: 0.Digits × 10^Exp. Digits has no leading and no trailing zeros; zero has none, and
// is not negative. Two numbers of one value are equal structs.
type Decimal struct {
	Negative bool
	Digits   string
	Exp      int64
}

// maxExponent is the largest exponent of a number other than zero that counts as one.
const maxExponent = 1 << 40

// ParseDecimal reads a number as JSON spells it, of any length. It takes time and memory in proportion to its digits,
// whatever the exponent.
func ParseDecimal(s string) (Decimal, bool) {
	var d Decimal
	rest, negative := strings.CutPrefix(s, "-")
	whole := digits(rest)
	if whole == 0 || whole > 1 && rest[0] == '0' {
		return d, false
	}
	mantissa, exp := rest[:whole], int64(whole)
	rest = rest[whole:]
	if strings.HasPrefix(rest, ".") {
		n := digits(rest[1:])
		if n == 0 {
			return d, false
		}
		mantissa += rest[1 : 1+n]
		rest = rest[1+n:]
	}
	if rest != "" {
		if rest[0]|0x20 != 'e' {
			return d, false
		}
		e, ok := exponent(rest[1:])
		if !ok {
			return d, false
		}
		exp += e
		if e > maxExponent || e < -maxExponent {
			return d, strings.Trim(mantissa, "0") == ""
		}
	}
	significant := strings.TrimLeft(mantissa, "0")
	exp -= int64(len(mantissa) - len(significant))
	if significant = strings.TrimRight(significant, "0"); significant == "" {
		return d, true
	}
	return Decimal{negative, significant, exp}, true
}

func digits(s string) (n int) {
	for n < len(s) && s[n]-'0' <= 9 {
		n++
	}
	return n
}

// exponent reads what follows the e.
func exponent(s string) (int64, bool) {
	negative := strings.HasPrefix(s, "-")
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	if s == "" || digits(s) != len(s) {
		return 0, false
	}
	v := int64(maxExponent + 1)
	if t := strings.TrimLeft(s, "0"); len(t) <= 13 {
		n, _ := strconv.ParseInt("0"+t, 10, 64) // digits only, of which thirteen fit
		v = min(n, v)
	}
	if negative {
		return -v, true
	}
	return v, true
}

// Cmp is -1, 0 or 1 as d is below, equal to or above o.
func (d Decimal) Cmp(o Decimal) int {
	switch {
	case d == o:
		return 0
	case d.Negative != o.Negative:
		return sign(!d.Negative)
	case d.Digits == "" || o.Digits == "": // neither is negative
		return sign(o.Digits == "")
	}
	above := d.Exp > o.Exp
	if d.Exp == o.Exp {
		above = d.Digits > o.Digits // 0.12 is above 0.1, as text is
	}
	return sign(above != d.Negative)
}

func sign(above bool) int {
	if above {
		return 1
	}
	return -1
}
