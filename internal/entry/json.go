package entry

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"unicode/utf8"
)

// maxRaw bounds raw JSON with its whitespace, before anything is looked at.
const maxRaw = 16 << 20

// appendRaw appends any JSON value, or only an object. depth is that of the value if it is a container; the result
// may not grow beyond limit.
func appendRaw(dst, raw []byte, limit, depth int, object bool) ([]byte, *FieldError) {
	if len(raw) > maxRaw {
		return dst, fault("", -1, fmt.Sprintf("%d bytes of JSON; at most %d", len(raw), maxRaw))
	}
	s := scanner{src: raw, dst: dst, limit: limit, compact: true}
	p := s.skip(0)
	if object && (p >= len(raw) || raw[p] != '{') {
		return dst, fault("", p, "want a JSON object, which begins with {")
	}
	p, err := s.value(p, depth)
	if err != nil {
		return dst, err
	}
	if p = s.skip(p); p != len(raw) {
		return dst, fault("", p, "bytes after the JSON value")
	}
	if s.written(p) > limit {
		return dst, tooLarge()
	}
	return append(s.dst, raw[s.run:]...), nil
}

// scanner checks one JSON value of src. In compact mode it also writes it to dst without whitespace; otherwise whitespace
// is an error.
type scanner struct {
	src     []byte
	compact bool
	dst     []byte
	run     int // src[run:] is not in dst yet
	limit   int

	// Names of the objects that are open, outermost first. The first ones stand in the struct itself, so that a scan
	// usually allocates nothing; append to a slice field would move the whole scanner to the heap.
	count int
	few   [inlineNames]name
	more  []name
}

// name is a member name without its quotes, and 31 bits of hash of its value beside a bit that says it has escapes.
type name struct {
	start, end int32
	hash       uint32
}

const (
	inlineNames = 48
	fewNames    = 32 // up to here each name is compared with those before it
	escapedBit  = 1
)

// skip passes whitespace in compact mode.
func (s *scanner) skip(p int) int {
	if p < len(s.src) && s.src[p] <= ' ' {
		return s.space(p)
	}
	return p
}

func (s *scanner) space(p int) int {
	if !s.compact {
		return p
	}
	from := p
	for p < len(s.src) && (s.src[p] == ' ' || s.src[p] == '\n' || s.src[p] == '\t' || s.src[p] == '\r') {
		p++
	}
	if p > from {
		s.dst = append(s.dst, s.src[s.run:from]...)
		s.run = p
	}
	return p
}

// written is the length of dst once src[:p] is in it.
func (s *scanner) written(p int) int { return len(s.dst) + p - s.run }

func (s *scanner) value(p, depth int) (int, *FieldError) {
	if p >= len(s.src) {
		return p, s.unexpected(p, "a value")
	}
	switch c := s.src[p]; c {
	case '"':
		end, _, err := s.text(p)
		return end, err
	case '{':
		return s.object(p, depth)
	case '[':
		return s.array(p, depth)
	case 't':
		if hasAt(s.src, p, "true") {
			return p + 4, nil
		}
	case 'f':
		if hasAt(s.src, p, "false") {
			return p + 5, nil
		}
	case 'n':
		if hasAt(s.src, p, "null") {
			return p + 4, nil
		}
	default:
		if c == '-' || c-'0' <= 9 {
			return number(s.src, p)
		}
	}
	return p, s.unexpected(p, "a value")
}

func (s *scanner) object(p, depth int) (int, *FieldError) {
	if depth > MaxDepth {
		return p, fault("", p, deepMsg)
	}
	base, seen := s.count, uint64(0)
	if p = s.skip(p + 1); p < len(s.src) && s.src[p] == '}' {
		return p + 1, nil
	}
	for {
		if p >= len(s.src) || s.src[p] != '"' {
			return p, s.unexpected(p, "a member name in quotes")
		}
		end, escaped, err := s.text(p)
		if err != nil {
			return p, err
		}
		if s.compact && s.written(end) > s.limit {
			return p, tooLarge()
		}
		if err = s.addName(base, &seen, p+1, end-1, escaped); err != nil {
			return p, err
		}
		member := s.src[p:end]
		if p = s.skip(end); p >= len(s.src) || s.src[p] != ':' {
			return p, s.unexpected(p, "a colon")
		}
		if p, err = s.value(s.skip(p+1), depth+1); err != nil {
			return p, err.under(pathName(member))
		}
		if p = s.skip(p); p >= len(s.src) || (s.src[p] != ',' && s.src[p] != '}') {
			return p, s.unexpected(p, "a comma or }")
		}
		if s.src[p] == '}' {
			err = s.closeNames(base)
			return p + 1, err
		}
		p = s.skip(p + 1)
	}
}

func (s *scanner) array(p, depth int) (int, *FieldError) {
	if depth > MaxDepth {
		return p, fault("", p, deepMsg)
	}
	if p = s.skip(p + 1); p < len(s.src) && s.src[p] == ']' {
		return p + 1, nil
	}
	for n := 0; ; n++ {
		var err *FieldError
		if p, err = s.value(p, depth+1); err != nil {
			return p, err.under(pathIndex(n))
		}
		if s.compact && s.written(p) > s.limit {
			return p, tooLarge()
		}
		if p = s.skip(p); p >= len(s.src) || (s.src[p] != ',' && s.src[p] != ']') {
			return p, s.unexpected(p, "a comma or ]")
		}
		if s.src[p] == ']' {
			return p + 1, nil
		}
		p = s.skip(p + 1)
	}
}

// text scans the string whose quote is at p.
func (s *scanner) text(p int) (end int, escaped bool, err *FieldError) {
	b := s.src
	for p = plainBytes(b, p+1); p < len(b); p = plainBytes(b, p) {
		switch c := b[p]; {
		case c == '"':
			return p + 1, escaped, nil
		case c == '\\':
			n := escapeAt(b, p)
			if n == 0 {
				return p, escaped, fault("", p, "not an escape of JSON")
			}
			if n < 0 {
				return p, escaped, fault("", p, "half of a surrogate pair; it stands for no character")
			}
			p, escaped = p+n, true
		case c < 0x20:
			return p, escaped, fault("", p, "a control character inside a string; JSON writes it as an escape")
		case c == 0x7f:
			p++
		default:
			for p < len(b) && b[p] >= 0x80 {
				r, n := utf8.DecodeRune(b[p:])
				if r == utf8.RuneError && n == 1 {
					return p, escaped, fault("", p, invalidUTF8)
				}
				p += n
			}
		}
	}
	return p, escaped, fault("", p, "the string does not end")
}

// escapeAt returns the length of the escape at p, surrogate pairs as one; 0 if it is none, -1 for an unpaired surrogate.
func escapeAt(b []byte, p int) int {
	if p+1 >= len(b) {
		return 0
	}
	switch b[p+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
	default:
		return 0
	}
	if !isHex4(b, p+2) {
		return 0
	}
	r := hex4(b, p+2)
	if r < 0xd800 || r > 0xdfff {
		return 6
	}
	if r > 0xdbff || !hasAt(b, p+6, `\u`) || !isHex4(b, p+8) {
		return -1
	}
	if low := hex4(b, p+8); low < 0xdc00 || low > 0xdfff {
		return -1
	}
	return 12
}

func isHex4(b []byte, i int) bool {
	return i+4 <= len(b) && hexValue[b[i]]|hexValue[b[i+1]]|hexValue[b[i+2]]|hexValue[b[i+3]] < 16
}

// addName records a name of the object whose names begin at base, and finds it among few earlier ones. seen has a bit
// for each hash, so that most names are compared with none.
func (s *scanner) addName(base int, seen *uint64, start, end int, escaped bool) *FieldError {
	n := name{start: int32(start), end: int32(end)}
	if escaped {
		var buf [64]byte
		n.hash = shortHash(appendUnescaped(buf[:0], s.src[start:end]), -1) | escapedBit
	} else {
		n.hash = shortHash(s.src[start:], end-start) &^ escapedBit
	}
	if s.count-base < fewNames {
		bit := uint64(1) << (n.hash >> 26)
		if *seen&bit != 0 {
			for i := base; i < s.count; i++ {
				if o := s.nameAt(i); (o.hash^n.hash)&^escapedBit == 0 && s.equal(o, n) {
					return s.duplicate(n)
				}
			}
		}
		*seen |= bit
	}
	if s.count < inlineNames {
		s.few[s.count] = n
	} else {
		s.more = append(s.more[:s.count-inlineNames], n)
	}
	s.count++
	return nil
}

func (s *scanner) nameAt(i int) name {
	if i < inlineNames {
		return s.few[i]
	}
	return s.more[i-inlineNames]
}

// closeNames forgets the names from base on. An object of many members is searched for duplicates only here, by
// sorting: the scan stays O(n log n).
func (s *scanner) closeNames(base int) *FieldError {
	count := s.count
	s.count = base
	if count-base <= fewNames {
		return nil
	}
	return s.sortNames(base, count)
}

func (s *scanner) sortNames(base, count int) *FieldError {
	scratch := sortScratch.Get().(*[]uint64)
	defer sortScratch.Put(scratch)
	keys := (*scratch)[:0]
	var buf [64]byte
	for i := base; i < count; i++ {
		n := s.nameAt(i)
		body := s.src[n.start:n.end]
		if n.hash&escapedBit != 0 {
			body = appendUnescaped(buf[:0], body)
		}
		// The seed is the process's own, so that nobody can choose names whose hashes are equal.
		keys = append(keys, maphash.Bytes(hashSeed, body)&^(1<<indexBits-1)|uint64(i))
	}
	slices.Sort(keys)
	*scratch = keys
	for i := 1; i < len(keys); i++ {
		for j := i - 1; j >= 0 && keys[j]>>indexBits == keys[i]>>indexBits; j-- {
			a, b := s.nameAt(int(keys[j]&(1<<indexBits-1))), s.nameAt(int(keys[i]&(1<<indexBits-1)))
			if s.equal(a, b) {
				return s.duplicate(b)
			}
		}
	}
	return nil
}

// indexBits hold the number of a name: maxRaw bytes have fewer.
const indexBits = 24

var (
	hashSeed    = maphash.MakeSeed()
	sortScratch = sync.Pool{New: func() any { return new([]uint64) }}
)

func (s *scanner) equal(a, b name) bool {
	x, y := s.src[a.start:a.end], s.src[b.start:b.end]
	var bufX, bufY [64]byte
	if a.hash&escapedBit != 0 {
		x = appendUnescaped(bufX[:0], x)
	}
	if b.hash&escapedBit != 0 {
		y = appendUnescaped(bufY[:0], y)
	}
	return string(x) == string(y)
}

func (s *scanner) duplicate(n name) *FieldError {
	e := fault("", int(n.start)-1, "this member name stands twice in one object")
	return e.under(pathName(s.src[n.start-1 : n.end+1]))
}

// shortHash is a weak hash of the length and of the first and last eight bytes of b[:size], or of b if size is -1.
// What follows size may be read but does not count.
func shortHash(b []byte, size int) uint32 {
	const k = 0x9e3779b97f4a7c15
	if size < 0 {
		size = len(b)
	}
	h := uint64(size)
	switch {
	case size >= 8:
		h = (h ^ binary.LittleEndian.Uint64(b)) * k
		h ^= binary.LittleEndian.Uint64(b[size-8:])
	case len(b) >= 8:
		h ^= binary.LittleEndian.Uint64(b) & (1<<(8*size) - 1) << 8
	default:
		for i := range size {
			h ^= uint64(b[i]) << (8 * i) << 8
		}
	}
	return uint32((h * k) >> 32)
}

const deepMsg = "nesting deeper than 128"

func (s *scanner) unexpected(p int, want string) *FieldError {
	if p >= len(s.src) {
		return fault("", p, "the JSON ends where "+want+" should be")
	}
	c := s.src[p]
	if !s.compact && (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
		return fault("", p, "whitespace outside a string; a line of this format has none")
	}
	return fault("", p, fmt.Sprintf("want %s, not %q", want, c))
}

// pathName is a member name, given with its quotes, as part of a path.
func pathName(member []byte) string {
	body := string(appendUnescaped(nil, member[1:len(member)-1]))
	return pathKey(body)
}

// pathKey keeps a path printable and short.
func pathKey(key string) string {
	plain := key != "" && len(key) <= 64
	for i := 0; plain && i < len(key); i++ {
		c := key[i]
		plain = c == '_' || c == '-' || c-'0' <= 9 || c|0x20-'a' < 26
	}
	if plain {
		return key
	}
	if len(key) > 64 {
		return quoted(key[:64]) + "…"
	}
	return quoted(key)
}

func pathIndex(n int) string { return "[" + string(appendUint(nil, uint64(n))) + "]" }
