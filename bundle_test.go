package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/evidence"
	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
	"github.com/tree-of-life-system/immutable/proof"
)

// mustBundle makes a bundle and verifies it with what a reader knows.
func mustBundle(t testing.TB, l *Log, o BundleOptions, v VerifyBundleOptions) (*evidence.Bundle, *BundleReport) {
	t.Helper()
	data, err := l.Bundle(context.Background(), o)
	must(t, err)
	b, err := evidence.Parse(data)
	must(t, err)
	rep, err := VerifyBundle(data, v)
	must(t, err)
	if rep.Verdict == evidence.Refuted {
		t.Fatalf("findings %+v", rep.Findings)
	}
	return b, rep
}

func TestBundleOfARangeIsComplete(t *testing.T) {
	l := openTest(t, filepath.Join(t.TempDir(), "log"), func(c *Config) { c.RotateSize = minRotateSize })
	defer closeTest(t, l)
	fill(t, l, 700, 100)
	must(t, l.RotateKeys(context.Background()))
	fill(t, l, 1300, 100)
	size := l.Size()
	for _, r := range [][2]uint64{{0, 0}, {0, 1}, {0, 256}, {255, 257}, {256, 512}, {699, 703}, {1, size - 1}, {size - 1, size}, {511, 0}} {
		b, rep := mustBundle(t, l, BundleOptions{From: r[0], To: r[1]}, VerifyBundleOptions{Keys: epochKey(l)})
		to := r[1]
		if to == 0 {
			to = size
		}
		if rep.Verdict != evidence.Proven || !rep.Complete || rep.Entries != int(to-r[0]) || b.Entries[0].Index != r[0] || rep.Epoch != 1 {
			t.Errorf("range %v: %s, complete %v, %d entries", r, rep.Verdict, rep.Complete, rep.Entries)
		}
		for _, e := range b.Entries {
			want, err := l.Entry(context.Background(), e.Index)
			if err != nil || !bytes.Equal(e.Line, want.Line) {
				t.Fatalf("entry %d differs: %v", e.Index, err)
			}
		}
	}
	for _, o := range []BundleOptions{{From: size}, {To: size + 1}, {From: 5, To: 5}, {From: 6, To: 5}} {
		if _, err := l.Bundle(context.Background(), o); err == nil {
			t.Errorf("%+v gave a bundle", o)
		}
	}
	// A reader makes the same of what is published.
	ro, err := Open(l.dir, &Config{StateDir: l.cfg.StateDir, ReadOnly: true})
	must(t, err)
	defer closeTest(t, ro)
	if _, rep := mustBundle(t, ro, BundleOptions{From: 3, To: 900}, VerifyBundleOptions{}); !rep.Complete {
		t.Error("a reader's bundle is not complete")
	}
}

func TestBundleOfASelectionSaysSo(t *testing.T) {
	l := openTest(t, filepath.Join(t.TempDir(), "log"), nil)
	defer closeTest(t, l)
	fill(t, l, 500, 100)
	middle, err := l.Entry(context.Background(), 250)
	must(t, err)
	for _, c := range []struct {
		name string
		o    BundleOptions
		want func(e *Entry) bool
	}{
		{"levels", BundleOptions{Levels: []Level{Security, Warn}}, func(e *Entry) bool { return e.Level == Security || e.Level == Warn }},
		{"since", BundleOptions{Since: middle.Timestamp}, func(e *Entry) bool { return !e.Timestamp.Before(middle.Timestamp) }},
		{"until", BundleOptions{Until: middle.Timestamp}, func(e *Entry) bool { return e.Timestamp.Before(middle.Timestamp) }},
		{"query", BundleOptions{Query: "level:error since:-2h"}, func(e *Entry) bool { return e.Level == Error }},
		{"all", BundleOptions{Query: "level:error", Levels: []Level{Error, Info}, From: 100, To: 200}, func(e *Entry) bool { return e.Level == Error && e.Index >= 100 && e.Index < 200 }},
	} {
		b, rep := mustBundle(t, l, c.o, VerifyBundleOptions{Keys: epochKey(l)})
		var want, got []uint64
		for e, err := range l.Entries(context.Background(), Query{}) {
			must(t, err)
			if c.want(&e) {
				want = append(want, e.Index)
			}
		}
		for _, e := range b.Entries {
			got = append(got, e.Index)
		}
		if !slices.Equal(got, want) || len(want) == 0 || rep.Verdict != evidence.Proven || !rep.QueryChecked || uint64(len(want)) != b.Statement.Count {
			t.Errorf("%s: entries %v, want %v; %s, query checked %v", c.name, got, want, rep.Verdict, rep.QueryChecked)
		}
		if rep.Complete != (c.name == "since" || c.name == "until") && rep.Complete {
			t.Errorf("%s: complete", c.name)
		}
	}
	if _, err := l.Bundle(context.Background(), BundleOptions{Query: "nowhere-to-be-found"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a query that matches nothing: %v", err)
	}
	var wrong *QueryError
	if _, err := l.Bundle(context.Background(), BundleOptions{Query: "level:("}); !errors.As(err, &wrong) {
		t.Errorf("a query that is none: %v", err)
	}
	// An entry that does not match, in a bundle that is otherwise right, is found.
	data, err := l.Bundle(context.Background(), BundleOptions{Query: "level:error"})
	must(t, err)
	changed := bytes.Replace(data, []byte(`"query":"level:error"`), []byte(`"query":"level:warn"`), 1)
	rep, err := VerifyBundle(changed, VerifyBundleOptions{})
	if err != nil || rep.Verdict != evidence.Refuted || bytes.Equal(changed, data) {
		t.Errorf("another query over the same entries: %v, %v", rep, err)
	}
	// A time in a query is before the time at which the statement says that it was made.
	recent, err := l.Bundle(context.Background(), BundleOptions{Query: "since:-2h"})
	must(t, err)
	at := bytes.Index(recent, []byte(`"made":"`)) + len(`"made":"`)
	copy(recent[at:], "2200")
	if rep, err = VerifyBundle(recent, VerifyBundleOptions{}); err != nil || rep.Verdict != evidence.Refuted {
		t.Errorf("entries from before the query's time: %v, %v", rep, err)
	}
	spelled := bytes.Replace(data, []byte(`"query":"level:error"`), []byte(`"query":" level:error"`), 1)
	if rep, err = VerifyBundle(spelled, VerifyBundleOptions{}); err != nil || rep.Verdict != evidence.Refuted {
		t.Errorf("a query that is not in its canonical spelling: %v, %v", rep, err)
	}
}

func TestBundleNeedsSignatures(t *testing.T) {
	l := openTest(t, filepath.Join(t.TempDir(), "log"), func(c *Config) { c.NoSignatures = true })
	defer closeTest(t, l)
	fill(t, l, 3, 3)
	if _, err := l.Bundle(context.Background(), BundleOptions{}); err == nil {
		t.Error("a log without signatures gave a bundle")
	}
}

func TestBundleCarriesTimeStamps(t *testing.T) {
	a, other := tsatest.New(t, nil), tsatest.New(t, nil)
	srv := httptest.NewServer(a)
	defer srv.Close()
	l := openTest(t, filepath.Join(t.TempDir(), "log"), nil)
	defer closeTest(t, l)
	fill(t, l, 300, 100)
	_, err := l.StampTime(context.Background(), srv.URL)
	must(t, err)
	fill(t, l, 300, 100)
	b, rep := mustBundle(t, l, BundleOptions{From: 100, To: 400}, VerifyBundleOptions{TimeRoots: a.Roots()})
	if len(b.Times) != 1 || len(rep.Times) != 1 || !rep.Times[0].Trusted || rep.Times[0].Size != 300 || time.Since(rep.Times[0].Time) > time.Hour {
		t.Fatalf("times %+v", rep.Times)
	}
	if _, rep := mustBundle(t, l, BundleOptions{From: 100, To: 400}, VerifyBundleOptions{TimeRoots: other.Roots()}); rep.Times[0].Trusted {
		t.Error("a stranger's stamp is trusted")
	}
	if b, _ := mustBundle(t, l, BundleOptions{From: 300}, VerifyBundleOptions{}); len(b.Times) != 0 {
		t.Error("a stamp that covers none of the entries is in the bundle")
	}
	// A good stamp over something else.
	b.Times[0].Checkpoint = b.Checkpoint
	b.Times[0].Consistency = nil
	data, err := b.Append(nil)
	must(t, err)
	if rep, err = VerifyBundle(data, VerifyBundleOptions{}); err != nil || rep.Verdict != evidence.Refuted || !strings.Contains(rep.Findings[0].What, "something else") {
		t.Errorf("a stamp of another checkpoint: %+v, %v", rep, err)
	}
	b.Times[0].Stamp = []byte("nothing")
	data, err = b.Append(nil)
	must(t, err)
	if rep, err = VerifyBundle(data, VerifyBundleOptions{}); err != nil || rep.Verdict != evidence.Refuted {
		t.Errorf("a stamp that is none: %+v, %v", rep, err)
	}
}

func TestBundleCarriesCosignatures(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	x.session(t, 5)
	l := x.open(t)
	defer func() { must(t, l.Close()) }()
	policy, err := x.cfg.Policy.MarshalText()
	must(t, err)
	demand := VerifyBundleOptions{Policy: x.cfg.Policy}
	b, rep := mustBundle(t, l, BundleOptions{To: 8, Policy: policy}, demand)
	if rep.Verdict != evidence.Proven || rep.Covered != 8 || !x.cfg.Policy.Check(b.Checkpoint).Satisfied {
		t.Errorf("%s, %d covered: %q", rep.Verdict, rep.Covered, rep.Open)
	}
	for _, s := range rep.Signatures {
		if !s.Good {
			t.Errorf("signature %+v", s)
		}
	}
	// Newer entries, which no witness has seen: the cosigned checkpoint covers the older ones.
	for _, w := range x.ws {
		w.setFront(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "gone", http.StatusGone) })
	}
	fill(t, l, 4, 4)
	must(t, l.publisher.publish(true))
	_, rep = mustBundle(t, l, BundleOptions{Policy: policy}, demand)
	if rep.Verdict != evidence.Proven || rep.Covered != 10 || rep.Entries <= 10 {
		t.Errorf("%s, %d of %d covered: %q", rep.Verdict, rep.Covered, rep.Entries, rep.Open)
	}
	// A policy that names one witness: the lines of the others are left out, so that all lines are accounted for.
	one := policyOf(t, 1, x.ws[0])
	text, err := one.MarshalText()
	must(t, err)
	b, rep = mustBundle(t, l, BundleOptions{To: 8, Policy: text}, VerifyBundleOptions{Policy: one})
	if n, err := proof.ParseNote(b.Checkpoint); err != nil || len(n.Signatures) != len(l.CurrentKeys())+2 || rep.Verdict != evidence.Proven {
		t.Errorf("%s, note %q, %v", rep.Verdict, b.Checkpoint, err)
	}
	if _, err := l.Bundle(context.Background(), BundleOptions{To: 8, Policy: []byte("nonsense\n")}); err == nil {
		t.Error("a policy that is none went into a bundle")
	}
}

func TestVerifyBundleTellsFilesApart(t *testing.T) {
	l := openTest(t, filepath.Join(t.TempDir(), "log"), nil)
	defer closeTest(t, l)
	fill(t, l, 3, 3)
	data, err := l.Bundle(context.Background(), BundleOptions{})
	must(t, err)
	file := BundlePage(data)
	rep, err := VerifyBundle(file, VerifyBundleOptions{})
	if err != nil || rep.Verdict != evidence.Consistent || len(rep.Notes) != 0 {
		t.Errorf("the page: %+v, %v", rep, err)
	}
	rep, err = VerifyBundle(bytes.Replace(file, []byte("<main>"), []byte("<main><p>Proven!</p>"), 1), VerifyBundleOptions{})
	if err != nil || rep.Verdict != evidence.Consistent || len(rep.Notes) != 1 {
		t.Errorf("a page that says something else: %+v, %v", rep, err)
	}
	rep, err = VerifyBundle(file[:len(file)/2], VerifyBundleOptions{})
	if err != nil || rep.Verdict != evidence.Refuted && rep.Verdict != evidence.Consistent {
		t.Errorf("half the page: %+v, %v", rep, err)
	}
	if rep, err = VerifyBundle(file[:bytes.Index(file, data)+len(data)/2], VerifyBundleOptions{}); err != nil || rep.Verdict != evidence.Refuted {
		t.Errorf("a page that is cut in its data: %+v, %v", rep, err)
	}
	for _, other := range [][]byte{nil, []byte("hello"), BundlePage(nil)} {
		if _, err := VerifyBundle(other, VerifyBundleOptions{}); !errors.Is(err, ErrNotBundle) {
			t.Errorf("%.20q: %v", other, err)
		}
	}
	if _, err := VerifyBundle(data, VerifyBundleOptions{Keys: []string{"x"}}); err == nil {
		t.Error("a key that is none is taken")
	}
}

// TestBundleOfADamagedLogIsNotMade flips a byte of an entry.
func TestBundleOfADamagedLogIsNotMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, nil)
	fill(t, l, 300, 100)
	closeTest(t, l)
	tamperFile(t, filepath.Join(dir, openName), func(data []byte) []byte {
		data[bytes.Index(data, []byte("event 17"))] ^= 1
		return data
	})
	ro, err := Open(dir, &Config{StateDir: l.cfg.StateDir, ReadOnly: true})
	must(t, err)
	defer closeTest(t, ro)
	if data, err := ro.Bundle(context.Background(), BundleOptions{}); err == nil {
		t.Errorf("a damaged log gave a bundle of %d bytes", len(data))
	}
}

func TestBundleHasALimit(t *testing.T) {
	t.Parallel()
	if testing.Short() || thin > 1 {
		t.Skip("it appends a hundred thousand entries: too many under the race detector, and the same at full speed")
	}
	l := openTest(t, filepath.Join(t.TempDir(), "log"), nil)
	defer closeTest(t, l)
	batch := make([]Event, MaxBundleEntries/4)
	for i := range batch {
		batch[i] = Event{Message: "m"}
	}
	for range 4 {
		_, err := l.Append(context.Background(), batch...)
		must(t, err)
	}
	if _, rep := mustBundle(t, l, BundleOptions{To: MaxBundleEntries}, VerifyBundleOptions{}); rep.Entries != MaxBundleEntries {
		t.Errorf("%d entries", rep.Entries)
	}
	_, err := l.Append(context.Background(), batch[:1]...)
	must(t, err)
	if _, err := l.Bundle(context.Background(), BundleOptions{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one more than the limit: %v", err)
	}
}

func TestNewestTimesComeFirst(t *testing.T) {
	var marks []mark
	for size := uint64(1); size <= 40; size++ {
		marks = append(marks, mark{fmt.Sprintf("%020d.note", size), size, false}, mark{fmt.Sprintf("%020d-0.tsr", size), size, true})
	}
	slices.Reverse(marks)
	var got []uint64
	for _, k := range pickMarks(marks, 20) {
		if !k.stamp {
			got = append(got, k.size)
		}
	}
	if want := []uint64{13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28}; !slices.Equal(got, want) {
		t.Errorf("sizes %v, want %v", got, want)
	}
	for name, want := range map[string]bool{"00000000000000000012.note": true, "00000000000000000012-3.tsr": true, "0000000000000000001x.note": false, "12.note": false, "00000000000000000012.txt": false} {
		if _, ok := parseMark(name); ok != want {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

// tamperFile changes a file of a log whatever its mode is.
func tamperFile(t testing.TB, name string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	must(t, os.Chmod(name, 0o600))
	must(t, os.WriteFile(name, change(data), 0o600))
}

// epochKey is a key that signs checkpoints now, and not only the log key where there are others.
func epochKey(l *Log) []string {
	all := l.CurrentKeys()
	return all[len(all)-1:]
}
