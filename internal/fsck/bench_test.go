package fsck

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// BenchmarkSealed reads a sealed log of realistic lines from the file system.
func BenchmarkSealed(b *testing.B) {
	const segments, each = 4, 64 * groupSize
	k := newBook(b, "example.com/log", true)
	bytes := 0
	for s := range segments {
		for range each / 1024 {
			var lines [][]byte
			for range 1024 {
				at := k.size() + uint64(len(lines))
				e := entry.Event{
					Level: entry.Audit, Message: fmt.Sprintf("user %d read record %d", at%1000, at*7919%100000), Hostname: "web-1.example.com", PID: 4242,
					RawMetadata: fmt.Appendf(nil, `{"user":"u%d","ip":"10.0.%d.%d","ok":true,"ms":%d.5,"path":"/api/v1/records/%d"}`, at%1000, at%200, at%250, at%90, at*7919%100000),
				}
				lines = append(lines, k.line(at, e))
				bytes += len(lines[len(lines)-1]) + 1
			}
			k.batch(lines)
		}
		k.rotate()
		k.publish(true)
		k.seal(uint64(s*each), uint64((s+1)*each))
	}
	k.close()
	dir := b.TempDir()
	for name, data := range k.files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		must(b, os.MkdirAll(filepath.Dir(file), 0o700))
		must(b, os.WriteFile(file, data, 0o600))
	}
	size := k.size()
	k = nil
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, uint64(0)
	verify(b, Options{FS: vfs.OS(), Dir: dir, Progress: func(Progress) {
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc-min(before, m.HeapAlloc))
	}})
	b.SetBytes(int64(bytes))
	for b.Loop() {
		r := verify(b, Options{FS: vfs.OS(), Dir: dir})
		want(b, r, Consistent)
	}
	b.ReportMetric(float64(size)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.ReportMetric(float64(bytes)/float64(size), "B/entry")
}
