package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// ErrEpochs is wrapped where the file epochs, the chain of keys, is damaged or does not fit the private keys of this host.
// RebuildEpochs makes it again.
var ErrEpochs = errors.New("the chain of keys does not fit")

const (
	epochsName = "epochs" // part of the format
	maxEpochs  = 1 << 30  // bytes of that file

	// rotationRetry is how long the publisher waits after a rotation of keys that failed.
	rotationRetry = time.Minute
)

// nextEpoch is an epoch between its entry and its closing checkpoint. The writer passes it on with the entry's commit, so
// that whoever reads the committed state knows whether a checkpoint of it is a closing one.
type nextEpoch struct {
	keys   *keys.Epoch
	index  uint64 // of the entry
	line   []byte // the entry
	linked bool   // the file epochs has it, durably; guarded by publisher.mu
}

// RotateKeys begins a new epoch of keys: new ones are made, the present ones sign a last checkpoint, over the entry that
// names the new ones, and are destroyed. Whoever steals the new ones cannot sign for what is in the log now. It returns when
// all of this is durable. A log with one key gets the keys of its first epoch.
func (l *Log) RotateKeys(ctx context.Context) error {
	if l.w == nil {
		return l.refusal()
	}
	if !l.signed() {
		return fmt.Errorf("%s was made without signatures: it has no keys to rotate", l.id.Origin)
	}
	if err := l.beginEpoch(ctx, false); err != nil {
		return err
	}
	if err := l.publisher.publish(true); err != nil {
		return fmt.Errorf("close the epoch: %w; the next checkpoint tries again", err)
	}
	return nil
}

// beginEpoch makes the keys of the next epoch and appends the entry that names them. With ifDue it does nothing where no
// rotation is due. It must not be called with publisher.mu held: the writer may wait for the sealer, and that for a checkpoint.
func (l *Log) beginEpoch(ctx context.Context, ifDue bool) error {
	l.rotating.Lock()
	defer l.rotating.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if ifDue && !l.publisher.rotationDue() {
		return nil
	}
	if l.waiting() != nil { // an epoch is closed before the entry of the next but one
		if err := l.publisher.publish(true); err != nil {
			return fmt.Errorf("close the epoch before: %w", err)
		}
	}
	next, err := l.nextKeys()
	if err != nil {
		return err
	}
	if l.owed.Load() {
		if err := l.writeOwed(); err != nil {
			return err
		}
	}
	req, err := l.encode([]Event{{Level: System, Message: "a new epoch of keys begins", Log: proof.EpochRecord(next.Number(), next.VKeys())}})
	if err != nil {
		return err
	}
	req.next = &nextEpoch{keys: next}
	// Not given up half-way: the entry would be committed or not, and the next call must know.
	if err := l.w.submit(context.WithoutCancel(ctx), req); err != nil {
		return fmt.Errorf("append the entry of epoch %d: %w", next.Number(), err)
	}
	return nil
}

// nextKeys returns the keys of the epoch after the current one, durable in the state directory. Those that an attempt
// before this one left, whose entry is not in the log, are used.
func (l *Log) nextKeys() (*keys.Epoch, error) {
	chain, dir := l.chain.Load(), l.statePath(keysDir)
	number := chain.Current().Number + 1
	avoid := l.ownKeys()
	next, err := keys.LoadEpoch(l.fs, dir, l.id.Origin, number)
	if err == nil {
		for _, k := range next.Keys() {
			if slices.ContainsFunc(avoid, func(o proof.Key) bool { return o.ID() == k.ID() }) {
				return nil, fmt.Errorf("the keys that are ready for epoch %d (in %s) are, in name or in truth, those of an earlier epoch: remove that file, and new ones are made", number, dir)
			}
		}
		return next, l.fs.SyncDir(dir) // the attempt may have ended before this
	}
	if !notExist(err) {
		return nil, err
	}
	return keys.CreateEpoch(l.fs, dir, l.id.Origin, number, avoid)
}

// enterEpoch is called with l.mu held when a batch is committed: it passes on what the publisher must know of it.
func (l *Log) enterEpoch(reqs []*request) {
	for _, r := range reqs {
		if r.next != nil {
			r.next.index, r.next.line = r.receipts[0].Index, bytes.TrimSuffix(r.lines, []byte("\n"))
			l.next, l.used = r.next, false
		}
		l.used = l.used || r.ordinary
	}
}

// waiting is the epoch whose entry is committed and whose predecessor is not closed yet, or nil.
func (l *Log) waiting() *nextEpoch {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.next
}

// closeEpoch ends the rotation under way once its closing checkpoint is kept: the link is durable before the old keys are
// destroyed, and they are destroyed before the new ones sign. After a crash or an error between these it goes on where it
// stopped. p.mu is held.
func (p *publisher) closeEpoch() error {
	l := p.l
	next := l.waiting()
	if next == nil || p.kept <= next.index {
		return nil
	}
	if !next.linked {
		if err := p.linkEpoch(next); err != nil {
			return fmt.Errorf("write the file %s: %w", epochsName, err)
		}
		next.linked = true
	}
	if p.epoch != nil {
		if err := keys.DestroyEpoch(l.fs, l.statePath(keysDir), p.epoch.Number()); err != nil {
			return err
		}
	}
	p.epoch, p.epochFrom, p.epochBegan = next.keys, next.index+1, epochTime(l.chain.Load(), next.line, p.keptNote)
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	l.logger.Info("keys rotated", "epoch", next.keys.Number(), "closing_size", p.kept)
	return nil
}

// linkEpoch adds a line to the file epochs. The chain itself verifies it first: the closing checkpoint, that the entry is
// under it, and the new keys.
func (p *publisher) linkEpoch(next *nextEpoch) error {
	l := p.l
	link, err := l.epochLink(next.keys.Number(), next.index, next.line, p.keptNote, p.kept)
	if err != nil {
		return err
	}
	chain := l.chain.Load().Clone()
	if err := chain.Add(link); err != nil {
		return err
	}
	data, err := l.readEpochs()
	if err != nil {
		return err
	}
	have, err := proof.ParseEpochLinks(data)
	if err != nil || uint64(len(have))+1 != link.Number {
		return l.epochsDamage("it changed while this writer had the log: %d lines (%v)", len(have), err)
	}
	if err := vfs.WriteAtomic(l.fs, l.path(nextDir, epochsName), l.path(epochsName), link.Append(data), 0o600); err != nil {
		return err
	}
	l.chain.Store(chain)
	return nil
}

// epochLink makes the line of the file epochs for the entry at index and the closing checkpoint of size.
func (l *Log) epochLink(number, index uint64, line, note []byte, size uint64) (proof.EpochLink, error) {
	l.mu.RLock()
	at, root := l.edge, l.root
	l.mu.RUnlock()
	v, err := l.store.View(at.size(), root, at.tail)
	if err != nil {
		return proof.EpochLink{}, err
	}
	hashes, err := l.inclusion(context.Background(), v, &at, index, size)
	if err != nil {
		return proof.EpochLink{}, err
	}
	text, err := proof.InclusionProof{Index: index, Hashes: hashes, Checkpoint: note}.MarshalText()
	return proof.EpochLink{Number: number, Entry: line, Proof: text}, err
}

// rotationDue says whether the current epoch has lasted long enough, or signed for enough entries, and was used: idle logs
// do not rotate. An epoch that seems to begin a whole duration in the future is of unknown age, because the clock was set
// back, and due; one that begins less far ahead is waited for.
func (p *publisher) rotationDue() bool {
	l := p.l
	if !l.rotates() {
		return false
	}
	p.mu.Lock()
	began, from, retry := p.epochBegan, p.epochFrom, p.retryRotation
	p.mu.Unlock()
	l.mu.RLock()
	used, next, size := l.used, l.next, l.edge.size()
	l.mu.RUnlock()
	if !used || next != nil || time.Now().Before(retry) {
		return false
	}
	if n := l.cfg.EpochEntries; n > 0 && size >= from && size-from >= n {
		return true
	}
	age, d := l.cfg.now().Sub(began), l.cfg.EpochDuration
	return d > 0 && (age >= d || age <= -d)
}

// rotates says whether this log changes its keys by itself.
func (l *Log) rotates() bool {
	return l.signed() && (l.cfg.EpochDuration > 0 || l.cfg.EpochEntries > 0)
}

// rotateIfDue begins a new epoch where one is due. The next publication closes the old one. A failure is not the appender's:
// it is reported and tried again.
func (p *publisher) rotateIfDue() {
	if !p.rotationDue() {
		return
	}
	err := p.l.beginEpoch(context.Background(), true)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rotationErr = err; err == nil || errors.Is(err, ErrClosed) || errors.Is(err, ErrWriterFailed) {
		return
	}
	p.retryRotation = time.Now().Add(rotationRetry)
	p.l.logger.Error("keys not rotated; trying again", "error", err)
}

// epochTimer fires when it is worth asking again whether a rotation is due: an epoch in use ends on time although nothing
// is appended. It is nil where the next append is soon enough.
func (p *publisher) epochTimer() <-chan time.Time {
	l := p.l
	l.mu.RLock()
	used := l.used
	l.mu.RUnlock()
	d := l.cfg.EpochDuration
	if !l.rotates() || d <= 0 || !used {
		return nil
	}
	p.mu.Lock()
	age, retry := l.cfg.now().Sub(p.epochBegan), p.retryRotation
	p.mu.Unlock()
	return time.After(max(min(d-age, d), time.Until(retry), time.Second))
}

// newCheckpoint signs a checkpoint with the log key and every key of the current epoch; in a log without signatures it is
// the text and an empty line.
func (l *Log) newCheckpoint(e *keys.Epoch, c proof.Checkpoint) ([]byte, error) {
	if l.signer == nil {
		return []byte(c.Text() + "\n"), nil
	}
	return keys.SignCheckpoint(l.signer, e, c, uint64(l.unixNano())/uint64(time.Second))
}

// signSeal makes the note of a seal, signed by the Ed25519 key of the current epoch; in a log without signatures, its text
// and an empty line.
func (l *Log) signSeal(text string) ([]byte, error) {
	l.publisher.mu.Lock() // a closed epoch's key signs nothing
	defer l.publisher.mu.Unlock()
	if e := l.publisher.epoch; e != nil {
		return keys.SignSeal(e, text)
	}
	if l.signer != nil {
		return l.signer.Sign(text)
	}
	return []byte(text + "\n"), nil
}

// openSeal returns the text of a seal that the Ed25519 key of any of the log's epochs signed; in a log without signatures,
// of any seal.
func (l *Log) openSeal(note []byte) (string, error) {
	text, err := l.chain.Load().OpenSeal(note)
	if err != nil && l.followKeys() {
		text, err = l.chain.Load().OpenSeal(note)
	}
	return text, err
}

// openCheckpoint opens a checkpoint of this log: in a log with keys, the log key and every key of its epoch must have
// signed it.
func (l *Log) openCheckpoint(note []byte) (proof.Checkpoint, error) {
	c, _, err := l.chain.Load().Open(note, proof.RequireAll)
	if err != nil && l.followKeys() {
		c, _, err = l.chain.Load().Open(note, proof.RequireAll)
	}
	return c, err
}

// followKeys reads the chain of keys again, in a reader beside a writer: the writer may have changed its keys. It says
// whether there is a longer one.
func (l *Log) followKeys() bool {
	if !l.cfg.ReadOnly || !l.signed() {
		return false
	}
	before := l.chain.Load().Current().Number
	return l.loadEpochs() == nil && l.chain.Load().Current().Number > before
}

// signed says whether the log has keys.
func (l *Log) signed() bool { return len(l.id.VKeys) > 0 }

// CurrentKeys are the keys, as signed-note vkeys, that sign checkpoints now: the log key, then the Ed25519 and the ML-DSA-44
// key of the current epoch. A log that was made with one key has that one only, until its keys are rotated.
func (l *Log) CurrentKeys() []string {
	if l.cfg.ReadOnly {
		l.followKeys()
	}
	var out []string
	chain := l.chain.Load()
	if k, ok := chain.LogKey(); ok {
		out = append(out, k.String())
	}
	for _, k := range chain.Current().Keys {
		if len(out) == 0 || k.String() != out[0] {
			out = append(out, k.String())
		}
	}
	return out
}

// Epoch is the number of the current epoch of keys, 0 for the first.
func (l *Log) Epoch() uint64 {
	if l.cfg.ReadOnly {
		l.followKeys()
	}
	return l.chain.Load().Current().Number
}

// OpenCheckpoint verifies a checkpoint of this log, as Checkpoint and CheckpointHistory give them: the log key and every
// key of the epoch that its size belongs to must have signed it. In a log without signatures it proves nothing.
func (l *Log) OpenCheckpoint(note []byte) (proof.Checkpoint, error) { return l.openCheckpoint(note) }

// KeyChain returns the chain of keys: for each epoch after the first a line that proves its keys by those of the epoch
// before. It is empty in a log whose keys were never rotated. Kept elsewhere, it lets whoever knows the keys of one epoch
// follow them to the newest; [proof.ParseEpochLinks] reads it.
func (l *Log) KeyChain() ([]byte, error) { return l.readEpochs() }

func (l *Log) readEpochs() ([]byte, error) {
	data, err := vfs.ReadFile(l.fs, l.path(epochsName), maxEpochs)
	if notExist(err) {
		return nil, nil
	}
	return data, err
}

// loadEpochs reads the chain of keys from the file epochs. Each line is proven by the keys before it.
func (l *Log) loadEpochs() error {
	data, err := l.readEpochs()
	if err != nil {
		return err
	}
	chain, err := proof.NewChain(l.id.Origin, l.id.VKeys)
	if err != nil {
		return err
	}
	links, parseErr := proof.ParseEpochLinks(data)
	var last *proof.EpochLink
	for i := range links {
		if err := chain.Add(links[i]); err != nil {
			return l.epochsDamage("%w", err)
		}
		last = &links[i]
	}
	if parseErr != nil {
		return l.epochsDamage("%w", parseErr)
	}
	began, from := timeOf(l.id.Created), uint64(0)
	if last != nil {
		p, err := proof.ParseInclusionProof(last.Proof) // again: the chain has verified it
		if err != nil {
			return err
		}
		began, from = epochTime(chain, last.Entry, p.Checkpoint), p.Index+1
	}
	l.chain.Store(chain)
	l.mu.Lock()
	l.epochBegan, l.epochFrom = began, from
	l.mu.Unlock()
	return nil
}

// epochTime is when the current epoch of the chain began, by this host's clock at that time: what the ML-DSA signature of the
// checkpoint that closed the epoch before says. Where that has none it is the entry's timestamp, which may have been held
// back by a clock that had run ahead.
func epochTime(chain *proof.Chain, line, closing []byte) time.Time {
	epochs := chain.Epochs()
	if n, err := proof.ParseNote(closing); err == nil && len(epochs) > 1 {
		signers, _ := n.Verify(epochs[len(epochs)-2].Keys) // the chain has verified them
		for _, s := range signers {
			if !s.Time.IsZero() {
				return s.Time
			}
		}
	}
	nano, _, _ := entry.Peek(line)
	return timeOf(nano)
}

// checkpointDamage is an error about a checkpoint that does not open.
func (l *Log) checkpointDamage(err error) error {
	what := err.Error()
	var stripped *proof.StrippedError
	if errors.As(err, &stripped) {
		what += "; or the file " + epochsName + " lacks lines, which `immutable rebuild` makes again"
	}
	return &CorruptError{File: checkpointName, What: what}
}

// epochsDamage is an error about the file epochs, which is derived: RebuildEpochs makes it again.
func (l *Log) epochsDamage(format string, args ...any) error {
	return &RefusedError{
		Dir: l.dir, Reason: fmt.Errorf("the file "+epochsName+": "+format, args...).Error(),
		Next: "`immutable rebuild` makes it again from the entries and the checkpoints that are kept", err: ErrEpochs,
	}
}

// loadSigningKeys loads the chain of keys and the private keys that sign now. There must be those of the epoch with which the
// file epochs ends; what else may be there is the next epoch's, and what a crash left of closed ones.
func (l *Log) loadSigningKeys() error {
	if !l.signed() {
		return nil
	}
	if err := l.loadLogKey(); err != nil {
		return err
	}
	if err := l.loadEpochs(); err != nil {
		return err
	}
	dir, now := l.statePath(keysDir), l.chain.Load().Current()
	have, err := keys.ListEpochs(l.fs, dir)
	if err != nil {
		return err
	}
	l.closedEpochs = nil
	for _, n := range have {
		switch {
		case n > now.Number+1:
			return l.epochsDamage("it ends with epoch %d, and this host has the private keys of epochs %d (in %s): lines are missing", now.Number, have, dir)
		case n < now.Number:
			l.closedEpochs = append(l.closedEpochs, n)
		}
	}
	l.epochKeys = nil
	if len(now.Keys) == 1 { // of a log with one key, which is the log key
		return nil
	}
	l.epochKeys, err = keys.LoadEpoch(l.fs, dir, l.id.Origin, now.Number)
	switch {
	case notExist(err) && len(have) > 0:
		return l.epochsDamage("it ends with epoch %d, and this host has the private keys of epochs %d (in %s): a line is missing, or a key file is", now.Number, have, dir)
	case notExist(err):
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("this host does not have the private keys of epoch %d (looked in %s)", now.Number, dir),
			Ours: l.checkpointText(), Next: "put the key file there and open again; or `immutable continue OLD NEW` starts a new log that anchors this one",
		}
	case err != nil:
		return err
	}
	return l.sameKeys(l.epochKeys, now.Keys)
}

func (l *Log) sameKeys(have *keys.Epoch, want []proof.Key) error {
	for i, k := range have.Keys() {
		if len(want) != 2 || want[i].String() != k.String() {
			return &RefusedError{
				Dir: l.dir, Reason: fmt.Sprintf("the private keys of epoch %d in %s are not the ones that the log names", have.Number(), l.statePath(keysDir)),
				Ours: l.checkpointText(), Next: "put the right key file there; or `immutable continue OLD NEW` starts a new log that anchors this one",
			}
		}
	}
	return nil
}

// epochMark is in every entry that begins an epoch, and may be in others.
var epochMark = []byte(`"log":{"type":"epoch",`)

// sighting is an entry that begins an epoch, seen while the entries were read.
type sighting struct {
	index  uint64
	number uint64
	keys   []proof.Key
	line   []byte
}

// sight notes an entry that begins an epoch. Entries that rotation carried over come twice.
func (l *Log) sight(index uint64, line []byte) {
	if !bytes.Contains(line, epochMark) {
		return
	}
	number, epochKeys, err := proof.ParseEpochEntry(line)
	if n := len(l.sightings); err != nil || n > 0 && l.sightings[n-1].index >= index {
		return // an application's entry, or seen before
	}
	l.sightings = append(l.sightings, sighting{index, number, epochKeys, bytes.Clone(line)})
}

// resumeEpoch takes over the rotation that a crash interrupted, and destroys what it left of closed epochs. After an
// unclean close all raw segments were read, and an entry that waits for its closing checkpoint is there: segments are sealed
// below a kept checkpoint, and a checkpoint kept above the entry would be the closing one.
func (p *publisher) resumeEpoch() error {
	l := p.l
	l.mu.RLock()
	p.epoch, p.epochBegan, p.epochFrom = l.epochKeys, l.epochBegan, l.epochFrom
	l.mu.RUnlock()
	dir := l.statePath(keysDir)
	for _, n := range l.closedEpochs {
		if err := keys.DestroyEpoch(l.fs, dir, n); err != nil {
			return err
		}
	}
	if len(l.sightings) == 0 || !l.signed() {
		return nil
	}
	seen, current := l.sightings[len(l.sightings)-1], l.chain.Load().Current().Number
	if seen.number <= current {
		return nil
	}
	if seen.number != current+1 {
		return l.epochsDamage("it ends with epoch %d, and entry %d begins epoch %d", current, seen.index, seen.number)
	}
	next, err := keys.LoadEpoch(l.fs, dir, l.id.Origin, seen.number)
	if notExist(err) {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("entry %d begins epoch %d, and this host does not have its private keys (looked in %s)", seen.index, seen.number, dir),
			Ours: l.checkpointText(), Next: "put the key file there and open again; or `immutable continue OLD NEW` starts a new log that anchors this one",
		}
	}
	if err != nil {
		return err
	}
	if err := l.sameKeys(next, seen.keys); err != nil {
		return err
	}
	l.next = &nextEpoch{keys: next, index: seen.index, line: seen.line}
	return nil
}

// resumeRotation goes on with a rotation that recovery found: what is left to do of it is done now, or with the next
// checkpoint.
func (l *Log) resumeRotation() error {
	if l.waiting() == nil {
		return nil
	}
	l.publisher.poke() // signs the closing checkpoint, if none is kept
	l.publisher.mu.Lock()
	defer l.publisher.mu.Unlock()
	if err := l.publisher.closeEpoch(); err != nil && !isNoSpace(err) {
		return err
	}
	return nil
}
