package index

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// Bits are written from the lowest bit of the first byte on; a number's lowest bit comes first.

type bitWriter struct {
	buf  []byte
	acc  uint64
	fill uint // bits in acc, below 8 between calls
}

// put writes the lowest n bits of v; n is at most 56.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.fill
	for w.fill += n; w.fill >= 8; w.fill -= 8 {
		w.buf = append(w.buf, byte(w.acc))
		w.acc >>= 8
	}
}

// unary writes n zeros and a one.
func (w *bitWriter) unary(n uint64) {
	for ; n >= 32; n -= 32 {
		w.put(0, 32)
	}
	w.put(1<<n, uint(n)+1)
}

func (w *bitWriter) rice(v uint64, k uint) {
	w.unary(v >> k)
	w.put(v&(1<<k-1), k)
}

// gamma writes v ≥ 1.
func (w *bitWriter) gamma(v uint64) {
	n := uint(bits.Len64(v)) - 1
	w.unary(uint64(n))
	w.put(v&(1<<n-1), n)
}

// align fills the last byte with zeros.
func (w *bitWriter) align() {
	if w.fill > 0 {
		w.put(0, 8-w.fill)
	}
}

var errBits = errors.New("bits end early or say more than can be there")

// A bitReader never reads beyond buf: behind its end are zeros, and bad is set.
type bitReader struct {
	buf []byte
	pos int // in bits
	bad bool
}

// peek returns the next 56 bits or more.
func (r *bitReader) peek() uint64 {
	at := r.pos >> 3
	if at+8 <= len(r.buf) {
		return binary.LittleEndian.Uint64(r.buf[at:]) >> (r.pos & 7)
	}
	var last [8]byte
	if at < len(r.buf) {
		copy(last[:], r.buf[at:])
	}
	return binary.LittleEndian.Uint64(last[:]) >> (r.pos & 7)
}

func (r *bitReader) skip(n uint) {
	if r.pos += int(n); r.pos > len(r.buf)*8 {
		r.bad = true
	}
}

func (r *bitReader) get(n uint) uint64 {
	v := r.peek() & (1<<n - 1)
	r.skip(n)
	return v
}

func (r *bitReader) unary() uint64 {
	n := uint64(0)
	for {
		z := uint(bits.TrailingZeros64(r.peek() | 1<<56))
		if z < 56 {
			r.skip(z + 1)
			return n + uint64(z)
		}
		n += 56
		r.skip(56)
		if r.bad {
			return 0
		}
	}
}

func (r *bitReader) rice(k uint) uint64 {
	q := r.unary()
	if q >= 1<<40 {
		r.bad = true
		return 0
	}
	return q<<k | r.get(k)
}

func (r *bitReader) gamma() uint64 {
	n := r.unary()
	if n > 40 {
		r.bad = true
		return 1
	}
	return 1<<n | r.get(uint(n))
}

// codeLimit bounds the bits of a code word.
const codeLimit = 14

// codeLengths gives each symbol with a count the length of its code word: Huffman's, and where a word would be longer than
// codeLimit, Huffman's for the counts halved and rounded up, as often as it takes. One symbol alone has length 0.
// There are at most 1<<codeLimit symbols. Part of the format; never change.
func codeLengths(counts []uint32) []uint8 {
	lengths := make([]uint8, len(counts))
	type leaf struct {
		weight uint64
		symbol int
	}
	var leaves []leaf
	for s, n := range counts {
		if n > 0 {
			leaves = append(leaves, leaf{uint64(n), s})
		}
	}
	n := len(leaves)
	if n < 2 {
		return lengths
	}
	for {
		slices.SortFunc(leaves, func(a, b leaf) int {
			return cmp.Or(cmp.Compare(a.weight, b.weight), cmp.Compare(a.symbol, b.symbol))
		})
		// Nodes 0 … n-1 are the leaves, later ones the joints, both in order of weight; a leaf goes before a joint as heavy.
		weight, parent := make([]uint64, 2*n-1), make([]int, 2*n-1)
		for i, l := range leaves {
			weight[i] = l.weight
		}
		nextLeaf, nextJoint := 0, n
		for joint := n; joint < 2*n-1; joint++ {
			for range 2 {
				pick := nextJoint
				if nextLeaf < n && (nextJoint >= joint || weight[nextLeaf] <= weight[nextJoint]) {
					pick = nextLeaf
					nextLeaf++
				} else {
					nextJoint++
				}
				weight[joint] += weight[pick]
				parent[pick] = joint
			}
		}
		depth := make([]uint8, 2*n-1)
		deepest := uint8(0)
		for i := 2*n - 3; i >= 0; i-- {
			depth[i] = depth[parent[i]] + 1
			deepest = max(deepest, depth[i])
		}
		if deepest <= codeLimit {
			for i, l := range leaves {
				lengths[l.symbol] = depth[i]
			}
			return lengths
		}
		for i := range leaves {
			leaves[i].weight = (leaves[i].weight + 1) / 2
		}
	}
}

// codeWords gives the words of a canonical code: shorter ones first, symbols of one length in their order; the highest bit of a
// word is written first.
func codeWords(lengths []uint8) []uint16 {
	var next [codeLimit + 2]uint32
	for _, n := range lengths {
		if n > 0 {
			next[n+1]++
		}
	}
	code := uint32(0)
	for n := 1; n <= codeLimit; n++ {
		code = (code + next[n]) << 1
		next[n] = code // it held how many words have length n-1
	}
	words := make([]uint16, len(lengths))
	for s, n := range lengths {
		if n > 0 {
			words[s] = bits.Reverse16(uint16(next[n])) >> (16 - n)
			next[n]++
		}
	}
	return words
}

// A code decodes symbols. Its table has, for each value of the next width bits, the symbol and its length.
type code struct {
	width uint
	table []uint32 // symbol<<8 | length
	only  int      // the one symbol of a code that needs no bits; else -1
}

func newCode(counts []uint32) *code {
	c := &code{only: -1}
	lengths := codeLengths(counts)
	for _, n := range lengths {
		c.width = max(c.width, uint(n))
	}
	if c.width == 0 {
		c.only = max(0, slices.IndexFunc(counts, func(n uint32) bool { return n > 0 }))
		return c
	}
	words := codeWords(lengths)
	c.table = make([]uint32, 1<<c.width)
	for s, n := range lengths {
		if n == 0 {
			continue
		}
		for i := int(words[s]); i < len(c.table); i += 1 << n {
			c.table[i] = uint32(s)<<8 | uint32(n)
		}
	}
	return c
}

// decodeAll decodes as many symbols as dst has room for, each with plus added. It is false where there are not so many.
func decodeAll[T uint8 | uint16](c *code, r *bitReader, dst []T, plus T) bool {
	if c.only >= 0 {
		for i := range dst {
			dst[i] = T(c.only) + plus
		}
		return true
	}
	mask := uint64(1)<<c.width - 1
	table := c.table[:mask+1]
	// Eight bytes from any bit on have four words: a word has up to codeLimit bits.
	i, pos := 0, r.pos
	for ; i+4 <= len(dst) && pos>>3+8 <= len(r.buf); i += 4 {
		v := binary.LittleEndian.Uint64(r.buf[pos>>3:]) >> (pos & 7)
		out := dst[i : i+4 : i+4]
		a := table[v&mask]
		v >>= a & 0xff
		b := table[v&mask]
		v >>= b & 0xff
		c := table[v&mask]
		v >>= c & 0xff
		d := table[v&mask]
		out[0], out[1], out[2], out[3] = T(a>>8)+plus, T(b>>8)+plus, T(c>>8)+plus, T(d>>8)+plus
		pos += int(a&0xff + b&0xff + c&0xff + d&0xff)
	}
	r.pos = pos
	for ; i < len(dst); i++ {
		e := table[r.peek()&mask]
		r.skip(uint(e & 0xff))
		dst[i] = T(e>>8) + plus
	}
	return !r.bad && r.pos <= len(r.buf)*8
}
