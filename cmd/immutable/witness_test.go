package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/proof"
)

// witnessProcess is `immutable witness serve` as a process of its own.
type witnessProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	state string
	name  string
	said  *bytes.Buffer
	url   string
	keys  []string
}

func startWitness(t *testing.T, state, name string, args ...string) *witnessProcess {
	t.Helper()
	w := &witnessProcess{t: t, state: state, name: name, said: new(bytes.Buffer)}
	w.start("localhost:0", args...)
	t.Cleanup(func() {
		if w.cmd.ProcessState == nil {
			w.kill()
		}
	})
	return w
}

func (w *witnessProcess) start(listen string, args ...string) {
	w.t.Helper()
	w.cmd = exec.Command("immutable", append([]string{"witness", "serve", "--json", "--name", w.name, "--listen", listen, "--state-dir", w.state}, args...)...)
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	w.cmd.Stderr = w.said
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var said struct {
		Listen string
		Keys   []string
	}
	if err := errors.Join(err, json.Unmarshal(line, &said)); err != nil {
		_ = w.cmd.Wait()
		w.t.Fatalf("%v: %s%s", err, line, w.said)
	}
	w.url, w.keys = "http://"+said.Listen, said.Keys
}

// kill is kill -9.
func (w *witnessProcess) kill() {
	if err := w.cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	_ = w.cmd.Wait() // it was killed
}

func (w *witnessProcess) get(path string) (int, string) {
	w.t.Helper()
	resp, err := http.Get(w.url + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestThreeWitnessesAndAForkAsProcesses runs everything as users do: a log, three witnesses with a quorum of two, kill -9 of a witness
// between requests, and a second copy of the log with the same key, which is refused with a proof that verify explains.
func TestThreeWitnessesAndAForkAsProcesses(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, nil, "init", "--origin", "example.com/witnessed")
	vkey := strings.Fields(string(mustRun(t, env, nil, "key", "show").out))[0]
	dir := t.TempDir()
	policy, names := "log "+vkey+"\n", ""
	var ws []*witnessProcess
	for i := range 3 {
		name := fmt.Sprintf("w%d.example.com", i)
		w := startWitness(t, filepath.Join(dir, name), name, "--log", vkey)
		ws = append(ws, w)
		out := mustRun(t, env, nil, "witness", "key", "--state-dir", w.state, "--url", w.url).out
		policy += string(out)
		names += " " + name
	}
	policy += "group q 2" + names + "\nquorum q\n"
	env["IMMUTABLE_POLICY"] = filepath.Join(dir, "policy")
	if err := os.WriteFile(env["IMMUTABLE_POLICY"], []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	cosigned := filepath.Join(env["IMMUTABLE_LOG_DIR"], "cosigned")
	for i := range 6 {
		mustRun(t, env, nil, "log", "info", fmt.Sprint("entry ", i))
		r := mustRun(t, env, nil, "witness", "check", cosigned, "--json")
		if !strings.Contains(string(r.out), fmt.Sprintf(`"size":%d,`, i+1)) || strings.Contains(string(r.out), `"time":null`) {
			t.Fatalf("after entry %d: %s", i, r.out)
		}
		w := ws[i%3]
		w.kill()
		w.start(strings.TrimPrefix(w.url, "http://"), "--log", vkey)
	}
	if r := mustRun(t, env, nil, "stats", "--json"); !strings.Contains(string(r.out), `"witnessing":{"satisfied":true`) {
		t.Errorf("stats: %s", r.out)
	}
	forkAndExplain(t, env, ws, vkey)
}

// forkAndExplain lets a copy of the log, adopted with its keys on another host, go on beside the original.
func forkAndExplain(t *testing.T, env map[string]string, ws []*witnessProcess, vkey string) {
	t.Helper()
	other := logEnv(t)
	other["IMMUTABLE_POLICY"] = ""
	if err := errors.Join(copyTree(other["IMMUTABLE_LOG_DIR"], env["IMMUTABLE_LOG_DIR"]), copyTree(other["IMMUTABLE_STATE_DIR"], env["IMMUTABLE_STATE_DIR"])); err != nil {
		t.Fatal(err)
	}
	mustRun(t, other, nil, "adopt")
	mustRun(t, env, nil, "log", "info", "what the original says")
	mustRun(t, other, nil, "append", "--quiet", "--format", "text")
	mustRun(t, other, []byte("what the copy says\nand more\nand more\n"), "append", "--quiet", "--format", "text")
	other["IMMUTABLE_POLICY"] = env["IMMUTABLE_POLICY"]
	r := run(t, other, nil, "log", "info", "one more")
	if r.code != exitNo || !strings.Contains(string(r.errOut), "the log was forked") {
		t.Fatalf("the copy goes on: %d %s%s", r.code, r.out, r.errOut)
	}
	var proofs []string
	err := filepath.WalkDir(other["IMMUTABLE_STATE_DIR"], func(path string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), "misbehaviour-") {
			proofs = append(proofs, path)
		}
		return err
	})
	if err != nil || len(proofs) != 1 {
		t.Fatalf("proofs %q, %v", proofs, err)
	}
	atWitness := 0
	for _, w := range ws {
		_, page := w.get("/")
		if _, link, found := strings.Cut(page, `href="misbehaviour/`); found {
			name, _, _ := strings.Cut(link, `"`)
			status, body := w.get("/misbehaviour/" + name)
			if status != http.StatusOK {
				t.Errorf("proof of the witness: %d %s", status, body)
			}
			file := filepath.Join(t.TempDir(), "proof")
			if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
			proofs = append(proofs, file)
			atWitness++
		}
	}
	if atWitness == 0 {
		t.Error("no witness has a proof")
	}
	for _, p := range proofs {
		r := run(t, logEnv(t), nil, "verify", p, "--key", vkey)
		if r.code != exitNo || !strings.Contains(string(r.out), "example.com/witnessed signed two histories") {
			t.Errorf("%d %s%s", r.code, r.out, r.errOut)
		}
	}
	checkExplanations(t, env, proofs[0], vkey)
}

func checkExplanations(t *testing.T, env map[string]string, file, vkey string) {
	t.Helper()
	// The log's directory has the key too; without any key there is no answer.
	if r := run(t, env, nil, "verify", file, "--json"); r.code != exitNo || !strings.Contains(string(r.out), `"verdict":"refuted","kind":"misbehaviour"`) {
		t.Errorf("%d %s%s", r.code, r.out, r.errOut)
	}
	if r := run(t, logEnv(t), nil, "verify", file); r.code != exitUnknown || !strings.Contains(string(r.errOut), "--key") {
		t.Errorf("without a key: %d %s%s", r.code, r.out, r.errOut)
	}
	stranger, err := proof.NewKey(proof.TypeEd25519, "example.com/witnessed", [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if r := run(t, env, nil, "verify", file, "--key", stranger.Key().String()); r.code != exitUnknown {
		t.Errorf("with another key: %d %s%s", r.code, r.out, r.errOut)
	}
	// A proof whose halves are equal proves nothing.
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := proof.ParseMisbehaviour(data)
	if err != nil {
		t.Fatal(err)
	}
	m.B, m.Proof = m.A, nil
	if data, err = m.MarshalText(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+"-same", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, env, nil, "verify", file+"-same", "--key", vkey); r.code != exitUnknown || !strings.Contains(string(r.errOut), "do not contradict") {
		t.Errorf("equal halves: %d %s%s", r.code, r.out, r.errOut)
	}
}

// TestWitnessReadsItsPolicyAgain on SIGHUP, and ends in order on SIGTERM.
func TestWitnessReadsItsPolicyAgain(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, nil, "init", "--origin", "example.com/first")
	first := strings.Fields(string(mustRun(t, env, nil, "key", "show").out))[0]
	second, err := proof.NewKey(proof.TypeEd25519, "example.com/second", [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "policy")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log " + first + "\nquorum none\n")
	w := startWitness(t, t.TempDir(), "w.example.com", "--policy", policy)
	stderr := make(chan string, 16)
	w.kill()
	w.cmd = exec.Command("immutable", "witness", "serve", "--state-dir", w.state, "--policy", policy, "--listen", "localhost:0")
	errs, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(stderr)
		for s := bufio.NewScanner(errs); s.Scan(); {
			stderr <- s.Text()
		}
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	w.url = strings.TrimSuffix(strings.Fields(line)[3], "/")
	for _, tt := range []struct{ policy, says, has, hasNot string }{
		{"log " + first + "\nlog " + second.Key().String() + "\nquorum none\n", "watching 2 log keys", "example.com/second", "example.com/third"},
		{"nonsense\n", "not replaced", "example.com/second", "nonsense"},
		{"log " + second.Key().String() + "\nquorum none\n", "watching 1 log key", "example.com/second", "example.com/first"},
	} {
		write(tt.policy)
		if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if got := <-stderr; !strings.Contains(got, tt.says) {
			t.Errorf("said %q, want %q", got, tt.says)
		}
		if _, page := w.get("/"); !strings.Contains(page, tt.has) || strings.Contains(page, tt.hasNot) {
			t.Errorf("page lacks %s, or has %s", tt.has, tt.hasNot)
		}
	}
	if status, body := w.get("/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("health %d %q", status, body)
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range stderr {
	}
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
}
