package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// stateName is the file in a tenant's directory that keeps what was verified when. Losing it costs a round of reading.
const stateName = "monitor.json"

const (
	saveEvery = 10 // ticks between two times that changes are written down
	lookEvery = 10 // ticks between two looks at files that are wrong, and at those that are not watched
)

// progress is what is remembered of a log across restarts.
type progress struct {
	Open time.Time `json:"open,omitzero"` // when the open segment was last due, and run
	Full time.Time `json:"full,omitzero"`

	Sealed uint64 `json:"sealed"` // segments that begin below were read after they were sealed

	Began    time.Time `json:"began,omitzero"`    // the scrubber's round
	Next     uint64    `json:"next"`              // first index from which the round goes on
	Scrubbed time.Time `json:"scrubbed,omitzero"` // when the last whole round began: everything was read since

	Last     immutable.Verdict `json:"last,omitempty"`
	LastTime time.Time         `json:"lastTime,omitzero"`
	LastSize uint64            `json:"lastSize,omitempty"`
	Unread   uint64            `json:"unread,omitempty"`
	Refuted  bool              `json:"refuted,omitempty"`

	Retained time.Time `json:"retained,omitzero"` // when what had expired was last retired, or a hold forbade it
}

type stateFile struct {
	Format int                 `json:"format"`
	Logs   map[string]progress `json:"logs"`
}

// due starts what the schedule asks for, and reads what was sealed. A run that was missed while the service was down is
// run once.
func (m *Monitor) due(now time.Time) {
	for _, s := range m.states() {
		settings := s.l.Settings().Verify
		for _, run := range []struct {
			expr  string
			scope Scope
			last  *time.Time
		}{{settings.Open, Open, &s.kept.Open}, {settings.Full, Full, &s.kept.Full}} {
			if run.scope == Open && s.l.Err() != nil {
				continue // a log that cannot be written has no open segment
			}
			m.mu.Lock()
			last := *run.last
			m.mu.Unlock()
			next, err := tenant.NextRun(run.expr, last)
			if err != nil || next.IsZero() || next.After(now) {
				continue
			}
			m.mu.Lock()
			*run.last = now
			m.dirty[s.l.Tenant()] = true
			m.mu.Unlock()
			m.begin(s, run.scope, OnSchedule)
		}
		m.dueSealed(s)
	}
}

func (m *Monitor) dueSealed(s *logState) {
	if s.l.Err() != nil {
		return
	}
	sealed := s.l.SealedSegments()
	m.mu.Lock()
	is := len(sealed) > 0 && slices.Max(sealed) >= s.kept.Sealed && s.guard != nil && !s.busy
	m.mu.Unlock()
	if is {
		m.begin(s, Segment, OnSeal)
	}
}

// load takes over what was written down of a log. A log that is not known begins now: it is not all due at once. m.mu is held.
func (m *Monitor) load(s *logState) {
	now := m.o.Now().UTC()
	fresh := progress{Open: now, Full: now, Began: now, Retained: now}
	if sealed := s.l.SealedSegments(); len(sealed) > 0 {
		fresh.Sealed = slices.Max(sealed) + 1
	}
	s.kept = fresh
	m.dirty[s.l.Tenant()] = true // when it began is what a missed run is known by
	data, err := s.l.Tenant().ReadFile(stateName)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var f stateFile
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err == nil && f.Format != 1 {
		err = fmt.Errorf("format %d; this program knows 1", f.Format)
	}
	if err != nil {
		m.logger.Warn("what was verified when is not known; it begins anew", "tenant", s.l.Tenant().Name(), "error", err)
		return
	}
	p, ok := f.Logs[s.l.Name()]
	if !ok {
		return
	}
	for _, t := range []*time.Time{&p.Open, &p.Full, &p.Began, &p.Retained} {
		if t.IsZero() || t.After(now) { // a clock that was set back would stop everything until it catches up
			*t = now
		}
	}
	s.kept = p
}

// save writes down what has changed.
func (m *Monitor) save() error {
	m.mu.Lock()
	files := map[*tenant.Tenant]*stateFile{}
	for t := range m.dirty {
		files[t] = &stateFile{Format: 1, Logs: map[string]progress{}}
	}
	for l, s := range m.logs {
		if f := files[l.Tenant()]; f != nil {
			f.Logs[l.Name()] = s.kept
		}
	}
	clear(m.dirty)
	m.mu.Unlock()
	var errs []error
	for t, f := range files {
		data, err := json.Marshal(f)
		if err == nil {
			err = t.WriteFile(stateName, append(data, '\n'))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tenant %s: write %s: %w", t.Name(), stateName, err))
			m.mu.Lock()
			m.dirty[t] = true
			m.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}
