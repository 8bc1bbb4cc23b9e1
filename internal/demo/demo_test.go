package demo

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

var end = time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)

func TestWeekIsTheSameForTheSameSeed(t *testing.T) {
	begin := end.Add(-Days * 24 * time.Hour)
	a, b := Week(begin, 7), Week(begin, 7)
	if !reflect.DeepEqual(a, b) {
		t.Error("two weeks of one seed differ")
	}
	if c := Week(begin, 8); reflect.DeepEqual(a, c) {
		t.Error("another seed gives the same week")
	}
}

// TestWeekHasSomethingToShow holds that the parts of the service have something to show, and that nothing passes for real.
func TestWeekHasSomethingToShow(t *testing.T) {
	begin := end.Add(-Days * 24 * time.Hour)
	levels, kinds, hours := map[immutable.Level]int{}, map[event.Kind]int{}, map[int64]int{}
	guesses, last := 0, begin
	for _, e := range Week(begin, 1) {
		levels[e.Level]++
		hours[e.At.Unix()/3600]++
		if e.At.Before(last) || !e.At.Before(end) || !e.EventTime.Equal(e.At) {
			t.Fatalf("%s: at %v after %v, event time %v", e.Message, e.At, last, e.EventTime)
		}
		last = e.At
		if e.Metadata["demo"] != true {
			t.Fatalf("%s at %v does not say that it is made up", e.Message, e.At)
		}
		s, err := event.Of(e.Metadata)
		if err != nil {
			t.Fatalf("%s: %v", e.Message, err)
		}
		kinds[s.Kind]++
		if s.Source != nil && s.Source.IP == "203.0.113.42" && s.Outcome == event.OutcomeFailure {
			guesses++
		}
		if (e.Log == Billing) != (s.Kind == event.KindRevenue) {
			t.Errorf("%s of kind %s is in %s", e.Message, s.Kind, e.Log)
		}
	}
	if len(levels) != immutable.NumLevels || guesses != 180 {
		t.Errorf("levels %v, %d guesses", levels, guesses)
	}
	for _, k := range []event.Kind{event.KindAuthentication, event.KindAccount, event.KindWeb, event.KindAPI, event.KindDatabase, event.KindFile, event.KindConfiguration, event.KindDeployment, event.KindContent, event.KindRevenue, event.KindSecurity, event.KindSystem, event.KindProcess} {
		if kinds[k] == 0 {
			t.Errorf("nothing of kind %s", k)
		}
	}
	if len(hours) < Days*24-1 {
		t.Errorf("%d hours of %d have events", len(hours), Days*24)
	}
}

func TestFillMakesLogsThatSayWhatTheyAre(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	if filled, err := Check(dir); filled || err != nil {
		t.Fatal(filled, err)
	}
	var last, total uint64
	n, err := Fill(t.Context(), Options{Dir: dir, End: end, Seed: 1, Progress: func(done, of uint64) { last, total = done, of }})
	if err != nil || last != uint64(n) || total != last {
		t.Fatalf("%d events, progress %d of %d: %v", n, last, total, err)
	}
	if filled, err := Check(dir); !filled || err != nil {
		t.Fatal(filled, err)
	}
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close(t.Context())
	tn, err := in.Tenant(tenant.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, name := range []string{tenant.MainName, Billing, tenant.SystemName} {
		l, err := tn.Log(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(l.Origin(), immutable.DemoPrefix) {
			t.Errorf("the log %s has origin %s", name, l.Origin())
		}
		rep, err := l.Verify(t.Context(), immutable.VerifyOptions{})
		if err != nil || rep.Verdict != immutable.Proven {
			t.Errorf("%s: %v %v", name, rep, err)
		}
		begin := end.Add(-Days * 24 * time.Hour)
		for e, err := range l.Entries(t.Context(), immutable.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			var m struct{ Demo bool }
			if err := json.Unmarshal(e.Metadata, &m); err != nil {
				t.Fatal(err)
			}
			if m.Demo {
				made++
				if d := e.Timestamp.Sub(e.EventTime); d < 0 || d > step+time.Second || e.Timestamp.Before(begin) {
					t.Fatalf("entry %d: %v, event %v", e.Index, e.Timestamp, e.EventTime)
				}
			}
		}
	}
	if made != n {
		t.Errorf("%d of %d events are in the logs", made, n)
	}
}

func TestCheckRefusesWhatIsNotTheDemonstration(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "installation.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(dir); err == nil {
		t.Error("a directory with something else was taken")
	}
}
