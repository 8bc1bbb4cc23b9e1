package entry

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math"
	"strings"
	"testing"
)

func signedSample(counter uint64, size int) *Event {
	e := sample()
	e.Producer = &Producer{Key: "fedcba9876543210", Counter: counter, Signature: bytes.Repeat([]byte{1, 2, 3, 0xff}, size/4)}
	return e
}

func TestSignatureReadsBackExactly(t *testing.T) {
	for _, size := range []int{Ed25519Signature, MLDSA44Signature} {
		for _, counter := range []uint64{1, 9, 10, 1 << 33, MaxCounter - 1, MaxCounter} {
			e := signedSample(counter, size)
			line := mustAppend(t, e)
			Patch(line, 7, 1770561000123456789, 5)
			if !checkDecode(t, line) {
				t.Fatalf("%s is refused", line)
			}
			var l Line
			if err := Decode(line, &l); err != nil {
				t.Fatal(err)
			}
			p, ok := l.Signature()
			if !ok || p.Key != e.Producer.Key || p.Counter != counter || !bytes.Equal(p.Signature, e.Producer.Signature) {
				t.Errorf("got %+v, %v", p, ok)
			}
		}
	}
	unsigned, e := mustAppend(t, sample()), signedSample(7, 64)
	got, err := AppendProducer(unsigned[:len(unsigned)-1:len(unsigned)-1], e.Producer)
	if err != nil || string(got)+"}" != string(mustAppend(t, e)) {
		t.Errorf("added to a line: %s, %v", got, err)
	}
	if got, err := AppendProducer([]byte("x"), &Producer{}); err == nil || string(got) != "x" {
		t.Errorf("a bad one is added: %s, %v", got, err)
	}
	var l Line
	if err := Decode(mustAppend(t, sample()), &l); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Signature(); ok {
		t.Error("an unsigned line has a signature")
	}
}

func TestSignedContentIsWhatTheSourceSaid(t *testing.T) {
	e := sample()
	e.IdempotencyKey = "k"
	unsigned := mustAppend(t, e)
	want := `{"level":"AUDIT","message":"GitHub commit created",` +
		`"metadata":{"additions":120,"private":true,"ratio":0.25,"repo":"tree-of-life-system","sha":"abc123","user":"alice@example.com"},` +
		`"hostname":"web-1.example.com","pid":4242,"idempotencyKey":"k"}`
	if got := SignedContent(unsigned); string(got) != want {
		t.Errorf("unsigned: got  %s\nwant %s", got, want)
	}
	e.Producer = signedSample(3, 64).Producer
	line := mustAppend(t, e)
	for range 2 {
		if got := SignedContent(line); string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		Patch(line, 99, MaxTime, 1<<41) // the log's id and timestamp are not the source's
	}
	if got := SignedContent([]byte(`{}`)); got != nil {
		t.Errorf("what is no line has the content %s", got)
	}
	if got := SignedContent(mustAppend(t, &Event{Level: System, Log: []byte(`{"type":"x"}`)})); got != nil {
		t.Errorf("a control entry has the content %s", got)
	}
	message := string(ProducerMessage([]byte("x"), "example.com/a", "fedcba9876543210", 18, []byte("{}")))
	if want := "ximmutable/producer/1\nexample.com/a\nfedcba9876543210\n18\n{}"; message != want {
		t.Errorf("got %q, want %q", message, want)
	}
}

func TestProducerOutsideTheFormatIsRefused(t *testing.T) {
	sig := make([]byte, 64)
	for name, p := range map[string]Producer{
		"producer.key":       {Key: "FEDCBA9876543210", Counter: 1, Signature: sig},
		"producer.key ":      {Key: "fedcba987654321", Counter: 1, Signature: sig},
		"producer.key  ":     {Key: "fedcba98765432100", Counter: 1, Signature: sig},
		"producer.key   ":    {Key: `fedcba98765432"0`, Counter: 1, Signature: sig},
		"producer.counter":   {Key: "fedcba9876543210", Counter: 0, Signature: sig},
		"producer.counter ":  {Key: "fedcba9876543210", Counter: MaxCounter + 1, Signature: sig},
		"producer.counter  ": {Key: "fedcba9876543210", Counter: math.MaxUint64, Signature: sig},
		"producer.signature": {Key: "fedcba9876543210", Counter: 1, Signature: sig[1:]},
	} {
		_, err := Append(nil, &Event{Producer: &p})
		var e *FieldError
		if !errors.As(err, &e) || e.Field != strings.TrimSpace(name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Append(nil, &Event{Level: System, Log: []byte(`{"type":"x"}`), Producer: &Producer{Key: "fedcba9876543210", Counter: 1, Signature: sig}}); err == nil {
		t.Error("a signed control entry is written")
	}
	good := string(mustAppend(t, signedSample(12, 64)))
	b64 := base64.StdEncoding.EncodeToString(signedSample(1, 64).Producer.Signature)
	for _, c := range []struct{ old, new, field string }{
		{`"fedcba9876543210"`, `"fedcba987654321A"`, "producer.key"},
		{`"fedcba9876543210"`, `"fedcba987654321"`, "producer.key"},
		{`"fedcba9876543210"`, `"fedcba98765432100"`, "producer"},
		{`"counter":12`, `"counter":0`, "producer.counter"},
		{`"counter":12`, `"counter":012`, "producer.counter"},
		{`"counter":12`, `"counter":9223372036854775808`, "producer.counter"},
		{`"counter":12`, `"counter":10000000000000000000`, "producer"},
		{`"counter":12`, `"counter":1.0`, "producer"},
		{`"counter":12`, `"counter":"1"`, "producer.counter"},
		{b64, b64[4:], "producer.signature"},
		{b64, b64[:len(b64)-4] + "/+==", "producer.signature"}, // 64 bytes end in two padding characters and four zero bits
		{b64, b64[:40] + `\n` + b64[42:], "producer.signature"},
		{b64, b64[:40] + "\n\r" + b64[42:], "producer.signature"},
		{b64, b64[:40] + "-_" + b64[42:], "producer.signature"},
		{b64, strings.TrimRight(b64, "="), "producer.signature"},
		{`"}}`, `"} }`, ""},
		{`"}}`, `"}`, ""},
		{`"}}`, `","x":1}}`, "producer"},
		{`"}}`, `"},"blob":{}}`, ""},
		{`"}}`, `"},"log":{"type":"x"}}`, ""},
		{`"producer":{`, `"producer":{"x":1,`, "producer"},
		{`{"key"`, `[{"key"`, "producer"},
	} {
		line := strings.Replace(good, c.old, c.new, 1)
		if line == good {
			t.Fatalf("%s is not in the line", c.old)
		}
		var l Line
		var e *FieldError
		if err := Decode([]byte(line), &l); !errors.As(err, &e) || e.Field != c.field {
			t.Errorf("%s for %s: got %v, want field %q", c.new, c.old, err, c.field)
		}
		if len(line) < 5000 {
			checkDecode(t, []byte(line))
		}
	}
	if cut := strings.TrimSuffix(good, `"}}`); Decode([]byte(cut), new(Line)) == nil {
		t.Error("a signature without an end is accepted")
	}
}
