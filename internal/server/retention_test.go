package server

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// TestRetirementByHandTakesWhatTheSettingsLetGo goes through it: nothing by default, a dry run, a hold, the run, the way back.
func TestRetirementByHandTakesWhatTheSettingsLetGo(t *testing.T) {
	sv := serve(t, func(o *Options) { // it does not run: nothing is retired but by hand
		days := 0
		now := func() time.Time { return time.Now().Add(time.Duration(days) * 24 * time.Hour) }
		o.Monitor = monitor.New(monitor.Options{Installation: o.Installation, Now: now})
		days = 2
	})
	retire := func(body string) got { return sv.post(mainLog+"/retire", body) }
	sv.post(mainLog+"/entries", lines(600, `{"message":"entry %d"}`), "Content-Type", "application/x-ndjson").want(t, 200, nil)
	sv.post(mainLog+"/rotate", "").want(t, 200, nil)
	retire(`{"reason":"policy"}`).problem(t, "conflict")
	retire(`{"dryRun":true}`).problem(t, "conflict")
	sv.patch(mainLog, `{"keepDays":3,"expired":"move"}`).want(t, 200, nil)
	var dry struct {
		Expired []immutable.Retired
		Held    bool
	}
	retire(`{"dryRun":true}`).want(t, 200, &dry)
	if len(dry.Expired) != 0 || dry.Held {
		t.Errorf("too young, and still %+v", dry)
	}
	sv.patch(mainLog, `{"keepDays":1}`).want(t, 200, nil)
	retire(`{"reason":""}`).problem(t, "bad-parameter")
	retire(`{"reason":"`+strings.Repeat("x", 1025)+`"}`).problem(t, "bad-parameter")
	retire(`{"reason":"x","days":0}`).problem(t, "bad-json")

	sv.do("PUT", mainLog+"/holds/case-1", sv.root, strings.NewReader(`{"reason":"a suit"}`), "Content-Type", "application/json").want(t, 201, nil)
	retire(`{"dryRun":true}`).want(t, 200, &dry)
	if len(dry.Expired) != 1 || dry.Expired[0].End != 512 || dry.Expired[0].Bytes == 0 || !dry.Held {
		t.Errorf("the dry run says %+v", dry)
	}
	if p := retire(`{"reason":"policy"}`).problem(t, "conflict"); !strings.Contains(p["detail"].(string), "case-1") {
		t.Errorf("the hold is not named: %v", p)
	}
	if n := sv.records("default", tenant.RetentionHeld); len(n) != 1 {
		t.Errorf("the refusal is recorded %d times", len(n))
	}
	sv.do("DELETE", mainLog+"/holds/case-1?reason=settled", sv.root, nil).want(t, 200, nil)

	var done struct {
		Retired []retiredSegment
		More    bool
	}
	answer := retire(`{"reason":"policy 7"}`).want(t, 200, &done)
	if len(done.Retired) != 1 || done.Retired[0].End != 512 || !done.Retired[0].Cold || done.Retired[0].Reason != "policy 7" || !strings.HasPrefix(done.Retired[0].By, "token:") || done.More {
		t.Errorf("retired %+v", done)
	}
	if strings.Contains(string(answer.body), sv.dir) {
		t.Error("the answer says where the server keeps its files")
	}
	if n := sv.records("default", tenant.SegmentRetire); len(n) != 1 || n[0]["reason"] != "policy 7" {
		t.Errorf("it is recorded as %v", n)
	}
	sv.get(mainLog+"/retired").want(t, 200, &done)
	if len(done.Retired) != 1 || done.Retired[0].End != 512 {
		t.Errorf("listed: %+v", done)
	}
	sv.get(mainLog+"/entries/600").want(t, 200, nil)
	sv.get(mainLog+"/entries/3").problem(t, "retired")
	sv.get(mainLog+"/entries/3/proof").problem(t, "retired") // a tlog-proof has the entry itself
	retire(`{"reason":"again"}`).want(t, 200, &done)
	if len(done.Retired) != 0 {
		t.Errorf("retired twice: %+v", done)
	}

	restore := func(body string) got { return sv.post(mainLog+"/restore", body) }
	restore(`{"reason":""}`).problem(t, "bad-parameter")
	restore(`{"reason":"for the auditor"}`).want(t, 200, nil)
	sv.get(mainLog+"/entries/3").want(t, 200, nil)
	restore(`{"reason":"again"}`).problem(t, "conflict")
	if n := sv.records("default", tenant.SegmentRestore); len(n) != 1 {
		t.Errorf("the restoration is recorded %d times", len(n))
	}
	if rep, err := sv.log("default", "main").Verify(context.Background(), immutable.VerifyOptions{}); err != nil || rep.Verdict != immutable.Proven {
		t.Errorf("verification: %+v, %v", rep, err)
	}

	sv.patch(mainLog, `{"expired":"delete"}`).want(t, 200, nil)
	retire(`{"reason":"policy 8"}`).want(t, 200, &done)
	if len(done.Retired) != 1 || done.Retired[0].Cold {
		t.Errorf("deleted %+v", done)
	}
	restore(`{"reason":"too late"}`).problem(t, "conflict")
	if _, err := os.Stat(sv.log("default", "main").ColdDir()); err != nil {
		t.Errorf("what was moved before: %v", err)
	}
}

// TestSettingsOfRetentionAreNotChangedSilently lowers what is kept.
func TestSettingsOfRetentionAreNotChangedSilently(t *testing.T) {
	sv := serve(t, nil)
	sv.patch(mainLog, `{"keepDays":3650,"expired":"move"}`).want(t, 200, nil)
	sv.patch(mainLog, `{"keepDays":30}`).want(t, 200, nil)
	sv.patch(mainLog, `{"expired":"delete"}`).want(t, 200, nil)
	list := sv.records("default", tenant.LogUpdate)
	for i, want := range []struct {
		before, after float64
		was, is       string
	}{{0, 3650, "keep", "move"}, {3650, 30, "move", "move"}, {30, 30, "move", "delete"}} {
		if len(list) != 3 {
			t.Fatalf("%d changes are recorded, want 3", len(list))
		}
		before, after := list[i]["before"].(map[string]any), list[i]["after"].(map[string]any)
		days, _ := before["keepDays"].(float64)
		if days != want.before || after["keepDays"] != want.after || before["expired"] != want.was || after["expired"] != want.is || list[i]["by"] == nil {
			t.Errorf("change %d is recorded as %v", i, list[i])
		}
	}
	sv.patch("/api/v1/tenants/default/logs/system", `{"keepDays":30,"expired":"delete"}`).problem(t, "bad-settings")
}
