package immutable

import (
	"slices"
	"sync"
	"time"
)

// What a log keeps in memory of its sealed segments, so that the next read need not open and check them again: seek tables,
// indexes, search indexes.
const (
	openSegments = 128              // at most so many; each takes some hundred KiB
	idleSegments = 30 * time.Second // after one to two of these without a read a segment's are let go
)

// opened are the segments of which something is kept. Where one more is opened than may be, one goes that was not used for a round.
type opened struct {
	mu   sync.Mutex
	list []*segmentFile
	hand int
	idle *time.Timer // runs while list has any
	done bool
}

// keep notes that something of s was opened, or used again.
func (o *opened) keep(s *segmentFile) {
	s.used.Store(true)
	if s.kept.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.kept.Load() || o.done {
		return
	}
	s.kept.Store(true)
	if len(o.list) < openSegments {
		if o.list = append(o.list, s); len(o.list) == 1 {
			o.wake()
		}
		return
	}
	for range 2 * len(o.list) {
		at := o.hand
		o.hand = (o.hand + 1) % len(o.list)
		if old := o.list[at]; !old.used.Swap(false) && old.letGo() {
			o.list[at] = s
			return
		}
	}
	o.list = append(o.list, s) // all others are being opened at this moment
}

// wake has what lies idle let go after a while.
func (o *opened) wake() {
	if o.idle == nil {
		o.idle = time.AfterFunc(idleSegments, o.release)
		return
	}
	o.idle.Reset(idleSegments)
}

// release lets go of the segments that were not used since it was called last.
func (o *opened) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = slices.DeleteFunc(o.list, func(s *segmentFile) bool { return !s.used.Swap(false) && s.letGo() })
	o.hand = 0
	if len(o.list) > 0 && !o.done {
		o.wake()
	}
}

// forget lets go of all segments.
func (o *opened) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.idle != nil {
		o.idle.Stop()
	}
	for _, s := range o.list {
		s.letGo()
	}
	o.list, o.hand = nil, 0
}

// close keeps nothing more.
func (o *opened) close() {
	o.mu.Lock()
	o.done = true
	o.mu.Unlock()
	o.forget()
}

// letGo forgets what was opened of s. It returns false where somebody is opening it at this moment. The caller holds opened.mu.
func (s *segmentFile) letGo() bool {
	if !s.archiveMu.TryLock() {
		return false
	}
	defer s.archiveMu.Unlock()
	if !s.searchMu.TryLock() {
		return false
	}
	defer s.searchMu.Unlock()
	s.archive, s.index, s.search = nil, nil, nil
	s.seen.forget()
	s.proven.forget()
	s.kept.Store(false)
	return true
}
