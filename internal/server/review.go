package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/review"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

// reviewRoutes are the daily look at a tenant's logs (PCI DSS 10.4.1): what there is to see, and who signed that they saw it.
func reviewRoutes() []route {
	return []route{
		{Method: "GET", Pattern: tenantPath + "/review", Permission: tenant.PermAuditTenant, Query: []string{"day"}, ID: "getReview", Handle: getReview},
		{Method: "POST", Pattern: tenantPath + "/review", Permission: tenant.PermAuditTenant, Body: true, ID: "signReview", Handle: signReview},
	}
}

// Limits of a review.
const (
	reviewDays  = 30   // that are looked back for days without one
	maxReviewer = 128  // bytes of a name
	maxNote     = 4096 // bytes
)

type (
	// dayReview is what there is to see of a day.
	dayReview struct {
		Day      string         `json:"day"` // in UTC
		Over     bool           `json:"over"`
		Findings []dayFinding   `json:"findings"`
		Logs     []dayLog       `json:"logs"`
		Reviews  []signedReview `json:"reviews"` // of this day
		Missed   []string       `json:"missed"`  // days before today without a review, at most 30, the newest first
	}

	dayFinding struct {
		review.Finding
		Log   string `json:"log"`
		Count uint64 `json:"count"`
	}

	// dayLog is a log's part of the day: its entries from First up to End, and the sample of them once a checkpoint covers the day.
	dayLog struct {
		Log    string   `json:"log"`
		Origin string   `json:"origin"`
		First  uint64   `json:"first"`
		End    uint64   `json:"end"`
		Size   *uint64  `json:"size"` // of the first kept checkpoint that covers the day
		Root   string   `json:"root,omitempty"`
		Sample []uint64 `json:"sample"`
	}

	signedReview struct {
		Index    uint64    `json:"index"` // in the log of the log
		Time     time.Time `json:"time"`
		Day      string    `json:"day"`
		Reviewer string    `json:"reviewer"`
		Note     string    `json:"note"`
		By       struct {
			ID string `json:"id"`
		} `json:"by"`
	}
)

func getReview(r *request) error {
	day := r.param("day")
	if day == "" {
		day = r.s.o.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	}
	v, err := r.review(day)
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, v)
}

// review looks at a day, on record as searches of the logs.
func (r *request) review(day string) (*dayReview, error) {
	from, err := time.Parse(time.DateOnly, day)
	if err != nil || from.Format(time.DateOnly) != day {
		return nil, fault("bad-parameter", fmt.Sprintf("day: want a day such as 2026-11-23, not %.40q", day))
	}
	done, err := r.placeToSearch()
	if err != nil {
		return nil, err
	}
	defer done()
	until := from.AddDate(0, 0, 1)
	v := &dayReview{Day: day, Over: !r.s.o.Now().Before(until), Findings: []dayFinding{}, Logs: []dayLog{}, Reviews: []signedReview{}}
	for _, l := range r.tenant.Logs() {
		if l.Log == nil || l.Err() != nil || r.principal.Allow(tenant.PermRead, r.tenant.Name(), l.Name()) != nil {
			continue
		}
		end, err := r.tenant.BeginRead(r.Context(), r.principal, tenant.Read{Log: l.Name(), Action: "search", Filter: "review of " + day})
		if err != nil {
			return nil, err
		}
		n, err := v.look(r.Context(), l, immutable.Query{Since: from, Until: until, Now: r.s.o.Now()})
		end(n, err)
		if err != nil {
			return nil, err
		}
	}
	return v, r.earlier(v)
}

// look adds a log's findings and sample.
func (v *dayReview) look(ctx context.Context, l *tenant.Log, day immutable.Query) (n uint64, err error) {
	for _, f := range review.Findings() {
		if f.System != (l.Name() == tenant.SystemName) {
			continue
		}
		q := day
		q.Text = f.Query
		c, err := l.Count(ctx, q)
		if err != nil {
			return n, err
		}
		n += c.N
		v.Findings = append(v.Findings, dayFinding{f, l.Name(), c.N})
	}
	d := dayLog{Log: l.Name(), Origin: l.Origin(), Sample: []uint64{}}
	for i, reverse := range []bool{false, true} {
		q := day
		q.Limit, q.Reverse = 1, reverse
		for e, err := range l.Entries(ctx, q) {
			if err != nil {
				return n, err
			}
			if i == 0 {
				d.First = e.Index
			} else {
				d.End = e.Index + 1
			}
		}
	}
	if v.Over && d.End > d.First {
		notes, err := l.CheckpointsFrom(d.End, 1)
		if err != nil {
			return n, err
		}
		if len(notes) > 0 {
			text, _, _ := strings.Cut(string(notes[0]), "\n\n")
			c, err := proof.ParseCheckpoint(text + "\n")
			if err != nil {
				return n, fmt.Errorf("read a kept checkpoint: %w", err)
			}
			d.Size, d.Root = &c.Size, c.Root.Base64()
			d.Sample = review.Sample(d.Origin, v.Day, d.Root, d.First, d.End)
		}
	}
	v.Logs = append(v.Logs, d)
	return n, nil
}

// earlier reads the reviews of the last days, and finds the days without one.
func (r *request) earlier(v *dayReview) error {
	system, err := r.tenant.Log(tenant.SystemName)
	if err != nil {
		return err
	}
	today := r.s.o.Now().UTC().Truncate(24 * time.Hour)
	reviewed := map[string]bool{}
	var oldest time.Time
	for e, err := range system.Entries(r.Context(), immutable.Query{Limit: 1}) {
		if err != nil {
			return err
		}
		oldest = e.Timestamp.UTC().Truncate(24 * time.Hour)
	}
	for e, err := range system.Entries(r.Context(), immutable.Query{Text: "action:" + string(tenant.ReviewSigned)}) {
		if err != nil {
			return err
		}
		var s signedReview
		if err := json.Unmarshal(e.Metadata, &s); err != nil {
			return fmt.Errorf("read the review in entry %d of the log of the log: %w", e.Index, err)
		}
		s.Index, s.Time = e.Index, e.Timestamp
		reviewed[s.Day] = true
		if s.Day == v.Day {
			v.Reviews = append(v.Reviews, s)
		}
	}
	v.Missed = []string{}
	for i := 1; i <= reviewDays; i++ {
		day := today.AddDate(0, 0, -i)
		if day.Before(oldest) || oldest.IsZero() {
			break
		}
		if text := day.Format(time.DateOnly); !reviewed[text] {
			v.Missed = append(v.Missed, text)
		}
	}
	return nil
}

// signReview records that somebody looked. What they were shown stands in the entry: the counts, the sample, the roots.
func signReview(r *request) error {
	var body struct {
		Day      string `json:"day"`
		Reviewer string `json:"reviewer"`
		Note     string `json:"note"`
		Again    bool   `json:"again"`
	}
	if err := r.decode(&body); err != nil {
		return err
	}
	for _, x := range []struct {
		name, text string
		most       int
	}{{"reviewer", body.Reviewer, maxReviewer}, {"note", body.Note, maxNote}} {
		if strings.TrimSpace(x.text) == "" || len(x.text) > x.most || !utf8.ValidString(x.text) {
			return fault("bad-parameter", fmt.Sprintf("%s: want 1 to %d bytes of text", x.name, x.most))
		}
	}
	v, err := r.review(body.Day)
	if err != nil {
		return err
	}
	if !v.Over {
		return fault("conflict", "the day is not over: what comes until midnight UTC would not have been looked at")
	}
	if len(v.Reviews) > 0 && !body.Again {
		return fault("exists", fmt.Sprintf("%s was reviewed by %s; \"again\": true adds another review", v.Day, v.Reviews[0].Reviewer))
	}
	counts := map[string]immutable.Fields{}
	for _, f := range v.Findings {
		if counts[f.Log] == nil {
			counts[f.Log] = immutable.Fields{}
		}
		if f.Count > 0 {
			counts[f.Log][f.ID] = f.Count
		}
	}
	logs := make([]immutable.Fields, 0, len(v.Logs))
	for _, l := range v.Logs {
		if l.End == l.First {
			continue
		}
		logs = append(logs, immutable.Fields{"log": l.Log, "first": l.First, "end": l.End, "size": l.Size, "root": l.Root, "sample": l.Sample, "findings": counts[l.Log]})
	}
	err = r.tenant.Record(r.Context(), r.principal, tenant.ReviewSigned, immutable.Fields{"day": v.Day, "reviewer": body.Reviewer, "note": body.Note, "logs": logs})
	if tooLong := (*immutable.FieldError)(nil); errors.As(err, &tooLong) {
		return fault("too-large", fmt.Sprintf("the findings of %d logs and the note have no room in one entry: write a shorter note", len(logs)))
	}
	if err != nil {
		return err
	}
	if v, err = r.review(body.Day); err != nil {
		return err
	}
	return r.json(http.StatusCreated, v)
}
