package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// These tests hold each check by itself: without the check that a test names, the test fails.

// refuted checks that the log is refuted by a finding of this kind, whatever else there is.
func refuted(t *testing.T, o Options, file, what string) *Report {
	t.Helper()
	r := verify(t, o)
	want(t, r, Refuted)
	for _, f := range r.Findings {
		if f.File == file && strings.Contains(f.What, what) {
			return r
		}
	}
	t.Errorf("no finding %q in %s: %v", what, file, r.Findings)
	return r
}

// A rule bends a log so that one check stands against it.
type rule struct {
	name string
	bend func(n *book)
	file string
	what string
}

func checkRules(t *testing.T, start func() *book, rules []rule, set func(o *Options)) {
	t.Helper()
	for _, tt := range rules {
		t.Run(tt.name, func(t *testing.T) {
			n := start()
			n.t = t
			tt.bend(n)
			o := n.options()
			if set != nil {
				set(&o)
			}
			refuted(t, o, tt.file, tt.what)
		})
	}
}

// sealAs signs archive and idx of the first segment as they are, with a seal that edit has changed.
func (b *book) sealAs(edit func(s *index.Seal)) {
	archive, idx := b.files["archive/"+segment.ArchiveName(0)], b.files["index/"+segment.IndexName(0)]
	s := index.Seal{Origin: b.origin, End: 512, Archive: sha256.Sum256(archive), Index: sha256.Sum256(idx), ArchiveLen: int64(len(archive)), IndexLen: int64(len(idx))}
	edit(&s)
	b.files["index/"+segment.SealName(0)] = b.note(s.Text())
}

func TestRulesOfSealedSegments(t *testing.T) {
	whole := small(t, "example.com/log", true)
	archive, idx, seal := "archive/"+segment.ArchiveName(0), "index/"+segment.IndexName(0), "index/"+segment.SealName(0)
	checkRules(t, whole.clone, []rule{
		{"the segment line is of another segment", func(n *book) {
			var file bytes.Buffer
			w, err := segment.NewArchiveWriter(&file, 256, proof.Hash{})
			must(t, err)
			for at := 0; at < 512; at += groupSize {
				must(t, w.WriteGroup(append(bytes.Join(n.lines[at:at+groupSize], []byte("\n")), '\n')))
			}
			must(t, w.Close(768, n.chains[511], proof.Root(n.leaves[:512])))
			n.files[archive] = file.Bytes()
			n.sealAs(func(s *index.Seal) { s.End = 768 })
		}, archive, "segment line is of another segment than the name"},
		{"the seal of another log", func(n *book) { n.sealAs(func(s *index.Seal) { s.Origin = "example.com/other" }) }, seal, "is of another log"},
		{"the seal of another first entry", func(n *book) { n.sealAs(func(s *index.Seal) { s.First = 256 }) }, seal, "is of another segment"},
		{"the seal of another last entry", func(n *book) { n.sealAs(func(s *index.Seal) { s.End = 256 }) }, seal, "is of another segment"},
		{"the seal of another archive", func(n *book) { n.sealAs(func(s *index.Seal) { s.Archive[0] ^= 1 }) }, archive, "another SHA-256"},
		{"the seal of a longer archive", func(n *book) { n.sealAs(func(s *index.Seal) { s.ArchiveLen++ }) }, archive, "another length"},
		{"the seal of another index", func(n *book) { n.sealAs(func(s *index.Seal) { s.Index[0] ^= 1 }) }, idx, "another SHA-256"},
		{"the seal of a longer index", func(n *book) { n.sealAs(func(s *index.Seal) { s.IndexLen++ }) }, idx, "another length"},
		{"the seal is altered", func(n *book) {
			n.files[seal] = bytes.Replace(n.files[seal], []byte("\n0 512\n"), []byte("\n0 256\n"), 1)
		}, seal, "is not a seal of this log"},
		{"the seal is a checkpoint", func(n *book) { n.files[seal] = n.files["checkpoint"] }, seal, "is not a seal of this log"},
		{"an index of no segment", func(n *book) { n.files["index/"+segment.IndexName(512)] = n.files[idx] }, "index/" + segment.IndexName(512), "belongs to no sealed segment"},
		{"a seal of no segment", func(n *book) { n.files["index/"+segment.SealName(512)] = n.files[seal] }, "index/" + segment.SealName(512), "belongs to no sealed segment"},
		{"an index that is longer, sealed", func(n *book) {
			n.files[idx] = append(bytes.Clone(n.files[idx]), 0)
			n.reseal(0, 512)
		}, idx, "is not what the entries give"},
		{"an index that is shorter, sealed", func(n *book) {
			n.files[idx] = n.files[idx][:len(n.files[idx])-1]
			n.reseal(0, 512)
		}, idx, "is not what the entries give"},
	}, func(o *Options) { o.Indexes = true })
	// A segment whose pending file is still there may lack index and seal, and nothing else may be in their place.
	waits := newBook(t, "example.com/log", true)
	waits.add(300)
	waits.rotate()
	waits.close()
	waits.archive(0, 256)
	want(t, verify(t, waits.options()), Proven)
	checkRules(t, waits.clone, []rule{
		{"a directory for the index", func(n *book) { n.files[idx+"/x"] = []byte("x") }, idx, "is not a regular file"},
		{"a seal that is too long", func(n *book) { n.files[seal] = make([]byte, proof.MaxNote+1) }, seal, "too large"},
	}, nil)
}

// A pending file beside its archive does not count, and is held to the same entries all the same.
func TestRulesOfPendingSegments(t *testing.T) {
	name := "pending/" + segment.PendingName(0)
	waits := func() *book {
		b := newBook(t, "example.com/log", true)
		b.add(300)
		b.rotate()
		b.add(2)
		b.publish(true)
		return b
	}
	shadowed := func() *book {
		b := waits()
		b.archive(0, 256)
		return b
	}
	r := verify(t, shadowed().options())
	want(t, r, Proven)
	if r.Segments != 2 || r.Entries != 302 {
		t.Errorf("%d entries in %d segments", r.Entries, r.Segments)
	}
	header := len(segment.AppendHeader(nil, 0, proof.Hash{}))
	for _, start := range []func() *book{waits, shadowed} {
		checkRules(t, start, []rule{
			{"bytes after the last commit line", func(n *book) { n.files[name] = append(bytes.Clone(n.files[name]), `{"id":"0`...) }, name, "a pending segment ends with a commit line"},
			{"another segment line than the name", func(n *book) {
				n.files[name] = append(segment.AppendHeader(nil, 256, proof.Hash{}), n.files[name][header:]...)
			}, name, "another segment than the name"},
			{"no segment line", func(n *book) { n.files[name] = n.files[name][1:] }, name, "segment"},
			{"more entries than the log", func(n *book) {
				c := n.clone()
				c.add(1)
				n.files[name] = segmentFrom(c, 0, 303)
			}, name, "the segments after it do not"},
		}, nil)
	}
	checkRules(t, shadowed, []rule{
		{"one entry is another", func(n *book) {
			f := newBook(n.t, n.origin, false)
			f.batch(edited(n.lines[:300], 7, func(l []byte) []byte { return bytes.Replace(l, []byte(`"m7"`), []byte(`"m0"`), 1) }))
			n.files[name] = f.files["immutable.log"]
		}, name, "not the ones that the log holds"},
		{"fewer entries than the archive", func(n *book) { n.files[name] = segmentFrom(n, 0, 255) }, name, "ends before its archive does"},
		{"no entries", func(n *book) { n.files[name] = n.files[name][:header] }, name, "ends before its archive does"},
	}, nil)
	many := func() *book {
		b := newBook(t, "example.com/log", true)
		for range maxPending {
			b.add(groupSize)
			b.rotate()
		}
		b.close()
		return b
	}
	want(t, verify(t, many().options()), Proven)
	checkRules(t, many, []rule{
		{"five of them", func(n *book) { n.add(groupSize); n.rotate(); n.close() }, "pending", "more segments than may wait"},
		{"one over the others", func(n *book) {
			n.archive(0, 512)
			n.sign(0, 512)
		}, "pending/" + segment.PendingName(256), "overlaps the segment before it"},
		{"another chain hash in the segment line", func(n *book) { n.files["pending/"+segment.PendingName(256)] = rechained(n) }, "pending/" + segment.PendingName(256), "chain hash in the segment line"},
		{"another chain hash in the segment line, beside the archive", func(n *book) {
			n.archive(256, 512)
			n.sign(256, 512)
			n.files["pending/"+segment.PendingName(256)] = rechained(n)
		}, "pending/" + segment.PendingName(256), "chain hash in the segment line"},
	}, nil)
}

// segmentFrom is a raw segment of b's entries first to before end.
func segmentFrom(b *book, first, end int) []byte {
	var chain proof.Hash
	if first > 0 {
		chain = b.chains[first-1]
	}
	out := segment.AppendHeader(nil, uint64(first), chain)
	for _, line := range b.lines[first:end] {
		out = append(append(out, line...), '\n')
	}
	return segment.AppendCommit(out, uint64(first), uint64(end), b.chains[end-1], proof.Root(b.leaves[:end]))
}

// rechained is the raw segment of b's entries 256 to 511 with another chain hash in its segment line.
func rechained(b *book) []byte {
	file := b.files["pending/"+segment.PendingName(256)]
	return append(segment.AppendHeader(nil, 256, proof.Hash{9}), file[bytes.IndexByte(file, '\n')+1:]...)
}

// Between the link and the rename of a rotation immutable.log has two names. Another file of that name is read.
func TestSecondNameOfTheOpenSegment(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(10)
	b.close()
	name := "pending/" + segment.PendingName(0)
	o := b.options()
	d := o.FS.(*vfstest.Disk)
	b.mkdirs(d, testDir+"/pending")
	must(t, d.Link(testDir+"/immutable.log", path.Join(testDir, name)))
	r := verify(t, o)
	want(t, r, Proven)
	if len(r.Notes) != 1 || r.Notes[0].File != name {
		t.Errorf("notes %v", r.Notes)
	}
	b.files[name] = bytes.Replace(b.files["immutable.log"], []byte(`"m3"`), []byte(`"m4"`), 1)
	o = b.options()
	want(t, verify(t, o), Refuted)
	o.FS = noInodes{o.FS}
	want(t, verify(t, o), Refuted)
}

// noInodes is a file system that cannot tell files apart.
type noInodes struct{ vfs.FS }

func (f noInodes) Stat(name string) (vfs.Info, error) {
	info, err := f.FS.Stat(name)
	info.Inode = 0
	return info, err
}

func TestRulesOfControlEntries(t *testing.T) {
	b := small(t, "example.com/log", true)
	evidence := []byte("abc")
	hex := proof.Hash(sha256.Sum256(evidence)).String()
	recovery := func(head, size, file, sum, length string) string {
		return `{"type":"recovery","head":` + head + `,"size":` + size + `,"file":"` + file + `","sha256":"` + sum + `","bytes":` + length + `}`
	}
	name := "quarantine/5-" + hex
	note := strings.ReplaceAll(string(b.files["checkpoint"]), "\n", `\n`)
	root := b.f.Root().Base64()
	other := proof.Hash{1}.Base64()
	continues := func(origin, size, root, verdict, checkpoint string) string {
		return `{"type":"continue","origin":"` + origin + `","size":` + size + `,"root":"` + root + `","verdict":"` + verdict + `","checkpoint":"` + checkpoint + `"}`
	}
	log := func(text string) *book {
		n := b.remade(b.controlAt(521, text, timeAt(521)))
		n.files[name] = evidence
		return n
	}
	for _, good := range []string{
		recovery("521", "521", name, hex, "3"),
		`{"type":"clock","was":"` + timeText(timeAt(520)) + `","now":"` + timeText(timeAt(521)) + `"}`,
		continues(b.origin, "525", root, "proven", note),
		continues(b.origin, "526", other, "unknown", note),
		`{"type":"import","format":"blockchain","blocks":3,"head":"any","broken":0}`,
	} {
		want(t, verify(t, log(good).options()), Proven)
	}
	for _, tt := range []struct{ name, log, what string }{
		{"recovery, head is no number", recovery(`"x"`, "521", name, hex, "3"), `head is x`},
		{"recovery, head is a fraction", recovery("0.5", "521", name, hex, "3"), "head is 0.5"},
		{"recovery, head is negative", recovery("-0", "521", name, hex, "3"), "head is -0"},
		{"recovery, size is no number", recovery("0", "true", name, hex, "3"), "size is true"},
		{"recovery, bytes is no number", recovery("0", "521", name, hex, "1e1"), "bytes is 1e1"},
		{"recovery at another size", recovery("0", "520", name, hex, "3"), "size is 520, the entry's index 521"},
		{"recovery from behind the head", recovery("522", "521", name, hex, "3"), "head is 522"},
		{"recovery of a file elsewhere", recovery("0", "521", "5-"+hex, hex, "3"), "is not quarantine/"},
		{"recovery of an odd name", recovery("0", "521", "quarantine/05-"+hex, hex, "3"), "is not quarantine/"},
		{"recovery of a short name", recovery("0", "521", "quarantine/5-"+hex[:62], hex, "3"), "is not quarantine/"},
		{"recovery with another hash", recovery("0", "521", name, strings.Repeat("ab", 32), "3"), "is not quarantine/"},
		{"recovery of another length", recovery("0", "521", name, hex, "4"), "has 3 bytes, the entry says 4"},
		{"recovery of nothing", recovery("0", "521", name, hex, "0"), "bytes is 0"},
		{"recovery of too much", recovery("0", "521", name, hex, fmt.Sprint(segment.MaxBatchBytes+1)), "bytes is 16777217"},
		{"clock to another time", `{"type":"clock","was":"` + timeText(timeAt(520)) + `","now":"` + timeText(timeAt(522)) + `"}`, "now is"},
		{"clock from no time", `{"type":"clock","was":"","now":"` + timeText(timeAt(521)) + `"}`, "clock entry is wrong"},
		{"clock from another time", `{"type":"clock","was":"` + timeText(timeAt(521)) + `","now":"` + timeText(timeAt(521)) + `"}`, "was is"},
		{"continue without a size", continues(b.origin, `"525"`, root, "proven", note), "continue entry is wrong"},
		{"continue without a note", continues(b.origin, "525", root, "proven", ""), "checkpoint is no note"},
		{"continue without a checkpoint", continues(b.origin, "525", root, "proven", `x\n\n`), "parse checkpoint"},
		{"continue of another origin", continues("example.com/other", "525", root, "proven", note), "checkpoint is of"},
		{"continue of a smaller size", continues(b.origin, "524", root, "proven", note), "checkpoint is of"},
		{"continue of another root", continues(b.origin, "525", other, "proven", note), "checkpoint is of"},
		{"continue with a bad root", continues(b.origin, "526", "x", "proven", note), "parse hash"},
		{"continue without a verdict", continues(b.origin, "525", root, "maybe", note), "verdict"},
		{"import from elsewhere", `{"type":"import","format":"x","blocks":3,"head":"any","broken":0}`, "format"},
		{"import without blocks", `{"type":"import","format":"blockchain","blocks":-3,"head":"any","broken":0}`, "blocks is -3"},
		{"import without broken", `{"type":"import","format":"blockchain","blocks":3,"head":"any","broken":null}`, "broken is"},
		{"members in another order", `{"type":"clock","now":"` + timeText(timeAt(521)) + `","was":"` + timeText(timeAt(520)) + `"}`, "other members"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := log(tt.log)
			n.t = t
			n.files["5-"+hex] = evidence // what lies elsewhere is no evidence
			r := refuted(t, n.options(), "immutable.log", tt.what)
			if len(r.Findings) != 1 {
				t.Errorf("findings %v", r.Findings)
			}
		})
	}
}

// Only an entry of type clock may go back in time, and what it says of the entry before holds across groups and batches.
func TestRulesOfTheClock(t *testing.T) {
	b := small(t, "example.com/log", true)
	clock := func(was, now int64) string {
		return `{"type":"clock","was":"` + timeText(was) + `","now":"` + timeText(now) + `"}`
	}
	for _, at := range []int{10, 255, 256, 300, 512, 520, 524} {
		back := testTime + 5
		if at < 524 {
			back = timeAt(at) - 3 // the entry after it must not go back
		}
		file := "archive/" + segment.ArchiveName(0)
		if at >= 512 {
			file = "immutable.log"
		}
		want(t, verify(t, b.remade(b.controlAt(at, clock(timeAt(at-1), back), back)).options()), Proven)
		refuted(t, b.remade(b.controlAt(at, clock(timeAt(at-1)+1, back), back)).options(), file, "clock entry is wrong: was is")
		back = timeAt(at-1) - 1
		want(t, verify(t, b.remade(b.controlAt(at, clock(timeAt(at-1), back), back)).options()), Proven)
		refuted(t, b.remade(b.controlAt(at, `{"type":"new"}`, back)).options(), file, "timestamp is lower")
	}
}

func TestRulesOfHeadAndCheckpoints(t *testing.T) {
	closed := small(t, "example.com/log", true)
	crashed := func() *book {
		b := closed.clone()
		b.head.Clean = false
		return b
	}
	h := closed.files["checkpoints"]
	notes, err := proof.SplitNotes(h)
	must(t, err)
	ends := []int{0}
	for _, n := range notes {
		ends = append(ends, ends[len(ends)-1]+len(n)+1)
	}
	checkRules(t, closed.clone, []rule{
		{"clean: the history is longer", func(n *book) { n.head.Kept = int64(ends[3]) }, "checkpoints", "is longer than the head says"},
		{"clean: the checkpoint is older", func(n *book) {
			n.files["checkpoint"], n.files["checkpoints"] = notes[2], h[:ends[3]]
			n.head.Kept = int64(ends[3])
		}, "checkpoint", "is not of the size that the head says"},
		{"clean: the last note is older", func(n *book) {
			n.files["checkpoints"] = h[:ends[3]]
			n.head.Kept = int64(ends[3])
		}, "checkpoints", "its last note is not the newest checkpoint"},
		{"clean: the log is longer", func(n *book) { n.add(1) }, "immutable.log", "does not end where the head says"},
		{"another spelling of the newest note", func(n *book) {
			n.files["checkpoint"] = append(bytes.Clone(n.files["checkpoint"]), "— x AAAAAAA=\n"...)
		}, "checkpoint", "differs from the note of the same size"},
		{"a checkpoint of another log", func(n *book) {
			n.files["checkpoint"] = n.note(proof.Checkpoint{Origin: "example.com/other", Size: 525, Root: n.f.Root()}.Text())
		}, "checkpoint", "other origin"},
		{"a seal for the checkpoint", func(n *book) { n.files["checkpoint"] = n.files["index/"+segment.SealName(0)] }, "checkpoint", "is not a checkpoint of this log"},
	}, nil)
	checkRules(t, crashed, []rule{
		{"the checkpoint is newer than the head", func(n *book) {
			n.head.Size, n.head.Root, n.head.Kept = 520, proof.Root(n.leaves[:520]), int64(ends[3])
			n.files["checkpoints"] = h[:ends[3]]
		}, "checkpoint", "is newer than the highest that this host ever signed"},
		{"the history is newer than the head", func(n *book) {
			n.head.Size, n.head.Root, n.head.Kept = 520, proof.Root(n.leaves[:520]), int64(ends[3])
			n.files["checkpoint"] = notes[2]
		}, "checkpoints", "is newer than the highest that this host ever signed"},
		{"the head knows the middle of a note", func(n *book) { n.head.Kept -= 2 }, "checkpoints", "the note does not end where the head says"},
		{"the history is shorter", func(n *book) { n.files["checkpoints"] = h[:ends[3]] }, "checkpoints", "is shorter than the head says"},
		{"the history is empty", func(n *book) { n.files["checkpoints"], n.head.Kept = nil, 0 }, "checkpoints", "holds no checkpoint"},
		{"the first note is not at the beginning", func(n *book) {
			n.files["checkpoints"], n.head.Kept = append([]byte("x\n\n"), h...), 0
		}, "checkpoints", "the note "},
		{"the arrays end before the head", func(n *book) {
			n.files["checkpoint"], n.files["checkpoints"] = notes[1], h[:ends[2]]
			n.files["tree/1"], n.files["chain"] = n.files["tree/1"][:32], n.files["chain"][:32]
			n.head.Kept = 0
		}, "tree/1", "is too short"},
		{"no array at all", func(n *book) { delete(n.files, "chain") }, "chain", "is missing"},
	}, nil)
	n := closed.clone()
	o := n.options()
	h2 := n.head
	h2.Origin = "example.com/other"
	must(t, o.FS.(*vfstest.Disk).WriteFileRaw(n.headName(), h2.Append(nil)))
	refuted(t, o, n.headName(), "is of another log")
	must(t, o.FS.(*vfstest.Disk).WriteFileRaw(n.headName(), []byte("{}\n")))
	r := verify(t, o)
	want(t, r, Refuted)
	if len(r.Findings) != 1 || r.Findings[0].File != n.headName() {
		t.Errorf("findings %v", r.Findings)
	}
	must(t, o.FS.Remove(n.headName()))
	r = verify(t, o)
	want(t, r, Consistent)
	if len(r.Notes) != 1 || r.Notes[0].File != n.headName() {
		t.Errorf("notes %v", r.Notes)
	}
	must(t, o.FS.Mkdir(n.headName(), 0o700))
	refuted(t, o, n.headName(), "is not a regular file")
}

// An unsigned note ends in one empty line, wherever it is cut.
func TestUnsignedNotesAreWhole(t *testing.T) {
	b := small(t, "example.com/log", false)
	good := b.files["checkpoint"]
	for n := range good {
		b.files["checkpoint"] = good[:n]
		if r := verify(t, b.options()); r.Verdict != Refuted {
			t.Errorf("cut to %d: %s", n, r.Verdict)
		}
	}
	b.files["checkpoint"] = []byte(proof.Checkpoint{Origin: "example.com/other", Size: 525, Root: b.f.Root()}.Text() + "\n")
	refuted(t, b.options(), "checkpoint", "other origin")
}

// What cannot be a pinned key proves nothing, and the keys of log.json have one of three forms.
func TestRulesOfKeys(t *testing.T) {
	const origin = "example.com/log"
	b := newHybrid(t, origin)
	b.noHead = true
	b.add(3)
	b.close()
	o := b.options()
	o.Keys = []string{"x"}
	want(t, verify(t, o), Unknown)
	unsigned := small(t, origin, false)
	unsigned.noHead = true
	o = unsigned.options()
	o.Keys = []string{b.signer.VKey()}
	refuted(t, o, "log.json", "does not name the pinned key")
	logKey, ed, ml := b.signer.VKey(), b.keys.ed.Key().String(), b.keys.ml.Key().String()
	for _, keys := range [][]string{{ml}, {logKey, ed}, {logKey, ml}, {ed, ml}, {logKey, ml, ed}, {ml, ed, logKey}, {logKey, ed, makeEpoch(t, origin, 1).ed.Key().String()}, {logKey, ed, ml, makeEpoch(t, origin, 1).ml.Key().String()}, {makeKey(t, proof.TypeCosignature, origin, "x").Key().String()}, {logKey, makeKey(t, proof.TypeCosignature, origin, "x").Key().String(), ml}} {
		n := b.clone()
		log := identity.Log{Origin: origin, Created: testTime, VKeys: keys}
		n.files["log.json"] = log.Append(nil)
		want(t, verify(t, n.options()), Refuted)
	}
}

// What was kept outside says no more than it holds.
func TestRulesOfWhatIsGiven(t *testing.T) {
	b := small(t, "example.com/log", true)
	b.noHead = true
	given := func(b *book, set func(o *Options)) *Report {
		o := b.options()
		set(&o)
		return verify(t, o)
	}
	r := given(b, func(o *Options) { o.Receipts = []Receipt{{Index: 3}} })
	want(t, r, Consistent)
	if len(r.Basis) != 0 {
		t.Errorf("basis %v of a receipt without a hash", r.Basis)
	}
	for _, bad := range []Receipt{{Index: 3, Leaf: proof.Hash{1}}, {Index: 3, Leaf: b.leaves[3], Chain: proof.Hash{1}}, {Index: 255, Chain: proof.Hash{1}}, {Index: 511, Leaf: proof.Hash{1}, Chain: b.chains[511]}} {
		r = given(b, func(o *Options) { o.Receipts = []Receipt{bad} })
		want(t, r, Refuted)
		if len(r.Basis) != 0 || len(r.Findings) != 1 {
			t.Errorf("basis %v, findings %v", r.Basis, r.Findings)
		}
	}
	// At the ends of whole groups, where nothing else is claimed.
	for _, size := range []uint64{256, 512} {
		note := b.note(proof.Checkpoint{Origin: b.origin, Size: size, Root: proof.Root(b.leaves[:size])}.Text())
		r = given(b, func(o *Options) { o.Checkpoints = [][]byte{note} })
		want(t, r, Proven)
		if r.Covered != size || len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, "are newer than everything known from outside") {
			t.Errorf("covered %d, notes %v", r.Covered, r.Notes)
		}
		note = b.note(proof.Checkpoint{Origin: b.origin, Size: size, Root: proof.Hash{1}}.Text())
		want(t, given(b, func(o *Options) { o.Checkpoints = [][]byte{note} }), Refuted)
		want(t, given(b, func(o *Options) {
			o.Receipts = []Receipt{{Index: size - 1, Leaf: b.leaves[size-1], Chain: b.chains[size-1]}}
		}), Proven)
	}
	p := proof.InclusionProof{Index: 0, Checkpoint: []byte(proof.Checkpoint{Origin: b.origin, Size: 1, Root: b.leaves[0]}.Text() + "\n")}
	text, err := p.MarshalText()
	must(t, err)
	want(t, given(b, func(o *Options) { o.Proofs = [][]byte{text} }), Unknown) // unsigned: it says nothing
	// Bytes that are no checkpoint say nothing, whatever they are and whether or not the log has keys.
	unsigned := small(t, "example.com/log", false)
	unsigned.noHead = true
	for _, data := range []string{"", "x", "x\n\n", "a\n\nb\n\n", strings.Repeat("x", proof.MaxNote+1), string(unsigned.files["checkpoint"][1:]) + "x"} {
		for _, n := range []*book{b, unsigned} {
			want(t, given(n, func(o *Options) { o.Checkpoints = [][]byte{[]byte(data)} }), Unknown)
		}
	}
	want(t, given(unsigned, func(o *Options) { o.Checkpoints = [][]byte{small(t, "example.com/other", false).files["checkpoint"]} }), Refuted)
}

// The end of the history is a torn note only where a crash can have left one.
func TestRulesOfTornNotes(t *testing.T) {
	start := func() *book {
		b := newBook(t, "example.com/log", true)
		b.add(600)
		b.publish(true)
		b.add(3)
		return b
	}
	grow := func(n *book, more string) {
		n.files["checkpoints"] = append(bytes.Clone(n.files["checkpoints"]), more...)
	}
	checkRules(t, start, []rule{
		{"no note is before it", func(n *book) { n.files["checkpoints"], n.head.Kept = []byte("example.com/log\n60"), 0 }, "checkpoints", "the note "},
		{"it is too long", func(n *book) { grow(n, "example.com/log\n"+strings.Repeat("x", proof.MaxNote)) }, "checkpoints", "the note "},
		{"the head knows it", func(n *book) {
			n.files["checkpoints"] = n.files["checkpoints"][:len(n.files["checkpoints"])-1]
			grow(n, "x\n")
		}, "checkpoints", "the note "},
		{"another note follows", func(n *book) { grow(n, "example.com/log\n60\n\nexample.com/log\n60") }, "checkpoints", "the note "},
		{"it was durable before the checkpoint", func(n *book) { grow(n, "example.com/log\n599\n") }, "checkpoints", "the note "},
		{"a whole note of another log", func(n *book) {
			grow(n, string(n.note(proof.Checkpoint{Origin: "example.com/other", Size: 602, Root: proof.Hash{1}}.Text()))+"\nexample.com/log\n60\n")
		}, "checkpoints", "other origin"},
	}, nil)
	for _, torn := range []string{"e", "example.com/log\n", "example.com/log\n603\n", "example.com/log\n0599\n", "example.com/log\n\x00\x00", "example.com/log\n99999999999999999999\n"} {
		b := start()
		grow(b, torn)
		r := verify(t, b.options())
		want(t, r, Proven)
		if len(r.Notes) != 2 {
			t.Errorf("%q: notes %v", torn, r.Notes)
		}
	}
	// Notes in the middle that are none are named one by one, and those behind them are read.
	b := small(t, "example.com/log", true)
	h := b.files["checkpoints"]
	i := bytes.Index(h, []byte("\n\n"+b.origin)) + 2
	b.files["checkpoints"] = slices.Concat(h[:i], []byte("x\n"), h[i:])
	b.head.Clean, b.head.Kept = false, 0
	r := refuted(t, b.options(), "checkpoints", "the note ")
	if len(r.Findings) != 1 || r.Checkpoints < 3 || r.Findings[0].Offset != int64(i) {
		t.Errorf("%d notes read, findings %v", r.Checkpoints, r.Findings)
	}
}

func TestRulesOfHashArrays(t *testing.T) {
	b := small(t, "example.com/log", true)
	for _, name := range []string{"0", "8", "01", "+1", "x", "-1", "99999999999999999999"} {
		n := b.clone()
		n.files["tree/"+name] = n.files["tree/1"]
		r := refuted(t, n.options(), "tree/"+name, "is a name that the format does not know")
		if len(r.Findings) != 1 {
			t.Errorf("%s: findings %v", name, r.Findings)
		}
	}
	// One false link of the chain, and what follows from it, is one finding; two false links are two.
	chain := func(first, second proof.Hash) int {
		n := b.clone()
		n.files["chain"] = slices.Concat(first[:], second[:])
		return len(refuted(t, n.options(), "chain", "is not what the entries give").Findings)
	}
	wrong := proof.Hash{1}
	if got := chain(wrong, extend(wrong, b.leaves[256:512])); got != 1 {
		t.Errorf("%d findings of one false link", got)
	}
	if got := chain(wrong, proof.Hash{2}); got != 2 {
		t.Errorf("%d findings of two false links", got)
	}
}

// Level 2 needs 65,536 entries.
func TestRulesOfHigherLevels(t *testing.T) {
	b := newBook(t, "example.com/log", false)
	const groups = 2*groupSize + 1
	for range 3 {
		b.add(groups * groupSize / 3)
	}
	b.rotate()
	b.publish(true)
	b.seal(0, groups*groupSize)
	b.close()
	want(t, verify(t, b.options()), Proven)
	if len(b.files["tree/2"]) != 64 {
		t.Fatalf("tree/2 has %d bytes", len(b.files["tree/2"]))
	}
	n := b.clone()
	n.files["tree/2"] = bytes.Clone(n.files["tree/2"])
	n.files["tree/2"][40] ^= 1
	r := refuted(t, n.options(), "tree/2", "is not what they give")
	if len(r.Findings) != 1 || r.Findings[0].Index != groupSize*groupSize {
		t.Errorf("findings %v", r.Findings)
	}
	delete(n.files, "tree/2")
	refuted(t, n.options(), "tree/2", "is missing")
	// Without some entries what the others give is still compared, and nothing else is blamed.
	name := "archive/" + segment.ArchiveName(0)
	a, err := segment.OpenArchive(bytes.NewReader(b.files[name]), int64(len(b.files[name])))
	must(t, err)
	n = b.clone()
	n.files[name] = bytes.Clone(b.files[name])
	n.files[name][a.Offset(5)+20] ^= 1
	r = verify(t, n.options())
	want(t, r, Refuted)
	for _, f := range r.Findings {
		if f.File != name {
			t.Errorf("finding %v", f)
		}
	}
	// The links of the chain are read in any order.
	d := n.disk()
	f, err := d.Open(testDir + "/chain")
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	at := hashFile{file: f, size: size}
	for _, k := range []uint64{600, 3, 512, 511, 0, 513, groups - 1, groups - 513} {
		h, found, err := at.at(k)
		if found != (k < groups) || err != nil || found && h != b.chains[(k+1)*groupSize-1] {
			t.Errorf("hash %d: %v %v %v", k, h, found, err)
		}
	}
}

// A directory that is none is refuted, also where nothing is expected in it.
func TestFilesInPlaceOfDirectories(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(3)
	b.close()
	for _, name := range []string{"archive", "pending", "index", "tree", "quarantine"} {
		n := b.clone()
		n.files[name] = []byte("x")
		r := refuted(t, n.options(), name, "is not a directory")
		if len(r.Findings) != 1 {
			t.Errorf("%s: findings %v", name, r.Findings)
		}
	}
}

func TestQuarantineNames(t *testing.T) {
	hex := proof.Hash(sha256.Sum256([]byte("abc"))).String()
	for _, odd := range []string{"5", "5-", "-" + hex, "05-" + hex, "x-" + hex, "5-" + hex[:62], "5-" + strings.ToUpper(hex), "99999999999999999999-" + hex} {
		b := newBook(t, "example.com/log", true)
		b.add(3)
		b.close()
		b.files["quarantine/"+odd] = []byte("x")
		r := verify(t, b.options())
		want(t, r, Proven)
		if len(r.Notes) != 1 || r.Notes[0].File != "quarantine/"+odd {
			t.Errorf("%s: notes %v", odd, r.Notes)
		}
	}
	b := newBook(t, "example.com/log", true)
	b.add(3)
	b.close()
	b.files["quarantine/5-"+hex+"/x"] = []byte("x")
	refuted(t, b.options(), "quarantine/5-"+hex, "is not a regular file")
}

// A report has an end, and says what it leaves out.
func TestFindingsAreLimited(t *testing.T) {
	b := small(t, "example.com/log", true)
	lines := slices.Clone(b.lines)
	for i := range 200 {
		lines[i] = bytes.Clone(lines[i])
		entry.Patch(lines[i], uint64(i+1), timeAt(i), 7)
	}
	r := refuted(t, b.remade(lines).options(), "archive/"+segment.ArchiveName(0), "id is of another index")
	if len(r.Findings) != maxFindingsPerFile || r.Omitted < 150 {
		t.Errorf("%d findings, %d omitted", len(r.Findings), r.Omitted)
	}
	for i := range maxFindings + 100 {
		b.files[fmt.Sprintf("tree/x%d", i)] = nil
	}
	r = verify(t, b.options())
	if len(r.Findings) != maxFindings || r.Omitted != 100 || r.Attempts != 1 {
		t.Errorf("%d findings, %d omitted, %d attempts", len(r.Findings), r.Omitted, r.Attempts)
	}
	if r := verify(t, small(t, "example.com/log", true).options()); r.Findings == nil {
		t.Error("no list of findings")
	}
}

// Beside a writer bytes after the last commit line are its batch in flight: the next check sees it whole.
func TestBatchInFlightIsNoLeftover(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(3)
	b.publish(true)
	b.noHead = true
	before := len(b.files["immutable.log"])
	b.add(3)
	whole := b.files["immutable.log"]
	b.files["immutable.log"] = slices.Clone(whole[:before+8])
	want(t, verify(t, b.options()), Unknown)
	o := b.options()
	d := o.FS.(*vfstest.Disk)
	o.Progress = func(Progress) {
		must(t, d.WriteFileRaw(testDir+"/immutable.log", whole))
	}
	r := verify(t, o)
	want(t, r, Consistent)
	if r.Size != 6 {
		t.Errorf("size %d", r.Size)
	}
}

// A pending file may go between its listing and its opening, and a segment may be sealed after the archives were listed.
func TestSealingBetweenListings(t *testing.T) {
	b := small(t, "example.com/log", true)
	b.files["pending/"+segment.PendingName(0)] = segmentFile(b)
	o := b.options()
	o.FS.(*vfstest.Disk).Fail = func(op vfstest.Op) error {
		if op.Kind == vfstest.OpOpen && strings.Contains(op.Name, "pending/") {
			return fs.ErrNotExist
		}
		return nil
	}
	want(t, verify(t, o), Proven)
	o = b.options()
	o.FS = unlisted{o.FS}
	want(t, verify(t, o), Proven)
	delete(b.files, "archive/"+segment.ArchiveName(0))
	refuted(t, b.options(), "index/"+segment.SealName(0), "belongs to no sealed segment")
}

// segmentFile is the raw form of the first segment of what small makes.
func segmentFile(b *book) []byte {
	c := newBook(b.t, b.origin, false)
	c.batch(b.lines[:300])
	c.batch(b.lines[300:520])
	return c.files["immutable.log"]
}

// unlisted is a file system whose archive/ was listed before anything was in it.
type unlisted struct{ vfs.FS }

func (f unlisted) ReadDir(name string) ([]string, error) {
	if path.Base(name) == "archive" {
		return nil, nil
	}
	return f.FS.ReadDir(name)
}

// Notes behind the one at the log's end are read too, however late they come.
func TestNotesBeyondTheEndAreRead(t *testing.T) {
	b := newBook(t, "example.com/log", false)
	for range notesPerBatch - 1 {
		b.add(1)
		b.publish(true)
	}
	b.noHead = true
	checkpoint := b.files["checkpoint"]
	history := b.files["checkpoints"]
	for range 200 {
		b.files["checkpoints"] = slices.Concat(history, []byte(proof.Checkpoint{Origin: b.origin, Size: notesPerBatch, Root: proof.Hash{1}}.Text()+"\n\n"))
		refuted(t, b.options(), "checkpoints", "shorter than its checkpoint")
		b.files["checkpoints"] = slices.Concat(history, checkpoint, []byte("\n"))
		refuted(t, b.options(), "checkpoints", "sizes do not increase")
		if t.Failed() {
			return
		}
	}
}

// What the system refuses to read is no evidence against the log; a file that ends before its length is.
func TestFailedReadsAreUnknown(t *testing.T) {
	b := full(t, "example.com/log")
	list := append(names(b), "archive", "pending", "index", "tree", "quarantine", b.headName())
	for _, name := range list {
		if noClaim(name) {
			continue
		}
		file := strings.TrimPrefix(path.Join(testDir, name), "/")
		if name == b.headName() {
			file = strings.TrimPrefix(name, "/")
		}
		for _, kind := range []vfstest.Kind{vfstest.OpOpen, vfstest.OpSize, vfstest.OpRead, vfstest.OpReadDir} {
			for _, failure := range []error{syscall.EIO, io.EOF} {
				if failure == io.EOF && kind != vfstest.OpRead {
					continue
				}
				o := b.options()
				o.Indexes = true
				hit := false
				o.FS.(*vfstest.Disk).Fail = func(op vfstest.Op) error {
					if op.Kind == kind && strings.TrimPrefix(op.Name, "/") == file {
						hit = true
						return failure
					}
					return nil
				}
				r := verify(t, o)
				want := Unknown
				if failure == io.EOF {
					want = Refuted
				}
				if hit && r.Verdict != want {
					t.Errorf("%s of %s fails with %v: %s %v", kind, name, failure, r.Verdict, r.Findings)
				}
				if !hit && r.Verdict != Proven {
					t.Errorf("%s of %s: %s", kind, name, r.Verdict)
				}
			}
		}
	}
}
