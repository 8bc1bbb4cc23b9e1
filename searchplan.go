package immutable

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// stretch is the part of a segment that a selection looks at.
type stretch struct {
	first, n uint64 // groups
	sealed   bool
	seg      *segmentFile

	begun  bool         // what follows is there
	listed bool         // only the groups in groups are to be looked at, in ascending order
	groups []uint64     // of them those that no index rules out, or of a count, answers for
	plan   *query.Plan  // of a search, by the segment's search index; nil without one
	index  *index.Index // without one, times and levels of groups, if they can decide anything
	counts segmentCount
	failed error // why its search index is not used: it proved damaged
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
			out = append(out, stretch{first: from, n: to - from, sealed: seg.kind == archived, seg: seg})
		}
	}
	if s.newest {
		slices.Reverse(out)
	}
	return out
}

// plan finds the groups to read: those that no index rules out, or of a count, answers for.
func (l *Log) plan(ctx context.Context, s *selection) *planner {
	p := &planner{ctx: ctx, l: l, s: s, bounds: boundsOf(s.parsed.Root), rest: l.stretches(s)}
	s.segments = len(p.rest)
	for i := range p.rest {
		if p.rest[i].sealed {
			s.sealed++
		}
	}
	return p
}

// A planner goes through the groups of a selection.
type planner struct {
	ctx    context.Context
	l      *Log
	s      *selection
	bounds bounds
	rest   []stretch
	now    stretch
	i      uint64 // of the groups of now
}

// A choice is a group to read.
type choice struct {
	k    uint64
	sure int          // entries of it that are selected for sure, as far as an index says
	seg  *segmentFile // of a segment that is not sealed
}

// next is the next group to read.
func (p *planner) next() (c choice, ok bool) {
	for {
		at := &p.now
		n := at.n
		if at.listed {
			n = uint64(len(at.groups))
		}
		if p.i == n {
			if len(p.rest) == 0 || p.ctx.Err() != nil {
				return c, false
			}
			p.enter()
			continue
		}
		i := p.i
		if p.s.newest {
			i = n - 1 - i
		}
		p.i++
		if c.k = at.first + i; at.listed {
			c.k = at.groups[i]
		}
		if !at.sealed {
			c.seg = at.seg
			if p.s.q.Verified || p.recall(c.k) {
				return c, true
			}
			p.s.recalled++
			continue
		}
		if c.sure, ok = p.read(c.k); ok {
			return c, true
		}
		p.s.skipped++
	}
}

// enter goes on to the next segment.
func (p *planner) enter() {
	if p.usesIndex(&p.rest[0]) && !p.rest[0].begun {
		p.begin()
	}
	p.i, p.now, p.rest = 0, p.rest[0], p.rest[1:]
	if p.now.failed != nil {
		p.damaged(p.now.failed)
		return
	}
	if p.now.listed {
		p.s.skipped += p.now.n - uint64(len(p.now.groups))
	}
	if p.s.counting != nil {
		p.s.counting.add(&p.now.counts)
	}
	if p.usesIndex(&p.now) && !p.now.listed {
		p.without()
	}
}

func (p *planner) usesIndex(at *stretch) bool {
	return at.sealed && !p.s.q.Verified && (!p.s.all || p.s.counting != nil)
}

const (
	worthGoroutines = 100 * time.Microsecond // that one segment has to take before others are asked beside each other
	asksAhead       = 16                     // segments whose plans a search holds at most
)

// begin asks the index of the next segment. Where that takes long, since there is much to count or the disk to wait for, it asks others as
// well, in parallel: of a count all of them, of a search that wants everything the next ones.
func (p *planner) begin() {
	began := time.Now()
	p.ask(&p.rest[0])
	n := len(p.rest)
	if p.s.counting == nil {
		n = min(n, asksAhead)
	}
	if p.s.q.Limit > 0 || time.Since(began) < worthGoroutines {
		return
	}
	var running sync.WaitGroup
	var last atomic.Int64
	for range min(maxSweepers, n-1) {
		running.Go(func() {
			for {
				i := last.Add(1)
				if i >= int64(n) || p.ctx.Err() != nil {
					return
				}
				if at := &p.rest[i]; p.usesIndex(at) && !at.begun {
					p.ask(at)
				}
			}
		})
	}
	running.Wait()
}

// ask asks a segment's search index. It changes nothing but the stretch.
func (p *planner) ask(at *stretch) {
	at.begun = true
	x := p.l.searchIndex(at.first)
	if x == nil {
		return
	}
	plan, err := query.NewPlan(p.s.parsed.Root, x, p.s.low, p.s.high)
	if err == nil {
		if p.s.counting == nil {
			at.plan, at.groups = plan, plan.Groups()
		} else {
			at.groups, err = at.counts.count(p.s.counting, plan)
		}
	}
	if at.listed = err == nil; !at.listed {
		at.failed, at.plan, at.groups, at.counts = err, nil, nil, segmentCount{}
	}
}

// damaged goes on without a search index that proved damaged. What it has answered so far came from pages that were checked.
func (p *planner) damaged(err error) {
	p.l.dropSearch(p.now.first, err)
	if p.now.listed { // those that were not listed were ruled out before
		p.now.plan = nil
	}
	p.without()
}

func (p *planner) without() {
	p.s.withoutIndex++
	if !p.bounds.none {
		p.now.index = p.l.indexFor(p.now.first)
	}
}

// read says whether group k is to be read, and how many of its entries are selected for sure.
func (p *planner) read(k uint64) (sure int, ok bool) {
	switch at := &p.now; {
	case at.plan != nil:
		sure, may, err := at.plan.Look(k)
		if err != nil {
			p.damaged(err)
			return p.read(k)
		}
		return sure, may
	case at.index != nil:
		return 0, p.bounds.may(&at.index.Groups[k-at.index.First/tree.GroupSize])
	}
	return 0, true
}

// An indexCount says what is counted, and what indexes answered of it. Its owner is the planner until the sweep ends.
type indexCount struct {
	byLevel bool
	field   *query.Field // by this field's values
	width   int64        // by time, in stretches of this width

	segmentCount // levels are of no use unless byLevel
}

// A segmentCount is what an index answers of a count.
type segmentCount struct {
	n       uint64
	levels  [NumLevels]uint64
	values  map[string]uint64
	missing uint64
	times   map[int64]uint64
}

// count asks a plan. It returns the groups of which the index does not know: they are to be read.
func (c *segmentCount) count(what *indexCount, plan *query.Plan) (unsure []uint64, err error) {
	switch {
	case what.byLevel:
		c.levels, unsure, err = plan.Levels()
		for _, n := range c.levels {
			c.n += n
		}
	case what.field != nil:
		c.values = map[string]uint64{}
		c.n, c.missing, unsure, err = plan.Values(*what.field, c.values)
	case what.width > 0:
		c.times = map[int64]uint64{}
		c.n, unsure, err = plan.Buckets(what.width, c.times)
	default:
		c.n, unsure, err = plan.Total()
	}
	return unsure, err
}

func (c *segmentCount) add(o *segmentCount) {
	c.n += o.n
	c.missing += o.missing
	for i, n := range o.levels {
		c.levels[i] += n
	}
	for v, n := range o.values {
		c.values[v] += n
	}
	for at, n := range o.times {
		c.times[at] += n
	}
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
