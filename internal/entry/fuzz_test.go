package entry

import (
	"bytes"
	"testing"
)

// checkDecode compares Decode with its twin; what it accepts must be what Append and Patch make of the parts.
func checkDecode(t *testing.T, line []byte) bool {
	t.Helper()
	var l Line
	err := Decode(line, &l)
	if want := naiveDecode(line); (err == nil) != want {
		t.Fatalf("%.300q\ngot %v, but the naive decoder says %v", line, err, want)
	}
	if err != nil {
		return false
	}
	e, err := l.Event()
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if l.Blob == nil && l.Encrypted == nil && l.Log == nil {
		if got, want := l.AppendSigned(nil), naiveSigned(line); string(got) != want {
			t.Fatalf("%q: signed content\ngot  %q\nwant %q", line, got, want)
		}
	}
	if l.Blob != nil || l.Encrypted != nil || (l.EventTime != nil && e.EventTime.IsZero()) {
		return true
	}
	again, err := Append(nil, e)
	if err != nil {
		t.Fatalf("%q: append: %v", line, err)
	}
	Patch(again, uint64(l.Index32), l.Time, l.Session)
	if !bytes.Equal(again, line) {
		t.Fatalf("got  %q\nwant %q", again, line)
	}
	return true
}

// checkObject compares AppendObject with its twin.
func checkObject(t *testing.T, raw []byte) bool {
	t.Helper()
	const before = "before"
	got, err := AppendObject([]byte(before), raw)
	want, ok := naiveObject(raw)
	if (err == nil) != ok {
		t.Fatalf("%.300q\ngot %v, but the naive validator says %v", raw, err, ok)
	}
	if err != nil {
		want = nil
	}
	if string(got) != before+string(want) {
		t.Fatalf("%.300q\ngot  %q\nwant %q", raw, got, before+string(want))
	}
	return ok
}

func FuzzDecode(f *testing.F) {
	for _, line := range goodLines(f) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) { checkDecode(t, line) })
}

func FuzzAppendObject(f *testing.F) {
	for _, s := range append(objects, badObjects...) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkObject(t, raw) })
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\x00b\u0085\u00a0é😀\"\\\u2028")
	f.Add("\xff\xed\xa0\x80")
	f.Fuzz(func(t *testing.T, s string) { checkString(t, s) })
}
