package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
)

// Names that are there in each installation and tenant.
const (
	SystemName  = "system"  // the log of the log in each tenant, and the installation's own tenant
	DefaultName = "default" // the first tenant
	MainName    = "main"    // its first log
)

// Limits of settings. A tenant's administrator is not trusted with the memory of the others.
const (
	maxName        = 63
	maxTitle       = 200 // bytes
	maxRules       = 100 // claim rules, certificate rules of a tenant
	maxMatch       = 20  // claims that one rule compares
	maxValue       = 512 // bytes of a claim's pattern
	maxScope       = 100 // logs that a token or rule may name
	maxSettings    = 1 << 20
	maxRecorded    = 30 << 10 // bytes of settings, two of which fit one entry: before and after a change
	maxCron        = 100      // bytes
	maxRotateSize  = 1 << 40
	minRotateSize  = 64 << 10
	maxKeepDays    = 36_500
	minSystemDays  = 365 // of a log of the log whose old segments are deleted
	maxScrubHours  = 24 * 366
	defaultOpen    = "0 * * * *"
	defaultFull    = "30 3 * * *"
	defaultScrub   = 24 * 7
	settingsFormat = 1
)

// TenantSettings are what administrators decide about a tenant. Name never changes.
type TenantSettings struct {
	Name  string `json:"name"`
	Title string `json:"title,omitempty"`
	Quota Quota  `json:"quota"`

	// BestEffortReads lets reads go on while the log of the log cannot be written. Otherwise they fail.
	BestEffortReads bool `json:"bestEffortReads,omitempty"`

	// Suspended refuses every principal of the tenant. The installation's own still read.
	Suspended bool `json:"suspended,omitempty"`

	Claims       []ClaimRule `json:"claims,omitempty"`
	Certificates []CertRule  `json:"certificates,omitempty"`
}

// Quota limits what one tenant takes. 0 is no limit. Rates allow a burst of two seconds' worth.
type Quota struct {
	EntriesPerSecond int64 `json:"entriesPerSecond,omitempty"`
	BytesPerSecond   int64 `json:"bytesPerSecond,omitempty"` // of entries as JSON lines
	EntryBytes       int   `json:"entryBytes,omitempty"`     // of one entry as a JSON line
	TotalBytes       int64 `json:"totalBytes,omitempty"`     // on the disk, of all logs of the tenant but the log of the log
	Streams          int   `json:"streams,omitempty"`        // at one time
}

// ClaimRule gives a role to those whose JWT of this issuer has all the claims. The rules are tried in order.
type ClaimRule struct {
	Issuer string            `json:"issuer"`         // exactly as the token's iss
	Match  map[string]string `json:"match"`          // claim to value; "*" in a value stands for any characters
	Once   bool              `json:"once,omitempty"` // each token (jti) is taken once
	Name   string            `json:"name,omitempty"` // the claim that names the principal to people; empty is sub
	Role   Role              `json:"role"`
	Logs   []string          `json:"logs,omitempty"`
	Levels Levels            `json:"levels,omitempty"`
}

// CertRule gives a role to those who hold the key of a client certificate. The one of Fingerprint, URI, DNS, Email and
// CommonName that is set is compared exactly, and one must be; the certificate was verified against the client authorities before.
type CertRule struct {
	Fingerprint string   `json:"fingerprint,omitempty"` // SHA-256 of the certificate, 64 lower-case hex digits
	URI         string   `json:"uri,omitempty"`
	DNS         string   `json:"dns,omitempty"`
	Email       string   `json:"email,omitempty"`
	CommonName  string   `json:"commonName,omitempty"`
	Role        Role     `json:"role"`
	Logs        []string `json:"logs,omitempty"`
	Levels      Levels   `json:"levels,omitempty"`
}

// LogSettings are what administrators decide about a log. Name never changes; RotateSize counts from the next start on.
type LogSettings struct {
	Name        string         `json:"name"`
	Title       string         `json:"title,omitempty"`
	RotateSize  int64          `json:"rotateSize,omitempty"`  // bytes; 0 is the installation's
	PublicTiles bool           `json:"publicTiles,omitempty"` // /tlog needs no authentication
	KeepDays    int            `json:"keepDays,omitempty"`    // 0 is for ever
	Expired     string         `json:"expired"`               // what becomes of segments after KeepDays: "keep", "move" or "delete"
	Verify      VerifySettings `json:"verify"`
}

// VerifySettings say when a log is verified by itself. The expressions are cron's five fields, or "off".
type VerifySettings struct {
	Open       string `json:"open"`       // the open segment
	Full       string `json:"full"`       // everything
	ScrubHours int    `json:"scrubHours"` // everything is read again within so many hours
}

// Levels are written as names in JSON. None means all of them.
type Levels []immutable.Level

// MarshalJSON writes the names.
func (ls Levels) MarshalJSON() ([]byte, error) {
	names := make([]string, len(ls))
	for i, l := range ls {
		names[i] = l.String()
	}
	return json.Marshal(names)
}

// UnmarshalJSON reads names in any case, each at most once.
func (ls *Levels) UnmarshalJSON(data []byte) error {
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return errors.New("levels: not an array of names")
	}
	var out Levels
	for _, name := range names {
		l, err := immutable.ParseLevel(name)
		if err != nil {
			return err
		}
		if slices.Contains(out, l) {
			return fmt.Errorf("levels: %s is there twice", l)
		}
		out = append(out, l)
	}
	*ls = out
	return nil
}

// SettingsError says which setting was refused and why.
type SettingsError struct{ Field, Msg string }

func (e *SettingsError) Error() string { return e.Field + ": " + e.Msg }

func bad(field, format string, args ...any) error {
	return &SettingsError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

// NameError says that a name cannot be one of a tenant or a log.
type NameError struct{ Kind, Name, Reason string }

func (e *NameError) Error() string {
	name := e.Name
	if len(name) > maxName {
		name = name[:maxName] + "…"
	}
	return fmt.Sprintf("%q is no name for a %s: %s", name, e.Kind, e.Reason)
}

// CheckName says whether a tenant or a log ("tenant", "log") can have the name: 1 to 63 of a-z, 0-9 and "-", not beginning
// with "-". Such a name is also a file's name on every platform and part of a log's origin.
func CheckName(kind, name string) error {
	if name == "" || len(name) > maxName {
		return &NameError{kind, name, fmt.Sprintf("1 to %d characters", maxName)}
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return &NameError{kind, name, "a-z, 0-9 and - only, not beginning with -"}
		}
	}
	// Windows opens devices under these names.
	if base := strings.TrimRight(name, "0123456789"); name == "con" || name == "prn" || name == "aux" || name == "nul" ||
		len(name) == 4 && (base == "com" || base == "lpt") {
		return &NameError{kind, name, "it is a device's on some systems"}
	}
	return nil
}

func checkNewName(kind, name string) error {
	if name == SystemName {
		return &NameError{kind, name, "it is the service's own"}
	}
	return CheckName(kind, name)
}

func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return bad(field, "%d bytes; at most %d", len(s), limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return bad(field, "not printable UTF-8")
	}
	return nil
}

func checkRole(field string, r Role) error {
	if !slices.Contains([]Role{Writer, Reader, Auditor, Admin}, r) {
		return bad(field, "%q is no role; roles are writer, reader, auditor, admin", r)
	}
	return nil
}

// checkScope checks what tokens and rules have in common.
func checkScope(role Role, logs []string, levels Levels) error {
	if err := checkRole("role", role); err != nil {
		return err
	}
	if len(logs) > maxScope {
		return bad("logs", "%d names; at most %d", len(logs), maxScope)
	}
	for i, name := range logs {
		if err := CheckName("log", name); err != nil {
			return err
		}
		if slices.Contains(logs[:i], name) {
			return bad("logs", "%q is there twice", name)
		}
	}
	for i, l := range levels {
		if l >= immutable.NumLevels || slices.Contains(levels[:i], l) {
			return bad("levels", "%s is no level, or there twice", l)
		}
	}
	return nil
}

func (s *TenantSettings) check() error {
	if err := CheckName("tenant", s.Name); err != nil {
		return err
	}
	if err := checkText("title", s.Title, maxTitle); err != nil {
		return err
	}
	q := s.Quota
	if q.EntriesPerSecond < 0 || q.BytesPerSecond < 0 || q.EntryBytes < 0 || q.TotalBytes < 0 || q.Streams < 0 {
		return bad("quota", "a limit is negative; 0 is none")
	}
	if len(s.Claims) > maxRules || len(s.Certificates) > maxRules {
		return bad("claims", "%d claim and %d certificate rules; at most %d of each", len(s.Claims), len(s.Certificates), maxRules)
	}
	for i := range s.Claims {
		if err := s.Claims[i].check(); err != nil {
			return fmt.Errorf("claims[%d]: %w", i, err)
		}
	}
	for i := range s.Certificates {
		if err := s.Certificates[i].check(); err != nil {
			return fmt.Errorf("certificates[%d]: %w", i, err)
		}
	}
	if n := len(plain(s)); n > maxRecorded {
		return bad("settings", "%d bytes as JSON; at most %d, so that a change can be recorded in one entry", n, maxRecorded)
	}
	return nil
}

func (r *ClaimRule) check() error {
	if r.Issuer == "" {
		return bad("issuer", "is empty")
	}
	if err := checkText("issuer", r.Issuer, maxValue); err != nil {
		return err
	}
	if len(r.Match) == 0 || len(r.Match) > maxMatch {
		return bad("match", "%d claims; 1 to %d: a rule without any would take everybody whom the issuer knows", len(r.Match), maxMatch)
	}
	pinned := false
	for claim, value := range r.Match {
		if claim == "" || value == "" {
			return bad("match", "a claim or its value is empty")
		}
		if err := errors.Join(checkText("match", claim, maxValue), checkText("match."+claim, value, maxValue)); err != nil {
			return err
		}
		pinned = pinned || strings.Trim(value, "*") != "" && claim != "iss" && claim != "aud"
	}
	if !pinned {
		return bad("match", "every value is *: the rule would take everybody whom the issuer knows")
	}
	if err := r.checkPublicIssuer(); err != nil {
		return err
	}
	if err := checkText("name", r.Name, maxValue); err != nil {
		return err
	}
	return checkScope(r.Role, r.Logs, r.Levels)
}

// GitHubActions is the issuer of the tokens that GitHub gives to the jobs of every repository of everybody.
const GitHubActions = "https://token.actions.githubusercontent.com"

// checkPublicIssuer wants a rule for GitHub's issuer to name an owner or a repository, without which it would let in the
// jobs of strangers.
func (r *ClaimRule) checkPublicIssuer() error {
	if r.Issuer != GitHubActions {
		return nil
	}
	for _, claim := range []string{"repository_id", "repository_owner_id", "repository", "repository_owner", "sub", "job_workflow_ref"} {
		if v := r.Match[claim]; v != "" && !strings.HasPrefix(strings.TrimPrefix(v, "repo:"), "*") {
			return nil
		}
	}
	return bad("match", "anybody can have a token of this issuer: name repository_id or repository_owner_id")
}

func (r *CertRule) check() error {
	set := 0
	for _, v := range []string{r.Fingerprint, r.URI, r.DNS, r.Email, r.CommonName} {
		if v == "" {
			continue
		}
		set++
		if err := checkText("certificate", v, maxValue); err != nil {
			return err
		}
	}
	if set != 1 {
		return bad("certificate", "%d of fingerprint, uri, dns, email, commonName are set; exactly one", set)
	}
	if f := r.Fingerprint; f != "" && (len(f) != 64 || strings.Trim(f, "0123456789abcdef") != "") {
		return bad("fingerprint", "not 64 lower-case hex digits, the SHA-256 of the certificate")
	}
	return checkScope(r.Role, r.Logs, r.Levels)
}

// withDefaults fills in what is left out.
func (s LogSettings) withDefaults() LogSettings {
	if s.Expired == "" {
		s.Expired = "keep"
	}
	if s.Verify.Open == "" {
		s.Verify.Open = defaultOpen
	}
	if s.Verify.Full == "" {
		s.Verify.Full = defaultFull
	}
	if s.Verify.ScrubHours == 0 {
		s.Verify.ScrubHours = defaultScrub
	}
	return s
}

func (s *LogSettings) check() error {
	if err := CheckName("log", s.Name); err != nil {
		return err
	}
	if err := checkText("title", s.Title, maxTitle); err != nil {
		return err
	}
	if s.RotateSize != 0 && (s.RotateSize < minRotateSize || s.RotateSize > maxRotateSize) {
		return bad("rotateSize", "%d bytes; %d to %d, or 0 for the installation's", s.RotateSize, minRotateSize, int64(maxRotateSize))
	}
	if s.KeepDays < 0 || s.KeepDays > maxKeepDays {
		return bad("keepDays", "%d; 0 (for ever) to %d", s.KeepDays, maxKeepDays)
	}
	if !slices.Contains([]string{"keep", "move", "delete"}, s.Expired) {
		return bad("expired", "%q; it is keep, move or delete", s.Expired)
	}
	if s.Expired != "keep" && s.KeepDays == 0 {
		return bad("expired", "%s needs keepDays", s.Expired)
	}
	for field, cron := range map[string]string{"verify.open": s.Verify.Open, "verify.full": s.Verify.Full} {
		if err := checkText(field, cron, maxCron); err != nil {
			return err
		}
		if _, err := NextRun(cron, time.Unix(0, 0)); err != nil {
			return bad(field, "%v", err)
		}
	}
	if s.Name == SystemName {
		if err := s.checkSystem(); err != nil {
			return err
		}
	}
	if s.Verify.ScrubHours < 0 || s.Verify.ScrubHours > maxScrubHours {
		return bad("verify.scrubHours", "%d; 1 to %d", s.Verify.ScrubHours, maxScrubHours)
	}
	return nil
}

// checkSystem keeps the log of the log from being published, or thrown away by whom it watches: auditors want a year.
func (s *LogSettings) checkSystem() error {
	if s.PublicTiles {
		return bad("publicTiles", "the log of the log is not public")
	}
	if s.Expired == "delete" && s.KeepDays < minSystemDays {
		return bad("keepDays", "the log of the log is kept for at least %d days", minSystemDays)
	}
	return nil
}

// decodeStrict reads one JSON value: unknown names, names that are there twice (in whatever case: encoding/json would take
// the last) and anything after it are refused.
func decodeStrict(data []byte, v any) error {
	if err := checkNames(json.NewDecoder(bytes.NewReader(data)), 0); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the JSON value")
	}
	return nil
}

const maxDepth = 10 // of settings files

// checkNames reads one value.
func checkNames(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	var names []string
	for dec.More() {
		if delim == '{' {
			tok, err := dec.Token()
			if err != nil {
				return err
			}
			name := tok.(string) // the decoder gives nothing else where a name stands
			names = append(names, strings.ToLower(name))
		}
		if err := checkNames(dec, depth+1); err != nil {
			return err
		}
	}
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			return fmt.Errorf("the name %q is there twice", names[i])
		}
	}
	_, err = dec.Token() // the closing one
	return err
}

// expired says whether a time that may be zero has come.
func expired(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }
