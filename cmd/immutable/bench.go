package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

const benchUsage = `immutable bench

Measures this machine and disk, and beside each figure the floor: what the same bytes cost in the same batches with nothing but
write and fdatasync, or SHA-256 alone. It works in a temporary directory beside --dir, or in $TMPDIR, and removes it.

  immutable bench --dir /var/log/audit
  immutable bench --entries 1000000 --json

  --entries N            entries of the batch and verify cases (default 200000)
  --singles N            entries of the case with many goroutines (default 20000)
  --syncs N              appends and syncs of the case with one goroutine (default 500)` + dirFlags + commonFlags

func setupBench(c *call) func() error {
	c.dirFlags()
	b := &bench{c: c}
	c.set.IntVar(&b.entries, "entries", 200_000, "")
	c.set.IntVar(&b.singles, "singles", 20_000, "")
	c.set.IntVar(&b.syncs, "syncs", 500, "")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		if b.entries%benchBatch != 0 || b.entries < 4*benchBatch || b.singles < benchMany || b.syncs < 10 {
			return c.usagef("--entries is a multiple of %d and at least %d, --singles at least %d, --syncs 10", benchBatch, 4*benchBatch, benchMany)
		}
		return b.run()
	}
}

const (
	benchBatch   = 1000
	benchWriters = 4
	benchMany    = 256
)

// bench is one run. Sizes are numbers of entries.
type bench struct {
	c                       *call
	entries, singles, syncs int
	dir                     string
	cases                   []benchCase
}

// benchCase is one line of the table. Ratio is ours to the floor; for times, lower is better.
type benchCase struct {
	Name  string             `json:"name"`
	Unit  string             `json:"unit"`
	Ours  float64            `json:"ours"`
	Floor float64            `json:"floor"`
	Ratio float64            `json:"ratio"`
	More  map[string]float64 `json:"more,omitempty"`
	note  string
}

func (b *bench) run() (err error) {
	parent := os.TempDir()
	if b.c.dir != defaultDir {
		parent = filepath.Dir(filepath.Clean(b.c.dir))
	}
	if b.dir, err = os.MkdirTemp(parent, "immutable-bench-"); err != nil {
		return err
	}
	defer func() {
		if rerr := os.RemoveAll(b.dir); err == nil && rerr != nil {
			err = rerr
		}
	}()
	for _, step := range []struct {
		what string
		run  func() error
	}{{"batches", b.batches}, {"one at a time, many goroutines", b.many}, {"one at a time, one goroutine", b.single}, {"verify", b.verify}} {
		if err := b.c.ctx.Err(); err != nil {
			return err
		}
		b.c.remark("measuring: %s\n", step.what)
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return b.print(parent)
}

func (b *bench) open(name string) (*immutable.Log, error) {
	return immutable.Open(filepath.Join(b.dir, name), &immutable.Config{StateDir: filepath.Join(b.dir, "state"), Origin: "bench.example/" + name})
}

// benchEvent is what an application might log.
func benchEvent(i int) immutable.Event {
	return immutable.Event{Level: immutable.Audit, Message: "user signed in", Metadata: immutable.Fields{
		"user": fmt.Sprintf("user%05d", i%50_000), "ip": fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), "method": "password+totp",
		"session": fmt.Sprintf("%016x", uint64(i)*0x9e3779b97f4a7c15), "attempt": i % 3,
	}}
}

// batches: benchWriters goroutines, each appending benchBatch events at a time.
func (b *bench) batches() error {
	l, err := b.open("batches")
	if err != nil {
		return err
	}
	// The events are made before; an append leaves them as they are, so that some serve again.
	events := make([]immutable.Event, min(b.entries, 32*benchBatch))
	for i := range events {
		events[i] = benchEvent(i)
	}
	start := time.Now()
	err = inParallel(benchWriters, func(w int) error {
		for i := w * benchBatch; i < b.entries; i += benchWriters * benchBatch {
			from := i % len(events)
			if _, err := l.Append(b.c.ctx, events[from:from+benchBatch]...); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(start)
	if err != nil {
		return err
	}
	raw, err := rawBytes(b.c.ctx, l)
	if err != nil {
		return err
	}
	if err := l.Rotate(b.c.ctx); err != nil {
		return err
	}
	sealedAt := time.Since(start)
	if err := l.Close(); err != nil {
		return err
	}
	floor, err := b.floor(raw, (b.entries+benchBatch-1)/benchBatch)
	if err != nil {
		return err
	}
	kept, err := dirBytes(filepath.Join(b.dir, "batches"))
	if err != nil {
		return err
	}
	rate, floorRate := float64(b.entries)/took.Seconds(), float64(b.entries)/floor.Seconds()
	b.cases = append(b.cases, benchCase{
		Name: "4 goroutines, batches of 1,000", Unit: "entries/s", Ours: rate, Floor: floorRate, Ratio: rate / floorRate,
		More: map[string]float64{
			"bytesPerEntry": float64(raw) / float64(b.entries), "untilSealed": float64(b.entries) / sealedAt.Seconds(),
			"sealedShare": float64(kept) / float64(raw),
		},
		note: fmt.Sprintf("%s an entry; until sealed %s/s; sealed, everything counted: %.0f%% of the JSON", size(raw/int64(b.entries)), count(uint64(float64(b.entries)/sealedAt.Seconds())), 100*float64(kept)/float64(raw)),
	})
	return nil
}

// rawBytes is the length of all lines.
func rawBytes(ctx context.Context, l *immutable.Log) (int64, error) {
	// The lines of this case differ by a few bytes at most: a sample gives their length.
	const sample = 1024
	total, n := int64(0), int64(0)
	for e, err := range l.Entries(ctx, immutable.Query{Limit: sample}) {
		if err != nil {
			return 0, err
		}
		total += int64(len(e.Line)) + 1
		n++
	}
	return total * int64(l.Size()) / n, nil
}

// floor writes that many bytes in that many writes, each with its fdatasync.
func (b *bench) floor(total int64, writes int) (time.Duration, error) {
	fsys := vfs.OS()
	name := filepath.Join(b.dir, "floor")
	f, err := fsys.Create(name, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := []byte(strings.Repeat("0123456789abcde\n", int(total/int64(writes))/16+1))
	start := time.Now()
	offset := int64(0)
	for range writes {
		if _, err := f.WriteAt(buf, offset); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		offset += int64(len(buf))
	}
	took := time.Since(start)
	return took, fsys.Remove(name)
}

// many: benchMany goroutines, each appending one event at a time.
func (b *bench) many() error {
	l, err := b.open("many")
	if err != nil {
		return err
	}
	times := make([]time.Duration, b.singles)
	var next counter
	start := time.Now()
	err = inParallel(benchMany, func(int) error {
		for {
			i := next.take()
			if i >= len(times) {
				return nil
			}
			began := time.Now()
			if _, err := l.Append(b.c.ctx, benchEvent(i)); err != nil {
				return err
			}
			times[i] = time.Since(began)
		}
	})
	took := time.Since(start)
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	syncs, err := b.syncTimes()
	if err != nil {
		return err
	}
	var total time.Duration
	for _, t := range syncs {
		total += t
	}
	rate, floorRate := float64(b.singles)/took.Seconds(), float64(len(syncs))/total.Seconds()
	p50, p99 := quantile(times, 0.50), quantile(times, 0.99)
	b.cases = append(b.cases, benchCase{
		Name: "256 goroutines, one at a time", Unit: "entries/s", Ours: rate, Floor: floorRate, Ratio: rate / floorRate,
		More: map[string]float64{"p50Milliseconds": milliseconds(p50), "p99Milliseconds": milliseconds(p99)},
		note: fmt.Sprintf("floor: 4 KiB appends with fdatasync; p50 %s, p99 %s", p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond)),
	})
	return nil
}

// syncTimes are those of 4 KiB appends, each with its fdatasync.
func (b *bench) syncTimes() ([]time.Duration, error) {
	fsys := vfs.OS()
	name := filepath.Join(b.dir, "syncs")
	f, err := fsys.Create(name, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := []byte(strings.Repeat("0123456789abcde\n", 4096/16))
	times := make([]time.Duration, b.syncs)
	for i := range times {
		start := time.Now()
		if _, err := f.WriteAt(buf, int64(i)*int64(len(buf))); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		times[i] = time.Since(start)
	}
	return times, fsys.Remove(name)
}

// single: one goroutine, one event at a time.
func (b *bench) single() error {
	l, err := b.open("single")
	if err != nil {
		return err
	}
	times := make([]time.Duration, b.syncs)
	for i := range times {
		start := time.Now()
		if _, err := l.Append(b.c.ctx, benchEvent(i)); err != nil {
			return err
		}
		times[i] = time.Since(start)
	}
	if err := l.Close(); err != nil {
		return err
	}
	syncs, err := b.syncTimes()
	if err != nil {
		return err
	}
	ours, floor := milliseconds(quantile(times, 0.5)), milliseconds(quantile(syncs, 0.5))
	b.cases = append(b.cases, benchCase{
		Name: "1 goroutine, one at a time", Unit: "ms, p50", Ours: ours, Floor: floor, Ratio: ours / floor,
		More: map[string]float64{"p99Milliseconds": milliseconds(quantile(times, 0.99)), "floorP99Milliseconds": milliseconds(quantile(syncs, 0.99))},
		note: "floor: 4 KiB append with fdatasync; lower is better",
	})
	return nil
}

// verify reads the log of the first case; the floor is SHA-256 of as many bytes on as many processors.
func (b *bench) verify() error {
	dir := filepath.Join(b.dir, "batches")
	rep, err := immutable.VerifyDir(b.c.ctx, dir, &immutable.Config{StateDir: filepath.Join(b.dir, "state")}, immutable.VerifyOptions{})
	if err != nil {
		return err
	}
	if rep.Verdict != immutable.Proven {
		return evidence("the log that was just written is %s", rep.Verdict)
	}
	line := []byte(strings.Repeat("x", 250))
	workers := runtime.GOMAXPROCS(0)
	start := time.Now()
	if err := inParallel(workers, func(int) error {
		for range b.entries / workers {
			_ = sha256.Sum256(line)
		}
		return nil
	}); err != nil {
		return err
	}
	floor := time.Since(start)
	rate, floorRate := float64(rep.Entries)/rep.Duration.Seconds(), float64(b.entries)/floor.Seconds()
	b.cases = append(b.cases, benchCase{
		Name: "verify", Unit: "entries/s", Ours: rate, Floor: floorRate, Ratio: rate / floorRate,
		note: fmt.Sprintf("floor: SHA-256 of 250 bytes an entry on %s", plural(workers, "processor")),
	})
	return nil
}

func (b *bench) print(parent string) error {
	if b.c.json {
		return b.c.answer(struct {
			Dir        string      `json:"dir"`
			Go         string      `json:"go"`
			Processors int         `json:"processors"`
			Cases      []benchCase `json:"cases"`
		}{parent, runtime.Version(), runtime.GOMAXPROCS(0), b.cases})
	}
	b.c.out.printf("%s  %12s  %12s  %6s\n", styled{code: bold, text: fmt.Sprintf("on %s, %s", parent, plural(runtime.GOMAXPROCS(0), "processor")), width: 32}, "ours", "floor", "ratio")
	for _, x := range b.cases {
		b.c.out.printf("%s  %12s  %12s  %6s  %s\n", styled{text: x.Name, width: 32}, figure(x.Ours), figure(x.Floor), fmt.Sprintf("%.2f", x.Ratio), x.Unit)
		b.c.out.printf("%s\n", paint(dim, "    "+x.note))
	}
	return nil
}

func figure(v float64) string {
	if v < 1000 {
		return fmt.Sprintf("%.3f", v)
	}
	return count(uint64(v))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func quantile(times []time.Duration, q float64) time.Duration {
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	return sorted[int(q*float64(len(sorted)-1))]
}

// counter hands out numbers to goroutines.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) take() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n - 1
}

// inParallel runs f n times at once and returns the first error.
func inParallel(n int, f func(worker int) error) error {
	errs := make(chan error, n)
	for w := range n {
		go func() { errs <- f(w) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func dirBytes(dir string) (int64, error) {
	var total int64
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Name() != "reserve" {
			total += info.Size()
		}
		return err
	})
	return total, err
}
