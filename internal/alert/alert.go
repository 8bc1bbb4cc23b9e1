// Package alert turns what goes wrong into messages that reach somebody: conditions that the service sees in its logs, saved
// queries over their entries, one state for each alert, and sinks that are tried until they have taken it.
//
// An alert is known by its tenant and key. It is pending, firing or resolved; while it fires it is sent again every few hours.
// What was delivered, and what could not be, is recorded in the tenant's log of the log. docs/alerts.md is the contract.
package alert

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Kind says what an alert is about.
type Kind string

// The kinds. docs/alerts.md has what each means, and a test compares the lists.
const (
	VerificationRefuted Kind = "verification.refuted"
	VerificationFailed  Kind = "verification.failed" // a verification that could not tell, or could not run
	FileChanged         Kind = "file.changed"
	DiskLow             Kind = "disk.low"
	CheckpointLag       Kind = "checkpoint.lag"
	WitnessLag          Kind = "witness.lag"
	SinkFailed          Kind = "sink.failed"
	QuotaExceeded       Kind = "quota.exceeded"
	SavedQuery          Kind = "query"
	LogUnavailable      Kind = "log.unavailable"
	RetentionFailed     Kind = "retention.failed" // expired segments are not retired
	DeliveryFailed      Kind = "delivery.failed"  // a sink of a log fails, waits for somebody, or has dead letters
	Test                Kind = "test"             // of Manager.Test; no alert has it
)

// kinds are those that a sink can ask for, and how severe each is by itself.
var (
	kinds = []Kind{
		VerificationRefuted, VerificationFailed, FileChanged, DiskLow, CheckpointLag, WitnessLag, SinkFailed, QuotaExceeded,
		SavedQuery, LogUnavailable, RetentionFailed, DeliveryFailed,
	}
	severities = map[Kind]Severity{
		VerificationRefuted: Critical, VerificationFailed: Warning, FileChanged: Critical, DiskLow: Warning, CheckpointLag: Warning,
		WitnessLag: Warning, SinkFailed: Warning, QuotaExceeded: Info, SavedQuery: Warning, LogUnavailable: Critical, RetentionFailed: Warning,
		DeliveryFailed: Warning,
		Test:           Info,
	}
)

// Severity says how soon somebody should look.
type Severity string

// The severities.
const (
	Critical Severity = "critical"
	Warning  Severity = "warning"
	Info     Severity = "info"
)

// Phase is where an alert stands.
type Phase string

// The phases.
const (
	Pending  Phase = "pending" // the condition holds, but not yet for as long as its rule asks
	Firing   Phase = "firing"
	Resolved Phase = "resolved" // kept for a day
)

// Event says that a condition began, still holds, or ended. Raising the same key again changes nothing but Summary and Details.
type Event struct {
	Key      string // what it is about, within the tenant, for example "file.changed/main"
	Tenant   string
	Log      string // "" where no log is meant
	Kind     Kind
	Severity Severity          // "" is the kind's own
	Summary  string            // one line for people
	Details  map[string]string // at most 20 members
	Resolved bool              // the condition ended
}

// State is an alert as it stands.
type State struct {
	Key      string            `json:"key"`
	Tenant   string            `json:"tenant"`
	Log      string            `json:"log,omitempty"`
	Kind     Kind              `json:"kind"`
	Severity Severity          `json:"severity"`
	Summary  string            `json:"summary"`
	Details  map[string]string `json:"details,omitempty"`
	Phase    Phase             `json:"phase"`
	Since    time.Time         `json:"since"`              // when the condition was first seen
	Changed  time.Time         `json:"changed"`            // when Phase became what it is
	Sent     time.Time         `json:"sent,omitzero"`      // when it was last handed to the sinks; zero if some of that was not delivered
	Count    uint64            `json:"count"`              // how often it was raised since it began
	Sinks    []string          `json:"sinks,omitempty"`    // the rule's, where it names some; else all
	Rule     string            `json:"rule,omitempty"`     // the saved query's name
	Instance string            `json:"instance,omitempty"` // identifies this firing, until it is resolved
}

// SMTP is the installation's mail server, used by e-mail sinks that name none. Its address is the operator's word and is not
// held to the rules for addresses that tenants name.
type SMTP struct {
	Address  string // host:port
	From     string
	Username string
	Password string
	TLS      string // "starttls" (also ""), "tls", or "none"
}

// Options is what a manager stands on.
type Options struct {
	Installation *tenant.Installation
	Logger       *slog.Logger     // nil is silent
	Now          func() time.Time // nil is time.Now
	AllowPrivate bool             // sinks may have loopback, private and link-local addresses, and http instead of https
	RootCAs      *x509.CertPool   // of sinks' certificates; nil is the host's
	SMTP         SMTP             // zero: e-mail sinks must name their server
	Interval     time.Duration    // between two looks at the conditions and queries; 0 is one second
}

// ErrRules is wrapped where rules or sinks are not acceptable; the text says which member, and why.
var ErrRules = errors.New("alert rules")
