package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

func TestEveryLevelIsAppendedAndReadBackProven(t *testing.T) {
	s := serve(t)
	c := s.client(nil)
	ctx := t.Context()
	var receipts []immutable.Receipt
	for i, appendOne := range []func(context.Context, string, immutable.Fields) (immutable.Receipt, error){
		c.Info, c.Warn, c.Error, c.Critical, c.Audit, c.Security, c.Revenue, c.System,
	} {
		r, err := appendOne(ctx, fmt.Sprintf("naïve \"%d\"\n", i), immutable.Fields{"i": i, "html": "<&>\u2028"})
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	for i, r := range receipts {
		e, err := c.Entry(ctx, r.Index)
		if err != nil {
			t.Fatal(err)
		}
		if e.Level != immutable.Level(i) || e.Message != fmt.Sprintf("naïve \"%d\"\n", i) || e.Leaf != r.Leaf || e.ID != r.ID || e.Hostname != "app.example" {
			t.Errorf("entry %d is %+v", i, e)
		}
		if err := c.CheckReceipt(ctx, r); err != nil {
			t.Error(err)
		}
		b, err := c.Block(ctx, r.Index)
		if err != nil || b.Hash != r.Hash {
			t.Errorf("block %d is %+v, %v", i, b, err)
		}
		text, err := c.Proof(ctx, r.Index)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := proof.ParseInclusionProof(text); err != nil || p.Index != r.Index {
			t.Errorf("proof %d is %+v, %v", i, p, err)
		}
	}
	bad := receipts[0]
	bad.Leaf[0] ^= 1
	if err := c.CheckReceipt(ctx, bad); !errors.As(err, new(*VerificationError)) {
		t.Errorf("a forged receipt is taken: %v", err)
	}
	if _, err := c.Entry(ctx, 1000); !errors.Is(err, immutable.ErrNotFound) {
		t.Errorf("an entry that is not there: %v", err)
	}
}

func TestReadsAreWholeInBothOrdersAndOverPages(t *testing.T) {
	s := serve(t)
	const n = 3*pageSize + 7
	s.fill(n)
	c := s.client(nil)
	indexes := func(q immutable.Query, read func(context.Context, immutable.Query) func(func(immutable.Entry, error) bool)) (out []uint64) {
		for e, err := range read(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.Index)
		}
		return out
	}
	entries := func(ctx context.Context, q immutable.Query) func(func(immutable.Entry, error) bool) {
		return c.Entries(ctx, q)
	}
	search := func(ctx context.Context, q immutable.Query) func(func(immutable.Entry, error) bool) {
		return c.Search(ctx, q)
	}
	all := make([]uint64, n)
	for i := range all {
		all[i] = uint64(i)
	}
	if got := indexes(immutable.Query{}, entries); !slices.Equal(got, all) {
		t.Errorf("got %d entries, first %v", len(got), got[:min(len(got), 3)])
	}
	if got := indexes(immutable.Query{From: 1100}, entries); !slices.Equal(got, all[1100:]) {
		t.Errorf("from 1100: got %d entries", len(got))
	}
	if got := indexes(immutable.Query{Limit: 620}, search); len(got) != 620 || got[0] != n-1 || got[619] != n-620 {
		t.Errorf("newest 620: got %d entries", len(got))
	}
	if got := indexes(immutable.Query{Text: "n:5..9"}, search); !slices.Equal(got, []uint64{9, 8, 7, 6, 5}) {
		t.Errorf("search: got %v", got)
	}
	if got := indexes(immutable.Query{Levels: []immutable.Level{immutable.Audit, immutable.System}, Limit: 4}, entries); !slices.Equal(got, []uint64{4, 7, 12, 15}) {
		t.Errorf("levels: got %v", got)
	}
	if got := indexes(immutable.Query{Reverse: true, From: 3}, entries); !slices.Equal(got, []uint64{3, 2, 1, 0}) {
		t.Errorf("reverse from 3: got %v", got)
	}
	var q *immutable.QueryError
	for _, err := range c.Search(t.Context(), immutable.Query{Text: "a AND"}) {
		if !errors.As(err, &q) {
			t.Errorf("a mistake in the query: %v", err)
		}
	}
}

func TestCountsStatsAndVerificationAreTheLogs(t *testing.T) {
	s := serve(t)
	s.fill(64)
	c := s.client(nil)
	ctx := t.Context()
	if n, err := c.Count(ctx, immutable.Query{Text: "n:<10", Verified: true}); err != nil || n.N != 10 || n.Sealed {
		t.Errorf("count is %+v, %v", n, err)
	}
	by, err := c.CountBy(ctx, immutable.Query{}, "level")
	if err != nil || by.N != 64 || len(by.Rows) != 8 || by.Rows[0].N != 8 {
		t.Errorf("counts are %+v, %v", by, err)
	}
	h, err := c.Histogram(ctx, immutable.Query{}, 24*time.Hour)
	if err != nil || h.N != 64 || len(h.Buckets) == 0 || len(h.Buckets) > 2 {
		t.Errorf("histogram is %+v, %v", h, err)
	}
	st, err := c.Stats(ctx)
	if err != nil || st.TotalEntries != 64 || st.Levels["AUDIT"] != 8 {
		t.Errorf("stats are %+v, %v", st, err)
	}
	if _, err := c.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	rep, err := c.Verify(ctx, immutable.VerifyOptions{})
	if err != nil || rep.Verdict != immutable.Proven || rep.Size != 64 || rep.Root != rootOf(s) {
		t.Errorf("report is %+v, %v", rep, err)
	}
	if _, err := c.Verify(ctx, immutable.VerifyOptions{NoHead: true}); err == nil {
		t.Error("an option that has no effect is taken")
	}
}

func rootOf(s *service) immutable.Hash {
	root, _ := s.log().Root()
	return root
}

// Answers that are lost on their way back are the case that idempotency keys are for.
func TestEventLandsOnceThoughAnswersAreLost(t *testing.T) {
	s := serve(t)
	f := s.front()
	var n atomic.Int64
	f.changes(func(method, _ string, body io.ReadCloser) (io.ReadCloser, error) {
		if method == http.MethodPost && n.Add(1)%3 != 0 {
			return body, errors.New("cut") // the log has it, and the client hears nothing
		}
		return body, nil
	})
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	for i := range 20 {
		r, err := c.Audit(t.Context(), fmt.Sprint("lost ", i), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Index != uint64(i) {
			t.Errorf("event %d is entry %d", i, r.Index)
		}
	}
	if got := s.messages(); len(got) != 20 {
		t.Errorf("the log has %d events, want 20", len(got))
	}
}

func TestUncertainAppendIsSaidAndSettledByItsKey(t *testing.T) {
	s := serve(t)
	f := s.front()
	f.changes(func(_, _ string, body io.ReadCloser) (io.ReadCloser, error) { return body, errors.New("cut") })
	c := s.client(func(cfg *Config) { cfg.URL, cfg.RetryFor = f.url, -1 })
	e := immutable.Event{Message: "perhaps", IdempotencyKey: "mine"}
	if _, err := c.Append(t.Context(), e); !errors.Is(err, immutable.ErrUncertain) {
		t.Fatalf("got %v, want uncertain", err)
	}
	f.changes(honest)
	rs, err := c.Append(t.Context(), e)
	if err != nil || !rs[0].Repeated {
		t.Errorf("got %+v, %v", rs, err)
	}
	var conflict *immutable.KeyConflictError
	if _, err := c.Append(t.Context(), immutable.Event{Message: "other", IdempotencyKey: "mine"}); !errors.As(err, &conflict) || conflict.Index != rs[0].Index {
		t.Errorf("got %v, want a conflict with entry %d", err, rs[0].Index)
	}
}

// A refusal, or a server that nobody reached, is not uncertain.
func TestCertainFailuresAreNotUncertain(t *testing.T) {
	s := serve(t)
	reader := s.token(tenant.TokenSpec{Role: tenant.Reader})
	c := s.client(func(cfg *Config) { cfg.Token, cfg.RetryFor = reader, -1 })
	var p *Problem
	if _, err := c.Info(t.Context(), "no", nil); !errors.As(err, &p) || p.Code != "forbidden" || errors.Is(err, immutable.ErrUncertain) {
		t.Errorf("got %v", err)
	}
	s.stop()
	if _, err := c.Info(t.Context(), "no", nil); err == nil || errors.Is(err, immutable.ErrUncertain) {
		t.Errorf("got %v", err)
	}
	var field *immutable.FieldError
	if _, err := c.Info(t.Context(), "no", immutable.Fields{"f": func() {}}); !errors.As(err, &field) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Append(t.Context(), make([]immutable.Event, immutable.MaxBatchEntries+1)...); !errors.Is(err, immutable.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	big := immutable.Event{Message: strings.Repeat("x", 60_000)}
	if _, err := c.Append(t.Context(), slices.Repeat([]immutable.Event{big}, 300)...); !errors.Is(err, immutable.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	s := serve(t)
	f := s.front()
	var asked atomic.Int64
	f.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && asked.Add(1) == 1 {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	})
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	var waits []time.Duration
	c.pause = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
	if _, err := c.Info(t.Context(), "later", nil); err != nil {
		t.Fatal(err)
	}
	if len(waits) != 1 || waits[0] != 7*time.Second {
		t.Errorf("waited %v, want 7s", waits)
	}
	// A time that is beyond what the caller wants to wait is not waited for.
	asked.Store(0)
	c.cfg.RetryFor = 5 * time.Second
	if _, err := c.Info(t.Context(), "later", nil); err == nil || len(waits) != 1 {
		t.Errorf("got %v after %v", err, waits)
	}
}

func TestPausesGrowAndEnd(t *testing.T) {
	c, err := New(Config{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	c.now = func() time.Time { return now }
	var waits []time.Duration
	c.pause = func(_ context.Context, d time.Duration) error { now = now.Add(d); waits = append(waits, d); return nil }
	if _, err := c.Stats(t.Context()); err == nil {
		t.Fatal("nobody is there, and answers")
	}
	total := time.Duration(0)
	for i, w := range waits {
		if limit := min(firstPause<<i, maxPause); w < limit/2 || w > limit {
			t.Errorf("pause %d is %s, want between half of %s and that", i, w, limit)
		}
		total += w
	}
	if total > defaultRetryFor || total < defaultRetryFor-maxPause {
		t.Errorf("gave up after %s of pauses, want about %s", total, defaultRetryFor)
	}
}

func TestRedirectionIsNotFollowedWithTheToken(t *testing.T) {
	s := serve(t)
	f := s.front()
	f.answers(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, s.url()+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	var p *Problem
	if _, err := c.Stats(t.Context()); !errors.As(err, &p) || p.Status != http.StatusTemporaryRedirect {
		t.Errorf("got %v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for _, n := range []int64{10, 11} {
		data, err := readAll(io.LimitReader(zeros{}, n), 10)
		if (err == nil) != (n == 10) {
			t.Errorf("%d bytes with a limit of 10: %d, %v", n, len(data), err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestFollowHasNoGapAndNoDuplicateOverBrokenConnections(t *testing.T) {
	s := serve(t)
	s.fill(300)
	f := s.front()
	var streams atomic.Int64
	f.changes(func(_, path string, body io.ReadCloser) (io.ReadCloser, error) {
		if strings.HasSuffix(path, "/stream") {
			// Each connection breaks after some bytes, in the middle of whatever is sent then.
			return &cutBody{ReadCloser: body, left: 3000 + 1777*streams.Add(1)}, nil
		}
		return body, nil
	})
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 300 {
			if _, err := s.log().Info(ctx, fmt.Sprint("live ", i), nil); err != nil {
				t.Error(err)
				return
			}
		}
	})
	want := uint64(0)
	for e, err := range c.Subscribe(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != want {
			t.Fatalf("got entry %d, want %d", e.Index, want)
		}
		if want++; want == 600 {
			break
		}
	}
	wg.Wait()
	if streams.Load() < 3 {
		t.Errorf("only %d connections: nothing was broken", streams.Load())
	}
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("cut")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func TestFollowSelects(t *testing.T) {
	s := serve(t)
	s.fill(64)
	c := s.client(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []uint64
	for e, err := range c.Follow(ctx, immutable.Query{Text: "n:>=8", Levels: []immutable.Level{immutable.Security}, From: 20}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.Index); len(got) == 3 {
			break
		}
	}
	if !slices.Equal(got, []uint64{21, 29, 37}) {
		t.Errorf("got %v", got)
	}
	for _, err := range c.Follow(ctx, immutable.Query{Limit: 3}) {
		if err == nil {
			t.Error("a limit is taken, which a stream has not")
		}
		break
	}
}

func TestReaderWithLevelsSeesNoGaps(t *testing.T) {
	s := serve(t)
	s.fill(64)
	token := s.token(tenant.TokenSpec{Role: tenant.Auditor, Levels: []immutable.Level{immutable.Audit}})
	c := s.client(func(cfg *Config) { cfg.Token, cfg.Levels = token, []immutable.Level{immutable.Audit} })
	n := 0
	for e, err := range c.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; e.Level != immutable.Audit {
			t.Errorf("entry %d has level %s", e.Index, e.Level)
		}
	}
	if n != 8 {
		t.Errorf("got %d entries, want 8", n)
	}
	// One that was not told about its levels takes what it may not see for left out.
	plain := s.client(func(cfg *Config) { cfg.Token = token })
	var last error
	for _, err := range plain.Entries(t.Context(), immutable.Query{}) {
		last = err
	}
	if !errors.As(last, new(*VerificationError)) {
		t.Errorf("got %v", last)
	}
}

func TestConfigurationMistakesAreSaid(t *testing.T) {
	s := serve(t)
	keys := s.log().VerifierKeys()
	for want, cfg := range map[string]Config{
		"want http://HOST":     {URL: "logs.example.com"},
		"without user":         {URL: "https://user:secret@logs.example.com"},
		"name of a log":        {URL: "http://h", Log: "../x"},
		"its newline":          {URL: "http://h", Token: "abc\n"},
		"state file without":   {URL: "http://h", State: "x"},
		"a log's own key":      {URL: "http://h", Keys: keys[:1]},
		"pinned key":           {URL: "http://h", Keys: []string{"x", "y", "z"}},
		"another client has":   {URL: "http://h", Keys: keys, State: takenState(t, keys)},
		"is not one of immuta": {URL: "http://h", Keys: keys, State: junkState(t)},
	} {
		if c, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want an error with %q, got %v", want, err)
			if c != nil {
				_ = c.Close()
			}
		}
	}
}

func FuzzStreamOfEvents(f *testing.F) {
	f.Add([]byte("retry: 100\nid: 4\n\nid: 5\nevent: entry\ndata: {\"index\":5}\n\n: heartbeat\nid: 9\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		err := readEvents(bytes.NewReader(data), func(ev *event) error { n += len(ev.data) + 1; return nil }, func() {})
		if n > len(data)+1 || err != nil && !errors.As(err, new(*VerificationError)) {
			t.Errorf("%d from %d bytes, %v", n, len(data), err)
		}
	})
}

func FuzzEntryOfAnAnswer(f *testing.F) {
	f.Add([]byte(`{"index":0,"leaf":"0000000000000000000000000000000000000000000000000000000000000000","id":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := parseEntry(data); err == nil && proof.LeafHash(e.Line) != e.Leaf {
			t.Errorf("entry %d has another leaf hash than its line", e.Index)
		}
	})
}
