package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// streamRoutes are the routes that last.
func streamRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/stream", Permission: tenant.PermRead, Query: []string{"q", "level", "from"}, ID: "streamEntries", Handle: streamEntries},
	}
}

const (
	maxPiece    = 128 << 10              // bytes of events that a stream holds at a time, and one event more
	bigPiece    = 1 << 20                // likewise, for those that find a place in bigPieces: groups of large entries are not read again for each small piece
	bigPieces   = 32 << 20               // bytes of big pieces of all streams
	maxTaken    = 512                    // entries that it takes from the tail at a time
	pieceTime   = 250 * time.Millisecond // a search for what a filter selects is looked after this often
	hurryTime   = 200 * time.Millisecond // what a stream that is being ended gets for its last event
	groupSize   = 256                    // entries are read and proven in groups of so many
	retryLeast  = 500                    // milliseconds after which clients come back; spread, so that they do not come all at once
	retrySpread = 2500
)

// streamEntries sends the entries that are selected as server-sent events: those that are there, then each new one as it is
// committed, until the client goes away. The id of an event is its entry's index, and Last-Event-ID goes on behind it.
func streamEntries(r *request) error {
	next, err := r.streamFrom()
	if err != nil {
		return err
	}
	oldest := r.oldest()
	if next > 0 && next < oldest {
		return &immutable.RetiredError{End: oldest, Entry: -1}
	}
	next = max(next, oldest)
	q, spelling, err := r.filter()
	if err != nil {
		return err
	}
	parsed, err := query.Parse(q.Text, q.Now)
	if err != nil {
		return err
	}
	h := r.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform") // proxies that compress would hold events back
	h.Set("X-Accel-Buffering", "no")                 // nginx and those that took this from it
	if r.Method == http.MethodHead {
		r.w.WriteHeader(http.StatusOK)
		return nil
	}
	st := &stream{r: r, q: q, next: next, w: newEventWriter(r)}
	if _, st.all = parsed.Root.(query.All); !st.all {
		st.matcher = query.NewMatcher(parsed)
	}
	if len(q.Levels) == 0 {
		st.levels = ^uint64(0)
	}
	for _, l := range q.Levels {
		st.levels |= 1 << l
	}
	ctx, err := r.s.streams.add(st)
	if err != nil {
		return err
	}
	defer r.s.streams.remove(st)
	end, err := r.beginRead("stream", spelling)
	if err != nil {
		return err
	}
	err = st.run(ctx)
	end(st.sent, err)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, errShutdown) {
		r.s.o.Logger.Info("a stream was ended", "tenant", r.tenant.Name(), "log", r.log.Name(), "principal", r.principal.ID, "next", st.next, "error", err)
	}
	return nil
}

// streamFrom is the first entry that the client wants: the one behind Last-Event-ID, or the parameter from, which is an index, or
// "end" for what comes after this moment. An id that the log has not reached is of another log, or of one that was rolled
// back: that is said and not waited for.
func (r *request) streamFrom() (uint64, error) {
	size := r.log.Size()
	if id := r.Header.Get("Last-Event-ID"); id != "" && id != "-1" {
		n, err := wholeNumber("Last-Event-ID", id, 0, maxIndex)
		if err != nil {
			return 0, err
		}
		if n >= size {
			return 0, fault("conflict", fmt.Sprintf("the log has %d entries, and Last-Event-ID says that you have seen entry %d: it is another log's, or this log was rolled back", size, n)).with("size", size)
		}
		return n + 1, nil
	} else if id == "-1" {
		return 0, nil
	}
	if r.param("from") == "end" {
		return size, nil
	}
	n, err := r.number("from", 0, 0, maxIndex)
	if err == nil && n > size {
		return 0, fault("conflict", fmt.Sprintf("the log has %d entries: from can be at most that", size)).with("size", size)
	}
	return n, err
}

// oldest is the index of the first entry that is not retired. Whether the log can be read at all the reading itself will say.
func (r *request) oldest() uint64 {
	for _, err := range r.log.Entries(r.Context(), immutable.Query{From: 1, Limit: 1}) {
		if gone, ok := errors.AsType[*immutable.RetiredError](err); ok {
			return gone.End
		}
	}
	return 0
}

// maxIndex is the largest index that a log can have.
const maxIndex = 1<<63 - 2

// A stream is one client that follows a log. Its goroutine reads and writes; others only stop it.
type stream struct {
	r       *request
	w       *eventWriter
	tail    *tail
	cancel  context.CancelCauseFunc
	end     func()         // gives the tenant's place back
	matcher *query.Matcher // nil where every entry of the levels is selected
	all     bool           // q.Text is empty
	levels  uint64         // bits
	q       immutable.Query

	next  uint64 // every entry before it was sent, or is not selected
	sent  uint64
	piece []byte
	taken [maxTaken]*frame
	quiet *time.Timer // runs out when a heartbeat is due
}

// run sends until ctx ends, the client is too slow or the log cannot be read. The error says why, and was told to the client if
// it could be.
func (st *stream) run(ctx context.Context) error {
	st.quiet = time.NewTimer(st.r.limits().Heartbeat)
	defer st.quiet.Stop()
	// The id comes first, so that who was told nothing else yet comes back to the same place.
	retry := retryLeast + rand.IntN(retrySpread) //nolint:gosec // spreads clients over time; nobody gains by guessing it
	err := st.write(fmt.Appendf(nil, "retry: %d\nid: %d\n\n", retry, int64(st.next)-1))
	for err == nil {
		err = st.step(ctx)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if !errors.Is(err, context.Canceled) {
		st.w.last(st.farewell(err))
	}
	return err
}

// step sends what is there, or waits.
func (st *stream) step(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	n, grown, err := st.tail.take(st.next, st.taken[:], maxPiece)
	switch {
	case errors.Is(err, errBehind):
		return st.catchUp(ctx)
	case err != nil:
		return err
	case n == 0:
		return st.wait(ctx, grown, nil)
	}
	st.piece = pieces.get()
	selected := uint64(0)
	for _, f := range st.taken[:n] {
		ok, err := st.selects(f)
		if err != nil {
			return err
		}
		if ok {
			st.piece = append(st.piece, f.wire...)
			selected++
		}
	}
	st.next += uint64(n)
	clear(st.taken[:n])
	return st.sendPiece(selected)
}

// wait returns when something has grown, a place is free, or a heartbeat was sent.
func (st *stream) wait(ctx context.Context, grown <-chan struct{}, place chan<- struct{}) error {
	select {
	case <-grown:
		return nil
	case place <- struct{}{}:
		return errPlace
	case <-st.quiet.C:
		return st.beat()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errPlace says that wait has got a place.
var errPlace = errors.New("a place is free")

// selects says whether the client wants the entry.
func (st *stream) selects(f *frame) (bool, error) {
	if st.levels>>f.level&1 == 0 {
		return false, nil
	}
	if st.matcher == nil {
		return true, nil
	}
	if !st.matcher.Block(f.line) {
		return false, nil
	}
	return st.matcher.Match(f.line, 0, f.index)
}

// catchUp reads a piece of what the tail does not have, by itself, when it is its turn, and sends it. While it is being sent
// nothing is held but the piece, however slow the client is.
func (st *stream) catchUp(ctx context.Context) error {
	limit, room, turns, name := maxPiece, st.r.s.streams.pieces, st.r.s.turns, st.r.tenant.Name()
	own := turns.of(name)
	if err := st.wait(ctx, nil, own); !errors.Is(err, errPlace) {
		return err
	}
	if err := st.wait(ctx, nil, turns.all); !errors.Is(err, errPlace) {
		<-own
		return err
	}
	if room.try(name, bigPiece) {
		limit = bigPiece
		defer room.give(name, bigPiece)
	}
	selected, err := st.read(ctx, limit)
	turns.give(name)
	if serr := st.sendPiece(selected); err == nil {
		err = serr
	}
	return err
}

// errEnough ends a search for one piece.
var errEnough = errors.New("a piece is read")

// read fills the piece with up to limit bytes from entry next on, and moves next behind what it has looked at.
func (st *stream) read(ctx context.Context, limit int) (selected uint64, err error) {
	inner, enough := context.WithCancelCause(ctx)
	defer enough(nil)
	size := st.r.log.Size() // Entries looks at these, and perhaps at more
	q := st.q
	q.From = st.next
	group := st.next / groupSize * groupSize
	seen := st.next // everything before it was looked at
	began := time.Now()
	if st.all && len(q.Levels) == 0 {
		size = min(size, group+2*groupSize) // so few are read without goroutines of their own, and none in vain
	} else {
		var before uint64
		q.Progress = func(p immutable.Progress) {
			// What comes before the last group that is named here has been given out.
			seen, before = max(seen, before), group+p.Entries
			if seen > st.next && (time.Since(began) > pieceTime || len(st.piece) >= limit) {
				enough(errEnough)
			}
		}
	}
	st.piece = pieces.get()
	for e, eerr := range st.r.log.Entries(inner, q) {
		if eerr != nil {
			if !errors.Is(context.Cause(inner), errEnough) {
				err = eerr
			}
			st.next = max(st.next, seen)
			return selected, err
		}
		st.piece = appendEvent(st.piece, &e)
		selected++
		st.next = e.Index + 1
		if len(st.piece) >= limit || st.next == size {
			return selected, nil
		}
	}
	st.next = max(st.next, size)
	return selected, nil
}

// sendPiece sends the piece and gives it back.
func (st *stream) sendPiece(selected uint64) error {
	piece := st.piece
	st.piece = nil
	defer pieces.put(piece)
	if len(piece) == 0 {
		select {
		case <-st.quiet.C: // nothing was selected for long
			return st.beat()
		default:
			return nil
		}
	}
	err := st.write(piece)
	if err == nil || errors.Is(err, errSlow) {
		st.sent += selected
	}
	return err
}

// beat shows that the stream is alive, and moves the client's Last-Event-ID behind what was looked at and not selected: who
// comes back need not wait for a search of the same entries.
func (st *stream) beat() error {
	return st.write(fmt.Appendf(nil, ": heartbeat\nid: %d\n\n", int64(st.next)-1))
}

func (st *stream) write(p []byte) error {
	err := st.w.write(p)
	st.quiet.Reset(st.r.limits().Heartbeat)
	return err
}

// farewell is the last event: why the stream ends, as a problem, and where to go on.
func (st *stream) farewell(err error) []byte {
	p := *st.r.problem(err) // of its own: the reason may be that of many streams
	p.extra = maps.Clone(p.extra)
	data, merr := json.Marshal(p.with("next", st.next))
	if merr != nil {
		data = []byte("{}")
	}
	return fmt.Appendf(nil, "event: error\ndata: %s\n\n", data)
}

// errShutdown and errSlow are why streams end.
var (
	errShutdown error = fault("shutting-down", "the server is shutting down; come back, with Last-Event-ID, and nothing is missed")
	errSlow     error = fault("slow-reader", "these events were not read in time; come back with Last-Event-ID for the rest")
)

// eventWriter writes to a client that may be slow. A write that took longer than Limits.Slow is the last; one that takes longer
// than Limits.Patience is given up together with the connection.
type eventWriter struct {
	w             *reply
	c             *http.ResponseController
	slow, patient time.Duration

	mu      sync.Mutex
	hurried bool // the stream is being ended: what is under way gets hurryTime
	closed  bool // the handler has returned
}

func newEventWriter(r *request) *eventWriter {
	return &eventWriter{w: &r.w, c: r.control(), slow: r.limits().Slow, patient: r.limits().Patience}
}

// write sends and flushes.
func (w *eventWriter) write(p []byte) error {
	began := time.Now()
	w.arm(w.patient)
	_, err := w.w.Write(p)
	if err == nil {
		err = w.c.Flush()
	}
	took := time.Since(began)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: %d bytes not within %s", errSlow, len(p), took.Round(time.Millisecond))
	case err != nil:
		return fmt.Errorf("the client went away: %w", errors.Join(context.Canceled, err))
	case took > w.slow:
		return fmt.Errorf("%w: %d bytes took %s", errSlow, len(p), took.Round(time.Millisecond))
	}
	return nil
}

// last tries to send the last event; a client that does not take it will find out by coming back.
func (w *eventWriter) last(p []byte) {
	w.arm(min(w.slow, w.patient))
	if _, err := w.w.Write(p); err == nil {
		_ = w.c.Flush()
	}
}

func (w *eventWriter) arm(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hurried {
		d = min(d, hurryTime)
	}
	_ = w.c.SetWriteDeadline(time.Now().Add(d)) // a connection without deadlines is one that never blocks: a test's
}

// hurry makes a write that is under way end soon. It may be called from any goroutine.
func (w *eventWriter) hurry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.hurried && !w.closed {
		w.hurried = true
		_ = w.c.SetWriteDeadline(time.Now().Add(hurryTime))
	}
}

func (w *eventWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

// pieces are the buffers of streams and exports: only those who are sending have one.
var pieces piecePool

type piecePool struct{ pool sync.Pool }

func (p *piecePool) get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, maxPiece/4)
}

func (p *piecePool) put(b []byte) {
	if cap(b) <= 2*maxPiece {
		p.pool.Put(&b)
	}
}
