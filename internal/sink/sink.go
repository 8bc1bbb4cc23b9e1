// Package sink sends the entries of logs on to other systems: webhooks, syslog, OTLP, files. Each sink has a cursor of its own
// that outlives the process: every entry that it selects is delivered at least once, in the order of the log, and says which
// entry it is, so that `immutable verify --from` compares what arrived with the log. docs/sinks.md is the contract.
//
// A sink reads as everybody does, from proven files, in a goroutine of its own: one that is slow, or away, delays nobody. What
// a receiver refuses for good becomes a dead letter, which is listed and can be tried again; the entry itself stays in the log.
package sink

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of a sink's settings.
const (
	maxSinks      = 20   // of a tenant
	maxAllSinks   = 1000 // of an installation
	maxSecrets    = 3
	maxSecret     = 2048 // bytes
	maxURL        = 2048
	maxQuery      = 4096 // bytes
	maxCA         = 64 << 10
	maxHeaderName = 100
	minRotate     = 64 << 10
	maxRotate     = 16 << 30
	maxKeepFiles  = 100_000
)

// Type says how a sink is spoken to.
type Type string

// The types of sinks.
const (
	Webhook Type = "webhook" // POST of batches, signed after Standard Webhooks
	Syslog  Type = "syslog"  // RFC 5424 over TLS or TCP, with octet counting
	OTLP    Type = "otlp"    // OpenTelemetry logs over HTTP
	File    Type = "file"    // JSON Lines in files of the service's
)

// Format says how an entry is written.
type Format string

// The formats. All of them say which entry it is, and carry its exact line.
const (
	JSON Format = "json" // what `immutable export --format marked` writes
	OCSF Format = "ocsf" // Open Cybersecurity Schema Framework
	ECS  Format = "ecs"  // Elastic Common Schema
)

// Kept stands for a secret that is not shown. Given back for the same type and address it means the one that is there.
const Kept = "(kept)"

// Sink is what somebody wants to be sent where. docs/sinks.md explains the members.
type Sink struct {
	Name    string        `json:"name"`
	Title   string        `json:"title,omitempty"`
	Log     string        `json:"log"`
	Type    Type          `json:"type"`
	Format  Format        `json:"format"`
	Query   string        `json:"query,omitempty"` // docs/search.md; empty is every entry
	Levels  tenant.Levels `json:"levels,omitempty"`
	From    uint64        `json:"from,omitempty"`    // the first index; 0 is the oldest entry that is there
	URL     string        `json:"url,omitempty"`     // webhook, otlp
	Address string        `json:"address,omitempty"` // syslog: host:port
	Plain   bool          `json:"plain,omitempty"`   // syslog: TCP without TLS, where private addresses are allowed
	CA      string        `json:"ca,omitempty"`      // authorities of the receiver's certificate, PEM; "" is the host's
	Header  string        `json:"header,omitempty"`  // otlp: the header that the secret is the value of; "" is Authorization: Bearer
	Secrets []string      `json:"secrets,omitempty"` // webhook: up to three "whsec_…", each signs; otlp: one
	Rotate  int64         `json:"rotate,omitempty"`  // file: bytes after which a new file begins; 0 is 64 MiB
	Keep    int           `json:"keep,omitempty"`    // file: how many files stay; 0 is all
	Paused  bool          `json:"paused,omitempty"`
}

// ErrSettings is wrapped where a sink is not acceptable; the text says which member, and why.
var ErrSettings = errors.New("sink settings")

func bad(member, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrSettings, member, fmt.Sprintf(format, args...))
}

var (
	nameForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	headerForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]*$`)
)

// check refuses what cannot work, or must not be.
func (s *Sink) check(allowPrivate bool) error {
	switch {
	case !nameForm.MatchString(s.Name) || len(s.Name) > 40:
		return bad("name", "%.80q; at most 40 lower-case letters, digits and -", s.Name)
	case len(s.Title) > 200:
		return bad("title", "%d bytes; at most 200", len(s.Title))
	case !nameForm.MatchString(s.Log):
		return bad("log", "%.80q is not a log's name", s.Log)
	case !slices.Contains([]Format{JSON, OCSF, ECS}, s.Format):
		return bad("format", "%.40q; json, ocsf or ecs", s.Format)
	case len(s.Query) > maxQuery:
		return bad("query", "%d bytes; at most %d", len(s.Query), maxQuery)
	case len(s.Levels) > immutable.NumLevels:
		return bad("levels", "%d of them", len(s.Levels))
	case s.From > 1<<62:
		return bad("from", "%d is no index", s.From)
	case len(s.CA) > maxCA:
		return bad("ca", "%d bytes; at most %d", len(s.CA), maxCA)
	case len(s.Secrets) > maxSecrets || s.Type != Webhook && len(s.Secrets) > 1:
		return bad("secrets", "%d; at most %d of a webhook, and one of otlp", len(s.Secrets), maxSecrets)
	}
	if _, err := immutable.ParseFilter(s.Query, time.Unix(0, 0)); err != nil {
		return bad("query", "%v", err)
	}
	if s.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA)) {
		return bad("ca", "it holds no certificate in PEM")
	}
	for _, secret := range s.Secrets {
		if secret == "" || len(secret) > maxSecret || strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r > '~' }) {
			return bad("secrets", "a secret is 1 to %d printable ASCII characters", maxSecret)
		}
	}
	if err := s.checkMembers(); err != nil {
		return err
	}
	switch s.Type {
	case Webhook:
		for _, secret := range s.Secrets {
			if err := outbound.CheckSecret(secret); err != nil {
				return bad("secrets", "%v", err)
			}
		}
		return s.checkURL(allowPrivate)
	case OTLP:
		if s.Header != "" && (!headerForm.MatchString(s.Header) || len(s.Header) > maxHeaderName) {
			return bad("header", "%.80q is not a header's name", s.Header)
		}
		return s.checkURL(allowPrivate)
	case Syslog:
		return s.checkAddress(allowPrivate)
	case File:
		return s.checkFile()
	}
	return bad("type", "%.40q; webhook, syslog, otlp or file", s.Type)
}

// checkMembers refuses members of other types, which would look as if they did something.
func (s *Sink) checkMembers() error {
	for _, m := range []struct {
		name  string
		given bool
		types []Type
	}{
		{"url", s.URL != "", []Type{Webhook, OTLP}},
		{"secrets", len(s.Secrets) > 0, []Type{Webhook, OTLP}},
		{"header", s.Header != "", []Type{OTLP}},
		{"address", s.Address != "", []Type{Syslog}},
		{"plain", s.Plain, []Type{Syslog}},
		{"ca", s.CA != "", []Type{Webhook, OTLP, Syslog}},
		{"rotate", s.Rotate != 0, []Type{File}},
		{"keep", s.Keep != 0, []Type{File}},
	} {
		if m.given && !slices.Contains(m.types, s.Type) {
			return bad(m.name, "a sink of type %.40q has none", s.Type)
		}
	}
	return nil
}

func (s *Sink) checkURL(allowPrivate bool) error {
	u, err := url.Parse(s.URL)
	switch {
	case len(s.URL) > maxURL, err != nil, u.Host == "", u.User != nil, u.Fragment != "", u.Opaque != "":
		return bad("url", "want https://host/path of at most %d bytes, without a user and a fragment", maxURL)
	case u.Scheme != "https" && (u.Scheme != "http" || !allowPrivate):
		return bad("url", "it must be https; http is for installations that allow private addresses (alerts.allow_private)")
	}
	return nil
}

func (s *Sink) checkAddress(allowPrivate bool) error {
	host, port, err := net.SplitHostPort(s.Address)
	n, perr := strconv.Atoi(port)
	switch {
	case err != nil, perr != nil, n < 1, n > 65535, host == "", len(host) > 253:
		return bad("address", "%.80q is not host:port", s.Address)
	case s.Plain && !allowPrivate:
		return bad("plain", "TCP without TLS is for installations that allow private addresses (alerts.allow_private)")
	}
	return nil
}

func (s *Sink) checkFile() error {
	switch {
	case s.Rotate != 0 && (s.Rotate < minRotate || s.Rotate > maxRotate):
		return bad("rotate", "%d bytes; %d to %d", s.Rotate, minRotate, int64(maxRotate))
	case s.Keep < 0 || s.Keep > maxKeepFiles:
		return bad("keep", "%d files; 0 to %d", s.Keep, maxKeepFiles)
	}
	return nil
}

// shown is the sink with Kept in the place of secrets.
func (s *Sink) shown() Sink {
	out := *s
	out.Levels, out.Secrets = slices.Clone(s.Levels), slices.Clone(s.Secrets)
	for i := range out.Secrets {
		out.Secrets[i] = Kept
	}
	return out
}

// keepSecrets puts back the secrets that s was shown without. A secret stays with the address that it was given for: else
// whoever may change an address would have it sent to a place of theirs.
func (s *Sink) keepSecrets(old *Sink) error {
	s.Secrets = slices.Clone(s.Secrets)
	for i, secret := range s.Secrets {
		if secret != Kept {
			continue
		}
		if old == nil || old.Type != s.Type || old.URL != s.URL || old.CA != s.CA || old.Header != s.Header || i >= len(old.Secrets) {
			return bad("secrets", "%q stands for a secret that is there; give it anew for a new sink, or another address", Kept)
		}
		s.Secrets[i] = old.Secrets[i]
	}
	return nil
}
