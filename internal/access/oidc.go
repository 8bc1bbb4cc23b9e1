package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Issuer is one whose JWTs are taken.
type Issuer struct {
	URL      string // exactly the tokens' iss; https, or http on this host
	Audience string // must be among the tokens' aud. Make it this service's own: a token for somebody else is not for us

	// JWKSFile holds the issuer's public keys (RFC 7517), for hosts that cannot ask it. Empty asks: discovery, then jwks_uri.
	JWKSFile string

	// Algorithms that the issuer signs with. None means RS256, ES256 and EdDSA. There is no symmetric one.
	Algorithms []string
}

// Limits of what an issuer, who is on the network, can cost.
const (
	fetchTimeout   = 10 * time.Second
	fetchEvery     = 10 * time.Second // of one document: a forged token with a new key id makes us ask again
	retryEvery     = 2 * time.Second
	maxAsked       = 16
	maxDocument    = 1 << 20 // bytes of a discovery document or key set
	discoverEvery  = time.Hour
	maxSubject     = 512 // bytes of a sub; the standard allows 255
	maxOnce        = 100_000
	maxClaims      = 64              // that are handed on
	maxClaim       = 512             // bytes of one, and of its name
	maxFutureIssue = 5 * time.Minute // that an issuer's clock may be ahead
)

// asymmetric are the algorithms that an issuer can be configured with.
var asymmetric = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// IssuerError says that an issuer could not be asked for its keys: whether a token is good cannot be told now. 503.
type IssuerError struct {
	Issuer string
	Err    error
}

func (e *IssuerError) Error() string {
	return fmt.Sprintf("ask the issuer %s for its keys: %v; try again later", e.Issuer, e.Err)
}

func (e *IssuerError) Unwrap() error { return e.Err }

// issuer verifies the JWTs of one issuer.
type issuer struct {
	Issuer
	client *http.Client
	now    func() time.Time

	sem        chan struct{} // of 1: one discovers at a time; holds what follows
	verifier   *oidc.IDTokenVerifier
	discovered time.Time // when it was last tried
	err        error     // of that
}

func newIssuer(c Issuer, client *http.Client, now func() time.Time) (*issuer, error) {
	if err := checkURL(c.URL); err != nil {
		return nil, err
	}
	if c.Audience == "" {
		return nil, errors.New("it has no audience; set the one that its tokens for this service have")
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{oidc.RS256, oidc.ES256, oidc.EdDSA}
	}
	for _, alg := range c.Algorithms {
		if !slices.Contains(asymmetric, alg) {
			return nil, fmt.Errorf("algorithm %q: it is one of %s", alg, strings.Join(asymmetric, " "))
		}
	}
	i := &issuer{Issuer: c, client: limited(client, now), now: now, sem: make(chan struct{}, 1)}
	if c.JWKSFile != "" {
		keys, err := readKeys(c.JWKSFile)
		if err != nil {
			return nil, err
		}
		i.verifier = oidc.NewVerifier(c.URL, keys, i.config())
	}
	return i, nil
}

func (i *issuer) config() *oidc.Config {
	return &oidc.Config{ClientID: i.Audience, SupportedSigningAlgs: i.Algorithms, Now: i.now}
}

// checkURL wants TLS between the issuer and us, unless it is on this host.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawQuery != "" {
		return errors.New("it is no URL of an issuer: https://host/path")
	}
	if u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()) {
		return nil
	}
	return errors.New("its scheme must be https (http only on this host)")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// byJWT verifies the token and finds the rule for its claims.
func (a *Authenticator) byJWT(r *http.Request, token string) (*tenant.Principal, error) {
	name, err := unverifiedIssuer(token)
	if err != nil {
		return nil, err
	}
	iss := a.issuers[name]
	if iss == nil {
		return nil, refuse("issuer", "the token is of no issuer that is known here")
	}
	t, claims, err := iss.verify(r.Context(), token)
	if err != nil {
		return nil, err
	}
	if t.IssuedAt.After(a.now().Add(maxFutureIssue)) {
		return nil, refuse("malformed", "the token was issued in the future")
	}
	if len(t.Subject) == 0 || len(t.Subject) > maxSubject {
		return nil, refuse("malformed", "the token's sub has %d bytes; 1 to %d", len(t.Subject), maxSubject)
	}
	for owner := range a.candidates(r) {
		p, rule := owner.ByClaims(t.Issuer, claims)
		if p == nil {
			continue
		}
		p.ID, p.Expires = "oidc:"+t.Issuer+"#"+t.Subject, t.Expiry.UTC()
		p.Claims, p.Once = claimTexts(claims), rule.Once
		if err := a.in.StillValid(p); err != nil {
			return nil, err
		}
		if rule.Once {
			jti, _ := claims["jti"].(string)
			return p, a.takeOnce(p, jti, t)
		}
		return p, nil
	}
	return nil, refuse("unmapped", "no rule of a tenant is for this token's claims")
}

// claimTexts are the claims that are a string, a number or a truth, as text, as far as they are of usual size.
func claimTexts(claims map[string]any) map[string]string {
	out := make(map[string]string, min(len(claims), maxClaims))
	for name, value := range claims {
		var text string
		switch v := value.(type) {
		case string:
			text = v
		case json.Number:
			text = v.String()
		case bool:
			text = strconv.FormatBool(v)
		}
		if text != "" && len(name) <= maxClaim && len(text) <= maxClaim && len(out) < maxClaims {
			out[name] = text
		}
	}
	return out
}

// unverifiedIssuer reads iss from a token, to choose whose keys to verify it with.
func unverifiedIssuer(token string) (string, error) {
	jws, err := jose.ParseSignedCompact(token, algorithms())
	if err != nil {
		return "", refuse("malformed", "the token is no JWT with an asymmetric signature")
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &claims) != nil {
		return "", refuse("malformed", "the token's claims cannot be read")
	}
	return claims.Issuer, nil
}

func algorithms() []jose.SignatureAlgorithm {
	out := make([]jose.SignatureAlgorithm, len(asymmetric))
	for i, alg := range asymmetric {
		out[i] = jose.SignatureAlgorithm(alg)
	}
	return out
}

// verify checks signature, algorithm, issuer, audience and times.
func (i *issuer) verify(ctx context.Context, token string) (*oidc.IDToken, map[string]any, error) {
	v, err := i.ready(ctx)
	if err != nil {
		return nil, nil, &IssuerError{Issuer: i.URL, Err: err}
	}
	var failed fetchFailure
	t, err := v.Verify(context.WithValue(ctx, failureKey{}, &failed), token)
	if err != nil {
		if failed.err != nil {
			return nil, nil, &IssuerError{Issuer: i.URL, Err: failed.err}
		}
		if _, ok := errors.AsType[*oidc.TokenExpiredError](err); ok {
			return nil, nil, refuse("expired", "the token has expired")
		}
		return nil, nil, refuse("forged", "the token is not one of %s for the audience %q, in force now", i.URL, i.Audience)
	}
	var raw json.RawMessage
	if err := t.Claims(&raw); err != nil {
		return nil, nil, refuse("malformed", "the token's claims cannot be read")
	}
	var claims map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&claims); err != nil {
		return nil, nil, refuse("malformed", "the token's claims cannot be read")
	}
	return t, claims, nil
}

// ready returns the verifier, and discovers the issuer first where that was not done for a while. An issuer that was
// discovered once and is away now keeps its keys.
func (i *issuer) ready(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	if i.JWKSFile != "" {
		return i.verifier, nil
	}
	select {
	case i.sem <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-i.sem }()
	now := i.now()
	wait := discoverEvery
	if i.err != nil {
		wait = retryEvery
	}
	if i.discovered.IsZero() || now.Sub(i.discovered) >= wait {
		i.discovered = now
		i.err = i.discover(context.WithoutCancel(ctx)) // others wait for it too; the client has its timeout
	}
	if i.verifier == nil {
		return nil, i.err
	}
	return i.verifier, nil
}

func (i *issuer) discover(ctx context.Context) error {
	ctx = oidc.ClientContext(ctx, i.client)
	p, err := oidc.NewProvider(ctx, i.URL)
	if err != nil {
		return err
	}
	var doc struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := p.Claims(&doc); err != nil {
		return err
	}
	if err := checkURL(doc.JWKS); err != nil {
		return fmt.Errorf("jwks_uri: %w", err)
	}
	i.verifier = oidc.NewVerifier(i.URL, &remoteKeys{oidc.NewRemoteKeySet(ctx, doc.JWKS)}, i.config())
	return nil
}

// remoteKeys tells a key set that could not be fetched from a signature that is wrong: go-oidc's error has lost which it was.
type remoteKeys struct{ set *oidc.RemoteKeySet }

type failureKey struct{}

type fetchFailure struct{ err error }

// VerifySignature is oidc.KeySet's.
func (k *remoteKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.set.VerifySignature(ctx, jwt)
	if fetch, ok := errors.AsType[*url.Error](err); ok && !errors.Is(err, errTooSoon) {
		if failed, ok := ctx.Value(failureKey{}).(*fetchFailure); ok {
			failed.err = fetch
		}
	}
	return payload, err
}

// errTooSoon keeps forged tokens, each with a key id of its own, from making us ask the issuer each time: the keys that we
// have are seconds old, and the token's is not among them.
var errTooSoon = errors.New("asked a moment ago")

// limited wraps a client so that nothing an issuer answers is endless, slow, or asked for too often.
func limited(client *http.Client, now func() time.Time) *http.Client {
	c := http.Client{Timeout: fetchTimeout}
	if client != nil {
		c = *client
		if c.Timeout == 0 {
			c.Timeout = fetchTimeout
		}
	}
	next := c.Transport
	if next == nil {
		next = http.DefaultTransport
	}
	c.Transport = &fetcher{next: next, now: now, asked: map[string]fetched{}}
	c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) >= 3 {
			return errors.New("it redirects more than three times")
		}
		return checkURL(r.URL.Scheme + "://" + r.URL.Host)
	}
	return &c
}

// fetcher asks for each document at most every fetchEvery, and after a failure every retryEvery.
type fetcher struct {
	next http.RoundTripper
	now  func() time.Time

	mu    sync.Mutex
	asked map[string]fetched // a handful: the URLs that one issuer has
}

type fetched struct {
	at  time.Time
	err error
}

// RoundTrip is http.RoundTripper's.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	key, now := r.URL.String(), f.now()
	f.mu.Lock()
	last, known := f.asked[key]
	f.mu.Unlock()
	if age := now.Sub(last.at); known && age >= 0 {
		switch {
		case last.err != nil && age < retryEvery:
			return nil, last.err
		case last.err == nil && age < fetchEvery:
			return nil, errTooSoon
		}
	}
	resp, err := f.fetch(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) >= maxAsked {
		clear(f.asked)
	}
	f.asked[key] = fetched{now, err}
	return resp, err
}

// fetch asks, and reads the whole answer.
func (f *fetcher) fetch(r *http.Request) (*http.Response, error) {
	resp, err := f.next.RoundTrip(r)
	if err != nil || resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return resp, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxDocument {
		return nil, fmt.Errorf("its answer has more than %d bytes", maxDocument)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// readKeys reads public keys from a file.
func readKeys(name string) (*oidc.StaticKeySet, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	if len(data) > maxDocument {
		return nil, fmt.Errorf("%s: more than %d bytes", name, maxDocument)
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	keys := &oidc.StaticKeySet{}
	for n, k := range set.Keys {
		if !k.Valid() || !k.IsPublic() {
			return nil, fmt.Errorf("%s: key %d is not a public key", name, n)
		}
		keys.PublicKeys = append(keys.PublicKeys, k.Key)
	}
	if len(keys.PublicKeys) == 0 {
		return nil, fmt.Errorf("%s: it holds no keys", name)
	}
	return keys, nil
}

// onceTokens are the tokens that were taken under a rule that takes each once, until they expire.
type onceTokens struct {
	mu    sync.Mutex
	taken map[[sha256.Size]byte]time.Time
	sweep time.Time // when the expired were last let go
}

// takeOnce refuses a token that was taken before. Those of before this process are refused too, since it cannot know.
func (a *Authenticator) takeOnce(p *tenant.Principal, jti string, t *oidc.IDToken) error {
	refused := func(kind, msg string) error {
		return &tenant.AuthError{Kind: kind, Tenant: p.Tenant, ID: p.ID, Msg: msg}
	}
	if jti == "" {
		return refused("malformed", "the token has no jti, and each is taken once here")
	}
	if t.IssuedAt.Unix() < a.started.Unix() {
		return refused("replayed", "the token was issued before the service was started; ask for a new one")
	}
	now, o := a.now(), &a.once
	key := sha256.Sum256([]byte(p.Tenant + "\x00" + t.Issuer + "\x00" + jti))
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, there := o.taken[key]; there {
		return refused("replayed", "the token was used before, and each is taken once here; ask for a new one")
	}
	if len(o.taken) >= maxOnce && now.Sub(o.sweep) >= time.Second {
		o.sweep = now
		for k, expires := range o.taken {
			if now.After(expires) {
				delete(o.taken, k)
			}
		}
	}
	if len(o.taken) >= maxOnce {
		return refused("busy", "too many tokens that are taken once are in force; try again when some have expired")
	}
	if o.taken == nil {
		o.taken = map[[sha256.Size]byte]time.Time{}
	}
	o.taken[key] = t.Expiry
	return nil
}
