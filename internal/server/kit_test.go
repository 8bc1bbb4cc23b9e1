package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// service is a whole service on a loopback listener, as Run puts it together.
type service struct {
	t     testing.TB
	dir   string
	in    *tenant.Installation
	s     *Server
	http  *http.Server
	addr  string
	root  string // token of the installation's administrator
	close func()
}

// serve starts a service in a new directory. change, which may be nil, has the last word on its options.
func serve(t testing.TB, change func(*Options)) *service {
	t.Helper()
	return serveIn(t, t.TempDir(), change)
}

const rootToken = "first-administrator-of-a-test"

// serveIn starts a service in dir.
func serveIn(t testing.TB, dir string, change func(*Options)) *service {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))
	prefix := "log.example/test"
	if _, err := os.Stat(filepath.Join(dir, "installation.json")); err == nil {
		prefix = "" // it has one
	}
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: dir, OriginPrefix: prefix, Log: immutable.Config{Hostname: "server.example"}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Bootstrap(t.Context(), rootToken); err != nil {
		t.Fatal(err)
	}
	auth, err := access.New(t.Context(), in, access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Installation: in, Auth: auth, Logger: logger}
	if change != nil {
		change(&o)
	}
	sv := &service{t: t, dir: dir, in: in, s: New(o), root: rootToken}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sv.addr = l.Addr().String()
	sv.http = httpServer(sv.s, time.Minute, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- sv.http.Serve(l) }()
	closed := false
	sv.close = func() {
		if closed {
			return
		}
		closed = true
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := sv.s.Shutdown(ctx); err != nil {
			t.Errorf("shut down: %v", err)
		}
		_ = sv.http.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
		if err := errors.Join(auth.Close(ctx), in.Close(ctx)); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Cleanup(sv.close)
	return sv
}

// testWriter is where the service's errors go.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// tenant makes a tenant with a log "main".
func (sv *service) tenant(s tenant.TenantSettings) *tenant.Tenant {
	sv.t.Helper()
	tn, err := sv.in.CreateTenant(sv.t.Context(), tenant.Local("test"), s)
	if err != nil {
		sv.t.Fatal(err)
	}
	if _, err := tn.CreateLog(sv.t.Context(), tenant.Local("test"), tenant.LogSettings{Name: "main"}); err != nil {
		sv.t.Fatal(err)
	}
	return tn
}

// token makes a token of a tenant; of the installation where name is empty.
func (sv *service) token(name string, spec tenant.TokenSpec) string {
	sv.t.Helper()
	if spec.Name == "" {
		spec.Name = "test"
	}
	var plain string
	var err error
	if name == "" {
		plain, _, err = sv.in.CreateToken(sv.t.Context(), tenant.Local("test"), spec)
	} else {
		var tn *tenant.Tenant
		if tn, err = sv.in.Tenant(name); err == nil {
			plain, _, err = tn.CreateToken(sv.t.Context(), tenant.Local("test"), spec)
		}
	}
	if err != nil {
		sv.t.Fatal(err)
	}
	return plain
}

// log is one of the installation's logs.
func (sv *service) log(tenantName, logName string) *tenant.Log {
	sv.t.Helper()
	tn, err := sv.in.Tenant(tenantName)
	if err != nil {
		sv.t.Fatal(err)
	}
	l, err := tn.Log(logName)
	if err != nil {
		sv.t.Fatal(err)
	}
	return l
}

// mainLog is the path of the first tenant's log.
const mainLog = "/api/v1/tenants/default/logs/main"

// got is what came back.
type got struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request with a token ("" for none) and headers, and reads the whole answer, which must be what openapi.json says.
func (sv *service) do(method, path, token string, body io.Reader, headers ...string) got {
	sv.t.Helper()
	req, err := http.NewRequestWithContext(sv.t.Context(), method, "http://"+sv.addr+path, body)
	if err != nil {
		sv.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		sv.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		sv.t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	a := got{resp.StatusCode, resp.Header, data}
	conforms(sv.t, sv.s, req, a)
	return a
}

// get is do with the administrator's token.
func (sv *service) get(path string) got {
	sv.t.Helper()
	return sv.do("GET", path, sv.root, nil)
}

// post sends JSON with the administrator's token.
func (sv *service) post(path, body string, headers ...string) got {
	sv.t.Helper()
	return sv.do("POST", path, sv.root, strings.NewReader(body), append([]string{"Content-Type", "application/json"}, headers...)...)
}

// want checks the status and decodes the body into v, which may be nil.
func (a got) want(t testing.TB, status int, v any) got {
	t.Helper()
	if a.status != status {
		t.Fatalf("got status %d, want %d: %.500s", a.status, status, a.body)
	}
	if v != nil {
		if err := json.Unmarshal(a.body, v); err != nil {
			t.Fatalf("decode %.500s: %v", a.body, err)
		}
	}
	return a
}

// problem checks that the answer is a problem with this code.
func (a got) problem(t testing.TB, code string) map[string]any {
	t.Helper()
	var p map[string]any
	if kind := a.header.Get("Content-Type"); kind != "application/problem+json" {
		t.Fatalf("got status %d of type %q, want the problem %s: %.500s", a.status, kind, code, a.body)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("decode %.500s: %v", a.body, err)
	}
	if p["code"] != code || p["status"] != float64(a.status) || p["type"] != "/errors/"+code {
		t.Fatalf("got %.500s with status %d, want the problem %s", a.body, a.status, code)
	}
	return p
}

// messages are the messages of a log's entries, oldest first, without the log's own control entries.
func (sv *service) messages(tenantName, logName string) []string {
	sv.t.Helper()
	var out []string
	for e, err := range sv.log(tenantName, logName).Entries(sv.t.Context(), immutable.Query{}) {
		if err != nil {
			sv.t.Fatal(err)
		}
		if e.Control == nil {
			out = append(out, e.Message)
		}
	}
	return out
}

// lines are n events as NDJSON.
func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return b.String()
}
