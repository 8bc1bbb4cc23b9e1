package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const audience = "https://immutable.example"

// clock is a time that tests move.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time      { return time.Unix(0, c.nanos.Load()).UTC() }
func (c *clock) add(d time.Duration) { c.nanos.Add(int64(d)) }

// rsaKey is made once: it takes a while.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// authority is a real issuer on loopback: a discovery document, a key set, and tokens.
type authority struct {
	*httptest.Server
	clock *clock

	mu        sync.Mutex
	keys      map[string]crypto.Signer // by kid
	discovery func(w http.ResponseWriter) bool
	jwks      func(w http.ResponseWriter) bool
	asked     map[string]int // requests by path
}

func newAuthority(t testing.TB, c *clock) *authority {
	t.Helper()
	a := &authority{clock: c, keys: map[string]crypto.Signer{"k1": rsaKey()}, asked: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		if a.special(r, a.discovery, w) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"id_token_signing_alg_values_supported":["none","HS256","RS256"]}`, a.URL, a.URL+"/keys")
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		if a.special(r, a.jwks, w) {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(a.keySet())
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *authority) special(r *http.Request, f func(http.ResponseWriter) bool, w http.ResponseWriter) bool {
	a.mu.Lock()
	a.asked[r.URL.Path]++
	a.mu.Unlock()
	return f != nil && f(w)
}

func (a *authority) requests(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[path]
}

// keySet is the key set's JSON. a.mu is held.
func (a *authority) keySet() []byte {
	var set jose.JSONWebKeySet
	for kid, k := range a.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: kid, Use: "sig"})
	}
	data, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return data
}

// claims are a token's, good for five minutes, with changes; a nil value takes a claim away.
func (a *authority) claims(change map[string]any) map[string]any {
	now := a.clock.now().Unix()
	c := map[string]any{
		"iss": a.URL, "aud": audience, "sub": "repo:org/repo:ref:refs/heads/main", "jti": rand.Text(),
		"iat": now, "nbf": now, "exp": now + 300,
		"repository": "org/repo", "repository_id": "123456", "repository_owner_id": "99", "ref": "refs/heads/main",
		"job_workflow_ref": "org/repo/.github/workflows/release.yml@refs/heads/main", "run_id": "7", "run_attempt": "1",
	}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func (a *authority) token(t testing.TB, change map[string]any) string {
	t.Helper()
	return sign(t, jose.RS256, rsaKey(), "k1", a.claims(change))
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	must(t, err)
	payload, err := json.Marshal(claims)
	must(t, err)
	jws, err := s.Sign(payload)
	must(t, err)
	out, err := jws.CompactSerialize()
	must(t, err)
	return out
}

// raw makes a token by hand, as an attacker does.
func raw(header, payload any, signature func(signed []byte) []byte) string {
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	signed := part(header) + "." + part(payload)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature([]byte(signed)))
}

// setup is an installation whose default tenant lets one repository's jobs write, behind an authenticator.
type setup struct {
	clock *clock
	in    *tenant.Installation
	a     *Authenticator
	iss   *authority
}

func newSetup(t testing.TB, change ...func(*Config)) *setup {
	t.Helper()
	s := &setup{clock: newClock()}
	s.iss = newAuthority(t, s.clock)
	in, err := tenant.Open(context.Background(), tenant.Options{Dir: t.TempDir(), OriginPrefix: "example.com/test", Log: immutable.Config{NoSignatures: true}, Now: s.clock.now})
	must(t, err)
	s.in = in
	t.Cleanup(func() { must(t, in.Close(context.Background())) })
	s.rules(t, tenant.DefaultName, tenant.ClaimRule{
		Issuer: s.iss.URL, Match: map[string]string{"repository_id": "123456", "job_workflow_ref": "org/repo/*@refs/heads/main"}, Role: tenant.Writer, Logs: []string{"main"},
	})
	c := Config{OIDC: []Issuer{{URL: s.iss.URL, Audience: audience}}, Now: s.clock.now}
	for _, f := range change {
		f(&c)
	}
	s.a, err = New(t.Context(), in, c)
	must(t, err)
	return s
}

func (s *setup) tenant(t testing.TB, name string) *tenant.Tenant {
	t.Helper()
	x, err := s.in.Tenant(name)
	if errors.Is(err, tenant.ErrNotFound) {
		x, err = s.in.CreateTenant(t.Context(), tenant.Local("test"), tenant.TenantSettings{Name: name})
	}
	must(t, err)
	return x
}

// rules replaces the tenant's claim rules.
func (s *setup) rules(t testing.TB, name string, rules ...tenant.ClaimRule) {
	t.Helper()
	x := s.tenant(t, name)
	settings := x.Settings()
	settings.Claims = rules
	must(t, x.Update(t.Context(), tenant.Local("test"), settings))
}

func request(path, token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = "192.0.2.1:1234"
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

const mainEntries = "/api/v1/tenants/default/logs/main/entries"

func kindOfError(err error) string {
	if e, ok := errors.AsType[*tenant.AuthError](err); ok && errors.Is(err, tenant.ErrUnauthenticated) {
		return e.Kind
	}
	return fmt.Sprint(err)
}

func TestJobOfTheRepositoryIsAWriter(t *testing.T) {
	s := newSetup(t)
	p, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
	if p.ID != "oidc:"+s.iss.URL+"#repo:org/repo:ref:refs/heads/main" || p.Role != tenant.Writer || p.Tenant != "default" || len(p.Logs) != 1 ||
		!p.Expires.Equal(s.clock.now().Add(5*time.Minute)) {
		t.Errorf("got %+v", p)
	}
	must(t, p.Allow(tenant.PermAppend, "default", "main"))
	if err := p.Allow(tenant.PermRead, "default", "main"); !errors.Is(err, tenant.ErrForbidden) {
		t.Errorf("a job reads: got %v", err)
	}
	must(t, s.in.StillValid(p))
	s.clock.add(5 * time.Minute)
	if err := s.in.StillValid(p); kindOfError(err) != "expired" {
		t.Errorf("after its expiry: got %v", err)
	}
	if n := s.iss.requests("/keys"); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
}

// TestForgedJWTsAreNobodys has the ways in which JWT libraries have been fooled, and the plain ones.
func TestForgedJWTsAreNobodys(t *testing.T) {
	s := newSetup(t)
	now := s.clock.now().Unix()
	public, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	must(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	hs := func(secret []byte) func([]byte) []byte {
		return func(signed []byte) []byte {
			m := hmac.New(sha256.New, secret)
			m.Write(signed)
			return m.Sum(nil)
		}
	}
	none := func([]byte) []byte { return nil }
	garbage := func([]byte) []byte { return bytes.Repeat([]byte{7}, 256) }
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	good := s.iss.token(t, nil)
	parts := strings.Split(good, ".")
	other, err := json.Marshal(s.iss.claims(map[string]any{"repository_id": "666"}))
	must(t, err)
	header := func(alg string) map[string]any { return map[string]any{"alg": alg, "kid": "k1", "typ": "JWT"} }
	strangersJWK := jose.JSONWebKey{Key: stranger.Public(), KeyID: "k1"}

	for what, c := range map[string]struct{ token, want string }{
		"alg none":                 {raw(header("none"), s.iss.claims(nil), none), "malformed"},
		"alg None":                 {raw(header("None"), s.iss.claims(nil), none), "malformed"},
		"alg none with signature":  {raw(header("none"), s.iss.claims(nil), garbage), "malformed"},
		"no alg":                   {raw(map[string]any{"kid": "k1"}, s.iss.claims(nil), none), "malformed"},
		"RS256 without signature":  {raw(header("RS256"), s.iss.claims(nil), none), "forged"},
		"RS256 garbage":            {raw(header("RS256"), s.iss.claims(nil), garbage), "forged"},
		"HS256 with public DER":    {raw(header("HS256"), s.iss.claims(nil), hs(public)), "malformed"},
		"HS256 with public PEM":    {raw(header("HS256"), s.iss.claims(nil), hs(publicPEM)), "malformed"},
		"HS256 with modulus":       {raw(header("HS256"), s.iss.claims(nil), hs(rsaKey().N.Bytes())), "malformed"},
		"PS256, not configured":    {sign(t, jose.PS256, rsaKey(), "k1", s.iss.claims(nil)), "forged"},
		"another's key":            {sign(t, jose.RS256, stranger, "k1", s.iss.claims(nil)), "forged"},
		"another's key in header":  {rawWithJWK(t, stranger, &strangersJWK, s.iss.claims(nil)), "forged"},
		"unknown key id":           {sign(t, jose.RS256, stranger, "k2", s.iss.claims(nil)), "forged"},
		"other claims":             {parts[0] + "." + base64.RawURLEncoding.EncodeToString(other) + "." + parts[2], "forged"},
		"other header":             {raw(header("ES256"), s.iss.claims(nil), garbage), "forged"},
		"cut signature":            {good[:len(good)-4], "forged"},
		"unknown critical header":  {raw(map[string]any{"alg": "RS256", "kid": "k1", "crit": []string{"x"}, "x": 1}, s.iss.claims(nil), garbage), "forged"},
		"expired":                  {s.iss.token(t, map[string]any{"exp": now - 1}), "expired"},
		"no expiry":                {s.iss.token(t, map[string]any{"exp": nil}), "expired"},
		"not yet":                  {s.iss.token(t, map[string]any{"nbf": now + 3600}), "forged"},
		"issued in the future":     {s.iss.token(t, map[string]any{"iat": now + 3600}), "malformed"},
		"wrong audience":           {s.iss.token(t, map[string]any{"aud": "https://elsewhere.example"}), "forged"},
		"no audience":              {s.iss.token(t, map[string]any{"aud": nil}), "forged"},
		"audience as part":         {s.iss.token(t, map[string]any{"aud": audience + ".evil.example"}), "forged"},
		"wrong issuer":             {s.iss.token(t, map[string]any{"iss": "https://evil.example"}), "issuer"},
		"issuer with slash":        {s.iss.token(t, map[string]any{"iss": s.iss.URL + "/"}), "issuer"},
		"no issuer":                {s.iss.token(t, map[string]any{"iss": nil}), "issuer"},
		"issuer is an array":       {s.iss.token(t, map[string]any{"iss": []string{s.iss.URL}}), "malformed"},
		"no subject":               {s.iss.token(t, map[string]any{"sub": nil}), "malformed"},
		"long subject":             {s.iss.token(t, map[string]any{"sub": strings.Repeat("x", maxSubject+1)}), "malformed"},
		"another repository":       {s.iss.token(t, map[string]any{"repository_id": "666"}), "unmapped"},
		"repository as a number":   {s.iss.token(t, map[string]any{"repository_id": 1234567}), "unmapped"},
		"a fork's workflow":        {s.iss.token(t, map[string]any{"job_workflow_ref": "evil/repo/.github/workflows/x.yml@refs/heads/main"}), "unmapped"},
		"another branch":           {s.iss.token(t, map[string]any{"job_workflow_ref": "org/repo/.github/workflows/x.yml@refs/heads/main2"}), "unmapped"},
		"the claim missing":        {s.iss.token(t, map[string]any{"job_workflow_ref": nil}), "unmapped"},
		"three parts of nothing":   {"..", "malformed"},
		"not base64":               {"a.b!.c", "malformed"},
		"a JSON serialization":     {`{"payload":"","signatures":[]}..`, "malformed"},
		"longer than any token":    {parts[0] + "." + strings.Repeat("a", maxBearer) + "." + parts[2], "malformed"},
		"good, but too long":       {s.iss.token(t, map[string]any{"padding": strings.Repeat("x", maxBearer)}), "malformed"},
		"claims are not an object": {sign(t, jose.RS256, rsaKey(), "k1", []int{1}), "malformed"},
	} {
		p, err := s.a.Principal(request(mainEntries, c.token))
		if p != nil || kindOfError(err) != c.want {
			t.Errorf("%s: got %v, %v; want %s", what, p, err, c.want)
		}
	}
	if n := s.iss.requests("/keys"); n != 1 {
		t.Errorf("forged tokens made us ask the issuer %d times", n)
	}
	for what, change := range map[string]map[string]any{
		"audience among several":          {"aud": []string{"https://elsewhere.example", audience}},
		"a number for a number":           {"repository_id": 123456},
		"one of an array":                 {"repository_id": []string{"1", "123456"}},
		"subject of the greatest length":  {"sub": strings.Repeat("x", maxSubject)},
		"expires in a second":             {"exp": now + 1},
		"issuer's clock ahead of our own": {"iat": now + 60, "nbf": now + 60},
	} {
		if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, change))); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// rawWithJWK signs with a key that the token itself brings along.
func rawWithJWK(t *testing.T, key *rsa.PrivateKey, jwk *jose.JSONWebKey, claims any) string {
	t.Helper()
	return raw(map[string]any{"alg": "RS256", "kid": "k1", "jwk": jwk}, claims, func(signed []byte) []byte {
		sum := sha256.Sum256(signed)
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		must(t, err)
		return sig
	})
}

func TestOtherAsymmetricAlgorithmsWork(t *testing.T) {
	s := newSetup(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	s.iss.keys["ec"], s.iss.keys["ed"] = ec, ed
	for alg, k := range map[jose.SignatureAlgorithm]struct {
		kid string
		key any
	}{jose.ES256: {"ec", ec}, jose.EdDSA: {"ed", ed}} {
		if _, err := s.a.Principal(request(mainEntries, sign(t, alg, k.key, k.kid, s.iss.claims(nil)))); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestReplayedTokenIsTakenOnce(t *testing.T) {
	s := newSetup(t)
	rule := tenant.ClaimRule{Issuer: s.iss.URL, Match: map[string]string{"repository_id": "123456"}, Role: tenant.Writer}
	rule.Once = true
	s.rules(t, tenant.DefaultName, rule)
	s.clock.add(time.Second)
	tok := s.iss.token(t, map[string]any{"jti": "one"})
	_, err := s.a.Principal(request(mainEntries, tok))
	must(t, err)
	for _, again := range []string{tok, s.iss.token(t, map[string]any{"jti": "one", "run_id": "8"})} {
		if p, err := s.a.Principal(request(mainEntries, again)); p != nil || kindOfError(err) != "replayed" {
			t.Errorf("again: got %v, %v", p, err)
		}
	}
	_, err = s.a.Principal(request(mainEntries, s.iss.token(t, map[string]any{"jti": "two"})))
	must(t, err)
	if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, map[string]any{"jti": nil}))); kindOfError(err) != "malformed" {
		t.Errorf("no jti: got %v", err)
	}
	// A second process does not know what the first one took: it takes nothing from before its start.
	second, err := New(t.Context(), s.in, Config{OIDC: []Issuer{{URL: s.iss.URL, Audience: audience}}, Now: func() time.Time { return s.clock.now().Add(time.Second) }})
	must(t, err)
	if _, err := second.Principal(request(mainEntries, tok)); kindOfError(err) != "replayed" {
		t.Errorf("after a restart: got %v", err)
	}
	// Two requests at the same moment: one of them.
	both := s.iss.token(t, map[string]any{"jti": "three"})
	var wg sync.WaitGroup
	var taken atomic.Int32
	for range 8 {
		wg.Go(func() {
			if _, err := s.a.Principal(request(mainEntries, both)); err == nil {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	if n := taken.Load(); n != 1 {
		t.Errorf("taken %d times at the same moment", n)
	}
}

// TestTokensTakenOnceAreBounded fills the memory of them: at the limit nothing more is taken, until some have expired.
func TestTokensTakenOnceAreBounded(t *testing.T) {
	s := newSetup(t)
	s.rules(t, tenant.DefaultName, tenant.ClaimRule{Issuer: s.iss.URL, Match: map[string]string{"repository_id": "123456"}, Role: tenant.Writer, Once: true})
	s.a.once.taken = map[[sha256.Size]byte]time.Time{}
	for i := range maxOnce - 1 {
		s.a.once.taken[sha256.Sum256(fmt.Append(nil, i))] = s.clock.now().Add(time.Minute)
	}
	_, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
	if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); kindOfError(err) != "busy" {
		t.Errorf("past the limit: got %v", err)
	}
	s.clock.add(time.Minute + time.Second)
	_, err = s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
	if n := len(s.a.once.taken); n != 2 {
		t.Errorf("got %d remembered, want 2", n)
	}
}

// TestTenantsRulesTakeNobodyAway maps one token in two tenants.
func TestTenantsRulesTakeNobodyAway(t *testing.T) {
	s := newSetup(t)
	s.rules(t, "greedy", tenant.ClaimRule{Issuer: s.iss.URL, Match: map[string]string{"repository_id": "1*"}, Role: tenant.Admin})
	tok := s.iss.token(t, nil)
	for path, want := range map[string]string{
		mainEntries:                           "default",
		"/tlog/default/main/checkpoint":       "default",
		"/api/v1/tenants/greedy/logs/x/stats": "greedy",
		"/tlog/greedy/x/checkpoint":           "greedy",
	} {
		p, err := s.a.Principal(request(path, tok))
		must(t, err)
		if p.Tenant != want {
			t.Errorf("%s: got a principal of %s, want %s", path, p.Tenant, want)
		}
	}
	// Where there is no rule, a tenant and none at all look alike.
	s.tenant(t, "silent")
	for _, path := range []string{"/api/v1/tenants/silent/logs/main/entries", "/api/v1/tenants/nobody/logs/main/entries"} {
		p, err := s.a.Principal(request(path, tok))
		must(t, err)
		name := strings.Split(path, "/")[4]
		if err := p.Allow(tenant.PermRead, name, "main"); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	// Rules of the installation come before those of other tenants.
	s.rules(t, tenant.SystemName, tenant.ClaimRule{Issuer: s.iss.URL, Match: map[string]string{"repository_id": "123456"}, Role: tenant.Auditor})
	p, err := s.a.Principal(request("/api/v1/tenants/silent/logs/main/entries", tok))
	must(t, err)
	if p.Tenant != "" || p.Role != tenant.Auditor {
		t.Errorf("got %+v, want an auditor of the installation", p)
	}
}

func TestChangedRulesEndWhatTheyLetIn(t *testing.T) {
	s := newSetup(t)
	p, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
	must(t, s.in.StillValid(p))
	s.rules(t, tenant.DefaultName)
	if err := s.in.StillValid(p); kindOfError(err) != "changed" {
		t.Errorf("got %v", err)
	}
	if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); kindOfError(err) != "unmapped" {
		t.Errorf("got %v", err)
	}
}

// TestRulesAreForTheirIssuer has a second issuer that says the same of its own jobs.
func TestRulesAreForTheirIssuer(t *testing.T) {
	second := newAuthority(t, newClock())
	s := newSetup(t, func(c *Config) { c.OIDC = append(c.OIDC, Issuer{URL: second.URL, Audience: audience}) })
	if _, err := s.a.Principal(request(mainEntries, second.token(t, nil))); kindOfError(err) != "unmapped" {
		t.Errorf("got %v", err)
	}
}

func TestServiceStartsWithoutItsIssuer(t *testing.T) {
	s := newSetup(t)
	var down atomic.Bool
	down.Store(true)
	s.iss.discovery = func(w http.ResponseWriter) bool {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
		return down.Load()
	}
	for range 5 {
		if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); !isIssuerError(err) {
			t.Errorf("got %v, want an IssuerError", err)
		}
	}
	if n := s.iss.requests("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("asked %d times within a moment", n)
	}
	down.Store(false)
	s.clock.add(retryEvery)
	_, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
	// Away again, it is remembered.
	down.Store(true)
	s.clock.add(2 * discoverEvery)
	_, err = s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
}

func isIssuerError(err error) bool {
	_, ok := errors.AsType[*IssuerError](err)
	return ok && !errors.Is(err, tenant.ErrUnauthenticated)
}

func TestHostileIssuersAreBounded(t *testing.T) {
	why := map[string]string{
		"endless document": "more than", "key set elsewhere without TLS": "must be https", "another issuer": "evil.example",
		"redirect off the host without TLS": "must be https", "nonsense": "decode",
	}
	for what, f := range map[string]func(*authority) func(http.ResponseWriter) bool{
		"endless document": func(*authority) func(http.ResponseWriter) bool {
			return func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/json")
				for range 3 * maxDocument / 1024 {
					if _, err := w.Write(bytes.Repeat([]byte(" "), 1024)); err != nil {
						break
					}
				}
				return true
			}
		},
		"key set elsewhere without TLS": func(a *authority) func(http.ResponseWriter) bool {
			return func(w http.ResponseWriter) bool {
				_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://keys.example/x"}`, a.URL)
				return true
			}
		},
		"another issuer": func(*authority) func(http.ResponseWriter) bool {
			return func(w http.ResponseWriter) bool {
				_, _ = fmt.Fprint(w, `{"issuer":"https://evil.example","jwks_uri":"https://evil.example/keys"}`)
				return true
			}
		},
		"redirect off the host without TLS": func(*authority) func(http.ResponseWriter) bool {
			return func(w http.ResponseWriter) bool {
				w.Header().Set("Location", "http://evil.example/")
				w.WriteHeader(http.StatusFound)
				return true
			}
		},
		"nonsense": func(*authority) func(http.ResponseWriter) bool {
			return func(w http.ResponseWriter) bool { _, _ = fmt.Fprint(w, "<html>"); return true }
		},
	} {
		s := newSetup(t)
		s.iss.discovery = f(s.iss)
		if p, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); p != nil || !isIssuerError(err) || !strings.Contains(err.Error(), why[what]) {
			t.Errorf("%s: got %v, %v", what, p, err)
		}
	}
	s := newSetup(t)
	s.iss.jwks = func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusInternalServerError); return true }
	for range 5 {
		if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); !isIssuerError(err) {
			t.Errorf("key set away: got %v", err)
		}
	}
	if n := s.iss.requests("/keys"); n != 1 {
		t.Errorf("a key set that is away was asked for %d times within a moment", n)
	}
}

// TestNewKeysAreFoundAndForgeriesDoNotHammer rotates the issuer's key, with forgeries before it.
func TestNewKeysAreFoundAndForgeriesDoNotHammer(t *testing.T) {
	s := newSetup(t)
	_, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil)))
	must(t, err)
	next, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	s.iss.mu.Lock()
	s.iss.keys = map[string]crypto.Signer{"k2": next}
	s.iss.mu.Unlock()
	s.clock.add(fetchEvery)
	if _, err := s.a.Principal(request(mainEntries, sign(t, jose.RS256, next, "k2", s.iss.claims(nil)))); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	for i := range 20 {
		if _, err := s.a.Principal(request(mainEntries, sign(t, jose.RS256, rsaKey(), fmt.Sprint("x", i), s.iss.claims(nil)))); kindOfError(err) != "forged" {
			t.Errorf("forged: got %v", err)
		}
	}
	if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); kindOfError(err) != "forged" {
		t.Errorf("with the old key: got %v", err)
	}
	if n := s.iss.requests("/keys"); n != 2 {
		t.Errorf("the issuer was asked %d times, want 2", n)
	}
}

func TestKeysFromAFile(t *testing.T) {
	c := newClock()
	iss := newAuthority(t, c)
	dir := t.TempDir()
	file := filepath.Join(dir, "keys.json")
	must(t, os.WriteFile(file, iss.keySet(), 0o600))
	s := newSetup(t, func(c *Config) { c.OIDC[0].JWKSFile = file })
	if _, err := s.a.Principal(request(mainEntries, s.iss.token(t, nil))); err != nil {
		t.Error(err)
	}
	if len(s.iss.asked) != 0 {
		t.Errorf("the issuer was asked: %v", s.iss.asked)
	}
	secret, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte("a symmetric secret of some length"), KeyID: "k1"}}})
	must(t, err)
	private, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: rsaKey(), KeyID: "k1"}}})
	must(t, err)
	for what, data := range map[string][]byte{
		"symmetric": secret, "private": private, "none": []byte(`{"keys":[]}`), "nonsense": []byte(`[`), "too long": bytes.Repeat([]byte(" "), maxDocument+1),
	} {
		must(t, os.WriteFile(file, data, 0o600))
		if _, err := New(t.Context(), s.in, Config{OIDC: []Issuer{{URL: "https://i.example", Audience: "a", JWKSFile: file}}}); err == nil {
			t.Errorf("%s: it was taken", what)
		}
	}
}

func TestIssuersAreChecked(t *testing.T) {
	in := newSetup(t).in
	good := Issuer{URL: "https://i.example", Audience: "a"}
	for what, change := range map[string]func(*Issuer){
		"no TLS":       func(i *Issuer) { i.URL = "http://i.example" },
		"no URL":       func(i *Issuer) { i.URL = "i.example" },
		"query":        func(i *Issuer) { i.URL += "?a=b" },
		"password":     func(i *Issuer) { i.URL = "https://a:b@i.example" },
		"no audience":  func(i *Issuer) { i.Audience = "" },
		"symmetric":    func(i *Issuer) { i.Algorithms = []string{"HS256"} },
		"none":         func(i *Issuer) { i.Algorithms = []string{"RS256", "none"} },
		"missing file": func(i *Issuer) { i.JWKSFile = "/nowhere" },
	} {
		i := good
		change(&i)
		if _, err := New(t.Context(), in, Config{OIDC: []Issuer{i}}); err == nil {
			t.Errorf("%s: it was taken", what)
		}
	}
	if _, err := New(t.Context(), in, Config{OIDC: []Issuer{good, good}}); err == nil {
		t.Error("an issuer twice was taken")
	}
	for _, u := range []string{"http://127.0.0.1:1/x", "http://localhost", "http://[::1]:2"} {
		if err := checkURL(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestCredentialsComeFromTheHeaderOnly(t *testing.T) {
	s := newSetup(t)
	plain, _, err := s.in.Bootstrap(t.Context(), "")
	must(t, err)
	for what, r := range map[string]*http.Request{
		"query":  request(mainEntries+"?token="+plain+"&access_token="+plain, ""),
		"cookie": func() *http.Request { r := request(mainEntries, ""); r.Header.Set("Cookie", "token="+plain); return r }(),
		"none":   request(mainEntries, ""),
		"user":   func() *http.Request { r := request(mainEntries, ""); r.URL.User = nil; return r }(),
	} {
		if _, err := s.a.Principal(r); kindOfError(err) != "missing" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for header, want := range map[string]string{
		"Bearer " + plain:          "<nil>",
		"bearer  " + plain:         "<nil>",
		plain:                      "malformed",
		"Basic " + plain:           "malformed",
		"Bearer":                   "malformed",
		"Bearer ":                  "malformed",
		"Bearer " + plain + " x":   "malformed",
		"Bearer " + plain + ",x":   "malformed",
		"Bearer " + plain[1:]:      "unknown",
		"Bearer\t" + plain:         "malformed",
		"Bearer " + plain + "\x00": "unknown",
	} {
		r := request(mainEntries, "")
		r.Header["Authorization"] = []string{header}
		if _, err := s.a.Principal(r); kindOfError(err) != want {
			t.Errorf("%q: got %v, want %s", header, err, want)
		}
	}
	r := request(mainEntries, plain)
	r.Header.Add("Authorization", "Bearer "+plain)
	if _, err := s.a.Principal(r); kindOfError(err) != "malformed" {
		t.Errorf("two headers: got %v", err)
	}
}

func TestSourcesAreAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:99":              "192.0.2.1",
		"[::ffff:192.0.2.1]:99":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:99": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:99":         "fe80::/64",
		"@":                         "unknown",
		"":                          "unknown",
		"evil\nname:1":              "unknown",
	} {
		if got := source(&http.Request{RemoteAddr: addr}); got != want {
			t.Errorf("%q: got %q, want %q", addr, got, want)
		}
	}
}

// FuzzAuthorization holds that no header makes a principal but the ones that are known.
func FuzzAuthorization(f *testing.F) {
	s := newSetup(f)
	plain, _, err := s.in.Bootstrap(f.Context(), "")
	must(f, err)
	jwt := s.iss.token(f, nil)
	for _, h := range []string{"Bearer " + plain, "Bearer " + jwt, "Bearer a.b.c", "Bearer " + jwt[:len(jwt)-1], "", "Bearer " + raw(map[string]any{"alg": "none"}, s.iss.claims(nil), func([]byte) []byte { return nil })} {
		f.Add(h)
	}
	payload := strings.Join(strings.Split(jwt, ".")[:2], ".")
	f.Fuzz(func(t *testing.T, header string) {
		r := request(mainEntries, "")
		r.Header["Authorization"] = []string{header}
		p, err := s.a.Principal(r)
		if (p == nil) == (err == nil) {
			t.Fatalf("%q: got %v, %v", header, p, err)
		}
		if p != nil && !strings.Contains(header, plain) && !strings.Contains(header, payload) {
			t.Errorf("%q: got %v", header, p)
		}
	})
}
