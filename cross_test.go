package immutable

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// The second verifier, verify/python, was written from docs/format.md alone. Where both give the same answers to the
// same directories, an error must be in the document, or twice in the same place.

// pythonReport is what the second verifier prints with --json.
type pythonReport struct {
	Verdict  string          `json:"verdict"`
	Size     uint64          `json:"size"`
	Root     string          `json:"root"`
	Findings []pythonFinding `json:"findings"`
	Notes    []string        `json:"notes"`
}

type pythonFinding struct {
	File   string `json:"file"`
	Offset *int64 `json:"offset"`
	What   string `json:"what"`
}

func (f pythonFinding) at() int64 {
	if f.Offset == nil {
		return -1
	}
	return *f.Offset
}

func (f pythonFinding) String() string {
	return fmt.Sprintf("%s, offset %d: %s", f.File, f.at(), f.What)
}

// second is the second verifier's command in a process that takes many command lines, since starting one takes longer
// than most verifications.
type second struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

const secondLoop = `
import contextlib, io, json, sys
sys.path.insert(0, "verify/python")
import immutable_verify
for line in sys.stdin:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = immutable_verify.main(json.loads(line))
    print(json.dumps({"code": code, "out": out.getvalue()}), flush=True)
`

func startSecond(t *testing.T) *second {
	t.Helper()
	for _, name := range []string{"python3", "zstd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("the second verifier needs %s: %v", name, err)
		}
	}
	cmd := exec.Command("python3", "-c", secondLoop)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Errorf("the second verifier ended with %v", err)
		}
	})
	return &second{t, in, bufio.NewReader(out)}
}

// verify runs the second verifier.
func (s *second) verify(dir, stateDir string, o VerifyOptions) pythonReport {
	t := s.t
	t.Helper()
	args := []string{"--json", "--indexes", "--state-dir", stateDir}
	if o.NoHead {
		args = append(args, "--no-state")
	}
	for _, k := range o.Keys {
		args = append(args, "--key", k)
	}
	if o.Cold != "" {
		args = append(args, "--cold", o.Cold)
	}
	for i, note := range o.Checkpoints {
		name := filepath.Join(t.TempDir(), "kept")
		must(t, os.WriteFile(name, note, 0o600))
		if i == 0 {
			args = append(args, "--checkpoint", name)
		}
	}
	line, err := json.Marshal(append(args, dir))
	must(t, err)
	_, err = s.in.Write(append(line, '\n'))
	must(t, err)
	answer, err := s.out.ReadBytes('\n')
	must(t, err)
	var got struct {
		Code int
		Out  string
	}
	must(t, json.Unmarshal(answer, &got))
	var rep pythonReport
	if err := json.Unmarshal([]byte(got.Out), &rep); err != nil {
		t.Fatalf("the second verifier printed %q: %v", got.Out, err)
	}
	if want := map[string]int{"refuted": 1, "unknown": 2}[rep.Verdict]; got.Code != want {
		t.Errorf("the second verifier says %s with exit code %d, expected %d", rep.Verdict, got.Code, want)
	}
	return rep
}

// compare holds two reports against each other.
func compareReports(ours *Report, theirs pythonReport, stateDir string) error {
	detail := func() string {
		return fmt.Sprintf("\nours %v\nnotes %v\ntheirs %+v", ours.Findings, ours.Notes, theirs)
	}
	if theirs.Verdict != string(ours.Verdict) {
		return fmt.Errorf("ours says %s, the second verifier %s%s", ours.Verdict, theirs.Verdict, detail())
	}
	if ours.Verdict != fsck.Refuted && (theirs.Size != ours.Size || theirs.Root != ours.Root.Base64()) {
		return fmt.Errorf("ours says size %d and root %s, the second verifier %d and %s", ours.Size, ours.Root.Base64(), theirs.Size, theirs.Root)
	}
	if ours.Verdict != fsck.Refuted {
		return nil
	}
	// One fault may show in several files, and what is read first is each verifier's choice; but some file they must agree on. Where the head contradicts the directory, or a seal what it is over, either may be named.
	name := func(file string) string {
		short := shortFile(file, stateDir)
		if dir, base, found := strings.Cut(short, "/"); found && (dir == archiveDir || dir == indexDir) && len(base) > 20 {
			return "sealed " + base[:20]
		}
		return short
	}
	var mine, other []string
	for _, f := range ours.Findings {
		mine = append(mine, name(f.File))
	}
	for _, f := range theirs.Findings {
		other = append(other, name(f.File))
	}
	if slices.ContainsFunc(mine, func(file string) bool { return slices.Contains(other, file) }) || slices.Contains(other, "head") || slices.Contains(mine, "head") {
		return nil
	}
	return fmt.Errorf("both refute, in other files%s", detail())
}

func TestSecondVerifierAgreesOnVectors(t *testing.T) {
	other := startSecond(t)
	for _, v := range readVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			dir, cfg := v.place(t)
			ours, err := VerifyDir(context.Background(), dir, cfg, v.options())
			must(t, err)
			theirs := other.verify(dir, cfg.StateDir, v.options())
			if err := compareReports(ours, theirs, cfg.StateDir); err != nil {
				t.Error(err)
			}
			if len(theirs.Findings) > 0 && !v.expects(shortFile(theirs.Findings[0].File, cfg.StateDir), theirs.Findings[0].at()) {
				t.Errorf("its first finding is %v, expected one at one of %v", theirs.Findings[0], v.places)
			}
		})
	}
}

// crossBase is a log with two sealed segments, a pending one, control entries and entries that are not signed yet, and
// an older state of the same log.
func crossBase(t *testing.T) (base, older *vector) {
	t.Helper()
	m := newMaker(t, vectorOrigin)
	m.open()
	m.add(276)
	m.rotate()
	m.publish()
	older = m.take()
	m.add(250)
	m.rotate()
	m.clock = m.clock.Add(-time.Hour)
	if _, wrote, err := m.l.ResetClock(context.Background()); err != nil || !wrote {
		t.Fatalf("the clock was not reset: %v", err)
	}
	m.append(Event{Level: System, Message: "later", Log: []byte(`{"type":"later"}`)})
	for range 5 {
		m.add(60)
	}
	rotate := func() error { return m.l.Rotate(context.Background()) }
	_ = m.stop(rotate, func(op vfstest.Op) bool { return op.Kind == vfstest.OpCreate && strings.HasSuffix(op.Name, ".zst") })
	m.add(3)
	base = m.take()
	must(t, m.l.Close())
	return base, older
}

// crossRetired is a log with two retired segments, a sealed one that is being retired, and holds that began and ended; and an
// older state of the same log, in which nothing is retired.
func crossRetired(t *testing.T) (base, older *vector) {
	t.Helper()
	ctx := context.Background()
	m := newMaker(t, vectorOrigin)
	m.open()
	m.add(200)
	for _, id := range []string{"one", "two"} {
		_, err := m.l.Hold(ctx, Hold{ID: id})
		must(t, err)
		_, err = m.l.Release(ctx, Hold{ID: id, Reason: "over"})
		must(t, err)
	}
	for range 3 {
		m.add(260)
		m.rotate()
	}
	m.add(3)
	m.publish()
	older = m.take()
	retire := func() error {
		_, err := m.l.Retire(ctx, m.l.firstSealed().first, RetireOptions{Delete: true})
		return err
	}
	must(t, retire())
	m.add(2)
	must(t, retire())
	base = m.stop(retire, func(op vfstest.Op) bool { return op.Kind == vfstest.OpRemove && strings.HasSuffix(op.Name, ".zst") })
	_ = m.l.Close()
	return base, older
}

// crossTamper changes one thing, and says what.
func crossTamper(v, older *vector, rng *rand.Rand) string {
	names := slices.Sorted(maps.Keys(v.files))
	name := names[rng.IntN(len(names))]
	data := bytes.Clone(v.files[name])
	at := rng.IntN(len(data) + 1)
	lines := bytes.SplitAfter(data, []byte("\n"))
	switch kind := rng.IntN(13); {
	case kind == 0 && at < len(data):
		data[at] ^= 1 << rng.IntN(8)
	case kind == 1 && at < len(data):
		data[at] = byte(rng.IntN(256))
	case kind == 2:
		data = data[:at]
	case kind == 3:
		data = append(data, "\n{\"commit\":\x00"[:1+rng.IntN(11)]...)
	case kind == 4:
		data = slices.Insert(data, at, byte(rng.IntN(256)))
	case kind == 5 && at < len(data):
		data = slices.Delete(data, at, min(len(data), at+1+rng.IntN(40)))
	case kind == 6:
		delete(v.files, name)
		return "delete " + name
	case kind == 7:
		other := names[rng.IntN(len(names))]
		v.files[name], v.files[other] = v.files[other], data
		return "swap " + name + " and " + other
	case kind == 8:
		i := rng.IntN(len(lines))
		v.files[name] = bytes.Join(slices.Delete(lines, i, i+1), nil)
		return fmt.Sprintf("take line %d out of %s", i, name)
	case kind == 9:
		i, j := rng.IntN(len(lines)), rng.IntN(len(lines))
		lines[i], lines[j] = lines[j], lines[i]
		v.files[name] = bytes.Join(lines, nil)
		return fmt.Sprintf("swap lines %d and %d of %s", i, j, name)
	case kind == 10:
		i := rng.IntN(len(lines))
		v.files[name] = bytes.Join(slices.Insert(lines, i, lines[rng.IntN(len(lines))]), nil)
		return fmt.Sprintf("repeat a line of %s before line %d", name, i)
	case kind == 11 && older.files[name] != nil:
		v.files[name] = older.files[name]
		return "bring back the older " + name
	case kind == 12:
		to := name + "x"
		if dir, base := filepath.Split(name); len(base) > 20 {
			to = dir + fmt.Sprintf("%020d", 256*rng.IntN(5)) + base[20:]
		}
		v.files[to] = data
		return "copy " + name + " to " + to
	}
	v.files[name] = data
	return fmt.Sprintf("change %s at %d", name, at)
}

func TestSecondVerifierAgreesOnRandomTampering(t *testing.T) {
	other := startSecond(t)
	rng := vfstest.Rand(t)
	plain, plainOlder := crossBase(t)
	gone, goneOlder := crossRetired(t)
	for n := range rounds(80, 4000) {
		base, older := plain, plainOlder
		if n%4 == 3 {
			base, older = gone, goneOlder
		}
		v := base.copyOf()
		var did []string
		switch rng.IntN(4) {
		case 0:
			v.head = false
			delete(v.files, "head")
			did = append(did, "no head")
		case 1:
			v.vkey = ""
		}
		for range 1 + rng.IntN(2) {
			did = append(did, crossTamper(v, older, rng))
		}
		dir, cfg := v.place(t)
		ours, err := VerifyDir(context.Background(), dir, cfg, v.options())
		must(t, err)
		if err := compareReports(ours, other.verify(dir, cfg.StateDir, v.options()), cfg.StateDir); err != nil {
			t.Errorf("round %d, %s: %v", n, strings.Join(did, ", then "), err)
		}
	}
}
