package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// refused reads the refusals that a tenant's log of the log holds.
func refused(t *testing.T, x *tenant.Tenant) (out []struct {
	Source, Kind, Principal string
	Count                   int
},
) {
	t.Helper()
	l, err := x.Log(tenant.SystemName)
	must(t, err)
	for e, err := range l.Search(context.Background(), immutable.Query{Text: "action:auth.refused", Reverse: true}) {
		must(t, err)
		if e.Level != immutable.Security {
			t.Errorf("got level %s", e.Level)
		}
		out = append(out, struct {
			Source, Kind, Principal string
			Count                   int
		}{})
		must(t, json.Unmarshal(e.Metadata, &out[len(out)-1]))
	}
	return out
}

// TestRefusalsAreCountedPerSourceAndKind sends many within a second; the counts are exact, the entries few.
func TestRefusalsAreCountedPerSourceAndKind(t *testing.T) {
	s := newSetup(t)
	x := s.tenant(t, tenant.DefaultName)
	plain, k, err := x.CreateToken(t.Context(), tenant.Local("test"), tenant.TokenSpec{Role: tenant.Reader})
	must(t, err)
	must(t, x.RevokeToken(t.Context(), tenant.Local("test"), k.ID))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 50 {
				_, _ = s.a.Principal(request(mainEntries, "imt_nonsense"))
				_, _ = s.a.Principal(request(mainEntries, plain))
				_, _ = s.a.Principal(request(mainEntries, "")) // presents nothing: no refused authentication
				other := request(mainEntries, "a.b.c")
				other.RemoteAddr = "[2001:db8::1]:9"
				_, _ = s.a.Principal(other)
			}
		})
	}
	wg.Wait()
	must(t, s.a.Close(t.Context()))
	must(t, s.a.Close(t.Context())) // nothing is left to record
	total := map[string]int{}
	of := refused(t, s.in.System())
	for _, r := range of {
		total[r.Source+" "+r.Kind] += r.Count
	}
	if len(total) != 2 || total["192.0.2.1 unknown"] != 500 || total["2001:db8::/64 malformed"] != 500 {
		t.Errorf("installation: got %v", total)
	}
	mine := refused(t, x)
	count := 0
	for _, r := range mine {
		count += r.Count
		if r.Kind != "revoked" || r.Principal != "token:"+k.ID {
			t.Errorf("tenant: got %+v", r)
		}
	}
	if count != 500 {
		t.Errorf("tenant: got %d, want 500", count)
	}
	if n := len(of) + len(mine); n > 30 {
		t.Errorf("got %d entries of 1,500 refusals", n)
	}
}

// TestSourcesAreBounded comes from more addresses than are told apart.
func TestSourcesAreBounded(t *testing.T) {
	s := newSetup(t)
	const beyond = 23
	rs := &s.a.refused
	rs.timer = time.NewTimer(time.Hour) // no flush beside the test
	for i := range maxRefused + beyond {
		r := request(mainEntries, "")
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)
		rs.count(r, refuse("forged", "no"))
	}
	if n := len(rs.counts); n != maxRefused+1 {
		t.Errorf("got %d sources, want %d and the others", n, maxRefused)
	}
	must(t, s.a.Close(t.Context()))
	others := 0
	all := refused(t, s.in.System())
	for _, r := range all {
		if r.Source == otherSources {
			others += r.Count
		}
	}
	if others != beyond || len(all) != maxRefused+1 {
		t.Errorf("got %d of others in %d entries, want %d", others, len(all), beyond)
	}
}

// TestUnrecordedRefusalsAreCountedOn breaks the log of the log.
func TestUnrecordedRefusalsAreCountedOn(t *testing.T) {
	s := newSetup(t)
	l, err := s.in.System().Log(tenant.SystemName)
	must(t, err)
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: t.TempDir(), Log: immutable.Config{NoSignatures: true}})
	must(t, err)
	a, err := New(t.Context(), in, Config{})
	must(t, err)
	broken, err := in.System().Log(tenant.SystemName)
	must(t, err)
	must(t, broken.Close())
	a.refused.timer = time.NewTimer(time.Hour)
	for range 3 {
		_, _ = a.Principal(request(mainEntries, "imt_x"))
	}
	if err := a.Close(t.Context()); err == nil {
		t.Error("nobody was told")
	}
	if n := a.refused.counts[refusal{"", "192.0.2.1", "unknown", ""}]; n != 3 {
		t.Errorf("got %d kept, want 3", n)
	}
	_ = in.Close(t.Context())
	_ = l
}

// certificates are a certificate authority and what it signs.
type certificates struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (c *certificates) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	parent, signer := c.cert, c.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	c := &certificates{}
	ca := c.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true})
	c.cert, c.key = ca.Leaf, ca.PrivateKey.(*ecdsa.PrivateKey)
	c.cert.KeyUsage = x509.KeyUsageCertSign
	return c
}

// TestCertificatesAuthenticateOverTLS has a real TLS server on loopback that verifies clients.
func TestCertificatesAuthenticateOverTLS(t *testing.T) {
	s := newSetup(t, func(c *Config) { c.MTLS, c.Now = true, time.Now })
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: t.TempDir(), Log: immutable.Config{NoSignatures: true}})
	must(t, err)
	t.Cleanup(func() { must(t, in.Close(context.Background())) })
	s.in, s.a.in = in, in

	ca, stranger := newCertificates(t), newCertificates(t)
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	spiffe, err := url.Parse("spiffe://example.com/agent")
	must(t, err)
	byURI := ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "agent"}, URIs: []*url.URL{spiffe}, ExtKeyUsage: usage})
	byDNS := ca.sign(t, &x509.Certificate{DNSNames: []string{"collector.example.com"}, ExtKeyUsage: usage})
	byName := ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "auditor"}, ExtKeyUsage: usage})
	byMail := ca.sign(t, &x509.Certificate{EmailAddresses: []string{"ann@example.com"}, ExtKeyUsage: usage})
	byPrint := ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "pinned"}, ExtKeyUsage: usage})
	unmapped := ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "Auditor"}, DNSNames: []string{"x.collector.example.com"}, ExtKeyUsage: usage})
	forged := stranger.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "auditor"}, ExtKeyUsage: usage})
	x := s.tenant(t, tenant.DefaultName)
	settings := x.Settings()
	sum := sha256.Sum256(byPrint.Leaf.Raw)
	settings.Certificates = []tenant.CertRule{
		{URI: spiffe.String(), Role: tenant.Writer, Logs: []string{"main"}},
		{DNS: "collector.example.com", Role: tenant.Reader},
		{CommonName: "auditor", Role: tenant.Auditor},
		{Email: "ann@example.com", Role: tenant.Admin},
		{Fingerprint: hex.EncodeToString(sum[:]), Role: tenant.Reader, Levels: tenant.Levels{immutable.Audit}},
	}
	must(t, x.Update(t.Context(), tenant.Local("test"), settings))

	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := s.a.Principal(r)
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprint(w, kindOfError(err))
			return
		}
		_ = json.NewEncoder(w).Encode(p)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	srv.StartTLS()
	defer srv.Close()
	ask := func(cert *tls.Certificate) (tenant.Principal, int, error) {
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		c := &tls.Config{RootCAs: roots, ServerName: "example.com"}
		if cert != nil {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
		resp, err := client.Get(srv.URL + mainEntries)
		if err != nil {
			return tenant.Principal{}, 0, err
		}
		defer resp.Body.Close()
		var p tenant.Principal
		if resp.StatusCode == http.StatusOK {
			err = json.NewDecoder(resp.Body).Decode(&p)
		}
		return p, resp.StatusCode, err
	}
	for role, cert := range map[tenant.Role]tls.Certificate{tenant.Writer: byURI, tenant.Reader: byDNS, tenant.Auditor: byName, tenant.Admin: byMail} {
		p, status, err := ask(&cert)
		sum := sha256.Sum256(cert.Leaf.Raw)
		if err != nil || status != 200 || p.Role != role || p.ID != "mtls:"+hex.EncodeToString(sum[:]) || !p.Expires.Equal(cert.Leaf.NotAfter) {
			t.Errorf("%s: got %+v, %d, %v", role, p, status, err)
		}
	}
	if p, _, err := ask(&byPrint); err != nil || p.Role != tenant.Reader || len(p.Levels) != 1 {
		t.Errorf("by fingerprint: got %+v, %v", p, err)
	}
	if _, status, err := ask(&unmapped); status != 401 || err != nil {
		t.Errorf("without a rule: got %d, %v", status, err)
	}
	if _, status, err := ask(nil); status != 401 || err != nil {
		t.Errorf("without a certificate: got %d, %v", status, err)
	}
	if p, status, err := ask(&forged); err == nil && status == 200 {
		t.Errorf("of another authority: got %+v", p)
	}

	// A certificate that nobody verified is none, whatever the listener lets through; nor is one where they are not asked for.
	r := request(mainEntries, "")
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{byMail.Leaf}}
	if _, err := s.a.Principal(r); kindOfError(err) != "missing" {
		t.Errorf("unverified: got %v", err)
	}
	s.a.mtls = false
	if _, status, _ := ask(&byMail); status != 401 {
		t.Errorf("certificates are off: got %d", status)
	}
	s.a.mtls = true

	// A bad token beside a good certificate is a bad token.
	r = request(mainEntries, "imt_x")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{byMail.Leaf, ca.cert}}}
	if _, err := s.a.Principal(r); kindOfError(err) != "unknown" {
		t.Errorf("token and certificate: got %v", err)
	}
	settings.Suspended = true
	must(t, x.Update(t.Context(), tenant.Local("test"), settings))
	r = request(mainEntries, "")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{byMail.Leaf, ca.cert}}}
	if p, err := s.a.Principal(r); p != nil || !errors.Is(err, tenant.ErrUnauthenticated) {
		t.Errorf("of a suspended tenant: got %v, %v", p, err)
	}
}
