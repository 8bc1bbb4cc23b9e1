package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/intake"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

const (
	// ingestBatch is how many lines are committed together at most; what is ready is committed at once.
	ingestBatch = 4096
	// ingestAhead is how many chunks of input are read while a batch is committed.
	ingestAhead = 2
	// ingestBytes is about how much of the answer is held before it is sent, while more input is ready.
	ingestBytes = 256 << 10
)

// ingestion is one NDJSON body on its way into the log. Its memory does not grow with the body: what is read ahead, one batch and
// the answers to it. While a batch is committed the next lines are read and parsed.
type ingestion struct {
	r      *request
	given  given
	body   *patientBody
	reader *intake.Reader
	quiet  bool // lines that were accepted are only counted

	chunks   []*intake.Chunk // that the records of the batch refer to
	lines    []line
	events   []immutable.Event // of those lines that are events
	receipts []immutable.Receipt
	refused  []error // for each event, or nil

	out                []byte // answers that were not sent yet
	accepted, rejected uint64
	ended              error // why the rest is not taken
}

// line is one line of the batch.
type line struct {
	number uint64
	event  int // its place in events, -1 where it is none
	err    error
}

// ingest takes events line by line, and answers each line in its order as soon as it is durable or refused, and the whole by a last
// line. A line that is refused does not stop the others.
func ingest(r *request, g given) error {
	in := &ingestion{r: r, given: g}
	switch r.param("receipts") {
	case "", "all":
	case "errors":
		in.quiet = true
	default:
		return fault("bad-parameter", "receipts: want all, or errors for lines that were refused only")
	}
	name := r.tenant.Name()
	if !r.s.ingests.try(name, 1) {
		return fault("busy", "too many NDJSON bodies are being read").after(time.Second)
	}
	defer r.s.ingests.give(name, 1)
	in.body = &patientBody{r: r, patient: r.limits().Idle}
	unpacked, done, err := in.body.unpack()
	if err != nil {
		return err
	}
	_ = r.control().EnableFullDuplex() // HTTP/2 always is
	in.reader = intake.NewReader(unpacked, intake.Options{Events: true, Workers: 1, Ahead: ingestAhead})
	defer done()
	defer in.stop()
	r.w.Header().Set("Content-Type", "application/x-ndjson")
	r.w.Header().Set("X-Accel-Buffering", "no") // a proxy that holds back either direction would hold back receipts
	in.run()
	if in.ended != nil && r.w.status == 0 && !errors.Is(in.ended, context.Canceled) {
		in.leaveConnection()
		return in.ended // nothing was answered yet: the whole is refused
	}
	in.finish()
	return nil
}

// leaveConnection has an HTTP/1 connection closed behind the answer, unless the body's end was read. In full duplex net/http would
// take up the connection again after a body that it failed to pass over, and what is left of that body for the next request.
func (in *ingestion) leaveConnection() {
	if in.r.ProtoMajor == 1 && !in.body.ended() {
		in.r.w.Header().Set("Connection", "close")
	}
}

// stop ends the reading, and waits until nobody reads the body any more: net/http takes it back when the handler returns.
func (in *ingestion) stop() {
	in.reader.Close()
	in.body.stop()
	for c := range in.reader.Chunks() {
		c.Ready()
	}
	if in.r.ProtoMajor == 1 {
		in.body.linger()
		in.r.extendWrite() // for the end of the answer
	}
}

func (in *ingestion) run() {
	for in.ended == nil {
		c := in.wait()
		if c == nil {
			return
		}
		for c != nil {
			in.take(c)
			if c = nil; len(in.lines) < ingestBatch {
				c = in.reader.Poll()
			}
		}
		in.commit()
		in.answer()
	}
}

// wait returns the next records, or nil when there are none: then ended says why, if it is not the body's end.
func (in *ingestion) wait() *intake.Chunk {
	valid := time.NewTicker(recheck)
	defer valid.Stop()
	for in.ended == nil {
		select {
		case <-valid.C: // a stream that pauses ends with its token too
			if err := in.r.stillValid(); err != nil {
				in.ended = in.r.problem(err)
			}
			continue
		case c, ok := <-in.reader.Chunks():
			if ok {
				c.Ready()
				return c
			}
			if _, err := in.reader.Next(); !errors.Is(err, io.EOF) {
				in.ended = bodyError(err)
			}
		case <-in.r.s.stopping.Done():
			in.ended = fault("shutting-down", "the server is shutting down: lines without an answer were not taken")
		}
		return nil
	}
	return nil
}

// take adds a chunk's records to the batch.
func (in *ingestion) take(c *intake.Chunk) {
	in.chunks = append(in.chunks, c)
	for i := range c.Records {
		rec := &c.Records[i]
		l := line{number: rec.Number, event: -1, err: rec.Err}
		if rec.Err == nil {
			l.event = len(in.events)
			in.given.fill(&rec.Event, rec.Number)
			in.events = append(in.events, rec.Event)
		}
		in.lines = append(in.lines, l)
	}
}

// commit appends the batch's events. A chunk of very short lines is more than one.
func (in *ingestion) commit() {
	in.receipts = resize(in.receipts, len(in.events))
	in.refused = resize(in.refused, len(in.events))
	if err := in.r.s.o.Installation.StillValid(in.r.principal); err != nil { // revoked means from now on
		in.ended = in.r.problem(err)
	}
	for from := 0; from < len(in.events); from += ingestBatch {
		in.append(from, min(from+ingestBatch, len(in.events)))
	}
}

// resize returns n zero values.
func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	s = s[:n]
	clear(s)
	return s
}

// append commits the events [from, to) in one batch. If the log refuses them, it halves them until those are found that are
// at fault: refusing costs no sync.
func (in *ingestion) append(from, to int) {
	var waited time.Duration
	for in.ended == nil {
		receipts, err := in.given.append(in.r, in.events[from:to])
		if err == nil {
			copy(in.receipts[from:to], receipts)
			return
		}
		quota, isQuota := errors.AsType[*tenant.QuotaError](err)
		if isQuota && quota.RetryAfter > 0 && waited+quota.RetryAfter <= in.r.limits().QuotaWait {
			waited += quota.RetryAfter
			in.sleep(quota.RetryAfter)
			continue
		}
		switch {
		case !ofEvents(err):
			in.ended = in.r.problem(err)
		case to-from > 1:
			middle := (from + to) / 2
			in.append(from, middle)
			in.append(middle, to)
			return
		}
		for i := from; i < to; i++ {
			in.refused[i] = err
		}
		return
	}
	for i := from; i < to; i++ {
		in.refused[i] = in.ended
	}
}

// ofEvents says whether an append was refused for one of its events, or for being too many at once, so that others may pass.
func ofEvents(err error) bool {
	p := known(err)
	if p == nil {
		return false
	}
	switch p.kind.code {
	case "bad-event", "key-conflict", "too-large", "quota", "forbidden":
		return !errors.Is(err, tenant.ErrSuspended)
	}
	return false
}

// sleep waits for the quota. What the client sends meanwhile waits with it.
func (in *ingestion) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-in.r.Context().Done():
		in.ended = fault("bad-body", "the client went away")
	case <-in.r.s.stopping.Done():
		in.ended = fault("shutting-down", "the server is shutting down: this line was not taken")
	}
}

// answer writes the batch's answers and lets go of it.
func (in *ingestion) answer() {
	for i := range in.lines {
		l := &in.lines[i]
		err := l.err
		if err == nil {
			err = in.refused[l.event]
		}
		switch {
		case err != nil:
			in.rejected++
			in.out = in.appendProblem(strconv.AppendUint(append(in.out, `{"line":`...), l.number, 10), err)
		default:
			in.accepted++
			if in.quiet {
				continue
			}
			in.out = strconv.AppendUint(append(in.out, `{"line":`...), l.number, 10)
			in.out = appendReceipt(append(in.out, ','), &in.receipts[l.event])
			in.out = append(in.out, "}\n"...)
		}
		if len(in.out) >= ingestBytes {
			in.send()
		}
	}
	in.send()
	clear(in.events) // let go of the strings
	in.lines, in.events = in.lines[:0], in.events[:0]
	for i, c := range in.chunks {
		c.Release()
		in.chunks[i] = nil
	}
	in.chunks = in.chunks[:0]
}

// appendProblem ends an answer that is a problem.
func (in *ingestion) appendProblem(dst []byte, err error) []byte {
	p := known(err)
	if p == nil {
		p = eventError(err) // of the parser
	}
	body, merr := json.Marshal(p)
	if merr != nil {
		body = []byte("{}")
	}
	return append(append(append(dst, `,"error":`...), body...), "}\n"...)
}

// send gives the client what is answered. A client that does not take it for Limits.Patience is cut off.
func (in *ingestion) send() {
	if len(in.out) == 0 {
		return
	}
	if in.r.w.status == 0 {
		in.leaveConnection()
	}
	in.r.extendWrite()
	_, err := in.r.w.Write(in.out)
	if err == nil {
		err = in.r.control().Flush()
	}
	if in.out = in.out[:0]; cap(in.out) > 2*ingestBytes {
		in.out = nil
	}
	if err != nil && in.ended == nil {
		in.ended = context.Canceled // there is nobody to tell
	}
}

// finish sends the last line.
func (in *ingestion) finish() {
	if errors.Is(in.ended, context.Canceled) {
		panic(http.ErrAbortHandler)
	}
	in.out = strconv.AppendBool(append(in.out, `{"done":`...), in.ended == nil)
	in.out = strconv.AppendUint(append(in.out, `,"accepted":`...), in.accepted, 10)
	in.out = strconv.AppendUint(append(in.out, `,"rejected":`...), in.rejected, 10)
	in.out = strconv.AppendUint(append(in.out, `,"size":`...), in.r.log.Size(), 10)
	if in.ended == nil {
		in.out = append(in.out, "}\n"...)
	} else {
		in.out = in.appendProblem(in.out, in.ended)
	}
	in.send()
}
