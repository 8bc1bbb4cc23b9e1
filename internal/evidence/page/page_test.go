package page_test

import (
	"bytes"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/evidence"
	. "github.com/tree-of-life-system/immutable/internal/evidence/evidencetest"
	"github.com/tree-of-life-system/immutable/internal/evidence/page"
)

func TestPageHoldsItsDataOnceAndUnchanged(t *testing.T) {
	l := New("a")
	l.Append(Hostile())
	data := Data(l.Bundle(evidence.Statement{To: 1}, Indexes(0, 1)))
	file := page.With(data)
	from, to, err := evidence.Extract(file)
	if err != nil || !bytes.Equal(file[from:to], data) {
		t.Fatalf("data from %d to %d: %v", from, to, err)
	}
	if !page.Holds(file, data) || page.Holds(append(file, '\n'), data) {
		t.Error("the page is not recognised, or another is")
	}
	if n := bytes.Count(file, []byte("{{")); n != 0 {
		t.Errorf("%d places of the page were not filled in", n)
	}
	if _, _, err := evidence.Extract(page.Empty()); err == nil {
		t.Error("the empty page holds data")
	}
}
