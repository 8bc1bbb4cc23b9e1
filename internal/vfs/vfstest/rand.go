package vfstest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// SeedVariable is the environment variable that repeats a random test: SeedVariable=N go test -run TestX.
const SeedVariable = "IMMUTABLE_SEED"

// Rand returns a generator with a new seed, or the one from SeedVariable, and logs the seed.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(SeedVariable); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q is not a decimal number", SeedVariable, s)
		}
		seed = n
	}
	t.Logf("repeat with %s=%d", SeedVariable, seed)
	return NewRand(seed)
}

// NewRand returns the generator for a seed.
func NewRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }
