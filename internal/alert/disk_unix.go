//go:build unix

package alert

import "golang.org/x/sys/unix"

// disk is what the file system of dir has left for this user, and its size, in bytes.
func disk(dir string) (free, size uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	block := uint64(s.Bsize)                                       //nolint:unconvert // its type differs between systems
	return uint64(s.Bavail) * block, uint64(s.Blocks) * block, nil //nolint:unconvert // likewise
}
