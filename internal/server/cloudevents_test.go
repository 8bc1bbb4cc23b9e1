package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

// TestCloudEventsAreTakenOnce in each mode, by source and id.
func TestCloudEventsAreTakenOnce(t *testing.T) {
	h := &heard{}
	sv := serve(t, func(o *Options) { o.Sources = h })
	const path = mainLog + "/cloudevents"
	event := func(id, more string) string {
		return `{"specversion":"1.0","id":"` + id + `","source":"/orders","type":"order.paid"` + more + `}`
	}
	const one, batch = "application/cloudevents+json", "application/cloudevents-batch+json; charset=utf-8"
	send := func(body, kind string, headers ...string) got {
		return sv.post(path, body, append([]string{"Content-Type", kind}, headers...)...)
	}
	var first, again immutable.Receipt
	send(event("1", `,"data":{"amount":5}`), one).want(t, http.StatusCreated, &first)
	send(event("1", `,"data":{"amount":5}`), one, "traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").want(t, http.StatusCreated, &again)
	if !again.Repeated || again.ID != first.ID {
		t.Errorf("a repeat got %+v, want %+v", again, first)
	}
	send(event("1", `,"data":{"amount":6}`), one).problem(t, "key-conflict")
	var rs struct{ Receipts []immutable.Receipt }
	send("["+event("1", `,"data":{"amount":5}`)+","+event("2", "")+"]", batch).want(t, http.StatusCreated, &rs)
	if len(rs.Receipts) != 2 || !rs.Receipts[0].Repeated || rs.Receipts[1].Index != 1 {
		t.Errorf("got %+v", rs)
	}
	send("["+event("3", "")+","+event("1", "")+"]", batch).problem(t, "key-conflict")
	send("[]", batch).want(t, http.StatusCreated, &rs)
	binary := []string{"ce-specversion", "1.0", "ce-id", "4", "ce-source", "/orders", "ce-type", "order.paid", "ce-subject", "a%20b"}
	send("\x00\xff", "application/octet-stream", binary...).want(t, http.StatusCreated, nil)
	send("\x00\xff", "application/octet-stream", binary...).want(t, http.StatusCreated, &again)
	if !again.Repeated || again.Index != 2 || sv.log("default", "main").Size() != 3 {
		t.Errorf("got %+v, %d entries", again, sv.log("default", "main").Size())
	}
	a := sv.get(mainLog+"/entries/2").want(t, http.StatusOK, nil)
	for _, part := range []string{`"message":"order.paid a b"`, `"data_base64":"AP8="`, `"datacontenttype":"application/octet-stream"`, `"provider":"cloudevents"`} {
		if !strings.Contains(string(a.body), part) {
			t.Errorf("%s is not in %s", part, a.body)
		}
	}
	for _, bad := range []struct{ body, kind, code string }{
		{`{`, one, "bad-event"},
		{`{}`, one, "bad-event"},
		{"[" + event("9", "") + ",{}]", batch, "bad-event"},
		{"[" + strings.Repeat(event("9", "")+",", 4096) + event("9", "") + "]", batch, "too-large"},
		{event("9", ""), "application/json", "unsupported-media-type"},
		{event("9", ""), "application/cloudevents+xml", "unsupported-media-type"},
	} {
		send(bad.body, bad.kind).problem(t, bad.code)
	}
	send(event("9", ""), one, "Idempotency-Key", "k").problem(t, "bad-parameter")
	if p := send(event("", ""), one).problem(t, "bad-event"); p["field"] != "id" {
		t.Errorf("got %v", p)
	}
	if size := sv.log("default", "main").Size(); size != 3 || len(h.rejected) != 5 || h.accepted != 6 {
		t.Errorf("%d entries, heard %+v", size, h)
	}
}
