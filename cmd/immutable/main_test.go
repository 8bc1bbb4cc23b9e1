package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"immutable": main})
}

func TestScripts(t *testing.T) {
	if underRaceDetector() {
		t.Skip("each line is a process of its own, and starts ten times slower: run without the race detector")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("IMMUTABLE_STATE_DIR", filepath.Join(e.WorkDir, "state"))
			e.Setenv("TMPDIR", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"tamper":  tamper,
			"code":    exitsWith,
			"cptree":  copyDirectory,
			"nolines": hasNoLines,
		},
	})
}

// tamper FILE OLD NEW replaces the first OLD.
func tamper(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: tamper FILE OLD NEW")
	}
	data := []byte(ts.ReadFile(args[0]))
	if !bytes.Contains(data, []byte(args[1])) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	name := ts.MkAbs(args[0])
	ts.Check(os.Remove(name))
	ts.Check(os.WriteFile(name, bytes.Replace(data, []byte(args[1]), []byte(args[2]), 1), 0o600))
}

// code N CMD… runs a command that must exit with N.
func exitsWith(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%s: exit code %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

func copyDirectory(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cptree FROM TO")
	}
	ts.Check(copyTree(ts.MkAbs(args[1]), ts.MkAbs(args[0])))
}

// nolines FILE says that the file is empty or not there.
func hasNoLines(ts *testscript.TestScript, _ bool, args []string) {
	if text := ts.ReadFile(args[0]); text != "" {
		ts.Fatalf("%s has %q", args[0], text)
	}
}

// result is what a command said.
type result struct {
	code        int
	out, errOut []byte
}

// run runs a command in this process.
func run(t testing.TB, env map[string]string, stdin []byte, args ...string) result {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.CreateTemp(t.TempDir(), name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	out, errOut := open("out"), open("err")
	defer out.Close()
	defer errOut.Close()
	a := &app{ctx: context.Background(), stdin: bytes.NewReader(stdin), stdout: out, stderr: errOut, getenv: func(name string) string { return env[name] }}
	r := result{code: a.run(args)}
	var err error
	if r.out, err = os.ReadFile(out.Name()); err != nil {
		t.Fatal(err)
	}
	if r.errOut, err = os.ReadFile(errOut.Name()); err != nil {
		t.Fatal(err)
	}
	return r
}

// logEnv is the environment of a new log.
func logEnv(t testing.TB) map[string]string {
	dir := t.TempDir()
	return map[string]string{"IMMUTABLE_LOG_DIR": filepath.Join(dir, "logs"), "IMMUTABLE_STATE_DIR": filepath.Join(dir, "state")}
}

func mustRun(t testing.TB, env map[string]string, stdin []byte, args ...string) result {
	t.Helper()
	r := run(t, env, stdin, args...)
	if r.code != exitOK {
		t.Fatalf("%q: exit code %d\n%s%s", args, r.code, r.out, r.errOut)
	}
	return r
}

func TestUsageNamesEveryFlag(t *testing.T) {
	a := &app{stdout: os.Stdout, stderr: os.Stderr, getenv: func(string) string { return "" }}
	for _, cmd := range commands() {
		c := newCall(a, &cmd)
		cmd.setup(c)
		c.set.VisitAll(func(f *flag.Flag) {
			dashes := "\n  --"
			if len(f.Name) == 1 {
				dashes = "\n  -"
			}
			if !strings.Contains(cmd.usage, dashes+f.Name+" ") && !strings.Contains(cmd.usage, dashes+f.Name+"=") {
				t.Errorf("%s: usage does not name --%s", cmd.name, f.Name)
			}
		})
		if !strings.HasPrefix(cmd.usage, "immutable "+cmd.name) {
			t.Errorf("%s: usage begins %.40q", cmd.name, cmd.usage)
		}
		if !strings.Contains(cmd.usage, "\n  immutable "+cmd.name) && cmd.name != "version" && cmd.name != "completion" {
			t.Errorf("%s: usage has no example", cmd.name)
		}
		for line := range strings.Lines(cmd.usage) {
			if n := len([]rune(strings.TrimSpace(line))); n > 132 {
				t.Errorf("%s: usage has a line of %d characters: %s", cmd.name, n, line)
			}
		}
	}
}

func TestDocumentationNamesEveryCommandAndFlag(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{stdout: os.Stdout, stderr: os.Stderr, getenv: func(string) string { return "" }}
	for _, cmd := range commands() {
		_, section, found := strings.Cut(string(doc), "\n### immutable "+cmd.name)
		if !found {
			t.Errorf("docs/cli.md has no section for %s", cmd.name)
			continue
		}
		section, _, _ = strings.Cut(section, "\n### ")
		c := newCall(a, &cmd)
		cmd.setup(c)
		c.set.VisitAll(func(f *flag.Flag) {
			if general := map[string]bool{"dir": true, "state-dir": true, "json": true, "quiet": true, "rotate-size": true, "origin": true, "blockchain-enabled": true, "time-authority": true, "policy": true, "witness-timeout": true, "epoch-duration": true, "epoch-entries": true, "server": true, "token": true, "token-file": true, "tenant": true, "log": true, "ca": true, "client-cert": true, "client-key": true, "retry-for": true, "key": true, "one-key-log": true}; general[f.Name] {
				return
			}
			if !strings.Contains(section, "-"+f.Name) {
				t.Errorf("docs/cli.md does not name --%s of %s", f.Name, cmd.name)
			}
		})
	}
}

func contextFor(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}
