package server

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/review"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// TestADayIsReviewedAndSigned looks at a day of entries after it is over, and signs it once.
func TestADayIsReviewedAndSigned(t *testing.T) {
	var ahead time.Duration
	sv := serve(t, func(o *Options) {
		withAll(o)
		o.Now = func() time.Time { return time.Now().Add(ahead) }
	})
	sv.fillWith(30, func(i int) map[string]any {
		m := map[string]any{"message": fmt.Sprint(i)}
		if i%10 == 0 {
			m["level"] = "CRITICAL"
		}
		return m
	})
	const path = "/api/v1/tenants/default/review"
	day := time.Now().UTC().Format(time.DateOnly)
	var v dayReview
	sv.get(path+"?day="+day).want(t, 200, &v)
	if v.Over || len(v.Logs[0].Sample) != 0 || len(v.Missed) != 0 {
		t.Errorf("a day that is not over: %+v", v)
	}
	signed := func(note string, again bool) got {
		return sv.post(path, fmt.Sprintf(`{"day":%q,"reviewer":"Ann Example","note":%q,"again":%v}`, day, note, again))
	}
	signed("too early", false).problem(t, "conflict")

	l := sv.log("default", "main")
	if err := l.RotateKeys(t.Context()); err != nil { // its closing checkpoint is kept
		t.Fatal(err)
	}
	ahead = 24 * time.Hour
	sv.get(path).want(t, 200, &v) // yesterday
	if !v.Over || v.Day != day || !slices.Equal(v.Missed, []string{day}) || len(v.Reviews) != 0 {
		t.Errorf("%+v", v)
	}
	i := slices.IndexFunc(v.Logs, func(l dayLog) bool { return l.Log == "main" })
	main := v.Logs[i]
	if main.Size == nil || *main.Size < main.End || !slices.Equal(main.Sample, review.Sample(l.Origin(), day, main.Root, main.First, main.End)) || len(main.Sample) != review.SampleSize {
		t.Errorf("%+v", main)
	}
	count := func(log, id string) uint64 {
		for _, f := range v.Findings {
			if f.Log == log && f.ID == id {
				return f.Count
			}
		}
		t.Errorf("there is no finding %s of %s", id, log)
		return 0
	}
	if count("main", "critical") != 3 || count("main", "errors") != 0 || count("system", "restarts") == 0 {
		t.Errorf("%+v", v.Findings)
	}

	sv.post(path, `{"day":"`+day+`","reviewer":" ","note":"x"}`).problem(t, "bad-parameter")
	sv.post(path, `{"day":"2026-02-30","reviewer":"Ann","note":"x"}`).problem(t, "bad-parameter")
	signed("three criticals, all of the drill", false).want(t, http.StatusCreated, &v)
	if len(v.Reviews) != 1 || v.Reviews[0].Reviewer != "Ann Example" || v.Reviews[0].By.ID != "token:bootstrap" || len(v.Missed) != 0 {
		t.Errorf("%+v", v)
	}
	signed("once more", false).problem(t, "exists")
	if signed("looked again", true).want(t, http.StatusCreated, &v); len(v.Reviews) != 2 {
		t.Errorf("%+v", v.Reviews)
	}
	list := sv.records("default", tenant.ReviewSigned)
	if len(list) != 2 || list[0]["note"] != "three criticals, all of the drill" || fmt.Sprint(list[0]["logs"]) == "[]" {
		t.Errorf("on record: %v", list)
	}
	reader := sv.token("default", tenant.TokenSpec{Name: "reader", Role: tenant.Reader})
	sv.do("GET", path, reader, nil).problem(t, "forbidden")
}
