package drill

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/proof"
)

const groupSize = segment.GroupSize

// The files that a forger makes again.
const (
	openName    = "immutable.log"
	latestName  = "checkpoint"
	historyName = "checkpoints"
	epochsName  = "epochs"
	seenName    = "cosigned"
	chainName   = "chain"
)

// A book is a log taken apart by somebody who wants to change it: entries, and where segments, batches and checkpoints end.
// encode puts it together again, with everything that can be recomputed recomputed, and everything signed for which the
// thief has the keys. It shares nothing with the engine but the encoders of single lines and files.
type book struct {
	*image
	lines   [][]byte
	sealed  [][2]uint64 // first and end of each archive
	first   uint64      // of the open segment
	batches []uint64    // ends of its batches
	notes   []oldNote   // of the history
	epochs  []epochAt
	thief   thief

	leaves, chains []proof.Hash
}

// oldNote is a checkpoint that the log signed.
type oldNote struct {
	size uint64
	data []byte
}

// epochAt is an epoch of the log: the entry that names its keys, and the size of the checkpoint that closed the one before.
type epochAt struct {
	entry, after uint64
	keys         []proof.Key
}

// A thief is what the attacker has besides write access.
type thief struct {
	log    *proof.PrivateKey              // the log key
	epochs map[uint64][]*proof.PrivateKey // keys of epochs
	newest uint64                         // of those
	strip  bool                           // leave signatures out that cannot be made, instead of leaving the old ones
	usurp  bool                           // sign with the newest keys where those of an epoch are not there
	keep   bool                           // leave checkpoints as they were signed
	root   bool                           // the head is changed too
}

// steal takes the keys out of a host's state: the log key, and those of the epochs that were not destroyed yet.
func steal(m *image) (t thief, err error) {
	t.epochs = map[uint64][]*proof.PrivateKey{}
	for name, data := range m.state {
		base, found := strings.CutPrefix(name, "keys/")
		if !found {
			continue
		}
		var keys []*proof.PrivateKey
		for line := range strings.FieldsSeq(string(data)) {
			k, err := proof.ParsePrivateKey(line)
			if err != nil {
				return t, fmt.Errorf("%s: %w", name, err)
			}
			keys = append(keys, k)
		}
		if number, found := strings.CutPrefix(base, "epoch-"); found {
			e, err := strconv.ParseUint(number, 10, 64)
			if err != nil || len(keys) != 2 {
				return t, fmt.Errorf("%s: not the keys of an epoch", name)
			}
			t.epochs[e], t.newest = keys, max(t.newest, e)
		} else if len(keys) == 1 {
			t.log = keys[0]
		}
	}
	if t.log == nil || len(t.epochs) == 0 {
		return t, errors.New("no private keys in the state directory")
	}
	return t, nil
}

// open takes a whole log apart.
func (m *image) open() (*book, error) {
	b := &book{image: m.clone()}
	for n := 0; ; n++ {
		name, err := m.named("archive", segment.ArchiveSuffix, n)
		if err != nil {
			break
		}
		if err := b.openArchive(name); err != nil {
			return nil, err
		}
	}
	if err := b.openTail(); err != nil {
		return nil, err
	}
	notes, err := proof.SplitNotes(m.log[historyName])
	if err != nil {
		return nil, err
	}
	for _, data := range notes {
		b.notes = append(b.notes, oldNote{noteSize(data), data})
	}
	b.hash()
	return b, b.findEpochs()
}

func (b *book) openArchive(name string) error {
	data := b.log[name]
	a, err := segment.OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	if a.First() != uint64(len(b.lines)) {
		return fmt.Errorf("%s begins at entry %d, want %d", name, a.First(), len(b.lines))
	}
	for g := range a.Groups() {
		group, err := a.Group(nil, g)
		if err != nil {
			return err
		}
		if b.lines, err = segment.SplitLines(b.lines, group); err != nil {
			return err
		}
	}
	b.sealed = append(b.sealed, [2]uint64{a.First(), a.End()})
	return nil
}

func (b *book) openTail() error {
	all, err := segment.SplitLines(nil, b.log[openName])
	if err != nil || len(all) == 0 {
		return fmt.Errorf("%s: no whole lines", openName)
	}
	if b.first, _, err = segment.ParseHeader(all[0]); err != nil {
		return err
	}
	for _, line := range all[1:] {
		if _, size, _, _, err := segment.ParseCommit(line); err == nil {
			b.batches = append(b.batches, size)
			continue
		}
		b.lines = append(b.lines, bytes.Clone(line))
	}
	return nil
}

// findEpochs follows the epoch entries and their closing checkpoints.
func (b *book) findEpochs() error {
	id, err := identity.ParseLog(b.log[identity.LogName])
	if err != nil {
		return err
	}
	keys, err := id.Keys()
	if err != nil || len(keys) != 3 {
		return fmt.Errorf("%s: want three keys", identity.LogName)
	}
	b.epochs = []epochAt{{keys: keys[1:]}}
	for i, line := range b.lines {
		_, keys, err := proof.ParseEpochEntry(line)
		if err != nil {
			continue
		}
		at := slices.IndexFunc(b.notes, func(n oldNote) bool { return n.size > uint64(i) })
		if at < 0 {
			return fmt.Errorf("no checkpoint closes the epoch before entry %d", i)
		}
		b.epochs = append(b.epochs, epochAt{uint64(i), b.notes[at].size, keys})
	}
	return nil
}

func (b *book) size() uint64 { return uint64(len(b.lines)) }

// edit changes what an entry says, and keeps its place and time.
func (b *book) edit(i int, change func(e *entry.Event)) error {
	var l entry.Line
	if err := entry.Decode(b.lines[i], &l); err != nil {
		return err
	}
	e, err := l.Event()
	if err != nil {
		return err
	}
	change(e)
	line, err := entry.Append(nil, e)
	if err != nil {
		return err
	}
	entry.Patch(line, uint64(i), l.Time, l.Session)
	b.lines[i] = line
	return nil
}

// place gives a line the id and time of a place: the index, and its neighbour's timestamp and session.
func (b *book) place(line []byte, i int, like []byte) error {
	var l entry.Line
	if err := entry.Decode(like, &l); err != nil {
		return err
	}
	entry.Patch(line, uint64(i), l.Time, l.Session)
	return nil
}

// shift moves every end above at, of batches and checkpoints, after an entry was put in or taken out there. Ids follow.
func (b *book) shift(at, by int) error {
	moved := func(n uint64) uint64 {
		if n > uint64(at) {
			n = uint64(int(n) + by)
		}
		return n
	}
	for i := range b.batches {
		b.batches[i] = moved(b.batches[i])
	}
	for i := range b.epochs {
		b.epochs[i].entry = moved(b.epochs[i].entry)
	}
	if !b.thief.keep {
		for i := range b.notes {
			b.notes[i].size = moved(b.notes[i].size)
		}
		for i := range b.epochs {
			b.epochs[i].after = moved(b.epochs[i].after)
		}
	}
	for i := at; i < len(b.lines); i++ {
		b.lines[i] = bytes.Clone(b.lines[i])
		if err := b.place(b.lines[i], i, b.lines[i]); err != nil {
			return err
		}
	}
	return nil
}

// cut leaves what the log was when it had kept a checkpoint of this size.
func (b *book) cut(size uint64) {
	b.lines = b.lines[:size]
	b.sealed = slices.DeleteFunc(b.sealed, func(s [2]uint64) bool { return s[1] > size })
	b.first = 0
	for _, s := range b.sealed {
		b.first = s[1]
	}
	b.batches = slices.DeleteFunc(b.batches, func(end uint64) bool { return end >= size })
	if size > b.first {
		b.batches = append(b.batches, size)
	}
	b.notes = slices.DeleteFunc(b.notes, func(n oldNote) bool { return n.size > size })
	b.epochs = slices.DeleteFunc(b.epochs, func(e epochAt) bool { return e.after > size })
}

// backdate has the anchor at entry i say that its authority saw the log a day earlier.
func (b *book) backdate(i int, was []byte, a *authority) error {
	var old struct {
		Size uint64
		Time time.Time
		File string
	}
	if err := json.Unmarshal(was, &old); err != nil {
		return err
	}
	at := old.Time.Add(-24 * time.Hour).Truncate(time.Second)
	b.hash()
	digest := sha256.Sum256([]byte(b.text(old.Size)))
	der, err := a.stamp(digest[:], at, nil)
	if err != nil {
		return err
	}
	b.log[old.File] = der
	log := fmt.Appendf(nil, `{"type":"anchor","size":%d,"time":"%s","file":"%s","sha256":"%x"}`, old.Size, entry.FormatTime(nil, at.UnixNano()), old.File, sha256.Sum256(der))
	return b.edit(i, func(e *entry.Event) { e.Log = log })
}

func (b *book) hash() {
	var chain proof.Hash
	b.leaves, b.chains = nil, nil
	for _, line := range b.lines {
		leaf := proof.LeafHash(line)
		chain = proof.ChainHash(chain, leaf)
		b.leaves, b.chains = append(b.leaves, leaf), append(b.chains, chain)
	}
}

func (b *book) root(size uint64) proof.Hash { return proof.Root(b.leaves[:size]) }

func (b *book) chainBefore(i uint64) proof.Hash {
	if i == 0 {
		return proof.Hash{}
	}
	return b.chains[i-1]
}

// encode makes every file again from the entries.
func (b *book) encode() (*image, error) {
	b.hash()
	old := b.log
	b.image = b.clone()
	for name := range b.log {
		switch dir, _, _ := strings.Cut(name, "/"); dir {
		case "archive", "index", "tree", chainName, openName, epochsName:
			delete(b.log, name)
		}
	}
	for _, s := range b.sealed {
		if err := b.encodeSealed(old, s[0], s[1]); err != nil {
			return nil, err
		}
	}
	b.encodeTail()
	b.encodeArrays()
	if err := b.encodeNotes(); err != nil {
		return nil, err
	}
	if b.thief.root {
		return b.image, b.head(func(h *identity.Head) {
			h.Size, h.Root, h.Kept = b.size(), b.root(b.size()), int64(len(b.log[historyName]))
			h.Log = sha256.Sum256(b.log[identity.LogName])
		})
	}
	return b.image, nil
}

// encodeSealed makes archive, index, search index and seal.
func (b *book) encodeSealed(old map[string][]byte, first, end uint64) error {
	var file bytes.Buffer
	w, err := segment.NewArchiveWriter(&file, first, b.chainBefore(first))
	if err != nil {
		return err
	}
	for at := first; at < end; at += groupSize {
		if err := w.WriteGroup(append(bytes.Join(b.lines[at:at+groupSize], []byte("\n")), '\n')); err != nil {
			return err
		}
	}
	if err := w.Close(end, b.chains[end-1], b.root(end)); err != nil {
		return err
	}
	idx, search := index.New(first), index.NewBuilder(first)
	for _, line := range b.lines[first:end] {
		var l entry.Line
		if err := entry.Decode(line, &l); err != nil {
			return err
		}
		l.Index32 = uint32(idx.End) // a forger who reorders entries indexes them all the same
		if err := errors.Join(idx.Add(&l), search.Add(&l)); err != nil {
			return err
		}
	}
	b.log["archive/"+segment.ArchiveName(first)] = file.Bytes()
	b.log["index/"+segment.IndexName(first)] = idx.Append(nil)
	b.log["index/"+segment.SearchName(first)], _ = search.Finish()
	return b.seal(old["index/"+segment.SealName(first)], first)
}

// seal signs what archive and indexes are now, as well as the thief can. was is the seal before.
func (b *book) seal(was []byte, first uint64) error {
	text, err := b.sealText(was, first)
	if err != nil {
		return err
	}
	note := append([]byte(text+"\n"), signatures(was)...)
	if k := b.thief.epochs[b.thief.newest]; len(k) > 0 {
		line, err := k[0].SignatureLine(text, 0)
		if err != nil {
			return err
		}
		note = append([]byte(text+"\n"), line...)
	}
	b.log["index/"+segment.SealName(first)] = note
	return nil
}

func (b *book) sealText(was []byte, first uint64) (string, error) {
	text, _, _ := bytes.Cut(was, []byte("\n\n"))
	s, err := index.ParseSeal(string(text) + "\n")
	if err != nil {
		return "", err
	}
	archive, idx, search := b.log["archive/"+segment.ArchiveName(first)], b.log["index/"+segment.IndexName(first)], b.log["index/"+segment.SearchName(first)]
	s.Archive, s.ArchiveLen = sha256.Sum256(archive), int64(len(archive))
	s.Index, s.IndexLen = sha256.Sum256(idx), int64(len(idx))
	s.Search, s.SearchLen = sha256.Sum256(search), int64(len(search))
	for n := 1; n*32 < len(search); n++ { // it ends with the digests of its pages of 4,096 bytes
		if at := len(search) - n*32; (at+4095)/4096 == n {
			s.Table = sha256.Sum256(search[at:])
		}
	}
	return s.Text(), nil
}

// encodeTail makes the open segment. Its first batch is the remainder that rotation carried over.
func (b *book) encodeTail() {
	out := segment.AppendHeader(nil, b.first, b.chainBefore(b.first))
	from := b.first
	for _, end := range b.batches {
		for _, line := range b.lines[from:end] {
			out = append(append(out, line...), '\n')
		}
		out = segment.AppendCommit(out, from, end, b.chainBefore(end), b.root(end))
		from = end
	}
	b.log[openName] = out
}

// encodeArrays makes chain and tree.
func (b *book) encodeArrays() {
	var chain, level []byte
	var hashes []proof.Hash
	for at := uint64(groupSize); at <= b.size(); at += groupSize {
		h, c := proof.Root(b.leaves[at-groupSize:at]), b.chains[at-1]
		hashes, level, chain = append(hashes, h), append(level, h[:]...), append(chain, c[:]...)
	}
	if len(chain) > 0 {
		b.log[chainName] = chain
	}
	for l := 1; len(hashes) > 0; l++ {
		b.log[fmt.Sprintf("tree/%d", l)] = level
		var up []proof.Hash
		level = nil
		for k := range len(hashes) / groupSize {
			h := proof.Root(hashes[k*groupSize : (k+1)*groupSize])
			up, level = append(up, h), append(level, h[:]...)
		}
		hashes = up
	}
}

// encodeNotes makes the history, the newest checkpoint, the chain of keys, and what outsiders signed as far as it still stands.
func (b *book) encodeNotes() error {
	var history, links []byte
	bySize := map[uint64][]byte{}
	for _, n := range b.notes {
		note, err := b.sign(n)
		if err != nil {
			return err
		}
		history = append(append(history, note...), '\n')
		bySize[n.size] = note
		b.log[latestName] = note
	}
	b.log[historyName] = history
	for i, e := range b.epochs[1:] {
		p := proof.InclusionProof{Index: e.entry, Hashes: inclusion(e.entry, b.leaves[:e.after]), Checkpoint: bySize[e.after]}
		text, err := p.MarshalText()
		if err != nil {
			return err
		}
		links = proof.EpochLink{Number: uint64(i) + 1, Entry: b.lines[e.entry], Proof: text}.Append(links)
	}
	if len(links) > 0 {
		b.log[epochsName] = links
	}
	for name, data := range b.log {
		if stamp, found := strings.CutSuffix(name, ".tsr"); found {
			if size, _ := strconv.ParseUint(path.Base(stamp)[:20], 10, 64); size > b.size() {
				delete(b.log, name)
			}
			continue
		}
		if name != seenName && (!strings.HasPrefix(name, "evidence/") || !strings.HasSuffix(name, ".note")) {
			continue
		}
		// A witness's signature cannot be forged: what no longer stands is thrown away.
		text, _, _ := bytes.Cut(data, []byte("\n\n"))
		if size := noteSize(data); size > b.size() || string(text)+"\n" != b.text(size) {
			delete(b.log, name)
		}
	}
	return nil
}

func (b *book) text(size uint64) string {
	return proof.Checkpoint{Origin: b.origin, Size: size, Root: b.root(size)}.Text()
}

// sign is the note of a size. One that still stands is kept byte for byte; of another, each signature is made that can be, and
// the old one, which is bad now, is left or stripped where it cannot.
func (b *book) sign(n oldNote) ([]byte, error) {
	text := b.text(n.size)
	if b.thief.keep || bytes.HasPrefix(n.data, []byte(text+"\n")) {
		return n.data, nil
	}
	number := len(b.epochs) - 1
	for number > 0 && b.epochs[number].after >= n.size {
		number--
	}
	keys := b.thief.epochs[uint64(number)]
	if keys == nil && b.thief.usurp {
		keys = b.thief.epochs[b.thief.newest]
	}
	if b.thief.log != nil {
		keys = append([]*proof.PrivateKey{b.thief.log}, keys...)
	}
	note := []byte(text + "\n")
	for _, k := range keys {
		line, err := k.SignatureLine(text, b.now(n.size))
		if err != nil {
			return nil, err
		}
		note = append(note, line...)
	}
	if len(keys) < 3 && !b.thief.strip {
		for i, line := range bytes.SplitAfter(signatures(n.data), []byte("\n")) {
			if i > 0 || b.thief.log == nil {
				note = append(note, line...)
			}
		}
	}
	return note, nil
}

// now is when a log would have signed a size, in Unix seconds.
func (b *book) now(size uint64) uint64 {
	if size == 0 {
		return 0
	}
	at, _, _ := entry.Peek(b.lines[size-1])
	return uint64(at) / 1e9
}

// signatures are the signature lines of a note.
func signatures(note []byte) []byte {
	_, lines, _ := bytes.Cut(note, []byte("\n\n"))
	return lines
}

// noteSize is the size that a checkpoint states.
func noteSize(note []byte) uint64 {
	_, rest, _ := bytes.Cut(note, []byte("\n"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	size, _ := strconv.ParseUint(string(line), 10, 64)
	return size
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

// consistency is PROOF of RFC 6962, section 2.1.2, as it is written there; with whole, the first hash is there also where the
// RFC leaves it out.
func consistency(m uint64, d []proof.Hash, whole bool) []proof.Hash {
	n := uint64(len(d))
	if m == n {
		if whole {
			return nil
		}
		return []proof.Hash{proof.Root(d)}
	}
	k := uint64(1) << (bits.Len64(n-1) - 1)
	if m <= k {
		return append(consistency(m, d[:k], whole), proof.Root(d[k:]))
	}
	return append(consistency(m-k, d[k:], false), proof.Root(d[:k]))
}
