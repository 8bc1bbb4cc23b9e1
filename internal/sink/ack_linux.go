package sink

import (
	"crypto/tls"
	"net"

	"golang.org/x/sys/unix"
)

// unacknowledged is how many bytes of a connection the other side's system has not acknowledged.
func unacknowledged(c net.Conn) (n int, known bool) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return 0, false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		var ierr error
		n, ierr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		known = ierr == nil
	})
	return n, known && err == nil
}
