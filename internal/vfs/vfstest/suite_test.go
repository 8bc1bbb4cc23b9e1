package vfstest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// onBoth runs a test on the operating system and on the fake, which must agree. dir is an empty directory.
func onBoth(t *testing.T, test func(t *testing.T, fsys vfs.FS, dir string)) {
	t.Helper()
	t.Run("os", func(t *testing.T) { test(t, vfs.OS(), t.TempDir()) })
	t.Run("fake", func(t *testing.T) {
		d := vfstest.New()
		must(t, d.Mkdir("dir", 0o700))
		test(t, d, "dir")
		if open := d.OpenFiles(); len(open) > 0 {
			t.Errorf("left open: %q", open)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func wantError(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: got no error, want one", what)
	}
}

// put makes a file, not synced.
func put(t *testing.T, fsys vfs.FS, name, contents string) {
	t.Helper()
	f, err := fsys.Create(name, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(contents), 0)
	must(t, err)
	must(t, f.Close())
}

func wantFile(t *testing.T, fsys vfs.FS, name, want string) {
	t.Helper()
	got, err := vfs.ReadFile(fsys, name, 1<<20)
	if err != nil {
		t.Errorf("%v, want %q", err, want)
	} else if string(got) != want {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

func wantNames(t *testing.T, fsys vfs.FS, dir string, want ...string) {
	t.Helper()
	got, err := fsys.ReadDir(dir)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got names %q, want %q", dir, got, want)
	}
}

func contents(f vfs.File) string {
	size, err := f.Size()
	if err != nil {
		return err.Error()
	}
	buf := make([]byte, size)
	if _, err := f.ReadAt(buf, 0); err != nil && err != io.EOF {
		return err.Error()
	}
	return string(buf)
}

func TestFilesReadBackWhatWasWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(filepath.Join(dir, "a"), 0o600)
		must(t, err)
		defer f.Close()
		n, err := f.WriteAt([]byte("hello"), 3)
		if n != 5 || err != nil {
			t.Fatalf("got %d, %v, want 5", n, err)
		}
		if got := contents(f); got != "\x00\x00\x00hello" {
			t.Errorf("got %q: a hole reads as zeros", got)
		}
		_, err = f.WriteAt([]byte("HE"), 3)
		must(t, err)
		must(t, f.Truncate(6))
		must(t, f.Truncate(8))
		if got := contents(f); got != "\x00\x00\x00HEl\x00\x00" {
			t.Errorf("got %q: what a truncate removed does not come back", got)
		}
		must(t, f.Sync())
		must(t, f.Sync())
		buf := make([]byte, 4)
		if n, err := f.ReadAt(buf, 6); n != 2 || err != io.EOF {
			t.Errorf("read across the end: got %d, %v, want 2, EOF", n, err)
		}
		if n, err := f.ReadAt(buf, 8); n != 0 || err != io.EOF {
			t.Errorf("read at the end: got %d, %v, want 0, EOF", n, err)
		}
		if n, err := f.ReadAt(nil, 100); n != 0 || err != nil {
			t.Errorf("empty read: got %d, %v, want 0, nil", n, err)
		}
		if n, err := f.WriteAt(nil, 100); n != 0 || err != nil {
			t.Errorf("empty write: got %d, %v, want 0, nil", n, err)
		}
		if size, err := f.Size(); size != 8 || err != nil {
			t.Errorf("got size %d, %v, want 8", size, err)
		}
		_, err = f.ReadAt(buf, -1)
		wantError(t, "negative read", err)
		_, err = f.WriteAt(buf, -1)
		wantError(t, "negative write", err)
		wantError(t, "negative truncate", f.Truncate(-1))
	})
}

func TestAllocateKeepsContentsAndNeverShortens(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		put(t, fsys, name, "abc")
		f, err := fsys.OpenRW(name)
		must(t, err)
		defer f.Close()
		must(t, f.Allocate(200_000))
		if got := contents(f); got != "abc"+strings.Repeat("\x00", 199_997) {
			t.Errorf("got %d bytes beginning %.10q", len(got), got)
		}
		must(t, f.Allocate(10))
		must(t, f.Allocate(0))
		if size, _ := f.Size(); size != 200_000 {
			t.Errorf("got size %d, want 200000", size)
		}
	})
}

func TestHandlesCheckTheirUse(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		put(t, fsys, name, "abc")
		f, err := fsys.Open(name)
		must(t, err)
		_, err = f.WriteAt([]byte("x"), 0)
		wantError(t, "write to a file opened for reading", err)
		wantError(t, "truncate of a file opened for reading", f.Truncate(0))
		wantError(t, "allocate in a file opened for reading", f.Allocate(10))
		must(t, f.Close())
		_, err = f.ReadAt(make([]byte, 1), 0)
		wantIs(t, err, fs.ErrClosed)
		_, err = f.Size()
		wantIs(t, err, fs.ErrClosed)
		wantIs(t, f.Close(), fs.ErrClosed)
		g, err := fsys.OpenRW(name)
		must(t, err)
		must(t, g.Close())
		_, err = g.WriteAt([]byte("x"), 0)
		wantIs(t, err, fs.ErrClosed)
		wantIs(t, g.Truncate(0), fs.ErrClosed)
		wantIs(t, g.Sync(), fs.ErrClosed)
		wantIs(t, g.Allocate(1), fs.ErrClosed)
		wantFile(t, fsys, name, "abc")
	})
}

func TestOpenWantsAnExistingRegularFile(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		_, err := fsys.Open(filepath.Join(dir, "a"))
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.OpenRW(filepath.Join(dir, "a"))
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.Open(filepath.Join(dir, "no", "a"))
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.Open(dir)
		wantError(t, "open a directory", err)
		_, err = fsys.OpenRW(dir)
		wantError(t, "open a directory for writing", err)
		put(t, fsys, filepath.Join(dir, "a"), "")
		_, err = fsys.Open(filepath.Join(dir, "a", "b"))
		wantError(t, "open below a file", err)
	})
}

func TestCreateNeverReplaces(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		put(t, fsys, name, "abc")
		_, err := fsys.Create(name, 0o600)
		wantIs(t, err, fs.ErrExist)
		_, err = fsys.Create(dir, 0o600)
		wantIs(t, err, fs.ErrExist)
		_, err = fsys.Create(filepath.Join(dir, "no", "a"), 0o600)
		wantIs(t, err, fs.ErrNotExist)
		wantFile(t, fsys, name, "abc")
	})
}

func TestCreateReadOnlyStillWrites(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(filepath.Join(dir, "a"), 0o400)
		must(t, err)
		_, err = f.WriteAt([]byte("abc"), 0)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
		wantFile(t, fsys, filepath.Join(dir, "a"), "abc")
		must(t, fsys.Remove(filepath.Join(dir, "a")))
	})
}

func TestRenameReplacesAndHandlesFollowTheFile(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		put(t, fsys, a, "new")
		put(t, fsys, b, "old")
		moved, err := fsys.OpenRW(a)
		must(t, err)
		defer moved.Close()
		replaced, err := fsys.Open(b)
		must(t, err)
		defer replaced.Close()
		must(t, fsys.Rename(a, b))
		wantNames(t, fsys, dir, "b")
		_, err = moved.WriteAt([]byte("er"), 3)
		must(t, err)
		wantFile(t, fsys, b, "newer")
		if got := contents(replaced); got != "old" {
			t.Errorf("replaced file: got %q, want %q", got, "old")
		}
		wantIs(t, fsys.Rename(a, b), fs.ErrNotExist)
		wantIs(t, fsys.Rename(b, filepath.Join(dir, "no", "b")), fs.ErrNotExist)
		must(t, fsys.Rename(b, b))
		wantFile(t, fsys, b, "newer")
	})
}

func TestRenameOfDirectories(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		d, e, f := filepath.Join(dir, "d"), filepath.Join(dir, "e"), filepath.Join(dir, "f")
		must(t, fsys.Mkdir(d, 0o700))
		must(t, fsys.Mkdir(e, 0o700))
		put(t, fsys, filepath.Join(d, "x"), "x")
		put(t, fsys, f, "f")
		wantError(t, "rename a directory over a directory", fsys.Rename(d, e))
		wantError(t, "rename a file over a directory", fsys.Rename(f, e))
		wantError(t, "rename a directory over a file", fsys.Rename(d, f))
		wantError(t, "rename a directory into itself", fsys.Rename(d, filepath.Join(d, "y")))
		must(t, fsys.Rename(d, filepath.Join(e, "z")))
		wantFile(t, fsys, filepath.Join(e, "z", "x"), "x")
		wantNames(t, fsys, dir, "e", "f")
	})
}

func TestHardLinksShareAnInode(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		put(t, fsys, a, "abc")
		must(t, fsys.Link(a, b))
		ia, err := fsys.Stat(a)
		must(t, err)
		ib, err := fsys.Stat(b)
		must(t, err)
		if ia.Inode != ib.Inode || ia.Dev != ib.Dev {
			t.Errorf("got inodes %d and %d on devices %d and %d", ia.Inode, ib.Inode, ia.Dev, ib.Dev)
		}
		if runtime.GOOS != "windows" && ia.Inode == 0 {
			t.Error("got inode 0")
		}
		f, err := fsys.OpenRW(a)
		must(t, err)
		_, err = f.WriteAt([]byte("ABCD"), 0)
		must(t, err)
		must(t, f.Close())
		wantFile(t, fsys, b, "ABCD")
		// POSIX: nothing happens between two names of one file.
		if runtime.GOOS != "windows" {
			must(t, fsys.Rename(a, b))
			wantNames(t, fsys, dir, "a", "b")
		}
		wantIs(t, fsys.Link(a, b), fs.ErrExist)
		wantIs(t, fsys.Link(filepath.Join(dir, "no"), filepath.Join(dir, "c")), fs.ErrNotExist)
		wantError(t, "link a directory", fsys.Link(dir, filepath.Join(dir, "c")))
		must(t, fsys.Remove(a))
		wantFile(t, fsys, b, "ABCD")
	})
}

func TestRemovedFileStaysReadableWhileOpen(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		put(t, fsys, name, "abc")
		f, err := fsys.OpenRW(name)
		must(t, err)
		must(t, fsys.Remove(name))
		put(t, fsys, name, "other")
		_, err = f.WriteAt([]byte("d"), 3)
		must(t, err)
		if got := contents(f); got != "abcd" {
			t.Errorf("got %q, want %q", got, "abcd")
		}
		must(t, f.Close())
		wantFile(t, fsys, name, "other")
		must(t, fsys.Remove(name))
		wantIs(t, fsys.Remove(name), fs.ErrNotExist)
	})
}

func TestDirectories(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		sub := filepath.Join(dir, "sub")
		must(t, fsys.Mkdir(sub, 0o700))
		wantIs(t, fsys.Mkdir(sub, 0o700), fs.ErrExist)
		wantIs(t, fsys.Mkdir(filepath.Join(dir, "no", "no"), 0o700), fs.ErrNotExist)
		for _, name := range []string{"b", "a", "B", "ä", "10", "9"} {
			put(t, fsys, filepath.Join(sub, name), "")
		}
		wantNames(t, fsys, sub, "10", "9", "B", "a", "b", "ä")
		wantError(t, "remove a directory that is not empty", fsys.Remove(sub))
		for _, name := range []string{"b", "a", "B", "ä", "10", "9"} {
			must(t, fsys.Remove(filepath.Join(sub, name)))
		}
		wantNames(t, fsys, sub)
		must(t, fsys.SyncDir(sub))
		must(t, fsys.Remove(sub))
		must(t, fsys.SyncDir(dir))
		_, err := fsys.ReadDir(sub)
		wantIs(t, err, fs.ErrNotExist)
		wantIs(t, fsys.SyncDir(sub), fs.ErrNotExist)
		put(t, fsys, sub, "")
		_, err = fsys.ReadDir(sub)
		wantError(t, "list a file", err)
		wantIs(t, fsys.Mkdir(sub, 0o700), fs.ErrExist)
		if runtime.GOOS != "windows" {
			wantError(t, "sync a file as a directory", fsys.SyncDir(sub))
		}
	})
}

func TestStatAndChmod(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "a")
		put(t, fsys, name, "abc")
		must(t, fsys.Chmod(name, 0o444))
		info, err := fsys.Stat(name)
		must(t, err)
		if info.Size != 3 || info.Dir || info.Mode != 0o444 || info.ModTime.IsZero() {
			t.Errorf("got %+v", info)
		}
		info, err = fsys.Stat(dir)
		must(t, err)
		if !info.Dir || !info.Mode.IsDir() {
			t.Errorf("directory: got %+v", info)
		}
		_, err = fsys.Stat(filepath.Join(dir, "no"))
		wantIs(t, err, fs.ErrNotExist)
		wantIs(t, fsys.Chmod(filepath.Join(dir, "no"), 0o600), fs.ErrNotExist)
		must(t, fsys.Remove(name))
	})
}

func TestModesBindAnOrdinaryUser(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		if fsys == vfs.OS() && (runtime.GOOS == "windows" || os.Getuid() == 0) {
			t.Skip("modes do not bind this user here")
		}
		name := filepath.Join(dir, "a")
		put(t, fsys, name, "abc")
		must(t, fsys.Chmod(name, 0o444))
		_, err := fsys.OpenRW(name)
		wantIs(t, err, fs.ErrPermission)
		wantFile(t, fsys, name, "abc")
		must(t, fsys.Chmod(name, 0o200))
		_, err = fsys.Open(name)
		wantIs(t, err, fs.ErrPermission)
		must(t, fsys.Chmod(dir, 0o500))
		wantIs(t, fsys.Remove(name), fs.ErrPermission)
		wantIs(t, fsys.Rename(name, name+"2"), fs.ErrPermission)
		wantIs(t, fsys.Mkdir(name+"2", 0o700), fs.ErrPermission)
		_, err = fsys.Create(name+"2", 0o600)
		wantIs(t, err, fs.ErrPermission)
		must(t, fsys.Chmod(dir, 0o300))
		_, err = fsys.ReadDir(dir)
		wantIs(t, err, fs.ErrPermission)
		wantIs(t, fsys.SyncDir(dir), fs.ErrPermission)
		must(t, fsys.Chmod(dir, 0o600))
		_, err = fsys.Stat(name)
		wantIs(t, err, fs.ErrPermission)
		must(t, fsys.Chmod(dir, 0o700))
	})
}

func TestLockExcludesEveryOtherOpen(t *testing.T) {
	onBoth(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name, other := filepath.Join(dir, "lock"), filepath.Join(dir, "other")
		l, err := fsys.Lock(name, []byte("pid 1"))
		must(t, err)
		info, err := fsys.Stat(name)
		must(t, err)
		if runtime.GOOS != "windows" && info.Mode != 0o600 {
			t.Errorf("got mode %v, want 0600", info.Mode)
		}
		must(t, fsys.Link(name, other))
		for _, n := range []string{name, other} {
			_, err = fsys.Lock(n, []byte("pid 2"))
			var locked *vfs.LockedError
			if !errors.As(err, &locked) || locked.Name != n || string(locked.Holder) != "pid 1" {
				t.Errorf("got %v, want a LockedError for %s with the first holder", err, n)
			}
		}
		wantFile(t, fsys, name, "pid 1")
		must(t, l.Close())
		wantIs(t, l.Close(), fs.ErrClosed)
		wantFile(t, fsys, name, "")
		l, err = fsys.Lock(other, []byte("pid 3, with more to say"))
		must(t, err)
		// The lock is the file's: a new file under its name is another lock.
		must(t, fsys.Remove(name))
		l2, err := fsys.Lock(name, []byte("pid 4"))
		must(t, err)
		must(t, l2.Close())
		must(t, l.Close())
		l, err = fsys.Lock(other, bytes.Repeat([]byte("x"), vfs.MaxHolder+1))
		must(t, err)
		wantFile(t, fsys, other, strings.Repeat("x", vfs.MaxHolder))
		must(t, l.Close())
		_, err = fsys.Lock(filepath.Join(dir, "no", "lock"), nil)
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.Lock(dir, nil)
		wantError(t, "lock a directory", err)
	})
}

// TestRandomOperationsAgree runs the same random operations on the operating system and the fake and compares every
// answer and, at the end, every name, length and byte.
func TestRandomOperationsAgree(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("its directories differ in details that the log does not need")
	}
	rng := vfstest.Rand(t)
	for range 20 {
		fake, real := vfstest.New(), vfs.OS()
		tmp := t.TempDir()
		dirs := [2]string{"", tmp}
		systems := [2]vfs.FS{fake, real}
		names := []string{"a", "b", "c", "d/a", "d/b", "d/e", "d", "e"}
		var trace []string
		for range 300 {
			a, b := names[rng.IntN(len(names))], names[rng.IntN(len(names))]
			kind, off, size := rng.IntN(10), rng.Int64N(2000), rng.IntN(1500)
			trace = append(trace, fmt.Sprintf("%d %s %s %d %d", kind, a, b, off, size))
			var got [2]string
			for i, fsys := range systems {
				got[i] = step(fsys, dirs[i], a, b, kind, off, size)
			}
			if got[0] != got[1] {
				t.Fatalf("fake %q, real %q\n%s", got[0], got[1], strings.Join(trace, "\n"))
			}
		}
		if got, want := tree(t, fake, ""), tree(t, real, tmp); !reflect.DeepEqual(got, want) {
			t.Fatalf("fake %q, real %q\n%s", got, want, strings.Join(trace, "\n"))
		}
		after := fake.CrashKeep(vfstest.KeepAll)
		if got, want := tree(t, after, ""), tree(t, real, tmp); !reflect.DeepEqual(got, want) {
			t.Fatalf("after a crash that keeps everything: fake %q, real %q\n%s", got, want, strings.Join(trace, "\n"))
		}
	}
}

// step carries out one operation and returns its answer, with errors reduced to their class.
func step(fsys vfs.FS, dir, a, b string, kind int, off int64, size int) string {
	a, b = filepath.Join(dir, a), filepath.Join(dir, b)
	data := bytes.Repeat([]byte{byte(off)}, size)
	var f vfs.File
	var err error
	switch kind {
	case 0:
		f, err = fsys.Create(a, 0o600)
	case 1:
		err = fsys.Rename(a, b)
	case 2:
		err = fsys.Link(a, b)
	case 3:
		err = fsys.Remove(a)
	case 4:
		err = fsys.Mkdir(a, 0o700)
	case 5:
		if f, err = fsys.OpenRW(a); err == nil {
			err = f.Truncate(off)
		}
	case 6:
		if f, err = fsys.OpenRW(a); err == nil {
			_ = fsys.Remove(b)
			err = f.Allocate(off)
		}
	default:
		if f, err = fsys.OpenRW(a); err == nil {
			_ = fsys.Rename(a, b)
			_, err = f.WriteAt(data, off)
		}
	}
	answer := ""
	if f != nil {
		if size%3 == 0 {
			_ = f.Sync()
			_ = fsys.SyncDir(filepath.Dir(a))
		}
		answer = contents(f)
		_ = f.Close()
	}
	for _, class := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission} {
		if errors.Is(err, class) {
			return class.Error()
		}
	}
	return fmt.Sprint(err != nil, answer)
}

// tree maps the names below dir to contents.
func tree(t *testing.T, fsys vfs.FS, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	names, err := fsys.ReadDir(dir)
	must(t, err)
	for _, name := range names {
		full := filepath.Join(dir, name)
		info, err := fsys.Stat(full)
		must(t, err)
		if info.Dir {
			all[name] = "directory"
			for n, c := range tree(t, fsys, full) {
				all[name+"/"+n] = c
			}
			continue
		}
		data, err := vfs.ReadFile(fsys, full, 1<<20)
		must(t, err)
		all[name] = string(data)
	}
	return all
}
