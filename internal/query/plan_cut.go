package query

import (
	"regexp/syntax"
	"strings"
	"unicode"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// A cutter says what can be known of texts that are known in part: messages of which words were left out, and paths of which only the
// characters are known. Where it says no, the condition holds of none.
type cutter struct {
	local   bool                            // where it holds of a part of a text it holds of the text
	fits    func(path *index.Path) bool     // it may hold of a text at this path
	crosses func(s *index.Shape) (may bool) // it may hold of a message of the shape's parts, with a word between each two
}

func always(*index.Path) bool { return true }

func (a *atom) cutter() cutter {
	c := cutter{fits: always, crosses: func(*index.Shape) bool { return true }}
	switch n := a.node.(type) {
	case Phrase:
		c.fits = func(path *index.Path) bool { return spells(path, strings.Join(n.Words, "")) }
	case Substring:
		c.local = true
		c.fits = func(path *index.Path) bool { return spells(path, n.Text) }
		c.crosses = func(s *index.Shape) bool { return crossesText(s.Folded, n.Text) }
	case Equal:
		c.fits = func(path *index.Path) bool { return spells(path, n.Text) }
	case Begins:
		c.fits = func(path *index.Path) bool { return spells(path, n.Text) }
	case Compare, Range:
		c.fits = func(path *index.Path) bool {
			const digits = 0x3ff << '0'
			return !described(path) || path.Wide || path.Chars[0]&digits != 0
		}
	case Regexp:
		m, ok := newMachine(n.Source)
		if !ok {
			return c
		}
		c.local = m.local
		c.fits = func(path *index.Path) bool {
			return !described(path) || path.Wide || m.any([]step{{chars: func(r rune) bool { return path.Chars[r>>6]>>(r&63)&1 != 0 }}})
		}
		var steps []step
		c.crosses = func(s *index.Shape) bool {
			steps = stepsOf(steps[:0], s.Message)
			return m.any(steps)
		}
	}
	return c
}

// described says whether the characters of a path's texts are known.
func described(path *index.Path) bool {
	switch path.Kind {
	case index.MetadataPath, index.HostnamePath, index.PIDPath, index.TracePath, index.SpanPath:
		return true
	}
	return false
}

// spells says whether a text at path may contain these folded characters.
func spells(path *index.Path, folded string) bool {
	if !described(path) || path.Wide {
		return true
	}
	if len(folded) > path.Longest {
		return false
	}
	has := func(c byte) bool { return path.Chars[c>>6]>>(c&63)&1 != 0 }
	for i := range len(folded) {
		c := folded[i]
		if c >= 0x80 || !has(c) && (c < 'a' || c > 'z' || !has(c-'a'+'A')) {
			return false
		}
	}
	return true
}

// crossesText says whether a folded text can stand in a message of these folded parts, with a word between each two.
func crossesText(parts []string, folded string) bool {
	const cut = -1
	var items []rune
	for i, part := range parts {
		if i > 0 {
			items = append(items, cut)
		}
		items = append(items, []rune(part)...)
	}
	now, next := make([]bool, len(items)+1), make([]bool, len(items)+1)
	for i := range items {
		now[i] = true
	}
	for _, r := range folded {
		clear(next)
		some := false
		for i, it := range items {
			switch {
			case !now[i]:
			case it == r:
				next[i+1], some = true, true
			case it == cut && index.IsWord(r):
				next[i], next[i+1], some = true, true, true
			}
		}
		if !some {
			return false
		}
		now, next = next, now
	}
	return true
}

// A machine runs a regular expression over texts of which only parts are known. Conditions such as ^ and \b count as true. It is for one
// goroutine.
type machine struct {
	prog  *syntax.Prog
	local bool // it has no such conditions

	now, next states
	stack     []uint32
	words     []state // whether each instruction takes a character of words; none: not asked yet, mixed: no, all: yes
}

// states are instructions that are reached: those in list, of which at says where they are in it.
type states struct {
	list, at []uint32
}

func (s *states) has(pc uint32) bool {
	i := s.at[pc]
	return i < uint32(len(s.list)) && s.list[i] == pc
}

func (s *states) add(pc uint32) {
	s.at[pc] = uint32(len(s.list))
	s.list = append(s.list, pc)
}

// maxMachine bounds the instructions of an expression that is run.
const maxMachine = 1000

func newMachine(source string) (*machine, bool) {
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil, false
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil || len(prog.Inst) > maxMachine {
		return nil, false
	}
	n := len(prog.Inst)
	m := &machine{prog: prog, local: true, words: make([]state, n)}
	m.now.at, m.next.at = make([]uint32, n), make([]uint32, n)
	for i := range prog.Inst {
		m.local = m.local && prog.Inst[i].Op != syntax.InstEmptyWidth
	}
	return m, true
}

// A step is a part of a text: one character, or at least one of a set.
type step struct {
	char  rune
	word  bool              // of the set of words
	chars func(r rune) bool // of this set of ASCII characters; nil for the other two
}

// stepsOf appends the steps of a message of these parts, with a word between each two.
func stepsOf(steps []step, parts []string) []step {
	for i, part := range parts {
		if i > 0 {
			steps = append(steps, step{word: true})
		}
		for _, r := range part {
			steps = append(steps, step{char: r})
		}
	}
	return steps
}

// any says whether a text of these steps may have a match.
func (m *machine) any(steps []step) bool {
	m.now.list = m.now.list[:0]
	if m.follow(&m.now, uint32(m.prog.Start)) {
		return true
	}
	for i := range steps {
		s := &steps[i]
		m.next.list = m.next.list[:0]
		if m.advance(&m.now, s) || m.follow(&m.next, uint32(m.prog.Start)) {
			return true
		}
		// After one character of a set or more: what is reached grows until it stays.
		for before := 0; (s.word || s.chars != nil) && len(m.next.list) > before; {
			before = len(m.next.list)
			if m.advance(&m.next, s) {
				return true
			}
		}
		m.now, m.next = m.next, m.now
	}
	return false
}

// advance adds to next what the instructions in from reach by one character. It returns true where that is a match.
func (m *machine) advance(from *states, s *step) bool {
	for i := 0; i < len(from.list); i++ { // from may be next, and grow
		pc := from.list[i]
		if m.takes(pc, s) && m.follow(&m.next, m.prog.Inst[pc].Out) {
			return true
		}
	}
	return false
}

// takes says whether an instruction takes a character of the step.
func (m *machine) takes(pc uint32, s *step) bool {
	inst := &m.prog.Inst[pc]
	switch inst.Op {
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
	default:
		return false
	}
	switch {
	case s.chars != nil:
		return takesASCII(inst, s.chars)
	case s.word:
		if m.words[pc] == none {
			m.words[pc] = mixed
			if takesWord(inst) {
				m.words[pc] = all
			}
		}
		return m.words[pc] == all
	}
	return inst.MatchRune(s.char)
}

// takesWord says whether an instruction may take a character of words.
func takesWord(inst *syntax.Inst) bool {
	if inst.Op == syntax.InstRune1 && inst.Rune[0] >= 0x80 {
		return index.IsWord(inst.Rune[0])
	}
	if inst.Op != syntax.InstRune1 {
		// The expression's own classes that have characters beyond ASCII have some of words, as far as one need know.
		if inst.Op != syntax.InstRune || len(inst.Rune) == 0 || inst.Rune[len(inst.Rune)-1] >= 0x80 || syntax.Flags(inst.Arg)&syntax.FoldCase != 0 {
			return true
		}
	}
	return takesASCII(inst, index.IsWord)
}

func takesASCII(inst *syntax.Inst, chars func(r rune) bool) bool {
	for r := rune(0); r <= unicode.MaxASCII; r++ {
		if chars(r) && inst.MatchRune(r) {
			return true
		}
	}
	return false
}

// follow adds an instruction and those that it leads to without a character. It returns true where the expression matches.
func (m *machine) follow(set *states, pc uint32) bool {
	m.stack = append(m.stack[:0], pc)
	for len(m.stack) > 0 {
		pc := m.stack[len(m.stack)-1]
		m.stack = m.stack[:len(m.stack)-1]
		if set.has(pc) {
			continue
		}
		set.add(pc)
		inst := &m.prog.Inst[pc]
		switch inst.Op {
		case syntax.InstMatch:
			return true
		case syntax.InstAlt, syntax.InstAltMatch:
			m.stack = append(m.stack, inst.Out, inst.Arg)
		case syntax.InstCapture, syntax.InstNop, syntax.InstEmptyWidth:
			m.stack = append(m.stack, inst.Out)
		}
	}
	return false
}
