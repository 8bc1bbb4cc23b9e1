package server

import (
	"errors"
	"fmt"
	"mime"
	"net/http"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/cloudevents"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func cloudEventRoutes() []route {
	return []route{
		{Method: "POST", Pattern: logPath + "/cloudevents", Permission: tenant.PermAppend, Body: true, ID: "appendCloudEvents", Handle: appendCloudEvents},
	}
}

// appendCloudEvents takes one event, structured or binary, or a batch, which is all or nothing. Its source and id are its idempotency
// key: sent again it gets its first receipt.
func appendCloudEvents(r *request) error {
	given, err := r.given()
	if err != nil {
		return err
	}
	if given.key != "" {
		return fault("bad-parameter", "Idempotency-Key: an event's source and id are its key")
	}
	kind, _, kindErr := mime.ParseMediaType(r.Header.Get("Content-Type"))
	batch := kindErr == nil && kind == cloudevents.Batched
	structured := kindErr == nil && kind == cloudevents.Structured
	if !batch && !structured && !cloudevents.Binary(r.Header) {
		return fault("unsupported-media-type", "want "+cloudevents.Structured+" or "+cloudevents.Batched+", or the headers of an event in binary mode: ce-specversion, ce-id, ce-source, ce-type")
	}
	body, release, err := r.readBody()
	if err != nil {
		return err
	}
	defer release()
	var events []immutable.Event
	add := func(e *cloudevents.Event) error {
		ev, err := e.Event()
		if err == nil {
			given.fill(&ev, 0)
			events = append(events, ev)
		}
		return err
	}
	switch {
	case batch:
		err = cloudevents.ParseBatch(body, func(_ int, e *cloudevents.Event) error { return add(e) })
	default:
		var e *cloudevents.Event
		if structured {
			e, err = cloudevents.Parse(body)
		} else {
			e, err = cloudevents.FromRequest(r.Header, body)
		}
		if err == nil {
			err = add(e)
		}
	}
	if err != nil {
		return r.refuseCloudEvents(err, body)
	}
	receipts, err := given.append(r, events)
	if err != nil {
		return err
	}
	if len(receipts) > 0 {
		r.s.o.Sources.Seen(r.tenant.Name(), r.log.Name(), cloudevents.Provider, r.principal.ID, len(receipts))
	}
	if batch {
		return r.sendReceipts(receipts)
	}
	out := appendReceipt(append(make([]byte, 0, 320), '{'), &receipts[0])
	return r.send(http.StatusCreated, "application/json", append(out, "}\n"...))
}

// sendReceipts answers a batch.
func (r *request) sendReceipts(receipts []immutable.Receipt) error {
	out := append(make([]byte, 0, 32+320*len(receipts)), `{"receipts":[`...)
	for i := range receipts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendReceipt(append(out, '{'), &receipts[i]), '}')
	}
	return r.send(http.StatusCreated, "application/json", append(out, "]}\n"...))
}

// refuseCloudEvents counts what is no event, and says why.
func (r *request) refuseCloudEvents(err error, sample []byte) error {
	reason := "malformed"
	if errors.Is(err, immutable.ErrTooLarge) {
		reason = "too-large"
	}
	r.s.o.Sources.Rejected(r.Context(), r.tenant.Name(), r.log.Name(), cloudevents.Provider, r.principal.ID, reason, sample[:min(len(sample), maxSample)])
	if e, ok := errors.AsType[*cloudevents.Error](err); ok {
		p := fault("bad-event", err.Error())
		if e.Attribute != "" {
			return p.with("field", e.Attribute)
		}
		return p
	}
	return fmt.Errorf("read the event: %w", err)
}
