package otlp

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Provider is source.provider of every event.
const Provider = "otlp"

const (
	// maxMetadata is what metadata and message may take as JSON: what is left of an entry when everything else that an event of ours
	// has is as long as it can be.
	maxMetadata = immutable.MaxEntryBytes - 2560

	maxNote = 1024     // bytes of an attribute that is taken into the common shape too
	maxCut  = 16 << 10 // bytes of JSON that are kept of what has no place
)

// builders are kept for the next request: what one has room for fits most others.
var builders = sync.Pool{New: func() any { return &builder{} }}

// done gives the builder back, and lets go of what it refers to.
func (b *builder) done() {
	if cap(b.out) > 2*BatchBytes {
		return
	}
	b.reset()
	clear(b.keys[:cap(b.keys)])
	*b = builder{events: b.events, ends: b.ends, out: b.out, resourceJSON: b.resourceJSON, scopeJSON: b.scopeJSON, keys: b.keys[:0]}
	builders.Put(b)
}

// builder makes the events of a batch. What they refer to is its own until reset.
type builder struct {
	events []immutable.Event
	ends   []int32 // where the metadata of each event ends in out; -1 for one that has it as Fields
	out    []byte  // their metadata
	text   int     // bytes of their messages

	resource, scope         []byte // of the present records, as protobuf
	resourceJSON, scopeJSON []byte // as JSON members; made when the first record comes
	resourceDone, scopeDone bool
	resourceOver, scopeOver bool // they are larger than an entry
	host                    string
	pid                     uint32

	limit int      // of out: beyond it nothing more is written, and over says so
	over  bool     //
	keys  [][]byte // room for plain
}

func (b *builder) setResource(m []byte) {
	b.resource, b.resourceDone = m, false
	b.setScope(nil)
}

func (b *builder) setScope(m []byte) { b.scope, b.scopeDone = m, false }

// finish gives the events their metadata, now that out does not grow any more.
func (b *builder) finish() []immutable.Event {
	from := int32(0)
	for i := range b.events {
		if end := b.ends[i]; end >= 0 {
			b.events[i].RawMetadata = b.out[from:end:end]
			from = end
		}
	}
	return b.events
}

func (b *builder) reset() {
	clear(b.events)
	b.events, b.ends, b.out, b.text = b.events[:0], b.ends[:0], b.out[:0], 0
}

// fields is a log record taken apart.
type fields struct {
	message                       []byte // the whole record
	time, observed                uint64
	severity, dropped, flags      uint64
	severityText, body, eventName []byte
	trace, span                   []byte
	hasBody                       bool
	bodyFrom, bodyTo              int    // where the body stands in builder.out, if it is not the message
	unknown                       []byte // fields that this program does not know, as they came
	notes                         notes
}

func (b *builder) record(message []byte) {
	f := fields{message: message}
	for in := (cursor{b: message}); in.next(); {
		switch in.num {
		case recTime:
			f.time = in.u
		case recSeverity:
			f.severity = in.u
		case recSeverityText:
			f.severityText = in.v
		case recBody:
			f.body, f.hasBody = in.v, true
		case recAttributes:
			f.notes.take(in.v)
		case recDropped:
			f.dropped = in.u
		case recFlags:
			f.flags = in.u
		case recTrace:
			f.trace = in.v
		case recSpan:
			f.span = in.v
		case recObserved:
			f.observed = in.u
		case recEventName:
			f.eventName = in.v
		default:
			f.unknown = append(f.unknown, in.raw()...)
		}
	}
	b.shared()
	e := immutable.Event{Level: level(f.severity, f.severityText, f.notes.audit), Hostname: b.host, PID: b.pid, TraceID: hexID(f.trace, 16), SpanID: hexID(f.span, 8)}
	if at := f.time; at != 0 {
		e.EventTime = unix(at)
	} else if at := f.observed; at != 0 {
		e.EventTime = unix(at)
	}
	if id := f.notes.recordID; len(id) > 0 {
		e.IdempotencyKey = recordKey(id)
	}
	start := len(b.out)
	b.limit, b.over = start+maxMetadata, false
	b.metadata(&f)
	text := f.text()
	if len(text) == 0 {
		text = head(b.out[f.bodyFrom:f.bodyTo], maxNote)
	}
	b.over = b.over || len(b.out)-start+jsonSize(text) > maxMetadata
	if b.over {
		b.cut(&e, &f, start, text)
	} else {
		e.Message = strings.ToValidUTF8(string(text), "\uFFFD")
		b.ends = append(b.ends, int32(len(b.out)))
	}
	b.text += len(e.Message)
	b.events = append(b.events, e)
}

// text is what the event's message says: the body where it is a string, else the event's name. Where there is neither, the message
// is the beginning of the body as JSON.
func (f *fields) text() []byte {
	if t := text(f.body); t != nil {
		return t
	}
	return f.eventName
}

// metadata writes the record's metadata. What the record says has its own name as in OTLP/JSON, attributes are objects, and integers
// beyond 2^53 and times are strings of decimal digits.
func (b *builder) metadata(f *fields) {
	b.out = append(b.out, '{')
	b.shape(&f.notes)
	if len(f.eventName) > 0 {
		b.name("eventName")
		b.string(f.eventName)
	}
	if f.severity != 0 {
		b.name("severityNumber")
		b.int(int64(f.severity))
	}
	if len(f.severityText) > 0 {
		b.name("severityText")
		b.string(f.severityText)
	}
	if t := text(f.body); f.hasBody && (t == nil || !utf8.Valid(t)) {
		b.name("body")
		f.bodyFrom = len(b.out)
		b.value(f.body)
		f.bodyTo = len(b.out)
	}
	if f.notes.attributes > 0 {
		b.name("attributes")
		b.pairs(f.message, recAttributes)
	}
	b.number("timeUnixNano", f.time)
	b.number("observedTimeUnixNano", f.observed)
	if f.flags != 0 {
		b.name("flags")
		b.int(int64(f.flags))
	}
	b.dropped(f.dropped)
	for _, id := range [...]struct {
		name  string
		value []byte
		size  int
	}{{"traceId", f.trace, 16}, {"spanId", f.span, 8}} {
		if len(id.value) == 0 || len(id.value) == id.size {
			continue
		}
		b.name(id.name) // it has no place in the entry's own member
		b.over = b.over || len(id.value) > maxNote
		b.out = append(hex.AppendEncode(append(b.out, '"'), id.value[:min(len(id.value), maxNote)]), '"')
	}
	b.unknown(f.unknown)
	b.out = append(b.out, b.scopeJSON...)
	b.out = append(b.out, b.resourceJSON...)
	b.out = append(b.out, '}')
	b.over = b.over || b.resourceOver || b.scopeOver || len(b.out) > b.limit
}

// shared makes what all records of a resource and scope have in common.
func (b *builder) shared() {
	if !b.resourceDone {
		b.resourceDone, b.host, b.pid = true, "", 0
		b.resourceJSON, b.resourceOver = b.describe(b.resourceJSON[:0], "resource", b.resource, resourceFields)
		for r := range subs(b.resource, 1) {
			for kv := range subs(r, resourceFields.attributes) {
				b.origin(kv)
			}
		}
	}
	if !b.scopeDone {
		b.scopeDone = true
		b.scopeJSON, b.scopeOver = b.describe(b.scopeJSON[:0], "scope", b.scope, scopeFields)
	}
}

// origin takes the host and process that a resource names.
func (b *builder) origin(kv []byte) {
	switch key, v := split(kv); string(key) {
	case "host.name":
		if t := text(v); len(t) <= entry.MaxHostname && utf8.Valid(t) {
			b.host = string(t)
		}
	case "process.pid":
		for in := (cursor{b: v}); in.next(); {
			if in.num == anyInt && in.u <= math.MaxUint32 {
				b.pid = uint32(in.u)
			}
		}
	}
}

// describe writes a Resource or an InstrumentationScope, with the schema URL that stands beside it, as a member with the comma before
// it. One that is larger than an entry is cut there, and over says so.
func (b *builder) describe(dst []byte, name string, outer []byte, f described) (out []byte, over bool) {
	w := builder{limit: maxMetadata, keys: b.keys}
	w.out = append(w.out, '{')
	for in := (cursor{b: outer}); in.next(); {
		switch in.num {
		case 1:
			w.describeInner(in.v, f)
		case 3:
			if len(in.v) > 0 {
				w.name("schemaUrl")
				w.string(in.v)
			}
		}
	}
	b.keys = w.keys
	if len(w.out) == 1 {
		return dst, false
	}
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return append(append(dst, w.out...), '}'), w.full()
}

func (b *builder) describeInner(m []byte, f described) {
	var unknown []byte
	attributes := false
	for in := (cursor{b: m}); in.next(); {
		switch in.num {
		case f.name, f.version:
			if len(in.v) > 0 {
				b.name([...]string{"name", "version"}[in.num-f.name])
				b.string(in.v)
			}
		case f.attributes:
			attributes = true
		case f.dropped:
			b.dropped(in.u)
		default:
			unknown = append(unknown, in.raw()...)
		}
	}
	if attributes {
		b.name("attributes")
		b.pairs(m, f.attributes)
	}
	b.unknown(unknown)
}

// cut makes an event of a record that has no place in an entry: its digest, its length and how it begins.
func (b *builder) cut(e *immutable.Event, f *fields, start int, text []byte) {
	head := string(head(b.out[start:], maxCut))
	b.out = b.out[:start]
	f.notes.shorten()
	m := f.notes.shape().Fields()
	event.Raw(m, f.message, 1)
	m[event.KeyRawHead] = head // the beginning of the JSON tells more than that of the protobuf
	if len(f.eventName) > 0 {
		m["eventName"] = cutText(f.eventName, maxNote)
	}
	if f.severity != 0 {
		m["severityNumber"] = int64(f.severity)
	}
	m["observedTimeUnixNano"] = strconv.FormatUint(f.observed, 10)
	e.Message, e.Metadata = cutText(text, maxCut), m
	b.ends = append(b.ends, -1)
}

// Writing JSON. Nothing is written beyond limit.

func (b *builder) full() bool {
	b.over = b.over || len(b.out) > b.limit
	return b.over
}

// name begins a member.
func (b *builder) name(name string) {
	if b.out[len(b.out)-1] != '{' {
		b.out = append(b.out, ',')
	}
	b.out = append(append(append(b.out, '"'), name...), `":`...)
}

func (b *builder) number(name string, v uint64) {
	if v != 0 {
		b.name(name)
		b.out = append(strconv.AppendUint(append(b.out, '"'), v, 10), '"')
	}
}

func (b *builder) dropped(n uint64) {
	if n != 0 {
		b.name("droppedAttributesCount")
		b.int(int64(n))
	}
}

func (b *builder) unknown(fields []byte) {
	if len(fields) > 0 {
		b.name("unknownFields")
		b.base64(fields)
	}
}

func (b *builder) base64(v []byte) {
	if b.full() || len(v) > maxMetadata {
		b.over = true
		b.out = append(b.out, `""`...)
		return
	}
	b.out = append(base64.StdEncoding.AppendEncode(append(b.out, '"'), v), '"')
}

// string writes text; what is no UTF-8 as the bytes that it is.
func (b *builder) string(v []byte) {
	if b.full() {
		b.out = append(b.out, `""`...)
		return
	}
	if len(v) > maxMetadata {
		b.over, v = true, head(v, maxCut)
	}
	if !utf8.Valid(v) {
		b.bytes(v)
		return
	}
	for _, c := range v {
		if c < ' ' || c == '"' || c == '\\' || c == 0x7f || c == 0xc2 {
			out, _ := entry.AppendString(b.out, string(v)) // the error is about UTF-8
			b.out = out
			return
		}
	}
	b.out = append(append(append(b.out, '"'), v...), '"')
}

func (b *builder) bytes(v []byte) {
	b.out = append(b.out, `{"bytesValue":`...)
	b.base64(v)
	b.out = append(b.out, '}')
}

// maxExact is the largest integer that every reader of JSON keeps.
const maxExact = 1<<53 - 1

func (b *builder) int(v int64) {
	if v > maxExact || v < -maxExact {
		b.out = append(strconv.AppendInt(append(b.out, '"'), v, 10), '"')
		return
	}
	b.out = strconv.AppendInt(b.out, v, 10)
}

func (b *builder) double(bits uint64) {
	switch v := math.Float64frombits(bits); {
	case math.IsNaN(v):
		b.out = append(b.out, `"NaN"`...)
	case math.IsInf(v, 1):
		b.out = append(b.out, `"Infinity"`...)
	case math.IsInf(v, -1):
		b.out = append(b.out, `"-Infinity"`...)
	case math.Abs(v) >= 1e21 || v != 0 && math.Abs(v) < 1e-6:
		b.out = strconv.AppendFloat(b.out, v, 'e', -1, 64)
	default:
		b.out = strconv.AppendFloat(b.out, v, 'f', -1, 64)
	}
}

// value writes an AnyValue.
func (b *builder) value(v []byte) {
	var unknown []byte
	for in := (cursor{b: v}); in.next(); {
		switch in.num {
		case anyString:
			b.string(in.v)
		case anyBool:
			b.out = strconv.AppendBool(b.out, in.u != 0)
		case anyInt:
			b.int(int64(in.u))
		case anyDouble:
			b.double(in.u)
		case anyArray:
			b.out = append(b.out, '[')
			first := true
			for e := range subs(in.v, 1) {
				if !first {
					b.out = append(b.out, ',')
				}
				if first = false; b.full() {
					break
				}
				b.value(e)
			}
			b.out = append(b.out, ']')
		case anyMap:
			b.pairs(in.v, 1)
		case anyBytes:
			b.bytes(in.v)
		default:
			unknown = append(unknown, in.raw()...)
			continue
		}
		return
	}
	if len(unknown) > 0 {
		b.out = append(b.out, '{')
		b.unknown(unknown)
		b.out = append(b.out, '}')
		return
	}
	b.out = append(b.out, "null"...)
}

// pairs writes the KeyValues in field num: an object, or, where that has no place for them because a key stands twice, a list of
// objects with key and value.
func (b *builder) pairs(message []byte, num uint32) {
	object := plain(message, num, &b.keys)
	open, end := byte('['), byte(']')
	if object {
		open, end = '{', '}'
	}
	b.out = append(b.out, open)
	first := true
	for kv := range subs(message, num) {
		if b.full() {
			break
		}
		if !first {
			b.out = append(b.out, ',')
		}
		first = false
		key, v := split(kv)
		if object {
			b.string(key)
			b.out = append(b.out, ':')
			b.value(v)
			continue
		}
		b.out = append(b.out, `{"key":`...)
		b.string(key)
		b.out = append(b.out, `,"value":`...)
		b.value(v)
		b.out = append(b.out, '}')
	}
	b.out = append(b.out, end)
}

// shape writes what is known of who did what to what.
func (b *builder) shape(n *notes) {
	if !n.any {
		b.out = append(b.out, `"source":{"provider":"`+Provider+`"}`...)
		return
	}
	s := n.shape()
	for _, m := range [...]struct {
		name string
		text string
	}{{event.KeyKind, string(s.Kind)}, {event.KeyAction, s.Action}, {event.KeyOutcome, string(s.Outcome)}} {
		if m.text != "" {
			b.name(m.name)
			b.string([]byte(m.text))
		}
	}
	for _, m := range [...]struct {
		name  string
		there bool
		value any
	}{{event.KeyActor, s.Actor != nil, s.Actor}, {event.KeyTarget, s.Target != nil, s.Target}, {event.KeySource, true, s.Source}, {event.KeyRequest, s.Request != nil, s.Request}} {
		if !m.there {
			continue
		}
		text, err := json.Marshal(m.value)
		if err != nil {
			continue // it has strings and numbers only, which do not fail
		}
		b.name(m.name)
		b.out = append(b.out, text...)
	}
}

// Small things.

func unix(nanos uint64) time.Time {
	return time.Unix(int64(nanos/1e9), int64(nanos%1e9)).UTC()
}

// hexID is a trace or span id as the log has it; empty for one that is not set or of another length.
func hexID(id []byte, n int) string {
	if len(id) != n {
		return ""
	}
	for _, c := range id {
		if c != 0 {
			return hex.EncodeToString(id)
		}
	}
	return ""
}

// level is the log's level for a severity. Its number decides, 1 to 24 in groups of four, unless the text names one of those levels
// that OpenTelemetry has none for, or the record is one of its draft of an audit signal.
func level(number uint64, text []byte, audit bool) immutable.Level {
	named, err := immutable.Info, error(nil)
	if len(text) > 0 && len(text) <= len("Information") {
		named, err = immutable.ParseLevel(string(text))
		if err == nil && named != immutable.Info && named != immutable.Warn && named != immutable.Error {
			return named
		}
	}
	switch {
	case audit:
		return immutable.Audit
	case number >= 21:
		return immutable.Critical
	case number >= 17:
		return immutable.Error
	case number >= 13:
		return immutable.Warn
	case number > 0:
		return immutable.Info
	case err == nil:
		return named
	}
	switch strings.ToLower(string(text)) {
	case "warning":
		return immutable.Warn
	case "err", "severe":
		return immutable.Error
	case "fatal", "crit", "alert", "emerg", "emergency", "panic":
		return immutable.Critical
	}
	return immutable.Info
}

// jsonSize is at least what b takes as a JSON string, without its quotes.
func jsonSize(b []byte) int {
	n := len(b)
	for _, c := range b {
		switch {
		case c < ' ' || c == 0x7f || c == 0xc2:
			n += 5
		case c == '"' || c == '\\':
			n++
		}
	}
	if !utf8.Valid(b) {
		n += 2 * len(b) // U+FFFD for each byte
	}
	return n
}

// head is how b begins: at most n bytes of JSON, cut between two characters.
func head(b []byte, n int) []byte {
	size := 0
	for i := 0; i < len(b); {
		_, width := utf8.DecodeRune(b[i:])
		if size += jsonSize(b[i : i+width]); size > n {
			return b[:i]
		}
		i += width
	}
	return b
}

func cutText(b []byte, n int) string { return strings.ToValidUTF8(string(head(b, n)), "\uFFFD") }

// isIP says whether text is an address, for source.ip.
func isIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}
