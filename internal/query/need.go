package query

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// A need is what the bytes of a line must contain, in either case, where the query selects it and the line is clean: most
// lines are told apart without decoding them. nil is no need.
type need interface{ in(line []byte) bool }

type needAll []need

type needOne []need

func (n *needText) in(line []byte) bool { return n.find(line) >= 0 }

func (n needAll) in(line []byte) bool {
	for _, sub := range n {
		if !sub.in(line) {
			return false
		}
	}
	return true
}

func (n needOne) in(line []byte) bool {
	for _, sub := range n {
		if sub.in(line) {
			return true
		}
	}
	return false
}

// A needText is looked for by its rarest character, of which either case is jumped to.
type needText struct {
	text     []byte // ASCII, letters in lower case
	at       int    // of the rarest character
	low, upp byte   // that one; the same where the text has no letter
}

// rare has the letters that log lines have, from the rarest on.
const rare = "zqjxkvbwyfghupcmdlonirstae"

func newNeedText(text string) *needText {
	n := &needText{text: []byte(text)}
	best := -1
	for i, c := range n.text {
		// Letters before digits, which lines have many of, before what else stands between all members.
		rank := 2 * len(rare)
		if at := strings.IndexByte(rare, c); at >= 0 {
			rank = at
		} else if '0' <= c && c <= '9' {
			rank = len(rare)
		}
		if best < 0 || rank < best {
			best, n.at = rank, i
		}
	}
	if best >= len(rare) {
		n.at = rarePair(text)
	}
	n.low, n.upp = n.text[n.at], n.text[n.at]
	if 'a' <= n.low && n.low <= 'z' {
		n.upp -= 'a' - 'A'
	}
	return n
}

// rarePair is where the two characters of a text without letters begin that are looked for first: a digit beside what is none, the later the
// better, since numbers and times begin alike.
func rarePair(text string) int {
	digit := func(i int) bool { return '0' <= text[i] && text[i] <= '9' }
	for i := len(text) - 2; i >= 0; i-- {
		if digit(i) != digit(i+1) {
			return i
		}
	}
	return max(len(text)-2, 0)
}

// find is where the text is in b first, or below 0.
func (n *needText) find(b []byte) int {
	if n.low == n.upp { // it has no letter at all
		if n.at+1 < len(n.text) {
			return n.findPair(b)
		}
		return bytes.Index(b, n.text)
	}
	low, upp := -1, -1 // where the rarest character is next, in each case
	for at := n.at; ; at++ {
		if low < at {
			low = next(b, at, n.low)
		}
		if upp < at {
			upp = next(b, at, n.upp)
		}
		if at = min(low, upp); at-n.at+len(n.text) > len(b) {
			return -1
		}
		if equalFold(b[at-n.at:], n.text) {
			return at - n.at
		}
	}
}

// findPair is find for a text without letters, by two of its characters that stand side by side: digits and points are too frequent in log
// lines to be jumped to one by one. It looks at eight places at a time.
func (n *needText) findPair(b []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	first, second := ones*uint64(n.text[n.at]), ones*uint64(n.text[n.at+1])
	at, last := n.at, len(b)-len(n.text)+n.at // of the first character
	for ; at+9 <= len(b) && at <= last; at += 8 {
		x := (binary.LittleEndian.Uint64(b[at:]) ^ first) | (binary.LittleEndian.Uint64(b[at+1:]) ^ second)
		// The lowest zero byte of x is where both are; bytes above one may seem to be.
		for zero := (x - ones) &^ x & tops; zero != 0; zero &= zero - 1 {
			if from := at + bits.TrailingZeros64(zero)/8 - n.at; from+len(n.text) <= len(b) && string(b[from:from+len(n.text)]) == string(n.text) {
				return from
			}
		}
	}
	if from := at - n.at; from < len(b) {
		if i := bytes.Index(b[from:], n.text); i >= 0 {
			return from + i
		}
	}
	return -1
}

// next is where c is in b from at on, or the end.
func next(b []byte, at int, c byte) int {
	if at < len(b) {
		if i := bytes.IndexByte(b[at:], c); i >= 0 {
			return at + i
		}
	}
	return len(b)
}

// equalFold says whether b begins with text, which is ASCII with letters in lower case, in either case.
func equalFold(b, text []byte) bool {
	for i, want := range text {
		c := b[i]
		if c-'A' < 26 {
			c |= 0x20
		}
		if c != want {
			return false
		}
	}
	return true
}

// isClean says that ASCII letters, digits and spaces of a decoded text stand as themselves in these bytes, in either case:
// none is spelled with an escape, and none of the two other characters that fold to ASCII is there.
func isClean(b []byte) bool {
	return !bytes.Contains(b, []byte(`\u`)) && !bytes.Contains(b, []byte(kelvin)) && !bytes.Contains(b, []byte(longS))
}

const kelvin, longS = "\u212a", "\u017f"

// rarest is the text of a need that is looked for first: the longest of those that must all be there. nil if there is none.
func rarest(n need) (best *needText) {
	switch n := n.(type) {
	case *needText:
		return n
	case needAll:
		for _, sub := range n {
			if text := rarest(sub); text != nil && (best == nil || len(text.text) > len(best.text)) {
				best = text
			}
		}
	}
	return best
}

// linesWith are offsets at which text is, the first in each line that has it.
func linesWith(dst []int, block []byte, text *needText) []int {
	for at := 0; ; {
		i := text.find(block[at:])
		if i < 0 {
			return dst
		}
		dst = append(dst, at+i)
		end := bytes.IndexByte(block[at+i:], '\n')
		if end < 0 {
			return dst
		}
		at += i + end
	}
}

func needOf(n Node) need {
	switch n := n.(type) {
	case And:
		return allOf(n.Nodes)
	case Or:
		var one needOne
		for _, sub := range n.Nodes {
			s := needOf(sub)
			if s == nil {
				return nil
			}
			one = append(one, s)
		}
		return one
	case Phrase:
		var all needAll
		for _, w := range n.Words {
			all = all.with(textNeed(w))
		}
		return all.orNil()
	case Substring:
		return needAll{}.with(pathNeed(n.In)...).with(textNeed(n.Text)).orNil()
	case Regexp:
		tree, err := syntax.Parse(n.Source, syntax.Perl)
		if err != nil {
			return pathNeed(n.In).orNil()
		}
		return needAll{}.with(pathNeed(n.In)...).with(regexpNeed(tree)).orNil()
	case Equal:
		if n.Field.Root == Level {
			return newNeedText(`"level":"` + n.Text + `"`)
		}
		return needAll{}.with(pathNeed(&n.Field)...).with(textNeed(n.Text)).orNil()
	case Begins:
		return needAll{}.with(pathNeed(&n.Field)...).with(textNeed(n.Text)).orNil()
	case Compare:
		return pathNeed(&n.Field).orNil()
	case Range:
		return pathNeed(&n.Field).orNil()
	case Exists:
		return pathNeed(&n.Field).orNil()
	}
	return nil
}

func allOf(nodes []Node) need {
	var all needAll
	for _, sub := range nodes {
		all = all.with(needOf(sub))
	}
	return all.orNil()
}

func (n needAll) with(more ...need) needAll {
	for _, m := range more {
		if m != nil {
			n = append(n, m)
		}
	}
	return n
}

func (n needAll) orNil() need {
	switch len(n) {
	case 0:
		return nil
	case 1:
		return n[0]
	}
	return n
}

// textNeed is the longest part of a folded text that a clean line has as it is.
func textNeed(folded string) need {
	best := ""
	for _, part := range strings.FieldsFunc(folded, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\/`, r) }) {
		if len(part) > len(best) {
			best = part
		}
	}
	if best == "" {
		return nil
	}
	return newNeedText(best)
}

// pathNeed are the member names that lead to a field of metadata. A dot in its path may be one in a name.
func pathNeed(f *Field) (all needAll) {
	if f == nil || f.Root != Metadata {
		return nil
	}
	for name := range strings.SplitSeq(f.Path, ".") {
		// Names are not folded when they are compared, so only ASCII letters of a name are in lower case here.
		all = all.with(textNeed(lowerASCII(name)))
	}
	return all
}

// regexpNeed is what a match contains.
func regexpNeed(re *syntax.Regexp) need {
	switch re.Op {
	case syntax.OpLiteral:
		return textNeed(index.Fold(string(re.Rune)))
	case syntax.OpCapture, syntax.OpPlus:
		return regexpNeed(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return regexpNeed(re.Sub[0])
		}
	case syntax.OpConcat:
		var all needAll
		for _, sub := range re.Sub {
			all = all.with(regexpNeed(sub))
		}
		return all.orNil()
	case syntax.OpAlternate:
		var one needOne
		for _, sub := range re.Sub {
			s := regexpNeed(sub)
			if s == nil {
				return nil
			}
			one = append(one, s)
		}
		return one
	}
	return nil
}

// lowerASCII is text with A to Z in lower case.
func lowerASCII(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}

// Nano is t in Unix nanoseconds; times outside their range become its ends.
func Nano(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}
