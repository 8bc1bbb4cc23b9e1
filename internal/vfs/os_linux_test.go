package vfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// smallDisk mounts a file system of 64 KiB, for which one must be root.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func TestFullDiskOfTheOperatingSystem(t *testing.T) {
	dir, fsys := smallDisk(t), vfs.OS()
	lock := filepath.Join(dir, "lock")
	l, err := fsys.Lock(lock, []byte("first"))
	must(t, err)
	must(t, l.Close())

	f, err := fsys.Create(filepath.Join(dir, "a"), 0o600)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("abc"), 0)
	must(t, err)
	if err := f.Allocate(1 << 20); !vfs.IsNoSpace(err) {
		t.Errorf("allocate: got %v, want a full disk", err)
	}
	if size, err := f.Size(); size != 3 || err != nil {
		t.Errorf("after a failed allocate: got size %d, %v, want 3", size, err)
	}
	if _, err := f.WriteAt(make([]byte, 1<<20), 0); !vfs.IsNoSpace(err) {
		t.Errorf("write: got %v, want a full disk", err)
	}
	if size, err := f.Size(); size <= 3 || size >= 1<<20 || err != nil {
		t.Errorf("after a failed write: got size %d, %v, want a part of it", size, err)
	}

	// A writer must be able to open and close its log all the same.
	l, err = fsys.Lock(lock, []byte("second"))
	must(t, err)
	if info, err := os.Stat(lock); err != nil || info.Size() != 0 {
		t.Errorf("got a holder of %d bytes, %v, want none", info.Size(), err)
	}
	must(t, l.Close())
	must(t, f.Truncate(3))
	must(t, vfs.WriteAtomic(fsys, filepath.Join(dir, "b.tmp"), filepath.Join(dir, "b"), []byte("b"), 0o600))
}
