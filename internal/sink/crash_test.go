package sink

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/export"
)

// crashKey names what a child process of TestCrashLosesNothingAndKeepsTheOrder is given.
const crashKey = "IMMUTABLE_SINK_CRASH"

// TestCrashLosesNothingAndKeepsTheOrder kills a process that appends and delivers, again and again, at moments of no choice, and
// then lets one end: the webhook, the syslog receiver and the files have every entry, in order but for repetitions.
func TestCrashLosesNothingAndKeepsTheOrder(t *testing.T) {
	if given := os.Getenv(crashKey); given != "" {
		crashChild(t, strings.Split(given, ","))
		return
	}
	dir, r, s := t.TempDir(), newReceiver(t, nil), newSyslogServer(t, nil)
	rounds := 3
	if os.Getenv("IMMUTABLE_LONG") != "" {
		rounds = 50
	}
	for i := range rounds {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashLosesNothingAndKeepsTheOrder$")
		c.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%s", crashKey, dir, r.URL, s.Addr()))
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len(ready))); err != nil {
			t.Fatalf("the child says nothing: %v", err)
		}
		time.Sleep(time.Duration(20+(i*37)%200) * time.Millisecond) // where it is killed is not to be chosen
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
	}
	b := newBench(t, dir, nil)
	b.add(5)
	for _, name := range []string{"hook", "siem", "files"} {
		b.caughtUp(name)
	}
	b.whole(r.copied(t))
	sorted(t, r.indexes(t), b.l.Size())
	rep := b.whole(contents(t, filepath.Join(dir, "sinks", "default", "files")))
	if rep.Repeated != 0 {
		t.Errorf("%d lines of the files came twice", rep.Repeated)
	}
	b.until("siem", "what is on its way", func(Status) bool {
		return b.compare(joined(s.all()), export.CopyOptions{All: true}).Agrees()
	})
	t.Logf("%d entries", b.l.Size())
}

const ready = "ready\n"

// crashChild appends and delivers until it is killed.
func crashChild(t *testing.T, given []string) {
	b := newBench(t, given[0], nil)
	if list, err := b.m.List(b.admin, "default"); err != nil || len(list) == 0 {
		b.create(Sink{Name: "files", Type: File, Rotate: minRotate})
		b.create(Sink{Name: "siem", Type: Syslog, Address: given[2], Plain: true})
		b.create(Sink{Name: "hook", Type: Webhook, URL: given[1], Secrets: []string{secretA, secretB}})
	}
	if _, err := io.Copy(os.Stdout, bytes.NewReader([]byte(ready))); err != nil {
		t.Fatal(err)
	}
	for range 100_000 {
		b.add(7)
	}
}
