package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	searchMagic = "immutable/search/1\n"
	pageSize    = 4096
	blockGroups = 16 // groups of a stream that begin at a whole byte
	searchFixed = len(searchMagic) + 8 + 7*4
)

// Finish is the file of the index and the SHA-256 of its table of page digests, which is its end. The Builder is of no further use.
// It panics when the last group is not whole.
func (b *Builder) Finish() (data []byte, table [sha256.Size]byte) {
	if b.first%GroupSize != 0 || b.lines%GroupSize != 0 || b.lines == 0 {
		panic(fmt.Sprintf("index: search index of %d entries from %d on: a segment holds whole groups", b.lines, b.first))
	}
	b.endEpoch()
	covered := uint32(len(b.times))
	le := binary.LittleEndian
	data = append(data, searchMagic...)
	data = le.AppendUint64(data, b.first)
	data = le.AppendUint32(data, uint32(b.lines/GroupSize))
	data = le.AppendUint32(data, covered)
	data = le.AppendUint32(data, b.flags())
	data = append(data, make([]byte, 16)...) // lengths, below
	data = b.appendHead(data)
	le.PutUint32(data[searchFixed-16:], uint32(len(data)-searchFixed))
	at := len(data)
	data = b.appendStreams(data)
	le.PutUint32(data[searchFixed-12:], uint32(len(data)-at))
	at = len(data)
	b.dictionaryTokens(covered)
	data, keys := appendHashed(data, sortPairs(b.pairs, make([]pair, len(b.pairs))), covered+1)
	le.PutUint32(data[searchFixed-8:], keys)
	le.PutUint32(data[searchFixed-4:], uint32(len(data)-at))
	pages := len(data)
	for from := 0; from < pages; from += pageSize {
		sum := sha256.Sum256(data[from:min(from+pageSize, pages)])
		data = append(data, sum[:]...)
	}
	return data, sha256.Sum256(data[pages:])
}

// Flags of a search index.
const (
	hasLoose  = 1 << iota // some group is loose
	hasDotted             // some member's name is empty or has a dot in it
)

func (b *Builder) flags() uint32 {
	return uint32(b2i(len(b.loose) > 0)*hasLoose | b2i(b.walker.dotted)*hasDotted)
}

// dictionaryTokens notes the tokens of templates and columns under the group after the last: a token without it is in neither.
func (b *Builder) dictionaryTokens(group uint32) {
	b.values.reset()
	add := func(hash uint64) {
		if b.values.add(hash) != tokenThere {
			b.pairs = append(b.pairs, pair(hash<<groupBits|uint64(group)))
		}
	}
	for i := range b.shapes {
		eachLiteral(b.shapes[i].message, func(text []byte) { b.words = tokens(b.words, text, false, add) })
	}
	for _, p := range b.paths {
		for _, tuple := range p.tuples {
			eachValue([]byte(tuple), func(text []byte, k Kind) { b.words = b.each(p.kind, text, k, add) })
		}
	}
}

// eachLiteral visits the texts between a template's slots.
func eachLiteral(template []byte, visit func(text []byte)) {
	for part := range bytes.SplitSeq(template, []byte(slot)) {
		visit(bytes.ReplaceAll(part, []byte(notSlot), []byte{0}))
	}
}

// appendHead appends what is read when the file is opened: the groups' times, and the dictionaries.
func (b *Builder) appendHead(dst []byte) []byte {
	last := int64(0)
	for _, t := range b.times {
		dst = binary.AppendVarint(dst, t[0]-last)
		dst = binary.AppendUvarint(dst, uint64(t[1]-t[0]))
		last = t[1]
	}
	dst = binary.AppendUvarint(dst, uint64(b.loose.Len()))
	next := uint32(0)
	for g := range b.loose.All() {
		dst = binary.AppendUvarint(dst, uint64(g-next))
		next = g + 1
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.paths)))
	for _, p := range b.paths {
		dst = p.append(dst)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.keySets)-1))
	for _, set := range b.keySets[1:] {
		dst = binary.AppendUvarint(dst, uint64(len(set)))
		next := uint16(0)
		for _, id := range set {
			dst = binary.AppendUvarint(dst, uint64(id-next))
			next = id + 1
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.shapes)))
	for i := range b.shapes {
		s := &b.shapes[i]
		dst = append(dst, byte(s.level))
		dst = binary.AppendUvarint(dst, uint64(s.keys))
		dst = binary.AppendUvarint(dst, uint64(s.count))
		if !s.known {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(s.message))+1)
		dst = append(dst, s.message...)
	}
	return dst
}

func (p *builtPath) append(dst []byte) []byte {
	dst = append(dst, p.kind)
	dst = binary.AppendUvarint(dst, uint64(len(p.name)))
	dst = append(dst, p.name...)
	if p.column {
		dst = append(dst, 1)
		dst = binary.AppendUvarint(dst, uint64(len(p.tuples)))
		for i, tuple := range p.tuples {
			dst = binary.AppendUvarint(dst, uint64(p.counts[i]))
			dst = binary.AppendUvarint(dst, uint64(len(tuple)))
			dst = append(dst, tuple...)
		}
		return dst
	}
	dst = append(dst, 0, byte(b2i(p.wide)|b2i(p.nulls)<<1))
	dst = binary.LittleEndian.AppendUint64(dst, p.chars[0])
	dst = binary.LittleEndian.AppendUint64(dst, p.chars[1])
	return binary.AppendUvarint(dst, uint64(p.longest))
}

// appendStreams appends the shape of each entry, and for each column the tuples of the entries that have its path: in blocks of
// blockGroups groups, before them where each begins.
func (b *Builder) appendStreams(dst []byte) []byte {
	var columns []*builtPath
	inColumn := make([]int, len(b.paths)) // its number plus one
	for i, p := range b.paths {
		if p.column {
			columns = append(columns, p)
			inColumn[i] = len(columns)
		}
	}
	blocks := (len(b.times) + blockGroups - 1) / blockGroups
	starts := len(dst)
	dst = append(dst, make([]byte, 4*(blocks*(len(columns)+1)+1))...)
	w := bitWriter{buf: dst}
	data, n := len(dst), 0
	begin := func() {
		w.align()
		binary.LittleEndian.PutUint32(w.buf[starts+4*n:], uint32(len(w.buf)-data))
		n++
	}
	counts := make([]uint32, len(b.shapes))
	for i := range b.shapes {
		counts[i] = b.shapes[i].count
	}
	lengths := codeLengths(counts)
	words := codeWords(lengths)
	const blockLines = blockGroups * GroupSize
	for i, id := range b.shapeOf {
		if i%blockLines == 0 {
			begin()
		}
		w.put(uint64(words[id]), uint(lengths[id]))
	}
	for c, p := range columns {
		has := make([]bool, len(b.keySets))
		for k, set := range b.keySets {
			for _, id := range set {
				has[k] = has[k] || inColumn[id] == c+1
			}
		}
		lengths := codeLengths(p.counts)
		words := codeWords(lengths)
		next := 0
		for i, id := range b.shapeOf {
			if i%blockLines == 0 {
				begin()
			}
			if has[b.shapes[id].keys] {
				v := p.of[next]
				next++
				w.put(uint64(words[v]), uint(lengths[v]))
			}
		}
	}
	begin()
	return w.buf
}
