package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/server"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

const rootToken = "first-administrator-of-a-test"

// service is a whole server on loopback, whose tenant default has the log main. It can be stopped, and started again on the
// same address and directory.
type service struct {
	t    testing.TB
	dir  string
	addr string
	in   *tenant.Installation
	stop func()
}

func serve(t testing.TB) *service {
	t.Helper()
	s := &service{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	s.start()
	return s
}

func (s *service) start() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in, err := tenant.Open(ctx, tenant.Options{Dir: s.dir, OriginPrefix: "log.example/test", Log: immutable.Config{Hostname: "server.example", CheckpointInterval: 20 * time.Millisecond}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.in = in
	if _, _, err := in.Bootstrap(ctx, rootToken); err != nil {
		s.t.Fatal(err)
	}
	auth, err := access.New(ctx, in, access.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	m := monitor.New(monitor.Options{Installation: in, OnEvent: func(alert.Event) {}})
	watched := make(chan error, 1)
	go func() { watched <- m.Run(ctx) }()
	sv := server.New(server.Options{Installation: in, Auth: auth, Monitor: m, Logger: slog.New(slog.DiscardHandler)})
	// The address may be taken for a moment by connections of the one before.
	var l net.Listener
	for range 100 {
		if l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.addr); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	hs := &http.Server{Handler: sv, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- hs.Serve(l) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		end, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		if err := sv.Shutdown(end); err != nil {
			s.t.Errorf("shut down: %v", err)
		}
		_ = hs.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			s.t.Errorf("serve: %v", err)
		}
		cancel()
		if err := <-watched; err != nil && !errors.Is(err, context.Canceled) {
			s.t.Errorf("monitor: %v", err)
		}
		if err := errors.Join(auth.Close(end), in.Close(end)); err != nil {
			s.t.Errorf("close: %v", err)
		}
	}
	s.t.Cleanup(s.stop)
}

func (s *service) url() string { return "http://" + s.addr }

// log is the log main itself.
func (s *service) log() *tenant.Log {
	s.t.Helper()
	tn, err := s.in.Tenant("default")
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := tn.Log("main")
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// token makes a token of the tenant default.
func (s *service) token(spec tenant.TokenSpec) string {
	s.t.Helper()
	tn, err := s.in.Tenant("default")
	if err != nil {
		s.t.Fatal(err)
	}
	spec.Name = "test"
	plain, _, err := tn.CreateToken(s.t.Context(), tenant.Local("test"), spec)
	if err != nil {
		s.t.Fatal(err)
	}
	return plain
}

// client is one of the administrator, with pinned keys, that does not wait long.
func (s *service) client(change func(*Config)) *Client {
	s.t.Helper()
	cfg := Config{URL: s.url(), Token: rootToken, Keys: s.log().VerifierKeys(), RetryFor: 20 * time.Second, Hostname: "app.example"}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Errorf("close the client: %v", err)
		}
	})
	// Pauses are short, so that tests are: their order is what counts.
	c.pause = func(ctx context.Context, d time.Duration) error { return pause(ctx, min(d, 5*time.Millisecond)) }
	return c
}

// fill appends n events by the log itself and waits for their checkpoint.
func (s *service) fill(n int) {
	s.t.Helper()
	events := make([]immutable.Event, n)
	for i := range events {
		events[i] = immutable.Event{Level: immutable.Level(i % immutable.NumLevels), Message: "event", Metadata: immutable.Fields{"n": i}}
	}
	if _, err := s.log().Append(s.t.Context(), events...); err != nil {
		s.t.Fatal(err)
	}
	s.settle()
}

// settle waits until a checkpoint covers everything.
func (s *service) settle() {
	s.t.Helper()
	for range 2000 {
		note, err := s.log().Checkpoint()
		if err == nil {
			if cp, err := s.log().OpenCheckpoint(note); err == nil && cp.Size == s.log().Size() {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatal("no checkpoint covers the log")
}

// messages are the messages in the log, oldest first, without those of the log itself.
func (s *service) messages() (out []string) {
	s.t.Helper()
	for e, err := range s.log().Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if e.Control == nil {
			out = append(out, e.Message)
		}
	}
	return out
}

// hook changes the body of a good answer, or is an error to lose the answer.
type hook func(method, path string, body io.ReadCloser) (io.ReadCloser, error)

// honest changes nothing.
func honest(_, _ string, body io.ReadCloser) (io.ReadCloser, error) { return body, nil }

// front is a real HTTP server between a client and a service: it may change what passes.
type front struct {
	url    string
	answer atomic.Pointer[hook]
	accept atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	to     atomic.Pointer[url.URL]
}

// front puts a front before s: changes says how good answers change, answers what it answers itself.
func (s *service) front() *front {
	s.t.Helper()
	f := &front{}
	target, err := url.Parse(s.url())
	if err != nil {
		s.t.Fatal(err)
	}
	f.to.Store(target)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(f.to.Load()); r.Out.Header.Set("Accept-Encoding", "identity") },
		ModifyResponse: func(r *http.Response) (err error) {
			if change := f.answer.Load(); change != nil && r.StatusCode/100 == 2 {
				r.ContentLength = -1
				r.Header.Del("Content-Length")
				r.Body, err = (*change)(r.Request.Method, r.Request.URL.Path, r.Body)
			}
			return err
		},
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	l, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	f.url = "http://" + l.Addr().String()
	hs := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if accept := f.accept.Load(); accept != nil && (*accept)(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = hs.Serve(l) }()
	s.t.Cleanup(func() { _ = hs.Close() })
	return f
}

func (f *front) changes(change hook) { f.answer.Store(&change) }

func (f *front) answers(accept func(http.ResponseWriter, *http.Request) bool) {
	f.accept.Store(&accept)
}
