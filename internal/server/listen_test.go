package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// plainServer serves h on loopback as the service does; change may shorten its times.
func plainServer(t *testing.T, h http.Handler, change func(*http.Server)) (address string, said *spoken) {
	t.Helper()
	said = &spoken{}
	l, err := listen(t.Context(), "127.0.0.1:0", "listen")
	if err != nil {
		t.Fatal(err)
	}
	srv := httpServer(h, time.Minute, slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if change != nil {
		change(srv)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-ended })
	return l.Addr().String(), said
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a request on a connection that stays open, and returns the status line, or "" if the connection was closed.
func ask(t *testing.T, c net.Conn) string {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return ""
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return ""
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.Status
}

func closedByServer(t *testing.T, c net.Conn) bool {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	return err != nil
}

// TestIdleConnectionsKeepNobodyOut fills the listener with connections that ask for nothing, and then comes as somebody else.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	const limit = 4
	conns := newConnections(limit)
	address, _ := plainServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), func(s *http.Server) { s.ConnState = conns.state })
	var idle []net.Conn
	for i := range limit {
		c := dial(t, address)
		if i%2 == 0 { // half of them have asked once
			if got := ask(t, c); got != "200 OK" {
				t.Fatalf("connection %d: %q", i, got)
			}
		}
		waitFor(t, func() bool { open, idle, _, _ := conns.counts(); return open == i+1 && idle == i+1 })
		idle = append(idle, c)
	}
	last := dial(t, address)
	if got := ask(t, last); got != "200 OK" {
		t.Fatalf("one more got %q", got)
	}
	if !closedByServer(t, idle[0]) {
		t.Error("the longest idle connection is still open")
	}
	if got := ask(t, idle[2]); got != "200 OK" {
		t.Errorf("a connection that was idle for less time got %q", got)
	}
	if open, _, evicted, refused := conns.counts(); open != limit || evicted != 1 || refused != 0 {
		t.Errorf("%d open, %d evicted, %d refused", open, evicted, refused)
	}
}

// TestConnectionsAtWorkAreNotClosedForNewOnes holds the other side: a request under way is finished.
func TestConnectionsAtWorkAreNotClosedForNewOnes(t *testing.T) {
	const limit = 3
	conns := newConnections(limit)
	release, working := make(chan struct{}), make(chan struct{}, limit)
	address, _ := plainServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { working <- struct{}{}; <-release }), func(s *http.Server) { s.ConnState = conns.state })
	answers := make(chan string, limit)
	for range limit {
		c := dial(t, address)
		go func() { answers <- ask(t, c) }()
	}
	for range limit {
		<-working
	}
	if got := ask(t, dial(t, address)); got != "" {
		t.Errorf("one more than the limit got %q", got)
	}
	close(release)
	for range limit {
		if got := <-answers; got != "200 OK" {
			t.Errorf("a request under way got %q", got)
		}
	}
	if _, _, evicted, refused := conns.counts(); evicted != 0 || refused != 1 {
		t.Errorf("%d evicted, %d refused", evicted, refused)
	}
	waitFor(t, func() bool { open, _, _, _ := conns.counts(); return open <= limit })
	if got := ask(t, dial(t, address)); got != "200 OK" {
		t.Errorf("afterwards: %q", got)
	}
}

// waitFor waits for what the server does in goroutines of its own.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSlowHeaderIsCutOff(t *testing.T) {
	address, _ := plainServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("served") }), func(s *http.Server) {
		if s.ReadHeaderTimeout != headerTime || s.IdleTimeout == 0 || s.MaxHeaderBytes != maxHeaderBytes {
			t.Errorf("the service has no such limits: %+v", s)
		}
		s.ReadHeaderTimeout = 50 * time.Millisecond
	})
	c := dial(t, address)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("the connection is still open")
	}
}

func TestHeaderFloodIsRefused(t *testing.T) {
	address, _ := plainServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	status := func(bytes int) string {
		c := dial(t, address)
		go func() {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n")
			for sent := 0; sent < bytes; sent += 1000 {
				if _, err := io.WriteString(c, "X-A: "+strings.Repeat("a", 993)+"\r\n"); err != nil {
					return
				}
			}
			_, _ = io.WriteString(c, "\r\n")
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return resp.Status
	}
	if got := status(60_000); got != "200 OK" {
		t.Errorf("60 kB: %s", got)
	}
	if got := status(80_000); !strings.HasPrefix(got, "431") {
		t.Errorf("80 kB: %s", got)
	}
}

func TestTakenPortSaysWhatToDo(t *testing.T) {
	l, err := listen(t.Context(), "127.0.0.1:0", "listen")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = listen(t.Context(), l.Addr().String(), "listen")
	if err == nil || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), "--listen 127.0.0.1:0") {
		t.Errorf("got %v", err)
	}
	if _, err = listen(t.Context(), "192.0.2.1:0", "listen"); err == nil || !strings.Contains(err.Error(), "no such address") {
		t.Errorf("got %v", err)
	}
}

func TestRequestIDIsKeptWhereItIsHarmless(t *testing.T) {
	said := &spoken{}
	h := withRequestID(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fails" {
			http.Error(w, "x", http.StatusInternalServerError)
		}
	}), slog.New(slog.NewJSONHandler(said, nil)))
	get := func(path, id string) string {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Header.Set("X-Request-Id", id)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Header().Get("X-Request-Id")
	}
	long := strings.Repeat("a", maxRequestID)
	for _, id := range []string{"abc-1_2.Z", long} {
		if got := get("/", id); got != id {
			t.Errorf("%q became %q", id, got)
		}
	}
	for _, id := range []string{"", long + "a", "a b", "a\nb", "ä", "<script>", "a\"b"} {
		if got := get("/", id); got == id || !isRequestID(got) || len(got) != 16 {
			t.Errorf("%q became %q", id, got)
		}
	}
	if get("/fails?q=secret", "the-one"); !strings.Contains(said.String(), `"request_id":"the-one"`) || strings.Contains(said.String(), "secret") {
		t.Errorf("said %s", said)
	}
}

// TestStrangersDoNotFloodTheLog has the HTTP library complain a thousand times.
func TestStrangersDoNotFloodTheLog(t *testing.T) {
	said := &spoken{}
	logger := slog.New(slog.NewTextHandler(said, nil))
	l := httpServer(nil, time.Minute, logger).ErrorLog
	for i := range 1000 {
		l.Printf("http: TLS handshake error from 192.0.2.1:%d: EOF", i)
	}
	if said.String() != "" {
		t.Errorf("handshakes are in the log: %.200s", said)
	}
	for range 1000 {
		l.Printf("http: Accept error: too many open files; retrying")
	}
	// The thousand lines take less than a few seconds, each with its share.
	if n := strings.Count(said.String(), "\n"); n < 1 || n > 10*serverLogRate {
		t.Errorf("%d lines", n)
	}
}

func TestProfilesAreForThisHostOnly(t *testing.T) {
	h := profiles()
	for host, want := range map[string]int{"127.0.0.1:6060": 200, "localhost:6060": 200, "[::1]:6060": 200, "example.com": 403, "example.com:6060": 403, "10.0.0.1:6060": 403, "": 403} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/debug/pprof/cmdline", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d, want %d", host, w.Code, want)
		}
	}
}
