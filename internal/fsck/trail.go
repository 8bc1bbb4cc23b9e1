package fsck

import (
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// A trail is what the inclusion proof of one entry needs, kept while the tree grows behind it.
type trail struct {
	index uint64
	left  tree.Frontier // the tree before the entry
	right []subtree     // what came after it, as few perfect subtrees as there can be
	size  uint64        // of the tree; 0 until the entry itself was added
}

// A subtree is a perfect one.
type subtree struct {
	start uint64
	level int
	hash  proof.Hash
}

// add takes the next leaf, or the root of the next perfect subtree of that level. The first is the entry itself.
func (p *trail) add(h proof.Hash, level int) {
	if p.size == 0 {
		p.size = p.index + 1
		return
	}
	s := subtree{p.size, level, h}
	p.size += 1 << level
	for n := len(p.right); n > 0; n = len(p.right) {
		l := p.right[n-1]
		if l.level != s.level || l.start>>l.level&1 == 1 {
			break
		}
		s = subtree{l.start, l.level + 1, proof.NodeHash(l.hash, s.hash)}
		p.right = p.right[:n-1]
	}
	p.right = append(p.right, s)
}

// proof is the entry's inclusion proof in the tree of the present size, the leaf's sibling first.
func (p *trail) proof() []proof.Hash {
	var out []proof.Hash
	right := p.right
	for l := 0; p.index>>l != 0 || uint64(1)<<l < p.size; l++ {
		block := p.index >> l
		if block&1 == 1 {
			out = append(out, p.left.Peak(l))
			continue
		}
		// The sibling is one perfect subtree, or at the right edge several smaller ones; where the tree ends there is none.
		end := (block + 2) << l
		n := 0
		for n < len(right) && right[n].start < end {
			n++
		}
		if n == 0 {
			continue
		}
		h := right[n-1].hash
		for i := n - 2; i >= 0; i-- {
			h = proof.NodeHash(right[i].hash, h)
		}
		out, right = append(out, h), right[n:]
	}
	return out
}
