package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// alerts is a server that answers the codes in turn, the last one for ever, and remembers what it was sent.
type alerts struct {
	mu     sync.Mutex
	codes  []int
	bodies [][]byte
}

func (a *alerts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a body that is cut off fails the test where it is read
	a.mu.Lock()
	defer a.mu.Unlock()
	code := a.codes[min(len(a.bodies), len(a.codes)-1)]
	a.bodies = append(a.bodies, body)
	w.WriteHeader(code)
}

func TestAlertCarriesTheReportAndIsTriedAgain(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, []byte(`{"message":"a","metadata":{"n":1}}`), "append")
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := copyTree(damaged, env["IMMUTABLE_LOG_DIR"]); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(damaged, segmentName, replaceIn(`"n":1`, `"n":2`)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		codes   []int
		dir     string
		exit    int
		tries   int
		verdict string
		fails   bool
	}{
		{"proven log", []int{200}, env["IMMUTABLE_LOG_DIR"], exitOK, 0, "", false},
		{"refuted", []int{200}, damaged, exitNo, 1, "refuted", false},
		{"refuted, server busy", []int{503, 204}, damaged, exitNo, 2, "refuted", false},
		{"refuted, server refuses", []int{404}, damaged, exitNo, 1, "refuted", true},
		{"refuted, server down", []int{500}, damaged, exitNo, alertTries, "refuted", true},
		{"no log there", []int{200}, filepath.Join(damaged, "none"), exitUnknown, 1, "unknown", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &alerts{codes: c.codes}
			server := httptest.NewServer(a)
			defer server.Close()
			r := run(t, env, nil, "verify", c.dir, "--alert", server.URL, "--json")
			if r.code != c.exit {
				t.Errorf("exit code %d, want %d: %s", r.code, c.exit, r.errOut)
			}
			if len(a.bodies) != c.tries {
				t.Fatalf("%d tries, want %d", len(a.bodies), c.tries)
			}
			if got := bytes.Contains(r.errOut, []byte("alert not delivered: ")); got != c.fails {
				t.Errorf("alert failed: %t, want %t: %s", got, c.fails, r.errOut)
			}
			for _, body := range a.bodies {
				var report struct{ Verdict string }
				if err := json.Unmarshal(body, &report); err != nil {
					t.Fatal(err)
				}
				if report.Verdict != c.verdict {
					t.Errorf("verdict %q, want %q", report.Verdict, c.verdict)
				}
			}
		})
	}
}

func TestCleanLeavesOrdinaryTextAndEscapesTheRest(t *testing.T) {
	for in, want := range map[string]string{
		"":              "",
		"plain ASCII ~": "plain ASCII ~",
		"naïve 日本語 🙂‍↕️ العربية": "naïve 日本語 🙂‍↕️ العربية",
		"\x1b[31m":           `\u001b[31m`,
		"a\nb\r\tc\x7f":      `a\nb\r\tc\u007f`,
		"\u009b\u0085":       `\u009b\u0085`,
		"\u202e\u2066\u200f": `\u202e\u2066\u200f`,
		"\u2028\u2029\ufeff": `\u2028\u2029\ufeff`,
		"\xff\xc3":           `\xff\xc3`,
		"\U000e0041":         `\U000e0041`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
		if got := clean(clean(in)); got != clean(in) {
			t.Errorf("clean twice of %q: %q", in, got)
		}
	}
}

func FuzzCleanIsHarmless(f *testing.F) {
	f.Add("a\x1b[2J\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		checkHarmless(t, "clean", []byte(clean(s)))
		if bytes.ContainsRune([]byte(clean(s)), '\n') {
			t.Fatalf("%q has a newline", clean(s))
		}
	})
}

func TestFollowPrintsWhatIsAppendedLater(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, nil, "log", "info", "first")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := contextFor(t)
	defer cancel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &app{ctx: ctx, stdin: null, stdout: w, stderr: os.Stderr, getenv: func(name string) string { return env[name] }}
	code := make(chan int, 1)
	go func() {
		code <- a.run([]string{"tail", "-f", "--json", "--level", "info"})
		w.Close()
	}()
	d := json.NewDecoder(r)
	for i, want := range []string{"first", "second", "third"} {
		var e struct {
			Index   int
			Message string
		}
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Message != want {
			t.Fatalf("got %q, want %q", e.Message, want)
		}
		if i < 2 {
			mustRun(t, env, nil, "log", "warn", "not this level")
			mustRun(t, env, nil, "log", "info", []string{"second", "third"}[i])
		}
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Fatalf("exit code %d after it was interrupted", got)
	}
}

// TestCompareFindsAForkByTheLogsOwnKey makes a second history with the same key, as a thief of the key would, and compares checkpoints.
func TestCompareFindsAForkByTheLogsOwnKey(t *testing.T) {
	env := logEnv(t)
	mustRun(t, env, nil, "init", "--origin", "example.com/forked")
	mustRun(t, env, nil, "log", "audit", "true history")
	fork := map[string]string{"IMMUTABLE_LOG_DIR": filepath.Join(t.TempDir(), "fork"), "IMMUTABLE_STATE_DIR": filepath.Join(t.TempDir(), "state"), "IMMUTABLE_ORIGIN": "example.com/forked"}
	if err := copyTree(fork["IMMUTABLE_STATE_DIR"], env["IMMUTABLE_STATE_DIR"]); err != nil {
		t.Fatal(err)
	}
	heads, err := filepath.Glob(filepath.Join(fork["IMMUTABLE_STATE_DIR"], "*", "head"))
	if err != nil || len(heads) != 1 {
		t.Fatalf("heads %q, %v", heads, err)
	}
	if err := os.Remove(heads[0]); err != nil {
		t.Fatal(err)
	}
	mustRun(t, fork, nil, "log", "audit", "another history")
	file := filepath.Join(t.TempDir(), "fork.txt")
	if err := os.WriteFile(file, mustRun(t, fork, nil, "checkpoint").out, 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, env, nil, "log", "audit", "more")
	r := run(t, env, nil, "checkpoint", "compare", file, "2")
	if r.code != exitNo || !bytes.Contains(r.out, []byte("NOT consistent")) || !bytes.Contains(r.errOut, []byte("the checkpoint of 1 entries is of another history")) {
		t.Fatalf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
	r = run(t, env, nil, "checkpoint", "compare", "2", file, "--json")
	if r.code != exitNo || !bytes.Contains(r.out, []byte(`{"consistent":false,`)) {
		t.Fatalf("exit code %d: %s%s", r.code, r.out, r.errOut)
	}
	r = run(t, env, nil, "verify", "--checkpoint", file)
	if r.code != exitNo {
		t.Fatalf("verify against the fork: exit code %d: %s", r.code, r.out)
	}
}
