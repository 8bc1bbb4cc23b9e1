//go:build !linux

package cost

import (
	"testing"
	"time"
)

// PerCall runs f b.N times and reports the time for each call.
func PerCall(b *testing.B, f func()) {
	b.Helper()
	b.ReportAllocs()
	f() // what is made once
	before := time.Now()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(time.Since(before))/float64(time.Microsecond)/float64(b.N), "µs/call")
}
