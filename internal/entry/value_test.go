package entry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

type (
	namedMap    map[string]any
	namedString string
	namedInt    int8
	text        struct{ s string }
	pointerText struct{ s string }
	panics      struct{}
	panicError  struct{}
)

func (t text) MarshalText() ([]byte, error)         { return []byte(t.s), nil }
func (t *pointerText) MarshalText() ([]byte, error) { return []byte("*" + t.s), nil }
func (panics) MarshalJSON() ([]byte, error)         { panic("on purpose") }
func (panicError) Error() string                    { panic("on purpose") }

func metadataOf(t *testing.T, v any) (string, error) {
	t.Helper()
	line, err := Append(nil, &Event{Metadata: Fields{"v": v}})
	if err != nil {
		return "", err
	}
	var l Line
	if err := Decode(line, &l); err != nil {
		t.Errorf("%T: decode %s: %v", v, line, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(l.Metadata), `{"v":`), "}"), nil
}

func TestGoValueHasItsJSON(t *testing.T) {
	when := time.Date(2026, 2, 8, 15, 30, 0, 500, time.FixedZone("", 3600))
	one := 1
	for _, c := range []struct {
		v    any
		want string
	}{
		{nil, `null`},
		{true, `true`},
		{-1, `-1`},
		{int8(-128), `-128`},
		{int16(5), `5`},
		{int32(5), `5`},
		{int64(math.MinInt64), `-9223372036854775808`},
		{uint(7), `7`},
		{uint8(255), `255`},
		{uint16(7), `7`},
		{uint32(7), `7`},
		{uint64(math.MaxUint64), `18446744073709551615`},
		{float32(0.1), `0.1`},
		{0.1, `0.1`},
		{1e20, `100000000000000000000`},
		{1e21, `1e+21`},
		{1e-7, `1e-7`},
		{5e-324, `5e-324`},
		{math.MaxFloat64, `1.7976931348623157e+308`},
		{math.Copysign(0, -1), `-0`},
		{123456789012345678901.0, `123456789012345680000`},
		{"<a> & \u2028 \x7f\u0085 \"\n", "\"<a> & \u2028 \\u007f\\u0085 \\\"\\n\""},
		{[]byte{0, 255, 1, 2}, `"AP8BAg=="`},
		{[]byte(nil), `null`},
		{when, `"2026-02-08T14:30:00.0000005Z"`},
		{&when, `"2026-02-08T14:30:00.0000005Z"`},
		{[]time.Time{when}, `["2026-02-08T14:30:00.0000005Z"]`},
		{1500 * time.Millisecond, `"1.5s"`},
		{errors.New("no \xe2\x82\xac"), `"no €"`},
		{[]error{fs.ErrExist, nil}, `["file already exists",null]`},
		{(*panicError)(nil), `null`},
		{json.Number("1.50"), `1.50`},
		{json.RawMessage(` [1, {"b": "\u0041"} ] `), `[1,{"b":"\u0041"}]`},
		{json.RawMessage(nil), `null`},
		{[]json.RawMessage{[]byte(`"\ufffd"`)}, `["\ufffd"]`},
		{map[string]any{"b": 1, "a": Fields{"z": nil, "y": namedMap{"": 2}}}, `{"a":{"y":{"":2},"z":null},"b":1}`},
		{map[string]any(nil), `null`},
		{map[string]string{"b": "x", "a": "y"}, `{"a":"y","b":"x"}`},
		{map[namedString][]int{"b": {1}, "a": nil}, `{"a":null,"b":[1]}`},
		{map[int]string{2: "b", 1: "a"}, `{"1":"a","2":"b"}`},
		{[]any{}, `[]`},
		{[]any{1, "x", []any{nil}}, `[1,"x",[null]]`},
		{[]string{"a", "\x01"}, `["a","\u0001"]`},
		{[]string(nil), `null`},
		{[2]bool{true, false}, `[true,false]`},
		{[]map[string]any{{"a": 1}}, `[{"a":1}]`},
		{&one, `1`},
		{(*int)(nil), `null`},
		{namedString("x"), `"x"`},
		{namedInt(-3), `-3`},
		{struct {
			B string `json:"b"`
			A []byte
		}{"<&>", []byte{1}}, `{"b":"<&>","A":"AQ=="}`},
		{text{"t"}, `"t"`},
		{[]text{{"t"}}, `["t"]`},
		{map[string]text{"k": {"t"}}, `{"k":"t"}`},
		{[]pointerText{{"t"}}, `["*t"]`},
		{big.NewInt(12345), `12345`},
		{"\ufffd", "\"\ufffd\""},
		{struct{ S string }{"\ufffd"}, "{\"S\":\"\ufffd\"}"},
	} {
		got, err := metadataOf(t, c.v)
		if err != nil || got != c.want {
			t.Errorf("%T %v: got %s, %v, want %s", c.v, c.v, got, err, c.want)
		}
	}
}

func TestRefusedGoValueSaysWhereAndWhy(t *testing.T) {
	loop := map[string]any{}
	loop["again"] = []any{loop}
	type pointer *pointer
	var self pointer
	self = &self
	deep := any(1)
	for range 100_000 {
		deep = []any{deep}
	}
	many := make(map[string]any, 1_000_000)
	for i := range 1_000_000 {
		many[fmt.Sprint(i)] = i
	}
	for _, c := range []struct {
		v                any
		field, msg       string
		offset, fieldLen int
	}{
		{math.NaN(), "metadata.v", "NaN", -1, 0},
		{[]float64{1, math.Inf(1)}, "metadata.v[1]", "Inf", -1, 0},
		{map[string]any{"a": []any{0, map[string]any{"b c": "abc\xffd"}}}, `metadata.v.a[1]."b c"`, "UTF-8", 3, 0},
		{map[string]string{"a": "abc\xff"}, `metadata.v.a`, "UTF-8", 3, 0},
		{map[string]any{"x\xff": 1}, `metadata.v."x\xff"`, "UTF-8", 1, 0},
		{[]string{"", "\x80"}, `metadata.v[1]`, "UTF-8", 0, 0},
		{errors.New("\xff"), `metadata.v`, "UTF-8", 0, 0},
		{struct{ S string }{"\xff"}, `metadata.v`, "UTF-8", -1, 0},
		{json.Number("01"), `metadata.v`, "begins with 0", 0, 0},
		{json.Number(""), `metadata.v`, "not a JSON number", -1, 0},
		{json.Number("1x"), `metadata.v`, "after its number", 1, 0},
		{json.Number("1e999"), `metadata.v`, "float64", 0, 0},
		{json.RawMessage(`{"a":1,"a":2}`), `metadata.v.a`, "twice", 7, 0},
		{json.RawMessage(`{`), `metadata.v`, "ends", 1, 0},
		{json.RawMessage{}, `metadata.v`, "ends", 0, 0},
		{new(big.Int).Exp(big.NewInt(7), big.NewInt(40), nil), `metadata.v`, "twenty digits", 0, 0},
		{make(chan int), `metadata.v`, "unsupported type", -1, 0},
		{func() {}, `metadata.v`, "unsupported type", -1, 0},
		{complex(1, 1), `metadata.v`, "unsupported type", -1, 0},
		{panics{}, `metadata.v`, "on purpose", -1, 0},
		{panicError{}, `metadata.v`, "on purpose", -1, 0},
		{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), `metadata.v`, "10000", -1, 0},
		{loop, "", "deeper", -1, 300},
		{self, "", "deeper", -1, 300},
		{deep, "", "deeper", -1, 300},
		{many, "metadata.v", "65535", -1, 0},
		{strings.Repeat("x", 70_000), "metadata.v", "65535", -1, 0},
		{make([]byte, 60_000), "metadata", "65535", -1, 0},
		{make([]int, 1_000_000), "metadata.v", "65535", -1, 0},
		{make([]string, 1_000_000), "metadata.v[21801]", "65535", -1, 0},
		{json.RawMessage("[" + strings.Repeat("0,", 1_000_000) + "0]"), "metadata.v", "65535", -1, 0},
	} {
		_, err := metadataOf(t, c.v)
		var e *FieldError
		if !errors.As(err, &e) {
			t.Errorf("%T: got %v", c.v, err)
			continue
		}
		if !strings.Contains(e.Msg, c.msg) || e.Offset != c.offset {
			t.Errorf("%T: got offset %d, %.200s; want offset %d, …%s…", c.v, e.Offset, e.Msg, c.offset, c.msg)
		}
		if c.fieldLen == 0 && e.Field != c.field || c.fieldLen > 0 && len(e.Field) > c.fieldLen || !strings.HasPrefix(e.Field, "metadata") {
			t.Errorf("%T: got field %.300s, want %s", c.v, e.Field, c.field)
		}
	}
}

func TestRefusedEventLeavesTheBufferAlone(t *testing.T) {
	id, span := strings.Repeat("a", 32), strings.Repeat("a", 16)
	for _, c := range []struct {
		e     Event
		field string
	}{
		{Event{Level: 8}, "level"},
		{Event{Message: strings.Repeat("x", 70_000)}, "message"},
		{Event{Message: strings.Repeat("\x01", 20_000)}, ""},
		{Event{Message: "a\xff"}, "message"},
		{Event{Hostname: "\xff"}, "hostname"},
		{Event{IdempotencyKey: "\xff"}, "idempotencyKey"},
		{Event{RawMetadata: []byte(`[]`)}, "metadata"},
		{Event{RawMetadata: []byte(`{"a":}`)}, "metadata.a"},
		{Event{TraceID: id[1:]}, "traceId"},
		{Event{TraceID: strings.ToUpper(id)}, "traceId"},
		{Event{TraceID: strings.Repeat("0", 32)}, "traceId"},
		{Event{TraceID: id, SpanID: span + "a"}, "spanId"},
		{Event{SpanID: strings.Repeat("g", 16)}, "spanId"},
		{Event{EventTime: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)}, "eventTime"},
		{Event{EventTime: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -7200))}, "eventTime"},
		{Event{Log: []byte(`{"type":"clock"}`)}, "log"},
		{Event{Level: System, Log: []byte(`{"was":"","type":"clock"}`)}, "log"},
		{Event{Level: System, Log: []byte(`{"type":1}`)}, "log"},
		{Event{Level: System, Log: []byte(`{}`)}, "log"},
		{Event{Level: System, Log: []byte{}}, "log"},
	} {
		dst := append(make([]byte, 0, 4096), "before"...)
		got, err := Append(dst, &c.e)
		var e *FieldError
		if !errors.As(err, &e) || e.Field != c.field || string(got) != "before" {
			t.Errorf("want %s refused: got %v and %.40q", c.field, err, got)
		}
	}
}

func TestFloatsReadBackExactlyAndLikeEncodingJSON(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 100_000 {
		f := math.Float64frombits(rng.Uint64())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		for _, v := range []any{f, rng.NormFloat64(), float32(rng.NormFloat64() * 1e10), math.Float32frombits(rng.Uint32() &^ (1 << 30))} {
			want, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			got, fail := appendValue(nil, MaxLine, v, 1)
			if fail != nil || !bytes.Equal(got, want) {
				t.Fatalf("%v: got %s, %v, want %s", v, got, fail, want)
			}
			if end, err := number(got, 0); err != nil || end != len(got) {
				t.Fatalf("%s breaks the number rule: %v", got, err)
			}
		}
	}
}

func TestLevelNamesReadBack(t *testing.T) {
	for l := range Level(NumLevels) {
		for _, name := range []string{l.String(), strings.ToLower(l.String()), strings.ToUpper(l.String()[:1]) + strings.ToLower(l.String()[1:])} {
			if got, err := ParseLevel(name); err != nil || got != l {
				t.Errorf("%s: got %v, %v", name, got, err)
			}
		}
	}
	for _, name := range []string{"", "INF", "INFOS", "ſystem", " info", "notice", strings.Repeat("x", 1000)} {
		if l, err := ParseLevel(name); err == nil || !strings.Contains(err.Error(), "CRITICAL") || len(err.Error()) > 300 {
			t.Errorf("%.20q: got %v, %v", name, l, err)
		}
	}
}
