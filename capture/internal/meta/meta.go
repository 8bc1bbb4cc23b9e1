// Package meta writes an event's metadata as JSON, for adapters on whose path the maps of package event would cost too much.
package meta

import (
	"encoding/json"
	"math"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/event"
)

// Object is a JSON object that is being written. Empty text and numbers that are zero are left out. Names are written as they are: they
// are constants of the program that need no escape, and each stands once.
type Object struct{ buf []byte } // the last byte is '{' only where an object has just begun

// maxKept is the largest buffer that is used again.
const maxKept = 64 << 10

var pool = sync.Pool{New: func() any { return &Object{make([]byte, 0, 2<<10)} }}

// New begins an object.
func New() *Object {
	o := pool.Get().(*Object)
	o.buf = append(o.buf[:0], '{')
	return o
}

// Free gives the object's memory to others: neither it nor what Bytes returned is used after it.
func (o *Object) Free() {
	if cap(o.buf) <= maxKept {
		pool.Put(o)
	}
}

// Bytes ends the object and returns it.
func (o *Object) Bytes() []byte {
	o.buf = append(o.buf, '}')
	return o.buf
}

func (o *Object) name(name string) {
	if o.buf[len(o.buf)-1] != '{' {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, '"', ':')
}

// Open begins an object in the object; Close ends it.
func (o *Object) Open(name string) {
	o.name(name)
	o.buf = append(o.buf, '{')
}

// Close ends what Open began.
func (o *Object) Close() { o.buf = append(o.buf, '}') }

// Begin opens an object under a name that may be anything.
func (o *Object) Begin(name string) {
	o.any(name)
	o.buf = append(o.buf, '{')
}

// any is name for what others have named.
func (o *Object) any(name string) {
	if o.buf[len(o.buf)-1] != '{' {
		o.buf = append(o.buf, ',')
	}
	o.buf = append(appendText(o.buf, name), ':')
}

// PutText writes a string under a name that may be anything, also an empty one.
func (o *Object) PutText(name, value string) {
	o.any(name)
	o.buf = appendText(o.buf, value)
}

// PutInt writes a number under a name that may be anything.
func (o *Object) PutInt(name string, value int64) {
	o.any(name)
	o.buf = strconv.AppendInt(o.buf, value, 10)
}

// PutFloat writes a number, which is finite, under a name that may be anything.
func (o *Object) PutFloat(name string, value float64) {
	o.any(name)
	o.buf = strconv.AppendFloat(o.buf, value, 'f', -1, 64)
}

// PutBool writes a truth under a name that may be anything.
func (o *Object) PutBool(name string, value bool) {
	o.any(name)
	o.buf = strconv.AppendBool(o.buf, value)
}

// PutRaw writes JSON under a name that may be anything.
func (o *Object) PutRaw(name string, value []byte) {
	o.any(name)
	o.buf = append(o.buf, value...)
}

// Texts writes a list of strings, also an empty one.
func (o *Object) Texts(name string, values []string) {
	o.name(name)
	o.buf = append(o.buf, '[')
	for i, v := range values {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		o.buf = appendText(o.buf, v)
	}
	o.buf = append(o.buf, ']')
}

// Text writes a string, with U+FFFD for what is not UTF-8.
func (o *Object) Text(name, value string) {
	if value != "" {
		o.name(name)
		o.buf = appendText(o.buf, value)
	}
}

// Int writes a number.
func (o *Object) Int(name string, value int64) {
	if value != 0 {
		o.name(name)
		o.buf = strconv.AppendInt(o.buf, value, 10)
	}
}

// Count writes a number, also if it is zero.
func (o *Object) Count(name string, value int64) {
	o.name(name)
	o.buf = strconv.AppendInt(o.buf, value, 10)
}

// Float writes a number, if it is one.
func (o *Object) Float(name string, value float64) {
	if value != 0 && !math.IsInf(value, 0) && !math.IsNaN(value) {
		o.name(name)
		o.buf = strconv.AppendFloat(o.buf, value, 'f', -1, 64)
	}
}

// True writes true, or nothing.
func (o *Object) True(name string, value bool) {
	if value {
		o.name(name)
		o.buf = append(o.buf, "true"...)
	}
}

// Raw writes a value that is JSON already.
func (o *Object) Raw(name string, value []byte) {
	if len(value) > 0 {
		o.name(name)
		o.buf = append(o.buf, value...)
	}
}

// Any writes what encoding/json makes of a value, or nothing.
func (o *Object) Any(name string, value any) {
	if data, err := json.Marshal(value); err == nil {
		o.Raw(name, data)
	}
}

// Shape writes the well-known members of a shape; its Extra is for its caller.
func (o *Object) Shape(s *event.Shape) {
	o.Text(event.KeyKind, string(s.Kind))
	o.Text(event.KeyAction, s.Action)
	o.Text(event.KeyOutcome, string(s.Outcome))
	o.Text(event.KeyReason, s.Reason)
	if a := s.Actor; a != nil && *a != (event.Actor{}) {
		o.Open(event.KeyActor)
		o.Text("type", a.Type)
		o.Text("id", a.ID)
		o.Text("name", a.Name)
		o.Text("email", a.Email)
		o.Text("session", a.Session)
		o.Close()
	}
	if t := s.Target; t != nil && *t != (event.Target{}) {
		o.Open(event.KeyTarget)
		o.Text("type", t.Type)
		o.Text("id", t.ID)
		o.Text("name", t.Name)
		o.Close()
	}
	if c := s.Source; c != nil && *c != (event.Source{}) {
		o.Open(event.KeySource)
		o.Text("ip", c.IP)
		o.Int("port", int64(c.Port))
		o.Text("host", c.Host)
		o.Text("userAgent", c.UserAgent)
		o.Text("provider", c.Provider)
		o.Close()
	}
	if r := s.Request; r != nil && *r != (event.Request{}) {
		o.Open(event.KeyRequest)
		o.Text("id", r.ID)
		o.Text("method", r.Method)
		o.Text("path", r.Path)
		o.Int("status", int64(r.Status))
		o.Text("traceId", r.TraceID)
		o.Text("spanId", r.SpanID)
		o.Float("durationMs", r.DurationMS)
		o.Close()
	}
}

const hexDigits = "0123456789abcdef"

func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			dst = append(append(dst, s[from:i]...), "\uFFFD"...)
			i++
			from = i
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}
