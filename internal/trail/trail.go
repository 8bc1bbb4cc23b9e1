// Package trail makes events in the common shape of what other systems write about themselves: access logs of web servers,
// authentication logs, auditd, systemd's journal, Kubernetes audit events, CloudTrail deliveries.
//
// No record is ever lost. What a parser understands stands under the well-known names of package event, beside the record itself:
// a JSON record as the object that it is, under "record"; any other as its bytes (event.Keep). What it does not understand is an
// event of level WARN with the record and a "parseError".
package trail

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Parser makes events of records, in their order. It is not for concurrent use.
type Parser interface {
	// Parse takes the next record, a line without its newline, a JSON value or a journal entry, and appends the events that are complete to dst.
	// It keeps nothing of record's memory.
	Parse(dst []immutable.Event, record []byte) []immutable.Event

	// Held is how many records, the newest ones, are not part of any returned event yet. Whoever remembers how far a source has
	// been read remembers the place before them: read from there after a restart, they make the same events.
	Held() int

	// Flush appends what the held records are so far, at the end of the input or when it is quiet.
	Flush(dst []immutable.Event) []immutable.Event
}

// Format is what a source writes.
type Format string

// The formats.
const (
	Access  Format = "access"  // nginx, Apache: common and combined log format, a line each
	Auditd  Format = "auditd"  // Linux audit.log, where one event has several lines
	AuthLog Format = "authlog" // sshd, PAM, sudo, su, cron in auth.log or secure, a line each

	CloudTrail Format = "cloudtrail" // AWS: events, one after the other or in deliveries
	K8sAudit   Format = "k8s-audit"  // Kubernetes: audit.k8s.io Event and EventList, as the log backend writes and the webhook backend sends

	JournalExport Format = "journald-export" // systemd's journal, as journalctl -o export writes
)

// Formats returns every format, in the order in which help lists them.
func Formats() []Format {
	return []Format{Access, Auditd, AuthLog, CloudTrail, JournalExport, K8sAudit}
}

// aliases are names of programs whose records have one of the formats.
var aliases = map[string]Format{"nginx": Access, "apache": Access, "sshd": AuthLog}

// ParseFormat reads a format's name, or that of a program that writes it.
func ParseFormat(name string) (Format, error) {
	if f, found := aliases[name]; found {
		return f, nil
	}
	for _, f := range Formats() {
		if string(f) == name {
			return f, nil
		}
	}
	return "", fmt.Errorf("no format %q of a trail; there are %s", name, strings.Join(Names(), ", "))
}

// Names are those of all formats.
func Names() []string {
	names := make([]string, 0, len(Formats()))
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return names
}

// JSON says whether records are JSON values rather than lines.
func (f Format) JSON() bool { return f == CloudTrail || f == K8sAudit }

// Options say what the records themselves do not. The zero value is good.
type Options struct {
	Location *time.Location   // of times without a zone; nil is UTC
	Now      func() time.Time // a time without a year is the newest that is not after it, a day's grace aside; nil is time.Now
}

// New makes a parser.
func New(f Format, o Options) (Parser, error) {
	if o.Location == nil {
		o.Location = time.UTC
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	switch f {
	case Access:
		return stateless(parseAccess), nil
	case AuthLog:
		return stateless((&authLog{o: o}).parse), nil
	case Auditd:
		return &auditd{}, nil
	case CloudTrail:
		return stateless(parseCloudTrail), nil
	case JournalExport:
		return journald{}, nil
	case K8sAudit:
		return k8sAudit{}, nil
	}
	_, err := ParseFormat(string(f))
	return nil, err
}

// Names of metadata beside those of package event.
const (
	keyRecord     = "record"     // a JSON record, token by token as it came
	keyParseError = "parseError" // why nothing more is known of a record
)

// maxMessage is how much of a record becomes the message, in bytes; the whole stands beside it.
const maxMessage = 1024

// record is what a parser found in one record.
type record struct {
	message string
	level   immutable.Level
	time    time.Time
	host    string // that wrote it
	pid     uint32
	key     string // idempotency key
	json    bool   // the record is a JSON object
	shape   event.Shape
}

// stateless is a parser of which each record makes one event. A nil record was not understood, for the reason of the error.
type stateless func(raw []byte) (*record, error)

func (p stateless) Parse(dst []immutable.Event, raw []byte) []immutable.Event {
	r, err := p(raw)
	if err != nil {
		return append(dst, unparsed(raw, err))
	}
	return append(dst, r.event(raw))
}

func (p stateless) Held() int { return 0 }

func (p stateless) Flush(dst []immutable.Event) []immutable.Event { return dst }

// event is the record beside its bytes. Where both together are no entry, the bytes stay.
func (r *record) event(raw []byte) immutable.Event {
	e := immutable.Event{Level: r.level, Message: shorten(r.message), EventTime: r.time, Hostname: r.host, PID: r.pid, IdempotencyKey: r.key, Metadata: r.shape.Fields()}
	if r.json {
		e.Metadata[keyRecord] = json.RawMessage(bytes.Clone(raw))
		if _, err := entry.Append(nil, &e); err == nil {
			return e
		}
		delete(e.Metadata, keyRecord) // JSON that the log's format refuses, such as with a name twice, or too much of it
	}
	if _, err := event.Keep(&e, raw); err != nil {
		return unparsed(raw, fmt.Errorf("what was read has no place in an entry: %w", err))
	}
	return e
}

// unparsed keeps a record of which nothing more is known.
func unparsed(raw []byte, reason error) immutable.Event {
	e := immutable.Event{
		Level: immutable.Warn, Message: shorten(valid(raw)),
		Metadata: immutable.Fields{event.KeyAction: event.ActionMessage, keyParseError: shorten(reason.Error())},
	}
	if _, err := event.Keep(&e, raw); err != nil {
		panic("trail: a short event and bytes are no entry: " + err.Error()) // both are bounded and valid: only a bug gets here
	}
	return e
}

// identity makes an idempotency key of what identifies a record at its source. The record's digest is part of it: a record that
// comes again is known, one that says something else under the same name is a record of its own, and nothing is lost.
func identity(f Format, raw []byte, parts ...string) string {
	if slices.Contains(parts, "") {
		return ""
	}
	digest := sha256.Sum256(raw)
	name := strings.Join(parts, ":")
	if len(name) > 128 || !utf8.ValidString(name) {
		long := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(long[:])
	}
	return string(f) + ":" + name + ":" + hex.EncodeToString(digest[:16])
}

// object reads the members of a JSON object that v has. A member of another type than it should have is left out.
func object(raw []byte, v any) error {
	err := json.Unmarshal(raw, v)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && len(raw) > 0 && raw[0] == '{' {
		return nil
	}
	return err
}

// timeOf is the first of the texts that is a time: RFC 3339, or without T and zone, as some pipelines rewrite it.
func timeOf(texts ...string) time.Time {
	for _, s := range texts {
		for _, layout := range [...]string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999"} {
			if t, err := time.Parse(layout, s); err == nil && t.Year() > 0 && t.Year() <= 9999 {
				if t = t.UTC(); t.Year() > 0 && t.Year() <= 9999 {
					return t
				}
			}
		}
	}
	return time.Time{}
}

// valid is raw as text, with U+FFFD for what is not UTF-8.
func valid(raw []byte) string { return strings.ToValidUTF8(string(raw), "\uFFFD") }

// shorten cuts s between characters.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxMessage {
		return s
	}
	n := maxMessage - len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
