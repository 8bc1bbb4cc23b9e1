package siem

import (
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// ecsVersion is the version of the schema that documents say they follow.
const ecsVersion = "8.17.0"

// Names of the labels that say which entry a document is. Labels are flat, and strings.
const (
	LabelOrigin  = "immutable_origin"
	LabelIndex   = "immutable_index"
	LabelLeaf    = "immutable_leaf"
	LabelSize    = "immutable_size"
	LabelMapping = "immutable_mapping"
)

// category is event.category and what of event.type it goes with.
type category struct {
	name  string
	types map[string]string // by the action, or its last word
	other string            // of anything else; "" is none
}

var (
	reads   = map[string]string{"create": "creation", "read": "access", "list": "access", "watch": "access", "update": "change", "change": "change", "delete": "deletion"}
	changes = map[string]string{"create": "creation", "charge": "creation", "refund": "creation", "push": "creation", "read": "access", "update": "change", "change": "change", "delete": "deletion"}

	categories = map[event.Kind]category{
		event.KindAuthentication: {"authentication", map[string]string{"login": "start", "open": "start", "logout": "end", "close": "end"}, "info"},
		event.KindAuthorization:  {"iam", map[string]string{"grant": "change", "revoke": "change", "change": "change", "assign": "change", "unassign": "change"}, "info"},
		event.KindAccount:        {"iam", map[string]string{"create": "creation", "delete": "deletion"}, "change"},
		event.KindAPI:            {"api", reads, "info"},
		event.KindWeb:            {"web", nil, "access"},
		event.KindDatabase:       {"database", map[string]string{"exec": "change"}, "access"},
		event.KindFile:           {"file", map[string]string{"create": "creation", "read": "access", "delete": "deletion"}, "change"},
		event.KindConfiguration:  {"configuration", map[string]string{"read": "access"}, "change"},
		event.KindProcess:        {"process", map[string]string{"start": "start", "stop": "end", "panic": "end"}, "info"},
		event.KindDeployment:     {"package", map[string]string{event.ActionDeploy: "installation"}, "change"},
		event.KindContent:        {"api", changes, "info"},
		event.KindRevenue:        {"api", changes, "info"},
		event.KindSecurity:       {"intrusion_detection", nil, "info"},
		event.KindSystem:         {"host", map[string]string{"start": "start", "stop": "end"}, "info"},
		event.KindLog:            {"database", nil, "access"},
	}
)

// AppendECS appends the entry as a document of ECS, one line of JSON.
func AppendECS(dst []byte, m Mark, e *immutable.Entry) ([]byte, error) {
	s := read(e)
	m = m.of(e)
	at := e.Timestamp
	if !e.EventTime.IsZero() {
		at = e.EventTime
	}
	o := members{
		"@timestamp": at.UTC().Format(time.RFC3339Nano),
		"ecs":        members{"version": ecsVersion},
		"event":      ecsEvent(s),
		"log":        members{"level": strings.ToLower(e.Level.String()), "logger": m.Origin},
		"labels": members{
			LabelOrigin: m.Origin, LabelIndex: strconv.FormatUint(m.Index, 10), LabelLeaf: m.Leaf, LabelSize: strconv.FormatUint(m.Size, 10),
			LabelMapping: strconv.Itoa(m.Mapping),
		},
	}
	o.text("message", e.Message)
	if e.Hostname != "" {
		o["host"] = members{"hostname": e.Hostname, "name": e.Hostname}
	}
	if e.PID != 0 {
		o["process"] = members{"pid": e.PID}
	}
	ecsUser(o, s)
	ecsNetwork(o, s)
	ecsTarget(o, s)
	related(o, s)
	return o.line(dst, e)
}

func ecsEvent(s *source) members {
	e := s.e
	o := members{
		"kind": "event", "id": e.ID.String(), "created": e.Timestamp.UTC().Format(time.RFC3339Nano), "sequence": e.Index, "original": string(e.Line),
		"module": "immutable", "severity": syslogSeverity(e.Level),
	}
	if s.Kind == event.KindSecurity {
		o["kind"] = "alert"
	}
	if c, ok := categories[s.Kind]; ok {
		o["category"] = []string{c.name}
		o["type"] = c.typesOf(s)
	}
	o.text("action", s.Action)
	o.text("reason", s.Reason)
	o.text("provider", s.Source.Provider)
	if s.Source.Provider != "" {
		o["dataset"] = "immutable." + s.Source.Provider
	}
	switch s.Outcome {
	case event.OutcomeSuccess:
		o["outcome"] = "success"
	case event.OutcomeFailure, event.OutcomeDenied:
		o["outcome"] = "failure"
	case event.OutcomeUnknown:
		o["outcome"] = unknown
	}
	if d := s.Request.DurationMS * 1e6; d >= 1 && d < math.MaxInt64 {
		o["duration"] = int64(d)
	}
	return o
}

func (c *category) typesOf(s *source) []string {
	t, ok := c.types[s.Action]
	if !ok {
		t, ok = c.types[s.verb()]
	}
	if !ok {
		t = c.other
	}
	types := []string{t}
	switch {
	case s.Outcome == event.OutcomeDenied && (c.name == "api" || c.name == "intrusion_detection"):
		types = append(types, "denied")
	case c.name == "iam" && (strings.HasPrefix(s.Action, "group.") || s.Target.Type == "group"):
		types = append(types, "group")
	case c.name == "iam":
		types = append(types, "user")
	}
	return types
}

func syslogSeverity(l immutable.Level) int {
	switch l {
	case immutable.Critical:
		return 2
	case immutable.Error:
		return 3
	case immutable.Warn, immutable.Security:
		return 4
	case immutable.Audit, immutable.Revenue:
		return 5
	}
	return 6
}

func ecsUser(o members, s *source) {
	u := members{}
	u.text("id", s.Actor.ID)
	u.text("name", s.Actor.Name)
	u.text("email", s.Actor.Email)
	if s.Target.Type == "user" {
		t := members{}
		t.text("id", s.Target.ID)
		t.text("name", s.Target.Name)
		u.object("target", t)
	}
	o.object("user", u)
	if s.Target.Type == "group" || strings.HasPrefix(s.Action, "group.") {
		g := members{}
		g.text("id", s.Target.ID)
		g.text("name", s.Target.Name)
		o.object("group", g)
	}
}

func ecsNetwork(o members, s *source) {
	src := members{}
	if ip := s.ip(); ip != "" {
		src["ip"] = ip
	}
	src.text("address", or(s.Source.IP, s.Source.Host))
	src.text("domain", s.Source.Host)
	if s.port() != 0 {
		src["port"] = s.port()
	}
	o.object("source", src)
	if s.Source.UserAgent != "" {
		o["user_agent"] = members{"original": s.Source.UserAgent}
	}
	r := members{}
	r.text("method", s.Request.Method)
	r.text("id", s.Request.ID)
	h := members{}
	h.object("request", r)
	if s.Request.Status > 0 {
		h["response"] = members{"status_code": s.Request.Status}
	}
	o.object("http", h)
	if p := s.Request.Path; p != "" {
		o["url"] = members{"original": p, "path": p}
	}
	if id := s.traceID(); id != "" {
		o["trace"] = members{"id": id}
	}
	if id := or(s.e.SpanID, s.Request.SpanID); id != "" {
		o["span"] = members{"id": id}
	}
}

// ecsTarget writes what has fields of its own. Others are in event.original.
func ecsTarget(o members, s *source) {
	switch s.Kind {
	case event.KindFile:
		f := members{}
		if n := or(s.Target.Name, s.Target.ID); n != "" {
			f["path"], f["name"] = n, path.Base(strings.ReplaceAll(n, `\`, "/"))
		}
		o.object("file", f)
	case event.KindProcess, event.KindDeployment:
		if n := or(s.Target.Name, s.Target.ID); n != "" {
			o["service"] = members{"name": n}
		}
	}
}

// related gathers what analysts pivot on.
func related(o members, s *source) {
	r := members{}
	if ip := s.ip(); ip != "" {
		r["ip"] = []string{ip}
	}
	var users []string
	add := func(name string) {
		if name != "" {
			users = append(users, name)
		}
	}
	add(s.Actor.Name)
	add(s.Actor.Email)
	if s.Target.Type == "user" {
		add(s.Target.Name)
	}
	if len(users) > 0 {
		r["user"] = users
	}
	if s.e.Hostname != "" {
		r["hosts"] = []string{s.e.Hostname}
	}
	o.object("related", r)
}
