// Package event is the common shape of what happened: who did what to what, from where, and how it ended. All of it is
// optional metadata of an entry under well-known names, so that one query, one schema and one mapping to OCSF or ECS serve
// every source. docs/events.md lists the names.
//
//	s := event.Shape{
//		Kind:    event.KindAuthentication,
//		Action:  event.ActionLogin,
//		Actor:   &event.Actor{Type: event.ActorUser, Name: "ann"},
//		Outcome: event.OutcomeFailure, Reason: "wrong password",
//		Source:  &event.Source{IP: "203.0.113.42", Provider: "sshd"},
//	}
//	r, err := l.Security(ctx, "login failed", s.Fields())
package event

import (
	"maps"

	"github.com/tree-of-life-system/immutable"
)

// Shape is one event in the common shape. Every member is optional; the zero value has no fields.
type Shape struct {
	Kind    Kind
	Action  string // dotted, lower case: "user.login", "object.read"; the Action constants are the common ones
	Actor   *Actor
	Target  *Target
	Outcome Outcome
	Reason  string // why the outcome is what it is, in the source's words
	Source  *Source
	Request *Request
	Extra   immutable.Fields // further metadata, beside the well-known names; a well-known name in it is overruled by the member
}

// Kind says what an event is about. It decides which schema, OCSF class and ECS category it has.
type Kind string

// The kinds.
const (
	KindAuthentication Kind = "authentication" // logins, logouts, second factors, tokens
	KindAuthorization  Kind = "authorization"  // privileges that were used, granted or refused: sudo, session rights
	KindAccount        Kind = "account"        // users, groups, roles and their members, made, changed, removed
	KindAPI            Kind = "api"            // a call of a programming interface
	KindWeb            Kind = "web"            // a request of a web server's resource
	KindDatabase       Kind = "database"       // a statement or transaction
	KindFile           Kind = "file"           // a file was read, written, moved, removed
	KindConfiguration  Kind = "configuration"  // a setting was changed
	KindProcess        Kind = "process"        // a program started, stopped, failed
	KindDeployment     Kind = "deployment"     // software was built, released, rolled back
	KindContent        Kind = "content"        // a document, issue, page, commit or other thing of people's work
	KindRevenue        Kind = "revenue"        // money: charges, invoices, payouts, subscriptions
	KindSecurity       Kind = "security"       // a finding, an alert, something refused for its authenticity
	KindSystem         Kind = "system"         // a machine or service about itself
	KindLog            Kind = "log"            // about a log: exported, verified, its entries read
)

// Kinds returns every kind, in the order of the constants.
func Kinds() []Kind {
	return []Kind{
		KindAuthentication, KindAuthorization, KindAccount, KindAPI, KindWeb, KindDatabase, KindFile, KindConfiguration,
		KindProcess, KindDeployment, KindContent, KindRevenue, KindSecurity, KindSystem, KindLog,
	}
}

// Outcome is how an event ended.
type Outcome string

// The outcomes.
const (
	OutcomeSuccess Outcome = "success"
	OutcomeFailure Outcome = "failure" // it was tried and did not succeed
	OutcomeDenied  Outcome = "denied"  // a rule refused it
	OutcomeUnknown Outcome = "unknown" // the source does not say
)

// The types of actors.
const (
	ActorUser      = "user"
	ActorService   = "service" // a program under an account of its own: a role, a service account, a bot
	ActorSystem    = "system"  // the machine or provider itself
	ActorAnonymous = "anonymous"
)

// Actor is who did it.
type Actor struct {
	Type    string `json:"type,omitempty"` // ActorUser and its like
	ID      string `json:"id,omitempty"`
	Name    string `json:"name,omitempty"`
	Email   string `json:"email,omitempty"`
	Session string `json:"session,omitempty"`
}

// Target is what it was done to.
type Target struct {
	Type string `json:"type,omitempty"` // "user", "file", "secret", "repository", "pods" …
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// Source is where it came from.
type Source struct {
	IP        string `json:"ip,omitempty"`
	Port      int    `json:"port,omitempty"`
	Host      string `json:"host,omitempty"`
	UserAgent string `json:"userAgent,omitempty"`
	Provider  string `json:"provider,omitempty"` // which product reported it: "github", "sshd", "cloudtrail" …
}

// Request is the request that it was part of.
type Request struct {
	ID         string  `json:"id,omitempty"`
	Method     string  `json:"method,omitempty"`
	Path       string  `json:"path,omitempty"`
	Status     int     `json:"status,omitempty"`
	TraceID    string  `json:"traceId,omitempty"`
	SpanID     string  `json:"spanId,omitempty"`
	DurationMS float64 `json:"durationMs,omitempty"`
}

// The well-known names of metadata.
const (
	KeyKind    = "kind"
	KeyAction  = "action"
	KeyActor   = "actor"
	KeyTarget  = "target"
	KeyOutcome = "outcome"
	KeyReason  = "reason"
	KeySource  = "source"
	KeyRequest = "request"
)

// Fields returns the shape as an entry's metadata: what is empty is left out. Extra is copied, not changed.
func (s Shape) Fields() immutable.Fields {
	f := make(immutable.Fields, len(s.Extra)+8)
	maps.Copy(f, s.Extra)
	text(f, KeyKind, string(s.Kind))
	text(f, KeyAction, s.Action)
	text(f, KeyOutcome, string(s.Outcome))
	text(f, KeyReason, s.Reason)
	if a := s.Actor; a != nil && *a != (Actor{}) {
		m := make(map[string]any, 5)
		text(m, "type", a.Type)
		text(m, "id", a.ID)
		text(m, "name", a.Name)
		text(m, "email", a.Email)
		text(m, "session", a.Session)
		f[KeyActor] = m
	}
	if t := s.Target; t != nil && *t != (Target{}) {
		m := make(map[string]any, 3)
		text(m, "type", t.Type)
		text(m, "id", t.ID)
		text(m, "name", t.Name)
		f[KeyTarget] = m
	}
	if o := s.Source; o != nil && *o != (Source{}) {
		m := make(map[string]any, 5)
		text(m, "ip", o.IP)
		number(m, "port", o.Port)
		text(m, "host", o.Host)
		text(m, "userAgent", o.UserAgent)
		text(m, "provider", o.Provider)
		f[KeySource] = m
	}
	if r := s.Request; r != nil && *r != (Request{}) {
		f[KeyRequest] = r.fields()
	}
	return f
}

func (r *Request) fields() map[string]any {
	m := make(map[string]any, 7)
	text(m, "id", r.ID)
	text(m, "method", r.Method)
	text(m, "path", r.Path)
	number(m, "status", r.Status)
	text(m, "traceId", r.TraceID)
	text(m, "spanId", r.SpanID)
	if r.DurationMS != 0 {
		m["durationMs"] = r.DurationMS
	}
	return m
}

func text(m map[string]any, name, value string) {
	if value != "" {
		m[name] = value
	}
}

func number(m map[string]any, name string, value int) {
	if value != 0 {
		m[name] = value
	}
}
