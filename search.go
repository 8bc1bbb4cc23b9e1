package immutable

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/tree"
)

// QueryError is a mistake in a Query's Text: Offset is in bytes, and Caret shows the place.
type QueryError = query.Error

// Search returns the committed entries that the query selects, as of the moment of the call, the newest first; with
// Reverse the oldest first. Each was hashed again and proven against the committed tree; where this Log has proven its group of
// entries before, the group's bytes were hashed, and are those that it proved. That none was left out stands on
// signed indexes, where there are any; with Verified every entry is looked at. Segments are read in parallel, and nothing
// goes on when the caller stops or ctx ends. An error ends the entries: what came before it is proven. A mistake in Text or
// Cursor is the first error.
func (l *Log) Search(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		s, err := l.selectNow(&q, !q.Reverse)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		l.serve(ctx, s, yield)
	}
}

// serve gives a selection's entries to a caller.
func (l *Log) serve(ctx context.Context, s *selection, yield func(Entry, error) bool) {
	defer s.explainEnd()
	n, enough := 0, false
	err := sweep(ctx, l, s, s.entriesOf, func(found []Entry) bool {
		for i := range found {
			n++
			s.taken = n
			if enough = !yield(found[i], nil); enough || n == s.q.Limit {
				return false
			}
		}
		l.keepFound(found)
		return true
	})
	if err == nil {
		err = l.readableEnd(s, n)
	}
	if err != nil && !enough {
		yield(Entry{}, err)
	}
}

// A selection is a query made ready for one state of the log.
type selection struct {
	q       Query
	parsed  *query.Query // Text, Levels, Since and Until together
	newest  bool         // newest first
	all     bool         // it selects every entry
	at      edge
	low     uint64 // first index to look at
	high    uint64 // index after the last; not above low: nothing
	started time.Time

	retired    uint64 // entries before low that would be looked at, were they not retired
	retiredEnd uint64 // the index after the last entry that is

	// Owned by plan.
	segments, sealed, withoutIndex int
	skipped                        uint64      // groups that indexes ruled out or answered for
	recalled, recalledEntries      uint64      // groups of which enough was remembered, and entries that were counted so
	fromIndex                      uint64      // entries that indexes counted
	counting                       *indexCount // of a count: what indexes answer; nil where every entry is wanted

	taken int // entries that the caller has; owned by the sweep

	tallyMu sync.Mutex // guards tally
	tally   tally
}

// selectNow prepares a query for the committed state.
func (l *Log) selectNow(q *Query, newest bool) (*selection, error) {
	s, err := l.selection(q, newest)
	if err != nil {
		return nil, err
	}
	if err := l.refresh(); err != nil {
		return nil, err
	}
	if s.at, err = l.committed(); err != nil {
		return nil, err
	}
	if err := s.bound(); err != nil {
		return nil, err
	}
	return s, s.leaveRetired(context.Background(), l)
}

// leaveRetired takes the retired entries out of the range, and remembers how many those are. Where the selection begins among
// them, they are what was asked for.
func (s *selection) leaveRetired(ctx context.Context, l *Log) error {
	end := l.retiredEnd()
	if s.low >= end || s.high <= s.low {
		return nil
	}
	asked := s.low
	if s.newest && s.q.Cursor == "" && s.q.From < end {
		asked = s.q.From
	}
	if asked > 0 {
		return l.whereRetired(ctx, &RetiredError{First: asked, End: end, Entry: -1})
	}
	s.retired, s.retiredEnd = min(end, s.high)-s.low, end
	s.low = min(end, s.high)
	return nil
}

// selection parses a query.
func (l *Log) selection(q *Query, newest bool) (*selection, error) {
	s := &selection{q: *q, newest: newest, started: time.Now()}
	if q.Now.IsZero() {
		s.q.Now = l.cfg.now()
	}
	if q.Cursor != "" {
		c, err := parseCursor(q.Cursor)
		if err != nil {
			return nil, err
		}
		s.q.Now = c.now
	}
	var err error
	if s.parsed, err = query.Parse(q.Text, s.q.Now); err != nil {
		return nil, err
	}
	s.restrict()
	_, s.all = s.parsed.Root.(query.All)
	return s, nil
}

// restrict adds what the query says apart from its text.
func (s *selection) restrict() {
	var nodes []query.Node
	switch n := s.parsed.Root.(type) {
	case query.All:
	case query.And:
		nodes = append(nodes, n.Nodes...)
	default:
		nodes = append(nodes, n)
	}
	var levels []query.Node
	for _, v := range s.q.Levels {
		levels = append(levels, query.Equal{Field: query.Field{Root: query.Level}, Text: index.Fold(v.String())})
	}
	if len(levels) == 1 {
		nodes = append(nodes, levels[0])
	} else if len(levels) > 1 {
		nodes = append(nodes, query.Or{Nodes: levels})
	}
	moment := func(t time.Time) query.Operand {
		return query.Operand{IsTime: true, From: t, To: t, Text: t.UTC().Format(time.RFC3339Nano)}
	}
	if !s.q.Since.IsZero() {
		nodes = append(nodes, query.Since{At: moment(s.q.Since)})
	}
	if !s.q.Until.IsZero() {
		nodes = append(nodes, query.Until{At: moment(s.q.Until)})
	}
	switch len(nodes) {
	case 0:
		s.parsed.Root = query.All{}
	case 1:
		s.parsed.Root = nodes[0]
	default:
		s.parsed.Root = query.And{Nodes: nodes}
	}
}

// bound finds the range of indexes to look at.
func (s *selection) bound() error {
	s.low, s.high = 0, s.at.size()
	if s.newest {
		if s.q.From > 0 && s.q.From < s.high {
			s.high = s.q.From + 1
		}
	} else {
		s.low = s.q.From
	}
	if s.q.Cursor == "" {
		return nil
	}
	c, err := parseCursor(s.q.Cursor)
	if err != nil {
		return err
	}
	if c.of != s.q.fingerprint(s.parsed) {
		return fmt.Errorf("%w: it is of another query; begin again without it", ErrCursor)
	}
	if s.newest {
		s.high = min(s.high, c.index)
	} else {
		s.low = max(s.low, c.index+1)
	}
	return nil
}

// A cursor says where a search goes on. Only the index and the query matter, so it stays good while the log grows and
// rotates.
type cursor struct {
	index uint64    // of the last entry that was returned
	now   time.Time // what relative times are before
	of    [8]byte   // fingerprint of the query
}

const cursorVersion = 1

// ErrCursor is wrapped where Query.Cursor cannot be used: nobody gave it, or it is of another query.
var ErrCursor = errors.New("the cursor cannot be used")

// CursorAfter is a Cursor for the same query to go on after e, which it returned. If the query has relative times, set Now,
// so that all its pages mean the same times.
func (q Query) CursorAfter(e Entry) (string, error) {
	if q.Now.IsZero() {
		q.Now = time.Now()
	}
	if q.Cursor != "" {
		c, err := parseCursor(q.Cursor)
		if err != nil {
			return "", err
		}
		q.Now = c.now
	}
	s := selection{q: q}
	var err error
	if s.parsed, err = query.Parse(q.Text, q.Now); err != nil {
		return "", err
	}
	s.restrict()
	of := q.fingerprint(s.parsed)
	data := binary.BigEndian.AppendUint64([]byte{cursorVersion}, e.Index)
	data = binary.BigEndian.AppendUint64(data, uint64(clampNano(q.Now)))
	return base64.RawURLEncoding.EncodeToString(append(data, of[:]...)), nil
}

func parseCursor(text string) (c cursor, err error) {
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(data) != 1+8+8+len(c.of) || data[0] != cursorVersion {
		return c, fmt.Errorf("%w: no search of this version gave it; begin again without it", ErrCursor)
	}
	c.index = binary.BigEndian.Uint64(data[1:])
	c.now = timeOf(int64(binary.BigEndian.Uint64(data[9:])))
	c.of = [8]byte(data[17:])
	return c, nil
}

// fingerprint tells queries apart, by their canonical spelling: relative times stay relative.
func (q *Query) fingerprint(parsed *query.Query) [8]byte {
	h := sha256.Sum256(fmt.Appendf(nil, "%s\n%d %t", parsed, q.From, q.Reverse))
	return [8]byte(h[:8])
}

// groups are the numbers of the groups to look at, in the order of the selection.
func (s *selection) groups() (first, n uint64) {
	if s.low >= s.high {
		return 0, 0
	}
	first = s.low / tree.GroupSize
	return first, (s.high-1)/tree.GroupSize - first + 1
}

// matches calls visit with each line of a proven group that is selected, in the order of the selection, until it
// returns false.
func (s *selection) matches(w *sweeper, visit func(i int, index uint64) (more bool, err error)) error {
	g := &w.group
	if !s.all && !w.matcher.Block(g.buf) {
		return nil
	}
	for n := range g.lines {
		i := n
		if s.newest {
			i = len(g.lines) - 1 - n
		}
		at := g.number*tree.GroupSize + uint64(i)
		if at < s.low || at >= s.high {
			continue
		}
		if !s.all {
			ok, err := w.matcher.Match(g.lines[i], w.offsets[i], at)
			if err != nil {
				return fmt.Errorf("entry %d: %w", at, err)
			}
			if !ok {
				continue
			}
		}
		if more, err := visit(i, at); err != nil || !more {
			return err
		}
	}
	return nil
}

// sharedLines bounds the memory that the lines of some entries share: whoever keeps one of them keeps so much.
const sharedLines = 8 << 10

// entriesOf are the selected entries of a group.
func (s *selection) entriesOf(w *sweeper) ([]Entry, error) {
	w.hits = w.hits[:0]
	size := 0
	if err := s.matches(w, func(i int, _ uint64) (bool, error) {
		w.hits = append(w.hits, i)
		size += len(w.group.lines[i])
		return len(w.hits) != s.q.Limit, nil
	}); err != nil {
		return nil, err
	}
	w.tally.Matches += uint64(len(w.hits))
	if len(w.hits) == 0 {
		return nil, nil
	}
	if w.hosts == nil {
		w.hosts = map[string]string{}
	}
	found := w.l.newFound(len(w.hits))
	var shared []byte
	for n, i := range w.hits {
		line := w.group.lines[i]
		if len(line) > cap(shared)-len(shared) {
			shared = make([]byte, 0, max(len(line), min(size, sharedLines)))
		}
		from := len(shared)
		shared = append(shared, line...)
		size -= len(line)
		own := shared[from:len(shared):len(shared)]
		if err := found[n].decode(w.group.number*tree.GroupSize+uint64(i), own, w.group.leaf(i, w.offsets[i]), &w.line, w.hosts); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// newFound has room for n entries of one group, in memory that a caller is done with if there is some.
func (l *Log) newFound(n int) []Entry {
	if f, _ := l.founds.Get().(*[]Entry); f != nil && cap(*f) >= n {
		return (*f)[:n]
	}
	return make([]Entry, n)
}

// keepFound takes back what newFound gave. Callers have copies.
func (l *Log) keepFound(found []Entry) {
	if len(found) > 0 {
		clear(found)
		l.founds.Put(&found)
	}
}

// A Filter is a parsed query text, for those who want to check it or to mark what it found.
type Filter struct{ q *query.Query }

// ParseFilter reads the query language of docs/search.md; relative times are before now. Every error is a *QueryError.
func ParseFilter(text string, now time.Time) (*Filter, error) {
	q, err := query.Parse(text, now)
	if err != nil {
		return nil, err
	}
	return &Filter{q}, nil
}

// String is the canonical spelling.
func (f *Filter) String() string { return f.q.String() }

// Marks are the parts of text, an entry's message or metadata as printed, that words, phrases, substrings and regular
// expressions of the query match: byte ranges in order, without overlaps. What stands behind NOT marks nothing.
func (f *Filter) Marks(text string) [][2]int { return query.Marks(f.q.Root, text) }

// Matches says whether the query selects the entry.
func (f *Filter) Matches(e *Entry) (bool, error) {
	m := query.NewMatcher(f.q)
	if !m.Block(e.Line) {
		return false, nil
	}
	return m.Match(e.Line, 0, e.Index)
}
