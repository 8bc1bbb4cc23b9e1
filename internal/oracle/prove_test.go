package oracle

import (
	"context"
	"path/filepath"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tree-of-life-system/immutable"
)

// Proofs of a log with epochs of hybrid keys verify with torchwood, which knows the log key only: in whatever epoch the
// checkpoint is, and with whatever other signatures under it.
func TestProofsOfOurLogVerifyUnderItsLogKey(t *testing.T) {
	dir := t.TempDir()
	l, err := immutable.Open(filepath.Join(dir, "log"), &immutable.Config{Origin: "example.com/audit", StateDir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	verifier, err := note.NewVerifier(l.VerifierKeys()[0])
	if err != nil {
		t.Fatal(err)
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(l.Origin()), torchwood.SingleVerifierPolicy(verifier))
	ctx := context.Background()
	for range 3 {
		events := make([]immutable.Event, 300)
		for i := range events {
			events[i].Message = "event"
		}
		if _, err := l.Append(ctx, events...); err != nil {
			t.Fatal(err)
		}
		for _, index := range []uint64{0, 255, 256, l.Size() - 1} {
			proof, err := l.Proof(ctx, index)
			if err != nil {
				t.Fatal(err)
			}
			e, err := l.Entry(ctx, index)
			if err != nil {
				t.Fatal(err)
			}
			if err := torchwood.VerifyProof(policy, tlog.RecordHash(e.Line), proof); err != nil {
				t.Errorf("entry %d of %d: %v", index, l.Size(), err)
			}
			if err := torchwood.VerifyProof(policy, tlog.RecordHash(e.Line[1:]), proof); err == nil {
				t.Errorf("entry %d of %d: torchwood accepts another line", index, l.Size())
			}
		}
		if err := l.RotateKeys(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
