package immutable

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/segment"
)

// maxBatchLines is what a batch's entry lines may take, so that with its commit line it stays within MaxBatchBytes.
const maxBatchLines = MaxBatchBytes - 256

// Append commits events as one batch, all or nothing, and returns once they are durable. Events that carry an
// idempotency key the log has seen within its window (24 hours, a million keys) are not written again: they get
// the first append's receipt, marked Repeated, or a *KeyConflictError when their content differs.
//
// Many small concurrent appends share one disk sync. A call waits while the disk is behind; it is never turned away.
func (l *Log) Append(ctx context.Context, events ...Event) ([]Receipt, error) {
	for i := range events {
		if events[i].Log != nil {
			return nil, fmt.Errorf("event %d: control entries are written by the log only", i)
		}
	}
	return l.append(ctx, events)
}

// append is appendBy without a source's signatures.
func (l *Log) append(ctx context.Context, events []Event) ([]Receipt, error) {
	return l.appendBy(ctx, events, nil)
}

// appendBy is the life of an entry from the caller's side: encode, look its key up, be signed by its source, be admitted, wait
// for the disk. sign, which may be nil, is called with what will be written, repeats left out.
func (l *Log) appendBy(ctx context.Context, events []Event, sign func(*request) error) ([]Receipt, error) {
	if l.w == nil {
		return nil, l.refusal()
	}
	if len(events) == 0 {
		return nil, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("append, nothing was written: %w", context.Cause(ctx))
	}
	if l.owed.Load() {
		if err := l.writeOwed(); err != nil {
			return nil, err
		}
	}
	req, err := l.encode(events)
	if err != nil {
		return nil, err
	}
	if !req.keyed {
		if sign != nil {
			if err := sign(req); err != nil {
				return nil, err
			}
		}
		if err := l.w.submit(ctx, req); err != nil {
			return nil, err
		}
		l.putLines(req)
		return req.receipts, nil
	}
	return l.appendKeyed(ctx, events, req, sign)
}

// request is one caller's append on its way through the pool.
type request struct {
	lines  []byte  // encoded entries, each with its newline; id and timestamp are patched by the writer
	ends   []int32 // where each line ends in lines, after its newline
	levels []Level
	keyed  bool // one of the events has an idempotency key

	ordinary bool       // one of the events is no control entry
	next     *nextEpoch // the one entry of this request begins an epoch of keys

	// clock, when not zero, is the administrator's new time: the one entry of this request may be older than the last.
	clock int64
	// flights are resolved when the request is committed or given up; see keyTable.
	flights []*flight

	done     chan struct{} // closed when receipts or err is set
	receipts []Receipt
	err      error
}

// encode validates the events and writes their lines, outside any lock.
func (l *Log) encode(events []Event) (*request, error) {
	if len(events) > MaxBatchEntries {
		return nil, fmt.Errorf("%w: %d events, at most %d fit one append; split it", ErrTooLarge, len(events), MaxBatchEntries)
	}
	req := &request{done: make(chan struct{}), ends: make([]int32, 0, len(events)), levels: make([]Level, 0, len(events)), lines: l.getLines(320 * len(events))}
	for i := range events {
		e := events[i]
		if e.Hostname == "" && e.Producer == nil { // a producer has signed what it left empty
			e.Hostname = l.hostname
		}
		if e.PID == 0 && e.Producer == nil {
			e.PID = l.pid
		}
		var err error
		if req.lines, err = entry.Append(req.lines, &e); err != nil {
			if len(events) > 1 {
				return nil, fmt.Errorf("event %d: %w", i, err)
			}
			return nil, err
		}
		req.lines = append(req.lines, '\n')
		if len(req.lines) > maxBatchLines {
			return nil, fmt.Errorf("%w: event %d takes the batch over %d bytes; split it", ErrTooLarge, i, MaxBatchBytes)
		}
		req.ends = append(req.ends, int32(len(req.lines)))
		req.levels = append(req.levels, e.Level)
		req.keyed = req.keyed || e.IdempotencyKey != ""
		req.ordinary = req.ordinary || e.Log == nil
	}
	return req, nil
}

// getLines returns an empty buffer for the lines of a request, one that an earlier request gave back if it is large enough.
func (l *Log) getLines(n int) []byte {
	if b, ok := l.lines.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, n)
}

// putLines gives a request's buffer back, once it is committed and its caller knows: nobody reads it any more.
func (l *Log) putLines(req *request) {
	b := req.lines
	req.lines = nil
	l.lines.Put(&b)
}

// poolBytes is how many bytes of lines may wait for the writer before callers wait to be admitted.
const poolBytes = MaxBatchBytes

// plenty is how many waiting bytes make the writer prepare the next batch while the disk still syncs the one before;
// with less it waits, so that more callers share the next sync.
const plenty = 128 << 10

// pool holds the requests that wait for the writer, in order.
type pool struct {
	wake chan struct{} // capacity 1: there may be work

	mu      sync.Mutex // guards what follows; never held across I/O
	reqs    []*request
	bytes   int
	entries int
	room    chan struct{} // closed when the writer has taken requests, then renewed
	closed  error         // why nothing is admitted any more
}

func newPool() *pool {
	return &pool{wake: make(chan struct{}, 1), room: make(chan struct{})}
}

// submit admits the request, waiting for room, and waits until it is durable or refused.
func (w *writer) submit(ctx context.Context, req *request) error {
	if err := w.pool.admit(ctx, req); err != nil {
		return err
	}
	return wait(ctx, req)
}

// wait returns when an admitted request is durable or refused, or ctx ends.
func wait(ctx context.Context, req *request) error {
	select {
	case <-req.done:
		return req.err
	case <-ctx.Done():
	}
	select {
	case <-req.done: // it landed at the same moment: no reason to be uncertain
		return req.err
	default:
		return fmt.Errorf("%w: stopped waiting: %w", ErrUncertain, context.Cause(ctx))
	}
}

func (p *pool) admit(ctx context.Context, req *request) error {
	for {
		p.mu.Lock()
		if p.closed != nil {
			p.mu.Unlock()
			return p.closed
		}
		if p.bytes == 0 || p.bytes+len(req.lines) <= poolBytes {
			break
		}
		room := p.room
		p.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("waiting to append, nothing was written: %w", context.Cause(ctx))
		}
	}
	before := p.bytes
	p.reqs = append(p.reqs, req)
	p.bytes += len(req.lines)
	p.entries += len(req.ends)
	signal := before == 0 || before < plenty && p.bytes >= plenty
	p.mu.Unlock()
	if signal {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// take returns the oldest requests that fit one batch, or nil while fewer than least bytes wait.
func (p *pool) take(least int) []*request {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.reqs) == 0 || p.bytes < least {
		return nil
	}
	n, bytes, entries := 0, 0, 0
	for _, r := range p.reqs {
		if n > 0 && (bytes+len(r.lines) > maxBatchLines || entries+len(r.ends) > segment.MaxBatchEntries || r.clock != 0 || p.reqs[0].clock != 0) {
			break
		}
		n, bytes, entries = n+1, bytes+len(r.lines), entries+len(r.ends)
	}
	taken := p.reqs[:n:n]
	if p.reqs = p.reqs[n:]; len(p.reqs) == 0 {
		p.reqs = nil
	}
	p.bytes -= bytes
	p.entries -= entries
	close(p.room)
	p.room = make(chan struct{})
	return taken
}

// close admits nothing more and returns what still waits.
func (p *pool) close(err error) []*request {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = err
	}
	left := p.reqs
	p.reqs, p.bytes, p.entries = nil, 0, 0
	close(p.room)
	p.room = make(chan struct{})
	return left
}

// shut admits nothing more; what was admitted stays for the writer.
func (p *pool) shut(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == nil {
		p.closed = err
	}
	close(p.room)
	p.room = make(chan struct{})
}

// refuses is why nothing is admitted any more, or nil.
func (p *pool) refuses() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// waiting says how much waits, for Stats.
func (p *pool) waiting() (entries, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.entries, p.bytes
}

func (r *request) fail(err error) {
	r.err = err
	r.abandon(err)
	close(r.done)
}

// abandon lets go of the idempotency keys that the request claimed.
func (r *request) abandon(err error) {
	for _, f := range r.flights {
		f.fail(err)
	}
}

func hostname(configured string) (string, error) {
	name := configured
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("read this host's name: %w (set Config.Hostname)", err)
		}
	}
	if len(name) > entry.MaxHostname {
		return "", fmt.Errorf("hostname of %d bytes: at most %d", len(name), entry.MaxHostname)
	}
	return name, nil
}

// unixNano is the clock's time within the range that the format has.
func (l *Log) unixNano() int64 { return min(max(clampNano(l.cfg.now()), 0), entry.MaxTime) }

// timeOf is the time of an entry as callers see it.
func timeOf(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }
