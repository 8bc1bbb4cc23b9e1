package httpcapture

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
	"github.com/tree-of-life-system/immutable/event"
)

// TransportConfig says what is recorded of the requests that a program makes. The zero value works.
type TransportConfig struct {
	// Actor says on whose behalf a request is made. Nil: whoever makes the request that is being answered, see SetActor.
	Actor func(*http.Request) *event.Actor

	// Skip names requests that are not recorded.
	Skip func(*http.Request) bool

	// Level says the level by the status, 0 where there was no answer. Nil is ERROR for 0 and from 500 on, SECURITY for 401 and 403, and INFO.
	Level func(status int) immutable.Level

	// RequestHeaders, ResponseHeaders, RequestBody and ResponseBody are as those of Config.
	RequestHeaders, ResponseHeaders []string
	RequestBody, ResponseBody       int

	// AI is the profile for the APIs of AI models. Nil has none.
	AI *AI
}

// Transport is an http.RoundTripper that records. NewTransport makes it.
type Transport struct {
	rec  *capture.Recorder
	base http.RoundTripper
	cfg  TransportConfig
}

// NewTransport returns a Transport that makes its requests by base; nil is http.DefaultTransport. A request is recorded when the body of
// its answer was read to its end, is closed, or its context ends, whichever comes first; one without an answer at once.
func NewTransport(rec *capture.Recorder, base http.RoundTripper, cfg TransportConfig) *Transport {
	if base == nil {
		base = http.DefaultTransport
	}
	cfg.RequestBody, cfg.ResponseBody = min(max(cfg.RequestBody, 0), MaxBody), min(max(cfg.ResponseBody, 0), MaxBody)
	return &Transport{rec, base, cfg}
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// made is one request on its way.
type made struct {
	t       *Transport
	r       *http.Request
	resp    *http.Response // nil where there was no answer
	err     error
	started time.Time
	first   time.Duration // until the answer's header
	out, in *tap          // bodies; nil if they are not recorded
	talk    *talk         // with a model; nil if it is none

	once sync.Once

	mu    sync.Mutex // guards what follows, as a body may be closed while it is read
	bytes int64      // of the answer
	how   string     // how the answer's body ended: "" at its end
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.cfg.Skip != nil && t.cfg.Skip(r) {
		return t.base.RoundTrip(r)
	}
	m := &made{t: t, r: r, started: time.Now()}
	if t.cfg.AI != nil && t.cfg.AI.is(r) {
		m.talk = newTalk(t.cfg.AI)
	}
	send := r
	if r.Body != nil && r.Body != http.NoBody && (t.cfg.RequestBody > 0 || m.talk != nil) {
		own := *r // a RoundTripper does not change the request
		own.Body = r.Body
		if t.cfg.RequestBody > 0 {
			m.out = newTap(t.cfg.RequestBody)
			own.Body = &tapReader{own.Body, m.out}
		}
		if m.talk != nil {
			own.Body = &tapReader{own.Body, m.talk.asked}
		}
		send = &own
	}
	resp, err := t.base.RoundTrip(send)
	m.first = time.Since(m.started)
	m.resp, m.err = resp, err
	if err != nil || resp.Body == nil || resp.StatusCode == http.StatusSwitchingProtocols { // the connection is the caller's now
		m.end("")
		return resp, err
	}
	if t.cfg.ResponseBody > 0 {
		m.in = newTap(t.cfg.ResponseBody)
	}
	body := &answer{ReadCloser: resp.Body, m: m}
	if r.Context().Done() != nil {
		body.stop = context.AfterFunc(r.Context(), func() { m.end("cancelled") })
	}
	resp.Body = body
	return resp, nil
}

// answer is the body of an answer.
type answer struct {
	io.ReadCloser
	m    *made
	stop func() bool // ends the watch on the request's context; may be nil
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	m := a.m
	m.mu.Lock()
	m.bytes += int64(n)
	m.mu.Unlock()
	if m.in != nil {
		_, _ = m.in.Write(p[:n])
	}
	if m.talk != nil {
		_, _ = m.talk.answered.Write(p[:n])
	}
	switch {
	case errors.Is(err, io.EOF):
		a.end("")
	case err != nil:
		a.end("broken")
	}
	return n, err
}

func (a *answer) Close() error {
	err := a.ReadCloser.Close()
	how := "closed"
	if n := a.m.resp.ContentLength; n >= 0 && a.m.passed() == n {
		how = "" // there was nothing more
	}
	a.end(how)
	return err
}

func (a *answer) end(how string) {
	if a.stop != nil {
		a.stop()
	}
	a.m.end(how)
}

func (m *made) passed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

// end records the request, once.
func (m *made) end(how string) {
	m.once.Do(func() {
		took := time.Since(m.started)
		m.mu.Lock()
		m.how = how
		m.mu.Unlock()
		if m.talk == nil {
			m.record(took)
			return
		}
		// What a model was asked and said is read beside the caller.
		m.t.rec.Background(func() { m.record(took) })
	})
}

func (m *made) record(took time.Duration) {
	red := m.t.rec.Redaction()
	u := m.r.URL
	status := 0
	if m.resp != nil {
		status = m.resp.StatusCode
	}
	shape := event.Shape{
		Kind: event.KindAPI, Action: event.ActionHTTPCall, Actor: m.actor(), Outcome: outcome(status, m.err != nil || m.how == "broken"),
		Target:  &event.Target{Type: "host", ID: capture.Text(u.Host, maxHeader)},
		Request: &event.Request{Method: capture.Text(m.r.Method, 32), Path: capture.Text(u.Path, maxPath), Status: status, DurationMS: milliseconds(took)},
	}
	if shape.Request.Method == "" {
		shape.Request.Method = http.MethodGet
	}
	if m.err != nil {
		shape.Reason = capture.Text(redactError(m.err, m.r, red), maxHeader)
	}
	shape.Request.TraceID, shape.Request.SpanID = trace(m.r.Header)
	if s, ok := m.r.Context().Value(actorKey{}).(*served); ok && shape.Request.TraceID == "" {
		shape.Request.TraceID, shape.Request.SpanID = trace(s.r.Header)
	}
	if m.talk != nil {
		shape.Action = event.ActionModelRequest
	}
	o := meta.New()
	defer o.Free()
	o.Shape(&shape)
	o.Open("http")
	o.Text("scheme", u.Scheme)
	o.Text("query", capture.Text(red.Query(u.RawQuery), maxQuery))
	o.Int("requestBytes", m.r.ContentLength)
	if m.resp != nil {
		o.Text("proto", m.resp.Proto)
		o.Float("firstMs", milliseconds(m.first))
		o.Count("responseBytes", m.passed())
		headers(o, "responseHeaders", m.resp.Header, m.t.cfg.ResponseHeaders, red)
		m.in.write(o, "responseBody", m.resp.Header.Get("Content-Type"), m.resp.Header.Get("Content-Encoding"), red)
	}
	o.Text("bodyEnded", m.how)
	headers(o, "requestHeaders", m.r.Header, m.t.cfg.RequestHeaders, red)
	m.out.write(o, "requestBody", m.r.Header.Get("Content-Type"), m.r.Header.Get("Content-Encoding"), red)
	o.Close()
	if m.talk != nil {
		o.Any("model", m.talk.fields(m.resp))
	}
	_ = m.t.rec.Append(m.r.Context(), immutable.Event{ // the error was told to OnError
		Level: m.level(status), Message: shape.Request.Method + " " + shape.Target.ID + shape.Request.Path, RawMetadata: o.Bytes(), EventTime: m.started,
		TraceID: shape.Request.TraceID, SpanID: shape.Request.SpanID,
	})
}

func (m *made) level(status int) immutable.Level {
	switch {
	case m.t.cfg.Level != nil:
		return m.t.cfg.Level(status)
	case status == 0:
		return immutable.Error
	}
	return levelOf(status)
}

func (m *made) actor() *event.Actor {
	if m.t.cfg.Actor != nil {
		return m.t.cfg.Actor(m.r)
	}
	if s, ok := m.r.Context().Value(actorKey{}).(*served); ok {
		return s.who()
	}
	return nil
}

// redactError is an error's text, which may have the address in it.
func redactError(err error, r *http.Request, red *capture.Redaction) string {
	text := err.Error()
	if q := r.URL.RawQuery; q != "" {
		text = strings.ReplaceAll(text, q, red.Query(q))
	}
	if u := r.URL.User; u != nil {
		text = strings.ReplaceAll(text, u.String()+"@", "")
	}
	return text
}
