package alert

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	quotaRecent = time.Minute     // a refusal so recent raises the alert
	quotaQuiet  = 5 * time.Minute // without a refusal end it
	diskMargin  = 1.0             // percent above the limit that end the alert
)

// mark is how many entries a log had at a moment: they must be under a checkpoint soon.
type mark struct {
	size uint64
	at   time.Time
}

// conditions looks at what the service knows of itself.
func (m *Manager) conditions(ta *tenantAlerts, now time.Time) {
	m.mu.Lock()
	limits := ta.rules.Limits.withDefaults()
	m.mu.Unlock()
	if ta.t.Name() == tenant.SystemName {
		m.disk(ta, limits.DiskFreePercent)
	}
	m.quota(ta, now)
	for _, l := range ta.t.Logs() {
		err := l.Err()
		e := Event{Key: fmt.Sprintf("%s/%s", LogUnavailable, l.Name()), Log: l.Name(), Kind: LogUnavailable, Resolved: err == nil}
		if err != nil {
			e.Summary, e.Details = fmt.Sprintf("log %s cannot be appended to: %v", l.Name(), err), map[string]string{"error": err.Error()}
		}
		m.set(ta, &e)
		if err == nil {
			m.checkpointLag(ta, l, time.Duration(limits.CheckpointLag), now)
			m.witnessLag(ta, l, time.Duration(limits.WitnessLag), now)
		}
	}
}

// set raises or resolves a condition of a tenant.
func (m *Manager) set(ta *tenantAlerts, e *Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Tenant = ta.t.Name()
	m.raise(ta, e, "", nil, 0)
}

func (m *Manager) disk(ta *tenantAlerts, limit float64) {
	free, size, err := disk(m.o.Installation.Dir())
	if err != nil || size == 0 {
		return
	}
	percent := 100 * float64(free) / float64(size)
	e := Event{Key: string(DiskLow), Kind: DiskLow, Details: map[string]string{"freeBytes": fmt.Sprint(free), "sizeBytes": fmt.Sprint(size)}}
	switch {
	case limit < 0, percent > limit+diskMargin:
		e.Resolved, e.Summary = true, fmt.Sprintf("%.1f %% of the disk are free", percent)
	case percent >= limit:
		return
	default:
		e.Summary = fmt.Sprintf("%.1f %% of the data directory's disk are free, below %v %%", percent, limit)
	}
	m.set(ta, &e)
}

func (m *Manager) quota(ta *tenantAlerts, now time.Time) {
	u := ta.t.Usage()
	since := now.Sub(u.LastRefused)
	e := Event{Key: string(QuotaExceeded), Kind: QuotaExceeded, Details: map[string]string{"what": u.LastWhat, "refused": fmt.Sprint(u.Refused)}}
	switch {
	case u.LastRefused.IsZero(), since > quotaQuiet:
		e.Resolved, e.Summary = true, "nothing was refused for a while"
	case since > quotaRecent:
		return
	default:
		e.Summary = fmt.Sprintf("tenant %s is over its quota: %s", ta.t.Name(), u.LastWhat)
	}
	m.set(ta, &e)
}

// checkpointLag compares the newest checkpoint with how many entries there were a while ago.
func (m *Manager) checkpointLag(ta *tenantAlerts, l *tenant.Log, limit time.Duration, now time.Time) {
	size := l.Size()
	var covered uint64
	if note, err := l.Checkpoint(); err == nil {
		covered = checkpointSize(note)
	}
	k := ta.marks[l.Name()]
	switch {
	case k == nil:
		ta.marks[l.Name()] = &mark{size, now}
		return
	case covered >= k.size: // so old entries are covered: look at those that are there now
		k.size, k.at = size, now
		m.set(ta, &Event{Key: lagKey(CheckpointLag, l), Log: l.Name(), Kind: CheckpointLag, Resolved: true, Summary: fmt.Sprintf("log %s is signed again, up to size %d", l.Name(), covered)})
		return
	}
	if lag := now.Sub(k.at); limit >= 0 && lag >= limit {
		m.set(ta, &Event{
			Key: lagKey(CheckpointLag, l), Log: l.Name(), Kind: CheckpointLag,
			Summary: fmt.Sprintf("log %s has entries without a signed checkpoint for %s", l.Name(), lag.Round(time.Second)),
			Details: map[string]string{"size": fmt.Sprint(size), "covered": fmt.Sprint(covered)},
		})
	}
}

func lagKey(kind Kind, l *tenant.Log) string { return fmt.Sprintf("%s/%s", kind, l.Name()) }

// checkpointSize is what the newest checkpoint says, unverified: whether it may say so is what verifications tell.
func checkpointSize(note []byte) uint64 {
	text, _, ok := strings.Cut(string(note), "\n\n")
	if c, err := proof.ParseCheckpoint(text + "\n"); ok && err == nil {
		return c.Size
	}
	return 0
}

func (m *Manager) witnessLag(ta *tenantAlerts, l *tenant.Log, limit time.Duration, now time.Time) {
	w := l.Witnessing()
	if w == nil {
		return
	}
	e := Event{Key: lagKey(WitnessLag, l), Log: l.Name(), Kind: WitnessLag, Details: map[string]string{"quorum": w.Quorum, "cosignedSize": fmt.Sprint(w.CosignedSize)}}
	switch {
	case w.UnmetSince == nil || limit < 0:
		e.Resolved, e.Summary = true, fmt.Sprintf("log %s has its quorum of witnesses again", l.Name())
	case now.Sub(*w.UnmetSince) < limit:
		return
	default:
		e.Summary = fmt.Sprintf("log %s lacks its quorum of witnesses for %s", l.Name(), now.Sub(*w.UnmetSince).Round(time.Second))
	}
	m.set(ta, &e)
}

// Limits of saved queries.
const (
	counterBuckets = 60      // of a window: matches leave it in so many steps
	maxPass        = 100_000 // matches that one look counts; the next one goes on
)

// counter counts the matches of one saved query. It reads each entry once.
type counter struct {
	q       Query
	next    uint64 // entries below were looked at
	started bool
	buckets [counterBuckets + 1]uint64
	ends    [counterBuckets + 1]int64 // number of the step that the bucket is of
	total   uint64                    // matches ever
	last    uint64                    // index of the newest
	failed  string
}

// step is the number of the step of the window that a moment lies in.
func (c *counter) step(at time.Time) int64 {
	return at.UnixNano() / max(int64(c.q.Window)/counterBuckets, 1)
}

func (c *counter) add(at, now time.Time) {
	n := min(c.step(at), c.step(now)) // a log whose clock ran ahead must not count for ever
	i := n % int64(len(c.buckets))
	if i < 0 {
		return // before 1970
	}
	if c.ends[i] != n {
		if c.ends[i] > n {
			return // older than the window
		}
		c.ends[i], c.buckets[i] = n, 0
	}
	c.buckets[i]++
	c.total++
}

// count is how many matches lie within the window, at most a sixtieth of it more.
func (c *counter) count(now time.Time) (sum uint64) {
	newest := c.step(now)
	for i, n := range c.ends {
		if n <= newest && n >= newest-counterBuckets {
			sum += c.buckets[i]
		}
	}
	return sum
}

// queries evaluates a tenant's saved queries.
func (m *Manager) queries(ctx context.Context, ta *tenantAlerts, now time.Time) {
	m.mu.Lock()
	list := append([]Query(nil), ta.rules.Queries...)
	m.mu.Unlock()
	kept := make(map[string]*counter, len(list))
	for _, q := range list {
		c := ta.counters[q.Name]
		if c == nil || !sameQuery(&c.q, &q) {
			c = &counter{}
		}
		c.q = q
		kept[q.Name] = c
		l, err := ta.t.Log(q.Log)
		if err == nil {
			err = c.read(ctx, l, now)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if text := err.Error(); c.failed != text {
				c.failed = text
				m.logger.Error("a saved query cannot be evaluated", "tenant", ta.t.Name(), "rule", q.Name, "error", err)
			}
			continue // what was counted so far says too little to end an alert
		}
		c.failed = ""
		m.judgeQuery(ta, c, now)
	}
	ta.counters = kept
}

func sameQuery(a, b *Query) bool {
	x, errX := json.Marshal([]any{a.Log, a.Query, a.Levels, a.Window})
	y, errY := json.Marshal([]any{b.Log, b.Query, b.Levels, b.Window})
	return errX == nil && errY == nil && string(x) == string(y)
}

// read counts the entries that came since the last look; at first those of the window before now.
func (c *counter) read(ctx context.Context, l *tenant.Log, now time.Time) error {
	size := l.Size()
	if c.started && size <= c.next {
		return nil
	}
	q := immutable.Query{Text: c.q.Query, Levels: c.q.Levels, Now: now, From: c.next, Limit: maxPass}
	if !c.started {
		q.Since = now.Add(-time.Duration(c.q.Window))
	}
	n := 0
	for e, err := range l.Entries(ctx, q) {
		if err != nil {
			return err
		}
		n++
		c.next = e.Index + 1
		if l.Name() == tenant.SystemName && aboutAlerts(&e) {
			continue
		}
		c.add(e.Timestamp, now)
		c.last = e.Index
	}
	if c.started = true; n < maxPass {
		c.next = max(c.next, size)
	}
	return nil
}

// aboutAlerts says whether an entry of the log of the log is about alerts. Those count for no query: an alert about them would
// make another such entry, and so on.
func aboutAlerts(e *immutable.Entry) bool {
	var m struct {
		Action string `json:"action"`
	}
	return json.Unmarshal(e.Metadata, &m) == nil && strings.HasPrefix(m.Action, "alert.")
}

func (m *Manager) judgeQuery(ta *tenantAlerts, c *counter, now time.Time) {
	n, q := c.count(now), &c.q
	e := Event{
		Key: fmt.Sprintf("%s/%s", SavedQuery, q.Name), Tenant: ta.t.Name(), Log: q.Log, Kind: SavedQuery, Severity: q.Severity,
		Summary: q.Summary, Resolved: n < q.Threshold,
	}
	window := time.Duration(q.Window)
	if e.Summary == "" {
		e.Summary = fmt.Sprintf("%d entries of log %s within %s match %s, the threshold is %d", n, q.Log, window, q.Name, q.Threshold)
	}
	if e.Resolved {
		e.Summary = ""
	}
	e.Details = map[string]string{
		"count": fmt.Sprint(n), "threshold": fmt.Sprint(q.Threshold), "window": window.String(), "query": q.Query, "newest": fmt.Sprint(c.last),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.raise(ta, &e, q.Name, q.Sinks, time.Duration(q.For))
}
