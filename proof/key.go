package proof

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"filippo.io/mldsa"
)

// Types of keys and signatures, as C2SP signed-note and tlog-cosignature number them.
const (
	TypeEd25519     = 0x01 // a log's signature over the text
	TypeCosignature = 0x04 // a witness's Ed25519 signature over a time and the text
	TypeMLDSA44     = 0x06 // an ML-DSA-44 signature over the signer's name, a time and a checkpoint, by a log or a witness
)

const (
	timeSize = 8
	// maxUnix is the last second of the year 9999: times beyond it are in no reader's past, and have no text form.
	maxUnix = 253402300799
	// cosignaturePrefix and subtreePrefix begin what types 0x04 and 0x06 sign, so that no text of a note can be taken for it.
	cosignaturePrefix = "cosignature/v1\ntime "
	subtreePrefix     = "subtree/v1\n\x00"
)

// A Key verifies the signatures of one named signer. The zero Key verifies nothing. Keys are equal if their String is.
type Key struct {
	name string
	id   uint32
	vkey string
	pub  string // type byte and public key
	ml   *mldsa.PublicKey
}

// ParseKey reads a signed-note verifier key, `<name>+<8 hex>+<base64(type || public key)>`, in its one spelling. The
// types are [TypeEd25519], [TypeCosignature] and [TypeMLDSA44].
func ParseKey(vkey string) (Key, error) {
	fail := func(format string, args ...any) (Key, error) {
		return Key{}, fmt.Errorf("parse key %s: %w", quote(vkey), fmt.Errorf(format, args...))
	}
	name, rest, _ := strings.Cut(vkey, "+")
	_, b64, found := strings.Cut(rest, "+")
	if !found {
		return fail("want <name>+<8 hex>+<base64>")
	}
	pub, err := decodeBase64(b64)
	if err != nil {
		return fail("%w", err)
	}
	k, err := newKey(name, pub)
	if err != nil {
		return fail("%w", err)
	}
	// The name and the base64 are the ones given; what can still differ is the key id and how it is spelled.
	if k.vkey != vkey {
		return fail("key id or spelling differs: this key is %s", quote(k.vkey))
	}
	return k, nil
}

// newKey makes the key of a type byte and a public key.
func newKey(name string, pub []byte) (Key, error) {
	if err := checkKeyName(name); err != nil {
		return Key{}, err
	}
	k := Key{name: name, id: keyID(name, pub), pub: string(pub)}
	switch {
	case len(pub) == 1+ed25519.PublicKeySize && (pub[0] == TypeEd25519 || pub[0] == TypeCosignature):
	case len(pub) == 1+mldsa.MLDSA44PublicKeySize && pub[0] == TypeMLDSA44:
		var err error
		if k.ml, err = mldsa.NewPublicKey(mldsa.MLDSA44(), pub[1:]); err != nil {
			return Key{}, err
		}
	default:
		return Key{}, errors.New("want type 0x01 or 0x04 and an Ed25519 public key of 32 bytes, or type 0x06 and an ML-DSA-44 public key of 1,312 bytes")
	}
	k.vkey = fmt.Sprintf("%s+%08x+%s", name, k.id, base64.StdEncoding.EncodeToString(pub))
	return k, nil
}

// keyID is the key id of C2SP signed-note.
func keyID(name string, pub []byte) uint32 {
	h := sha256.New()
	h.Write([]byte(name + "\n"))
	h.Write(pub)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k.pub == "" }

// Type returns [TypeEd25519], [TypeCosignature] or [TypeMLDSA44]; 0 for the zero Key.
func (k Key) Type() byte {
	if k.IsZero() {
		return 0
	}
	return k.pub[0]
}

// Name returns the signer's name; for a log's own keys it is the origin.
func (k Key) Name() string { return k.name }

// ID returns the key id that signatures carry.
func (k Key) ID() uint32 { return k.id }

// String returns the form that [ParseKey] reads.
func (k Key) String() string { return k.vkey }

// signsForLog reports whether signatures of this type can be a log's own.
func (k Key) signsForLog() bool { return k.Type() == TypeEd25519 || k.Type() == TypeMLDSA44 }

// check verifies a signature, without the key id, over the text of a note. It returns the time in the signature, 0 for
// TypeEd25519, and in reason what is wrong. Both algorithms accept signatures of their one length only.
func (k Key) check(text string, sig []byte) (unix uint64, reason string) {
	if k.Type() == TypeEd25519 {
		return 0, checkEd25519(k.pub[1:], text, sig)
	}
	if len(sig) < timeSize {
		return 0, "too short for a time and a signature"
	}
	unix, sig = binary.BigEndian.Uint64(sig), sig[timeSize:]
	message, err := k.message(text, unix)
	if err != nil {
		return 0, err.Error()
	}
	if k.Type() == TypeCosignature {
		return unix, checkEd25519(k.pub[1:], message, sig)
	}
	if mldsa.Verify(k.ml, []byte(message), sig, nil) != nil {
		return unix, "it does not match the checkpoint"
	}
	return unix, ""
}

func checkEd25519(pub, message string, sig []byte) (reason string) {
	if !ed25519.Verify(ed25519.PublicKey(pub), []byte(message), sig) {
		return "it does not match the text"
	}
	return ""
}

// message returns what a signature of type 0x04 or 0x06 over text at a time signs (C2SP tlog-cosignature).
func (k Key) message(text string, unix uint64) (string, error) {
	if unix > maxUnix {
		return "", fmt.Errorf("its time %d is after the year 9999", unix)
	}
	if k.Type() == TypeCosignature {
		if unix == 0 {
			return "", errors.New("a cosignature without a time")
		}
		return cosignaturePrefix + strconv.FormatUint(unix, 10) + "\n" + text, nil
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return "", fmt.Errorf("an ML-DSA signature needs a checkpoint: %w", err)
	}
	// A log may sign without a time; a witness without one would not say that this is the newest it has seen.
	if unix == 0 && k.name != c.Origin {
		return "", errors.New("a cosignature without a time")
	}
	b := append([]byte(subtreePrefix), byte(len(k.name)))
	b = append(b, k.name...)
	b = binary.BigEndian.AppendUint64(b, unix)
	b = append(append(b, byte(len(c.Origin))), c.Origin...)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, c.Size)
	return string(append(b, c.Root[:]...)), nil
}
