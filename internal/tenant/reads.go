package tenant

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// Limits of the records of reads.
const (
	readWindow  = time.Second // within which reads of one kind become one record
	maxWindows  = 10_000      // kinds of reads of one tenant within a window; more wait
	maxFilter   = 1024        // bytes of a filter that are recorded as they are; of a longer one the beginning and the hash
	shortFilter = 128         // bytes of a filter that the record of the end of reads repeats; of a longer one the hash

	// Reads of ever new kinds by one principal: each is recorded durably, so that nobody who may only read can fill the disk. Beyond the
	// first kindsBurst they come at this rate; the others wait.
	kindsPerSecond = 50
	kindsBurst     = 500
	maxReaders     = 10_000 // principals of one tenant whose rate is remembered; those that have read least lately are forgotten
	maxReadAction  = 40     // bytes
	maxPages       = 32     // pages that one record names
	maxPage        = 256    // bytes of each
)

// Read is what shall be read: an access to entries that the log of the log has to know of.
type Read struct {
	Log    string
	Action string // "read", "search", "count", "export", "stream", "prove", "bundle" …
	Filter string // the query, canonical, with what else limits it

	// Page says which part of that: from, limit, cursor. Reads of one kind may differ in it; read.end lists the pages.
	Page string
}

// reads are the records of reads of one tenant. Reads by the same principal, of the same log, in the same way, with the same
// filter, are of one kind. The first of a kind is recorded before it begins; those within a second after that record are
// counted, and recorded together at its end.
type reads struct {
	t *Tenant

	mu      sync.Mutex // guards what follows; never held across I/O
	windows map[readKind]*window
	owed    map[readKind]*counts // what could not be recorded
	lost    counts               // of best effort: more than owed holds
	room    chan struct{}        // closed when a window has ended, then renewed
	rates   map[string]*bucket   // of new kinds, by principal
	closed  bool

	nextPay time.Time // with best effort, when what is owed is tried again

	paying sync.Mutex     // one records what is owed at a time
	under  sync.WaitGroup // windows that are being recorded
}

// readKind is what reads that are counted together have in common.
type readKind struct{ principal, log, action, filter string }

// counts are what the reads of a kind did.
type counts struct {
	by       Principal
	from     time.Time
	requests uint64 // that began
	ended    uint64 // of these, or of those that began in an earlier window
	failed   uint64 // of those that ended
	entries  uint64 // that those that ended gave out

	pages     []string // of the requests that began, the first maxPages different ones
	morePages uint64   // requests for others
}

// page notes which page a request is for.
func (c *counts) page(p string) {
	switch {
	case p == "" || slices.Contains(c.pages, p):
	case len(c.pages) < maxPages:
		c.pages = append(c.pages, p)
	default:
		c.morePages++
	}
}

func (c *counts) add(o *counts) {
	if c.from.IsZero() || o.from.Before(c.from) {
		c.from = o.from
	}
	c.requests += o.requests
	c.ended += o.ended
	c.failed += o.failed
	c.entries += o.entries
	c.morePages += o.morePages
	for _, p := range o.pages {
		c.page(p)
	}
}

// window is one second of reads of one kind.
type window struct {
	kind  readKind
	began chan struct{} // closed when err is set
	err   error         // why its beginning could not be recorded
	over  bool          // it takes no more
	timer *time.Timer   // set before began is closed
	counts
}

func (rs *reads) init(t *Tenant) {
	rs.t, rs.windows, rs.owed, rs.room = t, map[readKind]*window{}, map[readKind]*counts{}, make(chan struct{})
	rs.rates = map[string]*bucket{}
}

// BeginRead records that the principal is about to read, and returns when that is durable; the caller reads after that, and
// then calls end, once, with the number of entries that left. A read whose record cannot be written must not happen: the
// error is a *RecordError, unless the tenant chose best effort. Reads of the log of the log itself are not recorded.
func (t *Tenant) BeginRead(ctx context.Context, p *Principal, r Read) (end func(entries uint64, err error), err error) {
	if p == nil {
		return nil, ErrUnauthenticated
	}
	if r.Log == SystemName {
		return func(uint64, error) {}, nil
	}
	r.Page = strings.ToValidUTF8(r.Page[:min(len(r.Page), maxPage)], "\uFFFD")
	if r.Action == "" || len(r.Action) > maxReadAction {
		return nil, bad("action", "%d bytes; 1 to %d", len(r.Action), maxReadAction)
	}
	rs := &t.reads
	if err := rs.settle(ctx); err != nil {
		return nil, err
	}
	kind := readKind{p.ID, r.Log, r.Action, shorten(r.Filter)}
	for {
		w, err := rs.window(ctx, kind, p)
		if err != nil {
			return nil, err
		}
		select {
		case <-w.began:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the record of the read: %w", context.Cause(ctx))
		}
		if w.err != nil && !t.settings.Load().BestEffortReads {
			return nil, &RecordError{Tenant: t.name, Action: ReadBegin, Err: w.err}
		}
		if rs.count(w, r.Page) {
			var once sync.Once
			return func(entries uint64, err error) { once.Do(func() { rs.end(w, entries, err) }) }, nil
		}
	}
}

// window returns the kind's open window, or begins one. While there are too many it waits.
func (rs *reads) window(ctx context.Context, kind readKind, p *Principal) (*window, error) {
	for {
		rs.mu.Lock()
		if rs.closed {
			rs.mu.Unlock()
			return nil, immutable.ErrClosed
		}
		w := rs.windows[kind]
		later := time.Duration(0)
		if w == nil && len(rs.windows) < maxWindows {
			later = rs.take(p.ID)
		}
		if w == nil && later == 0 && len(rs.windows) < maxWindows {
			w = &window{kind: kind, began: make(chan struct{}), counts: counts{by: *p, from: rs.t.in.now()}}
			rs.windows[kind] = w
			rs.under.Add(1)
			go rs.begin(context.WithoutCancel(ctx), w) // others wait for it too: it does not end with its first reader
		}
		room := rs.room
		rs.mu.Unlock()
		if w != nil {
			return w, nil
		}
		var again <-chan time.Time
		if later > 0 {
			room, again = nil, time.After(later)
		}
		select {
		case <-room:
		case <-again:
		case <-ctx.Done():
			return nil, fmt.Errorf("reads of too many kinds wait to be recorded: %w", context.Cause(ctx))
		}
	}
}

// take takes one new kind of reads from the principal's rate, or says when one can be taken. rs.mu is held.
func (rs *reads) take(principal string) time.Duration {
	now := rs.t.in.now()
	b := rs.rates[principal]
	if b == nil {
		if len(rs.rates) >= maxReaders {
			rs.forget(now)
		}
		b = &bucket{left: kindsBurst, at: now}
		rs.rates[principal] = b
	}
	if d := now.Sub(b.at); d > 0 {
		b.left = min(kindsBurst, b.left+kindsPerSecond*d.Seconds())
	}
	b.at = now
	if later := b.short(kindsPerSecond, 1); later > 0 {
		return later
	}
	b.left--
	return 0
}

// forget makes room for another principal: those whose burst is whole again lose nothing by it. rs.mu is held.
func (rs *reads) forget(now time.Time) {
	var oldest string
	for id, b := range rs.rates {
		if now.Sub(b.at) > kindsBurst/kindsPerSecond*time.Second {
			delete(rs.rates, id)
		} else if oldest == "" || b.at.Before(rs.rates[oldest].at) {
			oldest = id
		}
	}
	if len(rs.rates) >= maxReaders {
		delete(rs.rates, oldest)
	}
}

// begin records the beginning of a window and lets it last a second from then on.
func (rs *reads) begin(ctx context.Context, w *window) {
	err := rs.t.Record(ctx, &w.by, ReadBegin, w.kind.fields())
	if err != nil && !rs.t.settings.Load().BestEffortReads {
		w.err = err
		rs.mu.Lock()
		w.over = true
		rs.remove(w)
		rs.mu.Unlock()
		close(w.began)
		rs.under.Done()
		return
	}
	if err != nil {
		rs.t.in.logger.Warn("a read goes on unrecorded, as the tenant chose", "tenant", rs.t.name, "error", err)
	}
	rs.mu.Lock()
	w.timer = time.AfterFunc(readWindow, func() { rs.finish(ctx, w) })
	rs.mu.Unlock()
	close(w.began)
}

// remove takes the window out. rs.mu is held.
func (rs *reads) remove(w *window) {
	if rs.windows[w.kind] == w {
		delete(rs.windows, w.kind)
		close(rs.room)
		rs.room = make(chan struct{})
	}
}

// count takes a read into the window; false when that is over.
func (rs *reads) count(w *window, page string) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if w.over {
		return false
	}
	w.requests++
	w.page(page)
	return true
}

// end counts the end of a read that began in w: there, or where w is over, in the kind's window of now.
func (rs *reads) end(w *window, entries uint64, err error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if w.over {
		w = rs.late(w)
	}
	w.ended++
	w.entries += entries
	if err != nil {
		w.failed++
	}
}

// late returns where the ends of reads are counted whose window is over. rs.mu is held.
func (rs *reads) late(old *window) *window {
	if w := rs.windows[old.kind]; w != nil {
		return w
	}
	w := &window{kind: old.kind, began: make(chan struct{}), counts: counts{by: old.by, from: rs.t.in.now()}}
	close(w.began)
	rs.windows[w.kind] = w
	rs.under.Add(1)
	w.timer = time.AfterFunc(readWindow, func() { rs.finish(context.Background(), w) })
	return w
}

// finish ends a window and records what its reads did.
func (rs *reads) finish(ctx context.Context, w *window) {
	rs.mu.Lock()
	if w.over {
		rs.mu.Unlock()
		return
	}
	w.over = true
	rs.remove(w)
	c := w.counts
	rs.mu.Unlock()
	defer rs.under.Done()
	if err := rs.recordEnd(ctx, w.kind, &c); err != nil {
		rs.t.in.logger.Error("reads could not be recorded", "tenant", rs.t.name, "error", err)
		rs.owe(w.kind, &c)
	}
}

func (rs *reads) recordEnd(ctx context.Context, k readKind, c *counts) error {
	f := k.fields()
	if len(k.filter) > shortFilter {
		delete(f, "filter")
	}
	f["requests"], f["ended"], f["failed"], f["entries"] = c.requests, c.ended, c.failed, c.entries
	f["from"], f["until"] = c.from, rs.t.in.now()
	if len(c.pages) > 0 {
		f["pages"] = c.pages
	}
	if c.morePages > 0 {
		f["morePages"] = c.morePages
	}
	return rs.t.Record(ctx, &c.by, ReadEnd, f)
}

// owe keeps what could not be recorded, for pay.
func (rs *reads) owe(k readKind, c *counts) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if o := rs.owed[k]; o != nil {
		o.add(c)
	} else if len(rs.owed) < maxWindows {
		rs.owed[k] = c
	} else {
		rs.lost.add(c)
	}
}

// settle lets a read go on when nothing is owed, or what is owed has been recorded now, or the tenant does not insist.
func (rs *reads) settle(ctx context.Context) error {
	rs.mu.Lock()
	none, later := rs.debts() == 0, rs.nextPay
	rs.mu.Unlock()
	if none {
		return nil
	}
	if !rs.t.settings.Load().BestEffortReads {
		if err := rs.pay(ctx); err != nil {
			return &RecordError{Tenant: rs.t.name, Action: ReadEnd, Err: err}
		}
		return nil
	}
	now := rs.t.in.now()
	if now.Before(later) {
		return nil
	}
	rs.mu.Lock()
	rs.nextPay = now.Add(readWindow)
	rs.mu.Unlock()
	if err := rs.pay(ctx); err != nil {
		rs.t.in.logger.Warn("reads are not recorded, as the tenant chose", "tenant", rs.t.name, "error", err)
	}
	return nil
}

// pay records what is owed.
func (rs *reads) pay(ctx context.Context) error {
	rs.paying.Lock()
	defer rs.paying.Unlock()
	rs.mu.Lock()
	owed, lost := rs.owed, rs.lost
	rs.owed, rs.lost = map[readKind]*counts{}, counts{}
	rs.mu.Unlock()
	var failed error
	for k, c := range owed {
		if failed == nil {
			failed = rs.recordEnd(ctx, k, c)
		}
		if failed != nil {
			rs.owe(k, c)
		}
	}
	if lost.ended+lost.requests > 0 {
		lost.by = *Local("service")
		if failed == nil {
			failed = rs.recordEnd(ctx, readKind{action: "several"}, &lost)
		}
		if failed != nil {
			rs.mu.Lock()
			rs.lost.add(&lost)
			rs.mu.Unlock()
		}
	}
	return failed
}

// debts is how many kinds of reads are not recorded. rs.mu is held.
func (rs *reads) debts() int {
	n := len(rs.owed)
	if rs.lost.ended+rs.lost.requests > 0 {
		n++
	}
	return n
}

// close ends all windows now and records them.
func (rs *reads) close(ctx context.Context) error {
	rs.mu.Lock()
	rs.closed = true
	var open []*window
	for _, w := range rs.windows {
		open = append(open, w)
	}
	rs.mu.Unlock()
	for _, w := range open {
		<-w.began
		if w.timer != nil {
			w.timer.Stop()
			rs.finish(ctx, w)
		}
	}
	rs.under.Wait()
	if err := rs.pay(ctx); err != nil {
		return &RecordError{Tenant: rs.t.name, Action: ReadEnd, Err: fmt.Errorf("some reads stay unrecorded: %w", err)}
	}
	return nil
}

func (k readKind) fields() immutable.Fields {
	f := immutable.Fields{"log": k.log, "read": k.action, "filter": k.filter}
	if len(k.filter) > shortFilter {
		sum := sha256.Sum256([]byte(k.filter))
		f["filterHash"] = hex.EncodeToString(sum[:])
	}
	return f
}

// shorten makes a filter one that an entry can hold.
func shorten(filter string) string {
	if len(filter) <= maxFilter {
		return strings.ToValidUTF8(filter, "\uFFFD")
	}
	sum := sha256.Sum256([]byte(filter))
	return fmt.Sprintf("%s… (%d bytes, SHA-256 %s)", strings.ToValidUTF8(filter[:maxFilter], "\uFFFD"), len(filter), hex.EncodeToString(sum[:]))
}
