package vfstest

import (
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// maxFile is the longest file in bytes; a mistaken offset shall not eat the machine's memory.
const maxFile = 1 << 32

// file is an open file or a held lock.
type file struct {
	d      *Disk
	n      *node
	name   string
	write  bool
	closed bool // guarded by d.mu, like the rest of the state
}

// write is a change of a file that no Sync has made durable, except as state says.
type write struct {
	trunc bool
	off   int64  // where data goes, or with trunc the new length
	data  []byte // not with trunc
	state state
}

func (w *write) end() int64 { return w.off + int64(len(w.data)) }

type state uint8

const (
	dirty state = iota // the next Sync makes it durable; a crash may keep it
	lost               // a Sync failed: no Sync will write it, a crash may keep it
	fixed              // durable, but kept here because a lost one came before it
)

// begin is Disk.begin, and then checks the handle; on error d.mu is not held.
func (f *file) begin(kind Kind) (*outcome, error) {
	o, err := f.d.begin(kind, f.name, "")
	if err != nil {
		return nil, err
	}
	if f.closed {
		err = fs.ErrClosed
	} else if kind.Changes() && kind != OpSync && !f.write {
		err = syscall.EBADF
	}
	if err != nil {
		f.d.mu.Unlock()
		return nil, f.fault(kind, err)
	}
	return o, nil
}

func (f *file) fault(kind Kind, err error) error {
	return &fs.PathError{Op: string(kind), Path: f.name, Err: err}
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	o, err := f.begin(OpRead)
	if err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	switch {
	case o != nil:
		return 0, o.error
	case off < 0:
		return 0, f.fault(OpRead, syscall.EINVAL)
	case len(p) == 0:
		return 0, nil
	case off >= int64(len(f.n.data)):
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	o, err := f.begin(OpWrite)
	if err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	switch {
	case off < 0:
		return 0, f.fault(OpWrite, syscall.EINVAL)
	case off+int64(len(p)) > maxFile:
		return 0, f.fault(OpWrite, syscall.EFBIG)
	}
	fits := p
	if o != nil && o.short >= 0 {
		fits = fits[:min(len(fits), o.short)]
	}
	if room := int64(len(f.n.data)) + f.d.room() - off; room < int64(len(fits)) {
		fits = fits[:max(0, room)]
		err = f.fault(OpWrite, syscall.ENOSPC)
	}
	f.d.write(f.n, fits, off)
	if o != nil {
		err = o.error
		if o.apply {
			f.n.sync()
		}
	}
	if err != nil {
		return 0, err // like os.File
	}
	return len(p), nil
}

// write changes the visible contents; there is room.
func (d *Disk) write(n *node, p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	w := write{off: off, data: slices.Clone(p)}
	d.apply(n, w)
}

// truncate changes the visible length; there is room.
func (d *Disk) truncate(n *node, size int64) {
	if size == int64(len(n.data)) {
		return
	}
	d.apply(n, write{trunc: true, off: size})
}

func (d *Disk) apply(n *node, w write) {
	before := len(n.data)
	if n.lentData {
		n.data, n.lentData = slices.Clone(n.data), false
	}
	n.data = w.applyTo(n.data)
	d.used += int64(len(n.data) - before)
	n.writes = append(n.writes, w)
	n.mtime = d.now()
}

// applyTo returns data after w.
func (w *write) applyTo(data []byte) []byte {
	if w.trunc {
		return resize(data, w.off)
	}
	data = resize(data, max(int64(len(data)), w.end()))
	copy(data[w.off:], w.data)
	return data
}

// resize cuts data or adds zeros.
func resize(data []byte, size int64) []byte {
	if have := int64(len(data)); size > have {
		data = slices.Grow(data, int(size-have))[:size]
		clear(data[have:])
	}
	return data[:size]
}

// hold gives a file these contents, durably.
func (n *node) hold(data []byte) {
	n.data, n.durable, n.lentData, n.lentDurable = data, data, true, true
}

// sync makes what is dirty durable.
func (n *node) sync() {
	if !slices.ContainsFunc(n.writes, func(w write) bool { return w.state == lost }) {
		if n.lentDurable && len(n.writes) > 0 {
			n.durable, n.lentDurable = slices.Clone(n.durable), false
		}
		for _, w := range n.writes {
			n.durable = w.applyTo(n.durable)
		}
		n.writes = nil
		return
	}
	for i := range n.writes {
		if n.writes[i].state == dirty {
			n.writes[i].state = fixed
		}
	}
}

// drop is a failed Sync: what is dirty counts as clean and is not durable.
func (n *node) drop() {
	for i := range n.writes {
		if n.writes[i].state == dirty {
			n.writes[i].state = lost
		}
	}
}

func (f *file) Sync() error {
	o, err := f.begin(OpSync)
	if err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	if o == nil {
		f.n.sync()
		return nil
	}
	if o.apply {
		f.n.sync()
	} else {
		f.n.drop()
	}
	return o.error
}

func (f *file) Size() (int64, error) {
	o, err := f.begin(OpSize)
	if err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	if o != nil {
		return 0, o.error
	}
	return int64(len(f.n.data)), nil
}

func (f *file) Truncate(size int64) error {
	return f.setSize(OpTruncate, size)
}

func (f *file) Allocate(n int64) error {
	return f.setSize(OpAllocate, n)
}

// setSize sets the length; Allocate never makes it less.
func (f *file) setSize(kind Kind, size int64) error {
	o, err := f.begin(kind)
	if err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	if kind == OpAllocate {
		size = max(size, int64(len(f.n.data)))
	}
	switch {
	case size < 0:
		return f.fault(kind, syscall.EINVAL)
	case size > maxFile:
		return f.fault(kind, syscall.EFBIG)
	case size-int64(len(f.n.data)) > f.d.room():
		// Also for a hole: this disk has no sparse files.
		return f.fault(kind, syscall.ENOSPC)
	}
	f.d.truncate(f.n, size)
	if o == nil {
		return nil
	}
	f.n.sync()
	return o.error
}

// Close works without power too, as far as it goes: the handle is closed and the error says what happened.
func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return f.fault("close", fs.ErrClosed)
	}
	f.closed = true
	delete(f.d.open, f)
	if err := f.d.power(); err != nil {
		return f.fault("close", err)
	}
	if f.n.lock == f {
		f.n.lock = nil
		f.d.truncate(f.n, 0)
	}
	f.n.opens--
	f.d.release(f.n)
	return nil
}
