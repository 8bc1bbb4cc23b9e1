package immutable

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// checkOf is what a Guard does with a file of this name; nil where the file may be anything: temporaries, the reserve, and
// names that are none of the log's. g.mu is held while it runs.
func (g *Guard) checkOf(name string) func(ctx context.Context, name string, full bool) (bool, error) {
	dir, base, _ := strings.Cut(name, "/")
	switch name {
	case identity.LogName:
		return g.checkIdentity
	case lockName:
		return g.checkPresent
	case openName:
		return g.checkOpen
	case checkpointName, StatePrefix + identity.HeadName:
		return g.checkSigned
	case checkpointsName:
		return g.checkHistory
	case epochsName:
		return g.checkEpochs
	case cosignedName:
		return g.checkCosigned
	case "chain":
		return g.checkArray
	}
	switch {
	case dir == "tree" && len(base) == 1 && base >= "1" && base <= "7":
		return g.checkArray
	case dir == pendingDir && strings.HasSuffix(base, segment.PendingSuffix):
		return g.checkPending
	case dir == evidenceDir && (strings.HasSuffix(base, ".note") || strings.HasSuffix(base, ".tsr")), dir == quarantineDir && base != "" && !strings.HasSuffix(base, ".new"):
		return g.checkKept
	case name == StatePrefix+keysDir+"/ed25519", strings.HasPrefix(name, StatePrefix+keysDir+"/epoch-"):
		return g.checkKey
	}
	if _, ok := leavesName(name); ok {
		return g.checkLeaves
	}
	if _, _, ok := sealedName(name); ok {
		return g.checkKept // but see once: g.sealed is what looks at them
	}
	return nil
}

// sealedName takes the name of a file of a sealed segment apart.
func sealedName(name string) (first uint64, suffix string, ok bool) {
	dir, base, _ := strings.Cut(name, "/")
	for _, s := range []struct{ dir, suffix string }{
		{archiveDir, segment.ArchiveSuffix}, {indexDir, segment.IndexSuffix}, {indexDir, segment.SearchSuffix}, {indexDir, segment.SealSuffix},
	} {
		if dir == s.dir {
			if first, ok = segment.ParseName(base, s.suffix); ok {
				return first, s.suffix, true
			}
		}
	}
	return 0, "", false
}

// leavesName takes the name of what is kept of a retired segment apart.
func leavesName(name string) (first uint64, ok bool) {
	base, ok := strings.CutPrefix(name, retiredDir+"/")
	if !ok {
		return 0, false
	}
	return segment.ParseName(base, segment.LeavesSuffix)
}

func faulty(name string, offset int64, what, got, want string) error {
	return &CorruptError{File: name, Offset: offset, What: what, Got: got, Want: want}
}

// look compares what the directory says of a file with what it said before. moves says that the log itself puts another
// file in its place now and then.
func (g *Guard) look(name string, moves bool) (fs.FileInfo, error) {
	now, err := os.Lstat(g.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, faulty(name, 0, "the file is missing", "", "")
	}
	if err != nil {
		return nil, err
	}
	if !now.Mode().IsRegular() {
		return nil, faulty(name, 0, "it is not a regular file", now.Mode().Type().String(), "a regular file")
	}
	was := g.seen[name]
	if was == nil {
		return now, nil
	}
	same := os.SameFile(was, now)
	if !same && !moves {
		return nil, faulty(name, 0, "another file was put in its place", "", "")
	}
	if have, want := now.Mode().Perm(), was.Mode().Perm(); have != want && (same || have&^want != 0) {
		return nil, faulty(name, 0, "its mode was changed", have.String(), want.String())
	}
	return now, nil
}

// read reads a small file that look has accepted.
func (g *Guard) read(name string, limit int64) ([]byte, error) {
	data, err := vfs.ReadFile(g.l.fs, g.path(name), limit)
	if notExist(err) {
		err = faulty(name, 0, "the file is missing", "", "")
	}
	return data, err
}

func (g *Guard) checkPresent(_ context.Context, name string, _ bool) (bool, error) {
	info, err := g.look(name, false)
	if err == nil {
		g.seen[name] = info
	}
	return true, err
}

func (g *Guard) checkIdentity(_ context.Context, name string, _ bool) (bool, error) {
	info, err := g.look(name, false)
	if err != nil {
		return true, err
	}
	data, err := g.read(name, identityLimit)
	if err != nil {
		return true, err
	}
	p := &g.l.publisher
	p.mu.Lock()
	want := p.head.Log
	p.mu.Unlock()
	if sum := sha256.Sum256(data); sum != want {
		return true, faulty(name, 0, "its bytes are not what this host knows", fmt.Sprintf("SHA-256 %x", sum), fmt.Sprintf("%x", want))
	}
	g.seen[name] = info
	return true, nil
}

// checkSigned compares the newest checkpoint, or the head, with the one that this process wrote.
func (g *Guard) checkSigned(_ context.Context, name string, _ bool) (bool, error) {
	p := &g.l.publisher
	p.mu.Lock()
	defer p.mu.Unlock() // so that it is not replaced between the two
	info, err := g.look(name, true)
	if err != nil {
		return true, err
	}
	if name == checkpointName {
		var data []byte
		if data, err = g.read(name, maxNote); err == nil && !bytes.Equal(data, p.note) {
			err = faulty(name, 0, "it is not the checkpoint that was published", fmt.Sprintf("%.80q", data), fmt.Sprintf("%.80q", p.note))
		}
	} else {
		head, loadErr := g.l.loadHead()
		if err = loadErr; err == nil && *head != p.head {
			err = faulty(name, 0, "it is not the head that was written", headText(head), headText(&p.head))
		}
	}
	if err == nil {
		g.seen[name] = info
	}
	return true, err
}

func (g *Guard) checkHistory(ctx context.Context, name string, full bool) (bool, error) {
	p := &g.l.publisher
	p.mu.Lock()
	length, last := p.length, p.keptNote
	info, err := g.look(name, false)
	p.mu.Unlock()
	if err != nil {
		return true, err
	}
	if info.Size() != length {
		return true, faulty(name, min(info.Size(), length), "the history of checkpoints was cut or added to", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprint(length))
	}
	f, err := g.l.fs.Open(g.path(name))
	if err != nil {
		return true, err
	}
	defer f.Close()
	end := make([]byte, len(last)+1)
	if n, _ := f.ReadAt(end, length-int64(len(end))); n < len(end) || !bytes.Equal(end[:len(last)], last) {
		return true, faulty(name, length-int64(len(end)), "its last note is not the one that was kept", "", "")
	}
	complete, err := g.grown(ctx, name, f, length, full)
	if err == nil {
		g.seen[name] = info
	}
	return complete, err
}

// grown checks that what was there of a file that only grows is unchanged, and takes what is new into account.
func (g *Guard) grown(ctx context.Context, name string, f io.ReaderAt, length int64, full bool) (complete bool, err error) {
	t := g.trails[name]
	if t == nil {
		t = &trail{seed: g.seed}
		g.trails[name] = t
	}
	if length < t.n {
		return true, faulty(name, length, "it became shorter", fmt.Sprintf("%d bytes", length), fmt.Sprint(t.n))
	}
	if full || length == t.n {
		if at, err := t.check(ctx, f); err != nil || at >= 0 {
			if err == nil {
				err = faulty(name, at, "bytes that never change have changed, from here on or a little later", "", "")
			}
			return true, err
		}
		complete = true
	}
	at, err := t.extend(ctx, f, length)
	if err == nil && at >= 0 {
		err = faulty(name, at, "bytes that never change have changed, from here on or a little later", "", "")
	}
	return complete, err
}

// checkEpochs follows the chain of keys in the file, which must lead to the keys that sign now.
func (g *Guard) checkEpochs(_ context.Context, name string, _ bool) (bool, error) {
	p := &g.l.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	want := g.l.chain.Load().Current()
	if _, err := os.Lstat(g.path(name)); errors.Is(err, fs.ErrNotExist) && want.Number == 0 {
		return true, nil
	}
	info, err := g.look(name, true)
	if err != nil {
		return true, err
	}
	data, err := g.l.readEpochs()
	if err != nil {
		return true, err
	}
	links, err := proof.ParseEpochLinks(data)
	chain, chainErr := proof.NewChain(g.l.id.Origin, g.l.id.VKeys)
	for err = errors.Join(err, chainErr); err == nil && len(links) > 0; links = links[1:] {
		err = chain.Add(links[0])
	}
	if err != nil {
		return true, faulty(name, 0, "the chain of keys does not hold: "+err.Error(), "", "")
	}
	have := chain.Current()
	if have.Number != want.Number || !slices.EqualFunc(have.Keys, want.Keys, func(a, b proof.Key) bool { return a.String() == b.String() }) {
		return true, faulty(name, 0, "it does not lead to the keys that sign now", fmt.Sprintf("epoch %d", have.Number), fmt.Sprint(want.Number))
	}
	g.seen[name] = info
	return true, nil
}

// checkCosigned looks whether the newest cosigned checkpoint is one of this log, and not older than before.
func (g *Guard) checkCosigned(_ context.Context, name string, _ bool) (bool, error) {
	info, err := g.look(name, true)
	if err != nil {
		return true, err
	}
	data, err := g.read(name, maxNote)
	if err != nil {
		return true, err
	}
	c, err := g.l.openCheckpoint(data)
	if err != nil {
		return true, faulty(name, 0, err.Error(), "", "")
	}
	if c.Size < g.signed {
		return true, faulty(name, 0, "an older cosigned checkpoint was put in its place", fmt.Sprintf("%d entries", c.Size), fmt.Sprint(g.signed))
	}
	root, err := g.l.rootAt(c.Size)
	if err == nil && root != c.Root {
		err = faulty(name, 0, "it is not of this log's entries", c.Root.Base64(), root.Base64())
	}
	if err == nil {
		g.seen[name], g.signed = info, c.Size
	}
	return true, err
}

// checkKept looks at a file that never changes once it has its name.
func (g *Guard) checkKept(ctx context.Context, name string, _ bool) (bool, error) {
	if _, err := os.Lstat(g.path(name)); g.seen[name] == nil && errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	info, err := g.look(name, false)
	if err != nil {
		return true, err
	}
	sum, _, err := g.digest(ctx, name, func(int) error { return nil })
	if err != nil {
		return true, err
	}
	if want, ok := g.digests[name]; ok && sum != want {
		return true, faulty(name, 0, "its bytes have changed", fmt.Sprintf("SHA-256 %x", sum), fmt.Sprintf("%x", want))
	}
	g.digests[name], g.seen[name] = sum, info
	return true, nil
}

// checkLeaves compares what is kept of a retired segment with its tombstone. While the segment is retired or restored, and when it
// is back, there is nothing to look at: its archive counts.
func (g *Guard) checkLeaves(ctx context.Context, name string, _ bool) (bool, error) {
	first, _ := leavesName(name)
	for range 4 { // it may be restored, and retired again, between two steps
		times, is := g.isRetired(first)
		if !is {
			delete(g.seen, name)
			return true, nil
		}
		g.renew(first, times)
		info, err := g.compareLeaves(ctx, name, first)
		if now, still := g.isRetired(first); !still || now != times {
			continue
		}
		if err == nil {
			g.seen[name] = info
		}
		return true, err
	}
	return false, nil
}

func (g *Guard) compareLeaves(ctx context.Context, name string, first uint64) (fs.FileInfo, error) {
	info, err := g.look(name, false)
	if err != nil {
		return nil, err
	}
	sum, _, err := g.digest(ctx, name, func(int) error { return nil })
	if err != nil {
		return nil, err
	}
	f, err := g.l.retained(ctx)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(f.retired, func(r Retired) bool { return r.First == first })
	if at < 0 {
		return nil, faulty(name, 0, "no entry says that the segment is retired", "", "")
	}
	if have := fmt.Sprintf("%x", sum); have != f.retired[at].Leaves {
		return nil, faulty(name, 0, "it is not what the tombstone names", "SHA-256 "+have, f.retired[at].Leaves)
	}
	return info, nil
}

// renew forgets how the files of a segment were found if it was restored since: others of the same bytes have their names.
func (g *Guard) renew(first uint64, restored int) {
	if g.restored[first] == restored {
		return
	}
	g.restored[first] = restored
	for _, name := range []string{
		archiveDir + "/" + segment.ArchiveName(first), indexDir + "/" + segment.IndexName(first), indexDir + "/" + segment.SearchName(first),
		indexDir + "/" + segment.SealName(first), retiredDir + "/" + segment.LeavesName(first),
	} {
		delete(g.seen, name)
	}
}

// isRetired says whether the segment that begins at first is retired, and how often it was restored before.
func (g *Guard) isRetired(first uint64) (restored int, is bool) {
	g.l.mu.RLock()
	defer g.l.mu.RUnlock()
	s := g.segment(first)
	if s == nil || s.kind != retired {
		return 0, false
	}
	return s.restored, true
}

// segment is the one that begins at first, or nil. The log's mu is held.
func (g *Guard) segment(first uint64) *segmentFile {
	list := g.l.segments
	i, found := slices.BinarySearchFunc(list, first, func(s *segmentFile, first uint64) int { return cmp.Compare(s.first, first) })
	if !found {
		return nil
	}
	return list[i]
}

// checkKey looks at a private key. The log destroys those of closed epochs.
func (g *Guard) checkKey(ctx context.Context, name string, full bool) (bool, error) {
	if digits, ok := strings.CutPrefix(name, StatePrefix+keysDir+"/epoch-"); ok {
		if digits != strconv.FormatUint(g.l.chain.Load().Current().Number, 10) { // or a temporary
			delete(g.seen, name)
			delete(g.digests, name)
			return true, nil
		}
	}
	return g.checkKept(ctx, name, full)
}

// digest hashes a file, as pace allows.
func (g *Guard) digest(ctx context.Context, name string, pace func(int) error) (sum [sha256.Size]byte, length int64, err error) {
	f, err := g.l.fs.Open(g.path(name))
	if notExist(err) {
		err = faulty(name, 0, "the file is missing", "", "")
	}
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, trailChunk)
	for {
		if ctx.Err() != nil {
			return sum, length, context.Cause(ctx)
		}
		n, err := f.ReadAt(buf, length)
		h.Write(buf[:n])
		length += int64(n)
		last := errors.Is(err, io.EOF)
		if err == nil || last {
			err = pace(n)
		}
		if err != nil {
			return sum, length, err
		}
		if last {
			return [sha256.Size]byte(h.Sum(nil)), length, nil
		}
	}
}

// isSealed says whether the segment that begins at first is sealed and here, and where it ends.
func (g *Guard) isSealed(first uint64) (end uint64, ok bool) {
	end, _, ok = g.sealing(first)
	return end, ok
}

// sealing is isSealed, and says how often the segment was restored.
func (g *Guard) sealing(first uint64) (end uint64, restored int, ok bool) {
	g.l.mu.RLock()
	defer g.l.mu.RUnlock()
	s := g.segment(first)
	if s == nil || s.kind != archived {
		return 0, 0, false
	}
	return s.end, s.restored, true
}

func (g *Guard) readSeal(first, end uint64) (index.Seal, error) {
	name := indexDir + "/" + segment.SealName(first)
	note, err := g.read(name, maxNote)
	if err != nil {
		return index.Seal{}, err
	}
	text, err := g.l.openSeal(note)
	if err != nil {
		return index.Seal{}, faulty(name, 0, err.Error(), "", "")
	}
	seal, err := index.ParseSeal(text)
	if err != nil {
		return seal, faulty(name, 0, err.Error(), "", "")
	}
	if seal.Origin != g.l.id.Origin || seal.First != first || seal.End != end {
		return seal, faulty(name, 0, "the seal is of another segment", fmt.Sprintf("%s from %d to %d", seal.Origin, seal.First, seal.End), fmt.Sprintf("%s from %d to %d", g.l.id.Origin, first, end))
	}
	if was, ok := g.archives[first]; ok && was != seal.Archive {
		return seal, faulty(name, 0, "the seal names another archive than before", fmt.Sprintf("SHA-256 %x", seal.Archive), fmt.Sprintf("%x", was))
	}
	g.archives[first] = seal.Archive
	return seal, nil
}

// hasNoSearch says whether the segment was sealed before there were search indexes.
func (g *Guard) hasNoSearch(first uint64) bool {
	end, ok := g.isSealed(first)
	if !ok {
		return true
	}
	seal, err := g.readSeal(first, end)
	return err == nil && seal.SearchLen == 0
}

// sealed compares a file of a sealed segment with the signed seal. What it finds while the segment is retired is no fault.
func (g *Guard) sealed(ctx context.Context, name string, pace func(int) error) error {
	first, suffix, _ := sealedName(name)
	_, was, _ := g.sealing(first)
	err := g.compareSealed(ctx, name, first, suffix, pace)
	if _, now, ok := g.sealing(first); !ok || now != was {
		return nil
	}
	return err
}

// compareSealed lets others look at other files while it reads.
func (g *Guard) compareSealed(ctx context.Context, name string, first uint64, suffix string, pace func(int) error) error {
	g.mu.Lock()
	info, seal, err := g.openSealed(name, first, suffix)
	restored := g.restored[first]
	g.mu.Unlock()
	if err != nil || info == nil {
		return err
	}
	if suffix != segment.SealSuffix {
		want, length := seal.Archive, seal.ArchiveLen
		switch suffix {
		case segment.IndexSuffix:
			want, length = seal.Index, seal.IndexLen
		case segment.SearchSuffix:
			want, length = seal.Search, seal.SearchLen
		}
		sum, n, err := g.digest(ctx, name, pace)
		if err != nil {
			return err
		}
		if sum != want || n != length {
			return faulty(name, 0, "its bytes are not the ones that were sealed", fmt.Sprintf("%d bytes, SHA-256 %x", n, sum), fmt.Sprintf("%d bytes, %x", length, want))
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.restored[first] == restored {
		g.seen[name] = info
	}
	return nil
}

// openSealed reads the seal and looks at the file. There is nothing to look at while the segment is being sealed, and after
// it was retired. g.mu is held.
func (g *Guard) openSealed(name string, first uint64, suffix string) (info fs.FileInfo, seal index.Seal, err error) {
	end, times, ok := g.sealing(first)
	if !ok {
		delete(g.seen, name)
		return nil, seal, nil
	}
	g.renew(first, times)
	if seal, err = g.readSeal(first, end); err != nil {
		return nil, seal, err
	}
	if suffix == segment.SearchSuffix && seal.SearchLen == 0 {
		return nil, seal, nil
	}
	info, err = g.look(name, suffix != segment.ArchiveSuffix) // a rebuild replaces indexes and seals
	return info, seal, err
}

// rawMark is how far an open or pending segment was proven.
type rawMark struct {
	offset   int64
	chain    Hash
	frontier *tree.Frontier
	groups   []segment.GroupEnd // of the segment, from its first group on
	info     fs.FileInfo
}

// rawState is what the log has committed of a raw segment. root and chain are zero for a pending one.
type rawState struct {
	first  uint64
	offset int64
	root   Hash
	chain  Hash
}

func (g *Guard) checkOpen(ctx context.Context, name string, full bool) (bool, error) {
	for range 4 { // it may be rotated between the two
		l := g.l
		l.mu.RLock()
		s := rawState{first: l.open.first, offset: l.edge.offset, root: l.root, chain: l.edge.chain}
		l.mu.RUnlock()
		complete, err := g.checkRaw(ctx, name, s, full)
		l.mu.RLock()
		rotated := l.open.first != s.first
		l.mu.RUnlock()
		if !rotated {
			return complete, err
		}
	}
	return false, nil
}

func (g *Guard) checkPending(ctx context.Context, name string, full bool) (bool, error) {
	_, base, _ := strings.Cut(name, "/")
	first, ok := segment.ParseName(base, segment.PendingSuffix)
	if !ok {
		return true, nil
	}
	waiting := func() (rawState, bool) {
		l := g.l
		l.mu.RLock()
		defer l.mu.RUnlock()
		for _, s := range l.segments {
			if s.first == first && s.kind == pending {
				return rawState{first: first, offset: s.length}, true
			}
		}
		return rawState{}, false
	}
	s, ok := waiting()
	if !ok {
		delete(g.seen, name)
		return true, nil
	}
	complete, err := g.checkRaw(ctx, name, s, full)
	if _, ok := waiting(); !ok {
		return true, nil
	}
	return complete, err
}

// checkRaw checks that the committed part of a raw segment is what it was, and proves what was added.
func (g *Guard) checkRaw(ctx context.Context, name string, s rawState, full bool) (complete bool, err error) {
	m := g.raw[s.first]
	if m != nil {
		g.seen[name] = m.info
	} else {
		delete(g.seen, name)
	}
	info, err := g.look(name, false)
	if err != nil {
		return true, err
	}
	if info.Size() < s.offset {
		return true, faulty(name, info.Size(), "it became shorter than what was committed", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprint(s.offset))
	}
	f, err := g.l.fs.Open(g.path(name))
	if err != nil {
		return true, err
	}
	defer f.Close()
	if m == nil {
		if m, err = g.beginRaw(name, f, s); err != nil {
			return true, err
		}
		m.info = info
	}
	key := "raw/" + strconv.FormatUint(s.first, 10)
	t := g.trails[key]
	if t == nil {
		t = &trail{seed: g.seed}
		g.trails[key] = t
	}
	if complete, err = g.grown(ctx, key, f, s.offset, full); err != nil {
		var c *CorruptError
		if errors.As(err, &c) {
			c.File = name
		}
		return true, err
	}
	if err := g.proveRaw(ctx, name, f, s, m); err != nil {
		return true, err
	}
	g.seen[name], g.raw[s.first] = info, m
	m.info = info
	g.forgetRaw()
	return complete, nil
}

func (g *Guard) beginRaw(name string, f vfs.File, s rawState) (*rawMark, error) {
	first, chain, n, err := segment.ReadHeader(f, s.offset)
	if err != nil {
		return nil, corrupt(name, err)
	}
	if first != s.first {
		return nil, faulty(name, 0, "it is another segment", fmt.Sprintf("first entry %d", first), fmt.Sprint(s.first))
	}
	frontier, err := g.l.store.Frontier(first / tree.GroupSize)
	if err != nil {
		return nil, err
	}
	return &rawMark{offset: n, chain: chain, frontier: frontier}, nil
}

// proveRaw reads what was added since the mark, and recomputes leaves, chain and root.
func (g *Guard) proveRaw(ctx context.Context, name string, f vfs.File, s rawState, m *rawMark) error {
	next, groups := rawMark{offset: m.offset, chain: m.chain, frontier: m.frontier.Clone()}, m.groups
	tail, err := segment.Scan(ctx, f, m.offset, s.offset, m.chain, next.frontier, func(b *segment.Batch) error {
		next.offset, next.chain = b.End, b.Chain
		groups = append(groups, b.Groups...)
		return nil
	})
	switch {
	case err != nil:
		return err
	case tail.Length > 0:
		return faulty(name, tail.At, tail.Reason, tail.Got, tail.Want)
	case s.root != (Hash{}) && (next.frontier.Root() != s.root || next.chain != s.chain):
		return faulty(name, m.offset, "its entries are not the ones that were committed", "root "+next.frontier.Root().Base64(), s.root.Base64())
	}
	m.offset, m.chain, m.frontier, m.groups = next.offset, next.chain, next.frontier, groups
	return nil
}

// forgetRaw lets go of what is known of segments that are sealed by now.
func (g *Guard) forgetRaw() {
	for first := range g.raw {
		_, sealed := g.isSealed(first)
		if _, gone := g.isRetired(first); sealed || gone {
			delete(g.raw, first)
			delete(g.trails, "raw/"+strconv.FormatUint(first, 10))
			delete(g.seen, pendingDir+"/"+segment.PendingName(first))
		}
	}
}

// groupEnd is what the entries of a raw segment, as they were proven, give for group k.
func (g *Guard) groupEnd(k uint64) (segment.GroupEnd, bool) {
	for first, m := range g.raw {
		if from := first / tree.GroupSize; k >= from && k < from+uint64(len(m.groups)) {
			return m.groups[k-from], true
		}
	}
	return segment.GroupEnd{}, false
}

// checkArray looks at a file of tree/, or at chain.
func (g *Guard) checkArray(ctx context.Context, name string, full bool) (bool, error) {
	known := int64(0)
	if t := g.trails[name]; t != nil {
		known = t.n
	}
	if _, err := os.Lstat(g.path(name)); errors.Is(err, fs.ErrNotExist) && known == 0 {
		return true, nil
	}
	info, err := g.look(name, false)
	if err != nil {
		return true, err
	}
	shift := uint64(0)
	if level, ok := strings.CutPrefix(name, "tree/"); ok {
		shift = 8 * uint64(level[0]-'1')
	}
	most := int64(g.l.store.Groups()>>shift) * proof.HashSize
	if info.Size() > most && g.seen[name] != nil { // at first there may be what a crash left
		return true, faulty(name, most, "bytes were added to it", fmt.Sprintf("%d bytes", info.Size()), fmt.Sprint(most))
	}
	length := min(info.Size(), most) / proof.HashSize * proof.HashSize
	f, err := g.l.fs.Open(g.path(name))
	if err != nil {
		return true, err
	}
	defer f.Close()
	complete, err := g.grown(ctx, name, f, length, full)
	if err == nil {
		err = g.proveArray(name, f, known, length)
	}
	if err != nil {
		if t := g.trails[name]; t != nil && t.n > known {
			delete(g.trails, name) // nothing of it is believed
		}
		return complete, err
	}
	if info.Size() <= most {
		g.seen[name] = info
	}
	return complete, nil
}

// proveArray compares hashes that were added to a file with those that the entries gave.
func (g *Guard) proveArray(name string, f io.ReaderAt, from, to int64) error {
	if name != "chain" && name != "tree/1" {
		return nil
	}
	var have Hash
	for at := from; at < to; at += proof.HashSize {
		end, ok := g.groupEnd(uint64(at / proof.HashSize))
		if !ok {
			continue
		}
		if n, err := f.ReadAt(have[:], at); n < len(have) {
			return err
		}
		want := end.Chain
		if name != "chain" {
			want = end.Root
		}
		if have != want {
			return faulty(name, at, "the hash is not the one that the entries give", have.String(), want.String())
		}
	}
	return nil
}

// trail notices that bytes of a file that only grows have changed: a keyed hash of each chunk. Its key is this process's
// secret, so that nobody can make other bytes with the same hash; it is not a proof for others.
type trail struct {
	seed maphash.Seed
	n    int64    // bytes that are covered
	sums []uint64 // of each chunk, the last one perhaps not full
}

const trailChunk = 256 << 10

// check returns where the first chunk begins that is not what it was, or -1.
func (t *trail) check(ctx context.Context, r io.ReaderAt) (int64, error) {
	return t.run(ctx, r, 0, t.n, nil)
}

// extend takes the bytes up to length into account. It looks at the last chunk again, and returns where it begins if it changed.
func (t *trail) extend(ctx context.Context, r io.ReaderAt, length int64) (int64, error) {
	if length <= t.n {
		return -1, nil
	}
	from := t.n / trailChunk * trailChunk
	sums := t.sums[: from/trailChunk : from/trailChunk]
	at, err := t.run(ctx, r, from, length, &sums)
	if err == nil && at < 0 {
		t.n, t.sums = length, sums
	}
	return at, err
}

// run reads chunks from from to to, compares those that are known, and adds the sums of all to into, where it is given.
func (t *trail) run(ctx context.Context, r io.ReaderAt, from, to int64, into *[]uint64) (int64, error) {
	buf := make([]byte, min(trailChunk, to-from))
	for at := from; at < to; at += trailChunk {
		if ctx.Err() != nil {
			return -1, context.Cause(ctx)
		}
		b := buf[:min(trailChunk, to-at)]
		if n, err := r.ReadAt(b, at); n < len(b) {
			if errors.Is(err, io.EOF) {
				return at, nil
			}
			return -1, err
		}
		if known := min(int64(len(b)), t.n-at); known > 0 && maphash.Bytes(t.seed, b[:known]) != t.sums[at/trailChunk] {
			return at, nil
		}
		if into != nil {
			*into = append(*into, maphash.Bytes(t.seed, b))
		}
	}
	return -1, nil
}
