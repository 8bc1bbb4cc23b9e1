package tenant

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// withQuota opens an installation whose default tenant has the quota, on a clock that stands still.
func withQuota(t *testing.T, q Quota) (*Log, *clock) {
	t.Helper()
	c := newClock()
	in := open(t, t.TempDir(), c.option)
	x := defaultTenant(t, in)
	s := x.Settings()
	s.Quota = q
	must(t, x.Update(t.Context(), Local("test"), s))
	l, err := x.Log(MainName)
	must(t, err)
	return l, c
}

func appendN(t *testing.T, l *Log, n int) error {
	t.Helper()
	events := make([]immutable.Event, n)
	for i := range events {
		events[i] = immutable.Event{Message: "message"}
	}
	_, err := l.AppendAs(t.Context(), Local("test"), events...)
	return err
}

func quotaOf(err error) QuotaError {
	if q, ok := errors.AsType[*QuotaError](err); ok {
		return *q
	}
	return QuotaError{}
}

func TestEntriesPerSecondHaveABurstOfTwo(t *testing.T) {
	l, c := withQuota(t, Quota{EntriesPerSecond: 10})
	must(t, appendN(t, l, 20))
	if q := quotaOf(appendN(t, l, 1)); q.What != "entriesPerSecond" || q.RetryAfter != 100*time.Millisecond {
		t.Errorf("got %+v", q)
	}
	c.add(100*time.Millisecond - 1)
	if q := quotaOf(appendN(t, l, 1)); q.RetryAfter != time.Millisecond {
		t.Errorf("a moment before: got %+v", q)
	}
	c.add(1)
	must(t, appendN(t, l, 1))
	c.add(time.Hour)
	if q := quotaOf(appendN(t, l, 21)); q.What != "entriesPerSecond" || q.RetryAfter != 0 || q.Got != 21 {
		t.Errorf("an append that never fits: got %+v", q)
	}
	must(t, appendN(t, l, 20))
	if l.Size() != 41 {
		t.Errorf("got %d entries, want 41: nothing of a refused append is written", l.Size())
	}
	c.add(-time.Hour) // the clock goes back: no harm, no gift
	if q := quotaOf(appendN(t, l, 1)); q.What == "" {
		t.Error("a clock that went back gave entries away")
	}
	u := l.Tenant().Usage()
	if u.Entries != 41 || u.Refused != 4 || u.LastWhat != "entriesPerSecond" {
		t.Errorf("usage: got %+v", u)
	}
}

func TestOddRates(t *testing.T) {
	l, c := withQuota(t, Quota{EntriesPerSecond: 1})
	if q := quotaOf(appendN(t, l, 3)); q.What == "" || q.RetryAfter != 0 {
		t.Errorf("3 at 1 a second: got %+v, want never", q)
	}
	must(t, appendN(t, l, 2))
	c.add(time.Second)
	must(t, appendN(t, l, 1))
	l, _ = withQuota(t, Quota{EntriesPerSecond: 1 << 62, BytesPerSecond: 1 << 62})
	must(t, appendN(t, l, 100))
}

func TestBytesPerSecondAreThoseOfTheLines(t *testing.T) {
	l, _ := withQuota(t, Quota{BytesPerSecond: 1000})
	must(t, appendN(t, l, 1))
	size := int64(l.Tenant().Usage().Bytes)
	data, err := os.ReadFile(l.dir() + "/immutable.log")
	must(t, err)
	line := int64(len(strings.Split(string(data), "\n")[1]) + 1)
	host := int64(len("host") + len("pid")) // measured before the log fills in host and process
	if size < line-host-20 || size > line {
		t.Errorf("measured %d, the line has %d", size, line)
	}
	for i := int64(1); (i+1)*size <= 2000; i++ {
		must(t, appendN(t, l, 1))
	}
	if q := quotaOf(appendN(t, l, 1)); q.What != "bytesPerSecond" || q.RetryAfter <= 0 {
		t.Errorf("got %+v", q)
	}
}

func TestEntryBytesAtTheLimitAndOnePast(t *testing.T) {
	const limit = 1000
	l, _ := withQuota(t, Quota{EntryBytes: limit})
	must(t, appendN(t, l, 1))
	n := limit - (int(l.Tenant().Usage().Bytes) - len("message"))
	if _, err := l.AppendAs(t.Context(), Local("test"), immutable.Event{Message: strings.Repeat("x", n)}); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	_, err := l.AppendAs(t.Context(), Local("test"), immutable.Event{Message: "a"}, immutable.Event{Message: strings.Repeat("x", n+1)})
	if q := quotaOf(err); q.What != "entryBytes" || q.Got != limit+1 || q.RetryAfter != 0 || !strings.Contains(err.Error(), "event 1") {
		t.Errorf("past the limit: got %v", err)
	}
}

func TestTotalBytesAreMeasuredAndCounted(t *testing.T) {
	l, _ := withQuota(t, Quota{TotalBytes: 1 << 20})
	x := l.Tenant()
	before := x.Usage().StoredBytes
	if before == 0 {
		t.Fatal("nothing was measured when the quota was set")
	}
	big := immutable.Event{Message: strings.Repeat("x", 60_000)}
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = l.AppendAs(t.Context(), Local("test"), big)
	}
	if q := quotaOf(err); q.What != "totalBytes" || n < 10 || n > 18 {
		t.Errorf("after %d appends: got %v", n, err)
	}
	x.measureStored()
	after := x.Usage().StoredBytes
	if after < before+int64(n-1)*60_000 || after > 2<<20 {
		t.Errorf("measured %d, before %d, after %d appends", after, before, n-1)
	}
	s := x.Settings()
	s.Quota.TotalBytes = 0
	must(t, x.Update(t.Context(), Local("test"), s))
	must(t, appendN(t, l, 1))
}

func TestStreamsAreCountedOnce(t *testing.T) {
	l, _ := withQuota(t, Quota{Streams: 2})
	x := l.Tenant()
	end1, err := x.OpenStream()
	must(t, err)
	_, err = x.OpenStream()
	must(t, err)
	if _, err := x.OpenStream(); quotaOf(err).What != "streams" {
		t.Errorf("got %v", err)
	}
	end1()
	end1()
	if _, err := x.OpenStream(); err != nil {
		t.Error(err)
	}
	if _, err := x.OpenStream(); quotaOf(err).What != "streams" {
		t.Errorf("an end that was called twice made room twice: %v", err)
	}
}

// TestTenantAtItsQuotaHoldsNothingOfAnother hammers one tenant's quota; the other's appends, which have none, all pass.
func TestTenantAtItsQuotaHoldsNothingOfAnother(t *testing.T) {
	l, _ := withQuota(t, Quota{EntriesPerSecond: 5})
	other, err := l.Tenant().in.CreateTenant(t.Context(), Local("test"), TenantSettings{Name: "other"})
	must(t, err)
	free, err := other.CreateLog(t.Context(), Local("test"), LogSettings{Name: "l"})
	must(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	passed, refused := 0, 0
	for range 8 {
		wg.Go(func() {
			for range 200 {
				err := appendN(t, l, 1)
				mu.Lock()
				if err == nil {
					passed++
				} else if quotaOf(err).What != "" {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	for range 100 {
		must(t, appendN(t, free, 1))
	}
	wg.Wait()
	if passed != 10 || refused != 1590 {
		t.Errorf("got %d passed, %d refused; want 10 (two seconds' worth) and the rest", passed, refused)
	}
	if free.Size() != 100 || other.Usage().Refused != 0 {
		t.Errorf("the other tenant: got %d entries, %d refused", free.Size(), other.Usage().Refused)
	}
}
