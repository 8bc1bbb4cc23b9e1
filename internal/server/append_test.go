package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// answered is one line of the answer to NDJSON.
type answered struct {
	Line     uint64
	Index    *uint64
	ID       string
	Leaf     string
	Repeated bool
	Error    *struct{ Code, Detail, Field string }
	Done     *bool
	Accepted uint64
	Rejected uint64
	Size     uint64
}

// parseAnswer reads the answer to NDJSON, which may be cut.
func parseAnswer(t testing.TB, body []byte) []answered {
	t.Helper()
	var out []answered
	for line := range bytes.Lines(body) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var a answered
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatalf("decode %q: %v", line, err)
		}
		out = append(out, a)
	}
	return out
}

func (sv *service) ndjson(path, body string, headers ...string) []answered {
	sv.t.Helper()
	a := sv.do("POST", path, sv.root, strings.NewReader(body), append([]string{"Content-Type", "application/x-ndjson"}, headers...)...)
	return parseAnswer(sv.t, a.want(sv.t, http.StatusOK, nil).body)
}

func TestReceiptsSayWhereEventsStand(t *testing.T) {
	sv := serve(t, nil)
	var one immutable.Receipt
	type receipt struct {
		Index uint64
		ID    string
		Leaf  string
	}
	var single receipt
	sv.post(mainLog+"/entries", `{"message":"a","level":"audit","metadata":{"z":1.50,"a":"\u00e9"},"eventTime":"2026-01-02T03:04:05.678Z","hostname":"h","pid":7,"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331"}`).want(t, 201, &single)
	var many struct{ Receipts []receipt }
	sv.post(mainLog+"/entries", ` [{"message":"b"} , {"message":"c"}] `).want(t, 201, &many)
	got := sv.ndjson(mainLog+"/entries", "{\"message\":\"d\"}\n\n{\"message\":\"e\"}\r\n  {\"message\":\"f\"}")
	receipts := append([]receipt{single}, many.Receipts...)
	for i, a := range got[:len(got)-1] {
		if want := []uint64{1, 3, 4}[i]; a.Line != want {
			t.Errorf("line %d, want %d", a.Line, want)
		}
		receipts = append(receipts, receipt{*a.Index, a.ID, a.Leaf})
	}
	if last := got[len(got)-1]; last.Done == nil || !*last.Done || last.Accepted != 3 || last.Rejected != 0 || last.Size != 6 {
		t.Errorf("the last line is %+v", last)
	}
	if len(receipts) != 6 {
		t.Fatalf("got %d receipts", len(receipts))
	}
	for i, r := range receipts {
		e, err := sv.log("default", "main").Entry(t.Context(), r.Index)
		if err != nil || e.Message != string(rune('a'+i)) || e.ID.String() != r.ID || e.Leaf.String() != r.Leaf {
			t.Errorf("receipt %d is %+v; the entry there is %q, %s, %s, %v", i, r, e.Message, e.ID, e.Leaf, err)
		}
	}
	var e struct {
		Metadata  json.RawMessage
		EventTime string
		Hostname  string
		PID       int
		TraceID   string
		SpanID    string
	}
	sv.get(mainLog+"/entries/0").want(t, 200, &e)
	if string(e.Metadata) != `{"z":1.50,"a":"\u00e9"}` || e.EventTime != "2026-01-02T03:04:05.678Z" || e.Hostname != "h" || e.PID != 7 || e.TraceID != "0af7651916cd43dd8448eb211c80319c" || e.SpanID != "b7ad6b7169203331" {
		t.Errorf("the entry is %+v", e)
	}
	var empty struct{ Receipts []receipt }
	sv.post(mainLog+"/entries", "[]").want(t, 201, &empty)
	if empty.Receipts == nil || len(empty.Receipts) != 0 || one.Index != 0 {
		t.Errorf("an empty array: %v", empty.Receipts)
	}
	if got := sv.ndjson(mainLog+"/entries", ""); len(got) != 1 || !*got[0].Done {
		t.Errorf("an empty NDJSON body: %+v", got)
	}
}

func TestEventsAreReadStrictly(t *testing.T) {
	sv := serve(t, nil)
	for body, want := range map[string]string{
		``:                                    "bad-json",
		`null`:                                "bad-json",
		`"message"`:                           "bad-json",
		`{"message":"m"`:                      "bad-json",
		`{"message":"m"}{"message":"n"}`:      "bad-json",
		`{"message":"m"},`:                    "bad-json",
		`[{"message":"m"}`:                    "bad-json",
		`[{"message":"m"},]`:                  "bad-json",
		`[{"message":"m"}]]`:                  "bad-json",
		"\xef\xbb\xbf{\"message\":\"m\"}":     "bad-json",
		`[1]`:                                 "bad-json",
		`{}`:                                  "bad-event message",
		`{"level":"AUDIT"}`:                   "bad-event message",
		`{"message":null}`:                    "bad-event message",
		`{"message":5}`:                       "bad-event message",
		`{"message":"\ud800"}`:                "bad-event message",
		"{\"message\":\"\xff\"}":              "bad-event message",
		`{"message":"m","message":"n"}`:       "bad-event message",
		`{"Message":"m"}`:                     "bad-event Message",
		`{"message":"m","extra":1}`:           "bad-event extra",
		`{"message":"m","level":"LOUD"}`:      "bad-event level",
		`{"message":"m","level":1}`:           "bad-event level",
		`{"message":"m","metadata":[]}`:       "bad-event metadata",
		`{"message":"m","metadata":{"a":01}}`: "bad-event metadata",
		`{"message":"m","metadata":{"a":1,"a":2}}`: "bad-event metadata",
		`{"message":"m","eventTime":"noon"}`:       "bad-event eventTime",
		`{"message":"m","eventTime":1767323045}`:   "bad-event eventTime",
		`{"message":"m","pid":-1}`:                 "bad-event pid",
		`{"message":"m","pid":1.0}`:                "bad-event pid",
		`{"message":"m","pid":4294967296}`:         "bad-event pid",
		`{"message":"m","traceId":"x"}`:            "bad-event traceId",
		`{"message":"m","idempotencyKey":""}`:      "",
		`{"message":"m","producer":{}}`:            "bad-event producer",
		`{"message":"m","producer":{"key":"0123456789abcdef","counter":1,"counter":1,"signature":""}}`: "bad-event producer",
		`{"message":"m","log":{"type":"clock"}}`:                                                       "bad-event log",
		`{"message":"` + strings.Repeat("x", 70_000) + `"}`:                                            "bad-event message",
		`[{"message":"fine"},{"message":"m","level":"LOUD"},{"message":"fine"}]`:                       "bad-event level",
	} {
		a := sv.post(mainLog+"/entries", body)
		code, field, _ := strings.Cut(want, " ")
		if want == "" {
			a.want(t, 201, nil)
			continue
		}
		p := a.problem(t, code)
		if got, _ := p["field"].(string); field != "" && got != field && !strings.HasPrefix(got, field+".") {
			t.Errorf("%.80s: field %q, want %q: %s", body, got, field, a.body)
		}
		if strings.HasPrefix(body, `[{"message":"fine"`) && p["event"] != float64(1) {
			t.Errorf("%s: the array's element is %v, want 1", a.body, p["event"])
		}
	}
	if got := sv.messages("default", "main"); !slices.Equal(got, []string{"m"}) {
		t.Errorf("the log has %q", got)
	}
	for _, kind := range []string{"", "text/plain", "application/json; charset", "application/x-www-form-urlencoded"} {
		sv.do("POST", mainLog+"/entries", sv.root, strings.NewReader(`{"message":"m"}`), "Content-Type", kind).problem(t, "unsupported-media-type")
	}
	sv.do("POST", "/api/v1/tenants/default/logs/system/entries", sv.root, strings.NewReader(`{"message":"m"}`), "Content-Type", "application/json").problem(t, "forbidden")
}

func TestBadLinesDoNotStopTheOthers(t *testing.T) {
	sv := serve(t, nil)
	var in strings.Builder
	var want []string
	events := 0
	for i := range 3000 {
		switch {
		case i%7 == 3:
			in.WriteString("{\"message\":\n")
		case i%500 == 8:
			fmt.Fprintf(&in, "{\"message\":\"x\",\"metadata\":{\"a\":01}}\n") // only the log finds this
			events++
		case i%500 == 9:
			in.WriteString(strings.Repeat("y", 2<<20) + "\n")
		case i%50 == 11:
			in.WriteString("\n")
		case i == 1901:
			in.WriteString("{\"message\":\"again\",\"idempotencyKey\":\"k\"}\n")
			want = append(want, "again")
		case i == 2902:
			in.WriteString("{\"message\":\"another\",\"idempotencyKey\":\"k\"}\n")
		default:
			fmt.Fprintf(&in, "{\"message\":\"%d\"}\n", i)
			want = append(want, fmt.Sprint(i))
		}
	}
	got := sv.ndjson(mainLog+"/entries", in.String())
	last := got[len(got)-1]
	if !*last.Done || last.Accepted != uint64(len(want)) || last.Accepted+last.Rejected != uint64(len(got)-1) {
		t.Fatalf("%d lines are good; the last line is %+v", len(want), last)
	}
	codes := map[string]int{}
	line := uint64(0)
	for _, a := range got[:len(got)-1] {
		if a.Line <= line {
			t.Fatalf("line %d after %d", a.Line, line)
		}
		line = a.Line
		if a.Error != nil {
			codes[a.Error.Code]++
		}
	}
	if codes["key-conflict"] != 1 || codes["bad-event"] != events || codes["bad-json"] == 0 {
		t.Errorf("refused: %v", codes)
	}
	if stored := sv.messages("default", "main"); !slices.Equal(stored, want) {
		t.Errorf("the log has %d entries, want %d in their order", len(stored), len(want))
	}
	quiet := sv.ndjson(mainLog+"/entries?receipts=errors", "{\"message\":\"a\"}\nbad\n")
	if len(quiet) != 2 || quiet[0].Line != 2 || quiet[0].Error == nil || quiet[1].Accepted != 1 {
		t.Errorf("receipts=errors: %+v", quiet)
	}
}

// A line is answered while the body is still open: over HTTP/1.1 too.
func TestLinesAreAnsweredWhileMoreComes(t *testing.T) {
	sv := serve(t, nil)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+sv.addr+mainLog+"/entries", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+sv.root)
	req.Header.Set("Content-Type", "application/x-ndjson")
	responses := make(chan *http.Response, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // its receiver does
		if err != nil {
			t.Error(err)
		}
		responses <- resp
	}()
	var answers *bufio.Reader
	for i := range 5 {
		if _, err := fmt.Fprintf(w, "{\"message\":\"%d\"}\n", i); err != nil {
			t.Fatal(err)
		}
		if answers == nil {
			resp := <-responses
			if resp == nil {
				t.FailNow()
			}
			defer resp.Body.Close()
			answers = bufio.NewReader(resp.Body)
		}
		line, err := answers.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, fmt.Sprintf(`{"line":%d,"index":%d,`, i+1, i)) {
			t.Fatalf("line %d: %q, %v", i+1, line, err)
		}
	}
	w.Close()
	if rest, err := io.ReadAll(answers); err != nil || string(rest) != `{"done":true,"accepted":5,"rejected":0,"size":5}`+"\n" {
		t.Fatalf("%q, %v", rest, err)
	}
}

func TestIdempotencyKeyWritesOnce(t *testing.T) {
	sv := serve(t, nil)
	for _, c := range []struct{ kind, body string }{
		{"application/json", `{"message":"one"}`},
		{"application/json", `[{"message":"two"},{"message":"three","idempotencyKey":"own"}]`},
		{"application/x-ndjson", "{\"message\":\"four\"}\nbad\n{\"message\":\"five\"}\n"},
	} {
		key := fmt.Sprintf("key %d", len(c.body))
		first := sv.do("POST", mainLog+"/entries", sv.root, strings.NewReader(c.body), "Content-Type", c.kind, "Idempotency-Key", key)
		// Each attempt is traced as one of its own, which is no part of what is repeated.
		for i := range 3 {
			parent := fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319%d-b7ad6b7169203331-01", i)
			again := sv.do("POST", mainLog+"/entries", sv.root, strings.NewReader(c.body), "Content-Type", c.kind, "Idempotency-Key", key, "traceparent", parent)
			if again.status != first.status || strings.ReplaceAll(string(again.body), `,"repeated":true`, "") != string(first.body) {
				t.Errorf("%s again: %d %s, want %d %s", c.body, again.status, again.body, first.status, first.body)
			}
		}
	}
	if got := sv.messages("default", "main"); !slices.Equal(got, []string{"one", "two", "three", "four", "five"}) {
		t.Errorf("the log has %q", got)
	}
	p := sv.post(mainLog+"/entries", `{"message":"other"}`, "Idempotency-Key", "own").problem(t, "key-conflict")
	if p["index"] != float64(2) {
		t.Errorf("the conflict is with %v, want 2", p["index"])
	}
	sv.post(mainLog+"/entries", `{"message":"other"}`, "Idempotency-Key", strings.Repeat("k", 201)).problem(t, "bad-parameter")
	sv.post(mainLog+"/entries", `{"message":"other"}`, "Idempotency-Key", "\u00e9").problem(t, "bad-parameter")
	sv.post(mainLog+"/entries", `{"message":"at the limit"}`, "Idempotency-Key", strings.Repeat("k", 200)).want(t, 201, nil)
}

func TestTraceparentFillsTraceAndSpan(t *testing.T) {
	sv := serve(t, nil)
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for header, want := range map[string]bool{
		"00-" + trace + "-" + span + "-01":                          true,
		"cc-" + trace + "-" + span + "-01-what-later-versions-have": true,
		"ff-" + trace + "-" + span + "-01":                          false,
		"00-" + trace + "-" + span + "-01-more":                     false,
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":         false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":        false,
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01":       false,
		"00-" + trace + "-" + span:                                  false,
		"garbage":                                                   false,
	} {
		var r struct{ Index uint64 }
		sv.post(mainLog+"/entries", `{"message":"m"}`, "traceparent", header).want(t, 201, &r)
		e, err := sv.log("default", "main").Entry(t.Context(), r.Index)
		if err != nil || (e.TraceID == trace && e.SpanID == span) != want || !want && e.TraceID+e.SpanID != "" {
			t.Errorf("%s: trace %q, span %q, %v", header, e.TraceID, e.SpanID, err)
		}
	}
	var r struct{ Index uint64 }
	sv.post(mainLog+"/entries", `{"message":"m","traceId":"11111111111111111111111111111111"}`, "traceparent", "00-"+trace+"-"+span+"-01").want(t, 201, &r)
	if e, err := sv.log("default", "main").Entry(t.Context(), r.Index); err != nil || e.TraceID != strings.Repeat("1", 32) || e.SpanID != "" {
		t.Errorf("an event's own trace: %q %q, %v", e.TraceID, e.SpanID, err)
	}
}

// pack compresses data as an encoding.
func pack(t testing.TB, encoding string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&out)
	if encoding == "zstd" {
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestPackedBodiesAreUnpacked(t *testing.T) {
	sv := serve(t, nil)
	for _, encoding := range []string{"gzip", "zstd"} {
		long := lines(20_000, `{"message":"`+encoding+` %d"}`)
		a := sv.do("POST", mainLog+"/entries?receipts=errors", sv.root, bytes.NewReader(pack(t, encoding, []byte(long))), "Content-Type", "application/x-ndjson", "Content-Encoding", encoding)
		if got := parseAnswer(t, a.want(t, 200, nil).body); got[0].Accepted != 20_000 {
			t.Errorf("%s: %s", encoding, a.body)
		}
		small := pack(t, encoding, []byte(`{"message":"m"}`))
		sv.do("POST", mainLog+"/entries", sv.root, bytes.NewReader(small), "Content-Type", "application/json", "Content-Encoding", encoding).want(t, 201, nil)
		sv.do("POST", mainLog+"/entries", sv.root, bytes.NewReader(small[:len(small)-2]), "Content-Type", "application/json", "Content-Encoding", encoding).problem(t, "bad-encoding")
		sv.do("POST", mainLog+"/entries", sv.root, strings.NewReader(`{"message":"m"}`), "Content-Type", "application/json", "Content-Encoding", encoding).problem(t, "bad-encoding")
		sv.do("POST", mainLog+"/entries", sv.root, bytes.NewReader(small), "Content-Type", "application/x-ndjson").want(t, 200, nil) // not unpacked: a line that is no JSON
	}
	for _, encoding := range []string{"br", "gzip, gzip", "zstd,gzip", "GZIP "} {
		sv.do("POST", mainLog+"/entries", sv.root, strings.NewReader(`{"message":"m"}`), "Content-Type", "application/json", "Content-Encoding", encoding).problem(t, "unsupported-encoding")
	}
	if got := len(sv.messages("default", "main")); got != 2*20_001 {
		t.Errorf("the log has %d entries, want %d", got, 2*20_001)
	}
}

// rawRequest is an append as it goes over the wire.
func (sv *service) rawRequest(kind, key, body string, chunked bool) []byte {
	head := fmt.Sprintf("POST %s/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nIdempotency-Key: %s\r\n", mainLog, sv.root, kind, key)
	if !chunked {
		return fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
	}
	out := []byte(head + "Transfer-Encoding: chunked\r\n\r\n")
	for len(body) > 0 {
		n := min(len(body), 9)
		out = fmt.Appendf(out, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return append(out, "0\r\n\r\n"...)
}

// send writes data on a new connection, ends it, and returns what comes back.
func (sv *service) send(data []byte) (status int, body []byte) {
	sv.t.Helper()
	c, err := (&net.Dialer{}).DialContext(sv.t.Context(), "tcp", sv.addr)
	if err != nil {
		sv.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(data); err != nil {
		return 0, nil // it was refused before its end
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, nil
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, _ = io.ReadAll(resp.Body) // it may be cut: what came counts
	return resp.StatusCode, body
}

// TestRequestsCutAtEveryByte cuts appends after each byte: what was receipted is there, and the same request again with its key
// makes everything be there exactly once.
func TestRequestsCutAtEveryByte(t *testing.T) {
	sv := serve(t, nil)
	seen := map[uint64]string{} // index of a receipt that was given -> message
	want := map[string]bool{}
	for _, c := range []struct {
		kind    string
		chunked bool
		body    string
	}{
		{"application/x-ndjson", false, "{\"message\":\"%[1]s a\"}\n{\"message\":\"%[1]s b\"}\n{\"message\":\"%[1]s c\"}"},
		{"application/x-ndjson", true, "{\"message\":\"%[1]s a\"}\n{\"message\":\"%[1]s b\"}\n"},
		{"application/json", false, "[{\"message\":\"%[1]s a\"},{\"message\":\"%[1]s b\"}]"},
		{"application/json", true, "{\"message\":\"%[1]s a\"}"},
	} {
		length := len(sv.rawRequest(c.kind, "0000", fmt.Sprintf(c.body, "0000"), c.chunked))
		for cut := 1; cut < length; cut++ {
			if cut < 150 && cut%16 != 0 {
				continue // within the header, where nothing is under way
			}
			name := fmt.Sprintf("%04d", len(want)/3)
			for i := range strings.Count(c.body, "%") {
				want[name+" "+string(rune('a'+i))] = true
			}
			for len(want)%3 != 0 {
				want[fmt.Sprint("filler ", len(want))] = false
			}
			request := sv.rawRequest(c.kind, name, fmt.Sprintf(c.body, name), c.chunked)
			status, body := sv.send(request[:cut])
			if c.kind == "application/x-ndjson" && status == http.StatusOK {
				for _, a := range parseAnswer(t, body) {
					if a.Index != nil {
						seen[*a.Index] = name + " " + string(rune('a'+a.Line-1))
					}
				}
			} else if status == http.StatusCreated {
				t.Fatalf("a body that was cut at byte %d of %d was taken: %s", cut, length, body)
			}
			if status, body := sv.send(request); status != http.StatusOK && status != http.StatusCreated {
				t.Fatalf("sent again: %d %s", status, body)
			}
		}
	}
	got := map[string]int{}
	for _, m := range sv.messages("default", "main") {
		got[m]++
	}
	for m, real := range want {
		if real && got[m] != 1 {
			t.Errorf("%q is there %d times", m, got[m])
		}
		delete(got, m)
	}
	if len(got) > 0 {
		t.Errorf("nobody sent %v", got)
	}
	for index, m := range seen {
		if e, err := sv.log("default", "main").Entry(t.Context(), index); err != nil || e.Message != m {
			t.Errorf("entry %d was receipted as %q and is %q, %v", index, m, e.Message, err)
		}
	}
	if len(seen) == 0 {
		t.Error("no cut request was answered in part: the test does not test what it should")
	}
}

const sharedData = "../../../shared/data"

// TestJSONSuiteAtTheDoor sends the JSON test suite as metadata and as whole bodies: what is no JSON is refused, what is JSON comes
// back as it was spelled, and nothing is the server's fault.
func TestJSONSuiteAtTheDoor(t *testing.T) {
	files, err := filepath.Glob(sharedData + "/jsontestsuite/test_parsing/*.json")
	if err != nil || len(files) == 0 {
		files, _ = filepath.Glob(sharedData + "/jsontestsuite/*/*.json")
	}
	if len(files) == 0 {
		t.Skip("no JSON test suite in " + sharedData)
	}
	sv := serve(t, nil)
	accepted := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		a := sv.do("POST", mainLog+"/entries", sv.root, bytes.NewReader(slices.Concat([]byte(`{"message":"m","metadata":{"v":`), data, []byte("}}"))), "Content-Type", "application/json")
		switch {
		case a.status == 201:
			accepted++
			var r struct{ Index uint64 }
			a.want(t, 201, &r)
			var want bytes.Buffer
			if err := json.Compact(&want, slices.Concat([]byte(`{"v":`), data, []byte("}"))); err != nil {
				t.Errorf("%s was taken, and encoding/json does not take it: %v", name, err)
				continue
			}
			if e, err := sv.log("default", "main").Entry(t.Context(), r.Index); err != nil || !bytes.Equal(e.Metadata, want.Bytes()) {
				t.Errorf("%s: the entry has %s, want %s, %v", name, e.Metadata, &want, err)
			}
		case a.status >= 500:
			t.Errorf("%s: %s", name, a.body)
		case strings.HasPrefix(name, "y_") && !strings.Contains(name, "duplicated"):
			t.Errorf("%s is JSON and was refused: %s", name, a.body)
		}
		if strings.HasPrefix(name, "n_") && a.status == 201 {
			t.Errorf("%s was taken", name)
		}
		for _, kind := range []string{"application/json", "application/x-ndjson"} {
			if a := sv.do("POST", mainLog+"/entries", sv.root, bytes.NewReader(data), "Content-Type", kind); a.status >= 500 {
				t.Errorf("%s as a body of %s: %s", name, kind, a.body)
			}
		}
	}
	if accepted < 50 {
		t.Errorf("only %d were taken", accepted)
	}
}

func TestNaughtyStringsComeBackAsTheyWere(t *testing.T) {
	data, err := os.ReadFile(sharedData + "/naughty-strings/blns.json")
	if err != nil {
		t.Skip("no naughty strings in " + sharedData)
	}
	var strs []string
	if err := json.Unmarshal(data, &strs); err != nil {
		t.Fatal(err)
	}
	sv := serve(t, nil)
	var events []map[string]any
	for _, s := range strs {
		events = append(events, map[string]any{"message": s, "metadata": map[string]any{"v": s}})
	}
	body, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	sv.post(mainLog+"/entries", string(body)).want(t, 201, nil)
	var p struct {
		Entries []struct {
			Message  string
			Metadata struct{ V string }
		}
	}
	sv.get(mainLog+"/entries?order=asc&limit=10000").want(t, 200, &p)
	if len(p.Entries) != len(strs) {
		t.Fatalf("got %d entries, want %d", len(p.Entries), len(strs))
	}
	for i, e := range p.Entries {
		if e.Message != strs[i] || e.Metadata.V != strs[i] {
			t.Errorf("%q came back as %q and %q", strs[i], e.Message, e.Metadata.V)
		}
	}
	for _, s := range strs { // and as what is looked for, by which a mistake in the query may be found and nothing worse
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+sv.addr+mainLog+"/entries", nil)
		if err != nil {
			t.Fatal(err)
		}
		q := req.URL.Query()
		q.Set("q", s)
		if a := sv.get(mainLog + "/entries?" + q.Encode()); a.status != 200 && a.status != 400 {
			t.Errorf("q=%q: %d %s", s, a.status, a.body)
		}
	}
}

func TestQuotaIsWaitedForByStreamsAndToldToOthers(t *testing.T) {
	sv := serve(t, nil)
	sv.tenant(tenant.TenantSettings{Name: "acme", Quota: tenant.Quota{EntriesPerSecond: 2000, EntryBytes: 400}})
	const l = "/api/v1/tenants/acme/logs/main"
	a := sv.do("POST", l+"/entries?receipts=errors", sv.root, strings.NewReader(lines(5000, `{"message":"%d"}`)+`{"message":"`+strings.Repeat("x", 500)+"\"}\n"), "Content-Type", "application/x-ndjson")
	got := parseAnswer(t, a.want(t, 200, nil).body)
	if len(got) != 2 || got[0].Line != 5001 || got[0].Error.Code != "quota" || !*got[1].Done || got[1].Accepted != 5000 {
		t.Errorf("a stream over the quota: %s", a.body)
	}
	a = sv.do("POST", l+"/entries", sv.root, strings.NewReader("["+strings.TrimSuffix(strings.Repeat(`{"message":"m"},`, 4000), ",")+"]"), "Content-Type", "application/json")
	if p := a.problem(t, "quota"); a.header.Get("Retry-After") == "" || p["retryAfter"] == nil {
		t.Errorf("an array over the quota: %v %s", a.header, a.body)
	}
}
