package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Flush writes what is new at its place, gives higher levels what they lack, shortens files that are longer than they
// should be, and makes all of it durable. The files then are exactly what the format says for Groups() groups.
//
// After an error nothing in memory is lost. A failed write, on a full disk say, may be tried again; after a failed
// sync every further Flush returns that error. What a crash leaves is found when the arrays are compared with the entries.
func (s *Store) Flush() error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if s.failed != nil {
		return fmt.Errorf("flush tree: an earlier sync failed: %w", s.failed)
	}
	s.mu.RLock()
	groups, have, clean, closed := s.groups, s.have, s.clean, s.closed
	// Append only adds behind these, and nothing else changes them while flushMu is held.
	tail := s.tail
	s.mu.RUnlock()
	switch {
	case closed:
		return fs.ErrClosed
	case clean && groups == have[1]:
		return nil
	}
	fl := flush{s: s, groups: groups, dirs: map[string]bool{}}
	if !clean && groups > 0 {
		// A name that exists may have been made by a Flush, or a process, that did not come to make it durable.
		fl.dirs[s.dir], fl.dirs[filepath.Dir(s.path(1))] = true, true
	}
	if err := fl.run(have, tail, clean); err != nil {
		if fl.syncing {
			s.failed = err
		}
		s.mu.Lock()
		s.writer, s.clean = true, false
		s.mu.Unlock()
		return fmt.Errorf("flush tree: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.tail {
		s.tail[i] = append([]proof.Hash(nil), s.tail[i][groups-have[1]:]...)
		s.have[i] = groups
	}
	s.writer, s.clean = true, true
	return nil
}

// flush is one run of Flush.
type flush struct {
	s       *Store
	groups  uint64
	dirty   []vfs.File
	dirs    map[string]bool // directories whose entries changed
	syncing bool
}

func (fl *flush) run(have [numLevels]uint64, tail [2][]proof.Hash, clean bool) error {
	for level := range numLevels {
		want := wholeAt(level, fl.groups)
		if want == 0 {
			if err := fl.remove(level); err != nil {
				return err
			}
			continue
		}
		if clean && want == have[level] {
			continue
		}
		var hashes []proof.Hash
		if level <= 1 {
			hashes = tail[level][:want-have[level]]
		} else {
			hashes = make([]proof.Hash, want-have[level])
			if err := fl.s.read(hashes, level, have[level]); err != nil {
				return err
			}
		}
		if err := fl.write(level, hashes, have[level]); err != nil {
			return err
		}
	}
	fl.syncing = true
	for _, f := range fl.dirty {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
	}
	for dir := range fl.dirs {
		if err := fl.s.fsys.SyncDir(dir); err != nil {
			return fmt.Errorf("sync directory: %w", err)
		}
	}
	return nil
}

// write puts hashes at their place, cuts what stands behind them, and lets readers of higher levels use them.
func (fl *flush) write(level int, hashes []proof.Hash, first uint64) error {
	f, err := fl.open(level)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("read length of %s: %w", fileName(level), err)
	}
	start, end := int64(first*proof.HashSize), int64((first+uint64(len(hashes)))*proof.HashSize)
	if size < start {
		// A write here would leave a hole of zeros.
		return &TileError{File: fileName(level), Offset: size, Length: start - size, Err: errShrunk}
	}
	if len(hashes) > 0 {
		buf := make([]byte, 0, end-start)
		for i := range hashes {
			buf = append(buf, hashes[i][:]...)
		}
		if _, err := f.WriteAt(buf, start); err != nil {
			return fmt.Errorf("write %s: %w", fileName(level), err)
		}
	}
	if size > end {
		if err := f.Truncate(end); err != nil {
			return fmt.Errorf("truncate %s: %w", fileName(level), err)
		}
	}
	fl.dirty = append(fl.dirty, f)
	if level > 1 {
		fl.s.mu.Lock()
		fl.s.have[level] = first + uint64(len(hashes))
		fl.s.mu.Unlock()
	}
	return nil
}

var errShrunk = errors.New("the file became shorter: somebody else changed it; rebuild it")

// open returns a level's file for writing and makes it, and the directory tree, where they are missing.
func (fl *flush) open(level int) (vfs.File, error) {
	s := fl.s
	s.mu.RLock()
	now := s.files[level]
	s.mu.RUnlock()
	if now != nil && now.writable {
		return now, nil
	}
	name := s.path(level)
	f, err := s.fsys.OpenRW(name)
	if errors.Is(err, fs.ErrNotExist) {
		dir := filepath.Dir(name)
		if level != chainLevel {
			err := s.fsys.Mkdir(dir, dirPerm)
			if err == nil {
				fl.dirs[s.dir] = true
			} else if !errors.Is(err, fs.ErrExist) {
				return nil, fmt.Errorf("make directory tree: %w", err)
			}
		}
		fl.dirs[dir] = true
		f, err = s.fsys.Create(name, filePerm)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", fileName(level), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now != nil {
		s.old = append(s.old, now)
	}
	s.files[level] = &storeFile{f, true}
	return f, nil
}

// remove makes sure that a level that holds nothing has no file.
func (fl *flush) remove(level int) error {
	s := fl.s
	s.mu.Lock()
	if f := s.files[level]; f != nil {
		s.old = append(s.old, f)
		s.files[level] = nil
	} else if s.clean {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	name := s.path(level)
	err := s.fsys.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", fileName(level), err)
	}
	fl.dirs[filepath.Dir(name)] = true
	return nil
}
