package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// model is the naive twin of a log: its lines in a slice.
type model struct {
	rng    *rand.Rand
	d      *vfstest.Disk
	c      *fakeClock
	l      *Log
	r      *Log // read-only beside it, or nil
	all    []Entry
	leaves []Hash
	next   int
	trace  []string
}

// TestLogEqualsANaiveTwin takes random steps and compares everything that the log says with a slice.
func TestLogEqualsANaiveTwin(t *testing.T) {
	rng := vfstest.Rand(t)
	for range rounds(15, 400) {
		seed := rng.Uint64()
		m := &model{rng: vfstest.NewRand(seed), d: vfstest.New(), c: newClock()}
		err := m.open()
		for i := 0; i < 40 && err == nil; i++ {
			err = m.step()
		}
		if err == nil {
			err = m.close()
		}
		if err == nil {
			err = notRefuted(m.d, m.c)
		}
		if err != nil {
			t.Fatalf("seed %d: %q: %v", seed, m.trace, err)
		}
	}
}

func (m *model) open() (err error) {
	m.l, err = Open(diskDir, diskConfig(m.d, m.c))
	return err
}

func (m *model) close() error {
	var err error
	if m.r != nil {
		err = m.r.Close()
		m.r = nil
	}
	return errors.Join(err, m.l.Close())
}

func (m *model) step() error {
	ctx := context.Background()
	steps := []struct {
		name string
		do   func() error
	}{
		{"append 1", func() error { return m.append(1) }},
		{"append some", func() error { return m.append(1 + m.rng.IntN(300)) }},
		{"append to a boundary", func() error { return m.append(256 - len(m.all)%256) }},
		{"rotate", func() error { return m.l.Rotate(ctx) }},
		{"publish", func() error { return m.l.publisher.publish(m.rng.IntN(2) == 0) }},
		{"reopen", func() error { return errors.Join(m.close(), m.open()) }},
		{"crash", m.crash},
		{"rebuild", func() error { _, err := m.l.Rebuild(ctx, nil); return err }},
		{"read beside", m.readBeside},
		{"query", m.query},
		{"query", m.query},
		{"query", m.query},
		{"entry", m.entry},
		{"inclusion", m.inclusion},
		{"consistency", m.consistency},
		{"stats", m.stats},
		{"clock", func() error { m.c.add(time.Duration(m.rng.IntN(7200)-3600) * time.Second); return nil }},
	}
	s := steps[m.rng.IntN(len(steps))]
	m.trace = append(m.trace, s.name)
	if err := s.do(); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if root, size := m.l.Root(); int(size) != len(m.all) || root != proof.Root(m.leaves) {
		return fmt.Errorf("%s: size %d and root %s, want %d and %s", s.name, size, root, len(m.all), proof.Root(m.leaves))
	}
	return nil
}

// log is the writer, or the reader beside it.
func (m *model) log() *Log {
	if m.r != nil && m.rng.IntN(2) == 0 {
		return m.r
	}
	return m.l
}

func (m *model) append(n int) error {
	batch := events(m.next, n)
	for i := range batch {
		batch[i].Level = Level(m.rng.IntN(NumLevels) * m.rng.IntN(2)) // some levels are rare
	}
	m.next += n
	rs, err := m.l.Append(context.Background(), batch...)
	if err != nil {
		return err
	}
	for i, r := range rs {
		e := Entry{Index: uint64(len(m.all)), ID: r.ID, Timestamp: r.Timestamp, Level: batch[i].Level, Message: batch[i].Message, Leaf: r.Leaf}
		if r.Index != e.Index || len(m.all) > 0 && r.Timestamp.Before(m.all[len(m.all)-1].Timestamp) {
			return fmt.Errorf("receipt %+v after %d entries", r, len(m.all))
		}
		m.all, m.leaves = append(m.all, e), append(m.leaves, e.Leaf)
	}
	return nil
}

// crash kills the writer or cuts the power between two appends: nothing may be lost.
func (m *model) crash() error {
	after := cut(m.d, m.rng.IntN(len(cutKinds)), m.rng)
	if err := m.close(); err != nil {
		return err
	}
	m.d = after
	return m.open()
}

func (m *model) readBeside() (err error) {
	if m.r != nil {
		err = m.r.Close()
	}
	cfg := diskConfig(m.d, m.c)
	cfg.ReadOnly = true
	l, openErr := Open(diskDir, cfg)
	m.r = l
	return errors.Join(err, openErr)
}

func (m *model) index() uint64 { return uint64(m.rng.IntN(len(m.all))) }

// time is one of an entry's, or near it.
func (m *model) time() time.Time {
	if len(m.all) == 0 || m.rng.IntN(3) == 0 {
		return time.Time{}
	}
	return m.all[m.index()].Timestamp.Add(time.Duration(m.rng.IntN(3) - 1))
}

func (m *model) query() error {
	q := Query{Since: m.time(), Until: m.time(), Reverse: m.rng.IntN(2) == 0}
	if m.rng.IntN(2) == 0 {
		q.From = uint64(m.rng.IntN(len(m.all) + 3))
	}
	if m.rng.IntN(2) == 0 {
		q.Limit = m.rng.IntN(400)
	}
	for range m.rng.IntN(3) {
		q.Levels = append(q.Levels, Level(m.rng.IntN(NumLevels)))
	}
	var want []Entry
	for _, e := range m.all {
		if (len(q.Levels) == 0 || slices.Contains(q.Levels, e.Level)) && (q.Since.IsZero() || !e.Timestamp.Before(q.Since)) &&
			(q.Until.IsZero() || e.Timestamp.Before(q.Until)) && (q.Reverse && (q.From == 0 || e.Index <= q.From) || !q.Reverse && e.Index >= q.From) {
			want = append(want, e)
		}
	}
	if q.Reverse {
		slices.Reverse(want)
	}
	if q.Limit > 0 {
		want = want[:min(len(want), q.Limit)]
	}
	n := 0
	for e, err := range m.log().Entries(context.Background(), q) {
		if err != nil {
			return fmt.Errorf("%+v: %w", q, err)
		}
		if n >= len(want) || !sameEntry(&e, &want[n]) {
			return fmt.Errorf("%+v: entry %d came as number %d of %d", q, e.Index, n, len(want))
		}
		n++
	}
	if n != len(want) {
		return fmt.Errorf("%+v: %d entries, want %d", q, n, len(want))
	}
	return nil
}

func sameEntry(got, want *Entry) bool {
	return got.Index == want.Index && got.ID == want.ID && got.Timestamp.Equal(want.Timestamp) && got.Level == want.Level &&
		got.Message == want.Message && got.Leaf == want.Leaf && proof.LeafHash(got.Line) == want.Leaf
}

func (m *model) entry() error {
	ctx := context.Background()
	for _, i := range []uint64{uint64(len(m.all)), 1 << 60} {
		if _, err := m.l.Entry(ctx, i); !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("entry %d of %d: %w", i, len(m.all), err)
		}
	}
	if len(m.all) == 0 {
		return nil
	}
	i := m.index()
	e, err := m.log().Entry(ctx, i)
	if err != nil {
		return err
	}
	if !sameEntry(&e, &m.all[i]) {
		return fmt.Errorf("entry %d: %+v, want %+v", i, e, m.all[i])
	}
	b, err := m.log().Block(ctx, i)
	if err != nil {
		return err
	}
	var before Hash
	for _, leaf := range m.leaves[:i] {
		before = proof.ChainHash(before, leaf)
	}
	if b.Index != i || b.PreviousHash != before || b.Hash != proof.ChainHash(before, e.Leaf) || !bytes.Equal([]byte(b.Data), e.Line) || !b.Timestamp.Equal(e.Timestamp) {
		return fmt.Errorf("block %d: %+v", i, b)
	}
	return nil
}

func (m *model) inclusion() error {
	if len(m.all) == 0 {
		return nil
	}
	i := m.index()
	size := i + 1 + uint64(m.rng.IntN(len(m.all)-int(i)))
	p, err := m.log().InclusionProof(context.Background(), i, size)
	if err != nil {
		return err
	}
	return proof.CheckInclusion(p, i, size, m.leaves[i], proof.Root(m.leaves[:size]))
}

func (m *model) consistency() error {
	b := uint64(m.rng.IntN(len(m.all) + 1))
	a := uint64(m.rng.IntN(int(b) + 1))
	root, err := m.log().RootAt(context.Background(), a)
	if err != nil || root != proof.Root(m.leaves[:a]) {
		return fmt.Errorf("root at %d is %s (%w), want %s", a, root, err, proof.Root(m.leaves[:a]))
	}
	if b == 0 {
		return nil // means all
	}
	p, err := m.log().ConsistencyProof(context.Background(), a, b)
	if err != nil {
		return err
	}
	return proof.CheckConsistency(p, a, b, proof.Root(m.leaves[:a]), proof.Root(m.leaves[:b]))
}

func (m *model) stats() error {
	s, err := m.log().Stats(context.Background())
	if err != nil {
		return err
	}
	levels := map[string]int64{}
	for i := range NumLevels {
		levels[Level(i).String()] = 0
	}
	for _, e := range m.all {
		levels[e.Level.String()]++
	}
	if int(s.TotalEntries) != len(m.all) || fmt.Sprint(s.Levels) != fmt.Sprint(levels) {
		return fmt.Errorf("stats %+v, want %d entries with levels %v", s, len(m.all), levels)
	}
	return nil
}
