package capture_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
)

func TestHandlerDoesWhatSlogDemands(t *testing.T) {
	l := openLog(t)
	h := capture.NewHandler(capture.New(capture.Durable(l), capture.Config{}), nil)
	if err := slogtest.TestHandler(h, func() (out []map[string]any) {
		for _, e := range entries(t, l) {
			m := metadata(t, &e)
			m[slog.MessageKey], m[slog.LevelKey] = e.Message, e.Level.String()
			if !e.EventTime.IsZero() {
				m[slog.TimeKey] = e.EventTime
			}
			out = append(out, m)
		}
		return out
	}); err != nil {
		t.Error(err)
	}
}

func TestLevelsOfSlogBecomeTheLogs(t *testing.T) {
	l := openLog(t)
	h := capture.NewHandler(capture.New(capture.Durable(l), capture.Config{}), &capture.HandlerOptions{Level: slog.LevelDebug, Levels: map[slog.Level]immutable.Level{3: immutable.Revenue}})
	logger := slog.New(h)
	want := map[slog.Level]immutable.Level{
		slog.LevelDebug: immutable.Info, slog.LevelInfo: immutable.Info, 3: immutable.Revenue, slog.LevelWarn: immutable.Warn, 7: immutable.Warn, slog.LevelError: immutable.Error,
		capture.LevelCritical: immutable.Critical, capture.LevelAudit: immutable.Audit, capture.LevelSecurity: immutable.Security, capture.LevelRevenue: immutable.Revenue, capture.LevelSystem: immutable.System, 1000: immutable.System,
	}
	for level := range want {
		logger.Log(t.Context(), level, "m", "level", int(level))
	}
	logger.Log(t.Context(), slog.LevelDebug-1, "too low")
	got := entries(t, l)
	if len(got) != len(want) {
		t.Fatalf("%d entries", len(got))
	}
	for _, e := range got {
		if n := slog.Level(at(metadata(t, &e), "level").(float64)); e.Level != want[n] {
			t.Errorf("%v is %s, want %s", n, e.Level, want[n])
		}
	}
}

type (
	panics   struct{}
	panicsJ  struct{ A int }
	panicsE  struct{}
	embedded struct {
		Name     string
		Password string
		Inner    map[string]any
	}
)

func (panics) LogValue() slog.Value          { panic("LogValue") }
func (panicsJ) MarshalJSON() ([]byte, error) { panic("MarshalJSON") }
func (*panicsE) Error() string               { panic("Error") }

// Whatever is logged is recorded, and nothing of it is a secret.
func TestHostileValuesAreRecordedWithoutSecrets(t *testing.T) {
	l := openLog(t)
	rec := capture.New(capture.Durable(l), capture.Config{})
	logger := slog.New(capture.NewHandler(rec, nil))
	deep := slog.String("leaf", "x")
	for range 200 {
		deep = slog.Group("g", deep)
	}
	cyclic := map[string]any{}
	cyclic["self"] = cyclic
	many := make([]any, 0, 5000)
	for range 2500 {
		many = append(many, "k", "v")
	}
	const secret = "hunter2-hunter2"
	for i, args := range [][]any{
		{"v", panics{}},
		{"v", panicsJ{}},
		{"v", (*panicsE)(nil)},
		{"v", math.NaN()},
		{"v", math.Inf(-1)},
		{"v", make(chan int)},
		{"v", func() {}},
		{"v", cyclic},
		{"v", strings.Repeat("x", 1<<20)},
		{"v", "\xff\xfe"},
		{"\xff", 1},
		{strings.Repeat("k", 1<<20), 1},
		{deep},
		many,
		{"odd"},
		{"v", nil},
		{"v", time.Time{}},
		{"v", time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{"v", []byte("bytes")},
		{"v", errors.New("plain")},
		{"v", json.RawMessage(`{broken`)},
		{"v", bytes.Repeat([]byte("y"), 2<<20)},
		{"password", secret},
		{"db", embedded{"n", secret, map[string]any{"api-key": secret, "list": []any{map[string]any{"Set-Cookie": secret}}}}},
		{slog.Group("auth", "user", secret)},
		{slog.Group("x", "Client_Secret", secret)},
		{"v", struct {
			Password string
			C        chan int
		}{secret, nil}},
	} {
		logger.Info("hostile", args...)
		if got := rec.Stats(); got.Recorded != uint64(i+1) {
			t.Fatalf("%d: %+v", i, got)
		}
	}
	logger.Info(strings.Repeat("m", 1<<20) + "\xff")
	for _, e := range entries(t, l) {
		if strings.Contains(string(e.Line), secret) {
			t.Errorf("a secret: %s", e.Line)
		}
	}
}

// What the log logs about itself goes to the next handler only: recording it could make it log again.
func TestWordsOfTheLogItselfAreNotRecorded(t *testing.T) {
	l := openLog(t)
	var next bytes.Buffer
	h := capture.NewHandler(capture.New(capture.Durable(l), capture.Config{}), &capture.HandlerOptions{Next: slog.NewTextHandler(&next, nil), AddSource: true})
	for _, pc := range []uintptr{reflect.ValueOf((*immutable.Log).Close).Pointer() + 1, reflect.ValueOf(TestWordsOfTheLogItselfAreNotRecorded).Pointer() + 1, 0} {
		if err := h.Handle(t.Context(), slog.NewRecord(time.Now(), slog.LevelWarn, "m", pc)); err != nil {
			t.Fatal(err)
		}
	}
	if got := entries(t, l); len(got) != 2 || strings.Count(next.String(), "msg=m") != 3 || at(metadata(t, &got[0]), "code", "line") == nil {
		t.Errorf("%d entries, next has %q", len(got), next.String())
	}
}

func TestNextHandlerHasItsOwnLevelAndGroups(t *testing.T) {
	l := openLog(t)
	var next bytes.Buffer
	h := capture.NewHandler(capture.New(capture.Durable(l), capture.Config{}), &capture.HandlerOptions{Level: slog.LevelError, Next: slog.NewTextHandler(&next, nil)})
	logger := slog.New(h).With("a", 1).WithGroup("g")
	logger.Info("only next", "b", 2)
	logger.Error("both", "b", 3)
	if got := entries(t, l); len(got) != 1 || at(metadata(t, &got[0]), "g", "b") != 3.0 || !strings.Contains(next.String(), "a=1 g.b=2") {
		t.Errorf("%v, next %q", got, next.String())
	}
	if h.Enabled(context.Background(), slog.LevelDebug) {
		t.Error("enabled below both levels")
	}
}
