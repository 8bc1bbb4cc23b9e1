package immutable

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

type segmentKind uint8

const (
	archived segmentKind = iota // archive/<first>.jsonl.zst
	pending                     // pending/<first>.jsonl, waiting to be sealed
	open                        // immutable.log
	retired                     // retired/<first>.leaves: its entries are not there
)

// segmentFile is one segment of the log. Log.mu guards its fields unless they say otherwise.
type segmentFile struct {
	first uint64
	end   uint64 // index after the last entry it answers for; of the open segment, see Log.edge
	kind  segmentKind

	leftover bool // archived, and its pending file is still there; what else of sealing was done is unknown
	leaves   bool // archived, and a leaves file is there too: it is being retired or restored
	restored int  // how often it was, by this process: another archive of the same bytes is there then

	// Of open and pending segments.
	file   vfs.File
	inode  uint64  // of the open segment, for followers; 0 where there is none
	length int64   // committed bytes of a pending segment; of the open one, see Log.edge
	from   uint64  // group whose offset starts[0] is; groups before it are found by early
	starts []int64 // offsets of the groups' first entries; only ever appended to

	earlyEnd int64 // where group from begins, or would
	earlyMu  sync.Mutex
	early    []int64 // offsets of the segment's groups before from, once somebody needed them

	// levels counts entries per level: of the open segment those from group from on, of others all of them once
	// counted is true.
	levels  [NumLevels]uint64
	counted bool

	// refs holds the file open while readers use it: it is closed when the last of them lets go.
	refMu   sync.Mutex
	refs    int
	closing bool

	// Of archived segments, opened when first read.
	archiveMu sync.Mutex
	archive   *segment.Archive
	index     *index.Index
	noIndex   bool // it has none with a valid seal

	searchMu sync.Mutex
	search   *index.Search
	noSearch error // why it has none that can be used

	seen   remembered // of a segment that is not sealed
	proven proven     // of an archived segment

	kept atomic.Bool // it is among Log.opened; changed with that one's lock held
	used atomic.Bool // since opened last looked
}

// acquire keeps the file open until release. It returns nil for a segment whose file was closed: look the segment up
// again.
func (s *segmentFile) acquire() vfs.File {
	s.refMu.Lock()
	defer s.refMu.Unlock()
	if s.closing || s.file == nil {
		return nil
	}
	s.refs++
	return s.file
}

func (s *segmentFile) release() {
	s.refMu.Lock()
	defer s.refMu.Unlock()
	s.refs--
	s.closeIfIdle()
}

// close closes the file as soon as nobody reads it.
func (s *segmentFile) close() {
	s.refMu.Lock()
	defer s.refMu.Unlock()
	s.closing = true
	s.closeIfIdle()
}

func (s *segmentFile) closeIfIdle() {
	if s.closing && s.refs == 0 && s.file != nil {
		_ = s.file.Close() // everything written to it was synced
		s.file = nil
	}
}

// layout lists the segments of a directory in order. Only names and the header lines of raw segments are read.
func (l *Log) layout() ([]*segmentFile, error) {
	byFirst := map[uint64]*segmentFile{}
	for _, d := range []struct {
		dir, suffix string
		kind        segmentKind
	}{{archiveDir, segment.ArchiveSuffix, archived}, {pendingDir, segment.PendingSuffix, pending}} {
		names, err := l.fs.ReadDir(l.path(d.dir))
		if err != nil && !notExist(err) {
			return nil, fmt.Errorf("list %s: %w", d.dir, err)
		}
		for _, name := range names {
			first, ok := segment.ParseName(name, d.suffix)
			if sealed := byFirst[first]; ok && sealed != nil {
				sealed.leftover = true // where both hold a segment the archive counts
			} else if ok {
				byFirst[first] = &segmentFile{first: first, kind: d.kind}
			}
		}
	}
	if err := l.layoutRetired(byFirst); err != nil {
		return nil, err
	}
	f, err := l.openLogFile()
	if notExist(err) {
		return inOrder(byFirst), &CorruptError{File: openName, What: "it is missing"}
	}
	if err != nil {
		return nil, err
	}
	s, err := newRawSegment(f, open)
	if err != nil {
		_ = f.Close()
		return inOrder(byFirst), corrupt(openName, err)
	}
	if info, err := l.fs.Stat(l.path(openName)); err == nil {
		s.inode = info.Inode
	}
	for first := range byFirst {
		if first >= s.first {
			delete(byFirst, first)
		}
	}
	byFirst[s.first] = s
	list := inOrder(byFirst)
	if list[0].first != 0 {
		return list, &CorruptError{File: segmentPath(list[0]), What: "the log's first segment is missing", Got: fmt.Sprintf("first entry %d", list[0].first), Want: "0"}
	}
	return list, nil
}

// layoutRetired adds the segments of which only the leaves are there.
func (l *Log) layoutRetired(byFirst map[uint64]*segmentFile) error {
	names, err := l.fs.ReadDir(l.path(retiredDir))
	if notExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", retiredDir, err)
	}
	for _, name := range names {
		first, ok := segment.ParseName(name, segment.LeavesSuffix)
		if s := byFirst[first]; ok && s != nil {
			s.leaves = true
		} else if ok {
			byFirst[first] = &segmentFile{first: first, kind: retired}
		}
	}
	return nil
}

// inOrder sorts segments; each ends where the next begins, and the last has no end.
func inOrder(byFirst map[uint64]*segmentFile) []*segmentFile {
	list := slices.SortedFunc(maps.Values(byFirst), func(a, b *segmentFile) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(list); i++ {
		list[i-1].end = list[i].first
	}
	return list
}

func (l *Log) openLogFile() (vfs.File, error) {
	if l.cfg.ReadOnly {
		return l.fs.Open(l.path(openName))
	}
	// Writable only while it is being opened: the mode keeps honest people honest, proofs do the rest.
	if err := l.fs.Chmod(l.path(openName), 0o600); err != nil {
		return nil, err
	}
	f, err := l.fs.OpenRW(l.path(openName))
	if err = errors.Join(err, l.fs.Chmod(l.path(openName), 0o444)); err != nil && f != nil {
		_ = f.Close()
	}
	return f, err
}

func newRawSegment(f vfs.File, kind segmentKind) (*segmentFile, error) {
	length, err := f.Size()
	if err != nil {
		return nil, err
	}
	first, _, _, err := segment.ReadHeader(f, length)
	if err != nil {
		return nil, err
	}
	return &segmentFile{first: first, kind: kind, file: f, length: length, from: first / tree.GroupSize}, nil
}

func segmentPath(s *segmentFile) string {
	switch s.kind {
	case archived:
		return archiveDir + "/" + segment.ArchiveName(s.first)
	case pending:
		return pendingDir + "/" + segment.PendingName(s.first)
	case retired:
		return retiredDir + "/" + segment.LeavesName(s.first)
	default:
		return openName
	}
}

// corrupt gives a decoder's error the file's name.
func corrupt(file string, err error) error {
	var c *segment.CorruptError
	if errors.As(err, &c) {
		what := c.Msg
		if c.Err != nil {
			what += ": " + c.Err.Error()
		}
		return &CorruptError{File: file, Offset: c.Offset, What: what, Got: c.Got, Want: c.Want}
	}
	var own *CorruptError
	if errors.As(err, &own) && own.File == "" {
		own.File = file
		return own
	}
	return fmt.Errorf("%s: %w", file, err)
}

// groupPlace is where a group's lines are: a raw segment's bytes, or a frame of an archive.
type groupPlace struct {
	seg      *segmentFile
	file     vfs.File // of a raw segment; held by acquire
	from, to int64    // its bytes there; commit lines may stand between the entries
	archive  *segment.Archive
	frame    int
}

func (p *groupPlace) release() {
	if p.file != nil {
		p.seg.release()
	}
}

// place finds group k of a log of size entries. The caller releases it.
func (l *Log) place(k, size uint64) (groupPlace, error) {
	for range 8 { // a segment may be sealed between looking it up and opening it
		l.mu.RLock()
		i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > k*tree.GroupSize }) - 1
		if i < 0 {
			l.mu.RUnlock()
			return groupPlace{}, fmt.Errorf("%w: group %d", ErrNotFound, k)
		}
		s := l.segments[i]
		kind, starts, from, end := s.kind, s.starts, s.from, s.length
		if kind == open {
			end = l.edge.offset
		}
		l.mu.RUnlock()
		if kind == retired {
			return groupPlace{}, &RetiredError{First: s.first, End: s.end, Entry: -1}
		}
		if kind == archived {
			a, err := l.openArchive(s)
			if notExist(err) && l.lostArchive(s) {
				continue
			}
			if err != nil {
				return groupPlace{}, err
			}
			return groupPlace{seg: s, archive: a, frame: int(k - s.first/tree.GroupSize)}, nil
		}
		file := s.acquire()
		if file == nil {
			continue
		}
		p := groupPlace{seg: s, file: file, to: end}
		var err error
		p.from, err = s.offset(k, starts, from)
		switch {
		case err != nil:
		case k+1 == from:
			p.to = s.earlyEnd
		case k+1 < from+uint64(len(starts)):
			p.to, err = s.offset(k+1, starts, from)
		}
		if err != nil {
			p.release()
			return groupPlace{}, err
		}
		return p, nil
	}
	return groupPlace{}, fmt.Errorf("group %d: the segments keep changing", k)
}

// lostArchive says whether an archive that was not there was retired meanwhile, here or by the writer that is followed, or restored since:
// then it is worth another look.
func (l *Log) lostArchive(s *segmentFile) bool {
	if l.w == nil {
		if _, err := l.fs.Stat(l.path(retiredDir, segment.LeavesName(s.first))); err != nil || l.damaged() != nil {
			return false
		}
		l.refreshMu.Lock()
		defer l.refreshMu.Unlock()
		return l.followRotation() == nil
	}
	l.mu.RLock()
	gone := s.kind == retired
	l.mu.RUnlock()
	if gone {
		return true
	}
	_, err := l.fs.Stat(l.path(archiveDir, segment.ArchiveName(s.first)))
	return err == nil // it was restored by now
}

// offset is where group k begins. Groups before from have not been seen in this session: their offsets are found by
// counting lines, once.
func (s *segmentFile) offset(k uint64, starts []int64, from uint64) (int64, error) {
	if k >= from {
		if k-from >= uint64(len(starts)) {
			return 0, fmt.Errorf("group %d is not in the segment from %d on", k, s.first)
		}
		return starts[k-from], nil
	}
	s.earlyMu.Lock()
	defer s.earlyMu.Unlock()
	if s.early == nil {
		early, err := countGroups(s.file, s.earlyEnd, from-s.first/tree.GroupSize)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", segmentPath(s), err)
		}
		s.early = early
	}
	return s.early[k-s.first/tree.GroupSize], nil
}

// countGroups returns the offsets of the first groups of a raw segment by counting its entry lines up to end.
func countGroups(r io.ReaderAt, end int64, groups uint64) ([]int64, error) {
	starts := make([]int64, 0, groups)
	buf := make([]byte, 256<<10)
	entries, fill, base := 0, 0, int64(0)
	for base+int64(fill) < end {
		n, err := r.ReadAt(buf[fill:min(int64(len(buf)), end-base)], base+int64(fill))
		if n == 0 {
			return nil, fmt.Errorf("read at %d: %w", base+int64(fill), err)
		}
		fill += n
		at := 0
		for {
			i := bytes.IndexByte(buf[at:fill], '\n')
			if i < 0 {
				break
			}
			if bytes.HasPrefix(buf[at:fill], []byte(`{"id":`)) {
				if entries%tree.GroupSize == 0 {
					starts = append(starts, base+int64(at))
				}
				entries++
			}
			at += i + 1
		}
		copy(buf, buf[at:fill])
		base += int64(at)
		if fill -= at; fill == len(buf) {
			return nil, fmt.Errorf("line at %d is too long", base)
		}
	}
	if uint64(len(starts)) < groups || entries%tree.GroupSize != 0 {
		return nil, fmt.Errorf("%d entries before offset %d, expected %d", entries, end, groups*tree.GroupSize)
	}
	return starts, nil
}

// read appends the group's entry lines, each with its newline, to dst.
func (p *groupPlace) read(dst []byte) ([]byte, error) {
	if p.archive != nil {
		b, err := p.archive.Group(dst, p.frame)
		if err != nil {
			return dst, corrupt(segmentPath(p.seg), err)
		}
		return b, nil
	}
	at := len(dst)
	dst = slices.Grow(dst, int(p.to-p.from))[:at+int(p.to-p.from)]
	if n, err := p.file.ReadAt(dst[at:], p.from); n < int(p.to-p.from) {
		return dst[:at], &CorruptError{File: segmentPath(p.seg), Offset: p.from + int64(n), What: "file ends early: " + fmt.Sprint(err), Got: fmt.Sprint(p.from + int64(n)), Want: fmt.Sprint(p.to)}
	}
	kept := at
	for from := at; from < len(dst); {
		i := bytes.IndexByte(dst[from:], '\n')
		if i < 0 {
			return dst[:at], &CorruptError{File: segmentPath(p.seg), Offset: p.from + int64(from-at), What: "line without its newline"}
		}
		line := dst[from : from+i+1]
		from += i + 1
		if !bytes.HasPrefix(line, []byte(`{"commit":`)) {
			kept += copy(dst[kept:], line)
		}
	}
	return dst[:kept], nil
}

// openArchive opens a sealed segment, or returns it if it is open.
func (l *Log) openArchive(s *segmentFile) (*segment.Archive, error) {
	s.archiveMu.Lock()
	defer s.archiveMu.Unlock()
	if s.archive != nil {
		l.opened.keep(s)
		return s.archive, nil
	}
	name := archiveDir + "/" + segment.ArchiveName(s.first)
	a, err := l.readArchive(name)
	if err != nil {
		return nil, err
	}
	l.mu.RLock()
	end := s.end
	l.mu.RUnlock()
	if a.First() != s.first || a.End() != end {
		return nil, &CorruptError{File: name, What: "the archive holds other entries than its place in the log asks for", Got: fmt.Sprintf("%d to %d", a.First(), a.End()), Want: fmt.Sprintf("%d to %d", s.first, end)}
	}
	s.archive = a
	l.opened.keep(s)
	return a, nil
}

// readArchive opens an archive whose file handle lives as long as reads need it: each read opens the file anew, so
// that a log of ten thousand segments holds no ten thousand files open.
func (l *Log) readArchive(name string) (*segment.Archive, error) {
	r := &reopening{fs: l.fs, name: l.path(name)}
	info, err := l.fs.Stat(r.name)
	if err != nil {
		return nil, err
	}
	a, err := segment.OpenArchive(r, info.Size)
	if err != nil {
		return nil, corrupt(name, err)
	}
	return a, nil
}

// reopening reads a file that it opens for each read.
type reopening struct {
	fs   vfs.FS
	name string
}

func (r *reopening) ReadAt(p []byte, off int64) (int, error) {
	f, err := r.fs.Open(r.name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, off)
}

// group is 256 entries, or fewer at the log's end, whose hashes are proven by the committed tree.
type group struct {
	number uint64
	frame  []byte // of a group of an archive, compressed; searchGroup's
	buf    []byte
	lines  [][]byte // without newlines
	leaves []Hash   // after searchGroup there may be none: see leaf
}

// readGroup reads group k as of the committed state at, proves it, and fills g. There is no other way to an entry.
func (l *Log) readGroup(ctx context.Context, k uint64, at *edge, g *group) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	n := min(at.size()-k*tree.GroupSize, tree.GroupSize)
	p, err := l.place(k, at.size())
	if err != nil {
		return err
	}
	defer p.release()
	if g.buf, err = p.read(g.buf[:0]); err != nil {
		if p.archive != nil && notExist(err) && l.lostArchive(p.seg) { // between finding it and reading it
			return l.readGroup(ctx, k, at, g)
		}
		return err
	}
	if g.lines, err = segment.SplitLines(g.lines[:0], g.buf); err != nil {
		return corrupt(segmentPath(p.seg), err)
	}
	if uint64(len(g.lines)) < n {
		return &CorruptError{File: segmentPath(p.seg), Offset: p.from, What: fmt.Sprintf("entries from %d on", k*tree.GroupSize), Got: fmt.Sprintf("%d entries", len(g.lines)), Want: fmt.Sprint(n)}
	}
	g.number, g.lines = k, g.lines[:n]
	g.hashLeaves()
	return l.proveGroup(g, &p, at)
}

func (g *group) hashLeaves() {
	g.leaves = g.leaves[:0]
	from := 0
	for _, line := range g.lines {
		g.leaves = append(g.leaves, leafHashAt(g.buf, from, len(line)))
		from += len(line) + 1
	}
}

// proveGroup checks the group's leaves against the committed tree: a whole group by its path to the root, the last
// partial one by the leaves in memory.
func (l *Log) proveGroup(g *group, p *groupPlace, at *edge) error {
	if len(g.leaves) < tree.GroupSize {
		for i, leaf := range g.leaves {
			if leaf != at.tail[i] {
				return &CorruptError{File: segmentPath(p.seg), Offset: p.from, What: fmt.Sprintf("entry %d is not the one that was committed", g.number*tree.GroupSize+uint64(i)), Got: "leaf " + leaf.String(), Want: at.tail[i].String()}
			}
		}
		return nil
	}
	v, err := l.viewOf(g.number)
	if err != nil {
		return err
	}
	if err := v.Check(g.number, groupRoot(g.leaves)); err != nil {
		var ge *tree.GroupError
		if errors.As(err, &ge) {
			first := g.number * tree.GroupSize
			return &CorruptError{File: segmentPath(p.seg), Offset: p.from, What: fmt.Sprintf("entries %d to %d are not the ones that were committed", first, first+tree.GroupSize-1), Got: "group root " + ge.Got.String(), Want: ge.Want.String()}
		}
		return fmt.Errorf("prove entries of group %d: %w; `immutable rebuild` makes tree/ again from the entries", g.number, err)
	}
	return nil
}

// viewOf returns a view of the committed tree that covers group k.
func (l *Log) viewOf(k uint64) (*tree.View, error) {
	l.mu.RLock()
	v, at, root := l.view, l.edge, l.root
	l.mu.RUnlock()
	if v != nil && k < v.Size()/tree.GroupSize {
		return v, nil
	}
	v, err := l.store.View(at.size(), root, at.tail)
	if err != nil {
		return nil, fmt.Errorf("tree/ does not yield the committed root: %w; `immutable rebuild` makes it again from the entries", err)
	}
	l.mu.Lock()
	if l.view == nil || l.view.Size() < v.Size() {
		l.view = v
	}
	l.mu.Unlock()
	return v, nil
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

// leavesAt returns the leaf hashes of a group, read from the segments, or from what is kept of them, and proven, for proofs at the
// state at.
func (l *Log) leavesAt(ctx context.Context, at *edge) func(uint64) ([]Hash, error) {
	return func(k uint64) ([]Hash, error) {
		if k == at.size()/tree.GroupSize {
			return at.tail, nil
		}
		var g group
		err := l.readGroup(ctx, k, at, &g)
		var gone *RetiredError
		if errors.As(err, &gone) {
			return l.keptLeaves(gone.First, k, at)
		}
		if err != nil {
			return nil, err
		}
		return g.leaves, nil
	}
}
