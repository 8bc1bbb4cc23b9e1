package immutable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// guarded is a log with a sealed segment, an open one, and two epochs of keys.
func guarded(t *testing.T) (*Log, *Guard) {
	t.Helper()
	dir := t.TempDir()
	l, err := Open(filepath.Join(dir, "log"), &Config{StateDir: filepath.Join(dir, "state"), RotateSize: 64 << 10, CheckpointInterval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	ctx := t.Context()
	appendSome(t, l, 1200)
	if err := l.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := l.RotateKeys(ctx); err != nil {
		t.Fatal(err)
	}
	appendSome(t, l, 100)
	g, err := l.Guard(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return l, g
}

func appendSome(t *testing.T, l *Log, n int) {
	t.Helper()
	events := make([]Event, n)
	for i := range events {
		events[i] = Event{Level: Audit, Message: fmt.Sprintf("entry %d of a batch", i), Metadata: Fields{"n": i}}
	}
	if _, err := l.Append(context.Background(), events...); err != nil {
		t.Fatal(err)
	}
}

// TestGuardIsSilentWhileTheLogWorks looks at every file, over and over, while a log appends, rotates, changes its keys
// and is rebuilt. Nothing that the log does to its own files is a fault.
func TestGuardIsSilentWhileTheLogWorks(t *testing.T) {
	l, g := guarded(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	done := make(chan struct{})
	var wg sync.WaitGroup
	var looks atomic.Int64
	for _, full := range []bool{true, false} {
		wg.Go(func() {
			for {
				for _, name := range g.Names() {
					if _, err := g.Check(ctx, name, full); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					looks.Add(1)
				}
				select {
				case <-done:
					return
				default:
				}
				if !full {
					return
				}
			}
		})
	}
	wg.Go(func() {
		defer close(done)
		for range 6 {
			for range 5 {
				appendSome(t, l, 400)
			}
			if err := l.RotateKeys(ctx); err != nil {
				t.Error(err)
			}
			if _, err := l.Rebuild(ctx, nil); err != nil {
				t.Error(err)
			}
			if err := l.Rotate(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if bad, err := g.Sweep(ctx); err != nil || len(bad) > 0 {
		t.Errorf("after all: %v, %v", bad, err)
	}
	for _, first := range l.SealedSegments() {
		if err := g.Segment(ctx, first, nil); err != nil {
			t.Errorf("segment %d: %v", first, err)
		}
	}
	if n := len(l.SealedSegments()); n < 6 || looks.Load() < 100 {
		t.Errorf("%d segments, %d looks: too little happened", n, looks.Load())
	}
}

func TestGuardNamesWhatWasTamperedWith(t *testing.T) {
	l, g := guarded(t)
	g.settle = 5 * time.Millisecond // nothing else changes the files
	first := l.SealedSegments()[0]
	key := StatePrefix + "keys/ed25519"
	names := []string{
		"log.json", "immutable.log", "checkpoint", "checkpoints", "epochs", "chain", "tree/1",
		fmt.Sprintf("archive/%020d.jsonl.zst", first), fmt.Sprintf("index/%020d.idx", first),
		fmt.Sprintf("index/%020d.sdx", first), fmt.Sprintf("index/%020d.seal", first), StatePrefix + "head", key,
	}
	tampers := map[string]func(t *testing.T, path string) (undo func()){
		"flipped": func(t *testing.T, path string) func() {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := len(data) / 2
			write := func(b byte) {
				pokeByte(t, path, int64(at), b)
			}
			write(data[at] ^ 1)
			return func() { write(data[at]) }
		},
		"cut": func(t *testing.T, path string) func() {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			mode := modeOf(t, path)
			mustAll(t, os.Chmod(path, 0o600), os.Truncate(path, int64(len(data)-1)), os.Chmod(path, mode))
			return func() { pokeByte(t, path, int64(len(data)-1), data[len(data)-1]) }
		},
		"deleted": func(t *testing.T, path string) func() {
			mustAll(t, os.Rename(path, path+".away"))
			return func() { mustAll(t, os.Rename(path+".away", path)) }
		},
		"chmod": func(t *testing.T, path string) func() {
			mode := modeOf(t, path)
			mustAll(t, os.Chmod(path, 0o666))
			return func() { mustAll(t, os.Chmod(path, mode)) }
		},
		"linked": func(t *testing.T, path string) func() {
			mustAll(t, os.Rename(path, path+".away"), os.Symlink(path+".away", path))
			return func() { mustAll(t, os.Rename(path+".away", path)) }
		},
	}
	for _, name := range names {
		for how, tamper := range tampers {
			t.Run(strings.ReplaceAll(name, "/", "_")+"/"+how, func(t *testing.T) {
				if _, err := g.Check(t.Context(), name, true); err != nil {
					t.Fatalf("before: %v", err)
				}
				if got := g.Name(g.path(name)); got != name {
					t.Fatalf("Name(path of %s) = %q", name, got)
				}
				undo := tamper(t, g.path(name))
				_, err := g.Check(t.Context(), name, false)
				undo()
				var c *CorruptError
				if !errors.As(err, &c) {
					t.Errorf("got %v, want a CorruptError", err)
				}
				if _, err := g.Check(t.Context(), name, true); err != nil {
					t.Errorf("after it was undone: %v", err)
				}
			})
		}
	}
}

// TestGuardSweepFindsWhatNobodyReported tampers with files and restores length and times as far as that is possible.
func TestGuardSweepFindsWhatNobodyReported(t *testing.T) {
	l, g := guarded(t)
	name := fmt.Sprintf("archive/%020d.jsonl.zst", l.SealedSegments()[0])
	if bad, err := g.Sweep(t.Context()); err != nil || len(bad) > 0 {
		t.Fatalf("before: %v, %v", bad, err)
	}
	pokeByte(t, g.path(name), 100, 0xFF)
	bad, err := g.Sweep(t.Context())
	if err != nil || len(bad) != 1 || bad[name] == nil {
		t.Errorf("got %v, %v; want %s alone", bad, err, name)
	}
	if err := g.Segment(t.Context(), l.SealedSegments()[0], nil); err == nil {
		t.Error("Segment did not notice")
	}
}

// TestGuardProvesWhatItSeesForTheFirstTime tampers with entries before the guard has looked at them.
func TestGuardProvesWhatItSeesForTheFirstTime(t *testing.T) {
	l, g := guarded(t)
	if err := l.Rotate(t.Context()); err != nil { // lest the log do so while its file is changed
		t.Fatal(err)
	}
	appendSome(t, l, 60)
	path := l.path(openName)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := info.Size() - 2000
	pokeByte(t, path, at, data[at]^1)
	// Until the sealer has put away the segment before, a look is put off.
	complete := false
	for !complete && err == nil {
		complete, err = g.Check(t.Context(), openName, false)
	}
	if err == nil {
		t.Error("entries changed before the first look were not noticed")
	}
}

func TestGuardIsForWritersOnly(t *testing.T) {
	l, _ := guarded(t)
	r, err := Open(l.Dir(), &Config{StateDir: filepath.Dir(l.state), ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Guard(t.Context()); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v, want ErrReadOnly", err)
	}
}

func pokeByte(t *testing.T, path string, at int64, b byte) {
	t.Helper()
	mode := modeOf(t, path)
	mustAll(t, os.Chmod(path, 0o600))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{b}, at)
	mustAll(t, err, f.Close(), os.Chmod(path, mode))
}

func modeOf(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func mustAll(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
