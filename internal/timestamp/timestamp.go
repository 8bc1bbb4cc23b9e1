// Package timestamp reads and verifies RFC 3161 time stamps: what an authority says about when it saw a digest. It has no
// network; whoever asks an authority posts [Query.DER] and gives the answer to [Query.Check].
//
// Decoding CMS and checking its signature is left to github.com/digitorus. Around it stand the checks that it leaves out:
// strict DER of bounded size and depth before anything else looks at it, status, one signer, SHA-2, the signed attributes,
// and the certificate's purpose.
package timestamp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha1" // RFC 2634 names the signer's certificate by its SHA-1, inside what is signed with SHA-2
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"
)

// MaxSize bounds an answer: certificates of a whole chain and an RSA signature take a tenth of it.
const MaxSize = 64 << 10

// maxAccuracy bounds what a stamp may say about its own clock. A stamp that is off by more says nothing.
const maxAccuracy = 24 * time.Hour

// Stamp is a granted answer, whose signature fits the certificate that it carries. Only Verify says whether that
// certificate is anybody's.
type Stamp struct {
	Time     time.Time     // UTC; the digest existed before it
	Accuracy time.Duration // Time may be off by so much; 0 where the authority does not say
	Digest   [32]byte      // SHA-256
	Policy   string        // object identifier of the authority's policy, dotted
	Serial   string        // of the stamp, lower-case hex
	Name     string        // subject of the signer's certificate

	nonce  *big.Int
	signer *x509.Certificate
	others []*x509.Certificate
}

// Parse reads a TimeStampResp in DER: status granted, one signer, a digest of SHA-256. It is total and bounded.
func Parse(der []byte) (*Stamp, error) {
	s, err := parse(der)
	if err != nil {
		return nil, fmt.Errorf("time stamp: %w", err)
	}
	return s, nil
}

func parse(der []byte) (*Stamp, error) {
	if err := checkDER(der); err != nil {
		return nil, err
	}
	if err := checkStatus(der); err != nil {
		return nil, err
	}
	// From here on the answer is well-formed DER of bounded depth. This also checks the signature, if there is a certificate;
	// checkSigner asks for one.
	ts, err := timestamp.ParseResponse(der)
	if err != nil {
		return nil, err
	}
	if ts.HashAlgorithm != crypto.SHA256 || len(ts.HashedMessage) != sha256.Size {
		return nil, fmt.Errorf("it is over a digest of %s with %d bytes, want SHA-256 with %d", ts.HashAlgorithm, len(ts.HashedMessage), sha256.Size)
	}
	if ts.Accuracy < 0 || ts.Accuracy > maxAccuracy {
		return nil, fmt.Errorf("its accuracy of %v is not within 0 and %v", ts.Accuracy, maxAccuracy)
	}
	if ts.SerialNumber == nil || ts.SerialNumber.BitLen() > 160 { // RFC 3161, section 2.4.2
		return nil, errors.New("its serial number has more than 160 bits")
	}
	signer, err := checkSigner(ts.RawToken)
	if err != nil {
		return nil, err
	}
	return &Stamp{
		Time: ts.Time.UTC(), Accuracy: ts.Accuracy, Digest: [32]byte(ts.HashedMessage), Policy: ts.Policy.String(),
		Serial: ts.SerialNumber.Text(16), Name: signer.Subject.String(), nonce: ts.Nonce, signer: signer, others: ts.Certificates,
	}, nil
}

// checkStatus refuses everything but "granted" (RFC 3161, section 2.4.2), also "granted with modifications": nobody asked
// for anything that could be modified.
func checkStatus(der []byte) error {
	var answer struct {
		Status struct {
			Status int
			Text   asn1.RawValue `asn1:"optional"`
		}
	}
	if _, err := asn1.Unmarshal(der, &answer); err != nil {
		return fmt.Errorf("the status cannot be read: %w", err)
	}
	if answer.Status.Status == 0 {
		return nil
	}
	if _, err := timestamp.ParseResponse(der); err != nil && answer.Status.Status > 1 {
		return fmt.Errorf("the authority refused: %.300s", err.Error())
	}
	return fmt.Errorf("status %d, want 0 (granted)", answer.Status.Status)
}

var (
	oidTSTInfo              = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidSigningCertificate   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSigningCertificateV2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	oidExtendedKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// newHash is the digest with the given identifier; nil where it is none of SHA-2.
func newHash(oid asn1.ObjectIdentifier, data []byte) []byte {
	switch {
	case oid.Equal(pkcs7.OIDDigestAlgorithmSHA256):
		sum := sha256.Sum256(data)
		return sum[:]
	case oid.Equal(pkcs7.OIDDigestAlgorithmSHA384):
		sum := sha512.Sum384(data)
		return sum[:]
	case oid.Equal(pkcs7.OIDDigestAlgorithmSHA512):
		sum := sha512.Sum512(data)
		return sum[:]
	}
	return nil
}

// checkSigner checks what is signed beside the content, and returns the signer's certificate.
func checkSigner(token []byte) (*x509.Certificate, error) {
	p7, err := pkcs7.Parse(token)
	if err != nil {
		return nil, err
	}
	if len(p7.Signers) != 1 {
		return nil, fmt.Errorf("%d signers, want one", len(p7.Signers))
	}
	signer := p7.GetOnlySigner()
	if signer == nil {
		return nil, errors.New("it carries no certificate of its signer")
	}
	info := p7.Signers[0]
	if newHash(info.DigestAlgorithm.Algorithm, nil) == nil {
		return nil, fmt.Errorf("the content's digest is %s, want SHA-2", info.DigestAlgorithm.Algorithm)
	}
	if err := checkOutside(token, info.DigestAlgorithm.Algorithm); err != nil {
		return nil, err
	}
	// Without signed attributes the signature would be over the content itself, and whoever signs attributes could be made
	// to sign a content.
	seen := map[string]bool{}
	for _, a := range info.AuthenticatedAttributes {
		if seen[a.Type.String()] {
			return nil, fmt.Errorf("the signed attribute %s is there twice", a.Type)
		}
		seen[a.Type.String()] = true
	}
	var kind asn1.ObjectIdentifier // as it is signed
	if err := p7.UnmarshalSignedAttribute(pkcs7.OIDAttributeContentType, &kind); err != nil || !kind.Equal(oidTSTInfo) {
		return nil, errors.New("what is signed is not a time stamp: the signed content type is missing or another one")
	}
	return signer, checkSigningCertificate(p7, signer)
}

// checkOutside compares what the token says of itself outside its signature with what is signed.
func checkOutside(token []byte, digest asn1.ObjectIdentifier) error {
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version int
			Digests []pkix.AlgorithmIdentifier `asn1:"set"`
			Content struct {
				Type asn1.ObjectIdentifier
				Info []byte `asn1:"explicit,tag:0"`
			}
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(token, &outer); err != nil {
		return fmt.Errorf("the content type cannot be read: %w", err)
	}
	if kind := outer.Content.Content.Type; !kind.Equal(oidTSTInfo) {
		return fmt.Errorf("the token holds a content of type %s, want a time stamp's, %s", kind, oidTSTInfo)
	}
	if !slices.ContainsFunc(outer.Content.Digests, func(a pkix.AlgorithmIdentifier) bool { return a.Algorithm.Equal(digest) }) {
		return fmt.Errorf("the signer's digest %s is not among those that the token lists", digest)
	}
	return nil
}

// checkSigningCertificate compares the certificate with the one that the signature names (RFC 2634 and 5035), so that it
// cannot be exchanged for another one of the same key.
func checkSigningCertificate(p7 *pkcs7.PKCS7, signer *x509.Certificate) error {
	var v2 struct {
		Certs []struct {
			Algorithm struct{ Algorithm asn1.ObjectIdentifier } `asn1:"optional"`
			Hash      []byte
		}
	}
	if err := p7.UnmarshalSignedAttribute(oidSigningCertificateV2, &v2); err == nil && len(v2.Certs) > 0 {
		oid := v2.Certs[0].Algorithm.Algorithm
		if len(oid) == 0 {
			oid = pkcs7.OIDDigestAlgorithmSHA256
		}
		if want := newHash(oid, signer.Raw); want != nil && bytes.Equal(v2.Certs[0].Hash, want) {
			return nil
		}
		return errors.New("the signature names another certificate than the signer's")
	}
	var v1 struct{ Certs []struct{ Hash []byte } }
	if err := p7.UnmarshalSignedAttribute(oidSigningCertificate, &v1); err != nil || len(v1.Certs) == 0 {
		return errors.New("the signature does not name its certificate (attribute SigningCertificate)")
	}
	if want := sha1.Sum(signer.Raw); !bytes.Equal(v1.Certs[0].Hash, want[:]) {
		return errors.New("the signature names another certificate than the signer's")
	}
	return nil
}

// Verify says whether the stamp is by an authority under one of the roots: the chain at the time of the stamp, and a
// certificate for time stamping only, marked critical (RFC 3161, section 2.3). Revocation is not looked up.
func (s *Stamp) Verify(roots *x509.CertPool) error {
	fail := func(err error) error {
		return fmt.Errorf("time stamp of %s by %s: %w", s.Time.Format(time.RFC3339), s.Name, err)
	}
	if roots == nil {
		return fail(errors.New("no roots are given; nobody's word is taken for it"))
	}
	if err := checkPurpose(s.signer); err != nil {
		return fail(err)
	}
	between := x509.NewCertPool()
	for _, c := range s.others {
		between.AddCert(c)
	}
	_, err := s.signer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: s.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	})
	if err != nil {
		return fail(err)
	}
	return nil
}

func checkPurpose(c *x509.Certificate) error {
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) != 0 {
		return errors.New("the certificate is not for time stamping only (extended key usage)")
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(oidExtendedKeyUsage) && e.Critical {
			return nil
		}
	}
	return errors.New("the certificate's extended key usage is not marked critical")
}

// Query is a question to an authority, to be sent once.
type Query struct {
	DER    []byte
	digest [32]byte
	nonce  *big.Int
}

// NewQuery asks for a stamp over a SHA-256 digest, with the signer's certificates and a nonce of 64 random bits.
func NewQuery(digest [32]byte) (*Query, error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, crypto/rand says
	nonce := new(big.Int).SetUint64(binary.BigEndian.Uint64(random[:]) | 1<<63)
	der, err := (&timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Certificates: true, Nonce: nonce}).Marshal()
	if err != nil {
		return nil, fmt.Errorf("make a time stamp query: %w", err)
	}
	return &Query{DER: der, digest: digest, nonce: nonce}, nil
}

// Check parses an answer and compares it with what was asked.
func (q *Query) Check(answer []byte) (*Stamp, error) {
	s, err := Parse(answer)
	if err != nil {
		return nil, err
	}
	if s.Digest != q.digest {
		return nil, fmt.Errorf("time stamp: it is over %x, asked was %x", s.Digest, q.digest)
	}
	if s.nonce == nil || s.nonce.Cmp(q.nonce) != 0 {
		return nil, errors.New("time stamp: it has another nonce than the query: it may be an old answer")
	}
	return s, nil
}
