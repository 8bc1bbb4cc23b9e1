package immutable

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// realEvents are events of a folder of the shared data, evenly taken where it has more than most.
func realEvents(t *testing.T, folder string, most int) []Event {
	t.Helper()
	dir := filepath.Join("..", "shared", "data", folder)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("real data is not here: %v", err)
	}
	var all []Event
	err := filepath.WalkDir(dir, func(path string, f fs.DirEntry, err error) error {
		if err != nil || f.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".json", ".jsonl":
			all = append(all, jsonEvents(t, data)...)
		case ".log", ".csv":
			for line := range strings.Lines(string(data)) {
				if line = strings.TrimRight(line, "\r\n"); utf8.ValidString(line) {
					all = append(all, Event{Level: Level(len(all) % NumLevels), Message: line})
				}
			}
		}
		return nil
	})
	must(t, err)
	if len(all) <= most {
		return all
	}
	var out []Event
	for i := range most {
		out = append(out, all[i*len(all)/most])
	}
	return out
}

// jsonEvents are the records of a CloudTrail delivery, the elements of an array, or the objects of lines.
func jsonEvents(t *testing.T, data []byte) (out []Event) {
	t.Helper()
	var records []json.RawMessage
	var delivery struct{ Records []json.RawMessage }
	if json.Unmarshal(data, &records) != nil {
		if json.Unmarshal(data, &delivery) == nil && delivery.Records != nil {
			records = delivery.Records
		} else {
			for line := range bytes.Lines(data) {
				records = append(records, bytes.TrimSpace(line))
			}
		}
	}
	for _, r := range records {
		e := Event{Level: Level(len(out) % NumLevels), RawMetadata: r}
		var named struct{ EventName string }
		if json.Unmarshal(r, &named) == nil {
			e.Message = named.EventName
		}
		if len(r) > 0 && r[0] == '{' && len(r) < 60_000 {
			out = append(out, e)
		}
	}
	return out
}

// TestSearchOfRealDataFindsWhatANaiveScanFinds for random words, phrases, fields and time ranges of each set, in a log with
// sealed, pending and open segments.
func TestSearchOfRealDataFindsWhatANaiveScanFinds(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"loghub-2k", "weblogs-elastic", "authlog-secrepo", "cloudtrail-invictus", "cloudtrail-stratus", "panther-events"} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			all := realEvents(t, folder, rounds(1120*thin, 20_000))
			all = slices.DeleteFunc(all, func(e Event) bool { return !acceptable(&e) })
			for len(all) < 1100 { // so that there are segments of each kind
				all = append(all, all[:min(len(all), 1120-len(all))]...)
			}
			l, _, entries := mixedLog(t, all)
			kinds := map[segmentKind]int{}
			for _, s := range l.segments {
				kinds[s.kind]++
			}
			if kinds[archived] < 2 || kinds[pending] == 0 || kinds[open] != 1 {
				t.Fatalf("segments of each kind: %v", kinds)
			}
			checkRandomQueries(t, l, entries, rounds(300, 1000))
		})
	}
}

// acceptable leaves out the records that a log refuses, such as those with a name twice.
func acceptable(e *Event) bool {
	_, err := entry.Append(nil, e)
	return err == nil
}
