package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	witnessDir  = "w"
	witnessName = "witness.example.com/1"
	origin      = "example.com/log"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fakeLog is a log in memory: leaves and a key.
type fakeLog struct {
	t      testing.TB
	key    *proof.PrivateKey
	leaves []proof.Hash
}

func newKey(t testing.TB, typ byte, name, seed string) *proof.PrivateKey {
	t.Helper()
	k, err := proof.NewKey(typ, name, sha256.Sum256([]byte(seed)))
	must(t, err)
	return k
}

func newLog(t testing.TB, name string) *fakeLog {
	return &fakeLog{t: t, key: newKey(t, proof.TypeEd25519, name, "log "+name)}
}

// fork is a log of the same key with the first n leaves.
func (l *fakeLog) fork(n int) *fakeLog {
	return &fakeLog{t: l.t, key: l.key, leaves: bytes2(l.leaves[:n])}
}

func bytes2(h []proof.Hash) []proof.Hash { return append([]proof.Hash(nil), h...) }

// grow appends leaves up to n; what makes them this log's.
func (l *fakeLog) grow(n int, what string) *fakeLog {
	for len(l.leaves) < n {
		l.leaves = append(l.leaves, proof.LeafHash(fmt.Appendf(nil, "%s %d", what, len(l.leaves))))
	}
	return l
}

func (l *fakeLog) text(n int) string {
	root := proof.EmptyRoot()
	if n > 0 {
		root = proof.Root(l.leaves[:n])
	}
	return proof.Checkpoint{Origin: l.key.Key().Name(), Size: uint64(n), Root: root}.Text()
}

func (l *fakeLog) note(n int) []byte { return signed(l.t, l.text(n), l.key) }

func signed(t testing.TB, text string, keys ...*proof.PrivateKey) []byte {
	t.Helper()
	note := []byte(text + "\n")
	for _, k := range keys {
		line, err := k.SignatureLine(text, 1700000000)
		must(t, err)
		note = append(note, line...)
	}
	return note
}

// consistency is the naive RFC 6962 proof from a to b.
func (l *fakeLog) consistency(a, b int) []proof.Hash {
	if a == 0 || a == b {
		return nil
	}
	var sub func(m int, d []proof.Hash, whole bool) []proof.Hash
	sub = func(m int, d []proof.Hash, whole bool) []proof.Hash {
		if m == len(d) {
			if whole {
				return nil
			}
			return []proof.Hash{proof.Root(d)}
		}
		k := 1 << (bits.Len(uint(len(d)-1)) - 1)
		if m <= k {
			return append(sub(m, d[:k], whole), proof.Root(d[k:]))
		}
		return append(sub(m-k, d[k:], false), proof.Root(d[:k]))
	}
	return sub(a, l.leaves[:b], true)
}

// request asks for size b with the proof from size a.
func (l *fakeLog) request(a, b int) []byte {
	r := Request{Old: uint64(a), Proof: l.consistency(a, b), Note: l.note(b)}
	return r.Append(nil)
}

// fakeNow is a clock that a test sets.
type fakeNow struct{ t time.Time }

func (c *fakeNow) now() time.Time { return c.t }

func newNow() *fakeNow { return &fakeNow{time.Unix(1800000000, 0)} }

// open opens a witness of the given logs on a fake disk.
func open(t testing.TB, d vfs.FS, c *fakeNow, logs ...*fakeLog) *Server {
	t.Helper()
	s, err := New(d, witnessDir, config(c, logs...))
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func config(c *fakeNow, logs ...*fakeLog) Config {
	cfg := Config{Name: witnessName, now: c.now}
	for _, l := range logs {
		cfg.Logs = append(cfg.Logs, l.key.Key())
	}
	return cfg
}

// reply is an HTTP answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func do(s http.Handler, method, path string, body []byte) reply {
	r := httptest.NewRequest(method, path, bytes.NewReader(body)).WithContext(context.Background())
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, r)
	out, _ := io.ReadAll(rec.Body)
	return reply{rec.Code, rec.Header(), out}
}

func post(s http.Handler, body []byte) reply { return do(s, "POST", "/add-checkpoint", body) }

// cosigned posts a request that must succeed, and checks the answer: one good line by each key over the note's text.
func cosigned(t testing.TB, s *Server, body []byte) []proof.Signer {
	t.Helper()
	r := post(s, body)
	if r.status != http.StatusOK {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	signers, err := signersOf(body, r.body, s.Keys())
	must(t, err)
	if len(signers) != 2 || signers[0].Key.Type() != proof.TypeCosignature || signers[1].Key.Type() != proof.TypeMLDSA44 {
		t.Fatalf("signed by %v", signers)
	}
	return signers
}

func signersOf(request, answer []byte, keys []proof.Key) ([]proof.Signer, error) {
	req, err := ParseRequest(request)
	if err != nil {
		return nil, err
	}
	asked, err := proof.ParseNote(req.Note)
	if err != nil {
		return nil, err
	}
	n, err := proof.ParseNote([]byte(asked.Text + "\n" + string(answer)))
	if err != nil {
		return nil, err
	}
	signers, err := n.Verify(keys)
	if err == nil && len(signers) != len(n.Signatures) {
		err = errors.New("signatures by other keys")
	}
	return signers, err
}

func monitored(s http.Handler, origin string) reply {
	return do(s, "GET", "/"+originHash(origin)+"/checkpoint", nil)
}

func newDisk() *vfstest.Disk { return vfstest.New() }

func textOf(t testing.TB, note []byte) string {
	t.Helper()
	text, _, found := strings.Cut(string(note), "\n\n")
	if !found {
		t.Fatalf("no note: %q", note)
	}
	return text + "\n"
}
