package query

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is a mistake in a query.
type Error struct {
	Query  string
	Offset int // in bytes; the query's length where something is missing at its end
	Msg    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("query: character %d: %s", utf8.RuneCountInString(e.Query[:e.Offset])+1, e.Msg)
}

// excerpt is how many characters Caret shows before and after the mistake.
const excerpt = 60

// Caret is two lines for a person: the query, or as much of it as stands around the mistake, and ^ under the mistake.
// Characters that could disturb the lines are shown as dots.
func (e *Error) Caret() (line, caret string) {
	before, after := []rune(e.Query[:e.Offset]), []rune(e.Query[e.Offset:])
	var b strings.Builder
	if len(before) > excerpt {
		before = before[len(before)-excerpt:]
		b.WriteString("…")
	}
	cut := len(after) > excerpt
	if cut {
		after = after[:excerpt]
	}
	width := b.Len() / len("…")
	for _, r := range before {
		width += show(&b, r)
	}
	for _, r := range after {
		show(&b, r)
	}
	if cut {
		b.WriteString("…")
	}
	return b.String(), strings.Repeat(" ", width) + "^"
}

// show writes a rune and returns how many columns it takes.
func show(b *strings.Builder, r rune) int {
	switch {
	case r == utf8.RuneError || !unicode.IsGraphic(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
		b.WriteRune('·')
		return 1
	case unicode.Is(unicode.M, r):
		b.WriteRune(r)
		return 0
	case unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana) || r >= 0xff01 && r <= 0xff60 || r >= 0x1f300 && r <= 0x1faff:
		b.WriteRune(r)
		return 2
	}
	b.WriteRune(r)
	return 1
}
