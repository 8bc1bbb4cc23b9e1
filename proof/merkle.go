package proof

import (
	"errors"
	"fmt"
	"math/bits"
)

// A MismatchError says that a proof has the right shape but leads to another value: the evidence that something differs.
type MismatchError struct {
	What string // "inclusion root", "older root", "newer root", …
	Got  Hash   // recomputed from the proof
	Want Hash   // claimed
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s differs: recomputed %s, claimed %s", e.What, e.Got.Base64(), e.Want.Base64())
}

// ErrProofShape is in the chain of errors about proofs that cannot be right for any tree: numbers out of range, too many or too few hashes.
var ErrProofShape = errors.New("proof does not fit the sizes")

// CheckInclusion returns nil exactly if p shows that leaf stands at index in the tree of the given size and root
// (RFC 9162, section 2.1.3.2). A tree without leaves includes nothing.
func CheckInclusion(p []Hash, index, size uint64, leaf, root Hash) error {
	if index >= size {
		return fmt.Errorf("%w: index %d in a tree of size %d", ErrProofShape, index, size)
	}
	// Up to the node where the paths of index and of the last leaf meet, each level has a sibling; above it only the
	// levels where the path goes right do.
	inner := bits.Len64(index ^ (size - 1))
	want := inner + bits.OnesCount64(index>>inner)
	if len(p) != want {
		return fmt.Errorf("%w: %d hashes for index %d in a tree of size %d, want %d", ErrProofShape, len(p), index, size, want)
	}
	h := leaf
	for level, sibling := range p {
		if level >= inner || index>>level&1 == 1 {
			h = NodeHash(sibling, h)
		} else {
			h = NodeHash(h, sibling)
		}
	}
	if h != root {
		return &MismatchError{"inclusion root", h, root}
	}
	return nil
}

// CheckConsistency returns nil exactly if p shows that the tree of size b and rootB begins with the leaves of the tree
// of size a and rootA (RFC 9162, section 2.1.4.2). Every tree begins with the empty one: for a = 0 the proof has no
// hashes and rootA is [EmptyRoot]; nothing is then said about rootB unless b is 0 too.
func CheckConsistency(p []Hash, a, b uint64, rootA, rootB Hash) error {
	if a > b {
		return fmt.Errorf("%w: older size %d is above newer size %d", ErrProofShape, a, b)
	}
	if a == 0 || a == b {
		return checkTrivial(p, a, b, rootA, rootB)
	}
	// The older tree's last perfect subtree is where the proof starts. When it is the whole older tree, its root is not repeated in the proof.
	rest, seed := p, rootA
	if bits.OnesCount64(a) != 1 {
		if len(p) == 0 {
			return fmt.Errorf("%w: no hashes from size %d to size %d", ErrProofShape, a, b)
		}
		seed, rest = p[0], p[1:]
	}
	oldRoot, newRoot, err := foldConsistency(rest, a, b, seed)
	if err != nil {
		return err
	}
	if oldRoot != rootA {
		return &MismatchError{"older root", oldRoot, rootA}
	}
	if newRoot != rootB {
		return &MismatchError{"newer root", newRoot, rootB}
	}
	return nil
}

// foldConsistency returns the roots of the first a leaves and of b that p, 1 ≤ a < b, leads to from seed, the root of the
// last perfect subtree of the first a leaves.
func foldConsistency(p []Hash, a, b uint64, seed Hash) (oldRoot, newRoot Hash, err error) {
	fn, sn := a-1, b-1
	shift := bits.TrailingZeros64(a)
	fn, sn = fn>>shift, sn>>shift
	oldRoot, newRoot = seed, seed
	for _, h := range p {
		if sn == 0 {
			return Hash{}, Hash{}, fmt.Errorf("%w: %d hashes from size %d to size %d are too many", ErrProofShape, len(p), a, b)
		}
		if fn&1 == 1 || fn == sn {
			oldRoot, newRoot = NodeHash(h, oldRoot), NodeHash(h, newRoot)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			newRoot = NodeHash(newRoot, h)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return Hash{}, Hash{}, fmt.Errorf("%w: %d hashes from size %d to size %d are too few", ErrProofShape, len(p), a, b)
	}
	return oldRoot, newRoot, nil
}

func checkTrivial(p []Hash, a, b uint64, rootA, rootB Hash) error {
	if len(p) != 0 {
		return fmt.Errorf("%w: %d hashes from size %d to size %d, want 0", ErrProofShape, len(p), a, b)
	}
	if a == 0 && rootA != EmptyRoot() {
		return &MismatchError{"root of size 0", EmptyRoot(), rootA}
	}
	if a == b && rootA != rootB {
		return &MismatchError{fmt.Sprintf("root of size %d", a), rootA, rootB}
	}
	return nil
}
