package syslog

import (
	"bytes"
	"errors"
	"fmt"
)

// Frame is one message of a stream.
type Frame struct {
	Raw []byte // without count or line end
	Err error  // why the frame itself is wrong: then Raw is no whole message
}

// Splitter cuts a stream into frames of RFC 6587: octet counting ("11 <13>message", also RFC 5425) and lines that end with LF, told apart
// at each frame by its first byte as section 3.4.1 has it: a digit other than 0 begins a count, anything else a line. A frame
// that is longer than Most bytes comes in pieces of at most that many, so that nothing of it is lost and memory stays bounded.
type Splitter struct {
	Most int // bytes of a message; 0 is DefaultMost

	left    int  // octets of a counted frame that are still to come
	midLine bool // a piece of a line was taken, its end was not yet
}

// DefaultMost is how long a message may be, in bytes. RFC 5425 asks for 8,192.
const DefaultMost = 64 << 10

func (s *Splitter) most() int {
	if s.Most <= 0 {
		return DefaultMost
	}
	return s.Most
}

// Next cuts the first frame off b. n is how many bytes that takes; 0 where more bytes are needed, which are never more than
// Most + 16 in all.
func (s *Splitter) Next(b []byte) (f Frame, n int) {
	switch {
	case len(b) == 0:
		return f, 0
	case s.left > 0:
		return s.piece(b, 0)
	case s.midLine || b[0] < '1' || b[0] > '9':
		return s.line(b)
	}
	return s.counted(b)
}

// maxCount is how many digits the count of a frame can have.
const maxCount = 8

func (s *Splitter) counted(b []byte) (f Frame, n int) {
	k, size := 0, 0
	for k < len(b) && k <= maxCount && b[k] >= '0' && b[k] <= '9' {
		size = 10*size + int(b[k]-'0')
		k++
	}
	if k == len(b) && k <= maxCount {
		return f, 0
	}
	if k > maxCount || b[k] != ' ' {
		// No count after all. As a line it is kept at least, and the line's end is a place to go on from.
		if f, n = s.line(b); n > 0 && f.Err == nil {
			f.Err = errors.New("the frame begins with a digit and has no count of octets followed by a space")
		}
		return f, n
	}
	if k++; size <= s.most() {
		if len(b) < k+size {
			return f, 0
		}
		return Frame{Raw: b[k : k+size]}, k + size
	}
	if len(b) < k+s.most() {
		return f, 0
	}
	s.left = size
	return s.piece(b, k)
}

// piece takes a part of a counted frame that is too long, from b[k:].
func (s *Splitter) piece(b []byte, k int) (f Frame, n int) {
	n = min(s.left, s.most())
	if len(b) < k+n {
		return f, 0
	}
	s.left -= n
	return Frame{Raw: b[k : k+n], Err: s.tooLong()}, k + n
}

func (s *Splitter) line(b []byte) (f Frame, n int) {
	end := bytes.IndexByte(b[:min(len(b), s.most()+1)], '\n')
	switch {
	case end < 0 && len(b) > s.most():
		s.midLine = true
		return Frame{Raw: b[:s.most()], Err: s.tooLong()}, s.most()
	case end < 0:
		return f, 0
	}
	f.Raw = bytes.TrimSuffix(b[:end], []byte("\r"))
	if s.midLine {
		s.midLine = false
		f.Err = s.tooLong()
	}
	return f, end + 1
}

func (s *Splitter) tooLong() error {
	return fmt.Errorf("the message is longer than %d bytes: this is a piece of it", s.most())
}

// Last takes what is left when the stream has ended: a line without its end is whole, as some programs leave it; a counted
// frame is cut.
func (s *Splitter) Last(b []byte) (f Frame, ok bool) {
	switch {
	case len(b) == 0:
		return f, false
	case s.left > 0 || !s.midLine && b[0] >= '1' && b[0] <= '9':
		return Frame{Raw: b, Err: errors.New("the connection ended within the message")}, true
	case s.midLine:
		return Frame{Raw: b, Err: s.tooLong()}, true
	}
	return Frame{Raw: bytes.TrimSuffix(b, []byte("\r"))}, true
}

// LineSplitter cuts a stream into lines that end with LF, and nothing else, with the same limit.
type LineSplitter struct{ s Splitter }

// Next cuts the first line off b; with last, what is left is a line too. n is how many bytes that takes; 0 where more are needed.
func (l *LineSplitter) Next(b []byte, last bool) (f Frame, n int) {
	if f, n = l.s.line(b); n > 0 || !last || len(b) == 0 {
		return f, n
	}
	f.Raw = b
	if l.s.midLine {
		f.Err = l.s.tooLong()
	}
	return f, len(b)
}
