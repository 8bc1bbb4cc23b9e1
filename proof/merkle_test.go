package proof

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"math/bits"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The functions naive… follow RFC 6962, section 2.1, word for word: slow, and hard to get wrong.

func naiveRoot(d [][]byte) Hash {
	switch len(d) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, d[0]...))
	}
	k := naiveSplit(len(d))
	l, r := naiveRoot(d[:k]), naiveRoot(d[k:])
	return sha256.Sum256(bytes.Join([][]byte{{1}, l[:], r[:]}, nil))
}

func naivePath(m int, d [][]byte) []Hash {
	if len(d) == 1 {
		return nil
	}
	k := naiveSplit(len(d))
	if m < k {
		return append(naivePath(m, d[:k]), naiveRoot(d[k:]))
	}
	return append(naivePath(m-k, d[k:]), naiveRoot(d[:k]))
}

func naiveProof(m int, d [][]byte) []Hash {
	return naiveSubproof(m, d, true)
}

func naiveSubproof(m int, d [][]byte, b bool) []Hash {
	if m == len(d) {
		if b {
			return nil
		}
		return []Hash{naiveRoot(d)}
	}
	k := naiveSplit(len(d))
	if m <= k {
		return append(naiveSubproof(m, d[:k], b), naiveRoot(d[k:]))
	}
	return append(naiveSubproof(m-k, d[k:], false), naiveRoot(d[:k]))
}

func naiveSplit(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func lines(n int) [][]byte {
	d := make([][]byte, n)
	for i := range d {
		d[i] = binary.BigEndian.AppendUint32([]byte("line "), uint32(i))
	}
	return d
}

func leafHashes(d [][]byte) []Hash {
	h := make([]Hash, len(d))
	for i := range d {
		h[i] = LeafHash(d[i])
	}
	return h
}

func TestRootEqualsTheDefinition(t *testing.T) {
	for n := range 300 {
		d := lines(n)
		if got, want := Root(leafHashes(d)), naiveRoot(d); got != want {
			t.Fatalf("size %d: got %v, want %v", n, got, want)
		}
	}
}

func TestHashesEqualTheDefinitionAtEveryLength(t *testing.T) {
	line := bytes.Repeat([]byte("x"), 65535)
	for _, n := range []int{0, 1, 54, 55, 56, 63, 64, 254, 1022, 1023, 1024, 1025, 4096, 65535} {
		if got, want := LeafHash(line[:n]), Hash(sha256.Sum256(append([]byte{0}, line[:n]...))); got != want {
			t.Errorf("leaf of %d bytes: got %v, want %v", n, got, want)
		}
	}
	a, b := LeafHash([]byte("a")), LeafHash([]byte("b"))
	for tag, got := range map[byte]Hash{1: NodeHash(a, b), 2: ChainHash(a, b)} {
		if want := Hash(sha256.Sum256(bytes.Join([][]byte{{tag}, a[:], b[:]}, nil))); got != want {
			t.Errorf("tag %d: got %v, want %v", tag, got, want)
		}
	}
	// RFC 6962 itself and its implementations have this value.
	if got, want := EmptyRoot().String(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; got != want {
		t.Errorf("empty root: got %s, want %s", got, want)
	}
}

// checkEveryMutation wants check to refuse p in each way a proof can be wrong that keeps its numbers.
func checkEveryMutation(t *testing.T, what string, p []Hash, check func(p []Hash) error) {
	t.Helper()
	if err := check(p); err != nil {
		t.Fatalf("%s: refused: %v", what, err)
	}
	for i := range p {
		bad := append([]Hash(nil), p...)
		bad[i][(i*7)%HashSize] ^= 1 << (i % 8)
		if check(bad) == nil {
			t.Fatalf("%s: accepted with hash %d changed", what, i)
		}
		if without := append(append([]Hash(nil), p[:i]...), p[i+1:]...); check(without) == nil {
			t.Fatalf("%s: accepted without hash %d", what, i)
		}
		if twice := append(append([]Hash(nil), p[:i+1]...), p[i:]...); check(twice) == nil {
			t.Fatalf("%s: accepted with hash %d twice", what, i)
		}
		if i > 0 {
			swapped := append([]Hash(nil), p...)
			swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
			if check(swapped) == nil {
				t.Fatalf("%s: accepted with hashes %d and %d swapped", what, i-1, i)
			}
		}
	}
	if check(append(append([]Hash(nil), p...), Hash{})) == nil || check(append([]Hash{{}}, p...)) == nil {
		t.Fatalf("%s: accepted with one hash more", what)
	}
}

func TestInclusionHoldsForExactlyOneLeafIndexSizeRoot(t *testing.T) {
	d := lines(70)
	leaves := leafHashes(d)
	for size := 1; size <= len(d); size++ {
		root := naiveRoot(d[:size])
		for index := range size {
			p := naivePath(index, d[:size])
			check := func(p []Hash) error {
				return CheckInclusion(p, uint64(index), uint64(size), leaves[index], root)
			}
			checkEveryMutation(t, "inclusion", p, check)
			for other := range size + 2 {
				if other != index && CheckInclusion(p, uint64(other), uint64(size), leaves[index], root) == nil {
					t.Fatalf("index %d of %d accepted as index %d", index, size, other)
				}
			}
			if CheckInclusion(p, uint64(index), uint64(size), leaves[index], NodeHash(root, root)) == nil {
				t.Fatalf("index %d of %d accepted under another root", index, size)
			}
			if CheckInclusion(p, uint64(index), uint64(size), Hash{}, root) == nil {
				t.Fatalf("index %d of %d accepted for another leaf", index, size)
			}
		}
	}
}

// An inclusion proof alone does not fix the size: sizes where the path has one shape are told apart by the checkpoint,
// which names size and root together. What must hold is that index, leaf and order follow from root and size.
func TestInclusionRefusesSizesOfAnotherShape(t *testing.T) {
	d := lines(70)
	leaves := leafHashes(d)
	shape := func(index, size uint64) [2]int {
		inner := bits.Len64(index ^ (size - 1))
		return [2]int{inner, inner + bits.OnesCount64(index>>inner)}
	}
	for size := uint64(1); size <= 70; size++ {
		root := naiveRoot(d[:size])
		for index := range size {
			p := naivePath(int(index), d[:size])
			for other := uint64(0); other <= 140; other++ {
				err := CheckInclusion(p, index, other, leaves[index], root)
				same := other > index && shape(index, other)[1] == shape(index, size)[1]
				if err == nil && !same {
					t.Fatalf("index %d of %d accepted in size %d", index, size, other)
				}
			}
		}
	}
}

func TestConsistencyHoldsForExactlyOnePairOfTrees(t *testing.T) {
	d := lines(70)
	roots := make([]Hash, len(d)+1)
	for n := range roots {
		roots[n] = naiveRoot(d[:n])
	}
	for b := 1; b <= len(d); b++ {
		for a := 1; a < b; a++ {
			p := naiveProof(a, d[:b])
			checkEveryMutation(t, "consistency", p, func(p []Hash) error {
				return CheckConsistency(p, uint64(a), uint64(b), roots[a], roots[b])
			})
			for _, other := range []int{0, a - 1, a + 1, b, 2 * a} {
				if other != a && other < len(roots) && CheckConsistency(p, uint64(other), uint64(b), roots[a], roots[b]) == nil {
					t.Fatalf("from %d to %d accepted as from %d", a, b, other)
				}
				if other != a && other < len(roots) && CheckConsistency(p, uint64(a), uint64(b), roots[other], roots[b]) == nil {
					t.Fatalf("from %d to %d accepted with the root of %d", a, b, other)
				}
			}
			if CheckConsistency(p, uint64(a), uint64(b), roots[a], roots[b-1]) == nil {
				t.Fatalf("from %d to %d accepted with another newer root", a, b)
			}
			if CheckConsistency(p, uint64(b), uint64(a), roots[b], roots[a]) == nil {
				t.Fatalf("from %d to %d accepted backwards", a, b)
			}
		}
	}
}

func TestConsistencyOfTrivialSizes(t *testing.T) {
	x, y := LeafHash([]byte("x")), LeafHash([]byte("y"))
	e := EmptyRoot()
	for _, c := range []struct {
		name         string
		p            []Hash
		a, b         uint64
		rootA, rootB Hash
		ok           bool
	}{
		{"empty to empty", nil, 0, 0, e, e, true},
		{"empty to one", nil, 0, 1, e, x, true},
		{"same", nil, 7, 7, x, x, true},
		{"empty with a root", nil, 0, 0, x, x, false},
		{"from empty with a root", nil, 0, 1, x, y, false},
		{"same size, other root", nil, 7, 7, x, y, false},
		{"same with a hash", []Hash{x}, 7, 7, x, x, false},
		{"from empty with a hash", []Hash{x}, 0, 1, e, x, false},
		{"backwards", nil, 2, 1, x, x, false},
		{"no hashes", nil, 1, 2, x, y, false},
	} {
		if err := CheckConsistency(c.p, c.a, c.b, c.rootA, c.rootB); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want ok %v", c.name, err, c.ok)
		}
	}
}

func TestRandomLargeTrees(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewSource(seed))
	for range 12 {
		size := 71 + rng.Intn(3000)
		d := lines(size)
		leaves := leafHashes(d)
		root := naiveRoot(d)
		index, a := rng.Intn(size), 1+rng.Intn(size-1)
		checkEveryMutation(t, "inclusion", naivePath(index, d), func(p []Hash) error {
			return CheckInclusion(p, uint64(index), uint64(size), leaves[index], root)
		})
		rootA := naiveRoot(d[:a])
		checkEveryMutation(t, "consistency", naiveProof(a, d), func(p []Hash) error {
			return CheckConsistency(p, uint64(a), uint64(size), rootA, root)
		})
	}
}

// A proof at the largest sizes must neither panic nor loop: numbers come from whoever sends the proof.
func TestHugeNumbersAreRefused(t *testing.T) {
	p := make([]Hash, 64)
	for _, n := range []uint64{0, 1, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		for _, m := range []uint64{0, 1, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
			for _, k := range []int{0, 1, 63, 64} {
				if CheckInclusion(p[:k], n, m, Hash{}, Hash{1}) == nil {
					t.Errorf("inclusion of %d in %d accepted with %d hashes", n, m, k)
				}
				if n != m && CheckConsistency(p[:k], n, m, Hash{}, Hash{1}) == nil {
					t.Errorf("consistency from %d to %d accepted with %d hashes", n, m, k)
				}
			}
		}
	}
}

func TestMismatchCarriesBothValues(t *testing.T) {
	d := lines(5)
	err := CheckInclusion(naivePath(2, d), 2, 5, LeafHash(d[2]), Hash{1})
	var m *MismatchError
	if !errors.As(err, &m) || m.Got != naiveRoot(d) || m.Want != (Hash{1}) {
		t.Errorf("got %v, want a mismatch with both roots", err)
	}
	if err := CheckInclusion(nil, 2, 5, Hash{}, Hash{}); !errors.Is(err, ErrProofShape) {
		t.Errorf("got %v, want %v", err, ErrProofShape)
	}
}

// sharedData returns a directory of the real test data that stand beside the checkout.
func sharedData(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(filepath.Dir(dir), "shared", "data", name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no shared data %s here", name)
	}
	return dir
}

// vectorHash decodes a hash of a vector. Some that must be refused, and one whose root does not matter, have another
// length than a Hash can: a value that stands for exactly these bytes takes their place. That works for all but the
// absent ones, which ParseHash refuses: they set absent.
func vectorHash(t *testing.T, s string, absent *bool) Hash {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		_, err := ParseHash(s)
		*absent = *absent || err != nil
	}
	if len(b) == HashSize {
		return Hash(b)
	}
	return sha256.Sum256(append([]byte("another length"), b...))
}

func TestMerkleVectors(t *testing.T) {
	root := sharedData(t, "merkle-rfc6962")
	var good, bad [2]int
	for kind, dir := range []string{"inclusion", "consistency"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			if !strings.HasSuffix(name, ".json") {
				return nil
			}
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			var v struct {
				LeafIdx, TreeSize, Size1, Size2 uint64
				Root, LeafHash, Root1, Root2    string
				Proof                           []string
				WantErr                         bool
			}
			if err := json.Unmarshal(data, &v); err != nil {
				return err
			}
			absent := false
			p := make([]Hash, len(v.Proof))
			for i := range p {
				p[i] = vectorHash(t, v.Proof[i], &absent)
			}
			if kind == 0 {
				err = CheckInclusion(p, v.LeafIdx, v.TreeSize, vectorHash(t, v.LeafHash, &absent), vectorHash(t, v.Root, &absent))
			} else {
				err = CheckConsistency(p, v.Size1, v.Size2, vectorHash(t, v.Root1, &absent), vectorHash(t, v.Root2, &absent))
			}
			if (err != nil || absent) != v.WantErr {
				t.Errorf("%s: got %v, want error %v", name, err, v.WantErr)
			}
			if v.WantErr {
				bad[kind]++
			} else {
				good[kind]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if good[kind] == 0 || bad[kind] == 0 {
			t.Errorf("%s: %d good and %d bad vectors, want some of both", dir, good[kind], bad[kind])
		}
	}
	t.Logf("inclusion and consistency: good %v, bad %v", good, bad)
}

// The subtree vectors whose subtree begins at zero are statements about ordinary trees too.
func TestSubtreeVectorsFromZero(t *testing.T) {
	root := sharedData(t, "merkle-rfc6962")
	used := 0
	err := filepath.WalkDir(filepath.Join(root, "subtreeinclusion"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(name, ".json") {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var v struct {
			LeafIdx, Start, End uint64
			Root, LeafHash      string
			Proof               []string
			WantErr             bool
		}
		if err := json.Unmarshal(data, &v); err != nil {
			return err
		}
		if v.Start != 0 {
			return nil
		}
		used++
		absent := false
		p := make([]Hash, len(v.Proof))
		for i := range p {
			p[i] = vectorHash(t, v.Proof[i], &absent)
		}
		err = CheckInclusion(p, v.LeafIdx, v.End, vectorHash(t, v.LeafHash, &absent), vectorHash(t, v.Root, &absent))
		if (err != nil || absent) != v.WantErr {
			t.Errorf("%s: got %v, want error %v", name, err, v.WantErr)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if used == 0 {
		t.Error("no vector begins at zero")
	}
}

func FuzzCheckConsistency(f *testing.F) {
	d := lines(40)
	for _, c := range [][2]int{{1, 2}, {2, 5}, {3, 7}, {4, 8}, {6, 40}, {32, 33}} {
		a, b := naiveRoot(d[:c[0]]), naiveRoot(d[:c[1]])
		var p []byte
		for _, h := range naiveProof(c[0], d[:c[1]]) {
			p = append(p, h[:]...)
		}
		f.Add(uint64(c[0]), uint64(c[1]), a[:], b[:], p)
	}
	f.Fuzz(func(t *testing.T, a, b uint64, rootA, rootB, hashes []byte) {
		if len(rootA) != HashSize || len(rootB) != HashSize || len(hashes)%HashSize != 0 || len(hashes) > 70*HashSize {
			return
		}
		p := make([]Hash, len(hashes)/HashSize)
		for i := range p {
			copy(p[i][:], hashes[i*HashSize:])
		}
		if CheckConsistency(p, a, b, Hash(rootA), Hash(rootB)) != nil {
			return
		}
		if a > b {
			t.Fatalf("accepted from %d to %d", a, b)
		}
		if a == 0 || a == b || b > 1<<12 {
			return
		}
		// What was accepted must be what the definition computes from the proof read the other way: the hashes of
		// maximal subtrees give both roots.
		gotA, gotB, rest := recompute(a, 0, b, true, Hash(rootA), p)
		if len(rest) != 0 || gotA != Hash(rootA) || gotB != Hash(rootB) {
			t.Fatalf("accepted from %d to %d, but the definition gives %v and %v, %d hashes left", a, b, gotA, gotB, len(rest))
		}
	})
}

// recompute runs SUBPROOF of RFC 6962 backwards: it consumes the hashes of p in the order in which the definition makes
// them and returns the roots of the older part and of the whole, over the leaves lo … hi-1.
func recompute(m, lo, hi uint64, complete bool, rootA Hash, p []Hash) (older, newer Hash, rest []Hash) {
	if m == hi {
		if complete {
			return rootA, rootA, p
		}
		if len(p) == 0 {
			return Hash{}, Hash{}, nil
		}
		return p[0], p[0], p[1:]
	}
	k := uint64(naiveSplit(int(hi - lo)))
	if m <= lo+k {
		older, newer, rest = recompute(m, lo, lo+k, complete, rootA, p)
		if len(rest) == 0 {
			return Hash{}, Hash{}, nil
		}
		return older, NodeHash(newer, rest[0]), rest[1:]
	}
	older, newer, rest = recompute(m, lo+k, hi, false, rootA, p)
	if len(rest) == 0 {
		return Hash{}, Hash{}, nil
	}
	return NodeHash(rest[0], older), NodeHash(rest[0], newer), rest[1:]
}
