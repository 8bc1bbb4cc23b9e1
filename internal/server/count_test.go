package server

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

func TestCountsAreTheLibrarysWithTheirSource(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	for i := range 8 {
		sv.append(l, i*1000, 1000, 1000, immutable.Level(i))
	}
	if err := l.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	sv.append(l, 8000, 10, 10, immutable.Info)
	var c struct {
		Count, Size uint64
		Source      string
	}
	if sv.get(mainLog+"/count?level=WARN,INFO").want(t, 200, &c); c.Count != 2010 || c.Size != l.Size() || c.Source != "sealed" {
		t.Errorf("%+v", c)
	}
	if sv.get(mainLog+"/count?level=WARN,INFO&verified=true").want(t, 200, &c); c.Count != 2010 || c.Source != "verified" {
		t.Errorf("%+v", c)
	}
	var by struct {
		By, Source             string
		Count, Values, Missing uint64
		Rows                   []struct {
			Value string
			Count uint64
		}
	}
	if sv.get(mainLog+"/counts?by=level&q=odd:true&limit=2").want(t, 200, &by); by.Count != 4005 || by.Values != 8 || len(by.Rows) != 2 || by.Rows[0].Value != "INFO" || by.Rows[0].Count != 505 || by.By != "level" {
		t.Errorf("%+v", by)
	}
	if sv.get(mainLog+"/counts?by=nowhere").want(t, 200, &by); by.Missing != 8010 || by.Rows == nil || len(by.Rows) != 0 {
		t.Errorf("%+v", by)
	}
	var h struct {
		Width   float64
		Count   uint64
		Buckets []struct {
			Start time.Time
			Count uint64
		}
	}
	sv.get(mainLog+"/histogram?width=24h&q=event").want(t, 200, &h)
	sum := uint64(0)
	for _, b := range h.Buckets {
		sum += b.Count
	}
	if h.Count != 8010 || sum != 8010 || h.Width != 86400 || len(h.Buckets) == 0 || h.Buckets[0].Start.Unix()%86400 != 0 {
		t.Errorf("%+v", h)
	}
	var stats immutable.Stats
	if sv.get(mainLog+"/stats").want(t, 200, &stats); stats.TotalEntries != l.Size() || stats.Levels["WARN"] != 1000 {
		t.Errorf("%+v", stats)
	}
	for path, code := range map[string]string{
		"/counts": "bad-parameter", "/counts?by=": "bad-parameter", "/counts?by=a%20b": "bad-query", "/counts?by=level&limit=0": "bad-parameter", "/counts?by=level&limit=100001": "bad-parameter",
		"/histogram": "bad-parameter", "/histogram?width=1": "bad-parameter", "/histogram?width=1us": "bad-parameter", "/histogram?width=-1h": "bad-parameter", "/count?q=(": "bad-query", "/count?limit=1": "bad-parameter",
	} {
		sv.get(mainLog+path).problem(t, code)
	}
}

// A count is of the levels that the token may read, and says nothing of others.
func TestCountsKeepToTheLevelsOfTheToken(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 30, 30, immutable.Info)
	sv.append(l, 30, 12, 12, immutable.Warn)
	token := sv.token("default", tenant.TokenSpec{Role: tenant.Reader, Levels: []immutable.Level{immutable.Warn}})
	for path, want := range map[string]string{
		"/count": `{"count":12,`, "/count?level=INFO": `{"count":0,`, "/count?q=level:info": `{"count":0,`, "/count?q=NOT%20level:warn": `{"count":0,`,
		"/counts?by=level": `"count":12,`, "/histogram?width=1h": `"count":12,`,
	} {
		if a := sv.do("GET", mainLog+path, token, nil).want(t, 200, nil); !strings.Contains(string(a.body), want) || strings.Contains(string(a.body), "INFO") {
			t.Errorf("%s: %s, want %s", path, a.body, want)
		}
	}
}

func TestVerificationIsAskedForAndReported(t *testing.T) {
	sv := serve(t, withMonitor)
	l := sv.log("default", "main")
	sv.append(l, 0, 300, 300, immutable.Info)
	auditor := sv.token("default", tenant.TokenSpec{Role: tenant.Auditor})
	var job struct {
		ID, Phase, Verdict, By string
		Report                 map[string]any
	}
	keys := `"` + strings.Join(l.VerifierKeys(), `","`) + `"`
	a := sv.do("POST", mainLog+"/verifications", auditor, strings.NewReader(`{"indexes":true,"keys":[`+keys+`]}`), "Content-Type", "application/json").want(t, 202, &job)
	at := a.header.Get("Location")
	if at != mainLog+"/verifications/"+job.ID || !strings.HasPrefix(job.By, "token:") {
		t.Errorf("%s, %+v", at, job)
	}
	deadline(t, func() bool {
		sv.get(at).want(t, 200, &job)
		return !slices.Contains([]string{"queued", "running"}, job.Phase)
	}, "the verification")
	if job.Phase != "done" || job.Verdict != "proven" || job.Report["size"] == nil {
		t.Errorf("%+v", job)
	}
	var list struct{ Verifications []struct{ ID string } }
	if sv.get(mainLog+"/verifications").want(t, 200, &list); len(list.Verifications) == 0 || list.Verifications[0].ID != job.ID {
		t.Errorf("%+v", list)
	}
	if n := len(sv.records("default", tenant.VerifyFinished)); n == 0 {
		t.Error("it is not on record")
	}
	// What has ended stays as it is, and ending it does not give out its report, which is a read.
	a = sv.do("DELETE", at, auditor, nil).want(t, 200, &job)
	if job.Phase != "done" || strings.Contains(string(a.body), `"report"`) {
		t.Errorf("cancelled when it was over: %s", a.body)
	}
	sv.do("DELETE", mainLog+"/verifications/0", auditor, nil).problem(t, "not-found")
	// One of another log is not there.
	sv.get("/api/v1/tenants/default/logs/system/verifications/"+job.ID).problem(t, "not-found")
	sv.get(mainLog+"/verifications/0").problem(t, "not-found")
	for _, body := range []string{`{"keys":["x"]}`, `{"checkpoints":["x"]}`, `{"policy":"x"}`, `{"require":"x"}`, `{"keys":[` + strings.Repeat(`"x",`, 16) + `"x"]}`} {
		sv.post(mainLog+"/verifications", body).problem(t, "bad-parameter")
	}
	sv.post(mainLog+"/verifications", `{"workers":64}`).problem(t, "bad-json")
}
