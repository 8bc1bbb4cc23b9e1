package immutable

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrClosed is returned by calls on a closed log.
	ErrClosed = errors.New("log is closed")

	// ErrUncertain is wrapped by the error of an append whose caller stopped waiting after it was admitted: it may be
	// committed or not. Append again with the same idempotency key to learn which.
	ErrUncertain = errors.New("uncertain whether the append was committed")

	// ErrNoSpace is wrapped by an append that found the disk or quota full. Nothing of it is in the log; appending again
	// works as soon as there is room.
	ErrNoSpace = errors.New("no space left for the log")

	// ErrReadOnly is wrapped by writes to a log that is open for reading only.
	ErrReadOnly = errors.New("log is open read-only")

	// ErrNotFound is wrapped where an index, proof size or log does not exist (yet).
	ErrNotFound = errors.New("not found")

	// ErrWriterFailed is wrapped by every append after one whose outcome on the disk is unknown (a failed fsync, a file that
	// changed under the writer). Close the log and open it again: recovery reads back what the disk has.
	ErrWriterFailed = errors.New("the writer has stopped")

	// ErrTooLarge is wrapped by an append over one of the limits MaxEntryBytes, MaxBatchEntries, MaxBatchBytes.
	ErrTooLarge = errors.New("append is too large")
)

// LockedError is returned by Open when another writer has the log.
type LockedError struct {
	Dir      string
	PID      int
	Hostname string
	Since    string
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s: process %d on host %s has been writing to this log since %s: stop it first, or open read-only", e.Dir, e.PID, e.Hostname, e.Since)
}

// CorruptError says that a file does not hold what it must: the log opens read-only, and nothing was changed.
type CorruptError struct {
	File   string // relative to the log's directory
	Offset int64
	What   string
	Got    string
	Want   string
}

func (e *CorruptError) Error() string {
	s := fmt.Sprintf("%s, offset %d: %s", e.File, e.Offset, e.What)
	if e.Got != "" || e.Want != "" {
		s += fmt.Sprintf(" (found %s, expected %s)", or(e.Got, "nothing"), or(e.Want, "nothing"))
	}
	return s + "; run `immutable verify` for the whole picture, and `immutable repair --from BACKUP` with a good copy"
}

// RefusedError says that writing here would contradict what this host has signed, or that this host does not know the
// log. Both states are given, so that they can be shown as evidence.
type RefusedError struct {
	Dir    string
	Reason string
	Ours   string // what the directory shows: its newest checkpoint's text, or the state computed from the entries
	Known  string // what this host's head says
	Next   string // the command or action that leads on

	err error // a sentinel that it wraps, or nil
}

// Unwrap returns ErrEpochs where the chain of keys is the reason.
func (e *RefusedError) Unwrap() error { return e.err }

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("%s: %s", e.Dir, e.Reason)
	if e.Ours != "" {
		s += "\nthe directory shows:\n" + indent(e.Ours)
	}
	if e.Known != "" {
		s += "\nthis host's head says:\n" + indent(e.Known)
	}
	return s + "\nnext: " + e.Next
}

func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

func indent(s string) string {
	var out strings.Builder
	out.WriteString("  ")
	for i, r := range s {
		out.WriteString(string(r))
		if r == '\n' && i != len(s)-1 {
			out.WriteString("  ")
		}
	}
	return out.String()
}
