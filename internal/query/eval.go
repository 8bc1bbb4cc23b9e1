package query

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
)

// A Matcher says which entries a query selects. It keeps buffers, so each goroutine has its own.
type Matcher struct {
	root  Node
	need  need
	first *needText // what of need is looked for in a block as a whole

	block []byte
	clean bool  // see isClean; of the whole block
	hits  []int // where first is, the first in each line

	headed       bool // the next three say something
	since, until int64
	level        entry.Level // entry.NumLevels: any
	rest         []Node      // conditions that all must hold beside these

	index  uint64
	line   entry.Line
	walker index.Walker
	text   []byte // of one field at a time
	folded []byte
	all    texts
}

// NewMatcher prepares a query.
func NewMatcher(q *Query) *Matcher {
	m := &Matcher{root: q.Root, need: needOf(q.Root)}
	m.first = rarest(m.need)
	m.head()
	return m
}

// Block takes the bytes of some entry lines, of which Match is asked next. It says whether any of them may match. The bytes stay as
// they are until then.
func (m *Matcher) Block(lines []byte) bool {
	if m.need == nil {
		return true
	}
	m.block, m.clean = lines, isClean(lines)
	if m.first == nil {
		return !m.clean || m.need.in(lines)
	}
	m.hits = linesWith(m.hits[:0], lines, m.first)
	return !m.clean || len(m.hits) > 0
}

// may says whether the line of the block has what it needs, or what it has cannot be told so.
func (m *Matcher) may(from, to int) bool {
	if m.need == nil {
		return true
	}
	line := m.block[from:to]
	if m.first == nil {
		return m.need.in(line) || !m.clean && !isClean(line)
	}
	i, _ := slices.BinarySearch(m.hits, from)
	if i < len(m.hits) && m.hits[i] < to && (m.need == need(m.first) || m.need.in(line)) {
		return true
	}
	return !m.clean && !isClean(line)
}

// Match says whether the query selects the line of the block that begins at offset from. index is the entry's.
func (m *Matcher) Match(line []byte, from int, index uint64) (bool, error) {
	if !m.may(from, from+len(line)) {
		return false, nil
	}
	if m.headed {
		if t, level, ok := entry.Peek(line); ok {
			if !m.inHead(t, level) {
				return false, nil
			}
			if m.rest == nil {
				return true, nil
			}
		}
	}
	if err := entry.Decode(line, &m.line); err != nil {
		return false, err
	}
	m.index = index
	m.all.state = noTexts
	return m.holds(m.root), nil
}

// head takes out of the query what the fixed places of a line tell: the bounds of the timestamp, and one level. Most lines that are
// outside need no more than a look there, and where nothing is left, the others neither.
func (m *Matcher) head() {
	m.since, m.until, m.level = math.MinInt64, math.MaxInt64, entry.NumLevels
	nodes := []Node{m.root}
	if and, ok := m.root.(And); ok {
		nodes = and.Nodes
	}
	for _, n := range nodes {
		switch n := n.(type) {
		case Since:
			m.since, m.headed = max(m.since, Nano(n.At.From)), true
			continue
		case Until:
			m.until, m.headed = min(m.until, Nano(n.At.From)), true
			continue
		case Equal:
			if v, err := entry.ParseLevel(n.Text); err == nil && n.Field.Root == Level && m.level == entry.NumLevels {
				m.level, m.headed = v, true
				continue
			}
		}
		m.rest = append(m.rest, n)
	}
}

func (m *Matcher) inHead(unixNano int64, level entry.Level) bool {
	return unixNano >= m.since && unixNano < m.until && (m.level == entry.NumLevels || m.level == level)
}

func inTime(n Node, unixNano int64) bool {
	switch n := n.(type) {
	case Since:
		return unixNano >= Nano(n.At.From)
	case Until:
		return unixNano < Nano(n.At.From)
	}
	return true
}

func (m *Matcher) holds(n Node) bool {
	switch n := n.(type) {
	case All:
		return true
	case And:
		for _, sub := range n.Nodes {
			if !m.holds(sub) {
				return false
			}
		}
		return true
	case Or:
		return slices.ContainsFunc(n.Nodes, m.holds)
	case Not:
		return !m.holds(n.Node)
	case Since, Until:
		return inTime(n, m.line.Time)
	case Exists:
		return m.exists(n.Field)
	case Phrase:
		return m.anyFolded(n.In, func(text []byte) bool { return hasPhrase(text, n.Words, n.Begin) })
	case Substring:
		want := []byte(n.Text)
		return m.anyFolded(n.In, func(text []byte) bool { return bytes.Contains(text, want) })
	case Regexp:
		return m.any(n.In, n.Re.Match)
	case Equal:
		return m.anyFolded(&n.Field, func(text []byte) bool { return string(text) == n.Text })
	case Begins:
		want := []byte(n.Text)
		return m.anyFolded(&n.Field, func(text []byte) bool { return bytes.HasPrefix(text, want) })
	case Compare:
		return m.any(&n.Field, func(text []byte) bool { return compares(text, n.Op, &n.Operand) })
	case Range:
		return m.any(&n.Field, func(text []byte) bool { return compares(text, Ge, &n.From) && compares(text, Le, &n.To) })
	}
	panic("query: a node of unknown type")
}

// texts are those of one entry, as far as somebody asked for them.
type texts struct {
	state  int // noTexts, messageText or allTexts
	arena  []byte
	ends   []int // of each text in arena
	folded []byte
	fends  []int // of those that are folded too
}

const (
	noTexts     = iota
	messageText // the message, which comes first and decides mostly
	allTexts
)

// any says whether holds is true of a text: of the field's, or of any.
func (m *Matcher) any(in *Field, holds func(text []byte) bool) bool {
	if in != nil {
		found := false
		m.visit(*in, func(text []byte) bool {
			found = holds(text)
			return !found
		})
		return found
	}
	a := &m.all
	m.gather(messageText)
	if anyOf(a.arena, a.ends, 0, holds) {
		return true
	}
	from := len(a.ends)
	if m.gather(allTexts) {
		return anyOf(a.arena, a.ends, from, holds)
	}
	return false
}

// anyFolded is any with the texts folded.
func (m *Matcher) anyFolded(in *Field, holds func(text []byte) bool) bool {
	if in != nil {
		return m.any(in, func(text []byte) bool {
			m.folded = index.AppendFold(m.folded[:0], text)
			return holds(m.folded)
		})
	}
	a := &m.all
	m.gather(messageText)
	a.fold()
	if anyOf(a.folded, a.fends, 0, holds) {
		return true
	}
	from := len(a.fends)
	if m.gather(allTexts) {
		a.fold()
		return anyOf(a.folded, a.fends, from, holds)
	}
	return false
}

// anyOf looks at the texts from number first on.
func anyOf(arena []byte, ends []int, first int, holds func([]byte) bool) bool {
	from := 0
	if first > 0 {
		from = ends[first-1]
	}
	for _, end := range ends[first:] {
		if holds(arena[from:end]) {
			return true
		}
		from = end
	}
	return false
}

// fold folds the texts that are not.
func (a *texts) fold() {
	from := 0
	if n := len(a.fends); n > 0 {
		from = a.ends[n-1]
	}
	for _, end := range a.ends[len(a.fends):] {
		a.folded = index.AppendFold(a.folded, a.arena[from:end])
		a.fends = append(a.fends, len(a.folded))
		from = end
	}
}

// gather collects the entry's texts as far as state. It returns false where they were there before and were all looked at.
func (m *Matcher) gather(state int) bool {
	a := &m.all
	keep := func(text []byte) bool {
		a.arena = append(a.arena, text...)
		a.ends = append(a.ends, len(a.arena))
		return true
	}
	if a.state == noTexts {
		a.state, a.arena, a.ends, a.folded, a.fends = messageText, a.arena[:0], a.ends[:0], a.folded[:0], a.fends[:0]
		m.visit(Field{Root: Message}, keep)
	}
	if state == messageText || a.state == allTexts {
		return false
	}
	a.state = allTexts
	m.walker.Walk(m.line.Metadata, func(_, text []byte, kind index.Kind) bool { return kind == index.Null || keep(text) })
	return true
}

// visit calls f with each scalar of a field until it returns false. The text is valid during the call.
func (m *Matcher) visit(field Field, f func(text []byte) bool) {
	switch field.Root {
	case Metadata:
		m.members(m.line.Metadata, field.Path, f)
	case Producer:
		m.members(m.line.Producer, field.Path, f)
	case Control:
		m.members(m.line.Log, field.Path, f)
	case Message:
		m.quoted(m.line.Message, f)
	case Hostname:
		m.quoted(m.line.Hostname, f)
	case IdempotencyKey:
		m.quoted(m.line.IdempotencyKey, f)
	case Level:
		f([]byte(m.line.Level.String()))
	case PID:
		m.text = strconv.AppendUint(m.text[:0], uint64(m.line.PID), 10)
		f(m.text)
	case Index:
		m.text = strconv.AppendUint(m.text[:0], m.index, 10)
		f(m.text)
	case ID:
		f(m.line.ID[:])
	default:
		if raw := m.raw(field.Root); raw != nil {
			f(raw)
		}
	}
}

// raw is a member that needs no decoding.
func (m *Matcher) raw(root Root) []byte {
	switch root {
	case TraceID:
		return m.line.TraceID
	case SpanID:
		return m.line.SpanID
	case EventTime:
		return m.line.EventTime
	case Timestamp:
		return m.line.Timestamp
	case IdempotencyKey:
		return m.line.IdempotencyKey
	}
	return nil
}

func (m *Matcher) quoted(raw []byte, f func(text []byte) bool) {
	if text, ok := m.walker.Text(raw); ok {
		f(text)
	}
}

func (m *Matcher) members(object []byte, path string, f func(text []byte) bool) {
	if object == nil {
		return
	}
	m.walker.Walk(object, func(at, text []byte, kind index.Kind) bool {
		return kind == index.Null || string(at) != path || f(text)
	})
}

func (m *Matcher) exists(f Field) bool {
	switch f.Root {
	case Metadata:
		return m.reaches(m.line.Metadata, f.Path)
	case Producer:
		return m.line.Producer != nil && (f.Path == "" || m.reaches(m.line.Producer, f.Path))
	case Control:
		return m.line.Log != nil && (f.Path == "" || m.reaches(m.line.Log, f.Path))
	case TraceID, SpanID, EventTime, IdempotencyKey:
		return m.raw(f.Root) != nil
	}
	return true
}

// reaches says whether a path leads to something in the object that is not null: a scalar, an object or an array.
func (m *Matcher) reaches(object []byte, path string) bool {
	s := seeker{m: m, src: object, path: path}
	s.value(0, "", false)
	return s.found
}

// seeker walks an object that was decoded, so that its syntax is beyond doubt.
type seeker struct {
	m     *Matcher
	src   []byte
	path  string
	found bool
}

// value visits the value at p, whose path is at, and returns where it ends. named: a member's name leads to it.
func (s *seeker) value(p int, at string, named bool) int {
	c := s.src[p]
	if named && at == s.path && c != 'n' {
		s.found = true
	}
	switch c {
	case '"':
		return stringEnd(s.src, p)
	case '{', '[':
	default:
		for p < len(s.src) && s.src[p] != ',' && s.src[p] != '}' && s.src[p] != ']' {
			p++
		}
		return p
	}
	for p++; s.src[p] != '}' && s.src[p] != ']'; {
		if s.src[p] == ',' {
			p++
		}
		sub, subNamed := at, named
		if c == '{' {
			end := stringEnd(s.src, p)
			name, _ := s.m.walker.Text(s.src[p:end]) // decoded before, so it is a string
			if sub = string(name); at != "" {
				sub = at + "." + sub
			}
			subNamed = true
			p = end + 1 // the colon
		}
		p = s.value(p, sub, subNamed)
	}
	return p + 1
}

// stringEnd is where the string that begins at p ends.
func stringEnd(b []byte, p int) int {
	for p++; b[p] != '"'; p++ {
		if b[p] == '\\' {
			p++
		}
	}
	return p + 1
}

// hasPhrase says whether a folded text has the words one after the other.
func hasPhrase(text []byte, words []string, begin bool) bool {
	first := []byte(words[0])
	for from := 0; ; {
		i := bytes.Index(text[from:], first)
		if i < 0 {
			return false
		}
		at := from + i
		if r, n := utf8.DecodeLastRune(text[:at]); (n == 0 || !index.IsWord(r)) && phraseAt(text[at:], words, begin) {
			return true
		}
		from = at + 1
	}
}

// phraseAt says whether the words stand at the beginning of text, where a word begins.
func phraseAt(text []byte, words []string, begin bool) bool {
	for i, w := range words {
		if i > 0 {
			text = text[wordStart(text):]
		}
		if !bytes.HasPrefix(text, []byte(w)) {
			return false
		}
		text = text[len(w):]
		if r, n := utf8.DecodeRune(text); n > 0 && index.IsWord(r) {
			return begin && i == len(words)-1
		}
	}
	return true
}

// wordStart is where the first word of text begins.
func wordStart(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if index.IsWord(r) {
			return i
		}
		i += n
	}
	return len(text)
}

// compares says whether a scalar compares so with an operand.
func compares(text []byte, op Op, with *Operand) bool {
	var below, above bool // the operand's lowest, the operand's highest
	if with.IsTime {
		t, ok := ParseTime(string(text))
		if !ok {
			return false
		}
		below, above = t.Before(with.From), t.After(with.To)
	} else {
		d, ok := ParseDecimal(string(text))
		if !ok {
			return false
		}
		c := d.Cmp(with.Number)
		below, above = c < 0, c > 0
	}
	switch op {
	case Ge:
		return !below
	case Gt:
		return above
	case Le:
		return !above
	case Lt:
		return below
	}
	return !below && !above
}

// Values calls f with each different scalar of a field of a line. Text that must outlive the call is to be copied.
func (m *Matcher) Values(line []byte, at uint64, field Field, f func(text []byte)) error {
	if err := entry.Decode(line, &m.line); err != nil {
		return err
	}
	m.index = at
	var seen [][]byte
	m.visit(field, func(text []byte) bool {
		if !slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, text) }) {
			seen = append(seen, slices.Clone(text))
			f(text)
		}
		return true
	})
	return nil
}

// ParseField reads a field as a query names it.
func ParseField(text string) (Field, error) {
	p := parser{text: text}
	if len(text) > MaxLength || !utf8.ValidString(text) {
		return Field{}, fmt.Errorf("a field is named in at most %d bytes of UTF-8", MaxLength)
	}
	n, err := p.existence()
	if err == nil && p.pos < len(text) {
		err = p.errorf(p.pos, "the field's name ends before this")
	}
	if err != nil {
		return Field{}, err
	}
	f := n.(Exists).Field
	f.scalar()
	return f, nil
}
