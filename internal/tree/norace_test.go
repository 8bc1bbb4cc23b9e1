//go:build !race

package tree

// Tests that go through many states go through fewer under the race detector: ./test runs this package at full speed, too.
const (
	raceEnabled     = false
	consistencyStep = 41
)
