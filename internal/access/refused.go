package access

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of the records of refused authentications, which strangers cause.
const (
	refusedEvery = time.Second // between two entries of one source and kind
	maxRefused   = 1_000       // sources and kinds within that time; the rest is counted under one name
	otherSources = "others"
)

// refusals counts refused authentications and records the counts every second: a SECURITY entry for each source and kind.
type refusals struct {
	a *Authenticator

	mu     sync.Mutex // guards what follows; never held across I/O
	counts map[refusal]int
	timer  *time.Timer // nil while there is nothing to record

	flushing sync.Mutex // one records at a time
}

// refusal is what refused authentications that are counted together have in common.
type refusal struct{ owner, source, kind, id string }

// count takes a refusal. It never waits.
func (rs *refusals) count(r *http.Request, err error) {
	kind, owner, id, ok := kindOf(err)
	if !ok || kind == "missing" {
		return // could not be told, or nothing was presented that could be refused
	}
	key := refusal{owner, source(r), kind, id}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if _, there := rs.counts[key]; !there && len(rs.counts) >= maxRefused {
		key = refusal{source: otherSources, kind: kind}
	}
	if rs.counts == nil {
		rs.counts = map[refusal]int{}
	}
	rs.counts[key]++
	if rs.timer == nil {
		rs.timer = time.AfterFunc(refusedEvery, func() {
			if err := rs.flush(context.Background()); err != nil {
				rs.a.logger.Error("refused authentications could not be recorded", "error", err)
			}
		})
	}
}

// flush records what was counted. What cannot be recorded is counted on.
func (rs *refusals) flush(ctx context.Context) error {
	rs.flushing.Lock()
	defer rs.flushing.Unlock()
	rs.mu.Lock()
	counts := rs.counts
	rs.counts = nil
	if rs.timer != nil {
		rs.timer.Stop()
		rs.timer = nil
	}
	rs.mu.Unlock()
	byOwner := map[string][]refusal{}
	for key := range counts {
		byOwner[key.owner] = append(byOwner[key.owner], key)
	}
	var errs []error
	for owner, keys := range byOwner {
		fields := make([]immutable.Fields, len(keys))
		for i, key := range keys {
			fields[i] = immutable.Fields{"source": key.source, "kind": key.kind, "count": counts[key]}
			if key.id != "" {
				fields[i]["principal"] = key.id
			}
		}
		if err := rs.owner(owner).RecordAll(ctx, nil, tenant.AuthRefused, fields); err != nil {
			errs = append(errs, err)
			rs.keep(keys, counts)
		}
	}
	return errors.Join(errs...)
}

// keep counts on what could not be recorded. It is tried again at the next refusal.
func (rs *refusals) keep(keys []refusal, counts map[refusal]int) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.counts == nil {
		rs.counts = map[refusal]int{}
	}
	for _, key := range keys {
		n := counts[key]
		if _, there := rs.counts[key]; !there && len(rs.counts) >= maxRefused {
			key = refusal{source: otherSources, kind: key.kind}
		}
		rs.counts[key] += n
	}
}

// owner is whose log of the log hears of it: the tenant's, where one is known, else the installation's.
func (rs *refusals) owner(name string) *tenant.Tenant {
	if name != "" {
		if t, err := rs.a.in.Tenant(name); err == nil && t.Err() == nil {
			return t
		}
	}
	return rs.a.in.System()
}
