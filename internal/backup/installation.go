package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Of a server's data directory: what never travels, and what is copied once.
const (
	serverState   = "state"
	serverReserve = "reserve" // space that is kept free
	serverCold    = "cold"
	// What could not go on after a restoration.
	serverEarlier = "earlier"
)

// Below a backup of a whole data directory.
const (
	logsDir  = "logs"  // snapshots of each log, under its path in the data directory
	filesDir = "files" // settings, tokens (hashed) and alerts, a directory for each run
	coldDir  = "cold"  // retired segments that were moved
	// What logs were before they were continued by others: kept, and not restored from.
	supersededDir = "superseded"
)

// All is a backup of a server's whole data directory.
type All struct {
	Logs   []Result          `json:"logs"`
	Failed map[string]string `json:"failed,omitempty"` // path of the log in the data directory, and why there is no snapshot of it
	Files  int               `json:"files"`
}

// RunAll makes a snapshot of each log below a server's data directory, and copies what else is there but heads and private keys. One log
// that does not verify is said in Failed, and does not keep the others from being copied.
func RunAll(ctx context.Context, o Options) (*All, error) {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &all{ctx: ctx, o: o, rep: &All{Logs: []Result{}, Failed: map[string]string{}}}
	if err := makeDirs(o.FS, o.Out); err != nil {
		return nil, err
	}
	lock, err := o.FS.Lock(filepath.Join(o.Out, lockName), nil)
	if err != nil {
		return nil, fmt.Errorf("another backup into %s is running: %w", o.Out, err)
	}
	defer lock.Close()
	if a.to, err = freeName(o.FS, o.Now(), func(at string) string { return filepath.Join(o.Out, filesDir, at) }); err != nil {
		return nil, err
	}
	if err := removeAll(o.FS, a.to+partial); err != nil {
		return nil, err
	}
	if err := a.walk(""); err != nil {
		return nil, errors.Join(err, removeAll(o.FS, a.to+partial))
	}
	if len(a.rep.Logs)+len(a.rep.Failed) == 0 {
		return nil, fmt.Errorf("no log below %s; `immutable backup --dir DIR OUT` copies a single log", o.Dir)
	}
	if err := o.FS.Rename(a.to+partial, a.to); err != nil {
		return nil, err
	}
	return a.rep, o.FS.SyncDir(filepath.Dir(a.to))
}

type all struct {
	ctx context.Context
	o   Options
	to  string
	rep *All
}

// walk copies what is below a directory of the data directory. Paths in it have slashes.
func (a *all) walk(rel string) error {
	fsys := a.o.FS
	dir := filepath.Join(a.o.Dir, filepath.FromSlash(rel))
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	if slices.Contains(names, identity.LogName) {
		return a.log(rel)
	}
	for _, name := range names {
		sub := path.Join(rel, name)
		if name == lockName || sub == serverState || sub == serverReserve || strings.HasSuffix(name, ".tmp") {
			continue
		}
		info, err := fsys.Stat(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist): // a temporary
			continue
		case err != nil:
			return err
		case sub == serverCold:
			err = a.cold(sub)
		case info.Dir:
			err = a.walk(sub)
		default:
			err = a.file(sub, filepath.Join(a.to+partial, filepath.FromSlash(sub)), info.Mode.Perm())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *all) log(rel string) error {
	o := a.o
	o.Dir, o.Out = filepath.Join(o.Dir, filepath.FromSlash(rel)), filepath.Join(o.Out, logsDir, filepath.FromSlash(rel))
	r, err := Run(a.ctx, o)
	if errors.Is(err, errOther) {
		to := filepath.Join(a.o.Out, supersededDir, filepath.Base(a.to), filepath.FromSlash(rel))
		if err := errors.Join(makeDirs(a.o.FS, filepath.Dir(to)), a.o.FS.Rename(o.Out, to)); err != nil {
			return err
		}
		r, err = Run(a.ctx, o)
	}
	switch {
	case a.ctx.Err() != nil:
		return a.ctx.Err()
	case err != nil:
		a.rep.Failed[rel] = err.Error()
	default:
		a.rep.Logs = append(a.rep.Logs, *r)
	}
	return nil
}

func (a *all) file(rel, to string, perm fs.FileMode) error {
	in, err := a.o.FS.Open(filepath.Join(a.o.Dir, filepath.FromSlash(rel)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return err
	}
	if err := makeDirs(a.o.FS, filepath.Dir(to)); err != nil {
		return err
	}
	if _, err := copyFile(a.ctx, a.o.FS, in, size, to, perm, nil); err != nil {
		return err
	}
	a.rep.Files++
	return a.o.FS.SyncDir(filepath.Dir(to))
}

// cold copies retired segments that are not in the backup yet: they never change.
func (a *all) cold(rel string) error {
	names, err := a.o.FS.ReadDir(filepath.Join(a.o.Dir, filepath.FromSlash(rel)))
	if err != nil {
		return err
	}
	for _, name := range names {
		sub := path.Join(rel, name)
		info, err := a.o.FS.Stat(filepath.Join(a.o.Dir, filepath.FromSlash(sub)))
		if err != nil {
			return err
		}
		if info.Dir {
			if err := a.cold(sub); err != nil {
				return err
			}
			continue
		}
		to := filepath.Join(a.o.Out, filepath.FromSlash(sub))
		if was, err := a.o.FS.Stat(to); err == nil && was.Size == info.Size {
			continue
		}
		if err := removeAll(a.o.FS, to+partial); err != nil {
			return err
		}
		if err := a.file(sub, to+partial, info.Mode.Perm()); err != nil {
			return err
		}
		if err := a.o.FS.Rename(to+partial, to); err != nil {
			return err
		}
	}
	return nil
}

// RestoreAll brings back the newest snapshot of each log, the newest settings, and what was moved to the cold directory, into a data
// directory that has at most the state directory. One log that cannot be restored is in failed, and does not keep the others from it.
func RestoreAll(ctx context.Context, o RestoreOptions) (restored []Restored, failed map[string]error, err error) {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	names, err := o.FS.ReadDir(o.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, name := range names {
		if name != serverState && name != lockName && name != serverReserve {
			return nil, nil, fmt.Errorf("%s holds %s: restore into a directory that has nothing but, at most, the state of this host's logs", o.Dir, name)
		}
	}
	runs, err := o.FS.ReadDir(filepath.Join(o.From, filesDir))
	if err != nil {
		return nil, nil, fmt.Errorf("%s holds no backup of a data directory: %w", o.From, err)
	}
	newest := ""
	for _, name := range runs {
		if _, err := time.Parse(stamp, name); err == nil {
			newest = name
		}
	}
	if newest == "" {
		return nil, nil, fmt.Errorf("%s holds no finished backup of a data directory", o.From)
	}
	r := &restoreAll{o: o, ctx: ctx, failed: map[string]error{}}
	if err := r.logs(""); err != nil {
		return nil, nil, err
	}
	if _, err := o.FS.Stat(filepath.Join(o.From, coldDir)); err == nil {
		if err := o.copyTree(ctx, filepath.Join(o.From, coldDir), filepath.Join(o.Dir, serverCold)); err != nil {
			return nil, nil, err
		}
	}
	return r.restored, r.failed, o.copyTree(ctx, filepath.Join(o.From, filesDir, newest), o.Dir)
}

type restoreAll struct {
	o        RestoreOptions
	ctx      context.Context
	restored []Restored
	failed   map[string]error
}

func (r *restoreAll) logs(rel string) error {
	from := filepath.Join(r.o.From, logsDir, filepath.FromSlash(rel))
	if list, err := Snapshots(r.o.FS, from); err != nil {
		return err
	} else if len(list) > 0 {
		return r.log(rel)
	}
	names, err := r.o.FS.ReadDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == lockName {
			continue
		}
		if err := r.logs(path.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

// log restores tenants/<tenant>/logs/<log>, whose heads and keys are in state/<tenant>.
func (r *restoreAll) log(rel string) error {
	o := r.o
	o.From, o.Dir = filepath.Join(o.From, logsDir, filepath.FromSlash(rel)), filepath.Join(o.Dir, filepath.FromSlash(rel))
	o.State = TenantState(r.o.Dir, r.o.State, rel)
	earlier := strings.HasPrefix(rel, serverEarlier+"/")
	if earlier {
		o.State = ""
	}
	if err := makeDirs(o.FS, filepath.Dir(o.Dir)); err != nil {
		return err
	}
	res, err := Restore(r.ctx, o)
	switch {
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case err != nil:
		r.failed[rel] = err
	default:
		res.Earlier = earlier
		r.restored = append(r.restored, *res)
	}
	return nil
}

// Earlier brings the newest snapshot of a log to DIR/earlier, to be read only: the log cannot go on there.
func Earlier(ctx context.Context, o RestoreOptions, rel string) (*Restored, error) {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	o.From = filepath.Join(o.From, logsDir, filepath.FromSlash(rel))
	snapshot, err := o.snapshot()
	if err != nil {
		return nil, err
	}
	o.From, o.State = snapshot, ""
	o.Dir = filepath.Join(o.Dir, serverEarlier, filepath.FromSlash(rel), filepath.Base(snapshot))
	if err := makeDirs(o.FS, filepath.Dir(o.Dir)); err != nil {
		return nil, err
	}
	return Restore(ctx, o)
}

// TenantState is the state directory of a log at a path in a server's data directory; state replaces DIR/state unless it is empty.
func TenantState(dir, state, rel string) string {
	if state == "" {
		state = filepath.Join(dir, serverState)
	}
	if parts := strings.Split(rel, "/"); len(parts) > 1 {
		return filepath.Join(state, parts[1])
	}
	return state
}
