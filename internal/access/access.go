// Package access says who is asking: the principal behind a request's API token, its JWT of a known issuer, or its client
// certificate. It decides nothing else; package tenant's Principal.Allow does.
package access

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Config says whom an installation believes. The zero value knows API tokens only.
type Config struct {
	OIDC []Issuer

	// MTLS lets client certificates authenticate that the TLS listener has verified against its client authorities. A Bearer
	// token beside one wins.
	MTLS bool

	Client *http.Client     // asks the issuers; nil is one with short timeouts
	Logger *slog.Logger     // nil is silent
	Now    func() time.Time // nil is the clock
}

// Authenticator finds the principals of requests. Its methods may be called from any number of goroutines.
type Authenticator struct {
	in      *tenant.Installation
	mtls    bool
	logger  *slog.Logger
	now     func() time.Time
	started time.Time
	issuers map[string]*issuer
	once    onceTokens
	refused refusals

	sessions sessions
}

// maxBearer is the length in bytes of an Authorization header's credentials. JWTs of GitHub Actions have some 1,700.
const maxBearer = 16 << 10

// New checks the configuration. Issuers are asked when they are first needed: the service starts without them.
func New(_ context.Context, in *tenant.Installation, c Config) (*Authenticator, error) {
	a := &Authenticator{in: in, mtls: c.MTLS, logger: c.Logger, now: c.Now, issuers: map[string]*issuer{}}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.started = a.now()
	a.refused.a = a
	for _, i := range c.OIDC {
		iss, err := newIssuer(i, c.Client, a.now)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.URL, err)
		}
		if a.issuers[i.URL] != nil {
			return nil, fmt.Errorf("issuer %q: it is there twice", i.URL)
		}
		a.issuers[i.URL] = iss
	}
	return a, nil
}

// Close records the refusals that are not recorded yet. Call it before the installation's.
func (a *Authenticator) Close(ctx context.Context) error { return a.refused.flush(ctx) }

// Principal says who asks. An error that wraps tenant.ErrUnauthenticated means nobody who is known, and is recorded in the
// log of the log; an *IssuerError means that it could not be told now. Credentials are taken from the Authorization
// header, a session's cookie and TLS, in this order, never from the URL, which ends up in logs of others.
func (a *Authenticator) Principal(r *http.Request) (*tenant.Principal, error) {
	p, err := a.principal(r)
	if err != nil {
		a.refused.count(r, err)
		return nil, err
	}
	return p, nil
}

func (a *Authenticator) principal(r *http.Request) (*tenant.Principal, error) {
	token, err := bearer(r)
	switch {
	case err != nil:
		return nil, err
	case token != "":
		return a.byToken(r, token)
	}
	if p, err := a.bySession(r); p != nil || err != nil {
		return p, err
	}
	if a.mtls && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return a.byCertificate(r)
	}
	return nil, refuse("missing", "send a token as Authorization: Bearer …")
}

// byToken finds the principal of an API token or a JWT.
func (a *Authenticator) byToken(r *http.Request, token string) (*tenant.Principal, error) {
	if strings.Count(token, ".") == 2 {
		return a.byJWT(r, token)
	}
	return a.in.Authenticate(r.Context(), token)
}

func refuse(kind, format string, args ...any) error {
	return &tenant.AuthError{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

// bearer takes the token out of the one Authorization header; empty where there is none.
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", refuse("malformed", "there is more than one Authorization header")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", refuse("malformed", "the Authorization header is not of the scheme Bearer")
	}
	if token = strings.TrimLeft(token, " "); token == "" || len(token) > maxBearer || strings.ContainsAny(token, " \t,") {
		return "", refuse("malformed", "the Authorization header holds no token, or one of more than %d bytes", maxBearer)
	}
	return token, nil
}

// byCertificate finds the rule for the client's certificate, which TLS has verified.
func (a *Authenticator) byCertificate(r *http.Request) (*tenant.Principal, error) {
	cert := r.TLS.VerifiedChains[0][0]
	for t := range a.candidates(r) {
		if p := t.ByCertificate(cert); p != nil {
			return p, a.in.StillValid(p)
		}
	}
	return nil, refuse("unmapped", "no rule of a tenant is for this certificate")
}

// candidates are the tenants whose rules are asked, in this order: the one that the request is about, the installation's own,
// the others. A tenant's administrator can so map whom they want into their tenant, and nobody away from another's.
func (a *Authenticator) candidates(r *http.Request) iter.Seq[*tenant.Tenant] {
	return func(yield func(*tenant.Tenant) bool) {
		if t, err := a.in.Tenant(tenantOf(r)); err == nil && !yield(t) {
			return
		}
		if !yield(a.in.System()) {
			return
		}
		for _, t := range a.in.Tenants() {
			if !yield(t) {
				return
			}
		}
	}
}

// tenantOf is the tenant in the request's path; empty where none is.
func tenantOf(r *http.Request) string {
	if name := r.PathValue("tenant"); name != "" {
		return name
	}
	for _, prefix := range []string{"/api/v1/tenants/", "/tlog/"} {
		if rest, ok := strings.CutPrefix(r.URL.Path, prefix); ok {
			name, _, _ := strings.Cut(rest, "/")
			return name
		}
	}
	return ""
}

// source is where a request comes from, as far as refusals are counted: an IPv4 address, or the /64 of an IPv6 address, which
// is what one customer gets.
func source(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "unknown"
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return "unknown"
	}
	return prefix.String()
}

// kindOf is the kind of a refusal, the tenant and the principal that it is known to concern.
func kindOf(err error) (kind, owner, id string, ok bool) {
	e, ok := errors.AsType[*tenant.AuthError](err)
	if !ok {
		return "", "", "", false
	}
	return e.Kind, e.Tenant, e.ID, true
}
