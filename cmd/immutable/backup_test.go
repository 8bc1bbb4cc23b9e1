package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// A server's disk is lost, its state is not or is lost too. What was in the backup can be read and verified, and the service goes on without a fork.
func TestRestoredServerGoesOn(t *testing.T) {
	ctx := context.Background()
	for _, keep := range []bool{true, false} {
		data, out := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "out")
		serve := func(message string) {
			t.Helper()
			in, err := tenant.Open(ctx, tenant.Options{Dir: data, OriginPrefix: "example.com"})
			check(t, err)
			tn, err := in.Tenant("default")
			check(t, err)
			l, err := tn.Log("main")
			check(t, err)
			_, err = l.Audit(ctx, message, nil)
			check(t, err)
			check(t, in.Close(ctx))
		}
		serve("in the backup")
		lose := func() {
			t.Helper()
			r := run(t, nil, nil, "backup", "--data-dir", data, out, "--quiet")
			if r.code != 0 {
				t.Fatalf("backup: %s%s", r.out, r.errOut)
			}
			serve("after the backup")
			check(t, os.Rename(data, data+".lost"))
			check(t, os.MkdirAll(data, 0o700))
			if keep {
				check(t, os.Rename(filepath.Join(data+".lost", "state"), filepath.Join(data, "state")))
			}
			check(t, os.RemoveAll(data+".lost"))
		}
		lose()
		// Without --continue nothing goes on.
		r := run(t, nil, nil, "restore", out, "--data-dir", data, "--json")
		if want := map[bool]int{true: exitNo, false: exitOK}[keep]; r.code != want || strings.Contains(string(r.out), `"adopted":true`) {
			t.Errorf("state kept %t: exit code %d: %s%s", keep, r.code, r.out, r.errOut)
		}
		for generation := range 2 {
			for _, name := range []string{"tenants", "earlier", "installation.json", "config.json", "tokens.json"} {
				check(t, os.RemoveAll(filepath.Join(data, name)))
			}
			if r := run(t, nil, nil, "restore", out, "--data-dir", data, "--continue"); r.code != exitOK {
				t.Fatalf("state kept %t: %s%s", keep, r.out, r.errOut)
			}
			serve("after the loss")
			l, err := immutable.Open(filepath.Join(data, "tenants", "default", "logs", "main"), &immutable.Config{ReadOnly: true, StateDir: filepath.Join(data, "state", "default")})
			check(t, err)
			if want := []string{"example.com/default/main/2", "example.com/default/main/3"}[generation]; l.Origin() != want {
				t.Errorf("state kept %t: the log is %s, want %s", keep, l.Origin(), want)
			}
			check(t, l.Close())
			old, err := filepath.Glob(filepath.Join(data, "earlier", "tenants", "default", "logs", "main", "*"))
			check(t, err)
			if r := run(t, nil, nil, "read", "--dir", old[len(old)-1], "--state-dir", t.TempDir()); !strings.Contains(string(r.out), []string{"in the backup", "this log continues another"}[generation]) {
				t.Errorf("state kept %t: %s%s", keep, r.out, r.errOut)
			}
			lose()
		}
	}
}
