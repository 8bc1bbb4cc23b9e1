package fsck

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/proof"
)

// remade is b's log as small makes it, with other lines and everything recomputed and signed with b's key: what somebody who
// owns the key, the directory and the head can do.
func (b *book) remade(lines [][]byte) *book {
	n := newBook(b.t, b.origin, false)
	n.signer, n.files["log.json"], n.head = b.signer, b.files["log.json"], b.head
	n.files["checkpoints"] = append(n.note(n.checkpoint()), '\n')
	n.batch(lines[:300])
	n.publish(true)
	n.batch(lines[300:520])
	n.publish(true)
	n.rotate()
	n.seal(0, 512)
	n.batch(lines[520:])
	n.close()
	return n
}

// unsigned puts b's own notes, seals and head back: what somebody without the key can do.
func (n *book) unsigned(b *book) *book {
	n.head = b.head
	for _, name := range []string{"checkpoint", "checkpoints", "index/" + segment.SealName(0)} {
		n.files[name] = b.files[name]
	}
	return n
}

func swapped(lines [][]byte, i, k int) [][]byte {
	lines = slices.Clone(lines)
	lines[i], lines[k] = lines[k], lines[i]
	return lines
}

func edited(lines [][]byte, i int, edit func(line []byte) []byte) [][]byte {
	lines = slices.Clone(lines)
	lines[i] = edit(bytes.Clone(lines[i]))
	return lines
}

func (b *book) repatched(i int, at uint64, time int64) [][]byte {
	return edited(b.lines, i, func(line []byte) []byte {
		entry.Patch(line, at, time, 7)
		return line
	})
}

// control is b's lines with entry i replaced by a control entry.
func (b *book) controlAt(i int, log string, time int64) [][]byte {
	line, err := entry.Append(nil, &entry.Event{Level: entry.System, Message: "m", Hostname: "h", Log: []byte(log)})
	must(b.t, err)
	entry.Patch(line, uint64(i), time, 7)
	return edited(b.lines, i, func([]byte) []byte { return line })
}

func timeAt(i int) int64 { return testTime + int64(i+1)*1_000_001 }

// Each forgery recomputes everything that its author can. Exactly one kind of check stands against it: the finding named here.
func TestForgeriesAreCaughtByTheRightCheck(t *testing.T) {
	b := small(t, "example.com/log", true)
	message := func(line []byte) []byte { return bytes.Replace(line, []byte(`"m10"`), []byte(`"m99"`), 1) }
	forged := edited(b.lines, 10, message)
	tests := []struct {
		name string
		log  func() *book
		set  func(o *Options)
		file string
		what string
	}{
		{"entry edited, all recomputed, no key", func() *book { return b.remade(forged).unsigned(b) }, nil, "checkpoints", "another root than the entries"},
		{"entry edited in the open segment, no key", func() *book {
			return b.remade(edited(b.lines, 523, func(l []byte) []byte { return bytes.Replace(l, []byte(`"m523"`), []byte(`"m000"`), 1) })).unsigned(b)
		}, nil, "checkpoint", "another root than the entries"},
		{"the same with the key, against the head", func() *book { n := b.remade(forged); n.head = b.head; return n }, nil, "immutable.log", "root that this host signed"},
		{"the same with key and head, against a checkpoint", func() *book { return b.remade(forged) }, func(o *Options) { o.Checkpoints = [][]byte{b.files["checkpoint"]} }, "given checkpoint 1", "another root than this checkpoint"},
		{"the same against a receipt's leaf", func() *book { return b.remade(forged) }, func(o *Options) { o.Receipts = []Receipt{{Index: 10, Leaf: b.leaves[10]}} }, "given receipt 1", "leaf hash differs"},
		{"the same against a receipt's chain", func() *book { return b.remade(forged) }, func(o *Options) { o.Receipts = []Receipt{{Index: 200, Chain: b.chains[200], Name: "r"}} }, "r", "chain hash differs"},
		{"another key, against the pinned one", func() *book { return small(t, b.origin, true) }, func(o *Options) { o.Keys = []string{b.signer.VKey()} }, "log.json", "does not name the pinned key"},
		{"another key, against the head", func() *book { n := small(t, b.origin, true); n.head.Log = b.head.Log; return n }, nil, "log.json", "not the file that the head knows"},
		{"tree edited with the entry's archive kept", func() *book { n := b.clone(); n.files["tree/1"] = b.remade(forged).files["tree/1"]; return n }, nil, "tree/1", "is not what they give"},
		{"chain edited with the entry's archive kept", func() *book { n := b.clone(); n.files["chain"] = b.remade(forged).files["chain"]; return n }, nil, "chain", "is not what the entries give"},
		{"archive edited, seal kept", func() *book {
			n := b.clone()
			n.files["archive/"+segment.ArchiveName(0)] = b.remade(forged).files["archive/"+segment.ArchiveName(0)]
			return n
		}, nil, "archive/" + segment.ArchiveName(0), "SHA-256"},
		{"entries swapped, signed", func() *book { return b.remade(swapped(b.lines, 40, 41)) }, nil, "archive/" + segment.ArchiveName(0), "id is of another index"},
		{"entries swapped in the open segment, signed", func() *book { return b.remade(swapped(b.lines, 521, 522)) }, nil, "immutable.log", "id is of another index"},
		{"an entry's id of another index, signed", func() *book { return b.remade(b.repatched(5, 6, timeAt(5))) }, nil, "archive/" + segment.ArchiveName(0), "id is of another index"},
		{"time goes back inside a group, signed", func() *book { return b.remade(b.repatched(100, 100, timeAt(98))) }, nil, "archive/" + segment.ArchiveName(0), "timestamp is lower"},
		{"time goes back between groups, signed", func() *book { return b.remade(b.repatched(256, 256, timeAt(254))) }, nil, "archive/" + segment.ArchiveName(0), "timestamp is lower"},
		{"time goes back between segments, signed", func() *book { return b.remade(b.repatched(512, 512, timeAt(510))) }, nil, "immutable.log", "timestamp is lower"},
		{"time goes back between batches, signed", func() *book { return b.remade(b.repatched(520, 520, timeAt(518))) }, nil, "immutable.log", "timestamp is lower"},
		{"an entry in another spelling, signed", func() *book {
			return b.remade(edited(b.lines, 300, func(l []byte) []byte { return bytes.Replace(l, []byte(`"m300"`), []byte(`"\u006d300"`), 1) }))
		}, nil, "archive/" + segment.ArchiveName(0), "does not follow the format"},
		{"a clock entry with a false past, signed", func() *book {
			return b.remade(b.controlAt(60, `{"type":"clock","was":"`+timeText(timeAt(50))+`","now":"`+timeText(timeAt(60))+`"}`, timeAt(60)))
		}, nil, "archive/" + segment.ArchiveName(0), "clock entry is wrong: was"},
		{"a clock entry with other members, signed", func() *book {
			return b.remade(b.controlAt(60, `{"type":"clock","now":"`+timeText(timeAt(60))+`"}`, timeAt(60)))
		}, nil, "archive/" + segment.ArchiveName(0), "other members"},
		{"a recovery entry whose evidence is gone, signed", func() *book {
			return b.remade(b.controlAt(521, `{"type":"recovery","head":0,"size":521,"file":"quarantine/5-`+strings.Repeat("ab", 32)+`","sha256":"`+strings.Repeat("ab", 32)+`","bytes":3}`, timeAt(521)))
		}, nil, "quarantine/5-" + strings.Repeat("ab", 32), "is missing"},
		{"idx false, sealed anew", func() *book {
			n := b.clone()
			idx := bytes.Clone(n.files["index/"+segment.IndexName(0)])
			idx[50]--
			n.files["index/"+segment.IndexName(0)] = idx
			n.reseal(0, 512)
			return n
		}, func(o *Options) { o.Indexes = true }, "index/" + segment.IndexName(0), "is not what the entries give"},
		{"the seal of a shorter segment", func() *book { n := b.clone(); n.reseal(0, 256); return n }, nil, "index/" + segment.SealName(0), "of another segment"},
		{"an archive with its last group gone, sealed anew", func() *book { n := b.clone(); n.archive(0, 256); n.reseal(0, 256); return n }, nil, "immutable.log", "are missing"},
		{"a closing commit line with another root", func() *book {
			n := b.clone()
			n.leaves[0] = proof.Hash{}
			n.archive(0, 512)
			n.reseal(0, 512)
			return n
		}, nil, "archive/" + segment.ArchiveName(0), "root in the closing commit line"},
		{"a closing commit line with another chain", func() *book {
			n := b.clone()
			n.chains[511] = proof.Hash{}
			n.archive(0, 512)
			n.reseal(0, 512)
			return n
		}, nil, "archive/" + segment.ArchiveName(0), "chain hash in the closing commit line"},
		{"a segment line with another chain", func() *book {
			n := b.clone()
			n.files["immutable.log"] = append(segment.AppendHeader(nil, 512, proof.Hash{9}), n.files["immutable.log"][len(segment.AppendHeader(nil, 512, proof.Hash{})):]...)
			return n
		}, nil, "immutable.log", "chain hash in the segment line"},
		{"the last commit line dropped", func() *book {
			n := b.clone()
			n.files["immutable.log"] = n.files["immutable.log"][:bytes.LastIndex(n.files["immutable.log"], []byte(`{"commit":`))]
			return n
		}, nil, "immutable.log", "entries below 525 were durable"},
		{"a commit line between two batches dropped", func() *book {
			n := newBook(t, b.origin, true)
			n.add(2)
			n.add(2)
			n.close()
			open := n.files["immutable.log"]
			i := bytes.Index(open, []byte(`{"commit":`))
			n.files["immutable.log"] = append(bytes.Clone(open[:i]), open[i+bytes.IndexByte(open[i:], '\n')+1:]...)
			return n
		}, nil, "immutable.log", "differs from its recomputation"},
		{"a batch after a clean close", func() *book { n := b.clone(); n.add(1); return n }, nil, "immutable.log", "does not end where the head says"},
		{"a note dropped from the history", func() *book {
			n := b.clone()
			h := n.files["checkpoints"]
			i := bytes.Index(h, []byte("\n\n"+b.origin)) + 2
			n.files["checkpoints"] = append(slices.Clone(h[:i]), h[i+bytes.Index(h[i:], []byte("\n\n"+b.origin))+2:]...)
			return n
		}, nil, "checkpoints", "shorter than the head says"},
		{"a note twice in the history", func() *book {
			n := b.clone()
			n.files["checkpoints"] = append(append(slices.Clone(n.files["checkpoints"]), n.files["checkpoint"]...), '\n')
			n.head.Kept = int64(len(n.files["checkpoints"]))
			return n
		}, nil, "checkpoints", "sizes do not increase"},
		{"no checkpoint of size 0", func() *book {
			n := b.clone()
			n.files["checkpoints"] = append(slices.Clone(n.files["checkpoint"]), '\n')
			n.head.Kept = int64(len(n.files["checkpoints"]))
			return n
		}, nil, "checkpoints", "first note is not of size 0"},
		{"no checkpoint kept after a seal", func() *book {
			n := b.clone()
			n.files["checkpoints"] = n.files["checkpoints"][:bytes.Index(n.files["checkpoints"], []byte("\n\n"+b.origin))+2]
			n.head.Clean, n.head.Kept = false, 0
			return n
		}, nil, "checkpoints", "no checkpoint is kept at or after"},
		{"a pending file with another remainder", func() *book {
			n := newBook(t, b.origin, true)
			n.add(260)
			n.rotate()
			n.close()
			f := newBook(t, b.origin, true)
			f.batch(edited(n.lines, 258, func(l []byte) []byte { return bytes.Replace(l, []byte(`"m258"`), []byte(`"m000"`), 1) }))
			n.files["pending/"+segment.PendingName(0)] = f.files["immutable.log"]
			return n
		}, nil, "pending/" + segment.PendingName(0), "not the ones that the log holds"},
		{"a head of another log", func() *book { n := b.clone(); n.head.VKey = ""; return n }, nil, "log.json", "first key is not the one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := tt.log()
			o := n.options()
			if tt.set != nil {
				tt.set(&o)
			}
			r := verify(t, o)
			want(t, r, Refuted)
			for _, f := range r.Findings {
				if f.File == tt.file && strings.Contains(f.What, tt.what) {
					return
				}
			}
			t.Errorf("no finding %q in %s: %v", tt.what, tt.file, r.Findings)
		})
	}
}

func TestControlEntriesAreListed(t *testing.T) {
	b := small(t, "example.com/log", true)
	back := testTime
	n := b.remade(b.controlAt(524, `{"type":"clock","was":"`+timeText(timeAt(523))+`","now":"`+timeText(back)+`"}`, back))
	r := verify(t, n.options())
	want(t, r, Proven)
	if len(r.Controls) != 1 || r.Controls[0].Index != 524 || r.Controls[0].Type != "clock" {
		t.Errorf("controls %v", r.Controls)
	}
	evidence := []byte("abc")
	sum := sha256.Sum256(evidence)
	hex := proof.Hash(sum).String()
	n = b.remade(b.controlAt(524, `{"type":"recovery","head":520,"size":524,"file":"quarantine/5-`+hex+`","sha256":"`+hex+`","bytes":3}`, timeAt(524)))
	n.files["quarantine/5-"+hex] = evidence
	want(t, verify(t, n.options()), Proven)
	n.files["quarantine/5-"+hex] = []byte("abd")
	want(t, verify(t, n.options()), Refuted)
	n = b.remade(b.controlAt(524, `{"type":"new","x":1}`, timeAt(524)))
	r = verify(t, n.options())
	want(t, r, Proven)
	if len(r.Notes) != 1 {
		t.Errorf("notes %v", r.Notes)
	}
}

func TestProofsFromOutside(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(2)
	b.close()
	p := proof.InclusionProof{Index: 1, Hashes: []proof.Hash{b.leaves[0]}, Checkpoint: b.files["checkpoint"]}
	good, err := p.MarshalText()
	must(t, err)
	p.Index, p.Hashes = 0, []proof.Hash{b.leaves[0]}
	bad, err := p.MarshalText()
	must(t, err)
	b.noHead = true
	for _, tt := range []struct {
		data []byte
		want Verdict
	}{{good, Proven}, {bad, Refuted}, {[]byte("x"), Unknown}} {
		o := b.options()
		o.Proofs = [][]byte{tt.data}
		want(t, verify(t, o), tt.want)
	}
	o := b.options()
	o.Checkpoints = [][]byte{[]byte("nothing")}
	want(t, verify(t, o), Unknown)
	o.Checkpoints = [][]byte{small(t, "example.com/other", true).files["checkpoint"]}
	want(t, verify(t, o), Refuted)
}

// What a crash may leave is a note when the head is not clean, unknown when there is none, refuted when it is clean.
func TestLeftoversOfACrash(t *testing.T) {
	whole := func() *book {
		b := newBook(t, "example.com/log", true)
		b.add(600)
		b.publish(true)
		b.add(3)
		return b
	}
	for _, tt := range []struct {
		name string
		bend func(b *book)
	}{
		{"incomplete batch", func(b *book) { b.files["immutable.log"] = append(b.files["immutable.log"], `{"id":"0`...) }},
		{"batch without its commit line", func(b *book) {
			b.files["immutable.log"] = append(append(b.files["immutable.log"], b.lines[0]...), '\n')
		}},
		{"zeros", func(b *book) { b.files["immutable.log"] = append(b.files["immutable.log"], make([]byte, 4096)...) }},
		{"older checkpoint", func(b *book) { b.files["checkpoint"] = b.files["checkpoints"][:b.lastNote()-1] }},
		{"torn note", func(b *book) { b.files["checkpoints"] = append(b.files["checkpoints"], "example.com/log\n60"...) }},
		{"torn hash", func(b *book) { b.files["tree/1"] = append(b.files["tree/1"], 1, 2, 3) }},
		{"hash of entries that were lost", func(b *book) { b.files["chain"] = append(b.files["chain"], make([]byte, 32)...) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := whole()
			tt.bend(b)
			r := verify(t, b.options())
			want(t, r, Proven)
			if len(r.Notes) == 0 {
				t.Error("no note")
			}
			b.noHead = true
			want(t, verify(t, b.options()), Unknown)
			b.noHead = false
			b.head.Clean = true
			want(t, verify(t, b.options()), Refuted)
		})
	}
	b := whole()
	b.files["immutable.log"] = append(b.files["immutable.log"], make([]byte, segment.MaxBatchBytes+1)...)
	want(t, verify(t, b.options()), Refuted)
	b = whole()
	b.files["immutable.log"] = append(b.files["immutable.log"], "{\"commit\":0}\nx"...)
	want(t, verify(t, b.options()), Refuted)
	b = whole()
	b.head.Size = 603
	b.head.Root = b.f.Root()
	b.files["immutable.log"] = b.files["immutable.log"][:len(b.files["immutable.log"])-1]
	want(t, verify(t, b.options()), Refuted)
}

func TestCopyOfADirectoryIsNoted(t *testing.T) {
	b := small(t, "example.com/log", true)
	o := b.options()
	d := b.disk()
	h := b.head
	h.Inode = 1 << 40
	must(t, d.WriteFileRaw(b.headName(), h.Append(nil)))
	o.FS = d
	r := verify(t, o)
	want(t, r, Proven)
	if len(r.Notes) != 1 || r.Notes[0].File != identity.LogName {
		t.Errorf("notes %v", r.Notes)
	}
}

// A damaged group is named, and what follows it is still checked, with the hash arrays standing in.
func TestDamageIsLocatedAndTheRestIsChecked(t *testing.T) {
	b := small(t, "example.com/log", true)
	name := "archive/" + segment.ArchiveName(0)
	a, err := segment.OpenArchive(bytes.NewReader(b.files[name]), int64(len(b.files[name])))
	must(t, err)
	bad := bytes.Clone(b.files[name])
	bad[a.Offset(0)+20] ^= 1
	b.files[name] = bad
	r := verify(t, b.options())
	want(t, r, Refuted)
	if r.Size != 525 || r.Root != b.f.Root() || r.Entries != 525-256 {
		t.Errorf("size %d, %d entries read", r.Size, r.Entries)
	}
	if len(r.Findings) != 2 || r.Findings[0].Index != 0 || !strings.Contains(r.Findings[0].Hint, "entries 0 to 255") {
		t.Errorf("findings %v", r.Findings)
	}
	delete(b.files, name)
	r = verify(t, b.options())
	want(t, r, Refuted)
	if r.Size != 525 || r.Root != b.f.Root() {
		t.Errorf("size %d", r.Size)
	}
}
