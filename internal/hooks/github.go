package hooks

import (
	"net/http"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// githubBody is what entries show of a GitHub body; what an event does not have stays empty.
type githubBody struct {
	Action     text               `json:"action"`
	Sender     maybe[githubUser]  `json:"sender"`
	Repository maybe[githubThing] `json:"repository"`
	Org        maybe[githubUser]  `json:"organization"`

	Ref        text                  `json:"ref"`
	After      text                  `json:"after"`
	RefType    text                  `json:"ref_type"`
	Created    text                  `json:"created"`
	Deleted    text                  `json:"deleted"`
	Forced     text                  `json:"forced"`
	Commits    maybe[[]githubCommit] `json:"commits"`
	HeadCommit maybe[githubCommit]   `json:"head_commit"`
	SHA        text                  `json:"sha"`
	State      text                  `json:"state"`

	Issue       maybe[githubThing] `json:"issue"`
	PullRequest maybe[githubThing] `json:"pull_request"`
	Discussion  maybe[githubThing] `json:"discussion"`
	Release     maybe[githubThing] `json:"release"`
	Alert       maybe[githubThing] `json:"alert"`
	Advisory    maybe[githubThing] `json:"security_advisory"`
	Deployment  maybe[githubThing] `json:"deployment"`
	Status      maybe[githubThing] `json:"deployment_status"`
	Comment     maybe[githubThing] `json:"comment"`
	Member      maybe[githubUser]  `json:"member"`
	Membership  maybe[struct {
		User maybe[githubUser] `json:"user"`
	}] `json:"membership"`
	Team     maybe[githubThing] `json:"team"`
	Key      maybe[githubThing] `json:"key"`
	Rule     maybe[githubThing] `json:"rule"`
	CheckRun maybe[githubThing] `json:"check_run"`
	Workflow maybe[githubThing] `json:"workflow_run"`
	Package  maybe[githubThing] `json:"package"`
}

type githubUser struct {
	Login text `json:"login"`
	ID    text `json:"id"`
	Type  text `json:"type"`
}

type githubCommit struct {
	ID      text `json:"id"`
	Message text `json:"message"`
	Author  maybe[struct {
		Name     text `json:"name"`
		Username text `json:"username"`
		Email    text `json:"email"`
	}] `json:"author"`
}

// author is the login where there is one.
func (c *githubCommit) author() text {
	if c.Author.v.Username != "" {
		return c.Author.v.Username
	}
	return c.Author.v.Name
}

type githubThing struct {
	ID          text `json:"id"`
	Number      text `json:"number"`
	Name        text `json:"name"`
	FullName    text `json:"full_name"`
	Title       text `json:"title"`
	Summary     text `json:"summary"`
	TagName     text `json:"tag_name"`
	State       text `json:"state"`
	Status      text `json:"status"`
	Conclusion  text `json:"conclusion"`
	Environment text `json:"environment"`
	Severity    text `json:"severity"`
	SecretType  text `json:"secret_type"`
	SHA         text `json:"sha"`
	HeadSHA     text `json:"head_sha"`
	Slug        text `json:"slug"`
	URL         text `json:"html_url"`
	GHSA        text `json:"ghsa_id"`
}

// githubSecurity are the events about sign-in, permissions, keys, secret scanning and alerts.
var githubSecurity = []string{
	"branch_protection_configuration", "branch_protection_rule", "bypass_request_", "code_scanning_alert", "dependabot_alert", "deploy_key", "exemption_request_",
	"github_app_authorization", "installation", "member", "membership", "meta", "org_block", "organization", "personal_access_token_request", "public",
	"repository_advisory", "repository_ruleset", "repository_vulnerability_alert", "secret_scanning_", "security_advisory", "security_and_analysis", "team",
}

// githubExposes are the actions on a repository that change who sees it, or whose it is.
var githubExposes = []string{"publicized", "privatized", "transferred"}

func github(d *Delivery, h http.Header, body []byte) (event.Shape, error) {
	data, err := payload(h, body)
	if err != nil {
		return event.Shape{}, err
	}
	var b githubBody
	if err := object(data, &b); err != nil {
		return event.Shape{}, err
	}
	d.ID = h.Get("X-GitHub-Delivery")
	name := cut(h.Get("X-GitHub-Event"), 80)
	d.Name = name
	if b.Action != "" {
		d.Name += "." + string(b.Action)
	}
	d.Event.Level = immutable.Audit
	s := event.Shape{Kind: event.KindContent, Action: dotted(name, string(b.Action)), Extra: immutable.Fields{}}
	if slices.ContainsFunc(githubSecurity, func(p string) bool {
		return name == p || strings.HasSuffix(p, "_") && strings.HasPrefix(name, p) || name == p+"_add" || name == p+"_repositories" || name == p+"_target" || name == p+"_location"
	}) ||
		name == "repository" && slices.Contains(githubExposes, string(b.Action)) {
		d.Event.Level, s.Kind = immutable.Security, event.KindSecurity
	}
	if u := b.Sender.v; u != (githubUser{}) {
		s.Actor = &event.Actor{Type: event.ActorUser, ID: string(u.ID), Name: string(u.Login)}
		if u.Type == "Bot" {
			s.Actor.Type = event.ActorService
		}
	}
	put(s.Extra, "repo", b.Repository.v.FullName)
	put(s.Extra, "org", b.Org.v.Login)
	put(s.Extra, "ref", b.Ref)
	d.Event.Message = "GitHub " + words(d.Name)
	if r := b.Repository.v; r.FullName != "" {
		s.Target = &event.Target{Type: "repository", ID: string(r.ID), Name: string(r.FullName)}
	}
	githubAbout(&s, &b)
	switch name {
	case "push":
		githubPush(d, &s, &b)
	case "member", "membership", "team", "team_add", "organization":
		s.Kind = event.KindAccount
	case "deployment", "deployment_status", "release", "workflow_run", "workflow_job", "check_run", "check_suite", "page_build":
		s.Kind = event.KindDeployment
	case "branch_protection_rule", "branch_protection_configuration", "repository_ruleset", "meta":
		s.Kind = event.KindConfiguration
	}
	return s, nil
}

// githubAbout adds what the event is about beside the repository.
func githubAbout(s *event.Shape, b *githubBody) {
	sha := b.SHA
	for _, about := range []struct {
		kind  string
		thing githubThing
	}{
		{"issue", b.Issue.v},
		{"pull_request", b.PullRequest.v},
		{"discussion", b.Discussion.v},
		{"release", b.Release.v},
		{"alert", b.Alert.v},
		{"advisory", b.Advisory.v},
		{"deployment", b.Deployment.v},
		{"team", b.Team.v},
		{"key", b.Key.v},
		{"rule", b.Rule.v},
		{"check_run", b.CheckRun.v},
		{"workflow_run", b.Workflow.v},
		{"package", b.Package.v},
	} {
		x := about.thing
		if x == (githubThing{}) {
			continue
		}
		t := &event.Target{Type: about.kind, ID: string(first(x.Number, x.ID, x.GHSA)), Name: string(first(x.Title, x.Name, x.TagName, x.Summary, x.SecretType, x.Environment))}
		if b.Repository.v.FullName != "" && (about.kind == "issue" || about.kind == "pull_request" || about.kind == "discussion") {
			t.ID = string(b.Repository.v.FullName) + "#" + t.ID
		}
		s.Target = t
		put(s.Extra, "title", first(x.Title, x.Name, x.Summary))
		put(s.Extra, "state", first(b.Status.v.State, x.Conclusion, x.State, x.Status, b.State))
		put(s.Extra, "environment", x.Environment)
		put(s.Extra, "severity", x.Severity)
		put(s.Extra, "url", x.URL)
		sha = first(sha, x.SHA, x.HeadSHA)
		break
	}
	if u := first(b.Member.v.Login, b.Membership.v.User.v.Login); u != "" {
		put(s.Extra, "member", u)
	}
	put(s.Extra, "sha", sha)
	switch s.Extra["state"] {
	case "failure", "error", "failed", "timed_out":
		s.Outcome = event.OutcomeFailure
	case "pending", "queued", "in_progress":
		s.Outcome = event.OutcomeUnknown
	}
}

// githubPush adds the commits: the newest one's fields stand by themselves, all of them in a list.
func githubPush(d *Delivery, s *event.Shape, b *githubBody) {
	d.Event.Message = "GitHub ref pushed"
	s.Action = event.ActionCommitPush
	switch {
	case len(b.Commits.v) > 0:
		d.Event.Message = "GitHub commit created"
	case b.Deleted == "true":
		d.Event.Message, s.Action = "GitHub ref deleted", event.ActionContentDelete
	case b.Created == "true":
		d.Event.Message = "GitHub ref created"
	}
	put(s.Extra, "forced", b.Forced)
	head := b.HeadCommit.v
	if head.ID == "" {
		put(s.Extra, "sha", b.After)
		return
	}
	put(s.Extra, "sha", head.ID)
	put(s.Extra, "author", head.author())
	put(s.Extra, "message", head.Message)
	if len(b.Commits.v) < 2 {
		return
	}
	list := []any{}
	for _, c := range b.Commits.v[:min(len(b.Commits.v), maxList)] {
		m := map[string]any{}
		put(m, "sha", c.ID)
		put(m, "author", c.author())
		put(m, "message", text(cut(string(c.Message), 200)))
		list = append(list, m)
	}
	s.Extra["commits"], s.Extra["commitCount"] = list, len(b.Commits.v)
}

func first(values ...text) text {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
