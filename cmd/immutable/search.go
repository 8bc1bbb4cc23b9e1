package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
)

const searchUsage = `immutable search [QUERY]

Prints the entries that the query selects, the newest first; without a query, all. Several arguments are one query.
Every entry is hashed again and proven against the log's tree before it is printed.

  immutable search 'failed login ip:203.0.113.42 since:-24h'
  immutable search 'level:error OR level:critical' --limit 20
  immutable search 'amount:>=1000 user.name:"Ann" NOT refund*'
  immutable search '~"5% off" eventTime:2026-01-01..2026-01-31' --json | jq .message
  immutable search --count 'since:2026-01-01'
  immutable search --by level 'since:-7d'
  immutable search --histogram 1h 'failed login'

  word                   a word in the message or a value, in any case; "two words" next to each other
  pay*  ~"50%"  /re[0-9]/
                         a word's beginning, any characters, a regular expression (RE2)
  field:value            a metadata member (user.name, dots lead inwards) or level message hostname pid id index traceId
                         spanId eventTime timestamp idempotencyKey producer control; field:pay*  field:~"x"  field:/re/
  field:>=5  field:5..10 numbers and times; exists:field
  since:-15m until:2026-01-31T12:00:00Z
  a b    a OR b    NOT a    (a OR b) c

The whole language with examples: docs/search.md.

  --limit N              at most so many; of --by, the N most frequent values
  --cursor CURSOR        go on where a search with --limit ended, which printed it
  --oldest               oldest first; --reverse is the same
  --reverse              see --oldest
  --count                only the number of entries
  --by FIELD             the number of entries for each value of a field, such as level
  --histogram WIDTH      the number of entries in each stretch of time: 15m, 1h, 1d, 1w
  --verified             use no index: read and prove every entry in question
  --explain              say what was skipped, read and found, and how long it took` + serverFlags + dirFlags + commonFlags

// searchCall is one run of search.
type searchCall struct {
	*call
	q         immutable.Query
	filter    *immutable.Filter
	oldest    bool
	count     bool
	by        string
	histogram string
	explain   bool
	progress  *progress
}

func setupSearch(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true, "explain")
	s := &searchCall{call: c}
	c.set.IntVar(&s.q.Limit, "limit", 0, "")
	c.set.StringVar(&s.q.Cursor, "cursor", "", "")
	c.set.BoolVar(&s.oldest, "oldest", false, "")
	c.set.BoolVar(&s.q.Reverse, "reverse", false, "")
	c.set.BoolVar(&s.count, "count", false, "")
	c.set.StringVar(&s.by, "by", "", "")
	c.set.StringVar(&s.histogram, "histogram", "", "")
	c.set.BoolVar(&s.q.Verified, "verified", false, "")
	c.set.BoolVar(&s.explain, "explain", false, "")
	return func() error {
		if s.q.Limit < 0 {
			return c.usagef("--limit is at least 1")
		}
		if err := c.oneOf("--count", s.count, "--by", s.by != "", "--histogram", s.histogram != ""); err != nil {
			return err
		}
		s.q.Reverse = s.q.Reverse || s.oldest
		var err error
		if s.filter, err = c.query(&s.q); err != nil {
			return err
		}
		s.q.Explain = new(immutable.Explain)
		s.explain = s.explain && !c.remote()
		return s.run()
	}
}

// oneOf checks that at most one of the flags is given.
func (c *call) oneOf(flags ...any) error {
	var given []string
	for i := 0; i < len(flags); i += 2 {
		if flags[i+1].(bool) {
			given = append(given, flags[i].(string))
		}
	}
	if len(given) > 1 {
		return c.usagef("%s: one of them at a time", strings.Join(given, ", "))
	}
	return nil
}

// query reads the arguments as a query. A mistake is shown here, with its place, in lines of its own.
func (c *call) query(q *immutable.Query) (*immutable.Filter, error) {
	q.Text, q.Now = strings.Join(c.args, " "), time.Now()
	f, err := immutable.ParseFilter(q.Text, q.Now)
	var mistake *immutable.QueryError
	if !errors.As(err, &mistake) {
		return f, err
	}
	line, caret := mistake.Caret()
	c.errs.printf("%s%s\n  %s\n  %s\n", paint(red, "immutable "+c.cmd.name+": "), mistake, line, paint(red, caret))
	return nil, exit(exitUnknown)
}

func (s *searchCall) run() (err error) {
	l, err := s.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	if s.progress = s.newProgress("search", "entries"); s.progress != nil {
		s.q.Progress = func(p immutable.Progress) { s.progress.set(p.Entries, p.TotalEntries) }
	}
	defer s.progress.end()
	switch {
	case s.count:
		return s.printCount(l)
	case s.by != "":
		return s.printCounts(l)
	case s.histogram != "":
		return s.printHistogram(l)
	}
	return s.printEntries(l)
}

func (s *searchCall) printEntries(l view) error {
	n := 0
	var last immutable.Entry
	for e, err := range l.Search(s.ctx, s.q) {
		s.progress.clear()
		if err != nil {
			return err
		}
		n++
		last = e
		s.entryMarked(&e, s.filter)
		if s.out.terminal || n == 1 {
			if err := s.out.flush(); err != nil {
				return err
			}
		}
	}
	s.progress.clear()
	if n > 0 && n == s.q.Limit {
		cursor, err := s.q.CursorAfter(last)
		if err != nil {
			return err
		}
		if s.json {
			s.remark("{\"cursor\":%s}\n", quote(cursor))
		} else {
			s.remark("there may be more: --cursor %s\n", cursor)
		}
	}
	if s.explain && s.json {
		data, err := marshal(map[string]any{"explain": explainJSON(s.q.Explain)})
		if err != nil {
			return err
		}
		s.errs.bytes(append(data, '\n'))
		return nil
	}
	s.explained()
	return nil
}

// answerWith prints the members of an answer, and how it was come to if that was asked for.
func (s *searchCall) answerWith(v any) error {
	data, err := marshal(v)
	if err != nil || !s.explain {
		if err == nil {
			s.out.bytes(append(data, '\n'))
		}
		return err
	}
	more, err := marshal(explainJSON(s.q.Explain))
	if err != nil {
		return err
	}
	s.out.bytes(append(append(append(data[:len(data)-1:len(data)-1], `,"explain":`...), more...), "}\n"...))
	return nil
}

// explained prints for a person how the answer was come to.
func (s *searchCall) explained() {
	x := s.q.Explain
	if !s.explain {
		s.sayRetired(x)
		return
	}
	rows := [][2]string{
		{"query", x.Query},
		{"segments", count(x.Segments)},
		{"groups", fmt.Sprintf("%s of up to 256 entries: %s skipped or answered by indexes, %s known from before, %s read", count(x.Groups), count(x.GroupsSkipped), count(x.GroupsKnown), count(x.GroupsRead))},
		{"entries", fmt.Sprintf("%s read and proven, %s of them found; %s counted in signed indexes", count(x.Entries), count(x.Matches), count(x.FromIndex))},
		{"time", x.Elapsed.Round(10 * time.Microsecond).String()},
	}
	for _, r := range rows {
		s.errs.printf("%s  %s\n", styled{code: dim, text: r[0], width: 8}, r[1])
	}
	for _, note := range x.Notes {
		s.errs.printf("%s  %s\n", styled{code: yellow, text: "note", width: 8}, note)
	}
}

// explanation is the JSON form of how an answer was come to.
type explanation struct {
	Query         string   `json:"query"`
	Segments      int      `json:"segments"`
	WithoutIndex  int      `json:"withoutIndex"`
	Groups        uint64   `json:"groups"`
	GroupsSkipped uint64   `json:"groupsSkipped"`
	GroupsKnown   uint64   `json:"groupsKnown"`
	GroupsRead    uint64   `json:"groupsRead"`
	Entries       uint64   `json:"entries"`
	Matches       uint64   `json:"matches"`
	FromIndex     uint64   `json:"fromIndex"`
	Retired       uint64   `json:"retired"`
	Milliseconds  float64  `json:"milliseconds"`
	Notes         []string `json:"notes"`
}

func explainJSON(x *immutable.Explain) explanation {
	return explanation{
		x.Query, x.Segments, x.WithoutIndex, x.Groups, x.GroupsSkipped, x.GroupsKnown, x.GroupsRead, x.Entries, x.Matches, x.FromIndex, x.Retired,
		float64(x.Elapsed.Microseconds()) / 1000, append([]string{}, x.Notes...),
	}
}

func (s *searchCall) printCount(l view) error {
	n, err := l.Count(s.ctx, s.q)
	if err != nil {
		return err
	}
	s.progress.clear()
	if s.json {
		return s.answerWith(struct {
			Count   uint64 `json:"count"`
			Source  string `json:"source"`
			Retired uint64 `json:"retired,omitempty"`
		}{n.N, n.Source(), n.Retired})
	}
	s.out.printf("%d\n", n.N)
	s.source(n)
	return nil
}

// source tells a person what a number stands on.
func (s *searchCall) source(n immutable.Count) {
	switch {
	case s.remote():
		s.remark("the server counted, and says: %s\n", n.Source())
		return
	case n.Sealed:
		s.remark("sealed: signed indexes had a part in this; --verified reads every entry\n")
	default:
		s.remark("verified: every entry in question was read and proven\n")
	}
	s.explained()
}

func (s *searchCall) printCounts(l view) error {
	n, err := l.CountBy(s.ctx, s.q, s.by)
	if err != nil {
		var mistake *immutable.QueryError
		if errors.As(err, &mistake) {
			return s.usagef("--by %s: %s", quote(s.by), mistake.Msg)
		}
		return err
	}
	s.progress.clear()
	values := len(n.Rows)
	if s.q.Limit > 0 {
		n.Rows = n.Rows[:min(values, s.q.Limit)]
	}
	if s.json {
		rows := []valueRow{}
		for _, r := range n.Rows {
			rows = append(rows, valueRow{r.Value, r.N})
		}
		return s.answerWith(struct {
			By      string     `json:"by"`
			Count   uint64     `json:"count"`
			Source  string     `json:"source"`
			Values  int        `json:"values"`
			Missing uint64     `json:"missing"`
			Rows    []valueRow `json:"rows"`
		}{n.By, n.N, n.Source(), values, n.Missing, rows})
	}
	most, width := uint64(0), len("without it")
	for _, r := range n.Rows {
		most, width = max(most, r.N), max(width, min(60, len([]rune(clean(r.Value)))))
	}
	for _, r := range n.Rows {
		s.out.printf("%s  %s  %s\n", styled{text: r.Value, width: width}, right(r.N), s.bar(r.N, most))
	}
	if n.Missing > 0 {
		s.out.printf("%s  %s\n", styled{code: dim, text: "without it", width: width}, right(n.Missing))
	}
	s.out.printf("%s  %s\n", styled{code: bold, text: "entries", width: width}, right(n.N))
	s.source(n.Count)
	return nil
}

type valueRow struct {
	Value string `json:"value"`
	Count uint64 `json:"count"`
}

// right is a number for a column.
func right(n uint64) string { return fmt.Sprintf("%11s", count(n)) }

// bar is as long as n is of most.
func (s *searchCall) bar(n, most uint64) styled {
	const width = 40
	cells := int((n*width + most - 1) / max(most, 1))
	if s.out.terminal {
		return paint(cyan, strings.Repeat("█", cells))
	}
	return styled{text: strings.Repeat("#", cells)}
}

// stretchOf reads the width of a histogram's stretches.
func stretchOf(text string) (time.Duration, error) {
	days := map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
	if n := len(text) - 1; n > 0 && days[text[n:]] > 0 {
		v, err := strconv.ParseUint(text[:n], 10, 16)
		return time.Duration(v) * days[text[n:]], err
	}
	return time.ParseDuration(text)
}

func (s *searchCall) printHistogram(l view) error {
	width, err := stretchOf(s.histogram)
	if err != nil || width < time.Millisecond {
		return s.usagef("--histogram %s is no width such as 15m, 1h, 1d or 1w, of at least 1ms", quote(s.histogram))
	}
	h, err := l.Histogram(s.ctx, s.q, width)
	if err != nil {
		return err
	}
	s.progress.clear()
	if s.json {
		buckets := []bucketRow{}
		for _, b := range h.Buckets {
			buckets = append(buckets, bucketRow{b.Start.Format(exactTime), b.N})
		}
		return s.answerWith(struct {
			Seconds json.Number `json:"seconds"`
			Count   uint64      `json:"count"`
			Source  string      `json:"source"`
			Buckets []bucketRow `json:"buckets"`
		}{json.Number(strconv.FormatFloat(width.Seconds(), 'f', -1, 64)), h.N, h.Source(), buckets})
	}
	s.draw(&h)
	s.source(h.Count)
	return nil
}

type bucketRow struct {
	Start string `json:"start"`
	Count uint64 `json:"count"`
}

// maxGap is how many empty stretches in a row are drawn one by one.
const maxGap = 24

// draw prints a line for each stretch of time.
func (s *searchCall) draw(h *immutable.Histogram) {
	layout := "2006-01-02T15:04:05.000Z"
	switch {
	case h.Width%(24*time.Hour) == 0:
		layout = time.DateOnly
	case h.Width%time.Minute == 0:
		layout = "2006-01-02T15:04Z"
	case h.Width%time.Second == 0:
		layout = "2006-01-02T15:04:05Z"
	}
	most := uint64(0)
	for _, b := range h.Buckets {
		most = max(most, b.N)
	}
	line := func(start time.Time, n uint64) {
		s.out.printf("%s  %s  %s\n", paint(dim, start.Format(layout)), right(n), s.bar(n, most))
	}
	for i, b := range h.Buckets {
		if i > 0 {
			at := h.Buckets[i-1].Start.Add(h.Width)
			if gap := b.Start.Sub(at) / h.Width; gap > maxGap {
				s.out.printf("%s\n", paint(dim, fmt.Sprintf("… %s without entries", count(int64(gap)))))
			} else {
				for ; at.Before(b.Start); at = at.Add(h.Width) {
					line(at, 0)
				}
			}
		}
		line(b.Start, b.N)
	}
	s.out.printf("%s  %s\n", styled{code: bold, text: "entries", width: len(layout)}, right(h.N))
}
