// Package cloudevents reads CloudEvents 1.0 as they come over HTTP (structured, batched and binary) into events of a log.
//
// The decoder is strict: what the specification calls invalid is refused, and so is what two readers could read as two things. What it
// takes is kept whole: every attribute by its name, and the data, whatever its type.
package cloudevents

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Provider is source.provider of every event.
const Provider = "cloudevents"

// The media types of events and batches in JSON. Any other type is an event's data in binary mode.
const (
	Structured = "application/cloudevents+json"
	Batched    = "application/cloudevents-batch+json"
)

// Limits.
const (
	MaxAttributes = 64   // of one event
	MaxAttribute  = 8192 // bytes of an attribute's value
	MaxBatch      = 4096 // events in one batch
	maxName       = 64   // bytes of an attribute's name; the specification advises 20
)

// Error says what makes an event none.
type Error struct {
	Attribute string // which one; empty for the whole
	Msg       string
}

func (e *Error) Error() string {
	if e.Attribute == "" {
		return e.Msg
	}
	return e.Attribute + ": " + e.Msg
}

func invalid(attribute, format string, args ...any) error {
	return &Error{attribute, fmt.Sprintf(format, args...)}
}

// Event is a CloudEvent taken apart. It refers to what it was read from.
type Event struct {
	attributes map[string]any // by name, with extensions: strings, and in JSON also bool and json.Number
	data       []byte
	isJSON     bool // data is a JSON value
	hasData    bool
}

// Parse reads one event in JSON.
func Parse(body []byte) (*Event, error) {
	e := &Event{attributes: make(map[string]any, 8)}
	err := members(body, func(name string, raw []byte) error {
		if string(raw) == "null" && name != "data" {
			return nil // as good as not there
		}
		switch name {
		case "data":
			if e.hasData {
				return invalid("data", "there is data_base64 too")
			}
			e.data, e.isJSON, e.hasData = raw, true, true
			return nil
		case "data_base64":
			text, err := text(name, raw)
			if err != nil {
				return err
			}
			if e.hasData {
				return invalid("data_base64", "there is data too")
			}
			e.hasData = true
			if e.data, err = base64.StdEncoding.DecodeString(text); err != nil {
				return invalid("data_base64", "%v", err)
			}
			return nil
		}
		return e.set(name, raw)
	})
	if err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, e.textData()
}

// textData makes of data that is a string, of a type that is not JSON, the text that it stands for.
func (e *Event) textData() error {
	kind, _ := e.attributes["datacontenttype"].(string)
	if !e.isJSON || len(e.data) == 0 || e.data[0] != '"' || kind == "" || isJSON(kind) {
		return nil
	}
	s, err := text("data", e.data)
	e.data, e.isJSON = []byte(s), false
	return err
}

// set takes an attribute in JSON.
func (e *Event) set(name string, raw []byte) error {
	if len(e.attributes) >= MaxAttributes {
		return invalid("", "more than %d attributes", MaxAttributes)
	}
	if err := checkName(name); err != nil {
		return err
	}
	if len(raw) > MaxAttribute {
		return invalid(name, "more than %d bytes", MaxAttribute)
	}
	switch c := raw[0]; {
	case c == '"':
		s, err := text(name, raw)
		e.attributes[name] = s
		return err
	case known[name]:
		return invalid(name, "want a string")
	case c == 't', c == 'f':
		e.attributes[name] = c == 't'
		return nil
	case c == '{', c == '[':
		return invalid(name, "want a string, a number or a boolean")
	}
	if _, err := strconv.ParseInt(string(raw), 10, 32); err != nil {
		return invalid(name, "want a whole number of 32 bits")
	}
	e.attributes[name] = json.Number(raw)
	return nil
}

// ParseBatch calls f with each event of a batch in JSON, from 0.
func ParseBatch(body []byte, f func(i int, e *Event) error) error {
	if !utf8.Valid(body) {
		return invalid("", "the batch is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return invalid("", "want a JSON array of events")
	}
	for i := 0; d.More(); i++ {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return invalid("", "the batch is not JSON: %v", err)
		}
		if i == MaxBatch {
			return fmt.Errorf("%w: a batch takes at most %d events; split it", immutable.ErrTooLarge, MaxBatch)
		}
		e, err := Parse(raw)
		if err == nil {
			err = f(i, e)
		}
		if err != nil {
			return fmt.Errorf("event %d: %w", i, err)
		}
	}
	if _, err := d.Token(); err != nil {
		return invalid("", "the batch is not JSON: %v", err)
	}
	if rest := bytes.TrimLeft(body[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return invalid("", "there are bytes after the batch")
	}
	return nil
}

// Binary says whether a request is an event in binary mode.
func Binary(h http.Header) bool { return len(h.Values("Ce-Specversion")) > 0 }

// FromRequest reads an event in binary mode: attributes are headers, the body is the data.
func FromRequest(h http.Header, body []byte) (*Event, error) {
	e := &Event{attributes: make(map[string]any, 8), data: body, hasData: len(body) > 0}
	for name, values := range h {
		name, ours := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ours {
			continue
		}
		if len(e.attributes) >= MaxAttributes {
			return nil, invalid("", "more than %d attributes", MaxAttributes)
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		if name == "datacontenttype" {
			return nil, invalid(name, "in binary mode it is the header Content-Type")
		}
		if len(values) > 1 {
			return nil, invalid(name, "the header stands twice")
		}
		value, err := unescape(values[0])
		if err != nil || len(value) > MaxAttribute {
			return nil, invalid(name, "the header is not percent-encoded UTF-8 of at most %d bytes", MaxAttribute)
		}
		e.attributes[name] = value
	}
	if kind := h.Get("Content-Type"); kind != "" {
		e.attributes["datacontenttype"] = kind
		if isJSON(kind) && e.hasData {
			if !json.Valid(body) || !utf8.Valid(body) {
				return nil, invalid("data", "the Content-Type is JSON, and the body is not")
			}
			e.isJSON = true
		}
	}
	return e, e.check()
}

// unescape is what a header's value means: printable ASCII with the rest percent-encoded, perhaps in quotes.
func unescape(s string) (string, error) {
	if len(s) > 1 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
		s = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(s)
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+3 > len(s) {
			out = append(out, s[i])
			continue
		}
		b, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			out = append(out, s[i]) // a sender that did not encode its percent sign
			continue
		}
		out, i = append(out, b...), i+2
	}
	if !utf8.Valid(out) {
		return "", errors.New("not UTF-8")
	}
	return string(out), nil
}

// known are the attributes of the specification. All of them are strings.
var known = map[string]bool{"specversion": true, "id": true, "source": true, "type": true, "datacontenttype": true, "dataschema": true, "subject": true, "time": true}

func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return invalid("", "an attribute's name has 1 to %d characters", maxName)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return invalid("", "the attribute %q: a name has lower-case letters and digits only", name)
		}
	}
	return nil
}

// check holds the event to the specification.
func (e *Event) check() error {
	get := func(name string) (string, bool) { s, ok := e.attributes[name].(string); return s, ok }
	for _, name := range [...]string{"specversion", "id", "source", "type"} {
		if s, _ := get(name); s == "" {
			return invalid(name, "is missing or empty: every event has one")
		}
	}
	if v, _ := get("specversion"); v != "1.0" {
		return invalid("specversion", "is %.20q: version 1.0 is taken", v)
	}
	for _, name := range [...]string{"datacontenttype", "dataschema", "subject", "time"} {
		if s, there := get(name); there && s == "" {
			return invalid(name, "is empty: leave it out")
		}
	}
	for name, v := range e.attributes {
		if s, isText := v.(string); isText && strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			return invalid(name, "has control characters")
		}
	}
	source, _ := get("source")
	if _, err := url.Parse(source); err != nil {
		return invalid("source", "is no URI reference")
	}
	if s, there := get("dataschema"); there {
		if u, err := url.Parse(s); err != nil || !u.IsAbs() {
			return invalid("dataschema", "is no URI")
		}
	}
	if s, there := get("datacontenttype"); there {
		if kind, _, err := mime.ParseMediaType(s); err != nil || !strings.Contains(kind, "/") {
			return invalid("datacontenttype", "is no media type")
		}
	}
	if s, there := get("time"); there {
		if _, err := parseTime(s); err != nil {
			return invalid("time", "is no time such as 2018-04-05T17:31:00Z")
		}
	}
	return nil
}

// parseTime reads RFC 3339, of which time.Parse takes more: an offset of 25 hours.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
	if err == nil && (t.UTC().Year() < 0 || t.UTC().Year() > 9999 || strings.Contains(s, ",")) {
		err = errors.New("out of range")
	}
	return t.UTC(), err
}

func isJSON(kind string) bool {
	kind, _, err := mime.ParseMediaType(kind)
	return err == nil && (kind == "application/json" || kind == "text/json" || strings.HasSuffix(kind, "+json"))
}

// Key is the idempotency key: source and id name an event for ever. The length in it keeps two pairs apart that are spelled alike.
func (e *Event) Key() string {
	source, id := e.attributes["source"].(string), e.attributes["id"].(string)
	key := "cloudevents:" + strconv.Itoa(len(source)) + ":" + source + " " + id
	if len(key) <= entry.MaxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return "cloudevents/sha256:" + hex.EncodeToString(sum[:])
}

// Event is what the log keeps. Data that has no place in an entry is kept as its digest, length and beginning.
func (e *Event) Event() (immutable.Event, error) {
	kind, _ := e.attributes["type"].(string)
	out := immutable.Event{Level: e.level(), Message: kind, IdempotencyKey: e.Key()}
	if subject, there := e.attributes["subject"].(string); there {
		out.Message += " " + subject
	}
	if at, there := e.attributes["time"].(string); there {
		out.EventTime, _ = parseTime(at) // it was checked
	}
	if parent, there := e.attributes["traceparent"].(string); there {
		out.TraceID, out.SpanID = trace(parent)
	}
	m := event.Shape{Source: &event.Source{Provider: Provider}}.Fields()
	m["cloudevent"] = e.attributes
	out.Metadata = m
	switch {
	case !e.hasData:
		return out, nil
	case e.isJSON:
		m["data"] = json.RawMessage(e.data)
	case utf8.Valid(e.data):
		m["data"] = string(e.data)
	default:
		m["data_base64"] = base64.StdEncoding.EncodeToString(e.data)
	}
	if _, err := entry.Append(nil, &out); err == nil {
		return out, nil
	}
	// It is too large, or JSON that the log's format refuses: a name that stands twice.
	delete(m, "data")
	delete(m, "data_base64")
	if event.Raw(m, e.data, event.RawLimit); m[event.KeyRaw] != nil {
		if _, err := entry.Append(nil, &out); err == nil {
			return out, nil
		}
		event.Raw(m, e.data, event.RawHead)
	}
	_, err := entry.Append(nil, &out)
	return out, err
}

// level is what the extensions severitytext and severitynumber say, which are OpenTelemetry's; INFO without them.
func (e *Event) level() immutable.Level {
	if s, there := e.attributes["severitytext"].(string); there {
		if l, err := immutable.ParseLevel(s); err == nil {
			return l
		}
	}
	n, err := strconv.Atoi(fmt.Sprint(e.attributes["severitynumber"]))
	switch {
	case err != nil || n < 13:
		return immutable.Info
	case n < 17:
		return immutable.Warn
	case n < 21:
		return immutable.Error
	}
	return immutable.Critical
}

// trace reads the extension traceparent; one that is malformed is as good as none, and stays among the attributes.
func trace(parent string) (traceID, spanID string) {
	if len(parent) < 55 || parent[2] != '-' || parent[35] != '-' || parent[52] != '-' {
		return "", ""
	}
	probe := immutable.Event{TraceID: parent[3:35], SpanID: parent[36:52]}
	if _, err := entry.Append(nil, &probe); err != nil {
		return "", ""
	}
	return probe.TraceID, probe.SpanID
}

func text(name string, raw []byte) (string, error) {
	if raw[0] != '"' {
		return "", invalid(name, "want a string")
	}
	s, err := entry.Unquote(raw)
	if err != nil {
		return "", invalid(name, "%v", err)
	}
	return s, nil
}

// members calls f with each member of one JSON object, and refuses a name that stands twice.
func members(body []byte, f func(name string, raw []byte) error) error {
	if !utf8.Valid(body) {
		return invalid("", "the event is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return invalid("", "want a JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		name, isName := t.(string)
		if err != nil || !isName {
			return invalid("", "the event is not JSON: %v", err)
		}
		if seen[name] {
			return invalid("", "the member %.64q stands twice", name)
		}
		if seen[name] = true; len(seen) > MaxAttributes+2 {
			return invalid("", "more than %d attributes", MaxAttributes)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return invalid("", "the event is not JSON: %v", err)
		}
		if err := f(name, raw); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return invalid("", "the event is not JSON: %v", err)
	}
	if rest := bytes.TrimLeft(body[d.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return invalid("", "there are bytes after the event")
	}
	return nil
}
