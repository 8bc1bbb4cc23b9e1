package entry

import "math/bits"

// firstByte is the number of the lowest byte with its high bit set.
func firstByte(mask uint64) int { return bits.TrailingZeros64(mask) >> 3 }

// isSpecial is special for one byte.
var isSpecial = func() (t [256]bool) {
	for c := range t {
		t[c] = c < 0x20 || c == '"' || c == '\\' || c >= 0x7f
	}
	return t
}()

// hexValue is the value of a hex digit in either case, else 0xff.
var hexValue = func() (t [256]byte) {
	for c := range t {
		t[c] = 0xff
	}
	for v, c := range hexDigits {
		t[c] = byte(v)
		if c >= 'a' {
			t[c-'a'+'A'] = byte(v)
		}
	}
	return t
}()

// hex4 is the value of four hex digits that are known to be there.
func hex4(b []byte, i int) rune {
	return rune(hexValue[b[i]])<<12 | rune(hexValue[b[i+1]])<<8 | rune(hexValue[b[i+2]])<<4 | rune(hexValue[b[i+3]])
}

// hexText is the eight lower-case hex digits of v, first digit in the lowest byte.
func hexText(v uint32) uint64 {
	x := uint64(bits.ReverseBytes32(v))
	x = (x | x<<16) & 0x0000ffff0000ffff
	x = (x | x<<8) & 0x00ff00ff00ff00ff
	return hexCharacters((x>>4 | x<<8) & (ones * 15))
}

// hexCharacters turns eight values below 16 into their digits.
func hexCharacters(x uint64) uint64 {
	letters := ((x + ones*6) >> 4) & ones
	return x + ones*'0' + letters*('a'-'0'-10)
}

// unhex is the inverse of hexText; ok is false for what hexText does not make.
func unhex(text uint64) (v uint32, ok bool) {
	x := (text&(ones*15) + text>>6&ones*9) & (ones * 15)
	ok = hexCharacters(x) == text
	x = (x<<4 | x>>8) & 0x00ff00ff00ff00ff
	x = (x | x>>8) & 0x0000ffff0000ffff
	return bits.ReverseBytes32(uint32(x | x>>16)), ok
}

// hasAt reports whether literal stands at p.
func hasAt(b []byte, p int, literal string) bool {
	return len(b)-p >= len(literal) && string(b[p:p+len(literal)]) == literal
}

func appendUint(dst []byte, v uint64) []byte {
	var buf [20]byte
	i := len(buf)
	for v >= 10 {
		i--
		buf[i] = byte('0' + v%10)
		v /= 10
	}
	i--
	buf[i] = byte('0' + v)
	return append(dst, buf[i:]...)
}

// lowerHex is the value of a lower-case hex digit, else 0xff.
var lowerHex = func() (t [256]byte) {
	t = hexValue
	for c := 'A'; c <= 'F'; c++ {
		t[c] = 0xff
	}
	return t
}()
