package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
)

// TestTrustScripts runs the scripts that need somebody outside: a time-stamping authority at $AUTHORITY.
func TestTrustScripts(t *testing.T) {
	if underRaceDetector() {
		t.Skip("each line is a process of its own, and starts ten times slower: run without the race detector")
	}
	authority := tsatest.New(t, nil)
	mux := http.NewServeMux()
	mux.Handle("/tsr", authority)
	server := httptest.NewServer(mux)
	defer server.Close()
	// The scripts run in parallel, within this group: the server outlives them.
	t.Run("scripts", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/scripttrust",
			Setup: func(e *testscript.Env) error {
				e.Setenv("IMMUTABLE_STATE_DIR", filepath.Join(e.WorkDir, "state"))
				e.Setenv("TMPDIR", e.WorkDir)
				e.Setenv("AUTHORITY", server.URL+"/tsr")
				return nil
			},
			Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"code": exitsWith, "tamper": tamper},
		})
	})
}
