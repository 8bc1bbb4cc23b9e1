package alert

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/tree-of-life-system/immutable"
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
	Name      string            `json:"name"`
	Log       string            `json:"log"`
	Query     string            `json:"query,omitempty"` // docs/search.md; empty is every entry
	Levels    []immutable.Level `json:"levels,omitempty"`
	Threshold uint64            `json:"threshold"`
	Window    Duration          `json:"window"`
	For       Duration          `json:"for,omitempty"` // it is pending so long before it fires
	Severity  Severity          `json:"severity,omitempty"`
	Summary   string            `json:"summary,omitempty"`
	Sinks     []string          `json:"sinks,omitempty"` // names; none is all
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
	Name        string   `json:"name"`
	Type        SinkType `json:"type"`
	URL         string   `json:"url,omitempty"`     // of a webhook, or of an Alertmanager (without /api/v2/alerts)
	Secrets     []string `json:"secrets,omitempty"` // webhook: "whsec_…", each signs; alertmanager: one bearer token; email: one password
	To          []string `json:"to,omitempty"`      // of type email, and the following too
	From        string   `json:"from,omitempty"`
	Server      string   `json:"server,omitempty"` // host:port; "" is the installation's
	Username    string   `json:"username,omitempty"`
	TLS         string   `json:"tls,omitempty"`         // "starttls" (also ""), "tls", or "none" where private addresses are allowed
	Kinds       []Kind   `json:"kinds,omitempty"`       // none is all
	Severities  []string `json:"severities,omitempty"`  // none is all
	EveryTenant bool     `json:"everyTenant,omitempty"` // in the tenant "system": alerts of every tenant come here too
}

// Limits are when the built-in conditions hold. 0 is the default, -1 never.
type Limits struct {
	DiskFreePercent float64  `json:"diskFreePercent,omitempty"` // 10; of the tenant "system"
	CheckpointLag   Duration `json:"checkpointLag,omitempty"`   // 5m
	WitnessLag      Duration `json:"witnessLag,omitempty"`      // 1h
	Repeat          Duration `json:"repeat,omitempty"`          // 4h: how often a firing alert is sent again
}

// Duration is a time.Duration that JSON spells like "90s" or "5m".
type Duration time.Duration

// MarshalJSON spells it.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads "5m"; "-1" is never.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("a duration is a string such as %q: %w", "5m", err)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration; spell it like %q", s, "5m")
	}
	*d = Duration(v)
	return nil
}
