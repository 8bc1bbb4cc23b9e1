package immutable

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// documentedLog has the entries of docs/search.md.
func documentedLog(t *testing.T, doc string) (*Log, time.Time) {
	t.Helper()
	_, block, _ := strings.Cut(doc, "```jsonl\n")
	block, _, found := strings.Cut(block, "```")
	if !found {
		t.Fatal("docs/search.md has no entries")
	}
	clock := newClock()
	clock.step = 0
	now := clock.t.Add(1000 * time.Hour)
	l, err := Open(diskDir, diskConfig(vfstest.New(), clock))
	must(t, err)
	t.Cleanup(func() { closeTest(t, l) })
	for line := range strings.Lines(block) {
		var e struct {
			Ago       string
			Level     string
			Message   string
			Metadata  json.RawMessage
			EventTime time.Time
		}
		must(t, json.Unmarshal([]byte(line), &e))
		ago, err := time.ParseDuration(e.Ago)
		must(t, err)
		clock.mu.Lock()
		clock.t = now.Add(-ago)
		clock.mu.Unlock()
		level, err := ParseLevel(e.Level)
		must(t, err)
		_, err = l.Append(context.Background(), Event{Level: level, Message: e.Message, RawMetadata: e.Metadata, EventTime: e.EventTime})
		must(t, err)
	}
	return l, now
}

// rowsOf are the cells of the tables whose first cell is code.
func rowsOf(doc string) (rows [][]string) {
	for line := range strings.Lines(doc) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| `") {
			cells := strings.Split(strings.Trim(line, "|"), " | ")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	return rows
}

// codes are the texts in backquotes.
func codes(cell string) (out []string) {
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			out = append(out, part)
		}
	}
	return out
}

func TestEveryExampleOfTheSearchPageHolds(t *testing.T) {
	data, err := os.ReadFile("docs/search.md")
	must(t, err)
	doc, mistakes, found := strings.Cut(string(data), "## Mistakes")
	if !found {
		t.Fatal("docs/search.md has no section on mistakes")
	}
	l, now := documentedLog(t, doc)
	if l.Size() != 12 {
		t.Fatalf("%d entries", l.Size())
	}
	examples := 0
	for _, row := range rowsOf(doc) {
		for _, text := range codes(row[0]) {
			examples++
			var got []string
			for e, err := range l.Search(context.Background(), Query{Text: text, Now: now, Reverse: true}) {
				if err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				got = append(got, fmt.Sprint(e.Index+1))
			}
			want := strings.Fields(row[1])
			if row[1] == "none" {
				want = nil
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s selects %v, the page says %v", text, got, want)
			}
		}
	}
	refused := 0
	for _, row := range rowsOf(mistakes) {
		refused++
		_, err := ParseFilter(codes(row[0])[0], now)
		var e *QueryError
		if !errors.As(err, &e) || !strings.Contains(e.Msg, row[1]) {
			t.Errorf("%s: %v, the page says %q", row[0], err, row[1])
		}
	}
	if examples < 70 || refused < 9 {
		t.Errorf("%d examples and %d mistakes were found on the page", examples, refused)
	}
}
