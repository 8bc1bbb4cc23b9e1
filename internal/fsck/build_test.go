package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	testDir   = "/log"
	testState = "/state"
	testTime  = int64(1_770_000_000_000_000_000)
)

// A book writes a log the way docs/format.md says, in memory and without any of its care. Its fields may be bent between steps
// to forge one.
type book struct {
	t      testing.TB
	origin string
	signer *keys.Signer // nil: unsigned
	files  map[string][]byte
	head   identity.Head
	noHead bool

	f      tree.Frontier
	chain  proof.Hash
	leaves []proof.Hash
	chains []proof.Hash
	lines  [][]byte
	time   int64

	keys *epochKeys // of the present epoch; nil in a log with the log key only
	next *epochKeys // named by an entry that no checkpoint covers yet
	at   uint64     // index of that entry

	first      uint64 // of the open segment
	firstChain proof.Hash
	kept       uint64 // last size in checkpoints
}

func newBook(t testing.TB, origin string, signed bool) *book {
	t.Helper()
	b := &book{t: t, origin: origin, files: map[string][]byte{}, time: testTime}
	log := identity.Log{Origin: origin, Created: testTime}
	if signed {
		s, err := keys.Create(vfstest.New(), "/keys", origin)
		must(t, err)
		b.signer, log.VKeys = s, []string{s.VKey()}
	}
	b.files["log.json"] = log.Append(nil)
	b.files["immutable.log"] = segment.AppendHeader(nil, 0, proof.Hash{})
	b.head = identity.Head{Origin: origin, VKey: log.VKey(), Log: sha256.Sum256(b.files["log.json"]), Root: proof.EmptyRoot()}
	b.files["checkpoints"] = append(b.note(b.checkpoint()), '\n')
	b.files["checkpoint"] = b.note(b.checkpoint())
	b.head.Kept = int64(len(b.files["checkpoints"]))
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *book) size() uint64 { return b.f.Size() }

func (b *book) checkpoint() string {
	return proof.Checkpoint{Origin: b.origin, Size: b.size(), Root: b.f.Root()}.Text()
}

func (b *book) note(text string) []byte {
	if b.keys != nil {
		return b.signed(text, b.keys)
	}
	if b.signer == nil {
		return []byte(text + "\n")
	}
	data, err := b.signer.Sign(text)
	must(b.t, err)
	return data
}

// line makes the next entry's line.
func (b *book) line(i uint64, e entry.Event) []byte {
	if e.Hostname == "" {
		e.Hostname = "h"
	}
	line, err := entry.Append(nil, &e)
	must(b.t, err)
	b.time += 1_000_001
	entry.Patch(line, i, b.time, 7)
	return line
}

// add appends n small entries as one batch.
func (b *book) add(n int) {
	var lines [][]byte
	for i := range n {
		at := b.size() + uint64(i)
		e := entry.Event{Level: entry.Level(at % 7), Message: fmt.Sprintf("m%d", at)}
		if at%97 == 3 {
			e.IdempotencyKey = fmt.Sprintf("k%d", at)
			e.EventTime = time.Unix(int64(at), 0)
		}
		lines = append(lines, b.line(at, e))
	}
	b.batch(lines)
}

// batch appends lines with their commit line.
func (b *book) batch(lines [][]byte) {
	b.files["immutable.log"] = append(b.files["immutable.log"], b.commit(lines)...)
}

func (b *book) commit(lines [][]byte) []byte {
	var out []byte
	from := b.size()
	for _, line := range lines {
		out = append(append(out, line...), '\n')
		leaf := proof.LeafHash(line)
		b.f.Append(leaf)
		b.chain = proof.ChainHash(b.chain, leaf)
		b.leaves, b.chains, b.lines = append(b.leaves, leaf), append(b.chains, b.chain), append(b.lines, line)
	}
	return segment.AppendCommit(out, from, b.size(), b.chain, b.f.Root())
}

// arrays writes tree/ and chain for the present size.
func (b *book) arrays() {
	groups := len(b.leaves) / groupSize
	var chain, level []byte
	var hashes []proof.Hash
	for k := range groups {
		h := proof.Root(b.leaves[k*groupSize : (k+1)*groupSize])
		hashes = append(hashes, h)
		level = append(level, h[:]...)
		c := b.chains[(k+1)*groupSize-1]
		chain = append(chain, c[:]...)
	}
	if groups > 0 {
		b.files["chain"] = chain
	}
	for l := 1; len(hashes) > 0; l++ {
		b.files[fmt.Sprintf("tree/%d", l)] = level
		var up []proof.Hash
		level = nil
		for k := range len(hashes) / groupSize {
			h := proof.Root(hashes[k*groupSize : (k+1)*groupSize])
			up = append(up, h)
			level = append(level, h[:]...)
		}
		hashes = up
	}
}

// publish signs a checkpoint; the head is not clean.
func (b *book) publish(keep bool) {
	b.arrays()
	b.head.Size, b.head.Root, b.head.Clean = b.size(), b.f.Root(), false
	b.head.Kept = int64(len(b.files["checkpoints"]))
	note := b.note(b.checkpoint())
	if keep && b.size() > b.kept {
		b.files["checkpoints"] = append(append(slices.Clone(b.files["checkpoints"]), note...), '\n')
		b.kept = b.size()
		if b.next != nil {
			b.link(note)
			b.keys, b.next = b.next, nil
		}
	}
	b.files["checkpoint"] = note
}

// rotate moves the open segment to pending.
func (b *book) rotate() {
	first := b.size() - b.size()%groupSize
	b.files["pending/"+segment.PendingName(b.first)] = b.files["immutable.log"]
	var chain proof.Hash
	if first > 0 {
		chain = b.chains[first-1]
	}
	open := segment.AppendHeader(nil, first, chain)
	for _, line := range b.lines[first:] {
		open = append(append(open, line...), '\n')
	}
	if b.size() > first {
		open = segment.AppendCommit(open, first, b.size(), b.chain, b.f.Root())
	}
	b.files["immutable.log"] = open
	b.first, b.firstChain = first, chain
}

// archive makes the archive of entries first to before end.
func (b *book) archive(first, end uint64) {
	var file bytes.Buffer
	var chain proof.Hash
	if first > 0 {
		chain = b.chains[first-1]
	}
	w, err := segment.NewArchiveWriter(&file, first, chain)
	must(b.t, err)
	for at := first; at < end; at += groupSize {
		must(b.t, w.WriteGroup(append(bytes.Join(b.lines[at:at+groupSize], []byte("\n")), '\n')))
	}
	must(b.t, w.Close(end, b.chains[end-1], proof.Root(b.leaves[:end])))
	b.files["archive/"+segment.ArchiveName(first)] = file.Bytes()
}

// seal makes archive, idx and seal of a pending segment and takes the pending file away.
func (b *book) seal(first, end uint64) {
	b.archive(first, end)
	b.sign(first, end)
	delete(b.files, "pending/"+segment.PendingName(first))
}

// sign makes idx and seal.
func (b *book) sign(first, end uint64) {
	x := index.New(first)
	for _, line := range b.lines[first:end] {
		var l entry.Line
		if entry.Decode(line, &l) == nil && l.Index32 == uint32(x.End) {
			must(b.t, x.Add(&l))
		}
	}
	idx := []byte("no index: the entries do not follow the format")
	if x.End == end {
		idx = x.Append(nil)
	}
	b.files["index/"+segment.IndexName(first)] = idx
	b.reseal(first, end)
}

// reseal signs what archive and idx are now.
func (b *book) reseal(first, end uint64) {
	archive, idx := b.files["archive/"+segment.ArchiveName(first)], b.files["index/"+segment.IndexName(first)]
	s := index.Seal{
		Origin: b.origin, First: first, End: end, Archive: sha256.Sum256(archive), Index: sha256.Sum256(idx),
		ArchiveLen: int64(len(archive)), IndexLen: int64(len(idx)),
	}
	b.files["index/"+segment.SealName(first)] = b.note(s.Text())
}

// close publishes, keeps, and says so in the head.
func (b *book) close() {
	b.publish(true)
	b.head.Clean, b.head.Kept = true, int64(len(b.files["checkpoints"]))
}

// small is a log with an archive of two groups and an open segment with a partial group, closed.
func small(t testing.TB, origin string, signed bool) *book {
	b := newBook(t, origin, signed)
	b.add(300)
	b.publish(true)
	b.add(220)
	b.publish(true)
	b.rotate()
	b.seal(0, 512)
	b.add(5)
	b.close()
	return b
}

func (b *book) clone() *book {
	c := *b
	c.files = maps.Clone(b.files)
	c.lines, c.leaves, c.chains = slices.Clone(b.lines), slices.Clone(b.leaves), slices.Clone(b.chains)
	return &c
}

func (b *book) headName() string {
	return path.Join(identity.Dir(testState, b.origin), identity.HeadName)
}

// disk puts the files on a fake disk.
func (b *book) disk() *vfstest.Disk {
	d := vfstest.New()
	put := func(name string, data []byte) {
		b.mkdirs(d, path.Dir(name))
		must(b.t, d.WriteFileRaw(name, data))
	}
	must(b.t, d.Mkdir(testDir, 0o700))
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		put(path.Join(testDir, name), b.files[name])
	}
	if !b.noHead {
		h := b.head
		if info, err := d.Stat(testDir + "/log.json"); err == nil {
			h.Inode = info.Inode
		}
		put(b.headName(), h.Append(nil))
	}
	return d
}

func (b *book) mkdirs(d *vfstest.Disk, dir string) {
	if _, err := d.Stat(dir); err == nil {
		return
	}
	b.mkdirs(d, path.Dir(dir))
	must(b.t, d.Mkdir(dir, 0o700))
}

func (b *book) options() Options {
	o := Options{FS: b.disk(), Dir: testDir, Workers: 2}
	if !b.noHead {
		o.State = testState
	}
	return o
}

func verify(t testing.TB, o Options) *Report {
	t.Helper()
	r, err := Check(t.Context(), o)
	must(t, err)
	r.Notes = slices.DeleteFunc(r.Notes, isOneKey) // of every log that newBook signs; TestLogWithOneKeySaysSo looks at it
	return r
}

func isOneKey(f Finding) bool { return strings.HasPrefix(f.What, "this is a log with one key") }

func want(t testing.TB, r *Report, v Verdict) {
	t.Helper()
	if r.Verdict == v {
		return
	}
	t.Errorf("verdict %s, want %s; basis %v", r.Verdict, v, r.Basis)
	for _, f := range r.Findings {
		t.Log("finding", f)
	}
	for _, f := range r.Notes {
		t.Log("note", f)
	}
}
