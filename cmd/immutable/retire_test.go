package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRepairKnowsRetiredSegments damages each file of a log of which a segment is retired, and repairs it from a backup that was
// made before or after the retirement.
func TestRepairKnowsRetiredSegments(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		env, early, _ := repairLog(t)
		dir := env["IMMUTABLE_LOG_DIR"]
		mustRun(t, env, nil, "retire", "--oldest", "--delete")
		want := mustRun(t, env, nil, "export", "--quiet").out
		backup := early
		if when == "after" {
			backup = filepath.Join(t.TempDir(), "backup")
			if err := copyTree(backup, dir); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"retired/00000000000000000000.leaves", "archive/00000000000000000256.jsonl.zst", "tree/1", "chain"} {
			if when == "before" && strings.HasPrefix(name, "retired") {
				continue // nobody has it
			}
			file := filepath.Join(dir, filepath.FromSlash(name))
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			damaged := bytes.Clone(data)
			damaged[len(damaged)/2] ^= 1
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := verdictOf(t, env); got != "refuted" {
				t.Fatalf("%s: %s", name, got)
			}
			mustRun(t, env, nil, "repair", "--from", backup)
			if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s from a backup %s: %v", name, when, err)
			}
			if got := verdictOf(t, env); got != "proven" {
				t.Errorf("%s from a backup %s: %s", name, when, got)
			}
			if got := mustRun(t, env, nil, "export", "--quiet").out; !bytes.Equal(got, want) {
				t.Errorf("%s from a backup %s: other entries", name, when)
			}
		}
	}
}

func TestAgeIsReadOrRefused(t *testing.T) {
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "0s": 0, "24h": 24 * time.Hour, "30d": 720 * time.Hour, "8w": 56 * 24 * time.Hour, "10y": 3650 * 24 * time.Hour} {
		if got, err := age(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "100001d", "15000w", "-5m", "5", "ten days", "9223372036854775807y"} {
		if got, err := age(text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}
