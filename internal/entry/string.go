package entry

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// AppendString appends s as a JSON string in the spelling that the format prescribes for message, hostname and
// idempotencyKey. It refuses invalid UTF-8; dst is then returned as it was.
func AppendString(dst []byte, s string) ([]byte, error) {
	out, bad := appendQuoted(dst, s)
	if bad >= 0 {
		return dst, fault("", bad, invalidUTF8)
	}
	return out, nil
}

const hexDigits = "0123456789abcdef"

// appendQuoted returns the offset of the first byte of s that is not UTF-8, or -1.
func appendQuoted(dst []byte, s string) ([]byte, int) {
	dst = append(dst, '"')
	done := 0
	for i := plainString(s, 0); i < len(s); {
		c, n := rune(s[i]), 1
		if c >= 0x80 {
			c, n = utf8.DecodeRuneInString(s[i:])
			if c == utf8.RuneError && n == 1 {
				return dst, i
			}
		}
		if c > 0x9f {
			i += n
			if i < len(s) && s[i] < 0x80 {
				i = plainString(s, i)
			}
			continue
		}
		dst = append(dst, s[done:i]...)
		dst = appendEscape(dst, byte(c))
		done = i + n
		i = plainString(s, done)
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"'), -1
}

// appendEscape appends the one escape of a character that has one.
func appendEscape(dst []byte, c byte) []byte {
	if e := shortEscape(c); e != 0 {
		return append(dst, '\\', e)
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

func shortEscape(c byte) byte {
	switch c {
	case '"', '\\':
		return c
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	}
	return 0
}

// Unquote returns the value of a valid JSON string, quotes included. It refuses what RFC 8259 refuses, unpaired
// surrogate escapes and invalid UTF-8.
func Unquote(raw []byte) (string, error) {
	s := scanner{src: raw}
	if len(raw) == 0 || raw[0] != '"' {
		return "", fault("", 0, "want a JSON string, which begins with a quote")
	}
	end, escaped, err := s.text(0)
	if err != nil {
		return "", err
	}
	if end != len(raw) {
		return "", fault("", end, "bytes after the JSON string")
	}
	if !escaped {
		return string(raw[1 : end-1]), nil
	}
	return string(appendUnescaped(make([]byte, 0, len(raw)), raw[1:end-1])), nil
}

// Text is Unquote for a string of a line that was decoded.
func Text(raw []byte) string {
	body := raw[1 : len(raw)-1]
	if bytes.IndexByte(body, '\\') < 0 {
		return string(body)
	}
	return string(appendUnescaped(make([]byte, 0, len(raw)), body))
}

// appendUnescaped appends the value of the inside of a valid JSON string.
func appendUnescaped(dst, body []byte) []byte {
	for i := 0; i < len(body); {
		c := body[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		c = body[i+1]
		i += 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(body, i)
			i += 4
			if r >= 0xd800 && r < 0xdc00 {
				r = 0x10000 + (r-0xd800)<<10 + (hex4(body, i+2) - 0xdc00)
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// canonical scans one of our own strings, which begins with a quote at p: its end and its decoded length.
func canonical(line []byte, p int) (end, decoded int, err *FieldError) {
	if p >= len(line) || line[p] != '"' {
		return 0, 0, fault("", p, "want a string")
	}
	first := p + 1
	extra := 0 // bytes of spelling that are not bytes of value
	for p = plainBytes(line, first); p < len(line); p = plainBytes(line, p) {
		switch c := line[p]; {
		case c == '"':
			return p + 1, p - first - extra, nil
		case c == '\\':
			n, x := canonicalEscape(line, p)
			if n == 0 {
				return 0, 0, fault("", p, "an escape that this format does not use here; each character has one spelling")
			}
			p, extra = p+n, extra+x
		case c >= 0x80:
			r, n := utf8.DecodeRune(line[p:])
			if r == utf8.RuneError && n == 1 {
				return 0, 0, fault("", p, "invalid UTF-8")
			}
			if r <= 0x9f {
				return 0, 0, fault("", p, "a control character that must be escaped")
			}
			p += n
			for p < len(line) && line[p] > 0xc2 {
				r, n := utf8.DecodeRune(line[p:])
				if r == utf8.RuneError && n == 1 {
					return 0, 0, fault("", p, "invalid UTF-8")
				}
				p += n
			}
		default:
			return 0, 0, fault("", p, "a control character that must be escaped")
		}
	}
	return 0, 0, fault("", len(line), "the string does not end")
}

// canonicalEscape returns the length of the escape at p, 0 if appendEscape does not make it, and by how many bytes it
// is longer than its value.
func canonicalEscape(line []byte, p int) (n, extra int) {
	if p+1 >= len(line) {
		return 0, 0
	}
	switch line[p+1] {
	case '"', '\\', 'b', 't', 'n', 'f', 'r':
		return 2, 1
	case 'u':
	default:
		return 0, 0
	}
	if p+6 > len(line) || line[p+2] != '0' || line[p+3] != '0' {
		return 0, 0
	}
	hi, lo := line[p+4], line[p+5]
	if lowerHex[hi] > 15 || lowerHex[lo] > 15 {
		return 0, 0
	}
	c := hexValue[hi]<<4 | hexValue[lo]
	switch {
	case c < 0x20 && shortEscape(c) == 0, c == 0x7f:
		return 6, 5
	case c > 0x7f && c <= 0x9f:
		return 6, 4
	}
	return 0, 0
}

// Eight bytes at a time: special has the high bit of a byte set if the byte is a quote, a backslash, below 0x20 or above
// 0x7e. Borrows only disturb bytes above such a byte, so the lowest set bit is always right.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

func special(x uint64) uint64 {
	return (x | (x - ones*0x20) | ((x ^ ones*'"') - ones) | ((x ^ ones*'\\') - ones) | ((x ^ ones*0x7f) - ones)) & highs
}

// plainBytes returns the offset of the first special byte from i on, or the length.
func plainBytes(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + firstByte(m)
		}
	}
	for i < len(b) && !isSpecial[b[i]] {
		i++
	}
	return i
}

func plainString(s string, i int) int {
	for ; i+8 <= len(s); i += 8 {
		w := s[i : i+8]
		x := uint64(w[0]) | uint64(w[1])<<8 | uint64(w[2])<<16 | uint64(w[3])<<24 |
			uint64(w[4])<<32 | uint64(w[5])<<40 | uint64(w[6])<<48 | uint64(w[7])<<56
		if m := special(x); m != 0 {
			return i + firstByte(m)
		}
	}
	for i < len(s) && !isSpecial[s[i]] {
		i++
	}
	return i
}

func quoted(s string) string { return strconv.QuoteToASCII(s) }
