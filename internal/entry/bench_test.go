package entry

import (
	"strconv"
	"strings"
	"testing"
)

// rawSample is a metadata object of 150 bytes.
const rawSample = `{"repo":"tree-of-life-system","sha":"9fceb02d0ae598e95dc970b74767f19372d61af8","user":"alice@example.com","additions":120,"private":true,"ratio":0.25}`

func BenchmarkAppendMap(b *testing.B) {
	e, dst := sample(), make([]byte, 0, MaxLine)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Append(dst, e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRaw(b *testing.B) {
	e, dst := sample(), make([]byte, 0, MaxLine)
	e.Metadata, e.RawMetadata = nil, []byte(rawSample)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Append(dst, e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPatch(b *testing.B) {
	line, err := Append(nil, sample())
	if err != nil {
		b.Fatal(err)
	}
	var i uint64
	for b.Loop() {
		i++
		Patch(line, i, int64(1770561000123456789+i), 77)
	}
}

func BenchmarkDecode(b *testing.B) {
	e := sample()
	e.Metadata, e.RawMetadata = nil, []byte(rawSample)
	line, err := Append(nil, e)
	if err != nil {
		b.Fatal(err)
	}
	Patch(line, 12345, 1770561000123456789, 0x2aaaaaaaaaa)
	var l Line
	b.ReportAllocs()
	b.ReportMetric(float64(len(line)), "bytes/line")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if err := Decode(line, &l); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManyNames is the worst case of the search for duplicate names: 60 KB of tiny members.
func BenchmarkManyNames(b *testing.B) {
	var raw strings.Builder
	for i := 0; raw.Len() < 60_000; i++ {
		raw.WriteString(`,"` + strconv.FormatInt(int64(i), 36) + `":0`)
	}
	object := []byte("{" + raw.String()[1:] + "}")
	dst := make([]byte, 0, MaxLine)
	b.SetBytes(int64(len(object)))
	for b.Loop() {
		if _, err := AppendObject(dst, object); err != nil {
			b.Fatal(err)
		}
	}
}
