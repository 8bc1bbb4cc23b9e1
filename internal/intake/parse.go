package intake

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// parser makes events of a chunk's records. Each goroutine has its own.
type parser struct {
	o *Options
}

func (p *parser) chunk(c *Chunk) {
	if c.lines() {
		p.lines(c)
		return
	}
	for i, s := range c.spans {
		r := Record{Number: c.first + uint64(i), Err: s.err}
		if s.err == nil && p.o.Bytes {
			r.Bytes = c.buf[s.from:s.to]
		} else if s.err == nil {
			p.object(&r, c.buf[s.from:s.to], c.trail)
		}
		c.Records = append(c.Records, r)
	}
}

// lines reports whether buf holds lines; otherwise spans says where the values are.
func (c *Chunk) lines() bool { return len(c.spans) == 0 }

func (p *parser) lines(c *Chunk) {
	number := c.first
	for rest := c.buf; len(rest) > 0; number++ {
		line, after, _ := bytes.Cut(rest, newline)
		rest = after
		r := Record{Number: number}
		if p.o.Bytes {
			if r.Bytes = line; !c.text && len(bytes.TrimSpace(line)) == 0 {
				continue
			}
		} else if c.text {
			p.text(&r, line)
		} else {
			if number == 1 {
				line = bytes.TrimPrefix(line, bom)
			}
			if line = bytes.Trim(line, " \t\r"); len(line) == 0 {
				continue
			}
			if p.o.Events {
				r.Err = ParseEvent(line, &r.Event)
			} else {
				p.object(&r, line, false)
			}
		}
		c.Records = append(c.Records, r)
	}
}

// text makes a line the message. Bytes that are not UTF-8 have no place in a JSON string: the message shows U+FFFD for
// them, and metadata keeps the line.
func (p *parser) text(r *Record, line []byte) {
	r.Event.Level = p.o.Level
	if utf8.Valid(line) {
		r.Event.Message = string(line)
		return
	}
	r.Event.Message = strings.ToValidUTF8(string(line), "\uFFFD")
	r.Event.RawMetadata = fmt.Appendf(nil, `{"raw_base64":"%s"}`, base64.StdEncoding.EncodeToString(line))
}

// maxDerived is how much of a member becomes the message of a foreign object, in bytes; the whole stands in its metadata.
const maxDerived = 1024

// messageNames are the members of foreign objects that make a message, the first of them that is a non-empty string.
var messageNames = [...]string{"message", "msg", "eventName", "event", "eventType", "type", "action", "verb", "kind", "name"}

// The members of an event of ours.
const (
	ownLevel = iota
	ownMessage
	ownMetadata
	ownEventTime
	ownTraceID
	ownSpanID
	ownKey
	ownHostname // this and what follows in strict reading only, see ParseEvent
	ownPID
	ownProducer
	ownNames
)

// object makes an event of a JSON object: of one in our own shape, what it says; of any other, the object itself as metadata.
func (p *parser) object(r *Record, raw []byte, trail bool) {
	e := &r.Event
	e.Level = p.o.Level
	var m members
	if err := m.scan(raw); err != nil {
		r.Err = err
		return
	}
	if p.o.LevelField == "" && p.o.MessageField == "" && p.o.TimeField == "" && m.isOwn() {
		r.Err = m.own(e)
		return
	}
	e.RawMetadata = raw
	e.Message = p.message(raw, &m)
	if p.o.LevelField != "" {
		if l, ok := foreignLevel(text(find(raw, p.o.LevelField))); ok {
			e.Level = l
		}
	} else if p.o.NamedLevel {
		if l, err := entry.ParseLevel(text(find(raw, "level"))); err == nil {
			e.Level = l
		}
	}
	field := p.o.TimeField
	if field == "" && trail {
		field = "eventTime"
	}
	if field != "" {
		var ok bool
		if e.EventTime, ok = foreignTime(find(raw, field)); !ok {
			r.NoTime = p.o.TimeField != ""
		}
	}
}

func (p *parser) message(raw []byte, m *members) string {
	if p.o.MessageField != "" {
		v := find(raw, p.o.MessageField)
		if s := text(v); s != "" || len(v) == 0 || v[0] == '"' {
			return shorten(s)
		}
		return shorten(string(v)) // a number or object, as it is spelled
	}
	for _, v := range m.messages {
		if s := text(v); s != "" {
			return shorten(s)
		}
	}
	return ""
}

// shorten cuts s between characters.
func shorten(s string) string {
	if len(s) <= maxDerived {
		return s
	}
	n := maxDerived - len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// text is the value of a JSON string, or "".
func text(raw []byte) string {
	if len(raw) == 0 || raw[0] != '"' {
		return ""
	}
	s, err := entry.Unquote(raw)
	if err != nil {
		return "" // the log refuses the object that holds it, and says where
	}
	return s
}

// members is what a look at an object's outermost members finds.
type members struct {
	strict   bool   // only events of ours are wanted
	foreign  bool   // there is a member that no event of ours has, or one twice
	twice    bool   // the first of these stands twice; strict only
	stranger []byte // its name; strict only
	event    [ownNames][]byte
	messages [len(messageNames)][]byte
}

// scan passes over an object's members. It checks no more than it needs to find them: the log checks the rest. What it accepts
// as an event of ours, it has checked down to the values.
func (m *members) scan(raw []byte) error {
	if len(raw) == 0 || raw[0] != '{' {
		return errors.New("want a JSON object, which begins with {; --format text takes lines as they are")
	}
	p := space(raw, 1)
	if p < len(raw) && raw[p] == '}' {
		return m.end(raw, p+1)
	}
	for {
		if p >= len(raw) || raw[p] != '"' {
			return fault(raw, p, "a member name in quotes")
		}
		nameEnd, ok := skipString(raw, p)
		if !ok {
			return fault(raw, len(raw), "the end of a string")
		}
		name := raw[p+1 : nameEnd-1]
		if p = space(raw, nameEnd); p >= len(raw) || raw[p] != ':' {
			return fault(raw, p, "a colon")
		}
		p = space(raw, p+1)
		end, ok := skipValue(raw, p)
		if !ok {
			return fault(raw, end, "a value")
		}
		m.add(name, raw[p:end])
		if p = space(raw, end); p >= len(raw) || raw[p] != ',' && raw[p] != '}' {
			return fault(raw, p, "a comma or }")
		}
		if raw[p] == '}' {
			return m.end(raw, p+1)
		}
		p = space(raw, p+1)
	}
}

func (m *members) end(raw []byte, p int) error {
	if p = space(raw, p); p != len(raw) {
		return fmt.Errorf("byte %d: bytes after the JSON object", p)
	}
	return nil
}

func fault(raw []byte, p int, want string) error {
	if p >= len(raw) {
		return fmt.Errorf("the JSON ends where %s should be", want)
	}
	return fmt.Errorf("byte %d: want %s, not %q", p, want, raw[p])
}

func (m *members) add(name, value []byte) {
	own := -1
	switch string(name) {
	case "level":
		own = ownLevel
	case "message":
		own = ownMessage
	case "metadata":
		own = ownMetadata
	case "eventTime":
		own = ownEventTime
	case "traceId":
		own = ownTraceID
	case "spanId":
		own = ownSpanID
	case "idempotencyKey":
		own = ownKey
	case "hostname":
		own = ownHostname
	case "pid":
		own = ownPID
	case "producer":
		own = ownProducer
	}
	switch {
	case m.strict && !m.foreign && (own < 0 || m.event[own] != nil):
		m.foreign, m.twice, m.stranger = true, own >= 0, name
	case own < 0 || own >= ownHostname && !m.strict || m.event[own] != nil:
		m.foreign = true
	default:
		m.event[own] = value
	}
	if m.strict {
		return
	}
	if len(name) <= len("eventName") {
		for i, want := range messageNames {
			if string(name) == want && m.messages[i] == nil {
				m.messages[i] = value
				return
			}
		}
	}
}

// isOwn reports whether the object has the shape of an event: a message that is a string, nothing but an event's members, and
// those that a foreign object may have under the same name in our form.
func (m *members) isOwn() bool {
	if m.foreign || len(m.event[ownMessage]) == 0 || m.event[ownMessage][0] != '"' {
		return false
	}
	if v := m.event[ownMetadata]; v != nil && v[0] != '{' {
		return false
	}
	if v := m.event[ownLevel]; v != nil {
		if _, err := entry.ParseLevel(text(v)); err != nil {
			return false
		}
	}
	return true
}

// own fills the event from an object of our shape.
func (m *members) own(e *entry.Event) error {
	for i, to := range [ownNames]*string{ownMessage: &e.Message, ownTraceID: &e.TraceID, ownSpanID: &e.SpanID, ownKey: &e.IdempotencyKey} {
		if to == nil || m.event[i] == nil {
			continue
		}
		s, err := entry.Unquote(m.event[i])
		if err != nil {
			return fmt.Errorf("%s: %w", [ownNames]string{ownMessage: "message", ownTraceID: "traceId", ownSpanID: "spanId", ownKey: "idempotencyKey"}[i], err)
		}
		*to = s
	}
	e.RawMetadata = m.event[ownMetadata]
	if v := m.event[ownLevel]; v != nil {
		e.Level, _ = entry.ParseLevel(text(v)) // isOwn has read it
	}
	if v := m.event[ownEventTime]; v != nil {
		var ok bool
		if e.EventTime, ok = foreignTime(v); !ok || v[0] != '"' {
			return errors.New("eventTime: want a time such as 2026-01-02T15:04:05.678Z")
		}
	}
	return nil
}

// find returns the member of raw that name leads to, or nil: first a member of that very name, then a path with dots.
func find(raw []byte, name string) []byte {
	if v := member(raw, name); v != nil {
		return v
	}
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		if v := member(raw, name[:i]); len(v) > 0 && v[0] == '{' {
			if found := find(v, name[i+1:]); found != nil {
				return found
			}
		}
	}
	return nil
}

func member(raw []byte, name string) []byte {
	p := space(raw, 1)
	for p < len(raw) && raw[p] == '"' {
		nameEnd, ok := skipString(raw, p)
		if !ok {
			return nil
		}
		body := raw[p+1 : nameEnd-1]
		same := string(body) == name
		if !same && bytes.IndexByte(body, '\\') >= 0 {
			same = text(raw[p:nameEnd]) == name
		}
		p = space(raw, nameEnd)
		p = space(raw, p+1)
		end, ok := skipValue(raw, p)
		if !ok {
			return nil
		}
		if same {
			return raw[p:end]
		}
		p = space(raw, end)
		p = space(raw, p+1)
	}
	return nil
}

func space(b []byte, p int) int {
	for p < len(b) && (b[p] == ' ' || b[p] == '\n' || b[p] == '\t' || b[p] == '\r') {
		p++
	}
	return p
}

// skipString returns the offset after the string whose quote is at p.
func skipString(b []byte, p int) (end int, ok bool) {
	for p++; p < len(b); p++ {
		switch b[p] {
		case '"':
			return p + 1, true
		case '\\':
			p++
		}
	}
	return len(b), false
}

// skipValue returns the offset after the value at p, going by brackets and strings only.
func skipValue(b []byte, p int) (end int, ok bool) {
	if p >= len(b) {
		return len(b), false
	}
	switch b[p] {
	case '"':
		return skipString(b, p)
	case '{', '[':
	default:
		from := p
		for p < len(b) && b[p] != ',' && b[p] != '}' && b[p] != ']' && b[p] > ' ' {
			p++
		}
		return p, p > from
	}
	for depth := 0; p < len(b); p++ {
		switch b[p] {
		case '"':
			if p, ok = skipString(b, p); !ok {
				return p, false
			}
			p--
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return p + 1, true
			}
		}
	}
	return len(b), false
}

// Check says why the log would refuse the event, or nil.
func Check(e *entry.Event) error {
	_, err := entry.Append(nil, e)
	return err
}
