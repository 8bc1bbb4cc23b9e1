// Package capture records what a Go program does in an Immutable log: its structured logging, its logins and privileges, its start,
// stop and panics. Beside it, httpcapture records requests that are served and made, sqlcapture statements and transactions of
// database/sql, pgxcapture those of pgx, and filewatch changes of files.
//
// All of them write through a [Recorder], which writes to a [Destination]: a log, or a background writer before one. What a call
// costs the application, and what happens where the log takes nothing, is the destination's choice:
//
//	l, err := immutable.Open("./logs", nil)
//	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Drop})   // or Block, or Spool with a directory
//	rec := capture.New(w, capture.Config{})
//	slog.SetDefault(slog.New(capture.NewHandler(rec, nil)))
//
// Secrets are left out by default, since what is in the log stays there: see [Redaction].
package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
	"github.com/tree-of-life-system/immutable/event"
)

// Destination takes events. *client.Writer is one: it returns when it has them as its mode says (in memory, in a spool's files, or
// dropped with a record of it), after about a microsecond but for a spool. [Durable] makes one of a log.
//
// Append may be called by any number of goroutines. It must not record to a Recorder itself, nor keep an event's RawMetadata when it
// has returned: that memory is used again.
type Destination interface {
	Append(ctx context.Context, events ...immutable.Event) error
}

// Appender is what *immutable.Log and *client.Client are.
type Appender interface {
	Append(ctx context.Context, events ...immutable.Event) ([]immutable.Receipt, error)
}

// Durable is the Destination of a program that waits for each event until it is on the log's disk: some tenths of a millisecond
// on this host, an exchange with the server through a client.
func Durable(to Appender) Destination { return durable{to} }

type durable struct{ to Appender }

func (d durable) Append(ctx context.Context, events ...immutable.Event) error {
	_, err := d.to.Append(ctx, events...)
	return err
}

// Config says how a Recorder works. The zero value works.
type Config struct {
	// OnError is told of events that could not be recorded, by the goroutine whose call it was. It must not log through a Handler
	// of the same Recorder. May be nil: Stats counts them.
	OnError func(error)

	// Redaction says what is left out; nil is the default one.
	Redaction *Redaction
}

// Recorder is what the adapters write to. Its methods may be called from any number of goroutines.
type Recorder struct {
	to     Destination
	cfg    Config
	redact *Redaction

	inside   atomic.Int64 // calls of to.Append that are under way
	recorded atomic.Uint64
	failed   atomic.Uint64
	nested   atomic.Uint64
	reduced  atomic.Uint64

	slots    chan struct{} // of Background: one for each function that runs beside its caller
	flushing chan struct{} // held by the one that waits for all slots
}

// Stats is what a Recorder has done.
type Stats struct {
	Recorded uint64 // events that the destination took
	Failed   uint64 // that it did not take: Config.OnError was told why
	Nested   uint64 // that came from within the destination's own Append, or the log itself, and were left out
	Reduced  uint64 // of those recorded, that did not fit an entry and were taken without their largest metadata
}

// maxBeside bounds the functions that run in Background at once.
const maxBeside = 4

// ErrNested is returned for an event that is recorded from within the destination's Append: recording it would not end.
var ErrNested = errors.New("recorded from within the recording of another event")

// New returns a Recorder that writes to to.
func New(to Destination, cfg Config) *Recorder {
	r := &Recorder{to: to, cfg: cfg, redact: cfg.Redaction, slots: make(chan struct{}, maxBeside), flushing: make(chan struct{}, 1)}
	if r.redact == nil {
		r.redact = &Redaction{}
	}
	return r
}

// Redaction returns what the Recorder leaves out.
func (r *Recorder) Redaction() *Redaction { return r.redact }

// Record records one event of the common shape. The context gives its values only: an event of a call that was cancelled is
// recorded as well.
func (r *Recorder) Record(ctx context.Context, level immutable.Level, message string, s event.Shape) error {
	return r.record(ctx, level, message, &s, s.Extra, func(*meta.Object) {})
}

// record records a shape, what own writes beside it, and extra, whose names and values are anybody's: the others overrule it.
func (r *Recorder) record(ctx context.Context, level immutable.Level, message string, s *event.Shape, extra immutable.Fields, own func(*meta.Object)) error {
	e := immutable.Event{Level: level, Message: message}
	if s.Request != nil {
		e.TraceID, e.SpanID = s.Request.TraceID, s.Request.SpanID
	}
	o := meta.New()
	defer o.Free()
	o.Shape(s)
	own(o)
	e.RawMetadata = o.Bytes()
	if len(extra) > 0 {
		e.Metadata = maps.Clone(extra)
		var members map[string]json.RawMessage
		if err := json.Unmarshal(e.RawMetadata, &members); err != nil {
			return fmt.Errorf("record %q: %w", Text(message, 80), err)
		}
		for name, value := range members {
			e.Metadata[name] = value
		}
		e.RawMetadata = nil
	}
	return r.Append(ctx, e)
}

// Append records one event as it is. An event that no entry can hold, as it is too large or has a value that is no JSON, is
// recorded with the metadata that fits and a note of what was left out, rather than not at all. The error was told to OnError.
func (r *Recorder) Append(ctx context.Context, e immutable.Event) error {
	if r.inside.Load() > 0 && withinDeliver() {
		r.nested.Add(1)
		return ErrNested
	}
	ctx = context.WithoutCancel(ctx)
	err := r.deliver(ctx, e)
	var f *immutable.FieldError
	if errors.As(err, &f) {
		if err = r.deliver(ctx, reduce(e, f)); err == nil {
			r.reduced.Add(1)
		}
	}
	if err != nil {
		r.failed.Add(1)
		err = fmt.Errorf("record %q: %w", Text(e.Message, 80), err)
		if r.cfg.OnError != nil {
			r.cfg.OnError(err)
		}
		return err
	}
	r.recorded.Add(1)
	return nil
}

// deliver is found on the stack by withinDeliver.
//
//go:noinline
func (r *Recorder) deliver(ctx context.Context, e immutable.Event) error {
	r.inside.Add(1)
	defer r.inside.Add(-1)
	return r.to.Append(ctx, e)
}

// maxFrames is how far up withinDeliver looks.
const maxFrames = 256

// withinDeliver says whether this goroutine is in deliver. It is only asked while somebody is.
func withinDeliver() bool {
	var pcs [maxFrames]uintptr
	for _, pc := range pcs[:runtime.Callers(3, pcs[:])] {
		if f := runtime.FuncForPC(pc - 1); f != nil && f.Name() == deliverName {
			return true
		}
	}
	return false
}

const deliverName = "github.com/tree-of-life-system/immutable/capture.(*Recorder).deliver"

// Limits of an event that is recorded in part.
const (
	reducedMessage = 4 << 10
	reducedValue   = 4 << 10
	reducedTotal   = 32 << 10
)

// reduce is e with what surely fits an entry.
func reduce(e immutable.Event, why *immutable.FieldError) immutable.Event {
	out := immutable.Event{Level: e.Level, Message: Text(e.Message, reducedMessage), Metadata: immutable.Fields{}, EventTime: e.EventTime, IdempotencyKey: e.IdempotencyKey}
	if out.Level >= immutable.NumLevels {
		out.Level = immutable.Error
	}
	if year := e.EventTime.Year(); year < 0 || year > 9999 {
		out.EventTime = out.EventTime.UTC().AddDate(-year, 0, 0)
	}
	total := 0
	omitted := []string{}
	if len(e.RawMetadata) > 0 {
		var members map[string]json.RawMessage
		_ = json.Unmarshal(e.RawMetadata, &members) // without members nothing is kept
		e.Metadata = make(immutable.Fields, len(members))
		for name, value := range members {
			e.Metadata[name] = value
		}
	}
	names := make([]string, 0, len(e.Metadata))
	for name := range e.Metadata {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value, err := encode(e.Metadata[name])
		if err != nil || len(value)+len(name) > reducedValue || total+len(value)+len(name) > reducedTotal {
			if len(omitted) < 100 {
				omitted = append(omitted, Text(name, 100))
			}
			continue
		}
		total += len(value) + len(name)
		out.Metadata[Text(name, reducedValue)] = json.RawMessage(value)
	}
	out.Metadata["captureReduced"] = map[string]any{"why": Text(why.Error(), 1000), "omitted": omitted}
	return out
}

// encode is json.Marshal for values of others, whose methods may panic.
func encode(v any) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, fmt.Errorf("its method panics: %v", p)
		}
	}()
	return json.Marshal(v)
}

// Background runs f beside the caller, so that what takes longer than a call may cost is not waited for; where maxBeside such
// functions run already, it runs f itself. Flush waits for f. A panic in f is told to OnError.
func (r *Recorder) Background(f func()) {
	guarded := func() {
		defer func() {
			if p := recover(); p != nil {
				r.failed.Add(1)
				if r.cfg.OnError != nil {
					r.cfg.OnError(fmt.Errorf("record: panic: %v", p))
				}
			}
		}()
		f()
	}
	select {
	case r.slots <- struct{}{}:
		go func() {
			defer func() { <-r.slots }()
			guarded()
		}()
	default:
		guarded()
	}
}

// Flush waits until everything that was recorded before the call is where the destination brings it: on the log's disk, or the
// server's. Whoever ends a program calls it, or closes the destination after it. ctx bounds the wait.
func (r *Recorder) Flush(ctx context.Context) error {
	if err := r.settled(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	if f, ok := r.to.(interface {
		Flush(ctx context.Context) error
	}); ok {
		return f.Flush(ctx)
	}
	return nil
}

// settled waits until the functions that run in Background have ended, by taking all their slots: meanwhile callers run theirs themselves.
func (r *Recorder) settled(ctx context.Context) error {
	select {
	case r.flushing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-r.flushing }()
	for range maxBeside {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Stats says what the Recorder has done so far.
func (r *Recorder) Stats() Stats {
	return Stats{r.recorded.Load(), r.failed.Load(), r.nested.Load(), r.reduced.Load()}
}
