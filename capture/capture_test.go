package capture_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/event"
)

// takes is a destination that does what a test says.
type takes func(context.Context, []immutable.Event) error

func (f takes) Append(ctx context.Context, e ...immutable.Event) error { return f(ctx, e) }

func TestEventThatNoEntryHoldsIsRecordedInPart(t *testing.T) {
	l := openLog(t)
	var told []error
	rec := capture.New(capture.Durable(l), capture.Config{OnError: func(err error) { told = append(told, err) }})
	ctx := t.Context()
	big := strings.Repeat("x", immutable.MaxEntryBytes)
	for _, e := range []immutable.Event{
		{Message: "large", Metadata: immutable.Fields{"kept": "yes", "big": big}},
		{Message: "no JSON", Metadata: immutable.Fields{"kept": "yes", "big": make(chan int)}},
		{Message: "bad \xff text", Metadata: immutable.Fields{"kept": "yes"}},
		{Message: "raw", RawMetadata: []byte(`{"kept":"yes","big":"` + big + `"}`)},
		{Message: "raw and broken", RawMetadata: []byte(`{"kept"`)},
		{Message: big},
		{Message: "level", Level: 99, TraceID: "short"},
	} {
		if err := rec.Append(ctx, e); err != nil {
			t.Errorf("%.20q: %v", e.Message, err)
		}
	}
	got := entries(t, l)
	if s := rec.Stats(); len(got) != 7 || s.Recorded != 7 || s.Reduced != 7 || s.Failed != 0 || len(told) != 0 {
		t.Fatalf("%d entries, %+v, told %v", len(got), s, told)
	}
	for i, e := range got {
		m := metadata(t, &e)
		if at(m, "captureReduced", "why") == "" || (at(m, "kept") == "yes") != (i < 4) || at(m, "big") != nil {
			t.Errorf("entry %d: %.300s", i, e.Metadata)
		}
	}
}

// A destination that logs what it does, through a handler that writes to it, ends nevertheless, and so does one that holds a lock.
func TestRecordingWithinRecordingEnds(t *testing.T) {
	var mu sync.Mutex
	var logger *slog.Logger
	n := 0
	rec := capture.New(takes(func(context.Context, []immutable.Event) error {
		mu.Lock()
		defer mu.Unlock()
		n++
		logger.Info("took an event")
		return nil
	}), capture.Config{})
	logger = slog.New(capture.NewHandler(rec, nil))
	logger.Info("one")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { logger.Info("concurrent") })
	}
	wg.Wait()
	if s := rec.Stats(); n != 9 || s.Recorded != 9 || s.Nested != 9 {
		t.Errorf("%d taken, %+v", n, s)
	}
}

func TestCancelledCallIsRecorded(t *testing.T) {
	l := openLog(t)
	rec := capture.New(capture.Durable(l), capture.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := rec.Record(ctx, immutable.Info, "m", event.Shape{Action: event.ActionHTTPCall}); err != nil || len(entries(t, l)) != 1 {
		t.Errorf("%v, %d entries", err, len(entries(t, l)))
	}
}

func TestRefusalIsToldAndCounted(t *testing.T) {
	refused := errors.New("refused")
	var told error
	rec := capture.New(takes(func(context.Context, []immutable.Event) error { return refused }), capture.Config{OnError: func(err error) { told = err }})
	err := rec.Append(t.Context(), immutable.Event{Message: "m"})
	if !errors.Is(err, refused) || !errors.Is(told, refused) || rec.Stats().Failed != 1 {
		t.Errorf("%v, told %v, %+v", err, told, rec.Stats())
	}
}

// Flush waits for what runs beside its caller, and no more than four run at once.
func TestBackgroundIsBoundedAndFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := capture.New(takes(func(context.Context, []immutable.Event) error { return nil }), capture.Config{})
		release := make(chan struct{})
		var mu sync.Mutex
		done := 0
		job := func() {
			<-release
			mu.Lock()
			defer mu.Unlock()
			done++
		}
		for range 4 {
			rec.Background(job)
		}
		fifth := make(chan struct{})
		go func() {
			defer close(fifth)
			rec.Background(job)
		}()
		synctest.Wait()
		select {
		case <-fifth:
			t.Error("a fifth did not run in its caller")
		default:
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := rec.Flush(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("flush while they run: %v", err)
		}
		close(release)
		<-fifth
		if err := rec.Flush(t.Context()); err != nil || done != 5 {
			t.Errorf("%v, %d done", err, done)
		}
		rec.Background(func() { panic("in a job") })
		if err := rec.Flush(t.Context()); err != nil || rec.Stats().Failed != 1 {
			t.Errorf("after a panic: %v, %+v", err, rec.Stats())
		}
	})
}

func TestTextFitsAnEntry(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"plain", 5, "plain"},
		{"longer", 5, "longe… (6 bytes)"},
		{"aé", 2, "a… (3 bytes)"},
		{"日本", 5, "日… (6 bytes)"},
		{"\xff\xfe", 9, "\uFFFD"},
		{"a\xffb", 9, "a\uFFFDb"},
		{"", 0, ""},
		{"x", 0, "… (1 bytes)"},
	} {
		if got := capture.Text(c.in, c.limit); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestAuthenticationSpeaksItsVocabulary(t *testing.T) {
	l := openLog(t)
	rec := capture.New(capture.Durable(l), capture.Config{})
	ctx := t.Context()
	all := capture.AuthActions()
	for _, a := range all {
		if err := rec.Auth(ctx, a, capture.Authentication{
			Actor: event.Actor{Type: event.ActorUser, Name: "ann"}, Method: "oidc", Token: "the-secret-token", TokenID: "t1", TokenScopes: []string{"read"},
			Before: []string{"viewer"}, After: []string{"admin"}, Source: &event.Source{IP: "203.0.113.7"},
		}); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := rec.Auth(ctx, capture.AuthMFAChallenge, capture.Authentication{Failed: true, Reason: "wrong code"}); err != nil {
		t.Error(err)
	}
	if err := rec.Auth(ctx, "login-ish", capture.Authentication{}); err == nil {
		t.Error("a word that is not in the vocabulary was taken")
	}
	got := entries(t, l)
	if len(got) != len(all)+1 {
		t.Fatalf("%d entries of %d", len(got), len(all)+1)
	}
	for i, e := range got {
		s, err := event.Parse(e.Metadata)
		if err != nil || s.Action == "" || strings.Contains(string(e.Line), "the-secret-token") {
			t.Errorf("%s: %v", e.Line, err)
		}
		failed := i == len(all) || all[i] == capture.AuthFailure
		if failed != (s.Outcome == event.OutcomeFailure) || failed && e.Level != immutable.Security {
			t.Errorf("%d: %s %s", i, e.Level, e.Metadata)
		}
	}
	m := metadata(t, &got[0])
	if sum := sha256.Sum256([]byte("the-secret-token")); at(m, "token", "sha256") != hex.EncodeToString(sum[:]) {
		t.Errorf("token %v", at(m, "token"))
	}
	if at(m, "auth", "method") != "oidc" || at(m, "actor", "name") != "ann" || at(m, "source", "ip") != "203.0.113.7" {
		t.Errorf("%v", m)
	}
}

func TestProcessTellsStartStopAndPanic(t *testing.T) {
	l := openLog(t)
	rec := capture.New(capture.Durable(l), capture.Config{})
	p, err := rec.StartProcess(t.Context(), capture.ProcessOptions{Name: "shop", Version: "v1", Args: true, Digest: true, Extra: immutable.Fields{"region": "eu"}})
	if err != nil {
		t.Fatal(err)
	}
	raised := func() (v any) {
		defer func() { v = recover() }()
		defer rec.Panic(t.Context())
		panic("out of cheese")
	}()
	func() {
		defer rec.Panic(t.Context()) // no panic, no record
	}()
	if err := p.Stop(t.Context(), "deployment"); err != nil {
		t.Fatal(err)
	}
	got := entries(t, l)
	if raised != "out of cheese" || len(got) != 3 {
		t.Fatalf("raised %v, %d entries", raised, len(got))
	}
	start, panicked, stop := metadata(t, &got[0]), metadata(t, &got[1]), metadata(t, &got[2])
	if at(start, "action") != event.ActionProcessStart || at(start, "process", "version") != "v1" || len(at(start, "process", "sha256").(string)) != 64 || at(start, "region") != "eu" {
		t.Errorf("%v", start)
	}
	if at(panicked, "panic", "value") != "out of cheese" || got[1].Level != immutable.Critical || !strings.Contains(at(panicked, "panic", "stack").([]any)[0].(string), "TestProcess") {
		t.Errorf("%v", panicked)
	}
	if at(stop, "reason") != "deployment" || at(stop, "target", "name") != "shop" {
		t.Errorf("%v", stop)
	}
}

// The memory that metadata is written in is used again: no event has another's.
func TestEventsOfManyGoroutinesKeepTheirOwnMetadata(t *testing.T) {
	l := openLog(t)
	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Block})
	if err != nil {
		t.Fatal(err)
	}
	rec := capture.New(w, capture.Config{OnError: func(err error) { t.Error(err) }})
	const goroutines, each = 8, 50
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			logger := slog.New(capture.NewHandler(rec, nil))
			for n := range each {
				who := fmt.Sprintf("%d-%d-%s", g, n, strings.Repeat("x", n))
				_ = rec.Auth(t.Context(), capture.AuthLogin, capture.Authentication{Actor: event.Actor{Name: who}, Extra: map[bool]immutable.Fields{true: {"more": who}}[n%2 == 0]})
				logger.Info("logged in: "+who, slog.Group("actor", "name", who))
			}
		})
	}
	all.Wait()
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := entries(t, l)
	if len(got) != 2*goroutines*each {
		t.Fatalf("%d entries, want %d", len(got), 2*goroutines*each)
	}
	for _, e := range got {
		if who := at(metadata(t, &e), "actor", "name"); "logged in: "+fmt.Sprint(who) != e.Message {
			t.Fatalf("the entry %q is about %v", e.Message, who)
		}
	}
}
