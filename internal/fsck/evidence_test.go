package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/producer"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const second = int64(time.Second)

// stampAt puts a time stamp over the newest checkpoint into evidence/.
func (b *book) stampAt(a *tsatest.Authority, n int, at int64) string {
	a.Clock = func() time.Time { return time.Unix(0, at) }
	name := evidenceFileName(b.size(), int64(n))
	b.files[name] = a.Stamp(sha256.Sum256([]byte(b.checkpoint())), nil)
	return name
}

// cosignAt is the newest checkpoint with cosignatures of this time.
func (b *book) cosignAt(at int64, witnesses ...*proof.PrivateKey) []byte {
	note := slices.Clone(b.files["checkpoint"])
	for _, w := range witnesses {
		line, err := w.SignatureLine(b.checkpoint(), uint64(at/second))
		must(b.t, err)
		note = append(note, line...)
	}
	return note
}

func (b *book) anchor(name string, size uint64, at int64) {
	b.record(fmt.Sprintf(`{"type":"anchor","size":%d,"time":"%s","file":"%s","sha256":"%x"}`, size, timeText(at), name, sha256.Sum256(b.files[name])))
}

func testWitness(t testing.TB, name string) *proof.PrivateKey {
	if name == "w2" {
		return makeKey(t, proof.TypeMLDSA44, "example.com/"+name, name)
	}
	return makeKey(t, proof.TypeCosignature, "example.com/"+name, name)
}

// twoOfThree is a policy of the witnesses w1 to w3. logs are lines.
func twoOfThree(t testing.TB, logs string) *proof.Policy {
	t.Helper()
	var text strings.Builder
	text.WriteString(logs)
	for _, name := range []string{"w1", "w2", "w3"} {
		text.WriteString("witness " + name + " " + testWitness(t, name).Key().String() + "\n")
	}
	p, err := proof.ParsePolicy([]byte(text.String() + "group two 2 w1 w2 w3\nquorum two\n"))
	must(t, err)
	return p
}

// watched is a log with cosignatures, time stamps and anchors: entries 0 to 299 in the first second of its time, the stamp of
// size 300 is of second 10, its anchor is entry 300 at second 12, cosigned at second 20 with 601 entries, the rest at 30.
func watched(t testing.TB, a *tsatest.Authority) *book {
	b := newHybrid(t, "example.com/log")
	b.add(300)
	b.publish(true)
	name := b.stampAt(a, 0, testTime+10*second)
	b.time = testTime + 12*second
	b.anchor(name, 300, testTime+10*second)
	b.add(300)
	b.publish(true)
	b.files[evidenceFileName(601, -1)] = b.cosignAt(testTime+20*second, testWitness(t, "w1"), testWitness(t, "w3"))
	b.files["cosigned"] = b.cosignAt(testTime+21*second, testWitness(t, "w1"), testWitness(t, "w2"))
	b.time = testTime + 30*second
	b.rotate()
	b.seal(0, 512)
	b.add(100)
	b.close()
	return b
}

func (b *book) trusting(a *tsatest.Authority) Options {
	o := b.options()
	o.Policy, o.TimeRoots = twoOfThree(b.t, ""), a.Roots()
	return o
}

func TestBracketsOfTrustedTimes(t *testing.T) {
	a := tsatest.New(t, nil)
	b := watched(t, a)
	b.noHead = true
	r := verify(t, b.options())
	want(t, r, Consistent)
	if r.Witnessed != nil || len(r.Times) != 2 || r.Times[0].Kind != "rfc3161" || r.Times[0].Trusted || r.Times[1].Kind != "anchor" {
		t.Errorf("without trust: %+v, %+v", r.Witnessed, r.Times)
	}
	o := b.trusting(a)
	o.Entries = []uint64{0, 299, 300, 600, 601, 700, 5000}
	r = verify(t, o)
	want(t, r, Proven)
	if len(r.Basis) != 1 || r.Basis[0].Kind != "witnesses" || r.Basis[0].Size != 601 || r.Basis[0].Detail != "w1, w2" && r.Basis[0].Detail != "w1, w3" || r.Covered != 601 {
		t.Errorf("basis %v, covered %d", r.Basis, r.Covered)
	}
	if w := r.Witnessed; w == nil || !w.Satisfied || len(w.Names) != 2 || w.Size != 601 {
		t.Errorf("witnessed %+v", w)
	}
	if r.ClockOutside != 0 || len(r.Clock) != 0 || len(r.Times) != 4 {
		t.Errorf("clock %v, times %v", r.Clock, r.Times)
	}
	for i, want := range [][2]int64{{0, 10}, {0, 10}, {10, 20}, {10, 20}, {10, 0}, {10, 0}} {
		br := r.Brackets[i]
		for k, m := range []*TimeMark{br.NotBefore, br.NotAfter} {
			if (m == nil) != (want[k] == 0) || m != nil && m.Time.UnixNano() != testTime+want[k]*second {
				t.Errorf("entry %d: %+v, want second %d", br.Index, m, want[k])
			}
		}
	}
	if len(r.Brackets) != 6 {
		t.Errorf("%d brackets", len(r.Brackets))
	}
	// Nobody is trusted: nothing is bracketed.
	o = b.options()
	o.TimeRoots, o.Entries = tsatest.New(t, nil).Roots(), []uint64{5}
	r = verify(t, o)
	want(t, r, Consistent)
	if len(r.Brackets) != 1 || r.Brackets[0].NotAfter != nil || r.Brackets[0].Timestamp.UnixNano() != timeAt(5) {
		t.Errorf("brackets %+v", r.Brackets)
	}
}

// Entries that different statements put outside are different runs, and lines that are no entries are in none.
func TestRunsOfEntriesOutsideTheirBrackets(t *testing.T) {
	a := tsatest.New(t, nil)
	b := newHybrid(t, "example.com/log")
	for _, at := range []int64{5, 7} {
		b.time = testTime + 20*second
		b.add(100)
		b.publish(true)
		b.stampAt(a, 0, testTime+at*second)
	}
	b.close()
	r := verify(t, b.trusting(a))
	if len(r.Clock) != 2 || r.Clock[0].To != 99 || r.Clock[1].From != 100 || r.ClockOutside != 200 {
		t.Errorf("%+v", r.Clock)
	}
	b = newHybrid(t, "example.com/log")
	b.add(10)
	b.publish(true)
	name := b.stampAt(a, 0, testTime+5*second)
	b.time = testTime + 20*second
	b.anchor(name, 10, testTime+5*second)
	var lines [][]byte
	for i := range uint64(300) {
		lines = append(lines, b.line(11+i, entry.Event{Message: "m"}))
	}
	lines[3] = bytes.Replace(lines[3], []byte(`"m"`), []byte(`"\u006d"`), 1)
	b.batch(lines)
	b.close()
	o := b.trusting(a)
	o.Entries = []uint64{13, 14, 15}
	r = verify(t, o)
	want(t, r, Refuted)
	if len(r.Clock) != 0 || len(r.Brackets) != 2 || r.Brackets[1].Index != 15 || !bytes.Contains(lines[4], []byte(timeText(r.Brackets[1].Timestamp.UnixNano()))) {
		t.Errorf("%+v, %+v", r.Clock, r.Brackets)
	}
}

// A clock outside its bracket refutes nothing, and is named.
func TestClockOutsideItsBracket(t *testing.T) {
	a := tsatest.New(t, nil)
	for _, tt := range []struct {
		name  string
		stamp int64 // seconds
		first int64 // time of entries 0 to 299
		next  int64 // of the anchor and what follows
		want  string
	}{
		{"within", 10, 0, 11, ""},
		{"late by the accuracy", 10, 11, 11, ""},
		{"late by more", 9, 11, 11, "0 to 299 late"},
		{"early by the accuracy", 13, 0, 12, ""},
		{"early by more", 14, 0, 12, "300 to 305 early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, sealed := range []bool{false, true} {
				b := newHybrid(t, "example.com/log")
				b.t = t
				b.time = testTime + tt.first*second - 300*1_000_001
				b.add(300)
				b.publish(true)
				name := b.stampAt(a, 0, testTime+tt.stamp*second)
				b.time = testTime + tt.next*second - 1_000_001
				b.anchor(name, 300, testTime+tt.stamp*second)
				b.add(5)
				b.time += 100 * second
				b.add(300)
				b.publish(true)
				if sealed {
					b.rotate()
					b.seal(0, 512)
				}
				b.close()
				r := verify(t, b.trusting(a))
				want(t, r, Proven)
				var got []string
				count := uint64(0)
				for _, c := range r.Clock {
					got = append(got, fmt.Sprintf("%d to %d %s", c.From, c.To, map[bool]string{true: "late", false: "early"}[c.Late]))
					count += c.To - c.From + 1
				}
				if strings.Join(got, ", ") != tt.want || r.ClockOutside != count {
					t.Errorf("sealed %v: %q, %d outside, want %q", sealed, got, r.ClockOutside, tt.want)
				}
			}
		})
	}
}

func TestRulesOfEvidence(t *testing.T) {
	a := tsatest.New(t, nil)
	b := watched(t, a)
	stamp, note := evidenceFileName(300, 0), evidenceFileName(601, -1)
	one := testWitness(t, "w1")
	rules := []rule{
		{"a stamp of another size", func(n *book) { n.files[evidenceFileName(601, 0)] = n.files[stamp] }, evidenceFileName(601, 0), "its imprint is not that"},
		{"a stamp of a checkpoint that is not kept", func(n *book) {
			text := proof.Checkpoint{Origin: n.origin, Size: 400, Root: proof.Root(n.leaves[:400])}.Text()
			n.files[evidenceFileName(400, 0)] = a.Stamp(sha256.Sum256([]byte(text)), nil)
		}, evidenceFileName(400, 0), "is not kept"},
		{"bytes that are no stamp", func(n *book) { n.files[evidenceFileName(601, 7)] = []byte("x") }, evidenceFileName(601, 7), "is not a time stamp"},
		{"a stamp that is too long", func(n *book) { n.files[evidenceFileName(601, 7)] = make([]byte, proof.MaxNote+1) }, evidenceFileName(601, 7), "too large"},
		{"a stamp beyond the end", func(n *book) { n.noHead = true; n.files[evidenceFileName(5000, 0)] = n.files[stamp] }, evidenceFileName(5000, 0), "the log is shorter than what an outside party saw"},
		{"a stamp beyond the head", func(n *book) { n.files[evidenceFileName(5000, 0)] = n.files[stamp] }, evidenceFileName(5000, 0), "newer than the highest"},
		{"a cosigned checkpoint of another size", func(n *book) { n.files[evidenceFileName(300, -1)] = n.files[note] }, evidenceFileName(300, -1), "is of another size than its name"},
		{"a cosigned checkpoint with another root", func(n *book) {
			n.files[note] = n.note(proof.Checkpoint{Origin: n.origin, Size: 601, Root: proof.Hash{1}}.Text())
		}, note, "another root than the entries"},
		{"a cosigned checkpoint of another log", func(n *book) {
			n.files[note] = n.note(proof.Checkpoint{Origin: "example.com/other", Size: 601, Root: proof.Hash{1}}.Text())
		}, note, "other origin"},
		{"a cosigned checkpoint that an epoch's key did not sign", func(n *book) {
			lines := bytes.SplitAfter(n.files[note], []byte("\n"))
			n.files[note] = bytes.Join(slices.Delete(lines, 6, 7), nil)
		}, note, "no signature by epoch 0's ML-DSA-44 key"},
		{"a cosigned checkpoint with a bad cosignature", func(n *book) {
			line, err := one.SignatureLine("another text\n", 5)
			must(t, err)
			n.files[note] = append(slices.Clone(n.files[note]), line...)
		}, note, "bad signature"},
		{"cosigned with a bad cosignature", func(n *book) {
			line, err := one.SignatureLine("another text\n", 5)
			must(t, err)
			n.files["cosigned"] = append(slices.Clone(n.files["cosigned"]), line...)
		}, "cosigned", "bad signature"},
		{"cosigned with another root", func(n *book) {
			n.files["cosigned"] = n.note(proof.Checkpoint{Origin: n.origin, Size: 601, Root: proof.Hash{1}}.Text())
		}, "cosigned", "another root than the entries"},
		{"cosigned that an epoch's key did not sign", func(n *book) {
			lines := bytes.SplitAfter(n.files["cosigned"], []byte("\n"))
			n.files["cosigned"] = bytes.Join(slices.Delete(lines, 5, 6), nil)
		}, "cosigned", "no signature by epoch 0's Ed25519 key"},
		{"cosigned is no note", func(n *book) { n.files["cosigned"] = []byte("x") }, "cosigned", "is not a cosigned checkpoint"},
		{"cosigned beyond the head", func(n *book) { n.head.Size, n.head.Root, n.head.Clean = 300, proof.Root(n.leaves[:300]), false }, "cosigned", "newer than the highest"},
		{"a directory in place of cosigned", func(n *book) { delete(n.files, "cosigned"); n.files["cosigned/x"] = nil }, "cosigned", "is not a regular file"},
		{"a file in place of evidence", func(n *book) {
			for name := range n.files {
				if strings.HasPrefix(name, "evidence/") {
					delete(n.files, name)
				}
			}
			n.files["evidence"] = []byte("x")
		}, "evidence", "is not a directory"},
		{"the anchor's file is gone", func(n *book) { delete(n.files, stamp) }, stamp, "is missing"},
		{"the anchor's file is another", func(n *book) {
			n.files[stamp] = a.Stamp(sha256.Sum256([]byte(proof.Checkpoint{Origin: n.origin, Size: 300, Root: proof.Root(n.leaves[:300])}.Text())), nil)
		}, "archive/" + segment.ArchiveName(0), "the anchor entry is wrong"},
	}
	checkRules(t, b.clone, rules, func(o *Options) { o.Policy, o.TimeRoots = twoOfThree(t, ""), a.Roots() })
	// What is left of the names.
	for _, odd := range []string{"x", "300.note", "00000000000000000300.tsr", "00000000000000000300-0.note", "00000000000000000300-00.tsr", "00000000000000000300-+1.tsr", "00000000000000000300-.tsr", "0000000000000000300.note", "000000000000000000300.note", "+0000000000000000300.note"} {
		n := b.clone()
		n.files["evidence/"+odd] = []byte("x")
		r := verify(t, n.trusting(a))
		want(t, r, Proven)
		if len(r.Notes) != 1 || r.Notes[0].File != "evidence/"+odd {
			// The log's end is newer than what the witnesses saw: no note, because the head covers it.
			t.Errorf("%s: notes %v", odd, r.Notes)
		}
	}
	// Numbers that no log reaches are none of a name that nobody knows.
	for _, odd := range []string{"99999999999999999999.note", "09223372036854775808.note", "09223372036854775808-0.tsr", "18446744073709551616.note", "00000000000000000300-2147483648.tsr", "00000000000000000300-99999999999999999999.tsr"} {
		n := b.clone()
		n.files["evidence/"+odd] = n.files[stamp]
		refuted(t, n.trusting(a), "evidence/"+odd, "a number that no log reaches")
	}
	most := b.clone()
	most.files["evidence/00000000000000000300-2147483647.tsr"] = b.files[stamp]
	want(t, verify(t, most.trusting(a)), Proven)
	// A stamp whose imprint does not fit its signature: what its decoder says is of one line here.
	bent := b.clone()
	text := sha256.Sum256([]byte(proof.Checkpoint{Origin: b.origin, Size: 300, Root: proof.Root(b.leaves[:300])}.Text()))
	bent.files[stamp] = bytes.Replace(b.files[stamp], text[:], make([]byte, len(text)), 1)
	for _, f := range refuted(t, bent.trusting(a), stamp, "is not a time stamp").Findings {
		if strings.ContainsAny(f.String(), "\n\t") {
			t.Errorf("%q", f)
		}
	}
	// Deleted, they do no harm: no anchor names them.
	n := b.clone()
	delete(n.files, note)
	delete(n.files, "cosigned")
	want(t, verify(t, n.trusting(a)), Proven)
}

func TestRulesOfAnchors(t *testing.T) {
	a := tsatest.New(t, nil)
	at := testTime + 10*second
	for _, tt := range []struct {
		name string
		log  func(b *book, name, sum string) string
		what string
	}{
		{"good", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"%s","file":"%s","sha256":"%s"}`, timeText(at), name, sum)
		}, ""},
		{"of what comes later", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":302,"time":"%s","file":"%s","sha256":"%s"}`, timeText(at), evidenceFileName(302, 0), sum)
		}, "nobody has seen what comes later"},
		{"of another size", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":299,"time":"%s","file":"%s","sha256":"%s"}`, timeText(at), name, sum)
		}, "is of another"},
		{"at another time", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"%s","file":"%s","sha256":"%s"}`, timeText(at+1), name, sum)
		}, "time is"},
		{"at no time", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"now","file":"%s","sha256":"%s"}`, name, sum)
		}, "time \"now\""},
		{"with another hash", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"%s","file":"%s","sha256":"%s"}`, timeText(at), name, strings.Repeat("ab", 32))
		}, "has SHA-256"},
		{"with no hash", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"%s","file":"%s","sha256":"x"}`, timeText(at), name)
		}, "sha256"},
		{"of a file elsewhere", func(b *book, name, sum string) string {
			b.files["elsewhere"] = b.files[name]
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"%s","file":"elsewhere","sha256":"%s"}`, timeText(at), sum)
		}, "is not evidence/"},
		{"of a file without its directory", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":300,"time":"%s","file":"%s","sha256":"%s"}`, timeText(at), strings.TrimPrefix(name, "evidence/"), sum)
		}, "is not evidence/"},
		{"without a size", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","size":"300","time":"%s","file":"%s","sha256":"%s"}`, timeText(at), name, sum)
		}, "size is"},
		{"members in another order", func(b *book, name, sum string) string {
			return fmt.Sprintf(`{"type":"anchor","time":"%s","size":300,"file":"%s","sha256":"%s"}`, timeText(at), name, sum)
		}, "other members"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newHybrid(t, "example.com/log")
			b.t = t
			b.add(300)
			b.publish(true)
			name := b.stampAt(a, 0, at)
			b.time = testTime + 12*second
			b.record(tt.log(b, name, fmt.Sprintf("%x", sha256.Sum256(b.files[name]))))
			b.add(1)
			b.publish(true)
			b.files[evidenceFileName(302, 0)] = a.Stamp(sha256.Sum256([]byte(b.checkpoint())), nil)
			b.close()
			if tt.what == "" {
				want(t, verify(t, b.trusting(a)), Proven)
				return
			}
			refuted(t, b.trusting(a), "immutable.log", tt.what)
		})
	}
	// A cosigned checkpoint may be an anchor too: by the time of any of its cosignatures, trusted if a quorum stands behind it.
	for _, tt := range []struct {
		at      int64
		who     string
		trusted bool
		what    string
	}{{at, "w1 w3", true, ""}, {at, "w1", false, ""}, {at, "w4", false, ""}, {at + second, "w1", true, "no cosignature in its file"}, {at + 1, "w1", true, "no cosignature in its file"}, {testTime, "w1", true, "no cosignature in its file"}} { // the last is when the log's own key signed
		b := newHybrid(t, "example.com/log")
		b.add(300)
		b.publish(true)
		name := evidenceFileName(300, -1)
		var witnesses []*proof.PrivateKey
		for who := range strings.FieldsSeq(tt.who) {
			witnesses = append(witnesses, testWitness(t, who))
		}
		b.files[name] = b.cosignAt(at, witnesses...)
		b.time = testTime + 12*second
		b.anchor(name, 300, tt.at)
		b.close()
		o := b.trusting(a)
		o.Entries = []uint64{300}
		if tt.what != "" {
			refuted(t, o, "immutable.log", tt.what)
			continue
		}
		r := verify(t, o)
		want(t, r, Proven)
		if len(r.Brackets) != 1 || (r.Brackets[0].NotBefore != nil) != tt.trusted {
			t.Errorf("%s: %+v", tt.who, r.Brackets)
		}
	}
}

func TestPolicyOfWitnesses(t *testing.T) {
	a := tsatest.New(t, nil)
	b := watched(t, a)
	b.noHead = true
	judge := func(text string) *Report {
		p, err := proof.ParsePolicy([]byte(text))
		must(t, err)
		o := b.options()
		o.Policy = p
		return verify(t, o)
	}
	line := func(name string) string {
		return "witness " + name + " " + testWitness(t, name).Key().String() + "\n"
	}
	for _, tt := range []struct {
		name, policy string
		want         Verdict
		satisfied    bool
	}{
		{"one that signed", line("w1") + "quorum w1\n", Proven, true},
		{"one that did not", line("w4") + "quorum w4\n", Consistent, false},
		{"all, one of them missing", line("w1") + line("w4") + "group g all w1 w4\nquorum g\n", Consistent, false},
		{"none needed, one signed", line("w1") + "quorum none\n", Consistent, false},
		{"none needed, none known", "quorum none\n", Consistent, false},
		{"of this log", "log " + b.signer.VKey() + "\n" + line("w1") + "quorum w1\n", Proven, true},
		{"of this log, by a key of an epoch", "log " + b.keys.ed.Key().String() + "\n" + line("w1") + "quorum w1\n", Proven, true},
		{"of another log", "log " + makeKey(t, proof.TypeEd25519, b.origin, "y").Key().String() + "\n" + line("w1") + "quorum w1\n", Refuted, false},
	} {
		r := judge(tt.policy)
		if r.Verdict != tt.want {
			t.Errorf("%s: %s, want %s: %v", tt.name, r.Verdict, tt.want, r.Findings)
		}
		if got := r.Witnessed != nil && r.Witnessed.Satisfied; got != tt.satisfied {
			t.Errorf("%s: %+v", tt.name, r.Witnessed)
		}
		if tt.want == Consistent && !slices.ContainsFunc(r.Notes, func(f Finding) bool { return f.File == "policy" }) {
			t.Errorf("%s: notes %v", tt.name, r.Notes)
		}
	}
	// A witness that saw more than the log has: the directory was cut back.
	old := newHybrid(t, "example.com/log")
	old.signer = b.signer
	old.files["log.json"] = b.files["log.json"]
	old.noHead = true
	old.files["checkpoint"] = old.note(old.checkpoint())
	old.files["checkpoints"] = append(old.note(old.checkpoint()), '\n')
	old.add(3)
	old.publish(true)
	want(t, verify(t, old.options()), Consistent)
	old.files["cosigned"] = b.files["cosigned"]
	refuted(t, old.options(), "cosigned", "the log is shorter than its checkpoint")
}

// Of several cosigned checkpoints the newest that satisfies the policy counts, and of several cosignatures that which makes the quorum.
func TestNewestSatisfiedCheckpointCounts(t *testing.T) {
	a := tsatest.New(t, nil)
	one, two, three := testWitness(t, "w1"), testWitness(t, "w2"), testWitness(t, "w3")
	b := newHybrid(t, "example.com/log")
	b.noHead = true
	put := func(n int, at int64, witnesses ...*proof.PrivateKey) {
		b.add(n)
		b.publish(true)
		note := b.cosignAt(at, witnesses[0])
		for i, w := range witnesses[1:] {
			line, err := w.SignatureLine(b.checkpoint(), uint64(at/second)+uint64(i+1)*5)
			must(t, err)
			note = append(note, line...)
		}
		b.files[evidenceFileName(b.size(), -1)] = note
	}
	put(100, testTime+10*second, one, two)
	put(100, testTime+20*second, one, three, two)
	put(100, testTime+30*second, one)
	o := b.trusting(a)
	o.Entries = []uint64{150}
	r := verify(t, o)
	want(t, r, Proven)
	if w := r.Witnessed; !w.Satisfied || w.Size != 200 || len(w.Names) != 3 || w.Time.UnixNano() != testTime+25*second || r.Covered != 200 {
		t.Errorf("%+v, covered %d", w, r.Covered)
	}
	if m := r.Brackets[0].NotAfter; m == nil || m.Time.UnixNano() != testTime+25*second {
		t.Errorf("not after %+v", m)
	}
}

// A witness that lies about the time, and that the quorum can do without, moves no bracket, whatever it states.
func TestOneWitnessMovesNoBracket(t *testing.T) {
	honest := []*proof.PrivateKey{testWitness(t, "w1"), testWitness(t, "w2")}
	for _, lie := range []int64{1, testTime/second - 1000, testTime/second + 1000, entry.MaxTime/second + 1, 253402300799} {
		for _, kept := range []bool{false, true} {
			for _, satisfied := range []bool{true, false} {
				b := newHybrid(t, "example.com/log")
				b.add(300)
				b.publish(true)
				name := "cosigned"
				if kept {
					name = evidenceFileName(300, -1)
				}
				note := b.cosignAt(testTime+20*second, honest...)
				if !satisfied {
					note = b.cosignAt(testTime + 20*second)
				}
				line, err := testWitness(t, "w3").SignatureLine(b.checkpoint(), uint64(lie))
				must(t, err)
				b.files[name] = append(note, line...)
				if b.time = testTime + 30*second; kept && lie <= entry.MaxTime/second {
					b.anchor(name, 300, lie*second)
				}
				b.add(5)
				b.close()
				o := b.trusting(tsatest.New(t, nil))
				o.Entries = []uint64{0, 302}
				r := verify(t, o)
				want(t, r, Proven)
				if r.ClockOutside != 0 || len(r.Clock) != 0 {
					t.Errorf("lie %d, kept %v, satisfied %v: clock %+v", lie, kept, satisfied, r.Clock)
				}
				if m := r.Brackets[0].NotAfter; m != nil != satisfied || m != nil && (m.Time.UnixNano() != testTime+20*second || m.Name == "w3") {
					t.Errorf("lie %d, kept %v, satisfied %v: not after %+v", lie, kept, satisfied, m)
				}
				for _, m := range r.Times {
					if y := m.Time.Year(); y < 1970 || m.Trusted && m.Kind != "anchor" && m.Time.UnixNano() != testTime+20*second {
						t.Errorf("lie %d: %+v", lie, m)
					}
				}
				if _, err := r.MarshalJSON(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// The strictest anchor counts, not the last one.
func TestStrictestAnchorCounts(t *testing.T) {
	a := tsatest.New(t, nil)
	b := newHybrid(t, "example.com/log")
	b.add(300)
	b.publish(true)
	b.time = testTime + 20*second
	var stamps []string
	times := []int64{5, 10, 7}
	for n, at := range times {
		stamps = append(stamps, b.stampAt(a, n, testTime+at*second))
	}
	for n, at := range times {
		b.anchor(stamps[n], 300, testTime+at*second)
	}
	b.add(1)
	b.close()
	o := b.trusting(a)
	o.Entries = []uint64{299, 300, 303}
	r := verify(t, o)
	want(t, r, Proven)
	if first, second := r.Brackets[1].NotBefore, r.Brackets[2].NotBefore; r.Brackets[0].NotBefore != nil || first.Time.UnixNano() != testTime+5e9 || second.Time.UnixNano() != testTime+10e9 {
		t.Errorf("%+v", r.Brackets)
	}
}

// Where nothing is known to compare it with, evidence is not blamed.
func TestEvidenceThatCannotBeCompared(t *testing.T) {
	a := tsatest.New(t, nil)
	blamed := func(b *book) {
		t.Helper()
		r := verify(t, b.trusting(a))
		want(t, r, Refuted)
		for _, f := range r.Findings {
			if f.File == "cosigned" || strings.HasPrefix(f.File, "evidence/") || strings.Contains(f.What, "shorter") {
				t.Errorf("finding %v", f)
			}
		}
	}
	b := watched(t, a)
	delete(b.files, "log.json")
	blamed(b)
	b = newHybrid(t, "example.com/log")
	b.add(512)
	b.publish(true)
	b.rotate()
	b.seal(0, 512)
	b.add(300)
	b.publish(true)
	b.stampAt(a, 0, testTime+40*second)
	b.add(300)
	b.publish(true)
	b.rotate()
	b.seal(512, 1024)
	b.add(1)
	b.close()
	b.stampAt(a, 0, testTime+50*second)
	want(t, verify(t, b.trusting(a)), Proven)
	delete(b.files, "archive/"+segment.ArchiveName(0))
	blamed(b) // the hash arrays stand in
	delete(b.files, "tree/1")
	blamed(b)
}

func TestStampsOfImpossibleYears(t *testing.T) {
	a := tsatest.New(t, nil)
	for _, year := range []int{1960, 2263, 2400} {
		b := watched(t, a)
		a.Clock = func() time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }
		name := evidenceFileName(b.size(), 0)
		b.files[name] = a.Stamp(sha256.Sum256([]byte(b.checkpoint())), nil)
		refuted(t, b.trusting(a), name, "is not a time stamp")
	}
}

// Cosignatures may be added to a kept note while the log is read.
func TestCosignaturesMayBeAddedMeanwhile(t *testing.T) {
	a := tsatest.New(t, nil)
	b := watched(t, a)
	name := evidenceFileName(601, -1)
	o := b.trusting(a)
	d := b.disk()
	o.FS = d
	line, err := testWitness(t, "w2").SignatureLine(b.cosignedText(), uint64(testTime/second)+22)
	must(t, err)
	o.Progress = func(Progress) {
		must(t, d.WriteFileRaw(testDir+"/"+name, append(slices.Clone(b.files[name]), line...)))
	}
	want(t, verify(t, o), Proven)
	o.Progress = func(Progress) { must(t, d.WriteFileRaw(testDir+"/"+name, []byte("x"))) }
	refuted(t, o, name, "is no longer a cosigned checkpoint")
}

func (b *book) cosignedText() string {
	text, _, _ := bytes.Cut(b.files["cosigned"], []byte("\n\n"))
	return string(text) + "\n"
}

// What could not be compared, because the system refused to read the end of the log, is blamed on nothing.
func TestUnreadableEndBlamesNothing(t *testing.T) {
	a := tsatest.New(t, nil)
	b := newHybrid(t, "example.com/log")
	one := makeProducer(t, "one", producer.Ed25519)
	b.register(one)
	b.add(509)
	b.publish(true)
	b.begin() // at 510
	b.add(3)
	b.publish(true) // the closing checkpoint, of size 514
	b.rotate()
	b.seal(0, 512)
	b.stampAt(a, 0, testTime)
	b.files["cosigned"] = b.cosignAt(testTime, testWitness(t, "w1"), testWitness(t, "w2"))
	b.files[evidenceFileName(514, -1)] = b.files["cosigned"]
	b.send(one, 2)
	b.close()
	for _, fails := range []bool{false, true} {
		o := b.trusting(a)
		o.Keys, o.Epochs = b.vkeys(), [][]byte{b.files["epochs"]}
		o.FS.(*vfstest.Disk).Fail = func(op vfstest.Op) error {
			if fails && op.Kind == vfstest.OpRead && strings.HasSuffix(op.Name, "immutable.log") {
				return syscall.EIO
			}
			return nil
		}
		r := verify(t, o)
		verdict, completeness := Proven, Incomplete
		if fails {
			verdict, completeness = Unknown, NotKnown
		}
		want(t, r, verdict)
		if len(r.Findings) != 0 || r.Completeness != completeness {
			t.Errorf("reads fail: %v: %s, findings %v", fails, r.Completeness, r.Findings)
		}
	}
}

// The bounds are those that a search through all of them gives.
func FuzzBrackets(f *testing.F) {
	f.Add([]byte{3, 9, 3, 5, 7, 8, 1, 200})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &check{rep: &Report{}, cosigned: nil}
		for ; len(data) >= 2; data = data[2:] {
			c.evidence = append(c.evidence, evidenceFile{size: uint64(data[0]), ok: true, said: said{at: int64(data[1]), slack: int64(data[1] % 3), name: "x", trusted: data[1]%5 != 0}})
		}
		c.startTimes()
		for i := range uint64(256) {
			best := int64(-1)
			for _, e := range c.evidence {
				if limit := e.at + e.slack; e.trusted && e.size > i && (best < 0 || limit < best) {
					best = limit
				}
			}
			got := int64(-1)
			if m := c.brackets.notAfter(i); m != nil {
				got = m.limit
			}
			if got != best {
				t.Fatalf("entry %d: %d, want %d", i, got, best)
			}
		}
	})
}

func FuzzEvidenceName(f *testing.F) {
	f.Add("00000000000000000300.note")
	f.Add("00000000000000000300-12.tsr")
	f.Add("99999999999999999999-2147483648.tsr")
	f.Fuzz(func(t *testing.T, base string) {
		size, n, ok, err := parseEvidence(base)
		if ok && err == nil && evidenceFileName(size, n) != "evidence/"+base {
			t.Errorf("%q is %d, %d", base, size, n)
		}
	})
}

func TestTimesAreLimited(t *testing.T) {
	c := &check{rep: &Report{}}
	for i := range uint64(maxTimes + 7) {
		c.evidence = append(c.evidence, evidenceFile{size: i, ok: true, said: said{at: int64(i), name: "x"}})
		c.anchor(i, i, "f", said{at: int64(i)})
	}
	if c.rep.Times[0].Index != 7 || len(c.rep.Times) != maxTimes {
		t.Errorf("%d anchors, the first %+v", len(c.rep.Times), c.rep.Times[0])
	}
	c.rep.Times = nil
	c.startTimes()
	if c.rep.Times[0].Size != 7 || len(c.rep.Times) != maxTimes {
		t.Errorf("%d files, the first %+v", len(c.rep.Times), c.rep.Times[0])
	}
	for i := range uint64(2*maxClock + 10) {
		c.outside(2*i, 5, true, &TimeMark{})
	}
	if len(c.rep.Clock) != maxClock || c.rep.ClockOutside != 2*maxClock+10 {
		t.Errorf("%d runs of %d entries", len(c.rep.Clock), c.rep.ClockOutside)
	}
}
