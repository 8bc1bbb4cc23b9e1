package receive

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// sink is a log that can be closed for a while.
type sink struct {
	mu       sync.Mutex // guards what follows
	shut     bool
	messages []string
	rejected map[string]int
	changed  chan struct{}
}

func newSink() *sink { return &sink{rejected: map[string]int{}, changed: make(chan struct{}, 1)} }

func (s *sink) append(_ context.Context, _ *tenant.Principal, events ...immutable.Event) ([]immutable.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return nil, &tenant.QuotaError{What: "entriesPerSecond", Limit: 1, RetryAfter: time.Millisecond}
	}
	for i := range events {
		s.messages = append(s.messages, events[i].Message)
	}
	s.tell()
	return make([]immutable.Receipt, len(events)), nil
}

func (s *sink) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *sink) Seen(string, int) {}

func (s *sink) Rejected(_ context.Context, _, reason string, _ []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected[reason]++
	s.tell()
}

// until waits for a condition, which is asked under the lock at each change.
func (s *sink) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		s.mu.Lock()
		done := ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-s.changed:
		case <-late:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

type lines struct{}

func (lines) Split(b []byte, last bool, emit func([]byte, error)) (used int) {
	for {
		n := bytes.IndexByte(b[used:], '\n')
		if n < 0 {
			if last && used < len(b) {
				emit(b[used:], nil)
				used = len(b)
			}
			return used
		}
		emit(b[used:used+n], nil)
		used += n + 1
	}
}

func plain(raw []byte, err error, _ netip.AddrPort) (immutable.Event, error) {
	return immutable.Event{Message: string(raw)}, err
}

func start(t *testing.T, s *sink, change func(*Options)) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Name: "test", Append: s.append, Principal: &tenant.Principal{}, Observer: s}
	change(&o)
	r := NewStream(l, nil, func() Splitter { return lines{} }, plain, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestConnectionsBeyondTheLimitAreClosed(t *testing.T) {
	s := newSink()
	addr, _ := start(t, s, func(o *Options) { o.MaxConnections = 2 })
	for range 2 {
		c := dial(t, addr)
		if _, err := fmt.Fprintln(c, "x"); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "two messages", func() bool { return len(s.messages) == 2 })
	third := dial(t, addr)
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from a connection that is one too many", n)
	}
	if s.until(t, "it is counted", func() bool { return s.rejected["connections"] == 1 }); len(s.messages) != 2 {
		t.Errorf("got %q", s.messages)
	}
}

// A peer that does not end its message, or says nothing, is let go; what it sent is kept.
func TestSlowPeersAreLetGo(t *testing.T) {
	s := newSink()
	addr, _ := start(t, s, func(o *Options) { o.IdleTime, o.MessageTime = 50*time.Millisecond, 50*time.Millisecond })
	idle, half := dial(t, addr), dial(t, addr)
	if _, err := fmt.Fprint(half, "no end"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{idle, half} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("an answer came")
		}
	}
	s.until(t, "what was sent", func() bool { return len(s.messages) == 1 && s.messages[0] == "no end" })
}

// While the log takes nothing, what is read is bounded; once it does, all of it comes, in order.
func TestPeersWaitForTheLog(t *testing.T) {
	s := newSink()
	s.shut = true
	addr, stop := start(t, s, func(*Options) {})
	c := dial(t, addr)
	const n = 40_000
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < n && err == nil; i++ {
			_, err = fmt.Fprintf(c, "%d %0600d\n", i, 0)
		}
		_ = c.Close()
		written <- err
	}()
	select {
	case err := <-written:
		t.Fatalf("all %d bytes were taken while the log took none: %v", n*600, err)
	case <-time.After(300 * time.Millisecond):
	}
	s.mu.Lock()
	s.shut = false
	s.mu.Unlock()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	s.until(t, "everything", func() bool { return len(s.messages) == n })
	stop()
	for i, m := range s.messages {
		if got := fmt.Sprintf("%d %0600d", i, 0); m != got {
			t.Fatalf("message %d is %.20s", i, m)
		}
	}
}

// Every datagram is either in the log or counted in a gap record.
func TestLostDatagramsAreCounted(t *testing.T) {
	a, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := newSink()
	s.shut = true
	r := NewPackets(a, plain, Options{Name: "test", Append: s.append, Principal: &tenant.Principal{}, Observer: s})
	if _, known := r.lost(); !known {
		_ = a.Close()
		t.Skip("this system does not say what it drops")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	c, err := net.Dial("udp", a.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 40_000
	sent := 0
	for i := range n {
		if _, err := fmt.Fprintf(c, "%d %0600d", i, 0); err == nil {
			sent++
		}
	}
	s.mu.Lock()
	s.shut = false
	s.mu.Unlock()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	got, lost := 0, 0
	for _, m := range s.messages {
		var gap int
		if k, _ := fmt.Sscanf(m, "test: %d messages were lost", &gap); k == 1 {
			lost += gap
		} else {
			got++
		}
	}
	if lost == 0 || got+lost != sent {
		t.Errorf("%d in the log and %d counted as lost, of %d", got, lost, sent)
	}
}
