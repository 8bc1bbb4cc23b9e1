package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/hooks"
)

// BenchmarkWebhooksAtAFixedRate sends 500 signed deliveries of 8 KB a second, whether or not earlier ones were answered, and reports
// how long answers take, each of which means that its entry is durable.
//
//	go test ./internal/server -run - -bench WebhooksAtAFixedRate -benchtime 5000x
func BenchmarkWebhooksAtAFixedRate(b *testing.B) {
	const rate = 500
	h := serveHooks(b, b.TempDir(), time.Now)
	s := h.source(`{"kind":"github","log":"main"}`)
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 64, MaxIdleConnsPerHost: 64}}
	took := make([]time.Duration, b.N)
	var wg sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for i := range b.N {
		due := began.Add(time.Duration(i) * time.Second / rate)
		time.Sleep(time.Until(due))
		wg.Go(func() {
			body := fmt.Appendf(nil, `{"action":"opened","issue":{"number":%d,"title":"t"},"repository":{"full_name":"o/r"},"x":"%s"}`, i, strings.Repeat("payload ", 1000))
			signed, err := hooks.Sign(hooks.GitHub, nil, []byte(s.Secret), body, fmt.Sprint("d-", i), time.Now())
			if err != nil {
				b.Error(err)
				return
			}
			req, err := http.NewRequest("POST", "http://"+h.addr+s.Path, bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			req.Header = signed
			req.Header.Set("X-GitHub-Event", "issues")
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b.Errorf("status %d", resp.StatusCode)
			}
			took[i] = time.Since(due) // from when it was to be sent: a queue in front of the server counts
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "req/s")
}
