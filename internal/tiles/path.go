// Package tiles writes, serves and verifies a log in the form of C2SP tlog-tiles: what clients of transparency logs read.
//
// It makes tiles from what a Source has proven, and checks them without one. A tile of level L holds 256 hashes over
// 256^L leaves each, or fewer at the right edge; a bundle holds the entries under one tile of level 0.
package tiles

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
)

const (
	width    = 256 // hashes in a full tile, entries in a full bundle
	entries  = -1  // stands for a level in paths of bundles
	maxLevel = 7   // sizes are below 2^63
)

// CheckpointPath is where the checkpoint is. It names the size that the tiles have.
const CheckpointPath = "checkpoint"

// path is the path of a tile, or with level entries of a bundle. w is the number of hashes or entries in it.
func path(level int, n uint64, w int) string {
	name := "tile/entries/"
	if level != entries {
		name = fmt.Sprintf("tile/%d/", level)
	}
	digits := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		digits = fmt.Sprintf("x%03d/", n%1000) + digits
	}
	if w == width {
		return name + digits
	}
	return fmt.Sprintf("%s%s.p/%d", name, digits, w)
}

// parsePath reads what path writes, and nothing else.
func parsePath(p string) (level int, n uint64, w int, ok bool) {
	rest, found := strings.CutPrefix(p, "tile/")
	kind, rest, found2 := strings.Cut(rest, "/")
	if !found || !found2 || len(p) > 100 {
		return 0, 0, 0, false
	}
	if level = entries; kind != "entries" {
		l, err := strconv.ParseUint(kind, 10, 8)
		if err != nil || l > maxLevel {
			return 0, 0, 0, false
		}
		level = int(l)
	}
	w = width
	if number, part, partial := strings.Cut(rest, ".p/"); partial {
		parsed, err := strconv.ParseUint(part, 10, 8)
		if err != nil || parsed < 1 || parsed >= width {
			return 0, 0, 0, false
		}
		rest, w = number, int(parsed)
	}
	digits := strings.ReplaceAll(strings.ReplaceAll(rest, "/", ""), "x", "")
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || path(level, n, w) != p {
		return 0, 0, 0, false
	}
	return level, n, w, true
}

// count is how many hashes a level has in a tree of the given size; of entries, how many there are.
func count(level int, size uint64) uint64 {
	if level == entries {
		return size
	}
	return size >> (8 * level)
}

// Paths are the files of an export of the first size entries, but for the checkpoint and the chain of keys, and how many entries
// each holds. What lies below a tile comes before it.
func Paths(size uint64) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for first := uint64(0); first < size; first += width {
			n := min(width, size-first)
			if !yield(path(entries, first/width, int(n)), int(n)) || !yield(path(0, first/width, int(n)), 0) {
				return
			}
			// A tile above is full with the last entry below it. Those of the highest level never are.
			for level, end := 1, first+n; level < maxLevel && end%(1<<(8*(level+1))) == 0; level++ {
				if !yield(path(level, end>>(8*(level+1))-1, width), 0) {
					return
				}
			}
		}
		for level := 1; level <= maxLevel; level++ {
			hashes := count(level, size)
			if part := int(hashes % width); part > 0 && !yield(path(level, hashes/width, part), 0) {
				return
			}
		}
	}
}
