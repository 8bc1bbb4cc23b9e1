package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// These tests hold each check of Open and of reads by itself: without the check that a case names, the case fails.

// A ruled log was closed: two sealed groups, then in immutable.log a whole one and a part of one. Entry i is event i.
type ruled struct {
	t      *testing.T
	d      *vfstest.Disk
	c      *fakeClock
	origin string
	state  string // directory of the head
	leaves []Hash
	chains []Hash
	lines  [][]byte
	ends   []int64 // where the notes of checkpoints end
	notes  [][]byte
	signer *keys.Signer
}

const ruledSealed, ruledSize = 512, 814

func newRuled(t *testing.T) *ruled {
	t.Helper()
	x := &ruled{t: t, d: vfstest.New(), c: newClock()}
	h := &history{}
	l, err := Open(diskDir, x.config())
	must(t, err)
	for _, n := range []int{500, 14, 0, 86, 200, 14} {
		if n == 0 {
			must(t, l.Rotate(context.Background()))
			continue
		}
		must(t, h.append(l, n))
		must(t, l.publisher.publish(true))
	}
	x.origin, x.state, x.signer = l.Origin(), l.state, l.signer
	for _, e := range readAll(t, l, Query{}) {
		x.leaves, x.lines = append(x.leaves, e.Leaf), append(x.lines, e.Line)
		var chain Hash
		if len(x.chains) > 0 {
			chain = x.chains[len(x.chains)-1]
		}
		x.chains = append(x.chains, proof.ChainHash(chain, e.Leaf))
	}
	must(t, l.Close())
	if len(x.leaves) != ruledSize {
		t.Fatalf("%d entries", len(x.leaves))
	}
	history := x.read(checkpointsName)
	x.notes, err = proof.SplitNotes(history)
	must(t, err)
	end := int64(0)
	for _, n := range x.notes {
		end += int64(len(n)) + 1
		x.ends = append(x.ends, end)
	}
	return x
}

// config is of a log that is rotated when a test says so.
func (x *ruled) config() *Config {
	c := diskConfig(x.d, x.c)
	c.RotateSize, c.vkeys, c.EpochDuration = 1<<20, 1, -1
	return c
}

// clone is the same log on a disk of its own.
func (x *ruled) clone(t *testing.T) *ruled {
	y := *x
	y.t, y.d = t, x.d.Clone()
	return &y
}

func (x *ruled) read(name string) []byte {
	x.t.Helper()
	data, err := x.d.ReadFileRaw(path.Join(diskDir, name))
	must(x.t, err)
	return data
}

func (x *ruled) write(name string, data []byte) {
	x.t.Helper()
	must(x.t, x.d.WriteFileRaw(path.Join(diskDir, name), data))
}

func (x *ruled) replace(name, old, with string) {
	x.t.Helper()
	data := x.read(name)
	changed := bytes.Replace(data, []byte(old), []byte(with), 1)
	if bytes.Equal(data, changed) {
		x.t.Fatalf("%s does not hold %q", name, old)
	}
	x.write(name, changed)
}

func (x *ruled) head(edit func(h *identity.Head)) {
	x.t.Helper()
	name := path.Join(x.state, identity.HeadName)
	data, err := x.d.ReadFileRaw(name)
	must(x.t, err)
	h, err := identity.ParseHead(data)
	must(x.t, err)
	edit(h)
	must(x.t, x.d.WriteFileRaw(name, h.Append(nil)))
}

func (x *ruled) root(size int) Hash { return proof.Root(x.leaves[:size]) }

func (x *ruled) sign(text string) []byte {
	x.t.Helper()
	note, err := x.signer.Sign(text)
	must(x.t, err)
	return note
}

// raw is a raw segment of the entries first to before end, in one batch.
func (x *ruled) raw(first, end int) []byte {
	var chain Hash
	if first > 0 {
		chain = x.chains[first-1]
	}
	out := segment.AppendHeader(nil, uint64(first), chain)
	for _, line := range x.lines[first:end] {
		out = append(append(out, line...), '\n')
	}
	if end > first {
		out = segment.AppendCommit(out, uint64(first), uint64(end), x.chains[end-1], x.root(end))
	}
	return out
}

// unseal makes the sealed segment wait again: a crash came before it was sealed.
func (x *ruled) unseal() {
	x.t.Helper()
	for _, name := range []string{archiveDir + "/" + segment.ArchiveName(0), indexDir + "/" + segment.IndexName(0), indexDir + "/" + segment.SealName(0)} {
		must(x.t, x.d.Remove(path.Join(diskDir, name)))
	}
	x.write(pendingDir+"/"+segment.PendingName(0), x.raw(0, 514))
	x.head(func(h *identity.Head) { h.Clean = false })
}

// TestOpenRefusesWhatDoesNotFit bends a log so that one check of Open stands against it.
func TestOpenRefusesWhatDoesNotFit(t *testing.T) {
	whole := newRuled(t)
	waits := pendingDir + "/" + segment.PendingName(0)
	earlier := func(x *ruled, size uint64, clean bool) {
		x.head(func(h *identity.Head) { h.Size, h.Root, h.Clean, h.Kept = size, x.root(int(size)), clean, x.ends[0] })
	}
	grow := func(x *ruled, more string) {
		x.head(func(h *identity.Head) { h.Clean = false })
		x.write(checkpointsName, append(x.read(checkpointsName), more...))
	}
	for _, tt := range []struct {
		name string
		bend func(x *ruled)
		want string // of the error
	}{
		{"a head of another log.json", func(x *ruled) { x.head(func(h *identity.Head) { h.Log[0] ^= 1 }) }, "not the one this host's head names"},
		{"a head with another key", func(x *ruled) { x.head(func(h *identity.Head) { h.VKey = "" }) }, "not the one this host's head names"},
		{"a head of another origin", func(x *ruled) { x.head(func(h *identity.Head) { h.Origin = "example.com/other" }) }, "not the one this host's head names"},
		{"a head of another inode", func(x *ruled) { x.head(func(h *identity.Head) { h.Inode++ }) }, "is a copy"},
		{"a head that is none", func(x *ruled) { must(x.t, x.d.WriteFileRaw(path.Join(x.state, identity.HeadName), []byte("{}\n"))) }, "head"},
		{"another key", func(x *ruled) {
			_, err := keys.Create(x.d, "elsewhere", x.origin)
			must(x.t, err)
			data, err := x.d.ReadFileRaw("elsewhere/ed25519")
			must(x.t, err)
			must(x.t, x.d.WriteFileRaw(path.Join(x.state, keysDir, "ed25519"), data))
		}, "private key"},
		{"a key that is none", func(x *ruled) { must(x.t, x.d.WriteFileRaw(path.Join(x.state, keysDir, "ed25519"), []byte("x"))) }, "key"},
		{"a head that is ahead", func(x *ruled) { x.head(func(h *identity.Head) { h.Size++; h.Clean = false }) }, "it was cut, or restored"},
		{"a head that is ahead of a damaged end", func(x *ruled) {
			x.head(func(h *identity.Head) { h.Clean = false })
			x.replace(openName, `"from":800,`, `"from":801,`)
		}, "entries that this host has signed are damaged"},
		{"another root in a clean head", func(x *ruled) { x.head(func(h *identity.Head) { h.Root[0] ^= 1 }) }, "not the ones this host has signed"},
		{"another root in an earlier head", func(x *ruled) {
			earlier(x, 600, false)
			x.head(func(h *identity.Head) { h.Root[0] ^= 1 })
		}, "not the ones this host has signed"},
		{"more entries than a clean head says", func(x *ruled) { earlier(x, 600, true) }, "closed cleanly, and then something was added"},
		{"more bytes than after a clean close", func(x *ruled) { x.write(openName, append(x.read(openName), `{"id":"`...)) }, "closed cleanly, and then something was added"},
		{"a checkpoint that is none", func(x *ruled) { x.write(checkpointName, []byte("x")) }, "malformed note"},
		{"an altered checkpoint", func(x *ruled) { x.replace(checkpointName, "\n814\n", "\n813\n") }, "bad signature"},
		{"a checkpoint of other entries", func(x *ruled) {
			x.write(checkpointName, x.sign(proof.Checkpoint{Origin: x.origin, Size: ruledSize, Root: Hash{1}}.Text()))
		}, "are not the ones that were signed"},
		{"a checkpoint newer than the head", func(x *ruled) { earlier(x, 600, false) }, "one of them is an older copy"},
		{"a checkpoint older than a clean head", func(x *ruled) { x.write(checkpointName, x.notes[2]) }, "one of them is an older copy"},
		{"a history that is shorter", func(x *ruled) {
			x.head(func(h *identity.Head) { h.Clean = false })
			x.write(checkpointsName, x.read(checkpointsName)[:x.ends[2]])
		}, "the history of checkpoints was cut or added to"},
		{"a history that is longer than after a clean close", func(x *ruled) { x.head(func(h *identity.Head) { h.Kept = x.ends[2] }) }, "the history of checkpoints was cut or added to"},
		{"a kept note that is damaged", func(x *ruled) {
			x.head(func(h *identity.Head) { h.Clean = false })
			data := x.read(checkpointsName)
			data[len(data)-10] ^= 1
			x.write(checkpointsName, data)
		}, "the last note that was kept is damaged"},
		{"a note that was durable before the checkpoint is torn", func(x *ruled) { grow(x, x.origin+"\n600\n") }, "was not torn by a crash"},
		{"a torn note before another", func(x *ruled) { grow(x, x.origin+"\n815\n\n"+x.origin+"\n815\n") }, "was not torn by a crash"},
		{"a torn note longer than notes are", func(x *ruled) { grow(x, x.origin+"\n815\n"+strings.Repeat("x", maxNote)) }, "checkpoints"},
		{"a pending segment with bytes behind it", func(x *ruled) { x.unseal(); x.write(waits, append(x.raw(0, 514), 'x')) }, waits},
		{"a pending segment that ends too early", func(x *ruled) { x.unseal(); x.write(waits, x.raw(0, 511)) }, "ends before the next one begins"},
		{"a pending segment under another name", func(x *ruled) { x.unseal(); x.write(waits, x.raw(256, 514)) }, "does not continue the one before"},
		{"an entry of a pending segment is another", func(x *ruled) { x.unseal(); x.replace(waits, `"event 300"`, `"event 000"`) }, waits},
		{"the remainder is gone", func(x *ruled) {
			x.unseal()
			x.write(openName, x.raw(512, 512))
		}, "lacks entries that were carried over"},
		{"the remainder is another", func(x *ruled) {
			x.unseal()
			x.replace(openName, `"event 513"`, `"event 000"`)
		}, openName},
		{"another chain hash in the segment line", func(x *ruled) {
			x.head(func(h *identity.Head) { h.Clean = false })
			x.replace(openName, x.chains[511].String(), Hash{1}.String())
		}, openName},
		{"another chain hash in the segment line before the first entry", func(x *ruled) {
			earlier(x, ruledSealed, false)
			x.write(checkpointName, x.sign(proof.Checkpoint{Origin: x.origin, Size: ruledSealed, Root: x.root(ruledSealed)}.Text()))
			x.write(checkpointsName, x.read(checkpointsName)[:x.ends[0]])
			x.write(openName, segment.AppendHeader(nil, ruledSealed, Hash{1}))
		}, "chain hash"},
		{"the open segment does not meet the archive", func(x *ruled) {
			x.head(func(h *identity.Head) { h.Clean = false })
			x.write(openName, x.raw(768, ruledSize))
		}, "archive"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := whole.clone(t)
			tt.bend(x)
			before := allFiles(t, x.d, "")
			l, err := Open(diskDir, x.config())
			if err == nil {
				t.Fatalf("opened: %v", l.Close())
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if err := sameEvidence(before, allFiles(t, x.d, "")); err != nil {
				t.Error(err)
			}
		})
	}
	x := whole.clone(t)
	x.unseal()
	for _, x := range []*ruled{whole.clone(t), x} {
		l, err := Open(diskDir, x.config())
		must(t, err)
		if got := readAll(t, l, Query{}); len(got) != ruledSize {
			t.Errorf("%d entries", len(got))
		}
		must(t, l.Close())
	}
}

// TestForgedTreeIsMadeAgain has derived files that are false where the writer goes on from them: neither its commit lines
// nor its receipts may follow from that.
func TestForgedTreeIsMadeAgain(t *testing.T) {
	whole := newRuled(t)
	for _, name := range []string{"chain", "tree/1"} {
		for at := 5; at < 96; at += 32 {
			for _, clean := range []bool{true, false} {
				x := whole.clone(t)
				x.head(func(h *identity.Head) { h.Clean = clean })
				x.flip(name, at)
				l, err := Open(diskDir, x.config())
				must(t, err)
				r, err := l.Append(context.Background(), event(ruledSize))
				must(t, err)
				if want := proof.ChainHash(x.chains[ruledSize-1], r[0].Leaf); r[0].Hash != want {
					t.Errorf("%s, byte %d, clean %v: the receipt's chain hash is %s, want %s", name, at, clean, r[0].Hash, want)
				}
				root, size := l.Root()
				if want := proof.Root(append(x.leaves[:ruledSize:ruledSize], r[0].Leaf)); root != want || size != ruledSize+1 {
					t.Errorf("%s, byte %d, clean %v: root %s, want %s", name, at, clean, root, want)
				}
				must(t, l.Close())
				// What the writer does not go on from stays as it is, for Verify to find.
				rep, err := VerifyDir(context.Background(), diskDir, x.config(), VerifyOptions{Indexes: true})
				must(t, err)
				for _, f := range rep.Findings {
					if f.File != name {
						t.Errorf("%s, byte %d, clean %v: %v", name, at, clean, f)
					}
				}
			}
		}
	}
}

// TestReadsProveWhatTheDiskHolds changes files below an open log: no read returns what was not committed.
func TestReadsProveWhatTheDiskHolds(t *testing.T) {
	whole := newRuled(t)
	archive := archiveDir + "/" + segment.ArchiveName(0)
	for _, tt := range []struct {
		name  string
		bend  func(x *ruled)
		index uint64
		block bool // only what the chain says is false
		want  string
	}{
		{"an entry of the last group", func(x *ruled) { x.replace(openName, `"event 800"`, `"event 000"`) }, 800, false, "entry 800 is not the one that was committed"},
		{"the last entry", func(x *ruled) { x.replace(openName, `"event 813"`, `"event 000"`) }, 813, false, "entry 813 is not the one that was committed"},
		{"an entry of a whole group in the open segment", func(x *ruled) { x.replace(openName, `"event 600"`, `"event 000"`) }, 600, false, "entries 512 to 767 are not the ones that were committed"},
		{"an entry of an archive", func(x *ruled) { x.forgeArchive() }, 300, false, "entries 256 to 511 are not the ones that were committed"},
		{"a line that has lost its end", func(x *ruled) {
			x.replace(openName, string(x.lines[800])+"\n", string(x.lines[800])+" ")
		}, 799, false, openName},
		{"the last line has lost its end", func(x *ruled) {
			x.replace(openName, string(x.lines[813])+"\n", string(x.lines[813])+" ")
		}, 813, false, openName},
		{"the file ends early", func(x *ruled) { x.write(openName, x.read(openName)[:len(x.read(openName))-1000]) }, 813, false, "ends early"},
		{"the archive cannot be read", func(x *ruled) { x.write(archive, make([]byte, 1000)) }, 300, false, archive},
		{"the archive of other entries", func(x *ruled) { x.write(archive, x.archive(256, 512)) }, 300, false, "other entries than its place"},
		{"the archive of fewer entries", func(x *ruled) { x.write(archive, x.archive(0, 256)) }, 100, false, "other entries than its place"},
		{"the root of a sealed group", func(x *ruled) { x.flip("tree/1", 40) }, 300, false, "tree/"},
		{"the root of another group", func(x *ruled) { x.flip("tree/1", 40) }, 600, false, "tree/"},
		{"the chain at the end of the group", func(x *ruled) { x.flip("chain", 40) }, 300, true, "chain hash differs"},
		{"the chain before the group", func(x *ruled) { x.flip("chain", 8) }, 300, true, "chain hash differs"},
		{"the chain before the last group", func(x *ruled) { x.flip("chain", 72) }, 800, true, "chain hash differs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := whole.clone(t)
			l, err := Open(diskDir, x.config())
			must(t, err)
			tt.bend(x)
			ctx := context.Background()
			refused := func(what string, got any, err error) {
				t.Helper()
				if err == nil {
					t.Errorf("%s: got %v", what, got)
				} else if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v, want %q", what, err, tt.want)
				}
			}
			b, err := l.Block(ctx, tt.index)
			refused("block", b, err)
			e, err := l.Entry(ctx, tt.index)
			if !tt.block {
				refused("entry", e, err)
				for e, err = range l.Entries(ctx, Query{From: tt.index}) {
					if err != nil {
						break
					}
				}
				refused("entries", e.Index, err)
			} else if err != nil || !bytes.Equal(e.Line, x.lines[tt.index]) {
				t.Errorf("entry: %v", err)
			}
			_ = l.Close()
		})
	}
}

func (x *ruled) flip(name string, at int) {
	data := x.read(name)
	data[at] ^= 1
	x.write(name, data)
}

// archive is an archive of the entries first to before end.
func (x *ruled) archive(first, end int) []byte {
	x.t.Helper()
	var file bytes.Buffer
	var chain Hash
	if first > 0 {
		chain = x.chains[first-1]
	}
	w, err := segment.NewArchiveWriter(&file, uint64(first), chain)
	must(x.t, err)
	for at := first; at < end; at += segment.GroupSize {
		must(x.t, w.WriteGroup(append(bytes.Join(x.lines[at:at+segment.GroupSize], []byte("\n")), '\n')))
	}
	must(x.t, w.Close(uint64(end), x.chains[end-1], x.root(end)))
	return file.Bytes()
}

// forgeArchive puts a well-formed archive with another entry 300 in place of the log's.
func (x *ruled) forgeArchive() {
	y := *x
	y.lines = append([][]byte(nil), x.lines...)
	y.lines[300] = bytes.Replace(x.lines[300], []byte(`"event 300"`), []byte(`"event 000"`), 1)
	x.write(archiveDir+"/"+segment.ArchiveName(0), y.archive(0, ruledSealed))
}

// TestProofsAreOfTheSizesAskedFor checks proofs at the edges of groups, segments and the log.
func TestProofsAreOfTheSizesAskedFor(t *testing.T) {
	x := newRuled(t)
	l, err := Open(diskDir, x.config())
	must(t, err)
	defer l.Close()
	ctx := context.Background()
	sizes := []uint64{1, 2, 255, 256, 257, 300, 512, 513, 767, 768, 769, 813, ruledSize}
	for _, b := range sizes {
		root, err := l.RootAt(ctx, b)
		if err != nil || root != x.root(int(b)) {
			t.Errorf("root at %d: %v %v", b, root, err)
		}
		for _, a := range sizes {
			if a > b {
				if p, err := l.ConsistencyProof(ctx, a, b); err == nil {
					t.Errorf("consistency from %d to %d: %v", a, b, p)
				}
				continue
			}
			p, err := l.InclusionProof(ctx, a-1, b)
			if err == nil {
				err = proof.CheckInclusion(p, a-1, b, x.leaves[a-1], root)
			}
			if err != nil {
				t.Errorf("entry %d in %d: %v", a-1, b, err)
			}
			if p, err = l.ConsistencyProof(ctx, a, b); err == nil {
				err = proof.CheckConsistency(p, a, b, x.root(int(a)), root)
			}
			if err != nil {
				t.Errorf("consistency from %d to %d: %v", a, b, err)
			}
		}
	}
	p, err := l.InclusionProof(ctx, 3, 0)
	must(t, err)
	must(t, proof.CheckInclusion(p, 3, ruledSize, x.leaves[3], x.root(ruledSize)))
	p, err = l.ConsistencyProof(ctx, 300, 0)
	must(t, err)
	must(t, proof.CheckConsistency(p, 300, ruledSize, x.root(300), x.root(ruledSize)))
	for _, bad := range [][2]uint64{{300, 300}, {300, 200}, {ruledSize, 0}, {3, ruledSize + 1}} {
		if p, err := l.InclusionProof(ctx, bad[0], bad[1]); !errors.Is(err, ErrNotFound) {
			t.Errorf("entry %d in %d: %v %v", bad[0], bad[1], p, err)
		}
	}
	if p, err := l.ConsistencyProof(ctx, 3, ruledSize+1); !errors.Is(err, ErrNotFound) {
		t.Errorf("a size ahead: %v %v", p, err)
	}
	for _, size := range sizes {
		i := size - 1
		want := Block{Index: i, Data: string(x.lines[i]), Hash: x.chains[i]}
		if i > 0 {
			want.PreviousHash = x.chains[i-1]
		}
		got, err := l.Block(ctx, i)
		if want.Timestamp = got.Timestamp; err != nil || got != want {
			t.Errorf("block %d: %+v %v, want %+v", i, got, err, want)
		}
	}
	if _, err := l.Entry(ctx, ruledSize); !errors.Is(err, ErrNotFound) {
		t.Errorf("an entry ahead: %v", err)
	}
	if _, err := l.Block(ctx, ruledSize); !errors.Is(err, ErrNotFound) {
		t.Errorf("a block ahead: %v", err)
	}
}

// TestOnlySealedIndexesAreUsed bends index and seal so that one check stands against using them.
func TestOnlySealedIndexesAreUsed(t *testing.T) {
	whole := newRuled(t)
	idx, seal := indexDir+"/"+segment.IndexName(0), indexDir+"/"+segment.SealName(0)
	sealed := func(x *ruled, edit func(s *index.Seal)) {
		archive, data := x.read(archiveDir+"/"+segment.ArchiveName(0)), x.read(idx)
		s := index.Seal{Origin: x.origin, End: ruledSealed, Archive: sha256.Sum256(archive), Index: sha256.Sum256(data), ArchiveLen: int64(len(archive)), IndexLen: int64(len(data))}
		edit(&s)
		x.write(seal, x.sign(s.Text()))
	}
	of := func(x *ruled, first, end int) {
		y := index.New(uint64(first))
		for _, line := range x.lines[first:end] {
			var e entry.Line
			must(x.t, entry.Decode(line, &e))
			must(x.t, y.Add(&e))
		}
		x.write(idx, y.Append(nil))
		sealed(x, func(*index.Seal) {})
	}
	for _, tt := range []struct {
		name string
		bend func(x *ruled)
		want string
	}{
		{"as it is", func(*ruled) {}, ""},
		{"sealed again", func(x *ruled) { sealed(x, func(*index.Seal) {}) }, ""},
		{"no seal", func(x *ruled) { must(x.t, x.d.Remove(path.Join(diskDir, seal))) }, "no such file"},
		{"no index", func(x *ruled) { must(x.t, x.d.Remove(path.Join(diskDir, idx))) }, "no such file"},
		{"an altered seal", func(x *ruled) { x.replace(seal, "\n0 512\n", "\n0 256\n") }, "bad signature"},
		{"a checkpoint for the seal", func(x *ruled) { x.write(seal, x.read(checkpointName)) }, "parse seal"},
		{"a seal of another log", func(x *ruled) { sealed(x, func(s *index.Seal) { s.Origin = "example.com/other" }) }, "the seal is of"},
		{"a seal of another segment", func(x *ruled) { sealed(x, func(s *index.Seal) { s.First = 256 }) }, "the seal is of"},
		{"a seal of another index", func(x *ruled) { sealed(x, func(s *index.Seal) { s.Index[0] ^= 1 }) }, "its seal says"},
		{"a seal of a longer index", func(x *ruled) { sealed(x, func(s *index.Seal) { s.IndexLen++ }) }, "its seal says"},
		{"a seal of more entries", func(x *ruled) { sealed(x, func(s *index.Seal) { s.End = 768 }) }, "the index is of entries"},
		{"an index that is none", func(x *ruled) {
			x.write(idx, []byte("x"))
			sealed(x, func(*index.Seal) {})
		}, "index"},
		{"an index of other entries", func(x *ruled) { of(x, 256, 512) }, "the index is of entries"},
		{"an index of fewer entries", func(x *ruled) { of(x, 0, 256) }, "the index is of entries"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := whole.clone(t)
			l, err := Open(diskDir, x.config())
			must(t, err)
			defer l.Close()
			tt.bend(x)
			got, err := l.readIndex(0)
			switch {
			case tt.want == "":
				must(t, err)
			case err == nil:
				t.Errorf("used: entries %d to %d", got.First, got.End)
			case !strings.Contains(err.Error(), tt.want):
				t.Errorf("%v, want %q", err, tt.want)
			}
			if n := len(readAll(t, l, Query{Levels: []Level{Audit}})); n != 102 {
				t.Errorf("%d entries of the level, want 102", n)
			}
		})
	}
}

// TestUnsignedSealsAreWhole cuts a note of a log without keys.
func TestUnsignedSealsAreWhole(t *testing.T) {
	note := index.Seal{Origin: "o", End: 256, ArchiveLen: 1, IndexLen: 1}.Text() + "\n"
	l := &Log{id: &identity.Log{Origin: "example.com/unsigned"}}
	chain, err := proof.NewChain(l.id.Origin, nil)
	must(t, err)
	l.chain.Store(chain)
	if text, err := l.openSeal([]byte(note)); err != nil || text+"\n" != note {
		t.Errorf("%q %v", text, err)
	}
	for n := range len(note) {
		if text, err := l.openSeal([]byte(note[:n])); err == nil {
			t.Errorf("cut to %d: %q", n, text)
		}
	}
}

// TestNothingIsSignedOnDoubt gives the writer a reason to doubt, one at a time.
func TestNothingIsSignedOnDoubt(t *testing.T) {
	whole := newRuled(t)
	for _, tt := range []struct {
		name string
		bend func(x *ruled, l *Log)
		want string
	}{
		{"the head is gone", func(x *ruled, _ *Log) { must(x.t, x.d.Remove(path.Join(x.state, identity.HeadName))) }, "read the head back"},
		{"another head on the disk", func(x *ruled, _ *Log) { x.head(func(h *identity.Head) { h.Kept-- }) }, "the head changed on the disk"},
		{"a head that is ahead", func(x *ruled, l *Log) {
			x.head(func(h *identity.Head) { h.Size += 2 })
			l.publisher.head.Size += 2
		}, "has 815 entries and its head 816"},
		{"a head of other entries", func(x *ruled, l *Log) {
			x.head(func(h *identity.Head) { h.Root[0] ^= 1 })
			l.publisher.head.Root[0] ^= 1
		}, "yield root"},
		{"an entry that was signed is another", func(x *ruled, l *Log) {
			x.head(func(h *identity.Head) { h.Size, h.Root = 600, x.root(600) })
			l.publisher.head.Size, l.publisher.head.Root = 600, x.root(600)
			x.replace(openName, `"event 550"`, `"event 000"`)
		}, "read the signed entries back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := whole.clone(t)
			l, err := Open(diskDir, x.config())
			must(t, err)
			_, err = l.Append(context.Background(), event(ruledSize))
			must(t, err)
			tt.bend(x, l)
			before := x.read(checkpointName)
			if err := l.publisher.publish(true); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("published: %v, want %q", err, tt.want)
			}
			if !bytes.Equal(before, x.read(checkpointName)) {
				t.Error("something was signed")
			}
			_ = l.Close()
			if !bytes.Equal(before, x.read(checkpointName)) {
				t.Error("something was signed on close")
			}
		})
	}
}
