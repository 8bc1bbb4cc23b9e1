package index

import (
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index/indextest"
)

// corpusLines are the first lines of the reference corpus, whole groups of them.
func corpusLines(t testing.TB, n int) ([][]byte, int64) {
	c := indextest.New(2_000_000, 1)
	var lines [][]byte
	size := int64(0)
	for i := range uint64(n) {
		var e entry.Event
		at := c.Next(&e)
		line, err := entry.Append(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		entry.Patch(line, i, at, 77)
		lines = append(lines, line)
		size += int64(len(line)) + 1
	}
	return lines, size
}

func buildSearch(t testing.TB, lines [][]byte) []byte {
	b := NewBuilder(0)
	var l entry.Line
	for _, line := range lines {
		if err := entry.Decode(line, &l); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(&l); err != nil {
			t.Fatal(err)
		}
	}
	data, _ := b.Finish()
	return data
}

func BenchmarkBuildSearch(b *testing.B) {
	lines, size := corpusLines(b, 400*1024)
	b.ReportAllocs()
	b.SetBytes(size)
	var data []byte
	for b.Loop() {
		data = buildSearch(b, lines)
	}
	n := float64(len(lines))
	b.ReportMetric(float64(size)/n, "raw-B/line")
	b.ReportMetric(float64(len(data))/n, "sdx-B/line")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/line")
}
