package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// longTests makes more rounds; see docs of ./test.
func longTests() bool { return os.Getenv("IMMUTABLE_LONG") != "" }

// rounds is how many rounds a random test makes. The race detector slows them ten times, and finds in a part of them what it finds in
// all: ./test runs this package at full speed too.
func rounds(short, long int) int {
	if longTests() {
		return long
	}
	return max(1, short/thin)
}

// fakeClock moves by step with each look at it, so that no two batches have one timestamp unless a test says so.
type fakeClock struct {
	mu   sync.Mutex
	t    time.Time
	step time.Duration
}

func newClock() *fakeClock {
	return &fakeClock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), step: time.Millisecond}
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(c.step)
	return c.t
}

func (c *fakeClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

const (
	diskDir   = "log" // of a log on a fake disk
	diskState = "state"
)

// diskConfig is of a log on a fake disk that publishes only when it is asked to.
func diskConfig(d *vfstest.Disk, c *fakeClock) *Config {
	return &Config{
		StateDir: diskState, Origin: "example.com/disk", RotateSize: minRotateSize, CheckpointInterval: time.Hour,
		Hostname: "host", fs: d, now: c.now,
	}
}

// event is the n-th event of a test.
func event(n int) Event {
	return Event{Level: Level(n % NumLevels), Message: fmt.Sprintf("event %d", n), Metadata: Fields{"n": n, "user": "ann.smith@example.com", "path": "/api/v1/session"}}
}

func events(first, n int) []Event {
	out := make([]Event, n)
	for i := range out {
		out[i] = event(first + i)
	}
	return out
}

// attempt is one append of a history: what was asked for, and whether it was acknowledged.
type attempt struct {
	messages []string
	receipts []Receipt // nil until it was acknowledged
}

// history is what a single caller did to a log, and so what the log may and must hold.
type history struct {
	mu       sync.Mutex
	attempts []*attempt
	next     int      // number of the next event
	notes    [][]byte // every checkpoint that was ever visible
}

func (h *history) clone() *history {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &history{next: h.next, notes: slices.Clone(h.notes)}
	for _, a := range h.attempts {
		copied := *a
		c.attempts = append(c.attempts, &copied)
	}
	return c
}

// at takes a copy of a disk, and the history that belongs to it: what was acknowledged before the copy must be on it, and what was
// begun after it may be. Other goroutines go on meanwhile, so either alone, taken after the other, would be a little too new.
func (h *history) at(take func() *vfstest.Disk) (*vfstest.Disk, *history) {
	before := h.clone()
	d := take()
	after := h.clone()
	after.notes = before.notes
	for i, a := range after.attempts {
		if i >= len(before.attempts) || before.attempts[i].receipts == nil {
			a.receipts = nil
		}
	}
	return d, after
}

// append appends the next n events and remembers what came of it.
func (h *history) append(l *Log, n int) error {
	h.mu.Lock()
	a := &attempt{}
	all := events(h.next, n)
	for _, e := range all {
		a.messages = append(a.messages, e.Message)
	}
	h.next += n
	h.attempts = append(h.attempts, a)
	h.mu.Unlock()
	rs, err := l.Append(context.Background(), all...)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a.receipts = rs
	return nil
}

// see remembers a checkpoint that was visible.
func (h *history) see(note []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.notes); len(note) > 0 && (n == 0 || !bytes.Equal(h.notes[n-1], note)) {
		h.notes = append(h.notes, note)
	}
}

// check reads the whole log and compares it with the history: every acknowledged batch is there once, in order, as its
// receipts say; one that was not is there whole, in its place, or not at all; and the log holds nothing else.
func (h *history) check(l *Log) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var got []Entry
	var chain Hash
	var leaves []Hash
	chains := map[uint64]Hash{}
	for e, err := range l.Entries(context.Background(), Query{}) {
		if err != nil {
			return fmt.Errorf("read back after %d entries: %w", len(leaves), err)
		}
		if e.Index != uint64(len(leaves)) {
			return fmt.Errorf("entry %d came as number %d", e.Index, len(leaves))
		}
		leaves = append(leaves, e.Leaf)
		chain = proof.ChainHash(chain, e.Leaf)
		chains[e.Index] = chain
		if e.Control == nil {
			got = append(got, e)
		}
	}
	root, size := l.Root()
	if size != uint64(len(leaves)) || root != proof.Root(leaves) {
		return fmt.Errorf("%d entries with root %s, the log says %d with %s", len(leaves), proof.Root(leaves), size, root)
	}
	for n, a := range h.attempts {
		whole := len(got) >= len(a.messages)
		for i := 0; whole && i < len(a.messages); i++ {
			whole = got[i].Message == a.messages[i]
		}
		if !whole && a.receipts == nil {
			if len(got) > 0 && got[0].Message == a.messages[0] {
				return fmt.Errorf("attempt %d of %d entries is half there", n, len(a.messages))
			}
			continue
		}
		if !whole {
			return fmt.Errorf("attempt %d: acknowledged %d entries from %d on are not there", n, len(a.messages), a.receipts[0].Index)
		}
		for i, r := range a.receipts {
			e := got[i]
			if r.Index != e.Index || r.Leaf != e.Leaf || r.ID != e.ID || !r.Timestamp.Equal(e.Timestamp) || r.Hash != chains[r.Index] {
				return fmt.Errorf("receipt %+v, the log has %+v with chain %s", r, e, chains[e.Index])
			}
		}
		got = got[len(a.messages):]
	}
	if len(got) > 0 {
		return fmt.Errorf("entry %d, %q, was never appended there", got[0].Index, got[0].Message)
	}
	return h.checkNotes(l, leaves)
}

// checkNotes holds the log to every checkpoint that was ever visible.
func (h *history) checkNotes(l *Log, leaves []Hash) error {
	for _, note := range h.notes {
		c, err := l.openCheckpoint(note)
		if err != nil {
			return fmt.Errorf("published checkpoint %q: %w", note, err)
		}
		if c.Size > uint64(len(leaves)) || proof.Root(leaves[:c.Size]) != c.Root {
			return fmt.Errorf("a published checkpoint of %d entries is contradicted by the log of %d", c.Size, len(leaves))
		}
	}
	return nil
}

// checkDerived compares tree/1 and chain of a cleanly closed log with what its entries yield.
func checkDerived(d *vfstest.Disk, dir string, leaves []Hash) error {
	var roots, chains []byte
	var chain Hash
	for i, leaf := range leaves {
		chain = proof.ChainHash(chain, leaf)
		if (i+1)%256 == 0 {
			root := proof.Root(leaves[i-255 : i+1])
			roots, chains = append(roots, root[:]...), append(chains, chain[:]...)
		}
	}
	for name, want := range map[string][]byte{dir + "/tree/1": roots, dir + "/chain": chains} {
		got, err := d.ReadFileRaw(name)
		if err != nil && len(want) == 0 {
			continue
		}
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s has %d bytes (%w) and differs from its recomputation of %d", name, len(got), err, len(want))
		}
	}
	return nil
}

// leavesOf reads the log's leaf hashes, of retired entries too.
func leavesOf(l *Log) ([]Hash, error) {
	var leaves []Hash
	at, err := l.committed()
	if err != nil {
		return nil, err
	}
	read := l.leavesAt(context.Background(), &at)
	for k := range l.retiredEnd() / 256 {
		group, err := read(k)
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, group...)
	}
	for e, err := range l.Entries(context.Background(), Query{}) {
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, e.Leaf)
	}
	return leaves, nil
}

// notRefuted verifies a directory on a fake disk, if there is a log in it.
func notRefuted(d *vfstest.Disk, c *fakeClock) error {
	if _, err := d.Stat(diskDir + "/log.json"); err != nil {
		return nil //nolint:nilerr // no log came to be
	}
	rep, err := VerifyDir(context.Background(), diskDir, diskConfig(d, c), VerifyOptions{Indexes: true})
	if err != nil {
		return err
	}
	if rep.Verdict == Refuted {
		return fmt.Errorf("refuted: %v", rep.Findings)
	}
	return nil
}

// afterwards is everything that must hold of a disk after a crash, and goes on with it: it opens the log, compares it
// with the history, appends, closes, verifies and opens once more.
func (h *history) afterwards(d *vfstest.Disk, c *fakeClock) error {
	if err := notRefuted(d, c); err != nil {
		return fmt.Errorf("verify before recovery: %w", err)
	}
	l, err := Open(diskDir, diskConfig(d, c))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if err := h.useAndClose(l); err != nil {
		return errors.Join(err, l.Close())
	}
	if left := d.OpenFiles(); len(left) > 0 {
		return fmt.Errorf("files open after close: %q", left)
	}
	rep, err := VerifyDir(context.Background(), diskDir, diskConfig(d, c), VerifyOptions{Indexes: true})
	if err != nil {
		return err
	}
	if rep.Verdict != Proven || len(rep.Notes) > 0 {
		return fmt.Errorf("verify after recovery: %s, findings %v, notes %v", rep.Verdict, rep.Findings, rep.Notes)
	}
	if !longTests() && d.Ops()%4 != 0 {
		return nil // the steps below seldom find what those above do not
	}
	if l, err = Open(diskDir, diskConfig(d, c)); err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	if err := h.check(l); err != nil {
		return errors.Join(fmt.Errorf("opened again: %w", err), l.Close())
	}
	leaves, err := leavesOf(l)
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	return checkDerived(d, diskDir, leaves)
}

func (h *history) useAndClose(l *Log) error {
	if err := h.check(l); err != nil {
		return fmt.Errorf("after recovery: %w", err)
	}
	if err := h.append(l, 3); err != nil {
		return fmt.Errorf("append after recovery: %w", err)
	}
	if err := h.check(l); err != nil {
		return fmt.Errorf("after recovery and append: %w", err)
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("close after recovery: %w", err)
	}
	return nil
}

// cutKinds are the ways in which a run ends early.
var cutKinds = []string{"kill", "power cut, nothing kept", "power cut, everything kept", "power cut"}

// cut ends a run on a copy of d. A killed process leaves what was visible, durable or not.
func cut(d *vfstest.Disk, kind int, rng *rand.Rand) *vfstest.Disk {
	c := d.Clone()
	switch kind % len(cutKinds) {
	case 0:
		return c
	case 1:
		return c.CrashKeep(vfstest.KeepNone)
	case 2:
		return c.CrashKeep(vfstest.KeepAll)
	}
	return c.Crash(rng)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// allFiles is every file of a fake disk below dir, with its contents.
func allFiles(t testing.TB, d *vfstest.Disk, below string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range d.Files() {
		if !strings.HasPrefix(strings.TrimPrefix(name, "/"), below) {
			continue
		}
		data, err := d.ReadFileRaw(name)
		must(t, err)
		out[strings.TrimPrefix(name, "/")] = data
	}
	return out
}
