// Package oracle compares our trees, proofs and notes with implementations that we did not write. It is a module of its
// own, with tests only, so that what they need stays out of ours.
package oracle

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"testing"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/compact"
	mproof "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// trio is one log in our form, in transparency-dev/merkle's and in x/mod's.
type trio struct {
	lines  [][]byte
	leaves []proof.Hash
	store  *tree.Store
	merkle *testonly.Tree
	tlog   tlogHashes
}

type tlogHashes []tlog.Hash

func (h tlogHashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(h)) {
			return nil, fmt.Errorf("hash %d of %d", x, len(h))
		}
		out[i] = h[x]
	}
	return out, nil
}

func newTrio(t testing.TB, size int, rng *mrand.Rand) *trio {
	t.Helper()
	d := vfstest.New()
	store, err := tree.OpenStore(d, ".")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	x := &trio{store: store, merkle: testonly.New(rfc6962.DefaultHasher)}
	for i := range size {
		line := binary.BigEndian.AppendUint64([]byte("line "), rng.Uint64())
		x.lines = append(x.lines, line)
		x.leaves = append(x.leaves, proof.LeafHash(line))
		x.merkle.AppendData(line)
		hashes, err := tlog.StoredHashes(int64(i), line, x.tlog)
		if err != nil {
			t.Fatal(err)
		}
		x.tlog = append(x.tlog, hashes...)
		if n := i + 1; n%tree.GroupSize == 0 {
			store.Append(proof.Root(x.leaves[n-tree.GroupSize:]), proof.Hash{})
		}
	}
	if rng.IntN(2) == 0 {
		if err := store.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func (x *trio) view(t testing.TB) *tree.View {
	t.Helper()
	n := len(x.leaves)
	v, err := x.store.View(uint64(n), proof.Hash(x.merkle.Hash()), x.leaves[n-n%tree.GroupSize:])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (x *trio) group(k uint64) ([]proof.Hash, error) {
	from := k * tree.GroupSize
	return x.leaves[from:min(from+tree.GroupSize, uint64(len(x.leaves)))], nil
}

func toBytes(p []proof.Hash) [][]byte {
	var out [][]byte
	for _, h := range p {
		out = append(out, h[:])
	}
	return out
}

func toTlog(p []proof.Hash) []tlog.Hash {
	var out []tlog.Hash
	for _, h := range p {
		out = append(out, tlog.Hash(h))
	}
	return out
}

func newRand(t testing.TB) *mrand.Rand {
	t.Helper()
	seed := mrand.Uint64()
	t.Logf("seed %d", seed)
	return mrand.New(mrand.NewPCG(seed, 0))
}

func TestRootsAgreeAtEverySize(t *testing.T) {
	x := newTrio(t, 1100, newRand(t))
	var f tree.Frontier
	for n := range len(x.leaves) + 1 {
		want := proof.Hash(x.merkle.HashAt(uint64(n)))
		if got := proof.Root(x.leaves[:n]); got != want {
			t.Fatalf("Root at %d: got %v, want %v", n, got, want)
		}
		if f.Root() != want {
			t.Fatalf("Frontier at %d: got %v, want %v", n, f.Root(), want)
		}
		if n > 0 {
			th, err := tlog.TreeHash(int64(n), x.tlog)
			if err != nil || proof.Hash(th) != want {
				t.Fatalf("tlog at %d: got %v, %v, want %v", n, th, err, want)
			}
		}
		if n < len(x.leaves) {
			f.Append(x.leaves[n])
		}
	}
}

// A group's root is a node of the compact range at level 8, and group by group gives the same range.
func TestGroupsAreNodesOfTheCompactRange(t *testing.T) {
	rng := newRand(t)
	factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r := factory.NewEmptyRange(0)
	var f tree.Frontier
	for range 300 {
		group := factory.NewEmptyRange(0)
		var leaves []proof.Hash
		for range tree.GroupSize {
			h := proof.LeafHash(binary.BigEndian.AppendUint64(nil, rng.Uint64()))
			leaves = append(leaves, h)
			if err := group.Append(h[:], nil); err != nil {
				t.Fatal(err)
			}
			if err := r.Append(h[:], nil); err != nil {
				t.Fatal(err)
			}
		}
		want, err := group.GetRootHash(nil)
		if err != nil || proof.Root(leaves) != proof.Hash(want) {
			t.Fatal(err, "group roots differ")
		}
		f.AppendGroup(proof.Root(leaves))
		if want, err = r.GetRootHash(nil); err != nil || f.Root() != proof.Hash(want) {
			t.Fatal(err, "roots differ")
		}
	}
}

func TestProofsAgreeOnRandomTrees(t *testing.T) {
	rng := newRand(t)
	sizes := []int{1, 2, 255, 256, 257, 511, 512, 513}
	for range 8 {
		sizes = append(sizes, 1+rng.IntN(5000))
	}
	for _, n := range sizes {
		x := newTrio(t, n, rng)
		v := x.view(t)
		size := uint64(n)
		root := x.merkle.Hash()
		for range 60 {
			index := rng.Uint64N(size)
			leaves, _ := x.group(index / tree.GroupSize)
			p, err := v.Inclusion(index, leaves)
			if err != nil {
				t.Fatal(err)
			}
			want, err := x.merkle.InclusionProof(index, size)
			if err != nil || !slices.EqualFunc(toBytes(p), want, slices.Equal) {
				t.Fatalf("entry %d of %d: proofs differ, %v", index, n, err)
			}
			if err := mproof.VerifyInclusion(rfc6962.DefaultHasher, index, size, x.leaves[index][:], toBytes(p), root); err != nil {
				t.Fatal(err)
			}
			tp, err := tlog.ProveRecord(int64(size), int64(index), x.tlog)
			if err != nil || !slices.Equal([]tlog.Hash(tp), toTlog(p)) {
				t.Fatalf("entry %d of %d: tlog's proof differs, %v", index, n, err)
			}
			x.consistency(t, v, 1+rng.Uint64N(size), rng)
		}
	}
}

func (x *trio) consistency(t *testing.T, v *tree.View, b uint64, rng *mrand.Rand) {
	t.Helper()
	a := 1 + rng.Uint64N(b)
	p, err := v.Consistency(a, b, x.group)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x.merkle.ConsistencyProof(a, b)
	if err != nil || !slices.EqualFunc(toBytes(p), want, slices.Equal) {
		t.Fatalf("from %d to %d: proofs differ, %v", a, b, err)
	}
	rootA, rootB := x.merkle.HashAt(a), x.merkle.HashAt(b)
	if err := mproof.VerifyConsistency(rfc6962.DefaultHasher, a, b, toBytes(p), rootA, rootB); err != nil {
		t.Fatal(err)
	}
	tp, err := tlog.ProveTree(int64(b), int64(a), x.tlog)
	if err != nil || !slices.Equal([]tlog.Hash(tp), toTlog(p)) {
		t.Fatalf("from %d to %d: tlog's proof differs, %v", a, b, err)
	}
}

// On proofs that are right, wrong in a bit, or of wrong numbers, all three must say the same.
func TestVerdictsAgreeOnMutatedProofs(t *testing.T) {
	rng := newRand(t)
	x := newTrio(t, 900, rng)
	var accepted, refused int
	for range 6000 {
		b := 1 + rng.Uint64N(uint64(len(x.leaves)))
		a := 1 + rng.Uint64N(b)
		p, err := x.merkle.ConsistencyProof(a, b)
		if err != nil {
			t.Fatal(err)
		}
		inclusion, err := x.merkle.InclusionProof(a-1, b)
		if err != nil {
			t.Fatal(err)
		}
		rootA, rootB := x.merkle.HashAt(a), x.merkle.HashAt(b)
		index := a - 1
		switch rng.IntN(6) {
		case 0:
			a = 1 + a ^ 1<<rng.UintN(10)
		case 1:
			b ^= 1 << rng.UintN(10)
		case 2:
			index ^= 1 << rng.UintN(10)
		case 3:
			p, inclusion = mutate(p, rng), mutate(inclusion, rng)
		case 4:
			rootA, rootB = rootB, rootA
		}
		got := proof.CheckConsistency(fromBytes(p), a, b, proof.Hash(rootA), proof.Hash(rootB)) == nil
		if a > 0 {
			want := mproof.VerifyConsistency(rfc6962.DefaultHasher, a, b, p, rootA, rootB) == nil
			third := b > 0 && tlog.CheckTree(toTlog(fromBytes(p)), int64(b), tlog.Hash(rootB), int64(a), tlog.Hash(rootA)) == nil
			if got != want || got != third {
				t.Fatalf("from %d to %d: we say %v, merkle %v, tlog %v", a, b, got, want, third)
			}
		}
		leaf := x.leaves[min(index, uint64(len(x.leaves)-1))]
		got2 := proof.CheckInclusion(fromBytes(inclusion), index, b, leaf, proof.Hash(rootB)) == nil
		want2 := mproof.VerifyInclusion(rfc6962.DefaultHasher, index, b, leaf[:], inclusion, rootB) == nil
		third2 := index < b && tlog.CheckRecord(toTlog(fromBytes(inclusion)), int64(b), tlog.Hash(rootB), int64(index), tlog.Hash(leaf)) == nil
		if got2 != want2 || got2 != third2 {
			t.Fatalf("entry %d of %d: we say %v, merkle %v, tlog %v", index, b, got2, want2, third2)
		}
		for _, ok := range []bool{got, got2} {
			if ok {
				accepted++
			} else {
				refused++
			}
		}
	}
	if accepted < 500 || refused < 500 {
		t.Errorf("%d accepted and %d refused: the test has no force", accepted, refused)
	}
}

func mutate(p [][]byte, rng *mrand.Rand) [][]byte {
	out := slices.Clone(p)
	switch k := rng.IntN(4); {
	case k == 0 || len(p) == 0:
		extra := make([]byte, proof.HashSize)
		_, _ = rand.Read(extra)
		return slices.Insert(out, rng.IntN(len(p)+1), extra)
	case k == 1:
		i := rng.IntN(len(p))
		return slices.Delete(out, i, i+1)
	case k == 2 && len(p) > 1:
		out[0], out[1] = out[1], out[0]
	default:
		i := rng.IntN(len(p))
		out[i] = slices.Clone(out[i])
		out[i][rng.IntN(proof.HashSize)] ^= 1 << rng.UintN(8)
	}
	return out
}

func fromBytes(p [][]byte) []proof.Hash {
	var out []proof.Hash
	for _, b := range p {
		out = append(out, proof.Hash(b))
	}
	return out
}

// Receipts that we write verify with torchwood, and receipts that torchwood writes verify with us.
func TestReceiptsAreTlogProofs(t *testing.T) {
	const origin = "example.com/log"
	rng := newRand(t)
	signer, err := keys.Create(vfstest.New(), "keys", origin)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(signer.VKey())
	if err != nil {
		t.Fatal(err)
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(origin), torchwood.SingleVerifierPolicy(verifier))
	for _, n := range []int{1, 2, 300, 777} {
		x := newTrio(t, n, rng)
		v := x.view(t)
		checkpoint, err := signer.Sign(proof.Checkpoint{Origin: origin, Size: uint64(n), Root: v.Root()}.Text())
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			index := rng.Uint64N(uint64(n))
			leaves, _ := x.group(index / tree.GroupSize)
			hashes, err := v.Inclusion(index, leaves)
			if err != nil {
				t.Fatal(err)
			}
			extra := [][]byte{nil, {}, []byte("extra")}[rng.IntN(3)]
			receipt, err := proof.InclusionProof{Index: index, Hashes: hashes, Checkpoint: checkpoint, Extra: extra}.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			if err := torchwood.VerifyProof(policy, tlog.RecordHash(x.lines[index]), receipt); err != nil {
				t.Errorf("entry %d of %d: torchwood: %v", index, n, err)
			}
			if err := torchwood.VerifyProof(policy, tlog.RecordHash([]byte("another")), receipt); err == nil {
				t.Errorf("entry %d of %d: torchwood accepts another line", index, n)
			}
			theirs := torchwood.FormatProof(int64(index), toTlog(hashes), checkpoint)
			if extra != nil {
				theirs = torchwood.FormatProofWithExtraData(int64(index), extra, toTlog(hashes), checkpoint)
			}
			if !slices.Equal(theirs, receipt) {
				t.Errorf("torchwood writes %q, we %q", theirs, receipt)
			}
			p, err := proof.ParseInclusionProof(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Verify(x.lines[index], origin, []proof.Key{signer.Key()}); err != nil {
				t.Errorf("entry %d of %d: %v", index, n, err)
			}
		}
		if _, _, err := torchwood.VerifyCheckpoint(checkpoint, policy); err != nil {
			t.Errorf("torchwood: %v", err)
		}
	}
}

// FuzzVerdicts wants us and transparency-dev/merkle to agree on any consistency proof, and x/mod where it has an opinion.
func FuzzVerdicts(f *testing.F) {
	x := newTrio(f, 64, mrand.New(mrand.NewPCG(1, 1)))
	for _, s := range [][2]uint64{{1, 2}, {3, 7}, {4, 8}, {31, 64}} {
		p, err := x.merkle.ConsistencyProof(s[0], s[1])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s[0], s[1], x.merkle.HashAt(s[0]), x.merkle.HashAt(s[1]), slices.Concat(p...))
	}
	f.Fuzz(func(t *testing.T, a, b uint64, rootA, rootB, hashes []byte) {
		if a == 0 || len(rootA) != proof.HashSize || len(rootB) != proof.HashSize || len(hashes)%proof.HashSize != 0 || len(hashes) > 70*proof.HashSize {
			return
		}
		p := slices.Collect(slices.Chunk(hashes, proof.HashSize))
		got := proof.CheckConsistency(fromBytes(p), a, b, proof.Hash(rootA), proof.Hash(rootB))
		want := mproof.VerifyConsistency(rfc6962.DefaultHasher, a, b, p, rootA, rootB)
		if (got == nil) != (want == nil) {
			t.Fatalf("from %d to %d: we say %v, merkle %v", a, b, got, want)
		}
	})
}
