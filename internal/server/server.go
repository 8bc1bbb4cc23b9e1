// Package server is the service's HTTP API: one table of routes, one place where a request is authorized, and handlers that
// know nothing of either. docs/http-api.md is its contract, openapi.json the same for programs.
//
// A request passes, in this order: path check, route, authentication, authorization, parameters, handler. Nothing that a
// handler does, and no answer that says what exists, comes before authorization.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/sink"
	"github.com/tree-of-life-system/immutable/internal/source"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Authenticator says who sends a request. access.Authenticator is the one that the service runs with. An error that is not
// tenant.ErrUnauthenticated means that it could not be told.
type Authenticator interface {
	Principal(r *http.Request) (*tenant.Principal, error)

	// SignIn begins a session for whom the token names; its cookie authenticates later requests. SignOut ends the request's.
	SignIn(r *http.Request, token string) (*tenant.Principal, *http.Cookie, error)
	SignOut(r *http.Request) *http.Cookie
}

// Options is what a server stands on.
type Options struct {
	Installation *tenant.Installation
	Auth         Authenticator
	Monitor      *monitor.Monitor // runs verifications; nil is not found
	Alerts       *alert.Manager   // rules, sinks and what is wrong now; nil is not found
	Sources      Observer         // hears of what foreign sources send; nil is Registry
	Registry     *source.Registry // which webhooks may send; nil is none
	Sinks        *sink.Manager    // where entries go on to; nil is not found

	Metrics       http.Handler // GET /metrics; nil is not found
	PublicMetrics bool         // /metrics needs no token
	LocalMetrics  bool         // nor where the request is for this host by a loopback address or as localhost
	// Ready says why the service is not ready, or nil; nil is always ready.
	Ready func(ctx context.Context) error
	// Observe hears of each request that was answered: the route's pattern, or "" where there is none. It may be nil.
	Observe func(method, pattern string, status int, took time.Duration)

	Logger *slog.Logger // nil is silent
	Limits Limits
	Now    func() time.Time // nil is time.Now
}

// Limits bound what a client can make the server hold. Zero values are the defaults.
type Limits struct {
	// Body is the most bytes of a JSON body, unpacked: 16 MiB. NDJSON has no limit: it is read line by line.
	Body int64
	// BodyMemory is the most bytes of all large JSON bodies and answers that are held at once: 128 MiB, a quarter of it by one tenant. Beyond
	// it requests wait for Patience.
	BodyMemory int64
	// HookMemory is the most bytes of large webhooks that are held at once: 128 MiB, a quarter of it by one tenant. Beyond it they are
	// told to come back.
	HookMemory int64
	// Ratio is how many times its size a compressed body may unpack to, beyond the first 4 MiB: 256.
	Ratio int64
	// Patience is how long a client may take for its next bytes, of a body that it sends or an answer that it reads: 30 s.
	Patience time.Duration
	// Idle is how long an NDJSON stream may pause between two lines: 5 min.
	Idle time.Duration
	// BodyTime is how long a whole JSON body may take: 2 min.
	BodyTime time.Duration
	// QuotaWait is how long an NDJSON stream waits for its tenant's quota before it rejects lines: 30 s.
	QuotaWait time.Duration
	// Ingests is how many NDJSON bodies are read at once: 256, a quarter of it by one tenant. The next one is told to come back.
	Ingests int64
	// Exports is how many exports are written at once: 32, a quarter of it by one tenant. The next one is told to come back.
	Exports int64
	// Searches is how many searches and counts run at once: two for each core, a quarter of it, or one, by one tenant. The next
	// one waits for Patience.
	Searches int64
	// Streams is how many streams there are at once, of all tenants: 10,000.
	Streams int
	// Heartbeat is how long a stream says nothing: 15 s.
	Heartbeat time.Duration
	// Slow is how long a stream's reader may take for some 128 KiB of events before it is sent away: 10 s. One that takes longer
	// than Patience loses its connection.
	Slow time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	if l.Body == 0 {
		l.Body = 16 << 20
	}
	if l.BodyMemory == 0 {
		l.BodyMemory = 128 << 20
	}
	if l.HookMemory == 0 {
		l.HookMemory = 128 << 20
	}
	if l.Ratio == 0 {
		l.Ratio = 256
	}
	if l.Ingests == 0 {
		l.Ingests = 256
	}
	if l.Exports == 0 {
		l.Exports = 32
	}
	if l.Searches == 0 {
		l.Searches = 2 * int64(runtime.GOMAXPROCS(0))
	}
	if l.Streams == 0 {
		l.Streams = 10_000
	}
	set(&l.Heartbeat, 15*time.Second)
	set(&l.Slow, 10*time.Second)
	set(&l.Patience, 30*time.Second)
	set(&l.Idle, 5*time.Minute)
	set(&l.BodyTime, 2*time.Minute)
	set(&l.QuotaWait, 30*time.Second)
	return l
}

// Server answers requests. Its methods may be called from any number of goroutines.
type Server struct {
	o       Options
	mux     *http.ServeMux // patterns only: which methods a pattern has is in the resources it leads to
	table   []route
	viewing sync.Mutex // one change of saved views at a time
	memory  *budget    // bytes of large JSON bodies and answers
	hooks   *budget    // bytes of large webhooks, which are apart: their senders have shown nothing yet
	ingests *budget    // NDJSON bodies that are being read
	exports *budget    // exports that are being written
	turns   *turns     // of those that read for long: the memory and the work of that are bounded

	searches *budget // searches and counts under way
	streams  *streams
	changes  sync.Mutex // one change of settings at a time: what a patch is applied to stays as it is until then

	exporting oneAtATime // exports of OpenTelemetry logs, by what they are

	stopping context.Context // ends when Shutdown begins
	stop     context.CancelFunc

	mu    sync.Mutex // guards what follows
	under int        // requests under way
	idle  chan struct{}
}

// New makes a server. It does not listen: it is an http.Handler.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.Sources == nil && o.Registry != nil:
		o.Sources = o.Registry
	case o.Sources == nil:
		o.Sources = noObserver{}
	}
	o.Limits = o.Limits.withDefaults()
	s := &Server{o: o, mux: http.NewServeMux(), table: routes(), memory: newBudget(o.Limits.BodyMemory), ingests: newBudget(o.Limits.Ingests)}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.exports, s.streams = newBudget(o.Limits.Exports), newStreams(s)
	s.turns = newTurns(2 * runtime.GOMAXPROCS(0))
	s.searches, s.hooks = newBudget(o.Limits.Searches), newBudget(o.Limits.HookMemory)
	resources := map[string]resource{}
	for i := range s.table {
		rt := &s.table[i]
		if resources[rt.Pattern] == nil {
			resources[rt.Pattern] = resource{}
			s.mux.Handle(rt.Pattern, resources[rt.Pattern])
		}
		resources[rt.Pattern][rt.Method] = rt
	}
	s.loadCatalogues()
	return s
}

// resource is what one pattern leads to: a route for each method. As the mux's handler it only says that it was found, so that
// the mux answers nothing by itself.
type resource map[string]*route

func (m resource) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.(*finder).found = m }

func (m resource) allow() string {
	methods := slices.Sorted(maps.Keys(m))
	if m[http.MethodGet] != nil {
		methods = append(methods, http.MethodHead)
	}
	return strings.Join(methods, ", ")
}

// finder is what the mux writes to. What it writes itself, its not found and its redirects, goes nowhere.
type finder struct {
	found  resource
	header http.Header
}

func (f *finder) Header() http.Header {
	if f.header == nil {
		f.header = http.Header{}
	}
	return f.header
}
func (*finder) Write(p []byte) (int, error) { return len(p), nil }
func (*finder) WriteHeader(int)             {}

// Shutdown tells streams to end, and waits until the requests under way have been answered, or ctx ends. The listener must be
// closed by its owner, first or at the same time: requests that still come are told to go elsewhere.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	s.mu.Lock()
	if s.under == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle, under := s.idle, s.under
	s.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %d requests under way: %w", under, context.Cause(ctx))
	}
}

func (s *Server) begin() (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under++
	return s.stopping.Err() == nil
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.under--; s.under == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	began := s.o.Now()
	up := s.begin()
	defer s.end()
	r := &request{Request: hr, s: s, w: reply{ResponseWriter: w}}
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint // a sentinel panic value of net/http, never wrapped
				panic(v)
			}
			s.o.Logger.Error("a handler panicked", "panic", fmt.Sprint(v), "route", r.pattern(), "stack", string(debug.Stack()))
			r.fail(errors.New("a handler panicked"))
		}
		if s.o.Observe != nil {
			s.o.Observe(hr.Method, r.pattern(), r.w.status, s.o.Now().Sub(began))
		}
	}()
	h := r.w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if !up {
		h.Set("Connection", "close")
		r.fail(fault("shutting-down", "the server is shutting down"))
		return
	}
	if err := s.serve(r); err != nil {
		r.fail(err)
	}
}

// serve finds the route and says who may pass. It is the only caller of a handler.
func (s *Server) serve(r *request) error {
	if err := checkPath(r.Request); err != nil {
		return err
	}
	var f finder
	s.mux.ServeHTTP(&f, r.Request) // sets the path's values
	if f.found == nil {
		return fault("not-found", nothingHere)
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if r.route = f.found[method]; r.route == nil {
		r.w.Header().Set("Allow", f.found.allow())
		return fault("method-not-allowed", "this address takes "+f.found.allow())
	}
	if err := s.authorize(r); err != nil {
		return err
	}
	if err := r.checkParameters(); err != nil {
		return err
	}
	return r.route.Handle(r)
}

// localHost says whether a request is for this host by an address that no name server can give to others' names: a page in a browser here
// reaches the listener under its own name, once that name resolves to a loopback address, and would read the answer.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

// authorize says who sends the request and whether they may, and opens the tenant and log of its path. It is the only place that
// decides: a name that does not exist, and one that the principal may not know of, leave it by the same error.
func (s *Server) authorize(r *request) error {
	switch r.route.Access {
	case public, signed:
		return nil
	case metricsAccess:
		if s.o.PublicMetrics || s.o.LocalMetrics && localHost(r.Host) {
			return nil
		}
	case tilesAccess:
		if r.Header.Get("Authorization") == "" && s.publicTiles(r) {
			return nil
		}
	}
	p, err := s.o.Auth.Principal(r.Request)
	if err != nil {
		return err
	}
	r.principal = p
	if r.route.Access == anyone {
		return nil
	}
	t, l := r.PathValue("tenant"), r.PathValue("log")
	if r.route.Access == ownLog {
		if t, l, err = findOwnLog(r.Request, p); err != nil {
			return err
		}
	}
	if err := p.Allow(r.route.Permission, t, l); err != nil {
		return err
	}
	return s.resolve(r, t, l)
}

// resolve opens what the path, or findOwnLog, names, for a principal that may.
func (s *Server) resolve(r *request, tenantName, logName string) (err error) {
	named := func(wildcard string) bool { return r.route.Access == ownLog || r.route.has(wildcard) }
	if !named("{tenant}") {
		return nil
	}
	if r.tenant, err = s.o.Installation.Tenant(tenantName); err != nil {
		return err
	}
	if !named("{log}") {
		return nil
	}
	if r.log, err = r.tenant.Log(logName); err == nil {
		return nil
	}
	if _, closed := errors.AsType[*tenant.UnavailableError](err); !closed || !r.route.Closed {
		return err
	}
	for _, l := range r.tenant.Logs() {
		if l.Name() == logName {
			r.log = l
			return nil
		}
	}
	return err
}

// publicTiles opens a log whose tiles anybody may read, and says whether it is one.
func (s *Server) publicTiles(r *request) bool {
	t, err := s.o.Installation.Tenant(r.PathValue("tenant"))
	if err != nil || t.Settings().Suspended {
		return false
	}
	l, err := t.Log(r.PathValue("log"))
	if err != nil || !l.Settings().PublicTiles {
		return false
	}
	r.tenant, r.log = t, l
	return true
}

const (
	maxPath  = 1024 // bytes of a path as it came
	maxQuery = 8192 // bytes of a query string
)

// checkPath refuses paths that could mean one thing here and another in a proxy or a file system: empty and dot segments,
// and whatever is escaped. No name of this API needs any of them.
func checkPath(r *http.Request) error {
	p := r.URL.EscapedPath()
	if len(p) > maxPath || len(r.URL.RawQuery) > maxQuery {
		return fault("bad-path", fmt.Sprintf("a path takes at most %d bytes, a query string %d", maxPath, maxQuery))
	}
	if !strings.HasPrefix(p, "/") {
		return fault("bad-path", "the path does not begin with /")
	}
	for i := range len(p) {
		switch c := p[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '/', c == '-', c == '.', c == '_':
		default:
			return fault("bad-path", "a path has letters, digits and / - . _ only, and nothing that is escaped")
		}
	}
	for segment := range strings.SplitSeq(p[1:], "/") {
		if segment == "." || segment == ".." || segment == "" && p != "/" {
			return fault("bad-path", "a path has no empty segments, no . and no ..")
		}
	}
	return nil
}
