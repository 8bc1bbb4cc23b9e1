package proof

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"filippo.io/mldsa"
)

const (
	// privatePrefix begins the private form of a key that package note of x/mod defines; what follows is like a verifier key.
	privatePrefix = "PRIVATE+KEY+"
	seedSize      = 32
)

// A PrivateKey signs notes. It is safe for concurrent use.
type PrivateKey struct {
	key  Key
	seed [seedSize]byte
	ed   ed25519.PrivateKey
	ml   *mldsa.PrivateKey
}

// NewKey makes the key of the given type and name from a seed, which must be drawn at random and kept secret: it is the
// key. For Ed25519 it is the seed of RFC 8032, for ML-DSA-44 the ξ of FIPS 204.
func NewKey(typ byte, name string, seed [32]byte) (*PrivateKey, error) {
	p := &PrivateKey{seed: seed}
	var pub []byte
	switch typ {
	case TypeEd25519, TypeCosignature:
		p.ed = ed25519.NewKeyFromSeed(seed[:])
		pub = p.ed[ed25519.PrivateKeySize-ed25519.PublicKeySize:]
	case TypeMLDSA44:
		var err error
		if p.ml, err = mldsa.NewPrivateKey(mldsa.MLDSA44(), seed[:]); err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		pub = p.ml.PublicKey().Bytes()
	default:
		return nil, fmt.Errorf("make key: type %#02x: want 0x01, 0x04 or 0x06", typ)
	}
	var err error
	if p.key, err = newKey(name, append([]byte{typ}, pub...)); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return p, nil
}

// ParsePrivateKey reads what [PrivateKey.String] writes and nothing else. Its errors show nothing of the key.
func ParsePrivateKey(s string) (*PrivateKey, error) {
	rest, found := strings.CutPrefix(s, privatePrefix)
	name, rest, _ := strings.Cut(rest, "+")
	_, b64, hasID := strings.Cut(rest, "+")
	if !found || !hasID {
		return nil, fmt.Errorf("parse private key: want %s<name>+<8 hex>+<base64>", privatePrefix)
	}
	b, err := decodeBase64(b64)
	if err != nil || len(b) != 1+seedSize {
		return nil, fmt.Errorf("parse private key: want standard base64 of a type byte and a seed of %d bytes", seedSize)
	}
	p, err := NewKey(b[0], name, [seedSize]byte(b[1:]))
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	if p.String() != s {
		return nil, errors.New("parse private key: the key id is not that of the key, or is not in lower-case hex")
	}
	return p, nil
}

// String returns the private form, `PRIVATE+KEY+<name>+<8 hex>+<base64(type || seed)>`: the secret itself.
func (p *PrivateKey) String() string {
	return fmt.Sprintf("%s%s+%08x+%s", privatePrefix, p.key.name, p.key.id, base64.StdEncoding.EncodeToString(append([]byte{p.key.Type()}, p.seed[:]...)))
}

// Key returns the verifier key.
func (p *PrivateKey) Key() Key { return p.key }

// SignatureLine signs the text of a note and returns the line to add to it, newline included. unix is the time in
// seconds that types 0x04 and 0x06 state, 0x01 ignores it; the text of a 0x06 signature is a checkpoint. One text and
// time give the same line each time. The line is verified, in a note of the text, before it is returned: neither a text
// that no note can have nor a signature that a fault in the machine spoiled, which could betray the key, leaves here.
func (p *PrivateKey) SignatureLine(text string, unix uint64) ([]byte, error) {
	sig, err := p.sign(text, unix)
	if err != nil {
		return nil, fmt.Errorf("sign with %s+%08x: %w", p.key.name, p.key.id, err)
	}
	line := append([]byte(sigPrefix+p.key.name+" "), base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, p.key.id), sig...))...)
	line = append(line, '\n')
	if _, err := OpenNote(append([]byte(text+"\n"), line...), []Key{p.key}); err != nil {
		return nil, fmt.Errorf("sign with %s+%08x: %w", p.key.name, p.key.id, err)
	}
	return line, nil
}

func (p *PrivateKey) sign(text string, unix uint64) ([]byte, error) {
	if p.key.Type() == TypeEd25519 {
		return ed25519.Sign(p.ed, []byte(text)), nil
	}
	message, err := p.key.message(text, unix)
	if err != nil {
		return nil, err
	}
	sig := binary.BigEndian.AppendUint64(nil, unix)
	if p.key.Type() == TypeCosignature {
		return append(sig, ed25519.Sign(p.ed, []byte(message))...), nil
	}
	ml, err := p.ml.SignDeterministic([]byte(message), nil)
	if err != nil {
		return nil, err
	}
	return append(sig, ml...), nil
}
