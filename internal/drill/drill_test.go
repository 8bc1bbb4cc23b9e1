package drill

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

// scratchRoot is a directory for all tests, see TestMain.
var scratchRoot string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "drill-")
	if err != nil {
		panic(err)
	}
	scratchRoot = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// theScratch is one scratch log for all tests that do not run a whole drill.
var theScratch = sync.OnceValues(func() (*scratch, error) {
	return newScratch(context.Background(), filepath.Join(scratchRoot, "shared"), nil)
})

func made(t *testing.T) *scratch {
	t.Helper()
	s, err := theScratch()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A log that is taken apart and put together again is what it was, byte for byte: what an attack changes is its own doing.
func TestForgerReproducesTheLog(t *testing.T) {
	s := made(t)
	b, err := s.now.open()
	if err != nil {
		t.Fatal(err)
	}
	m, err := b.encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(s.now.log)) {
		if !bytes.Equal(m.log[name], s.now.log[name]) {
			t.Errorf("%s: %d bytes, was %d", name, len(m.log[name]), len(s.now.log[name]))
		}
	}
	for name := range m.log {
		if _, found := s.now.log[name]; !found {
			t.Errorf("%s is new", name)
		}
	}
	if len(b.sealed) < 3 || len(b.batches) < 2 || len(b.epochs) != 3 {
		t.Errorf("%d sealed segments, %d open batches, %d epochs: too few for the attacks", len(b.sealed), len(b.batches), len(b.epochs))
	}
}

func TestControlIsSilent(t *testing.T) {
	c, n, err := made(t).control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !c.Silent || n == 0 {
		t.Errorf("%+v, %d entries", c, n)
	}
}

// Each attack comes out as the matrix says, for each verifier, and for the documented reason.
func TestMatrix(t *testing.T) {
	s := made(t)
	for i := range matrix {
		t.Run(matrix[i].name, func(t *testing.T) {
			t.Parallel()
			a, err := s.attack(t.Context(), &matrix[i], fmt.Sprintf("matrix-%d", i))
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range a.Differences {
				t.Error(d)
			}
		})
	}
}

// A drill on the events of another log, some of them large and hostile, comes out the same. Every fifth attack will do here.
func TestDrillOnGivenEvents(t *testing.T) {
	var events []immutable.Event
	for i := range 300 {
		events = append(events, immutable.Event{
			Level: immutable.Level(i % immutable.NumLevels), Message: strings.Repeat("x\u202e\x1b[31m\"", i%40), RawMetadata: []byte(`{"":{"a.b":[1,null,"\ud83d\ude00"]}}`), Hostname: "h",
		})
	}
	var rows []row
	for i := 0; i < len(matrix); i += 5 {
		rows = append(rows, matrix[i])
	}
	calls := uint64(0)
	o := Options{Work: filepath.Join(t.TempDir(), "work"), Events: events, Progress: func(done, total uint64) {
		if calls++; done != calls || total != uint64(len(rows)) {
			t.Errorf("progress %d of %d at call %d", done, total, calls)
		}
	}}
	r, err := run(t.Context(), &o, rows)
	if err != nil {
		t.Fatal(err)
	}
	if !r.AsDocumented || calls != uint64(len(rows)) || len(r.Attacks) != len(rows) {
		t.Errorf("control %+v, %d calls", r.Control, calls)
	}
	for _, a := range r.Attacks {
		for _, d := range a.Differences {
			t.Errorf("%s: %s", a.Name, d)
		}
	}
}

// An attack that comes out otherwise than documented, and a verifier that objects to an honest log, fail the whole drill.
func TestDrillFailsOnOneDifference(t *testing.T) {
	other := matrix[0]
	other.want[Head] = Shorter
	r, err := run(t.Context(), &Options{Work: filepath.Join(t.TempDir(), "work")}, []row{other})
	if err != nil {
		t.Fatal(err)
	}
	if r.AsDocumented || r.Attacks[0].AsDocumented || !r.Control.Silent {
		t.Errorf("%+v", r)
	}
}

// What differs from the matrix is said, and the drill fails.
func TestDifferenceIsSaid(t *testing.T) {
	row := matrix[0]
	row.want[Key], row.says = Unseen, "another reason"
	a, err := made(t).attack(t.Context(), &row, "difference")
	if err != nil {
		t.Fatal(err)
	}
	if a.AsDocumented || len(a.Differences) != int(numKnowledge) || !strings.Contains(a.Differences[Key], "documented is undetected") || !strings.Contains(a.Differences[0], "another reason") {
		t.Errorf("%+v", a)
	}
}

// Rows have what a reader needs, and no two have one name.
func TestMatrixIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range matrix {
		if r.name == "" || r.powers == "" || r.why == "" || r.do == nil || seen[r.name] {
			t.Errorf("row %q lacks something, or stands twice", r.name)
		}
		seen[r.name] = true
		for k, o := range r.want {
			if _, known := outcomeWords[o]; !known {
				t.Errorf("%s: no outcome for a verifier that knows the %s", r.name, Knowledge(k))
			}
		}
		if slices.Contains(r.want[:], Refuted) && r.says == "" {
			t.Errorf("%s: it is refuted, and the matrix does not say how", r.name)
		}
	}
	if len(matrix) < 25 {
		t.Errorf("%d attacks", len(matrix))
	}
}

const (
	begin = "<!-- drill: made by the tests of internal/drill from the matrix; IMMUTABLE_UPDATE=1 makes it again -->\n"
	end   = "<!-- /drill -->\n"
)

// docs/threat-model.md shows the matrix as it is.
func TestThreatModelShowsTheMatrix(t *testing.T) {
	name := filepath.Join("..", "..", "docs", "threat-model.md")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the matrix: want the lines %q and %q", name, begin, end)
	}
	want := before + begin + "\n" + page() + "\n" + end + after
	if string(data) == want {
		return
	}
	if os.Getenv("IMMUTABLE_UPDATE") == "" {
		t.Fatalf("the matrix in %s is out of date: run the test with IMMUTABLE_UPDATE=1", name)
	}
	if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// page is the matrix in Markdown.
func page() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d attacks, as `immutable drill` carries them out. Each verifier has the directory, and: nothing | this host's head | the keys of epoch 0 |\n", len(matrix))
	b.WriteString("the receipts of the last appends and a checkpoint of some time ago | a policy, what its witnesses saw last, and the roots of the time authority.\n\n")
	b.WriteString(Legend + "\n\n")
	b.WriteString("| attack | the attacker | " + strings.Join(Columns[:], " | ") + " | why |\n|---|---|---|---|---|---|---|---|\n")
	for i := range matrix {
		r := &matrix[i]
		fmt.Fprintf(&b, "| %s | %s |", r.name, r.powers)
		for _, o := range r.want {
			fmt.Fprintf(&b, " %s |", o.Word())
		}
		fmt.Fprintf(&b, " %s |\n", r.why)
	}
	return b.String()
}
