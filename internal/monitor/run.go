package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Monitor watches the logs of an installation. Its methods may be called from any number of goroutines.
type Monitor struct {
	o        Options
	logger   *slog.Logger
	wake     chan struct{} // capacity 1: a job waits
	files    fileWatch
	retiring chan struct{} // capacity 1: one log at a time

	mu      sync.Mutex // guards what follows, and what is in each logState
	logs    map[*tenant.Log]*logState
	waiting []*job          // in the order they came
	ctx     context.Context // of Run; nil before
	stopped bool
	tasks   sync.WaitGroup          // guards of logs
	dirty   map[*tenant.Tenant]bool // whose durable state has changed
}

// logState is what the monitor knows of one log. Monitor.mu guards it unless a field says otherwise.
type logState struct {
	l     *tenant.Log
	guard *immutable.Guard // nil until it has looked at the files once, and for logs that cannot be written

	jobs   []*job // the newest last
	busy   bool   // a verification runs
	counts map[string]uint64

	kept        progress  // durable
	late        bool      // the scrubber is
	retainAgain time.Time // not before: it failed

	poke    chan struct{} // capacity 1: there is something in touched
	touched map[string]bool
	sweep   bool              // look at every file
	alarms  map[string]string // what is wrong now, by file
	watched bool
	events  uint64
	alarmed uint64

	recordedFrom time.Time // a minute in which
	recorded     int       // so many alarms were recorded
}

// New makes a monitor; Run sets it to work.
func New(o Options) *Monitor {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Share <= 0 || o.Share > 1 {
		o.Share = 0.1
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnEvent == nil {
		o.OnEvent = func(alert.Event) {}
	}
	return &Monitor{o: o, logger: o.Logger, wake: make(chan struct{}, 1), retiring: make(chan struct{}, 1), logs: map[*tenant.Log]*logState{}, dirty: map[*tenant.Tenant]bool{}}
}

// tickEvery is between two looks at the clock and at which segments are sealed.
const tickEvery = time.Second

// Run verifies, scrubs and watches until ctx ends. Then it cancels what runs, and returns when that has ended. It is called
// once.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	if err := m.files.open(m); err != nil {
		m.logger.Error("files are not watched; they are looked at every few seconds instead", "error", err)
	} else {
		wg.Go(func() { m.files.run(ctx, m) })
	}
	m.mu.Lock()
	if m.ctx != nil {
		m.mu.Unlock()
		return errors.New("the monitor runs already")
	}
	m.ctx = ctx
	m.mu.Unlock()
	m.o.Installation.OnLog(m.add)
	for range maxRunning {
		wg.Go(func() { m.work(ctx) })
	}
	wg.Go(func() { m.scrub(ctx) })
	wg.Go(func() { m.retention(ctx) })
	m.clock(ctx)
	m.stop()
	wg.Wait()
	m.tasks.Wait()
	m.files.close()
	return m.save()
}

// add takes a log into care.
func (m *Monitor) add(l *tenant.Log) {
	if l.Log == nil {
		return // tenant.LogUnavailable is recorded
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped || m.logs[l] != nil {
		return
	}
	s := &logState{l: l, counts: map[string]uint64{}, poke: make(chan struct{}, 1), touched: map[string]bool{}, alarms: map[string]string{}}
	m.load(s)
	m.logs[l] = s
	if l.Err() == nil {
		m.tasks.Go(func() { m.guard(m.ctx, s) })
	}
}

// stop lets nothing new in, and takes back what waits.
func (m *Monitor) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	for _, j := range m.waiting {
		j.end(m.o.Now(), Cancelled, "the service stopped")
	}
	m.waiting = nil
}

// clock starts what is due.
func (m *Monitor) clock(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		m.due(m.o.Now().UTC())
		if n%saveEvery == saveEvery-1 {
			if err := m.save(); err != nil {
				m.logger.Error("the state of verifications is not saved; it is tried again", "error", err)
			}
		}
		if n%lookEvery == lookEvery-1 {
			m.lookAgain()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// states are the logs, in a fixed order.
func (m *Monitor) states() []*logState {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*logState, 0, len(m.logs))
	for _, s := range m.logs {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *logState) int {
		return cmp.Or(strings.Compare(a.l.Tenant().Name(), b.l.Tenant().Name()), strings.Compare(a.l.Name(), b.l.Name()))
	})
	return list
}

// Status is what is known of a log. It costs nothing.
func (m *Monitor) Status(l *tenant.Log) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.logs[l]
	if s == nil {
		return Status{}
	}
	out := Status{
		Last: s.kept.Last, LastTime: s.kept.LastTime, LastSize: s.kept.LastSize, LastUnread: s.kept.Unread, Refuted: s.kept.Refuted || len(s.alarms) > 0, Running: s.busy,
		Scrubbed: s.kept.Scrubbed, ScrubbedShare: s.kept.share(l.SealedSegments()), ScrubLate: s.late,
		Watched: s.watched, WatchEvents: s.events, FileAlarms: s.alarmed,
	}
	if len(s.counts) > 0 {
		out.Verifications = make(map[string]uint64, len(s.counts))
		maps.Copy(out.Verifications, s.counts)
	}
	return out
}

// event tells the alerts.
func (m *Monitor) event(s *logState, kind alert.Kind, resolved bool, summary string, details map[string]string) {
	m.o.OnEvent(alert.Event{
		Key: fmt.Sprintf("%s/%s", kind, s.l.Name()), Tenant: s.l.Tenant().Name(), Log: s.l.Name(), Kind: kind,
		Summary: summary, Details: details, Resolved: resolved,
	})
}

// record writes to the tenant's log of the log what the monitor did by itself. What cannot be recorded is said in the
// service's own log: a verification is worth having even so.
func (m *Monitor) record(s *logState, by *tenant.Principal, action tenant.Action, f immutable.Fields) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	if err := s.l.Tenant().Record(ctx, by, action, f); err != nil {
		m.logger.Error("not recorded in the log of the log", "action", action, "tenant", s.l.Tenant().Name(), "log", s.l.Name(), "error", err)
	}
}

const recordTime = 10 * time.Second
