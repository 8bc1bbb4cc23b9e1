package query

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/index/indextest"
)

const planFirst = 512 // entries before the segment

// A planned is a segment with its search index.
type planned struct {
	lines [][]byte
	data  []byte
	table [sha256.Size]byte
}

func plannedOf(t testing.TB, events []entry.Event) *planned {
	t.Helper()
	s := &planned{}
	b := index.NewBuilder(planFirst)
	c := indextest.New(1<<20, 9)
	var l entry.Line
	at := int64(0)
	for i := 0; i < len(events) || i%index.GroupSize != 0; i++ {
		var e entry.Event
		at = c.Next(&e)
		if i < len(events) {
			e = events[i]
		}
		line, err := entry.Append(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		entry.Patch(line, uint64(planFirst+i), at, 5)
		if err := entry.Decode(line, &l); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(&l); err != nil {
			t.Fatal(err)
		}
		s.lines = append(s.lines, line)
	}
	s.data, s.table = b.Finish()
	return s
}

func (s *planned) open(t testing.TB) *index.Search {
	t.Helper()
	x, err := index.OpenSearch(bytes.NewReader(s.data), int64(len(s.data)), s.table)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// planCheck compares a plan with what the evaluator says of every entry.
type planCheck struct {
	matches, ruledOut, counted, unsure int // groups
}

func (c *planCheck) query(t *testing.T, s *planned, x *index.Search, text string, low, high uint64) {
	t.Helper()
	q, err := Parse(text, time.Unix(1_770_000_000, 0))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	m := NewMatcher(q)
	p, err := NewPlan(q.Root, x, low, high)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	p.few = len(text) % 2 * few // half of the queries ask the dictionary of every group
	wantTotal, read := uint64(0), map[uint64]uint64{}
	var wantLevels [entry.NumLevels]uint64
	for k := uint64(planFirst / 256); k < planFirst/256+uint64(len(s.lines)/256); k++ {
		var want [4]uint64
		n := uint64(0)
		for i, line := range s.lines[k*256-planFirst:][:256] {
			at := k*256 + uint64(i)
			m.Block(line)
			ok, err := m.Match(line, 0, at)
			if err != nil {
				t.Fatal(err)
			}
			if ok && at >= low && at < high {
				want[i/64] |= 1 << (i % 64)
				n++
				_, level, _ := entry.Peek(line)
				wantLevels[level]++
			}
		}
		wantTotal += n
		read[k] = n
		listed := slices.Contains(p.Groups(), k)
		certain, may, sure, yes := 0, false, true, Bits{}
		if listed {
			if certain, may, err = p.Look(k); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if yes, sure, err = p.choose(k); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
		if n > 0 && !may || uint64(certain) > n {
			t.Fatalf("%s: group %d has %d entries, at least %d by the index, which rules it out: %t", text, k, n, certain, !may)
		}
		for i := range yes {
			if yes[i]&^want[i] != 0 || sure && yes[i] != want[i] {
				t.Fatalf("%s: group %d: selects %x, the entries say %x (sure: %v)", text, k, yes, want, sure)
			}
		}
		c.matches += btoi(n > 0)
		c.ruledOut += btoi(!may)
		c.counted += btoi(sure)
		c.unsure += btoi(!sure)
	}
	c.totals(t, text, q, x, low, high, wantTotal, wantLevels, read)
}

// totals checks Total and Levels; groups that are unsure count as read says, by level as a whole.
func (c *planCheck) totals(t *testing.T, text string, q *Query, x *index.Search, low, high, want uint64, wantLevels [entry.NumLevels]uint64, read map[uint64]uint64) {
	t.Helper()
	p, err := NewPlan(q.Root, x, low, high)
	if err != nil {
		t.Fatal(err)
	}
	p.few = len(text) % 2 * few
	n, unsure, err := p.Total()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range unsure {
		n += read[k]
	}
	if n != want {
		t.Fatalf("%s: counts %d entries, %d with %d groups read; the entries say %d", text, n, n, len(unsure), want)
	}
	levels, unsure, err := p.Levels()
	if err != nil {
		t.Fatal(err)
	}
	if len(unsure) == 0 && levels != wantLevels {
		t.Fatalf("%s: counts by level %d, the entries say %d", text, levels, wantLevels)
	}
}

// randomQueries makes conditions of what entries have.
func randomQueries(r *rand.Rand, s *planned, n int) (out []string) {
	var w index.Walker
	for len(out) < n {
		var l entry.Line
		if err := entry.Decode(s.lines[r.IntN(len(s.lines))], &l); err != nil {
			panic(err)
		}
		texts := []string{unquoted(l.Message)}
		var fields []string
		w.Walk(l.Metadata, func(path, text []byte, kind index.Kind) bool {
			if kind != index.Null && len(text) < 500 {
				texts = append(texts, string(text))
				fields = append(fields, `metadata.`+quoteQuery(string(path))+`:`+quoteQuery(string(text)))
			}
			return true
		})
		text := texts[r.IntN(len(texts))]
		var words []string
		for word := range index.Words(text) {
			words = append(words, word)
		}
		one := ""
		switch k := r.IntN(12); {
		case k < 3 && len(words) > 0:
			one = quoteQuery(words[r.IntN(len(words))])
		case k < 5 && len(words) > 0:
			from := r.IntN(len(words))
			one = quoteQuery(strings.Join(words[from:min(len(words), from+1+r.IntN(5))], " "))
		case k < 7 && len(fields) > 0:
			one = fields[r.IntN(len(fields))]
		case k == 7:
			one = "level:" + l.Level.String()
		case k == 8:
			at := time.Unix(0, l.Time).UTC()
			one = fmt.Sprintf("since:%s until:%s", at.Format(time.RFC3339Nano), at.Add(time.Duration(r.IntN(1000))*time.Second).Format(time.RFC3339Nano))
		case k == 9 && len(text) > 4:
			runes := []rune(text)
			from := r.IntN(len(runes))
			one = `~` + quoteQuery(string(runes[from:min(len(runes), from+1+r.IntN(12))]))
		case k == 10 && len(words) > 0:
			one = words[r.IntN(len(words))][:1]
			if one[0] < 'a' || one[0] > 'z' {
				continue
			}
			one += "*"
		case k == 11 && len(words) > 1:
			one = `/` + []string{"", "^", `\b`}[r.IntN(3)] + "[" + words[0][:1] + `x]\S*\s?` + []string{"", ".*", "$", `\d+`}[r.IntN(4)] + `/`
			if words[0][0] >= 0x80 {
				continue
			}
		default:
			continue
		}
		if len(out) > 0 && r.IntN(4) == 0 {
			before := out[len(out)-1]
			one = []string{one + " (" + before + ")", "(" + one + ") OR (" + before + ")", "NOT (" + one + ")"}[r.IntN(3)]
		}
		if len(one) < 900 {
			out = append(out, one)
		}
	}
	return out
}

func unquoted(raw []byte) string {
	s, _ := entry.Unquote(raw)
	return s
}

func quoteQuery(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func planAll(t *testing.T, s *planned, queries []string, r *rand.Rand) {
	t.Helper()
	x := s.open(t)
	var c planCheck
	for i, text := range queries {
		if _, err := Parse(text, time.Unix(1_770_000_000, 0)); err != nil {
			continue // control characters and the like
		}
		low, high := uint64(0), uint64(1)<<62
		if i%5 == 0 {
			low = planFirst + uint64(r.IntN(len(s.lines)))
			high = low + uint64(r.IntN(len(s.lines)))
		}
		c.query(t, s, x, text, low, high)
	}
	t.Logf("%d lines, %.1f bytes of index each: of %d groups %d had matches, %d were ruled out, %d counted, %d to be read",
		len(s.lines), float64(len(s.data))/float64(len(s.lines)), c.counted+c.unsure, c.matches, c.ruledOut, c.counted, c.unsure)
	if c.matches == 0 || c.ruledOut == 0 && len(s.lines) > index.GroupSize {
		t.Error("the queries tell nothing apart")
	}
}

func TestPlanNeverLosesAnEntry(t *testing.T) {
	for i, dir := range indextest.RawSets {
		t.Run(dir, func(t *testing.T) {
			r := rand.New(rand.NewPCG(21, uint64(i)))
			path := filepath.Join("..", "..", "..", "shared", "data", dir)
			if _, err := os.Stat(path); err != nil {
				t.Skipf("no shared test data: %v", err)
			}
			events, err := indextest.Raw(path, 512)
			if err != nil || len(events) == 0 {
				t.Fatalf("%d events: %v", len(events), err)
			}
			s := plannedOf(t, events)
			planAll(t, s, randomQueries(r, s, 300), r)
		})
	}
	t.Run("hostile", func(t *testing.T) {
		r := rand.New(rand.NewPCG(22, 1))
		s := plannedOf(t, indextest.Hostile(768, 3))
		planAll(t, s, randomQueries(r, s, 300), r)
	})
	t.Run("corpus", func(t *testing.T) {
		r := rand.New(rand.NewPCG(22, 2))
		var events []entry.Event
		c := indextest.New(4096, 4)
		for range 4096 {
			var e entry.Event
			c.Next(&e)
			events = append(events, e)
		}
		s := plannedOf(t, events)
		planAll(t, s, append(randomQueries(r, s, 150), "payment", `payment level:error`, `message:/ledger-db-[12]/`, `message:~"ledger-db-2 took 1"`, "exists:object", "exists:currency", "attempt:>=5",
			"amount:10..20", "status:404 method:GET", indextest.RareWord, "ip:"+indextest.Address, indextest.Address, "pid:1007", `hostname:app-2`, "exists:traceId", "NOT payment", "index:>1000", "exists:control"), r)
	})
}
