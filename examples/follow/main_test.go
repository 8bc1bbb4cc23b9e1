package main

import (
	"bufio"
	"context"
	"io"
	"log"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

func TestFollowPrintsWhatIsThereAndWhatComes(t *testing.T) {
	dir := t.TempDir()
	config := &immutable.Config{StateDir: filepath.Join(dir, "state")}
	l, err := immutable.Open(filepath.Join(dir, "log"), config)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	add := func(message string) {
		t.Helper()
		if _, err := l.Info(t.Context(), message, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, message := range []string{"zero", "one", "two\x1b[2J"} {
		add(message)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := follow(ctx, log.New(w, "", 0), filepath.Join(dir, "log"), 1, config)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	lines := bufio.NewScanner(r)
	for n, want := range []string{`"one"`, `"two\x1b[2J"`, `"three"`, `"four"`} {
		if n == 2 {
			add("three")
			add("four")
		}
		if !lines.Scan() || !strings.HasSuffix(lines.Text(), want) {
			t.Fatalf("line %d is %q, expected one that ends in %s (%v)", n, lines.Text(), want, lines.Err())
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := start(t.Context(), log.New(io.Discard, "", 0), []string{"a", "b", "c"}); err == nil {
		t.Error("three arguments were taken")
	}
}
