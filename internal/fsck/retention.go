package fsck

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	retiredName = "retired"
	maxReason   = 1024 // bytes of a reason, of who gave it, and of a cold directory; part of the format
	maxHoldID   = 64   // likewise
	// maxHolds and maxTombstones bound what is kept of control entries; a log with more of them at a time is judged no further.
	maxHolds      = 10_000
	maxTombstones = 1 << 20
)

// A Retired is a segment that a tombstone in effect names.
type Retired struct {
	First  uint64 `json:"first"`
	End    uint64 `json:"end"`   // the index after its last entry
	Entry  uint64 `json:"entry"` // index of the tombstone
	Bytes  int64  `json:"bytes"` // of the archive
	Cold   string `json:"cold"`  // where it was moved, as the tombstone says; "" where it was deleted
	Reason string `json:"reason"`
	By     string `json:"by"`
	Read   string `json:"read"` // where its entries were read: "cold", "archive" where it is still there; "" where they were not

	archive, leaves [sha256.Size]byte
}

// A Hold is a legal hold that is active at the end of the log.
type Hold struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
	By     string `json:"by"`
	Index  uint64 `json:"index"` // of the entry that began it
}

// retention follows holds and tombstones through the entries. It belongs to the joiner.
type retention struct {
	tombstones []Retired // in effect; each begins where the one before ends
	holds      []Hold    // active

	files map[uint64]*retiredFiles // by first entry: of the segments that have a leaves file

	// Of an archive that has a leaves file beside it: what that file must be.
	twin  hash.Hash
	kept  []byte
	spoil bool // groups of it could not be read
}

// retiredFiles is what there is of a segment that has a leaves file.
type retiredFiles struct {
	onShelf
	cold    bool   // an archive was read in the cold directory
	end     uint64 // as the leaves file says, or the archive
	known   bool   // end and sum are
	sum     [sha256.Size]byte
	archive [sha256.Size]byte // where one was read
	length  int64
	path    string // of the archive
}

// sortSealed puts the sealed segments in order: archives, and those of which only the leaves are there.
func (c *check) sortSealed(kept []string) {
	s := &c.shelf
	c.list(retiredName)
	byFirst := map[uint64]*onShelf{}
	for _, first := range s.archives {
		byFirst[first] = &onShelf{first: first, archive: true}
	}
	for _, name := range kept {
		first, ok := segment.ParseName(name, segment.LeavesSuffix)
		switch {
		case !ok:
			c.strange(retiredName + "/" + name)
		case byFirst[first] != nil:
			byFirst[first].leaves = true
		case s.waiting(first) != nil:
			c.find(Finding{File: retiredName + "/" + name, Offset: -1, Index: int64(first), What: "belongs to no sealed segment"})
		default:
			byFirst[first] = &onShelf{first: first, leaves: true}
		}
	}
	for _, on := range byFirst {
		s.sealed = append(s.sealed, *on)
	}
	slices.SortFunc(s.sealed, func(a, b onShelf) int { return cmp.Compare(a.first, b.first) })
}

// find says where the segment's entries are read.
func (s *sealed) find() {
	s.name = "archive/" + segment.ArchiveName(s.first)
	if s.on.archive {
		s.path = s.c.path(s.name)
		return
	}
	if s.c.o.Cold != "" {
		s.path = filepath.Join(s.c.o.Cold, "archive", segment.ArchiveName(s.first))
		if _, err := s.c.o.FS.Stat(s.path); !errors.Is(err, fs.ErrNotExist) {
			s.name, s.cold = s.path, true
			return
		}
	}
	s.name = retiredName + "/" + segment.LeavesName(s.first)
	s.path = s.c.path(s.name)
}

func (s *sealed) openKept() {
	if s.kept, s.err = segment.OpenLeaves(s.file, s.size); s.err == nil && s.kept.First() != s.first {
		s.err = &segment.CorruptError{Msg: "the leaves are of another segment than the name", Got: fmt.Sprint(s.kept.First()), Want: fmt.Sprint(s.first)}
	}
	if s.err != nil {
		s.kept = nil
	}
}

func (s *sealed) groups() int {
	switch {
	case s.err != nil:
		return 0
	case s.kept != nil:
		return s.kept.Groups()
	}
	return s.ar.Groups()
}

func (s *sealed) offset(g int) int64 {
	if s.kept != nil {
		return s.kept.Offset(g)
	}
	return s.ar.Offset(g)
}

// keptGroup reads what is kept of group g.
func (w *worker) keptGroup(s *sealed, g int, sum *groupSum) {
	leaves, err := s.kept.Group(g)
	if err != nil {
		sum.err = err
		return
	}
	sum.leaves = *leaves
	sum.root = groupRoot(&sum.leaves)
	l := w.c.lines(false)
	l.reset(s.name)
	kept := s.kept.KeptOf(g)
	for i := range uint64(groupSize) {
		switch index := s.first + uint64(g)*groupSize + i; {
		case len(kept) > 0 && kept[0].Index == index:
			l.timeOK = false // the entry before was not read
			l.check(index, kept[0].Line, kept[0].Offset, -1)
			kept = kept[1:]
		case l.timed:
			l.times = append(l.times, noTime)
		}
	}
	sum.lines = l
}

// keptDiffers says whether leaf hashes that stand for entries contradict both tree/1 and chain, which were made from the entries;
// then those two stand in for them, so that what follows, the tombstone among it, can be checked.
func (j *joiner) keptDiffers(s *sealed, g int, sum *groupSum) bool {
	k := s.first/groupSize + uint64(g)
	a := &j.c.arrays
	root, found, err := a.level[1].at(k)
	if err != nil || !found || root == sum.root || !j.chainOK {
		return false
	}
	chain, found, err := a.level[0].at(k)
	if err != nil || !found || chain == extend(j.chain, sum.leaves[:]) {
		return false
	}
	j.c.find(Finding{
		File: s.name, Offset: s.offset(g), Index: int64(k * groupSize), What: fmt.Sprintf("the leaf hashes of entries %d to %d are not those that tree/1 and chain were made from", k*groupSize, k*groupSize+groupSize-1),
		Got: "root " + sum.root.String(), Want: root.String(), Hint: hintLeaves,
	})
	return true
}

// hashRetired reads the files of a segment that has a leaves file once more, for what the tombstone says of them.
func (u *unit) hashRetired() {
	s, c := u.s, u.s.c
	r := &u.retired
	r.onShelf, r.cold, r.path = s.on, s.cold, s.name
	name := retiredName + "/" + segment.LeavesName(s.first)
	file, size, err := c.open(name)
	if err == nil {
		defer file.Close()
		r.end = s.end()
		if r.end == 0 { // the archive cannot be read
			_, r.end, _, err = segment.ReadLeavesHeader(file, size)
		}
	}
	if err == nil {
		r.sum, err = c.hashFile(file, size)
	}
	if r.known = err == nil; err != nil {
		u.faults = append(u.faults, fault{name, err, hintLeaves})
	}
	if s.file != nil && (s.on.archive || s.cold) {
		if r.archive, err = c.hashFile(s.file, s.size); err != nil {
			u.faults = append(u.faults, fault{s.name, err, ""})
		}
		r.length = s.size
	}
}

const hintLeaves = "what is kept of a retired segment is not made again; " + hintRepair

func (s *sealed) end() uint64 {
	switch {
	case s.err != nil:
		return 0
	case s.kept != nil:
		return s.kept.End()
	}
	return s.ar.End()
}

// chainBefore is the chain hash that the segment states before its first entry. One of which only the leaves are there states none.
func (j *joiner) chainBefore(s *sealed) proof.Hash {
	if s.kept != nil {
		return j.chain
	}
	return s.ar.Chain()
}

// beginTwin begins to make the leaves file again from an archive that has one beside it.
func (j *joiner) beginTwin(s *sealed) {
	t := &j.c.retention
	t.twin, t.kept, t.spoil = nil, nil, false
	if s.on.leaves && s.kept == nil {
		t.twin = sha256.New()
		t.twin.Write(segment.AppendLeavesHeader(nil, s.first, s.ar.End()))
	}
}

func (j *joiner) addTwin(sum *groupSum) {
	t := &j.c.retention
	if t.twin == nil {
		return
	}
	for i := range sum.leaves {
		t.twin.Write(sum.leaves[i][:])
	}
	for i := range sum.lines.controls {
		if c := &sum.lines.controls[i]; len(t.kept) <= segment.MaxKeptBytes {
			t.kept = segment.AppendKeptLine(t.kept, c.index, c.line)
		}
	}
}

// endRetired takes what there is of a segment with a leaves file.
func (j *joiner) endRetired(u *unit, joined bool) {
	c := j.c
	t := &c.retention
	r := u.retired
	if !r.leaves {
		return
	}
	if t.files == nil {
		t.files = map[uint64]*retiredFiles{}
	}
	t.files[u.s.first] = &r
	if t.twin == nil || !joined || !r.known || t.spoil {
		return
	}
	t.twin.Write(t.kept)
	if want := [sha256.Size]byte(t.twin.Sum(nil)); r.sum != want {
		c.find(Finding{
			File: retiredName + "/" + segment.LeavesName(u.s.first), Offset: -1, Index: int64(u.s.first), What: "is not what the entries of " + u.s.name + " give",
			Got: fmt.Sprintf("SHA-256 %x", r.sum), Want: fmt.Sprintf("%x", want), Hint: hintLeaves,
		})
	}
}

// checkRetention holds an entry about holds and retired segments against those before it.
func (c *check) checkRetention(kind string, m object, e *control) error {
	for _, name := range []string{"reason", "by", "cold"} {
		if v, there := m[name]; there {
			if s, isText := v.(string); !isText || len(s) > maxReason {
				return fmt.Errorf("%s is no string of at most %d bytes", name, maxReason)
			}
		}
	}
	t := &c.retention
	switch kind {
	case "hold", "release":
		return t.takeHold(kind, m, e)
	case "retire":
		return t.takeTombstone(m, e)
	}
	first, err1 := m.number("first")
	entry, err2 := m.number("entry")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	n := len(t.tombstones)
	if n == 0 || t.tombstones[n-1].First != first || t.tombstones[n-1].Entry != entry {
		return fmt.Errorf("it names entry %d, of the segment from %d on, which is not the newest tombstone in effect", entry, first)
	}
	t.tombstones = t.tombstones[:n-1]
	return nil
}

func (t *retention) takeHold(kind string, m object, e *control) error {
	id := m.text("id")
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	if id == "" || len(id) > maxHoldID || !strings.Contains(letters, id[:1]) || strings.Trim(id, letters+"._-") != "" {
		return fmt.Errorf("id %q is none", id)
	}
	i := slices.IndexFunc(t.holds, func(h Hold) bool { return h.ID == id })
	switch {
	case kind == "hold" && i >= 0:
		return fmt.Errorf("the hold %s is active already, since entry %d", id, t.holds[i].Index)
	case kind == "hold" && len(t.holds) == maxHolds:
		return fmt.Errorf("more than %d holds are active", maxHolds)
	case kind == "hold":
		t.holds = append(t.holds, Hold{ID: id, Reason: m.text("reason"), By: m.text("by"), Index: e.index})
	case i < 0:
		return fmt.Errorf("the hold %s is not active", id)
	default:
		t.holds = slices.Delete(t.holds, i, i+1)
	}
	return nil
}

func (t *retention) takeTombstone(m object, e *control) error {
	first, err1 := m.number("first")
	end, err2 := m.number("end")
	length, err3 := m.number("bytes")
	archive, err4 := proof.ParseHex(m.text("archive"))
	leaves, err5 := proof.ParseHex(m.text("leaves"))
	_, err6 := proof.ParseHex(m.text("seal"))
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	next := uint64(0)
	if n := len(t.tombstones); n > 0 {
		next = t.tombstones[n-1].End
	}
	switch {
	case first != next:
		return fmt.Errorf("it retires the segment from entry %d on, and the oldest that is there begins with %d", first, next)
	case end <= first || end%groupSize != 0 || end > e.index || length >= proof.MaxSize:
		return fmt.Errorf("it retires entries %d to before %d, %d bytes, at index %d", first, end, length, e.index)
	case len(t.holds) > 0:
		return fmt.Errorf("it retires entries %d to %d while the legal hold %s is active, since entry %d", first, end-1, t.holds[0].ID, t.holds[0].Index)
	case len(t.tombstones) == maxTombstones:
		return fmt.Errorf("more than %d segments are retired", maxTombstones)
	}
	t.tombstones = append(t.tombstones, Retired{
		First: first, End: end, Entry: e.index, Bytes: int64(length), Cold: m.text("cold"), Reason: m.text("reason"), By: m.text("by"),
		archive: archive, leaves: leaves,
	})
	return nil
}

// finishRetention holds the segments that have a leaves file against the tombstones.
func (c *check) finishRetention(j *joiner) {
	t := &c.retention
	c.rep.Holds = append([]Hold{}, t.holds...)
	c.rep.Retired = []Retired{}
	for i := range t.tombstones {
		r := &t.tombstones[i]
		if files := t.files[r.First]; files != nil {
			c.checkRetired(r, files)
		} else {
			c.checkUnretired(r)
		}
		c.rep.Retired = append(c.rep.Retired, *r)
		delete(t.files, r.First)
	}
	for _, on := range c.shelf.sealed {
		files := t.files[on.first]
		if files == nil {
			continue
		}
		f := Finding{File: retiredName + "/" + segment.LeavesName(on.first), Offset: -1, Index: int64(on.first)}
		switch {
		case files.onShelf.archive:
			f.What = "is of a segment that no entry retires: a retirement was begun, or a restoration is not finished; the next open for writing removes it"
			c.note(f)
		case j.lost || j.epochs.lost:
			f.What = "was not held against its tombstone, because entries could not be read"
			c.note(f)
		default:
			f.File, f.What = "archive/"+segment.ArchiveName(on.first), "is missing, and no entry says that the segment was retired"
			f.Hint = "its leaf hashes are there, so the rest could be checked; `immutable repair --from BACKUP` takes it from a good copy"
			c.find(f)
		}
	}
}

// checkUnretired looks at a tombstone whose segment has no leaves file.
func (c *check) checkUnretired(r *Retired) {
	f := Finding{File: retiredName + "/" + segment.LeavesName(r.First), Offset: -1, Index: int64(r.First), What: fmt.Sprintf("is missing: entry %d retires the segment", r.Entry), Hint: hintLeaves}
	c.find(f)
}

// checkRetired compares a tombstone with what there is.
func (c *check) checkRetired(r *Retired, files *retiredFiles) {
	f := Finding{File: retiredName + "/" + segment.LeavesName(r.First), Offset: -1, Index: int64(r.First), Hint: hintLeaves}
	if files.known && files.end != r.End {
		f.What, f.Got, f.Want = fmt.Sprintf("ends elsewhere than the tombstone, entry %d, says", r.Entry), fmt.Sprint(files.end), fmt.Sprint(r.End)
		c.find(f)
	}
	if files.known && files.sum != r.leaves {
		f.What = fmt.Sprintf("is not the file that the tombstone, entry %d, names", r.Entry)
		f.Got, f.Want = fmt.Sprintf("SHA-256 %x", files.sum), fmt.Sprintf("%x", r.leaves)
		c.find(f)
	}
	read := files.onShelf.archive || files.cold
	if read && (files.archive != r.archive || files.length != r.Bytes) {
		c.find(Finding{
			File: files.path, Offset: -1, Index: int64(r.First), What: fmt.Sprintf("is not the archive that the tombstone, entry %d, names", r.Entry),
			Got: fmt.Sprintf("%d bytes with SHA-256 %x", files.length, files.archive), Want: fmt.Sprintf("%d, %x", r.Bytes, r.archive),
		})
	}
	n := Finding{File: retiredName, Offset: -1, Index: int64(r.First)}
	where := fmt.Sprintf("entries %d to %d are retired: ", r.First, r.End-1)
	switch {
	case files.onShelf.archive:
		r.Read = "archive"
		n.What = where + fmt.Sprintf("the archive is still there, and entry %d retires it: the next open for writing removes it", r.Entry)
	case files.cold:
		r.Read = "cold"
		n.What = where + fmt.Sprintf("they were read in %s", files.path)
	case r.Cold != "":
		n.What = where + fmt.Sprintf("their content was not read; moved to %s by entry %d", r.Cold, r.Entry)
	default:
		n.What = where + fmt.Sprintf("their content was not read; deleted by entry %d", r.Entry)
	}
	c.note(n)
	if files.onShelf.archive {
		return
	}
	if c.o.Cold != "" && !files.cold && r.Cold != "" {
		c.note(Finding{File: filepath.Join(c.o.Cold, "archive", segment.ArchiveName(r.First)), Offset: -1, Index: int64(r.First), What: "is missing: the segment was moved, and this copy of it could not be checked"})
		c.unreadable++
	}
	if h := c.history; h.err == nil && h.lastSize <= r.Entry {
		c.find(Finding{
			File: historyName, Offset: -1, Index: int64(r.Entry), What: "no checkpoint is kept over this tombstone, and its archive is gone: it is removed only after one is kept",
			Got: fmt.Sprintf("last size %d", h.lastSize), Want: fmt.Sprintf("above %d", r.Entry),
		})
	}
}
