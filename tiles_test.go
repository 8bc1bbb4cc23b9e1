package immutable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/tiles"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

// tiledLog is a log on a fake disk with n entries, sealed segments among them, and a checkpoint over all.
func tiledLog(t *testing.T, disk *vfstest.Disk, n int) *Log {
	t.Helper()
	l, err := Open(diskDir, diskConfig(disk, newClock()))
	if err != nil {
		t.Fatal(err)
	}
	for first := 0; first < n; first += 8192 {
		if _, err := l.Append(context.Background(), events(first, min(8192, n-first))...); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.publisher.publish(true); err != nil {
		t.Fatal(err)
	}
	return l
}

// What is served is what an export writes, and both are the log's entries and its tree, through sealed and open segments.
func TestTilesAreTheLogs(t *testing.T) {
	for _, n := range []int{0, 1, 700, 66_000} {
		disk := vfstest.New()
		l := tiledLog(t, disk, n)
		out := filepath.Join(t.TempDir(), "out")
		onDisk := exportToDisk(t, l, out)
		if onDisk.Size != uint64(n) {
			t.Fatalf("%d entries are exported, want %d", onDisk.Size, n)
		}
		rep, err := VerifyTiles(context.Background(), out, l.OpenCheckpoint, []uint64{uint64(n)}, nil)
		root, size := l.Root()
		if err != nil || len(rep.Findings) > 0 || rep.Checkpoint.Size != size || rep.Roots[size] != root {
			t.Fatalf("%d entries: %+v, %v", n, rep, err)
		}
		server := httptest.NewServer(l.TilesHandler())
		files := 0
		err = filepath.WalkDir(out, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			want, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(out, path)
			if err != nil {
				return err
			}
			got := fetch(t, server.URL+"/"+filepath.ToSlash(name))
			if string(got) != string(want) {
				return fmt.Errorf("%s: served are %d bytes, exported %d, and they differ", name, len(got), len(want))
			}
			return nil
		})
		if err != nil || n > 0 && files < 3 {
			t.Errorf("%d entries, %d files: %v", n, files, err)
		}
		server.Close()
		if n > 0 {
			checkBundle(t, l, filepath.Join(out, "tile", "entries"), n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// exportToDisk exports from the fake disk to a real one.
func exportToDisk(t *testing.T, l *Log, out string) *TilesExport {
	t.Helper()
	got, err := tiles.Export(context.Background(), vfs.OS(), out, tileSource{l}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// checkBundle compares the first bundle with the entries.
func checkBundle(t *testing.T, l *Log, dir string, n int) {
	t.Helper()
	name := filepath.Join(dir, "000")
	if n < 256 {
		name = filepath.Join(dir, "000.p", fmt.Sprint(n))
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(min(n, 256)) {
		e, err := l.Entry(context.Background(), i)
		if err != nil {
			t.Fatal(err)
		}
		size := int(binary.BigEndian.Uint16(data))
		if string(data[2:2+size]) != string(e.Line) {
			t.Fatalf("entry %d of the bundle is another than the log's", i)
		}
		data = data[2+size:]
	}
	if len(data) > 0 {
		t.Errorf("%d bytes after the entries", len(data))
	}
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return data
}

// Nothing leaves unproven: what was changed on the disk is neither exported nor served.
func TestDamagedEntriesAreNotExported(t *testing.T) {
	disk := vfstest.New()
	l := tiledLog(t, disk, 20)
	f, err := disk.OpenRW(diskDir + "/" + openName)
	if err != nil {
		if err := disk.Chmod(diskDir+"/"+openName, 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err = disk.OpenRW(diskDir + "/" + openName); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	n, _ := f.ReadAt(buf, 0)
	at := strings.Index(string(buf[:n]), "event 3")
	if _, err := f.WriteAt([]byte("EVENT"), int64(at)); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if _, err := tiles.Export(context.Background(), vfs.OS(), out, tileSource{l}, nil); err == nil {
		t.Error("damaged entries are exported")
	}
	if names, _ := filepath.Glob(filepath.Join(out, "checkpoint")); len(names) > 0 {
		t.Error("a checkpoint is there")
	}
	server := httptest.NewServer(l.TilesHandler())
	defer server.Close()
	resp, err := http.Get(server.URL + "/tile/entries/000.p/20")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("damaged entries are served: %s", resp.Status)
	}
}

// The cosigned checkpoint is taken where it covers as much as the newest.
func TestTilesHaveTheCosignedCheckpointIfItIsNewEnough(t *testing.T) {
	disk := vfstest.New()
	l := tiledLog(t, disk, 10)
	note, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	cosigned := string(note) + "— w.example.com AAAAAAECAwQ=\n" // by a key that nobody knows here
	put := func(data string) {
		t.Helper()
		f, err := disk.Create(diskDir+"/"+cosignedName, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(data), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	put(cosigned)
	if got, c, err := (tileSource{l}).Note(); err != nil || string(got) != cosigned || c.Size != 10 {
		t.Errorf("got %q, %+v, %v", got, c, err)
	}
	if _, err := l.Append(context.Background(), event(10)); err != nil {
		t.Fatal(err)
	}
	if err := l.publisher.publish(true); err != nil {
		t.Fatal(err)
	}
	if got, c, err := (tileSource{l}).Note(); err != nil || string(got) == cosigned || c.Size != 11 {
		t.Errorf("got %q, %+v, %v", got, c, err)
	}
	var conflict *TilesConflictError
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "checkpoint"), []byte(proof.Checkpoint{Origin: "example.com/x"}.Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tiles.Export(context.Background(), vfs.OS(), out, tileSource{l}, nil); !errors.As(err, &conflict) {
		t.Errorf("another log's export is replaced: %v", err)
	}
}
