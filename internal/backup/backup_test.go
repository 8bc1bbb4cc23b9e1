package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/backup"
)

var ctx = context.Background()

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type host struct{ dir, state string }

func newHost(t *testing.T) host {
	root := t.TempDir()
	return host{filepath.Join(root, "log"), filepath.Join(root, "state")}
}

func (h host) open(t *testing.T) *immutable.Log {
	t.Helper()
	l, err := immutable.Open(h.dir, &immutable.Config{StateDir: h.state, Origin: "example.com/backup", RotateSize: 64 << 10, CheckpointInterval: time.Millisecond})
	check(t, err)
	return l
}

func fill(t *testing.T, l *immutable.Log, from, n int) {
	t.Helper()
	var events []immutable.Event
	for i := range n {
		events = append(events, immutable.Event{Level: immutable.Audit, Message: fmt.Sprint("entry ", from+i, strings.Repeat(" pad", 20))})
	}
	_, err := l.Append(ctx, events...)
	check(t, err)
}

// messages are those of a log's entries that it did not write itself.
func messages(t *testing.T, dir, state string) (list []string) {
	t.Helper()
	l, err := immutable.Open(dir, &immutable.Config{StateDir: state, ReadOnly: true})
	check(t, err)
	defer l.Close()
	for e, err := range l.Entries(ctx, immutable.Query{}) {
		check(t, err)
		if e.Control == nil {
			list = append(list, e.Message)
		}
	}
	return list
}

// tick gives snapshots names that differ.
func tick() func() time.Time {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time { at = at.Add(time.Second); return at }
}

// Snapshots are taken while a writer appends, seals and changes its keys. Each verifies, holds a beginning of the log, and holds at least
// what was acknowledged when it was begun.
func TestSnapshotOfALiveLogIsABeginningOfIt(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 300)
	out := filepath.Join(t.TempDir(), "out")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	ended := sync.OnceFunc(func() { close(stop); wg.Wait() })
	defer ended()
	wg.Go(func() {
		for i := 300; ; i += 50 {
			select {
			case <-stop:
				return
			default:
			}
			fill(t, l, i, 50)
			if i%2000 == 300 {
				if err := l.RotateKeys(ctx); err != nil {
					t.Error(err)
				}
			}
		}
	})
	type taken struct {
		name   string
		before uint64
	}
	var list []taken
	now := tick()
	for len(list) < 12 {
		before := l.Size()
		r, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out, Now: now})
		check(t, err)
		if r.Size < before || r.Checkpoint > r.Size {
			t.Errorf("%d entries were acknowledged before a snapshot of %d, checkpoint of %d", before, r.Size, r.Checkpoint)
		}
		list = append(list, taken{r.Snapshot, before})
	}
	ended()
	check(t, l.Close())
	all := messages(t, h.dir, h.state)
	for _, s := range list {
		got := messages(t, s.name, t.TempDir())
		if len(got) > len(all) || !slices.Equal(got, all[:len(got)]) {
			t.Errorf("%s holds %d messages, which are no beginning of the log's %d", s.name, len(got), len(all))
		}
	}
	if n := len(segments(t, h.dir)); n < 3 {
		t.Errorf("%d sealed segments: too few to show anything", n)
	}
}

func segments(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, "archive"))
	check(t, err)
	return list
}

func TestSecondSnapshotSharesSealedFiles(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 3000)
	check(t, l.Rotate(ctx))
	out, now := filepath.Join(t.TempDir(), "out"), tick()
	first, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out, Now: now})
	check(t, err)
	fill(t, l, 3000, 10)
	second, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out, Now: now})
	check(t, err)
	if first.Shared != 0 || second.Shared == 0 || second.Size != first.Size+10 {
		t.Errorf("first %+v, second %+v", first, second)
	}
	for _, f := range segments(t, first.Snapshot) {
		a, err := os.Stat(filepath.Join(first.Snapshot, "archive", f.Name()))
		check(t, err)
		b, err := os.Stat(filepath.Join(second.Snapshot, "archive", f.Name()))
		check(t, err)
		if !os.SameFile(a, b) {
			t.Errorf("%s is there twice", f.Name())
		}
	}
	// What is shared may have been damaged where the backup lies: then it is copied again.
	name := filepath.Join(second.Snapshot, "archive", segments(t, second.Snapshot)[0].Name())
	data, err := os.ReadFile(name)
	check(t, err)
	data[len(data)/2] ^= 1
	check(t, os.Chmod(name, 0o600))
	check(t, os.WriteFile(name, data, 0o600))
	third, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out, Now: now})
	check(t, err)
	if third.Shared != 0 {
		t.Errorf("third %+v", third)
	}
	check(t, l.Close())
}

func TestDamagedLogGivesNoSnapshot(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 3000)
	check(t, l.Rotate(ctx))
	check(t, l.Close())
	name := filepath.Join(h.dir, "archive", segments(t, h.dir)[0].Name())
	data, err := os.ReadFile(name)
	check(t, err)
	data[len(data)/2] ^= 1
	check(t, os.Chmod(name, 0o600))
	check(t, os.WriteFile(name, data, 0o600))
	out := filepath.Join(t.TempDir(), "out")
	_, err = backup.Run(ctx, backup.Options{Dir: h.dir, Out: out, Now: tick()})
	var bad *backup.Error
	if !errors.As(err, &bad) || len(bad.Report.Findings) == 0 {
		t.Fatalf("error %v", err)
	}
	left, err := os.ReadDir(out)
	check(t, err)
	if len(left) != 1 || left[0].Name() != "lock" {
		t.Errorf("left behind: %v", left)
	}
}

func TestInterruptedBackupIsNoSnapshot(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 2000)
	check(t, l.Close())
	out := filepath.Join(t.TempDir(), "out")
	for n := uint64(1); n < 4; n++ { // cancelled after some blocks, and the process killed: what it left stays
		stopped, cancel := context.WithCancel(ctx)
		_, err := backup.Run(stopped, backup.Options{Dir: h.dir, Out: out, Now: tick(), Progress: func(what string, done, _ uint64) {
			if done >= n*1000 {
				cancel()
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		check(t, os.MkdirAll(filepath.Join(out, "20260101T000001.partial", "archive"), 0o700))
		if list, err := backup.Snapshots(nil, out); err != nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
	}
	_, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out, Now: tick()})
	check(t, err)
	left, err := os.ReadDir(out)
	check(t, err)
	if len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSnapshotsOfTwoLogsDoNotMix(t *testing.T) {
	h := newHost(t)
	check(t, h.open(t).Close())
	out := t.TempDir()
	_, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out})
	check(t, err)
	other := newHost(t)
	l, err := immutable.Open(other.dir, &immutable.Config{StateDir: other.state, Origin: "example.com/other"})
	check(t, err)
	check(t, l.Close())
	if _, err := backup.Run(ctx, backup.Options{Dir: other.dir, Out: out}); err == nil || !strings.Contains(err.Error(), "holds snapshots of the log example.com/backup") {
		t.Errorf("error %v", err)
	}
	if _, err := backup.Run(ctx, backup.Options{Dir: t.TempDir(), Out: out}); err == nil || !strings.Contains(err.Error(), "no log in") {
		t.Errorf("error %v", err)
	}
}

// The disk with the log is lost, the state is there, and nothing was written since the snapshot: the log goes on.
func TestRestoredLogGoesOn(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 3000)
	check(t, l.RotateKeys(ctx))
	check(t, l.Rotate(ctx))
	fill(t, l, 3000, 7)
	check(t, l.Close())
	out := t.TempDir()
	_, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out})
	check(t, err)
	want := messages(t, h.dir, h.state)
	check(t, os.RemoveAll(h.dir))
	r, err := backup.Restore(ctx, backup.RestoreOptions{From: out, Dir: h.dir, State: h.state})
	check(t, err)
	if !r.Known || r.Origin != "example.com/backup" {
		t.Errorf("%+v", r)
	}
	_, err = immutable.Adopt(ctx, h.dir, &immutable.Config{StateDir: h.state})
	check(t, err)
	l = h.open(t)
	fill(t, l, 3007, 5)
	rep, err := l.Verify(ctx, immutable.VerifyOptions{Indexes: true})
	check(t, err)
	if rep.Verdict != immutable.Proven {
		t.Errorf("%s: %v", rep.Verdict, rep.Findings)
	}
	check(t, l.Close())
	if got := messages(t, h.dir, h.state); !slices.Equal(got[:len(want)], want) || len(got) != len(want)+5 {
		t.Errorf("%d messages, want %d and 5 more", len(got), len(want))
	}
}

// Entries were signed after the snapshot: a log that went on from it would fork.
func TestRestoreRefusesToFork(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 500)
	out := t.TempDir()
	_, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out})
	check(t, err)
	fill(t, l, 500, 1)
	check(t, l.Close())
	check(t, os.Rename(h.dir, h.dir+".lost"))
	_, err = backup.Restore(ctx, backup.RestoreOptions{From: out, Dir: h.dir, State: h.state})
	var fork *backup.ForkError
	if !errors.As(err, &fork) || !strings.Contains(err.Error(), "immutable continue") {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Stat(h.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was restored: %v", err)
	}
	// A host that knows nothing of the log may have it, to read.
	r, err := backup.Restore(ctx, backup.RestoreOptions{From: out, Dir: h.dir, State: t.TempDir()})
	check(t, err)
	if r.Known || len(messages(t, h.dir, t.TempDir())) != 500 {
		t.Errorf("%+v", r)
	}
	if _, err := backup.Restore(ctx, backup.RestoreOptions{From: out, Dir: h.dir, State: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("error %v", err)
	}
}

func TestDamagedSnapshotIsNotRestored(t *testing.T) {
	h := newHost(t)
	l := h.open(t)
	fill(t, l, 0, 500)
	check(t, l.Close())
	out := t.TempDir()
	r, err := backup.Run(ctx, backup.Options{Dir: h.dir, Out: out})
	check(t, err)
	name := filepath.Join(r.Snapshot, "immutable.log")
	data, err := os.ReadFile(name)
	check(t, err)
	check(t, os.Chmod(name, 0o600))
	check(t, os.WriteFile(name, []byte(strings.Replace(string(data), "entry 499 pad", "entry 498 pad", 1)), 0o600))
	to := filepath.Join(t.TempDir(), "restored")
	var bad *backup.Error
	if _, err := backup.Restore(ctx, backup.RestoreOptions{From: out, Dir: to}); !errors.As(err, &bad) {
		t.Errorf("error %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(to))
	check(t, err)
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := backup.Restore(ctx, backup.RestoreOptions{From: t.TempDir(), Dir: to}); err == nil || !strings.Contains(err.Error(), "holds no snapshot") {
		t.Errorf("error %v", err)
	}
}
