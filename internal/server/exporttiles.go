package server

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/internal/tiles"
	"github.com/tree-of-life-system/immutable/proof"
)

// exportTiles sends the whole log as C2SP tlog-tiles in a tar: unpacked, what `immutable export tiles` writes. The checkpoint
// comes last; a directory that has it has everything.
func exportTiles(r *request) error {
	for name := range r.values {
		if name != "format" {
			return fault("bad-parameter", "tiles are the whole log: "+name+" does not go with them")
		}
	}
	if err := r.principal.Allow(tenant.PermTiles, r.tenant.Name(), r.log.Name()); err != nil {
		return err
	}
	return r.export("application/x-tar", ".tar", "tiles", func(ctx context.Context, x *exporter) error {
		return writeTiles(ctx, r.log.Log, x)
	})
}

// writeTiles writes the tar. Each file in it was proven by the log.
func writeTiles(ctx context.Context, l *immutable.Log, x *exporter) error {
	h := l.TilesHandler()
	note, err := tileFile(ctx, h, tiles.CheckpointPath)
	if err != nil {
		return err
	}
	text, _, _ := bytes.Cut(note, []byte("\n\n"))
	c, err := proof.ParseCheckpoint(string(text) + "\n")
	if err != nil {
		return fmt.Errorf("the newest checkpoint: %w", err)
	}
	// Of the note or later: what leads to the keys that signed it is in it.
	chain, err := l.KeyChain()
	if err != nil {
		return err
	}
	w := tar.NewWriter(x)
	put := func(name string, data []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	for name, entries := range tiles.Paths(c.Size) {
		data, err := tileFile(ctx, h, name)
		if err != nil {
			return err
		}
		if err := put(name, data); err != nil {
			return err
		}
		x.entries += uint64(entries)
	}
	if len(chain) > 0 {
		if err := put(tiles.EpochsPath, chain); err != nil {
			return err
		}
	}
	if err := put(tiles.CheckpointPath, note); err != nil {
		return err
	}
	return w.Close()
}

// tileFile asks the log's own handler for one file.
func tileFile(ctx context.Context, h http.Handler, name string) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "/"+name, nil)
	if err != nil {
		return nil, err
	}
	w := &held{header: http.Header{}}
	h.ServeHTTP(w, q)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case w.status == http.StatusNotFound && name == tiles.CheckpointPath:
		return nil, fault("conflict", "the log has no checkpoint yet: it is empty, or has no signatures")
	case w.status != http.StatusOK:
		return nil, fmt.Errorf("%s: %w", name, errors.New(w.body.String()))
	}
	return w.body.Bytes(), nil
}
