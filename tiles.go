package immutable

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/tiles"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// TilesExport says what an export as tiles holds now.
type TilesExport = tiles.Exported

// TilesReport is what VerifyTiles found.
type TilesReport = tiles.Report

// TilesFinding is one contradiction in an export: the file, and what is wrong with it.
type TilesFinding = tiles.Finding

// TilesConflictError says that a directory holds an export that the log contradicts: nothing of it is replaced.
type TilesConflictError = tiles.ConflictError

// ExportTiles writes the log into dir as C2SP tlog-tiles, or brings what an earlier export left there up to date: tiles and
// bundles of entries, each proven before it is written, the chain of keys (`epochs`), and last the newest cosigned checkpoint, or the newest, if that covers
// more. It goes on where one that was cut short stopped. It refuses a directory whose export this log contradicts
// (*TilesConflictError). progress may be nil.
func (l *Log) ExportTiles(ctx context.Context, dir string, progress func(done, total uint64)) (*TilesExport, error) {
	return tiles.Export(ctx, l.fs, dir, tileSource{l}, progress)
}

// TilesHandler serves the log as C2SP tlog-tiles while it grows: checkpoint, tile/ and bundles, at the root of its paths.
// Everything is proven before it leaves.
func (l *Log) TilesHandler() http.Handler {
	return tiles.Handler(tileSource{l}, func(err error) { l.logger.Error("a tile cannot be served", "error", err) })
}

// VerifyTiles reads an export that ExportTiles, or another log of ours, has written: bundles, tiles and root must be what the
// checkpoint says. open verifies the checkpoint's note and decides whose signature counts; sizes are those at which the caller
// wants the roots that the entries yield. progress may be nil.
func VerifyTiles(ctx context.Context, dir string, open func(note []byte) (proof.Checkpoint, error), sizes []uint64, progress func(done, total uint64)) (*TilesReport, error) {
	return tiles.Verify(ctx, vfs.OS(), dir, open, sizes, progress)
}

// tileSource is the log as the tiles' source.
type tileSource struct{ l *Log }

// Note is the newest cosigned checkpoint if it covers as much as the newest, else that.
func (s tileSource) Note() ([]byte, proof.Checkpoint, error) {
	note, err := s.l.Checkpoint()
	if err != nil {
		return nil, proof.Checkpoint{}, err
	}
	c, err := s.l.openCheckpoint(note)
	if err != nil {
		return nil, c, &CorruptError{File: checkpointName, What: err.Error()}
	}
	cosigned, err := s.l.readCosigned()
	if notExist(err) {
		return note, c, nil
	}
	if err != nil {
		return nil, c, err
	}
	if other, err := s.l.openCheckpoint(cosigned); err == nil && other.Size >= c.Size {
		return cosigned, other, nil
	}
	return note, c, nil
}

func (s tileSource) Epochs() ([]byte, error) { return s.l.KeyChain() }

func (s tileSource) RootAt(ctx context.Context, size uint64) (proof.Hash, error) {
	return s.l.RootAt(ctx, size)
}

// group reads the group that begins with entry first, at least n of it.
func (s tileSource) group(ctx context.Context, first uint64, n int) (*group, error) {
	if n < 1 || n > tree.GroupSize || first%tree.GroupSize != 0 {
		return nil, fmt.Errorf("entries %d and %d more: want a part of a group of %d", first, n, tree.GroupSize)
	}
	g, _, err := s.l.groupOf(ctx, first+uint64(n)-1)
	return g, err
}

func (s tileSource) Lines(ctx context.Context, first uint64, n int) ([][]byte, error) {
	g, err := s.group(ctx, first, n)
	var gone *RetiredError
	if errors.As(err, &gone) {
		return nil, fmt.Errorf("%w: %w", tiles.ErrGone, s.l.whereRetired(ctx, err))
	}
	if err != nil {
		return nil, err
	}
	return g.lines[:n], nil
}

func (s tileSource) Hashes(ctx context.Context, level int, first uint64, n int) ([]proof.Hash, error) {
	if level == 0 {
		g, err := s.group(ctx, first, n)
		var gone *RetiredError
		if errors.As(err, &gone) {
			at, err := s.l.committed()
			if err != nil {
				return nil, err
			}
			return s.l.keptLeaves(gone.First, first/tree.GroupSize, &at)
		}
		if err != nil {
			return nil, err
		}
		return slices.Clone(g.leaves[:n]), nil
	}
	v, _, err := s.l.viewAt(0)
	if err != nil {
		return nil, err
	}
	list, err := v.Tile(level, first/tree.GroupSize)
	if err != nil {
		return nil, err
	}
	if len(list) < n {
		return nil, fmt.Errorf("tile %d of level %d has %d hashes, not %d", first/tree.GroupSize, level, len(list), n)
	}
	return list[:n], nil
}
