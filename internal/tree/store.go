package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	// chainLevel stands for the file chain in the arrays that are indexed by level; level L ≥ 1 is the file tree/L.
	chainLevel = 0
	// maxLevel is the highest level that sizes up to proof.MaxSize can have: 256^7 leaves are 2^56, 256^8 would be 2^64.
	maxLevel  = 7
	numLevels = maxLevel + 1

	filePerm = 0o600
	dirPerm  = 0o700
)

// A Store holds the hash arrays of one log: tree/1, tree/2 … and chain, on disk plus a suffix in memory that is not flushed yet.
// It trusts nothing that it reads: what comes out of Group, Chain and Frontier is as good as the files are; a [View]
// ties it to a root that is trusted.
//
// One goroutine at a time may call Append, Flush, Cut and Rebuild (Append may overlap Flush); everything else may be
// called by any number of goroutines beside it.
type Store struct {
	fsys  vfs.FS
	dir   string
	cache tileCache

	// flushMu is held through a Flush, Cut or Rebuild: the files change under one of them at a time.
	flushMu sync.Mutex
	// failed is the error of a sync, after which nothing is known about what the disk has: the Store writes no more.
	// Guarded by flushMu.
	failed error

	// mu makes the state below one consistent picture; no file is read or written under it, only opened and closed.
	mu     sync.RWMutex
	groups uint64                // known on disk and in memory
	have   [numLevels]uint64     // hashes that may be read from the file; have[0] = have[1] = the groups on disk
	tail   [2][]proof.Hash       // chain hashes and group roots have[0] … groups-1, by level
	files  [numLevels]*storeFile // nil when there is none
	old    []vfs.File            // handles that readers may still use, until Close
	clean  bool                  // the files are as long as have says, durably, and no level lacks anything
	writer bool                  // changed something, so that the files no longer say what there is
	closed bool
}

type storeFile struct {
	vfs.File
	writable bool
}

// OpenStore opens the arrays in the directory of a log for reading; the first Flush opens them for writing. Files that
// are missing count as empty, and a part of a hash at a file's end is ignored.
func OpenStore(fsys vfs.FS, dir string) (*Store, error) {
	s := &Store{fsys: fsys, dir: dir}
	if err := s.Refresh(); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Refresh takes notice of what the writer in another process has flushed since. It changes nothing in a Store that is
// itself written to.
func (s *Store) Refresh() error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fs.ErrClosed
	}
	if s.writer {
		return nil
	}
	var counts [numLevels]uint64
	for level := range numLevels {
		if s.files[level] == nil {
			f, err := s.fsys.Open(s.path(level))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("open %s: %w", fileName(level), err)
			}
			s.files[level] = &storeFile{File: f}
		}
		n, err := s.files[level].Size()
		if err != nil {
			return fmt.Errorf("read length of %s: %w", fileName(level), err)
		}
		counts[level] = uint64(n) / proof.HashSize
	}
	s.groups = min(counts[chainLevel], counts[1])
	for level := range numLevels {
		s.have[level] = min(counts[level], wholeAt(level, s.groups))
	}
	return nil
}

// wholeAt returns how many hashes the file of a level holds when there are so many groups.
func wholeAt(level int, groups uint64) uint64 {
	if level <= 1 {
		return groups
	}
	return groups >> (8 * (level - 1))
}

// fileName returns a level's file relative to the log's directory, with slashes.
func fileName(level int) string {
	if level == chainLevel {
		return "chain"
	}
	return "tree/" + strconv.Itoa(level)
}

func (s *Store) path(level int) string {
	return filepath.Join(s.dir, filepath.FromSlash(fileName(level)))
}

// Groups returns how many groups, from the first on, have both their root and their chain hash here.
func (s *Store) Groups() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.groups
}

// Append adds the next group's root and the chain hash after its last entry, in memory only.
func (s *Store) Append(group, chain proof.Hash) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writer = true
	s.tail[1] = append(s.tail[1], group)
	s.tail[chainLevel] = append(s.tail[chainLevel], chain)
	s.groups++
}

// Group returns the root of group k as the arrays have it.
func (s *Store) Group(k uint64) (proof.Hash, error) {
	return s.one(1, k)
}

// Chain returns the chain hash after group k's last entry as the arrays have it.
func (s *Store) Chain(k uint64) (proof.Hash, error) {
	return s.one(chainLevel, k)
}

func (s *Store) one(level int, k uint64) (proof.Hash, error) {
	var h [1]proof.Hash
	if err := s.read(h[:], level, k); err != nil {
		return proof.Hash{}, err
	}
	return h[0], nil
}

// read fills dst with the hashes first, first+1 … of a level: from memory what is not flushed, from the file what is in
// it, and what a higher level lacks is computed from the level below. A file that is shorter than it was is a *TileError.
func (s *Store) read(dst []proof.Hash, level int, first uint64) error {
	end := first + uint64(len(dst))
	s.mu.RLock()
	have, known := s.have[level], wholeAt(level, s.groups)
	if level <= 1 && end > have && end <= known {
		from := max(first, have)
		copy(dst[from-first:], s.tail[level][from-have:end-have])
	}
	f, closed := s.files[level], s.closed
	s.mu.RUnlock()
	switch {
	case closed:
		return fs.ErrClosed
	case end > known:
		return fmt.Errorf("read hash %d of %s: only %d are known", end-1, fileName(level), known)
	}
	onDisk := 0
	if have > first {
		onDisk = int(min(end, have) - first)
		if err := readHashes(f, dst[:onDisk], level, first); err != nil {
			return err
		}
	}
	if level <= 1 {
		return nil
	}
	var below [GroupSize]proof.Hash
	for i := onDisk; i < len(dst); i++ {
		if err := s.read(below[:], level-1, (first+uint64(i))*GroupSize); err != nil {
			return err
		}
		dst[i] = proof.Root(below[:])
	}
	return nil
}

func readHashes(f io.ReaderAt, dst []proof.Hash, level int, first uint64) error {
	buf := make([]byte, len(dst)*proof.HashSize)
	off := int64(first * proof.HashSize)
	n, err := f.ReadAt(buf, off)
	if n < len(buf) {
		if errors.Is(err, io.EOF) {
			return &TileError{File: fileName(level), Offset: off, Length: int64(len(buf)), Err: io.ErrUnexpectedEOF}
		}
		return fmt.Errorf("read %s at offset %d: %w", fileName(level), off, err)
	}
	for i := range dst {
		copy(dst[i][:], buf[i*proof.HashSize:])
	}
	return nil
}

// Frontier returns the state of the tree after so many whole groups, as the arrays have it.
func (s *Store) Frontier(groups uint64) (*Frontier, error) {
	edges, err := s.readEdges(groups)
	if err != nil {
		return nil, err
	}
	f := edges.frontier(groups)
	if groups > 0 {
		if f.group, err = s.Group(groups - 1); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// edges is the right edge of the arrays: edges[L] has the hashes of level L that no hash of level L+1 covers, fewer than 256.
type edges [numLevels][]proof.Hash

func (s *Store) readEdges(groups uint64) (*edges, error) {
	if known := s.Groups(); groups > known {
		return nil, fmt.Errorf("tree of %d groups: only %d are known", groups, known)
	}
	var e edges
	for level := 1; level < numLevels; level++ {
		n := wholeAt(level, groups)
		e[level] = make([]proof.Hash, n%GroupSize)
		if err := s.read(e[level], level, n-n%GroupSize); err != nil {
			return nil, err
		}
	}
	return &e, nil
}

// frontier returns the state that the edges describe. Bit b of the number of hashes at level L is bit 8L+b of the size.
func (e *edges) frontier(groups uint64) *Frontier {
	f := &Frontier{size: groups * GroupSize}
	for level := 1; level < numLevels; level++ {
		rest := e[level]
		for b := groupLevel - 1; b >= 0; b-- {
			if len(rest)>>b&1 == 1 {
				f.peaks[groupLevel*level+b] = proof.Root(rest[:1<<b])
				rest = rest[1<<b:]
			}
		}
	}
	return f
}

// Cut forgets groups from there on, whether they are flushed or not; the next Flush shortens the files, also of the higher
// levels. Groups that stay keep what the files say of them: see Rebuild.
func (s *Store) Cut(groups uint64) {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reopen()
	if groups >= s.groups {
		return
	}
	s.groups = groups
	kept := uint64(0)
	if groups > s.have[1] {
		kept = groups - s.have[1]
	}
	for i := range s.tail {
		// A copy, so that what is cut does not stay in memory.
		s.tail[i] = append([]proof.Hash(nil), s.tail[i][:kept]...)
	}
	for level := range numLevels {
		s.have[level] = min(s.have[level], wholeAt(level, groups))
	}
}

// Rebuild forgets tree/2 and above; the next Flush writes them again from tree/1. It is linear in the number of groups.
func (s *Store) Rebuild() {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reopen()
	for level := 2; level < numLevels; level++ {
		s.have[level] = 0
	}
}

// reopen makes the next Flush open the files by their names and look at their lengths again: what made the caller distrust
// them may have replaced them. mu and flushMu are held.
func (s *Store) reopen() {
	s.writer, s.clean = true, false
	for _, f := range s.files {
		if f != nil {
			f.writable = false
		}
	}
}

// Close closes the files. What was not flushed is lost, which costs a recovery its time and nothing else.
func (s *Store) Close() error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for level, f := range s.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
		s.files[level] = nil
	}
	for _, f := range s.old {
		errs = append(errs, f.Close())
	}
	s.old = nil
	return errors.Join(errs...)
}
