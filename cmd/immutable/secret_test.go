package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoCommandShowsAPrivateKey gives private keys where public ones belong, as text and as a file.
func TestNoCommandShowsAPrivateKey(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, nil, "log", "info", "an entry")
	files, err := filepath.Glob(filepath.Join(env["IMMUTABLE_STATE_DIR"], "*", "keys", "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("key files %q, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			secret := strings.TrimSpace(line)
			part := secret[len(secret)-30:]
			for _, args := range [][]string{
				{"verify", "--key", secret},
				{"verify", "--key", file},
				{"producer", "register", secret},
				{"witness", "serve", "--name", "w.example", "--listen", "127.0.0.1:0", "--log", secret},
				{"verify", "--checkpoint", secret},
				{secret},
			} {
				r := run(t, env, nil, args...)
				if r.code == exitOK || strings.Contains(string(r.out)+string(r.errOut), part) {
					t.Errorf("%q: exit %d, and shows the key: %s%s", args[:len(args)-1], r.code, r.out, r.errOut)
				}
			}
		}
	}
}
