package immutable

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/segment"
)

// Hold is a legal hold: while one is active nothing of the log is retired. Holds are control entries of the log itself, so
// that when one began and ended can be proven, and a tombstone in between refutes the log.
type Hold struct {
	ID     string    `json:"id"`     // 1 to 64 of A-Z a-z 0-9 . _ - and a letter or digit first
	Reason string    `json:"reason"` // at most 1,024 bytes
	By     string    `json:"by"`     // who asked for it, for people; at most 1,024 bytes
	Index  uint64    `json:"index"`  // of the entry that began it
	Since  time.Time `json:"since"`  // that entry's timestamp
}

// HeldError is returned where something would be retired while holds are active.
type HeldError struct{ Holds []Hold }

func (e *HeldError) Error() string {
	var ids []string
	for _, h := range e.Holds {
		ids = append(ids, fmt.Sprintf("%s (entry %d: %.100q)", h.ID, h.Index, h.Reason))
	}
	return "nothing is retired while a legal hold is active: " + strings.Join(ids, ", ") + "; `immutable hold --release ID` ends one"
}

const (
	maxHoldID     = 64
	maxReason     = 1024 // bytes of a reason, of who gave it, and of a cold directory
	holdType      = "hold"
	releaseType   = "release"
	retireType    = "retire"
	restoreType   = "restore"
	retentionText = "control:hold OR control:release OR control:retire OR control:restore"
)

// Hold begins a legal hold. Of h the ID, Reason and By count. It is durable when Hold returns: nothing is retired from then on.
func (l *Log) Hold(ctx context.Context, h Hold) (Receipt, error) {
	return l.changeHold(ctx, holdType, "a legal hold begins: nothing is retired", &h)
}

// Release ends the hold of h.ID. Reason and By say why, and who decided it.
func (l *Log) Release(ctx context.Context, h Hold) (Receipt, error) {
	return l.changeHold(ctx, releaseType, "a legal hold ends", &h)
}

// Holds are the holds that are active, the oldest first.
func (l *Log) Holds(ctx context.Context) ([]Hold, error) {
	f, err := l.retained(ctx)
	if err != nil {
		return nil, err
	}
	return slices.Clone(f.holds), nil
}

func (l *Log) changeHold(ctx context.Context, kind, message string, h *Hold) (Receipt, error) {
	if l.w == nil {
		return Receipt{}, l.refusal()
	}
	if !validHoldID(h.ID) {
		return Receipt{}, fmt.Errorf("hold id %.80q: want 1 to %d of A-Z a-z 0-9 . _ - and a letter or digit first", h.ID, maxHoldID)
	}
	if err := checkReason("reason", h.Reason, "by", h.By); err != nil {
		return Receipt{}, err
	}
	l.retention.changing.Lock()
	defer l.retention.changing.Unlock()
	f, err := l.retained(ctx)
	if err != nil {
		return Receipt{}, err
	}
	switch at := f.hold(h.ID); {
	case kind == holdType && at >= 0:
		return Receipt{}, fmt.Errorf("the hold %s is active already, since entry %d", h.ID, f.holds[at].Index)
	case kind == releaseType && at < 0:
		return Receipt{}, fmt.Errorf("hold %s: %w; `immutable hold` lists those that are active", h.ID, ErrNotFound)
	}
	return l.retentionEntry(ctx, message, struct {
		Type   string `json:"type"`
		ID     string `json:"id"`
		Reason string `json:"reason"`
		By     string `json:"by"`
	}{kind, h.ID, h.Reason, h.By})
}

func validHoldID(id string) bool {
	if id == "" || len(id) > maxHoldID || strings.ContainsAny(id[:1], "._-") {
		return false
	}
	return strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// checkReason checks pairs of a name and a text that goes into a control entry.
func checkReason(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if s := pairs[i+1]; len(s) > maxReason || !utf8.ValidString(s) {
			return fmt.Errorf("%s of %d bytes: want at most %d of UTF-8", pairs[i], len(s), maxReason)
		}
	}
	return nil
}

// retention is what the log's control entries say of holds and of retired segments. It is read from the entries when it is
// first needed, by their signed indexes, and never from a file that says it in their place.
type retention struct {
	changing sync.Mutex // one change at a time: the second sees the first

	mu    sync.Mutex      // guards what follows; held while the entries are read
	facts *retentionFacts // nil: not read yet. Replaced, never changed in place
}

// retentionFacts are of the entries below upTo.
type retentionFacts struct {
	upTo    uint64
	holds   []Hold    // active
	retired []Retired // in effect, the oldest first; each begins where the one before ends
}

func (f *retentionFacts) hold(id string) int {
	return slices.IndexFunc(f.holds, func(h Hold) bool { return h.ID == id })
}

// retiredEnd is the index after the last retired entry.
func (f *retentionFacts) retiredEnd() uint64 {
	if n := len(f.retired); n > 0 {
		return f.retired[n-1].End
	}
	return 0
}

// retained reads what the entries say. A writer reads them once: it writes all that follow itself.
func (l *Log) retained(ctx context.Context) (*retentionFacts, error) {
	r := &l.retention
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.facts != nil && l.w != nil {
		return r.facts, nil
	}
	if err := l.refresh(); err != nil {
		return nil, err
	}
	at, err := l.committed()
	if err != nil {
		return nil, err
	}
	f := r.facts
	if f == nil {
		f = &retentionFacts{}
	}
	if f.upTo < at.size() {
		g, err := l.readRetention(ctx, f, at.size())
		var gone *RetiredError
		if errors.As(err, &gone) && f.upTo > 0 { // what was read before is retired now: begin again
			g, err = l.readRetention(ctx, &retentionFacts{}, at.size())
		}
		if err != nil {
			return nil, fmt.Errorf("read what the log says of holds and retired segments: %w", err)
		}
		f = g
	}
	r.facts = f
	return f, nil
}

// readRetention reads on from what is known, up to an index.
func (l *Log) readRetention(ctx context.Context, known *retentionFacts, upTo uint64) (*retentionFacts, error) {
	f := &retentionFacts{upTo: upTo, holds: slices.Clone(known.holds), retired: slices.Clone(known.retired)}
	err := l.controls(ctx, retentionText, known.upTo, func(e *Entry) error { return f.take(e) })
	if err != nil {
		return nil, err
	}
	return f, nil
}

// controls calls visit with the control entries from an index on that a query selects; those of retired segments, which are
// kept, are visited first, all of them.
func (l *Log) controls(ctx context.Context, text string, from uint64, visit func(*Entry) error) error {
	if from == 0 {
		for _, s := range l.retiredSegments() {
			x, done, err := l.openLeaves(s)
			if err != nil {
				return err
			}
			if err := errors.Join(visitKept(x, visit), done()); err != nil {
				return err
			}
		}
	}
	for e, err := range l.Entries(ctx, Query{Text: text, From: from}) {
		if err != nil {
			return err
		}
		if e.Control == nil {
			continue
		}
		if err := visit(&e); err != nil {
			return err
		}
	}
	return nil
}

func visitKept(x *segment.Leaves, visit func(*Entry) error) error {
	for _, k := range x.Kept() {
		e, err := newEntry(k.Index, k.Line, leafHash(k.Line))
		if err != nil {
			return err
		}
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// take adds what a control entry says. The log's own code writes them, so one that does not fit is damage.
func (f *retentionFacts) take(e *Entry) error {
	if !bytes.HasPrefix(e.Control, []byte(`{"type":"`)) {
		return nil
	}
	var c struct {
		Type, ID, Reason, By, Cold string
		Archive, Seal, Leaves      string
		First, End, Bytes, Entry   uint64
	}
	if err := json.Unmarshal(e.Control, &c); err != nil {
		return nil //nolint:nilerr // of a type that has such members otherwise; verification judges it
	}
	bad := func(what string) error {
		return &CorruptError{File: "entries", What: fmt.Sprintf("the %s entry at index %d: %s", c.Type, e.Index, what)}
	}
	switch at := f.hold(c.ID); c.Type {
	case holdType:
		if at >= 0 {
			return bad("the hold " + c.ID + " is active already")
		}
		f.holds = append(f.holds, Hold{ID: c.ID, Reason: c.Reason, By: c.By, Index: e.Index, Since: e.Timestamp})
	case releaseType:
		if at < 0 {
			return bad("the hold " + c.ID + " is not active")
		}
		f.holds = slices.Delete(f.holds, at, at+1)
	case retireType:
		if c.First != f.retiredEnd() || c.End <= c.First || c.End > e.Index {
			return bad(fmt.Sprintf("entries %d to before %d are not the oldest that are there", c.First, c.End))
		}
		f.retired = append(f.retired, Retired{
			First: c.First, End: c.End, Entry: e.Index, Time: e.Timestamp, Bytes: int64(c.Bytes), Archive: c.Archive, Leaves: c.Leaves,
			Cold: c.Cold, Reason: c.Reason, By: c.By,
		})
	case restoreType:
		n := len(f.retired)
		if n == 0 || f.retired[n-1].First != c.First || f.retired[n-1].Entry != c.Entry {
			return bad("it does not name the newest tombstone")
		}
		f.retired = f.retired[:n-1]
	}
	return nil
}

// retentionEntry appends a control entry and takes what it says. retention.changing is held, and the facts are read. Whether the
// entry is in the log must be known before the next change: it is waited for, whatever becomes of ctx.
func (l *Log) retentionEntry(ctx context.Context, message string, record any) (Receipt, error) {
	if err := ctx.Err(); err != nil {
		return Receipt{}, context.Cause(ctx)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(record); err != nil {
		return Receipt{}, err
	}
	control := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	r, err := l.control(context.WithoutCancel(ctx), message, control)
	if err != nil {
		return Receipt{}, err
	}
	t := &l.retention
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &retentionFacts{upTo: r.Index + 1, holds: slices.Clone(t.facts.holds), retired: slices.Clone(t.facts.retired)}
	if err := f.take(&Entry{Index: r.Index, Timestamp: r.Timestamp, Control: control}); err != nil {
		return Receipt{}, err
	}
	t.facts = f
	return r, nil
}
