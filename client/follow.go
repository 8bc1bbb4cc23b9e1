package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
)

const (
	maxEventLine = immutable.MaxEntryBytes + 1024 // bytes of a line of a stream: an entry with index and leaf hash
	// followBuffer is how many entries may wait for their caller; then the server waits, and cuts off who is too slow, after
	// which the stream goes on where it was.
	followBuffer = 1024
	// quietFor is how long a stream may be silent before it counts as broken: servers send a heartbeat every 15 seconds.
	quietFor = 60 * time.Second
)

// Follow returns the entries that the query selects, the oldest first, and then each new one as it is committed, without a gap
// or a duplicate, until ctx ends or the caller stops. Connections that break are made again. With pinned keys an entry is
// returned when a checkpoint covers it, at most a second or so after it was appended, verified as by Entries. Of the query Text,
// Levels and From count.
func (c *Client) Follow(ctx context.Context, q immutable.Query) iter.Seq2[immutable.Entry, error] {
	return func(yield func(immutable.Entry, error) bool) {
		if !q.Since.IsZero() || !q.Until.IsZero() || q.Limit != 0 || q.Reverse || q.Cursor != "" {
			yield(immutable.Entry{}, errors.New("follow: only Text, Levels and From can be asked of a stream"))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := &follower{c: c, q: q, next: q.From, entries: make(chan immutable.Entry, followBuffer)}
		failed := make(chan error, 1)
		go func() { failed <- f.run(ctx) }()
		for {
			batch, err := f.take(ctx, failed)
			if verr := c.verify(ctx, batch, nil, ^uint64(0), 0); verr != nil {
				batch, err = nil, verr
			}
			for i := range batch {
				if !yield(batch[i], nil) {
					return
				}
			}
			if err != nil {
				yield(immutable.Entry{}, err)
				return
			}
		}
	}
}

// Subscribe is Follow of everything from an index on.
func (c *Client) Subscribe(ctx context.Context, from uint64) iter.Seq2[immutable.Entry, error] {
	return c.Follow(ctx, immutable.Query{From: from})
}

// follower reads a stream, over as many connections as it takes.
type follower struct {
	c       *Client
	q       immutable.Query
	next    uint64 // entries before it were handed on, or are not selected
	id      string // Last-Event-ID
	retry   time.Duration
	entries chan immutable.Entry
}

// take waits for an entry and returns it with the others that are there. With an error what it returns comes before the error.
func (f *follower) take(ctx context.Context, failed <-chan error) (batch []immutable.Entry, err error) {
	select {
	case e := <-f.entries:
		batch = append(batch, e)
	case err = <-failed:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for err != nil || len(batch) < followBuffer { // after an error nothing is added, so this ends
		select {
		case e := <-f.entries:
			batch = append(batch, e)
		default:
			return batch, err
		}
	}
	return batch, err
}

// run reads until ctx ends or the server refuses for good. RetryFor counts anew whenever something has come.
func (f *follower) run(ctx context.Context) error {
	lost := f.c.now()
	for attempt := 0; ; attempt++ {
		came, err := f.connect(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if came {
			lost, attempt = f.c.now(), 0
		}
		if err == nil {
			err = io.ErrUnexpectedEOF // the server ended it, or something between
		}
		wait, again := f.c.again(err, attempt)
		if errors.As(err, new(*VerificationError)) || errors.As(err, new(*MisbehaviourError)) {
			again = false
		}
		if came {
			wait = max(wait, f.retry)
		}
		if !again || f.c.now().Add(wait).Sub(lost) > max(f.c.cfg.RetryFor, f.retry+maxPause) {
			return fmt.Errorf("follow: %w", err)
		}
		if err := f.c.pause(ctx, wait); err != nil {
			return err
		}
	}
}

// connect reads one connection to its end. came says whether anything came over it.
func (f *follower) connect(ctx context.Context) (came bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v := queryValues(&f.q)
	v.Set("from", strconv.FormatUint(f.next, 10))
	silence := time.AfterFunc(quietFor, func() { cancel(errors.New("the stream was silent for too long")) })
	defer silence.Stop()
	resp, err := f.c.exchange(ctx, &call{method: http.MethodGet, url: f.c.base + "/stream?" + v.Encode(), accept: "text/event-stream", lastID: f.id})
	if err != nil {
		return false, f.rolledBack(err)
	}
	defer resp.Body.Close()
	err = readEvents(resp.Body, func(ev *event) error {
		came = true
		silence.Reset(quietFor)
		return f.event(ctx, ev)
	}, func() { silence.Reset(quietFor) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return came, err
}

// rolledBack names what it is when a server says that it never had what it has sent.
func (f *follower) rolledBack(err error) error {
	if p, ok := errors.AsType[*Problem](err); ok && p.Code == "conflict" && f.id != "" {
		return &VerificationError{Index: int64(f.next) - 1, What: "the server has sent it, and now says that it has none: it was rolled back, or hides its end", Err: err}
	}
	return err
}

// event takes one event of the stream.
func (f *follower) event(ctx context.Context, ev *event) error {
	if ev.retry > 0 {
		f.retry = min(ev.retry, maxPause)
	}
	switch ev.kind {
	case "error":
		return streamProblem(ev.data)
	case "entry":
		e, err := parseEntry(ev.data)
		if err != nil {
			return err
		}
		if e.Index < f.next {
			return nil // shown before
		}
		if !filtered(&f.q) && len(f.c.cfg.Levels) == 0 && e.Index != f.next {
			return &VerificationError{Index: int64(f.next), What: fmt.Sprintf("it was left out of the stream: entry %d came", e.Index)}
		}
		select {
		case f.entries <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
		f.next = e.Index + 1
		f.id = strconv.FormatUint(e.Index, 10)
	default: // a heartbeat, which moves the id behind what is not selected
		n, err := strconv.ParseUint(ev.id, 10, 63)
		if behind := err == nil && n >= f.next; !behind {
			return nil // nothing new
		}
		if !filtered(&f.q) && len(f.c.cfg.Levels) == 0 {
			return &VerificationError{Index: int64(f.next), What: fmt.Sprintf("it was left out of the stream, which is behind entry %d", n)}
		}
		f.next, f.id = n+1, ev.id
	}
	return nil
}

// streamProblem is why a server ends a stream, as an error like that of an answer.
func streamProblem(data []byte) error {
	p := &Problem{Event: -1, offset: -1}
	var m struct {
		Status              int
		Code, Title, Detail string
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("the server ended the stream: %w", err)
	}
	p.Status, p.Code, p.Title, p.Detail = m.Status, m.Code, m.Title, m.Detail
	if p.Code == "slow-reader" {
		p.Status = http.StatusServiceUnavailable // it may be tried again
	}
	return p
}

// event is one server-sent event.
type event struct {
	id, kind string
	data     []byte
	retry    time.Duration
}

// readEvents reads a stream of events (text/event-stream) until it ends, take fails, or a line is too long. alive is called
// for whatever comes.
func readEvents(r io.Reader, take func(*event) error, alive func()) error {
	lines := bufio.NewReaderSize(r, maxEventLine)
	var ev event
	begun := false
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return &VerificationError{Index: -1, What: fmt.Sprintf("a line of the stream is longer than %d bytes", maxEventLine)}
		}
		if err != nil { // what was not ended by an empty line is no event
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		alive()
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 {
			if begun {
				if err := take(&ev); err != nil {
					return err
				}
			}
			ev, begun = event{data: ev.data[:0]}, false
			continue
		}
		begun = ev.field(line) || begun
	}
}

// field takes one line into the event; false for comments and what is not known.
func (ev *event) field(line []byte) bool {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "id":
		ev.id = string(value)
	case "event":
		ev.kind = string(value)
	case "data":
		ev.data = append(ev.data[:0], value...) // entries are one line
	case "retry":
		if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
			ev.retry = time.Duration(ms) * time.Millisecond
		}
	default:
		return false
	}
	return true
}
