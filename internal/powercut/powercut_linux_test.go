package powercut

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

const (
	cuts     = 80 // most of a minute on two cores
	sessions = 5
	diskSize = 48 << 20 // bytes
	prefix   = "immutable-powercut-"

	// cannotMark begins the reason why this machine cannot run the test.
	cannotMark = "this machine cannot: "

	roleVariable = "IMMUTABLE_POWERCUT_ROLE"
	roleRecorder = "recorder" // see serveMedium
	roleInside   = "inside"   // the test itself, in a mount namespace of its own
	dirVariable  = "IMMUTABLE_POWERCUT_DIR"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == roleRecorder {
		if err := serveMedium(os.Getenv(dirVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestAcknowledgedEntriesSurvivePowerCuts runs a log on a real ext4, cuts the power of its disk at many moments, and looks
// whether everything is there that the log had acknowledged and published by then. The seed repeats the choices, not the
// moments at which the kernel wrote.
//
// It finds any fsync of a file that is missing before something stands on it. It cannot find a missing fsync of a directory:
// ext4 commits creates and renames in order with whatever is synced after them. The tests on the fake disk do.
//
// What it mounts, it mounts in a namespace of its own, on a tmpfs: when its processes end, however they end, the kernel takes
// mounts, loop devices and files away.
func TestAcknowledgedEntriesSurvivePowerCuts(t *testing.T) {
	if os.Getenv(roleVariable) == roleInside {
		cutAndCheck(t, os.Getenv(dirVariable))
		return
	}
	skipUnlessPossible(t)
	dir, lock := ownDirectory(t)
	// The parent-death signal is sent when the thread that started the process ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), roleVariable+"="+roleInside, dirVariable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.ExtraFiles = []*os.File{lock}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Skipf("%sstart a process in a mount namespace of its own: %v", cannotMark, err)
	}
	reason := logLines(t, out)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if reason != "" {
		t.Skip(reason)
	}
}

// skipUnlessPossible names what keeps the test from running.
func skipUnlessPossible(t *testing.T) {
	t.Helper()
	if os.Getenv("IMMUTABLE_LONG") == "" {
		t.Skip("a test of minutes: IMMUTABLE_LONG is not set")
	}
	if os.Geteuid() != 0 {
		t.Skip(cannotMark + "only root mounts file systems")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Skip(cannotMark + err.Error())
		}
		_ = f.Close()
	}
	for _, tool := range []string{"mkfs.ext4", "e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(cannotMark + err.Error())
		}
	}
}

// ownDirectory makes an empty directory and locks it for as long as this process or the one inside has it open. It removes
// those that killed runs left: they are empty, for what was mounted on them is gone.
func ownDirectory(t *testing.T) (string, *os.File) {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range old {
		if f, err := os.Open(name); err == nil {
			if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
				t.Logf("left by a killed run: %s, removed: %v", name, os.Remove(name) == nil)
			}
			_ = f.Close()
		}
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	lock, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return dir, lock
}

// logLines logs what the process inside prints, and returns its reason if it could not run.
func logLines(t *testing.T, r io.Reader) (reason string) {
	t.Helper()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		t.Log(lines.Text())
		if _, after, ok := strings.Cut(lines.Text(), cannotMark); ok {
			reason = cannotMark + after
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
		_, _ = io.Copy(io.Discard, r)
	}
	return reason
}

// powerCut is a moment and how likely each sector that was written since the last flush is on the medium.
type powerCut struct {
	moment int64
	kept   float64
}

func cutAndCheck(t *testing.T, dir string) {
	rng := vfstest.Rand(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700"); err != nil {
		t.Skip(cannotMark + fmt.Sprintf("mount a tmpfs: %v", err))
	}
	base, err := makeExt4(filepath.Join(dir, "empty"))
	if err != nil {
		t.Skip(cannotMark + err.Error())
	}
	rec, err := startRecording(t, filepath.Join(dir, "first"), base)
	if err != nil {
		t.Skip(cannotMark + err.Error())
	}
	h := &history{name: "first", rec: rec}
	for range sessions {
		h.session(t, rng, 4, 50)
	}
	records, err := rec.finish(t, diskSize)
	if err != nil {
		t.Fatal(err)
	}
	checkRecording(t, h, records)
	p := newReplay(base, records)
	image := make([]byte, diskSize)
	for i, c := range chooseCuts(rng, h, records) {
		p.forward(c.moment)
		p.cut(image, rng, c.kept)
		expected := h.expect(c.moment)
		twice := i%4 == 3
		t.Run(fmt.Sprintf("cut=%d", i), func(t *testing.T) {
			t.Logf("at %d of %d, %d bytes not flushed, of them kept %.2f; %d entries acknowledged, %d checkpoints",
				c.moment, records[len(records)-1].end, p.unflushed(), c.kept, len(expected.receipts()), len(expected.notes))
			if twice {
				cutRecovery(t, filepath.Join(dir, fmt.Sprintf("again-%d", i)), rng, image, expected)
			} else {
				checkImage(t, filepath.Join(dir, fmt.Sprintf("cut-%d", i)), image, expected)
			}
		})
	}
}

// cutRecovery lets the log recover and go on, on a recorded disk, and cuts the power again.
func cutRecovery(t *testing.T, dir string, rng *rand.Rand, image []byte, expected *expectation) {
	base := slices.Clone(image)
	rec, err := startRecording(t, dir, base)
	if err != nil {
		t.Fatalf("mount the ext4 after the cut: %v", err)
	}
	h := &history{name: "again", rec: rec}
	h.session(t, rng, 2, 8)
	records, err := rec.finish(t, diskSize)
	if err != nil {
		t.Fatal(err)
	}
	opened, p := h.spans[0], newReplay(base, records)
	during := []powerCut{
		{opened.from + rng.Int64N(opened.to-opened.from+1), 1},
		{opened.from + rng.Int64N(opened.to-opened.from+1), rng.Float64()},
		{rng.Int64N(records[len(records)-1].end + 1), 0},
	}
	slices.SortFunc(during, func(a, b powerCut) int { return cmp.Compare(a.moment, b.moment) })
	for i, c := range during {
		p.forward(c.moment)
		t.Logf("again at %d, %d bytes not flushed, of them kept %.2f; the log was opened from %d to %d",
			c.moment, p.unflushed(), c.kept, opened.from, opened.to)
		p.cut(image, rng, c.kept)
		checkImage(t, fmt.Sprintf("%s-cut-%d", dir, i), image, expected.and(h.expect(c.moment)))
	}
}

// checkImage mounts the disk, which replays the ext4's journal, checks the log on it, and then the ext4.
func checkImage(t *testing.T, dir string, image []byte, expected *expectation) {
	mnt := filepath.Join(dir, "mnt")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(mnt, 0o700)); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, image, 0o600); err != nil {
		t.Fatal(err)
	}
	backing, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	unmount, err := mountImage(t, backing, mnt)
	if err != nil {
		t.Fatalf("mount the ext4 after the cut: %v", err)
	}
	defer func() {
		if err := unmount(); err != nil {
			t.Error(err)
			return
		}
		// A disk that ext4 cannot have left behind would prove nothing about the log.
		if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v: %s", err, out)
		}
	}()
	expected.check(t, mnt)
}

// makeExt4 returns a disk with an empty ext4.
func makeExt4(name string) ([]byte, error) {
	defer func() { _ = os.Remove(name) }()
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4",
		"-E", "lazy_itable_init=0,lazy_journal_init=0", name, fmt.Sprintf("%dk", diskSize>>10)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	return os.ReadFile(name)
}

// checkRecording wants a flush between the beginning and the acknowledgement of each append. If flushes did not reach the
// recorder, or entries not the disk, the cuts would test nothing.
func checkRecording(t *testing.T, h *history, records []record) {
	t.Helper()
	var flushes []int64
	for _, r := range records {
		if r.kind == kindFlush {
			flushes = append(flushes, r.end)
		}
	}
	entries := 0
	for _, a := range h.acked() {
		entries += len(a.receipts)
		// The flush's record may have been half in the trace when the append began.
		i, _ := slices.BinarySearch(flushes, a.begun+1)
		if i == len(flushes) || flushes[i] > a.acked {
			t.Errorf("no flush from %d, when %q began, to %d, when it was acknowledged", a.begun, a.messages[0], a.acked)
		}
	}
	t.Logf("%d appends of %d entries; the disk got %d writes and %d flushes, %d bytes",
		len(h.acked()), entries, len(records)-len(flushes), len(flushes), records[len(records)-1].end)
}

// chooseCuts chooses moments, in order: any at all; right after an acknowledgement; where much is written and not flushed; and
// while the log is opened or closed.
func chooseCuts(rng *rand.Rand, h *history, records []record) []powerCut {
	var busy []int64
	var pending int
	for _, r := range records {
		pending += len(r.data)
		if r.kind == kindFlush {
			pending = 0
		}
		if pending >= 4*sectorSize {
			busy = append(busy, r.end)
		}
	}
	acked := h.acked()
	all := make([]powerCut, cuts)
	for i := range all {
		switch i % 4 {
		case 0:
			all[i] = powerCut{records[rng.IntN(len(records))].end, 1}
		case 1:
			all[i] = powerCut{acked[rng.IntN(len(acked))].acked, 0}
		case 2:
			all[i] = powerCut{busy[rng.IntN(len(busy))], rng.Float64()}
		case 3:
			s := h.spans[rng.IntN(len(h.spans))]
			all[i] = powerCut{s.from + rng.Int64N(s.to-s.from+1), rng.Float64()}
		}
	}
	slices.SortFunc(all, func(a, b powerCut) int { return cmp.Compare(a.moment, b.moment) })
	return all
}
