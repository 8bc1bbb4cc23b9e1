//go:build unix

package vfs_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// TestOpenNeverWaitsForAFIFO would hang otherwise.
func TestOpenNeverWaitsForAFIFO(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(name, 0o600))
	if _, err := vfs.OS().Open(name); err == nil {
		t.Error("Open: got no error")
	}
	if _, err := vfs.OS().OpenRW(name); err == nil {
		t.Error("OpenRW: got no error")
	}
	if _, err := vfs.OS().Lock(name, nil); err == nil {
		t.Error("Lock: got no error")
	}
}

func TestStatFollowsSymbolicLinks(t *testing.T) {
	dir := t.TempDir()
	name, link := filepath.Join(dir, "a"), filepath.Join(dir, "l")
	put(t, vfs.OS(), name, "abc")
	must(t, os.Symlink(name, link))
	a, err := vfs.OS().Stat(name)
	must(t, err)
	l, err := vfs.OS().Stat(link)
	must(t, err)
	if a != l || a.Inode == 0 || a.Dev == 0 {
		t.Errorf("got %+v and %+v", a, l)
	}
}

// TestAllocateReservesBlocks: the space is really taken, not a hole.
func TestAllocateReservesBlocks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a")
	f, err := vfs.OS().Create(name, 0o600)
	must(t, err)
	defer f.Close()
	must(t, f.Allocate(1<<20))
	must(t, f.Sync())
	var st unix.Stat_t
	must(t, unix.Stat(name, &st))
	if st.Size != 1<<20 || st.Blocks*512 < 1<<20 {
		t.Errorf("got %d bytes in %d sectors", st.Size, st.Blocks)
	}
}

// lockVariable makes this test binary a process that holds the lock it names until it is killed.
const lockVariable = "VFS_TEST_HOLD_LOCK"

func TestMain(m *testing.M) {
	if name := os.Getenv(lockVariable); name != "" {
		l, err := vfs.OS().Lock(name, []byte("the child"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone, whatever happens
		runtime.KeepAlive(l)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestLockExcludesOtherProcessesUntilTheyDie(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), lockVariable+"="+name)
	in, err := child.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "locked\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	_, err = vfs.OS().Lock(name, []byte("the parent"))
	var locked *vfs.LockedError
	if !errors.As(err, &locked) || string(locked.Holder) != "the child" {
		t.Errorf("got %v, want a LockedError with the child as holder", err)
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // it was killed
	l, err := vfs.OS().Lock(name, []byte("the parent"))
	must(t, err)
	got, err := vfs.ReadFile(vfs.OS(), name, 100)
	if err != nil || string(got) != "the parent" {
		t.Errorf("got holder %q, %v", got, err)
	}
	must(t, l.Close())
}
