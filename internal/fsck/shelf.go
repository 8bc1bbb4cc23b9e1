package fsck

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	maxPending = 4 // part of the format
	// maxListings bounds how often the directories are listed again because a rotation went on meanwhile.
	maxListings = 10
	// maxOpen is how many pending files are held open at most; a log has no more than maxPending.
	maxOpen = 64
)

// A shelf is what segments there are. The raw ones are opened at once: they lose their names when they are sealed.
type shelf struct {
	archives []uint64
	sealed   []onShelf // archives and retired segments, in order
	pending  []*rawFile
	open     *rawFile        // nil when it could not be opened
	derived  map[string]bool // names in index/ that nobody asked for yet
	unlisted bool            // archive/ or pending/ could not be listed: what is missing may be there
}

// onShelf is a sealed segment.
type onShelf struct {
	first   uint64
	archive bool // it is there
	leaves  bool // so is what is kept of a retired segment
}

// A rawFile is an open or pending segment, as long as it was at the beginning.
type rawFile struct {
	name   string
	file   vfs.File
	length int64
	first  uint64
	chain  proof.Hash
	start  int64 // offset of the first batch
	err    error
}

func (s *shelf) close() {
	for _, r := range append(s.pending, s.open) {
		if r != nil && r.file != nil {
			_ = r.file.Close()
		}
	}
	s.pending, s.open = nil, nil
}

// openShelf lists the segments. Sealing moves one from pending to archive, rotation one from immutable.log to pending: a
// listing during which the names changed is done again. index/ is listed last, because a seal is there before its pending
// file goes.
func (c *check) openShelf() {
	s := &c.shelf
	var archives, pending, kept []string
	for range maxListings {
		s.close()
		s.unlisted = false
		archives, pending, kept = c.names("archive"), c.names("pending"), c.names(retiredName)
		for _, name := range pending {
			if first, ok := segment.ParseName(name, segment.PendingSuffix); ok && len(s.pending) < maxOpen {
				s.pending = append(s.pending, c.openRaw("pending/"+name, &first))
			}
		}
		s.open = c.openRaw(openName, nil)
		if slices.Equal(archives, c.names("archive")) && slices.Equal(pending, c.names("pending")) && slices.Equal(kept, c.names(retiredName)) {
			break
		}
	}
	// Once more, for what they are themselves.
	c.list("archive")
	c.list("pending")
	for _, name := range archives {
		if first, ok := segment.ParseName(name, segment.ArchiveSuffix); ok {
			s.archives = append(s.archives, first)
		} else {
			c.strange("archive/" + name)
		}
	}
	c.sortPending(pending)
	c.sortSealed(kept)
	s.derived = map[string]bool{}
	for _, name := range c.list("index") {
		s.derived[name] = true
	}
}

// names is list without findings.
func (c *check) names(dir string) []string {
	err := c.checkKind(c.path(dir), true)
	var names []string
	if err == nil {
		names, err = c.o.FS.ReadDir(c.path(dir))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.shelf.unlisted = true
	}
	return names
}

func (c *check) strange(name string) {
	c.find(Finding{File: name, Offset: -1, Index: -1, What: "is a name that the format does not know"})
}

func (c *check) openRaw(name string, first *uint64) *rawFile {
	r := &rawFile{name: name}
	if first != nil {
		r.first = *first // its place, also when it cannot be opened
	}
	if r.file, r.length, r.err = c.open(name); r.err != nil {
		return r
	}
	r.first, r.chain, r.start, r.err = segment.ReadHeader(r.file, r.length)
	if r.err == nil && first != nil && *first != r.first {
		r.err = &segment.CorruptError{Msg: "the segment line is of another segment than the name", Got: fmt.Sprint(r.first), Want: fmt.Sprint(*first)}
	}
	if r.err != nil && first != nil {
		r.first = *first
	}
	return r
}

// sortPending drops what pending files need no reading.
func (c *check) sortPending(names []string) {
	s := &c.shelf
	for _, name := range names {
		if _, ok := segment.ParseName(name, segment.PendingSuffix); !ok {
			c.strange("pending/" + name)
		}
	}
	s.pending = slices.DeleteFunc(s.pending, func(r *rawFile) bool {
		switch {
		case errors.Is(r.err, fs.ErrNotExist): // sealed between the listing and now
		case r.err == nil && r.first == s.open.first && c.sameFile(r.name, openName):
			c.note(Finding{File: r.name, Offset: -1, Index: int64(r.first), What: "is another name of " + openName + ": a rotation began and did not get further"})
		default:
			return false
		}
		if r.file != nil {
			_ = r.file.Close()
		}
		return true
	})
	if n := len(s.pending); n > maxPending {
		c.find(Finding{File: "pending", Offset: -1, Index: -1, What: "holds more segments than may wait", Got: fmt.Sprint(n), Want: fmt.Sprintf("at most %d", maxPending)})
	}
}

func (c *check) sameFile(a, b string) bool {
	x, err1 := c.o.FS.Stat(c.path(a))
	y, err2 := c.o.FS.Stat(c.path(b))
	return err1 == nil && err2 == nil && x.Inode != 0 && x.Inode == y.Inode && x.Dev == y.Dev
}

// waiting says whether the segment is still in pending: then its index and seal may not be made yet.
func (s *shelf) waiting(first uint64) *rawFile {
	for _, r := range s.pending {
		if r.first == first {
			return r
		}
	}
	return nil
}
