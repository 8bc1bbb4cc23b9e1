package tree

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/tree-of-life-system/immutable/proof"
)

// A TileError says where the arrays do not agree with the trusted root, or lack what it needs. The entries may well be
// intact: `immutable rebuild` makes the arrays again from them.
type TileError struct {
	File   string // relative to the log's directory, with slashes
	Offset int64  // of the hashes in question, in bytes
	Length int64
	// Got is the root over these hashes and Want what it must be; both are zero when Err says why there is none.
	Got, Want proof.Hash
	Err       error
}

func (e *TileError) Error() string {
	at := fmt.Sprintf("%s, %d bytes at offset %d", e.File, e.Length, e.Offset)
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", at, e.Err)
	}
	return fmt.Sprintf("%s: root is %s, want %s", at, e.Got.Base64(), e.Want.Base64())
}

func (e *TileError) Unwrap() error { return e.Err }

// A RootError says that the right edge of the arrays does not have the root that is trusted for this size.
type RootError struct {
	Size      uint64
	Got, Want proof.Hash
}

func (e *RootError) Error() string {
	return fmt.Sprintf("tree of size %d: root from the arrays is %s, trusted root is %s", e.Size, e.Got.Base64(), e.Want.Base64())
}

// A GroupError says that leaves are not those of the trusted tree: the entries they come from were altered.
type GroupError struct {
	Group     uint64
	Got, Want proof.Hash // roots over the group's leaves: of the given ones, and in the trusted tree
}

func (e *GroupError) Error() string {
	return fmt.Sprintf("group %d (entries from %d on): root over the leaves is %s, the trusted tree has %s",
		e.Group, e.Group*GroupSize, e.Got.Base64(), e.Want.Base64())
}

// A View is a Store seen from a trusted root: what it confirms and proves is what that root commits to, whatever the
// files say. It stays valid while the Store grows. It is safe for concurrent use.
type View struct {
	s     *Store
	size  uint64
	root  proof.Hash
	tail  []proof.Hash
	edges *edges // confirmed by root
}

// View recomputes root from the arrays' right edge and tail, the leaves of the last group if it is not whole, and
// refuses with a *[RootError] when it differs.
func (s *Store) View(size uint64, root proof.Hash, tail []proof.Hash) (*View, error) {
	if uint64(len(tail)) != size%GroupSize {
		return nil, fmt.Errorf("view of size %d: %d leaves of the last group, want %d", size, len(tail), size%GroupSize)
	}
	e, err := s.readEdges(size / GroupSize)
	if err != nil {
		return nil, fmt.Errorf("view of size %d: %w", size, err)
	}
	f := e.frontier(size / GroupSize)
	for _, leaf := range tail {
		f.Append(leaf)
	}
	if got := f.Root(); got != root {
		return nil, &RootError{size, got, root}
	}
	return &View{s: s, size: size, root: root, tail: slices.Clone(tail), edges: e}, nil
}

// Size returns the size that the view was made for.
func (v *View) Size() uint64 { return v.size }

// Root returns the trusted root.
func (v *View) Root() proof.Hash { return v.root }

// Check returns nil exactly if group is the root of group k in the trusted tree. A *[GroupError] says that it is
// another, a *[TileError] that the arrays are damaged and it cannot be told.
func (v *View) Check(k uint64, group proof.Hash) error {
	if k >= v.size/GroupSize {
		return fmt.Errorf("group %d: a tree of size %d has %d whole groups", k, v.size, v.size/GroupSize)
	}
	tile, err := v.tile(1, k/GroupSize)
	if err != nil {
		return err
	}
	if want := tile[k%GroupSize]; want != group {
		return &GroupError{k, group, want}
	}
	return nil
}

// tile returns the hashes t·256 … of a level that the trusted tree has, at most 256, confirmed by its root: those at the
// right edge were when the view was made, and the root over any others is a hash of the next level, which is confirmed first.
func (v *View) tile(level int, t uint64) ([]proof.Hash, error) {
	if t == wholeAt(level, v.size/GroupSize)/GroupSize {
		return v.edges[level], nil
	}
	above, err := v.tile(level+1, t/GroupSize)
	if err != nil {
		return nil, err
	}
	want := above[t%GroupSize]
	if tile := v.s.cache.get(want); tile != nil {
		return tile, nil
	}
	tile := make([]proof.Hash, GroupSize)
	if err := v.s.read(tile, level, t*GroupSize); err != nil {
		return nil, err
	}
	if got := proof.Root(tile); got != want {
		const length = GroupSize * proof.HashSize
		return nil, &TileError{File: fileName(level), Offset: int64(t * length), Length: length, Got: got, Want: want}
	}
	v.s.cache.put(want, tile)
	return tile, nil
}

// Tile returns the hashes number 256t … of a level from 1 on, over 256^level leaves each, that the trusted tree has: 256 of them,
// or fewer at its right edge. The slice must not be changed.
func (v *View) Tile(level int, t uint64) ([]proof.Hash, error) {
	if level < 1 || level >= numLevels || t > wholeAt(level, v.size/GroupSize)/GroupSize {
		return nil, fmt.Errorf("tile %d of level %d: a tree of size %d has none", t, level, v.size)
	}
	return v.tile(level, t)
}

// Inclusion returns the proof that the entry at index is in the trusted tree. leaves are those of index's group, 256 or,
// in the last group, fewer; they are checked first.
func (v *View) Inclusion(index uint64, leaves []proof.Hash) ([]proof.Hash, error) {
	if index >= v.size {
		return nil, fmt.Errorf("inclusion proof of entry %d: the tree has size %d", index, v.size)
	}
	p := prover{v: v, leaves: func(uint64) ([]proof.Hash, error) { return leaves, nil }}
	own, err := p.group(index / GroupSize)
	if err != nil {
		return nil, fmt.Errorf("inclusion proof of entry %d: %w", index, err)
	}
	if !slices.Equal(own, leaves) {
		err := &GroupError{index / GroupSize, proof.Root(leaves), proof.Root(own)}
		return nil, fmt.Errorf("inclusion proof of entry %d: %w", index, err)
	}
	path, err := p.path(index, 0, v.size)
	if err != nil {
		return nil, fmt.Errorf("inclusion proof of entry %d: %w", index, err)
	}
	if err := proof.CheckInclusion(path, index, v.size, own[index%GroupSize], v.root); err != nil {
		return nil, fmt.Errorf("inclusion proof of entry %d does not hold: %w", index, err)
	}
	return path, nil
}

// Consistency returns the proof that the tree of size b begins with the tree of size a, both parts of the trusted tree.
// leaves returns those of a group, as for Inclusion; it is asked at most for the groups that a and b divide, and what it says is checked.
func (v *View) Consistency(a, b uint64, leaves func(group uint64) ([]proof.Hash, error)) ([]proof.Hash, error) {
	if a > b || b > v.size {
		return nil, fmt.Errorf("consistency proof from %d to %d: the tree has size %d", a, b, v.size)
	}
	if a == 0 || a == b {
		return nil, nil
	}
	p := prover{v: v, leaves: leaves}
	path, err := p.subproof(a, 0, b, true)
	if err != nil {
		return nil, fmt.Errorf("consistency proof from %d to %d: %w", a, b, err)
	}
	return path, nil
}

// RootAt returns the root that the trusted tree had at an earlier size; leaves as for Consistency.
func (v *View) RootAt(size uint64, leaves func(group uint64) ([]proof.Hash, error)) (proof.Hash, error) {
	if size > v.size {
		return proof.Hash{}, fmt.Errorf("root at size %d: the tree has size %d", size, v.size)
	}
	if size == 0 {
		return proof.EmptyRoot(), nil
	}
	p := prover{v: v, leaves: leaves}
	root, err := p.hash(0, size)
	if err != nil {
		return proof.Hash{}, fmt.Errorf("root at size %d: %w", size, err)
	}
	return root, nil
}

// Subtree returns the root over the leaves lo … hi-1 of the trusted tree, where lo is a multiple of the power of two at or above
// their number, as it is for every node of the tree; leaves as for Consistency, asked for the group that holds them, if it is one.
func (v *View) Subtree(lo, hi uint64, leaves func(group uint64) ([]proof.Hash, error)) (proof.Hash, error) {
	if lo >= hi || hi > v.size || lo&(1<<bits.Len64(hi-lo-1)-1) != 0 {
		return proof.Hash{}, fmt.Errorf("subtree of leaves %d to %d: no node of a tree of size %d", lo, hi, v.size)
	}
	p := prover{v: v, leaves: leaves}
	h, err := p.hash(lo, hi)
	if err != nil {
		return proof.Hash{}, fmt.Errorf("subtree of leaves %d to %d: %w", lo, hi, err)
	}
	return h, nil
}

// prover makes one proof. It remembers the groups whose leaves it has checked: at most two are needed.
type prover struct {
	v      *View
	leaves func(group uint64) ([]proof.Hash, error)
	known  map[uint64][]proof.Hash
}

// path is PATH of RFC 6962, section 2.1.1, over the leaves lo … hi-1.
func (p *prover) path(index, lo, hi uint64) ([]proof.Hash, error) {
	if hi-lo == 1 {
		return nil, nil
	}
	mid := lo + split(hi-lo)
	keepLo, keepHi, sibLo, sibHi := lo, mid, mid, hi
	if index >= mid {
		keepLo, keepHi, sibLo, sibHi = mid, hi, lo, mid
	}
	path, err := p.path(index, keepLo, keepHi)
	if err != nil {
		return nil, err
	}
	h, err := p.hash(sibLo, sibHi)
	return append(path, h), err
}

// subproof is SUBPROOF of RFC 6962, section 2.1.2, over the leaves lo … hi-1; complete says that the verifier knows
// the hash of the older tree's part in them because it is the whole older tree.
func (p *prover) subproof(a, lo, hi uint64, complete bool) ([]proof.Hash, error) {
	if a == hi {
		if complete {
			return nil, nil
		}
		h, err := p.hash(lo, hi)
		return []proof.Hash{h}, err
	}
	mid := lo + split(hi-lo)
	sibLo, sibHi := mid, hi
	var path []proof.Hash
	var err error
	if a <= mid {
		path, err = p.subproof(a, lo, mid, complete)
	} else {
		path, err = p.subproof(a, mid, hi, false)
		sibLo, sibHi = lo, mid
	}
	if err != nil {
		return nil, err
	}
	h, err := p.hash(sibLo, sibHi)
	return append(path, h), err
}

// hash returns the Merkle tree hash of the leaves lo … hi-1, where lo is a multiple of the power of two at or above their
// number, as it is for all parts that the recursions above make.
func (p *prover) hash(lo, hi uint64) (proof.Hash, error) {
	n := hi - lo
	if n&(n-1) == 0 {
		return p.perfect(bits.TrailingZeros64(n), lo)
	}
	mid := lo + split(n)
	l, err := p.hash(lo, mid)
	if err != nil {
		return proof.Hash{}, err
	}
	r, err := p.hash(mid, hi)
	if err != nil {
		return proof.Hash{}, err
	}
	return proof.NodeHash(l, r), nil
}

// perfect returns the hash over 2^height leaves from lo on.
func (p *prover) perfect(height int, lo uint64) (proof.Hash, error) {
	var row []proof.Hash
	var err error
	level := height / groupLevel
	first := lo >> (groupLevel * level)
	if level == 0 {
		row, err = p.group(lo / GroupSize)
	} else {
		row, err = p.v.tile(level, first/GroupSize)
	}
	if err != nil {
		return proof.Hash{}, err
	}
	row = row[first%GroupSize:]
	return proof.Root(row[:1<<(height%groupLevel)]), nil
}

// group returns the confirmed leaves of a group.
func (p *prover) group(k uint64) ([]proof.Hash, error) {
	if leaves, ok := p.known[k]; ok {
		return leaves, nil
	}
	if k == p.v.size/GroupSize {
		return p.remember(k, p.v.tail), nil
	}
	leaves, err := p.leaves(k)
	if err != nil {
		return nil, err
	}
	if len(leaves) != GroupSize {
		return nil, fmt.Errorf("group %d: %d leaves given, want %d", k, len(leaves), GroupSize)
	}
	if err := p.v.Check(k, proof.Root(leaves)); err != nil {
		return nil, err
	}
	return p.remember(k, leaves), nil
}

func (p *prover) remember(k uint64, leaves []proof.Hash) []proof.Hash {
	if p.known == nil {
		p.known = make(map[uint64][]proof.Hash, 2)
	}
	p.known[k] = leaves
	return leaves
}

// split returns the largest power of two below n, for n ≥ 2.
func split(n uint64) uint64 {
	return 1 << (bits.Len64(n-1) - 1)
}

// cachedTiles bounds the cache of one Store: 32 tiles of 8 KiB.
const cachedTiles = 32

// tileCache keeps whole tiles under their root. The root is recomputed before a tile goes in, so what comes out is right
// for whoever trusts that root, whatever happened to the files since.
type tileCache struct {
	mu    sync.Mutex
	tiles map[proof.Hash]int
	slots []tileSlot
	hand  int
}

type tileSlot struct {
	root proof.Hash
	tile []proof.Hash
	used bool // since the hand last passed
}

func (c *tileCache) get(root proof.Hash) []proof.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.tiles[root]
	if !ok {
		return nil
	}
	c.slots[i].used = true
	return c.slots[i].tile
}

// put adds a tile, in place of one that was not used for a round when the cache is full. The caller changes tile no more.
func (c *tileCache) put(root proof.Hash, tile []proof.Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.tiles[root]; ok {
		return
	}
	if c.tiles == nil {
		c.tiles = make(map[proof.Hash]int)
	}
	if len(c.slots) < cachedTiles {
		c.tiles[root] = len(c.slots)
		c.slots = append(c.slots, tileSlot{root: root, tile: tile})
		return
	}
	for c.slots[c.hand].used {
		c.slots[c.hand].used = false
		c.hand = (c.hand + 1) % cachedTiles
	}
	delete(c.tiles, c.slots[c.hand].root)
	c.slots[c.hand] = tileSlot{root: root, tile: tile}
	c.tiles[root] = c.hand
	c.hand = (c.hand + 1) % cachedTiles
}
