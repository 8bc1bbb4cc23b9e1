package immutable

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// maxSweepers bounds how many groups are looked at at once, and so the memory of a search: each holds a group and what it
// found in it, and twice as many results may wait for the caller.
const maxSweepers = 8

// A sweeper is one goroutine's part in a search.
type sweeper struct {
	group   group
	offsets []int          // where each line begins in group.buf
	matcher *query.Matcher // nil where every entry is selected
	tally   tally

	// Of counts, for one group at a time.
	fields  query.Matcher
	counted map[string]uint64
	missing uint64
	times   map[int64]uint64
}

// tally counts what a search did.
type tally struct {
	Read    uint64 // groups
	Entries uint64 // in them
	Matches uint64
}

func (t *tally) add(o tally) {
	t.Read += o.Read
	t.Entries += o.Entries
	t.Matches += o.Matches
}

// task is one group on its way through a sweep.
type task[R any] struct {
	k    uint64
	done chan struct{}
	r    R
	err  error
}

// sweep reads the groups that may have what s selects, proves them, has work look at each in parallel, and gives the
// results to take in the order of the selection, until take returns false. When it returns nothing of it goes on.
func sweep[R any](ctx context.Context, l *Log, s *selection, work func(*sweeper) (R, error), take func(R) bool) error {
	next := l.plan(s)
	w := s.newSweeper()
	defer func() { s.tally.add(w.tally) }()
	// The first groups are looked at here: most searches for the newest entries need no more.
	for range 2 {
		k, ok := next()
		if !ok {
			return nil
		}
		r, err := look(ctx, l, s, w, k, work)
		if err != nil {
			return err
		}
		s.progress(k)
		if !take(r) {
			return nil
		}
	}
	workers := min(runtime.GOMAXPROCS(0), maxSweepers)
	inner, cancel := context.WithCancel(ctx)
	order, tasks := make(chan *task[R], 2*workers), make(chan *task[R])
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		defer close(order)
		defer close(tasks)
		for k, ok := next(); ok; k, ok = next() {
			t := &task[R]{k: k, done: make(chan struct{})}
			select {
			case order <- t:
			case <-inner.Done():
				return
			}
			select {
			case tasks <- t:
			case <-inner.Done():
				return
			}
		}
	})
	var mu sync.Mutex // guards s.tally
	for range workers {
		running.Go(func() {
			w := s.newSweeper()
			for t := range tasks {
				t.r, t.err = look(inner, l, s, w, t.k, work)
				close(t.done)
			}
			mu.Lock()
			defer mu.Unlock()
			s.tally.add(w.tally)
		})
	}
	for t := range order {
		select {
		case <-t.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if t.err != nil {
			return t.err
		}
		s.progress(t.k)
		if !take(t.r) {
			return nil
		}
	}
	return nil
}

func (s *selection) newSweeper() *sweeper {
	w := &sweeper{}
	if !s.all {
		w.matcher = query.NewMatcher(s.parsed)
	}
	return w
}

// look reads and proves a group and has work look at it.
func look[R any](ctx context.Context, l *Log, s *selection, w *sweeper, k uint64, work func(*sweeper) (R, error)) (r R, err error) {
	if err := l.readGroup(ctx, k, &s.at, &w.group); err != nil {
		return r, err
	}
	w.offsets = w.offsets[:0]
	from := 0
	for _, line := range w.group.lines {
		w.offsets = append(w.offsets, from)
		from += len(line) + 1
	}
	w.group.buf = w.group.buf[:from] // a group that grew since holds lines beyond the state
	w.tally.Read++
	w.tally.Entries += uint64(len(w.group.lines))
	return work(w)
}

// Explain says how a search or count came to its answer.
type Explain struct {
	Query         string        // canonical spelling, with what the Query's other fields say
	Segments      int           // that were considered, the open one among them
	WithoutIndex  int           // of these, sealed segments whose index is missing, damaged or of another version
	Groups        uint64        // of up to 256 entries, in the range that was asked for
	GroupsSkipped uint64        // that the indexes ruled out, or answered for
	GroupsRead    uint64        // that were read and hashed; more may have been skipped or never come to
	Entries       uint64        // in the groups that were read
	Matches       uint64        // found in them
	FromIndex     uint64        // entries counted in signed indexes
	Elapsed       time.Duration // until the answer, or until the caller stopped
	Notes         []string      // what made it slower, and what to do about it
}

// explainEnd fills in the caller's Explain.
func (s *selection) explainEnd() {
	x := s.q.Explain
	if x == nil {
		return
	}
	*x = Explain{Query: s.parsed.String(), Segments: s.segments}
	_, x.Groups = s.groups()
	x.GroupsSkipped, x.GroupsRead, x.Entries, x.Matches = s.skipped, s.tally.Read, s.tally.Entries, s.tally.Matches
	x.Elapsed = time.Since(s.started)
	if x.WithoutIndex = s.withoutIndex; x.WithoutIndex > 0 {
		x.Notes = append(x.Notes, fmt.Sprintf("no index that fits its signed seal for %d of %d sealed segments: their entries were all read; `immutable rebuild` makes indexes again", x.WithoutIndex, s.sealed))
	}
}

// explainPlan remembers what there is to search.
func (s *selection) explainPlan(stretches []stretch) {
	for i := range stretches {
		if stretches[i].sealed {
			s.sealed++
		}
	}
	s.segments = len(stretches)
}

// progress tells the caller how far the search is: it came to group k.
func (s *selection) progress(k uint64) {
	if s.q.Progress == nil {
		return
	}
	first, n := s.groups()
	done := k - first + 1
	if s.newest {
		done = first + n - k
	}
	s.q.Progress(Progress{Entries: min(done*tree.GroupSize, s.high-s.low), TotalEntries: s.high - s.low})
}

// stretch is the part of a segment that a selection looks at.
type stretch struct {
	first, n uint64 // groups
	sealed   bool
	index    *index.Index // of a sealed segment, once the sweep comes to it and if the index can decide anything
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

// plan returns the groups to read, one after the other: those that no index rules out.
func (l *Log) plan(s *selection) func() (k uint64, ok bool) {
	b := boundsOf(s.parsed.Root)
	stretches := l.stretches(s)
	s.explainPlan(stretches)
	i, at := uint64(0), stretch{}
	return func() (uint64, bool) {
		for {
			if i == at.n {
				if len(stretches) == 0 {
					return 0, false
				}
				i, at, stretches = 0, stretches[0], stretches[1:]
				if at.sealed && !s.q.Verified && !b.none {
					if at.index = l.indexFor(at.first); at.index == nil {
						s.withoutIndex++
					}
				}
			}
			k := at.first + i
			if s.newest {
				k = at.first + at.n - 1 - i
			}
			i++
			if at.index == nil || b.may(&at.index.Groups[k-at.index.First/tree.GroupSize]) {
				return k, true
			}
			s.skipped++
		}
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
