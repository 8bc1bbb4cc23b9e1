package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// TestKillCollect kills `immutable collect` at random moments while files grow and are rotated. Afterwards each line is in the log
// once.
func TestKillCollect(t *testing.T) {
	rounds := 5
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
	rng := rand.New(rand.NewPCG(seed, 3))
	dir, logs, state := t.TempDir(), filepath.Join(t.TempDir(), "logs"), t.TempDir()
	args := []string{"collect", filepath.Join(dir, "a.log*"), "--dir", logs, "--state-dir", state, "--rotate-size", "65536", "--quiet", "--poll", "10ms"}
	n := 0
	write := func(k int) {
		f, err := os.OpenFile(filepath.Join(dir, "a.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range k {
			if _, err := fmt.Fprintf(f, "line %d\n", n); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	for range rounds {
		write(1 + rng.IntN(500))
		cmd := exec.Command("immutable", args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 1 + rng.IntN(6) {
			write(1 + rng.IntN(500))
			if rng.IntN(3) == 0 {
				if err := os.Rename(filepath.Join(dir, "a.log"), filepath.Join(dir, fmt.Sprintf("a.log.%d", n))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // a random moment within whatever it does
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	if out, err := exec.Command("immutable", append(args, "--once")...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := immutable.Open(logs, &immutable.Config{StateDir: state, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := map[string]int{}
	for e, err := range l.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Control == nil {
			seen[e.Message]++
		}
	}
	for i := range n {
		if got := seen[fmt.Sprintf("line %d", i)]; got != 1 {
			t.Fatalf("line %d of %d stands %d times", i, n, got)
		}
	}
	if len(seen) != n {
		t.Errorf("%d different messages, want %d", len(seen), n)
	}
}
