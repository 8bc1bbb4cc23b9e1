package source

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/hooks"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of what is counted, which strangers cause.
const (
	recordAfter = time.Second      // from a refusal to its entry in the log of the log
	recordEvery = 30 * time.Second // between two entries of the same refusals
	maxRefusals = 1000             // of one installation that are told apart at a time; what is beyond has the name "others"
	maxSenders  = 1000             // that are told apart in one tenant
	maxSample   = 256              // bytes of what was refused
	others      = "others"
)

// Reasons of refusals that are about authenticity, beside those of package hooks. Any other reason says that something could not be
// read.
const (
	ReasonUnknown  = "unknown"  // there is no such source, log or tenant
	ReasonConflict = "conflict" // a delivery came again with another content
	ReasonReplay   = "replay"
)

var authenticity = []string{hooks.ReasonSignature, hooks.ReasonStale, hooks.ReasonFuture, ReasonUnknown, ReasonConflict, ReasonReplay}

// Traffic is what came from one sender since the start of the service.
type Traffic struct {
	Log      string            `json:"log"`
	Kind     string            `json:"kind"`
	Name     string            `json:"name"` // a source's id, a listener, a principal
	Accepted uint64            `json:"accepted"`
	Rejected map[string]uint64 `json:"rejected"` // by reason
	LastSeen time.Time         `json:"lastSeen,omitzero"`
}

// Count is how much came of one kind, in all tenants.
type Count struct {
	Accepted uint64
	Rejected map[string]uint64 // by reason
}

// sender is whom Traffic is counted for.
type sender struct{ log, kind, name string }

// refusal is what refusals that share entries have in common.
type refusal struct{ tenant, log, kind, name, reason string }

// tally is how many there were since the last entry.
type tally struct {
	count    int
	sample   string
	recorded time.Time
}

// traffic counts, and records refusals.
type traffic struct {
	r *Registry

	mu      sync.Mutex // guards what follows; never held across I/O
	senders map[string]map[sender]*Traffic
	kinds   map[string]*Count
	tallies map[refusal]*tally
	timer   *time.Timer // nil while there is nothing to record
	at      time.Time   // when it fires
	closed  bool

	flushing sync.Mutex // one records at a time
}

func (t *traffic) init(r *Registry) {
	t.r, t.senders, t.kinds, t.tallies = r, map[string]map[sender]*Traffic{}, map[string]*Count{}, map[refusal]*tally{}
}

// Seen says that entries of a sender are durable. name is the source's id, or what else names it.
func (r *Registry) Seen(tenantName, logName, kind, name string, accepted int) {
	t := &r.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sender(tenantName, sender{logName, kind, name})
	s.Accepted += uint64(max(accepted, 0))
	s.LastSeen = r.now().UTC()
	t.kind(kind).Accepted += uint64(max(accepted, 0))
}

// Rejected says that something was refused, with a constant reason and how it begins. It is counted, and found in the tenant's log of
// the log (or the installation's, where there is no such tenant): as SECURITY where its authenticity is at fault, as WARN where it
// cannot be read; refusals of one kind share an entry. It does not wait.
func (r *Registry) Rejected(_ context.Context, tenantName, logName, kind, name, reason string, sample []byte) {
	tenantName, logName = r.existing(tenantName, logName)
	t := &r.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	if tenantName != "" {
		t.sender(tenantName, sender{logName, kind, name}).Rejected[reason]++
	}
	t.kind(kind).Rejected[reason]++
	key := refusal{tenantName, logName, kind, name, reason}
	if t.tallies[key] == nil && len(t.tallies) >= maxRefusals {
		key = refusal{kind: kind, name: others, reason: reason}
	}
	x := t.tallies[key]
	if x == nil {
		x = &tally{}
		t.tallies[key] = x
	}
	x.count++
	x.sample = strings.ToValidUTF8(string(sample[:min(len(sample), maxSample)]), "\uFFFD")
	t.schedule(max(recordAfter, recordEvery-r.now().Sub(x.recorded)))
}

// existing leaves out names of things that are not there: a stranger chooses them.
func (r *Registry) existing(tenantName, logName string) (string, string) {
	t, err := r.in.Tenant(tenantName)
	if err != nil {
		return "", ""
	}
	if _, err := t.Log(logName); errors.Is(err, tenant.ErrNotFound) {
		logName = ""
	}
	return tenantName, logName
}

// sender is the count of one. The mutex is held.
func (t *traffic) sender(tenantName string, s sender) *Traffic {
	of := t.senders[tenantName]
	if of == nil {
		of = map[sender]*Traffic{}
		t.senders[tenantName] = of
	}
	if of[s] == nil && len(of) >= maxSenders {
		s = sender{"", s.kind, others}
	}
	x := of[s]
	if x == nil {
		x = &Traffic{Log: s.log, Kind: s.kind, Name: s.name, Rejected: map[string]uint64{}}
		of[s] = x
	}
	return x
}

func (t *traffic) kind(kind string) *Count {
	c := t.kinds[kind]
	if c == nil {
		c = &Count{Rejected: map[string]uint64{}}
		t.kinds[kind] = c
	}
	return c
}

// schedule has refusals recorded in a while, or earlier if that is due already. The mutex is held.
func (t *traffic) schedule(in time.Duration) {
	at := t.r.now().Add(in)
	if t.closed || t.timer != nil && !at.Before(t.at) {
		return
	}
	if t.timer != nil {
		t.timer.Stop() // where it fires all the same, nothing is due yet
	}
	t.at = at
	t.timer = time.AfterFunc(in, func() {
		if err := t.flush(context.Background(), false); err != nil {
			t.r.logger.Error("refusals of sources could not be recorded; it is tried again", "error", err)
		}
	})
}

// due takes what is to be recorded now out of the tallies, and lets go of those that have been silent.
func (t *traffic) due(all bool) map[refusal]tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer, t.closed = nil, t.closed || all
	now, next := t.r.now(), time.Duration(-1)
	out := map[refusal]tally{}
	for key, x := range t.tallies {
		wait := recordEvery - now.Sub(x.recorded)
		switch {
		case x.count > 0 && (all || wait <= 0):
			out[key] = *x
			x.count, x.recorded = 0, now
		case x.count > 0:
			if next < 0 || wait < next {
				next = wait
			}
		case wait <= 0:
			delete(t.tallies, key)
		}
	}
	if next >= 0 {
		t.schedule(next)
	}
	return out
}

// flush records. What cannot be recorded is counted on.
func (t *traffic) flush(ctx context.Context, all bool) error {
	t.flushing.Lock()
	defer t.flushing.Unlock()
	due := t.due(all)
	type group struct {
		tenant string
		action tenant.Action
	}
	groups := map[group][]refusal{}
	for key := range due {
		g := group{key.tenant, tenant.SourceMalformed}
		if slices.Contains(authenticity, key.reason) {
			g.action = tenant.SourceRejected
		}
		groups[g] = append(groups[g], key)
	}
	var errs []error
	for g, keys := range groups {
		fields := make([]immutable.Fields, len(keys))
		for i, key := range keys {
			fields[i] = key.fields(due[key])
		}
		if err := t.owner(g.tenant).RecordAll(ctx, nil, g.action, fields); err != nil {
			errs = append(errs, err)
			t.keep(keys, due)
		}
	}
	return errors.Join(errs...)
}

func (key *refusal) fields(x tally) immutable.Fields {
	f := immutable.Fields{"kind": key.kind, "reason": key.reason, "count": x.count, "sample": x.sample}
	if key.log != "" {
		f["log"] = key.log
	}
	if key.name != "" {
		f["source"] = key.name
	}
	return f
}

// keep counts on what could not be recorded.
func (t *traffic) keep(keys []refusal, due map[refusal]tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		x := due[key]
		if back := t.tallies[key]; back != nil {
			back.count += x.count
		} else {
			t.tallies[key] = &x
		}
	}
	t.schedule(recordEvery)
}

func (t *traffic) owner(name string) *tenant.Tenant {
	if x, err := t.r.in.Tenant(name); err == nil && x.Err() == nil {
		return x
	}
	return t.r.in.System()
}

// Close records the refusals that are not recorded yet. Call it before the installation's.
func (r *Registry) Close(ctx context.Context) error {
	r.traffic.mu.Lock()
	if r.traffic.timer != nil {
		r.traffic.timer.Stop()
	}
	r.traffic.mu.Unlock()
	return r.traffic.flush(ctx, true)
}

// Traffic is what came to a tenant since the start, by sender.
func (r *Registry) Traffic(tenantName string) []Traffic {
	t := &r.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Traffic, 0, len(t.senders[tenantName]))
	for _, x := range t.senders[tenantName] {
		c := *x
		c.Rejected = maps.Clone(x.Rejected)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Traffic) int {
		return strings.Compare(a.Kind+"\x00"+a.Log+"\x00"+a.Name, b.Kind+"\x00"+b.Log+"\x00"+b.Name)
	})
	return out
}

// Counts are those of all tenants, by kind.
func (r *Registry) Counts() map[string]Count {
	t := &r.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]Count, len(t.kinds))
	for kind, c := range t.kinds {
		out[kind] = Count{c.Accepted, maps.Clone(c.Rejected)}
	}
	return out
}
