package immutable

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
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
	l       *Log
	group   group
	offsets []int          // where each line begins in group.buf
	matcher *query.Matcher // nil where every entry is selected
	tally   tally

	// Of entries, for one group at a time.
	hits  []int // the selected ones, by their place in group
	line  entry.Line
	hosts map[string]string // host names by their spelling

	filters *index.FilterMaker // of groups that are remembered

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
	choice
	claimed atomic.Bool   // by whoever looks at it
	done    chan struct{} // closed when r and err are there
	r       R
	err     error
}

// sweep reads the groups that may have what s selects, proves them, has work look at each in parallel, and gives the
// results to take in the order of the selection, until take returns false. When it returns nothing of it goes on.
func sweep[R any](ctx context.Context, l *Log, s *selection, work func(*sweeper) (R, error), take func(R) bool) error {
	l.searches.Add(1)
	plan := l.plan(ctx, s)
	inner, cancel := context.WithCancel(ctx)
	workers := min(runtime.GOMAXPROCS(0), maxSweepers)
	tasks := make(chan *task[R], 4*workers)
	var running sync.WaitGroup
	defer running.Wait()
	defer close(tasks)
	defer cancel()
	own := l.newSweeper(s)
	defer l.endSweeper(own, s)
	var queue []*task[R] // in the order of the selection
	helpers, promised := 0, 0
	for {
		for len(queue) < 2*workers && !s.enough(promised) {
			c, ok := plan.next()
			if !ok {
				break
			}
			t := &task[R]{choice: c, done: make(chan struct{})}
			promised += c.sure
			if queue = append(queue, t); len(queue) == 1 {
				continue // for this goroutine
			}
			select {
			case tasks <- t:
			default: // for this goroutine, too
			}
			if helpers < min(workers, len(queue))-1 {
				helpers++
				running.Go(func() { help(inner, l, s, tasks, work) })
			}
		}
		if len(queue) == 0 {
			return context.Cause(ctx)
		}
		// While somebody else looks at the first group, this goroutine looks at others.
		for _, t := range queue {
			if isDone(queue[0].done) {
				break
			}
			t.look(ctx, l, s, own, work)
		}
		t := queue[0]
		queue = queue[1:]
		promised -= t.sure
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
}

// help looks at groups that nobody looks at.
func help[R any](ctx context.Context, l *Log, s *selection, tasks <-chan *task[R], work func(*sweeper) (R, error)) {
	w := l.newSweeper(s)
	defer l.endSweeper(w, s)
	for t := range tasks {
		t.look(ctx, l, s, w, work)
	}
}

// look looks at the group, unless somebody has or does.
func (t *task[R]) look(ctx context.Context, l *Log, s *selection, w *sweeper, work func(*sweeper) (R, error)) {
	if t.claimed.CompareAndSwap(false, true) {
		t.r, t.err = look(ctx, l, s, w, &t.choice, work)
		close(t.done)
	}
}

func isDone(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// enough says whether the groups under way have so many entries for sure that no further group need be begun.
func (s *selection) enough(promised int) bool {
	return s.q.Limit > 0 && s.taken+promised >= s.q.Limit
}

func (l *Log) newSweeper(s *selection) *sweeper {
	w, _ := l.sweepers.Get().(*sweeper)
	if w == nil {
		w = &sweeper{l: l}
	}
	if !s.all {
		w.matcher = query.NewMatcher(s.parsed)
	}
	return w
}

// keptGroup bounds the buffer that is kept for the next search; groups of very long lines have larger ones.
const keptGroup = 1 << 20

// endSweeper adds what a sweeper counted, and keeps its buffers for the next.
func (l *Log) endSweeper(w *sweeper, s *selection) {
	s.tallyMu.Lock()
	s.tally.add(w.tally)
	s.tallyMu.Unlock()
	if cap(w.group.buf) <= keptGroup {
		l.sweepers.Put(&sweeper{l: l, group: w.group, offsets: w.offsets, hits: w.hits, filters: w.filters})
	}
}

// look reads and proves a group and has work look at it.
func look[R any](ctx context.Context, l *Log, s *selection, w *sweeper, c *choice, work func(*sweeper) (R, error)) (r R, err error) {
	if err := l.searchGroup(ctx, c.k, &s.at, &w.group, s.q.Verified); err != nil {
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
	if c.seg != nil {
		l.remember(c.seg, w)
	}
	return work(w)
}

// Explain says how a search or count came to its answer.
type Explain struct {
	Query         string        // canonical spelling, with what the Query's other fields say
	Segments      int           // that were considered, the open one among them
	WithoutIndex  int           // of these, sealed segments whose index is missing, damaged or of another version
	Groups        uint64        // of up to 256 entries, in the range that was asked for
	GroupsSkipped uint64        // that the indexes ruled out, or answered for
	GroupsKnown   uint64        // of segments without an index: that this process read and proved before, and remembers enough of
	GroupsRead    uint64        // that were read and hashed; more may have been skipped or never come to
	Entries       uint64        // in the groups that were read
	Matches       uint64        // found in them
	FromIndex     uint64        // entries counted in signed indexes
	Retired       uint64        // entries in the range that are retired: they were not looked at, and are not in Groups
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
	x.GroupsKnown, x.FromIndex = s.recalled, s.fromIndex
	x.Elapsed = time.Since(s.started)
	if x.Retired = s.retired; x.Retired > 0 {
		x.Notes = append(x.Notes, fmt.Sprintf("%d entries, those below %d, are retired and were not looked at; `immutable retire --list` says where they went", x.Retired, s.retiredEnd))
	}
	if x.WithoutIndex = s.withoutIndex; x.WithoutIndex > 0 {
		x.Notes = append(x.Notes, fmt.Sprintf("no index that fits its signed seal for %d of %d sealed segments: their entries were all read; `immutable rebuild` makes indexes again", x.WithoutIndex, s.sealed))
	}
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
