package hooks

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// Limits of what is taken out of a body into its entry's fields. The body itself is kept whole.
const (
	maxField   = 1024 // bytes of one value
	maxList    = 50   // elements of one list
	maxMessage = 200  // bytes of an entry's message
)

// The names of the metadata of a delivery, beside those of package event.
const (
	KeyDelivery = "delivery"  // {"id", "event"}
	KeyParts    = "rawParts"  // of a body that has no place in its entry: how many entries it is in
	KeyFirst    = "rawFirst"  // the index of the first of them
	KeyPart     = "rawPart"   // of each of them: which it is, from 1
	KeyWhole    = "rawSha256" // in all of them: of the whole body, hex
)

// Delivery is what an authentic request says.
type Delivery struct {
	ID    string // the provider's, or "sha256:" and the body's digest
	Name  string // of the event, as the provider spells it
	Event immutable.Event
}

// Read says what a request that Verify has found good is about. A *Refused error says that it cannot be read.
func Read(kind string, scheme *Scheme, h http.Header, body []byte) (*Delivery, error) {
	var d Delivery
	var shape event.Shape
	var err error
	switch kind {
	case GitHub:
		shape, err = github(&d, h, body)
	case Stripe:
		shape, err = stripe(&d, body)
	case Linear:
		shape, err = linear(&d, h, body)
	case Notion:
		shape, err = notion(&d, body)
	default:
		shape, err = generic(&d, kind, scheme, h, body)
	}
	if err != nil {
		return nil, err
	}
	if d.ID == "" {
		sum := sha256.Sum256(body)
		d.ID = "sha256:" + hex.EncodeToString(sum[:])
	}
	if len(d.ID) > maxID || strings.ContainsFunc(d.ID, unprintable) {
		return nil, refuse(ReasonMalformed, "the delivery's id is not of 1 to %d characters of printable ASCII", maxID)
	}
	if shape.Outcome == "" {
		shape.Outcome = event.OutcomeSuccess
	}
	shape.Source = &event.Source{Provider: kind, UserAgent: clip(h.Get("User-Agent"))}
	about := map[string]any{"id": d.ID}
	put(about, "event", clip(d.Name))
	if shape.Extra == nil {
		shape.Extra = immutable.Fields{}
	}
	shape.Extra[KeyDelivery] = about
	d.Event.Metadata = shape.Fields()
	d.Event.Message = cut(d.Event.Message, maxMessage)
	return &d, nil
}

// object decodes the body as one JSON object.
func object(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	if err != nil || len(bytes.TrimLeft(body, " \t\r\n")) == 0 || bytes.TrimLeft(body, " \t\r\n")[0] != '{' {
		return refuse(ReasonMalformed, "the body is not the JSON object that the provider sends")
	}
	return nil
}

// text is a value that is shown: a string, or a number or truth as it is spelled. Anything else, and what is not there, is empty, so
// that a provider who changes a member's type loses a field and not a delivery.
type text string

func (t *text) UnmarshalJSON(data []byte) error {
	switch c := data[0]; {
	case c == '"':
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		*t = text(clip(s))
	case c == '-' || c >= '0' && c <= '9' || string(data) == "true" || string(data) == "false":
		*t = text(cut(string(data), maxField))
	}
	return nil
}

// maybe is an object that may be absent, null or something else: then it is empty.
type maybe[T any] struct{ v T }

func (m *maybe[T]) UnmarshalJSON(data []byte) error {
	if data[0] == '{' || data[0] == '[' {
		var v T
		if json.Unmarshal(data, &v) == nil {
			m.v = v
		}
	}
	return nil
}

func clip(s string) string { return cut(s, maxField) }

// cut is s as valid UTF-8 of at most n bytes.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	const more = "…"
	for n -= len(more); n > 0 && !utf8.RuneStart(s[n]); {
		n--
	}
	return s[:n] + more
}

func put[T ~string](m map[string]any, name string, value T) {
	if value != "" {
		m[name] = string(value)
	}
}

// words are an identifier as people read it: "pull_request.opened" is "pull request opened".
func words(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c == '_' || c == '.' || c == '-' || c == ' ' }), " ")
}

// dotted is an action of the common vocabulary made of a provider's words.
func dotted(parts ...string) string {
	var out []string
	for _, p := range parts {
		p = strings.ToLower(strings.Join(strings.FieldsFunc(p, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.')
		}), "_"))
		if p != "" {
			out = append(out, p)
		}
	}
	return cut(strings.Join(out, "."), maxField)
}

// generic is any other webhook. What it says of itself is in its headers; its body is whatever it is.
func generic(d *Delivery, kind string, scheme *Scheme, h http.Header, body []byte) (event.Shape, error) {
	if kind == Standard {
		d.ID = h.Get("Webhook-Id")
	} else if scheme != nil {
		if scheme.Delivery != "" {
			d.ID = h.Get(scheme.Delivery)
		}
		if scheme.Event != "" {
			d.Name = clip(h.Get(scheme.Event))
		}
	}
	var b struct{ Type, Event, Action, ID, Message text }
	if len(bytes.TrimSpace(body)) > 0 && bytes.TrimSpace(body)[0] == '{' {
		_ = json.Unmarshal(body, &b) // what is no JSON has no members
	}
	for _, name := range []text{b.Type, b.Event, b.Action} {
		if d.Name == "" {
			d.Name = string(name)
		}
	}
	level, err := scheme.level()
	if err != nil {
		return event.Shape{}, err
	}
	d.Event.Level, d.Event.Message = level, "webhook received"
	if d.Name != "" {
		d.Event.Message = "webhook received: " + words(d.Name)
	}
	extra := immutable.Fields{}
	put(extra, "text", b.Message)
	put(extra, "contentType", clip(h.Get("Content-Type")))
	return event.Shape{Kind: event.KindAPI, Action: dotted(d.Name), Extra: extra}, nil
}

// Same says whether two bodies under one delivery id are the same delivery: byte for byte, or but for what providers count up in
// each attempt, and for how the JSON is spelled. Bodies of a megabyte and more are compared as bytes.
func Same(kind string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if len(a) > 1<<20 || len(b) > 1<<20 {
		return false
	}
	x, errA := canonical(kind, a)
	y, errB := canonical(kind, b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// perAttempt are the members that differ between two attempts at one delivery.
var perAttempt = map[string][]string{Notion: {"attempt_number"}, Linear: {"webhookTimestamp"}, Stripe: {"pending_webhooks"}}

func canonical(kind string, body []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	for _, name := range perAttempt[kind] {
		delete(m, name)
	}
	return json.Marshal(m)
}

// payload is the JSON of a GitHub body, which may be a form.
func payload(h http.Header, body []byte) ([]byte, error) {
	if kind, _, err := mime.ParseMediaType(h.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return body, nil //nolint:nilerr // what has no readable type is taken for JSON, which is what GitHub sends by default
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form["payload"]) != 1 {
		return nil, refuse(ReasonMalformed, "the form has not exactly one payload")
	}
	return []byte(form["payload"][0]), nil
}

func hasPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// Reduce leaves of the event only what every delivery has: for the one whose fields take more than an entry holds.
func (d *Delivery) Reduce() {
	f := immutable.Fields{}
	for _, name := range []string{KeyDelivery, event.KeyKind, event.KeyAction, event.KeySource, event.KeyOutcome} {
		if v, ok := d.Event.Metadata[name]; ok {
			f[name] = v
		}
	}
	d.Event.Metadata = f
}

// partBytes is what one part of a body may take as JSON, within event.RawLimit.
const partBytes = 46 << 10

// Split cuts a body that has no place in an entry into parts that have, at the boundaries of characters where it is UTF-8. The same
// body has the same parts.
func Split(body []byte) [][]byte {
	valid := utf8.Valid(body)
	var parts [][]byte
	for len(body) > 0 {
		n, cost := 0, 0
		for n < len(body) {
			c := 1
			switch b := body[n]; {
			case b < ' ' || b == 0x7f || b == 0xc2: // 0xc2 begins the control characters of Latin-1
				c = 6
			case b == '"' || b == '\\':
				c = 2
			}
			if cost+c > partBytes || !valid && n == partBytes/4*3 {
				break
			}
			n, cost = n+1, cost+c
		}
		if valid && n < len(body) {
			for !utf8.RuneStart(body[n]) {
				n--
			}
		}
		parts, body = append(parts, body[:n]), body[n:]
	}
	return parts
}
