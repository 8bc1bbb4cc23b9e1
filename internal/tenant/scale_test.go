package tenant

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// many makes an installation of n tenants with one log each besides their log of the log.
func many(t *testing.T, dir string, n int) {
	t.Helper()
	in := open(t, dir, signed)
	for i := range n {
		must(t, in.makeTenant(&TenantSettings{Name: fmt.Sprintf("t%03d", i)}, "a"))
	}
	must(t, in.Close(t.Context()))
	in = open(t, dir, signed) // makes the logs
	must(t, in.Close(t.Context()))
}

// rss is the resident memory of this process in bytes, 0 where the system does not say.
func rss() int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// TestHundredTenantsFitInMemory is the target of the issue: 100 tenants with one log each below 300 MiB.
func TestHundredTenantsFitInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 200 logs")
	}
	const n, limit = 100, 150 << 20 // of our heap and stacks: the rest is the service's
	dir := t.TempDir()
	many(t, dir, n)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	in := open(t, dir, signed)
	took := time.Since(began)
	p := Local("test")
	for _, x := range in.Tenants() {
		if l, err := x.Log("a"); err == nil {
			_, err := l.AppendAs(t.Context(), p, immutable.Event{Message: "m", Metadata: immutable.Fields{"n": 1}})
			must(t, err)
			end, err := x.BeginRead(context.Background(), p, Read{Log: "a", Action: "read"})
			must(t, err)
			end(1, nil)
		}
	}
	runtime.ReadMemStats(&after)
	used := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
	logs := 0
	for _, x := range in.Tenants() {
		logs += len(x.Logs())
	}
	t.Logf("%d logs of %d tenants opened in %s; heap and stacks %d MiB, resident %d MiB, %d goroutines",
		logs, len(in.Tenants()), took, used>>20, rss()>>20, runtime.NumGoroutine())
	if logs < 2*n {
		t.Errorf("got %d logs, want at least %d", logs, 2*n)
	}
	if used > limit {
		t.Errorf("got %d MiB of heap and stacks, want at most %d", used>>20, limit>>20)
	}
}
