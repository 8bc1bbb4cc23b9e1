// Package backup copies a log, also while it is written, into snapshots that verify by themselves, and brings one back.
//
// A snapshot is a log's directory as a crash might have left it, without what must not travel: the head and the private keys are not in
// it. It gets its name only when it has been verified. Sealed files never change, so a snapshot shares them with the one before it, as
// hard links: what a further snapshot costs is what was written since.
package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Names in a log's directory; docs/format.md has all of them.
const (
	lockName    = "lock"
	openName    = "immutable.log"
	latestName  = "checkpoint"
	historyName = "checkpoints"
	seenName    = "cosigned"
	epochsName  = "epochs"
	chainName   = "chain"
)

// sealedDirs hold files that never change once they have their names.
var sealedDirs = []string{"archive", "index", "retired", "evidence", "quarantine"}

const (
	partial    = ".partial"        // ends the name of what is not finished
	stamp      = "20060102T150405" // begins the name of a snapshot, in UTC
	maxSmall   = 1 << 30           // bytes of a file that is read whole: notes and the chain of keys
	maxTries   = 20                // that rotations and changes of keys may spoil
	maxUnknown = 4                 // moments that verification may have no answer to
	maxTail    = 17 << 20          // bytes after the last commit line: more than any batch
	copyBlock  = 1 << 20
)

// Options say what to copy where.
type Options struct {
	FS       vfs.FS // nil is the operating system's
	Dir      string // the log
	Out      string // directory of the snapshots of this log; it is made
	Full     bool   // share nothing with the snapshot before
	Now      func() time.Time
	Progress func(what string, done, total uint64) // bytes while copying, entries while verifying; may be nil
}

// Result says what the snapshot holds.
type Result struct {
	Snapshot   string `json:"snapshot"`
	Origin     string `json:"origin"`
	Size       uint64 `json:"size"`       // entries
	Checkpoint uint64 `json:"checkpoint"` // of them the newest checkpoint covers
	Verdict    string `json:"verdict"`
	Copied     int64  `json:"copied"` // bytes
	Shared     int64  `json:"shared"` // bytes that are links to the snapshot before
}

// Error says that a snapshot does not verify: the log is damaged, or was tampered with. There is no snapshot of it then.
type Error struct {
	Dir    string
	Report *fsck.Report
}

func (e *Error) Error() string {
	what := "it could not be told whether it is whole"
	if len(e.Report.Findings) > 0 {
		what = e.Report.Findings[0].String()
	} else if len(e.Report.Notes) > 0 {
		what += ": " + e.Report.Notes[0].String()
	}
	return fmt.Sprintf("the copy of %s does not verify: %s; no snapshot was made. `immutable verify` lists everything, and earlier snapshots stand", e.Dir, what)
}

// Run makes a snapshot.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	data, err := vfs.ReadFile(o.FS, filepath.Join(o.Dir, identity.LogName), identity.MaxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no log in %s: %w", o.Dir, err)
	}
	if err != nil {
		return nil, err
	}
	id, err := identity.ParseLog(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", identity.LogName, err)
	}
	if err := makeDirs(o.FS, o.Out); err != nil {
		return nil, err
	}
	lock, err := o.FS.Lock(filepath.Join(o.Out, lockName), nil)
	if err != nil {
		return nil, fmt.Errorf("another backup into %s is running: %w", o.Out, err)
	}
	defer lock.Close()
	before, err := o.before(id.Origin)
	if err != nil {
		return nil, err
	}
	share := before
	if o.Full {
		share = ""
	}
	for try := 1; ; try++ {
		c := &copier{o: &o, ctx: ctx, id: id, identity: data, share: share, to: filepath.Join(o.Out, o.Now().UTC().Format(stamp)+partial)}
		res, err = c.run()
		var bad *Error
		switch {
		case errors.As(err, &bad) && (share != "" || try == 1):
			share = "" // what is shared may be what is damaged, or a retired segment was being brought back
		default:
			return res, err
		}
	}
}

var errOther = errors.New("another log")

// errMoved says that a rotation or a change of keys came between.
var errMoved = errors.New("the log went on while it was copied; run the backup again, when less is written")

// before returns the newest snapshot, after removing what an earlier run did not finish. Snapshots of another log are refused.
func (o *Options) before(origin string) (string, error) {
	names, err := o.FS.ReadDir(o.Out)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if strings.HasSuffix(name, partial) {
			if err := removeAll(o.FS, filepath.Join(o.Out, name)); err != nil {
				return "", err
			}
		}
	}
	list, err := Snapshots(o.FS, o.Out)
	if err != nil || len(list) == 0 {
		return "", err
	}
	newest := list[len(list)-1]
	data, err := vfs.ReadFile(o.FS, filepath.Join(newest, identity.LogName), identity.MaxBytes)
	if err != nil {
		return "", err
	}
	id, err := identity.ParseLog(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", newest, err)
	}
	if id.Origin != origin {
		return "", fmt.Errorf("%s holds snapshots of the log %s, and this is %s: give each log a directory of its own: %w", o.Out, id.Origin, origin, errOther)
	}
	return newest, nil
}

// Snapshots lists the snapshots in a directory, the oldest first.
func Snapshots(fsys vfs.FS, out string) ([]string, error) {
	if fsys == nil {
		fsys = vfs.OS()
	}
	names, err := fsys.ReadDir(out)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, name := range names {
		at, _, found := strings.Cut(name, "-")
		if _, err := time.Parse(stamp, at); err != nil || !found || strings.HasSuffix(name, partial) {
			continue
		}
		if _, err := fsys.Stat(filepath.Join(out, name, identity.LogName)); err == nil {
			list = append(list, filepath.Join(out, name))
		}
	}
	return list, nil
}

// copier makes one snapshot.
type copier struct {
	o        *Options
	ctx      context.Context
	id       *identity.Log
	identity []byte
	share    string // the snapshot before, whose sealed files are shared; "" = none
	to       string
	late     []vfs.File // written in this moment, and not synced

	copied, shared int64
}

func (c *copier) run() (*Result, error) {
	fsys := c.o.FS
	if err := removeAll(fsys, c.to); err != nil {
		return nil, err
	}
	for _, dir := range append([]string{"", "pending", "tree"}, sealedDirs...) {
		if err := vfs.MkdirAll(fsys, filepath.Join(c.to, dir), 0o700); err != nil {
			return nil, err
		}
	}
	rep, err := c.fill()
	if err != nil {
		return nil, errors.Join(err, removeAll(fsys, c.to))
	}
	name, err := freeName(fsys, c.o.Now(), func(at string) string { return filepath.Join(c.o.Out, fmt.Sprintf("%s-%d", at, rep.Size)) })
	if err != nil {
		return nil, errors.Join(err, removeAll(fsys, c.to))
	}
	if err := fsys.Rename(c.to, name); err != nil {
		return nil, errors.Join(err, removeAll(fsys, c.to))
	}
	if err := fsys.SyncDir(c.o.Out); err != nil {
		return nil, err
	}
	note, err := vfs.ReadFile(fsys, filepath.Join(name, latestName), maxSmall)
	if err != nil {
		return nil, err
	}
	return &Result{Snapshot: name, Origin: c.id.Origin, Size: rep.Size, Checkpoint: covered(note), Verdict: string(rep.Verdict), Copied: c.copied, Shared: c.shared}, nil
}

// freeName is the first name from now on, by the second, that nothing has.
func freeName(fsys vfs.FS, now time.Time, name func(at string) string) (string, error) {
	for ; ; now = now.Add(time.Second) {
		full := name(now.UTC().Format(stamp))
		if _, err := fsys.Stat(full); errors.Is(err, fs.ErrNotExist) {
			return full, nil
		} else if err != nil {
			return "", err
		}
	}
}

// fill copies the log. What is sealed may take long and goes first; then all that belongs to one moment, again where a rotation or a change
// of keys came between.
func (c *copier) fill() (*fsck.Report, error) {
	everything := func(string) bool { return true }
	for _, dir := range sealedDirs {
		if err := c.sealed(dir, everything); err != nil {
			return nil, err
		}
	}
	for try := 1; ; try++ {
		if err := c.moment(); err != nil {
			if !errors.Is(err, errMoved) || try == maxTries {
				return nil, err
			}
			continue
		}
		if err := c.syncDirs(); err != nil {
			return nil, err
		}
		rep, err := c.verify()
		// An epoch that had its entry and not yet its closing checkpoint is what a crash leaves: another moment is better.
		var bad *Error
		if !errors.As(err, &bad) || bad.Report.Verdict != fsck.Unknown || try >= maxUnknown {
			return rep, err
		}
	}
}

// moment copies the segments before the open one, then what is signed, then tree and chain, then the open segment, which must still be
// the same: so the entries are at least those that are signed, and tree and chain cover them.
func (c *copier) moment() error {
	if err := removeAll(c.o.FS, filepath.Join(c.to, "pending")); err != nil {
		return err
	}
	if err := c.o.FS.Mkdir(filepath.Join(c.to, "pending"), 0o700); err != nil {
		return err
	}
	defer c.closeLate()
	open, err := c.o.FS.Open(filepath.Join(c.o.Dir, openName))
	if err != nil {
		return err
	}
	defer open.Close()
	first, err := firstOf(open)
	if err != nil {
		return err
	}
	if err := errors.Join(c.segments(first), c.notes(), c.arrays()); err != nil {
		return err
	}
	now, err := c.o.FS.Open(filepath.Join(c.o.Dir, openName))
	if err != nil {
		return err
	}
	defer now.Close()
	if still, err := firstOf(now); err != nil {
		return err
	} else if still != first {
		return errMoved
	}
	if err := c.copyOpen(openName, open, 0o444, toLastCommit); err != nil {
		return err
	}
	for _, dir := range []string{"evidence", "quarantine"} { // what the entries name is there before they are
		if err := c.sealed(dir, func(string) bool { return true }); err != nil {
			return err
		}
	}
	for _, f := range c.late {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// closeLate closes what was written in a moment, which is synced at its end: the shorter a moment, the less comes between.
func (c *copier) closeLate() {
	for _, f := range c.late {
		f.Close()
	}
	c.late = nil
}

func firstOf(f vfs.File) (uint64, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	first, _, _, err := segment.ReadHeader(f, size)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", openName, err)
	}
	return first, nil
}

func covered(note []byte) uint64 {
	text, _, _ := bytes.Cut(note, []byte("\n\n"))
	cp, err := proof.ParseCheckpoint(string(text) + "\n")
	if err != nil {
		return 0 // it was verified
	}
	return cp.Size
}

// verify reads the whole copy. Nothing of this host is used: the snapshot must stand by itself, wherever it is taken.
func (c *copier) verify() (*fsck.Report, error) {
	rep, err := fsck.Check(c.ctx, fsck.Options{FS: c.o.FS, Dir: c.to, Progress: func(p fsck.Progress) {
		if c.o.Progress != nil {
			c.o.Progress("verifying", p.Entries, p.TotalEntries)
		}
	}})
	if err != nil {
		return nil, err
	}
	if rep.Verdict != fsck.Consistent && rep.Verdict != fsck.Proven {
		return nil, &Error{c.o.Dir, rep}
	}
	return rep, nil
}

// notes copies what is signed, the newest checkpoint before the history and the entries: what is copied later may be newer, as after a
// crash. The chain of keys must be the one that goes with the history.
func (c *copier) notes() error {
	if err := c.write(identity.LogName, c.identity, 0o444); err != nil {
		return err
	}
	before, err := c.small(epochsName)
	if err != nil {
		return err
	}
	for _, name := range []string{seenName, latestName, historyName} {
		data, err := c.small(name)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if name == historyName {
			data = wholeNotes(data, c.id.Origin)
		}
		if err := c.write(name, data, 0o600); err != nil {
			return err
		}
	}
	after, err := c.small(epochsName)
	if err != nil {
		return err
	}
	if !bytes.Equal(before, after) {
		return errMoved
	}
	if after == nil {
		return nil
	}
	return c.write(epochsName, after, 0o600)
}

// wholeNotes cuts a note that was just being written.
func wholeNotes(history []byte, origin string) []byte {
	if _, err := proof.SplitNotes(history); err == nil {
		return history
	}
	return history[:bytes.LastIndex(history, []byte("\n\n"+origin+"\n"))+2]
}

// small reads a file whole; nil where there is none.
func (c *copier) small(name string) ([]byte, error) {
	data, err := vfs.ReadFile(c.o.FS, filepath.Join(c.o.Dir, name), maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// arrays copies tree/ and chain, whole hashes only.
func (c *copier) arrays() error {
	names, err := c.o.FS.ReadDir(filepath.Join(c.o.Dir, "tree"))
	if err != nil {
		return err
	}
	list := []string{chainName}
	for _, name := range names {
		list = append(list, "tree/"+name)
	}
	for _, name := range list {
		err := c.copy(name, func(f vfs.File, size int64) (int64, error) { return size - size%32, nil })
		if err != nil && !(name == chainName && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// segments copies those before the open one. A segment goes from pending to archive to retired, so that one which is gone from where it was
// is found in what is copied next.
func (c *copier) segments(open uint64) error {
	before := func(name string) bool {
		digits, _, _ := strings.Cut(name, ".")
		first, err := strconv.ParseUint(digits, 10, 64)
		return err != nil || first < open
	}
	pending, err := c.list("pending")
	if err != nil {
		return err
	}
	waiting := map[string]bool{}
	for _, name := range pending {
		if !before(name) {
			continue
		}
		err := c.copy("pending/"+name, toLastCommit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		waiting[name] = true
	}
	have := map[string]bool{}
	take := func(name string) bool { have[name] = before(name); return have[name] }
	if err := errors.Join(c.sealed("archive", take), c.sealed("index", take), c.sealed("retired", take)); err != nil {
		return err
	}
	for name := range waiting {
		first, ok := segment.ParseName(name, segment.PendingSuffix)
		if ok && have[segment.ArchiveName(first)] && have[segment.SealName(first)] {
			if err := c.o.FS.Remove(filepath.Join(c.to, "pending", name)); err != nil {
				return err
			}
		}
	}
	// What was sealed after the open segment began is no part of the snapshot; nor are indexes of an archive that came after archives were
	// listed, whose pending file is.
	for _, dir := range []string{"archive", "index", "retired"} {
		names, err := c.o.FS.ReadDir(filepath.Join(c.to, dir))
		if err != nil {
			return err
		}
		for _, name := range names {
			digits, _, _ := strings.Cut(name, ".")
			if !before(name) || dir == "index" && !have[digits+segment.ArchiveSuffix] {
				if err := c.o.FS.Remove(filepath.Join(c.to, dir, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *copier) list(dir string) ([]string, error) {
	names, err := c.o.FS.ReadDir(filepath.Join(c.o.Dir, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// sealed copies or shares those files of a directory, whose files never change, that are wanted.
func (c *copier) sealed(dir string, wanted func(name string) bool) error {
	names, err := c.list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !wanted(name) {
			continue
		}
		// One that was retired meanwhile is in the directory that is copied next.
		if err := c.sealedFile(dir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *copier) sealedFile(name string) error {
	info, err := c.o.FS.Stat(filepath.Join(c.o.Dir, name))
	if err != nil {
		return err
	}
	if was, err := c.o.FS.Stat(filepath.Join(c.to, name)); err == nil && was.Size == info.Size {
		return nil
	}
	if c.share != "" {
		old := filepath.Join(c.share, name)
		if was, err := c.o.FS.Stat(old); err == nil && was.Size == info.Size {
			if err := c.o.FS.Link(old, filepath.Join(c.to, name)); err == nil {
				c.shared += info.Size
				return nil
			} // a file system without links, or with too many of them: copied
		}
	}
	in, err := c.o.FS.Open(filepath.Join(c.o.Dir, name))
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := copyFile(c.ctx, c.o.FS, in, info.Size, filepath.Join(c.to, name), info.Mode.Perm(), c.progress)
	c.copied += n
	return err
}

// copy copies the first bytes of a file, as many as upTo says, and syncs them.
func (c *copier) copy(name string, upTo func(f vfs.File, size int64) (int64, error)) error {
	in, err := c.o.FS.Open(filepath.Join(c.o.Dir, name))
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := c.o.FS.Stat(filepath.Join(c.o.Dir, name))
	if err != nil {
		return err
	}
	return c.copyOpen(name, in, info.Mode.Perm(), upTo)
}

func (c *copier) copyOpen(name string, in vfs.File, perm fs.FileMode, upTo func(f vfs.File, size int64) (int64, error)) error {
	size, err := in.Size()
	if err != nil {
		return err
	}
	if size, err = upTo(in, size); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := removeAll(c.o.FS, filepath.Join(c.to, name)); err != nil { // of the moment before
		return err
	}
	out, n, err := copyInto(c.ctx, c.o.FS, in, size, filepath.Join(c.to, name), perm, c.progress)
	c.copied += n
	if err == nil {
		c.late = append(c.late, out)
	}
	return err
}

func (c *copier) progress(done int64) {
	if c.o.Progress != nil {
		c.o.Progress("copying", uint64(c.copied+done), 0)
	}
}

func (c *copier) write(name string, data []byte, perm fs.FileMode) error {
	if err := removeAll(c.o.FS, filepath.Join(c.to, name)); err != nil { // of the moment before
		return err
	}
	f, err := c.o.FS.Create(filepath.Join(c.to, name), perm)
	if err != nil {
		return err
	}
	c.late = append(c.late, f)
	if len(data) > 0 {
		if _, err := f.WriteAt(data, 0); err != nil {
			return err
		}
	}
	c.copied += int64(len(data))
	return nil
}

func (c *copier) syncDirs() error {
	for _, dir := range append([]string{"pending", "tree", ""}, sealedDirs...) {
		if err := c.o.FS.SyncDir(filepath.Join(c.to, dir)); err != nil {
			return err
		}
	}
	return nil
}

// toLastCommit is where the last batch that is whole ends: what follows was not acknowledged yet.
func toLastCommit(f vfs.File, size int64) (int64, error) {
	start := max(0, size-maxTail)
	tail := make([]byte, size-start)
	if n, err := f.ReadAt(tail, start); err != nil && !(errors.Is(err, io.EOF) && n == len(tail)) {
		return 0, err
	}
	for end := len(tail); ; {
		at := bytes.LastIndex(tail[:end], []byte("\n{\"commit\":"))
		if at < 0 {
			break
		}
		if n := bytes.IndexByte(tail[at+1:], '\n'); n >= 0 {
			return start + int64(at+1+n+1), nil
		}
		end = at
	}
	if start > 0 {
		return 0, errors.New("no commit line where the last one must be")
	}
	return int64(bytes.IndexByte(tail, '\n') + 1), nil // the segment line, before its first batch
}

// copyFile copies size bytes into a new file and syncs it.
func copyFile(ctx context.Context, fsys vfs.FS, in vfs.File, size int64, name string, perm fs.FileMode, progress func(int64)) (int64, error) {
	out, n, err := copyInto(ctx, fsys, in, size, name, perm, progress)
	if err != nil {
		return n, err
	}
	return n, errors.Join(out.Sync(), out.Close())
}

// copyInto is copyFile without the sync; the file stays open unless there is an error.
func copyInto(ctx context.Context, fsys vfs.FS, in vfs.File, size int64, name string, perm fs.FileMode, progress func(int64)) (out vfs.File, done int64, err error) {
	f, err := fsys.Create(name, perm)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	block := make([]byte, min(size, copyBlock))
	for done < size {
		if err := ctx.Err(); err != nil {
			return nil, done, err
		}
		part := block[:min(size-done, copyBlock)]
		if n, err := in.ReadAt(part, done); err != nil && n < len(part) {
			return nil, done, fmt.Errorf("read %s at %d: %w", name, done, err)
		}
		if _, err := f.WriteAt(part, done); err != nil {
			return nil, done, err
		}
		done += int64(len(part))
		if progress != nil {
			progress(done)
		}
	}
	return f, done, nil
}

func makeDirs(fsys vfs.FS, dir string) error {
	if err := vfs.MkdirAll(fsys, dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}

// removeAll removes a directory and what is in it; none is fine.
func removeAll(fsys vfs.FS, name string) error {
	info, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Dir {
		names, err := fsys.ReadDir(name)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := removeAll(fsys, filepath.Join(name, n)); err != nil {
				return err
			}
		}
	}
	return fsys.Remove(name)
}
