package query

import (
	"bytes"
	"cmp"
	"slices"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// Marks are the parts of text that words, phrases, substrings, regular expressions and values of the query match: byte
// ranges in order, without overlaps. What stands behind Not marks nothing, and the field is not looked at.
func Marks(root Node, text string) [][2]int {
	m := marker{text: text}
	for i, r := range text {
		m.folded = utf8.AppendRune(m.folded, index.FoldRune(r))
		for len(m.from) < len(m.folded) {
			m.from = append(m.from, i)
		}
	}
	m.from = append(m.from, len(text))
	m.mark(root)
	slices.SortFunc(m.found, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(b[1], a[1])) })
	var out [][2]int
	for _, f := range m.found {
		if n := len(out); n > 0 && f[0] <= out[n-1][1] {
			out[n-1][1] = max(out[n-1][1], f[1])
			continue
		}
		out = append(out, f)
	}
	return out
}

type marker struct {
	text   string
	folded []byte
	from   []int // where in text the rune begins that a folded byte is of
	found  [][2]int
}

func (m *marker) mark(n Node) {
	switch n := n.(type) {
	case And:
		for _, sub := range n.Nodes {
			m.mark(sub)
		}
	case Or:
		for _, sub := range n.Nodes {
			m.mark(sub)
		}
	case Phrase:
		m.each([]byte(n.Words[0]), func(at int) int {
			if r, size := utf8.DecodeLastRune(m.folded[:at]); size > 0 && index.IsWord(r) {
				return -1
			}
			return phraseEnd(m.folded, at, n.Words, n.Begin)
		})
	case Substring:
		m.whole(n.Text)
	case Equal:
		m.value(n.Text, true)
	case Begins:
		m.value(n.Text, false)
	case Regexp:
		for _, f := range n.Re.FindAllStringIndex(m.text, maxMarks) {
			m.add(f[0], f[1])
		}
	}
}

// maxMarks bounds the work for one text.
const maxMarks = 1000

func (m *marker) add(from, to int) {
	if from < to && len(m.found) < maxMarks {
		m.found = append(m.found, [2]int{from, to})
	}
}

// each marks what begins with first at a place for which end gives an end; -1 is none.
func (m *marker) each(first []byte, end func(at int) int) {
	for at := 0; len(m.found) < maxMarks; {
		i := bytes.Index(m.folded[at:], first)
		if i < 0 {
			return
		}
		at += i
		if to := end(at); to >= 0 {
			m.add(m.from[at], m.from[to])
		}
		at++
	}
}

func (m *marker) whole(text string) {
	if text != "" {
		m.each([]byte(text), func(at int) int { return at + len(text) })
	}
}

// value marks a value where no word goes on before it or, if it is a whole one, after it.
func (m *marker) value(text string, whole bool) {
	if text == "" {
		return
	}
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	m.each([]byte(text), func(at int) int {
		before, n := utf8.DecodeLastRune(m.folded[:at])
		after, n2 := utf8.DecodeRune(m.folded[at+len(text):])
		if n > 0 && index.IsWord(before) && index.IsWord(first) || whole && n2 > 0 && index.IsWord(after) && index.IsWord(last) {
			return -1
		}
		return at + len(text)
	})
}

// phraseEnd is where the words that stand at at end, with the rest of a word of which only the beginning is given; or -1.
func phraseEnd(text []byte, at int, words []string, begin bool) int {
	if !phraseAt(text[at:], words, begin) {
		return -1
	}
	for i, w := range words {
		if i > 0 {
			at += wordStart(text[at:])
		}
		at += len(w)
	}
	for at < len(text) && begin {
		r, n := utf8.DecodeRune(text[at:])
		if !index.IsWord(r) {
			break
		}
		at += n
	}
	return at
}
