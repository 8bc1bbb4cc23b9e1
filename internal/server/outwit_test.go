package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// halfSent sends a request up to the middle of its body, and returns what sends the rest and reads the answer.
func (sv *service) halfSent(method, path, kind, token, body string) func() (status int, answer string) {
	sv.t.Helper()
	c, err := (&net.Dialer{}).DialContext(sv.t.Context(), "tcp", sv.addr)
	if err != nil {
		sv.t.Fatal(err)
	}
	sv.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	half := len(body) / 2
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", method, path, kind, token, len(body)); err != nil {
		sv.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "100") { // the handler reads: it has passed authorization
		sv.t.Fatalf("%s %s: %q, %v", method, path, line, err)
	}
	_, _ = r.ReadString('\n')
	if _, err := io.WriteString(c, body[:half]); err != nil {
		sv.t.Fatal(err)
	}
	return func() (int, string) {
		sv.t.Helper()
		if _, err := io.WriteString(c, body[half:]); err != nil {
			sv.t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			sv.t.Fatal(err)
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(data)
	}
}

// Whoever has begun a request before its token was revoked does nothing with the rest of it: else a thief who is found out would
// make a new token.
func TestRevocationEndsRequestsThatAreHalfSent(t *testing.T) {
	sv := serve(t, nil)
	tn := sv.tenant(tenant.TenantSettings{Name: "acme"})
	const path = "/api/v1/tenants/acme"
	token := sv.token("acme", tenant.TokenSpec{Role: tenant.Admin})
	before := len(tn.Tokens())
	type half = func() (int, string)
	rest := map[string]half{}
	for _, r := range [][4]string{
		{"POST", path + "/tokens", "application/json", `{"name":"thief","role":"admin"}`},
		{"PATCH", path, "application/json", `{"title":"taken"}`},
		{"POST", path + "/logs", "application/json", `{"name":"stolen"}`},
		{"POST", path + "/logs/main/entries", "application/json", `{"message":"one"}`},
		{"POST", path + "/logs/main/entries", "application/json", `[{"message":"array"}]`},
		{"POST", path + "/logs/main/entries", "application/json", `{"message":"` + strings.Repeat("long ", 9000) + `"}`},
	} {
		rest[r[0]+" "+r[1]+" "+r[3][:10]] = sv.halfSent(r[0], r[1], r[2], token, r[3])
	}
	if err := tn.RevokeToken(t.Context(), tenant.Local("test"), strings.Split(token, "_")[1]); err != nil {
		t.Fatal(err)
	}
	for what, send := range rest {
		if status, answer := send(); status != http.StatusUnauthorized {
			t.Errorf("%s, whose token was revoked meanwhile: %d %s", what, status, answer)
		}
	}
	if n := len(tn.Tokens()); n != before || len(tn.Logs()) != 2 || tn.Settings().Title != "" || len(sv.messages("acme", "main")) != 0 {
		t.Errorf("a revoked token made tokens (%d, before %d), logs %d, the title %q, entries %q", n, before, len(tn.Logs()), tn.Settings().Title, sv.messages("acme", "main"))
	}
}

// encoding/json takes "logſ" (with a long s) for "logs": whoever looks at a body before us sees one scope, and we would take another.
func TestSettingsHaveOneSpelling(t *testing.T) {
	sv := serve(t, nil)
	for _, body := range []string{
		`{"name":"x","role":"reader","logs":["main"],"logſ":["other"]}`, `{"name":"x","role":"reader","levels":["INFO"],"Levels":[]}`,
		`{"name":"x","role":"reader","levelſ":["INFO"]}`, `{"name":"x","Role":"admin"}`, `{"name":"x","role":"reader","levels":["INFO"],"levelſ":[]}`,
	} {
		sv.post("/api/v1/tenants/default/tokens", body).problem(t, "bad-json")
	}
	sv.post("/api/v1/tenants/default/tokens", `{"name":"x","role":"reader","logs":["main"],"levels":["INFO"]}`).want(t, 201, nil)
}

// A principal that is limited to some levels learns nothing of the others, however it asks.
func TestStatsKeepToTheLevelsOfTheToken(t *testing.T) {
	sv := serve(t, nil)
	events := []immutable.Event{{Message: "a", Level: immutable.Security}, {Message: "b", Level: immutable.Audit}, {Message: "c", Level: immutable.Security}}
	if _, err := sv.log("default", "main").Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	var v struct {
		Levels                   map[string]int
		OldestEntry, NewestEntry *time.Time
	}
	sv.do("GET", mainLog+"/stats", sv.token("default", tenant.TokenSpec{Role: tenant.Reader, Levels: tenant.Levels{immutable.Audit}}), nil).want(t, 200, &v)
	if len(v.Levels) != 1 || v.Levels["AUDIT"] != 1 || v.OldestEntry != nil || v.NewestEntry != nil {
		t.Errorf("one level sees %+v", v)
	}
	v.Levels = nil
	sv.get(mainLog+"/stats").want(t, 200, &v)
	if len(v.Levels) != immutable.NumLevels || v.Levels["SECURITY"] != 2 || v.OldestEntry == nil {
		t.Errorf("an administrator sees %+v", v)
	}
}

// The tag of settings is a hash of them: whoever may not see them must not be able to try which they are.
func TestTagsOfHiddenSettingsAreHidden(t *testing.T) {
	sv := serve(t, nil)
	reader := sv.token("default", tenant.TokenSpec{Role: tenant.Reader})
	if tag := sv.do("GET", "/api/v1/tenants/default", reader, nil).want(t, 200, nil).header.Get("ETag"); tag != "" {
		t.Errorf("a reader gets the tag %s of settings that it may not see", tag)
	}
	if sv.get("/api/v1/tenants/default").want(t, 200, nil).header.Get("ETag") == "" {
		t.Error("an administrator gets no tag")
	}
}

// Holds quote what somebody has written: who read them is on record.
func TestReadingHoldsIsOnRecord(t *testing.T) {
	sv := serve(t, nil)
	sv.get(mainLog+"/holds").want(t, 200, nil)
	found := false
	for _, m := range sv.records("default", tenant.ReadBegin) {
		found = found || m["log"] == "main" && m["filter"] == "holds"
	}
	if !found {
		t.Error("nobody knows who read the holds")
	}
}

// A revocation that the disk did not take says that it has to be made again: after a restart the token would be good.
func TestRevocationThatIsNotDurableSaysSo(t *testing.T) {
	sv := serve(t, nil)
	token := sv.token("default", tenant.TokenSpec{Role: tenant.Reader})
	id := strings.Split(token, "_")[1]
	inTheWay := filepath.Join(sv.dir, "tenants", "default", "tokens.json.tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "not empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	revoke := func() got { return sv.do("DELETE", "/api/v1/tenants/default/tokens/"+id, sv.root, nil) }
	if p := revoke().problem(t, "record-failed"); !strings.Contains(fmt.Sprint(p["detail"]), "revoke it again") {
		t.Errorf("a revocation that is not durable answers %v", p)
	}
	sv.do("GET", mainLog+"/entries", token, nil).problem(t, "unauthenticated")
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	revoke().want(t, http.StatusNoContent, nil)
}

// A full disk is told as such by everything that writes, not as a fault of the server.
func TestFullDiskIsNoFaultOfTheServer(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, fmt.Errorf("seal: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})} {
		if p := known(err); p == nil || p.kind.code != "no-space" || strings.Contains(p.detail, "x") {
			t.Errorf("%v is %v", err, p)
		}
	}
}

// A tenant that searches with all its might waits for itself: it has one of four places, and the others theirs.
func TestSearchesOfOneTenantLeaveRoomForOthers(t *testing.T) {
	sv := serve(t, func(o *Options) {
		o.Limits.Searches, o.Limits.Patience = 4, 200*time.Millisecond
	})
	sv.tenant(tenant.TenantSettings{Name: "acme"})
	if !sv.s.searches.try("default", 1) {
		t.Fatal("there is no place at the start")
	}
	for _, path := range []string{"/entries?q=a", "/entries?level=INFO", "/count", "/counts?by=level", "/histogram?width=1h"} {
		sv.get(mainLog+path).problem(t, "busy")
		sv.get("/api/v1/tenants/acme/logs/main"+path).want(t, 200, nil)
	}
	sv.get(mainLog+"/entries").want(t, 200, nil) // no search
	sv.s.searches.give("default", 1)
	for _, path := range []string{"/entries?q=a", "/count", "/counts?by=level", "/histogram?width=1h", "/counts?by=level", "/count"} {
		sv.get(mainLog+path).want(t, 200, nil)
	}
	sv.s.searches.mu.Lock()
	defer sv.s.searches.mu.Unlock()
	if len(sv.s.searches.held) != 0 {
		t.Errorf("places are not given back: %v", sv.s.searches.held)
	}
}
