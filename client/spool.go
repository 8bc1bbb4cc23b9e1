package client

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// spool is the queue that survives. It is a directory of segments, files of one line an event, each with a checksum, that are
// only appended to and removed whole, and a file that says up to where they were delivered:
//
//	NNNNNNNNNNNNNNNN.spool   a header line, then lines: CRC-32C of the rest in hex, what was durable of the file before, in ten
//	                         hex digits, the event as JSON
//	position                 segment and offset of the first event that is not delivered
//	lock
//
// Only the last write to the newest segment can be torn by a crash, and was not acknowledged: what is left of it is moved to a
// file beside it. A bad line before one that was written when it was durable is damage. An event whose delivery was not written
// down before a crash is sent again, under the same idempotency key.
type spool struct {
	fs     vfs.FS
	dir    string
	header []byte
	max    int64
	lock   io.Closer

	mu      sync.Mutex // guards what follows; not held across I/O but the rotation's
	tail    vfs.File   // of the newest segment; owned by the writing group
	tailNo  uint64
	tailEnd int64 // durable bytes of it
	ends    map[uint64]int64
	bytes   int64 // that wait
	group   *group
	writing bool
	failed  error

	// Of the one goroutine that calls front and pop.
	head    vfs.File
	headNo  uint64
	headAt  int64
	lengths []int64 // of the lines that front has returned last
}

// group is what is written and synced at once.
type group struct {
	lines [][]byte
	size  int64 // of the lines in the file
	done  chan struct{}
	err   error
}

const (
	spoolFormat    = "immutable/spool/1"
	positionFormat = "immutable/spool-position/1"
	positionName   = "position"
	segmentBytes   = 8 << 20        // from which on a new segment is begun
	lineHead       = 8 + 1 + 10 + 1 // bytes of a line before the event
	maxSpoolLine   = immutable.MaxEntryBytes + lineHead + 1
	// maxSegment is more than a segment can have: what there is, and a group that was allowed in.
	maxSegment = 2 << 30
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openSpool opens a spool, and makes it if there is none. waiting is the number of events in it.
func openSpool(fsys vfs.FS, dir, tenant, log string, limit int64) (s *spool, waiting uint64, err error) {
	s = &spool{fs: fsys, dir: dir, header: fmt.Appendf(nil, "%s %s/%s\n", spoolFormat, tenant, log), max: limit, ends: map[uint64]int64{}, group: newGroup()}
	if err := vfs.MkdirAll(fsys, dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("spool: %w", err)
	}
	if s.lock, err = fsys.Lock(s.path("lock"), nil); err != nil {
		return nil, 0, fmt.Errorf("spool %s: another writer has it: %w", dir, err)
	}
	if waiting, err = s.load(); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("spool %s: %w", dir, err), s.close())
	}
	return s, waiting, nil
}

func newGroup() *group { return &group{done: make(chan struct{})} }

func (s *spool) path(name string) string { return filepath.Join(s.dir, name) }

func segmentName(no uint64) string { return fmt.Sprintf("%016d.spool", no) }

// load finds what waits, and begins a new segment behind it.
func (s *spool) load() (waiting uint64, err error) {
	if err := s.readPosition(); err != nil {
		return 0, err
	}
	names, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return 0, err
	}
	var numbers []uint64
	for _, name := range names {
		base, found := strings.CutSuffix(name, ".spool")
		no, err := strconv.ParseUint(base, 10, 63)
		if !found || err != nil || name != segmentName(no) {
			continue
		}
		if no < s.headNo { // delivered, and a crash kept it from being removed
			if err := s.fs.Remove(s.path(name)); err != nil {
				return 0, err
			}
			continue
		}
		numbers = append(numbers, no)
	}
	last := s.headNo - 1
	for i, no := range numbers {
		if i == 0 && no > s.headNo {
			if s.headAt > 0 {
				return 0, fmt.Errorf("%s is missing, and not all of it was delivered", segmentName(s.headNo))
			}
			s.headNo = no
		}
		if i > 0 && no != last+1 {
			return 0, fmt.Errorf("%s is missing", segmentName(last+1))
		}
		n, err := s.scan(no, i == len(numbers)-1)
		if err != nil {
			return 0, err
		}
		waiting += n
		if _, there := s.ends[no]; there {
			last = no
		}
	}
	if len(numbers) == 0 && s.headAt > 0 {
		return 0, fmt.Errorf("%s is missing, and not all of it was delivered", segmentName(s.headNo))
	}
	return waiting, s.begin(last + 1)
}

// readPosition finds the first event that is not delivered.
func (s *spool) readPosition() error {
	data, err := vfs.ReadFile(s.fs, s.path(positionName), 256)
	if errors.Is(err, fs.ErrNotExist) {
		s.headNo = 1
		return nil
	}
	if err != nil {
		return err
	}
	fields := strings.Split(strings.TrimSuffix(string(data), "\n"), " ")
	if len(fields) == 3 && fields[0] == positionFormat {
		no, nerr := strconv.ParseUint(fields[1], 10, 63)
		at, aerr := strconv.ParseInt(fields[2], 10, 63)
		if nerr == nil && aerr == nil && no > 0 && at >= 0 {
			s.headNo, s.headAt = no, at
			return nil
		}
	}
	return fmt.Errorf("the file %s is damaged: it would say what was delivered; without it everything in the spool is sent again, which the log takes as repeats if it is less than 24 hours old", positionName)
}

// scan counts the events of a segment that are not delivered. newest says that a crash may have torn its end.
func (s *spool) scan(no uint64, newest bool) (waiting uint64, err error) {
	name := segmentName(no)
	data, err := vfs.ReadFile(s.fs, s.path(name), maxSegment)
	if err != nil {
		return 0, err
	}
	at := int64(len(s.header))
	if !bytes.HasPrefix(data, s.header) {
		if newest && bytes.HasPrefix(s.header, data) {
			at = 0 // a crash while it was begun
		} else {
			line, _, _ := bytes.Cut(data[:min(len(data), 256)], []byte("\n"))
			return 0, fmt.Errorf("%s begins with %q, want %q: a spool is of one log", name, line, bytes.TrimSpace(s.header))
		}
	}
	if no == s.headNo && s.headAt == 0 {
		s.headAt = int64(len(s.header))
	}
	rest := data[at:]
	for len(rest) > 0 {
		_, _, n := parseSpoolLine(rest)
		if n == 0 {
			if !newest || laterLine(rest, at) {
				return 0, fmt.Errorf("%s is damaged at offset %d: events behind it may be lost; move the directory away and keep it, and begin with an empty one", name, at)
			}
			return waiting, s.cut(name, data, at)
		}
		if no > s.headNo || at >= s.headAt {
			waiting++
			s.bytes += int64(n)
		}
		rest, at = rest[n:], at+int64(n)
	}
	if no == s.headNo && s.headAt > max(at, int64(len(s.header))) {
		return 0, fmt.Errorf("%s ends at %d, and was delivered up to %d", name, at, s.headAt)
	}
	if at < int64(len(s.header)) {
		return 0, s.cut(name, data, 0)
	}
	s.ends[no] = at
	return waiting, nil
}

// cut takes what a crash left of an append that was not acknowledged off the end of a segment.
func (s *spool) cut(name string, data []byte, at int64) error {
	if at < int64(len(s.header)) { // not even begun
		if err := s.fs.Remove(s.path(name)); err != nil {
			return err
		}
		return s.fs.SyncDir(s.dir)
	}
	aside := fmt.Sprintf("%s.torn-%d", s.path(name), at)
	if err := vfs.WriteAtomic(s.fs, aside+".new", aside, data[at:], 0o600); err != nil {
		return err
	}
	f, err := s.fs.OpenRW(s.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(at); err != nil {
		return err
	}
	no, err := strconv.ParseUint(strings.TrimSuffix(name, ".spool"), 10, 63)
	if err != nil {
		return err
	}
	s.ends[no] = at
	return f.Sync()
}

// appendSpoolLine writes an event's line. from is what was durable of the file before the write that it is part of.
func appendSpoolLine(dst, event []byte, from int64) []byte {
	body := append(fmt.Appendf(nil, "%010x ", from), event...)
	dst = fmt.Appendf(dst, "%08x ", crc32.Checksum(body, castagnoli))
	return append(append(dst, body...), '\n')
}

// parseSpoolLine reads the line that data begins with; n is its length, or 0 where there is no whole good line.
func parseSpoolLine(data []byte) (event []byte, from int64, n int) {
	end := bytes.IndexByte(data[:min(len(data), maxSpoolLine)], '\n')
	if end < lineHead+2 {
		return nil, 0, 0
	}
	event = data[lineHead:end]
	from, err := strconv.ParseInt(string(data[9:lineHead-1]), 16, 64)
	if err != nil || event[0] != '{' || !bytes.Equal(appendSpoolLine(nil, event, from), data[:end+1]) {
		return nil, 0, 0
	}
	return event, from, end + 1
}

// laterLine says whether data has a line that was written when what stands at offset at was durable. It looks at every byte: a
// newline may be what is damaged.
func laterLine(data []byte, at int64) bool {
	for i := 1; i+lineHead < len(data); i++ {
		if data[i+8] != ' ' || data[i+lineHead-1] != ' ' || data[i+lineHead] != '{' {
			continue
		}
		if _, from, n := parseSpoolLine(data[i:]); n > 0 && from > at {
			return true
		}
	}
	return false
}

// begin makes a new segment the one that is written to.
func (s *spool) begin(no uint64) error {
	f, err := s.fs.Create(s.path(segmentName(no)), 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(s.header, 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.SyncDir(s.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), s.fs.Remove(s.path(segmentName(no))))
	}
	if s.tail != nil {
		_ = s.tail.Close() // synced before
	}
	s.tail, s.tailNo, s.tailEnd = f, no, int64(len(s.header))
	s.ends[no] = s.tailEnd
	if len(s.ends) == 1 {
		s.headNo, s.headAt = no, s.tailEnd
	}
	return nil
}

// put is durable when it returns nil. Callers that come while another's is being written share the next write and sync.
func (s *spool) put(lines [][]byte) error {
	size := int64(0)
	for _, l := range lines {
		size += lineHead + int64(len(l)) + 1
	}
	if size > s.max {
		return fmt.Errorf("%w: %d bytes in one append, and MaxBytes is %d", immutable.ErrTooLarge, size, s.max)
	}
	s.mu.Lock()
	if s.bytes+size > s.max && s.bytes > 0 {
		s.mu.Unlock()
		return errFull
	}
	if s.failed != nil {
		defer s.mu.Unlock()
		return s.failed
	}
	s.bytes += size
	g := s.group
	g.lines, g.size = append(g.lines, lines...), g.size+size
	if s.writing {
		s.mu.Unlock()
		<-g.done
		return g.err
	}
	s.writing = true
	for len(s.group.lines) > 0 {
		s.writeGroup()
	}
	s.writing = false
	s.mu.Unlock()
	return g.err
}

// writeGroup writes what has gathered. It holds mu when it is called and when it returns, and not while it writes.
func (s *spool) writeGroup() {
	g := s.group
	s.group = newGroup()
	at := s.tailEnd
	err := s.failed
	if err == nil && at > segmentBytes {
		if err = s.begin(s.tailNo + 1); err == nil {
			at = s.tailEnd
		}
	}
	if err == nil {
		f := s.tail
		s.mu.Unlock()
		var buf []byte
		for _, l := range g.lines {
			buf = appendSpoolLine(buf, l, at)
		}
		err = appendDurably(f, buf, at)
		s.mu.Lock()
	}
	if err == nil {
		s.tailEnd = at + g.size
		s.ends[s.tailNo] = s.tailEnd
	} else {
		s.bytes -= g.size
		err = fmt.Errorf("spool %s: %w", s.dir, err)
		if !errors.Is(err, immutable.ErrNoSpace) {
			s.failed = err
		}
	}
	g.err = err
	close(g.done)
}

// appendDurably writes at the end of f. A full disk leaves the file as it was; after any other error nothing is known of it.
func appendDurably(f vfs.File, data []byte, at int64) error {
	_, err := f.WriteAt(data, at)
	if err == nil {
		return f.Sync()
	}
	if vfs.IsNoSpace(err) {
		if terr := f.Truncate(at); terr != nil {
			return errors.Join(err, terr)
		}
		return fmt.Errorf("%w: %w", immutable.ErrNoSpace, err)
	}
	return err
}

// front reads from the files what is durable.
func (s *spool) front(entries, limit int) ([]draft, error) {
	var batch []draft
	s.lengths = s.lengths[:0]
	for {
		s.mu.Lock()
		end, newest := s.ends[s.headNo], s.headNo == s.tailNo
		s.mu.Unlock()
		if s.headAt < end {
			data, err := s.readHead(min(end-s.headAt, int64(max(limit, maxSpoolLine))))
			if err != nil {
				return nil, err
			}
			for len(data) > 0 && len(batch) < entries {
				event, _, n := parseSpoolLine(data)
				if n == 0 && len(batch) > 0 {
					return batch, nil // cut by the limit, or told the next time
				}
				if n == 0 {
					return nil, fmt.Errorf("spool %s: %s has changed at offset %d", s.dir, segmentName(s.headNo), s.headAt)
				}
				batch = append(batch, draftOf(event))
				s.lengths = append(s.lengths, int64(n))
				data = data[n:]
			}
			return batch, nil
		}
		if newest {
			return nil, nil
		}
		if err := s.next(); err != nil {
			return nil, err
		}
	}
}

// readHead reads n bytes from the first event that is not delivered on.
func (s *spool) readHead(n int64) ([]byte, error) {
	if s.head == nil {
		var err error
		if s.head, err = s.fs.Open(s.path(segmentName(s.headNo))); err != nil {
			return nil, err
		}
	}
	data := make([]byte, n)
	if _, err := s.head.ReadAt(data, s.headAt); err != nil {
		return nil, fmt.Errorf("spool %s: read %s: %w", s.dir, segmentName(s.headNo), err)
	}
	return data, nil
}

// next goes on to the next segment and removes the one that is delivered.
func (s *spool) next() error {
	old := s.headNo
	if s.head != nil {
		_ = s.head.Close() // only read
		s.head = nil
	}
	s.headNo, s.headAt = old+1, int64(len(s.header))
	if err := s.savePosition(); err != nil {
		s.headNo, s.headAt = old, s.ends[old]
		return err
	}
	s.mu.Lock()
	delete(s.ends, old)
	s.mu.Unlock()
	return s.fs.Remove(s.path(segmentName(old)))
}

func (s *spool) savePosition() error {
	text := fmt.Sprintf("%s %d %d\n", positionFormat, s.headNo, s.headAt)
	return vfs.WriteAtomic(s.fs, s.path(positionName+".new"), s.path(positionName), []byte(text), 0o600)
}

// pop writes down that the first n events that front returned are delivered.
func (s *spool) pop(n int) error {
	total := int64(0)
	for _, l := range s.lengths[:n] {
		total += l
	}
	s.headAt += total
	if err := s.savePosition(); err != nil {
		s.headAt -= total
		return err
	}
	s.lengths = s.lengths[n:]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= total
	return nil
}

func (s *spool) halfEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes <= s.max/2
}

func (s *spool) close() error {
	for _, f := range []vfs.File{s.tail, s.head} {
		if f != nil {
			_ = f.Close() // everything was synced
		}
	}
	return s.lock.Close()
}
