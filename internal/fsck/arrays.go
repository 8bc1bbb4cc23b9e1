package fsck

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// maxTreeLevel is the highest level that 64-bit sizes can fill.
const maxTreeLevel = 7

// arrays are the derived files tree/1 … and chain. They are compared with what the entries give, in order, and nothing is
// taken from them unless entries are missing; then they stand in, so that what follows can be checked, and the log is
// refuted anyway.
type arrays struct {
	c     *check
	level [maxTreeLevel + 1]hashFile // level[0] is chain
	sums  [maxTreeLevel + 1][]proof.Hash
	count [maxTreeLevel + 1]uint64 // hashes of that level that the entries gave
	holes bool                     // hashes were missing: levels above the first cannot be compared any more
	// chainOff: chain's last hash differed; a next one that follows from it differs for the same reason.
	chainOff bool
}

// A hashFile reads a flat array of hashes forward, through a small window.
type hashFile struct {
	name   string
	file   vfs.File
	size   int64
	exists bool
	broken bool // not readable; reported
	window []byte
	from   int64
}

func (h *hashFile) hashes() uint64 { return uint64(h.size) / proof.HashSize }

// at returns hash k; false beyond the whole hashes.
func (h *hashFile) at(k uint64) (proof.Hash, bool, error) {
	if h.file == nil || k >= h.hashes() {
		return proof.Hash{}, false, nil
	}
	off := int64(k) * proof.HashSize
	if off < h.from || off+proof.HashSize > h.from+int64(len(h.window)) {
		n := min(16<<10, h.size-off)
		if cap(h.window) < int(n) {
			h.window = make([]byte, n)
		}
		h.window, h.from = h.window[:n], off
		if m, err := h.file.ReadAt(h.window, off); int64(m) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			h.window = h.window[:0]
			return proof.Hash{}, false, err
		}
	}
	return proof.Hash(h.window[off-h.from:][:proof.HashSize]), true, nil
}

func (c *check) openArrays() {
	a := &c.arrays
	a.c = c
	for l := range a.level {
		h := &a.level[l]
		h.name = "tree/" + strconv.Itoa(l)
		if l == 0 {
			h.name = chainName
		}
		var err error
		h.file, h.size, err = c.open(h.name)
		h.exists = !errors.Is(err, fs.ErrNotExist)
		if err != nil && h.exists {
			h.broken = true
			c.fault(h.name, -1, err, hintRebuild)
		}
	}
	for _, name := range c.list("tree") {
		if l, err := strconv.Atoi(name); err != nil || l < 1 || l > maxTreeLevel || strconv.Itoa(l) != name {
			c.find(Finding{File: "tree/" + name, Offset: -1, Index: -1, What: "is a name that the format does not know"})
		}
	}
}

func (a *arrays) close() {
	for l := range a.level {
		if f := a.level[l].file; f != nil {
			_ = f.Close()
			a.level[l].file = nil
		}
	}
}

// need is how many hashes of a level were durable before something was signed. Of the history it counts the notes up to the
// next one that lies ahead of the joiner.
func (a *arrays) need(l int) uint64 {
	size := max(a.c.latestAt.Size, a.c.history.lastSize)
	if h := a.c.head; h != nil {
		size = max(size, h.Size)
	}
	return size >> (8 * max(l, 1))
}

// group compares the hashes of group k, which the entries gave.
func (a *arrays) group(k uint64, root, chain proof.Hash, chainOK bool, leaves []proof.Hash) {
	a.add(1, k, root)
	a.count[0] = k + 1
	if !chainOK {
		return
	}
	stored, found, err := a.level[0].at(k)
	if !found || err != nil {
		a.broken(0, err)
		return
	}
	if stored == chain {
		a.chainOff = false
		return
	}
	if a.chainOff && k > 0 {
		if before, found, _ := a.level[0].at(k - 1); found && extend(before, leaves) == stored {
			return
		}
	}
	a.chainOff = true
	a.differs(0, k, stored, chain)
}

// extend is the chain hash after leaves.
func extend(chain proof.Hash, leaves []proof.Hash) proof.Hash {
	for _, leaf := range leaves {
		chain = proof.ChainHash(chain, leaf)
	}
	return chain
}

// add compares hash k of a level and makes those of the levels above that it completes.
func (a *arrays) add(l int, k uint64, h proof.Hash) {
	stored, found, err := a.level[l].at(k)
	if err != nil {
		a.broken(l, err)
	}
	if found && stored != h {
		a.differs(l, k, stored, h)
	}
	a.count[l] = k + 1
	if l == maxTreeLevel || a.holes {
		return
	}
	a.sums[l] = append(a.sums[l], h)
	if len(a.sums[l]) == groupSize {
		up := proof.Root(a.sums[l])
		a.sums[l] = a.sums[l][:0]
		a.add(l+1, k/groupSize, up)
	}
}

func (a *arrays) broken(l int, err error) {
	if h := &a.level[l]; err != nil && !h.broken {
		h.broken = true
		a.c.fault(h.name, -1, err, hintRebuild)
	}
}

func (a *arrays) differs(l int, k uint64, got, want proof.Hash) {
	span := uint64(1) << (8 * max(l, 1))
	f := Finding{
		File: a.level[l].name, Offset: int64(k) * proof.HashSize, Index: int64(k * span),
		What: fmt.Sprintf("the hash of entries %d to %d is not what they give", k*span, k*span+span-1), Got: got.String(), Want: want.String(), Hint: hintRebuild,
	}
	if l == 0 {
		f.Index = int64(k*span + span - 1)
		f.What = fmt.Sprintf("the chain hash of entry %d is not what the entries give", f.Index)
	}
	if k < a.need(l) {
		a.c.find(f)
		return
	}
	a.c.leftover(f)
}

// finish compares the lengths.
func (a *arrays) finish() {
	clean := a.c.head != nil && a.c.head.Clean
	for l := range a.level {
		h := &a.level[l]
		if h.broken {
			continue
		}
		f := Finding{File: h.name, Offset: h.size, Index: -1, Got: fmt.Sprintf("%d bytes", h.size), Want: fmt.Sprintf("at least %d", a.need(l)*proof.HashSize), Hint: hintRebuild}
		torn := h.size%proof.HashSize != 0 || h.exists && h.size == 0
		switch {
		case h.hashes() < a.need(l):
			f.What = "is too short for the newest checkpoint"
			if !h.exists {
				f.What, f.Offset, f.Got = "is missing", -1, ""
			}
			a.c.find(f)
		case clean && (torn || h.hashes() > a.need(l)):
			f.What, f.Want = "is longer than after a clean close", fmt.Sprintf("%d bytes", a.need(l)*proof.HashSize)
			a.c.leftover(f)
		case torn:
			f.What, f.Want = "ends inside a hash", "whole hashes"
			a.c.leftover(f)
		case h.hashes() > a.count[l] && !(a.holes && l > 1):
			f.Offset = int64(a.count[l]) * proof.HashSize
			f.What, f.Want = "holds hashes of more entries than there are", fmt.Sprintf("at most %d bytes", a.count[l]*proof.HashSize)
			a.c.leftover(f)
		}
	}
}
