package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/otlp"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// exportOf is an export in OTLP/JSON of records with these messages, from first on; of time 0 they have none.
func exportOf(prefix string, n int, nanos uint64) string {
	var b strings.Builder
	b.WriteString(`{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeLogs":[{"logRecords":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"timeUnixNano":"%d","severityNumber":9,"body":{"stringValue":"%s%d"}}`, nanos, prefix, i)
	}
	b.WriteString(`]}]}]}`)
	return b.String()
}

func protobuf(t testing.TB, export string) []byte {
	t.Helper()
	out, err := otlp.FromJSON([]byte(export))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// heard is an Observer that remembers.
type heard struct {
	mu       sync.Mutex
	accepted int
	rejected []string
}

func (h *heard) Seen(_, _, kind, _ string, accepted int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accepted += accepted
	_ = kind
}

func (h *heard) Rejected(_ context.Context, tenantName, log, kind, name, reason string, sample []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rejected = append(h.rejected, fmt.Sprintf("%s/%s %s %.8s %s %d", tenantName, log, kind, name, reason, len(sample)))
}

const otlpLogs = "/otlp/default/main/v1/logs"

// TestExportSentAgainIsTakenOnce: in every encoding, beside each other, and not where nothing tells two exports apart.
func TestExportSentAgainIsTakenOnce(t *testing.T) {
	h := &heard{}
	sv := serve(t, func(o *Options) { o.Sources = h })
	l := sv.log("default", "main")
	writer := sv.token("default", tenant.TokenSpec{Role: tenant.Writer, Logs: []string{"main"}})
	other := sv.token("default", tenant.TokenSpec{Role: tenant.Writer})
	send := func(path, token, kind string, body []byte, headers ...string) {
		t.Helper()
		a := sv.do("POST", path, token, bytes.NewReader(body), append([]string{"Content-Type", kind}, headers...)...).want(t, http.StatusOK, nil)
		if got, _, _ := strings.Cut(a.header.Get("Content-Type"), ";"); got != kind {
			t.Errorf("the answer is %s", got)
		}
		if want := map[string]string{kindProtobuf: "", kindJSON: "{}"}[kind]; string(a.body) != want {
			t.Errorf("answered %q", a.body)
		}
	}
	grown := func(n uint64, f func()) {
		t.Helper()
		before := l.Size()
		f()
		if got := l.Size() - before; got != n {
			t.Errorf("%d entries more, want %d", got, n)
		}
	}
	text := exportOf("a", 10, 5)
	body := protobuf(t, text)
	grown(10, func() { send(otlpLogs, writer, kindProtobuf, body) })
	grown(0, func() {
		send(otlpLogs, writer, kindProtobuf, body)
		send(otlpLogs, writer, kindProtobuf, gzipped(t, body), "Content-Encoding", "gzip")
		send("/v1/logs", writer, kindProtobuf, body)
	})
	grown(10, func() { send("/v1/logs", other, kindProtobuf, body, ownLogHeader, "default/main") }) // somebody else's
	grown(10, func() {
		send(otlpLogs, writer, kindJSON, []byte(text))
		send(otlpLogs, writer, kindJSON, []byte(text), "Content-Type", "application/json; charset=utf-8")
	})
	grown(20, func() { // nothing says whether it happened twice
		send(otlpLogs, writer, kindJSON, []byte(exportOf("b", 10, 0)))
		send(otlpLogs, writer, kindJSON, []byte(exportOf("b", 10, 0)))
	})
	atOnce := func(body []byte) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { send(otlpLogs, writer, kindProtobuf, body, "Content-Encoding", "gzip") })
		}
		wg.Wait()
	}
	grown(30*100, func() {
		for i := range 30 {
			atOnce(gzipped(t, protobuf(t, exportOf(fmt.Sprint("r", i, " "), 100, 6))))
		}
	})
	grown(otlp.BatchRecords+100, func() { atOnce(gzipped(t, protobuf(t, exportOf("c", otlp.BatchRecords+100, 6)))) }) // two batches
	grown(0, func() { send(otlpLogs, writer, kindProtobuf, nil) })
	got := sv.messages("default", "main")
	if want := "a0 a1 a2"; strings.Join(got[:3], " ") != want || got[len(got)-1] != fmt.Sprint("c", otlp.BatchRecords+99) {
		t.Errorf("the log begins with %q and ends with %q", got[:3], got[len(got)-1])
	}
	if h.accepted == 0 || len(h.rejected) > 0 {
		t.Errorf("heard %+v", h)
	}
}

// TestRecordsWithAnIDAreTakenOnce holds OpenTelemetry's draft of an audit signal: the same id and record is a repeat in whatever
// export, the same id with another record is a conflict, and nothing of its export is taken.
func TestRecordsWithAnIDAreTakenOnce(t *testing.T) {
	sv := serve(t, nil)
	record := func(id, outcome string) string {
		return `{"eventName":"user.login","attributes":[{"key":"audit.record.id","value":{"stringValue":"` + id + `"}},{"key":"audit.outcome","value":{"stringValue":"` + outcome + `"}}]}`
	}
	export := func(records ...string) string {
		return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + strings.Join(records, ",") + `]}]}]}`
	}
	size := func() uint64 { return sv.log("default", "main").Size() }
	sv.post(otlpLogs, export(record("1", "success"), record("2", "success"))).want(t, http.StatusOK, nil)
	sv.post(otlpLogs, export(record("2", "success"), record("3", "success"))).want(t, http.StatusOK, nil)
	timed := `{"timeUnixNano":"9","eventName":"plain"}`
	sv.post(otlpLogs, export(timed, record("3", "success"), record("4", "success"))).want(t, http.StatusOK, nil)
	sv.post(otlpLogs, export(timed, record("3", "success"), record("4", "success"))).want(t, http.StatusOK, nil)
	if n := size(); n != 5 {
		t.Errorf("%d entries, want 5", n)
	}
	a := sv.refused(export(record("5", "success"), record("1", "failure")), http.StatusConflict)
	if a.Code != uint32(otlp.AlreadyExists) || size() != 5 {
		t.Errorf("got %+v, %d entries", a, size())
	}
	var p struct{ Entries []struct{ Message string } }
	if got := sv.get(mainLog+"/entries?q=outcome:success").want(t, http.StatusOK, &p); len(p.Entries) != 4 {
		t.Errorf("found %s", got.body)
	}
}

// status is a google.rpc.Status in JSON.
type status struct {
	Code    uint32
	Message string
	Details []map[string]string
	retry   string
}

// refused posts an export in JSON that must be refused, and reads why.
func (sv *service) refused(body string, want int, headers ...string) status {
	sv.t.Helper()
	return sv.refusedAt(otlpLogs, body, want, headers...)
}

func (sv *service) refusedAt(path, body string, want int, headers ...string) status {
	sv.t.Helper()
	req, err := http.NewRequestWithContext(sv.t.Context(), "POST", "http://"+sv.addr+path, strings.NewReader(body))
	if err != nil {
		sv.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kindJSON)
	req.Header.Set("Authorization", "Bearer "+sv.root)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		sv.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		sv.t.Fatal(err)
	}
	if resp.StatusCode != want {
		sv.t.Errorf("%.100s: status %d %s, want %d", body, resp.StatusCode, data, want)
	}
	s := status{retry: resp.Header.Get("Retry-After")}
	if resp.Header.Get("Content-Type") == kindProtobuf {
		s.Message = string(data)
		return s
	}
	if err := json.Unmarshal(data, &s); err != nil {
		sv.t.Errorf("%s: %v", data, err)
	}
	return s
}

// TestRefusedExportsAreCountedAndSayWhy: each in the words of OTLP, and the service goes on.
func TestRefusedExportsAreCountedAndSayWhy(t *testing.T) {
	h := &heard{}
	sv := serve(t, func(o *Options) { o.Sources = h })
	good := exportOf("x", 1, 1)
	for _, c := range []struct {
		body    string
		status  int
		code    otlp.Code
		headers []string
	}{
		{`{`, 400, otlp.InvalidArgument, nil},
		{strings.Repeat(`{"a":`, 50_000), 400, otlp.InvalidArgument, nil},
		{`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"kvlistValue":[]}}]}]}]}`, 400, otlp.InvalidArgument, nil},
		{exportOf("", otlp.MaxRecords+1, 1), 413, otlp.InvalidArgument, nil},
		{exportOf("", otlp.BatchRecords+1, 0), 413, otlp.InvalidArgument, nil}, // no times, and more than one batch
		{good, 400, otlp.InvalidArgument, []string{"Content-Encoding", "gzip"}},
		{good, 415, otlp.InvalidArgument, []string{"Content-Encoding", "br"}},
		{good, 415, otlp.InvalidArgument, []string{"Content-Type", "text/plain"}},
		{good, 401, otlp.Unauthenticated, []string{"Authorization", "Bearer x"}},
		{good, 403, otlp.PermissionDenied, []string{"Authorization", "Bearer " + sv.token("", tenant.TokenSpec{Role: tenant.Reader})}},
	} {
		if s := sv.refused(c.body, c.status, c.headers...); s.Code != uint32(c.code) || s.Message == "" || s.retry != "" {
			t.Errorf("%.60s: got %+v, want code %d", c.body, s, c.code)
		}
	}
	if want := 4; len(h.rejected) != want || !strings.HasPrefix(h.rejected[0], "default/main otlp token:") || !strings.HasSuffix(h.rejected[3], "too-large 512") {
		t.Errorf("heard of %q, want %d", h.rejected, want)
	}
	s := sv.refused("\x0a\x05", 400, "Content-Type", kindProtobuf)
	if want := string((&otlp.Status{Code: otlp.InvalidArgument, Message: "bad-json: the protobuf ends inside a field"}).Protobuf()); s.Message != want {
		t.Errorf("got %q, want %q", s.Message, want)
	}
	for _, log := range []string{"", "main", "default/none"} { // without a name, and with one that is none
		if s := sv.refusedAt("/v1/logs", good, map[bool]int{true: 404, false: 400}[strings.Contains(log, "/")], ownLogHeader, log); s.Message == "" {
			t.Errorf("got %+v", s)
		}
	}
	sv.post(otlpLogs, good).want(t, http.StatusOK, nil)
}

// TestExporterAtItsQuotaIsToldWhenToComeBack, and one that could never pass is not.
func TestExporterAtItsQuotaIsToldWhenToComeBack(t *testing.T) {
	sv := serve(t, nil)
	tn, err := sv.in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(q tenant.Quota) {
		t.Helper()
		s := tn.Settings()
		s.Quota = q
		if err := tn.Update(t.Context(), tenant.Local("test"), s); err != nil {
			t.Fatal(err)
		}
	}
	limit(tenant.Quota{EntriesPerSecond: 10})
	sv.post(otlpLogs, exportOf("a", 20, 1)).want(t, http.StatusOK, nil)
	s := sv.refused(exportOf("b", 20, 1), http.StatusTooManyRequests)
	if after, err := strconv.Atoi(s.retry); err != nil || after < 1 || s.Code != uint32(otlp.ResourceExhausted) || len(s.Details) != 1 || s.Details[0]["retryDelay"] == "" {
		t.Errorf("got %+v", s)
	}
	sv.post(otlpLogs, exportOf("a", 20, 1)).want(t, http.StatusOK, nil) // a repeat takes nothing of the quota
	if s := sv.refused(exportOf("c", 21, 1), http.StatusRequestEntityTooLarge); s.retry != "" || len(s.Details) != 0 {
		t.Errorf("got %+v", s)
	}
	limit(tenant.Quota{TotalBytes: 1})
	if s := sv.refused(exportOf("d", 1, 1), http.StatusTooManyRequests); s.retry != "60" {
		t.Errorf("got %+v", s)
	}
}

// grpcListener runs the receiver, and returns what calls it.
func grpcListener(t *testing.T, sv *service) (call func(token string, frame []byte, headers ...string) (grpcStatus string, h http.Header), addr string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run := &running{logger: slog.New(slog.DiscardHandler), c: config.Config{MaxConnections: 100, ShutdownTime: 10 * time.Second, IdleTimeout: time.Minute}}
	var r receiver = newOTLPReceiver(&receiveTarget{Receiver: config.Receiver{Protocol: config.OTLPGRPC, Address: "x", Log: "default/main"}, listener: l, s: run}, sv.s)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the receiver %s: %v", r.Name(), err)
		}
	})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return func(token string, frame []byte, headers ...string) (string, http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+r.Addr().String()+otlp.GRPCPath, bytes.NewReader(frame))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kindGRPC)
		req.Header.Set("Te", "trailers")
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d, %v: %s", resp.StatusCode, err, data)
		}
		if s := resp.Trailer.Get("Grpc-Status"); s != "" {
			if string(data) != "\x00\x00\x00\x00\x00" {
				t.Errorf("answered %q", data)
			}
			return s, resp.Trailer
		}
		return resp.Header.Get("Grpc-Status"), resp.Header
	}, r.Addr().String()
}

func grpcFrame(compressed byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{compressed}, uint32(len(message))), message...)
}

// TestGRPCIsTheSame as HTTP: one message, compressed or not, its repeats, what is wrong with it, and whose it is.
func TestGRPCIsTheSame(t *testing.T) {
	h := &heard{}
	sv := serve(t, func(o *Options) { o.Sources = h; o.Limits.Body = 1 << 20 })
	call, addr := grpcListener(t, sv)
	l := sv.log("default", "main")
	body := protobuf(t, exportOf("a", 1000, 5))
	if s, _ := call(sv.root, grpcFrame(0, body)); s != "0" || l.Size() != 1000 {
		t.Fatalf("status %s, %d entries", s, l.Size())
	}
	if s, _ := call(sv.root, grpcFrame(1, gzipped(t, body)), "Grpc-Encoding", "gzip"); s != "0" || l.Size() != 1000 {
		t.Errorf("sent again: status %s, %d entries", s, l.Size())
	}
	reader := sv.token("", tenant.TokenSpec{Role: tenant.Reader})
	small := protobuf(t, exportOf("b", 1, 5))
	zeros := gzipped(t, make([]byte, 2<<20))
	lying := slices.Clone(gzipped(t, body))
	lying[len(lying)-4]++
	for name, c := range map[string]struct {
		token   string
		frame   []byte
		headers []string
		want    string
	}{
		"nobody":                  {"", grpcFrame(0, small), nil, "16"},
		"a reader":                {reader, grpcFrame(0, small), nil, "7"},
		"a log that is not there": {sv.root, grpcFrame(0, small), []string{ownLogHeader, "default/none"}, "5"},
		"malformed":               {sv.root, grpcFrame(0, []byte("hello")), nil, "3"},
		"too large":               {sv.root, grpcFrame(0, make([]byte, 1<<20+1)), nil, "3"},
		"too large, unpacked":     {sv.root, grpcFrame(1, zeros), []string{"Grpc-Encoding", "gzip"}, "3"},
		"not gzip":                {sv.root, grpcFrame(1, body), []string{"Grpc-Encoding", "gzip"}, "3"},
		"gzip of another length":  {sv.root, grpcFrame(1, lying), []string{"Grpc-Encoding", "gzip"}, "3"},
		"another encoding":        {sv.root, grpcFrame(1, body), []string{"Grpc-Encoding", "snappy"}, "12"},
		"two messages":            {sv.root, append(grpcFrame(0, small), grpcFrame(0, small)...), nil, "3"},
		"a broken frame":          {sv.root, grpcFrame(7, small), nil, "3"},
		"a message that ends":     {sv.root, grpcFrame(0, body)[:100], nil, "3"},
		"no message":              {sv.root, nil, nil, "3"},
	} {
		s, header := call(c.token, c.frame, c.headers...)
		if s != c.want || header.Get("Grpc-Message") == "" {
			t.Errorf("%s: status %s %q, want %s", name, s, header.Get("Grpc-Message"), c.want)
		}
		if details, err := base64.RawStdEncoding.DecodeString(header.Get("Grpc-Status-Details-Bin")); err != nil || !bytes.HasPrefix(details, []byte{8}) {
			t.Errorf("%s: details %q, %v", name, details, err)
		}
	}
	if l.Size() != 1000 || len(h.rejected) != 1 {
		t.Errorf("%d entries, heard of %q", l.Size(), h.rejected)
	}
	// Whose log it is: the header's, the token's only one, the listener's.
	tn := sv.tenant(tenant.TenantSettings{Name: "acme"})
	if _, err := tn.CreateLog(t.Context(), tenant.Local("test"), tenant.LogSettings{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	only := sv.token("acme", tenant.TokenSpec{Role: tenant.Writer, Logs: []string{"other"}})
	call(only, grpcFrame(0, small))
	call(sv.root, grpcFrame(0, small), ownLogHeader, "acme/main")
	call(sv.root, grpcFrame(0, small))
	if s, _ := call(only, grpcFrame(0, small), ownLogHeader, "acme/main"); s != "5" {
		t.Errorf("a log outside the token's limits: status %s", s)
	}
	for _, name := range []string{"other", "main"} {
		if got := sv.messages("acme", name); !slices.Equal(got, []string{"b0"}) {
			t.Errorf("acme/%s has %q", name, got)
		}
	}
	if l.Size() != 1001 {
		t.Errorf("%d entries", l.Size())
	}
	// Nothing else is there, and nobody speaks HTTP/1.
	resp, err := http.Get("http://" + addr + "/healthz")
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("HTTP/1 got %s", resp.Status)
		}
	}
}
