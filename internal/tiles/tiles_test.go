package tiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const origin = "example.com/tiles"

// memory is a log in memory, the naive twin of the engine's side.
type memory struct {
	lines  [][]byte
	leaves []proof.Hash
	size   uint64 // of the checkpoint
	epochs []byte // the chain of keys
	err    error
}

func newMemory(t testing.TB, n int) *memory {
	t.Helper()
	m := &memory{}
	for i := range n {
		line, err := entry.Append(nil, &entry.Event{Message: fmt.Sprintf("entry %d", i)})
		if err != nil {
			t.Fatal(err)
		}
		entry.Patch(line, uint64(i), int64(i)*1e9, 7)
		m.lines = append(m.lines, line)
		m.leaves = append(m.leaves, proof.LeafHash(line))
	}
	m.size = uint64(n)
	return m
}

func (m *memory) Note() ([]byte, proof.Checkpoint, error) {
	c := proof.Checkpoint{Origin: origin, Size: m.size, Root: proof.Root(m.leaves[:m.size])}
	return []byte(c.Text() + "\n"), c, m.err
}

func (m *memory) Epochs() ([]byte, error) { return m.epochs, m.err }

func (m *memory) RootAt(_ context.Context, size uint64) (proof.Hash, error) {
	return proof.Root(m.leaves[:size]), nil
}

func (m *memory) Lines(ctx context.Context, first uint64, n int) ([][]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return m.lines[first : first+uint64(n)], nil
}

func (m *memory) Hashes(_ context.Context, level int, first uint64, n int) (list []proof.Hash, err error) {
	each := uint64(1) << (8 * level)
	for i := range uint64(n) {
		list = append(list, proof.Root(m.leaves[(first+i)*each:(first+i+1)*each]))
	}
	return list, nil
}

func opens(note []byte) (proof.Checkpoint, error) {
	return proof.ParseCheckpoint(strings.TrimSuffix(string(note), "\n"))
}

func files(t *testing.T, disk *vfstest.Disk, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var walk func(string)
	walk = func(at string) {
		names, err := disk.ReadDir(at)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			name := at + "/" + n
			info, err := disk.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if info.Dir {
				walk(name)
				continue
			}
			data, err := vfs.ReadFile(disk, name, maxBundle)
			if err != nil {
				t.Fatal(err)
			}
			out[strings.TrimPrefix(name, dir+"/")] = string(data)
		}
	}
	walk(dir)
	return out
}

// naive is what an export of this size holds, from the definition: for each level and bundle every full one, and the one at
// the edge.
func naive(m *memory) map[string]string {
	out := map[string]string{}
	for level := entries; level <= maxLevel; level++ {
		n := count(level, m.size)
		for first := uint64(0); first < n; first += width {
			w := int(min(width, n-first))
			if level == entries {
				data, _ := bundle(m.lines[first : first+uint64(w)])
				out[path(level, first/width, w)] = string(data)
				continue
			}
			list, _ := m.Hashes(context.Background(), level, first, w)
			out[path(level, first/width, w)] = string(tile(list))
		}
	}
	note, _, _ := m.Note()
	out[CheckpointPath] = string(note)
	return out
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s has %d bytes that differ from the %d of the definition", name, len(got[name]), len(want[name]))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s does not belong there", name)
		}
	}
}

// The chain of keys goes with the tiles, grows with the log's, and is not replaced by another.
func TestExportHasTheChainOfKeys(t *testing.T) {
	m, dir := newMemory(t, 3), t.TempDir()
	export := func() error {
		_, err := Export(context.Background(), vfs.OS(), dir, m, nil)
		return err
	}
	read := func() string {
		data, err := os.ReadFile(filepath.Join(dir, EpochsPath))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, chain := range []string{"", "one\n", "one\ntwo\n", "one\ntwo\n"} {
		m.epochs = []byte(chain)
		if err := export(); err != nil || read() != chain {
			t.Fatalf("chain %q: %q, %v", chain, read(), err)
		}
	}
	var conflict *ConflictError
	for _, chain := range []string{"one\n", "one\nother\nthree\n", ""} {
		m.epochs = []byte(chain)
		if err := export(); !errors.As(err, &conflict) || conflict.Path != EpochsPath || read() != "one\ntwo\n" {
			t.Errorf("chain %q: %q, %v", chain, read(), err)
		}
	}
}

var sizes = []int{0, 1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537}

func TestExportIsWhatTheDefinitionSays(t *testing.T) {
	all := newMemory(t, 65_537)
	for _, n := range sizes {
		m := *all
		m.size = uint64(n)
		disk := vfstest.New()
		got, err := Export(context.Background(), disk, "out", &m, nil)
		if err != nil || got.Size != uint64(n) {
			t.Fatalf("size %d: %+v, %v", n, got, err)
		}
		same(t, files(t, disk, "out"), naive(&m))
		rep, err := Verify(context.Background(), disk, "out", opens, []uint64{0, 1, uint64(n)}, nil)
		if err != nil || len(rep.Findings) > 0 || len(rep.Unread) > 0 || rep.Checkpoint.Size != uint64(n) {
			t.Errorf("size %d: %+v, %v", n, rep, err)
		}
		if rep.Roots[0] != proof.EmptyRoot() || rep.Roots[uint64(n)] != rep.Checkpoint.Root || n > 0 && rep.Roots[1] != all.leaves[0] {
			t.Errorf("size %d: roots %v", n, rep.Roots)
		}
	}
}

func TestPathsAreThoseOfAnExport(t *testing.T) {
	all := newMemory(t, 65_537)
	for _, n := range sizes {
		all.size = uint64(n)
		want := naive(all)
		held := 0
		for name, entries := range Paths(uint64(n)) {
			if _, ok := want[name]; !ok {
				t.Errorf("size %d: %s is not in an export, or twice", n, name)
			}
			delete(want, name)
			held += entries
		}
		delete(want, CheckpointPath)
		if len(want) > 0 || held != n {
			t.Errorf("size %d: %d entries, lacks %v", n, held, slices.Collect(maps.Keys(want)))
		}
		for stop := 1; stop < 20; stop++ { // whoever stops is not asked again
			i := 0
			for range Paths(uint64(n)) {
				if i++; i == stop {
					break
				}
			}
		}
	}
	// The rest of a tree that no test can make.
	i := 0
	for name := range Paths(1 << 16) {
		if i++; i == 513 && name != "tile/1/000" {
			t.Errorf("the last is %s", name)
		}
	}
	if i != 514 {
		t.Errorf("%d files of 65,536 entries", i)
	}
}

// One directory that is exported to again and again is what one export makes, and the partial tiles of the sizes between.
func TestSecondExportAddsOnly(t *testing.T) {
	all := newMemory(t, 65_537)
	disk := vfstest.New()
	want := map[string]string{}
	for _, n := range append(slices.Clone(sizes), 65_537) {
		m := *all
		m.size = uint64(n)
		before := map[string]string{}
		if n > 0 {
			before = files(t, disk, "out")
		}
		got, err := Export(context.Background(), disk, "out", &m, nil)
		if err != nil {
			t.Fatalf("size %d: %v", n, err)
		}
		maps.Copy(want, naive(&m))
		now := files(t, disk, "out")
		same(t, now, want)
		if added := len(now) - len(before); n > 0 && added != got.Written {
			t.Errorf("size %d: %d files are new, said %d", n, added, got.Written)
		}
	}
}

// A crash at any operation leaves an export that verifies, of the old size or the new, or none; the next one finishes it.
func TestExportSurvivesEveryCrash(t *testing.T) {
	all := newMemory(t, 700)
	for seed := range uint64(120) {
		rng := rand.New(rand.NewPCG(seed, 5))
		disk := vfstest.New()
		small, large := *all, *all
		small.size, large.size = rng.Uint64N(600), 700
		if _, err := Export(context.Background(), disk, "out", &small, nil); err != nil {
			t.Fatal(err)
		}
		disk.CutAfter(rng.Uint64N(80))
		_, _ = Export(context.Background(), disk, "out", &large, nil) // the power is cut, or not
		disk = disk.Crash(rng)
		rep, err := Verify(context.Background(), disk, "out", opens, nil, nil)
		if err != nil || len(rep.Findings) > 0 {
			t.Fatalf("seed %d: %+v, %v", seed, rep, err)
		}
		if size := rep.Checkpoint.Size; size != small.size && size != large.size {
			t.Fatalf("seed %d: a checkpoint of size %d", seed, size)
		}
		if _, err := Export(context.Background(), disk, "out", &large, nil); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if rep, err := Verify(context.Background(), disk, "out", opens, nil, nil); err != nil || len(rep.Findings) > 0 || rep.Checkpoint.Size != 700 {
			t.Fatalf("seed %d: %+v, %v", seed, rep, err)
		}
	}
}

// An export that was cut short goes on behind the last full tile of level 1, without asking for what is below it.
func TestExportGoesOnWhereItStopped(t *testing.T) {
	m := newMemory(t, 65_537+256)
	disk := vfstest.New()
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := Export(ctx, disk, "out", m, func(done, _ uint64) {
		if done >= 65_536 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	asked := &counting{memory: m}
	if _, err := Export(context.Background(), disk, "out", asked, nil); err != nil || asked.bundles != 2 {
		t.Errorf("%d bundles were asked for, want 2: %v", asked.bundles, err)
	}
	same(t, files(t, disk, "out"), naive(m))
}

type counting struct {
	*memory
	bundles int
}

func (c *counting) Lines(ctx context.Context, first uint64, n int) ([][]byte, error) {
	c.bundles++
	return c.memory.Lines(ctx, first, n)
}

func put(t *testing.T, disk *vfstest.Disk, name, data string) {
	t.Helper()
	if err := vfs.WriteAtomic(disk, name+".x", name, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestContradictedExportIsRefusedAndLeftAlone(t *testing.T) {
	m := newMemory(t, 65_537)
	for name, c := range map[string]struct {
		size  uint64
		spoil func(files map[string]string) (file, data string)
		path  string
	}{
		"other root": {600, func(f map[string]string) (string, string) {
			c := proof.Checkpoint{Origin: origin, Size: 600}
			return CheckpointPath, c.Text() + "\n"
		}, CheckpointPath},
		"other log": {600, func(f map[string]string) (string, string) {
			return CheckpointPath, strings.Replace(f[CheckpointPath], origin, "example.com/other", 1)
		}, CheckpointPath},
		"ahead": {600, func(f map[string]string) (string, string) {
			return CheckpointPath, proof.Checkpoint{Origin: origin, Size: 70_000}.Text() + "\n"
		}, CheckpointPath},
		"no checkpoint": {600, func(f map[string]string) (string, string) { return CheckpointPath, "hello" }, CheckpointPath},
		"a bundle":      {600, func(f map[string]string) (string, string) { return "tile/entries/001", f["tile/entries/001"] + "x" }, "tile/entries/001"},
		"a tile":        {600, func(f map[string]string) (string, string) { return "tile/0/001", "x" + f["tile/0/001"][1:] }, "tile/0/001"},
		"a tile of level 1": {65_536, func(f map[string]string) (string, string) {
			return "tile/1/000", "x" + f["tile/1/000"][1:]
		}, "tile/1"},
		"a short tile of level 1": {65_536, func(f map[string]string) (string, string) {
			return "tile/1/000", f["tile/1/000"][1:]
		}, "tile/1/000"},
	} {
		disk := vfstest.New()
		old := *m
		old.size = c.size
		if _, err := Export(context.Background(), disk, "out", &old, nil); err != nil {
			t.Fatal(err)
		}
		file, data := c.spoil(files(t, disk, "out"))
		put(t, disk, "out/"+file, data)
		before := files(t, disk, "out")
		_, err := Export(context.Background(), disk, "out", m, nil)
		var conflict *ConflictError
		if !errors.As(err, &conflict) || conflict.Path != c.path {
			t.Errorf("%s: got %v, want a conflict at %s", name, err, c.path)
			continue
		}
		after := files(t, disk, "out")
		for file, want := range before {
			if after[file] != want {
				t.Errorf("%s: %s was changed", name, file)
			}
		}
	}
}

// A source whose entries are not what its checkpoint says gets no checkpoint.
func TestExportHoldsTheSourceToItsCheckpoint(t *testing.T) {
	m := newMemory(t, 300)
	m.leaves[7][0] ^= 1 // of which Note's root is made; Lines give the entry
	disk := vfstest.New()
	if _, err := Export(context.Background(), disk, "out", m, nil); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("got %v", err)
	}
	if _, err := disk.Stat("out/checkpoint"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a checkpoint is there: %v", err)
	}
}

// Every flipped byte, missing byte and missing file of an export is found.
func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	m := newMemory(t, 300)
	disk := vfstest.New()
	if _, err := Export(context.Background(), disk, "out", m, nil); err != nil {
		t.Fatal(err)
	}
	good := files(t, disk, "out")
	refuted := func(name, what string) {
		t.Helper()
		rep, err := Verify(context.Background(), disk, "out", opens, nil, nil)
		if name == CheckpointPath && err != nil {
			return
		}
		if err != nil || len(rep.Findings) == 0 {
			t.Fatalf("%s, %s: %+v, %v", name, what, rep, err)
		}
	}
	for name, data := range good {
		if name == CheckpointPath {
			continue // every byte of it is open's to judge
		}
		step := max(1, len(data)/97)
		for at := 0; at < len(data); at += step {
			bad := []byte(data)
			bad[at] ^= 1 << (at % 8)
			put(t, disk, "out/"+name, string(bad))
			refuted(name, fmt.Sprintf("byte %d flipped", at))
		}
		put(t, disk, "out/"+name, data[:len(data)-1])
		refuted(name, "cut")
		put(t, disk, "out/"+name, data+"x")
		refuted(name, "longer")
		if err := disk.Remove("out/" + name); err != nil {
			t.Fatal(err)
		}
		refuted(name, "missing")
		put(t, disk, "out/"+name, data)
	}
	c, err := opens([]byte(good[CheckpointPath]))
	if err != nil {
		t.Fatal(err)
	}
	c.Root[0] ^= 1
	put(t, disk, "out/checkpoint", c.Text()+"\n")
	refuted(CheckpointPath, "another root")
	rep, err := Verify(context.Background(), disk, "out", func([]byte) (proof.Checkpoint, error) { return c, errors.New("nobody signed it") }, nil, nil)
	if err != nil || len(rep.Findings) != 1 || rep.Findings[0].What != "nobody signed it" {
		t.Errorf("got %+v, %v", rep, err)
	}
}

// Entries that hash to what the tiles say, and are none or stand elsewhere, are found too.
func TestVerifyReadsTheEntries(t *testing.T) {
	for name, spoil := range map[string]func(m *memory){
		"no entry":    func(m *memory) { m.lines[5] = []byte("hello") },
		"other index": func(m *memory) { m.lines[5] = m.lines[6] },
	} {
		m := newMemory(t, 10)
		spoil(m)
		for i, line := range m.lines {
			m.leaves[i] = proof.LeafHash(line)
		}
		disk := vfstest.New()
		if _, err := Export(context.Background(), disk, "out", m, nil); err != nil {
			t.Fatal(err)
		}
		if rep, err := Verify(context.Background(), disk, "out", opens, nil, nil); err != nil || len(rep.Findings) != 1 || !strings.Contains(rep.Findings[0].What, "entry 5") {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
	}
}

// answer is a response whose body was read.
type answer struct {
	StatusCode int
	Header     http.Header
}

func do(t *testing.T, method, url string, header ...string) (answer, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header}, data
}

func get(t *testing.T, url, name string, header ...string) (answer, []byte) {
	t.Helper()
	return do(t, http.MethodGet, url+"/"+name, header...)
}

func TestHandlerServesWhatAnExportHas(t *testing.T) {
	m := newMemory(t, 65_537)
	server := httptest.NewServer(Handler(m, nil))
	defer server.Close()
	for _, n := range []uint64{0, 1, 257, 513, 65_537} {
		m.size = n
		for name, want := range naive(m) {
			if n == 65_537 && strings.HasPrefix(name, "tile/") && !strings.HasSuffix(name, "/000") && !strings.Contains(name, ".p/") {
				continue // the same for each
			}
			resp, got := get(t, server.URL, name)
			if resp.StatusCode != http.StatusOK || string(got) != want {
				t.Errorf("size %d: %s: %d, %d bytes, want %d", n, name, resp.StatusCode, len(got), len(want))
			}
			cache, kind := resp.Header.Get("Cache-Control"), resp.Header.Get("Content-Type")
			if name == CheckpointPath && (cache != keepShort || kind != "text/plain; charset=utf-8") || name != CheckpointPath && (cache != keepForever || kind != "application/octet-stream") {
				t.Errorf("%s: cached %q, type %q", name, cache, kind)
			}
		}
	}
	resp, packed := get(t, server.URL, "tile/entries/000", "Accept-Encoding", "br, gzip;q=0.8")
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(z)
	if want, _ := bundle(m.lines[:256]); err != nil || !bytes.Equal(got, want) || resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("gzip: %v, %v", resp.Header, err)
	}
	for _, header := range []string{"gzip;q=0", "gzip; q=0.0", "br"} {
		if resp, _ := get(t, server.URL, "tile/entries/000", "Accept-Encoding", header); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: compressed", header)
		}
	}
	if resp, _ := get(t, server.URL, "tile/0/000", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("hashes are compressed")
	}
}

func TestHandlerRefusesEverythingElse(t *testing.T) {
	m := newMemory(t, 300)
	var told error
	server := httptest.NewServer(Handler(m, func(err error) { told = err }))
	defer server.Close()
	for _, name := range []string{
		"", "tile", "tile/0", "tile/0/001", "tile/0/001.p/45", "tile/0/002.p/1", "tile/0/001.p/0", "tile/0/000.p/256", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/8/000.p/1",
		"tile/1/000", "tile/1/000.p/2", "tile/entries/001", "tile/entries/x000/000", "tile/0/x001/000", "tile/-1/000", "tile/entries/001.p/045", "tile/0/999999999999999999999",
		"tile/0/x009/x223/x372/x036/x854/x775/807", "../checkpoint", "checkpoint/", "log.json", "tile/0/000/", "tile/2/000.p/1",
	} {
		resp, _ := get(t, server.URL, name)
		if resp.StatusCode != http.StatusNotFound || strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%q: %d, %s", name, resp.StatusCode, resp.Header.Get("Cache-Control"))
		}
	}
	// Fewer hashes than there are is a tile of an earlier size.
	if resp, data := get(t, server.URL, "tile/0/001.p/7"); resp.StatusCode != http.StatusOK || !bytes.Equal(data, tile(m.leaves[256:263])) {
		t.Errorf("an earlier partial tile: %d", resp.StatusCode)
	}
	if resp, _ := do(t, http.MethodPost, server.URL+"/checkpoint"); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %+v", resp)
	}
	if resp, data := do(t, http.MethodHead, server.URL+"/checkpoint"); resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Length") == "" || len(data) > 0 {
		t.Errorf("HEAD: %+v, %d bytes", resp, len(data))
	}
	m.err = errors.New("secret path")
	if resp, data := get(t, server.URL, "checkpoint"); resp.StatusCode != http.StatusInternalServerError || strings.Contains(string(data), "secret") || told != m.err {
		t.Errorf("an error inside: %d %s, told %v", resp.StatusCode, data, told)
	}
	m.err = os.ErrNotExist
	if resp, _ := get(t, server.URL, "checkpoint"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("no checkpoint: %d", resp.StatusCode)
	}
}

func TestPathsAreTheSpecifications(t *testing.T) {
	for want, c := range map[string]struct {
		level int
		n     uint64
		w     int
	}{
		"tile/0/000": {0, 0, 256}, "tile/3/x001/x234/067": {3, 1234067, 256}, "tile/entries/x001/x234/067.p/8": {entries, 1234067, 8},
		"tile/7/999.p/255": {7, 999, 255}, "tile/1/x001/000": {1, 1000, 256}, "tile/0/x009/x223/x372/x036/x854/x775/807": {0, math.MaxInt64, 256},
	} {
		if got := path(c.level, c.n, c.w); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if level, n, w, ok := parsePath(want); !ok || level != c.level || n != c.n || w != c.w {
			t.Errorf("%s reads as %d %d %d %v", want, level, n, w, ok)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("tile/entries/x001/x234/067.p/8")
	f.Add("tile/7/000")
	f.Fuzz(func(t *testing.T, p string) {
		if level, n, w, ok := parsePath(p); ok && path(level, n, w) != p {
			t.Errorf("%q reads as %d %d %d", p, level, n, w)
		}
	})
}

func FuzzSplitBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := splitBundle(data)
		if err != nil {
			return
		}
		if again, err := bundle(lines); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x reads as %q", data, lines)
		}
	})
}

// A bundle holds entries of every length that an entry may have.
func TestBundleReadsBack(t *testing.T) {
	lines := [][]byte{{}, bytes.Repeat([]byte("x"), entry.MaxLine), []byte("y")}
	data, err := bundle(lines)
	if err != nil {
		t.Fatal(err)
	}
	got, err := splitBundle(data)
	if err != nil || !slices.EqualFunc(got, lines, bytes.Equal) {
		t.Errorf("got %d lines, %v", len(got), err)
	}
	if _, err := bundle([][]byte{make([]byte, entry.MaxLine+1)}); err == nil {
		t.Error("an entry that is too long is taken")
	}
	for _, bad := range [][]byte{{0}, {0, 2, 'x'}, make([]byte, 2*(width+1))} {
		if _, err := splitBundle(bad); err == nil {
			t.Errorf("%.10x is a bundle", bad)
		}
	}
}

// On a real disk the names are files and directories as the paths say.
func TestExportToARealDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	m := newMemory(t, 300)
	if _, err := Export(context.Background(), vfs.OS(), dir, m, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range naive(m) {
		if got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name))); err != nil || string(got) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
