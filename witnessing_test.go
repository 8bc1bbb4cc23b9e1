package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/internal/witness"
	"github.com/tree-of-life-system/immutable/proof"
)

// witnessed is one witness of a test: ours, behind a handler that a test may put in its way.
type witnessed struct {
	name string
	s    *witness.Server
	disk *vfstest.Disk
	srv  *httptest.Server

	mu       sync.Mutex
	front    http.HandlerFunc // instead of the witness; nil lets it answer
	requests []string         // methods and first lines of the requests
}

// newWitness starts a witness of the logs with the given first keys.
func newWitness(t testing.TB, name string, vkeys ...string) *witnessed {
	t.Helper()
	x := &witnessed{name: name, disk: vfstest.New()}
	var keys []proof.Key
	for _, v := range vkeys {
		k, err := proof.ParseKey(v)
		must(t, err)
		keys = append(keys, k)
	}
	var err error
	x.s, err = witness.New(x.disk, "w", witness.Config{Name: name + ".example.com", Logs: keys})
	must(t, err)
	x.srv = httptest.NewServer(x)
	t.Cleanup(func() {
		x.srv.CloseClientConnections()
		x.srv.Close()
		_ = x.s.Close()
	})
	return x
}

func (x *witnessed) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	line, _, _ := strings.Cut(string(body), "\n")
	x.mu.Lock()
	x.requests = append(x.requests, r.Method+" "+line)
	front := x.front
	x.mu.Unlock()
	if front != nil {
		front(rw, r)
		return
	}
	x.s.ServeHTTP(rw, r)
}

func (x *witnessed) setFront(f http.HandlerFunc) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.front = f
}

func (x *witnessed) seen() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([]string(nil), x.requests...)
}

// lines are the policy's lines for a witness: its Ed25519 key under its name, the ML-DSA key with "-ml" behind it.
func (x *witnessed) lines() string {
	keys := x.s.Keys()
	return fmt.Sprintf("witness %s %s %s\nwitness %s-ml %s %s\n", x.name, keys[0], x.srv.URL, x.name, keys[1], x.srv.URL)
}

// policyOf asks for the Ed25519 cosignatures of k of the witnesses.
func policyOf(t testing.TB, k int, ws ...*witnessed) *proof.Policy {
	t.Helper()
	var text, names string
	for _, x := range ws {
		text += x.lines()
		names += " " + x.name
	}
	p, err := proof.ParsePolicy(fmt.Appendf(nil, "%sgroup quorum %d%s\nquorum quorum\n", text, k, names))
	must(t, err)
	return p
}

// withWitnesses is a log on a fake disk and three witnesses of it.
type withWitnesses struct {
	disk *vfstest.Disk
	cfg  *Config
	ws   []*witnessed
}

func newWithWitnesses(t testing.TB) *withWitnesses {
	t.Helper()
	x := &withWitnesses{disk: vfstest.New()}
	x.cfg = diskConfig(x.disk, newClock())
	l := x.open(t)
	must(t, l.Close())
	for _, name := range []string{"one", "two", "three"} {
		x.ws = append(x.ws, newWitness(t, name, l.VerifierKeys()[0]))
	}
	x.cfg.Policy = policyOf(t, 2, x.ws...)
	return x
}

func (x *withWitnesses) open(t testing.TB) *Log {
	t.Helper()
	x.cfg.fs = x.disk
	l, err := Open(diskDir, x.cfg)
	must(t, err)
	return l
}

// session appends n entries and closes: the last checkpoint is shown to the witnesses.
func (x *withWitnesses) session(t *testing.T, n int) *Log {
	t.Helper()
	l := x.open(t)
	fill(t, l, n, 1)
	must(t, l.Close())
	return l
}

func (x *withWitnesses) cosigned(t testing.TB) proof.PolicyResult {
	t.Helper()
	note, err := x.disk.ReadFileRaw(diskDir + "/cosigned")
	must(t, err)
	return x.cfg.Policy.Check(note)
}

// eventually waits for what other goroutines bring about.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 4000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond) // only how often is looked; the outcome does not depend on it
	}
	t.Fatalf("never: %s", what)
}

func TestPublishedCheckpointsAreCosigned(t *testing.T) {
	x := newWithWitnesses(t)
	l := x.open(t)
	fill(t, l, 5, 1)
	must(t, l.publisher.publish(true))
	eventually(t, "cosigned", func() bool { return l.Witnessing().CosignedSize == l.Size() })
	fill(t, l, 300, 100)
	must(t, l.Close())
	r := x.cosigned(t)
	if !r.Satisfied || r.Checkpoint.Size != l.Size() {
		t.Fatalf("cosigned: %d entries of %d, %s", r.Checkpoint.Size, l.Size(), r.Quorum)
	}
	for _, w := range r.Witnesses {
		if !w.Signed {
			t.Errorf("%s did not sign", w.Name)
		}
	}
	s := l.Witnessing()
	if !s.Satisfied || s.CosignedSize != l.Size() || s.UnmetSince != nil || s.CosignedTime == nil {
		t.Errorf("state %+v", s)
	}
	for _, w := range s.Witnesses {
		if w.Size != l.Size() || w.Time == nil || w.Error != "" {
			t.Errorf("witness %+v", w)
		}
	}
	rep, err := VerifyDir(context.Background(), diskDir, x.cfg, VerifyOptions{NoHead: true, Policy: x.cfg.Policy})
	must(t, err)
	if rep.Verdict != Proven || len(rep.Notes) > 0 || !rep.Witnessed.Satisfied || rep.Witnessed.Size != l.Size() {
		t.Errorf("verdict %s, witnessed %+v, findings %v, notes %v", rep.Verdict, rep.Witnessed, rep.Findings, rep.Notes)
	}
	// Checkpoints that are kept keep their cosignatures.
	for _, size := range []uint64{5, l.Size()} {
		note, err := x.disk.ReadFileRaw(fmt.Sprintf("%s/evidence/%020d.note", diskDir, size))
		must(t, err)
		if r := x.cfg.Policy.Check(note); !r.Satisfied || r.Checkpoint.Size != size {
			t.Errorf("evidence of size %d: %+v", size, r)
		}
	}
}

// TestReceiptsCarryCosignatures: a proof is made against the cosigned checkpoint wherever that covers the entry.
func TestReceiptsCarryCosignatures(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	for _, w := range x.ws {
		w.setFront(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "gone", http.StatusGone) })
	}
	l := x.open(t)
	fill(t, l, 5, 1)
	for index, cosigned := range map[uint64]bool{0: true, 4: true, 5: false, 9: false} {
		data, err := l.Proof(context.Background(), index)
		must(t, err)
		p, err := proof.ParseInclusionProof(data)
		must(t, err)
		if got := x.cfg.Policy.Check(p.Checkpoint).Satisfied; got != cosigned {
			t.Errorf("receipt of entry %d is cosigned: %v", index, got)
		}
	}
	must(t, l.Close())
	ro, err := Open(diskDir, &Config{ReadOnly: true, StateDir: diskState, Policy: x.cfg.Policy, fs: x.disk})
	must(t, err)
	defer ro.Close()
	if s := ro.Witnessing(); s.Satisfied || s.CosignedSize != 5 || s.CosignedTime == nil {
		t.Errorf("a reader's view: %+v", s)
	}
	if note, err := ro.Cosigned(); err != nil || !x.cfg.Policy.Check(note).Satisfied {
		t.Errorf("cosigned: %v", err)
	}
}

// TestQuorumNeedsItsWitnesses takes witnesses away: the log goes on whatever they do, and says how it is.
func TestQuorumNeedsItsWitnesses(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	x.ws[0].srv.Close()
	l := x.session(t, 5)
	if s := l.Witnessing(); !s.Satisfied || s.CosignedSize != 10 || s.Witnesses[0].Error == "" || s.Witnesses[2].Error != "" {
		t.Errorf("with two of three: %+v", s)
	}
	x.ws[1].srv.Close()
	l = x.session(t, 5)
	s := l.Witnessing()
	if s.Satisfied || s.CosignedSize != 10 || s.UnmetSince == nil || !strings.Contains(s.Quorum, "1 of 2 needed") {
		t.Errorf("with one of three: %+v", s)
	}
	if s.Witnesses[0].Size != 0 || s.Witnesses[1].Time != nil || s.Witnesses[2].Size != 10 || s.Witnesses[4].Size != 15 {
		t.Errorf("sizes %+v", s.Witnesses)
	}
	if r := x.cosigned(t); r.Checkpoint.Size != 10 {
		t.Errorf("what does not satisfy the policy replaced what does: %d", r.Checkpoint.Size)
	}
	if l.Size() != 15 {
		t.Errorf("%d entries", l.Size())
	}
}

// TestWitnessesThatComeBackAreAsked needs no new entry.
func TestWitnessesThatComeBackAreAsked(t *testing.T) {
	x := newWithWitnesses(t)
	for _, w := range x.ws[:2] {
		w.setFront(func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "later", http.StatusServiceUnavailable) })
	}
	l := x.open(t)
	fill(t, l, 5, 1)
	must(t, l.publisher.publish(false))
	eventually(t, "refusals", func() bool {
		return len(x.ws[0].seen()) > 0 && len(x.ws[1].seen()) > 0 && l.Witnessing().Witnesses[4].Size == 5
	})
	if l.Witnessing().Satisfied {
		t.Fatal("satisfied without a quorum")
	}
	x.ws[1].setFront(nil)
	eventually(t, "quorum", func() bool { return l.Witnessing().Satisfied && l.Witnessing().CosignedSize == 5 })
	must(t, l.Close())
}

// TestSizesAreRemembered: the next session asks each witness from the size that it has; a lost or damaged file costs a request.
func TestSizesAreRemembered(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	before := len(x.ws[0].seen())
	x.session(t, 3)
	if got := fmt.Sprint(x.ws[0].seen()[before:]); got != "[POST old 5 POST old 5]" {
		t.Errorf("asked %s", got)
	}
	name := ""
	for _, f := range x.disk.Files() {
		if strings.HasSuffix(f, "/witnesses") {
			name = f
		}
	}
	for _, text := range []string{"", "garbage\n", witnessesHeader + "\n99 " + x.ws[0].srv.URL + "\nx y\n\n"} {
		must(t, x.disk.Remove(name))
		f, err := x.disk.Create(name, 0o600)
		must(t, err)
		_, err = f.WriteAt([]byte(text), 0)
		must(t, err)
		must(t, f.Close())
		if l := x.session(t, 2); l.Witnessing().CosignedSize != l.Size() || l.Witnessing().Witnesses[0].Size != l.Size() {
			t.Errorf("with %q: %+v", text, l.Witnessing())
		}
	}
}

// refusedBy opens the log, appends, publishes, and wants to be refused as forked or rolled back, without a further signature.
func (x *withWitnesses) refusedBy(t *testing.T, reason string) *RefusedError {
	t.Helper()
	before, err := x.disk.ReadFileRaw(diskDir + "/checkpoint")
	must(t, err)
	l := x.open(t)
	err = l.publisher.publish(true)
	if err == nil { // nothing was new
		_, err = l.Info(context.Background(), "one more", nil)
		err = errors.Join(err, l.publisher.publish(true))
	}
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("published: %v", err)
	}
	if !strings.Contains(refused.Reason, reason) || refused.Ours == "" || refused.Known == "" {
		t.Errorf("refused: %v", refused)
	}
	eventually(t, "appends end", func() bool { _, err := l.Info(context.Background(), "more", nil); return errors.As(err, &refused) })
	if err := l.Close(); !errors.As(err, &refused) {
		t.Errorf("close: %v", err)
	}
	after, err := x.disk.ReadFileRaw(diskDir + "/checkpoint")
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("a condemned log signed once more")
	}
	return refused
}

// TestRestoredMachineIsRefused puts the whole machine, head and keys too, back to an earlier state: only the witnesses know.
func TestRestoredMachineIsRefused(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	backup := x.disk.Clone()
	x.session(t, 5)
	x.disk = backup
	refused := x.refusedBy(t, "rolled back")
	if c, err := proof.OpenCheckpoint([]byte(refused.Known), x.cfg.Origin, []proof.Key{logKey(t, x)}); err != nil || c.Size != 10 {
		t.Errorf("the evidence is of size %d: %v", c.Size, err)
	}
	// It is kept, and it is refused every time.
	_ = x.refusedBy(t, "rolled back")
	kept := 0
	for _, f := range x.disk.Files() {
		if strings.Contains(f, "/witnessed-") {
			kept++
		}
	}
	if kept != 1 {
		t.Errorf("%d checkpoints kept as evidence", kept)
	}
}

func logKey(t testing.TB, x *withWitnesses) proof.Key {
	t.Helper()
	ro, err := Open(diskDir, &Config{ReadOnly: true, StateDir: diskState, fs: x.disk})
	must(t, err)
	defer ro.Close()
	k, err := proof.ParseKey(ro.VerifierKeys()[0])
	must(t, err)
	return k
}

// TestForkIsRefusedWithAProof lets two copies of one log, with one key, go on apart: the second is refused, and a file proves
// the fork to anybody. The sizes at which they part make proofs of different shapes.
func TestForkIsRefusedWithAProof(t *testing.T) {
	for _, tt := range []struct{ common, first, second int }{{5, 2, 2}, {5, 2, 4}, {3, 1, 300}, {3, 5, 9}, {250, 6, 300}} {
		t.Run(fmt.Sprintf("%d+%d,%d", tt.common, tt.first, tt.second), func(t *testing.T) {
			x := newWithWitnesses(t)
			x.session(t, tt.common)
			policy := x.cfg.Policy
			other := x.disk.Clone()
			x.session(t, tt.first)
			x.disk, x.cfg.Policy = other, nil
			l := x.open(t)
			for range tt.second {
				_, err := l.Info(context.Background(), "another history", nil)
				must(t, err)
			}
			must(t, l.Close())
			x.cfg.Policy = policy
			_ = x.refusedBy(t, "forked")
			found := false
			for _, f := range x.disk.Files() {
				if !strings.Contains(f, "/misbehaviour-") {
					continue
				}
				data, err := x.disk.ReadFileRaw(f)
				must(t, err)
				m, err := proof.ParseMisbehaviour(data)
				must(t, err)
				c, err := m.Verify([]proof.Key{logKey(t, x)})
				must(t, err)
				if found = c.Size == uint64(tt.common+tt.first) && c.RootA != c.RootB; !found {
					t.Errorf("proves %+v", c)
				}
			}
			if !found {
				t.Error("no proof was kept")
			}
		})
	}
}

// TestNoSignatureBeforeWitnessesWereAsked holds the answer to the first request back: nothing is signed meanwhile, and
// appends go on.
func TestNoSignatureBeforeWitnessesWereAsked(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	backup := x.disk.Clone()
	x.session(t, 5)
	x.disk = backup
	asked, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	for _, w := range x.ws {
		w.setFront(func(rw http.ResponseWriter, r *http.Request) {
			once.Do(func() { close(asked) })
			<-answer
			w.s.ServeHTTP(rw, r)
		})
	}
	l := x.open(t)
	fill(t, l, 3, 1)
	published := make(chan error, 1)
	go func() { published <- l.publisher.publish(true) }()
	<-asked
	fill(t, l, 3, 1)
	if note, err := l.Checkpoint(); err != nil || !strings.HasPrefix(string(note), x.cfg.Origin+"\n5\n") {
		t.Errorf("signed before anybody was asked: %q, %v", note, err)
	}
	close(answer)
	var refused *RefusedError
	if err := <-published; !errors.As(err, &refused) {
		t.Errorf("published: %v", err)
	}
	if err := l.Close(); !errors.As(err, &refused) {
		t.Errorf("close: %v", err)
	}
}

// TestForkFoundAtCloseIsSaid: the witness learns of another history while this log is open, and this log learns of it with its last checkpoint.
func TestForkFoundAtCloseIsSaid(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	other := &withWitnesses{disk: x.disk.Clone(), cfg: &Config{}, ws: x.ws}
	*other.cfg = *x.cfg
	l := x.open(t)
	must(t, l.publisher.publish(true))
	<-l.witnessing.asked
	other.session(t, 9)
	fill(t, l, 3, 1)
	var refused *RefusedError
	if err := l.Close(); !errors.As(err, &refused) || !strings.Contains(refused.Reason, "rolled back, or goes on elsewhere") {
		t.Errorf("close: %v", err)
	}
}

// TestMaliciousWitnessHarmsNobody puts one of everything in the place of one witness. The other two make the quorum, the
// log goes on, is not condemned, and nothing of the answer is in the file.
func TestMaliciousWitnessHarmsNobody(t *testing.T) {
	stranger := func(t *testing.T, origin string, size uint64) []byte {
		k, err := proof.NewKey(proof.TypeEd25519, origin, sha256.Sum256([]byte("stranger")))
		must(t, err)
		text := proof.Checkpoint{Origin: origin, Size: size, Root: Hash{1}}.Text()
		line, err := k.SignatureLine(text, 0)
		must(t, err)
		return append([]byte(text+"\n"), line...)
	}
	size := func(n string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/x.tlog.size")
			rw.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(rw, n)
		}
	}
	monitor := func(note []byte) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				_, _ = rw.Write(note)
				return
			}
			size("1000000\n")(rw, r)
		}
	}
	text := func(s string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, s) }
	}
	for _, tt := range []struct {
		name  string
		front func(t *testing.T, x *withWitnesses) http.HandlerFunc
		want  string // in the witness's error
	}{
		{"never answers", func(*testing.T, *withWitnesses) http.HandlerFunc {
			return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, "deadline exceeded"},
		{"drips", func(*testing.T, *withWitnesses) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					_, _ = io.WriteString(rw, "—")
					_ = http.NewResponseController(rw).Flush()
					time.Sleep(time.Millisecond) // as slow as the attacker is
				}
			}
		}, "deadline exceeded"},
		{"huge", func(*testing.T, *withWitnesses) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := rw.Write(bytes.Repeat([]byte("— x AAAA\n"), 10000)); err != nil {
						return
					}
				}
			}
		}, "more than 65536 bytes"},
		{"empty", func(*testing.T, *withWitnesses) http.HandlerFunc { return text("") }, "unusable answer"},
		{"garbage", func(*testing.T, *withWitnesses) http.HandlerFunc { return text("\x00\xff\n\n— \n") }, "unusable answer"},
		{"another text", func(*testing.T, *withWitnesses) http.HandlerFunc { return text("hello\n\n— x AAAAAAAA\n") }, "empty line"},
		{"wrong key", func(t *testing.T, x *withWitnesses) http.HandlerFunc {
			return newWitness(t, "evil", logKey(t, x).String()).ServeHTTP
		}, "none by the keys"},
		{"bad signature", func(_ *testing.T, x *withWitnesses) http.HandlerFunc {
			k := x.ws[0].s.Keys()[0]
			return text(fmt.Sprintf("— %s %s\n", k.Name(), base64Of(append([]byte{byte(k.ID() >> 24), byte(k.ID() >> 16), byte(k.ID() >> 8), byte(k.ID())}, make([]byte, 72)...))))
		}, "bad signature"},
		{"signature of another checkpoint", func(t *testing.T, x *withWitnesses) http.HandlerFunc {
			note, err := x.disk.ReadFileRaw(diskDir + "/cosigned")
			must(t, err)
			return text(string(note[bytes.LastIndex(note, []byte("\n\n"))+2:]))
		}, "bad signature"},
		{"redirect", func(_ *testing.T, x *withWitnesses) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, x.ws[1].srv.URL+r.URL.Path, http.StatusTemporaryRedirect)
			}
		}, "307"},
		{"a number that is none", func(*testing.T, *withWitnesses) http.HandlerFunc { return size("-1\n") }, "decimal"},
		{"409 without its type", func(*testing.T, *withWitnesses) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "5", http.StatusConflict) }
		}, "409"},
		{"never the right size", func(*testing.T, *withWitnesses) http.HandlerFunc { return size("2\n") }, "has size 2"},
		{"claims a larger size, shows nothing", func(*testing.T, *withWitnesses) http.HandlerFunc { return size("1000000\n") }, "cannot be fetched"},
		{"claims a larger size, shows garbage", func(*testing.T, *withWitnesses) http.HandlerFunc { return monitor([]byte("garbage")) }, "not signed by this log"},
		{"claims a larger size, shows a stranger's", func(t *testing.T, x *withWitnesses) http.HandlerFunc {
			return monitor(stranger(t, x.cfg.Origin, 1000000))
		}, "not signed by this log"},
		{"claims a larger size, shows another log's", func(t *testing.T, _ *withWitnesses) http.HandlerFunc {
			return monitor(stranger(t, "example.com/other", 1000000))
		}, "not signed by this log"},
		{"claims a larger size, shows an older checkpoint", func(t *testing.T, x *withWitnesses) http.HandlerFunc {
			note, err := x.disk.ReadFileRaw(diskDir + "/cosigned")
			must(t, err)
			return monitor(note)
		}, "part of this log"},
		{"says that the proof is bad", func(*testing.T, *withWitnesses) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) {
				http.Error(rw, "\x1b[31mno", http.StatusUnprocessableEntity)
			}
		}, `\x1b[31mno`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			x := newWithWitnesses(t)
			x.session(t, 5)
			x.cfg.WitnessTimeout = 150 * time.Millisecond
			if !strings.Contains(tt.want, "deadline") {
				x.cfg.WitnessTimeout = 0
			}
			x.ws[0].setFront(tt.front(t, x))
			l := x.open(t)
			fill(t, l, 5, 1)
			must(t, l.publisher.publish(true))
			eventually(t, "the others sign", func() bool { return l.Witnessing().CosignedSize == 10 })
			must(t, l.Close())
			s := l.Witnessing()
			if !strings.Contains(s.Witnesses[0].Error, tt.want) {
				t.Errorf("error %q, want %q", s.Witnesses[0].Error, tt.want)
			}
			if s.Witnesses[0].Size > 5 || s.Witnesses[1].Size > 5 {
				t.Errorf("counted: %+v", s.Witnesses[:2])
			}
			note, err := x.disk.ReadFileRaw(diskDir + "/cosigned")
			must(t, err)
			n, err := proof.ParseNote(note)
			must(t, err)
			if r := x.cfg.Policy.Check(note); !r.Satisfied || r.Witnesses[0].Signed || len(n.Signatures) != len(l.VerifierKeys())+4 {
				t.Errorf("%d signatures in the file, satisfied %v", len(n.Signatures), r.Satisfied)
			}
			x.ws[0].setFront(nil) // and it may come back
			if l := x.session(t, 1); l.Witnessing().Witnesses[0].Size != 11 {
				t.Errorf("back: %+v", l.Witnessing().Witnesses[0])
			}
		})
	}
}

// TestCloseDoesNotWaitForAWitnessThatHangs: all of them hang, and the log is closed cleanly.
func TestCloseDoesNotWaitForAWitnessThatHangs(t *testing.T) {
	x := newWithWitnesses(t)
	for _, w := range x.ws {
		w.setFront(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	}
	x.cfg.WitnessTimeout = 50 * time.Millisecond
	l := x.session(t, 5)
	if s := l.Witnessing(); s.Satisfied || s.CosignedSize != 0 {
		t.Errorf("%+v", s)
	}
	if r := wantVerified(t, x.disk); r.Size != 5 {
		t.Errorf("%d entries", r.Size)
	}
}

func TestPolicyIsCheckedAtOpen(t *testing.T) {
	x := newWithWitnesses(t)
	k := x.ws[0].s.Keys()[0]
	stranger, err := proof.NewKey(proof.TypeEd25519, "example.com/other", [32]byte{1})
	must(t, err)
	var many strings.Builder
	for i := range proof.MaxSignatures - 2 {
		key, err := proof.NewKey(proof.TypeCosignature, "w.example.com", [32]byte{byte(i)})
		must(t, err)
		many.WriteString(fmt.Sprintf("witness w%d %s https://w%d.example.com\n", i, key.Key(), i))
	}
	for _, tt := range []struct{ policy, want string }{
		{fmt.Sprintf("log %s\nwitness a %s https://a.example.com/\nquorum a\n", stranger.Key(), k), "and not this one: add the line `log " + logKey(t, x).String()},
		{fmt.Sprintf("witness a %s ftp://a.example.com/\nquorum a\n", k), "want http://"},
		{fmt.Sprintf("witness a %s https://a.example.com/?x=y\nquorum a\n", k), "want http://"},
		{many.String() + "quorum none\n", "room for 13"},
	} {
		p, err := proof.ParsePolicy([]byte(tt.policy))
		must(t, err)
		x.cfg.Policy = p
		if l, err := Open(diskDir, x.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
			if err == nil {
				must(t, l.Close())
			}
		}
	}
	cfg := diskConfig(vfstest.New(), newClock())
	cfg.NoSignatures, cfg.Policy = true, policyOf(t, 2, x.ws...)
	if _, err := Open(diskDir, cfg); err == nil || !strings.Contains(err.Error(), "no signatures") {
		t.Errorf("unsigned: %v", err)
	}
	if left := x.disk.OpenFiles(); len(left) > 0 {
		t.Errorf("left open: %q", left)
	}
	// A policy may list the log, and a witness that cannot be asked.
	p, err := proof.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness a %s\n%squorum two\n", logKey(t, x), k, x.ws[1].lines()))
	must(t, err)
	x.cfg.Policy = p
	if s := x.session(t, 2).Witnessing(); !s.Satisfied || !strings.Contains(s.Witnesses[0].Error, "no URL") {
		t.Errorf("%+v", s)
	}
}

// TestUnmetQuorumIsAWarning, once, after a minute, and the end of it is said too.
func TestUnmetQuorumIsAWarning(t *testing.T) {
	x := newWithWitnesses(t)
	var logged bytes.Buffer
	x.cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	x.cfg.fs = x.disk
	l := &Log{cfg: *x.cfg, fs: x.disk, dir: diskDir, logger: x.cfg.Logger}
	must(t, l.readIdentity())
	w, err := newWitnessing(l)
	must(t, err)
	now := time.Unix(1800000000, 0)
	w.begin(published{note: []byte("example.com/disk\n5\n" + Hash{}.Base64() + "\n\n")}, now)
	if wait := w.watchQuorum(now.Add(59*time.Second), time.Hour); wait != time.Second || logged.Len() > 0 {
		t.Errorf("after 59 s: wait %v, said %s", wait, &logged)
	}
	w.begin(published{size: 6}, now.Add(59*time.Second)) // a newer checkpoint does not start the minute anew
	for range 3 {
		w.watchQuorum(now.Add(time.Minute), time.Hour)
	}
	if n := strings.Count(logged.String(), "lack the quorum"); n != 1 {
		t.Errorf("said %d times: %s", n, &logged)
	}
	w.round.satisfied = true
	w.watchQuorum(now.Add(2*time.Minute), time.Hour)
	if !strings.Contains(logged.String(), "quorum of witnesses again") || w.state.UnmetSince != nil {
		t.Errorf("the end is not said: %s", &logged)
	}
}

// TestFullDiskKeepsNoCosignaturesAndGoesOn: the file cosigned cannot be written; the log does not care.
func TestFullDiskKeepsNoCosignaturesAndGoesOn(t *testing.T) {
	x := newWithWitnesses(t)
	x.session(t, 5)
	x.disk.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpCreate && strings.HasSuffix(op.Name, "next/cosigned") {
			return errors.New("no")
		}
		return nil
	})
	l := x.session(t, 5)
	x.disk.SetFail(nil)
	if r := x.cosigned(t); r.Checkpoint.Size != 5 || l.Size() != 10 {
		t.Errorf("cosigned %d of %d", r.Checkpoint.Size, l.Size())
	}
	x.session(t, 1)
	if r := x.cosigned(t); r.Checkpoint.Size != 11 {
		t.Errorf("cosigned %d", r.Checkpoint.Size)
	}
}

// BenchmarkAppendWithWitnesses compares the append rate with three witnesses and without, in one run, on a real disk.
func BenchmarkAppendWithWitnesses(b *testing.B) {
	for _, with := range []bool{false, true, false, true} {
		b.Run(map[bool]string{false: "without", true: "with"}[with], func(b *testing.B) {
			dir := b.TempDir()
			cfg := &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench"}
			l, err := Open(filepath.Join(dir, "log"), cfg)
			must(b, err)
			must(b, l.Close())
			if with {
				var ws []*witnessed
				for _, name := range []string{"one", "two", "three"} {
					ws = append(ws, newWitness(b, name, l.VerifierKeys()[0]))
				}
				cfg.Policy = policyOf(b, 2, ws...)
			}
			l, err = Open(filepath.Join(dir, "log"), cfg)
			must(b, err)
			batch := events(0, 1000)
			b.ResetTimer()
			for range b.N {
				_, err := l.Append(context.Background(), batch...)
				must(b, err)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N*len(batch))/b.Elapsed().Seconds(), "entries/s")
			if with {
				eventually(b, "a quorum", func() bool { return l.Witnessing().CosignedSize > 0 })
			}
			must(b, l.Close())
			if _, err := os.Stat(filepath.Join(dir, "log", "cosigned")); (err == nil) != with {
				b.Fatal("cosigned where it should not be, or not where it should")
			}
		})
	}
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
