package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

type catalogueState struct {
	Catalogue       map[string]any
	Refused, Marked uint64
	Schemas         []string
}

func (sv *service) putCatalogue(body string) got {
	return sv.do("PUT", mainLog+"/catalogue", sv.root, strings.NewReader(body), "Content-Type", "application/json")
}

func TestCatalogueRefusesAndMarks(t *testing.T) {
	sv := serve(t, nil)
	var s catalogueState
	sv.get(mainLog+"/catalogue").want(t, http.StatusOK, &s)
	if s.Catalogue != nil || len(s.Schemas) == 0 {
		t.Errorf("without a catalogue: %+v", s)
	}
	const types = `"types":{"payment.charge":{"required":["amount"],"properties":{"amount":{"type":"integer"}}}}`
	const bad = `{"message":"m","metadata":{"action":"payment.charge","amount":"5"}}`
	sv.putCatalogue(`{"mode":"strict",`+types+`}`).want(t, http.StatusOK, nil)
	if p := sv.post(mainLog+"/entries", bad).problem(t, "bad-event"); p["field"] != "metadata/amount" {
		t.Errorf("the fault is at %v", p["field"])
	}
	sv.post(mainLog+"/entries", `[{"message":"fine"},`+bad+`]`).problem(t, "bad-event")
	sv.post(mainLog+"/entries", `{"message":"m","metadata":{"action":"payment.charge","amount":5}}`).want(t, http.StatusCreated, nil)
	if n := sv.log("default", "main").Size(); n != 1 {
		t.Errorf("the log has %d entries", n)
	}
	// Whatever way events come, it is the log that has the catalogue, also after a restart.
	New(Options{Installation: sv.in})
	if _, err := sv.log("default", "main").AppendAs(context.Background(), &tenant.Principal{ID: "p", Role: tenant.Writer, Tenant: "default"}, immutable.Event{Message: "m", RawMetadata: []byte(`{"action":"payment.charge"}`)}); err == nil {
		t.Error("a restart forgot the catalogue")
	} else if _, ok := errors.AsType[*immutable.FieldError](err); !ok {
		t.Errorf("got %v", err)
	}

	sv.putCatalogue(`{"mode":"warn",`+types+`}`).want(t, http.StatusOK, nil)
	sv.post(mainLog+"/entries", bad).want(t, http.StatusCreated, nil)
	if a := sv.get(mainLog + "/entries/1"); !strings.Contains(string(a.body), `"catalogueFault":{"pointer":"/amount","error":`) && !strings.Contains(string(a.body), `"catalogueFault":{"error":`) {
		t.Errorf("the entry is not marked: %s", a.body)
	}
	sv.get(mainLog+"/catalogue").want(t, http.StatusOK, &s)
	if s.Marked != 1 || s.Refused != 0 || s.Catalogue["mode"] != "warn" {
		t.Errorf("%+v", s)
	}
	for _, bad := range []string{`{"mode":"loud"}`, `{"mode":"warn","types":{"a":{"$ref":"file:///etc/passwd"}}}`} {
		sv.putCatalogue(bad).problem(t, "bad-settings")
	}
	sv.putCatalogue(`{"mode":"warn","mode":"off"}`).problem(t, "bad-json")
	sv.do("PUT", strings.Replace(mainLog, "main", "system", 1)+"/catalogue", sv.root, strings.NewReader(`{"mode":"off"}`), "Content-Type", "application/json").problem(t, "conflict")
	// Settings that cannot be read refuse, rather than let everything through.
	if err := sv.log("default", "main").Tenant().WriteFile(catalogueFile("main"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	New(Options{Installation: sv.in})

	sv.post(mainLog+"/entries", `{"message":"m"}`).problem(t, "log-unavailable")
	sv.putCatalogue(`{"mode":"off"}`).want(t, http.StatusOK, nil)
	sv.post(mainLog+"/entries", `{"message":"m"}`).want(t, http.StatusCreated, nil)
	if a, b := catalogueFile(strings.Repeat("a", 63)), catalogueFile(strings.Repeat("a", 62)+"b"); a == b || tenant.CheckName("file", strings.TrimSuffix(a, ".json")) != nil {
		t.Errorf("files %s and %s", a, b)
	}
}

func TestKubernetesSendsItsAuditEvents(t *testing.T) {
	h := &heard{}
	sv := serve(t, func(o *Options) { o.Sources = h })
	const path = mainLog + "/k8s-audit?timeout=30s"
	item := func(id, stage string) string {
		return `{"level":"Metadata","auditID":"` + id + `","stage":"` + stage + `","requestURI":"/api/v1/pods","verb":"list","user":{"username":"ann"},"responseStatus":{"code":200}}`
	}
	list := func(items ...string) string {
		return `{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(items, ",") + `]}`
	}
	var out struct{ Accepted int }
	send := func(body string) { sv.post(path, body).want(t, http.StatusOK, &out) }
	first := list(item("a", "RequestReceived"), item("a", "ResponseComplete"), item("b", "ResponseComplete"))
	send(first)
	send(first) // its answer was lost
	if n := sv.log("default", "main").Size(); n != 3 || out.Accepted != 3 {
		t.Errorf("the log has %d entries, %d are accepted", n, out.Accepted)
	}
	send(list(`{"kind":0}`))
	send(list())
	many := make([]string, 300)
	for i := range many {
		many[i] = item("m"+strings.Repeat("x", i), "ResponseComplete")
	}
	send(list(many...))
	if n := sv.log("default", "main").Size(); n != 304 || out.Accepted != 300 {
		t.Errorf("the log has %d entries, %d are accepted", n, out.Accepted)
	}
	if a := sv.get(mainLog + "/entries/0"); !strings.Contains(string(a.body), `"action":"object.list"`) {
		t.Errorf("got %s", a.body)
	}
	for _, bad := range []string{`{`, `[]`, `{"kind":"Pod"}`, list() + "x", list(strings.Split(strings.Repeat("1,", 10_000)+"1", ",")...)} {
		sv.post(path, bad).problem(t, "bad-json")
	}
	sv.post(path, first, "Idempotency-Key", "k").problem(t, "bad-parameter")
	sv.post(path, first, "Content-Type", "text/plain").problem(t, "unsupported-media-type")
	sv.do("POST", path, "", strings.NewReader(first), "Content-Type", "application/json").problem(t, "unauthenticated")
}
