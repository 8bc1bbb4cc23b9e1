// Package cost measures what a call takes of its caller's processor time, for the benchmarks of capture.
package cost

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// PerCall runs f b.N times and reports the processor time of the calling thread for each call: what others do on the machine, the
// log in the background too, is not counted.
func PerCall(b *testing.B, f func()) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	f() // what is made once
	before := threadTime(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(threadTime(b)-before)/float64(time.Microsecond)/float64(b.N), "cpu-µs/call")
}

// PerCallBeside is PerCall for an f that leaves work to others: settle waits for it after each call, and is not counted.
func PerCallBeside(b *testing.B, f, settle func()) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	f() // what is made once
	settle()
	var took time.Duration
	for b.Loop() {
		before := threadTime(b)
		f()
		took += threadTime(b) - before
		settle()
	}
	b.ReportMetric(float64(took)/float64(time.Microsecond)/float64(b.N), "cpu-µs/call")
}

func threadTime(b *testing.B) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
