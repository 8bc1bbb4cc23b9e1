package powercut

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The recorder is a process of its own: one that uses an ext4 and serves the disk below it can never be killed, since its
// exit waits for I/O that only itself could finish. It ends when the process that started it does.

// traceLimit bounds the memory that one recording takes, in bytes.
const traceLimit = 1 << 30

// medium is the file that stands for the disk. Every write and flush is in the trace before the kernel hears that it is done,
// so the trace's length, read after anything was reported as durable, is a moment at which the disk had it.
type medium struct {
	fs.Inode
	mu    sync.Mutex
	image []byte
	trace *os.File
	size  int64 // of trace
	buf   []byte
}

func (m *medium) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o600
	out.Size = uint64(len(m.image))
	return 0
}

// Setattr takes times and modes, which mean nothing here, and refuses another size.
func (m *medium) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && size != uint64(len(m.image)) {
		return syscall.EPERM
	}
	return m.Getattr(ctx, f, out)
}

// Open keeps the kernel from caching: each request of the loop device arrives as it is, before it is reported as done.
func (m *medium) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (m *medium) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off > int64(len(m.image)) {
		return nil, syscall.EINVAL
	}
	return fuse.ReadResultData(dest[:copy(dest, m.image[off:])]), 0
}

func (m *medium) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	return uint32(len(data)), m.record(kindWrite, off, data)
}

// Fsync is the disk's flush: the loop device turns each into an fsync of its file.
func (m *medium) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return m.record(kindFlush, 0, nil)
}

// Allocate refuses, so that the kernel writes the zeros that it wants as any other data.
func (m *medium) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}

func (m *medium) record(kind uint32, off int64, data []byte) syscall.Errno {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off > int64(len(m.image)-len(data)) || m.size > traceLimit {
		return syscall.ENOSPC
	}
	m.buf = appendRecord(m.buf[:0], kind, off, data)
	if _, err := m.trace.WriteAt(m.buf, m.size); err != nil {
		return syscall.EIO
	}
	m.size += int64(len(m.buf))
	copy(m.image[off:], data)
	return 0
}

// mediumRoot is the directory that the medium lies in, as the file "disk".
type mediumRoot struct {
	fs.Inode
	medium *medium
}

func (r *mediumRoot) OnAdd(ctx context.Context) {
	r.AddChild("disk", r.NewPersistentInode(ctx, r.medium, fs.StableAttr{Mode: syscall.S_IFREG}), true)
}

// serveMedium is the recorder's process: it serves dir/image as dir/medium/disk until its standard input ends, then takes down
// what the process that started it may have left mounted.
func serveMedium(dir string) error {
	image, err := os.ReadFile(filepath.Join(dir, "image"))
	if err != nil {
		return err
	}
	trace, err := os.Create(filepath.Join(dir, "trace"))
	if err != nil {
		return err
	}
	point := filepath.Join(dir, "medium")
	server, err := fs.Mount(point, &mediumRoot{medium: &medium{image: image, trace: trace}}, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "immutable-powercut", DirectMountStrict: true, MaxWrite: 1 << 20},
	})
	if err != nil {
		return fmt.Errorf("mount the medium through /dev/fuse: %w", err)
	}
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	_ = unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
	if unmountErr := unix.Unmount(point, unix.MNT_DETACH); unmountErr != nil {
		return fmt.Errorf("unmount the medium: %w", unmountErr)
	}
	server.Wait()
	return err
}

// recording is an ext4 in use at mnt, on a disk whose every write and flush goes into a trace.
type recording struct {
	dir     string // image, trace, medium/disk, mnt
	mnt     string
	trace   *os.File
	stop    func() error
	unmount func() error
}

// startRecording starts a recorder for the disk with the image and mounts the ext4 on it. dir is a new directory.
func startRecording(t *testing.T, dir string, image []byte) (*recording, error) {
	r := &recording{dir: dir, mnt: filepath.Join(dir, "mnt")}
	for _, d := range []string{dir, r.mnt, filepath.Join(dir, "medium")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "image"), image, 0o600); err != nil {
		return nil, err
	}
	if err := r.start(t); err != nil {
		return nil, err
	}
	backing, err := os.OpenFile(filepath.Join(dir, "medium", "disk"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	if r.unmount, err = mountImage(t, backing, r.mnt); err != nil {
		return nil, err
	}
	r.trace, err = os.Open(filepath.Join(dir, "trace"))
	return r, err
}

// start starts the recorder's process. The test's end stops it, if nobody did before.
func (r *recording) start(t *testing.T) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+roleRecorder, dirVariable+"="+r.dir)
	var messages strings.Builder
	cmd.Stderr = &messages
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.stop = sync.OnceValue(func() error {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("recorder: %w: %s", err, messages.String())
		}
		return nil
	})
	t.Cleanup(func() { _ = r.stop() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("start the recorder: %q, %w", line, r.stop())
	}
	return nil
}

// moment is how long the trace is now.
func (r *recording) moment() (int64, error) {
	info, err := r.trace.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// finish unmounts and returns what the disk was told. The bytes are valid until the test ends.
func (r *recording) finish(t *testing.T, size int64) ([]record, error) {
	if err := r.unmount(); err != nil {
		return nil, err
	}
	if err := r.stop(); err != nil {
		return nil, err
	}
	n, err := r.moment()
	if err != nil {
		return nil, err
	}
	data, err := unix.Mmap(int(r.trace.Fd()), 0, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the trace of %d bytes: %w", n, err)
	}
	t.Cleanup(func() { _ = unix.Munmap(data); _ = r.trace.Close() })
	records, err := parseTrace(data, size)
	if err != nil {
		return nil, err
	}
	return records, os.RemoveAll(r.dir) // the mapping keeps the bytes
}

// mountImage mounts the ext4 in the file at mnt, through a loop device that detaches itself when it is unmounted or this
// process ends. The test's end unmounts, if nobody did before.
func mountImage(t *testing.T, backing *os.File, mnt string) (unmount func() error, err error) {
	device, err := attachLoop(backing)
	if err != nil {
		return nil, err
	}
	defer device.Close() // from here on only the mount keeps the loop device
	// ext4 would flush a file that is renamed over another one by itself, and hide that we forgot to.
	if err := unix.Mount(device.Name(), mnt, "ext4", 0, "noauto_da_alloc,errors=remount-ro"); err != nil {
		return nil, fmt.Errorf("mount %s as ext4: %w", device.Name(), err)
	}
	unmount = sync.OnceValue(func() error {
		err := unix.Unmount(mnt, 0)
		if err != nil {
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
			return fmt.Errorf("unmount the ext4: %w", err)
		}
		return nil
	})
	t.Cleanup(func() { _ = unmount() })
	return unmount, nil
}

// attachLoop puts a loop device with whole sectors over the file. The device's I/O is buffered, not direct: then its driver
// works off one request after the other, and what a flush follows is what it covers.
func attachLoop(backing *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	// Another process may take the free device first.
	for range 32 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: sectorSize, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(config.Info.File_name[:], "immutable-powercut")
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		_ = device.Close()
		if err != unix.EBUSY {
			return nil, fmt.Errorf("attach %s: %w", device.Name(), err)
		}
	}
	return nil, fmt.Errorf("no loop device stays free")
}
