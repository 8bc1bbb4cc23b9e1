package httpcapture

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
)

// kept is a log of the test, and what records to it.
type log struct {
	*immutable.Log
	t   testing.TB
	rec *capture.Recorder
	mu  sync.Mutex
	err error
}

func openLog(t testing.TB) *log {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	k := &log{Log: l, t: t}
	k.rec = capture.New(capture.Durable(l), capture.Config{OnError: func(err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.err = err
	}})
	t.Cleanup(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.err != nil {
			t.Errorf("recording: %v", k.err)
		}
		_ = l.Close()
	})
	return k
}

// wait returns the first n entries, when there are so many.
func (k *log) wait(n int) (out []immutable.Entry) {
	k.t.Helper()
	for e, err := range k.Subscribe(context.Background(), 0) {
		if err != nil {
			k.t.Fatal(err)
		}
		if e.Control == nil {
			out = append(out, e)
		}
		if len(out) == n {
			break
		}
	}
	return out
}

func metadata(t testing.TB, e *immutable.Entry) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func at(m any, path ...string) any {
	for _, name := range path {
		o, ok := m.(map[string]any)
		if !ok {
			return nil
		}
		m = o[name]
	}
	return m
}
