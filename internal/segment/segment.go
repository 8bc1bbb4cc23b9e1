// Package segment reads and writes segment files: the open segment's lines and batches, and the archives that sealing
// makes of them.
//
// docs/format.md, sections "Open segment" and "Sealed segment", is the contract. Every decoder here is strict (it accepts
// one encoding), bounded (it allocates for a stated length only after that length passed a limit) and total (any bytes give
// a value or an error with the file offset, never a panic).
package segment

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/tree-of-life-system/immutable/proof"
)

// Limits and sizes that are part of the format; never change.
const (
	MaxBatchEntries = 65536    // entries in one batch
	MaxBatchBytes   = 16 << 20 // bytes of one batch, its commit line and all newlines included
	MaxLineBytes    = 65535    // bytes of one entry line without its newline
	GroupSize       = 256      // entries in one archive frame, and leaves below one hash of tree/1

	maxGroups       = 1 << 24 // the index counts a segment's entries in 32 bits
	maxGroupBytes   = GroupSize * (MaxLineBytes + 1)
	maxControlBytes = 256 // a segment or commit line with its newline takes at most 186

	entryPrefix  = `{"id":`
	commitPrefix = `{"commit":`
	headerPrefix = `{"segment":`
)

// Suffixes of the files that belong to a segment; the base name before them is the first index as 20 digits.
const (
	PendingSuffix = ".jsonl"
	ArchiveSuffix = ".jsonl.zst"
	IndexSuffix   = ".idx"
	SearchSuffix  = ".sdx"
	SealSuffix    = ".seal"
)

// A CorruptError says that a file's bytes contradict the format: where, what, and both values. The caller, which knows the
// file's name, adds it.
type CorruptError struct {
	Offset    int64  // in the file, of the first byte that does not fit
	Msg       string // what does not fit
	Got, Want string // may both be empty
	Err       error  // the decoder's own error, or nil
}

func (e *CorruptError) Error() string {
	s := fmt.Sprintf("offset %d: %s", e.Offset, e.Msg)
	if e.Got != "" || e.Want != "" {
		s += fmt.Sprintf(": got %s, want %s", e.Got, e.Want)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *CorruptError) Unwrap() error { return e.Err }

// AppendHeader appends the segment line with its newline. first is a multiple of GroupSize, chain is the chain hash before
// entry first.
func AppendHeader(dst []byte, first uint64, chain proof.Hash) []byte {
	dst = append(dst, `{"segment":{"first":`...)
	dst = strconv.AppendUint(dst, first, 10)
	dst = append(dst, `,"chain":"`...)
	dst = hex.AppendEncode(dst, chain[:])
	return append(dst, "\"}}\n"...)
}

// ParseHeader is the inverse of AppendHeader for a line without its newline. It accepts nothing that AppendHeader would not
// write, no first index inside a group, and before entry 0 only the zero chain hash.
func ParseHeader(line []byte) (first uint64, chain proof.Hash, err error) {
	p := lineParser{rest: line}
	p.literal(`{"segment":{"first":`)
	first = p.decimal()
	p.literal(`,"chain":"`)
	chain = p.hex()
	p.literal(`"}}`)
	if err := p.end(); err != nil {
		return 0, proof.Hash{}, fmt.Errorf("segment line: %w", err)
	}
	if first%GroupSize != 0 {
		return 0, proof.Hash{}, fmt.Errorf("segment line: first index %d is not a multiple of %d", first, GroupSize)
	}
	if first == 0 && chain != (proof.Hash{}) {
		return 0, proof.Hash{}, fmt.Errorf("segment line: the chain hash before entry 0 is %x, want zeros", chain[:])
	}
	return first, chain, nil
}

// AppendCommit appends the commit line with its newline: the values after the batch.
func AppendCommit(dst []byte, from, size uint64, chain, root proof.Hash) []byte {
	dst = append(dst, `{"commit":{"from":`...)
	dst = strconv.AppendUint(dst, from, 10)
	dst = append(dst, `,"size":`...)
	dst = strconv.AppendUint(dst, size, 10)
	dst = append(dst, `,"chain":"`...)
	dst = hex.AppendEncode(dst, chain[:])
	dst = append(dst, `","root":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, root[:])
	return append(dst, "\"}}\n"...)
}

// ParseCommit is the inverse of AppendCommit for a line without its newline. It accepts nothing that AppendCommit would not
// write, and no size 0, because a batch has at least one entry.
func ParseCommit(line []byte) (from, size uint64, chain, root proof.Hash, err error) {
	p := lineParser{rest: line}
	p.literal(`{"commit":{"from":`)
	from = p.decimal()
	p.literal(`,"size":`)
	size = p.decimal()
	p.literal(`,"chain":"`)
	chain = p.hex()
	p.literal(`","root":"`)
	root = p.base64()
	p.literal(`"}}`)
	err = p.end()
	if err == nil && size <= from {
		err = fmt.Errorf("size is %d, want more than from, %d", size, from)
	}
	if err != nil {
		return 0, 0, proof.Hash{}, proof.Hash{}, fmt.Errorf("commit line: %w", err)
	}
	return from, size, chain, root, nil
}

// ReadHeader reads the segment line at the start of a file of the given length. n is the line's length with its newline: the
// offset of the first batch.
func ReadHeader(r io.ReaderAt, length int64) (first uint64, chain proof.Hash, n int64, err error) {
	buf := make([]byte, min(max(length, 0), maxControlBytes))
	if err := readFull(r, buf, 0); err != nil {
		return 0, proof.Hash{}, 0, err
	}
	i := bytes.IndexByte(buf, '\n')
	if i < 0 {
		return 0, proof.Hash{}, 0, &CorruptError{Msg: "segment line", Got: excerpt(buf), Want: "a line that begins " + headerPrefix}
	}
	first, chain, err = ParseHeader(buf[:i])
	if err != nil {
		return 0, proof.Hash{}, 0, &CorruptError{Msg: "segment line", Got: excerpt(buf[:i]), Want: "the canonical line", Err: err}
	}
	return first, chain, int64(i) + 1, nil
}

// SplitLines appends data's lines to dst, each without its newline and sharing data's memory. The last line must end in a
// newline too; empty data has no lines.
func SplitLines(dst [][]byte, data []byte) ([][]byte, error) {
	for pos := 0; pos < len(data); {
		i := bytes.IndexByte(data[pos:], '\n')
		if i < 0 {
			return dst, &CorruptError{Offset: int64(pos), Msg: "the last line has no newline", Got: excerpt(data[pos:]), Want: "a newline at the end"}
		}
		dst = append(dst, data[pos:pos+i:pos+i])
		pos += i + 1
	}
	return dst, nil
}

// ArchiveName is the base name of the archive of the segment that begins at entry first.
func ArchiveName(first uint64) string { return fmt.Sprintf("%020d", first) + ArchiveSuffix }

// PendingName is the base name of the segment while it waits to be sealed.
func PendingName(first uint64) string { return fmt.Sprintf("%020d", first) + PendingSuffix }

// IndexName is the base name of the segment's index.
func IndexName(first uint64) string { return fmt.Sprintf("%020d", first) + IndexSuffix }

// SearchName is the base name of the segment's search index.
func SearchName(first uint64) string { return fmt.Sprintf("%020d", first) + SearchSuffix }

// SealName is the base name of the segment's seal.
func SealName(first uint64) string { return fmt.Sprintf("%020d", first) + SealSuffix }

// ParseName takes the first index out of a base name with that suffix. It is false for any name that the four functions
// above do not make of a multiple of GroupSize up to proof.MaxSize.
func ParseName(name, suffix string) (first uint64, ok bool) {
	if len(name) != 20+len(suffix) || name[20:] != suffix {
		return 0, false
	}
	for i := range 20 {
		if name[i] < '0' || name[i] > '9' {
			return 0, false
		}
	}
	first, err := strconv.ParseUint(name[:20], 10, 64)
	return first, err == nil && first <= proof.MaxSize && first%GroupSize == 0
}

// A lineParser walks over a line of known shape; after the first mismatch everything is zero and end says where it was.
type lineParser struct {
	rest []byte
	pos  int // bytes consumed
	err  error
}

func (p *lineParser) fail(want string) {
	if p.err == nil {
		p.err = fmt.Errorf("byte %d: got %s, want %s", p.pos, excerpt(p.rest), want)
	}
}

func (p *lineParser) skip(n int) {
	p.rest = p.rest[n:]
	p.pos += n
}

func (p *lineParser) literal(s string) {
	if p.err != nil {
		return
	}
	if len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		p.fail(s)
		return
	}
	p.skip(len(s))
}

// decimal takes a number up to proof.MaxSize without sign, leading zero or exponent.
func (p *lineParser) decimal() uint64 {
	if p.err != nil {
		return 0
	}
	n := 0
	for n < len(p.rest) && n <= 20 && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(p.rest[:n]), 10, 64)
	if err != nil || v > proof.MaxSize || (n > 1 && p.rest[0] == '0') {
		p.fail("a decimal number below 2^63 without leading zeros")
		return 0
	}
	p.skip(n)
	return v
}

// hex takes 64 lower-case digits.
func (p *lineParser) hex() proof.Hash { return p.hash(64, "64 lower-case hex digits", proof.ParseHex) }

// base64 takes 44 characters of standard base64 with padding whose spare bits are zero.
func (p *lineParser) base64() proof.Hash {
	return p.hash(44, "the base64 of 32 bytes", proof.ParseHash)
}

func (p *lineParser) hash(n int, want string, parse func(string) (proof.Hash, error)) proof.Hash {
	if p.err != nil {
		return proof.Hash{}
	}
	h, err := parse(string(p.rest[:min(n, len(p.rest))]))
	if err != nil {
		p.fail(want)
		return proof.Hash{}
	}
	p.skip(n)
	return h
}

func (p *lineParser) end() error {
	if p.err == nil && len(p.rest) > 0 {
		p.fail("the end of the line")
	}
	return p.err
}

// excerpt makes hostile bytes safe to print: at most 240 of them, quoted unless they are printable ASCII without a backslash.
func excerpt(b []byte) string {
	const most = 240
	if len(b) == 0 {
		return "nothing"
	}
	more := ""
	if len(b) > most {
		more = fmt.Sprintf("… (%d bytes)", len(b))
		b = b[:most]
	}
	for _, c := range b {
		if c < 0x20 || c > 0x7e || c == '\\' {
			return strconv.QuoteToASCII(string(b)) + more
		}
	}
	return string(b) + more
}

// readFull reads len(buf) bytes at offset off; fewer is an error, whatever the reader calls it.
func readFull(r io.ReaderAt, buf []byte, off int64) error {
	n, err := r.ReadAt(buf, off)
	if n == len(buf) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at offset %d: %w", len(buf), off, err)
}
