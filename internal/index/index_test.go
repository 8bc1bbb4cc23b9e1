package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// addEntry encodes, decodes and adds one entry, as sealing does.
func addEntry(t testing.TB, x *Index, at int64, e *entry.Event) {
	t.Helper()
	line, err := entry.Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	entry.Patch(line, x.End, at, 5)
	var l entry.Line
	if err := entry.Decode(line, &l); err != nil {
		t.Fatal(err)
	}
	if err := x.Add(&l); err != nil {
		t.Fatal(err)
	}
}

// sample is an index of two groups with all there is: event times inside and outside int64, keys, every level.
func sample(t testing.TB) *Index {
	x := New(512)
	for i := range int64(2 * GroupSize) {
		e := &entry.Event{Level: entry.Level(i % entry.NumLevels), Message: "m"}
		switch {
		case i == 3:
			e.EventTime = time.Unix(0, -5)
		case i == 4:
			e.EventTime = time.Unix(77, 123)
		case i == 300:
			e.EventTime = time.Date(2, 1, 1, 0, 0, 0, 0, time.UTC)
			e.IdempotencyKey = "second \"ключ\"\n"
		case i == 301:
			e.EventTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
		case i == 10:
			e.IdempotencyKey = "first"
		}
		addEntry(t, x, 1_700_000_000_000_000_000+1000*i, e)
	}
	return x
}

func TestIndexHasGoldenBytes(t *testing.T) {
	x := New(256)
	for i := range int64(GroupSize) {
		e := &entry.Event{Level: entry.Info, Message: "m"}
		if i == 7 {
			e = &entry.Event{Level: entry.Security, Message: "m", IdempotencyKey: "k", EventTime: time.Unix(1, 2)}
		}
		addEntry(t, x, 10+i, e)
	}
	want := "696d6d757461626c652f696e6465782f310a" + // immutable/index/1\n
		"0001000000000000" + "0002000000000000" + "01000000" + "01000000" +
		"0a00000000000000" + "0901000000000000" + "02ca9a3b00000000" + "02ca9a3b00000000" +
		"ff00" + "0000" + "0000" + "0000" + "0000" + "0100" + "0000" + "0000" +
		"8254c329a92850f6d539dd376f4816ee" + "07000000" + "1100000000000000"
	if got := hex.EncodeToString(x.Append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestIndexDescribesItsEntries(t *testing.T) {
	x := sample(t)
	none := [2]int64{math.MaxInt64, math.MinInt64}
	if got := [2]int64{x.Groups[0].EventMin, x.Groups[0].EventMax}; got != [2]int64{-5, 77_000_000_123} {
		t.Errorf("event times of group 0: %v", got)
	}
	if got := [2]int64{x.Groups[1].EventMin, x.Groups[1].EventMax}; got != [2]int64{math.MinInt64, math.MaxInt64} {
		t.Errorf("event times of group 1 are not clamped: %v", got)
	}
	if x.Groups[1].TimeMin != 1_700_000_000_000_256_000 || x.Groups[1].TimeMax != 1_700_000_000_000_511_000 {
		t.Errorf("times of group 1: %+v", x.Groups[1])
	}
	for g := range x.Groups {
		for level, n := range x.Groups[g].Levels {
			if n != GroupSize/entry.NumLevels {
				t.Errorf("group %d: %d entries of level %d", g, n, level)
			}
		}
	}
	wantKeys := []Key{
		{KeyHash("first"), 10, 1_700_000_000_000_010_000},
		{KeyHash("second \"ключ\"\n"), 300, 1_700_000_000_000_300_000},
	}
	if !reflect.DeepEqual(x.Keys, wantKeys) {
		t.Errorf("keys %v, want %v", x.Keys, wantKeys)
	}
	if full := sha256.Sum256([]byte("first")); !bytes.Equal(x.Keys[0].Hash[:], full[:16]) {
		t.Error("a key's hash is not the first half of its SHA-256")
	}
	got, err := Decode(x.Append([]byte("before"))[6:])
	if err != nil || !reflect.DeepEqual(got, x) {
		t.Errorf("decoded %+v, %v", got, err)
	}
	y := New(0)
	for i := range int64(GroupSize) {
		addEntry(t, y, i, &entry.Event{Message: "m"})
	}
	if g := y.Groups[0]; [2]int64{g.EventMin, g.EventMax} != none {
		t.Errorf("event times without any: %+v", g)
	}
	if got, err := Decode(y.Append(nil)); err != nil || !reflect.DeepEqual(got, y) {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func TestAddRefusesEntriesOutOfPlace(t *testing.T) {
	x := New(256)
	for _, l := range []entry.Line{
		{Index32: 255},
		{Index32: 256, Level: entry.NumLevels},
		{Index32: 256, Time: -1},
		{Index32: 256, Time: math.MaxInt64},
		{Index32: 256, EventTime: []byte("2026-02-30T00:00:00Z")},
		{Index32: 256, IdempotencyKey: []byte(`"\ud800"`)},
	} {
		if err := x.Add(&l); err == nil {
			t.Errorf("added %+v", l)
		}
	}
	if !reflect.DeepEqual(x, New(256)) {
		t.Errorf("refused entries left %+v", x)
	}
}

// A decoder cannot know which index is true. It must accept nothing that has two spellings or lies outside the format.
func TestDecodeSurvivesEveryFlipAndCut(t *testing.T) {
	good := sample(t).Append(nil)
	for i := range len(good) * 8 {
		data := bytes.Clone(good)
		data[i/8] ^= 1 << (i % 8)
		checkDecode(t, data)
		if _, err := Decode(data); err == nil && i/8 < headSize {
			t.Errorf("accepted with bit %d of the head flipped", i)
		}
	}
	for n := range good {
		if _, err := Decode(good[:n]); err == nil {
			t.Errorf("accepted when cut at %d", n)
		}
	}
	for _, b := range []byte{0, '\n', 0xff} {
		if _, err := Decode(append(bytes.Clone(good), b)); err == nil {
			t.Errorf("accepted with %#x behind", b)
		}
	}
}

// checkDecode decodes data; what is accepted must be written as the same bytes.
func checkDecode(t *testing.T, data []byte) {
	t.Helper()
	x, err := Decode(data)
	if err != nil {
		return
	}
	if got := x.Append(nil); !bytes.Equal(got, data) {
		t.Errorf("accepted, but written as other bytes")
	}
	if x.End-x.First != uint64(len(x.Groups))*GroupSize {
		t.Errorf("accepted entries %d to %d in %d groups", x.First, x.End, len(x.Groups))
	}
}

func TestDecodeRefusesWhatNoEntriesMake(t *testing.T) {
	good := sample(t)
	encoded := good.Append(nil)
	groupAt := headSize
	keyAt := headSize + 2*groupBytes
	le := binary.LittleEndian
	for name, edit := range map[string]func(b []byte){
		"another version":            func(b []byte) { b[16] = '2' },
		"first inside a group":       func(b []byte) { le.PutUint64(b[18:], 513); le.PutUint64(b[26:], 1025) },
		"end elsewhere":              func(b []byte) { le.PutUint64(b[26:], 1280) },
		"end before first":           func(b []byte) { le.PutUint64(b[26:], 0) },
		"end overflows":              func(b []byte) { le.PutUint64(b[18:], math.MaxUint64-511); le.PutUint64(b[26:], 0) },
		"no groups":                  func(b []byte) { le.PutUint32(b[34:], 0) },
		"4 billion groups":           func(b []byte) { le.PutUint32(b[34:], math.MaxUint32) },
		"4 billion keys":             func(b []byte) { le.PutUint32(b[38:], math.MaxUint32) },
		"times reversed":             func(b []byte) { le.PutUint64(b[groupAt:], math.MaxInt64) },
		"time before 1970":           func(b []byte) { le.PutUint64(b[groupAt:], math.MaxUint64) },
		"time after 2261":            func(b []byte) { le.PutUint64(b[groupAt+8:], uint64(entry.MaxTime)+1) },
		"event times reversed":       func(b []byte) { le.PutUint64(b[groupAt+16:], math.MaxInt64-1) },
		"levels of 257 entries":      func(b []byte) { b[groupAt+32]++ },
		"levels of 65792 entries":    func(b []byte) { b[groupAt+33]++ },
		"keys out of order":          func(b []byte) { le.PutUint32(b[keyAt+16:], 301) },
		"a key twice":                func(b []byte) { le.PutUint32(b[keyAt+16:], 300) },
		"key behind the end":         func(b []byte) { le.PutUint32(b[keyAt+keyBytes+16:], 512) },
		"key outside its group time": func(b []byte) { le.PutUint64(b[keyAt+20:], 5) },
	} {
		data := bytes.Clone(encoded)
		edit(data)
		if _, err := Decode(data); err == nil || !strings.HasPrefix(err.Error(), "index: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIndexEqualsNaiveTwin(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	x := New(0)
	var times, events [][]int64
	for i := range 3 * GroupSize {
		if i%GroupSize == 0 {
			times, events = append(times, nil), append(events, nil)
		}
		g := len(times) - 1
		at := rng.Int64N(entry.MaxTime) // clock entries may step back
		e := &entry.Event{Message: "m", Level: entry.Level(rng.IntN(entry.NumLevels))}
		if rng.IntN(100) == 0 && g != 1 {
			ns := rng.Int64() - rng.Int64()
			e.EventTime = time.Unix(0, ns)
			events[g] = append(events[g], ns)
		}
		addEntry(t, x, at, e)
		times[g] = append(times[g], at)
	}
	for g := range times {
		lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
		for _, v := range times[g] {
			lo, hi = min(lo, v), max(hi, v)
		}
		elo, ehi := int64(math.MaxInt64), int64(math.MinInt64)
		for _, v := range events[g] {
			elo, ehi = min(elo, v), max(ehi, v)
		}
		got := x.Groups[g]
		if got.TimeMin != lo || got.TimeMax != hi || got.EventMin != elo || got.EventMax != ehi {
			t.Errorf("group %d: got %+v, want %d %d %d %d", g, got, lo, hi, elo, ehi)
		}
	}
}

func TestSealParsesOnlyItsOwnText(t *testing.T) {
	s := Seal{
		Origin: "example.org/log", First: 256, End: 1024, Archive: sha256.Sum256([]byte("a")), Index: sha256.Sum256([]byte("b")),
		ArchiveLen: 12345, IndexLen: math.MaxInt64,
	}
	const want = `immutable/seal/1
example.org/log
256 1024
ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb 12345
3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d 9223372036854775807
`
	text := s.Text()
	if text != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	if got, err := ParseSeal(text); err != nil || got != s {
		t.Fatalf("parsed %+v, %v", got, err)
	}
	check := func(text string) {
		t.Helper()
		if got, err := ParseSeal(text); err == nil && got.Text() != text {
			t.Errorf("accepts %q", text)
		}
	}
	for i := range len(text) * 8 {
		b := []byte(text)
		b[i/8] ^= 1 << (i % 8)
		check(string(b))
	}
	for n := range text {
		if _, err := ParseSeal(text[:n]); err == nil {
			t.Errorf("accepted when cut at %d", n)
		}
	}
	for _, r := range [][2]string{
		{"256 1024", "256 256"},
		{"256 1024", "1024 256"},
		{"256 1024", "255 1024"},
		{"256 1024", "256 1000"},
		{"256 1024", "256  1024"},
		{"256 1024", "0256 1024"},
		{"256 1024", "256 9223372036854775808"},
		{"256 1024", "256"},
		{" 12345", " 0"},
		{" 12345", " -1"},
		{" 12345", ""},
		{"ca97", "CA97"},
		{"ca97", "ca9"},
		{"seal/1", "seal/2"},
		{"seal/1", "seal/3"},
		{"example.org/log", ""},
		{"example.org/log", "a+b"},
		{"example.org/log", "immutable/x"},
		{"256 1024", "0 4294967552"},
		{"3e23", "3e23\n"},
		{"12345", "12345 "},
		{"12345", "12345\r"},
	} {
		if bad := strings.Replace(text, r[0], r[1], 1); bad == text {
			t.Fatalf("%q is not in the text", r[0])
		} else if got, err := ParseSeal(bad); err == nil {
			t.Errorf("accepts %q as %+v", bad, got)
		}
	}
	for _, extra := range []string{"\n", "x\n", " "} {
		if _, err := ParseSeal(text + extra); err == nil {
			t.Errorf("accepts %q behind", extra)
		}
	}
}

func FuzzIndexDecode(f *testing.F) {
	f.Add(sample(f).Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) { checkDecode(t, data) })
}

func FuzzParseSeal(f *testing.F) {
	f.Add(Seal{Origin: "o", End: 256, ArchiveLen: 1, IndexLen: 1}.Text())
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := ParseSeal(text); err == nil && s.Text() != text {
			t.Errorf("accepts %q, which is written %q", text, s.Text())
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	var lines []entry.Line
	for i := range uint64(GroupSize) {
		line, err := entry.Append(nil, &entry.Event{Message: "m", IdempotencyKey: fmt.Sprint("key-", i)})
		if err != nil {
			b.Fatal(err)
		}
		entry.Patch(line, i, int64(i), 5)
		var l entry.Line
		if err := entry.Decode(line, &l); err != nil {
			b.Fatal(err)
		}
		lines = append(lines, l)
	}
	for b.Loop() {
		x := New(0)
		for i := range lines {
			if err := x.Add(&lines[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
}
