package server

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

// jobRoutes are verifications, which run for long: they are asked for, and looked at.
func jobRoutes() []route {
	return []route{
		{Method: "POST", Pattern: logPath + "/verifications", Permission: tenant.PermVerify, Body: true, ID: "startVerification", Handle: startVerification},
		{Method: "GET", Pattern: logPath + "/verifications", Permission: tenant.PermVerify, ID: "listVerifications", Handle: listVerifications},
		{Method: "GET", Pattern: logPath + "/verifications/{id}", Permission: tenant.PermVerify, ID: "getVerification", Handle: getVerification},
		{Method: "DELETE", Pattern: logPath + "/verifications/{id}", Permission: tenant.PermVerify, ID: "cancelVerification", Handle: cancelVerification},
	}
}

// Limits of what a verification is given from outside.
const (
	maxGivenKeys  = 16
	maxGivenNotes = 64
)

// verification is the body that asks for one; an empty object asks for what the service does by itself.
type verification struct {
	Indexes     bool     `json:"indexes"`     // recompute every index too
	Keys        []string `json:"keys"`        // verifier keys (vkeys) that must be the log's
	Checkpoints []string `json:"checkpoints"` // notes kept from earlier
	Policy      string   `json:"policy"`      // a tlog-policy: whose cosignatures count
	Require     string   `json:"require"`     // which keys of an epoch must have signed
}

// options checks what was given. Keys and notes themselves are the verification's to judge.
func (v *verification) options() (o immutable.VerifyOptions, err error) {
	if len(v.Keys) > maxGivenKeys || len(v.Checkpoints) > maxGivenNotes {
		return o, fault("bad-parameter", fmt.Sprintf("%d keys and %d checkpoints; at most %d and %d", len(v.Keys), len(v.Checkpoints), maxGivenKeys, maxGivenNotes))
	}
	for i, text := range v.Keys {
		if _, err := proof.ParseKey(text); err != nil {
			return o, fault("bad-parameter", fmt.Sprintf("keys[%d]: %s", i, err))
		}
	}
	o = immutable.VerifyOptions{Indexes: v.Indexes, Keys: v.Keys}
	for i, note := range v.Checkpoints {
		if _, err := proof.ParseNote([]byte(note)); err != nil {
			return o, fault("bad-parameter", fmt.Sprintf("checkpoints[%d]: %s", i, err))
		}
		o.Checkpoints = append(o.Checkpoints, []byte(note))
	}
	if v.Policy != "" {
		if o.Policy, err = proof.ParsePolicy([]byte(v.Policy)); err != nil {
			return o, fault("bad-parameter", "policy: "+err.Error())
		}
	}
	if v.Require != "" {
		if o.Require, err = proof.ParseRequire(v.Require); err != nil {
			return o, fault("bad-parameter", "require: "+err.Error())
		}
	}
	return o, nil
}

// startVerification asks for a full verification. Who asked, and what came of it, is in the tenant's log of the log.
func startVerification(r *request) error {
	if r.s.o.Monitor == nil {
		return fault("not-found", nothingHere)
	}
	var v verification
	if err := r.decode(&v); err != nil {
		return err
	}
	o, err := v.options()
	if err != nil {
		return err
	}
	job, err := r.s.o.Monitor.Start(r.Context(), r.principal, r.log, o)
	switch {
	case errors.Is(err, monitor.ErrBusy):
		return fault("busy", "as many verifications wait as may; look at those of this log").after(time.Minute)
	case errors.Is(err, monitor.ErrStopped):
		return fault("shutting-down", "no verification begins any more")
	case err != nil:
		return err
	}
	r.w.Header().Set("Location", r.URL.Path+"/"+job.ID)
	return r.json(http.StatusAccepted, job)
}

// listVerifications answers with the verifications of the log that are known, the newest first, without their reports.
func listVerifications(r *request) error {
	if r.s.o.Monitor == nil {
		return fault("not-found", nothingHere)
	}
	jobs := orEmpty(r.s.o.Monitor.Jobs(r.log))
	for i := range jobs {
		jobs[i].Error = r.inside(jobs[i].Error)
	}
	return r.json(http.StatusOK, struct {
		Verifications []monitor.Job  `json:"verifications"`
		Status        monitor.Status `json:"status"`
	}{jobs, r.s.o.Monitor.Status(r.log)})
}

// getVerification answers with one as it stands. While nothing changes it can be asked cheaply, by ETag.
func getVerification(r *request) error {
	if r.s.o.Monitor == nil {
		return fault("not-found", nothingHere)
	}
	job, ok := r.s.o.Monitor.Job(r.log, r.PathValue("id"))
	if !ok {
		return fault("not-found", nothingHere)
	}
	end, err := r.beginRead("report", "verification="+job.ID)
	if err != nil {
		return err
	}
	end(0, nil)
	job.Error = r.inside(job.Error)
	return r.json(http.StatusOK, job)
}

// cancelVerification ends one that was asked for. It answers with the verification as it stands: one that runs ends a little later, one
// that has ended is as it was.
func cancelVerification(r *request) error {
	if r.s.o.Monitor == nil {
		return fault("not-found", nothingHere)
	}
	job, ok, err := r.s.o.Monitor.Cancel(r.principal, r.log, r.PathValue("id"))
	switch {
	case !ok:
		return fault("not-found", nothingHere)
	case errors.Is(err, monitor.ErrOwn):
		return fault("conflict", monitor.ErrOwn.Error())
	case err != nil:
		return err
	}
	job.Report, job.Findings, job.Error = nil, nil, r.inside(job.Error) // the report is a read, which is on record
	return r.json(http.StatusOK, job)
}

// tagOf is the ETag of settings: who changes them can say which ones they saw.
func tagOf(data []byte) string {
	sum := sha256.Sum256(data)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}
