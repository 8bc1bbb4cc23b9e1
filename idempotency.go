package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// KeyConflictError is returned for an event whose idempotency key the log has with other content.
type KeyConflictError struct {
	Key   string
	Event int    // its number in the append
	Index uint64 // the entry that has the key
}

func (e *KeyConflictError) Error() string {
	return fmt.Sprintf("event %d: idempotency key %q belongs to entry %d, which has other content; use a new key for a new event", e.Event, e.Key, e.Index)
}

// keyTable knows the idempotency keys of the window. It is filled from the log when the first keyed append comes.
type keyTable struct {
	mu     sync.Mutex // guards what follows; never held while waiting for a commit
	loaded bool
	slots  map[[16]byte]*flight
	queue  []keyAge // oldest first
}

type keyAge struct {
	key   [16]byte
	index uint64
	time  int64
}

// flight is one key's first append, under way or committed.
type flight struct {
	table *keyTable
	key   [16]byte
	done  chan struct{} // closed when it landed or failed; nil for one read from the log
	index uint64
	time  int64
	ok    bool
	err   error
}

// land is called when the append is committed, before its caller is woken.
func (f *flight) land(r Receipt) {
	if f == nil {
		return
	}
	f.table.mu.Lock()
	f.index, f.time, f.ok = r.Index, r.Timestamp.UnixNano(), true
	f.table.queue = append(f.table.queue, keyAge{f.key, f.index, f.time})
	f.table.evict(f.time)
	f.table.mu.Unlock()
	close(f.done)
}

// fail is called when the append came to nothing, or its outcome is unknown and the writer has ended.
func (f *flight) fail(err error) {
	if f == nil {
		return
	}
	f.table.mu.Lock()
	f.err = err
	if f.table.slots[f.key] == f {
		delete(f.table.slots, f.key)
	}
	f.table.mu.Unlock()
	close(f.done)
}

// evict forgets keys outside the window. The table's mutex is held.
func (t *keyTable) evict(now int64) {
	n := 0
	for n < len(t.queue) && (len(t.queue)-n > idempotencyKeys || now-t.queue[n].time > int64(idempotencyWindow)) {
		if f := t.slots[t.queue[n].key]; f != nil && f.index == t.queue[n].index {
			delete(t.slots, t.queue[n].key)
		}
		n++
	}
	t.queue = t.queue[n:]
}

// FindKey says which entry has an idempotency key, of those that are remembered: 24 hours, a million keys. It waits for an append of
// that key which is under way, so what it finds is durable. A batch is all or nothing, so a key on one of its events stands for all
// of them; whoever relies on that sends a batch once at a time.
func (l *Log) FindKey(ctx context.Context, key string) (at uint64, found bool, err error) {
	if l.w == nil {
		return 0, false, l.refusal()
	}
	t, hash := &l.seen, index.KeyHash(key)
	for {
		t.mu.Lock()
		if err := l.loadKeys(ctx); err != nil {
			t.mu.Unlock()
			return 0, false, fmt.Errorf("read the idempotency keys of the last %v: %w", idempotencyWindow, err)
		}
		t.evict(l.cfg.now().UnixNano())
		f := t.slots[hash]
		if f == nil || f.ok {
			t.mu.Unlock()
			return l.hasKey(ctx, f, key)
		}
		t.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return 0, false, fmt.Errorf("waiting for an append with the same idempotency key: %w", context.Cause(ctx))
		}
	}
}

// hasKey compares the key with that of the entry, for what is remembered is a hash of it.
func (l *Log) hasKey(ctx context.Context, f *flight, key string) (uint64, bool, error) {
	if f == nil {
		return 0, false, nil
	}
	e, err := l.Entry(ctx, f.index)
	if err != nil {
		return 0, false, fmt.Errorf("read the entry with idempotency key %q: %w", key, err)
	}
	return f.index, e.IdempotencyKey == key, nil
}

// appendKeyed appends a batch in which some events carry idempotency keys. Repeats are compared with the entries they
// repeat before anything is written, so that the batch stays all or nothing.
func (l *Log) appendKeyed(ctx context.Context, events []Event, req *request, sign func(*request) error) ([]Receipt, error) {
	plan, err := l.planKeys(ctx, events)
	if err != nil {
		return nil, err
	}
	if err := l.checkRepeats(ctx, events, req, plan); err != nil {
		for _, f := range plan.ours {
			f.fail(err)
		}
		return nil, err
	}
	fresh := plan.fresh(req)
	if len(fresh.ends) > 0 {
		if sign != nil {
			if err := sign(fresh); err != nil {
				fresh.abandon(err)
				return nil, err
			}
		}
		if err := l.w.pool.admit(ctx, fresh); err != nil {
			fresh.abandon(err)
			return nil, err
		}
		if err := wait(ctx, fresh); err != nil {
			return nil, err
		}
	}
	return l.keyedReceipts(ctx, plan, fresh)
}

// keyPlan says for each event of a batch where its receipt comes from.
type keyPlan struct {
	first []*flight // by event: the earlier append that it repeats; nil for an event to be written
	same  []int     // by event: an earlier event of this batch with the same key, or -1
	ours  []*flight // by event: the flight it began; nil without a key
}

// fresh is the part of the request that is written, with the flights it lands.
func (p *keyPlan) fresh(req *request) *request {
	out := &request{done: make(chan struct{}), lines: make([]byte, 0, len(req.lines))}
	for i := range p.first {
		if p.first[i] != nil || p.same[i] >= 0 {
			continue
		}
		out.lines = append(append(out.lines, req.line(i)...), '\n')
		out.ends = append(out.ends, int32(len(out.lines)))
		out.levels = append(out.levels, req.levels[i])
		out.flights = append(out.flights, p.ours[i])
	}
	return out
}

// planKeys looks the keys up, and claims those that are new. It waits for keys that are in flight before it claims any,
// so that two batches never wait for each other.
func (l *Log) planKeys(ctx context.Context, events []Event) (*keyPlan, error) {
	t := &l.seen
	n := len(events)
	for {
		t.mu.Lock()
		if err := l.loadKeys(ctx); err != nil {
			t.mu.Unlock()
			return nil, fmt.Errorf("read the idempotency keys of the last %v: %w", idempotencyWindow, err)
		}
		t.evict(l.cfg.now().UnixNano())
		p := &keyPlan{make([]*flight, n), make([]int, n), make([]*flight, n)}
		var busy *flight
		own := map[[16]byte]int{}
		for i := range events {
			p.same[i] = -1
			if events[i].IdempotencyKey == "" {
				continue
			}
			key := index.KeyHash(events[i].IdempotencyKey)
			if f := t.slots[key]; f != nil {
				if !f.ok {
					busy = f
					break
				}
				p.first[i] = f
			} else if j, ok := own[key]; ok {
				p.same[i] = j
			} else {
				own[key] = i
			}
		}
		if busy == nil {
			for key, i := range own {
				p.ours[i] = &flight{table: t, key: key, done: make(chan struct{})}
				t.slots[key] = p.ours[i]
			}
			t.mu.Unlock()
			return p, nil
		}
		t.mu.Unlock()
		select {
		case <-busy.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for an append with the same idempotency key, nothing was written: %w", context.Cause(ctx))
		}
	}
}

// checkRepeats compares each repeated event with what it repeats.
func (l *Log) checkRepeats(ctx context.Context, events []Event, req *request, p *keyPlan) error {
	for i := range events {
		var other []byte
		var at uint64
		switch {
		case p.first[i] != nil:
			e, err := l.Entry(ctx, p.first[i].index)
			if err != nil {
				return fmt.Errorf("read the entry with idempotency key %q: %w", events[i].IdempotencyKey, err)
			}
			if e.IdempotencyKey != events[i].IdempotencyKey {
				return fmt.Errorf("idempotency key %q: entry %d has %q with the same hash", events[i].IdempotencyKey, e.Index, e.IdempotencyKey)
			}
			other, at = e.Line, e.Index
		case p.same[i] >= 0:
			other, at = req.line(p.same[i]), l.Size()
		default:
			continue
		}
		if !bytes.Equal(entry.Content(req.line(i)), entry.Content(other)) {
			return &KeyConflictError{Key: events[i].IdempotencyKey, Event: i, Index: at}
		}
	}
	return nil
}

// keyedReceipts puts the receipts of written and repeated events in the order of the events.
func (l *Log) keyedReceipts(ctx context.Context, p *keyPlan, fresh *request) ([]Receipt, error) {
	out := make([]Receipt, len(p.first))
	next := 0
	for i := range out {
		switch {
		case p.same[i] >= 0:
			out[i] = out[p.same[i]]
			out[i].Repeated = true
		case p.first[i] != nil:
			r, err := l.receipt(ctx, p.first[i].index)
			if err != nil {
				return nil, err
			}
			out[i] = r
			out[i].Repeated = true
		default:
			out[i] = fresh.receipts[next]
			next++
		}
	}
	return out, nil
}

// receipt makes the receipt of a committed entry again.
func (l *Log) receipt(ctx context.Context, index uint64) (Receipt, error) {
	g, at, err := l.groupOf(ctx, index)
	if err != nil {
		return Receipt{}, err
	}
	_, hash, err := l.chainAround(g, at, index)
	if err != nil {
		return Receipt{}, err
	}
	i := index % tree.GroupSize
	e, err := newEntry(index, g.lines[i], g.leaves[i])
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Index: index, ID: e.ID, Hash: hash, Leaf: e.Leaf, Timestamp: e.Timestamp}, nil
}

// line is the i-th event's line without its newline.
func (r *request) line(i int) []byte {
	from := int32(0)
	if i > 0 {
		from = r.ends[i-1]
	}
	return r.lines[from : r.ends[i]-1]
}

// loadKeys reads the keys of the window from the indexes of sealed segments and from the entries of the others. The
// table's mutex is held.
func (l *Log) loadKeys(ctx context.Context) error {
	t := &l.seen
	if t.loaded {
		return nil
	}
	at, err := l.committed()
	if err != nil {
		return err
	}
	since := l.cfg.now().Add(-idempotencyWindow)
	found, err := l.keysSince(ctx, since, &at)
	if err != nil {
		return err
	}
	t.slots = make(map[[16]byte]*flight, len(found))
	t.queue = found
	for _, k := range found {
		t.slots[k.key] = &flight{table: t, key: k.key, index: k.index, time: k.time, ok: true}
	}
	t.evict(l.cfg.now().UnixNano())
	t.loaded = true
	return nil
}

// keysSince lists the keys of entries not older than since, oldest first.
func (l *Log) keysSince(ctx context.Context, since time.Time, at *edge) ([]keyAge, error) {
	if at.size() == 0 {
		return nil, nil
	}
	var found []keyAge
	var g group
	var d entry.Line
	oldest := clampNano(since)
	for k := (at.size() - 1) / tree.GroupSize; ; k-- { // newest group first, until one is too old
		if x := l.indexFor(k); x != nil {
			first := x.First / tree.GroupSize
			for i := len(x.Keys) - 1; i >= 0; i-- {
				found = append(found, keyAge{x.Keys[i].Hash, x.First + uint64(x.Keys[i].Rel), x.Keys[i].Time})
			}
			if first == 0 || x.Groups[0].TimeMax < oldest {
				break
			}
			k = first
			continue
		}
		err := l.readGroup(ctx, k, at, &g)
		var gone *RetiredError
		if errors.As(err, &gone) { // a segment whose keys still count is not retired
			break
		}
		if err != nil {
			return nil, err
		}
		newest := int64(0)
		for i := len(g.lines) - 1; i >= 0; i-- {
			if err := entry.Decode(g.lines[i], &d); err != nil {
				return nil, err
			}
			newest = max(newest, d.Time)
			if d.IdempotencyKey != nil {
				key, err := entry.Unquote(d.IdempotencyKey)
				if err != nil {
					return nil, err
				}
				found = append(found, keyAge{index.KeyHash(key), k*tree.GroupSize + uint64(i), d.Time})
			}
		}
		if k == 0 || newest < oldest {
			break
		}
	}
	for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
		found[i], found[j] = found[j], found[i]
	}
	return found, nil
}
