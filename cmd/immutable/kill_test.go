package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// TestKillNine kills `immutable append` at random moments, under load and while segments are rotated and sealed. Whatever it
// had acknowledged is in the log afterwards, once and in order, and verification does not refute it. The seed repeats the moments as far as the
// system lets it.
func TestKillNine(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	if os.Getenv("IMMUTABLE_LONG") != "" {
		rounds = 500
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("IMMUTABLE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("IMMUTABLE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 9))
	k := &killing{t: t, rng: rng, dir: filepath.Join(t.TempDir(), "logs"), state: filepath.Join(t.TempDir(), "state"), acked: map[string]uint64{}}
	for k.round = range rounds {
		k.kill()
		k.check()
	}
	if k.size < uint64(rounds) {
		t.Fatalf("only %d entries in %d rounds: nothing was under load", k.size, rounds)
	}
	t.Logf("%d entries, %d acknowledged, %d control entries, %d rounds", k.size, len(k.acked), k.controls, rounds)
}

type killing struct {
	t          *testing.T
	rng        *rand.Rand
	dir, state string
	round      int
	acked      map[string]uint64 // message -> index
	size       uint64
	controls   int
}

// kill feeds numbered lines to a process and kills it after a random number of acknowledged entries, and a random moment more.
func (k *killing) kill() {
	cmd := exec.Command("immutable", "append", "--json", "--quiet", "--format", "jsonl", "--dir", k.dir, "--state-dir", k.state, "--rotate-size", "65536", "--batch", strconv.Itoa(1+k.rng.IntN(300)))
	in, err := cmd.StdinPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			if _, err := fmt.Fprintf(in, `{"message":"%d/%d","metadata":{"fill":"%s"}}`+"\n", k.round, n, strings.Repeat("x", n%200)); err != nil {
				return // it is dead
			}
		}
	}()
	target := uint64(k.rng.IntN(3000))
	pause := time.Duration(k.rng.IntN(5000)) * time.Microsecond
	got := uint64(0)
	s := bufio.NewScanner(out)
	numbers := 0
	for got < target && s.Scan() {
		got += k.acknowledge(s.Bytes(), &numbers)
	}
	time.Sleep(pause) // a random moment within whatever it does now
	if err := cmd.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	for s.Scan() { // what it had said before it died
		k.acknowledge(s.Bytes(), &numbers)
	}
	if err := s.Err(); err != nil && err != io.EOF {
		k.t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		k.t.Fatalf("round %d: it ended by itself: %v\n%s", k.round, err, said.String())
	}
	<-stopped
}

// acknowledge reads one line of output. Lines are accepted in order, so that the n-th accepted one is message n of this round.
func (k *killing) acknowledge(line []byte, n *int) uint64 {
	var ack struct{ First, Last *uint64 }
	if err := json.Unmarshal(line, &ack); err != nil {
		return 0 // it was killed within the line
	}
	if ack.First == nil || ack.Last == nil {
		k.t.Fatalf("round %d: not an acknowledgement: %s", k.round, line)
	}
	for i := *ack.First; i <= *ack.Last; i++ {
		k.acked[fmt.Sprintf("%d/%d", k.round, *n)] = i
		*n++
	}
	return *ack.Last - *ack.First + 1
}

// check opens the log as the next process would, reads it and verifies it.
func (k *killing) check() {
	k.verify("before recovery")
	l, err := immutable.Open(k.dir, &immutable.Config{StateDir: k.state, RotateSize: 65536})
	if err != nil {
		k.t.Fatalf("round %d: open after the kill: %v", k.round, err)
	}
	seen := map[string]uint64{}
	k.controls = 0
	last := map[int]int{} // round -> number of its last entry
	for e, err := range l.Entries(k.t.Context(), immutable.Query{}) {
		if err != nil {
			k.t.Fatalf("round %d: %v", k.round, err)
		}
		if e.Control != nil {
			k.controls++
			continue
		}
		if at, twice := seen[e.Message]; twice {
			k.t.Fatalf("round %d: %s stands at %d and %d", k.round, e.Message, at, e.Index)
		}
		seen[e.Message] = e.Index
		var round, n int
		if _, err := fmt.Sscanf(e.Message, "%d/%d", &round, &n); err != nil {
			k.t.Fatal(err)
		}
		if want, begun := last[round]; begun && n != want+1 || !begun && n != 0 {
			k.t.Fatalf("round %d: entry %d is %s after %d/%d", k.round, e.Index, e.Message, round, want)
		}
		last[round] = n
	}
	for message, at := range k.acked {
		if got, there := seen[message]; !there || got != at {
			k.t.Fatalf("round %d: acknowledged %s at %d, found %v at %d", k.round, message, at, there, got)
		}
	}
	k.size = l.Size()
	if err := l.Close(); err != nil {
		k.t.Fatalf("round %d: close: %v", k.round, err)
	}
	k.verify("after recovery")
}

func (k *killing) verify(when string) {
	if _, err := os.Stat(filepath.Join(k.dir, "log.json")); err != nil {
		return // it was killed before the log was made
	}
	rep, err := immutable.VerifyDir(k.t.Context(), k.dir, &immutable.Config{StateDir: k.state}, immutable.VerifyOptions{Indexes: true})
	if err != nil {
		k.t.Fatalf("round %d, %s: %v", k.round, when, err)
	}
	if rep.Verdict == immutable.Refuted {
		k.t.Fatalf("round %d, %s: refuted: %v", k.round, when, rep.Findings)
	}
}
