// Package intake reads foreign input into events: JSON Lines, JSON arrays and documents, CloudTrail deliveries, and raw
// text lines, each plain, gzipped or zstd-compressed.
//
// What goes in comes out: an object becomes an entry's metadata byte for byte (without the whitespace between its tokens), a
// text line its message. Input is streamed; memory does not grow with it. A record that cannot become an entry
// carries an error that says why; the records around it are not affected.
package intake

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Format is how the input is divided into records.
type Format string

// The formats.
const (
	Auto  Format = "auto"  // decided by the first bytes of each input
	Text  Format = "text"  // each line is a message
	Lines Format = "jsonl" // each line is a JSON object; empty lines count but are no records
	JSON  Format = "json"  // JSON values one after the other; of arrays, and of {"Records":[…]}, each element

	// Journal is entries of systemd's journal as journalctl -o export writes them. It is for Options.Bytes only, and never detected.
	Journal Format = "journald-export"
)

// ParseFormat reads a format's name.
func ParseFormat(name string) (Format, error) {
	switch f := Format(name); f {
	case Auto, Text, Lines, JSON:
		return f, nil
	}
	return "", fmt.Errorf("no format %q; formats are auto, text, jsonl and json", name)
}

// Options say how records become events. The zero value detects the format and makes events of level INFO.
type Options struct {
	Name   string // of the input; one that ends in .json makes Auto prefer JSON over Lines and Text
	Format Format
	Level  entry.Level // of records that name none
	// NamedLevel: a foreign object's member level counts where it is the name of one of our levels.
	NamedLevel bool

	// Fields of foreign objects; a name with dots that is no member itself leads into nested objects. When one of them is set,
	// no object is taken for an event of ours.
	LevelField, MessageField, TimeField string

	// Events reads what a peer sends rather than a file: JSON Lines that are events of ours and nothing else (ParseEvent), not
	// compressed, whatever the first bytes look like. When reading fails, what came of the last line is dropped: nobody can tell
	// whether it was all of it.
	Events bool

	// Bytes leaves it to the caller to make events: Record.Bytes has each line or value as it stands in the input, and Event nothing.
	Bytes bool

	Workers int // goroutines that parse; 0 is 2
	Ahead   int // chunks that are read or parsed ahead of the caller; 0 is 8
}

// Record is one line or JSON value of the input.
type Record struct {
	Number uint64 // from 1: of the line in Text and Lines, of the value in JSON
	Event  entry.Event
	Bytes  []byte // with Options.Bytes: the record
	Err    error  // why it is no event
	NoTime bool   // Options.TimeField is set and the record has no time there that can be read
}

// Limits.
const (
	maxRecord  = 1 << 20   // bytes of one record before its whitespace is removed; an entry takes at most 65,535
	chunkBytes = 256 << 10 // that are read before they are parsed, or one record
	chunkQueue = 8         // chunks that are read or parsed ahead of the caller, if nobody says otherwise
	sniffBytes = 64 << 10  // of the first line that are looked at for the format
	maxWindow  = 64 << 20  // zstd window: its decoder's memory
)

// Chunk is a run of records. They refer to the chunk's memory until Release.
type Chunk struct {
	Records []Record

	buf   []byte
	spans []span // of values; nil where buf holds lines
	first uint64 // number of the first line or value
	trail bool   // values of a CloudTrail delivery
	text  bool   // lines are messages, not objects
	done  chan struct{}
	pool  *sync.Pool
}

// span is one value in a chunk's buffer, or the error that stands for it.
type span struct {
	from, to int
	err      error
}

// Release gives the memory back. The records must not be used after it.
func (c *Chunk) Release() {
	clear(c.Records) // let go of the strings
	c.Records, c.spans, c.trail = c.Records[:0], c.spans[:0], false
	if cap(c.buf) > 2*chunkBytes {
		c.buf = nil
	}
	c.buf = c.buf[:0]
	c.pool.Put(c)
}

// Reader divides an input into records. One goroutine reads ahead, others parse; records come in the order of the input.
type Reader struct {
	o      Options
	chunks chan *Chunk // in order; closed at the end of the input
	work   chan *Chunk
	quit   chan struct{}
	stop   sync.Once
	pool   sync.Pool
	err    error // of reading; set before chunks is closed
	format Format
}

// NewReader begins to read r.
func NewReader(r io.Reader, o Options) *Reader {
	if o.Workers <= 0 {
		o.Workers = 2
	}
	if o.Format == "" {
		o.Format = Auto
	}
	if o.Ahead <= 0 {
		o.Ahead = chunkQueue
	}
	d := &Reader{o: o, chunks: make(chan *Chunk, o.Ahead), work: make(chan *Chunk, o.Ahead), quit: make(chan struct{})}
	d.pool.New = func() any { return &Chunk{pool: &d.pool, buf: make([]byte, 0, chunkBytes)} }
	for range o.Workers {
		go d.parse()
	}
	go func() {
		d.err = d.read(r)
		close(d.work)
		close(d.chunks)
	}()
	return d
}

// Next returns the next records, waiting for input. At the end of the input its error is io.EOF; any other error says
// that reading failed, and what was returned before stands.
func (d *Reader) Next() (*Chunk, error) {
	c, ok := <-d.chunks
	if !ok {
		if d.err != nil {
			return nil, d.err
		}
		return nil, io.EOF
	}
	<-c.done
	return c, nil
}

// Poll returns further records that are there already, or nil.
func (d *Reader) Poll() *Chunk {
	select {
	case c, ok := <-d.chunks:
		if ok {
			<-c.done
			return c
		}
	default:
	}
	return nil
}

// Chunks lets a caller wait for input beside other things. A chunk that was received here is handed to Ready before use;
// when the channel is closed, Next says why.
func (d *Reader) Chunks() <-chan *Chunk { return d.chunks }

// Ready waits until the chunk is parsed.
func (c *Chunk) Ready() { <-c.done }

// Format is the format of the input. It is known once there was a chunk.
func (d *Reader) Format() Format { return d.format }

// Close ends the reading. A read that is waiting for its input ends with that input.
func (d *Reader) Close() { d.stop.Do(func() { close(d.quit) }) }

func (d *Reader) chunk(first uint64) *Chunk {
	c := d.pool.Get().(*Chunk)
	c.first, c.text, c.done = first, d.format == Text, make(chan struct{})
	return c
}

var errStopped = errors.New("reading was stopped")

// send hands a chunk on to the parsers and, in order, to the caller.
func (d *Reader) send(c *Chunk) error {
	select {
	case d.work <- c:
	case <-d.quit:
		return errStopped
	}
	select {
	case d.chunks <- c:
		return nil
	case <-d.quit:
		return errStopped
	}
}

func (d *Reader) parse() {
	p := &parser{o: &d.o}
	for c := range d.work {
		p.chunk(c)
		close(c.done)
	}
}

func (d *Reader) read(r io.Reader) error {
	if d.o.Events {
		return d.readLines(r, Lines)
	}
	in, closer, err := decompress(r)
	if err != nil {
		return err
	}
	defer closer()
	head, format, err := d.detect(in)
	if err != nil {
		return err
	}
	in = io.MultiReader(bytes.NewReader(head), in)
	switch format {
	case JSON:
		return d.readValues(in)
	case Journal:
		return d.readJournal(in)
	}
	return d.readLines(in, format)
}

// decompress looks at the first bytes, whatever the input is called.
func decompress(r io.Reader) (io.Reader, func(), error) {
	const gzipMagic, zstdMagic = "\x1f\x8b", "\x28\xb5\x2f\xfd"
	var head []byte
	for one := make([]byte, 1); len(head) < len(zstdMagic); {
		n, err := r.Read(one)
		head = append(head, one[:n]...)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, fmt.Errorf("read input: %w", err)
		}
		s := string(head)
		if err != nil || !strings.HasPrefix(gzipMagic, s) && !strings.HasPrefix(zstdMagic, s) {
			break
		}
	}
	in := io.MultiReader(bytes.NewReader(head), r)
	switch {
	case strings.HasPrefix(string(head), gzipMagic):
		z, err := gzip.NewReader(bufio.NewReader(in))
		if err != nil {
			return nil, nil, fmt.Errorf("read gzip input: %w", err)
		}
		return named{z, "gzip"}, func() { _ = z.Close() }, nil
	case string(head) == zstdMagic:
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("read zstd input: %w", err)
		}
		return named{z, "zstd"}, z.Close, nil
	}
	return in, func() {}, nil
}

// named says in errors what was being unpacked.
type named struct {
	io.Reader
	what string
}

func (n named) Read(p []byte) (int, error) {
	k, err := n.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("unpack %s input: %w", n.what, err)
	}
	return k, err
}

// detect reads as much as the format needs to be known. A line that arrives alone decides at once.
func (d *Reader) detect(r io.Reader) (head []byte, f Format, err error) {
	if d.o.Format != Auto {
		return nil, d.o.Format, nil
	}
	isJSON := strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(d.o.Name, ".gz"), ".zst"), ".json")
	for buf := make([]byte, 4096); ; {
		n, err := r.Read(buf)
		head = append(head, buf[:n]...)
		if err != nil && !errors.Is(err, io.EOF) {
			return head, "", err
		}
		last := err != nil || len(head) >= sniffBytes
		if f, ok := sniff(head, last, isJSON); ok {
			return head, f, nil
		}
	}
}

// sniff decides by the first bytes. With last it always does.
func sniff(head []byte, last, isJSON bool) (f Format, decided bool) {
	s := bytes.TrimLeft(bytes.TrimPrefix(head, bom), " \t\r\n")
	if len(s) == 0 || len(head) < len(bom) && bytes.HasPrefix(bom, head) {
		return Text, last
	}
	switch s[0] {
	case '[':
		next := bytes.TrimLeft(s[1:], " \t\r\n")
		if len(next) == 0 {
			if isJSON {
				return JSON, last
			}
			return Text, last
		}
		if next[0] == '{' || isJSON {
			return JSON, true
		}
		// An empty array, unless something else stands on its line.
		rest, _, whole := bytes.Cut(next, newline)
		if next[0] == ']' && len(bytes.TrimSpace(rest[1:])) == 0 {
			return JSON, whole || last
		}
		return Text, true
	case '{':
		if ok, more := isDelivery(s); ok {
			return JSON, true
		} else if more && !last {
			return "", false
		}
		line, _, whole := bytes.Cut(s, []byte("\n"))
		if !whole && !last {
			return "", false
		}
		line = bytes.TrimRight(line, " \t\r")
		if end, ok := skipValue(line, 0); ok && end == len(line) {
			return Lines, true
		}
		if open := line[len(line)-1]; isJSON || !whole || open == '{' || open == '[' || open == ',' {
			return JSON, true
		}
		return Lines, true
	}
	return Text, true
}

var bom = []byte("\xef\xbb\xbf")

// isDelivery reports whether s begins a CloudTrail delivery, {"Records":[, or could with more bytes.
func isDelivery(s []byte) (ok, more bool) {
	for _, token := range []string{"{", `"Records"`, ":", "["} {
		s = bytes.TrimLeft(s, " \t\r\n")
		if len(s) < len(token) && strings.HasPrefix(token, string(s)) {
			return false, true
		}
		if !bytes.HasPrefix(s, []byte(token)) {
			return false, false
		}
		s = s[len(token):]
	}
	return true, false
}
