package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/alert"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// patience is how long a test waits for what must come; it fails then.
const patience = 30 * time.Second

// bench is an installation with a monitor and what the monitor told.
type bench struct {
	t   *testing.T
	dir string
	in  *tenant.Installation
	m   *Monitor
	l   *tenant.Log

	stop func()

	mu     sync.Mutex
	events []alert.Event
	news   chan struct{}
}

func (b *bench) OnEvent(e alert.Event) {
	b.mu.Lock()
	b.events = append(b.events, e)
	b.mu.Unlock()
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// newBench opens an installation. run says whether the monitor runs.
func newBench(t *testing.T, dir string, now func() time.Time, run bool) *bench {
	t.Helper()
	b := &bench{t: t, dir: dir, news: make(chan struct{}, 1)}
	var err error
	b.in, err = tenant.Open(t.Context(), tenant.Options{
		Dir: dir, OriginPrefix: "test", Now: now,
		Log: immutable.Config{RotateSize: 64 << 10, CheckpointInterval: 20 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.m = New(Options{Installation: b.in, Now: now, OnEvent: b.OnEvent, Share: 1})
	def, err := b.in.Tenant(tenant.DefaultName)
	if err != nil {
		t.Fatal(err)
	}
	if b.l, err = def.Log(tenant.MainName); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	if run {
		go func() { ended <- b.m.Run(ctx) }()
	}
	b.stop = sync.OnceFunc(func() {
		cancel()
		if run {
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		if err := b.in.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(b.stop)
	if run {
		b.wait("the watch of every log", func() bool {
			return b.m.Status(b.l).Watched && b.m.Status(must(def.Log(tenant.SystemName))).Watched
		})
	}
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// wait waits for a condition.
func (b *bench) wait(what string, ok func() bool) {
	b.t.Helper()
	end := time.After(patience)
	for !ok() {
		select {
		case <-b.news:
		case <-time.After(5 * time.Millisecond):
		case <-end:
			b.t.Fatalf("waited %s for %s; events: %v", patience, what, b.told())
		}
	}
}

func (b *bench) told() []alert.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

func (b *bench) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = nil
}

// has says whether an event of a kind came, about a file where one is named.
func (b *bench) has(kind alert.Kind, resolved bool, file string) bool {
	return slices.ContainsFunc(b.told(), func(e alert.Event) bool {
		return e.Kind == kind && e.Resolved == resolved && (file == "" || e.Details["file"] == file)
	})
}

func (b *bench) append(n int) {
	b.t.Helper()
	events := make([]immutable.Event, n)
	for i := range events {
		events[i] = immutable.Event{Level: immutable.Audit, Message: fmt.Sprintf("entry %d", i), Metadata: immutable.Fields{"n": i}}
	}
	if _, err := b.l.Append(context.Background(), events...); err != nil {
		b.t.Fatal(err)
	}
}

// recorded counts the entries of the tenant's log of the log with this action. A read that retention overtakes is begun anew.
func (b *bench) recorded(action tenant.Action, has func(m map[string]any) bool) (n int) {
	b.t.Helper()
	system := must(b.l.Tenant().Log(tenant.SystemName))
	for e, err := range system.Entries(context.Background(), immutable.Query{}) {
		var gone *immutable.RetiredError
		if errors.As(err, &gone) {
			return b.recorded(action, has)
		}
		if err != nil {
			b.t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			b.t.Fatal(err)
		}
		if m["action"] == string(action) && (has == nil || has(m)) {
			n++
		}
	}
	return n
}

// TestWatchIsSilentWhileTheLogWorks appends, rotates, changes keys and rebuilds with the watch on.
func TestWatchIsSilentWhileTheLogWorks(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	ctx := t.Context()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 60 {
				b.append(1 + i*5)
			}
		})
	}
	wg.Go(func() {
		for range 3 {
			if err := errors.Join(b.l.RotateKeys(ctx), b.l.Rotate(ctx)); err != nil {
				t.Error(err)
			}
			if _, err := b.l.Rebuild(ctx, nil); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := b.l.Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	sealed := b.l.SealedSegments()
	b.wait("the check of every sealed segment", func() bool {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		return b.m.logs[b.l].kept.Sealed > slices.Max(sealed)
	})
	job, err := b.m.Start(ctx, tenant.Local("test"), b.l, immutable.VerifyOptions{Indexes: true})
	if err != nil {
		t.Fatal(err)
	}
	b.wait("the verification", func() bool { j, _ := b.m.Job(b.l, job.ID); return j.Phase == Done })
	if j, _ := b.m.Job(b.l, job.ID); j.Verdict != immutable.Proven || j.Report == nil || j.Progress.Entries == 0 {
		t.Errorf("verification: %+v", j)
	}
	for _, e := range b.told() {
		if !e.Resolved {
			t.Errorf("false alarm: %+v", e)
		}
	}
	s := b.m.Status(b.l)
	if s.WatchEvents < 100 || s.FileAlarms != 0 || s.Refuted || len(sealed) < 5 {
		t.Errorf("status %+v, %d segments", s, len(sealed))
	}
	if n := b.recorded(tenant.VerifyFinished, func(m map[string]any) bool { return m["scope"] == "segment" && m["verdict"] == "consistent" }); n == 0 {
		t.Error("no verification of sealed segments is recorded")
	}
	if n := b.recorded(tenant.VerifyStarted, func(m map[string]any) bool { return m["job"] == job.ID }); n != 1 {
		t.Errorf("the start of the verification is recorded %d times", n)
	}
}

// TestTamperingOfEachKindOfFileIsNoticed changes, cuts, deletes, replaces and chmods files while the log is open, and takes
// that back: the alarm names the file, and ends when the whole log was verified.
func TestTamperingOfEachKindOfFileIsNoticed(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	b.append(1500)
	if err := b.l.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.l.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.append(50)
	first := b.l.SealedSegments()[0]
	state := filepath.Join(b.dir, "state", tenant.DefaultName)
	keys := must(filepath.Glob(filepath.Join(state, "*", "keys", "ed25519")))
	b.wait("the checkpoint", func() bool { return must(b.l.Stats(t.Context())).CheckpointSize == b.l.Size() })
	own := ""
	for _, k := range keys {
		if strings.Contains(string(must(os.ReadFile(k))), "default/main") {
			own = filepath.Dir(filepath.Dir(k))
		}
	}
	for i, c := range []struct {
		name string
		how  func(t *testing.T, path string) (undo func())
	}{
		{"log.json", flip},
		{"immutable.log", flip},
		{"immutable.log", chmod},
		{"immutable.log", remove},
		{"checkpoint", flip},
		{"checkpoints", cutShort},
		{"chain", flip},
		{"tree/1", remove},
		{"epochs", flip},
		{fmt.Sprintf("archive/%020d.jsonl.zst", first), flip},
		{fmt.Sprintf("archive/%020d.jsonl.zst", first), cutShort},
		{fmt.Sprintf("archive/%020d.jsonl.zst", first), remove},
		{fmt.Sprintf("archive/%020d.jsonl.zst", first), replace},
		{fmt.Sprintf("archive/%020d.jsonl.zst", first), chmod},
		{fmt.Sprintf("index/%020d.idx", first), flip},
		{fmt.Sprintf("index/%020d.sdx", first), remove},
		{fmt.Sprintf("index/%020d.seal", first), flip},
		{immutable.StatePrefix + "keys/ed25519", flip},
	} {
		path := filepath.Join(b.l.Dir(), filepath.FromSlash(c.name))
		if rest, ok := strings.CutPrefix(c.name, immutable.StatePrefix); ok {
			path = filepath.Join(own, filepath.FromSlash(rest))
		}
		began := time.Now()
		undo := c.how(t, path)
		b.wait(fmt.Sprintf("case %d: an alarm about %s", i, c.name), func() bool { return b.has(alert.FileChanged, false, c.name) })
		t.Logf("%s: noticed after %s", c.name, time.Since(began).Round(time.Millisecond))
		undo()
		b.m.lookAgain()
		b.wait("the end of the alarm about "+c.name, func() bool { return b.has(alert.FileChanged, true, "") })
		b.forget()
	}
	if n := b.recorded(tenant.FileChanged, nil); n < 15 {
		t.Errorf("%d alarms are recorded", n)
	}
}

func flip(t *testing.T, path string) func() {
	data := must(os.ReadFile(path))
	poke(t, path, len(data)/2, data[len(data)/2]^1)
	return func() { poke(t, path, len(data)/2, data[len(data)/2]) }
}

func cutShort(t *testing.T, path string) func() {
	data := must(os.ReadFile(path))
	mode := must(os.Stat(path)).Mode()
	check(t, os.Chmod(path, 0o600), os.Truncate(path, int64(len(data)-1)), os.Chmod(path, mode))
	return func() { poke(t, path, len(data)-1, data[len(data)-1]) }
}

func remove(t *testing.T, path string) func() {
	aside := filepath.Join(t.TempDir(), "aside")
	check(t, os.Rename(path, aside))
	return func() { check(t, os.Rename(aside, path)) }
}

// replace puts a file with the same bytes in the place of another.
func replace(t *testing.T, path string) func() {
	data := must(os.ReadFile(path))
	undo := remove(t, path)
	check(t, os.WriteFile(path, data, 0o444))
	return undo
}

func chmod(t *testing.T, path string) func() {
	mode := must(os.Stat(path)).Mode()
	check(t, os.Chmod(path, 0o666))
	return func() { check(t, os.Chmod(path, mode)) }
}

func poke(t *testing.T, path string, at int, to byte) {
	t.Helper()
	mode := must(os.Stat(path)).Mode()
	check(t, os.Chmod(path, 0o600))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt([]byte{to}, int64(at))
	check(t, err, f.Close(), os.Chmod(path, mode))
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOverflowOfTheWatchLooksAtEverything loses the events of a change, as the system's queue does when it is full.
func TestOverflowOfTheWatchLooksAtEverything(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	b.append(600)
	if err := b.l.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("archive/%020d.jsonl.zst", b.l.SealedSegments()[0])
	path := filepath.Join(b.l.Dir(), filepath.FromSlash(name))
	b.wait("the file's first look", func() bool {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		return b.m.logs[b.l].kept.Sealed > 0
	})
	check(t, b.m.files.w.Remove(filepath.Dir(path)))
	flip(t, path)
	b.m.files.w.Errors <- fsnotify.ErrEventOverflow
	b.wait("the alarm", func() bool { return b.has(alert.FileChanged, false, name) })
	b.wait("the verdict on the whole", func() bool { return b.has(alert.VerificationRefuted, false, "") })
	if s := b.m.Status(b.l); !s.Refuted {
		t.Errorf("status %+v", s)
	}
}

// TestDeletedDirectoryIsNoticed moves a whole directory of a log away.
func TestDeletedDirectoryIsNoticed(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	b.append(600)
	if err := b.l.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.m.sweepAll() // so that the directories that came meanwhile are watched
	name := fmt.Sprintf("archive/%020d.jsonl.zst", b.l.SealedSegments()[0])
	undo := remove(t, filepath.Join(b.l.Dir(), "archive"))
	b.wait("the alarm", func() bool { return b.has(alert.FileChanged, false, name) })
	undo()
	b.m.lookAgain()
	b.wait("its end", func() bool { return b.has(alert.FileChanged, true, "") })
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Microsecond)
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// TestScheduleRunsWhatIsDueAndMissedRunsOnce moves the clock, also while the service is down.
func TestScheduleRunsWhatIsDueAndMissedRunsOnce(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 18, 30, 0, 0, time.UTC)
	c := &clock{t: at}
	dir := t.TempDir()
	count := func(b *bench, scope Scope) (n int) {
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		for _, j := range b.m.waiting {
			if j.s.l == b.l && j.Scope == scope && j.Trigger == OnSchedule {
				n++
			}
		}
		return n
	}
	b := newBench(t, dir, c.now, false)
	b.m.ctx, b.m.files.first = canceled(), make(chan struct{}, 1)
	for _, tn := range b.in.Tenants() {
		for _, l := range tn.Logs() {
			b.m.add(l)
		}
	}
	b.m.due(c.now())
	if count(b, Open)+count(b, Full) != 0 {
		t.Fatal("a new log is due at once")
	}
	c.set(at.Add(29 * time.Minute))
	if b.m.due(c.now()); count(b, Open) != 0 {
		t.Error("due before the hour")
	}
	c.set(at.Add(30 * time.Minute))
	b.m.due(c.now())
	b.m.due(c.now())
	if count(b, Open) != 1 || count(b, Full) != 0 {
		t.Errorf("at the hour: %d open, %d full; want 1 and 0", count(b, Open), count(b, Full))
	}
	if err := b.m.save(); err != nil {
		t.Fatal(err)
	}
	b.stop()

	c.set(at.Add(50 * time.Hour)) // two nights later
	b = newBench(t, dir, c.now, false)
	b.m.ctx, b.m.files.first = canceled(), make(chan struct{}, 1)
	b.m.add(b.l)
	b.m.due(c.now())
	b.m.due(c.now())
	if count(b, Open) != 1 || count(b, Full) != 1 {
		t.Errorf("after downtime: %d open, %d full; want 1 and 1", count(b, Open), count(b, Full))
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestScrubberReadsEverythingWithinTheSetHoursAndGoesOnAfterARestart lets a day pass, with a restart in the middle.
func TestScrubberReadsEverythingWithinTheSetHoursAndGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	c := &clock{t: at}
	dir := t.TempDir()
	b := newBench(t, dir, c.now, false)
	for range 4 {
		b.append(512)
		if err := b.l.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s := b.l.Settings()
	s.Verify.ScrubHours = 10
	check(t, b.l.Update(t.Context(), tenant.Local("test"), s))
	sealed := b.l.SealedSegments()
	begin := func(b *bench) *logState {
		b.m.ctx, b.m.files.first = canceled(), make(chan struct{}, 1)
		b.m.add(b.l)
		st := b.m.logs[b.l]
		st.guard = must(b.l.Guard(t.Context()))
		return st
	}
	step := func(b *bench) (first uint64, ok bool) {
		st, first, _ := b.m.nextScrub(c.now())
		if st == nil {
			return 0, false
		}
		b.m.scrubSegment(t.Context(), st, first)
		return first, true
	}
	begin(b)
	var read []uint64
	for hour := range 5 {
		c.set(at.Add(time.Duration(hour) * time.Hour))
		for first, ok := step(b); ok; first, ok = step(b) {
			read = append(read, first)
		}
	}
	if !slices.Equal(read, sealed[:3]) {
		t.Errorf("after half the time %v of %v were read", read, sealed)
	}
	if got := b.m.Status(b.l).ScrubbedShare; got != 3.0/5 {
		t.Errorf("share %v", got)
	}
	check(t, b.m.save())
	b.stop()

	b = newBench(t, dir, c.now, false)
	st := begin(b)
	for hour := 5; hour < 10; hour++ {
		c.set(at.Add(time.Duration(hour)*time.Hour + time.Minute))
		for first, ok := step(b); ok; first, ok = step(b) {
			if read = append(read, first); first == endOfRound {
				break // the next round begins at once
			}
		}
	}
	if !slices.Equal(read, append(slices.Clone(sealed), endOfRound)) {
		t.Errorf("in the end %v of %v were read, each once", read, sealed)
	}
	if got := b.m.Status(b.l).Scrubbed; got.Sub(at).Abs() > time.Minute {
		t.Errorf("everything was read since %s, want %s", got, at)
	}

	// Damage that no event told of is found when its turn comes.
	name := fmt.Sprintf("archive/%020d.jsonl.zst", sealed[1])
	flip(t, filepath.Join(b.l.Dir(), filepath.FromSlash(name)))
	b.m.scrubSegment(t.Context(), st, sealed[1])
	if !b.has(alert.FileChanged, false, name) {
		t.Errorf("the scrubber did not notice; events %v", b.told())
	}
	if n := len(b.m.waiting); n != 1 || b.m.waiting[0].Scope != Full || b.m.waiting[0].Trigger != OnScrub {
		t.Errorf("%d verifications wait", n)
	}
}

// TestScrubberSaysWhenItIsLate gives it no time.
func TestScrubberSaysWhenItIsLate(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
	b := newBench(t, t.TempDir(), c.now, false)
	b.append(512)
	check(t, b.l.Rotate(t.Context()))
	b.m.ctx, b.m.files.first = canceled(), make(chan struct{}, 1)
	b.m.add(b.l)
	b.m.logs[b.l].guard = must(b.l.Guard(t.Context()))
	c.set(c.now().Add(24 * 7 * time.Hour).Add(time.Minute))
	b.m.nextScrub(c.now())
	if !b.m.Status(b.l).ScrubLate {
		t.Error("not late after the set hours")
	}
}

// TestVerificationsWaitForTheirTurn asks for more than may run, and more than may wait.
func TestVerificationsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	b.append(300)
	by := &tenant.Principal{ID: "token:abc", Tenant: tenant.DefaultName, Role: tenant.Auditor}
	hold := make(chan struct{})
	var release sync.Once
	defer release.Do(func() { close(hold) })
	o := immutable.VerifyOptions{OnReport: func(*immutable.Report) { <-hold }}
	first, err := b.m.Start(t.Context(), by, b.l, o)
	if err != nil {
		t.Fatal(err)
	}
	b.wait("the first to run", func() bool { j, _ := b.m.Job(b.l, first.ID); return j.Phase == Running })
	waits := 0
	for ; waits < maxWaitingLog+1; waits++ {
		if _, err = b.m.Start(t.Context(), by, b.l, immutable.VerifyOptions{}); err != nil {
			break
		}
	}
	if waits != maxWaitingLog || !errors.Is(err, ErrBusy) {
		t.Errorf("%d wait, then %v", waits, err)
	}
	for i, j := range b.m.Jobs(b.l) {
		if want := Queued; i < waits && j.Phase != want {
			t.Errorf("job %d of %d beside a running one is %s", i, waits, j.Phase)
		}
	}
	release.Do(func() { close(hold) })
	b.wait("all to be done", func() bool {
		return !slices.ContainsFunc(b.m.Jobs(b.l), func(j Job) bool { return j.Phase != Done })
	})
	j, ok := b.m.Job(b.l, first.ID)
	if !ok || j.By != "token:abc" || j.Report == nil && waits < maxReports || j.Ended.Before(j.Started) {
		t.Errorf("the first: %+v", j)
	}
	b.wait("the record of each end, under the principal", func() bool {
		return waits+1 == b.recorded(tenant.VerifyFinished, func(m map[string]any) bool {
			by, _ := m["by"].(map[string]any)
			return by["id"] == "token:abc" && m["verdict"] == "proven"
		})
	})
	reports := 0
	b.m.mu.Lock()
	for _, j := range b.m.logs[b.l].jobs {
		if j.Report != nil {
			reports++
		}
	}
	b.m.mu.Unlock()
	if reports != maxReports {
		t.Errorf("%d reports are kept", reports)
	}
}

// TestStopCancelsVerifications stops the monitor while one runs and one waits.
func TestStopCancelsVerifications(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	b.append(300)
	running := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := immutable.VerifyOptions{Progress: func(immutable.Progress) {
		select {
		case <-running:
		default:
			close(running)
			<-ctx.Done() // it is under way until the monitor stops
		}
	}}
	first := must(b.m.Start(t.Context(), tenant.Local("test"), b.l, o))
	second := must(b.m.Start(t.Context(), tenant.Local("test"), b.l, immutable.VerifyOptions{}))
	<-running
	go func() {
		b.wait("the stop", func() bool {
			b.m.mu.Lock()
			defer b.m.mu.Unlock()
			return b.m.stopped
		})
		cancel()
	}()
	b.stop()
	for _, id := range []string{first.ID, second.ID} {
		if j, ok := b.m.Job(b.l, id); !ok || j.Phase != Cancelled {
			t.Errorf("job %s: %+v", id, j)
		}
	}
	if _, err := b.m.Start(t.Context(), tenant.Local("test"), b.l, immutable.VerifyOptions{}); !errors.Is(err, ErrStopped) {
		t.Errorf("Start after the stop: %v", err)
	}
}

// TestVerificationIsCancelled ends one that runs and one that waits, and neither one that is over nor one of the service's own.
func TestVerificationIsCancelled(t *testing.T) {
	t.Parallel()
	b := newBench(t, t.TempDir(), nil, true)
	b.append(300)
	by := &tenant.Principal{ID: "token:abc", Tenant: tenant.DefaultName, Role: tenant.Auditor}
	running, hold := make(chan struct{}), make(chan struct{})
	var once sync.Once
	first := must(b.m.Start(t.Context(), by, b.l, immutable.VerifyOptions{Progress: func(immutable.Progress) {
		once.Do(func() { close(running) })
		<-hold
	}}))
	<-running
	second := must(b.m.Start(t.Context(), by, b.l, immutable.VerifyOptions{}))
	b.m.begin(b.m.logs[b.l], Full, OnSchedule)
	own := b.m.Jobs(b.l)[0]
	if _, ok, err := b.m.Cancel(by, b.l, own.ID); !ok || !errors.Is(err, ErrOwn) {
		t.Errorf("one of the service's own: %v, %v", ok, err)
	}
	if j, ok, err := b.m.Cancel(by, b.l, second.ID); !ok || err != nil || j.Phase != Cancelled || j.Ended.IsZero() {
		t.Errorf("one that waits: %+v, %v, %v", j, ok, err)
	}
	if _, ok, err := b.m.Cancel(by, b.l, first.ID); !ok || err != nil {
		t.Errorf("one that runs: %v, %v", ok, err)
	}
	if _, ok, _ := b.m.Cancel(by, b.l, "0"); ok {
		t.Error("one that is not there was cancelled")
	}
	close(hold)
	b.wait("the service's own to be done", func() bool { j, _ := b.m.Job(b.l, own.ID); return j.Phase == Done })
	for _, id := range []string{first.ID, second.ID} {
		if j, _ := b.m.Job(b.l, id); j.Phase != Cancelled || j.Verdict != "" || j.Error != "cancelled by token:abc" {
			t.Errorf("job %s: %+v", id, j)
		}
	}
	if j, ok, err := b.m.Cancel(by, b.l, own.ID); !ok || err != nil || j.Phase != Done {
		t.Errorf("one that is over: %+v, %v, %v", j, ok, err)
	}
	b.wait("the record of both ends", func() bool {
		return b.recorded(tenant.VerifyFinished, func(m map[string]any) bool { return m["phase"] == "cancelled" }) == 2
	})
}

// TestHistoryIsBounded remembers more jobs than may be remembered, the oldest of which still runs.
func TestHistoryIsBounded(t *testing.T) {
	s := &logState{}
	s.remember(&job{Job: Job{ID: "running", Phase: Running}})
	for i := range maxHistory + 10 {
		s.remember(&job{Job: Job{ID: fmt.Sprint(i), Phase: Done, Report: &immutable.Report{}}})
		s.letReportsGo()
	}
	reports := 0
	for _, j := range s.jobs {
		if j.Report != nil {
			reports++
		}
	}
	if len(s.jobs) != maxHistory || s.jobs[0].ID != "running" || s.jobs[maxHistory-1].ID != fmt.Sprint(maxHistory+9) || reports != maxReports {
		t.Errorf("%d jobs, the first %s, %d reports", len(s.jobs), s.jobs[0].ID, reports)
	}
}

// TestAlarmsThatAreRecordedAreBounded changes a file back and forth.
func TestAlarmsThatAreRecordedAreBounded(t *testing.T) {
	s := &logState{}
	at := time.Unix(1_800_000_000, 0)
	n := 0
	for range 10 * maxRecorded {
		if s.mayRecord(at) {
			n++
		}
	}
	if n != maxRecorded || !s.mayRecord(at.Add(2*time.Minute)) {
		t.Errorf("%d are recorded within a minute, want %d", n, maxRecorded)
	}
}
