package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// receiver is a listener beside the HTTP one, which takes events in a protocol of its own.
type receiver interface {
	// Name is "protocol address", for logs and errors.
	Name() string

	// Addr is where it listens.
	Addr() net.Addr

	// Serve takes what peers send until ctx ends. Then it reads no more, appends what it has read, closes its connections and
	// the socket that it was made with, and returns nil, all within a few seconds. Before that it returns only if it can listen
	// no longer: the service then ends.
	Serve(ctx context.Context) error
}

// receiveTarget is what a receiver is made with: its socket and where its events go.
type receiveTarget struct {
	config.Receiver

	listener net.Listener   // bound; of protocols over TCP and unix sockets
	packets  net.PacketConn // bound; of protocols over UDP
	tls      *tls.Config    // the service's, with its client authorities; nil where it has no certificate

	principal *tenant.Principal // who appends where a peer has no identity of its own
	s         *running
}

// name is for logs, and part of the principal's.
func (t *receiveTarget) name() string { return t.Protocol + " " + t.Address }

func (t *receiveTarget) names() (tenantName, logName string) {
	tenantName, logName, _ = strings.Cut(t.Log, "/")
	return tenantName, logName
}

// log is where events go. It is looked up for each append, because logs come and go while the service runs.
func (t *receiveTarget) log() (*tenant.Log, error) {
	tenantName, logName := t.names()
	owner, err := t.s.in.Tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return owner.Log(logName)
}

// bindReceivers opens the sockets of all receivers before anything is made, so that an address in use changes nothing.
func (s *running) bindReceivers(ctx context.Context) error {
	for _, r := range s.c.Listeners() {
		t := &receiveTarget{Receiver: r, s: s}
		tenantName, logName := t.names()
		t.principal = &tenant.Principal{ID: "listener:" + r.Protocol, Name: t.name(), Tenant: tenantName, Role: tenant.Writer, Logs: []string{logName}}
		var err error
		switch r.Protocol {
		case config.SyslogUDP:
			var lc net.ListenConfig
			if t.packets, err = lc.ListenPacket(ctx, "udp", r.Address); err != nil {
				err = fmt.Errorf("receiver %s: %w", t.name(), err)
			}
		case config.LinesUnix:
			t.listener, err = listenUnix(ctx, r.Address)
		default:
			t.listener, err = listen(ctx, r.Address, r.Protocol)
		}
		if err != nil {
			return err
		}
		s.targets = append(s.targets, t)
	}
	return nil
}

// makeReceivers gives each socket the receiver of its protocol.
func (s *running) makeReceivers() error {
	for _, t := range s.targets {
		if s.certs != nil {
			t.tls = s.certs.config()
			t.tls.NextProtos = nil
		}
		r, err := s.newReceiver(t)
		if err != nil {
			return fmt.Errorf("receiver %s: %w", t.name(), err)
		}
		if _, err := t.log(); err != nil {
			s.logger.Warn("a receiver has no log to append to; it waits until there is one, and so do its peers", "receiver", t.name(), "log", t.Log, "error", err)
		}
		s.receivers = append(s.receivers, r)
	}
	return nil
}

// newReceiver makes the receiver of the target's protocol.
func (s *running) newReceiver(t *receiveTarget) (receiver, error) {
	switch t.Protocol {
	case config.SyslogUDP, config.SyslogTCP, config.SyslogTLS:
		return newSyslog(t)
	case config.LinesTCP, config.LinesUnix:
		return newLines(t)
	case config.OTLPGRPC:
		return newOTLPReceiver(t, s.metrics.InFlight(s.api)), nil
	default:
		return nil, errors.New("this program was built without the protocol")
	}
}

// startReceivers begins to take events.
func (s *running) startReceivers() {
	ctx, cancel := context.WithCancel(context.Background())
	s.endReceivers = cancel
	for _, r := range s.receivers {
		s.receiving.Go(func() {
			if err := r.Serve(ctx); err != nil && ctx.Err() == nil {
				s.failed <- fmt.Errorf("receiver %s: %w", r.Name(), err)
			}
		})
		s.logger.Info("receiving", "receiver", r.Name(), "address", r.Addr().String())
	}
}

// stopReceivers ends them and waits until they have appended what they had read.
func (s *running) stopReceivers() []error {
	if s.endReceivers == nil {
		for _, t := range s.targets { // bound and never served
			t.close()
		}
		return nil
	}
	s.endReceivers()
	done := make(chan struct{})
	go func() { s.receiving.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(2 * s.c.ShutdownTime):
		return []error{errors.New("receivers did not end in time; what they had read and not acknowledged may be lost")}
	}
}

func (t *receiveTarget) close() {
	if t.listener != nil {
		_ = t.listener.Close()
	}
	if t.packets != nil {
		_ = t.packets.Close()
	}
}
