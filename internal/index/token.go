package index

import (
	"bytes"
	"iter"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// The texts of an entry are its decoded message and every scalar value in its metadata: strings decoded, numbers as
// spelled, true and false. null, member names and the other members are not texts.
//
// A word is a maximal run of letters, marks and numbers (Unicode categories L, M and N) and '_' in a text, folded.
// Everything in this file is part of the format of the search index; never change what it yields.

// Kind is what a metadata value is in JSON.
type Kind uint8

const (
	String Kind = iota
	Number
	Bool
	Null
	empty // an object or array without members; only a search index asks for these
)

// FoldRune is the smallest rune that differs from r in case only (unicode.SimpleFold's orbit, Unicode 15.0.0), with A to Z
// written a to z.
func FoldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}
	lo, hi := 0, len(foldRanges)
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); foldRanges[m][1] < r {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(foldRanges) {
		if f := &foldRanges[lo]; r >= f[0] && (r-f[0])%f[3] == 0 {
			return r + f[2]
		}
	}
	return r
}

// IsWord says whether words consist of r.
func IsWord(r rune) bool {
	if r < utf8.RuneSelf {
		return asciiWord(byte(r)) != 0
	}
	lo, hi := 0, len(wordRanges)
	for lo < hi {
		if m := int(uint(lo+hi) >> 1); wordRanges[m][1] < r {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo < len(wordRanges) && r >= wordRanges[lo][0]
}

// asciiWord is c folded if words consist of it, else 0.
func asciiWord(c byte) byte {
	switch {
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
		return c
	case 'A' <= c && c <= 'Z':
		return c + ('a' - 'A')
	}
	return 0
}

// AppendFold appends s with each rune folded. Bytes that are not UTF-8 become U+FFFD.
func AppendFold[T string | []byte](dst []byte, s T) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		dst = utf8.AppendRune(dst, FoldRune(r))
		i += n
	}
	return dst
}

// Fold is s with each rune folded: two texts that differ in case only have the same Fold.
func Fold(s string) string { return string(AppendFold(nil, s)) }

// NextWord appends the first word of text from offset i on to dst, folded, and returns where the word ends in text. There is
// none if nothing was appended.
func NextWord[T string | []byte](dst []byte, text T, i int) ([]byte, int) {
	from := len(dst)
	for i < len(text) {
		c := text[i]
		if c < utf8.RuneSelf {
			if f := asciiWord(c); f != 0 {
				dst = append(dst, f)
			} else if len(dst) > from {
				return dst, i
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
		if IsWord(r) {
			dst = utf8.AppendRune(dst, FoldRune(r))
		} else if len(dst) > from {
			return dst, i
		}
		i += n
	}
	return dst, i
}

// Words yields the folded words of a text in order.
func Words(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		var buf []byte
		for i := 0; i < len(text); {
			if buf, i = NextWord(buf[:0], text, i); len(buf) > 0 && !yield(string(buf)) {
				return
			}
		}
	}
}

// A Walker visits the values of metadata objects. Its zero value is ready; it keeps buffers from one object to the next.
type Walker struct {
	path, text []byte
	empties    bool // containers without members are visited too
	dotted     bool // some member's name was empty or had a dot in it: paths do not tell where objects nest
}

// Walk calls visit for each scalar value in a metadata object that entry.Decode has accepted, in the order of the text.
// path is the decoded member names joined by '.'; the elements of an array have the array's path. text is the decoded
// string, the number as spelled, true, false or null. Both are valid during the call only. Walk returns false when visit
// did, or where the object is not one that Decode accepts.
func (w *Walker) Walk(metadata []byte, visit func(path, text []byte, kind Kind) bool) bool {
	w.path = w.path[:0]
	end, ok := w.value(metadata, 0, 0, visit)
	return ok && end == len(metadata)
}

// value visits the value at p and returns where it ends.
func (w *Walker) value(b []byte, p, depth int, visit func(path, text []byte, kind Kind) bool) (int, bool) {
	if p >= len(b) || depth > entry.MaxDepth {
		return p, false
	}
	switch c := b[p]; c {
	case '{', '[':
		return w.container(b, p, depth, visit)
	case '"':
		text, end, ok := w.str(b, p)
		return end, ok && visit(w.path, text, String)
	default:
		end := p
		for end < len(b) && b[end] != ',' && b[end] != '}' && b[end] != ']' {
			end++
		}
		kind := Number
		switch c {
		case 't', 'f':
			kind = Bool
		case 'n':
			kind = Null
		}
		return end, end > p && visit(w.path, b[p:end], kind)
	}
}

func (w *Walker) container(b []byte, p, depth int, visit func(path, text []byte, kind Kind) bool) (int, bool) {
	object := b[p] == '{'
	closing := byte(']')
	if object {
		closing = '}'
	}
	outer := len(w.path)
	if p++; p < len(b) && b[p] == closing {
		return p + 1, !w.empties || depth == 0 || visit(w.path, nil, empty)
	}
	for p < len(b) {
		var ok bool
		if object {
			if b[p] != '"' {
				return p, false
			}
			var name []byte
			if name, p, ok = w.str(b, p); !ok || p >= len(b) || b[p] != ':' {
				return p, false
			}
			p++
			w.dotted = w.dotted || len(name) == 0 || bytes.IndexByte(name, '.') >= 0
			if outer > 0 {
				w.path = append(w.path, '.')
			}
			w.path = append(w.path, name...)
		}
		p, ok = w.value(b, p, depth+1, visit)
		w.path = w.path[:outer]
		if !ok || p >= len(b) {
			return p, false
		}
		switch b[p] {
		case ',':
			p++
		case closing:
			return p + 1, true
		default:
			return p, false
		}
	}
	return p, false
}

// str reads the string at p, whose first byte is its quote.
func (w *Walker) str(b []byte, p int) (text []byte, end int, ok bool) {
	escaped := false
	for end = p + 1; end < len(b) && b[end] != '"'; end++ {
		if b[end] == '\\' {
			escaped = true
			end++
		}
	}
	if end >= len(b) {
		return nil, end, false
	}
	end++
	if !escaped {
		return b[p+1 : end-1], end, true
	}
	s, err := entry.Unquote(b[p:end])
	w.text = append(w.text[:0], s...)
	return w.text, end, err == nil
}

// Text is the decoded value of a JSON string as entry.Line holds it, quotes included. It is valid until the next call of a
// method of w.
func (w *Walker) Text(quoted []byte) ([]byte, bool) {
	if len(quoted) == 0 || quoted[0] != '"' {
		return nil, false
	}
	text, end, ok := w.str(quoted, 0)
	return text, ok && end == len(quoted)
}
