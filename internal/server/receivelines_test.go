package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/config"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// receiving is a whole service with receivers.
type receiving struct {
	t       testing.TB
	s       *running
	stopped bool
}

func startReceiving(t testing.TB, change func(*config.Config)) *receiving {
	t.Helper()
	c := config.New()
	c.DataDir, c.Listen, c.BootstrapToken = t.TempDir(), "127.0.0.1:0", rootToken
	change(&c)
	s := &running{c: c, rt: Runtime{}, logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError})), failed: make(chan error, 2+len(c.Listeners()))}
	s.notify = &notifier{logger: s.logger}
	if err := s.start(t.Context()); err != nil {
		_ = s.stop()
		t.Fatal(err)
	}
	r := &receiving{t: t, s: s}
	t.Cleanup(r.stop)
	return r
}

func (r *receiving) stop() {
	r.t.Helper()
	if r.stopped {
		return
	}
	r.stopped = true
	if err := r.s.stop(); err != nil {
		r.t.Error(err)
	}
}

func (r *receiving) address(protocol string) net.Addr {
	for i, target := range r.s.targets {
		if target.Protocol == protocol {
			return r.s.receivers[i].Addr()
		}
	}
	r.t.Fatalf("no receiver of %s", protocol)
	return nil
}

func (r *receiving) log() *tenant.Log {
	r.t.Helper()
	owner, err := r.s.in.Tenant("default")
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := owner.Log("main")
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// entries waits until the log has n of them, and returns all.
func (r *receiving) entries(n int) (all []immutable.Entry) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for e, err := range r.log().Subscribe(ctx, 0) {
		if err != nil {
			r.t.Fatalf("%d of %d entries: %v", len(all), n, err)
		}
		if e.Control == nil {
			all = append(all, e)
		}
		if len(all) == n {
			break
		}
	}
	return all
}

func (r *receiving) send(protocol, text string) {
	r.t.Helper()
	a := r.address(protocol)
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		r.t.Fatal(err)
	}
}

func TestEveryReceiverAppends(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	r := startReceiving(t, func(c *config.Config) {
		c.Receive.SyslogUDP, c.Receive.SyslogTCP, c.Receive.LinesTCP, c.Receive.LinesUnix = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", socket
	})
	r.send(config.SyslogUDP, "<34>1 2003-10-11T22:14:15.003Z mymachine su 42 ID47 [x@1 a=\"b\"] by udp")
	r.send(config.SyslogTCP, "9 <13>a: b1\n<13>c: by line\n\n<165>1 broken\nno end of line")
	r.send(config.LinesTCP, `{"message":"ours","level":"AUDIT","metadata":{"n":1}}`+"\n\n"+`{"msg":"foreign","level":"error"}`+"\r\n{broken\nno json")
	r.send(config.LinesUnix, `{"message":"by unix"}`)
	got := map[string]immutable.Entry{}
	for _, e := range r.entries(10) {
		got[e.Message] = e
	}
	for message, level := range map[string]immutable.Level{
		"by udp": immutable.Security, "b1": immutable.Info, "by line": immutable.Info, "<165>1 broken": immutable.Warn, "no end of line": immutable.Warn,
		"ours": immutable.Audit, "foreign": immutable.Error, "a line that is no event": immutable.Warn, "by unix": immutable.Info,
	} {
		e, found := got[message]
		if !found || e.Level != level {
			t.Errorf("%q: %v, level %v, want %v", message, found, e.Level, level)
		}
	}
	e := got["by udp"]
	if e.Hostname != "mymachine" || e.PID != 42 || e.EventTime.Year() != 2003 || !bytes.Contains(e.Metadata, []byte(`"data":{"x@1":{"a":"b"}}`)) {
		t.Errorf("got %s", e.Line)
	}
	if f := got["a line that is no event"].Metadata; !bytes.Contains(f, []byte("parseError")) {
		t.Errorf("got %s", f)
	}
	r.stop()
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the unix socket is still there")
	}
}

// TestStopKeepsWhatWasRead stops the service while messages come, and finds an unbroken run of them.
func TestStopKeepsWhatWasRead(t *testing.T) {
	dir := ""
	r := startReceiving(t, func(c *config.Config) { c.Receive.SyslogTCP, dir = "127.0.0.1:0", c.DataDir })
	c, err := net.Dial("tcp", r.address(config.SyslogTCP).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		for n := 0; ; n++ {
			if _, err := fmt.Fprintf(c, "<13>a: %d\n", n); err != nil {
				return
			}
		}
	}()
	r.entries(100)
	r.stop()
	<-sending
	l, err := immutable.Open(filepath.Join(dir, "tenants", "default", "logs", "main"), &immutable.Config{ReadOnly: true, StateDir: filepath.Join(dir, "state", "default")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	next, cut := 0, ""
	for e, err := range l.Entries(t.Context(), immutable.Query{}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case e.Control != nil:
		case cut != "":
			t.Fatalf("got %s after %d and %s", e.Message, next-1, cut)
		case e.Message != strconv.Itoa(next): // the connection ended within this one, wherever: it is the last
			cut = e.Message
			if whole := fmt.Sprintf("<13>a: %d", next); !strings.Contains(whole, cut) {
				t.Fatalf("got %s after %d", cut, next-1)
			}
		default:
			next++
		}
	}
	if next < 100 {
		t.Errorf("only %d", next)
	}
}

func TestSyslogOverTLSDemandsACertificateThatMayWrite(t *testing.T) {
	dir := t.TempDir()
	ca, stranger := newAuthority(t, "authority"), newAuthority(t, "stranger")
	cert, key := ca.issue(t, "127.0.0.1", 1, time.Hour)
	for name, data := range map[string][]byte{"cert": cert, "key": key, "ca": ca.pem()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := startReceiving(t, func(c *config.Config) {
		c.TLS = config.TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), ClientCA: filepath.Join(dir, "ca")}
		c.MTLS = true
		c.Receive.SyslogTLS = "127.0.0.1:0"
	})
	owner := r.log().Tenant()
	settings := owner.Settings()
	settings.Certificates = []tenant.CertRule{{CommonName: "sender", Role: tenant.Writer}, {CommonName: "reader", Role: tenant.Reader}}
	if err := owner.Update(t.Context(), tenant.Local("test"), settings); err != nil {
		t.Fatal(err)
	}
	send := func(by *authority, name, text string) error {
		cert, key := by.issue(t, name, 2, time.Hour)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		conf := &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"}
		if name != "" {
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		c, err := tls.Dial("tcp", r.address(config.SyslogTLS).String(), conf)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "%d %s", len(text), text); err != nil {
			return err
		}
		if err := c.CloseWrite(); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 1)) // the end, or why it was refused
		if err != nil && err.Error() == "EOF" {
			return nil
		}
		return err
	}
	for _, name := range []string{"other", "reader", ""} { // refused after the handshake: a sender may see it or not
		_ = send(ca, name, "<13>a: refused")
	}
	if err := send(stranger, "sender", "<13>refused: stranger"); err == nil {
		t.Error("a certificate of another authority was taken")
	}
	if err := send(ca, "sender", "<13>a: accepted"); err != nil {
		t.Fatal(err)
	}
	if all := r.entries(1); all[0].Message != "accepted" {
		t.Errorf("got %s", all[0].Line)
	}
}

// TestLoggerOfUtilLinuxIsUnderstood has logger(1) send in its formats.
func TestLoggerOfUtilLinuxIsUnderstood(t *testing.T) {
	if _, err := exec.LookPath("logger"); err != nil {
		t.Skip("there is no logger(1) of util-linux here")
	}
	r := startReceiving(t, func(c *config.Config) { c.Receive.SyslogUDP, c.Receive.SyslogTCP = "127.0.0.1:0", "127.0.0.1:0" })
	want := map[string]string{} // text -> format
	for i, args := range [][]string{
		{"--tcp", "--rfc5424", "--octet-count"},
		{"--tcp", "--rfc5424"},
		{"--tcp", "--rfc3164"},
		{"--udp", "--rfc5424"},
		{"--udp", "--rfc3164", "--octet-count"},
		{"--tcp", "--rfc5424", "--sd-id", "zoo@123", "--sd-param", "tiger=\"hungry\""},
	} {
		text := fmt.Sprintf("message %d, mit Ümläuten", i)
		protocol := map[string]string{"--tcp": config.SyslogTCP, "--udp": config.SyslogUDP}[args[0]]
		if protocol == config.SyslogUDP {
			args = args[:2] // no frames on UDP
		}
		host, port, err := net.SplitHostPort(r.address(protocol).String())
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("logger", append(args, "--server", host, "--port", port, "--tag", "tester", "--id=77", "--priority", "local3.warning", text)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want[text] = strings.TrimPrefix(args[1], "--")
	}
	for _, e := range r.entries(len(want)) {
		var f struct {
			ParseError string
			Syslog     struct{ Format, Facility, Severity, App, ProcID string }
		}
		if err := json.Unmarshal(e.Metadata, &f); err != nil {
			t.Fatal(err)
		}
		format, found := want[e.Message]
		if delete(want, e.Message); !found || f.ParseError != "" || f.Syslog.Format != format || f.Syslog.Facility != "local3" || f.Syslog.Severity != "warning" || f.Syslog.App != "tester" || e.PID != 77 || e.Level != immutable.Warn {
			t.Errorf("got %s", e.Line)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// BenchmarkSyslogTCP sends messages over four connections and waits until they are durable. Sender and service share the machine.
func BenchmarkSyslogTCP(b *testing.B) {
	r := startReceiving(b, func(c *config.Config) { c.Receive.SyslogTCP = "127.0.0.1:0" })
	const senders = 4
	before := r.log().Size()
	b.ResetTimer()
	for k := range senders {
		go func() {
			c, err := net.Dial("tcp", r.address(config.SyslogTCP).String())
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			var buf []byte
			for n := k; n < b.N; n += senders {
				msg := fmt.Sprintf("<86>1 2026-11-23T22:14:15.003Z web-1.example.com sshd 24200 - - Failed password for invalid user webmaster from 173.234.31.186 port %d ssh2", n)
				if buf = fmt.Appendf(buf, "%d %s", len(msg), msg); len(buf) > 16<<10 || n+senders >= b.N {
					if _, err := c.Write(buf); err != nil {
						b.Error(err)
						return
					}
					buf = buf[:0]
				}
			}
		}()
	}
	for _, err := range r.log().Subscribe(b.Context(), before+uint64(b.N)-1) {
		if err != nil {
			b.Fatal(err)
		}
		break
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
