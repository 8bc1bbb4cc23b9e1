package server

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// manager is a socket such as systemd's.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no datagrams on Unix sockets here")
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return l
}

func hear(t *testing.T, l *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := l.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// socketDir is short enough for the name of a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "im")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestServiceManagerHearsEachState(t *testing.T) {
	names := []string{filepath.Join(socketDir(t), "notify")}
	if runtime.GOOS == "linux" {
		names = append(names, "@immutable-test-"+filepath.Base(socketDir(t)))
	}
	for _, name := range names {
		l := manager(t, name)
		n := &notifier{socket: name, logger: slog.New(slog.DiscardHandler)}
		n.say(stateReady, "STATUS=serving")
		n.say(stateStopping)
		if got := hear(t, l); got != "READY=1\nSTATUS=serving" {
			t.Errorf("got %q", got)
		}
		if got := hear(t, l); got != "STOPPING=1" {
			t.Errorf("got %q", got)
		}
	}
}

func TestLostServiceManagerStopsNothing(t *testing.T) {
	said := &spoken{}
	n := &notifier{socket: filepath.Join(socketDir(t), "nobody"), logger: slog.New(slog.NewTextHandler(said, nil))}
	n.say(stateReady)
	if !strings.Contains(said.String(), "was not told") {
		t.Errorf("said %q", said)
	}
	(&notifier{logger: slog.New(slog.DiscardHandler)}).say(stateReady) // without a socket
}

// TestHangingServiceIsSilent holds that the watchdog hears nothing more once the service does not answer.
func TestHangingServiceIsSilent(t *testing.T) {
	name := filepath.Join(socketDir(t), "notify")
	l := manager(t, name)
	n := &notifier{socket: name, logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs, hanging, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var asked atomic.Int32
	go func() {
		defer close(done)
		n.watchdog(ctx, 2*time.Millisecond, func() {
			if asked.Add(1) == 3 {
				close(hanging)
				<-hangs
			}
		})
	}()
	for range 2 {
		if got := hear(t, l); got != "WATCHDOG=1" {
			t.Fatalf("got %q", got)
		}
	}
	<-hanging
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes from a service that hangs", n)
	}
	cancel()
	close(hangs)
	<-done
	n.watchdog(t.Context(), 0, func() { t.Error("asked without a watchdog") })
}
