package siem

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// ocsfVersion is the version of the schema that events say they follow.
const ocsfVersion = "1.9.0"

// class is an event class of OCSF: what its uid, category and names are, and which activity an action is.
type class struct {
	uid            int
	name, category string
	categoryUID    int
	activities     map[string]activity // by action, and by the action's last word
	http           bool                // it has http_request and http_response
	endpoint       bool                // it has src_endpoint
	actor          bool                // it has actor by itself, not by the profile host
	finding        bool                // its status is that of a finding
	fill           func(o members, s *source)
}

type activity struct {
	id   int
	name string
}

// The classes. The captions are the schema's; a test compares them.
var (
	iam         = class{category: "Identity & Access Management", categoryUID: 3, http: true, endpoint: true, actor: true}
	application = class{category: "Application Activity", categoryUID: 6}
	system      = class{category: "System Activity", categoryUID: 1, actor: true}

	authentication = of(iam, 3002, "Authentication", fillAuthentication, map[string]activity{
		event.ActionLogin: {1, "Logon"}, event.ActionSessionOpen: {1, "Logon"}, event.ActionLogout: {2, "Logoff"}, event.ActionSessionClose: {2, "Logoff"},
		event.ActionMFA: {6, "Preauth"}, event.ActionTokenIssue: {3, "Authentication Ticket"}, event.ActionTokenRefresh: {5, "Service Ticket Renew"},
	})
	authorization = of(iam, 3003, "Authorize Session", fillAuthorization, map[string]activity{
		event.ActionPrivilege: {1, "Assign Privileges"}, event.ActionPrivilegeGive: {1, "Assign Privileges"}, event.ActionRoleAssign: {3, "Assign Roles"},
		event.ActionGroupAdd: {2, "Assign Groups"},
	})
	user = of(iam, 3007, "User Management", fillUser, map[string]activity{
		"create": {1, "Create"}, "invite": {1, "Create"}, "update": {2, "Update"}, "delete": {3, "Delete"}, event.ActionLockout: {6, "Lock"}, event.ActionUnlock: {7, "Unlock"},
		event.ActionPasswordSet: {8, "Password Change"}, event.ActionMFAEnroll: {12, "Enable MFA Factors"}, event.ActionMFARemove: {13, "Disable MFA Factors"},
		event.ActionPrivilegeGive: {14, "Assign Privileges"}, event.ActionPrivilegeTake: {15, "Remove Privileges"}, event.ActionRoleAssign: {16, "Assign Roles"},
		event.ActionRoleUnassign: {17, "Remove Roles"}, event.ActionTokenIssue: {18, "Add Programmatic Credentials"}, event.ActionTokenRevoke: {19, "Remove Programmatic Credentials"},
	})
	group = of(iam, 3006, "Group Management", fillGroup, map[string]activity{
		event.ActionGroupAdd: {3, "Add User"}, event.ActionGroupRemove: {4, "Remove User"}, "delete": {5, "Delete"}, "create": {6, "Create"}, "update": {9, "Update"},
	})
	entity = of(iam, 3004, "Entity Management", fillEntity, map[string]activity{
		"create": {1, "Create"}, "charge": {1, "Create"}, "refund": {1, "Create"}, "push": {1, "Create"}, "read": {2, "Read"}, "update": {3, "Update"},
		"change": {3, "Update"}, "delete": {4, "Delete"},
	})
	api = with(of(application, 6003, "API Activity", fillAPI, map[string]activity{
		"create": {1, "Create"}, "read": {2, "Read"}, "list": {2, "Read"}, "watch": {2, "Read"}, "update": {3, "Update"}, "delete": {4, "Delete"},
		"GET": {2, "Read"}, "HEAD": {2, "Read"}, "POST": {1, "Create"}, "PUT": {3, "Update"}, "PATCH": {3, "Update"}, "DELETE": {4, "Delete"},
	}), class{http: true, endpoint: true, actor: true})
	web = with(of(application, 6001, "Web Resources Activity", fillWeb, map[string]activity{
		"create": {1, "Create"}, "read": {2, "Read"}, "update": {3, "Update"}, "delete": {4, "Delete"}, "share": {8, "Share"},
		"GET": {2, "Read"}, "HEAD": {2, "Read"}, "POST": {1, "Create"}, "PUT": {3, "Update"}, "PATCH": {3, "Update"}, "DELETE": {4, "Delete"},
	}), class{http: true, endpoint: true})
	datastore = with(of(application, 6005, "Datastore Activity", fillDatastore, map[string]activity{
		"read": {1, "Read"}, "list": {8, "List"}, "update": {2, "Update"}, "exec": {5, "Write"}, event.ActionQuery: {4, "Query"}, "create": {6, "Create"},
		"delete": {7, "Delete"}, "connect": {3, "Connect"},
	}), class{http: true, endpoint: true, actor: true})
	lifecycle = of(application, 6002, "Application Lifecycle", fillLifecycle, map[string]activity{
		"start": {3, "Start"}, "stop": {4, "Stop"}, event.ActionDeploy: {1, "Install"}, event.ActionRelease: {8, "Update"}, event.ActionRollBack: {8, "Update"},
	})
	file = of(system, 1001, "File System Activity", fillFile, map[string]activity{
		"create": {1, "Create"}, "read": {2, "Read"}, "write": {3, "Update"}, "update": {3, "Update"}, "delete": {4, "Delete"}, "rename": {5, "Rename"}, "permission": {7, "Set Security"},
	})
	eventLog = with(of(system, 1008, "Event Log Activity", fillEventLog, map[string]activity{
		event.ActionLogExport: {3, "Export"}, "archive": {4, "Archive"}, "rotate": {5, "Rotate"}, "start": {6, "Start"}, "stop": {7, "Stop"},
	}), class{endpoint: true, actor: true})
	finding = class{uid: 2004, name: "Detection Finding", category: "Findings", categoryUID: 2, finding: true, fill: fillFinding, activities: map[string]activity{
		event.ActionAlert: {1, "Create"}, event.ActionFinding: {1, "Create"}, event.ActionRejected: {1, "Create"}, "update": {2, "Update"}, "close": {3, "Close"},
	}}
	base = class{name: "Base Event", category: "Uncategorized", fill: func(members, *source) {}}
)

func of(c class, uid int, name string, fill func(members, *source), activities map[string]activity) class {
	c.uid, c.name, c.fill, c.activities = uid, name, fill, activities
	return c
}

func with(c, more class) class {
	c.http, c.endpoint, c.actor = more.http, more.endpoint, more.actor
	return c
}

// classOf is the class of a kind. Kinds that the schema has no class for are what comes closest; docs/sinks.md has the table.
func classOf(s *source) *class {
	switch s.Kind {
	case event.KindAuthentication:
		return &authentication
	case event.KindAuthorization:
		return &authorization
	case event.KindAccount:
		if strings.HasPrefix(s.Action, "group.") || s.Target.Type == "group" {
			return &group
		}
		return &user
	case event.KindAPI:
		return &api
	case event.KindWeb:
		return &web
	case event.KindDatabase:
		return &datastore
	case event.KindFile:
		return &file
	case event.KindConfiguration, event.KindContent, event.KindRevenue:
		return &entity
	case event.KindProcess, event.KindDeployment:
		return &lifecycle
	case event.KindSecurity:
		return &finding
	case event.KindLog:
		return &eventLog
	}
	return &base
}

// activityOf is 99, Other, with the source's own word where the class has none for it.
func (c *class) activityOf(s *source) activity {
	if a, ok := c.activities[s.Action]; ok {
		return a
	}
	if s.Kind == event.KindAPI || s.Kind == event.KindWeb {
		if a, ok := c.activities[strings.ToUpper(s.Request.Method)]; ok {
			return a
		}
	}
	if a, ok := c.activities[s.verb()]; ok {
		return a
	}
	if s.Action == "" {
		return activity{0, "Unknown"}
	}
	return activity{99, s.Action}
}

// AppendOCSF appends the entry as an event of OCSF, one line of JSON.
func AppendOCSF(dst []byte, m Mark, e *immutable.Entry) ([]byte, error) {
	s := read(e)
	c := classOf(s)
	a := c.activityOf(s)
	at := e.Timestamp
	if !e.EventTime.IsZero() {
		at = e.EventTime
	}
	severity, severityName := ocsfSeverity(e.Level)
	m = m.of(e)
	digest := sha256.Sum256(e.Line)
	o := members{
		"class_uid": c.uid, "class_name": c.name, "category_uid": c.categoryUID, "category_name": c.category,
		"activity_id": a.id, "activity_name": a.name, "type_uid": 100*c.uid + a.id, "type_name": c.name + ": " + a.name,
		"time": at.UnixMilli(), "severity_id": severity, "severity": severityName,
		"metadata": ocsfMetadata(m, s),
		"raw_data": string(e.Line), "raw_data_size": len(e.Line),
		"raw_data_hash": members{"algorithm_id": 3, "algorithm": "SHA-256", "value": hex.EncodeToString(digest[:])},
		"attestation_list": []members{{
			"uid": strconv.FormatUint(e.Index, 10), "authority_uid": m.Origin, "chain_uid": m.Origin,
			"fingerprint": members{"algorithm_id": 99, "algorithm": "RFC 6962 leaf hash", "value": m.Leaf, "serialization_id": 99, "serialization": "raw_data"},
		}},
		"device": members{"hostname": or(e.Hostname, unknown), "type_id": 0, "type": "Unknown"},
	}
	o.text("message", e.Message)
	status(o, c, s)
	unmapped := members{"immutable": m}
	if x := s.extra(); x != nil {
		unmapped["metadata"] = x
	}
	o["unmapped"] = unmapped
	actor := ocsfActor(s)
	if len(actor) == 0 && c.actor {
		actor = members{"app_name": or(s.Source.Provider, e.Hostname, unknown)}
	}
	o.object("actor", actor)
	if c.endpoint {
		o.object("src_endpoint", ocsfEndpoint(s))
	}
	if c.http {
		ocsfHTTP(o, s)
	}
	c.fill(o, s)
	return o.line(dst, e)
}

func ocsfMetadata(m Mark, s *source) members {
	o := members{
		"version": ocsfVersion, "product": members{"name": product, "vendor_name": product}, "profiles": []string{"host", "record_integrity"},
		"uid": s.e.ID.String(), "sequence": s.e.Index, "log_name": m.Origin, "logged_time": s.e.Timestamp.UnixMilli(), "log_level": s.e.Level.String(),
	}
	o.text("log_provider", s.Source.Provider)
	o.text("event_code", s.Action)
	o.text("correlation_uid", or(s.traceID(), s.Request.ID))
	if !s.e.EventTime.IsZero() {
		o["original_time"] = s.e.EventTime.Format("2006-01-02T15:04:05.999999999Z07:00")
	}
	return o
}

func ocsfSeverity(l immutable.Level) (id int, name string) {
	switch l {
	case immutable.Critical:
		return 5, "Critical"
	case immutable.Error:
		return 4, "High"
	case immutable.Warn, immutable.Security:
		return 3, "Medium"
	}
	return 1, "Informational"
}

func status(o members, c *class, s *source) {
	o.text("status_detail", s.Reason)
	if s.Request.Status != 0 {
		o["status_code"] = strconv.Itoa(s.Request.Status)
	}
	if c.finding {
		o["status_id"], o["status"] = 1, "New"
		return
	}
	switch s.Outcome {
	case event.OutcomeSuccess:
		o["status_id"], o["status"] = 1, "Success"
	case event.OutcomeFailure, event.OutcomeDenied:
		o["status_id"], o["status"] = 2, "Failure"
	case event.OutcomeUnknown:
		o["status_id"], o["status"] = 0, "Unknown"
	}
}

// ocsfActor is who did it; empty where the source does not say.
func ocsfActor(s *source) members {
	o := members{}
	if u := actorUser(s); len(u) > 0 {
		o["user"] = u
	}
	if s.Actor.Session != "" {
		o["session"] = members{"uid": s.Actor.Session}
	}
	return o
}

func actorUser(s *source) members {
	u := members{}
	u.text("name", or(s.Actor.Name, s.Actor.Email))
	u.text("uid", s.Actor.ID)
	if len(u) == 0 {
		if s.Actor.Type != event.ActorAnonymous && s.Actor.Type != event.ActorSystem {
			return nil
		}
		u["name"] = s.Actor.Type
	}
	u.text("email_addr", email(s.Actor.Email))
	switch s.Actor.Type {
	case event.ActorUser:
		u["type_id"], u["type"] = 1, "User"
	case event.ActorService:
		u["type_id"], u["type"] = 4, "Service"
	case event.ActorSystem:
		u["type_id"], u["type"] = 3, "System"
	case "":
		u["type_id"], u["type"] = 0, "Unknown"
	default:
		u["type_id"], u["type"] = 99, s.Actor.Type
	}
	return u
}

// about is the user that an event is about: the target, if it is one, else the actor.
func about(s *source) members {
	if t := s.Target; t.Type == "user" || t.Type == "" || actorUser(s) == nil {
		u := members{}
		u.text("name", t.Name)
		u.text("uid", t.ID)
		if len(u) > 0 {
			return u
		}
	}
	if u := actorUser(s); u != nil {
		return u
	}
	return members{"name": unknown}
}

func ocsfEndpoint(s *source) members {
	o := members{}
	o.text("ip", s.ip())
	o.text("hostname", s.Source.Host)
	if len(o) > 0 && s.port() != 0 {
		o["port"] = s.port()
	}
	if len(o) == 0 {
		o["name"] = unknown
	}
	return o
}

// methods are those that the schema knows.
var methods = []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}

func ocsfHTTP(o members, s *source) {
	r := members{}
	if m := strings.ToUpper(s.Request.Method); slices.Contains(methods, m) {
		r["http_method"] = m
	}
	r.text("uid", s.Request.ID)
	r.text("user_agent", s.Source.UserAgent)
	if p := s.Request.Path; p != "" {
		r["url"] = members{"path": p}
	}
	o.object("http_request", r)
	if s.Request.Status > 0 {
		o["http_response"] = members{"code": s.Request.Status}
	}
}

func fillAuthentication(o members, s *source) {
	o["user"] = about(s)
	o["service"] = members{"name": or(s.Source.Provider, s.e.Hostname, unknown)}
	if s.Actor.Session != "" {
		o["session"] = members{"uid": s.Actor.Session}
	}
	if s.Action == event.ActionMFA {
		o["is_mfa"] = true
	}
}

func fillAuthorization(o members, s *source) {
	o["user"] = about(s)
	o["privileges"] = []string{or(s.Target.Name, s.Target.ID, s.Action, unknown)}
}

func fillUser(o members, s *source) { o["user"] = about(s) }

func fillGroup(o members, s *source) {
	g := members{}
	g.text("name", s.Target.Name)
	g.text("uid", s.Target.ID)
	if len(g) == 0 {
		g["name"] = unknown
	}
	o["group"] = g
}

func fillEntity(o members, s *source) {
	t := thing(s)
	t.text("type", or(s.Target.Type, string(s.Kind)))
	o["entity"] = t
}

// thing is what something was done to: a name, a uid, or both.
func thing(s *source) members {
	t := members{}
	t.text("name", s.Target.Name)
	t.text("uid", s.Target.ID)
	if len(t) == 0 {
		t["name"] = or(s.Target.Type, s.Request.Path, unknown)
	}
	return t
}

func fillAPI(o members, s *source) {
	a := members{"operation": or(s.Action, unknown)}
	if s.Request.ID != "" {
		a["request"] = members{"uid": s.Request.ID}
	}
	if s.Request.Status > 0 {
		a["response"] = members{"code": s.Request.Status}
	}
	if s.Source.Provider != "" {
		a["service"] = members{"name": s.Source.Provider}
	}
	o["api"] = a
	if *s.Target != (event.Target{}) {
		r := thing(s)
		r.text("type", s.Target.Type)
		o["resources"] = []members{r}
	}
}

func fillWeb(o members, s *source) {
	r := thing(s)
	r.text("type", s.Target.Type)
	r.text("url_string", s.Request.Path)
	o["web_resources"] = []members{r}
}

func fillDatastore(o members, s *source) {
	d := thing(s)
	d["type_id"], d["type"] = 0, "Unknown"
	o["database"], o["type_id"], o["type"] = d, 1, "Database"
	for _, name := range []string{"statement", "query"} {
		if text, ok := s.Extra[name].(string); ok && text != "" {
			o["query_info"] = members{"query_string": text, "uid": or(s.Request.ID, s.e.ID.String())}
			return
		}
	}
}

func fillLifecycle(o members, s *source) {
	o["app"] = thing(s)
}

func fillFile(o members, s *source) {
	full := or(s.Target.Name, s.Target.ID, unknown)
	f := members{"name": full, "type_id": 0, "type": "Unknown"}
	if strings.ContainsAny(full, `/\`) {
		f["path"] = full
		if name := path.Base(strings.ReplaceAll(full, `\`, "/")); name != "/" && name != "." {
			f["name"] = name
		}
	}
	f.text("uid", s.Target.ID)
	o["file"] = f
}

func fillEventLog(o members, s *source) {
	o["log_name"] = or(s.Target.Name, s.Target.ID, unknown)
}

func fillFinding(o members, s *source) {
	o["finding_info"] = members{"uid": s.e.ID.String(), "title": or(s.e.Message, s.Action, unknown)}
	if *s.Target != (event.Target{}) {
		r := thing(s)
		r.text("type", s.Target.Type)
		o["resources"] = []members{r}
	}
}
