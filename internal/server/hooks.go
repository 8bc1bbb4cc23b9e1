package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
	events "github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/hooks"
	"github.com/tree-of-life-system/immutable/internal/source"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func hookRoutes() []route {
	return []route{
		{Method: "POST", Pattern: "/hooks/{provider}/{tenant}/{log}", Access: signed, Body: true, ID: "takeWebhook", Handle: takeHook},
		{Method: "POST", Pattern: "/hooks/github-actions/{tenant}/{log}", Permission: tenant.PermAppend, Body: true, ID: "takeJobEvent", Handle: takeJob},
	}
}

// Limits of webhooks, whose senders have proven nothing while their bodies are read.
const (
	freeHook    = 64 << 10         // bytes of a body that need no share of Limits.HookMemory
	hookStep    = 1 << 20          // bytes of a share that are taken at a time, when they are needed
	hookTime    = 30 * time.Second // for a whole body: providers wait no longer
	hookBatch   = 4 << 20          // bytes of a large body that are appended at once
	firstGrowth = 16 << 10
)

// takeHook takes one delivery of a webhook. Who sends it is shown by its signature alone: the answer to a wrong one is the same
// whether there is such a source, log or tenant. It is answered with 200 when its entry is durable, and a repeat with the receipt of
// the first.
func takeHook(r *request) error {
	reg := r.s.o.Registry
	kind, tenantName, logName := r.PathValue("provider"), r.PathValue("tenant"), r.PathValue("log")
	if reg == nil || !slices.Contains(hooks.Kinds(), kind) {
		return fault("not-found", nothingHere)
	}
	candidates, err := reg.Candidates(tenantName, logName, kind)
	if err != nil {
		return err
	}
	owner := ""
	if len(candidates) > 0 {
		owner = tenantName
	}
	body, release, err := r.hookBody(owner)
	if err != nil {
		return err
	}
	defer release()
	if kind == hooks.Notion && !signedAtAll(r.Header) {
		return r.handshake(reg, tenantName, logName, body)
	}
	c, err := r.who(candidates, kind, body)
	if err != nil {
		return r.refuseHook(reg, candidates, kind, err, body)
	}
	h := &hook{r: r, reg: reg, source: c, kind: kind, body: body}
	receipt, err := h.take(tenantName, logName)
	if err != nil {
		return err
	}
	if c.Unconfirmed {
		if err := reg.Confirm(context.WithoutCancel(r.Context()), tenantName, c.ID); err != nil {
			r.s.o.Logger.Error("a source could not be confirmed; its token can still be shown", "tenant", tenantName, "source", c.ID, "error", err)
		}
	}
	out := appendReceipt(append(make([]byte, 0, 320), '{'), &receipt)
	return r.send(http.StatusOK, "application/json", append(out, "}\n"...))
}

func signedAtAll(h http.Header) bool { return len(h.Values("X-Notion-Signature")) > 0 }

// hookBody reads the body whole, once, within the memory that webhooks share. release gives that back.
func (r *request) hookBody(owner string) (data []byte, release func(), err error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, nil, fault("unsupported-encoding", "a webhook is signed as it is: without Content-Encoding")
	}
	tooLarge := fault("too-large", fmt.Sprintf("the body of a webhook takes at most %d bytes", hooks.MaxBody))
	if r.ContentLength > hooks.MaxBody {
		return nil, nil, tooLarge
	}
	in := &patientBody{r: r, patient: r.limits().Patience, until: time.Now().Add(hookTime)}
	held := int64(0)
	release = func() {
		if held > 0 {
			r.s.hooks.give(owner, held)
		}
	}
	for {
		if len(data) > hooks.MaxBody {
			release()
			return nil, nil, tooLarge
		}
		if int64(len(data)) >= freeHook+held {
			if !r.s.hooks.try(owner, hookStep) {
				release()
				return nil, nil, fault("busy", "too many large webhooks are being read").after(time.Second)
			}
			held += hookStep
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, int(min(max(int64(len(data)), firstGrowth), freeHook+held-int64(len(data)))))
		}
		n, err := in.Read(data[len(data):min(cap(data), int(freeHook+held))])
		data = data[:len(data)+n]
		if err == io.EOF { //nolint:errorlint // the end itself; one that is wrapped is a body that was cut
			return data, release, nil
		}
		if err != nil {
			release()
			return nil, nil, bodyError(err)
		}
	}
}

// who is the source that signed the body. Without candidates it does the same work.
func (r *request) who(candidates []source.Candidate, kind string, body []byte) (*source.Candidate, error) {
	now := r.s.o.Now()
	var told error
	for i := range candidates {
		c := &candidates[i]
		_, err := hooks.Verify(kind, c.Scheme, r.Header, body, c.Keys, now)
		if err == nil {
			return c, nil
		}
		if refused, ok := errors.AsType[*hooks.Refused](err); told == nil || ok && refused.Reason != hooks.ReasonSignature {
			told = err
		}
	}
	if len(candidates) == 0 {
		_, told = hooks.Verify(kind, &hooks.Scheme{Header: "X-Signature"}, r.Header, body, nil, now)
	}
	return nil, told
}

const nobodySigned = "no source that may send here has signed this"

// refuseHook counts and answers a request that is not authentic. Only who had a good signature is told more.
func (r *request) refuseHook(reg *source.Registry, candidates []source.Candidate, kind string, err error, body []byte) error {
	refused, ok := errors.AsType[*hooks.Refused](err)
	if !ok {
		return err
	}
	reason, name := refused.Reason, ""
	if len(candidates) == 0 {
		reason = source.ReasonUnknown
	}
	if len(candidates) == 1 {
		name = candidates[0].ID
	}
	reg.Rejected(r.Context(), r.PathValue("tenant"), r.PathValue("log"), kind, name, reason, body[:min(len(body), maxSample)])
	switch reason {
	case hooks.ReasonStale, hooks.ReasonFuture:
		return fault("unauthenticated", refused.Msg)
	case hooks.ReasonMalformed:
		return fault("bad-json", refused.Msg)
	}
	return fault("unauthenticated", nobodySigned)
}

// handshake takes the verification token that Notion's first request brings, where a source waits for one.
func (r *request) handshake(reg *source.Registry, tenantName, logName string, body []byte) error {
	taken := false
	if token := hooks.NotionToken(r.Header, body); token != "" {
		from, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			from = "unknown"
		}
		if taken, err = reg.Handshake(context.WithoutCancel(r.Context()), tenantName, logName, token, from); err != nil {
			return err
		}
	}
	if !taken {
		reg.Rejected(r.Context(), tenantName, logName, hooks.Notion, "", hooks.ReasonSignature, nil) // a sample could be a token
		return fault("unauthenticated", nobodySigned)
	}
	return r.json(http.StatusOK, map[string]any{"verification": "taken; an administrator finds the token at the source"})
}

// hook is one authentic delivery on its way into the log.
type hook struct {
	r      *request
	reg    *source.Registry
	source *source.Candidate
	kind   string
	body   []byte

	log       *tenant.Log
	principal *tenant.Principal
}

// take appends the delivery, or finds what it repeats.
func (h *hook) take(tenantName, logName string) (immutable.Receipt, error) {
	r := h.r
	ctx := context.WithoutCancel(r.Context()) // as appends of the API: see given.append
	t, err := r.s.o.Installation.Tenant(tenantName)
	if err != nil {
		return immutable.Receipt{}, err
	}
	if h.log, err = t.Log(logName); err != nil {
		return immutable.Receipt{}, err
	}
	h.principal = &tenant.Principal{ID: "source:" + h.source.ID, Name: h.source.Title, Tenant: tenantName, Role: tenant.Writer, Logs: []string{logName}}
	d, err := hooks.Read(h.kind, h.source.Scheme, r.Header, h.body)
	if err != nil {
		if refused, ok := errors.AsType[*hooks.Refused](err); ok {
			h.reg.Rejected(ctx, tenantName, logName, h.kind, h.source.ID, refused.Reason, h.body[:min(len(h.body), maxSample)])
			return immutable.Receipt{}, fault("bad-json", refused.Msg)
		}
		return immutable.Receipt{}, err
	}
	if parents := r.Header.Values("Traceparent"); len(parents) == 1 {
		d.Event.TraceID, d.Event.SpanID = traceparent(parents[0])
	}
	d.Event.IdempotencyKey = "hook/" + h.source.ID + "/" + d.ID
	at, found, err := h.log.FindKey(ctx, d.Event.IdempotencyKey)
	if err != nil {
		return immutable.Receipt{}, err
	}
	if found {
		return h.repeated(ctx, at, d)
	}
	receipt, err := h.append(ctx, d)
	if conflict, ok := errors.AsType[*immutable.KeyConflictError](err); ok {
		return h.repeated(ctx, conflict.Index, d) // another attempt was quicker
	}
	if err == nil && !receipt.Repeated {
		h.reg.Seen(tenantName, logName, h.kind, h.source.ID, 1)
	}
	return receipt, err
}

// repeated answers a delivery whose id the log has: with the first receipt where it is the same one.
func (h *hook) repeated(ctx context.Context, at uint64, d *hooks.Delivery) (immutable.Receipt, error) {
	e, err := h.log.Entry(ctx, at)
	if err != nil {
		return immutable.Receipt{}, err
	}
	if !h.same(&e) {
		h.reg.Rejected(ctx, h.principal.Tenant, h.log.Name(), h.kind, h.source.ID, source.ReasonConflict, h.body[:min(len(h.body), maxSample)])
		return immutable.Receipt{}, fault("key-conflict", "the delivery "+strconv.Quote(d.ID)+" came before, with another body").with("index", at)
	}
	b, err := h.log.Block(ctx, at)
	if err != nil {
		return immutable.Receipt{}, err
	}
	return immutable.Receipt{Index: at, ID: e.ID, Hash: b.Hash, Leaf: e.Leaf, Timestamp: e.Timestamp, Repeated: true}, nil
}

// same compares the body with the one that the entry keeps.
func (h *hook) same(e *immutable.Entry) bool {
	var m struct {
		Raw       *string `json:"raw"`
		Raw64     *string `json:"raw64"`
		RawSHA256 string  `json:"rawSha256"`
	}
	if json.Unmarshal(e.Metadata, &m) != nil {
		return false
	}
	switch {
	case m.Raw != nil:
		return hooks.Same(h.kind, []byte(*m.Raw), h.body)
	case m.Raw64 != nil:
		raw, err := base64.StdEncoding.DecodeString(*m.Raw64)
		return err == nil && bytes.Equal(raw, h.body)
	}
	return m.RawSHA256 == h.digest()
}

func (h *hook) digest() string {
	sum := sha256.Sum256(h.body)
	return hex.EncodeToString(sum[:])
}

// append writes the entry of a delivery, with its body. A body that has no place in it is written first, in entries of its own, each
// under a key of its own: if that is interrupted, the next attempt goes on where it ended. The delivery is in the log when its own
// entry is.
func (h *hook) append(ctx context.Context, d *hooks.Delivery) (immutable.Receipt, error) {
	whole, err := events.Keep(&d.Event, h.body)
	if err != nil {
		d.Reduce()
		if whole, err = events.Keep(&d.Event, h.body); err != nil {
			return immutable.Receipt{}, err
		}
	}
	if !whole {
		parts := hooks.Split(h.body)
		first, err := h.parts(ctx, d, parts)
		if err != nil {
			return immutable.Receipt{}, err
		}
		d.Event.Metadata[hooks.KeyParts], d.Event.Metadata[hooks.KeyFirst] = len(parts), first
		if _, err := events.Keep(&d.Event, h.body); err != nil { // again, for these take room too
			return immutable.Receipt{}, err
		}
	}
	receipts, err := h.log.AppendAs(ctx, h.principal, d.Event)
	if err != nil {
		return immutable.Receipt{}, err
	}
	return receipts[0], nil
}

// parts writes a large body, and says where its first part is.
func (h *hook) parts(ctx context.Context, d *hooks.Delivery, parts [][]byte) (first uint64, err error) {
	digest := h.digest()
	var batch []immutable.Event
	size := 0
	for i, part := range parts {
		f := immutable.Fields{
			events.KeySource: map[string]any{"provider": h.kind}, hooks.KeyDelivery: map[string]any{"id": d.ID}, hooks.KeyPart: i + 1, hooks.KeyParts: len(parts),
		}
		if !events.Raw(f, part, 0) {
			return 0, fmt.Errorf("part %d of a body of %d bytes has no place in an entry", i+1, len(h.body))
		}
		f[hooks.KeyWhole] = digest
		batch = append(batch, immutable.Event{
			Level: d.Event.Level, Message: fmt.Sprintf("part %d of %d of a webhook's body", i+1, len(parts)), Metadata: f,
			IdempotencyKey: fmt.Sprintf("hook/%s/%s/%d", h.source.ID, digest, i+1),
		})
		if size += len(part); size < hookBatch && i < len(parts)-1 {
			continue
		}
		receipts, err := h.log.AppendAs(ctx, h.principal, batch...)
		if err != nil {
			return 0, err
		}
		if i+1 == len(batch) { // it was the first batch
			first = receipts[0].Index
		}
		batch, size = nil, 0
	}
	return first, nil
}
