package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/access"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/monitor"
	"github.com/tree-of-life-system/immutable/internal/server"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// remoteService is a whole server on loopback, and the environment of commands that work on it. lie, where it is set, changes
// its answers.
type remoteService struct {
	in    *tenant.Installation
	front *httptest.Server
	env   map[string]string
	key   string // file with the log's keys
	lie   func(path string, body []byte) []byte
}

func serveForCommands(t *testing.T) *remoteService {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	in, err := tenant.Open(ctx, tenant.Options{Dir: filepath.Join(dir, "data"), OriginPrefix: "log.example/test", Log: immutable.Config{CheckpointInterval: 20 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Bootstrap(ctx, testToken); err != nil {
		t.Fatal(err)
	}
	auth, err := access.New(ctx, in, access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := monitor.New(monitor.Options{Installation: in, OnEvent: func(alert.Event) {}})
	watched := make(chan error, 1)
	go func() { watched <- m.Run(ctx) }()
	sv := server.New(server.Options{Installation: in, Auth: auth, Monitor: m, Logger: slog.New(slog.DiscardHandler)})
	back := httptest.NewServer(sv)
	r := &remoteService{in: in}
	target, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(resp *http.Response) error {
		if r.lie == nil {
			return nil
		}
		body, err := io.ReadAll(resp.Body)
		body = r.lie(resp.Request.URL.Path, body)
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return err
	}
	r.front = httptest.NewServer(proxy)
	t.Cleanup(func() {
		r.front.Close()
		end, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		_ = sv.Shutdown(end)
		back.Close()
		cancel()
		if err := <-watched; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("monitor: %v", err)
		}
		_ = auth.Close(end)
		if err := in.Close(end); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	r.env = map[string]string{"IMMUTABLE_SERVER": r.front.URL, "IMMUTABLE_TOKEN": testToken, "IMMUTABLE_RETRY_FOR": "2s"}
	r.key = filepath.Join(dir, "keys")
	keys := mustRun(t, r.env, nil, "key", "show", "--quiet")
	if err := os.WriteFile(r.key, keys.out, 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *remoteService) log(t *testing.T) *tenant.Log {
	t.Helper()
	tn, err := r.in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tn.Log("main")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fill appends n entries by the command.
func (r *remoteService) fill(t *testing.T, n int) {
	t.Helper()
	var in bytes.Buffer
	for i := range n {
		level := "info"
		if i%10 == 3 {
			level = "security"
		}
		_ = json.NewEncoder(&in).Encode(map[string]any{"message": "event " + strconv.Itoa(i), "level": level, "metadata": map[string]int{"n": i}})
	}
	mustRun(t, r.env, in.Bytes(), "append", "--quiet")
	r.settle(t)
}

// settle waits until a checkpoint covers everything.
func (r *remoteService) settle(t *testing.T) {
	t.Helper()
	l := r.log(t)
	for range 2000 {
		if note, err := l.Checkpoint(); err == nil {
			if cp, err := l.OpenCheckpoint(note); err == nil && cp.Size == l.Size() {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("no checkpoint covers the log")
}

// same runs a command on the server and on the log's directory beside it, and holds that both say the same.
func (r *remoteService) same(t *testing.T, args ...string) {
	t.Helper()
	local := map[string]string{"IMMUTABLE_LOG_DIR": r.log(t).Dir(), "IMMUTABLE_STATE_DIR": filepath.Join(t.TempDir(), "state")}
	want := run(t, local, nil, args...)
	for _, more := range [][]string{{"--quiet"}, {"--quiet", "--key", r.key}} {
		got := run(t, r.env, nil, append(args[:len(args):len(args)], more...)...)
		if got.code != want.code || !bytes.Equal(changing.ReplaceAll(got.out, nil), changing.ReplaceAll(want.out, nil)) {
			t.Errorf("%q on the server: %d %s%s\nin the directory: %d %s%s", append(args, more...), got.code, got.out, got.errOut, want.code, want.out, want.errOut)
		}
		if len(got.errOut) > 0 {
			t.Errorf("%q --quiet said %s", args, got.errOut)
		}
	}
}

// changing is what differs between the two, or between two moments.
var changing = regexp.MustCompile(`"(dir|age)":"[^"]*",?|, [0-9]+s ago`)

func TestCommandsSayTheSameOnAServer(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 600)
	for _, line := range []string{
		"read", "read --json", "read --from 17 --limit 3 --json", "read --reverse --limit 4", "read --level security n:<50", "read --since 1h --json",
		"search event --limit 5", "search --json n:>=590", "search --count", "search --count --json level:security", "search --by level", "search --by level --limit 1 --json",
		"search --histogram 1d --json", "tail", "tail -n 3 --json", "tail -n 0", "get 12", "get 12 --json", "get 12 --block --json", "get 0 --block", "get 9999 --json",
		"prove 12", "prove 12 --json", "checkpoint", "checkpoint --json", "checkpoint list", "checkpoint compare 5 300 --json", "checkpoint compare 300 5",
		"key show", "key show --current", "key show --json", "key chain", "key chain --json",
		"export", "export --format csv", "export --format marked --from 10 --limit 20", "export --format blockchain --from 5 --limit 5", "export --format log --limit 3", "export --format index --limit 3",
		"hold --json", "search (", "search --by nothing.here.at.all",
	} {
		args := strings.Fields(line)
		if args[0] == "hold" {
			if got := mustRun(t, r.env, nil, args...); string(got.out) != "[]\n" {
				t.Errorf("%s: %s", line, got.out)
			}
			continue
		}
		if line == "get 9999 --json" {
			if got := run(t, r.env, nil, args...); got.code != exitUnknown || !bytes.Contains(got.errOut, []byte("9999")) {
				t.Errorf("%s: %d %s", line, got.code, got.errOut)
			}
			continue
		}
		if strings.HasPrefix(line, "search (") {
			if got := run(t, r.env, nil, args...); got.code != exitUnknown || !bytes.Contains(got.errOut, []byte("^")) {
				t.Errorf("%s: %d %s", line, got.code, got.errOut)
			}
			continue
		}
		r.same(t, args...)
	}
}

func TestSearchGoesOnAcrossCursorsOnAServer(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 30)
	first := mustRun(t, r.env, nil, "search", "event", "--limit", "10", "--json")
	m := regexp.MustCompile(`\{"cursor":"([^"]+)"\}`).FindSubmatch(first.errOut)
	if m == nil {
		t.Fatalf("no cursor: %s", first.errOut)
	}
	second := mustRun(t, r.env, nil, "search", "event", "--cursor", string(m[1]), "--json")
	all := mustRun(t, r.env, nil, "search", "event", "--json")
	if got := string(first.out) + string(second.out); got != string(all.out) {
		t.Errorf("got %s, want %s", got, all.out)
	}
}

func TestAppendOnAServerIsThereOnce(t *testing.T) {
	r := serveForCommands(t)
	one := mustRun(t, r.env, nil, "log", "audit", "one", "k=v", "--json", "--idempotency-key", "job-1")
	again := mustRun(t, r.env, nil, "log", "audit", "one", "k=v", "--json", "--idempotency-key", "job-1")
	if !bytes.Contains(again.out, []byte(`"repeated":true`)) || !bytes.Contains(one.out, []byte(`"index":`)) {
		t.Errorf("got %s then %s", one.out, again.out)
	}
	book := filepath.Join(t.TempDir(), "book")
	in := "{\"message\":\"a\"}\n{\"message\":\n{\"message\":\"b\",\"level\":\"warn\"}\n"
	got := run(t, r.env, []byte(in), "append", "--json", "--receipts", book, "--batch", "1")
	if got.code != exitNo || !bytes.Contains(got.out, []byte(`"accepted":2,"rejected":1,"size":`+strconv.FormatUint(r.log(t).Size(), 10))) {
		t.Errorf("append: %d %s%s", got.code, got.out, got.errOut)
	}
	if data, err := os.ReadFile(book); err != nil || bytes.Count(data, []byte(`"leaf"`)) != 2 {
		t.Errorf("the book of receipts: %s %v", data, err)
	}
	many := bytes.Repeat([]byte("{\"message\":\"x\"}\n"), 20_000)
	if got := mustRun(t, r.env, many, "append", "--quiet", "--json"); !bytes.Contains(got.out, []byte(`"accepted":20000,"rejected":0`)) {
		t.Errorf("many: %s", got.out)
	}
	receipt := filepath.Join(t.TempDir(), "receipt")
	if err := os.WriteFile(receipt, one.out, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, r.env, nil, "verify", "--receipt", receipt, "--key", r.key, "--json"); got.code != exitOK || !bytes.Contains(got.out, []byte("the receipt of entry")) {
		t.Errorf("verify a receipt: %d %s%s", got.code, got.out, got.errOut)
	}
}

func TestWriterTokenIsEnoughToAppend(t *testing.T) {
	r := serveForCommands(t)
	tn, err := r.in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	plain, _, err := tn.CreateToken(t.Context(), tenant.Local("test"), tenant.TokenSpec{Name: "w", Role: tenant.Writer})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(plain+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, r.env, nil, "log", "info", "by a writer", "--token-file", file)
	mustRun(t, r.env, []byte("one\ntwo\n"), "append", "--token-file", file)
	if got := run(t, r.env, nil, "read", "--token-file", file); got.code != exitUnknown || len(got.out) > 0 {
		t.Errorf("a writer reads: %d %s%s", got.code, got.out, got.errOut)
	}
}

func TestTokenOfSomeLevelsReadsThose(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 50)
	tn, err := r.in.Tenant("default")
	if err != nil {
		t.Fatal(err)
	}
	plain, _, err := tn.CreateToken(t.Context(), tenant.Local("test"), tenant.TokenSpec{Name: "r", Role: tenant.Reader, Levels: []immutable.Level{immutable.Security}})
	if err != nil {
		t.Fatal(err)
	}
	r.env["IMMUTABLE_TOKEN"] = plain
	got := mustRun(t, r.env, nil, "read", "--json", "--key", r.key)
	if n := bytes.Count(got.out, []byte("\n")); n != 5 || bytes.Count(got.out, []byte(`"SECURITY"`)) != 5 || !bytes.Contains(got.errOut, []byte("SECURITY only")) {
		t.Errorf("%d entries: %s%s", n, got.out, got.errOut)
	}
	if got := mustRun(t, r.env, nil, "search", "--count"); string(got.out) != "5\n" {
		t.Errorf("count: %s%s", got.out, got.errOut)
	}
	if got := run(t, r.env, nil, "export", "tiles", filepath.Join(t.TempDir(), "x"), "--key", r.key); got.code != exitUnknown {
		t.Errorf("tiles: %d %s%s", got.code, got.out, got.errOut)
	}
}

func TestTailFollowsAServer(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 5)
	ctx, cancel := contextFor(t)
	defer cancel()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	errOut, err := os.CreateTemp(t.TempDir(), "err")
	if err != nil {
		t.Fatal(err)
	}
	defer errOut.Close()
	a := &app{ctx: ctx, stdin: bytes.NewReader(nil), stdout: pw, stderr: errOut, getenv: func(name string) string { return r.env[name] }}
	code := make(chan int, 1)
	go func() {
		code <- a.run([]string{"tail", "-f", "-n", "1", "--json", "--key", r.key})
		pw.Close()
	}()
	d := json.NewDecoder(pr)
	for i, want := range []string{"event 4", "new 1", "new 2"} {
		var e struct{ Message string }
		if err := d.Decode(&e); err != nil || e.Message != want {
			t.Fatalf("entry %d: %q %v, want %q", i, e.Message, err, want)
		}
		if i < 2 {
			mustRun(t, r.env, nil, "log", "info", "new "+strconv.Itoa(i+1))
		}
	}
	cancel()
	if got := <-code; got != exitOK {
		t.Errorf("interrupted: exit code %d", got)
	}
}

func TestFilesFromAServerVerifyHere(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 700)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mustRun(t, r.env, nil, "prove", "5", "--out", at("five"), "--entry-out", at("five.json"), "--key", r.key)
	mustRun(t, r.env, nil, "bundle", "--from", "10", "--to", "20", "--out", at("b.html"), "--key", r.key)
	if got := mustRun(t, r.env, nil, "export", "tiles", at("tiles"), "--key", r.key, "--json"); !bytes.Contains(got.out, []byte(`"size":`)) {
		t.Errorf("tiles: %s", got.out)
	}
	mustRun(t, r.env, nil, "log", "info", "more")
	r.settle(t)
	mustRun(t, r.env, nil, "export", "tiles", at("tiles"))
	for _, args := range [][]string{
		{"verify", at("five"), "--entry-file", at("five.json"), "--key", r.key},
		{"verify", at("b.html"), "--key", r.key},
		{"verify", at("tiles"), "--key", r.key},
	} {
		if got := mustRun(t, r.env, nil, args...); !bytes.Contains(got.out, []byte("PROVEN")) {
			t.Errorf("%q: %s", args, got.out)
		}
	}
}

func TestAdministrationOnAServer(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 600)
	if got := mustRun(t, r.env, nil, "rotate", "--json"); !strings.HasPrefix(string(got.out), `{"sealed":1,"segments":2,"size":60`) {
		t.Errorf("rotate: %s", got.out)
	}
	mustRun(t, r.env, nil, "hold", "case-1", "--reason", "letter", "--json")
	if got := mustRun(t, r.env, nil, "hold"); !bytes.Contains(got.out, []byte("case-1")) {
		t.Errorf("holds: %s", got.out)
	}
	mustRun(t, r.env, nil, "hold", "case-1", "--release", "--reason", "settled")
	if got := mustRun(t, r.env, nil, "key", "rotate", "--key", r.key); !bytes.Contains(got.out, []byte("epoch 1 of keys began")) {
		t.Errorf("key rotate: %s", got.out)
	}
	mustRun(t, r.env, nil, "log", "info", "after the rotation of keys")
	r.settle(t)
	r.same(t, "checkpoint", "--json")
	r.same(t, "key", "chain", "--json")
	if got := mustRun(t, r.env, nil, "stats", "--json", "--quiet"); !bytes.Contains(got.out, []byte(`"totalEntries":6`)) {
		t.Errorf("stats: %s", got.out)
	}
}

func TestVerifySaysWhoseWordItIs(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 300)
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(kept, mustRun(t, r.env, nil, "checkpoint", "--quiet").out, 0o600); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		Server struct {
			Pinned  bool
			Verdict string
			Checked []string
		}
	}
	for _, test := range []struct {
		args    []string
		verdict string
		pinned  bool
	}{
		{nil, "consistent", false}, // keys that the server names prove nothing
		{[]string{"--key", r.key}, "proven", true},
		{[]string{"--key", r.key, "--checkpoint", kept}, "proven", true},
	} {
		got := mustRun(t, r.env, nil, append([]string{"verify", "--json", "--indexes"}, test.args...)...)
		var a answer
		// The report itself may stand on what the server's host remembers, and not on keys that only the server has named.
		if err := json.Unmarshal(got.out, &a); err != nil || bytes.Contains(got.out, []byte(`"kind":"key"`)) != test.pinned || a.Server.Verdict != test.verdict || a.Server.Pinned != test.pinned || len(a.Server.Checked) < 2 {
			t.Errorf("%q: %s %v", test.args, got.out, err)
		}
	}
	for _, args := range [][]string{{}, {"--key", r.key}} {
		got := mustRun(t, r.env, nil, append([]string{"verify"}, args...)...)
		if !bytes.Contains(got.out, []byte("The server's word")) || !bytes.Contains(got.out, []byte("Verified here")) {
			t.Errorf("%q: %s", args, got.out)
		}
	}
	r.lie = func(path string, body []byte) []byte { // a report of another log
		if strings.Contains(path, "/verifications") {
			return regexp.MustCompile(`"root":"[^"]{4}`).ReplaceAll(body, []byte(`"root":"AAAA`))
		}
		return body
	}
	if got := run(t, r.env, nil, "verify", "--key", r.key); got.code != exitNo || !bytes.Contains(got.out, []byte("✗")) {
		t.Errorf("a false report: %d %s%s", got.code, got.out, got.errOut)
	}
}

func TestRemoteErrorsAreClear(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 3)
	other := logEnv(t)
	mustRun(t, other, nil, "log", "info", "another log")
	foreign := filepath.Join(t.TempDir(), "foreign")
	if err := os.WriteFile(foreign, mustRun(t, other, nil, "key", "show").out, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	const secret = "imt_a-token-that-nobody-may-see_0123456789"
	for _, test := range []struct {
		args string
		code int
		says string
	}{
		{"read --token " + secret, exitUnknown, "--token-file"},
		{"log info x --token " + secret, exitUnknown, "--token-file"},
		{"append --token " + secret, exitUnknown, "--token-file"},
		{"read --log nothing", exitUnknown, "default/nothing"},
		{"read --tenant nobody", exitUnknown, "nobody/main"},
		{"log info x --log nothing", exitUnknown, "default/nothing"},
		{"read --retry-for 1ms --server " + gone.URL, exitUnknown, "does not answer"},
		{"log info x --retry-for 1ms --server " + gone.URL, exitUnknown, "does not answer"},
		{"read --server ftp://x", exitUnknown, "want http://HOST"},
		{"read --key " + foreign, exitNo, "pinned"},
		{"read --dir /nowhere --server " + r.front.URL, exitUnknown, "--dir is for a log in a directory"},
		{"search --explain x", exitUnknown, "--explain is for"},
		{"log info x --origin o", exitUnknown, "--origin is for"},
		{"repair --server " + r.front.URL, exitUnknown, "not on a server"},
		{"init --server=" + r.front.URL, exitUnknown, "not on a server"},
		{"import f --server " + r.front.URL, exitUnknown, "not on a server"},
		{"verify --cold x --server " + r.front.URL, exitUnknown, "--cold does not go with --server"},
		{"verify . --server " + r.front.URL, exitUnknown, "one of them"},
	} {
		got := run(t, r.env, []byte("line\n"), strings.Fields(test.args)...)
		if got.code != test.code || !bytes.Contains(got.errOut, []byte(test.says)) {
			t.Errorf("%s: %d %s, want %d and %q", test.args, got.code, got.errOut, test.code, test.says)
		}
		if all := string(got.out) + string(got.errOut); strings.Contains(all, secret) || strings.Contains(all, testToken) {
			t.Errorf("%s shows the token: %s", test.args, all)
		}
	}
}

func TestServerInTheEnvironmentLeavesDirectoriesAlone(t *testing.T) {
	env := logEnv(t)
	env["IMMUTABLE_SERVER"] = "http://127.0.0.1:1" // nothing is there
	env["IMMUTABLE_TOKEN"] = "token"
	dir := env["IMMUTABLE_LOG_DIR"]
	mustRun(t, env, nil, "init", "--origin", "example.com/here")
	mustRun(t, env, nil, "log", "info", "here", "--dir", dir)
	mustRun(t, env, nil, "read", "--dir", dir)
	mustRun(t, env, nil, "verify", dir)
	mustRun(t, env, nil, "rebuild")
	if got := run(t, map[string]string{}, nil, "read", "--tenant", "x"); got.code != exitUnknown || !bytes.Contains(got.errOut, []byte("goes with --server")) {
		t.Errorf("a tenant without a server: %d %s", got.code, got.errOut)
	}
}

func TestUnpinnedIsSaidOnce(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 3)
	for _, test := range []struct {
		args []string
		want int
	}{{nil, 1}, {[]string{"--quiet"}, 0}, {[]string{"--key", r.key}, 0}} {
		got := mustRun(t, r.env, nil, append([]string{"read"}, test.args...)...)
		if n := bytes.Count(got.errOut, []byte("the server's word")); n != test.want {
			t.Errorf("%q: said %d times: %s", test.args, n, got.errOut)
		}
	}
}

func TestLyingServerIsExitCodeOne(t *testing.T) {
	r := serveForCommands(t)
	r.fill(t, 10)
	leaf := regexp.MustCompile(`"leaf":"[0-9a-f]{4}`)
	lies := map[string]func(path string, body []byte) []byte{
		"wrong leaf hash": func(path string, body []byte) []byte {
			if !strings.Contains(path, "/entries") {
				return body
			}
			return leaf.ReplaceAll(body, []byte(`"leaf":"0000`))
		},
		"entry changed with its leaf hash": func(path string, body []byte) []byte {
			if !strings.Contains(path, "/entries") {
				return body
			}
			return reforge(body)
		},
	}
	for name, lie := range lies {
		for _, more := range [][]string{{}, {"--key", r.key}} {
			for _, args := range [][]string{{"read"}, {"search"}, {"get", "4", "--json"}, {"export"}, {"tail"}, {"prove", "4"}} {
				r.lie = lie
				got := run(t, r.env, nil, append(args, more...)...)
				r.lie = nil
				if got.code != exitNo || bytes.Contains(got.out, []byte("forged")) {
					t.Errorf("%s, %q %q: %d %s%s", name, args, more, got.code, got.out, got.errOut)
				}
			}
		}
	}
}

// reforge changes each entry's message, and its leaf hash to go with it.
func reforge(body []byte) []byte {
	line := regexp.MustCompile(`\{"index":(\d+),"leaf":"[0-9a-f]{64}",("id":[^{}]*"message":")event( \d+"[^{}]*\{[^{}]*\}[^{}]*\})`)
	return line.ReplaceAllFunc(body, func(e []byte) []byte {
		m := line.FindSubmatch(e)
		forged := append(append(append([]byte("{"), m[2]...), "forged"...), m[3]...)
		index, err := strconv.ParseUint(string(m[1]), 10, 64)
		if err != nil {
			return e
		}
		parsed, err := immutable.ParseEntry(index, forged)
		if err != nil {
			return e
		}
		return append([]byte(`{"index":`+string(m[1])+`,"leaf":"`+parsed.Leaf.String()+`",`), forged[1:]...)
	})
}
