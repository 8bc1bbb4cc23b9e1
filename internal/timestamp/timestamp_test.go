package timestamp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/pkcs7"

	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
)

func vector(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "data", "rfc3161", name))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no shared test data: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRealAuthoritysStampReadsBack(t *testing.T) {
	s, err := Parse(vector(t, "respNonce.tsr"))
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(vector(t, "data.txt")); s.Digest != want {
		t.Errorf("digest %x, want %x", s.Digest, want)
	}
	// As `openssl ts -reply -text` prints it.
	if got, want := s.Time, time.Date(2017, 4, 19, 6, 29, 53, 0, time.UTC); !got.Equal(want) || s.Accuracy != time.Second {
		t.Errorf("time %v ± %v, want %v ± 1s", got, s.Accuracy, want)
	}
	if s.Serial != "5eeb0c578435ba71790394febb82167b3644ccc" || s.Policy != "1.3.6.1.4.1.4146.2.1" || !strings.Contains(s.Name, "CN=GlobalSign TSA for Adobe CDS - G2") {
		t.Errorf("serial %s, policy %s, name %s", s.Serial, s.Policy, s.Name)
	}
	if s.nonce.Text(16) != "92ef19ffb5d2ae8" {
		t.Errorf("nonce %x", s.nonce)
	}
	// Its certificate may be trusted by itself. The intermediate one beside it is for Adobe's documents, and not for time
	// stamping: a chain through it is refused.
	if err := s.Verify(pool(s.signer)); err != nil {
		t.Error(err)
	}
	for _, c := range s.others {
		if err := s.Verify(pool(c)); c.IsCA && (err == nil || !strings.Contains(err.Error(), "key usage")) {
			t.Errorf("under %s: got %v", c.Subject, err)
		}
	}
}

func pool(c *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c)
	return p
}

func TestRefusalOfARealAuthorityIsAnError(t *testing.T) {
	_, err := Parse(vector(t, "respRejection.tsr"))
	if err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "serial number generation") {
		t.Errorf("got %v", err)
	}
}

func TestStampIsVerifiedUnderTheGivenRootsOnly(t *testing.T) {
	a, other := tsatest.New(t, nil), tsatest.New(t, nil)
	digest := sha256.Sum256([]byte("x"))
	s, err := Parse(a.Stamp(digest, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(a.Roots()); err != nil {
		t.Error(err)
	}
	if err := s.Verify(other.Roots()); err == nil {
		t.Error("another root's word is taken")
	}
	if err := s.Verify(nil); err == nil || !strings.Contains(err.Error(), "no roots") {
		t.Errorf("without roots the system's are taken: %v", err)
	}
	if err := s.Verify(x509.NewCertPool()); err == nil {
		t.Error("an empty pool trusts somebody")
	}
}

func TestChainCountsAtTheTimeOfTheStamp(t *testing.T) {
	a := tsatest.New(t, nil)
	for when, ok := range map[time.Time]bool{
		tsatest.NotBefore.Add(-time.Second): false, tsatest.NotBefore: true, tsatest.NotAfter: true, tsatest.NotAfter.Add(time.Second): false,
		time.Date(2089, 12, 31, 0, 0, 0, 0, time.UTC): true,
	} {
		a.Clock = func() time.Time { return when }
		s, err := Parse(a.Stamp(sha256.Sum256([]byte("x")), nil))
		if err != nil {
			t.Fatalf("%v: %v", when, err)
		}
		if err := s.Verify(a.Roots()); (err == nil) != ok || !s.Time.Equal(when) {
			t.Errorf("%v: got %v", when, err)
		}
	}
}

// parts is what a token is made of, for tests to spoil.
type parts struct {
	status    int
	kind      asn1.ObjectIdentifier // content type
	hash      asn1.ObjectIdentifier // of the imprint
	imprint   []byte
	digestAlg asn1.ObjectIdentifier // of the CMS digest
	certHash  []byte                // of the attribute SigningCertificateV2; nil leaves it out
	certs     bool
	signers   int
	serial    *big.Int
	accuracy  int64
	after     []byte

	attributes []pkcs7.Attribute       // signed ones beside the usual
	sd         func(*pkcs7.SignedData) // spoils what was signed
}

func build(t *testing.T, a *tsatest.Authority, spoil func(*parts)) []byte {
	t.Helper()
	cert, digest := sha256.Sum256(a.Signer.Raw), sha256.Sum256([]byte("x"))
	p := parts{
		kind: oidTSTInfo, hash: pkcs7.OIDDigestAlgorithmSHA256, imprint: digest[:], digestAlg: pkcs7.OIDDigestAlgorithmSHA256,
		certHash: cert[:], certs: true, signers: 1, serial: big.NewInt(77), accuracy: 1,
	}
	spoil(&p)
	info := marshal(t, struct {
		Version int
		Policy  asn1.ObjectIdentifier
		Imprint struct {
			Algorithm pkix.AlgorithmIdentifier
			Message   []byte
		}
		Serial   *big.Int
		Time     time.Time `asn1:"generalized"`
		Accuracy struct{ Seconds int64 }
	}{
		Version: 1, Policy: asn1.ObjectIdentifier{1, 2, 3}, Serial: p.serial, Time: a.Clock().UTC(), Accuracy: struct{ Seconds int64 }{p.accuracy},
		Imprint: struct {
			Algorithm pkix.AlgorithmIdentifier
			Message   []byte
		}{pkix.AlgorithmIdentifier{Algorithm: p.hash}, p.imprint},
	})
	sd, err := pkcs7.NewSignedData(info)
	if err != nil {
		t.Fatal(err)
	}
	sd.SetDigestAlgorithm(p.digestAlg)
	sd.SetContentType(p.kind)
	config := pkcs7.SignerInfoConfig{SkipCertificates: !p.certs}
	if p.certHash != nil {
		named := marshal(t, struct{ Certs []struct{ Hash []byte } }{[]struct{ Hash []byte }{{p.certHash}}})
		config.ExtraSignedAttributes = append(p.attributes, pkcs7.Attribute{Type: oidSigningCertificateV2, Value: asn1.RawValue{FullBytes: named}})
	}
	for range p.signers {
		if err := sd.AddSignerChain(a.Signer, a.Key, []*x509.Certificate{a.Root}, config); err != nil {
			t.Fatal(err)
		}
	}
	if p.sd != nil {
		p.sd(sd)
	}
	token, err := sd.Finish()
	if err != nil {
		t.Fatal(err)
	}
	der := marshal(t, struct {
		Status struct{ Status int }
		Token  asn1.RawValue
	}{struct{ Status int }{p.status}, asn1.RawValue{FullBytes: token}})
	return append(der, p.after...)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestStampThatIsNotQuiteOneIsRefused(t *testing.T) {
	a := tsatest.New(t, nil)
	if s, err := Parse(build(t, a, func(*parts) {})); err != nil {
		t.Fatal(err)
	} else if err := s.Verify(a.Roots()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(*parts)
		want  string
	}{
		"granted with modifications": {func(p *parts) { p.status = 1 }, "status 1"},
		"rejected, with a token":     {func(p *parts) { p.status = 2 }, "refused"},
		"negative status":            {func(p *parts) { p.status = -1 }, "status -1"},
		"bytes after it":             {func(p *parts) { p.after = []byte{5, 0} }, "nothing after"},
		"other content type":         {func(p *parts) { p.kind = pkcs7.OIDData }, "holds a content"},
		"other content type outside": {func(p *parts) {
			p.sd = func(sd *pkcs7.SignedData) { sd.SetContentType(pkcs7.OIDData) }
		}, "holds a content"},
		"other digest outside": {func(p *parts) {
			p.sd = func(sd *pkcs7.SignedData) {
				sd.GetSignedData().DigestAlgorithmIdentifiers[0].Algorithm = pkcs7.OIDDigestAlgorithmSHA512
			}
		}, "not among"},
		"other content type signed": {func(p *parts) {
			p.kind = pkcs7.OIDData
			p.sd = func(sd *pkcs7.SignedData) { sd.SetContentType(oidTSTInfo) }
		}, "signed content type"},
		"SHA-384 imprint":         {func(p *parts) { p.hash, p.imprint = pkcs7.OIDDigestAlgorithmSHA384, make([]byte, 48) }, "SHA-256"},
		"imprint called SHA-384":  {func(p *parts) { p.hash = pkcs7.OIDDigestAlgorithmSHA384 }, "SHA-256"},
		"short imprint":           {func(p *parts) { p.imprint = p.imprint[1:] }, "31 bytes"},
		"unnamed certificate":     {func(p *parts) { p.certHash = nil }, "does not name"},
		"other certificate named": {func(p *parts) { p.certHash = make([]byte, 32) }, "names another"},
		"no certificate":          {func(p *parts) { p.certs = false }, "no certificate"},
		"two signers":             {func(p *parts) { p.signers = 2 }, "2 signers"},
		"long serial number":      {func(p *parts) { p.serial = new(big.Int).Lsh(big.NewInt(1), 160) }, "160 bits"},
		"accuracy of two days":    {func(p *parts) { p.accuracy = 2 * 86400 }, "accuracy"},
		"negative accuracy":       {func(p *parts) { p.accuracy = -1 }, "accuracy"},
		"an attribute twice": {func(p *parts) {
			p.attributes = []pkcs7.Attribute{{Type: pkcs7.OIDAttributeSigningTime, Value: time.Now().UTC()}}
		}, "twice"},
		"SHA-1 of the content under a signature with SHA-256": {func(p *parts) {
			p.digestAlg = pkcs7.OIDDigestAlgorithmSHA1
			p.sd = func(sd *pkcs7.SignedData) { signAgain(t, a, sd) }
		}, "want SHA-2"},
		"no signed attributes": {func(p *parts) {
			p.sd = func(sd *pkcs7.SignedData) {
				sd.GetSignedData().SignerInfos = nil
				if err := sd.SignWithoutAttr(a.Signer, a.Key, pkcs7.SignerInfoConfig{}); err != nil {
					t.Fatal(err)
				}
			}
		}, "content type"},
	} {
		if _, err := Parse(build(t, a, c.spoil)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
	}
}

// signAgain signs the attributes with ECDSA and SHA-256, whatever the digest of the content is.
func signAgain(t *testing.T, a *tsatest.Authority, sd *pkcs7.SignedData) {
	t.Helper()
	info := &sd.GetSignedData().SignerInfos[0]
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue `asn1:"set"`
	}
	var list struct {
		A []attribute `asn1:"set"`
	}
	for _, x := range info.AuthenticatedAttributes {
		list.A = append(list.A, attribute{x.Type, x.Value})
	}
	var set asn1.RawValue
	if _, err := asn1.Unmarshal(marshal(t, list), &set); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(set.Bytes)
	sig, err := a.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	info.EncryptedDigest = sig
	info.DigestEncryptionAlgorithm.Algorithm = pkcs7.OIDDigestAlgorithmECDSASHA256
}

func TestCertificateIsForTimeStampingOnly(t *testing.T) {
	usage := func(critical bool, oids ...asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidExtendedKeyUsage, Critical: critical, Value: marshal(t, oids)}}
		}
	}
	stamping, signing := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	for name, c := range map[string]struct {
		adapt func(*x509.Certificate)
		want  string
	}{
		"good":         {usage(true, stamping), ""},
		"not critical": {usage(false, stamping), "critical"},
		"code signing": {usage(true, signing), "only"},
		"both":         {usage(true, stamping, signing), "only"},
		"any":          {usage(true, asn1.ObjectIdentifier{2, 5, 29, 37, 0}), "only"},
		"and unknown":  {usage(true, stamping, asn1.ObjectIdentifier{1, 2, 3}), "only"},
		"none":         {func(c *x509.Certificate) { c.ExtraExtensions = nil }, "only"},
	} {
		a := tsatest.New(t, c.adapt)
		s, err := Parse(a.Stamp([32]byte{}, nil))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.Verify(a.Roots()); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
	}
}

func TestAnswerIsToTheQuery(t *testing.T) {
	a := tsatest.New(t, nil)
	digest := sha256.Sum256([]byte("x"))
	q, err := NewQuery(digest)
	if err != nil {
		t.Fatal(err)
	}
	s, err := q.Check(a.Stamp(digest, q.nonce))
	if err != nil || s.Digest != digest {
		t.Fatal(err)
	}
	if _, err := q.Check(a.Stamp(digest, big.NewInt(5))); err == nil || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("another nonce: %v", err)
	}
	if _, err := q.Check(a.Stamp(digest, nil)); err == nil || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("no nonce: %v", err)
	}
	if _, err := q.Check(a.Stamp([32]byte{}, q.nonce)); err == nil || !strings.Contains(err.Error(), "asked was") {
		t.Errorf("another digest: %v", err)
	}
	again, err := NewQuery(digest)
	if err != nil || bytes.Equal(again.DER, q.DER) {
		t.Errorf("two queries are the same: %v", err)
	}
}

// Every bit of the token that something signs: content, signed attributes, signature. Flips in the rest (certificates that
// are not the signer's, status texts) may stay unnoticed, but never change what Parse says.
func TestFlippedBitNeverChangesTheWord(t *testing.T) {
	a := tsatest.New(t, nil)
	der := a.Stamp(sha256.Sum256([]byte("x")), nil)
	want, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for i := range der {
		for bit := range 8 {
			other := bytes.Clone(der)
			other[i] ^= 1 << bit
			s, err := Parse(other)
			if err == nil {
				err = s.Verify(a.Roots())
			}
			if err != nil {
				noticed++
				continue
			}
			if !s.Time.Equal(want.Time) || s.Digest != want.Digest || s.Serial != want.Serial || s.Accuracy != want.Accuracy || s.Name != want.Name || s.Policy != want.Policy {
				t.Fatalf("byte %d bit %d: got %+v, want %+v", i, bit, s, want)
			}
		}
	}
	if noticed < 6*len(der) {
		t.Errorf("only %d of %d flips are noticed", noticed, 8*len(der))
	}
}

func TestDERIsStrictAndBounded(t *testing.T) {
	deep := func(n int) []byte {
		b := []byte{5, 0}
		for range n {
			b = append([]byte{0x30, byte(len(b))}, b...)
		}
		return b
	}
	large := func(n int) []byte {
		return append([]byte{4, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, make([]byte, n)...)
	}
	for name, c := range map[string]struct {
		der []byte
		ok  bool
	}{
		"null":               {[]byte{5, 0}, true},
		"empty sequence":     {[]byte{0x30, 0}, true},
		"two in one":         {[]byte{0x30, 4, 5, 0, 5, 0}, true},
		"depth at the limit": {deep(maxDepth), true},
		"deeper":             {deep(maxDepth + 1), false},
		"size at the limit":  {large(MaxSize - 5)[:MaxSize], false}, // 65531 takes two bytes of length
		"three bytes":        {append([]byte{4, 0x82, 0xff, 0xfc}, make([]byte, 65532)...), true},
		"larger":             {append([]byte{4, 0x82, 0xff, 0xfd}, make([]byte, 65533)...), false},
		"nothing":            {nil, false},
		"cut tag":            {[]byte{5}, false},
		"cut value":          {[]byte{4, 2, 1}, false},
		"inner too long":     {[]byte{0x30, 2, 4, 1, 0}, false},
		"inner cut":          {[]byte{0x30, 1, 5}, false},
		"after it":           {[]byte{5, 0, 0}, false},
		"indefinite":         {[]byte{0x30, 0x80, 5, 0, 0, 0}, false},
		"long tag":           {[]byte{0x1f, 0x81, 1, 0}, false},
		"long length":        {[]byte{4, 0x81, 1, 0}, false},
		"longer length":      {append([]byte{4, 0x82, 0, 0x80}, make([]byte, 128)...), false},
		"shortest length":    {append([]byte{4, 0x81, 0x80}, make([]byte, 128)...), true},
		"cut length":         {[]byte{4, 0x82, 1}, false},
		"four bytes":         {[]byte{4, 0x84, 0, 0, 0, 0}, false},
		"huge":               {[]byte{4, 0x83, 0xff, 0xff, 0xff}, false},
	} {
		if err := checkDER(c.der); (err == nil) != c.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	a := tsatest.New(f, nil)
	f.Add(a.Stamp([32]byte{1}, big.NewInt(7)))
	for _, name := range []string{"respNonce.tsr", "respRejection.tsr"} {
		if data, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "data", "rfc3161", name)); err == nil {
			f.Add(data)
		}
	}
	roots := a.Roots()
	f.Fuzz(func(t *testing.T, der []byte) {
		s, err := Parse(der)
		if err != nil {
			if len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if err := s.Verify(roots); err == nil && s.Digest != [32]byte{1} {
			t.Errorf("a stamp over %x that the authority did not make", s.Digest)
		}
	})
}
