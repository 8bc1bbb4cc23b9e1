//go:build linux

package immutable

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tree-of-life-system/immutable/internal/index/indextest"
)

var (
	searchLines = flag.Int("search.lines", 200_000, "lines of the corpus that BenchmarkSearch searches; its aims are for 2000000")
	searchDir   = flag.String("search.dir", "", "where the corpus's log is kept for the next run with as many lines; empty: nowhere")
)

// A searchBench is a log of the reference corpus.
type searchBench struct {
	l     *Log
	dir   string
	raw   string // the entries' lines
	lines int
	from  time.Time // the middle 1 percent of the time
	to    time.Time
	id    string
}

// newSearchBench opens a log of the corpus; if there is none, it appends the corpus. The clock is the corpus's.
func newSearchBench(b *testing.B, lines int) *searchBench {
	b.Helper()
	dir := *searchDir
	if dir == "" {
		dir = b.TempDir()
	}
	s := &searchBench{dir: filepath.Join(dir, "log"), raw: filepath.Join(dir, "raw"), lines: lines}
	var clock atomic.Int64
	cfg := &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench", now: func() time.Time { return time.Unix(0, clock.Load()) }}
	_, err := os.Stat(s.raw)
	old := err == nil
	if old {
		clock.Store(time.Now().UnixNano()) // after every entry
	}
	s.l, err = Open(s.dir, cfg)
	must(b, err)
	switch {
	case !old:
		s.fill(b, &clock)
		s.dump(b)
	case s.l.Size() < uint64(lines) || s.l.Size() > uint64(lines+lines/100): // with some of the log's own
		b.Fatalf("the log in %s has %d entries, not %d", dir, s.l.Size(), lines)
	}
	s.look(b)
	return s
}

// fill appends the corpus, and says what that took.
func (s *searchBench) fill(b *testing.B, clock *atomic.Int64) {
	b.Helper()
	c := indextest.New(s.lines, 1)
	began, cpu := time.Now(), cpuTime(b)
	const batch = 256
	events := make([]Event, batch)
	for i := 0; i < s.lines; i += batch {
		for j := range events {
			if t := c.Next(&events[j]); j == 0 {
				clock.Store(t)
			}
		}
		_, err := s.l.Append(context.Background(), events[:min(batch, s.lines-i)]...)
		must(b, err)
	}
	must(b, s.l.sealer.wait(context.Background()))
	took := time.Since(began)
	b.Logf("%d lines made, appended and sealed in %s, one caller, %.1f µs of processor time a line", s.lines, took.Round(time.Millisecond), float64((cpuTime(b)-cpu).Microseconds())/float64(s.lines))
	must(b, s.l.Rotate(context.Background()))
}

// look finds what some rows ask for.
func (s *searchBench) look(b *testing.B) {
	b.Helper()
	at := func(i int) Entry {
		e, err := s.l.Entry(context.Background(), uint64(i))
		must(b, err)
		return e
	}
	s.id = at(s.lines / 3).ID.String()
	s.from, s.to = at(s.lines/2).Timestamp, at(s.lines/2+s.lines/100).Timestamp
}

// dump writes the raw file, and says what the disk holds.
func (s *searchBench) dump(b *testing.B) {
	b.Helper()
	f, err := os.Create(s.raw)
	must(b, err)
	w := bufio.NewWriterSize(f, 1<<20)
	size := 0
	for e, err := range s.l.Entries(context.Background(), Query{}) {
		must(b, err)
		_, _ = w.Write(e.Line)
		_ = w.WriteByte('\n')
		size += len(e.Line) + 1
	}
	must(b, w.Flush())
	must(b, f.Close())
	kinds := map[string]int64{}
	all := int64(0)
	must(b, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == reserveName {
			return err
		}
		info, err := d.Info()
		kind := filepath.Ext(path)
		if strings.Contains(path, "/tree/") || strings.HasSuffix(path, "/chain") {
			kind = "tree and chain"
		}
		kinds[kind] += info.Size()
		all += info.Size()
		return err
	}))
	n := float64(s.lines)
	var text strings.Builder
	for _, kind := range []string{".zst", ".sdx", ".idx", "tree and chain"} {
		text.WriteString(fmt.Sprintf(", %s %.2f", kind, float64(kinds[kind])/n))
	}
	b.Logf("bytes a line: %.1f raw, %.2f on disk in all%s", float64(size)/n, float64(all)/n, text.String())
}

// cold makes the next query read everything from the disk, as far as the kernel lets go of it.
func (s *searchBench) cold(b *testing.B) {
	b.Helper()
	s.l.opened.forget()
	must(b, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}))
}

// BenchmarkSearch measures every row of the aims for search, warm and cold, and grep on the same lines.
func BenchmarkSearch(b *testing.B) {
	s := newSearchBench(b, *searchLines)
	defer func() { must(b, s.l.Close()) }()
	search := func(q Query, want int) func(b *testing.B) int {
		return func(b *testing.B) int {
			n := 0
			for _, err := range s.l.Search(context.Background(), q) {
				if err != nil { // must costs a fifth of a microsecond a row
					b.Fatal(err)
				}
				n++
			}
			if want >= 0 && n != want {
				b.Fatalf("%s: %d entries, want %d", q.Text, n, want)
			}
			return n
		}
	}
	count := func(q Query) func(b *testing.B) int {
		return func(b *testing.B) int {
			c, err := s.l.Count(context.Background(), q)
			must(b, err)
			return int(c.N)
		}
	}
	span := Query{Since: s.from, Until: s.to}
	for _, row := range []struct {
		name string
		run  func(b *testing.B) int
	}{
		{"word-once", search(Query{Text: indextest.RareWord}, 1)},
		{"word-absent", search(Query{Text: "xylophone"}, 0)},
		{"ip-25", search(Query{Text: "ip:" + indextest.Address}, -1)},
		{"ip-anywhere", search(Query{Text: indextest.Address}, -1)},
		{"id", search(Query{Text: "id:" + s.id}, 1)},
		{"newest-100", search(Query{Text: "payment", Limit: 100}, 100)},
		{"newest-100-and", search(Query{Text: `"payment declined" level:WARN`, Limit: 100}, 100)},
		{"count-word", count(Query{Text: "payment"})},
		{"count-word-verified", count(Query{Text: "payment", Verified: true})},
		{"count-phrase-level", count(Query{Text: `"login failed" level:SECURITY`})},
		{"count-field", count(Query{Text: "method:PUT status:404"})},
		{"count-1%-time", count(span)},
		{"rows-1%-time", search(span, -1)},
		{"count-regexp", count(Query{Text: "message:/ledger-db-[12]/"})},
		{"count-substring", count(Query{Text: `message:~"edger-db-2 to"`})},
		{"count-by-level", func(b *testing.B) int {
			c, err := s.l.CountBy(context.Background(), Query{}, "level")
			must(b, err)
			return len(c.Rows)
		}},
		{"count-by-status", func(b *testing.B) int {
			c, err := s.l.CountBy(context.Background(), Query{}, "status")
			must(b, err)
			return len(c.Rows)
		}},
		{"histogram", func(b *testing.B) int {
			h, err := s.l.Histogram(context.Background(), Query{Text: "payment"}, time.Hour)
			must(b, err)
			return len(h.Buckets)
		}},
	} {
		b.Run(row.name, func(b *testing.B) {
			n := row.run(b)
			cpu := cpuTime(b)
			for b.Loop() {
				n = row.run(b)
			}
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/op") // tells more on a machine that others use
			b.ReportMetric(float64(n), "results")
		})
		b.Run("cold/"+row.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s.cold(b)
				b.StartTimer()
				row.run(b)
			}
		})
	}
	for _, word := range []string{indextest.RareWord, "payment"} {
		b.Run("against-grep/"+word, func(b *testing.B) { s.againstGrep(b, word) })
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	peak := "unknown"
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		peak, _, _ = strings.Cut(rest, "\n")
	}
	b.Logf("heap with the log open and its indexes in memory: %.1f MiB; resident at the most, the making of the log included if it was made: %s", float64(m.HeapAlloc)/(1<<20), strings.TrimSpace(peak))
}

// BenchmarkSearchOpen searches an open segment of 100 MiB for a word that occurs once: by reading all of it, by what the process remembers of
// it, and with an entry that was appended just before.
func BenchmarkSearchOpen(b *testing.B) {
	dir := b.TempDir()
	const lines = 400_000
	l, err := Open(filepath.Join(dir, "log"), &Config{StateDir: filepath.Join(dir, "state"), Origin: "example.com/bench", RotateSize: 1 << 40})
	must(b, err)
	defer l.Close()
	c := indextest.New(lines, 1)
	events := make([]Event, 500)
	for range lines / len(events) {
		for i := range events {
			c.Next(&events[i])
		}
		_, err := l.Append(context.Background(), events...)
		must(b, err)
	}
	for _, row := range []struct {
		name   string
		before func()
	}{
		{"read", l.open.seen.forget},
		{"remembered", func() {}},
		{"appended", func() {
			_, err := l.Append(context.Background(), events[0])
			must(b, err)
		}},
	} {
		b.Run(row.name, func(b *testing.B) {
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				row.before()
				began := cpuTime(b)
				b.StartTimer()
				n := 0
				for _, err := range l.Search(context.Background(), Query{Text: indextest.RareWord}) {
					must(b, err)
					n++
				}
				if n != 1 {
					b.Fatalf("found %d", n)
				}
				cpu += cpuTime(b) - began
			}
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(l.open.seen.bytes)/(1<<20), "MiB-remembered")
		})
	}
}

// againstGrep counts a word with the log, with grep on the raw lines and with zstdcat and grep on the archives, and gives the ratios.
func (s *searchBench) againstGrep(b *testing.B, word string) {
	timed := func(f func()) float64 {
		began := time.Now()
		f()
		return time.Since(began).Seconds()
	}
	shell := func(line string) float64 {
		var out []byte
		took := timed(func() { out, _ = exec.Command("sh", "-c", line).Output() })
		if strings.TrimSpace(string(out)) == "0" || len(out) == 0 {
			b.Fatalf("%s: found nothing", line)
		}
		return took
	}
	if _, err := exec.LookPath("grep"); err != nil {
		b.Skip("no grep on this machine")
	}
	ours := 0.0
	for b.Loop() {
		ours = timed(func() {
			_, err := s.l.Count(context.Background(), Query{Text: word})
			must(b, err)
		})
	}
	grep := shell(fmt.Sprintf("grep -ciw %s '%s'", word, s.raw))
	b.ReportMetric(grep*1e3, "grep-ms")
	b.ReportMetric(grep/ours, "times-grep")
	if _, err := exec.LookPath("zstdcat"); err == nil {
		zstd := shell(fmt.Sprintf("zstdcat '%s'/archive/*.zst | grep -ciw %s", s.dir, word))
		b.ReportMetric(zstd*1e3, "zstdcat-grep-ms")
		b.ReportMetric(zstd/ours, "times-zstdcat-grep")
	}
}
