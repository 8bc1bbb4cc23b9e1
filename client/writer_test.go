package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// writer makes a Writer that must end well.
func (s *service) writer(c *Client, cfg WriterConfig) *Writer {
	s.t.Helper()
	w, err := c.NewWriter(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = w.Close(ctx)
	})
	return w
}

// away makes a front answer as a server that takes nothing does, until the function it returns is called.
func (f *front) away() (back func()) {
	f.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	return func() { f.answers(func(http.ResponseWriter, *http.Request) bool { return false }) }
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestWriterKeepsOrderOverLostAnswers(t *testing.T) {
	for _, mode := range []Mode{Block, Spool, Drop} {
		s := serve(t)
		f := s.front()
		var n atomic.Int64
		f.changes(func(method, _ string, body io.ReadCloser) (io.ReadCloser, error) {
			if method == http.MethodPost && n.Add(1)%2 == 1 {
				return body, errors.New("cut")
			}
			return body, nil
		})
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		cfg := WriterConfig{Mode: mode, BatchEntries: 7}
		if mode == Spool {
			cfg.Dir = filepath.Join(t.TempDir(), "spool")
		}
		w := s.writer(c, cfg)
		want := []string{}
		for i := range 100 {
			want = append(want, fmt.Sprint("event ", i))
			if err := w.Info(within(t), want[i], nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(within(t)); err != nil {
			t.Fatal(err)
		}
		if got := s.messages(); !slices.Equal(got, want) {
			t.Errorf("mode %d: the log has %d events, want %d in order", mode, len(got), len(want))
		}
		if err := w.Close(within(t)); err != nil {
			t.Error(err)
		}
		if st := w.Stats(); st.Taken != 100 || st.Delivered != 100 || st.Waiting != 0 || st.LastError != nil {
			t.Errorf("stats are %+v", st)
		}
		if err := w.Info(within(t), "late", nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestBlockWaitsForRoomAndLosesNothing(t *testing.T) {
	s := serve(t)
	f := s.front()
	back := f.away()
	c := s.client(func(cfg *Config) { cfg.URL, cfg.RetryFor = f.url, -1 })
	w := s.writer(c, WriterConfig{MaxBytes: minWaiting})
	body := strings.Repeat("x", 30_000)
	taken := 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		if taken >= 5 {
			cancel() // who need not wait is not hindered by a context that has ended
		}
		err := w.Append(ctx, immutable.Event{Message: body, Metadata: immutable.Fields{"n": taken}})
		cancel()
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			break
		}
		if taken++; taken > 9 {
			t.Fatal("more was taken than there is room for")
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 10 {
			if err := w.Append(within(t), immutable.Event{Message: body, Metadata: immutable.Fields{"n": taken + i}}); err != nil {
				t.Error(err)
			}
		}
	})
	back()
	wg.Wait()
	if err := w.Close(within(t)); err != nil {
		t.Error(err)
	}
	if got := s.messages(); len(got) != taken+10 {
		t.Errorf("the log has %d events, want %d", len(got), taken+10)
	}
	if _, err := c.NewWriter(WriterConfig{MaxBytes: minWaiting - 1}); err == nil {
		t.Error("less room than the least is taken")
	}
}

func TestDropRecordsTheGapInItsPlace(t *testing.T) {
	s := serve(t)
	f := s.front()
	back := f.away()
	c := s.client(func(cfg *Config) { cfg.URL, cfg.RetryFor = f.url, -1 })
	w := s.writer(c, WriterConfig{Mode: Drop, MaxBytes: minWaiting})
	body := strings.Repeat("x", 30_000)
	taken, dropped := 0, 0
	for i := range 20 {
		err := w.Append(t.Context(), immutable.Event{Message: body, Metadata: immutable.Fields{"i": i}})
		switch {
		case errors.Is(err, ErrDropped):
			dropped++
		case err != nil:
			t.Fatal(err)
		case dropped > 0:
			t.Error("an event was taken behind one that was dropped, without a record between them")
		default:
			taken++
		}
	}
	if taken < 8 || dropped < 8 || w.Stats().Dropped != uint64(dropped) {
		t.Fatalf("%d taken, %d dropped, stats %+v", taken, dropped, w.Stats())
	}
	// A writer that is closed now says what is lost.
	back()
	if err := w.Flush(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.Info(within(t), "after", nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	var found []immutable.Entry
	for e, err := range s.log().Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, e)
	}
	if len(found) != taken+2 || found[taken+1].Message != "after" {
		t.Fatalf("the log has %d entries, want %d, a gap record and one more", len(found), taken)
	}
	gap := found[taken]
	if gap.Level != immutable.Warn || !bytes.Contains(gap.Metadata, fmt.Appendf(nil, `"dropped":%d,"from":"`, dropped)) || !bytes.Contains(gap.Metadata, []byte(`"type":"immutable.gap"`)) {
		t.Errorf("the gap record is %s %s", gap.Level, gap.Metadata)
	}
}

func TestCloseSaysWhatIsNotDelivered(t *testing.T) {
	s := serve(t)
	f := s.front()
	f.away()
	c := s.client(func(cfg *Config) { cfg.URL, cfg.RetryFor = f.url, -1 })
	dir := filepath.Join(t.TempDir(), "spool")
	for _, cfg := range []WriterConfig{{}, {Mode: Spool, Dir: dir}} {
		w := s.writer(c, cfg)
		for i := range 5 {
			if err := w.Info(within(t), fmt.Sprint("event ", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		var left *UndeliveredError
		if err := w.Flush(ended); !errors.As(err, &left) || left.Events != 5 {
			t.Errorf("flush: %v", err)
		}
		if err := w.Close(ended); !errors.As(err, &left) || left.Events != 5 || left.Spooled != (cfg.Mode == Spool) {
			t.Errorf("close: %v", err)
		}
		if err := w.Close(ended); !errors.Is(err, ErrClosed) {
			t.Errorf("close again: %v", err)
		}
	}
	f.answers(func(http.ResponseWriter, *http.Request) bool { return false })
	w := s.writer(c, WriterConfig{Mode: Spool, Dir: dir})
	if _, err := c.NewWriter(WriterConfig{Mode: Spool, Dir: dir}); err == nil {
		t.Error("two writers have one spool")
	}
	if err := w.Close(within(t)); err != nil {
		t.Error(err)
	}
	if got := s.messages(); len(got) != 5 || got[4] != "event 4" {
		t.Errorf("the log has %q", got)
	}
}

func TestRefusedEventDoesNotHoldUpTheOthers(t *testing.T) {
	s := serve(t)
	c := s.client(nil)
	if _, err := c.Append(t.Context(), immutable.Event{Message: "first", IdempotencyKey: "taken"}); err != nil {
		t.Fatal(err)
	}
	var told []error
	w := s.writer(c, WriterConfig{OnError: func(err error) { told = append(told, err) }})
	events := make([]immutable.Event, 20)
	for i := range events {
		events[i].Message = fmt.Sprint("event ", i)
	}
	events[13].IdempotencyKey = "taken"
	if err := w.Append(within(t), events...); err != nil {
		t.Fatal(err)
	}
	err := w.Close(within(t))
	var r *RejectedError
	var conflict *immutable.KeyConflictError
	if !errors.As(err, &r) || !errors.As(err, &conflict) || !bytes.Contains(r.Event, []byte("event 13")) || errors.As(err, new(*UndeliveredError)) {
		t.Errorf("close: %v", err)
	}
	if len(told) != 1 || w.Stats().Rejected != 1 || w.Stats().Delivered != 19 {
		t.Errorf("told %v, stats %+v", told, w.Stats())
	}
	if got := s.messages(); len(got) != 20 || got[14] != "event 14" {
		t.Errorf("the log has %q", got)
	}
	if err := w.Append(within(t), immutable.Event{Message: "\xff"}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A token that has been revoked is a matter for an administrator, and no reason to lose what waits.
func TestRevokedTokenKeepsEventsWaiting(t *testing.T) {
	s := serve(t)
	var token atomic.Value
	token.Store("imt_00000000_wrong")
	c := s.client(func(cfg *Config) {
		cfg.Token, cfg.RetryFor = "", -1
		cfg.TokenSource = func(context.Context) (string, error) { return token.Load().(string), nil }
	})
	w := s.writer(c, WriterConfig{})
	if err := w.Info(within(t), "waits", nil); err != nil {
		t.Fatal(err)
	}
	var p *Problem
	for !errors.As(w.Stats().LastError, &p) {
		time.Sleep(time.Millisecond)
	}
	if p.Status != http.StatusUnauthorized || w.Stats().Waiting != 1 {
		t.Errorf("got %v, %+v", p, w.Stats())
	}
	token.Store(s.token(tenant.TokenSpec{Role: tenant.Writer}))
	if err := w.Close(within(t)); err != nil {
		t.Error(err)
	}
}

// The spool is read as it was left: whole, or with the torn end of an append that was not acknowledged.
func TestSpoolSurvivesItsTornEndAndNothingElse(t *testing.T) {
	s := serve(t)
	f := s.front()
	f.away()
	c := s.client(func(cfg *Config) { cfg.URL, cfg.RetryFor = f.url, -1 })
	dir := filepath.Join(t.TempDir(), "spool")
	w := s.writer(c, WriterConfig{Mode: Spool, Dir: dir})
	for i := range 3 {
		if err := w.Info(within(t), fmt.Sprint("event ", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = w.Close(ended)
	whole, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	open := func(data []byte) (waiting uint64, err error) {
		disk := vfstest.New()
		if err := disk.Mkdir("spool", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := vfs.WriteAtomic(disk, "tmp", "spool/"+segmentName(1), data, 0o600); err != nil {
			t.Fatal(err)
		}
		sp, waiting, err := openSpool(disk, "spool", "default", "main", 1<<20)
		if err != nil {
			return 0, err
		}
		batch, err := sp.front(10, 1<<20)
		if uint64(len(batch)) != waiting || err != nil {
			t.Errorf("%d wait, %d come, %v", waiting, len(batch), err)
		}
		// What a crash left is opened again as well as the first time.
		if err := sp.close(); err != nil {
			t.Fatal(err)
		}
		again, n, err := openSpool(disk, "spool", "default", "main", 1<<20)
		if err != nil || n != waiting {
			t.Fatalf("opened again: %d, %v", n, err)
		}
		return waiting, again.close()
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	ends := []int{len(lines[0])}
	for _, l := range lines[1:4] {
		ends = append(ends, ends[len(ends)-1]+len(l))
	}
	for n := range len(whole) + 1 {
		want := uint64(0)
		for i, end := range ends[1:] {
			if n >= end {
				want = uint64(i + 1)
			}
		}
		if got, err := open(whole[:n]); err != nil || got != want {
			t.Fatalf("cut to %d of %d bytes: %d wait, %v, want %d", n, len(whole), got, err, want)
		}
	}
	for n := range ends[2] { // a byte before the last line
		changed := slices.Clone(whole)
		changed[n] ^= 0x20
		if got, err := open(changed); err == nil {
			t.Fatalf("byte %d changed: %d wait and no error", n, got)
		}
	}
	if _, _, err := openSpool(c.fs, dir, "default", "other", 1<<20); err == nil || !strings.Contains(err.Error(), "a spool is of one log") {
		t.Errorf("another log's spool: %v", err)
	}
}

func TestSpoolGoesOverSegmentsAndRemovesThem(t *testing.T) {
	s := serve(t)
	c := s.client(nil)
	dir := filepath.Join(t.TempDir(), "spool")
	w := s.writer(c, WriterConfig{Mode: Spool, Dir: dir})
	body := strings.Repeat("x", 60_000)
	const n = 160 // 9.6 MB: more than one segment takes
	for i := range n {
		if err := w.Append(within(t), immutable.Event{Message: body, Metadata: immutable.Fields{"n": i}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := len(s.messages()); got != n {
		t.Errorf("the log has %d events, want %d", got, n)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil || len(names) != 1 {
		t.Errorf("what was delivered is still in %v, %v", names, err)
	}
	if _, err := os.Stat(filepath.Join(dir, segmentName(1))); err == nil {
		t.Error("the first segment is there: nothing was rotated")
	}
}

func TestFullSpoolMakesCallersWait(t *testing.T) {
	s := serve(t)
	f := s.front()
	back := f.away()
	c := s.client(func(cfg *Config) { cfg.URL, cfg.RetryFor = f.url, -1 })
	w := s.writer(c, WriterConfig{Mode: Spool, Dir: filepath.Join(t.TempDir(), "spool"), MaxBytes: minWaiting})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	taken := 0
	for {
		if err := w.Append(ended, immutable.Event{Message: strings.Repeat("x", 30_000)}); errors.Is(err, context.Canceled) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if taken++; taken > 9 {
			t.Fatal("more was taken than there is room for")
		}
	}
	back()
	if err := w.Append(within(t), immutable.Event{Message: "fits again"}); err != nil {
		t.Error(err)
	}
	if err := w.Close(within(t)); err != nil {
		t.Error(err)
	}
}

// Power cuts at random moments: what put acknowledged comes out of front once, in order, until pop was told of it.
func TestCrashLosesNothingThatTheSpoolAcknowledged(t *testing.T) {
	rng := vfstest.Rand(t)
	rounds := 300
	if os.Getenv("IMMUTABLE_LONG") != "" {
		rounds = 20_000
	}
	for range rounds {
		disk := vfstest.New()
		if err := disk.Mkdir("d", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := disk.SyncDir("."); err != nil {
			t.Fatal(err)
		}
		next, popped, sure := 0, 0, map[int]bool{} // numbers given out; delivered for certain; acknowledged
		for range 4 {
			s, waiting, err := openSpool(disk, "d", "t", "l", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			batch, err := s.front(1000, 1<<20)
			for err == nil && uint64(len(batch)) < waiting { // over segments
				n := len(batch)
				if err = s.pop(n); err == nil {
					checkRun(t, batch, popped, sure)
					popped, waiting = lastOf(t, batch)+1, waiting-uint64(n)
					batch, err = s.front(1000, 1<<20)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			checkRun(t, batch, popped, sure)
			for n := range sure {
				if n >= popped && (len(batch) == 0 || n > lastOf(t, batch)) {
					t.Fatalf("event %d was acknowledged and is gone", n)
				}
			}
			disk.CutAfter(rng.Uint64N(40))
			for err == nil {
				switch rng.IntN(4) {
				case 0:
					if batch, err = s.front(1+rng.IntN(4), 1<<20); err == nil && len(batch) > 0 {
						last := lastOf(t, batch)
						if err = s.pop(len(batch)); err == nil {
							popped = last + 1
						} else {
							popped = -1 // written down or not
						}
					}
				default:
					var lines [][]byte
					first := next
					for range 1 + rng.IntN(5) {
						lines = append(lines, fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, next, strings.Repeat("x", rng.IntN(900))))
						next++
					}
					if err = s.put(lines); err == nil {
						for n := first; n < next; n++ {
							sure[n] = true
						}
					}
				}
			}
			if !errors.Is(err, vfstest.ErrPowerCut) {
				t.Fatal(err)
			}
			_ = s.close() // the power is off
			disk = disk.Crash(rng)
			if popped < 0 {
				break
			}
		}
	}
}

// numberOf is the number in an event of the crash test.
func numberOf(t *testing.T, d *draft) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(string(d.appendJSON(nil)), `{"n":%d,`, &n); err != nil {
		t.Fatalf("%q: %v", d.line, err)
	}
	return n
}

func lastOf(t *testing.T, batch []draft) int {
	t.Helper()
	return numberOf(t, &batch[len(batch)-1])
}

// checkRun checks that a batch ascends, begins at what was not delivered, and leaves out nothing that was acknowledged.
func checkRun(t *testing.T, batch []draft, from int, sure map[int]bool) {
	t.Helper()
	want := from
	for i := range batch {
		n := numberOf(t, &batch[i])
		for ; want < n; want++ {
			if sure[want] {
				t.Fatalf("event %d was acknowledged, and %d comes in its place", want, n)
			}
		}
		if n < want {
			t.Fatalf("event %d comes again or too late: want %d", n, want)
		}
		want++
	}
}

// childEnv makes the test binary an application that writes to a spool and is killed.
const childEnv = "IMMUTABLE_CLIENT_TEST_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		application(strings.Split(args, "\n"))
		return
	}
	os.Exit(m.Run())
}

// application appends numbered events from a number on, from four goroutines that take turns at numbers of their own, and prints
// each that was taken.
func application(args []string) {
	c, err := New(Config{URL: args[0], Token: rootToken, RetryFor: -1})
	if err != nil {
		panic(err)
	}
	c.pause = func(ctx context.Context, d time.Duration) error { return pause(ctx, min(d, 2*time.Millisecond)) }
	w, err := c.NewWriter(WriterConfig{Mode: Spool, Dir: args[1], BatchEntries: 5})
	if err != nil {
		panic(err)
	}
	first, err := strconv.Atoi(args[2])
	if err != nil {
		panic(err)
	}
	for g := range 4 {
		go func() {
			for i := first; ; i++ {
				if err := w.Append(context.Background(), immutable.Event{Message: fmt.Sprintf("%d/%d", g, i)}); err != nil {
					panic(err)
				}
				fmt.Printf("%d/%d\n", g, i)
			}
		}()
	}
	select {}
}

// An application that is killed with kill -9 again and again, while the server goes away and comes back: what it was told is
// taken reaches the log, once, and in order.
func TestKillOfTheApplicationLosesNothingOfTheSpool(t *testing.T) {
	s := serve(t)
	f := s.front()
	dir := filepath.Join(t.TempDir(), "spool")
	taken := map[int]int{} // of each goroutine, the last number that was taken; numbers of later runs are higher
	rounds := 6
	if os.Getenv("IMMUTABLE_LONG") != "" {
		rounds = 50
	}
	all := map[string]bool{}
	for round := range rounds {
		back := func() {}
		if round%2 == 0 {
			back = f.away()
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{f.url, dir, strconv.Itoa(round * 1_000_000)}, "\n"))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			all[lines.Text()] = true
			if n == 40 {
				back()
			}
			if n == 40+37*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		back()
	}
	c := s.client(nil)
	w := s.writer(c, WriterConfig{Mode: Spool, Dir: dir})
	if err := w.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range s.messages() {
		if seen[m] {
			t.Errorf("event %s is in the log twice", m)
		}
		seen[m] = true
		var g, i int
		if _, err := fmt.Sscanf(m, "%d/%d", &g, &i); err != nil {
			t.Fatalf("message %q", m)
		}
		if last, found := taken[g]; found && i <= last {
			t.Errorf("event %s comes after %d/%d", m, g, last)
		}
		taken[g] = i
	}
	for m := range all {
		if !seen[m] {
			t.Errorf("event %s was taken and is not in the log", m)
		}
	}
	if len(all) < 40*rounds {
		t.Errorf("only %d events were taken", len(all))
	}
}

func FuzzSpoolLine(f *testing.F) {
	f.Add(appendSpoolLine(nil, []byte("{}"), 31))
	f.Fuzz(func(t *testing.T, data []byte) {
		event, from, n := parseSpoolLine(data)
		if n > len(data) || n > maxSpoolLine || n > 0 && !bytes.Equal(appendSpoolLine(nil, event, from), data[:n]) {
			t.Errorf("%q, %d from %q", event, n, data)
		}
	})
}
