package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// RestoreOptions say what to bring back where.
type RestoreOptions struct {
	FS       vfs.FS // nil is the operating system's
	From     string // a snapshot, or a directory of snapshots, of which the newest is taken
	Dir      string // must not exist, or be empty
	State    string // root of this host's state directory; "" = nothing is known of the log here
	Progress func(what string, done, total uint64)
}

// Restored says what is in the directory now.
type Restored struct {
	Snapshot string `json:"snapshot"`
	Dir      string `json:"dir"`
	Origin   string `json:"origin"`
	Size     uint64 `json:"size"`
	Verdict  string `json:"verdict"`
	Known    bool   `json:"known"`             // this host has a head of the log, which the snapshot agrees with
	Earlier  bool   `json:"earlier,omitempty"` // of a server: another log has continued it
}

// ForkError says that this host has signed more than the snapshot holds: a log that went on from there would contradict it.
type ForkError struct {
	Snapshot string
	Size     uint64
	Report   *fsck.Report // beside what this host knows
}

func (e *ForkError) Error() string {
	what := e.Report.Notes
	if len(e.Report.Findings) > 0 {
		what = e.Report.Findings
	}
	first := ""
	if len(what) > 0 {
		first = ": " + what[0].String()
	}
	return fmt.Sprintf("%s has %d entries and is not what this host has signed%s; nothing was restored. A log that goes on from an older state forks: "+
		"look for a newer snapshot, or begin a new log that anchors this one with `immutable continue %s NEW`", e.Snapshot, e.Size, first, e.Snapshot)
}

// Restore copies a snapshot to where a log is to be. It verifies the snapshot by itself, then the copy, then the copy beside what this
// host knows of the log, and gives it its name last. Writing needs the private keys, and Adopt.
func Restore(ctx context.Context, o RestoreOptions) (*Restored, error) {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	snapshot, err := o.snapshot()
	if err != nil {
		return nil, err
	}
	names, err := o.FS.ReadDir(o.Dir)
	if err == nil && len(names) > 0 {
		return nil, fmt.Errorf("%s is not empty: move it away first, and keep it: what is damaged may still be evidence", o.Dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	empty := err == nil
	to := filepath.Clean(o.Dir) + partial
	if err := removeAll(o.FS, to); err != nil {
		return nil, err
	}
	r, err := o.restore(ctx, snapshot, to)
	if err != nil {
		return nil, errors.Join(err, removeAll(o.FS, to))
	}
	if empty {
		if err := o.FS.Remove(o.Dir); err != nil {
			return nil, errors.Join(err, removeAll(o.FS, to))
		}
	}
	if err := o.FS.Rename(to, o.Dir); err != nil {
		return nil, errors.Join(err, removeAll(o.FS, to))
	}
	return r, o.FS.SyncDir(filepath.Dir(filepath.Clean(o.Dir)))
}

func (o *RestoreOptions) snapshot() (string, error) {
	if _, err := o.FS.Stat(filepath.Join(o.From, identity.LogName)); err == nil {
		return o.From, nil
	}
	list, err := Snapshots(o.FS, o.From)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", fmt.Errorf("%s holds no snapshot; `immutable backup %s` makes one", o.From, o.From)
	}
	return list[len(list)-1], nil
}

func (o *RestoreOptions) restore(ctx context.Context, snapshot, to string) (*Restored, error) {
	if err := o.copyTree(ctx, snapshot, to); err != nil {
		return nil, err
	}
	rep, err := o.check(ctx, to, "")
	if err != nil {
		return nil, err
	}
	if rep.Verdict != fsck.Consistent && rep.Verdict != fsck.Proven {
		return nil, &Error{snapshot, rep}
	}
	r := &Restored{Snapshot: snapshot, Dir: o.Dir, Origin: rep.Origin, Size: rep.Size, Verdict: string(rep.Verdict)}
	if o.State == "" {
		return r, nil
	}
	_, err = o.FS.Stat(filepath.Join(identity.Dir(o.State, rep.Origin), "head"))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	beside, err := o.check(ctx, to, o.State)
	if err != nil {
		return nil, err
	}
	if beside.Verdict != fsck.Consistent && beside.Verdict != fsck.Proven {
		return nil, &ForkError{snapshot, rep.Size, beside}
	}
	r.Known, r.Verdict = true, string(beside.Verdict)
	return r, nil
}

func (o *RestoreOptions) check(ctx context.Context, dir, state string) (*fsck.Report, error) {
	return fsck.Check(ctx, fsck.Options{FS: o.FS, Dir: dir, State: state, Progress: func(p fsck.Progress) {
		if o.Progress != nil {
			o.Progress("verifying", p.Entries, p.TotalEntries)
		}
	}})
}

// copyTree copies a directory and syncs it. Nothing but regular files and directories is taken.
func (o *RestoreOptions) copyTree(ctx context.Context, from, to string) error {
	if err := vfs.MkdirAll(o.FS, to, 0o700); err != nil {
		return err
	}
	names, err := o.FS.ReadDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := o.FS.Stat(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if info.Dir {
			if err := o.copyTree(ctx, filepath.Join(from, name), filepath.Join(to, name)); err != nil {
				return err
			}
			continue
		}
		if err := o.copyOne(ctx, filepath.Join(from, name), filepath.Join(to, name), info.Mode.Perm()); err != nil {
			return err
		}
	}
	return o.FS.SyncDir(to)
}

func (o *RestoreOptions) copyOne(ctx context.Context, from, to string, perm fs.FileMode) error {
	in, err := o.FS.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return err
	}
	_, err = copyFile(ctx, o.FS, in, size, to, perm, nil)
	return err
}
