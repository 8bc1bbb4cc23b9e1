package trail

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// auditd merges the lines of audit.log that belong to one event: those of one node, time and serial number, which other events'
// lines may stand between. No event is returned before all whose lines began earlier are complete, so that what is held is always
// the newest lines.
//
// The log does not say which line of an event is the last. PROCTITLE is, in logs that have it and have no EOE; a message of a
// program is one line; anything else ends when an event comes that is two seconds from it.
type auditd struct {
	groups []*auditGroup // since the last return of events, in the order of their first lines
	held   int           // lines of groups
	bytes  int           // of them
	newest int64         // time of the event that was read last, in milliseconds
	eoe    bool          // this log has lines that end events
}

// Limits of what is held; past them events are returned as they are.
const (
	maxHeldLines = 1024
	maxHeldBytes = 1 << 20
	auditSettled = 2000 // milliseconds between an event and a later one after which no line of it is expected
)

// auditGroup is the lines of one event.
type auditGroup struct {
	node, id string // id is "seconds.milliseconds:serial"
	millis   int64
	lines    [][]byte
	done     bool
	err      error // of a line that is none of audit's
}

func (p *auditd) Held() int { return p.held }

func (p *auditd) Parse(dst []immutable.Event, raw []byte) []immutable.Event {
	raw = bytes.Clone(raw)
	p.held++
	p.bytes += len(raw)
	h, err := auditHead(raw)
	if err != nil {
		p.groups = append(p.groups, &auditGroup{lines: [][]byte{raw}, done: true, err: err})
	} else {
		p.add(h, raw)
	}
	if p.held >= maxHeldLines || p.bytes >= maxHeldBytes || !slices.ContainsFunc(p.groups, func(g *auditGroup) bool { return !g.done }) {
		return p.Flush(dst)
	}
	return dst
}

func (p *auditd) add(h head, raw []byte) {
	p.newest = h.millis
	var g *auditGroup
	for i := len(p.groups) - 1; i >= 0 && g == nil; i-- {
		if p.groups[i].err == nil && p.groups[i].id == h.id && p.groups[i].node == h.node {
			g = p.groups[i]
		}
	}
	if g == nil {
		g = &auditGroup{node: h.node, id: h.id, millis: h.millis}
		p.groups = append(p.groups, g)
	}
	g.lines = append(g.lines, raw)
	p.eoe = p.eoe || h.kind == "EOE"
	g.done = h.kind == "EOE" || h.kind == "PROCTITLE" && !p.eoe || len(g.lines) == 1 && ofProgram(h.kind)
	for _, other := range p.groups {
		if d := p.newest - other.millis; d > auditSettled || d < -auditSettled {
			other.done = true
		}
	}
}

// Flush returns what there is.
func (p *auditd) Flush(dst []immutable.Event) []immutable.Event {
	for _, g := range p.groups {
		dst = append(dst, g.event())
	}
	p.groups, p.held, p.bytes = nil, 0, 0
	return dst
}

func (g *auditGroup) event() immutable.Event {
	raw := bytes.Join(g.lines, []byte("\n"))
	if g.err != nil {
		return unparsed(raw, g.err)
	}
	var a auditRecords
	for _, line := range g.lines {
		a.add(line)
	}
	r := a.record()
	r.time, r.host = time.UnixMilli(g.millis).UTC(), g.node
	r.key = identity(Auditd, raw, first(g.node, "-"), g.id)
	return r.event(raw)
}

// head is how each line begins.
type head struct {
	node, kind, id string
	millis         int64
	rest           string
}

// auditHead reads "[node=NAME ]type=KIND msg=audit(1364481363.243:24287): ".
func auditHead(raw []byte) (h head, err error) {
	s := strings.TrimRight(valid(raw), "\r\n")
	if rest, ok := strings.CutPrefix(s, "node="); ok {
		if h.node, s, _ = strings.Cut(rest, " "); len(h.node) > 255 {
			return h, errors.New("auditd: the name of the node is longer than 255 bytes")
		}
	}
	s, ok := strings.CutPrefix(s, "type=")
	var found bool
	if h.kind, s, found = strings.Cut(s, " msg=audit("); !ok || !found || strings.ContainsAny(h.kind, " \"'") {
		return h, errors.New("auditd: want type=KIND msg=audit(TIME:SERIAL) first")
	}
	if h.id, h.rest, ok = strings.Cut(s, "):"); !ok {
		return h, errors.New("auditd: want a time and serial number in parentheses and a colon after msg=audit")
	}
	stamp, serial, _ := strings.Cut(h.id, ":")
	seconds, millis, _ := strings.Cut(stamp, ".")
	sec, err1 := strconv.ParseUint(seconds, 10, 36)
	ms, err2 := strconv.ParseUint(millis, 10, 10)
	_, err3 := strconv.ParseUint(serial, 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil || len(millis) != 3 {
		return h, fmt.Errorf("auditd: %q is no time and serial number such as 1364481363.243:24287", clip(h.id))
	}
	h.millis = int64(sec*1000 + ms)
	return h, nil
}

// ofProgram says whether lines of this kind come from programs, which write one for an event.
func ofProgram(kind string) bool {
	for _, prefix := range [...]string{
		"USER", "CRED_", "SERVICE_", "SYSTEM_", "DAEMON_", "ACCT_", "ADD_", "DEL_", "GRP_", "CHGRP_", "CHUSER_", "ROLE_", "VIRT_", "CRYPTO_", "RESP_", "LABEL_",
		"DEV_", "SOFTWARE_", "TEST", "TRUSTED_APP", "FS_RELABEL", "MAC_CHECK",
	} {
		if strings.HasPrefix(kind, prefix) {
			return true
		}
	}
	return false
}

// auditLine is one line's members. What a program wrote within msg='…' is among them.
type auditLine struct {
	kind   string
	values map[string]string
	names  []string // in order
}

// maxAuditMembers bounds the members of one line that are read.
const maxAuditMembers = 4096

// members reads "a=b c="d e" msg='f=g h="i j"'". The part after the byte 0x1d has the names that auditd adds to numbers.
func (l *auditLine) members(s string) {
	s = strings.ReplaceAll(s, "\x1d", " ")
	for len(l.names) < maxAuditMembers {
		s = strings.TrimLeft(s, " ,")
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			return
		}
		if i := strings.LastIndexByte(name, ' '); i >= 0 { // words that are no members, as in AVC
			name = name[i+1:]
		}
		var value string
		switch {
		case strings.HasPrefix(rest, "'"):
			var inner string
			if inner, s, ok = strings.Cut(rest[1:], "'"); !ok {
				s = ""
			}
			l.members(inner)
			continue
		case strings.HasPrefix(rest, `"`):
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				end = len(rest) - 2
			}
			value, s = rest[:min(end+2, len(rest))], rest[min(end+2, len(rest)):]
		default:
			end := strings.IndexByte(rest, ' ')
			if end < 0 {
				end = len(rest)
			}
			value, s = rest[:end], rest[end:]
		}
		if _, found := l.values[name]; !found {
			l.values[name] = value
			l.names = append(l.names, name)
		}
	}
}

// text is a member that is a string: in quotes, or in hex where it holds a space, a quote or what is no printable ASCII.
// Of other members digits are digits.
func (l *auditLine) text(name string) string {
	v := l.values[name]
	if strings.HasPrefix(v, `"`) {
		return strings.Trim(v, `"`)
	}
	if v == "(null)" || v == "?" || v == "(none)" {
		return ""
	}
	switch name {
	case "name", "comm", "exe", "cwd", "proctitle", "acct", "cmd", "key", "path", "dir", "file", "data", "grp":
	default:
		if l.kind != "EXECVE" {
			return v
		}
	}
	if b, ok := unhex(v); ok && slices.ContainsFunc(b, func(c byte) bool { return c < 0x21 || c == '"' || c > 0x7e }) {
		return strings.TrimRight(strings.ReplaceAll(valid(b), "\x00", " "), " ")
	}
	return v
}

// unhex reads upper-case hex digits, as the kernel writes them.
func unhex(v string) ([]byte, bool) {
	if v == "" || len(v)%2 != 0 || strings.Trim(v, "0123456789ABCDEF") != "" {
		return nil, false
	}
	out := make([]byte, len(v)/2)
	for i := range out {
		n, err := strconv.ParseUint(v[2*i:2*i+2], 16, 8)
		if err != nil {
			return nil, false
		}
		out[i] = byte(n)
	}
	return out, true
}
