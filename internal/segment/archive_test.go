package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/tree-of-life-system/immutable/proof"
)

// groupLines is group g's 256 lines with newlines, of lines as short as n bytes or, for n = 0, usual ones.
func groupLines(g uint64, n int) []byte {
	var b []byte
	for i := range uint64(GroupSize) {
		line := entryLine(g*GroupSize + i)
		if n > 0 {
			line = line[:n]
		}
		b = append(append(b, line...), '\n')
	}
	return b
}

func writeArchive(t testing.TB, first uint64, groups ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewArchiveWriter(&out, first, chainBefore(first))
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if err := w.WriteGroup(g); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(first+uint64(len(groups))*GroupSize, hashOf(1), hashOf(2)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func chainBefore(first uint64) proof.Hash {
	if first == 0 {
		return proof.Hash{}
	}
	return hashOf(9)
}

// readArchive is everything that an archive says, or the first error.
func readArchive(data []byte) (header string, groups [][]byte, commit string, err error) {
	a, err := OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", nil, "", err
	}
	for g := range a.Groups() {
		lines, err := a.Group(nil, g)
		if err != nil {
			return "", nil, "", err
		}
		groups = append(groups, lines)
	}
	size, chain, root := a.Commit()
	if a.End() != size {
		return "", nil, "", fmt.Errorf("end %d and size %d", a.End(), size)
	}
	return string(AppendHeader(nil, a.First(), a.Chain())), groups, string(AppendCommit(nil, a.First(), size, chain, root)), nil
}

func TestArchiveReturnsWhatWasWritten(t *testing.T) {
	long := bytes.Repeat(append(append([]byte(`{"id":`), bytes.Repeat([]byte("z"), MaxLineBytes-6)...), '\n'), GroupSize)
	rng := rand.New(rand.NewPCG(3, 4))
	random := bytes.Clone(long) // 16 MiB that do not compress
	for i := range random {
		if random[i] == 'z' {
			random[i] = byte(rng.IntN(256)) | 0x40
		}
	}
	want := [][]byte{groupLines(2, 0), groupLines(3, 6), long, groupLines(5, 100), random}
	data := writeArchive(t, 512, want...)
	header, got, commit, err := readArchive(data)
	if err != nil {
		t.Fatal(err)
	}
	if header != string(AppendHeader(nil, 512, hashOf(9))) || commit != string(AppendCommit(nil, 512, 512+5*256, hashOf(1), hashOf(2))) {
		t.Errorf("header %q commit %q", header, commit)
	}
	for g := range want {
		if !bytes.Equal(got[g], want[g]) {
			t.Errorf("group %d differs", g)
		}
	}
	a, err := OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10, 1<<20)
	if lines, err := a.Group(buf, 1); err != nil || &lines[0] != &buf[0] || !bytes.Equal(lines, want[1]) {
		t.Errorf("a buffer that is large enough is not used: %v", err)
	}
	if binary.LittleEndian.Uint32(data[a.Offset(4):]) != frameMagic {
		t.Error("no frame at Offset")
	}
	for _, g := range []int{-1, 5} {
		if _, err := a.Group(nil, g); err == nil {
			t.Errorf("group %d exists", g)
		}
	}
}

func TestArchiveServesConcurrentReaders(t *testing.T) {
	var want [][]byte
	for g := range uint64(6) {
		want = append(want, groupLines(g, int(100+g)))
	}
	data := writeArchive(t, 0, want...)
	a, err := OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for r := range 4 {
		wg.Go(func() {
			var buf []byte
			for i := range 60 {
				g := (i + r) % len(want)
				var err error
				if buf, err = a.Group(buf, g); err != nil || !bytes.Equal(buf, want[g]) {
					t.Errorf("reader %d, group %d: %v", r, g, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestStockZstdReadsArchives(t *testing.T) {
	path, err := exec.LookPath("zstd")
	if err != nil {
		t.Skip("no zstd command")
	}
	groups := [][]byte{groupLines(0, 0), groupLines(1, 200), groupLines(2, 8)}
	cmd := exec.Command(path, "-dc")
	cmd.Stdin = bytes.NewReader(writeArchive(t, 0, groups...))
	got, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := append(AppendHeader(nil, 0, proof.Hash{}), bytes.Join(groups, nil)...)
	want = AppendCommit(want, 0, 768, hashOf(1), hashOf(2))
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

func smallArchive(t testing.TB) ([]byte, [][]byte) {
	groups := [][]byte{groupLines(1, 12), groupLines(2, 20)}
	return writeArchive(t, 256, groups...), groups
}

// checkDamaged reads a changed archive: either it is refused, or all its decoded lines are the original ones.
func checkDamaged(t *testing.T, original [][]byte, data []byte, what string) (refused bool) {
	t.Helper()
	header, groups, commit, err := readArchive(data)
	if err != nil {
		return true
	}
	if header != string(AppendHeader(nil, 256, hashOf(9))) || commit != string(AppendCommit(nil, 256, 768, hashOf(1), hashOf(2))) || len(groups) != len(original) {
		t.Fatalf("%s: read as header %q, commit %q, %d groups", what, header, commit, len(groups))
	}
	for g := range groups {
		if !bytes.Equal(groups[g], original[g]) {
			t.Fatalf("%s: group %d differs", what, g)
		}
	}
	return false
}

func TestArchiveSurvivesEveryFlippedByte(t *testing.T) {
	good, groups := smallArchive(t)
	accepted := 0
	for i := range good {
		for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 0xff} {
			data := bytes.Clone(good)
			data[i] ^= x
			if !checkDamaged(t, groups, data, fmt.Sprintf("byte %d xor %#x", i, x)) {
				accepted++
				t.Logf("byte %d of %d xor %#x decodes to the same lines", i, len(good), x)
			}
		}
	}
	// Compressed bytes may have more than one form; only the seal fixes them. It must stay an exception.
	if accepted > 9*len(good)/100 {
		t.Errorf("%d of %d changes are accepted", accepted, 9*len(good))
	}
}

func TestArchiveSurvivesEveryTruncationAndExtension(t *testing.T) {
	good, groups := smallArchive(t)
	if checkDamaged(t, groups, good, "unchanged") {
		t.Fatal("the good archive is refused")
	}
	for n := range good {
		if !checkDamaged(t, groups, good[:n], "cut") {
			t.Errorf("accepted when cut at %d", n)
		}
		if !checkDamaged(t, groups, good[n:], "begun late") && n > 0 {
			t.Errorf("accepted without its first %d bytes", n)
		}
	}
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z'}
	extra := [][]byte{{0}, {'\n'}, skippable, {0x5e, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, encodeFrame(nil, []byte("hidden\n")), good}
	for n := range len(good) + 1 {
		for _, e := range extra {
			data := append(append(bytes.Clone(good[:n]), e...), good[n:]...)
			if !checkDamaged(t, groups, data, "inserted") {
				t.Errorf("accepted with % x inserted at %d", e[:min(len(e), 12)], n)
			}
		}
	}
}

// A part is one frame of a forged archive and what its table says.
type part struct {
	frame               []byte
	compressed, content uint32
}

func frameOf(content string) part {
	f := encodeFrame(nil, []byte(content))
	return part{f, uint32(len(f)), uint32(len(content))}
}

func forge(parts ...part) []byte {
	var data, table []byte
	for _, p := range parts {
		data = append(data, p.frame...)
		table = binary.LittleEndian.AppendUint32(table, p.compressed)
		table = binary.LittleEndian.AppendUint32(table, p.content)
	}
	data = binary.LittleEndian.AppendUint32(data, skippableMagic)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(table)+seekFooterSize))
	data = append(data, table...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(parts)))
	data = append(data, 0)
	return binary.LittleEndian.AppendUint32(data, seekMagic)
}

// reframe encodes content with other options than ours.
func reframe(t *testing.T, content string, o ...zstd.EOption) part {
	e, err := zstd.NewWriter(nil, o...)
	if err != nil {
		t.Fatal(err)
	}
	f := e.EncodeAll([]byte(content), nil)
	return part{f, uint32(len(f)), uint32(len(content))}
}

func TestArchiveRefusesForgeries(t *testing.T) {
	header := string(AppendHeader(nil, 256, hashOf(9)))
	group := string(groupLines(1, 20))
	commit := string(AppendCommit(nil, 256, 512, hashOf(1), hashOf(2)))
	h, g, c := frameOf(header), frameOf(group), frameOf(commit)
	if _, _, _, err := readArchive(forge(h, g, c)); err != nil {
		t.Fatalf("the unforged archive: %v", err)
	}
	if got := writeArchive(t, 256, []byte(group)); !bytes.Equal(got, forge(h, g, c)) {
		t.Fatal("the writer lays out another file than the forger")
	}
	edit := func(p part, f func(b []byte) []byte) part {
		p.frame = f(bytes.Clone(p.frame))
		p.compressed = uint32(len(p.frame))
		return p
	}
	descriptor := func(p part, bit byte) part {
		return edit(p, func(b []byte) []byte { b[4] ^= bit; return b })
	}
	insert := func(p part, at int, s ...byte) part {
		return edit(p, func(b []byte) []byte { return append(append(bytes.Clone(b[:at]), s...), b[at:]...) })
	}
	says := func(p part, compressed, content uint32) part {
		p.compressed, p.content = compressed, content
		return p
	}
	lines := strings.SplitAfter(group, "\n")[:GroupSize]
	single := zstd.WithSingleSegment(true)
	wide := edit(h, func(b []byte) []byte { // content size in four bytes instead of one
		return append(append(append(bytes.Clone(b[:4]), b[4]|2<<6), b[5], 0, 0, 0), b[6:]...)
	})
	widest := edit(h, func(b []byte) []byte {
		return append(append(append(bytes.Clone(b[:4]), b[4]|3<<6), b[5], 0, 0, 0, 0, 0, 0, 0), b[6:]...)
	})
	bomb := edit(g, func(b []byte) []byte { // 32 MiB of one byte, honestly stated everywhere
		b = append(b[:4], 0xa4)
		b = binary.LittleEndian.AppendUint32(b, 32<<20)
		for range 32 << 20 / (128 << 10) {
			b = append(b, 1<<1, 0, 128/8, 'x') // run length block of 128 KiB
		}
		b[len(b)-4] |= 1
		return append(b, 0, 0, 0, 0)
	})
	for name, data := range map[string][]byte{
		"no frames":                   forge(),
		"no group":                    forge(h, c),
		"no commit":                   forge(h, g),
		"no header":                   forge(g, c),
		"groups swapped with control": forge(g, h, c),
		"commit of another size":      forge(h, g, frameOf(string(AppendCommit(nil, 256, 768, hashOf(1), hashOf(2))))),
		"a group missing":             forge(h, g, g, c),
		"header of a larger segment":  forge(frameOf(strings.Replace(header, "256", "9223372036854775552", 1)), g, c),
		"two header lines":            forge(frameOf(header+header), g, c),
		"header without newline":      forge(frameOf(header[:len(header)-1]), g, c),
		"commit with spaces":          forge(h, g, frameOf(strings.Replace(commit, ":", ": ", 1))),
		"255 lines":                   forge(h, frameOf(strings.Join(lines[1:], "")), c),
		"257 lines":                   forge(h, frameOf(group+lines[0]), c),
		"half a line more":            forge(h, frameOf(group+lines[0][:10]), c),
		"last newline missing":        forge(h, frameOf(group[:len(group)-1]), c),
		"empty line":                  forge(h, frameOf(strings.Join(lines[1:], "")+"\n"), c),
		"commit line in a group":      forge(h, frameOf(strings.Join(lines[1:], "")+commit), c),
		"line too long":               forge(h, frameOf(strings.Join(lines[1:], "")+`{"id":`+strings.Repeat("x", MaxLineBytes)+"\n"), c),
		"unused bit":                  forge(h, descriptor(g, 1<<4), c),
		"reserved bit":                forge(h, descriptor(g, 1<<3), c),
		"no checksum":                 forge(h, reframe(t, group, single, zstd.WithEncoderCRC(false)), c),
		"checksum flag off":           forge(h, descriptor(g, 1<<2), c),
		"dictionary id":               forge(h, insert(descriptor(g, 1), 5, 0), c),
		"window descriptor":           forge(h, reframe(t, group, zstd.WithSingleSegment(false)), c),
		"4-byte content size":         forge(wide, g, c),
		"8-byte content size":         forge(widest, g, c),
		"padding frame":               forge(h, reframe(t, group, single, zstd.WithEncoderPadding(512)), c),
		"two frames in one entry":     forge(h, says(insert(g, len(g.frame), g.frame...), g.compressed*2, g.content), c),
		"byte after the checksum":     forge(h, insert(g, len(g.frame), 0), c),
		"byte between frames":         forge(h, part{append(bytes.Clone(g.frame), 0), g.compressed, g.content}, c),
		"skippable frame as data":     forge(h, insert(g, 0, 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0), c),
		"content stated smaller":      forge(h, says(g, g.compressed, g.content-1), c),
		"content stated larger":       forge(h, says(g, g.compressed, g.content+1), c),
		"content above the limit":     forge(h, says(g, g.compressed, maxGroupBytes+1), c),
		"content 4 GiB":               forge(h, says(g, g.compressed, 1<<32-1), c),
		"compressed 4 GiB":            forge(h, says(g, 1<<32-1, g.content), c),
		"compressed 0":                forge(h, says(g, 0, g.content), c),
		"filler in the frame":         forge(h, insert(g, 7, bytes.Repeat([]byte{0, 0, 0}, 3000)...), c),
		"wrong magic":                 forge(h, edit(g, func(b []byte) []byte { b[0]++; return b }), c),
		"bomb":                        forge(h, says(bomb, uint32(len(bomb.frame)), 32<<20), c),
		"bomb with a small statement": forge(h, says(bomb, uint32(len(bomb.frame)), g.content), c),
	} {
		_, _, _, err := readArchive(data)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Offset < 0 || corrupt.Offset > int64(len(data)) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

func TestArchiveRefusesImpossibleTables(t *testing.T) {
	good, groups := smallArchive(t)
	footer := len(good) - seekFooterSize
	for _, frames := range []uint32{0, 1, 2, 3, 5, 1 << 24, 1 << 29, 1<<29 + 4, 1<<31 + 4, 1<<32 - 1} {
		data := bytes.Clone(good)
		binary.LittleEndian.PutUint32(data[footer:], frames)
		if !checkDamaged(t, groups, data, "frames") {
			t.Errorf("accepted with %d frames", frames)
		}
	}
	for _, size := range []int64{-1, 0, int64(len(good)) - 1, int64(len(good)) + 1, 1 << 62} {
		if _, err := OpenArchive(bytes.NewReader(good), size); err == nil {
			t.Errorf("opened as a file of %d bytes", size)
		}
	}
}

func TestEncoderWritesOnlyCanonicalFrames(t *testing.T) {
	text := bytes.Repeat(groupLines(0, 0), 1+maxGroupBytes/len(groupLines(0, 0)))
	noise := make([]byte, 70000)
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	check := func(src []byte) {
		frame := encodeFrame(nil, src)
		if at, err := checkFrame(frame, uint32(len(src))); err != nil || uint64(len(frame)) > maxFrameBytes(uint32(len(src))) {
			t.Fatalf("%d bytes make a frame of %d bytes, at %d: %v", len(src), len(frame), at, err)
		}
		if got, err := decodeFrame(nil, frame, uint32(len(src))); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d bytes do not come back: %v", len(src), err)
		}
	}
	sizes := []int{65535, 65536, 65790, 65791, 65792, 65793, 70000, 128 << 10, 128<<10 + 1}
	for n := 1; n < 70000; n++ {
		if n < 1100 || n%131 == 0 {
			sizes = append(sizes, n)
		}
	}
	for _, n := range sizes {
		check(text[:n])
		check(noise[:min(n, len(noise))])
		check(bytes.Repeat([]byte("a"), n))
	}
	check(text[:maxGroupBytes])
}

func TestArchiveWriterRefusesWhatReadersRefuse(t *testing.T) {
	group := groupLines(0, 30)
	start := func() *ArchiveWriter {
		w, err := NewArchiveWriter(new(bytes.Buffer), 0, proof.Hash{})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "255 lines": group[31:], "257 lines": append(bytes.Clone(group), group[:31]...), "no newline": group[:len(group)-1],
		"other line": append(bytes.Clone(group[31:]), "{\"commit\":1}\n"...),
	} {
		w := start()
		first := w.WriteGroup(bad)
		if first == nil || w.WriteGroup(group) == nil || w.Close(256, proof.Hash{}, proof.Hash{}) == nil {
			t.Errorf("%s: the writer goes on after %v", name, first)
		}
	}
	if err := start().Close(0, proof.Hash{}, proof.Hash{}); err == nil {
		t.Error("archive without a group")
	}
	w := start()
	if err := w.WriteGroup(group); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(512, proof.Hash{}, proof.Hash{}); err == nil {
		t.Error("archive with another size than its groups")
	}
	for _, first := range []uint64{1, 255, 1 << 63} {
		if _, err := NewArchiveWriter(new(bytes.Buffer), first, hashOf(0)); err == nil {
			t.Errorf("archive from entry %d", first)
		}
	}
	w, err := NewArchiveWriter(new(bytes.Buffer), proof.MaxSize-GroupSize+1, hashOf(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteGroup(group); err == nil {
		t.Error("archive beyond the largest size")
	}
}

// limitedWriter fails after n bytes.
type limitedWriter struct{ n int }

var errFull = errors.New("no space")

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.n {
		return w.n, errFull
	}
	w.n -= len(b)
	return len(b), nil
}

func TestArchiveWriterReportsEveryFailedWrite(t *testing.T) {
	good, groups := smallArchive(t)
	for n := range good {
		w, err := NewArchiveWriter(&limitedWriter{n}, 256, hashOf(9))
		for _, g := range groups {
			if err == nil {
				err = w.WriteGroup(g)
			}
		}
		if err == nil {
			err = w.Close(768, hashOf(1), hashOf(2))
		}
		if !errors.Is(err, errFull) {
			t.Fatalf("disk full after %d of %d bytes: %v", n, len(good), err)
		}
	}
}

func FuzzOpenArchive(f *testing.F) {
	good, _ := smallArchive(f)
	f.Add(good)
	f.Add(forge(frameOf("{}\n"), frameOf("x"), frameOf("y")))
	f.Fuzz(func(t *testing.T, data []byte) {
		header, groups, commit, err := readArchive(data)
		if err != nil {
			return
		}
		// What is accepted has the decoded form of an archive that we would write.
		lines := append([]byte(header), bytes.Join(groups, nil)...)
		lines = append(lines, commit...)
		all, err := SplitLines(nil, lines)
		if err != nil || len(all) != 2+GroupSize*len(groups) {
			t.Errorf("%d lines in %d groups: %v", len(all), len(groups), err)
		}
		var whole []byte
		d := newDecoder()
		defer d.Close()
		if whole, err = d.DecodeAll(data, nil); err != nil || !bytes.Equal(whole, lines) {
			t.Errorf("a plain decoder reads other lines: %v", err)
		}
	})
}

func BenchmarkArchiveWriter(b *testing.B) {
	var groups [][]byte
	total := 0
	for g := range uint64(40) {
		groups = append(groups, groupLines(g, 0))
		total += len(groups[g])
	}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
		b.Run(level.String(), func(b *testing.B) {
			e := newEncoder(level)
			defer e.Close()
			b.SetBytes(int64(total))
			var frame []byte
			compressed := 0
			for b.Loop() {
				compressed = 0
				for _, g := range groups {
					frame = e.EncodeAll(g, frame[:0])
					compressed += len(frame)
				}
			}
			b.ReportMetric(float64(total)/float64(compressed), "ratio")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(groups)*GroupSize), "ns/line")
		})
	}
	b.Run("whole", func(b *testing.B) {
		b.SetBytes(int64(total))
		b.ReportAllocs()
		var out bytes.Buffer
		for b.Loop() {
			out.Reset()
			w, err := NewArchiveWriter(&out, 0, proof.Hash{})
			if err != nil {
				b.Fatal(err)
			}
			for _, g := range groups {
				if err := w.WriteGroup(g); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Close(uint64(len(groups))*GroupSize, proof.Hash{}, proof.Hash{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkArchiveGroup(b *testing.B) {
	g := groupLines(0, 0)
	data := writeArchive(b, 0, g, groupLines(1, 0))
	a, err := OpenArchive(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(g)))
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		if buf, err = a.Group(buf, 0); err != nil {
			b.Fatal(err)
		}
	}
}
