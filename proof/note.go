package proof

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

const (
	// MaxNote is the most bytes of a note that are read.
	MaxNote = 64 << 10
	// MaxSignatures is the most signature lines a note may have.
	MaxSignatures = 16
	// MaxKeyName is the most bytes the name of a key may have.
	MaxKeyName = 255

	sigPrefix      = "— "
	typeEd25519    = 0x01
	keyIDSize      = 4
	minSignature   = keyIDSize + 1
	ed25519KeySize = 1 + 32 // type byte and public key
)

var (
	// ErrMalformedNote is in the chain of errors about bytes that are no signed note.
	ErrMalformedNote = errors.New("malformed note")
	// ErrNoSignature is in the chain when none of the expected keys signed: the note proves nothing, to this reader.
	ErrNoSignature = errors.New("no signature")
	// ErrAmbiguousKey is in the chain when two of the expected keys have one name and id, so that a signature does not say whose it is.
	ErrAmbiguousKey = errors.New("ambiguous key")
)

// A SignatureError says that a note carries a signature by a known key which does not match: the text or the signature was altered.
type SignatureError struct {
	Name string
	ID   uint32
}

func (e *SignatureError) Error() string {
	return fmt.Sprintf("bad signature by known key %s+%08x", e.Name, e.ID)
}

// A Note is a signed note as C2SP signed-note defines it, taken apart but not verified.
type Note struct {
	Text       string // what is signed; ends in a newline
	Signatures []Signature
}

// A Signature is one signature line of a note.
type Signature struct {
	Name  string
	ID    uint32
	Bytes []byte // without the key id; what it must be is the key's affair
}

// OpenNote verifies a note and returns its text. Each signature by one of keys must be good, also when there are several by
// the same key, and there must be at least one. Signatures by other keys are ignored. The errors are, or wrap,
// [ErrMalformedNote], [ErrNoSignature], [ErrAmbiguousKey] and *[SignatureError].
func OpenNote(data []byte, keys []Key) (text string, err error) {
	n, err := ParseNote(data)
	if err != nil {
		return "", fmt.Errorf("open note: %w", err)
	}
	if _, err := n.verify(keys); err != nil {
		return "", fmt.Errorf("open note: %w", err)
	}
	return n.Text, nil
}

// ParseNote takes a note apart without verifying anything: valid UTF-8 without control characters but newline, at most [MaxNote]
// bytes, a text, an empty line, 1 to [MaxSignatures] signature lines in strict base64.
func ParseNote(data []byte) (*Note, error) {
	if len(data) > MaxNote {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrMalformedNote, len(data), MaxNote)
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%w: invalid UTF-8", ErrMalformedNote)
	}
	for i, c := range data {
		if c < 0x20 && c != '\n' {
			return nil, fmt.Errorf("%w: control character %#02x at byte %d", ErrMalformedNote, c, i)
		}
	}
	s := string(data)
	split := strings.LastIndex(s, "\n\n")
	if split < 0 {
		return nil, fmt.Errorf("%w: no empty line between text and signatures", ErrMalformedNote)
	}
	n := &Note{Text: s[:split+1]}
	for rest := s[split+2:]; rest != "" || len(n.Signatures) == 0; {
		line, after, found := strings.Cut(rest, "\n")
		if !found {
			return nil, fmt.Errorf("%w: signature line %d is missing or not ended by a newline", ErrMalformedNote, len(n.Signatures))
		}
		if len(n.Signatures) == MaxSignatures {
			return nil, fmt.Errorf("%w: more than %d signatures", ErrMalformedNote, MaxSignatures)
		}
		sig, err := parseSignature(line)
		if err != nil {
			return nil, fmt.Errorf("%w: signature line %d: %w", ErrMalformedNote, len(n.Signatures), err)
		}
		n.Signatures = append(n.Signatures, sig)
		rest = after
	}
	return n, nil
}

func parseSignature(line string) (Signature, error) {
	line, found := strings.CutPrefix(line, sigPrefix)
	if !found {
		return Signature{}, fmt.Errorf("does not begin with %q", sigPrefix)
	}
	name, b64, _ := strings.Cut(line, " ")
	if err := checkKeyName(name); err != nil {
		return Signature{}, err
	}
	b, err := decodeBase64(b64)
	if err != nil {
		return Signature{}, err
	}
	if len(b) < minSignature {
		return Signature{}, fmt.Errorf("%d bytes, want a key id of %d bytes and a signature", len(b), keyIDSize)
	}
	return Signature{Name: name, ID: binary.BigEndian.Uint32(b), Bytes: b[keyIDSize:]}, nil
}

func checkKeyName(name string) error {
	if len(name) == 0 || len(name) > MaxKeyName || !utf8.ValidString(name) || strings.Contains(name, "+") || strings.ContainsFunc(name, forbiddenInName) {
		return fmt.Errorf("key name %s: want 1 to %d bytes without spaces and plus", quote(name), MaxKeyName)
	}
	return nil
}

func forbiddenInName(r rune) bool {
	return unicode.IsSpace(r) || r < 0x20
}

// verify checks every signature by one of keys and returns the keys that signed.
func (n *Note) verify(keys []Key) ([]Key, error) {
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k.name == other.name && k.id == other.id {
				return nil, fmt.Errorf("%w %s+%08x is given twice", ErrAmbiguousKey, k.name, k.id)
			}
		}
	}
	var good []Key
	for _, sig := range n.Signatures {
		for _, k := range keys {
			if k.verifier == nil || k.name != sig.Name || k.id != sig.ID {
				continue
			}
			if !k.verifier.Verify([]byte(n.Text), sig.Bytes) {
				return nil, &SignatureError{sig.Name, sig.ID}
			}
			good = append(good, k)
		}
	}
	if len(good) == 0 {
		return nil, fmt.Errorf("%w by any of the %d known keys", ErrNoSignature, len(keys))
	}
	return good, nil
}

// A Key verifies the signatures of one named signer. The zero Key verifies nothing.
type Key struct {
	name     string
	id       uint32
	vkey     string
	verifier note.Verifier
}

// ParseKey reads a signed-note verifier key, `<name>+<8 hex>+<base64(type || public key)>`, in its one spelling.
// Type 0x01, Ed25519, is the only one so far.
func ParseKey(vkey string) (Key, error) {
	fail := func(format string, args ...any) (Key, error) {
		return Key{}, fmt.Errorf("parse key %s: %w", quote(vkey), fmt.Errorf(format, args...))
	}
	name, rest, _ := strings.Cut(vkey, "+")
	_, b64, found := strings.Cut(rest, "+")
	if !found {
		return fail("want <name>+<8 hex>+<base64>")
	}
	if err := checkKeyName(name); err != nil {
		return fail("%w", err)
	}
	pub, err := decodeBase64(b64)
	if err != nil {
		return fail("%w", err)
	}
	if len(pub) != ed25519KeySize || pub[0] != typeEd25519 {
		return fail("want type 0x01 and an Ed25519 public key of 32 bytes")
	}
	// The rest, the key id above all, is x/mod's to check; comparing spellings then rules out every other one.
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return fail("%w", err)
	}
	k := Key{name: name, id: v.KeyHash(), verifier: v}
	k.vkey = fmt.Sprintf("%s+%08x+%s", name, k.id, base64.StdEncoding.EncodeToString(pub))
	if k.vkey != vkey {
		return fail("not in its canonical form, which is %s", quote(k.vkey))
	}
	return k, nil
}

// Name returns the signer's name; for a log's own key it is the origin.
func (k Key) Name() string { return k.name }

// ID returns the key id that signatures carry.
func (k Key) ID() uint32 { return k.id }

// String returns the form that [ParseKey] reads.
func (k Key) String() string { return k.vkey }
