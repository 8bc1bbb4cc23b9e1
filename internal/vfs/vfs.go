// Package vfs is the dozen file operations that a log needs, with durability as part of the contract.
//
// Nothing else in this module opens, renames or syncs a file of a log. Package vfstest has a second implementation
// in memory that loses power, fills up and lies.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"
)

// FS is a file system. Implementations are safe for concurrent use.
//
// A change to a directory (a create, link, rename, remove or mkdir in it) is visible at once and durable only when
// SyncDir of that directory has returned nil; until then a power cut may undo it. A change to a file is visible at
// once through every open File of it and durable only when File.Sync has returned nil. A rename within one directory
// is seen either wholly or not at all, also after a power cut.
//
// Errors answer errors.Is for fs.ErrNotExist, fs.ErrExist, fs.ErrPermission and fs.ErrClosed; see IsNoSpace for a
// full disk.
type FS interface {
	// Open opens an existing regular file for reading. Anything else (a directory, a FIFO, a device) is an error.
	Open(name string) (File, error)

	// OpenRW opens an existing regular file for reading and writing. Its mode must allow the owner to write.
	OpenRW(name string) (File, error)

	// Create makes a file that must not exist and opens it for reading and writing, also where perm forbids writing.
	// The process's umask may take bits from perm.
	Create(name string, perm fs.FileMode) (File, error)

	// Rename gives oldname the name newname, replacing a file that has it. A directory is never replaced. If both are
	// names of the same file nothing happens and both stay.
	Rename(oldname, newname string) error

	// Link gives the file oldname a second name, which must not exist.
	Link(oldname, newname string) error

	// Remove removes a name of a file, or an empty directory. Open Files keep working.
	Remove(name string) error

	// Mkdir makes one directory; if the name is taken the error is fs.ErrExist.
	Mkdir(name string, perm fs.FileMode) error

	// ReadDir returns the base names in a directory, sorted by their bytes.
	ReadDir(name string) ([]string, error)

	// Stat follows symbolic links.
	Stat(name string) (Info, error)

	// Chmod sets the permission bits. No operation promises that they are durable: after a power cut a file may have
	// any mode it had before.
	Chmod(name string, mode fs.FileMode) error

	// SyncDir makes the creates, links, renames and removes in the directory durable.
	SyncDir(name string) error

	// Lock takes the exclusive advisory lock on a file, which it creates with mode 0600, and writes holder into it, at
	// most MaxHolder bytes. It does not wait: where another open of the file has the lock, in this process or another,
	// the error is a *LockedError. The lock belongs to the file, not to its name. Close empties the file and gives the
	// lock up; so does the end of the process, except that holder stays. On a full disk the lock is taken without
	// holder. Keep the Closer: the garbage collector would close a forgotten one.
	Lock(name string, holder []byte) (io.Closer, error)
}

// File is an open file. Its methods are safe for concurrent use, as far as their ranges do not overlap. It follows the
// file, not the name: a rename or remove does not disturb it.
type File interface {
	io.ReaderAt

	// After an error any part of the bytes may have been written, whatever the count says: os.File reports 0 for a
	// write that a full disk cut short.
	io.WriterAt

	io.Closer

	// Size is the length in bytes, including what is not durable yet.
	Size() (int64, error)

	// Truncate sets the length; bytes that are added read as zero.
	Truncate(size int64) error

	// Sync makes contents and length durable. After an error nothing is known about what is durable, and a second
	// Sync that returns nil says nothing about the writes before the first: the caller must stop writing and read
	// everything back after reopening.
	Sync() error

	// Allocate reserves disk space for the first n bytes and makes the file at least n bytes long; bytes that are
	// added read as zero. On error the length is what it was.
	Allocate(n int64) error
}

// Info describes a file or directory.
type Info struct {
	Size       int64
	Inode, Dev uint64 // 0 where the platform has none
	Mode       fs.FileMode
	Dir        bool
	ModTime    time.Time
}

// MaxHolder is how many bytes of a lock's holder are kept.
const MaxHolder = 4096

// LockedError says that another writer has the lock.
type LockedError struct {
	Name   string
	Holder []byte // what the other wrote about itself; may be empty or, for an instant, incomplete
}

func (e *LockedError) Error() string {
	if len(e.Holder) == 0 {
		return fmt.Sprintf("lock %s: another writer has it; stop that writer first", e.Name)
	}
	return fmt.Sprintf("lock %s: held by %q; stop that writer first", e.Name, e.Holder)
}

// ErrTooLarge is what ReadFile returns, wrapped, for a file longer than its limit.
var ErrTooLarge = errors.New("file is too large")

// ReadFile returns the contents of a file of at most limit bytes. It never holds more than limit+1 bytes, also where
// the file grows while it is read.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: %w: %d bytes, at most %d are expected", name, ErrTooLarge, size, limit)
	}
	// One byte more than the size, so that growth shows itself as a full buffer.
	buf := make([]byte, size+1)
	n, err := f.ReadAt(buf, 0)
	for err == nil {
		if int64(n) > limit {
			return nil, fmt.Errorf("read %s: %w: it grew beyond %d bytes while it was read", name, ErrTooLarge, limit)
		}
		more := min(int64(len(buf)), limit+1-int64(n))
		buf = append(buf, make([]byte, more)...)
		var m int
		m, err = f.ReadAt(buf[n:], int64(n))
		n += m
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:n:n], nil
}

// WriteAtomic replaces the file name with data. At every moment, and after a power cut at any moment, name is the old
// file or the whole new one; when WriteAtomic returns nil it is durably the new one. tmp is a name on the same file
// system that only this call uses; what has it already is removed, and what is left of it after an error or a crash is
// garbage. After an error name may be either.
func WriteAtomic(fsys FS, tmp, name string, data []byte, perm fs.FileMode) error {
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSync(fsys, tmp, data, perm); err != nil {
		// The space may be what is missing. The error that counts is the first.
		_ = fsys.Remove(tmp)
		return err
	}
	// The umask may have taken bits at creation.
	if err := fsys.Chmod(tmp, perm); err != nil {
		_ = fsys.Remove(tmp)
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		_ = fsys.Remove(tmp)
		return err
	}
	dir, from := filepath.Dir(name), filepath.Dir(tmp)
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	if from == dir {
		return nil
	}
	return fsys.SyncDir(from)
}

// writeSync creates name with durable contents; the name itself is not durable yet.
func writeSync(fsys FS, name string, data []byte, perm fs.FileMode) error {
	f, err := fsys.Create(name, perm)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// MkdirAll makes the directory name and those above it that are missing, each with perm and each durable before the
// next is made. A name that exists was perhaps made by a call that a crash cut short of its sync, so its directory is
// synced too.
func MkdirAll(fsys FS, name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	parent := filepath.Dir(name)
	info, err := fsys.Stat(name)
	switch {
	case err == nil && !info.Dir:
		return &fs.PathError{Op: "mkdir", Path: name, Err: errors.New("exists and is not a directory")}
	case err == nil:
		// Whoever may not read the directory above did not make this one in it.
		if err := fsys.SyncDir(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist) || parent == name:
		return err
	}
	if err := MkdirAll(fsys, parent, perm); err != nil {
		return err
	}
	if err := fsys.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(parent)
}
