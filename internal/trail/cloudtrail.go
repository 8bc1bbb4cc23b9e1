package trail

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// trailEvent is what is read of a CloudTrail record; all of it stands in the entry.
type trailEvent struct {
	EventTime, EventSource, EventName, AWSRegion, SourceIPAddress, UserAgent, ErrorCode, ErrorMessage string
	RequestID, EventID, RecipientAccountID                                                            string
	UserIdentity                                                                                      struct {
		Type, PrincipalID, ARN, AccountID, UserName, InvokedBy string
		SessionContext                                         struct {
			SessionIssuer struct{ UserName string }
		}
	}
	RequestParameters map[string]any
	ResponseElements  map[string]any
	Resources         []struct{ ARN, Type string }
}

func parseCloudTrail(raw []byte) (*record, error) {
	var t trailEvent
	if err := object(raw, &t); err != nil {
		return nil, fmt.Errorf("cloudtrail: not a JSON object: %w", err)
	}
	if t.EventName == "" || t.EventSource == "" {
		return nil, errors.New("cloudtrail: want an object with eventName and eventSource")
	}
	r := &record{json: true, message: t.EventName, level: immutable.Audit, time: timeOf(t.EventTime), key: identity(CloudTrail, raw, t.EventID)}
	service := strings.TrimSuffix(t.EventSource, ".amazonaws.com")
	r.shape = event.Shape{
		Actor: t.actor(), Target: t.target(), Source: from(t.SourceIPAddress),
		Extra: immutable.Fields{"service": service, "operation": t.EventName},
	}
	r.shape.Kind, r.shape.Action = trailAction(t.EventName)
	r.shape.Outcome, r.shape.Reason = t.outcome()
	r.shape.Source.UserAgent, r.shape.Source.Provider = t.UserAgent, string(CloudTrail)
	if t.RequestID != "" {
		r.shape.Request = &event.Request{ID: t.RequestID}
	}
	if t.AWSRegion != "" {
		r.shape.Extra["region"] = t.AWSRegion
	}
	if account := first(t.RecipientAccountID, t.UserIdentity.AccountID); account != "" {
		r.shape.Extra["account"] = account
	}
	if r.shape.Kind != event.KindAPI || r.shape.Outcome == event.OutcomeDenied {
		r.level = immutable.Security
	}
	return r, nil
}

func (t *trailEvent) actor() *event.Actor {
	u := &t.UserIdentity
	a := &event.Actor{Type: event.ActorUser, ID: first(u.ARN, u.PrincipalID), Name: u.UserName}
	_, last, _ := cutLast(u.ARN, "/")
	switch u.Type {
	case "Root":
		a.Name = first(a.Name, "root")
	case "AssumedRole":
		a.Type, a.Name, a.Session = event.ActorService, first(u.SessionContext.SessionIssuer.UserName, u.UserName), last
	case "Role", "IdentityCenterRole":
		a.Type = event.ActorService
	case "AWSService":
		a.Type, a.Name = event.ActorSystem, u.InvokedBy
	case "":
		a.Type = ""
		if u.InvokedBy != "" {
			a.Type, a.Name = event.ActorSystem, u.InvokedBy
		}
	}
	if u.PrincipalID == "ANONYMOUS_PRINCIPAL" || u.AccountID == "ANONYMOUS_PRINCIPAL" {
		a.Type = event.ActorAnonymous
	}
	if a.Name == "" && a.Type == event.ActorUser {
		a.Name = last
	}
	return a
}

// trailTargets are the members of requestParameters that name what a call is about, the most telling first.
var trailTargets = [...]struct{ name, kind string }{
	{"bucketName", "bucket"},
	{"secretId", "secret"},
	{"functionName", "function"},
	{"groupName", "group"},
	{"userName", "user"},
	{"roleName", "role"},
	{"roleArn", "role"},
	{"policyArn", "policy"},
	{"policyName", "policy"},
	{"instanceId", "instance"},
	{"groupId", "security-group"},
	{"imageId", "image"},
	{"snapshotId", "snapshot"},
	{"keyId", "key"},
	{"modelId", "model"},
	{"tableName", "table"},
	{"dBInstanceIdentifier", "database"},
	{"logGroupName", "log-group"},
	{"trailName", "trail"},
	{"accountId", "account"},
	{"resourceArn", "resource"},
	{"name", "resource"},
}

func (t *trailEvent) target() *event.Target {
	for _, p := range trailTargets {
		if v, ok := t.RequestParameters[p.name].(string); ok && v != "" {
			return &event.Target{Type: p.kind, Name: v}
		}
	}
	if set, ok := t.RequestParameters["instancesSet"].(map[string]any); ok {
		if items, ok := set["items"].([]any); ok && len(items) > 0 {
			if item, ok := items[0].(map[string]any); ok {
				if id, ok := item["instanceId"].(string); ok {
					return &event.Target{Type: "instance", Name: id}
				}
			}
		}
	}
	if len(t.Resources) > 0 && t.Resources[0].ARN != "" {
		return &event.Target{Type: t.Resources[0].Type, ID: t.Resources[0].ARN}
	}
	return nil
}

func (t *trailEvent) outcome() (event.Outcome, string) {
	if t.EventName == "ConsoleLogin" || t.EventName == "CheckMfa" || t.EventName == "SwitchRole" {
		if t.ResponseElements[t.EventName] == "Failure" {
			return event.OutcomeFailure, first(t.ErrorMessage, t.ErrorCode)
		}
	}
	if t.ErrorCode == "" {
		return event.OutcomeSuccess, ""
	}
	reason := strings.TrimSuffix(t.ErrorCode+": "+t.ErrorMessage, ": ")
	for _, word := range [...]string{"AccessDenied", "Unauthorized", "NotAuthorized", "Forbidden"} {
		if strings.Contains(t.ErrorCode, word) {
			return event.OutcomeDenied, reason
		}
	}
	return event.OutcomeFailure, reason
}

// trailActions are the calls that mean something of their own.
var trailActions = map[string]struct {
	kind   event.Kind
	action string
}{
	"ConsoleLogin":                  {event.KindAuthentication, event.ActionLogin},
	"CheckMfa":                      {event.KindAuthentication, event.ActionMFA},
	"GetSigninToken":                {event.KindAuthentication, event.ActionTokenIssue},
	"GetSessionToken":               {event.KindAuthentication, event.ActionTokenIssue},
	"GetFederationToken":            {event.KindAuthentication, event.ActionTokenIssue},
	"CreateAccessKey":               {event.KindAccount, event.ActionTokenIssue},
	"DeleteAccessKey":               {event.KindAccount, event.ActionTokenRevoke},
	"AssumeRole":                    {event.KindAuthorization, event.ActionPrivilege},
	"AssumeRoleWithSAML":            {event.KindAuthorization, event.ActionPrivilege},
	"AssumeRoleWithWebIdentity":     {event.KindAuthorization, event.ActionPrivilege},
	"SwitchRole":                    {event.KindAuthorization, event.ActionPrivilege},
	"CreateUser":                    {event.KindAccount, event.ActionUserCreate},
	"UpdateUser":                    {event.KindAccount, event.ActionUserUpdate},
	"DeleteUser":                    {event.KindAccount, event.ActionUserDelete},
	"CreateLoginProfile":            {event.KindAccount, event.ActionPasswordSet},
	"UpdateLoginProfile":            {event.KindAccount, event.ActionPasswordSet},
	"ChangePassword":                {event.KindAccount, event.ActionPasswordSet},
	"EnableMFADevice":               {event.KindAccount, event.ActionMFAEnroll},
	"DeactivateMFADevice":           {event.KindAccount, event.ActionMFARemove},
	"CreateGroup":                   {event.KindAccount, event.ActionGroupCreate},
	"DeleteGroup":                   {event.KindAccount, event.ActionGroupDelete},
	"AddUserToGroup":                {event.KindAccount, event.ActionGroupAdd},
	"RemoveUserFromGroup":           {event.KindAccount, event.ActionGroupRemove},
	"AttachUserPolicy":              {event.KindAccount, event.ActionPrivilegeGive},
	"AttachGroupPolicy":             {event.KindAccount, event.ActionPrivilegeGive},
	"AttachRolePolicy":              {event.KindAccount, event.ActionPrivilegeGive},
	"PutUserPolicy":                 {event.KindAccount, event.ActionPrivilegeGive},
	"PutGroupPolicy":                {event.KindAccount, event.ActionPrivilegeGive},
	"PutRolePolicy":                 {event.KindAccount, event.ActionPrivilegeGive},
	"DetachUserPolicy":              {event.KindAccount, event.ActionPrivilegeTake},
	"DetachGroupPolicy":             {event.KindAccount, event.ActionPrivilegeTake},
	"DetachRolePolicy":              {event.KindAccount, event.ActionPrivilegeTake},
	"DeleteUserPolicy":              {event.KindAccount, event.ActionPrivilegeTake},
	"DeleteGroupPolicy":             {event.KindAccount, event.ActionPrivilegeTake},
	"DeleteRolePolicy":              {event.KindAccount, event.ActionPrivilegeTake},
	"CreateRole":                    {event.KindAccount, event.ActionObjectCreate},
	"DeleteRole":                    {event.KindAccount, event.ActionObjectDelete},
	"UpdateAssumeRolePolicy":        {event.KindAccount, event.ActionPrivilegeSet},
	"StopLogging":                   {event.KindConfiguration, event.ActionConfigChange},
	"StartLogging":                  {event.KindConfiguration, event.ActionConfigChange},
	"CreateTrail":                   {event.KindConfiguration, event.ActionConfigChange},
	"UpdateTrail":                   {event.KindConfiguration, event.ActionConfigChange},
	"DeleteTrail":                   {event.KindConfiguration, event.ActionConfigChange},
	"PutEventSelectors":             {event.KindConfiguration, event.ActionConfigChange},
	"DeleteFlowLogs":                {event.KindConfiguration, event.ActionConfigChange},
	"PutBucketLifecycle":            {event.KindConfiguration, event.ActionConfigChange},
	"StartSession":                  {event.KindAPI, event.ActionObjectConnect},
	"SendCommand":                   {event.KindAPI, event.ActionObjectExecute},
	"SendSerialConsoleSSHPublicKey": {event.KindAPI, event.ActionObjectConnect},
	"InvokeModel":                   {event.KindAPI, event.ActionModelRequest},
}

// trailVerbs begin the names of calls; the longest that fits counts where one begins another.
var trailVerbs = [...]struct{ verb, action string }{
	{"BatchGet", event.ActionObjectRead},
	{"Get", event.ActionObjectRead},
	{"Describe", event.ActionObjectRead},
	{"Head", event.ActionObjectRead},
	{"Lookup", event.ActionObjectRead},
	{"List", event.ActionObjectList},
	{"Search", event.ActionObjectList},
	{"Create", event.ActionObjectCreate},
	{"Run", event.ActionObjectCreate},
	{"Allocate", event.ActionObjectCreate},
	{"Import", event.ActionObjectCreate},
	{"Publish", event.ActionObjectCreate},
	{"Delete", event.ActionObjectDelete},
	{"Terminate", event.ActionObjectDelete},
	{"Release", event.ActionObjectDelete},
	{"ScheduleKeyDeletion", event.ActionObjectDelete},
	{"Share", event.ActionObjectShare},
	{"Invoke", event.ActionObjectExecute},
	{"Execute", event.ActionObjectExecute},
	{"Put", event.ActionObjectUpdate},
	{"Update", event.ActionObjectUpdate},
	{"Modify", event.ActionObjectUpdate},
	{"Set", event.ActionObjectUpdate},
	{"Add", event.ActionObjectUpdate},
	{"Remove", event.ActionObjectUpdate},
	{"Attach", event.ActionObjectUpdate},
	{"Detach", event.ActionObjectUpdate},
	{"Associate", event.ActionObjectUpdate},
	{"Disassociate", event.ActionObjectUpdate},
	{"Authorize", event.ActionObjectUpdate},
	{"Revoke", event.ActionObjectUpdate},
	{"Enable", event.ActionObjectUpdate},
	{"Disable", event.ActionObjectUpdate},
	{"Start", event.ActionObjectUpdate},
	{"Stop", event.ActionObjectUpdate},
	{"Tag", event.ActionObjectUpdate},
	{"Untag", event.ActionObjectUpdate},
}

func trailAction(name string) (event.Kind, string) {
	if a, ok := trailActions[name]; ok {
		return a.kind, a.action
	}
	for _, v := range trailVerbs {
		if rest, ok := strings.CutPrefix(name, v.verb); ok && (rest == "" || rest[0] < 'a') { // a word: Share, not Shared
			return event.KindAPI, v.action
		}
	}
	return event.KindAPI, event.ActionRPCCall
}
