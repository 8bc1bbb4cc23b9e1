package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// readAll renders every record of an input.
func readAll(t testing.TB, r io.Reader, o Options) []string {
	t.Helper()
	d := NewReader(r, o)
	defer d.Close()
	var out []string
	last := uint64(0)
	for {
		c, err := d.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			return append(out, "error: "+err.Error())
		}
		for _, rec := range c.Records {
			if rec.Number <= last {
				t.Fatalf("record %d after %d", rec.Number, last)
			}
			last = rec.Number
			out = append(out, fmt.Sprintf("%d %q %s %s %v %v", rec.Number, rec.Event.Message, rec.Event.RawMetadata, rec.Event.Level, rec.Event.EventTime, rec.Err))
		}
		c.Release()
	}
}

func TestRecordsDoNotDependOnHowTheInputArrives(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	long := strings.Repeat("z", 300_000)
	for _, in := range []string{
		"", "\n", "a", "a\n", "a\nb\r\n\n\tc", long + "\nshort\n" + long, strings.Repeat("line\n", 100_000),
		`{"a":1}`, "{\"a\":1}\n{\"b\":2}\n\n{bad\n{\"c\":3}", `{"a":"` + long + "\"}\n{\"b\":1}\n",
		`[{"a":1},{"b":[{}]} , {"c":"]}\""}]`, "[\n{\"a\":1}\n]\n[{\"b\":1}]", "[]", "[", "[{\"a\":1}", "[{\"a\":1},]", "[1,\"x\",null]",
		`{"Records":[{"eventName":"x","eventTime":"2026-01-02T03:04:05Z"},{"a":1}]}{"Records":[]}`, `{"Records":[{"a":1}],"more":1}`, `{ "Records" : 5 }`,
		"{\n \"a\": 1\n}\n{\n \"b\": {}\n}\n", "{\"a\":\n", "\xef\xbb\xbf{\"a\":1}\n", "\xff\xfe\n", `{"a":1}{"b":2}`, "{\"Rec", "{}]",
	} {
		for _, f := range []Format{Auto, Text, Lines, JSON} {
			o := Options{Format: f}
			want := readAll(t, strings.NewReader(in), o)
			if len(in) < 1000 {
				if got := readAll(t, iotest.OneByteReader(strings.NewReader(in)), o); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s of %.60q, byte by byte: got %.300q, want %.300q", f, in, got, want)
				}
			}
			if got := readAll(t, iotest.DataErrReader(&pieces{rng, []byte(in)}), o); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s of %.60q in pieces: got %.300q, want %.300q", f, in, got, want)
			}
			var packed bytes.Buffer
			z, err := zstd.NewWriter(&packed)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(z, in); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, &packed, o); in != "" && fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s of %.60q, packed: got %.300q, want %.300q", f, in, got, want)
			}
		}
	}
}

// pieces returns random parts.
type pieces struct {
	rng  *rand.Rand
	left []byte
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1+p.rng.IntN(100_000))], p.left)
	p.left = p.left[n:]
	return n, nil
}

func TestDetection(t *testing.T) {
	for _, c := range []struct {
		in, name string
		want     Format
	}{
		{"", "", Text},
		{"hello", "", Text},
		{"[Sun Dec 04] x\n", "", Text},
		{"[\n", "", Text},
		{"[1,2]\n", "", Text},
		{"[1,2]\n", "a.json", JSON},
		{"[1]", "a.json.gz", JSON},
		{`[{"a":1}]`, "", JSON},
		{" [ \n {", "", JSON},
		{"[]\n", "", JSON},
		{"[] text\n", "", Text},
		{`{"a":1}` + "\n", "", Lines},
		{`{"a":1}`, "x.json", Lines},
		{"{\n", "", JSON},
		{"{\"a\": [\n1]}", "", JSON},
		{`{"a":` + "\n", "", Lines},
		{`{"a":` + "\n", "x.json", JSON},
		{`{"Records":[{}`, "", JSON},
		{"\xef\xbb\xbf{}\n", "", Lines},
		{"1\n2\n", "", Text},
	} {
		d := &Reader{o: Options{Format: Auto, Name: c.name}}
		_, got, err := d.detect(iotest.OneByteReader(strings.NewReader(c.in)))
		if err != nil || got != c.want {
			t.Errorf("%q named %q: got %q, %v, want %q", c.in, c.name, got, err, c.want)
		}
	}
}

func TestOwnShape(t *testing.T) {
	for _, c := range []struct {
		in  string
		own bool
		err string
	}{
		{`{"message":"m"}`, true, ""},
		{`{"message":"m","level":"AuDiT","metadata":{"a":1},"eventTime":"2026-01-02T03:04:05Z","traceId":"a","spanId":"b","idempotencyKey":"k"}`, true, ""},
		{`{"message":"m","eventTime":"noon"}`, true, "eventTime"},
		{`{"message":"\ud800"}`, true, "surrogate"},
		{`{"message":"m","other":1}`, false, ""},
		{`{"message":"m","level":"debug"}`, false, ""},
		{`{"message":"m","metadata":[]}`, false, ""},
		{`{"message":"m","message":"n"}`, false, ""},
		{`{"message":5}`, false, ""},
		{`{"level":"audit"}`, false, ""},
	} {
		var r Record
		(&parser{o: &Options{}}).object(&r, []byte(c.in), false)
		if own := string(r.Event.RawMetadata) != c.in; own != c.own {
			t.Errorf("%s: taken for ours: %t, want %t", c.in, own, c.own)
		}
		if c.err == "" != (r.Err == nil) || r.Err != nil && !strings.Contains(r.Err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", c.in, r.Err, c.err)
		}
	}
}

func TestForeignTimes(t *testing.T) {
	want := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	for _, in := range []string{
		`"2026-01-02T03:04:05.678Z"`, `"2026-01-02T05:04:05.678+02:00"`, `"2026-01-02 03:04:05.678Z"`, `1767323045.678`, `"1767323045.678"`, `1767323045678`, `1767323045678000`, `1767323045678000000`,
	} {
		if got, ok := foreignTime([]byte(in)); !ok || !got.Equal(want) {
			t.Errorf("%s: got %v, %t", in, got, ok)
		}
	}
	for _, in := range []string{``, `null`, `{}`, `"noon"`, `5`, `-1767323045`, `1e9`, `99999999999999999999`, `"10000-01-01T00:00:00Z"`} {
		if got, ok := foreignTime([]byte(in)); ok {
			t.Errorf("%s: got %v", in, got)
		}
	}
}

func TestPairsKeepOrderAndSpelling(t *testing.T) {
	got, err := Pairs([]string{"z=1", "a:=1.50", "k=a=b", "empty=", "l:=[1, 2]", "x:y=2"})
	if want := `{"z":"1","a":1.50,"k":"a=b","empty":"","l":[1, 2],"x:y":"2"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	for _, bad := range []string{"x", "=x", ":=1", "a:=", "a:={", "a=\xff"} {
		if got, err := Pairs([]string{bad}); err == nil {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

// TestBombIsReadInBoundedMemory unpacks 256 MiB without a newline, packed into some kilobytes.
func TestBombIsReadInBoundedMemory(t *testing.T) {
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte("x"), 1<<20)
	for range 256 {
		if _, err := z.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, io.MultiReader(&packed), Options{})
	if len(got) != 1 || !strings.Contains(got[0], "longer than") {
		t.Fatalf("got %.200q", got)
	}
}

func TestExportedKeepsWhatItIsToldTo(t *testing.T) {
	e, control, err := Exported([]byte(`{"id":"i","timestamp":"2026-01-02T03:04:05.000000001Z","level":"AUDIT","message":"m","metadata":{"b":1,"a":2.50},"hostname":"h","pid":7,"log":{"type":"clock"}}`))
	if err != nil || !control {
		t.Fatalf("%v, control %t", err, control)
	}
	if e.Level != entry.Audit || e.Message != "m" || string(e.RawMetadata) != `{"b":1,"a":2.50}` || e.Hostname != "h" || e.PID != 7 || e.IdempotencyKey != "import:i" || e.EventTime.Nanosecond() != 1 || e.Log != nil {
		t.Fatalf("%+v", e)
	}
}

// FuzzReader: no input makes reading panic or hang, numbers rise, and what is taken as a JSON record is JSON for encoding/json too,
// if the log would take it.
func FuzzReader(f *testing.F) {
	f.Add([]byte("{\"a\":1}\nx\n"), byte(0))
	f.Add([]byte(`[{"a":1},{"Records":[]}]`), byte(3))
	f.Add([]byte(`{"Records":[{"a":1},2]}`), byte(0))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00"), byte(0))
	f.Fuzz(func(t *testing.T, data []byte, which byte) {
		o := Options{Format: []Format{Auto, Text, Lines, JSON}[which%4]}
		want := readAll(t, bytes.NewReader(data), o)
		if got := readAll(t, iotest.HalfReader(bytes.NewReader(data)), o); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("in halves: got %q, want %q", got, want)
		}
		d := NewReader(bytes.NewReader(data), o)
		for {
			c, err := d.Next()
			if err != nil {
				return
			}
			for i := range c.Records {
				r := &c.Records[i]
				if r.Err == nil && Check(&r.Event) == nil && len(r.Event.RawMetadata) > 0 && !json.Valid(r.Event.RawMetadata) {
					t.Fatalf("taken as JSON: %q", r.Event.RawMetadata)
				}
			}
			c.Release()
		}
	})
}

// TestJournalEntriesComeAsTheirBytes reads a journal byte by byte, and at once.
func TestJournalEntriesComeAsTheirBytes(t *testing.T) {
	raw, err := os.ReadFile("../journal/testdata/journalctl.export")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []io.Reader{bytes.NewReader(raw), iotest.OneByteReader(bytes.NewReader(raw)), iotest.DataErrReader(bytes.NewReader(append([]byte("\n\n\n"), raw...)))} {
		d := NewReader(in, Options{Format: Journal, Bytes: true})
		var got []byte
		n := uint64(0)
		for {
			c, err := d.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range c.Records {
				if n++; r.Err != nil || r.Number != n {
					t.Fatalf("record %d is numbered %d, %v", n, r.Number, r.Err)
				}
				got = append(got, bytes.TrimLeft(r.Bytes, "\n")...)
			}
			c.Release()
		}
		d.Close()
		if n != 7 || !bytes.Equal(got, raw) {
			t.Errorf("%d records of %d bytes, want 7 of %d", n, len(got), len(raw))
		}
	}
	d := NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(raw))), Options{Format: Journal, Bytes: true})
	defer d.Close()
	if c, err := d.Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a read that failed: %v, %v", c, err)
	}
}
