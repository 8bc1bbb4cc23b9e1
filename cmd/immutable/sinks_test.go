package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestSinksByCommand runs a service, sends its log on to files and to a webhook, and verifies the copy.
func TestSinksByCommand(t *testing.T) {
	needsSignals(t)
	var refuse atomic.Bool
	refuse.Store(true)
	var got atomic.Int64
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if refuse.Load() {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		got.Add(1)
	}))
	defer hook.Close()
	dir := t.TempDir()
	s := startService(t, dir, nil, "--alerts-allow-private")
	env := map[string]string{"IMMUTABLE_SERVER": s.url, "IMMUTABLE_TOKEN": testToken, "IMMUTABLE_SINK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	mustRun(t, env, nil, "log", "audit", "the first", "n:=1")
	mustRun(t, env, nil, "sinks", "add", "hook", "--type", "webhook", "--to", hook.URL, "--level", "audit", "--query", "n:>0")
	delete(env, "IMMUTABLE_SINK_SECRET")
	for _, f := range []string{"json", "ocsf", "ecs"} {
		mustRun(t, env, nil, "sinks", "add", "copy-"+f, "--type", "file", "--format", f)
	}
	for i := range 5 {
		mustRun(t, env, nil, "log", "security", fmt.Sprint("more ", i))
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited for %s: %s", what, mustRun(t, env, nil, "sinks").out)
			}
		}
	}
	until("a dead letter and the files", func() bool {
		out := string(mustRun(t, env, nil, "sinks", "list").out)
		return strings.Contains(out, "hook  webhook of log main as json to "+hook.URL+": active, 0 delivered") && strings.Contains(out, "dead letters: 1") && strings.Count(out, "6 delivered, next 6\n") == 3
	})
	if out := mustRun(t, env, nil, "sinks", "dead", "hook").out; !bytes.Contains(out, []byte("entry 0  ")) || !bytes.Contains(out, []byte("422")) {
		t.Errorf("%s", out)
	}
	refuse.Store(false)
	if out := mustRun(t, env, nil, "sinks", "retry", "hook", "0").out; string(out) != "dead letters to be tried again: 1\n" {
		t.Errorf("%s", out)
	}
	until("the letter", func() bool { return got.Load() == 1 })
	if out := mustRun(t, env, nil, "sinks", "show", "hook", "--json").out; !bytes.Contains(out, []byte(`"secrets":["(kept)"]`)) || bytes.Contains(out, []byte("whsec_")) {
		t.Errorf("%s", out)
	}
	for _, args := range [][]string{{"pause", "hook"}, {"resume", "hook"}, {"drop", "hook"}, {"remove", "hook"}} {
		mustRun(t, env, nil, append([]string{"sinks"}, args...)...)
	}
	for _, args := range [][]string{{"show", "hook"}, {"add", "x"}, {"add", "x", "--type", "file", "--to", "y"}, {"add", "x", "--type", "webhook", "--to", "ftp://x"}, {"paws", "x"}, {"show", "a", "b"}, {"retry", "x", "y"}, {"list", "x"}, {"pause", "x", "--keep", "1"}} {
		if r := run(t, env, nil, append([]string{"sinks"}, args...)...); r.code != exitUnknown {
			t.Errorf("%q: exit code %d: %s%s", args, r.code, r.out, r.errOut)
		}
	}
	if r := run(t, nil, nil, "sinks"); r.code != exitUnknown || !bytes.Contains(r.errOut, []byte("--server")) {
		t.Errorf("without a server: %d %s", r.code, r.errOut)
	}
	s.must("GET", "/metrics", "", 200)
	var active struct {
		Alerts []struct{ Kind, Phase string }
	}
	if err := json.Unmarshal(s.must("GET", "/api/v1/tenants/default/alerts/active", "", 200), &active); err != nil || len(active.Alerts) != 1 || active.Alerts[0].Kind != "delivery.failed" || active.Alerts[0].Phase != "resolved" {
		t.Errorf("%+v, %v", active, err)
	}
	if text := string(s.must("GET", "/metrics", "", 200)); !strings.Contains(text, `immutable_sink_lag_entries{log="main",sink="copy-ecs",tenant="default"} 0`) {
		t.Error("the lag is not in the metrics")
	}
	s.stop()
	log := filepath.Join(dir, "tenants", "default", "logs", "main")
	local := map[string]string{"IMMUTABLE_STATE_DIR": filepath.Join(dir, "state", "default")}
	for _, f := range []string{"json", "ocsf", "ecs"} {
		name := filepath.Join(dir, "sinks", "default", "copy-"+f, "00000000000000000000.jsonl")
		copied, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if out := mustRun(t, local, nil, "verify", log, "--from", name, "--all").out; !bytes.Contains(out, []byte("6 events: 6 the same")) {
			t.Errorf("%s: %s", f, out)
		}
		for what, change := range map[string][]byte{
			"changed": bytes.Replace(copied, []byte("more 3"), []byte("more 4"), 1),
			"missing": copied[bytes.IndexByte(copied, '\n')+1:],
		} {
			if r := run(t, local, change, "verify", log, "--from", "-", "--all"); r.code != exitNo || !bytes.Contains(r.out, []byte(what)) {
				t.Errorf("%s, %s: exit code %d: %s", f, what, r.code, r.out)
			}
		}
	}
}
