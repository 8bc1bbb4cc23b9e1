package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// installation is a real one, with an administrator.
func installation(t *testing.T, appended func(*tenant.Log, time.Duration)) *tenant.Installation {
	t.Helper()
	in, err := tenant.Open(t.Context(), tenant.Options{Dir: filepath.Join(t.TempDir(), "data"), Appended: appended})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return in
}

// scrape parses what a scraper gets.
func scrape(t *testing.T, h http.Handler) map[string]*dto.MetricFamily {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value finds the one sample with these labels, as name=value.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	f := families["immutable_"+name]
	if f == nil {
		t.Fatalf("no metric %s", name)
	}
	for _, m := range f.GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		all := true
		for _, l := range labels {
			all = all && have[l]
		}
		if !all {
			continue
		}
		switch f.GetType() {
		case dto.MetricType_COUNTER:
			return m.GetCounter().GetValue()
		case dto.MetricType_HISTOGRAM:
			return float64(m.GetHistogram().GetSampleCount())
		default:
			return m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no sample of %s with %v", name, labels)
	return 0
}

func TestScrapeSaysWhatHappened(t *testing.T) {
	now := time.Now()
	var m *Metrics
	in := installation(t, func(l *tenant.Log, took time.Duration) { m.Appended(l, took) })
	m = New(Options{
		Installation: in, Version: "v1", Now: func() time.Time { return now },
		Ready:       func() bool { return true },
		Connections: func() Connections { return Connections{Open: 5, Idle: 3, Evicted: 2, Refused: 1} },
		Expires:     func() time.Time { return time.Unix(2_000_000_000, 0) },
		Verification: func(l *tenant.Log) Verification {
			return Verification{Results: map[string]uint64{"proven": 4}, Refuted: l.Name() == "main", Last: time.Unix(1_900_000_000, 0), Scrubbed: time.Unix(1_800_000_000, 0), ScrubShare: .25, FileAlarms: 6}
		},
		Alerts: func(string) []AlertCount { return []AlertCount{{"critical", "disk.low", 2}} },
	})
	def, err := in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	log, err := def.Log("main")
	if err != nil {
		t.Fatal(err)
	}
	before := value(t, scrape(t, m), "log_entries_total", "tenant=default", "log=main", "level=AUDIT")
	for range 3 {
		if _, err := log.AppendAs(t.Context(), tenant.Local("test"), immutable.Event{Level: immutable.Audit, Message: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(2 * fresh)
	m.Observe("GET", "/api/v1/tenants/{tenant}", 200, time.Millisecond)
	got := scrape(t, m)
	main := []string{"tenant=default", "log=main"}
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"build_info", []string{"version=v1"}, 1},
		{"ready", nil, 1},
		{"http_connections", []string{"state=active"}, 2},
		{"http_connections", []string{"state=idle"}, 3},
		{"http_connections_closed_total", []string{"reason=idle"}, 2},
		{"http_connections_closed_total", []string{"reason=full"}, 1},
		{"http_requests_total", []string{"route=/api/v1/tenants/{tenant}", "method=GET", "status=200"}, 1},
		{"http_request_duration_seconds", []string{"route=/api/v1/tenants/{tenant}"}, 1},
		{"tls_certificate_expiry_timestamp_seconds", nil, 2_000_000_000},
		{"alerts_firing", []string{"tenant=default", "severity=critical", "kind=disk.low"}, 2},
		{"tenant_up", []string{"tenant=default"}, 1},
		{"tenant_entries_admitted_total", []string{"tenant=default"}, 3},
		{"log_up", main, 1},
		{"log_entries_total", append(main, "level=AUDIT"), before + 3},
		{"log_write_duration_seconds", main, 3},
		{"log_verifications_total", append(main, "result=proven"), 4},
		{"log_verifications_total", append(main, "result=refuted"), 0},
		{"log_refuted", main, 1},
		{"log_refuted", []string{"tenant=default", "log=system"}, 0},
		{"log_last_verification_timestamp_seconds", main, 1_900_000_000},
		{"log_scrubbed_timestamp_seconds", main, 1_800_000_000},
		{"log_scrub_progress_ratio", main, .25},
		{"log_file_alarms_total", main, 6},
		{"log_failing", append(main, "what=checkpoint"), 0},
		{"log_segments", main, 1},
		{"log_epoch", main, 0},
	} {
		if v := value(t, got, c.name, c.labels...); v != c.want {
			t.Errorf("%s%v: %v, want %v", c.name, c.labels, v, c.want)
		}
	}
	stats, err := log.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v := value(t, got, "log_size_bytes", main...); v < 1000 || v > 2*float64(stats.FileSize) {
		t.Errorf("size %v beside %d", v, stats.FileSize)
	}
	if free, size := value(t, got, "disk_free_bytes"), value(t, got, "disk_size_bytes"); free <= 0 || size < free {
		t.Errorf("%v of %v free", free, size)
	}
	if got["go_goroutines"] == nil || got["process_open_fds"] == nil {
		t.Error("nothing of the process")
	}
}

// TestStrangersMakeNoSeries asks for paths and methods that do not exist.
func TestStrangersMakeNoSeries(t *testing.T) {
	m := New(Options{Installation: installation(t, nil)})
	for i := range 1000 {
		m.Observe(fmt.Sprintf("X%d", i), "", 404, time.Millisecond)
	}
	if n := len(scrape(t, m)["immutable_http_requests_total"].GetMetric()); n != 1 {
		t.Errorf("%d series", n)
	}
}

// TestClosedLogIsDown and its numbers are left out, not zero.
func TestClosedLogIsDown(t *testing.T) {
	in := installation(t, nil)
	now := time.Now()
	m := New(Options{Installation: in, Now: func() time.Time { return now }})
	if v := value(t, scrape(t, m), "log_up", "tenant=default", "log=main"); v != 1 {
		t.Fatalf("up is %v", v)
	}
	def, err := in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	log, err := def.Log("main")
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * fresh)
	if v := value(t, scrape(t, m), "log_up", "tenant=default", "log=main"); v != 0 {
		t.Errorf("up is %v", v)
	}
}

// TestCheckpointAgeCountsWhileNothingMoves feeds the collector what it would see of a log.
func TestCheckpointAgeCountsWhileNothingMoves(t *testing.T) {
	start := time.Unix(1000, 0)
	var before *look
	for i, c := range []struct {
		total, covered uint64
		want           time.Duration
	}{
		{5, 5, 0}, {9, 5, 0}, {9, 5, 10 * time.Second}, {12, 5, 20 * time.Second}, {14, 12, 0}, {14, 12, 10 * time.Second}, {14, 14, 0},
	} {
		seen := newLook(before, start.Add(time.Duration(i)*10*time.Second), &immutable.Stats{TotalEntries: c.total, CheckpointSize: c.covered})
		if got := seen.age(); got != c.want {
			t.Errorf("look %d: %s, want %s", i, got, c.want)
		}
		before = seen
	}
}

func TestEveryNameFollowsTheConventions(t *testing.T) {
	m := New(Options{Installation: installation(t, nil), Verification: func(*tenant.Log) Verification { return Verification{} }})
	got := scrape(t, m)
	for name, f := range got {
		if !strings.HasPrefix(name, "immutable_") {
			continue
		}
		if counter := f.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s", name, f.GetType())
		}
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
	for _, name := range []string{"immutable_log_entries_total", "immutable_log_verifications_total", "immutable_log_size_bytes"} {
		if got[name] == nil {
			t.Errorf("no %s, which the conventions name", name)
		}
	}
}
