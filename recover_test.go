package immutable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/segment"
)

// childVariable makes the test binary do something else than test: see TestMain.
const childVariable = "IMMUTABLE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "open":
		os.Exit(childOpen())
	case "user":
		os.Exit(childUser())
	}
	os.Exit(m.Run())
}

// childOpen tries to open a log that another process has, and prints the error.
func childOpen() int {
	l, err := Open(os.Args[1], &Config{StateDir: os.Args[2], MustExist: true})
	var locked *LockedError
	if errors.As(err, &locked) {
		_ = json.NewEncoder(os.Stdout).Encode(locked)
		return 0
	}
	fmt.Println(l, err)
	return 1
}

// childUser uses a log from its making to its verification.
func childUser() int {
	dir := os.Args[1]
	cfg := &Config{StateDir: filepath.Join(dir, "state"), RotateSize: minRotateSize}
	run := func() error {
		if os.Getuid() == 0 {
			return errors.New("still root")
		}
		for session := range 3 {
			l, err := Open(filepath.Join(dir, "log"), cfg)
			if err != nil {
				return err
			}
			if _, err := l.Append(context.Background(), events(session*600, 600)...); err != nil {
				return errors.Join(err, l.Close())
			}
			if err := l.Rotate(context.Background()); err != nil {
				return errors.Join(err, l.Close())
			}
			if err := l.Close(); err != nil {
				return err
			}
		}
		rep, err := VerifyDir(context.Background(), filepath.Join(dir, "log"), cfg, VerifyOptions{Indexes: true})
		if err != nil {
			return err
		}
		if rep.Verdict != Proven || rep.Size != 1800 {
			return fmt.Errorf("verdict %s at %d: %v", rep.Verdict, rep.Size, rep.Findings)
		}
		return nil
	}
	if err := run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// place is where a test keeps a log, its state and copies.
type testPlace struct {
	t    *testing.T
	base string
	cfg  Config
}

func newPlace(t *testing.T) *testPlace {
	base := t.TempDir()
	return &testPlace{t, base, Config{StateDir: filepath.Join(base, "state"), Origin: "example.com/place", RotateSize: minRotateSize}}
}

func (p *testPlace) path(parts ...string) string {
	return filepath.Join(append([]string{p.base}, parts...)...)
}

func (p *testPlace) open(name string) (*Log, error) {
	cfg := p.cfg
	return Open(p.path(name), &cfg)
}

// use appends n entries in a session of its own.
func (p *testPlace) use(name string, n int) {
	p.t.Helper()
	l, err := p.open(name)
	must(p.t, err)
	fill(p.t, l, n, 100)
	must(p.t, l.Close())
}

// copy copies a directory, or a file over another, in place.
func (p *testPlace) copy(from, to string) {
	p.t.Helper()
	must(p.t, filepath.WalkDir(p.path(from), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.path(from), name)
		if err != nil {
			return err
		}
		target := filepath.Join(p.path(to), rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		_ = os.Chmod(target, 0o600) // if it is there
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	}))
}

// refused opens a log that must be refused with both states, and then reads it.
func (p *testPlace) refused(name, reason string, readable int) {
	p.t.Helper()
	l, err := p.open(name)
	if err == nil {
		must(p.t, l.Close())
		p.t.Fatalf("opened, want a refusal: %s", reason)
	}
	var r *RefusedError
	if !errors.As(err, &r) {
		p.t.Fatalf("%v, want a refusal: %s", err, reason)
	}
	if !strings.Contains(r.Reason, reason) || r.Next == "" || !strings.Contains(r.Ours, "example.com/place\n") {
		p.t.Errorf("refused with %+v, want %q, both states and what to do", r, reason)
	}
	p.reads(name, readable)
}

// reads opens for reading what cannot be written.
func (p *testPlace) reads(name string, want int) {
	p.t.Helper()
	cfg := p.cfg
	cfg.ReadOnly = true
	l, err := Open(p.path(name), &cfg)
	must(p.t, err)
	if got := readAll(p.t, l, Query{}); len(got) != want {
		p.t.Errorf("read-only: %d entries, want %d", len(got), want)
	}
	if _, err := l.Append(context.Background(), event(0)); !errors.Is(err, ErrReadOnly) {
		p.t.Errorf("append: %v, want %v", err, ErrReadOnly)
	}
	must(p.t, l.Close())
}

// TestSecondWriterIsToldOfTheFirst opens a log twice: in this process, in another, and through another path.
func TestSecondWriterIsToldOfTheFirst(t *testing.T) {
	p := newPlace(t)
	l, err := p.open("log")
	must(t, err)
	host, err := os.Hostname()
	must(t, err)
	check := func(err error) {
		t.Helper()
		var locked *LockedError
		if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Hostname != host || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("%v, want one that names process %d on %s", err, os.Getpid(), host)
		}
	}
	_, err = p.open("log")
	check(err)
	if runtime.GOOS != "windows" {
		must(t, os.Symlink(p.path("log"), p.path("other")))
		_, err = p.open("other")
		check(err)
	}
	cmd := exec.Command(os.Args[0], p.path("log"), p.cfg.StateDir)
	cmd.Env = append(os.Environ(), childVariable+"=open")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var locked LockedError
	must(t, json.Unmarshal(out, &locked))
	check(&locked)
	fill(t, l, 3, 1) // the first is not disturbed
	must(t, l.Close())
	p.use("log", 1)
}

// TestCopyIsRefusedAndMoveIsNot copies and moves a log's directory.
func TestCopyIsRefusedAndMoveIsNot(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a copy is told from its original by the inode, which Windows does not give")
	}
	p := newPlace(t)
	p.use("log", 700)
	p.copy("log", "copy")
	p.refused("copy", "copy", 700)
	must(t, os.Rename(p.path("log"), p.path("moved")))
	p.use("moved", 10)
	p.refused("copy", "copy", 700)
	if _, err := p.open("log"); err == nil {
		t.Error("a new log was made where the moved one was")
	}
	p.reads("moved", 710)

	// The copy is behind: adoption is refused. A newer copy takes the original's place.
	adopt := func(name string) (*Adoption, error) {
		cfg := p.cfg
		return Adopt(context.Background(), p.path(name), &cfg)
	}
	var r *RefusedError
	if a, err := adopt("copy"); !errors.As(err, &r) {
		t.Errorf("adopted a directory that is behind: %+v, %v", a, err)
	}
	p.copy("moved", "newer")
	a, err := adopt("newer")
	must(t, err)
	if a.Size != 710 {
		t.Errorf("adopted %+v, want size 710", a)
	}
	p.use("newer", 5)
	p.refused("moved", "copy", 710)
	p.reads("newer", 715)
	if _, err := adopt("newer"); err == nil {
		t.Error("adopted a log that this host knows")
	}
}

// TestOldBackupInPlaceIsRefused puts older files back over the log's own.
func TestOldBackupInPlaceIsRefused(t *testing.T) {
	for _, c := range []struct {
		what  string
		files []string // restored; none means all of the directory
		state bool     // the head is restored instead
		want  string   // of the error
	}{
		{"the whole directory", nil, false, "restored from an older copy"},
		{"immutable.log", []string{openName}, false, ""},
		{"checkpoint", []string{checkpointName}, false, "older copy"},
		{"checkpoints", []string{checkpointsName}, false, "cut"},
		{"both checkpoint files", []string{checkpointName, checkpointsName}, false, ""},
		{"the head", nil, true, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := newPlace(t)
			p.use("log", 150)
			p.copy("log", "backup")
			p.copy("state", "oldstate")
			p.use("log", 20)
			switch {
			case c.state:
				p.copy("oldstate", "state")
			case c.files == nil:
				p.copy("backup", "log")
			}
			for _, name := range c.files {
				p.copy(filepath.Join("backup", name), filepath.Join("log", name))
			}
			_, err := p.open("log")
			var refused *RefusedError
			var corrupt *CorruptError
			if !errors.As(err, &refused) && !errors.As(err, &corrupt) {
				t.Fatalf("opened, or failed otherwise: %v", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if refused != nil && (refused.Ours == "" || refused.Known == "" || refused.Ours == refused.Known) {
				t.Errorf("both states must be named: %+v", refused)
			}
			cfg := p.cfg
			cfg.ReadOnly = true
			l, err := Open(p.path("log"), &cfg)
			must(t, err)
			n := 0
			for e, err := range l.Entries(context.Background(), Query{}) {
				if err != nil {
					break
				}
				if e.Index != uint64(n) {
					t.Errorf("entry %d, want %d", e.Index, n)
				}
				n++
			}
			if n < 150 {
				t.Errorf("%d entries are readable, want at least 150", n)
			}
			must(t, l.Close())
			cfg.ReadOnly = false
			rep, err := VerifyDir(context.Background(), p.path("log"), &cfg, VerifyOptions{})
			must(t, err)
			if rep.Verdict != Refuted {
				t.Errorf("verdict %s, want %s", rep.Verdict, Refuted)
			}
		})
	}
}

// TestRestoredBackupBehindTheHeadIsRefusedAfterACrashToo has a head that is not clean.
func TestRestoredBackupBehindAnUncleanHeadIsRefused(t *testing.T) {
	p := newPlace(t)
	p.use("log", 150)
	p.copy("log", "backup")
	l, err := p.open("log")
	must(t, err)
	fill(t, l, 20, 5)
	must(t, l.publisher.publish(false))
	p.copy("state", "killed") // the head as a kill leaves it
	must(t, l.Close())
	p.copy("killed", "state")
	p.copy("backup", "log")
	p.refused("log", "restored from an older copy", 150)
}

// TestUnknownLogIsAdoptedOrContinued opens a log whose state this host lost, adopts it with its key, and continues it
// without.
func TestUnknownLogIsAdoptedOrContinued(t *testing.T) {
	ctx := context.Background()
	p := newPlace(t)
	p.use("log", 300)
	heads, err := filepath.Glob(p.path("state", "*", "head"))
	must(t, err)
	must(t, os.Remove(heads[0]))
	p.refused("log", "no head", 300)
	cfg := p.cfg
	a, err := Adopt(ctx, p.path("log"), &cfg)
	must(t, err)
	if a.Size != 300 || a.Trusted == "" {
		t.Errorf("adopted %+v", a)
	}
	p.use("log", 5)
	p.reads("log", 305)

	// Tampered with, it is not adopted.
	must(t, os.Remove(heads[0]))
	p.copy("log", "good")
	data, err := os.ReadFile(p.path("log", openName))
	must(t, err)
	must(t, os.Chmod(p.path("log", openName), 0o600))
	must(t, os.WriteFile(p.path("log", openName), []byte(strings.Replace(string(data), "event 3", "event 4", 1)), 0o600))
	var refused *RefusedError
	if a, err := Adopt(ctx, p.path("log"), &cfg); !errors.As(err, &refused) {
		t.Errorf("adopted a tampered log: %+v, %v", a, err)
	}

	must(t, os.RemoveAll(p.path("state")))
	if a, err := Adopt(ctx, p.path("good"), &cfg); !errors.As(err, &refused) {
		t.Errorf("adopted without the key: %+v, %v", a, err)
	}
	cfg.Origin = "example.com/next"
	l, err := Continue(ctx, p.path("good"), p.path("next"), &cfg)
	must(t, err)
	e, err := l.Entry(ctx, 0)
	must(t, err)
	if want := `{"type":"continue","origin":"example.com/place","size":305,`; !strings.HasPrefix(string(e.Control), want) {
		t.Errorf("first entry %s, want %s", e.Control, want)
	}
	fill(t, l, 2, 1)
	must(t, l.Close())
	rep, err := VerifyDir(ctx, p.path("next"), &cfg, VerifyOptions{})
	must(t, err)
	if rep.Verdict != Proven {
		t.Errorf("verdict %s: %v", rep.Verdict, rep.Findings)
	}
	if _, err := Continue(ctx, p.path("good"), p.path("next"), &cfg); err == nil {
		t.Error("continued into a log that is there")
	}
}

// TestMissingLogJSONIsNotAnEmptyPlace deletes what says that there is a log.
func TestMissingLogJSONIsNotAnEmptyPlace(t *testing.T) {
	for _, gone := range [][]string{{"log.json"}, {"log.json", openName}, {"log.json", openName, "archive", "pending", "index"}} {
		for _, origin := range []string{"example.com/place", ""} {
			p := newPlace(t)
			p.use("log", 700)
			for _, name := range gone {
				must(t, os.RemoveAll(p.path("log", name)))
			}
			p.cfg.Origin = origin
			if l, err := p.open("log"); err == nil {
				must(t, l.Close())
				t.Errorf("without %q, origin %q: a new log was made over the rest of the old one", gone, origin)
			}
		}
	}
}

// TestOrdinaryUserCanDoEverything makes, rotates, reopens and verifies a log as uid 65534.
func TestOrdinaryUserCanDoEverything(t *testing.T) {
	base := t.TempDir()
	for dir := base; dir != filepath.Dir(dir) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	dir := filepath.Join(base, "own")
	must(t, os.Mkdir(dir, 0o700))
	cmd := exec.Command(os.Args[0], dir)
	if !asOrdinaryUser(t, cmd, dir) {
		t.Log("not root: as the user that runs the tests")
	}
	cmd.Env = append(os.Environ(), childVariable+"=user")
	if os.Getuid() == 0 {
		// The binary may lie where others may not look.
		data, err := os.ReadFile(os.Args[0])
		must(t, err)
		cmd.Path = filepath.Join(base, "test.exe")
		must(t, os.WriteFile(cmd.Path, data, 0o755))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestDamagedArchiveBesideItsPendingFileIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, nil)
	fill(t, l, 600, 100)
	if err := l.Rotate(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := readAll(t, l, Query{})
	a, err := l.openArchive(l.segments[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := segment.AppendHeader(nil, a.First(), a.Chain())
	for g := range a.Groups() {
		b, err := a.Group(nil, g)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, b...)
	}
	size, chain, root := a.Commit()
	lines = segment.AppendCommit(lines, a.First(), size, chain, root)
	closeTest(t, l)
	if err := os.WriteFile(filepath.Join(dir, pendingDir, segment.PendingName(0)), lines, 0o444); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, archiveDir, segment.ArchiveName(0))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x40
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o444); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir, nil)
	if got := readAll(t, l, Query{}); len(got) != len(want) || got[300].Leaf != want[300].Leaf {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	closeTest(t, l) // waits for the sealer
	rep, err := VerifyDir(context.Background(), dir, &Config{StateDir: l.cfg.StateDir}, VerifyOptions{Indexes: true})
	if err != nil || rep.Verdict != Proven {
		t.Fatalf("%v, %+v", err, rep)
	}
	aside, err := os.ReadDir(filepath.Join(dir, quarantineDir))
	if err != nil || len(aside) != 1 {
		t.Fatalf("quarantine has %v, %v: want the damaged archive", aside, err)
	}
}

func TestOpenNoticesAMissingSealedSegment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, nil)
	for range 4 {
		fill(t, l, 300, 100)
		if err := l.Rotate(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	segments := l.SealedSegments()
	closeTest(t, l)
	if len(segments) != 4 {
		t.Fatalf("sealed %v", segments)
	}
	for _, first := range segments {
		name := filepath.Join(dir, archiveDir, segment.ArchiveName(first))
		if err := os.Rename(name, name+".away"); err != nil {
			t.Fatal(err)
		}
		var damage *CorruptError
		if l, err := Open(dir, &Config{StateDir: l.cfg.StateDir}); !errors.As(err, &damage) {
			if err == nil {
				closeTest(t, l)
			}
			t.Fatalf("without the segment from %d on: %v, want a CorruptError", first, err)
		}
		if err := os.Rename(name+".away", name); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, openTest(t, dir, nil))
}
