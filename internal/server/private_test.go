package server

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// TestAuditorsSeeNoPathsAndNoAddressesOfSinks looks at what may name this host's files, and at webhooks, whose URLs are secrets.
func TestAuditorsSeeNoPathsAndNoAddressesOfSinks(t *testing.T) {
	sv := serve(t, func(o *Options) { o.Alerts = alert.New(alert.Options{Installation: o.Installation}) })
	auditor, admin := sv.token("default", tenant.TokenSpec{Role: tenant.Auditor}), sv.token("default", tenant.TokenSpec{Role: tenant.Admin})
	const secret = "T00/B00/XXXX"
	rules := `{"sinks":[{"name":"chat","type":"webhook","url":"https://hooks.example.com/services/` + secret + `?x=` + secret + `"}],"queries":[],"limits":{}}`
	sv.do("PUT", "/api/v1/tenants/default/alerts", admin, strings.NewReader(rules), "Content-Type", "application/json").want(t, 200, nil)
	seen := sv.do("GET", "/api/v1/tenants/default/alerts", auditor, nil).want(t, 200, nil)
	if body := string(seen.body); strings.Contains(body, secret) || !strings.Contains(body, "https://hooks.example.com/") || seen.header.Get("ETag") != "" {
		t.Errorf("an auditor sees %s, with the tag %q", body, seen.header.Get("ETag"))
	}
	if body := string(sv.do("GET", "/api/v1/tenants/default/alerts", admin, nil).want(t, 200, nil).body); !strings.Contains(body, secret) {
		t.Errorf("the administrator sees %s", body)
	}
	const path = "/srv/secret/place: no space left"
	tn, err := sv.in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[tenant.Role]bool{tenant.Reader: false, tenant.Auditor: false, tenant.Admin: true} {
		r := &request{s: sv.s, tenant: tn, log: sv.log("default", "main"), principal: &tenant.Principal{Tenant: "default", Role: role}}
		if got := r.inside(path) == path; got != want {
			t.Errorf("a path is shown to role %s: %v, want %v", role, got, want)
		}
		if got := r.inside(""); got != "" {
			t.Errorf("no error is shown as %q", got)
		}
	}
}

// TestLimitedAuditorsListNothingOfTheInstallation has an auditor of the installation who is limited to one log ask who else is there.
func TestLimitedAuditorsListNothingOfTheInstallation(t *testing.T) {
	sv := serve(t, nil)
	limited := sv.token("", tenant.TokenSpec{Role: tenant.Auditor, Logs: []string{"main"}})
	whole := sv.token("", tenant.TokenSpec{Role: tenant.Auditor})
	for _, path := range []string{"/api/v1/tenants", "/api/v1/tokens"} {
		sv.do("GET", path, limited, nil).problem(t, "forbidden")
		sv.do("GET", path, whole, nil).want(t, 200, nil)
	}
}

// TestMetricsAreForThisHostOnly asks as a page does whose name was made to resolve to a loopback address.
func TestMetricsAreForThisHostOnly(t *testing.T) {
	sv := serve(t, func(o *Options) {
		o.LocalMetrics = true
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "m 1\n") })
	})
	for host, want := range map[string]int{
		"": 200, "localhost": 200, "LOCALHOST:8080": 200, "[::1]:8080": 200, "127.0.0.1:1": 200, "127.9.9.9": 200,
		"rebound.example": 401, "rebound.example:8080": 401, "127.0.0.1.example": 401, "localhost.example": 401, "10.0.0.1": 401,
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+sv.addr+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("Host %q: %d, want %d", host, resp.StatusCode, want)
		}
	}
}

// TestIdleNDJSONEndsWithItsToken revokes a token while its stream sends nothing.
func TestIdleNDJSONEndsWithItsToken(t *testing.T) {
	sv := serve(t, nil)
	tn := sv.log("default", "main").Tenant()
	plain, token, err := tn.CreateToken(t.Context(), tenant.Local("test"), tenant.TokenSpec{Name: "gone", Role: tenant.Writer})
	if err != nil {
		t.Fatal(err)
	}
	body, sender := io.Pipe()
	defer sender.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+sv.addr+mainLog+"/entries", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+plain)
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() { _, _ = io.WriteString(sender, "{\"message\":\"before\"}\n") }()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := tn.RevokeToken(t.Context(), tenant.Local("test"), token.ID); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	answer, _ := io.ReadAll(resp.Body) // the connection may be reset: the client is still sending
	if took := time.Since(began); took > 30*time.Second || !strings.Contains(string(answer), `"accepted":1`) || !strings.Contains(string(answer), "unauthenticated") {
		t.Errorf("after %s: %s", took, answer)
	}
}

// TestReadsOnRecordNameTheirPages reads pages of one filter, the stats and a list of pages that is longer than a record.
func TestReadsOnRecordNameTheirPages(t *testing.T) {
	sv := serve(t, nil)
	sv.append(sv.log("default", "main"), 0, 5, 5, immutable.Info)
	reader := sv.token("default", tenant.TokenSpec{Role: tenant.Reader})
	for _, parameters := range []string{"", "?from=2&limit=1", "?from=2&limit=1", "?limit=3&order=asc"} {
		sv.do("GET", mainLog+"/entries"+parameters, reader, nil).want(t, 200, nil)
	}
	sv.do("GET", mainLog+"/stats", reader, nil).want(t, 200, nil)
	deadline(t, func() bool { return len(sv.records("default", tenant.ReadEnd)) >= 2 }, "the records of reads")
	pages, stats := map[string]bool{}, false
	for _, m := range sv.records("default", tenant.ReadEnd) {
		stats = stats || m["read"] == "stats"
		list, _ := m["pages"].([]any)
		for _, p := range list {
			if text, ok := p.(string); ok {
				pages[text] = true
			}
		}
	}
	if !stats || len(pages) != 2 || !pages["from=2 limit=1"] || !pages["limit=3 order=asc"] {
		t.Errorf("on record are the pages %v, and that the stats were read: %v", pages, stats)
	}
}
