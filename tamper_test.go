package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// tampered is a small log to damage: two sealed groups, and a part of one in the open segment.
type tampered struct {
	d       *vfstest.Disk
	entries []Entry
	signed  uint64 // entries that the head covers
	clean   bool
}

func newTampered(t *testing.T, clean bool) *tampered {
	t.Helper()
	d, h := vfstest.New(), &history{}
	l, err := Open(diskDir, diskConfig(d, newClock()))
	must(t, err)
	must(t, h.append(l, 500))
	must(t, h.append(l, 14))
	must(t, l.Rotate(context.Background()))
	must(t, h.append(l, 3))
	must(t, h.append(l, 20))
	must(t, l.publisher.publish(true))
	x := &tampered{entries: readAll(t, l, Query{}), signed: l.Size(), clean: clean}
	if clean {
		must(t, l.Close())
		x.d = d.Clone()
		return x
	}
	must(t, h.append(l, 4))
	must(t, h.append(l, 5))
	x.entries = readAll(t, l, Query{})
	x.d = d.Clone() // killed
	must(t, l.Close())
	return x
}

// files lists what an attacker would change, the largest last.
func (x *tampered) files(t *testing.T) []string {
	t.Helper()
	var names []string
	for name, data := range allFiles(t, x.d, "") {
		// The records of where a log lay say nothing of its entries: without them a replaced log is not missed, and that is all.
		place := path.Base(name) == placeName || strings.Contains(name, "/"+placesDir+"/")
		if path.Base(name) != lockName && path.Base(name) != reserveName && !place && len(data) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// mayDiffer says that a change of the file need not stop Open or a read, though Verify finds it: it is derived from the
// entries; or Open has no need to look at all of it; or other compressed bytes decode to the same lines.
func mayDiffer(name string) bool {
	return strings.Contains(name, "/archive/") || strings.Contains(name, "/index/") || strings.Contains(name, "/tree/") || name == diskDir+"/chain" || name == diskDir+"/"+checkpointsName
}

// open opens a damaged copy for writing and reads all of it. No entry may come back altered; and either an error says
// what is wrong, or what differs is of no consequence for entries, and Verify still finds it.
func (x *tampered) open(t *testing.T, d *vfstest.Disk, name string) error {
	t.Helper()
	before := allFiles(t, d, "")
	verify := func() (Report, error) {
		rep, err := VerifyDir(context.Background(), diskDir, diskConfig(d.Clone(), newClock()), VerifyOptions{Indexes: true})
		if err != nil {
			return Report{}, err
		}
		return *rep, nil
	}
	tamperedDisk := d.Clone()
	l, err := Open(diskDir, diskConfig(d, newClock()))
	if err != nil {
		return sameEvidence(before, allFiles(t, d, ""))
	}
	err = x.read(l)
	if closeErr := l.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	var altered *alteredError
	if errors.As(err, &altered) || err != nil && !x.clean {
		return err
	}
	if gone := lost(before, allFiles(t, d, "")); gone != "" {
		return fmt.Errorf("%s is gone", gone)
	}
	if err != nil || !x.clean {
		return nil //nolint:nilerr // it was refused, and nothing is gone: that is right
	}
	d = tamperedDisk
	rep, err := verify()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if rep.Verdict != Refuted {
		return fmt.Errorf("opened and read in spite of it, and the verdict is %s", rep.Verdict)
	}
	if !mayDiffer(name) && name != diskDir+"/"+openName {
		return errors.New("opened and read in spite of it")
	}
	return nil
}

type alteredError struct{ got, want Entry }

func (e *alteredError) Error() string {
	return fmt.Sprintf("got altered entry %+v, want %+v", e.got, e.want)
}

// read reads all entries, forwards, backwards and some by index. Of a log that was killed the last batch may be missing.
func (x *tampered) read(l *Log) error {
	var first error
	same := func(e Entry) error {
		if e.Control != nil {
			return nil
		}
		if int(e.Index) >= len(x.entries) || !bytes.Equal(e.Line, x.entries[e.Index].Line) || e.Leaf != x.entries[e.Index].Leaf {
			return &alteredError{e, x.entries[min(int(e.Index), len(x.entries)-1)]}
		}
		return nil
	}
	for _, q := range []Query{{}, {Reverse: true}, {Levels: []Level{Audit}}} {
		n := 0
		for e, err := range l.Entries(context.Background(), q) {
			if err != nil {
				first = err
				break
			}
			if err := same(e); err != nil {
				return err
			}
			n++
		}
		want := len(x.entries)
		if !x.clean {
			want = int(x.signed)
		}
		if len(q.Levels) == 0 && first == nil && n < want {
			return fmt.Errorf("%d entries without an error, want %d", n, want)
		}
	}
	for _, i := range []uint64{0, 300, x.signed - 1} {
		e, err := l.Entry(context.Background(), i)
		if err == nil {
			err = same(e)
		}
		var altered *alteredError
		if errors.As(err, &altered) {
			return err
		}
	}
	if x.clean {
		return first
	}
	return nil
}

// sameEvidence says what a refused Open lost or changed, other than what has no claim.
func sameEvidence(before, after map[string][]byte) error {
	for name, data := range before {
		if strings.Contains(name, "/next/") || path.Base(name) == lockName || path.Base(name) == reserveName {
			continue
		}
		if got, ok := after[name]; !ok || !bytes.Equal(got, data) {
			return fmt.Errorf("a refused open changed %s (there: %v)", name, ok)
		}
	}
	return nil
}

// lost names a file of entries that is not there any more, or shorter.
func lost(before, after map[string][]byte) string {
	for name := range before {
		if _, ok := after[name]; !ok && (strings.Contains(name, "/archive/") || strings.Contains(name, "/quarantine/")) {
			return name
		}
	}
	return ""
}

// sample calls f for the numbers below n, or for some of them in a short run.
func sample(rng *rand.Rand, n, about int, f func(int)) {
	for i := range n {
		if longTests() || n <= about && rng.IntN(thin) == 0 || rng.IntN(n*thin) < about {
			f(i)
		}
	}
}

// TestFlippedByteNeverYieldsAnotherEntry flips bytes of every file, of a log that was closed and of one that was killed.
func TestFlippedByteNeverYieldsAnotherEntry(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	for _, clean := range []bool{true, false} {
		x := newTampered(t, clean)
		for _, name := range x.files(t) {
			data, err := x.d.ReadFileRaw(name)
			must(t, err)
			sample(rng, len(data), 6, func(i int) {
				flipped := bytes.Clone(data)
				flipped[i] ^= 1 << rng.IntN(8)
				d := x.d.Clone()
				must(t, d.WriteFileRaw(name, flipped))
				if err := x.open(t, d, name); err != nil {
					t.Errorf("clean %v: %s, byte %d of %d is %q instead of %q: %v", clean, name, i, len(data), flipped[i], data[i], err)
				}
			})
		}
	}
}

// TestTruncatedFileNeverYieldsAnotherEntry cuts every file, and adds to it.
func TestTruncatedFileNeverYieldsAnotherEntry(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	for _, clean := range []bool{true, false} {
		x := newTampered(t, clean)
		for _, name := range x.files(t) {
			data, err := x.d.ReadFileRaw(name)
			must(t, err)
			sample(rng, len(data), 3, func(i int) {
				d := x.d.Clone()
				must(t, d.WriteFileRaw(name, data[:i]))
				if err := x.open(t, d, name); err != nil {
					t.Errorf("clean %v: %s cut to %d of %d bytes: %v", clean, name, i, len(data), err)
				}
			})
			for _, more := range []string{"\n", "{", "\x00", "{\"id\":", strings.Repeat("x", 70000)} {
				if rng.IntN(thin) > 0 {
					continue
				}
				d := x.d.Clone()
				must(t, d.WriteFileRaw(name, append(bytes.Clone(data), more...)))
				if err := x.open(t, d, name); err != nil {
					t.Errorf("clean %v: %s with %.10q added: %v", clean, name, more, err)
				}
			}
		}
	}
}

// TestDeletedOrSwappedFileNeverYieldsAnotherEntry deletes each file, and puts another log's in its place.
func TestDeletedOrSwappedFileNeverYieldsAnotherEntry(t *testing.T) {
	for _, clean := range []bool{true, false} {
		x, other := newTampered(t, clean), newTampered(t, clean)
		for _, name := range x.files(t) {
			d := x.d.Clone()
			must(t, d.Remove(name))
			if err := x.open(t, d, name); err != nil {
				t.Errorf("clean %v: %s deleted: %v", clean, name, err)
			}
			mine, err := x.d.ReadFileRaw(name)
			must(t, err)
			theirs, err := other.d.ReadFileRaw(name)
			must(t, err)
			if bytes.Equal(mine, theirs) {
				continue
			}
			d = x.d.Clone()
			must(t, d.WriteFileRaw(name, theirs))
			if err := x.open(t, d, name); err != nil {
				t.Errorf("clean %v: %s of another log: %v", clean, name, err)
			}
		}
	}
}

// TestDamagedLogIsReadableAsFarAsItGoes opens damaged logs for reading: what comes back is the original's, an error ends
// it, and no file changes.
func TestDamagedLogIsReadableAsFarAsItGoes(t *testing.T) {
	t.Parallel()
	rng := vfstest.Rand(t)
	x := newTampered(t, true)
	for _, name := range x.files(t) {
		data, err := x.d.ReadFileRaw(name)
		must(t, err)
		sample(rng, len(data)+100, 8, func(i int) {
			i -= 100
			flipped := bytes.Clone(data)
			switch {
			case i >= 0:
				flipped[i] ^= 1 << rng.IntN(8)
			case -i < len(data):
				flipped[-i] ^= 1 << rng.IntN(8) // its beginning more often
			}
			d := x.d.Clone()
			must(t, d.WriteFileRaw(name, flipped))
			if i == 0 && strings.HasPrefix(name, diskDir+"/") && path.Base(name) != "log.json" {
				must(t, d.Remove(name))
			}
			before := allFiles(t, d, "")
			cfg := diskConfig(d, newClock())
			cfg.ReadOnly = true
			l, err := Open(diskDir, cfg)
			if err == nil {
				if err = x.read(l); name == diskDir+"/"+openName && l.Size() < 512 {
					t.Errorf("%s, byte %d: the sealed entries are not readable: size %d, %v", name, i, l.Size(), err)
				}
				must(t, l.Close())
			} else if strings.HasPrefix(name, diskState) || strings.HasPrefix(name, diskDir+"/tree") || strings.Contains(name, "/index/") || name == diskDir+"/chain" {
				t.Errorf("%s, byte %d: not readable: %v", name, i, err)
			}
			var altered *alteredError
			if errors.As(err, &altered) {
				t.Errorf("%s, byte %d: %v", name, i, err)
			}
			if name == diskDir+"/"+openName && l == nil {
				t.Errorf("%s, byte %d: the sealed entries are not readable: %v", name, i, err)
			}
			if err := sameEvidence(before, allFiles(t, d, "")); err != nil {
				t.Errorf("%s, byte %d: %v", name, i, err)
			}
		})
	}
}
