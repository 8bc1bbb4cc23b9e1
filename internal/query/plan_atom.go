package query

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
)

// An atom is a condition that is no combination of others.
type atom struct {
	node  Node
	scope scope
	// holds says whether the condition holds of a text that is known, given folded as well; nil where no text decides.
	holds func(text, folded string) bool

	// What every text of which the condition holds has: tokens. known: it has some.
	tokens []token
	known  bool
	inDict bool      // all of them are in the dictionary, so that it may have such a text
	rest   index.Set // groups that have all of them elsewhere than in the dictionary; without tokens nil: any
	any    index.Set // groups that have those that are not in the dictionary; nil: any

	// What the dictionary says, by shape.
	shapes  []shapeAnswer
	columns []columnAnswer
	odd     index.Set // groups of which shapes alone do not tell
	never   bool      // it rules all shapes out
	dotted  bool      // see index.Search

	// What shapes tell in a group, in which classes are kept for the next group.
	classes []uint8  // by shape: sureLine, maybeLine
	depend  []uint16 // shapes whose class the group decides
	rested  bool     // in the group that classes is for: it may have the tokens
	had     uint64   // and it had these
	plain   bool     // all classes are 0 and stay so
}

// Classes of shapes: entries of which the condition holds, and of which it may.
const (
	sureLine  = 1
	maybeLine = 2
)

// A token is something that texts have, and where it is.
type token struct {
	groups index.Set
	inDict bool
}

// A shapeAnswer is what a shape tells of an atom.
type shapeAnswer struct {
	yes  bool
	rest bool     // the shape has texts that are not known, in which the condition may hold
	open bool     // the same, and the shape does not even tell where: its groups have a token
	need []uint64 // by words left out of its message the condition may hold: each a set of tokens, by bits, that the group must have
	some bool     // the same, but the words are not known
}

// unknownWord is the bit of words that are no tokens: any group may have them.
const unknownWord = 1 << 63

// A columnAnswer says for which tuples of a column the condition holds.
type columnAnswer struct {
	column, path int
	hit          *[256]uint8 // by the tuple's number plus one: 1 where it holds
}

// A scope says which texts of an entry count.
type scope struct {
	level, message, metadata bool   // any text of metadata
	kind                     byte   // of one path; 0 for none
	path                     string // its name
}

func scopeOf(in *Field) scope {
	if in == nil {
		return scope{message: true, metadata: true}
	}
	switch in.Root {
	case Message:
		return scope{message: true}
	case Level:
		return scope{level: true}
	}
	return scope{kind: kindOfPath[in.Root], path: onlyMetadata(in)}
}

func onlyMetadata(f *Field) string {
	if f.Root == Metadata {
		return f.Path
	}
	return ""
}

// kindOfPath are the paths of the index that fields have, apart from those that are not paths.
var kindOfPath = map[Root]byte{
	Metadata: index.MetadataPath, Hostname: index.HostnamePath, PID: index.PIDPath, TraceID: index.TracePath, SpanID: index.SpanPath,
	EventTime: index.EventPath, IdempotencyKey: index.IdempotencyPath, Producer: index.ProducerPath, Control: index.ControlPath,
}

// atom makes the part of a condition.
func (p *Plan) atom(n Node) (part, error) {
	a := &atom{node: n}
	var hashes []uint64
	folded := func(holds func(text string) bool) func(string, string) bool {
		return func(_, folded string) bool { return holds(folded) }
	}
	switch n := n.(type) {
	case Since:
		return timePart{at: Nano(n.At.From), since: true}, nil
	case Until:
		return timePart{at: Nano(n.At.From)}, nil
	case Phrase:
		a.scope = scopeOf(n.In)
		a.holds = folded(func(text string) bool {
			return strings.Contains(text, n.Words[0]) && hasPhrase([]byte(text), n.Words, n.Begin)
		})
		words := n.Words
		if n.Begin {
			words = words[:len(words)-1]
		}
		hashes = index.PhraseTokens(words)
	case Substring:
		a.scope = scopeOf(n.In)
		a.holds = folded(func(text string) bool { return strings.Contains(text, n.Text) })
		hashes = index.PhraseTokens(innerWords(n.Text, false))
	case Regexp:
		a.scope = scopeOf(n.In)
		a.holds = func(text, _ string) bool { return n.Re.MatchString(text) }
	case Equal:
		if n.Field.Root == ID {
			return idPart(n.Text), nil
		}
		a.scope = scopeOf(&n.Field)
		a.holds = folded(func(text string) bool { return text == n.Text })
		if h, ok := index.MemberToken(a.scope.kind, n.Text); ok {
			hashes = []uint64{h}
		} else if n.Field.Root == Metadata {
			hashes = index.ValueTokens(n.Text)
		}
	case Begins:
		a.scope = scopeOf(&n.Field)
		a.holds = folded(func(text string) bool { return strings.HasPrefix(text, n.Text) })
		if n.Field.Root == Metadata {
			hashes = index.PhraseTokens(innerWords(n.Text, true))
		}
	case Compare:
		if s := spanPartOf(n.Field, []Operand{n.Operand}, []Op{n.Op}); s != nil {
			return s, nil
		}
		a.scope = scopeOf(&n.Field)
		a.holds = func(text, _ string) bool { return compares([]byte(text), n.Op, &n.Operand) }
		if n.Field.Root == PID && n.Op == Eq && isPlain(n.Operand.Text) {
			if h, ok := index.MemberToken(index.PIDPath, n.Operand.Text); ok {
				hashes = []uint64{h}
			}
		}
	case Range:
		if s := spanPartOf(n.Field, []Operand{n.From, n.To}, []Op{Ge, Le}); s != nil {
			return s, nil
		}
		a.scope = scopeOf(&n.Field)
		a.holds = func(text, _ string) bool {
			return compares([]byte(text), Ge, &n.From) && compares([]byte(text), Le, &n.To)
		}
	case Exists:
		if _, isPath := kindOfPath[n.Field.Root]; !isPath || n.Field.Root == Hostname || n.Field.Root == PID {
			return allPart{}, nil
		}
		a.scope = scopeOf(&n.Field)
	}
	if err := a.find(p.x, hashes); err != nil {
		return nil, err
	}
	p.atoms = append(p.atoms, a)
	return a, nil
}

// isPlain says whether a number is spelled as an entry's pid is.
func isPlain(text string) bool {
	v, err := strconv.ParseUint(text, 10, 32)
	return err == nil && strconv.FormatUint(v, 10) == text
}

// innerWords are the words that any text has which contains this folded text: those that do not stand at an end where they may go
// on. With begin, the text is a beginning.
func innerWords(text string, begin bool) []string {
	var words []string
	for w := range index.Words(text) {
		words = append(words, w)
	}
	if r, _ := utf8.DecodeLastRuneInString(text); len(words) > 0 && index.IsWord(r) {
		words = words[:len(words)-1]
	}
	if r, _ := utf8.DecodeRuneInString(text); len(words) > 0 && index.IsWord(r) && !begin {
		words = words[1:]
	}
	return words
}

// maxTokens bounds how many tokens of a condition are looked up. More only make an answer faster.
const maxTokens = 32

// find looks the tokens up.
func (a *atom) find(x *index.Search, hashes []uint64) error {
	a.inDict, a.known, a.dotted = true, len(hashes) > 0, x.Dotted
	for _, h := range hashes[:min(len(hashes), maxTokens)] {
		groups, in, err := x.Find(h)
		if err != nil {
			return err
		}
		a.tokens = append(a.tokens, token{groups, in})
		a.rest = meet(a.rest, groups)
		if !in {
			a.inDict = false
			a.any = meet(a.any, groups)
			if a.any.Len() == 0 { // no entry has the token: the others need not be looked up
				a.rest = a.any
				return nil
			}
		}
	}
	return nil
}

// meet is what is in both sets, of which the first may be nil and stand for everything.
func meet(s, o index.Set) index.Set {
	if s == nil {
		s = make(index.Set, len(o))
		copy(s, o)
		return s
	}
	s.And(o)
	return s
}

func (a *atom) groups(p *Plan) (may, whole index.Set) {
	may = p.everywhere()
	if a.any != nil {
		may.And(a.any)
	}
	return may, p.nowhere()
}

// special adds the groups of which shapes alone do not tell.
func (a *atom) special(x *index.Search, set index.Set) error {
	if a.odd == nil {
		a.odd = index.NewSet(x.Covered + 1)
		var rest, open, some bool
		need := map[uint64]bool{}
		for i := range a.shapes {
			s := &a.shapes[i]
			rest, open, some = rest || s.rest, open || s.open, some || s.some
			for _, n := range s.need {
				need[n] = true
			}
		}
		if (rest || open) && a.known {
			a.odd.Or(a.rest)
		} else if open {
			for _, hash := range [...]uint64{index.UnknownMessage(), index.UnknownPaths()} {
				groups, _, err := x.Find(hash)
				if err != nil {
					return err
				}
				a.odd.Or(groups)
			}
		}
		for n := range need {
			a.odd.Or(a.having(n))
		}
		if a.any != nil {
			if a.odd.And(a.any); some {
				a.odd.Or(a.any)
			}
		}
	}
	set.Or(a.odd)
	return nil
}

// having are the groups with all tokens of a set; none where it has words that are no tokens.
func (a *atom) having(need uint64) index.Set {
	var groups index.Set
	for i := range a.tokens {
		if need>>i&1 != 0 {
			groups = meet(groups, a.tokens[i].groups)
		}
	}
	if need&unknownWord != 0 {
		return nil
	}
	return groups
}

func (a *atom) shape(p *Plan, i int) state {
	s := &a.shapes[i]
	switch {
	case s.yes:
		return all
	case s.some && a.any == nil, s.rest && !a.known:
		return mixed
	}
	for _, n := range s.need {
		if n&unknownWord != 0 {
			return mixed
		}
	}
	for _, c := range a.columns {
		if p.d.HasPath(uint16(i), c.path) {
			return mixed
		}
	}
	return none
}

func (a *atom) lines(p *Plan, g uint32, from int) (yes, may Bits) {
	if a.any != nil && !a.any.Has(g) || a.never {
		return yes, may
	}
	a.classify(g)
	if !a.plain {
		for w := range yes {
			var y, m uint64
			for i, id := range p.block.Shapes[from+64*w : from+64*w+64] {
				c := uint64(a.classes[id])
				y |= c & sureLine << i
				m |= c >> 1 << i
			}
			yes[w], may[w] = y, m
		}
	}
	for c := range a.columns {
		hit, tuples := a.columns[c].hit, p.block.Tuples[a.columns[c].column]
		for w := range yes {
			var y uint64
			for i, t := range tuples[from+64*w : from+64*w+64] {
				y |= uint64(hit[t]) << i
			}
			yes[w] |= y
		}
	}
	for w := range may {
		may[w] |= yes[w]
	}
	return yes, may
}

// classify makes classes those of group g.
func (a *atom) classify(g uint32) {
	rest := a.rest == nil || a.rest.Has(g)
	has := uint64(unknownWord) // tokens that the group has outside the dictionary
	for i := range a.tokens {
		if a.tokens[i].groups.Has(g) {
			has |= 1 << i
		}
	}
	if a.classes != nil && rest == a.rested && has == a.had {
		return
	}
	class := func(s *shapeAnswer) (c uint8) {
		if s.yes {
			c = sureLine
		}
		if s.some || (s.rest || s.open) && rest || len(s.need) > 0 && satisfied(s.need, has) {
			c |= maybeLine
		}
		return c
	}
	if a.classes == nil {
		a.classes = make([]uint8, len(a.shapes))
		a.plain = true
		for i := range a.shapes {
			s := &a.shapes[i]
			a.classes[i] = class(s)
			if s.rest || s.open || len(s.need) > 0 {
				a.depend = append(a.depend, uint16(i))
			}
			a.plain = a.plain && a.classes[i] == 0
		}
		a.plain = a.plain && len(a.depend) == 0
	} else {
		for _, i := range a.depend {
			a.classes[i] = class(&a.shapes[i])
		}
	}
	a.rested, a.had = rest, has
}

func satisfied(need []uint64, has uint64) bool {
	for _, n := range need {
		if n&^has == 0 {
			return true
		}
	}
	return false
}

// ask asks the dictionary.
func (a *atom) ask(d *index.Dictionary) {
	a.shapes = make([]shapeAnswer, len(d.Shapes))
	in := make([]bool, len(d.Paths))
	for i := range d.Paths {
		path := &d.Paths[i]
		in[i] = a.scope.has(path)
		if in[i] && path.Column > 0 && a.inDict {
			a.askColumn(i, path)
		}
	}
	cut := a.cutter()
	possible := make([]bool, len(d.Paths)) // texts there are not known, and the condition may hold of one
	for i := range d.Paths {
		path := &d.Paths[i]
		possible[i] = in[i] && path.Column == 0 && cut.fits(path)
	}
	a.never = len(a.columns) == 0
	for i := range d.Shapes {
		s := &d.Shapes[i]
		a.shapes[i] = a.askShape(d, s, cut, possible)
		if v := &a.shapes[i]; v.yes || v.some || v.rest || v.open || len(v.need) > 0 {
			a.never = false
		}
	}
}

func (s *scope) has(path *index.Path) bool {
	if s.metadata {
		return path.Kind == index.MetadataPath
	}
	return s.kind != 0 && path.Kind == s.kind && path.Name == s.path
}

func (a *atom) askColumn(i int, path *index.Path) {
	answer := columnAnswer{column: path.Column - 1, path: i, hit: new([256]uint8)}
	found := false
	for t := range path.Tuples {
		for _, v := range path.Tuples[t].Values {
			ok := v.Kind != index.Null && a.holds == nil
			if a.holds != nil && v.Kind.IsScalar() {
				ok = a.holds(v.Text, v.Folded)
			}
			if ok {
				answer.hit[t+1], found = 1, true
				break
			}
		}
	}
	if found {
		a.columns = append(a.columns, answer)
	}
}

func (a *atom) askShape(d *index.Dictionary, s *index.Shape, cut cutter, possible []bool) (out shapeAnswer) {
	if a.scope.level {
		out.yes = a.holds != nil && a.holds(s.Level.String(), foldedLevels[s.Level])
		return out
	}
	if a.scope.message {
		switch {
		case !s.Known:
			out.open = true
		case len(s.Message) == 1:
			out.yes = a.inDict && a.holds(s.Message[0], s.Folded[0])
		default:
			a.askCut(s, cut, &out)
		}
	}
	if a.scope.metadata || a.scope.kind != 0 {
		if s.Keys == 0 {
			out.open = true
		}
		for _, id := range d.KeySets[s.Keys] {
			if a.holds == nil {
				a.askExists(&d.Paths[id], possible[id], &out)
			} else if possible[id] {
				out.rest = true
			}
		}
	}
	return out
}

// askExists says what a path of a shape tells of an Exists.
func (a *atom) askExists(path *index.Path, possible bool, out *shapeAnswer) {
	field := a.node.(Exists).Field
	switch {
	case possible && field.Root != Metadata && field.Path != "": // of a member of it nothing is known
		out.rest = true
	case possible && !path.Nulls:
		out.yes = true
	case possible:
		out.rest = true
	case path.Kind == index.MetadataPath && field.Root == Metadata && strings.HasPrefix(path.Name, field.Path+"."):
		// Something is within it. Where names have dots, that may be something else.
		out.yes, out.some = out.yes || !a.dotted, true
	}
}

// askCut says what a message with words left out tells.
func (a *atom) askCut(s *index.Shape, cut cutter, out *shapeAnswer) {
	if n, ok := a.node.(Phrase); ok {
		out.need, out.yes = alignments(s.Words, n.Words, n.Begin, a.tokens)
		return
	}
	if cut.local && a.inDict {
		for i, part := range s.Message {
			if a.holds(part, s.Folded[i]) {
				out.yes = true
				return
			}
		}
	}
	if a.any == nil || a.any.Len() > 0 {
		out.some = cut.crosses(s)
	}
}

// A timePart is Since or Until.
type timePart struct {
	at    int64 // Unix nanoseconds
	since bool
}

func (t timePart) span(low, high int64) state {
	return state(btoi((low >= t.at) == t.since) + btoi((high >= t.at) == t.since))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t timePart) groups(p *Plan) (may, whole index.Set) {
	d, err := p.x.Dictionary()
	if err != nil {
		return p.everywhere(), p.nowhere() // whoever reads the dictionary next is told
	}
	may, whole = p.nowhere(), p.nowhere()
	for g, times := range d.Times {
		s := t.span(times[0], times[1])
		may[g/64] |= uint64(btoi(s != none)) << (g % 64)
		whole[g/64] |= uint64(btoi(s == all)) << (g % 64)
	}
	return may, whole
}

func (t timePart) group(p *Plan, g uint32) state {
	d, err := p.x.Dictionary()
	if err != nil {
		return mixed // whoever reads the dictionary next is told
	}
	return t.span(d.Times[g][0], d.Times[g][1])
}

func (t timePart) shape(*Plan, int) state { return mixed }

func (t timePart) lines(p *Plan, g uint32, _ int) (yes, may Bits) { return t.group(p, g).lines() }

func (s state) lines() (yes, may Bits) {
	switch s {
	case all:
		return everything, everything
	case mixed:
		return Bits{}, everything
	}
	return Bits{}, Bits{}
}

// A spanPart compares what grows from entry to entry, or nearly so: a group's lowest and highest say enough.
type spanPart struct {
	timestamp bool // else the entry's index
	ops       []Op
	operands  []Operand
}

func spanPartOf(f Field, operands []Operand, ops []Op) part {
	if f.Root != Timestamp && f.Root != Index {
		return nil
	}
	return spanPart{f.Root == Timestamp, ops, operands}
}

func (s spanPart) groups(p *Plan) (may, whole index.Set) {
	return p.where(func(g uint32) state { return s.group(p, g) })
}

func (s spanPart) group(p *Plan, g uint32) state {
	var low, high string
	if s.timestamp {
		d, err := p.x.Dictionary()
		if err != nil {
			return mixed
		}
		low, high = string(entry.FormatTime(nil, d.Times[g][0])), string(entry.FormatTime(nil, d.Times[g][1]))
	} else {
		first := p.x.First + uint64(g)*index.GroupSize
		low, high = strconv.FormatUint(first, 10), strconv.FormatUint(first+index.GroupSize-1, 10)
	}
	least := all
	for i, op := range s.ops {
		if op == Eq { // at or above, and at or below
			least = min(least, s.compare(low, high, Ge, i), s.compare(low, high, Le, i))
			continue
		}
		least = min(least, s.compare(low, high, op, i))
	}
	return least
}

func (s spanPart) compare(low, high string, op Op, i int) state {
	return state(btoi(compares([]byte(low), op, &s.operands[i])) + btoi(compares([]byte(high), op, &s.operands[i])))
}

func (s spanPart) shape(*Plan, int) state { return mixed }

func (s spanPart) lines(p *Plan, g uint32, _ int) (yes, may Bits) { return s.group(p, g).lines() }

// An idPart is an entry's id, whose low 32 bits are its index's.
type idPart string

func (id idPart) groups(p *Plan) (may, whole index.Set) {
	may = p.nowhere()
	if len(id) == 36 {
		if low, err := strconv.ParseUint(string(id[28:]), 16, 32); err == nil {
			// Entries of one segment are 2^32 at the most.
			if g := (uint32(low) - uint32(p.x.First)) / index.GroupSize; g < p.x.Covered {
				may.Add(g)
			}
		}
	}
	return may, p.nowhere()
}

func (id idPart) shape(*Plan, int) state { return mixed }

func (id idPart) lines(p *Plan, g uint32, _ int) (yes, may Bits) {
	m, _ := id.groups(p)
	return state(btoi(m.Has(g))).lines()
}

// alignments says how words can stand in a message, of which some are left out: yes where without these, else the sets of words, by
// bits, that would have to be among these.
func alignments(message []index.Word, words []string, begin bool, tokens []token) (need []uint64, yes bool) {
	exact := len(words)
	if begin {
		exact--
	}
	for from := 0; from+len(words) <= len(message); from++ {
		set, fits := uint64(0), true
		for i, w := range words {
			switch it := message[from+i]; {
			case it.Cut && i < exact && i < len(tokens):
				set |= 1 << i
			case it.Cut:
				set |= unknownWord
			case i < exact:
				fits = fits && it.Text == w
			default:
				fits = fits && strings.HasPrefix(it.Text, w)
			}
			if !fits {
				break
			}
		}
		switch {
		case fits && set == 0:
			return nil, true
		case fits && !slices.Contains(need, set):
			need = append(need, set)
		}
	}
	return need, false
}

// foldedLevels are the levels' names.
var foldedLevels = func() (names [entry.NumLevels]string) {
	for i := range names {
		names[i] = index.Fold(entry.Level(i).String())
	}
	return names
}()
