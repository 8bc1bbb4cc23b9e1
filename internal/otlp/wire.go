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
	b       []byte // the message
	from, p int    // where the present field begins and ends
	num     uint32
	typ     byte
	u       uint64
	v       []byte
	bad     string // what is wrong; nothing is read any more
}

// next goes to the next field, and says whether there is one.
func (c *cursor) next() bool {
	if c.p >= len(c.b) || c.bad != "" {
		return false
	}
	c.from = c.p
	tag := c.varint()
	c.num, c.typ, c.u = uint32(tag>>3), byte(tag&7), 0
	if c.v != nil {
		c.v = nil
	}
	if c.bad == "" && (tag>>3 == 0 || tag>>3 >= 1<<29) {
		c.bad = fmt.Sprintf("no field has the number %d", tag>>3)
	}
	if c.bad != "" {
		return false
	}
	switch c.typ {
	case wireVarint:
		c.u = c.varint()
	case wireBytes:
		n := c.varint()
		if c.bad == "" && n > uint64(len(c.b)-c.p) {
			c.bad = cutOff
		}
		if c.bad == "" {
			end := c.p + int(n)
			c.v = c.b[c.p:end:end]
			c.p = end
		}
	case wireFixed64:
		if len(c.b)-c.p < 8 {
			c.bad = cutOff
			return false
		}
		c.u = binary.LittleEndian.Uint64(c.b[c.p:])
		c.p += 8
	case wireFixed32:
		if len(c.b)-c.p < 4 {
			c.bad = cutOff
			return false
		}
		c.u = uint64(binary.LittleEndian.Uint32(c.b[c.p:]))
		c.p += 4
	default:
		c.bad = fmt.Sprintf("field %d has the wire type %d, which is not taken", c.num, c.typ)
	}
	return c.bad == ""
}

// raw is the whole field, tag included.
func (c *cursor) raw() []byte { return c.b[c.from:c.p] }

const cutOff = "the protobuf ends inside a field"

func (c *cursor) varint() uint64 {
	if c.p < len(c.b) && c.b[c.p] < 0x80 {
		c.p++
		return uint64(c.b[c.p-1])
	}
	u, n := binary.Uvarint(c.b[c.p:])
	if n <= 0 {
		c.bad = "a number of protobuf ends too early, or is too large"
		return 0
	}
	c.p += n
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
