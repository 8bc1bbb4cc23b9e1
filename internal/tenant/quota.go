package tenant

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// burst is how many seconds' worth of a rate may come at once.
const burst = 2

// QuotaError says which limit of its tenant an append or a stream went over. Nothing was written.
type QuotaError struct {
	What  string // "entriesPerSecond", "bytesPerSecond", "entryBytes", "totalBytes", "streams"
	Limit int64
	Got   int64 // what was asked for

	// RetryAfter is when the same request may pass. 0: not by waiting.
	RetryAfter time.Duration
}

func (e *QuotaError) Error() string {
	s := fmt.Sprintf("over the tenant's quota: %s is %d", e.What, e.Limit)
	switch {
	case e.RetryAfter > 0:
		return s + fmt.Sprintf("; try again in %s", e.RetryAfter.Round(time.Millisecond))
	case e.What == "entriesPerSecond", e.What == "bytesPerSecond":
		return s + fmt.Sprintf(", and this append has %d: split it", e.Got)
	case e.What == "streams":
		return s + "; close one"
	}
	return s + fmt.Sprintf(", and this would make %d", e.Got)
}

// Usage is what a tenant took, and what it was refused, since the start.
type Usage struct {
	Entries     uint64    `json:"entries"`     // admitted to be appended
	Bytes       uint64    `json:"bytes"`       // of them as JSON lines; counted where the quota asks for it
	StoredBytes int64     `json:"storedBytes"` // on the disk, known where the quota asks for it
	Streams     int       `json:"streams"`     // open now
	Refused     uint64    `json:"refused"`     // appends and streams
	LastRefused time.Time `json:"lastRefused,omitzero"`
	LastWhat    string    `json:"lastWhat,omitempty"` // the limit that refused last, as in QuotaError
}

// meter measures one tenant against its quota. Nobody waits in it: who is over the quota is told so, which keeps a tenant at
// its quota from holding what others need.
type meter struct {
	mu      sync.Mutex // guards what follows; never held across I/O
	entries bucket
	bytes   bucket
	usage   Usage
	stored  bool // usage.StoredBytes is known

	lines sync.Pool // of *[]byte: where events are measured
}

// bucket is a token bucket: what may still be taken, at a moment.
type bucket struct {
	left float64
	at   time.Time
}

// fill brings the bucket to now.
func (b *bucket) fill(rate int64, now time.Time) {
	most := float64(rate) * burst
	if b.at.IsZero() {
		b.left = most
	} else if d := now.Sub(b.at); d > 0 {
		b.left += float64(rate) * d.Seconds()
	}
	b.left = min(b.left, most)
	b.at = now
}

// short says how long until n are there; 0 if they are.
func (b *bucket) short(rate int64, n float64) time.Duration {
	if b.left >= n {
		return 0
	}
	return max(time.Millisecond, time.Duration((n-b.left)/float64(rate)*float64(time.Second)))
}

// admit takes what the events need from the quota, all or nothing.
func (m *meter) admit(t *Tenant, events []immutable.Event) error {
	q := t.settings.Load().Quota
	var size int64
	if q.BytesPerSecond > 0 || q.EntryBytes > 0 || q.TotalBytes > 0 {
		var err error
		if size, err = m.measure(events, q.EntryBytes); err != nil {
			return m.refuse(t, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now, n := t.in.now(), int64(len(events))
	if err := m.take(q, now, n, size); err != nil {
		m.refused(err, now)
		return err
	}
	m.usage.Entries += uint64(n)
	m.usage.Bytes += uint64(size)
	if m.stored {
		m.usage.StoredBytes += size
	}
	return nil
}

// take takes from both buckets, or from none. m.mu is held.
func (m *meter) take(q Quota, now time.Time, n, size int64) *QuotaError {
	if q.TotalBytes > 0 && m.usage.StoredBytes+size > q.TotalBytes {
		return &QuotaError{What: "totalBytes", Limit: q.TotalBytes, Got: m.usage.StoredBytes + size}
	}
	rates := [...]struct {
		b    *bucket
		rate int64
		n    int64
		what string
	}{{&m.entries, q.EntriesPerSecond, n, "entriesPerSecond"}, {&m.bytes, q.BytesPerSecond, size, "bytesPerSecond"}}
	for _, r := range rates {
		if r.rate == 0 {
			continue
		}
		if float64(r.n) > float64(r.rate)*burst {
			return &QuotaError{What: r.what, Limit: r.rate, Got: r.n}
		}
		r.b.fill(r.rate, now)
		if wait := r.b.short(r.rate, float64(r.n)); wait > 0 {
			return &QuotaError{What: r.what, Limit: r.rate, Got: r.n, RetryAfter: wait}
		}
	}
	for _, r := range rates {
		if r.rate > 0 {
			r.b.left -= float64(r.n)
		}
	}
	return nil
}

// measure adds up the events as JSON lines. An event that cannot be one counts nothing: the log says what is wrong with it.
func (m *meter) measure(events []immutable.Event, limit int) (int64, error) {
	buf, ok := m.lines.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	defer m.lines.Put(buf)
	var total int64
	for i := range events {
		line, err := entry.Append((*buf)[:0], &events[i])
		if err != nil {
			continue
		}
		*buf = line
		n := len(line) + 1
		if limit > 0 && n > limit {
			return 0, fmt.Errorf("event %d: %w", i, &QuotaError{What: "entryBytes", Limit: int64(limit), Got: int64(n)})
		}
		total += int64(n)
	}
	return total, nil
}

// refuse counts a refusal.
func (m *meter) refuse(t *Tenant, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused(err, t.in.now())
	return err
}

// refused counts a refusal. m.mu is held.
func (m *meter) refused(err error, now time.Time) {
	m.usage.Refused++
	m.usage.LastRefused = now
	if q, ok := errors.AsType[*QuotaError](err); ok {
		m.usage.LastWhat = q.What
	}
}

// OpenStream takes one of the tenant's streams; call end when it is over.
func (t *Tenant) OpenStream() (end func(), err error) {
	m := &t.meter
	limit := t.settings.Load().Quota.Streams
	m.mu.Lock()
	defer m.mu.Unlock()
	if limit > 0 && m.usage.Streams >= limit {
		err := &QuotaError{What: "streams", Limit: int64(limit), Got: int64(m.usage.Streams) + 1}
		m.refused(err, t.in.now())
		return nil, err
	}
	m.usage.Streams++
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.usage.Streams--
	}), nil
}

// Usage says what the tenant took.
func (t *Tenant) Usage() Usage {
	t.meter.mu.Lock()
	defer t.meter.mu.Unlock()
	return t.meter.usage
}

// measureStored reads from the disk how much the tenant's logs take, where its quota limits that. In between, what is
// appended is added; what is appended at this moment may be missed until the next time.
func (t *Tenant) measureStored() {
	if t.settings.Load().Quota.TotalBytes == 0 {
		t.meter.mu.Lock()
		t.meter.stored, t.meter.usage.StoredBytes = false, 0
		t.meter.mu.Unlock()
		return
	}
	var total int64
	for _, l := range t.Logs() {
		if l.name != SystemName {
			total += dirSize(l.dir())
		}
	}
	t.meter.mu.Lock()
	defer t.meter.mu.Unlock()
	t.meter.stored, t.meter.usage.StoredBytes = true, total
}

// dirSize adds up the files below dir, without the space that a log holds in reserve for a full disk. What vanishes
// meanwhile counts nothing.
func dirSize(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "reserve" {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil
	})
	return total
}
