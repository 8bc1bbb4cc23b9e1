package immutable

import (
	"sync"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// maxRemembered bounds the bytes of memory that what is remembered of one segment takes.
const maxRemembered = 16 << 20

// remembered is what this process knows of groups of a segment without an index, since searches read and proved them: enough to rule
// most of them out. Entries do not change, so it stays true; it is let go with what else is kept of the segment.
type remembered struct {
	mu     sync.Mutex
	groups map[uint64]*query.Facts
	bytes  int
}

// of returns what is known of the first n entries of group k; nil for nothing.
func (r *remembered) of(k, n uint64) *query.Facts {
	r.mu.Lock()
	f := r.groups[k]
	r.mu.Unlock()
	if f == nil || f.Len() != n {
		return nil
	}
	return f
}

// keep remembers a group. An older one of fewer entries goes.
func (r *remembered) keep(k uint64, f *query.Facts) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.groups[k]; old != nil {
		if old.Len() > f.Len() {
			return
		}
		r.bytes -= old.Size()
		delete(r.groups, k)
	}
	if r.bytes+f.Size() > maxRemembered {
		return
	}
	if r.groups == nil {
		r.groups = map[uint64]*query.Facts{}
	}
	r.groups[k] = f
	r.bytes += f.Size()
}

func (r *remembered) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups, r.bytes = nil, 0
}

// remember takes note of the group that w holds, if s is a segment without an index and somebody may ask again: in a process that writes, or
// searches more than once.
func (l *Log) remember(s *segmentFile, w *sweeper) {
	if !l.asksAgain() || s.seen.of(w.group.number, uint64(len(w.group.lines))) != nil {
		return
	}
	if w.filters == nil {
		w.filters = new(index.FilterMaker)
	}
	if f, ok := query.NewFacts(w.group.lines, w.filters); ok {
		s.seen.keep(w.group.number, f)
		l.opened.keep(s)
	}
}

// recall asks what is remembered of group k: read says whether it must be read; where it is a count, what is known of the entries that it
// selects is counted.
func (p *planner) recall(k uint64) (read bool) {
	at := &p.now
	first := k * tree.GroupSize
	n := min(p.s.at.size()-first, tree.GroupSize)
	f := at.seg.seen.of(k, n)
	if f == nil {
		return true
	}
	p.l.opened.keep(at.seg)
	selectsNone, selectsAll := f.Tell(p.s.parsed.Root)
	c := p.s.counting
	switch {
	case selectsNone:
	case !selectsAll || c == nil || c.field != nil || c.width > 0 || first < p.s.low || first+n > p.s.high:
		return true
	default:
		c.n += n
		p.s.recalledEntries += n
		for v, m := range f.Levels {
			c.levels[v] += uint64(m)
		}
	}
	return false
}
