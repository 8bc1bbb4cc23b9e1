package immutable

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// retiredDir is part of the format. It is made when the first segment is retired.
const retiredDir = "retired"

// RetireOptions say what becomes of a segment that is retired, and why. One of ColdDir and Delete must be given.
type RetireOptions struct {
	ColdDir string // its files are copied there before they are removed here; a directory of this log alone
	Delete  bool   // they are not copied
	Reason  string // stands in the tombstone; at most 1,024 bytes
	By      string // who decided it, for people; likewise
}

// Retired is a segment whose entries are not in the log's directory any more, as its tombstone says. Its leaf hashes and control
// entries are: proofs of the entries are made as before.
type Retired struct {
	First   uint64    `json:"first"`
	End     uint64    `json:"end"`     // the index after its last entry
	Entry   uint64    `json:"entry"`   // index of the tombstone
	Time    time.Time `json:"time"`    // its timestamp
	Bytes   int64     `json:"bytes"`   // of the archive
	Archive string    `json:"archive"` // its SHA-256, hex
	Leaves  string    `json:"leaves"`  // SHA-256 of what is kept, hex
	Cold    string    `json:"cold"`    // where the archive was moved; "" where it was deleted
	Reason  string    `json:"reason"`
	By      string    `json:"by"`
}

// RetiredError is returned where an entry is asked for whose segment was retired. Proofs of it can be had all the same.
type RetiredError struct {
	First, End uint64 // of the segment, or of all that is retired
	Entry      int64  // index of the segment's tombstone; -1 where it was not looked up
	Cold       string // where the archive was moved; "" where it was deleted, or not looked up

	more bool // there are several segments, and what Entry and Cold say is of the first
}

func (e *RetiredError) Error() string {
	s := fmt.Sprintf("entries %d to %d are retired", e.First, e.End-1)
	switch {
	case e.Entry < 0 || e.more:
		return s + "; `immutable retire --list` says where they went"
	case e.Cold == "":
		return fmt.Sprintf("%s: deleted, as entry %d says; the oldest entry that is there is %d", s, e.Entry, e.End)
	}
	return fmt.Sprintf("%s: moved to %s, as entry %d says; `immutable retire --undo` brings them back", s, e.Cold, e.Entry)
}

// Retired lists the segments that are retired, the oldest first: all entries below the last one's End.
func (l *Log) Retired(ctx context.Context) ([]Retired, error) {
	f, err := l.retained(ctx)
	if err != nil {
		return nil, err
	}
	return append([]Retired(nil), f.retired...), nil
}

// Retire takes the archive of a sealed segment out of the directory: the oldest that is there, so that what is retired is always
// the entries below some index, and nobody takes a hole out of the middle of a log and calls it retention. Before that its leaf
// hashes and control entries are kept durably, its files are copied if o says so, a tombstone is appended, and a checkpoint over it
// is signed; a crash at any step loses nothing. While a hold is active the error is a *HeldError. A segment with idempotency
// keys that still count is refused.
//
// A retirement that was interrupted after its tombstone is finished, by this or by the next Open.
func (l *Log) Retire(ctx context.Context, first uint64, o RetireOptions) (Retired, error) {
	if l.w == nil {
		return Retired{}, l.refusal()
	}
	if err := l.checkRetire(&o); err != nil {
		return Retired{}, err
	}
	l.retention.changing.Lock()
	defer l.retention.changing.Unlock()
	f, err := l.retained(ctx)
	if err != nil {
		return Retired{}, err
	}
	if n := len(f.retired); n > 0 && f.retired[n-1].First == first && l.hasArchive(first) {
		return f.retired[n-1], l.finishRetirement(&f.retired[n-1])
	}
	if len(f.holds) > 0 {
		return Retired{}, &HeldError{Holds: append([]Hold(nil), f.holds...)}
	}
	s, err := l.oldestSealed(first)
	if err != nil {
		return Retired{}, err
	}
	return l.retire(ctx, s, &o)
}

// RetireExpired retires the oldest segments whose newest entry is older than keep, by their timestamps.
func (l *Log) RetireExpired(ctx context.Context, keep time.Duration, o RetireOptions) ([]Retired, error) {
	if l.w == nil {
		return nil, l.refusal()
	}
	var out []Retired
	for {
		next, err := l.expired(ctx, keep, 1)
		if err != nil || len(next) == 0 {
			return out, err
		}
		r, err := l.Retire(ctx, next[0].First, o)
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
}

// Expired lists the segments that RetireExpired would retire now, as far as nothing stands against it: their First and End, and
// the Bytes of their archives. Nothing is changed.
func (l *Log) Expired(ctx context.Context, keep time.Duration) ([]Retired, error) {
	if err := l.refresh(); err != nil {
		return nil, err
	}
	return l.expired(ctx, keep, -1)
}

// expired lists at most so many segments; all of them where most is negative.
func (l *Log) expired(ctx context.Context, keep time.Duration, most int) (out []Retired, err error) {
	if keep < 0 {
		return nil, fmt.Errorf("keep entries for %s: want a time of at least 0", keep)
	}
	limit := clampNano(l.cfg.now().Add(-keep))
	for _, s := range l.oldSealed() {
		if len(out) == most {
			return out, nil
		}
		at, err := l.newestOf(ctx, s)
		if err != nil || at >= limit {
			return out, err
		}
		info, err := l.fs.Stat(l.path(archiveDir, segment.ArchiveName(s.first)))
		if err != nil {
			return out, err
		}
		out = append(out, Retired{First: s.first, End: s.end, Bytes: info.Size})
	}
	return out, nil
}

// newestOf is the latest timestamp in a segment: its last entry's, or that of one before a clock was reset.
func (l *Log) newestOf(ctx context.Context, s *segmentFile) (newest int64, err error) {
	if x := l.indexFor(s.first / tree.GroupSize); x != nil {
		for i := range x.Groups {
			newest = max(newest, x.Groups[i].TimeMax)
		}
		return newest, nil
	}
	at, err := l.committed()
	if err != nil {
		return 0, err
	}
	var g group
	for k := s.first / tree.GroupSize; k < s.end/tree.GroupSize; k++ {
		if err := l.readGroup(ctx, k, &at, &g); err != nil {
			return 0, err
		}
		for _, line := range g.lines {
			t, err := timestampOf(line)
			if err != nil {
				return 0, err
			}
			newest = max(newest, t)
		}
	}
	return newest, nil
}

func (l *Log) checkRetire(o *RetireOptions) error {
	if (o.ColdDir == "") == !o.Delete {
		return errors.New("retire: say where the segment goes, or that it is to be deleted; one of the two")
	}
	if err := checkReason("reason", o.Reason, "by", o.By, "cold directory", o.ColdDir); err != nil {
		return err
	}
	if o.ColdDir == "" {
		return nil
	}
	within, err := filepath.Rel(l.dir, o.ColdDir)
	if err == nil && within != ".." && !strings.HasPrefix(within, ".."+string(filepath.Separator)) {
		return fmt.Errorf("cold directory %s is within the log's own, %s; choose another", o.ColdDir, l.dir)
	}
	return nil
}

// firstSealed is the oldest sealed segment that is there, or nil.
func (l *Log) firstSealed() *segmentFile {
	if list := l.oldSealed(); len(list) > 0 {
		return list[0]
	}
	return nil
}

// oldSealed are the sealed segments that are there, the oldest first, up to the first that is not sealed yet.
func (l *Log) oldSealed() (out []*segmentFile) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segments {
		if s.kind == retired {
			continue
		}
		if s.kind != archived || s.leftover {
			break
		}
		out = append(out, s)
	}
	return out
}

func (l *Log) oldestSealed(first uint64) (*segmentFile, error) {
	s := l.firstSealed()
	switch {
	case s == nil:
		return nil, fmt.Errorf("retire the segment of entry %d: no sealed segment is there: %w", first, ErrNotFound)
	case s.first != first:
		return nil, fmt.Errorf("retire the segment of entry %d: segments are retired oldest first, and the oldest that is there begins with entry %d", first, s.first)
	}
	return s, nil
}

func (l *Log) hasArchive(first uint64) bool {
	s := l.firstSealed()
	return s != nil && s.first == first
}

// retire does what Retire says, in the order of docs/format.md, "Retention".
func (l *Log) retire(ctx context.Context, s *segmentFile, o *RetireOptions) (Retired, error) {
	if err := l.publisher.cover(s.end); err != nil {
		return Retired{}, err
	}
	seal, err := l.readSeal(s.first)
	if err != nil {
		return Retired{}, fmt.Errorf("the seal of the segment from entry %d on cannot be used: %w; `immutable rebuild` makes it again", s.first, err)
	}
	note, _, err := l.fileDigest(l.path(indexDir, segment.SealName(s.first)))
	if err != nil {
		return Retired{}, err
	}
	archive, length, err := l.fileDigest(l.path(archiveDir, segment.ArchiveName(s.first)))
	if err != nil {
		return Retired{}, err
	}
	if archive != seal.Archive || seal.End != s.end {
		return Retired{}, &CorruptError{File: segmentPath(s), What: "it is not the archive that was sealed", Got: fmt.Sprintf("%x", archive), Want: fmt.Sprintf("%x", seal.Archive)}
	}
	leaves, err := l.writeLeaves(ctx, s)
	if err != nil {
		return Retired{}, fmt.Errorf("keep the leaf hashes of the segment from entry %d on: %w", s.first, err)
	}
	if o.ColdDir != "" {
		if err := l.copyCold(ctx, s, o.ColdDir, archive); err != nil {
			return Retired{}, errors.Join(fmt.Errorf("copy the segment from entry %d on to %s: %w", s.first, o.ColdDir, err), l.dropLeaves(s))
		}
	}
	// Whether the tombstone is in the log decides what the leaves file is there for, now and after a crash.
	_, err = l.retentionEntry(ctx, "a segment is retired", struct {
		Type    string `json:"type"`
		First   uint64 `json:"first"`
		End     uint64 `json:"end"`
		Archive string `json:"archive"`
		Bytes   int64  `json:"bytes"`
		Seal    string `json:"seal"`
		Leaves  string `json:"leaves"`
		Cold    string `json:"cold"`
		Reason  string `json:"reason"`
		By      string `json:"by"`
	}{retireType, s.first, s.end, hex.EncodeToString(archive[:]), length, hex.EncodeToString(note[:]), hex.EncodeToString(leaves[:]), o.ColdDir, o.Reason, o.By})
	if err != nil {
		return Retired{}, err
	}
	f, err := l.retained(ctx)
	if err != nil {
		return Retired{}, err
	}
	r := f.retired[len(f.retired)-1]
	return r, l.finishRetirement(&r)
}

// finishRetirement removes the archive and the indexes, once a checkpoint over the tombstone is kept.
func (l *Log) finishRetirement(r *Retired) error {
	if err := l.publisher.cover(r.Entry + 1); err != nil {
		return fmt.Errorf("the tombstone of the segment from entry %d on is written; the archive goes once a checkpoint covers it: %w", r.First, err)
	}
	s := l.segmentOf(r.First / tree.GroupSize)
	sum, _, err := l.fileDigest(l.path(retiredDir, segment.LeavesName(r.First)))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum[:]); got != r.Leaves {
		return &CorruptError{File: retiredDir + "/" + segment.LeavesName(r.First), What: "it is not the file that the tombstone names: the archive stays", Got: got, Want: r.Leaves}
	}
	l.mu.Lock()
	s.kind, s.leaves, s.counted, s.levels = retired, false, false, [NumLevels]uint64{}
	l.mu.Unlock()
	s.archiveMu.Lock()
	s.archive = nil
	s.archiveMu.Unlock()
	s.forgetIndexes()
	if err := l.unlink(archiveDir, segment.ArchiveName(r.First)); err != nil {
		return err
	}
	return l.unlink(indexDir, segment.IndexName(r.First), segment.SearchName(r.First), segment.SealName(r.First))
}

// unlink removes files of a directory, durably; those that are not there are as they should be.
func (l *Log) unlink(dir string, names ...string) error {
	for _, name := range names {
		name = l.path(dir, name)
		if err := l.fs.Chmod(name, 0o600); err != nil && !notExist(err) {
			return err
		}
		if err := l.fs.Remove(name); err != nil && !notExist(err) {
			return err
		}
	}
	return l.fs.SyncDir(l.path(dir))
}

func (l *Log) dropLeaves(s *segmentFile) error {
	if err := l.unlink(retiredDir, segment.LeavesName(s.first)); err != nil {
		return err
	}
	l.mu.Lock()
	s.leaves = false
	l.mu.Unlock()
	return nil
}

// writeLeaves reads the segment's groups, proves each, and writes their leaf hashes and control entries.
func (l *Log) writeLeaves(ctx context.Context, s *segmentFile) (sum [sha256.Size]byte, err error) {
	if err := vfs.MkdirAll(l.fs, l.path(retiredDir), 0o700); err != nil {
		return sum, err
	}
	tmp, final := l.path(nextDir, segment.LeavesName(s.first)), l.path(retiredDir, segment.LeavesName(s.first))
	err = l.replaceBy(tmp, final, func(w io.Writer) error {
		h := sha256.New()
		err := l.fillLeaves(ctx, s, io.MultiWriter(w, h))
		h.Sum(sum[:0])
		return err
	})
	if err != nil {
		return sum, err
	}
	l.mu.Lock()
	s.leaves = true
	l.mu.Unlock()
	return sum, nil
}

func (l *Log) fillLeaves(ctx context.Context, s *segmentFile, w io.Writer) error {
	at, err := l.committed()
	if err != nil {
		return err
	}
	if _, err := w.Write(segment.AppendLeavesHeader(nil, s.first, s.end)); err != nil {
		return err
	}
	var kept []byte
	var g group
	var line entry.Line
	counts := clampNano(l.cfg.now().Add(-idempotencyWindow))
	for k := s.first / tree.GroupSize; k < s.end/tree.GroupSize; k++ {
		if err := l.readGroup(ctx, k, &at, &g); err != nil {
			return err
		}
		for i, leaf := range g.leaves {
			if _, err := w.Write(leaf[:]); err != nil {
				return err
			}
			if err := entry.Decode(g.lines[i], &line); err != nil {
				return err
			}
			index := k*tree.GroupSize + uint64(i)
			if line.IdempotencyKey != nil && line.Time > counts {
				return fmt.Errorf("entry %d has an idempotency key, and keys count for %v: an append that repeats it must find it; retire the segment later", index, idempotencyWindow)
			}
			if line.Log != nil {
				kept = segment.AppendKeptLine(kept, index, g.lines[i])
			}
			if len(kept) > segment.MaxKeptBytes {
				return fmt.Errorf("its control entries take more than %d bytes: a segment with so many is not retired", segment.MaxKeptBytes)
			}
		}
	}
	_, err = w.Write(kept)
	return err
}

// replaceBy is vfs.WriteAtomic for what does not fit memory.
func (l *Log) replaceBy(tmp, final string, fill func(io.Writer) error) error {
	if err := l.fs.Remove(tmp); err != nil && !notExist(err) {
		return err
	}
	f, err := l.fs.Create(tmp, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(&appender{f: f}, 256<<10)
	if err = fill(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = l.fs.Chmod(tmp, 0o444)
	}
	if err != nil {
		return errors.Join(err, l.fs.Remove(tmp))
	}
	if err := l.fs.Rename(tmp, final); err != nil {
		return err
	}
	if filepath.Dir(tmp) != filepath.Dir(final) {
		err = l.fs.SyncDir(filepath.Dir(tmp))
	}
	return errors.Join(l.fs.SyncDir(filepath.Dir(final)), err)
}

// copyCold copies a segment's files to the cold directory, durably, and reads the archive back.
func (l *Log) copyCold(ctx context.Context, s *segmentFile, cold string, archive [sha256.Size]byte) error {
	name := segment.ArchiveName(s.first)
	for _, dir := range []string{archiveDir, indexDir} {
		if err := vfs.MkdirAll(l.fs, filepath.Join(cold, dir), 0o700); err != nil {
			return err
		}
	}
	to := filepath.Join(cold, archiveDir, name)
	if have, _, err := l.fileDigest(to); err == nil && have != archive {
		return fmt.Errorf("%s is there and holds something else: give each log a cold directory of its own", to)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, base := range []string{segment.IndexName(s.first), segment.SearchName(s.first), segment.SealName(s.first)} {
		if err := l.copyFile(ctx, l.path(indexDir, base), filepath.Join(cold, indexDir, base), nil); err != nil && !notExist(err) {
			return err
		}
	}
	if err := l.copyFile(ctx, l.path(archiveDir, name), to, nil); err != nil {
		return err
	}
	have, _, err := l.fileDigest(to)
	if err == nil && have != archive {
		err = fmt.Errorf("%s, read back, has SHA-256 %x, the archive %x", to, have, archive)
	}
	return err
}

// copyFile makes a durable copy. want, if it is given, is the SHA-256 that the bytes must have before they get their name.
func (l *Log) copyFile(ctx context.Context, from, to string, want *[sha256.Size]byte) error {
	f, err := l.fs.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	return l.replaceBy(to+".new", to, func(w io.Writer) error {
		h := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, h), &stoppable{ctx, io.NewSectionReader(f, 0, size)}); err != nil {
			return err
		}
		return wantSum(h, want, from)
	})
}

func wantSum(h hash.Hash, want *[sha256.Size]byte, name string) error {
	if got := [sha256.Size]byte(h.Sum(nil)); want != nil && got != *want {
		return fmt.Errorf("%s has SHA-256 %x, the tombstone names %x", name, got, *want)
	}
	return nil
}

// stoppable ends when its context does.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

// RestoreOptions say where a retired segment is, and why it comes back.
type RestoreOptions struct {
	ColdDir    string // "" is the one that the tombstone names
	Reason, By string // at most 1,024 bytes each
}

// Restore brings the segment that was retired last back from the cold directory, if its archive is still the one that the
// tombstone names; its indexes and seal are made again, and a control entry ends the tombstone.
func (l *Log) Restore(ctx context.Context, o RestoreOptions) (Retired, error) {
	if l.w == nil {
		return Retired{}, l.refusal()
	}
	if err := checkReason("reason", o.Reason, "by", o.By); err != nil {
		return Retired{}, err
	}
	l.retention.changing.Lock()
	defer l.retention.changing.Unlock()
	f, err := l.retained(ctx)
	if err != nil {
		return Retired{}, err
	}
	if len(f.retired) == 0 {
		return Retired{}, fmt.Errorf("restore: no segment is retired: %w", ErrNotFound)
	}
	r := f.retired[len(f.retired)-1]
	if o.ColdDir == "" {
		o.ColdDir = r.Cold
	}
	if o.ColdDir == "" {
		return r, fmt.Errorf("restore: the segment from entry %d on was deleted, as entry %d says; name a directory that has a copy of it", r.First, r.Entry)
	}
	return r, l.restore(ctx, &r, &o)
}

func (l *Log) restore(ctx context.Context, r *Retired, o *RestoreOptions) error {
	want, err := parseDigest(r.Archive)
	if err != nil {
		return err
	}
	name := segment.ArchiveName(r.First)
	// Until its indexes and seal are there, the archive lies in next/, which every open empties.
	from, tmp, final := filepath.Join(o.ColdDir, archiveDir, name), l.path(nextDir, name), l.path(archiveDir, name)
	if err := l.copyFile(ctx, from, tmp, &want); err != nil {
		return fmt.Errorf("restore the segment from entry %d on: %w", r.First, err)
	}
	a, err := l.readArchive(nextDir + "/" + name)
	if err != nil {
		return err
	}
	s := l.segmentOf(r.First / tree.GroupSize)
	idx, err := l.indexOf(ctx, s, nil, a)
	if err != nil {
		return err
	}
	if err := l.writeSeal(s.first, s.end, idx, nextDir); err != nil {
		return err
	}
	if err := l.fs.Rename(tmp, final); err != nil {
		return err
	}
	if err := errors.Join(l.fs.SyncDir(l.path(archiveDir)), l.fs.SyncDir(l.path(nextDir))); err != nil {
		return err
	}
	_, err = l.retentionEntry(ctx, "a retired segment is restored", struct {
		Type   string `json:"type"`
		First  uint64 `json:"first"`
		Entry  uint64 `json:"entry"`
		Reason string `json:"reason"`
		By     string `json:"by"`
	}{restoreType, r.First, r.Entry, o.Reason, o.By})
	if err != nil {
		return err
	}
	l.mu.Lock()
	s.kind, s.leaves = archived, true
	s.restored++
	s.levels, s.counted = levelsOf(idx.Index), true
	l.mu.Unlock()
	s.forgetIndexes()
	return l.dropLeaves(s)
}

func parseDigest(text string) (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("%.80q is no SHA-256", text)
	}
	return [sha256.Size]byte(b), nil
}

// resumeRetirement finishes or takes back what a crash interrupted, and holds what is retired to the tombstones. A log of which
// nothing was retired has nothing to look at.
func (l *Log) resumeRetirement(ctx context.Context) error {
	l.mu.RLock()
	var twins []*segmentFile
	gone := uint64(0)
	for _, s := range l.segments {
		if s.kind == retired {
			gone = s.end
		} else if s.leaves {
			twins = append(twins, s)
		}
	}
	l.mu.RUnlock()
	if gone == 0 && len(twins) == 0 {
		return nil
	}
	l.retention.changing.Lock()
	defer l.retention.changing.Unlock()
	f, err := l.retained(ctx)
	if err != nil {
		return err
	}
	if err := l.tombstonesFit(f); err != nil {
		return err
	}
	if err := l.unlinkStray(gone); err != nil {
		return err
	}
	for _, s := range twins {
		n := len(f.retired)
		if n > 0 && f.retired[n-1].First == s.first {
			err = l.finishRetirement(&f.retired[n-1])
		} else {
			err = l.dropLeaves(s)
		}
		if err != nil {
			l.logger.Error("a retirement that was interrupted is not finished; trying again with the next open", "first", s.first, "error", err)
		}
	}
	return nil
}

// tombstonesFit compares the retired segments with the tombstones: of each tombstone in effect the leaves are there, and the
// archive of the newest may be; nothing else lacks its archive.
func (l *Log) tombstonesFit(f *retentionFacts) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i, s := range l.segments {
		named := i < len(f.retired) && f.retired[i].First == s.first && f.retired[i].End == s.end
		switch {
		case s.kind == retired && !named:
			return &CorruptError{File: archiveDir + "/" + segment.ArchiveName(s.first), What: "it is missing, and no entry says that the segment was retired"}
		case s.kind != retired && i < len(f.retired) && !(named && s.kind == archived && s.leaves):
			return &CorruptError{File: retiredDir + "/" + segment.LeavesName(s.first), What: fmt.Sprintf("it is missing, and entry %d says that the segment is retired", f.retired[i].Entry)}
		}
	}
	return nil
}

// unlinkStray removes the indexes of retired segments, those of entries below gone, that a crash left.
func (l *Log) unlinkStray(gone uint64) error {
	names, err := l.fs.ReadDir(l.path(indexDir))
	if err != nil {
		return err
	}
	var stray []string
	for _, name := range names {
		for _, suffix := range []string{segment.IndexSuffix, segment.SearchSuffix, segment.SealSuffix} {
			if first, ok := segment.ParseName(name, suffix); ok && first < gone {
				stray = append(stray, name)
			}
		}
	}
	if len(stray) == 0 {
		return nil
	}
	return l.unlink(indexDir, stray...)
}

// retiredSegments are those whose archives are not there.
func (l *Log) retiredSegments() (out []*segmentFile) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segments {
		if s.kind == retired {
			out = append(out, s)
		}
	}
	return out
}

// retiredEnd is the index after the last entry that is retired; 0 where none is.
func (l *Log) retiredEnd() (end uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segments {
		if s.kind != retired {
			break
		}
		end = s.end
	}
	return end
}

// whereRetired adds to the error of an entry that is retired what its tombstone says.
func (l *Log) whereRetired(ctx context.Context, err error) error {
	var gone *RetiredError
	if !errors.As(err, &gone) || gone.Entry >= 0 {
		return err
	}
	f, ferr := l.retained(ctx)
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	for i := range f.retired {
		if r := &f.retired[i]; r.First <= gone.First && gone.First < r.End {
			return &RetiredError{First: gone.First, End: gone.End, Entry: int64(r.Entry), Cold: r.Cold, more: gone.End > r.End}
		}
	}
	return &CorruptError{File: archiveDir + "/" + segment.ArchiveName(gone.First), What: "it is missing, and no entry says that the segment was retired"}
}

// openLeaves opens what is kept of a retired segment. done closes it.
func (l *Log) openLeaves(s *segmentFile) (x *segment.Leaves, done func() error, err error) {
	name := retiredDir + "/" + segment.LeavesName(s.first)
	f, err := l.fs.Open(l.path(retiredDir, segment.LeavesName(s.first)))
	if err != nil {
		return nil, nil, err
	}
	size, err := f.Size()
	if err == nil {
		x, err = segment.OpenLeaves(f, size)
	}
	if err == nil && x.First() != s.first {
		err = &segment.CorruptError{Msg: "the leaves are of another segment than the name", Got: fmt.Sprint(x.First()), Want: fmt.Sprint(s.first)}
	}
	if err != nil {
		return nil, nil, errors.Join(corrupt(name, err), f.Close())
	}
	return x, f.Close, nil
}

// keptLeaves reads the leaf hashes of group k of a retired segment, and proves them.
func (l *Log) keptLeaves(first, k uint64, at *edge) ([]Hash, error) {
	f, err := l.fs.Open(l.path(retiredDir, segment.LeavesName(first)))
	if notExist(err) && first/tree.GroupSize >= l.retiredEnd()/tree.GroupSize { // it was restored meanwhile
		return l.leavesAt(context.Background(), at)(k)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	leaves, err := segment.ReadLeaves(f, size, k)
	if err != nil {
		return nil, corrupt(retiredDir+"/"+segment.LeavesName(first), err)
	}
	g := group{number: k, leaves: leaves}
	return leaves, l.proveGroup(&g, &groupPlace{seg: &segmentFile{first: first, kind: retired}}, at)
}
