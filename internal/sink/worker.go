package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/outbound"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of the work on one sink.
const (
	maxBatchEntries = 500
	maxBatchBytes   = 1 << 20         // of encoded events, but for a single one that is larger
	maxRefusals     = 3               // of one entry by itself, and it becomes a dead letter
	maxDead         = 1000            // letters; then the sink waits for somebody
	maxReason       = 200             // bytes of why
	failedAfter     = 3               // tries in a row, and the sink is said to have failed
	maxBackOff      = 5 * time.Minute // between two tries
	saveEvery       = time.Second     // of deliveries; a crash repeats as much
	signedWithin    = 5 * time.Second // that an entry waits for a checkpoint that covers it; then it goes without
	shortNap        = 50 * time.Millisecond
	longNap         = time.Second // between two looks for new entries
)

// The states of a sink.
const (
	Active  = "active"  // it delivers, or has delivered everything
	Failing = "failing" // the last try failed; it is tried again
	Stalled = "stalled" // somebody must look: trying again will not help
	Paused  = "paused"
)

// Status is how a sink does.
type Status struct {
	State       string    `json:"state"`
	Error       string    `json:"error,omitempty"`   // why the last try failed
	Since       time.Time `json:"since,omitzero"`    // when the first of the tries failed that failed in a row
	Tries       int       `json:"tries,omitempty"`   // in a row that failed
	Next        uint64    `json:"next"`              // entries below it were delivered, are dead letters, or are not selected
	Size        uint64    `json:"size"`              // entries of the log
	Lag         uint64    `json:"lag"`               // entries that were not looked at yet
	LagSeconds  float64   `json:"lagSeconds"`        // age of the oldest entry that waits
	Delivered   uint64    `json:"delivered"`         // events, those that were sent again too
	Failures    uint64    `json:"failures"`          // tries, since the start
	DeadLetters int       `json:"deadLetters"`       // entries that were refused for good
	Skipped     uint64    `json:"skipped,omitempty"` // entries that were retired before they were delivered
	Last        time.Time `json:"lastDelivery,omitzero"`

	log string
}

// LogName is the log's, for metrics.
func (s *Status) LogName() string { return s.log }

// DeadLetter is an entry that the receiver has refused for good. The entry is in the log.
type DeadLetter struct {
	Index  uint64    `json:"index"`
	Leaf   string    `json:"leaf"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
	Tries  int       `json:"tries"`
	Retry  bool      `json:"retry,omitempty"` // it is about to be tried again
}

// position is what outlives the process: sink-NAME.json.
type position struct {
	Format    int          `json:"format"`
	Instance  string       `json:"instance"`
	Origin    string       `json:"origin,omitempty"` // of the log; "" before the first look
	Next      uint64       `json:"next"`
	Last      *lastEntry   `json:"last,omitempty"` // the newest that was delivered: the log must still have it
	Delivered uint64       `json:"delivered"`
	Skipped   uint64       `json:"skipped,omitempty"`
	Dead      []DeadLetter `json:"dead,omitempty"`
}

type lastEntry struct {
	Index uint64 `json:"index"`
	Leaf  string `json:"leaf"`
}

// stalledError says that somebody must do something.
type stalledError struct{ text string }

func (e *stalledError) Error() string { return e.text }

// refusedError says that the receiver does not take these events, whenever they come.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// refused says whether an error is about the events, and not about the receiver, the way there, or who we are: of those a new
// try may help, and no entry is at fault.
func refused(err error) bool {
	if _, ok := errors.AsType[*refusedError](err); ok {
		return true
	}
	s, ok := errors.AsType[*outbound.StatusError](err)
	if !ok {
		return false
	}
	switch s.Code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// worker delivers one sink. run and what it calls own the fields without a comment.
type worker struct {
	m      *Manager
	t      *tenant.Tenant
	s      stored
	logger *slog.Logger

	cancel context.CancelFunc // nil where it never ran
	ended  chan struct{}
	wake   chan struct{} // capacity 1: look again at once

	to       transport
	pending  []*batch  // what was read and is not delivered, in order
	refusals int       // of the first of pending, which has one event
	unsigned time.Time // since when entries wait for a checkpoint
	nap      time.Duration
	said     bool // that it has failed
	told     bool // somebody how it does
	read     uint64

	mu     sync.Mutex // guards what follows; never held across I/O
	pos    position
	dirty  bool      // pos is not saved
	saved  time.Time // when it was
	st     Status
	oldest time.Time // of the entries that wait; zero: none is known

	saving sync.Mutex // one save at a time
}

func newWorker(m *Manager, t *tenant.Tenant, s *stored) *worker {
	w := &worker{
		m: m, t: t, s: *s, ended: make(chan struct{}), wake: make(chan struct{}, 1), nap: shortNap,
		logger: m.logger.With("tenant", t.Name(), "log", s.Log, "sink", s.Name),
	}
	w.pos = position{Format: fileFormat, Instance: s.Instance, Next: s.From}
	data, err := t.ReadFile(w.file())
	if errors.Is(err, fs.ErrNotExist) {
		return w
	}
	var p position
	if err == nil {
		err = decode(data, &p)
	}
	switch {
	case err != nil || p.Format != fileFormat:
		// Nothing is lost by it: what was delivered is delivered again.
		w.logger.Error("where the sink stood cannot be read: it begins again", "error", err)
	case p.Instance == s.Instance:
		w.pos = p
	}
	return w
}

func (w *worker) file() string { return statePrefix + w.s.Name + ".json" }

// run delivers until ctx ends.
func (w *worker) run(ctx context.Context) {
	defer func() {
		if w.to != nil {
			w.to.close()
		}
		w.keep(true)
	}()
	done, err := w.begin(ctx)
	for ; err != nil && ctx.Err() == nil; done, err = w.begin(ctx) {
		w.failed(ctx, err)
		w.sleep(ctx, w.wait(err))
	}
	if ctx.Err() != nil {
		if done != nil {
			done(0, nil)
		}
		return
	}
	defer func() { done(w.read, nil) }()
	for ctx.Err() == nil {
		if err := w.turn(ctx); err != nil && ctx.Err() == nil {
			w.goBack()
			w.failed(ctx, err)
			w.keep(false)
			w.sleep(ctx, w.wait(err))
		}
	}
}

// begin records that the log is read, as of everybody who reads.
func (w *worker) begin(ctx context.Context) (func(uint64, error), error) {
	p := &tenant.Principal{ID: "sink:" + w.s.Name, Name: w.s.Title, Tenant: w.t.Name(), Role: tenant.Auditor}
	return w.t.BeginRead(ctx, p, tenant.Read{Log: w.s.Log, Action: "sink", Filter: w.s.Query})
}

// turn does one thing: opens the way, reads a batch, waits for entries, or tries to deliver.
func (w *worker) turn(ctx context.Context) error {
	l, err := w.t.Log(w.s.Log)
	if err != nil {
		return err
	}
	if w.to == nil {
		if err := w.open(ctx, l); err != nil {
			return err
		}
	}
	if len(w.pending) == 0 {
		b, err := w.next(ctx, l)
		if err != nil || b == nil {
			return err
		}
		w.pending = []*batch{b}
	}
	b := w.pending[0]
	if len(b.events) > 0 {
		err = w.to.send(ctx, b)
	}
	switch {
	case err == nil:
		if w.delivered(b); b.again {
			w.notice("")
		}
	case !refused(err):
		return err
	case len(b.events) > 1: // which of them is it?
		half := len(b.events) / 2
		w.pending = append([]*batch{b.part(0, half), b.part(half, len(b.events))}, w.pending[1:]...)
		return nil
	default:
		if w.refusals++; w.refusals < maxRefusals && !b.again {
			return err
		}
		if err := w.bury(ctx, b, err); err != nil {
			return err
		}
	}
	w.pending, w.refusals = w.pending[1:], 0
	w.well(ctx)
	w.keep(false)
	return nil
}

// open makes the way to the receiver, and holds the log to what was delivered of it.
func (w *worker) open(ctx context.Context, l *tenant.Log) error {
	w.mu.Lock()
	p := w.pos
	w.mu.Unlock()
	switch {
	case p.Origin != "" && p.Origin != l.Origin():
		return &stalledError{fmt.Sprintf("the log is another one than before, %s and not %s; make the sink anew to send it from its beginning", l.Origin(), p.Origin)}
	case p.Next > l.Size() && p.Last != nil:
		return &stalledError{fmt.Sprintf("the log has %d entries, and entry %d was delivered: it was rolled back, or is another one; `immutable verify` says more", l.Size(), p.Last.Index)}
	}
	if p.Last != nil {
		leaf, err := l.LeafHash(ctx, p.Last.Index)
		if err != nil {
			return err
		}
		if leaf.String() != p.Last.Leaf {
			return &stalledError{fmt.Sprintf("entry %d of the log is another one than was delivered: the log was replaced or forked; `immutable verify` says more", p.Last.Index)}
		}
	}
	if p.Origin == "" && p.Next == 0 {
		var gone *immutable.RetiredError
		if _, err := l.Entry(ctx, 0); errors.As(err, &gone) { // it begins with the oldest that is there
			p.Next = gone.End
		}
	}
	to, err := w.m.transport(w.t.Name(), &w.s.Sink)
	if err != nil {
		return err
	}
	if f, ok := to.(*fileWriter); ok {
		index, leaf, found, err := f.lastWritten(l.Origin())
		if err != nil {
			to.close()
			return err
		}
		// What was written and synced before a crash is not written again.
		if have, err := l.LeafHash(ctx, index); found && err == nil && have.String() == leaf && index >= p.Next {
			p.Next, p.Last = index+1, &lastEntry{index, leaf}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pos.Origin, w.pos.Next, w.pos.Last, w.dirty = l.Origin(), p.Next, p.Last, true
	w.to = to
	return nil
}

// goBack makes the cursor return to what the receiver may not have got, and closes a way that has failed.
func (w *worker) goBack() {
	if w.to == nil {
		return
	}
	if first, ok := w.to.unsure(); ok {
		w.mu.Lock()
		if first < w.pos.Next {
			w.pos.Next, w.dirty, w.pending = first, true, nil
		}
		w.mu.Unlock()
	}
}

// next reads what comes next: a dead letter that is to be tried again, or the next entries. It is nil where there are none yet.
func (w *worker) next(ctx context.Context, l *tenant.Log) (*batch, error) {
	if b, err := w.letter(ctx, l); b != nil || err != nil {
		return b, err
	}
	w.mu.Lock()
	from := w.pos.Next
	w.mu.Unlock()
	size := l.Size()
	if from >= size || w.t.Settings().Suspended {
		if s, ok := w.to.(*syslogWriter); ok {
			if err := s.check(); err != nil {
				return nil, err
			}
		}
		w.idle(ctx)
		w.keep(true)
		w.sleep(ctx, w.nap)
		w.nap = min(2*w.nap, longNap)
		return nil, nil
	}
	w.nap = shortNap
	covered := export.CheckpointSize(l)
	if len(l.VerifierKeys()) > 0 {
		if now := w.m.o.Now(); covered > from {
			size, w.unsigned = min(size, covered), time.Time{}
		} else if w.unsigned.IsZero() {
			w.unsigned = now
			return nil, nil
		} else if now.Sub(w.unsigned) < w.m.o.signed {
			w.sleep(ctx, shortNap)
			return nil, nil
		}
	} else {
		covered = size
	}
	select {
	case w.m.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-w.m.reading }()
	b, err := w.collect(ctx, l, from, size, covered)
	var gone *immutable.RetiredError
	if errors.As(err, &gone) && gone.End > from {
		return nil, w.gap(ctx, from, gone.End)
	}
	return b, err
}

// collect reads and encodes the entries from from on, below end.
func (w *worker) collect(ctx context.Context, l *tenant.Log, from, end, covered uint64) (*batch, error) {
	if from == 0 { // entries that are retired would be left out in silence
		if _, err := l.Entry(ctx, 0); err != nil {
			return nil, err
		}
	}
	b := &batch{origin: l.Origin(), size: covered, next: end}
	q := immutable.Query{Text: w.s.Query, Now: w.m.o.Now(), Levels: w.s.Levels, From: from, Limit: maxBatchEntries}
	bytes := 0
	for e, err := range l.Entries(ctx, q) {
		if err != nil {
			return nil, err
		}
		if e.Index >= end {
			break
		}
		data, err := encode(w.s.Format, b.origin, covered, &e)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if bytes += len(data); bytes > maxBatchBytes && len(b.events) > 0 {
			b.next = e.Index
			break
		}
		b.events = append(b.events, event{&e, data})
		if len(b.events) == maxBatchEntries {
			b.next = e.Index + 1
		}
	}
	if len(b.events) > 0 {
		w.mu.Lock()
		w.oldest = b.events[0].entry.Timestamp
		w.mu.Unlock()
	}
	return b, nil
}

// letter is the next dead letter that is to be tried again, as a batch of its own; nil where there is none.
func (w *worker) letter(ctx context.Context, l *tenant.Log) (*batch, error) {
	w.mu.Lock()
	i := slices.IndexFunc(w.pos.Dead, func(d DeadLetter) bool { return d.Retry })
	var index uint64
	if i >= 0 {
		index = w.pos.Dead[i].Index
	}
	w.mu.Unlock()
	if i < 0 {
		return nil, nil
	}
	e, err := l.Entry(ctx, index)
	if err != nil {
		w.revive(index, clean(err.Error()))
		return nil, err
	}
	size := export.CheckpointSize(l)
	data, err := encode(w.s.Format, l.Origin(), size, &e)
	if err != nil {
		w.revive(index, clean(err.Error()))
		return nil, err
	}
	return &batch{origin: l.Origin(), size: size, events: []event{{&e, data}}, again: true}, nil
}

// delivered moves the cursor.
func (w *worker) delivered(b *batch) {
	w.read += uint64(len(b.events))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = true
	w.pos.Delivered += uint64(len(b.events))
	if len(b.events) > 0 {
		w.st.Last = w.m.o.Now().UTC()
	}
	if b.again {
		w.pos.Dead = slices.DeleteFunc(w.pos.Dead, func(d DeadLetter) bool { return d.Index == b.first() })
		return
	}
	w.pos.Next = b.next
	if len(b.events) > 0 {
		e := b.last().entry
		w.pos.Last = &lastEntry{e.Index, e.Leaf.String()}
	}
}

// bury makes the batch's one entry a dead letter. From then on the sink goes on behind it.
func (w *worker) bury(ctx context.Context, b *batch, why error) error {
	e, reason := b.events[0].entry, clean(why.Error())
	if b.again {
		w.revive(e.Index, reason)
		return nil
	}
	w.mu.Lock()
	full := len(w.pos.Dead) >= maxDead
	w.mu.Unlock()
	if full {
		return &stalledError{fmt.Sprintf("%d dead letters wait, the most there can be: retry or drop them; entry %d was refused too: %s", maxDead, e.Index, reason)}
	}
	f := immutable.Fields{"sink": w.s.Name, "log": w.s.Log, "index": e.Index, "error": reason}
	if err := w.t.Record(ctx, nil, tenant.SinkRefused, f); err != nil {
		return err
	}
	w.mu.Lock()
	w.pos.Dead = append(w.pos.Dead, DeadLetter{Index: e.Index, Leaf: e.Leaf.String(), Reason: reason, Time: w.m.o.Now().UTC(), Tries: w.refusals})
	w.pos.Next, w.dirty = b.next, true
	w.mu.Unlock()
	w.logger.Error("an entry is a dead letter", "index", e.Index, "error", reason)
	w.keep(true)
	w.notice("")
	return nil
}

// revive takes back that a letter is about to be tried again, and notes what came of it.
func (w *worker) revive(index uint64, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.pos.Dead {
		if d := &w.pos.Dead[i]; d.Index == index {
			d.Retry, d.Reason, d.Time = false, reason, w.m.o.Now().UTC()
			d.Tries++
			w.dirty = true
		}
	}
}

// gap goes on behind entries that were retired, and says so: they are not lost in silence.
func (w *worker) gap(ctx context.Context, first, end uint64) error {
	if err := w.t.Record(ctx, nil, tenant.SinkGap, immutable.Fields{"sink": w.s.Name, "log": w.s.Log, "first": first, "end": end}); err != nil {
		return err
	}
	w.logger.Error("entries were retired before they were delivered", "first", first, "end", end)
	w.mu.Lock()
	w.pos.Next, w.pos.Skipped, w.dirty = end, w.pos.Skipped+end-first, true
	w.mu.Unlock()
	return nil
}

// letters are the dead ones.
func (w *worker) letters() []DeadLetter {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pos.Dead)
}

// retry marks dead letters to be tried again, and ends a wait.
func (w *worker) retry(these func(uint64) bool) (int, error) {
	n := 0
	w.mu.Lock()
	for i := range w.pos.Dead {
		if d := &w.pos.Dead[i]; these(d.Index) {
			d.Retry, w.dirty = true, true
			n++
		}
	}
	w.mu.Unlock()
	err := w.save(true)
	w.nudge()
	return n, err
}

// drop forgets dead letters.
func (w *worker) drop(these func(uint64) bool) (int, error) {
	w.mu.Lock()
	before := len(w.pos.Dead)
	w.pos.Dead = slices.DeleteFunc(w.pos.Dead, func(d DeadLetter) bool { return these(d.Index) })
	n := before - len(w.pos.Dead)
	w.dirty = true
	w.mu.Unlock()
	err := w.save(true)
	w.notice("")
	w.nudge()
	return n, err
}

func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// sleep waits, unless it is woken.
func (w *worker) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.wake:
	case <-ctx.Done():
	}
}

// wait is how long to wait after a failure: longer each time, and as long as the receiver asks for.
func (w *worker) wait(err error) time.Duration {
	w.mu.Lock()
	tries := w.st.Tries
	w.mu.Unlock()
	d := w.m.o.back(tries - 1)
	if s, ok := errors.AsType[*outbound.StatusError](err); ok {
		d = max(d, min(s.After, maxBackOff))
	}
	return d
}

// failed notes a try that failed; enough of them in a row are said.
func (w *worker) failed(ctx context.Context, err error) {
	_, stalled := errors.AsType[*stalledError](err)
	reason := clean(err.Error())
	w.mu.Lock()
	w.st.Failures++
	if w.st.Tries++; w.st.Tries == 1 {
		w.st.Since = w.m.o.Now().UTC()
	}
	w.st.Error, w.st.State = reason, Failing
	if stalled {
		w.st.State = Stalled
	}
	tries, next := w.st.Tries, w.pos.Next
	w.mu.Unlock()
	w.logger.Warn("a sink does not deliver", "tries", tries, "error", reason)
	if w.said || !stalled && tries < failedAfter {
		return
	}
	f := immutable.Fields{"sink": w.s.Name, "log": w.s.Log, "error": reason, "next": next}
	if err := w.t.Record(ctx, nil, tenant.SinkFailed, f); err != nil {
		w.logger.Error("not recorded in the log of the log", "error", err)
	}
	w.said = true
	w.notice(reason)
}

// well notes a try that succeeded.
func (w *worker) well(ctx context.Context) {
	w.mu.Lock()
	was := w.st.Tries > 0
	w.st.Tries, w.st.Error, w.st.State, w.st.Since = 0, "", Active, time.Time{}
	next := w.pos.Next
	w.mu.Unlock()
	if was && w.said {
		if err := w.t.Record(ctx, nil, tenant.SinkRecovered, immutable.Fields{"sink": w.s.Name, "log": w.s.Log, "next": next}); err != nil {
			w.logger.Error("not recorded in the log of the log", "error", err)
		}
		w.said = false
	}
	if was || !w.told { // an alert of before a restart ends too
		w.told = true
		w.notice("")
	}
}

// idle notes that nothing waits.
func (w *worker) idle(ctx context.Context) {
	w.mu.Lock()
	w.oldest = time.Time{}
	tries := w.st.Tries
	w.mu.Unlock()
	if tries > 0 {
		w.well(ctx)
	}
}

// notice says how the sink does to whoever raises alerts. failed is why it has failed; "" where it has not.
func (w *worker) notice(failed string) {
	if w.m.o.Changed == nil {
		return
	}
	st := w.status()
	n := Notice{Tenant: w.t.Name(), Log: w.s.Log, Sink: w.s.Name, Dead: st.DeadLetters, Lag: st.Lag, Wrong: failed != "" || st.DeadLetters > 0}
	switch {
	case failed != "":
		n.What = fmt.Sprintf("sink %s of log %s does not deliver: %s", w.s.Name, w.s.Log, failed)
	case st.DeadLetters > 0:
		n.What = fmt.Sprintf("the receiver of sink %s of log %s has refused entries: dead letters: %d", w.s.Name, w.s.Log, st.DeadLetters)
	default:
		n.What = fmt.Sprintf("sink %s of log %s delivers", w.s.Name, w.s.Log)
	}
	w.m.o.Changed(n)
}

// gone removes what is left of a sink that is no more. The worker has ended.
func (w *worker) gone() {
	if err := w.t.RemoveFile(w.file()); err != nil {
		w.logger.Error("a file of a sink that is no more stays", "error", err)
	}
	if w.m.o.Changed != nil {
		w.m.o.Changed(Notice{Tenant: w.t.Name(), Log: w.s.Log, Sink: w.s.Name, What: fmt.Sprintf("sink %s is no more", w.s.Name)})
	}
}

// status is how the sink does now.
func (w *worker) status() Status {
	var size uint64
	if l, err := w.t.Log(w.s.Log); err == nil {
		size = l.Size()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.st
	st.Next, st.Size, st.Delivered, st.Skipped, st.DeadLetters, st.log = w.pos.Next, size, w.pos.Delivered, w.pos.Skipped, len(w.pos.Dead), w.s.Log
	st.Lag = size - min(size, w.pos.Next)
	if !w.oldest.IsZero() && st.Lag > 0 {
		st.LagSeconds = max(w.m.o.Now().Sub(w.oldest).Seconds(), 0)
	}
	if st.State == "" {
		st.State = Active
	}
	if w.s.Paused {
		st.State, st.Error, st.Tries, st.Since = Paused, "", 0, time.Time{}
	}
	return st
}

// keep is save where nobody waits for the answer: what could not be saved is tried again, and logged.
func (w *worker) keep(now bool) { _ = w.save(now) }

// save writes the position, durably: at once, or where the last time is a while ago.
func (w *worker) save(now bool) error {
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	at := w.m.o.Now()
	if !w.dirty || !now && at.Sub(w.saved) < saveEvery {
		w.mu.Unlock()
		return nil
	}
	w.saved = at
	p := w.pos
	p.Dead = slices.Clone(p.Dead)
	w.dirty = false
	w.mu.Unlock()
	if err := w.t.WriteFile(w.file(), append(plain(p), '\n')); err != nil {
		w.mu.Lock()
		w.dirty = true
		w.mu.Unlock()
		w.logger.Error("where the sink stands is not saved; a crash would repeat deliveries", "error", err)
		return err
	}
	return nil
}

// clean makes a reason of one line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F && r <= 0x9F || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return s
}
