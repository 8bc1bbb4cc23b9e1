//go:build unix

package immutable

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// memory is what the process holds: heap in use and stacks, after a collection.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func TestHundredIdleLogsStayBelowOneHundredMebibytes(t *testing.T) {
	dir := t.TempDir()
	before := memory()
	var logs []*Log
	for i := range 100 {
		l, err := Open(filepath.Join(dir, fmt.Sprint(i)), &Config{StateDir: filepath.Join(dir, "state"), Origin: fmt.Sprintf("example.com/%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, l, 1000, 500) // each has been used
		logs = append(logs, l)
	}
	runtime.GC() // twice: a sync.Pool gives back what it holds in the second
	got := memory() - before
	t.Logf("%d KiB a log", got/100>>10)
	if got > 100<<20 {
		t.Errorf("100 idle logs hold %d MiB", got>>20)
	}
	for _, l := range logs {
		closeTest(t, l)
	}
}

// realistic is an entry as a web application would write it: names, addresses and ids vary, phrases repeat.
func realistic(i int) Event {
	actions := []string{"signed in", "opened invoice", "changed a role", "exported a report", "failed to sign in", "paid an invoice"}
	return Event{Level: Level(i % NumLevels), Message: "user " + actions[i%len(actions)], Metadata: Fields{
		"user": fmt.Sprintf("user%d@example.com", i*7919%5000), "ip": fmt.Sprintf("203.0.%d.%d", i*31%256, i*17%256),
		"request": fmt.Sprintf("req_%08x", uint32(i)*2654435761), "path": fmt.Sprintf("/api/v1/invoices/%d", i*104729%100000),
		"status": []int{200, 200, 200, 403, 500}[i%5], "took_ms": i * 37 % 1500,
	}}
}

func TestSealedLogTakesAtMostAQuarterOfItsLines(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	l := openTest(t, dir, func(c *Config) { c.RotateSize = 16 << 20 })
	var raw int64
	const total = 256 * 600 / thin
	for i := 0; i < total; i += 1024 {
		events := make([]Event, min(1024, total-i))
		for k := range events {
			events[k] = realistic(i + k)
		}
		if _, err := l.Append(context.Background(), events...); err != nil {
			t.Fatal(err)
		}
	}
	for e, err := range l.Entries(context.Background(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		raw += int64(len(e.Line)) + 1
	}
	if err := l.Rotate(context.Background()); err != nil {
		t.Fatal(err)
	}
	closeTest(t, l)
	var stored int64
	err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && filepath.Base(name) != reserveName {
			stored += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of lines, %d stored: %.2f to 1, %.1f bytes an entry", raw, stored, float64(raw)/float64(stored), float64(stored)/total)
	if stored*4 > raw {
		t.Errorf("%d bytes of lines take %d on the disk", raw, stored)
	}
}

// BenchmarkOpenAfterCrash opens a log whose open segment is 100 MiB and whose writer did not close it.
func BenchmarkOpenAfterCrash(b *testing.B) {
	for _, batch := range []int{1, 1000} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			dir := b.TempDir()
			cfg := &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench", RotateSize: 1 << 30}
			l, err := Open(filepath.Join(dir, "log"), cfg)
			if err != nil {
				b.Fatal(err)
			}
			for l.committedBytes.Load() < 100<<20 {
				appendAll(b, l, 100_000, batch, 256/batch+4)
			}
			for b.Loop() {
				b.StopTimer()
				crashed := filepath.Join(b.TempDir(), "log")
				if err := os.CopyFS(crashed, os.DirFS(l.dir)); err != nil {
					b.Fatal(err)
				}
				state := filepath.Join(b.TempDir(), "state")
				if err := os.CopyFS(state, os.DirFS(cfg.StateDir)); err != nil {
					b.Fatal(err)
				}
				forgetInode(b, crashed, state)
				b.StartTimer()
				again, err := Open(crashed, &Config{StateDir: state, RotateSize: 1 << 30})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if again.Size() != l.Size() {
					b.Fatalf("size %d, want %d", again.Size(), l.Size())
				}
				if err := again.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(l.committedBytes.Load()>>20), "MiB")
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// forgetInode makes a copied log the one its copied head knows.
func forgetInode(b *testing.B, dir, state string) {
	b.Helper()
	cfg := &Config{StateDir: state}
	full, err := cfg.withDefaults()
	if err != nil {
		b.Fatal(err)
	}
	l := &Log{cfg: full, fs: full.fs, dir: dir}
	if err := l.readIdentity(); err != nil {
		b.Fatal(err)
	}
	head, err := l.loadHead()
	if err != nil {
		b.Fatal(err)
	}
	head.Inode = 0
	if err := l.writeHead(head); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkColdRead reads one entry, or proves one, of a sealed log of a million entries that was opened just before.
func BenchmarkColdRead(b *testing.B) {
	const total = 1_000_000
	dir := b.TempDir()
	cfg := &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench", RotateSize: 32 << 20}
	l, err := Open(filepath.Join(dir, "log"), cfg)
	if err != nil {
		b.Fatal(err)
	}
	appendAll(b, l, total, 1000, 4)
	if err := l.Rotate(context.Background()); err != nil {
		b.Fatal(err)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		do   func(*Log, uint64) error
	}{
		{"open", func(*Log, uint64) error { return nil }},
		{"entry", func(l *Log, i uint64) error { _, err := l.Entry(context.Background(), i); return err }},
		{"inclusion", func(l *Log, i uint64) error { _, err := l.InclusionProof(context.Background(), i, 0); return err }},
		{"block", func(l *Log, i uint64) error { _, err := l.Block(context.Background(), i); return err }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took time.Duration
			n := 0
			for b.Loop() {
				l, err := Open(filepath.Join(dir, "log"), &Config{StateDir: cfg.StateDir, ReadOnly: true})
				if err != nil {
					b.Fatal(err)
				}
				start := time.Now()
				if err := c.do(l, uint64(n*104729%total)); err != nil {
					b.Fatal(err)
				}
				took += time.Since(start)
				n++
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(took.Microseconds())/float64(n), "us/read")
		})
	}
}

// BenchmarkSustained appends ten million entries in batches of 1,000 from four goroutines and counts until the last
// segment is sealed. It reports the most memory that the process held meanwhile, and what the disk alone would take.
func BenchmarkSustained(b *testing.B) {
	total := 10_000_000
	if os.Getenv("IMMUTABLE_LONG") == "" {
		total = 2_000_000
	}
	for b.Loop() {
		b.StopTimer()
		l := benchLog(b)
		stop, most := make(chan struct{}), make(chan int64)
		go func() { // watches memory
			var m runtime.MemStats
			var high int64
			for {
				select {
				case <-stop:
					most <- high
					return
				case <-time.After(20 * time.Millisecond):
					runtime.ReadMemStats(&m)
					high = max(high, int64(m.Sys-m.HeapReleased))
				}
			}
		}()
		b.StartTimer()
		cpu, start := cpuTime(b), time.Now()
		appendAll(b, l, total, 1000, 4)
		appended := time.Since(start)
		if err := l.Rotate(context.Background()); err != nil {
			b.Fatal(err)
		}
		sealed := time.Since(start)
		cpu = cpuTime(b) - cpu
		b.StopTimer()
		close(stop)
		bytes, commits := l.committedBytes.Load(), l.commits.Load()
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(l.dir); err != nil {
			b.Fatal(err)
		}
		floor := floorTime(b, bytes, bytes/commits)
		b.ReportMetric(float64(total)/appended.Seconds(), "appended/s")
		b.ReportMetric(float64(total)/sealed.Seconds(), "sealed/s")
		b.ReportMetric(float64(total)/floor.Seconds(), "floor/s")
		b.ReportMetric(floor.Seconds()/sealed.Seconds(), "of_floor")
		b.ReportMetric(float64(cpu.Nanoseconds())/float64(total), "cpu_ns/entry")
		b.ReportMetric(float64(<-most>>20), "memory_MiB")
		b.StartTimer()
	}
}
