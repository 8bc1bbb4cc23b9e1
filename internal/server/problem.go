package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// kind is one kind of problem. Its code is part of the API: it is in every answer, docs/http-api.md explains it, and it never
// changes its meaning.
type kind struct {
	code   string
	status int
	title  string
	text   string // GET /errors/{code}: when it happens, and what to do
}

// kinds are all problems that there are; a test compares them with docs/http-api.md.
var kinds = []kind{
	{"bad-path", 400, "the path is refused", "A path has letters, digits and / - . _ only, no empty segments, no dot segments and nothing escaped, and at most 1,024 bytes. Spell it so."},
	{"bad-parameter", 400, "a parameter is refused", "A query parameter or header has a value that it cannot have, stands twice, or is none that this address takes. detail names it and says what it can be."},
	{"bad-query", 400, "the query has a mistake", "The query language is in docs/search.md. detail says what is wrong, offset is the byte at which it stands in the query."},
	{"bad-json", 400, "the body is not the JSON that is wanted", "The body, or a line of NDJSON, is not one JSON value, a member stands twice, or there is one that is not known. detail says where."},
	{"bad-export", 400, "the export cannot be read", "A CSV file needs a header with columns for id, amount and currency, amounts without separators; JSON is objects of Stripe's API. detail says which line."},
	{"bad-event", 400, "the event is refused", "The log's format has no place for a value. field names the member, offset the byte in its value (where it is known), event the element of an array, from 0. Nothing was written."},
	{"bad-settings", 400, "the settings are refused", "A name or a setting has a value that it cannot have. field names it, detail says what it can be. Nothing was changed."},
	{"bad-encoding", 400, "the body cannot be unpacked", "The body is not what its Content-Encoding says, or was cut off. Nothing that was not acknowledged is in the log."},
	{"bad-body", 400, "the body cannot be read", "The body ended before its length, or its chunks are broken. Nothing that was not acknowledged is in the log; send it again, with an Idempotency-Key."},
	{"unauthenticated", 401, "there is no valid token or certificate", "Send Authorization: Bearer with an API token or a JWT, or use a client certificate that the server knows. Tokens expire and are revoked; an administrator makes new ones."},
	{"forbidden", 403, "this is not allowed", "The role, or the levels, of this token do not allow it. GET /api/v1/whoami says what they are."},
	{"not-found", 404, "not found", "There is no such thing, or these credentials may not know of it. The answer is the same for both."},
	{"method-not-allowed", 405, "this address does not take the method", "The header Allow lists the methods that it takes."},
	{"timeout", 408, "the body came too slowly", "The client paused for too long while it sent the body, or took too long for all of it. Send it again, with an Idempotency-Key."},
	{"slow-reader", 408, "the events were not read in time", "A stream was ended because its client did not take the events as fast as it must. Come back with Last-Event-ID, or with a narrower filter: nothing is missed."},
	{"exists", 409, "it exists already", "A tenant or log of this name exists. Names are not used twice."},
	{"conflict", 409, "it cannot be done now", "What was asked does not fit the present state. detail says why."},
	{"key-conflict", 409, "the idempotency key has another event", "The log has this idempotency key with other content; index is the entry that has it. A new event needs a new key."},
	{"retired", 410, "the entries are retired", "Entries of that age are not kept here any more: a tombstone in the log says so. oldest is the first index that is there. Ask from there on; an administrator knows where the others went."},
	{"too-large", 413, "it is too large", "One entry takes at most 65,535 bytes as JSON (or what the tenant's quota says), one array 65,536 events and 16 MiB, one JSON body 16 MiB. NDJSON may be of any length."},
	{"expands-too-much", 413, "the body unpacks to too much", "A compressed body may unpack to 256 times its size, and a JSON body to 16 MiB. Send it with less compression, or in parts."},
	{"unsupported-media-type", 415, "the media type is not taken", "detail says which Content-Type this address takes."},
	{"unsupported-encoding", 415, "the content encoding is not taken", "Content-Encoding may be gzip or zstd, where the address says so, and one of them only."},
	{"quota", 429, "the tenant's quota is used up", "detail says which quota. Retry-After, and retryAfter in seconds, say when there is room again, if waiting helps."},
	{"internal", 500, "the server has a fault", "The server's own log has it under the id that detail gives."},
	{"corrupt", 500, "the log is damaged", "What is on the disk is not what was written; nothing unproven is returned. An administrator should run a verification: `immutable verify` names the place, `immutable repair` mends it from a backup."},
	{"busy", 503, "the server has too much to do", "Too many bodies are being read. Come back after Retry-After seconds."},
	{"shutting-down", 503, "the server is shutting down", "What was acknowledged is durable. Send the rest again, to the server that takes its place, with an Idempotency-Key."},
	{"uncertain", 503, "it is uncertain whether it was written", "The event may be in the log or not. Send it again with the same Idempotency-Key: it is written once."},
	{"log-unavailable", 503, "the log cannot be used", "The log could not be opened, is open for reading only, or its writer has stopped. Others are not affected. An administrator finds the reason in the log's settings and in the server's own log."},
	{"issuer-unavailable", 503, "the token cannot be checked now", "The server needs the keys of the token's issuer, and does not get them. Come back after Retry-After seconds, or use an API token."},
	{"record-failed", 503, "the access could not be recorded", "This tenant demands that reads are on record before they are answered, and the record could not be written: its system log is full or damaged."},
	{"not-ready", 503, "the service is not ready", "detail says what is wrong."},
	{"no-space", 507, "no space is left", "The disk is full, or the tenant's quota of bytes is. Nothing of this was written; it can be sent again as soon as there is room."},
}

const nothingHere = "there is no such thing, or these credentials may not know of it"

// problem is an answer by RFC 9457. It is an error, so that handlers return it.
type problem struct {
	kind   *kind
	detail string
	extra  map[string]any
	wait   time.Duration // Retry-After, where it is more than zero
}

// fault makes a problem of a kind that is in kinds.
func fault(code, detail string) *problem {
	for i := range kinds {
		if kinds[i].code == code {
			return &problem{kind: &kinds[i], detail: detail}
		}
	}
	panic("no kind of problem " + code)
}

// with adds a member.
func (p *problem) with(name string, value any) *problem {
	if p.extra == nil {
		p.extra = map[string]any{}
	}
	p.extra[name] = value
	return p
}

// after says when it may be tried again.
func (p *problem) after(d time.Duration) *problem {
	p.wait = d
	return p.with("retryAfter", seconds(d))
}

// seconds is d in whole seconds, at least one: clients that come back too early are turned away again.
func seconds(d time.Duration) int64 { return max(1, int64((d+time.Second-1)/time.Second)) }

func (p *problem) Error() string { return p.kind.code + ": " + p.detail }

// MarshalJSON is the body of application/problem+json.
func (p *problem) MarshalJSON() ([]byte, error) {
	m := map[string]any{"type": "/errors/" + p.kind.code, "title": p.kind.title, "status": p.kind.status, "detail": p.detail, "code": p.kind.code}
	maps.Copy(m, p.extra)
	return json.Marshal(m)
}

// fail answers with the problem that err is. Where the answer has begun it cannot be taken back: the connection is cut, so that
// nobody takes what was sent for the whole.
func (r *request) fail(err error) {
	p := r.problem(err)
	if r.w.status != 0 {
		if !r.gone() {
			r.s.o.Logger.Warn("an answer was cut short", "route", r.pattern(), "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	if r.route != nil && r.route.Fail != nil {
		r.route.Fail(r, p, err)
		return
	}
	r.failProblem(p)
}

// failProblem is fail for an answer that has not begun.
func (r *request) failProblem(p *problem) {
	h := r.w.Header()
	for _, name := range []string{"Content-Encoding", "ETag", "Last-Modified", "Content-Disposition"} {
		h.Del(name)
	}
	if p.wait > 0 {
		h.Set("Retry-After", strconv.FormatInt(seconds(p.wait), 10))
	}
	if p.kind.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="immutable"`)
	}
	h.Set("Cache-Control", "no-store")
	body, merr := json.Marshal(p)
	if merr != nil {
		r.s.o.Logger.Error("a problem cannot be encoded", "code", p.kind.code, "error", merr)
		body = nil
	}
	_ = r.send(p.kind.status, "application/problem+json", append(body, '\n')) // send returns nil
}

// problem says what an error is to the client. What is nobody's business outside goes to the server's log, under an id.
func (r *request) problem(err error) *problem {
	if p := known(err); p != nil {
		if p.kind.status == http.StatusInternalServerError || p.kind.code == "record-failed" || p.kind.code == "log-unavailable" {
			r.s.o.Logger.Error("a request failed", "route", r.pattern(), "code", p.kind.code, "error", err)
		}
		return p
	}
	if r.gone() && errors.Is(err, context.Canceled) {
		return fault("bad-body", "the client went away")
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	r.s.o.Logger.Error("a request failed", "route", r.pattern(), "id", hex.EncodeToString(id[:]), "error", err)
	return fault("internal", "the server's log has it as "+hex.EncodeToString(id[:]))
}

// known is the problem that an error of the packages below is, or nil.
func known(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if _, ok := errors.AsType[*tenant.UnavailableError](err); ok { // before what it wraps, which is for the server's log
		return fault("log-unavailable", "the log, or its tenant, could not be opened; GET on the log's settings and the server's own log say why")
	}
	if errors.Is(err, tenant.ErrNotKept) { // before what it wraps: it is more than a record that is missing
		return fault("record-failed", tenant.ErrNotKept.Error()+": revoke it again, when the disk has room and can be written")
	}
	if _, ok := errors.AsType[*tenant.RecordError](err); ok {
		return fault("record-failed", "the access could not be recorded, and this tenant demands it")
	}
	if e, ok := errors.AsType[*tenant.AuthError](err); ok {
		return fault("unauthenticated", e.Msg)
	}
	if _, ok := errors.AsType[*access.IssuerError](err); ok {
		return fault("issuer-unavailable", "the issuer of this token cannot be asked for its keys now").after(5 * time.Second)
	}
	if errors.Is(err, tenant.ErrSuspended) {
		return fault("forbidden", "the tenant is suspended")
	}
	for _, c := range []struct {
		is   error
		code string
	}{
		{tenant.ErrUnauthenticated, "unauthenticated"},
		{tenant.ErrForbidden, "forbidden"},
		{tenant.ErrExists, "exists"},
		{immutable.ErrTooLarge, "too-large"},
		{immutable.ErrNoSpace, "no-space"},
		{immutable.ErrUncertain, "uncertain"},
	} {
		if errors.Is(err, c.is) {
			return fault(c.code, detailOf(c.code, err))
		}
	}
	if vfs.IsNoSpace(err) {
		return fault("no-space", detailOf("no-space", err))
	}
	if errors.Is(err, tenant.ErrNotFound) || errors.Is(err, immutable.ErrNotFound) {
		return fault("not-found", nothingHere)
	}
	if errors.Is(err, immutable.ErrReadOnly) || errors.Is(err, immutable.ErrWriterFailed) || errors.Is(err, immutable.ErrClosed) {
		return fault("log-unavailable", "the log cannot be used now; the server's own log says why")
	}
	if p := cursorProblem(err); p != nil {
		return p
	}
	return knownType(err)
}

// detailOf is the detail of a sentinel error: its text where that is made for callers, and a constant where it could say
// what exists.
func detailOf(code string, err error) string {
	switch code {
	case "unauthenticated":
		return "send Authorization: Bearer with a token that is valid"
	case "forbidden":
		return "this token's role or levels do not allow it"
	case "no-space":
		return "the disk is full: nothing of this was written"
	case "uncertain":
		return "it may be in the log or not: send it again with the same Idempotency-Key"
	}
	return err.Error()
}

// knownType is known for errors that are types.
func knownType(err error) *problem {
	if e, ok := errors.AsType[*tenant.QuotaError](err); ok {
		p := fault("quota", e.Error())
		if e.RetryAfter > 0 {
			return p.after(e.RetryAfter)
		}
		return p
	}
	if e, ok := errors.AsType[*tenant.NameError](err); ok {
		return fault("bad-settings", e.Error()).with("field", "name")
	}
	if e, ok := errors.AsType[*tenant.SettingsError](err); ok {
		return fault("bad-settings", e.Error()).with("field", e.Field)
	}
	if e, ok := errors.AsType[*immutable.KeyConflictError](err); ok {
		return fault("key-conflict", "another event has this idempotency key").with("index", e.Index).with("event", e.Event)
	}
	if e, ok := errors.AsType[*immutable.FieldError](err); ok {
		p := fault("bad-event", err.Error()).with("field", e.Field)
		if e.Offset >= 0 {
			p = p.with("offset", e.Offset)
		}
		return p
	}
	if e, ok := errors.AsType[*immutable.QueryError](err); ok {
		return fault("bad-query", e.Error()).with("offset", e.Offset)
	}
	if e, ok := errors.AsType[*immutable.RetiredError](err); ok {
		return fault("retired", fmt.Sprintf("entries %d to %d are retired", e.First, e.End-1)).with("oldest", e.End)
	}
	if _, ok := errors.AsType[*immutable.CorruptError](err); ok { // it names files: that is for the server's log
		return fault("corrupt", "what is on the disk is not what was written; run a verification")
	}
	return nil
}

// bodyError is the problem with reading a body.
func bodyError(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fault("timeout", "the next bytes of the body did not come in time")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fault("bad-body", "the body ended too early")
	}
	return fault("bad-body", "the body cannot be read")
}
