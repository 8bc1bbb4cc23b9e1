package entry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// dataDir is a folder of the shared test data, which lies beside the repository.
func dataDir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if filepath.Dir(dir) == dir {
			t.Skip("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "..", "shared", "data", name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no shared test data: %v", err)
	}
	return dir
}

func readFiles(t *testing.T, dir, suffix string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, suffix) {
			return err
		}
		data, err := os.ReadFile(path)
		files[filepath.Base(path)] = data
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no %s files in %s", suffix, dir)
	}
	return files
}

// The y_ files that are valid JSON and refused by the format's own rules, and why.
var refusedByRule = map[string]string{
	"y_object_duplicated_key.json":           "twice",
	"y_object_duplicated_key_and_value.json": "twice",
}

func TestJSONTestSuiteIsAcceptedExactlyOrRefused(t *testing.T) {
	for name, data := range readFiles(t, filepath.Join(dataDir(t, "jsontestsuite"), "test_parsing"), ".json") {
		raw := append(append([]byte(`{"v":`), data...), '}')
		ok := false
		if len(bytes.TrimSpace(data)) > 0 && json.Valid(raw) != json.Valid(data) {
			// The file is no value but fits into an object, such as 1,"b":2.
			continue
		}
		ok = checkObject(t, raw)
		line, err := Append(nil, &Event{RawMetadata: raw})
		if (err == nil) != ok {
			t.Errorf("%s: Append says %v", name, err)
		}
		if err == nil {
			checkDecode(t, line)
		}
		_, asValue := Append(nil, &Event{Metadata: Fields{"v": json.RawMessage(data)}})
		if (asValue == nil) != ok {
			t.Errorf("%s: as a value: %v, as raw metadata: %v", name, asValue, err)
		}
		switch why, known := refusedByRule[name]; {
		case known && (ok || !strings.Contains(err.Error(), why)):
			t.Errorf("%s: got %v, want it refused: %s", name, err, why)
		case name[0] == 'y' && !ok && !known, name[0] == 'n' && ok:
			t.Errorf("%s: got %v", name, err)
		}
		// As a whole line, no file is an entry.
		if checkDecode(t, bytes.TrimSuffix(data, []byte("\n"))) {
			t.Errorf("%s is a line", name)
		}
	}
}

func TestJSONTransformFilesAreNeverChanged(t *testing.T) {
	for _, data := range readFiles(t, filepath.Join(dataDir(t, "jsontestsuite"), "test_transform"), ".json") {
		checkObject(t, append(append([]byte(`{"v":`), data...), '}'))
	}
	for name, data := range readFiles(t, dataDir(t, "jcs-rfc8785"), ".json") {
		if ok := checkObject(t, append(append([]byte(`{"v":`), data...), '}')); !ok {
			t.Errorf("%s is refused", name)
		}
	}
}

// checkEverywhere puts s in every place that takes a string and reads it back.
func checkEverywhere(t *testing.T, s string) {
	t.Helper()
	e := &Event{Message: s, Metadata: Fields{s: s, "in " + s: []any{s, map[string]any{s: s}, map[string]string{s: s}, []string{s}}}}
	line, err := Append(nil, e)
	if !utf8.ValidString(s) {
		if err == nil {
			t.Errorf("%q: invalid UTF-8 is accepted", s)
		}
		return
	}
	if err != nil {
		t.Errorf("%q: %v", s, err)
		return
	}
	for _, r := range string(line) {
		if r < 0x20 || (r >= 0x7f && r <= 0x9f) {
			t.Errorf("%q: the line has the control character %U", s, r)
		}
	}
	var l Line
	if err := Decode(line, &l); err != nil {
		t.Errorf("%q: %v", s, err)
		return
	}
	if got, err := Unquote(l.Message); err != nil || got != s || Text(l.Message) != s {
		t.Errorf("%q: got %q, %v", s, got, err)
	}
	var got map[string]any
	if err := json.Unmarshal(l.Metadata, &got); err != nil || got[s] != s {
		t.Errorf("%q: got %q, %v", s, l.Metadata, err)
	}
	list, _ := got["in "+s].([]any)
	if len(list) != 4 || list[0] != s || list[1].(map[string]any)[s] != s || list[2].(map[string]any)[s] != s || list[3].([]any)[0] != s {
		t.Errorf("%q: got %q", s, l.Metadata)
	}
	checkString(t, s)
}

func TestNaughtyStringsReadBackExactly(t *testing.T) {
	for _, data := range readFiles(t, dataDir(t, "naughty-strings"), "blns.json") {
		var list []string
		if err := json.Unmarshal(data, &list); err != nil || len(list) < 300 {
			t.Fatalf("%d strings: %v", len(list), err)
		}
		for _, s := range list {
			checkEverywhere(t, s)
		}
	}
}

func TestInjectionStringsReadBackExactly(t *testing.T) {
	n := 0
	for name, data := range readFiles(t, dataDir(t, "injection-strings"), "") {
		s := bufio.NewScanner(bytes.NewReader(data))
		for s.Scan() {
			checkEverywhere(t, s.Text())
			n++
		}
		if err := s.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n < 500 {
		t.Errorf("only %d strings", n)
	}
}

func TestLinesThatLookLikeOtherLinesStayInside(t *testing.T) {
	for _, s := range []string{
		"\n" + `{"commit":{"size":1,"chain":"00","root":"AA=="}}` + "\n", `{"segment":{"first":0,"chain":""}}`, "\n{\"id\":\"", "\x1b[31mred\x1b[0m", "\u009b31m",
		"\u202eabc", "\x00", "\r\n", "\u2028\u2029", "\ufeff", "\\u0000", `"},"metadata":{}`,
	} {
		checkEverywhere(t, s)
	}
}

// records are the audit events in a file: the elements of an array or of Records, or one value after another.
func records(data []byte) (list []json.RawMessage) {
	var delivery struct{ Records []json.RawMessage }
	if json.Unmarshal(data, &list) == nil {
		return list
	}
	if json.Unmarshal(data, &delivery) == nil && delivery.Records != nil {
		return delivery.Records
	}
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return list
		}
		list = append(list, raw)
	}
}

func TestAuditEventsAreKeptExactly(t *testing.T) {
	accepted := 0
	for _, name := range []string{"cloudtrail-stratus", "cloudtrail-invictus", "k8s-audit-falco"} {
		for file, data := range readFiles(t, dataDir(t, name), ".json") {
			for _, raw := range records(data) {
				if !checkObject(t, raw) {
					_, err := AppendObject(nil, raw)
					t.Errorf("%s: %v", file, err)
					continue
				}
				line, err := Append(nil, &Event{RawMetadata: raw})
				if err != nil {
					t.Errorf("%s: %v", file, err)
					continue
				}
				checkDecode(t, line)
				accepted++
			}
		}
	}
	if accepted < 500 {
		t.Errorf("only %d events", accepted)
	}
}
