package trail

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

const shared = "../../../shared/data"

// data returns the files of a pattern below the shared data, or skips the test.
func data(t testing.TB, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(shared, pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Skipf("no %s beside the repository", pattern)
	}
	return names
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// lines divides a file as the command does.
func lines(raw []byte) [][]byte {
	out := bytes.Split(raw, []byte("\n"))
	if len(out[len(out)-1]) == 0 {
		out = out[:len(out)-1]
	}
	return out
}

func parser(t testing.TB, f Format, now string) Parser {
	t.Helper()
	at, err := time.Parse(time.RFC3339, now)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(f, Options{Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const when = "2026-11-23T12:00:00Z"

// rawOf is the bytes that an event was made of, from the entry that it becomes.
func rawOf(t testing.TB, e *immutable.Event) []byte {
	t.Helper()
	line, err := entry.Append(nil, e)
	if err != nil {
		t.Fatalf("the log refuses %+v: %v", e, err)
	}
	back, err := immutable.ParseEntry(0, line)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Raw    *string
		Raw64  *string
		Record json.RawMessage
	}
	if err := json.Unmarshal(back.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	switch {
	case m.Raw64 != nil:
		raw, err := base64.StdEncoding.DecodeString(*m.Raw64)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	case m.Raw != nil:
		return []byte(*m.Raw)
	}
	if m.Record == nil {
		t.Fatalf("an entry without its record: %.300s", line)
	}
	return m.Record
}

// wholly parses every line of a file and holds that each made one event with its very bytes.
func wholly(t *testing.T, f Format, name string) (es []immutable.Event, unread int) {
	t.Helper()
	in := lines(read(t, name))
	p := parser(t, f, when)
	for _, line := range in {
		before := len(es)
		if es = p.Parse(es, line); len(es) != before+1 || p.Held() != 0 {
			t.Fatalf("%s: %q made %d events", name, line, len(es)-before)
		}
		if es[before].Metadata[event.KeyRaw] == string(line) && before%20 != 0 {
			continue // the whole way through an entry takes long
		}
		if got := rawOf(t, &es[before]); !bytes.Equal(got, line) {
			t.Fatalf("%s: %q came back as %q", name, line, got)
		}
	}
	for i := range es {
		if es[i].Metadata[keyParseError] != nil {
			unread++
		}
	}
	return es, unread
}

// want says what is expected of one line, written by reading it.
type want struct {
	line                                    int // from 1
	time, action, actor, target, ip, reason string
	outcome                                 event.Outcome
	level                                   immutable.Level
	more                                    string // of further metadata, "name=value"
}

func (w want) check(t *testing.T, name string, e *immutable.Event) {
	t.Helper()
	s, err := event.Of(e.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	if s.Actor == nil {
		s.Actor = &event.Actor{}
	}
	if s.Target == nil {
		s.Target = &event.Target{}
	}
	if s.Source == nil {
		s.Source = &event.Source{}
	}
	ip := s.Source.IP
	if ip == "" {
		ip = s.Source.Host
	}
	got := want{
		w.line, e.EventTime.Format(time.RFC3339), s.Action, first(s.Actor.Name, s.Actor.ID), first(s.Target.Name, s.Target.ID), ip, s.Reason, s.Outcome, e.Level, "",
	}
	if name, _, ok := bytes.Cut([]byte(w.more), []byte("=")); ok {
		got.more = fmt.Sprintf("%s=%v", name, e.Metadata[string(name)])
	}
	if got != w {
		t.Errorf("%s line %d: %q\ngot  %+v\nwant %+v", name, w.line, e.Message, got, w)
	}
}

func TestAuthLogsGoThroughWithoutLoss(t *testing.T) {
	const sec, info = immutable.Security, immutable.Info
	const ok, failed, denied = event.OutcomeSuccess, event.OutcomeFailure, event.OutcomeDenied
	for _, c := range []struct {
		name  string
		known float64 // share of lines of which more than the header is understood
		wants []want
	}{
		{"authlog-secrepo/auth.log", 0.99, []want{
			{6, "2026-03-27T13:08:09Z", "user.login", "ubuntu", "", "85.245.107.41", "", ok, sec, "key=RSA SHA256:Kl8kPGZrTiz7g4FO1hyqHdsSBBb5Fge6NWOobN03XJg"},
			{9, "2026-03-27T13:08:09Z", "session.open", "ubuntu", "", "", "", ok, sec, "program=systemd-logind"},
			{10, "2026-03-27T13:09:37Z", "privilege.use", "ubuntu", "root", "", "", ok, sec, "command=/usr/bin/curl -L -O https://artifacts.elastic.co/downloads/beats/filebeat/filebeat-5.2.2-amd64.deb"},
			{11, "2026-03-27T13:09:37Z", "session.open", "ubuntu", "root", "", "", ok, sec, "service=sudo"},
			{40, "2026-03-27T13:17:01Z", "session.open", "root", "root", "", "", ok, sec, "program=CRON"},
			{86, "2026-03-27T14:01:39Z", "user.login", "root", "", "122.176.37.221", "maximum authentication attempts exceeded", denied, sec, ""},
			{92, "2026-03-27T14:04:09Z", "network.connect", "", "", "85.245.107.41", "", failed, info, ""},
			{151, "2026-03-27T16:16:42Z", "privilege.use", "root", "root", "", "", ok, sec, ""},
			{1001, "2026-03-28T19:02:28Z", "service.stop", "", "", "", "", ok, info, ""},
			{1124, "2026-03-29T10:32:51Z", "user.password.change", "", "elastic_user_$login_count", "", "does not exist in /etc/passwd", failed, sec, ""},
			{1504, "2026-03-29T10:36:43Z", "user.create", "", "elastic_user_0", "", "", ok, sec, ""},
			{1583, "2026-03-29T10:38:05Z", "user.password.change", "", "elastic_user_0", "", "", ok, sec, ""},
			{1617, "2026-03-29T10:43:01Z", "user.login", "elastic_user_7", "", "127.0.0.1", "", ok, sec, "method=password"},
			{1813, "2026-03-29T14:15:41Z", "user.login", "pi", "", "181.25.206.27", "invalid user", failed, sec, ""},
			{2302, "2026-03-29T23:18:33Z", "user.login", "root", "", "218.60.136.106", "", failed, sec, "repeated=5"},
			{4272, "2026-04-01T22:52:21Z", "user.login", "root", "", "5.167.75.191", "authentication failure", failed, sec, ""},
		}},
		{"loghub-2k/OpenSSH/OpenSSH_2k.log", 0.99, []want{
			{1, "2025-12-10T06:55:46Z", "alert.raise", "", "", "173.234.31.186", "reverse mapping failed", failed, sec, ""},
			{6, "2025-12-10T06:55:48Z", "user.login", "webmaster", "", "173.234.31.186", "invalid user", failed, sec, "method=password"},
			{158, "2025-12-10T07:51:15Z", "network.disconnect", "", "", "195.154.37.122", "", ok, info, ""},
			{160, "2025-12-10T07:51:18Z", "user.login", "uucp", "", "195.154.37.122", "authentication failure", failed, sec, "service=sshd"},
			{193, "2025-12-10T08:24:40Z", "user.login", "0", "", "5.188.10.180", "invalid user", failed, sec, "method=none"},
		}},
		{"loghub-2k/Linux/Linux_2k.log", 0.95, []want{
			{1, "2026-06-14T15:16:01Z", "user.login", "", "", "218.188.2.4", "authentication failure", failed, sec, "program=sshd"},
			{14, "2026-06-15T04:06:18Z", "session.open", "cyrus", "cyrus", "", "", ok, sec, "service=su"},
			{94, "2026-06-17T20:55:06Z", "network.connect", "", "", "82.252.162.81", "", ok, info, "program=ftpd"},
			{539, "2026-06-30T20:53:04Z", "user.login", "", "", "163.27.187.39", "Permission denied in replay cache code", failed, sec, ""},
			{899, "2026-07-07T08:06:15Z", "user.login", "root", "", "", "", ok, sec, ""},
		}},
	} {
		t.Run(filepath.Base(c.name), func(t *testing.T) {
			es, unread := wholly(t, AuthLog, data(t, c.name)[0])
			known := 0
			for i := range es {
				if es[i].Metadata[event.KeyAction] != event.ActionMessage {
					known++
				}
			}
			if unread > 0 || float64(known) < c.known*float64(len(es)) {
				t.Errorf("of %d lines %d are not read, %d understood", len(es), unread, known)
			}
			for _, w := range c.wants {
				if w.line <= len(es) { // the files beside the repository may be cut
					w.check(t, c.name, &es[w.line-1])
				}
			}
		})
	}
}

func TestAccessLogsGoThroughWithoutLoss(t *testing.T) {
	const name = "weblogs-elastic/apache_combined_10k.log"
	const ok, failed, denied = event.OutcomeSuccess, event.OutcomeFailure, event.OutcomeDenied
	es, unread := wholly(t, Access, data(t, name)[0])
	if unread > 0 {
		t.Errorf("%d lines are not read", unread)
	}
	for _, w := range []want{
		{1, "2015-05-17T10:05:03Z", "http.request", "", "/presentations/logstash-monitorama-2013/images/kibana-search.png", "83.149.9.216", "", ok, immutable.Info, "bytes=203023"},
		{63, "2015-05-17T10:05:22Z", "http.request", "", "/doc/index.html?org/elasticsearch/action/search/SearchResponse.html", "66.249.73.185", "", failed, immutable.Info, "protocol=HTTP/1.1"},
		{86, "2015-05-17T11:05:17Z", "http.request", "", "/projects/xdotool/xdotool.xhtml", "218.30.103.62", "", ok, immutable.Info, ""},
		{2071, "2015-05-18T03:05:34Z", "http.request", "", "/misc/Title.php.txt", "66.249.73.135", "", failed, immutable.Error, ""},
		{5340, "2015-05-19T06:05:17Z", "http.request", "", "/files/xdotool/xdotool-2.20101014.3063.tar.gz", "204.244.74.22", "", failed, immutable.Info, "bytes=400"},
		{5851, "2015-05-19T11:05:10Z", "http.request", "", "/files/logstash/", "201.242.142.135", "", ok, immutable.Info, "referer=http://\uFFFD-\uFFFD.\uFFFD/"},
	} {
		w.check(t, name, &es[w.line-1])
	}
	s, err := event.Of(es[5008].Metadata)
	if err != nil || s.Request.Method != "POST" || s.Request.Status != 200 || s.Actor.Type != event.ActorAnonymous ||
		s.Source.UserAgent != "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/537.11 (KHTML, like Gecko) Chrome/23.0.1271.91 Safari/537.11" {
		t.Errorf("line 5009: %+v, %+v, %v", s.Request, s.Source, err)
	}
	if s, _ := event.Of(es[3028].Metadata); s.Outcome != denied || es[3028].Level != immutable.Warn || s.Source.UserAgent != "Opera/9.80 (Windows NT 6.1; WOW64; U; ru) Presto/2.10.289 Version/12.01" {
		t.Errorf("line 3029: %+v", s)
	}
}

// Forms that the data beside the repository does not have, from the documentation of nginx and Apache.
func TestAccessLogForms(t *testing.T) {
	p := parser(t, Access, when)
	for _, c := range []struct{ in, method, path, user, host, status, more string }{
		{`127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326`, "GET", "/apache_pb.gif", "frank", "127.0.0.1", "200", "bytes=2326"},
		{`www.example.com:443 2001:db8::7 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/2.0" 301 0 "-" "curl/8.1"`, "GET", "/", "", "2001:db8::7", "301", "virtualHost=www.example.com:443"},
		{`peer.example.net - - [10/Oct/2000:13:55:36 +0000] "\x16\x03\x01\x02" 400 150 "-" "-"`, "", "", "", "peer.example.net", "400", "requestLine=\x16\x03\x01\x02"},
		{`10.0.0.1 - ann smith [10/Oct/2000:13:55:36 +0000] "GET /a b HTTP/1.1" 200 5 "-" "say \"hi\" \\ \xd0\xb9" 0.004 "-"`, "GET", "/a b", "ann smith", "10.0.0.1", "200", "bytes=5"},
		{`10.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET /" 200 5`, "GET", "/", "", "10.0.0.1", "200", ""},
		{`10.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "-" 408 -`, "", "", "", "10.0.0.1", "408", "requestLine=-"},
		{`10.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "" 400 0`, "", "", "", "10.0.0.1", "400", ""},
	} {
		es := p.Parse(nil, []byte(c.in))
		s, err := event.Of(es[0].Metadata)
		if err != nil || s.Extra[keyParseError] != nil {
			t.Errorf("%s: %v, %v", c.in, err, s.Extra[keyParseError])
			continue
		}
		name, value, _ := strings.Cut(c.more, "=")
		value, _ = strconv.Unquote(`"` + strings.ReplaceAll(value, `"`, `\"`) + `"`)
		if s.Request.Method != c.method || s.Request.Path != c.path || first(s.Source.IP, s.Source.Host) != c.host || fmt.Sprint(s.Request.Status) != c.status ||
			s.Actor.Name != c.user || c.more != "" && fmt.Sprint(s.Extra[name]) != value {
			t.Errorf("%s:\n%+v %+v %+v %v", c.in, s.Request, s.Source, s.Actor, s.Extra)
		}
	}
	if s, _ := event.Of(p.Parse(nil, []byte(`10.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET / H" 200 5 "-" "say \"hi\" \\ \xd0\xb9"`))[0].Metadata); s.Source.UserAgent != `say "hi" \ й` {
		t.Errorf("user agent %q", s.Source.UserAgent)
	}
}

// What is not understood stays, with the reason, whatever it is made of.
func TestWhatIsNotUnderstoodStays(t *testing.T) {
	for _, f := range Formats() {
		for _, in := range []string{"", " ", "\x00\xff\xfe", "nothing of the kind", `[{"a":1}]`, "{", strings.Repeat("x", 100_000), strings.Repeat("\xff", 70_000), "Mar 27", "1.2.3.4 - - [", "\r"} {
			p := parser(t, f, when)
			es := p.Flush(p.Parse(nil, []byte(in)))
			if len(es) != 1 || p.Held() != 0 {
				t.Errorf("%s of %.20q: %d events", f, in, len(es))
				continue
			}
			if _, err := entry.Append(nil, &es[0]); err != nil || es[0].Level != immutable.Warn || es[0].Metadata[keyParseError] == nil {
				t.Errorf("%s of %.20q: %v, level %s, %v", f, in, err, es[0].Level, es[0].Metadata[keyParseError])
			}
			if len(in) < 60_000 {
				if got := rawOf(t, &es[0]); string(got) != in {
					t.Errorf("%s of %.20q came back as %.20q", f, in, got)
				}
			} else if es[0].Metadata[event.KeyRawBytes] != len(in) {
				t.Errorf("%s of %.20q: %v bytes", f, in, es[0].Metadata[event.KeyRawBytes])
			}
		}
	}
}

// A name that a stranger chose does not choose where he seems to come from.
func TestStrangersDoNotChooseTheirAddress(t *testing.T) {
	p := parser(t, AuthLog, when)
	for _, c := range []struct{ text, actor, ip string }{
		{"Invalid user root from 10.0.0.1 port 22 from 203.0.113.9 port 4711", "root from 10.0.0.1 port 22", "203.0.113.9"},
		{"Failed password for invalid user a from 10.0.0.1 port 1 ssh2 from 203.0.113.9 port 4711 ssh2", "a from 10.0.0.1 port 1 ssh2", "203.0.113.9"},
		{"Accepted password for x ssh2: y from 203.0.113.9 port 4711 ssh2", "x ssh2: y", "203.0.113.9"},
		{"Connection closed by invalid user b 10.0.0.1 port 5 203.0.113.9 port 4711 [preauth]", "b 10.0.0.1 port 5", "203.0.113.9"},
		{"User c from 10.0.0.1 from 203.0.113.9 not allowed because not listed in AllowUsers", "c from 10.0.0.1", "203.0.113.9"},
	} {
		s, err := event.Of(p.Parse(nil, []byte("Mar  7 13:06:56 h sshd[1]: "+c.text))[0].Metadata)
		if err != nil || s.Actor == nil || s.Actor.Name != c.actor || s.Source.IP != c.ip {
			t.Errorf("%s: %+v %+v %v", c.text, s.Actor, s.Source, err)
		}
	}
}

func TestYearIsTheNewestThatHasCome(t *testing.T) {
	for _, c := range []struct{ now, in, want string }{
		{"2026-01-01T00:30:00Z", "Dec 31 23:59:59", "2025-12-31T23:59:59Z"},
		{"2026-01-01T00:30:00Z", "Jan  1 00:30:01", "2026-01-01T00:30:01Z"},
		{"2025-12-31T23:59:00Z", "Jan  1 00:00:01", "2026-01-01T00:00:01Z"}, // that machine's clock is ahead
		{"2026-03-01T00:00:00Z", "Feb 29 12:00:00", "2024-02-29T12:00:00Z"},
		{"2103-03-01T00:00:00Z", "Feb 29 12:00:00", "2096-02-29T12:00:00Z"},
		{"2026-03-01T00:00:00Z", "2026-02-28T23:00:00.5+02:00", "2026-02-28T21:00:00Z"},
	} {
		es := parser(t, AuthLog, c.now).Parse(nil, []byte(c.in+" h sshd[1]: Connection closed by 192.0.2.1"))
		if got := es[0].EventTime.Format(time.RFC3339); got != c.want || es[0].Hostname != "h" || es[0].PID != 1 {
			t.Errorf("%s at %s is %s on %q by %d, want %s", c.in, c.now, got, es[0].Hostname, es[0].PID, c.want)
		}
	}
}
