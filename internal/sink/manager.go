package sink

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/outbound"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Files in a tenant's directory: its sinks, and where each stands.
const (
	configName  = "sinks.json"
	statePrefix = "sink-" // and the sink's name
)

// Options is what a manager stands on.
type Options struct {
	Installation *tenant.Installation
	Dir          string         // where sinks of type file write; "" is "sinks" in the data directory
	Logger       *slog.Logger   // nil is silent
	AllowPrivate bool           // receivers may have loopback, private and link-local addresses, and http instead of https
	RootCAs      *x509.CertPool // of receivers' certificates; nil is the host's

	// Changed hears that a sink fails, needs somebody or has dead letters, and that none of that holds any more. It must not
	// block, and may be nil.
	Changed func(Notice)

	Now func() time.Time // nil is time.Now

	back   func(tries int) time.Duration // tests: how long to wait after so many failed tries
	signed time.Duration                 // tests: how long an entry waits for its checkpoint
}

// Notice is what Options.Changed hears.
type Notice struct {
	Tenant, Log, Sink string
	Wrong             bool   // false: it is well again, or is no more
	What              string // one line for people
	Dead              int    // letters
	Lag               uint64 // entries
}

// View is a sink as it is shown: its settings without secrets, and how it does.
type View struct {
	Sink
	Status Status `json:"status"`
}

// Manager has the sinks of an installation. Its methods may be called from any number of goroutines.
type Manager struct {
	o       Options
	logger  *slog.Logger
	fs      vfs.FS
	reading chan struct{} // one for each sink that reads and encodes: the log's writer keeps the rest of the cores

	changes sync.Mutex // one change of sinks at a time; held while files are written, and while workers end

	mu      sync.Mutex      // guards what follows; never held across I/O
	ctx     context.Context // of Run; nil before
	tenants map[string]*tenantSinks
	workers map[key]*worker
	under   sync.WaitGroup
}

type key struct{ tenant, sink string }

// tenantSinks is one tenant's part.
type tenantSinks struct {
	t     *tenant.Tenant
	sinks []stored
}

// stored is a sink as sinks.json has it. Instance tells its state file from that of an earlier sink of the same name.
type stored struct {
	Sink
	Instance string `json:"instance"`
}

type configFile struct {
	Format int      `json:"format"`
	Sinks  []stored `json:"sinks"`
}

const fileFormat = 1

// New makes a manager; Run sets it to work.
func New(o Options) *Manager {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(o.Installation.Dir(), "sinks")
	}
	if o.back == nil {
		o.back = func(tries int) time.Duration { return outbound.BackOff(tries, maxBackOff) }
	}
	if o.signed == 0 {
		o.signed = signedWithin
	}
	return &Manager{
		o: o, logger: o.Logger, fs: vfs.OS(), reading: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		tenants: map[string]*tenantSinks{}, workers: map[key]*worker{},
	}
}

// Run delivers until ctx ends. What is not delivered by then is after the next start. It is called once.
func (m *Manager) Run(ctx context.Context) error {
	m.changes.Lock()
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	for _, t := range m.o.Installation.Tenants() {
		if t.Err() != nil {
			continue
		}
		ts, err := m.tenant(t.Name())
		if err != nil {
			m.logger.Error("a tenant's sinks do not run", "tenant", t.Name(), "error", err)
			continue
		}
		for i := range ts.sinks {
			m.start(ts.t, &ts.sinks[i])
		}
	}
	m.changes.Unlock()
	<-ctx.Done()
	m.mu.Lock()   // who starts a worker now sees that it must not
	m.mu.Unlock() //nolint:staticcheck // SA2001: nothing is to be done in between
	m.under.Wait()
	return nil
}

// tenant is a tenant's part, which is read when it is first asked for.
func (m *Manager) tenant(name string) (*tenantSinks, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ts := m.tenants[name]; ts != nil {
		return ts, nil
	}
	t, err := m.o.Installation.Tenant(name)
	if err != nil {
		return nil, err
	}
	ts := &tenantSinks{t: t}
	data, err := t.ReadFile(configName)
	if err == nil {
		var f configFile
		if err = decode(data, &f); err == nil && f.Format != fileFormat {
			err = fmt.Errorf("format %d; this program knows %d", f.Format, fileFormat)
		}
		ts.sinks = f.Sinks
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s of tenant %s: %w", configName, name, err)
	}
	m.tenants[name] = ts
	return ts, nil
}

func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// start begins to work on a sink. m.changes is held.
func (m *Manager) start(t *tenant.Tenant, s *stored) {
	w := newWorker(m, t, s)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.workers[key{t.Name(), s.Name}] = w
	if m.ctx == nil || m.ctx.Err() != nil || s.Paused {
		close(w.ended)
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	w.cancel = cancel
	m.under.Go(func() {
		defer close(w.ended)
		defer cancel()
		w.run(ctx)
	})
}

// stop ends the work on a sink and waits for it. m.changes is held.
func (m *Manager) stop(k key) {
	m.mu.Lock()
	w := m.workers[k]
	delete(m.workers, k)
	m.mu.Unlock()
	if w == nil {
		return
	}
	if w.cancel != nil {
		w.cancel()
	}
	<-w.ended
}

func (m *Manager) worker(k key) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[k]
}

// find is the place of a sink in the list.
func (ts *tenantSinks) find(name string) int {
	return slices.IndexFunc(ts.sinks, func(s stored) bool { return s.Name == name })
}

func noSink(name string) error { return fmt.Errorf("sink %.80q: %w", name, tenant.ErrNotFound) }

// List are the tenant's sinks by name, as far as by may see them.
func (m *Manager) List(by *tenant.Principal, name string) ([]View, error) {
	if err := by.Allow(tenant.PermAuditTenant, name, ""); err != nil {
		return nil, err
	}
	m.changes.Lock()
	defer m.changes.Unlock()
	ts, err := m.tenant(name)
	if err != nil {
		return nil, err
	}
	out := make([]View, 0, len(ts.sinks))
	for i := range ts.sinks {
		out = append(out, m.view(ts, i))
	}
	return out, nil
}

// Get is one of them.
func (m *Manager) Get(by *tenant.Principal, name, sink string) (View, error) {
	list, err := m.List(by, name)
	if err != nil {
		return View{}, err
	}
	for _, v := range list {
		if v.Name == sink {
			return v, nil
		}
	}
	return View{}, noSink(sink)
}

func (m *Manager) view(ts *tenantSinks, i int) View {
	s := &ts.sinks[i]
	w := m.worker(key{ts.t.Name(), s.Name})
	if w == nil { // before Run
		w = newWorker(m, ts.t, s)
	}
	return View{s.shown(), w.status()}
}

// Status is how the sinks of a tenant do, for metrics.
func (m *Manager) Status(name string) map[string]Status {
	m.mu.Lock()
	list := make(map[string]*worker, len(m.workers))
	for k, w := range m.workers {
		if k.tenant == name {
			list[k.sink] = w
		}
	}
	m.mu.Unlock()
	out := make(map[string]Status, len(list))
	for sink, w := range list {
		st := w.status()
		st.log = w.s.Log
		out[sink] = st
	}
	return out
}

// Create makes a sink, durably, and sets it to work. by must be allowed to manage the tenant and to export the log.
func (m *Manager) Create(ctx context.Context, by *tenant.Principal, name string, s Sink) (View, error) {
	if s.Format == "" {
		s.Format = JSON
	}
	err := m.change(ctx, by, name, s.Log, func(ts *tenantSinks) (change, error) {
		if ts.find(s.Name) >= 0 {
			return change{}, fmt.Errorf("sink %q: %w", s.Name, tenant.ErrExists)
		}
		if err := s.keepSecrets(nil); err != nil {
			return change{}, err
		}
		if err := s.check(m.o.AllowPrivate); err != nil {
			return change{}, err
		}
		if _, err := ts.t.Log(s.Log); err != nil {
			return change{}, err
		}
		if s.Type == File {
			names, err := m.fs.ReadDir(m.fileDir(name, s.Name))
			if err == nil && len(names) > 0 {
				return change{}, bad("name", "the files of an earlier sink of this name are in %s: move them away, or choose another name", m.fileDir(name, s.Name))
			}
		}
		if len(ts.sinks) >= maxSinks || m.count() >= maxAllSinks {
			return change{}, bad("name", "there are %d sinks; at most %d of a tenant, and %d of all", len(ts.sinks), maxSinks, maxAllSinks)
		}
		next := append(slices.Clone(ts.sinks), stored{s, randomID()})
		slices.SortFunc(next, func(a, b stored) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
		return change{tenant.SinkCreate, immutable.Fields{"sink": s.Name, "settings": plain(s.shown())}, next, s.Name}, nil
	})
	if err != nil {
		return View{}, err
	}
	return m.Get(by, name, s.Name)
}

func (m *Manager) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.workers)
}

// Update replaces a sink's settings. Where it selects other entries than before, or writes to another place, the cursor stays: it
// goes on behind what it has delivered.
func (m *Manager) Update(ctx context.Context, by *tenant.Principal, name string, s Sink) (View, error) {
	return m.update(ctx, by, name, s.Name, tenant.SinkUpdate, func(old *Sink) (Sink, error) {
		if s.Log != old.Log || s.Type != old.Type {
			return s, bad("log", "a sink keeps its log and its type; make another one")
		}
		if err := s.keepSecrets(old); err != nil {
			return s, err
		}
		return s, s.check(m.o.AllowPrivate)
	})
}

// Pause stops a sink until Resume; its cursor stays.
func (m *Manager) Pause(ctx context.Context, by *tenant.Principal, name, sink string) (View, error) {
	return m.update(ctx, by, name, sink, tenant.SinkPause, func(old *Sink) (Sink, error) {
		s := *old
		s.Paused = true
		return s, nil
	})
}

// Resume lets a sink go on; one that waits to try again tries at once.
func (m *Manager) Resume(ctx context.Context, by *tenant.Principal, name, sink string) (View, error) {
	return m.update(ctx, by, name, sink, tenant.SinkResume, func(old *Sink) (Sink, error) {
		s := *old
		s.Paused = false
		return s, nil
	})
}

func (m *Manager) update(ctx context.Context, by *tenant.Principal, name, sink string, action tenant.Action, f func(old *Sink) (Sink, error)) (View, error) {
	err := m.change(ctx, by, name, "", func(ts *tenantSinks) (change, error) {
		i := ts.find(sink)
		if i < 0 {
			return change{}, noSink(sink)
		}
		s, err := f(&ts.sinks[i].Sink)
		if err != nil {
			return change{}, err
		}
		fields := immutable.Fields{"sink": sink}
		if action == tenant.SinkUpdate {
			fields["before"], fields["after"] = plain(ts.sinks[i].shown()), plain(s.shown())
		}
		next := slices.Clone(ts.sinks)
		next[i].Sink = s
		return change{action, fields, next, sink}, nil
	})
	if err != nil {
		return View{}, err
	}
	return m.Get(by, name, sink)
}

// Delete ends a sink. What it has written stays where it is; its dead letters are forgotten.
func (m *Manager) Delete(ctx context.Context, by *tenant.Principal, name, sink string) error {
	return m.change(ctx, by, name, "", func(ts *tenantSinks) (change, error) {
		i := ts.find(sink)
		if i < 0 {
			return change{}, noSink(sink)
		}
		fields := immutable.Fields{"sink": sink}
		if w := m.worker(key{name, sink}); w != nil {
			st := w.status()
			fields["next"], fields["deadLetters"] = st.Next, st.DeadLetters
		}
		return change{tenant.SinkDelete, fields, slices.Delete(slices.Clone(ts.sinks), i, i+1), sink}, nil
	})
}

// change is what becomes of a tenant's sinks.
type change struct {
	action tenant.Action
	fields immutable.Fields
	sinks  []stored
	sink   string // the one that changes
}

// change records a change, makes it durable, and lets the sink's worker begin anew.
func (m *Manager) change(ctx context.Context, by *tenant.Principal, name, log string, f func(*tenantSinks) (change, error)) error {
	if err := by.Allow(tenant.PermManageTenant, name, ""); err != nil {
		return err
	}
	if log != "" {
		if err := by.Allow(tenant.PermExport, name, log); err != nil {
			return err
		}
	}
	m.changes.Lock()
	defer m.changes.Unlock()
	ts, err := m.tenant(name)
	if err != nil {
		return err
	}
	c, err := f(ts)
	if err != nil {
		return err
	}
	if err := ts.t.Record(ctx, by, c.action, c.fields); err != nil {
		return err
	}
	data, err := json.Marshal(configFile{fileFormat, c.sinks})
	if err != nil {
		return err
	}
	k := key{name, c.sink}
	before := m.worker(k)
	if err := ts.t.WriteFile(configName, append(data, '\n')); err != nil {
		return fmt.Errorf("write %s of tenant %s: %w", configName, name, err)
	}
	m.stop(k)
	m.mu.Lock()
	ts.sinks = c.sinks
	m.mu.Unlock()
	if i := ts.find(c.sink); i >= 0 {
		m.start(ts.t, &ts.sinks[i])
		return nil
	}
	if before != nil {
		before.gone()
	}
	return nil
}

// plain turns settings into metadata, spelled as the API spells them.
func plain(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	return data
}

// DeadLetters are the entries that a sink's receiver has refused for good, the oldest first.
func (m *Manager) DeadLetters(by *tenant.Principal, name, sink string) ([]DeadLetter, error) {
	if err := by.Allow(tenant.PermAuditTenant, name, ""); err != nil {
		return nil, err
	}
	w, err := m.working(name, sink)
	if err != nil {
		return nil, err
	}
	return w.letters(), nil
}

// working is a sink's worker, whether it runs or not.
func (m *Manager) working(name, sink string) (*worker, error) {
	m.changes.Lock()
	defer m.changes.Unlock()
	ts, err := m.tenant(name)
	if err != nil {
		return nil, err
	}
	i := ts.find(sink)
	if i < 0 {
		return nil, noSink(sink)
	}
	if w := m.worker(key{name, sink}); w != nil {
		return w, nil
	}
	return newWorker(m, ts.t, &ts.sinks[i]), nil
}

// Retry lets dead letters be tried again, those of indexes, or all; a sink that waits to try again tries at once. It returns how
// many letters there are to try.
func (m *Manager) Retry(ctx context.Context, by *tenant.Principal, name, sink string, indexes []uint64) (int, error) {
	return m.letters(ctx, by, name, sink, tenant.SinkRetry, indexes, (*worker).retry)
}

// Drop takes dead letters from the list without delivering them, those of indexes, or all.
func (m *Manager) Drop(ctx context.Context, by *tenant.Principal, name, sink string, indexes []uint64) (int, error) {
	return m.letters(ctx, by, name, sink, tenant.SinkDrop, indexes, (*worker).drop)
}

func (m *Manager) letters(ctx context.Context, by *tenant.Principal, name, sink string, action tenant.Action, indexes []uint64, f func(*worker, func(uint64) bool) (int, error)) (int, error) {
	if err := by.Allow(tenant.PermManageTenant, name, ""); err != nil {
		return 0, err
	}
	if len(indexes) > maxDead {
		return 0, bad("indexes", "%d; at most %d", len(indexes), maxDead)
	}
	w, err := m.working(name, sink)
	if err != nil {
		return 0, err
	}
	fields := immutable.Fields{"sink": sink, "indexes": indexes}
	if len(indexes) > 100 || len(indexes) == 0 {
		fields["indexes"] = len(indexes)
	}
	if err := w.t.Record(ctx, by, action, fields); err != nil {
		return 0, err
	}
	return f(w, func(i uint64) bool { return len(indexes) == 0 || slices.Contains(indexes, i) })
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand says
	return hex.EncodeToString(b[:])
}
