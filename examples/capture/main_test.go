package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

func TestWhatHappensIsInTheLog(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	addr := make(chan string, 1)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"127.0.0.1:0", dir}, func(a string) { addr <- a }) }()
	var at string
	select {
	case at = <-addr:
	case err := <-ended:
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/login?user=ann", "/panic"} {
		resp, err := http.Get("http://" + at + path)
		if (err == nil) == (path == "/panic") {
			t.Errorf("%s: %v", path, err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "app.conf"), []byte("a = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	l, err := immutable.Open(filepath.Join(dir, "log"), &immutable.Config{ReadOnly: true, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := map[string]int{}
	for e, err := range l.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		s, err := event.Parse(e.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		seen[s.Action]++
		if e.Message == "greeted" {
			seen["slog"]++
		}
	}
	// The client may have asked again for what panics.
	if seen["slog"] != 1 || seen[event.ActionHTTPRequest] < 3 || seen[event.ActionLogin] != 1 || seen[event.ActionProcessStart] != 1 || seen[event.ActionProcessStop] != 1 {
		t.Errorf("%v", seen)
	}
	if err := run(ctx, nil, nil); err == nil {
		t.Error("a call without arguments is taken")
	}
}
