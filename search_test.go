package immutable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// found is what a naive scan of entries finds.
func found(entries []Entry, selects func(*naive) bool) (out []uint64) {
	for i := range entries {
		if n := decodeNaively(&entries[i]); selects(n) {
			out = append(out, entries[i].Index)
		}
	}
	return out
}

// naive is an entry decoded with nothing but encoding/json.
type naive struct {
	time   time.Time
	level  string
	texts  []string
	words  [][]string
	fields map[string][]string
}

func decodeNaively(e *Entry) *naive {
	var m struct {
		Timestamp time.Time
		Level     string
		Message   string
		Metadata  json.RawMessage
	}
	if err := json.Unmarshal(e.Line, &m); err != nil {
		panic(err)
	}
	n := &naive{time: m.Timestamp, level: m.Level, texts: []string{m.Message}, fields: map[string][]string{}}
	d := json.NewDecoder(strings.NewReader(string(m.Metadata)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic(err)
	}
	n.walk("", v)
	for _, text := range n.texts {
		n.words = append(n.words, strings.FieldsFunc(text, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsNumber(r) && r != '_'
		}))
	}
	return n
}

func (n *naive) walk(path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, sub := range v {
			if path != "" {
				name = path + "." + name
			}
			n.walk(name, sub)
		}
	case []any:
		for _, sub := range v {
			n.walk(path, sub)
		}
	case nil:
	default:
		text := fmt.Sprint(v)
		n.texts = append(n.texts, text)
		n.fields[path] = append(n.fields[path], text)
	}
}

func (n *naive) hasWords(want []string) bool {
	for _, words := range n.words {
		for i := 0; i+len(want) <= len(words); i++ {
			if slices.EqualFunc(words[i:i+len(want)], want, strings.EqualFold) {
				return true
			}
		}
	}
	return false
}

func (n *naive) hasField(path, value string) bool {
	return slices.ContainsFunc(n.fields[path], func(v string) bool { return strings.EqualFold(v, value) })
}

// quoteText is a text in quotes as a query has it.
func quoteText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// mixedLog has sealed segments, pending ones whose sealing fails, and an open one with whole groups and a part.
func mixedLog(t *testing.T, all []Event) (*Log, *vfstest.Disk, []Entry) {
	t.Helper()
	d := vfstest.New()
	cfg := diskConfig(d, newClock())
	cfg.RotateSize = 1 << 40
	l, err := Open(diskDir, cfg)
	must(t, err)
	t.Cleanup(func() {
		d.SetFail(nil)
		_ = l.Close()
	})
	for i, batch := 0, 0; i < len(all); i += batch {
		batch = min(37, len(all)-i)
		_, err := l.Append(context.Background(), all[i:i+batch]...)
		must(t, err)
		switch before, after := i*4/len(all), (i+batch)*4/len(all); {
		case before == after:
		case after < 3:
			must(t, l.Rotate(context.Background()))
		case after == 3:
			d.SetFail(func(op vfstest.Op) error {
				if op.Kind == vfstest.OpCreate && strings.Contains(op.Name, ".zst") {
					return errors.New("no archive today")
				}
				return nil
			})
			if err := l.Rotate(context.Background()); err == nil && l.Size() > 1000 {
				t.Fatal("sealing did not fail")
			}
		}
	}
	return l, d, readAll(t, l, Query{})
}

func searchAll(t testing.TB, l *Log, q Query) (out []Entry) {
	t.Helper()
	for e, err := range l.Search(context.Background(), q) {
		if err != nil {
			t.Fatalf("search %q: %v", q.Text, err)
		}
		out = append(out, e)
	}
	return out
}

func indexesOf(entries []Entry) (out []uint64) {
	for _, e := range entries {
		out = append(out, e.Index)
	}
	return out
}

// checkSearch holds every way to an answer to what the naive scan found.
func checkSearch(t *testing.T, l *Log, q Query, entries []Entry, want []uint64) {
	t.Helper()
	for way := range ways {
		checkWay(t, l, q, entries, want, way)
	}
}

const ways = 5

// checkWay holds one of the ways to an answer to what the naive scan found.
func checkWay(t *testing.T, l *Log, q Query, entries []Entry, want []uint64, way int) {
	t.Helper()
	switch way {
	case 0:
		checkOldestFirst(t, l, q, entries, want)
	case 1:
		newest := indexesOf(searchAll(t, l, q))
		slices.Reverse(newest)
		if !slices.Equal(newest, want) {
			t.Fatalf("%q, newest first, finds %v, want %v", q.Text, head(newest), head(want))
		}
	case 2:
		q.Limit = 3
		if got, n := indexesOf(searchAll(t, l, q)), min(3, len(want)); len(got) != n || n > 0 && got[n-1] != want[len(want)-n] {
			t.Fatalf("%q, newest 3: %v of %v", q.Text, got, want[max(0, len(want)-3):])
		}
	default:
		q.Verified = way == 4
		c, err := l.Count(context.Background(), q)
		if err != nil || c.N != uint64(len(want)) || q.Verified && c.Sealed {
			t.Fatalf("%q counts %d (%s, %v), a naive scan %d", q.Text, c.N, c.Source(), err, len(want))
		}
	}
}

func checkOldestFirst(t *testing.T, l *Log, q Query, entries []Entry, want []uint64) {
	t.Helper()
	q.Reverse = true
	got := searchAll(t, l, q)
	if !slices.Equal(indexesOf(got), want) {
		t.Fatalf("%q finds %d entries %v, a naive scan %d %v", q.Text, len(got), head(indexesOf(got)), len(want), head(want))
	}
	for _, e := range got {
		if string(e.Line) != string(entries[e.Index].Line) || e.Leaf != entries[e.Index].Leaf {
			t.Fatalf("%q returns entry %d altered", q.Text, e.Index)
		}
	}
}

func head(list []uint64) []uint64 { return list[:min(len(list), 20)] }

// randomQuery makes a query of what a random entry has, and the naive meaning of it.
func randomQuery(r *rand.Rand, entries []Entry, decoded []*naive) (text string, selects func(*naive) bool) {
	n := decoded[r.IntN(len(decoded))]
	phrase := func(length int) (string, func(*naive) bool) {
		words := n.words[r.IntN(len(n.words))]
		if len(words) == 0 {
			return "zzabsent", func(*naive) bool { return false }
		}
		from := r.IntN(len(words))
		want := words[from:min(len(words), from+length)]
		return quoteText(strings.Join(want, " ")), func(n *naive) bool { return n.hasWords(want) }
	}
	switch r.IntN(7) {
	case 0, 1:
		return phrase(1)
	case 2:
		return phrase(2 + r.IntN(3))
	case 3, 4:
		paths := slices.Sorted(maps.Keys(n.fields))
		if len(paths) == 0 {
			return "level:" + strings.ToLower(n.level), func(o *naive) bool { return o.level == n.level }
		}
		path := paths[r.IntN(len(paths))]
		value := n.fields[path][r.IntN(len(n.fields[path]))]
		if len(value) > 500 {
			value = "absent"
		}
		return quoteText(path) + ":" + quoteText(value), func(o *naive) bool { return o.hasField(path, value) }
	case 5:
		a, b := entries[r.IntN(len(entries))].Timestamp, entries[r.IntN(len(entries))].Timestamp
		if a.After(b) {
			a, b = b, a
		}
		return fmt.Sprintf("since:%s until:%s", a.Format(time.RFC3339Nano), b.Format(time.RFC3339Nano)), func(n *naive) bool { return !n.time.Before(a) && n.time.Before(b) }
	}
	x, one := randomQuery(r, entries, decoded)
	y, two := randomQuery(r, entries, decoded)
	if r.IntN(2) == 0 {
		return "(" + x + ") OR (" + y + ")", func(n *naive) bool { return one(n) || two(n) }
	}
	return "(" + x + ") NOT (" + y + ")", func(n *naive) bool { return one(n) && !two(n) }
}

// checkRandomQueries compares count queries with naive scans.
func checkRandomQueries(t *testing.T, l *Log, entries []Entry, count int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d entries", seed, len(entries))
	r := rand.New(rand.NewPCG(seed, 0))
	var decoded []*naive
	for i := range entries {
		decoded = append(decoded, decodeNaively(&entries[i]))
	}
	for range count {
		text, selects := randomQuery(r, entries, decoded)
		var want []uint64
		for i, n := range decoded {
			if selects(n) {
				want = append(want, uint64(i))
			}
		}
		checkWay(t, l, Query{Text: text}, entries, want, r.IntN(ways))
	}
}

func variedEvents(n int) (out []Event) {
	r := rand.New(rand.NewPCG(7, 7))
	for i := range n {
		e := Event{Level: Level(r.IntN(NumLevels)), Message: fmt.Sprintf("request %d of session s%d took %d ms", i, r.IntN(40), r.IntN(1000))}
		e.Metadata = Fields{"user": Fields{"name": fmt.Sprintf("user-%d", r.IntN(30)), "roles": []string{"admin", "für alle"}[:r.IntN(3)]}, "amount": r.IntN(50), "ok": r.IntN(2) == 0}
		if i%100 == 17 {
			e.Message, e.Metadata["ip"] = "failed login", "203.0.113.42"
		}
		out = append(out, e)
	}
	return out
}

// TestCountByCountsAValueOnceAnEntry, as the entries do, where an index answers.
func TestCountByCountsAValueOnceAnEntry(t *testing.T) {
	l, _ := sealedLog(t)
	var events []Event
	for i := range 2 * 256 {
		events = append(events, Event{Message: "groups of a user", Metadata: Fields{"group": [][]string{{"a", "a"}, {"b"}, {"a", "b", "a"}, {}}[i%4], "half": i%2 == 0}})
	}
	_, err := l.Append(context.Background(), events...)
	must(t, err)
	must(t, l.Rotate(context.Background()))
	_, err = l.Append(context.Background(), events[:300]...) // in the open segment, of which more is remembered each time
	must(t, err)
	queries := []Query{{Text: "groups"}, {Text: "half:true"}, {Text: "since:2000-01-01 half:false"}, {Text: "level:INFO OR half:true"}}
	for _, from := range []uint64{0, 100, 256, 700, l.Size() - 350, l.Size() - 100} {
		queries = append(queries, Query{From: from}, Query{From: from, Reverse: true}, Query{From: from, Reverse: true, Text: "groups"})
	}
	for range 2 {
		for _, q := range queries {
			checkCounts(t, l, q)
		}
	}
}

// checkCounts holds every kind of count to the verified one.
func checkCounts(t *testing.T, l *Log, q Query) {
	t.Helper()
	verified := q
	verified.Verified = true
	for _, by := range []string{"group", "half", "level", "hostname", "user.name", "absent"} {
		got, err := l.CountBy(context.Background(), q, by)
		must(t, err)
		want, err := l.CountBy(context.Background(), verified, by)
		must(t, err)
		if !slices.Equal(got.Rows, want.Rows) || got.N != want.N || got.Missing != want.Missing || want.Sealed {
			t.Errorf("%+v by %s: %+v, verified %+v", q, by, got, want)
		}
	}
	got, err := l.Histogram(context.Background(), q, time.Second)
	must(t, err)
	want, err := l.Histogram(context.Background(), verified, time.Second)
	must(t, err)
	if !slices.Equal(got.Buckets, want.Buckets) || got.N != want.N {
		t.Errorf("%+v: histogram %+v, verified %+v", q, got, want)
	}
}

func TestSearchFindsWhatANaiveScanFinds(t *testing.T) {
	l, _, entries := mixedLog(t, variedEvents(1400))
	checkRandomQueries(t, l, entries, rounds(80, 1000))
	for text, selects := range map[string]func(*naive) bool{
		"":                             func(*naive) bool { return true },
		"failed login ip:203.0.113.42": func(n *naive) bool { return n.hasWords([]string{"failed", "login"}) },
		"amount:>=40 NOT ok:true": func(n *naive) bool {
			return len(n.fields["amount"][0]) == 2 && n.fields["amount"][0] >= "40" && n.fields["ok"][0] == "false"
		},
		`user.roles:"FÜR ALLE"`:             func(n *naive) bool { return len(n.fields["user.roles"]) == 2 },
		"exists:ip OR sess*":                func(*naive) bool { return true },
		"nowhere":                           func(*naive) bool { return false },
		"since:2020-01-01 until:2021-01-01": func(*naive) bool { return false },
	} {
		checkSearch(t, l, Query{Text: text}, entries, found(entries, selects))
	}
	want := found(entries, func(n *naive) bool { return n.level == "AUDIT" || n.level == "WARN" })
	checkSearch(t, l, Query{Levels: []Level{Audit, Warn}}, entries, want)
	a, b := entries[300].Timestamp, entries[1300].Timestamp
	want = found(entries, func(n *naive) bool { return n.level == "AUDIT" && !n.time.Before(a) && n.time.Before(b) })
	checkSearch(t, l, Query{Levels: []Level{Audit}, Since: a, Until: b}, entries, want)
	var got []uint64
	for e, err := range l.Entries(context.Background(), Query{Text: "failed", From: 500, Limit: 4, Reverse: true}) {
		must(t, err)
		got = append(got, e.Index)
	}
	if !slices.Equal(got, []uint64{417, 317, 217, 117}) {
		t.Errorf("entries with failed from 500 backwards: %v", got)
	}
	got = indexesOf(searchAll(t, l, Query{Text: "failed", From: 500, Limit: 2, Reverse: true}))
	if !slices.Equal(got, []uint64{517, 617}) {
		t.Errorf("search for failed from 500 on: %v", got)
	}
}

func TestCountsAreThoseOfANaiveScan(t *testing.T) {
	l, _, entries := mixedLog(t, variedEvents(1500))
	byLevel, byName, byRole, byTime := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}, map[int64]uint64{}
	width := 30 * time.Millisecond
	missing := uint64(0)
	total := uint64(0)
	for i := range entries {
		n := decodeNaively(&entries[i])
		if !n.hasField("ok", "true") {
			continue
		}
		total++
		byLevel[n.level]++
		byName[n.fields["user.name"][0]]++
		for _, role := range n.fields["user.roles"] {
			byRole[role]++
		}
		if len(n.fields["user.roles"]) == 0 {
			missing++
		}
		byTime[n.time.UnixNano()/int64(width)]++
	}
	for _, verified := range []bool{false, true} {
		q := Query{Text: "ok:true", Verified: verified, Limit: 3}
		for by, want := range map[string]map[string]uint64{"level": byLevel, "user.name": byName, "metadata.user.roles": byRole} {
			c, err := l.CountBy(context.Background(), q, by)
			must(t, err)
			got := map[string]uint64{}
			for i, r := range c.Rows {
				got[r.Value] = r.N
				if i > 0 && c.Rows[i-1].N < r.N {
					t.Errorf("by %s: %d before %d", by, c.Rows[i-1].N, r.N)
				}
			}
			if !maps.Equal(got, want) || c.N != total || c.Missing != map[bool]uint64{true: missing}[by == "metadata.user.roles"] || verified && c.Sealed {
				t.Errorf("by %s: %v, %d missing, %d in all; want %v, %d", by, got, c.Missing, c.N, want, total)
			}
		}
		h, err := l.Histogram(context.Background(), q, width)
		must(t, err)
		got := map[int64]uint64{}
		for i, b := range h.Buckets {
			got[b.Start.UnixNano()/int64(width)] = b.N
			if b.Start.UnixNano()%int64(width) != 0 || i > 0 && !h.Buckets[i-1].Start.Before(b.Start) {
				t.Errorf("bucket %d begins at %s", i, b.Start)
			}
		}
		if !maps.Equal(got, byTime) || h.N != total || verified && h.Sealed {
			t.Errorf("histogram %v of %d, want %v of %d", got, h.N, byTime, total)
		}
	}
	for _, by := range []string{"", "a b", "since", "*"} {
		if _, err := l.CountBy(context.Background(), Query{}, by); err == nil {
			t.Errorf("counted by %q", by)
		}
	}
	if _, err := l.Histogram(context.Background(), Query{}, time.Microsecond); err == nil {
		t.Error("a histogram of microseconds")
	}
}

// TestCountsSayWhatTheyStandOn: a time range that an index decides is sealed, unless Verified asks for every entry.
func TestCountsSayWhatTheyStandOn(t *testing.T) {
	l, d, entries := mixedLog(t, variedEvents(1500))
	q := Query{Since: entries[700].Timestamp, Explain: new(Explain)}
	c, err := l.Count(context.Background(), q)
	must(t, err)
	x := *q.Explain
	if !c.Sealed || x.GroupsSkipped == 0 || x.GroupsRead+x.GroupsSkipped+x.GroupsKnown != x.Groups || c.Source() != "sealed" {
		t.Errorf("a range that indexes decide: %+v, %+v", c, x)
	}
	q.Verified = true
	v, err := l.Count(context.Background(), q)
	must(t, err)
	if x := *q.Explain; v.Sealed || v.N != c.N || x.GroupsSkipped > 0 || x.Entries != uint64(len(entries)) || v.Source() != "verified" {
		t.Errorf("verified: %+v, %+v, want %d", v, x, c.N)
	}
	for name := range allFiles(t, d, diskDir+"/"+indexDir) {
		must(t, d.Remove(name))
	}
	ro, err := Open(diskDir, readOnly(diskConfig(d, newClock())))
	must(t, err)
	defer ro.Close()
	q.Verified = false
	c, err = ro.Count(context.Background(), q)
	must(t, err)
	if x := *q.Explain; c.Sealed || c.N != v.N || x.WithoutIndex == 0 || len(x.Notes) == 0 || !strings.Contains(x.Notes[0], "rebuild") {
		t.Errorf("without indexes: %+v, %+v, want %d", c, x, v.N)
	}
}

func readOnly(c *Config) *Config {
	c.ReadOnly = true
	return c
}

// TestCursorGoesOnWhileTheLogGrowsAndRotates reads pages between appends, rotations and a clock that goes on.
func TestCursorGoesOnWhileTheLogGrowsAndRotates(t *testing.T) {
	for _, oldest := range []bool{false, true} {
		d, clock := vfstest.New(), newClock()
		l, err := Open(diskDir, diskConfig(d, clock))
		must(t, err)
		defer l.Close()
		h := &history{}
		must(t, h.append(l, 900))
		clock.add(time.Minute)
		must(t, h.append(l, 900))
		// The query's relative bound leaves out the first half; in an hour it would leave out everything.
		q := Query{Text: "event -", Now: clock.now(), Reverse: oldest}
		q.Text = "event since:-30s"
		want := indexesOf(searchAll(t, l, q))
		if len(want) != 900 {
			t.Fatalf("%d entries, want 900", len(want))
		}
		var got []uint64
		q.Limit = 130
		for page := 0; ; page++ {
			if page == 20 {
				t.Fatal("the pages do not end")
			}
			entries := searchAll(t, l, q)
			if len(entries) == 0 {
				break
			}
			got = append(got, indexesOf(entries)...)
			if q.Cursor, err = q.CursorAfter(entries[len(entries)-1]); err != nil {
				t.Fatal(err)
			}
			clock.add(time.Hour)
			q.Now = time.Time{}
			if page < 5 {
				must(t, h.append(l, 100))
				must(t, l.Rotate(context.Background()))
			}
		}
		if oldest {
			want = append(want, got[min(len(want), len(got)):]...)
			if len(got) != 900+500 {
				t.Errorf("oldest first: %d entries, want those that came in between too", len(got))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages give %v, want %v", got, want)
		}
		for _, wrong := range []Query{
			{Text: "other since:-30s", Cursor: q.Cursor, Reverse: oldest},
			{Text: q.Text, Cursor: q.Cursor, Reverse: !oldest},
			{Text: q.Text, Cursor: q.Cursor, Reverse: oldest, Levels: []Level{Info}},
			{Text: q.Text, Cursor: q.Cursor, Reverse: oldest, Since: clock.now()},
			{Text: q.Text, Cursor: q.Cursor[1:], Reverse: oldest},
			{Text: q.Text, Cursor: "?", Reverse: oldest},
		} {
			for e, err := range l.Search(context.Background(), wrong) {
				if err == nil || !strings.Contains(err.Error(), "cursor") {
					t.Errorf("%+v returns %d, %v", wrong, e.Index, err)
				}
				break
			}
		}
	}
}

// TestSearchBesideAWriterIsOfOneMoment: what a search returns is what the log was when it began, whatever is appended and
// rotated meanwhile.
func TestSearchBesideAWriterIsOfOneMoment(t *testing.T) {
	l := osLog(t, t.TempDir(), nil)
	defer closeTest(t, l)
	ended := make(chan error, 1)
	go func() {
		h := &history{}
		for i := range rounds(40, 400) {
			if err := h.append(l, 100); err != nil {
				ended <- err
				return
			}
			if i%10 == 9 {
				if err := l.Rotate(context.Background()); err != nil {
					ended <- err
					return
				}
			}
		}
		ended <- nil
	}()
	searched := 0
	for done := false; !done; searched++ {
		select {
		case err := <-ended:
			must(t, err)
			done = true
		default:
		}
		before := l.Size()
		var got []Entry
		if searched%2 == 0 {
			got = searchAll(t, l, Query{Text: "event n:>=0"})
		} else {
			c, err := l.Count(context.Background(), Query{Text: "level:audit"})
			must(t, err)
			if after := l.Size(); c.N < before/NumLevels || c.N > after/NumLevels+1 {
				t.Fatalf("%d of %d to %d entries are AUDIT", c.N, before, after)
			}
			continue
		}
		if n := uint64(len(got)); n < before || n > l.Size() {
			t.Fatalf("%d entries of a log of %d to %d", n, before, l.Size())
		}
		for i, e := range got {
			if e.Index != uint64(len(got)-1-i) || e.Message != fmt.Sprintf("event %d", e.Index) {
				t.Fatalf("result %d of %d is entry %d, %q", i, len(got), e.Index, e.Message)
			}
		}
	}
	t.Logf("%d searches", searched)
}

func TestSearchStopsWithItsCaller(t *testing.T) {
	l, _, _ := mixedLog(t, variedEvents(6000))
	before := runtime.NumGoroutine()
	for n := range 1500 {
		if n%100 != 0 && n > 5 {
			continue
		}
		got := 0
		for _, err := range l.Search(context.Background(), Query{Text: "request"}) {
			must(t, err)
			if got++; got > n {
				break
			}
		}
		if more := goroutinesAbove(before); more > 0 {
			t.Fatalf("after %d results %d goroutines go on", got, more)
		}
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	got := 0
	var last error
	for _, err := range l.Search(ctx, Query{Text: "request"}) {
		if last = err; err == nil {
			got++
		}
		if got == 700 {
			cancel(why)
		}
	}
	if !errors.Is(last, why) || got == 0 || got > 700+256*(2*maxSweepers+3) {
		t.Errorf("after %d results: %v, want %v", got, last, why)
	}
	if _, err := l.Count(ctx, Query{}); !errors.Is(err, why) {
		t.Errorf("count: %v, want %v", err, why)
	}
	if more := goroutinesAbove(before); more > 0 {
		t.Errorf("%d goroutines go on", more)
	}
}

// goroutinesAbove is how many goroutines there are above a number, once those that are ending have had their time.
func goroutinesAbove(before int) (more int) {
	for range 1000 {
		if more = runtime.NumGoroutine() - before; more <= 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return more
}

// TestSearchNeverReturnsAForgedEntry damages archives: an error names the file, and nothing altered comes back.
func TestSearchNeverReturnsAForgedEntry(t *testing.T) {
	_, d, entries := mixedLog(t, variedEvents(2000))
	r := rand.New(rand.NewPCG(3, 3))
	names := slices.Sorted(maps.Keys(allFiles(t, d, diskDir+"/"+archiveDir)))
	for round := range rounds(40, 400) {
		c := d.Clone()
		c.SetFail(nil)
		name := names[r.IntN(len(names))]
		data, err := c.ReadFileRaw(name)
		must(t, err)
		at := r.IntN(len(data))
		data[at] ^= 1 << r.IntN(8)
		must(t, c.WriteFileRaw(name, data))
		ro, err := Open(diskDir, readOnly(diskConfig(c, newClock())))
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		n := 0
		for e, err := range ro.Search(context.Background(), Query{Text: "request OR failed OR NOT request"}) {
			if failed = err; err != nil {
				break
			}
			if n++; string(e.Line) != string(entries[e.Index].Line) {
				t.Fatalf("round %d, byte %d of %s: entry %d came back altered", round, at, name, e.Index)
			}
		}
		var corrupt *CorruptError
		switch {
		case failed == nil && n != len(entries):
			t.Errorf("byte %d of %s: %d of %d entries without an error", at, name, n, len(entries))
		case failed != nil && (!errors.As(failed, &corrupt) || !strings.HasSuffix(name, corrupt.File) && corrupt.File != openName):
			t.Errorf("byte %d of %s: %v, which names no place", at, name, failed)
		}
		must(t, ro.Close())
	}
}

func TestFollowReturnsWhatTheQuerySelects(t *testing.T) {
	l := osLog(t, t.TempDir(), nil)
	defer closeTest(t, l)
	h := &history{}
	must(t, h.append(l, 600))
	go func() {
		for range 10 {
			if h.append(l, 50) != nil {
				return
			}
		}
		_ = l.Rotate(context.Background())
	}()
	var got []uint64
	for e, err := range l.Follow(context.Background(), Query{Text: "level:audit n:>=300", From: 10, Limit: 80}) {
		must(t, err)
		got = append(got, e.Index)
	}
	var want []uint64
	for n := uint64(0); len(want) < 80; n++ {
		if n >= 300 && Level(n%NumLevels) == Audit {
			want = append(want, n)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, err := range l.Follow(context.Background(), Query{Text: "("}) {
		var e *QueryError
		if !errors.As(err, &e) || e.Offset != 1 {
			t.Errorf("a mistake is %v", err)
		}
	}
}

func TestFilterMatchesAndMarks(t *testing.T) {
	f, err := ParseFilter(`"failed login" user:~"AN" ip:10.0.0.1 /[0-9]+ms/ sess* NOT ok`, time.Now())
	must(t, err)
	const text = `Failed  LOGIN of ann (session 10.0.0.1, not 110.0.0.1x) in 15ms, ok`
	var marked []string
	for _, m := range f.Marks(text) {
		marked = append(marked, text[m[0]:m[1]])
	}
	if want := []string{"Failed  LOGIN", "an", "session", "10.0.0.1", "15ms"}; !slices.Equal(marked, want) {
		t.Errorf("marked %q, want %q", marked, want)
	}
	_, _, entries := mixedLog(t, variedEvents(300))
	f, err = ParseFilter("failed login", time.Now())
	must(t, err)
	for i := range entries {
		got, err := f.Matches(&entries[i])
		if want := strings.HasPrefix(entries[i].Message, "failed login"); err != nil || got != want {
			t.Errorf("entry %d: %v, %v, want %v", i, got, err, want)
		}
	}
}

// TestForgedIndexNeverChangesAnAnswer damages the files in index/: answers stay, and where an index could not be used the
// explanation says so.
func TestForgedIndexNeverChangesAnAnswer(t *testing.T) {
	t.Parallel()
	l, d, entries := mixedLog(t, variedEvents(2000))
	queries := []Query{
		{Text: "failed login"},
		{Text: "user.name:user-7 OR amount:>=48"},
		{Text: `took NOT ok:true /s1[0-9]/`},
		{Levels: []Level{Audit}, Since: entries[400].Timestamp, Until: entries[1700].Timestamp},
	}
	type answer struct {
		count     uint64
		indexes   []uint64
		byLevel   []CountRow
		byName    []CountRow
		histogram []Bucket
	}
	ask := func(l *Log, q Query) (a answer, x Explain) {
		q.Explain = &x
		c, err := l.Count(context.Background(), q)
		must(t, err)
		a.indexes = indexesOf(searchAll(t, l, q))
		lacking := x.WithoutIndex
		level, err := l.CountBy(context.Background(), q, "level")
		must(t, err)
		name, err := l.CountBy(context.Background(), q, "user.name")
		must(t, err)
		h, err := l.Histogram(context.Background(), q, 20*time.Millisecond)
		must(t, err)
		a.count, a.byLevel, a.byName, a.histogram = c.N, level.Rows, name.Rows, h.Buckets
		x.WithoutIndex = max(x.WithoutIndex, lacking)
		return a, x
	}
	var want []answer
	for _, q := range queries {
		a, x := ask(l, q)
		want = append(want, a)
		if x.WithoutIndex > 0 {
			t.Fatalf("%q: %v", q.Text, x.Notes)
		}
	}
	r := rand.New(rand.NewPCG(5, 5))
	files := allFiles(t, d, diskDir+"/"+indexDir)
	names := slices.Sorted(maps.Keys(files))
	said := 0
	for round := range rounds(24, 600) {
		c := d.Clone()
		c.SetFail(nil)
		name := names[round%len(names)]
		data := slices.Clone(files[name])
		at := r.IntN(len(data))
		if round%5 == 0 {
			data = data[:at]
		} else {
			data[at] ^= 1 << r.IntN(8)
		}
		must(t, c.WriteFileRaw(name, data))
		ro, err := Open(diskDir, readOnly(diskConfig(c, newClock())))
		must(t, err)
		for i, q := range queries {
			got, x := ask(ro, q)
			if !reflect.DeepEqual(got, want[i]) {
				t.Fatalf("byte %d of %s: %q gives\n%+v, want\n%+v", at, name, q.Text, got, want[i])
			}
			if x.WithoutIndex > 0 {
				said++
			}
		}
		must(t, ro.Close())
	}
	if said == 0 {
		t.Error("no damage was noticed")
	}
}
