package fsck

import (
	"bytes"
	"fmt"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A lineCheck decodes entries in a row and holds them against the format and each other.
type lineCheck struct {
	file string
	line entry.Line

	time   int64 // timestamp of the entry before; firstTime's if there is none yet
	timeOK bool

	// Of the first entry that could be decoded, which only whoever knows the entry before it can compare.
	firstTime         int64
	firstOK, firstSet bool // firstSet: it may go back

	// For signatures of producers. known is nil where the log's name is not known; later says that lines stay in memory and
	// are verified after they were read.
	known   *registry
	origin  string
	later   bool
	content []byte
	signed  []signedLine

	// Timestamps of all entries, where some party's word about them is trusted.
	timed bool
	times []int64

	levels   [entry.NumLevels]uint64
	entries  uint64
	controls []control
	findings []Finding
}

// A control is a control entry with what it is held against.
type control struct {
	index  uint64
	offset int64
	line   []byte
	log    []byte
	time   int64 // its timestamp
	before int64 // timestamp of the entry before it
	known  bool  // before is known
}

const clockPrefix = `{"type":"clock",`

// check takes the next entry. offset is where it is in the file; within is its place in the frame at that offset, or -1.
func (l *lineCheck) check(index uint64, text []byte, offset int64, within int) {
	l.entries++
	if err := entry.Decode(text, &l.line); err != nil {
		if l.timed {
			l.times = append(l.times, noTime)
		}
		l.find(index, offset, within, Finding{What: "the entry does not follow the format: " + err.Error()})
		return
	}
	if got, want := l.line.Index32, uint32(index); got != want {
		l.find(index, offset, within, Finding{What: "the id is of another index", Got: fmt.Sprint(got), Want: fmt.Sprint(want), Hint: "the entry was moved, or entries before it were added or taken away"})
	}
	l.levels[l.line.Level]++
	t := l.line.Time
	if l.timed {
		l.times = append(l.times, t)
	}
	clock := l.line.Log != nil && bytes.HasPrefix(l.line.Log, []byte(clockPrefix))
	if l.line.Log != nil {
		l.controls = append(l.controls, control{index: index, offset: offset, line: bytes.Clone(text), log: bytes.Clone(l.line.Log), time: t, before: l.time, known: l.timeOK})
	}
	if l.line.Producer != nil && l.known != nil {
		l.addSigned(index, text)
	}
	switch {
	case l.timeOK:
		if t < l.time && !clock {
			l.find(index, offset, within, decreases(t, l.time))
		}
	case !l.firstOK:
		l.firstTime, l.firstOK, l.firstSet = t, true, clock
	}
	l.time, l.timeOK = t, true
}

func decreases(got, before int64) Finding {
	return Finding{What: "the timestamp is lower than that of the entry before", Got: timeText(got), Want: "at least " + timeText(before)}
}

func timeText(t int64) string { return string(entry.FormatTime(nil, t)) }

func (l *lineCheck) find(index uint64, offset int64, within int, f Finding) {
	f.File, f.Offset, f.Index = l.file, offset, int64(index)
	if within >= 0 {
		f.What += fmt.Sprintf(" (byte %d of the frame's lines)", within)
	}
	l.findings = append(l.findings, f)
}

// take adds what a lineCheck found to the report; its first entry follows the joiner's last.
func (j *joiner) take(l *lineCheck, offset int64) {
	r := j.c.rep
	if l.firstOK {
		if j.timeOK && j.size > 0 && l.firstTime < j.time && !l.firstSet {
			f := decreases(l.firstTime, j.time)
			f.File, f.Offset, f.Index = l.file, offset, int64(j.size)
			j.c.find(f)
		}
		if r.FirstTime.IsZero() {
			r.FirstTime = timeOf(l.firstTime)
		}
	}
	for i := range l.controls {
		c := &l.controls[i]
		if !c.known {
			c.before, c.known = j.time, j.timeOK && j.size > 0
		}
		j.c.control(l.file, c)
		if bytes.HasPrefix(c.log, []byte(epochPrefix)) {
			j.queueEpoch(l.file, c)
		}
	}
	j.takeSigned(l)
	j.takeTimes(l)
	for _, f := range l.findings {
		j.c.find(f)
	}
	for i, n := range l.levels {
		r.Levels[i] += n
	}
	r.Entries += l.entries
	if l.timeOK {
		j.time, j.timeOK = l.time, true
		r.LastTime = timeOf(l.time)
	}
}

// lines begins a lineCheck.
func (c *check) lines(later bool) lineCheck {
	l := lineCheck{origin: c.origin, later: later, timed: c.brackets.on || len(c.o.Entries) > 0}
	if c.known {
		l.known = &c.registry
	}
	return l
}

// reset prepares for entries in a row that follow others not known here.
func (l *lineCheck) reset(file string) {
	l.file, l.timeOK, l.firstOK, l.firstSet = file, false, false, false
	l.levels, l.entries = [entry.NumLevels]uint64{}, 0
	l.controls, l.findings, l.signed = l.controls[:0], l.findings[:0], l.signed[:0]
	l.times = l.times[:0]
}
