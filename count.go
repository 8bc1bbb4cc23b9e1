package immutable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/query"
)

// A Count is how many entries a query selects.
type Count struct {
	N uint64
	// Sealed says that signed indexes had a part in the number: they counted entries, or ruled some out. Otherwise every
	// entry in question was read and proven.
	Sealed bool
	// Retired is how many entries in the range are retired: they were not looked at, and N says nothing of them.
	Retired uint64
}

// Source is "sealed" or "verified".
func (c Count) Source() string {
	if c.Sealed {
		return "sealed"
	}
	return "verified"
}

// Counts are how many entries a query selects for each value of a field.
type Counts struct {
	By      string // the field's canonical name
	Rows    []CountRow
	Missing uint64 // entries without a value: no such field, null, or an object
	Count          // entries in all; one with several values in an array is in several rows
}

// CountRow is one value, as it is in the entries, and how many of them have it.
type CountRow struct {
	Value string
	N     uint64
}

// Histogram is how many entries a query selects in each stretch of time.
type Histogram struct {
	Width   time.Duration
	Buckets []Bucket // oldest first; only those with entries
	Count            // in all of them
}

// Bucket is a stretch of time from Start on. Starts are whole multiples of the width since 1970, in UTC.
type Bucket struct {
	Start time.Time
	N     uint64
}

// ErrTooMany is wrapped where a count would have to keep too many values, or stretches of time.
var ErrTooMany = errors.New("too many to count")

// Limits of what a count keeps in memory.
const (
	maxCountValues = 1 << 20   // different values, or stretches of time
	maxCountBytes  = 128 << 20 // of the values
	minBucket      = time.Millisecond
)

// Count counts the entries that the query selects; its Limit does not count. With an error the count is of what was read
// before it.
func (l *Log) Count(ctx context.Context, q Query) (c Count, err error) {
	err = l.count(ctx, &q, &c, &indexCount{}, func(*sweeper, int, uint64) error { return nil }, nil)
	return c, err
}

// CountBy counts the entries that the query selects for each value of a field, named as in a query: level, hostname, ip,
// user.name. The most frequent come first.
func (l *Log) CountBy(ctx context.Context, q Query, by string) (c Counts, err error) {
	field, err := query.ParseField(by)
	if err != nil {
		return c, err
	}
	c.By = field.String()
	values := func(w *sweeper, i int, at uint64) error {
		if level, ok := levelAt(w, i); ok && field.Root == query.Level {
			w.counted[level.String()]++
			return nil
		}
		none := true
		err := w.fields.Values(w.group.lines[i], at, field, func(text []byte) {
			none = false
			w.counted[string(text)]++
		})
		if none {
			w.missing++
		}
		return err
	}
	total, bytes := map[string]uint64{}, 0
	from := &indexCount{field: &field, segmentCount: segmentCount{values: map[string]uint64{}}}
	if field.Root == query.Level {
		from = &indexCount{byLevel: true}
	}
	err = l.count(ctx, &q, &c.Count, from, values, func(p *part) error {
		c.Missing += p.missing
		for v, n := range p.values {
			if _, known := total[v]; !known {
				if bytes += len(v); len(total) == maxCountValues || bytes > maxCountBytes {
					return tooManyValues(c.By)
				}
			}
			total[v] += n
		}
		return nil
	})
	c.Missing += from.missing
	for v, n := range from.values {
		total[v] += n
	}
	if len(total) > maxCountValues && err == nil {
		err = tooManyValues(c.By)
	}
	for v, n := range from.levels {
		if n > 0 {
			total[Level(v).String()] += n
		}
	}
	for v, n := range total {
		c.Rows = append(c.Rows, CountRow{v, n})
	}
	slices.SortFunc(c.Rows, func(a, b CountRow) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Value, b.Value)) })
	return c, err
}

func tooManyValues(by string) error {
	return fmt.Errorf("%w: by %s there are more than %d different values or %d bytes of them; narrow the query", ErrTooMany, by, maxCountValues, maxCountBytes)
}

func levelAt(w *sweeper, i int) (Level, bool) {
	_, level, ok := entry.Peek(w.group.lines[i])
	return level, ok
}

// Histogram counts the entries that the query selects in stretches of time of the given width, at least a millisecond, by
// their timestamps.
func (l *Log) Histogram(ctx context.Context, q Query, width time.Duration) (h Histogram, err error) {
	if width < minBucket {
		return h, fmt.Errorf("histogram: a width of %s; at least %s", width, minBucket)
	}
	h.Width = width
	stretch := func(w *sweeper, i int, at uint64) error {
		t, _, ok := entry.Peek(w.group.lines[i])
		if !ok {
			return fmt.Errorf("entry %d has no timestamp where it belongs", at)
		}
		w.times[t-t%int64(width)]++
		return nil
	}
	total := map[int64]uint64{}
	from := &indexCount{width: int64(width), segmentCount: segmentCount{times: map[int64]uint64{}}}
	err = l.count(ctx, &q, &h.Count, from, stretch, func(p *part) error {
		for start, n := range p.times {
			if _, known := total[start]; !known && len(total) == maxCountValues {
				return fmt.Errorf("%w: more than %d stretches of %s have entries; narrow the query or widen them", ErrTooMany, maxCountValues, width)
			}
			total[start] += n
		}
		return nil
	})
	for start, n := range from.times {
		total[start] += n
	}
	for start, n := range total {
		h.Buckets = append(h.Buckets, Bucket{timeOf(start), n})
	}
	slices.SortFunc(h.Buckets, func(a, b Bucket) int { return a.Start.Compare(b.Start) })
	return h, err
}

// part is what was counted in one group.
type part struct {
	n       uint64
	values  map[string]uint64
	missing uint64
	times   map[int64]uint64
}

// count calls each for every selected entry, in parallel, and add with what was counted in each group, one after the other; of
// groups that indexes answer for, from has the count.
func (l *Log) count(ctx context.Context, q *Query, c *Count, from *indexCount, each func(w *sweeper, i int, at uint64) error, add func(*part) error) error {
	unlimited := *q
	unlimited.Limit = 0
	s, err := l.selectNow(&unlimited, !q.Reverse)
	if err != nil {
		return err
	}
	defer s.explainEnd()
	s.counting, c.Retired = from, s.retired
	var failed error
	err = sweep(ctx, l, s, func(w *sweeper) (*part, error) {
		w.counted, w.times, w.missing = map[string]uint64{}, map[int64]uint64{}, 0
		p := &part{}
		err := s.matches(w, func(i int, at uint64) (bool, error) {
			p.n++
			return true, each(w, i, at)
		})
		w.tally.Matches += p.n
		p.values, p.times, p.missing = w.counted, w.times, w.missing
		return p, err
	}, func(p *part) bool {
		c.N += p.n
		if add != nil {
			failed = add(p)
		}
		return failed == nil
	})
	c.N += from.n
	s.fromIndex = from.n - s.recalledEntries
	c.Sealed = s.skipped > 0
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	}
	return l.readableEnd(s, 0)
}
