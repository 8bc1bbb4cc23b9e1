package query

import (
	"slices"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
)

// Facts are what somebody remembers of some entries whose lines he has read.
type Facts struct {
	Levels         [entry.NumLevels]uint16 // how many entries of each
	Oldest, Newest int64                   // timestamps, Unix nanoseconds
	Words          index.Filter            // of their texts; nil: any
}

// NewFacts are those of lines that were proven.
func NewFacts(lines [][]byte, m *index.FilterMaker) (*Facts, bool) {
	f := &Facts{}
	for i, line := range lines {
		t, level, ok := entry.Peek(line)
		if !ok {
			return nil, false
		}
		if f.Levels[level]++; i == 0 {
			f.Oldest, f.Newest = t, t
		}
		f.Oldest, f.Newest = min(f.Oldest, t), max(f.Newest, t)
	}
	var err error
	f.Words, err = m.Filter(lines)
	return f, err == nil
}

// Len is how many entries there are.
func (f *Facts) Len() (n uint64) {
	for _, l := range f.Levels {
		n += uint64(l)
	}
	return n
}

// Size is about how many bytes of memory they take.
func (f *Facts) Size() int { return 64 + 8*len(f.Words) }

// Tell says that the query selects none of the entries, or all of them, or, with neither, that only the entries tell.
func (f *Facts) Tell(root Node) (selectsNone, selectsAll bool) {
	s := f.state(root)
	return s == none, s == all
}

func (f *Facts) state(n Node) state {
	switch n := n.(type) {
	case All:
		return all
	case And:
		least := all
		for _, sub := range n.Nodes {
			if least = min(least, f.state(sub)); least == none {
				break
			}
		}
		return least
	case Or:
		most := none
		for _, sub := range n.Nodes {
			if most = max(most, f.state(sub)); most == all {
				break
			}
		}
		return most
	case Not:
		return all - f.state(n.Node)
	case Since:
		return timePart{at: Nano(n.At.From), since: true}.span(f.Oldest, f.Newest)
	case Until:
		return timePart{at: Nano(n.At.From)}.span(f.Oldest, f.Newest)
	case Phrase:
		words := n.Words
		if n.Begin {
			words = words[:len(words)-1]
		}
		return f.having(words)
	case Substring:
		if n.In == nil || n.In.Root == Message || n.In.Root == Metadata {
			return f.having(innerWords(n.Text, false))
		}
	case Equal:
		return f.equal(n)
	}
	return mixed
}

func (f *Facts) equal(n Equal) state {
	switch n.Field.Root {
	case Metadata:
		return f.having(slices.Collect(index.Words(n.Text)))
	case Level:
		v, err := entry.ParseLevel(n.Text)
		if err != nil {
			return mixed
		}
		switch uint64(f.Levels[v]) {
		case 0:
			return none
		case f.Len():
			return all
		}
	}
	return mixed
}

// having is none where no text has all of the words.
func (f *Facts) having(words []string) state {
	for _, w := range words {
		if f.Words != nil && !f.Words.May(index.WordToken(w)) {
			return none
		}
	}
	return mixed
}
