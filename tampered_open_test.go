package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
)

// What somebody else put into a directory, or a copy made of it, must neither be signed by the next Open nor disappear in it.

// killed makes the head say that the last writer did not close.
func (p *testPlace) killed() {
	p.t.Helper()
	name := filepath.Join(identity.Dir(p.cfg.StateDir, p.cfg.Origin), identity.HeadName)
	data, err := os.ReadFile(name)
	must(p.t, err)
	head, err := identity.ParseHead(data)
	must(p.t, err)
	head.Clean = false
	must(p.t, os.WriteFile(name, head.Append(nil), 0o600))
}

// overwrite replaces a file's bytes and keeps its inode.
func overwrite(t *testing.T, name string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	must(t, os.Chmod(name, 0o600))
	must(t, os.WriteFile(name, change(data), 0o600))
}

func (p *testPlace) proven(name string, size uint64) {
	p.t.Helper()
	rep, err := VerifyDir(context.Background(), p.path(name), &p.cfg, VerifyOptions{Indexes: true})
	must(p.t, err)
	if rep.Verdict != Proven || rep.Size != size {
		p.t.Errorf("%s at %d, want proven at %d: %v", rep.Verdict, rep.Size, size, rep.Findings)
	}
}

// TestAnyWrongHashInTheTreeIsMadeAgain flips one byte in each hash of tree/1 and chain: they are derived, and the entries decide.
func TestAnyWrongHashInTheTreeIsMadeAgain(t *testing.T) {
	p := newPlace(t)
	l, err := p.open("log")
	must(t, err)
	for range 3 {
		fill(t, l, 300, 100)
		must(t, l.Rotate(context.Background()))
	}
	fill(t, l, 50, 10)
	must(t, l.Close())
	size := uint64(950)
	for _, unclean := range []bool{false, true} {
		for _, name := range []string{"tree/1", "chain"} {
			for k := range 3 {
				if unclean {
					p.killed()
				}
				overwrite(t, p.path("log", name), func(b []byte) []byte {
					b[32*k+5] ^= 1
					return b
				})
				l, err := p.open("log")
				if err != nil {
					t.Fatalf("%s hash %d, killed %v: %v", name, k, unclean, err)
				}
				if _, err := l.Rebuild(context.Background(), nil); err != nil {
					t.Fatalf("%s hash %d, killed %v: %v", name, k, unclean, err)
				}
				must(t, l.Close())
				p.proven("log", size)
			}
		}
	}
}

// TestTreeIsNotBlamedForDamagedEntries keeps the refusal where the entries themselves are wrong.
func TestTreeIsNotBlamedForDamagedEntries(t *testing.T) {
	p := newPlace(t)
	p.use("log", 300)
	l, err := p.open("log")
	must(t, err)
	must(t, l.Rotate(context.Background()))
	must(t, l.Close())
	overwrite(t, p.path("log", openName), func(b []byte) []byte {
		return bytes.Replace(b, []byte(`"event 290"`), []byte(`"event 29O"`), 1)
	})
	before, err := os.ReadFile(p.path("log", openName))
	must(t, err)
	for range 2 {
		_, err = p.open("log")
		var damage *CorruptError
		if !errors.As(err, &damage) || damage.File != openName {
			t.Fatalf("%v, want damage in %s", err, openName)
		}
		p.killed()
	}
	if after, err := os.ReadFile(p.path("log", openName)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the damaged file was changed: %v", err)
	}
}

// TestRotationSurvivesACopyMadeInItsMiddle has the pending file that rotation links, as a copy of the directory has it: a
// file of its own.
func TestRotationSurvivesACopyMadeInItsMiddle(t *testing.T) {
	for _, cut := range []int{0, 40} { // bytes that the log had not yet when the pending file was copied
		p := newPlace(t)
		p.use("log", 300)
		if cut > 0 {
			p.killed()
		}
		data, err := os.ReadFile(p.path("log", openName))
		must(t, err)
		name := p.path("log", pendingDir, segment.PendingName(0))
		must(t, os.WriteFile(name, data[:len(data)-cut], 0o444))
		l, err := p.open("log")
		must(t, err)
		fill(t, l, 300, 100)
		must(t, l.Rotate(context.Background()))
		must(t, l.Close())
		if left, err := os.ReadDir(p.path("log", pendingDir)); err != nil || len(left) > 0 {
			t.Errorf("segments wait: %v, %v", left, err)
		}
		p.proven("log", 600)
	}
}

// TestAnotherSegmentOfTheSameFirstEntryIsDamage does not delete a pending file that holds anything else.
func TestAnotherSegmentOfTheSameFirstEntryIsDamage(t *testing.T) {
	for what, change := range map[string]func([]byte) []byte{
		"longer":    func(b []byte) []byte { return append(b, 'x') },
		"different": func(b []byte) []byte { return append(b[:len(b)-10], bytes.Repeat([]byte("x"), 10)...) },
	} {
		p := newPlace(t)
		p.use("log", 300)
		data, err := os.ReadFile(p.path("log", openName))
		must(t, err)
		name := p.path("log", pendingDir, segment.PendingName(0))
		must(t, os.WriteFile(name, change(data), 0o444))
		_, err = p.open("log")
		var damage *CorruptError
		if !errors.As(err, &damage) || !strings.HasPrefix(damage.File, pendingDir) {
			t.Errorf("%s: %v, want damage in %s", what, err, pendingDir)
		}
		if _, err := os.Stat(name); err != nil {
			t.Errorf("%s: evidence is gone: %v", what, err)
		}
	}
}

// TestOnlyATornNoteLeavesTheHistory tampers with the end of the history behind a head that is not clean. What no crash leaves
// stays where it is, and the log is not opened: else the next session would make a refuted log proven.
func TestOnlyATornNoteLeavesTheHistory(t *testing.T) {
	for what, c := range map[string]struct {
		change func(before, last []byte) []byte // last is the newest note, which the head does not cover
		opens  bool
	}{
		"torn note":                {func(b, last []byte) []byte { return append(append(b, last...), "example.com/place\n9"...) }, true},
		"newer note, bad":          {func(b, last []byte) []byte { return append(append(b, last...), "example.com/place\n901\nx\n"...) }, true},
		"note of a size signed":    {func(b, last []byte) []byte { return append(append(b, last...), "example.com/place\n30\nx\n"...) }, false},
		"more than a note":         {func(b, last []byte) []byte { return append(append(b, last...), make([]byte, maxNote+1)...) }, false},
		"two notes, both tampered": {func(b, last []byte) []byte { last[len(last)-20] ^= 1; return append(append(b, last...), last...) }, false},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPlace(t)
			p.use("log", 30)
			kept, err := os.ReadFile(p.path("log", checkpointsName))
			must(t, err)
			p.use("log", 30)
			p.killed()
			head := filepath.Join(identity.Dir(p.cfg.StateDir, p.cfg.Origin), identity.HeadName)
			overwrite(t, head, func(b []byte) []byte {
				h, err := identity.ParseHead(b)
				must(t, err)
				h.Kept = int64(len(kept))
				return h.Append(nil)
			})
			var want []byte
			overwrite(t, p.path("log", checkpointsName), func(b []byte) []byte {
				want = c.change(bytes.Clone(kept), bytes.Clone(b[len(kept):]))
				return want
			})
			rep, err := VerifyDir(context.Background(), p.path("log"), &p.cfg, VerifyOptions{})
			must(t, err)
			if (rep.Verdict != Refuted) != c.opens {
				t.Errorf("verify says %s: %v", rep.Verdict, rep.Findings)
			}
			l, err := p.open("log")
			if c.opens {
				must(t, err)
				must(t, l.Close())
				p.proven("log", 60)
				return
			}
			var damage *CorruptError
			if !errors.As(err, &damage) || damage.File != checkpointsName {
				t.Fatalf("%v, want damage in %s", err, checkpointsName)
			}
			if got, err := os.ReadFile(p.path("log", checkpointsName)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the history was changed: %v", err)
			}
		})
	}
}

// TestPlantedQuarantineFileIsNeverSigned puts files that no recovery made where the next one looks for what it owes an entry.
func TestPlantedQuarantineFileIsNeverSigned(t *testing.T) {
	for what, data := range map[string][]byte{"empty": {}, "more than a batch": make([]byte, segment.MaxBatchBytes+1)} {
		t.Run(what, func(t *testing.T) {
			p := newPlace(t)
			p.use("log", 30)
			p.killed()
			info, err := os.Stat(p.path("log", openName))
			must(t, err)
			name := fmt.Sprintf("%d-%x", info.Size(), sha256.Sum256(data))
			must(t, os.WriteFile(p.path("log", quarantineDir, name), data, 0o400))
			p.use("log", 1)
			p.proven("log", 31)
		})
	}
}

// TestCopyBesideAnUnpublishedHeadIsAdopted adopts a copy made when the head was written and its checkpoint not yet: the
// entries that the head covers are there.
func TestCopyBesideAnUnpublishedHeadIsAdopted(t *testing.T) {
	p := newPlace(t)
	p.use("log", 30)
	old, err := os.ReadFile(p.path("log", checkpointName))
	must(t, err)
	p.use("log", 30)
	p.killed()
	p.copy("log", "copy")
	must(t, os.WriteFile(p.path("copy", checkpointName), old, 0o600))
	cfg := p.cfg
	a, err := Adopt(context.Background(), p.path("copy"), &cfg)
	must(t, err)
	if a.Size != 60 {
		t.Errorf("adopted at %d, want what the head covers, 60", a.Size)
	}
	p.use("copy", 1)
	p.proven("copy", 61)
}

// TestDamagedEndIsNotTakenForTheEnd reads a log whose newest entries are lost, in every way that could miss them.
func TestDamagedEndIsNotTakenForTheEnd(t *testing.T) {
	p := newPlace(t)
	p.use("log", 300)
	l, err := p.open("log")
	must(t, err)
	must(t, l.Rotate(context.Background()))
	must(t, l.Close())
	overwrite(t, p.path("log", openName), func([]byte) []byte { return nil })
	cfg := p.cfg
	cfg.ReadOnly = true
	l, err = Open(p.path("log"), &cfg)
	must(t, err)
	for _, c := range []struct {
		q    Query
		want int
		fail bool
	}{
		{Query{}, 256, true},
		{Query{Limit: 10}, 10, false},
		{Query{From: 250, Limit: 10}, 6, true},
		{Query{From: 256, Limit: 10}, 0, true},
		{Query{Reverse: true, Limit: 10}, 10, true},
		{Query{Reverse: true, From: 290, Limit: 10}, 10, true},
		{Query{Reverse: true, From: 200, Limit: 10}, 10, false},
	} {
		n, failed := 0, false
		for _, err := range l.Entries(context.Background(), c.q) {
			if err != nil {
				failed = true
				continue
			}
			n++
		}
		if n != c.want || failed != c.fail {
			t.Errorf("%+v: %d entries, error %v; want %d, %v", c.q, n, failed, c.want, c.fail)
		}
		l.Entries(context.Background(), c.q)(func(Entry, error) bool { return false }) // must be the last call
	}
	must(t, l.Close())
}
