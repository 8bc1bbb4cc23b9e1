package oracle

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// litewitness is a witness that we did not write, as a process.
type litewitness struct {
	url, vkey string
}

// startLitewitness builds and starts litewitness, with its key in an ssh-agent of ours, watching one log.
func startLitewitness(t *testing.T, origin, logKey string) *litewitness {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "litewitness")
	build := exec.Command("go", "install", "filippo.io/torchwood/cmd/litewitness@v0.9.0") // not in go.mod: what its own tests need is not served everywhere
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("litewitness cannot be built here: %v\n%s", err, out)
	}
	db := filepath.Join(dir, "db")
	watch(t, db, origin, logKey)
	socket, fingerprint := serveAgent(t, dir)
	address := freeAddress(t)
	cmd := exec.Command(bin, "-name", "lite.example.com", "-db", db, "-ssh-agent", socket, "-key", fingerprint, "-listen", address)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	x := &litewitness{url: "http://" + address}
	vkey := regexp.MustCompile(`vkey=(\S+)`)
	said := bufio.NewScanner(stderr)
	for x.vkey == "" && said.Scan() {
		if m := vkey.FindStringSubmatch(said.Text()); m != nil {
			x.vkey = m[1]
		}
	}
	go func() {
		for said.Scan() { // it must not block on its log
		}
	}()
	for range 200 { // it says its key before it listens
		if resp, err := http.Get(x.url + "/"); err == nil {
			resp.Body.Close()
			return x
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("litewitness does not listen on %s", address)
	return nil
}

// watch makes the database of litewitness with one log in it.
func watch(t *testing.T, name, origin, vkey string) {
	t.Helper()
	script := `import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL)")
db.execute("CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin))")
db.execute("INSERT INTO log VALUES (?, 0, ?)", (sys.argv[2], sys.argv[4]))
db.execute("INSERT INTO key VALUES (?, ?)", (sys.argv[2], sys.argv[3]))
db.commit()`
	out, err := exec.Command("python3", "-c", script, name, origin, vkey, proof.EmptyRoot().Base64()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// serveAgent is an ssh-agent with one Ed25519 key.
func serveAgent(t *testing.T, dir string) (socket, fingerprint string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, conn) }()
		}
	}()
	return socket, ssh.FingerprintSHA256(key)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestLitewitnessCosignsOurLog has litewitness follow a log of ours through sizes, sessions and a restored machine: it cosigns,
// torchwood opens the result under a policy of its own, and it refuses the other history.
func TestLitewitnessCosignsOurLog(t *testing.T) {
	if testing.Short() {
		t.Skip("builds litewitness")
	}
	root := t.TempDir()
	dir := filepath.Join(root, "log")
	cfg := &immutable.Config{StateDir: filepath.Join(root, "state"), Origin: "example.com/litewitnessed"}
	l, err := immutable.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	logKey := l.VerifierKeys()[0]
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w := startLitewitness(t, cfg.Origin, logKey)
	text := fmt.Sprintf("log %s\nwitness lite %s %s\nquorum lite\n", logKey, w.vkey, w.url)
	if cfg.Policy, err = proof.ParsePolicy([]byte(text)); err != nil {
		t.Fatal(err)
	}
	theirs, err := torchwood.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	session := func(n int) *immutable.Log {
		t.Helper()
		l, err := immutable.Open(dir, cfg)
		if err != nil {
			t.Fatal(err)
		}
		events := make([]immutable.Event, n)
		for i := range events {
			events[i].Message = fmt.Sprint("event ", i)
		}
		if _, err := l.Append(context.Background(), events...); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return l
	}
	size := uint64(0)
	for _, n := range []int{1, 1, 5, 249, 1, 600} {
		l := session(n)
		size += uint64(n)
		if s := l.Witnessing(); !s.Satisfied || s.CosignedSize != size || s.Witnesses[0].Error != "" {
			t.Fatalf("at size %d: %+v", size, s)
		}
		data, err := os.ReadFile(filepath.Join(dir, "cosigned"))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := note.Open(data, theirs)
		if err != nil {
			t.Fatalf("torchwood: %v", err)
		}
		c, err := torchwood.ParseCheckpoint(opened.Text)
		if err != nil {
			t.Fatal(err)
		}
		if err := theirs.Check(c.Origin, opened.Sigs); err != nil || c.N != int64(size) {
			t.Errorf("torchwood's policy at size %d: %v", c.N, err)
		}
	}
	// Its database says that the log has other entries: it refuses, says so by its status, and has no monitoring URL to show more.
	// The log goes on, and does not hide it.
	fork := startLitewitness(t, cfg.Origin, logKey)
	otherSession(t, fork, cfg.Origin, logKey, root)
	text = strings.ReplaceAll(strings.ReplaceAll(text, w.vkey, fork.vkey), w.url, fork.url)
	if cfg.Policy, err = proof.ParsePolicy([]byte(text)); err != nil {
		t.Fatal(err)
	}
	l = session(3)
	if s := l.Witnessing(); s.Satisfied || s.CosignedSize == size+3 || !strings.Contains(s.Witnesses[0].Error, "422") {
		t.Errorf("another history: %+v", s)
	}
}

// otherSession shows a witness another history of the log, signed with its key, from a copy of its state.
func otherSession(t *testing.T, w *litewitness, origin, logKey, root string) {
	t.Helper()
	secret, err := os.ReadFile(firstMatch(t, filepath.Join(root, "state", "*", "keys", "ed25519")))
	if err != nil {
		t.Fatal(err)
	}
	k, err := proof.ParsePrivateKey(strings.TrimSpace(string(secret)))
	if err != nil {
		t.Fatal(err)
	}
	if k.Key().String() != logKey {
		t.Fatalf("the key file has %s", k.Key())
	}
	text := proof.Checkpoint{Origin: origin, Size: 5, Root: proof.LeafHash([]byte("another history"))}.Text()
	line, err := k.SignatureLine(text, 0)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(w.url+"/add-checkpoint", "text/plain", strings.NewReader("old 0\n\n"+text+"\n"+string(line)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("litewitness answered %s", resp.Status)
	}
}

func firstMatch(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %q, %v", pattern, names, err)
	}
	return names[0]
}
