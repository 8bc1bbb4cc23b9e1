//go:build unix && !linux

package vfs

import (
	"errors"
	"os"
)

// datasync is fsync; on macOS os.File.Sync is fcntl(F_FULLFSYNC), which waits for the drive too.
func datasync(f *os.File) error { return f.Sync() }

func fallocate(*os.File, int64) error { return errors.ErrUnsupported }
