package httpcapture

import (
	"bytes"
	"crypto/sha256"
	hexenc "encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/tree-of-life-system/immutable/capture"
)

// AI is the profile for the APIs of AI models: OpenAI's chat completions and responses and what is compatible with them, Perplexity's chat
// completions and responses, streaming (server-sent events) and not. Beside what every request has, the event has "model": the model,
// parameters, token counts, why it ended, citations and search results, tool calls by name with the SHA-256 of their arguments, and the SHA-256
// of prompt and answer. The texts are not recorded unless Text is set.
type AI struct {
	// Paths are the ends of the paths that are models' APIs: nil is /chat/completions and /responses.
	Paths []string

	// Hosts are the hosts that are, with their port if it is not the scheme's: nil is all.
	Hosts []string

	// Text records prompt and answer, up to MaxBody bytes of each.
	Text bool
}

func (a *AI) is(r *http.Request) bool {
	if r.Method != http.MethodPost || len(a.Hosts) > 0 && !slices.Contains(a.Hosts, r.URL.Host) {
		return false
	}
	paths := a.Paths
	if paths == nil {
		paths = []string{"/chat/completions", "/responses"}
	}
	return slices.ContainsFunc(paths, func(p string) bool { return strings.HasSuffix(strings.TrimSuffix(r.URL.Path, "/"), p) })
}

// Limits of what is read of an exchange with a model.
const (
	maxTalk      = 8 << 20 // bytes of the question, and of the answer
	maxParams    = 2 << 10 // bytes of a parameter's value
	maxCitations = 50
	maxCalls     = 50
	maxEvents    = 1 << 20 // lines of a stream
)

// talk is an exchange with a model.
type talk struct {
	profile         *AI
	asked, answered *kept
}

func newTalk(a *AI) *talk { return &talk{a, &kept{}, &kept{}} }

// kept keeps what passes, up to maxTalk.
type kept struct {
	mu   sync.Mutex // guards what follows
	all  []byte
	over bool
}

func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	room := maxTalk - len(k.all)
	k.over = k.over || len(p) > room
	k.all = append(k.all, p[:min(len(p), room)]...)
	return len(p), nil
}

func (k *kept) bytes() (all []byte, over bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all, k.over
}

// fields are what is known of the exchange.
func (t *talk) fields(resp *http.Response) map[string]any {
	f := map[string]any{}
	question, over := t.asked.bytes()
	if over {
		f["requestTooLarge"] = true
	} else {
		t.question(f, question)
	}
	if resp == nil {
		return f
	}
	said, over := t.answered.bytes()
	if over {
		f["responseTooLarge"] = true
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		f["responseEncoding"] = capture.Text(enc, 32) // nobody here reads it
		return f
	}
	a := reply{calls: map[string]*call{}, text: map[string]*strings.Builder{}}
	if strings.HasPrefix(strings.TrimSpace(resp.Header.Get("Content-Type")), "text/event-stream") {
		a.stream(said)
		f["stream"] = true
	} else {
		a.document(said)
	}
	a.put(f, t.profile.Text)
	return f
}

// parameters are the members of a request that say how it is answered, and not what was asked.
var parameters = []string{
	"temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "seed", "stop", "presence_penalty", "frequency_penalty",
	"reasoning_effort", "reasoning", "tool_choice", "parallel_tool_calls", "service_tier", "store", "previous_response_id", "truncation",
	"search_mode", "search_domain_filter", "search_recency_filter", "search_after_date_filter", "search_before_date_filter", "return_images",
	"return_related_questions", "web_search_options", "language_preference", "disable_search", "preset", "user", "safety_identifier",
}

func (t *talk) question(f map[string]any, body []byte) {
	var q map[string]json.RawMessage
	if json.Unmarshal(body, &q) != nil {
		if len(body) > 0 {
			f["requestSha256"] = digest(body)
		}
		return
	}
	var model string
	_ = json.Unmarshal(q["model"], &model)
	setText(f, "requested", model)
	params := map[string]any{}
	for _, name := range parameters {
		if v, found := q[name]; found && len(v) <= maxParams && string(v) != "null" {
			params[name] = v
		}
	}
	if len(params) > 0 {
		f["parameters"] = params
	}
	f["tools"] = toolNames(q["tools"])
	if f["tools"] == nil {
		delete(f, "tools")
	}
	// The prompt is what is hashed as it was sent: messages, or input with the instructions before it.
	var prompt []byte
	for _, name := range []string{"instructions", "messages", "input"} {
		prompt = append(prompt, q[name]...)
	}
	if len(prompt) == 0 {
		return
	}
	f["promptSha256"] = digest(prompt)
	var messages []json.RawMessage
	if json.Unmarshal(q["messages"], &messages) == nil || json.Unmarshal(q["input"], &messages) == nil {
		f["messages"] = len(messages)
	}
	if t.profile.Text {
		f["prompt"] = capture.Text(string(prompt), MaxBody)
	}
}

// toolNames are the tools that a model may call: functions by their name, others by their type.
func toolNames(raw json.RawMessage) any {
	var tools []struct {
		Type, Name string
		Function   struct{ Name string }
	}
	if json.Unmarshal(raw, &tools) != nil || len(tools) == 0 {
		return nil
	}
	names := []string{}
	for _, t := range tools[:min(len(tools), maxCalls)] {
		name := t.Function.Name
		if name == "" {
			name = t.Name
		}
		if name == "" {
			name = t.Type
		}
		names = append(names, capture.Text(name, 128))
	}
	return names
}

// call is a call of a tool, whose arguments may come in pieces.
type call struct {
	name string
	id   string
	args strings.Builder
}

// reply gathers what a model said, in one document or in many events.
type reply struct {
	id, model string
	finish    string
	usage     json.RawMessage
	citations []string
	results   []searchResult
	failure   json.RawMessage
	calls     map[string]*call
	order     []string
	text      map[string]*strings.Builder // by choice or output
	texts     []string
	bad       int // events that are no JSON
}

// document is one JSON document of any of the APIs: an answer, or an event of a stream. All members are optional.
type document struct {
	Type       string          `json:"type"` // of an event of the responses API
	ID         string          `json:"id"`
	Model      string          `json:"model"`
	Usage      json.RawMessage `json:"usage"`
	Error      json.RawMessage `json:"error"`
	Status     string          `json:"status"`
	Citations  []string        `json:"citations"`
	Results    []searchResult  `json:"search_results"`
	Choices    []choice        `json:"choices"`
	Output     []item          `json:"output"`
	Response   *document       `json:"response"`
	Delta      json.RawMessage `json:"delta"`
	Item       *item           `json:"item"`
	ItemID     string          `json:"item_id"`
	Incomplete struct {
		Reason string `json:"reason"`
	} `json:"incomplete_details"`
}

type searchResult struct {
	Title string `json:"title"`
	URL   string `json:"url"`
	Date  string `json:"date,omitempty"`
}

type choice struct {
	Index   int      `json:"index"`
	Finish  string   `json:"finish_reason"`
	Message *message `json:"message"`
	Delta   *message `json:"delta"`
}

type message struct {
	Content   json.RawMessage `json:"content"`
	ToolCalls []struct {
		Index    *int   `json:"index"`
		ID       string `json:"id"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

type item struct {
	Type      string         `json:"type"`
	ID        string         `json:"id"`
	CallID    string         `json:"call_id"`
	Name      string         `json:"name"`
	Arguments string         `json:"arguments"`
	Content   []part         `json:"content"`
	Results   []searchResult `json:"results"` // of Perplexity's search
}

type part struct {
	Type        string `json:"type"`
	Text        string `json:"text"`
	Annotations []struct {
		URL string `json:"url"`
	} `json:"annotations"`
}

// stream reads server-sent events.
func (a *reply) stream(data []byte) {
	var pending []byte
	for n := 0; len(data) > 0 && n < maxEvents; n++ {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if rest, found := bytes.CutPrefix(line, []byte("data:")); found {
			pending = append(append(pending, bytes.TrimPrefix(rest, []byte(" "))...), '\n')
			continue
		}
		if len(line) == 0 {
			a.event(pending)
			pending = pending[:0]
		}
	}
	a.event(pending)
}

func (a *reply) event(data []byte) {
	data = bytes.TrimSpace(data)
	if len(data) > 0 && string(data) != "[DONE]" {
		a.document(data)
	}
}

func (a *reply) document(data []byte) {
	var d document
	if len(data) == 0 {
		return
	}
	if json.Unmarshal(data, &d) != nil {
		a.bad++
		return
	}
	a.add(&d, false)
}

// add takes what a document says. again: it is the whole answer after its pieces, whose texts are known.
func (a *reply) add(d *document, again bool) {
	switch d.Type {
	case "response.output_text.delta", "response.function_call_arguments.delta":
		var piece string
		_ = json.Unmarshal(d.Delta, &piece)
		if d.Type == "response.output_text.delta" {
			a.say("", piece)
		} else if c := a.call(d.ItemID); c != nil {
			c.args.WriteString(piece)
		}
		return
	case "response.output_item.added":
		if d.Item != nil && d.Item.Type == "function_call" {
			if c := a.call(d.Item.ID); c != nil {
				c.name, c.id = d.Item.Name, d.Item.CallID
			}
		}
		return
	}
	if d.Response != nil {
		a.add(d.Response, true)
		return
	}
	set(&a.id, d.ID)
	set(&a.model, d.Model)
	set(&a.finish, d.Status)
	set(&a.finish, d.Incomplete.Reason)
	if len(d.Usage) > 0 && string(d.Usage) != "null" && len(d.Usage) <= maxParams {
		a.usage = d.Usage
	}
	if len(d.Error) > 0 && string(d.Error) != "null" {
		a.failure = d.Error
	}
	for _, c := range d.Citations {
		a.cite(c)
	}
	if len(d.Results) > 0 {
		a.results = d.Results
	}
	for i := range d.Choices {
		a.choice(&d.Choices[i])
	}
	spoken := again && len(a.texts) > 0
	for i := range d.Output {
		a.output(&d.Output[i], spoken)
	}
}

func (a *reply) choice(c *choice) {
	set(&a.finish, c.Finish)
	m := c.Message
	if c.Delta != nil && !emptyMessage(c.Delta) { // Perplexity repeats the whole message beside each piece
		m = c.Delta
	} else if c.Message != nil && a.text[key(c.Index)] != nil {
		m = nil
	}
	if m == nil {
		return
	}
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		a.say(key(c.Index), text)
	} else {
		var parts []part
		_ = json.Unmarshal(m.Content, &parts)
		for _, p := range parts {
			a.say(key(c.Index), p.Text)
		}
	}
	for i, t := range m.ToolCalls {
		at := i
		if t.Index != nil {
			at = *t.Index
		}
		if known := a.call(key(c.Index) + "/" + key(at)); known != nil {
			set(&known.name, t.Function.Name)
			set(&known.id, t.ID)
			known.args.WriteString(t.Function.Arguments)
		}
	}
}

func emptyMessage(m *message) bool {
	return len(m.ToolCalls) == 0 && (len(m.Content) == 0 || string(m.Content) == `""` || string(m.Content) == "null")
}

func (a *reply) output(i *item, spoken bool) {
	switch i.Type {
	case "function_call":
		if c := a.call(i.ID); c != nil {
			c.name, c.id = i.Name, i.CallID
			c.args.Reset()
			c.args.WriteString(i.Arguments)
		}
	case "search_results":
		a.results = append(a.results, i.Results...)
	}
	for _, p := range i.Content {
		if !spoken {
			a.say("", p.Text)
		}
		for _, n := range p.Annotations {
			a.cite(n.URL)
		}
	}
}

// key names a choice or call by its number.
func key(i int) string { return string(rune('0' + min(max(i, 0), maxCalls))) }

func (a *reply) say(where, text string) {
	if text == "" {
		return
	}
	b := a.text[where]
	if b == nil {
		b = &strings.Builder{}
		a.text[where] = b
		a.texts = append(a.texts, where)
	}
	b.WriteString(text)
}

func (a *reply) call(id string) *call {
	c := a.calls[id]
	if c == nil && len(a.calls) < maxCalls {
		c = &call{}
		a.calls[id] = c
		a.order = append(a.order, id)
	}
	return c
}

func (a *reply) cite(url string) {
	if url != "" && len(a.citations) < maxCitations && !slices.Contains(a.citations, capture.Text(url, 500)) {
		a.citations = append(a.citations, capture.Text(url, 500))
	}
}

// put writes what was gathered.
func (a *reply) put(f map[string]any, text bool) {
	setText(f, "id", a.id)
	setText(f, "name", a.model)
	setText(f, "finish", a.finish)
	if a.usage != nil {
		f["usage"] = a.usage
	}
	if a.failure != nil {
		f["error"] = capture.Text(string(a.failure), maxHeader)
	}
	if len(a.citations) > 0 {
		f["citations"] = a.citations
	}
	var results []searchResult
	for _, r := range a.results[:min(len(a.results), maxCitations)] {
		results = append(results, searchResult{capture.Text(r.Title, 200), capture.Text(r.URL, 500), capture.Text(r.Date, 32)})
	}
	if results != nil {
		f["searchResults"] = results
	}
	var calls []map[string]any
	for _, id := range a.order {
		c := a.calls[id]
		calls = append(calls, map[string]any{"name": capture.Text(c.name, 128), "id": capture.Text(c.id, 128), "argumentsSha256": digest([]byte(c.args.String()))})
	}
	if calls != nil {
		f["toolCalls"] = calls
	}
	if len(a.texts) > 0 {
		var all strings.Builder
		for _, where := range a.texts {
			all.WriteString(a.text[where].String())
		}
		f["answerSha256"], f["answerBytes"] = digest([]byte(all.String())), all.Len()
		if text {
			f["answer"] = capture.Text(all.String(), MaxBody)
		}
	}
	if a.bad > 0 {
		f["unreadable"] = a.bad
	}
}

func set(to *string, s string) {
	if s != "" {
		*to = s
	}
}

func setText(f map[string]any, name, s string) {
	if s != "" {
		f[name] = capture.Text(s, 256)
	}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hexenc.EncodeToString(sum[:])
}
