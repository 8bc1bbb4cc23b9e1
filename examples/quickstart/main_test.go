package main

import (
	"log"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

func TestQuickstartRunsTwiceOnOneLog(t *testing.T) {
	dir := t.TempDir()
	for n := range 2 {
		var out strings.Builder
		config := &immutable.Config{StateDir: filepath.Join(dir, "state")}
		if err := run(t.Context(), log.New(&out, "", 0), filepath.Join(dir, "logs"), config); err != nil {
			t.Fatal(err)
		}
		// The second run's order is a repeat of the first run's.
		want := []string{"proven: 3 entries", "proven: 5 entries"}[n]
		for _, want := range []string{want, `0 AUDIT GitHub commit created {"repo":"tree-of-life-system","sha":"abc123"}`, `1 SECURITY login {"user":"ann"}`} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("run %d does not print %q:\n%s", n, want, out.String())
			}
		}
	}
}
