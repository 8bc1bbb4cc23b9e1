// Package evidence is the evidence bundle: entries of a log with everything that verifies them offline, in one file. It
// writes, reads and verifies the bundle's data; package page puts that into a page that verifies itself. Pure: no files, no
// network, no clock, so that one code verifies in the command, in the browser and in tests.
package evidence

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	// MaxData is the most bytes of a bundle's data that are written and read.
	MaxData = 64 << 20
	// MaxEntries is the most entries in a bundle.
	MaxEntries = 100_000
	// MaxTimes is the most statements of outside parties about time in a bundle.
	MaxTimes = 64
	// maxStamp is the most bytes of one time stamp.
	maxStamp = 64 << 10
	// maxKeys is the most verifier keys that log.json lists.
	maxKeys = 3

	format = "immutable/bundle/1"
)

// Bundle is the data of a bundle, taken apart but not verified.
type Bundle struct {
	Statement  Statement
	Origin     string
	VKeys      []string // as log.json lists them
	Epochs     []byte   // the chain of keys up to the checkpoint's epoch, in the form of the file `epochs`
	Checkpoint []byte   // the note, verbatim
	Policy     []byte   // a tlog-policy that whoever made the bundle proposes; may be empty
	Times      []Time
	Proof      []proof.Hash // one for all entries, see Root
	Entries    []Entry      // by index, ascending
}

// Statement says what was asked for. From, To, Count, Levels, Since and Until are checked against the entries; the rest is
// the word of whoever made the bundle.
type Statement struct {
	Query   string   `json:"query"` // in the query language; "" selects everything
	Levels  []string `json:"levels"`
	Since   string   `json:"since"` // timestamp at or after, in the format's spelling, or ""
	Until   string   `json:"until"` // timestamp before, or ""
	From    uint64   `json:"from"`
	To      uint64   `json:"to"` // indexes below it
	Count   uint64   `json:"count"`
	Made    string   `json:"made"` // by the clock of whoever made it
	Program string   `json:"program"`
}

// filtered says whether the statement asks for less than all entries of its range.
func (s *Statement) filtered() bool {
	return s.Query != "" || len(s.Levels) > 0 || s.Since != "" || s.Until != ""
}

// Entry is one entry of a bundle.
type Entry struct {
	Index uint64
	Leaf  proof.Hash // so that a changed line is named, and not only noticed
	Line  []byte     // without its newline
}

// Time is a checkpoint of the log that an outside party has seen: by its cosignature, which the note carries, or by an
// RFC 3161 time stamp over its text.
type Time struct {
	Checkpoint  []byte
	Consistency []proof.Hash // between its size and that of the bundle's checkpoint
	Stamp       []byte       // TimeStampResp, DER; empty: the note's cosignatures speak
}

// Append writes the bundle in its one encoding: one line of JSON, without a newline and without any of < > &, so that no
// entry can end the element of a page that holds it. What Append cannot write so that Parse takes it is an error.
func (b *Bundle) Append(dst []byte) ([]byte, error) {
	start := len(dst)
	w := writer{buf: dst}
	w.raw(`{"format":`).str(format)
	s := &b.Statement
	w.raw(`,"statement":{"query":`).str(s.Query).raw(`,"levels":`).list(s.Levels)
	w.raw(`,"since":`).str(s.Since).raw(`,"until":`).str(s.Until)
	w.raw(`,"from":`).num(s.From).raw(`,"to":`).num(s.To).raw(`,"count":`).num(s.Count)
	w.raw(`,"made":`).str(s.Made).raw(`,"program":`).str(s.Program)
	w.raw(`},"log":{"origin":`).str(b.Origin).raw(`,"vkeys":`).list(b.VKeys)
	w.raw(`},"epochs":`).str(string(b.Epochs)).raw(`,"checkpoint":`).str(string(b.Checkpoint)).raw(`,"policy":`).str(string(b.Policy))
	w.raw(`,"times":[`)
	for i, t := range b.Times {
		w.comma(i).raw(`{"checkpoint":`).str(string(t.Checkpoint)).raw(`,"consistency":`).hashes(t.Consistency)
		w.raw(`,"stamp":`).str(base64.StdEncoding.EncodeToString(t.Stamp)).raw(`}`)
	}
	w.raw(`],"proof":`).hashes(b.Proof).raw(`,"entries":[`)
	for i, e := range b.Entries {
		w.comma(i).raw(`{"index":`).num(e.Index).raw(`,"leaf":"`).raw(e.Leaf.String()).raw(`","line":`).str(string(e.Line)).raw(`}`)
	}
	w.raw(`]}`)
	if w.err != nil {
		return dst, fmt.Errorf("encode bundle: %w", w.err)
	}
	if n := len(w.buf) - start; n > MaxData {
		return dst, fmt.Errorf("encode bundle: %d bytes, at most %d can be read; ask for less", n, MaxData)
	}
	return w.buf, nil
}

// Parse reads the data of a bundle in its one encoding and takes it apart. It checks the shape only: Verify does the rest.
func Parse(data []byte) (*Bundle, error) {
	if len(data) > MaxData {
		return nil, fmt.Errorf("parse bundle: %d bytes, at most %d are read", len(data), MaxData)
	}
	r := reader{src: data}
	b := r.bundle()
	if r.err == nil && r.at != len(data) {
		r.fail("bytes after the end")
	}
	if r.err == nil && len(b.Entries) == 0 {
		r.fail("a bundle holds at least one entry")
	}
	if r.err != nil {
		return nil, fmt.Errorf("parse bundle: %w", r.err)
	}
	// Whatever the reader was lenient about, such as the spelling of a string, shows here.
	again, err := b.Append(make([]byte, 0, len(data)))
	if err != nil {
		return nil, fmt.Errorf("parse bundle: %w", err)
	}
	if !bytes.Equal(again, data) {
		at := 0
		for at < min(len(again), len(data)) && again[at] == data[at] {
			at++
		}
		return nil, fmt.Errorf("parse bundle: byte %d: not in the one spelling of a bundle", at)
	}
	return b, nil
}

// bundle reads the members in their order.
func (r *reader) bundle() *Bundle {
	var b Bundle
	r.raw(`{"format":"` + format + `"`)
	s := &b.Statement
	r.raw(`,"statement":{"query":`)
	s.Query = r.str()
	r.raw(`,"levels":`)
	s.Levels = r.list(entry.NumLevels)
	r.raw(`,"since":`)
	s.Since = r.str()
	r.raw(`,"until":`)
	s.Until = r.str()
	r.raw(`,"from":`)
	s.From = r.num()
	r.raw(`,"to":`)
	s.To = r.num()
	r.raw(`,"count":`)
	s.Count = r.num()
	r.raw(`,"made":`)
	s.Made = r.str()
	r.raw(`,"program":`)
	s.Program = r.str()
	r.raw(`},"log":{"origin":`)
	b.Origin = r.str()
	r.raw(`,"vkeys":`)
	b.VKeys = r.list(maxKeys)
	r.raw(`},"epochs":`)
	b.Epochs = []byte(r.str())
	r.raw(`,"checkpoint":`)
	b.Checkpoint = []byte(r.str())
	r.raw(`,"policy":`)
	b.Policy = []byte(r.str())
	r.raw(`,"times":[`)
	r.each(MaxTimes, "times", func() { b.Times = append(b.Times, r.time()) })
	r.raw(`,"proof":`)
	b.Proof = r.hashes(MaxEntries * proof.MaxProofHashes)
	r.raw(`,"entries":[`)
	r.each(MaxEntries, "entries", func() { b.Entries = append(b.Entries, r.entry()) })
	r.raw(`}`)
	return &b
}

func (r *reader) time() Time {
	var t Time
	r.raw(`{"checkpoint":`)
	t.Checkpoint = []byte(r.str())
	r.raw(`,"consistency":`)
	t.Consistency = r.hashes(proof.MaxProofHashes + 1)
	r.raw(`,"stamp":`)
	s := r.str()
	r.raw(`}`)
	stamp, err := base64.StdEncoding.Strict().DecodeString(s)
	switch {
	case err != nil:
		r.fail("the time stamp is not base64")
	case len(stamp) > maxStamp:
		r.fail(fmt.Sprintf("a time stamp of %d bytes; at most %d are read", len(stamp), maxStamp))
	}
	t.Stamp = stamp
	return t
}

func (r *reader) entry() Entry {
	var e Entry
	r.raw(`{"index":`)
	e.Index = r.num()
	r.raw(`,"leaf":`)
	leaf, err := proof.ParseHex(r.str())
	if err != nil {
		r.fail("leaf: " + err.Error())
	}
	e.Leaf = leaf
	r.raw(`,"line":`)
	e.Line = []byte(r.str())
	r.raw(`}`)
	return e
}

// writer appends JSON; the first string that is not UTF-8 is its error.
type writer struct {
	buf []byte
	err error
}

func (w *writer) raw(s string) *writer {
	w.buf = append(w.buf, s...)
	return w
}

func (w *writer) num(n uint64) *writer {
	w.buf = strconv.AppendUint(w.buf, n, 10)
	return w
}

func (w *writer) comma(i int) *writer {
	if i > 0 {
		w.buf = append(w.buf, ',')
	}
	return w
}

// str is the format's spelling of a string with three more escapes: \u003c \u003e \u0026.
func (w *writer) str(s string) *writer {
	from := len(w.buf)
	out, err := entry.AppendString(w.buf, s)
	if err != nil && w.err == nil {
		w.err = err
	}
	w.buf = out
	special := 0
	for _, c := range out[from:] {
		if c == '<' || c == '>' || c == '&' {
			special++
		}
	}
	if special == 0 {
		return w
	}
	plain := bytes.Clone(out[from:])
	w.buf = out[:from]
	for _, c := range plain {
		switch c {
		case '<':
			w.buf = append(w.buf, `\u003c`...)
		case '>':
			w.buf = append(w.buf, `\u003e`...)
		case '&':
			w.buf = append(w.buf, `\u0026`...)
		default:
			w.buf = append(w.buf, c)
		}
	}
	return w
}

func (w *writer) list(list []string) *writer {
	w.raw("[")
	for i, s := range list {
		w.comma(i).str(s)
	}
	return w.raw("]")
}

func (w *writer) hashes(list []proof.Hash) *writer {
	w.raw("[")
	for i, h := range list {
		w.comma(i).raw(`"`).raw(h.Base64()).raw(`"`)
	}
	return w.raw("]")
}

// reader reads JSON whose members and order are known. After an error it reads nothing more.
type reader struct {
	src []byte
	at  int
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("byte %d: %s", r.at, what)
	}
}

func (r *reader) raw(want string) {
	if r.err != nil {
		return
	}
	if !bytes.HasPrefix(r.src[r.at:], []byte(want)) {
		r.fail(fmt.Sprintf("want %s", want))
		return
	}
	r.at += len(want)
}

// str reads a string. Its end is the first quote that no backslash takes.
func (r *reader) str() string {
	if r.err != nil {
		return ""
	}
	rest := r.src[r.at:]
	end := 1
	for end < len(rest) && rest[end] != '"' {
		if rest[end] == '\\' {
			end++
		}
		end++
	}
	if len(rest) == 0 || rest[0] != '"' || end >= len(rest) {
		r.fail("want a string")
		return ""
	}
	s, err := entry.Unquote(rest[:end+1])
	if err != nil {
		r.fail(err.Error())
		return ""
	}
	r.at += end + 1
	return s
}

func (r *reader) num() uint64 {
	if r.err != nil {
		return 0
	}
	end := r.at
	for end < len(r.src) && '0' <= r.src[end] && r.src[end] <= '9' {
		end++
	}
	n, err := strconv.ParseUint(string(r.src[r.at:end]), 10, 63)
	if err != nil {
		r.fail(fmt.Sprintf("want a number of at most %d", uint64(proof.MaxSize)))
		return 0
	}
	r.at = end
	return n
}

// each reads the elements of a list and the bracket that ends it.
func (r *reader) each(most int, what string, element func()) {
	for n := 0; r.err == nil; n++ {
		if r.at < len(r.src) && r.src[r.at] == ']' && n == 0 {
			r.at++
			return
		}
		if n == most {
			r.fail(fmt.Sprintf("more than %d %s", most, what))
			return
		}
		element()
		if r.err == nil && r.at < len(r.src) && r.src[r.at] == ']' {
			r.at++
			return
		}
		r.raw(",")
	}
}

func (r *reader) list(most int) []string {
	var out []string
	r.raw("[")
	r.each(most, "strings", func() { out = append(out, r.str()) })
	return out
}

func (r *reader) hashes(most int) []proof.Hash {
	var out []proof.Hash
	r.raw("[")
	r.each(most, "hashes", func() {
		h, err := proof.ParseHash(r.str())
		if err != nil {
			r.fail(err.Error())
		}
		out = append(out, h)
	})
	return out
}

// ErrNotBundle is in the chain of errors about files that hold no bundle at all.
var ErrNotBundle = errors.New("not an evidence bundle")

// Open is the line before the data in a page, and Close what follows the data. Part of the format; never change.
const (
	Open  = "<script type=\"application/json\" id=\"immutable-bundle\">\n"
	Close = "\n</script>\n"
)

// Extract finds the data in a file: the file is a page that holds the line Open exactly once, or it is the data itself, with
// or without a newline at its end. The data is file[from:to].
func Extract(file []byte) (from, to int, err error) {
	if bytes.HasPrefix(file, []byte(`{"format":"immutable/bundle/`)) {
		return 0, len(bytes.TrimSuffix(file, []byte("\n"))), nil
	}
	at := bytes.Index(file, []byte(Open))
	if at < 0 || at > 0 && file[at-1] != '\n' {
		return 0, 0, fmt.Errorf("%w: it has no line %q", ErrNotBundle, Open[:len(Open)-1])
	}
	from = at + len(Open)
	n := bytes.Index(file[from:], []byte(Close))
	if n < 0 || bytes.IndexByte(file[from:from+n], '\n') >= 0 {
		return 0, 0, errors.New("extract bundle: the line of data is not ended: the file was cut off or changed")
	}
	// A second element with data could be what a browser shows, while this one is what is verified.
	if bytes.Count(file, []byte(elementID)) != 1 {
		return 0, 0, errors.New("extract bundle: the page names its data twice; which one a browser would show cannot be told")
	}
	return from, from + n, nil
}

const elementID = `id="immutable-bundle"`
