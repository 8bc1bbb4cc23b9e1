package proof

import (
	"errors"
	"fmt"
	"strings"
)

const (
	misbehaviourHeader = "immutable/misbehaviour/1\n"
	// maxMisbehaviour is the most bytes of a misbehaviour proof that are read: header, hashes, two notes, two empty lines.
	maxMisbehaviour = len(misbehaviourHeader) + (MaxProofHashes+1)*45 + 2*MaxNote + 2
)

// ErrConsistent is in the chain of errors about a misbehaviour proof whose two checkpoints do not contradict each other.
var ErrConsistent = errors.New("the two checkpoints do not contradict each other")

// A Misbehaviour is a portable proof that a log signed two histories (docs/format.md, "Misbehaviour proofs"): two
// checkpoints of one size with different roots, or two of different sizes and a consistency proof which shows that the tree of the
// larger one begins with other entries than the smaller one says.
type Misbehaviour struct {
	A, B []byte // checkpoint notes, verbatim; A's size is at most B's
	// Proof, empty for equal sizes, is what [ConsistencyRoot] takes: it leads to B's root.
	Proof []Hash
}

// A Contradiction is what a misbehaviour proof proves: of the first Size entries of the log of this origin, one signed
// checkpoint says RootA and another one, of SizeB ≥ Size entries, implies RootB.
type Contradiction struct {
	Origin       string
	Size         uint64
	SizeB        uint64
	RootA, RootB Hash
	KeysA, KeysB []Key // the log's keys that signed A and B
}

func (c Contradiction) String() string {
	names := func(keys []Key) string {
		var b strings.Builder
		for i, k := range keys {
			if i > 0 {
				b.WriteString(" and ")
			}
			fmt.Fprintf(&b, "%s+%08x", k.name, k.id)
		}
		return b.String()
	}
	if c.Size == c.SizeB {
		return fmt.Sprintf("%s signed two histories: for size %d root %s, signed by %s, and root %s, signed by %s",
			c.Origin, c.Size, c.RootA.Base64(), names(c.KeysA), c.RootB.Base64(), names(c.KeysB))
	}
	return fmt.Sprintf("%s signed two histories: for size %d root %s, signed by %s; but the tree of size %d, signed by %s, has root %s over its first %d entries",
		c.Origin, c.Size, c.RootA.Base64(), names(c.KeysA), c.SizeB, names(c.KeysB), c.RootB.Base64(), c.Size)
}

// ConsistencyRoot returns the root of the first a leaves that p shows to begin the tree of size b and root rootB, for
// 1 ≤ a < b. p is the consistency proof of RFC 9162, section 2.1.4; where a is a power of two, that one leaves out the very root,
// because its reader knows it, and it stands here first.
func ConsistencyRoot(p []Hash, a, b uint64, rootB Hash) (rootA Hash, err error) {
	if a == 0 || a >= b {
		return Hash{}, fmt.Errorf("%w: no root of size %d follows from one of size %d", ErrProofShape, a, b)
	}
	if len(p) == 0 {
		return Hash{}, fmt.Errorf("%w: no hashes from size %d to size %d", ErrProofShape, a, b)
	}
	rootA, newRoot, err := foldConsistency(p[1:], a, b, p[0])
	if err != nil {
		return Hash{}, err
	}
	if newRoot != rootB {
		return Hash{}, &MismatchError{"newer root", newRoot, rootB}
	}
	return rootA, nil
}

// Verify returns the contradiction exactly if both notes are checkpoints of one log, each signed by at least one of keys as
// the log's own (name = origin, type 0x01 or 0x06; the log key alone is enough), and they contradict each other; a bad
// signature by any of keys rejects. Notes that are consistent are refused with [ErrConsistent].
func (m Misbehaviour) Verify(keys []Key) (Contradiction, error) {
	c, err := m.verify(keys)
	if err != nil {
		return Contradiction{}, fmt.Errorf("verify misbehaviour proof: %w", err)
	}
	return c, nil
}

func (m Misbehaviour) verify(keys []Key) (Contradiction, error) {
	a, keysA, err := openSigned(m.A, keys)
	if err != nil {
		return Contradiction{}, fmt.Errorf("first checkpoint: %w", err)
	}
	b, keysB, err := openSigned(m.B, keys)
	if err != nil {
		return Contradiction{}, fmt.Errorf("second checkpoint: %w", err)
	}
	if a.Origin != b.Origin {
		return Contradiction{}, fmt.Errorf("%w: the first checkpoint is of %s, the second of %s", ErrOrigin, quote(a.Origin), quote(b.Origin))
	}
	c := Contradiction{Origin: a.Origin, Size: a.Size, SizeB: b.Size, RootA: a.Root, RootB: b.Root, KeysA: keysA, KeysB: keysB}
	if a.Size == b.Size {
		if len(m.Proof) != 0 {
			return Contradiction{}, fmt.Errorf("%w: %d hashes for equal sizes, want 0", ErrProofShape, len(m.Proof))
		}
	} else if c.RootB, err = ConsistencyRoot(m.Proof, a.Size, b.Size, b.Root); err != nil {
		return Contradiction{}, err
	}
	if c.RootA == c.RootB {
		return Contradiction{}, fmt.Errorf("%w: both have root %s over the first %d entries", ErrConsistent, c.RootA.Base64(), c.Size)
	}
	return c, nil
}

// openSigned verifies a checkpoint of whatever origin and returns those of keys that signed it for the log.
func openSigned(note []byte, keys []Key) (Checkpoint, []Key, error) {
	n, err := ParseNote(note)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	signers, err := n.Verify(keys)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	var own []Key
	for _, s := range signers {
		if s.Key.name == c.Origin && s.Key.signsForLog() {
			own = append(own, s.Key)
		}
	}
	if len(own) == 0 {
		return Checkpoint{}, nil, fmt.Errorf("%w by a known key of the log %s", ErrNoSignature, quote(c.Origin))
	}
	return c, own, nil
}

// MarshalText returns the form that [ParseMisbehaviour] reads, and refuses what it would refuse.
func (m Misbehaviour) MarshalText() ([]byte, error) {
	var b strings.Builder
	b.WriteString(misbehaviourHeader)
	for _, h := range m.Proof {
		b.WriteString(h.Base64() + "\n")
	}
	b.WriteString("\n")
	b.Write(m.A)
	b.WriteString("\n")
	b.Write(m.B)
	got, err := ParseMisbehaviour([]byte(b.String()))
	if err != nil {
		return nil, fmt.Errorf("encode misbehaviour proof: %w", err)
	}
	if string(got.A) != string(m.A) || string(got.B) != string(m.B) {
		return nil, fmt.Errorf("encode misbehaviour proof: %w: two notes that read as others", ErrMalformedNote)
	}
	return []byte(b.String()), nil
}

// ParseMisbehaviour reads a misbehaviour proof in its one spelling: the header line, a line in base64 for each hash, an
// empty line, the first note, an empty line, the second note. Both are signed checkpoints of one origin, the first one's size is at
// most the second one's. Nothing is verified: that is [Misbehaviour.Verify].
func ParseMisbehaviour(data []byte) (*Misbehaviour, error) {
	m, err := parseMisbehaviour(string(data))
	if err != nil {
		return nil, fmt.Errorf("parse misbehaviour proof: %w", err)
	}
	return m, nil
}

func parseMisbehaviour(s string) (*Misbehaviour, error) {
	if len(s) > maxMisbehaviour {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(s), maxMisbehaviour)
	}
	rest, found := strings.CutPrefix(s, misbehaviourHeader)
	if !found {
		return nil, fmt.Errorf("first line is not %q", strings.TrimSpace(misbehaviourHeader))
	}
	var m Misbehaviour
	for {
		line, after, found := strings.Cut(rest, "\n")
		if !found {
			return nil, errors.New("no empty line before the first note")
		}
		rest = after
		if line == "" {
			break
		}
		if len(m.Proof) > MaxProofHashes {
			return nil, fmt.Errorf("more than %d hashes", MaxProofHashes+1)
		}
		h, err := ParseHash(line)
		if err != nil {
			return nil, fmt.Errorf("hash %d: %w", len(m.Proof), err)
		}
		m.Proof = append(m.Proof, h)
	}
	notes, err := SplitNotes([]byte(rest + "\n"))
	if err != nil {
		return nil, err
	}
	if len(notes) != 2 {
		return nil, fmt.Errorf("%d notes, want 2", len(notes))
	}
	m.A, m.B = notes[0], notes[1]
	var c [2]Checkpoint
	for i, note := range notes {
		n, err := ParseNote(note)
		if err != nil {
			return nil, fmt.Errorf("note %d: %w", i+1, err)
		}
		if c[i], err = ParseCheckpoint(n.Text); err != nil {
			return nil, fmt.Errorf("note %d: %w", i+1, err)
		}
	}
	if c[0].Origin != c[1].Origin {
		return nil, fmt.Errorf("%w: the first note is of %s, the second of %s", ErrOrigin, quote(c[0].Origin), quote(c[1].Origin))
	}
	if c[0].Size > c[1].Size {
		return nil, fmt.Errorf("the first note's size %d is above the second's, %d: want the smaller one first", c[0].Size, c[1].Size)
	}
	return &m, nil
}
