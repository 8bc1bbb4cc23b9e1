package fsck

import (
	"bytes"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/timestamp/tsatest"
)

// FuzzTrust changes files of a log with epochs, cosignatures, time stamps and producers. No input may make the check panic,
// and none may pass that changed a byte which carries a claim.
func FuzzTrust(f *testing.F) {
	a := tsatest.New(f, nil)
	good := watched(f, a)
	good.rotateKeys()
	one := makeProducer(f, "one", "ed25519")
	good.register(one)
	good.send(one, 1, 2, 4)
	good.close()
	list := names(good)
	for op := range byte(9) {
		for file := range byte(len(list)) {
			if raceEnabled && (op+file)%5 != 0 {
				continue
			}
			f.Add([]byte{file, op, 1, 40, 3})
		}
	}
	free := func(name string) bool { return name == "cosigned" || name == evidenceFileName(601, -1) }
	f.Fuzz(func(t *testing.T, data []byte) {
		b := good.clone()
		b.t = t
		for ; len(data) >= 5; data = data[5:] {
			b.mutate(list, data[:5])
		}
		r := verify(t, b.trusting(a))
		if r.Verdict == Refuted && len(r.Findings) == 0 {
			t.Error("refuted without a finding")
		}
		same := true
		for _, name := range list {
			same = same && (free(name) || bytes.Equal(b.files[name], good.files[name]))
		}
		if r.Verdict == Proven && !same {
			t.Error("proven, though the files differ")
		}
		// Cosignatures may be deleted and added; bad ones may not.
		for _, name := range list {
			if free(name) && r.Verdict == Proven && b.files[name] != nil && !bytes.HasPrefix(b.files[name], []byte(good.cosignedText())) {
				t.Errorf("proven, though %s is of another checkpoint", name)
			}
		}
		if !b.differs(good) && (r.Verdict != Proven || r.Completeness != Incomplete || r.ProducerSigned != 3 || r.Witnessed == nil || !r.Witnessed.Satisfied) {
			t.Errorf("%s, %s, though nothing was changed: %v", r.Verdict, r.Completeness, r.Findings)
		}
	})
}
