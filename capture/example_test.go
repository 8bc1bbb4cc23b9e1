package capture_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/event"
)

func Example() {
	dir, err := os.MkdirTemp("", "capture")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := immutable.Open(dir+"/log", &immutable.Config{StateDir: dir + "/state"})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Block})
	if err != nil {
		log.Fatal(err)
	}
	rec := capture.New(w, capture.Config{})

	logger := slog.New(capture.NewHandler(rec, nil))
	logger.Log(context.Background(), capture.LevelAudit, "order shipped", "order", 4711, slog.Group("carrier", "name", "snail"), "api_key", "k-1234")

	ctx := context.Background()
	if err := rec.Auth(ctx, capture.AuthFailure, capture.Authentication{Actor: event.Actor{Name: "ann"}, Method: "password", Reason: "wrong password"}); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(ctx); err != nil {
		log.Fatal(err)
	}
	for e, err := range l.Entries(ctx, immutable.Query{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Level, e.Message, string(e.Metadata))
	}
	// Output:
	// AUDIT order shipped {"order":4711,"carrier":{"name":"snail"},"api_key":"[redacted]"}
	// SECURITY login failed: ann {"kind":"authentication","action":"user.login","outcome":"failure","reason":"wrong password","actor":{"name":"ann"},"auth":{"method":"password"}}
}
