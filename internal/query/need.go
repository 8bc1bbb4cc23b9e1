package query

import (
	"bytes"
	"encoding/binary"
	"math"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// A need is what the bytes of a line, in lower case, must contain where the query selects it and the line is clean: most
// lines are told apart without decoding them. nil is no need.
type need interface{ in(low []byte) bool }

type needText []byte

type needAll []need

type needOne []need

func (n needText) in(low []byte) bool { return bytes.Contains(low, n) }

func (n needAll) in(low []byte) bool {
	for _, sub := range n {
		if !sub.in(low) {
			return false
		}
	}
	return true
}

func (n needOne) in(low []byte) bool {
	for _, sub := range n {
		if sub.in(low) {
			return true
		}
	}
	return false
}

// isClean says that ASCII letters, digits and spaces of a decoded text stand as themselves in these bytes, in either case:
// none is spelled with an escape, and none of the two other characters that fold to ASCII is there.
func isClean(low []byte) bool {
	return !bytes.Contains(low, []byte(`\u`)) && !bytes.Contains(low, []byte(kelvin)) && !bytes.Contains(low, []byte(longS))
}

const kelvin, longS = "\u212a", "\u017f"

// rarest is the text of a need that is looked for first: the longest of those that must all be there. nil if there is none.
func rarest(n need) (best needText) {
	switch n := n.(type) {
	case needText:
		return n
	case needAll:
		for _, sub := range n {
			if text := rarest(sub); len(text) > len(best) {
				best = text
			}
		}
	}
	return best
}

// linesWith are offsets at which text is, the first in each line that has it.
func linesWith(dst []int, block, text []byte) []int {
	for at := 0; ; {
		i := bytes.Index(block[at:], text)
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
			return needText(`"level":"` + n.Text + `"`)
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
	return needText(best)
}

// pathNeed are the member names that lead to a field of metadata. A dot in its path may be one in a name.
func pathNeed(f *Field) (all needAll) {
	if f == nil || f.Root != Metadata {
		return nil
	}
	for name := range strings.SplitSeq(f.Path, ".") {
		// Names are not folded when they are compared, so only ASCII letters of a name are in lower case here.
		low, _ := appendLower(nil, []byte(name))
		all = all.with(textNeed(string(low)))
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

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// appendLower appends b with A to Z in lower case, and says whether it is clean.
func appendLower(dst, b []byte) (out []byte, clean bool) {
	from := len(dst)
	dst = append(dst, b...)
	low := dst[from:]
	beyond, escaped := uint64(0), false
	i := 0
	for ; i+8 <= len(low); i += 8 {
		x := binary.LittleEndian.Uint64(low[i:])
		seven := x &^ highs
		// The high bit of a byte tells whether its low seven bits are at least 'A', and at least 'Z'+1.
		upper := (seven + ones*(0x80-'A')) &^ (seven + ones*(0x80-'Z'-1)) &^ x & highs
		binary.LittleEndian.PutUint64(low[i:], x|upper>>2)
		beyond |= x
		if y := x ^ ones*'\\'; (y-ones)&^y&highs != 0 { // some byte is a backslash
			escaped = escaped || escapes(low[i:min(i+9, len(low))])
		}
	}
	for ; i < len(low); i++ {
		c := low[i]
		if c-'A' < 26 {
			low[i] = c | 0x20
		}
		beyond |= uint64(c)
		escaped = escaped || escapes(low[i:min(i+2, len(low))])
	}
	clean = !escaped && (beyond&highs == 0 || !bytes.Contains(low, []byte(kelvin)) && !bytes.Contains(low, []byte(longS)))
	return dst, clean
}

// escapes says whether an escape of four hex digits begins in b, but for its last byte.
func escapes(b []byte) bool {
	for i := 0; i+1 < len(b); i++ {
		if b[i] == '\\' && b[i+1]|0x20 == 'u' {
			return true
		}
	}
	return false
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
