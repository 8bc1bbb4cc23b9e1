package immutable

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// maxNote bounds a checkpoint file.
const maxNote = 64 << 10

// publisher signs checkpoints, at most one an interval while there is something new, off the append path.
//
// Order, so that no signature is ever contradicted: entries durable, tree and chain synced, head, history, checkpoint.
type publisher struct {
	l        *Log
	wake     chan struct{} // capacity 1: something was committed
	quit     chan struct{}
	ended    chan struct{}
	mu       sync.Mutex    // one publication at a time; guards what follows
	head     identity.Head // as it stands on the disk
	length   int64         // of the history, durable
	note     []byte        // the newest checkpoint as it stands on the disk
	size     uint64        // its size
	kept     uint64        // the last size in the history
	keptAt   time.Time
	keptNote []byte // the note of that size

	epoch      *keys.Epoch // whose keys sign; nil in a log with one key that was never rotated, and without signatures
	epochBegan time.Time
	epochFrom  uint64 // the index after its entry
	err        error  // of the last publication
	at         time.Time

	retryRotation time.Time // not before: after a rotation of keys that failed
	rotationErr   error     // of the last rotation that was due
}

// resume takes over what the disk has, after recovery: it cuts a torn note off the history. Where a crash left the
// checkpoint behind the history, the next publication copies the last kept note, or goes beyond it.
func (p *publisher) resume(l *Log, head *identity.Head) error {
	p.l, p.head = l, *head
	p.wake, p.quit, p.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	note, err := vfs.ReadFile(l.fs, l.path(checkpointName), maxNote)
	if err != nil {
		return fmt.Errorf("read the newest checkpoint: %w", err)
	}
	c, err := l.openCheckpoint(note)
	if err != nil {
		return l.checkpointDamage(err)
	}
	if err := l.checkpointFits(c, head); err != nil {
		return err
	}
	p.note, p.size = note, c.Size
	if err := p.resumeHistory(); err != nil {
		return err
	}
	return p.resumeEpoch()
}

// checkpointFits compares a checkpoint found in the directory with the entries and with the head.
func (l *Log) checkpointFits(c proof.Checkpoint, head *identity.Head) error {
	if c.Size > head.Size || head.Clean && c.Size != head.Size {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the newest checkpoint has %d entries, this host's head %d: one of them is an older copy", c.Size, head.Size),
			Ours: c.Text(), Known: headText(head), Next: "bring back the newer of the two; `immutable verify` shows which entries are there",
		}
	}
	root, err := l.rootAt(c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the first %d entries are not the ones that were signed", c.Size),
			Ours: proof.Checkpoint{Origin: c.Origin, Size: c.Size, Root: root}.Text(), Known: c.Text(), Next: "`immutable verify` names the damage; `immutable repair --from BACKUP` takes good segments from a copy",
		}
	}
	return nil
}

// resumeHistory finds the last kept size. After a crash bytes beyond what the head knows may be a torn note.
func (p *publisher) resumeHistory() error {
	l := p.l
	f, err := l.fs.OpenRW(l.path(checkpointsName))
	if err != nil {
		return fmt.Errorf("open the history of checkpoints: %w", err)
	}
	defer f.Close()
	length, err := f.Size()
	if err != nil {
		return err
	}
	if length < p.head.Kept || p.head.Clean && length != p.head.Kept {
		return &CorruptError{File: checkpointsName, Offset: min(length, p.head.Kept), What: "the history of checkpoints was cut or added to", Got: fmt.Sprintf("%d bytes", length), Want: fmt.Sprintf("%d", p.head.Kept)}
	}
	last, note, end, err := l.lastKept(f, length)
	if err != nil {
		return err
	}
	if end < length {
		if end < p.head.Kept {
			return &CorruptError{File: checkpointsName, Offset: end, What: "the last note that was kept is damaged"}
		}
		if err := l.cutHistory(f, end, length, p.size); err != nil {
			return err
		}
	}
	if !p.head.Clean {
		if err := rewriteFile(f, checkpointsName, p.head.Kept, end); err != nil {
			return err
		}
	}
	if err := l.checkpointFits(last, &p.head); err != nil {
		return err
	}
	p.kept, p.keptNote, p.keptAt, p.length = last.Size, note, l.cfg.now(), end
	return nil
}

// lastKept returns the last whole note in the history, and where it ends.
func (l *Log) lastKept(f vfs.File, length int64) (c proof.Checkpoint, note []byte, end int64, err error) {
	from := max(length-2*maxNote, 0)
	buf := make([]byte, length-from)
	if n, err := f.ReadAt(buf, from); n < len(buf) {
		return c, nil, 0, fmt.Errorf("%s: %w", checkpointsName, err)
	}
	for stop := len(buf); stop > 0; {
		at := 0
		if i := bytes.LastIndex(buf[:stop], []byte("\n\n"+l.id.Origin+"\n")); i >= 0 {
			at = i + 2
		} else if from > 0 {
			break
		}
		note, rest := l.cutNote(buf[at:])
		if c, err := l.openCheckpoint(note); err == nil {
			return c, note, length - int64(len(rest)), nil
		}
		stop = at - 1
	}
	return c, nil, 0, &CorruptError{File: checkpointsName, Offset: from, What: "no whole checkpoint at its end"}
}

// cutNote takes the first note off a history: text, empty line, signatures, and the empty line that ends it there.
func (l *Log) cutNote(b []byte) (note, rest []byte) {
	text := bytes.Index(b, []byte("\n\n"))
	if text < 0 {
		return nil, nil
	}
	end := text + 2
	if l.signed() {
		i := bytes.Index(b[end:], []byte("\n\n"))
		if i < 0 {
			return nil, nil
		}
		end += i + 1
	}
	if end >= len(b) || b[end] != '\n' {
		return nil, nil
	}
	return b[:end], b[end+1:]
}

// torn says whether the bytes after the last whole note of the history are one that a crash kept from becoming durable, as
// docs/format.md, "Torn note", defines it. signed is the size of the newest checkpoint: a note below that was durable.
func (l *Log) torn(data []byte, signed uint64) bool {
	if len(data) > maxNote || bytes.Contains(data, []byte("\n\n"+l.id.Origin+"\n")) {
		return false
	}
	_, rest, _ := bytes.Cut(data, []byte("\n"))
	line, _, found := bytes.Cut(rest, []byte("\n"))
	if !found {
		return true
	}
	size, err := strconv.ParseUint(string(line), 10, 64)
	return err != nil || strconv.FormatUint(size, 10) != string(line) || size >= signed
}

// cutHistory moves a torn last note aside and cuts it. Anything else there stays.
func (l *Log) cutHistory(f vfs.File, end, length int64, signed uint64) error {
	data := make([]byte, length-end)
	if n, err := f.ReadAt(data, end); n < len(data) {
		return err
	}
	if !l.torn(data, signed) {
		return &CorruptError{File: checkpointsName, Offset: end, What: "what follows the last whole note was not torn by a crash", Got: fmt.Sprintf("%d bytes", len(data))}
	}
	if err := l.setAside(quarantineFile(end, data), bytes.NewReader(data), 0, int64(len(data))); err != nil {
		return fmt.Errorf("move a torn note of %s aside: %w", checkpointsName, err)
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	return f.Sync()
}

func (p *publisher) start() { go p.run() }

func (p *publisher) run() {
	defer close(p.ended)
	for {
		select {
		case <-p.wake:
		case <-p.epochTimer():
			p.rotateIfDue()
			continue
		case <-p.quit:
			return
		}
		select {
		case <-time.After(p.l.cfg.CheckpointInterval):
		case <-p.quit:
			return
		}
		if err := p.publish(false); err != nil {
			p.l.logger.Error("checkpoint not published; trying again", "error", err)
			p.poke()
			continue
		}
		p.rotateIfDue()
	}
}

// poke says that there is something new.
func (p *publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// stop signs the last checkpoint and, after an orderly end, marks the head clean.
func (p *publisher) stop(orderly bool) error {
	close(p.quit)
	<-p.ended
	if !orderly {
		return nil
	}
	err := p.publish(true)
	if isNoSpace(err) && p.l.giveUpReserve() {
		err = p.publish(true)
	}
	if err != nil {
		return fmt.Errorf("sign the last checkpoint: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head.Clean {
		return nil
	}
	if p.l.owed.Load() {
		return fmt.Errorf("%w: the entry that names what recovery moved aside is not written yet; the next open tries again", ErrNoSpace)
	}
	return p.writeClean()
}

func (p *publisher) writeClean() error {
	write := func() error { return p.writeHead(func(h *identity.Head) { h.Clean = true }) }
	err := write()
	if isNoSpace(err) && p.l.giveUpReserve() {
		err = write()
	}
	return err
}

// markDirty tells the head that entries follow. It is durable before the session's first batch is written.
func (p *publisher) markDirty() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.head.Clean {
		return nil
	}
	return p.writeHead(func(h *identity.Head) { h.Clean = false })
}

func (p *publisher) writeHead(change func(*identity.Head)) error {
	head := p.head
	head.Kept = p.length
	change(&head)
	if err := p.l.writeHead(&head); err != nil {
		return err
	}
	p.head = head
	return nil
}

func (l *Log) writeHead(h *identity.Head) error {
	name := l.statePath(identity.HeadName)
	if err := vfs.WriteAtomic(l.fs, name+".new", name, h.Append(nil), 0o600); err != nil {
		return fmt.Errorf("write the head: %w", err)
	}
	return nil
}

// publish signs the committed state, if it is new. keep puts it into the history whatever its age. A checkpoint over the
// entry of the next epoch is kept too, and closes this one.
func (p *publisher) publish(keep bool) (err error) {
	if err := p.l.awaitWitnesses(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.err, p.at = err, p.l.cfg.now() }()
	if err := p.l.condemnation(); err != nil {
		return err
	}
	if err := p.closeEpoch(); err != nil {
		return err
	}
	p.l.mu.RLock()
	root, size, next := p.l.root, p.l.edge.size(), p.l.next
	p.l.mu.RUnlock()
	keep = keep || next != nil || p.l.cfg.now().Sub(p.keptAt) >= keepInterval
	if size == p.size && (!keep || p.kept == size) && p.head.Size == size {
		return nil
	}
	if err := p.consistent(size); err != nil {
		return err
	}
	if err := p.l.store.Flush(); err != nil {
		return fmt.Errorf("sync tree and chain: %w", err)
	}
	note, err := p.noteOf(proof.Checkpoint{Origin: p.l.id.Origin, Size: size, Root: root})
	if err != nil {
		return err
	}
	if err := p.writeHead(func(h *identity.Head) { h.Size, h.Root = size, root }); err != nil {
		return err
	}
	if keep && p.kept != size {
		if err := p.keep(note, size); err != nil {
			return err
		}
	}
	if !bytes.Equal(note, p.note) {
		if err := vfs.WriteAtomic(p.l.fs, p.l.path(nextDir, checkpointName), p.l.path(checkpointName), note, 0o600); err != nil {
			return fmt.Errorf("write the checkpoint: %w", err)
		}
		p.note, p.size = note, size
		p.l.onPublish(note, size)
	}
	return p.closeEpoch()
}

// settle finishes the rotation of keys that an error interrupted, if its closing checkpoint is kept.
func (p *publisher) settle() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closeEpoch()
}

// noteOf is the note of a checkpoint, which it signs unless one of that size is there: no size is signed twice.
func (p *publisher) noteOf(c proof.Checkpoint) ([]byte, error) {
	switch c.Size {
	case p.size:
		return p.note, nil
	case p.kept: // a crash left the checkpoint behind
		return p.keptNote, nil
	}
	note, err := p.l.newCheckpoint(p.epoch, c)
	if err != nil {
		return nil, err
	}
	if _, err := p.l.openCheckpoint(note); err != nil {
		return nil, fmt.Errorf("what was signed does not open: %w", err)
	}
	return note, nil
}

// consistent is asked before every signature: the head on the disk is the one this writer left, and the entries that it
// covers, read back from the disk, still yield its root. Signing a second history is the one thing a log must never do.
func (p *publisher) consistent(size uint64) error {
	onDisk, err := p.l.loadHead()
	if err != nil {
		return fmt.Errorf("read the head back before signing: %w", err)
	}
	if *onDisk != p.head {
		return fmt.Errorf("the head changed on the disk while this writer had the log (size %d, expected %d): nothing is signed", onDisk.Size, p.head.Size)
	}
	if size < p.head.Size {
		return fmt.Errorf("the log has %d entries and its head %d: nothing is signed", size, p.head.Size)
	}
	root, err := p.l.rootAt(p.head.Size)
	if err != nil {
		return fmt.Errorf("read the signed entries back before signing again: %w", err)
	}
	if root != p.head.Root {
		return fmt.Errorf("the first %d entries yield root %s, signed was %s: nothing is signed", p.head.Size, root.Base64(), p.head.Root.Base64())
	}
	return nil
}

// keep appends a note to the history. A failed append is taken back, so that the next one does not follow a torn note.
func (p *publisher) keep(note []byte, size uint64) error {
	f, err := p.l.fs.OpenRW(p.l.path(checkpointsName))
	if err != nil {
		return fmt.Errorf("keep the checkpoint: %w", err)
	}
	defer f.Close()
	record := append(append([]byte(nil), note...), '\n')
	_, err = f.WriteAt(record, p.length)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		// Synced, because checkpoints published from here on must not be followed by a crash that brings the torn note back.
		return fmt.Errorf("keep the checkpoint: %w", errors.Join(err, f.Truncate(p.length), f.Sync()))
	}
	p.length += int64(len(record)) // durable; the next head says so
	p.kept, p.keptNote, p.keptAt = size, note, p.l.cfg.now()
	return nil
}
