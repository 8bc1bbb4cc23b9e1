package segment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// scanned is what a scan reports, copied.
type scanned struct {
	lines   [][]byte
	leaves  []proof.Hash
	batches []Batch
	tail    Tail
	f       *tree.Frontier
}

func scan(t testing.TB, data []byte, offset int64, chain proof.Hash, f *tree.Frontier) scanned {
	t.Helper()
	s := scanned{f: f}
	tail, err := Scan(context.Background(), bytes.NewReader(data), offset, int64(len(data)), chain, f, func(b *Batch) error {
		for _, l := range b.Lines {
			s.lines = append(s.lines, bytes.Clone(l))
		}
		s.leaves = append(s.leaves, b.Leaves...)
		s.batches = append(s.batches, Batch{Offset: b.Offset, End: b.End, First: b.First, Size: b.Size, Chain: b.Chain, Root: b.Root})
		return nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	s.tail = tail
	if want := sha256.Sum256(data[tail.Offset:]); tail.SHA256 != want || tail.Offset+tail.Length != int64(len(data)) {
		t.Fatalf("tail %+v does not describe the bytes after it", tail)
	}
	if (tail.Length == 0) != (tail.Reason == "") {
		t.Fatalf("tail of %d bytes with reason %q", tail.Length, tail.Reason)
	}
	if want := naiveCommitInside(data[tail.Offset:]); tail.CommitInside != want {
		t.Fatalf("CommitInside = %v, want %v", tail.CommitInside, want)
	}
	return s
}

func naiveCommitInside(tail []byte) bool {
	lines := strings.SplitAfter(string(tail), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, commitPrefix) && strings.HasSuffix(l, "\n") && strings.Join(lines[i+1:], "") != "" {
			return true
		}
	}
	return false
}

func TestScanReportsWhatWasWritten(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	l := new(testLog)
	for len(l.leaves) < 9000 {
		switch rng.IntN(4) {
		case 0:
			l.grow(1)
		case 1:
			l.grow(1 + rng.IntN(20))
		case 2:
			l.grow(1 + rng.IntN(2000))
		default:
			long := fmt.Appendf(nil, `{"id":"%s"}`, strings.Repeat("x", rng.IntN(MaxLineBytes-9)))
			l.batch(entryLine(1), long, entryLine(2))
		}
	}
	header := AppendHeader(nil, 0, proof.Hash{})
	data := append(bytes.Clone(header), l.data...)
	// From each batch boundary, with the state there, the rest is the same.
	for start := 0; start < len(l.ends); start += 1 + rng.IntN(7) {
		offset, size, chain := int64(len(header)), 0, proof.Hash{}
		if start > 0 {
			offset += int64(l.ends[start-1])
			size, chain = batchState(t, l, start)
		}
		s := scan(t, data, offset, chain, l.frontier(size))
		if s.tail.Length != 0 || len(s.batches) != len(l.ends)-start || s.f.Size() != uint64(len(l.leaves)) || s.f.Root() != proof.Root(l.leaves) {
			t.Fatalf("from batch %d: %d batches, size %d, tail %+v", start, len(s.batches), s.f.Size(), s.tail)
		}
		for i, b := range s.batches {
			if b.End != int64(len(header)+l.ends[start+i]) || b.Offset != offset {
				t.Fatalf("batch %d at %d to %d", start+i, b.Offset, b.End)
			}
			offset = b.End
		}
		for i, line := range s.lines {
			if !bytes.Equal(line, l.lines[size+i]) || s.leaves[i] != l.leaves[size+i] {
				t.Fatalf("entry %d: got %q", size+i, line)
			}
		}
		if last := s.batches[len(s.batches)-1]; last.Chain != l.chain || last.Size != uint64(len(l.leaves)) {
			t.Fatalf("last batch %+v", last)
		}
	}
}

// batchState parses the commit line before batch k.
func batchState(t *testing.T, l *testLog, k int) (int, proof.Hash) {
	t.Helper()
	lines, err := SplitLines(nil, l.data[:l.ends[k-1]])
	if err != nil {
		t.Fatal(err)
	}
	_, size, chain, _, err := ParseCommit(lines[len(lines)-1])
	if err != nil {
		t.Fatal(err)
	}
	return int(size), chain
}

func smallLog() *testLog {
	l := new(testLog)
	l.grow(2)
	l.grow(1)
	l.grow(3)
	return l
}

// checkPrefix checks that a scan reported exactly the first k original batches.
func checkPrefix(t *testing.T, l *testLog, s scanned, k int, what string) {
	t.Helper()
	if len(s.batches) != k {
		t.Fatalf("%s: %d batches, want %d (tail %+v)", what, len(s.batches), k, s.tail)
	}
	for i, line := range s.lines {
		if !bytes.Equal(line, l.lines[i]) {
			t.Fatalf("%s: entry %d is %q", what, i, line)
		}
	}
	end := 0
	if k > 0 {
		end = l.ends[k-1]
	}
	if s.tail.Offset != int64(end) || s.f.Size() != uint64(len(s.lines)) || s.f.Root() != proof.Root(l.leaves[:len(s.lines)]) {
		t.Fatalf("%s: state after batch %d: %+v", what, k, s.tail)
	}
}

func TestScanSurvivesEveryFlippedByte(t *testing.T) {
	l := smallLog()
	for i := range l.data {
		batch := 0
		for l.ends[batch] <= i {
			batch++
		}
		for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 0xff, l.data[i] ^ '\n', l.data[i]} {
			if x == 0 {
				continue
			}
			data := bytes.Clone(l.data)
			data[i] ^= x
			what := fmt.Sprintf("byte %d xor %#x", i, x)
			s := scan(t, data, 0, proof.Hash{}, new(tree.Frontier))
			checkPrefix(t, l, s, batch, what)
			if s.tail.Length == 0 || s.tail.At < s.tail.Offset || s.tail.At > int64(len(data)) || s.tail.Got == s.tail.Want {
				t.Fatalf("%s: tail %+v", what, s.tail)
			}
		}
	}
}

func TestScanSurvivesEveryTruncation(t *testing.T) {
	l := smallLog()
	for n := range len(l.data) + 1 {
		batches := 0
		for batches < len(l.ends) && l.ends[batches] <= n {
			batches++
		}
		s := scan(t, l.data[:n], 0, proof.Hash{}, new(tree.Frontier))
		checkPrefix(t, l, s, batches, fmt.Sprintf("cut at %d", n))
		if s.tail.CommitInside {
			t.Fatalf("cut at %d: a plain cut has a commit line inside: %+v", n, s.tail)
		}
	}
}

func TestScanStopsAtEachKindOfFault(t *testing.T) {
	good := smallLog()
	n := int64(len(good.data))
	e := string(entryLine(6)) + "\n"
	commit := func(lines ...string) string {
		l := smallLog()
		b := make([][]byte, len(lines))
		for i := range lines {
			b[i] = []byte(lines[i])
		}
		l.batch(b...)
		return string(l.data[good.ends[2]:])
	}
	other := string(AppendCommit(nil, 6, 7, hashOf(0), hashOf(0)))
	for _, c := range []struct {
		name, tail, reason string
		at                 int64
		inside             bool
	}{
		{"unknown line", e + "{\"x\":1}\n", "unknown kind of line", int64(len(e)), false},
		{"empty line", "\n", "unknown kind of line", 0, false},
		{"zeros", "\x00\x00\x00\n", "unknown kind of line", 0, false},
		{"second segment line", string(AppendHeader(nil, 256, hashOf(0))), "unknown kind of line", 0, false},
		{"commit without entries", other, "commit line without entries", 0, false},
		{"repeated commit", string(good.data[n-186+40:]), "unknown kind of line", 0, false},
		{"no newline", e + e[:50], "the last line has no newline", int64(len(e)) + 50, false},
		{"no commit", e + e, "batch without its commit line", 2 * int64(len(e)), false},
		{"wrong commit", e + other, "commit line differs from its recomputation", int64(len(e)) + 28 + 4, false},
		{"wrong commit, then more", e + other + e, "commit line differs from its recomputation", int64(len(e)) + 28 + 4, true},
		{"carriage return", strings.Replace(commit(e[:50]), "\n", "\r\n", 1), "commit line differs from its recomputation", -1, false},
	} {
		data := append(bytes.Clone(good.data), c.tail...)
		s := scan(t, data, 0, proof.Hash{}, new(tree.Frontier))
		checkPrefix(t, good, s, 3, c.name)
		if s.tail.Reason != c.reason || s.tail.CommitInside != c.inside {
			t.Errorf("%s: %+v", c.name, s.tail)
		}
		if c.reason == "commit line differs from its recomputation" {
			from := int64(bytes.LastIndex(data[:s.tail.At], []byte("\n"+commitPrefix))) + 1
			same := s.tail.At - from // bytes that both lines share
			if from <= n || s.tail.Want[:same] != string(data[from:s.tail.At]) || s.tail.Want[same] == data[s.tail.At] {
				t.Errorf("%s: %+v", c.name, s.tail)
			}
		} else if s.tail.At != n+c.at {
			t.Errorf("%s: at %d, want %d", c.name, s.tail.At, n+c.at)
		}
	}
}

func TestScanLimitsAreExact(t *testing.T) {
	line := func(n int) []byte {
		return append(append([]byte(`{"id":"`), bytes.Repeat([]byte("x"), n-9)...), `"}`...)
	}
	accept := func(name string, lines ...[]byte) {
		t.Helper()
		l := new(testLog)
		l.batch(lines...)
		if s := scan(t, l.data, 0, proof.Hash{}, new(tree.Frontier)); s.tail.Length != 0 || len(s.lines) != len(lines) {
			t.Errorf("%s: %+v", name, s.tail)
		}
	}
	refuse := func(name, reason string, at int64, lines ...[]byte) {
		t.Helper()
		l := new(testLog)
		l.batch(lines...)
		s := scan(t, l.data, 0, proof.Hash{}, new(tree.Frontier))
		if s.tail.Reason != reason || s.tail.At != at || len(s.batches) != 0 {
			t.Errorf("%s: %+v", name, s.tail)
		}
	}
	accept("longest line", line(MaxLineBytes))
	refuse("line too long", "line too long", 0, line(MaxLineBytes+1))
	refuse("second line too long", "line too long", 100, line(99), line(MaxLineBytes+1))

	most := make([][]byte, MaxBatchEntries)
	for i := range most {
		most[i] = line(20)
	}
	accept("most entries", most...)
	refuse("one entry more", "too many entries in the batch", 21*MaxBatchEntries, append(most, line(20))...)

	full := make([][]byte, 255)
	for i := range full {
		full[i] = line(MaxLineBytes)
	}
	commit := len(AppendCommit(nil, 0, 256, proof.Hash{}, proof.Hash{}))
	rest := MaxBatchBytes - 255*(MaxLineBytes+1) - commit - 1
	accept("most bytes", append(full, line(rest))...)
	refuse("one byte more", "batch too long", MaxBatchBytes, append(full, line(rest+1))...)
	refuse("entries beyond the limit", "batch too long", MaxBatchBytes, append(full, line(MaxLineBytes), line(100))...)

	f := new(tree.Frontier)
	if tail, err := Scan(context.Background(), bytes.NewReader(nil), 1, 0, proof.Hash{}, f, nil); err == nil {
		t.Errorf("offset behind the end: %+v", tail)
	}
}

func TestCommitInsideIsFoundInPiecesOfAnySize(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	parts := []string{"\n", "\n", `{"commit":`, `{"commit":`, `{"commit"`, `{"id":`, "x", "\x00"}
	found := 0
	for range 20000 {
		var text strings.Builder
		for range rng.IntN(8) {
			text.WriteString(parts[rng.IntN(len(parts))])
		}
		var f commitFinder
		for rest := []byte(text.String()); len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			f.write(rest[:n])
			rest = rest[n:]
		}
		want := naiveCommitInside([]byte(text.String()))
		if f.found != want {
			t.Fatalf("%q: got %v, want %v", text.String(), f.found, want)
		}
		if want {
			found++
		}
	}
	if found < 100 {
		t.Fatalf("only %d cases had a commit line inside", found)
	}
}

func TestScanNeedsConstantMemory(t *testing.T) {
	l := new(testLog)
	f := new(tree.Frontier) // proof.Root over all leaves after each batch would be quadratic
	for i := uint64(0); len(l.data) < 24<<20; i++ {
		line := entryLine(i % 1000)
		leaf := proof.LeafHash(line)
		f.Append(leaf)
		l.chain = proof.ChainHash(l.chain, leaf)
		l.data = append(append(l.data, line...), '\n')
		if i%500 == 499 {
			l.data = AppendCommit(l.data, i-499, i+1, l.chain, f.Root())
		}
	}
	l.data = append(l.data, bytes.Repeat([]byte("tail of a length that no batch has\n"), 1<<20)...) // 35 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tail, err := Scan(context.Background(), bytes.NewReader(l.data), 0, int64(len(l.data)), proof.Hash{}, new(tree.Frontier), nil)
	runtime.ReadMemStats(&after)
	if err != nil || tail.Length < 35<<20 {
		t.Fatalf("%+v, %v", tail, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("allocated %d bytes", got)
	}
}

func TestScanPassesErrorsOn(t *testing.T) {
	l := smallLog()
	boom := errors.New("boom")
	run := func(ctx context.Context, r io.ReaderAt, length int64, visit func(*Batch) error) (uint64, error) {
		f := new(tree.Frontier)
		_, err := Scan(ctx, r, 0, length, proof.Hash{}, f, visit)
		return f.Size(), err
	}
	n := int64(len(l.data))
	if size, err := run(context.Background(), bytes.NewReader(l.data), n, func(*Batch) error { return boom }); !errors.Is(err, boom) || size != 2 {
		t.Errorf("visit's error: %v at size %d", err, size)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if size, err := run(ctx, bytes.NewReader(l.data), n, func(*Batch) error { cancel(); return nil }); !errors.Is(err, context.Canceled) || size != 2 {
		t.Errorf("cancelled: %v at size %d", err, size)
	}
	if _, err := run(context.Background(), bytes.NewReader(l.data[:n-10]), n, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file shorter than its length: %v", err)
	}
}

func FuzzScan(f *testing.F) {
	l := smallLog()
	f.Add(l.data)
	f.Add(l.data[:len(l.data)-3])
	f.Add(append(bytes.Clone(l.data), "{\"id\":1}\n{\"commit\":\nx"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := scan(t, data, 0, proof.Hash{}, new(tree.Frontier))
		// What was reported is what a writer of the same lines writes.
		twin := new(testLog)
		at := 0
		for _, b := range s.batches {
			n := int(b.Size - b.First)
			twin.batch(s.lines[at : at+n]...)
			at += n
		}
		if !bytes.Equal(twin.data, data[:s.tail.Offset]) {
			t.Errorf("batches differ from the file")
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for _, size := range []int{1, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			f := new(tree.Frontier)
			var data []byte
			var chain proof.Hash
			n := 50_000
			for i := range n {
				line := entryLine(uint64(i))
				leaf := proof.LeafHash(line)
				f.Append(leaf)
				chain = proof.ChainHash(chain, leaf)
				data = append(append(data, line...), '\n')
				if (i+1)%size == 0 {
					data = AppendCommit(data, f.Size()-uint64(size), f.Size(), chain, f.Root())
				}
			}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				tail, err := Scan(context.Background(), bytes.NewReader(data), 0, int64(len(data)), proof.Hash{}, new(tree.Frontier), nil)
				if err != nil || tail.Length != 0 {
					b.Fatal(tail, err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
