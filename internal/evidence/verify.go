package evidence

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

// Options is what a verification knows that did not come with the bundle. The zero value knows nothing: whatever agrees with
// itself is then consistent.
type Options struct {
	Keys        []proof.Key   // each must be one of the log's: of the checkpoint's epoch or an earlier one
	Checkpoints [][]byte      // notes kept from earlier
	Policy      *proof.Policy // whose witnesses are trusted; its quorum is then demanded
	Require     proof.Require // which keys of an epoch must have signed

	// Stamp verifies an RFC 3161 time stamp over the text of a checkpoint; nil: stamps are reported as not checked.
	Stamp func(stamp []byte, text string) (Stamp, error)
	// Match returns what says whether an entry matches a query, in which times may be relative to when the bundle was made; nil:
	// that is reported as not checked.
	Match func(query string, made time.Time) (func(index uint64, line []byte) (bool, error), error)
}

// Stamp is what a time stamp says. Its signature is good; Trusted says that it leads to a root that the reader trusts.
type Stamp struct {
	Time     time.Time
	Accuracy time.Duration
	Name     string
	Trusted  bool
}

// Verify checks everything there is to check about the data of a bundle. What is wrong is in the report; there is no error.
func Verify(data []byte, o Options) *Report {
	v := newVerifier(&o)
	b, err := Parse(data)
	if err != nil {
		v.find("format", -1, err.Error(), "", "")
		v.conclude()
		return v.rep
	}
	v.b, v.rep.Origin, v.rep.Statement, v.rep.Entries = b, b.Origin, b.Statement, len(b.Entries)
	// Each stage needs what the one before it has established.
	if v.keys() && v.checkpoint() {
		v.entries()
		v.statement()
		v.times()
		v.pinned()
		v.policy()
		v.clock()
	}
	v.conclude()
	return v.rep
}

// verifier carries one verification through its stages.
type verifier struct {
	o     *Options
	b     *Bundle
	rep   *Report
	chain *proof.Chain
	log   proof.Key // the stable log key
	c     proof.Checkpoint
	epoch proof.Epoch
	// seen are the checkpoints that are shown to be of the same history: the bundle's own and those of its times.
	seen  []proof.Checkpoint
	notes [][]byte      // of seen
	own   *proof.Policy // the bundle's
}

func newVerifier(o *Options) *verifier {
	return &verifier{o: o, rep: &Report{Findings: []Finding{}, Open: []string{}, Notes: []string{}, Basis: []Basis{}, Ranges: []Range{}, Times: []TimeMark{}}}
}

func (v *verifier) find(where string, index int64, what, got, want string) {
	if len(v.rep.Findings) == maxFindings {
		v.rep.Omitted++
		return
	}
	v.rep.Findings = append(v.rep.Findings, Finding{where, index, what, got, want})
}

func (v *verifier) note(format string, args ...any) {
	v.rep.Notes = append(v.rep.Notes, fmt.Sprintf(format, args...))
}

// keys follows the chain of keys from those of log.json to the newest one that the bundle names.
func (v *verifier) keys() bool {
	if len(v.b.VKeys) == 0 {
		v.find("log", -1, "it names no verifier key; nothing can be shown about a log without signatures", "", "")
		return false
	}
	var err error
	if v.chain, err = proof.NewChain(v.b.Origin, v.b.VKeys); err != nil {
		v.find("log", -1, err.Error(), "", "")
		return false
	}
	v.chain.SetRequire(v.o.Require)
	v.log, _ = v.chain.LogKey() // a chain that begins with a vkey has one
	var links []proof.EpochLink
	if len(v.b.Epochs) > 0 {
		if links, err = proof.ParseEpochLinks(v.b.Epochs); err != nil {
			v.find("epochs", -1, err.Error(), "", "")
			return false
		}
	}
	for _, l := range links {
		if err := v.chain.Add(l); err != nil {
			v.find("epochs", -1, err.Error(), "", "")
			return false
		}
	}
	for _, e := range v.chain.Epochs() {
		k := Keys{Epoch: e.Number, After: e.After}
		for _, key := range e.Keys {
			k.VKeys = append(k.VKeys, key.String())
		}
		v.rep.Keys = append(v.rep.Keys, k)
	}
	return true
}

// checkpoint verifies every signature on the checkpoint that is by a key the bundle or its reader names.
func (v *verifier) checkpoint() bool {
	var err error
	if v.c, v.epoch, err = v.chain.Open(v.b.Checkpoint, v.o.Require); err != nil {
		v.find("checkpoint", -1, err.Error(), "", "")
		return false
	}
	v.rep.Size, v.rep.Root, v.rep.Epoch = v.c.Size, v.c.Root.Base64(), v.epoch.Number
	v.seen, v.notes = []proof.Checkpoint{v.c}, [][]byte{v.b.Checkpoint}
	// A chain that goes on beyond the checkpoint's epoch has lines that prove nothing here.
	if last := v.chain.Current(); last.Number != v.epoch.Number {
		v.find("epochs", -1, "the chain of keys goes on beyond the checkpoint's epoch", strconv.FormatUint(last.Number, 10), strconv.FormatUint(v.epoch.Number, 10))
	}
	if len(v.b.Policy) > 0 {
		if v.own, err = proof.ParsePolicy(v.b.Policy); err != nil {
			v.find("policy", -1, err.Error(), "", "")
			return false
		}
	}
	v.signatures()
	return true
}

// signatures lists the checkpoint's signature lines, and by whom they are.
func (v *verifier) signatures() {
	n, err := proof.ParseNote(v.b.Checkpoint)
	if err != nil {
		return // it was opened before
	}
	roles := map[string]string{}
	keys := []proof.Key{v.log}
	for _, k := range v.epoch.Keys {
		if k.String() != v.log.String() {
			keys = append(keys, k)
			roles[keyID(k.Name(), k.ID())] = "epoch"
		}
	}
	roles[keyID(v.log.Name(), v.log.ID())] = "log"
	trusted := map[string]bool{}
	for _, p := range []*proof.Policy{v.own, v.o.Policy} {
		if p == nil {
			continue
		}
		for _, w := range p.Witnesses() {
			id := keyID(w.Key.Name(), w.Key.ID())
			trusted[id] = trusted[id] || p == v.o.Policy
			if roles[id] == "" {
				roles[id] = "witness"
				keys = append(keys, w.Key)
			}
		}
	}
	signers, _ := n.Verify(keys) // a bad signature is found by cosigned, which looks at every note
	for _, sig := range n.Signatures {
		id := keyID(sig.Name, sig.ID)
		s := Signed{Name: sig.Name, ID: fmt.Sprintf("%08x", sig.ID), Role: roles[id]}
		if s.Role == "" {
			s.Role = "unknown"
			v.unaccounted("checkpoint", sig)
		} else {
			at := slices.IndexFunc(signers, func(g proof.Signer) bool { return keyID(g.Key.Name(), g.Key.ID()) == id })
			s.Good = at >= 0
			if at >= 0 {
				s.Time = signers[at].Time
				s.Known = s.Role == "witness" && trusted[id]
			}
		}
		v.rep.Signatures = append(v.rep.Signatures, s)
	}
}

// unaccounted refutes a signature line by nobody that the bundle names, where it names witnesses. Else a changed name would turn a
// witness's signature into one that nobody checks.
func (v *verifier) unaccounted(where string, sig proof.Signature) {
	if v.own != nil {
		v.find(where, -1, "a signature by nobody whom the bundle's keys and policy name", keyID(sig.Name, sig.ID), "")
	}
}

func keyID(name string, id uint32) string { return fmt.Sprintf("%s+%08x", name, id) }

// entries checks each line against its leaf, all leaves against the checkpoint, and each line against the format.
func (v *verifier) entries() {
	indexes := make([]uint64, len(v.b.Entries))
	leaves := make([]proof.Hash, len(v.b.Entries))
	var line entry.Line
	for i, e := range v.b.Entries {
		indexes[i], leaves[i] = e.Index, e.Leaf
		at := int64(e.Index)
		if got := proof.LeafHash(e.Line); got != e.Leaf {
			v.find("entries", at, "the entry is not the one that the log holds: its leaf hash differs", got.String(), e.Leaf.String())
			continue
		}
		if err := entry.Decode(e.Line, &line); err != nil {
			v.find("entries", at, err.Error(), "", "")
		} else if line.Index32 != uint32(e.Index) {
			v.find("entries", at, "its id is of another index", fmt.Sprint(line.Index32), fmt.Sprint(uint32(e.Index)))
		}
		if n := len(v.rep.Ranges); n > 0 && v.rep.Ranges[n-1].To == e.Index {
			v.rep.Ranges[n-1].To++
		} else if n < maxRanges {
			v.rep.Ranges = append(v.rep.Ranges, Range{e.Index, e.Index + 1})
		}
	}
	root, err := Root(v.c.Size, indexes, leaves, v.b.Proof)
	switch {
	case err != nil:
		v.find("proof", -1, err.Error(), "", "")
	case root != v.c.Root:
		v.find("proof", -1, "the entries are not under the checkpoint: its root is another", root.Base64(), v.c.Root.Base64())
	}
}

// statement compares what was asked with what is there.
func (v *verifier) statement() {
	s := &v.b.Statement
	no := func(what, got, want string) { v.find("statement", -1, what, got, want) }
	if s.Count != uint64(len(v.b.Entries)) {
		no("another number of entries than it says", fmt.Sprint(len(v.b.Entries)), fmt.Sprint(s.Count))
	}
	if s.From > s.To || s.To > v.c.Size {
		no("its range is not within the checkpoint", fmt.Sprintf("%d to %d", s.From, s.To), fmt.Sprintf("0 to %d", v.c.Size))
		return
	}
	if n := len(v.b.Entries); n > 0 && (v.b.Entries[0].Index < s.From || v.b.Entries[n-1].Index >= s.To) {
		no("entries outside its range", fmt.Sprintf("%d to %d", v.b.Entries[0].Index, v.b.Entries[n-1].Index+1), fmt.Sprintf("%d to %d", s.From, s.To))
	}
	made, err := entry.ParseTime([]byte(s.Made))
	if err != nil {
		no("when it was made: "+err.Error(), s.Made, "")
		return
	}
	// A run over the whole range proves that nothing in it is missing, whatever was asked.
	v.rep.Complete = s.To-s.From == uint64(len(v.b.Entries))
	if !s.filtered() && !v.rep.Complete {
		no("it asks for every entry of its range, and some are missing", fmt.Sprint(len(v.b.Entries)), fmt.Sprint(s.To-s.From))
	}
	v.filter(s, time.Unix(0, made).UTC())
}

// filter checks that each entry matches what was asked for.
func (v *verifier) filter(s *Statement, made time.Time) {
	since, until := int64(-1<<63), int64(1<<63-1)
	for _, t := range []struct {
		text string
		to   *int64
	}{{s.Since, &since}, {s.Until, &until}} {
		if t.text == "" {
			continue
		}
		ns, err := entry.ParseTime([]byte(t.text))
		if err != nil {
			v.find("statement", -1, err.Error(), t.text, "")
			return
		}
		*t.to = ns
	}
	for i, name := range s.Levels {
		l, err := entry.ParseLevel(name)
		if err != nil || l.String() != name || slices.Contains(s.Levels[:i], name) {
			v.find("statement", -1, "a level that is none, or stands twice", name, "")
			return
		}
	}
	v.rep.QueryChecked = s.Query == "" || v.o.Match != nil
	match := func(uint64, []byte) (bool, error) { return true, nil }
	if s.Query != "" && v.o.Match != nil {
		var err error
		if match, err = v.o.Match(s.Query, made); err != nil {
			v.find("statement", -1, "its query cannot be read: "+err.Error(), s.Query, "")
			return
		}
	}
	for _, e := range v.b.Entries {
		ns, level, ok := entry.Peek(e.Line)
		if !ok {
			continue // its decoding has failed already
		}
		yes := (len(s.Levels) == 0 || slices.Contains(s.Levels, level.String())) && ns >= since && ns < until
		if yes {
			var err error
			if yes, err = match(e.Index, e.Line); err != nil {
				v.find("statement", int64(e.Index), "matching it with the query: "+err.Error(), "", "")
				continue
			}
		}
		if !yes {
			v.find("statement", int64(e.Index), "the entry does not match what the statement says was asked for", "", "")
		}
	}
}

// times checks what outside parties said about when they had seen the log.
func (v *verifier) times() {
	v.cosigned(v.b.Checkpoint, v.c)
	for i, t := range v.b.Times {
		where := fmt.Sprintf("times, number %d", i)
		c, _, err := v.chain.Open(t.Checkpoint, v.o.Require)
		if err != nil {
			v.find(where, -1, err.Error(), "", "")
			continue
		}
		if c.Size > v.c.Size {
			v.find(where, -1, "its checkpoint is larger than the bundle's", fmt.Sprint(c.Size), fmt.Sprint(v.c.Size))
			continue
		}
		if err := proof.CheckConsistency(t.Consistency, c.Size, v.c.Size, c.Root, v.c.Root); err != nil {
			v.find(where, -1, "its checkpoint is of another history: "+err.Error(), "", "")
			continue
		}
		v.seen, v.notes = append(v.seen, c), append(v.notes, t.Checkpoint)
		v.accounted(where, t.Checkpoint)
		v.cosigned(t.Checkpoint, c)
		if len(t.Stamp) == 0 {
			continue
		}
		if v.o.Stamp == nil {
			v.rep.Times = append(v.rep.Times, TimeMark{Kind: "rfc3161", Size: c.Size})
			continue
		}
		s, err := v.o.Stamp(t.Stamp, c.Text())
		if err != nil {
			v.find(where, -1, "time stamp: "+err.Error(), "", "")
			continue
		}
		v.rep.Times = append(v.rep.Times, TimeMark{"rfc3161", c.Size, s.Time, s.Accuracy, s.Name, s.Trusted, true})
	}
}

// accounted does for the note of a time what signatures does for the checkpoint's.
func (v *verifier) accounted(where string, note []byte) {
	n, err := proof.ParseNote(note)
	if err != nil || v.own == nil {
		return // it was opened before
	}
	for _, sig := range n.Signatures {
		known := sig.Name == v.b.Origin && slices.ContainsFunc(v.rep.Keys, func(k Keys) bool {
			return slices.ContainsFunc(k.VKeys, func(key string) bool { return strings.HasPrefix(key, keyID(sig.Name, sig.ID)+"+") })
		}) || sig.Name == v.log.Name() && sig.ID == v.log.ID()
		known = known || slices.ContainsFunc(v.own.Witnesses(), func(w proof.PolicyWitness) bool {
			return w.Key.Name() == sig.Name && w.Key.ID() == sig.ID
		})
		if !known {
			v.unaccounted(where, sig)
		}
	}
}

// cosigned adds a mark for each witness that a policy names and that signed the note. A time is trusted where the quorum of the reader's
// policy stands behind it: one witness that lies about it, and that the quorum can do without, moves nothing.
func (v *verifier) cosigned(note []byte, c proof.Checkpoint) {
	n, err := proof.ParseNote(note)
	if err != nil {
		return // it was opened before
	}
	done := map[string]bool{}
	for _, p := range []*proof.Policy{v.o.Policy, v.own} {
		if p == nil {
			continue
		}
		var by time.Time
		if p == v.o.Policy {
			by = p.Check(note).By
		}
		for _, w := range p.Witnesses() {
			if done[w.Key.String()] {
				continue
			}
			done[w.Key.String()] = true
			signers, err := n.Verify([]proof.Key{w.Key})
			if err != nil {
				v.find("times", -1, err.Error(), "", "")
				continue
			}
			for _, s := range signers {
				v.rep.Times = append(v.rep.Times, TimeMark{"cosignature", c.Size, s.Time, time.Second, w.Name, !by.IsZero() && s.Time.Equal(by), true})
			}
		}
	}
}

// pinned compares with keys and checkpoints that were kept elsewhere.
func (v *verifier) pinned() {
	for _, k := range v.o.Keys {
		v.pinnedKey(k)
	}
	for _, note := range v.o.Checkpoints {
		v.pinnedCheckpoint(note)
	}
}

func (v *verifier) pinnedKey(k proof.Key) {
	epochs := v.chain.Epochs()
	for _, e := range epochs {
		if slices.ContainsFunc(e.Keys, func(x proof.Key) bool { return x.String() == k.String() }) {
			if r := v.o.Require; r == proof.RequireEd25519 && k.Type() != proof.TypeEd25519 || r == proof.RequireMLDSA44 && k.Type() != proof.TypeMLDSA44 {
				v.note("the pinned key %s is not of the kind whose signatures are required, so it shows nothing", keyID(k.Name(), k.ID()))
				return
			}
			// It signed the checkpoint, or the closing checkpoint from which the chain leads here.
			how := "it signed the checkpoint"
			if e.Number < v.epoch.Number {
				how = fmt.Sprintf("the chain of keys leads from it to the checkpoint's epoch %d", v.epoch.Number)
			}
			if k.String() == v.log.String() {
				v.note("the pinned key %s is the only key of a log with one key, which is never destroyed: whoever has it can sign any history; `immutable key rotate` begins epochs", keyID(k.Name(), k.ID()))
			}
			v.rep.Covered = len(v.b.Entries)
			v.rep.Basis = append(v.rep.Basis, Basis{"key", fmt.Sprintf("%s is a key of epoch %d: %s", keyID(k.Name(), k.ID()), e.Number, how)})
			return
		}
	}
	if k.String() == v.log.String() {
		v.note("the pinned key %s is the log key, which signs for ever and can be stolen: alone it proves nothing. Pin a key of an epoch", keyID(k.Name(), k.ID()))
		return
	}
	v.find("pinned key", -1, "it is none of the log's keys up to the checkpoint: the bundle is of another log, forged, or older than the key", keyID(k.Name(), k.ID()), "")
}

func (v *verifier) pinnedCheckpoint(note []byte) {
	text, _, found := bytes.Cut(note, []byte("\n\n"))
	if !found {
		v.find("kept checkpoint", -1, "it is no note", "", "")
		return
	}
	c, err := proof.ParseCheckpoint(string(text) + "\n")
	switch {
	case err != nil:
		v.find("kept checkpoint", -1, err.Error(), "", "")
		return
	case c.Origin != v.b.Origin:
		v.find("kept checkpoint", -1, "it is of another log", v.b.Origin, c.Origin)
		return
	}
	for _, s := range v.seen {
		if s.Size != c.Size {
			continue
		}
		if s.Root != c.Root {
			v.find("kept checkpoint", -1, fmt.Sprintf("the log had another root at size %d: two histories", c.Size), s.Root.Base64(), c.Root.Base64())
			return
		}
		covered := v.below(c.Size)
		if covered > 0 {
			v.rep.Covered = max(v.rep.Covered, covered)
			v.rep.Basis = append(v.rep.Basis, Basis{"checkpoint", fmt.Sprintf("the kept checkpoint of size %d is of this history and covers %d of the entries", c.Size, covered)})
			return
		}
		v.note("the kept checkpoint of size %d covers none of the entries", c.Size)
		return
	}
	v.rep.Open = append(v.rep.Open, fmt.Sprintf("the kept checkpoint has size %d, and the bundle none of that size to compare it with: compare the two in the log with `immutable checkpoint compare`", c.Size))
}

// below counts the entries with an index below size.
func (v *verifier) below(size uint64) int {
	n := slices.IndexFunc(v.b.Entries, func(e Entry) bool { return e.Index >= size })
	if n < 0 {
		return len(v.b.Entries)
	}
	return n
}

// policy demands the quorum of a policy from outside; the bundle's own only tells what its maker proposes.
func (v *verifier) policy() {
	if v.o.Policy == nil {
		if v.own == nil {
			return
		}
		r := v.own.Check(v.b.Checkpoint)
		if r.Satisfied {
			v.note("the checkpoint satisfies the policy that is in the bundle; that policy is its maker's word: give one of your own to count witnesses")
		} else {
			v.note("the checkpoint does not satisfy the policy that is in the bundle: %s", r.Quorum)
		}
		return
	}
	p := v.o.Policy
	if logs := p.Logs(); len(logs) > 0 && !slices.ContainsFunc(logs, func(l proof.PolicyLog) bool { return l.Key.String() == v.log.String() }) {
		v.find("policy", -1, "the policy does not name this log's key", v.b.VKeys[0], "")
		return
	}
	if !p.NeedsWitnesses() {
		v.note("the policy demands no witness, so it shows nothing, whoever cosigned")
		return
	}
	best, quorum, missing := -1, "", ""
	for i, note := range v.notes {
		r := p.Check(note)
		switch {
		case !r.Satisfied && i == 0:
			missing = r.Quorum
		case r.Satisfied && (best < 0 || v.seen[i].Size > v.seen[best].Size):
			best, quorum = i, r.Quorum
		}
	}
	if best < 0 {
		v.rep.Open = append(v.rep.Open, "the policy's quorum of witnesses has signed neither the checkpoint nor an earlier one that is here: "+missing)
		return
	}
	size := v.seen[best].Size
	covered := v.below(size)
	if covered == 0 {
		v.rep.Open = append(v.rep.Open, fmt.Sprintf("the policy's quorum of witnesses has signed the checkpoint of size %d only, which covers none of the entries", size))
		return
	}
	v.rep.Covered = max(v.rep.Covered, covered)
	v.rep.Basis = append(v.rep.Basis, Basis{"policy", fmt.Sprintf("the policy's quorum of witnesses has signed the checkpoint of size %d, which covers %d of the entries: %s", size, covered, quorum)})
}

// clock compares the log's clock with the times of those that the reader trusts.
func (v *verifier) clock() {
	for _, m := range v.rep.Times {
		if !m.Trusted {
			continue
		}
		late, last := 0, uint64(0)
		for _, e := range v.b.Entries {
			ns, _, ok := entry.Peek(e.Line)
			if ok && e.Index < m.Size && time.Unix(0, ns).After(m.Time.Add(m.Accuracy)) {
				late, last = late+1, e.Index
			}
		}
		if late > 0 {
			v.note("the log's clock ran ahead: %d entries, the last of them %d, have a timestamp later than %s, when %s had seen them", late, last, m.Time.UTC().Format(time.RFC3339), m.Name)
		}
	}
}

// conclude gives the verdict and puts into sentences what it means.
func (v *verifier) conclude() {
	r := v.rep
	switch {
	case len(r.Findings) > 0:
		r.Verdict = Refuted
	case len(r.Open) > 0:
		r.Verdict = Unknown
	case len(r.Basis) > 0:
		r.Verdict = Proven
	default:
		r.Verdict = Consistent
	}
	r.Proves, r.Limits = meaning(r)
}

// Broken is the report on a file whose data cannot even be taken out of it.
func Broken(err error) *Report {
	v := newVerifier(&Options{})
	v.find("file", -1, err.Error(), "", "")
	v.conclude()
	return v.rep
}
