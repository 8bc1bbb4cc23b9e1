package alert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
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

// Limits of a tenant's rules.
const (
	maxSinks      = 20
	maxQueries    = 50
	maxSecrets    = 3
	maxSecret     = 512 // bytes
	maxRecipients = 20
	maxURL        = 2048
	maxText       = 4096 // bytes of a query
	maxSummary    = 500
	maxThreshold  = 1_000_000_000
	minWindow     = time.Second
	maxWindow     = 31 * 24 * time.Hour
	maxFor        = 24 * time.Hour
	minRepeat     = time.Minute
)

// Rules are what a tenant wants to be told of, and where. The zero value asks for nothing but the built-in conditions, and
// tells nobody.
type Rules struct {
	Sinks   []Sink  `json:"sinks"`
	Queries []Query `json:"queries"`
	Limits  Limits  `json:"limits"`
}

// Query is a saved query with a threshold: it fires while at least Threshold entries of the last Window match.
type Query struct {
	Name      string        `json:"name"`
	Log       string        `json:"log"`
	Query     string        `json:"query,omitempty"` // docs/search.md; empty is every entry
	Levels    tenant.Levels `json:"levels,omitempty"`
	Threshold uint64        `json:"threshold"`
	Window    Duration      `json:"window"`
	For       Duration      `json:"for,omitempty"` // it is pending so long before it fires
	Severity  Severity      `json:"severity,omitempty"`
	Summary   string        `json:"summary,omitempty"`
	Sinks     []string      `json:"sinks,omitempty"` // names; none is all
}

// SinkType says how a sink is spoken to.
type SinkType string

// The types of sinks.
const (
	Webhook      SinkType = "webhook"      // Standard Webhooks
	Alertmanager SinkType = "alertmanager" // Prometheus Alertmanager, API v2
	Email        SinkType = "email"        // SMTP
)

// Kept stands in Rules for a secret that is not shown. Given back for a sink of the same name, type and address it means the
// secret that is there.
const Kept = "(kept)"

// Sink is where alerts go.
type Sink struct {
	Name        string     `json:"name"`
	Type        SinkType   `json:"type"`
	URL         string     `json:"url,omitempty"`     // of a webhook, or of an Alertmanager (without /api/v2/alerts)
	Secrets     []string   `json:"secrets,omitempty"` // webhook: "whsec_…", each signs; alertmanager: one bearer token; email: one password
	To          []string   `json:"to,omitempty"`      // of type email, and the following too
	From        string     `json:"from,omitempty"`
	Server      string     `json:"server,omitempty"` // host:port; "" is the installation's
	Username    string     `json:"username,omitempty"`
	TLS         string     `json:"tls,omitempty"`         // "starttls" (also ""), "tls", or "none" where private addresses are allowed
	Kinds       []Kind     `json:"kinds,omitempty"`       // none is all
	Severities  []Severity `json:"severities,omitempty"`  // none is all
	EveryTenant bool       `json:"everyTenant,omitempty"` // in the tenant "system": alerts of every tenant come here too
}

// Limits are when the built-in conditions hold. 0 is the default, negative never.
type Limits struct {
	DiskFreePercent float64  `json:"diskFreePercent,omitempty"` // 10; of the tenant "system"
	CheckpointLag   Duration `json:"checkpointLag,omitempty"`   // 5m
	WitnessLag      Duration `json:"witnessLag,omitempty"`      // 1h
	Repeat          Duration `json:"repeat,omitempty"`          // 4h: how often a firing alert is sent again
}

func (l Limits) withDefaults() Limits {
	if l.DiskFreePercent == 0 {
		l.DiskFreePercent = 10
	}
	for _, d := range []struct {
		at    *Duration
		value time.Duration
	}{{&l.CheckpointLag, 5 * time.Minute}, {&l.WitnessLag, time.Hour}, {&l.Repeat, 4 * time.Hour}} {
		if *d.at == 0 {
			*d.at = Duration(d.value)
		}
	}
	return l
}

// Duration is a time.Duration that JSON spells like "90s" or "5m"; a negative one is "never".
type Duration time.Duration

const never = "never"

// MarshalJSON spells it.
func (d Duration) MarshalJSON() ([]byte, error) {
	if d < 0 {
		return json.Marshal(never)
	}
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads "5m" or "never".
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("a duration is a string such as %q", "5m")
	}
	if s == never {
		*d = -1
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%.40q is no duration; spell it like %q, or %q", s, "5m", never)
	}
	*d = Duration(v)
	return nil
}

// decode reads one strict JSON value: no unknown names, nothing behind it.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func bad(where, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrRules, where, fmt.Sprintf(format, args...))
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// check refuses what cannot work, or must not be.
func (r *Rules) check(owner string, o *Options) error {
	if len(r.Sinks) > maxSinks || len(r.Queries) > maxQueries {
		return bad("rules", "%d sinks and %d queries; at most %d and %d", len(r.Sinks), len(r.Queries), maxSinks, maxQueries)
	}
	sinks := map[string]bool{}
	for i := range r.Sinks {
		s := &r.Sinks[i]
		if !nameForm.MatchString(s.Name) || sinks[s.Name] {
			return bad(fmt.Sprintf("sinks[%d].name", i), "%.80q; lower-case letters, digits and -, each name once", s.Name)
		}
		sinks[s.Name] = true
		if err := s.check("sink "+s.Name, owner, o); err != nil {
			return err
		}
	}
	names := map[string]bool{}
	for i := range r.Queries {
		q := &r.Queries[i]
		if !nameForm.MatchString(q.Name) || names[q.Name] {
			return bad(fmt.Sprintf("queries[%d].name", i), "%.80q; lower-case letters, digits and -, each name once", q.Name)
		}
		names[q.Name] = true
		if err := q.check("query "+q.Name, sinks); err != nil {
			return err
		}
	}
	switch l := &r.Limits; {
	case !(l.DiskFreePercent < 100):
		return bad("limits.diskFreePercent", "%v; below 100, negative is never", l.DiskFreePercent)
	case l.Repeat > 0 && time.Duration(l.Repeat) < minRepeat:
		return bad("limits.repeat", "%s; at least %s, or %q", time.Duration(l.Repeat), minRepeat, never)
	}
	return nil
}

func (q *Query) check(where string, sinks map[string]bool) error {
	window, wait := time.Duration(q.Window), time.Duration(q.For)
	switch {
	case !nameForm.MatchString(q.Log):
		return bad(where, "log %.80q is not a log's name", q.Log)
	case len(q.Query) > maxText:
		return bad(where, "the query has %d bytes; at most %d", len(q.Query), maxText)
	case q.Threshold < 1 || q.Threshold > maxThreshold:
		return bad(where, "threshold %d; 1 to %d", q.Threshold, maxThreshold)
	case window < minWindow || window > maxWindow:
		return bad(where, "window %s; %s to %s", window, minWindow, maxWindow)
	case wait < 0 || wait > maxFor:
		return bad(where, "for %s; at most %s", wait, maxFor)
	case !validSeverity(q.Severity) && q.Severity != "":
		return bad(where, "severity %.40q; critical, warning or info", q.Severity)
	case len(q.Summary) > maxSummary:
		return bad(where, "the summary has %d bytes; at most %d", len(q.Summary), maxSummary)
	case len(q.Levels) > immutable.NumLevels:
		return bad(where, "%d levels", len(q.Levels))
	}
	if _, err := immutable.ParseFilter(q.Query, time.Unix(0, 0)); err != nil {
		return bad(where, "%v", err)
	}
	for _, name := range q.Sinks {
		if !sinks[name] {
			return bad(where, "there is no sink %.80q", name)
		}
	}
	return nil
}

func validSeverity(s Severity) bool { return s == Critical || s == Warning || s == Info }

func (s *Sink) check(where, owner string, o *Options) error {
	if s.EveryTenant && owner != tenant.SystemName {
		return bad(where, "everyTenant is for sinks of the tenant %q", tenant.SystemName)
	}
	for _, k := range s.Kinds {
		if !slices.Contains(kinds, k) {
			return bad(where, "there is no kind %.80q", k)
		}
	}
	for _, v := range s.Severities {
		if !validSeverity(v) {
			return bad(where, "severity %.40q; critical, warning or info", v)
		}
	}
	if len(s.Secrets) > maxSecrets || s.Type != Webhook && len(s.Secrets) > 1 {
		return bad(where, "%d secrets; at most %d of a webhook, and one of others", len(s.Secrets), maxSecrets)
	}
	for _, secret := range s.Secrets {
		if secret == "" || len(secret) > maxSecret || strings.ContainsFunc(secret, func(r rune) bool { return r < ' ' || r > '~' }) {
			return bad(where, "a secret is 1 to %d printable ASCII characters", maxSecret)
		}
	}
	switch s.Type {
	case Webhook, Alertmanager:
		return s.checkURL(where, o)
	case Email:
		return s.checkMail(where, o)
	}
	return bad(where, "type %.40q; webhook, alertmanager or email", s.Type)
}

func (s *Sink) checkURL(where string, o *Options) error {
	u, err := url.Parse(s.URL)
	switch {
	case len(s.URL) > maxURL, err != nil, u.Host == "", u.User != nil, u.Fragment != "", u.Opaque != "":
		return bad(where, "url: want https://host/path of at most %d bytes, without a user and a fragment", maxURL)
	case u.Scheme != "https" && (u.Scheme != "http" || !o.AllowPrivate):
		return bad(where, "url: it must be https; http is for installations that allow private addresses (alerts.allow_private)")
	case len(s.To) > 0 || s.From != "" || s.Server != "" || s.Username != "" || s.TLS != "":
		return bad(where, "to, from, server, username and tls are for sinks of type email")
	}
	if s.Type == Webhook {
		for _, secret := range s.Secrets {
			if err := outbound.CheckSecret(secret); err != nil {
				return bad(where, "%v", err)
			}
		}
	}
	return nil
}

func (s *Sink) checkMail(where string, o *Options) error {
	if len(s.To) == 0 || len(s.To) > maxRecipients {
		return bad(where, "to: %d addresses; 1 to %d", len(s.To), maxRecipients)
	}
	for _, a := range s.To {
		if err := checkAddress(a); err != nil {
			return bad(where, "to: %v", err)
		}
	}
	if s.URL != "" {
		return bad(where, "url is for sinks of type webhook and alertmanager")
	}
	if s.Server == "" {
		if s.From != "" || s.Username != "" || len(s.Secrets) > 0 || s.TLS != "" {
			return bad(where, "from, username, secrets and tls belong to a server, and it names none")
		}
		if o.SMTP.Address == "" {
			return bad(where, "server: the installation has no mail server; name one, host:port")
		}
		return nil
	}
	if err := checkServer(s.Server); err != nil {
		return bad(where, "server: %v", err)
	}
	if err := checkAddress(s.From); err != nil {
		return bad(where, "from: %v", err)
	}
	switch {
	case !slices.Contains([]string{"", "starttls", "tls", "none"}, s.TLS):
		return bad(where, "tls: %.40q; starttls, tls or none", s.TLS)
	case s.TLS == "none" && (!o.AllowPrivate || s.Username != ""):
		return bad(where, "tls: none is for installations that allow private addresses, without a username")
	case (s.Username == "") != (len(s.Secrets) == 0):
		return bad(where, "a username and one secret belong together")
	case len(s.Username) > maxSecret:
		return bad(where, "username: %d bytes; at most %d", len(s.Username), maxSecret)
	}
	return nil
}

func checkAddress(a string) error {
	p, err := mail.ParseAddress(a)
	if err != nil || p.Address != a || len(a) > 254 || strings.ContainsAny(a, "\r\n\x00") {
		return fmt.Errorf("%.80q is not a plain e-mail address", a)
	}
	return nil
}

func checkServer(server string) error {
	host, port, err := net.SplitHostPort(server)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 1 || n > 65535 || host == "" || len(host) > 253 {
		return fmt.Errorf("%.80q is not host:port", server)
	}
	return nil
}

// shown is the rules with Kept in the place of secrets.
func (r *Rules) shown() Rules {
	out := Rules{Sinks: slices.Clone(r.Sinks), Queries: slices.Clone(r.Queries), Limits: r.Limits}
	for i := range out.Sinks {
		s := &out.Sinks[i]
		s.Secrets = slices.Clone(s.Secrets)
		for k := range s.Secrets {
			s.Secrets[k] = Kept
		}
	}
	return out
}

// keepSecrets puts back the secrets that r was shown without. A secret stays with the address that it was given for: else
// whoever may change an address would have it sent to a place of theirs.
func (r *Rules) keepSecrets(old *Rules) error {
	for i := range r.Sinks {
		s := &r.Sinks[i]
		s.Secrets = slices.Clone(s.Secrets)
		for k, secret := range s.Secrets {
			if secret != Kept {
				continue
			}
			at := slices.IndexFunc(old.Sinks, func(o Sink) bool {
				return o.Name == s.Name && o.Type == s.Type && o.URL == s.URL && o.Server == s.Server && o.Username == s.Username && o.TLS == s.TLS
			})
			if at < 0 || k >= len(old.Sinks[at].Secrets) {
				return bad("sink "+s.Name, "%q stands for a secret that is there; give it anew for a new sink, or another address", Kept)
			}
			s.Secrets[k] = old.Sinks[at].Secrets[k]
		}
	}
	return nil
}

// takes says whether the sink is told of an alert.
func (s *Sink) takes(st *State) bool {
	switch {
	case len(st.Sinks) > 0 && !slices.Contains(st.Sinks, s.Name),
		len(s.Kinds) > 0 && !slices.Contains(s.Kinds, st.Kind),
		len(s.Severities) > 0 && !slices.Contains(s.Severities, st.Severity):
		return false
	}
	return true
}
