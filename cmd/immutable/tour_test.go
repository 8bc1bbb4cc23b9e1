package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTourRuns runs the commands of docs/tour.md, in order, in one shell.
func TestTourRuns(t *testing.T) {
	needsSignals(t)
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	page, err := os.ReadFile("../../docs/tour.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(page), "```sh\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) < 7 || strings.TrimSpace(blocks[0]) != "immutable serve --demo" {
		t.Fatalf("%d blocks, the first %q", len(blocks), blocks[0])
	}
	dir := t.TempDir()
	s := startService(t, filepath.Join(dir, "immutable-demo"), nil, "--demo")
	script := strings.Join(blocks[1:], "echo '== next'\n")
	for from, to := range map[string]string{"http://127.0.0.1:8080": s.url, "TOKEN=TOKEN": "TOKEN=" + testToken} {
		if !strings.Contains(script, from) {
			t.Fatalf("the tour does not say %s", from)
		}
		script = strings.ReplaceAll(script, from, to)
	}
	cmd := exec.Command(bash, "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	answers := strings.Split(string(out), "== next\n")
	for i, want := range [][]string{
		{"demo-", "entries"}, {}, {"180\n", "account locked", "python-requests"}, {"role given", "ivan"}, {"wrote evidence.html", "PROVEN"}, {"REFUTED", "entry", "refuted, as it should be"}, {"✓"},
	} {
		for _, text := range want {
			if !strings.Contains(answers[i], text) {
				t.Errorf("block %d does not print %q:\n%s", i+2, text, answers[i])
			}
		}
	}
	s.stop()
}
