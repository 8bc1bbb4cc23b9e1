package vfs

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func datasync(f *os.File) error {
	if err := control(f, unix.Fdatasync); err != nil {
		return pathError("fdatasync", f, err)
	}
	return nil
}

// fallocate reserves the first n bytes; without support the error is errors.ErrUnsupported.
func fallocate(f *os.File, n int64) error {
	if n <= 0 {
		return nil
	}
	if err := control(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, n) }); err != nil {
		return pathError("fallocate", f, err)
	}
	return nil
}

func pathError(op string, f *os.File, err error) error {
	return &fs.PathError{Op: op, Path: f.Name(), Err: err}
}
