package httpcapture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// calls is a client whose calls of a real server are recorded.
func calls(t testing.TB, k *log, cfg TransportConfig, h http.HandlerFunc) (*http.Client, string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c := &http.Client{Transport: NewTransport(k.rec, s.Client().Transport, cfg)}
	t.Cleanup(c.CloseIdleConnections)
	return c, s.URL
}

func TestCallIsRecordedWhenItsBodyEnds(t *testing.T) {
	k := openLog(t)
	release := make(chan struct{})
	c, url := calls(t, k, TransportConfig{RequestBody: 100, ResponseBody: 100, RequestHeaders: []string{"Authorization"}}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"got":%d,`, len(body))
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path != "/closed" && r.URL.Path != "/cancelled" {
			_, _ = fmt.Fprintf(w, `"token":%q}`, secret)
			return
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	get := func(ctx context.Context, path string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.Replace(url, "://", "://u:"+secret+"@", 1)+path+"?key="+secret, strings.NewReader(`{"password":"`+secret+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := get(t.Context(), "/whole")
	if n := k.rec.Stats().Recorded; n != 0 {
		t.Errorf("%d recorded before the body was read", n)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), secret) {
		t.Errorf("%q, %v", body, err)
	}
	resp.Body.Close()
	resp.Body.Close()
	get(t.Context(), "/closed").Body.Close()
	ctx, cancel := context.WithCancel(t.Context())
	resp = get(ctx, "/cancelled") // neither read nor closed until its context ends
	cancel()
	got := k.wait(3)
	resp.Body.Close()
	for i, how := range []any{nil, "closed", "cancelled"} {
		m := metadata(t, &got[i])
		if at(m, "http", "bodyEnded") != how || at(m, "request", "status") != 200.0 || strings.Contains(string(got[i].Line), secret) || at(m, "http", "requestBody", "text") != `{"password":"[redacted]"}` {
			t.Errorf("%d: %s", i, got[i].Line)
		}
		if i == 0 && at(m, "http", "responseBody", "text") != `{"got":30,"token":"[redacted]"}` {
			t.Errorf("%s", got[i].Metadata)
		}
	}
	if k.rec.Stats().Recorded != 3 {
		t.Errorf("%+v", k.rec.Stats())
	}
}

func TestCallWithoutAnswerIsRecordedAtOnce(t *testing.T) {
	k := openLog(t)
	failing := NewTransport(k.rec, roundTrip(func(r *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("dial %s: refused", r.URL)
	}), TransportConfig{})
	c := &http.Client{Transport: failing}
	if resp, err := c.Get("http://u:" + secret + "@h.example/p?token=" + secret); err == nil {
		resp.Body.Close()
		t.Error("no error")
	}
	e := k.wait(1)[0]
	m := metadata(t, &e)
	if e.Level != immutable.Error || at(m, "outcome") != "failure" || strings.Contains(string(e.Line), secret) || !strings.Contains(at(m, "reason").(string), "refused") || at(m, "target", "id") != "h.example" {
		t.Errorf("%s", e.Line)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A protocol switch hands the connection over: the body is written to as well.
func TestSwitchedProtocolKeepsItsConnection(t *testing.T) {
	k := openLog(t)
	c, url := calls(t, k, TransportConfig{}, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.CopyN(conn, rw, 4)
	})
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatal("the body cannot be written to")
	}
	_, _ = rw.Write([]byte("ping"))
	if got, err := io.ReadAll(rw); err != nil || string(got) != "ping" {
		t.Errorf("%q, %v", got, err)
	}
	if m := k.wait(1); at(metadata(t, &m[0]), "request", "status") != 101.0 {
		t.Errorf("%s", m[0].Metadata)
	}
}

// Who is being answered makes the calls that are made for it, in the same trace.
func TestCallIsOfWhoIsBeingAnswered(t *testing.T) {
	k := openLog(t)
	c, url := calls(t, k, TransportConfig{}, func(http.ResponseWriter, *http.Request) {})
	h := New(k.rec, Config{})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		SetActor(r.Context(), event.Actor{ID: "7"})
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	h.ServeHTTP(httptest.NewRecorder(), r)
	for i, e := range k.wait(2) {
		m := metadata(t, &e)
		if at(m, "actor", "id") != "7" || e.TraceID != "0af7651916cd43dd8448eb211c80319c" || at(m, "action") != []string{"http.call", "http.request"}[i] {
			t.Errorf("%s", e.Line)
		}
	}
}

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// The answers are of the forms that the APIs document: chat completions and responses, whole and streamed.
func TestModelCallsAreUnderstood(t *testing.T) {
	const messages = `[{"role":"user","content":"What is the SECRET plan?"}]`
	chat := `{"model":"sonar-pro","messages":` + messages + `,"temperature":0.2,"max_tokens":100,"search_domain_filter":["example.com"],"tools":[{"type":"function","function":{"name":"lookup"}},{"type":"web_search"}]}`
	responses := `{"model":"gpt-x","instructions":"be SECRET","input":"What is the SECRET plan?","max_output_tokens":50}`
	sse := func(events ...string) string { return "data: " + strings.Join(events, "\n\ndata: ") + "\n\n" }
	usage := `"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}`
	for _, c := range []struct {
		name, path, ask, kind, answer string
		text, prompt                  string
		calls                         string
		want                          map[string]string
	}{
		{
			"chat", "/chat/completions", chat, "application/json",
			`{"id":"c1","model":"sonar-pro","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"The SECRET answer"}}],"citations":["https://a.example/1","https://a.example/2"],"search_results":[{"title":"One","url":"https://a.example/1","date":"2026-01-01"}],` + usage + `}`,
			"The SECRET answer", messages, "",
			map[string]string{"name": "sonar-pro", "id": "c1", "finish": "stop", "citations": "[https://a.example/1 https://a.example/2]", "usage.total_tokens": "12", "searchResults": "[map[date:2026-01-01 title:One url:https://a.example/1]]", "parameters.temperature": "0.2", "tools": "[lookup web_search]", "messages": "1"},
		},
		{
			"chat streamed, with the whole message beside each piece", "/v1/chat/completions", chat, "text/event-stream",
			sse(`{"id":"c2","model":"sonar","choices":[{"index":0,"delta":{"role":"assistant","content":""},"message":{"content":""}}]}`,
				`{"choices":[{"index":0,"delta":{"content":"The SEC"},"message":{"content":"The SEC"}}]}`,
				`{"choices":[{"index":0,"delta":{"content":"RET answer"},"message":{"content":"The SECRET answer"}}],"citations":["https://a.example/1"]}`,
				`{"choices":[{"index":0,"finish_reason":"stop","delta":{"content":""},"message":{"content":"The SECRET answer"}}],"citations":["https://a.example/1"],`+usage+`}`, `[DONE]`),
			"The SECRET answer", messages, "",
			map[string]string{"name": "sonar", "finish": "stop", "stream": "true", "citations": "[https://a.example/1]", "usage.completion_tokens": "7"},
		},
		{
			"chat with tools", "/chat/completions", chat, "application/json",
			`{"id":"c3","model":"m","choices":[{"index":0,"finish_reason":"tool_calls","message":{"content":null,"tool_calls":[{"id":"t1","type":"function","function":{"name":"lookup","arguments":"{\"q\":\"SECRET\"}"}}]}}]}`,
			"", messages, `{"q":"SECRET"}`,
			map[string]string{"finish": "tool_calls"},
		},
		{
			"chat with tools, streamed", "/chat/completions", chat, "text/event-stream; charset=utf-8",
			strings.ReplaceAll(sse(`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t1","function":{"name":"lookup","arguments":""}}]}}]}`,
				`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]}}]}`, `{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"SECRET\"}"}}]}}]}`), "\n", "\r\n"),
			"", messages, `{"q":"SECRET"}`,
			map[string]string{"stream": "true"},
		},
		{
			"responses", "/v1/responses", responses, "application/json",
			`{"id":"r1","model":"gpt-x-1","status":"completed","error":null,"output":[{"type":"function_call","id":"f1","call_id":"t1","name":"lookup","arguments":"{\"q\":\"SECRET\"}"},{"type":"message","id":"m1","content":[{"type":"output_text","text":"The SECRET answer","annotations":[{"type":"url_citation","url":"https://a.example/1"}]}]}],"usage":{"input_tokens":3,"output_tokens":4}}`,
			"The SECRET answer", `"be SECRET""What is the SECRET plan?"`, `{"q":"SECRET"}`,
			map[string]string{"requested": "gpt-x", "name": "gpt-x-1", "finish": "completed", "citations": "[https://a.example/1]", "usage.input_tokens": "3", "parameters.max_output_tokens": "50"},
		},
		{
			"responses, streamed", "/v1/responses", responses, "text/event-stream",
			"event: response.created\n" + sse(`{"type":"response.created","response":{"id":"r2","model":"gpt-x-1","status":"in_progress","output":[]}}`,
				`{"type":"response.output_item.added","item":{"type":"function_call","id":"f1","call_id":"t1","name":"lookup","arguments":""}}`,
				`{"type":"response.function_call_arguments.delta","item_id":"f1","delta":"{\"q\":"}`, `{"type":"response.function_call_arguments.delta","item_id":"f1","delta":"\"SECRET\"}"}`,
				`{"type":"response.output_text.delta","item_id":"m1","delta":"The SECRET"}`, `{"type":"response.output_text.delta","item_id":"m1","delta":" answer"}`,
				`{"type":"response.completed","response":{"id":"r2","model":"gpt-x-1","status":"completed","output":[{"type":"function_call","id":"f1","call_id":"t1","name":"lookup","arguments":"{\"q\":\"SECRET\"}"},{"type":"message","content":[{"type":"output_text","text":"The SECRET answer","annotations":[{"url":"https://a.example/9"}]}]}],"usage":{"input_tokens":3,"output_tokens":4}}}`),
			"The SECRET answer", `"be SECRET""What is the SECRET plan?"`, `{"q":"SECRET"}`,
			map[string]string{"finish": "completed", "stream": "true", "usage.output_tokens": "4", "citations": "[https://a.example/9]"},
		},
		{
			"refused", "/chat/completions", chat, "application/json", `{"error":{"message":"quota","code":429}}`, "", messages, "", map[string]string{"error": `{"message":"quota","code":429}`},
		},
		{"no JSON", "/chat/completions", chat, "text/html", `<html>`, "", messages, "", map[string]string{"unreadable": "1"}},
	} {
		for _, text := range []bool{false, true} {
			k := openLog(t)
			client, url := calls(t, k, TransportConfig{AI: &AI{Text: text}}, func(w http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); err != nil || string(body) != c.ask {
					t.Errorf("%s: the server reads %q, %v", c.name, body, err)
				}
				w.Header().Set("Content-Type", c.kind)
				_, _ = io.WriteString(w, c.answer)
			})
			resp, err := client.Post(url+c.path, "application/json", strings.NewReader(c.ask))
			if err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(resp.Body); err != nil || string(said) != c.answer {
				t.Errorf("%s: the caller reads %q, %v", c.name, said, err)
			}
			resp.Body.Close()
			e := k.wait(1)[0]
			m := at(metadata(t, &e), "model")
			for path, want := range c.want {
				if got := fmt.Sprint(at(m, strings.Split(path, ".")...)); got != want {
					t.Errorf("%s: %s is %s, want %s", c.name, path, got, want)
				}
			}
			if at(m, "promptSha256") != sumOf(c.prompt) || c.text != "" && at(m, "answerSha256") != sumOf(c.text) || c.text == "" && at(m, "answerSha256") != nil {
				t.Errorf("%s: %v", c.name, m)
			}
			if c.calls != "" && fmt.Sprint(at(m, "toolCalls")) != fmt.Sprintf("[map[argumentsSha256:%s id:t1 name:lookup]]", sumOf(c.calls)) {
				t.Errorf("%s: calls %v", c.name, at(m, "toolCalls"))
			}
			if text != strings.Contains(string(e.Line), "SECRET") {
				t.Errorf("%s: with text %v: %s", c.name, text, e.Line)
			}
			if at(metadata(t, &e), "action") != event.ActionModelRequest {
				t.Errorf("%s", e.Line)
			}
		}
	}
}

func TestOnlyModelsAreTakenForModels(t *testing.T) {
	a := &AI{Hosts: []string{"api.example"}}
	for url, want := range map[string]bool{
		"https://api.example/v1/chat/completions": true, "https://api.example/v1/responses/": true, "https://api.example/v1/models": false, "https://other.example/v1/responses": false,
	} {
		r := httptest.NewRequest(http.MethodPost, url, nil)
		if a.is(r) != want {
			t.Errorf("%s: %v", url, !want)
		}
	}
	if (&AI{}).is(httptest.NewRequest(http.MethodGet, "https://api.example/v1/responses", nil)) {
		t.Error("a GET asks no model")
	}
}

// An exchange over the limit is recorded without what could not be kept, and nothing panics over what a server says.
func FuzzModelAnswers(f *testing.F) {
	for _, s := range []string{
		`{"choices":[{"index":-5,"message":{"content":[{"type":"text","text":"x"}],"tool_calls":[{"index":99999}]}}]}`, "data: {\"delta\":1}\n\ndata: {\"type\":\"response.output_text.delta\",\"delta\":7}\n\n",
		`{"response":{"response":{"response":{}}}}`, `[]`, "data:\n\n\n", `{"usage":null,"error":null,"citations":null}`,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, stream bool) {
		talk := newTalk(&AI{Text: true})
		_, _ = talk.asked.Write(data)
		_, _ = talk.answered.Write(data)
		h := http.Header{}
		if stream {
			h.Set("Content-Type", "text/event-stream")
		}
		m := talk.fields(&http.Response{Header: h})
		if a, _ := m["answer"].(string); len(a) > MaxBody+64 {
			t.Errorf("an answer of %d bytes", len(a))
		}
		if c, _ := m["citations"].([]string); len(c) > maxCitations {
			t.Errorf("%d citations", len(c))
		}
	})
}

func TestHugeExchangeIsCut(t *testing.T) {
	talk := newTalk(&AI{})
	for range 3 {
		_, _ = talk.answered.Write(make([]byte, maxTalk/2))
	}
	_, _ = talk.asked.Write(make([]byte, maxTalk+1))
	m := talk.fields(&http.Response{Header: http.Header{}})
	if m["responseTooLarge"] != true || m["requestTooLarge"] != true || len(talk.answered.all) != maxTalk {
		t.Errorf("%v, %d bytes", m, len(talk.answered.all))
	}
}

// What breaks off is recorded as broken.
func TestBrokenAnswerIsRecorded(t *testing.T) {
	k := openLog(t)
	c, url := calls(t, k, TransportConfig{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	})
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	resp.Body.Close()
	e := k.wait(1)[0]
	if m := metadata(t, &e); at(m, "http", "bodyEnded") != "broken" || at(m, "outcome") != "failure" {
		t.Errorf("%s", e.Metadata)
	}
}
