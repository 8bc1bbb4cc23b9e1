package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index/indextest"
)

// linesOf are entries of these events, whole groups of them.
func linesOf(t testing.TB, first uint64, events []entry.Event) [][]byte {
	t.Helper()
	var lines [][]byte
	for i := 0; i < len(events) || i%GroupSize != 0; i++ {
		e := entry.Event{Message: "filler"}
		if i < len(events) {
			e = events[i]
		}
		line, err := entry.Append(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		entry.Patch(line, first+uint64(i), 1_700_000_000_000_000_000+int64(i)*1e6, 5)
		lines = append(lines, line)
	}
	return lines
}

func builderOf(t testing.TB, first uint64, lines [][]byte) *Builder {
	t.Helper()
	b := NewBuilder(first)
	var l entry.Line
	for _, line := range lines {
		if err := entry.Decode(line, &l); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(&l); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func openBytes(data []byte, table [sha256.Size]byte) (*Search, error) {
	return OpenSearch(bytes.NewReader(data), int64(len(data)), table)
}

// everything reads all that a search index can say.
func everything(s *Search, tokens []uint64) (string, error) {
	var out strings.Builder
	d, err := s.Dictionary()
	if err != nil {
		return "", err
	}
	fmt.Fprintln(&out, s.First, s.Groups, s.Covered, s.Dotted, d.Times, d.Loose, d.Paths, d.KeySets, d.Shapes)
	for _, h := range tokens {
		groups, in, err := s.Find(h)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&out, h, groups, in)
	}
	columns := make([]bool, d.Columns())
	for i := range columns {
		columns[i] = true
	}
	var b Block
	for g := uint32(0); g < s.Covered; g += BlockGroups {
		if err := s.Read(&b, g, columns); err != nil {
			return "", err
		}
		fmt.Fprintln(&out, b.First, b.Shapes, b.Tuples)
	}
	return out.String(), nil
}

// tokensOf are all tokens of the texts of some lines, by the naive way.
func tokensOf(t testing.TB, lines [][]byte) (list []uint64, groups map[uint64]map[uint32]bool) {
	t.Helper()
	groups = map[uint64]map[uint32]bool{}
	for i, line := range lines {
		var l entry.Line
		if err := entry.Decode(line, &l); err != nil {
			t.Fatal(err)
		}
		var w Walker
		add := func(h uint64) {
			if groups[h] == nil {
				groups[h] = map[uint32]bool{}
				list = append(list, h)
			}
			groups[h][uint32(i/GroupSize)] = true
		}
		text := func(s string) {
			for word := range Words(s) {
				add(WordToken(word))
			}
		}
		message, err := entry.Unquote(l.Message)
		if err != nil {
			t.Fatal(err)
		}
		text(message)
		w.Walk(l.Metadata, func(_, value []byte, kind Kind) bool {
			if kind != Null {
				text(string(value))
				for _, h := range ValueTokens(Fold(string(value))) {
					add(h)
				}
			}
			return true
		})
	}
	return list, groups
}

// TestEveryTokenIsFound holds the index to its promise: a token of an entry's texts is in the dictionary or in its group's list.
func TestEveryTokenIsFound(t *testing.T) {
	lines := linesOf(t, 0, indextest.Hostile(3000, 8))
	data, table := builderOf(t, 0, lines).Finish()
	s, err := openBytes(data, table)
	if err != nil {
		t.Fatal(err)
	}
	tokens, groups := tokensOf(t, lines)
	for _, h := range tokens {
		found, in, err := s.Find(h)
		if err != nil {
			t.Fatal(err)
		}
		for g := range groups[h] {
			if !in && !found.Has(g) {
				t.Fatalf("token %x of group %d is lost", h, g)
			}
		}
	}
	if len(tokens) < 1000 {
		t.Errorf("%d tokens", len(tokens))
	}
}

func TestSearchIndexIsAFunctionOfTheEntries(t *testing.T) {
	lines := linesOf(t, 256, indextest.Hostile(1500, 2))
	a, tableA := builderOf(t, 256, lines).Finish()
	b, tableB := builderOf(t, 256, lines).Finish()
	if !bytes.Equal(a, b) || tableA != tableB {
		t.Fatal("the same entries give two indexes")
	}
	// The bytes are part of the format: an index that was sealed must come out again for ever.
	small := linesOf(t, 0, []entry.Event{{Level: entry.Error, Message: "disk full on db-1", RawMetadata: []byte(`{"free":0,"host":{"name":"db-1"}}`)}})
	data, _ := builderOf(t, 0, small).Finish()
	if got, want := fmt.Sprintf("%x", sha256.Sum256(data)), "4d696d83f4b4a4eb722a365ce325d67c2fbb3960c390ab582a3489cf5a06f7e4"; got != want {
		t.Errorf("the index of the golden segment has SHA-256 %s, want %s", got, want)
	}
	corpus, _ := corpusLines(t, 80*GroupSize) // two epochs
	data, _ = builderOf(t, 0, corpus).Finish()
	if got, want := fmt.Sprintf("%x", sha256.Sum256(data)), "1f6fbad544ba0ff39a15df04c3b82df7b0ca7e6499db493c6750b6ded6a736ba"; got != want {
		t.Errorf("the index of the golden corpus has SHA-256 %s, want %s", got, want)
	}
}

// TestEachFlippedBitIsCaughtOrHarmless flips every byte of a small index: what still answers must answer the same.
func TestEachFlippedBitIsCaughtOrHarmless(t *testing.T) {
	lines := linesOf(t, 0, indextest.Hostile(700, 4))
	tokens, _ := tokensOf(t, lines)
	tokens = tokens[:min(len(tokens), 60)]
	data, table := builderOf(t, 0, lines).Finish()
	s, err := openBytes(data, table)
	if err != nil {
		t.Fatal(err)
	}
	want, err := everything(s, tokens)
	if err != nil {
		t.Fatal(err)
	}
	caught, harmless := 0, 0
	for i := 0; i < len(data); i += 1 + i%3 {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		s, err := openBytes(bad, table)
		if err == nil {
			var got string
			if got, err = everything(s, tokens); err == nil && got != want {
				t.Fatalf("byte %d flipped: another answer", i)
			}
		}
		if err != nil {
			caught++
		} else {
			harmless++
		}
	}
	t.Logf("%d bytes: %d flips caught, %d harmless", len(data), caught, harmless)
	if caught == 0 {
		t.Error("nothing was caught")
	}
	for _, n := range []int{0, 1, searchFixed, len(data) / 2, len(data) - 1, len(data) - sha256.Size} {
		if _, err := openBytes(data[:n], table); err == nil {
			t.Errorf("opened when cut at %d", n)
		}
	}
	if _, err := openBytes(append(bytes.Clone(data), 0), table); err == nil {
		t.Error("opened with a byte behind")
	}
}

// resign gives changed pages a table of their own, as a forger would: only a seal over the old table tells.
func resign(data []byte, size int) (out []byte, table [sha256.Size]byte) {
	out = bytes.Clone(data[:size])
	for from := 0; from < size; from += pageSize {
		sum := sha256.Sum256(out[from:min(from+pageSize, size)])
		out = append(out, sum[:]...)
	}
	return out, sha256.Sum256(out[size:])
}

func TestForgedTableIsRefused(t *testing.T) {
	lines := linesOf(t, 0, indextest.Hostile(300, 4))
	data, table := builderOf(t, 0, lines).Finish()
	size := len(data) - len(data)/(pageSize+sha256.Size)*sha256.Size - sha256.Size
	bad := bytes.Clone(data)
	bad[size-1] ^= 1
	forged, other := resign(bad, size)
	if _, err := openBytes(forged, table); err == nil {
		t.Error("a table of page digests other than the sealed one is accepted")
	}
	if _, err := openBytes(forged, other); err != nil {
		t.Errorf("the forgery is not one: %v", err)
	}
}

// FuzzSearch reads indexes with any content: no page digest is in the way. It must end, without a panic.
func FuzzSearch(f *testing.F) {
	for seed := range uint64(3) {
		data, _ := builderOf(f, 0, linesOf(f, 0, indextest.Hostile(300, seed))).Finish()
		f.Add(data[:len(data)-len(data)/(pageSize+sha256.Size)*sha256.Size-sha256.Size])
	}
	f.Fuzz(func(t *testing.T, pages []byte) {
		if len(pages) < searchFixed {
			return
		}
		data, table := resign(pages, len(pages))
		s, err := openBytes(data, table)
		if err != nil || s.Covered > 1024 {
			return
		}
		if d, err := s.Dictionary(); err == nil {
			for i := range d.Shapes {
				if int(d.Shapes[i].Keys) >= len(d.KeySets) {
					t.Fatal("a shape of a key set that is not there")
				}
			}
		}
		_, _ = everything(s, []uint64{0, 1, 1<<hashBits - 1, WordToken("the"), UnknownMessage()})
	})
}

// FuzzBuilder indexes an entry with any message and metadata among others: each of its words must be found.
func FuzzBuilder(f *testing.F) {
	f.Add("Failed login", `{"a":[1,"x y",{"b":null}],"c.d":true}`)
	f.Add("\x00\u212a 203.0.113.42", `{"":"\u0000"}`)
	f.Fuzz(func(t *testing.T, message, metadata string) {
		e := entry.Event{Message: message, RawMetadata: []byte(metadata)}
		if _, err := entry.Append(nil, &e); err != nil {
			return
		}
		lines := linesOf(t, 0, append(indextest.Hostile(20, 1), e, e, e, e, e, e, e, e, e))
		data, table := builderOf(t, 0, lines).Finish()
		s, err := openBytes(data, table)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := everything(s, nil); err != nil {
			t.Fatal(err)
		}
		tokens, _ := tokensOf(t, lines)
		for _, h := range tokens {
			if groups, in, err := s.Find(h); err != nil || !in && !groups.Has(0) {
				t.Fatalf("token %x is lost: %v", h, err)
			}
		}
	})
}

// TestHostileSegmentsStayBounded fills every table of the builder beyond its limit; nothing may be lost by it.
func TestHostileSegmentsStayBounded(t *testing.T) {
	var events []entry.Event
	for i := range 4096 {
		var m strings.Builder
		m.WriteString(`{`)
		for j := range 40 {
			fmt.Fprintf(&m, `"path%d":"v%d",`, i*40+j, i%300)
		}
		fmt.Fprintf(&m, `"same":"value %d","long":"%s"}`, i, strings.Repeat("x", i%900))
		events = append(events, entry.Event{Level: entry.Level(i % 7), Message: strings.Repeat(fmt.Sprintf("template %d ", i/8), 1+i%60), RawMetadata: []byte(m.String())})
	}
	lines := linesOf(t, 0, events)
	b := builderOf(t, 0, lines)
	if len(b.paths) > maxPaths || b.columns > maxColumns || b.dict > dictBytes {
		t.Errorf("%d paths, %d columns, %d bytes of values", len(b.paths), b.columns, b.dict)
	}
	data, table := b.Finish()
	s, err := openBytes(data, table)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := everything(s, nil); err != nil {
		t.Fatal(err)
	}
	tokens, groups := tokensOf(t, lines[:512])
	for _, h := range tokens {
		found, in, err := s.Find(h)
		if err != nil {
			t.Fatal(err)
		}
		for g := range groups[h] {
			if !in && !found.Has(g) {
				t.Fatalf("token %x of group %d is lost", h, g)
			}
		}
	}
}

// TestLooseGroupsMayHaveAnything: a group with more tokens than are kept is one that every search reads.
func TestLooseGroupsMayHaveAnything(t *testing.T) {
	var events []entry.Event
	n := 0
	for range GroupSize {
		var m strings.Builder
		for m.Len() < 60000 && n < groupTokens+5000 {
			fmt.Fprintf(&m, "%x ", n)
			n++
		}
		events = append(events, entry.Event{Message: m.String()})
	}
	events = append(events, entry.Event{Message: "calm"})
	lines := linesOf(t, 0, events)
	data, table := builderOf(t, 0, lines).Finish()
	s, err := openBytes(data, table)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{fmt.Sprintf("%x", n-1), "xylophone"} {
		groups, _, err := s.Find(WordToken(word))
		if err != nil || !groups.Has(0) || groups.Has(1) {
			t.Errorf("%s: found in %b, %v; group 0 has more tokens than are kept", word, groups, err)
		}
	}
}

func TestOpenSearchRefusesWhatNoSegmentHas(t *testing.T) {
	data, _ := builderOf(t, 0, linesOf(t, 0, indextest.Hostile(300, 4))).Finish()
	size := len(data) - len(data)/(pageSize+sha256.Size)*sha256.Size - sha256.Size
	le, n := binary.LittleEndian, len(searchMagic)
	for name, change := range map[string]func(b []byte){
		"another version":        func(b []byte) { b[n-2] = '2' },
		"no groups":              func(b []byte) { le.PutUint32(b[n+8:], 0); le.PutUint32(b[n+12:], 0) },
		"more groups":            func(b []byte) { le.PutUint32(b[n+8:], 1<<24+1) },
		"fewer are covered":      func(b []byte) { le.PutUint32(b[n+12:], 1) },
		"an unknown flag":        func(b []byte) { le.PutUint32(b[n+16:], 4) },
		"a longer head":          func(b []byte) { le.PutUint32(b[n+20:], le.Uint32(b[n+20:])+1) },
		"more keys than buckets": func(b []byte) { le.PutUint32(b[n+28:], 1<<31) },
	} {
		bad := bytes.Clone(data)
		change(bad)
		bad, table := resign(bad, size)
		if _, err := openBytes(bad, table); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestSealOfASearchIndexHasOneSpelling(t *testing.T) {
	s := Seal{Origin: "example.org/log", First: 256, End: 1024, ArchiveLen: 5, IndexLen: 6, Search: sha256.Sum256(nil), SearchLen: 7, Table: sha256.Sum256([]byte("t"))}
	text := s.Text()
	if got, err := ParseSeal(text); err != nil || got != s {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range len(text) * 8 {
		b := []byte(text)
		b[i/8] ^= 1 << (i % 8)
		if got, err := ParseSeal(string(b)); err == nil && got.Text() != string(b) {
			t.Fatalf("accepts %q", b)
		}
	}
	for n := range text {
		if _, err := ParseSeal(text[:n]); err == nil {
			t.Errorf("accepted when cut at %d", n)
		}
	}
	for _, r := range [][2]string{{"seal/2", "seal/1"}, {" 7 ", " 0 "}, {" 7 ", " 7  "}, {" 7 ", " "}} {
		if _, err := ParseSeal(strings.Replace(text, r[0], r[1], 1)); err == nil {
			t.Errorf("accepted with %q for %q", r[1], r[0])
		}
	}
}
