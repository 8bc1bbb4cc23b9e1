package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

const (
	retentionTime  = "10 3 * * *" // UTC, as a cron expression; settings that were changed count from then on
	retentionAgain = time.Hour    // after a failure
	maxRetire      = 100          // segments that one call of Retire retires
)

// ErrKeeps is returned where a log's settings let nothing expire.
var ErrKeeps = errors.New("the log keeps everything")

// Expired lists the segments of a log that its settings let go now: First, End and Bytes of each.
func (m *Monitor) Expired(ctx context.Context, l *tenant.Log) ([]immutable.Retired, error) {
	settings := l.Settings()
	if !retires(&settings) {
		return nil, ErrKeeps
	}
	return l.Expired(ctx, m.keep(&settings))
}

// Retire retires what has expired by the log's settings now, without waiting for the night: at most 100 segments, and more says
// that there are others. It never takes what the settings keep. While a hold is active the error is an *immutable.HeldError; done
// are those that were retired before an error.
func (m *Monitor) Retire(ctx context.Context, by *tenant.Principal, l *tenant.Log, reason string) (done []immutable.Retired, more bool, err error) {
	return m.retire(ctx, by, l, reason, maxRetire, func(int) error { return nil })
}

func retires(s *tenant.LogSettings) bool { return s.KeepDays > 0 && s.Expired != "keep" }

// keep is how old an entry must be to go, for the log, which reads its own clock.
func (m *Monitor) keep(s *tenant.LogSettings) time.Duration {
	return max(0, time.Since(m.o.Now().Add(-time.Duration(s.KeepDays)*24*time.Hour)))
}

// retention retires what has expired, every night, one log at a time, and no more than the share of the time that the monitor
// has. What was missed while the service was down is made up for.
func (m *Monitor) retention(ctx context.Context) {
	for {
		for _, s := range m.states() {
			if now := m.o.Now().UTC(); m.retentionDue(s, now) {
				m.retain(ctx, s, now)
			}
		}
		if !sleep(ctx, tickEvery) {
			return
		}
	}
}

func (m *Monitor) retentionDue(s *logState, now time.Time) bool {
	settings := s.l.Settings()
	m.mu.Lock()
	defer m.mu.Unlock()
	next, err := tenant.NextRun(retentionTime, s.kept.Retained)
	if err != nil || next.After(now) || s.retainAgain.After(now) || s.l.Err() != nil {
		return false
	}
	if !retires(&settings) { // a setting that comes later shall not find a run that was missed
		m.retained(s, now)
		return false
	}
	return true
}

// retained notes that the night's run is over. m.mu is held.
func (m *Monitor) retained(s *logState, now time.Time) {
	s.kept.Retained, s.retainAgain = now, time.Time{}
	m.dirty[s.l.Tenant()] = true
}

// retain is one log's run. It ends for today when it is done or when a hold is active, and is tried again when it fails.
func (m *Monitor) retain(ctx context.Context, s *logState, now time.Time) {
	settings := s.l.Settings()
	reason := fmt.Sprintf("the log's settings keep entries for %d days", settings.KeepDays)
	_, _, err := m.retire(ctx, nil, s.l, reason, -1, m.pacer(ctx))
	_, held := errors.AsType[*immutable.HeldError](err)
	if err != nil && !held {
		if ctx.Err() != nil || errors.Is(err, immutable.ErrClosed) {
			return
		}
		m.mu.Lock()
		s.retainAgain = now.Add(retentionAgain)
		m.mu.Unlock()
		m.logger.Error("expired segments are not retired; it is tried again in an hour", "tenant", s.l.Tenant().Name(), "log", s.l.Name(), "error", err)
		m.event(s, alert.RetentionFailed, false, fmt.Sprintf("log %s: expired segments are not retired", s.l.Name()), map[string]string{"error": cut(err.Error(), 1000)})
		return
	}
	m.mu.Lock()
	m.retained(s, now)
	m.mu.Unlock()
	m.event(s, alert.RetentionFailed, true, "", nil)
}

// retire retires at most so many expired segments (all where most is negative), one log at a time. What is to go is recorded in
// the tenant's log of the log before, and does not go where it cannot be; what went, or why it did not, after.
func (m *Monitor) retire(ctx context.Context, by *tenant.Principal, l *tenant.Log, reason string, most int, pace func(int) error) (done []immutable.Retired, more bool, err error) {
	select {
	case m.retiring <- struct{}{}:
		defer func() { <-m.retiring }()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	settings := l.Settings()
	list, err := m.Expired(ctx, l)
	if err != nil {
		if !errors.Is(err, ErrKeeps) && ctx.Err() == nil {
			m.recordRetention(l, by, tenant.RetentionFailed, immutable.Fields{"error": cut(err.Error(), 1000)})
		}
		return nil, false, err
	}
	if len(list) == 0 {
		return nil, false, nil
	}
	plan := retentionFields(list)
	plan["keepDays"], plan["expired"], plan["reason"] = settings.KeepDays, settings.Expired, reason
	if holds, err := l.Holds(ctx); err == nil && len(holds) > 0 {
		return nil, false, m.refuse(l, by, plan, &immutable.HeldError{Holds: holds})
	}
	if more = most >= 0 && len(list) > most; more {
		list = list[:most]
	}
	o := immutable.RetireOptions{Delete: settings.Expired == "delete", Reason: reason, By: "the service"}
	if by != nil {
		o.By = by.ID
	}
	if !o.Delete {
		if o.ColdDir, err = filepath.Abs(l.ColdDir()); err != nil {
			return nil, false, err
		}
		plan["cold"] = o.ColdDir
	}
	plan["log"] = l.Name()
	if err := l.Tenant().Record(ctx, by, tenant.RetentionBegin, plan); err != nil {
		return nil, false, err
	}
	for _, x := range list {
		if l.Settings() != settings { // they do not say so any more
			break
		}
		var r immutable.Retired
		if r, err = l.Retire(ctx, x.First, o); err != nil {
			break
		}
		done = append(done, r)
		if err = pace(0); err != nil {
			break
		}
	}
	return done, more, m.reportRetention(ctx, l, by, done, plan, err)
}

// reportRetention records what a run came to, and returns its error.
func (m *Monitor) reportRetention(ctx context.Context, l *tenant.Log, by *tenant.Principal, done []immutable.Retired, plan immutable.Fields, err error) error {
	if len(done) > 0 {
		f := retentionFields(done)
		for _, name := range []string{"keepDays", "expired", "reason", "cold"} {
			if v, ok := plan[name]; ok {
				f[name] = v
			}
		}
		m.recordRetention(l, by, tenant.SegmentRetire, f)
	}
	if held, ok := errors.AsType[*immutable.HeldError](err); ok { // it began in between
		return m.refuse(l, by, plan, held)
	}
	if err != nil && ctx.Err() == nil {
		m.recordRetention(l, by, tenant.RetentionFailed, immutable.Fields{"error": cut(err.Error(), 1000)})
	}
	return err
}

// refuse records that a hold keeps what has expired.
func (m *Monitor) refuse(l *tenant.Log, by *tenant.Principal, plan immutable.Fields, held *immutable.HeldError) error {
	f := immutable.Fields{}
	maps.Copy(f, plan)
	var ids []string
	for _, h := range held.Holds[:min(len(held.Holds), maxFindings)] {
		ids = append(ids, h.ID)
	}
	f["holds"] = ids
	m.recordRetention(l, by, tenant.RetentionHeld, f)
	return held
}

// retentionFields say which segments are meant.
func retentionFields(list []immutable.Retired) immutable.Fields {
	bytes := int64(0)
	for _, r := range list {
		bytes += r.Bytes
	}
	first, end := list[0].First, list[len(list)-1].End
	return immutable.Fields{"segments": len(list), "entries": end - first, "first": first, "end": end, "bytes": bytes}
}

// recordRetention writes what happened, also when whoever asked for it has gone.
func (m *Monitor) recordRetention(l *tenant.Log, by *tenant.Principal, action tenant.Action, f immutable.Fields) {
	f["log"] = l.Name()
	m.record(&logState{l: l}, by, action, f)
}
