package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

func openLocal(t *testing.T) *immutable.Log {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestWriterToALogOfThisProcessDeliversInOrderAndOnce(t *testing.T) {
	l := openLocal(t)
	for _, cfg := range []WriterConfig{{Mode: Block, BatchEntries: 7}, {Mode: Spool, Dir: t.TempDir(), BatchEntries: 7}, {Mode: Drop, BatchEntries: 7}} {
		w, err := NewLogWriter(l, cfg)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		for i := range 100 {
			e := immutable.Event{Level: immutable.Security, Message: fmt.Sprint(cfg.Mode, " ", i), Metadata: immutable.Fields{"n": i}, Hostname: "h", EventTime: at, TraceID: strings.Repeat("a", 32), SpanID: strings.Repeat("b", 16)}
			if err := w.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := 0
		for e, err := range l.Entries(t.Context(), immutable.Query{}) {
			if err != nil {
				t.Fatal(err)
			}
			if rest, found := strings.CutPrefix(e.Message, fmt.Sprint(cfg.Mode, " ")); found {
				if rest != fmt.Sprint(n) || e.Level != immutable.Security || e.Hostname != "h" || !e.EventTime.Equal(at) || e.TraceID != strings.Repeat("a", 32) || string(e.Metadata) != fmt.Sprintf(`{"n":%d}`, n) {
					t.Fatalf("mode %d: entry %d is %s", cfg.Mode, n, e.Line)
				}
				n++
			}
		}
		if n != 100 {
			t.Errorf("mode %d: %d entries", cfg.Mode, n)
		}
	}
}

// What a log refuses for good does not hold up what comes after it; a log that takes nothing keeps it in the spool.
func TestWriterToALogGoesOnWithoutWhatIsRefused(t *testing.T) {
	l := openLocal(t)
	if _, err := l.Append(t.Context(), immutable.Event{Message: "first", IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var told []error
	w, err := NewLogWriter(l, WriterConfig{Mode: Spool, Dir: dir, OnError: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []immutable.Event{{Message: "before"}, {Message: "other content", IdempotencyKey: "k"}, {Message: "after"}} {
		if err := w.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := w.Stats(); s.Delivered != 2 || s.Rejected != 1 {
		t.Errorf("%+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Append(t.Context(), immutable.Event{Message: "late"}); err != nil {
		t.Errorf("the spool takes nothing: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	err = w.Close(ended)
	var conflict *immutable.KeyConflictError
	var left *UndeliveredError
	if !errors.As(err, &left) || left.Events != 1 || !left.Spooled || len(told) != 1 || !errors.As(told[0], &conflict) {
		t.Errorf("%v, told %v", err, told)
	}
	if _, err := NewLogWriter(openLocal(t), WriterConfig{Mode: Spool, Dir: dir}); err == nil || !strings.Contains(err.Error(), "spool") {
		t.Errorf("another log takes the spool: %v", err)
	}
}
