package syslog

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

var (
	received = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	peer     = netip.MustParseAddrPort("[::ffff:192.0.2.7]:5140")
)

func shared(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "data", filepath.FromSlash(name)))
	if err != nil {
		t.Skip("the real data is not here:", err)
	}
	return data
}

// examples are the messages of a file of the RFCs' own.
func examples(t *testing.T, name string) []string {
	t.Helper()
	var all []string
	for s := bufio.NewScanner(bytes.NewReader(shared(t, "syslog-rfc/"+name))); s.Scan(); {
		var v map[string]any
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"line"} {
			if m, ok := v[key].(string); ok {
				all = append(all, m)
				break
			}
		}
	}
	if len(all) != 2 {
		t.Fatalf("%d examples in %s", len(all), name)
	}
	return all
}

func TestExamplesOfRFC5424ReadAsTheRFCSays(t *testing.T) {
	stamp := func(s string) time.Time {
		got, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return got.UTC()
	}
	data := []Element{{"exampleSDID@32473", []Param{{"iut", "3"}, {"eventSource", "Application"}, {"eventID", "1011"}}}}
	// The second of the RFC's four, and the last, which has no text, stand here; the others are in the file.
	files := examples(t, "rfc5424_section6.5_valid.jsonl")
	all := []string{
		files[0], `<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.`, files[1],
		`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"][examplePriority@32473 class="high"]`,
	}
	want := []Message{
		{Format: RFC5424, Priority: 34, Time: stamp("2003-10-11T22:14:15.003Z"), Host: "mymachine.example.com", App: "su", MsgID: "ID47", Text: []byte("'su root' failed for lonvick on /dev/pts/8")},
		{Format: RFC5424, Priority: 165, Time: stamp("2003-08-24T05:14:15.000003-07:00"), Host: "192.0.2.1", App: "myproc", ProcID: "8710", Text: []byte("%% It's time to make the do-nuts.")},
		{Format: RFC5424, Priority: 165, Time: stamp("2003-10-11T22:14:15.003Z"), Host: "mymachine.example.com", App: "evntslog", MsgID: "ID47", Data: data, Text: []byte("An application event log entry...")},
		{Format: RFC5424, Priority: 165, Time: stamp("2003-10-11T22:14:15.003Z"), Host: "mymachine.example.com", App: "evntslog", MsgID: "ID47", Data: append(data[:1:1], Element{"examplePriority@32473", []Param{{"class", "high"}}}), Text: []byte{}},
	}
	for i, raw := range all {
		if got := Parse([]byte(raw), received); got.Err != nil || !reflect.DeepEqual(got, want[i]) && !(len(got.Text) == 0 && len(want[i].Text) == 0 && reflect.DeepEqual(got.Data, want[i].Data)) {
			t.Errorf("%q\ngot  %+v\nwant %+v", raw, got, want[i])
		}
	}
}

func TestExamplesOfRFC3164ReadAsFarAsTheyGo(t *testing.T) {
	for _, raw := range examples(t, "rfc3164_section5.4.jsonl") {
		m := Parse([]byte(raw), received)
		e := m.Event([]byte(raw), peer)
		t.Logf("%q → %+v", raw, m)
		if got := kept(t, &e); !bytes.Equal(got, []byte(raw)) {
			t.Errorf("%q: kept %q", raw, got)
		}
		if strings.HasPrefix(raw, "<") != (m.Err == nil) {
			t.Errorf("%q: error %v", raw, m.Err)
		}
	}
}

func TestBSDMessagesOfRealSenders(t *testing.T) {
	at := func(s string) time.Time {
		got, err := time.Parse(time.DateTime, s)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, c := range []struct {
		raw                     string
		time                    time.Time
		host, app, procID, text string
	}{
		{"<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8", at("2026-10-11 22:14:15"), "mymachine", "su", "", "'su root' failed for lonvick on /dev/pts/8"},
		{"<86>Dec 10 06:55:46 LabSZ sshd[24200]: Invalid user webmaster from 173.234.31.186", at("2025-12-10 06:55:46"), "LabSZ", "sshd", "24200", "Invalid user webmaster from 173.234.31.186"},
		{"<13>Nov 23 11:59:59 logger[7]: to a local socket, without a host", at("2026-11-23 11:59:59"), "", "logger", "7", "to a local socket, without a host"},
		{"<13>Feb 29 01:02:03 h a: leap", at("2024-02-29 01:02:03"), "h", "a", "", "leap"},
		{"<30>2026-11-23T10:00:00.5+01:00 host app[1]: as rsyslog forwards", at("2026-11-23 09:00:00").Add(500 * time.Millisecond), "host", "app", "1", "as rsyslog forwards"},
		{"<46>Nov  3 01:02:03 2001:db8::1 app: x", at("2026-11-03 01:02:03"), "2001:db8::1", "app", "", "x"},
		{"<13>no time: at all", time.Time{}, "", "", "", "no time: at all"},
		{"<13>Nov 31 01:02:03 h a: no such day", time.Time{}, "h", "a", "", "no such day"},
		{"<0>", time.Time{}, "", "", "", ""},
		{"<13>kernel: [ 1.0] x", time.Time{}, "", "kernel", "", "[ 1.0] x"},
		{"<86>Jun 14 15:16:01 combo sshd(pam_unix)[19939]: authentication failure; rhost=218.188.2.4 ", at("2026-06-14 15:16:01"), "combo", "sshd(pam_unix)", "19939", "authentication failure; rhost=218.188.2.4 "},
		{"<13>Nov 23 11:00:00 host http://x/y is down", at("2026-11-23 11:00:00"), "host", "", "", "http://x/y is down"},
	} {
		m := Parse([]byte(c.raw), received)
		if m.Err != nil || m.Format != BSD || !m.Time.Equal(c.time) || m.Host != c.host || m.App != c.app || m.ProcID != c.procID || string(m.Text) != c.text {
			t.Errorf("%q\ngot %+v %q", c.raw, m, m.Text)
		}
	}
}

// A time without a year is of the year that lies closest before, and up to a day after.
func TestYearIsTheOneThatWasMeant(t *testing.T) {
	newYear := time.Date(2027, 1, 1, 0, 0, 5, 0, time.UTC)
	for stamp, year := range map[string]int{"Dec 31 23:59:59": 2026, "Jan  1 00:00:01": 2027, "Jan  1 23:00:00": 2027, "Jan  3 00:00:00": 2026} {
		if m := Parse([]byte("<13>"+stamp+" h a: x"), newYear); m.Time.Year() != year {
			t.Errorf("%s was taken for %v", stamp, m.Time)
		}
	}
	if m := Parse([]byte("<13>Jan  1 00:00:01 h a: x"), newYear.Add(-10*time.Second)); m.Time.Year() != 2027 {
		t.Errorf("a sender whose clock is ahead: %v", m.Time)
	}
	east := time.FixedZone("", 3600)
	if m := Parse([]byte("<13>Nov 23 12:00:00 h a: x"), received.In(east)); !m.Time.Equal(received.Add(-time.Hour)) {
		t.Errorf("the zone is not the receiver's: %v", m.Time)
	}
}

func TestMalformedMessagesAreKeptAndSaid(t *testing.T) {
	long := strings.Repeat("x", 33)
	for raw, want := range map[string]string{
		"":                                       "empty",
		"no priority":                            "priority",
		"<>x":                                    "priority",
		"<1x>y":                                  "no number",
		"<192>x":                                 "0 to 191",
		"<013>x":                                 "0 to 191",
		"<13>2 - - - - - - x":                    "version 2",
		"<13>1 2003-10-11T22:14:15Z":             "ends after the timestamp",
		"<13>1 yesterday h a p m - x":            "timestamp",
		"<13>1 2003-13-11T22:14:15Z h a p m - x": "timestamp",
		"<13>1 2003-02-29T22:14:15Z h a p m - x": "timestamp",
		"<13>1 2003-10-11T22:14:60Z h a p m - x": "timestamp",
		"<13>1 2003-10-11t22:14:15Z h a p m - x": "timestamp",
		"<13>1 2003-10-11T22:14:15 h a p m - x":  "timestamp",
		"<13>1 2003-10-11T22:14:15.Z h a p m - x":           "timestamp",
		"<13>1 2003-10-11T22:14:15.0123456789Z h a p m - x": "timestamp",
		"<13>1 - h a p":      "ends after the process",
		"<13>1 - h a p m":    "ends after the message id",
		"<13>1 -  a p m - x": "host",
		"<13>1 - h " + strings.Repeat("a", 49) + " p m - x": "application",
		"<13>1 - h a p m x":                                                   "structured data",
		"<13>1 - h a p m -x":                                                  "not followed by a space",
		"<13>1 - h a p m [":                                                   "name",
		"<13>1 - h a p m [" + long + "] x":                                    "name",
		"<13>1 - h a p m [i a=\"1\"x] y":                                      "no end",
		"<13>1 - h a p m [i a] x":                                             `want ="value"`,
		"<13>1 - h a p m [i a=\"]\"] x":                                       "escaped",
		"<13>1 - h a p m [i a=\"b] x":                                         "",
		"<13>1 - h a p m [i a=\"\xff\"] x":                                    "UTF-8",
		"<13>1 - h a p m [i][i] x":                                            "twice",
		"<13>1 - h a p m " + strings.Repeat("[x]", 2) + " x":                  "twice",
		"<13>1 - h a p m [i" + strings.Repeat(" a=\"\"", maxParams+1) + "] x": "more than 512",
	} {
		m := Parse([]byte(raw), received)
		if m.Err == nil || !strings.Contains(m.Err.Error(), want) {
			t.Errorf("%q: error %v does not say %q", raw, m.Err, want)
		}
		e := m.Event([]byte(raw), peer)
		if e.Level != immutable.Warn || string(kept(t, &e)) != raw || m.Data != nil || string(m.Text) != raw {
			t.Errorf("%q: %+v", raw, e)
		}
		if f := metadata(t, &e); f["parseError"] != m.Err.Error() {
			t.Errorf("%q: metadata %v", raw, f)
		}
	}
	ids := make([]string, maxElements+1)
	for i := range ids {
		ids[i] = fmt.Sprintf("[e%d]", i)
	}
	if m := Parse([]byte("<13>1 - h a p m "+strings.Join(ids[1:], "")+" x"), received); m.Err != nil || len(m.Data) != maxElements {
		t.Error(m.Err)
	}
	if m := Parse([]byte("<13>1 - h a p m "+strings.Join(ids, "")+" x"), received); m.Err == nil {
		t.Error("more elements than the limit were taken")
	}
}

func TestStructuredDataIsUnescaped(t *testing.T) {
	m := Parse([]byte(`<13>1 - - - - - [a b="x\"y\\z\]\n" b="2"][c] `+"\xef\xbb\xbf"+`text`), received)
	want := []Element{{"a", []Param{{"b", `x"y\z]\n`}, {"b", "2"}}}, {ID: "c"}}
	if m.Err != nil || !reflect.DeepEqual(m.Data, want) || string(m.Text) != "text" {
		t.Errorf("got %+v %q", m, m.Text)
	}
}

func TestLevelFollowsFacilityThenSeverity(t *testing.T) {
	for priority, want := range map[int]immutable.Level{
		0: immutable.Critical, 8 + 2: immutable.Critical, 8 + 3: immutable.Error, 8 + 4: immutable.Warn, 8 + 5: immutable.Info, 191: immutable.Info,
		4 * 8: immutable.Security, 10*8 + 6: immutable.Security, 13*8 + 3: immutable.Audit,
	} {
		m := Parse(fmt.Appendf(nil, "<%d>x", priority), received)
		if e := m.Event(nil, peer); e.Level != want {
			t.Errorf("priority %d is %v, want %v", priority, e.Level, want)
		}
	}
}

// TestEveryLineOfRealLogsIsKept sends real lines as messages and finds each of them whole in its entry.
func TestEveryLineOfRealLogsIsKept(t *testing.T) {
	for _, name := range []string{"loghub-2k/Linux/Linux_2k.log", "loghub-2k/OpenSSH/OpenSSH_2k.log", "authlog-secrepo/auth.log"} {
		lines, hosts := 0, 0
		for line := range bytes.SplitSeq(shared(t, name), []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			raw := append([]byte("<86>"), line...)
			m := Parse(raw, received)
			e := m.Event(raw, peer)
			if !bytes.Equal(kept(t, &e), raw) {
				t.Fatalf("%q is not kept", raw)
			}
			lines++
			if m.Err == nil && !m.Time.IsZero() && m.Host != "" {
				hosts++
			}
		}
		if hosts < lines*99/100 || lines < 1000 {
			t.Errorf("%s: of %d lines only %d have time and host", name, lines, hosts)
		}
	}
}

func metadata(t testing.TB, e *immutable.Event) map[string]any {
	t.Helper()
	line, err := entry.Append(nil, e)
	if err != nil {
		t.Fatalf("%+v: %v", e, err)
	}
	got, err := immutable.ParseEntry(0, line)
	if err != nil {
		t.Fatal(err)
	}
	var f map[string]any
	if err := json.Unmarshal(got.Metadata, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// kept is what the entry's metadata says that the raw bytes were.
func kept(t testing.TB, e *immutable.Event) []byte {
	t.Helper()
	f := metadata(t, e)
	if s, ok := f[event.KeyRaw].(string); ok {
		return []byte(s)
	}
	s, ok := f[event.KeyRaw64].(string)
	raw, err := base64.StdEncoding.DecodeString(s)
	if !ok || err != nil {
		t.Fatalf("no raw bytes in %v", f)
	}
	return raw
}

// TestFastMetadataIsTheShape compares the bytes that are written without maps with those of the common shape.
func TestFastMetadataIsTheShape(t *testing.T) {
	for _, raw := range []string{
		"<34>1 2003-10-11T22:14:15.003Z h su 1 ID47 [z@1 b=\"2\" a=\"\\\"\" b=\"3\"][a@1] x", "<13>Nov 23 11:59:59 h a[7]: b", "nothing", "<13>\xff\xfe", "<13>1 - - - - - -", "", "<13>tag: \x01\u0085\u2028",
	} {
		for _, from := range []netip.AddrPort{{}, peer, netip.MustParseAddrPort("[fe80::1%eth0]:0")} {
			m := Parse([]byte(raw), received)
			fast := m.Event([]byte(raw), from)
			slow := fast
			slow.RawMetadata, slow.Metadata = nil, m.fields(from)
			event.Raw(slow.Metadata, []byte(raw), 0)
			a, err := entry.Append(nil, &fast)
			b, err2 := entry.Append(nil, &slow)
			if err != nil || err2 != nil || !bytes.Equal(a, b) {
				t.Errorf("%q: %v %v\n%s\n%s", raw, err, err2, a, b)
			}
		}
	}
}

// Whatever the bytes are, and as many as a frame may have, there is an entry.
func TestEveryFrameFitsAnEntry(t *testing.T) {
	for _, unit := range []string{"a", "\x00", "\xff", "\"", "é", "[a b=\"\"]"} {
		for _, n := range []int{0, smallRaw - 30, smallRaw, smallRaw + 1, 8192, DefaultMost} {
			for _, head := range []string{"", "<13>", "<13>1 - h a p m - ", "<13>1 - h a p m [x y=\""} {
				tail := ""
				if strings.HasSuffix(head, "\"") {
					tail = "\"] t"
				}
				raw := []byte(head + strings.Repeat(unit, max(n-len(head)-len(tail), 0)/len(unit)) + tail)
				m := Parse(raw, received)
				e := m.Event(raw, peer)
				if _, err := entry.Append(nil, &e); err != nil {
					t.Fatalf("%q × %d after %q: %v", unit, n, head, err)
				}
			}
		}
	}
}

// split cuts a stream that arrives in pieces.
func split(s *Splitter, stream []byte, piece func() int) (frames []Frame) {
	var buf []byte
	for len(stream) > 0 {
		n := min(piece(), len(stream))
		buf, stream = append(buf, stream[:n]...), stream[n:]
		for {
			f, n := s.Next(buf)
			if n == 0 {
				break
			}
			frames = append(frames, Frame{bytes.Clone(f.Raw), f.Err})
			buf = buf[n:]
		}
	}
	if f, ok := s.Last(buf); ok {
		frames = append(frames, Frame{bytes.Clone(f.Raw), f.Err})
	}
	return frames
}

func TestFramesDoNotDependOnHowBytesArrive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const most = 50
	for range 300 {
		var stream []byte
		var want []string
		for range rng.IntN(12) {
			body := strings.Repeat("<13>x", rng.IntN(9)+1)
			want = append(want, body)
			if rng.IntN(2) == 0 {
				stream = fmt.Appendf(stream, "%d %s", len(body), body)
			} else {
				stream = append(stream, body+"\r\n"[rng.IntN(2):]...)
			}
		}
		frames := split(&Splitter{Most: most}, stream, func() int { return rng.IntN(7) + 1 })
		var got []string
		for _, f := range frames {
			if f.Err != nil {
				t.Fatalf("%q: %v", stream, f.Err)
			}
			got = append(got, string(f.Raw))
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\ngot  %q\nwant %q", stream, got, want)
		}
	}
}

func TestLongAndBrokenFramesLoseNothing(t *testing.T) {
	for _, c := range []struct {
		stream string
		raw    []string
		bad    int
	}{
		{"10 0123456789", []string{"0123456789"}, 0},
		{"11 0123456789a5 <1>ab", []string{"0123456789", "a", "<1>ab"}, 2},
		{"<1>456789\n", []string{"<1>456789"}, 0},
		{"<1>4567890\nx\n", []string{"<1>4567890", "x"}, 0},
		{"<1>45678901 2 3\n3 abc", []string{"<1>4567890", "1 2 3", "abc"}, 2},
		{"<1>45678901", []string{"<1>4567890", "1"}, 2},
		{"12x\n<1>a\n", []string{"12x", "<1>a"}, 1},
		{"123456789 x\n", []string{"123456789 ", "x"}, 2},
		{"9 <13>", []string{"9 <13>"}, 1},
		{"<13>a", []string{"<13>a"}, 0},
		{"25 <1>", []string{"25 <1>"}, 1},
		{"0 x\n", []string{"0 x"}, 0},
		{"\n\n", []string{"", ""}, 0},
	} {
		for step := 1; step < 20; step++ {
			var got []string
			bad := 0
			for _, f := range split(&Splitter{Most: 10}, []byte(c.stream), func() int { return step }) {
				got = append(got, string(f.Raw))
				if f.Err != nil {
					bad++
				}
			}
			if !reflect.DeepEqual(got, c.raw) || bad != c.bad {
				t.Errorf("%q in steps of %d: got %q, %d bad, want %q, %d", c.stream, step, got, bad, c.raw, c.bad)
			}
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, s := range []string{"<34>1 2003-10-11T22:14:15.003Z h su - ID47 [a b=\"c\\]\"] x", "<34>Oct 11 22:14:15 h su[1]: x", "<13>x", "5 <1>ab6 <2>", "<1>a\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := Parse(b, received)
		e := m.Event(b, peer)
		if _, err := entry.Append(nil, &e); err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(e.Message) || m.Err != nil && e.Level != immutable.Warn {
			t.Fatalf("%+v", e)
		}
		s := Splitter{Most: 20}
		total := 0
		for _, fr := range split(&s, b, func() int { return 3 }) {
			total += len(fr.Raw)
			if len(fr.Raw) > 36 {
				t.Fatalf("a frame of %d bytes", len(fr.Raw))
			}
		}
		if total > len(b) {
			t.Fatal("more came out than went in")
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	raw := []byte("<86>1 2026-11-23T22:14:15.003Z web-1.example.com sshd 24200 - [timeQuality tzKnown=\"1\" isSynced=\"1\" syncAccuracy=\"173000\"] Failed password for invalid user webmaster from 173.234.31.186 port 38926 ssh2")
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		m := Parse(raw, received)
		e := m.Event(raw, peer)
		if m.Err != nil || e.Message == "" {
			b.Fatal(errors.Join(m.Err, errors.New("no message")))
		}
	}
}
