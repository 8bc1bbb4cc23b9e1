package evidence_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/evidence"
	. "github.com/tree-of-life-system/immutable/internal/evidence/evidencetest"
	"github.com/tree-of-life-system/immutable/proof"
)

// sampleLog has two rotations of keys and thirty entries.
func sampleLog() *Log {
	l := New("a")
	l.Fill(9)
	l.Rotate()
	l.Fill(9)
	l.Rotate()
	l.Append(Hostile())
	l.Fill(9)
	return l
}

var (
	witnessA = Key(proof.TypeCosignature, "witness.example/a", "a")
	witnessB = Key(proof.TypeMLDSA44, "witness.example/b", "b")
)

// policyOf demands the given number of the two witnesses.
func policyOf(t testing.TB, l *Log, need int) *proof.Policy {
	t.Helper()
	p, err := proof.ParsePolicy(policyText(l, need))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func policyText(l *Log, need int) []byte {
	return fmt.Appendf(nil, "log %s\nwitness A %s\nwitness B %s\ngroup both %d A B\nquorum both\n", l.Key.Key(), witnessA.Key(), witnessB.Key(), need)
}

func whole(from, to uint64) evidence.Statement { return evidence.Statement{From: from, To: to} }

func verify(t testing.TB, b *evidence.Bundle, o evidence.Options) *evidence.Report {
	t.Helper()
	data, err := b.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return evidence.Verify(data, o)
}

// refuted demands a finding whose text contains want.
func refuted(t testing.TB, r *evidence.Report, want string) {
	t.Helper()
	if r.Verdict != evidence.Refuted {
		t.Fatalf("verdict %s, want refuted (%s)", r.Verdict, want)
	}
	if !slices.ContainsFunc(r.Findings, func(f evidence.Finding) bool { return strings.Contains(f.String(), want) }) {
		t.Errorf("findings %q, want one with %q", texts(r), want)
	}
}

func texts(r *evidence.Report) (out []string) {
	for _, f := range r.Findings {
		out = append(out, f.String())
	}
	return out
}

func hasVerdict(t testing.TB, r *evidence.Report, want evidence.Verdict) {
	t.Helper()
	if r.Verdict != want {
		t.Fatalf("verdict %s, want %s: %q %q", r.Verdict, want, texts(r), r.Open)
	}
}

func TestBundleProvesOnlyWithSomethingFromElsewhere(t *testing.T) {
	l := sampleLog()
	b := l.Bundle(whole(3, 30), Indexes(3, 30))
	r := verify(t, b, evidence.Options{})
	hasVerdict(t, r, evidence.Consistent)
	if !r.Complete || len(r.Ranges) != 1 || r.Ranges[0] != (evidence.Range{From: 3, To: 30}) || r.Epoch != 2 || len(r.Keys) != 3 || len(r.Signatures) != 3 {
		t.Errorf("report %+v", r)
	}
	for epoch := range l.Epochs {
		for _, k := range l.Epochs[epoch] {
			r := verify(t, b, evidence.Options{Keys: []proof.Key{k.Key()}})
			hasVerdict(t, r, evidence.Proven)
			if r.Covered != 27 {
				t.Errorf("epoch %d: %d entries covered, want 27", epoch, r.Covered)
			}
		}
	}
}

func TestLogKeyAloneProvesNothing(t *testing.T) {
	l := sampleLog()
	r := verify(t, l.Bundle(whole(0, 30), Indexes(0, 30)), evidence.Options{Keys: []proof.Key{l.Key.Key()}})
	hasVerdict(t, r, evidence.Consistent)
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "log key") {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestForeignPinnedKeyRefutes(t *testing.T) {
	l, other := sampleLog(), New("b")
	refuted(t, verify(t, l.Bundle(whole(0, 30), Indexes(0, 30)), evidence.Options{Keys: []proof.Key{other.Epochs[0][0].Key()}}), "none of the log's keys")
	// A chain that names the key of the real log, but whose checkpoint is of an epoch before it, shows nothing.
	forged := sampleLog()
	b := forged.Bundle(whole(0, 9), Indexes(0, 9))
	b.Checkpoint = forged.Note(9)
	b.Epochs = nil
	b.Proof = nil
	b.Proof, _ = evidence.Prove(9, Indexes(0, 9), nil)
	hasVerdict(t, verify(t, b, evidence.Options{}), evidence.Consistent)
	refuted(t, verify(t, b, evidence.Options{Keys: []proof.Key{forged.Epochs[1][0].Key()}}), "none of the log's keys")
	b.Epochs = forged.Links
	refuted(t, verify(t, b, evidence.Options{Keys: []proof.Key{forged.Epochs[1][0].Key()}}), "beyond the checkpoint's epoch")
}

// TestEveryByteOfABundleCounts flips a bit of every byte of a small bundle, and of a sample of the bytes of others, of which signatures
// and keys of ML-DSA-44 are the most; with IMMUTABLE_LONG of every byte of them. Only when it was made, by which program, and the
// policy that its maker proposes are nobody's to sign.
func TestEveryByteOfABundleCounts(t *testing.T) {
	old := New("old")
	old.Single = true
	old.Fill(3)
	flips(t, Data(old.Bundle(whole(1, 3), Indexes(1, 3))), 1)

	step := 29
	if os.Getenv("IMMUTABLE_LONG") != "" {
		step = 1
	}
	l := New("small")
	l.Fill(3)
	flips(t, Data(l.Bundle(whole(1, 3), Indexes(1, 3))), step)
	l.Rotate()
	l.Fill(4)
	b := l.Bundle(whole(2, 6), Indexes(2, 6), witnessA, witnessB)
	b.Policy = policyText(l, 2)
	b.Times = []evidence.Time{{Checkpoint: l.Note(4, witnessA), Consistency: l.Consistency(4, 8)}, {Checkpoint: l.Note(5), Consistency: l.Consistency(5, 8)}}
	flips(t, Data(b), 2*step-1)
}

// flips changes one bit in every step-th byte of data, one at a time.
func flips(t *testing.T, data []byte, step int) {
	t.Helper()
	hasVerdict(t, evidence.Verify(data, evidence.Options{}), evidence.Consistent)
	free := map[int]bool{}
	for _, part := range []string{`"made":"`, `"program":"`, `"policy":"`} {
		at := bytes.Index(data, []byte(part)) + len(part)
		for i := at; data[i] != '"' || data[i-1] == '\\'; i++ {
			free[i] = true
		}
	}
	flipped := bytes.Clone(data)
	for i := 0; i < len(data); i += step {
		if free[i] {
			continue
		}
		flipped[i] ^= 1 << (i / step % 7)
		if r := evidence.Verify(flipped, evidence.Options{}); r.Verdict != evidence.Refuted {
			t.Errorf("byte %d of %d, %q to %q: %s: …%s…", i, len(data), data[i], flipped[i], r.Verdict, data[max(0, i-30):min(len(data), i+30)])
		}
		flipped[i] = data[i]
	}
}

func TestEveryCutIsRefuted(t *testing.T) {
	l := New("small")
	l.Fill(2)
	data := Data(l.Bundle(whole(0, 2), Indexes(0, 2)))
	for n := range data {
		if r := evidence.Verify(data[:n], evidence.Options{}); r.Verdict != evidence.Refuted {
			t.Fatalf("the first %d of %d bytes: %s", n, len(data), r.Verdict)
		}
	}
	refuted(t, evidence.Verify(append(bytes.Clone(data), ' '), evidence.Options{}), "bytes after the end")
}

// TestEachCheckOfTheVerifier changes one thing at a time and repairs everything that does not depend on it, so that just the one
// check can notice.
func TestEachCheckOfTheVerifier(t *testing.T) {
	type change struct {
		name string
		do   func(l *Log, b *evidence.Bundle)
		o    evidence.Options
		want string
	}
	resign := func(l *Log, b *evidence.Bundle, indexes []uint64) {
		*b = *l.Bundle(b.Statement, indexes)
	}
	relined := func(l *Log, i int, line []byte) {
		l.Lines[i], l.Leaves[i] = line, proof.LeafHash(line)
	}
	for _, c := range []change{
		{"no keys", func(_ *Log, b *evidence.Bundle) { b.VKeys = nil }, evidence.Options{}, "no verifier key"},
		{"two keys", func(_ *Log, b *evidence.Bundle) { b.VKeys = b.VKeys[:2] }, evidence.Options{}, "2 keys"},
		{"other origin", func(_ *Log, b *evidence.Bundle) { b.Origin = "example.com/other" }, evidence.Options{}, "origin"},
		{"broken chain file", func(_ *Log, b *evidence.Bundle) { b.Epochs = []byte("x") }, evidence.Options{}, "epochs"},
		{"chain without its first link", func(_ *Log, b *evidence.Bundle) {
			_, b.Epochs, _ = bytes.Cut(b.Epochs, []byte("\n"))
		}, evidence.Options{}, "does not follow"},
		{"chain cut short", func(_ *Log, b *evidence.Bundle) {
			first, _, _ := bytes.Cut(b.Epochs, []byte("\n"))
			b.Epochs = append(bytes.Clone(first), '\n')
		}, evidence.Options{}, "checkpoint"},
		{"signed by the log key only", func(l *Log, b *evidence.Bundle) { b.Checkpoint = Sign(l.Checkpoint(30).Text(), l.Key) }, evidence.Options{}, "open checkpoint"},
		{"ml-dsa signature stripped", func(l *Log, b *evidence.Bundle) {
			b.Checkpoint = Sign(l.Checkpoint(30).Text(), l.Key, l.Epochs[2][0])
		}, evidence.Options{}, "open checkpoint"},
		{"a signature by nobody whom the policy names", func(l *Log, b *evidence.Bundle) {
			b.Policy = []byte("quorum none\n")
			b.Checkpoint = l.Note(30, witnessA)
		}, evidence.Options{}, "checkpoint: a signature by nobody"},
		{"a signature by nobody whom the policy names, under a time", func(l *Log, b *evidence.Bundle) {
			b.Policy = []byte("quorum none\n")
			b.Times = []evidence.Time{{Checkpoint: l.Note(20, witnessA), Consistency: l.Consistency(20, 30)}}
		}, evidence.Options{}, "times, number 0: a signature by nobody"},
		{"bad cosignature under a time", func(l *Log, b *evidence.Bundle) {
			b.Policy = policyText(l, 1)
			b.Times = []evidence.Time{{Checkpoint: append(l.Note(20), lastLine(l.Note(19, witnessA))...), Consistency: l.Consistency(20, 30)}}
		}, evidence.Options{}, "bad signature"},
		{"bad cosignature under a stamped time", func(l *Log, b *evidence.Bundle) {
			b.Policy = policyText(l, 1)
			b.Times = []evidence.Time{{Checkpoint: append(l.Note(20), lastLine(l.Note(19, witnessA))...), Consistency: l.Consistency(20, 30), Stamp: []byte{1}}}
		}, evidence.Options{}, "bad signature"},
		{"checkpoint of another tree", func(l *Log, b *evidence.Bundle) {
			c := l.Checkpoint(30)
			c.Root[0] ^= 1
			b.Checkpoint = Sign(c.Text(), l.Key, l.Epochs[2][0], l.Epochs[2][1])
		}, evidence.Options{}, "its root is another"},
		{"line changed", func(_ *Log, b *evidence.Bundle) {
			b.Entries[4].Line = bytes.Replace(b.Entries[4].Line, []byte("event"), []byte("evens"), 1)
		}, evidence.Options{}, "entry is not the one that the log holds"},
		{"line and leaf changed", func(_ *Log, b *evidence.Bundle) {
			b.Entries[4].Line = bytes.Replace(b.Entries[4].Line, []byte("event"), []byte("evens"), 1)
			b.Entries[4].Leaf = proof.LeafHash(b.Entries[4].Line)
		}, evidence.Options{}, "its root is another"},
		{"entries swapped", func(_ *Log, b *evidence.Bundle) {
			e := b.Entries
			e[2].Line, e[3].Line, e[2].Leaf, e[3].Leaf = e[3].Line, e[2].Line, e[3].Leaf, e[2].Leaf
		}, evidence.Options{}, "its root is another"},
		{"indexes out of order", func(_ *Log, b *evidence.Bundle) { b.Entries[2], b.Entries[3] = b.Entries[3], b.Entries[2] }, evidence.Options{}, "ascending"},
		{"index twice", func(_ *Log, b *evidence.Bundle) { b.Entries[3] = b.Entries[2] }, evidence.Options{}, "ascending"},
		{"index beyond the tree", func(_ *Log, b *evidence.Bundle) { b.Entries[len(b.Entries)-1].Index = 30 }, evidence.Options{}, "below the size"},
		{"a hash too many", func(_ *Log, b *evidence.Bundle) { b.Proof = append(b.Proof, b.Proof[0]) }, evidence.Options{}, "are needed"},
		{"a hash too few", func(_ *Log, b *evidence.Bundle) { b.Proof = b.Proof[:len(b.Proof)-1] }, evidence.Options{}, "too few"},
		{"a signed line that is no entry", func(l *Log, b *evidence.Bundle) {
			relined(l, 5, []byte(`{"id":1}`))
			resign(l, b, Indexes(2, 28))
		}, evidence.Options{}, "an entry has at least"},
		{"a signed line with the id of another index", func(l *Log, b *evidence.Bundle) {
			relined(l, 5, l.Lines[6])
			resign(l, b, Indexes(2, 28))
		}, evidence.Options{}, "id is of another index"},
		{"another count", func(_ *Log, b *evidence.Bundle) { b.Statement.Count++ }, evidence.Options{}, "another number of entries"},
		{"range beyond the checkpoint", func(_ *Log, b *evidence.Bundle) { b.Statement.To = 31 }, evidence.Options{}, "not within the checkpoint"},
		{"range the wrong way round", func(_ *Log, b *evidence.Bundle) { b.Statement.From = 29 }, evidence.Options{}, "not within the checkpoint"},
		{"entries before the range", func(_ *Log, b *evidence.Bundle) { b.Statement.From, b.Statement.Query = 3, "x" }, evidence.Options{}, "outside its range"},
		{"entries after the range", func(_ *Log, b *evidence.Bundle) { b.Statement.To, b.Statement.Query = 27, "x" }, evidence.Options{}, "outside its range"},
		{"one left out of a range", func(l *Log, b *evidence.Bundle) {
			resign(l, b, slices.Concat(Indexes(2, 10), Indexes(11, 28)))
		}, evidence.Options{}, "some are missing"},
		{"made at no time", func(_ *Log, b *evidence.Bundle) { b.Statement.Made = "yesterday" }, evidence.Options{}, "when it was made"},
		{"an unknown level", func(_ *Log, b *evidence.Bundle) { b.Statement.Levels = []string{"info"} }, evidence.Options{}, "a level that is none"},
		{"a level twice", func(_ *Log, b *evidence.Bundle) { b.Statement.Levels = []string{"INFO", "INFO"} }, evidence.Options{}, "stands twice"},
		{"entries of other levels", func(_ *Log, b *evidence.Bundle) { b.Statement.Levels = []string{"INFO"} }, evidence.Options{}, "does not match"},
		{"entries before since", func(_ *Log, b *evidence.Bundle) { b.Statement.Since = "2026-03-01T12:00:05.000000000Z" }, evidence.Options{}, "does not match"},
		{"entries at until", func(_ *Log, b *evidence.Bundle) { b.Statement.Until = "2026-03-01T12:00:27.000000000Z" }, evidence.Options{}, "does not match"},
		{"since is no time", func(_ *Log, b *evidence.Bundle) { b.Statement.Since = "x" }, evidence.Options{}, "timestamp"},
		{"policy that is none", func(_ *Log, b *evidence.Bundle) { b.Policy = []byte("x\n") }, evidence.Options{}, "policy"},
		{"bad cosignature by a witness of the bundle's policy", func(l *Log, b *evidence.Bundle) {
			b.Policy = policyText(l, 1)
			b.Checkpoint = append(b.Checkpoint, bytes.Replace(lastLine(l.Note(29, witnessA)), []byte("\n"), []byte("\n"), 1)...)
		}, evidence.Options{}, "signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := sampleLog()
			b := l.Bundle(whole(2, 28), Indexes(2, 28))
			hasVerdict(t, verify(t, b, c.o), evidence.Consistent)
			c.do(l, b)
			refuted(t, verify(t, b, c.o), c.want)
		})
	}
}

func lastLine(note []byte) []byte {
	return note[bytes.LastIndexByte(note[:len(note)-1], '\n')+1:]
}

func TestQueryIsCheckedWhereTheVerifierKnowsIt(t *testing.T) {
	l := sampleLog()
	s := whole(0, 30)
	s.Query = "even"
	b := l.Bundle(s, []uint64{2, 4, 6})
	r := verify(t, b, evidence.Options{})
	hasVerdict(t, r, evidence.Consistent)
	if r.QueryChecked || r.Complete || !slices.ContainsFunc(r.Limits, func(s string) bool { return strings.Contains(s, "left out") }) {
		t.Errorf("report %+v", r)
	}
	match := func(want uint64) evidence.Options {
		return evidence.Options{Match: func(q string, made time.Time) (func(uint64, []byte) (bool, error), error) {
			if q != "even" || made.Format(time.DateOnly) != "2026-03-02" {
				t.Errorf("query %q, made %v", q, made)
			}
			return func(i uint64, line []byte) (bool, error) { return i%want == 0 && len(line) > 0, nil }, nil
		}}
	}
	if r := verify(t, b, match(2)); r.Verdict != evidence.Consistent || !r.QueryChecked {
		t.Errorf("report %+v", r)
	}
	refuted(t, verify(t, b, match(4)), "does not match")
	failing := errors.New("broken")
	refuted(t, verify(t, b, evidence.Options{Match: func(string, time.Time) (func(uint64, []byte) (bool, error), error) { return nil, failing }}), "cannot be read")
	refuted(t, verify(t, b, evidence.Options{Match: func(string, time.Time) (func(uint64, []byte) (bool, error), error) {
		return func(uint64, []byte) (bool, error) { return true, failing }, nil
	}}), "matching it")
}

func TestKeptCheckpoint(t *testing.T) {
	l := sampleLog()
	b := l.Bundle(whole(3, 30), Indexes(3, 30))
	b.Times = []evidence.Time{{Checkpoint: l.Note(15, witnessA), Consistency: l.Consistency(15, 30)}}
	kept := func(note []byte) *evidence.Report {
		return verify(t, b, evidence.Options{Checkpoints: [][]byte{note}})
	}
	if r := kept(l.Note(30)); r.Verdict != evidence.Proven || r.Covered != 27 {
		t.Errorf("same size: %s, %d covered: %q", r.Verdict, r.Covered, texts(r))
	}
	if r := kept(l.Note(15)); r.Verdict != evidence.Proven || r.Covered != 12 {
		t.Errorf("size of a time: %s, %d covered: %q", r.Verdict, r.Covered, texts(r))
	}
	if r := kept(l.Note(20)); r.Verdict != evidence.Unknown {
		t.Errorf("a size to which nothing leads: %s", r.Verdict)
	}
	other := New("b")
	other.Fill(30)
	refuted(t, kept(other.Note(30)), "two histories")
	refuted(t, kept([]byte("x")), "no note")
	refuted(t, kept([]byte("x\n\n")), "parse checkpoint")
	refuted(t, kept(Sign(proof.Checkpoint{Origin: "example.com/other", Size: 30, Root: l.Checkpoint(30).Root}.Text(), Key(proof.TypeEd25519, "example.com/other", "x"))), "another log")
	// A checkpoint below all entries is of the same history and says nothing about them.
	b = l.Bundle(whole(20, 30), Indexes(20, 30))
	b.Times = []evidence.Time{{Checkpoint: l.Note(15), Consistency: l.Consistency(15, 30)}}
	hasVerdict(t, kept(l.Note(15)), evidence.Consistent)
}

func TestPolicyFromElsewhereIsDemanded(t *testing.T) {
	l := sampleLog()
	one := l.Bundle(whole(0, 30), Indexes(0, 30), witnessA)
	r := verify(t, one, evidence.Options{Policy: policyOf(t, l, 2)})
	hasVerdict(t, r, evidence.Unknown)
	if len(r.Open) != 1 || !strings.Contains(r.Open[0], "quorum") {
		t.Errorf("open %q", r.Open)
	}
	r = verify(t, one, evidence.Options{Policy: policyOf(t, l, 1)})
	hasVerdict(t, r, evidence.Proven)
	if len(r.Times) != 1 || !r.Times[0].Trusted || !r.Times[0].Time.Equal(Cosigned) || r.Times[0].Size != 30 || r.Covered != 30 {
		t.Errorf("times %+v, covered %d", r.Times, r.Covered)
	}
	if s := r.Signatures[3]; !s.Known || !s.Good || !s.Time.Equal(Cosigned) {
		t.Errorf("signature %+v", s)
	}
	// A witness that both policies name has one mark, and the trusted one.
	both := *one
	both.Policy = policyText(l, 1)
	if r = verify(t, &both, evidence.Options{Policy: policyOf(t, l, 1)}); len(r.Times) != 1 || !r.Times[0].Trusted {
		t.Errorf("times %+v", r.Times)
	}
	if r = verify(t, &both, evidence.Options{}); !slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "satisfies the policy") }) {
		t.Errorf("notes %q", r.Notes)
	}
	two := l.Bundle(whole(0, 30), Indexes(0, 30), witnessA, witnessB)
	hasVerdict(t, verify(t, two, evidence.Options{Policy: policyOf(t, l, 2)}), evidence.Proven)
	refuted(t, verify(t, two, evidence.Options{Policy: policyOf(t, New("b"), 2)}), "does not name this log's key")
	bad := l.Bundle(whole(0, 30), Indexes(0, 30))
	bad.Checkpoint = append(bad.Checkpoint, lastLine(l.Note(29, witnessA))...)
	hasVerdict(t, verify(t, bad, evidence.Options{}), evidence.Consistent) // nobody knows that witness
	refuted(t, verify(t, bad, evidence.Options{Policy: policyOf(t, l, 1)}), "signature")

	// A quorum of none is nobody's word, also where a witness has signed.
	none, err := proof.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness A %s\nquorum none\n", l.Key.Key(), witnessA.Key()))
	if err != nil {
		t.Fatal(err)
	}
	r = verify(t, one, evidence.Options{Policy: none})
	hasVerdict(t, r, evidence.Consistent)
	if !slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "demands no witness") }) {
		t.Errorf("notes %q", r.Notes)
	}

	// The bundle's own policy is its maker's word.
	one.Policy = policyText(l, 1)
	r = verify(t, one, evidence.Options{})
	hasVerdict(t, r, evidence.Consistent)
	if len(r.Times) != 1 || r.Times[0].Trusted || r.Signatures[3].Role != "witness" || !r.Signatures[3].Good || r.Signatures[3].Known {
		t.Errorf("times %+v, signatures %+v", r.Times, r.Signatures)
	}
	one.Policy = policyText(l, 2)
	if r = verify(t, one, evidence.Options{}); !slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "does not satisfy") }) {
		t.Errorf("notes %q", r.Notes)
	}
}

// One witness of two that are needed states a time long ago: only the quorum's word is trusted, so the log's clock is not blamed.
func TestLyingWitnessMovesNoTime(t *testing.T) {
	l := sampleLog()
	b := l.Bundle(whole(0, 30), Indexes(0, 30), witnessB)
	liar, err := witnessA.SignatureLine(l.Checkpoint(30).Text(), 1)
	if err != nil {
		t.Fatal(err)
	}
	b.Checkpoint = append(b.Checkpoint, liar...)
	r := verify(t, b, evidence.Options{Policy: policyOf(t, l, 2)})
	hasVerdict(t, r, evidence.Proven)
	for _, m := range r.Times {
		if want := m.Time.Equal(Cosigned); m.Trusted != want {
			t.Errorf("%s at %s: trusted %t, want %t", m.Name, m.Time, m.Trusted, want)
		}
	}
	if len(r.Times) != 2 || slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "clock") }) {
		t.Errorf("times %+v, notes %q", r.Times, r.Notes)
	}
}

// The key of a log with one key is a basis, and whoever relies on it is told what it is worth.
func TestLogKeyOfAOneKeyLogIsSaidToBeWeak(t *testing.T) {
	l := New("example.com/one")
	l.Fill(3)
	b := l.Bundle(whole(0, 3), Indexes(0, 3))
	b.VKeys, b.Checkpoint = b.VKeys[:1], Sign(l.Checkpoint(3).Text(), l.Key)
	r := verify(t, b, evidence.Options{Keys: []proof.Key{l.Key.Key()}})
	hasVerdict(t, r, evidence.Proven)
	if !slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "log with one key, which is never destroyed") }) {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestTimesAreOfThisHistory(t *testing.T) {
	l := sampleLog()
	b := l.Bundle(whole(0, 30), Indexes(0, 30))
	with := func(tm evidence.Time, o evidence.Options) *evidence.Report {
		b.Times = []evidence.Time{tm}
		return verify(t, b, o)
	}
	good := evidence.Time{Checkpoint: l.Note(25, witnessA), Consistency: l.Consistency(25, 30)}
	r := with(good, evidence.Options{Policy: policyOf(t, l, 1)})
	hasVerdict(t, r, evidence.Proven) // as far as the witness has seen it
	if len(r.Times) != 1 || r.Times[0].Size != 25 || !r.Times[0].Trusted || r.Covered != 25 {
		t.Errorf("times %+v, covered %d", r.Times, r.Covered)
	}
	hasVerdict(t, with(good, evidence.Options{Policy: policyOf(t, l, 2)}), evidence.Unknown)
	after := l.Bundle(whole(26, 30), Indexes(26, 30))
	after.Times = []evidence.Time{good}
	r = verify(t, after, evidence.Options{Policy: policyOf(t, l, 1)})
	hasVerdict(t, r, evidence.Unknown)
	if len(r.Open) != 1 || !strings.Contains(r.Open[0], "covers none") {
		t.Errorf("open %q", r.Open)
	}
	none, err := proof.ParsePolicy([]byte("quorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	hasVerdict(t, with(good, evidence.Options{Policy: none}), evidence.Consistent)
	refuted(t, with(evidence.Time{Checkpoint: l.Note(25), Consistency: l.Consistency(24, 30)}, evidence.Options{}), "another history")
	refuted(t, with(evidence.Time{Checkpoint: Sign(l.Checkpoint(25).Text(), l.Key), Consistency: l.Consistency(25, 30)}, evidence.Options{}), "open checkpoint")
	l.Fill(1)
	refuted(t, with(evidence.Time{Checkpoint: l.Note(31)}, evidence.Options{}), "larger than the bundle's")
	bad := evidence.Time{Checkpoint: append(l.Note(25), lastLine(l.Note(24, witnessA))...), Consistency: l.Consistency(25, 30)}
	refuted(t, with(bad, evidence.Options{Policy: policyOf(t, l, 1)}), "signature")
}

func TestStampsAreCheckedOrSaidNotToBe(t *testing.T) {
	l := sampleLog()
	b := l.Bundle(whole(0, 30), Indexes(0, 30))
	b.Times = []evidence.Time{{Checkpoint: l.Note(25), Consistency: l.Consistency(25, 30), Stamp: []byte("stamp")}}
	r := verify(t, b, evidence.Options{})
	hasVerdict(t, r, evidence.Consistent)
	if len(r.Times) != 1 || r.Times[0].Checked || !slices.ContainsFunc(r.Limits, func(s string) bool { return strings.Contains(s, "RFC 3161") }) {
		t.Errorf("times %+v, limits %q", r.Times, r.Limits)
	}
	at := time.Date(2026, 3, 1, 12, 0, 10, 0, time.UTC)
	o := evidence.Options{Stamp: func(stamp []byte, text string) (evidence.Stamp, error) {
		if string(stamp) != "stamp" || text != l.Checkpoint(25).Text() {
			t.Errorf("stamp %q over %q", stamp, text)
		}
		return evidence.Stamp{Time: at, Accuracy: time.Second, Name: "authority", Trusted: true}, nil
	}}
	r = verify(t, b, o)
	if len(r.Times) != 1 || !r.Times[0].Checked || !r.Times[0].Trusted {
		t.Errorf("times %+v", r.Times)
	}
	// Entries 12 … 24 carry a later time than the authority's, with its second of accuracy; those from 25 on it had not seen.
	if !slices.ContainsFunc(r.Notes, func(s string) bool { return strings.Contains(s, "13 entries, the last of them 24") }) {
		t.Errorf("notes %q", r.Notes)
	}
	refuted(t, verify(t, b, evidence.Options{Stamp: func([]byte, string) (evidence.Stamp, error) { return evidence.Stamp{}, errors.New("other imprint") }}), "other imprint")
}

func TestRequireSaysWhichKeysMustHaveSigned(t *testing.T) {
	l := sampleLog()
	b := l.Bundle(whole(0, 30), Indexes(0, 30))
	b.Checkpoint = Sign(l.Checkpoint(30).Text(), l.Key, l.Epochs[2][0])
	refuted(t, verify(t, b, evidence.Options{}), "checkpoint")
	hasVerdict(t, verify(t, b, evidence.Options{Require: proof.RequireEd25519}), evidence.Consistent)
	ed, ml := l.Epochs[2][0].Key(), l.Epochs[2][1].Key()
	hasVerdict(t, verify(t, b, evidence.Options{Require: proof.RequireEd25519, Keys: []proof.Key{ed}}), evidence.Proven)
	hasVerdict(t, verify(t, b, evidence.Options{Require: proof.RequireEd25519, Keys: []proof.Key{ml}}), evidence.Consistent) // it did not sign
	b.Checkpoint = Sign(l.Checkpoint(30).Text(), l.Key, l.Epochs[2][1])
	hasVerdict(t, verify(t, b, evidence.Options{Require: proof.RequireMLDSA44, Keys: []proof.Key{ed}}), evidence.Consistent)
}

func TestOneProofServesAnySelection(t *testing.T) {
	l := New("tree")
	l.Fill(70)
	for size := uint64(1); size <= 70; size++ {
		for pattern := range uint64(12) {
			var indexes []uint64
			var leaves []proof.Hash
			for i := range size {
				if (i*2654435761+pattern*40503)>>3%(pattern+1) == 0 {
					indexes, leaves = append(indexes, i), append(leaves, l.Leaves[i])
				}
			}
			hashes, err := evidence.Prove(size, indexes, func(lo, hi uint64) (proof.Hash, error) { return proof.Root(l.Leaves[lo:hi]), nil })
			if err != nil {
				t.Fatal(err)
			}
			root, err := evidence.Root(size, indexes, leaves, hashes)
			if err != nil || root != proof.Root(l.Leaves[:size]) {
				t.Fatalf("size %d, indexes %v: %v", size, indexes, err)
			}
		}
	}
	// The proof of one entry is its inclusion proof in another order: no more and no fewer hashes.
	hashes, _ := evidence.Prove(70, []uint64{69}, func(lo, hi uint64) (proof.Hash, error) { return proof.Root(l.Leaves[lo:hi]), nil })
	slices.Reverse(hashes)
	if err := proof.CheckInclusion(hashes, 69, 70, l.Leaves[69], proof.Root(l.Leaves)); err != nil {
		t.Error(err)
	}
	if _, err := evidence.Root(0, nil, nil, l.Leaves[:1]); err == nil {
		t.Error("a tree of size 0 has a root from a proof")
	}
	if _, err := evidence.Root(1, []uint64{0}, nil, nil); err == nil {
		t.Error("an index without a leaf is taken")
	}
	for failing := range uint64(2) {
		gone := errors.New("gone")
		if _, err := evidence.Prove(4, []uint64{failing * 2}, func(lo, _ uint64) (proof.Hash, error) {
			if lo == 2*failing+1 {
				return proof.Hash{}, gone
			}
			return proof.Hash{}, nil
		}); !errors.Is(err, gone) {
			t.Errorf("a hash that cannot be read: %v", err)
		}
	}
}

func TestParseKeepsItsLimits(t *testing.T) {
	l := New("a")
	l.Fill(1)
	b := l.Bundle(whole(0, 1), Indexes(0, 1))
	b.Times = slices.Repeat([]evidence.Time{{Checkpoint: l.Note(1)}}, evidence.MaxTimes)
	if _, err := evidence.Parse(Data(b)); err != nil {
		t.Fatal(err)
	}
	b.Times = append(b.Times, b.Times[0])
	if _, err := evidence.Parse(Data(b)); err == nil {
		t.Error("one time too many is read")
	}
	b.Times = []evidence.Time{{Checkpoint: l.Note(1), Stamp: make([]byte, 64<<10)}}
	if _, err := evidence.Parse(Data(b)); err != nil {
		t.Error(err)
	}
	b.Times[0].Stamp = make([]byte, 64<<10+1)
	if _, err := evidence.Parse(Data(b)); err == nil {
		t.Error("a time stamp beyond the limit is read")
	}
	b.Times, b.Entries = nil, nil
	if _, err := evidence.Parse(Data(b)); err == nil || !strings.Contains(err.Error(), "at least one") {
		t.Errorf("a bundle without entries: %v", err)
	}
	b.Entries = make([]evidence.Entry, evidence.MaxEntries)
	if _, err := evidence.Parse(Data(b)); err != nil {
		t.Error(err)
	}
	b.Entries = append(b.Entries, b.Entries[0])
	if _, err := evidence.Parse(Data(b)); err == nil {
		t.Error("one entry too many is read")
	}
	b.Entries = []evidence.Entry{{Line: bytes.Repeat([]byte("a"), evidence.MaxData)}}
	if _, err := b.Append(nil); err == nil {
		t.Error("a bundle beyond the limit is written")
	}
	if _, err := evidence.Parse(make([]byte, evidence.MaxData+1)); err == nil || !strings.Contains(err.Error(), "are read") {
		t.Errorf("more data than the limit: %v", err)
	}
	b.Entries = []evidence.Entry{{Line: []byte("\xff")}}
	if _, err := b.Append(nil); err == nil {
		t.Error("a line that is not UTF-8 is written")
	}
}

func TestOneSpelling(t *testing.T) {
	l := New("a")
	l.Append(Hostile())
	data := Data(l.Bundle(whole(0, 1), Indexes(0, 1)))
	if bytes.ContainsAny(data, "<>&\n\u2028") && bytes.ContainsAny(data, "<>&\n") {
		t.Error("the data hold a character that could end their element")
	}
	for _, c := range []struct{ old, new string }{
		{`\u003c`, `<`},
		{`\u003c`, `\u003C`},
		{`"count":1`, `"count":01`},
		{`"count":1`, `"count": 1`},
		{`"levels":[]`, `"levels":[ ]`},
		{`"format":"immutable/bundle/1"`, `"format":"immutable/bundle/2"`},
		{`"query":""`, `"query":"\u0041"`},
		{`"query":"","levels":[]`, `"levels":[],"query":""`},
		{`"policy":""`, `"policy":"","extra":""`},
		{`"count":1`, `"count":9223372036854775808`},
	} {
		changed := bytes.Replace(data, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(changed, data) {
			t.Fatalf("no %s in the data", c.old)
		}
		if _, err := evidence.Parse(changed); err == nil {
			t.Errorf("%s for %s is read", c.new, c.old)
		}
	}
}

func TestExtract(t *testing.T) {
	l := New("a")
	l.Fill(1)
	data := string(Data(l.Bundle(whole(0, 1), Indexes(0, 1))))
	page := "<p>\n" + evidence.Open + data + evidence.Close + "<p>\n"
	for _, file := range []string{data, data + "\n", page, evidence.Open + data + evidence.Close} {
		from, to, err := evidence.Extract([]byte(file))
		if err != nil || file[from:to] != data {
			t.Errorf("%.60q: %d to %d, %v", file, from, to, err)
		}
	}
	for name, file := range map[string]string{
		"nothing":             "",
		"a page without data": "<p>\n",
		"not on a line":       "<p>" + evidence.Open + data + evidence.Close,
		"not ended":           "<p>\n" + evidence.Open + data,
		"two lines of data":   "<p>\n" + evidence.Open + data + "\n\n" + evidence.Close,
		"twice":               page + page,
		"named again":         page + `<div id="immutable-bundle">`,
		"named before":        `<div id="immutable-bundle">` + "\n" + page,
	} {
		if _, _, err := evidence.Extract([]byte(file)); err == nil {
			t.Errorf("%s: data are found", name)
		} else if got := errors.Is(err, evidence.ErrNotBundle); got != (name == "nothing" || name == "a page without data" || name == "not on a line") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestManyFindingsAreCounted(t *testing.T) {
	l := New("a")
	l.Fill(300)
	b := l.Bundle(whole(0, 300), Indexes(0, 300))
	for i := range b.Entries {
		b.Entries[i].Leaf[0] ^= 1
	}
	r := verify(t, b, evidence.Options{})
	if len(r.Findings) != 100 || r.Omitted != 201 {
		t.Errorf("%d findings, %d omitted; want 100 and 201", len(r.Findings), r.Omitted)
	}
}

func FuzzParse(f *testing.F) {
	l := sampleLog()
	b := l.Bundle(whole(2, 28), Indexes(2, 28), witnessA)
	b.Policy = policyText(l, 1)
	b.Times = []evidence.Time{{Checkpoint: l.Note(15), Consistency: l.Consistency(15, 30), Stamp: []byte{1}}}
	f.Add(Data(b))
	small := New("a")
	small.Fill(1)
	f.Add(Data(small.Bundle(whole(0, 1), Indexes(0, 1))))
	f.Add([]byte(`{"format":"immutable/bundle/1","statement":{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := evidence.Parse(data)
		if err != nil {
			return
		}
		again, err := b.Append(nil)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("read and written again it differs: %v", err)
		}
		evidence.Verify(data, evidence.Options{})
	})
}

func FuzzExtract(f *testing.F) {
	f.Add([]byte(evidence.Open + "x" + evidence.Close))
	f.Add([]byte(`{"format":"immutable/bundle/1"}` + "\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		from, to, err := evidence.Extract(file)
		if err == nil && (from < 0 || to < from || to > len(file)) {
			t.Errorf("data from %d to %d of %d bytes", from, to, len(file))
		}
	})
}

func BenchmarkVerify1000(b *testing.B) {
	l := New("a")
	l.Fill(1000)
	data := Data(l.Bundle(whole(0, 1000), Indexes(0, 1000)))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if r := evidence.Verify(data, evidence.Options{}); r.Verdict != evidence.Consistent {
			b.Fatal(r.Verdict)
		}
	}
	_ = entry.Info
}
