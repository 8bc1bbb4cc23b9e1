package filewatch

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Who wrote is known, also when it has ended since.
func TestProcessThatChangesAFileIsKnown(t *testing.T) {
	dir := t.TempDir()
	k := watch(t, Config{Paths: []string{dir}})
	if k.Method() != "fsnotify, fanotify" {
		t.Skip("this process may not ask the kernel who changes files (CAP_SYS_ADMIN): it is " + k.Method())
	}
	must(t, os.WriteFile(filepath.Join(dir, "ours"), []byte("x"), 0o600))
	e := k.next()
	if at(e.m, "process", "pid") != float64(os.Getpid()) || at(e.m, "process", "executable") == nil || at(e.m, "actor", "id") == nil {
		t.Skipf("the kernel says nothing of this file system: %s", e.Metadata)
	}
	c := exec.Command("/bin/sh", "-c", "echo theirs > theirs; read x || true")
	c.Dir = dir
	in, err := c.StdinPipe()
	must(t, err)
	must(t, c.Start())
	e = k.next()
	in.Close()
	must(t, c.Wait())
	if at(e.m, "process", "pid") != float64(c.Process.Pid) || at(e.m, "process", "command") != "sh" {
		t.Errorf("%s", e.Metadata)
	}
	must(t, os.Rename(filepath.Join(dir, "theirs"), filepath.Join(dir, "moved")))
	if e = k.next(); at(e.m, "process", "pid") != float64(os.Getpid()) {
		t.Errorf("%s", e.Metadata)
	}
}

// What the kernel sends is read within its bounds.
func FuzzKernelEvents(f *testing.F) {
	f.Add(make([]byte, metadataBytes))
	e := make([]byte, metadataBytes+infoHeader+fsidBytes+handleHeader+8+2)
	binary.NativeEndian.PutUint32(e, uint32(len(e)))
	binary.NativeEndian.PutUint16(e[6:], metadataBytes)
	binary.NativeEndian.PutUint32(e[20:], 1)
	e[metadataBytes] = 2
	binary.NativeEndian.PutUint16(e[metadataBytes+2:], uint16(len(e)-metadataBytes))
	binary.NativeEndian.PutUint32(e[metadataBytes+infoHeader+fsidBytes:], 8)
	e[len(e)-2] = 'f'
	f.Add(e)
	w := &witness{dirs: map[string]string{handleKey(0, make([]byte, 8)): "/dir"}, lastOf: map[string]*process{}}
	f.Fuzz(func(_ *testing.T, data []byte) { w.events(data) })
	w.events(e)
	if w.of("/dir/f") == nil {
		f.Error("a good event is not understood")
	}
}
