// Package tenant keeps many logs of many tenants in one data directory: who they are, who may do what with them, how much
// they may take, and a log of the log for each that says what was done.
package tenant

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Names in the data directory.
const (
	installationName = "installation.json"
	lockName         = "lock"
	tokensName       = "tokens.json"
	tenantsDir       = "tenants"
	tenantName       = "tenant.json"
	logsDir          = "logs"
	stateDir         = "state"
	coldDir          = "cold"
)

// Limits of an installation.
const (
	maxTenants = 10_000
	maxLogs    = 1_000 // of one tenant
)

// Options say where an installation is and what its logs have in common.
type Options struct {
	Dir          string
	StateDir     string           // heads and keys of the logs; empty is Dir/state
	OriginPrefix string           // of a new installation's logs; empty is the host's name and random digits
	Log          immutable.Config // for every log; Origin, StateDir and Logger are set for each
	Logger       *slog.Logger     // nil is silent
	Now          func() time.Time // nil is the clock

	// Appended hears of each append that AppendAs made durable, and how long that took; it must be quick. Nil is nobody.
	Appended func(l *Log, took time.Duration)

	Reserve int64 // bytes of the disk that are kept for the logs of the log; 0 is 16 MiB

	fs vfs.FS // tests: a disk that fails
}

// Installation is all tenants of one data directory. Its methods may be called from any number of goroutines.
type Installation struct {
	o      Options
	fs     vfs.FS
	logger *slog.Logger
	id     installationFile
	lock   io.Closer
	index  tokenIndex
	tokens *tokenStore // the installation's own
	system *Tenant
	stop   chan struct{} // closed by Close
	ended  chan struct{} // closed when watch has ended

	space space

	changes sync.Mutex // one change of settings, tokens or names at a time; held while files are written, never by reads

	mu      sync.RWMutex // guards what follows; never held across I/O
	tenants map[string]*Tenant
	onLog   []func(*Log)
	closed  bool
	config  json.RawMessage // that NoteConfig had no room for
}

// Tenant is one owner of logs, tokens and settings.
type Tenant struct {
	in       *Installation
	name     string
	err      error // why its files cannot be used; nothing else works then
	tokens   *tokenStore
	settings atomic.Pointer[TenantSettings]
	rules    atomic.Uint64 // generation of claim and certificate rules
	meter    meter
	reads    reads
	system   *Log
	files    sync.Mutex // one WriteFile at a time

	owing sync.Mutex        // guards what follows, and keeps its order: held while that is written
	owed  []immutable.Event // that system had no room for

	mu   sync.RWMutex // guards what follows; never held across I/O
	logs map[string]*Log
}

// installationFile is DIR/installation.json.
type installationFile struct {
	Format       int       `json:"format"`
	ID           string    `json:"id"`
	Created      time.Time `json:"created"`
	OriginPrefix string    `json:"originPrefix"`
}

// Open opens the installation in o.Dir, and makes it where there is none: the tenant "default" with the log "main". Only one
// process has it; a second gets a *vfs.LockedError. A log that cannot open is unavailable (Log.Err), and the rest goes on.
func Open(ctx context.Context, o Options) (*Installation, error) {
	in := &Installation{o: o, fs: o.fs, logger: o.Logger, tenants: map[string]*Tenant{}, stop: make(chan struct{}), ended: make(chan struct{})}
	if in.fs == nil {
		in.fs = vfs.OS()
	}
	if in.logger == nil {
		in.logger = slog.New(slog.DiscardHandler)
	}
	if in.o.Now == nil {
		in.o.Now = time.Now
	}
	if in.o.Reserve == 0 {
		in.o.Reserve = systemReserve
	}
	if in.o.StateDir == "" {
		in.o.StateDir = filepath.Join(o.Dir, stateDir)
	}
	if err := in.open(ctx); err != nil {
		return nil, errors.Join(err, in.release())
	}
	go in.watch()
	return in, nil
}

func (in *Installation) open(ctx context.Context) error {
	if err := vfs.MkdirAll(in.fs, in.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	holder := fmt.Sprintf("immutable, process %d, since %s", os.Getpid(), in.now().Format(time.RFC3339))
	lock, err := in.fs.Lock(in.path(lockName), []byte(holder))
	if err != nil {
		return fmt.Errorf("open the data directory: %w", err)
	}
	in.lock = lock
	if err := in.loadInstallation(); err != nil {
		return err
	}
	if err := in.reserveSpace(); err != nil && !isNoSpace(err) { // some file systems cannot; a full disk is no reason not to start
		in.logger.Warn("no space is kept for the records of reads", "error", err)
	}
	if in.tokens, err = in.openTokens("", in.path(tokensName)); err != nil {
		return err
	}
	if err := in.first(); err != nil {
		return fmt.Errorf("make the first tenants: %w", err)
	}
	names, err := in.fs.ReadDir(in.path(tenantsDir))
	if err != nil {
		return fmt.Errorf("list the tenants: %w", err)
	}
	for _, name := range names {
		if t := in.loadTenant(name); t != nil {
			in.tenants[name] = t
		}
	}
	if in.system = in.tenants[SystemName]; in.system == nil || in.system.err != nil {
		return errors.Join(errors.New("the installation's own tenant cannot be used"), in.system.Err())
	}
	if err := in.openLogs(ctx); err != nil {
		return err
	}
	return in.recordStart(ctx)
}

func (in *Installation) path(parts ...string) string {
	return filepath.Join(append([]string{in.o.Dir}, parts...)...)
}

func (in *Installation) now() time.Time { return in.o.Now().UTC() }

// loadInstallation reads installation.json, or makes it.
func (in *Installation) loadInstallation() error {
	data, err := vfs.ReadFile(in.fs, in.path(installationName), maxSettings)
	if errors.Is(err, fs.ErrNotExist) {
		return in.newInstallation()
	}
	if err != nil {
		return err
	}
	if err := decodeStrict(data, &in.id); err != nil {
		return fmt.Errorf("%s: %w", in.path(installationName), err)
	}
	if in.id.Format != settingsFormat {
		return fmt.Errorf("%s: format %d; this program knows %d", in.path(installationName), in.id.Format, settingsFormat)
	}
	if want := in.o.OriginPrefix; want != "" && want != in.id.OriginPrefix {
		return fmt.Errorf("the logs here are called %s/…, and the configuration says %s: a log keeps its origin; set the former, or nothing", in.id.OriginPrefix, want)
	}
	return nil
}

func (in *Installation) newInstallation() error {
	var bits [12]byte
	_, _ = rand.Read(bits[:]) // never fails, crypto/rand says
	prefix := in.o.OriginPrefix
	if prefix == "" {
		host := in.o.Log.Hostname
		if host == "" {
			var err error
			if host, err = os.Hostname(); err != nil {
				return fmt.Errorf("read this host's name: %w (set the origin prefix)", err)
			}
		}
		host = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
				return r
			}
			return '-'
		}, host)
		prefix = fmt.Sprintf("%s/%x", host, bits[8:])
	}
	if err := proof.CheckOrigin(prefix + "/" + SystemName + "/" + SystemName); err != nil {
		return fmt.Errorf("origin prefix %q: %w", prefix, err)
	}
	in.id = installationFile{Format: settingsFormat, ID: fmt.Sprintf("%x", bits[:8]), Created: in.now(), OriginPrefix: prefix}
	return in.writeJSON(in.path(installationName), in.id)
}

// first makes the tenants that each installation begins with. The installation's own comes last, so that a crash in
// between is mended by the next start.
func (in *Installation) first() error {
	if _, err := in.fs.Stat(in.path(tenantsDir, SystemName, tenantName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := in.makeTenant(&TenantSettings{Name: DefaultName}, MainName); err != nil {
		return err
	}
	return in.makeTenant(&TenantSettings{Name: SystemName})
}

// makeTenant writes a tenant's files, tenant.json last: a directory without it is no tenant.
func (in *Installation) makeTenant(s *TenantSettings, logs ...string) error {
	dir := in.path(tenantsDir, s.Name)
	if err := vfs.MkdirAll(in.fs, filepath.Join(dir, logsDir), 0o700); err != nil {
		return err
	}
	for _, name := range append([]string{SystemName}, logs...) {
		ls := LogSettings{Name: name}.withDefaults()
		if err := in.writeJSON(filepath.Join(dir, logsDir, name+".json"), settingsFile[LogSettings]{settingsFormat, ls}); err != nil {
			return err
		}
	}
	return in.writeJSON(filepath.Join(dir, tenantName), settingsFile[TenantSettings]{settingsFormat, *s})
}

// settingsFile is what the settings are in.
type settingsFile[T any] struct {
	Format   int `json:"format"`
	Settings T   `json:"settings"`
}

// writeJSON replaces a settings file, durably.
func (in *Installation) writeJSON(name string, v any) error {
	return in.writeLimited(name, v, maxSettings)
}

func (in *Installation) writeLimited(name string, v any, limit int) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if len(data) >= limit {
		return fmt.Errorf("write %s: %d bytes; at most %d", name, len(data), limit)
	}
	if err := vfs.WriteAtomic(in.fs, name+".tmp", name, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// readSettings reads a settings file.
func readSettings[T any](fsys vfs.FS, name string) (T, error) {
	var f settingsFile[T]
	data, err := vfs.ReadFile(fsys, name, maxSettings)
	if err != nil {
		return f.Settings, err
	}
	if err := decodeStrict(data, &f); err != nil {
		return f.Settings, fmt.Errorf("%s: %w", name, err)
	}
	if f.Format != settingsFormat {
		return f.Settings, fmt.Errorf("%s: format %d; this program knows %d", name, f.Format, settingsFormat)
	}
	return f.Settings, nil
}

// loadTenant reads a tenant's files; its logs are opened later. It is nil where the name is no tenant's: what a crash
// left of one that was never made, or somebody's own file.
func (in *Installation) loadTenant(name string) *Tenant {
	if CheckName("tenant", name) != nil {
		in.logger.Warn("not a tenant's name", "tenant", name)
		return nil
	}
	t := &Tenant{in: in, name: name, logs: map[string]*Log{}}
	t.reads.init(t)
	t.rules.Store(1)
	s, err := readSettings[TenantSettings](in.fs, t.path(tenantName))
	if errors.Is(err, fs.ErrNotExist) && in.unmade(t) {
		return nil
	}
	if err == nil {
		err = s.check()
	}
	if err == nil && s.Name != name {
		err = fmt.Errorf("%s: it is of the tenant %q", t.path(tenantName), s.Name)
	}
	if err == nil {
		t.tokens, err = in.openTokens(name, t.path(tokensName))
	}
	if err == nil {
		err = t.loadLogs()
	}
	if err != nil {
		in.logger.Error("a tenant cannot be used", "tenant", name, "error", err)
		t.err = &UnavailableError{Tenant: name, Err: err}
		s = TenantSettings{Name: name}
	}
	t.settings.Store(&s)
	return t
}

// unmade says whether a directory without tenant.json is what a crash left of a tenant that was never made: it has no log.
func (in *Installation) unmade(t *Tenant) bool {
	names, err := in.fs.ReadDir(t.path(logsDir))
	return errors.Is(err, fs.ErrNotExist) || err == nil && !slices.ContainsFunc(names, func(n string) bool { return !strings.Contains(n, ".json") })
}

func (t *Tenant) path(parts ...string) string {
	return t.in.path(append([]string{tenantsDir, t.name}, parts...)...)
}

// openers is how many logs are opened at a time. Opening waits for the disk most of the time.
func openers() int { return 4 * runtime.GOMAXPROCS(0) }

// openLogs opens every log of every tenant, some beside each other.
func (in *Installation) openLogs(ctx context.Context) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, openers())
	for _, t := range in.Tenants() {
		for _, l := range t.Logs() {
			if ctx.Err() != nil {
				break
			}
			slots <- struct{}{}
			wg.Go(func() {
				l.open()
				<-slots
			})
		}
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("open the logs: %w", context.Cause(ctx))
	}
	for _, t := range in.Tenants() {
		t.measureStored()
	}
	if err := in.system.system.Err(); err != nil && !isNoSpace(err) { // on a full disk what is there can be looked at
		return fmt.Errorf("open the installation's log of the log: %w", err)
	}
	return nil
}

// Close records the stop and closes every log. Nothing is served any more when it is called.
func (in *Installation) Close(ctx context.Context) error {
	in.changes.Lock()
	defer in.changes.Unlock()
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return immutable.ErrClosed
	}
	in.closed = true
	in.mu.Unlock()
	close(in.stop)
	<-in.ended
	err := in.recordStop(ctx)
	return errors.Join(err, in.release())
}

// release closes the logs, some beside each other, and gives up the lock.
func (in *Installation) release() error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, openers())
	for _, t := range in.Tenants() {
		for _, l := range t.Logs() {
			if l.Log == nil {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				if err := l.Log.Close(); err != nil && !errors.Is(err, immutable.ErrClosed) {
					mu.Lock()
					errs = append(errs, fmt.Errorf("close log %s of tenant %s: %w", l.name, t.name, err))
					mu.Unlock()
				}
				<-slots
			})
		}
	}
	wg.Wait()
	if in.lock != nil {
		errs = append(errs, in.lock.Close())
	}
	return errors.Join(errs...)
}

// ID is the installation's own, 16 hex digits.
func (in *Installation) ID() string { return in.id.ID }

// OriginPrefix is what the origins of its logs begin with.
func (in *Installation) OriginPrefix() string { return in.id.OriginPrefix }

// Dir is the data directory.
func (in *Installation) Dir() string { return in.o.Dir }

// System is the installation's own tenant, whose only log is the installation's log of the log.
func (in *Installation) System() *Tenant { return in.system }

// Tenants are all of them by name, the installation's own too.
func (in *Installation) Tenants() []*Tenant {
	in.mu.RLock()
	defer in.mu.RUnlock()
	ts := make([]*Tenant, 0, len(in.tenants))
	for _, t := range in.tenants {
		ts = append(ts, t)
	}
	slices.SortFunc(ts, func(a, b *Tenant) int { return strings.Compare(a.name, b.name) })
	return ts
}

// Tenant returns one of them.
func (in *Installation) Tenant(name string) (*Tenant, error) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	t := in.tenants[name]
	if t == nil {
		return nil, notFound("tenant", name)
	}
	return t, nil
}

// CreateTenant makes a tenant with its log of the log. by must be allowed PermManageInstallation.
func (in *Installation) CreateTenant(ctx context.Context, by *Principal, s TenantSettings) (*Tenant, error) {
	if err := by.Allow(PermManageInstallation, "", ""); err != nil {
		return nil, err
	}
	if err := checkNewName("tenant", s.Name); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	in.changes.Lock()
	defer in.changes.Unlock()
	if err := in.mayAdd(s.Name); err != nil {
		return nil, err
	}
	if err := in.system.Record(ctx, by, TenantCreate, immutable.Fields{"tenant": s.Name, "settings": plain(s)}); err != nil {
		return nil, err
	}
	if err := in.makeTenant(&s); err != nil {
		return nil, err
	}
	t := in.loadTenant(s.Name)
	if t == nil {
		return nil, fmt.Errorf("make tenant %q: its settings are gone", s.Name)
	}
	if t.err != nil {
		return nil, t.err
	}
	for _, l := range t.Logs() { // its log of the log; others only where a directory of this name was there
		l.open()
	}
	in.mu.Lock()
	in.tenants[s.Name] = t
	in.mu.Unlock()
	for _, l := range t.Logs() {
		in.announce(l)
	}
	return t, t.recordCreation(ctx, by)
}

// mayAdd says whether a tenant of this name can be made. in.changes is held.
func (in *Installation) mayAdd(name string) error {
	in.mu.RLock()
	defer in.mu.RUnlock()
	switch {
	case in.closed:
		return immutable.ErrClosed
	case in.tenants[name] != nil:
		return fmt.Errorf("tenant %q: %w", name, ErrExists)
	case len(in.tenants) >= maxTenants:
		return bad("name", "there are %d tenants, the most that one installation has", maxTenants)
	}
	return nil
}

// OnLog calls f for every log, those that are there now and those that come. f makes no tenants, logs or tokens itself.
func (in *Installation) OnLog(f func(*Log)) {
	in.changes.Lock() // no log is made meanwhile
	defer in.changes.Unlock()
	in.mu.Lock()
	in.onLog = append(in.onLog, f)
	in.mu.Unlock()
	for _, t := range in.Tenants() {
		for _, l := range t.Logs() {
			f(l)
		}
	}
}

func (in *Installation) announce(l *Log) {
	in.mu.RLock()
	fs := slices.Clone(in.onLog)
	in.mu.RUnlock()
	for _, f := range fs {
		f(l)
	}
}

// Name is the tenant's.
func (t *Tenant) Name() string { return t.name }

// Err says why the tenant's files cannot be used; nil where they can.
func (t *Tenant) Err() error {
	if t == nil {
		return nil
	}
	return t.err
}

// Settings returns a copy.
func (t *Tenant) Settings() TenantSettings { return t.settings.Load().clone() }

// clone copies what others could change through it.
func (s *TenantSettings) clone() TenantSettings {
	out := *s
	out.Claims, out.Certificates = slices.Clone(s.Claims), slices.Clone(s.Certificates)
	return out
}

// Update replaces the settings. by must be allowed PermManageTenant; quota and suspension are the installation's to change.
func (t *Tenant) Update(ctx context.Context, by *Principal, s TenantSettings) error {
	if err := by.Allow(PermManageTenant, t.name, ""); err != nil {
		return err
	}
	if t.err != nil {
		return t.err
	}
	if err := s.check(); err != nil {
		return err
	}
	t.in.changes.Lock()
	defer t.in.changes.Unlock()
	old := t.settings.Load()
	if s.Name != t.name {
		return bad("name", "a tenant keeps its name, %q", t.name)
	}
	if by.Tenant != "" && (s.Quota != old.Quota || s.Suspended != old.Suspended) {
		return fmt.Errorf("%w: quota and suspension are changed by administrators of the installation", ErrForbidden)
	}
	if err := t.Record(ctx, by, TenantUpdate, immutable.Fields{"tenant": t.name, "before": plain(old), "after": plain(s)}); err != nil {
		return err
	}
	if err := t.in.writeJSON(t.path(tenantName), settingsFile[TenantSettings]{settingsFormat, s}); err != nil {
		return err
	}
	s = s.clone()
	t.settings.Store(&s)
	t.rules.Add(1) // principals that the rules made prove themselves again
	t.measureStored()
	return nil
}

// ReadFile reads a file of the tenant's that another package owns, such as alerts.json; fs.ErrNotExist where there is none.
func (t *Tenant) ReadFile(name string) ([]byte, error) {
	if err := checkFile(name); err != nil {
		return nil, err
	}
	return vfs.ReadFile(t.in.fs, t.path(name), maxSettings)
}

// WriteFile replaces such a file, durably and at once.
func (t *Tenant) WriteFile(name string, data []byte) error {
	if err := checkFile(name); err != nil {
		return err
	}
	if len(data) > maxSettings {
		return fmt.Errorf("write %s: %d bytes; at most %d", name, len(data), maxSettings)
	}
	t.files.Lock()
	defer t.files.Unlock()
	return vfs.WriteAtomic(t.in.fs, t.path(name+".tmp"), t.path(name), data, 0o600)
}

// RemoveFile removes such a file, durably; that there is none is no error.
func (t *Tenant) RemoveFile(name string) error {
	if err := checkFile(name); err != nil {
		return err
	}
	t.files.Lock()
	defer t.files.Unlock()
	if err := t.in.fs.Remove(t.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return t.in.fs.SyncDir(t.path())
}

func checkFile(name string) error {
	base, ok := strings.CutSuffix(name, ".json")
	if !ok || name == tenantName || name == tokensName {
		return &NameError{"file", name, "a name of its own that ends in .json"}
	}
	return CheckName("file", base)
}

// UnavailableError says that a tenant or a log cannot be used, and why: 503.
type UnavailableError struct {
	Tenant, Log string
	Err         error
}

func (e *UnavailableError) Error() string {
	if e.Log == "" {
		return fmt.Sprintf("tenant %q is unavailable: %v", e.Tenant, e.Err)
	}
	return fmt.Sprintf("log %q of tenant %q is unavailable: %v", e.Log, e.Tenant, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// plain turns settings into metadata, spelled as in their files.
func plain(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	return data
}
