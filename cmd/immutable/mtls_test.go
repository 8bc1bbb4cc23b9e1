package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificates writes an authority, and a certificate with its key for each name, and returns the directory.
func certificates(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey := key()
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	put("ca.pem", "CERTIFICATE", der)
	for i, name := range names {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		k := key()
		if der, err = x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, caKey); err != nil {
			t.Fatal(err)
		}
		put(name+".pem", "CERTIFICATE", der)
		if der, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
			t.Fatal(err)
		}
		put(name+".key", "PRIVATE KEY", der)
	}
	return dir
}

// TestCommandsAuthenticateByClientCertificate appends and reads over TLS with a certificate alone, end to end: no token is given, and
// without the certificate, or with one that no rule knows, nothing is let in.
func TestCommandsAuthenticateByClientCertificate(t *testing.T) {
	needsSignals(t)
	certs := certificates(t, "server", "ann", "eve")
	file := func(name string) string { return filepath.Join(certs, name) }
	s := startService(t, t.TempDir(), nil, "--tls-cert", file("server.pem"), "--tls-key", file("server.key"), "--client-ca", file("ca.pem"))
	pool := x509.NewCertPool()
	data, err := os.ReadFile(file("ca.pem"))
	if err != nil || !pool.AppendCertsFromPEM(data) {
		t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	req, err := http.NewRequestWithContext(t.Context(), "PATCH", s.url+"/api/v1/tenants/default", strings.NewReader(`{"certificates":[{"commonName":"ann","role":"admin"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	req.Header.Set("Content-Type", "application/merge-patch+json")
	resp, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("set the rule: %d %s", resp.StatusCode, body)
	}
	as := func(name string) map[string]string {
		return map[string]string{"IMMUTABLE_SERVER": s.url, "IMMUTABLE_CA": file("ca.pem"), "IMMUTABLE_RETRY_FOR": "2s", "IMMUTABLE_CLIENT_CERT": file(name + ".pem"), "IMMUTABLE_CLIENT_KEY": file(name + ".key")}
	}
	mustRun(t, as("ann"), nil, "log", "audit", "by certificate")
	if out := mustRun(t, as("ann"), nil, "read", "--json").out; !bytes.Contains(out, []byte("by certificate")) {
		t.Errorf("read: %s", out)
	}
	none := as("ann")
	delete(none, "IMMUTABLE_CLIENT_CERT")
	if r := run(t, none, nil, "log", "audit", "half a pair"); r.code == 0 || !strings.Contains(string(r.errOut), "--client-cert and --client-key go together") {
		t.Errorf("a key without its certificate: %d %s", r.code, r.errOut)
	}
	delete(none, "IMMUTABLE_CLIENT_KEY")
	for name, env := range map[string]map[string]string{"no certificate": none, "a certificate without a rule": as("eve")} {
		if r := run(t, env, nil, "log", "audit", "by nobody"); r.code == 0 {
			t.Errorf("%s: it was let in: %s", name, r.out)
		}
	}
	h.CloseIdleConnections()
	s.stop()
}
