package capture_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

// openLog is a log of the test.
func openLog(t testing.TB) *immutable.Log {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir(), Hostname: "app.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// entries are what the log holds, without its own.
func entries(t testing.TB, l *immutable.Log) (out []immutable.Entry) {
	t.Helper()
	for e, err := range l.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Control == nil {
			out = append(out, e)
		}
	}
	return out
}

// metadata is an entry's, decoded.
func metadata(t testing.TB, e *immutable.Entry) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// at is a member of nested metadata, nil where there is none.
func at(m any, path ...string) any {
	for _, name := range path {
		o, ok := m.(map[string]any)
		if !ok {
			return nil
		}
		m = o[name]
	}
	return m
}
