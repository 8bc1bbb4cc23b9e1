package immutable

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tree-of-life-system/immutable/proof"
)

// bigHistory is a log with some hundred kept checkpoints, in several of the pieces that are read at once.
func bigHistory(t *testing.T) *Log {
	t.Helper()
	l := osLog(t, t.TempDir(), func(c *Config) { c.RotateSize = 1 << 20 })
	for length := int64(0); length < 3*historyPiece; length = l.publisher.length {
		if _, err := l.Info(t.Context(), "one more", nil); err != nil {
			t.Fatal(err)
		}
		if err := l.publisher.publish(true); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestCheckpointsFromAnySize(t *testing.T) {
	l := bigHistory(t)
	all, err := l.CheckpointHistory()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(l.dir, checkpointsName))
	if err != nil {
		t.Fatal(err)
	}
	want, err := proof.SplitNotes(data)
	if err != nil {
		t.Fatal(err)
	}
	same := func(a, b [][]byte) bool {
		return slices.EqualFunc(a, b, func(x, y []byte) bool { return string(x) == string(y) })
	}
	if !same(all, want) {
		t.Fatalf("%d of %d kept checkpoints", len(all), len(want))
	}
	sizes := make([]uint64, len(want))
	for i, note := range want {
		if sizes[i], err = sizeOfNote(note); err != nil {
			t.Fatal(err)
		}
	}
	for i, size := range sizes {
		for _, from := range []uint64{size, size + 1} {
			begin, _ := slices.BinarySearch(sizes, from)
			for _, limit := range []int{0, 3} {
				got, err := l.CheckpointsFrom(from, limit)
				if err != nil || !same(got, want[begin:min(begin+limit, len(want))]) {
					t.Fatalf("checkpoint %d: %d from size %d on, limit %d: %v", i, len(got), from, limit, err)
				}
			}
		}
	}
	if got, err := l.CheckpointsFrom(math.MaxUint64, 5); err != nil || len(got) > 0 {
		t.Errorf("%d beyond the last: %v", len(got), err)
	}
	if _, err := l.CheckpointsFrom(0, -1); err == nil {
		t.Error("a negative limit was taken")
	}
}

// TestHistoryOfAReader takes a note that a writer has begun for what it is, and any other damage for damage.
func TestHistoryOfAReader(t *testing.T) {
	l := bigHistory(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(l.dir, checkpointsName)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(l.dir, &Config{ReadOnly: true, StateDir: l.cfg.StateDir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := r.CheckpointHistory()
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 1, len(all[0]) / 2} {
		if err := os.WriteFile(name, slices.Concat(data, all[0][:cut]), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := r.CheckpointHistory(); err != nil || len(got) != len(all) {
			t.Errorf("%d bytes of a note behind the last: %d of %d, %v", cut, len(got), len(all), err)
		}
	}
	for _, at := range []int{0, len(data) / 2, len(data) - 2*len(all[0])} {
		bad := slices.Clone(data)
		copy(bad[at:], "\n\n\n\n\n")
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var corrupt *CorruptError
		if got, err := r.CheckpointHistory(); !errors.As(err, &corrupt) {
			t.Errorf("damage at %d of %d: %d checkpoints, %v", at, len(data), len(got), err)
		}
	}
}
