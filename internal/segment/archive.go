package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/tree-of-life-system/immutable/proof"
)

// An Archive reads a sealed segment. OpenArchive accounts for every byte of the file: frames whose lengths the seek table
// gives, without a gap, then the table, then the end. Each frame's own bytes are checked when it is read.
//
// An Archive has no state beyond the table; its methods may be called from several goroutines if r allows it.
type Archive struct {
	r       io.ReaderAt
	first   uint64
	chain   proof.Hash
	commit  commit
	offsets []int64  // of each data frame; the last element is the end of the last one
	content []uint32 // decoded length of each data frame
}

type commit struct {
	size        uint64
	chain, root proof.Hash
}

// OpenArchive reads and checks the footer, the seek table, the segment line and the closing commit line of an archive of
// that size. The groups between are checked by Group; whether lines, chain and root agree is for the caller to recompute.
func OpenArchive(r io.ReaderAt, size int64) (*Archive, error) {
	a := &Archive{r: r}
	if err := a.readTable(size); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if err := a.readControl(); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return a, nil
}

// First is the index of the segment's first entry.
func (a *Archive) First() uint64 { return a.first }

// End is the index after the segment's last entry.
func (a *Archive) End() uint64 { return a.commit.size }

// Chain is the chain hash before the first entry, as the segment line states it.
func (a *Archive) Chain() proof.Hash { return a.chain }

// Commit is what the closing commit line states.
func (a *Archive) Commit() (size uint64, chain, root proof.Hash) {
	return a.commit.size, a.commit.chain, a.commit.root
}

// Groups is the number of groups; at least one.
func (a *Archive) Groups() int { return len(a.content) - 2 }

// Offset is the file offset of group g's frame.
func (a *Archive) Offset(g int) int64 { return a.offsets[g+1] }

// Group decodes group g, counted from 0 in this segment: exactly GroupSize entry lines with their newlines. The result
// replaces dst's contents and uses its memory when that is large enough. g must be in range.
func (a *Archive) Group(dst []byte, g int) ([]byte, error) {
	if g < 0 || g >= a.Groups() {
		return nil, fmt.Errorf("archive: group %d of %d", g, a.Groups())
	}
	data, err := a.frame(dst, g+1)
	if err != nil {
		return nil, fmt.Errorf("archive: group %d: %w", g, err)
	}
	if _, err := splitGroup(nil, data); err != nil {
		return nil, fmt.Errorf("archive: group %d: %w", g, &CorruptError{Offset: a.Offset(g), Msg: "decoded lines", Err: err})
	}
	return data, nil
}

// Frame reads the frame of group g as it is in the file. The result uses dst's memory when that is large enough. g must be in range.
func (a *Archive) Frame(dst []byte, g int) ([]byte, error) {
	if g < 0 || g >= a.Groups() {
		return dst, fmt.Errorf("archive: group %d of %d", g, a.Groups())
	}
	off := a.offsets[g+1]
	n := int(a.offsets[g+2] - off)
	dst = slices.Grow(dst[:0], n)[:n]
	return dst, readFull(a.r, dst, off)
}

// Decode is Group for a frame that Frame read. It gives the lines as well, without their newlines. Results use the memory of dst and
// lines when that is large enough.
func (a *Archive) Decode(dst []byte, lines [][]byte, frame []byte, g int) ([]byte, [][]byte, error) {
	data, err := a.decode(dst, frame, g+1)
	if err != nil {
		return dst, lines, fmt.Errorf("archive: group %d: %w", g, err)
	}
	if lines, err = splitGroup(slices.Grow(lines[:0], GroupSize), data); err != nil {
		return data, lines, fmt.Errorf("archive: group %d: %w", g, &CorruptError{Offset: a.Offset(g), Msg: "decoded lines", Err: err})
	}
	return data, lines, nil
}

// frame reads and decodes data frame k.
func (a *Archive) frame(dst []byte, k int) ([]byte, error) {
	off := a.offsets[k]
	buf := getBuffer(int(a.offsets[k+1] - off))
	defer putBuffer(buf)
	if err := readFull(a.r, *buf, off); err != nil {
		return nil, err
	}
	return a.decode(dst, *buf, k)
}

// decode decodes data frame k.
func (a *Archive) decode(dst, frame []byte, k int) ([]byte, error) {
	off := a.offsets[k]
	if at, err := checkFrame(frame, a.content[k]); err != nil {
		return nil, &CorruptError{Offset: off + int64(at), Msg: fmt.Sprintf("frame %d", k), Err: err}
	}
	data, err := decodeFrame(dst, frame, a.content[k])
	if err != nil {
		return nil, &CorruptError{Offset: off, Msg: fmt.Sprintf("frame %d", k), Err: err}
	}
	return data, nil
}

// readTable reads the seek table from the end of the file and makes offsets and content from it. The number of frames is
// believed only as far as the file is large enough for that many, so that memory stays below the file's size.
func (a *Archive) readTable(size int64) error {
	const fixed = skippableSize + seekFooterSize
	if size < fixed {
		return &CorruptError{Msg: "file too short for a seek table", Got: fmt.Sprintf("%d bytes", size), Want: fmt.Sprintf("at least %d", fixed)}
	}
	var footer [seekFooterSize]byte
	at := size - seekFooterSize
	if err := readFull(a.r, footer[:], at); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint32(footer[5:]); got != seekMagic {
		return mismatch(at+5, "seek table magic at the end of the file", got, seekMagic)
	}
	if footer[4] != 0 {
		return mismatch(at+4, "seek table descriptor", uint32(footer[4]), 0)
	}
	frames := int64(binary.LittleEndian.Uint32(footer[:]))
	if most := min((size-fixed)/(seekEntrySize+minFrameBytes), maxGroups+2); frames < 3 || frames > most {
		return &CorruptError{Offset: at, Msg: "number of frames", Got: fmt.Sprint(frames), Want: fmt.Sprintf("3 to %d in a file of %d bytes", most, size)}
	}
	table := size - fixed - frames*seekEntrySize
	buf := make([]byte, skippableSize+frames*seekEntrySize)
	if err := readFull(a.r, buf, table); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint32(buf); got != skippableMagic {
		return mismatch(table, "seek table frame magic", got, skippableMagic)
	}
	if got, want := binary.LittleEndian.Uint32(buf[4:]), uint32(frames*seekEntrySize+seekFooterSize); got != want {
		return mismatch(table+4, "seek table length", got, want)
	}
	return a.parseTable(buf[skippableSize:], table)
}

// parseTable checks each frame's lengths against the limits of what it holds, and that together they end where the table,
// at offset end, begins.
func (a *Archive) parseTable(table []byte, end int64) error {
	frames := len(table) / seekEntrySize
	a.offsets = make([]int64, 1, frames+1)
	a.content = make([]uint32, 0, frames)
	sum := int64(0)
	for k := range frames {
		entry := end + skippableSize + int64(k)*seekEntrySize
		compressed := binary.LittleEndian.Uint32(table[k*seekEntrySize:])
		content := binary.LittleEndian.Uint32(table[k*seekEntrySize+4:])
		least, most := uint32(GroupSize*(len(entryPrefix)+1)), uint32(maxGroupBytes)
		if k == 0 || k == frames-1 {
			least, most = 1, maxControlBytes
		}
		if content < least || content > most {
			return &CorruptError{Offset: entry + 4, Msg: fmt.Sprintf("decoded length of frame %d", k), Got: fmt.Sprint(content), Want: fmt.Sprintf("%d to %d", least, most)}
		}
		if compressed < minFrameBytes || uint64(compressed) > maxFrameBytes(content) {
			return &CorruptError{
				Offset: entry, Msg: fmt.Sprintf("compressed length of frame %d", k), Got: fmt.Sprint(compressed),
				Want: fmt.Sprintf("%d to %d for %d bytes of content", minFrameBytes, maxFrameBytes(content), content),
			}
		}
		sum += int64(compressed) // 2^25 frames of 2^25 bytes cannot overflow
		a.offsets = append(a.offsets, sum)
		a.content = append(a.content, content)
	}
	if sum != end {
		return &CorruptError{Offset: end, Msg: "end of the frames by the seek table", Got: fmt.Sprint(sum), Want: fmt.Sprint(end)}
	}
	return nil
}

// readControl decodes the first and the last frame and checks that they agree about the number of groups between them.
func (a *Archive) readControl() error {
	line, err := a.controlLine(0)
	if err != nil {
		return err
	}
	if a.first, a.chain, err = ParseHeader(line); err != nil {
		return &CorruptError{Msg: "frame 0", Err: err}
	}
	last := len(a.content) - 1
	if line, err = a.controlLine(last); err != nil {
		return err
	}
	c := &a.commit
	from := uint64(0)
	if from, c.size, c.chain, c.root, err = ParseCommit(line); err != nil {
		return &CorruptError{Offset: a.offsets[last], Msg: fmt.Sprintf("frame %d", last), Err: err}
	}
	if from != a.first {
		return &CorruptError{Offset: a.offsets[last], Msg: "from in the closing commit line", Got: fmt.Sprint(from), Want: fmt.Sprint(a.first)}
	}
	entries := uint64(a.Groups()) * GroupSize
	if c.size != a.first+entries { // both below 2^63: no overflow
		return &CorruptError{
			Offset: a.offsets[last], Msg: "size in the closing commit line", Got: fmt.Sprint(c.size),
			Want: fmt.Sprintf("first index %d and %d groups of %d", a.first, a.Groups(), GroupSize),
		}
	}
	return nil
}

// controlLine decodes frame k, which must hold one line, and returns it without its newline.
func (a *Archive) controlLine(k int) ([]byte, error) {
	data, err := a.frame(nil, k)
	if err != nil {
		return nil, err
	}
	if i := bytes.IndexByte(data, '\n'); i != len(data)-1 {
		return nil, &CorruptError{Offset: a.offsets[k], Msg: fmt.Sprintf("frame %d", k), Got: excerpt(data), Want: "one line"}
	}
	return data[:len(data)-1], nil
}

// splitGroup checks that data is exactly GroupSize entry lines, each within its limit and with its newline. It appends them to dst as far
// as there is room.
func splitGroup(dst [][]byte, data []byte) ([][]byte, error) {
	pos := 0
	for n := range GroupSize {
		i := bytes.IndexByte(data[pos:], '\n')
		if i < 0 {
			return dst, fmt.Errorf("byte %d: %d whole lines, want %d", pos, n, GroupSize)
		}
		line := data[pos : pos+i : pos+i]
		if err := checkEntryLine(line); err != nil {
			return dst, fmt.Errorf("byte %d: line %d: %w", pos, n, err)
		}
		if len(dst) < cap(dst) {
			dst = append(dst, line)
		}
		pos += i + 1
	}
	if pos != len(data) {
		return dst, fmt.Errorf("byte %d: %d bytes after line %d, want the end", pos, len(data)-pos, GroupSize)
	}
	return dst, nil
}

func checkEntryLine(line []byte) error {
	if len(line) > MaxLineBytes {
		return fmt.Errorf("%d bytes, want at most %d", len(line), MaxLineBytes)
	}
	if !bytes.HasPrefix(line, []byte(entryPrefix)) {
		return fmt.Errorf("got %s, want an entry line, which begins %s", excerpt(line[:min(len(line), 32)]), entryPrefix)
	}
	return nil
}

func mismatch(at int64, what string, got, want uint32) error {
	return &CorruptError{Offset: at, Msg: what, Got: fmt.Sprintf("%#x", got), Want: fmt.Sprintf("%#x", want)}
}
