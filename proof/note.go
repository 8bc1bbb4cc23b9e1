package proof

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxNote is the most bytes of a note that are read.
	MaxNote = 64 << 10
	// MaxSignatures is the most signature lines a note may have.
	MaxSignatures = 16
	// MaxKeyName is the most bytes the name of a key may have.
	MaxKeyName = 255

	sigPrefix    = "— "
	keyIDSize    = 4
	minSignature = keyIDSize + 1
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
	Name   string
	ID     uint32
	Reason string // what is wrong with it
}

func (e *SignatureError) Error() string {
	return fmt.Sprintf("bad signature by known key %s+%08x: %s", e.Name, e.ID, e.Reason)
}

// A Signer is a key whose signature a note carries, verified.
type Signer struct {
	Key  Key
	Time time.Time // when the signer says that it signed, in whole seconds of UTC; zero for [TypeEd25519], which does not say
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
	good, err := n.Verify(keys)
	if err != nil {
		return "", fmt.Errorf("open note: %w", err)
	}
	if len(good) == 0 {
		return "", fmt.Errorf("open note: %w by any of the %d known keys", ErrNoSignature, len(keys))
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
		if c < 0x20 && c != '\n' || c == 0x7f {
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
	return unicode.IsSpace(r) || r < 0x20 || r == 0x7f
}

// Verify checks every signature by one of keys and returns those that are good, in the order of the note; none is not an
// error. A known key's signature that is not good rejects the note: the error is then a *[SignatureError], and
// [ErrAmbiguousKey] where two of keys have one name and id. The zero Key signs nothing.
func (n *Note) Verify(keys []Key) ([]Signer, error) {
	set, err := newKeySet(keys)
	if err != nil {
		return nil, err
	}
	return n.verify(set)
}

// A keySet finds a key by what a signature line says of it.
type keySet map[keyRef]Key

type keyRef struct {
	name string
	id   uint32
}

func newKeySet(keys []Key) (keySet, error) {
	set := make(keySet, len(keys))
	for _, k := range keys {
		if err := set.add(k); err != nil {
			return nil, err
		}
	}
	return set, nil
}

func (s keySet) add(k Key) error {
	ref := keyRef{k.name, k.id}
	if _, taken := s[ref]; taken {
		return fmt.Errorf("%w: %s+%08x is given twice", ErrAmbiguousKey, k.name, k.id)
	}
	s[ref] = k
	return nil
}

func (n *Note) verify(known keySet) ([]Signer, error) {
	var good []Signer
	for _, sig := range n.Signatures {
		k, found := known[keyRef{sig.Name, sig.ID}]
		if !found || k.IsZero() {
			continue
		}
		unix, reason := k.check(n.Text, sig.Bytes)
		if reason != "" {
			return nil, &SignatureError{sig.Name, sig.ID, reason}
		}
		s := Signer{Key: k}
		if unix != 0 {
			s.Time = time.Unix(int64(unix), 0).UTC()
		}
		good = append(good, s)
	}
	return good, nil
}
