package index

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

// The hashed index maps the 40-bit hash of a token to the groups that have it. It answers for tokens that are there without
// exception; for one that is not there it names groups with a chance of about 2^-fingerprint a segment.
const (
	hashBits    = 40
	groupBits   = 24 // of a pair
	bucketKeys  = 64 // on average
	fingerprint = 4  // bits of a hash beyond those that place it
	maxCheck    = 12 // further bits, of hashes with many groups
)

// A pair is a token's hash and a group that has it: hash<<groupBits | group.
type pair uint64

// sortPairs sorts pairs; scratch is at least as long. The result is one of the two.
func sortPairs(p, scratch []pair) []pair {
	const digit, digits = 10, hashBits / 10
	scratch = scratch[:len(p)]
	var counts [digits][1 << digit]uint32
	for _, x := range p {
		hash := x >> groupBits
		for d := range counts {
			counts[d][hash&(1<<digit-1)]++
			hash >>= digit
		}
	}
	for d := range counts {
		count, shift := &counts[d], uint(groupBits+d*digit)
		at := uint32(0)
		for i, n := range count {
			count[i], at = at, at+n
		}
		for _, x := range p {
			d := x >> shift & (1<<digit - 1)
			scratch[count[d]] = x
			count[d]++
		}
		p, scratch = scratch, p
	}
	// By their hashes only: the groups of most hashes came in order.
	for from := 0; from < len(p); {
		to, sorted := from+1, true
		for ; to < len(p) && p[to]>>groupBits == p[from]>>groupBits; to++ {
			sorted = sorted && p[to-1] <= p[to]
		}
		if !sorted {
			slices.Sort(p[from:to])
		}
		from = to
	}
	return p
}

// buckets is how many buckets so many keys have.
func buckets(keys uint32) uint32 { return keys/bucketKeys + 1 }

// position is the bucket of a hash, and its place in it.
func position(hash uint64, buckets uint32) (bucket uint32, rest uint64) {
	const cell = bucketKeys << fingerprint
	hi, _ := bits.Mul64(hash<<(64-hashBits), uint64(buckets)*cell)
	return uint32(hi / cell), hi % cell
}

// checkBits is how many low bits of its hash stand before a list of n groups.
func checkBits(n uint32) uint { return min(uint(bits.Len32(n))+1, maxCheck) }

// gapBits is the Rice parameter of the gaps between n of so many groups.
func gapBits(n, groups uint32) uint {
	return uint(max(bits.Len64(uint64(groups)*11/(uint64(n)*16)), 1)) - 1
}

// appendHashed appends the directory and the buckets of sorted pairs, and returns how many keys they have. Equal pairs count
// once.
func appendHashed(dst []byte, pairs []pair, groups uint32) ([]byte, uint32) {
	keys := uint32(0)
	for i := range pairs {
		if i == 0 || pairs[i]>>groupBits != pairs[i-1]>>groupBits {
			keys++
		}
	}
	n := buckets(keys)
	directory := len(dst)
	dst = append(dst, make([]byte, 4*(n+1))...)
	data := len(dst)
	w := bitWriter{buf: dst}
	var list []uint32
	at := 0
	for b := range n {
		binary.LittleEndian.PutUint32(w.buf[directory+int(4*b):], uint32(len(w.buf)-data))
		end, count := at, uint64(0)
		for end < len(pairs) {
			if got, _ := position(uint64(pairs[end]>>groupBits), n); got != b {
				break
			}
			if end == at || pairs[end]>>groupBits != pairs[end-1]>>groupBits {
				count++
			}
			end++
		}
		w.gamma(count + 1)
		last := uint64(0)
		for at < end {
			hash := uint64(pairs[at] >> groupBits)
			list = list[:0]
			for ; at < end && uint64(pairs[at]>>groupBits) == hash; at++ {
				if g := uint32(pairs[at] & (1<<groupBits - 1)); len(list) == 0 || list[len(list)-1] != g {
					list = append(list, g)
				}
			}
			_, rest := position(hash, n)
			w.rice(rest-last, fingerprint)
			last = rest
			w.groups(hash, list, groups)
		}
		w.align()
	}
	binary.LittleEndian.PutUint32(w.buf[directory+int(4*n):], uint32(len(w.buf)-data))
	return w.buf, keys
}

// groups writes a list of groups and the check bits before it.
func (w *bitWriter) groups(hash uint64, list []uint32, groups uint32) {
	n := uint32(len(list))
	w.gamma(uint64(n))
	if n == 1 {
		w.put(uint64(list[0]), groupWidth(groups))
		return
	}
	check := checkBits(n)
	w.put(hash&(1<<check-1), check)
	if n > groups/4 {
		next := 0
		for g := range groups {
			in := next < len(list) && list[next] == g
			if in {
				next++
			}
			w.put(uint64(b2i(in)), 1)
		}
		return
	}
	k := gapBits(n, groups)
	last := uint32(0)
	for _, g := range list {
		w.rice(uint64(g-last), k)
		last = g + 1
	}
}

// groupWidth is how many bits the number of a group takes.
func groupWidth(groups uint32) uint { return uint(bits.Len32(groups - 1)) }

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A Set is a set of groups of a segment, one bit a group.
type Set []uint64

// NewSet is an empty set of groups 0 … groups-1.
func NewSet(groups uint32) Set { return make(Set, (groups+63)/64) }

// Has says whether g is in the set.
func (s Set) Has(g uint32) bool { return s[g/64]>>(g%64)&1 != 0 }

// Add adds g.
func (s Set) Add(g uint32) { s[g/64] |= 1 << (g % 64) }

// with is the set with g added, grown where it must.
func (s Set) with(g uint32) Set {
	for len(s) <= int(g/64) {
		s = append(s, 0)
	}
	s.Add(g)
	return s
}

// All yields the groups in order.
func (s Set) All() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(uint32(64*i + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// And keeps what is also in o.
func (s Set) And(o Set) {
	for i := range s {
		s[i] &= o[i]
	}
}

// Without takes out what is in o.
func (s Set) Without(o Set) {
	for i := range o {
		s[i] &^= o[i]
	}
}

// Fill adds groups 0 … groups-1.
func (s Set) Fill(groups uint32) {
	for i := range groups / 64 {
		s[i] = ^uint64(0)
	}
	if groups%64 > 0 {
		s[groups/64] |= 1<<(groups%64) - 1
	}
}

// Or adds what is in o.
func (s Set) Or(o Set) {
	for i := range o {
		s[i] |= o[i]
	}
}

// Len is how many groups are in the set.
func (s Set) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// findHashed adds to set the groups that a bucket has for hash.
func findHashed(bucket []byte, hash uint64, buckets, groups uint32, set Set) error {
	r := bitReader{buf: bucket}
	_, want := position(hash, buckets)
	count := r.gamma() - 1
	if count > uint64(len(bucket))*8 {
		return errBits
	}
	rest := uint64(0)
	for range count {
		rest += r.rice(fingerprint)
		if rest > want && !r.bad {
			return nil
		}
		if err := r.groups(hash, rest == want, groups, set); err != nil {
			return err
		}
	}
	return nil
}

// groups reads a list and adds it to set if it is wanted and the check bits are the hash's.
func (r *bitReader) groups(hash uint64, wanted bool, groups uint32, set Set) error {
	n := r.gamma()
	if n > uint64(groups) || r.bad {
		return errBits
	}
	if n == 1 {
		g := uint32(r.get(groupWidth(groups)))
		if g >= groups || r.bad {
			return errBits
		}
		if wanted {
			set.Add(g)
		}
		return nil
	}
	check := checkBits(uint32(n))
	wanted = r.get(check) == hash&(1<<check-1) && wanted
	if uint32(n) > groups/4 {
		return r.bitmap(groups, wanted, set)
	}
	k := gapBits(uint32(n), groups)
	next := uint64(0)
	for range n {
		next += r.rice(k)
		if next >= uint64(groups) || r.bad {
			return errBits
		}
		if wanted {
			set.Add(uint32(next))
		}
		next++
	}
	return nil
}

func (r *bitReader) bitmap(groups uint32, wanted bool, set Set) error {
	if !wanted {
		if r.skip(uint(groups)); r.bad {
			return errBits
		}
		return nil
	}
	for g := uint32(0); g < groups; g += 32 {
		n := min(groups-g, 32)
		set[g/64] |= r.get(uint(n)) << (g % 64)
	}
	if r.bad {
		return errBits
	}
	return nil
}

// bucketRange reads where a bucket is from two numbers of the directory.
func bucketRange(two []byte, length int64) (from, to int64, err error) {
	from, to = int64(binary.LittleEndian.Uint32(two)), int64(binary.LittleEndian.Uint32(two[4:]))
	if from > to || to > length {
		return 0, 0, fmt.Errorf("a bucket at %d to %d of %d bytes", from, to, length)
	}
	return from, to, nil
}
