package otlp

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/event"
)

// Attributes of OpenTelemetry's draft of an audit signal (OTEP 0267) and of its semantic conventions that say who did what to what.
// They stay among the attributes; this is the same in the common shape.
const (
	auditPrefix   = "audit."
	auditRecordID = "audit.record.id"
)

// notes are the values of such attributes. They refer to the request.
type notes struct {
	attributes int // how many the record has
	audit      bool
	any        bool // one of the values below is there

	recordID                             []byte
	actorID, actorType, actorName, email []byte
	session, action, outcome             []byte
	targetID, targetType                 []byte
	source, sourceType, client, agent    []byte
	method, path                         []byte
	status                               uint64
}

// take looks at one attribute.
func (n *notes) take(kv []byte) {
	n.attributes++
	key, v := split(kv)
	var to *[]byte
	switch string(key) {
	case auditRecordID:
		to = &n.recordID
	case "audit.actor.id", "user.id", "enduser.id":
		to = &n.actorID
	case "audit.actor.type":
		to = &n.actorType
	case "user.name":
		to = &n.actorName
	case "user.email":
		to = &n.email
	case "session.id":
		to = &n.session
	case "audit.action":
		to = &n.action
	case "audit.outcome":
		to = &n.outcome
	case "audit.target.id":
		to = &n.targetID
	case "audit.target.type":
		to = &n.targetType
	case "audit.source.id":
		to = &n.source
	case "audit.source.type":
		to = &n.sourceType
	case "client.address":
		to = &n.client
	case "user_agent.original":
		to = &n.agent
	case "http.request.method":
		to = &n.method
	case "url.path":
		to = &n.path
	case "http.response.status_code":
		for in := (cursor{b: v}); in.next(); {
			if in.num == anyInt && in.u <= 999 {
				n.status, n.any = in.u, true
			}
		}
		return
	default:
		return
	}
	n.audit = n.audit || strings.HasPrefix(string(key), auditPrefix)
	if t := text(v); len(t) > 0 && len(t) <= maxNote && utf8.Valid(t) && (*to == nil || strings.HasPrefix(string(key), auditPrefix)) {
		*to, n.any = t, true
	}
}

// shorten leaves out what is long, so that what is left has a place in any entry.
func (n *notes) shorten() {
	for _, v := range [...]*[]byte{&n.actorID, &n.actorType, &n.actorName, &n.email, &n.session, &n.action, &n.outcome, &n.targetID, &n.targetType, &n.source, &n.sourceType, &n.client, &n.agent, &n.method, &n.path} {
		if jsonSize(*v) > 256 {
			*v = nil
		}
	}
}

// shape is what the notes say in the common shape. Source is never nil.
func (n *notes) shape() event.Shape {
	s := event.Shape{Source: &event.Source{Provider: Provider, UserAgent: string(n.agent)}}
	if a := (event.Actor{Type: string(n.actorType), ID: string(n.actorID), Name: string(n.actorName), Email: string(n.email), Session: string(n.session)}); a != (event.Actor{}) {
		s.Actor = &a
	}
	if t := (event.Target{Type: string(n.targetType), ID: string(n.targetID)}); t != (event.Target{}) {
		s.Target = &t
	}
	if r := (event.Request{Method: string(n.method), Path: string(n.path), Status: int(n.status)}); r != (event.Request{}) {
		s.Request = &r
	}
	s.Action = action(string(n.action))
	if s.Action == event.ActionLogin || s.Action == event.ActionLogout {
		s.Kind = event.KindAuthentication
	}
	switch o := event.Outcome(strings.ToLower(string(n.outcome))); o {
	case event.OutcomeSuccess, event.OutcomeFailure, event.OutcomeDenied, event.OutcomeUnknown:
		s.Outcome = o
	}
	from := string(n.source)
	if from == "" {
		from = string(n.client)
	}
	if isIP(from) {
		s.Source.IP = from
	} else {
		s.Source.Host = from
	}
	return s
}

// action is our word for an action of the draft, which are verbs in capitals.
func action(verb string) string {
	switch verb {
	case "LOGIN":
		return event.ActionLogin
	case "LOGOUT":
		return event.ActionLogout
	case "READ":
		return event.ActionObjectRead
	case "WRITE", "UPDATE":
		return event.ActionObjectUpdate
	case "CREATE":
		return event.ActionObjectCreate
	case "DELETE":
		return event.ActionObjectDelete
	case "EXECUTE":
		return event.ActionObjectExecute
	}
	return strings.ToLower(verb)
}

// recordKey is the idempotency key of a record that has an id of its own.
func recordKey(id []byte) string {
	const longest = 200
	if len(id) > longest {
		sum := sha256.Sum256(id)
		return auditRecordID + "/sha256:" + hex.EncodeToString(sum[:])
	}
	return auditRecordID + ":" + string(id)
}
