package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A headReader reads numbers and texts in their one spelling. Once something is wrong it returns zeros.
type headReader struct {
	b   []byte
	bad error
}

func (r *headReader) fail(format string, args ...any) {
	if r.bad == nil {
		r.bad = fmt.Errorf(format, args...)
	}
}

func (r *headReader) byte() byte {
	if len(r.b) == 0 {
		r.fail("it ends early")
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// number reads a number up to most.
func (r *headReader) number(what string, most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 || v > most {
		r.fail("%s: no number up to %d", what, most)
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *headReader) bytes(what string, most int) []byte {
	n := int(r.number(what, uint64(most)))
	if n > len(r.b) {
		r.fail("%s of %d bytes: it ends early", what, n)
		r.b = nil
		return nil
	}
	text := r.b[:n]
	r.b = r.b[n:]
	return text
}

func parseDictionary(head []byte, groups uint32) (*Dictionary, error) {
	r := &headReader{b: head}
	d := &Dictionary{Loose: NewSet(groups), KeySets: make([][]uint16, 1)}
	d.readTimes(r, groups)
	d.readPaths(r)
	d.readKeySets(r)
	d.readShapes(r)
	if len(r.b) != 0 {
		r.fail("%d bytes after its end", len(r.b))
	}
	if r.bad != nil {
		return nil, fmt.Errorf("search index: dictionary: %w", r.bad)
	}
	d.decoders = make([]decoder, 1+len(d.columns))
	return d, nil
}

func (d *Dictionary) readTimes(r *headReader, groups uint32) {
	last := int64(0)
	for g := uint32(0); g < groups && r.bad == nil; g++ {
		z := r.number("time", 1<<64-1)
		low := last + (int64(z>>1) ^ -int64(z&1))
		span := r.number("time", uint64(entry.MaxTime))
		if low < 0 || low > entry.MaxTime || int64(span) > entry.MaxTime-low {
			r.fail("group %d: time %d and %d more", g, low, span)
			return
		}
		last = low + int64(span)
		d.Times = append(d.Times, [2]int64{low, last})
	}
	next := uint64(0)
	for n := r.number("loose groups", uint64(groups)); n > 0 && r.bad == nil; n-- {
		if next += r.number("loose group", uint64(groups)); next >= uint64(groups) {
			r.fail("loose group %d of %d", next, groups)
			return
		}
		d.Loose.Add(uint32(next))
		next++
	}
}

func (d *Dictionary) readPaths(r *headReader) {
	n := int(r.number("paths", maxPaths))
	for range n {
		if r.bad != nil {
			return
		}
		p := Path{Kind: r.byte()}
		if strings.IndexByte("mhptsekPc", p.Kind) < 0 {
			r.fail("a path of kind %#02x", p.Kind)
		}
		p.Name = string(r.bytes("path", nameBytes))
		switch r.byte() {
		case 0:
			if flags := r.byte(); flags > 3 {
				r.fail("a path with flags %#x", flags)
			} else {
				p.Wide, p.Nulls = flags&1 != 0, flags&2 != 0
			}
			if len(r.b) < 16 {
				r.fail("it ends early")
				return
			}
			p.Chars = [2]uint64{binary.LittleEndian.Uint64(r.b), binary.LittleEndian.Uint64(r.b[8:])}
			r.b = r.b[16:]
			p.Longest = int(r.number("length", entry.MaxLine))
		case 1:
			if len(d.columns) >= maxColumns {
				r.fail("more than %d columns", maxColumns)
				return
			}
			d.columns = append(d.columns, len(d.Paths))
			p.Column = len(d.columns)
			p.readTuples(r)
		default:
			r.fail("a path that is no column and no other")
		}
		d.Paths = append(d.Paths, p)
	}
}

func (p *Path) readTuples(r *headReader) {
	for n := r.number("tuples", columnValues); n > 0 && r.bad == nil; n-- {
		t := Tuple{Count: uint32(r.number("count", coveredGroups*GroupSize))}
		for sub := (&headReader{b: r.bytes("tuple", tupleBytes)}); len(sub.b) > 0; {
			v := Value{Kind: Kind(sub.byte())}
			switch {
			case v.Kind.IsScalar():
				v.Text = string(sub.bytes("value", tupleBytes))
				if !utf8.ValidString(v.Text) {
					sub.fail("a text that is not UTF-8")
				}
			case v.Kind > empty:
				sub.fail("a value of kind %d", v.Kind)
			}
			if sub.bad != nil {
				r.fail("tuple: %v", sub.bad)
				return
			}
			t.Values = append(t.Values, v)
		}
		p.Tuples = append(p.Tuples, t)
	}
}

func (d *Dictionary) readKeySets(r *headReader) {
	n, total := r.number("key sets", maxKeySets), uint64(0)
	for ; n > 0 && r.bad == nil; n-- {
		size := r.number("key set", uint64(len(d.Paths)))
		if total += size; total > keySetPaths {
			r.fail("key sets with more than %d paths", keySetPaths)
			return
		}
		set := make([]uint16, 0, size)
		next := uint64(0)
		for ; size > 0 && r.bad == nil; size-- {
			if next += r.number("path", maxPaths); next >= uint64(len(d.Paths)) {
				r.fail("path %d of %d", next, len(d.Paths))
				return
			}
			set = append(set, uint16(next))
			next++
		}
		d.KeySets = append(d.KeySets, set)
	}
}

func (d *Dictionary) readShapes(r *headReader) {
	n := r.number("shapes", maxShapes+uint64(entry.NumLevels))
	for ; n > 0 && r.bad == nil; n-- {
		s := Shape{Level: entry.Level(r.byte())}
		s.Keys = uint16(r.number("key set", uint64(len(d.KeySets)-1)))
		s.Count = uint32(r.number("count", coveredGroups*GroupSize))
		if s.Level >= entry.NumLevels || s.Count == 0 {
			r.fail("a shape of level %d and %d entries", s.Level, s.Count)
			return
		}
		if size := r.number("message", templateBytes+1); size > 0 {
			if int(size)-1 > len(r.b) {
				r.fail("it ends early")
				return
			}
			s.Known = true
			template := string(r.b[:size-1])
			r.b = r.b[size-1:]
			if !utf8.ValidString(template) {
				r.fail("a message that is not UTF-8")
			}
			for part := range strings.SplitSeq(template, slot) {
				s.Message = append(s.Message, strings.ReplaceAll(part, notSlot, "\x00"))
			}
		}
		d.Shapes = append(d.Shapes, s)
	}
	if len(d.Shapes) == 0 {
		r.fail("no shapes")
	}
}

// A Block is what is known of each entry of blockGroups groups, or fewer at the end.
type Block struct {
	First  uint32 // group
	Shapes []uint16
	// Tuples has for each entry the number of a column's tuple plus one, 0 where the entry has not its path or its paths are not
	// known; nil for columns that were not asked for.
	Tuples [][]uint8

	tuples  [][]uint8 // memory of Tuples
	packed  []uint8   // of the entries that have a path
	windows []window  // of the file, one a stream: blocks that follow each other are read together
}

// A window is a part of the file that was read and checked.
type window struct {
	at   int64
	data []byte
	next int64 // bytes to read the next time
}

// Windows begin small, for those who need one block, and grow.
const (
	firstWindow = pageSize
	maxWindow   = 16 * pageSize
)

// span returns n bytes of the file at off.
func (w *window) span(s *Search, off, n int64) ([]byte, error) {
	if off < w.at || off+n > w.at+int64(len(w.data)) {
		w.next = min(max(2*w.next, firstWindow), maxWindow)
		from := off / w.next * w.next
		to := min(max(from+w.next, (off+n+pageSize-1)/pageSize*pageSize), s.size)
		data, err := s.read(w.data[:0], from, to-from)
		if err != nil {
			w.data = nil
			return nil, err
		}
		w.at, w.data = from, data
	}
	return w.data[off-w.at:][:n], nil
}

// BlockGroups is how many groups a block has.
const BlockGroups = blockGroups

// Columns is how many columns there are.
func (d *Dictionary) Columns() int { return len(d.columns) }

// HasPath says whether entries of a shape have a path. It does not know where the shape's paths are not known.
func (d *Dictionary) HasPath(shape uint16, path int) bool {
	for _, id := range d.KeySets[d.Shapes[shape].Keys] {
		if int(id) == path {
			return true
		}
	}
	return false
}

var errStream = errors.New("search index: a stream of codes ends early or says what cannot be")

// Read reads the block of group g, with the columns that are asked for.
func (s *Search) Read(b *Block, g uint32, columns []bool) error {
	d, err := s.Dictionary()
	if err != nil {
		return err
	}
	if g >= s.Covered {
		return fmt.Errorf("search index: group %d of %d", g, s.Covered)
	}
	n := g / blockGroups
	b.First = n * blockGroups
	lines := int(min(s.Covered-b.First, blockGroups)) * GroupSize
	if b.windows == nil {
		b.windows = make([]window, 1+len(d.columns))
	}
	bits, err := s.stream(b, 0, n)
	if err != nil {
		return err
	}
	b.Shapes = slices.Grow(b.Shapes[:0], lines)[:lines]
	if !decodeAll(s.decoder(d, 0).code, bits, b.Shapes, 0) {
		return errStream
	}
	b.Tuples = append(b.Tuples[:0], make([][]uint8, len(d.columns))...)
	b.tuples = append(b.tuples, make([][]uint8, len(d.columns)-len(b.tuples))...)
	for col := range d.columns {
		if columns != nil && columns[col] {
			if err := s.readColumn(d, b, col, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Search) readColumn(d *Dictionary, b *Block, col int, n uint32) error {
	bits, err := s.stream(b, 1+col, n)
	if err != nil {
		return err
	}
	of := s.decoder(d, 1+col)
	has, there := of.has, 0
	for _, id := range b.Shapes {
		there += int(has[id] & 1)
	}
	// One more, which is looked at after the last and not used.
	b.packed = slices.Grow(b.packed[:0], there+1)[:there+1]
	if there > 0 && len(d.Paths[d.columns[col]].Tuples) == 0 || !decodeAll(of.code, bits, b.packed[:there], 1) {
		return errStream
	}
	out := slices.Grow(b.tuples[col][:0], len(b.Shapes))[:len(b.Shapes)]
	packed, next := b.packed, 0
	for i, id := range b.Shapes {
		h := has[id]
		out[i] = packed[next] & h
		next += int(h & 1)
	}
	b.tuples[col], b.Tuples[col] = out, out
	return nil
}

// A decoder is what decodes a stream, and of a column, has 0xff for each shape with its path and 0 for others.
type decoder struct {
	code *code
	has  []uint8
}

// decoder is that of a stream, made when it is first needed.
func (s *Search) decoder(d *Dictionary, stream int) *decoder {
	s.codes.Lock()
	defer s.codes.Unlock()
	of := &d.decoders[stream]
	if of.code != nil {
		return of
	}
	var counts []uint32
	if stream == 0 {
		for i := range d.Shapes {
			counts = append(counts, d.Shapes[i].Count)
		}
	} else {
		path := d.columns[stream-1]
		for _, t := range d.Paths[path].Tuples {
			counts = append(counts, t.Count)
		}
		of.has = make([]uint8, len(d.Shapes))
		for i := range d.Shapes {
			if d.HasPath(uint16(i), path) {
				of.has[i] = 0xff
			}
		}
	}
	of.code = newCode(counts)
	return of
}

// stream finds block n of a stream.
func (s *Search) stream(b *Block, stream int, n uint32) (*bitReader, error) {
	starts, err := s.readStarts()
	if err != nil {
		return nil, err
	}
	blocks := int((s.Covered + blockGroups - 1) / blockGroups)
	i := stream*blocks + int(n)
	from, to := int64(starts[i]), int64(starts[i+1])
	table := 4 * int64(len(starts))
	if from > to || to > s.streamLen-table {
		return nil, fmt.Errorf("search index: stream %d: block %d is at %d to %d", stream, n, from, to)
	}
	data, err := b.windows[stream].span(s, int64(searchFixed)+s.headLen+table+from, to-from)
	if err != nil {
		return nil, err
	}
	return &bitReader{buf: data}, nil
}

// readStarts reads where the blocks of all streams begin, once.
func (s *Search) readStarts() ([]uint32, error) {
	s.startsOnce.Do(func() {
		blocks := int64((s.Covered + blockGroups - 1) / blockGroups)
		n := blocks*int64(1+len(s.dict.columns)) + 1
		if 4*n > s.streamLen {
			s.startsErr = errStream
			return
		}
		data, err := s.read(nil, int64(searchFixed)+s.headLen, 4*n)
		if err != nil {
			s.startsErr = err
			return
		}
		s.starts = make([]uint32, n)
		for i := range s.starts {
			s.starts[i] = binary.LittleEndian.Uint32(data[4*i:])
		}
	})
	return s.starts, s.startsErr
}
