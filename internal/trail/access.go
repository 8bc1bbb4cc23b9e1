package trail

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// parseAccess reads a line of the common log format, of the combined one, and of either with the virtual host before it, as
// Apache's vhost_combined has it. What follows the known fields stands in the record only.
func parseAccess(raw []byte) (*record, error) {
	s := fields{rest: strings.TrimRight(valid(raw), "\r\n")}
	client := s.word()
	if next, _, _ := strings.Cut(s.rest, " "); !isAddress(client) && (isAddress(next) || isHostPort(client) && next != "-") {
		s.word()
		return accessLine(&s, next, client) // the host that was asked stood before the client
	}
	return accessLine(&s, client, "")
}

func accessLine(s *fields, client, vhost string) (*record, error) {
	s.word() // identd's name, which nobody believes
	user, ok := s.until(" [")
	if !ok {
		return nil, errors.New(`access log: want a time in brackets after client, identity and user`)
	}
	at, ok := s.until("] ")
	if !ok {
		return nil, errors.New("access log: the time has no closing bracket")
	}
	t, err := time.Parse("02/Jan/2006:15:04:05 -0700", at)
	if err != nil {
		return nil, fmt.Errorf("access log: %q is no time such as 17/May/2015:10:05:03 +0000", clip(at))
	}
	line, ok := s.quoted()
	if !ok {
		return nil, errors.New("access log: want the request in quotes after the time")
	}
	code := s.word()
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || status < 100 {
		return nil, fmt.Errorf("access log: %q is no status of three digits", clip(code))
	}
	r := &record{message: line + " " + code, level: accessLevel(status), time: t.UTC()}
	r.shape = event.Shape{
		Kind: event.KindWeb, Action: event.ActionHTTPRequest, Actor: &event.Actor{Type: event.ActorAnonymous}, Outcome: accessOutcome(status),
		Source: from(client), Request: &event.Request{Status: status}, Extra: immutable.Fields{},
	}
	r.shape.Source.Provider = string(Access)
	if user != "-" && user != `""` && user != "" {
		r.shape.Actor = &event.Actor{Type: event.ActorUser, Name: user}
	}
	if vhost != "" {
		r.shape.Extra["virtualHost"] = vhost
	}
	requestLine(&r.shape, line)
	if n, err := strconv.ParseInt(s.word(), 10, 64); err == nil && n >= 0 {
		r.shape.Extra["bytes"] = n
	}
	if referer, ok := s.quoted(); ok && referer != "-" && referer != "" {
		r.shape.Extra["referer"] = referer
	}
	if agent, ok := s.quoted(); ok && agent != "-" {
		r.shape.Source.UserAgent = agent
	}
	return r, nil
}

// requestLine divides a request's first line. Where it is none, as of a client that speaks TLS to a port that does not, it is kept.
func requestLine(s *event.Shape, line string) {
	method, rest, ok := strings.Cut(line, " ")
	path, protocol, ok2 := cutLast(rest, " ")
	if !ok2 && ok { // HTTP/0.9 has no protocol
		path, ok2 = rest, true
	}
	if !ok || !ok2 || method == "" || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" || path == "" {
		s.Extra["requestLine"] = line
		return
	}
	s.Request.Method, s.Request.Path = method, path
	s.Target = &event.Target{Type: "path", Name: path}
	if protocol != "" {
		s.Extra["protocol"] = protocol
	}
}

func accessLevel(status int) immutable.Level {
	switch {
	case status >= 500:
		return immutable.Error
	case status == 401 || status == 403:
		return immutable.Warn
	}
	return immutable.Info
}

func accessOutcome(status int) event.Outcome {
	switch {
	case status == 401 || status == 403:
		return event.OutcomeDenied
	case status >= 400:
		return event.OutcomeFailure
	}
	return event.OutcomeSuccess
}

// from is the source that an address or a name of a host stands for.
func from(peer string) *event.Source {
	if ip, err := netip.ParseAddr(strings.Trim(peer, "[]")); err == nil {
		return &event.Source{IP: ip.String()}
	}
	return &event.Source{Host: peer}
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func isHostPort(s string) bool {
	_, port, found := cutLast(s, ":")
	_, err := strconv.ParseUint(port, 10, 16)
	return found && err == nil && !isAddress(s)
}

// fields reads a line from the left.
type fields struct{ rest string }

// word is what stands before the next space.
func (f *fields) word() string {
	w, rest, _ := strings.Cut(f.rest, " ")
	f.rest = rest
	return w
}

// until is what stands before sep.
func (f *fields) until(sep string) (string, bool) {
	w, rest, ok := strings.Cut(f.rest, sep)
	if ok {
		f.rest = rest
	}
	return w, ok
}

// quoted is a string in quotes, with the escapes of Apache and nginx undone, and the space after it.
func (f *fields) quoted() (string, bool) {
	if !strings.HasPrefix(f.rest, `"`) {
		return "", false
	}
	for i := 1; i < len(f.rest); i++ {
		switch f.rest[i] {
		case '\\':
			i++
		case '"':
			s := unescape(f.rest[1:i])
			f.rest = strings.TrimPrefix(f.rest[i+1:], " ")
			return s, true
		}
	}
	return "", false
}

// unescape undoes \", \\, \b, \n, \r, \t, \v and \xhh; what is no UTF-8 then becomes U+FFFD. Anything else stays.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		i++
		if at := strings.IndexByte(`"\bnrtv`, s[i]); at >= 0 {
			out = append(out, "\"\\\b\n\r\t\v"[at])
			continue
		}
		if s[i] == 'x' && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(b))
				i += 2
				continue
			}
		}
		out = append(out, '\\', s[i])
	}
	return valid(out)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// clip shortens what an error quotes.
func clip(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}
