package witness

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// TestCrashNeverSignsTwoHistories ends a witness at each operation on its disk, by a kill and by power cuts of several
// kinds. Afterwards an attacker who has the log's key shows it another history from every size: whatever it cosigns, before and after, is
// one history, and nothing that it answered is forgotten.
func TestCrashNeverSignsTwoHistories(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("IMMUTABLE_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("IMMUTABLE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	l := newLog(t, origin).grow(12, "entry")
	forks := []*forking{newFork(l, 3), newFork(l, 5), newFork(l, 9)}
	sizes := []int{3, 5, 9, 9, 12}

	whole := newDisk()
	answered, err := follow(whole, l, sizes)
	must(t, err)
	if len(answered) != len(sizes) {
		t.Fatalf("%d answers without a crash", len(answered))
	}
	for cutAt := range whole.Ops() + 1 {
		for kind := range 4 {
			d := newDisk()
			d.CutAfter(cutAt)
			answered, err := follow(d, l, sizes)
			if err == nil && cutAt < whole.Ops() {
				t.Fatalf("cut after %d: it was not noticed", cutAt)
			}
			after := d.Clone() // a kill: what was visible
			switch kind {
			case 1:
				after = d.CrashKeep(vfstest.KeepNone)
			case 2:
				after = d.CrashKeep(vfstest.KeepAll)
			case 3:
				after = d.Crash(rng)
			}
			shown := forks
			if os.Getenv("IMMUTABLE_LONG") == "" {
				shown = forks[rng.IntN(len(forks)):][:1]
			}
			if err := attack(t, after, l, shown, answered); err != nil {
				t.Fatalf("seed %d, cut after %d operations, kind %d, %d answers: %v", seed, cutAt, kind, len(answered), err)
			}
		}
	}
}

// follow shows a witness the sizes one after the other, and returns those that were answered.
func follow(d *vfstest.Disk, l *fakeLog, sizes []int) (answered []int, err error) {
	s, err := New(d, witnessDir, config(newNow(), l))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	last := 0
	for _, n := range sizes {
		r := post(s, l.request(last, n))
		if r.status != http.StatusOK {
			return answered, fmt.Errorf("size %d: %d %s", n, r.status, r.body)
		}
		answered, last = append(answered, n), n
	}
	return answered, nil
}

// forking is a fork with its requests, made once.
type forking struct {
	*fakeLog
	requests map[[2]int][]byte // by old and new size
}

var forkSizes = []int{3, 5, 9, 12, 14}

func newFork(l *fakeLog, n int) *forking {
	f := &forking{l.fork(n).grow(14, "fork"), map[[2]int][]byte{}}
	for _, old := range append([]int{0}, forkSizes...) {
		for _, n := range forkSizes {
			if n >= old {
				f.requests[[2]int{old, n}] = f.request(old, n)
			}
		}
	}
	return f
}

// attack opens a witness again, holds it to what it answered, and shows it forks.
func attack(t *testing.T, d *vfstest.Disk, l *fakeLog, forks []*forking, answered []int) error {
	s, err := New(d, witnessDir, config(newNow(), l))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer s.Close()
	last := 0
	if len(answered) > 0 {
		last = answered[len(answered)-1]
	}
	known := s.logs[origin].known
	if known.size < uint64(last) {
		return fmt.Errorf("it answered size %d and knows %d", last, known.size)
	}
	if known.note != nil && textOf(t, known.note) != l.text(int(known.size)) {
		return fmt.Errorf("it knows %q", known.note)
	}
	// The attacker's answers, and those from before, must be one history.
	signed := map[int]proof.Hash{}
	for _, n := range answered {
		signed[n] = proof.Root(l.leaves[:n])
	}
	for _, f := range forks {
		for _, old := range append([]int{0}, forkSizes...) {
			for _, n := range forkSizes {
				if body := f.requests[[2]int{old, n}]; body == nil || post(s, body).status != http.StatusOK {
					continue
				}
				for size, root := range signed {
					if size <= n && proof.Root(f.leaves[:size]) != root {
						return fmt.Errorf("it cosigned %d of a fork, and before that another history of size %d", n, size)
					}
				}
				signed[n] = proof.Root(f.leaves[:n])
			}
		}
	}
	return nil
}
