package receive

import (
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLosses reads how many datagrams the kernel has dropped at a socket, because its buffer was full: the last column of
// /proc/net/udp, whose row is found by the socket's inode.
func kernelLosses(c *net.UDPConn) func() (uint64, bool) {
	unknown := func() (uint64, bool) { return 0, false }
	raw, err := c.SyscallConn()
	if err != nil {
		return unknown
	}
	var st unix.Stat_t
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Fstat(int(fd), &st) }); err != nil || serr != nil {
		return unknown
	}
	inode := strconv.FormatUint(st.Ino, 10)
	return func() (uint64, bool) {
		for _, name := range []string{"/proc/net/udp6", "/proc/net/udp"} {
			table, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			for row := range strings.Lines(string(table)) {
				// sl local rem st queues tr:when retrnsmt uid timeout inode ref pointer drops
				if f := strings.Fields(row); len(f) == 13 && f[9] == inode {
					n, err := strconv.ParseUint(f[12], 10, 64)
					return n, err == nil
				}
			}
		}
		return 0, false
	}
}
