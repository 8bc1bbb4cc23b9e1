package drill

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/witness"
	"github.com/tree-of-life-system/immutable/proof"
)

// The entries that attacks are aimed at. Everything below aimed is in a sealed segment and in epoch 0.
const aimed = 100

// plain is the first entry from i on that the log did not write itself and no producer signed.
func (b *book) plain(i int) int {
	for ; i < len(b.lines)-1; i++ {
		var l entry.Line
		if entry.Decode(b.lines[i], &l) == nil && l.Log == nil && l.Producer == nil {
			return i
		}
	}
	return i
}

// forge is an attack on the entries with what the attacker has: the log is taken apart, changed, and put together again.
func forge(with func(t *target) (thief, error), change func(t *target, b *book) error) func(t *target) error {
	return func(t *target) error {
		b, err := t.open()
		if err != nil {
			return err
		}
		if b.thief, err = with(t); err != nil {
			return err
		}
		if err := change(t, b); err != nil {
			return err
		}
		t.image, err = b.encode()
		return err
	}
}

// What attackers have.

func nothing(*target) (thief, error) { return thief{}, nil }

// rootOnly leaves the checkpoints as they were signed.
func rootOnly(*target) (thief, error) { return thief{root: true, keep: true}, nil }

// rootForging puts the new roots above the old signatures.
func rootForging(*target) (thief, error) { return thief{root: true}, nil }

func logKeyOnly(t *target) (thief, error) {
	k, err := steal(t.now)
	k.epochs, k.strip, k.root = nil, true, true
	return k, err
}

// currentKeys are what lies on the host today.
func currentKeys(t *target) (thief, error) { return steal(t.now) }

func currentKeysAndRoot(t *target) (thief, error) {
	k, err := steal(t.now)
	k.root = true
	return k, err
}

func currentKeysForAll(t *target) (thief, error) {
	k, err := currentKeysAndRoot(t)
	k.usurp = true
	return k, err
}

// Changes of entries.

func reword(e *entry.Event) { e.Message = "nothing to see here" }

func editAt(at int) func(*target, *book) error {
	return func(_ *target, b *book) error { return b.edit(b.plain(at), reword) }
}

func changeLevel(_ *target, b *book) error {
	return b.edit(b.plain(aimed), func(e *entry.Event) { e.Level = (e.Level + 1) % entry.System })
}

// changeTime moves an entry a nanosecond back, where the order of timestamps allows it.
func changeTime(_ *target, b *book) error {
	for i := aimed; i < len(b.lines); i++ {
		var before, l entry.Line
		if err := errors.Join(entry.Decode(b.lines[i-1], &before), entry.Decode(b.lines[i], &l)); err != nil {
			return err
		}
		if l.Log == nil && before.Time < l.Time {
			line := bytes.Clone(b.lines[i])
			entry.Patch(line, uint64(i), l.Time-1, l.Session)
			b.lines[i] = line
			return nil
		}
	}
	return errors.New("all entries have one timestamp")
}

func insert(_ *target, b *book) error {
	at := b.plain(aimed)
	line := bytes.Clone(b.lines[at])
	b.lines = slices.Insert(b.lines, at, line)
	if err := b.edit(at, reword); err != nil {
		return err
	}
	return b.shift(at, 1)
}

func remove(_ *target, b *book) error {
	at := b.plain(aimed)
	b.lines = slices.Delete(b.lines, at, at+1)
	return b.shift(at, -1)
}

// reorder swaps two neighbours' contents; ids and timestamps stay in order.
func reorder(_ *target, b *book) error {
	i := b.plain(aimed)
	j := b.plain(i + 1)
	first, second := bytes.Clone(b.lines[j]), bytes.Clone(b.lines[i])
	if err := errors.Join(b.place(first, i, b.lines[i]), b.place(second, j, b.lines[j])); err != nil {
		return err
	}
	b.lines[i], b.lines[j] = first, second
	return nil
}

// foreignEntry takes an entry of the other log, in its place and time.
func foreignEntry(t *target, b *book) error {
	o, err := t.other.open()
	if err != nil {
		return err
	}
	i := b.plain(aimed)
	line := bytes.Clone(o.lines[o.plain(aimed+7)])
	if err := b.place(line, i, b.lines[i]); err != nil {
		return err
	}
	b.lines[i] = line
	return nil
}

func cutToKept(_ *target, b *book) error {
	b.cut(b.notes[len(b.notes)-3].size)
	return nil
}

func empty(_ *target, b *book) error {
	b.cut(0)
	return nil
}

// olderEpoch forks from where epoch 1 began, with its keys, which a thief took while they were there. What follows them is his own.
func olderEpoch(t *target, b *book) error {
	old, err := steal(t.thefts[1])
	if err != nil {
		return err
	}
	own, err := ownKeys(t.origin, "thief")
	if err != nil {
		return err
	}
	b.thief = thief{log: old.log, root: true, epochs: map[uint64][]*proof.PrivateKey{1: old.epochs[1], 2: own}, newest: 2}
	e := &b.epochs[2]
	if err := b.edit(int(e.entry), func(x *entry.Event) { x.Log = record(2, own) }); err != nil {
		return err
	}
	return forkAt(int(b.epochs[1].after))(t, b)
}

// forkAt edits an entry, and makes ordinary entries of the anchors after it, whose stamps the attacker cannot have made anew.
func forkAt(at int) func(*target, *book) error {
	return func(_ *target, b *book) error {
		for i := at; i < len(b.lines); i++ {
			var l entry.Line
			if err := entry.Decode(b.lines[i], &l); err != nil {
				return err
			}
			if file, found := anchored(l.Log); found {
				delete(b.log, file)
				if err := b.edit(i, func(e *entry.Event) { e.Log, e.Level, e.Message = nil, entry.Info, "request served" }); err != nil {
					return err
				}
			}
		}
		return b.edit(b.plain(at), reword)
	}
}

// anchored is the file that an anchor names.
func anchored(log []byte) (file string, found bool) {
	if !bytes.HasPrefix(log, []byte(`{"type":"anchor"`)) {
		return "", false
	}
	_, rest, _ := bytes.Cut(log, []byte(`"file":"`))
	name, _, found := bytes.Cut(rest, []byte(`"`))
	return string(name), found
}

// afterEpoch forks where the present epoch began.
func afterEpoch(t *target, b *book) error { return forkAt(int(b.epochs[len(b.epochs)-1].after))(t, b) }

// dateAhead appends an entry of tomorrow. A time authority, which knows nothing of it, stamps the new checkpoint today.
func dateAhead(t *target, b *book) error {
	if err := appendUnsigned(t, b); err != nil {
		return err
	}
	var l entry.Line
	last := b.lines[len(b.lines)-1]
	if err := entry.Decode(last, &l); err != nil {
		return err
	}
	today := time.Unix(0, l.Time)
	entry.Patch(last, b.size()-1, l.Time+24*3600*1e9, l.Session)
	b.notes = append(b.notes, oldNote{size: b.size()})
	b.hash()
	digest := sha256.Sum256([]byte(b.text(b.size())))
	der, err := t.authority.stamp(digest[:], today.Add(time.Minute), nil)
	b.log[fmt.Sprintf("evidence/%020d-0.tsr", b.size())] = der
	return err
}

// takeOver begins an epoch with keys of the thief's own, as a rotation does, and goes on.
func takeOver(t *target, b *book) error {
	own, err := ownKeys(t.origin, "thief")
	if err != nil {
		return err
	}
	next := uint64(len(b.epochs))
	b.thief.epochs[next], b.thief.newest = own, next
	at := b.size()
	for _, e := range []*entry.Event{{Level: entry.System, Message: "a new epoch of keys begins", Log: record(next, own)}, {Level: entry.Audit, Message: "business as usual"}} {
		e.Hostname = "billing-1"
		line, err := entry.Append(nil, e)
		if err != nil {
			return err
		}
		if err := b.place(line, len(b.lines), b.lines[at-1]); err != nil {
			return err
		}
		b.lines = append(b.lines, line)
		b.batches = append(b.batches, b.size())
		b.notes = append(b.notes, oldNote{size: b.size()})
	}
	b.epochs = append(b.epochs, epochAt{entry: at, after: at + 1})
	return nil
}

// ownKeys are keys that the attacker makes.
func ownKeys(origin, words string) (list []*proof.PrivateKey, err error) {
	for _, typ := range []byte{proof.TypeEd25519, proof.TypeMLDSA44} {
		k, err := proof.NewKey(typ, origin, proof.LeafHash(fmt.Appendf(nil, "%s %d", words, typ)))
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, nil
}

func record(number uint64, keys []*proof.PrivateKey) []byte {
	return proof.EpochRecord(number, [2]string{keys[0].Key().String(), keys[1].Key().String()})
}

// ownAnchor has another time in the newest anchor, and a stamp that says so, by an authority of the attacker's own.
func ownAnchor(t *target, b *book) error {
	a, err := newAuthority("drill authority")
	if err != nil {
		return err
	}
	defer func() { _ = a.close() }()
	for i := len(b.lines) - 1; i > int(b.epochs[2].after); i-- {
		var l entry.Line
		if err := entry.Decode(b.lines[i], &l); err != nil {
			return err
		}
		if _, found := anchored(l.Log); found {
			return b.backdate(i, l.Log, a)
		}
	}
	return errors.New("no anchor in the last epoch")
}

// Attacks on files.

func flipInTail(t *target) error {
	data, err := t.file(openName)
	if err != nil {
		return err
	}
	return t.flip(openName, bytes.LastIndex(data, []byte(`"mallory"`))+1)
}

func flipFile(dir, suffix string, at int) func(*target) error {
	return func(t *target) error {
		name, err := t.named(dir, suffix, 0)
		if err != nil {
			return err
		}
		return t.flip(name, at)
	}
}

// resealed is a change of a sealed segment's files, and a new seal over them with today's keys.
func resealed(change func(*target) error) func(*target) error {
	return func(t *target) error {
		if err := change(t); err != nil {
			return err
		}
		k, err := steal(t.now)
		if err != nil {
			return err
		}
		name := "index/" + segment.SealName(0)
		b := &book{image: t.image, thief: k}
		return b.seal(t.log[name], 0)
	}
}

func editPending(t *target) error {
	if err := t.unseal(); err != nil {
		return err
	}
	return flipFile("pending", segment.PendingSuffix, 2000)(t)
}

// unseal makes of the newest archive the pending file that it was made of.
func (t *target) unseal() error {
	b, err := t.open()
	if err != nil {
		return err
	}
	last := b.sealed[len(b.sealed)-1]
	out := segment.AppendHeader(nil, last[0], b.chainBefore(last[0]))
	for _, line := range b.lines[last[0]:last[1]] {
		out = append(append(out, line...), '\n')
	}
	t.log["pending/"+segment.PendingName(last[0])] = segment.AppendCommit(out, last[0], last[1], b.chainBefore(last[1]), b.root(last[1]))
	t.dropSegment(last[0])
	return nil
}

// dropSegment removes what a sealed segment left in archive/ and index/.
func (t *target) dropSegment(first uint64) {
	for _, name := range []string{"archive/" + segment.ArchiveName(first), "index/" + segment.IndexName(first), "index/" + segment.SearchName(first), "index/" + segment.SealName(first)} {
		delete(t.log, name)
	}
}

func removeSegment(t *target) error {
	t.dropSegment(256)
	return nil
}

func foreignSegment(t *target) error {
	for _, name := range []string{"archive/" + segment.ArchiveName(256), "index/" + segment.IndexName(256), "index/" + segment.SearchName(256), "index/" + segment.SealName(256)} {
		data, found := t.other.log[name]
		if !found {
			return fmt.Errorf("the other log has no %s", name)
		}
		t.log[name] = data
	}
	return nil
}

// hideBytes puts a skippable frame, which decoders pass over in silence, behind the first group of an archive, and counts
// it to that group's frame in the seek table.
func hideBytes(t *target) error {
	name := "archive/" + segment.ArchiveName(0)
	data := t.log[name]
	a, err := segment.OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	hidden := append(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x184D2A50), 4), "note"...)
	at := int(a.Offset(0)) + int(binary.LittleEndian.Uint32(data[seekEntry(data, a, 1):]))
	out := slices.Insert(bytes.Clone(data), at, hidden...)
	length := out[seekEntry(out, a, 1):]
	binary.LittleEndian.PutUint32(length, binary.LittleEndian.Uint32(length)+uint32(len(hidden)))
	t.log[name] = out
	return nil
}

// seekEntry is where the seek table tells the lengths of a frame: 8 bytes each, before a footer of 9.
func seekEntry(data []byte, a *segment.Archive, frame int) int {
	return len(data) - 9 - 8*(a.Groups()+2) + 8*frame
}

// cutTail cuts the open segment behind its last batch but one.
func cutTail(t *target) error {
	data, err := t.file(openName)
	if err != nil {
		return err
	}
	at := bytes.LastIndex(data[:bytes.LastIndex(data, []byte(`{"commit":`))], []byte(`{"commit":`))
	t.log[openName] = data[:at+bytes.IndexByte(data[at:], '\n')+1]
	return nil
}

func replaceAll(t *target) error {
	t.log = t.other.clone().log
	return nil
}

func rollBackDir(t *target) error {
	t.log = t.before.clone().log
	return nil
}

func rollBackHost(t *target) error {
	t.image = t.before.clone()
	return nil
}

// goOn restores a backup of log and state, as an operator might in good faith, and appends until the log is longer than it was.
func goOn(t *target) error {
	t.image = t.before.clone()
	return t.engine(func(l *immutable.Log) error {
		var events []immutable.Event
		for _, e := range realistic(nil, int(t.had-l.Size())+50) {
			e.Hostname = "restored-1"
			events = append(events, e)
		}
		_, err := l.Append(t.ctx, events...)
		return err
	})
}

// engine has the image opened and written by the log's own code.
func (t *target) engine(work func(l *immutable.Log) error) error {
	dir, state := filepath.Join(t.root, "work"), filepath.Join(t.root, "work-state")
	if err := t.write(dir, state); err != nil {
		return err
	}
	for _, name := range []string{"next", "pending"} { // an image has no empty directories
		if err := mkdirs(filepath.Join(dir, name), map[string]bool{}); err != nil {
			return err
		}
	}
	cfg := t.cfg
	cfg.StateDir, cfg.Policy = state, nil
	l, err := immutable.Open(dir, &cfg)
	if err != nil {
		return err
	}
	if err := errors.Join(work(l), l.Close()); err != nil {
		return err
	}
	t.image, err = readImage(dir, state, t.origin)
	return err
}

func oldCheckpoint(t *target) error {
	notes, err := proof.SplitNotes(t.log[historyName])
	if err != nil {
		return err
	}
	t.log[latestName] = notes[len(notes)-2]
	return nil
}

// dropNote takes a checkpoint out of the history.
func dropNote(which func(t *target, b *book) uint64) func(*target) error {
	return func(t *target) error {
		b, err := t.open()
		if err != nil {
			return err
		}
		size := which(t, b)
		var history []byte
		for _, n := range b.notes {
			if n.size != size {
				history = append(append(history, n.data...), '\n')
			}
		}
		if len(history) == len(t.log[historyName]) {
			return fmt.Errorf("no checkpoint of size %d is kept", size)
		}
		t.log[historyName] = history
		return nil
	}
}

func ordinary(t *target, _ *book) uint64 { return noteSize(t.early) }

func closing(_ *target, b *book) uint64 { return b.epochs[1].after }

// identityChanged is a change of log.json, by somebody who may change the head too.
func identityChanged(change func(t *target, id *identity.Log) error, root bool) func(*target) error {
	return func(t *target) error {
		id, err := identity.ParseLog(t.log[identity.LogName])
		if err != nil {
			return err
		}
		if err := change(t, id); err != nil {
			return err
		}
		t.log[identity.LogName] = id.Append(nil)
		if !root {
			return nil
		}
		return t.head(func(h *identity.Head) { h.Log, h.VKey = sha256.Sum256(t.log[identity.LogName]), id.VKey() })
	}
}

func swapKeys(t *target, id *identity.Log) error {
	other, err := identity.ParseLog(t.other.log[identity.LogName])
	if err == nil {
		id.VKeys = other.VKeys
	}
	return err
}

func backdateCreation(_ *target, id *identity.Log) error {
	id.Created -= 365 * 24 * 3600 * 1e9
	return nil
}

// resign changes the signature lines of the newest checkpoint, where it stands twice.
func resign(change func(lines [][]byte) [][]byte) func(*target) error {
	return func(t *target) error {
		was := t.log[latestName]
		text, _, _ := bytes.Cut(was, []byte("\n\n"))
		lines := bytes.SplitAfter(signatures(was), []byte("\n"))
		note := append(append(bytes.Clone(text), "\n\n"...), bytes.Join(change(lines[:len(lines)-1]), nil)...)
		t.log[latestName] = note
		t.log[historyName] = append(append(bytes.Clone(bytes.TrimSuffix(t.log[historyName], append(bytes.Clone(was), '\n'))), note...), '\n')
		delete(t.log, seenName)
		return nil
	}
}

func forgeEpochs(t *target) error {
	links, err := proof.ParseEpochLinks(t.log[epochsName])
	if err != nil {
		return err
	}
	own, err := ownKeys(t.origin, "forged")
	if err != nil {
		return err
	}
	b := &book{lines: [][]byte{links[0].Entry}}
	if err := b.edit(0, func(e *entry.Event) { e.Log = record(1, own) }); err != nil {
		return err
	}
	links[0].Entry = b.lines[0]
	var out []byte
	for _, l := range links {
		out = l.Append(out)
	}
	t.log[epochsName] = out
	return nil
}

func stripCosignatures(t *target) error {
	delete(t.log, seenName)
	for name := range t.log {
		if strings.HasPrefix(name, "evidence/") && strings.HasSuffix(name, ".note") {
			delete(t.log, name)
		}
	}
	return nil
}

// forgeCosignature changes the last byte of a witness's signature.
func forgeCosignature(t *target) error {
	note, err := t.file(seenName)
	if err != nil {
		return err
	}
	at := bytes.LastIndexByte(note, ' ') + 1
	sig, err := base64.StdEncoding.DecodeString(string(note[at : len(note)-1]))
	if err != nil {
		return err
	}
	sig[len(sig)-1] ^= 1
	t.log[seenName] = append(base64.StdEncoding.AppendEncode(note[:at], sig), '\n')
	return nil
}

// backdateStamp changes the time in a time stamp: a GeneralizedTime, fourteen digits and Z.
func backdateStamp(t *target) error {
	name, err := t.named("evidence", ".tsr", 0)
	if err != nil {
		return err
	}
	data := t.log[name]
	for i := range len(data) - 15 {
		if data[i] == 0x18 && data[i+1] == 15 && data[i+16] == 'Z' {
			return t.flip(name, i+5) // the last digit of the year
		}
	}
	return errors.New("no time in the stamp")
}

func removeStamp(t *target) error {
	name, err := t.named("evidence", ".tsr", 0)
	delete(t.log, name)
	return err
}

// appendUnsigned adds a batch that is complete in every hash, and no checkpoint.
func appendUnsigned(_ *target, b *book) error {
	line := bytes.Clone(b.lines[b.plain(aimed)])
	if err := b.place(line, len(b.lines), b.lines[len(b.lines)-1]); err != nil {
		return err
	}
	b.lines = append(b.lines, line)
	b.batches = append(b.batches, b.size())
	return nil
}

// crash is a host that lost power after it had acknowledged one more batch, and before a checkpoint covered it. Then the
// attacker takes a byte off that batch, so that it looks like one that never became durable.
func crash(t *target) error {
	b, err := t.open()
	if err != nil {
		return err
	}
	if err := appendUnsigned(t, b); err != nil {
		return err
	}
	if t.image, err = b.encode(); err != nil {
		return err
	}
	last := b.size() - 1
	t.acknowledged = &immutable.Receipt{Index: last, Leaf: b.leaves[last], Hash: b.chains[last]}
	t.log[openName] = t.log[openName][:len(t.log[openName])-1]
	t.had++
	return t.head(func(h *identity.Head) { h.Clean = false })
}

func askAfterCrash(t *target, k Knowledge) (Outcome, string, error) {
	o := t.options(k)
	if k == Receipt {
		o.Receipts = append(slices.Clone(o.Receipts), *t.acknowledged)
	}
	return t.askWith(k, o)
}

// dropSigned has the source sign two events, of which only the second reaches the log.
func dropSigned(t *target) error {
	return t.engine(func(l *immutable.Log) error {
		p, err := immutable.OpenProducer(t.producer)
		if err != nil {
			return err
		}
		events := signedEvents(1)[:2]
		err = errors.Join(p.Sign(t.origin, &events[0]), p.Sign(t.origin, &events[1]))
		if err == nil {
			_, err = l.Append(t.ctx, events[1])
		}
		return errors.Join(err, p.Close())
	})
}

// inventSigned appends an event in the name of the source, whose key the attacker has not.
func inventSigned(t *target) error {
	return t.engine(func(l *immutable.Log) error {
		keys, err := l.Producers(t.ctx)
		if err != nil || len(keys) == 0 {
			return errors.Join(err, errors.New("no producer is registered"))
		}
		e := signedEvents(2)[0]
		e.Producer = &immutable.ProducerSignature{Key: keys[0].ID, Counter: 5, Signature: make([]byte, 64)}
		_, err = l.Append(t.ctx, e)
		return err
	})
}

// Attacks on what was given away.

func noDirectory(t *target) error {
	t.image = nil
	return nil
}

func askBundle(change func(t *target) []byte) func(*target, Knowledge) (Outcome, string, error) {
	return func(t *target, k Knowledge) (Outcome, string, error) {
		var o immutable.VerifyBundleOptions
		switch k {
		case Head:
			return NoSuch, "", nil
		case Key:
			o.Keys = t.keys
		case Receipt:
			o.Checkpoints = [][]byte{t.now.log[latestName]}
		case Witnesses:
			o.Policy = t.policy
		}
		rep, err := immutable.VerifyBundle(change(t), o)
		if err != nil {
			return "", "", err
		}
		switch rep.Verdict {
		case immutable.BundleVerdict(immutable.Refuted):
			var found []immutable.Finding
			for _, f := range rep.Findings {
				found = append(found, immutable.Finding{File: f.Where, Offset: -1, Index: f.Index, What: f.What, Got: f.Got, Want: f.Want})
			}
			return Refuted, t.said(found), nil
		case immutable.BundleVerdict(immutable.Unknown):
			return NotTold, strings.Join(rep.Open, "; "), nil
		}
		return Unseen, string(rep.Verdict), nil
	}
}

func editedBundle(t *target) []byte {
	return bytes.ReplaceAll(t.bundle, []byte("mallory"), []byte("dmitri0"))
}

func otherBundle(t *target) []byte { return t.forged }

// editTile changes a byte of an entry in an export.
func editTile(t *target) error {
	t.image = nil
	files := maps.Clone(t.tiles)
	for name, data := range files {
		if at := bytes.Index(data, []byte("mallory")); at >= 0 {
			data = bytes.Clone(data)
			data[at] ^= 1
			files[name] = data
			return writeTree(files, t.dir)
		}
	}
	return errors.New("the export does not hold the last entries")
}

// askTiles is the verification of an export, whose readers know the log's first keys as clients of transparency logs do.
func askTiles(t *target, k Knowledge) (Outcome, string, error) {
	open := func(note []byte) (proof.Checkpoint, error) { // nobody is known
		n, err := proof.ParseNote(note)
		if err != nil {
			return proof.Checkpoint{}, err
		}
		return proof.ParseCheckpoint(n.Text)
	}
	switch k {
	case Head, Receipt, Witnesses:
		return NoSuch, "", nil
	case Key:
		key, err := proof.ParseKey(logVKey(t.now))
		if err != nil {
			return "", "", err
		}
		open = func(note []byte) (proof.Checkpoint, error) {
			return proof.OpenCheckpoint(note, scratchOrigin, []proof.Key{key})
		}
	}
	rep, err := immutable.VerifyTiles(t.ctx, t.dir, open, nil, nil)
	if err != nil {
		return "", "", err
	}
	var found []immutable.Finding
	for _, f := range rep.Findings {
		found = append(found, immutable.Finding{File: f.Path, Offset: -1, Index: -1, What: f.What})
	}
	if len(found) > 0 {
		return Refuted, t.said(found), nil
	}
	return Unseen, fmt.Sprintf("%d entries", rep.Checkpoint.Size), nil
}

// askForgedProof gives the verifier a proof with one wrong hash, beside a log that nobody touched.
func askForgedProof(t *target, k Knowledge) (Outcome, string, error) {
	p, err := proof.ParseInclusionProof(t.proof)
	if err != nil {
		return "", "", err
	}
	p.Hashes = slices.Clone(p.Hashes)
	p.Hashes[0][0] ^= 1
	text, err := p.MarshalText()
	if err != nil {
		return "", "", err
	}
	o := t.options(k)
	o.Proofs = [][]byte{text}
	return t.askWith(k, o)
}

// askForgedReceipt gives the verifier a receipt of an append that never was. A receipt carries no signature.
func askForgedReceipt(t *target, k Knowledge) (Outcome, string, error) {
	o := t.options(k)
	o.Receipts = append(slices.Clone(o.Receipts), immutable.Receipt{Index: 7, Leaf: proof.LeafHash([]byte("never"))})
	return t.askWith(k, o)
}

// askCopy compares a copy that somebody changed with the log, which is as it was: what else is known adds nothing.
func askCopy(change func(lines [][]byte) [][]byte) func(t *target, k Knowledge) (Outcome, string, error) {
	return func(t *target, k Knowledge) (o Outcome, said string, err error) {
		l, err := immutable.Open(t.dir, &immutable.Config{StateDir: t.host, ReadOnly: true})
		if err != nil {
			return "", "", err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		var lines [][]byte
		for e, err := range l.Entries(t.ctx, immutable.Query{}) {
			if err != nil {
				return "", "", err
			}
			lines = append(lines, export.AppendLine(nil, l.Origin(), 0, &e))
		}
		if r, err := export.CheckCopy(t.ctx, l, bytes.NewReader(bytes.Join(lines, nil)), export.CopyOptions{All: true}); err != nil || !r.Agrees() {
			return Unseen, "the copy was refuted before it was changed", err
		}
		r, err := export.CheckCopy(t.ctx, l, bytes.NewReader(bytes.Join(change(lines), nil)), export.CopyOptions{})
		switch {
		case err != nil:
			return "", "", err
		case len(r.Changed) > 0:
			return Refuted, r.Changed[0].What, nil
		case len(r.Missing) > 0:
			return Refuted, fmt.Sprintf("entries %d to %d are missing", r.Missing[0].From, r.Missing[0].To), nil
		}
		return Unseen, "", nil
	}
}

func editEvent(lines [][]byte) [][]byte {
	lines[aimed] = bytes.Replace(lines[aimed], []byte(`"message":"`), []byte(`"message":"not `), 1)
	return lines
}

func deleteEvents(lines [][]byte) [][]byte { return slices.Delete(lines, aimed, aimed+3) }

// askWitnesses shows the fork to the witnesses, as a log does. Each must refuse it; and of what they have and what they
// refused, everybody can make a proof that the log signed two histories.
func askWitnesses(t *target, k Knowledge) (Outcome, string, error) {
	if k != Witnesses {
		return t.ask(k)
	}
	b, err := t.open()
	if err != nil {
		return "", "", err
	}
	note := t.log[latestName]
	c := witness.NewClient()
	defer c.Close()
	for i, w := range t.witnesses {
		old := noteSize(t.seen[i])
		req := &witness.Request{Old: old, Proof: proveGrowth(b, old), Note: note}
		if _, err := c.AddCheckpoint(t.ctx, w.url, w.server.Keys(), req); err == nil {
			return Unseen, "witness " + w.name + " cosigned it", nil
		} else if status := (*witness.StatusError)(nil); !errors.As(err, &status) {
			return "", "", err
		}
	}
	m := proof.Misbehaviour{A: t.seen[0], B: note, Proof: consistency(noteSize(t.seen[0]), b.leaves, false)}
	key, err := proof.ParseKey(logVKey(t.now))
	if err != nil {
		return "", "", err
	}
	text, err := m.MarshalText()
	if err != nil {
		return "", "", err
	}
	parsed, err := proof.ParseMisbehaviour(text)
	if err != nil {
		return "", "", err
	}
	found, err := parsed.Verify([]proof.Key{key})
	if err != nil {
		return "", "", err
	}
	return Refuted, "each witness refused it; proof of misbehaviour: " + found.String(), nil
}

// proveGrowth is what the forked log would answer.
func proveGrowth(b *book, old uint64) []proof.Hash { return consistency(old, b.leaves, true) }

// askAccusation gives a proof of misbehaviour to somebody who knows the log's keys. Its two checkpoints are of one history.
func askAccusation(t *target, k Knowledge) (Outcome, string, error) {
	if k != Key {
		return NoSuch, "", nil
	}
	b, err := t.open()
	if err != nil {
		return "", "", err
	}
	hashes := consistency(noteSize(t.early), b.leaves, false)
	hashes[0][0] ^= 1
	key, err := proof.ParseKey(logVKey(t.now))
	if err != nil {
		return "", "", err
	}
	m := proof.Misbehaviour{A: t.early, B: t.now.log[latestName], Proof: hashes}
	found, err := m.Verify([]proof.Key{key})
	var refuted *proof.MismatchError
	switch {
	case errors.As(err, &refuted):
		return Refuted, err.Error(), nil
	case err != nil:
		return "", "", err
	}
	return Unseen, found.String(), nil
}

func untouched(*target) error { return nil }

func logVKey(m *image) string {
	id, err := identity.ParseLog(m.log[identity.LogName])
	if err != nil {
		return ""
	}
	return id.VKey()
}
