package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
	"github.com/tree-of-life-system/immutable/proof"
)

// trustLog is a log of two epochs with a cosigned checkpoint and a time stamp over all its entries, and files of what a
// verifier may know beside it.
func trustLog(t *testing.T) (env map[string]string, dir string) {
	t.Helper()
	env = logEnv(t)
	logs := env["IMMUTABLE_LOG_DIR"]
	l, err := immutable.Open(logs, &immutable.Config{StateDir: env["IMMUTABLE_STATE_DIR"], Origin: "example.com/audit"})
	check(t, err)
	for i := range 5 {
		_, err := l.Audit(context.Background(), fmt.Sprint("entry ", i), nil)
		check(t, err)
	}
	first := l.CurrentKeys()
	check(t, l.RotateKeys(context.Background()))
	_, err = l.Audit(context.Background(), "the last one", nil)
	check(t, err)
	check(t, l.Close())
	note, err := os.ReadFile(filepath.Join(logs, "checkpoint"))
	check(t, err)
	text, _, _ := strings.Cut(string(note), "\n\n")
	text += "\n"
	at, err := proof.ParseCheckpoint(text)
	check(t, err)

	dir = t.TempDir()
	write := func(name string, data []byte) {
		check(t, os.MkdirAll(filepath.Dir(name), 0o700))
		check(t, os.WriteFile(name, data, 0o600))
	}
	var policy strings.Builder
	for _, name := range []string{"east", "west"} {
		k, err := proof.NewKey(proof.TypeCosignature, "example.com/"+name, sha256.Sum256([]byte(name)))
		check(t, err)
		policy.WriteString("witness " + name + " " + k.Key().String() + "\n")
		if name == "east" {
			line, err := k.SignatureLine(text, uint64(time.Now().Unix()))
			check(t, err)
			note = append(note, line...)
		}
	}
	write(filepath.Join(logs, "cosigned"), note)
	a := tsatest.New(t, nil)
	write(filepath.Join(logs, "evidence", fmt.Sprintf("%020d-0.tsr", at.Size)), a.Stamp(sha256.Sum256([]byte(text)), nil))
	write(filepath.Join(dir, "one"), []byte(policy.String()+"quorum east\n"))
	write(filepath.Join(dir, "both"), []byte(policy.String()+"group all all east west\nquorum all\n"))
	write(filepath.Join(dir, "roots.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw}))
	write(filepath.Join(dir, "keys"), []byte(strings.Join(first, "\n")+"\n"))
	write(filepath.Join(dir, "logkey"), []byte(l.VerifierKeys()[0]+"\n"))
	epochs, err := os.ReadFile(filepath.Join(logs, "epochs"))
	check(t, err)
	write(filepath.Join(dir, "epochs"), epochs)
	write(filepath.Join(dir, "other"), append(epochs[:len(epochs)-2:len(epochs)-2], " }\n"...))
	return env, dir
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestVerifyTrustsWhomItIsTold(t *testing.T) {
	env, dir := trustLog(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	// A log key that is a key of epoch 0 too, as in logs with one key, proves what that key proves.
	logKey, both := []string{"CONSISTENT", "log key, which alone proves nothing"}, 0
	if first, err := os.ReadFile(file("keys")); err != nil || bytes.Count(first, []byte("\n")) == 1 {
		logKey, both = []string{"PROVEN", "stands on: key"}, 1
	}
	for _, tt := range []struct {
		args string
		code int
		out  []string // of standard output
	}{
		{"", 0, []string{"CONSISTENT", "keys of epoch 1", "cannot show: that it was not cut back to an earlier signed state or epoch"}},
		{"--key " + file("keys"), 0, []string{"PROVEN", "stands on: key", "cannot show: that it was not cut back to an earlier epoch"}},
		{"--key " + file("keys") + " --require-covered", 0, []string{"PROVEN"}},
		{"--key " + file("logkey"), 0, logKey},
		{"--require-covered", 1, []string{"CONSISTENT"}},
		{"--epochs " + file("epochs"), 0, []string{"PROVEN", "stands on: epochs", "nothing from outside covers them"}},
		{"--require-covered --epochs " + file("epochs"), 1, []string{"PROVEN"}},
		{"--epochs " + file("other"), 2, []string{"UNKNOWN", "not a chain of keys"}},
		{"--policy " + file("one"), 0, []string{"PROVEN", "stands on: witnesses: east", "witnesses: east of 7 entries", "the policy is satisfied"}},
		{"--require-covered --policy " + file("one"), 0, []string{"PROVEN"}},
		{"--policy " + file("both"), 0, []string{"CONSISTENT", "the policy is not satisfied"}},
		{"--policy " + file("keys"), 2, nil},
		{"--tsa-roots " + file("keys"), 2, nil},
		{"--tsa-roots " + file("roots.pem") + " --entry 3", 0, []string{"entry 3: timestamp 20", "not after 20", "evidence/0000"}},
		{"--entry 3", 0, []string{"entry 3: timestamp", "not after anything that a trusted party said"}},
		{"--entry 7", 2, []string{"CONSISTENT"}},
		{"--entry x", 2, nil},
		{"--require both", both, nil},
		{"--require ed25519", 0, []string{"CONSISTENT"}},
		{"--require some", 2, nil},
		{"--epochs " + file("missing"), 2, nil},
	} {
		r := run(t, env, nil, append([]string{"verify", "--no-head"}, strings.Fields(tt.args)...)...)
		if r.code != tt.code {
			t.Errorf("%s: exit code %d, want %d\n%s%s", tt.args, r.code, tt.code, r.out, r.errOut)
		}
		for _, want := range tt.out {
			if !strings.Contains(string(r.out), want) {
				t.Errorf("%s: no %q in\n%s", tt.args, want, r.out)
			}
		}
	}
	r := mustRun(t, env, nil, "verify", "--json", "--policy", file("one"), "--entry", "0")
	for _, want := range []string{`"epochs":[{"number":0,`, `"witnessed":{"size":7,`, `"brackets":[{"index":0,`, `"completeness":"no producers"`, `"clockOutside":0`} {
		if !strings.Contains(string(r.out), want) {
			t.Errorf("no %s in %s", want, r.out)
		}
	}
}

// A stolen log key, and nothing else, signs what is refused.
func TestVerifyNamesAStrippedSignature(t *testing.T) {
	env, _ := trustLog(t)
	for _, name := range []string{"checkpoint", "cosigned"} {
		file := filepath.Join(env["IMMUTABLE_LOG_DIR"], name)
		note, err := os.ReadFile(file)
		check(t, err)
		lines := strings.SplitAfter(string(note), "\n")
		check(t, os.Remove(file))
		check(t, os.WriteFile(file, []byte(strings.Join(lines[:6], "")), 0o600))
		r := run(t, env, nil, "verify")
		if r.code != exitNo || !strings.Contains(string(r.out), name+": is not a checkpoint of this log: no signature by epoch 1's ML-DSA-44 key") {
			t.Errorf("%s: exit code %d\n%s", name, r.code, r.out)
		}
		check(t, os.WriteFile(file, note, 0o600))
	}
}

// What a report says of sources and clocks is printed for people.
func TestReportOfSourcesAndClocks(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	rep := &immutable.Report{
		Verdict: immutable.Consistent, Origin: "o", Completeness: immutable.Incomplete, ProducerSigned: 7, ProducerBad: 1, Unsigned: 3, ClockOutside: 2,
		Producers: []immutable.ProducerReport{
			{Name: "gate", ID: "0123456789abcdef", Signed: 7, Highest: 12, Lacking: 5, Missing: []immutable.CounterRange{{From: 3, To: 3}, {From: 5, To: 8}}, FirstBad: -1},
			{ID: "fedcba9876543210", Bad: 1, FirstBad: 41, Why: "its key is not registered"},
		},
		Clock: []immutable.ClockReport{{From: 8, To: 9, Timestamp: at.Add(time.Hour), Late: true, Mark: immutable.TimeMark{Time: at, Name: "east", File: "cosigned"}}},
	}
	out, err := os.CreateTemp(t.TempDir(), "out")
	check(t, err)
	defer out.Close()
	a := &app{ctx: context.Background(), stdout: out, stderr: out, getenv: func(string) string { return "" }}
	c := newCall(a, &command{name: "verify"})
	check(t, c.report(rep))
	check(t, c.out.flush())
	data, err := os.ReadFile(out.Name())
	check(t, err)
	for _, want := range []string{
		"INCOMPLETE  sources: 7 entries signed, 1 with a signature that does not count, 3 unsigned\n",
		"gate (0123456789abcdef): 7 entries signed, the highest counter is 12\n", "5 counters missing: 3, 5 to 8\n",
		"a key that was never registered, entry 41: 1 entry with a signature that does not count; of the first, its key is not registered\n",
		"clock: entries 8 to 9 have timestamps from 2026-11-23T13:00:00Z on, after 2026-11-23T12:00:00Z, when east saw the log (cosigned)\n",
		"clock: 2 timestamps outside what trusted parties say\n",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in\n%s", want, data)
		}
	}
}
