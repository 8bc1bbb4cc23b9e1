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

// Source is a log. Everything that it returns it has proven against its tree; it is safe for concurrent use.
type Source interface {
	// Note is the signed checkpoint that the tiles shall have, and what it says.
	Note() (note []byte, c proof.Checkpoint, err error)
	// Epochs is the chain of keys that leads to those that signed any Note returned before; empty where the keys were never changed.
	Epochs() ([]byte, error)
	// RootAt is the root over the first size entries, size at most that of any Note.
	RootAt(ctx context.Context, size uint64) (proof.Hash, error)
	// Lines are the entries first, first+1 … of one bundle: n of them, all of them at most that of any Note. first is a multiple
	// of 256. The slices may be kept.
	Lines(ctx context.Context, first uint64, n int) ([][]byte, error)
	// Hashes are n hashes over 256^level leaves each, from number first on, a multiple of 256.
	Hashes(ctx context.Context, level int, first uint64, n int) ([]proof.Hash, error)
}

// ConflictError says that a directory holds an export that this log contradicts, or that was damaged: nothing of it is replaced.
type ConflictError struct {
	Path string // of the file, in the export
	What string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s: %s; export into another directory, or find out with `immutable verify` which of the two was changed", e.Path, e.What)
}

// Exported says what an export holds now.
type Exported struct {
	Size    uint64 // of its checkpoint
	Written int    // files that were new
}

// chunk is how many entries one full tile of level 1 is over: an export that was cut short goes on behind the last of them.
const chunk = width * width

// Export writes the log into dir, which is made if there is none, or brings the export that is in it up to date. Files are
// written whole and durable, a tile after everything below it, the checkpoint last; so after a crash the export is the old one,
// and the next goes on where this one stopped. A file that is there with other contents is a *ConflictError. progress may be nil.
func Export(ctx context.Context, fsys vfs.FS, dir string, src Source, progress func(done, total uint64)) (*Exported, error) {
	note, c, err := src.Note()
	if err != nil {
		return nil, err
	}
	x := &exporter{fs: fsys, dir: dir, src: src, made: map[string]bool{}}
	if err := x.compare(ctx, &c); err != nil {
		return nil, err
	}
	next, err := x.resume(ctx, c.Size)
	if err != nil {
		return nil, err
	}
	for next < c.Size {
		n := int(min(width, c.Size-next))
		if err := x.bundle(ctx, next, n); err != nil {
			return nil, err
		}
		if next += uint64(n); progress != nil && next%(16*width) == 0 {
			progress(next, c.Size)
		}
	}
	if err := x.edge(); err != nil {
		return nil, err
	}
	if got := x.root(); got != c.Root {
		return nil, fmt.Errorf("export: the entries yield root %s at size %d, the checkpoint has %s", got.Base64(), c.Size, c.Root.Base64())
	}
	if err := x.mkdir(dir); err != nil {
		return nil, err
	}
	if err := x.epochs(); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, CheckpointPath)
	if err := vfs.WriteAtomic(fsys, name+".new", name, note, 0o644); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return &Exported{Size: c.Size, Written: x.written}, nil
}

// exporter is one Export. levels are the hashes at the right edge of each level, fewer than 256.
type exporter struct {
	fs      vfs.FS
	dir     string
	src     Source
	made    map[string]bool // directories that are there
	levels  [maxLevel + 1][]proof.Hash
	full    [maxLevel + 1]uint64 // tiles of the level before them
	written int
}

// compare holds the log to the checkpoint that is in the directory.
func (x *exporter) compare(ctx context.Context, c *proof.Checkpoint) error {
	data, err := vfs.ReadFile(x.fs, filepath.Join(x.dir, CheckpointPath), maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text, _, found := bytes.Cut(data, []byte("\n\n"))
	old, err := proof.ParseCheckpoint(string(text) + "\n")
	switch {
	case !found || err != nil:
		return &ConflictError{CheckpointPath, "is no checkpoint"}
	case old.Origin != c.Origin:
		return &ConflictError{CheckpointPath, fmt.Sprintf("is of %s, the log is %s", old.Origin, c.Origin)}
	case old.Size > c.Size:
		return &ConflictError{CheckpointPath, fmt.Sprintf("has %d entries, the log's has %d", old.Size, c.Size)}
	}
	root, err := x.src.RootAt(ctx, old.Size)
	if err != nil {
		return err
	}
	if root != old.Root {
		return &ConflictError{CheckpointPath, fmt.Sprintf("has root %s at size %d, the log has %s", old.Root.Base64(), old.Size, root.Base64())}
	}
	return nil
}

const maxCheckpoint = 64 << 10

// EpochsPath is where the chain of keys lies, for clients that pinned the first keys. C2SP tlog-tiles does not know it.
const EpochsPath = "epochs"

// maxEpochs is the most bytes of a chain of keys that are read.
const maxEpochs = 1 << 30

// epochs writes the chain of keys, which only ever grows.
func (x *exporter) epochs() error {
	chain, err := x.src.Epochs()
	if err != nil {
		return err
	}
	name := filepath.Join(x.dir, EpochsPath)
	old, err := vfs.ReadFile(x.fs, name, maxEpochs)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case !bytes.HasPrefix(chain, old):
		return &ConflictError{EpochsPath, "is there, and not how the log's chain of keys begins"}
	case len(chain) == len(old):
		return nil
	}
	if err := vfs.WriteAtomic(x.fs, name+".new", name, chain, 0o644); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// resume takes over the full tiles of level 1 that are there, with what is below them, and returns the next entry. The log's
// root at that size proves them.
func (x *exporter) resume(ctx context.Context, size uint64) (next uint64, err error) {
	for ; next+chunk <= size; next += chunk {
		name := path(1, next/chunk, width)
		data, err := vfs.ReadFile(x.fs, filepath.Join(x.dir, filepath.FromSlash(name)), width*proof.HashSize)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return 0, err
		}
		if len(data) != width*proof.HashSize {
			return 0, &ConflictError{name, fmt.Sprintf("has %d bytes, want %d", len(data), width*proof.HashSize)}
		}
		if err := x.add(2, proof.Root(hashes(data))); err != nil {
			return 0, err
		}
	}
	if next == 0 {
		return 0, nil
	}
	x.full[0], x.full[1] = next/width, next/chunk
	root, err := x.src.RootAt(ctx, next)
	if err != nil {
		return 0, err
	}
	if got := x.root(); got != root {
		return 0, &ConflictError{"tile/1", fmt.Sprintf("yields root %s for the first %d entries, the log has %s", got.Base64(), next, root.Base64())}
	}
	return next, nil
}

// bundle writes a bundle and adds its leaves.
func (x *exporter) bundle(ctx context.Context, first uint64, n int) error {
	lines, err := x.src.Lines(ctx, first, n)
	if err != nil {
		return err
	}
	data, err := bundle(lines)
	if err != nil {
		return fmt.Errorf("export: entries from %d on: %w", first, err)
	}
	if err := x.write(path(entries, first/width, n), data); err != nil {
		return err
	}
	for _, line := range lines {
		if err := x.add(0, proof.LeafHash(line)); err != nil {
			return err
		}
	}
	return nil
}

// add adds a hash to a level. A tile that is full is written, and its root goes to the next level.
func (x *exporter) add(level int, h proof.Hash) error {
	for {
		x.levels[level] = append(x.levels[level], h)
		if len(x.levels[level]) < width {
			return nil
		}
		if err := x.write(path(level, x.full[level], width), tile(x.levels[level])); err != nil {
			return err
		}
		h = proof.Root(x.levels[level])
		x.full[level]++
		x.levels[level] = x.levels[level][:0]
		if level++; level > maxLevel {
			return errors.New("export: more entries than a tree can have")
		}
	}
}

// edge writes the tiles that are not full.
func (x *exporter) edge() error {
	for level, list := range x.levels {
		if len(list) == 0 {
			continue
		}
		if err := x.write(path(level, x.full[level], len(list)), tile(list)); err != nil {
			return err
		}
	}
	return nil
}

func (x *exporter) root() proof.Hash { return rootOf(x.levels[:]) }

// rootOf is the root of a tree whose right edge these hashes are, fewer than 256 at each level: those of a level, and after them
// what is smaller, make the tree over them.
func rootOf(levels [][]proof.Hash) proof.Hash {
	var below []proof.Hash // none, or the root over all lower levels
	for _, list := range levels {
		if all := append(append([]proof.Hash(nil), list...), below...); len(all) > 0 {
			below = []proof.Hash{proof.Root(all)}
		}
	}
	if below == nil {
		return proof.EmptyRoot()
	}
	return below[0]
}

// write writes a file that is not there. One that is there must be the same.
func (x *exporter) write(name string, data []byte) error {
	full := filepath.Join(x.dir, filepath.FromSlash(name))
	old, err := vfs.ReadFile(x.fs, full, maxBundle)
	if err == nil {
		if !bytes.Equal(old, data) {
			return &ConflictError{name, "is there, and not what the log has"}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := x.mkdir(filepath.Dir(full)); err != nil {
		return err
	}
	if err := vfs.WriteAtomic(x.fs, full+".new", full, data, 0o644); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	x.written++
	return nil
}

func (x *exporter) mkdir(dir string) error {
	if x.made[dir] {
		return nil
	}
	if err := vfs.MkdirAll(x.fs, dir, 0o755); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	x.made[dir] = true
	return nil
}

// maxBundle is the most that a bundle takes.
const maxBundle = width * (2 + entry.MaxLine)

// bundle is entries with their lengths: two bytes each, big endian.
func bundle(lines [][]byte) ([]byte, error) {
	n := 0
	for _, line := range lines {
		n += 2 + len(line)
	}
	out := make([]byte, 0, n)
	for _, line := range lines {
		if len(line) > entry.MaxLine {
			return nil, fmt.Errorf("an entry of %d bytes, at most %d", len(line), entry.MaxLine)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(line))), line...)
	}
	return out, nil
}

func tile(list []proof.Hash) []byte {
	out := make([]byte, 0, len(list)*proof.HashSize)
	for _, h := range list {
		out = append(out, h[:]...)
	}
	return out
}

func hashes(data []byte) []proof.Hash {
	list := make([]proof.Hash, len(data)/proof.HashSize)
	for i := range list {
		copy(list[i][:], data[i*proof.HashSize:])
	}
	return list
}
