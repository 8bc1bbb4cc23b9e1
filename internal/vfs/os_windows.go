package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/windows"
)

var errLocked = windows.ERROR_LOCK_VIOLATION

// openFile opens through an os.Root, because such a File shares deletion: a file that a reader has open can be renamed
// over or removed, as everywhere else. os.OpenFile does not.
func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(filepath.Base(name), flag, perm)
	return f, errors.Join(err, root.Close())
}

// rename goes through an os.Root too: its rename has POSIX semantics, so it replaces a file that is open.
func rename(oldname, newname string) error {
	top, oldrel, newrel, err := common(oldname, newname)
	if err != nil {
		return err
	}
	if info, err := os.Stat(newname); err == nil && info.IsDir() {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: fs.ErrExist}
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return err
	}
	defer root.Close()
	err = root.Rename(oldrel, newrel)
	if errors.Is(err, fs.ErrPermission) {
		// A read-only file is not replaced; on other systems its mode does not matter.
		if info, e := os.Stat(newname); e == nil && info.Mode()&0o200 == 0 && os.Chmod(newname, 0o600) == nil {
			err = root.Rename(oldrel, newrel)
		}
	}
	return err
}

// common returns the nearest directory above both names and the names relative to it.
func common(a, b string) (top, arel, brel string, err error) {
	if a, err = filepath.Abs(a); err != nil {
		return "", "", "", err
	}
	if b, err = filepath.Abs(b); err != nil {
		return "", "", "", err
	}
	for top = filepath.Dir(a); ; top = filepath.Dir(top) {
		brel, err = filepath.Rel(top, b)
		if err == nil && brel != ".." && !strings.HasPrefix(brel, `..\`) {
			arel, err = filepath.Rel(top, a)
			return top, arel, brel, err
		}
		if top == filepath.Dir(top) {
			return "", "", "", &os.LinkError{Op: "rename", Old: a, New: b, Err: errors.New("not on one volume")}
		}
	}
}

// syncDir flushes the directory's handle. A file system that refuses this keeps its directories in its own journal,
// in order, and offers nothing stronger.
func syncDir(name string) error {
	path, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return err
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(path, windows.GENERIC_READ|windows.GENERIC_WRITE, share, nil,
		windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	err = windows.FlushFileBuffers(h)
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) {
		err = nil
	}
	if err != nil {
		err = &fs.PathError{Op: "sync", Path: name, Err: err}
	}
	return errors.Join(err, windows.CloseHandle(h))
}

func datasync(f *os.File) error { return f.Sync() }

func fallocate(*os.File, int64) error { return errors.ErrUnsupported }

func identity(fs.FileInfo) (inode, dev uint64) { return 0, 0 }

// tryLock locks one byte far behind the contents: locks are mandatory here, and the holder must stay readable.
func tryLock(f *os.File) error {
	at := windows.Overlapped{OffsetHigh: 1 << 30}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &at)
}

// IsNoSpace reports whether err says that the disk or the quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, syscall.ENOSPC)
}
