//go:build unix

package server

import "golang.org/x/sys/unix"

// descriptors is how many files and connections this process may have open; 0 where there is no limit.
func descriptors() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || uint64(l.Cur) > 1<<30 { //nolint:unconvert // it is signed on some systems
		return 0
	}
	return uint64(l.Cur) //nolint:unconvert // as above
}
