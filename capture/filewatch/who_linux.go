package filewatch

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/event"
)

// witness hears from the kernel (fanotify) which process changes what. It needs CAP_SYS_ADMIN and Linux 5.9.
type witness struct {
	fd   int
	file *os.File

	mu     sync.Mutex // guards what follows
	dirs   map[string]string
	lastOf map[string]*process
}

// process is who changed a file, as far as it could still be read when the kernel said so.
type process struct {
	pid       int
	command   string
	program   string
	uid, auid string // of its user, and of who logged in
}

// maxRemembered bounds the files of which it is remembered who changed them: then all are forgotten.
const maxRemembered = 10_000

const fanotifyEvents = unix.FAN_CREATE | unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO | unix.FAN_ATTRIB |
	unix.FAN_EVENT_ON_CHILD | unix.FAN_ONDIR

func newWitness() *witness {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_REPORT_DFID_NAME, unix.O_RDONLY)
	if err != nil {
		return nil // not allowed, or not known to this kernel
	}
	w := &witness{fd: fd, file: os.NewFile(uintptr(fd), "fanotify"), dirs: map[string]string{}, lastOf: map[string]*process{}}
	go w.run()
	return w
}

func (w *witness) close() {
	if w != nil {
		_ = w.file.Close() // ends run
	}
}

// watch has the kernel tell of a directory's files. A file system that has no handles is not told of.
func (w *witness) watch(dir string) {
	if w == nil {
		return
	}
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return
	}
	w.mu.Lock()
	w.dirs[handleKey(h.Type(), h.Bytes())] = dir
	w.mu.Unlock()
	_ = unix.FanotifyMark(w.fd, unix.FAN_MARK_ADD, fanotifyEvents, unix.AT_FDCWD, dir) // the events have no actor then
}

func handleKey(kind int32, handle []byte) string {
	return strconv.Itoa(int(kind)) + ":" + string(handle)
}

func (w *witness) run() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		w.events(buf[:n])
	}
}

// Sizes of what the kernel sends: fanotify(7), struct fanotify_event_metadata and fanotify_event_info_fid.
const (
	metadataBytes = 24
	infoHeader    = 4
	fsidBytes     = 8
	handleHeader  = 8
)

func (w *witness) events(data []byte) {
	for len(data) >= metadataBytes {
		size := int(binary.NativeEndian.Uint32(data))
		head := int(binary.NativeEndian.Uint16(data[6:]))
		pid := int(int32(binary.NativeEndian.Uint32(data[20:])))
		if size < metadataBytes || size > len(data) || head < metadataBytes || head > size {
			return
		}
		if path, ok := w.path(data[head:size]); ok && pid > 0 {
			p := describe(pid)
			w.mu.Lock()
			if len(w.lastOf) >= maxRemembered {
				clear(w.lastOf)
			}
			if p.command == "" && w.lastOf[path] != nil && w.lastOf[path].pid == pid {
				p = w.lastOf[path] // it has ended since
			}
			w.lastOf[path] = p
			w.mu.Unlock()
		}
		data = data[size:]
	}
}

// path finds the file that an event is of: the handle of its directory, and its name in it.
func (w *witness) path(info []byte) (string, bool) {
	for len(info) >= infoHeader {
		size := int(binary.NativeEndian.Uint16(info[2:]))
		if size < infoHeader || size > len(info) {
			return "", false
		}
		rest := info[infoHeader:size]
		if info[0] == unix.FAN_EVENT_INFO_TYPE_DFID_NAME && len(rest) >= fsidBytes+handleHeader {
			rest = rest[fsidBytes:]
			n := int(binary.NativeEndian.Uint32(rest))
			kind := int32(binary.NativeEndian.Uint32(rest[4:]))
			rest = rest[handleHeader:]
			if n < 0 || n > len(rest) {
				return "", false
			}
			name, _, _ := bytes.Cut(rest[n:], []byte{0})
			w.mu.Lock()
			dir, found := w.dirs[handleKey(kind, rest[:n])]
			w.mu.Unlock()
			return filepath.Join(dir, string(name)), found
		}
		info = info[size:]
	}
	return "", false
}

func describe(pid int) *process {
	p := &process{pid: pid}
	dir := "/proc/" + strconv.Itoa(pid)
	if comm, err := os.ReadFile(dir + "/comm"); err == nil {
		p.command = capture.Text(strings.TrimSpace(string(comm)), 64)
	}
	if exe, err := os.Readlink(dir + "/exe"); err == nil {
		p.program = capture.Text(exe, maxPath)
	}
	if auid, err := os.ReadFile(dir + "/loginuid"); err == nil && string(auid) != "4294967295" { // nobody has logged in
		p.auid = capture.Text(string(auid), 16)
	}
	if status, err := os.ReadFile(dir + "/status"); err == nil {
		if _, rest, found := strings.Cut(string(status), "\nUid:\t"); found {
			p.uid, _, _ = strings.Cut(rest, "\t")
		}
	}
	return p
}

// of returns who changed one of the paths last, and forgets it.
func (w *witness) of(paths ...string) *process {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, path := range paths {
		if p := w.lastOf[path]; p != nil {
			delete(w.lastOf, path)
			return p
		}
	}
	return nil
}

func (p *process) actor() *event.Actor {
	id := p.auid
	if id == "" {
		id = p.uid
	}
	if id == "" {
		return nil
	}
	return &event.Actor{Type: event.ActorUser, ID: id}
}

func (p *process) fields() map[string]any {
	f := map[string]any{"pid": p.pid}
	for name, v := range map[string]string{"command": p.command, "executable": p.program, "uid": p.uid, "loginUid": p.auid} {
		if v != "" {
			f[name] = v
		}
	}
	return f
}
