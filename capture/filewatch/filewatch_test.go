package filewatch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/event"
)

// watching is a watcher that runs, and what it has recorded.
type watching struct {
	*Watcher
	t    testing.TB
	l    *immutable.Log
	seen int
	stop func()

	began map[string]state // what was known before the first change
}

func watch(t testing.TB, cfg Config) *watching {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Settle = 20 * time.Millisecond
	w, err := New(capture.New(capture.Durable(l), capture.Config{OnError: func(err error) { t.Errorf("recording: %v", err) }}), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	k := &watching{Watcher: w, t: t, l: l, began: maps.Clone(w.known)}
	go func() { ended <- w.Run(ctx) }()
	k.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(func() { k.stop(); l.Close() })
	return k
}

type logged struct {
	immutable.Entry
	m map[string]any
}

// next waits for the next event.
func (k *watching) next() logged {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n := 0
	for e, err := range k.l.Subscribe(ctx, 0) {
		if err != nil {
			k.t.Fatalf("after %d events: %v", k.seen, err)
		}
		if e.Control != nil {
			continue
		}
		if n++; n > k.seen {
			k.seen = n
			out := logged{Entry: e}
			if err := json.Unmarshal(e.Metadata, &out.m); err != nil {
				k.t.Fatal(err)
			}
			if at(out.m, "file", "after", "sha256") == sum("") { // a slow machine sees it before it is written
				continue
			}
			return out
		}
	}
	k.t.Fatal("no event")
	return logged{}
}

func at(m any, path ...string) any {
	for _, name := range path {
		o, ok := m.(map[string]any)
		if !ok {
			return nil
		}
		m = o[name]
	}
	return m
}

func sum(s string) string {
	d := sha256.Sum256([]byte(s))
	return hex.EncodeToString(d[:])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestChangesAreRecordedWithDigestsBeforeAndAfter(t *testing.T) {
	for _, polling := range []bool{false, true} {
		dir := t.TempDir()
		file := filepath.Join(dir, "a.conf")
		must(t, os.WriteFile(file, []byte("one"), 0o600))
		k := watch(t, Config{Paths: []string{dir}, Polling: polling, Rescan: 50 * time.Millisecond})
		expect := func(path, change, before, after string) logged {
			t.Helper()
			e := k.next()
			if change == "create" && at(e.m, "file", "before", "sha256") == sum("") {
				change, before = "write", sum("")
			}
			if at(e.m, "file", "change") != change || at(e.m, "target", "id") != path || fmt.Sprint(at(e.m, "file", "before", "sha256")) != before || fmt.Sprint(at(e.m, "file", "after", "sha256")) != after || e.Level != immutable.Audit {
				t.Fatalf("polling %v: %s; want %s of %s", polling, e.Line, change, path)
			}
			return e
		}
		must(t, os.WriteFile(file+".tmp", []byte("two"), 0o600)) // as careful programs replace a file
		expect(file+".tmp", "create", "<nil>", sum("two"))
		must(t, os.Rename(file+".tmp", file))
		// The file it replaced has gone; what came to its name was known under another.
		saw := map[any]any{}
		for range 2 {
			e := k.next()
			saw[at(e.m, "target", "id")] = at(e.m, "file", "change")
		}
		if saw[file] != "write" || saw[file+".tmp"] != "delete" {
			t.Fatalf("%v", saw)
		}
		if runtime.GOOS != "windows" {
			must(t, os.Chmod(file, 0o644))
			if e := expect(file, "permission", sum("two"), sum("two")); at(e.m, "file", "after", "mode") != "-rw-r--r--" {
				t.Errorf("%s", e.Metadata)
			}
		}
		must(t, os.Rename(file, filepath.Join(dir, "b.conf")))
		// On a slow machine one may be seen long before the other.
		if e := k.next(); at(e.m, "file", "change") == "rename" {
			if at(e.m, "file", "from") != file || at(e.m, "target", "name") != "b.conf" || at(e.m, "file", "before", "sha256") != sum("two") {
				t.Errorf("%s", e.Metadata)
			}
		} else {
			t.Logf("not seen as one: %s", e.Metadata)
			k.next()
		}
		sub := filepath.Join(dir, "sub", "deeper")
		must(t, os.MkdirAll(sub, 0o700))
		expect(filepath.Join(dir, "sub"), "create", "<nil>", "<nil>")
		expect(sub, "create", "<nil>", "<nil>")
		must(t, os.WriteFile(filepath.Join(sub, "c"), []byte("three"), 0o600))
		expect(filepath.Join(sub, "c"), "create", "<nil>", sum("three"))
		must(t, os.RemoveAll(filepath.Join(dir, "sub")))
		gone := map[any]bool{}
		for range 3 {
			e := k.next()
			gone[at(e.m, "target", "id")] = at(e.m, "file", "change") == "delete"
		}
		if !gone[sub] || !gone[filepath.Join(sub, "c")] || !gone[filepath.Join(dir, "sub")] {
			t.Errorf("gone %v", gone)
		}
		if polling != (k.Method() == "polling") {
			t.Errorf("by %s", k.Method())
		}
		k.stop()
	}
}

// A directory that comes back under its name is watched again.
func TestDirectoryThatComesBackIsWatched(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	must(t, os.Mkdir(sub, 0o700))
	k := watch(t, Config{Paths: []string{dir}})
	for i := range 3 {
		must(t, os.Remove(sub))
		if e := k.next(); at(e.m, "file", "change") != "delete" {
			t.Fatalf("%s", e.Line)
		}
		must(t, os.Mkdir(sub, 0o700))
		if e := k.next(); at(e.m, "file", "change") != "create" {
			t.Fatalf("%s", e.Line)
		}
		must(t, os.WriteFile(filepath.Join(sub, "f"), []byte{byte(i)}, 0o600))
		if e := k.next(); at(e.m, "target", "name") != "f" {
			t.Fatalf("%s", e.Line)
		}
		must(t, os.Remove(filepath.Join(sub, "f")))
		k.next()
	}
}

// What is beside a watched file is not recorded, nor what is ignored; a configuration's events say so.
func TestOnlyWhatIsWatchedIsRecorded(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "app.yaml")
	k := watch(t, Config{Paths: []string{file}, Kind: event.KindConfiguration, Ignore: func(p string) bool { return strings.HasSuffix(p, "~") }})
	must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("x"), 0o600))
	must(t, os.WriteFile(file+"~", []byte("x"), 0o600))
	must(t, os.WriteFile(file, []byte("one"), 0o600))
	if e := k.next(); at(e.m, "target", "id") != file || at(e.m, "action") != event.ActionConfigChange || at(e.m, "kind") != "configuration" || at(e.m, "file", "after", "sha256") != sum("one") {
		t.Errorf("%s", e.Line)
	}
	must(t, os.WriteFile(file, []byte("two"), 0o600))
	k.stop() // what the kernel has told is recorded, so that this is the last
	n := 0
	for e, err := range k.l.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Control == nil {
			n++
			if !strings.Contains(string(e.Metadata), `"id":"`+strings.ReplaceAll(file, `\`, `\\`)+`"`) {
				t.Errorf("%s", e.Line)
			}
		}
	}
	if n > 2 {
		t.Errorf("%d events", n)
	}
}

// Files that cannot be read as files do not hold the watcher up.
func TestWhatIsNoFileIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	if runtime.GOOS != "windows" {
		must(t, os.Symlink("/nowhere/at/all", filepath.Join(dir, "link")))
		must(t, makePipe(filepath.Join(dir, "pipe")))
	}
	must(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, 1001), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "limit"), make([]byte, 1000), 0o600))
	k := watch(t, Config{Paths: []string{dir}, MaxBytes: 1000})
	if s := k.began[filepath.Join(dir, "large")]; s.digest != "" || !strings.Contains(s.note, "larger") {
		t.Errorf("%+v", s)
	}
	if s := k.began[filepath.Join(dir, "limit")]; s.digest == "" {
		t.Errorf("%+v", s)
	}
	if runtime.GOOS != "windows" {
		if digest, note := k.digest(t.Context(), filepath.Join(dir, "pipe")); digest != "" || note == "" {
			t.Errorf("a pipe has the digest %q, %q", digest, note)
		}
		must(t, os.Remove(filepath.Join(dir, "link")))
		must(t, os.Symlink("/somewhere/else", filepath.Join(dir, "link")))
		e := k.next()
		if at(e.m, "file", "change") == "delete" {
			e = k.next()
		}
		if at(e.m, "file", "after", "link") != "/somewhere/else" {
			t.Errorf("%s", e.Line)
		}
	}
}

// What has gone and what has come with the same content is one change; an empty file says nothing.
func TestRenamesAreToldByContent(t *testing.T) {
	a, empty := state{digest: "a", size: 1}, state{digest: "e"}
	got := renames([]change{{path: "z", before: &a}, {path: "b", after: &a}, {path: "c", after: &a}, {path: "y", before: &empty}, {path: "d", after: &empty}})
	var saw []string
	for _, c := range got {
		saw = append(saw, fmt.Sprintf("%s from %q %v %v", c.path, c.from, c.before != nil, c.after != nil))
	}
	if want := `[b from "z" true true c from "" false true d from "" false true y from "" true false]`; fmt.Sprint(saw) != want {
		t.Errorf("%q", saw)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	rec := capture.New(nil, capture.Config{})
	for _, cfg := range []Config{{}, {Paths: []string{filepath.Join(t.TempDir(), "no", "such")}}, {Paths: []string{t.TempDir()}, Kind: event.KindWeb}} {
		if _, err := New(rec, cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
