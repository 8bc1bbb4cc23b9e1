package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/hooks"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func open(t testing.TB, dir string) (*tenant.Installation, *Registry) {
	t.Helper()
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	r := New(Options{Installation: in})
	t.Cleanup(func() {
		if err := in.Close(context.Background()); err != nil && !errors.Is(err, immutable.ErrClosed) {
			t.Error(err)
		}
	})
	return in, r
}

var admin = tenant.Local("test")

func create(t testing.TB, r *Registry, spec Spec) (Source, string) {
	t.Helper()
	s, secret, err := r.Create(t.Context(), admin, tenant.DefaultName, spec)
	if err != nil {
		t.Fatal(err)
	}
	return s, secret
}

func TestSourcesComeBackAfterAStart(t *testing.T) {
	dir := t.TempDir()
	in, r := open(t, dir)
	s, secret := create(t, r, Spec{Kind: hooks.GitHub, Log: "main", Title: "org"})
	if err := in.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	in, r = open(t, dir)
	got, err := r.Candidates(tenant.DefaultName, "main", hooks.GitHub)
	if err != nil || len(got) != 1 || got[0].ID != s.ID || len(got[0].Keys) != 1 || string(got[0].Keys[0]) != secret {
		t.Fatalf("got %+v, %v", got, err)
	}
	for _, c := range [][3]string{{"nobody", "main", hooks.GitHub}, {tenant.DefaultName, "other", hooks.GitHub}, {tenant.DefaultName, "main", hooks.Stripe}} {
		if got, err := r.Candidates(c[0], c[1], c[2]); err != nil || len(got) != 0 {
			t.Errorf("%v: got %+v, %v", c, got, err)
		}
	}
	if err := in.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "tenants", "default", "sources.json")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string]string{
		"cut": string(good[:len(good)/2]), "unknown member": strings.Replace(string(good), `"format"`, `"color":1,"format"`, 1),
		"another format": strings.Replace(string(good), `"format": 1`, `"format": 2`, 1), "more": string(good) + "{}",
	} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		in, r := open(t, dir)
		if _, err := r.Candidates(tenant.DefaultName, "main", hooks.GitHub); err == nil || !strings.Contains(err.Error(), "sources.json") {
			t.Errorf("%s: %v", what, err)
		}
		if _, _, err := r.Create(t.Context(), admin, tenant.DefaultName, Spec{Kind: hooks.GitHub, Log: "main"}); err == nil {
			t.Errorf("%s: it was written over", what)
		}
		if err := in.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyAdministratorsOfTheTenantChangeSources(t *testing.T) {
	_, r := open(t, t.TempDir())
	s, _ := create(t, r, Spec{Kind: hooks.GitHub, Log: "main"})
	for _, p := range []*tenant.Principal{{ID: "w", Tenant: tenant.DefaultName, Role: tenant.Writer}, {ID: "a", Tenant: tenant.DefaultName, Role: tenant.Auditor}, {ID: "o", Tenant: "other", Role: tenant.Admin}, {ID: "l", Tenant: tenant.DefaultName, Role: tenant.Admin, Logs: []string{"main"}}} {
		_, _, create := r.Create(t.Context(), p, tenant.DefaultName, Spec{Kind: hooks.GitHub, Log: "main"})
		_, _, update := r.Update(t.Context(), p, tenant.DefaultName, s.ID, Change{EndSecret: s.Secrets[0].ID})
		_, reveal := r.Reveal(t.Context(), p, tenant.DefaultName, s.ID)
		for i, err := range []error{create, update, r.Delete(t.Context(), p, tenant.DefaultName, s.ID), reveal} {
			if !errors.Is(err, tenant.ErrForbidden) && !errors.Is(err, tenant.ErrNotFound) {
				t.Errorf("%s, %d: %v", p.ID, i, err)
			}
		}
	}
	if got, err := r.Source(tenant.DefaultName, s.ID); err != nil || len(got.Secrets) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTwoHandshakesAtOnceLeaveOneToken(t *testing.T) {
	_, r := open(t, t.TempDir())
	s, secret := create(t, r, Spec{Kind: hooks.Notion, Log: "main"})
	if secret != "" || s.PendingUntil.IsZero() {
		t.Fatalf("made %+v", s)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := []string{}
	for i := range 8 {
		wg.Go(func() {
			token := fmt.Sprintf("secret_of_the_handshake_%d", i)
			ok, err := r.Handshake(t.Context(), tenant.DefaultName, "main", token, "192.0.2.1")
			if err != nil {
				t.Error(err)
			}
			if ok {
				mu.Lock()
				taken = append(taken, token)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	token, err := r.Reveal(t.Context(), admin, tenant.DefaultName, s.ID)
	if err != nil || len(taken) != 1 || token != taken[0] {
		t.Errorf("taken %v, shown %q, %v", taken, token, err)
	}
	if ok, err := r.Handshake(t.Context(), "nobody", "main", "secret_of_the_handshake_x", ""); ok || err != nil {
		t.Errorf("of a tenant that is not there: %t, %v", ok, err)
	}
}

// rejected are the records of refusals in a tenant's log of the log.
func rejected(t testing.TB, in *tenant.Installation, tenantName string) (out []map[string]any) {
	t.Helper()
	x, err := in.Tenant(tenantName)
	if err != nil {
		t.Fatal(err)
	}
	l, err := x.Log(tenant.SystemName)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range l.Entries(t.Context(), immutable.Query{Text: "action:source.rejected OR action:source.malformed"}) {
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			t.Fatal(err)
		}
		m["level"] = e.Level.String()
		out = append(out, m)
	}
	return out
}

func TestStrangersCannotFillTheLogOfTheLog(t *testing.T) {
	in, r := open(t, t.TempDir())
	for i := range 5000 {
		r.Rejected(t.Context(), tenant.DefaultName, fmt.Sprint("log-", i), hooks.GitHub, "", hooks.ReasonSignature, []byte("x"))
		r.Rejected(t.Context(), fmt.Sprint("tenant-", i), "main", hooks.GitHub, "", ReasonUnknown, nil)
		r.Rejected(t.Context(), tenant.DefaultName, "main", "syslog", fmt.Sprint("peer-", i), "malformed", []byte("\xff\xfe"))
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	total, system := 0.0, rejected(t, in, tenant.SystemName)
	ours := rejected(t, in, tenant.DefaultName)
	for _, m := range append(ours, system...) {
		total += m["count"].(float64)
		if want := map[any]string{"signature": "SECURITY", "unknown": "SECURITY", "malformed": "WARN"}[m["reason"]]; m["level"] != want {
			t.Errorf("level %v of %v", m["level"], m["reason"])
		}
		if text, _ := m["log"].(string); strings.HasPrefix(text, "log-") {
			t.Errorf("a stranger's name stands in %v", m)
		}
	}
	if n := len(ours) + len(system); total != 15_000 || n > maxRefusals+3 {
		t.Errorf("%d entries count %v refusals, want 15000 in at most %d", n, total, maxRefusals+3)
	}
	if n := len(r.Traffic(tenant.DefaultName)); n > maxSenders+1 {
		t.Errorf("%d senders are told apart", n)
	}
	counts := r.Counts()
	if counts[hooks.GitHub].Rejected[ReasonUnknown] != 5000 || counts["syslog"].Rejected["malformed"] != 5000 {
		t.Errorf("counted %+v", counts)
	}
}

// What is refused for long is recorded soon, and then seldom.
func TestRefusalsOfOneKindShareEntries(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		in, err := tenant.Open(t.Context(), tenant.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		r := New(Options{Installation: in})
		for i := range 600 {
			r.Rejected(t.Context(), tenant.DefaultName, "main", hooks.GitHub, "s", hooks.ReasonSignature, fmt.Append(nil, "sample ", i))
			time.Sleep(100 * time.Millisecond)
			if i == 20 {
				if got := rejected(t, in, tenant.DefaultName); len(got) != 1 {
					t.Errorf("after two seconds: %v", got)
				}
				r.Rejected(t.Context(), tenant.DefaultName, "main", hooks.Stripe, "s", hooks.ReasonStale, nil)
			}
			if i == 40 {
				if got := rejected(t, in, tenant.DefaultName); len(got) != 2 || got[1]["kind"] != hooks.Stripe {
					t.Errorf("another kind, after two seconds: %v", got)
				}
			}
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
		got, total := rejected(t, in, tenant.DefaultName), 0.0
		for _, m := range got {
			total += m["count"].(float64)
		}
		if len(got) < 3 || len(got) > 5 || total != 601 || got[len(got)-1]["sample"] != "sample 599" {
			t.Errorf("%d entries count %v: %v", len(got), total, got)
		}
		if err := in.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
