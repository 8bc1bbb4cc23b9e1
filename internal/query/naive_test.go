package query

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tree-of-life-system/immutable/internal/index"
)

// The naive evaluator says what a query means in the slowest and plainest way, on top of encoding/json. It shares nothing
// with the Matcher but the tree of the query.

type naiveValue struct {
	path string
	text string
	null bool
	leaf bool // no object and no array
}

type naiveEntry struct {
	members map[string]any
	values  []naiveValue // of metadata
	index   uint64
}

func naiveDecode(t testing.TB, line []byte, at uint64) *naiveEntry {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	e := &naiveEntry{index: at}
	if err := d.Decode(&e.members); err != nil {
		t.Fatal(err)
	}
	e.values = naiveWalk(nil, "", e.members["metadata"])
	return e
}

// naiveWalk lists everything below v.
func naiveWalk(out []naiveValue, path string, v any) []naiveValue {
	switch v := v.(type) {
	case map[string]any:
		for name, sub := range v {
			at := name
			if path != "" {
				at = path + "." + name
			}
			out = naiveWalk(naiveSelf(out, at, sub), at, sub)
		}
	case []any:
		for _, sub := range v {
			out = naiveWalk(naiveSelf(out, path, sub), path, sub)
		}
	}
	return out
}

func naiveSelf(out []naiveValue, path string, v any) []naiveValue {
	switch v := v.(type) {
	case string:
		return append(out, naiveValue{path: path, text: v, leaf: true})
	case json.Number:
		return append(out, naiveValue{path: path, text: v.String(), leaf: true})
	case bool:
		return append(out, naiveValue{path: path, text: map[bool]string{true: "true", false: "false"}[v], leaf: true})
	case nil:
		return append(out, naiveValue{path: path, null: true, leaf: true})
	}
	return append(out, naiveValue{path: path})
}

// texts are those of a field, or all.
func (e *naiveEntry) texts(f *Field) (out []string) {
	add := func(values []naiveValue, path string, any bool) {
		for _, v := range values {
			if v.leaf && !v.null && (any || v.path == path) {
				out = append(out, v.text)
			}
		}
	}
	if f == nil {
		out = append(out, e.members["message"].(string))
		add(e.values, "", true)
		return out
	}
	switch f.Root {
	case Metadata:
		add(e.values, f.Path, false)
	case Producer:
		add(naiveWalk(nil, "", e.members["producer"]), f.Path, false)
	case Control:
		add(naiveWalk(nil, "", e.members["log"]), f.Path, false)
	case Index:
		out = append(out, new(big.Int).SetUint64(e.index).String())
	default:
		add(naiveSelf(nil, "", e.members[naiveName(f.Root)]), "", true)
	}
	return out
}

func naiveName(r Root) string {
	return map[Root]string{
		Level: "level", Message: "message", Hostname: "hostname", PID: "pid", ID: "id", TraceID: "traceId", SpanID: "spanId",
		EventTime: "eventTime", Timestamp: "timestamp", IdempotencyKey: "idempotencyKey",
	}[r]
}

func naiveFold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
			least = min(least, o)
		}
		if least < 0x80 {
			return unicode.ToLower(least)
		}
		return least
	}, s)
}

func naiveWords(s string) []string {
	return strings.FieldsFunc(naiveFold(s), func(r rune) bool { return !index.IsWord(r) })
}

func (e *naiveEntry) some(f *Field, holds func(string) bool) bool {
	return slices.ContainsFunc(e.texts(f), holds)
}

func (e *naiveEntry) holds(n Node) bool {
	switch n := n.(type) {
	case All:
		return true
	case And:
		return !slices.ContainsFunc(n.Nodes, func(s Node) bool { return !e.holds(s) })
	case Or:
		return slices.ContainsFunc(n.Nodes, e.holds)
	case Not:
		return !e.holds(n.Node)
	case Phrase:
		return e.some(n.In, func(text string) bool {
			words := naiveWords(text)
			for i := 0; i+len(n.Words) <= len(words); i++ {
				here := slices.Clone(words[i : i+len(n.Words)])
				if last := len(here) - 1; n.Begin && strings.HasPrefix(here[last], n.Words[last]) {
					here[last] = n.Words[last]
				}
				if slices.Equal(here, n.Words) {
					return true
				}
			}
			return false
		})
	case Substring:
		return e.some(n.In, func(text string) bool { return strings.Contains(naiveFold(text), n.Text) })
	case Regexp:
		return e.some(n.In, n.Re.MatchString)
	case Equal:
		return e.some(&n.Field, func(text string) bool { return naiveFold(text) == n.Text })
	case Begins:
		return e.some(&n.Field, func(text string) bool { return strings.HasPrefix(naiveFold(text), n.Text) })
	case Compare:
		return e.some(&n.Field, func(text string) bool { return naiveCompare(text, n.Op, n.Operand) })
	case Range:
		return e.some(&n.Field, func(text string) bool { return naiveCompare(text, Ge, n.From) && naiveCompare(text, Le, n.To) })
	case Exists:
		return e.exists(n.Field)
	case Since:
		return !e.timestamp().Before(n.At.From)
	case Until:
		return e.timestamp().Before(n.At.From)
	}
	panic("unknown node")
}

func (e *naiveEntry) timestamp() time.Time {
	t, _ := time.Parse(time.RFC3339Nano, e.members["timestamp"].(string))
	return t
}

func (e *naiveEntry) exists(f Field) bool {
	var values []naiveValue
	switch f.Root {
	case Metadata:
		values = e.values
	case Producer, Control:
		v, ok := e.members[map[Root]string{Producer: "producer", Control: "log"}[f.Root]]
		if f.Path == "" {
			return ok
		}
		values = naiveWalk(nil, "", v)
	case Index:
		return true
	default:
		_, ok := e.members[naiveName(f.Root)]
		return ok
	}
	return slices.ContainsFunc(values, func(v naiveValue) bool { return v.path == f.Path && !v.null })
}

func naiveCompare(text string, op Op, with Operand) bool {
	var low, high int // how text compares with the operand's lowest and highest
	if with.IsTime {
		t, err := time.Parse(time.RFC3339Nano, text)
		if t = t.UTC(); err != nil || t.Year() < 0 || t.Year() > 9999 {
			return false
		}
		low, high = t.Compare(with.From), t.Compare(with.To)
	} else {
		var n json.Number
		if json.Unmarshal([]byte(text), &n) != nil || strings.TrimSpace(text) != text || strings.HasPrefix(text, `"`) || n == "" {
			return false
		}
		a, _ := new(big.Rat).SetString(text)
		b, _ := new(big.Rat).SetString(with.Text)
		low = a.Cmp(b)
		high = low
	}
	switch op {
	case Ge:
		return low >= 0
	case Gt:
		return high > 0
	case Le:
		return high <= 0
	case Lt:
		return low < 0
	}
	return low >= 0 && high <= 0
}
