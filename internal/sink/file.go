package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

const (
	defaultRotate = 64 << 20
	fileSuffix    = ".jsonl"
	indexDigits   = 20
	maxTail       = 4 << 20 // bytes in which the last whole line must begin
)

// fileWriter appends events to files in one directory. A file is named by the index of its first entry; the newest is written
// to, the others never again. A batch is on the disk when send returns.
type fileWriter struct {
	fs     vfs.FS
	dir    string
	rotate int64
	keep   int

	f    vfs.File
	name string // of the newest file; "" before it was looked for, or where there is none
	size int64  // of it, as far as it is synced
}

// lastWritten opens the newest file, cuts what a crash left of a line, and says which entry is the last.
func (w *fileWriter) lastWritten(origin string) (index uint64, leaf string, found bool, err error) {
	names, err := w.names()
	if err != nil || len(names) == 0 {
		return 0, "", false, err
	}
	for i := len(names) - 1; i >= 0; i-- {
		line, err := w.lastLine(names[i], i == len(names)-1)
		if err != nil {
			return 0, "", false, fmt.Errorf("read %s: %w", w.path(names[i]), err)
		}
		if line == nil {
			continue // it was made just before a crash
		}
		m, ok := export.MarkOf(line)
		if !ok || m.Origin != origin {
			return 0, "", false, &stalledError{fmt.Sprintf("%s was written by something else, or from another log than %s: move it away", w.path(names[i]), origin)}
		}
		return m.Index, m.Leaf, true, nil
	}
	return 0, "", false, nil
}

// lastLine is a file's last whole line; nil where there is none. With keep the file stays open to be appended to, and what follows the
// line is cut: it was never said to be delivered.
func (w *fileWriter) lastLine(name string, keep bool) (line []byte, err error) {
	f, err := w.fs.OpenRW(w.path(name))
	if err != nil {
		return nil, err
	}
	defer func() {
		if w.f != f {
			_ = f.Close()
		}
	}()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(size, maxTail))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == 0 && size > int64(len(tail)) {
		return nil, fmt.Errorf("its last %d bytes are no line of a sink", len(tail))
	}
	if keep {
		whole := size - int64(len(tail)-end)
		if whole < size {
			if err := errors.Join(f.Truncate(whole), f.Sync()); err != nil {
				return nil, err
			}
		}
		w.f, w.name, w.size = f, name, whole
	}
	if end == 0 {
		return nil, nil
	}
	return tail[bytes.LastIndexByte(tail[:end-1], '\n')+1 : end-1], nil
}

func (w *fileWriter) send(_ context.Context, b *batch) error {
	var out []byte
	for _, e := range b.events {
		out = append(append(out, e.data...), '\n')
	}
	limit := w.rotate
	if limit == 0 {
		limit = defaultRotate
	}
	if w.f == nil && w.name != "" { // a write has failed: what it left is cut
		if err := w.reopen(); err != nil {
			return err
		}
	}
	if w.f == nil || w.size > 0 && w.size+int64(len(out)) > limit {
		if err := w.begin(b.first()); err != nil {
			return err
		}
	}
	_, err := w.f.WriteAt(out, w.size)
	if err == nil {
		err = w.f.Sync()
	}
	if err != nil {
		_ = w.f.Close()
		w.f = nil
		return fmt.Errorf("write %s: %w", w.path(w.name), err)
	}
	w.size += int64(len(out))
	return nil
}

// reopen opens the file that a write has failed in, as it was before that write.
func (w *fileWriter) reopen() error {
	f, err := w.fs.OpenRW(w.path(w.name))
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(w.size), f.Sync()); err != nil {
		_ = f.Close()
		return err
	}
	w.f = f
	return nil
}

// begin makes a new file, and removes the oldest where there are more than are kept.
func (w *fileWriter) begin(first uint64) error {
	if err := vfs.MkdirAll(w.fs, w.dir, 0o700); err != nil {
		return err
	}
	name := fmt.Sprintf("%0*d%s", indexDigits, first, fileSuffix)
	f, err := w.fs.Create(w.path(name), 0o600)
	if errors.Is(err, fs.ErrExist) { // what was left of a try that failed
		if info, serr := w.fs.Stat(w.path(name)); serr == nil && info.Size > 0 {
			return &stalledError{fmt.Sprintf("%s is there already: move it away", w.path(name))}
		}
		f, err = w.fs.OpenRW(w.path(name))
	}
	if err != nil {
		return err
	}
	if err := w.fs.SyncDir(w.dir); err != nil {
		_ = f.Close()
		return err
	}
	w.close()
	w.f, w.name, w.size = f, name, 0
	if w.keep == 0 {
		return nil
	}
	names, err := w.names()
	if err != nil {
		return err
	}
	for _, old := range names[:max(0, len(names)-w.keep)] {
		if err := w.fs.Remove(w.path(old)); err != nil {
			return err
		}
	}
	return nil
}

// names are the files, the oldest first.
func (w *fileWriter) names() ([]string, error) {
	all, err := w.fs.ReadDir(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := slices.DeleteFunc(all, func(n string) bool {
		digits, ok := strings.CutSuffix(n, fileSuffix)
		return !ok || len(digits) != indexDigits || strings.Trim(digits, "0123456789") != ""
	})
	return names, err
}

func (w *fileWriter) path(name string) string { return filepath.Join(w.dir, name) }

func (w *fileWriter) unsure() (uint64, bool) { return 0, false }

func (w *fileWriter) close() {
	if w.f != nil {
		_ = w.f.Close()
		w.f = nil
	}
}
