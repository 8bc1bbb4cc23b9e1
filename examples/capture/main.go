// Capture is a small web server whose requests, logins, logged lines, panics and configuration changes are in an Immutable log. What a request
// costs is a write to memory: a writer in the background brings it to the log.
//
//	go run ./examples/capture ADDR DIR
//
// GET / answers, GET /login?user=ann logs somebody in, GET /panic panics; DIR/app.conf is watched; DIR/log is the log.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/filewatch"
	"github.com/tree-of-life-system/immutable/capture/httpcapture"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/event"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], func(addr string) { fmt.Println("http://" + addr) }); err != nil {
		fmt.Fprintln(os.Stderr, "capture:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends; ready is told the address.
func run(ctx context.Context, args []string, ready func(addr string)) (err error) {
	if len(args) != 2 {
		return errors.New("usage: capture ADDR DIR")
	}
	dir := args[1]
	l, err := immutable.Open(filepath.Join(dir, "log"), &immutable.Config{StateDir: filepath.Join(dir, "state")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Drop}) // Block waits, Spool survives
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err = errors.Join(err, w.Close(end))
	}()
	rec := capture.New(w, capture.Config{OnError: func(err error) { fmt.Fprintln(os.Stderr, err) }})
	defer rec.Panic(ctx)
	process, err := rec.StartProcess(ctx, capture.ProcessOptions{Name: "example"})
	if err != nil {
		return err
	}
	files, err := filewatch.New(rec, filewatch.Config{Paths: []string{filepath.Join(dir, "app.conf")}, Kind: event.KindConfiguration})
	if err != nil {
		return err
	}
	watched := make(chan error, 1)
	go func() { watched <- files.Run(ctx) }()
	logger := slog.New(capture.NewHandler(rec, &capture.HandlerOptions{Next: slog.NewTextHandler(os.Stderr, nil)}))
	s := &http.Server{Handler: httpcapture.New(rec, httpcapture.Config{})(routes(rec, logger)), ReadHeaderTimeout: 10 * time.Second}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = s.Shutdown(context.WithoutCancel(ctx)) })
	ready(listener.Addr().String())
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return errors.Join(<-watched, process.Stop(context.WithoutCancel(ctx), "asked to"))
}

func routes(rec *capture.Recorder, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		logger.InfoContext(r.Context(), "greeted", "language", "en", "password", "is left out")
		_, _ = fmt.Fprintln(w, "hello")
	})
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		ann := event.Actor{Type: event.ActorUser, Name: r.URL.Query().Get("user")}
		httpcapture.SetActor(r.Context(), ann)
		if err := rec.Auth(r.Context(), capture.AuthLogin, capture.Authentication{Actor: ann, Method: "example"}); err != nil {
			http.Error(w, "nobody is let in without a record", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("asked to") })
	return mux
}
