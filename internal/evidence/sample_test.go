package evidence_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/evidence"
	. "github.com/tree-of-life-system/immutable/internal/evidence/evidencetest"
	"github.com/tree-of-life-system/immutable/proof"
)

var update = flag.Bool("update", false, "write testdata/bundle/v1 again; its files never change once released")

// samples are the bundles of testdata/bundle/v1, for every implementation; the file README.md there says what each is.
func samples(t *testing.T) map[string][]byte {
	t.Helper()
	l := New("sample")
	l.Fill(3)
	l.Append(Hostile())
	l.Rotate()
	l.Fill(3)
	l.Rotate()
	l.Append(entry.Event{Level: entry.Audit, Message: "the last <one> & only", Hostname: "host", PID: 7})
	ranged := l.Bundle(whole(2, 8), Indexes(2, 8))
	s := evidence.Statement{Query: "level:warn OR level:security", Levels: []string{"WARN", "SECURITY"}, From: 1, To: 10, Since: "2026-03-01T12:00:01.000000000Z"}
	selected := l.Bundle(s, []uint64{1, 3, 5}, witnessA, witnessB)
	selected.Policy = policyText(l, 2)
	selected.Times = []evidence.Time{{Checkpoint: l.Note(7, witnessA, witnessB), Consistency: l.Consistency(7, 10)}, {Checkpoint: l.Note(10, witnessA)}}
	out := map[string][]byte{"range.json": Data(ranged), "selection.json": Data(selected)}

	altered := *ranged
	altered.Entries = append([]evidence.Entry(nil), ranged.Entries...)
	altered.Entries[0].Line = bytes.Replace(altered.Entries[0].Line, []byte("event 2"), []byte("event 9"), 1)
	out["altered.json"] = Data(&altered)

	altered.Entries[0].Leaf = proof.LeafHash(altered.Entries[0].Line)
	out["altered-leaf.json"] = Data(&altered)

	left := l.Bundle(whole(2, 8), []uint64{2, 3, 4, 6, 7})
	out["left-out.json"] = Data(left)

	stripped := *ranged
	stripped.Checkpoint = Sign(l.Checkpoint(10).Text(), l.Key, l.Epochs[2][0])
	out["stripped.json"] = Data(&stripped)

	out["page.html"] = []byte("<!doctype html>\n<p>A page that is not ours.</p>\n" + evidence.Open + string(out["range.json"]) + evidence.Close)
	out["two.html"] = append(bytes.Clone(out["page.html"]), `<p id="immutable-bundle">`+"\n"...)
	out["keys"] = []byte(l.Epochs[1][0].Key().String() + "\n" + l.Epochs[2][1].Key().String() + "\n")
	out["log-key"] = []byte(l.Key.Key().String() + "\n")
	out["checkpoint-7"] = l.Note(7)
	out["checkpoint-9"] = l.Note(9)
	out["policy"] = policyText(l, 2)
	return out
}

func TestSamplesAreWhatTheyWere(t *testing.T) {
	dir := filepath.Join("..", "..", "testdata", "bundle", "v1")
	all := samples(t)
	for name, data := range all {
		path := filepath.Join(dir, name)
		if *update {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if was, err := os.ReadFile(path); err != nil || !bytes.Equal(was, data) {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}
	keys := func(name string) (out []proof.Key) {
		for line := range bytes.FieldsSeq(all[name]) {
			k, err := proof.ParseKey(string(line))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, k)
		}
		return out
	}
	policy, err := proof.ParsePolicy(all["policy"])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    evidence.Options
		want evidence.Verdict
	}{
		{"range.json", evidence.Options{}, evidence.Consistent},
		{"range.json", evidence.Options{Keys: keys("keys")}, evidence.Proven},
		{"range.json", evidence.Options{Keys: keys("log-key")}, evidence.Consistent},
		{"range.json", evidence.Options{Checkpoints: [][]byte{all["checkpoint-7"]}}, evidence.Unknown},
		{"range.json", evidence.Options{Policy: policy}, evidence.Unknown},
		{"selection.json", evidence.Options{}, evidence.Consistent},
		{"selection.json", evidence.Options{Policy: policy}, evidence.Proven},
		{"selection.json", evidence.Options{Checkpoints: [][]byte{all["checkpoint-7"]}}, evidence.Proven},
		{"selection.json", evidence.Options{Checkpoints: [][]byte{all["checkpoint-9"]}}, evidence.Unknown},
		{"altered.json", evidence.Options{}, evidence.Refuted},
		{"altered-leaf.json", evidence.Options{}, evidence.Refuted},
		{"left-out.json", evidence.Options{}, evidence.Refuted},
		{"stripped.json", evidence.Options{}, evidence.Refuted},
		{"page.html", evidence.Options{}, evidence.Consistent},
	} {
		from, to, err := evidence.Extract(all[c.name])
		if err != nil {
			t.Fatal(err)
		}
		if r := evidence.Verify(all[c.name][from:to], c.o); r.Verdict != c.want {
			t.Errorf("%s: %s, want %s: %q %q", c.name, r.Verdict, c.want, texts(r), r.Open)
		}
	}
	if _, _, err := evidence.Extract(all["two.html"]); err == nil {
		t.Error("two.html: data are found")
	}
}
