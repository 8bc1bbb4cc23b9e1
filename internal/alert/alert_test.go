package alert

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

const patience = 30 * time.Second

// bench is an installation with a manager, and a clock that the test may move.
type bench struct {
	t   *testing.T
	dir string
	in  *tenant.Installation
	m   *Manager
	l   *tenant.Log

	mu    sync.Mutex
	ahead time.Duration
	stop  func()
	admin *tenant.Principal
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(b.ahead)
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead += d
}

func newBench(t *testing.T, dir string, change func(o *Options, c *immutable.Config)) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, admin: tenant.Local("test")}
	o, c := Options{AllowPrivate: true, Now: b.now, Interval: time.Hour}, immutable.Config{CheckpointInterval: 10 * time.Millisecond}
	if change != nil {
		change(&o, &c)
	}
	var err error
	if b.in, err = tenant.Open(t.Context(), tenant.Options{Dir: dir, OriginPrefix: "test", Log: c}); err != nil {
		t.Fatal(err)
	}
	o.Installation = b.in
	b.m = New(o)
	b.m.back = func(int) time.Duration { return time.Millisecond }
	b.l = must(must(b.in.Tenant(tenant.DefaultName)).Log(tenant.MainName))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.m.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, b.in.Close(context.Background())); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	t.Cleanup(b.stop)
	b.wait("the first look", func() bool {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		return b.m.ctx != nil && len(b.m.tenants) == 2
	})
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (b *bench) wait(what string, ok func() bool) {
	b.t.Helper()
	end := time.After(patience)
	for !ok() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-end:
			b.t.Fatalf("waited %s for %s; alerts: %+v", patience, what, b.m.Active(tenant.DefaultName))
		}
	}
}

func (b *bench) rules(r Rules) {
	b.t.Helper()
	r.Limits.CheckpointLag = -1 // tests move the clock, and checkpoints do not follow
	if err := b.m.SetRules(context.Background(), b.admin, tenant.DefaultName, r); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) step() { b.m.step(context.Background()) }

func (b *bench) phase(key string) Phase {
	for _, s := range b.m.Active(tenant.DefaultName) {
		if s.Key == key {
			return s.Phase
		}
	}
	return ""
}

// recorded counts entries of the tenant's log of the log.
func (b *bench) recorded(action tenant.Action, has func(m map[string]any) bool) (n int) {
	b.t.Helper()
	system := must(b.l.Tenant().Log(tenant.SystemName))
	for e, err := range system.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			b.t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			b.t.Fatal(err)
		}
		if m["action"] == string(action) && (has == nil || has(m)) {
			n++
		}
	}
	return n
}

// receiver is a real HTTP server that keeps what it was sent.
type receiver struct {
	*httptest.Server

	mu     sync.Mutex
	got    []received
	answer func(n int, w http.ResponseWriter)
}

type received struct {
	header http.Header
	path   string
	body   []byte
}

func newReceiver(t *testing.T, answer func(n int, w http.ResponseWriter)) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.got = append(r.got, received{q.Header, q.URL.Path, body})
		n := len(r.got)
		r.mu.Unlock()
		if r.answer != nil {
			r.answer(n, w)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// messages are the bodies of webhooks, one a message: tries of the same one count once.
func (r *receiver) messages(t *testing.T) (list []message) {
	t.Helper()
	seen := map[string]bool{}
	for _, g := range r.all() {
		var m message
		if err := json.Unmarshal(g.body, &m); err != nil {
			t.Fatal(err)
		}
		if id := g.header.Get("webhook-id"); !seen[id] {
			seen[id] = true
			list = append(list, m)
		}
	}
	return list
}

const (
	secretA = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secretB = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// TestAlertIsSentOnceAgainAndResolved follows one alert, with a real receiver that checks both signatures.
func TestAlertIsSentOnceAgainAndResolved(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	b.rules(Rules{Sinks: []Sink{{Name: "hook", Type: Webhook, URL: r.URL + "/in", Secrets: []string{secretA, secretB}}}})
	e := Event{Key: "file.changed/main", Tenant: "default", Log: "main", Kind: FileChanged, Summary: "line one\nline two", Details: map[string]string{"file": "chain"}}
	for range 100 {
		b.m.Raise(e)
	}
	b.wait("the delivery", func() bool { return len(r.all()) == 1 })
	b.step()
	b.pass(3 * time.Hour)
	b.step()
	b.pass(61 * time.Minute)
	b.step()
	b.wait("the repetition", func() bool { return len(r.all()) == 2 })
	e.Resolved, e.Summary = true, "all is well"
	b.m.Raise(e)
	b.m.Raise(e)
	b.wait("the end", func() bool { return len(r.all()) == 3 })
	b.pass(5 * time.Hour)
	b.step()
	b.wait("the records", func() bool { return b.recorded(tenant.AlertSent, nil) == 3 })

	got := r.messages(t)
	for i, want := range []struct {
		kind, summary string
		phase         Phase
	}{{"alert.firing", "line one line two", Firing}, {"alert.firing", "line one line two", Firing}, {"alert.resolved", "all is well", Resolved}} {
		m := got[i]
		if m.Type != want.kind || m.Data.Phase != want.phase || m.Data.Summary != want.summary || m.Data.Severity != Critical || m.Data.Details["file"] != "chain" ||
			m.Data.Instance != got[0].Data.Instance || m.Data.Installation != b.in.ID() {
			t.Errorf("message %d: %+v", i, m)
		}
	}
	for _, g := range r.all() {
		for i, secret := range []string{secretA, secretB} {
			key := must(base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_")))
			mac := hmac.New(sha256.New, key)
			_, _ = fmt.Fprintf(mac, "%s.%s.%s", g.header.Get("webhook-id"), g.header.Get("webhook-timestamp"), g.body)
			if got, want := strings.Fields(g.header.Get("webhook-signature"))[i], "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
				t.Errorf("signature %d: %s, want %s", i, got, want)
			}
		}
	}
	if n := b.recorded(tenant.AlertRaised, nil); n != 1 {
		t.Errorf("raised is recorded %d times", n)
	}
	if n := b.recorded(tenant.AlertResolved, nil); n != 1 {
		t.Errorf("resolved is recorded %d times", n)
	}
	if len(r.all()) != 3 {
		t.Errorf("%d requests", len(r.all()))
	}
	b.pass(keepFor)
	b.step()
	if b.phase("file.changed/main") != "" {
		t.Error("a resolved alert is kept for ever")
	}
}

// TestFailingSinkIsAnAlertThroughTheOthers breaks one of two sinks for a while. Nothing is lost, and the broken sink is not
// told of its own failure.
func TestFailingSinkIsAnAlertThroughTheOthers(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	var broken sync.Mutex
	down := true
	bad := newReceiver(t, func(_ int, w http.ResponseWriter) {
		broken.Lock()
		defer broken.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	good := newReceiver(t, nil)
	b.rules(Rules{Sinks: []Sink{{Name: "bad", Type: Webhook, URL: bad.URL}, {Name: "good", Type: Webhook, URL: good.URL}}})
	b.m.Raise(Event{Key: "a", Tenant: "default", Kind: FileChanged, Summary: "first"})
	b.m.Raise(Event{Key: "a", Tenant: "default", Kind: FileChanged, Resolved: true})
	b.wait("the alert about the sink", func() bool { return b.phase("sink.failed/bad") == Firing })
	b.wait("its delivery", func() bool {
		return slices.ContainsFunc(good.messages(t), func(m message) bool { return m.Data.Kind == SinkFailed && m.Data.Details["sink"] == "bad" })
	})
	broken.Lock()
	down = false
	broken.Unlock()
	b.wait("its end", func() bool { return b.phase("sink.failed/bad") == Resolved })
	b.wait("all deliveries", func() bool { return len(bad.messages(t)) == 2 && len(good.messages(t)) == 4 })
	got := bad.messages(t)
	if got[0].Data.Phase != Firing || got[1].Data.Phase != Resolved || got[0].Data.Key != "a" {
		t.Errorf("the mended sink got %+v", got)
	}
	ids := map[string]string{}
	for _, g := range bad.all() { // tries of one message have one id and one body
		id := g.header.Get("webhook-id")
		if was, ok := ids[id]; ok && was != string(g.body) {
			t.Errorf("message %s has two bodies", id)
		}
		ids[id] = string(g.body)
	}
}

// TestAlertsOnlyFailedSinksHaveDoNotLoop has no sink that works.
func TestAlertsThatOnlyFailedSinksHaveDoNotLoop(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	refuse := func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }
	r1, r2 := newReceiver(t, refuse), newReceiver(t, refuse)
	b.rules(Rules{Sinks: []Sink{{Name: "one", Type: Webhook, URL: r1.URL}, {Name: "two", Type: Webhook, URL: r2.URL}}})
	b.m.Raise(Event{Key: "a", Tenant: "default", Kind: FileChanged, Summary: "first"})
	// Each sink: the alert, and the failure of the other.
	b.wait("every refusal to be recorded", func() bool { return b.recorded(tenant.AlertFailed, nil) == 4 })
	for range 3 {
		b.step()
	}
	if n, m := len(r1.all()), len(r2.all()); n != 2 || m != 2 {
		t.Errorf("%d and %d requests; a refusal is final, and its alert is not told to the sink itself", n, m)
	}
}

// TestSavedQueryFiresOnItsThresholdAndResolves counts entries as they come, through pending, firing, a restart, and the end of
// the window.
func TestSavedQueryFiresOnItsThresholdAndResolves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBench(t, dir, nil)
	r := newReceiver(t, nil)
	rules := Rules{
		Sinks: []Sink{{Name: "hook", Type: Webhook, URL: r.URL}, {Name: "other", Type: Webhook, URL: r.URL + "/not-for-this"}},
		Queries: []Query{{
			Name: "failed-logins", Log: "main", Query: "failed login", Levels: tenant.Levels{immutable.Security}, Threshold: 5,
			Window: Duration(10 * time.Minute), For: Duration(30 * time.Second), Severity: Critical, Sinks: []string{"hook"},
		}},
	}
	b.rules(rules)
	add := func(n int, message string, level immutable.Level) {
		for range n {
			must(b.l.Append(t.Context(), immutable.Event{Level: level, Message: message}))
		}
	}
	const key = "query/failed-logins"
	add(4, "failed login of Ann", immutable.Security)
	add(9, "failed login of Ann", immutable.Info)
	add(9, "login of Ann", immutable.Security)
	if b.step(); b.phase(key) != "" {
		t.Fatalf("below the threshold it is %s", b.phase(key))
	}
	add(1, "failed login of Bob", immutable.Security)
	if b.step(); b.phase(key) != Pending {
		t.Fatalf("at the threshold it is %q, want pending", b.phase(key))
	}
	b.pass(29 * time.Second)
	if b.step(); b.phase(key) != Pending {
		t.Fatalf("before its time it is %q", b.phase(key))
	}
	b.pass(2 * time.Second)
	if b.step(); b.phase(key) != Firing {
		t.Fatalf("after its time it is %q, want firing", b.phase(key))
	}
	b.wait("the delivery", func() bool { return len(r.all()) == 1 })
	if d := r.messages(t)[0].Data; d.Rule != "failed-logins" || d.Details["count"] != "5" || d.Severity != Critical || d.Log != "main" {
		t.Errorf("message %+v", d)
	}
	b.wait("the record", func() bool { return b.recorded(tenant.AlertSent, nil) == 1 })
	b.stop()

	ahead := b.ahead
	b = newBench(t, dir, func(*Options, *immutable.Config) {})
	b.pass(ahead)
	if b.step(); b.phase(key) != Firing {
		t.Fatalf("after a restart it is %q", b.phase(key))
	}
	b.pass(11 * time.Minute)
	if b.step(); b.phase(key) != Resolved {
		t.Fatalf("after the window it is %q", b.phase(key))
	}
	b.wait("its end to be delivered", func() bool { return len(r.all()) == 2 })
	if m := r.messages(t)[1]; m.Type != "alert.resolved" {
		t.Errorf("after a restart the alert was sent anew: %+v", m)
	}
	for _, g := range r.all() {
		if g.path != "/" {
			t.Errorf("a sink that the rule does not name was told: %s", g.path)
		}
	}
}

// TestQueryOverTheLogOfTheLogDoesNotLoop selects every entry of the log that alerts are recorded in.
func TestQueryOverTheLogOfTheLogDoesNotLoop(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	b.rules(Rules{
		Sinks:   []Sink{{Name: "hook", Type: Webhook, URL: r.URL}},
		Queries: []Query{{Name: "anything", Log: tenant.SystemName, Threshold: 1, Window: Duration(24 * time.Hour)}},
		Limits:  Limits{Repeat: Duration(time.Minute)},
	})
	b.step()
	b.wait("the first", func() bool { return b.recorded(tenant.AlertSent, nil) == 1 })
	b.step() // so that what was there is counted
	before := b.count("query/anything")
	for i := range 20 {
		b.pass(2 * time.Minute) // it is sent again, which is recorded
		b.step()
		b.wait("the next", func() bool { return b.recorded(tenant.AlertSent, nil) == i+2 })
	}
	if after := b.count("query/anything"); after != before {
		t.Errorf("%s entries matched, and after 20 deliveries %s", before, after)
	}
}

func (b *bench) count(key string) string {
	for _, s := range b.m.Active(tenant.DefaultName) {
		if s.Key == key {
			return s.Details["count"]
		}
	}
	return ""
}

// TestWhatWasNotDeliveredIsSentAfterARestart stops the service while a sink is away.
func TestWhatWasNotDeliveredIsSentAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBench(t, dir, nil)
	r := newReceiver(t, nil)
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	away := "http://" + l.Addr().String()
	l.Close()
	b.rules(Rules{Sinks: []Sink{{Name: "hook", Type: Webhook, URL: away}}})
	b.m.Raise(Event{Key: "a", Tenant: "default", Kind: DiskLow, Summary: "one"})
	b.wait("the failure", func() bool { return b.phase("sink.failed/hook") == Firing })
	b.stop()
	b = newBench(t, dir, nil)
	b.rules(Rules{Sinks: []Sink{{Name: "hook", Type: Webhook, URL: r.URL}}})
	b.step()
	b.wait("the delivery", func() bool {
		return slices.ContainsFunc(r.messages(t), func(m message) bool { return m.Data.Key == "a" && m.Data.Phase == Firing })
	})
}

func TestAlertmanagerGetsWhatItsAPITakes(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	r := newReceiver(t, nil)
	b.rules(Rules{Sinks: []Sink{{Name: "am", Type: Alertmanager, URL: r.URL + "/prefix/", Secrets: []string{"token-1"}}}})
	e := Event{Key: "witness.lag/main", Tenant: "default", Log: "main", Kind: WitnessLag, Summary: "late", Details: map[string]string{"a b": "c"}}
	b.m.Raise(e)
	b.wait("the alert", func() bool { return len(r.all()) == 1 })
	e.Resolved = true
	b.m.Raise(e)
	b.wait("its end", func() bool { return len(r.all()) == 2 })
	var got [2][]amAlert
	for i, g := range r.all() {
		if g.path != "/prefix/api/v2/alerts" || g.header.Get("Authorization") != "Bearer token-1" || g.header.Get("Content-Type") != "application/json" {
			t.Errorf("request %d: %s %v", i, g.path, g.header)
		}
		if err := json.Unmarshal(g.body, &got[i]); err != nil || len(got[i]) != 1 {
			t.Fatalf("%s: %v", g.body, err)
		}
	}
	on, off := got[0][0], got[1][0]
	if l := on.Labels; l["alertname"] != "witness.lag" || l["severity"] != "warning" || l["tenant"] != "default" || l["log"] != "main" || on.Annotations["summary"] != "late" || on.Annotations["detail_a_b"] != "c" {
		t.Errorf("%+v", on)
	}
	if !on.EndsAt.After(b.now().Add(4*time.Hour)) || off.EndsAt.After(b.now()) {
		t.Errorf("ends at %s while firing, %s when resolved", on.EndsAt, off.EndsAt)
	}
	if fmt.Sprint(on.Labels) != fmt.Sprint(off.Labels) || !on.StartsAt.Equal(off.StartsAt) {
		t.Error("Alertmanager would take the end for another alert")
	}
}

// TestPrivateAddressesAreRefusedWhenDialled names a real listener by its address and by a name that leads to it.
func TestPrivateAddressesAreRefusedWhenDialled(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), func(o *Options, _ *immutable.Config) { o.AllowPrivate = false })
	r := newReceiver(t, nil)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"} {
		d := &delivery{id: "msg_1", state: State{Phase: Firing}}
		err := b.m.attempt(t.Context(), &Sink{Type: Webhook, URL: "http://" + host + ":" + port}, d)
		var permanent *permanentError
		if !errors.Is(err, outbound.ErrAddress) || !errors.As(err, &permanent) {
			t.Errorf("%s: %v", host, err)
		}
		err = b.m.attempt(t.Context(), &Sink{Type: Email, Server: host + ":" + port, From: "a@b.example", To: []string{"c@d.example"}}, d)
		if !errors.Is(err, outbound.ErrAddress) {
			t.Errorf("mail to %s: %v", host, err)
		}
	}
	if n := len(r.all()); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
	if err := b.m.SetRules(t.Context(), b.admin, "default", Rules{Sinks: []Sink{{Name: "a", Type: Webhook, URL: "http://example.com/"}}}); !errors.Is(err, ErrRules) {
		t.Errorf("http without TLS: %v", err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	target := newReceiver(t, nil)
	r := newReceiver(t, func(_ int, w http.ResponseWriter) {
		w.Header().Set("Location", target.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	b.rules(Rules{Sinks: []Sink{{Name: "hook", Type: Webhook, URL: r.URL}}})
	err := b.m.Test(t.Context(), b.admin, "default", "hook")
	if !errors.Is(err, outbound.ErrRedirect) || len(target.all()) != 0 {
		t.Errorf("got %v, and %d requests behind the redirect", err, len(target.all()))
	}
	if n := b.recorded(tenant.AlertFailed, func(m map[string]any) bool { return m["key"] == "test" }); n != 1 {
		t.Errorf("the failed test is recorded %d times", n)
	}
	if err := b.m.Test(t.Context(), b.admin, "default", "none"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("a sink that is not there: %v", err)
	}
	if err := b.m.Test(t.Context(), &tenant.Principal{ID: "r", Tenant: "default", Role: tenant.Reader}, "default", "hook"); !errors.Is(err, tenant.ErrForbidden) {
		t.Errorf("a reader: %v", err)
	}
}

func TestAnswersDecideWhetherItIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	for code, final := range map[int]bool{200: true, 204: true, 400: true, 401: true, 404: true, 410: true, 408: false, 425: false, 429: false, 500: false, 503: false} {
		r := newReceiver(t, func(_ int, w http.ResponseWriter) {
			w.Header().Set("Retry-After", "120")
			w.WriteHeader(code)
		})
		err := b.m.attempt(t.Context(), &Sink{Type: Webhook, URL: r.URL}, &delivery{id: "x"})
		var permanent *permanentError
		if (err == nil) != (code < 300) || err != nil && errors.As(err, &permanent) != final {
			t.Errorf("%d: %v", code, err)
		}
		if err != nil && !final && b.m.waitAfter(err, 1) != 120*time.Second {
			t.Errorf("%d: waits %s", code, b.m.waitAfter(err, 1))
		}
	}
	for tries := range 40 {
		if d := backOff(tries); d < 500*time.Millisecond || d > maxBackOff {
			t.Errorf("after %d tries it waits %s", tries, d)
		}
	}
}

func TestConditionsOfTheServiceRaiseAlerts(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), func(_ *Options, c *immutable.Config) { c.CheckpointInterval = time.Hour })
	b.step()
	must(b.l.Append(t.Context(), immutable.Event{Level: immutable.Info, Message: "not signed"}))
	b.step()
	b.pass(4 * time.Minute)
	if b.step(); b.phase("checkpoint.lag/main") != "" {
		t.Error("checkpoint lag before its time")
	}
	b.pass(2 * time.Minute)
	if b.step(); b.phase("checkpoint.lag/main") != Firing {
		t.Errorf("checkpoint lag is %q", b.phase("checkpoint.lag/main"))
	}
	if err := b.l.RotateKeys(t.Context()); err != nil { // which publishes
		t.Fatal(err)
	}
	b.step()
	if got := b.phase("checkpoint.lag/main"); got != Resolved {
		t.Errorf("after a checkpoint the lag is %q", got)
	}

	s := must(b.in.Tenant("default")).Settings()
	s.Quota.EntryBytes = 10
	if err := must(b.in.Tenant("default")).Update(t.Context(), b.admin, s); err != nil {
		t.Fatal(err)
	}
	var over *tenant.QuotaError
	if _, err := b.l.AppendAs(t.Context(), b.admin, immutable.Event{Level: immutable.Info, Message: "more than ten bytes"}); !errors.As(err, &over) {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.ahead = 0 // the tenant has its own clock
	b.mu.Unlock()
	if b.step(); b.phase("quota.exceeded") != Firing {
		t.Errorf("quota is %q", b.phase("quota.exceeded"))
	}
	b.pass(6 * time.Minute)
	if b.step(); b.phase("quota.exceeded") != Resolved {
		t.Errorf("later the quota is %q", b.phase("quota.exceeded"))
	}

	system := func() Phase {
		for _, s := range b.m.Active(tenant.SystemName) {
			if s.Key == "disk.low" {
				return s.Phase
			}
		}
		return ""
	}
	r := newReceiver(t, nil)
	set := func(percent float64) {
		if err := b.m.SetRules(t.Context(), b.admin, tenant.SystemName, Rules{
			Limits: Limits{DiskFreePercent: percent}, Sinks: []Sink{{Name: "operator", Type: Webhook, URL: r.URL, EveryTenant: true}},
		}); err != nil {
			t.Fatal(err)
		}
		b.step()
	}
	if set(99.9999); system() != Firing {
		t.Errorf("disk is %q", system())
	}
	if set(-1); system() != Resolved {
		t.Errorf("disk is %q when nobody asks", system())
	}
	b.m.Raise(Event{Key: "a", Tenant: "default", Kind: FileChanged, Summary: "of a tenant"})
	b.wait("a tenant's alert at the operator's", func() bool {
		return slices.ContainsFunc(r.messages(t), func(m message) bool { return m.Data.Tenant == "default" && m.Data.Key == "a" })
	})
}

func TestRulesThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	hook := Sink{Name: "a", Type: Webhook, URL: "https://example.com/x"}
	mail := Sink{Name: "m", Type: Email, To: []string{"a@example.com"}, From: "b@example.com", Server: "mail.example.com:587"}
	query := Query{Name: "q", Log: "main", Threshold: 1, Window: Duration(time.Minute)}
	if err := b.m.SetRules(t.Context(), b.admin, "default", Rules{Sinks: []Sink{hook, mail}, Queries: []Query{query}}); err != nil {
		t.Fatalf("good rules: %v", err)
	}
	sink := func(change func(s *Sink)) Rules {
		s := hook
		change(&s)
		return Rules{Sinks: []Sink{s}}
	}
	email := func(change func(s *Sink)) Rules {
		s := mail
		change(&s)
		return Rules{Sinks: []Sink{s}}
	}
	ask := func(change func(q *Query)) Rules {
		q := query
		change(&q)
		return Rules{Queries: []Query{q}}
	}
	many := Rules{}
	for i := range maxSinks + 1 {
		s := hook
		s.Name = fmt.Sprintf("s%d", i)
		many.Sinks = append(many.Sinks, s)
	}
	if err := (&Rules{Sinks: many.Sinks[:maxSinks]}).check("default", &b.m.o); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	for what, r := range map[string]Rules{
		"too many sinks":      many,
		"name":                sink(func(s *Sink) { s.Name = "../x" }),
		"twice":               {Sinks: []Sink{hook, hook}},
		"type":                sink(func(s *Sink) { s.Type = "pigeon" }),
		"scheme":              sink(func(s *Sink) { s.URL = "file:///etc/passwd" }),
		"gopher":              sink(func(s *Sink) { s.URL = "gopher://example.com" }),
		"user in url":         sink(func(s *Sink) { s.URL = "https://a:b@example.com" }),
		"no host":             sink(func(s *Sink) { s.URL = "https:///x" }),
		"long url":            sink(func(s *Sink) { s.URL += strings.Repeat("x", maxURL) }),
		"secret":              sink(func(s *Sink) { s.Secrets = []string{"short"} }),
		"secrets":             sink(func(s *Sink) { s.Secrets = []string{secretA, secretA, secretA, secretA} }),
		"kept without one":    sink(func(s *Sink) { s.Secrets = []string{Kept} }),
		"secret with newline": sink(func(s *Sink) { s.Type, s.Secrets = Alertmanager, []string{"a\r\nX: y"} }),
		"kind":                sink(func(s *Sink) { s.Kinds = []Kind{"nothing"} }),
		"severity":            sink(func(s *Sink) { s.Severities = []Severity{"loud"} }),
		"every tenant":        sink(func(s *Sink) { s.EveryTenant = true }),
		"mail in webhook":     sink(func(s *Sink) { s.To = []string{"a@example.com"} }),
		"no recipients":       email(func(s *Sink) { s.To = nil }),
		"recipient":           email(func(s *Sink) { s.To = []string{"a@example.com\r\nBcc: x@example.com"} }),
		"named recipient":     email(func(s *Sink) { s.To = []string{"Ann <a@example.com>"} }),
		"from":                email(func(s *Sink) { s.From = "nobody" }),
		"server":              email(func(s *Sink) { s.Server = "mail.example.com" }),
		"port":                email(func(s *Sink) { s.Server = "mail.example.com:99999" }),
		"no server at all":    email(func(s *Sink) { s.Server, s.From = "", "" }),
		"tls":                 email(func(s *Sink) { s.TLS = "perhaps" }),
		"password in clear":   email(func(s *Sink) { s.TLS, s.Username, s.Secrets = "none", "u", []string{"p"} }),
		"password alone":      email(func(s *Sink) { s.Secrets = []string{"p"} }),
		"query name":          ask(func(q *Query) { q.Name = "" }),
		"query log":           ask(func(q *Query) { q.Log = "" }),
		"query text":          ask(func(q *Query) { q.Query = "a (" }),
		"query threshold":     ask(func(q *Query) { q.Threshold = 0 }),
		"query window":        ask(func(q *Query) { q.Window = 0 }),
		"query long window":   ask(func(q *Query) { q.Window = Duration(maxWindow + 1) }),
		"query for":           ask(func(q *Query) { q.For = -1 }),
		"query severity":      ask(func(q *Query) { q.Severity = "loud" }),
		"query sink":          ask(func(q *Query) { q.Sinks = []string{"nowhere"} }),
		"limit":               {Limits: Limits{DiskFreePercent: 100}},
		"repeat":              {Limits: Limits{Repeat: Duration(time.Second)}},
	} {
		if err := b.m.SetRules(t.Context(), b.admin, "default", r); !errors.Is(err, ErrRules) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range []*tenant.Principal{
		{ID: "w", Tenant: "default", Role: tenant.Writer}, {ID: "a", Tenant: "default", Role: tenant.Auditor}, {ID: "x", Tenant: "other", Role: tenant.Admin},
	} {
		if err := b.m.SetRules(t.Context(), p, "default", Rules{}); err == nil {
			t.Errorf("%s of %s may change the rules", p.Role, p.Tenant)
		}
	}
	if got := must(b.m.Rules("default")); len(got.Sinks) != 2 || len(got.Queries) != 1 {
		t.Errorf("refused rules have changed something: %+v", got)
	}
}

// TestSecretsStayWithTheirAddress gives rules back as they were shown, and then with another address.
func TestSecretsStayWithTheirAddress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBench(t, dir, nil)
	b.rules(Rules{Sinks: []Sink{{Name: "am", Type: Alertmanager, URL: "https://example.com", Secrets: []string{"token-of-am"}}}})
	shown := must(b.m.Rules("default"))
	data := must(json.Marshal(shown))
	if strings.Contains(string(data), "token-of-am") || shown.Sinks[0].Secrets[0] != Kept {
		t.Errorf("shown: %s", data)
	}
	shown.Limits.Repeat = Duration(time.Hour)
	b.rules(shown)
	if s := b.m.sink(sinkKey{"default", "am"}); s.Secrets[0] != "token-of-am" {
		t.Errorf("the secret is now %q", s.Secrets)
	}
	shown.Sinks[0].URL = "https://attacker.example"
	if err := b.m.SetRules(t.Context(), b.admin, "default", shown); !errors.Is(err, ErrRules) {
		t.Errorf("another address with the old secret: %v", err)
	}
	if n := b.recorded(tenant.AlertRules, func(m map[string]any) bool { return strings.Contains(fmt.Sprint(m), "token-of-am") }); n != 0 {
		t.Error("the secret is in the log of the log")
	}
	if n := b.recorded(tenant.AlertRules, nil); n != 2 {
		t.Errorf("%d changes are recorded", n)
	}
	b.stop()
	b = newBench(t, dir, nil)
	if s := b.m.sink(sinkKey{"default", "am"}); s == nil || s.Secrets[0] != "token-of-am" {
		t.Errorf("after a restart: %+v", s)
	}
	info := must(os.Stat(filepath.Join(dir, "tenants", "default", rulesName)))
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the file with secrets has mode %s", info.Mode())
	}
}

// TestMemoryIsBounded raises more alerts than are held, for a sink that does not answer.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil)
	hold := make(chan struct{})
	r := newReceiver(t, func(int, http.ResponseWriter) { <-hold })
	defer close(hold)
	b.rules(Rules{Sinks: []Sink{{Name: "slow", Type: Webhook, URL: r.URL}}})
	details := map[string]string{}
	for i := range 100 {
		details[fmt.Sprint("member", i)] = strings.Repeat("<", 10_000)
	}
	for i := range maxStates + 50 {
		b.m.Raise(Event{Key: fmt.Sprint("key", i), Tenant: "default", Kind: DiskLow, Summary: strings.Repeat("é", 5000), Details: details})
	}
	list := b.m.Active("default")
	if len(list) != maxStates {
		t.Errorf("%d alerts, want %d", len(list), maxStates)
	}
	if s := list[0]; len(s.Summary) > maxSummary || len(s.Details) > maxDetails || len(s.Details["member0"]) > maxDetail {
		t.Errorf("summary of %d bytes, %d details", len(s.Summary), len(s.Details))
	}
	b.m.mu.Lock()
	waiting, all := len(b.m.sinks[sinkKey{"default", "slow"}].list), b.m.queued
	b.m.mu.Unlock()
	if waiting != maxQueue || all != maxQueue {
		t.Errorf("%d messages wait, %d in all; want %d", waiting, all, maxQueue)
	}
	b.wait("what was given up to be recorded", func() bool { return b.recorded(tenant.AlertFailed, nil) == maxStates-maxQueue })
}

func TestDurationsAreSpelledForPeople(t *testing.T) {
	for in, want := range map[string]Duration{`"5m"`: Duration(5 * time.Minute), `"never"`: -1, `"1h30m"`: Duration(90 * time.Minute)} {
		var d Duration
		if err := json.Unmarshal([]byte(in), &d); err != nil || d != want {
			t.Errorf("%s: %v, %v", in, d, err)
		}
	}
	for _, in := range []string{`5`, `"5"`, `"-5m"`, `"soon"`, `null1`} {
		var d Duration
		if json.Unmarshal([]byte(in), &d) == nil {
			t.Errorf("%s is taken", in)
		}
	}
	if got := string(must(json.Marshal(Duration(-1)))); got != `"never"` {
		t.Errorf("never is spelled %s", got)
	}
}

// TestEveryKindIsDocumented compares the code with docs/alerts.md.
func TestEveryKindIsDocumented(t *testing.T) {
	doc := string(must(os.ReadFile(filepath.Join("..", "..", "docs", "alerts.md"))))
	for _, k := range kinds {
		if severities[k] == "" || !strings.Contains(doc, fmt.Sprintf("| `%s` | %s |", k, severities[k])) {
			t.Errorf("docs/alerts.md has no row of %s with severity %q", k, severities[k])
		}
	}
	if n := strings.Count(doc, "| critical |") + strings.Count(doc, "| warning |") + strings.Count(doc, "| info |"); n != len(kinds) {
		t.Errorf("docs/alerts.md has %d kinds, the code %d", n, len(kinds))
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte(`{"sinks":[{"name":"a","type":"webhook","url":"https://example.com","secrets":["` + secretA + `"]}],"queries":[],"limits":{}}`))
	f.Add([]byte(`{"queries":[{"name":"q","log":"main","query":"a OR b","threshold":1,"window":"5m"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Rules
		if decode(data, &r) != nil || r.check("default", &Options{}) != nil {
			return
		}
		shown := r.shown()
		out, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		var again Rules
		if err := decode(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if err := again.keepSecrets(&r); err != nil {
			t.Fatalf("rules that were shown cannot be given back: %v", err)
		}
	})
}

// What a tenant is told of a sink that cannot be reached says nothing of this host's network, and nobody is told a sink's URL,
// which is a secret of its own with some services.
func TestFailuresTellNothingOfTheNetwork(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), func(o *Options, _ *immutable.Config) { o.AllowPrivate = false })
	r := newReceiver(t, nil)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d := &delivery{id: "msg_1", state: State{Phase: Firing}}
	inside := b.m.attempt(t.Context(), &Sink{Type: Webhook, URL: "https://localhost:" + port + "/hook-secret?key=secret"}, d)
	nowhere := outbound.Explain(&url.Error{Op: "Post", URL: "https://x.example/hook-secret", Err: &net.OpError{
		Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "x.example", Server: "10.9.8.7:53", IsNotFound: true},
	}})
	late := outbound.Explain(&url.Error{Op: "Post", URL: "https://x.example/hook-secret", Err: &net.OpError{
		Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 9, 8, 7), Port: 443}, Err: &net.DNSError{Err: "timeout", Name: "x.example", Server: "10.9.8.7:53", IsTimeout: true},
	}})
	refused := outbound.Explain(&url.Error{Op: "Post", URL: "https://x.example/hook-secret", Err: &net.OpError{
		Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 9, 8, 7), Port: 443}, Err: errors.New("connection refused"),
	}})
	if inside == nil || nowhere == nil || inside.Error() != nowhere.Error() {
		t.Errorf("a name that leads inside (%v) and one that leads nowhere (%v) can be told apart", inside, nowhere)
	}
	for _, err := range []error{inside, nowhere, late, refused} {
		for _, s := range []string{"127.0.0.1", "::1", "10.9.8.7", "secret", "x.example"} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%q tells %q", err, s)
			}
		}
	}
	if !errors.Is(inside, outbound.ErrAddress) || !strings.Contains(refused.Error(), "connection refused") {
		t.Errorf("%v, %v: the reason is lost", inside, refused)
	}
}
