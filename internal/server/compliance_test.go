package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/compliance"
	"github.com/tree-of-life-system/immutable/internal/demo"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

type complianceAnswer struct {
	Statement  string
	Frameworks []compliance.Framework
	Evidence   map[string]evidence
}

const compliancePath = "/api/v1/tenants/default/compliance"

// TestComplianceOfAnEmptyTenantClaimsNothing holds that evidence says there is none, or that somebody should look, where nothing was read.
func TestComplianceOfAnEmptyTenantClaimsNothing(t *testing.T) {
	sv := serve(t, withAll)
	var a complianceAnswer
	sv.get(compliancePath).want(t, 200, &a)
	if a.Statement != compliance.Statement || len(a.Frameworks) != 3 {
		t.Errorf("%q, %d frameworks", a.Statement, len(a.Frameworks))
	}
	for id, e := range a.Evidence {
		switch id {
		case compliance.Integrity, compliance.Alerts:
			if e.State != attention {
				t.Errorf("%s: %+v", id, e)
			}
		case compliance.Logins, compliance.Accounts, compliance.Denied, compliance.Objects, compliance.Changes, compliance.Witnesses, compliance.Copies, compliance.Sources, compliance.Holds:
			if e.State != isNone || len(e.Items) > 0 {
				t.Errorf("%s: %+v", id, e)
			}
		}
	}
}

func TestComplianceShowsWhatIsThere(t *testing.T) {
	sv := demonstration(t)
	var job monitor.Job
	sv.post(mainLog+"/verifications", "{}").want(t, http.StatusAccepted, &job)
	deadline(t, func() bool {
		sv.get(mainLog+"/verifications/"+job.ID).want(t, 200, &job)
		return job.Phase != "queued" && job.Phase != "running"
	}, "the verification")
	sv.do("PUT", mainLog+"/holds/case-7", sv.root, strings.NewReader(`{"reason":"a case"}`), "Content-Type", "application/json").want(t, 201, nil)
	var a complianceAnswer
	sv.get(compliancePath).want(t, 200, &a)
	says := func(id, text string) {
		t.Helper()
		for _, x := range a.Evidence[id].Items {
			if strings.Contains(x.Text, text) {
				return
			}
		}
		t.Errorf("%s does not say %q: %+v", id, text, a.Evidence[id])
	}
	says(compliance.Integrity, "main: proven at")
	says(compliance.Integrity, demo.Billing+": not verified")
	says(compliance.Logins, "failed logins")
	says(compliance.Accounts, "main: 2 changes")
	says(compliance.Completeness, "entries have actor, action, outcome and source")
	says(compliance.Holds, "main: 1 active")
	says(compliance.Reads, "records of reads")
	says(compliance.Reviews, "have no review")
	if a.Evidence[compliance.Integrity].State != attention || a.Evidence[compliance.Logins].State != isThere {
		t.Errorf("%+v", a.Evidence)
	}
	if sv.get(compliancePath+"?days=1").want(t, 200, &a); len(a.Evidence[compliance.Accounts].Items) != 0 {
		t.Errorf("of the last day: %+v", a.Evidence[compliance.Accounts])
	}
	sv.get(compliancePath+"?days=0").problem(t, "bad-parameter")
	reader := sv.token("default", tenant.TokenSpec{Name: "reader", Role: tenant.Reader})
	sv.do("GET", compliancePath, reader, nil).problem(t, "forbidden")
}
