package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"

	"github.com/tree-of-life-system/immutable"
	events "github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/intake"
)

// jobClaims are what an entry says of the workflow's job that wrote it: claims of its token, which GitHub has signed.
var jobClaims = []string{
	"actor", "actor_id", "environment", "event_name", "job_workflow_ref", "job_workflow_sha", "jti", "ref", "ref_type", "repository", "repository_id", "repository_owner",
	"repository_owner_id", "repository_visibility", "run_attempt", "run_id", "run_number", "runner_environment", "sha", "workflow", "workflow_ref", "workflow_sha",
}

const (
	jobKey      = "github" // of the metadata that the claims stand under
	jobProvider = "github-actions"
)

// takeJob appends one event of a GitHub Actions job, which shows the job's OIDC token instead of a secret. The token, which is taken
// once, says which job it is: the workflow cannot say otherwise.
func takeJob(r *request) error {
	claims := r.principal.Claims
	if claims["repository_id"] == "" || claims["run_id"] == "" {
		return fault("bad-parameter", "this address is for jobs of GitHub Actions: show the job's OIDC token, not one that is kept")
	}
	if !r.principal.Once {
		return fault("forbidden", `the tenant's rule for these tokens must have "once": true, so that a token cannot be used again by others`)
	}
	if err := r.wants("application/json"); err != nil {
		return err
	}
	g, err := r.given()
	if err != nil {
		return err
	}
	data, release, err := r.readBody()
	if err != nil {
		return err
	}
	defer release()
	e := immutable.Event{Level: immutable.Audit}
	if err := intake.ParseEvent(bytes.Trim(data, " \t\r\n"), &e); err != nil {
		r.s.o.Sources.Rejected(r.Context(), r.tenant.Name(), r.log.Name(), jobProvider, r.principal.ID, "malformed", data[:min(len(data), maxSample)])
		return eventError(err)
	}
	if err := jobMetadata(&e, claims); err != nil {
		return err
	}
	g.fill(&e, 0)
	receipts, err := r.log.AppendAs(context.WithoutCancel(r.Context()), r.principal, e)
	if err != nil {
		return err
	}
	r.s.o.Sources.Seen(r.tenant.Name(), r.log.Name(), jobProvider, claims["repository"], 1)
	out := appendReceipt(append(make([]byte, 0, 320), '{'), &receipts[0])
	return r.send(http.StatusCreated, "application/json", append(out, "}\n"...))
}

// jobMetadata puts who the job is into the event's metadata, beside what it said itself. What it may not say is who it is.
func jobMetadata(e *immutable.Event, claims map[string]string) error {
	f := immutable.Fields{}
	if e.RawMetadata != nil {
		var own map[string]json.RawMessage
		if err := uniqueNames(e.RawMetadata); err != nil {
			return fault("bad-event", err.Error()).with("field", "metadata")
		}
		if err := json.Unmarshal(e.RawMetadata, &own); err != nil {
			return fault("bad-event", err.Error()).with("field", "metadata")
		}
		for name, value := range own {
			f[name] = value
		}
	}
	for _, name := range []string{jobKey, events.KeySource, events.KeyActor} {
		if _, taken := f[name]; taken {
			return fault("bad-event", "the job's token says what stands under "+name+": leave it out").with("field", "metadata."+name)
		}
	}
	about := map[string]any{}
	for _, name := range jobClaims {
		if v := claims[name]; v != "" {
			about[name] = v
		}
	}
	shape := events.Shape{
		Kind: events.KindDeployment, Actor: &events.Actor{Type: events.ActorUser, ID: claims["actor_id"], Name: claims["actor"]},
		Target: &events.Target{Type: "repository", ID: claims["repository_id"], Name: claims["repository"]},
		Source: &events.Source{Provider: jobProvider},
	}
	for name, value := range shape.Fields() {
		if _, own := f[name]; !own {
			f[name] = value
		}
	}
	f[jobKey] = about
	e.RawMetadata, e.Metadata = nil, f
	return nil
}
