package immutable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

var errFault = errors.New("input/output error")

// countOps is how many changing operations the crash workload makes.
func countOps(t *testing.T) uint64 {
	t.Helper()
	d := vfstest.New()
	must(t, crashWorkload(d, newClock(), &history{}))
	return d.Ops()
}

// TestFailedOperationLosesNothing lets each durable step of the workload fail, once or for ever, carried out or not. The
// workload may end with an error; what was acknowledged is there after the next Open, also when the power fails first.
func TestFailedOperationLosesNothing(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	total := countOps(t)
	failures := 0
	for n := uint64(1); n <= total && failures < 6; n++ {
		modes := []int{int(n) % 4}
		if longTests() {
			modes = []int{0, 1, 2, 3}
		} else if rng.IntN(6*thin) != 0 {
			continue
		}
		for _, mode := range modes {
			seed := rng.Uint64()
			d, h := vfstest.New(), &history{}
			var failed vfstest.Op
			d.SetFail(func(op vfstest.Op) error {
				if note, err := d.ReadFileRaw(diskDir + "/checkpoint"); err == nil {
					h.see(note)
				}
				if op.N != n && (mode < 2 || op.N < n) || op.N == 0 {
					return nil
				}
				if failed.N == 0 {
					failed = op
				}
				if mode%2 == 1 && op.N == n {
					return vfstest.Persisted(errFault)
				}
				return errFault
			})
			_ = crashWorkload(d, newClock(), h) // may go on after a fault, or not
			r := vfstest.NewRand(seed)
			kind := r.IntN(len(cutKinds))
			after := cut(d, kind, r)
			if err := h.afterwards(after, newClock()); err != nil {
				failures++
				t.Errorf("operation %d, %s %s, fails (mode %d), then %s (seed %d): %v", n, failed.Kind, failed.Name, mode, cutKinds[kind], seed, err)
			}
		}
	}
}

// TestFailedSyncEndsTheWriter lets the sync of a batch fail. Nothing is acknowledged after it, its own error says
// uncertain, and after a new Open the batch is there whole or not at all.
func TestFailedSyncEndsTheWriter(t *testing.T) {
	for _, c := range []struct {
		name string
		kind vfstest.Kind
		err  error
		lie  bool
	}{
		{"sync fails", vfstest.OpSync, errFault, false},
		{"sync fails and was persisted", vfstest.OpSync, vfstest.Persisted(errFault), false},
		{"sync fails and the page cache lies", vfstest.OpSync, errFault, true},
		{"write fails", vfstest.OpWrite, errFault, false},
		{"write fails and was persisted", vfstest.OpWrite, vfstest.Persisted(errFault), false},
		{"write is cut short", vfstest.OpWrite, vfstest.Short(100, errFault), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, h := vfstest.New(), &history{}
			l, err := Open(diskDir, diskConfig(d, newClock()))
			must(t, err)
			must(t, h.append(l, 300))
			fault := func(op vfstest.Op) error {
				if op.Kind == c.kind && op.Name == diskDir+"/"+openName {
					return c.err
				}
				return nil
			}
			if c.lie {
				d.SetFailSync(fault)
			} else {
				d.SetFail(fault)
			}
			if err := h.append(l, 5); !errors.Is(err, ErrUncertain) || !errors.Is(err, errFault) {
				t.Errorf("append in doubt: %v, want %v and %v", err, ErrUncertain, errFault)
			}
			d.SetFail(nil)
			d.SetFailSync(nil)
			for range 3 {
				if err := h.append(l, 1); !errors.Is(err, ErrWriterFailed) {
					t.Errorf("append after it: %v, want %v", err, ErrWriterFailed)
				}
			}
			must(t, h.clone().check(l)) // reading goes on
			if s, err := l.Stats(t.Context()); err != nil || s.Writable || !errors.Is(l.Writable(), ErrWriterFailed) {
				t.Errorf("stats say that it can be written to: %+v, %v; Writable: %v", s, err, l.Writable())
			}
			if err := l.Close(); !errors.Is(err, ErrWriterFailed) {
				t.Errorf("close: %v, want %v", err, ErrWriterFailed)
			}
			for kind := range cutKinds {
				if err := h.clone().afterwards(cut(d, kind, vfstest.NewRand(1)), newClock()); err != nil {
					t.Errorf("%s: %v", cutKinds[kind], err)
				}
			}
		})
	}
}

// syncsOf are the numbers of the operations of the crash workload that are syncs. The sealer goes its own way, so that another run may have
// one more or less before each.
func syncsOf(t *testing.T) (list []uint64) {
	t.Helper()
	d := vfstest.New()
	d.SetFailSync(func(op vfstest.Op) error {
		list = append(list, op.N)
		return nil
	})
	must(t, crashWorkload(d, newClock(), &history{}))
	return list
}

// TestPageCacheThatLiesIsWrittenAgain lets each sync of the workload fail as on Linux: what was written stays visible,
// the disk may not have it, and the next sync says nothing. After a new Open the power fails: nothing that was
// acknowledged before or after is lost.
func TestPageCacheThatLiesIsWrittenAgain(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	failures := 0
	for _, n := range syncsOf(t) {
		if !longTests() && rng.IntN(3*thin) != 0 || failures == 6 {
			continue
		}
		d, h := vfstest.New(), &history{}
		var failed vfstest.Op
		d.SetFailSync(func(op vfstest.Op) error {
			if op.N < n || failed.N != 0 {
				return nil
			}
			failed = op
			return errFault
		})
		_ = crashWorkload(d, newClock(), h)
		if failed.N == 0 {
			break
		}
		seed := rng.Uint64()
		if err := killThenPowerCut(d.Clone(), h, int(seed%3), vfstest.NewRand(seed)); err != nil {
			failures++
			t.Errorf("sync %d of %s fails (seed %d): %v", failed.N, failed.Name, seed, err)
		}
	}
}

// TestFailedHeadBeforeTheFirstBatchAcknowledgesNothing lets the head fail that goes before the first batch of a session:
// that is no full disk.
func TestFailedHeadBeforeTheFirstBatchAcknowledgesNothing(t *testing.T) {
	d, h := vfstest.New(), &history{}
	l, err := Open(diskDir, diskConfig(d, newClock()))
	must(t, err)
	d.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpSync && strings.HasSuffix(op.Name, "head.new") {
			return errFault
		}
		return nil
	})
	if err := h.append(l, 1); err == nil || errors.Is(err, ErrNoSpace) || !errors.Is(err, errFault) {
		t.Errorf("append: %v, want %v and not %v", err, errFault, ErrNoSpace)
	}
	d.SetFail(nil)
	_ = l.Close() // the writer may have ended
	must(t, h.afterwards(d, newClock()))
}

// fullDiskWorkload appends, rotates and publishes until the end, whatever fails for lack of space, and holds the log to
// its history after each failure.
func fullDiskWorkload(d *vfstest.Disk, c *fakeClock, h *history) error {
	ctx := context.Background()
	l, err := Open(diskDir, diskConfig(d, c))
	if err != nil {
		return nil //nolint:nilerr // no room to make a log or to recover it: the caller tries with more
	}
	for i := range 12 {
		if err := h.append(l, []int{1, 300, 40, 256}[i%4]); err != nil {
			if !errors.Is(err, ErrNoSpace) {
				return errors.Join(fmt.Errorf("append: %w", err), l.Close())
			}
			if err := h.check(l); err != nil {
				return errors.Join(fmt.Errorf("read on a full disk: %w", err), l.Close())
			}
		}
		switch i % 4 {
		case 1:
			_ = l.Rotate(ctx)
		case 3:
			_ = l.publisher.publish(i%2 == 0)
		}
	}
	if err := h.check(l); err != nil {
		return errors.Join(err, l.Close())
	}
	_ = l.Close() // says so if it could not sign
	return nil
}

// TestFullDiskAtEveryLevel runs out of space at every level, then frees some: nothing half written is read, reads go on,
// the log opens and closes, and appends go on.
func TestFullDiskAtEveryLevel(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	most := int64(4 << 20)
	failures := 0
	for room := int64(0); room < most && failures < 6; room += 1 + rng.Int64N(most/int64(rounds(8, 2000))) {
		if err := fullDiskThenRoom(room, rng.Uint64()); err != nil {
			failures++
			t.Errorf("%d bytes: %v", room, err)
		}
	}
}

func fullDiskThenRoom(room int64, seed uint64) error {
	rng := vfstest.NewRand(seed)
	d, h, c := vfstest.New(), &history{}, newClock()
	if l, err := Open(diskDir, diskConfig(d, c)); err != nil {
		return err
	} else if err := errors.Join(h.append(l, 3), l.Close()); err != nil {
		return err
	}
	d.SetCapacity(d.Used() + room)
	if err := fullDiskWorkload(d, c, h); err != nil {
		return err
	}
	if err := fullDiskWorkload(d, c, h); err != nil {
		return fmt.Errorf("second session: %w", err)
	}
	if kind := rng.IntN(len(cutKinds) + 1); kind < len(cutKinds) {
		d = cut(d, kind, rng)
	}
	d.SetCapacity(0)
	return h.afterwards(d, c)
}

// TestAppendsGoOnWhenThereIsRoom frees space under an open log.
func TestAppendsGoOnWhenThereIsRoom(t *testing.T) {
	d, h := vfstest.New(), &history{}
	l, err := Open(diskDir, diskConfig(d, newClock()))
	must(t, err)
	must(t, h.append(l, 200))
	d.SetCapacity(d.Used() + 1000)
	for range 3 {
		if err := h.append(l, 100); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("append on a full disk: %v, want %v", err, ErrNoSpace)
		}
	}
	must(t, h.check(l))
	d.SetCapacity(0)
	must(t, h.append(l, 100))
	must(t, h.check(l))
	must(t, l.Close())
	must(t, h.afterwards(d, newClock()))
}

// TestRecoveryEntryOwedOnAFullDiskIsWrittenFirst recovers where there is no room for the entry that names what was moved
// aside: not even a smaller append may come before it, nor a Close forget it.
func TestRecoveryEntryOwedOnAFullDiskIsWrittenFirst(t *testing.T) {
	for _, close := range []bool{false, true} {
		t.Run(fmt.Sprintf("close %v", close), func(t *testing.T) {
			d, h := vfstest.New(), &history{}
			l, err := Open(diskDir, diskConfig(d, newClock()))
			must(t, err)
			must(t, h.append(l, 3))
			d.SetFail(func(op vfstest.Op) error {
				if op.Kind == vfstest.OpSync && op.Name == diskDir+"/"+openName {
					return errFault
				}
				return nil
			})
			if err := h.append(l, 100); err == nil {
				t.Fatal("append in spite of a failed sync")
			}
			d.SetFail(nil)
			_ = l.Close() // ended
			name := diskDir + "/" + openName
			data, err := d.ReadFileRaw(name)
			must(t, err)
			must(t, d.WriteFileRaw(name, data[:len(data)-300])) // an incomplete batch

			// Room for what is moved aside, and not for an entry that names it.
			must(t, d.Remove(diskDir+"/"+reserveName))
			recovery := 1 // writes what the head does not cover again
			d.SetFail(func(op vfstest.Op) error {
				if op.Kind == vfstest.OpWrite && op.Name == name {
					if recovery--; recovery == 0 {
						return nil
					}
					return vfstest.Short(10, syscall.ENOSPC)
				}
				return nil
			})
			l, err = Open(diskDir, diskConfig(d, newClock()))
			must(t, err)
			if err := h.append(l, 1); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("append: %v, want %v", err, ErrNoSpace)
			}
			if close {
				if err := l.Close(); !errors.Is(err, ErrNoSpace) {
					t.Errorf("close: %v, want %v", err, ErrNoSpace)
				}
				d.SetFail(nil)
				l, err = Open(diskDir, diskConfig(d, newClock()))
				must(t, err)
			}
			// The next write fails too, and the one after it does not: the order stays.
			fails := 1
			d.SetFail(func(op vfstest.Op) error {
				if op.Kind == vfstest.OpWrite && op.Name == name && fails > 0 {
					fails--
					return vfstest.Short(10, syscall.ENOSPC)
				}
				return nil
			})
			_ = h.append(l, 1)
			_ = h.append(l, 1)
			must(t, h.check(l))
			var controls []Entry
			for _, e := range readAll(t, l, Query{}) {
				if e.Control != nil {
					controls = append(controls, e)
				}
			}
			if len(controls) != 1 || controls[0].Index != 3 || !strings.Contains(string(controls[0].Control), `"recovery"`) {
				t.Errorf("control entries %+v, want one of a recovery at index 3", controls)
			}
			must(t, l.Close())
			must(t, h.afterwards(d, newClock()))
		})
	}
}

// TestSmallFileSystemFillsUp fills a real file system of two megabytes.
func TestSmallFileSystemFillsUp(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("mounting a small file system takes root on Linux")
	}
	base := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", base).CombinedOutput(); err != nil {
		t.Skipf("no tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", base).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	h := &history{}
	cfg := &Config{StateDir: filepath.Join(base, "state"), Origin: "example.com/small", RotateSize: minRotateSize}
	dir := filepath.Join(base, "log")
	for session := range 3 {
		l, err := Open(dir, cfg)
		must(t, err)
		full := 0
		for i := 0; i < 400 && full < 5; i++ {
			if err := h.append(l, 97); err != nil {
				if full++; !errors.Is(err, ErrNoSpace) {
					t.Fatalf("session %d: append: %v, want %v", session, err, ErrNoSpace)
				}
				must(t, h.check(l))
			}
		}
		if full == 0 {
			t.Fatal("the file system did not fill up")
		}
		_ = l.Close() // says so if it could not sign
	}
	if out, err := exec.Command("mount", "-o", "remount,size=16m", base).CombinedOutput(); err != nil {
		t.Fatalf("remount: %v: %s", err, out)
	}
	l, err := Open(dir, cfg)
	must(t, err)
	must(t, h.append(l, 97))
	must(t, h.check(l))
	must(t, l.Close())
	rep, err := VerifyDir(context.Background(), dir, cfg, VerifyOptions{Indexes: true})
	must(t, err)
	if rep.Verdict != Proven {
		t.Errorf("verdict %s: %v", rep.Verdict, rep.Findings)
	}
}

// TestOpenThatFailsAtItsFirstEntryLeavesNothingRunning lets the sync of the recovery entry fail: Open fails, and no
// writer, sealer or publisher goes on without the lock.
func TestOpenThatFailsAtItsFirstEntryLeavesNothingRunning(t *testing.T) {
	d, h := vfstest.New(), &history{}
	l, err := Open(diskDir, diskConfig(d, newClock()))
	must(t, err)
	must(t, h.append(l, 300))
	name := diskDir + "/" + openName
	copied := d.Clone()
	must(t, l.Close())
	data, err := copied.ReadFileRaw(name)
	must(t, err)
	must(t, copied.WriteFileRaw(name, append(data, `{"id":"`...)))
	writes := 0
	copied.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpWrite && op.Name == name {
			if writes++; writes > 1 {
				return errFault
			}
		}
		return nil
	})
	if l, err := Open(diskDir, diskConfig(copied, newClock())); !errors.Is(err, errFault) {
		t.Fatalf("open: %v, %v, want %v", l, err, errFault)
	}
	if left := copied.OpenFiles(); len(left) > 0 {
		t.Errorf("open files %q", left)
	}
	copied.SetFail(nil)
	must(t, h.afterwards(copied, newClock()))
}
