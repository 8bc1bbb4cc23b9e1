package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Limits of the watch.
const (
	maxTouched  = 1024                  // files of one log that wait to be looked at; beyond, all are
	gather      = 50 * time.Millisecond // events within are looked at together
	watchShare  = 0.1                   // of one core, for reading again open segments that grow
	maxAlarms   = 100                   // files of one log whose state is remembered as wrong
	maxRecorded = 20                    // alarms of one log that are recorded within a minute
)

// fileWatch is the system's word on which files change, for all logs.
type fileWatch struct {
	w     *fsnotify.Watcher
	first chan struct{} // capacity 1: one guard at a time makes its first round

	mu   sync.Mutex
	dirs map[string]*logState

	budget budget
}

func (f *fileWatch) open(m *Monitor) (err error) {
	f.first, f.dirs = make(chan struct{}, 1), map[string]*logState{}
	f.w, err = fsnotify.NewBufferedWatcher(4096)
	return err
}

func (f *fileWatch) close() {
	if f.w != nil {
		_ = f.w.Close()
	}
}

// add watches directories of a log. It says whether it watches all of them.
func (f *fileWatch) add(s *logState, dirs []string) error {
	if f.w == nil {
		return errors.New("there is no watch")
	}
	var errs []error
	for _, dir := range dirs {
		f.mu.Lock()
		f.dirs[dir] = s
		f.mu.Unlock()
		errs = append(errs, f.w.Add(dir))
	}
	return errors.Join(errs...)
}

// run passes on what the system reports.
func (f *fileWatch) run(ctx context.Context, m *Monitor) {
	for {
		select {
		case e, ok := <-f.w.Events:
			if !ok {
				return
			}
			f.event(m, e)
		case err, ok := <-f.w.Errors:
			if !ok {
				return
			}
			m.logger.Warn("the watch of files lost events; every file is looked at", "error", err)
			m.sweepAll()
		case <-ctx.Done():
			return
		}
	}
}

func (f *fileWatch) event(m *Monitor, e fsnotify.Event) {
	f.mu.Lock()
	s, self := f.dirs[e.Name], true
	if s == nil {
		s, self = f.dirs[filepath.Dir(e.Name)], false
	}
	f.mu.Unlock()
	if s == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.events++
	if s.guard == nil {
		return // it looks at everything first
	}
	name := s.guard.Name(e.Name)
	switch {
	case self, name == "" && e.Has(fsnotify.Create|fsnotify.Remove|fsnotify.Rename) && s.guard.Parent(e.Name):
		s.sweep = true // a directory went, or came
	case name == "":
		return
	case len(s.touched) >= maxTouched:
		s.sweep = true
	default:
		s.touched[name] = true
	}
	s.wake()
}

func (s *logState) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

func (m *Monitor) sweepAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.logs {
		s.sweep = true
		s.wake()
	}
}

// lookAgain looks at files that were wrong, and at all files of logs that the system does not report on.
func (m *Monitor) lookAgain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.logs {
		for name := range s.alarms {
			s.touched[name] = true
		}
		if s.sweep = s.sweep || !s.watched; s.sweep || len(s.touched) > 0 {
			s.wake()
		}
	}
}

// guard looks at the files of one log whenever something happens to them, until ctx ends.
func (m *Monitor) guard(ctx context.Context, s *logState) {
	select {
	case m.files.first <- struct{}{}:
	case <-ctx.Done():
		return
	}
	g, err := s.l.Guard(ctx)
	<-m.files.first
	if g == nil || ctx.Err() != nil || errors.Is(err, immutable.ErrClosed) {
		if ctx.Err() == nil {
			m.logger.Error("the files of a log are not guarded", "tenant", s.l.Tenant().Name(), "log", s.l.Name(), "error", err)
		}
		return
	}
	err = m.files.add(s, g.Dirs())
	if err != nil {
		m.logger.Error("the files of a log are looked at every few seconds only: the system does not report on them", "tenant", s.l.Tenant().Name(), "log", s.l.Name(), "error", err)
	}
	m.mu.Lock()
	s.guard, s.watched, s.sweep = g, err == nil, true // what changed since the first look
	s.wake()
	m.mu.Unlock()
	late := map[string]bool{} // files that were not read whole
	for {
		var again <-chan time.Time
		var timer *time.Timer
		if len(late) > 0 {
			timer = time.NewTimer(max(m.files.budget.wait(), gather))
			again = timer.C
		}
		select {
		case <-s.poke:
		case <-again:
		case <-ctx.Done():
			return
		}
		if timer != nil {
			timer.Stop()
		}
		if !sleep(ctx, gather) {
			return
		}
		if err := m.lookAt(ctx, s, g, late); err != nil {
			return
		}
	}
}

// lookAt looks at what was touched. The error ends the guard: the log was closed, or the service stops.
func (m *Monitor) lookAt(ctx context.Context, s *logState, g *immutable.Guard, late map[string]bool) error {
	m.mu.Lock()
	names, sweep := s.touched, s.sweep
	s.touched, s.sweep = map[string]bool{}, false
	m.mu.Unlock()
	if sweep {
		if err := m.sweepOne(ctx, s, g); err != nil {
			return err
		}
	}
	maps.Copy(names, late)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		full := m.files.budget.take()
		began := time.Now()
		complete, err := g.Check(ctx, name, full)
		if full {
			m.files.budget.used(time.Since(began))
		}
		if err := m.checked(s, name, err); err != nil {
			return err
		}
		if delete(late, name); !complete && err == nil && len(late) < maxTouched {
			late[name] = true
		}
	}
	return nil
}

func (m *Monitor) sweepOne(ctx context.Context, s *logState, g *immutable.Guard) error {
	if err := m.files.add(s, g.Dirs()); err != nil && m.files.w != nil { // also of directories that were made since
		m.logger.Debug("not all directories of a log can be watched", "error", err)
	}
	bad, err := g.Sweep(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		if err := m.checked(s, name, bad[name]); err != nil {
			return err
		}
	}
	m.mu.Lock()
	for name := range s.alarms {
		if bad[name] == nil {
			s.touched[name] = true
		}
	}
	m.mu.Unlock()
	return nil
}

// checked takes the outcome of a look at a file: an alarm, or the end of one. It returns an error that ends the looking.
func (m *Monitor) checked(s *logState, name string, err error) error {
	switch {
	case err == nil:
		m.mu.Lock()
		_, was := s.alarms[name]
		delete(s.alarms, name)
		none := len(s.alarms) == 0
		m.mu.Unlock()
		if was && none {
			m.begin(s, Full, OnWatch) // which ends the alert, if it finds nothing
		}
		return nil
	case errors.Is(err, immutable.ErrClosed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	m.alarm(s, name, err, OnWatch)
	return nil
}

// alarm says that a file is not what it must be, once as long as it is wrong in the same way.
func (m *Monitor) alarm(s *logState, name string, err error, why Trigger) {
	text := err.Error()
	m.mu.Lock()
	same := s.alarms[name] == text
	if len(s.alarms) < maxAlarms || s.alarms[name] != "" {
		s.alarms[name] = text
	}
	if !same {
		s.alarmed++
	}
	record := !same && s.mayRecord(m.o.Now())
	m.mu.Unlock()
	if same {
		return
	}
	f := immutable.Fields{"log": s.l.Name(), "file": cut(name, 300), "what": cut(text, 1000), "trigger": string(why)}
	d := map[string]string{"file": name, "what": text}
	var c *immutable.CorruptError
	if errors.As(err, &c) {
		f["offset"], d["offset"] = c.Offset, fmt.Sprint(c.Offset)
		f["what"], d["what"] = cut(c.What, 500), c.What
		for k, v := range map[string]string{"got": c.Got, "want": c.Want} {
			if v != "" {
				f[k], d[k] = cut(v, 300), v
			}
		}
	}
	m.logger.Error("a file of a log is not what it must be", "tenant", s.l.Tenant().Name(), "log", s.l.Name(), "file", name, "error", err)
	m.event(s, alert.FileChanged, false, fmt.Sprintf("log %s: %s: %s", s.l.Name(), name, d["what"]), d)
	if record {
		m.record(s, nil, tenant.FileChanged, f)
	}
	m.begin(s, Full, why)
}

// mayRecord bounds what one log's alarms write: who changes files back and forth shall not fill the log of the log.
func (s *logState) mayRecord(now time.Time) bool {
	if now.Sub(s.recordedFrom).Abs() > time.Minute {
		s.recordedFrom, s.recorded = now, 0
	}
	s.recorded++
	return s.recorded <= maxRecorded
}

// budget bounds how much of the time open segments that grow are read again. What has changed without having grown is read
// at once, whatever it costs.
type budget struct {
	mu   sync.Mutex
	next time.Time
}

func (b *budget) take() bool { return b.wait() <= 0 }

func (b *budget) wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Until(b.next)
}

func (b *budget) used(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = time.Now().Add(time.Duration(float64(d) * (1 - watchShare) / watchShare))
}
