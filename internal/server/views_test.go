package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func TestViewsAreSharedByThoseWhoMayReadTheLog(t *testing.T) {
	sv := serve(t, nil)
	sv.post("/api/v1/tenants/default/logs", `{"name":"pay"}`).want(t, 201, nil)
	const path = "/api/v1/tenants/default/views"
	token := func(role tenant.Role, logs ...string) string {
		return sv.token("default", tenant.TokenSpec{Name: string(role), Role: role, Logs: logs})
	}
	ann, bob, pay, writer := token(tenant.Reader), token(tenant.Reader), token(tenant.Auditor, "pay"), token(tenant.Writer)
	save := func(token, body string) got {
		return sv.do("POST", path, token, strings.NewReader(body), "Content-Type", "application/json")
	}
	names := func(token string) string {
		t.Helper()
		var a struct{ Views []savedView }
		sv.do("GET", path, token, nil).want(t, 200, &a)
		var list []string
		for _, v := range a.Views {
			list = append(list, v.Log+"/"+v.Name)
		}
		return strings.Join(list, " ")
	}
	var v savedView
	save(ann, `{"name":"failures","log":"main","query":"outcome:failure","span":"24h"}`).want(t, http.StatusCreated, &v)
	save(pay, `{"name":"refunds","log":"pay","query":"action:refund*"}`).want(t, http.StatusCreated, nil)
	if got := names(bob); got != "main/failures pay/refunds" {
		t.Errorf("a reader of all logs sees %s", got)
	}
	if got := names(pay); got != "pay/refunds" {
		t.Errorf("an auditor of one log sees %s", got)
	}
	sv.do("GET", path, writer, nil).problem(t, "forbidden")

	// What is not theirs they neither save nor delete, nor hear of.
	save(pay, `{"name":"x","log":"main"}`).problem(t, "not-found")
	save(pay, `{"name":"x","log":"none"}`).problem(t, "not-found")
	save(ann, `{"name":"x","log":"system"}`).problem(t, "not-found")
	sv.do("DELETE", path+"/"+v.ID, pay, nil).problem(t, "not-found")
	sv.do("DELETE", path+"/"+v.ID, bob, nil).problem(t, "forbidden")

	save(ann, `{"name":"failures","log":"main"}`).problem(t, "exists")
	save(ann, `{"name":" ","log":"main"}`).problem(t, "bad-parameter")
	save(ann, `{"name":"`+strings.Repeat("x", maxViewName+1)+`","log":"main"}`).problem(t, "bad-parameter")
	save(ann, `{"name":"x","log":"main","query":"level:AUDIT AND ("}`).problem(t, "bad-query")
	save(ann, `{"name":"x","log":"main","query":"`+strings.Repeat("x ", maxViewText/2)+`y"}`).problem(t, "bad-parameter")
	save(ann, `{"name":"x","log":"main","span":"1 day"}`).problem(t, "bad-parameter")
	save(ann, `{"name":"x","log":"main","span":"1d","since":"2026-01-01T00:00:00Z"}`).problem(t, "bad-parameter")

	sv.do("DELETE", path+"/"+v.ID, ann, nil).want(t, http.StatusNoContent, nil)
	sv.do("DELETE", path+"/"+v.ID, ann, nil).problem(t, "not-found")
	for i := 1; i < maxViews; i++ {
		save(ann, fmt.Sprintf(`{"name":"v%d","log":"main"}`, i)).want(t, http.StatusCreated, &v)
	}
	save(ann, `{"name":"one too many","log":"main"}`).problem(t, "conflict")
	sv.do("DELETE", path+"/"+v.ID, sv.root, nil).want(t, http.StatusNoContent, nil) // an administrator
	if saved, deleted := len(sv.records("default", tenant.ViewSave)), len(sv.records("default", tenant.ViewDelete)); saved != maxViews+1 || deleted != 2 {
		t.Errorf("on record: %d saved, %d deleted", saved, deleted)
	}
}
