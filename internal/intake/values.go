package intake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// values reads JSON values one after the other, and the elements of arrays one by one, without looking inside them
// further than their brackets and strings.
type values struct {
	d      *Reader
	r      io.Reader
	buf    []byte // buf[p:] is read and not yet used
	p      int
	c      *Chunk
	number uint64 // of the next value
}

// errEnd ends the values: what is wrong stands in the last record.
var errEnd = errors.New("the values end")

func (d *Reader) readValues(r io.Reader) error {
	d.format = JSON
	v := &values{d: d, r: r, buf: make([]byte, 0, 64<<10), number: 1}
	v.c = d.chunk(v.number)
	err := v.run()
	if errors.Is(err, errStopped) {
		return err
	}
	if serr := v.flush(); serr != nil {
		return serr
	}
	if errors.Is(err, errEnd) {
		return nil
	}
	return ended(err)
}

func (v *values) run() error {
	if err := v.need(len(bom)); err == nil && bytes.HasPrefix(v.buf[v.p:], bom) {
		v.p += len(bom)
	}
	for {
		c, err := v.token()
		if err != nil {
			return err
		}
		switch c {
		case '[':
			v.p++
			err = v.array()
		case '{':
			var delivery bool
			if delivery, err = v.delivery(); err != nil {
				return err
			}
			if delivery {
				err = v.records()
			} else {
				err = v.value()
			}
		default:
			err = v.value()
		}
		if err != nil {
			return v.cut(err)
		}
	}
}

// cut says where the input ended too early.
func (v *values) cut(err error) error {
	if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return v.fail(errors.New("the input ends inside a JSON value: it was cut off"))
}

// fail ends the values with a record that says why.
func (v *values) fail(err error) error {
	if err := v.add(span{err: err}); err != nil {
		return err
	}
	return errEnd
}

// array sends the elements after the opening bracket.
func (v *values) array() error {
	c, err := v.token()
	if err != nil {
		return err
	}
	if c == ']' {
		v.p++
		return nil
	}
	for {
		if err := v.value(); err != nil {
			return err
		}
		c, err := v.token()
		if err != nil {
			return err
		}
		v.p++
		switch c {
		case ']':
			return nil
		case ',':
			if c, err = v.token(); err != nil {
				return err
			}
			if c != ']' && c != ',' {
				continue
			}
		}
		return v.fail(fmt.Errorf("between two values of an array: want one comma, not %q; nothing after it is read", c))
	}
}

// delivery reports whether a CloudTrail delivery begins here.
func (v *values) delivery() (bool, error) {
	for {
		ok, more := isDelivery(v.buf[v.p:])
		if ok || !more || len(v.buf)-v.p > 4096 {
			return ok, nil
		}
		if err := v.need(len(v.buf) - v.p + 1); err != nil {
			return false, v.cut(err)
		}
	}
}

// records sends the elements of {"Records":[…]}.
func (v *values) records() error {
	v.p += bytes.IndexByte(v.buf[v.p:], '[') + 1
	if err := v.flush(); err != nil {
		return err
	}
	v.c.trail = true
	if err := v.array(); err != nil {
		return err
	}
	c, err := v.token()
	if err != nil {
		return err
	}
	if c != '}' {
		return v.fail(errors.New("the document has more than the array Records: nothing after the array is read"))
	}
	v.p++
	if err := v.flush(); err != nil {
		return err
	}
	v.c.trail = false
	return nil
}

// value sends one value, whose first byte is v.buf[v.p].
func (v *values) value() error {
	from := len(v.c.buf)
	var depth int
	var quoted, escaped bool
	scalar := v.buf[v.p] != '{' && v.buf[v.p] != '[' && v.buf[v.p] != '"'
	long := false
	for {
		b := v.buf[v.p:]
		i, done := 0, false
		for ; i < len(b) && !done; i++ {
			c := b[i]
			switch {
			case quoted:
				switch {
				case escaped:
					escaped = false
				case c == '\\':
					escaped = true
				case c == '"':
					quoted, done = false, depth == 0
				}
			case c == '"':
				quoted = true
			case c == '{' || c == '[':
				depth++
			case c == '}' || c == ']' || c == ',' || c <= ' ':
				switch {
				case depth == 0:
					if i == 0 && len(v.c.buf) == from && !long {
						return v.fail(fmt.Errorf("want a JSON value, not %q; nothing after it is read", c))
					}
					done = true
					i--
				case c == '}' || c == ']':
					depth--
					done = depth == 0 && !scalar
				}
			}
		}
		if !long {
			v.c.buf = append(v.c.buf, b[:i]...)
		}
		v.p += i
		if len(v.c.buf)-from > maxRecord {
			long = true
			v.c.buf = v.c.buf[:from]
		}
		if done {
			break
		}
		if len(v.c.spans) > 0 {
			if err := v.part(from); err != nil {
				return err
			}
			from = 0
		}
		if err := v.need(1); err != nil {
			if scalar && errors.Is(err, io.EOF) {
				break
			}
			v.c.buf = v.c.buf[:from]
			return err
		}
	}
	if long {
		return v.add(span{err: tooLong("value")})
	}
	return v.add(span{from: from, to: len(v.c.buf)})
}

// part sends the complete values before the one that begins at from, so that they do not wait for its rest.
func (v *values) part(from int) error {
	next := v.d.chunk(v.number)
	next.buf = append(next.buf, v.c.buf[from:]...)
	next.trail = v.c.trail
	v.c.buf = v.c.buf[:from]
	err := v.d.send(v.c)
	v.c = next
	return err
}

func (v *values) add(s span) error {
	v.c.spans = append(v.c.spans, s)
	v.number++
	if len(v.c.buf) < chunkBytes && len(v.c.spans) < 4096 {
		return nil
	}
	return v.flush()
}

// flush sends what there is.
func (v *values) flush() error {
	if len(v.c.spans) == 0 {
		return nil
	}
	trail := v.c.trail
	if err := v.d.send(v.c); err != nil {
		return err
	}
	v.c = v.d.chunk(v.number)
	v.c.trail = trail
	return nil
}

// token passes over whitespace and returns the byte that follows, unread.
func (v *values) token() (byte, error) {
	for {
		for v.p < len(v.buf) {
			switch c := v.buf[v.p]; c {
			case ' ', '\t', '\r', '\n':
				v.p++
			default:
				return c, nil
			}
		}
		// Before it waits for more, what is complete goes on.
		if err := v.flush(); err != nil {
			return 0, err
		}
		if err := v.need(1); err != nil {
			return 0, err
		}
	}
}

// need reads until n bytes are there.
func (v *values) need(n int) error {
	if len(v.buf)-v.p >= n {
		return nil
	}
	if v.p > 0 {
		v.buf = append(v.buf[:0], v.buf[v.p:]...)
		v.p = 0
	}
	for len(v.buf) < n {
		k, err := v.r.Read(v.buf[len(v.buf):cap(v.buf)])
		v.buf = v.buf[:len(v.buf)+k]
		if err != nil && len(v.buf) < n {
			return err
		}
	}
	return nil
}
