package immutable

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

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
	if err := l.meet(); err != nil {
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
		for segments[raw].sealed() {
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

// sealed says that the segment's entries are in an archive, or were.
func (s *segmentFile) sealed() bool { return s.kind == archived || s.kind == retired }

// meet checks that no sealed segment is missing: each archive must end where the next segment begins. It reads the last bytes
// of each, which say how many frames it has; whether they are the right ones is for reads and verification to say.
func (l *Log) meet() error {
	for i, s := range l.segments {
		if !s.sealed() {
			continue
		}
		if s.kind == retired && i > 0 && l.segments[i-1].kind != retired {
			return &CorruptError{File: archiveDir + "/" + segment.ArchiveName(s.first), What: "it is missing, and segments before it are there: segments are retired oldest first"}
		}
		name := segmentPath(s)
		end, err := l.sealedEnd(s, name)
		if err != nil {
			return err
		}
		if next := l.segments[i+1]; end != next.first {
			return &CorruptError{File: segmentPath(next), What: fmt.Sprintf("a segment is missing, or %s is not whole: it ends at entry %d and the next one there is begins elsewhere", name, end), Got: fmt.Sprintf("first entry %d", next.first), Want: fmt.Sprint(end)}
		}
	}
	return nil
}

// sealedEnd is the index after a sealed segment's last entry.
func (l *Log) sealedEnd(s *segmentFile, name string) (uint64, error) {
	if s.kind == archived {
		return l.archiveEnd(s.first, name)
	}
	f, err := l.fs.Open(l.path(filepath.FromSlash(name)))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	first, end, _, err := segment.ReadLeavesHeader(f, size)
	if err != nil {
		return 0, corrupt(name, err)
	}
	if first != s.first {
		return 0, &CorruptError{File: name, What: "the leaves are of another segment than the name", Got: fmt.Sprint(first), Want: fmt.Sprint(s.first)}
	}
	return end, nil
}

// archiveEnd is the index after an archive's last entry, by the number of frames in its seek table.
func (l *Log) archiveEnd(first uint64, name string) (uint64, error) {
	const footer = 9 // number of frames, descriptor, magic
	f, err := l.fs.Open(l.path(filepath.FromSlash(name)))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	var b [footer]byte
	if n, err := f.ReadAt(b[:], max(size-footer, 0)); n < footer {
		return 0, &CorruptError{File: name, What: fmt.Sprintf("too short for an archive: %v", err), Got: fmt.Sprintf("%d bytes", size)}
	}
	frames := uint64(binary.LittleEndian.Uint32(b[:]))
	if frames < 3 {
		return 0, &CorruptError{File: name, Offset: size - footer, What: "number of frames in the seek table", Got: fmt.Sprint(frames), Want: "at least 3"}
	}
	return first + (frames-2)*tree.GroupSize, nil
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
	for raw < len(l.segments)-1 && l.segments[raw].sealed() {
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
	var err error
	for _, s := range l.segments {
		if s.end == 0 || s.end > first || s.end/tree.GroupSize <= l.store.Groups() {
			continue
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
		if s.kind == retired {
			chain, err = l.extendKept(s, f, chain)
		} else {
			chain, err = l.extendFrom(s, f, chain)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// extendKept adds the groups of a retired segment that the store lacks; f and chain are the state there. Whether its leaves are the
// right ones shows where the next segment begins.
func (l *Log) extendKept(s *segmentFile, f *tree.Frontier, chain Hash) (Hash, error) {
	x, done, err := l.openLeaves(s)
	if err != nil {
		return chain, err
	}
	defer func() { _ = done() }() // only read
	for k := l.store.Groups(); k < s.end/tree.GroupSize; k++ {
		g := int(k - s.first/tree.GroupSize)
		leaves, err := x.Group(g)
		if err != nil {
			return chain, corrupt(segmentPath(s), err)
		}
		for _, kept := range x.KeptOf(g) {
			l.sight(kept.Index, kept.Line)
		}
		for _, leaf := range leaves {
			chain = proof.ChainHash(chain, leaf)
			f.Append(leaf)
		}
		l.store.Append(f.LastGroup(), chain)
	}
	return chain, nil
}

// extendFrom adds the groups of an archive that the store lacks; f and chain are the state there.
func (l *Log) extendFrom(s *segmentFile, f *tree.Frontier, chain Hash) (Hash, error) {
	a, err := l.openArchive(s)
	if err != nil {
		return chain, err
	}
	var buf []byte
	var lines [][]byte
	for k := l.store.Groups(); k < s.end/tree.GroupSize; k++ {
		if buf, err = a.Group(buf[:0], int(k-s.first/tree.GroupSize)); err != nil {
			return chain, corrupt(segmentPath(s), err)
		}
		if lines, err = segment.SplitLines(lines[:0], buf); err != nil {
			return chain, corrupt(segmentPath(s), err)
		}
		for i, line := range lines {
			l.sight(k*tree.GroupSize+uint64(i), line)
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
		if !r.live {
			r.l.sight(index, line)
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
