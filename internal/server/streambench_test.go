package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// subscribers opens n streams from the end. each is called with the number of the stream and the index of each entry.
func (sv *service) subscribers(n int, each func(stream int, index uint64)) (ready, done *sync.WaitGroup) {
	sv.t.Helper()
	ready, done = new(sync.WaitGroup), new(sync.WaitGroup)
	ready.Add(n)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 0, ReadBufferSize: 4 << 10}}
	for i := range n {
		done.Go(func() {
			req, err := http.NewRequestWithContext(context.Background(), "GET", "http://"+sv.addr+mainLog+"/stream?from=end", nil)
			if err != nil {
				sv.t.Error(err)
				ready.Done()
				return
			}
			req.Header.Set("Authorization", "Bearer "+sv.root)
			resp, err := client.Do(req)
			if err != nil || resp.StatusCode != 200 {
				sv.t.Errorf("stream %d: %v %v", i, resp, err)
				ready.Done()
				return
			}
			defer resp.Body.Close()
			in := bufio.NewScanner(resp.Body)
			first := true
			for in.Scan() {
				if id, ok := bytes.CutPrefix(in.Bytes(), []byte("id: ")); ok {
					if first { // the id of the place where it begins
						first = false
						ready.Done()
						continue
					}
					index, err := strconv.ParseUint(string(id), 10, 64)
					if err != nil {
						sv.t.Error(err)
					}
					each(i, index)
				}
			}
		})
	}
	return ready, done
}

// Many subscribers of one log get every entry, and the log is read once for all of them.
func TestManySubscribersGetEveryEntry(t *testing.T) {
	const n, entries = 120, 200
	sv := serve(t, nil)
	next := make([]atomic.Uint64, n)
	ready, done := sv.subscribers(n, func(i int, index uint64) {
		if want := next[i].Load(); index != want {
			t.Errorf("stream %d: got entry %d, want %d", i, index, want)
		}
		next[i].Store(index + 1)
	})
	ready.Wait()
	sv.append(sv.log("default", "main"), 0, entries, 3, immutable.Info)
	deadline(t, func() bool {
		for i := range next {
			if next[i].Load() != entries {
				return false
			}
		}
		return true
	}, "everybody to have everything")
	sv.s.streams.mu.Lock()
	if tails := len(sv.s.streams.tails); tails != 1 {
		t.Errorf("%d readers of one log", tails)
	}
	sv.s.streams.mu.Unlock()
	sv.close()
	done.Wait()
}

// BenchmarkThousandSubscribers appends entries one after the other, with a thousand streams that each get every one of them. Clients
// are in this process and share its processors: memory is of both sides.
func BenchmarkThousandSubscribers(b *testing.B) {
	const n = 1000
	sv := serve(b, nil)
	l := sv.log("default", "main")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var mu sync.Mutex
	var delays []time.Duration
	var sent atomic.Int64
	var left atomic.Int64
	all := make(chan struct{}, 1)
	ready, done := sv.subscribers(n, func(i int, _ uint64) {
		took := time.Duration(time.Now().UnixNano() - sent.Load())
		mu.Lock()
		delays = append(delays, took)
		mu.Unlock()
		if left.Add(-1) == 0 {
			all <- struct{}{}
		}
	})
	ready.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ResetTimer()
	for i := range b.N {
		left.Store(n)
		sent.Store(time.Now().UnixNano())
		if _, err := l.Info(b.Context(), fmt.Sprint("event ", i), nil); err != nil {
			b.Fatal(err)
		}
		<-all
	}
	b.StopTimer()
	slices.Sort(delays)
	b.ReportMetric(float64(delays[len(delays)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(int64(after.HeapInuse+after.StackInuse)-int64(before.HeapInuse+before.StackInuse))/n/1024, "KiB/stream-both-sides")
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
	sv.close()
	done.Wait()
}

// BenchmarkExport is how fast entries leave.
func BenchmarkExport(b *testing.B) {
	for _, format := range []string{"jsonl", "csv", "tiles"} {
		b.Run(format, func(b *testing.B) {
			sv := serve(b, nil)
			l := sv.log("default", "main")
			sv.append(l, 0, 100_000, 10_000, immutable.Info)
			if err := l.RotateKeys(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for range b.N {
				body, _, n, err := sv.export(mainLog+"/export?format="+format, sv.root)
				if err != nil || n == "" {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
			}
			b.ReportMetric(float64(l.Size())*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkCatchUp is how fast one stream follows what is there already.
func BenchmarkCatchUp(b *testing.B) {
	sv := serve(b, nil)
	l := sv.log("default", "main")
	const n = 100_000
	sv.append(l, 0, n, 10_000, immutable.Info)
	b.ResetTimer()
	for range b.N {
		s := sv.follow(mainLog+"/stream", sv.root)
		for i := 0; i < n; {
			if e, ok := s.next(); !ok {
				b.Fatal(io.ErrUnexpectedEOF)
			} else if e.kind == "entry" {
				i++
			}
		}
		s.close()
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
