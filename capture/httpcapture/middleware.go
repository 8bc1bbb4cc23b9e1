// Package httpcapture records the requests that an HTTP server answers ([New]) and that a program makes ([NewTransport], with a ready
// profile for AI models) in an Immutable log.
//
//	h := httpcapture.New(rec, httpcapture.Config{User: whoIsIt})
//	http.ListenAndServe(addr, h(mux))
//	c := &http.Client{Transport: httpcapture.NewTransport(rec, nil, httpcapture.TransportConfig{AI: &httpcapture.AI{}})}
//
// Of a request its method, path, query, status, size, duration, addresses and trace are recorded; headers and bodies only where that
// is asked for, and never the values of secrets, see [capture.Redaction].
package httpcapture

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
	"github.com/tree-of-life-system/immutable/event"
)

// Config says what the middleware records. The zero value works.
type Config struct {
	// User says who asks, once the request was answered: from the context that it was answered with, say. Nil, and a nil Actor, leave it
	// out. Handlers further in call SetActor instead.
	User func(*http.Request) *event.Actor

	// Skip names requests that are not recorded: health checks, say.
	Skip func(*http.Request) bool

	// Level says the level of a request by its status: nil is SECURITY for 401 and 403, ERROR from 500 on, and INFO.
	Level func(status int) immutable.Level

	// Kind is that of the events: empty is event.KindWeb.
	Kind event.Kind

	// Path says the path that is recorded, for paths that hold secrets. Nil is the request's own.
	Path func(*http.Request) string

	// TrustedProxies are the addresses of proxies before this server. For a request from one of them, the client is the last address in
	// X-Forwarded-For that is not one of them; without them, that header, which anybody can send, is not looked at.
	TrustedProxies []netip.Prefix

	// RequestHeaders and ResponseHeaders are the headers that are recorded.
	RequestHeaders, ResponseHeaders []string

	// RequestBody and ResponseBody are how many bytes of a body are recorded, at most MaxBody; 0 is none. JSON and forms are recorded without the
	// values of secrets, other text as it is; what was cut or is no text cannot be redacted, and is recorded as size and SHA-256 only.
	RequestBody, ResponseBody int
}

// MaxBody is the most that is recorded of a body: two of them fit an entry.
const MaxBody = 16 << 10

// Limits of what is recorded of a request.
const (
	maxPath    = 2 << 10
	maxQuery   = 4 << 10
	maxHeader  = 1 << 10
	maxHeaders = 50
	maxHops    = 32 // addresses in X-Forwarded-For, from its end
)

// middleware is the handler that New makes.
type middleware struct {
	rec  *capture.Recorder
	cfg  Config
	next http.Handler
}

// New returns what puts the recording before a handler. A panic of the handler is recorded and goes on. The event is recorded when the
// handler returns, with what it has written until then.
//
// The http.ResponseWriter that the handler gets is an http.Flusher, http.Hijacker, http.Pusher and io.ReaderFrom as far as the server's
// own is, and http.ResponseController reaches it.
func New(rec *capture.Recorder, cfg Config) func(http.Handler) http.Handler {
	cfg.RequestBody, cfg.ResponseBody = min(max(cfg.RequestBody, 0), MaxBody), min(max(cfg.ResponseBody, 0), MaxBody)
	if cfg.Kind == "" {
		cfg.Kind = event.KindWeb
	}
	return func(next http.Handler) http.Handler { return &middleware{rec, cfg, next} }
}

// served is one request on its way through the middleware.
type served struct {
	context.Context // of the request; it is the Value of actorKey as well
	actor           atomic.Pointer[event.Actor]

	m        *middleware
	r        *http.Request // as the handler got it
	w        response
	started  time.Time
	body     *tap // of the request; nil if it is not recorded
	finished bool
}

type actorKey struct{}

// Value finds the request that is being recorded, for SetActor.
func (s *served) Value(key any) any {
	if _, ok := key.(actorKey); ok {
		return s
	}
	return s.Context.Value(key)
}

// SetActor says who makes the request whose context it is, and reports whether the request is being recorded. The last call counts;
// Config.User is asked only where there was none.
func SetActor(ctx context.Context, a event.Actor) bool {
	s, ok := ctx.Value(actorKey{}).(*served)
	if ok {
		s.actor.Store(&a)
	}
	return ok
}

// ServeHTTP implements http.Handler.
func (m *middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.cfg.Skip != nil && m.cfg.Skip(r) {
		m.next.ServeHTTP(w, r)
		return
	}
	s := &served{Context: r.Context(), m: m, started: time.Now()}
	s.r = r.WithContext(s)
	if m.cfg.RequestBody > 0 && r.Body != nil && r.Body != http.NoBody {
		s.body = newTap(m.cfg.RequestBody)
		s.r.Body = &tapReader{ReadCloser: r.Body, tap: s.body}
	}
	s.w.ResponseWriter = w
	if m.cfg.ResponseBody > 0 {
		s.w.tap = newTap(m.cfg.ResponseBody)
	}
	defer s.end()
	m.next.ServeHTTP(wrap(&s.w), s.r)
	s.finished = true
}

// end records the request, also one whose handler panics or ends its goroutine, and goes on with the panic.
func (s *served) end() {
	if s.finished {
		s.record(nil)
		return
	}
	v := recover()
	if v == nil {
		s.record(immutable.Fields{"type": "runtime.Goexit"})
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
		s.record(immutable.Fields{"type": "http.ErrAbortHandler"})
	} else {
		s.record(capture.PanicFields(v))
	}
	panic(v)
}

// record writes the event. failed is what is known of a handler that did not return.
func (s *served) record(failed immutable.Fields) {
	took := time.Since(s.started)
	status := s.w.status
	if status == 0 && failed == nil {
		status = http.StatusOK
	}
	red := s.m.rec.Redaction()
	path := s.r.URL.Path
	if s.m.cfg.Path != nil {
		path = s.m.cfg.Path(s.r)
	}
	shape := event.Shape{
		Kind: s.m.cfg.Kind, Action: event.ActionHTTPRequest, Actor: s.who(), Outcome: outcome(status, failed != nil),
		Request: &event.Request{
			ID: capture.Text(s.r.Header.Get("X-Request-Id"), 128), Method: capture.Text(s.r.Method, 32), Path: capture.Text(path, maxPath),
			Status: status, DurationMS: milliseconds(took),
		},
	}
	shape.Request.TraceID, shape.Request.SpanID = trace(s.r.Header)
	shape.Source = s.m.source(s.r)
	o := meta.New()
	defer o.Free()
	o.Shape(&shape)
	o.Open("http")
	o.Text("host", capture.Text(s.r.Host, maxHeader))
	o.Text("proto", s.r.Proto)
	o.Text("query", capture.Text(red.Query(s.r.URL.RawQuery), maxQuery))
	o.Text("route", capture.Text(s.r.Pattern, maxPath))
	o.Int("requestBytes", s.r.ContentLength)
	o.Count("responseBytes", s.w.bytes)
	o.True("hijacked", s.w.hijacked)
	if s.r.TLS != nil {
		o.True("tls", true)
	}
	headers(o, "requestHeaders", s.r.Header, s.m.cfg.RequestHeaders, red)
	headers(o, "responseHeaders", s.w.ResponseWriter.Header(), s.m.cfg.ResponseHeaders, red)
	s.body.write(o, "requestBody", s.r.Header.Get("Content-Type"), s.r.Header.Get("Content-Encoding"), red)
	s.w.tap.write(o, "responseBody", s.w.contentType, s.w.contentEncoding, red)
	o.Close()
	if failed != nil {
		o.Any("panic", failed)
	}
	_ = s.m.rec.Append(s.Context, immutable.Event{ // the error was told to OnError
		Level: s.m.level(status, failed != nil), Message: shape.Request.Method + " " + shape.Request.Path, RawMetadata: o.Bytes(), EventTime: s.started,
		TraceID: shape.Request.TraceID, SpanID: shape.Request.SpanID,
	})
}

func (s *served) who() *event.Actor {
	a := s.actor.Load()
	if a == nil && s.m.cfg.User != nil {
		a = s.m.cfg.User(s.r)
	}
	if a == nil {
		return nil
	}
	return &event.Actor{
		Type: capture.Text(a.Type, 64), ID: capture.Text(a.ID, 512), Name: capture.Text(a.Name, 512), Email: capture.Text(a.Email, 512), Session: capture.Text(a.Session, 512),
	}
}

func (m *middleware) level(status int, failed bool) immutable.Level {
	switch {
	case failed:
		return immutable.Error
	case m.cfg.Level != nil:
		return m.cfg.Level(status)
	}
	return levelOf(status)
}

func levelOf(status int) immutable.Level {
	switch {
	case status >= 500:
		return immutable.Error
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return immutable.Security
	}
	return immutable.Info
}

func outcome(status int, failed bool) event.Outcome {
	switch {
	case failed || status >= 500:
		return event.OutcomeFailure
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return event.OutcomeDenied
	case status >= 400:
		return event.OutcomeFailure
	case status == 0:
		return event.OutcomeUnknown
	}
	return event.OutcomeSuccess
}

// milliseconds is a duration to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// source is where a request came from.
func (m *middleware) source(r *http.Request) *event.Source {
	src := &event.Source{UserAgent: capture.Text(r.UserAgent(), maxHeader), Provider: "http"}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil { // a unix socket, or a test's
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			src.Host = capture.Text(host, 255)
		}
		return src
	}
	addr := peer.Addr().Unmap()
	src.Port = int(peer.Port())
	if client := m.forwarded(addr, r.Header["X-Forwarded-For"]); client != addr {
		addr, src.Port = client, 0
	}
	src.IP = addr.WithZone("").String()
	return src
}

func (m *middleware) trusts(a netip.Addr) bool {
	for _, p := range m.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// forwarded is the client of a request from peer: each address in X-Forwarded-For was put there by the one behind it, and is believed
// as long as that is a trusted proxy.
func (m *middleware) forwarded(peer netip.Addr, lines []string) netip.Addr {
	if len(lines) == 0 || !m.trusts(peer) {
		return peer
	}
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for rest != "" {
			last := rest
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				last, rest = rest[at+1:], rest[:at]
			} else {
				rest = ""
			}
			a, ok := hop(strings.TrimSpace(last))
			if hops++; !ok || hops > maxHops {
				return peer
			}
			if peer = a; !m.trusts(a) {
				return a
			}
		}
	}
	return peer
}

// hop reads an address as proxies write it, perhaps with a port.
func hop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if p, err := netip.ParseAddrPort(s); err == nil {
		return p.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// trace reads W3C Trace Context; both are empty where there is none, or it is not as the specification wants it.
func trace(h http.Header) (traceID, spanID string) {
	lines := h["Traceparent"]
	if len(lines) != 1 {
		return "", ""
	}
	v := lines[0]
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || !lowerHex(v[:2]) || v[:2] == "ff" || !lowerHex(v[3:35]) || !lowerHex(v[36:52]) || !lowerHex(v[53:55]) {
		return "", ""
	}
	if v[:2] == "00" && len(v) != 55 || len(v) > 55 && v[55] != '-' {
		return "", ""
	}
	if strings.Trim(v[3:35], "0") == "" || strings.Trim(v[36:52], "0") == "" {
		return "", ""
	}
	return v[3:35], v[36:52]
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// headers writes the headers that were asked for.
func headers(o *meta.Object, name string, h http.Header, names []string, red *capture.Redaction) {
	if len(names) == 0 {
		return
	}
	out := map[string]string{}
	for _, n := range names[:min(len(names), maxHeaders)] {
		values := h.Values(n)
		switch {
		case len(values) == 0:
		case red.Secret(n):
			out[strings.ToLower(n)] = capture.Redacted
		default:
			out[strings.ToLower(n)] = capture.Text(red.Location(strings.Join(values, ", ")), maxHeader)
		}
	}
	if len(out) > 0 {
		o.Any(name, out)
	}
}
