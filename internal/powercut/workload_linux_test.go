package powercut

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

const origin = "example.com/powercut"

// logDir and logConfig are of the log on an ext4 that is mounted at mnt; its state directory lies there too.
func logDir(mnt string) string { return filepath.Join(mnt, "log") }

func logConfig(mnt string) *immutable.Config {
	return &immutable.Config{
		Origin: origin, StateDir: filepath.Join(mnt, "state"), Hostname: "host",
		RotateSize: 64 << 10, CheckpointInterval: 20 * time.Millisecond,
	}
}

// attempt is one append. Moments are lengths of the trace.
type attempt struct {
	messages []string
	begun    int64 // not before this moment
	acked    int64 // not after this one; -1 if it never was
	receipts []immutable.Receipt
}

// seen is a checkpoint that the log had published by the moment.
type seen struct {
	note   []byte
	moment int64
}

// span is a time in which a log was opened or closed.
type span struct{ from, to int64 }

// history is what callers did to a log while its disk was recorded.
type history struct {
	name    string
	rec     *recording
	keys    []string
	workers [][]*attempt // of each goroutine, in its order
	spans   []span

	mu    sync.Mutex
	notes []seen
}

// session opens the log, appends from several goroutines, and closes it again.
func (h *history) session(t *testing.T, rng *rand.Rand, goroutines, appends int) {
	t.Helper()
	opening := span{from: h.moment(t)}
	l, err := immutable.Open(logDir(h.rec.mnt), logConfig(h.rec.mnt))
	if err != nil {
		t.Fatal(err)
	}
	opening.to = h.moment(t)
	h.keys = l.VerifierKeys()
	var wg sync.WaitGroup
	for range goroutines {
		w := len(h.workers)
		h.workers = append(h.workers, nil)
		own := rand.New(rand.NewPCG(rng.Uint64(), uint64(w)))
		wg.Go(func() {
			attempts, err := h.work(l, own, fmt.Sprintf("%s worker %d", h.name, w), appends)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.workers[w] = attempts
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	closing := span{from: h.moment(t)}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	closing.to = h.moment(t)
	h.spans = append(h.spans, opening, closing)
	if t.Failed() {
		t.FailNow()
	}
}

// work is one goroutine's appends, mostly single entries, with a look at the checkpoint and a rotation now and then.
func (h *history) work(l *immutable.Log, rng *rand.Rand, name string, appends int) ([]*attempt, error) {
	ctx := context.Background()
	var attempts []*attempt
	for n := range appends {
		events := makeEvents(rng, fmt.Sprintf("%s append %d", name, n))
		a := &attempt{acked: -1}
		for i := range events {
			a.messages = append(a.messages, events[i].Message)
		}
		attempts = append(attempts, a)
		var err error
		if a.begun, err = h.rec.moment(); err != nil {
			return attempts, err
		}
		if a.receipts, err = l.Append(ctx, events...); err != nil {
			return attempts, fmt.Errorf("%s append %d: %w", name, n, err)
		}
		if a.acked, err = h.rec.moment(); err != nil {
			return attempts, err
		}
		if rng.IntN(8) == 0 {
			if err := h.look(l); err != nil {
				return attempts, err
			}
		}
		if rng.IntN(40) == 0 {
			if err := l.Rotate(ctx); err != nil {
				return attempts, err
			}
		}
	}
	return attempts, nil
}

// look remembers the newest checkpoint.
func (h *history) look(l *immutable.Log) error {
	note, err := l.Checkpoint()
	if err != nil {
		return err
	}
	moment, err := h.rec.moment()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes = append(h.notes, seen{note, moment})
	return nil
}

func (h *history) moment(t *testing.T) int64 {
	t.Helper()
	m, err := h.rec.moment()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// acked are the attempts that were acknowledged: in a session that did not fail, all.
func (h *history) acked() []*attempt {
	return slices.Concat(h.workers...)
}

// makeEvents makes the events of one append. Each message is unique.
func makeEvents(rng *rand.Rand, name string) []immutable.Event {
	n := 1
	switch rng.IntN(20) {
	case 0:
		n = 50 + rng.IntN(250)
	case 1, 2, 3, 4:
		n = 2 + rng.IntN(20)
	}
	events := make([]immutable.Event, n)
	for i := range events {
		events[i] = immutable.Event{
			Level: immutable.Level(i % immutable.NumLevels), Message: fmt.Sprintf("%s event %d of %d", name, i, n),
			Metadata: immutable.Fields{"user": "ann.smith@example.com", "n": i, "pad": strings.Repeat("pad ", rng.IntN(150))},
		}
	}
	return events
}

// expectation is what a log must and may hold after a power cut.
type expectation struct {
	made    bool // the Open that made the log had returned
	keys    []string
	workers [][]*attempt // begun before the cut; acked is -1 where the acknowledgement was not before it
	notes   [][]byte
}

// expect says what the log must and may hold when the power fails at the moment.
func (h *history) expect(moment int64) *expectation {
	e := &expectation{made: len(h.spans) > 0 && h.spans[0].to <= moment}
	if e.made {
		e.keys = h.keys
	}
	for _, w := range h.workers {
		var begun []*attempt
		for _, a := range w {
			if a.begun > moment {
				break
			}
			known := *a
			if a.acked > moment {
				known.acked, known.receipts = -1, nil
			}
			begun = append(begun, &known)
		}
		e.workers = append(e.workers, begun)
	}
	for _, n := range h.notes {
		if n.moment <= moment {
			e.notes = append(e.notes, n.note)
		}
	}
	return e
}

// and is what must and may be there when the log went on after it was recovered.
func (e *expectation) and(later *expectation) *expectation {
	both := &expectation{
		made: e.made || later.made, keys: e.keys,
		workers: slices.Concat(e.workers, later.workers), notes: slices.Concat(e.notes, later.notes),
	}
	if later.made {
		both.keys = later.keys
	}
	return both
}

func (e *expectation) receipts() []immutable.Receipt {
	var all []immutable.Receipt
	for _, a := range slices.Concat(e.workers...) {
		all = append(all, a.receipts...)
	}
	return all
}

// check opens the log on the ext4 that power was cut from and compares it with the expectation.
func (e *expectation) check(t *testing.T, mnt string) {
	t.Helper()
	// What is left of a log that was being made is not a log yet; Open makes it one.
	if e.made {
		e.verify(t, mnt, "before recovery")
	}
	l, err := immutable.Open(logDir(mnt), logConfig(mnt))
	if err != nil {
		t.Fatalf("open after the cut: %v", err)
	}
	defer l.Close()
	e.checkEntries(t, l)
	e.checkNotes(t, l)
	size := l.Size()
	r, err := l.Audit(context.Background(), "after the cut", nil)
	// A recovery entry may stand before it.
	if err != nil || r.Index < size || r.Index > size+1 {
		t.Fatalf("append after the cut: index %d in a log of %d, %v", r.Index, size, err)
	}
	if err := l.Close(); err != nil {
		t.Fatalf("close after the cut: %v", err)
	}
	e.verify(t, mnt, "after recovery", r)
}

// verify wants the directory as it is proven by what is known from before the cut.
func (e *expectation) verify(t *testing.T, mnt, when string, more ...immutable.Receipt) {
	t.Helper()
	report, err := immutable.VerifyDir(context.Background(), logDir(mnt), logConfig(mnt), immutable.VerifyOptions{
		Keys: e.keys, Checkpoints: e.notes, Receipts: append(e.receipts(), more...), Indexes: true,
	})
	if err != nil {
		t.Fatalf("verify %s: %v", when, err)
	}
	if report.Verdict != immutable.Proven {
		t.Errorf("verify %s: %v: findings %v, notes %v", when, report.Verdict, report.Findings, report.Notes)
	}
}

// checkEntries wants every acknowledged entry where its receipt says, every other append whole or not at all, each entry once,
// those of a goroutine in its order, and nothing else.
func (e *expectation) checkEntries(t *testing.T, l *immutable.Log) {
	t.Helper()
	found := map[string]uint64{}
	leaves := map[uint64]immutable.Hash{}
	var next uint64
	for entry, err := range l.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			t.Fatalf("read entry %d of %d: %v", next, l.Size(), err)
		}
		if entry.Index != next {
			t.Fatalf("entry %d where %d must be", entry.Index, next)
		}
		next++
		leaves[entry.Index] = entry.Leaf
		if entry.Control != nil || entry.Message == "after the cut" {
			continue
		}
		if other, ok := found[entry.Message]; ok {
			t.Errorf("entries %d and %d are both %q", other, entry.Index, entry.Message)
		}
		found[entry.Message] = entry.Index
	}
	if next != l.Size() {
		t.Errorf("%d entries in a log of size %d", next, l.Size())
	}
	for _, w := range e.workers {
		var low uint64 // what the goroutine appends next stands here or later
		for _, a := range w {
			low = checkAttempt(t, a, low, found, leaves)
		}
	}
	for message, index := range found {
		t.Errorf("entry %d is %q, which nobody had begun to append", index, message)
	}
}

// checkAttempt compares one append with what was found, and takes its entries out of that. It returns the index after them.
func checkAttempt(t *testing.T, a *attempt, low uint64, found map[string]uint64, leaves map[uint64]immutable.Hash) uint64 {
	t.Helper()
	first, there := found[a.messages[0]]
	if !there && a.acked >= 0 {
		t.Errorf("acknowledged at %d, and lost: %q, index %d", a.acked, a.messages[0], a.receipts[0].Index)
		return low
	}
	for i, message := range a.messages {
		index, ok := found[message]
		delete(found, message)
		switch {
		case ok != there:
			t.Errorf("append is neither whole nor absent: %q is there: %v, %q is there: %v", a.messages[0], there, message, ok)
		case ok && index != first+uint64(i):
			t.Errorf("%q has index %d, want %d", message, index, first+uint64(i))
		case ok && a.acked >= 0 && (index != a.receipts[i].Index || leaves[index] != a.receipts[i].Leaf):
			t.Errorf("%q has index %d and leaf %v; its receipt says %d and %v", message, index, leaves[index], a.receipts[i].Index, a.receipts[i].Leaf)
		}
	}
	if !there {
		return low
	}
	if first < low {
		t.Errorf("%q has index %d, but its goroutine had appended up to %d before", a.messages[0], first, low)
	}
	return first + uint64(len(a.messages))
}

// checkNotes wants the entries that each published checkpoint covers.
func (e *expectation) checkNotes(t *testing.T, l *immutable.Log) {
	t.Helper()
	var keys []proof.Key
	for _, k := range e.keys {
		key, err := proof.ParseKey(k)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	for _, note := range e.notes {
		c, err := proof.OpenCheckpoint(note, origin, keys)
		if err != nil {
			t.Fatalf("checkpoint from before the cut: %v", err)
		}
		if c.Size > l.Size() {
			t.Errorf("a checkpoint of size %d was published, the log has %d entries", c.Size, l.Size())
			continue
		}
		if root, err := l.RootAt(context.Background(), c.Size); err != nil || root != c.Root {
			t.Errorf("root at %d is %v, %v; a published checkpoint says %v", c.Size, root, err, c.Root)
		}
	}
}
