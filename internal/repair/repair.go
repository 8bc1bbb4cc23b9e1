// Package repair restores damaged files of a log from a backup.
//
// Nothing in the log is replaced before the result has proven itself: a candidate directory is put together beside the log,
// of the log's own good files and, where one is damaged, the backup's; package fsck then verifies it against what this
// host knows. What is replaced, or belongs to no log, is moved to quarantine/ under its hash.
package repair

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Options say what to repair.
type Options struct {
	FS     vfs.FS // nil is the operating system's
	Dir    string // the log
	Backup string // a directory with an older or equal copy of it; it is only read
	State  string // root of this host's state directory
}

// Result says what was done. With Repaired false nothing was wrong, and nothing was changed.
type Result struct {
	Repaired    bool     `json:"repaired"`
	Replaced    []string `json:"replaced"`    // files of the log that are new now
	Quarantined []string `json:"quarantined"` // what they replaced, and what belongs to no log
	Size        uint64   `json:"size"`
	Verdict     string   `json:"verdict"` // of the log as it is now
	Rebuild     bool     `json:"rebuild"` // indexes or seals are missing: `immutable rebuild` makes them again
}

// Error says why the log cannot be repaired from this backup. The log was not changed.
type Error struct {
	Reason string
	Report *fsck.Report // of the candidate, if there was one
}

func (e *Error) Error() string { return e.Reason + "; nothing was changed" }

// repair is one run.
type repair struct {
	fs        vfs.FS
	dir       string
	backup    string
	candidate string
	state     string // of this log
	root      string // of all logs
	locks     []io.Closer

	id   *identity.Log
	keys []proof.Key
	head *identity.Head // nil where this host has none
}

// Run repairs. It takes the writer's locks; an error that is no *Error says that it could not be tried.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := &repair{fs: o.FS, dir: o.Dir, backup: o.Backup, root: o.State}
	if r.fs == nil {
		r.fs = vfs.OS()
	}
	for _, dir := range []string{r.dir, r.backup} {
		info, err := r.fs.Stat(dir)
		if err == nil && !info.Dir {
			err = &fs.PathError{Op: "repair", Path: dir, Err: errors.New("is not a directory")}
		}
		if err != nil {
			return nil, err
		}
	}
	if same, err := r.oneDirectory(); err != nil {
		return nil, err
	} else if same {
		return nil, &Error{Reason: "the backup is the log itself"}
	}
	defer r.unlock()
	if err := r.lock(r.dir); err != nil {
		return nil, err
	}
	if err := r.identify(); err != nil {
		return nil, err
	}
	if _, err := r.fs.Stat(r.state); err == nil {
		if err := r.lock(r.state); err != nil {
			return nil, err
		}
	}
	rep, err := r.check(ctx, r.dir)
	if err != nil {
		return nil, err
	}
	if rep.Verdict == fsck.Proven || rep.Verdict == fsck.Consistent {
		return &Result{Size: rep.Size, Verdict: string(rep.Verdict)}, nil
	}
	return r.run(ctx)
}

// oneDirectory reports whether log and backup are the same directory.
func (r *repair) oneDirectory() (bool, error) {
	a, err := r.fs.Stat(r.dir)
	if err != nil {
		return false, err
	}
	b, err := r.fs.Stat(r.backup)
	return a.Inode == b.Inode && a.Dev == b.Dev && a.Inode != 0 || filepath.Clean(r.dir) == filepath.Clean(r.backup), err
}

func (r *repair) run(ctx context.Context) (res *Result, err error) {
	r.candidate = filepath.Join(r.dir, candidateName) // within the log, so that files can have a second name there
	if err := r.clear(r.candidate); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.clear(r.candidate)) }()
	if err := r.assemble(ctx); err != nil {
		return nil, err
	}
	rep, err := r.check(ctx, r.candidate)
	if err != nil {
		return nil, err
	}
	if !proven(rep) {
		return nil, &Error{Reason: "the log with the backup's files in it does not verify either: " + first(rep), Report: rep}
	}
	res = &Result{Repaired: true, Replaced: []string{}, Quarantined: []string{}}
	if err := r.replace(res); err != nil {
		return nil, fmt.Errorf("replace damaged files, begun and not finished (run it again): %w", err)
	}
	if rep, err = r.check(ctx, r.dir); err != nil {
		return nil, err
	}
	res.Size, res.Verdict, res.Rebuild = rep.Size, string(rep.Verdict), len(rep.Findings) > 0
	return res, nil
}

// proven says whether the candidate may take the log's place. Indexes and seals are derived: the writer, which has the
// key, makes them again.
func proven(rep *fsck.Report) bool {
	if rep.Verdict == fsck.Proven || rep.Verdict == fsck.Consistent {
		return true
	}
	for _, f := range rep.Findings {
		if !strings.HasPrefix(f.File, indexDir+"/") {
			return false
		}
	}
	return rep.Verdict == fsck.Refuted && rep.Omitted == 0
}

func first(rep *fsck.Report) string {
	for _, f := range rep.Findings {
		if !strings.HasPrefix(f.File, indexDir+"/") {
			return f.String()
		}
	}
	for _, f := range rep.Notes {
		return f.String()
	}
	return string(rep.Verdict)
}

func (r *repair) check(ctx context.Context, dir string) (*fsck.Report, error) {
	return fsck.Check(ctx, fsck.Options{FS: r.fs, Dir: dir, State: r.root})
}

func (r *repair) lock(dir string) error {
	me, err := json.Marshal(map[string]any{"pid": os.Getpid(), "host": "", "since": time.Now().UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	lock, err := r.fs.Lock(filepath.Join(dir, lockName), me)
	if err != nil {
		return err
	}
	r.locks = append(r.locks, lock)
	return nil
}

func (r *repair) unlock() {
	for _, l := range r.locks {
		_ = l.Close() // an advisory lock ends with the process at the latest
	}
}

// Names in a log's directory.
const (
	lockName      = "lock"
	openName      = "immutable.log"
	archiveDir    = "archive"
	pendingDir    = "pending"
	indexDir      = "index"
	treeDir       = "tree"
	quarantineDir = "quarantine"
	retiredDir    = "retired"
	nextDir       = "next"
	latestName    = "checkpoint"
	historyName   = "checkpoints"
	chainName     = "chain"
	candidateName = ".repair"
)

// identify finds out which log it is: from its own log.json, or where that is damaged from the backup's. The head decides
// between them, if this host has one.
func (r *repair) identify() error {
	var found *identity.Log
	for _, dir := range []string{r.dir, r.backup} {
		data, err := vfs.ReadFile(r.fs, filepath.Join(dir, identity.LogName), identity.MaxBytes)
		if err != nil {
			continue
		}
		id, err := identity.ParseLog(data)
		if err != nil {
			continue
		}
		head := r.headOf(id.Origin)
		if head != nil && head.Log == sha256.Sum256(data) {
			found, r.head = id, head
			break
		}
		if found == nil {
			found, r.head = id, head
		}
	}
	if found == nil {
		return &Error{Reason: fmt.Sprintf("neither %s nor %s has a log.json that can be read: it is not known which log this is", r.dir, r.backup)}
	}
	r.id, r.state = found, identity.Dir(r.root, found.Origin)
	var err error
	r.keys, err = found.Keys()
	return err
}

func (r *repair) headOf(origin string) *identity.Head {
	data, err := vfs.ReadFile(r.fs, filepath.Join(identity.Dir(r.root, origin), identity.HeadName), identity.MaxBytes)
	if err != nil {
		return nil
	}
	head, err := identity.ParseHead(data)
	if err != nil {
		return nil // fsck says what is wrong with it
	}
	return head
}

// replace makes the log's files those of the candidate. Each step leaves a state that a second run goes on from.
func (r *repair) replace(res *Result) error {
	if err := vfs.MkdirAll(r.fs, filepath.Join(r.dir, quarantineDir), 0o700); err != nil {
		return err
	}
	have, err := r.files(r.dir)
	if err != nil {
		return err
	}
	names, err := r.files(r.candidate)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
		if err := r.replaceFile(name, res); err != nil {
			return err
		}
	}
	for _, name := range have {
		dir := path.Dir(name)
		known := dir == archiveDir || dir == pendingDir || dir == indexDir || dir == treeDir || dir == retiredDir || dir == quarantineDir || name == chainName
		if wanted[name] || !known {
			continue
		}
		if err := r.aside(name, res); err != nil {
			return err
		}
		if err := r.fs.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := r.fs.SyncDir(filepath.Join(r.dir, dir)); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) replaceFile(name string, res *Result) error {
	from, to := filepath.Join(r.candidate, name), filepath.Join(r.dir, name)
	same, err := r.same(from, to)
	if err != nil || same {
		return err
	}
	if err := vfs.MkdirAll(r.fs, filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if _, err := r.fs.Stat(to); err == nil {
		if err := r.aside(name, res); err != nil {
			return err
		}
	}
	if err := r.fs.Rename(from, to); err != nil {
		return err
	}
	if err := r.fs.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	res.Replaced = append(res.Replaced, name)
	return nil
}

// aside gives a file a second name in quarantine: 0, the offset of its first byte, and its SHA-256. One that cannot be read has no
// SHA-256: it gets another name in the log's directory instead.
func (r *repair) aside(name string, res *Result) error {
	sum, err := r.hash(filepath.Join(r.dir, name))
	if err != nil {
		kept := path.Base(name) + ".unreadable"
		res.Quarantined = append(res.Quarantined, name+" as "+kept)
		return r.fs.Rename(filepath.Join(r.dir, name), filepath.Join(r.dir, kept))
	}
	kept := path.Join(quarantineDir, fmt.Sprintf("0-%x", sum))
	if err := r.fs.Link(filepath.Join(r.dir, name), filepath.Join(r.dir, kept)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := r.fs.SyncDir(filepath.Join(r.dir, quarantineDir)); err != nil {
		return err
	}
	res.Quarantined = append(res.Quarantined, name+" as "+kept)
	return nil
}

func (r *repair) same(a, b string) (bool, error) {
	x, err := r.fs.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := r.fs.Stat(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if x.Inode != 0 && x.Inode == y.Inode && x.Dev == y.Dev {
		return true, nil
	}
	if x.Size != y.Size {
		return false, nil
	}
	hx, err := r.hash(a)
	if err != nil {
		return false, err
	}
	hy, err := r.hash(b) // a file that cannot be read is not the same
	return err == nil && hx == hy, nil
}

func (r *repair) hash(name string) (sum [sha256.Size]byte, err error) {
	f, err := r.fs.Open(name)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

// files lists the files in a log's directory and in the directories in it, with slashes. Links and stranger things are left out.
func (r *repair) files(dir string) ([]string, error) {
	names, err := r.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		info, err := r.fs.Stat(filepath.Join(dir, name))
		if err != nil {
			continue // a dangling link
		}
		if !info.Dir {
			out = append(out, name)
			continue
		}
		inner, err := r.fs.ReadDir(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		for _, n := range inner {
			if info, err := r.fs.Stat(filepath.Join(dir, name, n)); err == nil && !info.Dir {
				out = append(out, path.Join(name, n))
			}
		}
	}
	return out, nil
}

// clear removes what a candidate directory holds, and the directory.
func (r *repair) clear(dir string) error {
	names, err := r.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		full := filepath.Join(dir, name)
		info, err := r.fs.Stat(full)
		if err != nil {
			return err
		}
		if info.Dir {
			err = r.clear(full)
		} else {
			err = r.fs.Remove(full)
		}
		if err != nil {
			return err
		}
	}
	return r.fs.Remove(dir)
}
