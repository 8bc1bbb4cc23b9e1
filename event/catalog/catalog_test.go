package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

func parse(t testing.TB, doc string) *Catalogue {
	t.Helper()
	c, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const types = `"types":{
	"payment.charge":{"required":["amount"],"properties":{"amount":{"type":"integer"},"a/b":{"properties":{"~":{"type":"string"}}}}},
	"kind:authentication":{"$ref":"immutable:authentication"}}`

func TestStrictNamesThePlace(t *testing.T) {
	c := parse(t, `{"mode":"strict","shape":true,`+types+`}`)
	for _, x := range []struct{ metadata, pointer string }{
		{`{"action":"payment.charge","amount":5}`, ""},
		{`{"action":"payment.charge","amount":5.5}`, "/amount"},
		{`{"action":"payment.charge"}`, "-"},
		{`{"action":"payment.charge","amount":5,"a/b":{"~":1}}`, "/a~1b/~0"},
		{`{"action":"user.login","kind":"authentication","outcome":"failure"}`, ""},
		{`{"action":"user.login","kind":"authentication","outcome":"bad"}`, "/outcome"},
		{`{"action":"user.login","kind":"authentication"}`, "-"},
		{`{"actor":"bob"}`, "/actor"},
		{`{"source":{"ip":"not an address"}}`, "/source/ip"},
		{`{"request":{"status":"200"}}`, "/request/status"},
		{`{"anything":1}`, ""},
	} {
		for _, e := range []immutable.Event{{Message: "m", RawMetadata: []byte(x.metadata)}, {Message: "m", Metadata: fields(t, x.metadata)}} {
			_, n, err := c.Check(immutable.Event{Message: "fine"}, e)
			if x.pointer == "" {
				if err != nil || n != 0 {
					t.Errorf("%s: %v", x.metadata, err)
				}
				continue
			}
			var f *Fault
			var field *immutable.FieldError
			if !errors.As(err, &f) || !errors.As(err, &field) || f.Event != 1 || f.Pointer != strings.TrimPrefix(x.pointer, "-") || field.Field != "metadata"+f.Pointer {
				t.Errorf("%s: %v, want a fault at %s", x.metadata, err, x.pointer)
			}
		}
	}
}

func fields(t testing.TB, raw string) immutable.Fields {
	t.Helper()
	var f immutable.Fields
	if err := json.Unmarshal([]byte(raw), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWarnTakesAndMarks(t *testing.T) {
	c := parse(t, `{"mode":"warn","unknown":"refuse",`+types+`}`)
	in := []immutable.Event{
		{Message: "0", RawMetadata: []byte(`{"action":"payment.charge","amount":1}`)},
		{Message: "1", RawMetadata: []byte(`{"action":"payment.charge","amount":"x"} `)},
		{Message: "2", Metadata: immutable.Fields{"action": "payment.charge"}},
		{Message: "3", RawMetadata: []byte(`{ }`)},
		{Message: "4"},
		{Message: "5", RawMetadata: []byte(`{"catalogueFault":1}`)},                                                                                // has no place for the mark
		{Message: "6", RawMetadata: fmt.Appendf(nil, `{"x":%q}`, strings.Repeat("x", immutable.MaxEntryBytes-200))},                                // nor has this
		{Message: "7", Metadata: immutable.Fields{"action": "other"}, Producer: &immutable.ProducerSignature{Key: "0123456789abcdef", Counter: 1}}, // this is signed
	}
	before := fmt.Sprint(in)
	out, n, err := c.Check(in...)
	if err != nil || n != 7 || len(out) != len(in) {
		t.Fatalf("%d faults, %v", n, err)
	}
	if fmt.Sprint(in) != before {
		t.Error("the caller's events were changed")
	}
	for i := range out {
		stored := out[i]
		stored.Producer = nil
		line, err := entry.Append(nil, &stored)
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		if got, want := strings.Contains(string(line), `"catalogueFault":{"error":`), i >= 1 && i <= 4; got != want {
			t.Errorf("event %d is marked: %v\n%.300s", i, got, line)
		}
	}
	if off, n, err := parse(t, `{"mode":"off","unknown":"refuse"}`).Check(in...); n != 0 || err != nil || &off[0] != &in[0] {
		t.Errorf("off: %d, %v", n, err)
	}
}

func TestCataloguesAreBounded(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 40) + "{}" + strings.Repeat("}", 40)
	many := make([]string, MaxTypes+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"t%d":true`, i)
	}
	for _, bad := range []string{
		``, `[]`, `{}`, `{"mode":"loud"}`, `{"mode":"warn","unknown":"x"}`, `{"mode":"warn"} 1`, `{"mode":"warn","more":1}`,
		`{"mode":"warn","types":{"kind:nonsense":{}}}`, `{"mode":"warn","types":{"":{}}}`, `{"mode":"warn","types":{"a b":{}}}`,
		`{"mode":"warn","types":{"a":{"type":"nonsense"}}}`, `{"mode":"warn","types":{"a":7}}`, `{"mode":"warn","types":{"a":{"pattern":"("}}}`,
		`{"mode":"warn","types":{"a":{"$ref":"file:///etc/passwd"}}}`, `{"mode":"warn","types":{"a":{"$ref":"http://192.0.2.1/x"}}}`,
		`{"mode":"warn","types":{"a":{"$defs":{"b":{}},"$ref":"#/$defs/b"}}}`, `{"mode":"warn","types":{"a":{"$ref":"#"}}}`, `{"mode":"warn","types":{"a":{"$dynamicRef":"#x"}}}`,
		`{"mode":"warn","types":{"a":{"$ref":"immutable:nonsense"}}}`, `{"mode":"warn","types":{"a":{"$id":"x"}}}`,
		`{"mode":"warn","types":{"a":` + deep + `}}`, `{"mode":"warn","types":{` + strings.Join(many, ",") + `}}`,
		`{"mode":"warn"` + strings.Repeat(" ", MaxBytes) + `}`,
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.100s was taken", bad)
		} else if len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
	parse(t, `{"mode":"warn","types":{`+strings.Join(many[1:], ",")+`}}`)
	parse(t, `{"mode":"warn"`+strings.Repeat(" ", MaxBytes-15)+`}`)
}

// The schemas that ship are those of the shape: what the package event writes is valid under all of them, for every kind.
func TestOwnEventsAreValid(t *testing.T) {
	all := map[string]json.RawMessage{}
	for _, k := range event.Kinds() {
		all["kind:"+string(k)] = fmt.Appendf(nil, `{"$ref":"immutable:%s"}`, k)
	}
	doc, err := json.Marshal(Document{Mode: Strict, Unknown: Refuse, Shape: true, Types: all})
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, string(doc))
	if len(Names()) != len(event.Kinds())+1 {
		t.Errorf("schemas are %v", Names())
	}
	for _, k := range event.Kinds() {
		s := event.Shape{
			Kind: k, Action: event.ActionLogin, Outcome: event.OutcomeDenied, Reason: "r", Actor: &event.Actor{Type: event.ActorUser, ID: "1", Name: "n", Email: "e", Session: "s"},
			Target: &event.Target{Type: "t", ID: "i", Name: "n"}, Source: &event.Source{IP: "2001:db8::1", Port: 65535, Host: "h", UserAgent: "u", Provider: "p"},
			Request: &event.Request{ID: "i", Method: "GET", Path: "/", Status: 200, TraceID: strings.Repeat("0a", 16), SpanID: strings.Repeat("0a", 8), DurationMS: 0.5},
			Extra:   immutable.Fields{"amount": 5, "currency": "eur"},
		}
		if _, _, err := c.Check(immutable.Event{Message: "m", Metadata: s.Fields()}); err != nil {
			t.Errorf("%s: %v", k, err)
		}
		s.Source.Port = 70_000
		if _, _, err := c.Check(immutable.Event{Message: "m", Metadata: s.Fields()}); err == nil || !strings.Contains(err.Error(), "/source/port") {
			t.Errorf("%s with an impossible port: %v", k, err)
		}
	}
	if _, _, err := c.Check(immutable.Event{Message: "m"}); err == nil {
		t.Error("an unknown type was taken")
	}
}
