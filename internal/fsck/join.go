package fsck

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// A claim says that the log has, or had, a root (and perhaps a chain hash) at a size.
type claim struct {
	size   uint64
	root   proof.Hash
	chain  *proof.Hash
	file   string
	offset int64
	inside bool // it is a file of the directory that claims, so that the entries are what is expected

	differs, short Finding
	basis          *Basis // what agreement with it is worth; may be nil

	// Of a note; nil in a log without keys. The keys of its epoch must have signed it; where they have not, unsigned is found,
	// and why is added to it.
	note     *proof.Note
	unsigned Finding
	kept     bool                         // it is of the history
	data     []byte                       // then the note
	good     func(signers []proof.Signer) // called when it is signed and agrees with the entries; may be nil
}

// An entryClaim wants to see one entry's hashes.
type entryClaim struct {
	index uint64
	file  string
	check func(leaf, chain proof.Hash)
}

// A joiner puts segments together in order: it carries the state at the end of what was read so far, compares everything that
// claims something about it, and is the only one that does. It is not safe for concurrent use.
type joiner struct {
	c    *check
	pool *pool // nil before and after the entries are read

	size  uint64
	f     tree.Frontier
	chain proof.Hash
	time  int64 // timestamp of the entry before size
	// Where entries are missing and nothing stands in for them, one or more of these are unknown from there on.
	rootOK, chainOK, timeOK bool

	whole tree.Frontier // f at the last multiple of groupSize
	tail  []proof.Hash  // leaves behind it, where they came one by one

	claims  []*claim // by size; those below are done
	entries []*entryClaim
	ahead   *claim // next of the history

	sealed uint64 // end of the newest archive that has its seal
	lost   bool   // a segment could not be read or joined; that is reported, so what misses its entries is not to blame
	bytes  int64

	evidence  []evidenceFile // of sizes from the present one on
	epochs    epochs
	producers producers
	current   *sealed  // the archive that was taken last
	twin      *rawFile // the pending file of the same segment, if there still is one and it is whole
	twinEnd   uint64   // the entries that it holds are below
}

func newJoiner(c *check) *joiner {
	j := &joiner{c: c, rootOK: true, chainOK: true, timeOK: true, evidence: c.evidence}
	j.startEpochs()
	return j
}

func (j *joiner) claim(cl *claim) {
	i, _ := slices.BinarySearchFunc(j.claims, cl.size, func(a *claim, size uint64) int { return cmp.Compare(a.size, size) })
	j.claims = slices.Insert(j.claims, i, cl)
}

func (j *joiner) claimEntry(cl *entryClaim) {
	i, _ := slices.BinarySearchFunc(j.entries, cl.index, func(a *entryClaim, index uint64) int { return cmp.Compare(a.index, index) })
	j.entries = slices.Insert(j.entries, i, cl)
}

// begin moves to a segment that starts at first with the chain hash that its segment line states. It is false where the
// segment cannot follow; the finding is made.
func (j *joiner) begin(name string, first uint64, chain proof.Hash) bool {
	f := Finding{File: name, Offset: 0, Index: int64(first)}
	switch {
	case first < j.size:
		f.What, f.Got, f.Want = "overlaps the segment before it; its entries were not checked", fmt.Sprintf("first entry %d", first), fmt.Sprint(j.size)
		f.Hint = "a file was replaced by an older copy, or renamed"
		j.c.find(f)
		return false
	case first > j.size:
		f.Offset, f.Index = -1, int64(j.size)
		f.What = fmt.Sprintf("entries %d to %d, which come before this segment, are missing", j.size, first-1)
		f.Hint = hintRepair
		if j.lost || j.c.shelf.unlisted {
			f.What, f.Hint = fmt.Sprintf("entries %d to %d were not checked, because they could not be read", j.size, first-1), ""
			j.c.note(f)
		} else {
			j.c.find(f)
		}
		j.skip(first)
	}
	j.lost = false
	if !j.chainOK {
		j.chain, j.chainOK = chain, true
	}
	if chain != j.chain {
		f.Offset, f.Index = 0, int64(first)
		f.What, f.Got, f.Want, f.Hint = "the chain hash in the segment line is not that of the entries before it", chain.String(), j.chain.String(), ""
		j.c.find(f)
	}
	return true
}

// skip goes on at group boundary to although entries before it are missing. The hash arrays stand in for them, so that what
// follows can be checked; what was claimed about sizes in between cannot.
func (j *joiner) skip(to uint64) {
	j.loseEpochs()
	a := &j.c.arrays
	a.holes = true
	j.timeOK, j.tail = false, nil
	groups := to / groupSize
	if j.rootOK = j.rootOK && a.level[1].hashes() >= groups; j.rootOK {
		j.f = j.whole
		for k := j.f.Size() / groupSize; k < groups && j.rootOK; k++ {
			h, found, err := a.level[1].at(k)
			if j.rootOK = found && err == nil; j.rootOK {
				j.f.AppendGroup(h)
			}
			if k%4096 == 0 && j.c.ctx.Err() != nil {
				j.rootOK = false
			}
		}
	}
	chain, found, err := a.level[0].at(groups - 1)
	j.chain, j.chainOK = chain, found && err == nil
	a.count[0], a.count[1] = groups, groups
	j.size, j.whole = to, j.f
	j.settleMissed()
}

// add appends leaves. group is their root where they are exactly one group, else nil.
func (j *joiner) add(leaves []proof.Hash, group *proof.Hash) {
	for len(leaves) > 0 {
		n := min(groupSize-int(j.size%groupSize), len(leaves))
		if group != nil && j.nextStop() >= j.size+groupSize && !j.epochIn(j.size+groupSize) {
			j.addGroup(leaves, *group)
		} else {
			for _, leaf := range leaves[:n] {
				j.addLeaf(leaf)
			}
		}
		leaves = leaves[n:]
	}
}

// addGroup is the usual case: nothing asks for a state inside the group.
func (j *joiner) addGroup(leaves []proof.Hash, root proof.Hash) {
	if j.rootOK {
		j.f.AppendGroup(root)
		j.whole = j.f
	}
	if p := j.epochs.path; p != nil {
		p.add(root, groupLevel)
	}
	j.chain = extend(j.chain, leaves)
	j.size += groupSize
	j.c.arrays.group(j.size/groupSize-1, root, j.chain, j.chainOK, leaves)
	if j.nextStop() == j.size {
		j.fire(leaves[groupSize-1])
	}
}

func (j *joiner) addLeaf(leaf proof.Hash) {
	if j.epochIn(j.size + 1) {
		j.beginEpoch()
	}
	if p := j.epochs.path; p != nil {
		p.add(leaf, 0)
	}
	if j.rootOK {
		j.f.Append(leaf)
	}
	j.chain = proof.ChainHash(j.chain, leaf)
	j.tail = append(j.tail, leaf)
	j.size++
	if j.size%groupSize == 0 {
		j.nextStop() // arrays want to know of a note ahead
		j.c.arrays.group(j.size/groupSize-1, proof.Root(j.tail), j.chain, j.chainOK, j.tail)
		j.tail = j.tail[:0]
		j.whole = j.f
	}
	if j.nextStop() == j.size {
		j.fire(leaf)
	}
}

// nextStop is the next size at which somebody claims something.
func (j *joiner) nextStop() uint64 {
	stop := uint64(math.MaxUint64)
	if len(j.claims) > 0 {
		stop = j.claims[0].size
	}
	if len(j.entries) > 0 {
		stop = min(stop, j.entries[0].index+1)
	}
	if len(j.evidence) > 0 {
		stop = min(stop, j.evidence[0].size)
	}
	if j.ahead == nil && !j.c.history.ended {
		j.ahead = j.c.history.next()
	}
	if j.ahead != nil {
		stop = min(stop, j.ahead.size)
	}
	return stop
}

// fire settles what is claimed at the present size; leaf is the last entry's.
func (j *joiner) fire(leaf proof.Hash) {
	for len(j.entries) > 0 && j.entries[0].index+1 == j.size {
		if j.chainOK {
			j.entries[0].check(leaf, j.chain)
		}
		j.entries = j.entries[1:]
	}
	for len(j.claims) > 0 && j.claims[0].size == j.size {
		j.settle(j.claims[0])
		j.claims = j.claims[1:]
	}
	j.settleEvidence()
	if j.ahead != nil && j.ahead.size == j.size {
		j.settleNote(j.ahead)
		j.ahead = nil
	}
}

// settle holds a claim against the entries before it, and its signatures against the keys of the epoch.
func (j *joiner) settle(cl *claim) {
	var signers []proof.Signer
	if e := &j.epochs; cl.note != nil && !e.lost {
		var err error
		if signers, err = j.verify(cl); err != nil {
			j.c.find(j.unsigned(cl, err))
			return
		}
	}
	if !j.rootOK {
		j.missed(cl.file, cl.offset, -1, fmt.Sprintf("the root at size %d", cl.size))
		return
	}
	if f := j.compare(cl); f != nil {
		j.c.find(*f)
		return
	}
	j.agree(cl, j.epochs.cur, signers)
}

// compare returns how a claim contradicts the entries, or nil.
func (j *joiner) compare(cl *claim) *Finding {
	f := cl.differs
	root := j.f.Root()
	switch {
	case !j.rootOK:
		return nil
	case cl.chain != nil && *cl.chain != j.chain:
		f.Got, f.Want = cl.chain.String(), j.chain.String()
	case root != cl.root && cl.inside:
		f.Got, f.Want = cl.root.Base64(), root.Base64()
	case root != cl.root:
		f.Got, f.Want = root.Base64(), cl.root.Base64()
	default:
		return nil
	}
	return &f
}

// basis keeps one basis of a kind and name, the one that covers most.
func (c *check) basis(b Basis) {
	for i := range c.rep.Basis {
		old := &c.rep.Basis[i]
		if old.Kind == b.Kind && old.Detail == b.Detail {
			old.Size = max(old.Size, b.Size)
			return
		}
	}
	c.rep.Basis = append(c.rep.Basis, b)
}

func (j *joiner) missed(file string, offset, index int64, what string) {
	j.c.note(Finding{File: file, Offset: offset, Index: index, What: what + " was not compared, because entries before it are missing"})
}

// settleMissed drops what is claimed below the present size, and settles what is claimed at it: the entry before it is missing,
// but the hash arrays may tell the root.
func (j *joiner) settleMissed() {
	for j.nextStop() < j.size || len(j.entries) > 0 && j.entries[0].index+1 == j.size {
		for len(j.entries) > 0 && j.entries[0].index+1 <= j.size {
			j.missed(j.entries[0].file, -1, int64(j.entries[0].index), "the entry")
			j.entries = j.entries[1:]
		}
		for len(j.claims) > 0 && j.claims[0].size < j.size {
			j.missed(j.claims[0].file, j.claims[0].offset, -1, fmt.Sprintf("the root at size %d", j.claims[0].size))
			j.claims = j.claims[1:]
		}
		for len(j.evidence) > 0 && j.evidence[0].size < j.size {
			j.missed(evidenceFileName(j.evidence[0].size, j.evidence[0].n), -1, -1, fmt.Sprintf("the root at size %d", j.evidence[0].size))
			j.evidence = j.evidence[1:]
		}
		if j.ahead != nil && j.ahead.size < j.size {
			j.missed(j.ahead.file, j.ahead.offset, -1, fmt.Sprintf("the root at size %d", j.ahead.size))
			j.ahead = nil
		}
	}
	if j.nextStop() == j.size {
		j.fire(proof.Hash{})
	}
}

// finish settles what is claimed beyond the end, and the totals.
func (j *joiner) finish() {
	c := j.c
	j.reap(0)
	short := func(cl *claim) {
		if j.lost {
			j.missed(cl.file, cl.offset, -1, fmt.Sprintf("the root at size %d", cl.size))
			return
		}
		f := cl.short
		f.Got, f.Want = fmt.Sprintf("%d entries", j.size), fmt.Sprintf("at least %d", cl.size)
		c.find(f)
	}
	for _, cl := range j.claims {
		short(cl)
	}
	for j.nextStop(); j.ahead != nil; j.nextStop() {
		cl := j.ahead
		j.ahead = nil
		var err error
		if e := &j.epochs; cl.note != nil && !e.lost && !j.lost {
			_, err = j.verify(cl)
		}
		if err != nil {
			c.history.reject(cl.offset, int64(len(cl.data)), err)
		} else {
			short(cl)
		}
		if c.ctx.Err() != nil {
			return
		}
	}
	j.beyondEvidence()
	for _, e := range j.entries {
		f := Finding{File: e.file, Offset: -1, Index: int64(e.index), What: "the entry is not there", Got: fmt.Sprintf("%d entries", j.size), Want: fmt.Sprintf("at least %d", e.index+1), Hint: hintCut}
		if j.lost {
			j.missed(e.file, -1, int64(e.index), "the entry")
			continue
		}
		c.find(f)
	}
	if !j.lost {
		c.arrays.finish()
	}
	j.finishEpochs()
	j.finishProducers()
	j.finishPolicy()
	c.rep.Size = j.size
	if j.rootOK && !j.lost {
		c.rep.Root = j.f.Root()
	}
	if j.chainOK && !j.lost {
		c.rep.Chain = j.chain
	}
	j.progress(0)
}

func (j *joiner) progress(bytes int64) {
	j.bytes += bytes
	c := j.c
	total := j.size
	if c.latest != nil {
		total = max(total, c.latestAt.Size)
	}
	if c.head != nil {
		total = max(total, c.head.Size)
	}
	c.o.Progress(Progress{Entries: j.size, TotalEntries: total, Bytes: j.bytes, TotalBytes: max(j.bytes, c.totalBytes)})
}
