// Package otlp reads OpenTelemetry log exports (OTLP 1.x, ExportLogsServiceRequest, as protobuf or JSON) into events, and writes
// the answers that exporters understand.
//
// A request is read twice. [Parse] walks all of it, refuses what is malformed or too much, and makes nothing; [Request.Batches] then
// makes events of it, a batch at a time, so that memory does not grow with what a small body can spell. What a well-formed record
// holds is never refused: what has no place in an entry is kept as its digest, length and beginning.
package otlp

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
)

// Limits of one request. A record or value within them is taken.
const (
	MaxRecords  = 65536    // log records
	MaxExpanded = 64 << 20 // bytes of all records, each with its resource and scope, which the protocol sends once
	MaxDepth    = 48       // arrays and maps within each other, in a body or an attribute

	// BatchRecords and BatchBytes bound a batch: so many records, or a little more than so many bytes of entries.
	BatchRecords = 4096
	BatchBytes   = 4 << 20
)

// ErrTooLarge is wrapped where a request is well-formed and beyond a limit: send fewer records at once.
var ErrTooLarge = errors.New("the export is too large")

// MalformedError says where a request stops being an ExportLogsServiceRequest.
type MalformedError struct {
	Path string // such as resourceLogs.scopeLogs.logRecords.body; empty for the whole
	Msg  string
}

func (e *MalformedError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

func malformed(path, format string, args ...any) error {
	return &MalformedError{path, fmt.Sprintf(format, args...)}
}

// Request is an export that was read to its end. It refers to the body.
type Request struct {
	body []byte

	// Records is how many log records there are.
	Records int

	// Timed says that each record has a time, or an id of its own, so that two exports of the same bytes are one export that was
	// sent again. Without times they may as well be two things that happened.
	Timed bool
}

// Parse reads an export in protobuf.
func Parse(body []byte) (*Request, error) {
	r := &Request{body: body, Timed: true}
	c := checker{r: r}
	if err := c.request(body); err != nil {
		return nil, err
	}
	return r, nil
}

// Batch is a part of a request that is appended at once. It is valid until the next one is asked for.
type Batch struct {
	Number int // from 0; the same body always makes the same batches
	Events []immutable.Event
}

// Batches makes the request's events, in its order.
func (r *Request) Batches() iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		b := builders.Get().(*builder)
		defer b.done()
		number := 0
		flush := func() bool {
			if len(b.events) == 0 {
				return true
			}
			ok := yield(Batch{number, b.finish()})
			number++
			b.reset()
			return ok
		}
		for resource := range subs(r.body, 1) {
			b.setResource(resource)
			for scope := range subs(resource, 2) {
				b.setScope(scope)
				for record := range subs(scope, 2) {
					b.record(record)
					if len(b.events) >= BatchRecords || len(b.out)+b.text >= BatchBytes {
						if !flush() {
							return
						}
					}
				}
			}
		}
		flush()
	}
}

// subs are the messages in field num of a message that was checked.
func subs(message []byte, num uint32) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for c := (cursor{b: message}); c.next(); {
			if c.num == num && !yield(c.v) {
				return
			}
		}
	}
}

// checker walks a request without keeping anything of it.
type checker struct {
	r        *Request
	expanded int
}

func (c *checker) request(b []byte) error {
	in := cursor{b: b}
	for in.next() {
		if in.num == 1 {
			if err := c.resource(&in); err != nil {
				return err
			}
		}
	}
	return in.end("")
}

// Names of what is walked, for errors.
const (
	inResource = "resourceLogs"
	inScope    = "resourceLogs.scopeLogs"
	inRecord   = "resourceLogs.scopeLogs.logRecords"
)

func (c *checker) resource(in *cursor) error {
	body, err := in.message(inResource)
	if err != nil {
		return err
	}
	var once seen
	shared := 0
	sub := cursor{b: body}
	for err == nil && sub.next() {
		switch sub.num {
		case 1:
			shared += len(sub.v)
			err = c.described(&sub, &once, inResource+".resource", resourceFields)
		case 2:
			_, err = sub.message(inScope)
		case 3:
			shared += len(sub.v)
			err = sub.once(&once, wireBytes, inResource+".schemaUrl")
		}
	}
	if err := errors.Join(err, sub.end(inResource)); err != nil {
		return err
	}
	for s := range subs(body, 2) {
		if err := c.scope(s, shared); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) scope(body []byte, shared int) (err error) {
	var once seen
	in := cursor{b: body}
	for err == nil && in.next() {
		switch in.num {
		case 1:
			shared += len(in.v)
			err = c.described(&in, &once, inScope+".scope", scopeFields)
		case 2:
			if _, err = in.message(inRecord); err == nil {
				if c.r.Records++; c.r.Records > MaxRecords {
					return fmt.Errorf("%w: more than %d log records; send smaller batches", ErrTooLarge, MaxRecords)
				}
			}
		case 3:
			shared += len(in.v)
			err = in.once(&once, wireBytes, inScope+".schemaUrl")
		}
	}
	if err := errors.Join(err, in.end(inScope)); err != nil {
		return err
	}
	for v := range subs(body, 2) {
		if c.expanded += len(v) + shared; c.expanded > MaxExpanded {
			return fmt.Errorf("%w: its records take more than %d bytes, each with its resource and scope; send smaller batches", ErrTooLarge, MaxExpanded)
		}
		if err := c.record(v); err != nil {
			return err
		}
	}
	return nil
}

// Field numbers of a Resource and an InstrumentationScope: strings, and where attributes and their count of dropped ones are.
var (
	resourceFields = described{attributes: 1, dropped: 2}
	scopeFields    = described{name: 1, version: 2, attributes: 3, dropped: 4}
)

// described is what a Resource and an InstrumentationScope have in common.
type described struct{ name, version, attributes, dropped uint32 }

func (c *checker) described(in *cursor, outer *seen, path string, f described) error {
	if err := in.once(outer, wireBytes, path); err != nil {
		return err
	}
	var once seen
	var err error
	sub := cursor{b: in.v}
	for err == nil && sub.next() {
		switch sub.num {
		case f.attributes:
			err = keyValue(&sub, path+".attributes", 0)
		case f.dropped:
			err = sub.once(&once, wireVarint, path+".droppedAttributesCount")
		case f.name, f.version:
			err = sub.once(&once, wireBytes, path+".name")
		}
	}
	return errors.Join(err, sub.end(path))
}

// Field numbers of a LogRecord.
const (
	recTime, recSeverity, recSeverityText, recBody, recAttributes = 1, 2, 3, 5, 6
	recDropped, recFlags, recTrace, recSpan, recObserved          = 7, 8, 9, 10, 11
	recEventName                                                  = 12
)

// recordFields are the wire types of a LogRecord's fields.
var recordFields = map[uint32]struct {
	wire byte
	name string
}{
	recTime: {wireFixed64, "timeUnixNano"}, recSeverity: {wireVarint, "severityNumber"}, recSeverityText: {wireBytes, "severityText"},
	recBody: {wireBytes, "body"}, recDropped: {wireVarint, "droppedAttributesCount"}, recFlags: {wireFixed32, "flags"},
	recTrace: {wireBytes, "traceId"}, recSpan: {wireBytes, "spanId"}, recObserved: {wireFixed64, "observedTimeUnixNano"},
	recEventName: {wireBytes, "eventName"},
}

func (c *checker) record(b []byte) error {
	var once seen
	timed := false
	in := cursor{b: b}
	for in.next() {
		var err error
		switch f := recordFields[in.num]; {
		case in.num == recAttributes:
			err = keyValue(&in, inRecord+".attributes", 0)
			timed = timed || err == nil && isRecordID(in.v)
		case f.name != "":
			err = in.once(&once, f.wire, inRecord+"."+f.name)
		}
		if err != nil {
			return err
		}
		switch in.num {
		case recTime, recObserved:
			timed = timed || in.u != 0
		case recBody:
			if err := value(in.v, inRecord+".body", 0); err != nil {
				return err
			}
		}
	}
	c.r.Timed = c.r.Timed && timed
	return in.end(inRecord)
}

// keyValue checks the KeyValue that in is at.
func keyValue(in *cursor, path string, depth int) error {
	b, err := in.message(path)
	if err != nil {
		return err
	}
	var once seen
	sub := cursor{b: b}
	for sub.next() {
		if sub.num > 2 {
			continue
		}
		if err := sub.once(&once, wireBytes, path); err != nil {
			return err
		}
		if sub.num == 2 {
			if err := value(sub.v, path, depth); err != nil {
				return err
			}
		}
	}
	return sub.end(path)
}

// Field numbers of an AnyValue.
const (
	anyString, anyBool, anyInt, anyDouble = 1, 2, 3, 4
	anyArray, anyMap, anyBytes            = 5, 6, 7
)

// anyWire are the wire types of an AnyValue's fields, by number.
var anyWire = [...]byte{0, wireBytes, wireVarint, wireVarint, wireFixed64, wireBytes, wireBytes, wireBytes}

// value checks an AnyValue. depth counts the arrays and maps around it.
func value(b []byte, path string, depth int) error {
	set := false
	in := cursor{b: b}
	for in.next() {
		if in.num >= uint32(len(anyWire)) {
			continue
		}
		if in.typ != anyWire[in.num] {
			return in.wrong(path)
		}
		if set {
			return malformed(path, "a value is of one kind, and this one has two")
		}
		set = true
		if in.num != anyArray && in.num != anyMap {
			continue
		}
		if depth >= MaxDepth {
			return malformed(path, "arrays and maps are nested deeper than %d", MaxDepth)
		}
		sub := cursor{b: in.v}
		for sub.next() {
			if sub.num != 1 {
				continue
			}
			var err error
			if in.num == anyMap {
				err = keyValue(&sub, path, depth+1)
			} else if _, err = sub.message(path); err == nil {
				err = value(sub.v, path, depth+1)
			}
			if err != nil {
				return err
			}
		}
		if err := sub.end(path); err != nil {
			return err
		}
	}
	return in.end(path)
}

// isRecordID says whether a checked KeyValue is the id that OpenTelemetry's draft of an audit signal gives each record.
func isRecordID(keyValue []byte) bool {
	key, v := split(keyValue)
	return string(key) == auditRecordID && len(text(v)) > 0
}

// split takes a checked KeyValue apart.
func split(keyValue []byte) (key, v []byte) {
	for in := (cursor{b: keyValue}); in.next(); {
		switch in.num {
		case 1:
			key = in.v
		case 2:
			v = in.v
		}
	}
	return key, v
}

// text is what a checked AnyValue that is a string says; nil for another.
func text(v []byte) []byte {
	for in := (cursor{b: v}); in.next(); {
		if in.num == anyString {
			return in.v
		}
	}
	return nil
}

// plain says whether the keys of the checked KeyValues in field num can be the names of one JSON object: each once, in UTF-8.
// keys is room to work in.
func plain(message []byte, num uint32, keys *[][]byte) bool {
	ks := (*keys)[:0]
	defer func() { *keys = ks }()
	for kv := range subs(message, num) {
		k, _ := split(kv)
		if !utf8.Valid(k) {
			return false
		}
		ks = append(ks, k)
	}
	if len(ks) <= fewKeys {
		for i := range ks {
			for j := range i {
				if string(ks[i]) == string(ks[j]) {
					return false
				}
			}
		}
		return true
	}
	slices.SortFunc(ks, bytes.Compare)
	for i := 1; i < len(ks); i++ {
		if string(ks[i]) == string(ks[i-1]) {
			return false
		}
	}
	return true
}

// fewKeys are compared with each other faster than they are sorted.
const fewKeys = 12
