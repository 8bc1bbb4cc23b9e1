package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// pageSize is how many entries are asked for at a time; at most MaxEntryBytes each, so a page is below maxAnswer.
const pageSize = 500

// page is an answer with entries.
type page struct {
	Entries    []json.RawMessage `json:"entries"`
	Next       string            `json:"next"`
	Size       uint64            `json:"size"`
	Checkpoint string            `json:"checkpoint"`
}

// Entries returns the entries that the query selects, the oldest first. With pinned keys each was hashed again and proven under
// a checkpoint of the log before it is returned, those that are younger than the newest checkpoint after a wait for the next
// (a second); and where the query has no filter, none between them is missing. An error ends them: what came before it
// is proven. Of the query's fields Explain and Progress have no effect here.
func (c *Client) Entries(ctx context.Context, q immutable.Query) iter.Seq2[immutable.Entry, error] {
	return c.selected(ctx, q, q.Reverse)
}

// Search returns the entries that the query selects, the newest first; with Reverse the oldest first. Each is verified as by
// Entries. That none is missing which the query selects is the server's word.
func (c *Client) Search(ctx context.Context, q immutable.Query) iter.Seq2[immutable.Entry, error] {
	return c.selected(ctx, q, !q.Reverse)
}

func (c *Client) selected(ctx context.Context, q immutable.Query, newest bool) iter.Seq2[immutable.Entry, error] {
	return func(yield func(immutable.Entry, error) bool) {
		r := reader{c: c, q: q, newest: newest, filtered: filtered(&q)}
		for {
			entries, more, err := r.page(ctx)
			for i := range entries {
				if !yield(entries[i], nil) {
					return
				}
			}
			if err != nil {
				yield(immutable.Entry{}, err)
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// filtered says whether a query leaves out entries between those that it selects.
func filtered(q *immutable.Query) bool {
	return q.Text != "" || len(q.Levels) > 0 || !q.Since.IsZero() || !q.Until.IsZero()
}

// reader reads the pages of one query.
type reader struct {
	c        *Client
	q        immutable.Query
	newest   bool
	filtered bool

	given int    // entries so far
	next  string // cursor
	last  uint64 // index of the last entry, if given > 0
	begun bool
	size  uint64 // of the log when the first page came: what is appended later is not of this read
	known uint64 // entries that the log had for certain before it began
}

// page returns the next entries, verified.
func (r *reader) page(ctx context.Context) (entries []immutable.Entry, more bool, err error) {
	v := queryValues(&r.q)
	limit := pageSize
	if r.q.Limit > 0 {
		limit = min(limit, r.q.Limit-r.given)
	}
	v.Set("limit", strconv.Itoa(limit))
	v.Set("order", map[bool]string{false: "asc", true: "desc"}[r.newest])
	if r.q.Verified {
		v.Set("verified", "true")
	}
	if cursor := r.next; cursor != "" || r.q.Cursor != "" {
		if cursor == "" {
			cursor = r.q.Cursor
		}
		v.Set("cursor", cursor)
	}
	known := r.c.known()
	if !r.begun {
		r.known = known
	}
	var p page
	if err := r.c.getJSON(ctx, r.c.base+"/entries?"+v.Encode(), &p); err != nil {
		return nil, false, err
	}
	if len(p.Entries) > limit {
		return nil, false, &VerificationError{Index: -1, What: "there are more entries than were asked for", Got: strconv.Itoa(len(p.Entries)), Want: strconv.Itoa(limit)}
	}
	if !r.begun {
		r.begun, r.size = true, p.Size
	}
	entries = make([]immutable.Entry, 0, len(p.Entries))
	for _, raw := range p.Entries {
		e, err := parseEntry(raw)
		if err != nil {
			return nil, false, err
		}
		if !r.newest && e.Index >= r.size {
			p.Next = ""
			break
		}
		if err := r.order(&e); err != nil {
			return nil, false, err
		}
		entries = append(entries, e)
	}
	r.next = p.Next
	if err := r.c.verify(ctx, entries, []byte(p.Checkpoint), p.Size, known); err != nil {
		return nil, false, err
	}
	more = p.Next != "" && (r.q.Limit == 0 || r.given < r.q.Limit)
	if !more {
		err = r.whole()
	}
	return entries, more, err
}

// strict says that every entry between those that are returned must be returned too.
func (r *reader) strict() bool {
	return r.c.trust != nil && !r.filtered && len(r.c.cfg.Levels) == 0
}

// order checks that an entry comes where it must.
func (r *reader) order(e *immutable.Entry) error {
	first, before := r.given == 0, r.last
	r.given++
	r.last = e.Index
	switch {
	case !first && (e.Index == before || (e.Index < before) != r.newest):
		return &VerificationError{Index: int64(e.Index), What: fmt.Sprintf("it comes after entry %d", before)}
	case first && r.q.From > 0 && e.Index != r.q.From && (e.Index < r.q.From) != r.newest:
		return &VerificationError{Index: int64(e.Index), What: fmt.Sprintf("it is not in the range from %d on", r.q.From)}
	case !r.strict() || first && r.q.Cursor != "":
		return nil
	}
	// The range of what may come here; where there is room the log may have grown since it was known.
	low, high := before+1, before+1
	switch {
	case !first && r.newest:
		low, high = before-1, before-1
	case first && !r.newest:
		low, high = r.q.From, r.q.From
	case first && r.q.From > 0:
		low, high = min(r.q.From, max(r.known, 1)-1), r.q.From
	case first:
		low, high = max(r.known, 1)-1, e.Index
	}
	if e.Index < low || e.Index > high {
		return &VerificationError{Index: int64(high), What: fmt.Sprintf("it was left out: the next that was shown is entry %d", e.Index)}
	}
	return nil
}

// whole checks that a read has come to its end, as far as what must be there.
func (r *reader) whole() error {
	if !r.strict() || r.q.Limit > 0 && r.given >= r.q.Limit || r.q.Cursor != "" && r.given == 0 {
		return nil
	}
	missing := int64(-1)
	switch {
	case r.newest && r.given > 0 && r.last > 0:
		missing = int64(r.last) - 1
	case r.newest && r.given == 0 && r.known > 0:
		missing = int64(r.known) - 1
	case !r.newest && r.given > 0 && r.last+1 < r.known:
		missing = int64(r.last) + 1
	case !r.newest && r.given == 0 && r.q.From < r.known:
		missing = int64(r.q.From)
	}
	if missing >= 0 {
		return &VerificationError{Index: missing, What: fmt.Sprintf("it was left out: the log has had %d entries", max(r.known, r.last+1))}
	}
	return nil
}

// queryValues are a query's parameters, without limit and order.
func queryValues(q *immutable.Query) url.Values {
	v := url.Values{}
	if q.Text != "" {
		v.Set("q", q.Text)
	}
	if len(q.Levels) > 0 {
		names := make([]string, len(q.Levels))
		for i, l := range q.Levels {
			names[i] = l.String()
		}
		v.Set("level", strings.Join(names, ","))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	if q.From > 0 {
		v.Set("from", strconv.FormatUint(q.From, 10))
	}
	return v
}

// parseEntry reads an entry as the API writes it: index and leaf hash, then the members of its line exactly. The leaf hash is
// computed from the line, and must be the one that is said.
func parseEntry(raw []byte) (immutable.Entry, error) {
	refuse := func(index int64, what string) (immutable.Entry, error) {
		return immutable.Entry{}, &VerificationError{Index: index, What: what}
	}
	rest, found := bytes.CutPrefix(raw, []byte(`{"index":`))
	digits, rest, found2 := bytes.Cut(rest, []byte(`,"leaf":"`))
	if !found || !found2 || len(rest) < 2*proof.HashSize+2 || len(digits) > 20 {
		return refuse(-1, "an entry is not in the form of the API")
	}
	index, err := strconv.ParseUint(string(digits), 10, 63)
	if err != nil {
		return refuse(-1, "an entry's index is no number")
	}
	said, err := proof.ParseHex(string(rest[:2*proof.HashSize]))
	if err != nil || !bytes.HasPrefix(rest[2*proof.HashSize:], []byte(`",`)) {
		return refuse(int64(index), "its leaf hash is none")
	}
	line := append([]byte{'{'}, rest[2*proof.HashSize+2:]...)
	e, err := immutable.ParseEntry(index, line)
	if err != nil {
		return immutable.Entry{}, &VerificationError{Index: int64(index), What: "it is not an entry's line", Err: err}
	}
	if e.Leaf != said {
		return immutable.Entry{}, &VerificationError{Index: int64(index), What: "its leaf hash is another", Got: e.Leaf.String(), Want: said.String()}
	}
	return e, nil
}

func (c *Client) known() uint64 {
	if c.trust == nil {
		return 0
	}
	return c.trust.known()
}

// verify proves entries that came with a checkpoint, in answer to a question that was asked when the size known was known.
func (c *Client) verify(ctx context.Context, entries []immutable.Entry, note []byte, size, known uint64) error {
	if c.trust == nil {
		return nil
	}
	var at proof.Checkpoint
	if len(note) > 0 {
		var err error
		if at, err = c.trust.accept(ctx, note, known); err != nil {
			return err
		}
	}
	if size < known {
		return &VerificationError{Index: -1, What: "the log has fewer entries than it had", Got: strconv.FormatUint(size, 10), Want: strconv.FormatUint(known, 10)}
	}
	need := uint64(0)
	for i := range entries {
		need = max(need, entries[i].Index+1)
	}
	if need > at.Size {
		var err error
		if at, err = c.trust.cover(ctx, need); err != nil {
			return err
		}
	}
	for i := range entries {
		if err := c.trust.proveLeaf(ctx, at, entries[i].Index, entries[i].Leaf); err != nil {
			return err
		}
	}
	return nil
}

// Entry returns one entry, verified as by Entries.
func (c *Client) Entry(ctx context.Context, index uint64) (immutable.Entry, error) {
	known := c.known()
	data, err := c.get(ctx, c.indexed(index))
	if err != nil {
		return immutable.Entry{}, fmt.Errorf("entry %d: %w", index, c.hidden(err, index, known))
	}
	e, err := parseEntry(bytes.TrimSuffix(data, []byte("\n")))
	if err != nil {
		return immutable.Entry{}, err
	}
	if e.Index != index {
		return immutable.Entry{}, &VerificationError{Index: int64(index), What: "another entry was returned", Got: strconv.FormatUint(e.Index, 10)}
	}
	if err := c.verify(ctx, []immutable.Entry{e}, nil, max(known, index+1), known); err != nil {
		return immutable.Entry{}, err
	}
	return e, nil
}

// hidden turns "not found" into what it is where a checkpoint covers the entry.
func (c *Client) hidden(err error, index, known uint64) error {
	if errors.Is(err, immutable.ErrNotFound) && index < known && len(c.cfg.Levels) == 0 {
		return &VerificationError{Index: int64(index), What: fmt.Sprintf("the server says that there is none, and has shown a checkpoint of %d entries", known), Err: err}
	}
	return err
}

func (c *Client) indexed(index uint64) string {
	return c.base + "/entries/" + strconv.FormatUint(index, 10)
}

// Block returns an entry's place in the chain of hashes. The entry's bytes are verified as by Entry, and the block's hash is
// computed again from them; that the previous hash is the one of the log is the server's word, since checkpoints sign the
// tree, not the chain.
func (c *Client) Block(ctx context.Context, index uint64) (immutable.Block, error) {
	known := c.known()
	var b immutable.Block
	if err := c.getJSON(ctx, c.indexed(index)+"/block", &b); err != nil {
		return b, fmt.Errorf("block %d: %w", index, c.hidden(err, index, known))
	}
	e, err := immutable.ParseEntry(index, []byte(b.Data))
	if err != nil || b.Index != index {
		return immutable.Block{}, &VerificationError{Index: int64(index), What: "its block holds something else", Err: err}
	}
	if hash := proof.ChainHash(b.PreviousHash, e.Leaf); hash != b.Hash {
		return immutable.Block{}, &VerificationError{Index: int64(index), What: "its block's hash is another", Got: b.Hash.String(), Want: hash.String()}
	}
	if err := c.verify(ctx, []immutable.Entry{e}, nil, max(known, index+1), known); err != nil {
		return immutable.Block{}, err
	}
	return b, nil
}

// Proof returns a receipt that stands alone (c2sp.org/tlog-proof@v1), as `immutable prove` writes it; without pinned keys it is
// the server's word. Where no checkpoint covers the entry yet it waits for one.
func (c *Client) Proof(ctx context.Context, index uint64) ([]byte, error) {
	e, err := c.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	data, err := c.get(ctx, c.indexed(index)+"/proof")
	if err != nil || c.trust == nil {
		return data, err
	}
	if err := c.trust.checkProof(ctx, data, index, e.Leaf); err != nil {
		return nil, err
	}
	return data, nil
}

// Checkpoint returns the newest signed checkpoint, a C2SP note. With pinned keys it is verified, and consistent with every one
// that this client, and its state file, has seen.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	_, note, err := c.checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return note, nil
}

// CheckReceipt verifies that the log still holds what a receipt promised: the entry with that leaf hash at that index, under a
// checkpoint. It needs pinned keys.
func (c *Client) CheckReceipt(ctx context.Context, r immutable.Receipt) error {
	if c.trust == nil {
		return errors.New("check a receipt: there are no pinned keys to check it by")
	}
	at, err := c.trust.cover(ctx, r.Index+1)
	if err == nil {
		err = c.trust.proveLeaf(ctx, at, r.Index, r.Leaf)
	}
	if err != nil {
		return fmt.Errorf("check a receipt: %w", err)
	}
	return nil
}
