package fsck

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"
)

// FuzzCheck changes files of a small log as the input says. No input may make the check panic, and none may pass that changed a
// byte which carries a claim.
func FuzzCheck(f *testing.F) {
	good := small(f, "example.com/log", true)
	list := names(good)
	for op := range byte(9) {
		for file := range byte(len(list)) {
			f.Add([]byte{file, op, 0, 40, 3})
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := good.clone()
		b.t = t
		for ; len(data) >= 5; data = data[5:] {
			b.mutate(list, data[:5])
		}
		o := b.options()
		o.Indexes = true
		r := verify(t, o)
		if (r.Verdict == Proven || r.Verdict == Consistent) && b.differs(good) {
			t.Errorf("%s, though the files differ", r.Verdict)
		}
		if r.Verdict == Refuted && len(r.Findings) == 0 {
			t.Error("refuted without a finding")
		}
		if r.Verdict != Proven && !b.differs(good) {
			t.Errorf("%s, though nothing was changed: %v", r.Verdict, r.Findings)
		}
		b.noHead = true
		o = b.options()
		o.Keys = []string{b.signer.VKey()}
		if r := verify(t, o); r.Verdict == Proven && b.differs(good) {
			// Without a head log.json's "created" carries no claim, and nothing says how far the log and its history went.
			if i, k := b.created(); !bytes.Equal(b.files["log.json"][:i], good.files["log.json"][:i]) || !bytes.Equal(b.files["log.json"][k:], good.files["log.json"][k:]) {
				t.Errorf("proven, though log.json differs")
			}
			if !bytes.HasPrefix(bytes.Join(good.lines, []byte("\n")), bytes.Join(entriesOf(b.files["immutable.log"]), []byte("\n"))) &&
				!bytes.Contains(bytes.Join(good.lines, []byte("\n")), bytes.Join(entriesOf(b.files["immutable.log"]), []byte("\n"))) {
				t.Errorf("proven, though entries differ")
			}
		}
	})
}

// mutate changes one file; p is its number, what to do, where, and a value.
func (b *book) mutate(list []string, p []byte) {
	name := list[int(p[0])%len(list)]
	other := list[int(p[4])%len(list)]
	data := slices.Clone(b.files[name])
	at := 0
	if len(data) > 0 {
		at = int(binary.BigEndian.Uint16(p[2:])) % len(data)
	}
	switch p[1] % 9 {
	case 0:
		if len(data) > 0 {
			data[at] ^= p[4]
		}
	case 1:
		data = data[:at]
	case 2:
		delete(b.files, name)
		return
	case 3:
		data = slices.Insert(data, at, p[4])
	case 4:
		data = slices.Delete(data, at, min(len(data), at+int(p[4])))
	case 5:
		data = append(data, make([]byte, int(p[4]))...)
	case 6:
		b.files[other] = data
		return
	case 7:
		data = slices.Insert(data, at, b.files[other]...)
	case 8:
		b.files[name], b.files[other] = b.files[other], data
		return
	}
	b.files[name] = data
}

// differs compares what carries a claim: every byte of these files.
func (b *book) differs(good *book) bool {
	return !maps.EqualFunc(b.files, good.files, bytes.Equal)
}

func entriesOf(file []byte) [][]byte {
	var out [][]byte
	for line := range strings.Lines(string(file)) {
		if strings.HasPrefix(line, `{"id":`) {
			out = append(out, []byte(strings.TrimSuffix(line, "\n")))
		}
	}
	return out
}
