package metrics

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var descName = regexp.MustCompile(`fqName: "([^"]+)"`)

// ours lists the names of every metric of ours, scraped or not.
func ours(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	o := Options{Installation: installation(t, nil)}
	m := New(o)
	for _, c := range []prometheus.Collector{newService(o), newLogs(o), newSinks(o), m.requests, m.duration, m.underway, m.writes} {
		ch := make(chan *prometheus.Desc)
		go func() { c.Describe(ch); close(ch) }()
		for d := range ch {
			names[descName.FindStringSubmatch(d.String())[1]] = true
		}
	}
	for name := range scrape(t, m) { // those of the process and the runtime, which this system has
		names[name] = true
	}
	return names
}

var (
	metricName = regexp.MustCompile(`\b(?:immutable|process|go)_[a-z0-9_]+`)
	histogram  = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// unknown lists the metrics in an expression that nobody exports.
func unknown(names map[string]bool, expr string) (bad []string) {
	for _, name := range metricName.FindAllString(expr, -1) {
		if !names[name] && !names[histogram.ReplaceAllString(name, "")] {
			bad = append(bad, name)
		}
	}
	return bad
}

// expressions finds every expr and query in a dashboard.
func expressions(v any) (found []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if text, ok := value.(string); ok && (key == "expr" || key == "query" || key == "definition") {
				found = append(found, text)
			}
			found = append(found, expressions(value)...)
		}
	case []any:
		for _, value := range v {
			found = append(found, expressions(value)...)
		}
	}
	return found
}

func TestDashboardAsksForMetricsThatExist(t *testing.T) {
	names := ours(t)
	data, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "immutable.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID        string
		Panels     []struct{ ID int }
		Templating struct{ List []struct{ Name string } }
	}
	var tree any
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range d.Panels {
		if seen[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		seen[p.ID] = true
	}
	variables := []string{"datasource", "__rate_interval"}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	all := expressions(tree)
	if len(all) < 30 {
		t.Fatalf("only %d expressions", len(all))
	}
	variable := regexp.MustCompile(`\$\{?([a-z_]+)`)
	for _, e := range all {
		for _, bad := range unknown(names, e) {
			t.Errorf("%s: nobody exports %s", e, bad)
		}
		for _, v := range variable.FindAllStringSubmatch(e, -1) {
			if !slices.Contains(variables, v[1]) {
				t.Errorf("%s: no variable %s", e, v[1])
			}
		}
	}
	if len(unknown(names, "immutable_no_such_thing")) != 1 {
		t.Error("any name would do")
	}
}

func TestRulesAskForMetricsThatExist(t *testing.T) {
	names := ours(t)
	data, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		if _, e, found := strings.Cut(line, " expr: "); found {
			n++
			for _, bad := range unknown(names, e) {
				t.Errorf("%s: nobody exports %s", e, bad)
			}
		}
	}
	if n < 15 || n != strings.Count(string(data), "- alert:") {
		t.Errorf("%d expressions", n)
	}
}

func TestDocumentationNamesEveryMetric(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := ours(t)
	for name := range names {
		if strings.HasPrefix(name, "immutable_") && !strings.Contains(string(doc), "`"+name) {
			t.Errorf("docs/operations.md does not name %s", name)
		}
	}
	for _, name := range unknown(names, string(doc)) {
		if strings.HasPrefix(name, "immutable_") {
			t.Errorf("docs/operations.md names %s, which nobody exports", name)
		}
	}
}

// TestPromtoolAcceptsTheRules runs Prometheus' own checker over the rules, has it fire each of the more important ones, and
// over what a scrape gives.
func TestPromtoolAcceptsTheRules(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool here: Debian has it in the package prometheus")
	}
	dir := filepath.Join("..", "..", "deploy", "prometheus")
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"}} {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	w := httptest.NewRecorder()
	New(Options{Installation: installation(t, nil)}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
	cmd.Stdin = w.Body
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
