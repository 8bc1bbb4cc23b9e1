package fsck

import (
	"cmp"
	"math"
	"slices"
	"time"
)

const (
	// maxTimes bounds how many statements about time of each kind a report lists: the newest.
	maxTimes = 1000
	// maxClock bounds the runs of entries outside their brackets that a report lists.
	maxClock = 100
)

// A TimeMark is what an outside party says about when it saw the log.
type TimeMark struct {
	Kind     string        `json:"kind"`  // cosignature, rfc3161, anchor
	Size     uint64        `json:"size"`  // of the checkpoint that it saw: the entries below are not newer
	Index    int64         `json:"index"` // of an anchor entry: the entries from there on are not older; else -1
	Time     time.Time     `json:"time"`
	Accuracy time.Duration `json:"accuracy"` // Time may be off by so much
	Name     string        `json:"name"`
	File     string        `json:"file"`
	Trusted  bool          `json:"trusted"` // by the keys or roots that the verifier was given
}

// A Bracket says between what times an entry came into the log, by the word of parties that are trusted.
type Bracket struct {
	Index     uint64    `json:"index"`
	Timestamp time.Time `json:"timestamp"` // the log's own clock
	NotBefore *TimeMark `json:"notBefore"`
	NotAfter  *TimeMark `json:"notAfter"`
	Outside   bool      `json:"outside"` // Timestamp is not within, by more than the accuracy
}

// A ClockReport is a run of entries whose timestamps lie outside their brackets on one side of one statement.
type ClockReport struct {
	From      uint64    `json:"from"`
	To        uint64    `json:"to"`        // included
	Timestamp time.Time `json:"timestamp"` // of entry From
	Late      bool      `json:"late"`      // after what Mark allows; else before
	Mark      TimeMark  `json:"mark"`
}

// brackets knows the trusted times.
type brackets struct {
	on     bool    // a time is trusted
	after  []bound // entries below place are not newer; places and limits increase, and places below the present entry are gone
	before bound   // entries from place on are not older: the strictest so far
	listed int     // anchors in the report
}

// A bound is a trusted time with its slack taken off.
type bound struct {
	place uint64
	limit int64
	mark  TimeMark
}

// startTimes makes the bounds from what was read before the entries.
func (c *check) startTimes() {
	b := &c.brackets
	var all []bound
	add := func(kind string, size uint64, file string, s said) {
		mark := TimeMark{
			Kind: kind, Size: size, Index: -1, Time: timeOf(s.at), Accuracy: time.Duration(s.slack), Name: s.name, File: file, Trusted: s.trusted,
		}
		if s.trusted {
			all = append(all, bound{size, s.at + s.slack, mark})
		}
		if s.name != "" {
			c.rep.Times = append(c.rep.Times, mark)
		}
	}
	for i := range c.evidence {
		f := &c.evidence[i]
		kind := "rfc3161"
		if f.n < 0 {
			kind = "cosignature"
		}
		if f.ok {
			add(kind, f.size, evidenceFileName(f.size, f.n), f.said)
		}
	}
	if c.cosigned != nil {
		add("cosignature", c.cosigned.size, cosignedName, c.cosignedSaid)
	}
	if len(c.rep.Times) > maxTimes {
		c.rep.Times = slices.Clone(c.rep.Times[len(c.rep.Times)-maxTimes:])
	}
	slices.SortStableFunc(all, func(x, y bound) int { return cmp.Or(cmp.Compare(x.place, y.place), cmp.Compare(x.limit, y.limit)) })
	// From the end: one that is not earlier than a later place's says nothing that this one does not say.
	earliest := int64(math.MaxInt64)
	for _, m := range slices.Backward(all) {
		if m.limit < earliest {
			earliest = m.limit
			b.after = append(b.after, m)
		}
	}
	slices.Reverse(b.after)
	b.on = len(all) > 0
}

// notAfter is the bound of entry i, or nil. It is asked for larger and larger indexes.
func (b *brackets) notAfter(i uint64) *bound {
	for len(b.after) > 0 && b.after[0].place <= i {
		b.after = b.after[1:]
	}
	if len(b.after) == 0 {
		return nil
	}
	return &b.after[0]
}

// anchor takes an anchor entry whose file is what it says.
func (c *check) anchor(index, size uint64, file string, s said) {
	mark := TimeMark{
		Kind: "anchor", Size: size, Index: int64(index), Time: timeOf(s.at), Accuracy: time.Duration(s.slack), Name: s.name, File: file, Trusted: s.trusted,
	}
	c.anchors = append(c.anchors, bound{index, s.at - s.slack, mark})
	b := &c.brackets
	if b.listed++; b.listed <= maxTimes {
		c.rep.Times = append(c.rep.Times, mark)
		return
	}
	// The oldest anchor goes.
	i := slices.IndexFunc(c.rep.Times, func(m TimeMark) bool { return m.Kind == "anchor" })
	c.rep.Times = append(slices.Delete(c.rep.Times, i, i+1), mark)
}

// takeTimes holds the timestamps of entries in a row, the first at the joiner's size, against their brackets.
func (j *joiner) takeTimes(l *lineCheck) {
	c := j.c
	b := &c.brackets
	anchors := c.anchors
	c.anchors = c.anchors[:0]
	for k, at := range l.times {
		i := j.size + uint64(k)
		for len(anchors) > 0 && anchors[0].place <= i {
			if a := anchors[0]; a.mark.Trusted && (b.before.mark.Kind == "" || a.limit > b.before.limit) {
				b.before = a
			}
			anchors = anchors[1:]
		}
		if at == noTime {
			continue
		}
		after := b.notAfter(i)
		late, early := after != nil && at > after.limit, b.before.mark.Kind != "" && at < b.before.limit
		switch {
		case late:
			c.outside(i, at, true, &after.mark)
		case early:
			c.outside(i, at, false, &b.before.mark)
		}
		if len(c.o.Entries) > 0 && slices.Contains(c.o.Entries, i) {
			j.bracket(i, at, after, late || early)
		}
	}
}

// noTime stands for the timestamp of a line that is no entry.
const noTime = math.MinInt64

// outside reports an entry's timestamp; with the entry before, where that one lies outside for the same reason.
func (c *check) outside(i uint64, at int64, late bool, mark *TimeMark) {
	r := c.rep
	r.ClockOutside++
	if n := len(r.Clock); n > 0 {
		if last := &r.Clock[n-1]; last.To == i-1 && last.Late == late && last.Mark == *mark {
			last.To = i
			return
		}
	}
	if len(r.Clock) < maxClock {
		r.Clock = append(r.Clock, ClockReport{From: i, To: i, Timestamp: timeOf(at), Late: late, Mark: *mark})
	}
}

func (j *joiner) bracket(i uint64, at int64, after *bound, outside bool) {
	b := Bracket{Index: i, Timestamp: timeOf(at), Outside: outside}
	if before := j.c.brackets.before; before.mark.Kind != "" {
		b.NotBefore = &before.mark
	}
	if after != nil {
		mark := after.mark
		b.NotAfter = &mark
	}
	j.c.rep.Brackets = append(j.c.rep.Brackets, b)
}
