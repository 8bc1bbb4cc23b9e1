package immutable

import (
	"bytes"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// wantVerified holds a closed log to its verification.
func wantVerified(t *testing.T, d *vfstest.Disk) *Report {
	t.Helper()
	rep, err := VerifyDir(context.Background(), diskDir, diskConfig(d, newClock()), VerifyOptions{Indexes: true})
	must(t, err)
	if rep.Verdict != Proven {
		t.Fatalf("verdict %s: %v", rep.Verdict, rep.Findings)
	}
	return rep
}

// TestTimestampsHoldWhileTheClockIsBehind steps the clock back a day: timestamps stay, once it is said, and they move
// again when the clock has caught up.
func TestTimestampsHoldWhileTheClockIsBehind(t *testing.T) {
	d, c := vfstest.New(), newClock()
	var logged bytes.Buffer
	cfg := diskConfig(d, c)
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	l, err := Open(diskDir, cfg)
	must(t, err)
	before := fill(t, l, 3, 1)[2].Timestamp
	c.add(-24 * time.Hour)
	for _, r := range fill(t, l, 5, 1) {
		if !r.Timestamp.Equal(before) {
			t.Errorf("entry %d has %v, want the held %v", r.Index, r.Timestamp, before)
		}
	}
	s, err := l.Stats(context.Background())
	must(t, err)
	if held := s.ClockHeldSeconds; held < 23*3600 || held > 24*3600 {
		t.Errorf("held for %v s, want about a day", held)
	}
	if n := strings.Count(logged.String(), "clock is behind"); n != 1 {
		t.Errorf("said %d times, want once: %s", n, logged.String())
	}
	// It holds over a restart too.
	must(t, l.Close())
	l, err = Open(diskDir, cfg)
	must(t, err)
	if r := fill(t, l, 1, 1)[0]; !r.Timestamp.Equal(before) {
		t.Errorf("after a restart %v, want the held %v", r.Timestamp, before)
	}
	c.add(25 * time.Hour)
	if r := fill(t, l, 1, 1)[0]; !r.Timestamp.After(before) {
		t.Errorf("after the clock caught up %v, want later than %v", r.Timestamp, before)
	}
	s, err = l.Stats(context.Background())
	must(t, err)
	if s.ClockHeldSeconds != 0 {
		t.Errorf("held for %v s, want 0", s.ClockHeldSeconds)
	}
	must(t, l.Close())
	wantVerified(t, d)
}

// TestResetClockAllowsLowerTimestamps lets the clock run a year ahead and back, and resets it.
func TestResetClockAllowsLowerTimestamps(t *testing.T) {
	ctx := context.Background()
	d, c := vfstest.New(), newClock()
	l, err := Open(diskDir, diskConfig(d, c))
	must(t, err)
	fill(t, l, 2, 1)
	if _, wrote, err := l.ResetClock(ctx); wrote || err != nil {
		t.Errorf("reset of a good clock: wrote %v, %v", wrote, err)
	}
	c.add(365 * 24 * time.Hour)
	ahead := fill(t, l, 1, 1)[0].Timestamp
	c.add(-365 * 24 * time.Hour)
	if r := fill(t, l, 1, 1)[0]; !r.Timestamp.Equal(ahead) {
		t.Errorf("%v, want the held %v", r.Timestamp, ahead)
	}
	r, wrote, err := l.ResetClock(ctx)
	must(t, err)
	if !wrote || !r.Timestamp.Before(ahead) {
		t.Errorf("reset wrote %v at %v, want before %v", wrote, r.Timestamp, ahead)
	}
	if after := fill(t, l, 1, 1)[0].Timestamp; after.Before(r.Timestamp) || !after.Before(ahead) {
		t.Errorf("after the reset %v, want between %v and %v", after, r.Timestamp, ahead)
	}
	e, err := l.Entry(ctx, r.Index)
	must(t, err)
	if want := `{"type":"clock","was":"` + ahead.Format("2006-01-02T15:04:05.000000000Z") + `"`; e.Level != System || !strings.HasPrefix(string(e.Control), want) {
		t.Errorf("control entry %s %s, want %s", e.Level, e.Control, want)
	}
	if _, wrote, err := l.ResetClock(ctx); wrote || err != nil {
		t.Errorf("second reset: wrote %v, %v", wrote, err)
	}
	must(t, l.Close())
	rep := wantVerified(t, d)
	if len(rep.Controls) != 1 || rep.Controls[0].Type != "clock" {
		t.Errorf("controls %+v", rep.Controls)
	}
}

// TestConcurrentResetsNameTheEntryBefore resets a clock that keeps stepping back from several goroutines beside appends.
func TestConcurrentResetsNameTheEntryBefore(t *testing.T) {
	d, c := vfstest.New(), newClock()
	l, err := Open(diskDir, diskConfig(d, c))
	must(t, err)
	fill(t, l, 2, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 20 {
				c.add(-time.Minute)
				if _, _, err := l.ResetClock(context.Background()); err != nil {
					t.Error(err)
				}
				if _, err := l.Append(context.Background(), event(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, l.Close())
	wantVerified(t, d)
}

// TestTimestampsStayInTheirRange sets the clock before 1970 and after 2261.
func TestTimestampsStayInTheirRange(t *testing.T) {
	d, c := vfstest.New(), newClock()
	c.add(-100 * 365 * 24 * time.Hour)
	l, err := Open(diskDir, diskConfig(d, c))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 2, 1)
	c.add(200 * 365 * 24 * time.Hour)
	c.add(200 * 365 * 24 * time.Hour)
	fill(t, l, 2, 1)
	must(t, l.Close())
	wantVerified(t, d)
}

// TestIDHoldsTimeSessionAndIndex takes ids apart: docs/format.md, "Entry".
func TestIDHoldsTimeSessionAndIndex(t *testing.T) {
	d := vfstest.New()
	sessions := map[uint64]bool{}
	index := uint64(0)
	for range 3 {
		l, err := Open(diskDir, diskConfig(d, newClock()))
		must(t, err)
		session := uint64(0)
		for i, r := range fill(t, l, 10, 3) {
			digits := strings.ReplaceAll(r.ID.String(), "-", "")
			high, err := strconv.ParseUint(digits[:16], 16, 64)
			must(t, err)
			low, err := strconv.ParseUint(digits[16:], 16, 64)
			must(t, err)
			if got, want := int64(high>>16), r.Timestamp.UnixMilli(); got != want {
				t.Errorf("id %s has %d ms, want %d", r.ID, got, want)
			}
			if version, variant := high>>12&0xf, low>>62; version != 7 || variant != 2 {
				t.Errorf("id %s has version %d and variant %b", r.ID, version, variant)
			}
			if got := low & 0xffffffff; got != index {
				t.Errorf("id %s has index %d, want %d", r.ID, got, index)
			}
			own := high&0xfff<<30 | low>>32&(1<<30-1)
			if i == 0 {
				session = own
			}
			if own != session {
				t.Errorf("id %s has session %x, the one before %x", r.ID, own, session)
			}
			index++
		}
		if sessions[session] {
			t.Errorf("session %x is used twice", session)
		}
		sessions[session] = true
		must(t, l.Close())
	}
}
