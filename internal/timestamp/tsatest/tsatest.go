// Package tsatest is a time-stamping authority for tests: a root, an authority below it, a server.
package tsatest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
)

// Authority answers queries. Its fields may be changed before the first.
type Authority struct {
	Root, Signer *x509.Certificate
	Key          crypto.Signer       // of Signer
	Clock        func() time.Time    // what it stamps
	Accuracy     time.Duration       // that it states
	Change       func([]byte) []byte // alters an answer before it is sent; nil leaves it
	Asked        atomic.Int64        // queries so far

	tb testing.TB
}

// Validity of every certificate.
var (
	NotBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	NotAfter  = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)
)

// New makes an authority with keys of its own. adapt, which may be nil, changes the signer's certificate before it is signed.
func New(tb testing.TB, adapt func(*x509.Certificate)) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, Clock: time.Now, Accuracy: time.Second}
	rootKey, key := newKey(tb), newKey(tb)
	a.Key = key
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: NotBefore, NotAfter: NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.Root = issue(tb, root, root, rootKey.Public(), rootKey)
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		tb.Fatal(err)
	}
	signer := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: NotBefore, NotAfter: NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}
	if adapt != nil {
		adapt(signer)
	}
	a.Signer = issue(tb, signer, a.Root, key.Public(), rootKey)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func issue(tb testing.TB, c, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
	if err != nil {
		tb.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// Roots is what trusts the authority.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Root)
	return pool
}

// RootPEM is its root as a file has it.
func (a *Authority) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})
}

// Stamp is a granted answer over a SHA-256 digest. nonce may be nil.
func (a *Authority) Stamp(digest [32]byte, nonce *big.Int) []byte {
	a.tb.Helper()
	ts := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Time: a.Clock().UTC().Truncate(time.Second), Accuracy: a.Accuracy, Nonce: nonce,
		Policy: asn1.ObjectIdentifier{1, 2, 3, 4}, AddTSACertificate: true, Certificates: []*x509.Certificate{a.Root},
	}
	der, err := ts.CreateResponseWithOpts(a.Signer, a.Key, crypto.SHA256)
	if err != nil {
		a.tb.Error(err)
		return nil
	}
	if a.Change != nil {
		der = a.Change(der)
	}
	return der
}

// ServeHTTP answers a query as RFC 3161, section 3.4, says.
func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.Asked.Add(1)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/timestamp-query" {
		http.Error(w, "want a query", http.StatusBadRequest)
		return
	}
	q, err := timestamp.ParseRequest(body)
	if err != nil || len(q.HashedMessage) != 32 {
		http.Error(w, "want a query over SHA-256", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	_, _ = w.Write(a.Stamp([32]byte(q.HashedMessage), q.Nonce)) // the client may be gone
}
