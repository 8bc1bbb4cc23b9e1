package immutable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// crashWorkload is what the crash tests interrupt: it makes a log and goes through everything that changes files.
func crashWorkload(d *vfstest.Disk, c *fakeClock, h *history) error {
	ctx := context.Background()
	open := func() (*Log, error) { return Open(diskDir, diskConfig(d, c)) }
	l, err := open()
	if err != nil {
		return err
	}
	run := func(steps ...func() error) error {
		for i, step := range steps {
			if err := step(); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		}
		return nil
	}
	add := func(n int) func() error { return func() error { return h.append(l, n) } }
	rotate := func() error { return l.Rotate(ctx) }
	publish := func(keep bool) func() error { return func() error { return l.publisher.publish(keep) } }
	reopen := func() error {
		if err := l.Close(); err != nil {
			return err
		}
		l, err = open()
		return err
	}
	reset := func() error {
		c.add(-24 * time.Hour)
		if err := h.append(l, 2); err != nil {
			return err
		}
		_, _, err := l.ResetClock(ctx)
		return err
	}
	err = run(
		add(1), add(3), add(252), rotate, // the open segment is empty after this
		publish(false), add(1), publish(false), reopen,
		add(300), rotate, add(2), publish(true), reset, add(5),
		add(400), add(400), // rotated on the way
		func() error { return l.sealer.wait(ctx) },
		add(10), reopen, reopen, add(1),
	)
	if l == nil {
		return err
	}
	return errors.Join(err, l.Close())
}

// watch calls visit before each operation that changes d, with what was acknowledged so far, and remembers every
// checkpoint that was visible.
func watch(d *vfstest.Disk, h *history, visit func(op vfstest.Op)) {
	d.SetFail(func(op vfstest.Op) error {
		if op.N == 0 {
			return nil
		}
		if note, err := d.ReadFileRaw(diskDir + "/checkpoint"); err == nil {
			h.see(note)
		}
		visit(op)
		return nil
	})
}

// TestCrashAtEveryDurableStep interrupts the workload before each operation that changes the disk, by a kill and by power
// cuts, and recovers.
func TestCrashAtEveryDurableStep(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	type point struct {
		op   vfstest.Op
		d    *vfstest.Disk
		h    *history
		kind int
		seed uint64
	}
	points := make(chan point)
	var failures atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for p := range points {
				if failures.Load() > 5 {
					continue
				}
				if err := p.h.afterwards(p.d, newClock()); err != nil {
					failures.Add(1)
					t.Errorf("%s before operation %d, %s %s (seed %d): %v", cutKinds[p.kind%len(cutKinds)], p.op.N, p.op.Kind, p.op.Name, p.seed, err)
				}
			}
		})
	}
	d, h, n := vfstest.New(), &history{}, 0
	watch(d, h, func(op vfstest.Op) {
		if n++; failures.Load() > 5 {
			return
		}
		kinds := []int{n + n/len(cutKinds)}
		if longTests() {
			kinds = []int{0, 1, 2, 3, 3, 3, 3, 3}
		} else if rng.IntN(thin) != 0 {
			return
		}
		for _, kind := range kinds {
			seed := rng.Uint64()
			at, then := h.at(func() *vfstest.Disk { return cut(d, kind, vfstest.NewRand(seed)) })
			points <- point{op, at, then, kind, seed}
		}
	})
	err := crashWorkload(d, newClock(), h)
	close(points)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations", n)
}

// TestCrashDuringRecovery interrupts the workload, then recovery from that at each of its operations, and once more
// before the end: whatever a recovery leaves half done, the next one finishes.
func TestCrashDuringRecovery(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	type point struct {
		op vfstest.Op
		d  *vfstest.Disk
		h  *history
	}
	var starts []point
	d, h := vfstest.New(), &history{}
	watch(d, h, func(op vfstest.Op) {
		at, then := h.at(d.Clone)
		starts = append(starts, point{op, at, then})
	})
	must(t, crashWorkload(d, newClock(), h))
	for range rounds(20, 1500) {
		seed := rng.Uint64()
		r := vfstest.NewRand(seed)
		p := starts[r.IntN(len(starts))]
		if err := nestedCrash(p.d, p.h.clone(), r, 1+r.IntN(3)); err != nil {
			t.Fatalf("interrupted before operation %d, %s %s (seed %d): %v", p.op.N, p.op.Kind, p.op.Name, seed, err)
		}
	}
}

// nestedCrash interrupts d, then the recovery, as often as depth says, then lets it finish.
func nestedCrash(d *vfstest.Disk, h *history, rng *rand.Rand, depth int) error {
	kind := rng.IntN(5)
	d = cut(d, kind, rng)
	trace := []string{cutKinds[kind%len(cutKinds)]}
	for range depth {
		at := rng.IntN(40)
		kind = rng.IntN(5)
		trace = append(trace, fmt.Sprintf("%s after %d operations of recovery", cutKinds[kind%len(cutKinds)], at))
		d.CutAfter(uint64(at))
		if l, err := Open(diskDir, diskConfig(d, newClock())); err == nil {
			_ = h.append(l, 1+rng.IntN(300))
			_ = l.Close()
		} else if !errors.Is(err, vfstest.ErrPowerCut) {
			return fmt.Errorf("%s: recovery: %w", strings.Join(trace, "; "), err)
		}
		d = cut(d, kind, rng)
	}
	if err := h.afterwards(d, newClock()); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(trace, "; "), err)
	}
	return nil
}

// TestPowerCutAfterKillLosesNothing kills the workload before each operation, lets the next process use what it finds,
// durable or not, and cuts the power on that: what the second process acknowledged must not stand on names and bytes
// that only the page cache had.
func TestPowerCutAfterKillLosesNothing(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	d, h := vfstest.New(), &history{}
	failures := 0
	watch(d, h, func(op vfstest.Op) {
		if failures > 5 || !longTests() && op.Kind != vfstest.OpSyncDir && op.Kind != vfstest.OpSync {
			return
		}
		for use := range 3 {
			seed := rng.Uint64()
			if !longTests() && seed%(8*thin) != 0 {
				continue
			}
			at, then := h.at(d.Clone)
			if err := killThenPowerCut(at, then, use, vfstest.NewRand(seed)); err != nil {
				failures++
				t.Errorf("killed before operation %d, %s %s (use %d, seed %d): %v", op.N, op.Kind, op.Name, use, seed, err)
			}
		}
	})
	must(t, crashWorkload(d, newClock(), h))
}

func killThenPowerCut(d *vfstest.Disk, h *history, use int, rng *rand.Rand) error {
	l, err := Open(diskDir, diskConfig(d, newClock()))
	if err != nil {
		return fmt.Errorf("open after the kill: %w", err)
	}
	if use > 0 {
		err = h.append(l, 2)
	}
	if err == nil && use > 1 {
		err = l.sealer.wait(context.Background())
	}
	if err == nil && use > 1 {
		err = l.publisher.publish(true)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("use after the kill: %w", err), l.Close())
	}
	if note, err := l.Checkpoint(); err == nil {
		h.see(note)
	}
	after := cut(d, 1+2*rng.IntN(2), rng)
	if err := l.Close(); err != nil {
		return err
	}
	return h.afterwards(after, newClock())
}
