package proof

import (
	"slices"
	"testing"
	"time"
)

// The times that a quorum vouches for are those of its members; who is not needed for it moves neither, whatever time it states.
func TestQuorumVouchesForTimes(t *testing.T) {
	w := policyKeys(t, 4)
	text := testCheckpoint(7).Text()
	const lie, late = 1, 253402300799
	for _, tt := range []struct {
		name      string
		quorum    []string
		times     []uint64 // of w0, w1, …; 0: it did not sign
		by, since int64    // 0: none
	}{
		{"two of three, both honest", []string{"group g 2 w0 w1 w2", "quorum g"}, []uint64{20, 30, 0}, 30, 20},
		{"the third lies early", []string{"group g 2 w0 w1 w2", "quorum g"}, []uint64{20, 30, lie}, 20, 20},
		{"the third lies late", []string{"group g 2 w0 w1 w2", "quorum g"}, []uint64{20, 30, late}, 30, 30},
		{"one is enough", []string{"group g 1 w0 w1 w2", "quorum g"}, []uint64{20, 30, 25}, 20, 30},
		{"all are needed", []string{"group g all w0 w1 w2", "quorum g"}, []uint64{20, 30, lie}, 30, lie},
		{"one outside of the quorum lies", []string{"group g all w0 w1", "quorum g"}, []uint64{20, 30, lie, late}, 30, 20},
		{"groups of groups", []string{"group a any w0 w1", "group b any w2 w3", "group g all a b", "quorum g"}, []uint64{5, 50, 20, 30}, 20, 30},
		{"not satisfied", []string{"group g 2 w0 w1 w2", "quorum g"}, []uint64{20}, 0, 0},
		{"a quorum of none", []string{"quorum none"}, []uint64{20, 30}, 0, 0},
	} {
		p := mustPolicy(t, policyText(w, tt.quorum...))
		note := signBy(t, text, privKey(t, TypeEd25519, testOrigin, 1))
		for i, at := range slices.Backward(tt.times) {
			if at > 0 {
				note = append(note, lineBy(t, text, at, w[i])...)
			}
		}
		r := p.Check(note)
		if unix := func(at time.Time) int64 {
			if at.IsZero() {
				return 0
			}
			return at.Unix()
		}; r.Err != nil || unix(r.By) != tt.by || unix(r.Since) != tt.since {
			t.Errorf("%s: by %v, since %v, want %d and %d; %v", tt.name, r.By, r.Since, tt.by, tt.since, r.Err)
		}
	}
}
