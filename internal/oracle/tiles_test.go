package oracle

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tree-of-life-system/immutable"
)

// tiled is a log of a given size, exported and served.
type tiled struct {
	l        *immutable.Log
	dir, out string
	config   *immutable.Config
	verifier note.Verifier // of the log key, which is what clients of tiles know
}

func newTiled(t *testing.T) *tiled {
	t.Helper()
	x := &tiled{dir: t.TempDir(), out: filepath.Join(t.TempDir(), "out")}
	x.config = &immutable.Config{StateDir: t.TempDir(), Origin: "example.com/tiles"}
	return x
}

// grow brings the log to a size with a checkpoint over all of it, and the export up to date. Call close then.
func (x *tiled) grow(t *testing.T, size uint64) {
	t.Helper()
	l, err := immutable.Open(x.dir, x.config)
	if err != nil {
		t.Fatal(err)
	}
	for l.Size() < size {
		batch := make([]immutable.Event, min(8192, size-l.Size()))
		for i := range batch {
			batch[i].Message = fmt.Sprintf("entry %d", l.Size()+uint64(i))
		}
		if _, err := l.Append(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil { // which signs a checkpoint over everything
		t.Fatal(err)
	}
	only := *x.config
	only.ReadOnly = true
	if x.l, err = immutable.Open(x.dir, &only); err != nil {
		t.Fatal(err)
	}
	if x.verifier, err = note.NewVerifier(x.l.VerifierKeys()[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := x.l.ExportTiles(t.Context(), x.out, nil); err != nil || got.Size != size {
		t.Fatalf("exported %+v of %d: %v", got, size, err)
	}
}

func (x *tiled) close(t *testing.T) {
	t.Helper()
	if err := x.l.Close(); err != nil {
		t.Fatal(err)
	}
}

// tree is what the checkpoint in out says, read by x/mod.
func (x *tiled) tree(t *testing.T) tlog.Tree {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(x.out, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(data, note.VerifierList(x.verifier))
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	return c.Tree
}

func leafHashes(data []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(data); err != nil {
		return nil, err
	}
	var out [][]byte
	for _, e := range b.Entries {
		out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
	}
	return out, nil
}

// tessera runs its fsck. On damage its workers may end and leave the rest waiting for ever, so it has a limit of time.
func (x *tiled) tessera(f fsck.Fetcher, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- fsck.New("example.com/tiles", x.verifier, f, leafHashes, fsck.Opts{N: 4}).Check(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// torchwood reads and authenticates all entries, in order.
func (x *tiled) torchwood(tree tlog.Tree, tr torchwood.TileReader, each func(i int64, entry []byte) error) error {
	c, err := torchwood.NewClient(tr, torchwood.WithTimeout(30*time.Second))
	if err != nil {
		return err
	}
	next := int64(0)
	for i, e := range c.AllEntries(context.Background(), tree, 0) {
		if i != next {
			return fmt.Errorf("entry %d came as number %d", i, next)
		}
		if err := each(i, e); err != nil {
			return err
		}
		next++
	}
	if c.Err() != nil {
		return c.Err()
	}
	if next != tree.N {
		return fmt.Errorf("%d of %d entries came", next, tree.N)
	}
	return nil
}

// reader reads tiles of an export for x/mod, whose paths are another dialect.
type reader struct{ dir string }

func (r reader) Height() int { return 8 }

func (r reader) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range tiles {
		b, err := os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(torchwood.TilePath(tile))))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}

// xmod proves every step-th entry, and the first and the last, by the tiles.
func (x *tiled) xmod(tree tlog.Tree, step int64, leaf func(i int64) (tlog.Hash, error)) error {
	hashes := tlog.TileHashReader(tree, reader{x.out})
	if tree.N > 0 {
		root, err := tlog.TreeHash(tree.N, hashes)
		if err != nil || root != tree.Hash {
			return fmt.Errorf("root %v, want %v: %w", root, tree.Hash, err)
		}
	}
	for i := int64(0); i < tree.N; i += step {
		if err := proveOne(tree, hashes, i, leaf); err != nil {
			return err
		}
	}
	if tree.N > 0 {
		return proveOne(tree, hashes, tree.N-1, leaf)
	}
	return nil
}

func proveOne(tree tlog.Tree, hashes tlog.HashReader, i int64, leaf func(i int64) (tlog.Hash, error)) error {
	p, err := tlog.ProveRecord(tree.N, i, hashes)
	if err != nil {
		return err
	}
	h, err := leaf(i)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(p, tree.N, tree.Hash, i, h)
}

func (x *tiled) leaf(t *testing.T) func(i int64) (tlog.Hash, error) {
	return func(i int64) (tlog.Hash, error) {
		e, err := x.l.Entry(t.Context(), uint64(i))
		return tlog.RecordHash(e.Line), err
	}
}

// check holds export and server to the three of them.
func (x *tiled) check(t *testing.T, served bool, step int64) {
	t.Helper()
	tree := x.tree(t)
	if root, size := x.l.Root(); uint64(tree.N) != size || tree.Hash != tlog.Hash(root) {
		t.Fatalf("the checkpoint is of %d entries and %v, the log has %d and %v", tree.N, tree.Hash, size, root)
	}
	if err := x.tessera(client.FileFetcher{Root: x.out}, 2*time.Minute); err != nil {
		t.Errorf("size %d: tessera's fsck of the export: %v", tree.N, err)
	}
	if err := x.xmod(tree, step, x.leaf(t)); err != nil {
		t.Errorf("size %d: x/mod: %v", tree.N, err)
	}
	same := func(i int64, got []byte) error {
		if i%step != 0 {
			return nil
		}
		e, err := x.l.Entry(t.Context(), uint64(i))
		if err != nil || !bytes.Equal(e.Line, got) {
			return fmt.Errorf("entry %d is another: %w", i, err)
		}
		return nil
	}
	if !served {
		files, err := torchwood.NewTileFS(os.DirFS(x.out))
		if err != nil {
			t.Fatal(err)
		}
		if err := x.torchwood(tree, files, same); err != nil {
			t.Errorf("size %d: torchwood: %v", tree.N, err)
		}
		return
	}
	server := httptest.NewServer(x.l.TilesHandler())
	defer server.Close()
	base, err := url.Parse(server.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(base, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.tessera(f, 2*time.Minute); err != nil {
		t.Errorf("size %d: tessera's fsck of the server: %v", tree.N, err)
	}
	fetcher, err := torchwood.NewTileFetcher(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.torchwood(tree, fetcher, same); err != nil {
		t.Errorf("size %d: torchwood of the server: %v", tree.N, err)
	}
}

func TestOthersReadOurTiles(t *testing.T) {
	x := newTiled(t)
	for _, size := range []uint64{0, 1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537} {
		x.grow(t, size)
		x.check(t, true, 1+int64(size)/300)
		x.close(t)
	}
}

func TestOthersReadTilesOfAMillionEntries(t *testing.T) {
	if os.Getenv("IMMUTABLE_LONG") == "" {
		t.Skip("a million entries take a minute: set IMMUTABLE_LONG")
	}
	x := newTiled(t)
	x.grow(t, 1_000_000)
	x.check(t, false, 9973)
	x.close(t)
}

// A flipped byte in any tile or bundle is caught by tessera's fsck; in what they read, by the two others.
func TestOthersCatchEveryFlippedTile(t *testing.T) {
	x := newTiled(t)
	x.grow(t, 700)
	defer x.close(t)
	tree := x.tree(t)
	files, err := torchwood.NewTileFS(os.DirFS(x.out))
	if err != nil {
		t.Fatal(err)
	}
	flips := 0
	err = filepath.WalkDir(filepath.Join(x.out, "tile"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		good, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, at := range []int{0, 1, len(good) / 2, len(good) - 1} {
			bad := bytes.Clone(good)
			bad[at] ^= 1
			if err := os.WriteFile(name, bad, 0o600); err != nil {
				return err
			}
			flips++
			if err := x.tessera(client.FileFetcher{Root: x.out}, 10*time.Second); err == nil {
				t.Errorf("%s, byte %d: tessera's fsck takes it", name, at)
			}
			seen := x.torchwood(tree, files, func(i int64, got []byte) error {
				if e, err := x.l.Entry(t.Context(), uint64(i)); err != nil || !bytes.Equal(e.Line, got) {
					t.Errorf("%s, byte %d: torchwood yields another entry %d", name, at, i)
				}
				return nil
			})
			proven := x.xmod(tree, 7, x.leaf(t))
			if seen == nil && proven == nil {
				t.Errorf("%s, byte %d: neither torchwood nor x/mod notices", name, at)
			}
		}
		return os.WriteFile(name, good, 0o600)
	})
	if err != nil || flips < 16 {
		t.Errorf("%d flips: %v", flips, err)
	}
	if err := x.tessera(client.FileFetcher{Root: x.out}, time.Minute); err != nil {
		t.Errorf("the export as it was: %v", err)
	}
}
