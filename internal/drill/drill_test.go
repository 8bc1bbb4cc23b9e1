package drill

import (
	"bytes"
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// theScratch is one scratch log for all tests.
var theScratch = sync.OnceValues(func() (*scratch, error) { return newScratch(context.Background(), filepath.Join(scratchRoot, "work"), nil) })

var scratchRoot string

func TestMain(m *testing.M) { runTests(m) }

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
	t.Logf("%d entries, sealed %v, batches %v, epochs %d", len(b.lines), b.sealed, len(b.batches), len(b.epochs))
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
