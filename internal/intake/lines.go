package intake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// readLines sends whole lines on as soon as they are there: a line that arrives alone does not wait for others.
func (d *Reader) readLines(r io.Reader, format Format) error {
	d.format = format
	number := uint64(1)
	c := d.chunk(number)
	for {
		if len(c.buf) == cap(c.buf) {
			if len(c.buf) >= maxRecord {
				var err error
				if c, number, err = d.skipLine(r, c, number); err != nil {
					return ended(err)
				}
				continue
			}
			c.buf = append(make([]byte, 0, min(2*cap(c.buf), maxRecord)), c.buf...)
		}
		before := len(c.buf)
		n, err := r.Read(c.buf[before:cap(c.buf)])
		c.buf = c.buf[:before+n]
		if err != nil {
			if len(c.buf) > 0 && (!d.o.Events || ended(err) == nil) {
				if serr := d.send(c); serr != nil {
					return serr
				}
			}
			return ended(err)
		}
		last := bytes.LastIndexByte(c.buf[before:], '\n')
		if last < 0 {
			continue
		}
		end := before + last + 1
		number += uint64(bytes.Count(c.buf[:end], newline))
		next := d.chunk(number)
		next.buf = append(next.buf, c.buf[end:]...)
		c.buf = c.buf[:end]
		if err := d.send(c); err != nil {
			return err
		}
		c = next
	}
}

var newline = []byte("\n")

// skipLine passes over a line that is longer than any record may be; an error stands in its place.
func (d *Reader) skipLine(r io.Reader, c *Chunk, number uint64) (*Chunk, uint64, error) {
	c.spans = append(c.spans, span{err: tooLong("line")})
	c.buf = c.buf[:0]
	scratch := make([]byte, chunkBytes)
	for {
		n, err := r.Read(scratch)
		end := bytes.IndexByte(scratch[:n], '\n')
		if end < 0 && err == nil {
			continue
		}
		if serr := d.send(c); serr != nil {
			return nil, number, serr
		}
		number++
		next := d.chunk(number)
		if end >= 0 {
			rest := scratch[end+1 : n]
			// Whole lines of the rest go on at once; readLines looks for newlines in what it reads only.
			if last := bytes.LastIndexByte(rest, '\n'); last >= 0 {
				next.buf = append(next.buf, rest[:last+1]...)
				number += uint64(bytes.Count(next.buf, newline))
				if serr := d.send(next); serr != nil {
					return nil, number, serr
				}
				next, rest = d.chunk(number), rest[last+1:]
			}
			next.buf = append(next.buf, rest...)
		}
		return next, number, err
	}
}

func tooLong(what string) error {
	return fmt.Errorf("the %s is longer than %d bytes; an entry takes at most 65,535: split it", what, maxRecord)
}

// ended makes the end of the input no error.
func ended(err error) error {
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("read input: %w", err)
}
