// Package trail makes events in the common shape of what other systems write about themselves: access logs of web servers,
// authentication logs, auditd, Kubernetes audit events, CloudTrail deliveries.
//
// No record is ever lost. What a parser understands stands under the well-known names of package event, beside the record itself:
// a JSON record as the object that it is, under "record"; any other as its bytes (event.Keep). What it does not understand is an
// event of level WARN with the record and a "parseError".
package trail

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// Parser makes events of records, in their order. It is not for concurrent use.
type Parser interface {
	// Parse takes the next record, a line without its newline or a JSON value, and appends the events that are complete to dst.
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
	AuthLog Format = "authlog" // sshd, PAM, sudo, su, cron in auth.log or secure, a line each
)

// Formats returns every format, in the order in which help lists them.
func Formats() []Format { return []Format{Access, AuthLog} }

// ParseFormat reads a format's name.
func ParseFormat(name string) (Format, error) {
	for _, f := range Formats() {
		if string(f) == name {
			return f, nil
		}
	}
	names := make([]string, 0, len(Formats()))
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("no format %q of a trail; there are %s", name, strings.Join(names, ", "))
}

// JSON says whether records are JSON values rather than lines.
func (f Format) JSON() bool { return false }

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
