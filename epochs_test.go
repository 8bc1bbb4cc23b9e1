package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// epochConfig is of a log on a fake disk whose keys are rotated when it is asked to, or when more says.
func epochConfig(d *vfstest.Disk, c *fakeClock, vkeys int, more ...func(*Config)) *Config {
	cfg := diskConfig(d, c)
	cfg.vkeys, cfg.EpochDuration = vkeys, -1
	for _, f := range more {
		f(cfg)
	}
	return cfg
}

func openEpochs(t testing.TB, d *vfstest.Disk, c *fakeClock, vkeys int, more ...func(*Config)) *Log {
	t.Helper()
	l, err := Open(diskDir, epochConfig(d, c, vkeys, more...))
	must(t, err)
	return l
}

func stateKeys() string { return identity.Dir(diskState, "example.com/disk") + "/" + keysDir }

// epochState is what a closed directory must look like at its current epoch, worked out from the files alone: the file
// epochs leads from log.json to keys whose private halves alone are there; each closing checkpoint is the first kept one above
// the entry; every kept checkpoint opens; and RebuildEpochs has nothing to change.
func epochState(d *vfstest.Disk) (current uint64, err error) {
	read := func(name string) []byte {
		data, rerr := vfs.ReadFile(d, name, 1<<30)
		if rerr != nil && !notExist(rerr) {
			err = errors.Join(err, rerr)
		}
		return data
	}
	id, err := identity.ParseLog(read(diskDir + "/" + identity.LogName))
	if err != nil {
		return 0, err
	}
	chain, err := proof.NewChain(id.Origin, id.VKeys)
	if err != nil {
		return 0, err
	}
	notes, err := proof.SplitNotes(read(diskDir + "/" + checkpointsName))
	if err != nil {
		return 0, err
	}
	before := read(diskDir + "/" + epochsName)
	links, err := proof.ParseEpochLinks(before)
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		if err := chain.Add(link); err != nil {
			return 0, err
		}
		p, err := proof.ParseInclusionProof(link.Proof)
		if err != nil {
			return 0, err
		}
		first := slices.IndexFunc(notes, func(n []byte) bool { size, err := sizeOfNote(n); return err == nil && size > p.Index })
		if first < 0 || !bytes.Equal(notes[first], p.Checkpoint) {
			return 0, fmt.Errorf("epoch %d is not closed by the first kept checkpoint above entry %d", link.Number-1, p.Index)
		}
	}
	sizes := map[uint64]bool{}
	for _, n := range append(notes, read(diskDir+"/"+checkpointName)) {
		c, _, err := chain.Open(n, proof.RequireAll)
		if err != nil {
			return 0, err
		}
		if sizes[c.Size] = true; !bytes.Contains(read(diskDir+"/"+checkpointsName), n) {
			return 0, fmt.Errorf("the newest checkpoint, of size %d, is not kept", c.Size)
		}
	}
	have, err := keys.ListEpochs(d, stateKeys())
	if err != nil {
		return 0, err
	}
	current = chain.Current().Number
	want := []uint64{current}
	if len(chain.Current().Keys) == 1 {
		want = nil
	}
	if slices.Contains(have, current+1) { // of a rotation that never came to its entry
		want = append(want, current+1)
	}
	if !slices.Equal(have, want) {
		return 0, fmt.Errorf("private keys of epochs %d are there, want %d", have, want)
	}
	n, err := RebuildEpochs(context.Background(), diskDir, epochConfig(d, newClock(), 3))
	if err != nil || n != len(links) || !bytes.Equal(before, read(diskDir+"/"+epochsName)) {
		return 0, fmt.Errorf("rebuilt %d of %d lines: %w", n, len(links), err)
	}
	return current, err
}

// epochWorkload makes a log with vkeys keys and goes through every way in which its keys are rotated.
func epochWorkload(d *vfstest.Disk, c *fakeClock, h *history, vkeys int) error {
	ctx := context.Background()
	more := func(cfg *Config) { cfg.EpochDuration, cfg.EpochEntries = 24*time.Hour, 500 }
	l, err := Open(diskDir, epochConfig(d, c, vkeys, more))
	if err != nil {
		return err
	}
	reopen := func() error {
		if err := l.Close(); err != nil {
			return err
		}
		l, err = Open(diskDir, epochConfig(d, c, vkeys, more))
		return err
	}
	add := func(n int) func() error { return func() error { return h.append(l, n) } }
	publish := func() error { return l.publisher.publish(false) }
	begin := func() error { return l.beginEpoch(ctx, false) }
	for i, step := range []func() error{
		add(2), publish,
		func() error { return l.RotateKeys(ctx) }, // into an unchanged log
		add(3), publish,
		begin, add(2), publish, // the entry is not the last one under its closing checkpoint
		add(1), begin, begin, // the second closes the first
		reopen,
		func() error { c.add(25 * time.Hour); return h.append(l, 1) }, reopen, // due, and rotated by the close
		add(600), func() error { return l.Rotate(ctx) }, reopen, // by the number of entries; an entry in a sealed segment
		add(1), publish,
	} {
		if err := step(); err != nil {
			return errors.Join(fmt.Errorf("step %d: %w", i, err), l.Close())
		}
	}
	return l.Close()
}

const epochsOfWorkload = 6

func TestEpochWorkloadRotatesAsItShould(t *testing.T) {
	t.Parallel()
	for _, vkeys := range []int{1, 3} {
		d, h := vfstest.New(), &history{}
		must(t, epochWorkload(d, newClock(), h, vkeys))
		if n, err := epochState(d); err != nil || n != epochsOfWorkload {
			t.Errorf("%d keys: %d epochs, want %d: %v", vkeys, n, epochsOfWorkload, err)
		}
	}
}

// TestCrashAtEveryStepOfKeyRotation interrupts the workload before each operation that changes the disk. Whatever was
// published opens under the chain, a rotation that had begun is finished, and the keys rotate again afterwards.
func TestCrashAtEveryStepOfKeyRotation(t *testing.T) {
	t.Parallel()
	for _, vkeys := range []int{1, 3} {
		rng := vfstest.Rand(t)
		d, h, n, failures := vfstest.New(), &history{}, 0, 0
		watch(d, h, func(op vfstest.Op) {
			if n++; failures > 3 || !longTests() && rng.IntN(8*thin) > 0 { // signatures take their time: other points in each run
				return
			}
			kinds := []int{rng.IntN(len(cutKinds))}
			if longTests() {
				kinds = []int{0, 1, 2, 3, 3, 3}
			}
			for _, kind := range kinds {
				seed := rng.Uint64()
				at, then := h.at(func() *vfstest.Disk { return cut(d, kind, vfstest.NewRand(seed)) })
				if err := afterRotation(at, then, vkeys); err != nil {
					failures++
					t.Errorf("%d keys, %s before operation %d, %s %s (seed %d): %v", vkeys, cutKinds[kind%len(cutKinds)], op.N, op.Kind, op.Name, seed, err)
				}
			}
		})
		must(t, epochWorkload(d, newClock(), h, vkeys))
		t.Logf("%d keys: %d operations", vkeys, n)
	}
}

// afterRotation is everything that must hold of the keys after a crash.
func afterRotation(d *vfstest.Disk, h *history, vkeys int) error {
	ctx := context.Background()
	cfg := epochConfig(d, newClock(), vkeys)
	if err := notRefuted(d, newClock()); err != nil {
		return fmt.Errorf("verify before recovery: %w", err)
	}
	l, err := Open(diskDir, cfg)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	use := func() error {
		if err := h.check(l); err != nil {
			return fmt.Errorf("after recovery: %w", err)
		}
		before := l.Epoch()
		if l.waiting() != nil {
			before++
		}
		if err := errors.Join(h.append(l, 1), l.RotateKeys(ctx), h.append(l, 1)); err != nil {
			return fmt.Errorf("use after recovery: %w", err)
		}
		if got := l.Epoch(); got != before+1 {
			return fmt.Errorf("epoch %d follows %d", got, before)
		}
		return nil
	}
	if err := errors.Join(use(), l.Close()); err != nil {
		return err
	}
	if open := d.OpenFiles(); len(open) > 0 {
		return fmt.Errorf("files open after close: %q", open)
	}
	if _, err := epochState(d); err != nil {
		return err
	}
	rep, err := VerifyDir(ctx, diskDir, cfg, VerifyOptions{Indexes: true})
	if err != nil || rep.Verdict != Proven || len(rep.Notes) > 0 {
		return fmt.Errorf("verify after recovery: %+v, %w", rep, err)
	}
	// Once closed, nothing waits and nothing is signed again.
	note, err := d.ReadFileRaw(diskDir + "/" + checkpointName)
	if err != nil {
		return err
	}
	if l, err = Open(diskDir, cfg); err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	err = errors.Join(h.check(l), l.Close())
	if again, rerr := d.ReadFileRaw(diskDir + "/" + checkpointName); rerr != nil || !bytes.Equal(note, again) {
		return errors.Join(err, rerr, errors.New("the same size was signed again"))
	}
	return err
}

// TestErrorAtEveryStepOfKeyRotation lets each operation of a rotation fail, done or not. The same writer, or the next one,
// finishes it.
func TestErrorAtEveryStepOfKeyRotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, vkeys := range []int{1, 3} {
		for _, how := range []error{syscall.ENOSPC, syscall.EIO, vfstest.Persisted(syscall.EIO)} {
			for step := uint64(1); ; step++ {
				if !longTests() && (step%thin != 0 || step%(4*thin) != 0 && how != syscall.ENOSPC) {
					continue
				}
				d, h := vfstest.New(), &history{}
				l := openEpochs(t, d, newClock(), vkeys)
				must(t, h.append(l, 3))
				must(t, l.publisher.publish(false))
				base, hit := d.Ops(), false
				d.SetFail(func(op vfstest.Op) error {
					if op.N == base+step {
						hit = true
						return how
					}
					return nil
				})
				err := l.RotateKeys(ctx)
				d.SetFail(nil)
				if !hit {
					must(t, err)
					must(t, l.Close())
					break
				}
				if err == nil && l.waiting() != nil {
					t.Errorf("%d keys, step %d, %v: no error, and the rotation is not finished", vkeys, step, how)
				}
				_ = h.append(l, 1) // where the writer goes on
				_ = l.RotateKeys(ctx)
				_ = l.Close() // with an error after a failed sync
				if err := afterRotation(d, h, vkeys); err != nil {
					t.Errorf("%d keys, step %d, %v: %v", vkeys, step, how, err)
				}
			}
		}
	}
}

// TestClosedEpochsKeysAreGone looks for the private keys of closed epochs on the disk, also in files without a name.
func TestClosedEpochsKeysAreGone(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3)
	defer l.Close()
	for epoch := range uint64(3) {
		name := fmt.Sprintf("%s/epoch-%d", stateKeys(), epoch)
		f, err := d.Open(name)
		must(t, err)
		secret, err := d.ReadFileRaw(name)
		must(t, err)
		must(t, l.RotateKeys(context.Background()))
		got := make([]byte, len(secret))
		if _, err := f.ReadAt(got, 0); err == nil && !bytes.Equal(got, make([]byte, len(secret))) {
			t.Errorf("epoch %d: its bytes are still there", epoch)
		}
		must(t, f.Close())
		if _, err := d.Stat(name); !notExist(err) {
			t.Errorf("epoch %d: its file is still there: %v", epoch, err)
		}
		if cur := l.CurrentKeys(); len(cur) != 3 || cur[0] != l.VerifierKeys()[0] || slices.Contains(l.VerifierKeys()[1:], cur[1]) {
			t.Errorf("after epoch %d the keys are %q", epoch, cur)
		}
	}
}

// TestOldKeysCannotSignForLaterSizes makes the checkpoint that a thief of closed keys would, for entries beyond them.
func TestOldKeysCannotSignForLaterSizes(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3)
	defer l.Close()
	must(t, (&history{}).append(l, 5))
	stolen, err := keys.LoadEpoch(d, stateKeys(), l.id.Origin, 0)
	must(t, err)
	must(t, l.RotateKeys(context.Background()))
	must(t, (&history{}).append(l, 5))
	root, size := l.Root()
	forged, err := keys.SignCheckpoint(l.signer, stolen, proof.Checkpoint{Origin: l.id.Origin, Size: size, Root: root}, 1)
	must(t, err)
	var stripped *proof.StrippedError
	if _, err := l.OpenCheckpoint(forged); !errors.As(err, &stripped) {
		t.Errorf("opened: %v", err)
	}
	if _, err := l.openSeal(mustSeal(t, stolen)); err != nil {
		t.Errorf("a seal of a closed epoch must stay good: %v", err)
	}
	if note, err := l.signer.Sign("immutable/seal/1\n"); err != nil {
		t.Error(err)
	} else if _, err := l.openSeal(note); err == nil {
		t.Error("the log key alone sealed")
	}
}

func mustSeal(t testing.TB, e *keys.Epoch) []byte {
	t.Helper()
	note, err := keys.SignSeal(e, "immutable/seal/1\n")
	must(t, err)
	return note
}

// TestRotationIsDue sets the clock and the number of entries.
func TestRotationIsDue(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name    string
		cfg     func(*Config)
		elapsed time.Duration
		entries int
		want    bool
	}{
		{"young", func(c *Config) { c.EpochDuration = day }, day - time.Minute, 1, false},
		{"old", func(c *Config) { c.EpochDuration = day }, day + time.Minute, 1, true},
		{"old and idle", func(c *Config) { c.EpochDuration = day }, day + time.Minute, 0, false},
		{"never", func(c *Config) { c.EpochDuration = -1 }, 1000 * day, 1, false},
		{"few entries", func(c *Config) { c.EpochEntries = 10 }, 0, 9, false},
		{"enough entries", func(c *Config) { c.EpochEntries = 10 }, 0, 10, true},
		{"enough entries, for ever", func(c *Config) { c.EpochDuration, c.EpochEntries = -1, 10 }, 0, 10, true},
		{"clock a little back", func(c *Config) { c.EpochDuration = day }, -time.Hour, 1, false},
		{"clock far back", func(c *Config) { c.EpochDuration = day }, -day - time.Minute, 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, c := vfstest.New(), newClock()
			l := openEpochs(t, d, c, 3, tt.cfg)
			defer l.Close()
			must(t, l.RotateKeys(context.Background()))
			for n := range tt.entries {
				must(t, (&history{next: n}).append(l, 1))
			}
			c.add(tt.elapsed)
			if got := l.publisher.rotationDue(); got != tt.want {
				t.Errorf("due is %v", got)
			}
			l.publisher.rotateIfDue()
			must(t, l.publisher.publish(false))
			if got := l.Epoch() == 2; got != tt.want {
				t.Errorf("epoch is %d", l.Epoch())
			}
			if l.publisher.rotationDue() {
				t.Error("due again at once")
			}
		})
	}
}

// TestClockSetBackRotatesOnce lets a clock run a year ahead and then puts it right.
func TestClockSetBackRotatesOnce(t *testing.T) {
	d, c := vfstest.New(), newClock()
	c.add(365 * 24 * time.Hour)
	more := func(cfg *Config) { cfg.EpochDuration = 24 * time.Hour }
	l := openEpochs(t, d, c, 3, more)
	must(t, l.RotateKeys(context.Background()))
	c.add(-365 * 24 * time.Hour)
	for i, want := range []uint64{2, 2, 2, 3} { // the next day it rotates as ever, although entries still hold their timestamp
		if i == 3 {
			c.add(25 * time.Hour)
		}
		must(t, (&history{next: i}).append(l, 1))
		must(t, l.Close())
		l = openEpochs(t, d, c, 3, more)
		if got := l.Epoch(); got != want {
			t.Fatalf("session %d: epoch %d, want %d", i, got, want)
		}
	}
	must(t, l.Close())
}

// TestKeysRotateOnTimeWithoutAppends waits, with a clock that jumps, for the publisher to do it by itself; then for days in
// which nothing happens.
func TestKeysRotateOnTimeWithoutAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := vfstest.New()
		cfg := epochConfig(d, nil, 3)
		cfg.now, cfg.CheckpointInterval, cfg.EpochDuration = time.Now, time.Second, time.Hour
		l, err := Open(diskDir, cfg)
		must(t, err)
		defer func() { must(t, l.Close()) }()
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if got := l.Epoch(); got != 0 {
			t.Errorf("an unused log is in epoch %d", got)
		}
		must(t, (&history{}).append(l, 1)) // overdue: with the next publication
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := l.Epoch(); got != 1 {
			t.Errorf("an overdue log is in epoch %d", got)
		}
		must(t, (&history{}).append(l, 1))
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		if got := l.Epoch(); got != 1 {
			t.Errorf("before its time in epoch %d", got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got, size := l.Epoch(), l.Size(); got != 2 || size != 4 {
			t.Errorf("in epoch %d with %d entries", got, size)
		}
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		if got, size := l.Epoch(), l.Size(); got != 2 || size != 4 {
			t.Errorf("after idle days in epoch %d with %d entries", got, size)
		}
	})
}

// TestFileEpochsIsHealed damages the derived file in several ways; the writer refuses and RebuildEpochs makes it again.
func TestFileEpochsIsHealed(t *testing.T) {
	ctx := context.Background()
	d, h := vfstest.New(), &history{}
	must(t, epochWorkload(d, newClock(), h, 3))
	name := diskDir + "/" + epochsName
	good, err := d.ReadFileRaw(name)
	must(t, err)
	lines := bytes.SplitAfter(good, []byte("\n"))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for what, data := range map[string][]byte{
		"missing": nil, "without its last line": bytes.Join(lines[:epochsOfWorkload-1], nil), "without its first line": bytes.Join(lines[1:], nil),
		"cut in a line": good[:len(good)-9], "with a flipped bit": flipped, "with a line twice": append(bytes.Clone(good), lines[epochsOfWorkload-1]...),
	} {
		d := d.Clone()
		must(t, d.Remove(name))
		if data != nil {
			must(t, d.WriteFileRaw(name, data))
		}
		_, err := Open(diskDir, epochConfig(d, newClock(), 3))
		var refused *RefusedError
		if !errors.Is(err, ErrEpochs) || !errors.As(err, &refused) || !strings.Contains(refused.Next, "immutable rebuild") {
			t.Errorf("%s: %v", what, err)
			continue
		}
		ro := epochConfig(d, newClock(), 3)
		ro.ReadOnly = true
		l, err := Open(diskDir, ro)
		must(t, err)
		short := len(data) == 0 || bytes.HasPrefix(good, data) && bytes.HasSuffix(data, []byte("\n")) // no line of it is wrong
		if err := l.damaged(); err == nil || !strings.Contains(err.Error(), "immutable rebuild") || errors.Is(err, ErrEpochs) == short {
			t.Errorf("%s: a reader is told %v", what, err)
		}
		if e, err := l.Entry(ctx, 0); err != nil || e.Message == "" {
			t.Errorf("%s: a reader gets %v", what, err)
		}
		must(t, l.Close())
		if n, err := RebuildEpochs(ctx, diskDir, epochConfig(d, newClock(), 3)); err != nil || n != epochsOfWorkload {
			t.Errorf("%s: rebuilt %d lines: %v", what, n, err)
		}
		if got, err := d.ReadFileRaw(name); err != nil || !bytes.Equal(got, good) {
			t.Errorf("%s: rebuilt otherwise than it was: %v", what, err)
		}
		if err := afterRotation(d, h.clone(), 3); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRebuildRemakesTheChain changes the file under a writer that is open.
func TestRebuildRemakesTheChain(t *testing.T) {
	ctx := context.Background()
	d, h := vfstest.New(), &history{}
	must(t, epochWorkload(d, newClock(), h, 3))
	name := diskDir + "/" + epochsName
	good, err := d.ReadFileRaw(name)
	must(t, err)
	l := openEpochs(t, d, newClock(), 3)
	must(t, d.WriteFileRaw(name, good[:100]))
	must(t, l.beginEpoch(ctx, false)) // one waits
	if err := l.publisher.publish(true); !errors.Is(err, ErrEpochs) {
		t.Errorf("a line was added to a file that somebody changed: %v", err)
	}
	must(t, d.WriteFileRaw(name, good))
	done, err := l.Rebuild(ctx, nil)
	must(t, err)
	if done.Epochs != epochsOfWorkload+1 || done.Segments == 0 {
		t.Errorf("rebuilt %+v", done)
	}
	must(t, h.append(l, 1))
	must(t, l.Close())
	if n, err := epochState(d); err != nil || n != epochsOfWorkload+1 {
		t.Errorf("%d epochs: %v", n, err)
	}
}

// TestOpenRefusesKeysThatDoNotFit changes what is in the state directory.
func TestOpenRefusesKeysThatDoNotFit(t *testing.T) {
	whole := vfstest.New()
	must(t, epochWorkload(whole, newClock(), &history{}, 3))
	current := fmt.Sprintf("%s/epoch-%d", stateKeys(), epochsOfWorkload)
	other := vfstest.New()
	must(t, openEpochs(t, other, newClock(), 3).Close())
	foreign, err := other.ReadFileRaw(stateKeys() + "/epoch-0")
	must(t, err)
	for _, tt := range []struct {
		name string
		bend func(d *vfstest.Disk)
		want string
	}{
		{"no keys", func(d *vfstest.Disk) { must(t, d.Remove(current)) }, "does not have the private keys of epoch 6"},
		{"keys of another epoch only", func(d *vfstest.Disk) { must(t, d.Rename(current, stateKeys()+"/epoch-5")) }, "or a key file is"},
		{"keys from far ahead", func(d *vfstest.Disk) { must(t, d.WriteFileRaw(stateKeys()+"/epoch-8", foreign)) }, "lines are missing"},
		{"another log's keys", func(d *vfstest.Disk) { must(t, d.WriteFileRaw(current, foreign)) }, "not the ones that the log names"},
		{"half a key file", func(d *vfstest.Disk) { must(t, d.WriteFileRaw(current, foreign[:40])) }, "private key"},
	} {
		d := whole.Clone()
		tt.bend(d)
		before := allFiles(t, d, diskState)
		if _, err := Open(diskDir, epochConfig(d, newClock(), 3)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		for name, data := range before {
			if now, err := d.ReadFileRaw(name); err != nil || !bytes.Equal(now, data) && !strings.HasSuffix(name, "/"+lockName) {
				t.Errorf("%s: %s was changed or removed: %v", tt.name, name, err)
			}
		}
	}
}

// TestEntryWithoutItsKeysIsRefused takes the new keys away between an epoch's entry and its closing checkpoint.
func TestEntryWithoutItsKeysIsRefused(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		d := vfstest.New()
		l := openEpochs(t, d, newClock(), 3)
		must(t, l.beginEpoch(context.Background(), false))
		d = d.Clone() // killed here
		must(t, l.Close())
		must(t, d.Remove(stateKeys()+"/epoch-1"))
		want := "does not have its private keys"
		if foreign {
			_, err := keys.CreateEpoch(d, stateKeys(), "example.com/disk", 1, nil)
			must(t, err)
			want = "not the ones that the log names"
		}
		if _, err := Open(diskDir, epochConfig(d, newClock(), 3)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("opened: %v, want %q", err, want)
		}
	}
}

// TestKeysWithoutTheirEntryAreUsed leaves new keys whose entry never came to be.
func TestKeysWithoutTheirEntryAreUsed(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3)
	first, err := l.nextKeys()
	must(t, err)
	must(t, l.Close())
	l = openEpochs(t, d, newClock(), 3)
	must(t, l.RotateKeys(context.Background()))
	if want := first.VKeys(); !slices.Equal(l.CurrentKeys()[1:], want[:]) {
		t.Error("other keys were made")
	}
	must(t, l.Close())
}

// TestReaderFollowsKeyRotations reads beside a writer that rotates keys again and again.
func TestReaderFollowsKeyRotations(t *testing.T) {
	ctx := context.Background()
	d, c := vfstest.New(), newClock()
	l := openEpochs(t, d, c, 1)
	defer l.Close()
	r, err := Open(diskDir, &Config{StateDir: diskState, ReadOnly: true, fs: d, now: c.now, Hostname: "host"})
	must(t, err)
	defer r.Close()
	for epoch := uint64(1); epoch < 4; epoch++ {
		must(t, (&history{}).append(l, 300))
		must(t, l.RotateKeys(ctx))
		must(t, l.Rotate(ctx))
		must(t, (&history{}).append(l, 1))
		must(t, l.publisher.publish(false))
		note, err := r.Checkpoint()
		must(t, err)
		if got, err := r.OpenCheckpoint(note); err != nil || got.Size != l.Size() {
			t.Errorf("epoch %d: %v, %v", epoch, got, err)
		}
		if s, err := r.Stats(ctx); err != nil || s.CheckpointSize != l.Size() || s.Epoch != epoch || s.Damage != "" {
			t.Errorf("epoch %d: %+v, %v", epoch, s, err)
		}
		if _, err := r.Proof(ctx, 0); err != nil {
			t.Errorf("epoch %d: %v", epoch, err)
		}
		if !slices.Equal(r.CurrentKeys(), l.CurrentKeys()) {
			t.Errorf("epoch %d: the reader has other keys", epoch)
		}
		if x := r.indexFor(0); x == nil {
			t.Errorf("epoch %d: a seal does not open", epoch)
		}
	}
}

// TestUnsignedLogsHaveNoEpochs asks for what needs keys.
func TestUnsignedLogsHaveNoEpochs(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3, func(c *Config) { c.NoSignatures, c.EpochDuration, c.EpochEntries = true, time.Nanosecond, 1 })
	defer l.Close()
	must(t, (&history{}).append(l, 5))
	if err := l.RotateKeys(context.Background()); err == nil || !strings.Contains(err.Error(), "without signatures") {
		t.Errorf("rotated: %v", err)
	}
	if l.publisher.rotationDue() || len(l.CurrentKeys()) > 0 {
		t.Error("it has keys")
	}
}

// TestCondemnedLogDoesNothingMore proves to a writer, by a made-up witness, that it must not go on.
func TestCondemnedLogDoesNothingMore(t *testing.T) {
	d, h := vfstest.New(), &history{}
	l := openEpochs(t, d, newClock(), 3)
	must(t, h.append(l, 3))
	must(t, l.publisher.publish(true))
	must(t, h.append(l, 3))
	before, err := d.ReadFileRaw(diskDir + "/" + checkpointName)
	must(t, err)
	why := &RefusedError{Dir: diskDir, Reason: "a witness has seen more of it", Next: "look"}
	l.condemn(why)
	l.condemn(errors.New("another reason"))
	var refused *RefusedError
	if err := h.append(l, 1); !errors.As(err, &refused) || refused != why {
		t.Errorf("appended: %v", err)
	}
	if err := l.publisher.publish(true); !errors.As(err, &refused) {
		t.Errorf("published: %v", err)
	}
	if err := l.RotateKeys(context.Background()); !errors.As(err, &refused) {
		t.Errorf("rotated: %v", err)
	}
	if err := l.Close(); !errors.As(err, &refused) {
		t.Errorf("closed: %v", err)
	}
	if after, err := d.ReadFileRaw(diskDir + "/" + checkpointName); err != nil || !bytes.Equal(before, after) {
		t.Errorf("something was signed: %v", err)
	}
	head, err := (&Log{cfg: Config{fs: d}, fs: d, state: identity.Dir(diskState, "example.com/disk")}).loadHead()
	if err != nil || head.Clean {
		t.Errorf("the head is %+v: %v", head, err)
	}
}

// TestBehindCheckpointIsCopied interrupts a publication between the history and the checkpoint: what recovery publishes for
// that size is the note that was kept, byte for byte.
func TestBehindCheckpointIsCopied(t *testing.T) {
	d, c := vfstest.New(), newClock()
	l := openEpochs(t, d, c, 3)
	must(t, (&history{}).append(l, 3))
	broken := errors.New("the process ended here")
	d.SetFail(func(op vfstest.Op) error {
		if strings.HasSuffix(op.Name, "/"+nextDir+"/"+checkpointName) {
			return broken
		}
		return nil
	})
	if err := l.publisher.publish(true); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	d.SetFail(nil)
	killed := d.Clone()
	must(t, l.Close())
	history, err := killed.ReadFileRaw(diskDir + "/" + checkpointsName)
	must(t, err)
	notes, err := proof.SplitNotes(history)
	must(t, err)
	c.add(time.Hour)
	must(t, openEpochs(t, killed, c, 3).Close())
	if got, err := killed.ReadFileRaw(diskDir + "/" + checkpointName); err != nil || !bytes.Equal(got, notes[len(notes)-1]) {
		t.Errorf("published %q: %v", got, err)
	}
	if now, err := killed.ReadFileRaw(diskDir + "/" + checkpointsName); err != nil || !bytes.Equal(now, history) {
		t.Errorf("the history changed: %v", err)
	}
}

// TestInterruptedRotationEndsAtOpen leaves a closing checkpoint without its line: a writer that has nothing to publish
// finishes the rotation too, and does not keep keys that are closed.
func TestInterruptedRotationEndsAtOpen(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3)
	d.SetFail(func(op vfstest.Op) error {
		if strings.Contains(op.Name, "/"+nextDir+"/"+epochsName) {
			return syscall.EIO
		}
		return nil
	})
	if err := l.RotateKeys(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.SetFail(nil)
	killed := d.Clone()
	must(t, l.Close())
	l = openEpochs(t, killed, newClock(), 3)
	defer l.Close()
	have, err := keys.ListEpochs(killed, stateKeys())
	if l.Epoch() != 1 || err != nil || !slices.Equal(have, []uint64{1}) {
		t.Errorf("epoch %d, private keys of %d: %v", l.Epoch(), have, err)
	}
}

// TestRebuildEpochsKnowsTheHead makes the chain of a directory that is behind what this host has signed.
func TestRebuildEpochsKnowsTheHead(t *testing.T) {
	ctx := context.Background()
	d, h := vfstest.New(), &history{}
	l := openEpochs(t, d, newClock(), 3)
	must(t, h.append(l, 3))
	must(t, l.RotateKeys(ctx))
	must(t, l.Close())
	older := d.Clone()
	l = openEpochs(t, d, newClock(), 3)
	must(t, h.append(l, 3))
	must(t, l.Close())
	head := identity.Dir(diskState, "example.com/disk") + "/" + identity.HeadName
	data, err := d.ReadFileRaw(head)
	must(t, err)
	must(t, older.WriteFileRaw(head, data))
	must(t, older.Remove(diskDir+"/"+epochsName))
	var refused *RefusedError
	if _, err := RebuildEpochs(ctx, diskDir, epochConfig(older, newClock(), 3)); !errors.As(err, &refused) {
		t.Errorf("rebuilt: %v", err)
	}
	if _, err := older.Stat(diskDir + "/" + epochsName); !notExist(err) {
		t.Errorf("something was written: %v", err)
	}
}

// TestForeignKeysPublishNothing gives the publisher keys that are not the current epoch's.
func TestForeignKeysPublishNothing(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3)
	must(t, (&history{}).append(l, 3))
	before := allFiles(t, d, diskDir)
	other, err := keys.CreateEpoch(vfstest.New(), "keys", l.id.Origin, 0, nil)
	must(t, err)
	own := l.publisher.epoch
	l.publisher.epoch = other
	if err := l.publisher.publish(true); err == nil || !strings.Contains(err.Error(), "does not open") {
		t.Errorf("published: %v", err)
	}
	for _, name := range []string{checkpointName, checkpointsName} {
		if now, err := d.ReadFileRaw(diskDir + "/" + name); err != nil || !bytes.Equal(now, before[diskDir+"/"+name]) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	l.publisher.epoch = own
	must(t, l.Close())
}

// TestHistoryAheadOfTheHeadIsRefused shows a writer a kept checkpoint that its head does not know.
func TestHistoryAheadOfTheHeadIsRefused(t *testing.T) {
	d := vfstest.New()
	l := openEpochs(t, d, newClock(), 3)
	must(t, (&history{}).append(l, 3))
	must(t, l.publisher.publish(true))
	older := d.Clone()
	must(t, (&history{}).append(l, 2))
	must(t, l.publisher.publish(true))
	for _, name := range []string{openName, checkpointsName} {
		data, err := d.ReadFileRaw(diskDir + "/" + name)
		must(t, err)
		must(t, older.WriteFileRaw(diskDir+"/"+name, data))
	}
	must(t, l.Close())
	var refused *RefusedError
	if _, err := Open(diskDir, epochConfig(older, newClock(), 3)); !errors.As(err, &refused) {
		t.Errorf("opened: %v", err)
	}
}

// TestChainBehindTheEntriesIsRefused gives a writer the keys and the file epochs of an earlier epoch, as a restored state
// directory would: the entries name later ones.
func TestChainBehindTheEntriesIsRefused(t *testing.T) {
	ctx := context.Background()
	d, h := vfstest.New(), &history{}
	l := openEpochs(t, d, newClock(), 3)
	must(t, h.append(l, 3))
	must(t, l.RotateKeys(ctx))
	older := d.Clone()
	must(t, h.append(l, 1))
	must(t, l.RotateKeys(ctx))
	must(t, l.beginEpoch(ctx, false))
	killed := d.Clone()
	must(t, l.Close())
	for _, name := range []string{stateKeys() + "/epoch-1", diskDir + "/" + epochsName, diskDir + "/" + checkpointName} {
		data, err := older.ReadFileRaw(name)
		must(t, err)
		must(t, killed.WriteFileRaw(name, data))
	}
	// The history too: what epoch 2 signed would not open.
	history, err := older.ReadFileRaw(diskDir + "/" + checkpointsName)
	must(t, err)
	must(t, killed.WriteFileRaw(diskDir+"/"+checkpointsName, history))
	for _, name := range []string{"/" + identity.HeadName} {
		data, err := older.ReadFileRaw(identity.Dir(diskState, "example.com/disk") + name)
		must(t, err)
		must(t, killed.WriteFileRaw(identity.Dir(diskState, "example.com/disk")+name, data))
	}
	must(t, killed.Remove(stateKeys()+"/epoch-3"))
	if _, err := Open(diskDir, epochConfig(killed, newClock(), 3)); !errors.Is(err, ErrEpochs) || !strings.Contains(err.Error(), "begins epoch 3") {
		t.Errorf("opened: %v", err)
	}
}

// TestSegmentIsSealedAfterItsEpochIsClosed fails to write the file epochs while a segment with the entry waits to be sealed,
// and then loses the process: the entry must still be where recovery looks for it.
func TestSegmentIsSealedAfterItsEpochIsClosed(t *testing.T) {
	ctx := context.Background()
	d, h := vfstest.New(), &history{}
	l := openEpochs(t, d, newClock(), 3, func(c *Config) { c.RotateSize = 1 << 20 })
	must(t, h.append(l, 3))
	must(t, l.beginEpoch(ctx, false))
	must(t, h.append(l, 600))
	full := errors.New("no room for the chain")
	d.SetFail(func(op vfstest.Op) error {
		if strings.Contains(op.Name, "/"+nextDir+"/"+epochsName) {
			return full
		}
		return nil
	})
	for range 2 { // the first seals nothing because publishing fails, the second because the rotation is not finished
		if err := l.Rotate(ctx); !errors.Is(err, full) {
			t.Errorf("sealed: %v", err)
		}
	}
	killed := d.Clone()
	d.SetFail(nil)
	must(t, l.Close())
	if err := afterRotation(killed, h, 3); err != nil {
		t.Error(err)
	}
}

// TestKeysOfAnEarlierEpochAreNotUsedAgain plants a copy of the current key file where the next epoch's keys would be left by an attempt that
// a crash ended. An entry that names them could never be linked.
func TestKeysOfAnEarlierEpochAreNotUsedAgain(t *testing.T) {
	state, dir := t.TempDir(), filepath.Join(t.TempDir(), "logs")
	l, err := Open(dir, &Config{StateDir: state, Origin: "example.com/again"})
	must(t, err)
	_, err = l.Info(t.Context(), "an entry", nil)
	must(t, err)
	data, err := os.ReadFile(l.statePath(keysDir, "epoch-0"))
	must(t, err)
	next := l.statePath(keysDir, "epoch-1")
	must(t, os.WriteFile(next, data, 0o600))
	size := l.Size()
	if err := l.RotateKeys(t.Context()); err == nil || !strings.Contains(err.Error(), "those of an earlier epoch") {
		t.Errorf("rotated to the same keys: %v", err)
	}
	if l.Size() != size {
		t.Errorf("an entry was written: %d entries", l.Size())
	}
	must(t, os.Remove(next))
	must(t, l.RotateKeys(t.Context()))
	must(t, l.Close())
	rep, err := VerifyDir(t.Context(), dir, &Config{StateDir: state}, VerifyOptions{})
	must(t, err)
	if rep.Verdict != Proven {
		t.Errorf("verdict %s: %v", rep.Verdict, rep.Findings)
	}
}
