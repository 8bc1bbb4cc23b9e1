package trail

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/journal"
)

// journald makes an event of each entry of systemd's journal, in its export format. All fields stand under "journal", by their
// names: text as a string, other bytes as {"base64": …}, a field that stands more than once as a list. MESSAGE is not among them
// where the event's message is the same.
type journald struct{}

func (journald) Held() int { return 0 }

func (journald) Flush(dst []immutable.Event) []immutable.Event { return dst }

func (journald) Parse(dst []immutable.Event, raw []byte) []immutable.Event {
	fields, err := journal.Fields(raw)
	if err != nil {
		return append(dst, unparsed(raw, err))
	}
	j := journalEntry{fields: fields}
	return append(dst, j.event(raw))
}

// keyJournal has the fields of a journal entry.
const keyJournal = "journal"

// smallField is what of an entry that is too large for one of ours still stands by its name, in bytes of the value.
const smallField = 1024

type journalEntry struct{ fields []journal.Field }

// get is the first value of a field, as text.
func (j *journalEntry) get(name string) string {
	for _, f := range j.fields {
		if f.Name == name {
			return valid(f.Value)
		}
	}
	return ""
}

func (j *journalEntry) event(raw []byte) immutable.Event {
	e := immutable.Event{Message: j.get("MESSAGE"), EventTime: j.time(), IdempotencyKey: j.key()}
	if host := j.get("_HOSTNAME"); len(host) <= 255 {
		e.Hostname = host
	}
	if pid, err := strconv.ParseUint(first(j.get("_PID"), j.get("SYSLOG_PID")), 10, 32); err == nil {
		e.PID = uint32(pid)
	}
	var shape event.Shape
	shape, e.Level = j.shape()
	e.Metadata = shape.Fields()
	e.Metadata[keyJournal] = j.object(e.Message, journal.MaxEntry)
	if _, err := entry.Append(nil, &e); err == nil {
		return e
	}
	e.Message = shorten(e.Message)
	e.Metadata[keyJournal] = j.object(e.Message, smallField)
	if _, err := event.Keep(&e, raw); err == nil {
		return e
	}
	delete(e.Metadata, keyJournal) // a thousand small fields
	if _, err := event.Keep(&e, raw); err != nil {
		return unparsed(raw, err)
	}
	return e
}

// time is when it happened as the sender saw it, else when journald took it.
func (j *journalEntry) time() time.Time {
	for _, name := range [...]string{"_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"} {
		if us, err := strconv.ParseUint(j.get(name), 10, 63); err == nil && us > 0 && us < 253402300800e6 { // the year 10000
			return time.UnixMicro(int64(us)).UTC()
		}
	}
	return time.Time{}
}

// key is the entry's cursor and the digest of its fields, but those that tell where the entry lies and not what it says: the same
// entry has the same, through whatever it comes.
func (j *journalEntry) key() string {
	h := sha256.New()
	fields := slices.Clone(j.fields)
	slices.SortStableFunc(fields, func(a, b journal.Field) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range fields {
		if !strings.HasPrefix(f.Name, "__") {
			h.Write(strconv.AppendInt([]byte(f.Name+" "), int64(len(f.Value)), 10))
			h.Write(append([]byte(" "), f.Value...))
		}
	}
	return identity(JournalExport, h.Sum(nil), j.get("__CURSOR"))
}

// object has the fields whose values take at most so many bytes.
func (j *journalEntry) object(message string, most int) immutable.Fields {
	out := immutable.Fields{}
	for _, f := range j.fields {
		if len(f.Value) > most || f.Name == "MESSAGE" && string(f.Value) == message {
			continue
		}
		var value any = map[string]any{"base64": base64.StdEncoding.EncodeToString(f.Value)}
		if utf8.Valid(f.Value) {
			value = string(f.Value)
		}
		switch old := out[f.Name].(type) {
		case nil:
			out[f.Name] = value
		case []any:
			out[f.Name] = append(old, value)
		default:
			out[f.Name] = []any{old, value}
		}
	}
	return out
}

// Facilities of syslog that have a level of their own.
const (
	facilityAuth     = "4"
	facilityAuthpriv = "10"
	facilityAudit    = "13"
)

// shape is what the entry means: what sshd, sudo and their like say is read as in auth.log, what the kernel's audit says as in
// audit.log. Of all others it says who and from where.
func (j *journalEntry) shape() (event.Shape, immutable.Level) {
	program, facility := first(j.get("SYSLOG_IDENTIFIER"), j.get("_COMM")), j.get("SYSLOG_FACILITY")
	s, level := event.Shape{Kind: event.KindSystem, Action: event.ActionMessage, Extra: immutable.Fields{}}, j.level()
	switch {
	case j.get("_TRANSPORT") == "audit":
		level = immutable.Audit
		if r := j.audit(); r != nil {
			s, level = r.shape, r.level
		}
	case facility == facilityAuth || facility == facilityAuthpriv:
		m := message{program: program, text: j.get("MESSAGE"), shape: s}
		m.read()
		s, level = m.shape, immutable.Security
	case facility == facilityAudit:
		level = immutable.Audit
	}
	if s.Extra == nil {
		s.Extra = immutable.Fields{}
	}
	for name, value := range map[string]string{"program": program, "unit": first(j.get("_SYSTEMD_UNIT"), j.get("_SYSTEMD_USER_UNIT"))} {
		if value != "" {
			s.Extra[name] = value
		}
	}
	if s.Source == nil {
		s.Source = &event.Source{}
	}
	s.Source.Provider = "journald"
	if s.Actor == nil || *s.Actor == (event.Actor{}) {
		s.Actor = j.actor()
	}
	return s, level
}

// actor is the user who logged in, else the user that the process runs as.
func (j *journalEntry) actor() *event.Actor {
	const none = "4294967295"
	if login := j.get("_AUDIT_LOGINUID"); login != "" && login != none {
		return &event.Actor{Type: event.ActorUser, ID: login, Session: j.get("_AUDIT_SESSION")}
	}
	if uid := j.get("_UID"); uid != "" {
		return &event.Actor{Type: event.ActorService, ID: uid}
	}
	return nil
}

// audit reads a line of the kernel's audit, which journald keeps without its head.
func (j *journalEntry) audit() *record {
	kind := j.get("_AUDIT_TYPE_NAME")
	text, ok := strings.CutPrefix(j.get("MESSAGE"), kind+" ")
	if !ok || kind == "" {
		return nil
	}
	var a auditRecords
	if a.add([]byte("type=" + kind + " msg=audit(0.000:0): " + text)); len(a.lines) == 0 {
		return nil
	}
	return a.record()
}

func (j *journalEntry) level() immutable.Level {
	switch j.get("PRIORITY") {
	case "0", "1", "2":
		return immutable.Critical
	case "3":
		return immutable.Error
	case "4":
		return immutable.Warn
	}
	return immutable.Info
}
