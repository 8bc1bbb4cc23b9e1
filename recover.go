package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// holder is what a writer says of itself in the lock file.
type holder struct {
	PID      int    `json:"pid"`
	Hostname string `json:"host"`
	Since    string `json:"since"`
}

// openLocked takes the log for writing: lock, identity, head, then recovery as docs/format.md lists it.
func (l *Log) openLocked() error {
	if err := l.takeLock(l.path(), lockName); err != nil {
		return err
	}
	if err := l.readIdentity(); notExist(err) {
		if l.cfg.MustExist {
			return fmt.Errorf("%w: no log in %s; `immutable init --dir %s` makes one", ErrNotFound, l.dir, l.dir)
		}
		if err := l.create(); err != nil {
			return fmt.Errorf("make a new log in %s: %w", l.dir, err)
		}
	} else if err != nil {
		return err
	}
	if err := l.takeLock(l.state, lockName); err != nil {
		return err
	}
	head, err := l.readHead()
	if err != nil {
		return err
	}
	if err := l.loadKey(); err != nil {
		return err
	}
	return l.recover(head)
}

func (l *Log) takeLock(dir, name string) error {
	if err := vfs.MkdirAll(l.fs, dir, 0o700); err != nil {
		return err
	}
	me, err := json.Marshal(holder{PID: int(l.pid), Hostname: l.hostname, Since: l.cfg.now().UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	lock, err := l.fs.Lock(filepath.Join(dir, name), me)
	if err != nil {
		var held *vfs.LockedError
		if !errors.As(err, &held) {
			return fmt.Errorf("lock %s: %w", dir, err)
		}
		var other holder
		_ = json.Unmarshal(held.Holder, &other) // empty for the instant in which the other writes it
		return &LockedError{Dir: l.dir, PID: other.PID, Hostname: or(other.Hostname, "unknown"), Since: or(other.Since, "a moment ago")}
	}
	l.locks = append(l.locks, lock)
	return nil
}

// readIdentity reads log.json and finds this host's state directory for the log it names.
func (l *Log) readIdentity() error {
	data, err := vfs.ReadFile(l.fs, l.path(identity.LogName), identity.MaxBytes)
	if err != nil {
		return err
	}
	id, err := identity.ParseLog(data)
	if err != nil {
		return &CorruptError{File: identity.LogName, What: err.Error()}
	}
	if l.cfg.Origin != "" && l.cfg.Origin != id.Origin {
		return fmt.Errorf("%s holds the log %s, not %s", l.dir, id.Origin, l.cfg.Origin)
	}
	if l.vkeys, err = id.Keys(); err != nil {
		return err
	}
	l.id, l.state = id, identity.Dir(l.cfg.StateDir, id.Origin)
	return nil
}

// readHead reads what this host knows of the log, and refuses a log it does not know or a copy of the one it knows.
func (l *Log) readHead() (*identity.Head, error) {
	head, err := l.loadHead()
	if notExist(err) {
		return nil, &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("this host has no head of the log %s (looked in %s): it was written elsewhere, or its state was lost", l.id.Origin, l.state),
			Ours: l.checkpointText(), Next: "`immutable adopt` checks it and, with its private key in " + l.statePath(keysDir) + ", goes on; `immutable continue OLD NEW` starts a new log that anchors it",
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := l.fs.Stat(l.path(identity.LogName))
	if err != nil {
		return nil, err
	}
	data, err := vfs.ReadFile(l.fs, l.path(identity.LogName), identity.MaxBytes)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); head.Log != sum || head.VKey != l.id.VKey() || head.Origin != l.id.Origin {
		return nil, &CorruptError{File: identity.LogName, What: "it is not the one this host's head names", Got: fmt.Sprintf("SHA-256 %x", sum), Want: fmt.Sprintf("%x", head.Log)}
	}
	if head.Inode != info.Inode && head.Inode != 0 && info.Inode != 0 {
		return nil, &RefusedError{
			Dir: l.dir, Reason: "this directory is a copy, or was restored: its log.json is not the file this host's head knows",
			Ours: l.checkpointText(), Known: headText(head), Next: "open the original; or, if this copy shall take its place, `immutable adopt`",
		}
	}
	return head, nil
}

func (l *Log) loadHead() (*identity.Head, error) {
	data, err := vfs.ReadFile(l.fs, l.statePath(identity.HeadName), identity.MaxBytes)
	if err != nil {
		return nil, err
	}
	head, err := identity.ParseHead(data)
	if err != nil {
		return nil, &CorruptError{File: l.statePath(identity.HeadName), What: err.Error()}
	}
	return head, nil
}

func (l *Log) loadKey() error {
	if len(l.id.VKeys) == 0 {
		return nil
	}
	signer, err := keys.Load(l.fs, l.statePath(keysDir), l.id.Origin)
	if notExist(err) {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("this host does not have the log's private key (looked in %s)", l.statePath(keysDir)),
			Ours: l.checkpointText(), Next: "put the key there and open again; or `immutable continue OLD NEW` starts a new log that anchors this one",
		}
	}
	if err != nil {
		return err
	}
	if signer.VKey() != l.id.VKey() {
		return fmt.Errorf("private key in %s belongs to %s, the log has %s", l.statePath(keysDir), signer.VKey(), l.id.VKey())
	}
	l.signer = signer
	return nil
}

// checkpointText is the newest checkpoint's text for an error message, or why there is none.
func (l *Log) checkpointText() string {
	data, err := vfs.ReadFile(l.fs, l.path(checkpointName), maxNote)
	if err != nil {
		return "no checkpoint: " + err.Error()
	}
	if c, err := proof.OpenCheckpoint(data, l.id.Origin, l.vkeys); err == nil {
		return c.Text()
	}
	return "a checkpoint without a valid signature"
}

func headText(h *identity.Head) string {
	return proof.Checkpoint{Origin: h.Origin, Size: h.Size, Root: h.Root}.Text()
}

// recover brings the directory to a committed state, in the order that docs/format.md, "Recovery", gives, and leaves
// l ready for appends. Nothing that it finds is counted, served or signed before the end.
func (l *Log) recover(head *identity.Head) error {
	if err := l.settleNames(head); err != nil {
		return err
	}
	if err := l.clearNext(); err != nil {
		return err
	}
	if err := l.finishRotation(); err != nil {
		return err
	}
	if err := l.load(head); err != nil {
		return err
	}
	if err := l.agree(head); err != nil {
		return err
	}
	if !head.Clean {
		if err := l.rewrite(head); err != nil {
			return err
		}
	}
	if err := l.cutTail(head); err != nil {
		return err
	}
	if err := l.publisher.resume(l, head); err != nil {
		return err
	}
	if !l.recomputed {
		return nil
	}
	// What tree/ and chain lacked or had wrong is put right now: nothing may ever be appended that would do it later.
	if err := l.store.Flush(); err != nil && !isNoSpace(err) {
		return fmt.Errorf("sync tree and chain: %w", err)
	}
	return nil
}

// settleNames makes every name that is visible durable. The writer before may have been killed between a rename and the
// sync of its directory: what this session acknowledges must not stand on names that a power cut takes back. A clean head
// is written after everything else was synced, except log.json's name.
func (l *Log) settleNames(head *identity.Head) error {
	dirs := []string{l.path()}
	if !head.Clean {
		dirs = append(dirs, l.state, l.path(pendingDir), l.path(archiveDir), l.path(indexDir), l.path(quarantineDir), l.path(nextDir), l.path("tree"))
	}
	for _, dir := range dirs {
		if err := l.fs.SyncDir(dir); err != nil && !notExist(err) {
			return fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return nil
}

func (l *Log) clearNext() error {
	names, err := l.fs.ReadDir(l.path(nextDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.fs.Remove(l.path(nextDir, name)); err != nil {
			return fmt.Errorf("empty %s: %w", nextDir, err)
		}
	}
	return nil
}

// finishRotation takes back a rotation that a crash stopped before the new immutable.log was in place.
func (l *Log) finishRotation() error {
	names, err := l.fs.ReadDir(l.path(pendingDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		same, err := l.sameFile(l.path(pendingDir, name), l.path(openName))
		if err != nil {
			return err
		}
		if !same {
			continue
		}
		if err := l.fs.Remove(l.path(pendingDir, name)); err != nil {
			return err
		}
		if err := l.fs.SyncDir(l.path(pendingDir)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) sameFile(a, b string) (bool, error) {
	x, err := l.fs.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := l.fs.Stat(b)
	if err != nil {
		return false, err
	}
	return x.Inode != 0 && x.Inode == y.Inode && x.Dev == y.Dev, nil
}

// load reads the directory into l: segments, tree, edge. head may be nil (read-only, unknown here). What follows the last
// valid commit is left in l.tail; whether the root is the right one is for agree to say.
func (l *Log) load(head *identity.Head) error {
	segments, err := l.layout()
	l.segments = segments
	if err != nil {
		return err
	}
	l.open = segments[len(segments)-1]
	if l.store, err = tree.OpenStore(l.fs, l.dir); err != nil {
		return err
	}
	if head != nil && head.Clean && !l.hasPending() {
		if ok, err := l.loadClean(head); ok || err != nil {
			return err
		}
	}
	if head != nil && !head.Clean && !l.cfg.ReadOnly {
		// What the arrays have of raw segments is written again, like their bytes: the page cache may show what the disk
		// does not have.
		raw := 0
		for segments[raw].kind == archived {
			raw++
		}
		l.store.Cut(segments[raw].first / tree.GroupSize)
	}
	err = l.loadFull(false)
	var mismatch *rebuildError
	if errors.As(err, &mismatch) {
		l.logger.Warn("tree/ and chain do not fit the entries; rebuilding them", "reason", mismatch.reason)
		err = l.loadFull(true)
	}
	return err
}

func (l *Log) hasPending() bool {
	for _, s := range l.segments {
		if s.kind == pending {
			return true
		}
	}
	return false
}

// rebuildError says that tree/ or chain contradict the segments, so that the state must be computed from the archives.
type rebuildError struct{ reason string }

func (e *rebuildError) Error() string { return e.reason }

// loadClean is the fast way after a clean close: the tree's right edge and the last group must yield exactly the head.
// ok is false where they do not; the full way then says why.
func (l *Log) loadClean(head *identity.Head) (ok bool, err error) {
	whole := head.Size / tree.GroupSize
	if l.store.Groups() != whole || head.Size < l.open.first {
		return false, nil
	}
	f, err := l.store.Frontier(whole)
	if err != nil {
		return false, nil //nolint:nilerr // the full way finds and names the damage
	}
	var chain Hash
	if whole > 0 {
		if chain, err = l.store.Chain(whole - 1); err != nil {
			return false, nil //nolint:nilerr // as above
		}
	}
	lines, start, err := lastLines(l.open.file, l.open.length, int(head.Size%tree.GroupSize))
	if err != nil || len(lines) == 0 {
		return false, nil //nolint:nilerr // as above
	}
	commit := lines[len(lines)-1]
	var tail []Hash
	var last int64
	for _, line := range lines[:len(lines)-1] {
		leaf := leafHash(line)
		chain = proof.ChainHash(chain, leaf)
		f.Append(leaf)
		tail = append(tail, leaf)
	}
	if head.Size > 0 {
		if last, err = l.lastTime(lines); err != nil {
			return false, nil //nolint:nilerr // as above
		}
	}
	from, _, _, _, err := segment.ParseCommit(commit) // where the last batch began is for verify to check
	want := segment.AppendCommit(nil, from, head.Size, chain, head.Root)
	if err != nil && head.Size == l.open.first && len(tail) == 0 { // nothing but the segment line
		want = segment.AppendHeader(nil, head.Size, chain)
	}
	if f.Root() != head.Root || !bytes.Equal(commit, want[:len(want)-1]) {
		return false, nil
	}
	l.open.levels = [NumLevels]uint64{}
	for _, line := range lines[:len(lines)-1] {
		if _, level, ok := entry.Peek(line); ok {
			l.open.levels[level]++
		}
	}
	l.open.from = whole
	l.open.starts, l.open.earlyEnd = nil, l.open.length
	if len(tail) > 0 {
		l.open.starts, l.open.earlyEnd = []int64{start}, start
	}
	l.edge = edge{frontier: *f, chain: chain, tail: tail, time: last, offset: l.open.length}
	l.root = head.Root
	return true, nil
}

// lastTime is the timestamp of the log's last entry: in the lines at its end, or in the segment before.
func (l *Log) lastTime(lines [][]byte) (int64, error) {
	if len(lines) > 1 {
		return timestampOf(lines[len(lines)-2])
	}
	if l.open.length > int64(len(lines[0]))+1 { // the last group is in this segment
		all, _, err := lastLines(l.open.file, l.open.length, 1)
		if err != nil || len(all) < 2 {
			return 0, fmt.Errorf("find the last entry: %w", err)
		}
		return timestampOf(all[0])
	}
	return l.archivedTime()
}

// archivedTime is the timestamp of the last entry of the segment before the open one, which is sealed.
func (l *Log) archivedTime() (int64, error) {
	k := l.open.first/tree.GroupSize - 1
	s := l.segments[len(l.segments)-2]
	a, err := l.openArchive(s)
	if err != nil {
		return 0, err
	}
	data, err := a.Group(nil, int(k-s.first/tree.GroupSize))
	if err != nil {
		return 0, err
	}
	all, err := segment.SplitLines(nil, data)
	if err != nil {
		return 0, err
	}
	return timestampOf(all[len(all)-1])
}

// lastLines returns the last line of a file and the n entry lines before it, commit lines between them left out, and
// where the first of the entries begins. It reads backwards and no more than it must.
func lastLines(r io.ReaderAt, length int64, n int) (lines [][]byte, start int64, err error) {
	var buf []byte
	for step := int64(64 << 10); ; step *= 2 {
		from := max(length-step, 0)
		buf = make([]byte, length-from)
		if m, err := r.ReadAt(buf, from); m < len(buf) {
			return nil, 0, err
		}
		all, err := segment.SplitLines(nil, buf)
		if err != nil {
			return nil, 0, err
		}
		pos := length
		for i := len(all) - 1; i >= 0; i-- {
			if pos -= int64(len(all[i])) + 1; i == 0 && from > 0 {
				break // may be the rest of a line
			}
			switch {
			case i == len(all)-1, bytes.HasPrefix(all[i], []byte(`{"id":`)):
				lines = append(lines, all[i])
			case !bytes.HasPrefix(all[i], []byte(`{"commit":`)):
				return nil, 0, fmt.Errorf("segment ends after %d of %d entries", len(lines)-1, n)
			}
			if len(lines) == n+1 {
				for a, b := 0, len(lines)-1; a < b; a, b = a+1, b-1 {
					lines[a], lines[b] = lines[b], lines[a]
				}
				return lines, pos, nil
			}
		}
		if from == 0 {
			return nil, 0, fmt.Errorf("file has fewer than %d entries", n)
		}
		lines = lines[:0]
	}
}

// loadFull recomputes every raw segment, on top of the tree that tree/ has for the archives, or, to rebuild it, of the
// archives themselves.
func (l *Log) loadFull(rebuild bool) error {
	l.recomputed = true
	if rebuild {
		l.store.Cut(0)
		l.store.Rebuild()
	}
	raw := 0
	for raw < len(l.segments)-1 && l.segments[raw].kind == archived {
		raw++
	}
	first := l.segments[raw].first
	if err := l.extend(first); err != nil {
		return err
	}
	f, err := l.store.Frontier(first / tree.GroupSize)
	if err != nil {
		return &rebuildError{err.Error()}
	}
	at := edge{frontier: *f}
	if first > 0 {
		if at.chain, err = l.store.Chain(first/tree.GroupSize - 1); err != nil {
			return &rebuildError{err.Error()}
		}
	}
	for i, s := range l.segments[raw:] {
		if err := l.loadRaw(s, &at, rebuild, i == 0); err != nil {
			return err
		}
	}
	if groups := at.size() / tree.GroupSize; l.store.Groups() > groups {
		l.store.Cut(groups)
	}
	if at.size() > 0 && at.size() == l.open.first && raw == len(l.segments)-1 { // all entries are in archives
		if at.time, err = l.archivedTime(); err != nil {
			return err
		}
	}
	l.edge, l.root = at, at.frontier.Root()
	return nil
}

// extend reads into the store what it lacks of the archived segments before index first.
func (l *Log) extend(first uint64) error {
	var f *tree.Frontier
	var chain Hash
	for _, s := range l.segments {
		if s.end == 0 || s.end > first || s.end/tree.GroupSize <= l.store.Groups() {
			continue
		}
		a, err := l.openArchive(s)
		if err != nil {
			return err
		}
		if f == nil {
			k := l.store.Groups()
			if k < s.first/tree.GroupSize {
				return &rebuildError{fmt.Sprintf("tree/ has %d groups, the archive continues at %d", k, s.first/tree.GroupSize)}
			}
			if f, err = l.store.Frontier(k); err != nil {
				return &rebuildError{err.Error()}
			}
			if k > 0 {
				if chain, err = l.store.Chain(k - 1); err != nil {
					return &rebuildError{err.Error()}
				}
			}
		}
		if chain, err = l.extendFrom(s, a, f, chain); err != nil {
			return err
		}
	}
	return nil
}

// extendFrom adds the groups of an archive that the store lacks; f and chain are the state there.
func (l *Log) extendFrom(s *segmentFile, a *segment.Archive, f *tree.Frontier, chain Hash) (Hash, error) {
	var buf []byte
	var lines [][]byte
	for k := l.store.Groups(); k < s.end/tree.GroupSize; k++ {
		var err error
		if buf, err = a.Group(buf[:0], int(k-s.first/tree.GroupSize)); err != nil {
			return chain, corrupt(segmentPath(s), err)
		}
		if lines, err = segment.SplitLines(lines[:0], buf); err != nil {
			return chain, corrupt(segmentPath(s), err)
		}
		for _, line := range lines {
			leaf := leafHash(line)
			chain = proof.ChainHash(chain, leaf)
			f.Append(leaf)
		}
		l.store.Append(f.LastGroup(), chain)
	}
	if _, want, root := a.Commit(); chain != want || f.Root() != root {
		return chain, &rebuildError{fmt.Sprintf("%s ends with chain %s, recomputed %s", segmentPath(s), want, chain)}
	}
	return chain, nil
}

// loadRaw recomputes a pending or open segment from its first entry on. at is the state after the segments before it, so
// entries that stand in both (the remainder that rotation carried over) are checked once more and not counted twice.
func (l *Log) loadRaw(s *segmentFile, at *edge, rebuilt, firstRaw bool) error {
	if s.kind == pending && s.file == nil {
		f, err := l.fs.Open(l.path(pendingDir, segment.PendingName(s.first)))
		if err != nil {
			return err
		}
		if s.length, err = f.Size(); err != nil {
			return errors.Join(err, f.Close())
		}
		s.file, s.from = f, s.first/tree.GroupSize
	}
	name := segmentPath(s)
	first, chain, header, err := segment.ReadHeader(s.file, s.length)
	if err != nil {
		return corrupt(name, err)
	}
	if first != s.first || s.first > at.size() {
		return &CorruptError{File: name, What: "the segment does not continue the one before", Got: fmt.Sprintf("first entry %d", first), Want: fmt.Sprintf("at most %d", at.size())}
	}
	f, before, err := l.stateAt(s.first, at, firstRaw)
	if err != nil {
		return err
	}
	if chain != before {
		if !rebuilt && firstRaw {
			return &rebuildError{name + " begins with another chain hash than the file chain has"}
		}
		return &CorruptError{File: name, What: "the segment line's chain hash is not the one before its first entry", Got: chain.String(), Want: before.String()}
	}
	r := rawLoader{l: l, s: s, chain: chain, at: at, seen: at.size()}
	r.at.offset = header
	tail, err := segment.Scan(context.Background(), s.file, header, s.length, chain, f, r.visit)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if s.kind == pending {
		if tail.Length != 0 || f.Size() < s.end {
			return &CorruptError{File: name, Offset: tail.At, What: or(tail.Reason, "the segment ends before the next one begins"), Got: tail.Got, Want: tail.Want}
		}
		s.counted = true
	} else {
		l.tail = tail
		if f.Size() < r.seen {
			return &CorruptError{File: name, Offset: tail.At, What: "the segment lacks entries that were carried over from the one before: " + tail.Reason, Got: fmt.Sprintf("%d entries", f.Size()), Want: fmt.Sprint(r.seen)}
		}
	}
	at.frontier, at.chain, at.tail = *f, r.chain, r.leaves
	return nil
}

// stateAt returns tree and chain before a raw segment's first entry, a multiple of 256.
func (l *Log) stateAt(first uint64, at *edge, firstRaw bool) (*tree.Frontier, Hash, error) {
	if firstRaw {
		f := at.frontier
		return &f, at.chain, nil
	}
	f, err := l.store.Frontier(first / tree.GroupSize)
	if err != nil {
		return nil, Hash{}, err
	}
	if first == 0 {
		return f, Hash{}, nil
	}
	chain, err := l.store.Chain(first/tree.GroupSize - 1)
	return f, chain, err
}

// rawLoader takes the batches of a raw segment into the log.
type rawLoader struct {
	l      *Log
	s      *segmentFile
	at     *edge
	chain  Hash   // after the last entry
	leaves []Hash // of the last partial group
	seen   uint64 // entries that the segment before held already
	live   bool   // following a writer: the segment is being read while others read l
}

func (r *rawLoader) visit(b *segment.Batch) error {
	if r.live {
		r.l.mu.Lock()
		defer r.l.mu.Unlock()
	}
	offset, groups := b.Offset, b.Groups
	for i, line := range b.Lines {
		index := b.First + uint64(i)
		if index%tree.GroupSize == 0 {
			r.leaves = r.leaves[:0:0]
			r.s.starts = append(r.s.starts, offset)
		}
		offset += int64(len(line)) + 1
		r.leaves = append(r.leaves, b.Leaves[i])
		if len(r.leaves) == tree.GroupSize {
			if err := r.group(index/tree.GroupSize, groups[0]); err != nil {
				return err
			}
			groups = groups[1:]
			r.leaves = nil
		}
		if _, level, ok := entry.Peek(line); ok && (r.s.kind == open || index < r.s.end) {
			r.s.levels[level]++
		}
	}
	if len(b.Lines) > 0 {
		t, err := timestampOf(b.Lines[len(b.Lines)-1])
		if err != nil {
			return &CorruptError{File: segmentPath(r.s), Offset: b.Offset, What: err.Error()}
		}
		r.at.time = t
	}
	r.at.offset, r.chain = b.End, b.Chain
	return nil
}

// group gives the store a group, or where it has one that differs, its entries' say.
func (r *rawLoader) group(k uint64, g segment.GroupEnd) error {
	st := r.l.store
	if k < st.Groups() {
		got, err := st.Group(k)
		if err == nil && got == g.Root {
			if chain, err := st.Chain(k); err == nil && chain == g.Chain {
				return nil
			}
		}
		if r.s.kind == open && k*tree.GroupSize < r.seen/tree.GroupSize*tree.GroupSize {
			return &CorruptError{File: openName, What: fmt.Sprintf("group %d differs from the same entries in the segment before", k)}
		}
		r.l.logger.Warn("tree/ or chain differ from the entries; rebuilding them from here", "group", k)
		st.Cut(k)
		st.Rebuild()
	}
	st.Append(g.Root, g.Chain)
	return nil
}

// agree compares the loaded state with what this host has signed. Entries beyond the head were durable and not yet
// signed; entries that are missing, or others, are refused with both states.
func (l *Log) agree(head *identity.Head) error {
	size := l.edge.size()
	ours := proof.Checkpoint{Origin: l.id.Origin, Size: size, Root: l.root}.Text()
	if size < head.Size {
		if l.tail.Length > 0 {
			return l.tailError("entries that this host has signed are damaged")
		}
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the log has %d entries, and this host has signed %d: it was cut, or restored from an older copy", size, head.Size),
			Ours: ours, Known: headText(head), Next: "bring the newer directory back, or `immutable continue OLD NEW` starts a new log that anchors both states",
		}
	}
	root, err := l.rootAt(head.Size)
	if err == nil && root != head.Root && !l.rebuilt {
		l.rebuilt = true
		l.logger.Warn("the tree does not yield the signed root; rebuilding it from the entries")
		l.closeSegments()
		if l.segments, err = l.layout(); err != nil {
			return err
		}
		l.open = l.segments[len(l.segments)-1]
		l.view = nil
		if err := l.loadFull(true); err != nil {
			return err
		}
		return l.agree(head)
	}
	if err != nil {
		return err
	}
	if root != head.Root {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the first %d entries are not the ones this host has signed", head.Size),
			Ours: proof.Checkpoint{Origin: l.id.Origin, Size: head.Size, Root: root}.Text(), Known: headText(head),
			Next: "`immutable verify` names the damage; `immutable repair --from BACKUP` takes good segments from a copy",
		}
	}
	if head.Clean && (size != head.Size || l.tail.Length > 0) {
		return l.tailError("the log was closed cleanly, and then something was added or changed")
	}
	return nil
}

func (l *Log) closeSegments() {
	for _, s := range l.segments {
		s.close()
	}
}

func (l *Log) tailError(what string) error {
	t := &l.tail
	if t.Length == 0 {
		return &CorruptError{File: openName, Offset: l.edge.offset, What: what, Got: fmt.Sprintf("%d entries", l.edge.size())}
	}
	return &CorruptError{File: openName, Offset: t.At, What: what + ": " + t.Reason, Got: t.Got, Want: t.Want}
}

// rewrite writes what the head does not cover again, identically, in place, and syncs it: after a failed sync the page
// cache shows bytes that the disk may not have, and reading them back proves nothing.
func (l *Log) rewrite(head *identity.Head) error {
	return rewriteFile(l.open.file, openName, l.coveredOffset(head.Size), l.edge.offset)
}

func rewriteFile(f vfs.File, name string, from, to int64) error {
	buf := make([]byte, min(1<<20, max(to-from, 0)))
	for off := from; off < to; {
		n := min(int64(len(buf)), to-off)
		if m, err := f.ReadAt(buf[:n], off); int64(m) < n {
			return fmt.Errorf("read %s at %d: %w", name, off, err)
		}
		if _, err := f.WriteAt(buf[:n], off); err != nil {
			return fmt.Errorf("write %s again at %d: %w", name, off, err)
		}
		off += n
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// coveredOffset is an offset in immutable.log before which every entry is below size: the start of size's group, or of
// the file.
func (l *Log) coveredOffset(size uint64) int64 {
	k := size / tree.GroupSize
	if k < l.open.from || len(l.open.starts) == 0 {
		return 0
	}
	if i := k - l.open.from; i < uint64(len(l.open.starts)) {
		return l.open.starts[i]
	}
	return l.edge.offset
}

// cutTail moves an incomplete batch aside, whole and durable, before it is cut. Anything that cannot be one stays.
func (l *Log) cutTail(head *identity.Head) error {
	t := l.tail
	if t.Length == 0 && !head.Clean {
		return l.findOwed(head)
	}
	if t.Length == 0 {
		return nil
	}
	if head.Clean || t.CommitInside || t.Length > segment.MaxBatchBytes {
		return l.tailError("bytes after the last commit that no crash leaves")
	}
	name := fmt.Sprintf("%s/%d-%x", quarantineDir, t.Offset, t.SHA256) // as quarantineFile
	if err := l.setAside(name, l.open.file, t.Offset, t.Length); err != nil {
		return fmt.Errorf("move %d bytes of an incomplete batch to %s: %w", t.Length, name, err)
	}
	if err := l.open.file.Truncate(t.Offset); err != nil {
		return fmt.Errorf("cut the incomplete batch: %w", err)
	}
	if err := l.open.file.Sync(); err != nil {
		return fmt.Errorf("cut the incomplete batch: %w", err)
	}
	l.logger.Warn("an incomplete batch, never acknowledged, was moved aside", "bytes", t.Length, "file", name)
	l.owe(head, name, t.SHA256, t.Length)
	return nil
}

// setAside copies bytes into a file of quarantine/, durably. A copy that an earlier recovery left is taken as it is.
func (l *Log) setAside(name string, r io.ReaderAt, offset, length int64) error {
	data := make([]byte, length)
	if n, err := r.ReadAt(data, offset); int64(n) < length {
		return err
	}
	if have, err := vfs.ReadFile(l.fs, l.path(name), length); err == nil && bytes.Equal(have, data) {
		return nil
	}
	write := func() error { return vfs.WriteAtomic(l.fs, l.path(nextDir, "quarantine"), l.path(name), data, 0o400) }
	err := write()
	if isNoSpace(err) && l.giveUpReserve() {
		err = write()
	}
	return err
}

// quarantineFile is where bytes that stood at offset are moved.
func quarantineFile(offset int64, data []byte) string {
	return fmt.Sprintf("%s/%d-%x", quarantineDir, offset, sha256.Sum256(data))
}

// timestampOf reads the timestamp of a proven line, Unix nanoseconds.
func timestampOf(line []byte) (int64, error) {
	t, _, ok := entry.Peek(line)
	if !ok {
		return 0, fmt.Errorf("no timestamp and level in the entry %.100q", line)
	}
	return t, nil
}

func leafHash(line []byte) Hash { return proof.LeafHash(line) }

// leafHashAt is the leaf hash of the line of n bytes at buf[from]. It lends the leaf's prefix the byte before the line
// for the moment that hashing takes, which saves copying the line.
func leafHashAt(buf []byte, from, n int) Hash {
	if from == 0 {
		return leafHash(buf[:n])
	}
	before := buf[from-1]
	buf[from-1] = 0x00
	h := sha256.Sum256(buf[from-1 : from+n])
	buf[from-1] = before
	return h
}

func groupRoot(leaves []Hash) Hash { return proof.Root(leaves) }

// rootAt is the root the committed log had at an earlier size, computed from entries that are read back and proven.
func (l *Log) rootAt(size uint64) (Hash, error) {
	l.mu.RLock()
	at, root := l.edge, l.root
	l.mu.RUnlock()
	if size == at.size() {
		return root, nil
	}
	v, err := l.store.View(at.size(), root, at.tail)
	if err != nil {
		return Hash{}, err
	}
	return v.RootAt(size, l.leavesAt(context.Background(), &at))
}

// leavesAt returns the leaf hashes of a group, read from the segments and proven, for proofs at the state at.
func (l *Log) leavesAt(ctx context.Context, at *edge) func(uint64) ([]Hash, error) {
	return func(k uint64) ([]Hash, error) {
		if k == at.size()/tree.GroupSize {
			return at.tail, nil
		}
		var g group
		if err := l.readGroup(ctx, k, at, &g); err != nil {
			return nil, err
		}
		return g.leaves, nil
	}
}

// afterRecovery writes the control entry that recovery owes, as the first entry of the session.
func (l *Log) afterRecovery() error {
	if l.recovered == nil {
		return nil
	}
	l.owed.Store(true)
	if err := l.writeOwed(); err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	return nil // without room for it the next append that finds some writes it first
}

// writeOwed writes the control entry that recovery owes. While it cannot, nothing else is written either: the entry says
// that the log had as many entries as its index.
func (l *Log) writeOwed() error {
	l.owedMu.Lock()
	defer l.owedMu.Unlock()
	if !l.owed.Load() {
		return nil
	}
	req, err := l.encode([]Event{{Level: System, Message: "recovered: an incomplete batch, never acknowledged, was moved aside", Log: l.recovered}})
	if err != nil {
		return err
	}
	if err := l.w.submit(context.Background(), req); err != nil {
		return fmt.Errorf("name what recovery moved aside: %w", err)
	}
	l.owed.Store(false)
	return nil
}

// findOwed looks for an incomplete batch that an earlier recovery moved aside and that no entry names, because a crash or
// a full disk came between: it stood where the log ends now.
func (l *Log) findOwed(head *identity.Head) error {
	names, err := l.fs.ReadDir(l.path(quarantineDir))
	if err != nil && !notExist(err) {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, fmt.Sprintf("%d-", l.edge.offset)) {
			continue
		}
		name = quarantineDir + "/" + name
		data, err := vfs.ReadFile(l.fs, l.path(name), segment.MaxBatchBytes)
		if err != nil {
			return err
		}
		if name == quarantineFile(l.edge.offset, data) && mayBegin(data, l.edge.size()) {
			l.owe(head, name, sha256.Sum256(data), int64(len(data)))
		}
	}
	return nil
}

// mayBegin says whether the bytes of an incomplete batch can have begun at index. Where they are no entry at all, after a
// power cut, they can: the same offset in an older segment is less likely.
func mayBegin(data []byte, index uint64) bool {
	const low = idOffset + len(ID{}) - 8 // the index's low 32 bits
	if !bytes.HasPrefix(data, []byte(`{"id":"`)) || len(data) < low+8 {
		return true
	}
	n, err := strconv.ParseUint(string(data[low:low+8]), 16, 32)
	return err != nil || n == index&0xffffffff
}

func (l *Log) owe(head *identity.Head, name string, sum [sha256.Size]byte, length int64) {
	l.recovered = fmt.Appendf(nil, `{"type":"recovery","head":%d,"size":%d,"file":"%s","sha256":"%x","bytes":%d}`, head.Size, l.edge.size(), name, sum, length)
}
