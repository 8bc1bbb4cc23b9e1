package segment

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/proof"
)

// entryLine is a line as long as usual ones, without its newline.
func entryLine(i uint64) []byte {
	rng := rand.New(rand.NewPCG(i, 7))
	users := []string{"alice", "bob", "carol", "dave", "erin", "mallory"}
	actions := []string{"login", "push", "review", "merge", "deploy", "revoke token", "read secret", "export report"}
	return fmt.Appendf(nil, `{"id":"019c3d5b-%04x-7%03x-8%03x-%04x%08x","timestamp":"2026-02-08T14:%02d:%02d.%09dZ","level":"AUDIT","message":"%s by %s","metadata":{"repo":"tree-of-life-system/%s","sha":"%08x","ip":"10.%d.%d.%d","status":%d},"hostname":"web-%d.example.org","pid":%d}`,
		i>>8&0xffff, rng.IntN(4096), 0x123, 0x4567, uint32(i), i/600000%60, i/10000%60, i*99991%1e9, actions[rng.IntN(len(actions))], users[rng.IntN(len(users))],
		actions[rng.IntN(3)], rng.Uint32(), rng.IntN(256), rng.IntN(256), rng.IntN(256), 200+rng.IntN(5), rng.IntN(9), 1000+rng.IntN(50))
}

// A testLog makes segments with the naive definitions: all leaves, proof.Root over all of them.
type testLog struct {
	leaves []proof.Hash
	chain  proof.Hash
	data   []byte // the batches, without a segment line
	ends   []int  // of the batches in data
	lines  [][]byte
}

func (l *testLog) batch(lines ...[]byte) {
	from := uint64(len(l.leaves))
	for _, line := range lines {
		l.lines = append(l.lines, line)
		leaf := proof.LeafHash(line)
		l.leaves = append(l.leaves, leaf)
		l.chain = proof.ChainHash(l.chain, leaf)
		l.data = append(append(l.data, line...), '\n')
	}
	l.data = AppendCommit(l.data, from, uint64(len(l.leaves)), l.chain, proof.Root(l.leaves))
	l.ends = append(l.ends, len(l.data))
}

// grow adds n usual entries as one batch.
func (l *testLog) grow(n int) {
	lines := make([][]byte, n)
	for i := range lines {
		lines[i] = entryLine(uint64(len(l.leaves) + i))
	}
	l.batch(lines...)
}

func (l *testLog) frontier(size int) *tree.Frontier {
	f := new(tree.Frontier)
	for _, h := range l.leaves[:size] {
		f.Append(h)
	}
	return f
}

func hashOf(b byte) (h proof.Hash) {
	for i := range h {
		h[i] = b + byte(i)
	}
	return h
}

func TestHeaderAndCommitHaveGoldenBytes(t *testing.T) {
	const header = `{"segment":{"first":512,"chain":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}}` + "\n"
	if got := string(AppendHeader(nil, 512, hashOf(0))); got != header {
		t.Errorf("header\ngot  %q\nwant %q", got, header)
	}
	const commit = `{"commit":{"from":900,"size":1000,"chain":"a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf","root":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}` + "\n"
	if got := string(AppendCommit(nil, 900, 1000, hashOf(0xa0), hashOf(0))); got != commit {
		t.Errorf("commit\ngot  %q\nwant %q", got, commit)
	}
	if got := len(AppendCommit(nil, proof.MaxSize-1, proof.MaxSize, hashOf(0), hashOf(0))); got > maxControlBytes {
		t.Errorf("longest commit line has %d bytes, more than maxControlBytes", got)
	}
}

func TestHeaderAndCommitParseOnlyTheirOwnSpelling(t *testing.T) {
	header := bytes.TrimSuffix(AppendHeader(nil, 1<<40, hashOf(3)), []byte("\n"))
	first, chain, err := ParseHeader(header)
	if err != nil || first != 1<<40 || chain != hashOf(3) {
		t.Fatalf("ParseHeader = %d %v %v", first, chain, err)
	}
	commit := bytes.TrimSuffix(AppendCommit(nil, 7, 77, hashOf(3), hashOf(9)), []byte("\n"))
	from, size, chain, root, err := ParseCommit(commit)
	if err != nil || from != 7 || size != 77 || chain != hashOf(3) || root != hashOf(9) {
		t.Fatalf("ParseCommit = %d %v %v %v", size, chain, root, err)
	}
	// Every other line that differs in one byte, is cut or is longer either fails or is the encoding of other values.
	mutate(header, func(b []byte) {
		if f, c, err := ParseHeader(b); err == nil && !bytes.Equal(AppendHeader(nil, f, c), append(b, '\n')) {
			t.Errorf("ParseHeader accepts %q", b)
		}
	})
	mutate(commit, func(b []byte) {
		if f, s, c, r, err := ParseCommit(b); err == nil && !bytes.Equal(AppendCommit(nil, f, s, c, r), append(b, '\n')) {
			t.Errorf("ParseCommit accepts %q", b)
		}
	})
	h, r := hashOf(1).String(), hashOf(1).Base64()
	for _, bad := range []string{
		``, `{}`, `{"commit":{"from":0,"size":0,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"size":1,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":1,"size":1,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":01,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":+1,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":9223372036854775808,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":18446744073709551617,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":1,"chain":"` + strings.ToUpper(h) + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":1,"chain":"` + h + `","root":"` + strings.Replace(r, "A=", "B=", 1) + `"}}`,
		`{"commit":{"from":0,"size":1,"chain":"` + h + `","root":"` + r[:43] + "\n" + `"}}`,
		`{"commit":{"from":0,"size":1,"chain":"` + h + `","root":"` + r + `"}} `,
		`{"commit": {"from":0,"size":1,"chain":"` + h + `","root":"` + r + `"}}`,
		`{"commit":{"from":0,"size":1,"chain":"` + h + `","root":"` + r + `","x":1}}`,
	} {
		if _, _, _, _, err := ParseCommit([]byte(bad)); err == nil {
			t.Errorf("ParseCommit accepts %q", bad)
		}
	}
	for _, bad := range []string{
		`{"segment":{"first":255,"chain":"` + h + `"}}`,                 // inside a group
		`{"segment":{"first":0,"chain":"` + h + `"}}`,                   // not the zero chain
		`{"segment":{"first":9223372036854775808,"chain":"` + h + `"}}`, // beyond the largest size
	} {
		if _, _, err := ParseHeader([]byte(bad)); err == nil {
			t.Errorf("ParseHeader accepts %q", bad)
		}
	}
}

// mutate calls f with copies of b: each bit flipped, cut at each length, and with a byte more.
func mutate(b []byte, f func([]byte)) {
	for i := range len(b) * 8 {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		f(c)
	}
	for n := range len(b) {
		f(bytes.Clone(b[:n]))
	}
	for _, extra := range []byte{0, '\n', ' ', '0', '}'} {
		f(append(bytes.Clone(b), extra))
	}
}

func TestReadHeaderStopsAtItsLine(t *testing.T) {
	line := AppendHeader(nil, 256, hashOf(1))
	for _, rest := range []string{"", "x", strings.Repeat("y", 1000)} {
		data := append(bytes.Clone(line), rest...)
		first, chain, n, err := ReadHeader(bytes.NewReader(data), int64(len(data)))
		if err != nil || first != 256 || chain != hashOf(1) || n != int64(len(line)) {
			t.Errorf("ReadHeader = %d %v %d %v", first, chain, n, err)
		}
	}
	for n := range line {
		if _, _, _, err := ReadHeader(bytes.NewReader(line[:n]), int64(n)); err == nil {
			t.Errorf("ReadHeader accepts %q", line[:n])
		}
	}
	if _, _, _, err := ReadHeader(bytes.NewReader(line[:10]), int64(len(line))); err == nil {
		t.Error("ReadHeader of a file shorter than its length succeeds")
	}
}

func TestNamesParseOnlyWhatTheyMake(t *testing.T) {
	for _, first := range []uint64{0, 256, 1 << 40, proof.MaxSize - 255} {
		for suffix, name := range map[string]string{
			ArchiveSuffix: ArchiveName(first), PendingSuffix: PendingName(first), IndexSuffix: IndexName(first), SealSuffix: SealName(first),
		} {
			if got, ok := ParseName(name, suffix); !ok || got != first {
				t.Errorf("ParseName(%q) = %d %v", name, got, ok)
			}
		}
	}
	if got, want := ArchiveName(256), "00000000000000000256.jsonl.zst"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{
		"", ".jsonl", "00000000000000000001.jsonl", "0000000000000000256.jsonl", "+0000000000000000256.jsonl", "99999999999999999999.jsonl",
		"18446744073709551360.jsonl", "00000000000000000256.jsonl.zst", "00000000000000000256.jsonlx", "0000000000000000025a.jsonl", "00000000000000000256jsonl.",
	} {
		if first, ok := ParseName(bad, PendingSuffix); ok {
			t.Errorf("ParseName accepts %q as %d", bad, first)
		}
	}
}

func TestSplitLinesKeepsEveryByte(t *testing.T) {
	for _, s := range []string{"", "\n", "a\n", "\n\n", "a\nb\n\nc\n"} {
		lines, err := SplitLines(nil, []byte(s))
		var got strings.Builder
		for _, l := range lines {
			got.WriteString(string(l) + "\n")
		}
		if err != nil || got.String() != s {
			t.Errorf("SplitLines(%q) = %q, %v", s, lines, err)
		}
	}
	for _, s := range []string{"a", "\na", "a\nb"} {
		if lines, err := SplitLines(nil, []byte(s)); err == nil {
			t.Errorf("SplitLines(%q) = %q without error", s, lines)
		}
	}
}

func FuzzParseCommit(f *testing.F) {
	f.Add(bytes.TrimSuffix(AppendCommit(nil, 0, 1, hashOf(0), hashOf(1)), []byte("\n")))
	f.Add(bytes.TrimSuffix(AppendHeader(nil, 256, hashOf(0)), []byte("\n")))
	f.Fuzz(func(t *testing.T, line []byte) {
		if from, size, chain, root, err := ParseCommit(line); err == nil {
			if got := AppendCommit(nil, from, size, chain, root); string(got) != string(line)+"\n" {
				t.Errorf("%q parses, but is written as %q", line, got)
			}
		}
		if first, chain, err := ParseHeader(line); err == nil {
			if got := AppendHeader(nil, first, chain); string(got) != string(line)+"\n" {
				t.Errorf("%q parses, but is written as %q", line, got)
			}
		}
	})
}
