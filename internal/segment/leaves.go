package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

// LeavesSuffix is of what is kept of a retired segment.
const LeavesSuffix = ".leaves"

// LeavesName is the base name of a retired segment's file in retired/.
func LeavesName(first uint64) string { return fmt.Sprintf("%020d", first) + LeavesSuffix }

const (
	// MaxKeptBytes bounds the control lines of a leaves file. Part of the format; never change.
	MaxKeptBytes = 64 << 20

	leavesPrefix    = `{"retired":{"first":`
	maxLeavesHeader = len(leavesPrefix) + len(`,"end":`) + 2*19 + len("}}\n")
	maxKeptLine     = 20 + 1 + MaxLineBytes + 1 // index, space, line, newline
)

// A KeptLine is a control entry of a retired segment.
type KeptLine struct {
	Index  uint64
	Offset int64 // of the line in the file
	Line   []byte
}

// Leaves is what is kept of a retired segment: docs/format.md, "Retention". It holds the control lines in memory and reads the
// hashes when they are asked for.
type Leaves struct {
	r          io.ReaderAt
	first, end uint64
	start      int64 // of the hashes
	size       int64
	kept       []KeptLine
}

// AppendLeavesHeader appends the line with which a leaves file begins. first and end are multiples of GroupSize.
func AppendLeavesHeader(dst []byte, first, end uint64) []byte {
	dst = append(dst, leavesPrefix...)
	dst = strconv.AppendUint(dst, first, 10)
	dst = append(dst, `,"end":`...)
	dst = strconv.AppendUint(dst, end, 10)
	return append(dst, "}}\n"...)
}

// AppendKeptLine appends a control entry as it stands behind the hashes.
func AppendKeptLine(dst []byte, index uint64, line []byte) []byte {
	dst = strconv.AppendUint(dst, index, 10)
	dst = append(append(dst, ' '), line...)
	return append(dst, '\n')
}

// ReadLeavesHeader reads the range of a leaves file, and where its hashes begin. It does not look at them.
func ReadLeavesHeader(r io.ReaderAt, size int64) (first, end uint64, start int64, err error) {
	buf := make([]byte, min(int64(maxLeavesHeader), size))
	if n, err := r.ReadAt(buf, 0); n < len(buf) {
		return 0, 0, 0, unexpected(err)
	}
	i := bytes.IndexByte(buf, '\n')
	if i < 0 {
		return 0, 0, 0, &CorruptError{Msg: "the first line of a leaves file", Got: excerpt(buf), Want: leavesPrefix + "…"}
	}
	p := lineParser{rest: buf[:i]}
	p.literal(leavesPrefix)
	first = p.decimal()
	p.literal(`,"end":`)
	end = p.decimal()
	p.literal("}}")
	if err := p.end(); err != nil {
		return 0, 0, 0, &CorruptError{Msg: "the first line of a leaves file: " + err.Error()}
	}
	if first%GroupSize != 0 || end%GroupSize != 0 || end <= first || (end-first)/GroupSize > maxGroups {
		return 0, 0, 0, &CorruptError{Msg: "the range of a leaves file", Got: fmt.Sprintf("entries %d to before %d", first, end), Want: fmt.Sprintf("1 to %d whole groups of %d", maxGroups, GroupSize)}
	}
	start = int64(i) + 1
	if need := start + int64(end-first)*proof.HashSize; size < need {
		return 0, 0, 0, &CorruptError{Offset: size, Msg: "the leaves file ends within its hashes", Got: fmt.Sprintf("%d bytes", size), Want: fmt.Sprintf("at least %d", need)}
	}
	return first, end, start, nil
}

// OpenLeaves reads a leaves file's control lines and holds each against its leaf. That the leaves are the log's, only its tree
// can tell.
func OpenLeaves(r io.ReaderAt, size int64) (*Leaves, error) {
	x := &Leaves{r: r, size: size}
	var err error
	if x.first, x.end, x.start, err = ReadLeavesHeader(r, size); err != nil {
		return nil, err
	}
	from := x.start + int64(x.end-x.first)*proof.HashSize
	if size-from > MaxKeptBytes {
		return nil, &CorruptError{Offset: from, Msg: "the control lines of a leaves file are too long", Got: fmt.Sprintf("%d bytes", size-from), Want: fmt.Sprintf("at most %d", MaxKeptBytes)}
	}
	text := make([]byte, size-from)
	if n, err := r.ReadAt(text, from); n < len(text) {
		return nil, unexpected(err)
	}
	least := x.first
	for at := 0; at < len(text); {
		i := bytes.IndexByte(text[at:min(len(text), at+maxKeptLine)], '\n')
		if i < 0 {
			return nil, &CorruptError{Offset: from + int64(at), Msg: "a control line has no end", Got: excerpt(text[at:])}
		}
		k := KeptLine{Offset: from + int64(at)}
		if err := x.keptLine(text[at:at+i], least, &k); err != nil {
			return nil, err
		}
		x.kept = append(x.kept, k)
		least = k.Index + 1
		at += i + 1
	}
	return x, nil
}

// keptLine reads one control line, which is of entry least or a later one.
func (x *Leaves) keptLine(text []byte, least uint64, k *KeptLine) error {
	p := lineParser{rest: text}
	k.Index = p.decimal()
	p.literal(" ")
	k.Line = p.rest
	bad := func(msg, got, want string) error {
		return &CorruptError{Offset: k.Offset, Msg: msg, Got: got, Want: want}
	}
	if p.err != nil {
		return bad("a control line: "+p.err.Error(), "", "")
	}
	if k.Index < least || k.Index >= x.end {
		return bad("the index of a control line", fmt.Sprint(k.Index), fmt.Sprintf("%d to %d", least, x.end-1))
	}
	var line entry.Line
	if err := entry.Decode(k.Line, &line); err != nil {
		return bad("a control line does not follow the format: "+err.Error(), "", "")
	}
	if line.Log == nil {
		return bad(fmt.Sprintf("entry %d, which is kept, is no control entry", k.Index), "", "")
	}
	var leaf proof.Hash
	if n, err := x.r.ReadAt(leaf[:], x.start+int64(k.Index-x.first)*proof.HashSize); n < len(leaf) {
		return unexpected(err)
	}
	if got := proof.LeafHash(k.Line); got != leaf {
		return bad(fmt.Sprintf("entry %d, which is kept, does not have the leaf hash that is kept", k.Index), got.String(), leaf.String())
	}
	return nil
}

// First is the index of the segment's first entry, End the one after its last.
func (x *Leaves) First() uint64 { return x.first }

// End is the index after the segment's last entry.
func (x *Leaves) End() uint64 { return x.end }

// Groups is how many groups of 256 entries the segment has.
func (x *Leaves) Groups() int { return int((x.end - x.first) / GroupSize) }

// Offset is where the hashes of group g begin.
func (x *Leaves) Offset(g int) int64 { return x.start + int64(g)*GroupSize*proof.HashSize }

// Kept are the control entries, in order. They must not be changed.
func (x *Leaves) Kept() []KeptLine { return x.kept }

// KeptOf are the control entries of group g.
func (x *Leaves) KeptOf(g int) []KeptLine {
	from := x.first + uint64(g)*GroupSize
	return x.kept[x.before(from):x.before(from+GroupSize)]
}

// before is how many control entries have an index below this.
func (x *Leaves) before(index uint64) int {
	lo, hi := 0, len(x.kept)
	for lo < hi {
		if mid := (lo + hi) / 2; x.kept[mid].Index < index {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Group reads the leaf hashes of group g.
func (x *Leaves) Group(g int) (*[GroupSize]proof.Hash, error) {
	if g < 0 || g >= x.Groups() {
		return nil, fmt.Errorf("group %d of a segment of %d groups", g, x.Groups())
	}
	var buf [GroupSize * proof.HashSize]byte
	if n, err := x.r.ReadAt(buf[:], x.Offset(g)); n < len(buf) {
		return nil, unexpected(err)
	}
	leaves := new([GroupSize]proof.Hash)
	for i := range leaves {
		leaves[i] = proof.Hash(buf[i*proof.HashSize:][:proof.HashSize])
	}
	return leaves, nil
}

// unexpected is the error of a file that became shorter.
func unexpected(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadLeaves reads the leaf hashes of the log's group k from a leaves file, without a look at its control lines.
func ReadLeaves(r io.ReaderAt, size int64, k uint64) ([]proof.Hash, error) {
	x := Leaves{r: r, size: size}
	var err error
	if x.first, x.end, x.start, err = ReadLeavesHeader(r, size); err != nil {
		return nil, err
	}
	g := int64(k) - int64(x.first/GroupSize)
	if g < 0 || g >= int64(x.Groups()) {
		return nil, &CorruptError{Msg: fmt.Sprintf("the leaves file does not hold group %d", k), Got: fmt.Sprintf("entries %d to %d", x.first, x.end-1)}
	}
	leaves, err := x.Group(int(g))
	if err != nil {
		return nil, err
	}
	return leaves[:], nil
}
