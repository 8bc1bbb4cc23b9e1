package review

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"github.com/tree-of-life-system/immutable"
)

func TestFindingsAreQueries(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Findings() {
		if _, err := immutable.ParseFilter(f.Query, immutable.Query{}.Now); err != nil || f.Title == "" || seen[f.ID] {
			t.Errorf("%+v: %v", f, err)
		}
		seen[f.ID] = true
	}
}

// TestSampleIsWhatItsDescriptionSays draws one again, with arithmetic of its own.
func TestSampleIsWhatItsDescriptionSays(t *testing.T) {
	const origin, day, root = "example.com/log", "2026-11-23", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	var want []uint64
	for i := int64(0); len(want) < SampleSize; i++ {
		sum := sha256.Sum256([]byte("immutable review sample v1\n" + origin + "\n" + day + "\n" + root + "\n" + big.NewInt(i).String() + "\n"))
		x, _ := new(big.Int).SetString(hex.EncodeToString(sum[:8]), 16)
		index := 1000 + new(big.Int).Mod(x, big.NewInt(50)).Uint64()
		if !slices.Contains(want, index) {
			want = append(want, index)
		}
	}
	slices.Sort(want)
	if got := Sample(origin, day, root, 1000, 1050); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := Sample(origin, day, root, 7, 10); !slices.Equal(got, []uint64{7, 8, 9}) {
		t.Errorf("of three: %v", got)
	}
	if got := Sample(origin, day, root, 7, 7); len(got) != 0 {
		t.Errorf("of none: %v", got)
	}
	if slices.Equal(Sample(origin, day, root, 0, 1000), Sample(origin, "2026-11-24", root, 0, 1000)) || slices.Equal(Sample(origin, day, root, 0, 1000), Sample(origin, day, "x", 0, 1000)) {
		t.Error("another day or root draws the same")
	}
}
