package client

import (
	"errors"
	"fmt"

	"github.com/tree-of-life-system/immutable/proof"
)

// ErrClosed is returned by calls on a client or writer that was closed.
var ErrClosed = errors.New("client is closed")

// VerificationError says that what the server returned is not what the log has signed, or not what was asked for. It was not
// given to the caller. Err, where there is one, says more: a *proof.StrippedError for a signature that is not there, say.
type VerificationError struct {
	Index     int64 // of the entry, -1 where it is about none
	What      string
	Got, Want string // may be empty
	Err       error  // may be nil
}

func (e *VerificationError) Error() string {
	s := "the server's answer does not verify: "
	if e.Index >= 0 {
		s += fmt.Sprintf("entry %d: ", e.Index)
	}
	s += e.What
	if e.Got != "" || e.Want != "" {
		s += fmt.Sprintf(" (got %s, want %s)", e.Got, e.Want)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *VerificationError) Unwrap() error { return e.Err }

// MisbehaviourError says that a server's checkpoint does not go with one that it showed before: it has rolled its log back,
// or has two histories of it. Both notes are the evidence; keep them, and show them to others. What the client remembers does
// not change.
type MisbehaviourError struct {
	Origin     string
	What       string
	Known, Got []byte // checkpoint notes, verbatim: the one that is remembered, and the new one
	// Proof, with both notes, is a portable proof where the two contradict each other; see Portable.
	Proof []proof.Hash

	portable bool
}

func (e *MisbehaviourError) Error() string {
	s := fmt.Sprintf("the server contradicts what it has shown of %s: %s", e.Origin, e.What)
	if e.portable {
		s += "; the two checkpoints and a proof of it are in the error: save what Portable returns, and `immutable verify FILE --key …` explains it to anybody"
	} else {
		s += "; both checkpoints are in the error: keep them"
	}
	return s
}

// Portable returns a proof of misbehaviour, the file that `immutable verify` explains and that anybody who knows the log's keys
// can check. It is false where the two checkpoints alone prove nothing to others: an old checkpoint that is shown again was
// once true, and only who saw the newer one knows better.
func (e *MisbehaviourError) Portable() ([]byte, bool) {
	if !e.portable {
		return nil, false
	}
	m := proof.Misbehaviour{A: e.Known, B: e.Got, Proof: e.Proof}
	a, _ := checkpointOf(e.Known)
	b, _ := checkpointOf(e.Got)
	if a.Size > b.Size {
		m.A, m.B = m.B, m.A
	}
	data, err := m.MarshalText()
	return data, err == nil
}

// checkpointOf reads a note's checkpoint without verifying it.
func checkpointOf(note []byte) (proof.Checkpoint, error) {
	n, err := proof.ParseNote(note)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return proof.ParseCheckpoint(n.Text)
}

// UndeliveredError is what Writer.Close and Writer.Flush return where something has not reached the server.
type UndeliveredError struct {
	Events  uint64 // that wait: in the spool, or lost with this process
	Spooled bool   // they are in the spool, and the next NewWriter with the same directory sends them
	Dropped uint64 // that were dropped and of which no gap record is in the log yet
	Err     error  // why the last attempt failed, or the context's error
}

func (e *UndeliveredError) Error() string {
	s := fmt.Sprintf("%d events were not delivered", e.Events)
	if e.Spooled {
		s += "; they are in the spool, and the next writer sends them"
	}
	if e.Dropped > 0 {
		s += fmt.Sprintf("; the record of %d dropped ones was not delivered either", e.Dropped)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *UndeliveredError) Unwrap() error { return e.Err }

// RejectedError says that the server refuses an event for good, so that a Writer goes on without it.
type RejectedError struct {
	Event []byte // as JSON, in the form of the API
	Err   error  // usually a *Problem
}

func (e *RejectedError) Error() string { return "an event was refused: " + e.Err.Error() }

func (e *RejectedError) Unwrap() error { return e.Err }
