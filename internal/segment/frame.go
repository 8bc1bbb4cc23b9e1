package segment

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// The parts of RFC 8878 and of the zstd seekable format that the archive uses; part of the format, never change.
const (
	frameMagic     = 0xFD2FB528
	skippableMagic = 0x184D2A5E
	seekMagic      = 0x8F92EAB1

	// Frame_Header_Descriptor: bits 7-6 size of the content size field, 5 single segment, 4 unused, 3 reserved, 2 checksum,
	// 1-0 dictionary id. Everything below the field size is fixed.
	descriptorFixed = 0x3f
	descriptorWant  = 1<<5 | 1<<2

	blockHeaderSize = 3
	checksumSize    = 4
	minFrameBytes   = 4 + 1 + 1 + blockHeaderSize + checksumSize

	seekEntrySize  = 8
	seekFooterSize = 9
	skippableSize  = 8 // magic and length in front of the table
)

// maxFrameBytes is the most bytes a frame of that content may take. It is zstd's own bound for the worst input, so that no
// encoder needs more; what is above it could only be filler.
func maxFrameBytes(content uint32) uint64 { return uint64(content) + uint64(content)/256 + 64 }

// checkFrame checks that src is exactly one frame in the one form that the format allows, with that content size, from its
// magic to its checksum. It does not look into blocks. On failure at is the offset of the fault in src.
func checkFrame(src []byte, content uint32) (at int, err error) {
	if len(src) < minFrameBytes {
		return 0, fmt.Errorf("frame of %d bytes, want at least %d", len(src), minFrameBytes)
	}
	if got := binary.LittleEndian.Uint32(src); got != frameMagic {
		return 0, fmt.Errorf("frame magic %#08x, want %#08x", got, uint32(frameMagic))
	}
	d := src[4]
	if err := checkDescriptor(d); err != nil {
		return 4, err
	}
	stated, n, err := contentSize(src[5:], d>>6)
	if err != nil {
		return 5, err
	}
	if stated != content {
		return 5, fmt.Errorf("frame states %d bytes of content, the seek table %d", stated, content)
	}
	pos := 5 + n
	for last := false; !last; {
		if len(src)-pos < blockHeaderSize {
			return pos, fmt.Errorf("block header behind the end of the frame")
		}
		h := uint32(src[pos]) | uint32(src[pos+1])<<8 | uint32(src[pos+2])<<16
		size := int(h >> 3)
		switch h >> 1 & 3 {
		case 1: // run length: one byte, repeated
			size = 1
		case 3:
			return pos, fmt.Errorf("reserved block type")
		}
		last = h&1 != 0
		if len(src)-pos-blockHeaderSize < size {
			return pos, fmt.Errorf("block of %d bytes reaches behind the end of the frame", size)
		}
		pos += blockHeaderSize + size
	}
	if len(src)-pos != checksumSize {
		return pos, fmt.Errorf("%d bytes after the last block, want the %d of the checksum", len(src)-pos, checksumSize)
	}
	return 0, nil
}

func checkDescriptor(d byte) error {
	switch {
	case d&descriptorFixed == descriptorWant:
		return nil
	case d&3 != 0:
		return fmt.Errorf("frame header %#02x names a dictionary", d)
	case d&(1<<2) == 0:
		return fmt.Errorf("frame header %#02x without checksum", d)
	case d&(1<<5) == 0:
		return fmt.Errorf("frame header %#02x is not single-segment", d)
	case d&(1<<3) != 0:
		return fmt.Errorf("frame header %#02x has the reserved bit set", d)
	default:
		return fmt.Errorf("frame header %#02x has the unused bit set", d)
	}
}

// contentSize reads the Frame_Content_Size field and refuses one that is not the shortest for its value. b has at least
// the 8 bytes that follow the descriptor in a frame of minFrameBytes.
func contentSize(b []byte, flag byte) (v uint32, n int, err error) {
	shortest := uint32(0)
	switch flag {
	case 0:
		return uint32(b[0]), 1, nil
	case 1:
		return uint32(binary.LittleEndian.Uint16(b)) + 256, 2, nil
	case 2:
		v, shortest = binary.LittleEndian.Uint32(b), 65536+256
	default:
		return 0, 0, fmt.Errorf("8-byte content size field, want the shortest")
	}
	if v < shortest {
		return 0, 0, fmt.Errorf("4-byte content size field for %d bytes, want the shortest", v)
	}
	return v, 4, nil
}

// Coders are shared by all archives of the process, so that an idle log holds none: an encoder keeps 1.5 MiB, a decoder
// 0.2 MiB. Both are used only through EncodeAll and DecodeAll, which start no goroutines, so that the garbage collector may
// drop them.
var (
	encoders = sync.Pool{New: func() any { return newEncoder(zstd.SpeedFastest) }}
	decoders = sync.Pool{New: func() any { return newDecoder() }}
	buffers  = sync.Pool{New: func() any { return new([]byte) }}
)

// The window only limits how far back a match may reach. 256 lines of the usual length are one block, whatever it is.
const encoderWindow = 1 << 20

func newEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(encoderWindow), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true))
	if err != nil {
		panic("segment: zstd refuses our constant encoder options: " + err.Error())
	}
	return e
}

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxGroupBytes), zstd.IgnoreChecksum(false))
	if err != nil {
		panic("segment: zstd refuses our constant decoder options: " + err.Error())
	}
	return d
}

// encodeFrame appends one frame that holds src.
func encodeFrame(dst, src []byte) []byte {
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	return e.EncodeAll(src, dst)
}

// decodeFrame decodes src into dst's memory, which it may replace. The caller has passed src through checkFrame.
func decodeFrame(dst, src []byte, content uint32) ([]byte, error) {
	d := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(d)
	out, err := d.DecodeAll(src, dst[:0])
	if err != nil {
		return nil, fmt.Errorf("decode frame: %w", err)
	}
	if uint64(len(out)) != uint64(content) {
		return nil, fmt.Errorf("frame decodes to %d bytes, want %d", len(out), content)
	}
	return out, nil
}

// keepBuffer is the largest buffer that a pool keeps; larger ones are for groups of very long lines.
const keepBuffer = 1 << 20

func getBuffer(n int) *[]byte {
	b := buffers.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

func putBuffer(b *[]byte) {
	if cap(*b) <= keepBuffer {
		buffers.Put(b)
	}
}
