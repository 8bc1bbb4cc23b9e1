package trail

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// authLog reads what sshd, PAM, sudo, su, login, cron, logind and the shadow tools write through syslog into auth.log or secure.
// Of a message that it does not know, it reads the header.
type authLog struct {
	o Options
}

// message is one message of one program.
type message struct {
	program string // "sshd"
	text    string
	shape   event.Shape
}

func (p *authLog) parse(raw []byte) (*record, error) {
	line := strings.TrimRight(valid(raw), "\r\n")
	r := &record{}
	var err error
	if r.time, line, err = p.stamp(line); err != nil {
		return nil, err
	}
	host, line, ok := strings.Cut(strings.TrimLeft(line, " "), " ")
	if !ok {
		return nil, errors.New("auth log: want a host and a message after the time")
	}
	if len(host) <= 255 {
		r.host = host
	}
	var m message
	m.program, r.pid, m.text = tag(line)
	r.message = m.text
	m.shape = event.Shape{Kind: event.KindSystem, Action: event.ActionMessage, Extra: immutable.Fields{}}
	if m.program != "" {
		m.shape.Extra["program"] = m.program
	}
	m.read()
	if m.shape.Source == nil {
		m.shape.Source = &event.Source{}
	}
	m.shape.Source.Provider = m.program
	r.shape = m.shape
	switch r.shape.Kind {
	case event.KindAuthentication, event.KindAuthorization, event.KindAccount, event.KindSecurity:
		r.level = immutable.Security
	}
	return r, nil
}

// stamp reads the time that begins a line: RFC 3339, as new systems write it, or "Mar  7 13:06:56".
func (p *authLog) stamp(line string) (time.Time, string, error) {
	if len(line) > 0 && line[0] >= '0' && line[0] <= '9' {
		word, rest, _ := strings.Cut(line, " ")
		if t, err := time.Parse(time.RFC3339Nano, word); err == nil && t.Year() <= 9999 {
			return t.UTC(), rest, nil
		}
	}
	const layout = "Jan _2 15:04:05"
	if len(line) > len(layout) {
		if t, err := time.Parse(layout, line[:len(layout)]); err == nil && line[len(layout)] == ' ' {
			return p.year(t), line[len(layout)+1:], nil
		}
	}
	return time.Time{}, "", errors.New(`auth log: want a time such as "Mar  7 13:06:56" or 2026-03-07T13:06:56Z first`)
}

// year makes t the newest time of its day and hour that has come, with a day's grace for clocks that disagree.
func (p *authLog) year(t time.Time) time.Time {
	limit := p.o.Now().Add(24 * time.Hour)
	for year := limit.In(p.o.Location).Year(); ; year-- {
		at := time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, p.o.Location)
		if at.Day() == t.Day() && !at.After(limit) { // the 29th of February is one in some years only, of which eight are never without
			return at.UTC()
		}
	}
}

// tag divides "sshd[1291]: text" and "sudo: text". A program's name may have "(pam_unix)" behind it, as old systems write it.
func tag(line string) (program string, pid uint32, text string) {
	head, text, ok := strings.Cut(line, ": ")
	if !ok {
		head, ok = strings.CutSuffix(line, ":")
		text = ""
	}
	if !ok || strings.ContainsAny(head, "'\"=;") || len(head) > 64 {
		return "", 0, line
	}
	if name, number, found := strings.Cut(head, "["); found && strings.HasSuffix(number, "]") {
		n, err := strconv.ParseUint(number[:len(number)-1], 10, 32)
		if err != nil {
			return "", 0, line
		}
		return strings.TrimSpace(name), uint32(n), text
	}
	if strings.Contains(strings.TrimSpace(head), " ") && !strings.HasPrefix(head, "-- ") && !strings.HasPrefix(head, "syslogd ") {
		return "", 0, line
	}
	return strings.TrimSpace(head), 0, text
}

// read finds what the message means.
func (m *message) read() {
	text := strings.TrimSpace(m.text)
	if count, inner, ok := repeated(text); ok {
		m.shape.Extra["repeated"] = count
		text = inner
	}
	program, module, old := strings.Cut(m.program, "(")
	if old && module == "pam_unix)" {
		m.program = program
		m.shape.Extra["program"] = program
		m.pam(program, text)
		return
	}
	if head, rest, ok := strings.Cut(text, "): "); ok && strings.HasPrefix(head, "pam_") {
		_, service, _ := strings.Cut(head, "(")
		service, _, _ = strings.Cut(service, ":")
		m.pam(service, rest)
		return
	}
	switch m.program {
	case "sshd", "sshd-session", "sshd-auth":
		m.sshd(strings.TrimSuffix(text, " [preauth]"))
	case "sudo":
		m.sudo(text)
	case "su":
		m.su(text)
	case "CRON", "cron", "crond":
		m.cron(text)
	case "systemd-logind":
		m.logind(text)
	case "login", "-- root":
		m.login(text)
	case "klogind", "rlogind", "ftpd", "vsftpd", "telnetd":
		m.inetd(text)
	default:
		m.shadow(text)
	}
}

// repeated opens "message repeated 2 times: [ text]".
func repeated(text string) (count uint64, inner string, ok bool) {
	rest, ok := strings.CutPrefix(text, "message repeated ")
	if !ok {
		return 0, text, false
	}
	number, rest, ok := strings.Cut(rest, " times: [ ")
	n, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil || !strings.HasSuffix(rest, "]") {
		return 0, text, false
	}
	return n, rest[:len(rest)-1], true
}

// is says what happened.
func (m *message) is(kind event.Kind, action string, outcome event.Outcome) *event.Shape {
	m.shape.Kind, m.shape.Action, m.shape.Outcome = kind, action, outcome
	return &m.shape
}

// by names the actor.
func (m *message) by(user string) {
	if user = strings.TrimSpace(user); user != "" {
		m.shape.Actor = &event.Actor{Type: event.ActorUser, Name: user}
	}
}

func (m *message) user(name string) {
	m.shape.Target = &event.Target{Type: "user", Name: name}
}

// peer reads "203.0.113.9 port 22 …" and what stands for it in older versions.
func (m *message) peer(text string) {
	host, rest, _ := strings.Cut(text, " ")
	m.shape.Source = from(strings.TrimSuffix(host, ":"))
	if rest, ok := strings.CutPrefix(rest, "port "); ok {
		digits, _, _ := strings.Cut(rest, " ")
		digits, _, _ = strings.Cut(digits, ":")
		if port, err := strconv.ParseUint(strings.TrimRight(digits, ".:"), 10, 16); err == nil {
			m.shape.Source.Port = int(port)
		}
	}
}

// userFrom reads "[invalid user ]NAME from PEER". A name may hold anything, also " from ": the last one counts, since what
// follows it is written by sshd.
func (m *message) userFrom(text string) bool {
	name, peer, ok := cutLast(text, " from ")
	if !ok {
		return false
	}
	if valid, found := strings.CutPrefix(name, "invalid user "); found {
		name = valid
		m.shape.Reason = "invalid user"
	}
	m.by(name)
	m.peer(peer)
	return true
}

// pairs reads "key=value key=value"; values have no spaces.
func pairs(text string) map[string]string {
	out := map[string]string{}
	for word := range strings.FieldsSeq(text) {
		if k, v, ok := strings.Cut(word, "="); ok && out[k] == "" {
			out[k] = v
		}
	}
	return out
}
