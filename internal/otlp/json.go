package otlp

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// FromJSON turns an export in OTLP/JSON into protobuf, for Parse. It is the protobuf JSON mapping with the exceptions of OTLP: trace
// and span ids are hex, enums are numbers. Members that are not known are passed over, as OTLP demands; a known one that stands twice,
// or has a value of another kind, is refused.
func FromJSON(body []byte) ([]byte, error) {
	if !utf8.Valid(body) {
		return nil, malformed("", "the body is not UTF-8")
	}
	if !json.Valid(body) { // it also bounds the depth, to 10,000
		return nil, malformed("", "the body is not one JSON value")
	}
	t := transcoder{in: body, out: make([]byte, 0, len(body))}
	t.space()
	if err := t.message(inRequest, 0, "the body"); err != nil {
		return nil, err
	}
	return t.out, nil
}

// transcoder reads valid JSON and writes protobuf.
type transcoder struct {
	in  []byte
	p   int // what is read of in
	out []byte
}

// The messages of an export, as indexes of schema.
const (
	inRequest = iota
	inResourceLogs
	inResourceMessage
	inScopeLogs
	inScopeMessage
	inLogRecord
	inKeyValue
	inAnyValue
	inArray
	inKeyValues
)

// jsonKind is how a field is spelled in JSON, and so how it is written.
type jsonKind byte

const (
	asMessage jsonKind = iota
	asString
	asBytes // base64
	asHex
	asBool
	asInt64 // varint; a number or a string of digits
	asUint32
	asFixed64
	asFixed32
	asDouble
)

// jsonField is one member of a message.
type jsonField struct {
	num    uint32
	kind   jsonKind
	of     int // with asMessage: which
	repeat bool
}

var schema = [...]map[string]jsonField{
	inRequest:      {"resourceLogs": {1, asMessage, inResourceLogs, true}},
	inResourceLogs: {"resource": {1, asMessage, inResourceMessage, false}, "scopeLogs": {2, asMessage, inScopeLogs, true}, "schemaUrl": {num: 3, kind: asString}},
	inResourceMessage: {
		"attributes": {1, asMessage, inKeyValue, true}, "droppedAttributesCount": {num: 2, kind: asUint32},
	},
	inScopeLogs: {"scope": {1, asMessage, inScopeMessage, false}, "logRecords": {2, asMessage, inLogRecord, true}, "schemaUrl": {num: 3, kind: asString}},
	inScopeMessage: {
		"name": {num: 1, kind: asString}, "version": {num: 2, kind: asString}, "attributes": {3, asMessage, inKeyValue, true}, "droppedAttributesCount": {num: 4, kind: asUint32},
	},
	inLogRecord: {
		"timeUnixNano": {num: recTime, kind: asFixed64}, "observedTimeUnixNano": {num: recObserved, kind: asFixed64}, "severityNumber": {num: recSeverity, kind: asUint32},
		"severityText": {num: recSeverityText, kind: asString}, "body": {recBody, asMessage, inAnyValue, false}, "attributes": {recAttributes, asMessage, inKeyValue, true},
		"droppedAttributesCount": {num: recDropped, kind: asUint32}, "flags": {num: recFlags, kind: asFixed32}, "traceId": {num: recTrace, kind: asHex},
		"spanId": {num: recSpan, kind: asHex}, "eventName": {num: recEventName, kind: asString},
	},
	inKeyValue: {"key": {num: 1, kind: asString}, "value": {2, asMessage, inAnyValue, false}},
	inAnyValue: {
		"stringValue": {num: anyString, kind: asString}, "boolValue": {num: anyBool, kind: asBool}, "intValue": {num: anyInt, kind: asInt64}, "doubleValue": {num: anyDouble, kind: asDouble},
		"arrayValue": {anyArray, asMessage, inArray, false}, "kvlistValue": {anyMap, asMessage, inKeyValues, false}, "bytesValue": {num: anyBytes, kind: asBytes},
	},
	inArray:     {"values": {1, asMessage, inAnyValue, true}},
	inKeyValues: {"values": {1, asMessage, inKeyValue, true}},
}

// message reads an object. depth counts the values around it.
func (t *transcoder) message(of, depth int, path string) error {
	if t.in[t.p] != '{' {
		return malformed(path, "want an object")
	}
	if of == inAnyValue {
		if depth++; depth > MaxDepth+1 {
			return malformed(path, "arrays and maps are nested deeper than %d", MaxDepth)
		}
	}
	var once seen
	t.p++
	for t.space(); t.in[t.p] != '}'; t.space() {
		if t.in[t.p] == ',' {
			t.p++
			t.space()
		}
		name, err := entry.Unquote(t.token())
		if err != nil {
			return malformed(path, "a member's name: %v", err)
		}
		t.space()
		t.p++ // the colon
		t.space()
		f, known := field(of, name)
		if !known || t.in[t.p] == 'n' { // null is the default
			t.token()
			continue
		}
		bit := seen(1) << f.num
		if once&bit != 0 {
			return malformed(path, "the member %s stands twice", name)
		}
		once |= bit
		if f.repeat {
			err = t.list(f, depth, name)
		} else {
			err = t.field(f, depth, name)
		}
		if err != nil {
			return err
		}
	}
	t.p++
	return nil
}

// field finds a member by its name, or by that which it has in protobuf: severity_number.
func field(of int, name string) (jsonField, bool) {
	f, known := schema[of][name]
	if known || !strings.Contains(name, "_") {
		return f, known
	}
	var camel []byte
	for i := 0; i < len(name); i++ {
		if name[i] == '_' && i+1 < len(name) && 'a' <= name[i+1] && name[i+1] <= 'z' {
			i++
			camel = append(camel, name[i]-'a'+'A')
			continue
		}
		camel = append(camel, name[i])
	}
	f, known = schema[of][string(camel)]
	return f, known
}

func (t *transcoder) list(f jsonField, depth int, name string) error {
	if t.in[t.p] != '[' {
		return malformed(name, "want an array")
	}
	t.p++
	for t.space(); t.in[t.p] != ']'; t.space() {
		if t.in[t.p] == ',' {
			t.p++
			t.space()
		}
		if err := t.field(f, depth, name); err != nil {
			return err
		}
	}
	t.p++
	return nil
}

// field reads one value.
func (t *transcoder) field(f jsonField, depth int, name string) error {
	if f.kind == asMessage {
		// The length stands before the message, and is known behind it.
		t.out = appendTag(t.out, f.num, wireBytes)
		at := len(t.out)
		t.out = append(t.out, 0)
		if err := t.message(f.of, depth, name); err != nil {
			return err
		}
		var size [binary.MaxVarintLen64]byte
		n := binary.PutUvarint(size[:], uint64(len(t.out)-at-1))
		if n > 1 {
			t.out = append(t.out, size[1:n]...)
			copy(t.out[at+n:], t.out[at+1:len(t.out)-n+1])
		}
		copy(t.out[at:], size[:n])
		return nil
	}
	raw := t.token()
	quoted := raw[0] == '"'
	text := string(raw)
	if quoted {
		var err error
		if text, err = entry.Unquote(raw); err != nil {
			return malformed(name, "%v", err)
		}
	}
	if !t.scalar(f, text, quoted) {
		return malformed(name, "the value is not one that this member can have")
	}
	return nil
}

// scalar writes a value that is no message, and says whether it could.
func (t *transcoder) scalar(f jsonField, text string, quoted bool) bool {
	switch f.kind {
	case asString:
		t.out = appendBytes(t.out, f.num, text)
		return quoted
	case asHex:
		b, err := hex.DecodeString(text)
		t.out = appendBytes(t.out, f.num, b)
		return quoted && err == nil
	case asBytes:
		text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
		b, err := base64.RawStdEncoding.DecodeString(text)
		t.out = appendBytes(t.out, f.num, b)
		return quoted && err == nil
	case asBool:
		t.out = appendVarint(t.out, f.num, uint64(len("false")-len(text)))
		return !quoted && (text == "true" || text == "false")
	case asDouble:
		v, err := strconv.ParseFloat(text, 64)
		t.out = binary.LittleEndian.AppendUint64(appendTag(t.out, f.num, wireFixed64), math.Float64bits(v))
		return err == nil && (!math.IsInf(v, 0) || text == "Infinity" || text == "-Infinity") && text[0] != '{' && text[0] != '['
	case asInt64:
		v, ok := integer(text)
		t.out = appendVarint(t.out, f.num, v)
		return ok
	}
	v, ok := integer(text)
	if text == "" || text[0] == '-' {
		return false
	}
	switch f.kind {
	case asFixed64:
		t.out = binary.LittleEndian.AppendUint64(appendTag(t.out, f.num, wireFixed64), v)
		return ok
	case asFixed32:
		t.out = binary.LittleEndian.AppendUint32(appendTag(t.out, f.num, wireFixed32), uint32(v))
	default:
		t.out = appendVarint(t.out, f.num, v)
	}
	return ok && v <= math.MaxUint32
}

// integer reads a whole number, also one that is spelled with a fraction or an exponent, as long as a float64 has it exactly.
func integer(text string) (uint64, bool) {
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return uint64(v), true
	}
	if v, err := strconv.ParseUint(text, 10, 64); err == nil {
		return v, true
	}
	if !strings.ContainsAny(text, ".eE") {
		return 0, false
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v != math.Trunc(v) || math.Abs(v) >= 1<<63 {
		return 0, false
	}
	return uint64(int64(v)), true
}

func (t *transcoder) space() {
	for t.p < len(t.in) && (t.in[t.p] == ' ' || t.in[t.p] == '\t' || t.in[t.p] == '\n' || t.in[t.p] == '\r') {
		t.p++
	}
}

// token passes over one value and returns it as it is spelled. The JSON is valid, so brackets only have to be counted.
func (t *transcoder) token() []byte {
	from, open := t.p, 0
	for t.p < len(t.in) {
		switch c := t.in[t.p]; c {
		case '"':
			for t.p++; t.in[t.p] != '"'; t.p++ {
				if t.in[t.p] == '\\' {
					t.p++
				}
			}
			t.p++
		case '{', '[':
			open++
			t.p++
		case '}', ']':
			open--
			t.p++
		case ',', ':', ' ', '\t', '\n', '\r':
			t.p++
		default: // a number or a word
			for t.p < len(t.in) && !strings.ContainsRune(",:]} \t\n\r", rune(t.in[t.p])) {
				t.p++
			}
		}
		if open == 0 {
			break
		}
	}
	return t.in[from:t.p]
}
