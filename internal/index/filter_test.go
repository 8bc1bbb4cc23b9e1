package index

import (
	"fmt"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index/indextest"
)

// TestFilterHasEveryWord of the texts, however they are spelled, and few others.
func TestFilterHasEveryWord(t *testing.T) {
	var m FilterMaker
	for _, events := range [][]entry.Event{indextest.Hostile(512, 3), corpusEvents(512)} {
		var lines [][]byte
		for i := range events {
			line, err := entry.Append(nil, &events[i])
			if err != nil {
				t.Fatal(err)
			}
			entry.Patch(line, uint64(i), 1_770_000_000_000_000_000, 5)
			lines = append(lines, line)
		}
		for from := 0; from < len(lines); from += 64 {
			f, err := m.Filter(lines[from : from+64])
			if err != nil {
				t.Fatal(err)
			}
			words := 0
			has := func(text []byte) {
				for w := range Words(string(text)) {
					if words++; f != nil && !f.May(WordToken(w)) {
						t.Fatalf("a word of the texts is not in the filter: %q", w)
					}
				}
			}
			for _, line := range lines[from : from+64] {
				var l entry.Line
				var w Walker
				if err := entry.Decode(line, &l); err != nil {
					t.Fatal(err)
				}
				message, _ := w.Text(l.Message)
				has(message)
				w.Walk(l.Metadata, func(_, text []byte, _ Kind) bool { has(text); return true })
			}
			others := 0
			for i := range 10_000 {
				if f == nil || f.May(WordToken(fmt.Sprintf("other%d", i))) {
					others++
				}
			}
			if words == 0 || others > 200 && len(f) < maxFilter {
				t.Errorf("%d words; of 10,000 others %d seem to be there", words, others)
			}
		}
	}
}

func corpusEvents(n int) (events []entry.Event) {
	c := indextest.New(n, 3)
	for range n {
		var e entry.Event
		c.Next(&e)
		events = append(events, e)
	}
	return events
}
