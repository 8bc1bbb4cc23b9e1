package monitor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// scrubMargin is the part of the set hours in which a round is planned to end.
const scrubMargin = 0.9

// scrubIdle is the longest that the scrubber sleeps before it looks for what is due.
const scrubIdle = 5 * time.Second

// scrub reads sealed segments again, one at a time over all logs, each when its turn in its log's round has come, and never
// more than the share of the time that it was given.
func (m *Monitor) scrub(ctx context.Context) {
	for {
		s, first, wait := m.nextScrub(m.o.Now().UTC())
		if s == nil {
			if !sleep(ctx, min(max(wait, 100*time.Millisecond), scrubIdle)) {
				return
			}
			continue
		}
		m.scrubSegment(ctx, s, first)
		if ctx.Err() != nil {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// endOfRound stands for the step of a round in which the files that are not sealed segments are read.
const endOfRound = ^uint64(0)

// nextScrub finds the segment that is most overdue, or how long there is none.
func (m *Monitor) nextScrub(now time.Time) (pick *logState, first uint64, wait time.Duration) {
	wait = scrubIdle
	oldest := now
	for _, s := range m.states() {
		hours := s.l.Settings().Verify.ScrubHours
		m.mu.Lock()
		p, guarded := s.kept, s.guard != nil
		m.mu.Unlock()
		if hours <= 0 || !guarded {
			continue
		}
		sealed := s.l.SealedSegments()
		next := nextIn(sealed, p.Next)
		due := p.due(sealed, hours)
		m.setLate(s, now.Sub(p.Began) > time.Duration(hours)*time.Hour)
		if due.After(now) {
			wait = min(wait, due.Sub(now))
			continue
		}
		if pick == nil || due.Before(oldest) {
			pick, first, oldest = s, next, due
		}
	}
	return pick, first, wait
}

func (m *Monitor) setLate(s *logState, late bool) {
	m.mu.Lock()
	was := s.late
	s.late = late
	m.mu.Unlock()
	if late && !was {
		m.logger.Warn("the share of reading is not enough to read everything again within the set hours", "tenant", s.l.Tenant().Name(), "log", s.l.Name())
	}
}

// nextIn is the first segment from from on, or endOfRound.
func nextIn(sealed []uint64, from uint64) uint64 {
	for _, first := range sealed {
		if first >= from {
			return first
		}
	}
	return endOfRound
}

// share is how much of the round is done.
func (p *progress) share(sealed []uint64) float64 {
	done := 0
	for _, first := range sealed {
		if first < p.Next {
			done++
		}
	}
	return float64(done) / float64(len(sealed)+1)
}

// due is when the next step of the round is. The steps are spread over the set hours.
func (p *progress) due(sealed []uint64, hours int) time.Time {
	share := p.share(sealed)
	if nextIn(sealed, p.Next) == endOfRound {
		share = 1
	}
	return p.Began.Add(time.Duration(share * scrubMargin * float64(hours) * float64(time.Hour)))
}

// scrubSegment reads one segment, or ends the round.
func (m *Monitor) scrubSegment(ctx context.Context, s *logState, first uint64) {
	g, err := m.guardOf(s)
	if err != nil {
		return
	}
	pace := m.pacer(ctx)
	if first == endOfRound {
		m.endRound(ctx, s, g, pace)
		return
	}
	err = g.Segment(ctx, first, pace)
	if ctx.Err() != nil || errors.Is(err, immutable.ErrClosed) {
		return
	}
	m.mu.Lock()
	s.kept.Next = first + 1
	m.dirty[s.l.Tenant()] = true
	m.mu.Unlock()
	if err != nil {
		m.foundDamage(s, fmt.Sprintf("segment %d", first), err)
	}
}

// endRound reads the files that are no sealed segments, and begins the next round.
func (m *Monitor) endRound(ctx context.Context, s *logState, g *immutable.Guard, pace func(int) error) {
	for _, name := range g.Names() {
		if g.Sealed(name) {
			continue
		}
		_, err := g.Check(ctx, name, true)
		if m.checked(s, name, err) != nil || pace(0) != nil {
			return
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.kept.Scrubbed, s.kept.Began, s.kept.Next = s.kept.Began, m.o.Now().UTC(), 0
	m.dirty[s.l.Tenant()] = true
}

// pacer makes whoever reads rest after each piece, so that reading takes the share of the time that it may.
func (m *Monitor) pacer(ctx context.Context) func(int) error {
	last := time.Now()
	return func(int) error {
		busy := time.Since(last)
		if rest := time.Duration(float64(busy) * (1 - m.o.Share) / m.o.Share); rest >= time.Millisecond {
			if !sleep(ctx, rest) {
				return context.Cause(ctx)
			}
			last = time.Now()
		}
		return ctx.Err()
	}
}

// foundDamage is what follows when the scrubber finds something: an alarm, and a verification of the whole.
func (m *Monitor) foundDamage(s *logState, name string, err error) {
	var c *immutable.CorruptError
	if errors.As(err, &c) {
		name = c.File
	}
	m.alarm(s, name, err, OnScrub)
}
