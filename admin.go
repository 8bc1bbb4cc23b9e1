package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// ResetClock writes a control entry after which timestamps may be lower than before: for a log whose clock had run ahead,
// so that new entries hold its last timestamp. Without that need it does nothing and says so in wrote.
func (l *Log) ResetClock(ctx context.Context) (r Receipt, wrote bool, err error) {
	if l.w == nil {
		return Receipt{}, false, l.refusal()
	}
	if l.owed.Load() {
		if err := l.writeOwed(); err != nil {
			return Receipt{}, false, err
		}
	}
	var req *request
	err = l.w.call(ctx, func() (err error) {
		req, err = l.admitReset()
		return err
	})
	if err != nil || req == nil {
		return Receipt{}, false, err
	}
	if err := wait(ctx, req); err != nil {
		return Receipt{}, false, err
	}
	return req.receipts[0], true, nil
}

// admitReset puts a clock entry before everything that waits, in the writer, between two batches: the entry names the
// timestamp of the one before it, so none may come between. It returns nil where the clock is not behind.
func (l *Log) admitReset() (*request, error) {
	last, now := l.w.next.time, l.unixNano()
	if now >= last {
		return nil, nil
	}
	control := fmt.Appendf(nil, `{"type":"clock","was":"%s","now":"%s"}`, entry.FormatTime(nil, last), entry.FormatTime(nil, now))
	req, err := l.encode([]Event{{Level: System, Message: "the clock was reset: timestamps may be lower from here on", Log: control}})
	if err != nil {
		return nil, err
	}
	req.clock = now
	p := l.w.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed != nil {
		return nil, p.closed
	}
	p.reqs = append([]*request{req}, p.reqs...)
	p.bytes += len(req.lines)
	p.entries++
	return req, nil // the writer takes it next
}

// Adoption is what Adopt found and did.
type Adoption struct {
	Origin     string
	Size       uint64
	Root       Hash
	Checkpoint string // text of the newest checkpoint
	Trusted    string // what the adoption stands on
}

// Adopt makes this host know a log that it had no head of, or a copy that shall take the original's place. It verifies the
// directory first and refuses where that is refuted, where it is behind what this host has signed, or where the private
// key is not here: writing would fork the log. It trusts that the directory is the newest state there is.
func Adopt(ctx context.Context, dir string, config *Config) (*Adoption, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, fs: cfg.fs, dir: dir, logger: cfg.Logger, changed: make(chan struct{})}
	if l.hostname, err = hostname(cfg.Hostname); err != nil {
		return nil, err
	}
	a, err := l.adopt(ctx)
	return a, errors.Join(err, l.release())
}

func (l *Log) adopt(ctx context.Context) (*Adoption, error) {
	if err := l.readIdentity(); err != nil {
		if notExist(err) {
			return nil, fmt.Errorf("%w: no log in %s", ErrNotFound, l.dir)
		}
		return nil, err
	}
	if err := l.takeLock(l.dir, lockName); err != nil {
		return nil, err
	}
	if err := l.takeLock(l.state, lockName); err != nil {
		return nil, err
	}
	if err := l.loadSigningKeys(); err != nil {
		return nil, err
	}
	known, err := l.loadHead()
	if err != nil && !notExist(err) {
		return nil, err
	}
	if known != nil && known.Clean {
		// A copy is judged by its entries: that its log.json is another file is what adoption settles.
		if info, err := l.fs.Stat(l.path(identity.LogName)); err == nil && info.Inode == known.Inode {
			return nil, fmt.Errorf("%s: this host knows this log already; nothing to adopt", l.dir)
		}
	}
	rep, err := verifyDir(ctx, l.fs, l.dir, l.cfg.StateDir, &VerifyOptions{NoHead: known == nil})
	if err != nil {
		return nil, err
	}
	if rep.Verdict == Refuted {
		return nil, &RefusedError{Dir: l.dir, Reason: "it does not verify: " + rep.Findings[0].String(), Ours: l.checkpointText(), Next: "`immutable verify` lists everything; `immutable repair --from BACKUP`, or `immutable continue OLD NEW`"}
	}
	return l.writeAdoption(known)
}

// writeAdoption writes the head of the newest checkpoint, not clean: the next Open recovers on it.
func (l *Log) writeAdoption(known *identity.Head) (*Adoption, error) {
	note, err := l.readCheckpoint()
	if err != nil {
		return nil, err
	}
	c, err := l.openCheckpoint(note)
	if err != nil {
		return nil, err
	}
	if known != nil && known.Size > c.Size { // the crash came between the two; that the entries are there was verified
		c.Size, c.Root = known.Size, known.Root
	}
	data, err := vfs.ReadFile(l.fs, l.path(identity.LogName), identity.MaxBytes)
	if err != nil {
		return nil, err
	}
	info, err := l.fs.Stat(l.path(identity.LogName))
	if err != nil {
		return nil, err
	}
	head := &identity.Head{Origin: l.id.Origin, VKey: l.id.VKey(), Log: sha256.Sum256(data), Inode: info.Inode, Size: c.Size, Root: c.Root}
	if err := l.writeHead(head); err != nil {
		return nil, err
	}
	trusted := "the newest checkpoint in the directory, signed by the log's key, as the newest there is"
	if known != nil {
		trusted = "this host's head, which the directory agrees with, and that the original is no longer written"
	}
	return &Adoption{Origin: c.Origin, Size: c.Size, Root: c.Root, Checkpoint: c.Text(), Trusted: trusted}, nil
}

// Continue makes a new log in newDir whose first entry anchors the newest checkpoint of the log in oldDir, which may be
// refused or damaged: the verdict on it stands in the entry. The old log is not changed.
func Continue(ctx context.Context, oldDir, newDir string, config *Config) (*Log, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	old := &Log{cfg: cfg, fs: cfg.fs, dir: oldDir, logger: cfg.Logger, changed: make(chan struct{})}
	old.cfg.Origin = ""
	if err := old.readIdentity(); err != nil {
		return nil, fmt.Errorf("read the old log: %w", err)
	}
	rep, err := verifyDir(ctx, cfg.fs, oldDir, cfg.StateDir, &VerifyOptions{})
	if err != nil {
		return nil, err
	}
	note, err := old.readCheckpoint()
	if err != nil {
		return nil, fmt.Errorf("read the old log's checkpoint: %w", err)
	}
	c, err := old.openOld(note)
	if err != nil {
		return nil, fmt.Errorf("read the old log's checkpoint: %w", err)
	}
	if _, err := cfg.fs.Stat(newDir + "/" + identity.LogName); err == nil {
		return nil, fmt.Errorf("%s holds a log already; continue into an empty directory", newDir)
	}
	quoted, err := json.Marshal(string(note))
	if err != nil {
		return nil, err
	}
	control := fmt.Appendf(nil, `{"type":"continue","origin":"%s","size":%d,"root":"%s","verdict":"%s","checkpoint":%s}`, c.Origin, c.Size, c.Root.Base64(), rep.Verdict, quoted)
	if err := old.leavePlace(newDir); err != nil {
		return nil, err
	}
	l, err := Open(newDir, &cfg)
	if err != nil {
		return nil, err
	}
	if _, err := l.append(ctx, []Event{{Level: System, Message: "this log continues another", Log: control}}); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// openOld opens the checkpoint of a log that may be damaged. Where its chain of keys is, the log key's signature is enough:
// the verdict beside it says what the log is worth.
func (l *Log) openOld(note []byte) (proof.Checkpoint, error) {
	if err := l.loadEpochs(); err == nil {
		if c, err := l.openCheckpoint(note); err == nil {
			return c, nil
		}
	}
	known, err := l.id.Keys()
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return proof.OpenCheckpoint(note, l.id.Origin, known)
}

// Rebuilt says what Rebuild made again.
type Rebuilt struct {
	Groups   uint64 `json:"groups"`   // group roots and chain hashes computed from entries
	Segments int    `json:"segments"` // sealed segments whose index and seal were made again
	Epochs   int    `json:"epochs"`   // lines of the chain of keys
}

// Rebuild makes tree/, chain, the chain of keys, indexes and seals again from the entries, which must yield what this host has signed.
// progress may be nil.
func (l *Log) Rebuild(ctx context.Context, progress func(done, total uint64)) (*Rebuilt, error) {
	if l.w == nil {
		return nil, l.refusal()
	}
	if err := l.sealer.wait(ctx); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(uint64, uint64) {}
	}
	out := &Rebuilt{}
	if err := l.rebuildBelow(ctx, out); err != nil {
		return nil, err
	}
	l.mu.RLock()
	list := append([]*segmentFile(nil), l.segments...)
	l.mu.RUnlock()
	for i, s := range list {
		if s.kind != archived {
			continue
		}
		a, err := l.openArchive(s)
		if err != nil {
			return out, err
		}
		idx, err := l.indexOf(ctx, s, nil, a)
		if err != nil {
			return out, err
		}
		if err := l.writeSeal(s.first, s.end, idx, archiveDir); err != nil {
			return out, err
		}
		s.forgetIndexes()
		out.Segments++
		progress(uint64(i+1), uint64(len(list)))
	}
	return out, nil
}

// rebuildBelow makes again what the signatures of seals stand on: the tree, and the chain of keys. No rotation of keys is
// under way meanwhile.
func (l *Log) rebuildBelow(ctx context.Context, out *Rebuilt) error {
	l.rotating.Lock()
	defer l.rotating.Unlock()
	if l.waiting() != nil {
		if err := l.publisher.publish(true); err != nil {
			return fmt.Errorf("close the epoch: %w", err)
		}
	}
	if err := l.w.call(ctx, func() error { return l.rebuildTree(out) }); err != nil {
		return err
	}
	var err error
	out.Epochs, err = l.remakeEpochs(ctx)
	return err
}

// rebuildTree recomputes tree/ and chain from the entries, in the writer, between two batches.
func (l *Log) rebuildTree(out *Rebuilt) error {
	l.rearranged.Add(1)
	defer l.rearranged.Add(1)
	fresh := &Log{cfg: l.cfg, fs: l.fs, dir: l.dir, state: l.state, id: l.id, hostname: l.hostname, pid: l.pid, logger: l.logger, changed: make(chan struct{})}
	fresh.cfg.ReadOnly = true
	segments, err := fresh.layout()
	fresh.segments = segments
	if err != nil {
		return errors.Join(err, fresh.release())
	}
	fresh.open = segments[len(segments)-1]
	fresh.store = l.store
	err = fresh.loadFull(true)
	fresh.store = nil
	l.sightings = fresh.sightings
	size, root := fresh.edge.size(), fresh.root
	if err = errors.Join(err, fresh.release()); err != nil {
		return fmt.Errorf("recompute the tree: %w", err)
	}
	if want, n := l.Root(); size != n || root != want {
		return l.w.fail(fmt.Errorf("the entries on the disk yield %d entries and root %s, committed were %d and %s", size, root.Base64(), n, want.Base64()))
	}
	out.Groups = l.store.Groups()
	l.mu.Lock()
	l.view = nil
	l.mu.Unlock()
	return l.store.Flush()
}

// RebuildEpochs makes the file epochs, the chain of keys, again from the entries and from the checkpoints that are kept, for
// a log that Open refuses with ErrEpochs. It says how many lines there are. Each is proven by the keys before it, so that
// nothing is trusted that was not; where the head is here, the entries must be the ones it knows.
func RebuildEpochs(ctx context.Context, dir string, config *Config) (int, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return 0, err
	}
	cfg.ReadOnly = true // of the tree nothing is written
	l := &Log{cfg: cfg, fs: cfg.fs, dir: dir, logger: cfg.Logger, changed: make(chan struct{})}
	if l.hostname, err = hostname(cfg.Hostname); err != nil {
		return 0, err
	}
	n, err := l.rebuildEpochs(ctx)
	return n, errors.Join(err, l.release())
}

func (l *Log) rebuildEpochs(ctx context.Context) (int, error) {
	if err := l.readIdentity(); err != nil {
		if notExist(err) {
			return 0, fmt.Errorf("%w: no log in %s", ErrNotFound, l.dir)
		}
		return 0, err
	}
	if err := errors.Join(l.takeLock(l.dir, lockName), l.takeLock(l.state, lockName)); err != nil {
		return 0, err
	}
	head, err := l.loadHead()
	if err != nil && !notExist(err) {
		return 0, err
	}
	if l.segments, err = l.layout(); err != nil {
		return 0, err
	}
	l.open = l.segments[len(l.segments)-1]
	if l.store, err = tree.OpenStore(l.fs, l.dir); err != nil {
		return 0, err
	}
	l.rebuilt = true
	if err := l.loadFull(true); err != nil {
		return 0, err
	}
	if head != nil {
		if err := l.agree(head); err != nil {
			return 0, err
		}
	}
	return l.remakeEpochs(ctx)
}

// remakeEpochs makes the file epochs from the entries that were seen and the kept checkpoints. An entry that none covers is
// of a rotation that goes on.
func (l *Log) remakeEpochs(ctx context.Context) (int, error) {
	if !l.signed() {
		return 0, nil
	}
	notes, err := l.CheckpointHistory()
	if err != nil {
		return 0, err
	}
	chain, err := proof.NewChain(l.id.Origin, l.id.VKeys)
	if err != nil {
		return 0, err
	}
	var data []byte
	n := 0
	for _, s := range l.sightings {
		if err := ctx.Err(); err != nil {
			return n, context.Cause(ctx)
		}
		var note []byte
		var size uint64
		for ; len(notes) > 0 && note == nil; notes = notes[1:] {
			if size, err = sizeOfNote(notes[0]); err != nil {
				return n, &CorruptError{File: checkpointsName, What: err.Error()}
			}
			if size > s.index {
				note = notes[0]
			}
		}
		if note == nil {
			break
		}
		link, err := l.epochLink(s.number, s.index, s.line, note, size)
		if err != nil {
			return n, err
		}
		if err := chain.Add(link); err != nil {
			return n, &CorruptError{File: checkpointsName, What: fmt.Sprintf("the checkpoint of size %d does not close the epoch before entry %d: %v", size, s.index, err)}
		}
		data, n = link.Append(data), n+1
	}
	if have, err := l.readEpochs(); err == nil && bytes.Equal(have, data) {
		return n, nil
	}
	if err := vfs.WriteAtomic(l.fs, l.path(nextDir, epochsName), l.path(epochsName), data, 0o600); err != nil {
		return n, err
	}
	l.chain.Store(chain)
	return n, nil
}

// sizeOfNote reads the size that a checkpoint note states, unverified.
func sizeOfNote(note []byte) (uint64, error) {
	text, _, _ := bytes.Cut(note, []byte("\n\n"))
	c, err := proof.ParseCheckpoint(string(text) + "\n")
	return c.Size, err
}

// SealedSegments lists the first indexes of the sealed segments.
func (l *Log) SealedSegments() []uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var firsts []uint64
	for _, s := range l.segments {
		if s.kind == archived {
			firsts = append(firsts, s.first)
		}
	}
	return firsts
}

// ImportRecord writes the control entry that begins an import from the earlier system: how many blocks follow, its last
// hash, and how many of its links were broken.
func (l *Log) ImportRecord(ctx context.Context, format string, blocks uint64, head string, broken uint64) (Receipt, error) {
	names, err := json.Marshal([]string{format, head})
	if err != nil {
		return Receipt{}, err
	}
	var quoted []json.RawMessage
	if err := json.Unmarshal(names, &quoted); err != nil {
		return Receipt{}, err
	}
	control := fmt.Appendf(nil, `{"type":"import","format":%s,"blocks":%d,"head":%s,"broken":%d}`, quoted[0], blocks, quoted[1], broken)
	rs, err := l.append(ctx, []Event{{Level: System, Message: "entries of an earlier log follow", Log: control}})
	if err != nil {
		return Receipt{}, err
	}
	return rs[0], nil
}
