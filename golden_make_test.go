package immutable

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// Everything that a log draws from its surroundings is fixed in the vectors. The key is published by that, and good for nothing else.
const (
	vectorOrigin  = "example.com/vectors"
	vectorSession = 0x155_aaaa_5555
	vectorPID     = 4242
)

var vectorStart = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// vectorKey is the private key file of origin, made from the origin alone.
func vectorKey(t testing.TB, origin string) []byte {
	t.Helper()
	seed := sha256.Sum256([]byte("golden vectors, not a secret: " + origin))
	public := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(origin, public)
	must(t, err)
	key, err := proof.ParseKey(vkey)
	must(t, err)
	return fmt.Appendf(nil, "PRIVATE+KEY+%s+%08x+%s\n", origin, key.ID(), base64.StdEncoding.EncodeToString(append([]byte{1}, seed[:]...)))
}

func vectorSigner(t testing.TB, origin string) *keys.Signer {
	t.Helper()
	d := vfstest.New()
	must(t, d.Mkdir("k", 0o700))
	must(t, d.WriteFileRaw("k/ed25519", vectorKey(t, origin)))
	s, err := keys.Load(d, "k", origin)
	must(t, err)
	return s
}

// vectorEpoch is the key file of an epoch, made from origin and number alone.
func vectorEpoch(t testing.TB, origin string, number uint64) []byte {
	t.Helper()
	var out []byte
	for _, typ := range []byte{proof.TypeEd25519, proof.TypeMLDSA44} {
		k, err := proof.NewKey(typ, origin, sha256.Sum256(fmt.Appendf(nil, "golden vectors, not a secret: %s, epoch %d, type %d", origin, number, typ)))
		must(t, err)
		out = append(append(out, k.String()...), '\n')
	}
	return out
}

// A maker makes vectors with the real writer, on a disk in memory.
type maker struct {
	t     testing.TB
	disk  *vfstest.Disk
	clock time.Time
	cfg   *Config
	l     *Log
	n     int // events so far

	search bool // seals are left as they are, of version 2, and search indexes stay
}

func newMaker(t testing.TB, origin string) *maker {
	m := &maker{t: t, disk: vfstest.New(), clock: vectorStart}
	m.cfg = &Config{
		StateDir: "state", Origin: origin, CheckpointInterval: time.Hour, Hostname: "host", fs: m.disk,
		now: func() time.Time { return m.clock }, session: vectorSession, pid: vectorPID, vkeys: 1, EpochDuration: -1,
	}
	m.put(m.state(origin)+"/keys/ed25519", vectorKey(t, origin))
	return m
}

func (m *maker) state(origin string) string { return filepath.ToSlash(identity.Dir("state", origin)) }

func (m *maker) put(name string, data []byte) {
	m.t.Helper()
	m.mkdirs(path.Dir(name))
	must(m.t, m.disk.WriteFileRaw(name, data))
}

func (m *maker) mkdirs(dir string) {
	if _, err := m.disk.Stat(dir); err == nil {
		return
	}
	m.mkdirs(path.Dir(dir))
	must(m.t, m.disk.Mkdir(dir, 0o700))
}

func (m *maker) open() {
	m.t.Helper()
	l, err := Open("log", m.cfg)
	must(m.t, err)
	m.l = l
}

func (m *maker) close() {
	m.t.Helper()
	must(m.t, m.l.Close())
}

// append appends one batch.
func (m *maker) append(events ...Event) {
	m.t.Helper()
	m.clock = m.clock.Add(time.Second + time.Millisecond + time.Nanosecond)
	_, err := m.l.append(context.Background(), events)
	must(m.t, err)
}

// add appends a batch of n small events.
func (m *maker) add(n int) {
	m.t.Helper()
	events := make([]Event, n)
	for i := range events {
		events[i] = Event{Level: Level(m.n % 7), Message: fmt.Sprintf("m%d", m.n)}
		m.n++
	}
	m.append(events...)
}

func (m *maker) rotate() {
	m.t.Helper()
	must(m.t, m.l.Rotate(context.Background()))
}

// publish signs and keeps the present state; the head is not clean.
func (m *maker) publish() {
	m.t.Helper()
	must(m.t, m.l.publisher.publish(true))
}

// stop makes the next operation that is chosen fail, runs f, which must notice, and gives what the disk then shows.
func (m *maker) stop(f func() error, chosen func(op vfstest.Op) bool) *vector {
	m.t.Helper()
	m.disk.SetFail(func(op vfstest.Op) error {
		if chosen(op) {
			return errors.New("the process ended here")
		}
		return nil
	})
	if f() == nil {
		m.t.Fatal("nothing failed")
	}
	v := m.take()
	m.disk.SetFail(nil)
	return v
}

// take is the present state as a vector that must be proven by head and key.
func (m *maker) take() *vector {
	m.t.Helper()
	leaves, err := leavesOf(m.l)
	must(m.t, err)
	v := m.takeFiles("log", m.l.Origin())
	v.state(leaves)
	if keys := m.l.VerifierKeys(); len(keys) > 0 {
		v.vkey = keys[0]
	}
	return v
}

// state says what must be recomputed.
func (v *vector) state(leaves []Hash) {
	var chain Hash
	for _, leaf := range leaves {
		chain = proof.ChainHash(chain, leaf)
	}
	v.size, v.root, v.chain = int64(len(leaves)), proof.Root(leaves).Base64(), chain.String()
}

// takeFiles reads a log and its head off the disk, without what makes no claim.
func (m *maker) takeFiles(dir, origin string) *vector {
	m.t.Helper()
	v := &vector{expect: Proven, size: -1, head: true, files: map[string][]byte{}}
	for _, name := range m.disk.Files() {
		data, err := m.disk.ReadFileRaw(name)
		must(m.t, err)
		name = strings.TrimPrefix(name, "/")
		rel, found := strings.CutPrefix(name, dir+"/")
		if found && rel != lockName && rel != reserveName && !strings.HasPrefix(rel, nextDir+"/") {
			v.files["log/"+rel] = data
		}
	}
	data, err := m.disk.ReadFileRaw(m.state(origin) + "/" + identity.HeadName)
	must(m.t, err)
	v.files["head"] = data
	v.editHead(m.t, func(h *identity.Head) { h.Inode = 0 })
	if !m.search {
		m.withoutSearch(v)
	}
	return v
}

// withoutSearch gives the seals their first version, which knows no search index: most vectors are older than these.
func (m *maker) withoutSearch(v *vector) {
	m.t.Helper()
	for name, note := range v.files {
		switch {
		case strings.HasSuffix(name, segment.SearchSuffix):
			delete(v.files, name)
		case strings.HasSuffix(name, segment.SealSuffix):
			text, err := m.l.openSeal(note)
			must(m.t, err)
			seal, err := index.ParseSeal(text)
			must(m.t, err)
			seal.SearchLen = 0
			v.files[name], err = m.l.signSeal(seal.Text())
			must(m.t, err)
		}
	}
}

// copyOf is a vector with the same files, to be changed.
func (v *vector) copyOf() *vector {
	c := *v
	c.files = maps.Clone(v.files)
	c.places = nil
	if c.base == "" {
		c.base = v.name
	}
	return &c
}

func (v *vector) editHead(t testing.TB, change func(*identity.Head)) {
	t.Helper()
	h, err := identity.ParseHead(v.files["head"])
	must(t, err)
	change(h)
	v.files["head"] = h.Append(nil)
}

// A maker's collection.
type vectors struct {
	t      testing.TB
	signer *keys.Signer
	all    []*vector
}

func (g *vectors) add(name, comment string, v *vector) *vector {
	g.t.Helper()
	for _, have := range g.all {
		if have.name == name {
			g.t.Fatalf("two vectors named %s", name)
		}
	}
	v.name, v.comment = name, comment
	g.all = append(g.all, v)
	return v
}

// without is a vector as a host sees it that has no head of the log.
func (g *vectors) without(name, comment string, from *vector, expect fsck.Verdict) *vector {
	v := from.copyOf()
	v.head, v.vkey, v.expect = false, "", expect
	delete(v.files, "head")
	return g.add(name, comment, v)
}

// refute adds a vector in which something was changed, to be found in file (a range of offsets, where given).
func (g *vectors) refute(name, comment string, from *vector, change func(v *vector), file string, at ...int64) *vector {
	g.t.Helper()
	v := from.copyOf()
	v.expect, v.size, v.root, v.chain = Refuted, -1, "", ""
	change(v)
	if maps.EqualFunc(v.files, from.files, bytes.Equal) && v.vkey == from.vkey && v.head == from.head {
		g.t.Fatalf("%s changes nothing", name)
	}
	p := place{file: file, from: -1, to: -1}
	if len(at) == 2 {
		p.from, p.to = at[0], at[1]
	}
	v.places = []place{p}
	return g.add(name, comment, v)
}

// also names other files that the findings of the last vector may begin with.
func (g *vectors) also(files ...string) {
	last := g.all[len(g.all)-1]
	for _, name := range files {
		last.places = append(last.places, place{file: name, from: -1, to: -1})
	}
}

func (g *vectors) sign(text string) []byte {
	data, err := g.signer.Sign(text)
	must(g.t, err)
	return data
}

func (g *vectors) checkpoint(size uint64, root Hash) []byte {
	return g.sign(proof.Checkpoint{Origin: g.signer.Key().Name(), Size: size, Root: root}.Text())
}

// replace changes one place in a file, which must be there.
func (g *vectors) replace(v *vector, name, old, by string) {
	g.t.Helper()
	if !bytes.Contains(v.files[name], []byte(old)) {
		g.t.Fatalf("%s does not contain %q", name, old)
	}
	v.files[name] = bytes.Replace(v.files[name], []byte(old), []byte(by), 1)
}

// flip changes one bit.
func (g *vectors) flip(v *vector, name string, at int) {
	b := bytes.Clone(v.files[name])
	b[at] ^= 1
	v.files[name] = b
}

// span is where the lines from the n-th to the m-th stand in a file, as first and last offset.
func span(data []byte, n, m int) (from, to int64) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	for _, line := range lines[:n] {
		from += int64(len(line))
	}
	to = from - 1
	for _, line := range lines[n : m+1] {
		to += int64(len(line))
	}
	return from, to
}

// line makes the i-th line of a forged log.
func (g *vectors) line(i int, e Event) string {
	g.t.Helper()
	if e.Hostname == "" {
		e.Hostname, e.PID = "host", vectorPID
	}
	line, err := entry.Append(nil, &e)
	must(g.t, err)
	entry.Patch(line, uint64(i), vectorStart.Add(time.Duration(i)*time.Second).UnixNano(), vectorSession)
	return string(line)
}

// forge makes a whole log of given lines, in batches, with everything that follows from them: chain, root, arrays,
// checkpoints, head. It is what somebody with the private key can make.
func (g *vectors) forge(batches ...[]string) *vector {
	origin := g.signer.Key().Name()
	id := identity.Log{Origin: origin, Created: vectorStart.UnixNano(), VKeys: []string{g.signer.VKey()}}
	v := &vector{expect: Proven, head: true, vkey: g.signer.VKey(), files: map[string][]byte{"log/log.json": id.Append(nil)}}
	data := segment.AppendHeader(nil, 0, Hash{})
	var chain Hash
	var leaves []Hash
	for _, batch := range batches {
		from := len(leaves)
		for _, line := range batch {
			data = append(append(data, line...), '\n')
			leaf := proof.LeafHash([]byte(line))
			leaves, chain = append(leaves, leaf), proof.ChainHash(chain, leaf)
		}
		data = segment.AppendCommit(data, uint64(from), uint64(len(leaves)), chain, proof.Root(leaves))
	}
	v.files["log/immutable.log"] = data
	note := g.checkpoint(uint64(len(leaves)), proof.Root(leaves))
	v.files["log/checkpoint"] = note
	v.files["log/checkpoints"] = slices.Concat(g.checkpoint(0, proof.EmptyRoot()), []byte("\n"), note, []byte("\n"))
	h := identity.Head{
		Origin: origin, VKey: id.VKey(), Log: sha256.Sum256(v.files["log/log.json"]), Size: uint64(len(leaves)), Root: proof.Root(leaves),
		Kept: int64(len(v.files["log/checkpoints"])), Clean: true,
	}
	v.files["head"] = h.Append(nil)
	v.state(leaves)
	return v
}

// reseal signs a seal over what archive and idx of a segment are now.
func (g *vectors) reseal(v *vector, first, end uint64) {
	archive, idx := v.files["log/archive/"+segment.ArchiveName(first)], v.files["log/index/"+segment.IndexName(first)]
	s := index.Seal{
		Origin: g.signer.Key().Name(), First: first, End: end, Archive: sha256.Sum256(archive), Index: sha256.Sum256(idx),
		ArchiveLen: int64(len(archive)), IndexLen: int64(len(idx)),
	}
	v.files["log/index/"+segment.SealName(first)] = g.sign(s.Text())
}

// searched makes logs with search indexes, under seals of version 2.
func (g *vectors) searched() {
	m := newMaker(g.t, vectorOrigin)
	m.search = true
	m.open()
	m.add(100)
	for i := range 160 {
		e := Event{Level: Level(i % 7), Message: fmt.Sprintf("user %d paid %d EUR from 203.0.113.%d", i, 5*i, i%40), Metadata: Fields{"status": []int{200, 404, 500}[i%3], "user": Fields{"name": fmt.Sprintf("Müller %d", i)}}}
		words := sha256.Sum256([]byte{byte(i)})
		e.Metadata["trace"] = fmt.Sprintf("% x", words[:]) + fmt.Sprintf(" %x-%x-%x-%x-%x-%x", words[:3], words[3:7], words[7:10], words[10:15], words[15:18], words[18:])
		switch i % 50 {
		case 7:
			e.Metadata = Fields{"tags": []string{"vpn", "Büro"}, "empty": Fields{}, "none": nil, "a.b": true}
		case 8:
			e.IdempotencyKey, e.TraceID = fmt.Sprintf("k%d", i), "0af7651916cd43dd8448eb211c80319c"
		case 9:
			e.Message = "日本語 の ログ \u0001 \n"
		}
		m.append(e)
	}
	m.rotate()
	m.close()
	m.open()
	base := g.add("search", "a sealed segment with a search index, under a seal of version 2, and some entries in the open one", m.take())
	m.close()
	sdx, seal := "index/"+segment.SearchName(0), "index/"+segment.SealName(0)
	data := base.files["log/"+sdx]
	pages := (len(data) + 4096 + 32 - 1) / (4096 + 32)
	table := len(data) - 32*pages
	if pages < 2 {
		g.t.Fatalf("a search index of %d pages: want some", pages)
	}
	// Whoever has the key signs a seal over another index.
	reseal := func(v *vector, change func(s *index.Seal)) {
		text, err := m.l.openSeal(v.files["log/"+seal])
		must(g.t, err)
		s, err := index.ParseSeal(text)
		must(g.t, err)
		now := v.files["log/"+sdx]
		s.Search, s.SearchLen, s.Table = sha256.Sum256(now), int64(len(now)), sha256.Sum256(now[table:])
		change(&s)
		v.files["log/"+seal] = g.sign(s.Text())
	}
	g.refute("search-missing", "the search index is gone", base, func(v *vector) { delete(v.files, "log/"+sdx) }, sdx)
	g.refute("search-bit", "one bit of the search index is changed", base, func(v *vector) { g.flip(v, "log/"+sdx, 5000) }, sdx)
	g.also(seal)
	g.refute("search-page", "a digest in the table of pages is changed, and sealed like that: it is not its page's", base, func(v *vector) {
		g.flip(v, "log/"+sdx, table+32+5)
		reseal(v, func(*index.Seal) {})
	}, sdx)
	g.refute("search-table", "the seal has another hash of the table of pages", base, func(v *vector) {
		reseal(v, func(s *index.Seal) { s.Table[3] ^= 1 })
	}, seal)
	g.also(sdx)
	g.refute("search-range", "the seal says of its search index what is true, and is of another segment", base, func(v *vector) {
		reseal(v, func(s *index.Seal) { s.End += 256 })
	}, seal)
	v := base.copyOf()
	m.withoutSearch(v)
	v.files["log/"+sdx] = data
	g.add("search-unsealed", "a search index under a seal of version 1, which claims nothing of it: a note", v)
}

// archiveLines is what an archive holds: segment line, entry lines, closing commit line. For what is no archive it is nil.
func archiveLines(t testing.TB, data []byte) []byte {
	t.Helper()
	a, err := segment.OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil
	}
	out := segment.AppendHeader(nil, a.First(), a.Chain())
	for k := range a.Groups() {
		group, err := a.Group(nil, k)
		must(t, err)
		out = append(out, group...)
	}
	size, chain, root := a.Commit()
	return segment.AppendCommit(out, a.First(), size, chain, root)
}

// rearchive makes an archive again with its lines changed, and their chain and root recomputed from zero: only for a
// first segment.
func (g *vectors) rearchive(v *vector, change func(lines []string)) {
	name := "log/archive/" + segment.ArchiveName(0)
	lines := strings.SplitAfter(string(archiveLines(g.t, v.files[name])), "\n")
	lines = lines[1 : len(lines)-2]
	change(lines)
	var out bytes.Buffer
	w, err := segment.NewArchiveWriter(&out, 0, Hash{})
	must(g.t, err)
	var chain Hash
	var leaves []Hash
	for i, line := range lines {
		leaf := proof.LeafHash([]byte(strings.TrimSuffix(line, "\n")))
		leaves, chain = append(leaves, leaf), proof.ChainHash(chain, leaf)
		if (i+1)%256 == 0 {
			must(g.t, w.WriteGroup([]byte(strings.Join(lines[i-255:i+1], ""))))
		}
	}
	must(g.t, w.Close(uint64(len(leaves)), chain, proof.Root(leaves)))
	v.files[name] = out.Bytes()
}

// makeVectors makes all vectors.
func makeVectors(t testing.TB) []*vector {
	t.Helper()
	g := &vectors{t: t, signer: vectorSigner(t, vectorOrigin)}
	small := g.good()
	g.crashes(small)
	g.controls()
	g.entries()
	g.openSegment()
	g.notes()
	g.outside()
	g.sealed()
	g.epochs()
	g.retired()
	g.searched()
	return g.all
}

// good makes logs that nothing happened to. It returns one of twelve entries, not closed.
func (g *vectors) good() *vector {
	m := newMaker(g.t, vectorOrigin)
	m.open()
	empty := m.take()
	g.add("empty", "a log without entries", empty)
	m.add(1)
	m.publish()
	m.close()
	m.open()
	g.add("one", "a single entry, closed and opened again", m.take())
	m.add(4)
	m.publish()
	m.add(7)
	m.publish()
	small := m.take()
	g.add("twelve", "three batches; the writer is still at work: the head is not clean", small)
	m.add(3)
	g.add("unsigned-end", "three entries are newer than head and newest checkpoint: they are there, and what is signed does not cover them", m.take())
	m.add(285)
	m.close()
	m.open()
	large := g.add("three-hundred", "more than one group in the open segment: tree/1 and chain hold one hash each", m.take())
	g.refute("arrays-signed", "checkpoint was replaced by an older one, and tree/1 changed: checkpoints has a later size, which needs that hash; no head is known", large, func(v *vector) {
		v.head = false
		delete(v.files, "head")
		v.files["log/checkpoint"] = keptNote(g.t, v.files["log/checkpoints"], 1)
		g.flip(v, "log/tree/1", 5)
	}, "tree/1", 0, 31)
	m.close()

	g.without("consistent", "nothing is known from outside", small, Consistent)
	v := small.copyOf()
	delete(v.files, "head")
	v.head = false
	g.add("pinned", "only the verifier key is known from outside", v)
	v = g.without("kept", "only an earlier checkpoint is known from outside", small, Proven)
	v.files["kept"] = keptNote(g.t, v.files["log/checkpoints"], 2)
	v = small.copyOf()
	v.editHead(g.t, func(h *identity.Head) { h.Inode = 1 })
	g.add("copy", "log.json has another inode than the head says: a note, and read-only until adopted", v)
	v = small.copyOf()
	v.files["log/notes.txt"], v.files["log/quarantine/readme"] = []byte("hello\n"), []byte("hello\n")
	g.add("unknown-names", "names directly in the directory, and others than <offset>-<sha256> in quarantine/, carry no claim", v)

	m = newMaker(g.t, vectorOrigin)
	m.cfg.NoSignatures = true
	m.open()
	m.add(5)
	m.close()
	m.open()
	g.add("unsigned", "a log without keys: the notes are text and an empty line", m.take())
	m.close()
	g.members()
	return small
}

// keptNote is the n-th note of a history.
func keptNote(t testing.TB, history []byte, n int) []byte {
	t.Helper()
	notes, err := proof.SplitNotes(history)
	must(t, err)
	return notes[n]
}

// members makes logs whose entries use everything that an entry may have, up to its limits.
func (g *vectors) members() {
	deep := strings.Repeat(`{"a":`, 127) + `{}` + strings.Repeat(`}`, 127)
	raw := func(s string) Event { return Event{Message: "metadata", RawMetadata: []byte(s)} }
	message := func(s string) Event { return Event{Level: Security, Message: s} }
	batch := []Event{
		{Level: Audit, Message: "every member", Metadata: Fields{"a": 1}, EventTime: time.Date(2026, 2, 28, 23, 59, 59, 120_000_000, time.UTC), TraceID: "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331", IdempotencyKey: "order-1"},
		{Message: "first and last second that can be said", EventTime: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)},
		{Message: "", EventTime: time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), Hostname: "ho\"st\\\u0001\u00e9"},
		{Message: "process ids", PID: 4294967295, IdempotencyKey: "k\n\u2028\u009f"},
		message(`{"commit":{"from":0,"size":1,"chain":"00","root":""}}`), message("\n{\"commit\":\n"), message("{\"id\":\"x\"}"),
		message("\x00\x01\b\t\n\f\r\x1f \"\\/\x7f\u0080\u009f\u00a0\u00ad"), message("\u2028\u2029\ufeff\ufffd\ufffe\U0010ffff\u200b\u202e"), message("\x1b[2J\x1b]0;x\a"),
		message("e\u0301 \u00e9 \u212b \u1e9b\u0323 👩‍👩‍👧‍👦 🇩🇪 العربية עברית 中文"), message("<script>alert(1)</script>'; DROP TABLE x; --"),
		raw(`{"z":1,"a":2,"":3,"\u0061b":"\u00e9\/\ud83d\ude00"}`), raw(`{"n":[0,-0,1.0,1e0,1E+2,1.50,0.1,5e-324,2.2250738585072014e-308,1.7976931348623157e308,1e23]}`),
		raw(`{"n":[18446744073709551615,-9223372036854775808,9007199254740993,99999999999999999999,1000000000000000000000,-1e-7]}`),
		raw(`{"v":[true,false,null,"",[],{},[[]]]}`), raw(deep),
	}
	for l := range NumLevels {
		batch = append(batch, Event{Level: Level(l), Message: Level(l).String()})
	}
	m := newMaker(g.t, vectorOrigin)
	m.open()
	m.append(batch...)
	m.publish()
	g.add("members", "every member of an entry, every level; strings that look like the log's own lines; the numbers at the limits", m.take())
	m.close()

	m = newMaker(g.t, vectorOrigin)
	m.open()
	m.append(Event{Message: "limits", Hostname: strings.Repeat("h", 255), IdempotencyKey: strings.Repeat("k", 256), RawMetadata: []byte(deep)})
	long := Event{Message: "", Hostname: "host", PID: vectorPID}
	least, err := entry.Append(nil, &long)
	must(g.t, err)
	m.append(Event{Message: strings.Repeat("x", MaxEntryBytes-len(least))})
	for i := range 255 {
		e := Event{Level: Level(i % NumLevels), Message: "m"}
		if i%50 == 0 {
			e.IdempotencyKey, e.EventTime = fmt.Sprintf("k%d", i), vectorStart.Add(-time.Duration(i)*time.Hour)
		}
		m.append(e)
	}
	m.rotate()
	m.close()
	m.open()
	g.add("limits", "a sealed segment with the longest line, hostname and key; its idx has keys and event times", m.take())
	m.close()
}

// crashes makes what a crash leaves, as three hosts see it: one that knows of a crash, one whose head says that there was
// none, and one without a head.
func (g *vectors) crashes(small *vector) {
	three := func(name, comment string, v *vector, files ...string) {
		g.add(name, comment+"; the head is not clean: a note", v)
		clean := func(h *identity.Head) { h.Clean = true }
		g.refute(name+"-clean", comment+", although the head says that the writer closed", v, func(v *vector) { v.editHead(g.t, clean) }, files[0])
		g.also(files[1:]...)
		g.without(name+"-headless", comment+", and no head says whether there was a crash", v, Unknown)
	}
	v := small.copyOf()
	tail := g.line(12, Event{Message: "never acknowledged"}) + "\n" + g.line(13, Event{Message: "torn"})[:70]
	v.files["log/immutable.log"] = append(bytes.Clone(v.files["log/immutable.log"]), tail...)
	three("incomplete-batch", "an incomplete batch after the last commit line", v, "immutable.log")

	v = small.copyOf()
	v.files["log/tree/1"], v.files["log/chain"] = bytes.Repeat([]byte{7}, 40), bytes.Repeat([]byte{9}, 32)
	three("arrays-ahead", "tree/1 and chain hold hashes of entries that are not there, one of them torn", v, "tree/1", "chain")

	m := newMaker(g.t, vectorOrigin)
	m.open()
	m.add(3)
	m.publish()
	m.add(2)
	behind := m.stop(func() error { return m.l.publisher.publish(true) }, func(op vfstest.Op) bool {
		return op.Kind == vfstest.OpRename && strings.HasSuffix(op.To, "log/checkpoint")
	})
	three("checkpoint-behind", "checkpoint is older than the last of checkpoints", behind, "checkpoint")
	v = behind.copyOf()
	v.files["log/checkpoints"] = v.files["log/checkpoints"][:len(v.files["log/checkpoints"])-20]
	three("torn-note", "the last note of checkpoints is torn", v, "checkpoints")
	m.close()
	g.refute("torn-note-published", "the last note of checkpoints is damaged, and not as a power cut leaves it: the same note is whole in checkpoint", small, func(v *vector) {
		history := v.files["log/checkpoints"]
		kept := bytes.LastIndex(history, []byte("\n\n"+vectorOrigin)) + 2
		v.files["log/checkpoints"] = bytes.Clone(history)
		v.files["log/checkpoints"][len(history)-20] ^= 1
		v.editHead(g.t, func(h *identity.Head) { h.Kept = int64(kept) })
	}, checkpointsName)
	g.refute("history-kept", "the head's kept is not where a note ends", small, func(v *vector) {
		v.editHead(g.t, func(h *identity.Head) { h.Kept -= 5 })
	}, checkpointsName)
	g.also("head")
	g.rotations()
}

// rotations makes what a crash leaves at each step of a rotation.
func (g *vectors) rotations() {
	make := func(f func(m *maker) *vector) *vector {
		m := newMaker(g.t, vectorOrigin)
		m.open()
		m.add(256)
		m.add(2)
		v := f(m)
		_ = m.l.Close() // the writer may have ended, as a crash would end it
		return v
	}
	rotation := func(chosen func(op vfstest.Op) bool) *vector {
		return make(func(m *maker) *vector {
			return m.stop(func() error { return m.l.Rotate(context.Background()) }, chosen)
		})
	}
	pending := segment.PendingName(0)
	waits := rotation(func(op vfstest.Op) bool {
		return op.Kind == vfstest.OpCreate && strings.HasSuffix(op.Name, segment.ArchiveSuffix)
	})
	g.add("pending", "a full segment waits to be sealed; its last two entries stand again in immutable.log", waits)
	v := rotation(func(op vfstest.Op) bool {
		return op.Kind == vfstest.OpRename && strings.HasSuffix(op.To, "log/"+openName)
	})
	delete(v.files, "log/"+openName)
	v.link, v.base = openName+" pending/"+pending, waits.name
	g.add("rotation-linked", "a rotation ended after its second step: the pending file is another name of immutable.log", v)
	v = rotation(func(op vfstest.Op) bool {
		return op.Kind == vfstest.OpCreate && strings.HasSuffix(op.Name, segment.IndexSuffix)
	})
	g.add("archive-unsealed", "archive and pending file both hold the segment, and there is no seal yet", v)
	v.base = waits.name
	g.refute("pending-short", "the pending segment ends before the next one begins", waits, func(v *vector) {
		v.files["log/pending/"+pending] = v.files["log/pending/"+pending][:strings.IndexByte(string(v.files["log/pending/"+pending]), '\n')+1]
	}, "pending/"+pending)
	g.also(openName) // the file that is short, or the one that does not follow it
}

// controls makes logs with control entries.
func (g *vectors) controls() {
	m := newMaker(g.t, vectorOrigin)
	m.open()
	m.add(3)
	m.publish()
	crashed := m.take()
	m.close()
	tail := g.line(3, Event{Message: "never acknowledged"})[:90]
	m = newMaker(g.t, vectorOrigin)
	for name, data := range crashed.files {
		m.put(name, data)
	}
	m.put("log/immutable.log", append(bytes.Clone(crashed.files["log/immutable.log"]), tail...))
	m.put(m.state(vectorOrigin)+"/head", crashed.files["head"])
	for _, dir := range []string{pendingDir, archiveDir, indexDir, quarantineDir, nextDir, "tree"} {
		m.mkdirs("log/" + dir)
	}
	m.clock = vectorStart.Add(time.Hour)
	m.open()
	m.add(2)
	m.clock = vectorStart.Add(time.Minute)
	_, wrote, err := m.l.ResetClock(context.Background())
	if err != nil || !wrote {
		g.t.Fatalf("the clock was not reset: %v", err)
	}
	m.append(Event{Level: System, Message: "of a later program", Log: []byte(`{"type":"later","what":[1,2]}`)})
	m.publish()
	v := g.add("control", "a recovery with its file in quarantine, a clock reset after which timestamps are lower, and a type that version 1 does not know", m.take())
	m.close()
	var evidence string
	for name := range v.files {
		if strings.HasPrefix(name, "log/quarantine/") {
			evidence = name
		}
	}
	file := strings.TrimPrefix(evidence, "log/")
	g.refute("quarantine-missing", "the file that a recovery entry names is gone", v, func(v *vector) { delete(v.files, evidence) }, file)
	g.refute("quarantine-changed", "a file in quarantine does not hash to its name", v, func(v *vector) { g.flip(v, evidence, 10) }, file)

	m = newMaker(g.t, vectorOrigin)
	m.open()
	m.add(5)
	m.close()
	second := vectorOrigin + "/2"
	m.put(m.state(second)+"/keys/ed25519", vectorKey(g.t, second))
	cfg := *m.cfg
	cfg.Origin = second
	l, err := Continue(context.Background(), "log", "log2", &cfg)
	must(g.t, err)
	m.l = l
	_, err = l.ImportRecord(context.Background(), "blockchain", 3, strings.Repeat("ab", 32), 1)
	must(g.t, err)
	m.publish()
	leaves, err := leavesOf(l)
	must(g.t, err)
	v = m.takeFiles("log2", second)
	v.vkey = l.VerifierKeys()[0]
	v.state(leaves)
	g.add("continue", "a log that continues another, and imports a third", v)
	m.close()
}

// entries forges logs in which one entry breaks one rule, and everything else agrees and is signed.
func (g *vectors) entries() {
	full := Event{
		Message: "message", RawMetadata: []byte(`{"a":1}`), Hostname: "host", PID: vectorPID, EventTime: time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC),
		TraceID: "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331", IdempotencyKey: "key",
	}
	first, last := g.line(0, Event{Message: "first"}), g.line(2, Event{Message: "last"})
	good := g.line(1, full)
	id := good[7:43]
	forged := g.add("forged", "what the refuted vectors named entry-… begin from", g.forge([]string{first}, []string{good, last}))
	forge := func(name, comment, line string) {
		v := g.forge([]string{first}, []string{line, last})
		from, to := span(v.files["log/immutable.log"], 3, 3)
		g.refute("entry-"+name, comment+"; everything else agrees and is signed", forged, func(f *vector) { f.files = v.files }, openName, from, to)
	}
	by := func(name, comment, old, to string) {
		g.t.Helper()
		if strings.Count(good, old) == 0 {
			g.t.Fatalf("%s: no %q in %s", name, old, good)
		}
		forge(name, comment, strings.Replace(good, old, to, 1))
	}
	at := func(i int, c string) string { return id[:i] + c + id[i+1:] }
	next := func(c byte) string { return map[bool]string{true: "0", false: "1"}[c != '0'] }
	by("id-index", "the id's low 32 bits are not the index", id, at(35, next(id[35])))
	by("id-time", "the id's first 48 bits are not the timestamp's milliseconds", id, at(12, next(id[12])))
	by("id-version", "the id is not of version 7", id, at(14, "4"))
	by("id-variant", "the id has another variant", id, at(19, "c"))
	by("id-upper", "the id is in upper case", id, strings.ToUpper(id))
	forge("timestamp-lower", "the timestamp is lower than that of the entry before", stamp(good, vectorStart.Add(-time.Second), 1))
	by("timestamp-digits", "the timestamp has eight digits of fraction", ".000000000Z", ".00000000Z")
	by("timestamp-second", "the timestamp has a leap second", ":01.000000000Z", ":60.000000000Z")
	by("level", "the level is in lower case", `"INFO"`, `"info"`)
	by("order", "hostname and pid have changed places", `"hostname":"host","pid":4242`, `"pid":4242,"hostname":"host"`)
	by("member-unknown", "a member that the format does not know", `,"idempotencyKey":"key"}`, `,"idempotencyKey":"key","x":1}`)
	by("member-missing", "no pid", `,"pid":4242`, ``)
	by("member-twice", "two pids", `"pid":4242`, `"pid":4242,"pid":4242`)
	by("space", "a space outside of strings", `,"pid"`, `, "pid"`)
	by("after", "bytes after the object", `"key"}`, `"key"} `)
	by("message-solidus", "a solidus is escaped", `"message":"message"`, `"message":"mess\/age"`)
	by("message-ascii", "a letter is escaped", `"message":"message"`, `"message":"\u006dessage"`)
	by("message-hex", "an escape in upper case", `"message":"message"`, `"message":"\u001Bessage"`)
	by("message-c1", "U+0085 stands unescaped", `"message":"message"`, "\"message\":\"\u0085essage\"")
	by("message-utf8", "a byte that is not UTF-8", `"message":"message"`, "\"message\":\"\xffessage\"")
	by("metadata-array", "metadata is not an object", `{"a":1}`, `[1]`)
	by("metadata-twice", "two members of one name, after unescaping", `{"a":1}`, `{"a":1,"\u0061":2}`)
	by("metadata-depth", "metadata nests 129 deep", `{"a":1}`, strings.Repeat(`{"a":`, 128)+`{}`+strings.Repeat(`}`, 128))
	by("metadata-surrogate", "an unpaired surrogate escape", `{"a":1}`, `{"a":"\ud800"}`)
	by("metadata-utf8", "an encoded surrogate, which is not UTF-8", `{"a":1}`, "{\"a\":\"\xed\xa0\x80\"}")
	by("metadata-control", "a tab stands unescaped in a string", `{"a":1}`, "{\"a\":\"\t\"}")
	by("number-precision", "a number that a float64 does not identify", `{"a":1}`, `{"a":0.10000000000000001}`)
	by("number-digits", "an integer of 21 digits that a float64 does not identify", `{"a":1}`, `{"a":123456789012345678901}`)
	by("number-infinite", "a number that no float64 is near", `{"a":1}`, `{"a":1e309}`)
	by("number-tiny", "a number that underflows to zero", `{"a":1}`, `{"a":1e-400}`)
	by("number-zero", "a number with a leading zero", `{"a":1}`, `{"a":01}`)
	by("pid", "a pid above 32 bits", `4242`, `4294967296`)
	by("hostname", "a hostname of 256 bytes", `"host"`, `"`+strings.Repeat("h", 256)+`"`)
	by("event-time", "an eventTime with a trailing zero in its fraction", `10:00:00Z`, `10:00:00.10Z`)
	by("trace", "a traceId of zeros", full.TraceID, strings.Repeat("0", 32))
	by("span", "a spanId in upper case", full.SpanID, strings.ToUpper(full.SpanID))
	by("key-empty", "an empty idempotencyKey", `"idempotencyKey":"key"`, `"idempotencyKey":""`)
	by("key-long", "an idempotencyKey of 257 bytes", `"idempotencyKey":"key"`, `"idempotencyKey":"`+strings.Repeat("k", 257)+`"`)
	by("log-level", "a control entry whose level is not SYSTEM", `"key"}`, `"key","log":{"type":"later"}}`)
	system := strings.Replace(g.line(1, Event{Level: System, Message: "control"}), `"pid":4242}`, `"pid":4242,"log":`, 1)
	forge("log-type", "log does not begin with its type", system+`{"a":1,"type":"later"}}`)
	forge("log-recovery", "a recovery entry whose size is not its index", system+`{"type":"recovery","head":0,"size":9,"file":"quarantine/1-`+strings.Repeat("0", 64)+`","sha256":"`+strings.Repeat("0", 64)+`","bytes":1}}`)
	forge("log-continue", "a continue entry whose checkpoint is of another log", system+`{"type":"continue","origin":"example.com/a","size":0,"root":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","verdict":"proven","checkpoint":"example.com/b\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n"}}`)
	forge("log-clock", "a clock entry whose was is not the timestamp before", system+`{"type":"clock","was":"2026-03-01T11:00:00.000000000Z","now":"2026-03-01T12:00:01.000000000Z"}}`)
}

// stamp gives a line another time, and the id that goes with it.
func stamp(line string, t time.Time, index uint64) string {
	b := []byte(line)
	entry.Patch(b, index, t.UnixNano(), vectorSession)
	return string(b)
}

// openSegment changes the open segment's file, its commit lines and its end.
func (g *vectors) openSegment() {
	lines := make([]string, 6)
	for i := range lines {
		lines[i] = g.line(i, Event{Message: fmt.Sprintf("m%d", i)})
	}
	base := g.add("six", "three batches of two", g.forge(lines[:2], lines[2:4], lines[4:]))
	const file = "log/" + openName // lines: segment, 0, 1, commit, 2, 3, commit, 4, 5, commit
	data := string(base.files[file])
	all := strings.SplitAfter(data, "\n")
	edit := func(name, comment, old, by string, from, to int) {
		a, b := span([]byte(strings.Replace(data, old, by, 1)), from, to)
		g.refute(name, comment, base, func(v *vector) { g.replace(v, file, old, by) }, openName, a, b)
	}
	edit("byte", "one byte of an entry is changed", `"m2"`, `"m9"`, 4, 6)
	edit("removed", "an entry is taken out", all[4], "", 4, 5)
	edit("swapped", "two entries have changed places", all[4]+all[5], all[5]+all[4], 4, 6)
	edit("inserted", "an entry is put in", all[4], all[4]+all[4], 4, 7)
	edit("commit-size", "a commit line has another size", `"size":4`, `"size":5`, 6, 6)
	edit("commit-from", "a commit line has another from", `"from":2`, `"from":1`, 6, 6)
	edit("commit-chain", "a commit line has another chain hash", all[6][33:60], all[3][33:60], 6, 6)
	edit("commit-root", "a commit line has another root", all[6][len(all[6])-20:], all[3][len(all[3])-20:], 6, 6)
	edit("commit-missing", "a commit line is taken out: two batches became one", all[3], "", 1, 8)
	edit("commit-twice", "a commit line stands twice: a batch without entries", all[6], all[6]+all[6], 6, 7)
	edit("commit-space", "a commit line has a space", `{"commit":{"from":2`, `{"commit": {"from":2`, 6, 6)
	g.refute("segment-first", "the segment line begins at another entry", base, func(v *vector) { g.replace(v, file, `"first":0`, `"first":256`) }, openName)
	edit("segment-chain", "the segment line has another chain hash", `"chain":"0`, `"chain":"1`, 0, 0)
	edit("carriage-return", "a line ends in CR LF", all[2], strings.TrimSuffix(all[2], "\n")+"\r\n", 1, 3)
	edit("empty-line", "an empty line", all[2], all[2]+"\n", 1, 4)
	end := int64(len(data))
	appended := func(name, comment, tail string, change func(v *vector)) {
		g.refute(name, comment, base, func(v *vector) {
			v.files[file] = append(bytes.Clone(v.files[file]), tail...)
			v.editHead(g.t, func(h *identity.Head) { h.Clean = false })
			change(v)
		}, openName, end, end+int64(len(tail)))
	}
	appended("end-commit-inside", "a commit line in the bytes after the last valid one is followed by another byte: no crash leaves that", lines[5]+"\n"+all[9]+"{", func(*vector) {})
	from, to := span([]byte(data), 7, 9)
	g.refute("end-known", "the last batch lost its commit line, and the head says that it was durable", base, func(v *vector) {
		v.files[file] = v.files[file][:len(data)-len(all[9])]
		v.editHead(g.t, func(h *identity.Head) { h.Clean = false })
	}, openName, from, to)
	g.refute("cut", "the last batch is cut off, and the notes with it: an earlier state, which only the head knows better", base, func(v *vector) {
		older := g.forge(lines[:2], lines[2:4])
		for name, data := range older.files {
			if name != "head" {
				v.files[name] = data
			}
		}
	}, openName)
	g.also("head")
	g.refute("rewritten", "another entry, everything recomputed and signed again: only the head knows better", base, func(v *vector) {
		other := g.forge(lines[:2], lines[2:4], []string{lines[4], g.line(5, Event{Message: "forged"})})
		for name, data := range other.files {
			if name != "head" {
				v.files[name] = data
			}
		}
	}, openName)
	g.also("head")
	g.refute("recomputed", "an entry is changed, and chain and root after it recomputed; nothing could be signed", base, func(v *vector) {
		other := g.forge(lines[:2], lines[2:4], []string{lines[4], g.line(5, Event{Message: "forged"})})
		v.files[file] = other.files[file]
		v.head = false
		delete(v.files, "head")
	}, checkpointName)
	g.also(checkpointsName)
}

// notes changes checkpoint, checkpoints and log.json. No head is known, so that the notes alone must tell.
func (g *vectors) notes() {
	lines := make([]string, 4)
	for i := range lines {
		lines[i] = g.line(i, Event{Message: fmt.Sprintf("m%d", i)})
	}
	base := g.add("four", "two batches of two, and no head", g.forge(lines[:2], lines[2:]))
	base.head = false
	delete(base.files, "head")
	roots := func(n int) Hash {
		var leaves []Hash
		for _, line := range lines[:n] {
			leaves = append(leaves, proof.LeafHash([]byte(line)))
		}
		return proof.Root(leaves)
	}
	zero, two, four := g.checkpoint(0, roots(0)), g.checkpoint(2, roots(2)), g.checkpoint(4, roots(4))
	history := func(notes ...[]byte) []byte {
		var out []byte
		for _, n := range notes {
			out = append(append(out, n...), '\n')
		}
		return out
	}
	kept := func(name, comment string, notes ...[]byte) {
		g.refute(name, comment, base, func(v *vector) { v.files["log/checkpoints"] = history(notes...) }, checkpointsName)
	}
	kept("history-first", "the first note is not of size 0", two, four)
	kept("history-order", "sizes do not increase", zero, four, two, four)
	kept("history-fork", "a signed checkpoint in the history has another root than the entries: somebody signed two histories", zero, g.checkpoint(2, roots(1)), four)
	kept("history-bytes", "bytes that are no note stand between two notes", zero, []byte("x\n"), four)
	kept("history-empty", "no note at all")
	latest := func(name, comment string, note []byte) *vector {
		return g.refute(name, comment, base, func(v *vector) { v.files["log/checkpoint"] = note }, checkpointName)
	}
	latest("checkpoint-signature", "the signature is another's bytes", slices.Concat(four[:bytes.Index(four, []byte("\n\n"))], two[bytes.Index(two, []byte("\n\n")):]))
	latest("checkpoint-root", "the newest checkpoint has another root than the entries, and a good signature", g.checkpoint(4, roots(3)))
	latest("checkpoint-ahead", "the newest checkpoint is of more entries than there are", g.checkpoint(5, roots(3)))
	latest("checkpoint-extension", "a fourth line of text", g.sign(proof.Checkpoint{Origin: vectorOrigin, Size: 4, Root: roots(4)}.Text()+"extension\n"))
	latest("checkpoint-zero", "the size has a leading zero", g.sign(strings.Replace(proof.Checkpoint{Origin: vectorOrigin, Size: 4, Root: roots(4)}.Text(), "\n4\n", "\n04\n", 1)))
	latest("checkpoint-crlf", "lines end in CR LF", bytes.ReplaceAll(four, []byte("\n"), []byte("\r\n")))
	latest("checkpoint-unsigned", "no signature", []byte(proof.Checkpoint{Origin: vectorOrigin, Size: 4, Root: roots(4)}.Text()+"\n"))
	other := vectorSigner(g.t, "example.com/other")
	foreign, err := other.Sign(proof.Checkpoint{Origin: vectorOrigin, Size: 4, Root: roots(4)}.Text())
	must(g.t, err)
	latest("checkpoint-foreign", "only a key that is not the log's has signed", foreign)
	v := base.copyOf()
	both := bytes.Clone(four)
	both = append(both, foreign[bytes.Index(foreign, []byte("\n\n"))+2:]...)
	v.files["log/checkpoint"], v.files["log/checkpoints"] = both, history(zero, both)
	v.vkey = g.signer.VKey()
	g.add("cosigned", "a second signature, by a key that is not the log's, counts for nothing", v)
	g.refute("checkpoint-differs", "checkpoint differs from the note of the same size in checkpoints, although both are good", v, func(v *vector) { v.files["log/checkpoint"] = four }, checkpointName)
	g.refute("checkpoint-missing", "checkpoint is gone", base, func(v *vector) { delete(v.files, "log/checkpoint") }, checkpointName)
	g.refute("history-missing", "checkpoints is gone", base, func(v *vector) { delete(v.files, "log/checkpoints") }, checkpointsName)

	id := "log/" + identity.LogName
	g.refute("identity-space", "log.json is not in its one form", base, func(v *vector) { g.replace(v, id, `,"created"`, `, "created"`) }, identity.LogName)
	g.refute("identity-format", "log.json is of another format", base, func(v *vector) { g.replace(v, id, "immutable/1", "immutable/2") }, identity.LogName)
	g.refute("identity-key", "log.json names another key", base, func(v *vector) {
		b := bytes.Clone(v.files[id])
		data := identity.Log{Origin: vectorOrigin, Created: vectorStart.UnixNano(), VKeys: []string{renamed(g.t, other, vectorOrigin)}}
		v.files[id] = data.Append(b[:0])
	}, identity.LogName)
	g.refute("identity-missing", "log.json is gone", base, func(v *vector) { delete(v.files, id) }, identity.LogName)
}

// renamed is another's public key under this name.
func renamed(t testing.TB, s *keys.Signer, name string) string {
	t.Helper()
	_, b64, _ := strings.Cut(strings.TrimPrefix(s.VKey(), s.Key().Name()+"+"), "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	must(t, err)
	vkey, err := note.NewEd25519VerifierKey(name, ed25519.PublicKey(raw[1:]))
	must(t, err)
	return vkey
}

// outside makes logs that only something from elsewhere refutes.
func (g *vectors) outside() {
	lines := []string{g.line(0, Event{Message: "m0"}), g.line(1, Event{Message: "m1"}), g.line(2, Event{Message: "m2"})}
	base := g.add("three", "one batch of three, closed", g.forge(lines))
	headless := base.copyOf()
	headless.head = false
	delete(headless.files, "head")
	g.refute("pin-other", "the directory's key is not the one that is pinned", headless, func(v *vector) { v.vkey = renamed(g.t, vectorSigner(g.t, "example.com/other"), vectorOrigin) }, identity.LogName)
	rewritten := g.forge(lines[:1], []string{lines[1], g.line(2, Event{Message: "forged"})})
	g.refute("kept-contradicts", "the log was rewritten and signed again after the kept checkpoint", headless, func(v *vector) {
		for name, data := range rewritten.files {
			if name != "head" {
				v.files[name] = data
			}
		}
		v.files["kept"] = base.files["log/checkpoint"]
	}, "kept")
	g.refute("kept-longer", "the log was cut back behind the kept checkpoint", headless, func(v *vector) {
		for name, data := range g.forge(lines[:2]).files {
			if name != "head" {
				v.files[name] = data
			}
		}
		v.files["kept"] = base.files["log/checkpoint"]
	}, "kept")
	head := func(name, comment, file string, change func(h *identity.Head)) {
		g.refute(name, comment, base, func(v *vector) { v.editHead(g.t, change) }, file)
		g.also("head")
	}
	head("head-root", "the head has another root", openName, func(h *identity.Head) { h.Root = Hash{} })
	head("head-size", "the head knows of more entries", openName, func(h *identity.Head) { h.Size, h.Clean = 4, false })
	head("head-older", "the head is older than what is signed", checkpointsName, func(h *identity.Head) {
		h.Size, h.Root, h.Clean = 1, proof.Root([]Hash{proof.LeafHash([]byte(lines[0]))}), false
	})
	head("head-kept", "checkpoints is shorter than the head says", checkpointsName, func(h *identity.Head) { h.Kept, h.Clean = h.Kept+1, false })
	head("head-log", "log.json is not the one that the head knows: created is changed", identity.LogName, func(h *identity.Head) { h.Log[0]++ })
	g.refute("end-clean", "whole entries were appended and committed after a clean close", base, func(v *vector) {
		v.files["log/immutable.log"] = g.forge(lines, []string{g.line(3, Event{Message: "m3"})}).files["log/immutable.log"]
	}, openName)
	g.also("head")
	g.refute("history-clean", "a good note was appended to checkpoints after a clean close", base, func(v *vector) {
		more := g.forge(lines, []string{g.line(3, Event{Message: "m3"})})
		v.files["log/immutable.log"] = more.files["log/immutable.log"]
		v.files["log/checkpoints"] = slices.Concat(v.files["log/checkpoints"], more.files["log/checkpoint"], []byte("\n"))
	}, checkpointsName)
	g.also("head", checkpointName)
}

// sealed makes a log with two sealed segments, and changes it.
func (g *vectors) sealed() {
	m := newMaker(g.t, vectorOrigin)
	m.open()
	m.add(276)
	m.rotate()
	m.add(250)
	m.rotate()
	m.close()
	m.open()
	g.add("sealed", "two sealed segments, and fourteen entries in the open one", m.take())
	m.close()

	m = newMaker(g.t, vectorOrigin)
	m.open()
	m.add(256)
	m.rotate()
	m.close()
	m.open()
	base := m.take()
	g.add("sealed-exact", "every entry is in the archive; the open segment has its segment line only", base)
	m.close()
	const end = 256
	archive, idx, seal := "archive/"+segment.ArchiveName(0), "index/"+segment.IndexName(0), "index/"+segment.SealName(0)
	data := base.files["log/"+archive]
	a, err := segment.OpenArchive(bytes.NewReader(data), int64(len(data)))
	must(g.t, err)
	group := int(a.Offset(0))
	table := len(data) - (8 + 3*8 + 9)

	g.refute("archive-bit", "one bit of a frame is changed", base, func(v *vector) { g.flip(v, "log/"+archive, group+200) }, archive)
	g.also(seal)
	resealed := func(name, comment string, change func(v *vector), at ...int64) {
		g.refute(name, comment+"; archive and seal agree", base, func(v *vector) {
			change(v)
			g.reseal(v, 0, end)
		}, archive, at...)
	}
	set := func(b []byte) func(v *vector) { return func(v *vector) { v.files["log/"+archive] = b } }
	resealed("archive-appended", "bytes after the seek table", set(slices.Concat(data, []byte{0})))
	resealed("archive-skippable", "a second skippable frame", set(slices.Concat(data[:table], binary.LittleEndian.AppendUint32(nil, 0x184D2A50), []byte{1, 0, 0, 0, 'x'}, data[table:])))
	resealed("archive-table", "the seek table has another size of a frame", func(v *vector) { g.flip(v, "log/"+archive, table+8) })
	resealed("archive-no-table", "no seek table", set(data[:table]))
	resealed("archive-checksum", "a frame's content checksum is wrong", func(v *vector) { g.flip(v, "log/"+archive, int(a.Offset(1))-1) })
	resealed("archive-entry", "an entry in the archive is changed, and all hashes in the archive recomputed: tree, chain and checkpoints say otherwise", func(v *vector) {
		g.rearchive(v, func(lines []string) { lines[100] = strings.Replace(lines[100], `"m100"`, `"m1OO"`, 1) })
	})
	g.all[len(g.all)-1].places[0].file = "tree/1"
	g.refute("archive-missing", "the archive is gone", base, func(v *vector) { delete(v.files, "log/"+archive) }, openName)
	g.refute("archive-unknown", "a file in archive/ that the format does not know", base, func(v *vector) { v.files["log/archive/x"] = nil }, "archive/x")
	g.refute("archive-renamed", "the archive has another segment's name", base, func(v *vector) {
		v.files["log/archive/"+segment.ArchiveName(256)] = data
		delete(v.files, "log/"+archive)
	}, "archive/"+segment.ArchiveName(256))
	g.refute("seal-missing", "the seal is gone", base, func(v *vector) { delete(v.files, "log/"+seal) }, seal)
	g.refute("seal-signature", "the seal's signature is wrong", base, func(v *vector) { g.replace(v, "log/"+seal, "\n0 256\n", "\n0 512\n") }, seal)
	g.refute("seal-range", "the seal is of another segment", base, func(v *vector) { g.reseal(v, 0, 512) }, seal)
	g.refute("idx-missing", "the idx is gone", base, func(v *vector) { delete(v.files, "log/"+idx) }, idx)
	g.refute("idx-bit", "one bit of the idx is changed", base, func(v *vector) { g.flip(v, "log/"+idx, 60) }, idx)
	g.also(seal)
	g.refute("idx-resealed", "the idx is not what the entries give, and sealed like that", base, func(v *vector) {
		g.flip(v, "log/"+idx, len(v.files["log/"+idx])-2)
		g.reseal(v, 0, end)
	}, idx)
	g.refute("index-stray", "an idx of a segment that there is not", base, func(v *vector) { v.files["log/index/"+segment.IndexName(512)] = v.files["log/"+idx] }, "index/"+segment.IndexName(512))
	g.refute("tree-bit", "one bit of tree/1 is changed", base, func(v *vector) { g.flip(v, "log/tree/1", 5) }, "tree/1", 0, 31)
	g.refute("chain-bit", "one bit of chain is changed", base, func(v *vector) { g.flip(v, "log/chain", 5) }, "chain", 0, 31)
	g.refute("tree-missing", "tree/1 is gone", base, func(v *vector) { delete(v.files, "log/tree/1") }, "tree/1")
	g.refute("chain-short", "chain is a byte short", base, func(v *vector) { v.files["log/chain"] = v.files["log/chain"][:31] }, "chain")
	g.refute("tree-unknown", "a level of the tree that there is not", base, func(v *vector) { v.files["log/tree/0"] = v.files["log/tree/1"] }, "tree/0")
	g.refute("pending-unknown", "a file in pending/ that the format does not know", base, func(v *vector) { v.files["log/pending/x"] = nil }, "pending/x")
	g.refute("uncovered", "no checkpoint at or after the end of the sealed segment is kept", base, func(v *vector) {
		v.head = false
		delete(v.files, "head")
		v.files["log/checkpoints"] = append(keptNote(g.t, v.files["log/checkpoints"], 0), '\n')
	}, checkpointsName)
}

// giveEpoch puts the keys of an epoch where the writer, which would draw them, takes them from.
func (m *maker) giveEpoch(number uint64) {
	m.t.Helper()
	m.put(fmt.Sprintf("%s/keys/epoch-%d", m.state(vectorOrigin), number), vectorEpoch(m.t, vectorOrigin, number))
}

// epochs makes logs whose keys are rotated, and changes what proves them.
func (g *vectors) epochs() {
	ctx := context.Background()
	m := newMaker(g.t, vectorOrigin)
	m.cfg.vkeys = 3
	m.giveEpoch(0)
	m.giveEpoch(1)
	m.open()
	m.add(3)
	must(g.t, m.l.RotateKeys(ctx))
	m.giveEpoch(2)
	m.add(2)
	must(g.t, m.l.beginEpoch(ctx, false))
	waiting := m.take()
	m.add(1)
	unlinked := m.stop(func() error { return m.l.publisher.publish(false) }, func(op vfstest.Op) bool {
		return strings.HasSuffix(op.Name, "/"+epochsName+".new") || strings.HasSuffix(op.Name, nextDir+"/"+epochsName)
	})
	stolen, err := keys.LoadEpoch(m.disk, m.state(vectorOrigin)+"/keys", vectorOrigin, 1)
	must(g.t, err)
	m.publish()
	m.add(1)
	m.close()
	m.open()
	base := m.take()
	pins := m.l.VerifierKeys()
	base.vkey, waiting.vkey, unlinked.vkey = pins[1], pins[1], pins[1]
	g.add("hybrid", "a log with an Ed25519 and an ML-DSA-44 key in each of three epochs; epoch 0's Ed25519 key is pinned", base)
	waiting.base, unlinked.base = base.name, base.name
	g.add("epoch-waits", "the entry of epoch 2 is committed, and no checkpoint closes epoch 1 yet; the head is not clean", waiting)
	g.add("epoch-unlinked", "the closing checkpoint of epoch 1 is kept, and epochs does not have the line of epoch 2 yet; the head is not clean", unlinked)
	pinned := func(name, comment, key string, expect fsck.Verdict) {
		g.without(name, comment, base, expect).vkey = key
	}
	pinned("hybrid-ml-dsa", "nothing but epoch 0's ML-DSA-44 key is known from outside", pins[2], Proven)
	pinned("hybrid-log-key", "nothing but the log key is known from outside: whoever stole it can sign any history", pins[0], Consistent)
	pinned("hybrid-later", "nothing but epoch 1's ML-DSA-44 key is known from outside", stolen.VKeys()[1], Proven)

	file := "log/" + epochsName
	lines := bytes.SplitAfter(base.files[file], []byte("\n"))
	g.refute("epochs-missing", "epochs is gone", base, func(v *vector) { delete(v.files, file) }, epochsName)
	g.also(checkpointsName) // or what cannot be opened without it
	g.refute("epochs-line", "epochs lacks its last line, and the head is clean", base, func(v *vector) { v.files[file] = lines[0] }, epochsName)
	g.also(checkpointsName)
	g.refute("epochs-bit", "one bit of epochs differs", base, func(v *vector) { g.flip(v, file, len(lines[0])-1000) }, epochsName)
	g.refute("epochs-more", "epochs has a line more", base, func(v *vector) { v.files[file] = slices.Concat(v.files[file], lines[1]) }, epochsName)

	m.add(1)
	must(g.t, m.l.publisher.publish(false))
	open := m.take()
	open.vkey, open.base = pins[1], base.name
	g.add("hybrid-open", "the newest checkpoint is not kept; the head is not clean", open)
	size, root := m.l.Size(), m.l.root
	text := proof.Checkpoint{Origin: vectorOrigin, Size: size, Root: root}.Text()
	newest := func(name, comment string, note []byte) {
		g.refute(name, comment, open, func(v *vector) { v.files["log/checkpoint"] = note }, checkpointName)
	}
	good := bytes.SplitAfter(open.files["log/checkpoint"], []byte("\n"))
	newest("checkpoint-stripped", "the ML-DSA-44 signature was taken off the newest checkpoint", bytes.Join(good[:len(good)-2], nil))
	newest("checkpoint-log-key", "only the log key signed the newest checkpoint", g.sign(text))
	old, err := keys.SignCheckpoint(g.signer, stolen, proof.Checkpoint{Origin: vectorOrigin, Size: size, Root: root}, 1772366400)
	must(g.t, err)
	newest("checkpoint-old-keys", "the keys of a closed epoch signed a checkpoint above the closing one", old)
	g.refute("epoch-unclosed", "the closing checkpoint of epoch 1 is gone from checkpoints: the first above the entry is signed by the keys that the entry names", base, func(v *vector) {
		notes, err := proof.SplitNotes(v.files["log/checkpoints"])
		must(g.t, err)
		v.files["log/checkpoints"] = bytes.Replace(v.files["log/checkpoints"], append(bytes.Clone(notes[len(notes)-2]), '\n'), nil, 1)
		v.head = false
		delete(v.files, "head")
	}, checkpointsName)
	g.also(checkpointName, epochsName)
	m.close()

	m = newMaker(g.t, vectorOrigin)
	m.open()
	m.add(2)
	m.giveEpoch(1)
	must(g.t, m.l.RotateKeys(ctx))
	m.add(1)
	m.close()
	m.open()
	g.add("upgraded", "a log that was made with one key, and then got those of epoch 1", m.take())
	m.close()
}

// retired makes logs with legal holds and retired segments.
func (g *vectors) retired() {
	m := newMaker(g.t, vectorOrigin)
	m.open()
	ctx := context.Background()
	m.add(100)
	_, err := m.l.Hold(ctx, Hold{ID: "case-1", Reason: "kept for \u201ccase 1\u201d", By: "ann"})
	must(g.t, err)
	held := m.take()
	_, err = m.l.Release(ctx, Hold{ID: "case-1"})
	must(g.t, err)
	m.add(200)
	m.rotate()
	m.add(220)
	m.rotate()
	m.add(4)
	m.publish()
	whole := m.take()
	first, sealed := "log/retired/"+segment.LeavesName(0), segment.ArchiveName(0)
	remove := func(v *vector) {
		delete(v.files, "log/archive/"+sealed)
		delete(v.files, "log/index/"+segment.IndexName(0))
		delete(v.files, "log/index/"+segment.SealName(0))
	}
	unfinished := m.stop(func() error {
		_, err := m.l.Retire(ctx, 0, RetireOptions{ColdDir: "cold", Reason: "old", By: "ann"})
		return err
	}, func(op vfstest.Op) bool {
		return op.Kind == vfstest.OpRemove && strings.HasSuffix(op.Name, "/archive/"+sealed)
	})
	// In memory the segment is retired, and take has read its leaves.
	g.add("retired-unfinished", "the tombstone is under a checkpoint, and the archive is still there", unfinished)
	held.base, whole.base = unfinished.name, unfinished.name // files that are the same are kept once
	g.add("hold", "a legal hold is active", held)
	m.close()
	m.open()
	m.publish()
	one := m.take()
	one.base = unfinished.name
	g.add("retired", "one segment was moved: its leaf hashes and its control entries, a hold and its release, are there", one)
	_, err = m.l.Retire(ctx, 256, RetireOptions{Delete: true})
	must(g.t, err)
	m.publish()
	both := m.take()
	both.base = unfinished.name
	g.add("retired-two", "another one was deleted", both)

	g.refute("retired-missing", "what was kept of a retired segment is not there", one, func(v *vector) { delete(v.files, first) }, "retired/"+segment.LeavesName(0))
	g.also("archive/" + segment.ArchiveName(256))
	g.refute("retired-leaf", "a leaf hash was changed", one, func(v *vector) { g.flip(v, first, 1000) }, "retired/"+segment.LeavesName(0))
	g.refute("retired-kept", "a control entry that was kept was changed", one, func(v *vector) { g.replace(v, first, "ann", "bob") }, "retired/"+segment.LeavesName(0))
	g.refute("retired-kept-gone", "a control entry that was kept was taken out", one, func(v *vector) {
		b := bytes.TrimSuffix(v.files[first], []byte("\n"))
		v.files[first] = b[:bytes.LastIndexByte(b, '\n')+1]
	}, "retired/"+segment.LeavesName(0))
	g.also("immutable.log") // it was the release of the hold
	g.refute("retired-header", "the first line states another range", one, func(v *vector) { g.replace(v, first, `"end":256`, `"end":512`) }, "retired/"+segment.LeavesName(0))
	g.refute("retired-unknown", "a name in retired/ that the format does not know", one, func(v *vector) { v.files["log/retired/x"] = []byte("x") }, "retired/x")
	g.refute("retired-no-tombstone", "an archive is gone and its leaf hashes are there, but nothing says that it was retired", whole, func(v *vector) {
		remove(v)
		v.files[first] = one.files[first]
	}, "archive/"+sealed)
	g.refute("retired-other-archive", "the archive of a retirement that is not finished is another file than the tombstone names", unfinished, func(v *vector) {
		v.files["log/archive/"+sealed] = append(bytes.Clone(v.files["log/archive/"+sealed]), 0)
	}, "archive/"+sealed)
	g.also("index/" + segment.SealName(0))
	m.close()
	g.forgedTombstones()
}

// forgedTombstones are what somebody with the log's keys may write.
func (g *vectors) forgedTombstones() {
	ctx := context.Background()
	base := ""
	forge := func(before func(*Log), change func(string) string, publish bool) *vector {
		m := newMaker(g.t, vectorOrigin)
		m.open()
		m.add(256)
		m.rotate()
		m.add(3)
		before(m.l)
		s := m.l.firstSealed()
		leaves, err := m.l.writeLeaves(ctx, s)
		must(g.t, err)
		archive, n, err := m.l.fileDigest("log/archive/" + segment.ArchiveName(0))
		must(g.t, err)
		text := fmt.Sprintf(`{"type":"retire","first":0,"end":256,"archive":"%x","bytes":%d,"seal":"%x","leaves":"%x","cold":"","reason":"","by":""}`, archive, n, archive, leaves)
		_, err = m.l.control(ctx, "forged", []byte(change(text)))
		must(g.t, err)
		if publish {
			m.publish()
		}
		v := m.take()
		v.name = ""
		must(g.t, m.l.Close())
		delete(v.files, "log/archive/"+segment.ArchiveName(0))
		delete(v.files, "log/index/"+segment.IndexName(0))
		delete(v.files, "log/index/"+segment.SealName(0))
		return v
	}
	refuted := func(name, comment, file string, v *vector) {
		if base == "" {
			base = name
		} else {
			v.base = base
		}
		v.expect, v.size, v.root, v.chain = Refuted, -1, "", ""
		v.places = []place{{file: file, from: -1, to: -1}}
		g.add(name, comment, v)
	}
	nothing := func(*Log) {}
	same := func(s string) string { return s }
	refuted("tombstone-during-hold", "a segment is retired while a legal hold is active", "immutable.log", forge(func(l *Log) {
		_, err := l.Hold(ctx, Hold{ID: "case-1"})
		must(g.t, err)
	}, same, true))
	refuted("tombstone-unsigned", "no checkpoint is over the tombstone, and the archive is gone", "checkpoints", forge(nothing, same, false))
	refuted("tombstone-other-end", "the tombstone names another end", "retired/"+segment.LeavesName(0), forge(nothing, func(s string) string { return strings.Replace(s, `"end":256`, `"end":512`, 1) }, true))
	g.also("immutable.log", "archive/"+segment.ArchiveName(0))
	refuted("tombstone-other-leaves", "the tombstone names other leaf hashes", "retired/"+segment.LeavesName(0), forge(nothing, func(s string) string {
		i := strings.Index(s, `"leaves":"`) + len(`"leaves":"`)
		return s[:i] + strings.Repeat("0", 64) + s[i+64:]
	}, true))
	refuted("tombstone-in-the-middle", "it is not the oldest segment", "immutable.log", forge(nothing, func(s string) string { return strings.Replace(s, `"first":0,"end":256`, `"first":256,"end":512`, 1) }, true))
	g.also("archive/" + segment.ArchiveName(0))
}
