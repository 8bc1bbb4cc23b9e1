// Package producer makes and checks the signatures of those who send events to a log: its sources (docs/format.md,
// "Producers"). A source numbers its events without gaps, so that a verifier can say which of them never came.
package producer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/mldsa"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// The algorithms of a producer's key. The zero value is none.
const (
	Ed25519 = "ed25519"
	MLDSA44 = "ml-dsa-44" // FIPS 204, pure, with the empty context
)

// maxName bounds a producer's name, in bytes.
const maxName = 255

// Key verifies the signatures of one producer. Keys are equal if their String is. The zero Key verifies nothing.
type Key struct {
	name, algorithm, text, id string
	ed                        ed25519.PublicKey
	ml                        *mldsa.PublicKey
}

// ParseKey reads `<name>+<algorithm>+<base64 public key>` in its one spelling.
func ParseKey(s string) (Key, error) {
	name, rest, _ := strings.Cut(s, "+")
	algorithm, b64, found := strings.Cut(rest, "+")
	if !found {
		return Key{}, fmt.Errorf("producer key %s: want <name>+<algorithm>+<base64 public key>, as `immutable producer new` prints it", quote(s))
	}
	if err := checkName(name); err != nil {
		return Key{}, fmt.Errorf("producer key %s: %w", quote(s), err)
	}
	public, err := base64.StdEncoding.Strict().DecodeString(b64)
	if err != nil || base64.StdEncoding.EncodeToString(public) != b64 {
		return Key{}, fmt.Errorf("producer key %s: the public key is not base64 with padding, whose unused bits are zero", quote(s))
	}
	k := Key{name: name, algorithm: algorithm, text: s, id: keyID(s)}
	switch {
	case algorithm == Ed25519 && len(public) == ed25519.PublicKeySize:
		k.ed = public
	case algorithm == MLDSA44 && len(public) == mldsa.MLDSA44PublicKeySize:
		if k.ml, err = mldsa.NewPublicKey(mldsa.MLDSA44(), public); err != nil {
			return Key{}, fmt.Errorf("producer key %s: %w", quote(s), err)
		}
	default:
		return Key{}, fmt.Errorf("producer key %s: want algorithm ed25519 with 32 bytes or ml-dsa-44 with 1312, not %s with %d", quote(s), quote(algorithm), len(public))
	}
	return k, nil
}

// checkName is what signed-note asks of a key's name, and no control character: it stands in reports.
func checkName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return fmt.Errorf("the name %s is not 1 to %d bytes of UTF-8", quote(name), maxName)
	}
	for _, r := range name {
		if unicode.IsSpace(r) || unicode.IsControl(r) || r == '+' || r == '"' || r == '\\' {
			return fmt.Errorf("the name %s has %s; it may have no space, control character, plus, quote or backslash", quote(name), strconv.QuoteRune(r))
		}
	}
	return nil
}

// keyID is the first eight bytes of the hash over the key as it is written, in hex.
func keyID(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// Name is who the producer says it is; the log's operator vouches for it by registering the key.
func (k Key) Name() string { return k.name }

// Algorithm is Ed25519 or MLDSA44.
func (k Key) Algorithm() string { return k.algorithm }

// ID is the 16 hex digits that entries carry.
func (k Key) ID() string { return k.id }

// String is the form that ParseKey reads.
func (k Key) String() string { return k.text }

// Verify reports whether p is this key's signature, for the log of the given origin, over content, which is
// entry.SignedContent of the line. It does not know whether the counter was used before.
func (k Key) Verify(origin string, p entry.Producer, content []byte) bool {
	if p.Key != k.id || content == nil {
		return false
	}
	message := entry.ProducerMessage(nil, origin, k.id, p.Counter, content)
	switch {
	case k.ed != nil:
		return len(p.Signature) == ed25519.SignatureSize && ed25519.Verify(k.ed, message, p.Signature)
	case k.ml != nil:
		return len(p.Signature) == mldsa.MLDSA44SignatureSize && mldsa.Verify(k.ml, message, p.Signature, nil) == nil
	}
	return false
}

const (
	// privatePrefix begins the private form; what follows is like a key, with the seed in place of the public key.
	privatePrefix = "PRODUCER+KEY+"
	seedSize      = 32
)

// PrivateKey signs events. It is safe for concurrent use.
type PrivateKey struct {
	key  Key
	seed [seedSize]byte
	ed   ed25519.PrivateKey
	ml   *mldsa.PrivateKey
}

// NewKey makes the key of a name and algorithm from a seed, which must be drawn at random and kept secret: it is the key.
func NewKey(name, algorithm string, seed [32]byte) (*PrivateKey, error) {
	p := &PrivateKey{seed: seed}
	var public []byte
	switch algorithm {
	case Ed25519:
		p.ed = ed25519.NewKeyFromSeed(seed[:])
		public = p.ed[ed25519.PrivateKeySize-ed25519.PublicKeySize:]
	case MLDSA44:
		var err error
		if p.ml, err = mldsa.NewPrivateKey(mldsa.MLDSA44(), seed[:]); err != nil {
			return nil, fmt.Errorf("make a producer's key: %w", err)
		}
		public = p.ml.PublicKey().Bytes()
	default:
		return nil, fmt.Errorf("make a producer's key: algorithm %s: want ed25519 or ml-dsa-44", quote(algorithm))
	}
	var err error
	if p.key, err = ParseKey(name + "+" + algorithm + "+" + base64.StdEncoding.EncodeToString(public)); err != nil {
		return nil, err
	}
	return p, nil
}

// ParsePrivateKey reads what PrivateKey.String writes. Its errors show nothing of the key.
func ParsePrivateKey(s string) (*PrivateKey, error) {
	rest, found := strings.CutPrefix(s, privatePrefix)
	name, rest, _ := strings.Cut(rest, "+")
	algorithm, b64, more := strings.Cut(rest, "+")
	seed, err := base64.StdEncoding.Strict().DecodeString(b64)
	if !found || !more || err != nil || len(seed) != seedSize {
		return nil, fmt.Errorf("not a producer's private key: want %s<name>+<algorithm>+<base64 of %d bytes>, as `immutable producer new` writes it", privatePrefix, seedSize)
	}
	p, err := NewKey(name, algorithm, [seedSize]byte(seed))
	if err != nil {
		return nil, err
	}
	if p.String() != s {
		return nil, errors.New("not a producer's private key in its one spelling")
	}
	return p, nil
}

// Key is the public key.
func (p *PrivateKey) Key() Key { return p.key }

// String is the form that ParsePrivateKey reads: the secret itself.
func (p *PrivateKey) String() string {
	return privatePrefix + p.key.name + "+" + p.key.algorithm + "+" + base64.StdEncoding.EncodeToString(p.seed[:])
}

// Sign signs content under a counter for the log of the given origin. The same arguments give the same signature. It is
// verified before it is returned: one that a fault in the machine spoiled, which could betray the key, does not leave here.
func (p *PrivateKey) Sign(origin string, counter uint64, content []byte) (entry.Producer, error) {
	message := entry.ProducerMessage(nil, origin, p.key.id, counter, content)
	out := entry.Producer{Key: p.key.id, Counter: counter}
	if p.ed != nil {
		out.Signature = ed25519.Sign(p.ed, message)
	} else {
		var err error
		if out.Signature, err = p.ml.SignDeterministic(message, nil); err != nil {
			return entry.Producer{}, fmt.Errorf("sign an event: %w", err)
		}
	}
	if !p.key.Verify(origin, out, content) {
		return entry.Producer{}, errors.New("sign an event: the signature that was made is not good; nothing is sent")
	}
	return out, nil
}

// quote is s for an error, cut where a key would fill the screen.
func quote(s string) string {
	const most = 80
	if strings.Contains(s, privatePrefix) || strings.Contains(s, "PRIVATE+KEY+") {
		return "(a private key, which is not shown; the public one is wanted)"
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}
