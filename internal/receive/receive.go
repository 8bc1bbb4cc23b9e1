// Package receive takes messages from peers that get no answer: streams over TCP, TLS and unix sockets, and datagrams. It reads
// with limits on connections, messages, memory and time, batches what all peers of one listener send, and appends it in order.
// What a message is, and what event it becomes, is the caller's to say.
//
// While the log takes nothing, streams are not read, so that senders wait. Datagrams cannot wait: what is dropped is counted,
// and an entry says how many and when.
package receive

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Options say what a receiver reads and where it goes.
type Options struct {
	Name string // protocol and address, for logs

	// Append makes events durable, as tenant.Log.AppendAs does.
	Append func(context.Context, *tenant.Principal, ...immutable.Event) ([]immutable.Receipt, error)

	// Principal appends what comes from peers without an identity.
	Principal *tenant.Principal

	// Identify maps a verified client certificate to a principal; an error refuses the connection. May be nil.
	Identify func(*x509.Certificate) (*tenant.Principal, error)

	Observer Observer
	Logger   *slog.Logger     // nil is silent
	Now      func() time.Time // nil is the clock

	MaxMessage     int           // bytes; longer ones come in pieces. 0 is 64 KiB
	MaxConnections int           // 0 is 1024; a further one is closed
	IdleTime       time.Duration // without a byte; 0 is 10 minutes
	MessageTime    time.Duration // from a message's first byte to its last; 0 is 30 seconds
}

// Observer hears what becomes of what peers send. Its methods do not block for long.
type Observer interface {
	// Seen says that events of a peer are durable.
	Seen(peer string, n int)
	// Rejected says that something was refused, or kept as malformed; reason is one of a few words.
	Rejected(ctx context.Context, peer, reason string, sample []byte)
}

// Splitter cuts a stream into messages. One is made for each connection.
type Splitter interface {
	// Split calls emit for each whole message at the beginning of b and returns how many bytes they took. With last the stream
	// has ended and all of b is taken. What it leaves never exceeds MaxMessage and a few bytes.
	Split(b []byte, last bool, emit func(raw []byte, err error)) int
}

// Decode makes an event of a message; err says why the splitter took it for none. It returns why the message is malformed, if it
// is: the event then holds it as it came. The event must not refer to raw.
type Decode func(raw []byte, err error, from netip.AddrPort) (immutable.Event, error)

// Stream receives connections.
type Stream struct {
	o      Options
	l      net.Listener
	tls    *tls.Config
	split  func() Splitter
	decode Decode
	q      *queue

	mu    sync.Mutex // guards what follows
	conns map[net.Conn]struct{}
	ended bool
	wg    sync.WaitGroup
}

// NewStream makes a receiver of a bound listener; with conf, connections are TLS.
func NewStream(l net.Listener, conf *tls.Config, split func() Splitter, decode Decode, o Options) *Stream {
	o.defaults()
	s := &Stream{o: o, l: l, tls: conf, split: split, decode: decode, conns: map[net.Conn]struct{}{}}
	s.q = newQueue(&s.o)
	return s
}

// Name is the receiver's.
func (s *Stream) Name() string { return s.o.Name }

// Addr is where it listens.
func (s *Stream) Addr() net.Addr { return s.l.Addr() }

// acceptPause is how long accepting rests when the process has no descriptors left, or the like.
const acceptPause = 50 * time.Millisecond

// Serve receives until ctx ends. Then it reads no more, appends what it has read, and closes all.
func (s *Stream) Serve(ctx context.Context) error {
	give, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	drained, appended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(appended)
		s.q.run(give, drained)
	}()
	stop := context.AfterFunc(ctx, func() {
		_ = s.l.Close()
		s.interrupt()
		time.AfterFunc(lastAppendsTime, cancel)
	})
	defer stop()
	err := s.accept(ctx, give)
	s.interrupt()
	s.wg.Wait()
	close(drained)
	<-appended
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Stream) accept(ctx, give context.Context) error {
	for {
		c, err := s.l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was told to stop
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default: // of one connection, or of a process without descriptors
			s.o.Logger.Debug("a connection was not accepted", "receiver", s.o.Name, "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if !s.add(c) {
			s.o.Observer.Rejected(ctx, address(c).Addr().String(), "connections", nil)
			_ = c.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.remove(c)
			s.serve(ctx, give, c)
		})
	}
}

func (s *Stream) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.conns) >= s.o.MaxConnections {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Stream) remove(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// interrupt ends all reads that wait.
func (s *Stream) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for c := range s.conns {
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
}

// deadline sets how long the next read may take, unless reading has ended.
func (s *Stream) deadline(c net.Conn, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		_ = c.SetReadDeadline(time.Now().Add(d))
	}
}

func address(c net.Conn) netip.AddrPort {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// Buffers of a connection: small while little comes, up to what a message needs.
const (
	firstBuffer = 4 << 10
	fullBuffer  = 32 << 10
)

// serve reads one connection to its end.
func (s *Stream) serve(ctx, give context.Context, raw net.Conn) {
	c := raw
	from := address(raw)
	p := &peer{principal: s.o.Principal, name: from.Addr().Unmap().String()}
	if !from.IsValid() {
		p.name = "local"
	}
	if s.tls != nil {
		t := tls.Server(raw, s.tls)
		s.deadline(raw, s.o.MessageTime)
		_ = raw.SetWriteDeadline(time.Now().Add(s.o.MessageTime))
		if err := s.identify(ctx, t, p); err != nil {
			s.o.Observer.Rejected(ctx, p.name, "unauthenticated", []byte(err.Error()))
			s.o.Logger.Debug("a connection was refused", "receiver", s.o.Name, "peer", p.name, "error", err)
			return
		}
		c = t
	}
	r := &reading{s: s, c: c, raw: raw, from: from, peer: p, split: s.split(), give: give}
	if err := r.run(); err != nil {
		s.o.Logger.Debug("a connection ended", "receiver", s.o.Name, "peer", p.name, "error", err)
	}
}

// identify shakes hands and finds the peer's principal.
func (s *Stream) identify(ctx context.Context, t *tls.Conn, p *peer) error {
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	chains := t.ConnectionState().VerifiedChains
	if s.o.Identify == nil || len(chains) == 0 {
		return nil
	}
	principal, err := s.o.Identify(chains[0][0])
	if err != nil {
		return err
	}
	if principal != nil {
		p.principal, p.name = principal, principal.ID
	}
	return nil
}

// reading is one connection that is read.
type reading struct {
	s     *Stream
	c     net.Conn
	raw   net.Conn // below TLS
	from  netip.AddrPort
	peer  *peer
	split Splitter

	give  context.Context // ends when nothing is appended any more
	buf   []byte
	items []item
	err   error // why nothing more can be handed on
}

func (r *reading) run() error {
	r.buf = make([]byte, 0, firstBuffer)
	var begun time.Time // of the message that is not whole yet
	for {
		if len(r.buf) == 0 {
			begun = time.Time{}
			if cap(r.buf) > fullBuffer { // a large message has gone
				r.buf = make([]byte, 0, firstBuffer)
			}
			r.s.deadline(r.raw, r.s.o.IdleTime)
		} else {
			now := time.Now()
			if begun.IsZero() {
				begun = now
			}
			r.s.deadline(r.raw, r.s.o.MessageTime-now.Sub(begun))
		}
		if len(r.buf) == cap(r.buf) {
			r.buf = append(make([]byte, 0, 2*cap(r.buf)), r.buf...)
		}
		n, err := r.c.Read(r.buf[len(r.buf):cap(r.buf)])
		full := len(r.buf)+n == cap(r.buf)
		r.buf = r.buf[:len(r.buf)+n]
		used := r.split.Split(r.buf, err != nil, r.emit)
		if used > 0 {
			begun = time.Time{}
			r.buf = r.buf[:copy(r.buf, r.buf[used:])]
		}
		if full && cap(r.buf) < fullBuffer {
			r.buf = append(make([]byte, 0, fullBuffer), r.buf...)
		}
		if r.put(); r.err != nil {
			return r.err
		}
		if err != nil {
			return err
		}
	}
}

// heldItems is how many messages one connection holds outside of the queue: a read can have thousands of tiny ones.
const heldItems = 128

// put hands on what was read, and waits where the queue is full.
func (r *reading) put() {
	if len(r.items) > 0 && r.err == nil {
		r.err = r.s.q.put(r.give, r.items)
	}
	clear(r.items)
	r.items = r.items[:0]
}

func (r *reading) emit(raw []byte, err error) {
	e, malformed := r.s.decode(raw, err, r.from)
	if malformed != nil {
		r.s.o.Observer.Rejected(context.Background(), r.peer.name, "malformed", raw[:min(len(raw), maxSample)])
	}
	if r.items = append(r.items, item{event: e, from: r.peer}); len(r.items) == heldItems {
		r.put()
	}
}
