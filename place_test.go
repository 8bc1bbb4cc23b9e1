package immutable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestALogThatWasReplacedIsMissed deletes a log, or puts another one in its place, as somebody with root would: verification
// with this host's state refutes, and no writer goes on as if nothing had been there.
func TestALogThatWasReplacedIsMissed(t *testing.T) {
	state, dir := t.TempDir(), filepath.Join(t.TempDir(), "logs")
	fill := func(dir, origin, message string) {
		t.Helper()
		l, err := Open(dir, &Config{StateDir: state, Origin: origin})
		must(t, err)
		_, err = l.Info(t.Context(), message, nil)
		must(t, err)
		must(t, l.Close())
	}
	verdict := func() Verdict {
		t.Helper()
		rep, err := VerifyDir(t.Context(), dir, &Config{StateDir: state}, VerifyOptions{})
		must(t, err)
		return rep.Verdict
	}
	fill(dir, "example.com/a", "what happened")
	if got := verdict(); got != Proven {
		t.Fatalf("before: %s", got)
	}
	must(t, os.Rename(dir, dir+".gone"))
	l, err := Open(dir, &Config{StateDir: state, Origin: "example.com/b"})
	if !errors.As(err, new(*RefusedError)) {
		t.Errorf("a new log where one was deleted: %v, %v", l, err)
	}
	other := filepath.Join(t.TempDir(), "logs")
	fill(other, "example.com/b", "something else")
	must(t, os.RemoveAll(dir))
	must(t, os.Rename(other, dir))
	if got := verdict(); got != Refuted {
		t.Errorf("another log in its place: %s", got)
	}
	if l, err := Open(dir, &Config{StateDir: state}); !errors.As(err, new(*RefusedError)) {
		t.Errorf("a writer goes on in the other log: %v, %v", l, err)
	}
	if got := verdict(); got != Refuted {
		t.Errorf("after the refusal: %s", got)
	}

	fill(dir+".gone", "", "moved, and opened where it lies now")
	if got := verdict(); got != Proven {
		t.Errorf("once the old log was opened elsewhere: %s", got)
	}
	fill(dir, "", "goes on")
	if got := verdict(); got != Proven {
		t.Errorf("then: %s", got)
	}
}

// TestALogWithoutItsEmptyDirectoriesOpens is a log that was copied file by file.
func TestALogWithoutItsEmptyDirectoriesOpens(t *testing.T) {
	state, dir := t.TempDir(), filepath.Join(t.TempDir(), "logs")
	for range 2 {
		l, err := Open(dir, &Config{StateDir: state})
		must(t, err)
		_, err = l.Info(t.Context(), "an entry", nil)
		must(t, err)
		must(t, l.Close())
		for _, name := range logDirs {
			must(t, os.Remove(filepath.Join(dir, name)))
		}
	}
	rep, err := VerifyDir(t.Context(), dir, &Config{StateDir: state}, VerifyOptions{})
	must(t, err)
	if rep.Verdict != Proven || rep.Size != 2 {
		t.Errorf("%s, %d entries: %v", rep.Verdict, rep.Size, rep.Findings)
	}
}
