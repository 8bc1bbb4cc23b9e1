package immutable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/timestamp"
	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
)

// anchor is the control entry that names a stamp.
type anchor struct {
	Type   string    `json:"type"`
	Size   uint64    `json:"size"`
	Time   time.Time `json:"time"`
	File   string    `json:"file"`
	SHA256 string    `json:"sha256"`
	index  uint64
}

func anchors(t *testing.T, l *Log) (list []anchor) {
	t.Helper()
	for e, err := range l.Entries(context.Background(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		a := anchor{index: e.Index}
		if e.Control == nil {
			continue
		}
		if err := json.Unmarshal(e.Control, &a); err != nil {
			t.Fatal(err)
		}
		if a.Type == "anchor" {
			list = append(list, a)
		}
	}
	return list
}

// checkAnchor holds an anchor to the format: file, hash, imprint, and the checkpoint of that size in the history.
func checkAnchor(t *testing.T, l *Log, a *anchor, roots *tsatest.Authority) {
	t.Helper()
	der, err := os.ReadFile(filepath.Join(l.Dir(), filepath.FromSlash(a.File)))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(der); hex.EncodeToString(sum[:]) != a.SHA256 {
		t.Errorf("the anchor has hash %s, the file %x", a.SHA256, sum)
	}
	s, err := timestamp.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(roots.Roots()); err != nil {
		t.Error(err)
	}
	if !s.Time.Equal(a.Time) || a.Size > a.index {
		t.Errorf("the anchor has time %v and size %d at index %d, the stamp %v", a.Time, a.Size, a.index, s.Time)
	}
	notes, err := l.CheckpointHistory()
	if err != nil {
		t.Fatal(err)
	}
	for _, note := range notes {
		c, err := l.openCheckpoint(note)
		if err != nil {
			t.Fatal(err)
		}
		if c.Size == a.Size {
			if want := sha256.Sum256([]byte(c.Text())); s.Digest != want {
				t.Errorf("the stamp is over %x, the checkpoint has %x", s.Digest, want)
			}
			return
		}
	}
	t.Errorf("no kept checkpoint of size %d", a.Size)
}

func stampedLog(t *testing.T, urls ...string) *Log {
	t.Helper()
	l, err := Open(t.TempDir(), &Config{
		StateDir: t.TempDir(), Origin: "example.com/stamped", CheckpointInterval: time.Millisecond, TimeAuthorities: urls, TimeInterval: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// until waits for a state that another goroutine brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 20_000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s: not within twenty seconds", what)
}

func TestPublishedCheckpointsAreStampedAndAnchored(t *testing.T) {
	a, b := tsatest.New(t, nil), tsatest.New(t, nil)
	first, second := httptest.NewServer(a), httptest.NewServer(b)
	defer first.Close()
	defer second.Close()
	l := stampedLog(t, first.URL, second.URL)
	if _, err := l.Append(context.Background(), events(0, 300)...); err != nil {
		t.Fatal(err)
	}
	until(t, "two anchors", func() bool { return len(anchors(t, l)) == 2 })
	if _, err := l.Append(context.Background(), events(300, 1)...); err != nil {
		t.Fatal(err)
	}
	until(t, "four anchors", func() bool { return len(anchors(t, l)) == 4 })
	for i, x := range anchors(t, l) {
		checkAnchor(t, l, &x, []*tsatest.Authority{a, b}[i%2])
	}
	s, err := l.Stamping()
	if err != nil || len(s.Authorities) != 2 || s.Time == nil || s.Authorities[0].Size < 300 || s.Authorities[0].Error != "" || s.Authorities[1].Time == nil {
		t.Errorf("stamping is %+v, %v", s, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	rep, err := VerifyDir(context.Background(), l.Dir(), &Config{StateDir: l.cfg.StateDir}, VerifyOptions{})
	if err != nil || rep.Verdict != Proven || len(rep.Findings) > 0 {
		t.Errorf("got %+v, %v", rep, err)
	}
}

// A log to which nothing is appended must not grow by its own anchors, neither in this session nor after it is opened again.
func TestIdleLogIsStampedOnce(t *testing.T) {
	a := tsatest.New(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	l := stampedLog(t, server.URL, server.URL+"/b")
	if _, err := l.Append(context.Background(), events(0, 5)...); err != nil {
		t.Fatal(err)
	}
	until(t, "two anchors", func() bool { return len(anchors(t, l)) == 2 })
	quiet := func(l *Log) {
		t.Helper()
		// The checkpoint over the anchors is published and was looked at: the authorities' tails are past it.
		until(t, "a checkpoint over the anchors", func() bool {
			l.stamping.mu.Lock()
			defer l.stamping.mu.Unlock()
			return l.stamping.newest == 7 && l.stamping.authorities[0].tail == 7 && l.stamping.authorities[1].tail == 7
		})
		if due, _ := l.stamping.due(time.Now().Add(time.Hour)); len(due) != 0 || a.Asked.Load() != 2 || l.Size() != 7 {
			t.Errorf("%d authorities are due, %d questions, %d entries", len(due), a.Asked.Load(), l.Size())
		}
	}
	quiet(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(l.Dir(), &l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	quiet(again)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// Everything that an authority can do wrong costs nothing but the stamp: it is said, and asked again later.
func TestBadAuthorityIsBoundedAndSaid(t *testing.T) {
	a := tsatest.New(t, nil)
	old := a.Stamp([32]byte{1}, nil)
	reply := func(body func() []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/timestamp-reply")
			_, _ = w.Write(body())
		}
	}
	var sent atomic.Int64
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"an error": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }, "status 503"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		}, "status 307"},
		"a page":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "type"},
		"an old answer": {reply(func() []byte { return old }), "asked was"},
		"nothing":       {reply(func() []byte { return nil }), "cut off"},
		"rubbish":       {reply(func() []byte { return bytes.Repeat([]byte{0x30, 0x80}, 1000) }), "DER"},
		"an endless one": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/timestamp-reply")
			for chunk := make([]byte, 4096); sent.Load() < 64<<20; sent.Add(4096) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, "at most 65536"},
	} {
		server := httptest.NewServer(c.handler)
		l := stampedLog(t)
		if _, err := l.Append(context.Background(), events(0, 1)...); err != nil {
			t.Fatal(err)
		}
		if _, err := l.StampTime(context.Background(), server.URL); err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
		if l.Size() != 1 {
			t.Errorf("%s: an anchor was appended", name)
		}
		if names, err := os.ReadDir(filepath.Join(l.Dir(), evidenceDir)); err == nil && len(names) > 0 {
			t.Errorf("%s: %s was kept", name, names[0])
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		server.Close()
	}
	if n := sent.Load(); n >= 64<<20 {
		t.Errorf("%d bytes of an endless answer were read", n)
	}
}

func TestFailingAuthorityIsAskedAgainAndShown(t *testing.T) {
	a := tsatest.New(t, nil)
	var broken atomic.Bool
	broken.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		a.ServeHTTP(w, r)
	}))
	defer server.Close()
	l := stampedLog(t, server.URL)
	if _, err := l.Append(context.Background(), events(0, 1)...); err != nil {
		t.Fatal(err)
	}
	until(t, "an error in the statistics", func() bool {
		s, err := l.Stats(context.Background())
		return err == nil && len(s.TimeStamping.Authorities) == 1 && strings.Contains(s.TimeStamping.Authorities[0].Error, "status 500")
	})
	broken.Store(false)
	until(t, "an anchor", func() bool { return len(anchors(t, l)) == 1 })
	until(t, "no error any more", func() bool {
		s, err := l.Stamping()
		return err == nil && s.Authorities[0].Error == "" && s.Authorities[0].Size == 1
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRetriesBackOffUpToTheInterval(t *testing.T) {
	c := newClock()
	c.step = 0
	s := &stamping{l: &Log{cfg: Config{now: c.now}}, interval: 10 * time.Minute, retry: time.Minute, own: map[uint64]bool{}, newest: 1}
	a := &authority{url: "http://x"}
	s.authorities = []*authority{a}
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		s.note(a, nil, fmt.Errorf("no"))
		if got := a.next.Sub(c.now()); got != want {
			t.Errorf("after %d failures: %v, want %v", a.fails, got, want)
		}
		if due, wait := s.due(c.now()); len(due) != 0 || wait != want {
			t.Errorf("%d are due, wait %v", len(due), wait)
		}
	}
	c.add(10 * time.Minute)
	if due, _ := s.due(c.now()); len(due) != 1 {
		t.Error("it is not asked again")
	}
	s.note(a, &TimeStamp{Size: 1, Anchor: 1}, nil)
	if a.fails != 0 || a.tail != 2 || len(s.own) != 0 {
		t.Errorf("after a stamp: %+v, own %v", a, s.own)
	}
}

// A hanging authority delays neither appends nor Close.
func TestHangingAuthorityDelaysNobody(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(hang)
	l := stampedLog(t, server.URL)
	for i := range 10 {
		if _, err := l.Append(context.Background(), events(i, 1)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStampTimeKeepsEveryStampOfOneSize(t *testing.T) {
	a := tsatest.New(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	l := stampedLog(t)
	if _, err := l.StampTime(context.Background(), server.URL); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty log: %v", err)
	}
	if _, err := l.Append(context.Background(), events(0, 3)...); err != nil {
		t.Fatal(err)
	}
	note, size, err := l.publisher.keepNewest()
	if err != nil || size != 3 {
		t.Fatal(size, err)
	}
	for n := range 3 {
		ts, err := l.stampNote(context.Background(), newAuthorityClient(), server.URL, note, size)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("evidence/%020d-%d.tsr", 3, n); ts.File != want || ts.Anchor != uint64(3+n) || ts.Size != 3 || ts.Name != "CN=test authority" || ts.Accuracy != time.Second {
			t.Errorf("got %+v, want %s", ts, want)
		}
	}
	for _, x := range anchors(t, l) {
		checkAnchor(t, l, &x, a)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "ftp://x", "http://", "http://u:p@x", "http://x/#a", " http://x", "x"} {
		if _, err := Open(t.TempDir(), &Config{StateDir: t.TempDir(), TimeAuthorities: []string{bad}}); err == nil {
			t.Errorf("authority %q is taken", bad)
		}
	}
	if _, err := Open(t.TempDir(), &Config{StateDir: t.TempDir(), TimeAuthorities: make([]string, maxAuthorities+1)}); err == nil {
		t.Error("more authorities than the limit are taken")
	}
}

// A clock that is off is said, because verification will say it.
func TestDifferenceToTheAuthoritysClockIsWarnedAbout(t *testing.T) {
	a := tsatest.New(t, nil)
	a.Clock = func() time.Time { return time.Now().Add(-time.Hour) }
	server := httptest.NewServer(a)
	defer server.Close()
	var logged bytes.Buffer // the log is closed before it is read
	l, err := Open(t.TempDir(), &Config{StateDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), events(0, 1)...); err != nil {
		t.Fatal(err)
	}
	if _, err := l.StampTime(context.Background(), server.URL); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(logged.String(), "clock and the time authority's differ") {
		t.Errorf("warned about: %q", logged.String())
	}
}

func TestStampWorksInALogWithoutSignatures(t *testing.T) {
	a := tsatest.New(t, nil)
	server := httptest.NewServer(a)
	defer server.Close()
	l, err := Open(t.TempDir(), &Config{StateDir: t.TempDir(), NoSignatures: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(context.Background(), events(0, 1)...); err != nil {
		t.Fatal(err)
	}
	if _, err := l.StampTime(context.Background(), server.URL); err != nil {
		t.Fatal(err)
	}
	for _, x := range anchors(t, l) {
		checkAnchor(t, l, &x, a)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStampNamesAreTheFormats(t *testing.T) {
	for name, want := range map[string]uint64{
		"00000000000000000007-0.tsr": 7, "09223372036854775807-10.tsr": 1<<63 - 1,
		"7-0.tsr": 0, "00000000000000000007-00.tsr": 0, "00000000000000000007.tsr": 0, "00000000000000000007-.tsr": 0, "00000000000000000007-0.note": 0, "09223372036854775808-0.tsr": 0,
		"+0000000000000000007-0.tsr": 0, "00000000000000000007-+1.tsr": 0,
	} {
		if size, ok := stampName(name); ok != (want > 0) || ok && size != want {
			t.Errorf("%s: got %d, %v", name, size, ok)
		}
	}
}
