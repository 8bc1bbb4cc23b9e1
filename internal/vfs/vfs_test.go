package vfs_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, fsys vfs.FS, name, contents string) {
	t.Helper()
	must(t, vfs.WriteAtomic(fsys, name+".tmp", name, []byte(contents), 0o600))
}

func TestReadFileStopsAtItsLimit(t *testing.T) {
	d := vfstest.New()
	for size := range 5 {
		name := fmt.Sprint("f", size)
		want := strings.Repeat("x", size)
		put(t, d, name, want)
		got, err := vfs.ReadFile(d, name, 3)
		if size <= 3 && (err != nil || string(got) != want) {
			t.Errorf("%d bytes: got %q, %v", size, got, err)
		}
		if size > 3 && !errors.Is(err, vfs.ErrTooLarge) {
			t.Errorf("%d bytes: got %q, %v, want ErrTooLarge", size, got, err)
		}
	}
	if _, err := vfs.ReadFile(d, "no", 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	boom := errors.New("boom")
	for _, kind := range []vfstest.Kind{vfstest.OpOpen, vfstest.OpSize, vfstest.OpRead} {
		d.SetFail(func(op vfstest.Op) error {
			if op.Kind == kind {
				return boom
			}
			return nil
		})
		if _, err := vfs.ReadFile(d, "f3", 3); !errors.Is(err, boom) {
			t.Errorf("%s fails: got %v", kind, err)
		}
	}
	if open := d.OpenFiles(); len(open) > 0 {
		t.Errorf("left open: %q", open)
	}
}

func TestReadFileOfAGrowingFileStopsAtItsLimit(t *testing.T) {
	for _, grown := range []int{3, 4, 7, 10, 11, 100} {
		d := vfstest.New()
		must(t, d.WriteFileRaw("a", []byte("abc")))
		d.Fail = func(op vfstest.Op) error {
			if op.Kind != vfstest.OpRead {
				return nil
			}
			return d.WriteFileRaw("a", []byte("abc"+strings.Repeat("d", grown-3)))
		}
		got, err := vfs.ReadFile(d, "a", 10)
		if grown <= 10 && (err != nil || len(got) != grown) {
			t.Errorf("grown to %d: got %d bytes, %v", grown, len(got), err)
		}
		if grown > 10 && !errors.Is(err, vfs.ErrTooLarge) {
			t.Errorf("grown to %d: got %d bytes, %v, want ErrTooLarge", grown, len(got), err)
		}
	}
}

func TestWriteAtomicOnTheOperatingSystem(t *testing.T) {
	dir := t.TempDir()
	fsys := vfs.OS()
	must(t, fsys.Mkdir(filepath.Join(dir, "next"), 0o700))
	tmp, name := filepath.Join(dir, "next", "a"), filepath.Join(dir, "a")
	for _, want := range []string{"", "first", "second"} {
		must(t, vfs.WriteAtomic(fsys, tmp, name, []byte(want), 0o444))
		got, err := vfs.ReadFile(fsys, name, 100)
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		info, err := fsys.Stat(name)
		if err != nil || info.Mode.Perm() != 0o444 {
			t.Errorf("got mode %v, %v, want 0444", info.Mode, err)
		}
		names, err := fsys.ReadDir(filepath.Join(dir, "next"))
		if err != nil || len(names) > 0 {
			t.Errorf("left %q, %v", names, err)
		}
	}
}

// TestWriteAtomicIsOldOrNew fails each step in each way, with a power cut after it, and cuts the power after each step.
func TestWriteAtomicIsOldOrNew(t *testing.T) {
	rng := vfstest.Rand(t)
	boom := errors.New("boom")
	faults := map[string]func(d *vfstest.Disk, n uint64){
		"fails": func(d *vfstest.Disk, n uint64) {
			d.Fail = func(op vfstest.Op) error {
				if op.N == n {
					return boom
				}
				return nil
			}
		},
		"fails but was persisted": func(d *vfstest.Disk, n uint64) {
			d.Fail = func(op vfstest.Op) error {
				if op.N == n {
					return vfstest.Persisted(boom)
				}
				return nil
			}
		},
		"fails half-way": func(d *vfstest.Disk, n uint64) {
			d.Fail = func(op vfstest.Op) error {
				if op.N == n {
					return vfstest.Short(3, boom)
				}
				return nil
			}
		},
		"sync loses data": func(d *vfstest.Disk, n uint64) {
			d.FailSync = func(vfstest.Op) error { return boom }
		},
		"power cut": func(d *vfstest.Disk, n uint64) { d.CutAfter(n - 1 - d.Ops()) },
	}
	for what, set := range faults {
		// remove, create, write, sync, chmod, rename, sync the one directory, sync the other
		for step := uint64(1); step <= 9; step++ {
			for range 50 {
				d := vfstest.New()
				must(t, d.Mkdir("next", 0o700))
				must(t, d.SyncDir(""))
				put(t, d, "a", "the old contents")
				put(t, d, "next/a", "garbage of a crash")
				set(d, d.Ops()+step)
				err := vfs.WriteAtomic(d, "next/a", "a", []byte("something new"), 0o444)
				if wantError := step <= 8 || what == "sync loses data"; (err != nil) != wantError {
					t.Fatalf("%s at step %d: got error %v", what, step, err)
				}
				d.SetFail(nil)
				if open := d.OpenFiles(); len(open) > 0 {
					t.Fatalf("%s at step %d: left open: %q", what, step, open)
				}
				got, e := d.Crash(rng).ReadFileRaw("a")
				must(t, e)
				if string(got) != "something new" && (string(got) != "the old contents" || err == nil) {
					t.Fatalf("%s at step %d, error %v: got %q", what, step, err, got)
				}
			}
		}
	}
}

func TestWriteAtomicGivesSpaceBackOnAFullDisk(t *testing.T) {
	d := vfstest.New()
	put(t, d, "a", "old")
	d.Capacity = 10
	err := vfs.WriteAtomic(d, "tmp", "a", []byte("longer than that"), 0o600)
	if !vfs.IsNoSpace(err) {
		t.Errorf("got %v, want a full disk", err)
	}
	if got := d.Files(); len(got) != 1 || d.Used() != 3 {
		t.Errorf("got files %q, %d bytes", got, d.Used())
	}
}

func TestMkdirAllSurvivesACrash(t *testing.T) {
	rng := vfstest.Rand(t)
	for range 50 {
		d := vfstest.New()
		must(t, vfs.MkdirAll(d, "a/b/c", 0o700))
		must(t, vfs.MkdirAll(d, "a/b/c", 0o700))
		must(t, vfs.MkdirAll(d, "a/d", 0o700))
		after := d.Crash(rng)
		for _, name := range []string{"a/b/c", "a/d"} {
			if info, err := after.Stat(name); err != nil || !info.Dir || info.Mode.Perm() != 0o700 {
				t.Fatalf("%s: got %+v, %v", name, info, err)
			}
		}
	}
}

// TestMkdirAllFinishesWhatAKilledCallBegan stops a call after each step without a power cut, calls again, and then cuts
// the power.
func TestMkdirAllFinishesWhatAKilledCallBegan(t *testing.T) {
	killed := errors.New("killed")
	for step := range uint64(10) {
		d := vfstest.New()
		d.Fail = func(op vfstest.Op) error {
			if op.N > step {
				return killed
			}
			return nil
		}
		_ = vfs.MkdirAll(d, "a/b/c", 0o700) // how far it comes is the point
		d.SetFail(nil)
		must(t, vfs.MkdirAll(d, "a/b/c", 0o700))
		if _, err := d.CrashKeep(vfstest.KeepNone).Stat("a/b/c"); err != nil {
			t.Errorf("killed after step %d: %v", step, err)
		}
	}
}

func TestMkdirAllRefusesAFile(t *testing.T) {
	d := vfstest.New()
	put(t, d, "a", "")
	for _, name := range []string{"a", "a/b"} {
		if err := vfs.MkdirAll(d, name, 0o700); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "x", "y", "z")
	must(t, vfs.MkdirAll(vfs.OS(), name, 0o700))
	must(t, vfs.MkdirAll(vfs.OS(), name, 0o700))
	if info, err := vfs.OS().Stat(name); err != nil || !info.Dir {
		t.Errorf("got %+v, %v", info, err)
	}
	if err := vfs.MkdirAll(vfs.OS(), ".", 0o700); err != nil {
		t.Errorf("the working directory: %v", err)
	}
}

func TestMkdirAllBelowADirectoryThatHidesItsNames(t *testing.T) {
	d := vfstest.New()
	must(t, d.Mkdir("home", 0o700))
	must(t, d.Mkdir("home/user", 0o700))
	must(t, d.Chmod("home", 0o100))
	must(t, vfs.MkdirAll(d, "home/user/state/log", 0o700))
}

func TestLockedErrorNamesTheHolder(t *testing.T) {
	err := error(&vfs.LockedError{Name: "logs/lock", Holder: []byte("pid 7 \x1b[31m")})
	if want := `lock logs/lock: held by "pid 7 \x1b[31m"; stop that writer first`; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	err = &vfs.LockedError{Name: "logs/lock"}
	if !strings.Contains(err.Error(), "another writer") {
		t.Errorf("got %q", err)
	}
}

func TestIsNoSpace(t *testing.T) {
	if !vfs.IsNoSpace(&fs.PathError{Op: "write", Path: "a", Err: syscall.ENOSPC}) {
		t.Error("ENOSPC is a full disk")
	}
	for _, err := range []error{nil, io.ErrShortWrite, fs.ErrNotExist, syscall.EIO} {
		if vfs.IsNoSpace(err) {
			t.Errorf("%v is not a full disk", err)
		}
	}
}
