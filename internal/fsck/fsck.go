// Package fsck reads a log directory and proves or refutes it.
//
// docs/format.md is the contract, its section "Verdict" above all. Nothing in the directory is trusted: leaves, chain,
// tree, roots and names are recomputed from the entries, and what files say about them is compared. The package uses
// the strict decoders and nothing of the engine that writes a log; it changes no file.
package fsck

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Options says what to check and what is known from outside the directory. Only Dir is needed.
type Options struct {
	FS  vfs.FS // nil is the operating system's
	Dir string

	State       string         // root of this host's state directory, where the log's head is; "" = no head is known
	Keys        []string       // verifier keys pinned from outside
	Checkpoints [][]byte       // earlier checkpoint notes from outside; of a log without keys, their text and an empty line
	Receipts    []Receipt      // from outside
	Proofs      [][]byte       // tlog-proof files from outside
	Epochs      [][]byte       // chains of keys from outside: earlier states of the file epochs
	Policy      *proof.Policy  // whose word counts for the log's checkpoints; nil: nobody's
	TimeRoots   *x509.CertPool // authorities whose time stamps count; nil: nobody's
	Entries     []uint64       // indexes of entries whose time brackets to report
	Require     proof.Require  // which keys of its epoch must have signed a checkpoint; all of them, if it is not set

	Cold     string         // directory to which retired segments were moved, to be read as if they were there; "" = none
	Indexes  bool           // recompute each sealed segment's index too
	Workers  int            // goroutines that decode and hash; 0 = GOMAXPROCS
	Progress func(Progress) // may be nil; called often, from one goroutine at a time: it must be cheap
}

// A Receipt is what an append returned, kept outside. A zero hash is one that was not kept; a receipt with neither
// hash still says that the entry exists.
type Receipt struct {
	Index       uint64
	Leaf, Chain proof.Hash
	Name        string // names the receipt in findings, such as its file
}

// Progress says how far a check is. The totals are estimates until the end; all counts begin again when the check does.
type Progress struct {
	Entries      uint64 `json:"entries"`
	TotalEntries uint64 `json:"totalEntries"`
	Bytes        int64  `json:"bytes"`
	TotalBytes   int64  `json:"totalBytes"`
}

// A Verdict is the answer; docs/format.md defines the four.
type Verdict string

// The verdicts.
const (
	Refuted    Verdict = "refuted"
	Unknown    Verdict = "unknown"
	Proven     Verdict = "proven"
	Consistent Verdict = "consistent"
)

// A Finding says where something contradicts the format, a signature or a value from outside. It is written for a human.
type Finding struct {
	File   string `json:"file"`   // relative to the log's directory, with slashes; the name of what was given from outside
	Offset int64  `json:"offset"` // bytes in the file; -1 where no byte is meant
	Index  int64  `json:"index"`  // of an entry; -1 where none is meant
	What   string `json:"what"`
	Got    string `json:"got,omitempty"`
	Want   string `json:"want,omitempty"`
	Hint   string `json:"hint,omitempty"` // what follows from it, or what to do next
}

func (f Finding) String() string {
	s := f.File
	if f.Offset >= 0 {
		s += fmt.Sprintf(", offset %d", f.Offset)
	}
	if f.Index >= 0 {
		s += fmt.Sprintf(", entry %d", f.Index)
	}
	s += ": " + f.What
	if f.Got != "" || f.Want != "" {
		s += fmt.Sprintf(": found %s, expected %s", orNothing(f.Got), orNothing(f.Want))
	}
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// A Basis is something from outside the directory that it agrees with.
type Basis struct {
	Kind   string `json:"kind"` // head, key, checkpoint, receipt, epochs, witnesses
	Detail string `json:"detail"`
	Size   uint64 `json:"size"` // it covers the entries below; a receipt without a chain hash covers only its own, and says 0
}

// A Control is a control entry of the log.
type Control struct {
	Index uint64 `json:"index"`
	Type  string `json:"type"`
	Line  string `json:"line"` // the whole entry
}

// A Report is the outcome. With verdict Refuted it has at least one finding.
type Report struct {
	Verdict     Verdict                 `json:"verdict"`
	Origin      string                  `json:"origin"`
	VKeys       []string                `json:"vkeys"`
	Signed      bool                    `json:"signed"`
	Epochs      []EpochReport           `json:"epochs"` // of keys, at most the newest 1,000
	Size        uint64                  `json:"size"`   // entries in complete batches
	Root        proof.Hash              `json:"root"`   // recomputed, at Size; zero when entries could not be joined
	Chain       proof.Hash              `json:"chain"`  // recomputed, of the last entry
	Basis       []Basis                 `json:"basis"`
	Covered     uint64                  `json:"covered"` // entries below are covered by a Basis; the others only agree with the directory
	Findings    []Finding               `json:"findings"`
	Omitted     int                     `json:"omitted"` // findings beyond the limits on their number
	Notes       []Finding               `json:"notes"`   // not against the log: what a crash may leave, names without a meaning
	Entries     uint64                  `json:"entries"` // entries that were read
	Segments    int                     `json:"segments"`
	Checkpoints uint64                  `json:"checkpoints"` // notes in the history that were verified
	Levels      [entry.NumLevels]uint64 `json:"levels"`
	FirstTime   time.Time               `json:"firstTime,omitzero"`
	LastTime    time.Time               `json:"lastTime,omitzero"`
	Bytes       int64                   `json:"bytes"` // of the files that were read
	Controls    []Control               `json:"controls"`

	// What is not in the directory any more, as tombstones say, and the legal holds that are active.
	Retired        []Retired `json:"retired"`
	RetiredEntries uint64    `json:"retiredEntries"` // entries of which nothing but the leaf hashes was read
	Holds          []Hold    `json:"holds"`

	// What outside parties say about when they saw the log. A clock outside its bracket refutes nothing: it is reported here.
	Witnessed    *Witnessed    `json:"witnessed"`    // by the policy; null without one, and where nothing is cosigned
	Times        []TimeMark    `json:"times"`        // at most the newest 1,000 files, and as many anchors
	Clock        []ClockReport `json:"clock"`        // runs of entries whose timestamps are outside their brackets, the first 100
	ClockOutside uint64        `json:"clockOutside"` // how many such entries there are
	Brackets     []Bracket     `json:"brackets"`     // of the entries that were asked for, by index

	// What the sources say, which is another question than whether the log is intact.
	Completeness   Completeness     `json:"completeness"`
	Producers      []ProducerReport `json:"producers"`
	ProducerSigned uint64           `json:"producerSigned"` // entries whose signature counts
	ProducerBad    uint64           `json:"producerBad"`    // entries with one that does not
	Unsigned       uint64           `json:"unsigned"`       // entries without one, but those of the log itself

	Attempts int           `json:"attempts"` // 1, and one more for each time that a writer changed the directory under the check
	Duration time.Duration `json:"duration"`
}

// MarshalJSON writes the root in base64 and the chain in hex, as everywhere else.
func (r *Report) MarshalJSON() ([]byte, error) {
	type plain Report
	return json.Marshal(struct {
		*plain
		Root  string `json:"root"`
		Chain string `json:"chain"`
	}{(*plain)(r), r.Root.Base64(), r.Chain.String()})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Report) UnmarshalJSON(data []byte) error {
	type plain Report
	outer := struct {
		*plain
		Root string `json:"root"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(data, &outer); err != nil {
		return err
	}
	var err error
	r.Root, err = proof.ParseHash(outer.Root)
	return err
}

// Limits on what a report holds; beyond them things are counted only.
const (
	maxFindings        = 1000
	maxFindingsPerFile = 50
	maxNotes           = 1000
	maxControls        = 1000
)

const (
	// maxAttempts bounds how often a check begins again because a writer changed the directory under it.
	maxAttempts = 5
	// sameAttempts is how many attempts in a row must make a finding before it counts in spite of a writer at work.
	sameAttempts = 3
)

// Check reads the log directory once, or a few times beside a writer, and reports. The error is the context's, or says why it
// could not even begin: there is no such directory.
func Check(ctx context.Context, o Options) (*Report, error) {
	start := time.Now()
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	info, err := o.FS.Stat(o.Dir)
	if err == nil && !info.Dir {
		err = &fs.PathError{Op: "verify", Path: o.Dir, Err: errors.New("is not a directory")}
	}
	if err != nil {
		return nil, fmt.Errorf("verify log: %w", err)
	}
	rep, err := settle(ctx, &o)
	if err != nil {
		return nil, err
	}
	rep.Duration = time.Since(start)
	return rep, nil
}

// settle repeats the check while a writer changed the directory under it and it shows findings, or what a crash may leave. What
// such attempts find may be an effect of reading files one after the other; what the same bytes show again and again is not. What a
// crash may leave is a writer's batch in flight only where a later attempt sees it gone: that somebody touched a file says nothing.
func settle(ctx context.Context, o *Options) (*Report, error) {
	var same map[Finding]int
	for attempt := 1; ; attempt++ {
		before := fingerprint(o)
		c := newCheck(ctx, o)
		if err := c.run(); err != nil {
			return nil, err
		}
		changed := fingerprint(o) != before
		c.rep.Attempts = attempt
		if !changed || len(c.rep.Findings) == 0 && c.leftovers == 0 {
			c.decide()
			return c.rep, nil
		}
		again := make(map[Finding]int, len(c.rep.Findings))
		most := 0
		for _, f := range c.rep.Findings {
			again[f] = same[f] + 1
			most = max(most, again[f])
		}
		same = again
		if most >= sameAttempts {
			c.keep(func(f Finding) bool { return same[f] >= sameAttempts })
			c.decide()
			return c.rep, nil
		}
		if attempt == maxAttempts {
			c.giveUp()
			return c.rep, nil
		}
	}
}

// giveUp decides after the last attempt: whatever it saw, the directory changed meanwhile.
func (c *check) giveUp() {
	f := Finding{File: ".", Offset: -1, Index: -1, Hint: "verify a copy, or stop the writer and verify again"}
	if f.What = fmt.Sprintf("the directory changed during each of %d checks, and each saw something that a crash may leave", maxAttempts); len(c.rep.Findings) > 0 {
		f.What = fmt.Sprintf("the directory changed during each of %d checks, and each found something else", maxAttempts)
	}
	c.keep(func(Finding) bool { return false })
	c.unreadable++
	c.note(f)
	c.decide()
}

// keep moves the findings for which it is false to the notes.
func (c *check) keep(stays func(Finding) bool) {
	all := c.rep.Findings
	c.rep.Findings = nil
	for _, f := range all {
		if stays(f) {
			c.rep.Findings = append(c.rep.Findings, f)
			continue
		}
		f.Hint = "seen once while a writer changed the directory, not counted"
		c.note(f)
	}
}
