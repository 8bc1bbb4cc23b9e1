package sink

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/otlp"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

const (
	patience = 30 * time.Second
	secretA  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secretB  = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// bench is an installation with a manager that runs.
type bench struct {
	t     *testing.T
	dir   string
	in    *tenant.Installation
	m     *Manager
	tn    *tenant.Tenant
	l     *tenant.Log
	admin *tenant.Principal
	stop  func()

	mu      sync.Mutex
	notices []Notice
}

func newBench(t *testing.T, dir string, change func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, admin: tenant.Local("test")}
	in, err := tenant.Open(t.Context(), tenant.Options{
		Dir: dir, OriginPrefix: "log.example/sinks",
		Log: immutable.Config{Hostname: "host.example", CheckpointInterval: 5 * time.Millisecond, RotateSize: 64 << 10},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.in = in
	o := Options{
		Installation: in, AllowPrivate: true, Logger: slog.New(slog.DiscardHandler),
		back: func(int) time.Duration { return 2 * time.Millisecond },
		Changed: func(n Notice) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.notices = append(b.notices, n)
		},
	}
	if change != nil {
		change(&o)
	}
	b.m = New(o)
	if b.tn, err = in.Tenant("default"); err != nil {
		t.Fatal(err)
	}
	if b.l, err = b.tn.Log("main"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.m.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	b.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := in.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

// add appends n entries whose messages are numbered.
func (b *bench) add(n int) {
	b.t.Helper()
	var events []immutable.Event
	for i := range n {
		events = append(events, immutable.Event{Level: immutable.Audit, Message: fmt.Sprint("event ", i), Metadata: immutable.Fields{"n": i, "even": i%2 == 0, "who": `Ann "<&>" \ Žofie ]`}})
	}
	if _, err := b.l.Append(b.t.Context(), events...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) create(s Sink) View {
	b.t.Helper()
	if s.Log == "" {
		s.Log = "main"
	}
	v, err := b.m.Create(b.t.Context(), b.admin, "default", s)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *bench) status(name string) Status {
	b.t.Helper()
	v, err := b.m.Get(b.admin, "default", name)
	if err != nil {
		b.t.Fatal(err)
	}
	return v.Status
}

// until waits for a condition of a sink.
func (b *bench) until(name, what string, ok func(Status) bool) Status {
	b.t.Helper()
	end := time.Now().Add(patience)
	for {
		st := b.status(name)
		if ok(st) {
			return st
		}
		if time.Now().After(end) {
			b.t.Fatalf("sink %s: waited for %s: %+v", name, what, st)
		}
		time.Sleep(time.Millisecond)
	}
}

func (b *bench) caughtUp(name string) Status {
	b.t.Helper()
	return b.until(name, "everything", func(st Status) bool { return st.Lag == 0 && st.Size == b.l.Size() })
}

// recorded counts entries of the log of the log with an action.
func (b *bench) recorded(action tenant.Action) (n int) {
	b.t.Helper()
	system, err := b.tn.Log(tenant.SystemName)
	if err != nil {
		b.t.Fatal(err)
	}
	for e, err := range system.Entries(b.t.Context(), immutable.Query{}) {
		if err != nil {
			b.t.Fatal(err)
		}
		var m struct{ Action tenant.Action }
		if json.Unmarshal(e.Metadata, &m) == nil && m.Action == action {
			n++
		}
		if bytes.Contains(e.Line, []byte("whsec_")) || bytes.Contains(e.Line, []byte("bearer-secret")) {
			b.t.Errorf("a secret is in the log of the log: %s", e.Line)
		}
	}
	return n
}

// compare holds what a receiver got to the log.
func (b *bench) compare(copied []byte, o export.CopyOptions) *export.CopyReport {
	b.t.Helper()
	r, err := export.CheckCopy(b.t.Context(), b.l.Log, bytes.NewReader(copied), o)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// whole checks that a copy has every entry, in order but for repetitions, and nothing else.
func (b *bench) whole(copied []byte) *export.CopyReport {
	b.t.Helper()
	r := b.compare(copied, export.CopyOptions{All: true})
	if !r.Agrees() || r.Marked != 0 {
		b.t.Errorf("the copy does not agree: %+v", r)
	}
	return r
}

// taken is what a receiver's answer returns that has answered itself.
const taken = -1

// receiver takes webhooks and OTLP. answer, which may be nil, says what it answers to a request, 0 being to take it.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	bodies [][]byte // that were taken
	ids    []string
	heads  []http.Header
	wrong  []string
	answer func(n int, body []byte, w http.ResponseWriter) int
	n      int
}

func newReceiver(t *testing.T, answer func(n int, body []byte, w http.ResponseWriter) int) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n++
		if id := q.Header.Get("webhook-id"); id != "" {
			if why := badSignature(q.Header, body); why != "" {
				r.wrong = append(r.wrong, why)
			}
		}
		if r.answer != nil {
			switch code := r.answer(r.n, body, w); code {
			case 0:
			case taken:
				return
			default:
				w.WriteHeader(code)
				return
			}
		}
		r.bodies, r.ids, r.heads = append(r.bodies, body), append(r.ids, q.Header.Get("webhook-id")), append(r.heads, q.Header)
	}))
	t.Cleanup(r.Close)
	return r
}

// badSignature checks every signature of Standard Webhooks with the two secrets.
func badSignature(h http.Header, body []byte) string {
	var want []string
	for _, secret := range []string{secretA, secretB} {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil {
			return err.Error()
		}
		mac := hmac.New(sha256.New, key)
		_, _ = fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), body)
		want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if got := h.Get("webhook-signature"); got != strings.Join(want, " ") {
		return "signature " + got
	}
	if n, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(n, 0)).Abs() > time.Minute {
		return "timestamp " + h.Get("webhook-timestamp")
	}
	return ""
}

// copied is what was taken, a body a line.
func (r *receiver) copied(t *testing.T) []byte {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		t.Errorf("%q", r.wrong)
	}
	return append(bytes.Join(r.bodies, []byte("\n")), '\n')
}

// indexes are the events in the order in which they came.
func (r *receiver) indexes(t *testing.T) (all []uint64) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, body := range r.bodies {
		for _, e := range hookEvents(t, body) {
			all = append(all, e)
		}
	}
	return all
}

func hookEvents(t *testing.T, body []byte) (all []uint64) {
	t.Helper()
	var m message
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v: %.300s", err, body)
	}
	for _, e := range m.Data.Events {
		mark, ok := export.MarkOf(e)
		if !ok {
			t.Fatalf("no mark: %s", e)
		}
		all = append(all, mark.Index)
	}
	if len(all) == 0 || all[0] != m.Data.First || all[len(all)-1] != m.Data.Last || m.Type != "log.entries" {
		t.Errorf("%s says %d to %d, and has %v", m.Type, m.Data.First, m.Data.Last, all)
	}
	return all
}

// sorted checks that nothing is missing and that the first time of each entry is in order.
func sorted(t *testing.T, got []uint64, n uint64) {
	t.Helper()
	next := uint64(0)
	for i, index := range got {
		if index > next {
			t.Fatalf("event %d is entry %d, and entry %d has not come", i, index, next)
		}
		next = max(next, index+1)
	}
	if next != n {
		t.Errorf("%d entries came, want %d", next, n)
	}
}

// syslogServer takes RFC 5424 messages with octet counting, over TLS where it has a certificate.
type syslogServer struct {
	net.Listener
	mu       sync.Mutex
	messages [][]byte
	conns    []net.Conn
	cut      func(n int) bool // closes the connection, without a word, after the nth message
	deaf     bool             // connections that come are not read
	err      error
}

func newSyslogServer(t *testing.T, cert *tls.Certificate) *syslogServer {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cert != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
	}
	s := &syslogServer{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.closeAll()
		wg.Wait()
	})
	return s
}

func (s *syslogServer) serve(c net.Conn) {
	s.mu.Lock()
	deaf := s.deaf
	s.mu.Unlock()
	if deaf {
		return
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		digits, err := r.ReadString(' ')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.TrimSpace(digits))
		m := make([]byte, max(n, 0))
		if err == nil {
			_, err = io.ReadFull(r, m)
		}
		s.mu.Lock()
		if err != nil {
			s.err = fmt.Errorf("frame %q: %w", digits, err)
			s.mu.Unlock()
			return
		}
		s.messages = append(s.messages, m)
		cut := s.cut != nil && s.cut(len(s.messages))
		s.mu.Unlock()
		if cut {
			return
		}
	}
}

func (s *syslogServer) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *syslogServer) all() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// certificate is one for 127.0.0.1, and the pool that trusts it.
func certificate(t *testing.T) (*tls.Certificate, string, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	t.Cleanup(s.Close)
	cert := s.TLS.Certificates[0]
	pem := "-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(s.Certificate().Raw) + "\n-----END CERTIFICATE-----\n"
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &cert, pem, pool
}

func unzip(t *testing.T, body []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// otlpBodies are the bodies of the records of a request, a line each, as our own receiver reads them.
func otlpBodies(t *testing.T, body []byte) (all []byte) {
	t.Helper()
	r, err := otlp.Parse(body)
	if err != nil {
		t.Fatalf("our own receiver refuses the export: %v", err)
	}
	for b := range r.Batches() {
		for _, e := range b.Events {
			all = append(append(all, e.Message...), '\n')
		}
	}
	return all
}
