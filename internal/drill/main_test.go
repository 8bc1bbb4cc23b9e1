package drill

import (
	"fmt"
	"os"
	"testing"
)

func runTests(m *testing.M) {
	dir, err := os.MkdirTemp("", "drill-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratchRoot = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
