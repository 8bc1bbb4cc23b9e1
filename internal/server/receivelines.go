package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/tree-of-life-system/immutable"
	shape "github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/intake"
	"github.com/tree-of-life-system/immutable/internal/receive"
	"github.com/tree-of-life-system/immutable/internal/syslog"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// The kinds under which observers hear of receivers.
const (
	kindSyslog = "syslog"
	kindLines  = "jsonl"
)

// newSyslog makes the receiver of a syslog socket.
func newSyslog(t *receiveTarget) (receiver, error) {
	o := t.options(kindSyslog)
	decode := func(raw []byte, err error, from netip.AddrPort) (immutable.Event, error) {
		if err != nil {
			return syslog.Malformed(raw, err, from), err
		}
		m := syslog.Parse(raw, time.Now())
		return m.Event(raw, from), m.Err
	}
	if t.packets != nil {
		c, ok := t.packets.(*net.UDPConn)
		if !ok {
			return nil, errors.New("the socket is not of UDP")
		}
		return receive.NewPackets(c, decode, o), nil
	}
	var conf *tls.Config
	if t.Protocol == config.SyslogTLS {
		if t.tls == nil {
			return nil, errors.New("it needs tls.cert and tls.key")
		}
		conf = t.tls
		certs := t.s.certs
		// A client certificate is the only credential that syslog has: where authorities are configured, one is demanded.
		conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := certs.current.Load().Clone()
			c.NextProtos = nil
			if c.ClientCAs != nil {
				c.ClientAuth = tls.RequireAndVerifyClientCert
			}
			return c, nil
		}
		o.Identify = t.identify
	}
	return receive.NewStream(t.listener, conf, func() receive.Splitter { return &syslogFrames{} }, decode, o), nil
}

// syslogFrames cuts frames of RFC 6587.
type syslogFrames struct{ s syslog.Splitter }

func (f *syslogFrames) Split(b []byte, last bool, emit func([]byte, error)) (used int) {
	for {
		frame, n := f.s.Next(b[used:])
		if n == 0 && last {
			frame, last = f.s.Last(b[used:])
			n = len(b) - used
		}
		if n == 0 {
			return used
		}
		used += n
		if len(frame.Raw) > 0 || frame.Err != nil { // an empty line between frames says nothing
			emit(frame.Raw, frame.Err)
		}
	}
}

// newLines makes the receiver of JSON Lines.
func newLines(t *receiveTarget) (receiver, error) {
	o := t.options(kindLines)
	in := &intake.Options{Format: intake.Lines, NamedLevel: true}
	decode := func(raw []byte, err error, from netip.AddrPort) (immutable.Event, error) {
		if err == nil {
			r := intake.ParseLine(bytes.Clone(raw), in)
			if r.Err == nil {
				return r.Event, nil
			}
			err = r.Err
		}
		return malformedLine(raw, err, from), err
	}
	return receive.NewStream(t.listener, nil, func() receive.Splitter { return &jsonLines{} }, decode, o), nil
}

// malformedLine keeps a line that is no event as it came.
func malformedLine(raw []byte, why error, from netip.AddrPort) immutable.Event {
	s := shape.Shape{Kind: shape.KindSystem, Source: &shape.Source{Provider: kindLines}, Extra: immutable.Fields{"parseError": why.Error()}}
	if from.IsValid() {
		s.Source.IP, s.Source.Port = from.Addr().Unmap().String(), int(from.Port())
	}
	e := immutable.Event{Level: immutable.Warn, Message: "a line that is no event", Metadata: s.Fields()}
	_, _ = shape.Keep(&e, raw) // what little stands beside them always fits
	return e
}

// jsonLines cuts lines. Longer ones than a message may be come in pieces, as with syslog, and are no events.
type jsonLines struct {
	s syslog.LineSplitter
}

func (l *jsonLines) Split(b []byte, last bool, emit func([]byte, error)) (used int) {
	for {
		f, n := l.s.Next(b[used:], last)
		if n == 0 {
			return used
		}
		used += n
		if raw := bytes.Trim(f.Raw, " \t\r"); len(raw) > 0 {
			emit(raw, f.Err)
		}
	}
}

// options are what all protocols of receivers share.
func (t *receiveTarget) options(kind string) receive.Options {
	return receive.Options{
		Name: t.name(), Append: t.appendFor, Principal: t.principal, Logger: t.s.logger,
		Observer: &receiveObserver{t: t, kind: kind}, IdleTime: max(t.s.c.IdleTimeout, time.Minute),
	}
}

// appendFor appends for a peer's principal, as long as it would still be let in.
func (t *receiveTarget) appendFor(ctx context.Context, p *tenant.Principal, events ...immutable.Event) ([]immutable.Receipt, error) {
	if p != t.principal {
		if err := t.s.in.StillValid(p); err != nil {
			return nil, err
		}
	}
	l, err := t.log()
	if err != nil {
		return nil, err
	}
	return l.AppendAs(ctx, p, events...)
}

// identify maps a client certificate through the tenant's rules. Without rules every certificate of a configured authority may send.
func (t *receiveTarget) identify(cert *x509.Certificate) (*tenant.Principal, error) {
	l, err := t.log()
	if err != nil {
		return nil, err
	}
	if len(l.Tenant().Settings().Certificates) == 0 {
		return nil, nil
	}
	p := l.Tenant().ByCertificate(cert)
	if p == nil {
		return nil, errors.New("no rule of the tenant is for this certificate")
	}
	if err := t.s.in.StillValid(p); err != nil {
		return nil, err
	}
	return p, p.Allow(tenant.PermAppend, l.Tenant().Name(), l.Name())
}

// receiveObserver tells the service's observer which log it is about.
type receiveObserver struct {
	t    *receiveTarget
	kind string
}

func (o *receiveObserver) Seen(peer string, n int) {
	tenantName, logName := o.t.names()
	o.t.s.api.o.Sources.Seen(tenantName, logName, o.kind, peer, n)
}

func (o *receiveObserver) Rejected(ctx context.Context, peer, reason string, sample []byte) {
	tenantName, logName := o.t.names()
	o.t.s.api.o.Sources.Rejected(ctx, tenantName, logName, o.kind, peer, reason, sample)
}
