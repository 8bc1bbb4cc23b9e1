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

// PerCallBeside is PerCall for an f that leaves work to others: settle waits for it after each call, and is not counted.
func PerCallBeside(b *testing.B, f, settle func()) {
	b.Helper()
	b.ReportAllocs()
	f() // what is made once
	settle()
	var took time.Duration
	for b.Loop() {
		before := time.Now()
		f()
		took += time.Since(before)
		settle()
	}
	b.ReportMetric(float64(took)/float64(time.Microsecond)/float64(b.N), "µs/call")
}
