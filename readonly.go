package immutable

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// openReadOnly reads the committed state beside whoever writes, and changes nothing. It opens a damaged or refused log
// too: what is readable before the damage is served, and reads end with the damage as their error.
func (l *Log) openReadOnly() error {
	if err := l.readIdentity(); err != nil {
		if notExist(err) {
			return fmt.Errorf("%w: no log in %s", ErrNotFound, l.dir)
		}
		return err
	}
	epochs := l.loadEpochs()
	if err := l.reload(); err != nil {
		return err
	}
	if epochs != nil { // it is why the newest checkpoint does not open either
		l.damage = epochs
	}
	return nil
}

// reload reads the directory from the start. A rotation that happens meanwhile makes the segments not meet for a moment.
func (l *Log) reload() error {
	var err error
	for try := range 5 {
		if try > 0 {
			time.Sleep(time.Duration(try) * 20 * time.Millisecond) // the writer's few renames and syncs
		}
		l.closeSegments()
		if l.store != nil {
			_ = l.store.Close()
		}
		head, herr := l.loadHead()
		if herr != nil {
			head = nil
		}
		if err = l.load(head); err == nil {
			break
		}
	}
	if err != nil {
		return l.readBefore(err)
	}
	// A writer may be in the middle of a batch: what follows the last commit is only damage if no crash or batch leaves it.
	if t := l.tail; t.Length > 0 && (t.CommitInside || t.Length > segment.MaxBatchBytes) {
		l.damage = l.tailError("bytes after the last commit that no crash leaves")
	}
	if note, err := l.readCheckpoint(); err == nil {
		if err := l.checkpointAgrees(note); err != nil {
			l.damage = err
		}
	}
	return nil
}

// checkpointAgrees compares the signed checkpoint with the entries. The writer may publish and append in between: a
// checkpoint ahead of what was loaded is looked at again with the next refresh.
func (l *Log) checkpointAgrees(note []byte) error {
	c, err := l.openCheckpoint(note)
	if err != nil {
		return l.checkpointDamage(err)
	}
	if c.Size > l.edge.size() {
		if l.tail.Length > 0 {
			return l.tailError(fmt.Sprintf("%d entries were signed, and these are damaged", c.Size))
		}
		return nil
	}
	root, err := l.rootAt(c.Size)
	if err != nil {
		return err
	}
	if root != c.Root {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the first %d entries are not the ones that were signed", c.Size),
			Ours: proof.Checkpoint{Origin: c.Origin, Size: c.Size, Root: root}.Text(), Known: c.Text(), Next: "`immutable verify` names the damage",
		}
	}
	return nil
}

// readBefore keeps what can be read of a damaged log: the segments before the damage, as far as the archives go.
func (l *Log) readBefore(damage error) error {
	var c *CorruptError
	if !errors.As(damage, &c) {
		return damage
	}
	l.damage = damage
	if l.store == nil {
		var err error
		if l.store, err = tree.OpenStore(l.fs, l.dir); err != nil {
			return err
		}
	}
	n := 0
	for n < len(l.segments) && l.segments[n].sealed() && segmentPath(l.segments[n]) != c.File {
		n++
	}
	if n > 0 && l.segments[n-1].end == 0 { // where the next one begins is unknown: it is what is damaged
		if end, err := l.sealedEnd(l.segments[n-1], segmentPath(l.segments[n-1])); err == nil {
			l.segments[n-1].end = end
		} else {
			n--
		}
	}
	kept := l.segments[:n]
	for _, s := range l.segments[n:] {
		s.close()
	}
	if n == 0 || l.segments[0].first != 0 {
		l.segments, l.edge, l.root = nil, edge{}, proof.EmptyRoot()
		return nil
	}
	l.segments = kept
	l.open = kept[n-1]
	l.store.Cut(0)
	l.store.Rebuild()
	end := kept[n-1].end
	if err := l.extend(end); err != nil {
		l.segments, l.edge, l.root = nil, edge{}, proof.EmptyRoot()
		return nil //nolint:nilerr // the damage that made us look is the one to report
	}
	f, err := l.store.Frontier(end / tree.GroupSize)
	if err != nil {
		return err
	}
	chain, err := l.store.Chain(end/tree.GroupSize - 1)
	if err != nil {
		return err
	}
	l.edge = edge{frontier: *f, chain: chain}
	l.root = f.Root()
	return nil
}

func (l *Log) readCheckpoint() ([]byte, error) {
	return vfs.ReadFile(l.fs, l.path(checkpointName), maxNote)
}

// refresh follows the writer in another process: the batches it has added to the open segment, and its rotations. In the
// writer's own process there is nothing to do.
func (l *Log) refresh() error {
	if l.w != nil || l.damaged() != nil {
		return nil
	}
	l.refreshMu.Lock()
	defer l.refreshMu.Unlock()
	l.mu.RLock()
	closed, s, at := l.closed, l.open, l.edge
	l.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	same, err := l.stillOpen(s)
	if err != nil {
		return err
	}
	length, err := s.file.Size()
	if err != nil {
		return err
	}
	if length < at.offset {
		return &CorruptError{File: openName, Offset: length, What: "the file became shorter than what was committed", Got: fmt.Sprint(length), Want: fmt.Sprint(at.offset)}
	}
	if length > at.offset {
		if err := l.follow(s, at, length); err != nil {
			return err
		}
	}
	if same {
		return nil
	}
	return l.followRotation()
}

// stillOpen says whether immutable.log is still the file that is being followed.
func (l *Log) stillOpen(s *segmentFile) (bool, error) {
	info, err := l.fs.Stat(l.path(openName))
	if err != nil {
		return false, err
	}
	if info.Inode != 0 {
		return info.Inode == s.inode, nil
	}
	f, err := l.fs.Open(l.path(openName))
	if err != nil {
		return false, err
	}
	defer f.Close()
	first, _, _, err := segment.ReadHeader(f, info.Size)
	return first == s.first, err
}

// follow takes in the batches that were added to the open segment.
func (l *Log) follow(s *segmentFile, at edge, length int64) error {
	before, groups, levels := len(s.starts), at.size()/tree.GroupSize, s.levels
	r := rawLoader{l: l, s: s, at: &at, chain: at.chain, leaves: append([]Hash(nil), at.tail...), live: true}
	f := at.frontier
	if _, err := segment.Scan(context.Background(), s.file, at.offset, length, at.chain, &f, r.visit); err != nil {
		l.mu.Lock()
		s.starts, s.levels = s.starts[:before:before], levels
		l.mu.Unlock()
		l.store.Cut(groups)
		if now, sizeErr := s.file.Size(); sizeErr == nil && now < length {
			return nil // the writer took back a batch that did not fit the disk
		}
		return fmt.Errorf("%s: %w", openName, err)
	}
	if f.Size() == l.edge.size() {
		return nil
	}
	at.frontier, at.chain, at.tail = f, r.chain, r.leaves
	l.mu.Lock()
	l.advance(at)
	l.mu.Unlock()
	return nil
}

// followRotation reads the directory again, and holds it to what was read before: the same history, only longer.
func (l *Log) followRotation() error {
	fresh := &Log{cfg: l.cfg, fs: l.fs, dir: l.dir, hostname: l.hostname, pid: l.pid, logger: l.logger, changed: make(chan struct{})}
	if err := fresh.openReadOnly(); err != nil {
		return errors.Join(err, fresh.release())
	}
	l.mu.RLock()
	size, root := l.edge.size(), l.root
	l.mu.RUnlock()
	if fresh.damage == nil && size > 0 {
		got, err := fresh.rootAt(min(size, fresh.edge.size()))
		if err != nil {
			return errors.Join(err, fresh.release())
		}
		if size > fresh.edge.size() || got != root {
			return errors.Join(&RefusedError{
				Dir: l.dir, Reason: "the directory now shows another history than before",
				Ours:  proof.Checkpoint{Origin: l.id.Origin, Size: fresh.edge.size(), Root: fresh.root}.Text(),
				Known: proof.Checkpoint{Origin: l.id.Origin, Size: size, Root: root}.Text(), Next: "keep both, and run `immutable verify`",
			}, fresh.release())
		}
	}
	if err := l.learnTree(fresh.store); err != nil {
		return errors.Join(err, fresh.release())
	}
	fresh.opened.forget()
	l.mu.Lock()
	old := l.segments
	l.segments, l.open, l.view, l.damage = fresh.segments, fresh.open, nil, fresh.damage
	l.advance(fresh.edge)
	l.mu.Unlock()
	l.opened.forget()
	for _, s := range old {
		s.close()
	}
	return fresh.store.Close()
}

// learnTree takes over the groups that another view of the same log has, so that readers keep the store they are using.
// It costs 64 bytes of memory a group.
func (l *Log) learnTree(from *tree.Store) error {
	for k := l.store.Groups(); k < from.Groups(); k++ {
		root, err := from.Group(k)
		if err != nil {
			return err
		}
		chain, err := from.Chain(k)
		if err != nil {
			return err
		}
		l.store.Append(root, chain)
	}
	return nil
}

// damaged is what ends the readable part of a log that is open read-only.
func (l *Log) damaged() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.damage
}
