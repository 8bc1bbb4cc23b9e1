package repair

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// assembly puts the candidate together, segment by segment from the first entry on. Its state is that of the entries so far.
type assembly struct {
	*repair
	ctx      context.Context
	frontier tree.Frontier
	chain    proof.Hash
	groups   []segment.GroupEnd
	archives []source // that were taken
}

// source is a file that may hold a segment.
type source struct {
	base string // the log's directory or the backup
	name string // in it
	raw  bool   // has the open segment's form
	kept bool   // is what is kept of a retired segment
}

func (s source) path() string { return filepath.Join(s.base, s.name) }

func (r *repair) assemble(ctx context.Context) error {
	a := &assembly{repair: r, ctx: ctx}
	for _, dir := range []string{"", archiveDir, pendingDir, indexDir, treeDir, retiredDir, quarantineDir, nextDir} {
		if err := vfs.MkdirAll(r.fs, filepath.Join(r.candidate, dir), 0o700); err != nil {
			return err
		}
	}
	if err := a.segments(); err != nil {
		return err
	}
	for _, step := range []func() error{a.tree, a.identity, a.checkpoints, a.indexes, a.quarantine} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// segments takes each segment from the first file that holds it whole, the log's own before the backup's.
func (a *assembly) segments() error {
	last, opens := a.opens()
	firsts := a.firsts(last)
	for i, first := range firsts {
		end := last
		if i+1 < len(firsts) {
			end = firsts[i+1]
		}
		if a.frontier.Size() != first {
			return a.lacks(a.frontier.Size(), first)
		}
		if err := a.sealed(first, end, opens); err != nil {
			return err
		}
	}
	if a.frontier.Size() != last {
		return a.lacks(a.frontier.Size(), last)
	}
	return a.open(last)
}

func (a *assembly) lacks(from, to uint64) error {
	return &Error{Reason: fmt.Sprintf("entries %d to %d are whole neither in %s nor in %s", from, to-1, a.dir, a.backup)}
}

// opens reads the header lines of both open segments: the later one is the log's.
func (a *assembly) opens() (last uint64, byFirst map[uint64][]source) {
	byFirst = map[uint64][]source{}
	for _, base := range []string{a.dir, a.backup} {
		s := source{base: base, name: openName, raw: true}
		f, length, err := a.openSource(s)
		if err != nil {
			continue
		}
		if first, _, _, err := segment.ReadHeader(f, length); err == nil && first%segment.GroupSize == 0 {
			byFirst[first] = append(byFirst[first], s)
			last = max(last, first)
		}
		f.Close()
	}
	return last, byFirst
}

// firsts are the beginnings of the sealed and pending segments before the open one.
func (a *assembly) firsts(last uint64) []uint64 {
	seen := map[uint64]bool{}
	var out []uint64
	for _, base := range []string{a.dir, a.backup} {
		for dir, suffix := range map[string]string{archiveDir: segment.ArchiveSuffix, pendingDir: segment.PendingSuffix, retiredDir: segment.LeavesSuffix} {
			names, err := a.fs.ReadDir(filepath.Join(base, dir))
			if err != nil {
				continue
			}
			for _, name := range names {
				if first, ok := segment.ParseName(name, suffix); ok && first < last && !seen[first] {
					seen[first] = true
					out = append(out, first)
				}
			}
		}
	}
	if last > 0 && !seen[0] {
		out = append(out, 0)
	}
	slices.Sort(out)
	return out
}

// sealed takes the segment of the entries first to end-1.
func (a *assembly) sealed(first, end uint64, opens map[uint64][]source) error {
	in := func(base, dir, name string) source {
		return source{base: base, name: dir + "/" + name, raw: dir == pendingDir, kept: dir == retiredDir}
	}
	archive, leaves := segment.ArchiveName(first), segment.LeavesName(first)
	options := []source{in(a.dir, archiveDir, archive)}
	kept := []source{in(a.dir, retiredDir, leaves), in(a.backup, retiredDir, leaves)}
	// A backup may be older than a retirement: then its archive is not what the log has.
	if _, err := a.fs.Stat(kept[0].path()); err == nil {
		options = append(options, kept...)
	}
	options = append(options, in(a.backup, archiveDir, archive), kept[1])
	for _, base := range []string{a.dir, a.backup} {
		options = append(options, in(base, pendingDir, segment.PendingName(first)))
	}
	for _, s := range append(options, opens[first]...) {
		before := *a
		before.frontier = *a.frontier.Clone()
		var err error
		switch {
		case s.raw:
			_, err = a.scan(s, end)
		case s.kept:
			err = a.readKept(s)
		default:
			err = a.readArchive(s)
		}
		if cerr := a.ctx.Err(); cerr != nil {
			return cerr
		}
		if err == nil && a.frontier.Size() == end {
			if s.kept {
				return a.take(s, s.name, 0o444)
			}
			if !s.raw {
				a.archives = append(a.archives, s)
				return errors.Join(a.take(s, s.name, 0o444), a.takeTwin(kept[0]))
			}
			return a.take(s, pendingDir+"/"+segment.PendingName(first), 0o444)
		}
		*a = before
	}
	return a.lacks(first, end)
}

func (a *assembly) openSource(s source) (vfs.File, int64, error) {
	f, err := a.fs.Open(s.path())
	if err != nil {
		return nil, 0, err
	}
	length, err := f.Size()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, length, nil
}

// takeTwin takes the leaves file beside an archive of the log, where a retirement is not finished; package fsck compares the two.
func (a *assembly) takeTwin(s source) error {
	if _, err := a.fs.Stat(s.path()); err != nil {
		return nil //nolint:nilerr // there is none
	}
	return a.take(s, s.name, 0o444)
}

// readKept advances the state by the leaf hashes of a retired segment. Whether they are the log's shows in what follows, and
// package fsck holds them against their tombstone.
func (a *assembly) readKept(s source) error {
	f, length, err := a.openSource(s)
	if err != nil {
		return err
	}
	defer f.Close()
	x, err := segment.OpenLeaves(f, length)
	if err != nil {
		return err
	}
	if x.First() != a.frontier.Size() {
		return errors.New("it does not follow the segment before it")
	}
	for g := range x.Groups() {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		leaves, err := x.Group(g)
		if err != nil {
			return err
		}
		for _, leaf := range leaves {
			a.add(leaf)
		}
	}
	return a.fitsChain()
}

// fitsChain compares the chain hash so far with the files chain: one of them must have it. Leaf hashes say nothing of themselves.
func (a *assembly) fitsChain() error {
	for _, base := range []string{a.dir, a.backup} {
		f, _, err := a.openSource(source{base: base, name: chainName})
		if err != nil {
			continue
		}
		var h proof.Hash
		n, _ := f.ReadAt(h[:], int64(a.frontier.Size()/segment.GroupSize-1)*proof.HashSize)
		f.Close()
		if n == len(h) && h == a.chain {
			return nil
		}
	}
	return errors.New("its leaf hashes do not give the chain hash after them")
}

// readArchive advances the state by a sealed segment whose every hash fits it.
func (a *assembly) readArchive(s source) error {
	f, length, err := a.openSource(s)
	if err != nil {
		return err
	}
	defer f.Close()
	archive, err := segment.OpenArchive(f, length)
	if err != nil {
		return err
	}
	if archive.First() != a.frontier.Size() || archive.Chain() != a.chain {
		return errors.New("it does not follow the segment before it")
	}
	var data []byte
	var lines [][]byte
	for g := range archive.Groups() {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if data, err = archive.Group(data[:0], g); err != nil {
			return err
		}
		if lines, err = segment.SplitLines(lines[:0], data); err != nil {
			return err
		}
		for _, line := range lines {
			a.add(proof.LeafHash(line))
		}
	}
	if size, chain, root := archive.Commit(); size != a.frontier.Size() || chain != a.chain || root != a.frontier.Root() {
		return errors.New("its closing commit differs from its recomputation")
	}
	return nil
}

func (a *assembly) add(leaf proof.Hash) {
	a.frontier.Append(leaf)
	a.chain = proof.ChainHash(a.chain, leaf)
	if a.frontier.Size()%segment.GroupSize == 0 {
		a.groups = append(a.groups, segment.GroupEnd{Root: a.frontier.LastGroup(), Chain: a.chain})
	}
}

// scan advances the state by the valid batches of a raw segment, up to end entries (0: all), and returns the offset after the last one.
func (a *assembly) scan(s source, end uint64) (int64, error) {
	f, length, err := a.openSource(s)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return a.scanReader(f, length, end)
}

func (a *assembly) scanReader(f io.ReaderAt, length int64, end uint64) (int64, error) {
	first, chain, n, err := segment.ReadHeader(f, length)
	if err != nil {
		return 0, err
	}
	if first != a.frontier.Size() || chain != a.chain {
		return 0, errors.New("it does not follow the segment before it")
	}
	tail, err := segment.Scan(a.ctx, f, n, length, chain, a.frontier.Clone(), func(b *segment.Batch) error {
		for _, leaf := range b.Leaves {
			if end > 0 && a.frontier.Size() == end {
				return nil
			}
			a.add(leaf)
		}
		return nil
	})
	return tail.Offset, err
}

// open takes the open segment: the one of the log's own, the backup's, and the backup's beginning with the log's own rest
// that reaches furthest. The file is only ever appended to, so the same entries stand at the same offsets.
func (a *assembly) open(first uint64) error {
	own, ownLength, ownErr := a.openSource(source{base: a.dir, name: openName, raw: true})
	if ownErr == nil {
		defer own.Close()
	}
	old, oldLength, oldErr := a.openSource(source{base: a.backup, name: openName, raw: true})
	if oldErr == nil {
		defer old.Close()
	}
	type option struct {
		r      io.ReaderAt
		length int64
		own    bool
	}
	var options []option
	if ownErr == nil {
		options = append(options, option{own, ownLength, true})
	}
	if oldErr == nil {
		options = append(options, option{old, oldLength, false})
		at := a.clone()
		if end, err := at.scanReader(old, oldLength, 0); err == nil && ownErr == nil && end < ownLength {
			options = append(options, option{&joined{old, end, own}, ownLength, false})
		}
	}
	var best *assembly
	var bestOption option
	for _, o := range options {
		at := a.clone()
		end, err := at.scanReader(o.r, o.length, 0)
		if cerr := a.ctx.Err(); cerr != nil {
			return cerr
		}
		if err != nil {
			continue
		}
		if !o.own {
			o.length = end
		}
		if best == nil || at.frontier.Size() > best.frontier.Size() {
			best, bestOption = at, o
		}
	}
	need := uint64(0)
	if a.head != nil {
		need = a.head.Size
	}
	if best == nil {
		return &Error{Reason: fmt.Sprintf("immutable.log from entry %d on can be read neither in %s nor in %s", first, a.dir, a.backup)}
	}
	if got := best.frontier.Size(); got < need {
		return a.lacks(got, need)
	}
	*a = *best
	if bestOption.own {
		return a.take(source{base: a.dir, name: openName, raw: true}, openName, 0o444)
	}
	return a.write(openName, io.NewSectionReader(bestOption.r, 0, bestOption.length), 0o444)
}

func (a *assembly) clone() *assembly {
	c := *a
	c.frontier = *a.frontier.Clone()
	c.groups = append([]segment.GroupEnd(nil), a.groups...)
	return &c
}

// joined is the first n bytes of one file and the rest of another.
type joined struct {
	head io.ReaderAt
	n    int64
	rest io.ReaderAt
}

func (j *joined) ReadAt(p []byte, off int64) (int, error) {
	if off >= j.n {
		return j.rest.ReadAt(p, off)
	}
	k := min(int64(len(p)), j.n-off)
	n, err := j.head.ReadAt(p[:k], off)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := j.rest.ReadAt(p[n:], off+int64(n))
	return n + m, err
}

// take puts a file into the candidate: the log's own by a second name, the backup's by a copy.
func (a *assembly) take(s source, name string, perm fs.FileMode) error {
	if s.base == a.dir {
		return a.fs.Link(s.path(), filepath.Join(a.candidate, name))
	}
	f, length, err := a.openSource(s)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.write(name, io.NewSectionReader(f, 0, length), perm)
}

// write makes a durable file in the candidate.
func (a *assembly) write(name string, from io.Reader, perm fs.FileMode) error {
	full := filepath.Join(a.candidate, name)
	f, err := a.fs.Create(full, perm)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	for offset := int64(0); ; {
		n, err := io.ReadFull(from, buf)
		if n > 0 {
			if _, werr := f.WriteAt(buf[:n], offset); werr != nil {
				return werr
			}
			offset += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), a.fs.Chmod(full, perm))
}

// tree writes tree/ and chain from the entries.
func (a *assembly) tree() error {
	store, err := tree.OpenStore(a.fs, a.candidate)
	if err != nil {
		return err
	}
	for _, g := range a.groups {
		store.Append(g.Root, g.Chain)
	}
	return errors.Join(store.Flush(), store.Close())
}

func (a *assembly) identity() error {
	for _, base := range []string{a.dir, a.backup} {
		s := source{base: base, name: identity.LogName}
		data, err := vfs.ReadFile(a.fs, s.path(), identity.MaxBytes)
		if err == nil && bytes.Equal(data, a.id.Append(nil)) {
			return a.take(s, identity.LogName, 0o444)
		}
	}
	return &Error{Reason: "log.json changed while it was read"}
}

// maxHistory bounds the file checkpoints; maxNote one note.
const (
	maxHistory = 1 << 30
	maxNote    = 64 << 10
)

// checkpoints takes the longest history whose every note holds, and the newest checkpoint that agrees with it.
func (a *assembly) checkpoints() error {
	own, _ := vfs.ReadFile(a.fs, filepath.Join(a.dir, historyName), maxHistory)    // nil where it cannot be read
	old, _ := vfs.ReadFile(a.fs, filepath.Join(a.backup, historyName), maxHistory) // likewise
	options := [][]byte{own, old}
	if len(own) > len(old) {
		options = append(options, append(bytes.Clone(old), own[len(old):]...))
	}
	// A history that ends before the newest checkpoint may lack only that one.
	if latest, err := vfs.ReadFile(a.fs, filepath.Join(a.dir, latestName), maxNote); err == nil {
		for _, o := range options {
			options = append(options, append(append(bytes.Clone(o), latest...), '\n'))
		}
	}
	var history, last []byte
	var lastSize uint64
	for _, o := range options {
		if note, size, ok := a.historyHolds(o); ok && len(o) > len(history) && (a.head == nil || !a.head.Clean || int64(len(o)) <= a.head.Kept) {
			history, last, lastSize = o, note, size
		}
	}
	if history == nil {
		return &Error{Reason: "the history of checkpoints holds neither in the log nor in the backup"}
	}
	if err := a.write(historyName, bytes.NewReader(history), 0o600); err != nil {
		return err
	}
	// Of the checkpoints that hold, the newest.
	newest, size := last, lastSize
	for _, base := range []string{a.dir, a.backup} {
		note, err := vfs.ReadFile(a.fs, filepath.Join(base, latestName), maxNote)
		if err != nil {
			continue
		}
		if c, err := proof.OpenCheckpoint(note, a.id.Origin, a.keys); err == nil && c.Size > size {
			newest, size = note, c.Size
		}
	}
	return a.write(latestName, bytes.NewReader(newest), 0o600)
}

func (a *assembly) historyHolds(data []byte) (last []byte, size uint64, ok bool) {
	notes, err := proof.SplitNotes(data)
	if err != nil || len(notes) == 0 {
		return nil, 0, false
	}
	for i, note := range notes {
		c, err := proof.OpenCheckpoint(note, a.id.Origin, a.keys)
		if err != nil || i > 0 && c.Size <= size || i == 0 && c.Size != 0 || c.Size > a.frontier.Size() {
			return nil, 0, false
		}
		last, size = note, c.Size
	}
	return last, size, true
}

// indexes takes each sealed segment's indexes and seal together. Those that hold nowhere are left out: they are made again later.
func (a *assembly) indexes() error {
	for _, s := range a.archives {
		first, _ := segment.ParseName(filepath.Base(s.name), segment.ArchiveSuffix)
		sum, err := a.hash(filepath.Join(a.candidate, s.name))
		if err != nil {
			return err
		}
		for _, base := range []string{a.dir, a.backup} {
			files := a.sealedIndexes(base, first, sum)
			for _, s := range files {
				if err := a.take(s, s.name, 0o600); err != nil {
					return err
				}
			}
			if files != nil {
				break
			}
		}
	}
	return nil
}

// sealedIndexes are a segment's indexes and seal in base, nil if they do not agree with each other and the archive.
func (a *assembly) sealedIndexes(base string, first uint64, archive [sha256.Size]byte) []source {
	in := func(name string) source { return source{base: base, name: indexDir + "/" + name} }
	idx, search, seal := in(segment.IndexName(first)), in(segment.SearchName(first)), in(segment.SealName(first))
	s, ok := a.openSeal(seal)
	if !ok || s.First != first || s.Archive != archive {
		return nil
	}
	if sum, err := a.hash(idx.path()); err != nil || sum != s.Index {
		return nil
	}
	if s.SearchLen == 0 {
		return []source{idx, seal}
	}
	if sum, err := a.hash(search.path()); err != nil || sum != s.Search {
		return nil
	}
	return []source{idx, search, seal}
}

// openSeal reads a seal of this log.
func (a *assembly) openSeal(seal source) (s index.Seal, ok bool) {
	note, err := vfs.ReadFile(a.fs, seal.path(), maxNote)
	if err != nil {
		return s, false
	}
	text := strings.TrimSuffix(string(note), "\n")
	if len(a.keys) > 0 {
		if text, err = proof.OpenNote(note, a.keys); err != nil {
			return s, false
		}
	}
	s, err = index.ParseSeal(text)
	return s, err == nil && s.Origin == a.id.Origin
}

// quarantine keeps what recovery moved aside, as long as it hashes to its name.
func (a *assembly) quarantine() error {
	taken := map[string]bool{}
	for _, base := range []string{a.dir, a.backup} {
		names, err := a.fs.ReadDir(filepath.Join(base, quarantineDir))
		if err != nil {
			continue
		}
		for _, name := range names {
			s := source{base: base, name: quarantineDir + "/" + name}
			_, want, _ := strings.Cut(name, "-")
			sum, err := a.hash(s.path())
			if taken[name] || err != nil || fmt.Sprintf("%x", sum) != want {
				continue
			}
			if err := a.take(s, s.name, 0o600); err != nil {
				return err
			}
			taken[name] = true
		}
	}
	return nil
}
