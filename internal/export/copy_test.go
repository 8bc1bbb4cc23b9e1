package export_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
)

// sample is a log of n entries and its copy, a line for each.
func sample(t *testing.T, n int) (*immutable.Log, [][]byte) {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir(), Origin: "example.com/copy"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var events []immutable.Event
	for i := range n {
		events = append(events, immutable.Event{Level: immutable.Audit, Message: fmt.Sprint("entry ", i), Metadata: immutable.Fields{"n": i, "even": i%2 == 0, "who": map[string]any{"name": "Ann <&> Žofie"}}})
	}
	if _, err := l.Append(context.Background(), events...); err != nil {
		t.Fatal(err)
	}
	var lines [][]byte
	for e, err := range l.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, export.AppendLine(nil, l.Origin(), 0, &e))
	}
	return l, lines
}

func checkCopy(t *testing.T, l *immutable.Log, lines [][]byte, o export.CopyOptions) *export.CopyReport {
	t.Helper()
	r, err := export.CheckCopy(context.Background(), l, bytes.NewReader(bytes.Join(lines, nil)), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHonestCopyAgrees(t *testing.T) {
	l, lines := sample(t, 1500)
	if r := checkCopy(t, l, lines, export.CopyOptions{All: true}); !r.Agrees() || r.Same != 1500 || *r.FirstLast != (export.Range{From: 0, To: 1499}) {
		t.Errorf("%+v", r)
	}
	// Delivered twice, out of order, spelled differently, without the newline at the end.
	again := slices.Concat(lines[700:], lines[:800])
	again[3] = []byte(strings.ReplaceAll(string(again[3]), `,"`, " ,\n \"")[:0] + strings.ReplaceAll(strings.TrimSpace(string(again[3])), `":`, `" : `) + "\n")
	again[len(again)-1] = bytes.TrimSpace(again[len(again)-1])
	if r := checkCopy(t, l, again, export.CopyOptions{All: true}); !r.Agrees() || r.Same != 1600 || r.Repeated != 100 {
		t.Errorf("%+v", r)
	}
	// A part, and a selection.
	if r := checkCopy(t, l, lines[300:400], export.CopyOptions{}); !r.Agrees() || r.Same != 100 {
		t.Errorf("%+v", r)
	}
	var even [][]byte
	for i := 0; i < len(lines); i += 2 {
		even = append(even, lines[i])
	}
	if r := checkCopy(t, l, even, export.CopyOptions{Query: "even:true", All: true}); !r.Agrees() || r.Same != 750 {
		t.Errorf("%+v", r)
	}
	// What carries only the mark is told apart.
	mark, _, _ := bytes.Cut(lines[5], []byte(`,"entry"`))
	if r := checkCopy(t, l, [][]byte{append(mark, `,"class_uid":3002}`...)}, export.CopyOptions{}); !r.Agrees() || r.Same != 0 || r.Marked != 1 {
		t.Errorf("%+v", r)
	}
	if r := checkCopy(t, l, nil, export.CopyOptions{}); !r.Agrees() || r.Events != 0 {
		t.Errorf("%+v", r)
	}
}

func TestTamperedCopyIsNamed(t *testing.T) {
	l, lines := sample(t, 40)
	other, theirs := sample(t, 3)
	_ = other
	change := func(i int, old, new string) [][]byte {
		c := slices.Clone(lines)
		if !bytes.Contains(c[i], []byte(old)) {
			t.Fatalf("line %d has no %s: %s", i, old, c[i])
		}
		c[i] = bytes.ReplaceAll(c[i], []byte(old), []byte(new))
		return c
	}
	for _, tt := range []struct {
		name    string
		lines   [][]byte
		changed string
		missing string
	}{
		{"message", change(7, "entry 7", "entry 8"), "line 7+1 index 7: the entry was changed at message", "[{7 7}]"},
		{"nested", change(7, "Ann", "Bob"), "line 7+1 index 7: the entry was changed at metadata.who.name", "[{7 7}]"},
		{"number", change(7, `"n":7`, `"n":7.0`), "line 7+1 index 7: the entry was changed at metadata.n", "[{7 7}]"},
		{"removed member", change(7, `"even":false,`, ``), "line 7+1 index 7: the entry was changed at metadata.even", "[{7 7}]"},
		{"added member", change(7, `"even":false,`, `"even":false,"x":1,`), "line 7+1 index 7: the entry was changed at metadata.x", "[{7 7}]"},
		{"leaf", change(7, `"leaf":"`, `"leaf":"00`), "line 7+1 index 7: the leaf hash is not the entry's", "[{7 7}]"},
		{"index", change(7, `"index":7,`, `"index":8,`), "line 7+1 index 8: the leaf hash is not the entry's", "[{7 7}]"},
		{"index too high", change(7, `"index":7,`, `"index":40,`), "line 7+1 index 40: the log has no such entry", "[{7 7}]"},
		{"no mark", change(7, `"immutable"`, `"other"`), "line 7+1 index -1: the event does not say which entry it is", "[{7 7}]"},
		{"no JSON", change(7, `{"immutable"`, `"immutable"`), "line 7+1 index -1: the event is no JSON object", "[{7 7}]"},
		{"another log", change(7, `example.com/copy`, `example.com/copx`), "line 7+1 index 7: the event is of another log", "[{7 7}]"},
		{"of the same name", append(slices.Clone(lines), theirs[2]), "line 40+1 index 2: the leaf hash is not the entry's", "[]"},
		{"deleted", slices.Concat(lines[:7], lines[9:20], lines[21:]), "", "[{7 8} {20 20}]"},
		{"all deleted but the ends", [][]byte{lines[0], lines[39]}, "", "[{1 38}]"},
	} {
		r := checkCopy(t, l, tt.lines, export.CopyOptions{})
		var changed strings.Builder
		for _, f := range r.Changed {
			fmt.Fprintf(&changed, "line %d+1 index %d: %s", f.Line-1, f.Index, f.What)
		}
		if r.Agrees() || !strings.HasPrefix(changed.String(), tt.changed) || tt.changed == "" && changed.String() != "" || fmt.Sprint(r.Missing) != tt.missing {
			t.Errorf("%s: changed %q, missing %v; want %q, %s", tt.name, changed.String(), r.Missing, tt.changed, tt.missing)
		}
	}
	// The tail shows only where all of the log is asked for.
	if r := checkCopy(t, l, lines[:30], export.CopyOptions{}); !r.Agrees() {
		t.Errorf("%+v", r)
	}
	if r := checkCopy(t, l, lines[:30], export.CopyOptions{All: true}); r.Agrees() || r.MissingN != 10 {
		t.Errorf("%+v", r)
	}
	if r := checkCopy(t, l, slices.Concat(lines[:8], lines[9:]), export.CopyOptions{Query: "even:true"}); r.MissingN != 1 || r.Missing[0] != (export.Range{From: 8, To: 8}) {
		t.Errorf("%+v", r)
	}
}

func TestCopyLineHasALimit(t *testing.T) {
	l, lines := sample(t, 1)
	for _, tt := range []struct {
		pad int
		ok  bool
	}{{4<<20 - len(lines[0]), true}, {4<<20 - len(lines[0]) + 1, false}} {
		line := append(bytes.Repeat([]byte(" "), tt.pad), lines[0]...)
		r, err := export.CheckCopy(context.Background(), l, bytes.NewReader(line), export.CopyOptions{})
		if tt.ok != (err == nil && r.Same == 1) {
			t.Errorf("a line of %d bytes: %+v, %v", len(line), r, err)
		}
	}
}

func FuzzCheckCopy(f *testing.F) {
	l, err := immutable.Open(f.TempDir(), &immutable.Config{StateDir: f.TempDir(), Origin: "example.com/copy"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = l.Close() })
	if _, err := l.Audit(context.Background(), "one", immutable.Fields{"a": 1}); err != nil {
		f.Fatal(err)
	}
	e, err := l.Entry(context.Background(), 0)
	if err != nil {
		f.Fatal(err)
	}
	line := export.AppendLine(nil, l.Origin(), 0, &e)
	f.Add(line)
	for _, format := range []string{"ocsf", "ecs"} {
		other, err := export.Append(nil, format, l.Origin(), 1, &e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(other)
	}
	f.Add([]byte(`{"type":"log.entries","data":{"events":[{},{"_source":1}]}}`))
	f.Add([]byte(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"x"}}]}]}]}`))
	f.Add([]byte(`{"immutable":{"origin":"example.com/copy","index":18446744073709551615,"leaf":""}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := export.CheckCopy(context.Background(), l, bytes.NewReader(data), export.CopyOptions{})
		if err == nil && r.Events != r.Same+r.Marked+uint64(len(r.Changed))+r.Omitted {
			t.Errorf("%d events: %+v", r.Events, r)
		}
	})
}

// copies are what sinks and collectors make of the entries, in every form that CheckCopy knows: a line, or one for each entry.
func copies(t *testing.T, l *immutable.Log) map[string][][]byte {
	t.Helper()
	all := map[string][][]byte{}
	for e, err := range l.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"json", "ocsf", "ecs"} {
			line, err := export.Append(nil, f, l.Origin(), l.Size(), &e)
			if err != nil {
				t.Fatal(err)
			}
			quoted, err := json.Marshal(string(bytes.TrimSpace(line)))
			if err != nil {
				t.Fatal(err)
			}
			for form, text := range map[string]string{
				"": "%s", "syslog": `Nov 23 23:00:00 host <109>1 2026-11-23T23:00:00.000000Z host immutable 1 AUDIT [immutable@32473 origin="x"] %s`,
				"search": `{"_index":"logs","_id":"1","_source":%s}`, "webhook": `{"type":"log.entries","timestamp":"2026-11-23T23:00:00Z","data":{"events":[%s]}}`,
			} {
				all[f+" "+form] = append(all[f+" "+form], fmt.Appendf(nil, text+"\n", bytes.TrimSpace(line)))
			}
			all[f+" otlp"] = append(all[f+" otlp"], fmt.Appendf(nil, `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":%s}}]}]}]}`+"\n", quoted))
		}
	}
	return all
}

func TestCopiesOfEveryFormAreCompared(t *testing.T) {
	l, _ := sample(t, 12)
	for form, lines := range copies(t, l) {
		if r := checkCopy(t, l, lines, export.CopyOptions{All: true}); !r.Agrees() || r.Same != 12 || r.Events != 12 {
			t.Errorf("%s: %+v", form, r)
		}
		bad := slices.Clone(lines)
		bad[7] = bytes.ReplaceAll(bad[7], []byte("entry 7"), []byte("entry 8"))
		r := checkCopy(t, l, slices.Delete(bad, 3, 5), export.CopyOptions{All: true})
		if len(r.Changed) != 1 || r.Changed[0].Index != 7 || r.Changed[0].Line != 6 || fmt.Sprint(r.Missing) != "[{3 4} {7 7}]" {
			t.Errorf("%s: %+v", form, r)
		}
	}
}

// What another system has mapped an entry to is compared too: an event whose exact line was left alone does not pass for it.
func TestChangedMappingsAreNamed(t *testing.T) {
	l, _ := sample(t, 3)
	for _, tt := range []struct{ form, old, new, want string }{
		{"ocsf ", `"message":"entry 1"`, `"message":"entry 9"`, "the event was changed at message"},
		{"ocsf ", `"severity_id":1`, `"severity_id":5`, "the event was changed at severity_id"},
		{"ocsf ", `"class_name":"Base Event",`, ``, "the event was changed at class_name"},
		{"ocsf ", `"mapping":1`, `"mapping":2`, "the event says that mapping 2 wrote it"},
		{"ocsf ", `"size":3`, `"size":4`, "the event says that a checkpoint of 4 entries was signed"},
		{"ecs ", `"log":{"level":"audit"`, `"log":{"level":"info"`, "the event was changed at log.level"},
		{"ecs ", `"immutable_mapping":"1"`, `"immutable_mapping":"one"`, "the event says that mapping 0 wrote it"},
		{"ecs ", `"immutable_leaf":"`, `"immutable_leaf":"0`, "the leaf hash is not the entry's"},
		{"ecs ", `"immutable_index":"1"`, `"immutable_index":"-1"`, "the event does not say which entry it is"},
	} {
		lines := copies(t, l)[tt.form]
		changed := bytes.Replace(lines[1], []byte(tt.old), []byte(tt.new), 1)
		if bytes.Equal(changed, lines[1]) {
			t.Fatalf("%s is not in %s", tt.old, lines[1])
		}
		if r := checkCopy(t, l, [][]byte{changed}, export.CopyOptions{}); len(r.Changed) != 1 || !strings.HasPrefix(r.Changed[0].What, tt.want) {
			t.Errorf("%s %s: %+v", tt.form, tt.new, r)
		}
	}
	// Members that another system has added say nothing about the entry; a line that it dropped is not taken for compared.
	line := copies(t, l)["ocsf "][1]
	added := bytes.Replace(line, []byte(`{`), []byte(`{"ingested":"2026","tags":["x"],`), 1)
	if r := checkCopy(t, l, [][]byte{added}, export.CopyOptions{}); !r.Agrees() || r.Same != 1 {
		t.Errorf("%+v", r)
	}
	dropped := regexp.MustCompile(`"raw_data":"(\\.|[^"\\])*",`).ReplaceAll(line, nil)
	if r := checkCopy(t, l, [][]byte{dropped}, export.CopyOptions{}); !r.Agrees() || r.Same != 0 || r.Marked != 1 {
		t.Errorf("%+v", r)
	}
	deep := []byte(strings.Repeat(`{"_source":`, 10) + "{}" + strings.Repeat("}", 10))
	if r := checkCopy(t, l, [][]byte{deep}, export.CopyOptions{}); len(r.Changed) != 1 || !strings.Contains(r.Changed[0].What, "too deeply") {
		t.Errorf("%+v", r)
	}
}
