package fsck

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// A scribe carries out on a real file system what its book does, in the documented order of changes.
type scribe struct {
	*book
	fsys       vfs.FS
	dir, state string
	written    map[string]int // length of the files that only grow
}

func newScribe(t testing.TB) *scribe {
	s := &scribe{book: newHybrid(t, "example.com/log"), fsys: vfs.OS(), dir: t.TempDir(), state: t.TempDir(), written: map[string]int{}}
	for _, d := range []string{"archive", "pending", "index", "tree", "next", "quarantine"} {
		must(t, s.fsys.Mkdir(s.path(d), 0o700))
	}
	must(t, s.fsys.Mkdir(identity.Dir(s.state, s.origin), 0o700))
	s.replace("log.json")
	s.writeHead()
	for _, name := range []string{"immutable.log", "checkpoints"} {
		s.grow(name)
	}
	s.replace("checkpoint")
	return s
}

func (s *scribe) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *scribe) replace(name string) {
	must(s.t, vfs.WriteAtomic(s.fsys, s.path("next/tmp"), s.path(name), s.files[name], 0o600))
}

func (s *scribe) writeHead() {
	name := filepath.Join(identity.Dir(s.state, s.origin), identity.HeadName)
	must(s.t, vfs.WriteAtomic(s.fsys, name+".tmp", name, s.head.Append(nil), 0o600))
}

// grow writes what a file has more than before, in two pieces, so that a reader may see one without the other.
func (s *scribe) grow(name string) {
	f, err := s.fsys.OpenRW(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = s.fsys.Create(s.path(name), 0o600)
	}
	must(s.t, err)
	defer f.Close()
	from := s.written[name]
	more := s.files[name][from:]
	for _, piece := range [][]byte{more[:len(more)/3], more[len(more)/3:]} {
		_, err := f.WriteAt(piece, int64(from))
		must(s.t, err)
		from += len(piece)
	}
	s.written[name] = from
}

func (s *scribe) append(n int) {
	s.add(n)
	s.grow("immutable.log")
}

func (s *scribe) publish(keep bool) {
	s.book.publish(keep)
	for name := range s.files {
		if strings.HasPrefix(name, "tree/") || name == "chain" {
			s.grow(name)
		}
	}
	s.writeHead()
	s.grow("checkpoints")
	s.replace("checkpoint")
	if len(s.files["epochs"]) > s.written["epochs"] {
		s.grow("epochs")
	}
}

func (s *scribe) rotate() {
	old := s.first
	s.book.rotate()
	must(s.t, os.WriteFile(s.path("next/immutable.log"), s.files["immutable.log"], 0o600))
	must(s.t, s.fsys.Link(s.path("immutable.log"), s.path("pending/"+segment.PendingName(old))))
	must(s.t, s.fsys.Rename(s.path("next/immutable.log"), s.path("immutable.log")))
	s.written["immutable.log"] = len(s.files["immutable.log"])
}

func (s *scribe) seal(first, end uint64) {
	s.book.seal(first, end)
	s.replace("archive/" + segment.ArchiveName(first))
	if s.kept < end {
		s.publish(true)
	}
	s.replace("index/" + segment.IndexName(first))
	s.replace("index/" + segment.SealName(first))
	must(s.t, s.fsys.Remove(s.path("pending/"+segment.PendingName(first))))
}

func (s *scribe) close() {
	s.publish(true)
	s.book.close()
	s.writeHead()
}

func TestLiveWriterIsNeverRefuted(t *testing.T) {
	t.Parallel()
	s := newScribe(t)
	rounds := 400
	if testing.Short() {
		rounds = 120
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range rounds {
			s.append(1 + i*37%90)
			if i%5 == 0 {
				s.publish(i%15 == 0)
			}
			if i%20 == 7 {
				s.begin()
				s.grow("immutable.log")
				s.append(2)
				s.publish(true)
			}
			if s.size() >= s.first+512 {
				first := s.first
				s.rotate()
				s.append(3)
				s.seal(first, s.first)
			}
			runtime.Gosched()
		}
		s.close()
	}()
	verdicts := map[Verdict]int{}
	for live := true; live; {
		select {
		case <-ended:
			live = false
		default:
		}
		for _, state := range []string{s.state, ""} {
			r := verify(t, Options{Dir: s.dir, State: state, Workers: 2})
			verdicts[r.Verdict]++
			if r.Verdict == Refuted {
				t.Fatalf("refuted after %d attempts: %v", r.Attempts, r.Findings)
			}
		}
	}
	t.Log(verdicts)
	r := verify(t, Options{Dir: s.dir, State: s.state, Indexes: true})
	want(t, r, Proven)
	if r.Size != s.size() || r.Attempts != 1 || len(r.Epochs) != 1+rounds/20 {
		t.Errorf("size %d, attempts %d, %d epochs", r.Size, r.Attempts, len(r.Epochs))
	}
}

// Damage is refuted although a writer goes on beside the check.
func TestDamageBesideALiveWriterIsRefuted(t *testing.T) {
	s := newScribe(t)
	s.append(600)
	s.publish(true)
	s.rotate()
	s.seal(0, 512)
	bad := slices.Clone(s.files["tree/1"])
	bad[5] ^= 1
	must(t, os.WriteFile(s.path("tree/1"), bad, 0o600))
	// Each check finds the directory changed: a writer that appends whenever progress is reported.
	r := verify(t, Options{Dir: s.dir, State: s.state, Progress: func(Progress) { s.append(1) }})
	want(t, r, Refuted)
	if r.Attempts != sameAttempts {
		t.Errorf("%d attempts", r.Attempts)
	}
}

// What each attempt sees differently is not held against the log.
func TestRestlessDirectoryIsUnknown(t *testing.T) {
	s := newScribe(t)
	s.append(3)
	s.close()
	s.append(1) // somebody who does not care for the head
	r := verify(t, Options{Dir: s.dir, State: s.state, Progress: func(Progress) { s.append(1) }})
	want(t, r, Unknown)
	if r.Attempts != maxAttempts {
		t.Errorf("%d attempts", r.Attempts)
	}
}

// Nothing but regular files is opened: not what a link points at, and no FIFO, which would wait for ever.
func TestOtherThanFilesAreRefuted(t *testing.T) {
	b := small(t, "example.com/log", true)
	for _, name := range names(b) {
		for _, kind := range []string{"directory", "link", "fifo"} {
			dir := t.TempDir()
			for n, data := range b.files {
				must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o700))
				must(t, os.WriteFile(filepath.Join(dir, n), data, 0o600))
			}
			path := filepath.Join(dir, name)
			must(t, os.Rename(path, filepath.Join(dir, "aside")))
			var err error
			switch kind {
			case "directory":
				err = os.Mkdir(path, 0o700)
			case "link":
				err = os.Symlink(filepath.Join(dir, "aside"), path)
			case "fifo":
				err = mkfifo(path)
			}
			if err != nil {
				t.Logf("no %s here: %v", kind, err)
				continue
			}
			r := verify(t, Options{Dir: dir, Keys: []string{b.signer.VKey()}})
			if r.Verdict != Refuted {
				t.Errorf("%s in place of %s: %s", kind, name, r.Verdict)
			}
		}
	}
}

func TestUnreadableFileIsUnknown(t *testing.T) {
	b := small(t, "example.com/log", true)
	for _, name := range names(b) {
		d := b.disk()
		must(t, d.Chmod(filepath.Join(testDir, name), 0))
		o := b.options()
		o.FS = d
		r := verify(t, o)
		if r.Verdict != Unknown || len(r.Notes) == 0 {
			t.Errorf("%s: %s %v", name, r.Verdict, r.Findings)
		}
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	b := small(t, "example.com/log", true)
	ctx, cancel := context.WithCancel(t.Context())
	o := b.options()
	o.Progress = func(Progress) { cancel() }
	if _, err := Check(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if open := o.FS.(interface{ OpenFiles() []string }).OpenFiles(); len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
	o.Progress = nil
	verify(t, o)
	if open := o.FS.(interface{ OpenFiles() []string }).OpenFiles(); len(open) > 0 {
		t.Errorf("left open: %v", open)
	}
	o.Dir = "/nothing"
	if _, err := Check(t.Context(), o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	o.Dir = testDir + "/log.json"
	if _, err := Check(t.Context(), o); err == nil || errors.Is(err, syscall.ENOENT) {
		t.Errorf("error %v", err)
	}
}

// A canceler ends a check at one of the files that it opens.
type canceler struct {
	*vfstest.Disk
	left   atomic.Int32
	cancel context.CancelFunc
}

func (f *canceler) Open(name string) (vfs.File, error) {
	if f.left.Add(-1) == 0 {
		f.cancel()
	}
	return f.Disk.Open(name)
}

// Wherever a check ends, no file stays open, and none is closed while a worker reads it, which the race detector sees.
func TestCheckThatEndsEarlyClosesWhatNobodyUses(t *testing.T) {
	b := small(t, "example.com/log", true)
	for n := int32(1); ; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		f := &canceler{Disk: b.disk(), cancel: cancel}
		f.left.Store(n)
		o := b.options()
		o.FS = f
		_, err := Check(ctx, o)
		cancel()
		if open := f.OpenFiles(); len(open) > 0 {
			t.Fatalf("ended at file %d, left open: %v", n, open)
		}
		if f.left.Load() > 0 {
			if n < 10 {
				t.Errorf("a check opens %d files", n-1)
			}
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("ended at file %d: %v", n, err)
		}
	}
}
