// Package syslog reads syslog messages: RFC 5424 strictly, RFC 3164 and what is commonly sent in its name as far as it can be
// told, and both frames of RFC 6587. What cannot be read is kept as it came, with the reason. Pure: no network, no files, no clock.
package syslog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Message is one message taken apart. Its byte slices refer to what was parsed.
type Message struct {
	Format   Format
	Priority int       // facility × 8 + severity; -1 where the message has none
	Time     time.Time // zero: it says none
	Host     string
	App      string
	ProcID   string
	MsgID    string
	Data     []Element // structured data, in its order
	Text     []byte    // MSG, without a byte order mark
	Err      error     // why it is not a syslog message; then Text is all of it
}

// Format is which specification the message follows.
type Format string

// The formats. BSD is RFC 3164 and everything else that begins with a priority.
const (
	RFC5424 Format = "rfc5424"
	BSD     Format = "rfc3164"
	None    Format = ""
)

// Element is one SD-ELEMENT.
type Element struct {
	ID     string
	Params []Param
}

// Param is one SD-PARAM, its value without escapes. A name may stand more than once.
type Param struct{ Name, Value string }

// Limits of RFC 5424, section 6, in bytes.
const (
	maxHost   = 255
	maxApp    = 48
	maxProcID = 128
	maxMsgID  = 32
	maxSDName = 32
)

// maxElements and maxParams bound structured data; beyond them a message is malformed.
const (
	maxElements = 64
	maxParams   = 512 // of all elements together
)

// Facility and Severity are the parts of the priority.
func (m *Message) Facility() int { return m.Priority >> 3 }

// Severity is 0 (emergency) to 7 (debug).
func (m *Message) Severity() int { return m.Priority & 7 }

// Parse reads one message, without its frame. received gives a time without a year its year, and one without a zone its zone.
func Parse(b []byte, received time.Time) Message {
	m := Message{Priority: -1, Text: b}
	rest, err := m.priority(b)
	if err != nil {
		m.Err = err
		return m
	}
	if version, after, ok := cutVersion(rest); ok {
		m.Format = RFC5424
		if version != 1 {
			m.Err = fmt.Errorf("version %d of the syslog protocol is not known; RFC 5424 has version 1", version)
		} else {
			m.Err = m.modern(after)
		}
		if m.Err != nil {
			m.Text, m.Data = b, nil
		}
		return m
	}
	m.Format = BSD
	m.bsd(rest, received)
	return m
}

func (m *Message) priority(b []byte) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, errors.New("the message is empty")
	}
	end := bytes.IndexByte(b[:min(len(b), 5)], '>')
	if b[0] != '<' || end < 2 {
		return nil, errors.New("want a priority such as <13> at the beginning")
	}
	n := 0
	for _, c := range b[1:end] {
		if c < '0' || c > '9' {
			return nil, errors.New("the priority is no number")
		}
		n = 10*n + int(c-'0')
	}
	if n > 191 || end > 2 && b[1] == '0' {
		return nil, fmt.Errorf("the priority %s is not one of 0 to 191", b[1:end])
	}
	m.Priority = n
	return b[end+1:], nil
}

// cutVersion takes VERSION SP off: one to three digits, not beginning with 0.
func cutVersion(b []byte) (version int, rest []byte, ok bool) {
	n := 0
	for n < len(b) && n < 4 && b[n] >= '0' && b[n] <= '9' {
		version = 10*version + int(b[n]-'0')
		n++
	}
	if n == 0 || n > 3 || b[0] == '0' || n >= len(b) || b[n] != ' ' {
		return 0, nil, false
	}
	return version, b[n+1:], true
}

// modern reads what follows VERSION SP in RFC 5424.
func (m *Message) modern(b []byte) error {
	stamp, b, ok := bytes.Cut(b, space)
	if !ok {
		return errors.New("it ends after the timestamp; want host, application, process, message id and structured data")
	}
	if string(stamp) != "-" {
		t, err := parseStamp(stamp)
		if err != nil {
			return err
		}
		m.Time = t
	}
	for _, f := range [...]struct {
		to    *string
		most  int
		field string
	}{{&m.Host, maxHost, "host"}, {&m.App, maxApp, "application"}, {&m.ProcID, maxProcID, "process"}, {&m.MsgID, maxMsgID, "message id"}} {
		var v []byte
		if v, b, ok = bytes.Cut(b, space); !ok {
			return fmt.Errorf("it ends after the %s", f.field)
		}
		if len(v) == 0 || len(v) > f.most || !printable(v) {
			return fmt.Errorf("the %s is not 1 to %d printable ASCII characters", f.field, f.most)
		}
		if string(v) != "-" {
			*f.to = string(v)
		}
	}
	b, err := m.structured(b)
	if err != nil {
		return err
	}
	if len(b) > 0 && b[0] != ' ' {
		return errors.New("structured data is not followed by a space")
	}
	m.Text = bytes.TrimPrefix(bytes.TrimPrefix(b, space), bom)
	return nil
}

var (
	space = []byte(" ")
	bom   = []byte("\xef\xbb\xbf")
)

func printable(b []byte) bool {
	for _, c := range b {
		if c < '!' || c > '~' {
			return false
		}
	}
	return true
}

// structured reads STRUCTURED-DATA and returns what follows.
func (m *Message) structured(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == '-' {
		return b[1:], nil
	}
	params := 0
	for len(b) > 0 && b[0] == '[' {
		if len(m.Data) == maxElements {
			return nil, fmt.Errorf("more than %d elements of structured data", maxElements)
		}
		id, rest, err := sdName(b[1:], "element")
		if err != nil {
			return nil, err
		}
		for i := range m.Data {
			if m.Data[i].ID == id {
				return nil, fmt.Errorf("the element %s stands twice in the structured data", id)
			}
		}
		e := Element{ID: id}
		for len(rest) > 0 && rest[0] == ' ' {
			if params++; params > maxParams {
				return nil, fmt.Errorf("more than %d parameters of structured data", maxParams)
			}
			var p Param
			if p.Name, rest, err = sdName(rest[1:], "parameter"); err != nil {
				return nil, err
			}
			if p.Value, rest, err = sdValue(rest); err != nil {
				return nil, fmt.Errorf("parameter %s: %w", p.Name, err)
			}
			e.Params = append(e.Params, p)
		}
		if len(rest) == 0 || rest[0] != ']' {
			return nil, fmt.Errorf("the element %s of structured data has no end", id)
		}
		m.Data = append(m.Data, e)
		b = rest[1:]
	}
	if len(m.Data) == 0 {
		return nil, errors.New("want structured data, or - for none")
	}
	return b, nil
}

func sdName(b []byte, what string) (name string, rest []byte, err error) {
	n := 0
	for n < len(b) && b[n] > ' ' && b[n] <= '~' && b[n] != '=' && b[n] != ']' && b[n] != '"' {
		n++
	}
	if n == 0 || n > maxSDName {
		return "", nil, fmt.Errorf("the name of an %s of structured data is not 1 to %d printable ASCII characters", what, maxSDName)
	}
	return string(b[:n]), b[n:], nil
}

// sdValue reads ="…". A backslash before anything but a quote, a backslash and ] stands for itself (RFC 5424, section 6.3.3).
func sdValue(b []byte) (value string, rest []byte, err error) {
	if len(b) < 2 || b[0] != '=' || b[1] != '"' {
		return "", nil, errors.New(`want ="value"`)
	}
	b = b[2:]
	escaped := false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			if i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\' || b[i+1] == ']') {
				escaped = true
				i++
			}
		case ']':
			return "", nil, errors.New("a ] in a value must be escaped")
		case '"':
			v := b[:i]
			if escaped {
				v = unescape(v)
			}
			if !utf8.Valid(v) {
				return "", nil, errors.New("the value is not UTF-8")
			}
			return string(v), b[i+1:], nil
		}
	}
	return "", nil, errors.New("the value has no end")
}

func unescape(v []byte) []byte {
	out := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		if v[i] == '\\' && i+1 < len(v) && (v[i+1] == '"' || v[i+1] == '\\' || v[i+1] == ']') {
			i++
		}
		out = append(out, v[i])
	}
	return out
}

// parseStamp reads TIMESTAMP of RFC 5424, section 6.2.3: RFC 3339 with T and Z in upper case, at most six digits of a second,
// no leap second. Nine digits, which some senders write, are taken too.
func parseStamp(b []byte) (time.Time, error) {
	bad := fmt.Errorf("the timestamp %q is not of RFC 5424, such as 2003-10-11T22:14:15.003Z", clip(b, 40))
	if len(b) < len("2003-10-11T22:14:15Z") || len(b) > 35 || b[10] != 'T' {
		return time.Time{}, bad
	}
	n, ok := [6]int{}, true
	for i, at := range [...][3]int{{0, 4, '-'}, {5, 7, '-'}, {8, 10, 'T'}, {11, 13, ':'}, {14, 16, ':'}, {17, 19, 0}} {
		var good bool
		n[i], good = digits(b[at[0]:at[1]])
		ok = ok && good && (at[2] == 0 || b[at[1]] == byte(at[2]))
	}
	if !ok || n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > daysIn(n[0], n[1]) || n[3] > 23 || n[4] > 59 || n[5] > 59 {
		return time.Time{}, bad
	}
	b = b[19:]
	nanos := 0
	if b[0] == '.' {
		k := 1
		for k < len(b) && b[k] >= '0' && b[k] <= '9' {
			k++
		}
		if k == 1 || k > 10 {
			return time.Time{}, bad
		}
		nanos, _ = digits(b[1:k])
		for range 10 - k {
			nanos *= 10
		}
		b = b[k:]
	}
	offset, ok := zone(b)
	if !ok {
		return time.Time{}, bad
	}
	return time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], nanos, time.UTC).Add(-offset), nil
}

func zone(b []byte) (time.Duration, bool) {
	if string(b) == "Z" {
		return 0, true
	}
	if len(b) != 6 || b[0] != '+' && b[0] != '-' || b[3] != ':' {
		return 0, false
	}
	h, ok1 := digits(b[1:3])
	m, ok2 := digits(b[4:6])
	d := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute
	if b[0] == '-' {
		d = -d
	}
	return d, ok1 && ok2 && h <= 23 && m <= 59
}

func digits(b []byte) (int, bool) {
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, len(b) > 0
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

func clip(b []byte, n int) []byte { return b[:min(len(b), n)] }

// bsd reads what follows the priority in RFC 3164: TIMESTAMP SP HOST SP TAG[PID]: CONTENT, any of which may be missing. As
// rsyslog does, the timestamp may be of RFC 3339; as logger does on a local socket, the host may be missing.
func (m *Message) bsd(b []byte, received time.Time) {
	rest, ok := m.bsdTime(b, received)
	if !ok {
		// RFC 3164, section 4.3.2: what has a priority and no valid timestamp is all content. A tag can be told all the same.
		m.Text = m.tag(b)
		return
	}
	word, after, more := bytes.Cut(rest, space)
	if more && isHost(word) && !isTag(word) {
		m.Host = string(word)
		rest = after
	}
	m.Text = m.tag(rest)
}

// bsdTime reads "Mmm dd hh:mm:ss " with an optional year after the day or the second, or RFC 3339.
func (m *Message) bsdTime(b []byte, received time.Time) (rest []byte, ok bool) {
	if len(b) > 0 && b[0] >= '0' && b[0] <= '9' {
		word, rest, found := bytes.Cut(b, space)
		if t, err := parseStamp(word); found && err == nil {
			m.Time = t
			return rest, true
		}
		return b, false
	}
	const shape = "Jan _2 15:04:05"
	if len(b) < len(shape)+1 || b[len(shape)] != ' ' && b[len(shape)] != ':' {
		return b, false
	}
	month := strings.Index("JanFebMarAprMayJunJulAugSepOctNovDec", string(b[:3]))
	day, ok1 := digits(bytes.TrimLeft(b[4:6], " "))
	hour, ok2 := digits(b[7:9])
	minute, ok3 := digits(b[10:12])
	second, ok4 := digits(b[13:15])
	if month < 0 || month%3 != 0 || b[3] != ' ' || b[6] != ' ' || b[9] != ':' || b[12] != ':' || !ok1 || !ok2 || !ok3 || !ok4 ||
		day < 1 || day > 31 || hour > 23 || minute > 59 || second > 59 {
		return b, false
	}
	m.Time = nearestYear(time.Month(month/3+1), day, hour, minute, second, received)
	rest = b[len(shape):]
	if rest[0] == ':' { // some devices end the time with a colon
		rest = rest[1:]
	}
	return bytes.TrimPrefix(rest, space), true
}

// nearestYear is the year that makes the time lie at most a day after received, and else as late as can be. A 29th of February
// goes back to a leap year.
func nearestYear(month time.Month, day, hour, minute, second int, received time.Time) time.Time {
	latest := received.Add(24 * time.Hour)
	for year := latest.Year(); year > latest.Year()-9; year-- {
		t := time.Date(year, month, day, hour, minute, second, 0, received.Location())
		if t.Day() == day && !t.After(latest) {
			return t.UTC()
		}
	}
	return time.Time{} // no such day, such as the 31st of June
}

// isHost says whether the word can be a host's name or address.
func isHost(word []byte) bool {
	if len(word) == 0 || len(word) > maxHost {
		return false
	}
	for _, c := range word {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' && c != ':' && c != '%' {
			return false
		}
	}
	return true
}

// isTag says whether the word is a tag: "sshd:" or "sshd[42]:", rather than a host.
func isTag(word []byte) bool {
	return word[len(word)-1] == ':' && !bytes.HasSuffix(word, []byte("::")) || bytes.IndexByte(word, '[') >= 0
}

// tag takes TAG and PID off the content; what has none is all content.
func (m *Message) tag(b []byte) []byte {
	n := 0
	for n < len(b) && n < maxApp && b[n] > ' ' && b[n] <= '~' && b[n] != ':' && b[n] != '[' {
		n++
	}
	if n == 0 || n == len(b) {
		return b
	}
	app, rest := b[:n], b[n:]
	if rest[0] == '[' {
		end := bytes.IndexByte(rest[:min(len(rest), maxProcID+2)], ']')
		if end < 2 || !printable(rest[1:end]) || end+1 >= len(rest) || rest[end+1] != ':' {
			return b
		}
		m.ProcID, rest = string(rest[1:end]), rest[end+1:]
	}
	if rest[0] != ':' || len(rest) > 1 && rest[1] != ' ' {
		m.ProcID = ""
		return b
	}
	m.App = string(app)
	return bytes.TrimPrefix(rest[1:], space)
}

// PID is the process id where it is a number; 0 otherwise.
func (m *Message) PID() uint32 {
	n, err := strconv.ParseUint(m.ProcID, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
