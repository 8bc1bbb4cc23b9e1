package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/producer"
	"github.com/tree-of-life-system/immutable/internal/segment"
)

func makeProducer(t testing.TB, name, algorithm string) *producer.PrivateKey {
	t.Helper()
	k, err := producer.NewKey(name, algorithm, sha256.Sum256([]byte(name+algorithm)))
	must(t, err)
	return k
}

// signedLine is the next entry but more, signed under a counter.
func (b *book) signedLine(more int, k *producer.PrivateKey, counter uint64) []byte {
	at := b.size() + uint64(more)
	e := entry.Event{Level: entry.Audit, Message: fmt.Sprintf("s%d", at), Hostname: "source", PID: 7}
	p, err := k.Sign(b.origin, counter, entry.SignedContent(b.line(at, e)))
	must(b.t, err)
	e.Producer = &p
	return b.line(at, e)
}

// send appends a batch of entries, each signed under the next counter given.
func (b *book) send(k *producer.PrivateKey, counters ...uint64) {
	var lines [][]byte
	for i, c := range counters {
		lines = append(lines, b.signedLine(i, k, c))
	}
	b.batch(lines)
}

// record appends a control entry.
func (b *book) record(log string) {
	b.batch([][]byte{b.line(b.size(), entry.Event{Level: entry.System, Message: "m", Log: []byte(log)})})
}

func (b *book) register(k *producer.PrivateKey) {
	b.record(fmt.Sprintf(`{"type":"producer","name":"%s","key":"%s"}`, k.Key().Name(), k.Key()))
}

func (b *book) end(k *producer.PrivateKey) {
	b.record(fmt.Sprintf(`{"type":"producer-end","name":"%s","key":"%s"}`, k.Key().Name(), k.Key()))
}

func upTo(from, to uint64) []uint64 {
	var out []uint64
	for c := from; c <= to; c++ {
		out = append(out, c)
	}
	return out
}

func TestCompletenessIsAVerdictOfItsOwn(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	b.add(3)
	b.publish(true)
	if r := verify(t, b.options()); r.Completeness != NoProducers || r.Unsigned != 3 || len(r.Producers) != 0 {
		t.Errorf("%s, %d unsigned, %v", r.Completeness, r.Unsigned, r.Producers)
	}
	one, two := makeProducer(t, "one", producer.Ed25519), makeProducer(t, "two", producer.MLDSA44)
	b.register(one)
	b.register(two)
	b.send(one, upTo(1, 40)...)
	b.send(two, 2, 1, 3)
	b.add(1)
	b.publish(true)
	r := verify(t, b.options())
	want(t, r, Proven)
	if r.Completeness != Complete || r.Unsigned != 4 || r.ProducerSigned != 43 || r.ProducerBad != 0 || len(r.Producers) != 2 {
		t.Errorf("%s, %d unsigned, %d signed, %d bad, %v", r.Completeness, r.Unsigned, r.ProducerSigned, r.ProducerBad, r.Producers)
	}
	if p := r.Producers[0]; p.Name != "one" || p.Key != one.Key().String() || p.ID != one.Key().ID() || p.From != 3 || p.Until != -1 || p.Signed != 40 || p.Highest != 40 || p.Lacking != 0 || p.FirstBad != -1 {
		t.Errorf("%+v", p)
	}
	b.send(one, 42, 50, 45, 44)
	b.close()
	r = verify(t, b.options())
	want(t, r, Proven) // what a source left out does not touch what is there
	if p := r.Producers[0]; r.Completeness != Incomplete || p.Lacking != 6 || !slices.Equal(p.Missing, []Range{{41, 41}, {43, 43}, {46, 49}}) || p.Highest != 50 {
		t.Errorf("%s, %+v", r.Completeness, p)
	}
}

// Each kind of bad entry is told from a signed one by one check.
func TestRulesOfProducers(t *testing.T) {
	one, two := makeProducer(t, "one", producer.Ed25519), makeProducer(t, "two", producer.Ed25519)
	for _, tt := range []struct {
		name string
		bend func(b *book)
		bad  uint64
		why  string
	}{
		{"a good one", func(b *book) { b.send(one, 3) }, 0, ""},
		{"a counter twice", func(b *book) { b.send(one, 2) }, 1, "counter 2 was used before"},
		{"a counter twice in a batch", func(b *book) { b.send(one, 3, 3) }, 1, "counter 3 was used before"},
		{"after its end", func(b *book) { b.end(one); b.send(one, 3) }, 1, "has ended"},
		{"registered again after its end", func(b *book) { b.end(one); b.register(one); b.send(one, 3) }, 1, "has ended"},
		{"the end of another key", func(b *book) { b.end(two); b.send(one, 3) }, 0, ""},
		{"not registered", func(b *book) { b.send(two, 1) }, 1, "not registered"},
		{"registered only later", func(b *book) { b.send(two, 1); b.register(two) }, 1, "not registered"},
		{"registered later in the batch", func(b *book) {
			line := b.signedLine(0, two, 1)
			b.batch([][]byte{line, b.line(b.size()+1, entry.Event{Level: entry.System, Log: fmt.Appendf(nil, `{"type":"producer","name":"two","key":"%s"}`, two.Key())})})
		}, 1, "not registered"},
		{"registered before in the batch", func(b *book) {
			e := b.line(b.size(), entry.Event{Level: entry.System, Log: fmt.Appendf(nil, `{"type":"producer","name":"two","key":"%s"}`, two.Key())})
			b.batch([][]byte{e, b.signedLine(1, two, 1)})
		}, 0, ""},
		{"another content", func(b *book) {
			line := b.signedLine(0, one, 3)
			b.batch([][]byte{bytes.Replace(line, []byte(`"source"`), []byte(`"Source"`), 1)})
		}, 1, "signature is not good"},
		{"another counter", func(b *book) {
			b.batch([][]byte{bytes.Replace(b.signedLine(0, one, 3), []byte(`"counter":3`), []byte(`"counter":4`), 1)})
		}, 1, "signature is not good"},
		{"another key", func(b *book) {
			b.batch([][]byte{bytes.Replace(b.signedLine(0, two, 3), []byte(two.Key().ID()), []byte(one.Key().ID()), 1)})
		}, 1, "signature is not good"},
		{"of another log", func(b *book) {
			b.origin = "example.com/other"
			line := b.signedLine(0, one, 3)
			b.origin = "example.com/log"
			b.batch([][]byte{line})
		}, 1, "signature is not good"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, sealed := range []bool{false, true} {
				b := newBook(t, "example.com/log", true)
				b.register(one)
				b.send(one, 1, 2)
				at := b.size()
				tt.bend(b)
				b.add(600)
				b.publish(true)
				if sealed {
					b.rotate()
					b.seal(0, 512)
				}
				b.close()
				r := verify(t, b.options())
				want(t, r, Proven)
				complete := Complete
				if tt.bad > 0 {
					complete = Incomplete
				}
				if r.ProducerBad != tt.bad || r.Completeness != complete {
					t.Errorf("sealed %v: %d bad, %s: %+v", sealed, r.ProducerBad, r.Completeness, r.Producers)
				}
				if i := slices.IndexFunc(r.Producers, func(p ProducerReport) bool { return p.Bad > 0 }); tt.bad > 0 && (i < 0 || r.Producers[i].FirstBad < int64(at) || !strings.Contains(r.Producers[i].Why, tt.why)) {
					t.Errorf("sealed %v: %+v", sealed, r.Producers)
				}
			}
		})
	}
	// Control entries that name no key refute.
	for _, log := range []string{
		`{"type":"producer","name":"two","key":"` + one.Key().String() + `"}`, `{"type":"producer-end","name":"two","key":"` + one.Key().String() + `"}`,
		`{"type":"producer","name":"one","key":"one"}`, `{"type":"producer","key":"` + one.Key().String() + `","name":"one"}`,
	} {
		b := newBook(t, "example.com/log", true)
		b.record(log)
		b.send(one, 1)
		b.close()
		if r := verify(t, b.options()); r.Verdict != Refuted || r.ProducerBad != 1 {
			t.Errorf("%s: %s, %d bad", log, r.Verdict, r.ProducerBad)
		}
	}
}

// Keys that are registered while workers are far ahead count all the same, and segments give what the raw log gives.
func TestSealedProducersAreTheOpenOnes(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	keys := []*producer.PrivateKey{makeProducer(t, "a", producer.Ed25519), makeProducer(t, "b", producer.Ed25519), makeProducer(t, "c", producer.MLDSA44)}
	next := make([]uint64, len(keys))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		if i%20 == 7 {
			b.register(keys[i/20])
		}
		for k := range keys {
			for range r.IntN(4) {
				next[k] += 1 + uint64(r.IntN(8)/7)
				b.send(keys[k], next[k])
			}
		}
		b.add(90 + r.IntN(60))
	}
	b.publish(true)
	raw := b.clone()
	raw.close()
	open := verify(t, raw.options())
	want(t, open, Proven)
	end := b.size() / groupSize * groupSize
	b.rotate()
	b.seal(0, end)
	b.close()
	for _, workers := range []int{1, 4} {
		o := b.options()
		o.Workers = workers
		sealed := verify(t, o)
		want(t, sealed, Proven)
		if sealed.Completeness != Incomplete || sealed.ProducerSigned != open.ProducerSigned || sealed.ProducerBad != open.ProducerBad || sealed.Unsigned != open.Unsigned ||
			fmt.Sprint(sealed.Producers) != fmt.Sprint(open.Producers) || sealed.ProducerSigned == 0 || sealed.ProducerBad == 0 {
			t.Errorf("%d workers:\n%+v\n%+v", workers, sealed.Producers, open.Producers)
		}
	}
	name := "archive/" + segment.ArchiveName(0)
	b.files[name] = b.files[name][:len(b.files[name])/2]
	if r := verify(t, b.options()); r.Completeness != NotKnown {
		t.Errorf("%s, although entries are missing", r.Completeness)
	}
}

// Runs of counters are what a set of them is.
func FuzzCounters(f *testing.F) {
	f.Add([]byte{1, 2, 3, 5, 4, 4, 200, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, total, set := &source{}, 0, map[uint64]bool{}
		for _, b := range data {
			c := uint64(b) + 1
			if got := s.use(c, &total); got == set[c] {
				t.Fatalf("counter %d: %v, used before: %v", c, got, set[c])
			}
			set[c] = true
		}
		s.lacking()
		var missing []uint64
		for _, r := range s.Missing {
			missing = append(missing, upTo(r.From, r.To)...)
		}
		var want []uint64
		highest := uint64(0)
		if len(set) > 0 {
			highest = slices.Max(slices.Collect(maps.Keys(set)))
		}
		for c := uint64(1); c < highest; c++ {
			if !set[c] {
				want = append(want, c)
			}
		}
		if !slices.Equal(missing, want) || s.Lacking != uint64(len(want)) || s.Highest != highest || total != len(s.runs) {
			t.Fatalf("missing %v, want %v; %d runs, counted %d", missing, want, len(s.runs), total)
		}
	})
}

func TestRunsOfCountersAreLimited(t *testing.T) {
	s, total := &source{}, maxRuns-2
	for c := uint64(1); c < 9; c += 2 {
		if !s.use(c, &total) {
			t.Errorf("counter %d was not used before", c)
		}
	}
	if total != maxRuns || len(s.runs) != 2 || !s.Inexact || s.Highest != 7 {
		t.Errorf("%d runs in all, %v, inexact %v", total, s.runs, s.Inexact)
	}
}

func TestProducersAreLimited(t *testing.T) {
	j := &joiner{c: &check{rep: &Report{}}}
	key := makeProducer(t, "x", producer.Ed25519).Key()
	for id := range uint64(maxProducers) {
		j.newSource(id).registered = true
	}
	j.beginProducer(key, 5)
	j.beginProducer(key, 6)
	if len(j.producers.known) != maxProducers || len(j.c.rep.Notes) != 1 {
		t.Errorf("%d producers, notes %v", len(j.producers.known), j.c.rep.Notes)
	}
	j = &joiner{c: &check{rep: &Report{}}}
	for id := range uint64(maxStrangers + 5) {
		j.judgeAll([]signedLine{{id: id, counter: 1, state: goodLine}})
	}
	if len(j.producers.known) != maxStrangers || j.c.rep.ProducerBad != maxStrangers+5 {
		t.Errorf("%d keys, %d bad", len(j.producers.known), j.c.rep.ProducerBad)
	}
	r := &registry{keys: map[uint64]producer.Key{}}
	for id := range uint64(maxProducers) {
		r.keys[id] = key
	}
	if r.add(key); len(r.keys) != maxProducers {
		t.Errorf("%d keys in the registry", len(r.keys))
	}
	s := &source{}
	for c := range uint64(2 * maxMissing) {
		s.runs = append(s.runs, Range{3*c + 2, 3*c + 2})
	}
	if s.lacking(); len(s.Missing) != maxMissing || s.Lacking != 4*maxMissing-1 {
		t.Errorf("%d ranges of %d counters", len(s.Missing), s.Lacking)
	}
	// A counter that could not be kept may hide a gap.
	j = &joiner{c: &check{rep: &Report{}}}
	j.newSource(1).registered = true
	j.producers.runs = maxRuns
	if j.judgeAll([]signedLine{{id: 1, counter: 1, state: goodLine}}); j.producers.known[1].Lacking != 0 {
		t.Error("a counter is missing")
	}
	if j.finishProducers(); j.c.rep.Completeness != Incomplete || !j.c.rep.Producers[0].Inexact {
		t.Errorf("%s: %+v", j.c.rep.Completeness, j.c.rep.Producers)
	}
}

// Without log.json the log's name is not known, and no signature can be judged.
func TestProducersOfALogWithoutAName(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	one := makeProducer(t, "one", producer.Ed25519)
	b.register(one)
	b.send(one, 1)
	b.close()
	delete(b.files, "log.json")
	r := verify(t, b.options())
	want(t, r, Refuted)
	if r.ProducerSigned != 0 || r.ProducerBad != 0 {
		t.Errorf("%d signed, %d bad", r.ProducerSigned, r.ProducerBad)
	}
}

// What a producer's key was registered and ended by is the first entry that did.
func TestFirstRegistrationCounts(t *testing.T) {
	b := newBook(t, "example.com/log", true)
	one := makeProducer(t, "one", producer.Ed25519)
	b.register(one)
	b.register(one)
	b.end(one)
	b.end(one)
	b.register(one)
	b.close()
	r := verify(t, b.options())
	want(t, r, Proven)
	if len(r.Producers) != 1 || r.Producers[0].From != 0 || r.Producers[0].Until != 2 {
		t.Errorf("%+v", r.Producers)
	}
}
