package otlp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Writing exports, field by field.

func sub(num uint32, parts ...[]byte) []byte { return appendBytes(nil, num, bytes.Join(parts, nil)) }
func str(num uint32, s string) []byte        { return appendBytes(nil, num, s) }
func num(n uint32, v uint64) []byte          { return appendVarint(nil, n, v) }

func fixed(n uint32, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(appendTag(nil, n, wireFixed64), v)
}

func attr(n uint32, key string, value ...[]byte) []byte {
	return sub(n, str(1, key), sub(2, value...))
}

// export is a request with one resource and scope.
func export(records ...[]byte) []byte {
	logs := [][]byte{sub(1, str(1, "lib"))}
	for _, r := range records {
		logs = append(logs, sub(2, r))
	}
	return sub(1, sub(1, attr(1, "service.name", str(anyString, "shop"))), sub(2, logs...))
}

// events are all events of a request, with memory of their own.
func events(t testing.TB, body []byte) []immutable.Event {
	t.Helper()
	r, err := Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	var out []immutable.Event
	for b := range r.Batches() {
		for _, e := range b.Events {
			e.RawMetadata = bytes.Clone(e.RawMetadata)
			if _, err := entry.Append(nil, &e); err != nil {
				t.Fatalf("the log would refuse %.300q: %v", e.RawMetadata, err)
			}
			out = append(out, e)
		}
	}
	if len(out) != r.Records {
		t.Fatalf("%d events of %d records", len(out), r.Records)
	}
	return out
}

func one(t testing.TB, fields ...[]byte) immutable.Event {
	t.Helper()
	return events(t, export(bytes.Join(fields, nil)))[0]
}

// metadata decodes an event's metadata.
func metadata(t testing.TB, e immutable.Event) map[string]any {
	t.Helper()
	raw := e.RawMetadata
	if raw == nil {
		var err error
		if raw, err = json.Marshal(e.Metadata); err != nil {
			t.Fatal(err)
		}
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return m
}

// at is the value at a path of names.
func at(v any, path ...string) any {
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

func TestOfficialExampleIsReadWhole(t *testing.T) {
	data, err := os.ReadFile("../../../shared/data/otlp-logs/logs.json")
	if err != nil {
		t.Skip("the shared data is not here: ", err)
	}
	body, err := FromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	all := events(t, body)
	if len(all) != 1 {
		t.Fatalf("%d events", len(all))
	}
	e := all[0]
	if e.Message != "Example log record" || e.Level != immutable.Info || e.TraceID != "5b8efff798038103d269b633813fc60c" || e.SpanID != "eee19b7ec3c1b174" {
		t.Errorf("got %+v", e)
	}
	if want := time.Unix(1544712660, 300000000).UTC(); !e.EventTime.Equal(want) {
		t.Errorf("event time %v, want %v", e.EventTime, want)
	}
	want := map[string]any{
		"source": map[string]any{"provider": "otlp"}, "severityText": "Information",
		"timeUnixNano": "1544712660300000000", "observedTimeUnixNano": "1544712660300000000",
		"attributes": map[string]any{
			"string.attribute": "some string", "boolean.attribute": true, "int.attribute": 10.0, "double.attribute": 637.704,
			"array.attribute": []any{"many", "values"}, "map.attribute": map[string]any{"some.map.key": "some value"},
		},
		"scope":    map[string]any{"name": "my.library", "version": "1.0.0", "attributes": map[string]any{"my.scope.attribute": "some scope attribute"}},
		"resource": map[string]any{"attributes": map[string]any{"service.name": "my.service"}},
	}
	if got := metadata(t, e); !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %v", e.RawMetadata, want)
	}
}

func TestEveryKindOfValueIsKept(t *testing.T) {
	for _, c := range []struct {
		value []byte
		want  string
	}{
		{str(anyString, "x\"\\\x01\u0085é"), `"x\"\\\u0001\u0085é"`},
		{str(anyString, "bad \xff"), `{"bytesValue":"YmFkIP8="}`},
		{str(anyString, ""), `""`},
		{num(anyBool, 1), `true`},
		{num(anyBool, 0), `false`},
		{num(anyInt, 1<<53-1), `9007199254740991`},
		{num(anyInt, 1<<53), `"9007199254740992"`},
		{num(anyInt, 1<<63), `"-9223372036854775808"`},
		{num(anyInt, math.MaxUint64), `-1`},
		{fixed(anyDouble, math.Float64bits(0.5)), `0.5`},
		{fixed(anyDouble, math.Float64bits(1e300)), `1e+300`},
		{fixed(anyDouble, math.Float64bits(math.NaN())), `"NaN"`},
		{fixed(anyDouble, math.Float64bits(math.Inf(-1))), `"-Infinity"`},
		{str(anyBytes, "\x00\xff"), `{"bytesValue":"AP8="}`},
		{sub(anyArray, sub(1, num(anyInt, 1)), sub(1), sub(1, sub(anyArray))), `[1,null,[]]`},
		{sub(anyMap, attr(1, "b", num(anyInt, 1)), attr(1, "a")), `{"b":1,"a":null}`},
		{sub(anyMap, attr(1, "a", num(anyInt, 1)), attr(1, "a", num(anyInt, 2))), `[{"key":"a","value":1},{"key":"a","value":2}]`},
		{sub(anyMap, attr(1, "\xff", num(anyInt, 1))), `[{"key":{"bytesValue":"/w=="},"value":1}]`},
		{nil, `null`},
		{num(8, 5), `{"unknownFields":"QAU="}`},
	} {
		e := one(t, attr(recAttributes, "v", c.value))
		if want := `"attributes":{"v":` + c.want + `}`; !strings.Contains(string(e.RawMetadata), want) {
			t.Errorf("got %s, want %s in it", e.RawMetadata, want)
		}
		if c.value == nil || strings.HasPrefix(c.want, `"`) {
			continue
		}
		e = one(t, sub(recBody, c.value), str(recEventName, "thing.happened"))
		if want := `"body":` + c.want; !strings.Contains(string(e.RawMetadata), want) || !strings.HasPrefix(e.Message, "thing") && !strings.HasPrefix(e.Message, "bad") {
			t.Errorf("body: got %q %s, want %s in it", e.Message, e.RawMetadata, want)
		}
	}
	many := make([][]byte, 30) // more than are compared one by one
	for i := range many {
		many[i] = attr(recAttributes, fmt.Sprint("k", i%29), num(anyInt, uint64(i)))
	}
	if e := one(t, many...); !strings.Contains(string(e.RawMetadata), `{"key":"k0","value":29}`) {
		t.Errorf("got %s", e.RawMetadata)
	}
	if e := one(t, sub(recBody, sub(anyMap, attr(1, "a", num(anyInt, 1))))); e.Message != `{"a":1}` {
		t.Errorf("the message of a body that is a map is %q", e.Message)
	}
}

func TestRecordsMembersHaveTheirPlace(t *testing.T) {
	trace, span := strings.Repeat("\xab", 16), strings.Repeat("\xcd", 8)
	body := sub(1,
		sub(1, attr(1, "host.name", str(anyString, "web-1")), attr(1, "process.pid", num(anyInt, 77)), num(2, 3), num(9, 1)), str(3, "https://r"),
		sub(2, sub(1, str(1, "lib"), str(2, "v1"), num(4, 1)), str(3, "https://s"),
			sub(2, fixed(recTime, math.MaxUint64), fixed(recObserved, 7), num(recSeverity, 17), str(recSeverityText, "ERROR"), num(recDropped, 2),
				binary.LittleEndian.AppendUint32(appendTag(nil, recFlags, wireFixed32), 257), str(recTrace, trace), str(recSpan, span), str(recEventName, "a.b"), num(99, 5)),
			sub(2, fixed(recObserved, 7), str(recTrace, "short"), str(recSpan, strings.Repeat("\x00", 8)))))
	all := events(t, body)
	e := all[0]
	if e.Level != immutable.Error || e.Message != "a.b" || e.Hostname != "web-1" || e.PID != 77 || e.TraceID != hex.EncodeToString([]byte(trace)) || e.SpanID != hex.EncodeToString([]byte(span)) || e.EventTime.Year() != 2554 {
		t.Errorf("got %+v", e)
	}
	want := `{"source":{"provider":"otlp"},"eventName":"a.b","severityNumber":17,"severityText":"ERROR","timeUnixNano":"18446744073709551615","observedTimeUnixNano":"7","flags":257,"droppedAttributesCount":2,` +
		`"unknownFields":"mAYF","scope":{"name":"lib","version":"v1","droppedAttributesCount":1,"schemaUrl":"https://s"},` +
		`"resource":{"droppedAttributesCount":3,"attributes":{"host.name":"web-1","process.pid":77},"unknownFields":"SAE=","schemaUrl":"https://r"}}`
	if string(e.RawMetadata) != want {
		t.Errorf("got  %s\nwant %s", e.RawMetadata, want)
	}
	if e := all[1]; e.TraceID != "" || e.SpanID != "" || at(metadata(t, e), "traceId") != hex.EncodeToString([]byte("short")) || e.EventTime.UnixNano() != 7 {
		t.Errorf("got %+v %s", e, e.RawMetadata)
	}
}

func TestSeveritiesHaveLevels(t *testing.T) {
	for n := range uint64(26) {
		want := []immutable.Level{immutable.Info, immutable.Info, immutable.Info, immutable.Info, immutable.Warn, immutable.Error, immutable.Critical, immutable.Critical}[(n+3)/4]
		if got := level(n, nil, false); got != want {
			t.Errorf("severity %d is %s, want %s", n, got, want)
		}
		if got := level(n, []byte("security"), true); got != immutable.Security {
			t.Errorf("severity %d with the text security is %s", n, got)
		}
		if got := level(n, []byte("INFO"), true); got != immutable.Audit {
			t.Errorf("severity %d of an audit record is %s", n, got)
		}
	}
	for text, want := range map[string]immutable.Level{
		"warn": immutable.Warn, "Warning": immutable.Warn, "ERROR": immutable.Error, "err": immutable.Error, "Fatal": immutable.Critical, "REVENUE": immutable.Revenue,
		"Information": immutable.Info, "what": immutable.Info, "": immutable.Info, strings.Repeat("x", 1<<20): immutable.Info,
	} {
		if got := level(0, []byte(text), false); got != want {
			t.Errorf("%.20q is %s, want %s", text, got, want)
		}
	}
}

func TestAuditAttributesAreInTheCommonShape(t *testing.T) {
	s := func(key, v string) []byte { return attr(recAttributes, key, str(anyString, v)) }
	id := "a1b2c3d4-e5f6-4890-abcd-ef1234567890"
	e := one(t, str(recEventName, "user.login.success"), s(auditRecordID, id), s("audit.actor.id", "u8472"), s("user.id", "other"), s("audit.actor.type", "user"), s("audit.action", "LOGIN"),
		s("audit.outcome", "SUCCESS"), s("audit.target.id", "/api/auth"), s("audit.target.type", "http.endpoint"), s("audit.source.id", "203.0.113.42"), s("session.id", "s1"),
		attr(recAttributes, "http.response.status_code", num(anyInt, 200)), attr(recAttributes, "audit.sequence.number", num(anyInt, 7)))
	if e.Level != immutable.Audit || e.IdempotencyKey != auditRecordID+":"+id {
		t.Errorf("got %+v", e)
	}
	m := metadata(t, e)
	for path, want := range map[string]any{
		"kind": "authentication", "action": "user.login", "outcome": "success", "actor.id": "u8472", "actor.type": "user", "actor.session": "s1", "target.id": "/api/auth", "target.type": "http.endpoint",
		"source.ip": "203.0.113.42", "source.provider": "otlp", "request.status": 200.0,
	} {
		if got := at(m, strings.Split(path, ".")...); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if at(m, "attributes", auditRecordID) != id || at(m, "attributes", "audit.sequence.number") != 7.0 {
		t.Errorf("attributes are lost: %s", e.RawMetadata)
	}
	e = one(t, s("client.address", "gateway"), s("user.name", "Ann"), s("user.email", strings.Repeat("x", maxNote+1)))
	if m := metadata(t, e); at(m, "source", "host") != "gateway" || at(m, "actor", "name") != "Ann" || at(m, "actor", "email") != nil || e.Level != immutable.Info || e.IdempotencyKey != "" {
		t.Errorf("got %s", e.RawMetadata)
	}
	if a, b := one(t, s(auditRecordID, strings.Repeat("i", 300))), one(t, s(auditRecordID, strings.Repeat("i", 301))); a.IdempotencyKey == b.IdempotencyKey || len(a.IdempotencyKey) > entry.MaxKey {
		t.Errorf("keys %q and %q", a.IdempotencyKey, b.IdempotencyKey)
	}
}

// TestRecordWithoutAPlaceIsKeptByItsDigest: of sizes around what an entry has room for, each record becomes an entry, whole or cut.
func TestRecordWithoutAPlaceIsKeptByItsDigest(t *testing.T) {
	whole, cut := 0, 0
	long := strings.Repeat("x", maxNote)
	for _, unit := range []string{"a", "\x01", "é", "\xff", "\"", "\u0085"} {
		for size := 1000; size < 140_000; size += 9001 {
			v := strings.Repeat(unit, size/len(unit))
			for _, record := range [][]byte{sub(recBody, str(anyString, v)), attr(recAttributes, "k", str(anyBytes, v)), attr(recAttributes, v, num(anyInt, 1)), str(recEventName, v)} {
				record = append(record, attr(recAttributes, "audit.actor.id", str(anyString, long))...)
				e := one(t, record)
				if e.RawMetadata != nil {
					whole++
					continue
				}
				cut++
				if n := e.Metadata["rawBytes"]; n != len(record) || e.Metadata["rawHead"] == "" || len(e.Metadata["rawSha256"].(string)) != 64 {
					t.Fatalf("cut to %v, %v bytes of %d", e.Metadata["rawSha256"], n, len(record))
				}
			}
		}
	}
	// A resource that is too large takes every one of its records with it, and no other.
	big := sub(1, sub(1, attr(1, "k", str(anyString, strings.Repeat("x", 70_000)))), sub(2, sub(2, str(recEventName, "big")), sub(2, str(recEventName, "too"))))
	all := events(t, append(big, export(str(recEventName, "small"))...))
	if all[0].Metadata == nil || all[1].Metadata == nil || all[2].RawMetadata == nil || all[0].Message != "big" {
		t.Errorf("got %+v", all)
	}
	if whole < 50 || cut < 50 {
		t.Errorf("%d whole, %d cut", whole, cut)
	}
}

// abyss is a body of arrays within each other, written from the inside.
func abyss(depth int) []byte {
	var reversed []byte // headers, each with its bytes in their order, the innermost first
	size := 0
	wrap := func(num uint32) {
		header := binary.AppendUvarint(appendTag(nil, num, wireBytes), uint64(size))
		size += len(header)
		slices.Reverse(header)
		reversed = append(reversed, header...)
	}
	for range depth {
		wrap(1)
		wrap(anyArray)
	}
	wrap(recBody)
	slices.Reverse(reversed)
	return reversed
}

func TestMalformedExportsAreRefused(t *testing.T) {
	nested := func(depth int) []byte {
		v := num(anyInt, 1)
		for i := range depth {
			if i%2 == 0 {
				v = sub(anyArray, sub(1, v))
			} else {
				v = sub(anyMap, attr(1, "k", v))
			}
		}
		return export(sub(recBody, v))
	}
	if _, err := Parse(nested(MaxDepth)); err != nil {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
	events(t, nested(MaxDepth))
	for name, body := range map[string][]byte{
		"one deeper":            nested(MaxDepth + 1),
		"a million deep":        export(abyss(1_000_000)),
		"cut off":               export(str(recEventName, "x"))[:20],
		"text":                  []byte("hello, world"),
		"a group":               {0x0b},
		"field 0":               {0x00, 0x00},
		"a huge length":         {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"a number of 11 bytes":  bytes.Repeat([]byte{0xff}, 11),
		"severity as text":      export(str(recSeverity, "x")),
		"time as a varint":      export(num(recTime, 1)),
		"resource as a number":  sub(1, num(1, 1)),
		"records as a number":   sub(1, sub(2, num(2, 1))),
		"two bodies":            export(bytes.Join([][]byte{sub(recBody), sub(recBody)}, nil)),
		"two resources":         sub(1, sub(1), sub(1)),
		"a value of two kinds":  export(sub(recBody, str(anyString, "a"), num(anyInt, 1))),
		"attribute of two keys": export(sub(recAttributes, str(1, "a"), str(1, "b"))),
	} {
		_, err := Parse(body)
		if _, ok := errors.AsType[*MalformedError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExportsAreBounded(t *testing.T) {
	record := sub(2, str(recEventName, "x"))
	scope := func(n int) []byte { return sub(1, sub(2, bytes.Repeat(record, n))) }
	r, err := Parse(scope(MaxRecords))
	if err != nil || r.Records != MaxRecords {
		t.Fatalf("%d records: %v", MaxRecords, err)
	}
	if _, err := Parse(scope(MaxRecords + 1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one record more: %v", err)
	}
	numbers, n := 0, 0
	for b := range r.Batches() {
		if b.Number != numbers || len(b.Events) > BatchRecords {
			t.Errorf("batch %d of %d events", b.Number, len(b.Events))
		}
		numbers, n = numbers+1, n+len(b.Events)
	}
	if n != MaxRecords || numbers != MaxRecords/BatchRecords {
		t.Errorf("%d events in %d batches", n, numbers)
	}
	// A resource counts for each of its records.
	bomb := func(records int) []byte {
		return sub(1, sub(1, attr(1, "k", str(anyString, strings.Repeat("x", 10_000)))), sub(2, bytes.Repeat(record, records)))
	}
	most := MaxExpanded / (10_000 + 3 + 15)
	if _, err := Parse(bomb(most - 10)); err != nil {
		t.Error(err)
	}
	if _, err := Parse(bomb(most + 10)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a bomb of a resource: %v", err)
	}
	largest := 0
	r, err = Parse(bomb(2000))
	if err != nil {
		t.Fatal(err)
	}
	for b := range r.Batches() {
		size := 0
		for i := range b.Events {
			size += len(b.Events[i].RawMetadata) + len(b.Events[i].Message)
		}
		largest = max(largest, size)
	}
	if largest > BatchBytes+immutable.MaxEntryBytes {
		t.Errorf("a batch of %d bytes", largest)
	}
}

// TestOnlyWhatHasATimeIsKnownAgain: records without times may be two things that happened, however equal they are.
func TestOnlyWhatHasATimeIsKnownAgain(t *testing.T) {
	timed, timeless := fixed(recTime, 1), str(recEventName, "x")
	for _, c := range []struct {
		records [][]byte
		want    bool
	}{
		{nil, true},
		{[][]byte{timed, fixed(recObserved, 1)}, true},
		{[][]byte{timed, timeless}, false},
		{[][]byte{timeless, timed}, false},
		{[][]byte{fixed(recTime, 0)}, false},
		{[][]byte{attr(recAttributes, auditRecordID, str(anyString, "id"))}, true},
		{[][]byte{attr(recAttributes, auditRecordID, num(anyInt, 5))}, false},
	} {
		r, err := Parse(export(c.records...))
		if err != nil || r.Timed != c.want {
			t.Errorf("%q: timed %t, %v", c.records, r.Timed, err)
		}
	}
}

func TestJSONSaysWhatProtobufSays(t *testing.T) {
	for _, c := range []struct {
		json string
		want []byte
	}{
		{`{}`, nil},
		{` {"resourceLogs" : [ ] , "unknown":{"a":[1,{"b":"]}\""}]} } `, nil},
		{`{"resourceLogs":null}`, nil},
		{`{"resourceLogs":[{"scope_logs":[{"logRecords":[{"event_name":"x"}]}]}]}`, sub(1, sub(2, sub(2, str(recEventName, "x"))))},
		{`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"18446744073709551615","severityNumber":"9","flags":1}]}]}]}`, sub(1, sub(2, sub(2, fixed(recTime, math.MaxUint64), num(recSeverity, 9), []byte{recFlags<<3 | wireFixed32, 1, 0, 0, 0})))},
		{`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":1.5447126603e+18,"traceId":"","spanId":"EEE19b7EC3C1B174"}]}]}]}`, sub(1, sub(2, sub(2, fixed(recTime, 1544712660300000000), str(recTrace, ""), str(recSpan, "\xee\xe1\x9b\x7e\xc3\xc1\xb1\x74"))))},
		{
			`{"resourceLogs":[{"resource":{"attributes":[{"key":"k","value":{"intValue":"-1"}},{"key":"é\u0001","value":{"bytesValue":"_-8"}},{"key":"d","value":{"doubleValue":"NaN"}},{"key":"b","value":{"boolValue":true}}]}}]}`,
			sub(1, sub(1, attr(1, "k", num(anyInt, math.MaxUint64)), attr(1, "é\x01", str(anyBytes, "\xff\xef")), attr(1, "d", fixed(anyDouble, math.Float64bits(math.NaN()))), attr(1, "b", num(anyBool, 1)))),
		},
		{
			`{"resourceLogs":[{"resource":{"attributes":[{"key":"` + strings.Repeat("x", 20_000) + `","value":{"kvlistValue":{"values":[{"key":"a","value":{"arrayValue":{"values":[{},{"boolValue":false}]}}}]}}}]}}]}`,
			sub(1, sub(1, attr(1, strings.Repeat("x", 20_000), sub(anyMap, attr(1, "a", sub(anyArray, sub(1), sub(1, num(anyBool, 0)))))))),
		},
	} {
		got, err := FromJSON([]byte(c.json))
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%.200s: got %.200x, %v, want %.200x", c.json, got, err, c.want)
		}
		if _, err := Parse(got); err != nil {
			t.Errorf("%.200s: %v", c.json, err)
		}
	}
}

func TestMalformedJSONIsRefused(t *testing.T) {
	record := func(r string) string { return `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + r + `]}]}]}` }
	value := func(v string) string { return record(`{"body":` + v + `}`) }
	deep := func(n int) string {
		return value(strings.Repeat(`{"arrayValue":{"values":[`, n) + `{}` + strings.Repeat(`]}}`, n))
	}
	if _, err := FromJSON([]byte(deep(MaxDepth))); err != nil {
		t.Errorf("depth %d: %v", MaxDepth, err)
	}
	for _, bad := range []string{
		``, `x`, `[]`, `{`, `{}{}`, "{\"a\":\"\xff\"}", `{"resourceLogs":{}}`, `{"resourceLogs":[5]}`, `{"resourceLogs":[],"resourceLogs":[]}`, `{"resourceLogs":[],"resource_logs":[]}`,
		record(`{"timeUnixNano":"-1"}`), record(`{"timeUnixNano":-1}`), record(`{"timeUnixNano":"18446744073709551616"}`), record(`{"timeUnixNano":1.5}`), record(`{"timeUnixNano":""}`), record(`{"timeUnixNano":true}`),
		record(`{"timeUnixNano":1e300}`), record(`{"severityNumber":"SEVERITY_NUMBER_INFO"}`), record(`{"severityNumber":4294967296}`), record(`{"flags":4294967296}`), record(`{"traceId":"xyz"}`), record(`{"traceId":5}`),
		record(`{"eventName":5}`), record(`{"eventName":"\ud800"}`), record(`{"attributes":{}}`),
		value(`{"boolValue":"true"}`), value(`{"boolValue":1}`), value(`{"intValue":1.5}`), value(`{"doubleValue":"x"}`), value(`{"doubleValue":1e999}`), value(`{"doubleValue":{}}`), value(`{"bytesValue":"*"}`),
		value(`{"kvlistValue":[]}`), value(`"text"`), deep(MaxDepth + 1), deep(20_000), strings.Repeat(`[`, 1_000_000),
	} {
		got, err := FromJSON([]byte(bad))
		if _, ok := errors.AsType[*MalformedError](err); !ok {
			t.Errorf("%.100q: %x, %v", bad, got, err)
		}
	}
	both, err := FromJSON([]byte(value(`{"stringValue":"a","intValue":1}`)))
	if err == nil {
		_, err = Parse(both)
	}
	if err == nil {
		t.Error("a value of two kinds was taken")
	}
}

func TestStatusesAreWhatExportersRead(t *testing.T) {
	s := Status{Code: ResourceExhausted, Message: "über\n100%", Retry: 1500 * time.Millisecond}
	if got := string(s.JSON()); got != `{"code":8,"message":"über\n100%","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.5s"}]}` {
		t.Error(got)
	}
	if got := s.GRPCMessage(); got != "%C3%BCber%0A100%25" {
		t.Error(got)
	}
	want := slices.Concat(num(1, 8), str(2, s.Message), sub(3, str(1, retryInfo), sub(2, sub(1, num(1, 1), num(2, 500_000_000)))))
	if got := s.Protobuf(); !bytes.Equal(got, want) {
		t.Errorf("%x", got)
	}
	if got := (&Status{Code: NotFound}).JSON(); string(got) != `{"code":5,"message":""}` {
		t.Errorf("%s", got)
	}
}

// FuzzParse: whatever is taken becomes events that the log takes, as many as there are records.
func FuzzParse(f *testing.F) {
	f.Add(export(bytes.Join([][]byte{fixed(recTime, 5), num(recSeverity, 9), sub(recBody, str(anyString, "hello")), attr(recAttributes, "audit.action", str(anyString, "LOGIN")), num(77, 1)}, nil)))
	f.Add(export(sub(recBody, sub(anyMap, attr(1, "a", sub(anyArray, sub(1, fixed(anyDouble, 1)))), attr(1, "a", str(anyBytes, "x")))), str(recTrace, "0123456789abcdef")))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := Parse(body); err == nil {
			events(t, body)
		}
	})
}

// FuzzFromJSON: what is taken is protobuf whose walk ends, or a value of two kinds, which the walk refuses.
func FuzzFromJSON(f *testing.F) {
	f.Add([]byte(`{"resourceLogs":[{"resource":{"attributes":[{"key":"k","value":{"intValue":"1"}}]},"scopeLogs":[{"scope":{"name":"s"},"logRecords":[{"timeUnixNano":"1","body":{"kvlistValue":{"values":[{"key":"a","value":{"arrayValue":{"values":[{"doubleValue":1.5}]}}}]}},"traceId":"5B8EFFF798038103D269B633813FC60C"}]}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := FromJSON(data)
		if err != nil {
			return
		}
		if _, err := Parse(body); err == nil {
			events(t, body)
		} else if !strings.Contains(err.Error(), "of one kind") {
			t.Fatalf("%q became %x: %v", data, body, err)
		}
	})
}
