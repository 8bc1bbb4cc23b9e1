package vfstest

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// sector is the unit in bytes that a disk writes in no particular order. Within one sector a write may be torn too.
const sector = 512

// block is the unit in bytes that a file system allocates. Where a truncate cuts one, it writes zeros into the rest,
// perhaps before the new length.
const block = 4096

// Keep chooses what CrashKeep keeps of what was not synced.
type Keep int

const (
	KeepNone Keep = iota // the least that was promised
	KeepAll              // everything that was still to be written
)

// Crash cuts the power and returns the disk as it is afterwards, on again, with nothing open or locked. d is off from
// then on.
//
// What was synced is there. Of the rest anything may be, chosen by rng: of each file, each 512-byte sector as any of
// the writes to it left it, also torn between two of them; a length that it had, or one on the way to it; zeros or
// garbage where it grew. Of the changes to one name, the first few. A file whose name is lost is lost, synced or not.
// The same calls and the same rng give the same disk.
func (d *Disk) Crash(rng *rand.Rand) *Disk {
	switch rng.IntN(16) {
	case 0:
		return d.CrashKeep(KeepNone)
	case 1:
		return d.CrashKeep(KeepAll)
	}
	return d.crash(
		func(s *slot) int { return rng.IntN(len(s.changes) + 1) },
		func(n *node) []byte { return n.anyContents(rng) },
		func(n *node) int { return rng.IntN(len(n.modes)) },
	)
}

// CrashKeep is Crash at one of its two extremes. KeepAll does not keep what a failed Sync has lost.
func (d *Disk) CrashKeep(keep Keep) *Disk {
	if keep == KeepAll {
		return d.crash(
			func(s *slot) int { return len(s.changes) },
			func(n *node) []byte { return n.replay(func(w *write) bool { return w.state != lost }) },
			func(n *node) int { return len(n.modes) - 1 },
		)
	}
	return d.crash(
		func(*slot) int { return 0 },
		func(n *node) []byte { return n.replay(func(w *write) bool { return w.state == fixed }) },
		func(*node) int { return 0 },
	)
}

// Clone returns a disk in the same state, with the same Capacity and nothing open or locked. d goes on. Faults are not
// copied, nor is a pending CutAfter; a disk that is off has a clone with power.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := New()
	c.Capacity, c.ops, c.lastIno = d.Capacity, d.ops, d.lastIno
	nodes := make(map[*node]*node)
	changes := make(map[*change]*change)
	c.root = cloneNode(d.root, nodes, changes)
	for _, ch := range changes {
		for i, n := range ch.needs {
			ch.needs[i] = changes[n]
		}
		ch.needs = slices.DeleteFunc(ch.needs, func(n *change) bool { return n == nil }) // those that are durable
	}
	c.lastMv = changes[d.lastMv]
	c.recount()
	return c
}

// cloneNode copies n and all that it leads to, now or after a crash. The needs of the copied changes are still the old ones.
func cloneNode(n *node, nodes map[*node]*node, changes map[*change]*change) *node {
	if n == nil {
		return nil
	}
	if c := nodes[n]; c != nil {
		return c
	}
	c := &node{
		ino: n.ino, dir: n.dir, modes: slices.Clone(n.modes), mtime: n.mtime,
		data: n.data, durable: n.durable, writes: slices.Clone(n.writes), lentData: true, lentDurable: true,
	}
	n.lentData, n.lentDurable = true, true
	nodes[n] = c
	if !n.dir {
		return c
	}
	c.slots = make(map[string]*slot, len(n.slots))
	for base, s := range n.slots {
		t := &slot{durable: cloneNode(s.durable, nodes, changes)}
		for _, ch := range s.changes {
			changed := &change{slot: t, to: cloneNode(ch.to, nodes, changes), needs: slices.Clone(ch.needs)}
			changes[ch] = changed
			t.changes = append(t.changes, changed)
		}
		c.slots[base] = t
	}
	return c
}

// crash turns d off and builds what is left of it: of each slot the first keep changes, as far as their needs are kept
// too, of each file the contents, of its modes the one with index mode.
func (d *Disk) crash(keep func(*slot) int, contents func(*node) []byte, mode func(*node) int) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = ErrPowerCut

	slots := d.allSlots()
	kept := make(map[*slot]int, len(slots))
	for _, s := range slots {
		kept[s] = keep(s)
	}
	loseDependents(slots, kept)

	after := New()
	after.Capacity, after.ops, after.lastIno = d.Capacity, d.ops, d.lastIno
	nodes := make(map[*node]*node)
	var rebuild func(n *node) *node
	rebuild = func(n *node) *node {
		if c := nodes[n]; c != nil {
			return c
		}
		c := &node{ino: n.ino, dir: n.dir, modes: n.modes[mode(n):][:1:1], mtime: n.mtime}
		nodes[n] = c
		if !n.dir {
			c.hold(contents(n))
			return c
		}
		c.slots = make(map[string]*slot)
		for _, base := range sortedKeys(n.slots) {
			s := n.slots[base]
			has := s.durable
			if k := kept[s]; k > 0 {
				has = s.changes[k-1].to
			}
			if has != nil {
				c.slots[base] = &slot{durable: rebuild(has)}
			}
		}
		return c
	}
	after.root = rebuild(d.root)
	after.recount()
	return after
}

// loseDependents lowers kept until every kept change has what it needs.
func loseDependents(slots []*slot, kept map[*slot]int) {
	for again := true; again; {
		again = false
		for _, s := range slots {
			for i, c := range s.changes[:kept[s]] {
				if slices.ContainsFunc(c.needs, func(n *change) bool { return !n.isKept(kept) }) {
					kept[s] = i
					again = true
					break
				}
			}
		}
	}
}

func (c *change) isKept(kept map[*slot]int) bool {
	return c.done || slices.Index(c.slot.changes, c) < kept[c.slot]
}

// allSlots lists the slots that have changes and may matter, always in the same order.
func (d *Disk) allSlots() []*slot {
	var slots []*slot
	seen := map[*node]bool{d.root: true}
	for queue := []*node{d.root}; len(queue) > 0; queue = queue[1:] {
		n := queue[0]
		for _, base := range sortedKeys(n.slots) {
			s := n.slots[base]
			if len(s.changes) > 0 {
				slots = append(slots, s)
			}
			holders := []*node{s.durable}
			for _, c := range s.changes {
				holders = append(holders, c.to)
			}
			for _, h := range holders {
				if h != nil && !seen[h] {
					seen[h] = true
					queue = append(queue, h)
				}
			}
		}
	}
	return slots
}

// recount counts the visible names of all nodes and the space that they use.
func (d *Disk) recount() {
	seen := make(map[*node]bool)
	var visit func(dir *node)
	visit = func(dir *node) {
		for _, s := range dir.slots {
			n := s.now()
			if n == nil {
				continue
			}
			n.links++
			if seen[n] {
				continue
			}
			seen[n] = true
			if n.dir {
				visit(n)
			} else {
				d.used += int64(len(n.data))
			}
		}
	}
	visit(d.root)
}

// replay returns the durable contents with the fixed writes and those others that keep wants.
func (n *node) replay(keep func(w *write) bool) []byte {
	data := slices.Clone(n.durable)
	for i := range n.writes {
		if w := &n.writes[i]; w.state == fixed || keep(w) {
			data = w.applyTo(data)
		}
	}
	return data
}

// anyContents returns something that a power cut may leave of a file.
func (n *node) anyContents(rng *rand.Rand) []byte {
	if len(n.writes) == 0 {
		return slices.Clone(n.durable)
	}
	switch rng.IntN(8) {
	case 0:
		return n.replay(func(*write) bool { return false })
	case 1:
		return n.replay(func(*write) bool { return true })
	case 2, 3:
		return n.inOrder(rng)
	}
	return n.outOfOrder(rng)
}

// inOrder keeps the first writes and a part of the next.
func (n *node) inOrder(rng *rand.Rand) []byte {
	left := rng.IntN(len(n.writes))
	data := slices.Clone(n.durable)
	for _, w := range n.writes {
		if left == 0 && w.state != fixed && !w.trunc {
			w.data = w.data[:rng.IntN(len(w.data)+1)]
		}
		if (left >= 0 || w.state == fixed) && (w.trunc || len(w.data) > 0) {
			data = w.applyTo(data)
		}
		left--
	}
	return data
}

// outOfOrder chooses for each sector apart which of its writes are kept, and the length apart from that.
func (n *node) outOfOrder(rng *rand.Rand) []byte {
	size, longest, reached := n.anySize(rng)
	data := resize(slices.Clone(n.durable), longest)
	n.fillGrown(rng, data)
	touching := n.bySector()
	for _, at := range slices.Sorted(maps.Keys(touching)) {
		writes := touching[at]
		from, to := at*sector, min((at+1)*sector, longest)
		if from >= to {
			continue
		}
		keep := rng.IntN(len(writes) + 1)
		tear := to
		rest := keep
		if rng.IntN(4) == 0 {
			tear = from + rng.Int64N(to-from)
			rest = rng.IntN(len(writes) + 1)
		}
		n.applyRange(data, writes, keep, reached, from, tear)
		n.applyRange(data, writes, rest, reached, tear, to)
	}
	return data[:size]
}

// anySize chooses a length: after the fixed writes and any number of the others, or on the way to the next.
// longest is the most that it can have been, reached is the first write that the length does not know.
func (n *node) anySize(rng *rand.Rand) (size, longest int64, reached int) {
	keep := rng.IntN(len(n.writes) + 1)
	size = int64(len(n.durable))
	visible := size
	longest = size
	for i, w := range n.writes {
		before := size
		if i < keep || w.state == fixed || i == keep && rng.IntN(2) == 0 {
			size = w.sizeAfter(size)
		}
		if i == keep && w.state != fixed && size > before {
			size = before + rng.Int64N(size-before) + 1
		}
		visible = w.sizeAfter(visible)
		longest = max(longest, visible, size)
	}
	return size, longest, keep
}

func (w *write) sizeAfter(size int64) int64 {
	if w.trunc {
		return w.off
	}
	return max(size, w.end())
}

// fillGrown puts garbage into some of the sectors that the file has grown by, where no Sync has promised zeros.
func (n *node) fillGrown(rng *rand.Rand, data []byte) {
	if slices.ContainsFunc(n.writes, func(w write) bool { return w.state == fixed }) {
		return
	}
	for at := int64(len(n.durable)); at < int64(len(data)); {
		end := min((at/sector+1)*sector, int64(len(data)))
		if rng.IntN(8) == 0 {
			for i := at; i < end; i++ {
				data[i] = byte(rng.Uint32())
			}
		}
		at = end
	}
}

// bySector lists for each sector the indexes of the writes that change bytes in it, in order.
func (n *node) bySector() map[int64][]int {
	touching := make(map[int64][]int)
	size := int64(len(n.durable))
	for i, w := range n.writes {
		from, to := w.off, w.end()
		if w.trunc {
			to = size
		}
		for at := from / sector; at*sector < to; at++ {
			touching[at] = append(touching[at], i)
		}
		size = w.sizeAfter(size)
	}
	return touching
}

// applyRange applies the first keep of the writes, and of the others the fixed, to data[from:to]. What a truncate cuts
// off that the length does not know is still there, except in the block that it cut.
func (n *node) applyRange(data []byte, writes []int, keep, reached int, from, to int64) {
	for i, index := range writes {
		w := &n.writes[index]
		if i >= keep && w.state != fixed {
			continue
		}
		if w.trunc {
			lo, hi := max(from, w.off), to
			if index >= reached && w.state != fixed {
				hi = min(hi, (w.off+block-1)/block*block)
			}
			if lo < hi {
				clear(data[lo:hi])
			}
			continue
		}
		lo, hi := max(from, w.off), min(to, w.end())
		if lo < hi {
			copy(data[lo:hi], w.data[lo-w.off:])
		}
	}
}
