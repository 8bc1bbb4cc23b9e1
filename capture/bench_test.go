package capture_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/cost"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/event"
)

// background is a writer to a log of the test, and what it costs to give it an event.
func background(b *testing.B) *client.Writer {
	b.Helper()
	l, err := immutable.Open(b.TempDir(), &immutable.Config{StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Drop, MaxBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var left *client.UndeliveredError
		if err := w.Close(ctx); err != nil && !errors.As(err, &left) {
			b.Error(err)
		}
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return w
}

// What a log call costs the application. The work of the log on the other cores is not waited for.
func BenchmarkSlog(b *testing.B) {
	logger := slog.New(capture.NewHandler(capture.New(background(b), capture.Config{}), nil)).With("service", "shop")
	cost.PerCall(b, func() {
		logger.Info("order placed", "order", 4711, "customer", "c-17", slog.Group("amount", "value", 99.5, "currency", "EUR"))
	})
}

func BenchmarkAuth(b *testing.B) {
	rec := capture.New(background(b), capture.Config{})
	ctx := b.Context()
	cost.PerCall(b, func() {
		_ = rec.Auth(ctx, capture.AuthFailure, capture.Authentication{Actor: event.Actor{Type: event.ActorUser, Name: "ann"}, Reason: "wrong password", Method: "password", Source: &event.Source{IP: "203.0.113.42"}})
	})
}
