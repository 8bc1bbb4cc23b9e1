package httpcapture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// serve is a real server with the middleware before a handler.
func serve(t testing.TB, k *log, cfg Config, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(New(k.rec, cfg)(h))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

const secret = "hunter2-hunter2"

func TestRequestIsRecordedWithoutSecrets(t *testing.T) {
	k := openLog(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		if !SetActor(r.Context(), event.Actor{Type: event.ActorUser, ID: "7", Name: "ann"}) {
			t.Error("the request is not being recorded")
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(string(body), secret) {
			t.Errorf("the handler reads %q, %v", body, err)
		}
		w.Header().Set("Set-Cookie", "session="+secret)
		w.Header().Set("Location", "https://a:"+secret+"@x/?token="+secret)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"id":1,"access_token":%q}`, secret)
	})
	s := serve(t, k, Config{
		RequestBody: 1000, ResponseBody: 1000,
		RequestHeaders: []string{"Authorization", "Cookie", "X-Thing", "X-Absent"}, ResponseHeaders: []string{"Set-Cookie", "Location"},
	}, mux.ServeHTTP)
	req, err := http.NewRequest(http.MethodPost, s.URL+"/orders/4711?q=1&password="+secret, strings.NewReader("name=ann&pwd="+secret))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]string{
		"Authorization": "Bearer " + secret, "Cookie": "a=" + secret, "X-Thing": "thing", "Content-Type": "application/x-www-form-urlencoded", "X-Request-Id": "r1",
		"User-Agent": "test/1", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		req.Header.Set(name, v)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	e := k.wait(1)[0]
	if strings.Contains(string(e.Line), secret) {
		t.Errorf("a secret: %s", e.Line)
	}
	shape, err := event.Parse(e.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	if e.Message != "POST /orders/4711" || e.TraceID != "0af7651916cd43dd8448eb211c80319c" || e.SpanID != "b7ad6b7169203331" || e.EventTime.IsZero() || e.Level != immutable.Info {
		t.Errorf("%s", e.Line)
	}
	if r := shape.Request; r.Status != 201 || r.ID != "r1" || r.DurationMS <= 0 || shape.Outcome != event.OutcomeSuccess || shape.Actor.Name != "ann" || shape.Source.IP != "127.0.0.1" || shape.Source.UserAgent != "test/1" {
		t.Errorf("%s", e.Metadata)
	}
	h := shape.Extra["http"]
	for path, want := range map[string]any{
		"query": "q=1&password=[redacted]", "route": "POST /orders/{id}", "requestBytes": "28", "responseBytes": "41",
		"requestBody.text": "name=ann&pwd=[redacted]", "responseBody.text": `{"id":1,"access_token":"[redacted]"}`,
		"requestHeaders.x-thing": "thing", "requestHeaders.authorization": "[redacted]", "responseHeaders.set-cookie": "[redacted]", "responseHeaders.location": "https://x/?token=[redacted]", "requestHeaders.x-absent": "<nil>",
	} {
		if got := fmt.Sprint(at(h, strings.Split(path, ".")...)); got != want {
			t.Errorf("%s is %s, want %v", path, got, want)
		}
	}
}

func TestPanicIsRecordedAndRaisedAgain(t *testing.T) {
	k := openLog(t)
	for _, c := range []struct {
		do   func(http.ResponseWriter)
		want string // type
	}{
		{func(http.ResponseWriter) { panic("out of cheese") }, "string"},
		{func(w http.ResponseWriter) { w.WriteHeader(200); panic(errors.New("e")) }, "*errors.errorString"},
		{func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "http.ErrAbortHandler"},
		{func(http.ResponseWriter) { runtime.Goexit() }, "runtime.Goexit"},
	} {
		raised := make(chan any, 1)
		h := New(k.rec, Config{})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.do(w) }))
		go func() {
			defer func() { raised <- recover() }()
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/x", nil))
		}()
		v := <-raised
		if (v == nil) != (c.want == "runtime.Goexit") {
			t.Errorf("%s: raised %v", c.want, v)
		}
	}
	for i, e := range k.wait(4) {
		m := metadata(t, &e)
		if at(m, "panic", "type") != []string{"string", "*errors.errorString", "http.ErrAbortHandler", "runtime.Goexit"}[i] || at(m, "outcome") != "failure" || e.Level != immutable.Error {
			t.Errorf("%d: %s", i, e.Metadata)
		}
		if i < 2 && !strings.Contains(fmt.Sprint(at(m, "panic", "stack")), "TestPanicIs") {
			t.Errorf("%d: stack %v", i, at(m, "panic", "stack"))
		}
	}
	// Through a server the connection ends, as without the middleware.
	s := serve(t, k, Config{}, func(http.ResponseWriter, *http.Request) { panic("x") })
	if resp, err := s.Client().Get(s.URL); err == nil {
		resp.Body.Close()
		t.Error("the server answered")
	}
	k.wait(5)
}

// plainWriter has nothing but what http.ResponseWriter demands.
type plainWriter struct{ http.ResponseWriter }

func TestHandlerHasWhatTheServersWriterHas(t *testing.T) {
	k := openLog(t)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, k, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flush":
			w.Header().Set("X-A", "1")
			w.WriteHeader(http.StatusEarlyHints)
			w.(http.Flusher).Flush()
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
		case "/hijack":
			c, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Errorf("hijack: %v", err)
				return
			}
			_, _ = rw.WriteString("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			_ = rw.Flush()
			c.Close()
		case "/file":
			if _, ok := w.(io.ReaderFrom); !ok {
				t.Error("it is no io.ReaderFrom")
			}
			http.ServeFile(w, r, file)
		case "/deadline":
			if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
				t.Errorf("the controller does not reach the server: %v", err)
			}
		}
	})
	for _, path := range []string{"/flush", "/hijack", "/file", "/deadline"} {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		n, _ := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if path == "/file" && n != 100_000 {
			t.Errorf("%d bytes of the file", n)
		}
	}
	got := map[string]map[string]any{}
	for _, e := range k.wait(4) {
		m := metadata(t, &e)
		got[at(m, "request", "path").(string)] = m
	}
	if at(got["/flush"], "request", "status") != 200.0 || at(got["/hijack"], "http", "hijacked") != true || at(got["/file"], "http", "responseBytes") != 100_000.0 || at(got["/deadline"], "request", "status") != 200.0 {
		t.Errorf("%v", got)
	}
	w := wrap(&response{ResponseWriter: plainWriter{httptest.NewRecorder()}})
	_, flusher := w.(http.Flusher)
	_, hijacker := w.(http.Hijacker)
	if flusher || hijacker {
		t.Error("it pretends what the server's writer does not have")
	}
}

// endless is a body of zeros.
type endless struct{ left int64 }

func (z *endless) Read(p []byte) (int, error) {
	if z.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// A body of a gigabyte costs no more memory than one of a kilobyte, and one that nobody reads is not read.
func TestHugeAndUnreadBodiesAreBounded(t *testing.T) {
	k := openLog(t)
	size := int64(64 << 20)
	if os.Getenv("IMMUTABLE_LONG") != "" {
		size = 1 << 30
	}
	h := New(k.rec, Config{RequestBody: MaxBody, ResponseBody: MaxBody})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			_, _ = io.Copy(w, r.Body)
		}
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, path := range []string{"/read", "/unread"} {
		body := &endless{size}
		r := httptest.NewRequest(http.MethodPost, path, body)
		r.ContentLength = size
		r.Header.Set("Content-Type", "text/plain")
		h.ServeHTTP(discard{http.Header{"Content-Type": {"text/plain"}}}, r)
		if path == "/unread" && body.left != size {
			t.Errorf("%d bytes of it were read", size-body.left)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	got := k.wait(2)
	m := metadata(t, &got[0])
	if at(m, "http", "requestBody", "bytes") != float64(size) || at(m, "http", "responseBody", "cut") != true || at(m, "http", "requestBody", "text") != nil || len(at(m, "http", "requestBody", "sha256").(string)) != 64 {
		t.Errorf("%s", got[0].Metadata)
	}
	if m = metadata(t, &got[1]); at(m, "http", "requestBody") != nil || at(m, "http", "requestBytes") != float64(size) {
		t.Errorf("%s", got[1].Metadata)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// A body at the limit is recorded, one byte more is only identified; so is what cannot be redacted.
func TestBodiesThatCannotBeRedactedAreIdentifiedOnly(t *testing.T) {
	k := openLog(t)
	h := New(k.rec, Config{RequestBody: 10})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	cases := []struct{ kind, encoding, body, want string }{
		{"text/plain", "", "0123456789", "0123456789"},
		{"text/plain", "", "0123456789a", ""},
		{"application/json", "", `{"a":1}`, `{"a":1}`},
		{"application/json", "", `{"a":`, ""},
		{"application/octet-stream", "", "bytes", ""},
		{"", "", "bytes", ""},
		{"text/plain", "gzip", "bytes", ""},
		{"text/plain", "", "\xff", ""},
		{"text/plain; charset=latin1", "", "a", ""},
		{"application/x+json", "", `["a"]`, `["a"]`},
		{"multipart/form-data; boundary=x", "", "--x", ""},
	}
	for _, c := range cases {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		r.Header.Set("Content-Encoding", c.encoding)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	for i, e := range k.wait(len(cases)) {
		b := at(metadata(t, &e), "http", "requestBody")
		if text, _ := at(b, "text").(string); text != cases[i].want || at(b, "sha256") == nil {
			t.Errorf("%+v: %v", cases[i], b)
		}
	}
}

func TestClientIsBehindTrustedProxiesOnly(t *testing.T) {
	m := &middleware{cfg: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}}
	for _, c := range []struct {
		remote string
		xff    []string
		want   string
	}{
		{"10.1.1.1:80", []string{"203.0.113.9"}, "203.0.113.9"},
		{"203.0.113.1:80", []string{"198.51.100.1"}, "203.0.113.1"},                     // anybody can send the header
		{"10.1.1.1:80", []string{"198.51.100.1, 203.0.113.9, 10.2.2.2"}, "203.0.113.9"}, // what the client put before it is not believed
		{"10.1.1.1:80", []string{"198.51.100.1", "203.0.113.9"}, "203.0.113.9"},         // several lines
		{"10.1.1.1:80", []string{"10.9.9.9"}, "10.9.9.9"},                               // nobody but proxies
		{"10.1.1.1:80", []string{"203.0.113.9, garbage, 10.2.2.2"}, "10.2.2.2"},         // as far as it can be read
		{"10.1.1.1:80", nil, "10.1.1.1"},
		{"10.1.1.1:80", []string{""}, "10.1.1.1"},
		{"[fd00::1]:80", []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		{"[::ffff:10.1.1.1]:80", []string{"203.0.113.9:1234"}, "203.0.113.9"},
		{"10.1.1.1:80", []string{strings.Repeat("10.0.0.1,", 40) + "10.0.0.1"}, "10.0.0.1"},
		{"[fe80::1%eth0]:80", nil, "fe80::1"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.remote
		r.Header["X-Forwarded-For"] = c.xff
		if got := m.source(r).IP; got != c.want {
			t.Errorf("%s %q: %s, want %s", c.remote, c.xff, got, c.want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "@"
	if got := m.source(r); got.IP != "" {
		t.Errorf("a unix socket has address %s", got.IP)
	}
}

func TestTraceparentIsReadStrictly(t *testing.T) {
	good := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for v, want := range map[string]bool{
		good: true, "cc" + good[2:] + "-more": true, good + "-": false, "ff" + good[2:]: false, strings.ToUpper(good): false, good[:54]: false, "": false,
		"00-" + strings.Repeat("0", 32) + good[35:]: false, good[:36] + strings.Repeat("0", 16) + good[52:]: false, good[:35] + "_" + good[36:]: false, "cc" + good[2:] + "x": false,
	} {
		id, span := trace(http.Header{"Traceparent": {v}})
		if (id != "" && span != "") != want {
			t.Errorf("%q: %q %q", v, id, span)
		}
	}
	if id, _ := trace(http.Header{"Traceparent": {good, good}}); id != "" {
		t.Error("two of them are taken")
	}
}

func TestConcurrentRequestsAreEachRecorded(t *testing.T) {
	k := openLog(t)
	s := serve(t, k, Config{RequestBody: 100, ResponseBody: 100, User: func(r *http.Request) *event.Actor { return &event.Actor{ID: r.URL.Query().Get("u")} }}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			resp, err := s.Client().Post(s.URL+"/?u="+fmt.Sprint(i), "text/plain", strings.NewReader(fmt.Sprint("body ", i)))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
	seen := map[any]bool{}
	for _, e := range k.wait(50) {
		m := metadata(t, &e)
		u := at(m, "actor", "id")
		seen[u] = true
		if want := fmt.Sprint("body ", u); at(m, "http", "requestBody", "text") != want || at(m, "http", "responseBody", "text") != want {
			t.Errorf("%s", e.Metadata)
		}
	}
	if len(seen) != 50 {
		t.Errorf("%d requests", len(seen))
	}
}

func TestSkippedAndForeignRequests(t *testing.T) {
	k := openLog(t)
	h := New(k.rec, Config{Skip: func(r *http.Request) bool { return r.URL.Path == "/health" }, Path: func(*http.Request) string { return "/reset/…" }})(http.NotFoundHandler())
	for _, path := range []string{"/health", "/reset/" + secret, "/x"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.URL.RawQuery = "\xff=%zz"
		r.Header.Set("User-Agent", "\xff\x00"+strings.Repeat("u", 10_000))
		r.Method = "GE\xffT"
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	for _, e := range k.wait(2) {
		if strings.Contains(string(e.Line), secret) || at(metadata(t, &e), "outcome") != "failure" {
			t.Errorf("%s", e.Line)
		}
	}
	if SetActor(context.Background(), event.Actor{}) {
		t.Error("a context of no request takes an actor")
	}
	if k.rec.Stats().Reduced != 0 {
		t.Error("hostile bytes did not fit the entry")
	}
}
