package syslog

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// The names of facilities and severities, RFC 5424, section 6.2.1, as syslog.conf spells them.
var (
	facilities = [...]string{
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clock",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
	}
	severities = [...]string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
)

// Facilities with a level of their own.
const (
	auth     = 4
	authpriv = 10
	audit    = 13
)

// smallRaw is what is written without measuring: raw, text and data together stay below an entry's size in any spelling.
const smallRaw = 2500

// Event makes an entry's event of a message that came as raw from a peer. The zero Addr is one whose address is not known.
//
// Messages of the facilities auth and authpriv are SECURITY, those of audit are AUDIT; of all others the severity decides:
// emerg, alert and crit are CRITICAL, err is ERROR, warning WARN, the rest INFO. What is malformed is WARN.
func (m *Message) Event(raw []byte, peer netip.AddrPort) immutable.Event {
	e := immutable.Event{Level: m.level(), Message: text(m.Text), EventTime: m.Time, PID: m.PID(), Hostname: text([]byte(m.Host))}
	if e.Hostname == "" && peer.IsValid() {
		e.Hostname = peer.Addr().Unmap().String()
	}
	if len(raw) <= smallRaw {
		e.RawMetadata = m.appendMetadata(make([]byte, 0, 2*len(raw)+320), raw, peer)
		return e
	}
	e.Metadata = m.fields(peer)
	e.Message = shorten(e.Message)
	if _, err := event.Keep(&e, raw); err != nil {
		delete(e.Metadata, "syslog") // its structured data; the raw bytes have it
		_, _ = event.Keep(&e, raw)   // what is left always fits
	}
	return e
}

// maxText is the message of a large entry, in bytes; the raw bytes have all of it.
const maxText = 1024

func shorten(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// text is what a JSON string can hold of it; what ends a line or a datagram is left out.
func text(b []byte) string {
	b = bytes.TrimRight(b, "\r\n\x00")
	if utf8.Valid(b) {
		return string(b)
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

func (m *Message) level() immutable.Level {
	if m.Err != nil {
		return immutable.Warn
	}
	switch m.Facility() {
	case auth, authpriv:
		return immutable.Security
	case audit:
		return immutable.Audit
	}
	switch s := m.Severity(); {
	case s <= 2:
		return immutable.Critical
	case s == 3:
		return immutable.Error
	case s == 4:
		return immutable.Warn
	}
	return immutable.Info
}

func (m *Message) kind() event.Kind {
	if f := m.Facility(); m.Err == nil && (f == auth || f == authpriv) {
		return event.KindAuthentication
	}
	return event.KindSystem
}

// fields is the metadata as Go values, without the raw bytes. appendMetadata writes the same, faster.
func (m *Message) fields(peer netip.AddrPort) immutable.Fields {
	s := event.Shape{Kind: m.kind(), Source: &event.Source{Host: text([]byte(m.Host)), Provider: "syslog"}}
	if peer.IsValid() {
		s.Source.IP, s.Source.Port = peer.Addr().Unmap().String(), int(peer.Port())
	}
	f := s.Fields()
	if m.Err != nil {
		f["parseError"] = m.Err.Error()
	}
	if m.Format == None {
		return f
	}
	sys := immutable.Fields{"format": string(m.Format), "priority": m.Priority, "facility": facilities[m.Facility()], "severity": severities[m.Severity()]}
	for name, value := range map[string]string{"app": m.App, "procId": m.ProcID, "msgId": m.MsgID} {
		if value != "" {
			sys[name] = value
		}
	}
	if len(m.Data) > 0 {
		sys["data"] = m.dataFields()
	}
	f["syslog"] = sys
	return f
}

func (m *Message) dataFields() immutable.Fields {
	data := immutable.Fields{}
	for i := range m.Data {
		params := immutable.Fields{}
		for _, p := range m.Data[i].Params {
			switch old := params[p.Name].(type) {
			case nil:
				params[p.Name] = p.Value
			case string:
				params[p.Name] = []string{old, p.Value}
			case []string:
				params[p.Name] = append(old, p.Value)
			}
		}
		data[m.Data[i].ID] = params
	}
	return data
}

// appendMetadata appends what fields and event.Raw make, in the same order of names.
func (m *Message) appendMetadata(dst, raw []byte, peer netip.AddrPort) []byte {
	dst = append(dst, `{"kind":`...)
	dst = quote(dst, string(m.kind()))
	if m.Err != nil {
		dst = append(dst, `,"parseError":`...)
		dst = quote(dst, m.Err.Error())
	}
	if utf8.Valid(raw) {
		dst = append(dst, `,"raw":`...)
		dst = quote(dst, string(raw))
	} else {
		f := immutable.Fields{}
		event.Raw(f, raw, 0)
		s, _ := f[event.KeyRaw64].(string)
		dst = append(dst, `,"raw64":`...)
		dst = quote(dst, s)
	}
	dst = append(dst, `,"source":{`...)
	if host := text([]byte(m.Host)); host != "" {
		dst = append(dst, `"host":`...)
		dst = append(quote(dst, host), ',')
	}
	if peer.IsValid() {
		dst = append(dst, `"ip":"`...)
		dst = peer.Addr().Unmap().AppendTo(dst)
		dst = append(dst, `",`...)
		if peer.Port() != 0 {
			dst = append(dst, `"port":`...)
			dst = strconv.AppendUint(dst, uint64(peer.Port()), 10)
			dst = append(dst, ',')
		}
	}
	dst = append(dst, `"provider":"syslog"}`...)
	if m.Format == None {
		return append(dst, '}')
	}
	dst = append(dst, `,"syslog":{`...)
	if m.App != "" {
		dst = append(dst, `"app":`...)
		dst = append(quote(dst, m.App), ',')
	}
	if len(m.Data) > 0 {
		dst = append(dst, `"data":`...)
		dst = append(m.appendData(dst), ',')
	}
	dst = append(dst, `"facility":"`...)
	dst = append(dst, facilities[m.Facility()]...)
	dst = append(dst, `","format":"`...)
	dst = append(dst, m.Format...)
	dst = append(dst, '"')
	if m.MsgID != "" {
		dst = append(dst, `,"msgId":`...)
		dst = quote(dst, m.MsgID)
	}
	dst = append(dst, `,"priority":`...)
	dst = strconv.AppendInt(dst, int64(m.Priority), 10)
	if m.ProcID != "" {
		dst = append(dst, `,"procId":`...)
		dst = quote(dst, m.ProcID)
	}
	dst = append(dst, `,"severity":"`...)
	dst = append(dst, severities[m.Severity()]...)
	return append(dst, `"}}`...)
}

// appendData appends structured data as an object of objects, names in order; a parameter that stands more than once is a list.
func (m *Message) appendData(dst []byte) []byte {
	elements := slices.SortedFunc(slices.Values(m.Data), func(a, b Element) int { return strings.Compare(a.ID, b.ID) })
	dst = append(dst, '{')
	for i := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(quote(dst, elements[i].ID), ":{"...)
		params := slices.Clone(elements[i].Params)
		slices.SortStableFunc(params, func(a, b Param) int { return strings.Compare(a.Name, b.Name) })
		for k := 0; k < len(params); {
			if k > 0 {
				dst = append(dst, ',')
			}
			same := k + 1
			for same < len(params) && params[same].Name == params[k].Name {
				same++
			}
			dst = append(quote(dst, params[k].Name), ':')
			dst = appendValues(dst, params[k:same])
			k = same
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func appendValues(dst []byte, params []Param) []byte {
	if len(params) == 1 {
		return quote(dst, params[0].Value)
	}
	for i, p := range params {
		dst = append(dst, "[,"[min(i, 1)])
		dst = quote(dst, p.Value)
	}
	return append(dst, ']')
}

// quote appends a JSON string in the entry's spelling. All that comes here is UTF-8.
func quote(dst []byte, s string) []byte {
	out, err := entry.AppendString(dst, s)
	if err != nil {
		out, _ = entry.AppendString(dst, strings.ToValidUTF8(s, "\uFFFD"))
	}
	return out
}

// Malformed makes an event of bytes that are no message, such as a frame that was cut.
func Malformed(raw []byte, why error, peer netip.AddrPort) immutable.Event {
	m := Message{Priority: -1, Text: raw, Err: why}
	return m.Event(raw, peer)
}
