package browsertest

import (
	"encoding/json"
	"os"
	"strings"
)

// Axe runs axe-core over the page as it stands and reports each rule that it breaks. The script is the file that IMMUTABLE_AXE names,
// which ./test fetches: its licence (MPL-2.0) keeps it out of this repository. It says false where there is none.
func (t *Tab) Axe(what string) bool {
	t.b.t.Helper()
	name := os.Getenv("IMMUTABLE_AXE")
	if name == "" {
		return false
	}
	script, err := os.ReadFile(name)
	if err != nil {
		t.b.t.Fatal(err)
	}
	t.Eval(string(script) + "; void 0")
	found := t.Eval(`axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }).then((r) => JSON.stringify(
		r.violations.map((v) => ({ id: v.id, help: v.help, at: v.nodes.slice(0, 3).map((n) => n.target.join(" ") + ": " + n.failureSummary) }))))`)
	var violations []struct {
		ID, Help string
		At       []string
	}
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		t.b.t.Fatalf("%s: %v: %.200s", what, err, found)
	}
	for _, v := range violations {
		t.b.t.Errorf("%s: %s: %s\n%s", what, v.ID, v.Help, strings.Join(v.At, "\n"))
	}
	return true
}
