package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/intake"
)

const readUsage = `immutable read [QUERY]

Prints the entries that the query selects, oldest first: index, timestamp, level, message, metadata; without a query, all.
Every entry is hashed again and proven against the log's tree before it is printed. "immutable search -h" shows queries.

  immutable read --level security,critical --since 24h
  immutable read 'failed login ip:203.0.113.42'
  immutable read --from 1000 --limit 50
  immutable read --json | jq .message
  immutable read --server https://logs.example.com --key audit.vkeys

Text is made safe for a terminal: control characters and those that reorder text are shown as escapes. --json prints
{"index":N, …the entry's members…} with the bytes that were stored.

  --level LEVEL[,LEVEL]  only these levels
  --since TIME           at or after: RFC 3339, a date, or a duration such as 90m or 24h before now
  --until TIME           before
  --from INDEX           from this entry on; with --reverse, from it backwards
  --limit N              at most so many
  --reverse              newest first` + serverFlags + dirFlags + commonFlags

// timeLayout is how people are shown times: UTC, to the millisecond.
const timeLayout = "2006-01-02T15:04:05.000Z"

func setupRead(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	var q immutable.Query
	var levels levelList
	var since, until string
	c.set.Var(&levels, "level", "")
	c.set.StringVar(&since, "since", "", "")
	c.set.StringVar(&until, "until", "", "")
	c.set.Uint64Var(&q.From, "from", 0, "")
	c.set.IntVar(&q.Limit, "limit", 0, "")
	c.set.BoolVar(&q.Reverse, "reverse", false, "")
	return func() error {
		if q.Limit < 0 {
			return c.usagef("--limit is at least 1")
		}
		q.Levels = levels
		filter, err := c.query(&q)
		if err != nil {
			return err
		}
		if q.Since, err = c.moment("since", since); err != nil {
			return err
		}
		if q.Until, err = c.moment("until", until); err != nil {
			return err
		}
		return readEntries(c, &q, filter)
	}
}

func readEntries(c *call, q *immutable.Query, filter *immutable.Filter) (err error) {
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	q.Explain = new(immutable.Explain)
	for e, err := range l.Entries(c.ctx, *q) {
		if err != nil {
			return err
		}
		c.entryMarked(&e, filter)
	}
	c.sayRetired(q.Explain)
	return nil
}

// entry prints one entry as a line.
func (c *call) entry(e *immutable.Entry) { c.entryMarked(e, nil) }

// entryMarked prints one entry as a line; on a terminal what the query found in it is marked.
func (c *call) entryMarked(e *immutable.Entry, filter *immutable.Filter) {
	if c.json {
		c.out.bytes(entryJSON(e))
		return
	}
	line := []any{
		styled{code: dim, text: fmt.Sprintf("%6d", e.Index)},
		"  " + e.Timestamp.Format(timeLayout) + "  ",
		styled{code: levelColour(e.Level), text: e.Level.String(), width: 8},
		"  ",
	}
	line = c.marked(line, "", e.Message, filter)
	if metadata := string(e.Metadata); metadata != "{}" {
		line = c.marked(append(line, "  "), dim, metadata, filter)
	}
	c.out.printf(strings.Repeat("%s", len(line))+"\n", line...)
}

// marked appends a text in a colour, with what the query found in it in another.
func (c *call) marked(line []any, code, text string, filter *immutable.Filter) []any {
	from := 0
	if c.out.colour && filter != nil {
		for _, m := range filter.Marks(text) {
			line = append(line, paint(code, text[from:m[0]]), paint(bold+";"+yellow, text[m[0]:m[1]]))
			from = m[1]
		}
	}
	return append(line, paint(code, text[from:]))
}

// entryJSON is the entry's line with its index in front.
func entryJSON(e *immutable.Entry) []byte {
	out := strconv.AppendUint([]byte(`{"index":`), e.Index, 10)
	out = append(out, ',')
	return append(append(out, e.Line[1:]...), '\n')
}

func levelColour(l immutable.Level) string {
	switch l {
	case immutable.Warn:
		return yellow
	case immutable.Error, immutable.Critical, immutable.Security:
		return red
	case immutable.Audit:
		return cyan
	case immutable.Revenue:
		return green
	}
	return ""
}

// levelList is the value of --level.
type levelList []immutable.Level

func (l *levelList) String() string { return "" }

func (l *levelList) Set(s string) error {
	for name := range strings.SplitSeq(s, ",") {
		level, err := immutable.ParseLevel(strings.TrimSpace(name))
		if err != nil {
			return err
		}
		*l = append(*l, level)
	}
	return nil
}

// moment reads the value of a flag that is a time, a date, or a duration before now.
func (c *call) moment(name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if t, err := intake.ParseTime(value); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, value); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(value); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, c.usagef("--%s %s is no time such as 2026-01-02T15:04:05Z, 2026-01-02 or 24h", name, quote(value))
}

const getUsage = `immutable get INDEX

Prints the entry at INDEX, hashed again and proven against the log's tree.

  immutable get 12
  immutable get 12 --json
  immutable get 12 --block --json

  --block                print its block: {"index","timestamp","data","hash","previousHash"}` + serverFlags + dirFlags + commonFlags

func setupGet(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	asBlock := c.set.Bool("block", false, "")
	return func() error {
		if err := c.arguments(1, 1, "one index"); err != nil {
			return err
		}
		index, err := c.index(c.args[0], "an index")
		if err != nil {
			return err
		}
		return getEntry(c, index, *asBlock)
	}
}

func getEntry(c *call, index uint64, asBlock bool) (err error) {
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	b, err := l.Block(c.ctx, index)
	if err != nil {
		return err
	}
	if asBlock && c.json {
		return c.answer(blockJSON(&b))
	}
	e, err := l.Entry(c.ctx, index)
	if err != nil {
		return err
	}
	if c.json {
		c.out.bytes(entryJSON(&e))
		return nil
	}
	rows := [][2]string{
		{"index", strconv.FormatUint(index, 10)}, {"timestamp", e.Timestamp.Format(time.RFC3339Nano)},
	}
	if asBlock {
		rows = append(rows, [2]string{"data", b.Data})
	} else {
		rows = append(rows, entryRows(&e)...)
	}
	rows = append(rows, [2]string{"hash", b.Hash.String()}, [2]string{"previousHash", b.PreviousHash.String()})
	if !asBlock {
		rows = append(rows, [2]string{"leaf", e.Leaf.String()})
	}
	c.table(rows)
	return nil
}

// block is the JSON form of a block.
type block struct {
	Index        uint64 `json:"index"`
	Timestamp    string `json:"timestamp"`
	Data         string `json:"data"`
	Hash         string `json:"hash"`
	PreviousHash string `json:"previousHash"`
}

func blockJSON(b *immutable.Block) block {
	return block{b.Index, b.Timestamp.Format(exactTime), b.Data, b.Hash.String(), b.PreviousHash.String()}
}

func entryRows(e *immutable.Entry) [][2]string {
	rows := [][2]string{
		{"id", e.ID.String()},
		{"level", e.Level.String()},
		{"message", e.Message},
		{"metadata", string(e.Metadata)},
		{"hostname", e.Hostname},
		{"pid", strconv.FormatUint(uint64(e.PID), 10)},
	}
	if !e.EventTime.IsZero() {
		rows = append(rows, [2]string{"eventTime", e.EventTime.Format(time.RFC3339Nano)})
	}
	for _, o := range [][2]string{{"traceId", e.TraceID}, {"spanId", e.SpanID}, {"idempotencyKey", e.IdempotencyKey}, {"control", string(e.Control)}} {
		if o[1] != "" {
			rows = append(rows, o)
		}
	}
	return rows
}

// table prints names and values under each other.
func (c *call) table(rows [][2]string) {
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		c.out.printf("%s  %s\n", styled{code: dim, text: r[0], width: width}, r[1])
	}
}

const tailUsage = `immutable tail [QUERY]

Prints the newest entries that the query selects; without a query, of all. With -f it goes on with each new one as it is
committed, until it is interrupted. "immutable search -h" shows queries.

  immutable tail -n 50
  immutable tail -f --level error,critical
  immutable tail -f 'failed login'

  -n N                   so many (default 10)
  -f                     follow
  --level LEVEL[,LEVEL]  only these levels` + serverFlags + dirFlags + commonFlags

func setupTail(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	n := c.set.Int("n", 10, "")
	follow := c.set.Bool("f", false, "")
	var levels levelList
	c.set.Var(&levels, "level", "")
	return func() error {
		if *n < 0 {
			return c.usagef("-n is at least 0")
		}
		q := immutable.Query{Levels: levels}
		filter, err := c.query(&q)
		if err != nil {
			return err
		}
		return tailEntries(c, *n, *follow, q, filter)
	}
}

func tailEntries(c *call, n int, follow bool, q immutable.Query, filter *immutable.Filter) (err error) {
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	next := uint64(0)
	if follow {
		if next, err = l.end(c.ctx); err != nil {
			return err
		}
	}
	if n > 0 {
		var newest []immutable.Entry
		var broken error // a damaged log's newest readable entries are printed all the same
		q.Limit = n
		for e, err := range l.Search(c.ctx, q) {
			if broken = err; err == nil {
				newest = append(newest, e)
			}
		}
		for i := len(newest) - 1; i >= 0; i-- {
			c.entryMarked(&newest[i], filter)
			next = max(next, newest[i].Index+1)
		}
		if broken != nil {
			return broken
		}
	}
	if !follow {
		return nil
	}
	q.From, q.Limit = next, 0
	return c.follow(l, q, filter)
}

// follow prints entries as they come. Being interrupted is how it ends.
func (c *call) follow(l view, q immutable.Query, filter *immutable.Filter) error {
	if err := c.out.flush(); err != nil {
		return err
	}
	for e, err := range l.Follow(c.ctx, q) {
		if err != nil {
			if c.ctx.Err() != nil && !errors.Is(err, immutable.ErrClosed) {
				return nil
			}
			return err
		}
		c.entryMarked(&e, filter)
		if err := c.out.flush(); err != nil {
			return err
		}
	}
	return nil
}
