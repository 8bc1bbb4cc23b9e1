package tenant

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// Log is one log of a tenant. The embedded log is nil where it could not be opened at all; Tenant.Log does not return such a one.
type Log struct {
	*immutable.Log

	tenant   *Tenant
	name     string
	settings atomic.Pointer[LogSettings]
	err      atomic.Pointer[error] // why it cannot be appended to
	checker  atomic.Pointer[Checker]
	checking sync.Mutex // a change of checker, and of the file that it is made of

	seen seenState // of watch
}

// Checker holds events to what was agreed on for a log, before they are counted and appended. It returns them, or others in their
// place, and leaves the caller's slice as it is; its error refuses all of them. It is called from many goroutines.
type Checker interface {
	Check(events []immutable.Event) ([]immutable.Event, error)
}

// Checker is what SetChecker set, or nil.
func (l *Log) Checker() Checker {
	if c := l.checker.Load(); c != nil {
		return *c
	}
	return nil
}

// SetChecker replaces the log's checker by what change returns, which may be nil; changes happen one after the other.
func (l *Log) SetChecker(change func() (Checker, error)) error {
	l.checking.Lock()
	defer l.checking.Unlock()
	c, err := change()
	if err != nil {
		return err
	}
	if c == nil {
		l.checker.Store(nil)
	} else {
		l.checker.Store(&c)
	}
	return nil
}

// Tenant is the log's owner.
func (l *Log) Tenant() *Tenant { return l.tenant }

// Name is the log's, within its tenant.
func (l *Log) Name() string { return l.name }

// Settings returns a copy.
func (l *Log) Settings() LogSettings { return *l.settings.Load() }

// Err says why the log could not be opened for appending; nil where it was. If Log.Log is not nil it can still be read.
func (l *Log) Err() error {
	if err := l.err.Load(); err != nil {
		return *err
	}
	return nil
}

// loadLogs reads the settings of the tenant's logs. A log whose settings were lost gets the defaults: they decide nothing
// that the log's own files do not know.
func (t *Tenant) loadLogs() error {
	names, err := t.in.fs.ReadDir(t.path(logsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !slices.Contains(names, SystemName) {
		names = append(names, SystemName)
	}
	for _, file := range names {
		name := strings.TrimSuffix(file, ".json")
		if CheckName("log", name) != nil || t.logs[name] != nil {
			continue // a temporary file of a crash
		}
		if file == name && name != SystemName { // a directory, which without log.json is nobody's log yet
			_, err := t.in.fs.Stat(t.path(logsDir, name, "log.json"))
			if _, err2 := t.in.fs.Stat(t.path(logsDir, name+".json")); err != nil && err2 != nil {
				continue
			}
		}
		t.logs[name] = t.loadLog(name)
	}
	t.system = t.logs[SystemName]
	return nil
}

func (t *Tenant) loadLog(name string) *Log {
	l := &Log{tenant: t, name: name}
	s, err := readSettings[LogSettings](t.in.fs, t.path(logsDir, name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		t.in.logger.Warn("a log's settings are missing: the defaults are used", "tenant", t.name, "log", name)
		s, err = LogSettings{Name: name}.withDefaults(), nil
	}
	if err == nil {
		err = s.check()
	}
	if err == nil && s.Name != name {
		err = fmt.Errorf("%s: it is of the log %q", t.path(logsDir, name+".json"), s.Name)
	}
	if err != nil {
		s = LogSettings{Name: name}.withDefaults()
		l.fail(err)
	}
	l.settings.Store(&s)
	return l
}

func (l *Log) fail(err error) {
	err = &UnavailableError{Tenant: l.tenant.name, Log: l.name, Err: err}
	l.err.Store(&err)
}

// open opens the log for appending, else for reading, and keeps the reason.
func (l *Log) open() {
	t := l.tenant
	c := t.in.o.Log
	c.Origin = l.origin()
	c.StateDir = filepath.Join(t.in.o.StateDir, t.name)
	c.Logger = t.in.logger.With("tenant", t.name, "log", l.name)
	if size := l.settings.Load().RotateSize; size != 0 {
		c.RotateSize = size
	}
	if l.Err() == nil {
		log, err := immutable.Open(l.dir(), &c)
		if err == nil {
			l.Log = log
			return
		}
		l.fail(err)
	}
	t.in.logger.Error("a log cannot be opened for appending", "tenant", t.name, "log", l.name, "error", l.Err())
	c.ReadOnly = true
	if log, err := immutable.Open(l.dir(), &c); err == nil {
		l.Log = log
	}
}

// origin is <prefix>/<tenant>/<log>, or, of a log that continues one which was lost after its backup, that and a number.
func (l *Log) origin() string {
	base := l.tenant.in.id.OriginPrefix + "/" + l.tenant.name + "/" + l.name
	data, err := os.ReadFile(filepath.Join(l.dir(), "log.json"))
	if err != nil {
		return base // there is none yet, or opening it will say why not
	}
	var id struct{ Origin string }
	if err := json.Unmarshal(data, &id); err != nil {
		return base
	}
	if number, found := strings.CutPrefix(id.Origin, base+"/"); found {
		if n, err := strconv.Atoi(number); err == nil && strconv.Itoa(n) == number && n > 1 {
			return id.Origin
		}
	}
	return base
}

func (l *Log) dir() string { return l.tenant.path(logsDir, l.name) }

// ColdDir is where the log's retired segments go.
func (l *Log) ColdDir() string { return l.tenant.in.path(coldDir, l.tenant.name, l.name) }

// Logs are all of the tenant's by name, the log of the log and those that could not be opened too.
func (t *Tenant) Logs() []*Log {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ls := make([]*Log, 0, len(t.logs))
	for _, l := range t.logs {
		ls = append(ls, l)
	}
	slices.SortFunc(ls, func(a, b *Log) int { return strings.Compare(a.name, b.name) })
	return ls
}

// Log returns one of them that can at least be read; *UnavailableError otherwise.
func (t *Tenant) Log(name string) (*Log, error) {
	if t.err != nil {
		return nil, t.err
	}
	t.mu.RLock()
	l := t.logs[name]
	t.mu.RUnlock()
	if l == nil {
		return nil, notFound("log", name)
	}
	if l.Log == nil {
		return nil, l.Err()
	}
	return l, nil
}

// CreateLog makes a log. by must be allowed PermManageLog.
func (t *Tenant) CreateLog(ctx context.Context, by *Principal, s LogSettings) (*Log, error) {
	if err := by.Allow(PermManageLog, t.name, s.Name); err != nil {
		return nil, err
	}
	if t.err != nil {
		return nil, t.err
	}
	if err := checkNewName("log", s.Name); err != nil {
		return nil, err
	}
	if t.name == SystemName {
		return nil, &NameError{"log", s.Name, "the installation's own tenant has no other logs"}
	}
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return nil, err
	}
	t.in.changes.Lock()
	defer t.in.changes.Unlock()
	if err := t.mayAdd(s.Name); err != nil {
		return nil, err
	}
	if err := t.Record(ctx, by, LogCreate, immutable.Fields{"log": s.Name, "settings": plain(s)}); err != nil {
		return nil, err
	}
	// From here on the log is there after a crash: the next start opens, and so makes, what has settings.
	if err := t.in.writeJSON(t.path(logsDir, s.Name+".json"), settingsFile[LogSettings]{settingsFormat, s}); err != nil {
		return nil, err
	}
	l := t.loadLog(s.Name)
	l.open()
	if l.Log == nil {
		return nil, l.Err()
	}
	l.look()
	t.mu.Lock()
	t.logs[s.Name] = l
	t.mu.Unlock()
	t.in.announce(l)
	return l, nil
}

// mayAdd says whether a log of this name can be made. in.changes is held.
func (t *Tenant) mayAdd(name string) error {
	t.in.mu.RLock()
	closed := t.in.closed
	t.in.mu.RUnlock()
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch {
	case closed:
		return immutable.ErrClosed
	case t.logs[name] != nil:
		return fmt.Errorf("log %q: %w", name, ErrExists)
	case len(t.logs) >= maxLogs:
		return bad("name", "there are %d logs, the most that one tenant has", maxLogs)
	}
	return nil
}

// Update replaces the log's settings. by must be allowed PermManageLog.
func (l *Log) Update(ctx context.Context, by *Principal, s LogSettings) error {
	if err := by.Allow(PermManageLog, l.tenant.name, l.name); err != nil {
		return err
	}
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return err
	}
	if s.Name != l.name {
		return bad("name", "a log keeps its name, %q", l.name)
	}
	in := l.tenant.in
	in.changes.Lock()
	defer in.changes.Unlock()
	old := l.settings.Load()
	if err := l.tenant.Record(ctx, by, LogUpdate, immutable.Fields{"log": l.name, "before": plain(old), "after": plain(s)}); err != nil {
		return err
	}
	if err := in.writeJSON(l.tenant.path(logsDir, l.name+".json"), settingsFile[LogSettings]{settingsFormat, s}); err != nil {
		return err
	}
	l.settings.Store(&s)
	return nil
}

// AppendAs appends for a principal, within its limits and the tenant's quota: ErrForbidden for a level that it may not write,
// *QuotaError where the tenant takes too much. It never waits for a quota.
func (l *Log) AppendAs(ctx context.Context, p *Principal, events ...immutable.Event) ([]immutable.Receipt, error) {
	t := l.tenant
	if err := p.Allow(PermAppend, t.name, l.name); err != nil {
		return nil, err
	}
	if err := l.Err(); err != nil {
		return nil, err
	}
	if t.settings.Load().Suspended {
		return nil, fmt.Errorf("%w: %w", ErrForbidden, ErrSuspended)
	}
	if len(p.Levels) > 0 {
		for i := range events {
			if !p.SeesLevel(events[i].Level) {
				return nil, fmt.Errorf("event %d: %w: this principal may not write the level %s", i, ErrForbidden, events[i].Level)
			}
		}
	}
	if t.in.space.full.Load() {
		return nil, ErrFull
	}
	if c := l.Checker(); c != nil {
		var err error
		if events, err = c.Check(events); err != nil {
			return nil, err
		}
	}
	if err := t.meter.admit(t, events); err != nil {
		return nil, err
	}
	began := time.Now()
	receipts, err := l.Log.Append(ctx, events...)
	if err == nil && t.in.o.Appended != nil {
		t.in.o.Appended(l, time.Since(began))
	}
	if isNoSpace(err) {
		t.in.giveUpReserve(err)
	}
	return receipts, err
}

// ReadQuery narrows a query to the levels that the principal may read.
func (l *Log) ReadQuery(p *Principal, q immutable.Query) immutable.Query {
	if len(p.Levels) == 0 {
		return q
	}
	if len(q.Levels) == 0 {
		q.Levels = slices.Clone(p.Levels)
		return q
	}
	var both []immutable.Level
	for _, level := range q.Levels {
		if p.SeesLevel(level) {
			both = append(both, level)
		}
	}
	if len(both) == 0 {
		both = []immutable.Level{immutable.NumLevels} // none, where an empty list would be all
	}
	q.Levels = both
	return q
}
