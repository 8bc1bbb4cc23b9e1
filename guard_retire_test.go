package immutable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuardIsSilentWhileSegmentsAreRetiredAndRestored looks at every file, over and over, while segments go and come back.
func TestGuardIsSilentWhileSegmentsAreRetiredAndRestored(t *testing.T) {
	l, g := guarded(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	appendSome(t, l, 600)
	mustAll(t, l.Rotate(ctx))
	sealed := l.SealedSegments()
	first, cold := sealed[0], t.TempDir()
	done := make(chan struct{})
	var wg sync.WaitGroup
	var looks atomic.Int64
	watch := func(look func() error) {
		wg.Go(func() {
			for {
				if err := look(); err != nil {
					t.Error(err)
					return
				}
				looks.Add(1)
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	watch(func() error {
		for _, name := range g.Names() {
			if _, err := g.Check(ctx, name, true); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
	watch(func() error { return g.Segment(ctx, first, nil) })
	watch(func() error {
		bad, err := g.Sweep(ctx)
		if len(bad) > 0 {
			return fmt.Errorf("sweep: %v", bad)
		}
		return err
	})
	wg.Go(func() {
		defer close(done)
		for i := range 8 {
			_, err := l.Retire(ctx, first, RetireOptions{ColdDir: cold, Reason: "a test"})
			if err == nil && i%2 == 0 {
				_, err = l.Retire(ctx, sealed[1], RetireOptions{ColdDir: cold})
				if err == nil {
					_, err = l.Restore(ctx, RestoreOptions{})
				}
			}
			if err == nil {
				_, err = l.Restore(ctx, RestoreOptions{Reason: "a test"})
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	// What was seen of the files before counts no more, however often they were replaced between two looks.
	if _, err := l.Retire(ctx, first, RetireOptions{ColdDir: cold}); err != nil {
		t.Fatal(err)
	}
	if bad, err := g.Sweep(ctx); err != nil || len(bad) > 0 {
		t.Errorf("retired: %v, %v", bad, err)
	}
	for range 2 {
		if _, err := l.Restore(ctx, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Retire(ctx, first, RetireOptions{ColdDir: cold}); err != nil {
			t.Fatal(err)
		}
	}
	if bad, err := g.Sweep(ctx); err != nil || len(bad) > 0 {
		t.Errorf("retired again: %v, %v", bad, err)
	}
	if looks.Load() < 20 {
		t.Errorf("%d looks: too few", looks.Load())
	}
}

// TestGuardReadsOnWhileItsSegmentIsRetired retires a segment, and brings it back, between two pieces that are read of it.
func TestGuardReadsOnWhileItsSegmentIsRetired(t *testing.T) {
	for _, back := range []bool{false, true} {
		l, g := guarded(t)
		first, cold, once := l.SealedSegments()[0], t.TempDir(), true
		err := g.Segment(t.Context(), first, func(int) error {
			if !once {
				return nil
			}
			once = false
			// Whatever is read next is missing, or of the next time that the segment is there.
			_, err := l.Retire(t.Context(), first, RetireOptions{ColdDir: cold})
			if err == nil && back {
				_, err = l.Restore(t.Context(), RestoreOptions{})
			}
			return err
		})
		if err != nil || once {
			t.Errorf("brought back %t: %v", back, err)
		}
		name := fmt.Sprintf("index/%020d.seal", first)
		if err := g.compareSealed(t.Context(), name, first, ".seal", func(int) error { return nil }); err != nil {
			t.Errorf("brought back %t: the seal: %v", back, err)
		}
	}
}

// TestGuardForgivesWhatARetirementTakesFromUnderIt lets a file go while it is compared.
func TestGuardForgivesWhatARetirementTakesFromUnderIt(t *testing.T) {
	l, g := guarded(t)
	first := l.SealedSegments()[0]
	name := fmt.Sprintf("archive/%020d.jsonl.zst", first)
	lost := errors.New("the file went")
	called := false
	pace := func(int) error {
		called = true
		if _, err := l.Retire(t.Context(), first, RetireOptions{Delete: true}); err != nil {
			t.Error(err)
		}
		return lost
	}
	if err := g.sealed(t.Context(), name, pace); err != nil || !called {
		t.Errorf("got %v: the segment is retired", err)
	}
	if err := g.Segment(t.Context(), first, nil); err != nil {
		t.Error(err)
	}
}

// TestGuardNamesLeavesThatWereTamperedWith changes, deletes and replaces what is kept of a retired segment.
func TestGuardNamesLeavesThatWereTamperedWith(t *testing.T) {
	l, g := guarded(t)
	g.settle = 5 * time.Millisecond
	ctx := t.Context()
	first := l.SealedSegments()[0]
	if _, err := l.Retire(ctx, first, RetireOptions{Delete: true}); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s/%020d.leaves", retiredDir, first)
	path := g.path(name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Name(path); got != name {
		t.Fatalf("Name(%s) = %q", path, got)
	}
	if !g.Parent(filepath.Dir(path)) {
		t.Error("nobody watches the directory")
	}
	other := append([]byte(nil), data...)
	other[len(other)/2] ^= 1
	put := func(data []byte) { mustAll(t, os.Remove(path), os.WriteFile(path, data, 0o444)) }
	fresh := func() *Guard { // knows nothing of the file but what the tombstone says
		g, err := l.Guard(ctx)
		if g == nil {
			t.Fatal(err)
		}
		return g
	}
	for _, c := range []struct {
		how          string
		tamper, undo func()
		unseen       bool // also one that never saw the file notices
	}{
		{"flipped", func() { pokeByte(t, path, int64(len(data)/2), other[len(data)/2]) }, func() { pokeByte(t, path, int64(len(data)/2), data[len(data)/2]) }, true},
		{"chmod", func() { mustAll(t, os.Chmod(path, 0o666)) }, func() { mustAll(t, os.Chmod(path, 0o444)) }, false},
		{"deleted", func() { mustAll(t, os.Rename(path, path+".away")) }, func() { mustAll(t, os.Rename(path+".away", path)) }, true},
		{"grown", func() { pokeByte(t, path, int64(len(data)), '\n') }, func() { mustAll(t, os.Chmod(path, 0o600), os.Truncate(path, int64(len(data))), os.Chmod(path, 0o444)) }, true},
		{"replaced", func() { put(other) }, nil, true},
	} {
		if _, err := g.Check(ctx, name, true); err != nil {
			t.Fatalf("%s: before: %v", c.how, err)
		}
		c.tamper()
		var fault *CorruptError
		if _, err := g.Check(ctx, name, false); !errors.As(err, &fault) || fault.File != name {
			t.Errorf("%s: got %v, want a CorruptError", c.how, err)
		}
		bad, err := g.Sweep(ctx)
		if err != nil || len(bad) != 1 || bad[name] == nil {
			t.Errorf("%s: sweep: %v, %v", c.how, bad, err)
		}
		if c.unseen {
			g := fresh()
			g.settle = time.Millisecond
			if _, err := g.Check(ctx, name, true); !errors.As(err, &fault) {
				t.Errorf("%s: a new guard: %v", c.how, err)
			}
		}
		if c.undo != nil {
			c.undo()
			if _, err := g.Check(ctx, name, true); err != nil {
				t.Errorf("%s: after it was undone: %v", c.how, err)
			}
		}
	}
}

// TestExpiredIsWhatWouldBeRetired holds the dry run to the run.
func TestExpiredIsWhatWouldBeRetired(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	a.c.add(48 * time.Hour)
	if got, err := a.l.Expired(ctx, 1000*time.Hour); err != nil || len(got) != 0 {
		t.Errorf("too young: %v, %v", got, err)
	}
	if _, err := a.l.Expired(ctx, -1); err == nil {
		t.Error("a negative time was taken")
	}
	want, err := a.l.Expired(ctx, 36*time.Hour)
	must(t, err)
	got, err := a.l.RetireExpired(ctx, 36*time.Hour, RetireOptions{Delete: true})
	must(t, err)
	if len(got) != len(want) || len(got) != 3 {
		t.Fatalf("retired %+v, expired %+v", got, want)
	}
	for i := range got {
		if got[i].First != want[i].First || got[i].End != want[i].End || got[i].Bytes != want[i].Bytes {
			t.Errorf("retired %+v, expired %+v", got[i], want[i])
		}
	}
}
