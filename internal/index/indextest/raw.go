package indextest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// RawSets are the folders of the shared test data that search is held to.
var RawSets = []string{"loghub-2k", "weblogs-elastic", "authlog-secrepo", "cloudtrail-invictus", "cloudtrail-stratus", "panther-events"}

// Raw reads up to limit events of a folder: JSON objects, alone, in arrays or in the Records of a CloudTrail file, become
// metadata, and other lines messages.
func Raw(dir string, limit int) (events []entry.Event, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "SOURCE") || len(events) >= limit {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, e := range rawEvents(data) {
			if line, err := entry.Append(nil, &e); err == nil && len(line) > 0 && len(events) < limit {
				events = append(events, e)
			}
		}
		return nil
	})
	return events, err
}

func rawEvents(data []byte) (events []entry.Event) {
	object := func(raw json.RawMessage) bool {
		if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
			return false
		}
		var name struct{ EventName string }
		_ = json.Unmarshal(raw, &name) // a message where there is one
		events = append(events, entry.Event{Level: entry.Audit, Message: name.EventName, RawMetadata: raw})
		return true
	}
	var file struct{ Records []json.RawMessage }
	var list []json.RawMessage
	if json.Unmarshal(data, &file) == nil && len(file.Records) > 0 {
		list = file.Records
	} else if json.Unmarshal(data, &list) != nil && json.Valid(data) {
		list = []json.RawMessage{data}
	}
	if list != nil {
		for _, raw := range list {
			object(raw)
		}
		return events
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := lines.Bytes()
		if json.Valid(text) && object(bytes.Clone(text)) || !utf8.Valid(text) {
			continue
		}
		level := entry.Info
		if bytes.Contains(text, []byte("rror")) {
			level = entry.Error
		}
		events = append(events, entry.Event{Level: level, Message: string(text), Hostname: "h"})
	}
	return events
}

// Hostile are events that a search index finds hard: free text, deep JSON, arrays, many paths, long lines, other scripts, control
// characters, names with dots, nulls.
func Hostile(n int, seed uint64) (events []entry.Event) {
	c := New(n, seed)
	r := c.rng
	words := strings.Fields("the quick brown fox jumps over lazy dogs Straße ŁÓDŹ пароль Неверный 登录失败 用户 שלום مرحبا K \u212a ſ naïve e\u0301 42 203 0 113 7 1.5 a_b \u0000 tab\tbed x=1")
	some := func(k int) string {
		var b strings.Builder
		for range r.IntN(k) {
			b.WriteString(words[r.IntN(len(words))])
			b.WriteString([]string{" ", ".", "-", "", ", "}[r.IntN(5)])
		}
		return b.String()
	}
	value := func(s string) string {
		text, err := entry.AppendString(nil, s)
		if err != nil {
			return "null"
		}
		return string(text)
	}
	for range n {
		e := entry.Event{Level: entry.Level(r.IntN(entry.NumLevels - 1)), Hostname: some(3)}
		switch r.IntN(12) {
		case 0, 1, 2:
			e.Message = some(12)
		case 3:
			e.Message = strings.Repeat(some(40), 1+r.IntN(60))
			if len(e.Message) > 60000 {
				e.Message = strings.ToValidUTF8(e.Message[:60000], "")
			}
		case 4:
			e.RawMetadata = []byte(`{"tags":[` + value(some(3)) + `,` + value(some(2)) + `,[null,true,[]],{"k":` + value(some(2)) + `}],"n":null,"o":{},"a.b":` + value(some(2)) + `,"a":{"b":1,"":2}}`)
		case 5:
			depth := r.IntN(100)
			e.RawMetadata = []byte(`{"d":` + strings.Repeat(`{"d":`, depth) + value(some(3)) + strings.Repeat("}", depth) + `}`)
		case 6:
			e.RawMetadata = []byte(`{"k` + some(2)[:0] + string(rune('a'+r.IntN(26))) + string(rune('a'+r.IntN(26))) + string(rune('a'+r.IntN(26))) + `":` + value(some(4)) + `,"amount":` + []string{"1", "1.0", "10e-1", "-3", "250", "0.1"}[r.IntN(6)] + `}`)
		case 7:
			e.RawMetadata = []byte(`{"user":{"name":` + value(some(2)) + `,"id":` + []string{"7", `"7"`, "null", "[]"}[r.IntN(4)] + `},"ok":` + []string{"true", "false"}[r.IntN(2)] + `}`)
			e.TraceID = strings.Repeat("0123456789abcdef"[r.IntN(16):][:1], 31) + "1"
		case 8:
			e.PID = r.Uint32()
			e.IdempotencyKey = some(4) + "key"
		default:
			c.Next(&e)
		}
		events = append(events, e)
	}
	return events
}
