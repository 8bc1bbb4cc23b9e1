package fsck

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	epochPrefix = `{"type":"epoch",`
	// maxEpochs bounds how many epochs a report lists: the newest.
	maxEpochs = 1000
	// maxVerifying bounds the notes whose signatures are being verified while the entries after them are read.
	maxVerifying = 64
	// maxEarly bounds how many key ids of no epoch are remembered. A log that was not tampered with has none.
	maxEarly = 1000
)

// An EpochReport is an epoch of keys.
type EpochReport struct {
	Number uint64   `json:"number"`
	Entry  int64    `json:"entry"` // index of the entry that named the keys; -1 for epoch 0, whose keys are in log.json
	After  uint64   `json:"after"` // its keys sign sizes above; 0 for epoch 0, which also signs size 0
	VKeys  []string `json:"vkeys"`
	Notes  uint64   `json:"checkpoints"` // kept checkpoints of this epoch
}

// An epoch is a run of sizes with the keys that sign their checkpoints. It does not change once it is made.
type epoch struct {
	number uint64
	after  uint64
	keys   []proof.Key // the Ed25519 key and, but in epoch 0 of a log that has one key, the ML-DSA-44 key
}

// verify returns who signed: the keys that require asks for must be among them, and each signature by a key of the epoch must
// be good. That the log key signed was verified before.
func (e *epoch) verify(n *proof.Note, require proof.Require) ([]proof.Signer, error) {
	signers, err := n.Verify(e.keys)
	if err != nil {
		return nil, err
	}
	for _, typ := range []byte{proof.TypeEd25519, proof.TypeMLDSA44} {
		asked := require == proof.RequireBoth || require == proof.RequireEd25519 && typ == proof.TypeEd25519 || require == proof.RequireMLDSA44 && typ == proof.TypeMLDSA44
		i := slices.IndexFunc(e.keys, func(k proof.Key) bool { return k.Type() == typ })
		switch {
		case i < 0 && asked:
			return nil, fmt.Errorf("epoch %d has no %s key, and its signature is required", e.number, keyKind(typ))
		case i < 0 || !asked && require != proof.RequireAll:
		case !slices.ContainsFunc(signers, func(s proof.Signer) bool { return s.Key.ID() == e.keys[i].ID() }):
			return nil, &strippedError{epoch: e.number, key: e.keys[i]}
		}
	}
	return signers, nil
}

func keyKind(typ byte) string {
	if typ == proof.TypeMLDSA44 {
		return "ML-DSA-44"
	}
	return "Ed25519"
}

// A strippedError says that a key of a checkpoint's epoch did not sign it.
type strippedError struct {
	epoch uint64
	key   proof.Key
}

func (e *strippedError) Error() string {
	return fmt.Sprintf("no signature by epoch %d's %s key %s+%08x: it was stripped, or never made", e.epoch, keyKind(e.key.Type()), e.key.Name(), e.key.ID())
}

// epochs follows the chain of keys through the entries and the checkpoints that are kept. It belongs to the joiner.
type epochs struct {
	cur   *epoch // of the next size; nil in a log without keys, and where log.json could not be read
	queue []epochEntry
	open  *epochEntry // read, and not covered by a kept checkpoint yet
	path  *trail      // of the open one, until it is covered
	lost  bool        // entries are missing, and epoch entries may be among them

	ids   map[uint32]uint64    // key id to epoch, of every epoch
	early map[uint32]Finding   // ids in the log's name that no epoch had yet, with a note that carries a signature by them
	ed    map[uint32]proof.Key // the Ed25519 keys of every epoch, for seals
	pins  []*pin
	seals []sealNote // signed by a key that was not known yet

	verifying []*verifying
	signed    uint64 // largest size of a note that is good
}

// An epochEntry is a control entry that names the keys of an epoch.
type epochEntry struct {
	number uint64
	keys   []proof.Key
	file   string
	control
}

// A pin is a key from outside. It stands for the checkpoints of its epoch, and if it signed the closing one, for all after it.
type pin struct {
	key     proof.Key
	epoch   int64 // -1 until an epoch has this key
	covers  bool  // it signed a checkpoint that agrees
	size    uint64
	chained bool
}

// A sealNote is the signature of a seal until its key is known.
type sealNote struct {
	name  string
	first uint64
	note  *proof.Note
}

// start begins with the keys of log.json.
func (j *joiner) startEpochs() {
	c := j.c
	e := &j.epochs
	e.ids, e.ed, e.early = map[uint32]uint64{}, map[uint32]proof.Key{}, map[uint32]Finding{}
	if !c.known || c.log.IsZero() {
		return
	}
	e.cur = &epoch{keys: c.first}
	for _, k := range c.pinned {
		e.pins = append(e.pins, &pin{key: k, epoch: -1})
	}
	j.enter(e.cur, -1)
}

// enter takes the keys of an epoch that begins.
func (j *joiner) enter(n *epoch, entry int64) {
	e := &j.epochs
	e.cur = n
	r := EpochReport{Number: n.number, Entry: entry, After: n.after}
	for _, k := range n.keys {
		r.VKeys = append(r.VKeys, k.String())
		e.ids[k.ID()] = n.number
		if f, found := e.early[k.ID()]; found {
			f.What, f.Got = "the note is "+foreign, fmt.Sprintf("key %08x of epoch %d", k.ID(), n.number)
			j.c.find(f)
		}
		if k.Type() == proof.TypeEd25519 {
			e.ed[k.ID()] = k
		}
		for _, p := range e.pins {
			if p.key.String() == k.String() {
				p.epoch = int64(n.number)
			}
		}
	}
	if rep := j.c.rep; len(rep.Epochs) >= maxEpochs {
		copy(rep.Epochs, rep.Epochs[1:])
		rep.Epochs[len(rep.Epochs)-1] = r
	} else {
		rep.Epochs = append(rep.Epochs, r)
	}
}

// queueEpoch keeps an epoch entry until the joiner gets to it: what comes before it in its batch may be covered by a checkpoint.
func (j *joiner) queueEpoch(file string, e *control) {
	number, keys, err := proof.ParseEpochEntry(e.line)
	if err != nil {
		return // c.control reports it
	}
	j.epochs.queue = append(j.epochs.queue, epochEntry{number: number, keys: keys, file: file, control: *e})
}

// epochIn says whether the next epoch entry is below size.
func (j *joiner) epochIn(size uint64) bool {
	return len(j.epochs.queue) > 0 && j.epochs.queue[0].index < size
}

// beginEpoch takes the epoch entry at the joiner's size, before its leaf.
func (j *joiner) beginEpoch() {
	e := &j.epochs
	n := e.queue[0]
	e.queue = e.queue[1:]
	f := Finding{File: n.file, Offset: n.offset, Index: int64(n.index)}
	switch {
	case e.lost || !j.c.known:
		return
	case e.cur == nil:
		f.What = "an epoch entry in a log without keys"
	case e.open != nil:
		f.What = fmt.Sprintf("the entry of epoch %d follows that of epoch %d, and no checkpoint that is kept comes between: an epoch ends with its closing checkpoint", n.number, e.open.number)
	case n.number != e.cur.number+1:
		f.What, f.Got, f.Want = "the epochs are not in order", fmt.Sprintf("epoch %d", n.number), fmt.Sprint(e.cur.number+1)
	default:
		f.What = j.badKeys(&n)
	}
	if f.What != "" {
		j.c.find(f)
		return
	}
	e.open, e.path = &n, &trail{index: n.index, left: j.f}
}

// badKeys says why the keys of an epoch cannot be this log's.
func (j *joiner) badKeys(n *epochEntry) string {
	for _, k := range n.keys {
		if k.Name() != j.c.origin {
			return fmt.Sprintf("the epoch's key is named %q, the log %q", k.Name(), j.c.origin)
		}
		if k.ID() == j.c.log.ID() {
			return fmt.Sprintf("key id %08x is that of the log key: keys of one log have different ids", k.ID())
		}
		if number, taken := j.epochs.ids[k.ID()]; taken {
			return fmt.Sprintf("key id %08x is that of a key of epoch %d: keys of one log have different ids", k.ID(), number)
		}
	}
	return ""
}

// loseEpochs gives up on keys that entries below size may name.
func (j *joiner) loseEpochs() {
	e := &j.epochs
	j.reap(0)
	e.queue, e.open, e.path, e.lost = nil, nil, nil, true
}

// foreign is what a note is that a key of another epoch signed: an epoch's keys are made for its sizes, and destroyed after them.
const foreign = "signed by a key of another epoch, whose keys do not sign this size"

// verify is epoch.verify of the present epoch, and no other epoch's key may have signed. n is not nil, and no keys are lost.
func (j *joiner) verify(cl *claim) ([]proof.Signer, error) {
	if err := j.checkIDs(cl); err != nil {
		return nil, err
	}
	return j.epochs.cur.verify(cl.note, j.c.o.Require)
}

// checkIDs looks whose signatures a note carries in the log's name.
func (j *joiner) checkIDs(cl *claim) error {
	e := &j.epochs
	for _, sig := range cl.note.Signatures {
		if sig.Name != j.c.origin || sig.ID == j.c.log.ID() {
			continue
		}
		number, known := e.ids[sig.ID]
		switch {
		case known && number != e.cur.number:
			return fmt.Errorf("it is %s: key %08x is of epoch %d, size %d belongs to epoch %d", foreign, sig.ID, number, cl.size, e.cur.number)
		case !known && len(e.early) < maxEarly:
			if _, found := e.early[sig.ID]; !found {
				e.early[sig.ID] = Finding{File: cl.file, Offset: cl.offset, Index: -1, Want: fmt.Sprintf("keys of epoch %d", e.cur.number)}
			}
		}
	}
	return nil
}

// unsigned says that the keys of its epoch did not sign a claim, and where it can tell, why.
func (j *joiner) unsigned(cl *claim, err error) Finding {
	f := cl.unsigned
	var stripped *strippedError
	if errors.As(err, &stripped) {
		for _, sig := range cl.note.Signatures {
			if _, known := j.epochs.ids[sig.ID]; known || sig.Name != j.c.origin || sig.ID == j.c.log.ID() {
				continue
			}
			f.What = fmt.Sprintf("is signed with the log key and, in its name, with key %08x, which no epoch has that the entries below %d name: %v", sig.ID, cl.size, err)
			f.Hint = "the log had another epoch when this was signed: the directory was cut back to before it and went on, or there are different histories"
			return f
		}
	}
	f.What += err.Error()
	return f
}

// A verifying is a note whose signatures a worker verifies.
type verifying struct {
	c       *check
	cl      *claim
	epoch   *epoch
	differs *Finding // how it contradicts the entries; counts if it is signed
	done    chan struct{}
	signers []proof.Signer
	err     error
}

func (v *verifying) run(*worker) {
	defer close(v.done)
	v.signers, v.err = v.epoch.verify(v.cl.note, v.c.o.Require)
}

// settleNote settles a note of the history, or of evidence/, at its size. Its epoch is known now; the workers verify its
// signatures while the entries after it are read, unless it is the one that ends the epoch.
func (j *joiner) settleNote(cl *claim) {
	e := &j.epochs
	if cl.note == nil || e.lost {
		j.settle(cl)
		return
	}
	v := &verifying{c: j.c, cl: cl, epoch: e.cur, differs: j.compare(cl), done: make(chan struct{})}
	if v.err = j.checkIDs(cl); v.err != nil {
		close(v.done)
	} else if !j.pool.submit(v) {
		v.run(nil) // the context has ended
	}
	e.verifying = append(e.verifying, v)
	if cl.kept && e.open != nil && cl.size > e.open.index {
		if j.reap(0) {
			j.closeEpoch(cl, v.differs == nil)
		}
		return
	}
	j.reap(maxVerifying)
}

// reap takes the notes that were verified, oldest first, until at most most are left. It says whether the last one was good.
func (j *joiner) reap(most int) bool {
	e := &j.epochs
	good := false
	for len(e.verifying) > most {
		v := e.verifying[0]
		e.verifying = e.verifying[1:]
		<-v.done
		good = v.err == nil
		switch {
		case v.err != nil && !v.cl.kept:
			j.c.find(j.unsigned(v.cl, v.err))
		case v.err != nil:
			j.c.history.reject(v.cl.offset, int64(len(v.cl.data)), v.err)
		case v.differs != nil:
			j.c.find(*v.differs)
		default:
			j.agree(v.cl, v.epoch, v.signers)
		}
	}
	return good
}

// agree takes a note that is signed and has the root of the entries.
func (j *joiner) agree(cl *claim, of *epoch, signers []proof.Signer) {
	if cl.kept && of != nil {
		for i := len(j.c.rep.Epochs) - 1; i >= 0 && j.c.rep.Epochs[i].Number >= of.number; i-- {
			if r := &j.c.rep.Epochs[i]; r.Number == of.number {
				r.Notes++
			}
		}
	}
	if cl.note != nil {
		j.epochs.signed = max(j.epochs.signed, cl.size)
	}
	if cl.inside {
		for _, p := range j.epochs.pins {
			p.take(cl.size, of.number, signers)
		}
	}
	if cl.basis != nil {
		j.c.basis(*cl.basis)
	}
	if cl.good != nil {
		cl.good(signers)
	}
}

func (p *pin) take(size, number uint64, signers []proof.Signer) {
	signed := slices.ContainsFunc(signers, func(s proof.Signer) bool { return s.Key.String() == p.key.String() })
	if p.epoch < 0 || !p.chained && (number != uint64(p.epoch) || !signed) {
		return
	}
	p.covers, p.size = true, max(p.size, size)
}

// closeEpoch ends the epoch with its closing checkpoint. agrees says that the note has the root of the entries.
func (j *joiner) closeEpoch(cl *claim, agrees bool) {
	e := &j.epochs
	open := e.open
	for _, p := range e.pins {
		p.chained = p.chained || p.covers && p.size == cl.size && p.epoch == int64(e.cur.number)
	}
	if agrees {
		j.c.chainFile.compare(j.link(open, cl))
	} else {
		j.c.chainFile.lost = true
	}
	e.open, e.path = nil, nil
	j.enter(&epoch{number: open.number, after: cl.size, keys: open.keys}, int64(open.index))
}

// link is the line of the file epochs for an epoch whose closing checkpoint is reached.
func (j *joiner) link(open *epochEntry, cl *claim) (line []byte, number, size uint64) {
	p := proof.InclusionProof{Index: open.index, Hashes: j.epochs.path.proof(), Checkpoint: cl.data}
	text, err := p.MarshalText()
	if err == nil {
		err = proof.CheckInclusion(p.Hashes, p.Index, cl.size, proof.LeafHash(open.line), cl.root)
	}
	if err != nil {
		panic("fsck: the inclusion proof of an epoch entry does not verify: " + err.Error()) // our own mistake
	}
	return proof.EpochLink{Number: open.number, Entry: open.line, Proof: text}.Append(nil), open.number, cl.size
}

// finishEpochs settles what only the end of the log tells.
func (j *joiner) finishEpochs() {
	c := j.c
	e := &j.epochs
	if !c.known {
		return
	}
	whole := !e.lost && !j.lost
	if open := e.open; open != nil && whole {
		f := Finding{File: open.file, Offset: open.offset, Index: int64(open.index), What: fmt.Sprintf("no closing checkpoint of epoch %d is kept, although epoch %d's keys are named here", open.number-1, open.number)}
		// The closing checkpoint is the first that is published with a size above the entry, and durable before it is published.
		if c.latest != nil && c.latestAt.Size > open.index {
			f.What += fmt.Sprintf(" and a checkpoint of size %d is published", c.latestAt.Size)
			c.find(f)
		} else {
			c.leftover(f)
		}
	}
	for _, s := range e.seals {
		j.checkSealKey(s, true)
	}
	// The log key proves nothing alone; with a key of an epoch beside it, there is nothing to say of it.
	alone := !slices.ContainsFunc(e.pins, func(p *pin) bool { return p.covers })
	for _, p := range e.pins {
		j.finishPin(p, whole, alone)
	}
	signed := e.signed
	if e.cur == nil || signed <= e.cur.after {
		signed = 0
	}
	c.chainFile.finish(whole, signed)
}

func (j *joiner) finishPin(p *pin, whole, alone bool) {
	c := j.c
	f := Finding{File: identity.LogName, Offset: -1, Index: -1}
	switch {
	case p.covers:
		c.basis(Basis{Kind: "key", Detail: p.key.String(), Size: p.size})
	case p.key.String() == c.log.String() && !alone:
	case p.key.String() == c.log.String():
		f.What, f.Got = "the pinned key is the log key, which alone proves nothing: whoever has it can sign any history", p.key.String()
		f.Hint = "pin a key of an epoch; `immutable key show` prints them"
		c.note(f)
	case p.epoch >= 0:
		f.What, f.Got = fmt.Sprintf("no checkpoint that agrees is signed with the pinned key of epoch %d", p.epoch), p.key.String()
		c.note(f)
	case !whole:
		f.What, f.Got = "the pinned key is none of the epochs that could be read", p.key.String()
		c.note(f)
	default:
		c.findFirst(Finding{
			File: identity.LogName, Offset: -1, Index: -1, What: "does not name the pinned key, and no epoch entry does", Got: strings.Join(c.rep.VKeys, " "), Want: p.key.String(),
			Hint: "the directory is of another log, was replaced together with its key, or was cut back to before the epoch of this key",
		})
	}
}

// checkSealKey verifies the signature of a seal: of any epoch's Ed25519 key. Until the end its key may be named by a later entry.
func (j *joiner) checkSealKey(s sealNote, end bool) {
	e := &j.epochs
	var known []proof.Key
	for _, sig := range s.note.Signatures {
		if k, found := e.ed[sig.ID]; found && sig.Name == k.Name() && !slices.ContainsFunc(known, func(o proof.Key) bool { return o.ID() == k.ID() }) {
			known = append(known, k)
		}
	}
	signers, err := s.note.Verify(known)
	switch {
	case err == nil && len(signers) > 0:
		return
	case err == nil && !end:
		e.seals = append(e.seals, s)
		return
	case err == nil && (e.lost || j.lost):
		j.missed(s.name, -1, int64(s.first), "the signature")
		return
	case err == nil:
		err = fmt.Errorf("%w by the Ed25519 key of any epoch", proof.ErrNoSignature)
	}
	j.c.find(Finding{File: s.name, Offset: -1, Index: int64(s.first), What: "is not a seal of this log: " + err.Error(), Hint: hintRebuild})
}
