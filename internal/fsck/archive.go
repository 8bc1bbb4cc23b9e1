package fsck

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	groupsPerUnit = 16
	// keepBuffer is the largest buffer that a worker keeps between groups.
	keepBuffer = 4 << 20
)

// A sealed is an archive under check. Its units are decoded in parallel; the joiner takes them in order and closes it.
type sealed struct {
	c     *check
	name  string
	path  string
	first uint64
	file  vfs.File
	size  int64
	ar    *segment.Archive // nil where only the leaves are there
	kept  *segment.Leaves  // then these
	err   error

	on   onShelf
	cold bool // the archive is the copy in the cold directory
}

// A unit is a job: a few groups of an archive, or its seal, which comes last.
type unit struct {
	s        *sealed
	from, to int // groups; empty for the last unit
	last     bool
	sealed   bool     // the last unit's: there is a seal
	seal     sealNote // its signature is not verified yet
	groups   []groupSum
	findings []Finding
	faults   []fault
	retired  retiredFiles // the last unit's, of a segment with a leaves file
	done     chan struct{}
}

// A fault is for check.fault, later.
type fault struct {
	name string
	err  error
	hint string
}

// A groupSum is what a worker found out about one group.
type groupSum struct {
	err    error
	root   proof.Hash
	leaves [groupSize]proof.Hash
	lines  lineCheck
}

// produce sends the units of all archives, in order. It returns the segment that it was at when the pool ended: the caller
// closes it when no job runs any more.
func (c *check) produce(p *pool, order chan<- *unit) *sealed {
	send := func(u *unit) bool {
		u.done = make(chan struct{})
		return p.submit(u) && put(p.ctx, order, u)
	}
	for _, on := range c.shelf.sealed {
		s := &sealed{c: c, first: on.first, on: on}
		s.find()
		s.open()
		groups := s.groups()
		for from := 0; from < groups; from += groupsPerUnit {
			if !send(&unit{s: s, from: from, to: min(from+groupsPerUnit, groups)}) {
				return s
			}
		}
		if !send(&unit{s: s, last: true}) {
			return s
		}
	}
	return nil
}

func (s *sealed) open() {
	if s.file, s.size, s.err = s.c.openPath(s.path); s.err != nil {
		return
	}
	if !s.on.archive && !s.cold {
		s.openKept()
		return
	}
	if s.ar, s.err = segment.OpenArchive(s.file, s.size); s.err != nil {
		return
	}
	if s.ar.First() != s.first {
		s.err = &segment.CorruptError{Msg: "the segment line is of another segment than the name", Got: fmt.Sprint(s.ar.First()), Want: fmt.Sprint(s.first)}
	}
}

// close may be called twice; not while a job uses the file.
func (s *sealed) close() {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

func (u *unit) run(w *worker) {
	defer close(u.done)
	if u.last {
		if u.s.on.leaves {
			u.hashRetired()
		}
		if u.s.on.archive {
			u.checkSeal(w)
		}
		return
	}
	u.groups = make([]groupSum, u.to-u.from)
	for i := range u.groups {
		if w.ctx.Err() != nil {
			return
		}
		w.group(u.s, u.from+i, &u.groups[i])
	}
}

// group decodes and hashes group g.
func (w *worker) group(s *sealed, g int, sum *groupSum) {
	if s.kept != nil {
		w.keptGroup(s, g, sum)
		return
	}
	data, err := s.ar.Group(w.buf, g)
	if err != nil {
		sum.err = err
		return
	}
	if w.buf = data[:0]; cap(data) > keepBuffer {
		w.buf = nil
	}
	sum.lines = w.c.lines(false)
	sum.lines.reset(s.name)
	at := s.ar.Offset(g)
	first := s.first + uint64(g)*groupSize
	from := 0
	for i := range groupSize {
		// Group promises that there are so many lines.
		end := from + bytes.IndexByte(data[from:], '\n')
		line := data[from:end]
		if i == 0 {
			sum.leaves[i] = proof.LeafHash(line)
		} else {
			// leaf = SHA-256(0x00 || line): the newline before it makes room for the prefix, which saves a copy.
			data[from-1] = 0x00
			sum.leaves[i] = sha256.Sum256(data[from-1 : end])
		}
		sum.lines.check(first+uint64(i), line, at, from)
		from = end + 1
	}
	sum.root = groupRoot(&sum.leaves)
}

// groupRoot is proof.Root of exactly one group.
func groupRoot(leaves *[groupSize]proof.Hash) proof.Hash {
	var row [groupSize / 2]proof.Hash
	for i := range row {
		row[i] = proof.NodeHash(leaves[2*i], leaves[2*i+1])
	}
	for n := len(row) / 2; n > 0; n /= 2 {
		for i := range n {
			row[i] = proof.NodeHash(row[2*i], row[2*i+1])
		}
	}
	return row[0]
}

// join reads all segments in order, and settles what is claimed beyond their end: for that the history must be read to its
// own end, which needs the pool.
func (c *check) join(j *joiner) error {
	p := newPool(c, c.o.Workers)
	j.pool = p
	order := make(chan *unit, 2*c.o.Workers+2)
	var unsent *sealed
	defer func() {
		p.close()
		for _, s := range []*sealed{j.current, unsent} {
			if s != nil {
				s.close()
			}
		}
		for u := range order {
			u.s.close()
		}
	}()
	p.spawn(func() {
		defer close(order)
		unsent = c.produce(p, order)
	})
	c.history.start(p)
	if j.nextStop() == 0 {
		j.fire(proof.Hash{})
	}
	pending := c.shelf.pending
	for _, on := range c.shelf.sealed {
		for len(pending) > 0 && pending[0].first <= on.first {
			r := pending[0]
			pending = pending[1:]
			var err error
			if r.first == on.first {
				err = j.shadow(r)
			} else {
				err = j.raw(r, on.first)
			}
			if err != nil {
				return err
			}
		}
		if err := j.archive(order); err != nil {
			return err
		}
	}
	for i, r := range pending {
		if err := j.raw(r, c.nextFirst(pending[i+1:])); err != nil {
			return err
		}
	}
	if err := j.raw(c.shelf.open, math.MaxUint64); err != nil {
		return err
	}
	for name := range c.shelf.derived {
		c.checkStray(name)
	}
	j.finish()
	return c.ctx.Err()
}

// nextFirst is where the segment after a pending one begins.
func (c *check) nextFirst(pending []*rawFile) uint64 {
	if len(pending) > 0 {
		return pending[0].first
	}
	if c.shelf.open.err == nil {
		return c.shelf.open.first
	}
	return math.MaxUint64
}

// archive joins the next archive.
func (j *joiner) archive(order <-chan *unit) error {
	joined := false
	for u := range order {
		<-u.done
		s := u.s
		j.current = s
		if err := j.c.ctx.Err(); err != nil {
			return err
		}
		switch {
		case u.last:
			j.endArchive(u, joined)
			s.close()
			return nil
		case u.from == 0:
			joined = j.begin(s.name, s.first, j.chainBefore(s))
			j.beginTwin(s)
			j.c.rep.Segments++
		}
		if joined {
			if !j.readAgain(u) {
				return j.c.ctx.Err()
			}
			for i := range u.groups {
				j.group(s, u.from+i, &u.groups[i])
			}
			j.progress(s.offset(u.to-1) - s.offset(u.from))
		}
	}
	return j.c.ctx.Err()
}

// readAgain has a unit read once more if lines of it are signed with keys that its worker, who was ahead, could not know. It
// is false when the context has ended.
func (j *joiner) readAgain(u *unit) bool {
	for i := range u.groups {
		j.register(u.groups[i].lines.controls)
	}
	again := false
	for i := range u.groups {
		again = again || j.c.again(u.groups[i].lines.signed)
	}
	if !again {
		return true
	}
	u.done = make(chan struct{})
	if !j.pool.submit(u) {
		return false
	}
	<-u.done
	return true
}

func (j *joiner) group(s *sealed, g int, sum *groupSum) {
	if sum.err != nil {
		end := s.first + uint64(g+1)*groupSize
		j.c.fault(s.name, int64(j.size), sum.err, fmt.Sprintf("entries %d to %d cannot be read; %s", j.size, end-1, hintRepair))
		j.skip(end)
		return
	}
	if s.kept != nil && j.keptDiffers(s, g, sum) {
		j.skip(s.first + uint64(g+1)*groupSize)
		return
	}
	j.take(&sum.lines, s.offset(g))
	j.addTwin(sum)
	j.add(sum.leaves[:], &sum.root)
	if s.kept != nil {
		j.timeOK = false // but for control entries, the times were not read
		j.c.rep.RetiredEntries += groupSize
	}
}

// endArchive compares the closing commit line, and takes what the seal's job found.
func (j *joiner) endArchive(u *unit, joined bool) {
	s, c := u.s, j.c
	if s.err != nil {
		c.fault(s.name, int64(s.first), s.err, hintRepair)
		j.lost = true
	}
	for _, f := range u.findings {
		c.find(f)
	}
	for _, f := range u.faults {
		c.fault(f.name, int64(s.first), f.err, f.hint)
	}
	if u.seal.note != nil {
		j.checkSealKey(u.seal, false)
	}
	j.endRetired(u, joined)
	if !joined || s.ar == nil {
		return
	}
	size, chain, root := s.ar.Commit()
	f := Finding{File: s.name, Offset: s.ar.Offset(s.ar.Groups()), Index: int64(size)}
	if j.chainOK && chain != j.chain {
		f.What, f.Got, f.Want = "the chain hash in the closing commit line is not that of the entries", chain.String(), j.chain.String()
		c.find(f)
	}
	if j.rootOK {
		if want := j.f.Root(); root != want {
			f.What, f.Got, f.Want = "the root in the closing commit line is not that of the entries", root.Base64(), want.Base64()
			c.find(f)
		}
	}
	if r := j.twin; r != nil && r.first == s.first && j.twinEnd < size {
		c.find(Finding{File: r.name, Offset: r.length, Index: int64(j.twinEnd), What: "ends before its archive does", Got: fmt.Sprintf("entries below %d", j.twinEnd), Want: fmt.Sprintf("below %d", size)})
	}
	// Until it is sealed a segment may wait for its checkpoint.
	if u.sealed {
		j.sealed = size
	}
}

// checkSeal compares archive and idx with the seal, and on request the idx with the entries.
func (u *unit) checkSeal(w *worker) {
	s, c := u.s, u.s.c
	idxName, sealName := "index/"+segment.IndexName(s.first), "index/"+segment.SealName(s.first)
	waits := c.shelf.waiting(s.first) != nil
	idx, idxSize, err := c.open(idxName)
	idxOK := err == nil
	if idxOK {
		defer idx.Close()
	} else if !waits || !errors.Is(err, fs.ErrNotExist) {
		u.faults = append(u.faults, fault{idxName, err, hintRebuild})
	}
	if idxOK && c.o.Indexes && s.err == nil {
		u.checkIndex(w, idxName, idx, idxSize)
	}
	data, err := c.read(sealName, proof.MaxNote)
	if err != nil {
		if !waits || !errors.Is(err, fs.ErrNotExist) {
			u.faults = append(u.faults, fault{sealName, err, hintRebuild})
		}
		return
	}
	u.sealed = true
	text, n, err := c.openNote(data)
	var seal index.Seal
	if err == nil {
		seal, err = index.ParseSeal(text)
	}
	if err != nil {
		u.find(sealName, "is not a seal of this log: "+err.Error(), "", "")
		return
	}
	if c.known && seal.Origin != c.origin {
		u.find(sealName, "is of another log", seal.Origin, c.origin)
	}
	u.seal = sealNote{name: sealName, first: s.first, note: n}
	u.checkSealed(seal, sealName, idxName, idx, idxSize)
	u.checkSearch(seal, sealName)
}

func (u *unit) find(name, what, got, want string) {
	u.findings = append(u.findings, Finding{File: name, Offset: -1, Index: int64(u.s.first), What: what, Got: got, Want: want, Hint: hintRebuild})
}

// checkSealed compares the seal with what it is over. idx is nil where there is none.
func (u *unit) checkSealed(seal index.Seal, sealName, idxName string, idx vfs.File, idxSize int64) {
	s := u.s
	if seal.First != s.first || s.err == nil && seal.End != s.ar.End() {
		end := "?"
		if s.err == nil {
			end = fmt.Sprint(s.ar.End())
		}
		u.find(sealName, "is of another segment", fmt.Sprintf("entries from %d to before %d", seal.First, seal.End), fmt.Sprintf("from %d to before %s", s.first, end))
	}
	if s.file != nil {
		u.compare(s.name, s.file, s.size, seal.Archive, seal.ArchiveLen, "no longer the file that was sealed; "+hintRepair)
	}
	if idx != nil {
		u.compare(idxName, idx, idxSize, seal.Index, seal.IndexLen, hintRebuild)
	}
}

// compare holds a file against the length and hash in its seal.
func (u *unit) compare(name string, file vfs.File, size int64, sum [sha256.Size]byte, length int64, hint string) {
	f := Finding{File: name, Offset: -1, Index: int64(u.s.first), What: "has another length than its seal says", Got: fmt.Sprint(size), Want: fmt.Sprint(length), Hint: hint}
	if size != length {
		u.findings = append(u.findings, f)
		return
	}
	got, err := u.s.c.hashFile(file, size)
	if err != nil {
		u.faults = append(u.faults, fault{name, err, hint})
		return
	}
	if got != sum {
		f.What, f.Got, f.Want = "has another SHA-256 than its seal says", fmt.Sprintf("%x", got), fmt.Sprintf("%x", sum)
		u.findings = append(u.findings, f)
	}
}

// checkIndex makes the idx file again from the entries, and the search index.
func (u *unit) checkIndex(w *worker, name string, file vfs.File, size int64) {
	x, search := index.New(u.s.first), index.NewBuilder(u.s.first)
	var line entry.Line
	for g := range u.s.ar.Groups() {
		if w.ctx.Err() != nil {
			return
		}
		data, err := u.s.ar.Group(w.buf, g)
		if err != nil {
			return // the group's own unit reports it
		}
		if w.buf = data[:0]; cap(data) > keepBuffer {
			w.buf = nil
		}
		for len(data) > 0 {
			end := bytes.IndexByte(data, '\n')
			if entry.Decode(data[:end], &line) != nil || x.Add(&line) != nil || search.Add(&line) != nil {
				return // so does it for an entry that does not follow the format
			}
			data = data[end+1:]
		}
	}
	u.compareSearch(search)
	at, got, want, err := differs(file, size, x.Append(nil))
	switch {
	case err != nil:
		u.faults = append(u.faults, fault{name, err, hintRebuild})
	case at >= 0:
		u.find(name, "is not what the entries give", got, want)
		u.findings[len(u.findings)-1].Offset = at
	}
}

// differs returns where a file begins to be other than want, or -1.
func differs(file vfs.File, size int64, want []byte) (at int64, got, expected string, err error) {
	buf := make([]byte, 64<<10)
	for off := int64(0); off < min(size, int64(len(want))); {
		n := int(min(int64(len(buf)), size-off, int64(len(want))-off))
		if m, err := file.ReadAt(buf[:n], off); m < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, "", "", err
		}
		for i := range n {
			if buf[i] != want[off+int64(i)] {
				return off + int64(i), fmt.Sprintf("byte %#02x", buf[i]), fmt.Sprintf("%#02x", want[off+int64(i)]), nil
			}
		}
		off += int64(n)
	}
	if size != int64(len(want)) {
		return min(size, int64(len(want))), fmt.Sprintf("%d bytes", size), fmt.Sprint(len(want)), nil
	}
	return -1, "", "", nil
}

// checkStray looks at a name in index/ that is not of a known archive.
func (c *check) checkStray(name string) {
	first, ok := segment.ParseName(name, segment.IndexSuffix)
	for _, suffix := range [...]string{segment.SearchSuffix, segment.SealSuffix} {
		if !ok {
			first, ok = segment.ParseName(name, suffix)
		}
	}
	if !ok {
		c.strange("index/" + name)
		return
	}
	if c.shelf.unlisted || slices.Contains(c.shelf.archives, first) {
		return
	}
	if slices.ContainsFunc(c.shelf.sealed, func(on onShelf) bool { return on.first == first }) {
		c.note(Finding{File: "index/" + name, Offset: -1, Index: int64(first), What: "is of a segment that is retired: the retirement is not finished, and the next open for writing removes it"})
		return
	}
	// A segment that was sealed after the archives were listed.
	if c.shelf.waiting(first) != nil && c.checkKind(c.path("archive/"+segment.ArchiveName(first)), false) == nil {
		return
	}
	c.find(Finding{File: "index/" + name, Offset: -1, Index: int64(first), What: "belongs to no sealed segment"})
}
