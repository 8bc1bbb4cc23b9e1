package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// leaf, group and chain make up the values of one endless log, cheaply and the same in each run.

func leaf(i uint64) proof.Hash {
	return proof.LeafHash(binary.BigEndian.AppendUint64(nil, i))
}

func groupLeaves(k uint64, n int) []proof.Hash {
	leaves := make([]proof.Hash, n)
	for i := range leaves {
		leaves[i] = leaf(k*GroupSize + uint64(i))
	}
	return leaves
}

// fake has made-up group roots and chain hashes, for where no leaves are needed, and the levels above them. They are
// computed once: many tests want tens of thousands.
var fake = sync.OnceValue(func() *[numLevels][]proof.Hash {
	var f [numLevels][]proof.Hash
	for k := range uint64(70000) {
		f[chainLevel] = append(f[chainLevel], proof.ChainHash(leaf(k), leaf(k)))
		f[1] = append(f[1], proof.NodeHash(leaf(k), leaf(k)))
	}
	for level := 2; level < numLevels; level++ {
		for below := f[level-1]; len(below) >= GroupSize; below = below[GroupSize:] {
			f[level] = append(f[level], proof.Root(below[:GroupSize]))
		}
	}
	return &f
})

func fakeGroup(k uint64) proof.Hash { return fake()[1][k] }
func fakeChain(k uint64) proof.Hash { return fake()[chainLevel][k] }

func newDir(t testing.TB) (*vfstest.Disk, string) {
	t.Helper()
	d := vfstest.New()
	if err := d.Mkdir("log", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	return d, "log"
}

func open(t testing.TB, fsys vfs.FS, dir string) *Store {
	t.Helper()
	s, err := OpenStore(fsys, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func appendFake(s *Store, to uint64) {
	for k := s.Groups(); k < to; k++ {
		s.Append(fakeGroup(k), fakeChain(k))
	}
}

func flushed(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
}

// wantFiles wants exactly the files that the format prescribes for so many fake groups.
func wantFiles(t testing.TB, d *vfstest.Disk, groups uint64) {
	t.Helper()
	for level := range numLevels {
		var b []byte
		for _, h := range fake()[level][:wholeAt(level, groups)] {
			b = append(b, h[:]...)
		}
		got, err := d.ReadFileRaw("log/" + fileName(level))
		if len(b) == 0 {
			if err == nil {
				t.Fatalf("%d groups: %s exists with %d bytes, want none", groups, fileName(level), len(got))
			}
			continue
		}
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d groups: %s has %d bytes, %v, want %d others", groups, fileName(level), len(got), err, len(b))
		}
	}
}

func TestFrontierEqualsRoot(t *testing.T) {
	var f Frontier
	var leaves []proof.Hash
	for i := range uint64(1030) {
		if f.Size() != i || f.Root() != proof.Root(leaves) {
			t.Fatalf("size %d: got %d, %v", i, f.Size(), f.Root())
		}
		if i > 0 && i%GroupSize == 0 {
			if got, want := f.LastGroup(), proof.Root(leaves[i-GroupSize:]); got != want {
				t.Fatalf("size %d: last group is %v, want %v", i, got, want)
			}
		}
		leaves = append(leaves, leaf(i))
		c := f.Clone()
		c.Append(leaf(i + 1)) // must not show in f
		f.Append(leaf(i))
	}
}

func TestFrontierAppendGroupEqualsAppend(t *testing.T) {
	var one, groups Frontier
	for k := range uint64(600) {
		leaves := groupLeaves(k, GroupSize)
		for _, h := range leaves {
			one.Append(h)
		}
		groups.AppendGroup(proof.Root(leaves))
		if one.Root() != groups.Root() || one.LastGroup() != groups.LastGroup() || one.Size() != groups.Size() {
			t.Fatalf("after %d groups: %v and %v", k+1, one.Root(), groups.Root())
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a group was added inside a group")
		}
	}()
	one.Append(leaf(0))
	one.AppendGroup(leaf(0))
}

// bounds are numbers of groups around the places where a level fills.
var bounds = []uint64{0, 1, 2, 254, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65792, 66000}

func TestFilesAreWhatTheFormatSaysAtEverySize(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	for _, n := range bounds {
		appendFake(s, n)
		flushed(t, s)
		wantFiles(t, d, n)
		if again := open(t, d, dir); again.Groups() != n {
			t.Fatalf("reopened with %d groups, want %d", again.Groups(), n)
		}
	}
	if len(d.OpenFiles()) == 0 {
		t.Fatal("the disk does not count open files")
	}
}

func TestFrontierFromFilesEqualsAppended(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	const most = 66000
	states := map[uint64]*Frontier{}
	var f Frontier
	for k := range uint64(most) + 1 {
		if slices.Contains(bounds, k) {
			states[k] = f.Clone()
		}
		f.AppendGroup(fakeGroup(k))
	}
	appendFake(s, 40000)
	flushed(t, s)
	appendFake(s, most) // the rest stays in memory
	for n, want := range states {
		got, err := s.Frontier(n)
		if err != nil || got.Root() != want.Root() || got.Size() != want.Size() || got.LastGroup() != want.LastGroup() {
			t.Errorf("%d groups: got %v, %v", n, got, err)
			continue
		}
		got.Append(leaf(1))
		want.Append(leaf(1))
		if got.Root() != want.Root() {
			t.Errorf("%d groups and a leaf: got %v, want %v", n, got.Root(), want.Root())
		}
	}
	if _, err := s.Frontier(most + 1); err == nil {
		t.Error("a frontier of more groups than are known")
	}
}

func TestGroupAndChainComeBackFromMemoryAndDisk(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, 300)
	flushed(t, s)
	appendFake(s, 600)
	for k := range uint64(600) {
		g, err1 := s.Group(k)
		c, err2 := s.Chain(k)
		if err1 != nil || err2 != nil || g != fakeGroup(k) || c != fakeChain(k) {
			t.Fatalf("group %d: %v %v %v %v", k, g, c, err1, err2)
		}
	}
	if _, err := s.Group(600); err == nil {
		t.Error("a group that is not known")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Group(0); err == nil {
		t.Error("a group after close")
	}
	if err := s.Flush(); err == nil {
		t.Error("a flush after close")
	}
	if open := d.OpenFiles(); len(open) != 0 {
		t.Errorf("open after close: %v", open)
	}
}

// Whatever happens to the files, cutting at what is still right and appending the rest gives the same bytes again.
func TestDamagedFilesComeBackByteIdentical(t *testing.T) {
	const groups = 66000
	damage := map[string]func(t *testing.T, d *vfstest.Disk){
		"nothing": func(*testing.T, *vfstest.Disk) {},
	}
	for level := range 4 {
		name := "log/" + fileName(level)
		damage["delete "+fileName(level)] = func(t *testing.T, d *vfstest.Disk) {
			if err := d.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		change := func(f func(b []byte) []byte) func(t *testing.T, d *vfstest.Disk) {
			return func(t *testing.T, d *vfstest.Disk) {
				b, err := d.ReadFileRaw(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.WriteFileRaw(name, f(bytes.Clone(b))); err != nil {
					t.Fatal(err)
				}
			}
		}
		damage["truncate "+fileName(level)] = change(func(b []byte) []byte { return b[:len(b)*2/3+1] })
		damage["empty "+fileName(level)] = change(func(b []byte) []byte { return nil })
		damage["extend "+fileName(level)] = change(func(b []byte) []byte { return append(b, make([]byte, 100)...) })
		damage["flip first of "+fileName(level)] = change(func(b []byte) []byte { b[0] ^= 1; return b })
		damage["flip last of "+fileName(level)] = change(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	}
	damage["a level too many"] = func(t *testing.T, d *vfstest.Disk) {
		if err := d.WriteFileRaw("log/tree/4", make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
	}
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, groups)
	flushed(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, do := range damage {
		if raceEnabled && rand.IntN(8) != 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			d := d.Clone()
			do(t, d)
			s := open(t, d, dir)
			// What a recovery does: compare with what the entries say, cut at the first difference.
			good := uint64(0)
			for ; good < s.Groups(); good++ {
				g, err1 := s.Group(good)
				c, err2 := s.Chain(good)
				if err1 != nil || err2 != nil {
					t.Fatal(err1, err2)
				}
				if g != fakeGroup(good) || c != fakeChain(good) {
					break
				}
			}
			s.Cut(good)
			s.Rebuild()
			appendFake(s, groups)
			flushed(t, s)
			wantFiles(t, d, groups)
		})
	}
}

func TestRebuildReplacesFilesThatVanishedWhileOpen(t *testing.T) {
	for _, level := range []int{chainLevel, 1, 2} {
		d, dir := newDir(t)
		s := open(t, d, dir)
		appendFake(s, 300)
		flushed(t, s)
		if err := d.Remove("log/" + fileName(level)); err != nil {
			t.Fatal(err)
		}
		s.Cut(0)
		appendFake(s, 300)
		flushed(t, s)
		wantFiles(t, d, 300)
	}
}

func TestCutShortensEveryFile(t *testing.T) {
	for _, n := range bounds {
		d, dir := newDir(t)
		s := open(t, d, dir)
		appendFake(s, 65800)
		flushed(t, s)
		appendFake(s, 66000)
		s.Cut(n)
		if s.Groups() != min(n, 66000) {
			t.Fatalf("%d groups after a cut to %d", s.Groups(), n)
		}
		if n > 0 {
			if f, err := s.Frontier(s.Groups()); err != nil || f.LastGroup() != fakeGroup(s.Groups()-1) {
				t.Fatalf("cut to %d, not flushed: %v", n, err)
			}
		}
		flushed(t, s)
		wantFiles(t, d, min(n, 66000))
	}
}

func TestFlushIsDurable(t *testing.T) {
	for seed := range int64(30) {
		d, dir := newDir(t)
		s := open(t, d, dir)
		appendFake(s, 300)
		flushed(t, s)
		s.Cut(200)
		appendFake(s, 520)
		flushed(t, s)
		appendFake(s, 600) // never flushed
		wantFiles(t, d.Crash(rand.New(rand.NewPCG(uint64(seed), 0))), 520)
	}
}

// A power cut at any step of a flush leaves files that a recovery mends; what was flushed before is still right unless it was cut.
func TestCrashInFlushIsMended(t *testing.T) {
	prepare := func() (*vfstest.Disk, *Store) {
		d, dir := newDir(t)
		s := open(t, d, dir)
		appendFake(s, 250)
		flushed(t, s)
		appendFake(s, 530)
		return d, s
	}
	d, s := prepare()
	before := d.Ops()
	flushed(t, s)
	steps := d.Ops() - before
	if steps < 5 {
		t.Fatalf("a flush has %d steps, want more", steps)
	}
	for step := range steps + 1 {
		for seed := range int64(8) {
			d, s := prepare()
			d.CutAfter(step)
			if err := s.Flush(); (err == nil) != (step == steps) {
				t.Fatalf("power cut after %d of %d steps: got %v", step, steps, err)
			}
			after := d.Crash(rand.New(rand.NewPCG(uint64(seed), 0)))
			s = open(t, after, "log")
			good := uint64(0)
			for ; good < s.Groups(); good++ {
				g, err1 := s.Group(good)
				c, err2 := s.Chain(good)
				if err1 != nil || err2 != nil {
					t.Fatal(err1, err2)
				}
				if g != fakeGroup(good) || c != fakeChain(good) {
					break
				}
			}
			if good < 250 {
				t.Fatalf("step %d, seed %d: only %d of 250 groups that were durable", step, seed, good)
			}
			s.Cut(good)
			s.Rebuild()
			appendFake(s, 530)
			flushed(t, s)
			wantFiles(t, after, 530)
			wantFiles(t, after.Crash(rand.New(rand.NewPCG(uint64(seed), 0))), 530)
		}
	}
}

func TestFailedWriteLosesNothingAndCanBeRepeated(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, 300)
	for n := 0; ; n++ {
		left := n
		d.SetFail(func(op vfstest.Op) error {
			// Syncs end the store for good: see the next test.
			if !op.Kind.Changes() || op.Kind == vfstest.OpSync || op.Kind == vfstest.OpSyncDir {
				return nil
			}
			if left--; left >= 0 {
				return nil
			}
			if op.Kind == vfstest.OpWrite {
				return vfstest.Short(33, syscall.ENOSPC)
			}
			return syscall.ENOSPC
		})
		err := s.Flush()
		d.SetFail(nil)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("step %d: got %v", n, err)
		}
		if n > 20 {
			t.Fatal("the flush never ends")
		}
		if g, err := s.Group(299); err != nil || g != fakeGroup(299) {
			t.Fatalf("step %d: group 299 is %v, %v", n, g, err)
		}
		if f, err := s.Frontier(300); err != nil || f.LastGroup() != fakeGroup(299) {
			t.Fatalf("step %d: %v", n, err)
		}
		appendFake(s, s.Groups()+1)
		s.Cut(300)
	}
	wantFiles(t, d, 300)
	wantFiles(t, d.Crash(rand.New(rand.NewPCG(1, 0))), 300)
}

func TestFailedSyncEndsWriting(t *testing.T) {
	for _, kind := range []vfstest.Kind{vfstest.OpSync, vfstest.OpSyncDir} {
		d, dir := newDir(t)
		s := open(t, d, dir)
		appendFake(s, 300)
		d.SetFail(func(op vfstest.Op) error {
			if op.Kind == kind {
				return syscall.EIO
			}
			return nil
		})
		if err := s.Flush(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("%s: got %v", kind, err)
		}
		d.SetFail(nil)
		before := d.Ops()
		if err := s.Flush(); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: the next flush gives %v, want the error again", kind, err)
		}
		if d.Ops() != before {
			t.Errorf("%s: something was written after a failed sync", kind)
		}
		if g, err := s.Group(299); err != nil || g != fakeGroup(299) {
			t.Errorf("%s: group 299 is %v, %v", kind, g, err)
		}
	}
}

func TestFlushNoticesAFileThatBecameShorter(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, 300)
	flushed(t, s)
	b, err := d.ReadFileRaw("log/tree/1")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.WriteFileRaw("log/tree/1", b[:len(b)-64]); err != nil {
		t.Fatal(err)
	}
	appendFake(s, 301)
	var tile *TileError
	if err := s.Flush(); !errors.As(err, &tile) || tile.File != "tree/1" || tile.Offset != 298*32 {
		t.Fatalf("got %v, want an error at tree/1, offset %d", err, 298*32)
	}
	if _, err := s.Group(299); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("group 299: got %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestFlushWithoutNewsWritesNothing(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	appendFake(s, 300)
	flushed(t, s)
	before := d.Ops()
	flushed(t, s)
	if d.Ops() != before {
		t.Errorf("%d operations", d.Ops()-before)
	}
}

func TestReaderFollowsAWriterByRefresh(t *testing.T) {
	d, dir := newDir(t)
	w, r := open(t, d, dir), open(t, d, dir)
	for _, n := range []uint64{0, 1, 255, 256, 600} {
		appendFake(w, n)
		flushed(t, w)
		if err := r.Refresh(); err != nil {
			t.Fatal(err)
		}
		if r.Groups() != n {
			t.Fatalf("reader knows %d groups, want %d", r.Groups(), n)
		}
		want, err1 := w.Frontier(n)
		got, err2 := r.Frontier(n)
		if err1 != nil || err2 != nil || got.Root() != want.Root() {
			t.Fatalf("%d groups: %v, %v", n, err1, err2)
		}
	}
	// Refresh must not take a writer's suffix away, nor bring back what it cut.
	appendFake(w, 601)
	if err := w.Refresh(); err != nil || w.Groups() != 601 {
		t.Errorf("the writer knows %d groups, %v", w.Groups(), err)
	}
	w.Cut(10)
	if err := w.Refresh(); err != nil || w.Groups() != 10 {
		t.Errorf("the writer knows %d groups after a cut to 10, %v", w.Groups(), err)
	}
}

// TestReadersBesideOneWriter has its use under the race detector: one writer appends and flushes while readers make
// views, check groups and make proofs.
func TestReadersBesideOneWriter(t *testing.T) {
	d, dir := newDir(t)
	s := open(t, d, dir)
	var now atomic.Pointer[state]
	now.Store(&state{0, proof.EmptyRoot()})
	var done atomic.Bool
	var wg sync.WaitGroup
	for r := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 0))
			for !done.Load() {
				if err := readOnce(s, now.Load(), rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var f Frontier
	for k := range uint64(700) {
		g := proof.Root(groupLeaves(k, GroupSize))
		s.Append(g, fakeChain(k))
		f.AppendGroup(g)
		now.Store(&state{f.Size(), f.Root()})
		if k%7 == 0 {
			flushed(t, s)
		}
	}
	done.Store(true)
	wg.Wait()
}

type state struct {
	size uint64
	root proof.Hash
}

func readOnce(s *Store, st *state, rng *rand.Rand) error {
	v, err := s.View(st.size, st.root, nil)
	if err != nil || st.size == 0 {
		return err
	}
	index := uint64(rng.Int64N(int64(st.size)))
	leaves := groupLeaves(index/GroupSize, GroupSize)
	if err := v.Check(index/GroupSize, proof.Root(leaves)); err != nil {
		return err
	}
	if err := v.Check(index/GroupSize, proof.Hash{}); err == nil {
		return fmt.Errorf("a wrong root of group %d was accepted", index/GroupSize)
	}
	p, err := v.Inclusion(index, leaves)
	if err != nil {
		return err
	}
	if err := proof.CheckInclusion(p, index, st.size, leaf(index), st.root); err != nil {
		return err
	}
	if c, err := s.Chain(index / GroupSize); err != nil || c != fakeChain(index/GroupSize) {
		return fmt.Errorf("chain of group %d is %v: %w", index/GroupSize, c, err)
	}
	return nil
}

func benchStore(b *testing.B, groups uint64) (*Store, *Frontier) {
	b.Helper()
	s := open(b, vfs.OS(), b.TempDir())
	var f Frontier
	for k := range groups {
		g := fakeGroup(k)
		if k%1000 == 7 {
			g = proof.Root(groupLeaves(k, GroupSize))
		}
		s.Append(g, fakeChain(k))
		f.AppendGroup(g)
	}
	flushed(b, s)
	return s, &f
}

func BenchmarkFrontierBatch(b *testing.B) {
	for _, n := range []int{1, 16, 256, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			leaves := make([]proof.Hash, n)
			for i := range leaves {
				leaves[i] = leaf(uint64(i))
			}
			var f Frontier
			b.ReportAllocs()
			for b.Loop() {
				for _, h := range leaves {
					f.Append(h)
				}
				_ = f.Root()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/leaf")
		})
	}
}

const tenMillion = 10_000_000 / GroupSize

func BenchmarkCheckWarm(b *testing.B) {
	s, f := benchStore(b, tenMillion)
	v, err := s.View(f.Size(), f.Root(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Check(12345, fakeGroup(12345)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckCold makes a view and empties the cache for each check.
func BenchmarkCheckCold(b *testing.B) {
	s, f := benchStore(b, tenMillion)
	k := uint64(0)
	for b.Loop() {
		s.cache = tileCache{}
		v, err := s.View(f.Size(), f.Root(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if k = (k + 7919) % tenMillion; k%1000 == 7 {
			k++
		}
		if err := v.Check(k, fakeGroup(k)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInclusionCold opens the store, makes a view and a proof: all that one proof costs but the entries' frame.
func BenchmarkInclusionCold(b *testing.B) {
	s, f := benchStore(b, tenMillion)
	leaves := groupLeaves(20007, GroupSize)
	for b.Loop() {
		s := open(b, s.fsys, s.dir)
		v, err := s.View(f.Size(), f.Root(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := v.Inclusion(20007*GroupSize+100, leaves); err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
