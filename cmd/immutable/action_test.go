package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.yaml.in/yaml/v3"
)

// actionFile is what a runner reads of action.yml.
type actionFile struct {
	Inputs map[string]struct {
		Description, Default string
		Required             bool
	}
	Outputs map[string]struct{ Value string }
	Runs    struct {
		Using string
		Steps []struct {
			ID, Shell, Run string
			Env            map[string]string
		}
	}
}

var expression = regexp.MustCompile(`\$\{\{ *([a-z.]+) *\}\}`)

func readAction(t *testing.T, name string) *actionFile {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "action", name, "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var a actionFile
	if err := yaml.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}
	if a.Runs.Using != "composite" || len(a.Runs.Steps) == 0 {
		t.Fatalf("%s: %+v", name, a.Runs)
	}
	for _, step := range a.Runs.Steps {
		if strings.Contains(step.Run, "${{") {
			t.Errorf("%s: an input in the text of a script would be run: %s", name, step.Run)
		}
		for variable, value := range step.Env {
			m := expression.FindStringSubmatch(value)
			if m == nil {
				continue
			}
			if _, there := a.Inputs[strings.TrimPrefix(m[1], "inputs.")]; !there {
				t.Errorf("%s: %s is %s, which is no input", name, variable, value)
			}
		}
	}
	return &a
}

// job is a runner's job: its environment, and what the steps gave out.
type job struct {
	t      *testing.T
	issuer *oidcIssuer
	dir    string // the checked out repository
}

// run runs an action's steps as a runner does, and returns its outputs and what it printed.
func (j *job) run(name string, inputs map[string]string) (outputs map[string]string, text string, err error) {
	j.t.Helper()
	a := readAction(j.t, name)
	path, _ := filepath.Abs(filepath.Join("..", "..", "action", name))
	binary, lerr := exec.LookPath("immutable")
	if lerr != nil {
		j.t.Fatal(lerr)
	}
	value := func(expr string) string {
		return expression.ReplaceAllStringFunc(expr, func(x string) string {
			input := strings.TrimPrefix(expression.FindStringSubmatch(x)[1], "inputs.")
			if v, given := inputs[input]; given {
				return v
			}
			if a.Inputs[input].Required {
				j.t.Fatalf("%s: the input %s is required", name, input)
			}
			return a.Inputs[input].Default
		})
	}
	outputs = map[string]string{}
	for _, step := range a.Runs.Steps {
		out := filepath.Join(j.t.TempDir(), "output")
		cmd := exec.CommandContext(j.t.Context(), step.Shell, "--noprofile", "--norc", "-eo", "pipefail", "-c", step.Run)
		cmd.Dir = j.dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "GITHUB_ACTION_PATH="+path, "GITHUB_OUTPUT="+out,
			"ACTIONS_ID_TOKEN_REQUEST_URL="+j.issuer.server.URL+"/token?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=runner-secret",
			"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		for variable, expr := range step.Env {
			cmd.Env = append(cmd.Env, variable+"="+value(expr))
		}
		said, rerr := cmd.CombinedOutput()
		text += string(said)
		if data, err := os.ReadFile(out); err == nil {
			for line := range strings.Lines(string(data)) {
				k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
				outputs[k] = v
			}
		}
		if rerr != nil {
			return outputs, text, rerr
		}
	}
	return outputs, text, nil
}

// oidcIssuer is GitHub's: it gives tokens of one job to whoever has the runner's secret.
type oidcIssuer struct {
	server *httptest.Server
	key    *rsa.PrivateKey
	n      atomic.Int64
	claims func() map[string]any // what differs from the usual job
	last   atomic.Value          // the token that was given last
}

func newIssuer(t *testing.T) *oidcIssuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	o := &oidcIssuer{key: key, claims: func() map[string]any { return nil }}
	mux := http.NewServeMux()
	o.server = httptest.NewServer(mux)
	t.Cleanup(o.server.Close)
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": o.server.URL, "jwks_uri": o.server.URL + "/jwks", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer runner-secret" || r.URL.Query().Get("api-version") != "2.0" {
			http.Error(w, "not the runner", http.StatusUnauthorized)
			return
		}
		token := o.sign(t, map[string]any{"aud": r.URL.Query().Get("audience")})
		o.last.Store(token)
		answer(w, map[string]any{"value": token})
	})
	return o
}

func (o *oidcIssuer) sign(t *testing.T, more map[string]any) string {
	t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": o.server.URL, "sub": "repo:org/repo:ref:refs/heads/main", "aud": "immutable", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"jti": fmt.Sprint("jti-", o.n.Add(1)), "repository": "org/repo", "repository_id": "123456", "sha": "f00dfeed", "ref": "refs/heads/main", "run_id": "42", "run_attempt": "1",
		"actor": "ann", "actor_id": "7", "workflow": "release", "job_workflow_ref": "org/repo/.github/workflows/release.yml@refs/heads/main",
	}
	maps.Copy(claims, o.claims())
	maps.Copy(claims, more)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: o.key, KeyID: "k1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := json.Marshal(claims)
	signed, err := signer.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// startForJobs runs a service that believes the issuer: its jobs of one workflow write, others of the repository read.
func startForJobs(t *testing.T, o *oidcIssuer) *served {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "immutable.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "oidc:\n  - url: %s\n    audience: immutable\n", o.server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startService(t, filepath.Join(dir, "data"), nil, "--config", config)
	rules := fmt.Sprintf(`{"claims":[
		{"issuer":%[1]q,"match":{"repository_id":"123456","job_workflow_ref":"org/repo/.github/workflows/release.yml@refs/heads/main"},"once":true,"role":"writer","logs":["main"]},
		{"issuer":%[1]q,"match":{"repository_id":"123456","job_workflow_ref":"org/repo/.github/workflows/audit.yml@refs/heads/main"},"role":"auditor","logs":["main"]},
		{"issuer":%[1]q,"match":{"repository_id":"123456","job_workflow_ref":"org/repo/.github/workflows/loose.yml@refs/heads/main"},"role":"writer","logs":["main"]}]}`, o.server.URL)
	if status, data, err := s.request(http.DefaultClient, "PATCH", "/api/v1/tenants/default", rules, ""); err != nil || status != http.StatusOK {
		t.Fatalf("rules: %d %s %v", status, data, err)
	}
	return s
}

const auditWorkflow = "org/repo/.github/workflows/audit.yml@refs/heads/main"

func needsActions(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("runners have bash in another place there")
	}
	for _, tool := range []string{"bash", "git", "sed"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("no ", tool, " here")
		}
	}
}

func TestActionLogsWithTheJobsTokenAlone(t *testing.T) {
	needsActions(t)
	o := newIssuer(t)
	s := startForJobs(t, o)
	j := &job{t: t, issuer: o, dir: t.TempDir()}
	inputs := map[string]string{"server": s.url, "level": "audit", "message": `deployed; $(touch pwned) "quoted"`, "metadata": "version=1.4.2\ncount:=3\n--quiet=x\n"}
	outputs, text, err := j.run("log", inputs)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var r receipt
	if json.Unmarshal([]byte(outputs["receipt"]), &r) != nil || outputs["index"] != fmt.Sprint(r.Index) || r.Leaf == "" {
		t.Fatalf("outputs %v", outputs)
	}
	_, data, err := s.request(http.DefaultClient, "GET", fmt.Sprintf("%s/entries/%d", mainLog, r.Index), "", "")
	var e struct {
		Message  string
		Metadata struct {
			Version, Kind string
			Count         int
			Quiet         string `json:"--quiet"`
			GitHub        map[string]string
			Actor         struct{ Name string }
		}
	}
	if err != nil || json.Unmarshal(data, &e) != nil || e.Message != inputs["message"] || e.Metadata.Version != "1.4.2" || e.Metadata.Count != 3 || e.Metadata.Quiet != "x" ||
		e.Metadata.GitHub["sha"] != "f00dfeed" || e.Metadata.GitHub["run_id"] != "42" || e.Metadata.GitHub["run_attempt"] != "1" || e.Metadata.GitHub["repository_id"] != "123456" || e.Metadata.Actor.Name != "ann" {
		t.Errorf("entry %s", data)
	}
	if names, _ := os.ReadDir(j.dir); len(names) != 0 {
		t.Errorf("the message was run: %v", names)
	}
	token := o.last.Load().(string)
	if strings.Contains(text, token) {
		t.Error("the token was printed")
	}

	post := func(token, body string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url+"/hooks/github-actions/default/main", strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var p struct{ Code string }
		_ = json.NewDecoder(resp.Body).Decode(&p)
		return resp.StatusCode, p.Code
	}
	const event = `{"message":"m"}`
	for what, c := range map[string]struct {
		token, body, code string
	}{
		"used before":            {token, event, "unauthenticated"},
		"another audience":       {o.sign(t, map[string]any{"aud": "somebody-else"}), event, "unauthenticated"},
		"another repository":     {o.sign(t, map[string]any{"repository_id": "654321"}), event, "unauthenticated"},
		"another workflow":       {o.sign(t, map[string]any{"job_workflow_ref": "org/repo/.github/workflows/evil.yml@refs/heads/main"}), event, "unauthenticated"},
		"expired":                {o.sign(t, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), event, "unauthenticated"},
		"without a jti":          {o.sign(t, map[string]any{"jti": ""}), event, "unauthenticated"},
		"a kept token":           {testToken, event, "bad-parameter"},
		"of an auditor":          {o.sign(t, map[string]any{"job_workflow_ref": auditWorkflow}), event, "forbidden"},
		"of a rule without once": {o.sign(t, map[string]any{"job_workflow_ref": "org/repo/.github/workflows/loose.yml@refs/heads/main"}), event, "forbidden"},
		"says who it is itself":  {o.sign(t, nil), `{"message":"m","metadata":{"github":{"sha":"other"}}}`, "bad-event"},
		"good":                   {o.sign(t, nil), event, ""},
	} {
		if status, code := post(c.token, c.body); code != c.code || (status == http.StatusCreated) != (code == "") {
			t.Errorf("%s: got %d %q, want %q", what, status, code, c.code)
		}
	}
	if _, text, err := j.run("log", map[string]string{"server": s.url, "message": "m", "audience": "somebody-else"}); err == nil || !strings.Contains(text, "401") {
		t.Errorf("with another audience: %v\n%s", err, text)
	}
	s.stop()
}

func TestActionsVerifyAndWitnessInARepository(t *testing.T) {
	needsActions(t)
	o := newIssuer(t)
	s := startForJobs(t, o)
	o.claims = func() map[string]any { return map[string]any{"job_workflow_ref": auditWorkflow} }
	env := map[string]string{"IMMUTABLE_SERVER": s.url, "IMMUTABLE_TOKEN": testToken}
	keys := string(mustRun(t, env, nil, "key", "show", "--quiet").out)
	mustRun(t, env, nil, "log", "audit", "one")
	mustRun(t, env, nil, "get", "0", "--quiet") // waits until a checkpoint covers it

	remote, dir := filepath.Join(t.TempDir(), "remote.git"), filepath.Join(t.TempDir(), "work")
	git := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	git("init", "--quiet", "--bare", "--initial-branch=main", remote)
	git("clone", "--quiet", remote, dir)
	git("-C", dir, "checkout", "--quiet", "-B", "main")
	git("-C", dir, "config", "push.default", "current")

	j := &job{t: t, issuer: o, dir: dir}
	inputs := map[string]string{"server": s.url, "keys": keys}
	outputs, text, err := j.run("witness", inputs)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	first := git("--git-dir", remote, "show", "main:.immutable/checkpoint")
	if lines := strings.Split(first, "\n"); len(lines) < 3 || lines[1] != outputs["size"] {
		t.Errorf("kept %q, size %v", first, outputs)
	}
	verify := maps.Clone(inputs)
	verify["checkpoint"] = ".immutable/checkpoint"
	if _, text, err := j.run("verify", verify); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	kept := filepath.Join(dir, ".immutable", "checkpoint")
	forged := strings.Replace(first, "\n"+outputs["size"]+"\n", "\n"+outputs["size"]+"00\n", 1)
	if err := os.WriteFile(kept, []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, text, err := j.run("witness", inputs); err == nil || !strings.Contains(text, "rolled back") {
		t.Errorf("a log with fewer entries than were kept: %v\n%s", err, text)
	}
	if _, text, err := j.run("verify", verify); err == nil {
		t.Errorf("a checkpoint that nobody signed: %v\n%s", err, text)
	}
	forged = strings.Replace(first, "\n"+outputs["size"]+"\n", "\n"+outputs["size"]+"\nA", 1)
	if err := os.WriteFile(kept, []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, text, err := j.run("witness", inputs); err == nil || !strings.Contains(text, "which stays") {
		t.Errorf("a log with another root than was kept: %v\n%s", err, text)
	}
	if data, _ := os.ReadFile(kept); string(data) != forged {
		t.Error("what was kept is gone")
	}
	wrong := map[string]string{"server": s.url, "keys": strings.Replace(keys, "+", "+0", 1)}
	if _, text, err := j.run("witness", wrong); err == nil {
		t.Errorf("other keys: %s", text)
	}
	s.stop()
}
