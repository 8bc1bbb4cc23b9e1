package alert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/tree-of-life-system/immutable/internal/outbound"
)

// mail sends an alert as an e-mail, by the sink's own server or by the installation's. A sink's server is held to the rules
// for addresses; the installation's is the operator's word.
func (m *Manager) mail(ctx context.Context, s *Sink, d *delivery) error {
	server := SMTP{Address: s.Server, From: s.From, Username: s.Username, TLS: s.TLS}
	dial := outbound.Dial(m.o.AllowPrivate)
	if len(s.Secrets) > 0 {
		server.Password = s.Secrets[0]
	}
	if s.Server == "" {
		server, dial = m.o.SMTP, outbound.Dial(true)
	}
	c, err := m.mailClient(&server, dial)
	if err != nil {
		return &permanentError{err}
	}
	msg, err := m.mailMessage(&server, s, d)
	if err != nil {
		return &permanentError{err}
	}
	err = c.DialAndSendWithContext(ctx, msg)
	var failed *gomail.SendError
	if errors.As(err, &failed) && !failed.IsTemp() && failed.ErrorCode() >= 500 {
		return &permanentError{err}
	}
	if err != nil {
		return outbound.Explain(err)
	}
	return nil
}

func (m *Manager) mailClient(s *SMTP, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*gomail.Client, error) {
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, fmt.Errorf("mail server %q: %w", s.Address, err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("mail server %q: %w", s.Address, err)
	}
	options := []gomail.Option{
		gomail.WithPort(n), gomail.WithTimeout(outbound.Timeout), gomail.WithTLSConfig(m.tls(host)), gomail.WithDialContextFunc(dial),
		gomail.WithoutNoop(),
	}
	auth := gomail.SMTPAuthAutoDiscover
	switch s.TLS {
	case "", "starttls":
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case "tls":
		tlsDial := dial
		auth = gomail.SMTPAuthPlain // the library does not see that a connection of ours is encrypted, and would discover too little
		options = append(options, gomail.WithSSL(), gomail.WithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			return m.dialTLS(ctx, tlsDial, network, address, host)
		}))
	case "none":
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if s.Username != "" {
		options = append(options, gomail.WithSMTPAuth(auth), gomail.WithUsername(s.Username), gomail.WithPassword(s.Password))
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]" // the library puts the port behind it as it is
	}
	return gomail.NewClient(host, options...)
}

// mailMessage is an alert in words. Its text comes from logs and files: nothing in it can end a header, clean saw to that.
func (m *Manager) mailMessage(server *SMTP, s *Sink, d *delivery) (*gomail.Msg, error) {
	st := &d.state
	msg := gomail.NewMsg()
	if err := errors.Join(msg.From(server.From), msg.To(s.To...)); err != nil {
		return nil, err
	}
	where := st.Tenant
	if st.Log != "" {
		where += "/" + st.Log
	}
	word := strings.ToUpper(string(st.Phase))
	if st.Kind == Test {
		word = "TEST"
	}
	msg.Subject(fmt.Sprintf("[%s] %s %s: %s", st.Severity, word, where, st.Summary))
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetMessageIDWithValue(d.id + "@" + m.o.Installation.ID() + ".immutable")
	msg.SetDate()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", st.Summary)
	for _, row := range [][2]string{
		{"state", string(st.Phase)},
		{"severity", string(st.Severity)},
		{"kind", string(st.Kind)},
		{"tenant", st.Tenant},
		{"log", st.Log},
		{"rule", st.Rule},
		{"since", st.Since.Format(time.RFC3339)},
		{"changed", st.Changed.Format(time.RFC3339)},
		{"seen", fmt.Sprintf("%d times", st.Count)},
		{"key", st.Key},
	} {
		if row[1] != "" {
			fmt.Fprintf(&b, "%-10s %s\n", row[0]+":", row[1])
		}
	}
	for i, k := range slices.Sorted(maps.Keys(st.Details)) {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s: %s\n", k, st.Details[k])
	}
	msg.SetBodyString(gomail.TypeTextPlain, b.String())
	return msg, nil
}

// dialTLS is for servers that speak TLS from the first byte.
func (m *Manager) dialTLS(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), network, address, host string) (net.Conn, error) {
	plain, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := tls.Client(plain, m.tls(host))
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return c, nil
}
