package immutable

import (
	"strings"
	"testing"
	"time"
)

// TestDemoClockNeedsANameThatSaysSo holds that no log with a name of its own gets times that somebody made up.
func TestDemoClockNeedsANameThatSaysSo(t *testing.T) {
	past := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return past }
	for _, origin := range []string{"", "example.com/audit", "example.com/demo-1", "demo", "Demo-1/x"} {
		dir := t.TempDir()
		l, err := Open(dir, &Config{StateDir: t.TempDir(), Origin: origin, DemoClock: clock})
		if err == nil || !strings.Contains(err.Error(), DemoPrefix) {
			t.Errorf("origin %q: %v, %v", origin, l, err)
		}
	}
	dir, state := t.TempDir(), t.TempDir()
	l, err := Open(dir, &Config{StateDir: state, Origin: "demo-1/x", DemoClock: clock})
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Info(t.Context(), "long ago", nil)
	if err != nil || !r.Timestamp.Equal(past) {
		t.Errorf("%v, %v", r.Timestamp, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	real := t.TempDir()
	if l, err = Open(real, &Config{StateDir: state, Origin: "example.com/audit"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(real, &Config{StateDir: state, Origin: "demo-1/y", DemoClock: clock}); err == nil {
		t.Errorf("a log of another name got a clock of its own: %v", l.Origin())
	}
}
