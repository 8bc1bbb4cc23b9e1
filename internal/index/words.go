package index

import (
	"unicode/utf8"
)

// A token is what the hashed index holds of a text. Its hash is FNV-1a (64 bits) over its kind and its bytes, mixed, of which
// the upper 40 bits count. Part of the format; never change.
type tokenKind byte

const (
	wordToken  tokenKind = 1 // a word
	valueToken tokenKind = 2 // a whole metadata value, folded: see wholeValue
	quadToken  tokenKind = 3 // four short numbers in a row, such as an address: their words, each ended by a zero byte
	// Whole values of members that are not texts, folded.
	hostToken  tokenKind = 4
	pidToken   tokenKind = 5
	traceToken tokenKind = 6
	spanToken  tokenKind = 7
	// Entries of which the shape does not tell the message ("m"), or the paths ("k").
	unknownToken tokenKind = 8
)

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func (k tokenKind) seed() uint64 { return (fnvOffset ^ uint64(k)) * fnvPrime }

func finish(h uint64) uint64 {
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return h >> (64 - hashBits)
}

func addBytes[T string | []byte](h uint64, b T) uint64 {
	for i := range len(b) {
		h = (h ^ uint64(b[i])) * fnvPrime
	}
	return h
}

// hashFolded is the hash of a token of that kind whose bytes are text, folded.
func hashFolded[T string | []byte](k tokenKind, text T) uint64 {
	h := k.seed()
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			h = (h ^ uint64(c)) * fnvPrime
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
		h = addRune(h, FoldRune(r))
		i += n
	}
	return finish(h)
}

func addRune(h uint64, r rune) uint64 {
	var b [utf8.UTFMax]byte
	n := utf8.EncodeRune(b[:], r)
	for _, c := range b[:n] {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return h
}

// A word is one of a text.
type word struct {
	hash     uint64
	from, to int32 // in the text
	size     int32 // bytes, folded
	digit    bool  // it has an ASCII digit
	short    bool  // it is one to three ASCII digits
}

// appendWords splits a text, and appends its words.
func appendWords(dst []word, text []byte) []word {
	for i := 0; i < len(text); {
		from, wide := i, 0
		h, classes := wordToken.seed(), uint16(0)
		for i < len(text) {
			c := asciiWords[text[i]]
			if c != 0 {
				classes |= c
				h = (h ^ uint64(uint8(c))) * fnvPrime
				i++
				continue
			}
			if text[i] < utf8.RuneSelf {
				break
			}
			r, n := utf8.DecodeRune(text[i:])
			if !IsWord(r) {
				break
			}
			r = FoldRune(r)
			h = addRune(h, r)
			classes |= otherClass
			wide += utf8.RuneLen(r) - n
			i += n
		}
		if i > from {
			dst = append(dst, word{
				hash: finish(h), from: int32(from), to: int32(i), size: int32(i - from + wide),
				digit: classes&digitClass != 0, short: classes&otherClass == 0 && i-from <= 3,
			})
			if i == len(text) {
				break
			}
		}
		if text[i] < utf8.RuneSelf {
			i++
			continue
		}
		_, n := utf8.DecodeRune(text[i:])
		i += n
	}
	return dst
}

// What a character of words is, above its folded byte in asciiWords.
const (
	digitClass = 1 << 8
	otherClass = 1 << 9
)

// asciiWords has each ASCII character of words, folded, and its class; 0 for other bytes.
var asciiWords = func() (table [256]uint16) {
	for c := range byte(utf8.RuneSelf) {
		switch f := asciiWord(c); {
		case f == 0:
		case f <= '9':
			table[c] = uint16(f) | digitClass
		default:
			table[c] = uint16(f) | otherClass
		}
	}
	return table
}()

// quad is the hash of four short words in a row; ok is false if they are not short.
func quad(text []byte, w []word) (hash uint64, ok bool) {
	if len(w) < 4 || !w[0].short || !w[1].short || !w[2].short || !w[3].short {
		return 0, false
	}
	h := quadToken.seed()
	for i := range w[:4] {
		h = addBytes(h, text[w[i].from:w[i].to]) * fnvPrime
	}
	return finish(h), true
}

// maxValue bounds the bytes of a value, folded, with a token of its own.
const maxValue = 64

// wholeValue says whether a metadata value has a token of its own: one whose words are too short to tell it from others, and which
// has no quad.
func wholeValue(text []byte, words []word) bool {
	if len(text) == 0 || len(words) == 1 {
		return false
	}
	for i := range words {
		if words[i].size > 4 {
			return false
		}
		if _, ok := quad(text, words[i:]); ok {
			return false
		}
	}
	return foldedSize(text) <= maxValue
}

// foldedSize is how many bytes a text has, folded; of long texts, more than maxValue.
func foldedSize(text []byte) int {
	if len(text) > utf8.UTFMax*maxValue {
		return len(text)
	}
	n := 0
	for _, r := range string(text) {
		n += utf8.RuneLen(FoldRune(r))
	}
	return n
}

// tokens calls add for each token of a text; those of a metadata value if value is set. words is scratch, and returned.
func tokens(words []word, text []byte, value bool, add func(hash uint64)) []word {
	words = appendWords(words[:0], text)
	for i := range words {
		add(words[i].hash)
		if words[i].short {
			if h, ok := quad(text, words[i:]); ok {
				add(h)
			}
		}
	}
	if value && wholeValue(text, words) {
		add(hashFolded(valueToken, text))
	}
	return words
}
