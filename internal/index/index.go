// Package index keeps what a sealed segment holds in small: times and levels of each group, and the idempotency keys; and
// it writes and reads the seal over the segment's archive and index.
//
// docs/format.md, section "Index", is the contract. An index is derived: it is rebuilt byte for byte from the entries. A
// decoder cannot know that it is true, only that it could be; the seal, or a rebuild, says that it is.
package index

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

// Part of the format; never change.
const (
	GroupSize = 256 // entries of a group

	magic      = "immutable/index/1\n"
	headSize   = len(magic) + 8 + 8 + 4 + 4
	groupBytes = 4*8 + 8*2
	keyBytes   = 16 + 4 + 8
	maxGroups  = 1 << 24 // a key counts the segment's entries in 32 bits
)

// A Group describes GroupSize entries in a row. Times are Unix nanoseconds, both ends included. EventMin and EventMax are
// math.MaxInt64 and math.MinInt64 when no entry has an eventTime; times outside int64 are clamped to it.
type Group struct {
	TimeMin, TimeMax   int64
	EventMin, EventMax int64
	Levels             [entry.NumLevels]uint16 // how many entries of each level
}

// A Key is one entry's idempotency key.
type Key struct {
	Hash [16]byte // KeyHash
	Rel  uint32   // the entry's index less the segment's first
	Time int64    // the entry's timestamp, Unix nanoseconds
}

// An Index describes the entries First … End-1 of one segment. First is a multiple of GroupSize. New and Add make one; the
// slices may be read at any time.
type Index struct {
	First, End uint64
	Groups     []Group
	Keys       []Key
}

// New is the index of a segment that begins at entry first, without entries so far.
func New(first uint64) *Index { return &Index{First: first, End: first} }

// Add describes the next entry. After an error the index is as it was. It keeps nothing of l.
func (x *Index) Add(l *entry.Line) error {
	rel := x.End - x.First
	if l.Index32 != uint32(x.End) {
		return fmt.Errorf("index entry %d: its id says index %d modulo 2^32", x.End, l.Index32)
	}
	if rel >= maxGroups*GroupSize {
		return fmt.Errorf("index entry %d: more than %d entries in one segment", x.End, uint64(maxGroups*GroupSize))
	}
	if l.Level >= entry.NumLevels || l.Time < 0 || l.Time > entry.MaxTime {
		return fmt.Errorf("index entry %d: level %d at time %d is outside the format", x.End, l.Level, l.Time)
	}
	var event int64
	if len(l.EventTime) > 0 {
		t, err := entry.ParseEventTime(l.EventTime)
		if err != nil {
			return fmt.Errorf("index entry %d: eventTime: %w", x.End, err)
		}
		event = clamp(t)
	}
	if len(l.IdempotencyKey) > 0 {
		key, err := entry.Unquote(l.IdempotencyKey)
		if err != nil {
			return fmt.Errorf("index entry %d: idempotencyKey: %w", x.End, err)
		}
		x.Keys = append(x.Keys, Key{Hash: KeyHash(key), Rel: uint32(rel), Time: l.Time})
	}
	if rel%GroupSize == 0 {
		x.Groups = append(x.Groups, Group{TimeMin: l.Time, TimeMax: l.Time, EventMin: math.MaxInt64, EventMax: math.MinInt64})
	}
	g := &x.Groups[len(x.Groups)-1]
	g.TimeMin, g.TimeMax = min(g.TimeMin, l.Time), max(g.TimeMax, l.Time)
	if len(l.EventTime) > 0 {
		g.EventMin, g.EventMax = min(g.EventMin, event), max(g.EventMax, event)
	}
	g.Levels[l.Level]++
	x.End++
	return nil
}

// Append appends the encoding. It panics when the last group is not whole: an index without whole groups has none.
func (x *Index) Append(dst []byte) []byte {
	if x.First%GroupSize != 0 || x.End-x.First != uint64(len(x.Groups))*GroupSize || len(x.Groups) == 0 {
		panic(fmt.Sprintf("index: encode entries %d to %d in %d groups: a segment holds whole groups", x.First, x.End, len(x.Groups)))
	}
	le := binary.LittleEndian
	dst = append(dst, magic...)
	dst = le.AppendUint64(dst, x.First)
	dst = le.AppendUint64(dst, x.End)
	dst = le.AppendUint32(dst, uint32(len(x.Groups)))
	dst = le.AppendUint32(dst, uint32(len(x.Keys)))
	for i := range x.Groups {
		g := &x.Groups[i]
		for _, t := range [...]int64{g.TimeMin, g.TimeMax, g.EventMin, g.EventMax} {
			dst = le.AppendUint64(dst, uint64(t))
		}
		for _, n := range g.Levels {
			dst = le.AppendUint16(dst, n)
		}
	}
	for i := range x.Keys {
		k := &x.Keys[i]
		dst = append(dst, k.Hash[:]...)
		dst = le.AppendUint32(dst, k.Rel)
		dst = le.AppendUint64(dst, uint64(k.Time))
	}
	return dst
}

// Decode is the inverse of Append. It refuses what no entries could have made. It allocates in proportion to data.
func Decode(data []byte) (*Index, error) {
	if len(data) < headSize || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("index: byte 0: got %q, want %q and %d bytes", data[:min(len(data), len(magic))], magic, headSize-len(magic))
	}
	le := binary.LittleEndian
	head := data[len(magic):]
	x := &Index{First: le.Uint64(head), End: le.Uint64(head[8:])}
	groups, keys := uint64(le.Uint32(head[16:])), uint64(le.Uint32(head[20:]))
	switch {
	case x.First%GroupSize != 0 || x.First > proof.MaxSize || x.End > proof.MaxSize:
		return nil, fmt.Errorf("index: byte %d: entries %d to %d, want a multiple of %d first and both below 2^63", len(magic), x.First, x.End, GroupSize)
	case groups == 0 || groups > maxGroups || x.End != x.First+groups*GroupSize:
		return nil, fmt.Errorf("index: byte %d: %d groups for entries %d to %d, want 1 to %d of %d each", len(magic)+16, groups, x.First, x.End, maxGroups, GroupSize)
	case keys > groups*GroupSize:
		return nil, fmt.Errorf("index: byte %d: %d keys of %d entries", len(magic)+20, keys, groups*GroupSize)
	}
	if want := uint64(headSize) + groups*groupBytes + keys*keyBytes; uint64(len(data)) != want {
		return nil, fmt.Errorf("index: %d bytes, want %d for %d groups and %d keys", len(data), want, groups, keys)
	}
	x.Groups = make([]Group, groups)
	pos := headSize
	for i := range x.Groups {
		if err := x.Groups[i].decode(data[pos:]); err != nil {
			return nil, fmt.Errorf("index: byte %d: group %d: %w", pos, i, err)
		}
		pos += groupBytes
	}
	if keys > 0 {
		x.Keys = make([]Key, keys)
	}
	for i := range x.Keys {
		if err := x.decodeKey(i, data[pos:]); err != nil {
			return nil, fmt.Errorf("index: byte %d: key %d: %w", pos, i, err)
		}
		pos += keyBytes
	}
	return x, nil
}

func (g *Group) decode(b []byte) error {
	le := binary.LittleEndian
	for i, t := range [...]*int64{&g.TimeMin, &g.TimeMax, &g.EventMin, &g.EventMax} {
		*t = int64(le.Uint64(b[8*i:]))
	}
	sum := 0
	for i := range g.Levels {
		g.Levels[i] = le.Uint16(b[4*8+2*i:])
		sum += int(g.Levels[i])
	}
	none := g.EventMin == math.MaxInt64 && g.EventMax == math.MinInt64
	switch {
	case g.TimeMin < 0 || g.TimeMin > g.TimeMax || g.TimeMax > entry.MaxTime:
		return fmt.Errorf("timestamps %d to %d, want a range within 0 to %d", g.TimeMin, g.TimeMax, entry.MaxTime)
	case g.EventMin > g.EventMax && !none:
		return fmt.Errorf("event times %d to %d, want a range or the two values for none", g.EventMin, g.EventMax)
	case sum != GroupSize:
		return fmt.Errorf("%d entries in all levels, want %d", sum, GroupSize)
	}
	return nil
}

func (x *Index) decodeKey(i int, b []byte) error {
	k := &x.Keys[i]
	copy(k.Hash[:], b)
	k.Rel = binary.LittleEndian.Uint32(b[16:])
	k.Time = int64(binary.LittleEndian.Uint64(b[20:]))
	if i > 0 && k.Rel <= x.Keys[i-1].Rel {
		return fmt.Errorf("entry %d after entry %d, want index order", k.Rel, x.Keys[i-1].Rel)
	}
	if uint64(k.Rel) >= x.End-x.First {
		return fmt.Errorf("entry %d of %d", k.Rel, x.End-x.First)
	}
	if g := &x.Groups[k.Rel/GroupSize]; k.Time < g.TimeMin || k.Time > g.TimeMax {
		return fmt.Errorf("timestamp %d outside its group's %d to %d", k.Time, g.TimeMin, g.TimeMax)
	}
	return nil
}

// KeyHash is what the index holds of an idempotency key: the first 16 bytes of its SHA-256.
func KeyHash(key string) [16]byte {
	h := sha256.Sum256([]byte(key))
	return [16]byte(h[:16])
}

// clamp is t in Unix nanoseconds, or the end of int64 that is nearest.
func clamp(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}
