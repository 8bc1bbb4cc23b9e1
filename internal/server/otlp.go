package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/otlp"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func otlpRoutes() []route {
	return []route{
		{Method: "POST", Pattern: "/otlp/{tenant}/{log}/v1/logs", Permission: tenant.PermAppend, Body: true, ID: "exportLogs", Handle: exportLogs, Fail: failExport},
		{Method: "POST", Pattern: "/v1/logs", Access: ownLog, Permission: tenant.PermAppend, Body: true, ID: "exportLogsOwn", Handle: exportLogs, Fail: failExport},
		{Method: "POST", Pattern: otlp.GRPCPath, Access: ownLog, Permission: tenant.PermAppend, Body: true, ID: "exportLogsGRPC", Handle: exportLogsGRPC, Fail: failGRPC},
	}
}

// The media types of OTLP over HTTP.
const (
	kindProtobuf = "application/x-protobuf"
	kindJSON     = "application/json"
)

// exportLogs takes an export of OpenTelemetry logs over HTTP. All of it is durable when it answers, or it is an error and the
// exporter sends it again: partial success is never answered.
func exportLogs(r *request) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != kindProtobuf && kind != kindJSON {
		return fault("unsupported-media-type", "the Content-Type must be "+kindProtobuf+" or "+kindJSON)
	}
	body, release, err := r.readBody()
	if err != nil {
		return err
	}
	defer release()
	message := body
	if kind == kindJSON {
		if message, err = otlp.FromJSON(body); err != nil {
			return r.refuseExport(err, body)
		}
	}
	if err := appendExport(r, body, message); err != nil {
		return err
	}
	if kind == kindJSON {
		return r.send(http.StatusOK, kindJSON, []byte("{}"))
	}
	return r.send(http.StatusOK, kindProtobuf, nil)
}

// appendExport makes an export durable, batch by batch, each all or nothing. body is what was sent, message the same as protobuf.
//
// Exporters send again what was not answered in time. A batch's first event therefore carries a key made of the sender and the
// body's digest: within the log's window the same bytes of the same sender are the same export, and not appended again. Events
// that have an id of their own are known by that, and events without any time are as many things as they are sent.
func appendExport(r *request, body, message []byte) error {
	export, err := otlp.Parse(message)
	if err != nil {
		return r.refuseExport(err, body)
	}
	key := ""
	if export.Timed {
		sum := sha256.New()
		sum.Write([]byte(r.principal.ID + "\x00"))
		sum.Write(body)
		key = "otlp:" + hex.EncodeToString(sum.Sum(nil))
		done, err := r.s.exporting.take(r.Context(), r.tenant.Name()+"/"+r.log.Name()+"/"+key)
		if err != nil {
			return fault("busy", "the same export is being appended").after(time.Second)
		}
		defer done()
	}
	for b := range export.Batches() {
		if key == "" && len(b.Events) < export.Records {
			return fault("too-large", "records without a time cannot be told from others like them when they are sent again, so at most "+
				strconv.Itoa(otlp.BatchRecords)+" of them are taken at once: give them times, or send smaller batches")
		}
		if err := appendBatch(r, b, key); err != nil {
			return err
		}
	}
	if export.Records > 0 {
		r.s.o.Sources.Seen(r.tenant.Name(), r.log.Name(), otlp.Provider, r.principal.ID, export.Records)
	}
	return nil
}

// appendBatch appends one batch, or finds that it was.
func appendBatch(r *request, b otlp.Batch, key string) error {
	for i := range b.Events {
		e := &b.Events[i]
		if key == "" || e.IdempotencyKey != "" {
			continue
		}
		e.IdempotencyKey = key + "/" + strconv.Itoa(b.Number)
		if _, there, err := r.log.FindKey(context.WithoutCancel(r.Context()), e.IdempotencyKey); err != nil || there {
			return err
		}
		break
	}
	_, err := (&given{}).append(r, b.Events)
	return err
}

// refuseExport counts what is no export, and says so.
func (r *request) refuseExport(err error, sample []byte) error {
	code, reason := "bad-json", "malformed"
	if errors.Is(err, otlp.ErrTooLarge) {
		code, reason = "too-large", "too-large"
	}
	r.s.o.Sources.Rejected(r.Context(), r.tenant.Name(), r.log.Name(), otlp.Provider, r.principal.ID, reason, sample[:min(len(sample), maxSample)])
	return fault(code, err.Error())
}

// exportStatus says how an exporter hears of a problem. What a sender can do nothing about, and what is this server's fault, is to
// be sent again: an exporter drops what it is told is bad.
func exportStatus(p *problem, err error) (status int, s otlp.Status) {
	s = otlp.Status{Code: otlp.InvalidArgument, Message: p.kind.code + ": " + p.detail, Retry: p.wait}
	if q, ok := errors.AsType[*tenant.QuotaError](err); ok {
		switch {
		case q.RetryAfter > 0:
		case q.What == "totalBytes":
			s.Retry = time.Minute // until somebody makes room
		default:
			return http.StatusRequestEntityTooLarge, s
		}
		s.Code = otlp.ResourceExhausted
		return http.StatusTooManyRequests, s
	}
	switch status = p.kind.status; status {
	case http.StatusUnauthorized:
		s.Code = otlp.Unauthenticated
	case http.StatusForbidden:
		s.Code = otlp.PermissionDenied
	case http.StatusNotFound:
		s.Code = otlp.NotFound
	case http.StatusConflict:
		s.Code = otlp.AlreadyExists
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusInsufficientStorage:
		s.Code, status, s.Retry = otlp.Unavailable, http.StatusServiceUnavailable, max(s.Retry, time.Second)
	}
	return status, s
}

// failExport answers with a google.rpc.Status in the media type of the request.
func failExport(r *request, p *problem, err error) {
	status, s := exportStatus(p, err)
	if s.Retry > 0 {
		r.w.Header().Set("Retry-After", strconv.FormatInt(seconds(s.Retry), 10))
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == kindProtobuf {
		_ = r.send(status, kindProtobuf, s.Protobuf()) // send returns nil
		return
	}
	_ = r.send(status, kindJSON, s.JSON())
}

// ownLogHeader names the log, as tenant/log, where the address does not.
const ownLogHeader = "Immutable-Log"

// ownLogKey is the context's value with the log of a listener that has one, as tenant/log.
type ownLogKey struct{}

// findOwnLog is the log of a request whose address names none: that of its header, the only one that the principal has, or its
// listener's. What of them the principal may not know of is not found, as everywhere.
func findOwnLog(r *http.Request, p *tenant.Principal) (tenantName, logName string, err error) {
	given := r.Header.Values(ownLogHeader)
	if len(given) > 1 {
		return "", "", fault("bad-parameter", ownLogHeader+": stands twice")
	}
	name, _ := r.Context().Value(ownLogKey{}).(string)
	switch {
	case len(given) == 1:
		name = given[0]
	case p.Tenant != "" && len(p.Logs) == 1:
		name = p.Tenant + "/" + p.Logs[0]
	}
	tenantName, logName, ok := strings.Cut(name, "/")
	if !ok {
		return "", "", fault("bad-parameter", ownLogHeader+": name the log as tenant/log; this token is not for one log alone")
	}
	return tenantName, logName, nil
}

// oneAtATime keeps two requests for the same thing from going on beside each other.
type oneAtATime struct {
	mu   sync.Mutex // guards what follows
	busy map[string]chan struct{}
}

// take waits until nobody has the name. It has as many names as there are requests.
func (o *oneAtATime) take(ctx context.Context, name string) (done func(), err error) {
	for {
		o.mu.Lock()
		other := o.busy[name]
		if other == nil {
			if o.busy == nil {
				o.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			o.busy[name] = mine
			o.mu.Unlock()
			return func() {
				o.mu.Lock()
				delete(o.busy, name)
				o.mu.Unlock()
				close(mine)
			}, nil
		}
		o.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
