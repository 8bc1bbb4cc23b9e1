package fsck

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// noClaim says which bytes the format leaves without a claim.
func noClaim(name string) bool {
	return name == "lock" || name == "reserve" || strings.HasPrefix(name, "next/")
}

// created is where log.json's "created" is: only the head covers it.
func (b *book) created() (from, to int) {
	from = bytes.Index(b.files["log.json"], []byte(`"created":"`)) + len(`"created":"`)
	return from, from + 30
}

// full is a log with every kind of file, closed.
func full(t testing.TB, origin string) *book {
	b := small(t, origin, true)
	b.rotate() // 517 entries: the remainder goes on, nothing is left to wait
	delete(b.files, "pending/"+"00000000000000000512.jsonl")
	b.add(260)
	b.rotate()
	b.add(3)
	b.close()
	b.files["quarantine/77-ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"] = []byte("abc")
	b.files["lock"], b.files["reserve"], b.files["next/tmp"] = []byte("x"), []byte("y"), []byte("z")
	return b
}

func names(b *book) []string { return slices.Sorted(maps.Keys(b.files)) }

func TestFullLogIsProven(t *testing.T) {
	b := full(t, "example.com/log")
	o := b.options()
	o.Indexes = true
	r := verify(t, o)
	want(t, r, Proven)
	if len(r.Notes) > 0 {
		t.Errorf("notes %v", r.Notes)
	}
}

// Each byte of the directory is changed in turn, by one bit and by all.
func TestEveryByteIsClaimed(t *testing.T) {
	t.Parallel()
	b := full(t, "example.com/log")
	d := b.disk()
	o := b.options()
	o.FS = d
	n := 0
	for _, name := range names(b) {
		good := b.files[name]
		file := path.Join(testDir, name)
		for i := 0; i < len(good); i += step(name) {
			n++
			bad := slices.Clone(good)
			if i%2 == 0 {
				bad[i] ^= 1 << (i / 2 % 8)
			} else {
				bad[i] ^= 0xff
			}
			must(t, d.WriteFileRaw(file, bad))
			r := verify(t, o)
			if noClaim(name) {
				want(t, r, Proven)
			} else if r.Verdict != Refuted || len(r.Findings) == 0 {
				t.Errorf("%s byte %d: %s", name, i, r.Verdict)
			}
		}
		must(t, d.WriteFileRaw(file, good))
	}
	want(t, verify(t, o), Proven)
	t.Logf("%d changes", n)
}

// The same without a head and with the key pinned: what changes is the verdict on what a crash may leave.
func TestEveryByteIsClaimedWithoutAHead(t *testing.T) {
	t.Parallel()
	b := small(t, "example.com/log", true)
	b.noHead = true
	d := b.disk()
	for _, name := range names(b) {
		good := b.files[name]
		file := path.Join(testDir, name)
		for i := 0; i < len(good); i += 3 * step(name) {
			bad := slices.Clone(good)
			bad[i] ^= 1 << (i % 8)
			must(t, d.WriteFileRaw(file, bad))
			o := b.options()
			o.FS = d
			o.Keys = []string{b.signer.VKey()}
			r := verify(t, o)
			from, to := b.created()
			switch {
			case name == "log.json" && i >= from && i < to && r.Verdict == Proven:
			case name == "checkpoints" && i >= b.lastNote() || name == "immutable.log":
				// The end may be torn: then it is unknown, never proven.
				if r.Verdict != Refuted && r.Verdict != Unknown {
					t.Errorf("%s byte %d: %s", name, i, r.Verdict)
				}
			case r.Verdict != Refuted:
				t.Errorf("%s byte %d: %s", name, i, r.Verdict)
			}
		}
		must(t, d.WriteFileRaw(file, good))
	}
}

func (b *book) lastNote() int {
	h := b.files["checkpoints"]
	return bytes.LastIndex(h, []byte("\n\n"+b.origin)) + 2
}

func TestEveryTruncationIsRefuted(t *testing.T) {
	t.Parallel()
	b := full(t, "example.com/log")
	d := b.disk()
	o := b.options()
	o.FS = d
	for _, name := range names(b) {
		good := b.files[name]
		file := path.Join(testDir, name)
		for n := 0; n < len(good); n += step(name) {
			must(t, d.WriteFileRaw(file, good[:n]))
			if r := verify(t, o); r.Verdict != Refuted && !noClaim(name) {
				t.Errorf("%s cut to %d: %s", name, n, r.Verdict)
			}
		}
		must(t, d.WriteFileRaw(file, good))
	}
}

func TestDeletedSwappedRenamedAndLongerFilesAreRefuted(t *testing.T) {
	b := full(t, "example.com/log")
	older := small(t, "example.com/log", true)
	other := full(t, "example.com/other")
	unrelated := full(t, "example.com/log") // same name, other key
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}
	for _, name := range names(b) {
		if noClaim(name) {
			continue
		}
		good := b.files[name]
		tries := map[string][]byte{
			"deleted": nil, "empty": {}, "one byte more": append(slices.Clone(good), 0), "newline more": append(slices.Clone(good), '\n'),
			"skippable frame more": append(slices.Clone(good), skippable...), "skippable frame first": append(slices.Clone(skippable), good...),
			"twice": append(slices.Clone(good), good...), "of another log": other.files[name], "of a log with the same name": unrelated.files[name],
		}
		if !bytes.Equal(older.files[name], good) {
			tries["older"] = older.files[name]
		}
		for what, data := range tries {
			if bytes.Equal(data, good) && data != nil {
				continue
			}
			c := b.clone()
			if c.files[name] = data; data == nil {
				delete(c.files, name)
			}
			if strings.HasPrefix(name, "quarantine/") && data == nil {
				continue // no recovery entry names it
			}
			o := c.options()
			if r := verify(t, o); r.Verdict != Refuted {
				t.Errorf("%s %s: %s", name, what, r.Verdict)
			}
		}
	}
}

func TestRenamedFilesAreRefuted(t *testing.T) {
	b := full(t, "example.com/log")
	for _, move := range [][2]string{
		{"archive/00000000000000000000.jsonl.zst", "archive/00000000000000000256.jsonl.zst"},
		{"archive/00000000000000000000.jsonl.zst", "archive/0.jsonl.zst"},
		{"archive/00000000000000000000.jsonl.zst", "archive/00000000000000000000.jsonl"},
		{"pending/00000000000000000512.jsonl", "pending/00000000000000000256.jsonl"},
		{"pending/00000000000000000512.jsonl", "pending/00000000000000000513.jsonl"},
		{"pending/00000000000000000512.jsonl", "pending/00000000000000001024.jsonl"},
		{"index/00000000000000000000.idx", "index/00000000000000000256.idx"},
		{"index/00000000000000000000.seal", "index/00000000000000000512.seal"},
		{"index/00000000000000000000.seal", "index/x"},
		{"tree/1", "tree/2"},
		{"tree/1", "tree/01"},
		{"tree/1", "chain"},
		{"chain", "tree/1"},
		{"tree/1", "tree/8"},
		{"checkpoint", "checkpoints"},
		{"checkpoints", "checkpoint"},
		{"immutable.log", "immutable.log.1"},
		{"immutable.log", "pending/00000000000000000768.jsonl"},
		{"pending/00000000000000000512.jsonl", "immutable.log"},
		{"log.json", "log"},
		{"archive/00000000000000000000.jsonl.zst", "archive.zst"},
	} {
		c := b.clone()
		c.files[move[1]] = c.files[move[0]]
		delete(c.files, move[0])
		if r := verify(t, c.options()); r.Verdict != Refuted {
			t.Errorf("%s renamed to %s: %s", move[0], move[1], r.Verdict)
		}
	}
}

func TestStrangeNamesAreRefutedInside(t *testing.T) {
	b := full(t, "example.com/log")
	for _, dir := range []string{"archive", "pending", "index", "tree"} {
		c := b.clone()
		c.files[dir+"/.hidden"] = []byte("x")
		if r := verify(t, c.options()); r.Verdict != Refuted || r.Findings[0].File != dir+"/.hidden" {
			t.Errorf("%s: %s %v", dir, r.Verdict, r.Findings)
		}
	}
	c := b.clone()
	c.files["notes.txt"], c.files["quarantine/odd"] = []byte("x"), []byte("y")
	r := verify(t, c.options())
	want(t, r, Proven)
	if len(r.Notes) != 2 {
		t.Errorf("notes %v", r.Notes)
	}
}

// An older copy of the whole directory, and one that is cut back to an earlier signed state, against the head and what was kept
// elsewhere.
func TestOlderCopyIsRefuted(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(300)
	b.close()
	old := b.clone()
	b.add(300)
	b.close()
	old.head = b.head
	for _, clean := range []bool{true, false} {
		old.head.Clean = clean
		r := verify(t, old.options())
		want(t, r, Refuted)
	}
	old.noHead = true
	want(t, verify(t, old.options()), Consistent) // what a directory alone cannot show
	for what, set := range map[string]func(o *Options){
		"checkpoint": func(o *Options) { o.Checkpoints = [][]byte{b.files["checkpoint"]} },
		"receipt":    func(o *Options) { o.Receipts = []Receipt{{Index: 300, Leaf: b.leaves[300]}} },
		"index":      func(o *Options) { o.Receipts = []Receipt{{Index: 300}} },
	} {
		o := old.options()
		set(&o)
		if r := verify(t, o); r.Verdict != Refuted {
			t.Errorf("%s: %s", what, r.Verdict)
		}
	}
}

func TestOlderHeadIsRefuted(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(3)
	b.close()
	head := b.head
	b.add(3)
	b.close()
	b.head = head
	want(t, verify(t, b.options()), Refuted)
	b.head.Clean = false
	want(t, verify(t, b.options()), Refuted)
}

func ExampleFinding() {
	fmt.Println(Finding{File: "chain", Offset: 32, Index: 511, What: "the chain hash differs", Got: "a", Want: "b", Hint: "rebuild"})
	fmt.Println(Finding{File: "tree/1", Offset: -1, Index: -1, What: "is missing"})
	// Output:
	// chain, offset 32, entry 511: the chain hash differs: found a, expected b (rebuild)
	// tree/1: is missing
}

// step is by how much to go through a file's bytes: a pending segment is long and has the open segment's form. IMMUTABLE_LONG takes
// every byte.
func step(name string) int {
	n := 1
	if strings.HasPrefix(name, "pending/") {
		n = 61
	}
	switch {
	case raceEnabled || testing.Short(): // ./test runs this package at full speed, too
		n *= 97
	case os.Getenv("IMMUTABLE_LONG") == "":
		n *= 7
	}
	return n
}
