//go:build unix

package immutable

import (
	"context"
	"crypto/sha256"
	"runtime"
	"testing"
	"time"
)

// BenchmarkVerify verifies a sealed log of a million entries, and hashes as many bytes with SHA-256 on as many
// goroutines as there are processors: the floor.
func BenchmarkVerify(b *testing.B) {
	const total = 1_000_000
	l := benchLog(b)
	appendAll(b, l, total, 1000, 4)
	if err := l.Rotate(context.Background()); err != nil {
		b.Fatal(err)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		cpu, start := cpuTime(b), time.Now()
		rep, err := VerifyDir(context.Background(), l.dir, &Config{StateDir: l.cfg.StateDir}, VerifyOptions{})
		if err != nil || rep.Verdict != Proven || rep.Entries != total {
			b.Fatalf("%v, %+v", err, rep)
		}
		took := time.Since(start)
		cpu = cpuTime(b) - cpu
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		start = time.Now()
		buf := make([]byte, 270)
		for range total {
			sha256.Sum256(buf)
		}
		floor := time.Since(start) / time.Duration(runtime.GOMAXPROCS(0))
		b.ReportMetric(total/took.Seconds(), "entries/s")
		b.ReportMetric(took.Seconds()/floor.Seconds(), "x_sha256")
		b.ReportMetric(float64(cpu.Nanoseconds())/total, "cpu_ns/entry")
		b.ReportMetric(float64(m.HeapSys>>20), "heap_MiB")
	}
}
