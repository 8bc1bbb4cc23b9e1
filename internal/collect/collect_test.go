package collect

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// bench is a directory of files, a log, and what was written to the files.
type bench struct {
	t   testing.TB
	dir string
	log *immutable.Log
	cfg Config
}

func newBench(t testing.TB, paths ...string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir()}
	l, err := immutable.Open(filepath.Join(t.TempDir(), "log"), &immutable.Config{StateDir: t.TempDir(), NoSignatures: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	b.log = l
	b.cfg = Config{Offsets: filepath.Join(b.dir, ".state", "offsets.json"), Name: l.Origin(), Source: "host", Append: l.Append, Entries: l.Entries, Once: true}
	for _, p := range paths {
		b.cfg.Paths = append(b.cfg.Paths, filepath.Join(b.dir, p))
	}
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) write(name, text string) {
	b.t.Helper()
	f, err := os.OpenFile(b.path(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// once starts a collector, which ends when it has all that is there.
func (b *bench) once() Stats {
	b.t.Helper()
	cfg := b.cfg
	cfg.Paths = slices.Clone(cfg.Paths)
	s, err := Run(b.t.Context(), cfg)
	b.must(err)
	return s
}

// lines are the messages of the log, without gap records.
func (b *bench) lines() (all []string) {
	b.t.Helper()
	for e, err := range b.log.Entries(b.t.Context(), immutable.Query{}) {
		b.must(err)
		if e.Control == nil && !bytes.Contains(e.Metadata, []byte(`"source.gap"`)) {
			all = append(all, e.Message)
		}
	}
	return all
}

func (b *bench) gaps() (n int) {
	b.t.Helper()
	c, err := b.log.Count(b.t.Context(), immutable.Query{Text: `action:source.gap`})
	b.must(err)
	return int(c.N)
}

func (b *bench) want(want ...string) {
	b.t.Helper()
	got := b.lines()
	slices.Sort(got)
	slices.Sort(want)
	if !reflect.DeepEqual(got, want) {
		b.t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func TestLinesComeOnceThroughRestarts(t *testing.T) {
	b := newBench(t, "*.log")
	b.write("a.log", "one\ntwo\nhalf")
	b.write("b.log", "eins\r\n")
	if s := b.once(); s.Left != 4 || s.Entries != 3 {
		t.Errorf("%+v", s)
	}
	b.want("one", "two", "eins")
	b.write("a.log", " and half\n")
	b.once()
	b.once()
	b.want("one", "two", "eins", "half and half")
}

// The file of offsets is a hint: without it, or with an old one, the log says how far a file was collected.
func TestLogItselfIsTheTruth(t *testing.T) {
	b := newBench(t, "a.log")
	b.write("a.log", "one\ntwo\n")
	b.once()
	old, err := os.ReadFile(b.cfg.Offsets)
	b.must(err)
	b.write("a.log", "three\n")
	b.once()
	b.must(os.WriteFile(b.cfg.Offsets, old, 0o600))
	b.write("a.log", "four\n")
	b.once()
	b.want("one", "two", "three", "four")
	b.must(os.Remove(b.cfg.Offsets))
	b.write("a.log", "five\n")
	b.once()
	b.want("one", "two", "three", "four", "five")
	cfg := b.cfg
	cfg.Name = "another"
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "another --offsets") {
		t.Errorf("offsets of another log: %v", err)
	}
}

func TestRotationByRenamingWhileNobodyLooks(t *testing.T) {
	b := newBench(t, "a.log")
	b.write("a.log", "one\n")
	b.once()
	b.write("a.log", "two\n")
	b.must(os.Rename(b.path("a.log"), b.path("a.log.1")))
	b.write("a.log", "three\n")
	b.once()
	b.want("one", "two", "three")
	b.must(os.Rename(b.path("a.log.1"), b.path("a.log.2")))
	b.must(os.Rename(b.path("a.log"), b.path("a.log.1")))
	b.write("a.log", "one\n") // begins as the first one did
	b.once()
	b.want("one", "two", "three", "one")
}

func TestTruncatedFileBeginsAgain(t *testing.T) {
	b := newBench(t, "a.log")
	b.write("a.log", "one\ntwo\n")
	b.once()
	b.must(os.Truncate(b.path("a.log"), 0))
	b.once()
	b.write("a.log", "one\n") // shorter, and begins the same way
	b.once()
	b.want("one", "two", "one")
	b.must(os.Truncate(b.path("a.log"), 0))
	b.once()
	b.write("a.log", "one\nother\nand longer\n") // as it was, as far as its first line
	b.once()
	b.want("one", "two", "one", "one", "other", "and longer")
	b.must(os.Truncate(b.path("a.log"), 0))
	b.write("a.log", "new\nlines, more of them than before, so that the size does not show it\n")
	b.once()
	b.want("one", "two", "one", "one", "other", "and longer", "new", "lines, more of them than before, so that the size does not show it")
}

// copytruncate copies the file, then truncates it. Lines that came in between are in the copy.
func TestCopyTruncateLosesAndRepeatsNothing(t *testing.T) {
	for _, when := range []string{"at once", "copy first", "restart between"} {
		b := newBench(t, "a.log*")
		b.write("a.log", "one\ntwo\n")
		b.once()
		b.write("a.log", "three\n") // not collected yet
		data, err := os.ReadFile(b.path("a.log"))
		b.must(err)
		b.must(os.WriteFile(b.path("a.log.1"), data, 0o600))
		if when != "at once" {
			b.once()
		}
		if when == "restart between" {
			b.once()
		}
		b.must(os.Truncate(b.path("a.log"), 0))
		b.write("a.log", "four\n")
		b.once()
		b.once()
		b.want("one", "two", "three", "four")
		if n := b.gaps(); n != 0 {
			t.Errorf("%s: %d gap records", when, n)
		}
	}
}

// What goes before it was collected is said. Inodes are used again soon: the next file must not be taken for it.
func TestMissingBytesAreSaid(t *testing.T) {
	b := newBench(t, "a.log")
	b.write("a.log", "one\n")
	b.write("a.log", "the last line has no end yet")
	b.once()
	b.must(os.Remove(b.path("a.log")))
	b.once()
	b.write("a.log", "one\n")
	b.once()
	b.once()
	b.want("one", "one")
	if n := b.gaps(); n != 1 {
		t.Errorf("%d gap records", n)
	}
}

func TestDirectoriesLinksAndCompressedFiles(t *testing.T) {
	b := newBench(t, ".", "b*")
	b.write("a", "in a\n")
	b.write("b", "in b\n")
	b.write(".hidden", "x\n")
	b.write("c.gz", "\x1f\x8b\x08\n\n")
	b.must(os.Link(b.path("a"), b.path("b2")))
	b.must(os.Mkdir(b.path("d"), 0o700))
	b.write("d/e", "deeper\n")
	b.once()
	b.want("in a", "in b")
}

func TestFromEndTakesOnlyWhatIsNew(t *testing.T) {
	b := newBench(t, "*.log")
	b.cfg.FromEnd = true
	b.write("a.log", "old\nold too\nand ha")
	b.once()
	b.write("a.log", "lf\nnew\n")
	b.once()
	b.want("and half", "new")
}

// Whatever the bytes are, they are in the log, in their order.
func TestEveryByteIsKept(t *testing.T) {
	b := newBench(t, "a")
	long := strings.Repeat("0123456789", 30_000)
	escapes := strings.Repeat("\x01", 40_000)
	wide := strings.Repeat("日本", 20_000)
	lines := []string{"", "plain", "\xff\xfe broken", long, escapes, wide, strings.Repeat("\xff", 100_000), "ends\r", "\r", "last"}
	b.write("a", strings.Join(lines, "\n")+"\n")
	b.once()
	var got []byte
	var at int64
	for e, err := range b.log.Entries(t.Context(), immutable.Query{}) {
		b.must(err)
		if e.Control != nil {
			continue
		}
		var m struct {
			Collect place
			Raw64   *string
		}
		b.must(json.Unmarshal(e.Metadata, &m))
		part := []byte(e.Message)
		if m.Raw64 != nil {
			part, err = base64.StdEncoding.DecodeString(*m.Raw64)
			b.must(err)
		}
		if m.Collect.Offset != at {
			t.Fatalf("an entry of byte %d follows %d", m.Collect.Offset, at)
		}
		at += m.Collect.Bytes
		ends := m.Collect.Bytes - int64(len(part)) // the line end, which is no part of the message
		got = append(got, part...)
		got = append(got, "\r\n"[2-min(ends, 2):]...)
		if s := sum(got[len(got)-int(m.Collect.Bytes):]); s != m.Collect.Sum {
			t.Fatalf("byte %d: the entry does not hold what its sum says", m.Collect.Offset)
		}
	}
	if want := strings.Join(lines, "\n") + "\n"; string(got) != want {
		t.Fatalf("%d bytes come back of %d", len(got), len(want))
	}
}

func TestMultilineRecords(t *testing.T) {
	b := newBench(t, "a")
	b.cfg.Multiline = regexp.MustCompile(`^\S`)
	b.write("a", "error\n  at x\n  at y\nok\n")
	b.once()
	b.want("error\n  at x\n  at y", "ok")
}

// A log on a server gives no more than receipts: the keys alone keep a record from coming twice.
func TestKeysHoldWhereTheLogCannotBeRead(t *testing.T) {
	b := newBench(t, "*.log*")
	b.cfg.Entries, b.cfg.Keys = nil, true
	b.write("a.log", "one\ntwo\n")
	b.once()
	old, err := os.ReadFile(b.cfg.Offsets)
	b.must(err)
	b.write("a.log", "three\n")
	b.once()
	b.must(os.Rename(b.path("a.log"), b.path("a.log.1"))) // another path: another entry under the same key
	b.must(os.WriteFile(b.cfg.Offsets, old, 0o600))
	b.write("a.log.1", "four\n")
	if s := b.once(); s.Repeated != 1 || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
	b.want("one", "two", "three", "four")
}

// TestFollowsWhileFilesAreRotated has a writer rotate in every way while collectors run, and are stopped and started.
func TestFollowsWhileFilesAreRotated(t *testing.T) {
	b := newBench(t, "a.log*")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	cfg := b.cfg
	cfg.Once, cfg.Poll = false, 10*time.Millisecond
	b.write("a.log", "line 0\n")
	n := 1
	for range 6 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			c := cfg
			c.Paths = slices.Clone(c.Paths)
			_, err := Run(ctx, c)
			ended <- err
		}()
		for range 8 {
			for range rng.IntN(200) {
				b.write("a.log", fmt.Sprintf("line %d\n", n))
				n++
			}
			switch rng.IntN(3) {
			case 0:
				b.must(os.Rename(b.path("a.log"), b.path(fmt.Sprintf("a.log.%d", n))))
				b.write("a.log", fmt.Sprintf("line %d\n", n))
				n++
			case 1:
				data, err := os.ReadFile(b.path("a.log"))
				b.must(err)
				b.must(os.WriteFile(b.path(fmt.Sprintf("a.log.%d", n)), data, 0o600))
				b.must(os.Truncate(b.path("a.log"), 0))
				b.write("a.log", fmt.Sprintf("line %d\n", n))
				n++
			}
		}
		cancel()
		b.must(<-ended)
	}
	b.once()
	b.once()
	seen := map[string]int{}
	for _, l := range b.lines() {
		seen[l]++
	}
	for i := range n {
		if got := seen[fmt.Sprintf("line %d", i)]; got != 1 {
			t.Errorf("line %d stands %d times: %s", i, got, b.placesOf(fmt.Sprintf("line %d", i)))
		}
	}
	if len(seen) != n {
		t.Errorf("%d different lines, want %d", len(seen), n)
	}
}

// placesOf is where a line was found, for a failure's message.
func (b *bench) placesOf(message string) (all []string) {
	for e, err := range b.log.Entries(b.t.Context(), immutable.Query{}) {
		b.must(err)
		if e.Message == message {
			all = append(all, fmt.Sprintf("%d %s", e.Index, e.Metadata))
		}
	}
	return all
}

func BenchmarkCollect(b *testing.B) {
	w := newBench(b, "a.log")
	w.write("a.log", strings.Repeat("Dec 10 06:55:46 LabSZ sshd[24200]: Failed password for invalid user webmaster from 173.234.31.186 port 38926 ssh2\n", b.N))
	b.ResetTimer()
	w.once()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
