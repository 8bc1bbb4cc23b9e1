package server

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Limits of a connection. Handlers set their own deadlines for bodies and answers, which may be of any length.
const (
	headerTime     = 10 * time.Second // TLS handshake, and from the first byte of a request to the end of its header
	maxHeaderBytes = 64 << 10
	maxStreams     = 250 // requests at once on one HTTP/2 connection
	maxRequestID   = 64
	serverLogRate  = 10 // lines a second that the HTTP library may say about connections
)

// httpServer is how every listener of the service serves.
func httpServer(h http.Handler, idle time.Duration, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTime, IdleTimeout: idle, MaxHeaderBytes: maxHeaderBytes,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: slog.NewLogLogger(&connectionLog{Handler: logger.Handler()}, slog.LevelWarn),
	}
}

// listen opens a TCP listener and says what to do where that fails.
func listen(ctx context.Context, address, setting string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s is in use by another process (is the service already running?); stop that one, or give another port: --%s %s", setting, address, setting, otherPort(address))
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s %s: this user may not take that port; give one from 1024 on, or the capability CAP_NET_BIND_SERVICE", setting, address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s: this host has no such address; give one that it has, or 0.0.0.0 for all", setting, address)
	}
	return nil, fmt.Errorf("%s %s: %w", setting, address, err)
}

func otherPort(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "127.0.0.1:0"
	}
	return net.JoinHostPort(host, "0") + " takes a free one"
}

// connections bounds how many a listener has. At the limit the one that has waited longest without a request gives way, so
// that idle ones keep nobody out; where all are at work the new one is closed.
type connections struct {
	limit int

	mu      sync.Mutex // guards what follows
	open    map[net.Conn]*list.Element
	idle    *list.List // of net.Conn without a request, the longest idle first
	evicted uint64
	refused uint64
}

func newConnections(limit int) *connections {
	return &connections{limit: limit, open: map[net.Conn]*list.Element{}, idle: list.New()}
}

// state is http.Server.ConnState. It is called in order for each connection.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	if loser := c.change(conn, state); loser != nil {
		// Without TLS's farewell, which could wait for a client that does not read.
		if t, ok := loser.(*tls.Conn); ok {
			loser = t.NetConn()
		}
		_ = loser.Close() // whoever serves it reads an error and lets go of it
	}
}

func (c *connections) change(conn net.Conn, state http.ConnState) (loser net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, known := c.open[conn]
	if element != nil {
		c.idle.Remove(element)
		c.open[conn] = nil
	}
	switch state {
	case http.StateNew:
		if len(c.open) >= c.limit {
			if loser = c.longestIdle(); loser == nil {
				c.refused++
				loser = conn
			}
		}
		c.open[conn] = c.idle.PushBack(conn)
	case http.StateIdle:
		if known {
			c.open[conn] = c.idle.PushBack(conn)
		}
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
	}
	return loser
}

// longestIdle takes the connection out of the count at once: closing it takes a moment.
func (c *connections) longestIdle() net.Conn {
	front := c.idle.Front()
	if front == nil {
		return nil
	}
	conn := front.Value.(net.Conn)
	c.idle.Remove(front)
	delete(c.open, conn)
	c.evicted++
	return conn
}

// counts are for metrics.
func (c *connections) counts() (open, idle int, evicted, refused uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.idle.Len(), c.evicted, c.refused
}

// withRequestID gives each request a name that stands in the answer's header and in the log. A client's own is kept if it is
// short and harmless.
func withRequestID(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !isRequestID(id) {
			var random [8]byte
			_, _ = rand.Read(random[:]) // it never fails
			id = hex.EncodeToString(random[:])
		}
		w.Header().Set("X-Request-Id", id)
		began := time.Now()
		a := &answer{ResponseWriter: w}
		defer func() {
			level := slog.LevelDebug
			if a.status >= 500 {
				level = slog.LevelWarn
			}
			// The path, not the query: that may hold what somebody searches for.
			logger.Log(r.Context(), level, "request", "request_id", id, "method", r.Method, "path", r.URL.Path, "status", a.status, "bytes", a.bytes,
				"duration_seconds", time.Since(began).Seconds(), "remote", r.RemoteAddr, "protocol", r.Proto)
		}()
		next.ServeHTTP(a, r)
	})
}

func isRequestID(id string) bool {
	return id != "" && len(id) <= maxRequestID && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// answer notes what was sent.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(p)
	a.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// connectionLog takes what net/http says about connections. Strangers cause most of it, so it is debugging for handshakes
// that fail, and bounded for the rest.
type connectionLog struct {
	slog.Handler
	mu     sync.Mutex // guards what follows
	second int64
	lines  int
	left   int
}

func (l *connectionLog) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "TLS handshake error") || strings.Contains(r.Message, "URL query contains semicolon") {
		r.Level = slog.LevelDebug
		if !l.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
	}
	l.mu.Lock()
	if now := r.Time.Unix(); now != l.second {
		if l.left > 0 {
			r.AddAttrs(slog.Int("left_out_before", l.left))
		}
		l.second, l.lines, l.left = now, 0, 0
	}
	l.lines++
	over := l.lines > serverLogRate
	if over {
		l.left++
	}
	l.mu.Unlock()
	if over {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

// profiles serves what net/http/pprof has (its own registration, on http.DefaultServeMux, is served by nobody). Only for a loopback listener: a
// heap profile shows what entries hold. A browser that was led here by another name gets nothing.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "profiles are for this host: ask at 127.0.0.1", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
