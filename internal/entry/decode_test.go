package entry

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func mustAppend(t testing.TB, e *Event) []byte {
	t.Helper()
	line, err := Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// goodLines are entries with every member and every kind of value.
func goodLines(t testing.TB) [][]byte {
	t.Helper()
	full := sample()
	full.EventTime = time.Date(2024, 2, 29, 23, 59, 59, 1, time.UTC)
	full.TraceID, full.SpanID, full.IdempotencyKey = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "k\u0085\n\"1"
	full.Message, full.Hostname = "a \"b\" \\ \x00\x1f\x7f \u0080\u009f é 😀 \u2028", "höst"
	control := &Event{Level: System, Log: []byte(`{"type":"clock","was":"x","now":"y"}`)}
	plain := mustAppend(t, &Event{Metadata: Fields{"a": []any{1, 1.5, nil, true, "x", map[string]any{}}}})
	var lines [][]byte
	for i, line := range [][]byte{mustAppend(t, full), mustAppend(t, control), mustAppend(t, &Event{PID: math.MaxUint32}), plain} {
		Patch(line, uint64(i)*0x9999_9999_9999, []int64{0, MaxTime, 1770561000123456789, 951782400000000000}[i], uint64(i)*0x1234_5678_9abc_def1)
		lines = append(lines, line)
	}
	reserved := bytes.TrimSuffix(lines[0], []byte("}"))
	lines = append(lines, append(bytes.Clone(reserved), `,"blob":{},"encrypted":{"x":[]}}`...), append(bytes.Clone(reserved), `,"blob":{"k":"\u0041"}}`...))
	signed := &Event{Producer: &Producer{Key: "0123456789abcdef", Counter: MaxCounter, Signature: bytes.Repeat([]byte{0xfb, 0x5a}, 32)}}
	return append(lines, mustAppend(t, signed))
}

func TestEveryFlippedOrCutByteIsJudgedAsByTheTwin(t *testing.T) {
	for _, line := range goodLines(t) {
		if !checkDecode(t, line) {
			t.Fatalf("%s is refused", line)
		}
		for i := range line {
			checkDecode(t, line[:i])
			for bit := range 8 {
				other := bytes.Clone(line)
				other[i] ^= 1 << bit
				checkDecode(t, other)
			}
			for _, c := range []byte(" \"\\,:{}[]0x\x7f\n") {
				checkDecode(t, append(append(bytes.Clone(line[:i]), c), line[i:]...))
				checkDecode(t, append(append(bytes.Clone(line[:i]), c), line[i+1:]...))
			}
			checkDecode(t, append(bytes.Clone(line[:i]), line[i+1:]...))
		}
	}
}

func TestRefusedLineSaysWhere(t *testing.T) {
	good := string(goodLines(t)[0])
	for _, c := range []struct{ old, new, field string }{
		{`"timestamp":"1970-01-01`, `"timestamp":"1970-02-30`, "timestamp"},
		{`"timestamp":"1970-01-01T00:00:00`, `"timestamp":"1970-01-01T00:00:60`, "timestamp"},
		{`"timestamp":"1970`, `"timestamp":"1969`, "timestamp"},
		{`"timestamp":"1970-01-01T00:00:00.0`, `"timestamp":"1970-01-01T00:00:00.9`, "id"},
		{`"level":"AUDIT"`, `"level":"Audit"`, "level"},
		{`"level":"AUDIT"`, `"level":"SE"`, "level"},
		{`\u0000`, `\u0041`, "message"},
		{`\u001f`, `\u001F`, "message"},
		{`\u007f`, "\u007f", "message"},
		{`\u009f`, "\u009f", "message"},
		{`é`, "\xff", "message"},
		{`\"b\"`, `\/b\"`, "message"},
		{`"additions":120`, `"additions":1e400`, "metadata.additions"},
		{`"additions":120`, `"repo":1`, "metadata.repo"},
		{`"additions":120`, `"additions": 120`, "metadata.additions"},
		{`höst`, strings.Repeat("é", 128), "hostname"},
		{`"pid":4242`, `"pid":04242`, "pid"},
		{`"pid":4242`, `"pid":4294967296`, "pid"},
		{`59.000000001Z`, `59.0000000010Z`, "eventTime"},
		{`59.000000001Z`, `59.00000000Z`, "eventTime"},
		{`59.000000001Z`, `59.Z`, "eventTime"},
		{`"eventTime":"2024-02-29`, `"eventTime":"2023-02-29`, "eventTime"},
		{`4bf92f3577b34da6a3ce929d0e0e4736`, `4BF92F3577B34DA6A3CE929D0E0E4736`, "traceId"},
		{`4bf92f3577b34da6a3ce929d0e0e4736`, strings.Repeat("0", 32), "traceId"},
		{`00f067aa0ba902b7`, `00f067aa0ba902b`, "spanId"},
		{`"idempotencyKey":"`, `"idempotencyKey":"` + strings.Repeat("x", 256), "idempotencyKey"},
	} {
		line := strings.Replace(good, c.old, c.new, 1)
		if line == good {
			t.Fatalf("%s is not in the line", c.old)
		}
		var l Line
		var e *FieldError
		err := Decode([]byte(line), &l)
		if !errors.As(err, &e) || e.Field != c.field {
			t.Errorf("%s for %s: got %v, want field %s", c.new, c.old, err, c.field)
			continue
		}
		name := c.field[strings.LastIndex(c.field, ".")+1:]
		from, to := strings.Index(good, `"`+name+`"`), strings.Index(good, c.old)+len(c.new)
		if e.Offset < min(from, to) || e.Offset > max(from, to) {
			t.Errorf("%s for %s: offset %d is not within %d and %d", c.new, c.old, e.Offset, from, to)
		}
		checkDecode(t, []byte(line))
	}
}

func TestHostnameAndKeyLimitsCountDecodedBytes(t *testing.T) {
	for _, c := range []struct {
		host, key string
		ok        bool
	}{
		{strings.Repeat("\x01", 255), strings.Repeat("\"", 256), true},
		{strings.Repeat("\u0085", 127), strings.Repeat("\u0085", 128), true},
		{strings.Repeat("\u0085", 128), "", false},
		{"", strings.Repeat("\u0085", 129), false},
		{strings.Repeat("x", 256), "", false},
		{"", strings.Repeat("x", 257), false},
	} {
		_, err := Append(nil, &Event{Hostname: c.host, IdempotencyKey: c.key})
		if (err == nil) != c.ok {
			t.Errorf("%d and %d bytes: %v", len(c.host), len(c.key), err)
		}
		line := string(mustAppend(t, &Event{}))
		line = strings.Replace(line, `"hostname":""`, `"hostname":`+naiveQuote(c.host), 1)
		if c.key != "" {
			line = strings.TrimSuffix(line, "}") + `,"idempotencyKey":` + naiveQuote(c.key) + `}`
		}
		if checkDecode(t, []byte(line)) != c.ok {
			t.Errorf("%d and %d bytes: decode does not agree", len(c.host), len(c.key))
		}
	}
}

func TestLineSizeHasALimit(t *testing.T) {
	empty := len(mustAppend(t, &Event{}))
	line := mustAppend(t, &Event{Message: strings.Repeat("x", MaxLine-empty)})
	var l Line
	if err := Decode(line, &l); err != nil || len(line) != MaxLine {
		t.Errorf("%d bytes: %v", len(line), err)
	}
	if _, err := Append(nil, &Event{Message: strings.Repeat("x", MaxLine-empty+1)}); err == nil {
		t.Error("a line of one byte more is accepted")
	}
	if err := Decode([]byte(strings.Replace(string(line), "xx", "xxx", 1)), &l); err == nil {
		t.Error("decode accepts a line of one byte more")
	}
}

func TestTimestampEqualsTheStandardLibrarys(t *testing.T) {
	const layout = "2006-01-02T15:04:05.000000000Z"
	rng := rand.New(rand.NewPCG(5, 6))
	times := []int64{0, 1, 999999999, MaxTime, MaxTime - 1}
	for day := range int64(106650) {
		times = append(times, day*86400e9, day*86400e9+86399999999999)
	}
	for range 10_000 {
		times = append(times, rng.Int64N(MaxTime+1))
	}
	for _, ns := range times {
		if ns > MaxTime {
			continue
		}
		want := time.Unix(0, ns).UTC().Format(layout)
		got := FormatTime(nil, ns)
		if string(got) != want {
			t.Fatalf("%d: got %s, want %s", ns, got, want)
		}
		if back, err := ParseTime(got); err != nil || back != ns {
			t.Fatalf("%s: got %d, %v, want %d", got, back, err, ns)
		}
	}
	for range 200_000 {
		b := FormatTime(nil, times[rng.IntN(len(times)-5)])
		for range 1 + rng.IntN(3) {
			b[rng.IntN(len(b))] = "0123456789:TZ-. /;\xb0"[rng.IntN(19)]
		}
		want, err := time.Parse(layout, string(b))
		ok := err == nil && want.Year() >= 1970 && want.Year() <= 2261 && want.Format(layout) == string(b)
		got, fail := ParseTime(b)
		if (fail == nil) != ok || (ok && got != want.UnixNano()) {
			t.Fatalf("%s: got %d, %v; time.Parse says %v, %v", b, got, fail, want, err)
		}
	}
	if _, err := ParseTime(append(FormatTime(nil, 0), ' ')); err == nil {
		t.Error("bytes after the timestamp are accepted")
	}
}

func TestTimestampOutsideTheFormatPanics(t *testing.T) {
	for _, ns := range []int64{-1, math.MinInt64, MaxTime + 1, math.MaxInt64} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d is written as %s", ns, FormatTime(nil, ns))
				}
			}()
			FormatTime(nil, ns)
		}()
	}
}

func TestIDHoldsMillisecondsSessionAndIndex(t *testing.T) {
	line := mustAppend(t, &Event{})
	Patch(line, 0xfedc_0123_4567, 0x0198_7654_3210*1e6, 0x2aa_aaaa_aaaa)
	// 42 bits 10…10, then 32 of index, around the version and variant.
	if got, want := string(line[idStart:idStart+36]), "01987654-3210-7aaa-aaaa-aaaa01234567"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	rng := rand.New(rand.NewPCG(7, 8))
	for range 10_000 {
		index, session, ns := rng.Uint64(), rng.Uint64(), rng.Int64N(MaxTime)
		Patch(line, index, ns, session)
		var l Line
		if err := Decode(line, &l); err != nil || l.Index32 != uint32(index) || l.Session != session&(1<<42-1) || l.Time != ns {
			t.Fatalf("%s: %v: got index %d, session %x, time %d; want %d, %x, %d", line, err, l.Index32, l.Session, l.Time, uint32(index), session&(1<<42-1), ns)
		}
	}
}

func TestContentIgnoresOnlyWhatARepeatMayChange(t *testing.T) {
	base := *sample()
	base.EventTime, base.IdempotencyKey = time.Unix(5, 0), "k"
	content := func(e Event, ns int64) string {
		line := mustAppend(t, &e)
		Patch(line, uint64(ns), ns, uint64(ns))
		return string(Content(line))
	}
	want := content(base, 1)
	same, changed := base, base
	same.Hostname, same.PID, same.IdempotencyKey = "other", 1, ""
	if got := content(same, 1e18); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, change := range map[string]func(e *Event){
		"level":     func(e *Event) { e.Level = Warn },
		"message":   func(e *Event) { e.Message += "." },
		"metadata":  func(e *Event) { e.Metadata = Fields{} },
		"eventTime": func(e *Event) { e.EventTime = time.Unix(5, 1) },
		"traceId":   func(e *Event) { e.TraceID = strings.Repeat("a", 32) },
		"spanId":    func(e *Event) { e.SpanID = strings.Repeat("a", 16) },
	} {
		changed = base
		change(&changed)
		if content(changed, 1) == want {
			t.Errorf("another %s gives the same content", name)
		}
	}
	if Content([]byte("{}")) != nil {
		t.Error("what is no line has content")
	}
}

func TestEventTimeIsClampedToInt64(t *testing.T) {
	for text, want := range map[string]int64{
		"0000-01-01T00:00:00Z": math.MinInt64, "9999-12-31T23:59:59.999999999Z": math.MaxInt64, "1969-12-31T23:59:59.5Z": -5e8,
		"1677-09-21T00:12:43.145224192Z": math.MinInt64, "1677-09-21T00:12:43.145224193Z": math.MinInt64 + 1,
		"2262-04-11T23:47:16.854775807Z": math.MaxInt64, "2262-04-11T23:47:16.854775806Z": math.MaxInt64 - 1, "1970-01-01T00:00:01Z": 1e9,
	} {
		l := Line{EventTime: []byte(text)}
		if got, ok := l.EventNano(); !ok || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, ok, want)
		}
	}
	if _, ok := new(Line).EventNano(); ok {
		t.Error("an absent eventTime has a value")
	}
}

func TestAppendIntoABufferDoesNotAllocate(t *testing.T) {
	dst, mapped, raw := make([]byte, 0, 4096), sample(), sample()
	raw.RawMetadata = []byte(rawSample)
	for _, e := range []*Event{mapped, raw} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := Append(dst, e); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	for _, line := range goodLines(t) {
		var l Line
		if n := testing.AllocsPerRun(100, func() {
			if err := Decode(line, &l); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", line, n)
		}
	}
}
