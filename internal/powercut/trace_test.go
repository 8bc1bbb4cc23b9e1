package powercut

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
)

// A trace is what a disk was told, in order: records of a 16-byte header (u64 offset, u32 length, u32 kind, little endian)
// and length bytes. A moment is a length of the trace in bytes.

const (
	traceHeader = 16
	kindWrite   = 1
	kindFlush   = 2 // everything before it is on the medium

	// sectorSize is what the disk writes whole or not at all, in bytes. The loop device announces it, so ext4 relies on it.
	sectorSize = 4096
)

// record is one write or flush.
type record struct {
	kind   uint32
	offset int64
	data   []byte
	end    int64 // the moment at which it was done
}

func appendRecord(dst []byte, kind uint32, offset int64, data []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(offset))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	dst = binary.LittleEndian.AppendUint32(dst, kind)
	return append(dst, data...)
}

// parseTrace reads the records of a trace for a disk of size bytes. Their data is not copied.
func parseTrace(trace []byte, size int64) ([]record, error) {
	var records []record
	for at := 0; at < len(trace); {
		rest := trace[at:]
		if len(rest) < traceHeader {
			return nil, fmt.Errorf("trace ends within a header at %d", at)
		}
		r := record{offset: int64(binary.LittleEndian.Uint64(rest)), kind: binary.LittleEndian.Uint32(rest[12:])}
		n := int64(binary.LittleEndian.Uint32(rest[8:]))
		if n > int64(len(rest)-traceHeader) {
			return nil, fmt.Errorf("trace ends within the record at %d", at)
		}
		r.data = rest[traceHeader:][:n]
		at += traceHeader + int(n)
		r.end = int64(at)
		switch {
		case r.kind == kindFlush && n == 0:
		case r.kind != kindWrite:
			return nil, fmt.Errorf("record of kind %d and length %d that ends at %d", r.kind, n, at)
		case r.offset < 0 || r.offset > size-n || r.offset%sectorSize != 0 || n%sectorSize != 0:
			return nil, fmt.Errorf("write of %d bytes at %d is not of whole sectors of a disk of %d bytes", n, r.offset, size)
		}
		records = append(records, r)
	}
	return records, nil
}

// replay makes the states of a disk from its trace, moment by moment onwards.
type replay struct {
	records []record
	flushed []byte // the disk as of the last flush: what no power cut takes away
	next    int    // records before it are in flushed or in pending
	pending []record
}

func newReplay(base []byte, records []record) *replay {
	return &replay{records: records, flushed: slices.Clone(base)}
}

// forward goes on to the moment: every record that was done by then has happened.
func (p *replay) forward(moment int64) {
	for ; p.next < len(p.records) && p.records[p.next].end <= moment; p.next++ {
		r := p.records[p.next]
		if r.kind == kindWrite {
			p.pending = append(p.pending, r)
			continue
		}
		for _, w := range p.pending {
			copy(p.flushed[w.offset:], w.data)
		}
		p.pending = p.pending[:0]
	}
}

// unflushed is how many bytes were written since the last flush.
func (p *replay) unflushed() (n int) {
	for _, w := range p.pending {
		n += len(w.data)
	}
	return n
}

// cut puts the disk after a power cut into dst. Of each sector that was written since the last flush the disk has any version:
// each write reached the medium with the given probability, independently of what was written before it or beside it.
func (p *replay) cut(dst []byte, rng *rand.Rand, kept float64) {
	copy(dst, p.flushed)
	for _, w := range p.pending {
		for i := 0; i < len(w.data); i += sectorSize {
			if kept == 1 || rng.Float64() < kept {
				copy(dst[w.offset+int64(i):], w.data[i:i+sectorSize])
			}
		}
	}
}

// TestCutHasFlushedSectorsAndOnlyWrittenOnes compares a cut with all the versions of each sector that the medium may have.
func TestCutHasFlushedSectorsAndOnlyWrittenOnes(t *testing.T) {
	const sectors = 16
	rng := vfstest.Rand(t)
	var trace []byte
	base := make([]byte, sectors*sectorSize)
	for n := range 200 {
		if rng.IntN(8) == 0 {
			trace = appendRecord(trace, kindFlush, 0, nil)
			continue
		}
		at := rng.IntN(sectors)
		length := 1 + rng.IntN(min(4, sectors-at))
		trace = appendRecord(trace, kindWrite, int64(at*sectorSize), bytes.Repeat([]byte{byte(n + 1)}, length*sectorSize))
	}
	records, err := parseTrace(trace, int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	p := newReplay(base, records)
	dst := make([]byte, len(base))
	versions := make([][]byte, sectors) // that the medium may have; the last is the newest
	for i := range versions {
		versions[i] = []byte{0}
	}
	for _, r := range records {
		for s := range versions {
			switch {
			case r.kind == kindFlush:
				versions[s] = versions[s][len(versions[s])-1:]
			case r.offset <= int64(s*sectorSize) && int64(s*sectorSize) < r.offset+int64(len(r.data)):
				versions[s] = append(versions[s], r.data[0])
			}
		}
		p.forward(r.end)
		for _, kept := range []float64{0, 0.5, 1} {
			p.cut(dst, rng, kept)
			for s, all := range versions {
				sector := dst[s*sectorSize:][:sectorSize]
				got := sector[0]
				want := slices.Contains(all, got)
				switch kept {
				case 0:
					want = got == all[0]
				case 1:
					want = got == all[len(all)-1]
				}
				if !want || !bytes.Equal(sector, bytes.Repeat([]byte{got}, sectorSize)) {
					t.Fatalf("at %d, kept %v: sector %d is %d, the medium may have %d", r.end, kept, s, got, all)
				}
			}
		}
	}
}

// TestBrokenTraceIsRefused: a recorder that lost bytes must not make disks that never were.
func TestBrokenTraceIsRefused(t *testing.T) {
	const size = 8 * sectorSize
	good := appendRecord(appendRecord(nil, kindWrite, sectorSize, make([]byte, sectorSize)), kindFlush, 0, nil)
	if _, err := parseTrace(good, size); err != nil {
		t.Fatal(err)
	}
	for name, trace := range map[string][]byte{
		"cut header":     good[:len(good)-1],
		"cut data":       good[:sectorSize],
		"unknown kind":   appendRecord(nil, 3, 0, nil),
		"flush of bytes": appendRecord(nil, kindFlush, 0, make([]byte, sectorSize)),
		"half a sector":  appendRecord(nil, kindWrite, 0, make([]byte, 512)),
		"between two":    appendRecord(nil, kindWrite, 512, make([]byte, sectorSize)),
		"past the end":   appendRecord(nil, kindWrite, size, make([]byte, sectorSize)),
		"before 0":       appendRecord(nil, kindWrite, -sectorSize, make([]byte, sectorSize)),
	} {
		if _, err := parseTrace(trace, size); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
