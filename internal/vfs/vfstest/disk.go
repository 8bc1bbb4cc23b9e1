// Package vfstest has a disk in memory that loses power, fills up and lies, for tests of what uses package vfs.
package vfstest

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Disk is a vfs.FS in memory, safe for concurrent use. It treats its user as the ordinary owner of all files: the
// mode's owner bits count. Names are relative to its root with or without a leading slash. There are no symbolic
// links.
//
// What is visible and what a power cut leaves are kept apart: see Crash.
type Disk struct {
	// Fail, if not nil, is called before each operation with what is about to happen. An error makes the operation
	// fail with it and change nothing, except as Persisted and Short say. Calls are serialized; Fail may call Ops,
	// Clone and the setters, but no operation of this disk. Assign it before the disk is used, or with SetFail.
	Fail func(op Op) error

	// FailSync, if not nil, is called before each File.Sync that Fail let through. An error makes Sync fail as on
	// Linux: everything written to the file since the last good Sync stays visible, counts as clean and is therefore
	// not written by a later Sync, which returns nil. A crash may or may not have it. Assign it like Fail.
	FailSync func(op Op) error

	// Capacity, if not 0, is how many bytes the files may have together; one with several names counts once, a removed
	// one as long as it is open. A write that does not fit is cut short with ENOSPC, and reports 0 bytes like os.File;
	// no file can be made on a disk that is full to the last byte. Assign it like Fail.
	Capacity int64

	hook sync.Mutex // serializes Fail and FailSync; taken without mu

	mu      sync.Mutex // guards everything below and all nodes and slots; an operation is atomic under it
	off     error      // why the disk is off; nil while it has power
	ops     uint64
	cut     bool
	cutAt   uint64 // with cut: the power goes off when ops is cutAt
	used    int64
	lastIno uint64
	root    *node
	open    map[*file]bool
	lastMv  *change // the newest rename of a directory
}

// Op is an operation that is about to happen.
type Op struct {
	Kind Kind
	Name string // cleaned, slashes; for a File the name that it was opened by
	To   string // the new name, for OpRename and OpLink
	N    uint64 // this is the N-th operation that changes the disk, counted from 1; 0 for one that only reads
}

// Kind is a method of vfs.FS or vfs.File.
type Kind string

// The operations. Those from OpCreate on change the disk and are counted.
const (
	OpOpen     Kind = "open" // Open and OpenRW
	OpRead     Kind = "read"
	OpSize     Kind = "size"
	OpReadDir  Kind = "readdir"
	OpStat     Kind = "stat"
	OpCreate   Kind = "create"
	OpWrite    Kind = "write"
	OpTruncate Kind = "truncate"
	OpAllocate Kind = "allocate"
	OpSync     Kind = "sync"
	OpRename   Kind = "rename"
	OpLink     Kind = "link"
	OpRemove   Kind = "remove"
	OpMkdir    Kind = "mkdir"
	OpChmod    Kind = "chmod"
	OpSyncDir  Kind = "syncdir"
	OpLock     Kind = "lock"
)

// Changes reports whether operations of this kind change the disk.
func (k Kind) Changes() bool {
	switch k {
	case OpOpen, OpRead, OpSize, OpReadDir, OpStat:
		return false
	}
	return true
}

// ErrPowerCut is what every operation on a disk without power returns.
var ErrPowerCut = errors.New("the power is off")

// Persisted makes an operation fail with err although it was carried out and is durable, with everything else of the
// same file that was not yet: for Fail to return.
func Persisted(err error) error { return &outcome{error: err, apply: true, short: -1} }

// Short makes a write fail with err after its first n bytes, although it reports 0: for Fail to return. Other
// operations just fail.
func Short(n int, err error) error { return &outcome{error: err, short: n} }

// outcome is how an operation ends that Fail has something to say about.
type outcome struct {
	error
	apply bool // carry it out and make it durable
	short int  // bytes that a write still does; -1 for all
}

// New returns an empty disk with power.
func New() *Disk {
	d := &Disk{open: make(map[*file]bool)}
	d.root = d.newNode(fs.ModeDir | 0o755)
	return d
}

// SetFail sets Fail while the disk is in use.
func (d *Disk) SetFail(fail func(op Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Fail = fail
}

// SetFailSync sets FailSync while the disk is in use.
func (d *Disk) SetFailSync(fail func(op Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.FailSync = fail
}

// SetCapacity sets Capacity while the disk is in use.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Capacity = bytes
}

// Ops is how many operations that change the disk have begun.
func (d *Disk) Ops() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Used is what Capacity limits.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used
}

// CutAfter cuts the power after n more operations that change the disk: from then on every operation, of open Files
// too, returns ErrPowerCut. Crash then tells what is left.
func (d *Disk) CutAfter(n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut, d.cutAt = true, d.ops+n
}

// OpenFiles lists the names by which Files and locks were opened that are not closed yet, sorted.
func (d *Disk) OpenFiles() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for f := range d.open {
		names = append(names, f.name)
	}
	slices.Sort(names)
	return names
}

// node is a file or directory: what Unix calls an inode.
type node struct {
	ino   uint64
	dir   bool
	links int           // names that are visible
	opens int           // Files and locks
	modes []fs.FileMode // the last is visible; a power cut may leave any
	mtime time.Time
	lock  *file // who has the lock

	data    []byte  // file: the visible contents
	durable []byte  // file: what a power cut leaves in any case
	writes  []write // file: changes since durable, oldest first
	// The memory of data and durable is also that of other nodes: it is copied before it changes. Copies of disks are many, and differ
	// in little.
	lentData, lentDurable bool

	slots map[string]*slot // directory
}

// slot is a name in a directory: who has it durably, and the changes since, oldest first. A power cut leaves a prefix.
type slot struct {
	durable *node // nil if nobody
	changes []*change
}

// change is one change of one slot.
type change struct {
	slot  *slot
	to    *node     // nil if the name is given up
	needs []*change // these are durable whenever this one is
	done  bool      // durable
}

func (s *slot) now() *node {
	if len(s.changes) > 0 {
		return s.changes[len(s.changes)-1].to
	}
	return s.durable
}

// settle makes c durable, with what came before it at the same name and all that these need.
func (c *change) settle() {
	if c.done {
		return
	}
	i := slices.Index(c.slot.changes, c) + 1
	before := c.slot.changes[:i]
	c.slot.changes = slices.Clone(c.slot.changes[i:])
	c.slot.durable = c.to
	for _, b := range before {
		b.done = true
	}
	for _, b := range before {
		for _, n := range b.needs {
			n.settle()
		}
	}
}

func (d *Disk) newNode(mode fs.FileMode) *node {
	d.lastIno++
	n := &node{ino: d.lastIno, dir: mode.IsDir(), modes: []fs.FileMode{mode}, mtime: d.now()}
	if n.dir {
		n.slots = make(map[string]*slot)
	}
	return n
}

// now is a clock that moves with the changes, so that runs repeat exactly.
func (d *Disk) now() time.Time { return time.Unix(1_000_000_000+int64(d.ops), 0).UTC() }

func (n *node) mode() fs.FileMode { return n.modes[len(n.modes)-1] }

func (n *node) may(bits fs.FileMode) bool { return n.mode()&bits == bits }

func (n *node) get(name string) *node {
	if s := n.slots[name]; s != nil {
		return s.now()
	}
	return nil
}

// set changes who has a name, visibly; to is nil to give it up.
func (d *Disk) set(dir *node, name string, to *node) *change {
	s := dir.slots[name]
	if s == nil {
		s = &slot{}
		dir.slots[name] = s
	}
	if old := s.now(); old != nil {
		old.links--
		d.release(old)
	}
	if to != nil {
		to.links++
	}
	c := &change{slot: s, to: to}
	s.changes = append(s.changes, c)
	dir.mtime = d.now()
	return c
}

// release gives a file's space back once nothing refers to it. What a power cut may bring back is kept all the same.
func (d *Disk) release(n *node) {
	if !n.dir && n.links == 0 && n.opens == 0 {
		d.used -= int64(len(n.data))
	}
}

// begin counts the operation, asks Fail and, unless the operation is to fail, returns with d.mu held. o is not nil if
// the operation is to be carried out, in whole or part, and then to fail.
func (d *Disk) begin(kind Kind, name, to string) (o *outcome, err error) {
	d.mu.Lock()
	op := Op{Kind: kind, Name: name, To: to}
	if err := d.power(); err != nil {
		d.mu.Unlock()
		return nil, d.fault(op, err)
	}
	if kind.Changes() {
		d.ops++
		op.N = d.ops
	}
	fail, failSync := d.Fail, d.FailSync
	d.mu.Unlock()

	if fail != nil {
		err = d.ask(fail, op)
	}
	if err != nil && !errors.As(err, &o) {
		return nil, d.fault(op, err)
	}
	if o != nil && !o.apply && (kind != OpWrite || o.short < 0) {
		return nil, d.fault(op, o.error)
	}
	if kind == OpSync && o == nil && failSync != nil {
		if err := d.ask(failSync, op); err != nil {
			o = &outcome{error: err, short: -1}
		}
	}
	if o != nil {
		o = &outcome{error: d.fault(op, o.error), apply: o.apply, short: o.short}
	}
	d.mu.Lock()
	if d.off != nil {
		d.mu.Unlock()
		return nil, d.fault(op, d.off)
	}
	return o, nil
}

func (d *Disk) ask(hook func(op Op) error, op Op) error {
	d.hook.Lock()
	defer d.hook.Unlock()
	return hook(op)
}

// power tells whether there is still power for the next operation.
func (d *Disk) power() error {
	if d.off == nil && d.cut && d.ops >= d.cutAt {
		d.off = ErrPowerCut
	}
	return d.off
}

// fault dresses an error like the ones of the operating system.
func (d *Disk) fault(op Op, err error) error {
	return &fs.PathError{Op: string(op.Kind), Path: op.Name, Err: err}
}

func clean(name string) string { return path.Clean(filepath.ToSlash(name)) }

// walk finds the directory that a cleaned name is in, and the name's last element; "" for the root itself.
func (d *Disk) walk(name string) (dir *node, base string, err error) {
	parts := strings.Split(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	dir = d.root
	for i, part := range parts {
		if !dir.dir {
			return nil, "", syscall.ENOTDIR
		}
		if !dir.may(0o100) {
			return nil, "", syscall.EACCES
		}
		if i == len(parts)-1 {
			return dir, part, nil
		}
		if dir = dir.get(part); dir == nil {
			return nil, "", syscall.ENOENT
		}
	}
	panic("unreachable: a split has at least one part")
}

func (d *Disk) find(name string) (*node, error) {
	dir, base, err := d.walk(name)
	if err != nil {
		return nil, err
	}
	if base == "" {
		return d.root, nil
	}
	if n := dir.get(base); n != nil {
		return n, nil
	}
	return nil, syscall.ENOENT
}

// slotFor is walk for an operation that changes the directory.
func (d *Disk) slotFor(name string) (dir *node, base string, has *node, err error) {
	dir, base, err = d.walk(name)
	switch {
	case err != nil:
		return nil, "", nil, err
	case base == "":
		return nil, "", nil, syscall.EBUSY
	case !dir.may(0o200):
		return nil, "", nil, syscall.EACCES
	}
	return dir, base, dir.get(base), nil
}

// do runs a changing operation on names: body returns the changes it made.
func (d *Disk) do(kind Kind, name, to string, body func(name, to string) ([]*change, error)) error {
	name = clean(name)
	if to != "" {
		to = clean(to)
	}
	o, err := d.begin(kind, name, to)
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	changes, err := body(name, to)
	if err != nil {
		return &fs.PathError{Op: string(kind), Path: name, Err: err}
	}
	if o == nil {
		return nil
	}
	for _, c := range changes {
		c.settle()
	}
	return o.error
}

// Rename is vfs.FS's. A rename within a directory is durable wholly or not at all. One between directories cannot lose
// the file, but until both directories are synced a power cut may leave both names.
func (d *Disk) Rename(oldname, newname string) error {
	return d.do(OpRename, oldname, newname, func(oldname, newname string) ([]*change, error) {
		from, oldbase, n, err := d.slotFor(oldname)
		if err != nil {
			return nil, err
		}
		to, newbase, has, err := d.slotFor(newname)
		switch {
		case err != nil:
			return nil, err
		case n == nil:
			return nil, syscall.ENOENT
		case has != nil && has.dir:
			return nil, syscall.EEXIST
		case has == n:
			return nil, nil
		case has != nil && n.dir:
			return nil, syscall.ENOTDIR
		case n.dir && strings.HasPrefix(path.Clean("/"+newname), path.Clean("/"+oldname)+"/"):
			return nil, syscall.EINVAL
		}
		add := d.set(to, newbase, n)
		del := d.set(from, oldbase, nil)
		del.needs = append(del.needs, add)
		if from == to || n.dir {
			add.needs = append(add.needs, del)
		}
		if n.dir {
			// In order among themselves, so that no mixture of old and new makes a circle.
			if d.lastMv != nil && !d.lastMv.done {
				add.needs = append(add.needs, d.lastMv)
			}
			d.lastMv = add
		}
		return []*change{add, del}, nil
	})
}

// Link is vfs.FS's.
func (d *Disk) Link(oldname, newname string) error {
	return d.do(OpLink, oldname, newname, func(oldname, newname string) ([]*change, error) {
		n, err := d.find(oldname)
		if err != nil {
			return nil, err
		}
		dir, base, has, err := d.slotFor(newname)
		switch {
		case err != nil:
			return nil, err
		case has != nil:
			return nil, syscall.EEXIST
		case n.dir:
			return nil, syscall.EPERM
		}
		return []*change{d.set(dir, base, n)}, nil
	})
}

// Remove is vfs.FS's.
func (d *Disk) Remove(name string) error {
	return d.do(OpRemove, name, "", func(name, _ string) ([]*change, error) {
		dir, base, n, err := d.slotFor(name)
		switch {
		case err != nil:
			return nil, err
		case n == nil:
			return nil, syscall.ENOENT
		case n.dir && len(n.list()) > 0:
			return nil, syscall.ENOTEMPTY
		}
		return []*change{d.set(dir, base, nil)}, nil
	})
}

// Mkdir is vfs.FS's.
func (d *Disk) Mkdir(name string, perm fs.FileMode) error {
	return d.do(OpMkdir, name, "", func(name, _ string) ([]*change, error) {
		_, c, err := d.make(name, fs.ModeDir|perm.Perm())
		return []*change{c}, err
	})
}

// make adds a new file or directory.
func (d *Disk) make(name string, mode fs.FileMode) (*node, *change, error) {
	dir, base, has, err := d.slotFor(name)
	switch {
	case errors.Is(err, syscall.EBUSY):
		return nil, nil, syscall.EEXIST
	case err != nil:
		return nil, nil, err
	case has != nil:
		return nil, nil, syscall.EEXIST
	case d.room() == 0:
		return nil, nil, syscall.ENOSPC
	}
	n := d.newNode(mode)
	return n, d.set(dir, base, n), nil
}

// room is how many bytes are free.
func (d *Disk) room() int64 {
	if d.Capacity == 0 {
		return 1 << 62
	}
	return max(0, d.Capacity-d.used)
}

// Chmod is vfs.FS's.
func (d *Disk) Chmod(name string, mode fs.FileMode) error {
	return d.do(OpChmod, name, "", func(name, _ string) ([]*change, error) {
		n, err := d.find(name)
		if err != nil {
			return nil, err
		}
		n.modes = append(n.modes, n.mode().Type()|mode.Perm())
		return nil, nil
	})
}

// SyncDir is vfs.FS's.
func (d *Disk) SyncDir(name string) error {
	return d.do(OpSyncDir, name, "", func(name, _ string) ([]*change, error) {
		n, err := d.find(name)
		switch {
		case err != nil:
			return nil, err
		case !n.dir:
			return nil, syscall.ENOTDIR
		case !n.may(0o400):
			return nil, syscall.EACCES
		}
		for _, base := range sortedKeys(n.slots) {
			s := n.slots[base]
			if len(s.changes) > 0 {
				s.changes[len(s.changes)-1].settle()
			}
			if s.durable == nil && len(s.changes) == 0 {
				delete(n.slots, base)
			}
		}
		return nil, nil
	})
}

// ReadDir is vfs.FS's.
func (d *Disk) ReadDir(name string) ([]string, error) {
	name = clean(name)
	o, err := d.begin(OpReadDir, name, "")
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if o != nil {
		return nil, o.error
	}
	n, err := d.find(name)
	switch {
	case err == nil && !n.dir:
		err = syscall.ENOTDIR
	case err == nil && !n.may(0o400):
		err = syscall.EACCES
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return n.list(), nil
}

// list returns the visible names in a directory, sorted.
func (n *node) list() []string {
	var names []string
	for _, base := range sortedKeys(n.slots) {
		if n.slots[base].now() != nil {
			names = append(names, base)
		}
	}
	return names
}

// Stat is vfs.FS's. All files have Dev 1; no two files a disk ever had share an Inode.
func (d *Disk) Stat(name string) (vfs.Info, error) {
	name = clean(name)
	o, err := d.begin(OpStat, name, "")
	if err != nil {
		return vfs.Info{}, err
	}
	defer d.mu.Unlock()
	if o != nil {
		return vfs.Info{}, o.error
	}
	n, err := d.find(name)
	if err != nil {
		return vfs.Info{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return vfs.Info{
		Size: int64(len(n.data)), Inode: n.ino, Dev: 1, Mode: n.mode(), Dir: n.dir, ModTime: n.mtime,
	}, nil
}

// Open is vfs.FS's.
func (d *Disk) Open(name string) (vfs.File, error) { return d.openFile(name, 0o400) }

// OpenRW is vfs.FS's.
func (d *Disk) OpenRW(name string) (vfs.File, error) { return d.openFile(name, 0o600) }

func (d *Disk) openFile(name string, need fs.FileMode) (vfs.File, error) {
	name = clean(name)
	o, err := d.begin(OpOpen, name, "")
	if err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if o != nil {
		return nil, o.error
	}
	n, err := d.find(name)
	switch {
	case err == nil && n.dir:
		err = syscall.EISDIR
	case err == nil && !n.may(need):
		err = syscall.EACCES
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return d.handle(n, name, need&0o200 != 0), nil
}

// Create is vfs.FS's.
func (d *Disk) Create(name string, perm fs.FileMode) (vfs.File, error) {
	var f *file
	err := d.do(OpCreate, name, "", func(name, _ string) ([]*change, error) {
		n, c, err := d.make(name, perm.Perm())
		if err == nil {
			f = d.handle(n, name, true)
		}
		return []*change{c}, err
	})
	if err != nil {
		if f != nil {
			// It was made and Persisted says that nobody is told.
			_ = f.Close()
		}
		return nil, err
	}
	return f, nil
}

func (d *Disk) handle(n *node, name string, write bool) *file {
	f := &file{d: d, n: n, name: name, write: write}
	n.opens++
	d.open[f] = true
	return f
}

// Lock is vfs.FS's. The lock is the file's, whatever names it has; a crash releases it.
func (d *Disk) Lock(name string, holder []byte) (io.Closer, error) {
	var f *file
	err := d.do(OpLock, name, "", func(name, _ string) ([]*change, error) {
		n, err := d.find(name)
		var changes []*change
		if errors.Is(err, fs.ErrNotExist) {
			var c *change
			if n, c, err = d.make(name, 0o600); err == nil {
				changes = append(changes, c)
			}
		}
		switch {
		case err != nil:
			return nil, err
		case n.dir:
			return nil, syscall.EISDIR
		case !n.may(0o600):
			return nil, syscall.EACCES
		case n.lock != nil:
			return nil, &vfs.LockedError{Name: name, Holder: slices.Clone(n.data[:min(len(n.data), vfs.MaxHolder)])}
		}
		f = d.handle(n, name, true)
		n.lock = f
		d.truncate(n, 0)
		holder := holder[:min(len(holder), vfs.MaxHolder)]
		if int64(len(holder)) <= d.room() {
			d.write(n, holder, 0)
		}
		return changes, nil
	})
	if locked := (*vfs.LockedError)(nil); errors.As(err, &locked) {
		return nil, locked
	}
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		return nil, err
	}
	return f, nil
}

// ReadFileRaw returns a file's visible contents, past all modes and faults, also without power.
func (d *Disk) ReadFileRaw(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(clean(name))
	if err == nil && n.dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return slices.Clone(n.data), nil
}

// WriteFileRaw gives a file, which is made with mode 0600 if it does not exist, other contents at once and durably,
// past all modes, faults and limits: to tamper. Open Files see it.
func (d *Disk) WriteFileRaw(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(clean(name))
	if errors.Is(err, fs.ErrNotExist) {
		capacity := d.Capacity
		d.Capacity = 0
		var c *change
		if n, c, err = d.make(clean(name), 0o600); err == nil {
			c.settle()
		}
		d.Capacity = capacity
	}
	if err == nil && n.dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	d.used += int64(len(data) - len(n.data))
	n.hold(slices.Clone(data))
	n.writes = nil
	return nil
}

// Files lists the visible files, sorted, as slash-separated names relative to the root.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	var visit func(prefix string, dir *node)
	visit = func(prefix string, dir *node) {
		for _, base := range dir.list() {
			if n := dir.get(base); n.dir {
				visit(prefix+base+"/", n)
			} else {
				names = append(names, prefix+base)
			}
		}
	}
	visit("", d.root)
	slices.Sort(names)
	return names
}

func sortedKeys(m map[string]*slot) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
