package vfstest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// rounds is how often a random property is tried: enough to see every outcome that the tests ask for.
const rounds = 2000

// openSynced makes a file and syncs its contents and its name.
func openSynced(t *testing.T, d *vfstest.Disk, name, contents string) vfs.File {
	t.Helper()
	f, err := d.Create(name, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(contents), 0)
	must(t, err)
	must(t, f.Sync())
	must(t, d.SyncDir(""))
	return f
}

func write(t *testing.T, f vfs.File, s string, off int64) {
	t.Helper()
	_, err := f.WriteAt([]byte(s), off)
	must(t, err)
}

// outcomes crashes copies of d many times and counts what describe says of the results.
func outcomes(t *testing.T, d *vfstest.Disk, describe func(after *vfstest.Disk) string) map[string]int {
	t.Helper()
	rng := vfstest.Rand(t)
	seen := make(map[string]int)
	for range rounds {
		seen[describe(d.Clone().Crash(rng))]++
	}
	return seen
}

// wantOutcomes checks that exactly these are possible.
func wantOutcomes(t *testing.T, seen map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("never saw %q", w)
		}
	}
	for s, n := range seen {
		if !slices.Contains(want, s) {
			t.Errorf("saw %q %d times", s, n)
		}
	}
}

// files describes a disk by its files and their contents.
func files(d *vfstest.Disk) string {
	var parts []string
	for _, name := range d.Files() {
		data, err := d.ReadFileRaw(name)
		if err != nil {
			return err.Error()
		}
		parts = append(parts, name+"="+string(data))
	}
	return strings.Join(parts, " ")
}

func TestSyncedDataInASyncedDirectorySurvivesEveryCrash(t *testing.T) {
	rng := vfstest.Rand(t)
	for range 300 {
		d := vfstest.New()
		must(t, d.Mkdir("d", 0o700))
		must(t, d.SyncDir(""))
		f, err := d.Create("d/a", 0o600)
		must(t, err)
		must(t, d.SyncDir("d"))
		var synced []byte
		for range rng.IntN(20) {
			line := bytes.Repeat([]byte{byte('a' + rng.IntN(26))}, 1+rng.IntN(1500))
			write(t, f, string(line), int64(len(synced)))
			must(t, f.Sync())
			synced = append(synced, line...)
		}
		// In doubt: appended bytes, and changes to other names.
		write(t, f, strings.Repeat("?", 3000), int64(len(synced)))
		put(t, d, "d/b", "b")
		must(t, d.Rename("d/b", "d/c"))
		after := d.Crash(rng)
		got, err := after.ReadFileRaw("d/a")
		must(t, err)
		if !bytes.HasPrefix(got, synced) {
			t.Fatalf("synced %d bytes, %d are left and differ", len(synced), len(got))
		}
		if len(got) > len(synced)+3000 {
			t.Fatalf("%d bytes are left, only %d were written", len(got), len(synced)+3000)
		}
	}
}

func TestUnsyncedWriteMayBeAbsentTornOrReordered(t *testing.T) {
	d := vfstest.New()
	f := openSynced(t, d, "a", strings.Repeat("o", 2048))
	write(t, f, strings.Repeat("n", 2048), 0)
	seen := outcomes(t, d, func(after *vfstest.Disk) string {
		data, err := after.ReadFileRaw("a")
		must(t, err)
		if len(data) != 2048 {
			return fmt.Sprintf("%d bytes", len(data))
		}
		if strings.Trim(string(data), "on") != "" {
			return "bytes that nobody wrote"
		}
		first, last := data[0] == 'n', data[2047] == 'n'
		whole := true
		for at := 0; at < 2048; at += 512 {
			s := string(data[at : at+512])
			whole = whole && (strings.Count(s, "n") == 512 || strings.Count(s, "o") == 512)
		}
		return fmt.Sprintf("first %t last %t sectors whole %t", first, last, whole)
	})
	wantOutcomes(t, seen,
		"first false last false sectors whole true", "first false last false sectors whole false",
		"first true last false sectors whole true", "first true last false sectors whole false",
		"first false last true sectors whole true", "first false last true sectors whole false",
		"first true last true sectors whole true", "first true last true sectors whole false")
}

func TestUnsyncedAppendMayHaveAnyLengthZerosOrGarbage(t *testing.T) {
	d := vfstest.New()
	f := openSynced(t, d, "a", "old")
	write(t, f, strings.Repeat("n", 2000), 3)
	lengths := make(map[int]bool)
	seen := outcomes(t, d, func(after *vfstest.Disk) string {
		data, err := after.ReadFileRaw("a")
		must(t, err)
		if len(data) < 3 || len(data) > 2003 || string(data[:3]) != "old" {
			return fmt.Sprintf("%.5q… %d bytes", data, len(data))
		}
		lengths[len(data)] = true
		zeros := bytes.Count(data, []byte{0})
		new := bytes.Count(data[3:], []byte{'n'})
		switch {
		case new == len(data)-3:
			return "a prefix"
		case new+zeros == len(data)-3:
			return "zeros"
		}
		return "garbage"
	})
	wantOutcomes(t, seen, "a prefix", "zeros", "garbage")
	if !lengths[3] || !lengths[2003] || len(lengths) < 100 {
		t.Errorf("saw %d lengths, want the shortest, the longest and many others", len(lengths))
	}
}

func TestUnsyncedTruncateMayBeUndone(t *testing.T) {
	d := vfstest.New()
	f := openSynced(t, d, "a", "abcdef")
	must(t, f.Truncate(3))
	seen := outcomes(t, d, files)
	if seen["a=abc"] == 0 || seen["a=abcdef"] == 0 || seen["a=abc\x00\x00\x00"] == 0 {
		t.Errorf("saw %v", seen)
	}
	for s := range seen {
		if s != "a=abc" && strings.Trim(s[5:], "def\x00") != "" {
			t.Errorf("saw %q", s)
		}
	}
	write(t, f, "X", 3)
	must(t, f.Sync())
	wantOutcomes(t, outcomes(t, d, files), "a=abcX")
}

func TestNewFileNeedsBothSyncs(t *testing.T) {
	d := vfstest.New()
	f, err := d.Create("a", 0o600)
	must(t, err)
	wantOutcomes(t, outcomes(t, d, files), "", "a=")
	write(t, f, "x", 0)
	must(t, f.Sync())
	// fsync(2): the directory entry needs a sync of its own.
	wantOutcomes(t, outcomes(t, d, files), "", "a=x")
	must(t, d.SyncDir(""))
	wantOutcomes(t, outcomes(t, d, files), "a=x")

	put(t, d, "b", "y")
	must(t, d.SyncDir(""))
	seen := outcomes(t, d, files)
	for s := range seen {
		if !strings.HasPrefix(s, "a=x b=") || len(s) > len("a=x b=y") {
			t.Errorf("saw %q", s)
		}
	}
	if seen["a=x b="] == 0 || seen["a=x b=y"] == 0 {
		t.Errorf("saw %v, want the synced name without contents and with them", seen)
	}
}

func TestUnsyncedRenameIsOldOrNew(t *testing.T) {
	d := vfstest.New()
	must(t, openSynced(t, d, "a", "new").Close())
	must(t, openSynced(t, d, "b", "old").Close())
	must(t, d.Rename("a", "b"))
	wantOutcomes(t, outcomes(t, d, files), "a=new b=old", "b=new")
	must(t, d.SyncDir(""))
	wantOutcomes(t, outcomes(t, d, files), "b=new")
}

func TestRenameBetweenDirectoriesNeverLosesTheFile(t *testing.T) {
	start := func() *vfstest.Disk {
		d := vfstest.New()
		must(t, d.Mkdir("d", 0o700))
		must(t, openSynced(t, d, "a", "new").Close())
		must(t, d.Rename("a", "d/a"))
		return d
	}
	wantOutcomes(t, outcomes(t, start(), files), "a=new", "a=new d/a=new", "d/a=new")
	d := start()
	must(t, d.SyncDir("d"))
	wantOutcomes(t, outcomes(t, d, files), "a=new d/a=new", "d/a=new")
	d = start()
	must(t, d.SyncDir(""))
	wantOutcomes(t, outcomes(t, d, files), "d/a=new")
}

func TestUnsyncedDirectoryOperationsAreIndependent(t *testing.T) {
	d := vfstest.New()
	must(t, openSynced(t, d, "a", "1").Close())
	must(t, openSynced(t, d, "b", "2").Close())
	must(t, d.Remove("a"))
	must(t, d.Link("b", "c"))
	wantOutcomes(t, outcomes(t, d, files), "a=1 b=2", "b=2", "a=1 b=2 c=2", "b=2 c=2")
}

func TestOperationsThatDependOnALostOneAreLost(t *testing.T) {
	d := vfstest.New()
	must(t, d.Mkdir("d", 0o700))
	must(t, openSynced(t, d, "d/a", "1").Close())
	must(t, d.SyncDir("d"))
	d = d.CrashKeep(vfstest.KeepNone)
	wantNames(t, d, "", "d")
	must(t, d.Rename("d/a", "d/b"))
	must(t, d.Rename("d/b", "d/c"))
	must(t, d.Remove("d/c"))
	wantOutcomes(t, outcomes(t, d, files), "d/a=1", "d/b=1", "d/c=1", "")

	d = vfstest.New()
	must(t, d.Mkdir("d", 0o700))
	put(t, d, "d/a", "")
	must(t, d.SyncDir("d"))
	seen := outcomes(t, d, func(after *vfstest.Disk) string {
		names, err := after.ReadDir("")
		must(t, err)
		return fmt.Sprint(names, files(after))
	})
	// The name d is not synced: without it what is in it is gone, with it what was synced in it is there.
	wantOutcomes(t, seen, "[]", "[d]d/a=")
}

func TestSyncedReplacementBringsWhatItNeeds(t *testing.T) {
	// x takes the place of y, whose old file went to another directory: syncing the first makes both durable.
	d := vfstest.New()
	must(t, d.Mkdir("d", 0o700))
	must(t, openSynced(t, d, "x", "x").Close())
	must(t, openSynced(t, d, "y", "y").Close())
	must(t, d.Rename("y", "d/y"))
	must(t, d.Rename("x", "y"))
	wantOutcomes(t, outcomes(t, d, files), "x=x y=y", "d/y=y x=x y=y", "d/y=y x=x", "d/y=y y=x")
	must(t, d.SyncDir(""))
	wantOutcomes(t, outcomes(t, d, files), "d/y=y y=x")
}

func TestMovedDirectoriesNeverVanish(t *testing.T) {
	d := vfstest.New()
	must(t, d.Mkdir("a", 0o700))
	must(t, d.Mkdir("b", 0o700))
	must(t, openSynced(t, d, "a/f", "f").Close())
	must(t, openSynced(t, d, "b/g", "g").Close())
	must(t, d.SyncDir("a"))
	must(t, d.SyncDir("b"))
	must(t, d.Rename("a", "b/a"))
	must(t, d.Rename("b/a", "a"))
	must(t, d.Rename("b", "a/b"))
	wantOutcomes(t, outcomes(t, d, files), "a/f=f b/g=g", "b/a/f=f b/g=g", "a/b/g=g a/f=f")
}

func TestRemovedFileComesBackWithItsSyncedContents(t *testing.T) {
	d := vfstest.New()
	f := openSynced(t, d, "a", "abc")
	must(t, d.Remove("a"))
	must(t, f.Truncate(0))
	must(t, f.Close())
	seen := outcomes(t, d, files)
	if seen[""] == 0 || seen["a="] == 0 || seen["a=abc"] == 0 {
		t.Errorf("saw %v, want it gone, cut and whole", seen)
	}
	for s := range seen {
		if s != "" && s != "a=" && (len(s) != 5 || strings.Trim(s[2:], "abc\x00") != "") {
			t.Errorf("saw %q", s)
		}
	}
}

func TestCrashKeepsHardLinksAndInodes(t *testing.T) {
	d := vfstest.New()
	must(t, openSynced(t, d, "a", "abc").Close())
	must(t, d.Link("a", "b"))
	must(t, d.SyncDir(""))
	before, err := d.Stat("a")
	must(t, err)
	after := d.CrashKeep(vfstest.KeepNone)
	a, err := after.Stat("a")
	must(t, err)
	b, err := after.Stat("b")
	must(t, err)
	if a.Inode != before.Inode || a.Inode != b.Inode {
		t.Errorf("got inodes %d and %d, were %d", a.Inode, b.Inode, before.Inode)
	}
	put(t, after, "c", "")
	c, err := after.Stat("c")
	must(t, err)
	if c.Inode == a.Inode {
		t.Error("a new file has an old inode")
	}
}

func TestModeAfterACrashIsOneItHad(t *testing.T) {
	d := vfstest.New()
	must(t, openSynced(t, d, "a", "").Close())
	must(t, d.Chmod("a", 0o444))
	must(t, d.SyncDir(""))
	mode := func(after *vfstest.Disk) string {
		info, err := after.Stat("a")
		must(t, err)
		return info.Mode.String()
	}
	wantOutcomes(t, outcomes(t, d, mode), "-rw-------", "-r--r--r--")
}

func TestCrashKeepExtremes(t *testing.T) {
	d := vfstest.New()
	f := openSynced(t, d, "a", "old")
	write(t, f, "new and longer", 0)
	put(t, d, "b", "b")
	if got, want := files(d.Clone().CrashKeep(vfstest.KeepNone)), "a=old"; got != want {
		t.Errorf("KeepNone: got %q, want %q", got, want)
	}
	if got, want := files(d.Clone().CrashKeep(vfstest.KeepAll)), "a=new and longer b=b"; got != want {
		t.Errorf("KeepAll: got %q, want %q", got, want)
	}
	wantFile(t, d, "a", "new and longer")
}

func TestCrashedDiskAnswersNothing(t *testing.T) {
	d := vfstest.New()
	f := openSynced(t, d, "a", "abc")
	l, err := d.Lock("lock", []byte("1"))
	must(t, err)
	must(t, d.SyncDir(""))
	after := d.CrashKeep(vfstest.KeepAll)
	_, err = f.ReadAt(make([]byte, 1), 0)
	wantIs(t, err, vfstest.ErrPowerCut)
	_, err = f.WriteAt([]byte("x"), 0)
	wantIs(t, err, vfstest.ErrPowerCut)
	wantIs(t, f.Sync(), vfstest.ErrPowerCut)
	wantIs(t, f.Close(), vfstest.ErrPowerCut)
	wantIs(t, l.Close(), vfstest.ErrPowerCut)
	_, err = d.Stat("a")
	wantIs(t, err, vfstest.ErrPowerCut)
	_, err = d.ReadDir("")
	wantIs(t, err, vfstest.ErrPowerCut)
	wantIs(t, d.Rename("a", "b"), vfstest.ErrPowerCut)
	wantFile(t, after, "a", "abc")
	l, err = after.Lock("lock", []byte("2"))
	must(t, err)
	must(t, l.Close())
}

func TestCutAfterLetsExactlySoManyChangesThrough(t *testing.T) {
	for n := range uint64(7) {
		d := vfstest.New()
		put(t, d, "z", "")
		before := d.Ops()
		d.CutAfter(n)
		err := vfs.WriteAtomic(d, "tmp", "a", []byte("abc"), 0o444) // remove, create, write, sync, chmod, rename, syncdir
		wantIs(t, err, vfstest.ErrPowerCut)
		if got := d.Ops() - before; got != n {
			t.Errorf("got %d changes, want %d", got, n)
		}
		_, err = d.Open("z")
		wantIs(t, err, vfstest.ErrPowerCut)
	}
	d := vfstest.New()
	d.CutAfter(7)
	must(t, vfs.WriteAtomic(d, "tmp", "a", []byte("abc"), 0o444))
}

func TestCrashRepeatsFromItsSeed(t *testing.T) {
	run := func(seed uint64) string {
		d := vfstest.New()
		rng := vfstest.NewRand(seed)
		for i := range 200 {
			names := []string{"a", "b", "c", "d/a", "d/b", "d"}
			step(d, "", names[rng.IntN(6)], names[rng.IntN(6)], rng.IntN(10), rng.Int64N(2000), 100+i)
		}
		return files(d.Crash(rng))
	}
	seed := rand.Uint64()
	if a, b := run(seed), run(seed); a != b {
		t.Errorf("seed %d: got %q, then %q", seed, a, b)
	}
}

// TestCloneIsTheSameDiskApart compares crashes of a clone with crashes of the original.
func TestCloneIsTheSameDiskApart(t *testing.T) {
	rng := vfstest.Rand(t)
	names := []string{"a", "b", "c", "d/a", "d/b", "d", "e", "e/a"}
	for range 200 {
		d := vfstest.New()
		for i := range 60 {
			step(d, "", names[rng.IntN(8)], names[rng.IntN(8)], rng.IntN(10), rng.Int64N(2000), 100+i)
		}
		c := d.Clone()
		if files(c) != files(d) || c.Used() != d.Used() || c.Ops() != d.Ops() {
			t.Fatal("the clone differs")
		}
		seed := rng.Uint64()
		want := files(d.Clone().Crash(vfstest.NewRand(seed)))
		for i := range 60 {
			step(d, "", names[rng.IntN(8)], names[rng.IntN(8)], rng.IntN(10), rng.Int64N(2000), 100+i)
		}
		if got := files(c.Crash(vfstest.NewRand(seed))); got != want {
			t.Fatalf("crash of the clone: got %q, want %q", got, want)
		}
	}
}

func TestFailLeavesNoTrace(t *testing.T) {
	boom := errors.New("boom")
	ops := map[vfstest.Kind]func(d *vfstest.Disk, f vfs.File) error{
		vfstest.OpOpen:     func(d *vfstest.Disk, _ vfs.File) error { _, err := d.Open("a"); return err },
		vfstest.OpRead:     func(_ *vfstest.Disk, f vfs.File) error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		vfstest.OpSize:     func(_ *vfstest.Disk, f vfs.File) error { _, err := f.Size(); return err },
		vfstest.OpReadDir:  func(d *vfstest.Disk, _ vfs.File) error { _, err := d.ReadDir(""); return err },
		vfstest.OpStat:     func(d *vfstest.Disk, _ vfs.File) error { _, err := d.Stat("a"); return err },
		vfstest.OpCreate:   func(d *vfstest.Disk, _ vfs.File) error { _, err := d.Create("n", 0o600); return err },
		vfstest.OpWrite:    func(_ *vfstest.Disk, f vfs.File) error { _, err := f.WriteAt([]byte("xyz"), 0); return err },
		vfstest.OpTruncate: func(_ *vfstest.Disk, f vfs.File) error { return f.Truncate(1) },
		vfstest.OpAllocate: func(_ *vfstest.Disk, f vfs.File) error { return f.Allocate(10) },
		vfstest.OpSync:     func(_ *vfstest.Disk, f vfs.File) error { return f.Sync() },
		vfstest.OpRename:   func(d *vfstest.Disk, _ vfs.File) error { return d.Rename("a", "n") },
		vfstest.OpLink:     func(d *vfstest.Disk, _ vfs.File) error { return d.Link("a", "n") },
		vfstest.OpRemove:   func(d *vfstest.Disk, _ vfs.File) error { return d.Remove("a") },
		vfstest.OpMkdir:    func(d *vfstest.Disk, _ vfs.File) error { return d.Mkdir("n", 0o700) },
		vfstest.OpChmod:    func(d *vfstest.Disk, _ vfs.File) error { return d.Chmod("a", 0o444) },
		vfstest.OpSyncDir:  func(d *vfstest.Disk, _ vfs.File) error { return d.SyncDir("") },
		vfstest.OpLock:     func(d *vfstest.Disk, _ vfs.File) error { _, err := d.Lock("n", []byte("1")); return err },
	}
	for kind, do := range ops {
		t.Run(string(kind), func(t *testing.T) {
			start := func() (*vfstest.Disk, vfs.File) {
				d := vfstest.New()
				f := openSynced(t, d, "a", "abc")
				write(t, f, "d", 3) // something for Sync
				put(t, d, "b", "")  // something for SyncDir
				return d, f
			}
			failing := func(d *vfstest.Disk, err error) *vfstest.Op {
				var last vfstest.Op
				d.SetFail(func(op vfstest.Op) error {
					last = op
					return err
				})
				return &last
			}
			d, f := start()
			files := func(d *vfstest.Disk) string {
				names, err := d.Clone().ReadDir("") // the clone does not fail
				must(t, err)
				return fmt.Sprint(names, files(d))
			}
			before, least := files(d), files(d.Clone().CrashKeep(vfstest.KeepNone))
			op := failing(d, boom)
			counted := d.Ops()
			wantIs(t, do(d, f), boom)
			if op.Kind != kind {
				t.Errorf("got %q", op.Kind)
			}
			if want := d.Ops(); kind.Changes() && (op.N != want || want != counted+1) || !kind.Changes() && (op.N != 0 || want != counted) {
				t.Errorf("got operation number %d, counter %d then %d", op.N, counted, want)
			}
			if got := files(d); got != before {
				t.Errorf("got %q, want %q as before", got, before)
			}
			if got := files(d.Clone().CrashKeep(vfstest.KeepNone)); got != least {
				t.Errorf("after a crash: got %q, want %q", got, least)
			}
			if got := d.OpenFiles(); len(got) != 1 {
				t.Errorf("open are %q, want only the one", got)
			}
			if !kind.Changes() || kind == vfstest.OpChmod {
				return
			}

			good, gf := start()
			must(t, do(good, gf))
			d, f = start()
			failing(d, vfstest.Persisted(boom))
			wantIs(t, do(d, f), boom)
			d.SetFail(nil)
			if got := d.OpenFiles(); len(got) != 1 {
				t.Errorf("persisted: open are %q, want only the one", got)
			}
			if kind != vfstest.OpLock && files(d) != files(good) {
				t.Errorf("persisted: got %q, want %q", files(d), files(good))
			}
			if kind != vfstest.OpLock && files(d.Clone().CrashKeep(vfstest.KeepNone)) == least {
				t.Errorf("persisted: a crash takes it back to %q", least)
			}
		})
	}
}

func TestShortWriteKeepsItsFirstBytes(t *testing.T) {
	boom := errors.New("boom")
	d := vfstest.New()
	f := openSynced(t, d, "a", "abc")
	d.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpWrite {
			return vfstest.Short(2, boom)
		}
		return nil
	})
	n, err := f.WriteAt([]byte("XYZ"), 2)
	wantIs(t, err, boom)
	if n != 0 {
		t.Errorf("got %d bytes, want 0", n)
	}
	wantFile(t, d, "a", "abXY")
}

func TestFailedSyncLosesDataThatStaysVisible(t *testing.T) {
	eio := errors.New("input/output error")
	d := vfstest.New()
	f := openSynced(t, d, "a", "abc")
	d.SetFailSync(func(vfstest.Op) error { return eio })
	write(t, f, "def", 3)
	wantIs(t, f.Sync(), eio)
	d.SetFailSync(nil)
	must(t, f.Sync())
	wantFile(t, d, "a", "abcdef")
	for _, keep := range []vfstest.Keep{vfstest.KeepNone, vfstest.KeepAll} {
		if got := files(d.Clone().CrashKeep(keep)); got != "a=abc" {
			t.Errorf("after a crash: got %q, want %q", got, "a=abc")
		}
	}
	seen := outcomes(t, d, files)
	if seen["a=abc"] == 0 || seen["a=abcdef"] == 0 {
		t.Errorf("saw %v, want the lost bytes to be there sometimes", seen)
	}

	// Later writes are durable again, and may leave a hole where the lost ones were.
	write(t, f, "ghi", 6)
	must(t, f.Sync())
	if got, want := files(d.Clone().CrashKeep(vfstest.KeepNone)), "a=abc\x00\x00\x00ghi"; got != want {
		t.Errorf("after a crash: got %q, want %q", got, want)
	}
	for s := range outcomes(t, d, files) {
		if len(s) != len("a=abcdefghi") || !strings.HasPrefix(s, "a=abc") || !strings.HasSuffix(s, "ghi") {
			t.Errorf("saw %q: synced bytes are gone", s)
		}
	}
	// Writing the same bytes again is the cure.
	write(t, f, "def", 3)
	must(t, f.Sync())
	wantOutcomes(t, outcomes(t, d, files), "a=abcdefghi")
}

func TestFullDiskCutsWritesShort(t *testing.T) {
	d := vfstest.New()
	d.Capacity = 10
	f, err := d.Create("a", 0o600)
	must(t, err)
	write(t, f, "12345", 0)
	n, err := f.WriteAt([]byte("67890XYZ"), 5)
	if n != 0 || !errors.Is(err, syscall.ENOSPC) || !vfs.IsNoSpace(err) {
		t.Errorf("got %d, %v, want 0 and ENOSPC", n, err)
	}
	wantFile(t, d, "a", "1234567890")
	write(t, f, "overwrite!", 0)
	n, err = f.WriteAt([]byte("x"), 20)
	if n != 0 || !vfs.IsNoSpace(err) {
		t.Errorf("behind a hole: got %d, %v, want 0 and ENOSPC", n, err)
	}
	_, err = d.Create("b", 0o600)
	wantIs(t, err, syscall.ENOSPC)
	wantIs(t, d.Mkdir("b", 0o700), syscall.ENOSPC)
	wantIs(t, f.Allocate(11), syscall.ENOSPC)
	wantIs(t, f.Truncate(11), syscall.ENOSPC)
	must(t, d.Rename("a", "c"))
	must(t, d.Link("c", "d"))
	must(t, f.Sync())
	must(t, d.SyncDir(""))
	wantFile(t, d, "d", "overwrite!")

	// Space comes back when the last name and the last handle are gone.
	must(t, d.Remove("c"))
	must(t, d.Remove("d"))
	if d.Used() != 10 {
		t.Errorf("got %d bytes used, want 10 while it is open", d.Used())
	}
	must(t, f.Close())
	if d.Used() != 0 {
		t.Errorf("got %d bytes used, want 0", d.Used())
	}
	put(t, d, "b", "1234567890")
	if d.Clone().CrashKeep(vfstest.KeepAll).Used() != 10 {
		t.Error("a crash loses count of the space")
	}
	d.SetCapacity(20)
	put(t, d, "e", "1234567890")
}

func TestLockOnAFullDiskIsTakenWithoutHolder(t *testing.T) {
	d := vfstest.New()
	l, err := d.Lock("lock", []byte("first"))
	must(t, err)
	must(t, l.Close())
	put(t, d, "a", "1234567890")
	d.SetCapacity(10)
	l, err = d.Lock("lock", []byte("second"))
	must(t, err)
	wantFile(t, d, "lock", "")
	must(t, l.Close())
}

func TestRawWritesAreDurableAndPastAllFaults(t *testing.T) {
	d := vfstest.New()
	must(t, openSynced(t, d, "a", "abc").Close())
	before, err := d.Stat("a")
	must(t, err)
	must(t, d.Chmod("a", 0o400))
	ops := d.Ops()
	d.SetFail(func(vfstest.Op) error { return errors.New("boom") })
	d.SetCapacity(1)
	must(t, d.WriteFileRaw("a", []byte("tampered")))
	must(t, d.WriteFileRaw("b", []byte("new")))
	wantIs(t, d.WriteFileRaw("no/b", nil), fs.ErrNotExist)
	_, err = d.ReadFileRaw("no")
	wantIs(t, err, fs.ErrNotExist)
	if d.Ops() != ops {
		t.Error("tampering is counted")
	}
	after := d.CrashKeep(vfstest.KeepNone)
	if got, want := files(after), "a=tampered b=new"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	info, err := after.Stat("a")
	must(t, err)
	if info.Inode != before.Inode {
		t.Error("tampering made another file")
	}
}

func TestDiskIsSafeForConcurrentUse(t *testing.T) {
	d := vfstest.New()
	var calls int // no lock: Fail is serialized
	d.Fail = func(vfstest.Op) error { calls++; return nil }
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprint("f", i)
			for range 50 {
				if err := vfs.WriteAtomic(d, name+".tmp", name, []byte(name), 0o600); err != nil {
					t.Error(err)
				}
				if _, err := vfs.ReadFile(d, name, 10); err != nil {
					t.Error(err)
				}
				d.Clone().CrashKeep(vfstest.KeepNone)
			}
		})
	}
	wg.Wait()
	if len(d.Files()) != 8 || calls == 0 {
		t.Errorf("got files %q after %d calls", d.Files(), calls)
	}
}

func TestUndoneTruncateLeavesOtherBlocksAlone(t *testing.T) {
	d := vfstest.New()
	old := strings.Repeat("o", 20_000)
	f := openSynced(t, d, "a", old)
	must(t, f.Truncate(5000))
	seen := outcomes(t, d, func(after *vfstest.Disk) string {
		data, err := after.ReadFileRaw("a")
		must(t, err)
		if string(data[:5000]) != old[:5000] || len(data) > 5000 && string(data[8192:]) != old[8192:] {
			return fmt.Sprintf("%d bytes, %d of them zero", len(data), bytes.Count(data, []byte{0}))
		}
		return fmt.Sprint(len(data))
	})
	wantOutcomes(t, seen, "5000", "20000")
}

func TestSyncingEverythingLeavesNothingInDoubt(t *testing.T) {
	rng := vfstest.Rand(t)
	names := []string{"a", "b", "c", "d/a", "d/b", "d", "e", "e/a"}
	for range 150 {
		d := vfstest.New()
		for i := range 80 {
			step(d, "", names[rng.IntN(8)], names[rng.IntN(8)], rng.IntN(10), rng.Int64N(2000), 100+i)
		}
		syncAll(t, d, "")
		want := tree(t, d, "")
		after := d.Crash(rng)
		got := tree(t, after, "")
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		if again := tree(t, after.CrashKeep(vfstest.KeepNone), ""); fmt.Sprint(again) != fmt.Sprint(want) {
			t.Fatalf("after a second crash: got %q, want %q", again, want)
		}
	}
}

// syncAll syncs every file and directory from dir on.
func syncAll(t *testing.T, d *vfstest.Disk, dir string) {
	t.Helper()
	names, err := d.ReadDir(dir)
	must(t, err)
	for _, name := range names {
		full := dir + "/" + name
		if info, err := d.Stat(full); err == nil && info.Dir {
			syncAll(t, d, full)
			continue
		}
		f, err := d.OpenRW(full)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
	}
	must(t, d.SyncDir(dir))
}
