package entry

import (
	"testing"
	"time"
)

func sample() *Event {
	return &Event{
		Level:   Audit,
		Message: "GitHub commit created",
		Metadata: Fields{
			"repo": "tree-of-life-system", "sha": "abc123", "user": "alice@example.com",
			"additions": 120, "private": true, "ratio": 0.25,
		},
		Hostname: "web-1.example.com",
		PID:      4242,
	}
}

func TestPatchedLineDecodesToItsParts(t *testing.T) {
	e := sample()
	e.EventTime = time.Date(2026, 2, 8, 14, 30, 0, 120, time.UTC)
	e.TraceID, e.SpanID, e.IdempotencyKey = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "k\n1"
	line, err := Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	var l Line
	if err := Decode(line, &l); err != nil {
		t.Fatalf("unpatched: %v", err)
	}
	Patch(line, 1<<33+77, 1770561000123456789, 1<<63|1<<41|5)
	if err := Decode(line, &l); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if l.Index32 != 77 || l.Session != 1<<41|5 || l.Time != 1770561000123456789 {
		t.Errorf("%s: got index %d, session %x, time %d", line, l.Index32, l.Session, l.Time)
	}
	want := `{"id":"` + string(l.ID[:]) + `","timestamp":"2026-02-08T14:30:00.123456789Z","level":"AUDIT","message":"GitHub commit created",` +
		`"metadata":{"additions":120,"private":true,"ratio":0.25,"repo":"tree-of-life-system","sha":"abc123","user":"alice@example.com"},` +
		`"hostname":"web-1.example.com","pid":4242,"eventTime":"2026-02-08T14:30:00.00000012Z","traceId":"4bf92f3577b34da6a3ce929d0e0e4736",` +
		`"spanId":"00f067aa0ba902b7","idempotencyKey":"k\n1"}`
	if string(line) != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
}
