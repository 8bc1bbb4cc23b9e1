// Package entry writes and reads the entry line, the one encoding of a log entry (docs/format.md, "Entry").
//
// Every line that [Append] and [Patch] make is accepted by [Decode], and Decode accepts nothing that a writer of
// this format could not have made: one order of members, one spelling of our strings, no whitespace. Both are total
// and bounded: no input makes them panic, recurse deeper than [MaxDepth] or work much beyond [MaxLine] bytes.
package entry

import (
	"fmt"
	"strings"
	"time"
)

// Limits of the entry line. They are part of the format; never change.
const (
	MaxLine     = 65535 // bytes of a line without its newline
	MaxDepth    = 128   // nesting of objects and arrays; the outermost object is 1
	MaxHostname = 255   // bytes, decoded
	MaxKey      = 256   // bytes of an idempotency key, decoded
)

// Fields is metadata as Go values. Keys are written in byte order, at every depth.
type Fields map[string]any

// Event is what the source of an entry says; the log adds id and timestamp. The zero value of a field that the format
// calls optional leaves the member out.
type Event struct {
	Level   Level
	Message string
	// Metadata holds nil, bool, numbers, string, []byte (base64), time.Time (RFC 3339, UTC), time.Duration and error
	// (their text), json.Number, json.RawMessage, and maps with string keys, slices, arrays and pointers of all of
	// these. Values with a MarshalJSON or MarshalText method, and structs, are written as encoding/json writes them.
	// A String method is not used. Nil maps, slices and pointers become null.
	Metadata Fields
	// RawMetadata is a JSON object. It wins over Metadata; whitespace outside strings goes, all other bytes stay.
	RawMetadata []byte
	Hostname    string
	PID         uint32
	// EventTime is when the source says it happened, to the nanosecond. The zero Time means unknown.
	EventTime time.Time
	// TraceID and SpanID are 32 and 16 lower-case hex digits (W3C Trace Context), not all zero.
	TraceID, SpanID string
	// IdempotencyKey makes a repeated append return the first receipt.
	IdempotencyKey string
	// Producer is the source's signature over the rest of the event; whoever sets it sets Hostname and PID too.
	Producer *Producer
	// Log is a control object. Only the log's own code sets it; Level must be System.
	Log []byte
}

// FieldError says which field was refused, where and why. Append, Decode and AppendString return no other type.
type FieldError struct {
	// Field is a path such as metadata.user.tags[3]; empty when the value is not part of a named field.
	Field string
	// Offset is in bytes: in the Go string for a string, in the JSON text for raw JSON, in the line for Decode.
	// It is -1 where no single byte is at fault.
	Offset int
	Msg    string
}

func (e *FieldError) Error() string {
	switch {
	case e.Field == "" && e.Offset < 0:
		return e.Msg
	case e.Field == "":
		return fmt.Sprintf("byte %d: %s", e.Offset, e.Msg)
	case e.Offset < 0:
		return e.Field + ": " + e.Msg
	}
	return fmt.Sprintf("%s: byte %d: %s", e.Field, e.Offset, e.Msg)
}

// The fixed parts of a line. Offsets of id and timestamp never change, so that Patch can write them in place.
const (
	idStart   = len(`{"id":"`)
	timeStart = idStart + 36 + len(`","timestamp":"`)
	levelText = timeStart + 30 + len(`","level":"`)
	minLine   = len(head) + len(`INFO","message":"","metadata":{},"hostname":"","pid":0}`)

	// head is what Patch(line, 0, 0, 0) writes: a line is decodable before it is patched.
	head = `{"id":"00000000-0000-7000-8000-000000000000","timestamp":"1970-01-01T00:00:00.000000000Z","level":"`
)

// Append appends the line of e, without a newline and with zeros for id and timestamp, which Patch fills in. On error,
// always a *FieldError, it returns dst as it was.
func Append(dst []byte, e *Event) ([]byte, error) {
	out, err := appendLine(dst, e)
	if err != nil {
		return dst, err
	}
	return out, nil
}

func appendLine(dst []byte, e *Event) ([]byte, *FieldError) {
	start := len(dst)
	limit := start + MaxLine
	if e.Level >= NumLevels {
		return dst, fault("level", -1, fmt.Sprintf("%d is no level; levels are 0 (INFO) to 7 (SYSTEM)", e.Level))
	}
	if len(e.Message) > MaxLine {
		return dst, fault("message", -1, fmt.Sprintf("%d bytes; a whole entry takes at most %d: shorten it or split it", len(e.Message), MaxLine))
	}
	if len(e.Hostname) > MaxHostname {
		return dst, fault("hostname", -1, fmt.Sprintf("%d bytes; at most %d", len(e.Hostname), MaxHostname))
	}
	var err *FieldError
	dst = append(dst, head...)
	dst = append(dst, levelNames[e.Level]...)
	dst = append(dst, `","message":`...)
	if dst, err = appendText(dst, e.Message, "message"); err != nil {
		return dst, err
	}
	dst = append(dst, `,"metadata":`...)
	if len(e.RawMetadata) > 0 {
		dst, err = appendRaw(dst, e.RawMetadata, limit, 1, true)
	} else if len(e.Metadata) == 0 {
		dst = append(dst, `{}`...)
	} else {
		dst, err = appendMap(dst, limit, e.Metadata, 1)
	}
	if err != nil {
		return dst, err.under("metadata")
	}
	dst = append(dst, `,"hostname":`...)
	if dst, err = appendText(dst, e.Hostname, "hostname"); err != nil {
		return dst, err
	}
	dst = append(dst, `,"pid":`...)
	dst = appendUint(dst, uint64(e.PID))
	if dst, err = appendOptional(dst, limit, e); err != nil {
		return dst, err
	}
	dst = append(dst, '}')
	if n := len(dst) - start; n > MaxLine {
		return dst, tooLarge()
	}
	return dst, nil
}

// appendOptional appends the members that may be absent, in the order of the format.
func appendOptional(dst []byte, limit int, e *Event) ([]byte, *FieldError) {
	var err *FieldError
	if !e.EventTime.IsZero() {
		dst = append(dst, `,"eventTime":`...)
		if dst, err = appendTime(dst, e.EventTime); err != nil {
			return dst, err.under("eventTime")
		}
	}
	if e.TraceID != "" {
		if at, msg := badHex(e.TraceID, 32); msg != "" {
			return dst, fault("traceId", at, msg)
		}
		dst = append(dst, `,"traceId":"`...)
		dst = append(dst, e.TraceID...)
		dst = append(dst, '"')
	}
	if e.SpanID != "" {
		if at, msg := badHex(e.SpanID, 16); msg != "" {
			return dst, fault("spanId", at, msg)
		}
		dst = append(dst, `,"spanId":"`...)
		dst = append(dst, e.SpanID...)
		dst = append(dst, '"')
	}
	if e.IdempotencyKey != "" {
		if len(e.IdempotencyKey) > MaxKey {
			return dst, fault("idempotencyKey", -1, fmt.Sprintf("%d bytes; at most %d: use a hash of it", len(e.IdempotencyKey), MaxKey))
		}
		dst = append(dst, `,"idempotencyKey":`...)
		if dst, err = appendText(dst, e.IdempotencyKey, "idempotencyKey"); err != nil {
			return dst, err
		}
	}
	if e.Producer != nil {
		if e.Log != nil {
			return dst, fault("producer", -1, "a control entry carries no producer's signature")
		}
		dst = append(dst, `,"producer":`...)
		if dst, err = appendProducer(dst, e.Producer); err != nil {
			return dst, err
		}
	}
	if e.Log != nil {
		if e.Level != System {
			return dst, fault("log", -1, "control entries have level SYSTEM, not "+e.Level.String())
		}
		dst = append(dst, `,"log":`...)
		at := len(dst)
		if dst, err = appendRaw(dst, e.Log, limit, 1, true); err != nil {
			return dst, err.under("log")
		}
		if !isControl(dst[at:]) {
			return dst, fault("log", -1, controlWant)
		}
	}
	return dst, nil
}

func appendText(dst []byte, s, field string) ([]byte, *FieldError) {
	dst, bad := appendQuoted(dst, s)
	if bad >= 0 {
		return dst, fault(field, bad, invalidUTF8)
	}
	return dst, nil
}

const controlWant = `a control object begins {"type":"…"`

// isControl reports whether a valid, compact object has a first member "type" that is a string.
func isControl(object []byte) bool { return hasAt(object, 0, `{"type":"`) }

const invalidUTF8 = "invalid UTF-8; JSON text is UTF-8, so encode other bytes, for example as base64"

func fault(field string, offset int, msg string) *FieldError {
	return &FieldError{Field: field, Offset: offset, Msg: msg}
}

func tooLarge() *FieldError {
	return fault("", -1, fmt.Sprintf("the entry takes more than %d bytes: shorten it or split it", MaxLine))
}

// under puts the path segment name in front of the path.
func (e *FieldError) under(name string) *FieldError {
	// Of a long path the outermost name and the innermost ones are kept.
	if len(e.Field) > 256 {
		e.Field = "…" + strings.ToValidUTF8(e.Field[len(e.Field)-128:], "")
	}
	switch {
	case e.Field == "":
		e.Field = name
	case e.Field[0] == '[':
		e.Field = name + e.Field
	default:
		e.Field = name + "." + e.Field
	}
	return e
}

// badHex says what is wrong with s as n lower-case hex digits, not all zero.
func badHex[T string | []byte](s T, n int) (at int, msg string) {
	if len(s) != n {
		return -1, fmt.Sprintf("%d characters; want %d lower-case hex digits", len(s), n)
	}
	zero := true
	for i := range len(s) {
		if lowerHex[s[i]] > 15 {
			return i, fmt.Sprintf("want %d lower-case hex digits", n)
		}
		zero = zero && s[i] == '0'
	}
	if zero {
		return 0, "all zero; W3C Trace Context calls that invalid"
	}
	return 0, ""
}
