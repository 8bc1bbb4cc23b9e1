package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

func TestWitnessFollowsALogThatGrows(t *testing.T) {
	l := newLog(t, origin).grow(300, "entry")
	s := open(t, newDisk(), newNow(), l)
	last := 0
	for _, n := range []int{0, 1, 2, 3, 4, 7, 8, 255, 256, 257, 257, 300} {
		signers := cosigned(t, s, l.request(last, n))
		for _, x := range signers {
			if x.Time.Unix() != 1800000000 {
				t.Errorf("size %d: cosigned at %v", n, x.Time)
			}
		}
		last = n
		m := monitored(s, origin)
		if m.status != http.StatusOK || textOf(t, m.body) != l.text(n) {
			t.Fatalf("size %d: the monitoring URL has %d %q", n, m.status, m.body)
		}
		if _, err := proof.OpenCheckpoint(m.body, origin, []proof.Key{l.key.Key()}); err != nil {
			t.Errorf("size %d: the log's signature is not in the monitored checkpoint: %v", n, err)
		}
		note, err := proof.ParseNote(m.body)
		must(t, err)
		if got, err := note.Verify(s.Keys()); err != nil || len(got) != 2 {
			t.Errorf("size %d: cosignatures in the monitored checkpoint: %v, %v", n, got, err)
		}
	}
}

// TestStatusCodes holds each check of add-checkpoint to its status code. The witness has size 5.
func TestStatusCodes(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	other := newLog(t, "example.com/other").grow(9, "entry")
	impostor := &fakeLog{t: t, key: newKey(t, proof.TypeEd25519, origin, "impostor"), leaves: l.leaves}
	fork := l.fork(4).grow(9, "forked")
	bad := l.note(8) // the log's own signature, of another text
	bad = bytes.Replace(bad, []byte("\n8\n"), []byte("\n9\n"), 1)
	request := func(old int, p []proof.Hash, note []byte) []byte {
		return (&Request{Old: uint64(old), Proof: p, Note: note}).Append(nil)
	}
	good := l.request(5, 8)
	extension := signed(t, l.text(8)+"more\n", l.key)
	for _, tt := range []struct {
		name   string
		body   []byte
		status int
		want   string
	}{
		{"good", good, 200, "— " + witnessName + " "},
		{"empty", nil, 400, "want `old <size>`"},
		{"no old line", good[4:], 400, "does not begin"},
		{"leading zero", append([]byte("old 0"), good[4:]...), 400, "decimal"},
		{"negative", bytes.Replace(good, []byte("old 5"), []byte("old -5"), 1), 400, "decimal"},
		{"bad hash", bytes.Replace(good, []byte("\n"), []byte("\nAAAA\n"), 1), 400, "proof line 0"},
		{"64 hashes", request(5, make([]proof.Hash, 64), l.note(8)), 400, "at most 63"},
		{"63 hashes", request(5, make([]proof.Hash, 63), l.note(8)), 422, ""},
		{"no note", []byte("old 5\n\nhello\n"), 400, "malformed"},
		{"no signature", []byte("old 5\n\n" + l.text(8) + "\n"), 400, "signature line 0 is missing"},
		{"old above size", request(9, nil, l.note(8)), 400, "above"},
		{"extension line", request(5, l.consistency(5, 8), extension), 400, "three lines"},
		{"unknown origin", other.request(0, 5), 404, "does not watch"},
		{"unknown key", impostor.request(5, 8), 403, "no signature"},
		{"bad signature", request(5, l.consistency(5, 9), bad), 403, "bad signature"},
		{"smaller old", l.request(3, 8), 409, "5\n"},
		{"larger old", l.request(7, 8), 409, "5\n"},
		{"zero old", l.request(0, 8), 409, "5\n"},
		{"rolled back", l.request(3, 4), 409, "5\n"},
		{"no proof", request(5, nil, l.note(8)), 422, "not shown to continue"},
		{"proof of another tree", fork.request(5, 8), 422, "not shown to continue"},
		{"too long a proof", request(5, append(l.consistency(5, 8), proof.Hash{}), l.note(8)), 422, ""},
		{"same size, with a proof", request(5, l.consistency(5, 8), l.note(5)), 422, ""},
		{"same size, other root", fork.request(5, 5), 422, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, newDisk(), newNow(), l)
			cosigned(t, s, l.request(0, 5))
			before := monitored(s, origin)
			r := post(s, tt.body)
			if r.status != tt.status || !strings.Contains(string(r.body), tt.want) {
				t.Fatalf("%d %q, want %d %q", r.status, r.body, tt.status, tt.want)
			}
			if tt.status == 409 && (r.header.Get("Content-Type") != "text/x.tlog.size" || string(r.body) != "5\n") {
				t.Errorf("409 with %q %q", r.header.Get("Content-Type"), r.body)
			}
			if changed := !bytes.Equal(monitored(s, origin).body, before.body); changed != (tt.status == 200) {
				t.Errorf("state changed: %v", changed)
			}
			if tt.status != 200 && bytes.Contains(r.body, []byte("— ")) {
				t.Errorf("a refusal carries a signature: %q", r.body)
			}
		})
	}
}

// TestFirstCheckpointTakesNoProof: with old size 0 there is nothing to prove.
func TestFirstCheckpointTakesNoProof(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	s := open(t, newDisk(), newNow(), l)
	r := post(s, (&Request{Proof: l.consistency(5, 8), Note: l.note(8)}).Append(nil))
	if r.status != http.StatusUnprocessableEntity {
		t.Fatalf("%d %q", r.status, r.body)
	}
	if m := monitored(s, origin); m.status != http.StatusNotFound {
		t.Errorf("the monitoring URL has %d %q", m.status, m.body)
	}
	cosigned(t, s, l.request(0, 8))
}

func TestRequestsAreBounded(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	s := open(t, newDisk(), newNow(), l)
	r := post(s, append(l.request(0, 5), make([]byte, MaxRequest)...))
	if r.status != http.StatusBadRequest || !strings.Contains(string(r.body), "at most") {
		t.Errorf("%d %q", r.status, r.body)
	}
	for _, m := range []string{"GET", "PUT", "DELETE"} {
		if r := do(s, m, "/add-checkpoint", l.request(0, 5)); r.status != http.StatusMethodNotAllowed && r.status != http.StatusNotFound {
			t.Errorf("%s: %d", m, r.status)
		}
	}
	srv := HTTPServer(s)
	if srv.ReadHeaderTimeout <= 0 || srv.ReadTimeout <= 0 || srv.WriteTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 {
		t.Error("a server without one of its limits")
	}
}

// TestCosignatureTimesNeverGoBack steps the clock back, before 1970 too, and over a restart.
func TestCosignatureTimesNeverGoBack(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	second := newLog(t, "example.com/second").grow(9, "entry")
	d, c := newDisk(), newNow()
	s := open(t, d, c, l, second)
	at := func(s *Server, body []byte) int64 { return cosigned(t, s, body)[1].Time.Unix() }
	if got := at(s, l.request(0, 5)); got != 1800000000 {
		t.Errorf("cosigned at %d", got)
	}
	c.t = c.t.Add(-time.Hour)
	if got := at(s, l.request(5, 6)); got != 1800000000 {
		t.Errorf("with the clock an hour behind, cosigned at %d", got)
	}
	if got := at(s, second.request(0, 6)); got != 1800000000-3600 {
		t.Errorf("another log, cosigned at %d", got)
	}
	must(t, s.Close())
	s = open(t, d, c, l, second)
	if got := at(s, l.request(6, 6)); got != 1800000000 {
		t.Errorf("after a restart, cosigned at %d", got)
	}
	c.t = time.Unix(1800000007, 0)
	if got := at(s, l.request(6, 7)); got != 1800000007 {
		t.Errorf("when the clock has caught up, cosigned at %d", got)
	}
	c.t = time.Unix(-5, 0)
	third := newLog(t, "example.com/third").grow(9, "entry")
	must(t, s.SetLogs(config(c, third).Logs))
	if got := at(s, third.request(0, 1)); got != 1 {
		t.Errorf("before 1970, cosigned at %d, want a time that is not zero", got)
	}
}

// TestForkLeavesAProof: two histories signed by one key are refused, and what contradicts is kept as a file that proves it
// to anybody, also after a restart.
func TestForkLeavesAProof(t *testing.T) {
	l := newLog(t, origin).grow(20, "entry")
	for _, tt := range []struct {
		name   string
		body   func(fork *fakeLog) []byte
		status int
	}{
		{"same size", func(f *fakeLog) []byte { return f.request(7, 7) }, 422},
		{"same size, but another old size", func(f *fakeLog) []byte { return f.request(3, 7) }, 409},
		{"larger, with a proof from its own tree", func(f *fakeLog) []byte { return f.request(7, 12) }, 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, c := newDisk(), newNow()
			s := open(t, d, c, l)
			cosigned(t, s, l.request(0, 7))
			r := post(s, tt.body(l.fork(4).grow(20, "forked")))
			if r.status != tt.status {
				t.Fatalf("%d %q", r.status, r.body)
			}
			check := func(s *Server) {
				t.Helper()
				w := s.logs[origin]
				if len(w.proofs) != 1 {
					t.Fatalf("proofs %q", w.proofs)
				}
				got := do(s, "GET", "/misbehaviour/"+w.proofs[0], nil)
				if got.status != http.StatusOK || !strings.HasPrefix(string(got.body), "immutable/misbehaviour/1\n") {
					t.Fatalf("%d %q", got.status, got.body)
				}
				m, err := proof.ParseMisbehaviour(got.body)
				must(t, err)
				x, err := m.Verify([]proof.Key{l.key.Key()})
				must(t, err)
				if x.Size != 7 || x.RootA == x.RootB {
					t.Errorf("proves %+v", x)
				}
				if p := do(s, "GET", "/", nil); !strings.Contains(string(p.body), "misbehaviour/"+w.proofs[0]) {
					t.Error("the page does not link to the proof")
				}
			}
			check(s)
			cosigned(t, s, l.request(7, 9)) // the history that it knows goes on
			must(t, s.Close())
			check(open(t, d, c, l))
		})
	}
}

func TestNoiseIsNoProof(t *testing.T) {
	l := newLog(t, origin).grow(20, "entry")
	s := open(t, newDisk(), newNow(), l)
	cosigned(t, s, l.request(0, 7))
	for _, p := range [][]proof.Hash{nil, make([]proof.Hash, 3), l.consistency(6, 12)} {
		post(s, (&Request{Old: 7, Proof: p, Note: l.note(12)}).Append(nil))
	}
	if w := s.logs[origin]; len(w.proofs) != 0 {
		t.Errorf("proofs of misbehaviour out of noise: %q", w.proofs)
	}
}

// TestProofsAreBounded: somebody with the log's key cannot fill the disk.
func TestProofsAreBounded(t *testing.T) {
	l := newLog(t, origin).grow(20, "entry")
	d := newDisk()
	s := open(t, d, newNow(), l)
	cosigned(t, s, l.request(0, 7))
	for i := range maxProofsPerOrigin + 3 {
		post(s, l.fork(4).grow(20, fmt.Sprint("fork", i)).request(7, 7))
	}
	names, err := d.ReadDir(witnessDir + "/misbehaviour")
	must(t, err)
	if w := s.logs[origin]; len(names) != maxProofsPerOrigin || len(w.proofs) != len(names) || w.dropped != 3 {
		t.Errorf("%d files, %d known, %d dropped", len(names), len(w.proofs), w.dropped)
	}
}

// TestRacingRequestsGetOneHistory posts many contradicting checkpoints at once: those that were cosigned are one history.
func TestRacingRequestsGetOneHistory(t *testing.T) {
	l := newLog(t, origin).grow(6, "entry")
	s := open(t, newDisk(), newNow(), l)
	cosigned(t, s, l.request(0, 6))
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := map[string]int{}
	for i := range 24 {
		fork := l.fork(6).grow(9, fmt.Sprint("fork", i%8))
		wg.Go(func() {
			if r := post(s, fork.request(6, 9)); r.status == http.StatusOK {
				mu.Lock()
				accepted[fork.text(9)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(accepted) != 1 {
		t.Fatalf("%d histories were cosigned: %v", len(accepted), accepted)
	}
}

// TestCheckAndWriteAreOneStep: while a record is written no other request of that log is looked at.
func TestCheckAndWriteAreOneStep(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	d := newDisk()
	s := open(t, d, newNow(), l)
	w, writes := s.logs[origin], 0
	d.SetFail(func(op vfstest.Op) error {
		if op.Kind.Changes() {
			if writes++; w.turn.TryLock() {
				w.turn.Unlock()
				t.Errorf("%s %s without the log's turn", op.Kind, op.Name)
			}
		}
		return nil
	})
	cosigned(t, s, l.request(0, 5))
	d.SetFail(nil)
	if writes == 0 {
		t.Error("nothing was written")
	}
}

// TestWhatIsShownIsDurable kills a witness at each operation of a write, starts it again and looks at the monitoring URL: a
// power cut then does not take back what was there.
func TestWhatIsShownIsDurable(t *testing.T) {
	l := newLog(t, origin).grow(20, "entry")
	for n := range uint64(12) {
		d := newDisk()
		s := open(t, d, newNow(), l)
		cosigned(t, s, l.request(0, 5))
		d.CutAfter(n)
		post(s, l.request(5, 9))
		killed := d.Clone()
		s = open(t, killed, newNow(), l)
		shown := textOf(t, monitored(s, origin).body)
		s = open(t, killed.CrashKeep(vfstest.KeepNone), newNow(), l)
		if got := textOf(t, monitored(s, origin).body); got != shown {
			t.Errorf("killed after %d operations: it showed %q, and after a power cut %q", n, shown, got)
		}
	}
}

// TestDiskThatFailsSignsNothing fails each operation of the write in turn. No signature leaves, health says so, and what is
// then on the disk, old or new, is where the next request goes on from.
func TestDiskThatFailsSignsNothing(t *testing.T) {
	l := newLog(t, origin).grow(20, "entry")
	for fault := range 12 {
		for _, persisted := range []bool{false, true} {
			d := newDisk()
			s := open(t, d, newNow(), l)
			cosigned(t, s, l.request(0, 5))
			n, broken := 0, errors.New("broken")
			d.SetFail(func(op vfstest.Op) error {
				if !op.Kind.Changes() {
					return nil
				}
				if n++; n-1 != fault {
					return nil
				}
				if persisted {
					return vfstest.Persisted(broken)
				}
				return broken
			})
			r := post(s, l.request(5, 9))
			d.SetFail(nil)
			if n <= fault { // the write has no such operation
				if r.status != http.StatusOK {
					t.Fatalf("%d %q", r.status, r.body)
				}
				break
			}
			if r.status == http.StatusOK {
				continue // removing garbage that is not there may fail
			}
			if r.status != http.StatusInternalServerError || bytes.Contains(r.body, []byte("— ")) {
				t.Fatalf("operation %d: %d %q", fault, r.status, r.body)
			}
			if h := do(s, "GET", "/healthz", nil); h.status != http.StatusServiceUnavailable {
				t.Errorf("operation %d: health is %d", fault, h.status)
			}
			if m := monitored(s, origin); textOf(t, m.body) != l.text(5) {
				t.Errorf("operation %d: the monitoring URL has what may not be durable", fault)
			}
			cosigned(t, s, l.request(5, 9))
			if h := do(s, "GET", "/healthz", nil); h.status != http.StatusOK {
				t.Errorf("operation %d: health stays %d", fault, h.status)
			}
			after := open(t, d.CrashKeep(vfstest.KeepNone), newNow(), l)
			if after.logs[origin].known.size != 9 {
				t.Fatalf("operation %d: a power cut took what was answered", fault)
			}
		}
	}
}

// TestDamagedRecordIsNoNewBeginning: a witness that lost or cannot read what it has cosigned does not start again from
// nothing.
func TestDamagedRecordIsNoNewBeginning(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	name := witnessDir + "/logs/" + originHash(origin)
	for _, tt := range []struct {
		name, want string
		damage     func(t *testing.T, d *vfstest.Disk)
	}{
		{"flipped size", "bad signature", func(t *testing.T, d *vfstest.Disk) {
			data, err := d.ReadFileRaw(name)
			must(t, err)
			must(t, vfs.WriteAtomic(d, name+".x", name, bytes.Replace(data, []byte("\n5\n"), []byte("\n4\n"), 1), 0o600))
		}},
		{"emptied", "malformed", func(t *testing.T, d *vfstest.Disk) { must(t, vfs.WriteAtomic(d, name+".x", name, nil, 0o600)) }},
		{"without our signatures", "0 of 2 signatures", func(t *testing.T, d *vfstest.Disk) {
			must(t, vfs.WriteAtomic(d, name+".x", name, l.note(5), 0o600))
		}},
		{"of another origin", "it is of", func(t *testing.T, d *vfstest.Disk) {
			other := newLog(t, "example.com/other").grow(9, "entry")
			s := open(t, d, newNow(), l, other)
			cosigned(t, s, other.request(0, 3))
			must(t, s.Close())
			data, err := d.ReadFileRaw(witnessDir + "/logs/" + originHash("example.com/other"))
			must(t, err)
			must(t, vfs.WriteAtomic(d, name+".x", name, data, 0o600))
		}},
		{"logs/ is gone", "was lost", func(t *testing.T, d *vfstest.Disk) {
			must(t, d.Remove(name))
			must(t, d.Remove(witnessDir+"/logs"))
		}},
		{"keys are gone", "no keys", func(t *testing.T, d *vfstest.Disk) { must(t, d.Remove(witnessDir+"/keys")) }},
		{"keys are another's", "bad signature", func(t *testing.T, d *vfstest.Disk) {
			must(t, d.Remove(witnessDir+"/keys"))
			text := newKey(t, proof.TypeCosignature, witnessName, "x").String() + "\n" + newKey(t, proof.TypeMLDSA44, witnessName, "y").String() + "\n"
			must(t, vfs.WriteAtomic(d, witnessDir+"/k", witnessDir+"/keys", []byte(text), 0o600))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDisk()
			s := open(t, d, newNow(), l)
			cosigned(t, s, l.request(0, 5))
			must(t, s.Close())
			tt.damage(t, d)
			_, err := New(d, witnessDir, config(newNow(), l))
			if err == nil {
				t.Fatal("it opens")
			}
			if tt.name != "keys are another's" && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if left := d.OpenFiles(); len(left) > 0 {
				t.Errorf("left open: %q", left)
			}
		})
	}
}

func TestOneProcessAtATime(t *testing.T) {
	l := newLog(t, origin)
	d := newDisk()
	s := open(t, d, newNow(), l)
	var held *vfs.LockedError
	if _, err := New(d, witnessDir, config(newNow(), l)); !errors.As(err, &held) {
		t.Fatalf("a second one opens: %v", err)
	}
	must(t, s.Close())
	open(t, d, newNow(), l)
}

func TestConfigurationIsChecked(t *testing.T) {
	l := newLog(t, origin)
	for _, tt := range []struct {
		want   string
		config Config
	}{
		{"give it a name", Config{}},
		{"name of the witness", Config{Name: "a b"}},
		{"has this witness's name", Config{Name: origin, Logs: []proof.Key{l.key.Key()}}},
		{"a log's has 0x01 or 0x06", Config{Name: witnessName, Logs: []proof.Key{newKey(t, proof.TypeCosignature, origin, "x").Key()}}},
	} {
		if _, err := New(newDisk(), witnessDir, tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
	d := newDisk()
	s := open(t, d, newNow())
	keys := s.Keys()
	must(t, s.Close())
	if _, err := New(d, witnessDir, Config{Name: "another.example.com"}); err == nil || !strings.Contains(err.Error(), "is named "+witnessName) {
		t.Errorf("another name: %v", err)
	}
	s, err := New(d, witnessDir, Config{})
	must(t, err)
	defer s.Close()
	for i, k := range s.Keys() {
		if k.String() != keys[i].String() || k.Name() != witnessName {
			t.Errorf("key %d is %s after a restart, was %s", i, k, keys[i])
		}
	}
}

// TestLogsCanBeReplaced takes a log off the list and puts it on again: what was cosigned counts.
func TestLogsCanBeReplaced(t *testing.T) {
	l, other := newLog(t, origin).grow(9, "entry"), newLog(t, "example.com/other").grow(9, "entry")
	s := open(t, newDisk(), newNow(), l)
	cosigned(t, s, l.request(0, 5))
	must(t, s.SetLogs([]proof.Key{other.key.Key()}))
	if r := post(s, l.request(5, 6)); r.status != http.StatusNotFound {
		t.Errorf("taken off: %d", r.status)
	}
	cosigned(t, s, other.request(0, 3))
	must(t, s.SetLogs([]proof.Key{other.key.Key(), l.key.Key(), l.key.Key()}))
	if r := post(s, l.fork(3).grow(9, "fork").request(0, 6)); r.status != http.StatusConflict || string(r.body) != "5\n" {
		t.Errorf("put on again: %d %q", r.status, r.body)
	}
	cosigned(t, s, l.request(5, 6))
	if err := s.SetLogs([]proof.Key{newKey(t, proof.TypeCosignature, origin, "x").Key()}); err == nil {
		t.Error("a key of no log is taken")
	}
	cosigned(t, s, l.request(6, 7))
}

// TestSeveralKeysOfALog: one trusted signature admits, a bad one refuses, an unknown one does nothing, and the record keeps
// what there is room for.
func TestSeveralKeysOfALog(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	ml := newKey(t, proof.TypeMLDSA44, origin, "ml")
	s := open(t, newDisk(), newNow())
	must(t, s.SetLogs([]proof.Key{l.key.Key(), ml.Key()}))
	cosigned(t, s, (&Request{Note: signed(t, l.text(3), ml)}).Append(nil))
	spoiled := append(l.note(4), signed(t, l.text(5), ml)[len(l.text(5))+1:]...)
	if r := post(s, (&Request{Old: 3, Proof: l.consistency(3, 4), Note: spoiled}).Append(nil)); r.status != http.StatusForbidden {
		t.Errorf("a bad second signature: %d %q", r.status, r.body)
	}
	keys := []*proof.PrivateKey{}
	for i := range proof.MaxSignatures - 1 {
		keys = append(keys, newKey(t, proof.TypeEd25519, origin, fmt.Sprint("epoch", i)))
	}
	note := signed(t, l.text(4), append(keys, l.key)...)
	cosigned(t, s, (&Request{Old: 3, Proof: l.consistency(3, 4), Note: note}).Append(nil))
	kept, err := proof.ParseNote(monitored(s, origin).body)
	must(t, err)
	if len(kept.Signatures) != proof.MaxSignatures || !signedBy(kept.Signatures[0], []proof.Key{l.key.Key()}) {
		t.Errorf("%d signatures kept, the first by %s", len(kept.Signatures), kept.Signatures[0].Name)
	}
	// A note that carries our own cosignatures already is kept with the new ones.
	again := monitored(s, origin).body
	cosigned(t, s, (&Request{Old: 4, Note: again}).Append(nil))
	if kept, err = proof.ParseNote(monitored(s, origin).body); err != nil || count(kept.Signatures, s.Keys()) != 2 {
		t.Errorf("%d signatures of ours, %v", count(kept.Signatures, s.Keys()), err)
	}
}

func TestPageShowsWhatIsWatchedAndNothingElseRuns(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	hostile := newLog(t, "example.com/<script>alert(1)</script>")
	s := open(t, newDisk(), newNow(), l, hostile)
	cosigned(t, s, l.request(0, 5))
	post(s, (&Request{Old: 5, Note: l.note(8)}).Append(nil))
	r := do(s, "GET", "/", nil)
	body := string(r.body)
	for _, want := range []string{origin, originHash(origin) + "/checkpoint", ">5</a>", "2027-01-15 08:00:00", "not shown to continue", "&lt;script&gt;", "prefers-color-scheme: dark", strings.ReplaceAll(s.Keys()[0].String(), "+", "&#43;")} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(body, "<script") {
		t.Error("an origin became markup")
	}
	sum := sha256.Sum256([]byte(style))
	_ = sum
	csp := r.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
		t.Errorf("policy %q", csp)
	}
	if !strings.Contains(body, "<style>"+style+"</style>") {
		t.Error("the style on the page is not the one whose hash the policy allows")
	}
	for _, path := range []string{"/x", "/misbehaviour/x", "/misbehaviour/..%2fkeys", "/" + originHash(origin) + "/keys", "/" + hex.EncodeToString(sum[:]) + "/checkpoint"} {
		if r := do(s, "GET", path, nil); r.status != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, r.status, r.body)
		}
	}
}

func TestThousandsOfLogs(t *testing.T) {
	const n = 3000
	d, c := newDisk(), newNow()
	var keys []proof.Key
	for i := range n {
		keys = append(keys, newLog(t, fmt.Sprintf("example.com/log/%04d", i)).key.Key())
	}
	s := open(t, d, c)
	must(t, s.SetLogs(keys))
	last := newLog(t, fmt.Sprintf("example.com/log/%04d", n-1)).grow(9, "entry")
	cosigned(t, s, last.request(0, 9))
	r := do(s, "GET", "/", nil)
	if got := strings.Count(string(r.body), "<td class=\"origin\">"); got != pageLogs || !strings.Contains(string(r.body), "More of 3000") {
		t.Errorf("%d logs on the first page", got)
	}
	r = do(s, "GET", "/?from=2900", nil)
	if !strings.Contains(string(r.body), "log/2999") || strings.Contains(string(r.body), "rel=\"next\"") {
		t.Error("the last page lacks the last log")
	}
}
