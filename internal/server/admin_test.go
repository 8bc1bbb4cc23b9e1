package server

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// patch sends a merge patch with the administrator's token.
func (sv *service) patch(path, body string, headers ...string) got {
	sv.t.Helper()
	return sv.do("PATCH", path, sv.root, strings.NewReader(body), append([]string{"Content-Type", "application/merge-patch+json"}, headers...)...)
}

// records are the entries of a tenant's log of the log with an action.
func (sv *service) records(tenantName string, action tenant.Action) (list []map[string]any) {
	sv.t.Helper()
	for e, err := range sv.log(tenantName, "system").Entries(sv.t.Context(), immutable.Query{Text: "action:" + string(action)}) {
		if err != nil {
			sv.t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			sv.t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// A tenant, its log and its tokens come into being, work, and each step is on record with who took it.
func TestAdministrationIsOnRecordWithWhoDidIt(t *testing.T) {
	sv := serve(t, nil)
	sv.post("/api/v1/tenants", `{"name":"acme","title":"Acme"}`).want(t, 201, nil)
	sv.post("/api/v1/tenants", `{"name":"acme"}`).problem(t, "exists")
	acme := "/api/v1/tenants/acme"
	var admin struct{ Token, ID, Tenant string }
	sv.post(acme+"/tokens", `{"name":"Ann","role":"admin"}`).want(t, 201, &admin)
	ann := func(method, path, body string) got {
		t.Helper()
		return sv.do(method, path, admin.Token, strings.NewReader(body), "Content-Type", "application/json")
	}
	if a := ann("POST", acme+"/logs", `{"name":"pay","keepDays":30}`).want(t, 201, nil); a.header.Get("Location") != acme+"/logs/pay" {
		t.Errorf("Location %q", a.header.Get("Location"))
	}
	var writer struct{ Token, ID string }
	ann("POST", acme+"/tokens", `{"name":"app","role":"writer","logs":["pay"],"levels":["REVENUE"]}`).want(t, 201, &writer)
	sv.do("POST", acme+"/logs/pay/entries", writer.Token, strings.NewReader(`{"level":"REVENUE","message":"paid"}`), "Content-Type", "application/json").want(t, 201, nil)
	ann("PATCH", acme+"/logs/pay", `{"title":"Payments"}`).want(t, 200, nil)
	ann("POST", acme+"/logs/pay/rotate", "").want(t, 200, nil)
	ann("POST", acme+"/logs/pay/rotate-keys", "").want(t, 200, nil)
	ann("PUT", acme+"/logs/pay/holds/case-7", `{"reason":"a suit"}`).want(t, 201, nil)
	ann("DELETE", acme+"/logs/pay/holds/case-7?reason=settled", "").want(t, 200, nil)
	ann("DELETE", acme+"/tokens/"+writer.ID, "").want(t, 204, nil)
	sv.do("POST", acme+"/logs/pay/entries", writer.Token, strings.NewReader(`{}`), "Content-Type", "application/json").problem(t, "unauthenticated")

	for action, n := range map[tenant.Action]int{
		tenant.LogCreate: 1, tenant.TokenCreate: 1, tenant.LogUpdate: 1, tenant.LogRotate: 2, tenant.HoldSet: 1, tenant.HoldRelease: 1, tenant.TokenRevoke: 1,
	} {
		found := 0
		for _, m := range sv.records("acme", action) {
			if by, _ := m["by"].(map[string]any); by["id"] == "token:"+admin.ID && by["name"] == "Ann" {
				found++
			}
		}
		if found != n {
			t.Errorf("%s by Ann is %d times on record, want %d", action, found, n)
		}
	}
	// The secret is nowhere but in the one answer.
	for _, path := range []string{acme + "/tokens", acme + "/logs/system/export", "/api/v1/tenants/system/logs/system/export"} {
		if a := sv.get(path).want(t, 200, nil); strings.Contains(string(a.body), admin.Token) || strings.Contains(string(a.body), admin.Token[21:]) {
			t.Errorf("%s shows a token", path)
		}
	}
}

func TestPatchChangesWhatItNamesAndNothingElse(t *testing.T) {
	sv := serve(t, nil)
	path := "/api/v1/tenants/default/logs/main"
	var v struct {
		Settings map[string]any
	}
	settings := func(a got) map[string]any {
		t.Helper()
		v.Settings = nil
		a.want(t, 200, &v)
		return v.Settings
	}
	first := sv.get(path)
	before := settings(first)
	after := settings(sv.patch(path, `{"title":"Main","verify":{"open":"off"}}`))
	if after["title"] != "Main" || after["verify"].(map[string]any)["open"] != "off" || after["verify"].(map[string]any)["full"] != before["verify"].(map[string]any)["full"] {
		t.Errorf("%v became %v", before, after)
	}
	// null is the default again, for a whole object too.
	if again := settings(sv.patch(path, `{"title":null,"verify":null}`)); fmt.Sprint(again) != fmt.Sprint(before) {
		t.Errorf("%v, want %v", again, before)
	}
	for body, code := range map[string]string{
		`{"titel":"x"}`: "bad-json", `{"Title":"x"}`: "bad-json", `{"verify":{"Open":"off"}}`: "bad-json", `{"title":"a","title":"b"}`: "bad-json", `[]`: "bad-json", `"x"`: "bad-json", ``: "bad-json",
		`{} {}`: "bad-json", `{"keepDays":"30"}`: "bad-json", `{"verify":1}`: "bad-json", `{"keepDays":-1}`: "bad-settings", `{"name":"other"}`: "bad-settings", `{"expired":"burn"}`: "bad-settings",
		`{"keepDays":1e400}`: "bad-json",
	} {
		if a := sv.patch(path, body); a.status < 400 || a.status >= 500 {
			t.Errorf("%s: status %d: %s", body, a.status, a.body)
		} else if p := map[string]any{}; json.Unmarshal(a.body, &p) != nil || p["code"] != code {
			t.Errorf("%s: %s, want %s", body, a.body, code)
		}
	}
	sv.do("PATCH", path, sv.root, strings.NewReader(`{}`), "Content-Type", "text/plain").problem(t, "unsupported-media-type")
	if now := settings(sv.get(path)); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("a refused patch changed %v to %v", before, now)
	}
	// Who has seen other settings is told so.
	tag := sv.get(path).header.Get("ETag")
	sv.patch(path, `{"title":"a"}`, "If-Match", tag).want(t, 200, nil)
	sv.patch(path, `{"title":"b"}`, "If-Match", tag).problem(t, "conflict")
	sv.patch(path, `{"title":"c"}`, "If-Match", "*").want(t, 200, nil)
}

func TestMergePatchIsTheRFCs(t *testing.T) {
	// RFC 7396, appendix A, those whose patch is an object.
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		if out, err := mergePatch([]byte(c[0]), []byte(c[1])); err != nil || string(out) != c[2] {
			t.Errorf("%s and %s: %s, %v; want %s", c[0], c[1], out, err, c[2])
		}
	}
}

func FuzzMergePatchLeavesSettingsThatDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"title":"x","verify":{"open":null}}`, `{"verify":{"open":{"a":1}}}`, `{"keepDays":1e3}`, `[`, `{"a":{"a":{"a":null}}}`} {
		f.Add([]byte(s))
	}
	now := tenant.LogSettings{Name: "main", Title: "t", Expired: "keep", KeepDays: 3}
	f.Fuzz(func(t *testing.T, change []byte) {
		s, err := patched(now, change)
		if err != nil {
			if known(err) == nil {
				t.Fatalf("%q: %v is no problem for a client", change, err)
			}
			return
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := patched(s, []byte(`{}`)); err != nil || fmt.Sprint(again) != fmt.Sprint(s) {
			t.Fatalf("%s is not stable: %v", data, err)
		}
	})
}

// What a tenant's administrator may not decide, however it is asked for.
func TestTenantAdministratorCannotRaiseItsQuota(t *testing.T) {
	sv := serve(t, nil)
	sv.tenant(tenant.TenantSettings{Name: "acme", Quota: tenant.Quota{EntriesPerSecond: 10}})
	token := sv.token("acme", tenant.TokenSpec{Role: tenant.Admin})
	change := func(body string) got {
		return sv.do("PATCH", "/api/v1/tenants/acme", token, strings.NewReader(body), "Content-Type", "application/json")
	}
	change(`{"quota":null}`).problem(t, "forbidden")
	change(`{"quota":{"entriesPerSecond":1000000}}`).problem(t, "forbidden")
	change(`{"suspended":true}`).problem(t, "forbidden")
	change(`{"title":"ours"}`).want(t, 200, nil)
	sv.patch("/api/v1/tenants/acme", `{"quota":{"entriesPerSecond":null}}`).want(t, 200, nil)
}

// Lists show what the principal may know of, and no more.
func TestListsShowWhatThePrincipalMayKnow(t *testing.T) {
	sv := serve(t, nil)
	sv.tenant(tenant.TenantSettings{Name: "acme"})
	for _, name := range []string{"a", "b"} {
		sv.post("/api/v1/tenants/acme/logs", `{"name":"`+name+`"}`).want(t, 201, nil)
	}
	names := func(token string) (out []string) {
		t.Helper()
		var v struct{ Logs []struct{ Name string } }
		sv.do("GET", "/api/v1/tenants/acme/logs", token, nil).want(t, 200, &v)
		for _, l := range v.Logs {
			out = append(out, l.Name)
		}
		return out
	}
	for _, c := range []struct {
		spec tenant.TokenSpec
		want []string
	}{
		{tenant.TokenSpec{Role: tenant.Reader}, []string{"a", "b", "main"}},
		{tenant.TokenSpec{Role: tenant.Reader, Logs: []string{"b"}}, []string{"b"}},
		{tenant.TokenSpec{Role: tenant.Auditor}, []string{"a", "b", "main", "system"}},
		{tenant.TokenSpec{Role: tenant.Auditor, Logs: []string{"b", "system"}}, []string{"b", "system"}},
	} {
		if got := names(sv.token("acme", c.spec)); !slices.Equal(got, c.want) {
			t.Errorf("%+v sees %v, want %v", c.spec, got, c.want)
		}
	}
	// A reader does not see settings, an auditor does.
	var v map[string]any
	sv.do("GET", "/api/v1/tenants/acme", sv.token("acme", tenant.TokenSpec{Role: tenant.Reader}), nil).want(t, 200, &v)
	if v["settings"] != nil || v["usage"] != nil {
		t.Errorf("a reader sees %v", v)
	}
	sv.do("GET", "/api/v1/tenants/acme", sv.token("acme", tenant.TokenSpec{Role: tenant.Auditor}), nil).want(t, 200, &v)
	if v["settings"] == nil || v["usage"] == nil {
		t.Errorf("an auditor sees %v", v)
	}
	sv.get("/api/v1/tenants").want(t, 200, nil)
	sv.get("/api/v1/tokens").want(t, 200, nil)
	sv.post("/api/v1/tokens", `{"name":"x","role":"king"}`).problem(t, "bad-settings")
	sv.do("DELETE", "/api/v1/tokens/0000000000000000", sv.root, nil).problem(t, "not-found")
}

func TestHoldsAreSetOnceAndReleasedOnce(t *testing.T) {
	sv := serve(t, nil)
	put := func(id, body string) got {
		return sv.do("PUT", mainLog+"/holds/"+id, sv.root, strings.NewReader(body), "Content-Type", "application/json")
	}
	put("case-1", `{"reason":"audit"}`).want(t, 201, nil)
	put("case-1", `{"reason":"audit"}`).problem(t, "exists")
	put("case-2", `{"reason":""}`).problem(t, "bad-parameter")
	put("case-2", `{"reason":"`+strings.Repeat("x", 1025)+`"}`).problem(t, "bad-parameter")
	put("case-2", `{"reason":"x","by":"somebody else"}`).problem(t, "bad-json")
	put(strings.Repeat("a", 65), `{"reason":"x"}`).problem(t, "bad-parameter")
	put("-a", `{"reason":"x"}`).problem(t, "bad-parameter")
	var v struct{ Holds []immutable.Hold }
	if sv.get(mainLog+"/holds").want(t, 200, &v); len(v.Holds) != 1 || v.Holds[0].ID != "case-1" || !strings.HasPrefix(v.Holds[0].By, "token:") {
		t.Errorf("%+v", v)
	}
	release := func(path string) got { return sv.do("DELETE", mainLog+"/holds/"+path, sv.root, nil) }
	release("case-1").problem(t, "bad-parameter")
	release("case-2?reason=x").problem(t, "not-found")
	release("case-1?reason=done").want(t, 200, nil)
	release("case-1?reason=done").problem(t, "not-found")
	if sv.get(mainLog+"/holds").want(t, 200, &v); len(v.Holds) != 0 {
		t.Errorf("%+v", v)
	}
}
