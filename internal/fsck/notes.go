package fsck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// openNote reads a note of this log: its form, and that the log key signed it. n is nil where there is nothing more to
// verify: in a log without keys, and without log.json. Else the keys of an epoch must have signed it too, and which those are
// the joiner knows when it is there.
func (c *check) openNote(data []byte) (text string, n *proof.Note, err error) {
	if len(data) > proof.MaxNote {
		return "", nil, fmt.Errorf("%w: %d bytes, at most %d are read", proof.ErrMalformedNote, len(data), proof.MaxNote)
	}
	if !c.known {
		text, _, found := strings.Cut(string(data), "\n\n")
		if !found {
			return "", nil, fmt.Errorf("%w: no empty line after the text", proof.ErrMalformedNote)
		}
		return text + "\n", nil, nil
	}
	if c.log.IsZero() {
		text, found := strings.CutSuffix(string(data), "\n\n")
		if !found || strings.Contains(text, "\n\n") {
			return "", nil, fmt.Errorf("%w: in a log without keys a note is its text and one empty line", proof.ErrMalformedNote)
		}
		return text + "\n", nil, nil
	}
	if n, err = proof.ParseNote(data); err != nil {
		return "", nil, err
	}
	return n.Text, n, nil
}

// openCheckpoint opens a checkpoint of this log as far as the log key goes.
func (c *check) openCheckpoint(data []byte) (proof.Checkpoint, *proof.Note, error) {
	text, n, err := c.openNote(data)
	if err != nil {
		return proof.Checkpoint{}, nil, err
	}
	if n != nil {
		signers, err := n.Verify([]proof.Key{c.log})
		if err == nil && len(signers) == 0 {
			err = fmt.Errorf("%w by the log key %s+%08x", proof.ErrNoSignature, c.log.Name(), c.log.ID())
		}
		if err != nil {
			return proof.Checkpoint{}, nil, err
		}
	}
	at, err := proof.ParseCheckpoint(text)
	if err != nil && c.log.IsZero() { // nobody signed that it is one
		err = fmt.Errorf("%w: %w", proof.ErrMalformedNote, err)
	}
	if err == nil && c.known && at.Origin != c.origin {
		err = fmt.Errorf("%w: %q, this log is %q", proof.ErrOrigin, at.Origin, c.origin)
	}
	return at, n, err
}

// readLatest reads the file checkpoint.
func (c *check) readLatest() {
	data, err := c.read(latestName, proof.MaxNote)
	if err != nil {
		c.fault(latestName, -1, err, "")
		return
	}
	at, n, err := c.openCheckpoint(data)
	if err != nil {
		c.find(Finding{File: latestName, Offset: -1, Index: -1, What: "is not a checkpoint of this log: " + err.Error()})
		return
	}
	c.latest, c.latestAt, c.latestNote = data, at, n
}

// addClaims gives the joiner everything that says what the root, a chain hash or a leaf must be.
func (c *check) addClaims(j *joiner) {
	if c.latest != nil {
		j.claim(c.noteClaim(latestName, -1, c.latestAt, c.latestNote))
	}
	if h := c.head; h != nil {
		j.claim(&claim{
			size: h.Size, root: h.Root, file: c.headFile, offset: -1,
			differs: Finding{File: openName, Offset: -1, Index: -1, What: fmt.Sprintf("the entries below %d do not have the root that this host signed", h.Size), Hint: hintCut},
			short:   Finding{File: openName, Offset: -1, Index: -1, What: "the log is shorter than this host's head says", Hint: hintCut},
			basis:   &Basis{Kind: "head", Detail: c.headFile, Size: h.Size},
		})
	}
	for i, data := range c.o.Checkpoints {
		c.addOutside(j, fmt.Sprintf("given checkpoint %d", i+1), data)
	}
	for i, data := range c.o.Proofs {
		c.addProof(j, fmt.Sprintf("given proof %d", i+1), data)
	}
	for i, r := range c.o.Receipts {
		if r.Name == "" {
			r.Name = fmt.Sprintf("given receipt %d", i+1)
		}
		c.addReceipt(j, r)
	}
}

// noteClaim is what a note in the directory says.
func (c *check) noteClaim(file string, offset int64, at proof.Checkpoint, n *proof.Note) *claim {
	return &claim{
		size: at.Size, root: at.Root, file: file, offset: offset, inside: true, note: n,
		differs:  Finding{File: file, Offset: offset, Index: -1, What: fmt.Sprintf("the checkpoint of size %d has another root than the entries", at.Size)},
		short:    Finding{File: file, Offset: offset, Index: -1, What: "the log is shorter than its checkpoint", Hint: hintCut},
		unsigned: Finding{File: file, Offset: offset, Index: -1, What: "is not a checkpoint of this log: "},
	}
}

// addOutside adds a checkpoint from outside. One that this log's keys did not sign refutes: either it or the directory is of
// another log. Bytes that are no checkpoint at all say nothing.
func (c *check) addOutside(j *joiner, name string, data []byte) (*claim, bool) {
	at, n, err := c.openCheckpoint(data)
	f := Finding{File: name, Offset: -1, Index: -1}
	switch {
	case err == nil:
	case errors.Is(err, proof.ErrMalformedNote):
		f.What = "is not a checkpoint: " + err.Error()
		c.note(f)
		c.unreadable++
		return nil, false
	default:
		f.What, f.Hint = "is not a checkpoint of this log: "+err.Error(), "it is of another log, or the directory is"
		c.find(f)
		return nil, false
	}
	unsigned := f
	unsigned.What, unsigned.Hint = "is not a checkpoint of this log: ", "it is of another log, or the directory is"
	f.Hint = "the log was rewritten after that checkpoint was signed, or shows different histories to different people"
	f.What = fmt.Sprintf("the entries below %d have another root than this checkpoint", at.Size)
	short := f
	short.What, short.Hint = "the log is shorter than this checkpoint", hintCut
	cl := &claim{
		size: at.Size, root: at.Root, file: name, offset: -1, note: n, differs: f, short: short, unsigned: unsigned,
		basis: &Basis{Kind: "checkpoint", Detail: name, Size: at.Size},
	}
	j.claim(cl)
	return cl, true
}

// addProof adds a tlog-proof: its checkpoint, and that the entry at its index is the one that it proves.
func (c *check) addProof(j *joiner, name string, data []byte) {
	p, err := proof.ParseInclusionProof(data)
	if err != nil {
		c.note(Finding{File: name, Offset: -1, Index: -1, What: "is not an inclusion proof: " + err.Error()})
		c.unreadable++
		return
	}
	at, ok := c.addOutside(j, name, p.Checkpoint)
	if !ok {
		return
	}
	f := Finding{File: name, Offset: -1, Index: int64(p.Index)}
	j.claimEntry(&entryClaim{index: p.Index, file: name, check: func(leaf, _ proof.Hash) {
		if err := proof.CheckInclusion(p.Hashes, p.Index, at.size, leaf, at.root); err != nil {
			f.What, f.Got = "the entry is not the one that this proof is of: "+err.Error(), "leaf "+leaf.String()
			c.find(f)
			return
		}
		c.receipts++
		c.rep.Basis = append(c.rep.Basis, Basis{Kind: "receipt", Detail: name, Size: 0})
	}})
}

// addReceipt adds what an append returned.
func (c *check) addReceipt(j *joiner, r Receipt) {
	none := proof.Hash{}
	if r.Index >= proof.MaxSize { // no log has it, and its size has no number
		c.find(Finding{File: r.Name, Offset: -1, Index: -1, What: "the entry is not there", Got: fmt.Sprint(r.Index), Want: fmt.Sprintf("an index below %d", uint64(proof.MaxSize))})
		return
	}
	j.claimEntry(&entryClaim{index: r.Index, file: r.Name, check: func(leaf, chain proof.Hash) {
		f := Finding{File: r.Name, Offset: -1, Index: int64(r.Index), Hint: "the entry was changed after it was acknowledged"}
		good := true
		if r.Leaf != none && r.Leaf != leaf {
			f.What, f.Got, f.Want = "the entry is not the one that was acknowledged: its leaf hash differs", leaf.String(), r.Leaf.String()
			c.find(f)
			good = false
		}
		if r.Chain != none && r.Chain != chain {
			f.What, f.Got, f.Want = "the entry or one before it is not what it was when this one was acknowledged: the chain hash differs", chain.String(), r.Chain.String()
			c.find(f)
			good = false
		}
		if !good || r.Leaf == none && r.Chain == none {
			return
		}
		c.receipts++
		b := Basis{Kind: "receipt", Detail: r.Name}
		if r.Chain != none {
			b.Size = r.Index + 1
		}
		c.rep.Basis = append(c.rep.Basis, b)
	}})
}

// A history streams the file checkpoints, as long as it was at the beginning: notes are cut out of it, verified by the
// workers, and handed on in order. Sizes increase, so it never holds more than a few batches, however long the file is.
type history struct {
	c      *check
	file   vfs.File
	length int64
	err    error // why there is no file, or, once order is closed, why it was not read to its end
	order  chan *noteBatch
	batch  []histNote // rest of the current one
	ended  bool
	torn   bool // the bytes after the notes so far are a torn note

	count  uint64 // notes so far
	newest        // the last of them
	before newest // the one before it
}

// newest is the last note of a history so far.
type newest struct {
	lastSize uint64
	lastNote []byte // nil before the first
	lastEnd  int64  // offset behind its empty line
	last     *proof.Checkpoint
}

type histNote struct {
	offset int64
	data   []byte
	reason string // why it is not even a note's form

	at   proof.Checkpoint
	note *proof.Note
	err  error
}

// A noteBatch is a job.
type noteBatch struct {
	c     *check
	notes []histNote
	done  chan struct{}
}

const (
	notesPerBatch  = 64
	historyWindow  = 256 << 10 // more than two notes of the largest size
	historyBatches = 8
)

func (b *noteBatch) run(*worker) {
	defer close(b.done)
	for i := range b.notes {
		n := &b.notes[i]
		if n.reason == "" {
			n.at, n.note, n.err = b.c.openCheckpoint(n.data)
		}
	}
}

func (c *check) openHistory() {
	h := &history{c: c}
	c.history = h
	if h.file, h.length, h.err = c.open(historyName); h.err != nil {
		c.fault(historyName, -1, h.err, "")
	}
}

func (h *history) close() {
	if h != nil && h.file != nil {
		_ = h.file.Close()
		h.file = nil
	}
}

// start cuts the file into notes for as long as the context lives.
func (h *history) start(p *pool) {
	h.order = make(chan *noteBatch, historyBatches)
	p.spawn(func() {
		defer close(h.order)
		if h.file == nil {
			return
		}
		send := func(notes []histNote) bool {
			b := &noteBatch{c: h.c, notes: notes, done: make(chan struct{})}
			return p.submit(b) && put(p.ctx, h.order, b)
		}
		if err := h.cut(send); err != nil {
			h.c.fault(historyName, -1, err, "")
			h.err = err
		}
	})
}

// cut reads the file in windows and sends its notes. Behind bytes that are no note it goes on at the next text that begins
// like one of this log's.
func (h *history) cut(send func([]histNote) bool) error {
	var pending []histNote
	next := []byte("\n\n" + h.c.origin + "\n")
	window := make([]byte, 0, min(historyWindow, h.length))
	lost := false // the bytes before the window were no note
	for off := int64(0); off < h.length; {
		n := int(min(historyWindow, h.length-off))
		window = window[:n]
		if m, err := h.file.ReadAt(window, off); m < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if lost {
			i := bytes.Index(window, next)
			if i < 0 {
				if off+int64(n) == h.length {
					break
				}
				off += int64(max(1, n-len(next)))
				continue
			}
			off, lost = off+int64(i)+2, false
			continue
		}
		notes, err := proof.SplitNotes(window)
		used := int64(0)
		for _, data := range notes {
			pending = append(pending, histNote{offset: off + used, data: bytes.Clone(data)})
			used += int64(len(data)) + 1
			if len(pending) == notesPerBatch {
				if !send(pending) {
					return nil
				}
				pending = nil
			}
		}
		off += used
		var bad *proof.HistoryError
		if len(notes) == 0 && errors.As(err, &bad) {
			pending = append(pending, histNote{offset: off, reason: bad.Reason})
			lost = true
			off++
		}
	}
	if len(pending) > 0 {
		send(pending)
	}
	h.c.addBytes(h.length)
	return nil
}

// upTo hands on the notes of sizes up to size, as claims.
func (h *history) next() *claim {
	for {
		if len(h.batch) == 0 {
			b, ok := <-h.order
			if !ok {
				h.ended = true
				return nil
			}
			<-b.done
			h.batch = b.notes
			continue
		}
		n := h.batch[0]
		h.batch = h.batch[1:]
		if cl := h.take(&n); cl != nil {
			return cl
		}
	}
}

// take checks one note against those before it and the head; nil where it makes no claim.
func (h *history) take(n *histNote) *claim {
	if h.torn {
		return nil // the rest of it
	}
	c := h.c
	f := Finding{File: historyName, Offset: n.offset, Index: -1}
	if n.reason != "" || n.err != nil {
		f.What = "the note " + n.reason
		if n.err != nil {
			f.What = "the note is not a checkpoint of this log: " + n.err.Error()
		}
		if h.torn = h.isTorn(n.offset); h.torn {
			c.leftover(f)
		} else {
			c.find(f)
		}
		return nil
	}
	if end := n.offset + int64(len(n.data)) + 1; c.head != nil && n.offset < c.head.Kept && c.head.Kept < end {
		f.What, f.Got, f.Want = "the note does not end where the head says that one did", fmt.Sprintf("offset %d", end), fmt.Sprint(c.head.Kept)
		c.find(f)
		return nil
	}
	switch {
	case h.last == nil && (n.at.Size != 0 || n.offset != 0):
		f.What, f.Got, f.Want = "the first note is not of size 0", fmt.Sprintf("size %d", n.at.Size), "size 0"
		c.find(f)
	case h.last != nil && n.at.Size <= h.lastSize:
		f.What, f.Got, f.Want = "sizes do not increase", fmt.Sprintf("size %d", n.at.Size), fmt.Sprintf("above %d", h.lastSize)
		c.find(f)
		return nil
	}
	if c.head != nil && n.at.Size > c.head.Size {
		f.What, f.Got, f.Want = "is newer than the highest that this host ever signed", fmt.Sprintf("size %d", n.at.Size), fmt.Sprintf("at most %d", c.head.Size)
		f.Hint = "the head was replaced by an older copy, or the key is in use elsewhere"
		c.find(f)
	}
	h.count++
	at := n.at
	h.before = h.newest
	h.newest = newest{last: &at, lastSize: at.Size, lastNote: n.data, lastEnd: n.offset + int64(len(n.data)) + 1}
	cl := c.noteClaim(historyName, n.offset, at, n.note)
	cl.kept, cl.data = true, n.data
	return cl
}

// reject takes back the note at offset, of this length: it was taken for one, and the keys of its epoch did not sign it.
func (h *history) reject(offset, length int64, err error) {
	h.count--
	if end := offset + length + 1; end == h.lastEnd {
		h.newest = h.before
	}
	f := Finding{File: historyName, Offset: offset, Index: -1, What: "the note is not a checkpoint of this log: " + err.Error()}
	if h.isTorn(offset) {
		h.torn = true
		h.c.leftover(f)
		return
	}
	h.c.find(f)
}

// isTorn says whether the bytes from offset on are a torn note, as docs/format.md defines it: the one that a crash kept from
// becoming durable.
func (h *history) isTorn(offset int64) bool {
	c := h.c
	if h.count == 0 || h.length-offset > proof.MaxNote || c.head != nil && offset < c.head.Kept {
		return false
	}
	rest := make([]byte, h.length-offset)
	if n, err := h.file.ReadAt(rest, offset); n < len(rest) {
		c.fault(historyName, -1, err, "")
		return false
	}
	if bytes.Contains(rest, []byte("\n\n"+c.origin+"\n")) {
		return false
	}
	_, after, _ := bytes.Cut(rest, []byte("\n"))
	line, _, found := bytes.Cut(after, []byte("\n"))
	if !found || c.latest == nil {
		return true
	}
	size, err := strconv.ParseUint(string(line), 10, 64)
	if err != nil || strconv.FormatUint(size, 10) != string(line) || size > c.latestAt.Size {
		return true
	}
	return size == c.latestAt.Size && tornFrom(rest, append(bytes.Clone(c.latest), '\n'), offset)
}

// tornFrom says whether rest, at offset in its file, is what a power cut may leave of the bytes want: cut short, or with
// zeros where a sector was not written. A byte that was changed is something else.
func tornFrom(rest, want []byte, offset int64) bool {
	const sector = 512
	if len(rest) > len(want) || bytes.Equal(rest, want) {
		return false
	}
	for i := range rest {
		if rest[i] == want[i] {
			continue
		}
		end := i
		for end < len(rest) && rest[end] == 0 && (offset+int64(end))/sector == (offset+int64(i))/sector {
			end++
		}
		if end < len(rest) && (offset+int64(end))%sector != 0 {
			return false
		}
	}
	return true
}

// finishHistory compares the newest checkpoint with the last that is kept.
func (c *check) finishHistory(j *joiner) {
	h := c.history
	c.rep.Checkpoints = h.count
	if h.err != nil {
		return
	}
	f := Finding{File: historyName, Offset: -1, Index: -1}
	switch {
	case h.last == nil:
		f.What, f.Got, f.Want = "holds no checkpoint", fmt.Sprintf("%d bytes", h.length), "at least the one of size 0"
		c.find(f)
		return
	case c.latest == nil:
		return
	case c.latestAt.Size < h.lastSize:
		c.leftover(Finding{File: latestName, Offset: -1, Index: -1, What: "is older than the last checkpoint that is kept", Got: fmt.Sprintf("size %d", c.latestAt.Size), Want: fmt.Sprintf("at least %d", h.lastSize)})
	case c.latestAt.Size == h.lastSize && !bytes.Equal(c.latest, h.lastNote):
		c.find(Finding{File: latestName, Offset: -1, Index: -1, What: fmt.Sprintf("differs from the note of the same size %d in %s", h.lastSize, historyName), Got: fmt.Sprintf("%q", c.latest), Want: fmt.Sprintf("%q", h.lastNote)})
	}
	if j.sealed > h.lastSize {
		f.What, f.Got, f.Want = "no checkpoint is kept at or after the end of the newest sealed segment", fmt.Sprintf("last size %d", h.lastSize), fmt.Sprintf("at least %d", j.sealed)
		c.find(f)
	}
}
