//go:build unix

package immutable

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// benchEvent is a typical event of about 270 bytes as a line, its metadata a Go map.
func benchEvent(i int) Event {
	return Event{Level: Level(i % NumLevels), Message: "user signed in", Metadata: Fields{
		"user": "ann.smith@example.com", "ip": fmt.Sprintf("203.0.113.%d", i%250), "attempts": i % 5, "session": i, "ok": i%3 == 0, "path": "/api/v1/session",
	}}
}

func benchLog(b *testing.B) *Log {
	b.Helper()
	dir := b.TempDir()
	l, err := Open(filepath.Join(dir, "log"), &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench"})
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// appendAll appends total events in batches from a number of goroutines.
func appendAll(b *testing.B, l *Log, total, batch, goroutines int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			events := make([]Event, batch)
			for i := range events {
				events[i] = benchEvent(i * 1009)
			}
			for {
				if first := int(next.Add(int64(batch))) - batch; first >= total {
					return
				}
				if _, err := l.Append(context.Background(), events...); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkEpochs appends the same batches, in turns in one run, to logs that sign with one key and never change it, and to
// logs with hybrid keys that are replaced on the way. The ratio of what they
// take is what epochs and ML-DSA cost the append path: at least 0.95 is wanted.
func BenchmarkEpochs(b *testing.B) {
	const total, batch, goroutines, turns = 200_000, 1000, 4, 4
	for b.Loop() {
		var took, cpu [2]time.Duration
		var epochs uint64
		for turn := range 2 * turns {
			hybrid := (turn + turn/2) % 2 // one, two, two, one: neither is always the first
			dir := b.TempDir()
			cfg := &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench", vkeys: 1, EpochDuration: -1}
			if hybrid == 1 {
				cfg.vkeys, cfg.EpochEntries = 3, total/4
			}
			l, err := Open(filepath.Join(dir, "log"), cfg)
			if err != nil {
				b.Fatal(err)
			}
			before, start := cpuTime(b), time.Now()
			appendAll(b, l, total, batch, goroutines)
			took[hybrid] += time.Since(start)
			cpu[hybrid] += cpuTime(b) - before
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			if hybrid == 1 {
				epochs += l.Epoch()
			}
			_ = os.RemoveAll(dir)
		}
		b.ReportMetric(float64(turns*total)/took[1].Seconds(), "entries/s")
		b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "ratio")
		b.ReportMetric(cpu[0].Seconds()/cpu[1].Seconds(), "cpu-ratio") // says more on a machine that does other things too
		b.ReportMetric(float64(epochs)/turns, "epochs")
	}
}

// BenchmarkBatches appends batches of 1,000 events from four goroutines, from Go values to durable, and writes and syncs
// the same number of bytes in writes of the same size in the same run: the floor.
func BenchmarkBatches(b *testing.B) {
	const total, batch, goroutines = 1_000_000, 1000, 4
	for b.Loop() {
		b.StopTimer()
		l := benchLog(b)
		b.StartTimer()
		cpu, start := cpuTime(b), time.Now()
		appendAll(b, l, total, batch, goroutines)
		ours := time.Since(start)
		cpu = cpuTime(b) - cpu
		b.StopTimer()
		s, err := l.Stats(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		sealCPU := cpuTime(b)
		if err := l.sealer.wait(context.Background()); err != nil {
			b.Fatal(err)
		}
		seal := time.Since(start)
		sealCPU = cpuTime(b) - sealCPU
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		_ = os.RemoveAll(l.dir)
		bytes := int64(total) * 270
		commits := l.commits.Load()
		floor := floorTime(b, bytes, bytes/commits)
		b.ReportMetric(total/ours.Seconds(), "entries/s")
		b.ReportMetric(total/floor.Seconds(), "floor/s")
		b.ReportMetric(floor.Seconds()/ours.Seconds(), "of_floor")
		b.ReportMetric(float64(total)/float64(commits), "entries/commit")
		b.ReportMetric(seal.Seconds(), "seal_s")
		b.ReportMetric(float64(cpu.Nanoseconds())/total, "cpu_ns/entry")
		b.ReportMetric(float64(sealCPU.Nanoseconds())/total, "seal_cpu_ns/entry")
		b.ReportMetric(float64(s.Pending), "pending")
		b.StartTimer()
	}
}

// cpuTime is the processor time, user and system, that this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// floorTime writes bytes in writes of the given size, each followed by fdatasync, to one file.
func floorTime(b *testing.B, bytes, size int64) time.Duration {
	b.Helper()
	f, err := vfs.OS().Create(filepath.Join(b.TempDir(), "floor"), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, size)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	start := time.Now()
	for off := int64(0); off < bytes; off += size {
		if _, err := f.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}

// BenchmarkSingle appends one event at a time from a number of goroutines; p50 and p99 are of one append.
func BenchmarkSingle(b *testing.B) {
	for _, goroutines := range []int{1, 256} {
		b.Run(fmt.Sprint(goroutines), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				l := benchLog(b)
				total := 1500 + 150*goroutines
				took := make([]time.Duration, total)
				floor := floorTime(b, 4096*1000, 4096) / 1000
				b.StartTimer()
				start := time.Now()
				var next atomic.Int64
				var wg sync.WaitGroup
				for range goroutines {
					wg.Go(func() {
						for {
							i := int(next.Add(1)) - 1
							if i >= total {
								return
							}
							t := time.Now()
							e := benchEvent(i)
							if _, err := l.Append(context.Background(), e); err != nil {
								b.Error(err)
							}
							took[i] = time.Since(t)
						}
					})
				}
				wg.Wait()
				all := time.Since(start)
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(total)/all.Seconds(), "entries/s")
				b.ReportMetric(float64(total)/all.Seconds()*floor.Seconds(), "x_sync_rate")
				b.ReportMetric(float64(took[total/2].Microseconds()), "p50_us")
				b.ReportMetric(float64(took[total*99/100].Microseconds()), "p99_us")
				b.ReportMetric(took[total/2].Seconds()/floor.Seconds(), "p50/sync")
				b.ReportMetric(took[total*99/100].Seconds()/took[total/2].Seconds(), "p99/p50")
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
