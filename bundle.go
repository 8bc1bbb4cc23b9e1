package immutable

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/evidence"
	"github.com/tree-of-life-system/immutable/internal/evidence/page"
	"github.com/tree-of-life-system/immutable/internal/query"
	"github.com/tree-of-life-system/immutable/internal/timestamp"
	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// MaxBundleEntries is the most entries in an evidence bundle.
const MaxBundleEntries = evidence.MaxEntries

// BundleOptions says what goes into an evidence bundle. The zero value takes every entry that the newest checkpoint covers.
type BundleOptions struct {
	Query   string    // in the query language (docs/search.md); "" selects everything
	Levels  []Level   // any of these; none means all
	Since   time.Time // timestamp at or after; zero means no bound
	Until   time.Time // timestamp before; zero means no bound
	From    uint64    // index at or after
	To      uint64    // index below; 0 means as far as the checkpoint goes
	Policy  []byte    // a tlog-policy to propose to readers; they may have their own
	Program string    // who makes it, as the statement says; "" is this library
}

// Bundle makes an evidence bundle: the entries that o selects, one proof for all of them, the checkpoint they stand under, the
// chain of keys to it, cosignatures and time stamps, in one document that verifies offline. It is verified before it is
// returned. [BundlePage] makes of it a page that verifies itself in a browser, [VerifyBundle] reads both.
func (l *Log) Bundle(ctx context.Context, o BundleOptions) ([]byte, error) {
	if !l.signed() {
		return nil, errors.New("this log has no signatures, so there is nothing that a bundle could show")
	}
	m := bundler{l: l, o: &o}
	if err := m.chooseCheckpoint(); err != nil {
		return nil, err
	}
	for _, stage := range []func(context.Context) error{m.selectEntries, m.prove, m.keys, m.times} {
		if err := stage(ctx); err != nil {
			return nil, fmt.Errorf("make a bundle: %w", err)
		}
	}
	m.policy()
	data, err := m.b.Append(nil)
	if err != nil {
		return nil, err
	}
	rep, err := VerifyBundle(data, VerifyBundleOptions{})
	if err != nil {
		return nil, err
	}
	if rep.Verdict == BundleVerdict(Refuted) {
		return nil, &CorruptError{File: "bundle", What: "it does not verify: " + rep.Findings[0].String()}
	}
	return data, nil
}

// BundlePage puts a bundle into a page that verifies it and shows its entries, offline, in a browser. Without a bundle (nil) it
// is the page into which one can be dropped: a reader who has it from you, and not from whoever made the evidence, need not
// trust the verifier that came with the evidence.
func BundlePage(bundle []byte) []byte {
	if bundle == nil {
		return page.Empty()
	}
	return page.With(bundle)
}

// BundleReport is what the verification of a bundle found.
type BundleReport = evidence.Report

// BundleVerdict is the answer of a bundle's verification; its words are those of [Verdict].
type BundleVerdict = evidence.Verdict

// VerifyBundleOptions is what a reader of a bundle knows from elsewhere. A key that came with the bundle proves little.
type VerifyBundleOptions struct {
	Keys        []string       // verifier keys (vkeys) that must be the log's
	Checkpoints [][]byte       // notes kept from earlier
	Policy      *proof.Policy  // whose witnesses are trusted; its quorum is then demanded
	Require     proof.Require  // which keys of an epoch must have signed
	TimeRoots   *x509.CertPool // roots of time-stamping authorities
}

// ErrNotBundle is wrapped by the error of VerifyBundle where the file holds no bundle at all.
var ErrNotBundle = evidence.ErrNotBundle

// VerifyBundle verifies an evidence bundle: a page, or the document in it. The error says that there is none or that the
// options cannot be used; a forged bundle is a report, not an error.
func VerifyBundle(file []byte, o VerifyBundleOptions) (*BundleReport, error) {
	from, to, err := evidence.Extract(file)
	if err != nil {
		if errors.Is(err, evidence.ErrNotBundle) {
			return nil, err
		}
		return evidence.Broken(err), nil
	}
	e := evidence.Options{Checkpoints: o.Checkpoints, Policy: o.Policy, Require: o.Require, Stamp: stampReader(o.TimeRoots), Match: matchQuery}
	for _, v := range o.Keys {
		k, err := proof.ParseKey(v)
		if err != nil {
			return nil, err
		}
		e.Keys = append(e.Keys, k)
	}
	rep := evidence.Verify(file[from:to], e)
	if data := file[from:to]; len(file) > to && from > 0 && !page.Holds(file, data) {
		rep.Notes = append(rep.Notes, "the page around the data is not the one that this program writes: rely on this report, not on what the page shows")
	}
	return rep, nil
}

func stampReader(roots *x509.CertPool) func([]byte, string) (evidence.Stamp, error) {
	return func(der []byte, text string) (evidence.Stamp, error) {
		s, err := timestamp.Parse(der)
		if err != nil {
			return evidence.Stamp{}, err
		}
		if s.Digest != sha256.Sum256([]byte(text)) {
			return evidence.Stamp{}, errors.New("it is over something else than this checkpoint")
		}
		return evidence.Stamp{Time: s.Time, Accuracy: s.Accuracy, Name: s.Name, Trusted: roots != nil && s.Verify(roots) == nil}, nil
	}
}

// matchQuery reads a statement's query, in its canonical spelling. Its relative times are before made.
func matchQuery(text string, made time.Time) (func(uint64, []byte) (bool, error), error) {
	q, err := query.Parse(text, made)
	if err != nil {
		return nil, err
	}
	if q.String() != text {
		return nil, errors.New("it is not in its canonical spelling")
	}
	m := query.NewMatcher(q)
	return func(index uint64, line []byte) (bool, error) {
		return m.Block(line) && yes(m.Match(line, 0, index)), nil
	}, nil
}

// yes is for a line that does not decode: whoever has found that already says so.
func yes(matches bool, err error) bool { return matches && err == nil }

// bundler makes one bundle.
type bundler struct {
	l    *Log
	o    *BundleOptions
	b    evidence.Bundle
	c    proof.Checkpoint
	size uint64 // of the checkpoint
	at   edge
	view *tree.View
}

// chooseCheckpoint takes the newest checkpoint, or the cosigned one where that covers what is asked for.
func (m *bundler) chooseCheckpoint() error {
	l := m.l
	if m.o.To > 0 && m.o.From >= m.o.To {
		return fmt.Errorf("entries from %d up to %d: there are none", m.o.From, m.o.To)
	}
	// The cosigned checkpoint where it covers what is asked for, else the newest.
	last := max(m.o.To, m.o.From+1) - 1
	if m.o.To == 0 {
		last = max(last, max(l.Size(), 1)-1)
	}
	note, err := l.coveringCheckpoint(last)
	if err != nil {
		return err
	}
	c, err := l.openCheckpoint(note)
	if err != nil {
		return &CorruptError{File: checkpointName, What: err.Error()}
	}
	if need := max(m.o.To, m.o.From+1); need > c.Size {
		return fmt.Errorf("entry %d: %w under the newest checkpoint, which covers %d entries; a moment later it may", need-1, ErrNotFound, c.Size)
	}
	m.c, m.size, m.b.Checkpoint = c, c.Size, note
	v, at, err := l.viewAt(c.Size)
	if err != nil {
		return err
	}
	if m.at = *at; c.Size < at.size() {
		if v, err = l.earlier(v, c.Size, l.leavesAt(context.Background(), at)); err != nil {
			return err
		}
	}
	m.view = v
	if v.Root() != c.Root {
		return &CorruptError{File: checkpointName, What: "the entries have another root than the one that was signed", Got: v.Root().Base64(), Want: c.Root.Base64()}
	}
	return nil
}

// selectEntries reads what was asked for and says what that was.
func (m *bundler) selectEntries(ctx context.Context) error {
	o := m.o
	now := m.l.cfg.now()
	s := &m.b.Statement
	s.From, s.To = o.From, o.To
	if s.To == 0 {
		s.To = m.size
	}
	for v := range Level(NumLevels) {
		if slices.Contains(o.Levels, v) {
			s.Levels = append(s.Levels, v.String())
		}
	}
	for _, t := range []struct {
		at time.Time
		to *string
	}{{o.Since, &s.Since}, {o.Until, &s.Until}} {
		if !t.at.IsZero() {
			*t.to = string(entry.FormatTime(nil, min(max(clampNano(t.at), 0), entry.MaxTime)))
		}
	}
	s.Made, s.Program = string(entry.FormatTime(nil, min(max(clampNano(now), 0), entry.MaxTime))), cmp.Or(o.Program, "package immutable")
	f, err := ParseFilter(o.Query, now)
	if err != nil {
		return err
	}
	s.Query = f.String()
	if s.From == 0 { // of entries that are not there nothing is stated
		s.From = min(m.l.retiredEnd(), s.To)
	}
	bytes := 0
	for e, err := range m.l.Entries(ctx, Query{Text: s.Query, Now: now, Levels: o.Levels, Since: o.Since, Until: o.Until, From: o.From}) {
		if err != nil {
			return err
		}
		if e.Index >= s.To {
			break
		}
		bytes += len(e.Line)
		if len(m.b.Entries) == evidence.MaxEntries || bytes > evidence.MaxData {
			return fmt.Errorf("%w: more than %d entries or %d bytes match; ask for less, or make several", ErrTooLarge, evidence.MaxEntries, evidence.MaxData)
		}
		m.b.Entries = append(m.b.Entries, evidence.Entry{Index: e.Index, Leaf: e.Leaf, Line: e.Line})
	}
	if len(m.b.Entries) == 0 {
		return fmt.Errorf("no entry matches: %w; a bundle cannot show that there is none", ErrNotFound)
	}
	s.Count = uint64(len(m.b.Entries))
	return nil
}

// prove makes the one proof for all entries. The walk goes from left to right, so each group is read once.
func (m *bundler) prove(ctx context.Context) error {
	indexes := make([]uint64, len(m.b.Entries))
	for i, e := range m.b.Entries {
		indexes[i] = e.Index
	}
	read := m.l.leavesAt(ctx, &m.at)
	var known uint64
	var group []Hash
	leaves := func(k uint64) ([]Hash, error) {
		if group == nil || known != k {
			var err error
			if group, err = read(k); err != nil {
				return nil, err
			}
			known = k
		}
		return group, nil
	}
	var err error
	m.b.Proof, err = evidence.Prove(m.size, indexes, func(lo, hi uint64) (proof.Hash, error) { return m.view.Subtree(lo, hi, leaves) })
	return err
}

// keys takes the chain of keys up to the checkpoint's epoch.
func (m *bundler) keys(context.Context) error {
	m.b.Origin, m.b.VKeys = m.l.id.Origin, m.l.id.VKeys
	data, err := m.l.KeyChain()
	if err != nil {
		return err
	}
	links, err := proof.ParseEpochLinks(data)
	if err != nil {
		return fmt.Errorf("%s: %w", epochsName, err)
	}
	epoch, _ := m.l.chain.Load().EpochOf(m.size)
	for _, link := range links {
		if link.Number <= epoch.Number {
			m.b.Epochs = link.Append(m.b.Epochs)
		}
	}
	return nil
}

// times adds what outside parties have said about checkpoints that cover some of the entries.
func (m *bundler) times(ctx context.Context) error {
	l := m.l
	names, err := l.fs.ReadDir(l.path(evidenceDir))
	if err != nil && !notExist(err) {
		return err
	}
	marks := []mark{}
	for _, name := range names {
		if k, ok := parseMark(name); ok && m.useful(k.size) {
			marks = append(marks, k)
		}
	}
	marks = pickMarks(marks, m.b.Entries[len(m.b.Entries)-1].Index)
	var history map[uint64][]byte
	for _, k := range marks {
		data, err := vfs.ReadFile(l.fs, l.path(evidenceDir, k.name), maxNote)
		if err != nil {
			return err
		}
		t := evidence.Time{Checkpoint: data}
		if k.stamp {
			if history == nil {
				if history, err = l.notesBySize(); err != nil {
					return err
				}
			}
			t.Checkpoint, t.Stamp = history[k.size], data
		}
		if err := m.addTime(ctx, t); err != nil {
			return err
		}
	}
	if cosigned, err := l.readCosigned(); err == nil && string(cosigned) != string(m.b.Checkpoint) {
		if c, err := l.openCheckpoint(cosigned); err == nil && m.useful(c.Size) {
			return m.addTime(ctx, evidence.Time{Checkpoint: cosigned})
		}
	}
	return nil
}

// useful says whether a checkpoint of this size covers any of the entries and is not newer than the bundle's.
func (m *bundler) useful(size uint64) bool {
	return size > m.b.Entries[0].Index && size <= m.size
}

// addTime leaves out what does not open: the log's own verification says what is wrong with it.
func (m *bundler) addTime(ctx context.Context, t evidence.Time) error {
	c, err := m.l.openCheckpoint(t.Checkpoint)
	if err != nil || len(m.b.Times) == evidence.MaxTimes {
		m.l.logger.Warn("left out of the bundle", "size", c.Size, "error", err)
		return nil
	}
	if t.Consistency, err = m.view.Consistency(c.Size, m.size, m.l.leavesAt(ctx, &m.at)); err != nil {
		return err
	}
	m.b.Times = append(m.b.Times, t)
	return nil
}

// policy adds the proposed policy. Signature lines by nobody whom it or the log names are then left out: with a policy in the
// bundle, every line is accounted for.
func (m *bundler) policy() {
	if len(m.o.Policy) == 0 {
		return
	}
	m.b.Policy = m.o.Policy
	p, err := proof.ParsePolicy(m.o.Policy)
	if err != nil {
		return // its verification says so
	}
	known := map[string]bool{}
	chain := m.l.chain.Load()
	if k, ok := chain.LogKey(); ok {
		known[keyName(k)] = true
	}
	for _, e := range chain.Epochs() {
		for _, k := range e.Keys {
			known[keyName(k)] = true
		}
	}
	for _, w := range p.Witnesses() {
		known[keyName(w.Key)] = true
	}
	m.b.Checkpoint = keepLines(m.b.Checkpoint, known)
	for i := range m.b.Times {
		m.b.Times[i].Checkpoint = keepLines(m.b.Times[i].Checkpoint, known)
	}
}

func keyName(k proof.Key) string { return fmt.Sprintf("%s+%08x", k.Name(), k.ID()) }

// keepLines returns the note with the signature lines of known keys only.
func keepLines(note []byte, known map[string]bool) []byte {
	n, err := proof.ParseNote(note)
	if err != nil {
		return note
	}
	text, lines := n.Text+"\n", strings.SplitAfter(string(note[len(n.Text)+1:]), "\n")
	for i, s := range n.Signatures {
		if known[fmt.Sprintf("%s+%08x", s.Name, s.ID)] {
			text += lines[i]
		}
	}
	return []byte(text)
}

// mark is a file of the directory evidence.
type mark struct {
	name  string
	size  uint64
	stamp bool
}

// parseMark reads the names <size>.note and <size>-<n>.tsr.
func parseMark(name string) (mark, bool) {
	if len(name) < 20 {
		return mark{}, false
	}
	size, err := strconv.ParseUint(name[:20], 10, 63)
	if err != nil {
		return mark{}, false
	}
	stamp := strings.HasSuffix(name, ".tsr")
	return mark{name, size, stamp}, stamp || name[20:] == ".note"
}

// pickMarks keeps of each kind the first few that cover all entries, whose times are the tightest, and the last few before.
func pickMarks(marks []mark, last uint64) []mark {
	const most = 8
	var out []mark
	for _, stamp := range []bool{false, true} {
		var before, after []mark
		for _, k := range marks {
			switch {
			case k.stamp != stamp:
			case k.size > last:
				after = append(after, k)
			default:
				before = append(before, k)
			}
		}
		bySize := func(a, b mark) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.name, b.name)) }
		slices.SortFunc(before, bySize)
		slices.SortFunc(after, bySize)
		out = append(out, before[max(0, len(before)-most):]...)
		out = append(out, after[:min(len(after), most)]...)
	}
	return out
}

// notesBySize are the kept checkpoints.
func (l *Log) notesBySize() (map[uint64][]byte, error) {
	notes, err := l.CheckpointHistory()
	if err != nil {
		return nil, err
	}
	out := make(map[uint64][]byte, len(notes))
	for _, note := range notes {
		size, err := sizeOfNote(note)
		if err != nil {
			return nil, &CorruptError{File: checkpointsName, What: err.Error()}
		}
		out[size] = note
	}
	return out, nil
}
