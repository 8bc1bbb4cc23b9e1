package immutable

import (
	"encoding/json"
	"testing"
)

// What a log gives out can be taken in elsewhere, at its own index only.
func TestParsedEntryIsTheOneThatWasRead(t *testing.T) {
	l, err := Open(t.TempDir(), &Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, err := l.Audit(t.Context(), "naïve \"quotes\"\n", Fields{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	e, err := l.Entry(t.Context(), r.Index)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseEntry(r.Index, e.Line)
	if err != nil || got.Leaf != r.Leaf || got.Message != e.Message || got.ID != r.ID || !got.Timestamp.Equal(e.Timestamp) {
		t.Fatalf("got %+v, %v, want %+v", got, err, e)
	}
	if _, err := ParseEntry(r.Index+1, e.Line); err == nil {
		t.Error("an entry is taken for the one behind it")
	}
	if _, err := ParseEntry(r.Index, e.Line[:len(e.Line)-1]); err == nil {
		t.Error("half a line is taken for an entry")
	}

	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Receipt
	if err := json.Unmarshal(text, &back); err != nil || back != r {
		t.Errorf("a receipt comes back as %+v, %v, want %+v", back, err, r)
	}
	if err := json.Unmarshal([]byte(`{"id":"short"}`), &back); err == nil {
		t.Error("a short id is taken")
	}
}
