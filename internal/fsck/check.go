package fsck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	groupSize  = segment.GroupSize
	groupLevel = 8 // a group is a perfect subtree of this height
)

// Hints that several findings share.
const (
	hintRebuild = "the entries themselves stand; `immutable rebuild` makes this file again"
	hintRepair  = "`immutable repair --from BACKUP` takes it from a good copy"
	hintCut     = "the directory was cut back or replaced by an older copy"
)

// Names in a log's directory.
const (
	openName    = "immutable.log"
	latestName  = "checkpoint"
	historyName = "checkpoints"
	epochsName  = "epochs"
	chainName   = "chain"
)

// A check is one reading of the directory. run reads in an order in which a writer beside it does no harm: what makes claims
// (checkpoint, history, head, hash arrays) before the entries, which a writer makes durable first.
type check struct {
	ctx context.Context
	o   *Options

	mu         sync.Mutex // guards the report's lists and the counts below
	rep        *Report
	perFile    map[string]int
	unreadable int // things that could not be read
	receipts   int // entries that are the ones somebody outside was told of
	leftovers  int // things that a crash may leave, while no head says whether there was one

	known  bool // log.json was read: origin and keys hold
	origin string
	log    proof.Key   // the log key; zero in a log without keys
	first  []proof.Key // of epoch 0
	pinned []proof.Key // known from outside

	head     *identity.Head
	headFile string

	latest     []byte // the file checkpoint; nil when it did not open
	latestAt   proof.Checkpoint
	latestNote *proof.Note
	chainFile  chainFile
	history    *history
	arrays     arrays
	registry   registry // of producers

	evidence     []evidenceFile // by size
	cosigned     *claim         // of the file cosigned; nil when there is none
	cosignedSaid said
	brackets     brackets
	anchors      []bound // of the batch at hand
	shelf        shelf
	retention    retention
	totalBytes   int64
}

func newCheck(ctx context.Context, o *Options) *check {
	return &check{ctx: ctx, o: o, rep: &Report{}, perFile: map[string]int{}}
}

// run does everything but the verdict. The error is the context's.
func (c *check) run() error {
	defer c.closeFiles()
	c.readIdentity()
	c.readEvidence()
	c.readLatest()
	c.openEpochs()
	c.openHistory()
	c.readHead()
	c.openArrays()
	c.openShelf()
	c.readNames()
	j := newJoiner(c)
	c.addClaims(j)
	c.addCosigned(j)
	c.startTimes()
	c.addGiven()
	if err := c.join(j); err != nil {
		return err
	}
	c.readQuarantine()
	c.finishRetention(j)
	c.finishHistory(j)
	c.finishHead(j)
	return c.ctx.Err()
}

func (c *check) closeFiles() {
	c.history.close()
	c.chainFile.close()
	c.arrays.close()
	c.shelf.close()
}

// decide gives the verdict.
func (c *check) decide() {
	r := c.rep
	for _, b := range r.Basis {
		r.Covered = max(r.Covered, b.Size)
	}
	switch {
	case len(r.Findings) > 0:
		r.Verdict = Refuted
	case c.unreadable > 0 || c.leftovers > 0:
		r.Verdict = Unknown
	default:
		r.Verdict = Consistent
		// A key or a checkpoint that covers nothing agrees with any entries: whoever has the first checkpoint can write them.
		covers := r.Size == 0 || r.Covered > 0 || c.receipts > 0
		for _, b := range r.Basis {
			if covers || b.Kind == "head" {
				r.Verdict = Proven
			}
		}
		if len(r.Basis) > 0 && r.Covered < r.Size {
			c.note(Finding{File: ".", Offset: -1, Index: int64(r.Covered), What: fmt.Sprintf("entries %d to %d are newer than everything known from outside: they agree with the directory only", r.Covered, r.Size-1)})
		}
	}
	if c.known && !r.Signed {
		c.note(Finding{File: identity.LogName, Offset: -1, Index: -1, What: "unsigned: this log has no keys, so whoever can write the directory can also make another that agrees with itself"})
	}
	c.noteOneKey()
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
}

// noteOneKey says what a log is worth whose keys are those of log.json for ever, or to which the log key alone leads.
func (c *check) noteOneKey() {
	r := c.rep
	if len(r.VKeys) != 1 {
		return
	}
	f := Finding{File: identity.LogName, Offset: -1, Index: -1, What: "this is a log with one key, which is never destroyed: whoever has it can sign any history"}
	switch isLog := func(b Basis) bool { return b.Kind == "key" && b.Detail == c.log.String() }; {
	case len(r.Epochs) > 1 && slices.ContainsFunc(r.Basis, isLog):
		f.What = "the pinned key is the log key, which is never destroyed: whoever has it can sign any history, with epochs of its own"
		f.Hint = "pin a key of a later epoch; `immutable key show --current` prints them"
	case len(r.Epochs) > 1:
		return
	default:
		f.Hint = "`immutable key rotate` begins epochs, whose keys are destroyed; if it had three keys when it was made, log.json was replaced"
	}
	c.note(f)
}

// find reports something that refutes.
func (c *check) find(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rep.Findings) >= maxFindings || c.perFile[f.File] >= maxFindingsPerFile {
		c.rep.Omitted++
		return
	}
	c.perFile[f.File]++
	c.rep.Findings = append(c.rep.Findings, f)
}

// findFirst reports what explains the other findings, and is known late.
func (c *check) findFirst(f Finding) {
	before := len(c.rep.Findings)
	c.find(f)
	if n := len(c.rep.Findings); n > before {
		c.rep.Findings = slices.Insert(c.rep.Findings[:n-1], 0, f)
	}
}

// note reports something that is not against the log.
func (c *check) note(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rep.Notes) < maxNotes {
		c.rep.Notes = append(c.rep.Notes, f)
	}
}

// leftover reports something that a crash may leave: the head knows whether there may have been one.
func (c *check) leftover(f Finding) {
	switch {
	case c.head == nil:
		f.Hint = "a crash may leave this, and no head says whether there was one"
		c.note(f)
		c.mu.Lock()
		c.leftovers++
		c.mu.Unlock()
	case c.head.Clean:
		f.Hint = strings.TrimPrefix(f.Hint+"; the head says that the last writer closed cleanly and wrote nothing since", "; ")
		c.find(f)
	default:
		f.Hint = "a crash, or a writer at work, leaves this"
		c.note(f)
	}
}

// fault reports why a file could not be read or used: damage refutes, what the system refuses is could-not-tell.
func (c *check) fault(name string, index int64, err error, hint string) {
	f := Finding{File: name, Offset: -1, Index: index, Hint: hint}
	var corrupt *segment.CorruptError
	var kind *kindError
	switch {
	case errors.As(err, &corrupt):
		f.Offset, f.What, f.Got, f.Want = corrupt.Offset, corrupt.Msg, corrupt.Got, corrupt.Want
		if corrupt.Err != nil {
			f.What += ": " + corrupt.Err.Error()
		}
	case errors.As(err, &kind):
		f.What, f.Got, f.Want = "is not a regular file", kind.is, "a regular file"
	case errors.Is(err, fs.ErrNotExist):
		f.What = "is missing"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		f.What = "became shorter while it was read: " + err.Error()
	case errors.Is(err, vfs.ErrTooLarge):
		f.What = err.Error()
	default:
		f.What = "could not be read: " + err.Error()
		f.Hint = ""
		c.note(f)
		c.mu.Lock()
		c.unreadable++
		c.mu.Unlock()
		return
	}
	c.find(f)
}

// A kindError says that a name stands for something that is not a file.
type kindError struct{ is string }

func (e *kindError) Error() string { return "is " + e.is + ", not a regular file" }

func (c *check) path(name string) string { return filepath.Join(c.o.Dir, filepath.FromSlash(name)) }

// open opens a file of the log. It opens nothing but regular files, and no symbolic links: they
// would bring bytes from outside the directory into its proof.
func (c *check) open(name string) (vfs.File, int64, error) { return c.openPath(c.path(name)) }

func (c *check) openPath(path string) (vfs.File, int64, error) {
	if err := c.checkKind(path, false); err != nil {
		return nil, 0, err
	}
	f, err := c.o.FS.Open(path)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Size()
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

func (c *check) checkKind(path string, dir bool) error {
	var mode fs.FileMode
	if c.o.FS == vfs.OS() {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		mode = info.Mode()
	} else {
		info, err := c.o.FS.Stat(path)
		if err != nil {
			return err
		}
		mode = info.Mode
		if info.Dir {
			mode |= fs.ModeDir
		}
	}
	switch {
	case dir && mode.IsDir(), !dir && mode.IsRegular():
		return nil
	case mode.IsRegular():
		return &kindError{"a regular file"}
	case mode.IsDir():
		return &kindError{"a directory"}
	case mode&fs.ModeSymlink != 0:
		return &kindError{"a symbolic link"}
	}
	return &kindError{"a special file (" + mode.Type().String() + ")"}
}

// read returns a small file.
func (c *check) read(name string, limit int64) ([]byte, error) {
	f, size, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are expected", vfs.ErrTooLarge, size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	c.addBytes(size)
	return b, nil
}

// list returns the names in a directory of the log; one that is not there has none.
func (c *check) list(name string) []string {
	err := c.checkKind(c.path(name), true)
	var names []string
	if err == nil {
		names, err = c.o.FS.ReadDir(c.path(name))
	}
	var kind *kindError
	switch {
	case errors.As(err, &kind):
		c.find(Finding{File: name, Offset: -1, Index: -1, What: "is not a directory", Got: kind.is, Want: "a directory"})
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		c.fault(name, -1, err, "")
	}
	return names
}

// readIdentity reads log.json and sorts the pinned keys against its own.
func (c *check) readIdentity() {
	data, err := c.read(identity.LogName, identity.MaxBytes)
	if err != nil {
		c.fault(identity.LogName, -1, err, "without it neither the log's name nor its keys are known: signatures are not checked")
		return
	}
	log, err := identity.ParseLog(data)
	var own []proof.Key
	if err == nil {
		own, err = log.Keys()
	}
	if err != nil {
		c.find(Finding{File: identity.LogName, Offset: -1, Index: -1, What: err.Error(), Hint: "without it neither the log's name nor its keys are known: signatures are not checked"})
		return
	}
	c.known, c.origin = true, log.Origin
	c.rep.Origin, c.rep.VKeys, c.rep.Signed = log.Origin, log.VKeys, len(own) > 0
	if len(own) > 0 {
		c.log, c.first = own[0], own[max(0, len(own)-2):]
	}
	c.pin()
}

func hasKey(keys []proof.Key, k proof.Key) bool {
	for _, other := range keys {
		if other.String() == k.String() {
			return true
		}
	}
	return false
}

// pin takes the keys from outside. Each must be the log's: of log.json, or of a later epoch, which the entries tell.
func (c *check) pin() {
	for _, v := range c.o.Keys {
		k, err := proof.ParseKey(v)
		if err == nil && k.Type() == proof.TypeCosignature {
			err = errors.New("it is a witness's; the keys of a log have type 0x01 or 0x06")
		}
		if err != nil {
			c.note(Finding{File: "pinned key", Offset: -1, Index: -1, What: "cannot be used: " + err.Error()})
			c.unreadable++
			continue
		}
		if c.log.IsZero() {
			c.find(Finding{
				File: identity.LogName, Offset: -1, Index: -1, What: "does not name the pinned key", Want: k.String(),
				Hint: "the directory is of another log, or was replaced together with its key",
			})
			continue
		}
		if !hasKey(c.pinned, k) {
			c.pinned = append(c.pinned, k)
		}
	}
}

// readHead reads what this host knows of the log.
func (c *check) readHead() {
	if c.o.State == "" || !c.known {
		return
	}
	path := filepath.Join(identity.Dir(c.o.State, c.origin), identity.HeadName)
	c.headFile = path
	at := Finding{File: path, Offset: -1, Index: -1}
	data, err := c.readHeadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		at.What = "there is no head: this host has never written to this log, or has lost what it knew of it"
		c.note(at)
		return
	}
	if err != nil {
		c.fault(path, -1, err, "")
		return
	}
	h, err := identity.ParseHead(data)
	if err != nil {
		at.What = err.Error()
		c.find(at)
		return
	}
	c.head = h
	c.checkHeadIdentity(h, at)
}

func (c *check) readHeadFile(path string) ([]byte, error) {
	if err := c.checkKind(path, false); err != nil {
		return nil, err
	}
	return vfs.ReadFile(c.o.FS, path, identity.MaxBytes)
}

// checkHeadIdentity compares log.json with the head.
func (c *check) checkHeadIdentity(h *identity.Head, at Finding) {
	data, err := c.read(identity.LogName, identity.MaxBytes)
	if err != nil {
		c.fault(identity.LogName, -1, err, "")
		return
	}
	if h.Origin != c.origin {
		at.What, at.Got, at.Want = "is of another log", h.Origin, c.origin
		c.find(at)
	}
	if sum := sha256.Sum256(data); sum != h.Log {
		c.find(Finding{File: identity.LogName, Offset: -1, Index: -1, What: "is not the file that the head knows: its SHA-256 differs", Got: fmt.Sprintf("%x", sum), Want: fmt.Sprintf("%x", h.Log)})
	}
	vkey := ""
	if len(c.rep.VKeys) > 0 {
		vkey = c.rep.VKeys[0]
	}
	if h.VKey != vkey {
		c.find(Finding{File: identity.LogName, Offset: -1, Index: -1, What: "its first key is not the one that the head knows", Got: vkey, Want: h.VKey})
	}
	info, err := c.o.FS.Stat(c.path(identity.LogName))
	if err == nil && h.Inode != 0 && info.Inode != h.Inode {
		c.note(Finding{
			File: identity.LogName, Offset: -1, Index: -1, What: "has another inode than the head says: the directory is a copy", Got: strconv.FormatUint(info.Inode, 10), Want: strconv.FormatUint(h.Inode, 10),
			Hint: "it stays read-only on this host until `immutable adopt`",
		})
	}
}

// finishHead compares the head with all that was read. That the root at its size is right was a claim to the joiner.
func (c *check) finishHead(j *joiner) {
	h := c.head
	if h == nil {
		return
	}
	at := func(name, what, got, want string) {
		c.find(Finding{File: name, Offset: -1, Index: -1, What: what, Got: got, Want: want, Hint: hintCut})
	}
	history := c.history.err == nil
	if length := c.history.length; history && length < h.Kept {
		at(historyName, "is shorter than the head says", fmt.Sprintf("%d bytes", length), fmt.Sprintf("at least %d", h.Kept))
	}
	if c.latest != nil && c.latestAt.Size > h.Size {
		c.find(Finding{
			File: latestName, Offset: -1, Index: -1, What: "is newer than the highest that this host ever signed", Got: fmt.Sprint(c.latestAt.Size), Want: fmt.Sprintf("at most %d", h.Size),
			Hint: "the head was replaced by an older copy, or the key is in use elsewhere",
		})
	}
	if !h.Clean {
		return
	}
	const closed = "; the head says that the last writer closed cleanly"
	if j.size != h.Size && !j.lost {
		c.find(Finding{File: openName, Offset: -1, Index: int64(min(j.size, h.Size)), What: "the log does not end where the head says" + closed, Got: fmt.Sprintf("%d entries", j.size), Want: fmt.Sprint(h.Size)})
	}
	if history && c.history.length > h.Kept {
		c.find(Finding{File: historyName, Offset: h.Kept, Index: -1, What: "is longer than the head says" + closed, Got: fmt.Sprintf("%d bytes", c.history.length), Want: fmt.Sprint(h.Kept)})
	}
	if c.latest != nil && c.latestAt.Size != h.Size {
		at(latestName, "is not of the size that the head says"+closed, fmt.Sprint(c.latestAt.Size), fmt.Sprint(h.Size))
	}
	if c.latest != nil && history && c.history.lastSize < c.latestAt.Size {
		at(historyName, "its last note is not the newest checkpoint"+closed, fmt.Sprintf("size %d", c.history.lastSize), fmt.Sprintf("size %d", c.latestAt.Size))
	}
}

// readNames looks at what else lies in the directory.
func (c *check) readNames() {
	for _, name := range c.list(".") {
		switch name {
		case identity.LogName, openName, chainName, latestName, historyName, epochsName, cosignedName, "lock", "reserve", "next":
		case "pending", "archive", "index", "tree", "quarantine", evidenceName, retiredName:
		default:
			c.note(Finding{File: name, Offset: -1, Index: -1, What: "is a name that the format does not know"})
		}
	}
}

// fingerprint is equal for two moments between which no writer changed the directory or the head.
func fingerprint(o *Options) string {
	var b strings.Builder
	stat := func(path string) {
		info, err := o.FS.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
			return
		}
		fmt.Fprintf(&b, "%d %d %d %s\n", info.Dev, info.Inode, info.Size, info.ModTime.Format(time.RFC3339Nano))
	}
	for _, name := range []string{identity.LogName, latestName, historyName, epochsName, cosignedName, openName} {
		stat(filepath.Join(o.Dir, name))
	}
	if data, err := vfs.ReadFile(o.FS, filepath.Join(o.Dir, identity.LogName), identity.MaxBytes); err == nil && o.State != "" {
		if log, err := identity.ParseLog(data); err == nil {
			stat(filepath.Join(identity.Dir(o.State, log.Origin), identity.HeadName))
		}
	}
	h := sha256.New()
	for _, name := range []string{"archive", "pending", "index", "tree", "quarantine", evidenceName, retiredName} {
		names, err := o.FS.ReadDir(filepath.Join(o.Dir, name))
		h.Write(fmt.Appendf(nil, "%q %v\n", names, err))
	}
	fmt.Fprintf(&b, "%x", h.Sum(nil))
	return b.String()
}

func (c *check) addBytes(n int64) {
	c.mu.Lock()
	c.rep.Bytes += n
	c.mu.Unlock()
}
