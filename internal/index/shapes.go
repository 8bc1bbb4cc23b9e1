package index

import (
	"bytes"
	"encoding/binary"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A shape is what many entries have in common: level, the message without its rare words, and the paths of metadata. Which
// words are rare is found out for some groups at a time, an epoch. A message's template is its text with each rare word replaced
// by slot, and a zero byte of its own by notSlot.
const (
	slot    = "\x00\x00"
	notSlot = "\x00\x01"
)

// An epoch holds entries until their shapes are known.
type epoch struct {
	lines     []heldLine
	text      []byte
	words     []word
	values    []columnValue
	templates []byte
	counts    counter
	ids       []uint32            // of each word in counts
	rare      []bool              // each word: left out of templates
	before    map[uint64]struct{} // words that were not rare in the epoch before, by their counts there
	known     []bool              // each word of counts: it is in before
	shapes    []lastShape         // of each template of counts
}

// A lastShape is the shape of the line that had a template last, and that line.
type lastShape struct {
	found bool
	line  int32 // of the epoch
	shape uint16
}

type heldLine struct {
	group    uint32
	level    entry.Level
	keys     uint16
	text     [2]int32
	words    [2]int32
	values   [2]int32
	template [2]int32
	id       uint32 // of its template in counts, if it has one
	coarse   bool   // words with digits are left out of its template, too
	long     bool   // its message is not held: it has no template, and its tokens were noted
}

func (e *epoch) groups() int { return len(e.lines) / GroupSize }

func (e *epoch) add(group uint32, level entry.Level, keys uint16, message []byte) {
	l := heldLine{group: group, level: level, keys: keys}
	l.text[0], l.words[0] = int32(len(e.text)), int32(len(e.words))
	if len(message) <= templateBytes {
		e.text = append(e.text, message...)
		e.words = appendWords(e.words, message)
	} else {
		l.long = true
	}
	l.text[1], l.words[1] = int32(len(e.text)), int32(len(e.words))
	e.lines = append(e.lines, l)
}

// endEpoch finds the shapes of the entries that are held, and lets go of them.
func (b *Builder) endEpoch() {
	e := &b.held
	e.findRare()
	e.templates = e.templates[:0]
	for i := range e.lines {
		e.cut(&e.lines[i])
	}
	e.counts.reset()
	for i := range e.lines {
		e.count(&e.lines[i])
	}
	// A number that is frequent elsewhere makes a template of its own where it is not: that goes without numbers.
	for i := range e.lines {
		if l := &e.lines[i]; e.isSeldom(l) && !b.isShape(l) {
			l.coarse = true
			e.cut(l)
			e.count(l)
		}
	}
	e.shapes = append(e.shapes[:0], make([]lastShape, len(e.counts.hashes))...)
	var set tokenSet
	for i := range e.lines {
		l := &e.lines[i]
		if i == 0 || l.group != e.lines[i-1].group {
			set.reset()
		}
		b.shape(int32(i), &set)
	}
	e.lines, e.text, e.words, e.values = e.lines[:0], e.text[:0], e.words[:0], e.values[:0]
}

// findRare says which words are left out of templates: numbers sooner than others, since they mostly tell entries apart, and
// none that was frequent in the epoch before, so that a short epoch does not see other shapes.
func (e *epoch) findRare() {
	e.counts.reset()
	e.ids = e.ids[:0]
	for i := range e.words {
		e.ids = append(e.ids, e.counts.add(e.words[i].hash))
	}
	e.known, e.rare = e.known[:0], e.rare[:0]
	for _, hash := range e.counts.hashes {
		_, was := e.before[hash]
		e.known = append(e.known, was)
	}
	frequent := make(map[uint64]struct{}, len(e.before))
	noted := make([]bool, len(e.known))
	for i := range e.words {
		often := len(e.lines) / 256
		if e.words[i].digit {
			often = len(e.lines) / 64
		}
		id := e.ids[i]
		few := int(e.counts.counts[id]) < max(often, 8)
		e.rare = append(e.rare, few && !e.known[id])
		if !few && !noted[id] {
			noted[id] = true
			frequent[e.words[i].hash] = struct{}{}
		}
	}
	e.before = frequent
}

// cut makes a line's template, its level first; none if it is too long.
func (e *epoch) cut(l *heldLine) {
	if l.long {
		return
	}
	text := e.text[l.text[0]:l.text[1]]
	from := len(e.templates)
	e.templates = append(e.templates, byte(l.level))
	at := int32(0)
	for i := l.words[0]; i < l.words[1] && len(e.templates)-from <= templateBytes; i++ {
		if e.leavesOut(l, i) {
			e.templates = appendLiteral(e.templates, text[at:min(e.words[i].from, at+templateBytes+1)])
			e.templates = append(e.templates, slot...)
			at = e.words[i].to
		}
	}
	e.templates = appendLiteral(e.templates, text[at:min(len(text), int(at)+templateBytes+1)])
	if len(e.templates)-from-1 > templateBytes {
		e.templates = e.templates[:from]
	}
	l.template = [2]int32{int32(from), int32(len(e.templates))}
}

func (e *epoch) count(l *heldLine) {
	if l.template[1] > l.template[0] {
		l.id = e.counts.add(finish(addBytes(fnvOffset, e.templates[l.template[0]:l.template[1]])))
	}
}

func (e *epoch) isSeldom(l *heldLine) bool {
	return l.template[1] > l.template[0] && e.counts.counts[l.id] < shapeRepeats
}

// isShape says whether there is a shape with a line's template, and makes its name in b.key.
func (b *Builder) isShape(l *heldLine) bool {
	template := b.held.templates[l.template[0]:l.template[1]]
	b.key = append(binary.LittleEndian.AppendUint16(append(b.key[:0], 1), l.keys), template...)
	_, ok := b.shapeIDs[string(b.key)]
	return ok
}

// leavesOut says whether word i is none of its line's template.
func (e *epoch) leavesOut(l *heldLine, i int32) bool {
	return e.rare[i] || l.coarse && e.words[i].digit
}

func appendLiteral(dst, text []byte) []byte {
	for {
		i := bytes.IndexByte(text, 0)
		if i < 0 {
			return append(dst, text...)
		}
		dst = append(append(dst, text[:i]...), notSlot...)
		text = text[i+1:]
	}
}

// shape finds a line's shape, and notes the tokens that the shape does not tell.
func (b *Builder) shape(line int32, set *tokenSet) {
	e := &b.held
	l := &e.lines[line]
	id := b.shapeID(line)
	b.shapeOf = append(b.shapeOf, id)
	s := &b.shapes[id]
	s.count++
	if !s.known {
		b.token(set, l.group, UnknownMessage())
	}
	if s.keys == 0 {
		b.token(set, l.group, UnknownPaths())
	}
	text, words := e.text[l.text[0]:l.text[1]], e.words[l.words[0]:l.words[1]]
	for i := range words {
		if !s.known || e.leavesOut(l, l.words[0]+int32(i)) {
			b.token(set, l.group, words[i].hash)
		}
		if words[i].short {
			if h, ok := quad(text, words[i:]); ok {
				b.token(set, l.group, h)
			}
		}
	}
	for _, v := range e.values[l.values[0]:l.values[1]] {
		p := b.paths[v.path]
		switch {
		case !p.column: // its tokens were noted when it ceased to be one
		case s.keys == 0:
			b.tupleTokensOf(set, l.group, p, v.tuple)
		default:
			p.of = append(p.of, v.tuple)
			p.counts[v.tuple]++
		}
	}
}

func (b *Builder) tupleTokensOf(set *tokenSet, group uint32, p *builtPath, tuple uint8) {
	eachValue([]byte(p.tuples[tuple]), func(text []byte, k Kind) {
		b.words = b.each(p.kind, text, k, func(hash uint64) { b.token(set, group, hash) })
	})
}

// shapeID finds or makes the shape of a line: the whole, or without its message, or with nothing but its level.
func (b *Builder) shapeID(line int32) uint16 {
	e := &b.held
	l := &e.lines[line]
	if template := e.templates[l.template[0]:l.template[1]]; len(template) > 0 {
		last := &e.shapes[l.id]
		if same := &e.lines[last.line]; last.found && same.keys == l.keys && bytes.Equal(e.templates[same.template[0]:same.template[1]], template) {
			return last.shape
		}
		if b.isShape(l) {
			*last = lastShape{true, line, b.shapeIDs[string(b.key)]}
			return last.shape
		}
		if e.counts.counts[l.id] >= shapeRepeats && b.texts < textShapes && b.textSize+len(template) <= textBytes {
			b.texts++
			b.textSize += len(template)
			*last = lastShape{true, line, b.newShape(builtShape{level: l.level, message: template[1:], known: true, keys: l.keys})}
			return last.shape
		}
	}
	b.key = append(binary.LittleEndian.AppendUint16(append(b.key[:0], 0), l.keys), byte(l.level))
	if id, ok := b.shapeIDs[string(b.key)]; ok {
		return id
	}
	if len(b.shapes) < maxShapes {
		return b.newShape(builtShape{level: l.level, keys: l.keys})
	}
	b.key = append(b.key[:0], 0, 0, 0, byte(l.level))
	if id, ok := b.shapeIDs[string(b.key)]; ok {
		return id
	}
	return b.newShape(builtShape{level: l.level})
}

// newShape adds a shape under the name in b.key.
func (b *Builder) newShape(s builtShape) uint16 {
	s.message = append([]byte(nil), s.message...)
	id := uint16(len(b.shapes))
	b.shapes = append(b.shapes, s)
	b.shapeIDs[string(b.key)] = id
	return id
}

// A counter counts hashes, and numbers them in the order in which they came.
type counter struct {
	table  []uint32 // number plus one, or 0; never more than half full
	hashes []uint64
	counts []uint32
}

// reset forgets everything.
func (c *counter) reset() {
	if c.table == nil {
		c.table = make([]uint32, 1024)
	}
	clear(c.table)
	c.hashes, c.counts = c.hashes[:0], c.counts[:0]
}

// add counts a hash, and returns its number.
func (c *counter) add(hash uint64) uint32 {
	i := c.at(hash)
	id := c.table[i]
	if id != 0 {
		c.counts[id-1]++
		return id - 1
	}
	c.hashes, c.counts = append(c.hashes, hash), append(c.counts, 1)
	id = uint32(len(c.hashes))
	c.table[i] = id
	if 2*len(c.hashes) > len(c.table) {
		c.table = make([]uint32, 2*len(c.table))
		for n, h := range c.hashes {
			c.table[c.at(h)] = uint32(n) + 1
		}
	}
	return id - 1
}

// at is where a hash's number is, or would be.
func (c *counter) at(hash uint64) uint64 {
	mask := uint64(len(c.table) - 1)
	i := hash & mask
	for c.table[i] != 0 && c.hashes[c.table[i]-1] != hash {
		i = (i + 1) & mask
	}
	return i
}
