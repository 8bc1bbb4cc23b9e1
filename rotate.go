package immutable

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// maxPending is how many full segments may wait to be sealed before appends wait. It is part of the format.
const maxPending = 4

// Rotate ends the open segment, whatever its size, and waits until it is sealed. Entries after the last whole group of
// 256 stay in the open segment; with no whole group there is nothing to seal and Rotate does nothing.
func (l *Log) Rotate(ctx context.Context) error {
	if l.w == nil {
		return l.refusal()
	}
	if l.sealer.waiting() >= maxPending { // sealing fails: what says why also tries again
		if err := l.sealer.wait(ctx); err != nil {
			return err
		}
	}
	if err := l.w.call(ctx, l.w.rotate); err != nil {
		return err
	}
	return l.sealer.wait(ctx)
}

// rotateIfDue rotates a segment that has reached its size. It waits for the sealer while four segments wait, unless
// sealing fails: then the open segment grows on, and appends go on while there is room.
func (w *writer) rotateIfDue() bool {
	if !w.rotationDue() {
		return false
	}
	for w.l.sealer.waiting() >= maxPending {
		if !w.l.sealer.progress() {
			w.retryAt = w.next.offset + w.l.cfg.RotateSize/16
			return false
		}
	}
	before := w.next.offset
	if err := w.rotate(); err != nil {
		w.l.logger.Error("segment not rotated; trying again later", "error", err)
		w.retryAt = before + w.l.cfg.RotateSize/16
	}
	return true
}

func (w *writer) rotationDue() bool {
	return w.next.offset >= w.l.cfg.RotateSize && w.next.offset >= w.retryAt && w.failed == nil && w.wholeGroups() > 0
}

// wholeGroups is how many groups the open segment could seal.
func (w *writer) wholeGroups() uint64 {
	return (w.next.size() - w.l.open.first) / tree.GroupSize
}

// rotate makes the open segment a pending one and begins the next, in the writer, between two batches. The order is
// docs/format.md's: a crash between any two steps leaves a state that recovery finishes or takes back.
func (w *writer) rotate() error {
	l := w.l
	if w.failed != nil {
		return w.failed
	}
	if w.wholeGroups() == 0 {
		return nil
	}
	if err := l.publisher.markDirty(); err != nil {
		return err
	}
	// The tree is on the disk before its entries leave the open segment, so that recovery never needs to read pending
	// segments to know it. It does not depend on it.
	if err := l.store.Flush(); err != nil {
		return fmt.Errorf("sync tree and chain: %w", err)
	}
	first := w.next.size() - w.next.size()%tree.GroupSize
	next, err := l.writeNext(first, &w.next)
	if err != nil {
		return fmt.Errorf("begin the next segment: %w", err)
	}
	l.rearranged.Add(1)
	defer l.rearranged.Add(1)
	name := l.path(pendingDir, segment.PendingName(l.open.first))
	if err := l.linkPending(name); err != nil {
		return fmt.Errorf("set the full segment aside: %w", err)
	}
	if err := l.replaceOpen(); err != nil {
		// Which of the two files is immutable.log now is unknown: recovery finds out.
		return w.fail(fmt.Errorf("put the next segment in place: %w", err))
	}
	f, err := l.openLogFile()
	if err != nil {
		return w.fail(fmt.Errorf("open the next segment: %w", err))
	}
	next.file = f
	l.mu.Lock()
	old := l.open
	old.kind, old.end, old.length = pending, first, w.next.offset
	l.segments = append(l.segments[:len(l.segments):len(l.segments)], next)
	l.open = next
	l.edge.offset = next.length
	l.mu.Unlock()
	w.next.offset, w.retryAt = next.length, 0
	l.sealer.poke()
	return nil
}

// writeNext writes the file that is to be the next open segment: the segment line, the entries after the last whole
// group, and their commit line.
func (l *Log) writeNext(first uint64, at *edge) (*segmentFile, error) {
	chain, err := l.store.Chain(first/tree.GroupSize - 1)
	if err != nil {
		return nil, err
	}
	data := segment.AppendHeader(nil, first, chain)
	s := &segmentFile{first: first, kind: open, from: first / tree.GroupSize}
	if n := int(at.size() - first); n > 0 {
		var g group
		if err := l.readGroup(context.Background(), first/tree.GroupSize, at, &g); err != nil {
			return nil, err
		}
		s.starts = []int64{int64(len(data))}
		for _, line := range g.lines {
			if _, level, ok := entry.Peek(line); ok {
				s.levels[level]++
			}
			data = append(append(data, line...), '\n')
		}
		data = segment.AppendCommit(data, first, at.size(), at.chain, at.frontier.Root())
	}
	s.length = int64(len(data))
	tmp := l.path(nextDir, openName)
	return s, vfs.WriteAtomic(l.fs, tmp+".new", tmp, data, 0o444)
}

// linkPending gives immutable.log its second name, durably. A failure leaves things as they were.
func (l *Log) linkPending(name string) error {
	err := l.fs.Link(l.path(openName), name)
	if errors.Is(err, fs.ErrExist) { // an attempt before this one left it
		if same, _ := l.sameFile(l.path(openName), name); same {
			err = nil
		}
	}
	if err == nil {
		if err = errors.Join(l.fs.SyncDir(l.path(pendingDir)), l.fs.SyncDir(l.path())); err == nil {
			return nil
		}
		err = errors.Join(err, l.fs.Remove(name))
	}
	return err
}

func (l *Log) replaceOpen() error {
	if err := l.fs.Rename(l.path(nextDir, openName), l.path(openName)); err != nil {
		return err
	}
	return errors.Join(l.fs.SyncDir(l.path()), l.fs.SyncDir(l.path(nextDir)))
}

// sealer turns pending segments into archives, oldest first, in the background.
type sealer struct {
	l      *Log
	wake   chan struct{} // capacity 1
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{}

	sampledAt time.Time // when giveWay last looked; owned by run
	sampled   int64     // bytes committed then

	mu   sync.Mutex // guards what follows
	err  error      // of the last attempt
	turn chan struct{}
}

func (s *sealer) start(l *Log) {
	s.l, s.wake, s.ended, s.turn = l, make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	go s.run()
	s.poke()
}

func (s *sealer) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *sealer) run() {
	defer close(s.ended)
	for {
		select {
		case <-s.wake:
		case <-s.ctx.Done():
			return
		}
		for seg := s.oldest(); seg != nil && s.ctx.Err() == nil; seg = s.oldest() {
			err := s.l.seal(s.ctx, seg)
			if err != nil && !errors.Is(err, context.Canceled) {
				s.l.logger.Error("segment not sealed; trying again with the next rotation", "first", seg.first, "error", err)
			}
			s.mu.Lock()
			s.err = err
			close(s.turn)
			s.turn = make(chan struct{})
			s.mu.Unlock()
			if err != nil {
				break
			}
		}
	}
}

// Sealing costs about as much processor time as appending. During a burst it rests, until this many segments wait to be
// sealed; then both share the machine.
const (
	patience  = 3
	burstRate = 16 << 20 // bytes committed a second that make a burst
	sampleGap = 10 * time.Millisecond
	restTime  = 50 * time.Millisecond
)

// giveWay lets whoever waits for a processor go first, and rests while a burst of appends goes on.
func (s *sealer) giveWay(ctx context.Context) {
	runtime.Gosched()
	for s.l.w != nil && !s.l.w.stopping() && s.waiting() < patience {
		gap := time.Since(s.sampledAt)
		if gap < sampleGap {
			return
		}
		bytes := s.l.committedBytes.Load()
		burst := float64(bytes-s.sampled) > burstRate*gap.Seconds()
		s.sampledAt, s.sampled = time.Now(), bytes
		if !burst {
			return
		}
		select {
		case <-time.After(restTime):
		case <-s.l.w.quit:
		case <-ctx.Done():
			return
		}
	}
}

func (s *sealer) oldest() *segmentFile {
	s.l.mu.RLock()
	defer s.l.mu.RUnlock()
	for _, seg := range s.l.segments {
		if seg.waits() {
			return seg
		}
	}
	return nil
}

func (s *sealer) waiting() (n int) {
	s.l.mu.RLock()
	defer s.l.mu.RUnlock()
	for _, seg := range s.l.segments {
		if seg.waits() {
			n++
		}
	}
	return n
}

// progress waits for the next attempt to end, and says whether it sealed a segment.
func (s *sealer) progress() bool {
	s.mu.Lock()
	turn := s.turn
	s.mu.Unlock()
	if s.waiting() == 0 {
		return true
	}
	s.poke()
	<-turn
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil
}

// wait returns when nothing is left to seal, or with what stopped the sealer.
func (s *sealer) wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		turn := s.turn
		s.mu.Unlock()
		if s.waiting() == 0 {
			return nil
		}
		s.poke()
		select {
		case <-turn:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ended:
			return ErrClosed
		}
		s.mu.Lock()
		err := s.err
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
}

// stopping says that nothing more is admitted.
func (w *writer) stopping() bool {
	select {
	case <-w.quit:
		return true
	default:
		return false
	}
}

// stop seals what waits, unless sealing fails, and ends the sealer.
func (s *sealer) stop() error {
	err := s.wait(context.Background())
	s.cancel()
	<-s.ended
	return err
}

// seal makes the archive, index and seal of a pending segment, each durable before the next, and lets go of the
// pending file last. What an interrupted attempt left is made again, except an archive, which is checked.
func (l *Log) seal(ctx context.Context, s *segmentFile) error {
	// First, so that at no moment an archive lacks the checkpoint over it.
	if err := l.publisher.cover(s.end); err != nil {
		return err
	}
	archiveName := archiveDir + "/" + segment.ArchiveName(s.first)
	idx, err := l.writeArchive(ctx, s, archiveName)
	if err != nil {
		return fmt.Errorf("%s: %w", archiveName, err)
	}
	if err := l.writeSeal(s.first, s.end, idx, archiveDir); err != nil {
		return err
	}
	name := l.path(pendingDir, segment.PendingName(s.first))
	l.mu.Lock()
	s.kind, s.leftover = archived, true
	s.levels, s.counted = levelsOf(idx.Index), true
	s.starts = nil
	l.mu.Unlock()
	s.close()
	s.forgetIndexes()
	if err := l.fs.Chmod(name, 0o600); err != nil && !notExist(err) {
		return err
	}
	if err := l.fs.Remove(name); err != nil && !notExist(err) {
		return err
	}
	if err := l.fs.SyncDir(l.path(pendingDir)); err != nil {
		return err
	}
	l.mu.Lock()
	s.leftover = false
	l.mu.Unlock()
	return nil
}

// waits says that the segment is still to be sealed, or that its pending file is still to be let go of.
func (s *segmentFile) waits() bool { return s.kind == pending || s.leftover }

func levelsOf(x *index.Index) (levels [NumLevels]uint64) {
	for i := range x.Groups {
		for level, n := range x.Groups[i].Levels {
			levels[level] += uint64(n)
		}
	}
	return levels
}

// writeArchive reads the segment's groups back from the disk, proves each against the committed tree, and writes them as
// frames: what is sealed is what was acknowledged, or nothing. An archive that is there already is read instead.
func (l *Log) writeArchive(ctx context.Context, s *segmentFile, name string) (*indexes, error) {
	final := l.path(filepath.FromSlash(name))
	if _, err := l.fs.Stat(final); err == nil {
		return l.proveArchive(ctx, s, name)
	} else if !notExist(err) {
		return nil, err
	}
	tmp := l.path(nextDir, segment.ArchiveName(s.first))
	if err := l.fs.Remove(tmp); err != nil && !notExist(err) {
		return nil, err
	}
	f, err := l.fs.Create(tmp, 0o600)
	if err != nil {
		return nil, err
	}
	idx, err := l.fillArchive(ctx, s, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, l.fs.Remove(tmp))
	}
	if err := l.fs.Chmod(tmp, 0o444); err != nil {
		return nil, err
	}
	if err := l.fs.Rename(tmp, final); err != nil {
		return nil, err
	}
	return idx, errors.Join(l.fs.SyncDir(l.path(archiveDir)), l.fs.SyncDir(l.path(nextDir)))
}

// proveArchive reads an archive that an interrupted attempt left, instead of making it again.
func (l *Log) proveArchive(ctx context.Context, s *segmentFile, name string) (*indexes, error) {
	a, err := l.readArchive(name)
	if err != nil {
		return nil, err
	}
	if a.First() != s.first || a.End() != s.end {
		return nil, &CorruptError{File: name, What: "the archive is of another range than the segment", Got: fmt.Sprintf("%d to %d", a.First(), a.End()), Want: fmt.Sprintf("%d to %d", s.first, s.end)}
	}
	if err := l.fs.SyncDir(l.path(archiveDir)); err != nil { // the attempt before may have ended at this sync
		return nil, err
	}
	return l.indexOf(ctx, s, nil, a)
}

func (l *Log) fillArchive(ctx context.Context, s *segmentFile, f vfs.File) (*indexes, error) {
	chain := Hash{}
	if s.first > 0 {
		var err error
		if chain, err = l.store.Chain(s.first/tree.GroupSize - 1); err != nil {
			return nil, err
		}
	}
	buffered := bufio.NewWriterSize(&appender{f: f}, 256<<10)
	w, err := segment.NewArchiveWriter(buffered, s.first, chain)
	if err != nil {
		return nil, err
	}
	idx, err := l.indexOf(ctx, s, w, nil)
	if err != nil {
		return nil, err
	}
	last, err := l.store.Chain(s.end/tree.GroupSize - 1)
	if err != nil {
		return nil, err
	}
	frontier, err := l.store.Frontier(s.end / tree.GroupSize)
	if err != nil {
		return nil, err
	}
	if err := w.Close(s.end, last, frontier.Root()); err != nil {
		return nil, err
	}
	return idx, buffered.Flush()
}

// indexes are what a segment's entries give.
type indexes struct {
	*index.Index
	search *index.Builder // nil where no search index is made
}

// indexOf reads a segment's groups, proves them, builds the indexes, and passes them on to w if there is one. It reads the
// pending file or, given a, an archive of the same segment. Reading and compressing go on in the calling goroutine, decoding and
// indexing in a second one: each takes about half of the time.
func (l *Log) indexOf(ctx context.Context, s *segmentFile, w *segment.ArchiveWriter, a *segment.Archive) (*indexes, error) {
	l.mu.RLock()
	at := l.edge
	l.mu.RUnlock()
	x := l.startIndexing(s.first)
	for k := s.first / tree.GroupSize; k < s.end/tree.GroupSize; k++ {
		g := <-x.free
		var err error
		if a != nil {
			err = l.readArchived(ctx, a, s, k, &at, g)
		} else {
			err = l.readGroup(ctx, k, &at, g)
		}
		if err != nil {
			return nil, errors.Join(err, x.end())
		}
		x.work <- g
		if w == nil { // a rebuild reads an archive
			x.settle(g)
			continue
		}
		if err := w.WriteGroup(g.buf); err != nil {
			return nil, errors.Join(err, x.end())
		}
		x.settle(g)
		l.sealer.giveWay(ctx)
	}
	return &x.indexes, x.end()
}

const (
	aheadGroups = 16        // that may wait to be indexed
	aheadBytes  = 256 << 10 // of a group that may wait beside others; while a longer one is indexed nothing else is read
)

// An indexing builds indexes from groups that another goroutine reads. Both may read a group's lines at once; neither changes them.
type indexing struct {
	indexes
	work  chan *group   // that were proven
	free  chan *group   // to read the next ones into
	ended chan struct{} // closed when the goroutine is at its end; it owns indexes and err until then
	err   error
}

func (l *Log) startIndexing(first uint64) *indexing {
	x := &indexing{indexes: indexes{Index: index.New(first)}, work: make(chan *group, aheadGroups), free: make(chan *group, aheadGroups), ended: make(chan struct{})}
	if !l.cfg.noSearch {
		x.search = index.NewBuilder(first)
	}
	for range aheadGroups {
		x.free <- new(group)
	}
	go x.run()
	return x
}

func (x *indexing) run() {
	defer close(x.ended)
	for g := range x.work {
		if x.err == nil {
			x.err = x.add(g.lines)
		}
		x.free <- g
	}
}

// add describes the entries of the next group.
func (x *indexes) add(lines [][]byte) error {
	var line entry.Line
	for _, b := range lines {
		if err := entry.Decode(b, &line); err != nil {
			return err
		}
		if err := x.Add(&line); err != nil {
			return err
		}
		if x.search == nil {
			continue
		}
		if err := x.search.Add(&line); err != nil {
			return err
		}
	}
	return nil
}

// settle waits after a long group until all are indexed, and lets go of its memory: long lines would otherwise take a quarter of a
// gigabyte.
func (x *indexing) settle(g *group) {
	if cap(g.buf) <= aheadBytes {
		return
	}
	var idle [aheadGroups]*group
	for i := range idle {
		idle[i] = <-x.free
	}
	g.buf = nil
	for _, g := range idle {
		x.free <- g
	}
}

// end waits for what is left to be indexed.
func (x *indexing) end() error {
	close(x.work)
	<-x.ended
	return x.err
}

// readArchived reads group k from a given archive and proves it, also while the log still has it elsewhere.
func (l *Log) readArchived(ctx context.Context, a *segment.Archive, s *segmentFile, k uint64, at *edge, g *group) (err error) {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	p := groupPlace{seg: &segmentFile{first: s.first, kind: archived}, archive: a, frame: int(k - s.first/tree.GroupSize)}
	if g.buf, err = p.read(g.buf[:0]); err != nil {
		return err
	}
	if g.lines, err = segment.SplitLines(g.lines[:0], g.buf); err != nil {
		return err
	}
	g.number, g.leaves = k, g.leaves[:0]
	for _, line := range g.lines {
		g.leaves = append(g.leaves, leafHash(line))
	}
	return l.proveGroup(g, &p, at)
}

// writeSeal writes the indexes and the signed note over them and the archive, which lies in a directory of the log.
func (l *Log) writeSeal(first, end uint64, idx *indexes, in string) error {
	data := idx.Append(nil)
	if err := l.replaceDerived(segment.IndexName(first), data); err != nil {
		return err
	}
	sum, length, err := l.fileDigest(l.path(in, segment.ArchiveName(first)))
	if err != nil {
		return err
	}
	seal := index.Seal{
		Origin: l.id.Origin, First: first, End: end,
		Archive: sum, ArchiveLen: length, Index: sha256.Sum256(data), IndexLen: int64(len(data)),
	}
	if idx.search != nil {
		search, table := idx.search.Finish()
		if err := l.replaceDerived(segment.SearchName(first), search); err != nil {
			return err
		}
		seal.Search, seal.SearchLen, seal.Table = sha256.Sum256(search), int64(len(search)), table
	}
	note, err := l.signSeal(seal.Text())
	if err != nil {
		return err
	}
	return l.replaceDerived(segment.SealName(first), note)
}

func (l *Log) replaceDerived(name string, data []byte) error {
	return vfs.WriteAtomic(l.fs, l.path(nextDir, name), l.path(indexDir, name), data, 0o444)
}

func (l *Log) fileDigest(name string) (sum [sha256.Size]byte, length int64, err error) {
	f, err := l.fs.Open(name)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	if length, err = f.Size(); err != nil {
		return sum, 0, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, length)); err != nil {
		return sum, 0, err
	}
	h.Sum(sum[:0])
	return sum, length, nil
}

// cover makes sure that a checkpoint of at least size is in the history.
func (p *publisher) cover(size uint64) error {
	p.mu.Lock()
	kept := p.kept
	p.mu.Unlock()
	if kept >= size {
		return p.settle()
	}
	if err := p.publish(true); err != nil {
		return fmt.Errorf("sign a checkpoint over the segment: %w", err)
	}
	return nil
}

// appender writes at the end of a file.
type appender struct {
	f   vfs.File
	off int64
}

func (a *appender) Write(p []byte) (int, error) {
	n, err := a.f.WriteAt(p, a.off)
	a.off += int64(n)
	return n, err
}
