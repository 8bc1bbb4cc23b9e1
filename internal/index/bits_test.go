package index

import (
	"math/rand/v2"
	"testing"
)

func TestBitsReadBackWhatWasWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var w bitWriter
		type item struct {
			kind, k uint
			v       uint64
		}
		var items []item
		for range 300 {
			it := item{kind: uint(rng.IntN(4)), k: uint(rng.IntN(20)), v: rng.Uint64() >> (24 + rng.IntN(40))}
			switch it.kind {
			case 0:
				it.v &= 1<<it.k - 1
				w.put(it.v, it.k)
			case 1:
				it.v %= 200
				w.unary(it.v)
			case 2:
				it.v %= 64 << it.k
				w.rice(it.v, it.k)
			case 3:
				it.v++
				w.gamma(it.v)
			}
			items = append(items, it)
		}
		end := int64(len(w.buf))*8 + int64(w.fill)
		w.align()
		r := bitReader{buf: w.buf}
		for i, it := range items {
			var got uint64
			switch it.kind {
			case 0:
				got = r.get(it.k)
			case 1:
				got = r.unary()
			case 2:
				got = r.rice(it.k)
			case 3:
				got = r.gamma()
			}
			if got != it.v || r.bad {
				t.Fatalf("item %d %+v: got %d, bad %v", i, it, got, r.bad)
			}
		}
		if int64(r.pos) != end {
			t.Fatalf("read %d bits of %d", r.pos, end)
		}
		r.skip(64)
		if r.unary(); !r.bad {
			t.Fatal("bits behind the end were read")
		}
	}
}

func TestCodesDecodeAndStayBelowTheirLimit(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	fibonacci := []uint32{1, 1}
	for len(fibonacci) < 40 {
		fibonacci = append(fibonacci, fibonacci[len(fibonacci)-1]+fibonacci[len(fibonacci)-2])
	}
	cases := [][]uint32{{5}, {0, 7}, {1, 1}, {0, 3, 0, 1, 0}, fibonacci}
	for range 20 {
		counts := make([]uint32, 1+rng.IntN(5000))
		for i := range counts {
			counts[i] = uint32(rng.Uint64() >> (32 + rng.IntN(32)))
		}
		counts[0]++
		cases = append(cases, counts)
	}
	for n, counts := range cases {
		lengths := codeLengths(counts)
		words := codeWords(lengths)
		c := newCode(counts)
		var w bitWriter
		var symbols []int
		used := 0
		for s, n := range counts {
			if n > 0 {
				used++
				symbols = append(symbols, s)
				w.put(uint64(words[s]), uint(lengths[s]))
			}
			if lengths[s] > codeLimit || n == 0 && lengths[s] != 0 {
				t.Fatalf("case %d: symbol %d with count %d has length %d", n, s, n, lengths[s])
			}
		}
		w.align()
		r := bitReader{buf: w.buf}
		got := make([]uint16, len(symbols))
		if !decodeAll(c, &r, got, 7) {
			t.Fatalf("case %d: %d symbols do not decode", n, len(symbols))
		}
		for i, s := range symbols {
			if int(got[i]) != s+7 {
				t.Fatalf("case %d: symbol %d: got %d, want %d", n, i, got[i]-7, s)
			}
		}
		// A code of several symbols has words of a bit or more each.
		if r := (bitReader{buf: w.buf}); used > 1 && decodeAll(c, &r, make([]uint16, len(symbols)+8*len(w.buf)), 0) {
			t.Errorf("case %d: decodes more symbols than there are", n)
		}
		if used == 1 && len(w.buf) != 0 {
			t.Errorf("case %d: a single symbol takes bits", n)
		}
	}
}
