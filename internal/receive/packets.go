package receive

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

const (
	// packetBuffer is what is asked of the kernel, in bytes; it may grant less (net.core.rmem_max).
	packetBuffer = 8 << 20
	// maxPacket is what UDP can carry.
	maxPacket = 64 << 10
	// lookEvery is how often losses are looked for, and how often an entry may tell of them.
	lookEvery = time.Second
	// maxPeers is how many senders are told apart; the others share a name.
	maxPeers = 4096
)

// ActionGap is the action of an entry that tells of messages which were lost before they could be read.
const ActionGap = "source.gap"

// Packets receives datagrams, each a message.
type Packets struct {
	o      Options
	c      *net.UDPConn
	decode Decode
	q      *queue
	lost   func() (uint64, bool) // what the kernel has dropped since the socket was made, if it says so
	peers  map[netip.Addr]*peer

	mu      sync.Mutex // guards what follows
	dropped uint64     // by us, since the last gap record
	from    time.Time  // the first of them
	told    uint64     // of the kernel's losses
}

// NewPackets makes a receiver of a bound socket.
func NewPackets(c *net.UDPConn, decode Decode, o Options) *Packets {
	o.defaults()
	p := &Packets{o: o, c: c, decode: decode, peers: map[netip.Addr]*peer{}, lost: kernelLosses(c)}
	p.q = newQueue(&p.o)
	if err := c.SetReadBuffer(packetBuffer); err != nil {
		p.o.Logger.Debug("the socket's buffer stays as it is", "receiver", o.Name, "error", err)
	}
	return p
}

// Name is the receiver's.
func (p *Packets) Name() string { return p.o.Name }

// Addr is where it listens.
func (p *Packets) Addr() net.Addr { return p.c.LocalAddr() }

// Serve receives until ctx ends. Then it reads what the kernel still holds, appends it, and closes the socket.
func (p *Packets) Serve(ctx context.Context) error {
	give, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	drained, appended, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(appended)
		p.q.run(give, drained)
	}()
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		t := time.NewTicker(lookEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				p.look(give)
			case <-ended:
				return
			}
		}
	}()
	stop := context.AfterFunc(ctx, func() {
		_ = p.c.SetReadDeadline(time.Now()) // what has come is still read, see read
		time.AfterFunc(lastAppendsTime, cancel)
	})
	defer stop()
	err := p.read(ctx)
	close(ended)
	<-looking
	p.look(give)
	close(drained)
	<-appended
	_ = p.c.Close()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// drainTime is how long what the kernel holds is read once the receiver was told to stop.
const drainTime = 100 * time.Millisecond

func (p *Packets) read(ctx context.Context) error {
	buf := make([]byte, maxPacket)
	draining := false
	for {
		n, from, err := p.c.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			p.take(buf[:n], from)
		case ctx.Err() != nil && !draining:
			draining = true
			_ = p.c.SetReadDeadline(time.Now().Add(drainTime))
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was told to stop
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("read: %w", err)
		default: // of one datagram; some systems report here that an earlier answer could not be delivered
			p.o.Logger.Debug("a datagram was not read", "receiver", p.o.Name, "error", err)
		}
	}
}

// take hands a datagram on, or counts it where there is no room.
func (p *Packets) take(raw []byte, from netip.AddrPort) {
	e, malformed := p.decode(raw, nil, from)
	who := p.peer(from.Addr().Unmap())
	if malformed != nil {
		p.o.Observer.Rejected(context.Background(), who.name, "malformed", raw[:min(len(raw), maxSample)])
	}
	if n, _ := p.q.add([]item{{event: e, from: who}}); n == 1 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dropped++; p.dropped == 1 {
		p.from = p.o.Now()
	}
}

// peer is who sends from an address. Only read calls it.
func (p *Packets) peer(a netip.Addr) *peer {
	if known := p.peers[a]; known != nil {
		return known
	}
	if len(p.peers) >= maxPeers {
		a = netip.Addr{}
		if known := p.peers[a]; known != nil {
			return known
		}
	}
	one := &peer{principal: p.o.Principal, name: "others"}
	if a.IsValid() {
		one.name = a.String()
	}
	p.peers[a] = one
	return one
}

// look writes a gap record where something was lost since the last one. It waits for room: nothing that follows the loss is
// read meanwhile, which the next record counts.
func (p *Packets) look(ctx context.Context) {
	p.mu.Lock()
	ours, from, kernel := p.dropped, p.from, uint64(0)
	p.dropped = 0
	if total, known := p.lost(); known && total > p.told {
		kernel, p.told = total-p.told, total
	}
	p.mu.Unlock()
	if ours+kernel == 0 {
		return
	}
	now := p.o.Now()
	if ours == 0 {
		from = now.Add(-lookEvery)
	}
	s := event.Shape{
		Kind: event.KindSystem, Action: ActionGap, Outcome: event.OutcomeFailure, Reason: "datagrams came faster than they could be taken",
		Source: &event.Source{Provider: "immutable", Host: p.c.LocalAddr().String()},
		Extra: immutable.Fields{"gap": immutable.Fields{
			"receiver": p.o.Name, "lost": ours + kernel, "byKernel": kernel, "byQueue": ours, "from": from.UTC(), "to": now.UTC(),
		}},
	}
	e := immutable.Event{Level: immutable.Warn, Message: fmt.Sprintf("%s: %d messages were lost", p.o.Name, ours+kernel), Metadata: s.Fields()}
	p.o.Observer.Rejected(ctx, "lost", "overflow", nil)
	if err := p.q.put(ctx, []item{{event: e, from: &peer{principal: p.o.Principal, name: "lost"}}}); err != nil {
		p.o.Logger.Error("a gap could not be recorded", "receiver", p.o.Name, "lost", ours+kernel, "error", err)
	}
}
