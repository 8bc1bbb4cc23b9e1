//go:build unix

package main

import "golang.org/x/sys/unix"

// fileLimit is how many files this process may have open.
func fileLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), 1<<20)) //nolint:unconvert // it is signed on some systems
}
