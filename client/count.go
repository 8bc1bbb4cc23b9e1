package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// counted is what every count of the API says of itself.
type counted struct {
	Count  uint64 `json:"count"`
	Source string `json:"source"`
}

func (a *counted) library() immutable.Count {
	return immutable.Count{N: a.Count, Sealed: a.Source == "sealed"}
}

// Count counts the entries that the query selects; Limit, From and Cursor do not count. A number is the server's word.
func (c *Client) Count(ctx context.Context, q immutable.Query) (immutable.Count, error) {
	var a counted
	err := c.count(ctx, "/count", &q, nil, &a)
	return a.library(), err
}

// CountBy counts the entries that the query selects for each value of a field, the most frequent values first, at most
// 100,000 of them. A number is the server's word.
func (c *Client) CountBy(ctx context.Context, q immutable.Query, field string) (immutable.Counts, error) {
	var a struct {
		counted
		By      string
		Missing uint64
		Rows    []struct {
			Value string
			Count uint64
		}
	}
	if err := c.count(ctx, "/counts", &q, map[string]string{"by": field, "limit": "100000"}, &a); err != nil {
		return immutable.Counts{}, err
	}
	out := immutable.Counts{By: a.By, Missing: a.Missing, Count: a.library()}
	for _, r := range a.Rows {
		out.Rows = append(out.Rows, immutable.CountRow{Value: r.Value, N: r.Count})
	}
	return out, nil
}

// Histogram counts the entries that the query selects in stretches of time. A number is the server's word.
func (c *Client) Histogram(ctx context.Context, q immutable.Query, width time.Duration) (immutable.Histogram, error) {
	var a struct {
		counted
		Buckets []struct {
			Start time.Time
			Count uint64
		}
	}
	if err := c.count(ctx, "/histogram", &q, map[string]string{"width": width.String()}, &a); err != nil {
		return immutable.Histogram{}, err
	}
	out := immutable.Histogram{Width: width, Count: a.library()}
	for _, b := range a.Buckets {
		out.Buckets = append(out.Buckets, immutable.Bucket{Start: b.Start, N: b.Count})
	}
	return out, nil
}

func (c *Client) count(ctx context.Context, path string, q *immutable.Query, more map[string]string, to any) error {
	if q.From != 0 || q.Cursor != "" {
		return errors.New("count: From and Cursor do not go with a count; index:>=N in Text does")
	}
	v := queryValues(q)
	for name, value := range more {
		v.Set(name, value)
	}
	if q.Verified {
		v.Set("verified", "true")
	}
	if err := c.getJSON(ctx, c.base+path+"?"+v.Encode(), to); err != nil {
		return fmt.Errorf("count: %w", err)
	}
	return nil
}

// Stats is what the log holds and how it does, by the server's word.
func (c *Client) Stats(ctx context.Context) (*immutable.Stats, error) {
	s := &immutable.Stats{}
	if err := c.getJSON(ctx, c.base+"/stats", s); err != nil {
		return nil, fmt.Errorf("statistics: %w", err)
	}
	return s, nil
}

// verifyPoll is how often a verification is asked after.
const verifyPoll = 250 * time.Millisecond

// Verify has the server verify its log and returns its report. What it is given from outside goes with it: the pinned keys and the
// newest checkpoint that this client has verified, and of the options Keys, Checkpoints, Policy, Require, Indexes, Progress and
// OnReport; any other is refused, since it would have no effect. A report is the server's word about its own disk. What this
// client can hold the server to, it holds it to in every read.
func (c *Client) Verify(ctx context.Context, o immutable.VerifyOptions) (*immutable.Report, error) {
	body, err := c.verification(&o)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	data, err := c.do(ctx, &call{method: http.MethodPost, url: c.base + "/verifications", body: body, kind: "application/json", limit: maxAnswer})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	for {
		var job struct {
			ID, Phase, Error string
			Progress         immutable.Progress
			Report           *immutable.Report
		}
		if err := json.Unmarshal(data, &job); err != nil {
			return nil, fmt.Errorf("verify: the server's answer cannot be read: %w", err)
		}
		switch {
		case job.Error != "":
			return nil, fmt.Errorf("verify: the server could not carry it out: %s", job.Error)
		case job.Report != nil:
			if o.OnReport != nil {
				o.OnReport(job.Report)
			}
			return job.Report, nil
		case job.Phase != "queued" && job.Phase != "running":
			return nil, fmt.Errorf("verify: the server has no report of verification %s, which is %s", job.ID, strconv.Quote(job.Phase))
		}
		if o.Progress != nil {
			o.Progress(job.Progress)
		}
		if err := c.pause(ctx, verifyPoll); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
		if data, err = c.get(ctx, c.base+"/verifications/"+job.ID); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
	}
}

// verification is the body that asks for one.
func (c *Client) verification(o *immutable.VerifyOptions) ([]byte, error) {
	if len(o.Receipts) > 0 || len(o.Proofs) > 0 || len(o.Epochs) > 0 || o.TimeRoots != nil || len(o.Entries) > 0 || o.NoHead || o.Workers != 0 {
		return nil, errors.New("of the options Receipts, Proofs, Epochs, TimeRoots, Entries, NoHead and Workers cannot be given to a server; verify a copy of the log for that")
	}
	var v struct {
		Indexes     bool     `json:"indexes,omitempty"`
		Keys        []string `json:"keys,omitempty"`
		Checkpoints []string `json:"checkpoints,omitempty"`
		Policy      string   `json:"policy,omitempty"`
		Require     string   `json:"require,omitempty"`
	}
	v.Indexes, v.Keys = o.Indexes, append(v.Keys, o.Keys...)
	if len(v.Keys) == 0 {
		v.Keys = c.cfg.Keys
	}
	for _, note := range o.Checkpoints {
		v.Checkpoints = append(v.Checkpoints, string(note))
	}
	if c.trust != nil {
		c.trust.mu.Lock()
		note := bytes.Clone(c.trust.note)
		c.trust.mu.Unlock()
		if note != nil {
			v.Checkpoints = append(v.Checkpoints, string(note))
		}
	}
	if o.Policy != nil {
		text, err := o.Policy.MarshalText()
		if err != nil {
			return nil, err
		}
		v.Policy = string(text)
	}
	if o.Require != proof.RequireAll {
		v.Require = o.Require.String()
	}
	return json.Marshal(v)
}
