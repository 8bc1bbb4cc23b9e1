package immutable

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// edge is everything the next batch continues from.
type edge struct {
	frontier tree.Frontier // size and root
	chain    Hash          // chain hash of the last entry
	tail     []Hash        // leaves of the last partial group; replaced, never changed in place
	time     int64         // timestamp of the last entry, Unix nanoseconds
	offset   int64         // length of immutable.log
}

func (e *edge) size() uint64 { return e.frontier.Size() }

// writer turns requests into batches on the disk. One goroutine, run, owns the fields below pool; a second, land, only
// does what it is handed, so that hashing a batch overlaps the sync of the one before. No byte of a batch is written
// before the sync of the one before it has returned: at most one batch is ever in doubt.
type writer struct {
	l       *Log
	pool    *pool
	session uint64 // 42 random bits in the ids of this session

	next    edge   // after the last batch that was sequenced
	ends    []int  // of the lines of the batch that is sequenced, after their newlines
	leaves  []Hash // of the same lines
	failed  error
	retryAt int64 // after a rotation that failed: the length of immutable.log at which it is tried again

	flying []*batch // handed to land and not settled, oldest first
	epoch  int      // of the batches that are sequenced now; each failure begins another

	batches chan *batch // to land
	landed  chan error  // from land
	calls   chan func() // rotations, run between batches
	quit    chan struct{}
	ended   chan struct{}

	heldSince time.Time // since when the clock is behind the last timestamp; zero if it is not
}

// batch is what one write and one sync make durable.
type batch struct {
	reqs   []*request
	epoch  int
	before edge // what to go back to when nothing of the batch was kept
	after  edge
	bytes  []byte
	groups []groupEnd
	starts []int64 // offsets in immutable.log of the groups that begin in this batch
	levels [NumLevels]uint64
}

// groupEnd is a group that a batch completes.
type groupEnd struct{ root, chain Hash }

func newWriter(l *Log, session uint64, at edge) *writer {
	return &writer{
		l: l, pool: newPool(), session: session, next: at,
		batches: make(chan *batch, maxFlying), landed: make(chan error, maxFlying), calls: make(chan func()),
		quit: make(chan struct{}), ended: make(chan struct{}),
	}
}

// run is the writer goroutine: take, sequence, hand to the disk; rotate in between.
func (w *writer) run() {
	go w.land()
	defer close(w.ended)
	defer close(w.batches)
	for {
		if w.mayLaunch() {
			least := 1
			if len(w.flying) > 0 {
				least = plenty
			}
			if reqs := w.pool.take(least); reqs != nil {
				w.launch(reqs)
				continue
			}
		}
		var landed chan error
		var calls chan func()
		if len(w.flying) > 0 {
			landed = w.landed
		} else {
			if w.rotateIfDue() {
				continue
			}
			calls = w.calls
		}
		select {
		case <-w.pool.wake:
		case err := <-landed:
			w.settle(err)
		case call := <-calls:
			call()
		case <-w.quit:
			if len(w.flying) > 0 {
				w.settle(<-w.landed)
			} else if !w.drainable() {
				return
			}
		}
	}
}

// maxFlying is how many batches are on their way: one being written and synced, one hashed and waiting for it.
const maxFlying = 2

// mayLaunch says whether another batch may follow those under way. A rotation that is due waits until none is.
func (w *writer) mayLaunch() bool {
	return len(w.flying) < maxFlying && !w.rotationDue()
}

func (w *writer) launch(reqs []*request) {
	b := w.sequence(reqs)
	w.flying = append(w.flying, b)
	w.batches <- b
}

// drainable says whether the pool still holds requests that were admitted before it was closed.
func (w *writer) drainable() bool {
	entries, _ := w.pool.waiting()
	return entries > 0
}

// sequence gives the requests' entries their indexes, times and hashes. It touches nothing but memory, and w.next.
func (w *writer) sequence(reqs []*request) *batch {
	b := &batch{reqs: reqs, epoch: w.epoch, before: w.next}
	entries, need := 0, 256
	for _, r := range reqs {
		entries, need = entries+len(r.ends), need+len(r.lines)
	}
	b.bytes = w.l.getBuffer(need)
	w.ends = slices.Grow(w.ends[:0], entries)
	at := &w.next
	first, now := at.size(), w.timestamp(reqs[0].clock)
	for _, r := range reqs {
		from := int32(0)
		for _, end := range r.ends {
			entry.Patch(r.lines[from:end-1], first+uint64(len(w.ends)), now, w.session)
			from = end
			w.ends = append(w.ends, len(b.bytes)+int(end))
			if index := first + uint64(len(w.ends)) - 1; index%tree.GroupSize == 0 {
				b.starts = append(b.starts, at.offset+int64(w.lineStart(len(w.ends)-1)))
			}
		}
		b.bytes = append(b.bytes, r.lines...)
	}
	w.link(b, now)
	b.bytes = segment.AppendCommit(b.bytes, first, at.size(), at.chain, at.frontier.Root())
	at.time = now
	at.offset += int64(len(b.bytes))
	b.after = *at
	return b
}

// lineStart is where the i-th line of the batch that is sequenced begins in its bytes.
func (w *writer) lineStart(i int) int {
	if i == 0 {
		return 0
	}
	return w.ends[i-1]
}

// link hashes the batch's lines into chain and tree and writes the receipts. The leaf hashes of a large batch are computed
// by a second goroutine, a little ahead of the chain, which has to go in order.
func (w *writer) link(b *batch, now int64) {
	w.leaves = slices.Grow(w.leaves[:0], len(w.ends))[:len(w.ends)]
	ready := w.hashLeaves(b.bytes)
	at := &w.next
	tail := append(make([]Hash, 0, tree.GroupSize), at.tail...)
	i, known := 0, 0
	for _, r := range b.reqs {
		r.receipts = make([]Receipt, len(r.ends))
		for k := range r.receipts {
			if i == known {
				known = <-ready
			}
			leaf, index := w.leaves[i], at.size()
			at.chain = proof.ChainHash(at.chain, leaf)
			at.frontier.Append(leaf)
			if tail = append(tail, leaf); len(tail) == tree.GroupSize {
				b.groups = append(b.groups, groupEnd{at.frontier.LastGroup(), at.chain})
				tail = tail[:0]
			}
			b.levels[r.levels[k]]++
			id := w.lineStart(i) + idOffset
			r.receipts[k] = Receipt{Index: index, ID: ID(b.bytes[id : id+len(ID{})]), Hash: at.chain, Leaf: leaf, Timestamp: timeOf(now)}
			i++
		}
	}
	if at.tail = tail; len(tail) == 0 {
		at.tail = nil
	}
}

// hashAhead is how many leaves are hashed between two reports; batches with fewer than two of these are not worth a
// second goroutine.
const hashAhead = 256

// hashLeaves fills w.leaves and reports, on the channel it returns, how many of them are there.
func (w *writer) hashLeaves(buf []byte) <-chan int {
	n := len(w.ends)
	ready := make(chan int, n/hashAhead+1)
	hash := func() {
		for i := range w.ends {
			from := w.lineStart(i)
			w.leaves[i] = leafHashAt(buf, from, w.ends[i]-1-from)
			if (i+1)%hashAhead == 0 || i+1 == n {
				ready <- i + 1
			}
		}
	}
	if n < 2*hashAhead {
		hash()
	} else {
		go hash()
	}
	return ready
}

// idOffset is where a line's id stands: after `{"id":"`.
const idOffset = 7

// timestamp is the time of the next batch: now, or the last entry's where the clock has stepped back behind it.
func (w *writer) timestamp(reset int64) int64 {
	if reset != 0 {
		w.heldSince = time.Time{}
		w.l.clockHeld.Store(0)
		return reset
	}
	now := w.l.unixNano()
	if now >= w.next.time {
		w.heldSince = time.Time{}
		w.l.clockHeld.Store(0)
		return now
	}
	if w.heldSince.IsZero() {
		w.heldSince = timeOf(now)
		w.l.logger.Warn("clock is behind the last entry; its timestamp is kept until the clock has caught up", "clock", timeOf(now), "last_entry", timeOf(w.next.time))
	}
	w.l.clockHeld.Store(int64(time.Duration(w.next.time - now)))
	return w.next.time
}

// settle ends the oldest batch under way, which land reported on. When it is not in the log, what was numbered on top of
// it is numbered again.
func (w *writer) settle(err error) {
	b := w.flying[0]
	w.flying = w.flying[1:]
	w.l.putBuffer(b.bytes)
	if err == nil {
		w.gather(b)
		return
	}
	later := w.flying
	w.flying = nil
	for range later {
		_ = <-w.landed // errSkipped, each
	}
	w.epoch++
	w.next = b.before
	if !errors.Is(err, ErrNoSpace) {
		err = fmt.Errorf("%w: %w", ErrUncertain, w.fail(err))
	}
	giveUp(b.reqs, err)
	for _, b := range later {
		if w.failed != nil {
			giveUp(b.reqs, w.failed)
			continue
		}
		w.launch(b.reqs)
	}
}

// gather lets the callers that b has just woken append again before the next batch is taken, so that all of them share
// its sync rather than half of them. It yields the processor while their number grows; it never waits for time to pass.
func (w *writer) gather(b *batch) {
	const small = 4 << 10 // bytes a request, on average: larger ones take longer to encode than the disk should idle
	if len(w.flying) > 0 || len(b.reqs) < 2 || len(b.bytes)/len(b.reqs) > small {
		return
	}
	for n := -1; ; {
		entries, _ := w.pool.waiting()
		if entries <= n || entries >= len(b.reqs) {
			return
		}
		n = entries
		runtime.Gosched()
	}
}

// fail ends the writer: nothing is acknowledged after this.
func (w *writer) fail(err error) error {
	if w.failed == nil {
		w.failed = fmt.Errorf("%w: %w; close the log and open it again", ErrWriterFailed, err)
		w.l.logger.Error("writer stopped", "error", w.failed)
		giveUp(w.pool.close(w.failed), w.failed)
	}
	return w.failed
}

func giveUp(reqs []*request, err error) {
	for _, r := range reqs {
		r.fail(err)
	}
}

// errSkipped is land's answer for a batch that was numbered on top of one that is not in the log.
var errSkipped = errors.New("skipped")

// land makes batches durable, in order, and acknowledges them itself, so that no caller waits for the next batch to be
// hashed. An error goes back to run, which owns what happens next.
func (w *writer) land() {
	broken := -1
	for b := range w.batches {
		if b.epoch <= broken {
			w.landed <- errSkipped
			continue
		}
		err := w.l.writeBatch(b)
		if err == nil {
			// Commit point: from here on a crash loses nothing of this batch.
			w.l.commit(b)
		} else {
			broken = b.epoch
		}
		w.landed <- err
	}
}

// writeBatch appends the batch's bytes to immutable.log and syncs them. With an error that wraps ErrNoSpace nothing of
// it is left in the file; with any other error the outcome is unknown and the writer ends.
func (l *Log) writeBatch(b *batch) error {
	if err := l.condemnation(); err != nil {
		return err
	}
	if err := l.publisher.markDirty(); err != nil {
		if isNoSpace(err) {
			return fmt.Errorf("%w: %w; free some space and append again", ErrNoSpace, err)
		}
		return err
	}
	l.growReserve(int64(len(b.bytes)))
	f := l.open.file
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("%s: %w", openName, err)
	}
	if size != b.before.offset {
		return &CorruptError{File: openName, Offset: min(size, b.before.offset), What: "somebody else changed the file's length while it was open for writing", Got: fmt.Sprint(size), Want: fmt.Sprint(b.before.offset)}
	}
	if _, err := f.WriteAt(b.bytes, b.before.offset); err != nil {
		if terr := f.Truncate(b.before.offset); terr != nil {
			return fmt.Errorf("write %s: %w; take back the unfinished batch: %w", openName, err, terr)
		}
		if serr := f.Sync(); serr != nil {
			return fmt.Errorf("write %s: %w; sync the shortened file: %w", openName, err, serr)
		}
		if isNoSpace(err) {
			return fmt.Errorf("%w: %s: %w; free some space and append again", ErrNoSpace, l.dir, err)
		}
		return fmt.Errorf("write %s: %w", openName, err)
	}
	start := time.Now()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", openName, err)
	}
	l.commits.Add(1)
	l.committedBytes.Add(int64(len(b.bytes)))
	l.lastSync.Store(int64(time.Since(start)))
	return nil
}

// commit makes a durable batch visible to readers and wakes its callers and everybody who follows.
func (l *Log) commit(b *batch) {
	l.mu.Lock()
	for _, g := range b.groups {
		l.store.Append(g.root, g.chain)
	}
	l.open.starts = append(l.open.starts, b.starts...)
	for i, n := range b.levels {
		l.open.levels[i] += n
	}
	l.advance(b.after)
	l.enterEpoch(b.reqs)
	l.mu.Unlock()
	for _, r := range b.reqs {
		for i, f := range r.flights {
			f.land(r.receipts[i])
		}
		close(r.done)
	}
	l.publisher.poke()
}

func (l *Log) getBuffer(n int) []byte {
	if b, ok := l.buffers.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, max(n, 16<<10))
}

func (l *Log) putBuffer(b []byte) { l.buffers.Put(&b) }

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
