package collect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

const (
	maxFiles   = 4096    // that are open at a time
	firstBytes = 1 << 10 // of a first line that identify a file
)

// tracked is a file that is followed. It stays open when it is renamed or removed, until all of it is in the log.
type tracked struct {
	f     vfs.File
	state *fileState
	next  fileState // as it will be once the batch under way is in the log
	grew  time.Time // when something new was last seen
	named bool      // one of the paths to collect leads to it
	path  string    // that one
}

// compressed files are what rotation makes of files that were read.
var compressed = []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ", "BZh", "PK\x03\x04"}

// paths are the files that are to be collected now, each once.
func (c *collector) paths() ([]string, error) {
	var all []string
	for _, p := range c.Paths {
		if info, err := c.fs.Stat(p); err == nil && info.Dir {
			names, err := c.fs.ReadDir(p)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if !strings.HasPrefix(name, ".") {
					all = append(all, filepath.Join(p, name))
				}
			}
			continue
		}
		found, err := filepath.Glob(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if len(found) == 0 {
			if _, err := c.fs.Stat(p); err == nil { // a name with brackets of its own
				found = []string{p}
			}
		}
		all = append(all, found...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// scan brings the list of files up to date: what was truncated, what is new, what has gone.
func (c *collector) scan() error {
	paths, err := c.paths()
	if err != nil {
		return err
	}
	for _, t := range c.files {
		t.named = false
	}
	var fresh []string
	known := 0 // of fresh, at its beginning
	for _, p := range paths {
		info, err := c.fs.Stat(p)
		if err != nil || info.Dir || !info.Mode.IsRegular() {
			continue // it has gone since, or is none of ours
		}
		if t := c.open(info); t != nil {
			t.named, t.path = true, p
			continue
		}
		if c.knows(info) { // before those that may be copies of it
			fresh = slices.Insert(fresh, known, p)
			known++
		} else {
			fresh = append(fresh, p)
		}
	}
	for _, t := range c.files {
		if err := c.checkTruncated(t); err != nil {
			return err
		}
		if t.named && t.state.Path != t.path { // renamed; what it was before a truncation had the old name
			t.state.Path, t.next.Path, c.dirty = t.path, t.path, true
		}
	}
	for _, p := range fresh {
		if info, err := c.fs.Stat(p); err == nil && c.open(info) != nil {
			continue // another name of a file that has just been begun
		}
		if err := c.begin(p); err != nil {
			return err
		}
	}
	for _, s := range c.truncated {
		c.gaps = append(c.gaps, c.gap(s, "the file was truncated before all of it was collected"))
	}
	c.truncated = nil
	if err := c.missing(); err != nil {
		return err
	}
	return c.letGo()
}

// open finds the open file with this inode.
func (c *collector) open(info vfs.Info) *tracked {
	for _, t := range c.files {
		if info.Inode != 0 && t.state.Inode == info.Inode && t.state.Dev == info.Dev {
			return t
		}
	}
	return nil
}

// knows says whether something was collected of a file with this inode.
func (c *collector) knows(info vfs.Info) bool {
	return slices.ContainsFunc(c.known, func(s *fileState) bool { return s.Inode == info.Inode })
}

// begin opens a file and finds out where to go on in it. A file without a whole first line is nobody yet.
func (c *collector) begin(path string) error {
	if len(c.files) >= maxFiles {
		c.warnOnce("files", "more files than can be followed at once; the others wait", "limit", maxFiles, "path", path)
		return nil
	}
	f, err := c.fs.Open(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.warnOnce(path, "a file cannot be read", "path", path, "error", err)
		}
		return nil
	}
	info, err := c.fs.Stat(path)
	if err != nil {
		_ = f.Close()
		return nil //nolint:nilerr // it has gone again
	}
	head, ok, err := first(f)
	if err != nil || !ok {
		_ = f.Close()
		for _, s := range c.known {
			if err == nil && s.Inode == info.Inode && info.Inode != 0 && info.Size < s.FirstBytes && !s.Over {
				s.Over, c.dirty = true, true
			}
		}
		return err
	}
	for _, magic := range compressed {
		if bytes.HasPrefix(head, []byte(magic)) {
			_ = f.Close()
			c.warnOnce(path, "a compressed file is left out", "path", path)
			return nil
		}
	}
	t := &tracked{f: f, named: true, path: path, grew: c.now()}
	if t.state, err = c.identify(f, path, info, head); err != nil {
		_ = f.Close()
		return err
	}
	t.next = *t.state
	c.files = append(c.files, t)
	c.dirty = true
	return nil
}

// first reads what identifies a file: its first line, or the first firstBytes of a longer one.
func first(f vfs.File) (head []byte, ok bool, err error) {
	buf := make([]byte, firstBytes)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if end := bytes.IndexByte(buf[:n], '\n'); end >= 0 {
		return buf[:end+1], true, nil
	}
	return buf[:n], n == firstBytes, nil
}

// identify finds the state of a file that was just opened, or makes one.
func (c *collector) identify(f vfs.File, path string, info vfs.Info, head []byte) (*fileState, error) {
	id := sum(head)
	generation := -1
	var best *fileState
	for _, s := range c.known {
		if s.Inode != info.Inode || c.isOpen(s) {
			continue
		}
		if info.Inode != 0 {
			generation = max(generation, s.Generation)
		}
		if s.First == id && s.FirstBytes == int64(len(head)) && (best == nil || s.Dev == info.Dev && best.Dev != info.Dev || s.Generation > best.Generation) {
			best = s
		}
	}
	if best != nil {
		same, err := best.intact(f)
		if err != nil {
			return nil, err
		}
		if same {
			best.Path, best.Dev, best.Size, best.Gone = path, info.Dev, info.Size, time.Time{}
			return best, nil
		}
	}
	s := &fileState{Path: path, Dev: info.Dev, Inode: info.Inode, First: id, FirstBytes: int64(len(head)), Generation: generation + 1, Size: info.Size}
	for _, k := range c.known { // truncated while nobody looked: a copy of what it was may be there
		if info.Inode != 0 && k.Inode == info.Inode && k.Generation == generation && !c.isOpen(k) {
			s.Before = k.lives()
			if k.Gone.IsZero() { // else it was said already
				c.wasTruncated(k)
			}
			k.Gone = c.now()
		}
	}
	copied, err := c.isCopy(f, s)
	if err != nil {
		return nil, err
	}
	if c.FromEnd && !c.started && !copied {
		if err := s.skip(f, info.Size); err != nil {
			return nil, err
		}
	}
	c.known = append(c.known, s)
	return s, nil
}

func (c *collector) isOpen(s *fileState) bool {
	return slices.ContainsFunc(c.files, func(t *tracked) bool { return t.state == s })
}

// isCopy looks whether the file is what copytruncate makes: a copy, beside a file of the collection and named after it, of what
// that is or was before it was truncated. Then what is in the log already is not collected again.
func (c *collector) isCopy(f vfs.File, s *fileState) (bool, error) {
	for _, k := range c.known {
		for i := range k.Before {
			b := &k.Before[i]
			if !related(b.Path, s.Path) || b.First != s.First || b.FirstBytes != s.FirstBytes || b.Offset == 0 {
				continue
			}
			was := fileState{First: b.First, FirstBytes: b.FirstBytes, Offset: b.Offset, Last: b.Last, LastSum: b.LastSum}
			same, err := was.intact(f)
			if err != nil {
				return false, err
			}
			// A copy that was made before the last lines came is shorter than what was collected: all of it is in the log.
			if same || s.Size < b.Offset {
				s.goOn(b)
				c.truncated = slices.DeleteFunc(c.truncated, func(g *fileState) bool { return g.Inode == k.Inode && g.First == b.First })
				return true, nil
			}
		}
		if !related(k.Path, s.Path) || k.First != s.First || k.FirstBytes != s.FirstBytes || k.Offset == 0 {
			continue
		}
		same := false
		if o := slices.IndexFunc(c.files, func(t *tracked) bool { return t.state == k }); o >= 0 {
			var err error
			if same, err = sameBegin(f, c.files[o].f, min(s.Size, k.Offset)); err != nil {
				return false, err
			}
		}
		if !same { // truncated since it was looked at, or empty now: the copy alone has it
			was := *k
			was.Over, was.Size = false, 0
			var err error
			if same, err = was.intact(f); err != nil {
				return false, err
			}
			same = same || k.Over && s.Size < k.Offset
		}
		if same {
			s.goOn(k.life())
			s.CopyOf = &copyOf{k.Inode, k.Generation}
			return true, nil
		}
	}
	return false, nil
}

// related says whether a file's copy can have this name: beside it, its name and more.
func related(path, copied string) bool {
	return path != copied && filepath.Dir(path) == filepath.Dir(copied) && strings.HasPrefix(filepath.Base(copied), filepath.Base(path))
}

// goOn takes over what was collected of another life, as far as this file has it.
func (s *fileState) goOn(b *before) {
	if s.Offset = min(b.Offset, s.Size); s.Offset == b.Offset {
		s.Part, s.Last, s.LastSum = b.Part, b.Last, b.LastSum
	} else {
		s.Part, s.Last, s.LastSum = 0, 0, ""
	}
}

// sameBegin says whether the first n bytes of two files are the same.
func sameBegin(a, b vfs.File, n int64) (bool, error) {
	x, y := make([]byte, chunk), make([]byte, chunk)
	for at := int64(0); at < n; at += chunk {
		size := min(chunk, n-at)
		for _, side := range []struct {
			f   vfs.File
			buf []byte
		}{{a, x}, {b, y}} {
			if k, err := side.f.ReadAt(side.buf[:size], at); int64(k) < size {
				if errors.Is(err, io.EOF) {
					return false, nil
				}
				return false, err
			}
		}
		if !bytes.Equal(x[:size], y[:size]) {
			return false, nil
		}
	}
	return true, nil
}

// intact says whether the file still begins as it did, and still holds the last record where it was.
func (s *fileState) intact(f vfs.File) (bool, error) {
	size, err := f.Size()
	if err != nil || size < max(s.Offset, s.Size) || s.Over {
		return false, err
	}
	for _, part := range []struct {
		at, n int64
		sum   string
	}{{0, s.FirstBytes, s.First}, {s.Offset - s.Last, s.Last, s.LastSum}} {
		if part.n == 0 {
			continue
		}
		buf := make([]byte, part.n)
		if n, err := f.ReadAt(buf, part.at); n < len(buf) {
			if errors.Is(err, io.EOF) {
				return false, nil
			}
			return false, err
		}
		if sum(buf) != part.sum {
			return false, nil
		}
	}
	return true, nil
}

// skip begins at the last line's end.
func (s *fileState) skip(f vfs.File, size int64) error {
	buf := make([]byte, min(size, maxRecord))
	n, err := f.ReadAt(buf, size-int64(len(buf)))
	if n < len(buf) {
		return err
	}
	end := bytes.LastIndexByte(buf, '\n') + 1
	line := bytes.LastIndexByte(buf[:max(end-1, 0)], '\n') + 1
	s.Offset = size - int64(len(buf)-end)
	s.Last, s.LastSum = int64(end-line), sum(buf[line:end])
	return nil
}

// checkTruncated begins a file again that was truncated or written over: a new life of the same inode.
func (c *collector) checkTruncated(t *tracked) error {
	same, err := t.state.intact(t.f)
	if err != nil {
		return fmt.Errorf("read %s: %w", t.state.Path, err)
	}
	if same {
		return nil
	}
	head, ok, err := first(t.f)
	if err != nil {
		return err
	}
	if !ok { // nothing is there yet
		t.state.Over, t.next.Over, c.dirty = true, true, true
		return nil
	}
	old := t.state
	t.state = &fileState{
		Path: old.Path, Dev: old.Dev, Inode: old.Inode, First: sum(head), FirstBytes: int64(len(head)), Generation: old.Generation + 1, Before: old.lives(),
	}
	t.next = *t.state
	c.wasTruncated(old)
	for i := range c.known {
		if c.known[i] == old {
			c.known[i] = t.state
		}
	}
	c.dirty = true
	return nil
}

// wasTruncated remembers a life of a file that ended before it was collected, until a copy turns up or scan has ended.
func (c *collector) wasTruncated(s *fileState) {
	if s.Size > s.Offset {
		c.truncated = append(c.truncated, s)
	}
}

// missing looks for files that were not collected to their end and have lost their name: rotated while nobody followed them. They
// are looked for by inode in their directory. Of what cannot be found an entry says how much is missing.
func (c *collector) missing() error {
	for _, s := range c.known {
		if c.isOpen(s) || !s.Gone.IsZero() {
			continue
		}
		path, err := c.find(s)
		if err != nil {
			return err
		}
		if path != "" {
			if err := c.begin(path); err != nil {
				return err
			}
			if c.isOpen(s) {
				continue
			}
		}
		s.Gone, c.dirty = c.now(), true
		if s.Size > s.Offset {
			c.gaps = append(c.gaps, c.gap(s, "the file has gone before all of it was collected"))
		}
	}
	return nil
}

// find looks for a file by its inode where it was.
func (c *collector) find(s *fileState) (string, error) {
	dir := filepath.Dir(s.Path)
	names, err := c.fs.ReadDir(dir)
	if err != nil || s.Inode == 0 {
		return "", nil //nolint:nilerr // a directory that has gone has no files
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if info, err := c.fs.Stat(path); err != nil || info.Inode != s.Inode || !info.Mode.IsRegular() {
			continue
		}
		f, err := c.fs.Open(path)
		if err != nil {
			return "", nil //nolint:nilerr // it has gone since
		}
		same, err := s.intact(f) // the inode may be another file's now
		_ = f.Close()
		if err != nil || same {
			return path, err
		}
	}
	return "", nil
}

// gap is the entry that says what was lost.
func (c *collector) gap(s *fileState, why string) immutable.Event {
	shape := event.Shape{
		Kind: event.KindSystem, Action: "source.gap", Outcome: event.OutcomeFailure, Reason: why,
		Source: &event.Source{Host: c.Source, Provider: "collect"}, Target: &event.Target{Type: "file", Name: strings.ToValidUTF8(s.Path, "\uFFFD")},
		Extra: immutable.Fields{"gap": immutable.Fields{"bytes": s.Size - s.Offset, "offset": s.Offset, "inode": s.Inode}},
	}
	return immutable.Event{
		Level: immutable.Warn, Hostname: c.Source, Message: fmt.Sprintf("%s: %d bytes were not collected", strings.ToValidUTF8(s.Path, "\uFFFD"), s.Size-s.Offset),
		Metadata: shape.Fields(),
	}
}

// settle is how long a file without a name must be quiet before it is over: its writer may still have it open.
const settle = 10 * time.Second

// letGo closes files that no path leads to any more, once they were read to their end and their name has gone.
func (c *collector) letGo() error {
	var left []*tracked
	for _, t := range c.files {
		if t.named || c.now().Sub(t.grew) < settle || t.next.Offset != t.state.Offset {
			left = append(left, t)
			continue
		}
		size, err := t.f.Size()
		if err != nil {
			return err
		}
		path, err := c.find(t.state)
		if err != nil {
			return err
		}
		if path != "" || size > t.state.Offset { // renamed: it may grow. Or its last line has no end, see read
			left = append(left, t)
			continue
		}
		_ = t.f.Close()
		t.state.Gone, c.dirty = c.now(), true
	}
	c.files = left
	return nil
}
