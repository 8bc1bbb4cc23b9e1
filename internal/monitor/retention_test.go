package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

// stoppedClock is a clock that stands where it is set; before, it goes.
type stoppedClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *stoppedClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at
}

func (c *stoppedClock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}

// on is the same bench with another log.
func (b *bench) on(l *tenant.Log) *bench {
	return &bench{t: b.t, dir: b.dir, in: b.in, m: b.m, l: l, news: b.news}
}

// aged appends and seals, and says when; and then goes on with another sealed segment that is younger.
func (b *bench) aged(keepDays int, expired string) (old []uint64, at time.Time) {
	b.t.Helper()
	ctx := b.t.Context()
	b.append(600)
	must(0, b.l.Rotate(ctx))
	old = b.l.SealedSegments()
	at = time.Now()
	b.append(600)
	must(0, b.l.Rotate(ctx))
	s := b.l.Settings()
	s.KeepDays, s.Expired = keepDays, expired
	must(0, b.l.Update(ctx, tenant.Local("ann"), s))
	if len(old) == 0 || len(b.l.SealedSegments()) <= len(old) {
		b.t.Fatalf("segments %v, then %v: too few", old, b.l.SealedSegments())
	}
	return old, at
}

func (b *bench) quiet() {
	b.t.Helper()
	for _, e := range b.told() {
		if !e.Resolved {
			b.t.Errorf("false alarm: %+v", e)
		}
	}
}

func TestExpiredSegmentsAreRetiredAtNightAndHeldOnesAreNot(t *testing.T) {
	t.Parallel()
	c := &stoppedClock{}
	b := newBench(t, t.TempDir(), c.now, true)
	ctx := t.Context()
	held := b.on(must(b.l.Tenant().CreateLog(ctx, tenant.Local("ann"), tenant.LogSettings{Name: "held"})))
	heldSegments, _ := held.aged(1, "delete")
	must(held.l.Hold(ctx, immutable.Hold{ID: "case-1", Reason: "a suit"}))
	ever := b.on(must(b.l.Tenant().CreateLog(ctx, tenant.Local("ann"), tenant.LogSettings{Name: "ever"})))
	everSegments, _ := ever.aged(1, "keep")
	old, at := b.aged(1, "move")
	leaf := must(b.l.Entry(ctx, 3)).Leaf
	younger := b.l.SealedSegments()[len(old):]
	if job := b.verified(); len(job.Report.Retired) != 0 {
		t.Errorf("retired before its time: %+v", job.Report.Retired)
	}

	c.set(at.Add(24 * time.Hour)) // a night went by
	b.wait("the retirement", func() bool { return b.recorded(tenant.SegmentRetire, nil) == 1 })
	b.wait("the hold to be said", func() bool { return b.recorded(tenant.RetentionHeld, nil) == 1 })
	if got := b.l.SealedSegments(); !slices.Equal(got, younger) {
		t.Errorf("segments %v are left, want %v", got, younger)
	}
	if got := held.l.SealedSegments(); !slices.Equal(got[:len(heldSegments)], heldSegments) {
		t.Errorf("of the log on hold %v are left, %v were there", got, heldSegments)
	}
	if got := ever.l.SealedSegments(); !slices.Equal(got[:len(everSegments)], everSegments) {
		t.Errorf("of a log that keeps everything %v are left, %v were there", got, everSegments)
	}
	retired := must(b.l.Retired(ctx))
	end := retired[len(retired)-1].End
	if len(retired) != len(old) || end != younger[0] || retired[0].Cold == "" || retired[0].By != "the service" {
		t.Errorf("retired %+v", retired)
	}
	for _, r := range retired {
		if found := must(filepath.Glob(filepath.Join(b.l.ColdDir(), "archive", "*"))); len(found) != len(old) {
			t.Errorf("%+v: the cold directory has %v", r, found)
		}
	}
	if n := b.recorded(tenant.SegmentRetire, func(m map[string]any) bool {
		return m["log"] == "main" && m["segments"] == float64(len(old)) && m["entries"] == float64(end) && m["cold"] == retired[0].Cold && m["keepDays"] == 1.0
	}); n != 1 {
		t.Error("what was retired is not recorded")
	}
	if n := b.recorded(tenant.RetentionHeld, func(m map[string]any) bool {
		ids, _ := m["holds"].([]any)
		return m["log"] == "held" && len(ids) == 1 && ids[0] == "case-1"
	}); n != 1 {
		t.Error("which hold it was is not recorded")
	}

	root, size := b.l.Root()
	if err := proof.CheckInclusion(must(b.l.InclusionProof(ctx, 3, size)), 3, size, leaf, root); err != nil {
		t.Error(err)
	}
	if job := b.verified(); len(job.Report.Retired) != len(old) || job.Report.RetiredEntries != 0 || job.Verdict != immutable.Consistent && job.Verdict != immutable.Proven {
		t.Errorf("%s; the report has retired %+v, of which %d entries were not read where they went", job.Verdict, job.Report.Retired, job.Report.RetiredEntries)
	}
	must(b.l.Restore(ctx, immutable.RestoreOptions{Reason: "a look"}))
	b.m.mu.Lock()
	g := b.m.logs[b.l].guard
	b.m.mu.Unlock()
	if bad, err := g.Sweep(ctx); err != nil || len(bad) > 0 {
		t.Errorf("the files after a segment came back: %v, %v", bad, err)
	}
	b.quiet()

	// Within the day nothing more happens; the next night does what the hold kept from happening, once it is released.
	must(held.l.Release(ctx, immutable.Hold{ID: "case-1"}))
	c.set(at.Add(48 * time.Hour))
	b.wait("the second night", func() bool {
		return b.recorded(tenant.SegmentRetire, func(m map[string]any) bool { return m["log"] == "held" && m["cold"] == nil }) == 1
	})
	if n := b.recorded(tenant.RetentionHeld, nil); n != 1 {
		t.Errorf("the hold was said %d times", n)
	}
	if got := must(held.l.Retired(ctx)); len(got) < len(heldSegments) || got[0].Cold != "" {
		t.Errorf("after the release %+v", got)
	}
	b.quiet()
}

// verified runs a full verification and wants it proven.
func (b *bench) verified() Job {
	b.t.Helper()
	job := must(b.m.Start(b.t.Context(), tenant.Local("test"), b.l, immutable.VerifyOptions{Indexes: true}))
	b.wait("the verification", func() bool { j, _ := b.m.Job(b.l, job.ID); return j.Phase == Done })
	j, _ := b.m.Job(b.l, job.ID)
	if j.Verdict != immutable.Proven {
		b.t.Fatalf("verification: %+v", j)
	}
	return j
}

// TestRetentionThatWasMissedIsMadeUpFor stops the service before the night, and starts it after.
func TestRetentionThatWasMissedIsMadeUpFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBench(t, dir, nil, true)
	old, at := b.aged(1, "delete")
	b.stop()
	c := &stoppedClock{}
	c.set(at.Add(24 * time.Hour))
	b = newBench(t, dir, c.now, true)
	b.wait("the retirement", func() bool { return b.recorded(tenant.SegmentRetire, nil) == 1 })
	if got := must(b.l.Retired(t.Context())); len(got) != len(old) {
		t.Errorf("retired %+v, want %v", got, old)
	}
	b.stop()

	// And once made up for it is not due again.
	b = newBench(t, dir, c.now, true)
	b.m.mu.Lock()
	kept := b.m.logs[b.l].kept.Retained
	b.m.mu.Unlock()
	if !kept.Equal(c.at) {
		t.Errorf("the last run was at %v, it is remembered as at %v", c.at, kept)
	}
}

// TestSettingsThatChangeWaitForTheNight holds that nobody loses a log by the slip of a moment.
func TestSettingsThatChangeWaitForTheNight(t *testing.T) {
	t.Parallel()
	c := &stoppedClock{}
	b := newBench(t, t.TempDir(), c.now, true)
	b.append(600)
	must(0, b.l.Rotate(t.Context()))
	noon := time.Now().UTC().Truncate(24 * time.Hour).Add(10*24*time.Hour + 12*time.Hour)
	c.set(noon) // the last nights had nothing to do
	s := b.m.logs[b.l]
	b.wait("the night without anything to do", func() bool {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		return s.kept.Retained.Equal(noon)
	})
	set := b.l.Settings()
	set.KeepDays, set.Expired = 1, "delete"
	must(0, b.l.Update(t.Context(), tenant.Local("ann"), set))
	for at, want := range map[time.Duration]bool{0: false, 15*time.Hour + 9*time.Minute: false, 15*time.Hour + 10*time.Minute: true} {
		if got := b.m.retentionDue(s, noon.Add(at)); got != want {
			t.Errorf("%v after the change: due %t, want %t", at, got, want)
		}
	}
	if len(must(b.m.Expired(t.Context(), b.l))) == 0 {
		t.Error("nothing would go")
	}
}

// TestRetentionThatFailsIsToldAndTriedAgain has a file where the cold directory should be.
func TestRetentionThatFailsIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	c := &stoppedClock{}
	b := newBench(t, t.TempDir(), c.now, true)
	_, at := b.aged(1, "move")
	cold := filepath.Join(b.dir, "cold")
	must(0, errors.Join(os.RemoveAll(cold), os.WriteFile(cold, nil, 0o600)))
	c.set(at.Add(24 * time.Hour))
	b.wait("the alert", func() bool { return b.has(alert.RetentionFailed, false, "") })
	if n := b.recorded(tenant.RetentionFailed, func(m map[string]any) bool { return m["log"] == "main" && m["error"] != "" }); n != 1 {
		t.Errorf("the failure is recorded %d times", n)
	}
	s := b.m.logs[b.l]
	if b.m.retentionDue(s, c.now().Add(59*time.Minute)) || !b.m.retentionDue(s, c.now().Add(time.Hour)) {
		t.Error("it is not tried again after an hour")
	}
	if got := must(b.l.Retired(t.Context())); len(got) != 0 {
		t.Errorf("retired %+v", got)
	}
	must(0, os.Remove(cold))
	c.set(c.now().Add(time.Hour))
	b.wait("the end of the alert", func() bool { return b.has(alert.RetentionFailed, true, "") })
	if got := must(b.l.Retired(t.Context())); len(got) == 0 {
		t.Error("nothing is retired")
	}
}

// TestLogOfTheLogIsRetiredByItsSettings does so for the one log that the service itself writes.
func TestLogOfTheLogIsRetiredByItsSettings(t *testing.T) {
	t.Parallel()
	c := &stoppedClock{}
	b := newBench(t, t.TempDir(), c.now, true)
	ctx := t.Context()
	system := must(b.l.Tenant().Log(tenant.SystemName))
	many := make([]immutable.Fields, 600)
	must(0, b.l.Tenant().RecordAll(ctx, nil, tenant.ConfigChange, many))
	must(0, system.Rotate(ctx))
	s := system.Settings()
	s.KeepDays, s.Expired = 1, "move"
	must(0, system.Update(ctx, tenant.Local("ann"), s))
	c.set(time.Now().Add(24 * time.Hour))
	b.wait("the retirement", func() bool {
		return b.recorded(tenant.SegmentRetire, func(m map[string]any) bool { return m["log"] == tenant.SystemName }) == 1
	})
	if got := must(system.Retired(ctx)); len(got) == 0 {
		t.Error("nothing is retired")
	}
	b.quiet()
}

// TestRetireTakesNothingThatTheSettingsKeep asks for it by hand.
func TestRetireTakesNothingThatTheSettingsKeep(t *testing.T) {
	t.Parallel()
	c := &stoppedClock{}
	b := newBench(t, t.TempDir(), c.now, true)
	ctx := t.Context()
	if _, _, err := b.m.Retire(ctx, tenant.Local("ann"), b.l, "no reason"); !errors.Is(err, ErrKeeps) {
		t.Errorf("got %v, want ErrKeeps", err)
	}
	old, at := b.aged(2, "delete")
	ann := tenant.Local("ann")
	if done, more, err := b.m.Retire(ctx, ann, b.l, "too early"); err != nil || more || len(done) != 0 || b.recorded(tenant.RetentionBegin, nil) != 0 {
		t.Errorf("retired %v, %t, %v", done, more, err)
	}
	b.m.retiring <- struct{}{} // the night's run waits
	c.set(at.Add(48 * time.Hour))
	if n := len(must(b.m.Expired(ctx, b.l))); n != len(old) {
		t.Errorf("%d segments have expired, want %d", n, len(old))
	}
	<-b.m.retiring
	// Whoever is first, the night's run or this one, retires what has expired, and the other nothing.
	if _, _, err := b.m.Retire(ctx, ann, b.l, "policy 7"); err != nil {
		t.Fatal(err)
	}
	if got := must(b.l.Retired(ctx)); len(got) != len(old) {
		t.Errorf("retired %+v", got)
	}
}
