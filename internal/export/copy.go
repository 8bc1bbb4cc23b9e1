// Package export is what leaves a log for other systems, and comes back from them to be compared with it.
package export

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/siem"
	"github.com/tree-of-life-system/immutable/proof"
)

// Member is the member of an exported event that says which entry it is: {"origin","index","leaf"}. It stands beside whatever form the
// event has elsewhere, so that a copy in another system can be compared with the log.
const Member = "immutable"

// Mark says which entry an exported event is.
type Mark struct {
	Origin string `json:"origin"`
	Index  uint64 `json:"index"`
	Leaf   string `json:"leaf"`           // hex
	Size   uint64 `json:"size,omitempty"` // of the newest signed checkpoint when the event left; 0 where there was none
}

// AppendLine appends an entry as a line of a copy: its mark, and the entry as it was hashed.
func AppendLine(dst []byte, origin string, size uint64, e *immutable.Entry) []byte {
	dst = append(dst, `{"immutable":{"origin":`...)
	quoted, err := json.Marshal(origin)
	if err != nil {
		panic("export: an origin is text: " + err.Error())
	}
	dst = append(dst, quoted...)
	dst = append(dst, `,"index":`...)
	dst = strconv.AppendUint(dst, e.Index, 10)
	dst = append(dst, `,"leaf":"`...)
	dst = append(dst, e.Leaf.String()...)
	dst = append(dst, '"')
	if size > 0 {
		dst = strconv.AppendUint(append(dst, `,"size":`...), size, 10)
	}
	dst = append(dst, `},"entry":`...)
	dst = append(dst, e.Line...)
	return append(dst, "}\n"...)
}

// Limits of what a copy may hold. A line has an entry, which other systems may spell longer, and what they put around it.
const (
	maxCopyLine  = 4 << 20
	maxFindings  = 1000
	maxRanges    = 1000
	jumpInstead  = 512 // entries that are read over rather than looked up
	progressStep = 4096
)

// CopyOptions says what a copy is supposed to hold: the entries that Query selects, of those from its first to its last index; with All, of
// the whole log.
type CopyOptions struct {
	Query    string
	All      bool
	Progress func(lines uint64) // may be nil
}

// A CopyFinding is an event that is not what the log holds. Line is counted from 1.
type CopyFinding struct {
	Line  uint64 `json:"line"`
	Index int64  `json:"index"` // -1 where the event does not say
	What  string `json:"what"`
	Got   string `json:"got,omitempty"`
	Want  string `json:"want,omitempty"`
}

// A Range is indexes of entries, both ends included.
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// CopyReport says what a copy holds, beside the log.
type CopyReport struct {
	Origin    string        `json:"origin"`
	Size      uint64        `json:"size"`      // of the log
	Events    uint64        `json:"events"`    // lines of the copy
	Same      uint64        `json:"same"`      // whose content is the entry's
	Marked    uint64        `json:"marked"`    // whose mark is right, and which carry no entry to compare
	Repeated  uint64        `json:"repeated"`  // that came before: delivery is at least once
	Changed   []CopyFinding `json:"changed"`   // at most 1,000: altered, of another log, or without a mark
	Omitted   uint64        `json:"omitted"`   // more of them
	Missing   []Range       `json:"missing"`   // at most 1,000 ranges, of entries that the copy is supposed to hold
	MissingN  uint64        `json:"missingN"`  // entries in all missing ranges
	FirstLast *Range        `json:"firstLast"` // the lowest and highest index; null in a copy without events
}

// Agrees reports whether nothing is missing or changed.
func (r *CopyReport) Agrees() bool { return len(r.Changed) == 0 && r.MissingN == 0 }

// CheckCopy compares the events of a copy, a line each or several (see forms.go), with the entries of the log, which are proven while they are read. The
// log itself is not verified by it. The error says that it could not be told; a copy that was tampered with is a report.
func CheckCopy(ctx context.Context, l *immutable.Log, in io.Reader, o CopyOptions) (*CopyReport, error) {
	c := &copyChecker{ctx: ctx, l: l, line: 1, rep: &CopyReport{Origin: l.Origin(), Size: l.Size(), Changed: []CopyFinding{}, Missing: []Range{}}}
	defer c.stop()
	c.seen = make([]uint64, (c.rep.Size+63)/64)
	lines := bufio.NewReaderSize(in, 1<<16)
	for ; ; c.line++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("line %d of the copy: %w", c.line, err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := c.read(line, 0); err != nil {
			return nil, err
		}
		if o.Progress != nil && c.line%progressStep == 0 {
			o.Progress(c.rep.Events)
		}
	}
	return c.rep, c.missing(o)
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxCopyLine {
			return nil, fmt.Errorf("longer than %d bytes", maxCopyLine)
		}
		line = append(line, part...)
		switch {
		case err == nil, errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

type copyChecker struct {
	ctx  context.Context
	l    *immutable.Log
	rep  *CopyReport
	line uint64   // from 1
	seen []uint64 // a bit for each index

	// The entry that is read next, where the last one led: copies are mostly in order.
	pull func() (immutable.Entry, error, bool)
	halt func()
	at   uint64
}

func (c *copyChecker) stop() {
	if c.halt != nil {
		c.halt()
		c.halt = nil
	}
}

func (c *copyChecker) find(index int64, what, got, want string) {
	if len(c.rep.Changed) == maxFindings {
		c.rep.Omitted++
		return
	}
	c.rep.Changed = append(c.rep.Changed, CopyFinding{c.line, index, what, got, want})
}

// event compares one event.
func (c *copyChecker) event(x *copied) error {
	c.rep.Events++
	at := func() int64 { return int64(min(x.mark.Index, 1<<62)) }
	switch {
	case x.bad != "":
		c.find(-1, x.bad, "", "")
		return nil
	case x.mark.Origin != c.rep.Origin:
		c.find(at(), "the event is of another log", x.mark.Origin, c.rep.Origin)
		return nil
	case x.mark.Index >= c.rep.Size:
		c.find(at(), fmt.Sprintf("the log has no such entry: it has %d", c.rep.Size), "", "")
		return nil
	case x.mark.Size > c.rep.Size:
		c.find(at(), fmt.Sprintf("the event says that a checkpoint of %d entries was signed, and the log has %d", x.mark.Size, c.rep.Size), "", "")
		return nil
	}
	e, err := c.entry(x.mark.Index)
	if err != nil {
		return err
	}
	word, bit := e.Index/64, uint64(1)<<(e.Index%64)
	repeated := c.seen[word]&bit != 0
	same, err := c.compare(&e, x)
	if err != nil || !same {
		return err
	}
	c.seen[word] |= bit
	if repeated {
		c.rep.Repeated++
	}
	if r := c.rep.FirstLast; r == nil {
		c.rep.FirstLast = &Range{e.Index, e.Index}
	} else {
		r.From, r.To = min(r.From, e.Index), max(r.To, e.Index)
	}
	return nil
}

// compare says whether the event is the entry, and counts it. The content may be spelled differently, with other white space or order of
// members, but must say the same.
func (c *copyChecker) compare(e *immutable.Entry, x *copied) (bool, error) {
	index := int64(e.Index)
	if leaf, err := hex.DecodeString(x.mark.Leaf); err != nil || !bytes.Equal(leaf, e.Leaf[:]) {
		c.find(index, "the leaf hash is not the entry's", x.mark.Leaf, e.Leaf.String())
		return false, nil //nolint:nilerr // a finding, and no failure of the comparison
	}
	if x.content != nil && proof.LeafHash(x.content) != e.Leaf && !c.sameContent(e, x.content) {
		return false, nil
	}
	if x.format != "" && (x.mapping < 1 || x.mapping > siem.Mapping) {
		c.find(index, fmt.Sprintf("the event says that mapping %d wrote it, and this program knows 1 to %d", x.mapping, siem.Mapping), "", "")
		return false, nil
	}
	if x.format != "" && x.mapping == siem.Mapping {
		if same, err := c.sameMapping(e, x); !same || err != nil {
			return false, err
		}
	}
	if x.content == nil {
		c.rep.Marked++
	} else {
		c.rep.Same++
	}
	return true, nil
}

// sameContent compares an entry that is spelled otherwise.
func (c *copyChecker) sameContent(e *immutable.Entry, content []byte) bool {
	index := int64(e.Index)
	got, err := decode(content)
	if err != nil {
		c.find(index, "the entry is no JSON: "+err.Error(), "", "")
		return false
	}
	want, err := decode(e.Line)
	if err != nil {
		c.find(index, "the log's entry is no JSON: "+err.Error(), "", "")
		return false
	}
	if place, g, w, differ := difference("", got, want, true); differ {
		c.find(index, "the entry was changed at "+place, g, w)
		return false
	}
	return true
}

// sameMapping compares an event of another schema with what the entry becomes in it. Other systems add members, and change none.
func (c *copyChecker) sameMapping(e *immutable.Entry, x *copied) (bool, error) {
	line, err := Append(nil, x.format, x.mark.Origin, x.mark.Size, e)
	if err != nil {
		return false, err
	}
	want, err := decode(line)
	if err != nil {
		return false, err
	}
	got, err := decode(x.whole)
	if err != nil {
		c.find(int64(e.Index), "the event is no JSON: "+err.Error(), "", "")
		return false, nil //nolint:nilerr // likewise
	}
	if x.content == nil { // what is not there was not compared, and the report counts it
		for _, m := range []any{got, want} {
			if o, ok := m.(map[string]any); ok {
				delete(o, "raw_data")
				if ev, ok := o["event"].(map[string]any); ok {
					delete(ev, "original")
				}
			}
		}
	}
	if place, g, w, differ := difference("", got, want, false); differ {
		c.find(int64(e.Index), "the event was changed at "+place, g, w)
		return false, nil
	}
	return true, nil
}

// entry returns the entry at index.
func (c *copyChecker) entry(index uint64) (immutable.Entry, error) {
	if c.halt == nil || index < c.at || index-c.at > jumpInstead {
		c.stop()
		c.pull, c.halt = iter.Pull2(c.l.Entries(c.ctx, immutable.Query{From: index}))
		c.at = index
	}
	for {
		e, err, ok := c.pull()
		if !ok {
			return e, fmt.Errorf("the log ended before entry %d", index)
		}
		if err != nil {
			return e, err
		}
		c.at = e.Index + 1
		if e.Index == index {
			return e, nil
		}
		if e.Index > index {
			return e, fmt.Errorf("the log does not give entry %d: it was retired", index)
		}
	}
}

// missing lists the entries that the copy is supposed to hold and does not.
func (c *copyChecker) missing(o CopyOptions) error {
	r := c.rep
	q := immutable.Query{Text: o.Query}
	last := r.Size
	if !o.All {
		if r.FirstLast == nil {
			return nil
		}
		q.From, last = r.FirstLast.From, r.FirstLast.To+1
	}
	gone := func(index uint64) {
		r.MissingN++
		if n := len(r.Missing); n > 0 && r.Missing[n-1].To+1 == index {
			r.Missing[n-1].To = index
		} else if n < maxRanges {
			r.Missing = append(r.Missing, Range{index, index})
		}
	}
	if o.Query == "" {
		for i := q.From; i < last; i++ {
			if c.seen[i/64]&(1<<(i%64)) == 0 {
				gone(i)
			}
		}
		return nil
	}
	for e, err := range c.l.Entries(c.ctx, q) {
		if err != nil {
			return err
		}
		if e.Index >= last {
			break
		}
		if c.seen[e.Index/64]&(1<<(e.Index%64)) == 0 {
			gone(e.Index)
		}
	}
	return nil
}

// decode keeps numbers as they are spelled.
func decode(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err = d.Decode(&v); err == nil && d.More() {
		err = errors.New("more than one value")
	}
	return v, err
}

// difference returns the first place at which two values say something different, in the order of the log's members. exact: got has
// no members that want has not.
func difference(place string, got, want any, exact bool) (at, g, w string, differ bool) {
	if x, ok := want.(map[string]any); ok {
		y, same := got.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(x)) {
			if v, found := y[name]; !same || !found {
				return orTop(place + "." + name), text(v), text(x[name]), true
			}
			if at, g, w, differ := difference(place+"."+name, y[name], x[name], exact); differ {
				return at, g, w, true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(y)) {
			if _, found := x[name]; !found && exact {
				return orTop(place + "." + name), text(y[name]), "", true
			}
		}
		return "", "", "", false
	}
	if reflect.DeepEqual(got, want) {
		return "", "", "", false
	}
	return orTop(place), text(got), text(want), true
}

func orTop(place string) string {
	if len(place) > 1 {
		return place[1:]
	}
	return "the top"
}

// text is a value for people, cut.
func text(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > 200 {
		return string(b[:200]) + "…"
	}
	return string(b)
}
