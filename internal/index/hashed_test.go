package index

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// find looks a hash up in what appendHashed made.
func find(t testing.TB, data []byte, keys, groups uint32, hash uint64) Set {
	t.Helper()
	n := buckets(keys)
	body := data[4*(n+1):]
	b, _ := position(hash, n)
	from, to, err := bucketRange(data[4*b:], int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	set := NewSet(groups)
	if err := findHashed(body[from:to], hash, n, groups, set); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestHashedIndexHasEveryPairAndFewMore(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, groups := range []uint32{1, 2, 7, 64, 65, 1000, 1612} {
		var pairs []pair
		want := map[uint64]Set{}
		add := func(hash uint64, g uint32) {
			hash &= 1<<hashBits - 1
			pairs = append(pairs, pair(hash<<groupBits|uint64(g)))
			if want[hash] == nil {
				want[hash] = NewSet(groups)
			}
			want[hash].Add(g)
		}
		for range 3000 {
			add(rng.Uint64(), rng.Uint32N(groups))
		}
		for density := uint32(1); density < groups; density *= 3 {
			for hash, g := rng.Uint64(), rng.Uint32N(density); g < groups; g += 1 + rng.Uint32N(density) {
				add(hash, g)
				add(hash, g) // equal pairs count once
			}
		}
		rng.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		sorted := slices.Clone(pairs)
		slices.Sort(sorted)
		if got := sortPairs(slices.Clone(pairs), make([]pair, len(pairs))); !slices.Equal(got, sorted) {
			t.Fatal("sortPairs does not sort")
		}
		data, keys := appendHashed(nil, sorted, groups)
		if int(keys) != len(want) {
			t.Fatalf("%d keys, want %d", keys, len(want))
		}
		for hash, set := range want {
			got := find(t, data, keys, groups, hash)
			if got.And(set); !slices.Equal(got, set) {
				t.Fatalf("%d groups: hash %x lacks a group", groups, hash)
			}
		}
		wrong := 0
		for range 10000 {
			wrong += find(t, data, keys, groups, rng.Uint64()&(1<<hashBits-1)).Len()
		}
		if wrong > 1500 {
			t.Errorf("%d groups: 10000 absent tokens name %d groups", groups, wrong)
		}
	}
}

func TestHashedIndexOfNothingIsEmpty(t *testing.T) {
	data, keys := appendHashed(nil, nil, 3)
	if got := find(t, data, keys, 3, 12345); got.Len() != 0 || keys != 0 {
		t.Errorf("%d keys, found %v", keys, got)
	}
}
