package tree

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// fill puts a log of real leaves into s and returns them.
func fill(s *Store, size uint64) []proof.Hash {
	leaves := make([]proof.Hash, size)
	for i := range leaves {
		leaves[i] = leaf(uint64(i))
	}
	for k := s.Groups(); k < size/GroupSize; k++ {
		s.Append(proof.Root(leaves[k*GroupSize:(k+1)*GroupSize]), fakeChain(k))
	}
	return leaves
}

func viewOf(t testing.TB, s *Store, leaves []proof.Hash) *View {
	t.Helper()
	size := uint64(len(leaves))
	v, err := s.View(size, proof.Root(leaves), leaves[size-size%GroupSize:])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// groupOf returns the leaves of a group as the entries would give them.
func groupOf(leaves []proof.Hash) func(k uint64) ([]proof.Hash, error) {
	return func(k uint64) ([]proof.Hash, error) {
		from := k * GroupSize
		return leaves[from:min(from+GroupSize, uint64(len(leaves)))], nil
	}
}

func TestEveryInclusionProofHolds(t *testing.T) {
	for _, size := range []uint64{1, 2, 3, 5, 8, 70, 255, 256, 257, 511, 512, 513, 700} {
		d, dir := newDir(t)
		s := open(t, d, dir)
		leaves := fill(s, size)
		v := viewOf(t, s, leaves)
		for index := range size {
			group, _ := groupOf(leaves)(index / GroupSize)
			p, err := v.Inclusion(index, group)
			if err != nil {
				t.Fatalf("entry %d of %d: %v", index, size, err)
			}
			if err := proof.CheckInclusion(p, index, size, leaves[index], v.Root()); err != nil {
				t.Fatalf("entry %d of %d: %v", index, size, err)
			}
		}
		if _, err := v.Inclusion(size, nil); err == nil {
			t.Errorf("size %d: an entry behind the last", size)
		}
	}
}

func TestEveryConsistencyProofHolds(t *testing.T) {
	const size = 600
	d, dir := newDir(t)
	s := open(t, d, dir)
	leaves := fill(s, size)
	roots := make([]proof.Hash, size+1)
	var f Frontier
	for n := range roots {
		roots[n] = f.Root()
		f.Append(leaf(uint64(n)))
	}
	for _, of := range []uint64{70, 256, 513, 600} {
		v := viewOf(t, s, leaves[:of])
		for b := range of + 1 {
			if r, err := v.RootAt(b, groupOf(leaves)); err != nil || r != roots[b] {
				t.Fatalf("root at %d of %d: got %v, %v", b, of, r, err)
			}
			for a := uint64(0); a <= b; a++ {
				if b > 70 && (a*7+b*3)%consistencyStep != 0 && a%GroupSize > 1 && b%GroupSize > 1 {
					continue
				}
				p, err := v.Consistency(a, b, groupOf(leaves))
				if err != nil {
					t.Fatalf("from %d to %d of %d: %v", a, b, of, err)
				}
				if err := proof.CheckConsistency(p, a, b, roots[a], roots[b]); err != nil {
					t.Fatalf("from %d to %d of %d: %v", a, b, of, err)
				}
			}
		}
		if _, err := v.Consistency(2, 1, groupOf(leaves)); err == nil {
			t.Error("a proof backwards")
		}
		if _, err := v.Consistency(1, of+1, groupOf(leaves)); err == nil {
			t.Error("a proof beyond the view")
		}
		if _, err := v.RootAt(of+1, groupOf(leaves)); err == nil {
			t.Error("a root beyond the view")
		}
	}
}

// In a log of three levels most groups' roots are made up; those that are asked for are real.
func TestProofsInALogOfThreeLevels(t *testing.T) {
	for _, groups := range []uint64{65535, 65536, 65537, 65536 + 257} {
		d, dir := newDir(t)
		s := open(t, d, dir)
		real := []uint64{0, 1, 255, 256, 65534, groups - 1}
		isReal := map[uint64]bool{}
		for _, k := range real {
			isReal[k] = true
		}
		var f Frontier
		roots := map[uint64]proof.Hash{} // at group boundaries and one leaf into each real group
		for k := range groups {
			g := fakeGroup(k)
			if isReal[k] {
				g = proof.Root(groupLeaves(k, GroupSize))
				c := f.Clone()
				roots[c.Size()] = c.Root()
				for i := range 3 {
					c.Append(leaf(k*GroupSize + uint64(i)))
					roots[c.Size()] = c.Root()
				}
			}
			s.Append(g, fakeChain(k))
			f.AppendGroup(g)
			if k == groups/2 {
				flushed(t, s)
			}
		}
		tail := groupLeaves(groups, 17)
		for _, h := range tail {
			f.Append(h)
		}
		roots[f.Size()] = f.Root()
		leaves := func(k uint64) ([]proof.Hash, error) {
			if !isReal[k] {
				return nil, fmt.Errorf("asked for group %d", k)
			}
			return groupLeaves(k, GroupSize), nil
		}
		for range 2 { // half in memory, then from the files alone
			v, err := s.View(f.Size(), f.Root(), tail)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range real {
				index := k*GroupSize + 99
				if _, err := v.Inclusion(index, groupLeaves(k, GroupSize)); err != nil {
					t.Errorf("%d groups, entry %d: %v", groups, index, err)
				}
				if err := v.Check(k, fakeGroup(k)); err == nil {
					t.Errorf("%d groups: a wrong root of group %d was accepted", groups, k)
				}
			}
			if _, err := v.Inclusion(f.Size()-1, tail); err != nil {
				t.Error(err)
			}
			for a, rootA := range roots {
				for b, rootB := range roots {
					if a > b {
						continue
					}
					p, err := v.Consistency(a, b, leaves)
					if err == nil {
						err = proof.CheckConsistency(p, a, b, rootA, rootB)
					}
					if err != nil {
						t.Fatalf("%d groups, from %d to %d: %v", groups, a, b, err)
					}
				}
			}
			flushed(t, s)
			s = open(t, d, dir)
		}
	}
}

func TestViewRefusesAnotherRootSizeOrTail(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	leaves := fill(s, 600)
	root := proof.Root(leaves)
	tail := leaves[512:]
	var re *RootError
	if _, err := s.View(600, leaf(0), tail); !errors.As(err, &re) || re.Got != root || re.Want != leaf(0) || re.Size != 600 {
		t.Errorf("another root: got %v, want both roots", err)
	}
	bad := append([]proof.Hash(nil), tail...)
	bad[3][0] ^= 1
	if _, err := s.View(600, root, bad); !errors.As(err, &re) || re.Want != root {
		t.Errorf("another tail: got %v", err)
	}
	for size, n := range map[uint64]int{599: 88, 601: 88, 600: 87, 856: 88, 512: 88} {
		if _, err := s.View(size, root, tail[:n]); err == nil {
			t.Errorf("size %d with %d leaves: accepted", size, n)
		}
	}
	if _, err := s.View(0, proof.EmptyRoot(), nil); err != nil {
		t.Errorf("the empty tree: %v", err)
	}
	if _, err := s.View(0, root, nil); err == nil {
		t.Error("another root of the empty tree")
	}
}

func TestProofsRefuseAlteredLeaves(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	leaves := fill(s, 600)
	v := viewOf(t, s, leaves)
	for _, index := range []uint64{0, 300, 599} {
		good, _ := groupOf(leaves)(index / GroupSize)
		for i := range good {
			bad := append([]proof.Hash(nil), good...)
			bad[i][31] ^= 0x80
			var ge *GroupError
			if _, err := v.Inclusion(index, bad); !errors.As(err, &ge) || ge.Group != index/GroupSize || ge.Got == ge.Want {
				t.Fatalf("entry %d with leaf %d altered: got %v", index, i, err)
			}
		}
		if _, err := v.Inclusion(index, good[:len(good)-1]); err == nil {
			t.Errorf("entry %d with a leaf missing: accepted", index)
		}
		if _, err := v.Inclusion(index, nil); err == nil {
			t.Errorf("entry %d without leaves: accepted", index)
		}
	}
	// Two nodes have the root of the 256 leaves below them, but are not those leaves.
	halves := []proof.Hash{proof.Root(leaves[:128]), proof.Root(leaves[128:256])}
	for _, index := range []uint64{0, 5} {
		if _, err := v.Inclusion(index, halves); err == nil {
			t.Errorf("entry %d: nodes were taken for leaves", index)
		}
	}
	if _, err := v.RootAt(1, func(uint64) ([]proof.Hash, error) { return halves, nil }); err == nil {
		t.Error("a node was taken for a leaf")
	}
	altered := append([]proof.Hash(nil), leaves...)
	altered[7][0] ^= 1
	var ge *GroupError
	if _, err := v.Consistency(9, 600, groupOf(altered)); !errors.As(err, &ge) {
		t.Errorf("consistency over an altered group: got %v", err)
	}
	if _, err := v.RootAt(9, groupOf(altered)); !errors.As(err, &ge) {
		t.Errorf("root over an altered group: got %v", err)
	}
	broken := errors.New("broken")
	if _, err := v.Consistency(9, 600, func(uint64) ([]proof.Hash, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("leaves that cannot be read: got %v", err)
	}
}

// For each byte of every array: with it flipped, a view is refused or Check accepts right group roots only, and either
// names the tile. What it must never do is accept a wrong root.
func TestNoFlippedByteMakesCheckAccept(t *testing.T) {
	const groups = 2*GroupSize + 3
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, groups)
	flushed(t, s)
	f, err := s.Frontier(groups)
	if err != nil {
		t.Fatal(err)
	}
	size, root := f.Size(), f.Root()
	before, err := s.View(size, root, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []int{1, 2} {
		name := fileName(level)
		b, err := d.ReadFileRaw("log/" + name)
		if err != nil {
			t.Fatal(err)
		}
		edge := wholeAt(level, groups) &^ (GroupSize - 1)
		step := 1
		if raceEnabled || testing.Short() {
			step = 61
		}
		for i := 0; i < len(b); i += step {
			flip(t, d, "log/"+name, int64(i))
			hash := uint64(i / proof.HashSize)
			s.cache = tileCache{}
			// A view from before keeps its edge; tiles under it are read anew.
			if level == 1 && hash < edge {
				wantTileError(t, before, hash, int64(hash/GroupSize*GroupSize*proof.HashSize), b, i)
			}
			after, err := s.View(size, root, nil)
			var re *RootError
			switch {
			case hash >= edge && !errors.As(err, &re):
				t.Fatalf("%s, byte %d at the edge: got %v, want a root error", name, i, err)
			case hash < edge && err != nil:
				t.Fatalf("%s, byte %d: %v", name, i, err)
			case hash < edge:
				wantTileError(t, after, hash, int64(hash/GroupSize*GroupSize*proof.HashSize), b, i)
			}
			flip(t, d, "log/"+name, int64(i))
		}
	}
	for k := range uint64(groups) {
		if err := before.Check(k, fakeGroup(k)); err != nil {
			t.Fatalf("group %d with everything mended: %v", k, err)
		}
	}
}

func flip(t testing.TB, d *vfstest.Disk, name string, at int64) {
	t.Helper()
	f, err := d.OpenRW(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // the disk keeps a list of what is not synced
		t.Fatal(err)
	}
}

// wantTileError wants Check of group k refused, for its right root and for the one that the flipped byte i makes.
func wantTileError(t *testing.T, v *View, k uint64, offset int64, file []byte, i int) {
	t.Helper()
	forged := proof.Hash(file[k*proof.HashSize:])
	forged[i%proof.HashSize] ^= 0x40
	for _, h := range []proof.Hash{forged, fakeGroup(k)} {
		var te *TileError
		if err := v.Check(k, h); !errors.As(err, &te) || te.File != "tree/1" || te.Offset != offset || te.Got == te.Want || te.Err != nil {
			t.Fatalf("tree/1, byte %d: Check gives %v, want a tile error at offset %d", i, err, offset)
		}
	}
}

// The same one level higher, where the tiles of tree/2 are whole, with a sample of the bytes.
func TestDamageInAMiddleLevelIsNamed(t *testing.T) {
	const groups = GroupSize*GroupSize + 1
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, groups)
	flushed(t, s)
	f, err := s.Frontier(groups)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(f.Size(), f.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(0); i < GroupSize*proof.HashSize; i += 331 {
		flip(t, d, "log/tree/2", i)
		s.cache = tileCache{}
		var te *TileError
		if err := v.Check(77, fakeGroup(77)); !errors.As(err, &te) || te.File != "tree/2" || te.Offset != 0 || te.Length != GroupSize*proof.HashSize {
			t.Fatalf("byte %d of tree/2: got %v", i, err)
		}
		flip(t, d, "log/tree/2", i)
	}
	flip(t, d, "log/tree/3", 5)
	var re *RootError
	if _, err := s.View(f.Size(), f.Root(), nil); !errors.As(err, &re) {
		t.Errorf("tree/3 damaged: got %v", err)
	}
	if err := v.Check(77, fakeGroup(77)); err != nil {
		t.Errorf("the view from before needs nothing of tree/3: %v", err)
	}
	flip(t, d, "log/tree/3", 5)
	b, err := d.ReadFileRaw("log/tree/1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFileRaw("log/tree/1", b[:100]); err != nil {
		t.Fatal(err)
	}
	s.cache = tileCache{}
	var te *TileError
	if err := v.Check(77, fakeGroup(77)); !errors.As(err, &te) || te.File != "tree/1" || te.Err == nil {
		t.Errorf("tree/1 cut: got %v", err)
	}
}

// Tiles are cached under their root. A view of another history must get nothing from them.
func TestCacheServesNoOtherHistory(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, 2*GroupSize)
	f, err := s.Frontier(2 * GroupSize)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(f.Size(), f.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Check(0, fakeGroup(0)); err != nil {
		t.Fatal(err)
	}
	s.Cut(0)
	for k := range uint64(2 * GroupSize) {
		s.Append(fakeGroup(k+1), fakeChain(k))
	}
	g, err := s.Frontier(2 * GroupSize)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.View(g.Size(), g.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Check(0, fakeGroup(0)); err == nil {
		t.Error("the other history's group was accepted")
	}
	if err := w.Check(0, fakeGroup(1)); err != nil {
		t.Error(err)
	}
	if err := v.Check(300, fakeGroup(301)); err == nil {
		t.Error("the new history was accepted under the old root")
	}
}

func TestCacheStaysSmallAndRight(t *testing.T) {
	const groups = (cachedTiles + 20) * GroupSize
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, groups)
	flushed(t, s)
	f, err := s.Frontier(groups)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(f.Size(), f.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		k := rng.Uint64N(groups)
		if err := v.Check(k, fakeGroup(k)); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.cache.slots) != cachedTiles || len(s.cache.tiles) != cachedTiles {
		t.Errorf("%d slots, %d tiles, want %d", len(s.cache.slots), len(s.cache.tiles), cachedTiles)
	}
	if err := v.Check(groups, fakeGroup(groups)); err == nil {
		t.Error("a group behind the last was accepted")
	}
}

// A reader whose tree/2 is missing computes it from tree/1: slower, and as right.
func TestViewWorksWithoutHigherLevels(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, 2000)
	flushed(t, s)
	f, err := s.Frontier(2000)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("log/tree/2"); err != nil {
		t.Fatal(err)
	}
	r := open(t, d, dir)
	v, err := r.View(f.Size(), f.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for k := uint64(0); k < 2000; k += 13 {
		if err := v.Check(k, fakeGroup(k)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := d.ReadFileRaw("log/tree/2"); err == nil {
		t.Errorf("a reader wrote %d bytes", len(bytes.TrimSpace(b)))
	}
}

func TestTilesAreTheHashesOfTheTrustedTree(t *testing.T) {
	const groups = 2000
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, groups)
	flushed(t, s)
	f, err := s.Frontier(groups)
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.View(f.Size(), f.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var level2 []proof.Hash
	for k := uint64(0); k*GroupSize < groups; k++ {
		tile, err := v.Tile(1, k)
		if err != nil || uint64(len(tile)) != min(GroupSize, groups-k*GroupSize) {
			t.Fatalf("tile %d: %d hashes, %v", k, len(tile), err)
		}
		for i, got := range tile {
			if got != fakeGroup(k*GroupSize+uint64(i)) {
				t.Fatalf("tile %d: hash %d is another", k, i)
			}
		}
		if len(tile) == GroupSize {
			level2 = append(level2, proof.Root(tile))
		}
	}
	if tile, err := v.Tile(2, 0); err != nil || !slices.Equal(tile, level2) {
		t.Errorf("level 2: %d hashes, want %d: %v", len(tile), len(level2), err)
	}
	for _, c := range []struct {
		level int
		t     uint64
	}{{0, 0}, {-1, 0}, {1, 8}, {2, 1}, {1, 1 << 62}, {numLevels, 0}, {100, 0}} {
		if _, err := v.Tile(c.level, c.t); err == nil {
			t.Errorf("there is a tile %d of level %d", c.t, c.level)
		}
	}
	flip(t, d, "log/tree/1", 300*proof.HashSize)
	r := open(t, d, dir)
	if v, err = r.View(f.Size(), f.Root(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Tile(1, 1); err == nil {
		t.Error("a changed hash is in a tile")
	}
}
