package journal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// cut divides all of b, in steps of what a reader that reads n bytes at a time would have.
func cut(t testing.TB, b []byte, step int) (entries [][]byte) {
	t.Helper()
	have := 0
	for p := 0; p < len(b); {
		n := Next(b[p:have], have == len(b))
		switch {
		case n == 0 && have == len(b):
			t.Fatalf("nothing is taken of %d last bytes", have-p)
		case n == 0 && have-p > MaxEntry+16:
			t.Fatalf("more than %d bytes are wanted", have-p)
		case n == 0:
			have = min(have+step, len(b))
		case n > MaxEntry+2:
			t.Fatalf("an entry of %d bytes", n)
		default:
			entries = append(entries, b[p:p+n])
			p += n
		}
	}
	return entries
}

func TestWhatSystemdWritesIsRead(t *testing.T) {
	written, err := os.ReadFile("testdata/written.export")
	if err != nil {
		t.Fatal(err)
	}
	exported, err := os.ReadFile("testdata/journalctl.export")
	if err != nil {
		t.Fatal(err)
	}
	a, b := cut(t, written, len(written)), cut(t, exported, 100)
	if len(a) != 7 || len(b) != 7 {
		t.Fatalf("%d and %d entries, want 7", len(a), len(b))
	}
	for i := range a {
		in, err := Fields(a[i])
		if err != nil {
			t.Fatal(err)
		}
		out, err := Fields(b[i])
		if err != nil {
			t.Fatal(err)
		}
		if out[0].Name != "__CURSOR" {
			t.Fatalf("entry %d begins with %s", i, out[0].Name)
		}
		for _, f := range in {
			if !slices.ContainsFunc(out, func(g Field) bool { return g.Name == f.Name && bytes.Equal(g.Value, f.Value) }) {
				t.Errorf("entry %d: the field %s=%q did not come back", i, f.Name, f.Value)
			}
		}
		if len(out) != len(in)+1 {
			t.Errorf("entry %d has %d fields, want %d", i, len(out), len(in)+1)
		}
	}
}

// binaryField is a field as the format writes any bytes.
func binaryField(name string, value []byte) []byte {
	b := append([]byte(name), '\n')
	b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	return append(append(b, value...), '\n')
}

// What is no entry takes no other with it.
func TestFaultsEndAtTheNextEntry(t *testing.T) {
	good := "__CURSOR=1\nMESSAGE=good\n\n"
	for _, bad := range []string{
		"__CURSOR=0\nno field\n\n", "__CURSOR=0\nMESSAGE\n\xff\xff\xff\xff\xff\xff\xff\xffabc\n\n", "__CURSOR=0\nMESSAGE\n\x03\x00\x00\x00\x00\x00\x00\x00abcd\n\n",
		"<html>\n\n", "__CURSOR=0\nlower=x\n\n", "=x\n\n", "__CURSOR=0\n1A=x\n\n",
	} {
		got := cut(t, []byte(bad+good), 7)
		if len(got) != 2 || string(got[1]) != good {
			t.Errorf("%q: %q", bad, got)
			continue
		}
		if _, err := Fields(got[0]); err == nil {
			t.Errorf("%q has no fault", bad)
		}
	}
	for _, end := range []string{"A=b", "A\n", "A\n\x01\x00", "A\n\x01\x00\x00\x00\x00\x00\x00\x00", "A\n\x01\x00\x00\x00\x00\x00\x00\x00x"} {
		got := cut(t, []byte(good+end), 3)
		if len(got) != 2 {
			t.Errorf("%q: %q", end, got)
		} else if _, err := Fields(got[1]); err == nil || !strings.Contains(err.Error(), "ends within") {
			t.Errorf("%q: %v", end, err)
		}
	}
	if f, err := Fields([]byte("A=b\n")); err != nil || len(f) != 1 {
		t.Errorf("an entry without its last empty line: %v, %v", f, err)
	}
}

func TestLimitsOfEntries(t *testing.T) {
	head := "__CURSOR=1\n"
	room := MaxEntry - len(head) - len(binaryField("A", nil)) - 1
	for extra, want := range map[int]int{0: 2, 1: 2, 100: 3} {
		whole := append(append([]byte(head), binaryField("A", bytes.Repeat([]byte("x\n"), room)[:room+extra])...), '\n')
		got := cut(t, append(whole, "__CURSOR=2\n\n"...), 64<<10)
		if len(got) != want || string(got[len(got)-1]) != "__CURSOR=2\n\n" {
			t.Fatalf("%d more than fits: %d pieces, want %d", extra, len(got), want)
		}
		if f, err := Fields(got[0]); (err == nil) != (extra == 0) {
			t.Errorf("%d more than fits: %d fields, %v", extra, len(f), err)
		}
	}
	fields := []byte(strings.Repeat("A=\n", MaxFields))
	if f, err := Fields(fields); err != nil || len(f) != MaxFields {
		t.Errorf("%d fields, %v", len(f), err)
	}
	if _, err := Fields(append(fields, "A=\n"...)); err == nil {
		t.Errorf("more than %d fields", MaxFields)
	}
	if _, err := Fields(fmt.Appendf(nil, "%s=\n", strings.Repeat("A", maxName))); err != nil {
		t.Error(err)
	}
	if _, err := Fields(fmt.Appendf(nil, "%s=\n", strings.Repeat("A", maxName+1))); err == nil {
		t.Error("a name that is too long")
	}
}

// FuzzNext: every byte is in one piece, whatever comes; what is an entry says the same when it is written again.
func FuzzNext(f *testing.F) {
	exported, err := os.ReadFile("testdata/journalctl.export")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(exported, uint8(40))
	f.Add([]byte("A\n\x01\x00\x00\x00\x00\x00\x00\x00x\n\n\n\n__CURSOR=1\nB=c=d\n\nx\n\n__CURSOR="), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		for _, e := range cut(t, b, int(step)+1+len(b)/64) { // a reader of single bytes looks at all of them each time
			fields, err := Fields(e)
			if err != nil {
				continue
			}
			var again []byte
			for _, f := range fields {
				again = append(again, binaryField(f.Name, f.Value)...)
			}
			again = append(again, '\n')
			if len(again) > MaxEntry {
				continue
			}
			second, err := Fields(again)
			if err != nil || Next(append(slices.Clone(again), "__CURSOR="...), false) != len(again) {
				t.Fatalf("%q, written again: %v", e, err)
			}
			if !slices.EqualFunc(fields, second, func(a, b Field) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
				t.Fatalf("%q: %q, then %q", e, fields, second)
			}
		}
	})
}
