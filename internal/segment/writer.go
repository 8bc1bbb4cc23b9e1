package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tree-of-life-system/immutable/proof"
)

// An ArchiveWriter writes a sealed segment: NewArchiveWriter, WriteGroup at least once, Close. It refuses whatever would
// make a file that OpenArchive refuses. The first error is final; the file is then garbage. Making the file durable, and
// its SHA-256 for the seal, are the caller's.
type ArchiveWriter struct {
	w     io.Writer
	first uint64
	frame []byte // reused
	table []byte // the seek table's records so far
	err   error
}

var errArchiveClosed = errors.New("archive is closed")

// NewArchiveWriter writes the segment line's frame. first and chain are the segment line's.
func NewArchiveWriter(w io.Writer, first uint64, chain proof.Hash) (*ArchiveWriter, error) {
	line := AppendHeader(nil, first, chain)
	if _, _, err := ParseHeader(line[:len(line)-1]); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	a := &ArchiveWriter{w: w, first: first}
	if err := a.writeFrame(line); err != nil {
		return nil, err
	}
	return a, nil
}

// WriteGroup writes the next GroupSize entry lines, each with its newline. It keeps nothing of lines.
func (a *ArchiveWriter) WriteGroup(lines []byte) error {
	if a.err != nil {
		return a.err
	}
	if _, err := splitGroup(nil, lines); err != nil {
		a.err = fmt.Errorf("write archive: group %d: %w", a.groups(), err)
		return a.err
	}
	if a.first+uint64(a.groups()+1)*GroupSize > proof.MaxSize || a.groups() >= maxGroups {
		a.err = fmt.Errorf("write archive: group %d: too many entries for one segment", a.groups())
		return a.err
	}
	return a.writeFrame(lines)
}

// Close writes the closing commit line and the seek table. size must be the first index and all entries written. Closing the
// underlying file is the caller's.
func (a *ArchiveWriter) Close(size uint64, chain, root proof.Hash) error {
	if a.err != nil {
		return a.err
	}
	if want := a.first + uint64(a.groups())*GroupSize; a.groups() == 0 || size != want {
		a.err = fmt.Errorf("close archive: size %d after %d groups from entry %d, want %d and at least one group", size, a.groups(), a.first, want)
		return a.err
	}
	if err := a.writeFrame(AppendCommit(nil, a.first, size, chain, root)); err != nil {
		return err
	}
	frames := len(a.table) / seekEntrySize
	b := binary.LittleEndian.AppendUint32(a.frame[:0], skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(a.table)+seekFooterSize))
	b = append(b, a.table...)
	b = binary.LittleEndian.AppendUint32(b, uint32(frames))
	b = append(b, 0)
	b = binary.LittleEndian.AppendUint32(b, seekMagic)
	if err := a.write(b); err != nil {
		return err
	}
	a.err = errArchiveClosed
	return nil
}

// groups is the number of groups written; the segment line's frame is before them.
func (a *ArchiveWriter) groups() int { return len(a.table)/seekEntrySize - 1 }

func (a *ArchiveWriter) writeFrame(content []byte) error {
	a.frame = encodeFrame(a.frame[:0], content)
	// The reader's rules, asked of our own encoder: a library that begins to write another header must not reach the disk.
	if _, err := checkFrame(a.frame, uint32(len(content))); err != nil || uint64(len(a.frame)) > maxFrameBytes(uint32(len(content))) {
		a.err = fmt.Errorf("write archive: encoder made a frame of %d bytes that the format does not allow: %w", len(a.frame), err)
		return a.err
	}
	a.table = binary.LittleEndian.AppendUint32(a.table, uint32(len(a.frame)))
	a.table = binary.LittleEndian.AppendUint32(a.table, uint32(len(content)))
	return a.write(a.frame)
}

func (a *ArchiveWriter) write(b []byte) error {
	n, err := a.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		a.err = fmt.Errorf("write archive: %w", err)
	}
	return a.err
}
