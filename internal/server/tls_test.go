package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/config"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate for 127.0.0.1 and for clients, that ends after the given time.
func (a *authority) issue(t testing.TB, name string, serial int64, lasts time.Duration) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(lasts),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})
}

// tlsServer is a real server on loopback whose files a test can change.
type tlsServer struct {
	t     *testing.T
	ca    *authority
	files config.TLS
	certs *certificates
	said  *spoken
	url   string
}

// spoken collects a log.
type spoken struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *spoken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func startTLS(t *testing.T, clientCA []byte) *tlsServer {
	t.Helper()
	dir := t.TempDir()
	s := &tlsServer{t: t, ca: newAuthority(t, "test"), said: &spoken{}, files: config.TLS{Cert: filepath.Join(dir, "c.pem"), Key: filepath.Join(dir, "k.pem")}}
	if clientCA != nil {
		s.files.ClientCA = filepath.Join(dir, "ca.pem")
		s.write(s.files.ClientCA, clientCA)
	}
	s.put(1)
	var err error
	logger := slog.New(slog.NewTextHandler(s.said, nil))
	if s.certs, err = loadCertificates(s.files, logger, time.Now); err != nil {
		t.Fatal(err)
	}
	l, err := listen(t.Context(), "127.0.0.1:0", "listen")
	if err != nil {
		t.Fatal(err)
	}
	srv := httpServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.VerifiedChains) > 0 {
			w.Header().Set("Client", r.TLS.VerifiedChains[0][0].Subject.CommonName)
		}
		if r.URL.Path == "/echo" {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			buf := make([]byte, 1)
			for {
				if _, err := io.ReadFull(r.Body, buf); err != nil {
					return
				}
				_, _ = w.Write(buf)
				_ = rc.Flush()
			}
		}
	}), time.Minute, logger)
	srv.TLSConfig = s.certs.config()
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	s.url = "https://" + l.Addr().String()
	return s
}

func (s *tlsServer) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		s.t.Fatal(err)
	}
}

func (s *tlsServer) put(serial int64) {
	s.t.Helper()
	cert, key := s.ca.issue(s.t, "server", serial, 1000*time.Hour)
	s.write(s.files.Cert, cert)
	s.write(s.files.Key, key)
}

// client has connections of its own.
func (s *tlsServer) client(conf *tls.Config) *http.Client {
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.RootCAs = s.ca.pool()
	tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// seen is what a client saw.
type seen struct {
	TLS    *tls.ConnectionState
	Proto  string
	Header http.Header
}

func (s *tlsServer) get(c *http.Client) seen {
	s.t.Helper()
	r, err := c.Get(s.url + "/")
	if err != nil {
		s.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return seen{r.TLS, r.Proto, r.Header}
}

func (s *tlsServer) serial() int64 {
	s.t.Helper()
	return s.get(s.client(nil)).TLS.PeerCertificates[0].SerialNumber.Int64()
}

func TestTLSNegotiatesHybridKeyExchangeAndHTTP2(t *testing.T) {
	s := startTLS(t, nil)
	r := s.get(s.client(nil))
	if r.TLS.CurveID != tls.X25519MLKEM768 {
		t.Errorf("key exchange is %v, want X25519MLKEM768", r.TLS.CurveID)
	}
	if r.Proto != "HTTP/2.0" || r.TLS.Version != tls.VersionTLS13 {
		t.Errorf("got %s over %s", r.Proto, tls.VersionName(r.TLS.Version))
	}
	// Clients that know neither are still served.
	r = s.get(s.client(&tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP256}, MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}))
	if r.TLS.Version != tls.VersionTLS12 {
		t.Errorf("got %s", tls.VersionName(r.TLS.Version))
	}
	old := s.client(&tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if r, err := old.Get(s.url); err == nil {
		r.Body.Close()
		t.Error("TLS 1.1 was accepted")
	} else if !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1 was refused by accident: %v", err)
	}
}

// TestNewCertificateLeavesConnectionsAlone replaces the files while a request is under way, which goes on over its old
// connection and certificate.
func TestNewCertificateLeavesConnectionsAlone(t *testing.T) {
	s := startTLS(t, nil)
	in, out := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/echo", in)
	if err != nil {
		t.Fatal(err)
	}
	c := s.client(nil)
	go func() { _, _ = out.Write([]byte("a")) }()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	echo := func(want byte) {
		t.Helper()
		buf := make([]byte, 1)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || buf[0] != want {
			t.Fatalf("got %q, %v", buf, err)
		}
	}
	echo('a')
	s.put(2)
	if got := s.serial(); got != 1 {
		t.Errorf("before the files were looked at: serial %d", got)
	}
	s.certs.look()
	if got := s.serial(); got != 2 {
		t.Errorf("new connections get serial %d, want 2", got)
	}
	if _, err := out.Write([]byte("b")); err != nil {
		t.Fatal(err)
	}
	echo('b')
	if got := resp.TLS.PeerCertificates[0].SerialNumber.Int64(); got != 1 {
		t.Errorf("the stream is over serial %d", got)
	}
	out.Close()
	if !strings.Contains(s.said.String(), "took a new certificate into use") {
		t.Errorf("said %s", s.said)
	}
}

func TestBadNewCertificateKeepsTheOldAndSaysSo(t *testing.T) {
	s := startTLS(t, nil)
	goodCert, goodKey := s.ca.issue(t, "server", 2, 1000*time.Hour)
	expired, expiredKey := s.ca.issue(t, "server", 3, -time.Hour)
	for _, c := range []struct {
		name      string
		cert, key []byte
	}{
		{"half a change", goodCert, nil},
		{"garbage", []byte("garbage"), nil},
		{"empty", nil, nil},
		{"expired", expired, expiredKey},
		{"too large", bytes.Repeat([]byte("x"), maxPEM+1), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.said.mu.Lock()
			s.said.buf.Reset()
			s.said.mu.Unlock()
			s.write(s.files.Cert, c.cert)
			if c.key != nil {
				s.write(s.files.Key, c.key)
			}
			s.certs.look()
			if strings.Contains(s.said.String(), "cannot be used") {
				t.Errorf("said at the first look, when the change may be half done: %s", s.said)
			}
			for range 3 {
				s.certs.look()
			}
			if got := s.serial(); got != 1 {
				t.Errorf("serial %d, want the old certificate", got)
			}
			if n := strings.Count(s.said.String(), "cannot be used"); n != 1 {
				t.Errorf("said %d times: %s", n, s.said)
			}
		})
	}
	if err := os.Remove(s.files.Cert); err != nil {
		t.Fatal(err)
	}
	s.certs.look()
	s.certs.look()
	if got := s.serial(); got != 1 || !strings.Contains(s.said.String(), "no such file") && !strings.Contains(s.said.String(), "cannot find") {
		t.Errorf("serial %d without the file; said %s", got, s.said)
	}
	s.write(s.files.Cert, goodCert)
	s.write(s.files.Key, goodKey)
	s.certs.look()
	if got := s.serial(); got != 2 {
		t.Errorf("serial %d after the files were mended", got)
	}
}

func TestClientCertificatesCountOnlyFromTheAuthority(t *testing.T) {
	clients, strangers := newAuthority(t, "clients"), newAuthority(t, "clients")
	s := startTLS(t, clients.pem())
	pair := func(a *authority) tls.Certificate {
		cert, key := a.issue(t, "ann", 7, time.Hour)
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if got := s.get(s.client(&tls.Config{Certificates: []tls.Certificate{pair(clients)}})).Header.Get("Client"); got != "ann" {
		t.Errorf("the client is %q", got)
	}
	if got := s.get(s.client(nil)).Header.Get("Client"); got != "" {
		t.Errorf("without a certificate the client is %q", got)
	}
	stranger := pair(strangers)
	forced := &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }}
	if r, err := s.client(forced).Get(s.url); err == nil {
		r.Body.Close()
		t.Errorf("a stranger's certificate was accepted: %q", r.Header.Get("Client"))
	}
}

// TestReplacedAuthorityEndsOldSessions holds that a session which began under an authority cannot be resumed once that
// authority's certificates do not count any more.
func TestReplacedAuthorityEndsOldSessions(t *testing.T) {
	clients, next := newAuthority(t, "clients"), newAuthority(t, "next")
	s := startTLS(t, clients.pem())
	cert, key := clients.issue(t, "ann", 7, time.Hour)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{
		ClientSessionCache: tls.NewLRUClientSessionCache(4), NextProtos: []string{"http/1.1"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}
	c := s.client(conf)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	s.get(c)
	if r := s.get(c); !r.TLS.DidResume || r.Header.Get("Client") != "ann" {
		t.Fatalf("resumed %v as %q: the test shows nothing", r.TLS.DidResume, r.Header.Get("Client"))
	}
	s.write(s.files.ClientCA, next.pem())
	s.certs.look()
	if r, err := c.Get(s.url); err == nil {
		r.Body.Close()
		t.Errorf("still served, as %q", r.Header.Get("Client"))
	}
}

func TestUnusableTLSFilesAreNamedAtTheStart(t *testing.T) {
	ca := newAuthority(t, "x")
	dir := t.TempDir()
	cert, key := ca.issue(t, "server", 1, time.Hour)
	_, otherKey := ca.issue(t, "server", 2, time.Hour)
	old, oldKey := ca.issue(t, "server", 3, -time.Hour)
	put := func(name string, data []byte) string {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	files := func(c, k, a []byte) config.TLS {
		f := config.TLS{Cert: put("c", c), Key: put("k", k)}
		if a != nil {
			f.ClientCA = put("a", a)
		}
		return f
	}
	for _, c := range []struct {
		files config.TLS
		want  string
	}{
		{config.TLS{Cert: filepath.Join(dir, "none"), Key: filepath.Join(dir, "none")}, "tls.cert: "},
		{config.TLS{Cert: dir, Key: dir}, "is no file of at most"},
		{files(cert, otherKey, nil), "belong together"},
		{files(key, cert, nil), "belong together"},
		{files(cert, key, []byte("x")), "holds no certificate"},
		{files(cert, key, append(ca.pem(), key...)), "private key"},
	} {
		_, err := loadCertificates(c.files, slog.New(slog.DiscardHandler), time.Now)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
		if err := CheckTLS(c.files, time.Now()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("check: got %v, want %q", err, c.want)
		}
	}
	if err := CheckTLS(files(old, oldKey, nil), time.Now()); err == nil || !strings.Contains(err.Error(), "ended at") {
		t.Errorf("expired: %v", err)
	}
	if err := CheckTLS(files(cert, key, ca.pem()), time.Now()); err != nil {
		t.Error(err)
	}
	if err := CheckTLS(files(cert, key, nil), time.Now().Add(-24*time.Hour)); err == nil || !strings.Contains(err.Error(), "begins at") {
		t.Errorf("not yet: %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	s := startTLS(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.certs.watch(ctx); close(done) }()
	cancel()
	<-done
}
