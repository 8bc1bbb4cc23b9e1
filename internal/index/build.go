package index

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// What a search index holds is bounded, whatever the entries are; what exceeds a bound is searched in the entries. Part of the
// format; never change.
const (
	coveredGroups = 1 << 16  // further groups are not indexed
	epochGroups   = 64       // groups whose messages are cut into shapes together
	epochText     = 1 << 20  // or as many as have so many bytes of message
	maxPairs      = 6 << 20  // tokens of groups
	groupTokens   = 1 << 16  // different tokens of one group
	maxPaths      = 1024     // of metadata, different ones
	pathBytes     = 64 << 10 // of all their names
	nameBytes     = 1 << 10  // of one
	maxColumns    = 64
	columnValues  = 250
	columnBytes   = 16 << 10  // of all values of one column
	dictBytes     = 256 << 10 // of all columns
	tupleBytes    = 256
	maxKeySets    = 2048
	keySetPaths   = 64 << 10 // of all sets together
	textShapes    = 4096     // with a message
	textBytes     = 256 << 10
	templateBytes = 1 << 10 // of one message, and of its template
	maxShapes     = 8192    // also those without; and one more a level
	shapeRepeats  = 4       // how often a message's shape occurs in its epoch at least
)

// The kinds of a path: where it leads to.
const (
	inMetadata  = 'm'
	hostname    = 'h'
	processID   = 'p'
	traceID     = 't'
	spanID      = 's'
	eventTime   = 'e' // this and the next are only known to be there
	idempotency = 'k'
	producer    = 'P'
	control     = 'c'
)

// A Builder makes the search index of a segment from its entries in order. Its memory is bounded by the constants above and
// some bytes an entry.
type Builder struct {
	first  uint64
	lines  uint64
	times  [][2]int64 // lowest and highest timestamp of each group
	pairs  []pair
	loose  Set      // groups of which not all tokens are in pairs
	values tokenSet // of the group that is being read
	words  []word
	walker Walker

	paths   []*builtPath
	pathIDs map[string]uint16 // kind and name
	last    uint16            // the path that came last
	columns int
	dict    int // bytes of all columns' values
	names   int // bytes of all paths' names
	touched []uint16
	opaque  bool // the present entry has a path that is not in paths
	key     []byte

	keySets   []keySet // the first stands for all that are not known
	keySetIDs map[string]uint16
	setPaths  int

	held epoch

	shapes   []builtShape
	shapeIDs map[string]uint16
	texts    int // shapes with a message
	textSize int
	shapeOf  []uint16 // of each entry
}

type keySet []uint16

type builtShape struct {
	level   entry.Level
	message []byte // template; nil if it is not known
	known   bool
	keys    uint16
	count   uint32
}

// A builtPath is a place in entries. As long as it has few values they are a column, which says for each entry with this path
// what stands there: a tuple, since arrays have several. Once it has many its tokens are in pairs.
type builtPath struct {
	kind   byte
	name   string
	column bool
	next   uint16 // the path that came after it the last time
	ids    map[string]uint8
	recent [32]uint8 // tuples that came before, by a hash of theirs, plus one
	tuples []string
	where  []Set // the groups of each tuple, to find its tokens' groups once it is no column any more
	counts []uint32
	size   int
	of     []uint8 // tuples of the entries with this path

	stamp uint64 // of the entry that touched it last
	tuple []byte // what that entry has here

	chars   [2]uint64 // ASCII characters of all texts
	wide    bool      // there are others
	nulls   bool      // some value is null
	longest int       // bytes of a text
}

// NewBuilder begins the index of the segment that begins at entry first.
func NewBuilder(first uint64) *Builder {
	return &Builder{
		first: first, pathIDs: map[string]uint16{}, keySets: make([]keySet, 1), keySetIDs: map[string]uint16{}, shapeIDs: map[string]uint16{},
		walker: Walker{empties: true},
	}
}

func (b *Builder) group() uint32 { return uint32(b.lines / GroupSize) }

// Add describes the next entry. It keeps nothing of l.
func (b *Builder) Add(l *entry.Line) error {
	if b.lines/GroupSize >= coveredGroups {
		b.lines++
		return nil
	}
	if b.lines%GroupSize == 0 {
		b.times = append(b.times, [2]int64{l.Time, l.Time})
		b.values.reset()
	}
	t := &b.times[len(b.times)-1]
	t[0], t[1] = min(t[0], l.Time), max(t[1], l.Time)
	b.touched, b.opaque = b.touched[:0], false
	if host, ok := b.walker.Text(l.Hostname); ok {
		b.take(hostname, nil, host, String)
	}
	var digits [10]byte
	b.take(processID, nil, strconv.AppendUint(digits[:0], uint64(l.PID), 10), Number)
	for _, m := range [...]struct {
		kind byte
		text []byte
	}{{traceID, l.TraceID}, {spanID, l.SpanID}, {eventTime, l.EventTime}, {idempotency, l.IdempotencyKey}, {producer, l.Producer}, {control, l.Log}} {
		if m.text != nil {
			b.take(m.kind, nil, m.text, String)
		}
	}
	if !b.walker.Walk(l.Metadata, func(path, text []byte, kind Kind) bool {
		b.take(inMetadata, path, text, kind)
		return true
	}) {
		return fmt.Errorf("search index of entry %d: its metadata is no object", b.first+b.lines)
	}
	message, ok := b.walker.Text(l.Message)
	if !ok {
		return fmt.Errorf("search index of entry %d: its message is no string", b.first+b.lines)
	}
	b.hold(l.Level, message)
	b.lines++
	if b.lines%GroupSize == 0 && (b.held.groups() >= epochGroups || len(b.held.text) >= epochText) {
		b.endEpoch()
	}
	return nil
}

// take notes a scalar, or an empty container, of the present entry.
func (b *Builder) take(kind byte, path, text []byte, k Kind) {
	id, ok := b.pathID(kind, path)
	if !ok {
		if len(b.paths) >= maxPaths || len(path) > nameBytes || b.names+len(path) > pathBytes {
			b.opaque = true
			b.valueTokens(b.group(), kind, text, k)
			return
		}
		id = uint16(len(b.paths))
		p := &builtPath{kind: kind, name: string(path), column: b.columns < maxColumns && !presenceOnly(kind)}
		if p.column {
			b.columns++
			p.ids = map[string]uint8{}
		}
		b.paths = append(b.paths, p)
		b.pathIDs[string(b.key)] = id
		b.names += len(path)
		b.paths[b.last].next, b.last = id, id
	}
	p := b.paths[id]
	if p.stamp != b.lines+1 {
		p.stamp, p.tuple = b.lines+1, p.tuple[:0]
		b.touched = append(b.touched, id)
	}
	if presenceOnly(kind) {
		return
	}
	p.describe(text, k)
	if !p.column {
		b.valueTokens(b.group(), kind, text, k)
		return
	}
	p.tuple = appendValue(p.tuple, text, k)
	if len(p.tuple) > tupleBytes {
		b.demote(p)
	}
}

// pathID is the number of a path. Paths mostly follow each other as they did in the entry before. If there is none, its name is in
// b.key.
func (b *Builder) pathID(kind byte, path []byte) (uint16, bool) {
	if len(b.paths) > 0 {
		id := b.paths[b.last].next
		if p := b.paths[id]; p.kind == kind && p.name == string(path) {
			b.last = id
			return id, true
		}
	}
	b.key = append(append(b.key[:0], kind), path...)
	id, ok := b.pathIDs[string(b.key)]
	if ok {
		b.paths[b.last].next, b.last = id, id
	}
	return id, ok
}

func presenceOnly(kind byte) bool {
	return kind == eventTime || kind == idempotency || kind == producer || kind == control
}

// appendValue appends one value of a tuple.
func appendValue(dst, text []byte, k Kind) []byte {
	dst = append(dst, byte(k))
	if k < Null {
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	return dst
}

// describe widens what is known of all texts at this path.
func (p *builtPath) describe(text []byte, k Kind) {
	if k >= Null {
		p.nulls = p.nulls || k == Null
		return
	}
	p.longest = max(p.longest, len(text))
	var low, high, all uint64
	for _, c := range text { // without branches: letters and digits take turns
		h := uint64(c) >> 6
		bit := uint64(1) << (c & 63)
		low |= bit & (h - 1)
		high |= bit & -h
		all |= h
	}
	if all > 1 { // there are others, for which the masks are not made
		p.wide, low, high = true, 0, 0
		for _, c := range text {
			if c < 0x40 {
				low |= 1 << c
			} else if c < 0x80 {
				high |= 1 << (c - 0x40)
			}
		}
	}
	p.chars[0] |= low
	p.chars[1] |= high
}

// eachValue visits the values of a tuple.
func eachValue[T string | []byte](tuple T, visit func(text T, k Kind)) {
	for len(tuple) > 0 {
		k := Kind(tuple[0])
		tuple = tuple[1:]
		if k >= Null {
			visit(tuple[:0], k)
			continue
		}
		n, size := uvarint(tuple)
		visit(tuple[size:size+int(n)], k)
		tuple = tuple[size+int(n):]
	}
}

// demote makes a column's texts tokens, those of the present entry too.
func (b *Builder) demote(p *builtPath) {
	p.column = false
	b.columns--
	b.dict -= p.size
	for i, set := range p.where {
		eachValue([]byte(p.tuples[i]), func(text []byte, k Kind) {
			b.words = b.each(p.kind, text, k, func(hash uint64) {
				for g := range set.All() {
					b.pair(hash, g)
				}
			})
		})
	}
	b.tupleTokens(b.group(), p.kind, p.tuple)
	p.ids, p.tuples, p.where, p.counts, p.of, p.tuple = nil, nil, nil, nil, nil, nil
}

func (b *Builder) tupleTokens(group uint32, kind byte, tuple []byte) {
	eachValue(tuple, func(text []byte, k Kind) { b.valueTokens(group, kind, text, k) })
}

// each calls add for each token of a value.
func (b *Builder) each(kind byte, text []byte, k Kind, add func(hash uint64)) []word {
	if k >= Null {
		return b.words
	}
	switch kind {
	case inMetadata:
		return tokens(b.words, text, true, add)
	case hostname:
		add(hashFolded(hostToken, text))
	case processID:
		add(hashFolded(pidToken, text))
	case traceID:
		add(hashFolded(traceToken, text))
	case spanID:
		add(hashFolded(spanToken, text))
	}
	return b.words
}

func (b *Builder) valueTokens(group uint32, kind byte, text []byte, k Kind) {
	b.words = b.each(kind, text, k, func(hash uint64) { b.token(&b.values, group, hash) })
}

// token notes a token of a group. set has those that the group was seen to have; it may forget them, since equal pairs count
// once.
func (b *Builder) token(set *tokenSet, group uint32, hash uint64) {
	switch set.add(hash) {
	case tokenNew:
		b.pair(hash, group)
	case tokenFull:
		b.loosen(group)
	}
}

func (b *Builder) pair(hash uint64, group uint32) {
	if len(b.pairs) >= maxPairs {
		b.loosen(group)
		return
	}
	b.pairs = append(b.pairs, pair(hash<<groupBits|uint64(group)))
}

// loosen gives up on a group's tokens: each token may be in it.
func (b *Builder) loosen(group uint32) {
	b.loose = b.loose.with(group)
}

// A columnValue says what an entry has at a path that is a column.
type columnValue struct {
	path  uint16
	tuple uint8
}

// hold puts the present entry among those whose messages are cut into shapes together.
func (b *Builder) hold(level entry.Level, message []byte) {
	e := &b.held
	from := len(e.values)
	for _, id := range b.touched {
		if p := b.paths[id]; p.column {
			if tuple, ok := b.tupleID(p); ok {
				e.values = append(e.values, columnValue{id, tuple})
			}
		}
	}
	if len(message) > templateBytes {
		b.words = tokens(b.words, message, false, func(hash uint64) { b.token(&b.values, b.group(), hash) })
	}
	keys := b.keySet()
	e.add(b.group(), level, keys, message)
	e.lines[len(e.lines)-1].values = [2]int32{int32(from), int32(len(e.values))}
}

// tupleID is the number of what the present entry has at p, unless p is no column any more.
func (b *Builder) tupleID(p *builtPath) (uint8, bool) {
	n := len(p.tuple)
	recent := &p.recent[(n+7*int(p.tuple[n-1])+int(p.tuple[n/2]))%len(p.recent)]
	if *recent > 0 && p.tuples[*recent-1] == string(p.tuple) {
		id := *recent - 1
		p.where[id] = p.where[id].with(b.group())
		return id, true
	}
	id, ok := p.ids[string(p.tuple)]
	if !ok {
		if len(p.tuples) >= columnValues || p.size+len(p.tuple) > columnBytes || b.dict+len(p.tuple) > dictBytes {
			b.demote(p)
			return 0, false
		}
		id = uint8(len(p.tuples))
		p.ids[string(p.tuple)] = id
		p.tuples = append(p.tuples, string(p.tuple))
		p.where = append(p.where, nil)
		p.counts = append(p.counts, 0)
		p.size += len(p.tuple)
		b.dict += len(p.tuple)
	}
	*recent = id + 1
	p.where[id] = p.where[id].with(b.group())
	return id, true
}

// keySet is the number of the set of paths that the present entry has, 0 if it is not known.
func (b *Builder) keySet() uint16 {
	if b.opaque {
		return 0
	}
	slices.Sort(b.touched)
	b.key = b.key[:0]
	for _, id := range b.touched {
		b.key = binary.LittleEndian.AppendUint16(b.key, id)
	}
	id, ok := b.keySetIDs[string(b.key)]
	if !ok && len(b.keySets) <= maxKeySets && b.setPaths+len(b.touched) <= keySetPaths {
		id = uint16(len(b.keySets))
		b.keySets = append(b.keySets, slices.Clone(b.touched))
		b.keySetIDs[string(b.key)] = id
		b.setPaths += len(b.touched)
	}
	return id
}

// uvarint reads a number of tuple that appendValue wrote.
func uvarint[T string | []byte](b T) (v uint64, n int) {
	for shift := uint(0); n < len(b) && shift < 64; shift += 7 {
		c := b[n]
		n++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, n
		}
	}
	return 0, 0
}

// A tokenSet is a set of hashes.
type tokenSet struct {
	table []uint64 // hash+1, or 0
	used  int
}

const (
	tokenThere = iota
	tokenNew
	tokenFull
)

func (s *tokenSet) reset() {
	clear(s.table)
	s.used = 0
}

func (s *tokenSet) add(hash uint64) int {
	if 2*s.used >= len(s.table) {
		if s.used >= groupTokens {
			return tokenFull
		}
		old := s.table
		s.table, s.used = make([]uint64, max(4096, 2*len(old))), 0
		for _, h := range old {
			if h != 0 {
				s.add(h - 1)
			}
		}
	}
	mask := uint64(len(s.table) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		switch s.table[i] {
		case 0:
			s.table[i] = hash + 1
			s.used++
			return tokenNew
		case hash + 1:
			return tokenThere
		}
	}
}
