package fsck

import (
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

func TestWholeLogIsProvenByItsHead(t *testing.T) {
	b := small(t, "example.com/log", true)
	o := b.options()
	o.Indexes = true
	r := verify(t, o)
	want(t, r, Proven)
	if r.Size != b.size() || r.Root != b.f.Root() || r.Chain != b.chain || r.Entries != b.size() || r.Segments != 2 || r.Checkpoints != 4 || !r.Signed || r.Origin != b.origin {
		t.Errorf("report %+v", r)
	}
	var levels [entry.NumLevels]uint64
	for i := range b.lines {
		levels[i%7]++
	}
	if r.Levels != levels {
		t.Errorf("levels %v, want %v", r.Levels, levels)
	}
	if got := r.FirstTime.UnixNano(); got != testTime+1_000_001 {
		t.Errorf("first time %d", got)
	}
	if got := r.LastTime.UnixNano(); got != b.time {
		t.Errorf("last time %d, want %d", got, b.time)
	}
	if len(r.Basis) != 1 || r.Basis[0].Kind != "head" || r.Basis[0].Size != b.size() || len(r.Notes) != 0 {
		t.Errorf("basis %v, notes %v", r.Basis, r.Notes)
	}
}

func TestVerdictNamesWhatItStandsOn(t *testing.T) {
	b := small(t, "example.com/log", true)
	b.noHead = true
	want(t, verify(t, b.options()), Consistent)

	o := b.options()
	o.Keys = []string{b.signer.VKey()}
	r := verify(t, o)
	want(t, r, Proven)
	if len(r.Basis) != 1 || r.Basis[0].Kind != "key" || r.Basis[0].Size != b.size() {
		t.Errorf("basis %v", r.Basis)
	}

	o = b.options()
	o.Checkpoints = [][]byte{b.files["checkpoint"]}
	want(t, verify(t, o), Proven)

	o = b.options()
	o.Receipts = []Receipt{{Index: 400, Leaf: b.leaves[400], Chain: b.chains[400]}, {Index: 524, Leaf: b.leaves[524]}, {Index: 511, Chain: b.chains[511]}}
	r = verify(t, o)
	want(t, r, Proven)
	if len(r.Basis) != 3 || r.Covered != 512 {
		t.Errorf("basis %v, covered %d", r.Basis, r.Covered)
	}
}

// TestKeyThatSignedNoEntryProvesNone has entries that anybody may have written after the checkpoint of the empty log.
func TestKeyThatSignedNoEntryProvesNone(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.noHead = true
	o := b.options()
	o.Keys, o.Checkpoints = []string{b.signer.VKey()}, [][]byte{b.files["checkpoint"]}
	want(t, verify(t, o), Proven) // the empty log itself
	b.add(300)
	o = b.options()
	o.Keys = []string{b.signer.VKey()}
	r := verify(t, o)
	want(t, r, Consistent)
	if r.Covered != 0 || len(r.Basis) != 1 || len(r.Notes) == 0 {
		t.Errorf("covered %d, basis %v, notes %v", r.Covered, r.Basis, r.Notes)
	}
	empty := b.note(proof.Checkpoint{Origin: "example.com/log", Root: proof.EmptyRoot()}.Text())
	o.Checkpoints = [][]byte{empty}
	want(t, verify(t, o), Consistent)
	o.Receipts = []Receipt{{Index: 7, Leaf: b.leaves[7]}}
	want(t, verify(t, o), Proven)
}

func TestReceiptOfAnImpossibleEntryRefutes(t *testing.T) {
	b := small(t, "example.com/log", true)
	for _, index := range []uint64{b.size(), 1<<63 - 1, 1<<64 - 1} {
		o := b.options()
		o.Receipts = []Receipt{{Index: index}}
		want(t, verify(t, o), Refuted)
	}
}

func TestUnsignedLogIsConsistentOrProvenByHead(t *testing.T) {
	b := small(t, "example.com/log", false)
	want(t, verify(t, b.options()), Proven)
	b.noHead = true
	r := verify(t, b.options())
	want(t, r, Consistent)
	if len(r.Notes) != 1 || r.Signed {
		t.Errorf("notes %v", r.Notes)
	}
	o := b.options()
	o.Checkpoints = [][]byte{b.files["checkpoint"]}
	want(t, verify(t, o), Proven)
}

func TestEmptyAndSmallLogs(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 257, 512} {
		b := newBook(t, "example.com/log", true)
		if n > 0 {
			b.add(n)
		}
		b.close()
		r := verify(t, b.options())
		want(t, r, Proven)
		if r.Size != uint64(n) || r.Root != proof.Root(b.leaves) {
			t.Errorf("%d entries: size %d", n, r.Size)
		}
	}
}

func TestPendingSegmentsCountOnce(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(300)
	b.rotate()
	b.add(300)
	b.rotate()
	b.add(2)
	b.close()
	r := verify(t, b.options())
	want(t, r, Proven)
	if r.Entries != 602 || r.Segments != 3 {
		t.Errorf("entries %d in %d segments", r.Entries, r.Segments)
	}
	// Sealed, but the pending file is still there: with idx and seal, and before them.
	b.archive(0, 256)
	want(t, verify(t, b.options()), Proven)
	b.sign(0, 256)
	want(t, verify(t, b.options()), Proven)
}
