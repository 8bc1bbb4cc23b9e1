package httpcapture

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/cost"
	"github.com/tree-of-life-system/immutable/client"
)

// background is what records to a log behind a writer in memory.
func background(b *testing.B) *capture.Recorder {
	b.Helper()
	l, err := immutable.Open(b.TempDir(), &immutable.Config{StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Drop, MaxBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var left *client.UndeliveredError
		if err := w.Close(ctx); err != nil && !errors.As(err, &left) {
			b.Error(err)
		}
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return capture.New(struct{ capture.Destination }{w}, capture.Config{}) // Flush waits for what runs beside, not for the log
}

type nothing struct{ h http.Header }

func (n nothing) Header() http.Header         { return n.h }
func (n nothing) Write(p []byte) (int, error) { return len(p), nil }
func (n nothing) WriteHeader(int)             {}
func (n nothing) Flush()                      {}

// What the middleware adds to a request: the handler itself does nothing.
func BenchmarkMiddleware(b *testing.B) {
	h := New(background(b), Config{})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	r := httptest.NewRequest(http.MethodGet, "/orders/4711?q=shoes&page=2", nil)
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	w := nothing{http.Header{}}
	cost.PerCall(b, func() { h.ServeHTTP(w, r) })
}

// What a Transport adds to a call: the transport behind it answers at once.
func BenchmarkTransport(b *testing.B) {
	benchmarkTransport(b, TransportConfig{}, "ok")
}

// What the profile for models adds on the caller's path to an answer of four kilobytes, which is read beside it.
func BenchmarkTransportModel(b *testing.B) {
	benchmarkTransport(b, TransportConfig{AI: &AI{}}, `{"id":"c1","model":"sonar","choices":[{"index":0,"finish_reason":"stop","message":{"content":"`+strings.Repeat("word ", 800)+`"}}],"usage":{"total_tokens":12}}`)
}

func benchmarkTransport(b *testing.B, cfg TransportConfig, body string) {
	b.Helper()
	rec := background(b)
	t := NewTransport(rec, roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Proto: "HTTP/2.0", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r}, nil
	}), cfg)
	r := httptest.NewRequest(http.MethodPost, "https://api.example.com/chat/completions", nil)
	buf := make([]byte, 8<<10)
	call := func() {
		resp, err := t.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Body.Read(buf)
		}
		_ = resp.Body.Close()
	}
	if cfg.AI == nil {
		cost.PerCall(b, call)
		return
	}
	cost.PerCallBeside(b, call, func() { _ = rec.Flush(context.Background()) }) // models are not asked as fast as this loop runs
}
