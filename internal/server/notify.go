package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// notifier tells the service manager how the service does, as sd_notify(3) describes: datagrams on a Unix socket. Without a
// socket it does nothing. That a word was not heard is logged and stops nothing.
type notifier struct {
	socket string // a path, or @ and a name in Linux's abstract space
	logger *slog.Logger
}

const (
	stateReady    = "READY=1"
	stateStopping = "STOPPING=1"
	stateWatchdog = "WATCHDOG=1"
)

// say sends states in one datagram.
func (n *notifier) say(states ...string) {
	if n.socket == "" {
		return
	}
	if err := n.send(strings.Join(states, "\n")); err != nil {
		n.logger.Warn("the service manager was not told", "state", states[0], "error", err)
	}
}

func (n *notifier) send(message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify %s: %w", n.socket, err)
	}
	defer func() { _ = conn.Close() }() // a datagram has gone, or has not
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify %s: %w", n.socket, err)
	}
	return nil
}

// watchdog says that the service lives, twice within each interval, as long as alive returns: a service that hangs is silent,
// and its manager starts it again. alive must end by itself soon, or not at all.
func (n *notifier) watchdog(ctx context.Context, interval time.Duration, alive func()) {
	if n.socket == "" || interval <= 0 {
		return
	}
	t := time.NewTicker(interval / 2)
	defer t.Stop()
	for {
		alive()
		n.say(stateWatchdog)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
