package otlp

import (
	"encoding/binary"
	"fmt"
)

// The wire types of protobuf. Groups, which nothing has used for a decade, are refused.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// cursor reads the fields of one protobuf message, one after the other. Of the present field u is the number, or v the bytes, which
// refer to the message.
type cursor struct {
	b   []byte // what is left
	num uint32
	typ byte
	u   uint64
	v   []byte
	raw []byte // the whole field, tag included
	bad string // what is wrong; nothing is read any more
}

// next goes to the next field, and says whether there is one.
func (c *cursor) next() bool {
	if len(c.b) == 0 || c.bad != "" {
		return false
	}
	all := c.b
	var tag uint64
	if all[0] < 0x80 {
		tag, c.b = uint64(all[0]), all[1:]
	} else if tag = c.varint(); c.bad != "" {
		return false
	}
	c.num, c.typ, c.u, c.v = uint32(tag>>3), byte(tag&7), 0, nil
	if tag>>3 == 0 || tag>>3 >= 1<<29 {
		c.bad = fmt.Sprintf("no field has the number %d", tag>>3)
		return false
	}
	switch c.typ {
	case wireVarint:
		c.u = c.varint()
	case wireFixed64:
		if len(c.b) < 8 {
			c.bad = cutOff
			return false
		}
		c.u, c.b = binary.LittleEndian.Uint64(c.b), c.b[8:]
	case wireBytes:
		n := c.varint()
		if c.bad == "" && n > uint64(len(c.b)) {
			c.bad = cutOff
		}
		if c.bad == "" {
			c.v, c.b = c.b[:n:n], c.b[n:]
		}
	case wireFixed32:
		if len(c.b) < 4 {
			c.bad = cutOff
			return false
		}
		c.u, c.b = uint64(binary.LittleEndian.Uint32(c.b)), c.b[4:]
	default:
		c.bad = fmt.Sprintf("field %d has the wire type %d, which is not taken", c.num, c.typ)
	}
	c.raw = all[:len(all)-len(c.b)]
	return c.bad == ""
}

const cutOff = "the protobuf ends inside a field"

func (c *cursor) varint() uint64 {
	u, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad = "a number of protobuf ends too early, or is too large"
		return 0
	}
	c.b = c.b[n:]
	return u
}

// end is the error that the message ended with, or nil.
func (c *cursor) end(path string) error {
	if c.bad == "" {
		return nil
	}
	return malformed(path, "%s", c.bad)
}

// message is the field as a message or string.
func (c *cursor) message(path string) ([]byte, error) {
	if c.typ != wireBytes {
		return nil, c.wrong(path)
	}
	return c.v, nil
}

func (c *cursor) wrong(path string) error {
	return malformed(path, "field %d has the wire type %d, which is not its own", c.num, c.typ)
}

// seen are the numbers below 64 of the fields that a message had.
type seen uint64

// once checks the wire type of a field that stands once in its message. Protobuf would merge two, or take the last one: nothing that
// writes exports makes two, and of two readers one could see the other.
func (c *cursor) once(s *seen, wire byte, path string) error {
	if c.typ != wire {
		return c.wrong(path)
	}
	bit := seen(1) << (c.num & 63)
	if *s&bit != 0 {
		return malformed(path, "field %d stands twice", c.num)
	}
	*s |= bit
	return nil
}

// Writing protobuf.

func appendTag(dst []byte, num uint32, typ byte) []byte {
	return binary.AppendUvarint(dst, uint64(num)<<3|uint64(typ))
}

func appendBytes[T string | []byte](dst []byte, num uint32, v T) []byte {
	dst = binary.AppendUvarint(appendTag(dst, num, wireBytes), uint64(len(v)))
	return append(dst, v...)
}

func appendVarint(dst []byte, num uint32, v uint64) []byte {
	return binary.AppendUvarint(appendTag(dst, num, wireVarint), v)
}
