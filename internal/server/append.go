package server

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/intake"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func writeRoutes() []route {
	return []route{
		{Method: "POST", Pattern: logPath + "/entries", Permission: tenant.PermAppend, Query: []string{"receipts"}, Body: true, ID: "appendEntries", Handle: appendEntries},
	}
}

// maxHeaderKey is the most bytes of the header Idempotency-Key, which leaves room for the position behind it.
const maxHeaderKey = 200

// appendEntries takes one event, an array of events, or a stream of them.
func appendEntries(r *request) error {
	given, err := r.given()
	if err != nil {
		return err
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	switch kind {
	case "application/x-ndjson", "application/jsonl":
		return ingest(r, given)
	case "application/json":
		if r.values.Has("receipts") {
			return fault("bad-parameter", "receipts: is for application/x-ndjson only")
		}
		return appendJSON(r, given)
	}
	return fault("unsupported-media-type", "the Content-Type must be application/json or application/x-ndjson")
}

// given is what a request's headers say of its events.
type given struct {
	key         string // Idempotency-Key
	trace, span string // of traceparent
}

// given reads Idempotency-Key and traceparent. A traceparent that is malformed is as good as none, its standard says.
func (r *request) given() (g given, err error) {
	keys := r.Header.Values("Idempotency-Key")
	if len(keys) > 1 {
		return g, fault("bad-parameter", "Idempotency-Key: stands twice")
	}
	if len(keys) == 1 {
		g.key = keys[0]
		if g.key == "" || len(g.key) > maxHeaderKey || strings.ContainsFunc(g.key, func(c rune) bool { return c < ' ' || c > '~' }) {
			return g, fault("bad-parameter", fmt.Sprintf("Idempotency-Key: want 1 to %d characters of printable ASCII", maxHeaderKey))
		}
	}
	if parents := r.Header.Values("Traceparent"); len(parents) == 1 {
		g.trace, g.span = traceparent(parents[0])
	}
	return g, nil
}

// traceparent reads W3C Trace Context: version, trace id, parent id, flags; later versions may have more behind.
func traceparent(h string) (trace, span string) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(h) < length || h[2] != '-' || h[35] != '-' || h[52] != '-' || h[:2] == "ff" || h[:2] == "00" && len(h) != length || len(h) > length && h[length] != '-' {
		return "", ""
	}
	for _, part := range []string{h[:2], h[3:35], h[36:52], h[53:55]} {
		if _, err := hex.DecodeString(part); err != nil || strings.ToLower(part) != part {
			return "", ""
		}
	}
	if strings.Trim(h[3:35], "0") == "" || strings.Trim(h[36:52], "0") == "" {
		return "", ""
	}
	return h[3:35], h[36:52]
}

// fill gives an event what it does not say itself. position is its place in the request, from 1; 0 where it is the only one.
func (g *given) fill(e *immutable.Event, position uint64) {
	if g.key != "" && e.IdempotencyKey == "" {
		e.IdempotencyKey = g.key
		if position > 0 {
			e.IdempotencyKey = g.key + "/" + strconv.FormatUint(position, 10)
		}
	}
	if g.trace != "" && e.TraceID == "" && e.SpanID == "" && e.Producer == nil { // a producer has signed what it left empty
		e.TraceID, e.SpanID = g.trace, g.span
	}
}

// append commits events for the request's principal. Where it sends again what the log has, in another trace, as programs do that
// trace each attempt, the events get the trace of the first attempt: the header is about the request, and no part of what is
// repeated.
//
// It does not stop waiting when the client goes away. The events are in the log's hands, which is quick or fails; and a client that
// has ended its side of the connection still reads.
func (g *given) append(r *request, events []immutable.Event) ([]immutable.Receipt, error) {
	ctx := context.WithoutCancel(r.Context())
	for attempt := 0; ; attempt++ {
		if err := r.stillValid(); err != nil {
			return nil, err
		}
		receipts, err := r.log.AppendAs(ctx, r.principal, events...)
		conflict, ok := errors.AsType[*immutable.KeyConflictError](err)
		if !ok || attempt == maxTraces || !g.traced(&events[conflict.Event]) {
			return receipts, err
		}
		first, ferr := r.log.Entry(ctx, conflict.Index)
		if ferr != nil || first.TraceID == g.trace && first.SpanID == g.span {
			return nil, err
		}
		for i := conflict.Event; i < len(events); i++ {
			if g.traced(&events[i]) {
				events[i].TraceID, events[i].SpanID = first.TraceID, first.SpanID
			}
		}
	}
}

// maxTraces is how many earlier attempts' traces one batch may be made of.
const maxTraces = 4

// traced says whether the event has its trace from the header.
func (g *given) traced(e *immutable.Event) bool {
	return g.trace != "" && e.TraceID == g.trace && e.SpanID == g.span
}

// appendJSON takes one event, or an array of them that is one batch, all or nothing.
func appendJSON(r *request, g given) error {
	data, release, err := r.readBody()
	if err != nil {
		return err
	}
	defer release()
	data = bytes.Trim(data, " \t\r\n")
	if len(data) > 0 && data[0] == '[' {
		return appendArray(r, g, data)
	}
	events := make([]immutable.Event, 1)
	if err := intake.ParseEvent(data, &events[0]); err != nil {
		return eventError(err)
	}
	g.fill(&events[0], 0)
	receipts, err := g.append(r, events)
	if err != nil {
		return err
	}
	out := appendReceipt(append(make([]byte, 0, 320), '{'), &receipts[0])
	return r.send(http.StatusCreated, "application/json", append(out, "}\n"...))
}

func appendArray(r *request, g given, data []byte) error {
	var events []immutable.Event
	err := intake.EachEvent(data, func(element []byte) error {
		if len(events) == immutable.MaxBatchEntries {
			return fault("too-large", fmt.Sprintf("an array has at most %d events; send it in parts, or as NDJSON", immutable.MaxBatchEntries))
		}
		events = append(events, immutable.Event{})
		if err := intake.ParseEvent(element, &events[len(events)-1]); err != nil {
			return eventError(err).with("event", len(events)-1)
		}
		g.fill(&events[len(events)-1], uint64(len(events)))
		return nil
	})
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if err != nil {
		return fault("bad-json", err.Error())
	}
	receipts, err := g.append(r, events)
	if err != nil {
		return arrayError(err, events)
	}
	return r.sendReceipts(receipts)
}

// arrayError says which element the log refused.
func arrayError(err error, events []immutable.Event) error {
	if _, ok := errors.AsType[*immutable.FieldError](err); ok {
		for i := range events {
			if intake.Check(&events[i]) != nil {
				return known(err).with("event", i)
			}
		}
	}
	return err
}

// eventError is the problem with an event's JSON.
func eventError(err error) *problem {
	if p := known(err); p != nil {
		return p
	}
	return fault("bad-json", err.Error())
}
