package immutable

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
)

// open opens the log in dir with its state beside it.
func openTest(t *testing.T, dir string, change func(*Config)) *Log {
	t.Helper()
	cfg := &Config{StateDir: filepath.Join(filepath.Dir(dir), "state"), Origin: "example.com/test"}
	if change != nil {
		change(cfg)
	}
	l, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeTest(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// fill appends n events in batches and returns the receipts.
func fill(t *testing.T, l *Log, n, batch int) []Receipt {
	t.Helper()
	var all []Receipt
	for len(all) < n {
		var events []Event
		for i := range min(batch, n-len(all)) {
			events = append(events, Event{Level: Level(i % NumLevels), Message: fmt.Sprintf("event %d", len(all)+i), Metadata: Fields{"n": len(all) + i, "user": "ann"}})
		}
		rs, err := l.Append(context.Background(), events...)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rs...)
	}
	return all
}

func readAll(t *testing.T, l *Log, q Query) []Entry {
	t.Helper()
	var out []Entry
	for e, err := range l.Entries(context.Background(), q) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestEntriesComeBackAfterReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	var want []Receipt
	for session, n := range []int{0, 1, 255, 1, 700, 0, 3000} {
		l := openTest(t, dir, func(c *Config) { c.RotateSize = minRotateSize })
		want = append(want, fill(t, l, n, 100)...)
		if got := l.Size(); got != uint64(len(want)) {
			t.Fatalf("session %d: size %d, want %d", session, got, len(want))
		}
		for i, e := range readAll(t, l, Query{}) {
			if e.Index != uint64(i) || e.Leaf != want[i].Leaf || e.ID != want[i].ID || !e.Timestamp.Equal(want[i].Timestamp) {
				t.Fatalf("session %d: entry %d is %+v, receipt %+v", session, i, e, want[i])
			}
		}
		closeTest(t, l)
	}
	if got := readAll(t, openTest(t, dir, nil), Query{}); len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
}
