//go:build !linux

package receive

import "net"

// kernelLosses: elsewhere the kernel does not say what it drops at one socket.
func kernelLosses(*net.UDPConn) func() (uint64, bool) {
	return func() (uint64, bool) { return 0, false }
}
