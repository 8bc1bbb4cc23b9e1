package alert

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// Files in a tenant's directory.
const (
	rulesName = "alerts.json"
	stateName = "alerts-state.json"
)

// Limits of what is held.
const (
	maxStates   = 200 // alerts of one tenant
	maxKey      = 200 // bytes
	maxDetails  = 20
	maxDetail   = 500     // bytes of one
	maxAllBytes = 2 << 10 // of all details of one alert
	maxRecords  = 1000
	maxFile     = 1<<20 - 1      // bytes of the file that keeps the states, without its newline
	keepFor     = 24 * time.Hour // resolved alerts
	maxRecorded = 32 << 10       // bytes of rules that are recorded in full
)

// Manager has the alerts of an installation. Its methods may be called from any number of goroutines.
type Manager struct {
	o      Options
	logger *slog.Logger
	client *http.Client
	back   func(tries int) time.Duration // how long to wait after so many failed tries

	stepping sync.Mutex // one look at everything at a time; guards what only step uses

	mu      sync.Mutex // guards what follows
	tenants map[string]*tenantAlerts
	sinks   map[sinkKey]*sinkQueue
	queued  int             // deliveries in all queues
	records []record        // for the logs of the log
	ctx     context.Context // of Run; nil when it does not run
	workers sync.WaitGroup
	slots   chan struct{} // one for each delivery under way
	wake    chan struct{} // capacity 1: there are records
}

// tenantAlerts is one tenant's part. Manager.mu guards it.
type tenantAlerts struct {
	t        *tenant.Tenant
	rules    Rules
	states   map[string]*State
	dirty    bool
	counters map[string]*counter // of queries; guarded by Manager.stepping
	marks    map[string]*mark    // of logs; likewise
	changing sync.Mutex          // one change of rules at a time
}

type record struct {
	t      *tenant.Tenant
	action tenant.Action
	fields immutable.Fields
}

// New makes a manager; Run sets it to work.
func New(o Options) *Manager {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	m := &Manager{
		o: o, logger: o.Logger, tenants: map[string]*tenantAlerts{}, sinks: map[sinkKey]*sinkQueue{},
		slots: make(chan struct{}, maxDeliveries), wake: make(chan struct{}, 1), back: backOff,
	}
	m.client = outbound.Client(o.AllowPrivate, o.RootCAs)
	return m
}

func (m *Manager) tls(name string) *tls.Config {
	return outbound.TLS(m.o.RootCAs, name)
}

// stopTime is how long what is owed may take after Run was told to end.
const stopTime = 5 * time.Second

// Run looks at conditions and queries, and delivers, until ctx ends. What is not delivered by then is delivered after the
// next start. It is called once.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.mu.Lock()
	m.ctx = ctx
	for key := range m.sinks {
		m.startWorker(key)
	}
	m.mu.Unlock()
	tick := time.NewTicker(m.o.Interval)
	defer tick.Stop()
	for {
		m.step(ctx)
		select {
		case <-tick.C:
		case <-m.wake:
			m.writeRecords(ctx)
		case <-ctx.Done():
			m.workers.Wait()
			last, end := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
			defer end()
			m.writeRecords(last)
			m.client.CloseIdleConnections()
			return m.save()
		}
	}
}

// step is one look at everything.
func (m *Manager) step(ctx context.Context) {
	m.stepping.Lock()
	defer m.stepping.Unlock()
	now := m.o.Now().UTC()
	for _, t := range m.o.Installation.Tenants() {
		if ctx.Err() != nil || t.Err() != nil {
			continue
		}
		ta, err := m.tenant(t.Name())
		if err != nil {
			m.logger.Error("a tenant's alerts are not looked at", "tenant", t.Name(), "error", err)
			continue
		}
		m.conditions(ta, now)
		m.queries(ctx, ta, now)
		m.age(ta, now)
	}
	m.writeRecords(ctx)
	if err := m.save(); err != nil {
		m.logger.Error("the state of alerts is not saved; it is tried again", "error", err)
	}
}

// tenant is a tenant's part, which is read when it is first asked for.
func (m *Manager) tenant(name string) (*tenantAlerts, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ta := m.tenants[name]; ta != nil {
		return ta, nil
	}
	t, err := m.o.Installation.Tenant(name)
	if err != nil {
		return nil, err
	}
	ta := &tenantAlerts{t: t, states: map[string]*State{}, counters: map[string]*counter{}, marks: map[string]*mark{}}
	var rules struct {
		Format int   `json:"format"`
		Rules  Rules `json:"rules"`
	}
	if err := readFile(t, rulesName, &rules.Format, &rules); err != nil {
		return nil, err
	}
	var states stateFile
	if err := readFile(t, stateName, &states.Format, &states); err != nil {
		m.logger.Warn("which alerts were firing is not known", "tenant", name, "error", err)
		states = stateFile{}
	}
	ta.rules = rules.Rules
	for i := range states.Alerts[:min(maxStates, len(states.Alerts))] {
		s := states.Alerts[i]
		s.Tenant = name
		ta.states[s.Key] = &s
	}
	m.tenants[name] = ta
	return ta, nil
}

type stateFile struct {
	Format int     `json:"format"`
	Alerts []State `json:"alerts"`
}

// readFile reads a file of format 1. One that is not there is empty.
func readFile(t *tenant.Tenant, name string, format *int, into any) error {
	data, err := t.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = decode(data, into)
	}
	if err == nil && *format != 1 {
		err = fmt.Errorf("format %d; this program knows 1", *format)
	}
	if err != nil {
		return fmt.Errorf("read %s of tenant %s: %w", name, t.Name(), err)
	}
	return nil
}

// Raise takes an event. It does not block.
func (m *Manager) Raise(e Event) {
	ta, err := m.tenant(e.Tenant)
	if err != nil {
		m.logger.Error("an alert is lost: its tenant's alerts cannot be read", "tenant", e.Tenant, "kind", string(e.Kind), "error", err)
		return
	}
	if _, err := m.tenant(tenant.SystemName); err != nil { // its sinks may ask for every tenant's alerts
		m.logger.Error("the installation's own sinks are not told", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.raise(ta, &e, "", nil, 0)
}

// raise is the state machine. rule and sinks are a saved query's; wait is how long the condition must hold. m.mu is held.
func (m *Manager) raise(ta *tenantAlerts, e *Event, rule string, sinks []string, wait time.Duration) {
	now := m.o.Now().UTC()
	key := clean(e.Key, maxKey)
	s := ta.states[key]
	if e.Resolved {
		switch {
		case s == nil || s.Phase == Resolved:
		case s.Phase == Pending:
			delete(ta.states, key)
			ta.dirty = true
		default:
			if e.Summary != "" {
				s.Summary = clean(e.Summary, maxSummary)
			}
			m.turn(ta, s, Resolved, now)
		}
		return
	}
	if s == nil || s.Phase == Resolved {
		if s == nil && !ta.room() {
			m.logger.Error("an alert is lost: its tenant has too many", "tenant", e.Tenant, "kind", string(e.Kind))
			return
		}
		s = &State{Key: key, Tenant: ta.t.Name(), Kind: e.Kind, Since: now, Rule: rule, Instance: randomID()}
		ta.states[key] = s
		m.fill(s, e, sinks)
		if wait > 0 {
			s.Phase, s.Changed, ta.dirty = Pending, now, true
			return
		}
		m.turn(ta, s, Firing, now)
		return
	}
	m.fill(s, e, sinks)
	if s.Phase == Pending && now.Sub(s.Since) >= wait {
		m.turn(ta, s, Firing, now)
	}
}

func (m *Manager) fill(s *State, e *Event, sinks []string) {
	s.Count++
	s.Log, s.Summary, s.Sinks = clean(e.Log, maxKey), clean(e.Summary, maxSummary), sinks
	if s.Severity = e.Severity; !validSeverity(s.Severity) {
		s.Severity = severities[s.Kind]
	}
	s.Details = map[string]string{}
	bytes := 0
	for _, k := range slices.Sorted(maps.Keys(e.Details)) {
		name, value := clean(k, 40), clean(e.Details[k], maxDetail)
		if bytes += len(name) + len(value); len(s.Details) < maxDetails && bytes <= maxAllBytes {
			s.Details[name] = value
		}
	}
}

// room makes room for one more alert: of those that are resolved the oldest goes.
func (ta *tenantAlerts) room() bool {
	if len(ta.states) < maxStates {
		return true
	}
	var oldest *State
	for _, s := range ta.states {
		if s.Phase == Resolved && (oldest == nil || s.Changed.Before(oldest.Changed)) {
			oldest = s
		}
	}
	if oldest != nil {
		delete(ta.states, oldest.Key)
	}
	return oldest != nil
}

// turn changes the phase, records it, and tells the sinks. m.mu is held.
func (m *Manager) turn(ta *tenantAlerts, s *State, to Phase, now time.Time) {
	s.Phase, s.Changed, ta.dirty = to, now, true
	action := tenant.AlertRaised
	if to == Resolved {
		action = tenant.AlertResolved
	}
	m.record(ta.t, action, immutable.Fields{"key": s.Key, "kind": string(s.Kind), "severity": string(s.Severity), "log": s.Log, "summary": s.Summary, "instance": s.Instance})
	m.send(ta, s, now)
}

// age sends again what fires for long, or was not delivered, and forgets what was resolved a day ago.
func (m *Manager) age(ta *tenantAlerts, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	repeat := time.Duration(ta.rules.Limits.withDefaults().Repeat)
	for key, s := range ta.states {
		switch {
		case s.Phase == Resolved && now.Sub(s.Changed) > keepFor:
			delete(ta.states, key)
			ta.dirty = true
		case s.Phase == Pending:
		case s.Sent.IsZero(), s.Phase == Firing && repeat > 0 && now.Sub(s.Sent) >= repeat:
			m.send(ta, s, now)
		}
	}
}

// Active are the tenant's alerts that are pending, firing, or were resolved during the last day, the newest change first.
func (m *Manager) Active(name string) []State {
	ta, err := m.tenant(name)
	if err != nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]State, 0, len(ta.states))
	for _, s := range ta.states {
		list = append(list, s.clone())
	}
	slices.SortFunc(list, func(a, b State) int {
		if c := b.Changed.Compare(a.Changed); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return list
}

func (s *State) clone() State {
	out := *s
	out.Details, out.Sinks = maps.Clone(s.Details), slices.Clone(s.Sinks)
	return out
}

// Rules are the tenant's, with Kept in the place of secrets.
func (m *Manager) Rules(name string) (Rules, error) {
	ta, err := m.tenant(name)
	if err != nil {
		return Rules{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return ta.rules.shown(), nil
}

// SetRules replaces the tenant's rules, durably; by must be allowed tenant.PermManageTenant. An error that wraps ErrRules says
// what is not acceptable.
func (m *Manager) SetRules(ctx context.Context, by *tenant.Principal, name string, r Rules) error {
	if err := by.Allow(tenant.PermManageTenant, name, ""); err != nil {
		return err
	}
	ta, err := m.tenant(name)
	if err != nil {
		return err
	}
	ta.changing.Lock()
	defer ta.changing.Unlock()
	m.mu.Lock()
	old := ta.rules
	m.mu.Unlock()
	if r.Sinks == nil {
		r.Sinks = []Sink{}
	}
	if r.Queries == nil {
		r.Queries = []Query{}
	}
	r.Sinks = slices.Clone(r.Sinks)
	if err := r.keepSecrets(&old); err != nil {
		return err
	}
	if err := r.check(name, &m.o); err != nil {
		return err
	}
	if err := ta.t.Record(ctx, by, tenant.AlertRules, immutable.Fields{"before": recorded(&old), "after": recorded(&r)}); err != nil {
		return err
	}
	data, err := json.Marshal(struct {
		Format int   `json:"format"`
		Rules  Rules `json:"rules"`
	}{1, r})
	if err != nil {
		return err
	}
	if err := ta.t.WriteFile(rulesName, append(data, '\n')); err != nil {
		return fmt.Errorf("write %s of tenant %s: %w", rulesName, name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ta.rules = r
	m.dropOrphans(ta)
	return nil
}

// dropOrphans resolves the alerts of queries and sinks that are no more. m.mu is held.
func (m *Manager) dropOrphans(ta *tenantAlerts) {
	now := m.o.Now().UTC()
	for key, s := range ta.states {
		rule := s.Rule == "" || slices.ContainsFunc(ta.rules.Queries, func(q Query) bool { return q.Name == s.Rule })
		sink := s.Kind != SinkFailed || m.sink(sinkKey{ta.t.Name(), s.Details["sink"]}) != nil
		if s.Phase == Resolved || rule && sink {
			continue
		}
		if s.Phase == Pending {
			delete(ta.states, key)
			ta.dirty = true
			continue
		}
		m.turn(ta, s, Resolved, now)
	}
}

// recorded is what the log of the log has of rules: what is shown of them, or its digest where that is too much.
func recorded(r *Rules) any {
	shown := r.shown()
	data, err := json.Marshal(shown)
	if err == nil && len(data) <= maxRecorded/2 {
		var v any
		if json.Unmarshal(data, &v) == nil {
			return v
		}
	}
	sum := sha256.Sum256(data)
	return map[string]any{"sinks": len(r.Sinks), "queries": len(r.Queries), "sha256": hex.EncodeToString(sum[:])}
}

// record writes to a tenant's log of the log as soon as it can. m.mu is held.
func (m *Manager) record(t *tenant.Tenant, action tenant.Action, f immutable.Fields) {
	if len(m.records) >= maxRecords {
		m.logger.Error("not recorded in the log of the log: too much waits", "tenant", t.Name(), "action", string(action))
		return
	}
	m.records = append(m.records, record{t, action, f})
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) writeRecords(ctx context.Context) {
	m.mu.Lock()
	list := m.records
	m.records = nil
	m.mu.Unlock()
	for _, r := range list {
		if err := r.t.Record(ctx, nil, r.action, r.fields); err != nil {
			m.logger.Error("not recorded in the log of the log", "tenant", r.t.Name(), "action", string(r.action), "error", err)
		}
	}
}

// save writes down what has changed. What waits to be delivered is written as not sent: it is sent again after a crash.
func (m *Manager) save() error {
	m.mu.Lock()
	owed := map[string]bool{}
	for _, q := range m.sinks {
		for _, d := range q.list {
			owed[d.state.Tenant+"/"+d.state.Key] = true
		}
	}
	files := map[*tenantAlerts]*stateFile{}
	for _, ta := range m.tenants {
		if !ta.dirty {
			continue
		}
		ta.dirty = false
		f := &stateFile{Format: 1}
		for _, key := range slices.Sorted(maps.Keys(ta.states)) {
			s := ta.states[key].clone()
			if owed[s.Tenant+"/"+s.Key] {
				s.Sent = time.Time{}
			}
			f.Alerts = append(f.Alerts, s)
		}
		files[ta] = f
	}
	m.mu.Unlock()
	var errs []error
	for ta, f := range files {
		data, err := json.Marshal(f)
		if len(data) > maxFile { // escapes have made it longer: the phases are what counts
			for i := range f.Alerts {
				f.Alerts[i].Details = nil
			}
			data, err = json.Marshal(f)
		}
		if err == nil {
			err = ta.t.WriteFile(stateName, append(data, '\n'))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("write %s of tenant %s: %w", stateName, ta.t.Name(), err))
			m.mu.Lock()
			ta.dirty = true
			m.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

func randomID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand says
	return hex.EncodeToString(b[:])
}

// clean makes text of one line and at most n bytes of it, for headers and people.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F && r <= 0x9F || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > n {
		for n > 0 && s[n]&0xC0 == 0x80 {
			n--
		}
		s = s[:n]
	}
	return s
}
