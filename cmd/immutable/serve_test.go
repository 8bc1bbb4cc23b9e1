package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

const testToken = "the-token-of-the-tests-0123456789"

// served is a service in a process of its own, on a port of its own.
type served struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	said *bytes.Buffer // its log; read it when the process has ended
}

// startService runs `immutable serve` over dir, and waits until it answers.
func startService(t *testing.T, dir string, env []string, args ...string) *served {
	t.Helper()
	s, line := launch(t, dir, env, args...)
	var started struct{ URL string }
	if err := json.Unmarshal(line, &started); err != nil || started.URL == "" {
		_ = s.cmd.Wait()
		t.Fatalf("it did not start: %q, %v\n%s", line, err, s.said)
	}
	s.url = started.URL
	return s
}

func launch(t *testing.T, dir string, env []string, args ...string) (*served, []byte) {
	t.Helper()
	s := &served{t: t, said: &bytes.Buffer{}}
	s.cmd = exec.Command("immutable", append([]string{"serve", "--json", "--listen", "127.0.0.1:0", "--data-dir", dir}, args...)...)
	s.cmd.Env = append(os.Environ(), append([]string{"IMMUTABLE_BOOTSTRAP_TOKEN=" + testToken}, env...)...)
	s.cmd.Stderr = s.said
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return s, line
}

// stop ends it as a service manager does, and holds that it ended well.
func (s *served) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatalf("%v\n%s", err, s.said)
	}
	if !strings.Contains(s.said.String(), `"msg":"stopped"`) {
		s.t.Errorf("it did not say that it stopped:\n%s", s.said)
	}
}

const mainLog = "/api/v1/tenants/default/logs/main"

func (s *served) request(client *http.Client, method, path, body, key string) (int, []byte, error) {
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

func (s *served) must(method, path, body string, want int) []byte {
	s.t.Helper()
	status, data, err := s.request(http.DefaultClient, method, path, body, "")
	if err != nil || status != want {
		s.t.Fatalf("%s %s: %d %s %v, want %d", method, path, status, data, err, want)
	}
	return data
}

// needsSignals skips where a process cannot be told to stop.
func needsSignals(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no SIGTERM here")
	}
}

// TestServePrintsCommandsThatWork does what the README says: no flags, then the printed lines in a shell.
func TestServePrintsCommandsThatWork(t *testing.T) {
	needsSignals(t)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl here")
	}
	dir := t.TempDir()
	var token string
	for round := range 2 {
		cmd := exec.Command("immutable", "serve")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "IMMUTABLE_LISTEN=127.0.0.1:0", "IMMUTABLE_TOKEN="+token)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		var text strings.Builder
		var curls []string
		for lines := bufio.NewScanner(out); len(curls) < 2 && lines.Scan(); {
			fmt.Fprintln(&text, lines.Text())
			if strings.HasPrefix(lines.Text(), "  curl ") {
				curls = append(curls, lines.Text())
			}
		}
		if len(curls) != 2 {
			t.Fatalf("round %d: it printed\n%s%s", round, &text, &said)
		}
		made := regexp.MustCompile(`(?m)^  (imt_\S+)$`).FindStringSubmatch(text.String())
		if (made != nil) != (round == 0) {
			t.Errorf("round %d: the token is shown %v times", round, len(made))
		}
		if made != nil {
			token = made[1]
		}
		for i, line := range curls {
			shell := exec.Command("sh", "-c", line+" --silent --show-error --fail")
			shell.Env = append(os.Environ(), "IMMUTABLE_TOKEN="+token)
			got, err := shell.CombinedOutput()
			if err != nil || !strings.Contains(string(got), []string{`"index":`, `"it works"`}[i]) {
				t.Errorf("round %d: %s\n%s %v", round, line, got, err)
			}
			if i == 1 && strings.Count(string(got), `"it works"`) != round+1 {
				t.Errorf("round %d: entries are missing: %s", round, got)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, &said)
		}
		if strings.Contains(said.String(), token) {
			t.Error("the token is in the log")
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "immutable-data")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the data directory: %v, %v", info, err)
	}
}

// TestServeSaysWhatIsInTheWay holds that each obstacle is named with what to do, and that nothing is made behind it.
// TestServeDemo fills a data directory once, and mixes made-up events with nothing.
func TestServeDemo(t *testing.T) {
	needsSignals(t)
	dir := filepath.Join(t.TempDir(), "demo")
	sizes := [2]int{}
	for round := range 2 {
		s := startService(t, dir, nil, "--demo")
		var stats struct {
			Origin       string
			TotalEntries int
		}
		if err := json.Unmarshal(s.must("GET", mainLog+"/stats", "", http.StatusOK), &stats); err != nil || !strings.HasPrefix(stats.Origin, "demo-") {
			t.Errorf("%+v: %v", stats, err)
		}
		sizes[round] = stats.TotalEntries
		if body := s.must("GET", mainLog+"/entries?q=control:epoch%20OR%20NOT%20demo:true&limit=1000", "", http.StatusOK); bytes.Contains(body, []byte(`"demo"`)) || bytes.Count(body, []byte(`"leaf":`)) > 8 {
			t.Errorf("entries that do not say that they are made up: %s", body)
		}
		s.stop()
	}
	if sizes[0] < 3000 || sizes[1] < sizes[0] || sizes[1] > sizes[0]+8 {
		t.Errorf("%d entries, then %d", sizes[0], sizes[1])
	}
	real := filepath.Join(t.TempDir(), "data")
	s := startService(t, real, nil)
	s.stop()
	if r := run(t, nil, nil, "serve", "--demo", "--data-dir", real, "--listen", "127.0.0.1:0"); r.code != exitUnknown || !strings.Contains(string(r.errOut), "--data-dir") {
		t.Errorf("a directory with real logs: exit code %d, %s", r.code, r.errOut)
	}
}

func TestServeSaysWhatIsInTheWay(t *testing.T) {
	needsSignals(t)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	s := startService(t, data, nil)
	taken := strings.TrimPrefix(s.url, "http://")
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("listen: 127.0.0.1:0\nlog:\n  rotate_sise: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, "fresh")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"--data-dir", fresh, "--listen", taken}, []string{"in use by another process", "--listen 127.0.0.1:0"}},
		{[]string{"--data-dir", data, "--listen", "127.0.0.1:0"}, []string{"is in use", fmt.Sprint(s.cmd.Process.Pid), "--data-dir"}},
		{[]string{"--data-dir", file, "--listen", "127.0.0.1:0"}, []string{file}},
		{[]string{"--data-dir", fresh, "--config", filepath.Join(dir, "none.yaml")}, []string{"--config", "config show"}},
		{[]string{"--data-dir", fresh, "--config", bad}, []string{"bad.yaml:3", "did you mean log.rotate_size?"}},
		{[]string{"--data-dir", fresh, "--pprof-listen", "0.0.0.0:1"}, []string{"loopback"}},
		{[]string{"--data-dir", fresh, "--tls-cert", "none.pem", "--tls-key", "none.pem", "--listen", "127.0.0.1:0"}, []string{"tls.cert", "none.pem"}},
		{[]string{"--data-dir", fresh, "--policy", "none.policy", "--listen", "127.0.0.1:0"}, []string{"log.policy", "none.policy"}},
		{[]string{"--data-dir", fresh, "--smtp-address", "m:25", "--smtp-from", "a", "--smtp-username", "u", "--smtp-password-file", "none", "--listen", "127.0.0.1:0"}, []string{"password_file"}},
		{[]string{"extra"}, []string{"no arguments"}},
	} {
		r := run(t, nil, nil, append([]string{"serve"}, c.args...)...)
		if r.code != exitUnknown || len(r.out) > 0 {
			t.Errorf("%v: exit code %d, output %q", c.args, r.code, r.out)
		}
		for _, part := range c.want {
			if !strings.Contains(string(r.errOut), part) {
				t.Errorf("%v: %q does not say %q", c.args, r.errOut, part)
			}
		}
	}
	s.must("POST", mainLog+"/entries", `{"message":"still there"}`, http.StatusCreated)
	s.stop()
}

// TestServeLosesNothingWhenStopped stops it under load, with a stream open: the stream ends with a reason, and every entry that
// was acknowledged is there afterwards, once.
func TestServeLosesNothingWhenStopped(t *testing.T) {
	needsSignals(t)
	dir := filepath.Join(t.TempDir(), "data")
	s := startService(t, dir, nil)
	stream, err := http.NewRequest(http.MethodGet, s.url+mainLog+"/stream?from=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	stream.Header.Set("Authorization", "Bearer "+testToken)
	resp, err := http.DefaultClient.Do(stream) //nolint:bodyclose // below, once it is known that there is one
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	streamed := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(resp.Body)
		streamed <- string(data)
	}()
	l := newLoad(t, s, 4)
	l.until(200)
	s.stop()
	acked := l.end()
	if got := <-streamed; !strings.Contains(got, "event: error") || !strings.Contains(got, "shutting-down") {
		t.Errorf("the stream ended without its reason: …%s", got[max(0, len(got)-300):])
	}
	s = startService(t, dir, nil)
	defer s.stop()
	checkOnce(t, s, acked, true)
}

// load is clients that append events, each with an idempotency key, and try each again until it is acknowledged.
type load struct {
	t    *testing.T
	mu   sync.Mutex
	urls *served // where the service is now
	done bool
	wg   sync.WaitGroup

	acked map[string]uint64 // message -> index
	moved *sync.Cond
	seen  int // acknowledgements in all
}

func newLoad(t *testing.T, s *served, clients int) *load {
	l := &load{t: t, urls: s, acked: map[string]uint64{}}
	l.moved = sync.NewCond(&l.mu)
	for c := range clients {
		l.wg.Go(func() { l.client(c) })
	}
	return l
}

func (l *load) client(c int) {
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for n := 0; ; n++ {
		message := fmt.Sprintf("%d/%d", c, n)
		for {
			l.mu.Lock()
			s, done := l.urls, l.done
			l.mu.Unlock()
			if done {
				return
			}
			status, data, err := s.request(client, http.MethodPost, mainLog+"/entries", `{"message":"`+message+`"}`, "key-"+message)
			if err != nil || status == http.StatusServiceUnavailable {
				time.Sleep(time.Millisecond) // it is being killed, or started: the same again
				continue
			}
			var r immutable.Receipt
			if status != http.StatusCreated || json.Unmarshal(data, &r) != nil {
				l.t.Errorf("%s: %d %s", message, status, data)
				return
			}
			l.mu.Lock()
			l.acked[message] = r.Index
			l.seen++
			l.moved.Broadcast()
			l.mu.Unlock()
			break
		}
	}
}

// until waits for n more acknowledgements.
func (l *load) until(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for target := l.seen + n; l.seen < target && !l.t.Failed(); {
		l.moved.Wait()
	}
}

// move tells the clients where the service is now.
func (l *load) move(s *served) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.urls = s
}

func (l *load) end() map[string]uint64 {
	l.mu.Lock()
	l.done = true
	l.mu.Unlock()
	l.wg.Wait()
	return l.acked
}

// checkOnce reads the log from the service: every acknowledged event stands once, at the index that was acknowledged, and no
// event stands twice. Then the service verifies it.
func checkOnce(t *testing.T, s *served, acked map[string]uint64, proven bool) {
	t.Helper()
	seen := map[string]uint64{}
	body := s.must(http.MethodGet, mainLog+"/export?format=jsonl", "", http.StatusOK)
	for line := range bytes.Lines(body) {
		var e struct {
			Message string
			Index   *uint64
			Level   string
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if !regexp.MustCompile(`^\d+/\d+$`).MatchString(e.Message) {
			continue
		}
		if at, twice := seen[e.Message]; twice {
			t.Fatalf("%s stands at %d and again", e.Message, at)
		}
		seen[e.Message] = 0
		if e.Index != nil {
			seen[e.Message] = *e.Index
			if want, was := acked[e.Message]; was && want != *e.Index {
				t.Errorf("%s was acknowledged at %d and stands at %d", e.Message, want, *e.Index)
			}
		}
	}
	for message := range acked {
		if _, there := seen[message]; !there {
			t.Errorf("%s was acknowledged and is not there", message)
		}
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged")
	}
	if proven {
		verifyService(t, s)
	}
}

// verifyService has the service verify the log, and waits for what it finds.
func verifyService(t *testing.T, s *served) {
	t.Helper()
	var job struct{ ID, Phase, Verdict, Error string }
	if err := json.Unmarshal(s.must(http.MethodPost, mainLog+"/verifications", `{"indexes":true}`, http.StatusAccepted), &job); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); job.Phase != "done" && job.Phase != "failed"; {
		if time.Now().After(end) {
			t.Fatalf("the verification is %+v", job)
		}
		time.Sleep(10 * time.Millisecond)
		if err := json.Unmarshal(s.must(http.MethodGet, mainLog+"/verifications/"+job.ID, "", http.StatusOK), &job); err != nil {
			t.Fatal(err)
		}
	}
	if job.Verdict != "proven" {
		t.Errorf("the verification says %+v", job)
	}
}

// TestKillNineOfTheService kills the service at random moments while four clients append, each event with its idempotency key, again
// and again until it is acknowledged. Afterwards each is there exactly once.
func TestKillNineOfTheService(t *testing.T) {
	rounds := 3
	if os.Getenv("IMMUTABLE_LONG") != "" {
		rounds = 50
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("IMMUTABLE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("IMMUTABLE_SEED=%d", seed)
	rng := mrand.New(mrand.NewPCG(seed, 10))
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"--rotate-size", "65536"}
	s := startService(t, dir, nil, args...)
	l := newLoad(t, s, 4)
	for range rounds {
		l.until(1 + rng.IntN(400))
		time.Sleep(time.Duration(rng.IntN(5000)) * time.Microsecond) // a random moment within whatever it does now
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("it ended by itself: %v\n%s", err, s.said)
		}
		s = startService(t, dir, nil, args...)
		l.move(s)
		if t.Failed() {
			break
		}
	}
	l.until(50)
	acked := l.end()
	t.Logf("%d events acknowledged over %d kills", len(acked), rounds)
	checkOnce(t, s, acked, true)
	s.stop()
	rep, err := immutable.VerifyDir(t.Context(), filepath.Join(dir, "tenants", "default", "logs", "main"), &immutable.Config{StateDir: filepath.Join(dir, "state", "default")}, immutable.VerifyOptions{Indexes: true})
	if err != nil || rep.Verdict != immutable.Proven {
		t.Errorf("verified from outside: %+v, %v", rep, err)
	}
}

// TestServeHoldsIdleConnections opens as many as descriptors allow, up to 10,000, and holds that the service answers beside them,
// and that each costs it little.
func TestServeHoldsIdleConnections(t *testing.T) {
	needsSignals(t)
	connections := min(10_000, fileLimit()-500)
	if connections < 500 {
		t.Skipf("only %d connections could be opened here", connections)
	}
	s := startService(t, filepath.Join(t.TempDir(), "data"), nil)
	s.must(http.MethodGet, mainLog+"/stats", "", http.StatusOK)
	before := residentKiB(t, s.cmd.Process.Pid)
	address := strings.TrimPrefix(s.url, "http://")
	for range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// One request, so that it is an idle connection, and not one that has yet to send its first.
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
	s.must(http.MethodPost, mainLog+"/entries", `{"message":"beside them"}`, http.StatusCreated)
	if before > 0 {
		grown := residentKiB(t, s.cmd.Process.Pid) - before
		t.Logf("%d connections cost %d MiB", connections, grown>>10)
		most := 64
		if underRaceDetector() {
			most = 256
		}
		if per := grown / connections; per > most {
			t.Errorf("%d KiB for each of %d connections", per, connections)
		}
	}
	s.stop()
}

// underRaceDetector: the service is this binary, and with the detector everything takes several times the memory.
func underRaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// residentKiB is what the process has in memory; 0 where the system does not say.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(data)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestHealthcheckAgreesWithTheService(t *testing.T) {
	needsSignals(t)
	s := startService(t, filepath.Join(t.TempDir(), "data"), nil)
	mustRun(t, nil, nil, "healthcheck", s.url+"/readyz")
	env := map[string]string{"IMMUTABLE_LISTEN": strings.TrimPrefix(s.url, "http://")}
	if r := mustRun(t, env, nil, "healthcheck", "--json"); !strings.Contains(string(r.out), `"healthy":true`) {
		t.Errorf("got %s", r.out)
	}
	if r := run(t, nil, nil, "healthcheck", s.url+"/no/such"); r.code != exitUnknown {
		t.Errorf("exit code %d for a page that is not there", r.code)
	}
	s.stop()
	if r := run(t, env, nil, "healthcheck"); r.code != exitUnknown || !strings.Contains(string(r.errOut), "not healthy") {
		t.Errorf("exit code %d, %s", r.code, r.errOut)
	}
	for _, bad := range []string{"ftp://x", "x", "http://"} {
		if r := run(t, nil, nil, "healthcheck", bad); r.code != exitUnknown || !strings.Contains(string(r.errOut), "want a URL") {
			t.Errorf("%s: %d %s", bad, r.code, r.errOut)
		}
	}
}

// TestServeTellsItsServiceManager is systemd's side of a start and a stop.
func TestServeTellsItsServiceManager(t *testing.T) {
	needsSignals(t)
	dir, err := os.MkdirTemp("", "im") // short enough for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 100)
	go func() {
		defer close(heard)
		for buf := make([]byte, 4096); ; {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	s := startService(t, filepath.Join(dir, "data"), []string{"NOTIFY_SOCKET=" + filepath.Join(dir, "notify"), "WATCHDOG_USEC=100000"})
	var states []string
	collect := func(want string) {
		t.Helper()
		for state := range heard {
			states = append(states, state)
			if strings.HasPrefix(state, want) {
				return
			}
		}
		t.Fatalf("no %s in %q", want, states)
	}
	collect("READY=1\nSTATUS=serving on " + s.url)
	collect("WATCHDOG=1")
	collect("WATCHDOG=1")
	s.stop()
	collect("STOPPING=1")
}

// TestServeOverTLS holds that the whole service speaks HTTP/2 with the hybrid key exchange, takes a new certificate into use
// while a stream goes on, and serves profiles and metrics to whom they are for.
func TestServeOverTLS(t *testing.T) {
	needsSignals(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := x509.NewCertPool()
	put := func(serial int64) {
		c, k := selfSigned(t, serial)
		pool.AppendCertsFromPEM(c)
		for name, data := range map[string][]byte{cert: c, key: k} {
			if err := os.WriteFile(name+".new", data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(name+".new", name); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(1)
	profiles, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pprof := profiles.Addr().String()
	profiles.Close()
	s := startService(t, filepath.Join(dir, "data"), nil, "--tls-cert", cert, "--tls-key", key, "--metrics", "token", "--pprof-listen", pprof)
	client := func() *http.Client {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: time.Minute}
	}
	old := client()
	serial := func(c *http.Client) int64 {
		t.Helper()
		resp, err := c.Get(s.url + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.Proto != "HTTP/2.0" || resp.TLS.CurveID != tls.X25519MLKEM768 {
			t.Errorf("%s, %v", resp.Proto, resp.TLS.CurveID)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(old); got != 1 {
		t.Fatalf("serial %d", got)
	}
	put(2)
	for end := time.Now().Add(time.Minute); serial(client()) != 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the new certificate is not in use")
		}
	}
	if got := serial(old); got != 1 {
		t.Errorf("a connection that was open has serial %d: it was not kept", got)
	}
	resp, err := client().Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("metrics without a token: %s", resp.Status)
	}
	if status, data, err := s.request(client(), http.MethodGet, "/metrics", "", ""); err != nil || status != http.StatusOK || !bytes.Contains(data, []byte(`immutable_log_up{log="main",tenant="default"} 1`)) || !bytes.Contains(data, []byte("immutable_tls_certificate_expiry_timestamp_seconds")) {
		t.Errorf("metrics with a token: %d %v %.300s", status, err, data)
	}
	resp, err = http.Get("http://" + pprof + "/debug/pprof/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("profiles: %s", resp.Status)
	}
	if status, _, err := s.request(client(), http.MethodGet, "/debug/pprof/cmdline", "", ""); err != nil || status != http.StatusNotFound {
		t.Errorf("profiles on the service's own port: %d %v", status, err)
	}
	s.stop()
}

func selfSigned(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd})
}

// TestUnitIsWhatSystemdTakes has systemd read the unit, and say how far it shuts the service in.
func TestUnitIsWhatSystemdTakes(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "systemd", "immutable.service"))
	if err != nil {
		t.Fatal(err)
	}
	// verify wants the program to exist: this one does.
	binary, err := exec.LookPath("immutable")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "immutable.service")
	if err := os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/local/bin/immutable"), []byte(binary)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), tool, "verify", unit).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "immutable.service") || strings.Contains(line, unit) {
			t.Error(line)
		}
	}
	if err != nil {
		t.Logf("systemd-analyze verify: %v\n%s", err, out)
	}
	// In tenths: 2.0 is "OK", what comes with no sandbox is 9.6.
	if out, err := exec.CommandContext(t.Context(), tool, "security", "--offline=true", "--threshold=20", unit).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
