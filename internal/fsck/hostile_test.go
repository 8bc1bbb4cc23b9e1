package fsck

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
)

// Files that are far larger than what they stand for are refused without reading them into memory.
func TestHugeFilesAreRefusedInLittleMemory(t *testing.T) {
	b := small(t, "example.com/log", true)
	for _, name := range names(b) {
		if name == "immutable.log" || name == "checkpoints" {
			continue // streamed to the end: in little memory, but not in a test's time
		}
		dir := t.TempDir()
		for n, data := range b.files {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o700))
			must(t, os.WriteFile(filepath.Join(dir, n), data, 0o600))
		}
		if err := os.Truncate(filepath.Join(dir, name), 1<<38); err != nil {
			t.Skipf("no sparse files of this size here: %v", err)
		}
		runtime.GC()
		before := allocated()
		r := verify(t, Options{Dir: dir, Keys: []string{b.signer.VKey()}, Workers: 2})
		// Without a head whole hashes behind those that the checkpoint needs may be a crash's.
		if r.Verdict != Refuted && (r.Verdict != Unknown || name != "chain" && name != "tree/1") {
			t.Errorf("%s: %s", name, r.Verdict)
		}
		if got := allocated() - before; got > 100<<20 {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
}

// A history far longer than what is in memory at once is read to its end, each note against the entries.
func TestLongHistoryIsStreamed(t *testing.T) {
	b := newBook(t, "example.com/log", false)
	const n = 5 * notesPerBatch * historyBatches
	for range n {
		b.add(1)
		b.publish(true)
	}
	b.close()
	r := verify(t, b.options())
	want(t, r, Proven)
	if r.Checkpoints != n+1 {
		t.Errorf("%d notes", r.Checkpoints)
	}
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
