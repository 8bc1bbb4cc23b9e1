package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/hooks"
)

// hookAdded is what `hooks add --json` prints.
type hookAdded struct{ ID, Path, Secret string }

func addHook(t *testing.T, env map[string]string, args ...string) hookAdded {
	t.Helper()
	var s hookAdded
	if err := json.Unmarshal(mustRun(t, env, nil, append([]string{"hooks", "add", "--json"}, args...)...).out, &s); err != nil || s.ID == "" {
		t.Fatalf("%+v, %v", s, err)
	}
	return s
}

func TestSamplesOfEveryKindAreAuthentic(t *testing.T) {
	now := time.Now()
	for _, kind := range hooks.Kinds() {
		s := &hookSource{Kind: kind}
		if kind == hooks.HMAC {
			s.Scheme = &hooks.Scheme{Header: "X-Sig"}
		}
		const secret = "whsec_c2VjcmV0"
		body, header, id, err := sampleOf(s, secret, now)
		if err != nil || !json.Valid(body) {
			t.Errorf("%s: %s, %v", kind, body, err)
			continue
		}
		if _, err := hooks.Verify(kind, s.Scheme, header, body, [][]byte{[]byte(secret)}, now); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if d, err := hooks.Read(kind, s.Scheme, header, body); err != nil || kind != hooks.HMAC && d.ID != id {
			t.Errorf("%s: %+v, %v", kind, d, err)
		}
	}
}

func TestHooksTestShowsTheStoredEntry(t *testing.T) {
	s := startService(t, t.TempDir(), nil)
	env := map[string]string{"IMMUTABLE_SERVER": s.url, "IMMUTABLE_TOKEN": testToken}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret_of_a_provider\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{hooks.GitHub, hooks.HMAC} {
		args := []string{kind, "--title", "test of " + kind}
		if kind == hooks.HMAC {
			args = append(args, "--secret-file", secret, "--header", "X-Sig", "--timestamp", "X-Time", "--tolerance", "30s", "--delivery", "X-Id", "--level", "security")
		}
		h := addHook(t, env, args...)
		r := mustRun(t, env, nil, "hooks", "test", h.ID)
		if !bytes.Contains(r.out, []byte(`"provider":"`+kind+`"`)) || !bytes.Contains(r.out, []byte("immutable-test-")) {
			t.Errorf("%s: %s\n%s", kind, r.out, r.errOut)
		}
		if again := mustRun(t, env, nil, "hooks", "list"); kind == hooks.GitHub && !bytes.Contains(again.out, []byte(h.ID+"  github   -> main  1 secrets")) {
			t.Errorf("the secret of the test is left: %s", again.out)
		}
	}
	github := addHook(t, env, "github")
	var rotated hookAdded
	if err := json.Unmarshal(mustRun(t, env, nil, "hooks", "rotate", github.ID, "--overlap", "1h", "--json").out, &rotated); err != nil || rotated.Secret == "" || rotated.Secret == github.Secret {
		t.Errorf("rotated %+v, %v", rotated, err)
	}
	mustRun(t, env, nil, "hooks", "remove", github.ID)
	notion := addHook(t, env, "notion")
	if r := run(t, env, nil, "hooks", "test", notion.ID); r.code != exitUnknown || !bytes.Contains(r.errOut, []byte("have Notion send it first")) {
		t.Errorf("a test before the handshake: %d %s", r.code, r.errOut)
	}
	resp, err := http.Post(s.url+notion.Path, "application/json", strings.NewReader(`{"verification_token":"secret_of_the_handshake_1"}`))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("handshake: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if r := mustRun(t, env, nil, "hooks", "token", notion.ID); strings.TrimSpace(string(r.out)) != "secret_of_the_handshake_1" {
		t.Errorf("token %s", r.out)
	}

	body := bytes.Repeat([]byte(`"large" `), 40_000)
	hmac := addHook(t, env, "hmac", "--header", "X-Sig")
	signed, _ := hooks.Sign(hooks.HMAC, &hooks.Scheme{Header: "X-Sig"}, []byte(hmac.Secret), body, "", time.Now())
	req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+hmac.Path, bytes.NewReader(body))
	req.Header = signed
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var r receipt
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", resp.StatusCode, err)
	}
	if got := mustRun(t, env, nil, "hooks", "body", fmt.Sprint(r.Index), "--quiet"); !bytes.Equal(got.out, body) {
		t.Errorf("hooks body gives %d bytes, want %d", len(got.out), len(body))
	}
	if got := run(t, env, nil, "hooks", "body", fmt.Sprint(r.Index-1), "--quiet"); got.code != exitOK {
		t.Errorf("hooks body of a part: %d %s", got.code, got.errOut)
	}
	wrong := strings.Repeat("ab", 32)
	part := mustRun(t, env, nil, "log", "audit", "part 1 of 1", "raw=forged", "rawPart:=1", "rawParts:=1", "rawSha256="+wrong, "--json")
	var forged receipt
	if err := json.Unmarshal(part.out, &forged); err != nil {
		t.Fatal(err)
	}
	mustRun(t, env, nil, "log", "audit", "delivery", "rawParts:=1", fmt.Sprintf("rawFirst:=%d", forged.Index), "rawSha256="+wrong)
	if got := run(t, env, nil, "hooks", "body", fmt.Sprint(forged.Index+1), "--quiet"); got.code != exitNo || len(got.out) != 0 {
		t.Errorf("a body with another digest: %d %s", got.code, got.out)
	}
	for _, bad := range [][]string{{"hooks"}, {"hooks", "nonsense"}, {"hooks", "add"}, {"hooks", "add", "teletype"}, {"hooks", "rotate", "0000000000000000"}, {"hooks", "fill", "somewhere"}, {"hooks", "job", "audit", "m"}} {
		if r := run(t, env, nil, bad...); r.code != exitUnknown || len(r.errOut) == 0 {
			t.Errorf("%v: %d %s", bad, r.code, r.errOut)
		}
	}
	s.stop()
}

// githubAPI speaks what GitHub documents of a hook's deliveries.
type githubAPI struct {
	*httptest.Server
	mu          sync.Mutex
	deliveries  []map[string]any // the newest first
	redelivered []string
}

func newGitHub(t *testing.T) *githubAPI {
	t.Helper()
	g := &githubAPI{}
	const base = "/repos/o/r/hooks/1/deliveries"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+base, func(w http.ResponseWriter, r *http.Request) {
		from, per := 0, 2
		if c := r.URL.Query().Get("cursor"); c != "" {
			_, _ = fmt.Sscan(c, &from)
		}
		if r.URL.Query().Get("per_page") != "100" && from == 0 {
			t.Errorf("asked for %s", r.URL)
		}
		end := min(from+per, len(g.deliveries))
		if end < len(g.deliveries) {
			w.Header().Set("Link", fmt.Sprintf(`<%s%s?per_page=100&cursor=%d>; rel="next"`, g.URL, base, end))
		}
		var page []map[string]any
		for _, d := range g.deliveries[from:end] {
			short := map[string]any{}
			for k, v := range d {
				if k != "request" {
					short[k] = v
				}
			}
			page = append(page, short)
		}
		_ = json.NewEncoder(w).Encode(page)
	})
	find := func(r *http.Request) map[string]any {
		for _, d := range g.deliveries {
			if fmt.Sprint(d["id"]) == r.PathValue("id") {
				return d
			}
		}
		return nil
	}
	mux.HandleFunc("GET "+base+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ") // as the API answers: not the bytes that were signed
		_ = e.Encode(find(r))
	})
	mux.HandleFunc("POST "+base+"/{id}/attempts", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.redelivered = append(g.redelivered, r.PathValue("id"))
		g.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte("{}"))
	})
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if r.Header.Get("Authorization") != "Bearer ghp_test" || r.Header.Get("Accept") != "application/vnd.github+json" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"message":"Bad credentials"}`))
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *githubAPI) deliver(id int, guid string, status int, payload string) {
	g.deliveries = append([]map[string]any{{
		"id": id, "guid": guid, "delivered_at": time.Now().Add(-time.Duration(100-id) * time.Minute).UTC().Format(time.RFC3339), "redelivery": false, "duration": 0.27, "status": "x", "status_code": status,
		"event": "issues", "action": "opened", "installation_id": nil, "repository_id": 1, "throttled_at": nil,
		"request": map[string]any{"headers": map[string]string{"X-GitHub-Delivery": guid}, "payload": json.RawMessage(payload)}, "response": map[string]any{"headers": map[string]string{}, "payload": "ok"},
	}}, g.deliveries...)
}

func TestMissedDeliveriesAreFilledOnce(t *testing.T) {
	s := startService(t, t.TempDir(), nil)
	g := newGitHub(t)
	env := map[string]string{"IMMUTABLE_SERVER": s.url, "IMMUTABLE_TOKEN": testToken, "GITHUB_TOKEN": "ghp_test", "IMMUTABLE_GITHUB_API": g.URL}
	h := addHook(t, env, "github")
	env["IMMUTABLE_HOOK_SECRET"] = h.Secret
	payload := func(n int) string { return fmt.Sprintf(`{"action":"opened","issue":{"number":%d}}`, n) }
	send := func(guid, body string) {
		signed, _ := hooks.Sign(hooks.GitHub, nil, []byte(h.Secret), []byte(body), guid, time.Now())
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+h.Path, strings.NewReader(body))
		req.Header = signed
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", resp, err)
		}
		_ = resp.Body.Close()
	}
	g.deliver(1, "taken", 200, payload(1))
	send("taken", payload(1))
	g.deliver(2, "missed", 502, payload(2))
	g.deliver(3, "retried", 500, payload(3))
	g.deliver(4, "retried", 200, payload(3)) // by hand, later
	send("retried", payload(3))
	g.deliver(5, "answer-lost", 504, payload(5)) // it came, and GitHub does not know
	send("answer-lost", payload(5))
	g.deliver(6, "refused", 0, payload(6))

	fill := func(more ...string) fillResult {
		t.Helper()
		var f fillResult
		r := mustRun(t, env, nil, append([]string{"hooks", "fill", "repos/o/r/hooks/1", "--json"}, more...)...)
		if err := json.Unmarshal(r.out, &f); err != nil {
			t.Fatalf("%s: %v", r.out, err)
		}
		return f
	}
	if f := fill("--redeliver"); fmt.Sprint(f.Filled) != "[missed refused]" || fmt.Sprint(g.redelivered) != "[2 6]" {
		t.Errorf("asked GitHub for %v, says %+v", g.redelivered, f)
	}
	if f := fill(); f.Listed != 5 || f.Missed != 3 || f.There != 1 || fmt.Sprint(f.Filled) != "[missed refused]" || len(f.Failed) != 0 {
		t.Errorf("got %+v", f)
	}
	if f := fill(); f.There != 3 || len(f.Filled) != 0 {
		t.Errorf("a second time: %+v", f)
	}
	delete(env, "IMMUTABLE_TOKEN") // nothing may be read: the server tells repeats
	if f := fill(); f.There != 3 || len(f.Filled) != 0 {
		t.Errorf("without a token: %+v", f)
	}
	send("missed", `{ "issue": {"number": 2}, "action": "opened" }`) // GitHub's own bytes, at last: the same delivery
	if f := fill("--since", "1s"); f.Listed != 0 {
		t.Errorf("of the last second: %+v", f)
	}
	env["IMMUTABLE_TOKEN"] = testToken
	_, data, err := s.request(http.DefaultClient, "GET", mainLog+"/count?q=source.provider:github", "", "")
	if err != nil || !bytes.Contains(data, []byte(`"count":5`)) {
		t.Errorf("entries: %s, %v", data, err)
	}
	env["IMMUTABLE_HOOK_SECRET"] = "another secret"
	g.deliver(7, "late", 500, payload(7))
	if r := run(t, env, nil, "hooks", "fill", "repos/o/r/hooks/1"); r.code != exitUnknown || !bytes.Contains(r.errOut, []byte("does not know the secret")) {
		t.Errorf("with another secret: %d %s", r.code, r.errOut)
	}
	env["GITHUB_TOKEN"] = "wrong"
	if r := run(t, env, nil, "hooks", "fill", "repos/o/r/hooks/1"); r.code != exitUnknown || !bytes.Contains(r.errOut, []byte("Bad credentials")) {
		t.Errorf("with a wrong token: %d %s", r.code, r.errOut)
	}
	s.stop()
}
