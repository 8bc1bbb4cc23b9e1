package immutable

import (
	"errors"
	"fmt"
	"sort"

	"github.com/tree-of-life-system/immutable/internal/index"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

var errNoSearch = errors.New("it was sealed without a search index")

// searchIndex returns the search index of the sealed segment that holds group k, opened and held against its seal; nil where
// there is none to use: then the answer comes from the entries, and `immutable rebuild` makes it again.
func (l *Log) searchIndex(k uint64) *index.Search {
	s := l.segmentOf(k)
	if s == nil {
		return nil
	}
	l.mu.RLock()
	sealed, end := s.kind == archived, s.end
	l.mu.RUnlock()
	if !sealed {
		return nil
	}
	s.searchMu.Lock()
	defer s.searchMu.Unlock()
	if s.search == nil && s.noSearch == nil {
		if s.search, s.noSearch = l.openSearch(s.first, end); s.search == nil && !errors.Is(s.noSearch, errNoSearch) {
			l.logger.Warn("search index not used; searches read the entries, more slowly. `immutable rebuild` makes it again", "first", s.first, "error", s.noSearch)
		}
	}
	if s.search != nil {
		l.opened.keep(s)
	}
	return s.search
}

// segmentOf is the segment that holds group k.
func (l *Log) segmentOf(k uint64) *segmentFile {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > k*tree.GroupSize }) - 1
	if i < 0 {
		return nil
	}
	return l.segments[i]
}

// dropSearch gives up on the search index of the segment that holds group k, which proved damaged.
func (l *Log) dropSearch(k uint64, err error) {
	s := l.segmentOf(k)
	if s == nil {
		return
	}
	s.searchMu.Lock()
	defer s.searchMu.Unlock()
	if s.noSearch == nil {
		s.search, s.noSearch = nil, err
		l.logger.Warn("search index is damaged; searches read the entries, more slowly. `immutable rebuild` makes it again", "first", s.first, "error", err)
	}
}

// openSearch opens a segment's search index and checks what its seal says of it. Its pages are checked when they are read.
func (l *Log) openSearch(first, end uint64) (*index.Search, error) {
	seal, err := l.readSeal(first)
	if err != nil {
		return nil, err
	}
	if seal.SearchLen == 0 {
		return nil, errNoSearch
	}
	name := indexDir + "/" + segment.SearchName(first)
	r := &reopening{fs: l.fs, name: l.path(indexDir, segment.SearchName(first))}
	info, err := l.fs.Stat(r.name)
	if err != nil {
		return nil, err
	}
	if info.Size != seal.SearchLen {
		return nil, fmt.Errorf("%s has %d bytes, its seal says %d", name, info.Size, seal.SearchLen)
	}
	x, err := index.OpenSearch(r, info.Size, seal.Table)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if x.First != first || x.First+uint64(x.Groups)*tree.GroupSize != seal.End || seal.End != end {
		return nil, fmt.Errorf("%s is of entries %d to %d, the seal of %d to %d, the segment of %d to %d", name, x.First, x.First+uint64(x.Groups)*tree.GroupSize, first, seal.End, first, end)
	}
	return x, nil
}

// readSeal reads and opens a segment's seal.
func (l *Log) readSeal(first uint64) (index.Seal, error) {
	note, err := vfs.ReadFile(l.fs, l.path(indexDir, segment.SealName(first)), maxNote)
	if err != nil {
		return index.Seal{}, err
	}
	text, err := l.openSeal(note)
	if err != nil {
		return index.Seal{}, err
	}
	seal, err := index.ParseSeal(text)
	if err != nil {
		return index.Seal{}, err
	}
	if seal.Origin != l.id.Origin || seal.First != first {
		return index.Seal{}, fmt.Errorf("the seal is of %s from %d on", seal.Origin, seal.First)
	}
	return seal, nil
}

// forgetIndexes makes the next reader open a segment's indexes anew.
func (s *segmentFile) forgetIndexes() {
	s.archiveMu.Lock()
	s.index, s.noIndex = nil, false
	s.archiveMu.Unlock()
	s.searchMu.Lock()
	s.search, s.noSearch = nil, nil
	s.searchMu.Unlock()
	s.seen.forget()
}
