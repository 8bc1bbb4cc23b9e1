package otlp

import (
	"bytes"
	"fmt"
	"testing"
)

// audited is an export of n records of usual size, about 300 bytes each.
func audited(n int) []byte {
	records := make([][]byte, n)
	for i := range records {
		s := func(key, v string) []byte { return attr(recAttributes, key, str(anyString, v)) }
		records[i] = bytes.Join([][]byte{
			fixed(recTime, 1_764_000_000_000_000_000+uint64(i)), fixed(recObserved, 1_764_000_000_000_000_000), num(recSeverity, 9), str(recSeverityText, "INFO"),
			sub(recBody, str(anyString, "GitHub commit created")), s("repo", "tree-of-life-system"), s("sha", fmt.Sprintf("%040x", i)), s("author", "ann@example.com"),
			attr(recAttributes, "files", num(anyInt, 7)), s("http.request.method", "POST"), str(recTrace, "0123456789abcdef"), str(recSpan, "01234567"),
		}, nil)
	}
	return export(records...)
}

// BenchmarkEvents makes events of exports of 512 records: ns/op is the time of a record.
func BenchmarkEvents(b *testing.B) {
	body := audited(512)
	b.ReportAllocs()
	for n := 0; n < b.N; n += 512 {
		r, err := Parse(body)
		if err != nil {
			b.Fatal(err)
		}
		for range r.Batches() {
		}
	}
}
