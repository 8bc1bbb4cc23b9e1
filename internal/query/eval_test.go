package query

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
)

var testNow = time.Date(2026, 3, 14, 15, 9, 26, 535897932, time.UTC)

// Words and values that meet each other: cases, scripts, escapes, numbers in several spellings, times.
var (
	vocabulary = []string{
		"failed", "login", "FAILED", "Login", "für", "FÜR", "naïve", "Kelvin", "\u212aelvin", "ſt", "st", "Ωmega", "ωMEGA", "日本語", "ログ", "a", "b", "10", "203.0.113.42", "foo-bar",
		"foo_bar", "user@example.com", "C:\\temp", "say \"hi\"", "tab\tnew\nline", "/var/log", "\u0000\u007f\u0085", "е́", "x*y", "..", ":", "AND", "OR", "NOT", "null", "true",
	}
	scalars = []string{
		`0`, `-0`, `1`, `10`, `1e1`, `10.0`, `100e-1`, `-5`, `0.1`, `0.10`, `18446744073709551615`, `18446744073709551614`, `1e300`, `-1e-300`, `true`, `false`, `null`,
		`"10"`, `"1e1"`, `"010"`, `"2026-03-14T15:09:26Z"`, `"2026-03-14T16:09:26+01:00"`, `"2026-03-14"`, `""`, `"\u0066ailed \u006cogin"`, `"\/var\/log"`, `"caf\u00e9"`,
	}
	names = []string{"user", "name", "ip", "amount", "a.b", "a", "b", "level", "metadata", "since", "producer", "x y", "Ünï", `q"q`, "", "0"}
)

type random struct{ *rand.Rand }

func pick[T any](r random, list []T) T { return list[r.IntN(len(list))] }

func (r random) text() string {
	var parts []string
	for range r.IntN(4) {
		parts = append(parts, pick(r, vocabulary))
	}
	return strings.Join(parts, pick(r, []string{" ", " ", ", ", "", "-"}))
}

func (r random) json(depth int) string {
	switch n := r.IntN(10); {
	case n < 4:
		return pick(r, scalars)
	case n < 7 || depth > 3:
		b, _ := json.Marshal(r.text())
		return string(b)
	case n < 8:
		var items []string
		for range r.IntN(4) {
			items = append(items, r.json(depth+1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return r.object(depth + 1)
}

func (r random) object(depth int) string {
	var members []string
	used := map[string]bool{}
	for range r.IntN(5) {
		name := pick(r, names)
		if used[name] {
			continue
		}
		used[name] = true
		b, _ := json.Marshal(name)
		if r.IntN(8) == 0 && name != "" {
			b = fmt.Appendf(nil, `"\u%04x%s`, []rune(name)[0], strings.TrimPrefix(string(b), `"`+string([]rune(name)[0])))
			if !json.Valid(b) {
				continue
			}
		}
		members = append(members, string(b)+":"+r.json(depth))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// entry makes a line with an index.
func (r random) entry(t testing.TB) (line []byte, at uint64) {
	t.Helper()
	e := &entry.Event{Level: entry.Level(r.IntN(entry.NumLevels)), Message: r.text(), RawMetadata: []byte(r.object(0)), Hostname: pick(r, vocabulary), PID: uint32(r.IntN(3) * 5)}
	if r.IntN(3) == 0 {
		e.EventTime = testNow.Add(time.Duration(r.IntN(100)-50) * time.Hour)
	}
	if r.IntN(3) == 0 {
		e.TraceID, e.IdempotencyKey = "0123456789abcdef0123456789abcdef", pick(r, vocabulary)
	}
	if r.IntN(5) == 0 {
		e.Level, e.Log = entry.System, []byte(`{"type":"clock","was":"2026-03-14T15:09:26Z","now":"failed"}`)
	}
	line, err := entry.Append(nil, e)
	if err != nil {
		t.Fatalf("%q %s: %v", e.Message, e.RawMetadata, err)
	}
	at = uint64(r.IntN(20))
	entry.Patch(line, at, testNow.Add(time.Duration(r.IntN(200)-100)*time.Hour).UnixNano(), 1)
	return line, at
}

func (r random) path() string {
	var path strings.Builder
	path.WriteString(pick(r, names))
	for r.IntN(3) == 0 {
		path.WriteString("." + pick(r, names))
	}
	return path.String()
}

func (r random) field(all bool) Field {
	if n := r.IntN(20); all && n < 8 {
		return Field{Root: pick(r, []Root{Level, Hostname, PID, ID, Index, TraceID, SpanID, EventTime, Timestamp, IdempotencyKey})}
	} else if n == 9 {
		return Field{Root: Control, Path: pick(r, []string{"type", "was", "now"})}
	}
	return Field{Path: r.path()}
}

// quotedText is a text as a query writes it.
func quotedText(s string) string {
	var b strings.Builder
	quote(&b, s)
	return b.String()
}

// condition is the text of a query of one condition. Some are refused.
func (r random) condition() string {
	value := quotedText(pick(r, []string{r.text(), pick(r, vocabulary), pick(r, []string{"10", "1e1", "true", "0.1", "info", "system", "failed login", "café", "/var/log", ""})}))
	operand := pick(r, []string{"0", "1", "10", "1e1", "0.1", "-5", "18446744073709551615", "2026-03-14", "2026-03-14T15:09:26Z", "-1h", "-2d", "now", "5"})
	switch r.IntN(12) {
	case 0, 1:
		return value
	case 2:
		return value + "*"
	case 3:
		return "~" + value
	case 4:
		return r.field(false).String() + ":~" + value
	case 5:
		return pick(r, []string{"/fail(ed)?/", "/(?i)FAILED|ſt/", `/^.{0,3}$/`, `/[0-9]+\.[0-9]/`, "/(?i:kel)vin/", `/x*日+/`, "/(a|)b?/"})
	case 6:
		return r.field(true).String() + ":" + pick(r, []string{">=", ">", "<=", "<", "="}) + operand
	case 7:
		return r.field(true).String() + ":" + pick(r, []string{"0..5", "5..10", "0.1..1e1", "2026-03-14..2026-03-15", "-3d..now"})
	case 8:
		return "exists:" + r.field(true).String()
	case 9:
		return pick(r, []string{"since:", "until:"}) + pick(r, []string{"2026-03-14", "-1h", "-3d", "2026-03-14T15:09:26.5Z", "now", "0001-01-01", "9999-12-31"})
	case 10:
		return pick(r, []string{"message:", "hostname:"}) + value + pick(r, []string{"", "*"})
	}
	return r.field(true).String() + ":" + value + pick(r, []string{"", "", "*"})
}

func (r random) query(depth int) string {
	if depth == 0 || r.IntN(3) == 0 {
		return r.condition()
	}
	switch r.IntN(4) {
	case 0:
		return "NOT " + r.query(depth-1)
	case 1:
		return "(" + r.query(depth-1) + " OR " + r.query(depth-1) + ")"
	case 2:
		return "(" + r.query(depth-1) + ")"
	}
	return r.query(depth-1) + pick(r, []string{" ", " AND ", " OR "}) + r.query(depth-1)
}

// compare holds the matcher, alone and in a block, to the naive evaluator.
func compareWithNaive(t testing.TB, q *Query, lines [][]byte, indexes []uint64) (hits int) {
	t.Helper()
	var block []byte
	for _, line := range lines {
		block = append(append(block, line...), '\n')
	}
	m := NewMatcher(q)
	some := m.Block(block)
	from := 0
	for i, line := range lines {
		want := naiveDecode(t, line, indexes[i]).holds(q.Root)
		got := false
		if some {
			var err error
			if got, err = m.Match(line, from, indexes[i]); err != nil {
				t.Fatal(err)
			}
		}
		if got != want {
			t.Fatalf("%s\nselects %v, naively %v (the block %v):\n%s", q, got, want, some, line)
		}
		if want {
			hits++
		}
		from += len(line) + 1
	}
	return hits
}

// TestMatcherSelectsWhatTheNaiveEvaluatorSelects for random queries and entries.
func TestMatcherSelectsWhatTheNaiveEvaluatorSelects(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := random{rand.New(rand.NewPCG(seed, 0))}
	valid, hits, kinds := 0, 0, map[string]int{}
	for range 3000 {
		q, err := Parse(r.query(3), testNow)
		if err != nil {
			continue
		}
		valid++
		var lines [][]byte
		var indexes []uint64
		for range 5 {
			line, at := r.entry(t)
			lines, indexes = append(lines, line), append(indexes, at)
		}
		n := compareWithNaive(t, q, lines, indexes)
		hits += n
		if n > 0 && n < 5 {
			count(q.Root, kinds)
		}
	}
	t.Logf("%d queries, %d hits, deciding: %v", valid, hits, kinds)
	if valid < 1500 {
		t.Errorf("only %d of 3000 queries are valid", valid)
	}
	for _, n := range []Node{And{}, Or{}, Not{}, Phrase{}, Substring{}, Regexp{}, Equal{}, Begins{}, Compare{}, Range{}, Exists{}, Since{}, Until{}} {
		if kinds[reflect.TypeOf(n).Name()] < 5 {
			t.Errorf("%T decided %d queries", n, kinds[reflect.TypeOf(n).Name()])
		}
	}
}

// count counts the kinds of nodes in a query.
func count(n Node, kinds map[string]int) {
	kinds[reflect.TypeOf(n).Name()]++
	switch n := n.(type) {
	case And:
		for _, s := range n.Nodes {
			count(s, kinds)
		}
	case Or:
		for _, s := range n.Nodes {
			count(s, kinds)
		}
	case Not:
		count(n.Node, kinds)
	}
}

func FuzzMatcher(f *testing.F) {
	f.Add(uint64(1), `failed login`)
	f.Add(uint64(2), `(user.name:"Ann"* OR NOT exists:ip) amount:5..10`)
	f.Add(uint64(3), `~"kelvin" /(?i)st/`)
	f.Add(uint64(4), `"a.b":<=1e1 since:-3d`)
	f.Fuzz(func(t *testing.T, seed uint64, text string) {
		r := random{rand.New(rand.NewPCG(seed, 1))}
		q, err := Parse(text, testNow)
		if err != nil {
			if q, err = Parse(r.query(3), testNow); err != nil {
				return
			}
		}
		if s := q.String(); strings.Contains(s, "e") && hasHugeExponent(q.Root) {
			return // big.Rat would take hours; TestDecimalComparesExactly has these
		}
		line, at := r.entry(t)
		compareWithNaive(t, q, [][]byte{line}, []uint64{at})
	})
}

func hasHugeExponent(n Node) bool {
	huge := func(o Operand) bool { return o.Number.Exp > 2000 || o.Number.Exp < -2000 }
	switch n := n.(type) {
	case And:
		if slices.ContainsFunc(n.Nodes, hasHugeExponent) {
			return true
		}
	case Or:
		if slices.ContainsFunc(n.Nodes, hasHugeExponent) {
			return true
		}
	case Not:
		return hasHugeExponent(n.Node)
	case Compare:
		return huge(n.Operand)
	case Range:
		return huge(n.From) || huge(n.To)
	}
	return false
}

// TestFoldedTextsKeepTheirWords is what phrases are matched on: in a folded text words begin and end where they did.
func TestFoldedTextsKeepTheirWords(t *testing.T) {
	for r := rune(0); r <= 0x10ffff; r++ {
		if r >= 0xd800 && r <= 0xdfff {
			continue
		}
		f := index.FoldRune(r)
		if index.IsWord(r) != index.IsWord(f) || index.FoldRune(f) != f {
			t.Fatalf("%U folds to %U: a word's %v, %v; again %U", r, f, index.IsWord(r), index.IsWord(f), index.FoldRune(f))
		}
		if f < 0x80 && r >= 0x80 && r != 0x212a && r != 0x17f {
			t.Fatalf("%U folds to ASCII %U, which isClean does not know", r, f)
		}
	}
}

// TestNeedFindsTextInEitherCase at every place, among characters like its own.
func TestNeedFindsTextInEitherCase(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 20_000 {
		alphabet := []string{"ab", "aA", "zZyY", "a1.", "0.9", `"lL:`, "eE@` [{"}[r.IntN(7)]
		random := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = alphabet[r.IntN(len(alphabet))]
			}
			return b
		}
		text, in := lowerASCII(string(random(1+r.IntN(4)))), random(r.IntN(40))
		if got, want := newNeedText(text).find(in), strings.Index(lowerASCII(string(in)), text); got != want {
			t.Fatalf("%q in %q: got %d, want %d", text, in, got, want)
		}
	}
	for c := range 256 {
		low := byte(c)
		if 'A' <= c && c <= 'Z' {
			low += 'a' - 'A'
		}
		for want := range byte(0x80) {
			if 'A' <= want && want <= 'Z' {
				continue
			}
			if got := newNeedText(string(rune(want))).find([]byte{byte(c)}) == 0; got != (low == want) {
				t.Fatalf("%#x in %#x: %v", want, c, got)
			}
		}
	}
}

func TestCleanBytesHaveNoLettersUnderOtherNames(t *testing.T) {
	for text, clean := range map[string]bool{
		"plain text": true, `a "quote" \\ \n \t`: true, `\u0041`: false, "\u212a": false, "\u017f": false, "für 日本": true, `\`: true,
	} {
		for before := range 20 {
			if in := strings.Repeat("A", before) + text + strings.Repeat("z", before); isClean([]byte(in)) != clean {
				t.Fatalf("%q is clean: %v", in, !clean)
			}
		}
	}
}

// TestTextsWithoutLettersAreFound: find agrees with bytes.Index on texts and blocks of few different characters.
func TestTextsWithoutLettersAreFound(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const chars = "12.:-"
	some := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = chars[rng.IntN(len(chars))]
		}
		return b
	}
	found := 0
	for range 20_000 {
		text, block := some(1+rng.IntN(6)), some(rng.IntN(40))
		want := bytes.Index(block, text)
		if got := newNeedText(string(text)).find(block); got != want {
			t.Fatalf("%q in %q: got %d, want %d", text, block, got, want)
		}
		found += min(want+1, 1)
	}
	if found < 2000 || found > 18_000 {
		t.Fatalf("%d texts of 20000 were found", found)
	}
}
