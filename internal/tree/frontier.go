// Package tree keeps an RFC 6962 tree over flat hash arrays: it appends, remembers group roots and chain hashes, and makes proofs.
package tree

import (
	"fmt"
	"math/bits"

	"github.com/tree-of-life-system/immutable/proof"
)

// GroupSize is the number of leaves in a group. It is part of the format; never change it.
const GroupSize = 256

// groupLevel is the height of a group's root above the leaves: 2^groupLevel = GroupSize.
const groupLevel = 8

// A Frontier is the right edge of a tree: all that is needed to append and to know the root. The zero value is the
// empty tree. It is a plain value of about 2 KiB without pointers; it is not safe for concurrent use.
type Frontier struct {
	size uint64
	// peaks[l] is the root of the perfect subtree of 2^l leaves; it is valid exactly if bit l of size is set.
	peaks [64]proof.Hash
	group proof.Hash
}

// Append adds one leaf.
func (f *Frontier) Append(leaf proof.Hash) {
	f.push(leaf, 0)
}

// AppendGroup adds a whole group of [GroupSize] leaves by its root. It panics unless Size is a multiple of GroupSize.
func (f *Frontier) AppendGroup(root proof.Hash) {
	if f.size%GroupSize != 0 {
		panic(fmt.Sprintf("tree: group appended at size %d, which is not a multiple of %d", f.size, GroupSize))
	}
	f.push(root, groupLevel)
}

func (f *Frontier) push(h proof.Hash, level int) {
	l := level
	for ; f.size>>l&1 == 1; l++ {
		if l == groupLevel {
			f.group = h
		}
		h = proof.NodeHash(f.peaks[l], h)
	}
	if l == groupLevel {
		f.group = h
	}
	f.peaks[l] = h
	f.size += 1 << level
}

// Size returns the number of leaves.
func (f *Frontier) Size() uint64 { return f.size }

// LastGroup returns the root of the last whole group. It is the zero Hash when Size is below [GroupSize].
func (f *Frontier) LastGroup() proof.Hash { return f.group }

// Root returns the Merkle tree hash of the leaves so far, in time logarithmic in their number.
func (f *Frontier) Root() proof.Hash {
	if f.size == 0 {
		return proof.EmptyRoot()
	}
	l := bits.TrailingZeros64(f.size)
	root := f.peaks[l]
	for rest := f.size >> l >> 1; rest != 0; rest >>= 1 {
		l++
		if rest&1 == 1 {
			root = proof.NodeHash(f.peaks[l], root)
		}
	}
	return root
}

// Peak returns the root of the perfect subtree of 2^level leaves on the right edge. There is one exactly if that bit of
// Size is set; else what it returns means nothing.
func (f *Frontier) Peak(level int) proof.Hash { return f.peaks[level] }

// Clone returns an independent copy.
func (f *Frontier) Clone() *Frontier {
	c := *f
	return &c
}
