package immutable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// Entry is one committed event. What a read returns was hashed again and proven against the committed tree.
type Entry struct {
	Index     uint64
	ID        ID
	Timestamp time.Time // when the log took it, UTC, never decreasing
	Level     Level
	Message   string
	Metadata  json.RawMessage // a JSON object, spelled as the source did
	Hostname  string
	PID       uint32

	EventTime      time.Time // when the source says it happened; zero if it does not
	TraceID        string
	SpanID         string
	IdempotencyKey string
	Producer       *ProducerSignature // the source's signature, if it gave one; verification says whether it is good
	Control        json.RawMessage    // of an entry that the log itself wrote: what it records

	Leaf Hash            // RFC 6962 leaf hash of Line
	Line json.RawMessage // the entry's exact bytes, as they were hashed
}

// Block is the public view of one entry in the chain. Hash is SHA-256(0x02 || PreviousHash || SHA-256(0x00 || Data)):
// it covers everything before it.
type Block struct {
	Index        uint64    `json:"index"`
	Timestamp    time.Time `json:"timestamp"`
	Data         string    `json:"data"`
	Hash         Hash      `json:"hash"`
	PreviousHash Hash      `json:"previousHash"`
}

// Query selects entries: those that all its conditions select. The zero value selects all.
type Query struct {
	Text    string    // the query language of docs/search.md; empty selects all
	Now     time.Time // what relative times in Text are before; zero means the moment of the call
	Levels  []Level   // any of these; none means all
	Since   time.Time // timestamp at or after; zero means no bound
	Until   time.Time // timestamp before; zero means no bound
	From    uint64    // index at or after; where the newest come first, at or before, and 0 means the newest
	Limit   int       // at most so many; 0 means all
	Reverse bool      // the other order than the method's: Entries gives the oldest first, Search the newest

	// Of Search and counts only.
	Cursor   string         // go on after the entry that CursorAfter was given
	Verified bool           // no index is used: all entries in question are read, each is hashed, and all are proven
	Explain  *Explain       // filled in when the search ends; may be nil
	Progress func(Progress) // called for each group of entries that is done, from one goroutine; may be nil
}

// Entries returns the committed entries that the query selects, as of the moment of the call, the oldest first. An error
// ends them: what came before it is proven. A mistake in Text is the first error.
//
// Entries that are retired are left out, and Explain says how many; a From above 0 among them is a *RetiredError.
func (l *Log) Entries(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s, err := l.selectNow(&q, q.Reverse)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		l.serve(ctx, s, yield)
	}
}

// committed is the state that a read is of.
func (l *Log) committed() (edge, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return edge{}, ErrClosed
	}
	return l.edge, nil
}

// readableEnd is the damage behind the last readable entry of a log that was opened read-only in spite of it, where the n
// entries that were found are not the whole answer.
func (l *Log) readableEnd(s *selection, n int) error {
	damage := l.damaged()
	switch {
	case damage == nil, !s.newest && s.q.Limit > 0 && n >= s.q.Limit, s.newest && s.high < s.at.size():
		return nil
	case s.newest:
		return fmt.Errorf("entries newer than these cannot be read: %w", damage)
	}
	return fmt.Errorf("entries after these cannot be read: %w", damage)
}

// clampNano is t in Unix nanoseconds; times outside their range become its ends.
func clampNano(t time.Time) int64 { return query.Nano(t) }

// ParseEntry decodes the exact line of an entry that came from elsewhere, such as a server, and computes its leaf hash. It
// proves nothing: that takes an inclusion proof of the leaf hash under a checkpoint.
func ParseEntry(index uint64, line []byte) (Entry, error) {
	e, err := newEntry(index, line, proof.LeafHash(line))
	if err != nil {
		return Entry{}, err
	}
	var d entry.Line
	if err := entry.Decode(line, &d); err != nil || d.Index32 != uint32(index) {
		return Entry{}, fmt.Errorf("entry %d: its id is that of entry %d (modulo 2^32)", index, d.Index32)
	}
	return *e, nil
}

// newEntry decodes a proven line. The entry owns its memory.
func newEntry(index uint64, line []byte, leaf Hash) (*Entry, error) {
	var e Entry
	var d entry.Line
	if err := e.decode(index, slices.Clone(line), leaf, &d, nil); err != nil {
		return nil, err
	}
	return &e, nil
}

// decode fills e in from a proven line, which it keeps. hosts, if it is not nil, has the host names of other entries.
func (e *Entry) decode(index uint64, own []byte, leaf Hash, d *entry.Line, hosts map[string]string) (err error) {
	if err := entry.Decode(own, d); err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	e.Index, e.ID, e.Timestamp, e.Level, e.Metadata, e.PID = index, ID(d.ID), timeOf(d.Time), d.Level, d.Metadata, d.PID
	e.TraceID, e.SpanID, e.Control, e.Leaf, e.Line = string(d.TraceID), string(d.SpanID), d.Log, leaf, own
	if d.Producer != nil { // most have none, and p costs memory
		if p, ok := d.Signature(); ok {
			e.Producer = &p
		}
	}
	host, known := hosts[string(d.Hostname)]
	if !known {
		host = entry.Text(d.Hostname)
		if hosts != nil && len(hosts) < knownHosts {
			hosts[string(d.Hostname)] = host
		}
	}
	e.Hostname, e.Message = host, entry.Text(d.Message)
	if d.IdempotencyKey != nil {
		e.IdempotencyKey = entry.Text(d.IdempotencyKey)
	}
	if d.EventTime != nil {
		if e.EventTime, err = entry.ParseEventTime(d.EventTime); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
	}
	return nil
}

// knownHosts bounds how many host names one goroutine of a search remembers.
const knownHosts = 64

// Entry returns the entry at index; of one that is retired the error is a *RetiredError.
func (l *Log) Entry(ctx context.Context, index uint64) (Entry, error) {
	g, _, err := l.groupOf(ctx, index)
	if err != nil {
		return Entry{}, l.whereRetired(ctx, err)
	}
	i := index % tree.GroupSize
	e, err := newEntry(index, g.lines[i], g.leaves[i])
	if err != nil {
		return Entry{}, err
	}
	return *e, nil
}

// groupOf reads the group that holds index, and the state it was proven against.
func (l *Log) groupOf(ctx context.Context, index uint64) (*group, *edge, error) {
	at, err := l.committed()
	if err != nil {
		return nil, nil, err
	}
	if index >= at.size() {
		if err := l.refresh(); err != nil {
			return nil, nil, err
		}
		if at, err = l.committed(); err != nil {
			return nil, nil, err
		}
	}
	if index >= at.size() {
		return nil, nil, fmt.Errorf("entry %d: %w; the log has %d entries, the first is 0", index, ErrNotFound, at.size())
	}
	var g group
	if err := l.readGroup(ctx, index/tree.GroupSize, &at, &g); err != nil {
		return nil, nil, err
	}
	return &g, &at, nil
}

// LeafHash returns the leaf hash of the entry at index, proven against the committed tree; of an entry that is retired too.
func (l *Log) LeafHash(ctx context.Context, index uint64) (Hash, error) {
	g, _, err := l.groupOf(ctx, index)
	if err == nil {
		return g.leaves[index%tree.GroupSize], nil
	}
	var gone *RetiredError
	if !errors.As(err, &gone) {
		return Hash{}, err
	}
	at, err := l.committed()
	if err != nil {
		return Hash{}, err
	}
	leaves, err := l.keptLeaves(gone.First, index/tree.GroupSize, &at)
	if err != nil {
		return Hash{}, err
	}
	return leaves[index%tree.GroupSize], nil
}

// Block returns the entry at index with its place in the hash chain.
func (l *Log) Block(ctx context.Context, index uint64) (Block, error) {
	g, at, err := l.groupOf(ctx, index)
	if err != nil {
		return Block{}, l.whereRetired(ctx, err)
	}
	before, after, err := l.chainAround(g, at, index)
	if err != nil {
		return Block{}, err
	}
	line := g.lines[index%tree.GroupSize]
	t, err := timestampOf(line)
	if err != nil {
		return Block{}, err
	}
	return Block{Index: index, Timestamp: timeOf(t), Data: string(line), Hash: after, PreviousHash: before}, nil
}

// chainAround recomputes the chain through index's group, from the stored hash before it to the one after it, which
// must come out: a forged chain file is noticed here or at the next group that was not forged.
func (l *Log) chainAround(g *group, at *edge, index uint64) (before, after Hash, err error) {
	var chain Hash
	if g.number > 0 {
		if chain, err = l.store.Chain(g.number - 1); err != nil {
			return before, after, err
		}
	}
	for i, leaf := range g.leaves {
		previous := chain
		chain = proof.ChainHash(chain, leaf)
		if uint64(i) == index%tree.GroupSize {
			before, after = previous, chain
		}
	}
	want := at.chain
	if len(g.leaves) == tree.GroupSize {
		if want, err = l.store.Chain(g.number); err != nil {
			return before, after, err
		}
	}
	if chain != want {
		return before, after, &CorruptError{File: "chain", Offset: int64(g.number) * proof.HashSize, What: "chain hash differs from its recomputation; `immutable rebuild` makes the file again from the entries", Got: want.String(), Want: chain.String()}
	}
	return before, after, nil
}

// InclusionProof proves that the entry at index is in the log of the first size entries; size 0 means all. Hashes are
// ordered as in RFC 6962, the leaf's sibling first; proof.CheckInclusion checks them.
func (l *Log) InclusionProof(ctx context.Context, index, size uint64) ([]Hash, error) {
	v, at, err := l.viewAt(size)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		size = at.size()
	}
	return l.inclusion(ctx, v, at, index, size)
}

// inclusion proves that the entry at index is in the first size entries of the state at, of which v is the tree.
func (l *Log) inclusion(ctx context.Context, v *tree.View, at *edge, index, size uint64) (_ []Hash, err error) {
	if index >= size {
		return nil, fmt.Errorf("inclusion of entry %d in size %d: %w", index, size, ErrNotFound)
	}
	leaves := l.leavesAt(ctx, at)
	if size < at.size() {
		if v, err = l.earlier(v, size, leaves); err != nil {
			return nil, err
		}
	}
	own, err := leaves(index / tree.GroupSize)
	if err != nil {
		return nil, err
	}
	return v.Inclusion(index, own[:min(uint64(len(own)), size-index/tree.GroupSize*tree.GroupSize)])
}

// earlier is the tree as it was at a smaller size, proven by the present one.
func (l *Log) earlier(v *tree.View, size uint64, leaves func(uint64) ([]Hash, error)) (*tree.View, error) {
	root, err := v.RootAt(size, leaves)
	if err != nil {
		return nil, err
	}
	var tail []Hash
	if n := size % tree.GroupSize; n > 0 {
		if tail, err = leaves(size / tree.GroupSize); err != nil {
			return nil, err
		}
		tail = tail[:n]
	}
	return l.store.View(size, root, tail)
}

// ConsistencyProof proves that the log of the first b entries begins with the log of the first a; b 0 means all.
// proof.CheckConsistency checks it.
func (l *Log) ConsistencyProof(ctx context.Context, a, b uint64) ([]Hash, error) {
	v, at, err := l.viewAt(b)
	if err != nil {
		return nil, err
	}
	if b == 0 {
		b = at.size()
	}
	if a > b {
		return nil, fmt.Errorf("consistency from size %d to %d: the first must not be larger", a, b)
	}
	return v.Consistency(a, b, l.leavesAt(ctx, at))
}

// RootAt returns the Merkle tree hash over the first size entries, recomputed from entries that are read and proven.
func (l *Log) RootAt(ctx context.Context, size uint64) (Hash, error) {
	if size == 0 {
		return proof.EmptyRoot(), nil
	}
	v, at, err := l.viewAt(size)
	if err != nil {
		return Hash{}, err
	}
	return v.RootAt(size, l.leavesAt(ctx, at))
}

// viewAt is the newest committed tree, which must have at least size entries.
func (l *Log) viewAt(size uint64) (*tree.View, *edge, error) {
	if err := l.refresh(); err != nil {
		return nil, nil, err
	}
	l.mu.RLock()
	at, root, closed := l.edge, l.root, l.closed
	l.mu.RUnlock()
	if closed {
		return nil, nil, ErrClosed
	}
	if size > at.size() {
		return nil, nil, fmt.Errorf("size %d: %w; the log has %d entries", size, ErrNotFound, at.size())
	}
	v, err := l.store.View(at.size(), root, at.tail)
	return v, &at, err
}

// Checkpoint returns the newest signed checkpoint as a C2SP note. In a log without signatures it is the text and an
// empty line.
func (l *Log) Checkpoint() ([]byte, error) { return l.readCheckpoint() }

// Subscribe returns the entries from index from on: first those that are there, then each new one as it is committed,
// without a gap or a duplicate, until ctx ends, the log is closed (ErrClosed) or the caller stops. A slow caller delays
// nobody: it reads from the files.
func (l *Log) Subscribe(ctx context.Context, from uint64) iter.Seq2[Entry, error] {
	return l.Follow(ctx, Query{From: from})
}

// Follow is Subscribe for the entries that a query selects, oldest first: from q.From on, until q.Limit of them came. Relative
// times are before the moment of the call. A From above 0 whose entry is retired, or comes to be before it was read, is a
// *RetiredError: nothing is left out unsaid.
func (l *Log) Follow(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s, err := l.selection(&q, false)
		for n := 0; err == nil; {
			changed := l.changes()
			if err = l.refresh(); err != nil {
				break
			}
			if s.at, err = l.committed(); err != nil {
				break
			}
			s.low, s.high = s.q.From, s.at.size()
			if err = s.leaveRetired(ctx, l); err != nil {
				break
			}
			stopped := false
			err = sweep(ctx, l, s, s.entriesOf, func(found []Entry) bool {
				for i := range found {
					n++
					s.taken = n
					if stopped = !yield(found[i], nil) || n == s.q.Limit; stopped {
						return false
					}
				}
				return true
			})
			if stopped {
				return
			}
			if s.q.From = max(s.q.From, s.high); err == nil {
				err = l.await(ctx, changed)
			}
		}
		yield(Entry{}, err)
	}
}

func (l *Log) changes() chan struct{} {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.changed
}

// followInterval is how often a reader in another process looks for what a writer has added.
const followInterval = 100 * time.Millisecond

// await returns when there may be something new.
func (l *Log) await(ctx context.Context, changed chan struct{}) error {
	var tick <-chan time.Time
	if l.w == nil {
		t := time.NewTimer(followInterval)
		defer t.Stop()
		tick = t.C
	}
	select {
	case <-changed:
		return nil
	case <-tick:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
