package trail

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// k8sAudit reads audit.k8s.io events: of v1, and of the older versions as far as they have the same members.
type k8sAudit struct{}

func (k8sAudit) Held() int { return 0 }

func (k8sAudit) Flush(dst []immutable.Event) []immutable.Event { return dst }

// Parse takes an Event, or an EventList, of which each item makes an event.
func (k8sAudit) Parse(dst []immutable.Event, raw []byte) []immutable.Event {
	var list struct {
		Kind  any
		Items []json.RawMessage
	}
	if err := object(raw, &list); err == nil && list.Kind == "EventList" && len(list.Items) > 0 {
		for _, item := range list.Items {
			dst = append(dst, k8sEvent(item, true))
		}
		return dst
	}
	return append(dst, k8sEvent(raw, false))
}

// MaxItems is how many items of one EventList KubernetesAudit takes; the API server sends 400, unless it is told otherwise.
const MaxItems = 10_000

// KubernetesAudit makes events of what the webhook backend of an API server sends: an EventList, or one Event. An item that is no
// event is kept as it is; anything else is an error.
func KubernetesAudit(body []byte) ([]immutable.Event, error) {
	var list struct {
		Kind  string
		Items []json.RawMessage
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("k8s-audit: %w", err)
	}
	if len(list.Items) > MaxItems {
		return nil, fmt.Errorf("k8s-audit: %d items in one list; at most %d: lower --audit-webhook-batch-max-size", len(list.Items), MaxItems)
	}
	switch list.Kind {
	case "EventList":
		events := make([]immutable.Event, 0, len(list.Items))
		for _, item := range list.Items {
			events = append(events, k8sEvent(item, true))
		}
		return events, nil
	case "Event":
		return []immutable.Event{k8sEvent(body, false)}, nil
	}
	return nil, fmt.Errorf("k8s-audit: kind is %q; want an EventList of audit.k8s.io", clip(list.Kind))
}

// k8sEvent makes one event. The items of a list do not say their kind.
func k8sEvent(raw []byte, item bool) immutable.Event {
	r, err := parseK8s(raw, item)
	if err != nil {
		return unparsed(raw, err)
	}
	return r.event(raw)
}

// auditEvent is what is read of an audit event; all of it stands in the entry.
type auditEvent struct {
	Kind, AuditID, Stage, Verb, RequestURI, UserAgent   string
	RequestReceivedTimestamp, StageTimestamp, Timestamp string
	User, ImpersonatedUser                              struct{ Username, UID string }
	SourceIPs                                           []string
	ObjectRef                                           struct{ Resource, Namespace, Name, Subresource string }
	ResponseStatus                                      struct {
		Code    int
		Reason  string
		Message string
	}
	Annotations                   map[string]string
	RequestObject, ResponseObject struct{ Metadata struct{ Name string } }
}

func parseK8s(raw []byte, item bool) (*record, error) {
	var e auditEvent
	if err := object(raw, &e); err != nil {
		return nil, fmt.Errorf("k8s-audit: not a JSON object: %w", err)
	}
	if e.Kind != "Event" && (!item || e.Kind != "") || e.AuditID == "" && e.Verb == "" && e.Stage == "" {
		return nil, errors.New("k8s-audit: want an Event of audit.k8s.io, with kind and auditID")
	}
	r := &record{json: true, level: immutable.Audit, key: identity(K8sAudit, raw, e.AuditID, first(e.Stage, "-"))}
	r.time = timeOf(e.StageTimestamp, e.RequestReceivedTimestamp, e.Timestamp)
	resource := strings.TrimSuffix(e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/")
	name := first(e.ObjectRef.Name, e.ResponseObject.Metadata.Name, e.RequestObject.Metadata.Name)
	r.message = strings.Join(strings.Fields(first(e.Verb, "request")+" "+first(resource, e.RequestURI)+" "+strings.TrimPrefix(e.ObjectRef.Namespace+"/"+name, "/")), " ")
	r.shape = event.Shape{
		Kind: event.KindAPI, Action: e.action(), Actor: e.actor(), Source: &event.Source{UserAgent: e.UserAgent, Provider: string(K8sAudit)},
		Request: &event.Request{ID: e.AuditID, Path: e.RequestURI, Status: max(e.ResponseStatus.Code, 0)}, Extra: immutable.Fields{},
	}
	r.shape.Outcome, r.shape.Reason = e.outcome()
	if resource != "" || name != "" {
		r.shape.Target = &event.Target{Type: resource, Name: name}
	}
	if len(e.SourceIPs) > 0 {
		source := from(e.SourceIPs[0])
		r.shape.Source.IP, r.shape.Source.Host = source.IP, source.Host
	}
	for k, v := range map[string]string{"namespace": e.ObjectRef.Namespace, "stage": e.Stage, "verb": e.Verb, "impersonated": e.ImpersonatedUser.Username} {
		if v != "" {
			r.shape.Extra[k] = v
		}
	}
	if e.rbac() {
		r.shape.Kind = event.KindAccount
	}
	if e.sensitive() || r.shape.Outcome == event.OutcomeDenied {
		r.level = immutable.Security
	}
	return r, nil
}

func (e *auditEvent) actor() *event.Actor {
	a := &event.Actor{Type: event.ActorUser, ID: e.User.UID, Name: e.User.Username}
	switch {
	case strings.HasPrefix(a.Name, "system:serviceaccount:"):
		a.Type = event.ActorService
	case a.Name == "system:anonymous":
		a.Type = event.ActorAnonymous
	case strings.HasPrefix(a.Name, "system:"):
		a.Type = event.ActorSystem
	case a.Name == "":
		a.Type = ""
	}
	return a
}

func (e *auditEvent) rbac() bool {
	switch e.ObjectRef.Resource {
	case "roles", "clusterroles", "rolebindings", "clusterrolebindings", "serviceaccounts":
		return !e.reads()
	}
	return false
}

func (e *auditEvent) reads() bool { return e.Verb == "get" || e.Verb == "list" || e.Verb == "watch" }

// sensitive events are about secrets, rights, or give a way into a container.
func (e *auditEvent) sensitive() bool {
	return e.rbac() || e.ObjectRef.Resource == "secrets" || e.ImpersonatedUser.Username != "" || e.into()
}

func (e *auditEvent) into() bool {
	switch e.ObjectRef.Subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

func (e *auditEvent) action() string {
	binding := e.ObjectRef.Resource == "rolebindings" || e.ObjectRef.Resource == "clusterrolebindings"
	switch {
	case e.ObjectRef.Subresource == "exec":
		return event.ActionObjectExecute
	case e.into():
		return event.ActionObjectConnect
	case e.ObjectRef.Resource == "serviceaccounts" && e.ObjectRef.Subresource == "token" && e.Verb == "create":
		return event.ActionTokenIssue
	case binding && e.Verb == "create":
		return event.ActionRoleAssign
	case binding && e.Verb == "delete":
		return event.ActionRoleUnassign
	}
	switch e.Verb {
	case "create":
		return event.ActionObjectCreate
	case "get", "head":
		return event.ActionObjectRead
	case "list":
		return event.ActionObjectList
	case "watch":
		return event.ActionObjectWatch
	case "update", "patch", "put":
		return event.ActionObjectUpdate
	case "delete", "deletecollection":
		return event.ActionObjectDelete
	case "impersonate", "bind", "escalate":
		return event.ActionPrivilege
	}
	return event.ActionHTTPRequest
}

func (e *auditEvent) outcome() (event.Outcome, string) {
	code := e.ResponseStatus.Code
	reason := first(e.ResponseStatus.Message, e.ResponseStatus.Reason)
	switch {
	case code == 401 || code == 403 || e.Annotations["authorization.k8s.io/decision"] == "forbid":
		return event.OutcomeDenied, first(reason, e.Annotations["authorization.k8s.io/reason"])
	case code >= 400 || e.Stage == "Panic":
		return event.OutcomeFailure, reason
	case code > 0:
		return event.OutcomeSuccess, ""
	}
	return event.OutcomeUnknown, ""
}
