package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// maxDifferences is how many differences of one file a Comparison keeps; the rest is counted.
const maxDifferences = 16

// A Difference is one place where a file is not what the entries say it must be.
type Difference struct {
	File      string // relative to the log's directory, with slashes
	Offset    int64  // in bytes
	What      string // "hash", "length", "name"
	Got, Want string // two hashes in hex, or what the lengths are and must be
}

// A Comparison compares the files of the arrays with what the entries give, group by group, in constant memory. It reads the
// files by itself and shares no state with a Store.
type Comparison struct {
	dir    string
	fsys   vfs.FS
	groups uint64
	levels [numLevels]comparedLevel
	diffs  []Difference
	more   uint64
}

type comparedLevel struct {
	f      vfs.File // nil: there is none
	size   int64
	first  uint64       // number of the first hash in want
	want   []proof.Hash // the tile that fills up
	differ uint64
}

// Compare opens the arrays in the directory of a log for a comparison. Close it after Finish.
func Compare(fsys vfs.FS, dir string) (*Comparison, error) {
	c := &Comparison{dir: dir, fsys: fsys}
	for level := range c.levels {
		l := &c.levels[level]
		f, err := fsys.Open(filepath.Join(dir, filepath.FromSlash(fileName(level))))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			l.f = f
			l.size, err = f.Size()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open %s: %w", fileName(level), err), c.Close())
		}
	}
	return c, nil
}

// Add says what the next group's root and the chain hash after it must be. An error means that a file could not be read.
func (c *Comparison) Add(group, chain proof.Hash) error {
	c.groups++
	if err := c.add(chainLevel, chain); err != nil {
		return err
	}
	return c.add(1, group)
}

func (c *Comparison) add(level int, h proof.Hash) error {
	l := &c.levels[level]
	l.want = append(l.want, h)
	if len(l.want) < GroupSize {
		return nil
	}
	if level != chainLevel {
		if err := c.add(level+1, proof.Root(l.want)); err != nil {
			return err
		}
	}
	return c.compare(level)
}

// compare takes the hashes that wait at a level to what the file has of them.
func (c *Comparison) compare(level int) error {
	l := &c.levels[level]
	n := 0
	if inFile := uint64(l.size) / proof.HashSize; inFile > l.first {
		n = int(min(inFile-l.first, uint64(len(l.want))))
	}
	got := make([]proof.Hash, n)
	if n > 0 {
		if err := readHashes(l.f, got, level, l.first); err != nil {
			return err
		}
	}
	for i := range got {
		if got[i] != l.want[i] {
			c.differ(level, int64((l.first+uint64(i))*proof.HashSize), "hash", got[i].String(), l.want[i].String())
		}
	}
	l.first += uint64(len(l.want))
	l.want = l.want[:0]
	return nil
}

func (c *Comparison) differ(level int, offset int64, what, got, want string) {
	l := &c.levels[level]
	if l.differ++; l.differ > maxDifferences {
		c.more++
		return
	}
	c.diffs = append(c.diffs, Difference{fileName(level), offset, what, got, want})
}

// Finish compares the rest and the lengths: each file must hold at least what so many groups need and at most what Add
// was told, and nothing else may be in tree/. It returns the differences, and how many more there are of the same kinds.
func (c *Comparison) Finish(need uint64) (diffs []Difference, more uint64, err error) {
	for level := range c.levels {
		if err := c.compare(level); err != nil {
			return nil, 0, err
		}
		l := &c.levels[level]
		least := int64(wholeAt(level, need) * proof.HashSize)
		most := int64(wholeAt(level, c.groups) * proof.HashSize)
		length := fmt.Sprintf("%d bytes", l.size)
		switch {
		case l.f == nil && least > 0:
			c.differ(level, 0, "length", "no such file", fmt.Sprintf("at least %d bytes", least))
		case l.f == nil:
		case l.size == 0:
			c.differ(level, 0, "length", "an empty file", "no file, or at least one hash")
		case l.size < least:
			c.differ(level, l.size, "length", length, fmt.Sprintf("at least %d bytes", least))
		case l.size > most:
			c.differ(level, most, "length", length, fmt.Sprintf("at most %d bytes", most))
		case l.size%proof.HashSize != 0:
			c.differ(level, l.size-l.size%proof.HashSize, "length", length, fmt.Sprintf("a multiple of %d bytes", proof.HashSize))
		}
	}
	names, err := c.fsys.ReadDir(filepath.Join(c.dir, "tree"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("list tree: %w", err)
	}
	for _, name := range names {
		if n, err := strconv.Atoi(name); err != nil || n < 1 || n > maxLevel || strconv.Itoa(n) != name {
			c.diffs = append(c.diffs, Difference{"tree/" + name, 0, "name", strconv.Quote(name), fmt.Sprintf("a number from 1 to %d", maxLevel)})
		}
	}
	return c.diffs, c.more, nil
}

// Close closes the files.
func (c *Comparison) Close() error {
	var errs []error
	for level := range c.levels {
		if f := c.levels[level].f; f != nil {
			errs = append(errs, f.Close())
			c.levels[level].f = nil
		}
	}
	return errors.Join(errs...)
}
