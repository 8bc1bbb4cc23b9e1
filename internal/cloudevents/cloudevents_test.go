package cloudevents

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// conformance reads the specification's own examples.
func conformance(t *testing.T, name string) (tests []struct {
	ID    string
	Event json.RawMessage
},
) {
	t.Helper()
	data, err := os.ReadFile("../../../shared/data/cloudevents/format/json/" + name)
	if err != nil {
		t.Skip("the shared data is not here: ", err)
	}
	var file struct {
		Tests []struct {
			ID    string
			Event json.RawMessage
		}
	}
	if err := json.Unmarshal(data, &file); err != nil || len(file.Tests) == 0 {
		t.Fatalf("%d tests, %v", len(file.Tests), err)
	}
	return file.Tests
}

// kept is what an entry of the log says of an event.
func kept(t testing.TB, e *Event) (immutable.Event, map[string]any) {
	t.Helper()
	ev, err := e.Event()
	if err != nil {
		t.Fatal(err)
	}
	line, err := entry.Append(nil, &ev)
	if err != nil {
		t.Fatalf("the log would refuse it: %v", err)
	}
	var out struct{ Metadata map[string]any }
	if err := json.Unmarshal(line, &out); err != nil {
		t.Fatal(err)
	}
	return ev, out.Metadata
}

func TestOfficialExamplesAreTaken(t *testing.T) {
	for _, c := range conformance(t, "valid-events.json") {
		e, err := Parse(c.Event)
		if err != nil {
			t.Errorf("%s: %v", c.ID, err)
			continue
		}
		ev, m := kept(t, e)
		var sent map[string]any
		if err := json.Unmarshal(c.Event, &sent); err != nil {
			t.Fatal(err)
		}
		for name, v := range sent {
			if v == nil {
				delete(sent, name)
			}
		}
		data := sent["data"]
		delete(sent, "data")
		if !reflect.DeepEqual(m["cloudevent"], any(sent)) || !reflect.DeepEqual(m["data"], data) {
			t.Errorf("%s: got %v of %s", c.ID, m, c.Event)
		}
		if at, there := sent["time"].(string); there && !ev.EventTime.Equal(time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC)) {
			t.Errorf("%s: %s became %v", c.ID, at, ev.EventTime)
		}
	}
}

func TestOfficialInvalidExamplesAreRefused(t *testing.T) {
	for _, c := range conformance(t, "invalid-events.json") {
		e, err := Parse(c.Event)
		if _, ok := errors.AsType[*Error](err); !ok {
			t.Errorf("%s: got %v, %v", c.ID, e, err)
		}
	}
}

const minimal = `"specversion":"1.0","id":"1","type":"t","source":"/s"`

func TestHostileEventsAreRefused(t *testing.T) {
	var many strings.Builder
	for i := range MaxAttributes - 4 {
		many.WriteString(fmt.Sprintf(`,"a%d":1`, i))
	}
	long := strings.Repeat("x", MaxAttribute-2)
	for _, good := range []string{`{` + minimal + many.String() + `}`, `{` + minimal + `,"x":"` + long + `"}`, ` {` + minimal + "}\n"} {
		if _, err := Parse([]byte(good)); err != nil {
			t.Errorf("%.100s: %v", good, err)
		}
	}
	for _, bad := range []string{
		``, `[]`, `{`, `null`, `"x"`, `{` + minimal + `}{}`, `{` + minimal + `} x`, `{` + minimal + `,"id":"2"}`, `{` + minimal + `,"data":1,"data":2}`, "{" + minimal + ",\"x\":\"\xff\"}",
		`{` + minimal + many.String() + `,"b":1}`, `{` + minimal + `,"x":"` + long + `y"}`, `{` + minimal + `,"` + strings.Repeat("n", maxName+1) + `":1}`, `{` + minimal + `,"":1}`,
		`{` + minimal + `,"x":1.5}`, `{` + minimal + `,"x":2147483648}`, `{` + minimal + `,"x":{}}`, `{` + minimal + `,"x":[]}`, `{` + minimal + `,"subject":5}`, `{` + minimal + `,"subject":true}`,
		`{` + minimal + `,"data_base64":"*"}`, `{` + minimal + `,"data_base64":5}`, `{` + minimal + `,"x":"a\u0000b"}`, `{` + minimal + `,"x":"\ud800"}`, `{` + minimal + `,"dataschema":"relative"}`,
		`{` + minimal + `,"time":"2018-04-05T17:31:00,5Z"}`, `{` + minimal + `,"time":"0000-01-01T00:00:00+23:59"}`, strings.Repeat(`{"a":`, 100_000), `{` + minimal + `,"data":` + strings.Repeat("[", 100_000),
		`{"specversion":"1.0","id":"1","type":"t","source":":"}`,
	} {
		if e, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%.100q: taken as %v", bad, e.attributes)
		}
	}
}

func TestDataIsKeptWhateverItIs(t *testing.T) {
	for _, c := range []struct{ members, want string }{
		{`"data":{"a":[1,2.50]}`, `"data":{"a":[1,2.50]}`},
		{`"data":null`, `"data":null`},
		{`"data":"x"`, `"data":"x"`},
		{`"datacontenttype":"application/vnd.x+json","data":"x"`, `"data":"x"`},
		{`"datacontenttype":"text/xml","data":"<a/>"`, `"data":"<a/>"`},
		{`"datacontenttype":"application/octet-stream","data_base64":"AP8="`, `"data_base64":"AP8="`},
		{`"data_base64":"aGk="`, `"data":"hi"`},
		{`"data":{"a":1,"a":2}`, `"raw":"{\"a\":1,\"a\":2}"`},
		{`"data":` + strings.Repeat("[", 200) + strings.Repeat("]", 200), `"raw":"[[`},
		{`"data":"` + strings.Repeat("x", 100_000) + `"`, `"rawBytes":100002`},
		{`"data":"` + strings.Repeat("\\u0001", 10_000) + `"`, `"data":"\u0001`},
		{`"datacontenttype":"text/plain","data":"` + strings.Repeat("\\u0001", 20_000) + `"`, `"rawBytes":20000`},
	} {
		e, err := Parse([]byte("{" + minimal + "," + c.members + "}"))
		if err != nil {
			t.Errorf("%.100s: %v", c.members, err)
			continue
		}
		ev, _ := kept(t, e)
		line, err := entry.Append(nil, &ev)
		if err != nil || !strings.Contains(string(line), c.want) {
			t.Errorf("%.100s: got %.300s, %v, want %s", c.members, line, err, c.want)
		}
	}
}

func TestBinaryModeSaysWhatStructuredSays(t *testing.T) {
	h := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"1234-1234-1234"}, "Ce-Source": {"/mycontext/subcontext"}, "Ce-Type": {"com.example.someevent"}, "Ce-Time": {"2018-04-05T03:56:24Z"},
		"Ce-Comexampleextension2": {`{"othervalue": 5}`}, "Ce-Euro": {"%e2%82%AC 100%"}, "Ce-Quoted": {`"a \"b\""`}, "Content-Type": {"application/json; charset=utf-8"}, "User-Agent": {"foo"},
	}
	e, err := FromRequest(h, []byte(`{"message": "Hello World!"}`))
	if err != nil {
		t.Fatal(err)
	}
	same, err := Parse([]byte(`{"specversion":"1.0","id":"1234-1234-1234","source":"/mycontext/subcontext","type":"com.example.someevent","time":"2018-04-05T03:56:24Z","comexampleextension2":"{\"othervalue\": 5}","euro":"€ 100%",
		"quoted":"a \"b\"","datacontenttype":"application/json; charset=utf-8","data":{"message": "Hello World!"}}`))
	if err != nil {
		t.Fatal(err)
	}
	a, m := kept(t, e)
	b, n := kept(t, same)
	if !reflect.DeepEqual(m, n) || a.IdempotencyKey != b.IdempotencyKey || a.Message != b.Message || !a.EventTime.Equal(b.EventTime) {
		t.Errorf("binary %v\nstructured %v", m, n)
	}
	for name, change := range map[string]func(h http.Header){
		"no id":             func(h http.Header) { h.Del("Ce-Id") },
		"two ids":           func(h http.Header) { h.Add("Ce-Id", "2") },
		"version 0.3":       func(h http.Header) { h.Set("Ce-Specversion", "0.3") },
		"a name":            func(h http.Header) { h.Set("Ce-My_ext", "x") },
		"no name":           func(h http.Header) { h.Set("Ce-", "x") },
		"datacontenttype":   func(h http.Header) { h.Set("Ce-Datacontenttype", "text/plain") },
		"no UTF-8":          func(h http.Header) { h.Set("Ce-X", "%ff") },
		"a control byte":    func(h http.Header) { h.Set("Ce-X", "%00") },
		"a long value":      func(h http.Header) { h.Set("Ce-X", strings.Repeat("x", MaxAttribute+1)) },
		"a bad media type":  func(h http.Header) { h.Set("Content-Type", "xyz") },
		"JSON that is none": func(h http.Header) { h.Set("Content-Type", "a/b+json") },
		"many attributes": func(h http.Header) {
			for i := range MaxAttributes {
				h.Set(fmt.Sprint("Ce-A", i), "x")
			}
		},
	} {
		h := h.Clone()
		change(h)
		if _, err := FromRequest(h, []byte("{")); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestBatchesAreBounded(t *testing.T) {
	batch := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat("{"+minimal+"},", n), ",") + "]"
	}
	n := 0
	count := func(i int, _ *Event) error {
		if i != n {
			t.Fatalf("event %d, want %d", i, n)
		}
		n++
		return nil
	}
	if err := ParseBatch([]byte(batch(MaxBatch)), count); err != nil || n != MaxBatch {
		t.Errorf("%d events, %v", n, err)
	}
	n = 0
	if err := ParseBatch([]byte(batch(MaxBatch+1)), count); !errors.Is(err, immutable.ErrTooLarge) {
		t.Errorf("one more: %v", err)
	}
	for _, bad := range []string{"", "{}", "[", "[{" + minimal + "}", "[{" + minimal + "},]", "[{" + minimal + "}] x", "[5]", "[null]", "[{}]", "[\"\xff\"]"} {
		if err := ParseBatch([]byte(bad), func(int, *Event) error { return nil }); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestKeysAndLevels(t *testing.T) {
	event := func(source, id, more string) immutable.Event {
		e, err := Parse(fmt.Appendf(nil, `{"specversion":"1.0","type":"t","source":%q,"id":%q%s}`, source, id, more))
		if err != nil {
			t.Fatal(err)
		}
		ev, _ := kept(t, e)
		return ev
	}
	keys := map[string]string{}
	for _, pair := range [][2]string{{"a", "b c"}, {"a%20b", "c"}, {"a", "b"}, {strings.Repeat("s", 300), "1"}, {strings.Repeat("s", 300), "2"}, {strings.Repeat("s", 299), "s1"}} {
		k := event(pair[0], pair[1], "").IdempotencyKey
		if other, twice := keys[k]; twice || len(k) > entry.MaxKey {
			t.Errorf("%q has the key %q of %q", pair, k, other)
		}
		keys[k] = fmt.Sprint(pair)
	}
	for more, want := range map[string]immutable.Level{
		"": immutable.Info, `,"severitytext":"SECURITY"`: immutable.Security, `,"severitynumber":13`: immutable.Warn, `,"severitynumber":"20"`: immutable.Error, `,"severitynumber":24`: immutable.Critical, `,"severitytext":"x"`: immutable.Info,
	} {
		if got := event("a", "b", more).Level; got != want {
			t.Errorf("%s: %s, want %s", more, got, want)
		}
	}
	const traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	if ev := event("a", "b", `,"subject":"s","traceparent":"`+traced+`"`); ev.TraceID != traced[3:35] || ev.SpanID != traced[36:52] || ev.Message != "t s" {
		t.Errorf("got %+v", ev)
	}
	if ev := event("a", "b", `,"traceparent":"00-00000000000000000000000000000000-00f067aa0ba902b7-01"`); ev.TraceID != "" || ev.SpanID != "" {
		t.Errorf("got %+v", ev)
	}
}

// FuzzParse: whatever is taken becomes an event that the log takes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{` + minimal + `,"time":"2018-04-05T18:31:00+01:00","x":true,"n":-5,"datacontenttype":"text/plain","data":"é"}`))
	f.Add([]byte(`{` + minimal + `,"data_base64":"AP8="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			return
		}
		if ev, err := e.Event(); err == nil {
			if _, err := entry.Append(nil, &ev); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
		} else if len(data) < 1000 {
			t.Fatalf("%q has no place in an entry: %v", data, err)
		}
	})
}
