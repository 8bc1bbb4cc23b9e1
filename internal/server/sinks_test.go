package server

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/sink"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func TestSinksOverTheAPI(t *testing.T) {
	var m *sink.Manager
	sv := serve(t, func(o *Options) {
		m = sink.New(sink.Options{Installation: o.Installation})
		o.Sinks = m
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	const path = "/api/v1/tenants/default/sinks"
	sv.get(path).want(t, 200, nil)
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	a := sv.post(path, `{"name":"hook","log":"main","type":"webhook","url":"https://receiver.example/in","secrets":["`+secret+`"],"levels":["AUDIT"],"paused":true}`)
	a.want(t, 201, nil)
	if a.header.Get("Location") != path+"/hook" || strings.Contains(string(a.body), secret) {
		t.Errorf("%v %s", a.header, a.body)
	}
	sv.post(path, `{"name":"hook","log":"main","type":"file"}`).problem(t, "exists")
	sv.post(path, `{"name":"Hook","log":"main","type":"file"}`).problem(t, "bad-settings")
	sv.post(path, `{"name":"x","log":"none","type":"file"}`).problem(t, "not-found")
	sv.post(path, `{"name":"x","log":"main","type":"file","extra":1}`).problem(t, "bad-json")
	patch := func(body string, headers ...string) got {
		return sv.do("PATCH", path+"/hook", sv.root, strings.NewReader(body), append([]string{"Content-Type", "application/merge-patch+json"}, headers...)...)
	}
	var v sink.View
	sv.get(path+"/hook").want(t, 200, &v)
	if v.Status.State != sink.Paused || v.Secrets[0] != sink.Kept {
		t.Errorf("%+v", v)
	}
	tag := sv.get(path + "/hook").header.Get("ETag")
	patch(`{"title":"for the SIEM","format":"ocsf"}`, "If-Match", tag).want(t, 200, &v)
	if v.Title != "for the SIEM" || v.Format != sink.OCSF {
		t.Errorf("%+v", v)
	}
	patch(`{"title":"late"}`, "If-Match", tag).problem(t, "conflict")
	patch(`{"name":"other"}`).problem(t, "bad-settings")
	patch(`{"url":"https://elsewhere.example/"}`).problem(t, "bad-settings")
	patch(`{"status":{}}`).problem(t, "bad-json")
	sv.post(path+"/hook/resume", "").want(t, 200, &v)
	sv.post(path+"/hook/pause", "").want(t, 200, &v)
	sv.post(path+"/hook/retry", `{"indexes":[1]}`).want(t, 200, nil)
	sv.get(path+"/hook/dead-letters").want(t, 200, nil)
	sv.post(path+"/hook/dead-letters/drop", `{}`).want(t, 200, nil)
	sv.get(path+"/none").problem(t, "not-found")
	sv.get(path+"/none/dead-letters").problem(t, "not-found")
	limited := sv.token("default", tenant.TokenSpec{Role: tenant.Admin, Logs: []string{"main"}})
	sv.do("POST", path, limited, strings.NewReader(`{"name":"x","log":"system","type":"file"}`), "Content-Type", "application/json").problem(t, "forbidden")
	sv.do("DELETE", path+"/hook", sv.root, nil).want(t, 204, nil)
	want := map[tenant.Action]int{tenant.SinkCreate: 1, tenant.SinkUpdate: 1, tenant.SinkResume: 1, tenant.SinkPause: 1, tenant.SinkRetry: 1, tenant.SinkDrop: 1, tenant.SinkDelete: 1}
	for e, err := range sv.log("default", tenant.SystemName).Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		var x struct{ Action tenant.Action }
		if err := json.Unmarshal(e.Metadata, &x); err == nil {
			want[x.Action]--
		}
		if bytes.Contains(e.Line, []byte(secret)) {
			t.Errorf("the secret is in the log of the log: %s", e.Line)
		}
	}
	for action, n := range want {
		if strings.HasPrefix(string(action), "sink.") && n != 0 {
			t.Errorf("%s: %d records too few", action, n)
		}
	}
}

func TestExportsInTheFormatsOfOthers(t *testing.T) {
	sv := serve(t, nil)
	sv.post(mainLog+"/entries", `{"message":"a","metadata":{"kind":"api","action":"object.read"}}`).want(t, 201, nil)
	for format, want := range map[string]string{"ocsf": `"class_uid":6003`, "ecs": `"category":["api"]`, "marked": `{"immutable":{"origin":`} {
		a := sv.get(mainLog+"/export?format="+format).want(t, 200, nil)
		if !strings.Contains(string(a.body), want) {
			t.Errorf("%s: %s", format, a.body)
		}
	}
}
