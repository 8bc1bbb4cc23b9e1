package immutable

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// holder is what a writer says of itself in the lock file.
type holder struct {
	PID      int    `json:"pid"`
	Hostname string `json:"host"`
	Since    string `json:"since"`
}

// openLocked takes the log for writing: lock, identity, head, then recovery as docs/format.md lists it.
func (l *Log) openLocked() error {
	if err := l.takeLock(l.path(), lockName); err != nil {
		return err
	}
	if err := l.readIdentity(); notExist(err) {
		if l.cfg.MustExist {
			return fmt.Errorf("%w: no log in %s; `immutable init --dir %s` makes one", ErrNotFound, l.dir, l.dir)
		}
		if err := l.create(); err != nil {
			return fmt.Errorf("make a new log in %s: %w", l.dir, err)
		}
	} else if err != nil {
		return err
	}
	if err := l.takeLock(l.state, lockName); err != nil {
		return err
	}
	head, err := l.readHead()
	if err != nil {
		return err
	}
	if err := l.loadSigningKeys(); err != nil {
		return err
	}
	if err := l.takePlace(); err != nil {
		return err
	}
	return l.recover(head)
}

func (l *Log) takeLock(dir, name string) error {
	if err := vfs.MkdirAll(l.fs, dir, 0o700); err != nil {
		return err
	}
	me, err := json.Marshal(holder{PID: int(l.pid), Hostname: l.hostname, Since: l.cfg.now().UTC().Format(time.RFC3339)})
	if err != nil {
		return err
	}
	lock, err := l.fs.Lock(filepath.Join(dir, name), me)
	if err != nil {
		var held *vfs.LockedError
		if !errors.As(err, &held) {
			return fmt.Errorf("lock %s: %w", dir, err)
		}
		var other holder
		_ = json.Unmarshal(held.Holder, &other) // empty for the instant in which the other writes it
		return &LockedError{Dir: l.dir, PID: other.PID, Hostname: or(other.Hostname, "unknown"), Since: or(other.Since, "a moment ago")}
	}
	l.locks = append(l.locks, lock)
	return nil
}

// readIdentity reads log.json and finds this host's state directory for the log it names.
func (l *Log) readIdentity() error {
	data, err := vfs.ReadFile(l.fs, l.path(identity.LogName), identity.MaxBytes)
	if err != nil {
		return err
	}
	id, err := identity.ParseLog(data)
	if err != nil {
		return &CorruptError{File: identity.LogName, What: err.Error()}
	}
	if l.cfg.Origin != "" && l.cfg.Origin != id.Origin {
		return fmt.Errorf("%s holds the log %s, not %s", l.dir, id.Origin, l.cfg.Origin)
	}
	chain, err := proof.NewChain(id.Origin, id.VKeys)
	if err != nil {
		return &CorruptError{File: identity.LogName, What: err.Error()}
	}
	l.chain.Store(chain)
	l.id, l.state = id, identity.Dir(l.cfg.StateDir, id.Origin)
	return nil
}

// readHead reads what this host knows of the log, and refuses a log it does not know or a copy of the one it knows.
func (l *Log) readHead() (*identity.Head, error) {
	head, err := l.loadHead()
	if notExist(err) {
		return nil, &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("this host has no head of the log %s (looked in %s): it was written elsewhere, or its state was lost", l.id.Origin, l.state),
			Ours: l.checkpointText(), Next: "`immutable adopt` checks it and, with its private key in " + l.statePath(keysDir) + ", goes on; `immutable continue OLD NEW` starts a new log that anchors it",
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := l.fs.Stat(l.path(identity.LogName))
	if err != nil {
		return nil, err
	}
	data, err := vfs.ReadFile(l.fs, l.path(identity.LogName), identity.MaxBytes)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); head.Log != sum || head.VKey != l.id.VKey() || head.Origin != l.id.Origin {
		return nil, &CorruptError{File: identity.LogName, What: "it is not the one this host's head names", Got: fmt.Sprintf("SHA-256 %x", sum), Want: fmt.Sprintf("%x", head.Log)}
	}
	if head.Inode != info.Inode && head.Inode != 0 && info.Inode != 0 {
		return nil, &RefusedError{
			Dir: l.dir, Reason: "this directory is a copy, or was restored: its log.json is not the file this host's head knows",
			Ours: l.checkpointText(), Known: headText(head), Next: "open the original; or, if this copy shall take its place, `immutable adopt`",
		}
	}
	return head, nil
}

func (l *Log) loadHead() (*identity.Head, error) {
	data, err := vfs.ReadFile(l.fs, l.statePath(identity.HeadName), identity.MaxBytes)
	if err != nil {
		return nil, err
	}
	head, err := identity.ParseHead(data)
	if err != nil {
		return nil, &CorruptError{File: l.statePath(identity.HeadName), What: err.Error()}
	}
	return head, nil
}

func (l *Log) loadLogKey() error {
	signer, err := keys.Load(l.fs, l.statePath(keysDir), l.id.Origin)
	if notExist(err) {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("this host does not have the log's private key (looked in %s)", l.statePath(keysDir)),
			Ours: l.checkpointText(), Next: "put the key there and open again; or `immutable continue OLD NEW` starts a new log that anchors this one",
		}
	}
	if err != nil {
		return err
	}
	if signer.VKey() != l.id.VKey() {
		return fmt.Errorf("private key in %s belongs to %s, the log has %s", l.statePath(keysDir), signer.VKey(), l.id.VKey())
	}
	l.signer = signer
	return nil
}

// checkpointText is the newest checkpoint's text for an error message, or why there is none.
func (l *Log) checkpointText() string {
	data, err := vfs.ReadFile(l.fs, l.path(checkpointName), maxNote)
	if err != nil {
		return "no checkpoint: " + err.Error()
	}
	if c, err := l.openCheckpoint(data); err == nil {
		return c.Text()
	}
	return "a checkpoint without a valid signature"
}

func headText(h *identity.Head) string {
	return proof.Checkpoint{Origin: h.Origin, Size: h.Size, Root: h.Root}.Text()
}

// recover brings the directory to a committed state, in the order that docs/format.md, "Recovery", gives, and leaves
// l ready for appends. Nothing that it finds is counted, served or signed before the end.
func (l *Log) recover(head *identity.Head) error {
	if err := l.settleNames(head); err != nil {
		return err
	}
	if err := l.clearNext(); err != nil {
		return err
	}
	if err := l.finishRotation(); err != nil {
		return err
	}
	if err := l.load(head); err != nil {
		return err
	}
	if err := l.agree(head); err != nil {
		return err
	}
	if !head.Clean {
		if err := l.rewrite(head); err != nil {
			return err
		}
	}
	if err := l.cutTail(head); err != nil {
		return err
	}
	if err := l.publisher.resume(l, head); err != nil {
		return err
	}
	if !l.recomputed {
		return nil
	}
	// What tree/ and chain lacked or had wrong is put right now: nothing may ever be appended that would do it later.
	if err := l.store.Flush(); err != nil && !isNoSpace(err) {
		return fmt.Errorf("sync tree and chain: %w", err)
	}
	return nil
}

// settleNames makes every name that is visible durable. The writer before may have been killed between a rename and the
// sync of its directory: what this session acknowledges must not stand on names that a power cut takes back. A clean head
// is written after everything else was synced, except log.json's name.
func (l *Log) settleNames(head *identity.Head) error {
	dirs := []string{l.path()}
	for _, name := range logDirs {
		// A backup or a version control system may not keep what is empty. What a directory must hold is missed later.
		if _, err := l.fs.Stat(l.path(name)); notExist(err) {
			if err := vfs.MkdirAll(l.fs, l.path(name), 0o700); err != nil {
				return err
			}
		}
		if !head.Clean {
			dirs = append(dirs, l.path(name))
		}
	}
	if !head.Clean {
		dirs = append(dirs, l.state, l.statePath(keysDir))
	}
	for _, dir := range dirs {
		if err := l.fs.SyncDir(dir); err != nil && !notExist(err) {
			return fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return nil
}

func (l *Log) clearNext() error {
	names, err := l.fs.ReadDir(l.path(nextDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.fs.Remove(l.path(nextDir, name)); err != nil {
			return fmt.Errorf("empty %s: %w", nextDir, err)
		}
	}
	return nil
}

// finishRotation takes back a rotation that a crash stopped before the new immutable.log was in place.
func (l *Log) finishRotation() error {
	names, err := l.fs.ReadDir(l.path(pendingDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		same, err := l.sameFile(l.path(pendingDir, name), l.path(openName))
		if err != nil {
			return err
		}
		if !same {
			first, ok := segment.ParseName(name, segment.PendingSuffix)
			if !ok {
				continue
			}
			if err := l.dropDamagedArchive(first); err != nil {
				return err
			}
			if same, err = l.copyOfOpen(name, first); err != nil {
				return err
			}
		}
		if !same {
			continue
		}
		if err := l.fs.Remove(l.path(pendingDir, name)); err != nil {
			return err
		}
		if err := l.fs.SyncDir(l.path(pendingDir)); err != nil {
			return err
		}
	}
	return nil
}

// copyOfOpen says whether a pending file holds what immutable.log begins with: a rotation that got no further than its
// second step, in a directory that was copied, where one file with two names became two.
func (l *Log) copyOfOpen(name string, first uint64) (bool, error) {
	log, err := l.fs.Open(l.path(openName))
	if err != nil {
		return false, err
	}
	defer log.Close()
	length, err := log.Size()
	if err != nil {
		return false, err
	}
	if at, _, _, err := segment.ReadHeader(log, length); err != nil || at != first {
		return false, nil // load names the damage
	}
	f, err := l.fs.Open(l.path(pendingDir, name))
	if err != nil {
		return false, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return false, err
	}
	differs := &CorruptError{File: pendingDir + "/" + name, What: "it begins at the same entry as immutable.log and is no copy of its beginning", Got: fmt.Sprintf("%d bytes", n), Want: fmt.Sprintf("at most %d, and the same ones", length)}
	if n > length {
		return false, differs
	}
	a, b := bufio.NewReaderSize(io.NewSectionReader(f, 0, n), 1<<16), bufio.NewReaderSize(io.NewSectionReader(log, 0, n), 1<<16)
	for differs.Offset = 0; differs.Offset < n; differs.Offset++ {
		x, err := a.ReadByte()
		if err != nil {
			return false, fmt.Errorf("read %s: %w", name, err)
		}
		y, err := b.ReadByte()
		if err != nil {
			return false, fmt.Errorf("read %s: %w", openName, err)
		}
		if x != y {
			return false, differs
		}
	}
	return true, nil
}

// dropDamagedArchive moves an archive aside that cannot be read, while the pending file it was made from is still there:
// sealing makes it again.
func (l *Log) dropDamagedArchive(first uint64) error {
	name := archiveDir + "/" + segment.ArchiveName(first)
	a, err := l.readArchive(name)
	if notExist(err) {
		return nil
	}
	for g, buf := 0, []byte(nil); err == nil && g < a.Groups(); g++ {
		buf, err = a.Group(buf[:0], g)
	}
	if err == nil {
		return nil
	}
	var damage *CorruptError
	if err = corrupt(name, err); !errors.As(err, &damage) {
		return err
	}
	final := l.path(filepath.FromSlash(name))
	sum, _, err := l.fileDigest(final)
	if err != nil {
		return err
	}
	aside := fmt.Sprintf("%s/0-%x", quarantineDir, sum)
	l.logger.Error("an archive cannot be read; it is moved aside and made again from the pending segment", "file", aside, "error", damage)
	if err := l.fs.Rename(final, l.path(filepath.FromSlash(aside))); err != nil {
		return err
	}
	return errors.Join(l.fs.SyncDir(l.path(quarantineDir)), l.fs.SyncDir(l.path(archiveDir)))
}

func (l *Log) sameFile(a, b string) (bool, error) {
	x, err := l.fs.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := l.fs.Stat(b)
	if err != nil {
		return false, err
	}
	return x.Inode != 0 && x.Inode == y.Inode && x.Dev == y.Dev, nil
}

// agree compares the loaded state with what this host has signed. Entries beyond the head were durable and not yet
// signed; entries that are missing, or others, are refused with both states.
func (l *Log) agree(head *identity.Head) error {
	size := l.edge.size()
	ours := proof.Checkpoint{Origin: l.id.Origin, Size: size, Root: l.root}.Text()
	if size < head.Size {
		if l.tail.Length > 0 && !l.rebuilt { // a wrong tree lets the first commit line of immutable.log look wrong
			return l.agreeRebuilt(head, l.tail.Reason)
		}
		if l.tail.Length > 0 {
			return l.tailError("entries that this host has signed are damaged")
		}
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the log has %d entries, and this host has signed %d: it was cut, or restored from an older copy", size, head.Size),
			Ours: ours, Known: headText(head), Next: "bring the newer directory back, or `immutable continue OLD NEW` starts a new log that anchors both states",
		}
	}
	root, err := l.rootAt(head.Size)
	if err == nil && root != head.Root && !l.rebuilt {
		return l.agreeRebuilt(head, "the tree does not yield the signed root")
	}
	if err != nil {
		return err
	}
	if root != head.Root {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the first %d entries are not the ones this host has signed", head.Size),
			Ours: proof.Checkpoint{Origin: l.id.Origin, Size: head.Size, Root: root}.Text(), Known: headText(head),
			Next: "`immutable verify` names the damage; `immutable repair --from BACKUP` takes good segments from a copy",
		}
	}
	if head.Clean && (size != head.Size || l.tail.Length > 0) {
		return l.tailError("the log was closed cleanly, and then something was added or changed")
	}
	return nil
}

// agreeRebuilt recomputes tree and chain from the entries of every segment, archives too, and compares once more: the
// entries decide, not what was derived from them.
func (l *Log) agreeRebuilt(head *identity.Head, reason string) (err error) {
	l.rebuilt = true
	l.logger.Warn("tree/ and chain do not yield what was signed; rebuilding them from the entries", "reason", reason)
	l.closeSegments()
	if l.segments, err = l.layout(); err != nil {
		return err
	}
	l.open = l.segments[len(l.segments)-1]
	l.view = nil
	if err := l.loadFull(true); err != nil {
		return err
	}
	return l.agree(head)
}

func (l *Log) closeSegments() {
	for _, s := range l.segments {
		s.close()
	}
}

func (l *Log) tailError(what string) error {
	t := &l.tail
	if t.Length == 0 {
		return &CorruptError{File: openName, Offset: l.edge.offset, What: what, Got: fmt.Sprintf("%d entries", l.edge.size())}
	}
	return &CorruptError{File: openName, Offset: t.At, What: what + ": " + t.Reason, Got: t.Got, Want: t.Want}
}

// rewrite writes what the head does not cover again, identically, in place, and syncs it: after a failed sync the page
// cache shows bytes that the disk may not have, and reading them back proves nothing.
func (l *Log) rewrite(head *identity.Head) error {
	return rewriteFile(l.open.file, openName, l.coveredOffset(head.Size), l.edge.offset)
}

func rewriteFile(f vfs.File, name string, from, to int64) error {
	buf := make([]byte, min(1<<20, max(to-from, 0)))
	for off := from; off < to; {
		n := min(int64(len(buf)), to-off)
		if m, err := f.ReadAt(buf[:n], off); int64(m) < n {
			return fmt.Errorf("read %s at %d: %w", name, off, err)
		}
		if _, err := f.WriteAt(buf[:n], off); err != nil {
			return fmt.Errorf("write %s again at %d: %w", name, off, err)
		}
		off += n
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// coveredOffset is an offset in immutable.log before which every entry is below size: the start of size's group, or of
// the file.
func (l *Log) coveredOffset(size uint64) int64 {
	k := size / tree.GroupSize
	if k < l.open.from || len(l.open.starts) == 0 {
		return 0
	}
	if i := k - l.open.from; i < uint64(len(l.open.starts)) {
		return l.open.starts[i]
	}
	return l.edge.offset
}

// cutTail moves an incomplete batch aside, whole and durable, before it is cut. Anything that cannot be one stays.
func (l *Log) cutTail(head *identity.Head) error {
	t := l.tail
	if t.Length == 0 && !head.Clean {
		return l.findOwed(head)
	}
	if t.Length == 0 {
		return nil
	}
	if head.Clean || t.CommitInside || t.Length > segment.MaxBatchBytes {
		return l.tailError("bytes after the last commit that no crash leaves")
	}
	name := fmt.Sprintf("%s/%d-%x", quarantineDir, t.Offset, t.SHA256) // as quarantineFile
	if err := l.setAside(name, l.open.file, t.Offset, t.Length); err != nil {
		return fmt.Errorf("move %d bytes of an incomplete batch to %s: %w", t.Length, name, err)
	}
	if err := l.open.file.Truncate(t.Offset); err != nil {
		return fmt.Errorf("cut the incomplete batch: %w", err)
	}
	if err := l.open.file.Sync(); err != nil {
		return fmt.Errorf("cut the incomplete batch: %w", err)
	}
	l.logger.Warn("an incomplete batch, never acknowledged, was moved aside", "bytes", t.Length, "file", name)
	l.owe(head, name, t.SHA256, t.Length)
	return nil
}

// setAside copies bytes into a file of quarantine/, durably. A copy that an earlier recovery left is taken as it is.
func (l *Log) setAside(name string, r io.ReaderAt, offset, length int64) error {
	data := make([]byte, length)
	if n, err := r.ReadAt(data, offset); int64(n) < length {
		return err
	}
	if have, err := vfs.ReadFile(l.fs, l.path(name), length); err == nil && bytes.Equal(have, data) {
		return nil
	}
	write := func() error { return vfs.WriteAtomic(l.fs, l.path(nextDir, "quarantine"), l.path(name), data, 0o400) }
	err := write()
	if isNoSpace(err) && l.giveUpReserve() {
		err = write()
	}
	return err
}

// quarantineFile is where bytes that stood at offset are moved.
func quarantineFile(offset int64, data []byte) string {
	return fmt.Sprintf("%s/%d-%x", quarantineDir, offset, sha256.Sum256(data))
}

// afterRecovery writes the control entry that recovery owes, as the first entry of the session.
func (l *Log) afterRecovery() error {
	if l.recovered == nil {
		return nil
	}
	l.owed.Store(true)
	if err := l.writeOwed(); err != nil && !errors.Is(err, ErrNoSpace) {
		return err
	}
	return nil // without room for it the next append that finds some writes it first
}

// writeOwed writes the control entry that recovery owes. While it cannot, nothing else is written either: the entry says
// that the log had as many entries as its index.
func (l *Log) writeOwed() error {
	l.owedMu.Lock()
	defer l.owedMu.Unlock()
	if !l.owed.Load() {
		return nil
	}
	req, err := l.encode([]Event{{Level: System, Message: "recovered: an incomplete batch, never acknowledged, was moved aside", Log: l.recovered}})
	if err != nil {
		return err
	}
	if err := l.w.submit(context.Background(), req); err != nil {
		return fmt.Errorf("name what recovery moved aside: %w", err)
	}
	l.owed.Store(false)
	return nil
}

// findOwed looks for an incomplete batch that an earlier recovery moved aside and that no entry names, because a crash or
// a full disk came between: it stood where the log ends now.
func (l *Log) findOwed(head *identity.Head) error {
	names, err := l.fs.ReadDir(l.path(quarantineDir))
	if err != nil && !notExist(err) {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, fmt.Sprintf("%d-", l.edge.offset)) {
			continue
		}
		name = quarantineDir + "/" + name
		data, err := vfs.ReadFile(l.fs, l.path(name), segment.MaxBatchBytes)
		if errors.Is(err, vfs.ErrTooLarge) || err == nil && len(data) == 0 {
			continue // recovery did not make it, and no entry may name it: an incomplete batch has 1 byte to 16 MiB
		}
		if err != nil {
			return err
		}
		if name == quarantineFile(l.edge.offset, data) && mayBegin(data, l.edge.size()) {
			l.owe(head, name, sha256.Sum256(data), int64(len(data)))
		}
	}
	return nil
}

// mayBegin says whether the bytes of an incomplete batch can have begun at index. Where they are no entry at all, after a
// power cut, they can: the same offset in an older segment is less likely.
func mayBegin(data []byte, index uint64) bool {
	const low = idOffset + len(ID{}) - 8 // the index's low 32 bits
	if !bytes.HasPrefix(data, []byte(`{"id":"`)) || len(data) < low+8 {
		return true
	}
	n, err := strconv.ParseUint(string(data[low:low+8]), 16, 32)
	return err != nil || n == index&0xffffffff
}

func (l *Log) owe(head *identity.Head, name string, sum [sha256.Size]byte, length int64) {
	l.recovered = fmt.Appendf(nil, `{"type":"recovery","head":%d,"size":%d,"file":"%s","sha256":"%x","bytes":%d}`, head.Size, l.edge.size(), name, sum, length)
}
