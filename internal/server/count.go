package server

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// countRoutes answer with numbers.
func countRoutes() []route {
	count := slices.Concat(filterParameters, []string{"verified"})
	return []route{
		{Method: "GET", Pattern: logPath + "/count", Permission: tenant.PermRead, Query: count, ID: "countEntries", Handle: countEntries},
		{Method: "GET", Pattern: logPath + "/counts", Permission: tenant.PermRead, Query: slices.Concat(count, []string{"by", "limit"}), ID: "countEntriesBy", Handle: countEntriesBy},
		{Method: "GET", Pattern: logPath + "/histogram", Permission: tenant.PermRead, Query: slices.Concat(count, []string{"width"}), ID: "histogram", Handle: histogram},
		{Method: "GET", Pattern: logPath + "/stats", Permission: tenant.PermStats, ID: "getStats", Handle: getStats},
	}
}

const (
	defaultRows = 1000
	maxRows     = 100_000
	countMemory = 32 << 20 // what counting values or stretches of time takes, as a rule at most
)

// counted is what every count says of itself.
type counted struct {
	Count  uint64 `json:"count"`
	Source string `json:"source"` // "sealed" where signed indexes had a part in it, else "verified"
	Size   uint64 `json:"size"`   // the log had at least so many entries, all of which were considered, but for those that are

	Retired uint64 `json:"retired"` // in the range: they were not looked at, and count nothing
}

func countOf(c immutable.Count, size uint64) counted {
	return counted{c.N, c.Source(), size, c.Retired}
}

// count runs a count that is on record as a search.
func (r *request) count(what string, run func(q immutable.Query) (immutable.Count, error)) error {
	q, spelling, err := r.filter()
	if err != nil {
		return err
	}
	if q.Verified, err = r.flag("verified"); err != nil {
		return err
	}
	if _, err := immutable.ParseFilter(q.Text, q.Now); err != nil {
		return err
	}
	end, err := r.beginRead("search", what+" "+spelling)
	if err != nil {
		return err
	}
	c, err := run(q)
	end(c.N, err)
	return err
}

func countEntries(r *request) error {
	done, err := r.placeToSearch()
	if err != nil {
		return err
	}
	defer done()
	size := r.log.Size()
	var out counted
	err = r.count("count", func(q immutable.Query) (immutable.Count, error) {
		c, err := r.log.Count(r.Context(), q)
		out = countOf(c, size)
		return c, err
	})
	done() // what is left is the client's pace
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, out)
}

// countRow is one value of a field, and how many entries have it.
type countRow struct {
	Value string `json:"value"`
	Count uint64 `json:"count"`
}

// countEntriesBy answers with the most frequent values of a field.
func countEntriesBy(r *request) error {
	by := r.param("by")
	if by == "" {
		return fault("bad-parameter", "by: name a field, as in a query: level, hostname, user.name")
	}
	limit, err := r.number("limit", defaultRows, 1, maxRows)
	if err != nil {
		return err
	}
	done, err := r.placeToSearch()
	if err != nil {
		return err
	}
	defer done()
	give, err := r.takeMemory(countMemory)
	if err != nil {
		return err
	}
	defer give()
	size := r.log.Size()
	var c immutable.Counts
	err = r.count("count by "+by, func(q immutable.Query) (immutable.Count, error) {
		var err error
		c, err = r.log.CountBy(r.Context(), q, by)
		return c.Count, err
	})
	done() // what is left is the client's pace
	if err != nil {
		return tooMany(err)
	}
	out := struct {
		By string `json:"by"`
		counted
		Values  int        `json:"values"`  // different ones, all of them
		Missing uint64     `json:"missing"` // entries without one
		Rows    []countRow `json:"rows"`
	}{c.By, countOf(c.Count, size), len(c.Rows), c.Missing, []countRow{}}
	for _, row := range c.Rows[:min(uint64(len(c.Rows)), limit)] {
		out.Rows = append(out.Rows, countRow{row.Value, row.N})
	}
	return r.json(http.StatusOK, out)
}

// histogram answers with how many entries there are in stretches of time.
func histogram(r *request) error {
	const least = time.Millisecond
	width, err := time.ParseDuration(r.param("width"))
	if err != nil || width < least {
		return fault("bad-parameter", fmt.Sprintf("width: want a duration such as 1h or 15m, at least %s, not %q", least, r.param("width")))
	}
	done, err := r.placeToSearch()
	if err != nil {
		return err
	}
	defer done()
	give, err := r.takeMemory(countMemory)
	if err != nil {
		return err
	}
	defer give()
	size := r.log.Size()
	var h immutable.Histogram
	err = r.count("histogram of "+width.String(), func(q immutable.Query) (immutable.Count, error) {
		var err error
		h, err = r.log.Histogram(r.Context(), q, width)
		return h.Count, err
	})
	done() // what is left is the client's pace
	if err != nil {
		return tooMany(err)
	}
	if len(h.Buckets) > maxRows {
		return fault("too-large", fmt.Sprintf("%d stretches of %s have entries, at most %d are answered: widen them, or narrow the query", len(h.Buckets), width, maxRows))
	}
	type bucket struct {
		Start time.Time `json:"start"`
		Count uint64    `json:"count"`
	}
	out := struct {
		Width float64 `json:"width"` // seconds
		counted
		Buckets []bucket `json:"buckets"`
	}{width.Seconds(), countOf(h.Count, size), []bucket{}}
	for _, b := range h.Buckets {
		out.Buckets = append(out.Buckets, bucket{b.Start, b.N})
	}
	return r.json(http.StatusOK, out)
}

// tooMany is the problem of a count that would hold too much.
func tooMany(err error) error {
	if errors.Is(err, immutable.ErrTooMany) {
		return fault("too-large", err.Error())
	}
	return err
}

// getStats answers with what the library says of the log, and what the monitor knows of it.
func getStats(r *request) error {
	end, err := r.beginRead("stats", "")
	if err != nil {
		return err
	}
	stats, err := r.log.Stats(r.Context())
	end(0, err)
	if err != nil {
		return err
	}
	for _, text := range []*string{&stats.CheckpointError, &stats.SealError, &stats.RotationError, &stats.Damage} {
		*text = r.inside(*text)
	}
	if p := r.principal; len(p.Levels) > 0 { // it learns nothing of other levels
		maps.DeleteFunc(stats.Levels, func(name string, _ int64) bool {
			l, err := immutable.ParseLevel(name)
			return err != nil || !p.SeesLevel(l)
		})
		stats.OldestEntry, stats.NewestEntry = nil, nil
	}
	return r.json(http.StatusOK, stats)
}

// inside is the text of an error of the log's own, which may name files of this host: for administrators of the log. Others hear that
// there is one.
func (r *request) inside(text string) string {
	if text == "" || r.principal.Allow(tenant.PermManageLog, r.tenant.Name(), r.log.Name()) == nil {
		return text
	}
	return "it failed; an administrator sees why"
}
