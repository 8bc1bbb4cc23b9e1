package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/tree-of-life-system/immutable"
)

// sharedData is a folder of real data that lies beside the repository.
func sharedData(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
	path := filepath.Join(dir, "..", "shared", "data", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("real data is not here: %v", err)
	}
	return path
}

func dataFiles(t testing.TB, folder string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(sharedData(t, folder), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("%s is empty", folder)
	}
	return files
}

// entriesOf reads a whole log through the library.
func entriesOf(t testing.TB, env map[string]string) []immutable.Entry {
	t.Helper()
	return entriesFrom(t, env, 0)
}

// entriesFrom reads the entries from an index on.
func entriesFrom(t testing.TB, env map[string]string, from uint64) []immutable.Entry {
	t.Helper()
	l, err := immutable.Open(env["IMMUTABLE_LOG_DIR"], &immutable.Config{StateDir: env["IMMUTABLE_STATE_DIR"], ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out []immutable.Entry
	for e, err := range l.Entries(t.Context(), immutable.Query{From: from}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// TestRealLinesComeBackByteForByte appends every text file of the folders and compares each line.
func TestRealLinesComeBackByteForByte(t *testing.T) {
	alone(t)
	for _, folder := range []string{"loghub-2k", "authlog-secrepo", "weblogs-elastic"} {
		t.Run(folder, func(t *testing.T) {
			env, size := logEnv(t), 0
			for _, name := range dataFiles(t, folder) {
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				mustRun(t, env, nil, "append", name, "--quiet")
				lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
				entries := entriesFrom(t, env, uint64(size))
				size += len(entries)
				if len(entries) != len(lines) {
					t.Fatalf("%s: %d entries of %d lines", name, len(entries), len(lines))
				}
				for i, e := range entries {
					if got := originalLine(t, &e); got != lines[i] {
						t.Fatalf("%s, line %d: got %q, want %q", name, i+1, got, lines[i])
					}
				}
			}
		})
	}
}

// originalLine is the text line that an entry was made of.
func originalLine(t testing.TB, e *immutable.Entry) string {
	t.Helper()
	if string(e.Metadata) == "{}" {
		return e.Message
	}
	var m struct {
		Raw []byte `json:"raw_base64"`
	}
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	return string(m.Raw)
}

// naiveRecords divides a file into its records with encoding/json, each without whitespace.
func naiveRecords(t testing.TB, data []byte) []string {
	t.Helper()
	var out []string
	add := func(raw json.RawMessage) {
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			t.Fatal(err)
		}
		out = append(out, b.String())
	}
	for d := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))); d.More(); {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			t.Fatal(err)
		}
		var list []json.RawMessage
		var delivery struct{ Records []json.RawMessage }
		switch {
		case json.Unmarshal(raw, &list) == nil:
		case json.Unmarshal(raw, &delivery) == nil && delivery.Records != nil:
			list = delivery.Records
		default:
			list = []json.RawMessage{raw}
		}
		for _, r := range list {
			add(r)
		}
	}
	return out
}

// TestRealRecordsComeBackByteForByte appends every JSON file of the folders, plain and packed, and compares each record.
func TestRealRecordsComeBackByteForByte(t *testing.T) {
	alone(t)
	for _, folder := range []string{"cloudtrail-invictus", "cloudtrail-stratus", "panther-events", "k8s-audit-falco"} {
		t.Run(folder, func(t *testing.T) {
			total := 0
			env := logEnv(t)
			for i, name := range dataFiles(t, folder) {
				if ext := filepath.Ext(name); ext != ".json" && ext != ".jsonl" {
					continue
				}
				data, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				want := naiveRecords(t, data)
				mustRun(t, env, packed(t, data, i), "append", "-")
				checkRecords(t, name, entriesFrom(t, env, uint64(total)), want)
				total += len(want)
			}
			if total == 0 {
				t.Fatal("no records")
			}
		})
	}
}

// packed is data as it is, gzipped, or as zstd, in turn.
func packed(t testing.TB, data []byte, i int) []byte {
	t.Helper()
	var b bytes.Buffer
	switch i % 3 {
	case 1:
		z := gzip.NewWriter(&b)
		if _, err := z.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	case 2:
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	return data
}

func checkRecords(t testing.TB, name string, entries []immutable.Entry, want []string) {
	t.Helper()
	if len(entries) != len(want) {
		t.Fatalf("%s: %d entries of %d records", name, len(entries), len(want))
	}
	for i, e := range entries {
		if string(e.Metadata) != want[i] {
			t.Fatalf("%s, record %d: got %s, want %s", name, i+1, e.Metadata, want[i])
		}
	}
}

// alone skips a test of much data in one goroutine where the race detector is on: it would find nothing in ten times the time. ./test runs this
// package without it too.
func alone(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("one goroutine, and much data: run without the race detector")
	}
}

// TestEveryJSONTestSuiteFileIsTakenExactlyOrRefused appends each file as it is: y_ must come back exactly or be refused with a
// reason, n_ must be refused.
func TestEveryJSONTestSuiteFileIsTakenExactlyOrRefused(t *testing.T) {
	alone(t)
	refused, size := 0, 0
	env := logEnv(t)
	mustRun(t, env, nil, "init")
	for _, name := range dataFiles(t, "jsontestsuite/test_parsing") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(name)
		for _, element := range []bool{false, true} {
			input := data
			if element { // as a member of an object, so that values of all kinds are tried
				input = append(append([]byte(`{"v":`), data...), '}')
			}
			r := run(t, env, input, "append", "--format", "json", "--json")
			entries := entriesFrom(t, env, uint64(size))
			size += len(entries)
			switch {
			case r.code == exitOK && len(entries) == 0 && len(bytes.TrimSpace(data)) == 0:
			case r.code == exitOK && strings.HasPrefix(base, "n_") && element:
				t.Errorf("%s: accepted in an object: %q", base, entries[0].Line)
			case r.code == exitOK && strings.HasPrefix(base, "n_") && base != "n_structure_double_array.json": // two documents, both empty
				t.Errorf("%s: accepted", base)
			case r.code == exitOK:
				checkRecords(t, base, entries, naiveRecords(t, input))
			case r.code != exitNo || len(r.errOut) == 0:
				t.Errorf("%s: exit code %d without a reason: %s", base, r.code, r.errOut)
			default:
				refused++
			}
			checkHarmless(t, base, r.errOut)
		}
	}
	if refused == 0 {
		t.Fatal("nothing was refused")
	}
}

// checkHarmless fails on a byte that could control a terminal, reorder text or forge a line.
func checkHarmless(t testing.TB, what string, printed []byte) {
	t.Helper()
	if !utf8.Valid(printed) {
		t.Fatalf("%s: not UTF-8: %q", what, printed)
	}
	for _, r := range string(printed) {
		if r != '\n' && (r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029 || r == 0x200e || r == 0x200f || r == 0x61c) {
			t.Fatalf("%s: printed %U: %q", what, r, printed)
		}
	}
}

// hostileStrings are the naughty and injection strings, and some of our own.
func hostileStrings(t testing.TB) []string {
	t.Helper()
	out := []string{
		"\x1b[31mred\x1b[0m", "a\r\nforged entry", "\u009b31m", "\u202egnp.exe", "\u2066x\u2069", "\u2028line\u2029", "\x00", "\x7f",
		`{"commit":{"size":1,"chain":"","root":""}}`, "bad \xff\xfe utf-8", "\xc0\xaf", "\xed\xa0\x80", strings.Repeat("x", 3000),
	}
	var blns []string
	data, err := os.ReadFile(filepath.Join(sharedData(t, "naughty-strings"), "blns.json"))
	if err == nil {
		err = json.Unmarshal(data, &blns)
	}
	if err != nil {
		t.Fatal(err)
	}
	out = append(out, blns...)
	for _, name := range dataFiles(t, "injection-strings") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")...)
	}
	return out
}

// TestHostileStringsComeBackAndArePrintedHarmless appends hostile strings as text lines and as metadata, and prints them with every command
// that prints entries.
func TestHostileStringsComeBackAndArePrintedHarmless(t *testing.T) {
	alone(t)
	var input []byte
	var want []string
	for _, s := range hostileStrings(t) {
		for line := range strings.SplitSeq(s, "\n") {
			want = append(want, line)
			input = append(append(input, line...), '\n')
		}
	}
	env := logEnv(t)
	mustRun(t, env, input, "append", "--format", "text")
	entries := entriesOf(t, env)
	if len(entries) != len(want) {
		t.Fatalf("%d entries of %d lines", len(entries), len(want))
	}
	for i, e := range entries {
		if got := originalLine(t, &e); got != want[i] {
			t.Fatalf("line %d: got %q, want %q", i+1, got, want[i])
		}
	}
	var objects []byte
	for _, s := range want {
		raw, err := json.Marshal(map[string]string{"a": strings.ToValidUTF8(s, "?")})
		if err != nil {
			t.Fatal(err)
		}
		objects = append(append(objects, raw...), '\n')
	}
	mustRun(t, env, objects, "append", "--format", "jsonl", "--message-field", "a")
	r := mustRun(t, env, nil, "read")
	if got := bytes.Count(r.out, []byte("\n")); got != 2*len(want) {
		t.Fatalf("read printed %d lines of %d entries", got, 2*len(want))
	}
	checkHarmless(t, "read", r.out)
	checkHarmless(t, "tail", mustRun(t, env, nil, "tail", "-n", "100").out)
	for i := range 13 {
		checkHarmless(t, "get", mustRun(t, env, nil, "get", fmt.Sprint(i)).out)
		checkHarmless(t, "get --block", mustRun(t, env, nil, "get", "--block", fmt.Sprint(i)).out)
	}
	for _, s := range want[:40] {
		for _, args := range [][]string{{s}, {"read", "--since", s}, {"verify", "/nowhere" + s}, {"log", "info", "x", s}, {"append", "nowhere" + s}, {"read", "--dir", "nowhere" + s}} {
			r := run(t, env, nil, args...)
			checkHarmless(t, fmt.Sprintf("%q", args), append(r.out, r.errOut...))
		}
	}
}

// TestLogTakesHostileArguments checks `immutable log` with messages and values that are hard to spell.
func TestLogTakesHostileArguments(t *testing.T) {
	alone(t)
	env := logEnv(t)
	n := 0
	var want []string
	for i, s := range hostileStrings(t) {
		if i > 60 {
			break
		}
		r := run(t, env, nil, "log", "info", "--", s, "k="+s)
		if !utf8.ValidString(s) {
			if r.code != exitUnknown {
				t.Fatalf("%q: exit code %d", s, r.code)
			}
			checkHarmless(t, "log", r.errOut)
			continue
		}
		if r.code != exitOK {
			t.Fatalf("%q: exit code %d: %s", s, r.code, r.errOut)
		}
		want = append(want, s)
		n++
	}
	for i, e := range entriesOf(t, env) {
		var m map[string]string
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			t.Fatal(err)
		}
		if e.Message != want[i] || m["k"] != want[i] {
			t.Fatalf("entry %d: got %q and %q, want %q", i, e.Message, m["k"], want[i])
		}
	}
	if n == 0 {
		t.Fatal("nothing was logged")
	}
}

// TestHugeInputsAreRefusedByNumberAndTheRestGoesIn has a line, an object and an array element that are too large among others.
func TestHugeInputsAreRefusedByNumberAndTheRestGoesIn(t *testing.T) {
	big := strings.Repeat("x", 70_000)
	huge := strings.Repeat("y", 3<<20)
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	var keys strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintf(&keys, `"k%d":1,`, i)
	}
	for _, c := range []struct {
		format, input string
		accepted      int
		rejected      []string
	}{
		{"text", "a\n" + big + "\nb\n" + huge + "\nc\n" + huge, 3, []string{"line 2", "line 4", "line 6"}},
		{"jsonl", `{"a":1}` + "\n" + `{"a":"` + big + `"}` + "\n" + `{"a":` + deep + "}\n" + `{"a":"` + huge + "\"}\n{" + keys.String() + "\"z\":1}\n{\"a\":2}\n", 2, []string{"line 2", "line 3", "line 4", "line 5"}},
		{"json", `[{"a":1},{"a":"` + big + `"},{"a":"` + huge + `"},{"a":2}, {"n":NaN}, {"a":3}]`, 3, []string{"record 2", "record 3", "record 5"}},
	} {
		env := logEnv(t)
		r := run(t, env, []byte(c.input), "append", "--format", c.format, "--json")
		if r.code != exitNo {
			t.Fatalf("%s: exit code %d: %.300s", c.format, r.code, r.errOut)
		}
		if want := fmt.Sprintf(`{"accepted":%d,"rejected":%d,"size":%d}`, c.accepted, len(c.rejected), c.accepted); !strings.Contains(string(r.out), want) {
			t.Errorf("%s: got %s, want %s\n%.300s", c.format, r.out, want, r.errOut)
		}
		for _, at := range c.rejected {
			if !strings.Contains(string(r.errOut), at+": ") {
				t.Errorf("%s: %s is not reported: %.300s", c.format, at, r.errOut)
			}
		}
	}
}
