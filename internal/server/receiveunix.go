package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// listenUnix binds a unix socket. A socket file that nobody listens on any more, as a crash leaves it, is replaced; anything
// else under that name is left alone.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		if err != nil {
			return nil, fmt.Errorf("unix socket %s: %w", path, err)
		}
		return l, nil
	}
	info, statErr := os.Lstat(path)
	if statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("unix socket %s: there is something else under that name; give another path", path)
	}
	d := net.Dialer{Timeout: time.Second}
	if c, dialErr := d.DialContext(ctx, "unix", path); dialErr == nil {
		_ = c.Close()
		return nil, fmt.Errorf("unix socket %s is in use by another process; stop that one, or give another path", path)
	} else if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("unix socket %s: %w", path, dialErr)
	}
	if err := os.Remove(path); err != nil { //nolint:forbidigo // a socket of ours that nobody listens on, no file of a log
		return nil, fmt.Errorf("unix socket %s: %w", path, err)
	}
	if l, err = lc.Listen(ctx, "unix", path); err != nil {
		return nil, fmt.Errorf("unix socket %s: %w", path, err)
	}
	return l, nil
}
