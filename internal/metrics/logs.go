package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// fresh is how long the numbers of a log are given out again: scrapers that come often cost one look.
const fresh = time.Second

// logs says how each log does.
type logs struct {
	o Options
	d map[string]*prometheus.Desc

	mu   sync.Mutex // one look at a time, and guards what follows
	seen map[*tenant.Log]*look
}

// look is what was seen of a log.
type look struct {
	at    time.Time
	stats *immutable.Stats // nil: it could not be read
	since time.Time        // entries wait since then, and no checkpoint came
}

// names are the metrics of a log, without their prefix, and their labels beside tenant and log.
var names = []struct{ name, help, label string }{
	{"up", "1 while the log is open and takes entries.", ""},
	{"entries_total", "Entries in the log.", "level"},
	{"size_bytes", "Everything in the log's directory.", ""},
	{"queue_entries", "Entries that are admitted and not yet durable.", ""},
	{"sync_duration_seconds", "How long the disk took for the last batch.", ""},
	{"segments", "Segments, sealed or not.", ""},
	{"segments_pending", "Segments that are full and not yet sealed.", ""},
	{"quarantined_files", "Files that recovery moved aside.", ""},
	{"clock_held_seconds", "How far the clock was behind the last entry.", ""},
	{"failing", "1 where the last attempt failed: to publish a checkpoint, to seal a segment, to rotate keys; or where a file is damaged.", "what"},
	{"checkpoint_entries", "Entries that the newest checkpoint covers.", ""},
	{"checkpoint_lag_entries", "Entries that no checkpoint covers yet.", ""},
	{"checkpoint_age_seconds", "How long entries have waited while no checkpoint came, as far as scrapes saw; 0 while all are covered.", ""},
	{"epoch", "Number of the signing keys' epoch.", ""},
	{"epoch_start_timestamp_seconds", "When the signing keys came into use.", ""},
	{"witness_satisfied", "1 while the newest checkpoint has its quorum of witnesses.", ""},
	{"witness_unmet_seconds", "How long checkpoints have lacked their quorum.", ""},
	{"witness_lag_entries", "Entries that the newest checkpoint covers and no cosigned one does.", ""},
	{"time_stamped_timestamp_seconds", "The newest time stamp of an authority.", ""},
	{"verifications_total", "Verifications, by result.", "result"},
	{"refuted", "1 while the evidence is against the log.", ""},
	{"last_verification_timestamp_seconds", "When the last full verification ended.", ""},
	{"scrubbed_timestamp_seconds", "Everything was read and checked again since then.", ""},
	{"scrub_progress_ratio", "Share of the round of re-reading that is under way.", ""},
	{"file_alarms_total", "Files that were not what they must be.", ""},
}

// tenantNames are the metrics of a tenant's quota.
var tenantNames = []struct{ name, help string }{
	{"tenant_entries_admitted_total", "Entries that a tenant's quota let through, since the start."},
	{"tenant_refused_total", "Appends and streams that a tenant's quota refused, since the start."},
	{"tenant_streams", "Open streams."},
}

func newLogs(o Options) *logs {
	l := &logs{o: o, d: map[string]*prometheus.Desc{}, seen: map[*tenant.Log]*look{}}
	for _, n := range names {
		labels := []string{"tenant", "log"}
		if n.label != "" {
			labels = append(labels, n.label)
		}
		l.d[n.name] = prometheus.NewDesc("immutable_log_"+n.name, n.help, labels, nil)
	}
	for _, n := range tenantNames {
		l.d[n.name] = prometheus.NewDesc("immutable_"+n.name, n.help, []string{"tenant"}, nil)
	}
	return l
}

func (l *logs) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range l.d {
		ch <- d
	}
}

func (l *logs) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	for _, t := range l.o.Installation.Tenants() {
		u := t.Usage()
		for name, v := range map[string]float64{"tenant_entries_admitted_total": float64(u.Entries), "tenant_refused_total": float64(u.Refused)} {
			ch <- prometheus.MustNewConstMetric(l.d[name], prometheus.CounterValue, v, t.Name())
		}
		ch <- prometheus.MustNewConstMetric(l.d["tenant_streams"], prometheus.GaugeValue, float64(u.Streams), t.Name())
		for _, log := range t.Logs() {
			l.collect(ctx, ch, t.Name(), log)
		}
	}
}

func (l *logs) collect(ctx context.Context, ch chan<- prometheus.Metric, tenantName string, log *tenant.Log) {
	put := func(kind prometheus.ValueType) func(string, float64, ...string) {
		return func(name string, v float64, label ...string) {
			ch <- prometheus.MustNewConstMetric(l.d[name], kind, v, append([]string{tenantName, log.Name()}, label...)...)
		}
	}
	gauge, counter := put(prometheus.GaugeValue), put(prometheus.CounterValue)
	seen := l.look(ctx, log)
	s := seen.stats
	gauge("up", flag(log.Err() == nil && s != nil && s.Writable))
	if s != nil {
		for level, n := range s.Levels {
			counter("entries_total", float64(n), level)
		}
		gauge("size_bytes", float64(s.FileSize))
		gauge("queue_entries", float64(s.WaitingEntries))
		gauge("sync_duration_seconds", s.LastSyncSeconds)
		gauge("segments", float64(s.Segments))
		gauge("segments_pending", float64(s.Pending))
		gauge("quarantined_files", float64(s.Quarantined))
		gauge("clock_held_seconds", s.ClockHeldSeconds)
		for what, failed := range map[string]bool{"checkpoint": s.CheckpointError != "", "seal": s.SealError != "", "rotation": s.RotationError != "", "damage": s.Damage != ""} {
			gauge("failing", flag(failed), what)
		}
		if s.Signed {
			l.signed(gauge, seen)
		}
	}
	if l.o.Verification != nil {
		verified(gauge, counter, l.o.Verification(log))
	}
}

func (l *logs) signed(gauge func(string, float64, ...string), seen *look) {
	s := seen.stats
	lag, age := s.TotalEntries-min(s.TotalEntries, s.CheckpointSize), time.Duration(0)
	if lag > 0 {
		age = seen.age()
	}
	gauge("checkpoint_entries", float64(s.CheckpointSize))
	gauge("checkpoint_lag_entries", float64(lag))
	gauge("checkpoint_age_seconds", age.Seconds())
	gauge("epoch", float64(s.Epoch))
	if s.EpochBegan != nil && !s.EpochBegan.IsZero() {
		gauge("epoch_start_timestamp_seconds", seconds(*s.EpochBegan))
	}
	if w := s.Witnessing; w != nil {
		unmet := time.Duration(0)
		if w.UnmetSince != nil {
			unmet = max(seen.at.Sub(*w.UnmetSince), 0)
		}
		gauge("witness_satisfied", flag(w.Satisfied))
		gauge("witness_unmet_seconds", unmet.Seconds())
		gauge("witness_lag_entries", float64(s.CheckpointSize-min(s.CheckpointSize, w.CosignedSize)))
	}
	if st := s.TimeStamping; st != nil && st.Time != nil {
		gauge("time_stamped_timestamp_seconds", seconds(*st.Time))
	}
}

// results are always there, so that a rate over the first refutation is not missed.
var results = []string{string(immutable.Proven), string(immutable.Consistent), string(immutable.Unknown), string(immutable.Refuted), "failed"}

func verified(gauge, counter func(string, float64, ...string), v Verification) {
	for _, r := range results {
		counter("verifications_total", float64(v.Results[r]), r)
	}
	gauge("refuted", flag(v.Refuted))
	if !v.Last.IsZero() {
		gauge("last_verification_timestamp_seconds", seconds(v.Last))
	}
	if !v.Scrubbed.IsZero() {
		gauge("scrubbed_timestamp_seconds", seconds(v.Scrubbed))
	}
	gauge("scrub_progress_ratio", v.ScrubShare)
	counter("file_alarms_total", float64(v.FileAlarms))
}

// look reads a log's numbers, or gives out those of a moment ago.
func (l *logs) look(ctx context.Context, log *tenant.Log) *look {
	now := l.o.Now()
	before := l.seen[log]
	if before != nil && before.stats != nil && now.Sub(before.at) < fresh && !now.Before(before.at) {
		return before
	}
	var stats *immutable.Stats
	if log.Log != nil {
		if s, err := log.Stats(ctx); err == nil { // else up says 0
			stats = s
		}
	}
	seen := newLook(before, now, stats)
	l.seen[log] = seen
	return seen
}

// newLook remembers since when the newest checkpoint has been the newest while entries wait for another.
func newLook(before *look, at time.Time, s *immutable.Stats) *look {
	seen := &look{at: at, stats: s, since: at}
	if before != nil && before.stats != nil && s != nil && before.stats.CheckpointSize == s.CheckpointSize && before.stats.TotalEntries > before.stats.CheckpointSize {
		seen.since = before.since
	}
	return seen
}

func (s *look) age() time.Duration { return s.at.Sub(s.since) }
