// Package outbound is how the service speaks to addresses that tenants have named: connections that lead to the open internet
// only, requests that follow no redirects, answers that say whether trying again is of use, and webhooks that are signed.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Limits of an exchange.
const (
	DialTimeout = 10 * time.Second
	Timeout     = 20 * time.Second // of a whole exchange
	MaxAnswer   = 64 << 10         // bytes of an answer that are read
)

// ErrAddress is wrapped where a name leads to an address that it must not have. Trying again changes nothing.
var ErrAddress = errors.New("refused address")

// ErrRedirect ends a request that was answered with a redirect: it would be a way around the address that was configured.
var ErrRedirect = errors.New("it redirects; redirects are not followed")

// TLS is how servers are verified: roots may be nil, the host's.
func TLS(roots *x509.CertPool, name string) *tls.Config {
	return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}
}

// Client sends requests by these rules.
func Client(allowPrivate bool, roots *x509.CertPool) *http.Client {
	t := &http.Transport{
		Proxy:       nil, // a proxy would dial in our place, and see nothing of the rules
		DialContext: Dial(allowPrivate), TLSHandshakeTimeout: DialTimeout, ResponseHeaderTimeout: Timeout,
		MaxResponseHeaderBytes: MaxAnswer, MaxIdleConns: 32, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		TLSClientConfig: TLS(roots, ""),
	}
	return &http.Client{Transport: t, Timeout: Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return ErrRedirect }}
}

// Dial connects to what tenants have named, so that each could be a machine behind this one's back: the address that is
// really dialled is looked at, after the name was resolved and for every address that is tried, whatever the name said before.
func Dial(allowPrivate bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: DialTimeout, KeepAlive: -1}
	if !allowPrivate {
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w %s: %w", ErrAddress, address, err)
			}
			if !public(a.Addr()) {
				return fmt.Errorf("%w %s: it is not a public one (the installation may allow it: alerts.allow_private)", ErrAddress, a.Addr())
			}
			return nil
		}
	}
	return d.DialContext
}

// outsideError is why a sink could not be reached, without addresses, names and URLs.
type outsideError struct {
	text string
	err  error
}

func (e *outsideError) Error() string { return e.text }
func (e *outsideError) Unwrap() error { return e.err }

// Explain is what may be told of an error of the network. Whoever names sinks must not learn from it what this host's resolver
// knows and its network has, and whoever reads logs must not learn a sink's URL, which with some services is a password.
func Explain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, ErrAddress), isDNS && dns.IsNotFound:
		return &outsideError{"its name leads to no public address (the installation may allow private ones: alerts.allow_private)", err}
	case isDNS:
		return &outsideError{"its name cannot be resolved now", err}
	case isOp && op.Err != nil:
		return &outsideError{op.Op + ": " + op.Err.Error(), err}
	}
	return err
}

// notPublic are ranges that netip's own predicates do not name: of IANA's special-purpose registries, and the addresses at
// which clouds give their machines secrets where these look public.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network
	netip.MustParsePrefix("100.64.0.0/10"),    // carriers' NAT; Alibaba's metadata
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's host
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments; Oracle's metadata
	netip.MustParsePrefix("192.0.2.0/24"),     // documentation
	netip.MustParsePrefix("192.88.99.0/24"),   // 6to4 relays
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),  // documentation
	netip.MustParsePrefix("203.0.113.0/24"),   // documentation
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved, broadcast
	netip.MustParsePrefix("2001::/23"),        // protocol assignments, Teredo
	netip.MustParsePrefix("2001:db8::/32"),    // documentation
	netip.MustParsePrefix("2002::/16"),        // 6to4: carries any IPv4 address
	netip.MustParsePrefix("3fff::/20"),        // documentation
}

var global6 = netip.MustParsePrefix("2000::/3") // all of IPv6 that is routed; NAT64's and mapped addresses are outside

// public says whether an address is one of the open internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" || !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !global6.Contains(a) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
