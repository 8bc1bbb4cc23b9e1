package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const coldDir = "cold"

// aged is a log on a fake disk with three sealed segments and a little more.
type aged struct {
	d     *vfstest.Disk
	c     *fakeClock
	l     *Log
	lines []Entry // as they were before anything was retired
	notes [][]byte
}

func newAged(t testing.TB) *aged {
	t.Helper()
	a := &aged{d: vfstest.New(), c: newClock()}
	a.open(t)
	h := &history{}
	for i := range 3 {
		must(t, h.append(a.l, 256*(1+i%2)+7))
		must(t, a.l.Rotate(context.Background()))
		a.note(t)
	}
	must(t, h.append(a.l, 20))
	a.note(t)
	for e, err := range a.l.Entries(context.Background(), Query{}) {
		must(t, err)
		a.lines = append(a.lines, e)
	}
	return a
}

func (a *aged) open(t testing.TB) {
	t.Helper()
	l, err := Open(diskDir, diskConfig(a.d, a.c))
	must(t, err)
	a.l = l
	t.Cleanup(func() { _ = l.Close() })
}

// note publishes, and keeps the checkpoint.
func (a *aged) note(t testing.TB) {
	t.Helper()
	must(t, a.l.publisher.publish(true))
	note, err := a.l.Checkpoint()
	must(t, err)
	a.notes = append(a.notes, note)
}

func (a *aged) reopen(t testing.TB) {
	t.Helper()
	must(t, a.l.Close())
	a.open(t)
}

func (a *aged) retire(t testing.TB, o RetireOptions) Retired {
	t.Helper()
	r, err := a.l.Retire(context.Background(), a.l.firstSealed().first, o)
	must(t, err)
	return r
}

func (a *aged) verify(t testing.TB, o VerifyOptions) *Report {
	t.Helper()
	rep, err := VerifyDir(context.Background(), diskDir, diskConfig(a.d, a.c), o)
	must(t, err)
	return rep
}

// intact holds the log to what it was: what is retired has no entries and all its proofs, what is not has both.
func (a *aged) intact(t testing.TB) {
	t.Helper()
	ctx := context.Background()
	end := a.l.retiredEnd()
	step := len(a.lines)/5 + 1
	if longTests() {
		step = 37
	}
	for i := 0; i < len(a.lines); i += step {
		want := &a.lines[i]
		got, err := a.l.Entry(ctx, uint64(i))
		var gone *RetiredError
		switch {
		case uint64(i) < end:
			if !errors.As(err, &gone) || gone.Entry < 0 {
				t.Fatalf("entry %d of %d retired ones: %v", i, end, err)
			}
			if _, err := a.l.Block(ctx, uint64(i)); !errors.As(err, &gone) {
				t.Fatalf("block %d: %v", i, err)
			}
		case err != nil || !bytes.Equal(got.Line, want.Line):
			t.Fatalf("entry %d: %s, %v", i, got.Line, err)
		}
		for _, size := range []uint64{0, uint64(i + 1)} {
			hashes, err := a.l.InclusionProof(ctx, uint64(i), size)
			must(t, err)
			if size == 0 {
				size = a.l.Size()
			}
			root, err := a.l.RootAt(ctx, size)
			must(t, err)
			must(t, proof.CheckInclusion(hashes, uint64(i), size, want.Leaf, root))
		}
	}
	for _, note := range a.notes {
		c, err := a.l.openCheckpoint(note)
		must(t, err)
		hashes, err := a.l.ConsistencyProof(ctx, c.Size, 0)
		must(t, err)
		root, size := a.l.Root()
		must(t, proof.CheckConsistency(hashes, c.Size, size, c.Root, root))
	}
	if _, err := a.l.Proof(ctx, 3); err != nil {
		t.Fatal(err)
	}
}

func TestRetiredEntriesKeepTheirProofs(t *testing.T) {
	t.Parallel()
	for _, o := range []RetireOptions{{Delete: true, Reason: `after "two" years`, By: "ann"}, {ColdDir: coldDir}} {
		a := newAged(t)
		r := a.retire(t, o)
		if r.First != 0 || r.End != 256 || r.Reason != o.Reason || r.By != o.By || r.Cold != o.ColdDir {
			t.Fatalf("retired %+v", r)
		}
		a.intact(t)
		a.retire(t, o)
		a.intact(t)
		a.reopen(t)
		a.intact(t)
		rep := a.verify(t, VerifyOptions{Indexes: true, Checkpoints: a.notes})
		if rep.Verdict != Proven {
			t.Fatalf("%s: %v %v", rep.Verdict, rep.Findings, rep.Notes)
		}
		names := strings.Join(a.d.Files(), "\n")
		if strings.Contains(names, diskDir+"/archive/00000000000000000000") || strings.Contains(names, diskDir+"/index/00000000000000000000") {
			t.Errorf("still there: %s", names)
		}
		if moved := strings.Contains(names, coldDir+"/archive/"+segment.ArchiveName(0)); moved != (o.ColdDir != "") {
			t.Errorf("in the cold directory: %v", moved)
		}
		if got, err := a.l.Retired(context.Background()); err != nil || len(got) != 2 || got[1].End != a.l.retiredEnd() {
			t.Errorf("Retired: %+v, %v", got, err)
		}
	}
}

func TestRestoredSegmentIsWhatItWas(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	before := allFiles(t, a.d, diskDir+"/archive")
	a.retire(t, RetireOptions{ColdDir: coldDir})
	a.retire(t, RetireOptions{ColdDir: coldDir})
	for range 2 {
		if _, err := a.l.Restore(ctx, RestoreOptions{Reason: "audit", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		a.intact(t)
	}
	if got := allFiles(t, a.d, diskDir+"/archive"); len(got) != len(before) || !bytes.Equal(got[diskDir+"/archive/"+segment.ArchiveName(0)], before[diskDir+"/archive/"+segment.ArchiveName(0)]) {
		t.Errorf("%d archives, were %d", len(got), len(before))
	}
	a.reopen(t)
	a.intact(t)
	if rep := a.verify(t, VerifyOptions{Indexes: true}); rep.Verdict != Proven || len(rep.Retired) != 0 || rep.RetiredEntries != 0 {
		t.Fatalf("%s: %v %v", rep.Verdict, rep.Findings, rep.Notes)
	}
	a.retire(t, RetireOptions{ColdDir: coldDir}) // again, into the directory where it still is
	a.intact(t)
	if _, err := a.l.Restore(ctx, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	a.retire(t, RetireOptions{Delete: true})
	if _, err := a.l.Restore(ctx, RestoreOptions{}); err == nil {
		t.Error("restored from nowhere")
	}
	damaged, err := a.d.ReadFileRaw(coldDir + "/archive/" + segment.ArchiveName(0))
	must(t, err)
	damaged[100] ^= 1
	must(t, a.d.WriteFileRaw(coldDir+"/archive/"+segment.ArchiveName(0), damaged))
	if _, err := a.l.Restore(ctx, RestoreOptions{ColdDir: coldDir}); err == nil {
		t.Error("restored what is not the archive that was retired")
	}
	a.reopen(t)
	a.intact(t)
}

func TestHoldsKeepEverything(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	began, err := a.l.Hold(ctx, Hold{ID: "case-7", Reason: "Smith v. Jones <1>", By: "counsel"})
	must(t, err)
	held := func() {
		t.Helper()
		var h *HeldError
		if _, err := a.l.Retire(ctx, 0, RetireOptions{Delete: true}); !errors.As(err, &h) || len(h.Holds) == 0 {
			t.Fatalf("retired in spite of a hold: %v", err)
		}
		if _, err := a.l.RetireExpired(ctx, 0, RetireOptions{Delete: true}); !errors.As(err, &h) {
			t.Fatalf("retired in spite of a hold: %v", err)
		}
	}
	held()
	if _, err := a.l.Hold(ctx, Hold{ID: "case-7"}); err == nil {
		t.Error("one hold began twice")
	}
	_, err = a.l.Hold(ctx, Hold{ID: "case-8"})
	must(t, err)
	a.reopen(t)
	held()
	got, err := a.l.Holds(ctx)
	must(t, err)
	if len(got) != 2 || got[0] != (Hold{ID: "case-7", Reason: "Smith v. Jones <1>", By: "counsel", Index: began.Index, Since: began.Timestamp}) {
		t.Errorf("holds %+v", got)
	}
	if s, err := a.l.Stats(ctx); err != nil || s.Holds != 2 || s.RetiredEntries != 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
	if rep := a.verify(t, VerifyOptions{}); rep.Verdict == Refuted || len(rep.Holds) != 2 || rep.Holds[0].Reason != got[0].Reason {
		t.Errorf("%s %v %+v", rep.Verdict, rep.Findings, rep.Holds)
	}
	for _, id := range []string{"case-8", "case-7"} {
		held()
		_, err = a.l.Release(ctx, Hold{ID: id, Reason: "settled"})
		must(t, err)
	}
	if _, err := a.l.Release(ctx, Hold{ID: "case-7"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("released twice: %v", err)
	}
	for _, id := range []string{"", "-a", ".a", "a b", "ä", strings.Repeat("a", maxHoldID+1)} {
		if _, err := a.l.Hold(ctx, Hold{ID: id}); err == nil {
			t.Errorf("hold %q began", id)
		}
	}
	if _, err := a.l.Hold(ctx, Hold{ID: strings.Repeat("a", maxHoldID), Reason: strings.Repeat("r", maxReason)}); err != nil {
		t.Error(err)
	}
	if _, err := a.l.Hold(ctx, Hold{ID: "b", Reason: strings.Repeat("r", maxReason+1)}); err == nil {
		t.Error("a reason over the limit")
	}
}

// TestHoldWithinARetiredSegmentStays retires the segment in which holds began and ended: what they say must not go with it.
func TestHoldWithinARetiredSegmentStays(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	_, err := a.l.Hold(ctx, Hold{ID: "early"})
	must(t, err)
	_, err = a.l.Release(ctx, Hold{ID: "early"})
	must(t, err)
	key := newProducer(t, ProducerEd25519).Key()
	_, err = a.l.RegisterProducer(ctx, key)
	must(t, err)
	must(t, (&history{next: 5000}).append(a.l, 600))
	must(t, a.l.Rotate(ctx))
	for range 4 {
		a.retire(t, RetireOptions{Delete: true})
	}
	_, err = a.l.Hold(ctx, Hold{ID: "early"})
	must(t, err)
	a.reopen(t)
	if _, err = a.l.Hold(ctx, Hold{ID: "early"}); err == nil {
		t.Error("the hold is forgotten")
	}
	if keys, err := a.l.Producers(ctx); err != nil || len(keys) != 1 || keys[0].Key != key {
		t.Errorf("producers %v, %v", keys, err)
	}
	rep := a.verify(t, VerifyOptions{})
	if rep.Verdict != Proven || len(rep.Producers) != 1 || len(rep.Holds) != 1 {
		t.Errorf("%s %v, producers %v", rep.Verdict, rep.Findings, rep.Producers)
	}
}

func TestRetireRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	for name, o := range map[string]RetireOptions{
		"neither": {}, "both": {ColdDir: coldDir, Delete: true}, "within": {ColdDir: diskDir + "/cold"}, "the log": {ColdDir: diskDir},
		"reason": {Delete: true, Reason: strings.Repeat("r", maxReason+1)}, "text": {Delete: true, By: "\xff"},
	} {
		if _, err := a.l.Retire(ctx, 0, o); err == nil {
			t.Errorf("%s: retired", name)
		}
	}
	for _, first := range []uint64{1, 256, 768, 1 << 40} {
		if _, err := a.l.Retire(ctx, first, RetireOptions{Delete: true}); err == nil {
			t.Errorf("retired the segment of %d", first)
		}
	}
	must(t, vfs.MkdirAll(a.d, coldDir+"/archive", 0o700))
	must(t, a.d.WriteFileRaw(coldDir+"/archive/"+segment.ArchiveName(0), []byte("of another log")))
	if _, err := a.l.Retire(ctx, 0, RetireOptions{ColdDir: coldDir}); err == nil {
		t.Error("something else was overwritten")
	}
	if names := a.d.Files(); strings.Contains(strings.Join(names, " "), ".leaves") {
		t.Errorf("a refused retirement left %v", names)
	}
	for range 3 {
		a.retire(t, RetireOptions{Delete: true})
	}
	if _, err := a.l.Retire(ctx, 1024, RetireOptions{Delete: true}); !errors.Is(err, ErrNotFound) {
		t.Errorf("retired the open segment: %v", err)
	}
}

func TestRetireWaitsForIdempotencyKeys(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := &aged{d: vfstest.New(), c: newClock()}
	a.open(t)
	e := event(1)
	e.IdempotencyKey = "order-1"
	r, err := a.l.Append(ctx, e)
	must(t, err)
	must(t, (&history{}).append(a.l, 300))
	must(t, a.l.Rotate(ctx))
	if _, err := a.l.Retire(ctx, 0, RetireOptions{Delete: true}); err == nil {
		t.Fatal("retired what a repeated append must find")
	}
	again, err := a.l.Append(ctx, e)
	must(t, err)
	if again[0].Index != r[0].Index || !again[0].Repeated {
		t.Errorf("written twice: %+v", again)
	}
	a.c.add(idempotencyWindow + time.Minute)
	a.retire(t, RetireOptions{Delete: true})
	a.reopen(t)
	if again, err = a.l.Append(ctx, e); err != nil || again[0].Repeated {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestExpiredSegmentsGoByTheirNewestEntry(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := &aged{d: vfstest.New(), c: newClock()}
	a.open(t)
	for range 4 {
		must(t, (&history{}).append(a.l, 256))
		must(t, a.l.Rotate(ctx))
		a.c.add(24 * time.Hour)
	}
	got, err := a.l.RetireExpired(ctx, 60*time.Hour, RetireOptions{Delete: true})
	must(t, err)
	if len(got) != 2 || a.l.retiredEnd() != 512 {
		t.Errorf("retired %+v", got)
	}
	if got, err = a.l.RetireExpired(ctx, 60*time.Hour, RetireOptions{Delete: true}); err != nil || len(got) != 0 {
		t.Errorf("retired %+v, %v", got, err)
	}
}

// TestReadsSayWhatIsRetired reads in every way: what is retired is never left out as if it had not been there.
func TestReadsSayWhatIsRetired(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	a := newAged(t)
	a.retire(t, RetireOptions{Delete: true})
	end := a.l.retiredEnd()
	check := func(l *Log) {
		t.Helper()
		n := l.Size() - end
		read := func(seq func(func(Entry, error) bool)) (found uint64, err error) {
			for e, err := range seq {
				if err != nil {
					return found, err
				}
				if e.Index < end {
					t.Fatalf("entry %d came", e.Index)
				}
				found++
			}
			return found, nil
		}
		for _, q := range []Query{{}, {Verified: true}, {Reverse: true}, {From: end}} {
			var x Explain
			q.Explain = &x
			found, err := read(l.Entries(ctx, q))
			if err != nil || found != n && !(q.Reverse && q.From > 0) || x.Retired != end && q.From == 0 {
				t.Errorf("%+v: %d entries, %v, explained %+v", q, found, err, x)
			}
		}
		var x Explain
		if found, err := read(l.Search(ctx, Query{Text: "level:AUDIT", Explain: &x})); err != nil || found == 0 || x.Retired != end || len(x.Notes) == 0 {
			t.Errorf("search: %d, %v, %+v", found, err, x)
		}
		if _, err := read(l.Search(ctx, Query{Limit: 3, From: n + end - 1, Explain: &x})); err != nil || x.Retired != end {
			t.Errorf("search: %v, %+v", err, x)
		}
		c, err := l.Count(ctx, Query{})
		if err != nil || c.N != n || c.Retired != end {
			t.Errorf("count %+v, %v", c, err)
		}
		by, err := l.CountBy(ctx, Query{}, "level")
		if err != nil || by.Retired != end {
			t.Errorf("counts %+v, %v", by, err)
		}
		if h, err := l.Histogram(ctx, Query{}, time.Hour); err != nil || h.Retired != end {
			t.Errorf("histogram %+v, %v", h, err)
		}
		var gone *RetiredError
		for name, seq := range map[string]func(func(Entry, error) bool){
			"entries": l.Entries(ctx, Query{From: 1}), "search": l.Search(ctx, Query{From: 5}), "oldest first": l.Search(ctx, Query{From: end - 1, Reverse: true}),
			"subscribe": l.Subscribe(ctx, end-1), "follow": l.Follow(ctx, Query{From: 3, Limit: 1}),
		} {
			if found, err := read(seq); found != 0 || !errors.As(err, &gone) || gone.End != end || gone.Entry < int64(end) {
				t.Errorf("%s from a retired entry on: %d entries, %v", name, found, err)
			}
		}
		if found, err := read(l.Follow(ctx, Query{Limit: 5})); err != nil || found != 5 {
			t.Errorf("follow: %d, %v", found, err)
		}
		s, err := l.Stats(ctx)
		if err != nil || s.RetiredEntries != end || s.RetiredBytes == 0 || s.TotalEntries != n+end || s.Holds != 0 {
			t.Errorf("stats %+v, %v", s, err)
		}
		sum := int64(0)
		for _, v := range s.Levels {
			sum += v
		}
		if uint64(sum) != n || !s.OldestEntry.Equal(a.lines[end].Timestamp) {
			t.Errorf("levels of %d entries, oldest %v", sum, s.OldestEntry)
		}
	}
	check(a.l)
	a.reopen(t)
	check(a.l)
	cfg := diskConfig(a.d, a.c)
	cfg.ReadOnly = true
	l, err := Open(diskDir, cfg)
	must(t, err)
	defer l.Close()
	check(l)
	// The reader beside it follows what the writer retires.
	a.retire(t, RetireOptions{Delete: true})
	if _, err := l.Entry(ctx, end); !errors.As(err, new(*RetiredError)) {
		t.Errorf("a reader beside the writer: %v", err)
	}
	end = a.l.retiredEnd()
	check(l)
	if _, err := l.InclusionProof(ctx, 3, 0); err != nil {
		t.Error(err)
	}
}

func TestRebuildMakesTheTreeOfRetiredEntries(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	a.retire(t, RetireOptions{Delete: true})
	a.retire(t, RetireOptions{Delete: true})
	must(t, a.l.Close())
	want := allFiles(t, a.d, diskDir+"/tree")
	chain, err := a.d.ReadFileRaw(diskDir + "/chain")
	must(t, err)
	for name := range want {
		must(t, a.d.Remove(name))
	}
	must(t, a.d.Remove(diskDir+"/chain"))
	a.open(t)
	if _, err := a.l.Rebuild(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	a.intact(t)
	must(t, a.l.Close())
	for name, data := range want {
		if got, err := a.d.ReadFileRaw(name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := a.d.ReadFileRaw(diskDir + "/chain"); err != nil || !bytes.Equal(got, chain) {
		t.Errorf("chain: %v", err)
	}
	a.open(t)
	a.intact(t)
}

// TestCrashDuringRetirementLosesNothing interrupts retirements and restorations before each operation that changes the disk, by
// a kill and by power cuts. Whatever is left verifies; the log opens; each entry is there or its tombstone is, and its copy is
// where the tombstone says; and what the log was asked for can be asked for again.
func TestCrashDuringRetirementLosesNothing(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	ctx := context.Background()
	a := newAged(t)
	n, failures := 0, 0
	watch(a.d, &history{}, func(op vfstest.Op) {
		if n++; failures > 3 {
			return
		}
		kinds := []int{n + n/len(cutKinds)}
		if longTests() {
			kinds = []int{0, 1, 2, 3, 3, 3}
		} else if rng.IntN(3*thin) != 0 {
			return
		}
		for _, kind := range kinds {
			seed := rng.Uint64()
			after := &aged{d: cut(a.d, kind, vfstest.NewRand(seed)), c: newClock(), lines: a.lines, notes: a.notes}
			after.c.add(time.Hour)
			if err := after.interrupted(t); err != nil {
				failures++
				t.Errorf("%s before operation %d, %s %s (seed %d): %v", cutKinds[kind%len(cutKinds)], op.N, op.Kind, op.Name, seed, err)
			}
		}
	})
	a.retire(t, RetireOptions{ColdDir: coldDir})
	a.retire(t, RetireOptions{ColdDir: coldDir})
	_, err := a.l.Restore(ctx, RestoreOptions{})
	must(t, err)
	a.retire(t, RetireOptions{ColdDir: coldDir})
	must(t, a.l.Close())
	a.d.SetFail(nil)
	t.Logf("%d operations", n)
}

// interrupted is everything that must hold after a crash.
func (a *aged) interrupted(t *testing.T) error {
	t.Helper()
	cfg := diskConfig(a.d, a.c)
	rep, err := VerifyDir(context.Background(), diskDir, cfg, VerifyOptions{Indexes: true})
	if err != nil || rep.Verdict == Refuted {
		return fmt.Errorf("verify before recovery: %v, %w", rep.Findings, err)
	}
	l, err := Open(diskDir, cfg)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	a.l = l
	a.intact(t)
	for first := uint64(0); first < l.retiredEnd(); {
		x, err := segment.OpenArchive(&reopening{fs: a.d, name: coldDir + "/archive/" + segment.ArchiveName(first)}, sizeOf(a.d, coldDir+"/archive/"+segment.ArchiveName(first)))
		if err != nil {
			return errors.Join(fmt.Errorf("the cold copy of %d: %w", first, err), l.Close())
		}
		first = x.End()
	}
	if s := l.firstSealed(); s != nil {
		if _, err := l.Retire(context.Background(), s.first, RetireOptions{ColdDir: coldDir}); err != nil {
			return errors.Join(fmt.Errorf("retire after recovery: %w", err), l.Close())
		}
	}
	a.intact(t)
	if err := l.Close(); err != nil {
		return err
	}
	rep, err = VerifyDir(context.Background(), diskDir, cfg, VerifyOptions{Indexes: true, Cold: coldDir})
	if err != nil || rep.Verdict != Proven || rep.RetiredEntries != 0 {
		return fmt.Errorf("verify after recovery: %s %v %v, %w", rep.Verdict, rep.Findings, rep.Notes, err)
	}
	for _, r := range rep.Retired {
		if r.Read != "cold" {
			return fmt.Errorf("after recovery the segment of %d is read in %q", r.First, r.Read)
		}
	}
	for _, note := range rep.Notes {
		if !strings.Contains(note.What, "they were read in") {
			return fmt.Errorf("after recovery: %v", note)
		}
	}
	return nil
}

func sizeOf(d *vfstest.Disk, name string) int64 {
	info, err := d.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size
}

// TestFailedRetirementLosesNothing fails each operation of a retirement once, and asks again.
func TestFailedRetirementLosesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	base := newAged(t)
	must(t, base.l.Close())
	for at := uint64(1); ; at += thin {
		a := &aged{d: base.d.Clone(), c: newClock(), lines: base.lines, notes: base.notes}
		a.c.add(time.Hour)
		a.open(t)
		n, failed := uint64(0), false
		a.d.SetFail(func(op vfstest.Op) error {
			if op.N == 0 || strings.HasPrefix(strings.TrimPrefix(op.Name, "/"), diskState) {
				return nil
			}
			if n++; n == at {
				failed = true
				return errors.New("the disk says no")
			}
			return nil
		})
		_, err := a.l.Retire(ctx, 0, RetireOptions{ColdDir: coldDir})
		a.d.SetFail(nil)
		if !failed {
			must(t, err)
			t.Logf("%d operations", at-1)
			return
		}
		_ = a.l.Close() // a writer that failed says so
		if err := a.interrupted(t); err != nil {
			t.Fatalf("operation %d failed: %v", at, err)
		}
	}
}

// TestReadersBesideRetirement reads, proves, counts and verifies while segments go and come back: nothing else than a
// *RetiredError comes of it.
func TestReadersBesideRetirement(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var readers sync.WaitGroup
	reader := func(name string, read func(n uint64) error) {
		readers.Go(func() {
			for n := uint64(0); ctx.Err() == nil; n += 61 {
				if err := read(n % uint64(len(a.lines))); err != nil && !errors.As(err, new(*RetiredError)) && ctx.Err() == nil {
					t.Errorf("%s of %d: %v", name, n%uint64(len(a.lines)), err)
					return
				}
			}
		})
	}
	reader("Entry", func(n uint64) error {
		e, err := a.l.Entry(ctx, n)
		if err == nil && !bytes.Equal(e.Line, a.lines[n].Line) {
			return fmt.Errorf("another entry: %s", e.Line)
		}
		return err
	})
	reader("InclusionProof", func(n uint64) error {
		if _, err := a.l.InclusionProof(ctx, n, 0); err != nil {
			return fmt.Errorf("%v", err) // a proof is always there
		}
		return nil
	})
	reader("Search", func(n uint64) error {
		for _, err := range a.l.Search(ctx, Query{Text: "level:AUDIT"}) {
			if err != nil {
				return err
			}
		}
		_, err := a.l.Stats(ctx)
		return err
	})
	for range 3 {
		a.retire(t, RetireOptions{ColdDir: coldDir})
		a.retire(t, RetireOptions{ColdDir: coldDir})
		for range 2 {
			_, err := a.l.Restore(ctx, RestoreOptions{})
			must(t, err)
		}
	}
	cancel()
	readers.Wait()
	a.intact(t)
}
