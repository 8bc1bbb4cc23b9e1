package fsck

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/producer"
)

// Completeness is the verdict on what the sources say they sent, beside the one on integrity: a source that left something
// out, or somebody who kept it from reaching the log, refutes nothing that is in it.
type Completeness string

// The values of Completeness.
const (
	Complete    Completeness = "complete"     // every registered producer: no counter is missing, nothing is bad
	Incomplete  Completeness = "incomplete"   // counters are missing, or entries are bad
	NoProducers Completeness = "no producers" // no producer is registered and nothing is signed by one: nothing can be said
	NotKnown    Completeness = "unknown"      // entries could not be read
)

// A Range is counters, both ends included.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// A ProducerReport is what a producer signed.
type ProducerReport struct {
	Name     string  `json:"name"` // as registered; "" for a key that never was
	Key      string  `json:"key"`  // as registered; "" for one that never was
	ID       string  `json:"id"`
	From     int64   `json:"from"`  // index of the entry that registered it; -1 if none did
	Until    int64   `json:"until"` // index of the entry that ended it; -1 if none did
	Signed   uint64  `json:"signed"`
	Bad      uint64  `json:"bad"`
	FirstBad int64   `json:"firstBad"` // index; -1 if there is none
	Why      string  `json:"why,omitempty"`
	Highest  uint64  `json:"highest"` // counter of a signed entry
	Missing  []Range `json:"missing"` // counters up to Highest that are in no signed entry; the first 1,000 ranges
	Lacking  uint64  `json:"lacking"` // how many counters are missing
	// Inexact says that there were more ranges than are kept in memory, so that Missing and Lacking are too small.
	Inexact bool `json:"inexact,omitempty"`
}

const (
	// maxProducers bounds how many keys are followed; those that the log registers after them are noted, and so are the
	// entries that they sign.
	maxProducers = 10_000
	// maxStrangers bounds how many keys that were never registered are listed.
	maxStrangers = 1000
	// maxRuns bounds how many runs of counters are kept, over all producers: 16 bytes each.
	maxRuns = 1 << 20
	// maxMissing bounds the ranges that a report lists for one producer.
	maxMissing = 1000
	// verifyChunk is how many signatures of an open segment's batch a worker verifies at a time.
	verifyChunk = 32
)

// A registry has the keys that the log has registered so far, for workers that are ahead of the joiner. A key's id is bound
// to the key, so it does not matter when a worker looks; whether the key counts is the joiner's question.
type registry struct {
	mu   sync.RWMutex
	keys map[uint64]producer.Key
}

func (r *registry) get(id uint64) (producer.Key, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, found := r.keys[id]
	return k, found
}

// add keeps the first key of an id.
func (r *registry) add(k producer.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		r.keys = map[uint64]producer.Key{}
	}
	if id := producerID([]byte(k.ID())); len(r.keys) < maxProducers {
		if _, taken := r.keys[id]; !taken {
			r.keys[id] = k
		}
	}
}

// producerID is a key's id as a number.
func producerID(digits []byte) uint64 {
	var b [8]byte
	_, _ = hex.Decode(b[:], digits) // the decoder has checked the digits
	id := uint64(0)
	for _, c := range b {
		id = id<<8 | uint64(c)
	}
	return id
}

func idText(id uint64) string { return fmt.Sprintf("%016x", id) }

// A signedLine is an entry with a producer's signature.
type signedLine struct {
	index, id, counter uint64
	state              lineState
	text               []byte // until it is verified, where the line stays in memory so long
}

type lineState uint8

const (
	unverified   lineState = iota // its key was not registered yet when the line was read
	goodLine                      // the signature is good
	badSignature                  // it is not
)

// addSigned keeps the line that was just decoded. With a registry its signature is verified at once, if the key is known.
func (l *lineCheck) addSigned(index uint64, text []byte) {
	p, ok := l.line.Signature()
	if !ok {
		return
	}
	s := signedLine{index: index, id: producerID([]byte(p.Key)), counter: p.Counter}
	switch key, found := l.known.get(s.id); {
	case l.later:
		s.text = text
	case found:
		l.content = l.line.AppendSigned(l.content[:0])
		s.state = judge(key, l.origin, p, l.content)
	}
	l.signed = append(l.signed, s)
}

func judge(key producer.Key, origin string, p entry.Producer, content []byte) lineState {
	if key.Verify(origin, p, content) {
		return goodLine
	}
	return badSignature
}

// A signedJob verifies some lines of a batch.
type signedJob struct {
	c     *check
	lines []signedLine
	wg    *sync.WaitGroup
}

func (s *signedJob) run(*worker) {
	defer s.wg.Done()
	var line entry.Line
	var content []byte
	for i := range s.lines {
		l := &s.lines[i]
		key, found := s.c.registry.get(l.id)
		if !found || l.state != unverified || entry.Decode(l.text, &line) != nil {
			continue
		}
		if p, ok := line.Signature(); ok {
			content = line.AppendSigned(content[:0])
			l.state = judge(key, s.c.origin, p, content)
		}
	}
}

// verifySigned has the workers verify the lines of a batch.
func (j *joiner) verifySigned(lines []signedLine) {
	var wg sync.WaitGroup
	for len(lines) > 0 {
		n := min(verifyChunk, len(lines))
		s := &signedJob{c: j.c, lines: lines[:n], wg: &wg}
		wg.Add(1)
		if n < verifyChunk || !j.pool.submit(s) {
			s.run(nil)
		}
		lines = lines[n:]
	}
	wg.Wait()
}

// register takes the keys of a batch's control entries, before its lines are verified.
func (j *joiner) register(controls []control) {
	for i := range controls {
		if k, ok := registered(controls[i].log, "producer"); ok {
			j.c.registry.add(k)
		}
	}
}

// registered reads a producer or producer-end entry.
func registered(log []byte, kind string) (producer.Key, bool) {
	m, names, err := members(log)
	if err != nil || m.text("type") != kind || names != controlMembers[kind] {
		return producer.Key{}, false
	}
	k, err := producer.ParseKey(m.text("key"))
	return k, err == nil && k.Name() == m.text("name")
}

func checkProducer(m object) error {
	k, err := producer.ParseKey(m.text("key"))
	if err == nil && k.Name() != m.text("name") {
		err = fmt.Errorf("name is %q, the key's is %q", m.text("name"), k.Name())
	}
	return err
}

// again says whether lines that could not be verified can be now.
func (c *check) again(lines []signedLine) bool {
	return slices.ContainsFunc(lines, func(s signedLine) bool {
		if s.state != unverified {
			return false
		}
		_, found := c.registry.get(s.id)
		return found
	})
}

// producers judges signed entries in order. It belongs to the joiner.
type producers struct {
	known     map[uint64]*source
	strangers int
	runs      int // of all sources
	unlisted  bool
}

// A source is a producer's key with the counters that it used.
type source struct {
	ProducerReport
	registered bool
	runs       []Range // of used counters, in order, not touching each other
}

// takeSigned goes through the signed lines and the control entries of a batch in the order of their indexes.
func (j *joiner) takeSigned(l *lineCheck) {
	c := j.c
	lines := l.signed
	for i := range l.controls {
		e := &l.controls[i]
		n := 0
		for n < len(lines) && lines[n].index < e.index {
			n++
		}
		j.judgeAll(lines[:n])
		lines = lines[n:]
		if k, ok := registered(e.log, "producer"); ok {
			j.beginProducer(k, e.index)
		} else if k, ok := registered(e.log, "producer-end"); ok {
			if s := j.producers.known[producerID([]byte(k.ID()))]; s != nil && s.Key == k.String() && s.Until < 0 {
				s.Until = int64(e.index)
			}
		}
	}
	j.judgeAll(lines)
	c.rep.Unsigned += l.entries - uint64(len(l.signed)) - uint64(len(l.controls))
}

func (j *joiner) beginProducer(k producer.Key, index uint64) {
	p := &j.producers
	id := producerID([]byte(k.ID()))
	s := p.known[id]
	switch {
	case s != nil && s.registered:
		return // an id does not begin again
	case s == nil && len(p.known)-p.strangers >= maxProducers:
		if !p.unlisted {
			p.unlisted = true
			j.c.note(Finding{File: ".", Offset: -1, Index: int64(index), What: fmt.Sprintf("more than %d producers are registered; this one and those after it are not followed", maxProducers)})
		}
		return
	case s == nil:
		s = j.newSource(id)
	default:
		p.strangers--
	}
	s.registered, s.Name, s.Key, s.From = true, k.Name(), k.String(), int64(index)
}

func (j *joiner) newSource(id uint64) *source {
	if j.producers.known == nil {
		j.producers.known = map[uint64]*source{}
	}
	s := &source{ProducerReport: ProducerReport{ID: idText(id), From: -1, Until: -1, FirstBad: -1}}
	j.producers.known[id] = s
	return s
}

func (j *joiner) judgeAll(lines []signedLine) {
	p := &j.producers
	for i := range lines {
		line := &lines[i]
		s := p.known[line.id]
		if s == nil && p.strangers < maxStrangers {
			s = j.newSource(line.id)
			p.strangers++
		}
		why := ""
		switch {
		case s == nil || !s.registered:
			why = "its key is not registered"
		case s.Until >= 0:
			why = "its key has ended"
		case line.state != goodLine:
			why = "its signature is not good"
		case !s.use(line.counter, &p.runs):
			why = fmt.Sprintf("its counter %d was used before", line.counter)
		}
		if why == "" {
			j.c.rep.ProducerSigned++
			s.Signed++
			continue
		}
		j.c.rep.ProducerBad++
		if s != nil {
			if s.Bad++; s.FirstBad < 0 {
				s.FirstBad, s.Why = int64(line.index), why
			}
		}
	}
}

// use takes a counter; false if it was used before. total counts the runs of all sources.
func (s *source) use(counter uint64, total *int) bool {
	// The first run that ends at the counter before or later.
	i, _ := slices.BinarySearchFunc(s.runs, counter-1, func(r Range, c uint64) int { return cmp.Compare(r.To, c) })
	switch {
	case i < len(s.runs) && s.runs[i].From <= counter && counter <= s.runs[i].To:
		return false
	case i < len(s.runs) && s.runs[i].To == counter-1:
		s.runs[i].To = counter
		if i+1 < len(s.runs) && s.runs[i+1].From == counter+1 {
			s.runs[i].To = s.runs[i+1].To
			s.runs = slices.Delete(s.runs, i+1, i+2)
			*total--
		}
	case i < len(s.runs) && s.runs[i].From == counter+1:
		s.runs[i].From = counter
	case *total >= maxRuns:
		s.Inexact = true
	default:
		s.runs = slices.Insert(s.runs, i, Range{counter, counter})
		*total++
	}
	s.Highest = max(s.Highest, counter)
	return true
}

// finishProducers reports them: those that were registered first, each in the order of their entries.
func (j *joiner) finishProducers() {
	rep := j.c.rep
	all := make([]*source, 0, len(j.producers.known))
	for _, s := range j.producers.known {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *source) int {
		return cmp.Or(cmp.Compare(uint64(a.From), uint64(b.From)), cmp.Compare(a.FirstBad, b.FirstBad), cmp.Compare(a.ID, b.ID))
	})
	rep.Completeness = NoProducers
	if len(all) > 0 || rep.ProducerBad > 0 {
		rep.Completeness = Complete
	}
	rep.Producers = []ProducerReport{}
	for _, s := range all {
		s.lacking()
		if s.Lacking > 0 || s.Inexact {
			rep.Completeness = Incomplete
		}
		rep.Producers = append(rep.Producers, s.ProducerReport)
	}
	if rep.ProducerBad > 0 {
		rep.Completeness = Incomplete
	}
	if j.epochs.lost || j.lost || rep.RetiredEntries > 0 && rep.Completeness != NoProducers {
		rep.Completeness = NotKnown
	}
}

// lacking makes the ranges of missing counters from those that were used.
func (s *source) lacking() {
	s.Missing = []Range{}
	next := uint64(1)
	for _, r := range s.runs {
		if r.From > next {
			s.Lacking += r.From - next
			if len(s.Missing) < maxMissing {
				s.Missing = append(s.Missing, Range{next, r.From - 1})
			}
		}
		next = r.To + 1
	}
}
