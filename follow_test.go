package immutable

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// follower collects what a subscription returns, and fails the test on a gap, a duplicate or an altered order.
type follower struct {
	next atomic.Uint64
	end  chan error
}

func follow(t *testing.T, ctx context.Context, l *Log, from uint64, each func(Entry)) *follower {
	f := &follower{end: make(chan error, 1)}
	f.next.Store(from)
	go func() {
		for e, err := range l.Subscribe(ctx, from) {
			if err != nil {
				f.end <- err
				return
			}
			if e.Index != f.next.Load() {
				t.Errorf("got entry %d, want %d", e.Index, f.next.Load())
			}
			if each != nil {
				each(e)
			}
			f.next.Add(1)
		}
	}()
	return f
}

// until waits for the follower to have everything before size.
func (f *follower) until(t *testing.T, size uint64) {
	t.Helper()
	for f.next.Load() < size {
		select {
		case err := <-f.end:
			t.Fatalf("the subscription ended after %d of %d entries: %v", f.next.Load(), size, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// osLog opens a log on the operating system's files, with small segments.
func osLog(t *testing.T, dir string, change func(*Config)) *Log {
	t.Helper()
	return openTest(t, dir, func(c *Config) {
		c.RotateSize, c.CheckpointInterval = minRotateSize, 5*time.Millisecond
		if change != nil {
			change(c)
		}
	})
}

// writeBusily appends from four goroutines, rotates now and then, and closes nothing.
func writeBusily(t *testing.T, l *Log, batches int) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range batches {
				if _, err := l.Append(context.Background(), events(1000*g+i, 1+(i*37+g)%120)...); err != nil {
					t.Error(err)
					return
				}
				if g == 0 && i%10 == 9 {
					if err := l.Rotate(context.Background()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestSubscribersMissNothing follows a log in its own process and from read-only logs beside it, from several places,
// while four goroutines append across rotations and sealing; others read at random.
func TestSubscribersMissNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := osLog(t, dir, nil)
	fill(t, w, 100, 10)
	r := osLog(t, dir, func(c *Config) { c.ReadOnly = true })
	old := osLog(t, dir, func(c *Config) { c.ReadOnly = true }) // looks only at the end
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	followers := []*follower{
		follow(t, ctx, w, 0, nil), follow(t, ctx, w, 50, nil), follow(t, ctx, w, 400, nil),
		follow(t, ctx, r, 0, nil), follow(t, ctx, r, 99, nil), follow(t, ctx, r, 700, nil),
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i, l := range []*Log{w, r} {
		readers.Go(func() {
			rng := vfstest.NewRand(uint64(i))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := readSomething(l, rng.Uint64(), rng.IntN(6)); err != nil {
					t.Errorf("log %d: %v", i, err)
					return
				}
			}
		})
	}
	writeBusily(t, w, max(8, rounds(30, 300))) // enough for some rotations
	for _, f := range followers {
		f.until(t, w.Size())
	}
	close(stop)
	readers.Wait()
	root, size := w.Root()
	if got, err := old.RootAt(context.Background(), size); err != nil || got != root {
		t.Errorf("a reader that slept through it has root %s (%v), want %s", got, err, root)
	}
	if n := len(w.SealedSegments()); n < 3 {
		t.Errorf("%d sealed segments, want some", n)
	}
	cancel()
	for _, f := range followers {
		if err := <-f.end; !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled subscription ends with %v", err)
		}
	}
	f := follow(t, context.Background(), w, w.Size(), nil)
	closeTest(t, w)
	if err := <-f.end; !errors.Is(err, ErrClosed) {
		t.Errorf("a subscription of a closed log ends with %v, want %v", err, ErrClosed)
	}
	closeTest(t, r)
	closeTest(t, old)
}

// readSomething reads in one of several ways what is there at the moment.
func readSomething(l *Log, n uint64, how int) error {
	ctx := context.Background()
	root, size := l.Root()
	index := n % size
	switch how {
	case 0:
		e, err := l.Entry(ctx, index)
		if err == nil && e.Index != index {
			err = fmt.Errorf("entry %d came for %d", e.Index, index)
		}
		return err
	case 1:
		_, err := l.Block(ctx, index)
		return err
	case 2:
		e, err := l.Entry(ctx, index)
		if err != nil {
			return err
		}
		p, err := l.InclusionProof(ctx, index, size)
		if err != nil {
			return err
		}
		return proof.CheckInclusion(p, index, size, e.Leaf, root)
	case 3:
		seen := 0
		for _, err := range l.Entries(ctx, Query{Reverse: true, Limit: 300, Levels: []Level{Info, Audit}}) {
			if err != nil {
				return err
			}
			seen++
		}
		return nil
	case 4:
		_, err := l.Stats(ctx)
		return err
	}
	old, err := l.RootAt(ctx, index)
	if err != nil {
		return err
	}
	p, err := l.ConsistencyProof(ctx, index, size)
	if err != nil || index == 0 {
		return err
	}
	return proof.CheckConsistency(p, index, size, old, root)
}

// TestReaderClosesBesideItsOwnReads closes a read-only log while others read it.
func TestReaderClosesBesideItsOwnReads(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := osLog(t, dir, nil)
	fill(t, w, 600, 100)
	for range 10 {
		r := osLog(t, dir, func(c *Config) { c.ReadOnly = true })
		var wg sync.WaitGroup
		for g := range 3 {
			wg.Go(func() {
				for i := range uint64(50) {
					if err := readSomething(r, i, g*2); err != nil {
						if !errors.Is(err, ErrClosed) && r.refusal() == nil {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Go(func() { fill(t, w, 300, 100) })
		must(t, r.Close())
		wg.Wait()
	}
	closeTest(t, w)
}

// TestReaderSeesCommittedBatchesOnly opens and follows beside a writer that was killed in its batch: no entry of the
// unfinished batch is served, and what a recovery does to it does not disturb the reader.
func TestReaderSeesCommittedBatchesOnly(t *testing.T) {
	rng := vfstest.Rand(t)
	d, h := vfstest.New(), &history{}
	l, err := Open(diskDir, diskConfig(d, newClock()))
	must(t, err)
	must(t, h.append(l, 200))
	before := d.Clone()
	must(t, h.append(l, 20))
	whole, err := d.ReadFileRaw(diskDir + "/" + openName)
	must(t, err)
	must(t, l.Close())
	start, err := before.ReadFileRaw(diskDir + "/" + openName)
	must(t, err)
	for range rounds(20, 200) {
		n := len(start) + rng.IntN(len(whole)-len(start))
		after := before.Clone()
		must(t, after.WriteFileRaw(diskDir+"/"+openName, whole[:n]))
		cfg := diskConfig(after, newClock())
		cfg.ReadOnly = true
		r, err := Open(diskDir, cfg)
		must(t, err)
		if got := readAll(t, r, Query{}); len(got) != 200 {
			t.Errorf("%d bytes of the batch: %d entries, want 200", n-len(start), len(got))
		}
		w, err := Open(diskDir, diskConfig(after, newClock()))
		must(t, err)
		fill(t, w, 3, 1)
		want := readAll(t, w, Query{})
		got := readAll(t, r, Query{})
		if len(got) != len(want) {
			t.Errorf("after recovery: %d entries, the writer has %d", len(got), len(want))
		}
		must(t, w.Close())
		must(t, r.Close())
	}
}
