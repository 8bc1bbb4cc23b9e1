package immutable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// sealedLog has two sealed segments and an open one.
func sealedLog(t *testing.T) (*Log, *vfstest.Disk) {
	t.Helper()
	d := vfstest.New()
	l, err := Open(diskDir, sealedConfig(d))
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	all := variedEvents(1700)
	for i := 0; i < len(all); i += 100 {
		_, err := l.Append(context.Background(), all[i:i+100]...)
		must(t, err)
		if i == 600 || i == 1400 {
			must(t, l.Rotate(context.Background()))
		}
	}
	return l, d
}

// sealedConfig rotates on demand only.
func sealedConfig(d *vfstest.Disk) *Config {
	cfg := diskConfig(d, newClock())
	cfg.RotateSize = 1 << 40
	return cfg
}

// searchFiles are the search indexes and seals of a log.
func searchFiles(t *testing.T, d *vfstest.Disk) map[string][]byte {
	t.Helper()
	files := allFiles(t, d, diskDir+"/"+indexDir)
	for name := range files {
		if strings.HasSuffix(name, segment.IndexSuffix) {
			delete(files, name)
		}
	}
	if len(files) != 4 {
		t.Fatalf("%d files, want two search indexes and two seals", len(files))
	}
	return files
}

// withoutIndexes asks a few queries, of which the answers must be want's, and says how many segments were searched without an index.
func withoutIndexes(t *testing.T, l *Log, want [][]uint64) (answers [][]uint64, lacking int) {
	t.Helper()
	for i, text := range []string{"failed", `"failed login" OR ok:true`, "user.name:user-7", "NOT took", "level:AUDIT"} {
		var x Explain
		got := indexesOf(searchAll(t, l, Query{Text: text, Explain: &x}))
		answers = append(answers, got)
		if want != nil && !slices.Equal(got, want[i]) {
			t.Errorf("%s: got %d entries, want %d", text, len(got), len(want[i]))
		}
		c, err := l.Count(context.Background(), Query{Text: text})
		if err != nil || c.N != uint64(len(got)) {
			t.Errorf("%s: counted %d of %d, %v", text, c.N, len(got), err)
		}
		lacking = max(lacking, x.WithoutIndex)
	}
	return answers, lacking
}

func TestRebuildMakesSearchIndexesAgain(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, l *Log, d *vfstest.Disk, names []string) (lacking int){
		"missing": func(t *testing.T, _ *Log, d *vfstest.Disk, names []string) int {
			must(t, d.Remove(names[0]))
			return 1
		},
		"altered": func(t *testing.T, _ *Log, d *vfstest.Disk, names []string) int {
			for _, name := range names {
				data, err := d.ReadFileRaw(name)
				must(t, err)
				data = slices.Clone(data)
				data[100] ^= 4
				must(t, d.WriteFileRaw(name, data))
			}
			return 2
		},
		"of the other segment": func(t *testing.T, _ *Log, d *vfstest.Disk, names []string) int {
			data, err := d.ReadFileRaw(names[1])
			must(t, err)
			must(t, d.WriteFileRaw(names[0], data))
			return 1
		},
		"sealed before there were any": func(t *testing.T, l *Log, d *vfstest.Disk, names []string) int {
			for _, name := range names {
				must(t, d.Remove(name))
				name = strings.TrimSuffix(name, segment.SearchSuffix) + segment.SealSuffix
				note, err := d.ReadFileRaw(name)
				must(t, err)
				text, err := l.openSeal(note)
				must(t, err)
				seal, err := index.ParseSeal(text)
				must(t, err)
				seal.SearchLen = 0
				note, err = l.signSeal(seal.Text())
				must(t, err)
				must(t, d.WriteFileRaw(name, note))
			}
			return 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, d := sealedLog(t)
			before := searchFiles(t, d)
			want, lacking := withoutIndexes(t, l, nil)
			if lacking > 0 {
				t.Fatalf("%d segments have no index to begin with", lacking)
			}
			var names []string
			for name := range before {
				if strings.HasSuffix(name, segment.SearchSuffix) {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			missing := damage(t, l, d, names)
			must(t, l.Close())
			l, err := Open(diskDir, sealedConfig(d))
			must(t, err)
			defer l.Close()
			if _, lacking := withoutIndexes(t, l, want); lacking != missing {
				t.Errorf("%d segments were searched without an index, want %d", lacking, missing)
			}
			_, err = l.Rebuild(context.Background(), nil)
			must(t, err)
			if _, lacking := withoutIndexes(t, l, want); lacking > 0 {
				t.Errorf("%d segments have no index after the rebuild", lacking)
			}
			for name, data := range searchFiles(t, d) {
				if strings.HasSuffix(name, segment.SearchSuffix) && !bytes.Equal(data, before[name]) {
					t.Errorf("%s was rebuilt with other bytes", name)
				}
			}
		})
	}
}

// TestDamagedPageOfSearchIndexIsNoError: it is noticed when a query comes to it, and the segment's entries are read.
func TestDamagedPageOfSearchIndexIsNoError(t *testing.T) {
	d := vfstest.New()
	l, err := Open(diskDir, sealedConfig(d))
	must(t, err)
	defer l.Close()
	// Many groups, and a dictionary of some pages, so that queries read streams on pages of their own.
	all := variedEvents(8 * 256)
	for i := range all {
		all[i].Metadata["long"] = strings.Repeat(fmt.Sprintf("value %d ", i%100), 8)
	}
	for i := 0; i < len(all); i += 256 {
		_, err := l.Append(context.Background(), all[i:i+256]...)
		must(t, err)
	}
	must(t, l.Rotate(context.Background()))
	want, _ := withoutIndexes(t, l, nil)
	noticed := 0
	for name, data := range allFiles(t, d, diskDir+"/"+indexDir) {
		if !strings.HasSuffix(name, segment.SearchSuffix) {
			continue
		}
		pages := (len(data) + 4096 + 31) / (4096 + 32)
		if pages < 4 {
			t.Fatalf("%s has %d pages, want some beside the first", name, pages)
		}
		for page := 1; page < pages; page++ {
			bad := slices.Clone(data)
			bad[page*4096+7] ^= 1
			must(t, d.WriteFileRaw(name, bad))
			for _, s := range l.segments {
				s.forgetIndexes()
			}
			_, lacking := withoutIndexes(t, l, want)
			noticed += lacking
			for _, by := range []string{"level", "ok", "user.name"} {
				got, err := l.CountBy(context.Background(), Query{}, by)
				must(t, err)
				verified, err := l.CountBy(context.Background(), Query{Verified: true}, by)
				must(t, err)
				if !slices.Equal(got.Rows, verified.Rows) {
					t.Errorf("%s, page %d: by %s %v, want %v", name, page, by, got.Rows, verified.Rows)
				}
			}
		}
		must(t, d.WriteFileRaw(name, data))
	}
	if noticed == 0 {
		t.Error("no query came to a damaged page")
	}
}

// TestUnreadableSearchIndexIsNoError: answers come from the entries then.
func TestUnreadableSearchIndexIsNoError(t *testing.T) {
	l, d := sealedLog(t)
	want, _ := withoutIndexes(t, l, nil)
	for _, s := range l.segments {
		s.forgetIndexes()
	}
	d.SetFail(func(op vfstest.Op) error {
		if strings.HasSuffix(op.Name, segment.SearchSuffix) {
			return errors.New("this disk does not read")
		}
		return nil
	})
	defer d.SetFail(nil)
	if _, lacking := withoutIndexes(t, l, want); lacking != 2 {
		t.Errorf("%d segments were searched without an index, want 2", lacking)
	}
}

// TestSegmentsAreLetGo opens more segments than are kept, and then none for a while, in which opened looks twice. It does not sleep in a
// bubble: decoders of archives outlive one.
func TestSegmentsAreLetGo(t *testing.T) {
	l, _ := sealedLog(t)
	withoutIndexes(t, l, nil)
	for i := range openSegments + 10 {
		s := &segmentFile{search: l.segments[i%2].search}
		l.opened.keep(s)
		if n, _ := kept(l); n > openSegments || !s.kept.Load() {
			t.Fatalf("%d segments are kept, the newest: %t", n, s.kept.Load())
		}
	}
	l.opened.release()
	withoutIndexes(t, l, nil)
	l.opened.release()
	if n, open := kept(l); n != 3 || open != 4 { // of the open one, what was remembered
		t.Fatalf("%d segments are kept beside reads of three, %d files of theirs", n, open)
	}
	l.opened.release()
	if n, open := kept(l); n > 0 || open > 0 {
		t.Fatalf("%d segments are kept without reads, %d files", n, open)
	}
	if withoutIndexes(t, l, nil); l.opened.idle == nil || !l.opened.idle.Stop() {
		t.Error("nothing looks again after a while")
	}
}

// kept says how many segments are among those of which something is kept, and how many archives and search indexes are open.
func kept(l *Log) (segments, open int) {
	for _, s := range l.segments {
		s.archiveMu.Lock()
		s.searchMu.Lock()
		if s.archive != nil {
			open++
		}
		if s.search != nil {
			open++
		}
		s.searchMu.Unlock()
		s.archiveMu.Unlock()
	}
	l.opened.mu.Lock()
	defer l.opened.mu.Unlock()
	return len(l.opened.list), open
}

// TestSegmentsAreLetGoWhileTheyAreRead by several goroutines, with the race detector.
func TestSegmentsAreLetGoWhileTheyAreRead(t *testing.T) {
	l, _ := sealedLog(t)
	want, _ := withoutIndexes(t, l, nil)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range rounds(3, 100) {
				withoutIndexes(t, l, want)
			}
		})
	}
	done := make(chan struct{})
	go func() { readers.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return
		default:
			l.opened.release()
			runtime.Gosched()
		}
	}
}
