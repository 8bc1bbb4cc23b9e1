package immutable

import (
	"math"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// stretch is the part of a segment that a selection looks at.
type stretch struct {
	first, n uint64 // groups
	sealed   bool

	// Of a sealed segment, once the sweep comes to it:
	plan  *query.Plan  // by its search index; nil without one
	index *index.Index // without one, times and levels of groups, if they can decide anything
	only  []uint64     // groups to look at, where whole says that the others are counted
	whole bool
}

// stretches are the segments that hold the selection's entries, in its order.
func (l *Log) stretches(s *selection) (out []stretch) {
	first, n := s.groups()
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, seg := range l.segments {
		from, to := max(first, seg.first/tree.GroupSize), first+n
		if seg.kind != open {
			to = min(to, seg.end/tree.GroupSize)
		}
		if from < to {
			out = append(out, stretch{first: from, n: to - from, sealed: seg.kind == archived})
		}
	}
	if s.newest {
		slices.Reverse(out)
	}
	return out
}

// plan returns the groups to read, one after the other: those that no index rules out, or of a count, answers for.
func (l *Log) plan(s *selection) func() (k uint64, ok bool) {
	p := planner{l: l, s: s, bounds: boundsOf(s.parsed.Root), rest: l.stretches(s)}
	s.explainPlan(p.rest)
	return p.next
}

// A planner goes through the groups of a selection.
type planner struct {
	l      *Log
	s      *selection
	bounds bounds
	rest   []stretch
	now    stretch
	i      uint64 // of the groups of now
}

func (p *planner) next() (k uint64, ok bool) {
	for {
		if p.i == p.now.n {
			if len(p.rest) == 0 {
				return 0, false
			}
			p.i, p.now, p.rest = 0, p.rest[0], p.rest[1:]
			if p.now.sealed && !p.s.q.Verified && (!p.s.all || p.s.counting != nil) {
				p.begin()
			}
		}
		k := p.now.first + p.i
		if p.s.newest {
			k = p.now.first + p.now.n - 1 - p.i
		}
		p.i++
		if !p.skip(k) {
			return k, true
		}
		p.s.skipped++
	}
}

// begin opens the indexes of the segment that the planner came to.
func (p *planner) begin() {
	if x := p.l.searchIndex(p.now.first); x != nil {
		var err error
		p.now.plan, err = query.NewPlan(p.s.parsed.Root, x, p.s.low, p.s.high)
		if err == nil && p.s.counting != nil {
			err = p.s.counting.begin(p)
		}
		if err == nil {
			return
		}
		p.damaged(err)
		return
	}
	p.without()
}

// damaged goes on without a search index that proved damaged. What it has answered so far came from pages that were checked.
func (p *planner) damaged(err error) {
	p.l.dropSearch(p.now.first, err)
	p.now.plan, p.now.only, p.now.whole = nil, nil, false
	p.without()
}

func (p *planner) without() {
	p.s.withoutIndex++
	if !p.bounds.none {
		p.now.index = p.l.indexFor(p.now.first)
	}
}

// skip says whether group k need not be read.
func (p *planner) skip(k uint64) bool {
	at := &p.now
	switch {
	case at.whole:
		_, wanted := slices.BinarySearch(at.only, k)
		return !wanted
	case at.plan == nil:
		return at.index != nil && !p.bounds.may(&at.index.Groups[k-at.index.First/tree.GroupSize])
	case !at.plan.In(k):
		return true
	case p.s.counting != nil:
		answered, err := p.s.counting.group(p, k)
		if err != nil {
			p.damaged(err)
			return p.skip(k)
		}
		return answered
	}
	may, err := at.plan.May(k)
	if err != nil {
		p.damaged(err)
		return p.skip(k)
	}
	return !may
}

// An indexCount is what indexes answer of a count. Its owner is the planner until the sweep ends.
type indexCount struct {
	n       uint64
	levels  *[NumLevels]uint64 // by level
	field   *query.Field       // by this field's values
	values  map[string]uint64
	missing uint64
	width   int64 // by time, in stretches of this width
	times   map[int64]uint64
}

// begin counts a segment as a whole where that is cheaper than group by group.
func (c *indexCount) begin(p *planner) (err error) {
	var n uint64
	switch {
	case c.field != nil || c.width > 0:
		return nil
	case c.levels == nil:
		n, p.now.only, err = p.now.plan.Total()
	default:
		var levels [NumLevels]uint64
		if levels, p.now.only, err = p.now.plan.Levels(); err == nil {
			for i, v := range levels {
				c.levels[i] += v
				n += v
			}
		}
	}
	if err != nil {
		return err
	}
	c.n += n
	p.now.whole = true
	return nil
}

// group counts group k, unless it is to be read.
func (c *indexCount) group(p *planner, k uint64) (answered bool, err error) {
	plan := p.now.plan
	yes, sure, err := plan.Select(k)
	if err != nil || !sure {
		return false, err
	}
	n := uint64(yes.Len())
	switch {
	case n == 0:
	case c.field != nil:
		missing, ok, err := plan.AddValues(k, yes, *c.field, c.values)
		if err != nil || !ok {
			return false, err
		}
		c.missing += missing
	case c.width > 0:
		low, high, err := plan.Times(k)
		if err != nil || low-low%c.width != high-high%c.width {
			return false, err
		}
		c.times[low-low%c.width] += n
	}
	c.n += n
	return true, nil
}

// bounds are what every entry of an answer has.
type bounds struct {
	none         bool  // nothing is known of them
	since, until int64 // Unix nanoseconds, at or after and before
	levels       []Level
}

func boundsOf(root query.Node) bounds {
	b := bounds{since: math.MinInt64, until: math.MaxInt64}
	b.add(root)
	b.none = b.levels == nil && b.since == math.MinInt64 && b.until == math.MaxInt64
	return b
}

func (b *bounds) add(n query.Node) {
	switch n := n.(type) {
	case query.And:
		for _, sub := range n.Nodes {
			b.add(sub)
		}
	case query.Since:
		b.since = max(b.since, clampNano(n.At.From))
	case query.Until:
		b.until = min(b.until, clampNano(n.At.From))
	case query.Equal:
		if v, err := entry.ParseLevel(n.Text); err == nil && n.Field.Root == query.Level {
			b.levels = append(b.levels, v)
		}
	}
}

// may says whether entries of the group can be within the bounds.
func (b *bounds) may(g *index.Group) bool {
	return g.TimeMax >= b.since && g.TimeMin < b.until && !slices.ContainsFunc(b.levels, func(v Level) bool { return g.Levels[v] == 0 })
}
