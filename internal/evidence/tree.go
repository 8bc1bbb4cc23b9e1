package evidence

import (
	"fmt"
	"math/bits"
	"sort"

	"github.com/tree-of-life-system/immutable/proof"
)

// One proof serves all entries of a bundle. Walk the tree of RFC 6962 from its root: a subtree without any of the entries
// gives its hash, a leaf that is one of them is known, and any other subtree is split, the left part first. The proof is the
// hashes in the order of that walk. No hash stands twice, and one that is not needed has no place.

// Root recomputes the root of a tree of the given size from some of its leaves and the proof for them. indexes are
// ascending, without repeats, and below size.
func Root(size uint64, indexes []uint64, leaves, hashes []proof.Hash) (proof.Hash, error) {
	for i, x := range indexes {
		if x >= size || i > 0 && indexes[i-1] >= x {
			return proof.Hash{}, fmt.Errorf("index %d: want indexes in ascending order, below the size %d", x, size)
		}
	}
	next := 0
	var walk func(lo, hi uint64, from, to int) (proof.Hash, error)
	walk = func(lo, hi uint64, from, to int) (proof.Hash, error) {
		switch {
		case from == to:
			if next == len(hashes) {
				return proof.Hash{}, fmt.Errorf("%w: %d hashes are too few for %d entries in a tree of size %d", proof.ErrProofShape, len(hashes), len(indexes), size)
			}
			next++
			return hashes[next-1], nil
		case hi-lo == 1:
			return leaves[from], nil
		}
		mid := lo + split(hi-lo)
		cut := from + sort.Search(to-from, func(i int) bool { return indexes[from+i] >= mid })
		l, err := walk(lo, mid, from, cut)
		if err != nil {
			return l, err
		}
		r, err := walk(mid, hi, cut, to)
		return proof.NodeHash(l, r), err
	}
	if size == 0 || len(indexes) != len(leaves) {
		return proof.Hash{}, fmt.Errorf("%w: %d indexes, %d leaves, size %d", proof.ErrProofShape, len(indexes), len(leaves), size)
	}
	root, err := walk(0, size, 0, len(indexes))
	if err == nil && next != len(hashes) {
		err = fmt.Errorf("%w: %d hashes, of which %d are needed", proof.ErrProofShape, len(hashes), next)
	}
	return root, err
}

// Prove lists the hashes that Root needs. hash returns the root of the subtree over the leaves lo … hi-1.
func Prove(size uint64, indexes []uint64, hash func(lo, hi uint64) (proof.Hash, error)) ([]proof.Hash, error) {
	var out []proof.Hash
	var walk func(lo, hi uint64, from, to int) error
	walk = func(lo, hi uint64, from, to int) error {
		if from == to {
			h, err := hash(lo, hi)
			out = append(out, h)
			return err
		}
		if hi-lo == 1 {
			return nil
		}
		mid := lo + split(hi-lo)
		cut := from + sort.Search(to-from, func(i int) bool { return indexes[from+i] >= mid })
		if err := walk(lo, mid, from, cut); err != nil {
			return err
		}
		return walk(mid, hi, cut, to)
	}
	if err := walk(0, size, 0, len(indexes)); err != nil {
		return nil, fmt.Errorf("proof of %d entries: %w", len(indexes), err)
	}
	return out, nil
}

// split is the largest power of two below n, which is at least 2.
func split(n uint64) uint64 {
	return 1 << (bits.Len64(n-1) - 1)
}
