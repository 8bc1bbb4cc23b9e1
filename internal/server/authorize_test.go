package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// allowed says who may use each operation, once more and by hand: roles of the tenant of the path, or of the installation where
// the path has none.
var allowed = map[string]string{
	"appendEntries": "writer admin", "exportLogs": "writer admin", "exportLogsOwn": "writer admin", "exportLogsGRPC": "writer admin", "appendCloudEvents": "writer admin",
	"listEntries": "reader auditor admin", "getEntry": "reader auditor admin", "getBlock": "reader auditor admin", "streamEntries": "reader auditor admin",
	"countEntries": "reader auditor admin", "countEntriesBy": "reader auditor admin", "histogram": "reader auditor admin", "getStats": "reader auditor admin", "getLog": "reader auditor admin",
	"getProof": "reader auditor admin", "getReceipt": "reader auditor admin", "getCheckpoint": "reader auditor admin", "listCheckpoints": "reader auditor admin",
	"getConsistency": "reader auditor admin", "getKeys": "reader auditor admin", "getTile": "reader auditor admin",
	"listViews": "reader auditor admin", "saveView": "reader auditor admin", "deleteView": "reader auditor admin", "getCompliance": "auditor admin", "getReview": "auditor admin", "signReview": "auditor admin", "getRevenue": "reader auditor admin", "compareRevenue": "auditor admin",
	"exportEntries": "auditor admin", "evidenceBundle": "auditor admin",
	"startVerification": "auditor admin", "listVerifications": "auditor admin", "getVerification": "auditor admin", "cancelVerification": "auditor admin",
	"getTenant": "reader auditor admin", "listLogs": "reader auditor admin",
	"listTokens": "auditor admin", "getAlertRules": "auditor admin", "listActiveAlerts": "auditor admin", "listHolds": "reader auditor admin",
	"updateTenant": "admin", "createToken": "admin", "revokeToken": "admin", "createLog": "admin", "updateLog": "admin", "rotateLog": "admin", "rotateKeys": "admin",
	"setAlertRules": "admin", "testAlertSink": "admin", "setHold": "admin", "releaseHold": "admin",
	"appendKubernetesAudit": "writer admin", "getCatalogue": "reader auditor admin", "setCatalogue": "admin",
	"listRetired": "reader auditor admin", "retireExpired": "admin", "restoreSegment": "admin",
	"metrics": "reader auditor admin", "listTenants": "auditor admin", "listInstallationTokens": "auditor admin",
	"listSources": "auditor admin", "getSource": "auditor admin", "createSource": "admin", "updateSource": "admin", "deleteSource": "admin", "revealVerification": "admin",
	"listSinks": "auditor admin", "getSink": "auditor admin", "listDeadLetters": "auditor admin", "createSink": "admin", "updateSink": "admin", "deleteSink": "admin",
	"pauseSink": "admin", "resumeSink": "admin", "retrySink": "admin", "dropDeadLetters": "admin",
	"takeJobEvent": "writer admin",
	"createTenant": "admin", "createInstallationToken": "admin", "revokeInstallationToken": "admin",
	"whoAmI": "writer reader auditor admin", "signOut": "writer reader auditor admin",
}

// walk sends a request to a route of the table, with these names in its path, and returns the answer's status and, where it is an
// error, its body. bogus adds a parameter that no route takes.
func (sv *service) walk(rt *route, tenantName, logName, token string, bogus bool) (status int, body string) {
	sv.t.Helper()
	path := strings.NewReplacer("{tenant}", tenantName, "{log}", logName, "{index}", "0", "{id}", "0123456789abcdef", "{code}", "quota", "{file}", "index.html", "{path...}", "checkpoint", "{$}", "").Replace(rt.Pattern)
	if bogus {
		path += "?bogus=1"
	} else if rt.ID == "getConsistency" {
		path += "?from=0"
	}
	var in io.Reader
	if rt.Body {
		in = strings.NewReader(`{"`)
	}
	ctx, cancel := context.WithTimeout(sv.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, rt.Method, "http://"+sv.addr+path, in)
	if err != nil {
		sv.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if rt.Access == ownLog {
		req.Header.Set(ownLogHeader, tenantName+"/"+logName)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		sv.t.Fatalf("%s %s: %v", rt.Method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 {
		return resp.StatusCode, "" // a stream would not end
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		sv.t.Fatal(err)
	}
	return resp.StatusCode, string(data) + resp.Header.Get("WWW-Authenticate")
}

// TestEveryRouteAsEveryRoleOfEveryTenant holds the table, and the one place that reads it, to allowed: with every role of every
// tenant and of the installation, on their own logs, on those of others, and on names that do not exist.
func TestEveryRouteAsEveryRoleOfEveryTenant(t *testing.T) {
	sv := serve(t, nil)
	sv.tenant(tenant.TenantSettings{Name: "acme"})
	sv.tenant(tenant.TenantSettings{Name: "zoo"})
	for _, name := range []string{"default", "acme", "zoo"} {
		if _, err := sv.log(name, "main").Append(t.Context(), immutable.Event{Message: "there is something to find"}); err != nil {
			t.Fatal(err)
		}
	}
	const missing = "no-such-name-7d1f"
	roles, homes := []tenant.Role{tenant.Writer, tenant.Reader, tenant.Auditor, tenant.Admin}, []string{"", "default", "acme"}
	tokens := map[string]string{}
	for _, role := range roles {
		for _, home := range homes {
			tokens[string(role)+"/"+home] = sv.token(home, tenant.TokenSpec{Role: role})
		}
	}
	for _, rt := range routes() {
		rt := &rt
		if rt.Access == signed {
			continue // what its handler finds out is in hooks_test.go and desk_test.go
		}
		if rt.Access == public {
			if status, body := sv.walk(rt, "acme", "main", "", false); status >= 400 && rt.ID != "readiness" {
				t.Errorf("%s without credentials: status %d: %s", rt.ID, status, body)
			}
			continue
		}
		these, ok := allowed[rt.ID]
		if !ok {
			t.Errorf("who may use %s? say it in allowed", rt.ID)
			continue
		}
		sv.withoutCredentials(t, rt, missing)
		for _, role := range roles {
			may := slices.Contains(strings.Fields(these), string(role))
			for _, home := range homes {
				token := tokens[string(role)+"/"+home]
				who := fmt.Sprintf("%s as %s of %q", rt.ID, role, home)
				if !rt.has("{tenant}") && rt.Access != ownLog {
					status, body := sv.walk(rt, "", "", token, false)
					if want := may && (home == "" || rt.Access == anyone); want == (status == http.StatusForbidden) || status == http.StatusUnauthorized {
						t.Errorf("%s: status %d, want that it may: %t: %s", who, status, want, body)
					}
					continue
				}
				sv.ownAndForeign(t, rt, who, token, home, missing, may)
			}
		}
	}
}

// withoutCredentials: 401, the same for whatever there is.
func (sv *service) withoutCredentials(t *testing.T, rt *route, missing string) {
	want := ""
	for _, token := range []string{"", "imt_0123456789abcdef_" + strings.Repeat("a", 64)} {
		for i, target := range [][2]string{{"acme", "main"}, {"acme", missing}, {missing, "main"}, {"system", "system"}} {
			status, body := sv.walk(rt, target[0], target[1], token, i%2 == 0)
			if i == 0 {
				want = body
			}
			if status != http.StatusUnauthorized || body != want {
				t.Errorf("%s without valid credentials, on %q: status %d, %s, want 401 and %s", rt.ID, target, status, body, want)
			}
		}
	}
}

// ownAndForeign asks for the principal's own log, for others' and for what does not exist.
func (sv *service) ownAndForeign(t *testing.T, rt *route, who, token, home, missing string, may bool) {
	own := home
	if home == "" {
		own = "acme"
	}
	status, body := sv.walk(rt, own, "main", token, false)
	if refused := status == http.StatusForbidden || status == http.StatusUnauthorized; refused == may {
		t.Errorf("%s: status %d, want that it may: %t: %s", who, status, may, body)
	}
	if !may {
		if status, other := sv.walk(rt, own, "main", token, true); status != http.StatusForbidden || other != body {
			t.Errorf("%s: with another request it is told %d %s, want 403 %s", who, status, other, body)
		}
	}
	if home == "" {
		return // the installation's own know of every tenant
	}
	nowhere, want := sv.walk(rt, missing, "main", token, false)
	if nowhere != http.StatusNotFound {
		t.Errorf("%s, of a tenant that does not exist: status %d: %s", who, nowhere, want)
	}
	for _, target := range [][2]string{{"zoo", "main"}, {"zoo", missing}, {missing, missing}, {"system", "system"}} {
		if status, body := sv.walk(rt, target[0], target[1], token, true); status != nowhere || body != want {
			t.Errorf("%s, on %q: status %d, %s, want the answer for what does not exist: %s", who, target, status, body, want)
		}
	}
}

// A token that is limited to a log does not learn which others there are, nor one that is limited to levels what it may not read.
func TestLimitedTokensLearnNothingElse(t *testing.T) {
	sv := serve(t, nil)
	tn := sv.tenant(tenant.TenantSettings{Name: "acme"})
	if _, err := tn.CreateLog(t.Context(), tenant.Local("test"), tenant.LogSettings{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	for _, log := range []string{"main", "other"} {
		if _, err := sv.log("acme", log).Append(t.Context(), immutable.Event{Message: "a", Level: immutable.Security}, immutable.Event{Message: "b", Level: immutable.Audit}); err != nil {
			t.Fatal(err)
		}
	}
	oneLog := sv.token("acme", tenant.TokenSpec{Role: tenant.Admin, Logs: []string{"main"}})
	for _, rt := range routes() {
		if !rt.has("{log}") || rt.Access == signed {
			continue
		}
		status, body := sv.walk(&rt, "acme", "other", oneLog, true)
		nowhere, want := sv.walk(&rt, "acme", "no-such-log", oneLog, true)
		if status != http.StatusNotFound || nowhere != status || body != want {
			t.Errorf("%s: of a log outside its limits status %d, %s; of one that does not exist %d, %s", rt.ID, status, body, nowhere, want)
		}
	}
	const l = "/api/v1/tenants/acme/logs/main"
	oneLevel := sv.token("acme", tenant.TokenSpec{Role: tenant.Auditor, Levels: tenant.Levels{immutable.Audit}})
	var p struct{ Entries []struct{ Message string } }
	for _, query := range []string{"", "?level=SECURITY,AUDIT", "?q=level:security%20OR%20level:audit"} {
		sv.do("GET", l+"/entries"+query, oneLevel, nil).want(t, http.StatusOK, &p)
		if len(p.Entries) != 1 || p.Entries[0].Message != "b" {
			t.Errorf("entries%s with one level: got %v, want b", query, p.Entries)
		}
	}
	sv.do("GET", l+"/entries?level=SECURITY", oneLevel, nil).want(t, http.StatusOK, &p)
	if len(p.Entries) != 0 {
		t.Errorf("entries of another level: got %v", p.Entries)
	}
	for _, what := range []string{"", "/block", "/proof", "/receipt"} {
		hidden := sv.do("GET", l+"/entries/0"+what, oneLevel, nil).want(t, http.StatusNotFound, nil)
		none := sv.do("GET", l+"/entries/99"+what, oneLevel, nil).want(t, http.StatusNotFound, nil)
		if string(hidden.body) != string(none.body) {
			t.Errorf("an entry of another level answers %s, one that does not exist %s", hidden.body, none.body)
		}
		sv.do("GET", l+"/entries/1"+what, oneLevel, nil).want(t, http.StatusOK, nil)
	}
	sv.do("GET", "/tlog/acme/main/tile/entries/000.p/2", oneLevel, nil).problem(t, "forbidden")
	writer := sv.token("acme", tenant.TokenSpec{Role: tenant.Writer, Levels: tenant.Levels{immutable.Audit}})
	sv.do("POST", l+"/entries", writer, strings.NewReader(`{"message":"m","level":"AUDIT"}`), "Content-Type", "application/json").want(t, http.StatusCreated, nil)
	sv.do("POST", l+"/entries", writer, strings.NewReader(`{"message":"m","level":"SECURITY"}`), "Content-Type", "application/json").problem(t, "forbidden")
	a := sv.do("POST", l+"/entries", writer, strings.NewReader("{\"message\":\"x\",\"level\":\"SECURITY\"}\n{\"message\":\"y\",\"level\":\"AUDIT\"}\n"), "Content-Type", "application/x-ndjson").want(t, http.StatusOK, nil)
	if !strings.Contains(string(a.body), `"done":true,"accepted":1,"rejected":1`) {
		t.Errorf("NDJSON with a level that is not allowed: %s", a.body)
	}
}

func TestTokensEndAtOnce(t *testing.T) {
	sv := serve(t, nil)
	revoked := sv.token("default", tenant.TokenSpec{Role: tenant.Reader})
	sv.do("GET", mainLog+"/entries", revoked, nil).want(t, http.StatusOK, nil)
	tn, err := sv.in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	if err := tn.RevokeToken(t.Context(), tenant.Local("test"), strings.Split(revoked, "_")[1]); err != nil {
		t.Fatal(err)
	}
	sv.do("GET", mainLog+"/entries", revoked, nil).problem(t, "unauthenticated")
	for _, header := range []string{"Basic YTpi", "Bearer", "Bearer  ", "Bearer a b", "bearer " + strings.Repeat("x", 20_000), rootToken} {
		a := sv.do("GET", mainLog+"/entries", "", nil, "Authorization", header)
		a.problem(t, "unauthenticated")
		if got := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
			t.Errorf("WWW-Authenticate is %q", got)
		}
	}
	for _, path := range []string{"?token=" + rootToken, "?access_token=" + rootToken} {
		sv.do("GET", mainLog+"/entries"+path, "", nil).problem(t, "unauthenticated")
	}
}

func TestPublicTilesArePublicAndNothingElse(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	s := l.Settings()
	s.PublicTiles = true
	if err := l.Update(t.Context(), tenant.Local("test"), s); err != nil {
		t.Fatal(err)
	}
	sv.tenant(tenant.TenantSettings{Name: "acme"})
	a := sv.do("GET", "/tlog/default/main/checkpoint", "", nil).want(t, http.StatusOK, nil)
	if !strings.HasPrefix(a.header.Get("Cache-Control"), "public") {
		t.Errorf("Cache-Control of public tiles is %q", a.header.Get("Cache-Control"))
	}
	want := sv.do("GET", "/tlog/nobody/main/checkpoint", "", nil)
	want.problem(t, "unauthenticated")
	for _, path := range []string{"/tlog/acme/main/checkpoint", "/tlog/default/system/checkpoint", "/tlog/default/none/checkpoint"} {
		if a := sv.do("GET", path, "", nil); a.status != want.status || string(a.body) != string(want.body) {
			t.Errorf("%s: status %d, %s, want %s", path, a.status, a.body, want.body)
		}
	}
	sv.do("GET", mainLog+"/entries", "", nil).problem(t, "unauthenticated")
	sv.do("GET", "/tlog/default/main/checkpoint", "not-a-token-but-some-characters", nil).problem(t, "unauthenticated")
}
