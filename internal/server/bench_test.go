package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// event is what the benchmarks append: an audit event of usual size.
func event(i int) string {
	return `{"level":"AUDIT","message":"GitHub commit created","metadata":{"repo":"tree-of-life-system","sha":"` + fmt.Sprintf("%040x", i) + `","author":"ann@example.com","files":7},"hostname":"build-7.example.com","pid":4711}`
}

// BenchmarkIngestNDJSON sends b.N entries as one NDJSON body and reads every receipt: ns/op is the time of an entry, durable and
// acknowledged. The load generator runs in the same process. floor is Log.Append alone, of the same events in batches of 4096.
func BenchmarkIngestNDJSON(b *testing.B) {
	sv := serve(b, nil)
	block := make([]byte, 0, 1<<20)
	for i := range 4096 {
		block = append(append(block, event(i)...), '\n')
	}
	b.Run("server", func(b *testing.B) {
		r, w := io.Pipe()
		req, err := http.NewRequestWithContext(b.Context(), "POST", "http://"+sv.addr+mainLog+"/entries", r)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+sv.root)
		req.Header.Set("Content-Type", "application/x-ndjson")
		go func() {
			line := len(block) / 4096
			left := b.N
			for left > 0 {
				n := min(left, 4096)
				if _, err := w.Write(block[:n*line]); err != nil {
					return
				}
				left -= n
			}
			_ = w.Close()
		}()
		b.ResetTimer()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		lines, last := 0, ""
		for s := bufio.NewReaderSize(resp.Body, 256<<10); ; lines++ {
			line, err := s.ReadSlice('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if bytes.HasPrefix(line, []byte(`{"done"`)) {
				last = string(line)
			}
		}
		b.StopTimer()
		if lines != b.N+1 || !bytes.HasPrefix([]byte(last), fmt.Appendf(nil, `{"done":true,"accepted":%d,`, b.N)) {
			b.Fatalf("got %d lines, the last %s", lines, last)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
	b.Run("floor", func(b *testing.B) {
		l, err := immutable.Open(b.TempDir(), &immutable.Config{StateDir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		events := make([]immutable.Event, 4096)
		for i := range events {
			events[i] = immutable.Event{
				Level: immutable.Audit, Message: "GitHub commit created", Hostname: "build-7.example.com", PID: 4711,
				RawMetadata: fmt.Appendf(nil, `{"repo":"tree-of-life-system","sha":"%040x","author":"ann@example.com","files":7}`, i),
			}
		}
		b.ResetTimer()
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(b.N))
		for range 2 {
			wg.Go(func() {
				for {
					n := left.Add(-4096) + 4096
					if n <= 0 {
						return
					}
					if _, err := l.Append(context.Background(), events[:min(n, 4096)]...); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	})
}

// rawConn is a keep-alive connection of a load generator that costs little: it writes prepared requests and reads answers with a
// Content-Length.
type rawConn struct {
	net.Conn
	r *bufio.Reader
}

func dialRaw(b *testing.B, addr string) *rawConn {
	c, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &rawConn{c, bufio.NewReaderSize(c, 64<<10)}
}

// exchange sends a request and returns the answer's status and the length of its body.
func (c *rawConn) exchange(request []byte) (status, length int, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, 0, err
	}
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, 0, err
			}
			continue
		}
		if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(n)); err != nil {
				return 0, 0, err
			}
		}
		if len(line) == 0 {
			_, err := c.r.Discard(length)
			return status, length, err
		}
	}
}

// load runs b.N requests over connections and reports requests a second and the 99th percentile of their times.
func load(b *testing.B, connections int, request func(c *rawConn, i int) error, conns []*rawConn) {
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for n := range connections {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				began := time.Now()
				if err := request(conns[n], i); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkAppendOne64 appends one entry a request over 64 connections. floor is 64 goroutines that call Log.Append.
func BenchmarkAppendOne64(b *testing.B) {
	const connections = 64
	b.Run("server", func(b *testing.B) {
		sv := serve(b, nil)
		body := event(1)
		request := fmt.Appendf(nil, "POST %s/entries HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", mainLog, sv.root, len(body), body)
		conns := make([]*rawConn, connections)
		for i := range conns {
			conns[i] = dialRaw(b, sv.addr)
		}
		load(b, connections, func(c *rawConn, _ int) error {
			status, _, err := c.exchange(request)
			if err == nil && status != http.StatusCreated {
				err = fmt.Errorf("status %d", status)
			}
			return err
		}, conns)
	})
	b.Run("floor", func(b *testing.B) {
		l, err := immutable.Open(b.TempDir(), &immutable.Config{StateDir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		e := immutable.Event{Level: immutable.Audit, Message: "GitHub commit created", RawMetadata: []byte(`{"repo":"tree-of-life-system","files":7}`)}
		load(b, connections, func(*rawConn, int) error {
			_, err := l.Append(context.Background(), e)
			return err
		}, make([]*rawConn, connections))
	})
}

// BenchmarkRead100 reads pages of 100 entries from random places of a log of 100,000. floor is Log.Search.
func BenchmarkRead100(b *testing.B) {
	const entries, connections = 100_000, 8
	sv := serve(b, nil)
	l := sv.log("default", "main")
	batch := make([]immutable.Event, 10_000)
	for i := range batch {
		batch[i] = immutable.Event{Level: immutable.Audit, Message: "GitHub commit created", RawMetadata: fmt.Appendf(nil, `{"repo":"tree-of-life-system","sha":"%040x","author":"ann@example.com","files":7}`, i)}
	}
	for range entries / len(batch) {
		if _, err := l.Append(b.Context(), batch...); err != nil {
			b.Fatal(err)
		}
	}
	if err := l.Rotate(b.Context()); err != nil {
		b.Fatal(err)
	}
	place := func(i int) int { return 100 + i*7919%(entries-100) }
	b.Run("server", func(b *testing.B) {
		conns := make([]*rawConn, connections)
		for i := range conns {
			conns[i] = dialRaw(b, sv.addr)
		}
		load(b, connections, func(c *rawConn, i int) error {
			status, length, err := c.exchange(fmt.Appendf(nil, "GET %s/entries?from=%d HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\n\r\n", mainLog, place(i), sv.root))
			if err == nil && (status != http.StatusOK || length < 100*200) {
				err = fmt.Errorf("status %d, %d bytes", status, length)
			}
			return err
		}, conns)
	})
	b.Run("floor", func(b *testing.B) {
		load(b, connections, func(_ *rawConn, i int) error {
			n := 0
			for _, err := range l.Search(context.Background(), immutable.Query{From: uint64(place(i)), Limit: 100}) {
				if err != nil {
					return err
				}
				n++
			}
			if n != 100 {
				return fmt.Errorf("%d entries", n)
			}
			return nil
		}, make([]*rawConn, connections))
	})
}

// BenchmarkBesideATenantAtItsQuota appends 300 single entries a second to one tenant's log, alone, and while another tenant is at its
// quota of 2,000 entries/s: with streams that wait for it, with as many posts as its quota lets through, and with eight
// connections that post on through every refusal, as fast as they can.
func BenchmarkBesideATenantAtItsQuota(b *testing.B) {
	const rate, quota, connections = 300, 2000, 8
	post := func(path, token string) []byte {
		body := event(1)
		return fmt.Appendf(nil, "POST %s/entries HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, token, len(body), body)
	}
	const acme = "/api/v1/tenants/acme/logs/main"
	for _, beside := range []string{"alone", "streams", "posts", "refused"} {
		b.Run(beside, func(b *testing.B) {
			sv := serve(b, nil)
			sv.tenant(tenant.TenantSettings{Name: "acme", Quota: tenant.Quota{EntriesPerSecond: quota}})
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			var refused atomic.Int64
			for range connections {
				switch beside {
				case "streams":
					wg.Go(func() { endlessStream(ctx, b, sv, acme) })
				case "posts", "refused":
					c, request := dialRaw(b, sv.addr), post(acme, sv.root)
					wg.Go(func() {
						for n := 0; ctx.Err() == nil; n++ {
							status, _, err := c.exchange(request)
							if err != nil || status != http.StatusCreated && status != http.StatusTooManyRequests {
								b.Errorf("beside: status %d, %v", status, err)
								return
							}
							if status == http.StatusTooManyRequests {
								refused.Add(1)
							}
							if beside == "posts" {
								time.Sleep(time.Until(time.Now().Add(connections * time.Second / quota)))
							}
						}
					})
				}
			}
			conns := make(chan *rawConn, connections)
			for range connections {
				conns <- dialRaw(b, sv.addr)
			}
			request := post(mainLog, sv.root)
			took := make([]time.Duration, b.N)
			var own sync.WaitGroup
			b.ResetTimer()
			for began, i := time.Now(), 0; i < b.N; i++ {
				due := began.Add(time.Duration(i) * time.Second / rate)
				time.Sleep(time.Until(due))
				own.Go(func() {
					c := <-conns
					status, _, err := c.exchange(request)
					if err != nil || status != http.StatusCreated {
						b.Errorf("status %d, %v", status, err)
					}
					took[i] = time.Since(due) // a queue in front of the server counts
					conns <- c
				})
			}
			own.Wait()
			b.StopTimer()
			stop()
			wg.Wait()
			slices.Sort(took)
			for name, share := range map[string]int{"p50-ms": 50, "p99-ms": 99} {
				b.ReportMetric(float64(took[len(took)*share/100].Microseconds())/1000, name)
			}
			b.ReportMetric(float64(refused.Load())/b.Elapsed().Seconds(), "refused/s")
		})
	}
}

// endlessStream sends lines until ctx ends, as fast as they are taken.
func endlessStream(ctx context.Context, b *testing.B, sv *service, log string) {
	in, out := io.Pipe()
	go func() {
		line := append([]byte(event(1)), '\n')
		for ctx.Err() == nil {
			if _, err := out.Write(line); err != nil {
				break
			}
		}
		_ = out.Close()
	}()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+sv.addr+log+"/entries?receipts=errors", in)
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+sv.root)
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	_ = in.Close()
}
