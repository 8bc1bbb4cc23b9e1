package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// epochKeys are the private keys of an epoch.
type epochKeys struct {
	number uint64
	ed, ml *proof.PrivateKey
}

// makeKey makes the same key for the same words.
func makeKey(t testing.TB, typ byte, name, words string) *proof.PrivateKey {
	t.Helper()
	k, err := proof.NewKey(typ, name, sha256.Sum256([]byte(words)))
	must(t, err)
	return k
}

func makeEpoch(t testing.TB, origin string, number uint64) *epochKeys {
	words := fmt.Sprintf("%s epoch %d", origin, number)
	return &epochKeys{number, makeKey(t, proof.TypeEd25519, origin, words+" ed"), makeKey(t, proof.TypeMLDSA44, origin, words+" ml")}
}

func (k *epochKeys) record() []byte {
	return proof.EpochRecord(k.number, [2]string{k.ed.Key().String(), k.ml.Key().String()})
}

// newHybrid is a log with the keys of an epoch.
func newHybrid(t testing.TB, origin string) *book {
	t.Helper()
	b := newBook(t, origin, true)
	b.keys = makeEpoch(t, origin, 0)
	log := identity.Log{Origin: origin, Created: testTime, VKeys: []string{b.signer.VKey(), b.keys.ed.Key().String(), b.keys.ml.Key().String()}}
	b.files["log.json"] = log.Append(nil)
	b.head.Log = sha256.Sum256(b.files["log.json"])
	b.files["checkpoint"] = b.note(b.checkpoint())
	b.files["checkpoints"] = append(b.note(b.checkpoint()), '\n')
	b.head.Kept = int64(len(b.files["checkpoints"]))
	return b
}

// signed is the note of a text, signed with the log key and those of an epoch; of a seal, with its Ed25519 key alone.
func (b *book) signed(text string, keys *epochKeys) []byte {
	if strings.HasPrefix(text, "immutable/") {
		return b.signedBy(text, keys.ed)
	}
	note, err := b.signer.Sign(text)
	must(b.t, err)
	return append(note, b.signedBy(text, keys.ed, keys.ml)[len(text)+1:]...)
}

func (b *book) signedBy(text string, keys ...*proof.PrivateKey) []byte {
	note := []byte(text + "\n")
	for _, k := range keys {
		line, err := k.SignatureLine(text, uint64(b.time)/1e9)
		must(b.t, err)
		note = append(note, line...)
	}
	return note
}

// begin appends the entry of the next epoch.
func (b *book) begin() { b.beginWith(b.nextKeys()) }

func (b *book) nextKeys() *epochKeys {
	if b.keys == nil {
		return makeEpoch(b.t, b.origin, 1)
	}
	return makeEpoch(b.t, b.origin, b.keys.number+1)
}

func (b *book) beginWith(keys *epochKeys) {
	b.next, b.at = keys, b.size()
	b.batch([][]byte{b.line(b.size(), entry.Event{Level: entry.System, Message: "keys", Log: keys.record()})})
}

// rotateKeys begins an epoch and closes the one before.
func (b *book) rotateKeys() {
	b.begin()
	b.publish(true)
}

// link adds the line of the next epoch to the file epochs. note is the closing checkpoint.
func (b *book) link(note []byte) {
	p := proof.InclusionProof{Index: b.at, Hashes: inclusion(b.at, b.leaves), Checkpoint: note}
	text, err := p.MarshalText()
	must(b.t, err)
	b.files["epochs"] = proof.EpochLink{Number: b.next.number, Entry: b.lines[b.at], Proof: text}.Append(slices.Clone(b.files["epochs"]))
}

// inclusion is PATH of RFC 6962, section 2.1.1, as it is written there.
func inclusion(m uint64, d []proof.Hash) []proof.Hash {
	n := uint64(len(d))
	if n == 1 {
		return nil
	}
	k := uint64(1) << (bits.Len64(n-1) - 1)
	if m < k {
		return append(inclusion(m, d[:k]), proof.Root(d[k:]))
	}
	return append(inclusion(m-k, d[k:]), proof.Root(d[:k]))
}

// several is a log with three epochs, sealed segments whose seals are of different epochs, and an open one. It is closed.
func several(t testing.TB, origin string) *book {
	b := newHybrid(t, origin)
	b.add(300)
	b.publish(true)
	b.rotateKeys() // at 300, closed at 301
	b.add(220)
	b.publish(true)
	b.rotate()
	b.add(3)
	b.begin() // at 524, closed at 531
	b.add(6)
	b.publish(true)
	b.seal(0, 512) // with the keys of epoch 2
	b.add(300)
	b.publish(true)
	b.rotate()
	b.seal(512, 768)
	b.add(5)
	b.close()
	return b
}

func (b *book) vkeys() []string {
	return []string{b.keys.ed.Key().String(), b.keys.ml.Key().String()}
}

func TestLogWithEpochsIsProven(t *testing.T) {
	b := several(t, "example.com/log")
	o := b.options()
	o.Indexes = true
	r := verify(t, o)
	want(t, r, Proven)
	if len(r.Notes) != 0 || r.Checkpoints != 7 || r.Size != b.size() || len(r.Controls) != 2 {
		t.Errorf("notes %v, %d checkpoints, size %d", r.Notes, r.Checkpoints, r.Size)
	}
	type line struct {
		number uint64
		entry  int64
		after  uint64
		notes  uint64
	}
	var got []line
	for _, e := range r.Epochs {
		got = append(got, line{e.Number, e.Entry, e.After, e.Notes})
	}
	if want := []line{{0, -1, 0, 3}, {1, 300, 301, 2}, {2, 524, 531, 2}}; !slices.Equal(got, want) {
		t.Errorf("epochs %v, want %v", got, want)
	}
	if last := r.Epochs[2]; !slices.Equal(last.VKeys, b.vkeys()) {
		t.Errorf("keys %v", last.VKeys)
	}
}

// An older log, whose one key is the log key, goes on with epochs.
func TestLogWithOneKeyMayBeginEpochs(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(3)
	b.rotateKeys()
	b.add(3)
	b.close()
	r := verify(t, b.options())
	want(t, r, Proven)
	if len(r.Epochs) != 2 || len(r.Epochs[0].VKeys) != 1 || r.Epochs[1].After != 4 {
		t.Errorf("epochs %+v", r.Epochs)
	}
	b.noHead = true
	o := b.options()
	o.Keys = []string{b.signer.VKey()}
	r = verify(t, o)
	want(t, r, Proven)
	if r.Covered != b.size() {
		t.Errorf("covered %d", r.Covered)
	}
}

// The path is what a naive implementation of the RFC gives, for each entry in trees of many sizes, leaf by leaf and by groups.
func TestTrailIsTheInclusionProof(t *testing.T) {
	const most = 1100
	leaves := make([]proof.Hash, most)
	for i := range leaves {
		leaves[i] = proof.Hash{byte(i), byte(i >> 8), 1}
	}
	for _, m := range []uint64{0, 1, 2, 3, 5, 127, 128, 254, 255, 256, 257, 511, 512, 700, 767, 1000} {
		var f tree.Frontier
		for _, leaf := range leaves[:m] {
			f.Append(leaf)
		}
		p := &trail{index: m, left: f}
		for at := m; at < most; {
			if at%groupSize == 0 && at > m && at+groupSize <= most {
				p.add(proof.Root(leaves[at:at+groupSize]), groupLevel)
				at += groupSize
			} else {
				p.add(leaves[at], 0)
				at++
			}
			if got, want := p.proof(), inclusion(m, leaves[:at]); !slices.Equal(got, want) {
				t.Fatalf("entry %d in %d: %d hashes, want %d", m, at, len(got), len(want))
			}
		}
	}
}

// Where an epoch entry and its closing checkpoint stand among batches, groups and segments makes no difference.
func TestEpochsAtEveryPlace(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1, 255, 256, 257, 511, 512, 600} {
		for _, more := range []int{0, 1, 255, 256, 300} {
			if raceEnabled && (first+more)%4 != 0 {
				continue
			}
			b := newHybrid(t, "example.com/log")
			if first > 0 {
				b.add(first)
			}
			b.begin()
			if more > 0 {
				b.add(more)
			}
			b.publish(true)
			b.add(700)
			b.publish(true)
			end := b.size() / groupSize * groupSize
			raw := b.clone()
			raw.close()
			want(t, verify(t, raw.options()), Proven)
			b.rotate()
			b.seal(0, end)
			b.add(1)
			b.close()
			r := verify(t, b.options())
			want(t, r, Proven)
			if len(r.Epochs) != 2 || r.Epochs[1].After != uint64(first+1+more) {
				t.Errorf("%d, %d: epochs %v", first, more, r.Epochs)
			}
			if t.Failed() {
				return
			}
		}
	}
}

// Each byte of the file epochs is compared, and so is every byte of each note.
func TestEveryByteOfEpochsIsClaimed(t *testing.T) {
	t.Parallel()
	b := several(t, "example.com/log")
	d := b.disk()
	o := b.options()
	o.FS = d
	for _, name := range []string{"epochs", "checkpoints", "checkpoint", "index/" + segment.SealName(0)} {
		good := b.files[name]
		for i := 0; i < len(good); i += 1 + len(good)/400*step(name) {
			bad := slices.Clone(good)
			bad[i] ^= 1 << (i % 8)
			must(t, d.WriteFileRaw(testDir+"/"+name, bad))
			if r := verify(t, o); r.Verdict != Refuted {
				t.Errorf("%s byte %d: %s", name, i, r.Verdict)
			}
		}
		must(t, d.WriteFileRaw(testDir+"/"+name, good))
	}
	want(t, verify(t, o), Proven)
}

// replaced is b with the note of a size in the history, and as checkpoint, made anew.
func (b *book) replaceNote(size uint64, make func(text string) []byte) {
	notes, err := proof.SplitNotes(b.files["checkpoints"])
	must(b.t, err)
	var out []byte
	for _, n := range notes {
		text, _, _ := bytes.Cut(n, []byte("\n\n"))
		at, err := proof.ParseCheckpoint(string(text) + "\n")
		must(b.t, err)
		if at.Size == size {
			made := make(at.Text())
			if bytes.Equal(b.files["checkpoint"], n) {
				b.files["checkpoint"] = made
			}
			n = made
		}
		if n != nil {
			out = append(append(out, n...), '\n')
		}
	}
	b.files["checkpoints"] = out
	b.head.Kept = min(b.head.Kept, int64(len(out)))
	if b.head.Clean {
		b.head.Kept = int64(len(out))
	}
}

func TestRulesOfEpochs(t *testing.T) {
	const origin = "example.com/log"
	b := several(t, origin)
	end := b.size()
	zero, one, two := makeEpoch(t, origin, 0), makeEpoch(t, origin, 1), makeEpoch(t, origin, 2)
	three := makeEpoch(t, origin, 3)
	resign := func(size uint64, keys *epochKeys) func(n *book) {
		return func(n *book) { n.replaceNote(size, func(text string) []byte { return n.signed(text, keys) }) }
	}
	strip := func(size uint64, keep ...int) func(n *book) {
		return func(n *book) {
			n.replaceNote(size, func(text string) []byte {
				lines := bytes.SplitAfter(n.signed(text, two), []byte("\n"))[4:]
				out := []byte(text + "\n")
				for _, i := range keep {
					out = append(out, lines[i]...)
				}
				return out
			})
		}
	}
	checkRules(t, b.clone, []rule{
		{"the ML-DSA signature is stripped", strip(end, 0, 1), "checkpoint", "no signature by epoch 2's ML-DSA-44 key"},
		{"the ML-DSA signature of a kept note is stripped", strip(end, 0, 1), "checkpoints", "no signature by epoch 2's ML-DSA-44 key"},
		{"the Ed25519 signature is stripped", strip(end, 0, 2), "checkpoints", "no signature by epoch 2's Ed25519 key"},
		{"the log key's signature is stripped", strip(end, 1, 2), "checkpoints", "no signature by the log key"},
		{"the log key alone", strip(end, 0), "checkpoints", "no signature by epoch 2's Ed25519 key"},
		{"an older epoch's keys sign a later size", resign(end, one), "checkpoints", foreign},
		{"an older epoch's keys sign a later size, as checkpoint", resign(end, zero), "checkpoint", foreign},
		{"a later epoch's keys sign an older size", resign(300, one), "checkpoints", "no signature by epoch 0's Ed25519 key"},
		{"a later epoch's keys sign the closing checkpoint", resign(531, two), "checkpoints", "no signature by epoch 1's Ed25519 key"},
		{"keys of no epoch", resign(end, three), "checkpoints", "no signature by epoch 2's Ed25519 key"},
		{"an older epoch's keys sign too", func(n *book) {
			n.replaceNote(end, func(text string) []byte {
				return append(n.signed(text, two), n.signedBy(text, one.ed)[len(text)+1:]...)
			})
		}, "checkpoints", foreign},
		{"a later epoch's keys sign too", func(n *book) {
			n.replaceNote(521, func(text string) []byte {
				return append(n.signed(text, one), n.signedBy(text, two.ml)[len(text)+1:]...)
			})
		}, "checkpoints", foreign},
		{"the closing checkpoint is not kept, and the next is the new epoch's", func(n *book) {
			n.replaceNote(531, func(string) []byte { return nil })
		}, "checkpoints", "no signature by epoch 1's Ed25519 key"},
		{"a seal by the log key", func(n *book) {
			n.keys = nil
			n.reseal(0, 512)
		}, "index/" + segment.SealName(0), "no signature by the Ed25519 key of any epoch"},
		{"a seal by keys of no epoch", func(n *book) {
			n.keys = three
			n.reseal(0, 512)
		}, "index/" + segment.SealName(0), "no signature by the Ed25519 key of any epoch"},
		{"the chain of keys has another line", func(n *book) {
			n.files["epochs"] = bytes.Replace(n.files["epochs"], []byte(`{"epoch":2,`), []byte(`{"epoch":3,`), 1)
		}, "epochs", "the line of epoch 2 is not what"},
		{"the chain of keys is longer", func(n *book) { n.files["epochs"] = append(slices.Clone(n.files["epochs"]), '\n') }, "epochs", "holds more than"},
		{"the chain of keys lacks its last line", func(n *book) {
			n.files["epochs"] = n.files["epochs"][:bytes.IndexByte(n.files["epochs"], '\n')+1]
		}, "epochs", "does not hold the line of the newest epoch"},
		{"there is no chain of keys", func(n *book) { delete(n.files, "epochs"); n.head.Clean = false }, "epochs", "does not hold the lines of the newest 2 epochs"},
		{"a directory in its place", func(n *book) {
			n.files["epochs/x"] = nil
			delete(n.files, "epochs")
		}, "epochs", "is not a regular file"},
	}, nil)
	// A good log in other respects, whose epoch entries are not what they must be.
	start := func() *book {
		n := newHybrid(t, origin)
		n.add(3)
		n.publish(true)
		return n
	}
	other := makeEpoch(t, "example.com/other", 1)
	checkRules(t, start, []rule{
		{"epoch 2 follows epoch 0", func(n *book) { n.beginWith(makeEpoch(t, origin, 2)); n.close() }, "immutable.log", "the epochs are not in order"},
		{"epoch 0 again", func(n *book) { n.beginWith(makeEpoch(t, origin, 0)); n.next = nil; n.close() }, "immutable.log", "epoch entry is wrong"},
		{"epoch 1 twice", func(n *book) { n.rotateKeys(); n.beginWith(makeEpoch(t, origin, 1)); n.next = nil; n.close() }, "immutable.log", "the epochs are not in order"},
		{"no checkpoint between two epochs", func(n *book) { n.begin(); n.beginWith(makeEpoch(t, origin, 2)); n.close() }, "immutable.log", "no checkpoint that is kept comes between"},
		{"keys of another log", func(n *book) { n.beginWith(&epochKeys{1, other.ed, other.ml}); n.next = nil; n.close() }, "immutable.log", "epoch"},
		{"the keys of epoch 0 again", func(n *book) { n.beginWith(&epochKeys{1, zero.ed, zero.ml}); n.next = nil; n.close() }, "immutable.log", "keys of one log have different ids"},
		{"one key of epoch 0 again", func(n *book) { n.beginWith(&epochKeys{1, one.ed, zero.ml}); n.next = nil; n.close() }, "immutable.log", "keys of one log have different ids"},
		{"the closing checkpoint is published and not kept", func(n *book) {
			n.begin()
			n.publish(false)
		}, "immutable.log", "no closing checkpoint of epoch 0 is kept"},
	}, nil)
	unsigned := newBook(t, origin, false)
	unsigned.beginWith(one)
	unsigned.next = nil
	unsigned.close()
	refuted(t, unsigned.options(), "immutable.log", "an epoch entry in a log without keys")
	// The log key as a key of an epoch.
	n := start()
	logKey := makeKey(t, proof.TypeEd25519, origin, "log")
	log := identity.Log{Origin: origin, Created: testTime, VKeys: []string{logKey.Key().String(), zero.ed.Key().String(), zero.ml.Key().String()}}
	n.files["log.json"], n.noHead = log.Append(nil), true
	n.beginWith(&epochKeys{1, logKey, one.ml})
	refuted(t, n.options(), "immutable.log", "is that of the log key")
}

// What a crash may leave of a change of keys is a note when the head is not clean, unknown without one, refuted when it is clean.
func TestLeftoversOfAKeyRotation(t *testing.T) {
	for _, tt := range []struct {
		name string
		bend func(b *book)
	}{
		{"the epoch entry only", func(b *book) { b.begin() }},
		{"no chain of keys yet", func(b *book) { b.rotateKeys(); delete(b.files, "epochs") }},
		{"no line of the newest epoch", func(b *book) {
			b.rotateKeys()
			old := b.files["epochs"]
			b.rotateKeys()
			b.files["epochs"] = old
		}},
		{"a beginning of it", func(b *book) {
			b.rotateKeys()
			old := b.files["epochs"]
			b.rotateKeys()
			b.files["epochs"] = b.files["epochs"][:len(old)+40]
		}},
		{"the closing checkpoint torn", func(b *book) {
			latest := b.files["checkpoint"]
			b.rotateKeys()
			delete(b.files, "epochs")
			b.files["checkpoint"] = latest
			b.files["checkpoints"] = b.files["checkpoints"][:len(b.files["checkpoints"])-200]
		}},
		{"the closing checkpoint without a signature", func(b *book) {
			latest := b.files["checkpoint"]
			b.rotateKeys()
			delete(b.files, "epochs")
			b.files["checkpoint"] = latest
			b.replaceNote(b.size(), func(text string) []byte { note, _ := b.signer.Sign(text); return note })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newHybrid(t, "example.com/log")
			b.t = t
			b.add(600)
			b.publish(true)
			tt.bend(b)
			r := verify(t, b.options())
			want(t, r, Proven)
			if len(r.Notes) == 0 || len(r.Notes) > 2 { // not what follows from it too
				t.Errorf("notes %v", r.Notes)
			}
			b.noHead = true
			want(t, verify(t, b.options()), Unknown)
			b.noHead = false
			b.head.Clean = true
			want(t, verify(t, b.options()), Refuted)
		})
	}
}

// A note behind the end of the log that its epoch's keys did not sign is no note: the end of the history may be torn there.
func TestUnsignedNoteBehindTheEndMayBeTorn(t *testing.T) {
	for _, signed := range []bool{false, true} {
		b := newHybrid(t, "example.com/log")
		b.noHead = true
		b.add(3)
		b.publish(true)
		text := proof.Checkpoint{Origin: b.origin, Size: 5, Root: proof.Hash{1}}.Text()
		note, err := b.signer.Sign(text)
		must(t, err)
		if signed {
			note = b.note(text)
		}
		b.files["checkpoints"] = append(append(slices.Clone(b.files["checkpoints"]), note...), '\n')
		if signed {
			refuted(t, b.options(), "checkpoints", "shorter than its checkpoint")
			continue
		}
		want(t, verify(t, b.options()), Unknown)
	}
}

// A pinned key stands for its epoch and, by the chain of keys, for all that follow.
func TestPinnedKeysOfEpochs(t *testing.T) {
	const origin = "example.com/log"
	b := several(t, origin)
	b.noHead = true
	pinned := func(b *book, keys ...string) *Report {
		o := b.options()
		o.Keys = keys
		return verify(t, o)
	}
	for number := range uint64(3) {
		e := makeEpoch(t, origin, number)
		for _, k := range []*proof.PrivateKey{e.ed, e.ml} {
			r := pinned(b, k.Key().String())
			want(t, r, Proven)
			if r.Covered != b.size() || len(r.Basis) != 1 || r.Basis[0].Kind != "key" {
				t.Errorf("epoch %d: covered %d, basis %v", number, r.Covered, r.Basis)
			}
		}
	}
	r := pinned(b, b.signer.VKey())
	want(t, r, Consistent)
	if len(r.Basis) != 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, "alone proves nothing") {
		t.Errorf("basis %v, notes %v", r.Basis, r.Notes)
	}
	e := makeEpoch(t, origin, 3)
	for _, k := range []*proof.PrivateKey{e.ed, e.ml, makeKey(t, proof.TypeEd25519, "example.com/other", "x")} {
		o := b.options()
		o.Keys = []string{k.Key().String()}
		refuted(t, o, "log.json", "does not name the pinned key")
	}
	witness := makeKey(t, proof.TypeCosignature, "w", "w")
	want(t, pinned(b, witness.Key().String()), Unknown)
	// The newest keys have signed nothing yet: what they stand for is nothing.
	n := b.clone()
	n.rotateKeys()
	r = pinned(n, makeEpoch(t, origin, 3).ed.Key().String())
	want(t, r, Consistent)
	if len(r.Basis) != 0 {
		t.Errorf("basis %v", r.Basis)
	}
	// A directory cut back to before the epoch of the pinned key.
	old := newHybrid(t, origin)
	old.add(3)
	old.close()
	old.noHead = true
	o := old.options()
	o.Keys = []string{makeEpoch(t, origin, 1).ed.Key().String()}
	refuted(t, o, "log.json", "does not name the pinned key")
}

// A pinned key that did not sign is no basis, and leads to no later epoch, even where its signature is not required.
func TestPinnedKeyThatDidNotSign(t *testing.T) {
	const origin = "example.com/log"
	zero, one := makeEpoch(t, origin, 0), makeEpoch(t, origin, 1)
	edOnly := func(b *book, keys *epochKeys, sizes ...uint64) {
		for _, size := range sizes {
			b.replaceNote(size, func(text string) []byte {
				note, err := b.signer.Sign(text)
				must(t, err)
				return append(note, b.signedBy(text, keys.ed)[len(text)+1:]...)
			})
		}
	}
	b := newHybrid(t, origin)
	b.noHead = true
	b.add(3)
	b.publish(true)
	b.rotateKeys() // closed at 4
	b.add(3)
	b.publish(true)
	delete(b.files, "epochs")
	pinned := func(b *book, k *proof.PrivateKey) *Report {
		o := b.options()
		o.Keys, o.Require = []string{k.Key().String()}, proof.RequireEd25519
		return verify(t, o)
	}
	// Only the closing checkpoint counts: without it the pinned key covers what it signed, and no more.
	for _, tt := range []struct {
		strip   []uint64
		covered uint64
	}{{nil, 7}, {[]uint64{0, 3}, 7}, {[]uint64{4}, 3}, {[]uint64{0, 3, 4}, 0}} {
		n := b.clone()
		edOnly(n, zero, tt.strip...)
		if r := pinned(n, zero.ml); r.Covered != tt.covered {
			t.Errorf("without the signatures of %d: covered %d, want %d; %v", tt.strip, r.Covered, tt.covered, r.Findings)
		}
		if r := pinned(n, zero.ed); r.Covered != 7 {
			t.Errorf("covered %d by the key that signed all", r.Covered)
		}
	}
	n := b.clone()
	edOnly(n, one, 7)
	if r := pinned(n, one.ml); len(r.Basis) != 0 {
		t.Errorf("basis %v", r.Basis)
	}
	if r := pinned(n, one.ed); r.Covered != 7 {
		t.Errorf("covered %d", r.Covered)
	}
}

// Key ids that no epoch has are remembered up to a limit: a log has none, and who forges one may make many.
func TestStrangeKeyIDsAreLimited(t *testing.T) {
	j := &joiner{c: &check{origin: "o", rep: &Report{}}}
	j.epochs.early, j.epochs.cur = map[uint32]Finding{}, &epoch{}
	cl := &claim{note: &proof.Note{}}
	for id := range uint32(maxEarly + 10) {
		cl.note.Signatures = append(cl.note.Signatures, proof.Signature{Name: "o", ID: id + 1}, proof.Signature{Name: "w", ID: id + 1<<20})
	}
	must(t, j.checkIDs(cl))
	if len(j.epochs.early) != maxEarly {
		t.Errorf("%d ids", len(j.epochs.early))
	}
}

func TestRequiredSignatures(t *testing.T) {
	const origin = "example.com/log"
	b := newHybrid(t, origin)
	b.add(3)
	b.close()
	one := newBook(t, origin, true)
	one.add(3)
	one.close()
	strip := func(keep ...int) *book {
		n := b.clone()
		for _, size := range []uint64{0, 3} {
			n.replaceNote(size, func(text string) []byte {
				lines := bytes.SplitAfter(n.signed(text, b.keys), []byte("\n"))[4:]
				out := []byte(text + "\n")
				for _, i := range keep {
					out = append(out, lines[i]...)
				}
				return out
			})
		}
		if bytes.Count(n.files["checkpoint"], []byte("\n")) != 4+len(keep) {
			t.Fatalf("checkpoint %s", n.files["checkpoint"])
		}
		return n
	}
	ed, ml, none := strip(0, 1), strip(0, 2), strip(0)
	for _, tt := range []struct {
		require proof.Require
		good    []*book
		bad     []*book
	}{
		{proof.RequireAll, []*book{b, one}, []*book{ed, ml, none}},
		{proof.RequireEd25519, []*book{b, one, ed}, []*book{ml, none}},
		{proof.RequireMLDSA44, []*book{b, ml}, []*book{one, ed, none}},
		{proof.RequireBoth, []*book{b}, []*book{one, ed, ml, none}},
	} {
		for i, n := range slices.Concat(tt.good, tt.bad) {
			o := n.options()
			o.Require = tt.require
			v := Proven
			if i >= len(tt.good) {
				v = Refuted
			}
			r := verify(t, o)
			if r.Verdict != v {
				t.Errorf("%s, log %d: %s, want %s: %v", tt.require, i, r.Verdict, v, r.Findings)
			}
		}
	}
}

// A chain of keys that was kept elsewhere must be the log's, or what the log's began with.
func TestGivenChainsOfKeys(t *testing.T) {
	const origin = "example.com/log"
	b := several(t, origin)
	b.noHead = true
	given := func(b *book, data ...[]byte) Options {
		o := b.options()
		o.Epochs = data
		return o
	}
	first := b.files["epochs"][:bytes.IndexByte(b.files["epochs"], '\n')+1]
	r := verify(t, given(b, b.files["epochs"], first))
	want(t, r, Proven)
	if len(r.Basis) != 2 || r.Basis[0].Size != 531 || r.Basis[1].Size != 301 || r.Covered != 531 {
		t.Errorf("basis %v", r.Basis)
	}
	for _, none := range []string{"", "x", "x\n", string(first[1:]), string(first[:len(first)-1])} {
		want(t, verify(t, given(b, []byte(none))), Unknown)
	}
	// The log was cut back to an earlier epoch: only what is kept elsewhere shows it.
	old := newHybrid(t, origin)
	old.signer = b.signer
	log := identity.Log{Origin: origin, Created: testTime, VKeys: []string{b.signer.VKey(), old.keys.ed.Key().String(), old.keys.ml.Key().String()}}
	old.files["log.json"] = log.Append(nil)
	old.files["checkpoint"] = old.note(old.checkpoint())
	old.files["checkpoints"] = append(old.note(old.checkpoint()), '\n')
	old.noHead = true
	old.add(300)
	old.publish(true)
	old.rotateKeys()
	want(t, verify(t, old.options()), Consistent)
	want(t, verify(t, given(old, first)), Proven)
	refuted(t, given(old, b.files["epochs"]), "given epochs 1", "names more epochs than the log has")
	// Another history of the same log.
	fork := old.clone()
	fork.add(1)
	fork.rotateKeys()
	fork.add(1)
	fork.close()
	want(t, verify(t, fork.options()), Consistent)
	refuted(t, given(fork, b.files["epochs"]), "given epochs 1", "the log has another epoch 2")
}

// Where entries are missing, epoch entries may be among them: what was signed by their keys is not blamed.
func TestMissingEntriesDoNotBlameEpochs(t *testing.T) {
	whole := several(t, "example.com/log")
	whole.files["index/"+segment.SealName(512)] = whole.signed(sealText(whole, 512), makeEpoch(t, whole.origin, 1))
	want(t, verify(t, whole.options()), Proven)
	name := "archive/" + segment.ArchiveName(0)
	a, err := segment.OpenArchive(bytes.NewReader(whole.files[name]), int64(len(whole.files[name])))
	must(t, err)
	for _, g := range []int{0, 1} {
		b := whole.clone()
		b.files[name] = bytes.Clone(b.files[name])
		for i := range 40 {
			b.files[name][a.Offset(g)+300+int64(i)] ^= 0x55
		}
		o := b.options()
		o.Keys = append(b.vkeys(), b.signer.VKey(), makeEpoch(t, b.origin, 1).ed.Key().String())
		o.Epochs = [][]byte{b.files["epochs"]}
		r := verify(t, o)
		want(t, r, Refuted)
		if len(r.Epochs) > 1 || r.Size != b.size() {
			t.Errorf("group %d: size %d, epochs %v", g, r.Size, r.Epochs)
		}
		for _, f := range r.Findings {
			if f.File != name {
				t.Errorf("group %d: finding %v", g, f)
			}
		}
	}
}

func sealText(b *book, first uint64) string {
	text, _, _ := bytes.Cut(b.files["index/"+segment.SealName(first)], []byte("\n\n"))
	return string(text) + "\n"
}

// The key of a log with one key is a basis, and what it is worth is said, also of a log that was made one: log.json and the notes
// of a log with three keys, with all but the log key taken out.
func TestLogWithOneKeySaysSo(t *testing.T) {
	const origin = "example.com/log"
	one := small(t, origin, true)
	one.noHead = true
	hybrid := newHybrid(t, origin)
	hybrid.add(3)
	hybrid.close()
	hybrid.noHead = true
	lesser := hybrid.clone()
	log := identity.Log{Origin: origin, Created: testTime, VKeys: []string{lesser.signer.VKey()}}
	lesser.files["log.json"], lesser.keys = log.Append(nil), nil
	lesser.files["checkpoints"] = nil
	for _, size := range []int{0, 3} {
		note, err := lesser.signer.Sign(proof.Checkpoint{Origin: origin, Size: uint64(size), Root: proof.Root(lesser.leaves[:size])}.Text())
		must(t, err)
		lesser.files["checkpoint"], lesser.files["checkpoints"] = note, append(append(lesser.files["checkpoints"], note...), '\n')
	}
	rotated := newBook(t, origin, true)
	rotated.noHead = true
	rotated.add(3)
	rotated.rotateKeys()
	rotated.add(3)
	rotated.close()
	later := makeEpoch(t, origin, 1).ed.Key().String()
	const alone, pinned = "this is a log with one key, which is never destroyed: whoever has it can sign any history", "the pinned key is the log key, which is never destroyed"
	for _, tt := range []struct {
		name    string
		log     *book
		key     string
		verdict Verdict
		says    string
	}{
		{"one key", one, "", Consistent, alone},
		{"one key, pinned", one, one.signer.VKey(), Proven, alone},
		{"made one", lesser, "", Consistent, alone},
		{"made one, its log key pinned", lesser, lesser.signer.VKey(), Proven, alone},
		{"made one, a key of its epoch pinned", lesser, hybrid.keys.ed.Key().String(), Refuted, alone},
		{"three keys", hybrid, "", Consistent, ""},
		{"one key and epochs", rotated, "", Consistent, ""},
		{"one key and epochs, the log key pinned", rotated, rotated.signer.VKey(), Proven, pinned},
		{"one key and epochs, a later key pinned", rotated, later, Proven, ""},
	} {
		o := tt.log.options()
		if tt.key != "" {
			o.Keys = []string{tt.key}
		}
		r, err := Check(t.Context(), o)
		must(t, err)
		if r.Verdict != tt.verdict {
			t.Errorf("%s: %s, want %s: %v", tt.name, r.Verdict, tt.verdict, r.Findings)
		}
		var said strings.Builder
		for _, f := range r.Notes {
			if strings.Contains(f.What, "never destroyed") {
				said.WriteString(f.What)
			}
		}
		if said.String() == "" != (tt.says == "") || !strings.HasPrefix(said.String(), tt.says) {
			t.Errorf("%s: says %q, want %q", tt.name, said.String(), tt.says)
		}
	}
}

// Nothing is signed before the line of its epoch is durable: no crash leaves a later checkpoint and no line.
func TestCheckpointsOfAnEpochWithoutItsLineAreRefuted(t *testing.T) {
	for _, tt := range []struct {
		name string
		sign func(b *book) // in epoch 2
		want Verdict       // without a head
	}{
		{"nothing", func(*book) {}, Unknown},
		{"entries only", func(b *book) { b.add(3) }, Unknown},
		{"the newest checkpoint", func(b *book) { b.add(3); b.publish(false) }, Refuted},
		{"a checkpoint that is kept", func(b *book) {
			latest := b.files["checkpoint"]
			b.add(3)
			b.publish(true)
			b.files["checkpoint"] = latest
		}, Refuted},
		{"a cosigned one", func(b *book) {
			latest := b.files["checkpoint"]
			b.add(3)
			b.publish(false)
			b.files["cosigned"], b.files["checkpoint"] = b.files["checkpoint"], latest
		}, Refuted},
	} {
		for _, keep := range []int{0, 40} { // bytes of the last line
			b := newHybrid(t, "example.com/log")
			b.add(3)
			b.publish(true)
			b.rotateKeys()
			first := len(b.files["epochs"])
			b.add(3)
			b.rotateKeys()
			tt.sign(b)
			b.files["epochs"] = b.files["epochs"][:first+keep]
			for _, noHead := range []bool{true, false} {
				verdict := tt.want
				if b.noHead = noHead; !noHead && verdict == Unknown {
					verdict = Proven
				}
				r := verify(t, b.options())
				if r.Verdict != verdict || verdict == Refuted && !strings.Contains(r.Findings[0].What, "nothing is signed before that line is durable") {
					t.Errorf("%s, %d bytes, head %v: %s, want %s: %v", tt.name, keep, !noHead, r.Verdict, verdict, r.Findings)
				}
			}
		}
	}
}

// A witness may have seen an epoch that the directory does not have, because it was cut back to before it and went on.
func TestCheckpointOfAnEpochThatTheDirectoryLacks(t *testing.T) {
	b := newHybrid(t, "example.com/log")
	b.noHead = true
	b.add(3)
	b.rotateKeys()
	b.add(3)
	b.publish(true)
	old := b.clone()
	b.rotateKeys()
	b.add(3)
	b.publish(true)
	old.add(10)
	old.publish(true)
	const says = "which no epoch has that the entries below 11 name: no signature by epoch 1's Ed25519 key"
	o := old.options()
	o.Checkpoints = [][]byte{b.files["checkpoint"]}
	refuted(t, o, "given checkpoint 1", says)
	for _, name := range []string{"cosigned", evidenceFileName(11, -1)} {
		n := old.clone()
		n.files[name] = b.files["checkpoint"]
		refuted(t, n.options(), name, says)
	}
	// A signature that was only stripped is not of another epoch.
	n := old.clone()
	note, err := b.signer.Sign(n.checkpoint())
	must(t, err)
	n.files["cosigned"] = note
	refuted(t, n.options(), "cosigned", "is not a checkpoint of this log: no signature by epoch 1's Ed25519 key")
}
