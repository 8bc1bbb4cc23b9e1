package fsck

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/timestamp"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	cosignedName = "cosigned"
	evidenceName = "evidence"
	noteSuffix   = ".note"
	stampSuffix  = ".tsr"
	// evidencePerJob is how many files of evidence/ a worker reads at a time.
	evidencePerJob = 16
)

// A Witnessed says how a policy judges the newest cosigned checkpoint that agrees with the entries: of those that satisfy
// it, if there is one.
type Witnessed struct {
	Size      uint64    `json:"size"`
	Time      time.Time `json:"time"`  // when the quorum had seen it; of one that is not satisfied the oldest cosignature's
	Names     []string  `json:"names"` // the witnesses that cosigned it, by their names in the policy
	Satisfied bool      `json:"satisfied"`
	Quorum    string    `json:"quorum"` // what the quorum needs and what is there, for people
	File      string    `json:"file"`
}

// An evidenceFile is a file of evidence/: its name is its size, and n.
type evidenceFile struct {
	size uint64
	n    int64 // of a time stamp; -1 for a cosigned checkpoint
	said
	ok bool // it was read, and is what its name says; else that is reported
}

// said is what an outside party says in such a file about when it saw the checkpoint.
type said struct {
	sum     [sha256.Size]byte // of the file
	digest  [sha256.Size]byte // of a time stamp: its imprint
	at      int64             // Unix nanoseconds; of cosignatures when the quorum had seen it, or the oldest where it is not satisfied
	slack   int64             // how far it may be off
	name    string
	trusted bool // by the keys or roots that the verifier was given
}

func evidenceFileName(size uint64, n int64) string {
	name := fmt.Sprintf("%s/%020d", evidenceName, size)
	if n < 0 {
		return name + noteSuffix
	}
	return name + "-" + strconv.FormatInt(n, 10) + stampSuffix
}

// errEvidence is why a file is not evidence although it is named like it.
var errEvidence = errors.New("its name has a number that no log reaches: sizes are below 2^63, the numbers of time stamps below 2^31")

// parseEvidence reads the name of a file in evidence/. It is ok if it has the form; then it is evidence, or err says why it cannot be.
func parseEvidence(base string) (size uint64, n int64, ok bool, err error) {
	digits, rest, found := strings.Cut(base, "-")
	n = -1
	if found {
		number, isStamp := strings.CutSuffix(rest, stampSuffix)
		if !isStamp || !isDigits(number) || len(number) > 1 && number[0] == '0' {
			return 0, 0, false, nil
		}
		v, tooLarge := strconv.ParseUint(number, 10, 31)
		if n = int64(v); tooLarge != nil {
			err = errEvidence
		}
	} else if digits, found = strings.CutSuffix(base, noteSuffix); !found {
		return 0, 0, false, nil
	}
	if len(digits) != 20 || !isDigits(digits) {
		return 0, 0, false, nil
	}
	size, tooLarge := strconv.ParseUint(digits, 10, 63)
	if tooLarge != nil {
		err = errEvidence
	}
	return size, n, true, err
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// readEvidence reads evidence/ and cosigned before the entries, because what they say about the time of an entry stands under
// larger sizes. Whether they agree with the entries is seen when the joiner is at their size.
func (c *check) readEvidence() {
	if !c.known {
		return
	}
	for _, base := range c.list(evidenceName) {
		size, n, ok, err := parseEvidence(base)
		if f := (Finding{File: evidenceName + "/" + base, Offset: -1, Index: -1}); !ok {
			f.What = "is a name that the format does not know"
			c.note(f)
			continue
		} else if err != nil {
			f.What = err.Error()
			c.find(f)
			continue
		}
		c.evidence = append(c.evidence, evidenceFile{size: size, n: n})
	}
	slices.SortFunc(c.evidence, func(a, b evidenceFile) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.n, b.n)) })
	p := newPool(c, c.o.Workers)
	for rest := c.evidence; len(rest) > 0; {
		n := min(evidencePerJob, len(rest))
		p.submit(&evidenceJob{c, rest[:n]})
		rest = rest[n:]
	}
	p.wait()
	c.readCosigned()
}

type evidenceJob struct {
	c     *check
	files []evidenceFile
}

func (e *evidenceJob) run(w *worker) {
	for i := range e.files {
		if w.ctx.Err() == nil {
			e.c.readEvidenceFile(&e.files[i])
		}
	}
}

func (c *check) readEvidenceFile(f *evidenceFile) {
	name := evidenceFileName(f.size, f.n)
	data, err := c.read(name, int64(proof.MaxNote))
	if err != nil {
		c.fault(name, -1, err, "it may be deleted unless an anchor entry names it")
		return
	}
	at := Finding{File: name, Offset: -1, Index: -1}
	if f.n < 0 {
		var cp proof.Checkpoint
		if cp, _, err = c.openCheckpoint(data); err == nil && cp.Size != f.size {
			at.What, at.Got, at.Want = "is of another size than its name", fmt.Sprint(cp.Size), fmt.Sprint(f.size)
			c.find(at)
			return
		}
		if err == nil {
			f.said, err = c.cosignatures(data)
		}
		if err != nil {
			at.What = "is not a cosigned checkpoint of this log: " + err.Error()
		}
	} else if f.said, err = c.stamp(data); err != nil {
		at.What = "is not a time stamp: " + strings.Join(strings.Fields(err.Error()), " ") // the words of decoders may be of several lines
	}
	if err != nil {
		c.find(at)
		return
	}
	f.ok = true
}

// stamp reads a time stamp and says whether its authority is trusted.
func (c *check) stamp(der []byte) (said, error) {
	s, err := timestamp.Parse(der)
	if err != nil {
		return said{}, err
	}
	if s.Time.Before(time.Unix(0, 0)) || s.Time.After(time.Unix(0, entry.MaxTime)) {
		return said{}, fmt.Errorf("it is of the year %d", s.Time.Year())
	}
	return said{
		sum: sha256.Sum256(der), digest: s.Digest, at: s.Time.UnixNano(), slack: int64(s.Accuracy), name: s.Name,
		trusted: c.o.TimeRoots != nil && s.Verify(c.o.TimeRoots) == nil,
	}, nil
}

// cosignatures says what the policy's witnesses say in a note. That it is the log's was checked. The time is trusted where the quorum
// stands behind it: one witness that lies about it, and that the quorum can do without, does not move it.
func (c *check) cosignatures(note []byte) (said, error) {
	s := said{sum: sha256.Sum256(note), slack: int64(time.Second)}
	if c.o.Policy == nil {
		return s, nil
	}
	r := c.o.Policy.Check(note)
	s.trusted = !r.By.IsZero()
	for _, w := range r.Witnesses {
		if at := nanoseconds(w.Time); w.Signed && (s.trusted && w.Time.Equal(r.By) || !s.trusted && (s.name == "" || at < s.at)) {
			s.at, s.name = at, w.Name
		}
	}
	return s, r.Err
}

// nanoseconds is a cosignature's time, or the format's last: a note may state any up to the year 9999.
func nanoseconds(t time.Time) int64 {
	if t.After(timeOf(entry.MaxTime)) {
		return entry.MaxTime
	}
	return t.UnixNano()
}

// readCosigned reads the file cosigned.
func (c *check) readCosigned() {
	data, err := c.read(cosignedName, proof.MaxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		c.fault(cosignedName, -1, err, "")
		return
	}
	at, n, err := c.openCheckpoint(data)
	var s said
	if err == nil {
		s, err = c.cosignatures(data)
	}
	if err != nil {
		c.find(Finding{File: cosignedName, Offset: -1, Index: -1, What: "is not a cosigned checkpoint of this log: " + err.Error()})
		return
	}
	c.cosigned, c.cosignedSaid = c.noteClaim(cosignedName, -1, at, n), s
	c.cosigned.data = data
	c.cosigned.good = func([]proof.Signer) { c.witness(cosignedName, data) }
}

// addCosigned adds the claim of cosigned, and holds sizes against the head: what a witness saw, this host signed.
func (c *check) addCosigned(j *joiner) {
	newer := func(name string, size uint64) {
		if c.head != nil && size > c.head.Size {
			c.find(Finding{
				File: name, Offset: -1, Index: -1, What: "is newer than the highest that this host ever signed", Got: fmt.Sprint(size), Want: fmt.Sprintf("at most %d", c.head.Size),
				Hint: "the head was replaced by an older copy, or the key is in use elsewhere",
			})
		}
	}
	if c.cosigned != nil {
		j.claim(c.cosigned)
		newer(cosignedName, c.cosigned.size)
	}
	if n := len(c.evidence); n > 0 {
		last := c.evidence[n-1]
		newer(evidenceFileName(last.size, last.n), last.size)
	}
}

// witness takes a cosigned checkpoint that is good and agrees with the entries.
func (c *check) witness(name string, note []byte) {
	if c.o.Policy == nil {
		return
	}
	r := c.o.Policy.Check(note)
	w := Witnessed{Size: r.Checkpoint.Size, Satisfied: r.Satisfied, Quorum: r.Quorum, File: name}
	for _, s := range r.Witnesses {
		if s.Signed {
			w.Names = append(w.Names, s.Name)
			if w.Time.IsZero() || s.Time.Before(w.Time) {
				w.Time = s.Time
			}
		}
	}
	// A quorum of none is satisfied by nothing, and nothing is no evidence, whoever cosigned.
	if w.Satisfied = !r.By.IsZero(); w.Satisfied {
		w.Time = r.By
	} else if r.Satisfied {
		w.Quorum = "its quorum is none, which shows nothing"
	}
	old := c.rep.Witnessed
	if old == nil || w.Satisfied && !old.Satisfied || w.Satisfied == old.Satisfied && w.Size > old.Size {
		c.rep.Witnessed = &w
	}
}

// finishPolicy says what the policy's judgement is worth.
func (j *joiner) finishPolicy() {
	c := j.c
	if c.o.Policy == nil || !c.known {
		return
	}
	logs := c.o.Policy.Logs()
	ours := slices.ContainsFunc(logs, func(l proof.PolicyLog) bool {
		_, epoch := j.epochs.ids[l.Key.ID()]
		return l.Key.String() == c.log.String() || l.Key.Name() == c.origin && epoch
	})
	f := Finding{File: "policy", Offset: -1, Index: -1}
	w := c.rep.Witnessed
	switch {
	case len(logs) > 0 && !ours:
		f.What, f.Got, f.Want, f.Hint = "names no key of this log", c.log.String(), logs[0].Key.String(), "the directory is of another log than the policy, or was replaced together with its keys"
		c.find(f)
	case w == nil:
		f.What = "is not satisfied: there is no cosigned checkpoint that agrees"
		c.note(f)
	case !w.Satisfied:
		f.What = "is not satisfied: " + w.Quorum
		c.note(f)
	default:
		c.basis(Basis{Kind: "witnesses", Detail: strings.Join(w.Names, ", "), Size: w.Size})
	}
}

// settleEvidence holds the files of evidence/ for the present size against the entries.
func (j *joiner) settleEvidence() {
	kept := j.ahead != nil && j.ahead.size == j.size
	for ; len(j.evidence) > 0 && j.evidence[0].size == j.size; j.evidence = j.evidence[1:] {
		f := &j.evidence[0]
		switch name := evidenceFileName(f.size, f.n); {
		case !f.ok:
		case !j.rootOK:
			j.missed(name, -1, -1, fmt.Sprintf("the root at size %d", f.size))
		case f.n < 0:
			j.settleCosigned(name)
		default:
			j.settleStamp(name, f, kept)
		}
	}
}

func (j *joiner) settleStamp(name string, f *evidenceFile, kept bool) {
	c := j.c
	at := Finding{File: name, Offset: -1, Index: -1}
	want := sha256.Sum256([]byte(proof.Checkpoint{Origin: c.origin, Size: f.size, Root: j.f.Root()}.Text()))
	switch {
	case f.digest != want:
		at.What, at.Got, at.Want = fmt.Sprintf("its imprint is not that of the checkpoint of size %d that the entries give", f.size), fmt.Sprintf("%x", f.digest), fmt.Sprintf("%x", want)
		c.find(at)
	case !kept:
		at.What = fmt.Sprintf("the checkpoint of size %d, which it is over, is not kept", f.size)
		c.find(at)
	}
}

// settleCosigned reads the note once more: what was read before the entries was not kept in memory. Meanwhile a writer may
// have added cosignatures.
func (j *joiner) settleCosigned(name string) {
	c := j.c
	data, err := c.read(name, proof.MaxNote)
	if err != nil {
		c.fault(name, -1, err, "")
		return
	}
	at, n, err := c.openCheckpoint(data)
	if err != nil {
		c.find(Finding{File: name, Offset: -1, Index: -1, What: "is no longer a cosigned checkpoint of this log"})
		return
	}
	cl := c.noteClaim(name, -1, at, n)
	cl.data = data
	cl.good = func([]proof.Signer) { c.witness(name, data) }
	j.settleNote(cl)
}

// beyondEvidence reports evidence for sizes that the log does not have.
func (j *joiner) beyondEvidence() {
	for i := range j.evidence {
		f := &j.evidence[i]
		name := evidenceFileName(f.size, f.n)
		switch {
		case !f.ok:
		case j.lost:
			j.missed(name, -1, -1, fmt.Sprintf("the root at size %d", f.size))
		default:
			j.c.find(Finding{
				File: name, Offset: -1, Index: -1, What: "the log is shorter than what an outside party saw", Got: fmt.Sprintf("%d entries", j.size), Want: fmt.Sprintf("at least %d", f.size), Hint: hintCut,
			})
		}
	}
	j.evidence = nil
}

// checkAnchor holds an anchor entry against the file that it names, and takes the time from it.
func (c *check) checkAnchor(m object, e *control) error {
	size, err := m.number("size")
	if err != nil {
		return err
	}
	text, name, sum := m.text("time"), m.text("file"), m.text("sha256")
	at, err := entry.ParseTime([]byte(text))
	if err != nil {
		return fmt.Errorf("time %q: %w", text, err)
	}
	hash, err := proof.ParseHex(sum)
	if err != nil {
		return fmt.Errorf("sha256: %w", err)
	}
	base, found := strings.CutPrefix(name, evidenceName+"/")
	fileSize, n, ok, bad := parseEvidence(base)
	switch {
	case size > e.index:
		return fmt.Errorf("size is %d, the entry's index %d: nobody has seen what comes later", size, e.index)
	case !found || !ok:
		return fmt.Errorf("file %q is not %s or %s", name, evidenceFileName(size, -1), evidenceFileName(size, 0))
	case bad != nil:
		return fmt.Errorf("file %q: %w", name, bad)
	case fileSize != size:
		return fmt.Errorf("size is %d, file %q is of another", size, name)
	}
	f := c.findEvidence(size, n)
	if f == nil {
		// Not listed: it came after the listing, or is not there.
		f = &evidenceFile{size: size, n: n}
		c.readEvidenceFile(f)
	}
	if !f.ok {
		c.note(Finding{File: name, Offset: -1, Index: int64(e.index), What: "an anchor entry names this file"})
		return nil
	}
	if f.sum != hash {
		return fmt.Errorf("%s has SHA-256 %x, the entry says %s", name, f.sum, sum)
	}
	s := f.said
	if n < 0 {
		data, err := c.read(name, proof.MaxNote)
		if err != nil {
			c.fault(name, int64(e.index), err, "an anchor entry names it")
			return nil
		}
		if s, err = c.cosignedAt(data, at); err != nil {
			return err
		}
	}
	if s.at != at {
		return fmt.Errorf("time is %s, %s says %s", text, name, timeText(s.at))
	}
	c.anchor(e.index, size, name, s)
	return nil
}

func (c *check) findEvidence(size uint64, n int64) *evidenceFile {
	i, found := slices.BinarySearchFunc(c.evidence, evidenceFile{size: size, n: n}, func(a, b evidenceFile) int {
		return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.n, b.n))
	})
	if !found {
		return nil
	}
	return &c.evidence[i]
}

// cosignedAt finds who cosigned a note at this time, a witness of the policy first. An anchor says that what follows it is not older: that
// is trusted where the quorum says that it signed then or later.
func (c *check) cosignedAt(data []byte, at int64) (said, error) {
	if c.o.Policy != nil {
		r := c.o.Policy.Check(data)
		for _, w := range r.Witnesses {
			if w.Signed && w.Time.Equal(timeOf(at)) {
				return said{at: at, slack: int64(time.Second), name: w.Name, trusted: !w.Time.After(r.Since)}, nil
			}
		}
	}
	n, err := proof.ParseNote(data)
	if err != nil {
		return said{}, err
	}
	for _, s := range n.Signatures {
		if s.Name != c.origin && len(s.Bytes) > 8 && int64(binary.BigEndian.Uint64(s.Bytes)) == at/1e9 && at%1e9 == 0 {
			return said{at: at, slack: int64(time.Second), name: s.Name}, nil
		}
	}
	return said{}, fmt.Errorf("no cosignature in its file is of %s", timeText(at))
}
