package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	tileWidth = 256
	tileBits  = 8
	maxTiles  = 2048 // kept: 8 KiB each
)

// tree reads the log's tiles (c2sp.org/tlog-tiles) and proves them under checkpoints. A page of entries that lie together
// takes one tile, where it would take a proof for each entry.
type tree struct {
	mu     sync.Mutex // guards the fields; not held across I/O
	full   map[tileID][]proof.Hash
	order  []tileID // of full, oldest first
	edge   [][]proof.Hash
	edgeOf proof.Checkpoint // whose right edge it is
	denied bool             // the server gives this client no tiles: proofs are asked for instead
}

type tileID struct {
	level int
	n     uint64
}

// leaf returns the leaf hash of an entry that cp covers, proven under cp, which was accepted.
func (t *trust) leaf(ctx context.Context, cp proof.Checkpoint, index uint64) (proof.Hash, error) {
	hashes, err := t.tile(ctx, cp, tileID{0, index / tileWidth})
	if err != nil {
		return proof.Hash{}, err
	}
	return hashes[index%tileWidth], nil
}

// tile returns the hashes of a tile as far as cp covers it, proven: a full tile by the hash of the tile above, those of the right
// edge together by the root.
func (t *trust) tile(ctx context.Context, cp proof.Checkpoint, id tileID) ([]proof.Hash, error) {
	if id.n >= cp.Size>>(tileBits*id.level)/tileWidth {
		edge, err := t.rightEdge(ctx, cp)
		if err != nil {
			return nil, err
		}
		return edge[id.level], nil
	}
	t.tree.mu.Lock()
	hashes, found := t.tree.full[id]
	t.tree.mu.Unlock()
	if found {
		return hashes, nil
	}
	above, err := t.tile(ctx, cp, tileID{id.level + 1, id.n / tileWidth})
	if err != nil {
		return nil, err
	}
	if hashes, err = t.fetch(ctx, id, tileWidth); err != nil {
		return nil, err
	}
	if got, want := perfectRoot(hashes), above[id.n%tileWidth]; got != want {
		return nil, &VerificationError{Index: -1, What: fmt.Sprintf("tile %s is not in the tree that the checkpoint of %d entries signs", id.path(tileWidth), cp.Size), Got: got.String(), Want: want.String()}
	}
	t.tree.mu.Lock()
	defer t.tree.mu.Unlock()
	if _, found := t.tree.full[id]; !found {
		t.tree.full[id] = hashes
		t.tree.order = append(t.tree.order, id)
		if len(t.tree.order) > maxTiles {
			delete(t.tree.full, t.tree.order[0])
			t.tree.order = t.tree.order[1:]
		}
	}
	return hashes, nil
}

// rightEdge returns, for each level, the hashes behind the last full tile. Together they are the whole tree, so its root
// proves them all.
func (t *trust) rightEdge(ctx context.Context, cp proof.Checkpoint) ([][]proof.Hash, error) {
	t.tree.mu.Lock()
	edge, of := t.tree.edge, t.tree.edgeOf
	t.tree.mu.Unlock()
	if edge != nil && of == cp {
		return edge, nil
	}
	edge = nil
	for level := 0; level == 0 || cp.Size>>(tileBits*level) > 0; level++ {
		n := cp.Size >> (tileBits * level)
		var hashes []proof.Hash
		if w := int(n % tileWidth); w > 0 {
			var err error
			if hashes, err = t.fetch(ctx, tileID{level, n / tileWidth}, w); err != nil {
				return nil, err
			}
		}
		edge = append(edge, hashes)
	}
	if root := edgeRoot(edge); root != cp.Root {
		return nil, &VerificationError{Index: -1, What: fmt.Sprintf("the tiles at the tree's right edge are not of the checkpoint of %d entries", cp.Size), Got: root.String(), Want: cp.Root.String()}
	}
	t.tree.mu.Lock()
	defer t.tree.mu.Unlock()
	if cp.Size >= t.tree.edgeOf.Size {
		t.tree.edge, t.tree.edgeOf = edge, cp
	}
	return edge, nil
}

// fetch reads the first w hashes of a tile, unproven. Once a tile is full, a server may have it as a whole only.
func (t *trust) fetch(ctx context.Context, id tileID, w int) ([]proof.Hash, error) {
	data, err := t.fetchBytes(ctx, id, w)
	if w < tileWidth && errors.Is(err, immutable.ErrNotFound) {
		if whole, werr := t.fetchBytes(ctx, id, tileWidth); werr == nil {
			data, err = whole[:w*proof.HashSize], nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read tile %s: %w", id.path(w), err)
	}
	hashes := make([]proof.Hash, w)
	for i := range hashes {
		hashes[i] = proof.Hash(data[i*proof.HashSize:])
	}
	return hashes, nil
}

func (t *trust) fetchBytes(ctx context.Context, id tileID, w int) ([]byte, error) {
	data, err := t.c.do(ctx, &call{method: "GET", url: t.c.tlog + "/" + id.path(w), limit: tileWidth * proof.HashSize, repeatable: true})
	if p, ok := errors.AsType[*Problem](err); ok && p.Status == 404 && p.Code == "" {
		return nil, fmt.Errorf("%w: %w", immutable.ErrNotFound, err)
	}
	if err == nil && len(data) != w*proof.HashSize {
		return nil, &VerificationError{Index: -1, What: "a tile has the wrong length", Got: strconv.Itoa(len(data)), Want: strconv.Itoa(w * proof.HashSize)}
	}
	return data, err
}

// path is the tile's path in a log.
func (id tileID) path(w int) string {
	n := id.n
	digits := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		digits = fmt.Sprintf("x%03d/", n%1000) + digits
	}
	if w < tileWidth {
		digits += fmt.Sprintf(".p/%d", w)
	}
	return fmt.Sprintf("tile/%d/%s", id.level, digits)
}

// perfectRoot is the root over a power of two of hashes.
func perfectRoot(hashes []proof.Hash) proof.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return proof.NodeHash(perfectRoot(hashes[:half]), perfectRoot(hashes[half:]))
}

// edgeRoot is the root of the tree whose right edge it is: from the highest level down, its hashes are perfect trees of
// falling size.
func edgeRoot(edge [][]proof.Hash) proof.Hash {
	var trees []proof.Hash
	for level := len(edge) - 1; level >= 0; level-- {
		rest := edge[level]
		for size := tileWidth / 2; size > 0; size /= 2 {
			if len(rest)&size != 0 {
				trees = append(trees, perfectRoot(rest[:size]))
				rest = rest[size:]
			}
		}
	}
	if len(trees) == 0 {
		return proof.EmptyRoot()
	}
	root := trees[len(trees)-1]
	for i := len(trees) - 2; i >= 0; i-- {
		root = proof.NodeHash(trees[i], root)
	}
	return root
}

// subtree is the root of the first size entries of cp's tree, where size is a power of two.
func (t *trust) subtree(ctx context.Context, cp proof.Checkpoint, size uint64) (proof.Hash, error) {
	level := 0
	for size >= tileWidth {
		size, level = size/tileWidth, level+1
	}
	hashes, err := t.tile(ctx, cp, tileID{level, 0})
	if err != nil {
		return proof.Hash{}, err
	}
	if uint64(len(hashes)) < size {
		return proof.Hash{}, fmt.Errorf("the tile has %d hashes", len(hashes))
	}
	return perfectRoot(hashes[:size]), nil
}

// proveLeaf checks that cp, which was accepted and covers it, has this leaf at index.
func (t *trust) proveLeaf(ctx context.Context, cp proof.Checkpoint, index uint64, leaf proof.Hash) error {
	t.tree.mu.Lock()
	denied := t.tree.denied
	t.tree.mu.Unlock()
	if !denied {
		want, err := t.leaf(ctx, cp, index)
		switch p, ok := errors.AsType[*Problem](err); {
		case ok && (p.Status == 403 || p.Status == 404):
			t.tree.mu.Lock()
			t.tree.denied = true
			t.tree.mu.Unlock()
		case err != nil:
			return err
		case want != leaf:
			return &VerificationError{Index: int64(index), What: fmt.Sprintf("it is not the one that the checkpoint of %d entries covers", cp.Size), Got: leaf.String(), Want: want.String()}
		default:
			return nil
		}
	}
	return t.proveByProof(ctx, index, leaf)
}

// proveByProof asks for a proof of one entry.
func (t *trust) proveByProof(ctx context.Context, index uint64, leaf proof.Hash) error {
	data, err := t.c.get(ctx, t.c.base+"/entries/"+strconv.FormatUint(index, 10)+"/proof")
	if err != nil {
		return fmt.Errorf("ask for the proof of entry %d: %w", index, err)
	}
	return t.checkProof(ctx, data, index, leaf)
}

// checkProof verifies a receipt of an entry.
func (t *trust) checkProof(ctx context.Context, data []byte, index uint64, leaf proof.Hash) error {
	p, err := proof.ParseInclusionProof(data)
	if err == nil && p.Index != index {
		err = fmt.Errorf("it is of entry %d", p.Index)
	}
	if err != nil {
		return &VerificationError{Index: int64(index), What: "its proof is none", Err: err}
	}
	// The proof may stand on an older checkpoint, which witnesses have signed: only that it covers the entry is demanded of it.
	cp, err := t.accept(ctx, p.Checkpoint, 0)
	if err != nil {
		return err
	}
	if err := proof.CheckInclusion(p.Hashes, index, cp.Size, leaf, cp.Root); err != nil {
		return &VerificationError{Index: int64(index), What: fmt.Sprintf("it is not in the tree of the checkpoint of %d entries", cp.Size), Err: err}
	}
	return nil
}
