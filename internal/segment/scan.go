package segment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// A Batch is one committed batch. Its memory is valid until visit returns.
type Batch struct {
	Offset, End int64    // in the file: its first line, and after its commit line
	First, Size uint64   // index of its first entry, and the log's size after it
	Lines       [][]byte // without newlines
	Leaves      []proof.Hash
	Groups      []GroupEnd // the groups of 256 that it completes, in order
	Chain, Root proof.Hash // after it
}

// A GroupEnd is a whole group's root, and the chain hash after its last entry.
type GroupEnd struct{ Root, Chain proof.Hash }

// A Tail is what follows the last valid commit line. With Length 0 the segment ends cleanly there and Reason is empty.
// Otherwise it is an incomplete batch or damage: docs/format.md, "Incomplete batch", tells how the head decides.
type Tail struct {
	Offset, Length int64
	// CommitInside: a line that begins as a commit line and has its newline is followed by another byte. A crash cannot
	// leave that, because nothing is written behind a commit line before it is durable. The line's values do not count.
	CommitInside bool
	// Reason says why the scan stopped, At is the file offset of the first byte that does not fit, Got and Want are both
	// values, printable.
	Reason    string
	Got, Want string
	At        int64
	SHA256    [sha256.Size]byte // of all its bytes
}

// Scan reads an open or pending segment from a batch boundary at offset up to length, the length of the whole file. chain and
// f are the state at offset. It recomputes leaves, chain and root, calls visit (which may be nil) for each batch whose commit
// line equals the recomputation byte for byte, and returns what follows the last one. f is advanced by valid batches only,
// before visit is called. An error is the reader's, visit's or the context's; faults of the bytes are in the Tail.
//
// It holds one batch, at most about 20 MiB. The tail may be longer; it is read once more, in small pieces.
func Scan(ctx context.Context, r io.ReaderAt, offset, length int64, chain proof.Hash, f *tree.Frontier, visit func(*Batch) error) (Tail, error) {
	if offset < 0 || length < offset {
		return Tail{}, fmt.Errorf("scan segment: offset %d in a file of %d bytes", offset, length)
	}
	s := scanner{r: r, base: offset - 1, length: length, chain: chain, frontier: f, start: 1, pos: 1, filled: 1}
	s.buf = make([]byte, min(firstBuffer, max(length-offset, 0)+1))
	for {
		if err := ctx.Err(); err != nil {
			return Tail{}, err
		}
		t, err := s.batch()
		if err != nil {
			return Tail{}, fmt.Errorf("scan segment: %w", err)
		}
		if t != nil {
			if err := s.measure(ctx, t); err != nil {
				return Tail{}, fmt.Errorf("scan segment: %w", err)
			}
			return *t, nil
		}
		if visit != nil {
			if err := visit(&s.out); err != nil {
				return Tail{}, err
			}
		}
		s.start = s.pos
	}
}

const (
	firstBuffer = 512 << 10
	maxBuffer   = 1 + MaxBatchBytes
)

// A scanner holds the bytes of the batch that it reads, and what was read beyond it. buf[start:pos] are the whole lines of
// this batch, buf[pos:filled] is not yet looked at. start is at least 1: the byte before a line is overwritten for the
// moment that its hash takes.
type scanner struct {
	r             io.ReaderAt
	buf           []byte
	base          int64 // file offset of buf[0]; one less than a real one at the beginning
	length        int64
	start, pos    int
	filled        int
	chain         proof.Hash
	frontier      *tree.Frontier
	work          tree.Frontier // frontier with this batch's leaves
	ends          []int32       // ends of this batch's entry lines, relative to start, without newline
	leaves        []proof.Hash
	groups        []GroupEnd
	want          []byte // the commit line as it must be
	out           Batch
	workingChain  proof.Hash
	lines         [][]byte
	newlineSearch int // buf[pos:newlineSearch] has no newline
}

// batch reads the next batch into s.out. A non-nil Tail says why there is none; at a clean end its Reason is empty.
func (s *scanner) batch() (*Tail, error) {
	s.work, s.workingChain = *s.frontier, s.chain
	s.ends, s.leaves, s.groups = s.ends[:0], s.leaves[:0], s.groups[:0]
	for {
		line, t, err := s.line()
		if t != nil || err != nil {
			return t, err
		}
		switch {
		case bytes.HasPrefix(line, []byte(entryPrefix)):
			t = s.entry(line)
		case bytes.HasPrefix(line, []byte(commitPrefix)):
			if t = s.commit(line); t == nil {
				return nil, nil
			}
		default:
			got := line[:min(len(line), 64)]
			t = s.tail(s.pos, "unknown kind of line", excerpt(got), "a line that begins "+entryPrefix+" or "+commitPrefix)
		}
		if t != nil {
			return t, nil
		}
	}
}

// line returns the next line without its newline; it does not move pos. It reads more of the file when the buffer has no
// whole line, and stops where a line or the batch is longer than it may be.
func (s *scanner) line() ([]byte, *Tail, error) {
	s.newlineSearch = s.pos
	for {
		i := bytes.IndexByte(s.buf[s.newlineSearch:s.filled], '\n')
		end := s.newlineSearch + i
		if i < 0 {
			end = s.filled
		}
		s.newlineSearch = end
		if end-s.pos > MaxLineBytes {
			return nil, s.tail(s.pos, "line too long", fmt.Sprintf("no newline within %d bytes", MaxLineBytes+1), fmt.Sprintf("at most %d bytes and a newline", MaxLineBytes)), nil
		}
		if i >= 0 && end+1-s.start <= MaxBatchBytes {
			return s.buf[s.pos:end], nil, nil
		}
		if end+1-s.start > MaxBatchBytes {
			return nil, s.tail(s.start+MaxBatchBytes, "batch too long", fmt.Sprintf("%d entries and no commit line within %d bytes", len(s.ends), MaxBatchBytes), "the commit line within them"), nil
		}
		if s.base+int64(s.filled) == s.length {
			return nil, s.atEnd(), nil
		}
		if err := s.fill(); err != nil {
			return nil, nil, err
		}
	}
}

// atEnd tells a clean end from a batch that is not whole.
func (s *scanner) atEnd() *Tail {
	switch {
	case s.pos < s.filled:
		return s.tail(s.filled, "the last line has no newline", "end of file", "the rest of "+excerpt(s.buf[s.pos:min(s.filled, s.pos+64)]))
	case len(s.ends) > 0:
		return s.tail(s.filled, "batch without its commit line", fmt.Sprintf("end of file after %d entries", len(s.ends)), s.wantLine())
	default:
		return s.tail(s.filled, "", "", "")
	}
}

// entry hashes a line at pos and moves behind it.
func (s *scanner) entry(line []byte) *Tail {
	if len(s.ends) == MaxBatchEntries {
		return s.tail(s.pos, "too many entries in the batch", fmt.Sprintf("entry %d", len(s.ends)+1), fmt.Sprintf("the commit line after at most %d", MaxBatchEntries))
	}
	if s.work.Size() >= proof.MaxSize {
		return s.tail(s.pos, "log larger than the format allows", "another entry", fmt.Sprintf("at most %d", uint64(proof.MaxSize)))
	}
	// leaf = SHA-256(0x00 || line): lend the prefix the byte before the line instead of copying the line.
	before := s.buf[s.pos-1]
	s.buf[s.pos-1] = 0x00
	leaf := proof.Hash(sha256.Sum256(s.buf[s.pos-1 : s.pos+len(line)]))
	s.buf[s.pos-1] = before
	s.workingChain = proof.ChainHash(s.workingChain, leaf)
	s.work.Append(leaf)
	s.leaves = append(s.leaves, leaf)
	if s.work.Size()%GroupSize == 0 {
		s.groups = append(s.groups, GroupEnd{s.work.LastGroup(), s.workingChain})
	}
	s.ends = append(s.ends, int32(s.pos+len(line)-s.start))
	s.pos += len(line) + 1
	return nil
}

// commit compares the line at pos with the recomputation; if they are equal it takes the batch over and moves behind it.
func (s *scanner) commit(line []byte) *Tail {
	if len(s.ends) == 0 {
		return s.tail(s.pos, "commit line without entries", excerpt(line), "a line that begins "+entryPrefix)
	}
	root := s.work.Root()
	s.want = AppendCommit(s.want[:0], s.frontier.Size(), s.work.Size(), s.workingChain, root)
	want := s.want[:len(s.want)-1]
	if !bytes.Equal(line, want) {
		same := 0
		for same < min(len(line), len(want)) && line[same] == want[same] {
			same++
		}
		return s.tail(s.pos+same, "commit line differs from its recomputation", excerpt(line), string(want))
	}
	s.lines = s.lines[:0]
	from := s.start
	for _, e := range s.ends {
		end := s.start + int(e)
		s.lines = append(s.lines, s.buf[from:end:end])
		from = end + 1
	}
	s.out = Batch{
		Offset: s.base + int64(s.start), End: s.base + int64(s.pos+len(line)+1),
		First: s.frontier.Size(), Size: s.work.Size(),
		Lines: s.lines, Leaves: s.leaves, Groups: s.groups, Chain: s.workingChain, Root: root,
	}
	s.pos += len(line) + 1
	*s.frontier, s.chain = s.work, s.workingChain
	return nil
}

// fill reads more of the file behind buf[filled]. The batch moves to the front of the buffer at most once; then the buffer
// grows, up to one batch.
func (s *scanner) fill() error {
	if by := s.start - 1; by > 0 {
		copy(s.buf, s.buf[by:s.filled])
		s.base += int64(by)
		s.start, s.pos, s.filled, s.newlineSearch = 1, s.pos-by, s.filled-by, s.newlineSearch-by
	}
	if s.filled == len(s.buf) {
		grown := make([]byte, min(2*len(s.buf), maxBuffer))
		copy(grown, s.buf)
		s.buf = grown
	}
	n := int(min(int64(len(s.buf)-s.filled), s.length-s.base-int64(s.filled)))
	if err := readFull(s.r, s.buf[s.filled:s.filled+n], s.base+int64(s.filled)); err != nil {
		return err
	}
	s.filled += n
	return nil
}

// wantLine is the commit line that would make the entries so far a batch.
func (s *scanner) wantLine() string {
	b := AppendCommit(nil, s.frontier.Size(), s.work.Size(), s.workingChain, s.work.Root())
	return string(b[:len(b)-1])
}

func (s *scanner) tail(at int, reason, got, want string) *Tail {
	from := s.base + int64(s.start)
	return &Tail{Offset: from, Length: s.length - from, Reason: reason, Got: got, Want: want, At: s.base + int64(at)}
}

// measure reads the whole tail for its hash and for commit lines inside.
func (s *scanner) measure(ctx context.Context, t *Tail) error {
	h := sha256.New()
	var f commitFinder
	for off := t.Offset; off < s.length; {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := s.buf[:min(int64(len(s.buf)), firstBuffer, s.length-off)]
		if err := readFull(s.r, piece, off); err != nil {
			return err
		}
		h.Write(piece)
		f.write(piece)
		off += int64(len(piece))
	}
	t.CommitInside = f.found
	h.Sum(t.SHA256[:0])
	return nil
}

// A commitFinder looks for a commit line that another byte follows, in pieces of any size that begin at a line's start.
type commitFinder struct {
	matched int  // bytes of commitPrefix that this line has; -1 when it is another kind of line
	ended   bool // the previous byte ended a commit line
	found   bool
}

func (f *commitFinder) write(p []byte) {
	for len(p) > 0 && !f.found {
		if f.ended {
			f.found = true
			return
		}
		if f.matched >= 0 && f.matched < len(commitPrefix) {
			if p[0] == commitPrefix[f.matched] {
				f.matched++
				p = p[1:]
				continue
			}
			f.matched = -1
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			return
		}
		f.ended = f.matched == len(commitPrefix)
		f.matched = 0
		p = p[i+1:]
	}
}
