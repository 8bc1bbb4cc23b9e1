package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// OS is the operating system's file system. On Linux Sync is fdatasync; on macOS it is F_FULLFSYNC, which also empties
// the drive's cache; on Windows FlushFileBuffers.
func OS() FS { return osFS{} }

type osFS struct{}

var errNotRegular = errors.New("not a regular file")

func (osFS) Open(name string) (File, error)   { return open(name, os.O_RDONLY, 0) }
func (osFS) OpenRW(name string) (File, error) { return open(name, os.O_RDWR, 0) }

func (osFS) Create(name string, perm fs.FileMode) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// open never blocks: opening a FIFO that somebody put into a log's directory would wait for its other end for ever.
func open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := openFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &osFile{f}, nil
}

func (osFS) Rename(oldname, newname string) error      { return rename(oldname, newname) }
func (osFS) Link(oldname, newname string) error        { return os.Link(oldname, newname) }
func (osFS) Remove(name string) error                  { return os.Remove(name) }
func (osFS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }
func (osFS) SyncDir(name string) error                 { return syncDir(name) }

func (osFS) Chmod(name string, mode fs.FileMode) error { return os.Chmod(name, mode) }

func (osFS) ReadDir(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func (osFS) Stat(name string) (Info, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	info := Info{Size: fi.Size(), Mode: fi.Mode(), Dir: fi.IsDir(), ModTime: fi.ModTime()}
	info.Inode, info.Dev = identity(fi)
	return info, nil
}

// osFile's ReadAt, WriteAt and Close are os.File's.
type osFile struct{ *os.File }

func (f *osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (f *osFile) Sync() error { return datasync(f.File) }

func (f *osFile) Allocate(n int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	err = fallocate(f.File, n)
	if errors.Is(err, errors.ErrUnsupported) {
		err = writeZeros(f.File, size, n)
	}
	if err != nil {
		// What was reserved before the disk was full is given back.
		return errors.Join(err, f.Truncate(size))
	}
	return nil
}

// writeZeros extends f from size to n with blocks that are really written.
func writeZeros(f io.WriterAt, size, n int64) error {
	zeros := make([]byte, 64<<10)
	for size < n {
		m, err := f.WriteAt(zeros[:min(int64(len(zeros)), n-size)], size)
		if err != nil {
			return err
		}
		size += int64(m)
	}
	return nil
}

// lockTries bounds the race against somebody who replaces the lock file between our open and our lock.
const lockTries = 10

func (osFS) Lock(name string, holder []byte) (io.Closer, error) {
	for range lockTries {
		f, err := open(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		l := &osLock{f: f.(*osFile).File}
		if err := tryLock(l.f); err != nil {
			defer l.f.Close()
			if !errors.Is(err, errLocked) {
				return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
			}
			return nil, &LockedError{Name: name, Holder: readHolder(l.f)}
		}
		if !l.isStill(name) {
			_ = l.f.Close()
			continue
		}
		if err := l.write(holder); err != nil {
			_ = l.f.Close()
			return nil, err
		}
		return l, nil
	}
	return nil, &fs.PathError{Op: "lock", Path: name, Err: errors.New("the file is being replaced again and again")}
}

// readHolder reads what it can: it only makes an error message better.
func readHolder(f io.ReaderAt) []byte {
	buf := make([]byte, MaxHolder)
	n, _ := f.ReadAt(buf, 0)
	return buf[:n]
}

type osLock struct {
	mu sync.Mutex // makes Close safe to call twice
	f  *os.File   // nil after Close
}

// isStill reports whether name is still the locked file. A lock on a file that lost its name excludes nobody.
func (l *osLock) isStill(name string) bool {
	held, err := l.f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(name)
	return err == nil && os.SameFile(held, named)
}

func (l *osLock) write(holder []byte) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt(holder[:min(len(holder), MaxHolder)], 0)
	if IsNoSpace(err) {
		return l.f.Truncate(0)
	}
	return err
}

func (l *osLock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return fs.ErrClosed
	}
	// Emptied first, so that nobody is told about a holder who has gone. Closing releases the lock in any case.
	err := l.f.Truncate(0)
	err = errors.Join(err, l.f.Close())
	l.f = nil
	return err
}
