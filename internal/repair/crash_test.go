package repair_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/repair"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// damagedDisk is a disk with a log under /log whose archive and open segment are damaged, its state under /state, and a backup.
func damagedDisk(t *testing.T) *vfstest.Disk {
	t.Helper()
	root := t.TempDir()
	l, err := immutable.Open(filepath.Join(root, "log"), &immutable.Config{StateDir: filepath.Join(root, "state"), Origin: "example.com/repair"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := l.Append(t.Context(), immutable.Event{Message: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if i == 260 {
			if err := l.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	disk := vfstest.New()
	for from, to := range map[string]string{"log": "/log", "state": "/state"} {
		load(t, disk, filepath.Join(root, from), to)
	}
	load(t, disk, filepath.Join(root, "log"), "/backup")
	archives, err := disk.ReadDir("/log/archive")
	if err != nil || len(archives) != 1 {
		t.Fatalf("archives %q, %v", archives, err)
	}
	for _, name := range []string{"/log/immutable.log", "/log/archive/" + archives[0]} {
		data, err := vfs.ReadFile(disk, name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
		put(t, disk, name, data)
	}
	return disk
}

// load copies a directory of the machine to the disk, durably.
func load(t *testing.T, disk *vfstest.Disk, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		name := filepath.Join(to, rel)
		if e.IsDir() {
			return vfs.MkdirAll(disk, name, 0o700)
		}
		data, err := os.ReadFile(path)
		if err == nil {
			put(t, disk, name, data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, disk *vfstest.Disk, name string, data []byte) {
	t.Helper()
	if err := vfs.WriteAtomic(disk, name+".tmp", name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func options(disk vfs.FS) repair.Options {
	return repair.Options{FS: disk, Dir: "/log", Backup: "/backup", State: "/state"}
}

// TestCrashDuringRepairLeavesALogThatASecondRunRepairs cuts the power at every operation of a repair. The second run finishes it, and
// the damaged files are in quarantine.
func TestCrashDuringRepairLeavesALogThatASecondRunRepairs(t *testing.T) {
	base := damagedDisk(t)
	whole := base.Clone()
	start := whole.Ops()
	res, err := repair.Run(context.Background(), options(whole))
	if err != nil {
		t.Fatal(err)
	}
	if !res.Repaired || res.Size != 300 || res.Verdict != string(fsck.Proven) || len(res.Replaced) != 2 || len(res.Quarantined) != 2 {
		t.Fatalf("%+v", res)
	}
	steps := whole.Ops() - start
	if steps < 20 {
		t.Fatalf("only %d operations", steps)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for step := range steps {
		disk := base.Clone()
		cut := errors.New("power cut")
		n := 0
		disk.Fail = func(vfstest.Op) error {
			if n++; n > int(step) {
				return cut
			}
			return nil
		}
		if _, err := repair.Run(context.Background(), options(disk)); err == nil {
			t.Fatalf("step %d: it did not notice", step)
		}
		disk.Fail = nil
		after := disk.Crash(rng)
		if _, err := repair.Run(context.Background(), options(after)); err != nil {
			t.Fatalf("step %d: second run: %v", step, err)
		}
		rep, err := fsck.Check(context.Background(), fsck.Options{FS: after, Dir: "/log", State: "/state"})
		if err != nil {
			t.Fatal(err)
		}
		if rep.Verdict != fsck.Proven || rep.Size != 300 {
			t.Fatalf("step %d: %s, %d entries: %v", step, rep.Verdict, rep.Size, rep.Findings)
		}
		kept, err := after.ReadDir("/log/quarantine")
		if err != nil || len(kept) != 2 {
			t.Fatalf("step %d: quarantine has %q, %v", step, kept, err)
		}
	}
}
