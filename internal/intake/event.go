package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// ParseEvent reads an event of ours from one JSON object: the members of own, hostname, pid and producer, and no others. Unlike
// what files may hold, nothing is taken for foreign: a member that is not known, or stands twice, is an error. So is null. It
// checks names, types and strings; the log checks the rest when the event is appended. The event refers to raw.
//
// An error that is about one member is an *entry.FieldError; any other is about the JSON around them.
func ParseEvent(raw []byte, e *entry.Event) error {
	if !isObject(raw) {
		return errors.New("want a JSON object, which begins with {")
	}
	m := members{strict: true}
	if err := m.scan(raw); err != nil {
		return err
	}
	if m.foreign {
		if m.twice {
			return &entry.FieldError{Field: printable(m.stranger), Offset: -1, Msg: "the member stands twice"}
		}
		return &entry.FieldError{Field: printable(m.stranger), Offset: -1, Msg: "no member of an event has this name; there are message, level, metadata, eventTime, hostname, pid, traceId, spanId, idempotencyKey, producer"}
	}
	return m.strictly(e)
}

func isObject(raw []byte) bool { return len(raw) > 0 && raw[0] == '{' }

// printable is a member's name as it is spelled, shortened.
func printable(name []byte) string {
	return string(bytes.ToValidUTF8(name[:min(len(name), 64)], []byte("\uFFFD")))
}

// strictly fills the event.
func (m *members) strictly(e *entry.Event) error {
	if m.event[ownMessage] == nil {
		return wrong(ownMessage, "is missing: every event has one, a string")
	}
	for _, s := range [...]struct {
		member int
		to     *string
	}{{ownMessage, &e.Message}, {ownTraceID, &e.TraceID}, {ownSpanID, &e.SpanID}, {ownKey, &e.IdempotencyKey}, {ownHostname, &e.Hostname}} {
		v := m.event[s.member]
		if v == nil {
			continue
		}
		if v[0] != '"' {
			return wrong(s.member, "want a string")
		}
		var err error
		if *s.to, err = entry.Unquote(v); err != nil {
			return under(s.member, err)
		}
	}
	if v := m.event[ownMetadata]; v != nil && v[0] != '{' {
		return wrong(ownMetadata, "want an object")
	}
	e.RawMetadata = m.event[ownMetadata]
	if v := m.event[ownLevel]; v != nil {
		var err error
		if e.Level, err = parseLevel(v); err != nil {
			return wrong(ownLevel, err.Error())
		}
	}
	if v := m.event[ownEventTime]; v != nil {
		var err error
		if e.EventTime, err = ParseTime(text(v)); err != nil || v[0] != '"' {
			return wrong(ownEventTime, "want a time such as 2026-01-02T15:04:05.678Z")
		}
	}
	if v := m.event[ownPID]; v != nil {
		pid, err := strconv.ParseUint(string(v), 10, 32)
		if err != nil || strconv.FormatUint(pid, 10) != string(v) {
			return wrong(ownPID, fmt.Sprintf("want a whole number up to %d", uint32(math.MaxUint32)))
		}
		e.PID = uint32(pid)
	}
	if v := m.event[ownProducer]; v != nil {
		return m.producer(v, e)
	}
	return nil
}

// parseLevel reads a level's name without making a string of the usual ones.
func parseLevel(v []byte) (entry.Level, error) {
	if len(v) > 2 && v[0] == '"' && v[len(v)-1] == '"' {
		for l := range entry.Level(entry.NumLevels) {
			if string(v[1:len(v)-1]) == l.String() {
				return l, nil
			}
		}
	}
	if v[0] != '"' {
		return 0, errors.New("want a string, the name of a level")
	}
	return entry.ParseLevel(text(v))
}

// producer reads the source's signature, which is rare.
func (m *members) producer(v []byte, e *entry.Event) error {
	const want = "want an object with key (16 hex digits), counter (a whole number) and signature (base64), each once"
	if !isObject(v) {
		return wrong(ownProducer, want)
	}
	var p entry.Producer
	left := map[string]any{"key": &p.Key, "counter": &p.Counter, "signature": &p.Signature}
	d := json.NewDecoder(bytes.NewReader(v))
	_, err := d.Token()
	for err == nil && d.More() {
		var name json.Token
		if name, err = d.Token(); err != nil {
			break
		}
		to := left[name.(string)] // nothing else stands where a name does
		if to == nil {
			return wrong(ownProducer, want)
		}
		delete(left, name.(string))
		err = d.Decode(to)
	}
	if err != nil || len(left) > 0 {
		return wrong(ownProducer, want)
	}
	if _, err = d.Token(); err != nil { // the closing brace
		return wrong(ownProducer, want)
	}
	e.Producer = &p
	return nil
}

func wrong(member int, msg string) error {
	return &entry.FieldError{Field: ownNamesText[member], Offset: -1, Msg: msg}
}

// under names the member in an error of entry.Unquote.
func under(member int, err error) error {
	if e, ok := errors.AsType[*entry.FieldError](err); ok {
		return &entry.FieldError{Field: ownNamesText[member], Offset: e.Offset, Msg: e.Msg}
	}
	return err
}

var ownNamesText = [ownNames]string{
	ownLevel: "level", ownMessage: "message", ownMetadata: "metadata", ownEventTime: "eventTime", ownTraceID: "traceId", ownSpanID: "spanId",
	ownKey: "idempotencyKey", ownHostname: "hostname", ownPID: "pid", ownProducer: "producer",
}

// EachEvent calls f with the bytes of each element of a JSON array, from the first. What stands between them is checked.
func EachEvent(raw []byte, f func(element []byte) error) error {
	p := space(raw, 0)
	if p >= len(raw) || raw[p] != '[' {
		return errors.New("want a JSON array, which begins with [")
	}
	p = space(raw, p+1)
	if p < len(raw) && raw[p] == ']' {
		return arrayEnd(raw, p+1)
	}
	for {
		end, ok := skipValue(raw, p)
		if !ok {
			return fault(raw, end, "a value")
		}
		if err := f(raw[p:end]); err != nil {
			return err
		}
		if p = space(raw, end); p >= len(raw) || raw[p] != ',' && raw[p] != ']' {
			return fault(raw, p, "a comma or ]")
		}
		if raw[p] == ']' {
			return arrayEnd(raw, p+1)
		}
		p = space(raw, p+1)
	}
}

func arrayEnd(raw []byte, p int) error {
	if p = space(raw, p); p != len(raw) {
		return fmt.Errorf("byte %d: bytes after the JSON array", p)
	}
	return nil
}
