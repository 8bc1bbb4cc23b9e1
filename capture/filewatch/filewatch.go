// Package filewatch records changes of files in an Immutable log: what was made, written, removed, renamed, or given other permissions, with the
// SHA-256 of the content before and after, and on Linux, where the process may ask the kernel, by which process of which user.
//
//	w, err := filewatch.New(rec, filewatch.Config{Paths: []string{"/etc/app"}, Kind: event.KindConfiguration})
//	err = w.Run(ctx)
//
// Changes are found by the kernel's notifications (fsnotify), and by looking at every file from time to time, which is all there is where
// those are not to be had. A file that changes several times within Config.Settle is one event.
package filewatch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/event"
)

// Config says what is watched. Paths alone is enough.
type Config struct {
	// Paths are files, and directories with everything in them. A file need not be there yet; the directory that it is in must. Links are
	// watched as links, and not followed.
	Paths []string

	// Kind is event.KindFile, the default, or event.KindConfiguration, whose events all have the action configuration.change.
	Kind event.Kind

	// Ignore names files and directories that are left out: editors' temporary ones, say. May be nil.
	Ignore func(path string) bool

	// Settle is how long nothing must have changed before what did is looked at. 0 is 100 ms. Where there is no such pause, that is done every ten
	// of them.
	Settle time.Duration

	// Rescan is how often all files are looked at, whatever the kernel says. 0 is ten minutes, and ten seconds where it says nothing.
	Rescan time.Duration

	// MaxBytes is the size up to which a file's digest is computed. 0 is 1 GiB. Of larger ones size, time and mode are compared.
	MaxBytes int64

	// Polling uses no notifications: for network file systems, which have none.
	Polling bool
}

const (
	defaultSettle  = 100 * time.Millisecond
	defaultRescan  = 10 * time.Minute
	defaultPolling = 10 * time.Second
	defaultMax     = 1 << 30

	// maxFiles bounds what one Watcher watches: New refuses more, and later ones are not watched, which is recorded once.
	maxFiles = 200_000
	maxPath  = 4 << 10
)

// Watcher watches files. Its methods are called by one goroutine, but for Method.
type Watcher struct {
	rec    *capture.Recorder
	cfg    Config
	roots  []string
	notify *fsnotify.Watcher // nil: polling
	who    *witness          // nil: the kernel does not say who
	method string

	known   map[string]state
	watched map[string]bool
	pending map[string]bool // of which the kernel has said something
	first   time.Time       // when, for the first of them
	full    bool            // maxFiles was reached, and recorded
}

// state is what is known of a file.
type state struct {
	mode   fs.FileMode
	size   int64
	time   time.Time
	digest string // "" for what is no file, could not be read, or is too large
	link   string // where a link leads
	note   string // why there is no digest
}

// New looks at all files for the first time, and begins to watch them; changes from here on are recorded once Run runs. What a file was before
// is known from here on only.
func New(rec *capture.Recorder, cfg Config) (*Watcher, error) {
	w := &Watcher{rec: rec, cfg: cfg, known: map[string]state{}, watched: map[string]bool{}, pending: map[string]bool{}, method: "polling"}
	if len(cfg.Paths) == 0 {
		return nil, errors.New("watch files: no paths are given")
	}
	if cfg.Settle <= 0 {
		w.cfg.Settle = defaultSettle
	}
	if cfg.MaxBytes <= 0 {
		w.cfg.MaxBytes = defaultMax
	}
	switch cfg.Kind {
	case "":
		w.cfg.Kind = event.KindFile
	case event.KindFile, event.KindConfiguration:
	default:
		return nil, fmt.Errorf("watch files: kind %q: want %q or %q", cfg.Kind, event.KindFile, event.KindConfiguration)
	}
	for _, p := range cfg.Paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("watch files: %w", err)
		}
		if _, err := os.Lstat(filepath.Dir(abs)); err != nil {
			return nil, fmt.Errorf("watch files: %w", err)
		}
		w.roots = append(w.roots, abs)
	}
	w.begin()
	for _, root := range w.roots {
		w.watch(filepath.Dir(root), false)
		w.look(context.Background(), root, func(path string, s state) { w.known[path] = s })
	}
	if w.full {
		return nil, errors.Join(fmt.Errorf("watch files: more than %d files; watch fewer, or ignore some", maxFiles), w.close())
	}
	if w.cfg.Rescan <= 0 {
		w.cfg.Rescan = defaultRescan
		if w.notify == nil {
			w.cfg.Rescan = defaultPolling
		}
	}
	return w, nil
}

// begin asks the kernel for what it offers.
func (w *Watcher) begin() {
	if w.cfg.Polling {
		return
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return // polling finds the changes as well, later
	}
	w.notify, w.method = n, "fsnotify"
	if w.who = newWitness(); w.who != nil {
		w.method = "fsnotify, fanotify"
	}
}

// Method says how changes are found: "fsnotify, fanotify", "fsnotify", or "polling".
func (w *Watcher) Method() string { return w.method }

func (w *Watcher) close() error {
	w.who.close()
	if w.notify == nil {
		return nil
	}
	return w.notify.Close()
}

// Run records changes until ctx ends; it returns nil then. A Watcher runs once.
func (w *Watcher) Run(ctx context.Context) error {
	defer func() { _ = w.close() }() // nothing is lost by it
	if w.full || w.roots == nil {
		return errors.New("watch files: the watcher has run")
	}
	var events chan fsnotify.Event
	var failures chan error
	if w.notify != nil {
		events, failures = w.notify.Events, w.notify.Errors
	}
	rescan := time.NewTicker(w.cfg.Rescan)
	defer rescan.Stop()
	settle := time.NewTimer(time.Hour)
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			w.settle(ctx) // what the kernel has told
			w.roots = nil
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("watch files: the kernel's notifications have ended")
			}
			if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				delete(w.watched, e.Name) // a directory that comes back is another one
			}
			w.note(e.Name)
			if w.first.IsZero() {
				w.first = time.Now()
			}
			if time.Since(w.first) < 10*w.cfg.Settle { // then the timer runs out although more comes
				settle.Reset(w.cfg.Settle)
			}
		case err := <-failures: // notifications were lost: look at everything
			if err != nil {
				w.rescan(ctx)
			}
		case <-settle.C:
			w.first = time.Time{}
			w.settle(ctx)
		case <-rescan.C:
			w.rescan(ctx)
		}
	}
}

// note remembers that something was said of a path.
func (w *Watcher) note(path string) {
	if !w.within(path) {
		return
	}
	w.pending[path] = true
}

// within says whether a path is one of those that are watched: what is beside a watched file is not.
func (w *Watcher) within(path string) bool {
	for _, root := range w.roots {
		if path == root || strings.HasPrefix(path, strings.TrimSuffix(root, string(filepath.Separator))+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

// settle looks at the paths of which something was said, all at once, so that what belongs together is seen together.
func (w *Watcher) settle(ctx context.Context) {
	due := slices.Sorted(maps.Keys(w.pending))
	clear(w.pending)
	w.compare(context.WithoutCancel(ctx), due)
}

// rescan looks at everything.
func (w *Watcher) rescan(ctx context.Context) {
	clear(w.pending)
	w.compare(ctx, w.roots)
}

// change is a file that is not what it was.
type change struct {
	path          string
	before, after *state // nil: it was not there, it is not there
	from          string // its path before it was renamed
}

// compare looks at paths, and at what is and was in them, and records what has changed.
func (w *Watcher) compare(ctx context.Context, paths []string) {
	found := map[string]state{}
	for _, path := range paths {
		w.look(ctx, path, func(p string, s state) { found[p] = s })
	}
	if ctx.Err() != nil {
		return // what was not looked at is not gone
	}
	var gone []string
	for old := range w.known {
		if _, there := found[old]; there {
			continue
		}
		for _, path := range paths {
			if old == path || strings.HasPrefix(old, path+string(filepath.Separator)) {
				gone = append(gone, old)
				break
			}
		}
	}
	var changes []change
	for path, now := range found {
		before, was := w.known[path]
		switch {
		case !was:
			changes = append(changes, change{path: path, after: &now})
		case before.differs(&now):
			changes = append(changes, change{path: path, before: &before, after: &now})
		}
	}
	for _, path := range gone {
		before := w.known[path]
		changes = append(changes, change{path: path, before: &before})
		delete(w.known, path)
		delete(w.watched, path)
	}
	maps.Copy(w.known, found)
	for _, c := range renames(changes) {
		w.record(ctx, &c)
	}
}

// differs compares what is worth an event: a directory's time and size change with what is in it, which has its own.
func (s *state) differs(o *state) bool {
	if s.mode != o.mode || s.link != o.link || s.digest != o.digest {
		return true
	}
	return s.mode.IsRegular() && (s.size != o.size || s.digest == "" && !s.time.Equal(o.time))
}

// renames makes one change of a file that has gone and one of the same content that has come, and sorts all by path.
func renames(changes []change) []change {
	gone := map[string]int{}
	for i := range changes {
		if c := &changes[i]; c.after == nil && c.before.digest != "" && c.before.size > 0 {
			gone[c.before.digest] = i
		}
	}
	drop := map[int]bool{}
	for i := range changes {
		c := &changes[i]
		if c.before != nil || c.after.digest == "" {
			continue
		}
		if at, found := gone[c.after.digest]; found {
			c.from, c.before = changes[at].path, changes[at].before
			drop[at] = true
			delete(gone, c.after.digest)
		}
	}
	out := make([]change, 0, len(changes))
	for i, c := range changes {
		if !drop[i] {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.path, b.path) })
	return out
}

func (w *Watcher) record(ctx context.Context, c *change) {
	action, verb := event.ActionFileWrite, "written"
	switch {
	case c.from != "":
		action, verb = event.ActionFileRename, "renamed"
	case c.before == nil:
		action, verb = event.ActionFileCreate, "made"
	case c.after == nil:
		action, verb = event.ActionFileDelete, "removed"
	case c.before.digest == c.after.digest && c.before.size == c.after.size && c.before.link == c.after.link && c.before.mode.Type() == c.after.mode.Type() && c.before.mode != c.after.mode:
		action, verb = event.ActionFilePermission, "given other permissions"
	}
	file := map[string]any{"change": strings.TrimPrefix(action, "file.")}
	if c.before != nil {
		file["before"] = c.before.fields()
	}
	if c.after != nil {
		file["after"] = c.after.fields()
	}
	if c.from != "" {
		file["from"] = capture.Text(c.from, maxPath)
	}
	if w.cfg.Kind == event.KindConfiguration {
		action = event.ActionConfigChange
	}
	s := event.Shape{
		Kind: w.cfg.Kind, Action: action, Outcome: event.OutcomeSuccess, Target: &event.Target{Type: "file", ID: capture.Text(c.path, maxPath), Name: capture.Text(filepath.Base(c.path), 255)},
		Extra: immutable.Fields{"file": file},
	}
	if p := w.who.of(c.path, c.from); p != nil {
		s.Actor = p.actor()
		s.Extra["process"] = p.fields()
	}
	_ = w.rec.Record(ctx, immutable.Audit, "file "+verb+": "+capture.Text(c.path, 256), s) // the error was told to OnError
}

func (s *state) fields() map[string]any {
	f := map[string]any{"mode": s.mode.String()}
	if s.mode.IsRegular() {
		f["size"] = s.size
		f["modified"] = s.time.UTC()
	}
	for name, v := range map[string]string{"sha256": s.digest, "link": capture.Text(s.link, maxPath), "note": s.note} {
		if v != "" {
			f[name] = v
		}
	}
	return f
}

// look gives to found what is at a path, and in it if it is a directory, and sees to it that directories are watched.
func (w *Watcher) look(ctx context.Context, path string, found func(string, state)) {
	count := 0
	// Errors are of files that have gone, or may not be read: both are looked at again.
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && d == nil:
			return err
		case w.cfg.Ignore != nil && w.cfg.Ignore(p):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if count++; count > maxFiles || len(w.known) > maxFiles {
			w.overflow(ctx)
			return fs.SkipAll
		}
		if d.IsDir() && err == nil {
			w.watch(p, true)
		}
		if s, ok := w.stateOf(ctx, p); ok {
			found(p, s)
		}
		return nil
	})
}

func (w *Watcher) overflow(ctx context.Context) {
	if w.full {
		return
	}
	w.full = true
	_ = w.rec.Record(ctx, immutable.Warn, fmt.Sprintf("more than %d files: not all are watched", maxFiles), event.Shape{Kind: event.KindSystem, Action: event.ActionAlert, Outcome: event.OutcomeFailure}) // the error was told to OnError
}

// watch asks for notifications of a directory. Where there are none for it, rescans find what changes in it.
func (w *Watcher) watch(dir string, inside bool) {
	if w.notify == nil || w.watched[dir] {
		return
	}
	if err := w.notify.Add(dir); err != nil {
		return
	}
	w.watched[dir] = inside
	w.who.watch(dir)
}

func (w *Watcher) stateOf(ctx context.Context, path string) (state, bool) {
	i, err := os.Lstat(path)
	if err != nil {
		return state{}, false
	}
	s := state{mode: i.Mode(), size: i.Size(), time: i.ModTime()}
	switch {
	case i.Mode()&fs.ModeSymlink != 0:
		s.link, _ = os.Readlink(path) // gone: the next look sees it
	case i.Mode().IsRegular():
		s.digest, s.note = w.digest(ctx, path)
	}
	return s, true
}

// digest reads a file. What stands there now may be something else than a moment ago: a pipe is opened without waiting for its writer.
func (w *Watcher) digest(ctx context.Context, path string) (digest, note string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:forbidigo // it only reads, and must not wait
	if err != nil {
		return "", reason(err)
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil || !i.Mode().IsRegular() {
		return "", "it is no file any more"
	}
	if i.Size() > w.cfg.MaxBytes {
		return "", fmt.Sprintf("larger than %d bytes", w.cfg.MaxBytes)
	}
	h := sha256.New()
	for read := int64(0); read <= w.cfg.MaxBytes; { // a file may grow while it is read
		n, err := io.CopyN(h, f, 1<<20)
		read += n
		switch {
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(h.Sum(nil)), ""
		case err != nil:
			return "", reason(err)
		case ctx.Err() != nil:
			return "", "not read to its end"
		}
	}
	return "", fmt.Sprintf("larger than %d bytes", w.cfg.MaxBytes)
}

func reason(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return capture.Text(err.Error(), 256)
}
