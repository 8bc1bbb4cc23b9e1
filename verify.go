package immutable

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// VerifyOptions says what a verification may know from outside the directory. A key that lies beside the log proves
// little: give it what you kept elsewhere.
type VerifyOptions struct {
	Keys        []string       // verifier keys (vkeys) that must be the log's, of any epoch
	Checkpoints [][]byte       // signed checkpoints kept from earlier: the log must contain what they cover
	Receipts    []Receipt      // receipts of appends: the entries must be there, unchanged
	Proofs      [][]byte       // .tlog-proof files, as `immutable prove` writes them
	Epochs      [][]byte       // chains of keys kept from earlier, see [Log.KeyChain]: the log's must begin with them
	Policy      *proof.Policy  // witnesses whose cosignatures count, and how many it takes; nil: nobody's
	TimeRoots   *x509.CertPool // roots of the authorities whose time stamps count; nil: nobody's
	Require     proof.Require  // which keys of its epoch must have signed a checkpoint; all, if it is not set
	Entries     []uint64       // indexes of entries whose brackets in time the report is to have
	NoHead      bool           // do not use what this host knows of the log
	Cold        string         // directory to which retired segments were moved: their entries are read there; "" leaves them unread
	Indexes     bool           // recompute every index too
	Workers     int            // goroutines that read and hash; 0 = GOMAXPROCS
	Progress    func(Progress) // called often, from one goroutine at a time; may be nil
	OnReport    func(*Report)  // called with the report before Verify returns; may be nil
}

// Report is what a verification found. Its Verdict is Refuted, Unknown, Proven or Consistent.
type Report = fsck.Report

// Finding is one contradiction: file, offset, index, and both values.
type Finding = fsck.Finding

// Verdict is the answer of a verification.
type Verdict = fsck.Verdict

// Basis is something from outside the directory that it agrees with: a head, key, checkpoint, receipt, chain of keys, or
// the witnesses of a policy.
type Basis = fsck.Basis

// ControlEntry is an entry that the log itself wrote, as a report lists it.
type ControlEntry = fsck.Control

// RetiredReport is a segment that is retired, as a report lists it.
type RetiredReport = fsck.Retired

// HoldReport is a legal hold that is active, as a report lists it.
type HoldReport = fsck.Hold

// EpochReport is an epoch of the log's keys.
type EpochReport = fsck.EpochReport

// Witnessed says how a policy judges the log's newest cosigned checkpoint.
type Witnessed = fsck.Witnessed

// TimeMark is what an outside party says about when it saw the log.
type TimeMark = fsck.TimeMark

// Bracket says between what times an entry came into the log, by the word of parties that are trusted.
type Bracket = fsck.Bracket

// ClockReport is a run of entries whose timestamps lie outside their brackets.
type ClockReport = fsck.ClockReport

// ProducerReport is what a producer signed, and which of its counters are missing.
type ProducerReport = fsck.ProducerReport

// CounterRange is counters of a producer, both ends included.
type CounterRange = fsck.Range

// Completeness is the verdict on what the sources say they sent, beside the one on integrity.
type Completeness = fsck.Completeness

// The values of Completeness.
const (
	Complete            = fsck.Complete    // of every registered producer no counter is missing and nothing is bad
	Incomplete          = fsck.Incomplete  // counters are missing, or signatures do not count
	NoProducers         = fsck.NoProducers // no producer is registered: nothing can be said
	CompletenessUnknown = fsck.NotKnown    // entries could not be read
)

// Progress says how far a verification is.
type Progress = fsck.Progress

// The verdicts of a verification; docs/format.md, "Verdict", defines them.
const (
	Refuted    = fsck.Refuted    // something contradicts the format, a signature or what is known from elsewhere
	Unknown    = fsck.Unknown    // could not tell
	Proven     = fsck.Proven     // it agrees with itself and with something from outside the directory
	Consistent = fsck.Consistent // it agrees with itself; nothing else was known
)

// Verify reads the whole directory again, with decoders of its own, and says what is refuted, consistent or proven. It
// uses nothing of what this process has in memory, and does not disturb appends. The error says that it could not be
// carried out; a tampered log is a report, not an error.
func (l *Log) Verify(ctx context.Context, o VerifyOptions) (*Report, error) {
	rep, err := verifyDir(ctx, l.fs, l.dir, l.cfg.StateDir, &o)
	if err != nil {
		return nil, err
	}
	if !l.cfg.ReadOnly {
		l.recordVerified(rep)
	}
	return rep, nil
}

// VerifyDir verifies a log that is not open, and may not even be readable. config may be nil; of it StateDir counts.
func VerifyDir(ctx context.Context, dir string, config *Config, o VerifyOptions) (*Report, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	rep, err := verifyDir(ctx, cfg.fs, dir, cfg.StateDir, &o)
	if err != nil {
		return nil, err
	}
	if rep.Origin != "" {
		l := &Log{cfg: cfg, fs: cfg.fs, dir: dir, state: identity.Dir(cfg.StateDir, rep.Origin), logger: cfg.Logger}
		l.recordVerified(rep)
	}
	return rep, nil
}

func verifyDir(ctx context.Context, fsys vfs.FS, dir, state string, o *VerifyOptions) (*Report, error) {
	if o.NoHead {
		state = ""
	}
	receipts := make([]fsck.Receipt, len(o.Receipts))
	for i, r := range o.Receipts {
		receipts[i] = fsck.Receipt{Index: r.Index, Leaf: r.Leaf, Chain: r.Hash, Name: fmt.Sprintf("receipt of entry %d", r.Index)}
	}
	rep, err := fsck.Check(ctx, fsck.Options{
		FS: fsys, Dir: dir, State: state, Keys: o.Keys, Checkpoints: o.Checkpoints, Receipts: receipts,
		Proofs: o.Proofs, Indexes: o.Indexes, Workers: o.Workers, Progress: o.Progress,
		Cold: o.Cold, Epochs: o.Epochs, Policy: o.Policy, TimeRoots: o.TimeRoots, Require: o.Require, Entries: o.Entries,
	})
	if err == nil && state != "" {
		err = refuteReplaced(fsys, state, dir, rep)
	}
	if err == nil && o.OnReport != nil {
		o.OnReport(rep)
	}
	return rep, err
}

// recordVerified remembers the outcome for Stats, where this host knows the log.
func (l *Log) recordVerified(rep *Report) {
	if _, err := l.fs.Stat(l.state); err != nil {
		return
	}
	data, err := json.Marshal(Verified{Verdict: string(rep.Verdict), Size: rep.Size, Time: l.cfg.now().UTC().Truncate(time.Second)})
	if err == nil {
		name := filepath.Join(l.state, verifiedName)
		err = vfs.WriteAtomic(l.fs, name+".new", name, append(data, '\n'), 0o600)
	}
	if err != nil {
		l.logger.Warn("outcome of the verification not remembered", "error", err)
	}
}

// Proof is an entry's inclusion proof in the c2sp.org/tlog-proof@v1 form, against the newest signed checkpoint. Other
// tools of the transparency field verify it.
func (l *Log) Proof(ctx context.Context, index uint64) ([]byte, error) {
	if !l.signed() {
		return nil, errors.New("this log has no signatures, so there is no checkpoint to prove an entry against")
	}
	note, err := l.coveringCheckpoint(index)
	if err != nil {
		return nil, err
	}
	c, err := l.openCheckpoint(note)
	if err != nil {
		return nil, &CorruptError{File: checkpointName, What: err.Error()}
	}
	if index >= c.Size {
		return nil, fmt.Errorf("entry %d: %w under the newest checkpoint, which covers %d entries; a moment later it may", index, ErrNotFound, c.Size)
	}
	hashes, err := l.InclusionProof(ctx, index, c.Size)
	if err != nil {
		return nil, err
	}
	p := proof.InclusionProof{Index: index, Hashes: hashes, Checkpoint: note}
	return p.MarshalText()
}

// coveringCheckpoint is the newest cosigned checkpoint if it covers index, else the newest one; a writer signs one now if
// index needs it.
func (l *Log) coveringCheckpoint(index uint64) ([]byte, error) {
	if note := l.cosignedOver(index); note != nil {
		return note, nil
	}
	if l.w != nil && index < l.Size() {
		l.publisher.mu.Lock()
		size := l.publisher.size
		l.publisher.mu.Unlock()
		if index >= size {
			if err := l.publisher.publish(false); err != nil {
				return nil, err
			}
		}
	}
	return l.readCheckpoint()
}
