package producer

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

const testName = "key.counters"

func openJournal(t *testing.T, fsys vfs.FS) *Journal {
	t.Helper()
	j, err := OpenJournal(fsys, testName, "0123456789abcdef", "example.com/a")
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func reserve(t *testing.T, j *Journal, n int, from uint64) []uint64 {
	t.Helper()
	list, err := j.Reserve(n, from)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestCountersHaveNoGapsAndAreGivenOutOnce(t *testing.T) {
	disk := vfstest.New()
	j := openJournal(t, disk)
	if j.Begun() {
		t.Error("a new journal has begun")
	}
	if got := reserve(t, j, 3, 10); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("got %v", got)
	}
	if err := j.Settle([]uint64{1, 3}, []uint64{2}); err != nil {
		t.Fatal(err)
	}
	if got := reserve(t, j, 2, 20); !slices.Equal(got, []uint64{2, 4}) {
		t.Errorf("after 2 came back: got %v, want [2 4]", got)
	}
	// Settled ones stay settled, whatever is said of them.
	if err := j.Settle(nil, []uint64{1, 3, 99}); err != nil {
		t.Fatal(err)
	}
	if err := j.Settle([]uint64{4}, nil); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openJournal(t, disk)
	if got := j.Open(); len(got) != 1 || got[0] != (Reservation{Counter: 2, From: 20}) {
		t.Errorf("open: %+v", got)
	}
	if got := reserve(t, j, 1, 0); got[0] != 5 || !j.Begun() {
		t.Errorf("after opening again: got %v", got)
	}
	if err := j.Raise(100); err != nil {
		t.Fatal(err)
	}
	if err := j.Raise(7); err != nil {
		t.Fatal(err)
	}
	if got := reserve(t, j, 1, 0); got[0] != 101 {
		t.Errorf("after raising: got %v", got)
	}
}

func TestSameIdempotencyKeyHasOneCounter(t *testing.T) {
	disk := vfstest.New()
	j := openJournal(t, disk)
	give := func(key string) uint64 {
		c, err := j.GiveOut(key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if a, b, again := give("aa"), give(""), give("aa"); a != 1 || b != 2 || again != 1 || give("") != 3 {
		t.Errorf("got %d %d %d", a, b, again)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openJournal(t, disk)
	if again := give("aa"); again != 1 {
		t.Errorf("after opening again: %d", again)
	}
	if err := j.Settle([]uint64{1}, nil); err != nil {
		t.Fatal(err)
	}
	if next := give("aa"); next != 4 {
		t.Errorf("after it was settled: %d", next)
	}
}

func TestReserveHasLimits(t *testing.T) {
	j := openJournal(t, vfstest.New())
	for n, ok := range map[int]bool{-1: false, 0: false, MaxReserve: true, MaxReserve + 1: false} {
		if _, err := j.Reserve(n, 0); (err == nil) != ok {
			t.Errorf("%d: %v", n, err)
		}
	}
	for range maxOpen/MaxReserve - 1 {
		reserve(t, j, MaxReserve, 0)
	}
	if _, err := j.Reserve(1, 0); err == nil || !strings.Contains(err.Error(), "settled") {
		t.Errorf("over the limit of open counters: %v", err)
	}
	if err := j.Settle([]uint64{5}, nil); err != nil {
		t.Fatal(err)
	}
	reserve(t, j, 1, 0)
	last := openJournal(t, vfstest.New())
	if err := last.Raise(math.MaxInt64 - 1); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Reserve(2, 0); err == nil || !strings.Contains(err.Error(), "no counters left") {
		t.Errorf("over the last counter: %v", err)
	}
	if got := reserve(t, last, 1, 0); got[0] != math.MaxInt64 {
		t.Errorf("the last counter: %v", got)
	}
}

// model is what a journal's user knows: what was given out to it, and what it has settled.
type model struct {
	open, done map[uint64]bool
}

// A counter that was given out is never given out again unless it was freed, and one that was given out is open or settled
// after every crash: none is lost, none is used twice.
func TestCountersSurviveEveryCrash(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		disk := vfstest.New()
		j := openJournal(t, disk)
		m := model{open: map[uint64]bool{}, done: map[uint64]bool{}}
		for round := range 4 {
			disk.CutAfter(rng.Uint64N(40))
			m.run(t, rng, j)
			disk = disk.Crash(rng)
			j = openJournal(t, disk)
			m.check(t, j, seed, round)
		}
	}
}

func (m *model) run(t *testing.T, rng *rand.Rand, j *Journal) {
	t.Helper()
	for range 20 {
		if rng.IntN(2) == 0 || len(m.open) == 0 {
			list, err := j.Reserve(1+rng.IntN(20), rng.Uint64N(1000))
			if err != nil {
				return
			}
			for _, c := range list {
				if m.open[c] || m.done[c] {
					t.Fatalf("counter %d is given out twice", c)
				}
				m.open[c] = true
			}
			continue
		}
		var done, free []uint64
		for _, c := range slices.Sorted(maps.Keys(m.open)) {
			switch rng.IntN(4) {
			case 0:
				done = append(done, c)
			case 1:
				free = append(free, c)
			}
		}
		err := j.Settle(done, free)
		for _, c := range done {
			delete(m.open, c)
			m.done[c] = true
		}
		for _, c := range free { // even where Settle failed: it may be given out again or not
			delete(m.open, c)
		}
		if err != nil {
			return
		}
	}
}

// check compares after a crash. Done may have been forgotten, which leaves the counter open: the log has it then.
func (m *model) check(t *testing.T, j *Journal, seed uint64, round int) {
	t.Helper()
	open := map[uint64]bool{}
	var lost, found []uint64
	for _, r := range j.Open() {
		open[r.Counter] = true
		switch {
		case m.done[r.Counter]:
			found = append(found, r.Counter)
		case !m.open[r.Counter]: // freed or reserved in the operation that the crash ended
			lost = append(lost, r.Counter)
		}
	}
	for c := range m.open {
		if !open[c] {
			t.Fatalf("seed %d round %d: counter %d was given out and is neither open nor settled", seed, round, c)
		}
	}
	if err := j.Settle(found, lost); err != nil {
		t.Fatal(err)
	}
}

func TestFailedWriteEndsTheJournal(t *testing.T) {
	disk := vfstest.New()
	j := openJournal(t, disk)
	reserve(t, j, 1, 0)
	broken := errors.New("broken")
	disk.SetFail(func(op vfstest.Op) error {
		if op.Kind == vfstest.OpSync {
			return broken
		}
		return nil
	})
	if _, err := j.Reserve(1, 0); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	disk.SetFail(nil)
	if _, err := j.Reserve(1, 0); !errors.Is(err, broken) {
		t.Errorf("after a failed sync: got %v", err)
	}
	if err := j.Close(); !errors.Is(err, broken) {
		t.Errorf("close: got %v", err)
	}
}

func TestDamagedJournalIsRefused(t *testing.T) {
	disk := vfstest.New()
	j := openJournal(t, disk)
	reserve(t, j, 5, 7)
	if err := j.Settle([]uint64{1, 2}, []uint64{3}); err != nil {
		t.Fatal(err)
	}
	reserve(t, j, 1, 9) // 3 again: forgetting this line would give it out twice
	good, err := vfs.ReadFile(disk, testName, maxJournal)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(good[:len(good)-1], '\n') + 1
	load := func(data []byte) (*Journal, error) {
		j := &Journal{header: j.header, open: map[uint64]*Reservation{}}
		return j, j.load(data)
	}
	for i := range last {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := load(bad); err == nil {
				t.Fatalf("byte %d bit %d: the flip is not noticed", i, bit)
			}
		}
	}
	for i := last; i < len(good); i++ { // what a crash may tear: the counter stays free, since nobody got it
		if j, err := load(good[:i]); err != nil || !slices.Equal(j.free, []uint64{3}) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	for name, data := range map[string]string{
		"empty": "", "other key": strings.Replace(string(good), "0123456789abcdef", "0123456789abcdee", 1),
		"unknown fact": string(good) + string(line(0, "lost", "1")),
		"descending":   string(good) + string(line(0, "done", "5,4")), "zero": string(good) + string(line(0, "done", "0")),
		"spelling": string(good) + string(line(0, "done", "05")), "huge range": string(good) + string(line(0, "done", "1-9223372036854775807")),
		"no number": string(good) + string(line(0, "sent", "x", "1")),
	} {
		if _, err := load([]byte(data)); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

func TestJournalStaysSmall(t *testing.T) {
	disk := vfstest.New()
	j := openJournal(t, disk)
	for i := range uint64(70_000) {
		list := reserve(t, j, 1, i)
		if err := j.Settle(list, nil); err != nil {
			t.Fatal(err)
		}
	}
	if j.length > compactJournal+1000 {
		t.Errorf("%d bytes after 70,000 counters", j.length)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got := reserve(t, openJournal(t, disk), 1, 0); got[0] != 70_001 {
		t.Errorf("got %v", got)
	}
}

func TestKeyFileIsNeverReplaced(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	p := testKey(t, MLDSA44)
	if err := CreateKeyFile(vfs.OS(), name, p); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil || filepath.Separator == '/' && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := LoadKeyFile(vfs.OS(), name)
	if err != nil || again.String() != p.String() {
		t.Errorf("got %v", err)
	}
	if err := CreateKeyFile(vfs.OS(), name, testKey(t, Ed25519)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the key is replaced: %v", err)
	}
	if again, err := LoadKeyFile(vfs.OS(), name); err != nil || again.String() != p.String() {
		t.Errorf("the key was replaced: %v", err)
	}
	for _, bad := range []string{"", p.String(), p.String() + "\n\n", "x\n"} {
		if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKeyFile(vfs.OS(), name); err == nil {
			t.Errorf("%.20q is a key", bad)
		}
	}
}

func FuzzJournal(f *testing.F) {
	j := &Journal{header: journalHeader + " k o\n"}
	f.Add([]byte(j.header + string(line(0, "high", "3")) + string(line(10, "sent", "5", "1-3")) + string(line(10, "done", "1")) + string(line(12, "out", "aa", "4"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		j := &Journal{header: j.header, open: map[uint64]*Reservation{}}
		if j.load(data) != nil {
			return
		}
		for c := range j.open {
			if c > j.high || slices.Contains(j.free, c) {
				t.Fatalf("counter %d is open, the highest is %d, free %v", c, j.high, j.free)
			}
		}
	})
}
