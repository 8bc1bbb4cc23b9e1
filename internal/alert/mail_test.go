package alert

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// mailServer is an SMTP server with STARTTLS and AUTH PLAIN, enough of RFC 5321 to take a message.
type mailServer struct {
	net.Listener

	config   *tls.Config
	pool     *x509.CertPool
	plain    bool // offers no STARTTLS
	implicit bool // speaks TLS from the first byte
	refuse   string

	mu       sync.Mutex
	messages []mailed
}

type mailed struct {
	from  string
	to    []string
	auth  string
	tls   bool
	lines []string
}

func newMailServer(t *testing.T) *mailServer {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	s := &mailServer{Listener: must(net.Listen("tcp", "127.0.0.1:0")), pool: x509.NewCertPool()}
	s.pool.AddCert(must(x509.ParseCertificate(der)))
	s.config = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return s
}

func (s *mailServer) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	var m mailed
	if s.implicit {
		c, m.tls = tls.Server(c, s.config), true
	}
	r := bufio.NewReader(c)
	say := func(line string) { _, _ = fmt.Fprintf(c, "%s\r\n", line) }
	say("220 mail ready")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-mail")
			if !s.plain && !m.tls {
				say("250-STARTTLS")
			}
			if m.tls {
				say("250-AUTH PLAIN")
			}
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go on")
			t := tls.Server(c, s.config)
			if t.Handshake() != nil {
				return
			}
			c, r, m.tls = t, bufio.NewReader(t), true
		case "AUTH":
			_, m.auth, _ = strings.Cut(rest, " ")
			say("235 welcome")
		case "MAIL":
			if s.refuse != "" {
				say(s.refuse)
				continue
			}
			m.from = rest
			say("250 ok")
		case "RCPT":
			m.to = append(m.to, rest)
			say("250 ok")
		case "DATA":
			say("354 go on")
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line = strings.TrimRight(line, "\r\n"); line == "." {
					break
				}
				m.lines = append(m.lines, line)
			}
			s.mu.Lock()
			s.messages = append(s.messages, m)
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func (s *mailServer) got() []mailed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mailed(nil), s.messages...)
}

// TestMailGoesOverTLSWithWhatTheAlertSays sends by a sink's own server, with STARTTLS and with TLS from the first byte, and by
// the installation's.
func TestMailGoesOverTLSWithWhatTheAlertSays(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"starttls", "tls", "installation"} {
		t.Run(how, func(t *testing.T) {
			s := newMailServer(t)
			s.implicit = how == "tls"
			sink := Sink{Name: "mail", Type: Email, To: []string{"a@example.com", "b@example.com"}}
			if how != "installation" {
				sink.From, sink.Server, sink.TLS, sink.Username, sink.Secrets = "log@example.com", s.Addr().String(), how, "user", []string{"password"}
			}
			b := newBench(t, t.TempDir(), func(o *Options, _ *immutable.Config) {
				o.RootCAs = s.pool
				if how == "installation" {
					o.AllowPrivate = false // the operator's own server is not held to the rules for tenants' sinks
					o.SMTP = SMTP{Address: s.Addr().String(), From: "log@example.com", Username: "user", Password: "password"}
				}
			})
			b.rules(Rules{Sinks: []Sink{sink}})
			b.m.Raise(Event{
				Key: "file.changed/main", Tenant: "default", Log: "main", Kind: FileChanged,
				Summary: "bytes changed\r\nBcc: victim@example.com\r\n\r\n.\r\nMAIL FROM:<x>", Details: map[string]string{"file": "chain\r\n.\r\nQUIT"},
			})
			b.wait("the mail", func() bool { return len(s.got()) == 1 })
			m := s.got()[0]
			if !m.tls || !strings.Contains(m.from, "<log@example.com>") || len(m.to) != 2 {
				t.Errorf("%+v", m)
			}
			if auth := string(must(base64.StdEncoding.DecodeString(m.auth))); auth != "\x00user\x00password" {
				t.Errorf("authentication %q", auth)
			}
			header, body := "", ""
			for i, line := range m.lines {
				if line == "" {
					header, body = strings.Join(m.lines[:i], "\n"), strings.Join(m.lines[i:], "\n")
					break
				}
			}
			for _, name := range []string{"Subject: [critical] FIRING default/main: bytes changed", "Auto-Submitted: auto-generated", "Message-ID: <msg_"} {
				if !strings.Contains(header, name) {
					t.Errorf("no %q in\n%s", name, header)
				}
			}
			if strings.Contains("\n"+header, "\nBcc:") || strings.Contains("\n"+body, "\nBcc:") {
				t.Errorf("a summary has made a header of its own:\n%s\n%s", header, body)
			}
			if !strings.Contains(body, "file: chain") {
				t.Errorf("body: %s", body)
			}
		})
	}
}

func TestMailIsNotSentInTheClear(t *testing.T) {
	t.Parallel()
	s := newMailServer(t)
	s.plain = true
	b := newBench(t, t.TempDir(), func(o *Options, _ *immutable.Config) { o.RootCAs = s.pool })
	for _, user := range []string{"", "user"} {
		sink := Sink{Name: "mail", Type: Email, To: []string{"a@example.com"}, From: "log@example.com", Server: s.Addr().String(), Username: user}
		if user != "" {
			sink.Secrets = []string{"password"}
		}
		b.rules(Rules{Sinks: []Sink{sink}})
		if err := b.m.Test(t.Context(), b.admin, tenant.DefaultName, "mail"); err == nil || len(s.got()) != 0 {
			t.Errorf("without STARTTLS, user %q: %v, %d messages", user, err, len(s.got()))
		}
	}
	b.rules(Rules{Sinks: []Sink{{Name: "mail", Type: Email, To: []string{"a@example.com"}, From: "log@example.com", Server: s.Addr().String(), TLS: "none"}}})
	if err := b.m.Test(t.Context(), b.admin, tenant.DefaultName, "mail"); err != nil || len(s.got()) != 1 {
		t.Errorf("with tls none: %v, %d messages", err, len(s.got()))
	}
}

func TestMailThatIsRefusedForGoodIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	s := newMailServer(t)
	b := newBench(t, t.TempDir(), func(o *Options, _ *immutable.Config) { o.RootCAs = s.pool })
	b.rules(Rules{Sinks: []Sink{{Name: "mail", Type: Email, To: []string{"a@example.com"}, From: "log@example.com", Server: s.Addr().String()}}})
	for answer, final := range map[string]bool{"550 no": true, "451 later": false} {
		s.refuse = answer
		err := b.m.Test(t.Context(), b.admin, tenant.DefaultName, "mail")
		var permanent *permanentError
		if err == nil || errors.As(err, &permanent) != final {
			t.Errorf("%s: %v", answer, err)
		}
	}
	s.refuse = ""
	b.m.o.RootCAs = x509.NewCertPool() // a server with a certificate that nobody vouches for
	if err := b.m.Test(t.Context(), b.admin, tenant.DefaultName, "mail"); err == nil || len(s.got()) != 0 {
		t.Errorf("an unknown certificate: %v", err)
	}
}
