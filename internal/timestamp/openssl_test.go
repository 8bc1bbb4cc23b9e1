package timestamp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
)

// openssl runs the command, which is another implementation of all of this.
func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skipf("no openssl to compare with: %v", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	// The configuration names sections that `ts` looks for.
	cmd.Env = append(os.Environ(), "OPENSSL_CONF="+filepath.Join(dir, "openssl.cnf"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

const opensslConfig = `
[tsa]
default_tsa = tsa1
[tsa1]
serial = serial
default_policy = 1.2.3.4
digests = sha256
accuracy = secs:2, millisecs:500, microsecs:100
clock_precision_digits = 3
ordering = no
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = sha256
signer_digest = sha256
`

func opensslDir(t *testing.T, a *tsatest.Authority) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "openssl.cnf", []byte(opensslConfig))
	write(t, dir, "serial", []byte("0A\n"))
	write(t, dir, "root.pem", a.RootPEM())
	write(t, dir, "signer.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Signer.Raw}))
	key, err := x509.MarshalECPrivateKey(a.Key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}))
	return dir
}

func TestOpenSSLVerifiesTheTestAuthority(t *testing.T) {
	a := tsatest.New(t, nil)
	dir := opensslDir(t, a)
	digest := sha256.Sum256([]byte("x"))
	write(t, dir, "answer.tsr", a.Stamp(digest, big.NewInt(9)))
	verify := func(digest [32]byte) (string, error) {
		return openssl(t, dir, "ts", "-verify", "-in", "answer.tsr", "-digest", hex.EncodeToString(digest[:]), "-CAfile", "root.pem")
	}
	if out, err := verify(digest); err != nil || !strings.Contains(out, "Verification: OK") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := verify([32]byte{}); err == nil {
		t.Errorf("openssl takes another digest: %s", out)
	}
}

func TestOpenSSLsAnswerToOurQueryIsTaken(t *testing.T) {
	a := tsatest.New(t, nil)
	dir := opensslDir(t, a)
	q, err := NewQuery(sha256.Sum256([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "query.tsq", q.DER)
	if out, err := openssl(t, dir, "ts", "-query", "-in", "query.tsq", "-text"); err != nil || !strings.Contains(out, "Certificate required: yes") {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := openssl(t, dir, "ts", "-reply", "-queryfile", "query.tsq", "-signer", "signer.pem", "-inkey", "key.pem", "-chain", "root.pem", "-out", "answer.tsr")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	answer, err := os.ReadFile(filepath.Join(dir, "answer.tsr"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := q.Check(answer)
	if err != nil {
		t.Fatal(err)
	}
	if s.Serial != "b" || s.Policy != "1.2.3.4" || s.Accuracy.String() != "2.5001s" || s.Name != "CN=test authority" {
		t.Errorf("got %+v", s)
	}
	if err := s.Verify(a.Roots()); err != nil {
		t.Error(err)
	}
	if err := s.Verify(tsatest.New(t, nil).Roots()); err == nil {
		t.Error("another root's word is taken")
	}
}

// Whatever we take of spoiled answers, openssl takes too. Certificates that neither signed nor are named by the signature are
// left out: which of them are well-formed is not our affair.
func TestOpenSSLNeverTakesLess(t *testing.T) {
	a := tsatest.New(t, nil)
	dir := opensslDir(t, a)
	digest := sha256.Sum256([]byte("x"))
	good := a.Stamp(digest, nil)
	asked, other := 0, bytes.Index(good, a.Root.Raw)
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			s, err := Parse(bad)
			if err == nil {
				err = s.Verify(a.Roots())
			}
			if err != nil || i >= other && i < other+len(a.Root.Raw) {
				continue
			}
			asked++
			write(t, dir, "answer.tsr", bad)
			if out, err := openssl(t, dir, "ts", "-verify", "-in", "answer.tsr", "-digest", hex.EncodeToString(digest[:]), "-CAfile", "root.pem"); err != nil {
				t.Errorf("byte %d bit %d flipped: we take it, openssl says %s", i, bit, out)
			}
		}
	}
	t.Logf("%d of %d flips taken by us", asked, 8*len(good))
}
