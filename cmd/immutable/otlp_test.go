package main

import (
	"bytes"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/otlp"
)

// exportRecords is how many records each export of the load has.
const exportRecords = 3

// exporter sends exports of OpenTelemetry logs, as protobuf or JSON, each again and again until it is acknowledged.
func (l *load) exporter(c int) {
	client := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for n := 0; ; n += exportRecords {
		var records, messages []string
		for i := range exportRecords {
			messages = append(messages, fmt.Sprintf("%d/%d", c, n+i))
			records = append(records, fmt.Sprintf(`{"timeUnixNano":"%d","body":{"stringValue":%q}}`, 1_764_000_000_000_000_000+n+i, messages[i]))
		}
		body, kind := []byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[`+strings.Join(records, ",")+`]}]}]}`), "application/json"
		if c%2 == 0 {
			var err error
			if body, err = otlp.FromJSON(body); err != nil {
				l.t.Error(err)
				return
			}
			kind = "application/x-protobuf"
		}
		for {
			l.mu.Lock()
			s, done := l.urls, l.done
			l.mu.Unlock()
			if done {
				return
			}
			status, err := sendExport(client, s.url, kind, body)
			if err != nil || status == http.StatusServiceUnavailable {
				time.Sleep(time.Millisecond) // it is being killed, or started: the same again
				continue
			}
			if status != http.StatusOK {
				l.t.Errorf("%s: %d", messages[0], status)
				return
			}
			l.mu.Lock()
			for _, m := range messages {
				l.acked[m] = 0
			}
			l.seen += exportRecords
			l.moved.Broadcast()
			l.mu.Unlock()
			break
		}
	}
}

func sendExport(client *http.Client, url, kind string, body []byte) (status int, err error) {
	req, err := http.NewRequest(http.MethodPost, url+"/otlp/default/main/v1/logs", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+testToken)
	req.Header.Set("Content-Type", kind)
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// TestKillNineOfTheServiceWhileLogsAreExported kills the service at random moments while four exporters send OpenTelemetry logs, each
// export again until it is acknowledged. Afterwards each record is there exactly once.
func TestKillNineOfTheServiceWhileLogsAreExported(t *testing.T) {
	rounds := 3
	if os.Getenv("IMMUTABLE_LONG") != "" {
		rounds = 50
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("IMMUTABLE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("IMMUTABLE_SEED=%d", seed)
	rng := mrand.New(mrand.NewPCG(seed, 11))
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"--rotate-size", "65536"}
	s := startService(t, dir, nil, args...)
	l := &load{t: t, urls: s, acked: map[string]uint64{}}
	l.moved = sync.NewCond(&l.mu)
	for c := range 4 {
		l.wg.Go(func() { l.exporter(c) })
	}
	for range rounds {
		l.until(1 + rng.IntN(400))
		time.Sleep(time.Duration(rng.IntN(5000)) * time.Microsecond) // a random moment within whatever it does now
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("it ended by itself: %v\n%s", err, s.said)
		}
		s = startService(t, dir, nil, args...)
		l.move(s)
		if t.Failed() {
			break
		}
	}
	l.until(50)
	acked := l.end()
	t.Logf("%d records acknowledged over %d kills", len(acked), rounds)
	checkOnce(t, s, acked, true)
	s.stop()
}
