package tiles

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Report is what a verification of an export found.
type Report struct {
	Checkpoint proof.Checkpoint
	Roots      map[uint64]proof.Hash // that the entries yield at the sizes that were asked for
	Findings   []Finding             // at most maxFindings; none means that it is exactly what the checkpoint covers
	Unread     []string              // files that could not be read, and why: it cannot be told
}

// Finding is one contradiction.
type Finding struct {
	Path string
	What string
}

const maxFindings = 100

// Verify reads an export: every bundle must hold entries, every tile must be what they yield, and the root must be the
// checkpoint's. open verifies the note; it decides whose signature counts. sizes are those at which the caller knows roots.
// progress may be nil.
func Verify(ctx context.Context, fsys vfs.FS, dir string, open func(note []byte) (proof.Checkpoint, error), sizes []uint64, progress func(done, total uint64)) (*Report, error) {
	note, err := vfs.ReadFile(fsys, filepath.Join(dir, CheckpointPath), maxCheckpoint)
	if err != nil {
		return nil, fmt.Errorf("read the export's checkpoint: %w", err)
	}
	v := &verifier{fs: fsys, dir: dir, sizes: map[uint64]bool{}, rep: Report{Roots: map[uint64]proof.Hash{}}}
	for _, n := range sizes {
		v.sizes[n] = true
	}
	c, err := open(note)
	if err != nil {
		v.find(CheckpointPath, err.Error())
		return &v.rep, nil
	}
	v.rep.Checkpoint = c
	v.note(0)
	for first := uint64(0); first < c.Size; first += width {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		v.bundle(first, int(min(width, c.Size-first)))
		if progress != nil && first%(16*width) == 0 {
			progress(first, c.Size)
		}
		if v.broken { // what is above cannot be computed
			return &v.rep, nil
		}
	}
	for level, list := range v.levels {
		if len(list) > 0 {
			v.compare(path(level, v.full[level], len(list)), tile(list))
		}
	}
	if got := rootOf(v.levels[:]); got != c.Root {
		v.find(CheckpointPath, fmt.Sprintf("has root %s, the entries yield %s", c.Root.Base64(), got.Base64()))
	}
	return &v.rep, nil
}

type verifier struct {
	fs     vfs.FS
	dir    string
	sizes  map[uint64]bool
	rep    Report
	levels [maxLevel + 1][]proof.Hash
	full   [maxLevel + 1]uint64
	broken bool
}

func (v *verifier) find(path, what string) {
	if len(v.rep.Findings) < maxFindings {
		v.rep.Findings = append(v.rep.Findings, Finding{path, what})
	}
}

func (v *verifier) bundle(first uint64, n int) {
	name := path(entries, first/width, n)
	data, ok := v.read(name, maxBundle)
	if !ok {
		v.broken = true
		return
	}
	lines, err := splitBundle(data)
	if err == nil && len(lines) != n {
		err = fmt.Errorf("%d entries, want %d", len(lines), n)
	}
	if err != nil {
		v.find(name, err.Error())
		v.broken = true
		return
	}
	var l entry.Line
	for i, line := range lines {
		if err := entry.Decode(line, &l); err != nil {
			v.find(name, fmt.Sprintf("entry %d: %v", first+uint64(i), err))
		} else if l.Index32 != uint32(first+uint64(i)) {
			v.find(name, fmt.Sprintf("entry %d has the id of index %d mod 2^32", first+uint64(i), l.Index32))
		}
		v.add(0, proof.LeafHash(line))
		v.note(first + uint64(i) + 1)
	}
}

// note takes down the root over what was read, if it was asked for.
func (v *verifier) note(size uint64) {
	if v.sizes[size] {
		v.rep.Roots[size] = rootOf(v.levels[:])
	}
}

func (v *verifier) add(level int, h proof.Hash) {
	for ; level <= maxLevel; level++ {
		v.levels[level] = append(v.levels[level], h)
		if len(v.levels[level]) < width {
			return
		}
		v.compare(path(level, v.full[level], width), tile(v.levels[level]))
		h = proof.Root(v.levels[level])
		v.full[level]++
		v.levels[level] = v.levels[level][:0]
	}
}

func (v *verifier) compare(name string, want []byte) {
	if got, ok := v.read(name, width*proof.HashSize); ok && !bytes.Equal(got, want) {
		v.find(name, "is not what the entries yield")
	}
}

func (v *verifier) read(name string, limit int64) ([]byte, bool) {
	data, err := vfs.ReadFile(v.fs, filepath.Join(v.dir, filepath.FromSlash(name)), limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.find(name, "is missing")
	case errors.Is(err, vfs.ErrTooLarge):
		v.find(name, err.Error())
	case err != nil:
		v.rep.Unread = append(v.rep.Unread, err.Error())
	}
	return data, err == nil
}

// splitBundle takes a bundle apart.
func splitBundle(data []byte) (lines [][]byte, err error) {
	for len(data) > 0 {
		if len(lines) == width {
			return nil, fmt.Errorf("more than %d entries", width)
		}
		if len(data) < 2 {
			return nil, errors.New("cut off in a length")
		}
		n := int(binary.BigEndian.Uint16(data))
		if data = data[2:]; n > len(data) {
			return nil, fmt.Errorf("an entry of %d bytes, where %d are left", n, len(data))
		}
		lines = append(lines, data[:n:n])
		data = data[n:]
	}
	return lines, nil
}
