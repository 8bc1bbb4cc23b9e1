//go:build linux

package immutable

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/index/indextest"
)

// BenchmarkSearchIndexBuild appends the lines of the corpus in batches from four goroutines, in turns in one run, to logs that make search
// indexes when they seal and to logs that do not. burst-ratio is the rate of the appends alone beside the rate without indexes: at least
// 0.95 is wanted. sustained/s counts until the last segment is sealed: at least 250,000 on two cores.
func BenchmarkSearchIndexBuild(b *testing.B) {
	const total, batch, turns = 1_000_000, 1000, 4
	corpus := indextest.New(200_000, 1)
	pool := make([]Event, corpus.Size)
	for i := range pool {
		corpus.Next(&pool[i])
	}
	for b.Loop() {
		var burst, sealed, cpu [2]time.Duration
		for turn := range turns {
			with := (turn + turn/2) % 2 // one, two, two, one: neither is always the first
			dir := b.TempDir()
			cfg := &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench", noSearch: with == 0}
			l, err := Open(filepath.Join(dir, "log"), cfg)
			must(b, err)
			before, start := cpuTime(b), time.Now()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for first := int(next.Add(batch)) - batch; first < total; first = int(next.Add(batch)) - batch {
						if _, err := l.Append(context.Background(), pool[first%len(pool):][:batch]...); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			burst[with] += time.Since(start)
			must(b, l.Rotate(context.Background()))
			must(b, l.sealer.wait(context.Background()))
			sealed[with] += time.Since(start)
			cpu[with] += cpuTime(b) - before
			must(b, l.Close())
			must(b, os.RemoveAll(dir))
		}
		const n = turns / 2 * total
		b.ReportMetric(n/burst[1].Seconds(), "burst/s")
		b.ReportMetric(burst[0].Seconds()/burst[1].Seconds(), "burst-ratio")
		b.ReportMetric(n/sealed[1].Seconds(), "sustained/s")
		b.ReportMetric(n/sealed[0].Seconds(), "sustained-without/s")
		b.ReportMetric(float64(cpu[1].Microseconds())/n, "cpu-us/entry")
		b.ReportMetric(float64(cpu[1].Microseconds()-cpu[0].Microseconds())/n, "index-cpu-us/entry")
	}
}
