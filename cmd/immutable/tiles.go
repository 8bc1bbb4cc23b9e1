package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// exportTiles writes the log as C2SP tlog-tiles.
func exportTiles(c *call, out string) error {
	return c.withView(func(l view) error {
		bar := c.newProgress("exporting", "entries")
		got, err := l.ExportTiles(c.ctx, out, bar.set)
		bar.end()
		var conflict *immutable.TilesConflictError
		if errors.As(err, &conflict) {
			return evidence("%s: %w", out, err)
		}
		if err != nil {
			return err
		}
		if c.json {
			return c.answer(struct {
				Dir     string `json:"dir"`
				Size    uint64 `json:"size"`
				Written int    `json:"written"`
			}{out, got.Size, got.Written})
		}
		c.out.printf("%s holds %s entries; %s new\n", out, count(got.Size), plural(got.Written, "file"))
		return nil
	})
}

// isTiles says whether the argument is a directory with an export as tiles, and no log.
func isTiles(args []string) bool {
	if len(args) != 1 {
		return false
	}
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(args[0], name))
		return err == nil
	}
	return there("checkpoint") && !there("log.json")
}

// tiles recomputes an export as tiles, and says who has signed its checkpoint.
func (v *fileVerifier) tiles(dir string, o *immutable.VerifyOptions) error {
	r := newFileReport("tiles")
	beside, err := besideFile(r, filepath.Join(dir, "epochs"))
	if err != nil {
		return err
	}
	kept := make([]proof.Checkpoint, 0, len(o.Checkpoints))
	var sizes []uint64
	for _, note := range o.Checkpoints {
		sub := newFileReport("tiles")
		c := v.checkpoint(sub, note, o, beside...)
		r.keep(sub)
		if c != nil {
			kept, sizes = append(kept, *c), append(sizes, c.Size)
		}
	}
	bar := v.c.newProgress("verifying", "entries")
	rep, err := immutable.VerifyTiles(v.c.ctx, dir, func(note []byte) (proof.Checkpoint, error) {
		c := v.checkpoint(r, note, o, beside...)
		if c == nil {
			return proof.Checkpoint{}, errors.New("is no checkpoint of a log")
		}
		return *c, nil
	}, sizes, bar.set)
	bar.end()
	if err != nil {
		return err
	}
	for _, f := range rep.Findings {
		r.Findings = append(r.Findings, f.Path+": "+f.What)
	}
	r.Open = append(r.Open, rep.Unread...)
	r.Entries = int(rep.Checkpoint.Size)
	if len(r.Basis) > 0 {
		r.Covered = rep.Checkpoint.Size
	}
	for _, c := range kept {
		switch root, ok := rep.Roots[c.Size]; {
		case c.Origin != rep.Checkpoint.Origin:
			r.Findings = append(r.Findings, fmt.Sprintf("the checkpoint of size %d that was kept is of %s, the export of %s", c.Size, c.Origin, rep.Checkpoint.Origin))
		case c.Size > rep.Checkpoint.Size:
			r.Open = append(r.Open, fmt.Sprintf("the checkpoint that was kept is of %d entries: the export ends before that", c.Size))
		case !ok: // a finding says where the export cannot be read
		case root != c.Root:
			r.Findings = append(r.Findings, fmt.Sprintf("its first %d entries have the root %s, the checkpoint that was kept says %s", c.Size, root.Base64(), c.Root.Base64()))
		case c.Size > 0:
			r.Covered = max(r.Covered, c.Size)
			r.Basis = append(r.Basis, fmt.Sprintf("the checkpoint of size %d that was kept: its entries are these", c.Size))
		}
	}
	if r.Covered < rep.Checkpoint.Size {
		r.Notes = append(r.Notes, fmt.Sprintf("nothing covers the entries from %d on", r.Covered))
	}
	return v.tell(dir, r)
}
