package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/hooks"
	"github.com/tree-of-life-system/immutable/internal/source"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

const sources = "/api/v1/tenants/default/sources"

// hookService is a service that takes webhooks.
type hookService struct {
	*service
	reg *source.Registry
	now func() time.Time
}

func serveHooks(t testing.TB, dir string, now func() time.Time) *hookService {
	t.Helper()
	h := &hookService{now: now}
	h.service = serveIn(t, dir, func(o *Options) {
		o.Now = now
		h.reg = source.New(source.Options{Installation: o.Installation, Now: now})
		o.Registry = h.reg
	})
	return h
}

type madeSource struct {
	ID, Secret, Path string
	PendingUntil     time.Time
	Unconfirmed      bool
	Secrets          []struct{ ID string }
}

func (h *hookService) source(spec string) madeSource {
	h.t.Helper()
	var s madeSource
	h.post(sources, spec).want(h.t, http.StatusCreated, &s)
	return s
}

// send signs a body and sends it to a source's address.
func (h *hookService) send(kind, path, secret, id string, body []byte, more ...string) got {
	h.t.Helper()
	signed, err := hooks.Sign(kind, nil, []byte(secret), body, id, h.now())
	if err != nil {
		h.t.Fatal(err)
	}
	pairs := append([]string{"Content-Type", "application/json"}, more...)
	for name := range signed {
		pairs = append(pairs, name, signed.Get(name))
	}
	return h.do("POST", path, "", bytes.NewReader(body), pairs...)
}

type hookReceipt struct {
	Index    uint64
	ID, Leaf string
	Repeated bool
}

// rejections are what the log of the log has about refusals, after all of them were recorded.
func (h *hookService) rejections() []map[string]any {
	h.t.Helper()
	if err := h.reg.Close(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	var out []map[string]any
	for e, err := range h.log("default", "system").Search(h.t.Context(), immutable.Query{Text: "action:source.rejected OR action:source.malformed"}) {
		if err != nil {
			h.t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			h.t.Fatal(err)
		}
		m["level"] = e.Level.String()
		out = append(out, m)
	}
	return out
}

func payloadsOfGitHub(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "data", "github-webhooks", "*", "*.json"))
	if err != nil || len(files) == 0 {
		t.Skip("no shared data here")
	}
	out := map[string][]byte{}
	for _, f := range files {
		if out[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestDeliveriesAreInTheLogWhenTheyAreAnswered(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	s := h.source(`{"kind":"github","log":"main","title":"org"}`)
	var wg sync.WaitGroup
	work := make(chan [2]string)
	payloads := payloadsOfGitHub(t)
	for range 8 {
		wg.Go(func() {
			for job := range work {
				body := payloads[job[0]]
				if a := h.send(hooks.GitHub, s.Path, s.Secret, job[1], body, "X-GitHub-Event", filepath.Base(filepath.Dir(job[0]))); a.status != http.StatusOK {
					t.Errorf("%s: status %d: %s", job[0], a.status, a.body)
				}
				changed := bytes.Clone(body)
				changed[len(changed)/2] ^= 1
				signed, _ := hooks.Sign(hooks.GitHub, nil, []byte(s.Secret), body, job[1]+"x", time.Now())
				if a := h.do("POST", s.Path, "", bytes.NewReader(changed), "X-Hub-Signature-256", signed.Get("X-Hub-Signature-256"), "X-GitHub-Delivery", job[1]+"x"); a.status != http.StatusUnauthorized {
					t.Errorf("%s with a byte changed: status %d: %s", job[0], a.status, a.body)
				}
			}
		})
	}
	n := 0
	for name := range payloads {
		work <- [2]string{name, fmt.Sprintf("delivery-%d", n)}
		n++
	}
	close(work)
	wg.Wait()
	kept := 0
	for e, err := range h.log("default", "main").Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		var m struct {
			Raw      string
			Delivery struct{ ID string }
			Source   struct{ Provider string }
		}
		if e.Control != nil || json.Unmarshal(e.Metadata, &m) != nil {
			continue
		}
		for _, body := range payloads {
			if m.Raw == string(body) && m.Source.Provider == "github" && strings.HasPrefix(m.Delivery.ID, "delivery-") {
				kept++
				break
			}
		}
	}
	if kept != len(payloads) {
		t.Errorf("%d of %d bodies are whole in the log", kept, len(payloads))
	}
	var list struct {
		Traffic []source.Traffic
	}
	h.get(sources).want(t, http.StatusOK, &list)
	if len(list.Traffic) != 1 || list.Traffic[0].Accepted != uint64(n) || list.Traffic[0].Rejected["signature"] != uint64(n) || list.Traffic[0].LastSeen.IsZero() {
		t.Errorf("counted %+v, want %d and %d", list.Traffic, n, n)
	}
	total := 0.0
	for _, r := range h.rejections() {
		if r["level"] != "SECURITY" || r["reason"] != "signature" || r["source"] != s.ID || r["log"] != "main" {
			t.Errorf("recorded %v", r)
		}
		total += r["count"].(float64)
	}
	if rs := h.rejections(); total != float64(n) || len(rs) > 3 {
		t.Errorf("%d entries count %v refusals, want %d in a few", len(rs), total, n)
	}
}

func TestRepeatsGetTheFirstReceiptAndOtherBodiesAreRefused(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	s := h.source(`{"kind":"github","log":"main"}`)
	body := []byte(`{"action":"opened","issue":{"number":1}}`)
	var a, b hookReceipt
	h.send(hooks.GitHub, s.Path, s.Secret, "d-1", body).want(t, http.StatusOK, &a)
	h.send(hooks.GitHub, s.Path, s.Secret, "d-1", body, "User-Agent", "another", "Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").want(t, http.StatusOK, &b)
	if b.Index != a.Index || b.ID != a.ID || b.Leaf != a.Leaf || !b.Repeated || a.Repeated {
		t.Errorf("got %+v, then %+v", a, b)
	}
	h.send(hooks.GitHub, s.Path, s.Secret, "d-1", []byte(`{"action":"closed"}`)).problem(t, "key-conflict")
	if rs := h.rejections(); len(rs) != 1 || rs[0]["reason"] != "conflict" || rs[0]["level"] != "SECURITY" || rs[0]["source"] != s.ID {
		t.Errorf("recorded %v", rs)
	}
	h.send(hooks.GitHub, s.Path, s.Secret, "d-2", []byte(`Hello, World!`)).problem(t, "bad-json")
	h.send(hooks.GitHub, s.Path, s.Secret, "bad\tid", body).problem(t, "bad-json")

	n := h.source(`{"kind":"notion","log":"main","secret":"secret_of_notion_1"}`)
	first := []byte(`{"id":"n-1","type":"page.created","attempt_number":1}`)
	h.send(hooks.Notion, n.Path, "secret_of_notion_1", "", first).want(t, http.StatusOK, &a)
	h.send(hooks.Notion, n.Path, "secret_of_notion_1", "", bytes.Replace(first, []byte("1}"), []byte("2}"), 1)).want(t, http.StatusOK, &b)
	if b.Index != a.Index || !b.Repeated {
		t.Errorf("the second attempt got %+v, want %+v", b, a)
	}
}

// What is not there, and a signature that is wrong, get the same answer to the byte.
func TestStrangersLearnNothing(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	s := h.source(`{"kind":"github","log":"main"}`)
	off := h.source(`{"kind":"standard","log":"main"}`)
	h.do("PATCH", sources+"/"+off.ID, h.root, strings.NewReader(`{"disabled":true}`), "Content-Type", "application/json").want(t, http.StatusOK, nil)
	h.source(`{"kind":"notion","log":"main","secret":"secret_of_notion_1"}`)
	body := []byte(`{}`)
	want := h.send(hooks.GitHub, s.Path, "wrong secret", "1", body)
	want.problem(t, "unauthenticated")
	token := []byte(`{"verification_token":"secret_aaaaaaaaaaaaaaaaaaaaaa"}`)
	for what, a := range map[string]got{
		"another tenant":  h.send(hooks.GitHub, "/hooks/github/nobody/main", s.Secret, "1", body),
		"another log":     h.send(hooks.GitHub, "/hooks/github/default/nothing", s.Secret, "1", body),
		"the system log":  h.send(hooks.GitHub, "/hooks/github/default/system", s.Secret, "1", body),
		"another kind":    h.send(hooks.Linear, "/hooks/linear/default/main", s.Secret, "1", body),
		"no signature":    h.do("POST", s.Path, "", bytes.NewReader(body)),
		"a token instead": h.do("POST", s.Path, h.root, bytes.NewReader(body)),
		"a disabled one":  h.send(hooks.Standard, off.Path, off.Secret, "1", body),
		"hmac":            h.do("POST", "/hooks/hmac/default/main", "", bytes.NewReader(body)),
		"handshake":       h.do("POST", "/hooks/notion/default/main", "", bytes.NewReader(token)),
		"handshake there": h.do("POST", "/hooks/notion/nobody/main", "", bytes.NewReader(token)),
	} {
		if a.status != want.status || !bytes.Equal(a.body, want.body) || a.header.Get("WWW-Authenticate") != want.header.Get("WWW-Authenticate") {
			t.Errorf("%s: status %d, %s; want %s", what, a.status, a.body, want.body)
		}
	}
	h.do("POST", "/hooks/teletype/default/main", "", nil).problem(t, "not-found")
	h.send(hooks.GitHub, s.Path, s.Secret, "1", body, "Content-Encoding", "gzip").problem(t, "unsupported-encoding")
	if h.log("default", "main").Size() > 1 { // the entry that begins it
		t.Error("something came into the log")
	}
	unknown := 0
	for _, r := range h.rejections() {
		if r["reason"] == "unknown" {
			unknown++
		}
		if strings.Contains(fmt.Sprint(r), "secret_aaaa") {
			t.Errorf("a token is in the record %v", r)
		}
	}
	if unknown == 0 {
		t.Error("requests of unknown sources are not on record")
	}
}

func TestSecretsRotateWithoutALostDelivery(t *testing.T) {
	var mu sync.Mutex
	clock := time.Now()
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	dir := t.TempDir()
	h := serveHooks(t, dir, now)
	s := h.source(`{"kind":"github","log":"main"}`)
	patch := func(body string) got {
		t.Helper()
		return h.do("PATCH", sources+"/"+s.ID, h.root, strings.NewReader(body), "Content-Type", "application/json")
	}
	var next madeSource
	patch(`{"newSecret":"","overlap":3600}`).want(t, http.StatusOK, &next)
	if next.Secret == "" || next.Secret == s.Secret || len(next.Secrets) != 2 {
		t.Fatalf("got %+v", next)
	}
	id := 0
	try := func(secret string, want int) {
		t.Helper()
		id++
		h.send(hooks.GitHub, s.Path, secret, fmt.Sprint("d-", id), []byte(`{}`)).want(t, want, nil)
	}
	try(s.Secret, http.StatusOK)
	try(next.Secret, http.StatusOK)
	mu.Lock()
	clock = clock.Add(time.Hour)
	mu.Unlock()
	try(s.Secret, http.StatusUnauthorized)
	try(next.Secret, http.StatusOK)
	h.close()
	h = serveHooks(t, dir, now)
	try(next.Secret, http.StatusOK)
	var test madeSource
	patch(`{"newSecret":"","life":60}`).want(t, http.StatusOK, &test)
	try(test.Secret, http.StatusOK)
	patch(`{"endSecret":"`+test.Secrets[1].ID+`"}`).want(t, http.StatusOK, nil)
	try(test.Secret, http.StatusUnauthorized)
	try(next.Secret, http.StatusOK)
	for _, bad := range []string{`{}`, `{"title":"x","newSecret":""}`, `{"life":5}`, `{"newSecret":"short"}`, `{"newSecret":"","life":-1}`, `{"newSecret":"","overlap":99999999}`, `{"log":"nothing"}`, `{"log":"system"}`, `{"title":"a\u0007"}`} {
		patch(bad).problem(t, "bad-parameter")
	}
	for range 3 {
		patch(`{"newSecret":""}`).want(t, http.StatusOK, nil)
	}
	patch(`{"newSecret":""}`).problem(t, "bad-parameter") // more than there can be
	file, err := os.ReadFile(filepath.Join(dir, "tenants", "default", "sources.json"))
	if err != nil || strings.Contains(string(file), s.Secret) {
		t.Errorf("the file keeps a secret that has ended, or %v", err)
	}
	for _, secret := range []string{s.Secret, next.Secret, test.Secret} {
		if bytes.Contains(h.get(sources).body, []byte(secret)) || bytes.Contains(h.get(sources+"/"+s.ID).body, []byte(secret)) {
			t.Error("a secret is shown again")
		}
		for e, err := range h.log("default", "system").Entries(t.Context(), immutable.Query{}) {
			if err != nil || bytes.Contains(e.Line, []byte(secret)) {
				t.Fatalf("a secret is in the log of the log: %v", err)
			}
		}
	}
	h.do("DELETE", sources+"/"+s.ID, h.root, nil).want(t, http.StatusNoContent, nil)
	h.do("DELETE", sources+"/"+s.ID, h.root, nil).problem(t, "not-found")
	try(next.Secret, http.StatusUnauthorized)
}

func TestNotionIsVerifiedOnceAndShownToAnAdministrator(t *testing.T) {
	var mu sync.Mutex
	clock := time.Now()
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	h := serveHooks(t, t.TempDir(), now)
	s := h.source(`{"kind":"notion","log":"main"}`)
	if s.PendingUntil.IsZero() || s.Secret != "" || len(s.Secrets) != 0 {
		t.Fatalf("got %+v", s)
	}
	const first, second = "secret_the_first_of_two_tokens", "secret_the_second_of_two_tokens"
	say := func(token string) got {
		return h.do("POST", s.Path, "", strings.NewReader(`{"verification_token":"`+token+`"}`), "Content-Type", "application/json")
	}
	reveal := func(token string) got {
		return h.do("POST", sources+"/"+s.ID+"/verification", token, nil)
	}
	reveal(h.root).problem(t, "conflict")
	event := []byte(`{"id":"e-1","type":"page.created"}`)
	h.send(hooks.Notion, s.Path, first, "", event).problem(t, "unauthenticated")
	say(first).want(t, http.StatusOK, nil)
	say(second).problem(t, "unauthenticated") // never over another
	reveal(h.token("default", tenant.TokenSpec{Role: tenant.Auditor})).problem(t, "forbidden")
	var shown struct{ VerificationToken string }
	reveal(h.root).want(t, http.StatusOK, &shown)
	if shown.VerificationToken != first {
		t.Errorf("shown %q", shown.VerificationToken)
	}
	h.send(hooks.Notion, s.Path, second, "", event).problem(t, "unauthenticated")
	h.send(hooks.Notion, s.Path, first, "", event).want(t, http.StatusOK, nil)
	reveal(h.root).problem(t, "conflict") // it works: there is no reason to show it again
	say(second).problem(t, "unauthenticated")

	late := h.source(`{"kind":"notion","log":"main"}`)
	h.do("PATCH", sources+"/"+late.ID, h.root, strings.NewReader(`{"newSecret":"secret_that_was_given"}`), "Content-Type", "application/json").want(t, http.StatusOK, nil)
	say(second).problem(t, "unauthenticated") // it has a secret: nothing is waited for
	h.do("DELETE", sources+"/"+late.ID, h.root, nil).want(t, http.StatusNoContent, nil)
	late = h.source(`{"kind":"notion","log":"main"}`)
	mu.Lock()
	clock = clock.Add(2 * time.Hour)
	mu.Unlock()
	say(second).problem(t, "unauthenticated") // nobody waits that long
	h.do("DELETE", sources+"/"+late.ID, h.root, nil).want(t, http.StatusNoContent, nil)
	var actions []string
	for e, err := range h.log("default", "system").Entries(t.Context(), immutable.Query{Text: "action:source.*"}) {
		if err != nil {
			t.Fatal(err)
		}
		var m struct{ Action string }
		_ = json.Unmarshal(e.Metadata, &m)
		if bytes.Contains(e.Line, []byte(first)) {
			t.Error("the token is in the log of the log")
		}
		if !strings.HasPrefix(m.Action, "source.rejected") {
			actions = append(actions, m.Action)
		}
	}
	if got, want := strings.Join(actions, " "), "source.create source.verify source.reveal source.create source.secret source.delete source.create source.delete"; got != want {
		t.Errorf("recorded %s, want %s", got, want)
	}
}

func TestFreshnessIsTheServersClock(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	s := h.source(`{"kind":"stripe","log":"main","secret":"whsec_test_secret"}`)
	body := []byte(`{"id":"evt_1","type":"invoice.paid"}`)
	for at, want := range map[time.Duration]int{-10 * time.Minute: 401, 10 * time.Minute: 401, 0: 200} {
		signed, _ := hooks.Sign(hooks.Stripe, nil, []byte("whsec_test_secret"), body, "", time.Now().Add(at))
		h.do("POST", s.Path, "", bytes.NewReader(body), "Stripe-Signature", signed.Get("Stripe-Signature")).want(t, want, nil)
	}
	reasons := map[any]bool{}
	for _, r := range h.rejections() {
		reasons[r["reason"]] = true
	}
	if !reasons["stale"] || !reasons["future"] {
		t.Errorf("recorded %v", reasons)
	}
}

// largeBody is JSON of n bytes that compresses to nothing special.
func largeBody(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"action":"opened","repository":{"full_name":"o/r"},"x":["`)
	for i := 0; b.Len() < n-3; i++ {
		fmt.Fprintf(&b, "line %d of ünïcode, \\\"quoted\\\"; ", i)
	}
	body := []byte(strings.ToValidUTF8(string(b.Bytes()[:n-3]), "?"))
	for body[len(body)-1] == '\\' {
		body = body[:len(body)-1]
	}
	for len(body) < n-3 {
		body = append(body, '.')
	}
	return append(body, `"]}`...)
}

func TestBodiesBeyondAnEntryAreKeptWhole(t *testing.T) {
	size := 2 << 20
	if os.Getenv("IMMUTABLE_LONG") != "" {
		size = hooks.MaxBody
	}
	h := serveHooks(t, t.TempDir(), time.Now)
	s := h.source(`{"kind":"github","log":"main"}`)
	body := largeBody(size)
	if len(body) != size || !json.Valid(body) {
		t.Fatalf("%d bytes, JSON %t", len(body), json.Valid(body))
	}
	var a, b hookReceipt
	h.send(hooks.GitHub, s.Path, s.Secret, "big", body, "X-GitHub-Event", "issues").want(t, http.StatusOK, &a)
	size1 := h.log("default", "main").Size()
	h.send(hooks.GitHub, s.Path, s.Secret, "big", body, "X-GitHub-Event", "issues").want(t, http.StatusOK, &b)
	if !b.Repeated || b.Index != a.Index || h.log("default", "main").Size() != size1 {
		t.Errorf("the repeat got %+v, want %+v; the log has %d entries, want %d", b, a, h.log("default", "main").Size(), size1)
	}
	e, err := h.log("default", "main").Entry(t.Context(), a.Index)
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		RawSHA256          string
		RawBytes, RawParts int
		RawFirst           uint64
		Repo               string
	}
	if err := json.Unmarshal(e.Metadata, &head); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	if head.RawSHA256 != hex.EncodeToString(sum[:]) || head.RawBytes != size || head.Repo != "o/r" || head.RawFirst+uint64(head.RawParts) != a.Index {
		t.Errorf("got %+v", head)
	}
	var whole []byte
	for x, err := range h.log("default", "main").Entries(t.Context(), immutable.Query{From: head.RawFirst, Limit: head.RawParts}) {
		var m struct {
			Raw, RawSHA256 string
			RawPart        int
		}
		if err != nil || json.Unmarshal(x.Metadata, &m) != nil || m.RawSHA256 != head.RawSHA256 {
			t.Fatalf("%v, %.300s", err, x.Line)
		}
		whole = append(whole, m.Raw...)
	}
	if !bytes.Equal(whole, body) {
		t.Error("the parts are not the body")
	}
	h.send(hooks.GitHub, s.Path, s.Secret, "big", append(bytes.Clone(body), ' ')).problem(t, "key-conflict")
}

func TestBodiesBeyondTheLimitAreRefused(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	s := h.source(`{"kind":"hmac","log":"main","scheme":{"header":"X-Sig"}}`)
	h.do("POST", s.Path, "", bytes.NewReader(make([]byte, hooks.MaxBody+1))).problem(t, "too-large")
	h.do("POST", s.Path, "", struct{ *bytes.Reader }{bytes.NewReader(make([]byte, hooks.MaxBody+1))}).problem(t, "too-large") // of unknown length
	h.do("POST", s.Path, "", bytes.NewReader(make([]byte, hooks.MaxBody))).problem(t, "unauthenticated")

	small := serveIn(t, t.TempDir(), func(o *Options) {
		o.Registry = source.New(source.Options{Installation: o.Installation})
		o.Limits.HookMemory = hookStep
	})
	small.do("POST", "/hooks/github/default/main", "", bytes.NewReader(make([]byte, freeHook+hookStep+1))).problem(t, "busy")
	small.do("POST", "/hooks/github/default/main", "", bytes.NewReader(make([]byte, freeHook+hookStep-1))).problem(t, "unauthenticated")
	if small.s.hooks.left != hookStep {
		t.Errorf("%d of %d bytes are free again", small.s.hooks.left, hookStep)
	}
}

func TestSourcesAreCheckedAndBounded(t *testing.T) {
	h := serveHooks(t, t.TempDir(), time.Now)
	for _, bad := range []string{
		`{"kind":"teletype","log":"main"}`, `{"kind":"github","log":"nothing"}`, `{"kind":"github","log":"system"}`, `{"kind":"stripe","log":"main"}`,
		`{"kind":"linear","log":"main"}`, `{"kind":"hmac","log":"main"}`, `{"kind":"github","log":"main","scheme":{"header":"X"}}`,
		`{"kind":"hmac","log":"main","scheme":{"header":"X","level":"LOUD"}}`, `{"kind":"standard","log":"main","secret":"whsec_!!!!!!!"}`, `{"kind":"github","log":"main","secret":"1234567"}`,
	} {
		h.post(sources, bad).problem(t, "bad-parameter")
	}
	h.post(sources, `{"kind":"github","log":"main","color":1}`).problem(t, "bad-json")
	h.do("POST", sources, h.token("default", tenant.TokenSpec{Role: tenant.Auditor}), strings.NewReader(`{"kind":"github","log":"main"}`), "Content-Type", "application/json").problem(t, "forbidden")
	for range 8 {
		h.source(`{"kind":"github","log":"main"}`)
	}
	h.post(sources, `{"kind":"github","log":"main"}`).problem(t, "bad-parameter")
	h.source(`{"kind":"standard","log":"main"}`)
	var list struct{ Sources []madeSource }
	h.get(sources).want(t, http.StatusOK, &list)
	if len(list.Sources) != 9 {
		t.Errorf("%d sources", len(list.Sources))
	}
}
