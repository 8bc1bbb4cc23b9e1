package segment

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

func leafLine(t testing.TB, index uint64, control string) []byte {
	t.Helper()
	e := entry.Event{Level: entry.System, Message: fmt.Sprint(index), Hostname: "h"}
	if control != "" {
		e.Log = []byte(control)
	}
	line, err := entry.Append(nil, &e)
	if err != nil {
		t.Fatal(err)
	}
	entry.Patch(line, index, 1, 1)
	return line
}

// leavesFile is of two groups from 256 on, with control entries at 300 and 700.
func leavesFile(t testing.TB) (data []byte, hashes []proof.Hash) {
	t.Helper()
	data = AppendLeavesHeader(nil, 256, 768)
	var kept []byte
	for i := uint64(256); i < 768; i++ {
		line := leafLine(t, i, "")
		if i == 300 || i == 700 {
			line = leafLine(t, i, `{"type":"hold","id":"a","reason":"","by":""}`)
			kept = AppendKeptLine(kept, i, line)
		}
		h := proof.LeafHash(line)
		hashes = append(hashes, h)
		data = append(data, h[:]...)
	}
	return append(data, kept...), hashes
}

func TestLeavesAreReadAsTheyWereWritten(t *testing.T) {
	data, hashes := leavesFile(t)
	x, err := OpenLeaves(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if x.First() != 256 || x.End() != 768 || x.Groups() != 2 || len(x.Kept()) != 2 {
		t.Fatalf("%d to %d, %d groups, %d kept", x.First(), x.End(), x.Groups(), len(x.Kept()))
	}
	for g := range 2 {
		leaves, err := x.Group(g)
		if err != nil {
			t.Fatal(err)
		}
		same, err := ReadLeaves(bytes.NewReader(data), int64(len(data)), uint64(g+1))
		if err != nil || !bytes.Equal(same[7][:], leaves[7][:]) {
			t.Errorf("group %d: %v", g, err)
		}
		for i := range leaves {
			if leaves[i] != hashes[g*GroupSize+i] {
				t.Fatalf("leaf %d of group %d", i, g)
			}
		}
		if kept := x.KeptOf(g); len(kept) != 1 || kept[0].Index != []uint64{300, 700}[g] || data[kept[0].Offset] != "37"[g] {
			t.Errorf("kept of group %d: %+v", g, kept)
		}
	}
	if _, err := x.Group(2); err == nil {
		t.Error("a third group")
	}
	for _, k := range []uint64{0, 3, 1 << 60} {
		if _, err := ReadLeaves(bytes.NewReader(data), int64(len(data)), k); err == nil {
			t.Errorf("group %d was read", k)
		}
	}
}

func TestLeavesRefuseEverythingElse(t *testing.T) {
	good, _ := leavesFile(t)
	header := len(AppendLeavesHeader(nil, 256, 768))
	hold := leafLine(t, 300, `{"type":"hold","id":"a","reason":"","by":""}`)
	body := good[:header+512*proof.HashSize]
	for name, data := range map[string][]byte{
		"nothing":            {},
		"no line":            []byte(leavesPrefix),
		"a space":            bytes.Replace(good, []byte(`"first":256`), []byte(`"first": 256`), 1),
		"a leading zero":     bytes.Replace(good, []byte(`"first":256`), []byte(`"first":0256`), 1),
		"within a group":     bytes.Replace(good, []byte(`"first":256`), []byte(`"first":255`), 1),
		"end within a group": bytes.Replace(good, []byte(`"end":768`), []byte(`"end":767`), 1),
		"no entries":         bytes.Replace(good, []byte(`"end":768`), []byte(`"end":256`), 1),
		"too many groups":    bytes.Replace(good, []byte(`"end":768`), []byte(`"end":4294967808`), 1),
		"cut in the hashes":  good[:header+100],
		"no newline":         good[:len(good)-1],
		"a line more":        append(bytes.Clone(good), '\n'),
		"a line twice":       append(bytes.Clone(good), good[bytes.LastIndex(good[:len(good)-1], []byte("\n"))+1:]...),
		"out of order":       AppendKeptLine(AppendKeptLine(bytes.Clone(body), 700, leafLine(t, 700, `{"type":"hold","id":"a","reason":"","by":""}`)), 300, hold),
		"another index":      AppendKeptLine(bytes.Clone(body), 301, hold),
		"behind the end":     AppendKeptLine(bytes.Clone(body), 768, hold),
		"before the first":   AppendKeptLine(bytes.Clone(body), 255, hold),
		"an ordinary entry":  AppendKeptLine(bytes.Clone(body), 301, leafLine(t, 301, "")),
		"no entry":           AppendKeptLine(bytes.Clone(body), 300, []byte("{}")),
		"another entry":      AppendKeptLine(bytes.Clone(body), 300, leafLine(t, 300, `{"type":"hold","id":"b","reason":"","by":""}`)),
	} {
		_, err := OpenLeaves(bytes.NewReader(data), int64(len(data)))
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// large is a file of zeros behind a beginning.
type large struct {
	head []byte
	size int64
}

func (l *large) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(l.head)) {
		copy(p, l.head[off:])
	}
	return len(p), nil
}

func TestLeavesBoundTheirControlLines(t *testing.T) {
	head := AppendLeavesHeader(nil, 0, 256)
	least := int64(len(head)) + 256*proof.HashSize
	f := &large{head: head, size: least + MaxKeptBytes + 1}
	var corrupt *CorruptError
	if _, err := OpenLeaves(f, f.size); !errors.As(err, &corrupt) || corrupt.Offset != least || corrupt.Got != fmt.Sprintf("%d bytes", MaxKeptBytes+1) {
		t.Errorf("one byte over the limit: %v", err)
	}
	if _, err := OpenLeaves(f, f.size-1); !errors.As(err, &corrupt) || corrupt.Msg != "a control line has no end" {
		t.Errorf("at the limit: %v", err)
	}
}

// FuzzOpenLeaves reads any bytes: what is accepted is what writing the same again gives.
func FuzzOpenLeaves(f *testing.F) {
	good, _ := leavesFile(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(AppendLeavesHeader(nil, 0, 256))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := OpenLeaves(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		again := AppendLeavesHeader(nil, x.First(), x.End())
		n := 0
		for g := range x.Groups() {
			leaves, err := x.Group(g)
			if err != nil {
				t.Fatal(err)
			}
			for i := range leaves {
				again = append(again, leaves[i][:]...)
			}
			n += len(x.KeptOf(g))
		}
		for _, k := range x.Kept() {
			again = AppendKeptLine(again, k.Index, k.Line)
		}
		if !bytes.Equal(again, data) || n != len(x.Kept()) {
			t.Errorf("%d bytes were accepted, and written again they are %d", len(data), len(again))
		}
	})
}
