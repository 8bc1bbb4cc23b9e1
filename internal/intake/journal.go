package intake

import (
	"bytes"
	"io"

	"github.com/tree-of-life-system/immutable/internal/journal"
)

// readJournal sends each entry of a journal on as soon as it is whole, as its bytes. What is no entry goes the same way: whoever
// makes events says what is wrong with it.
func (d *Reader) readJournal(r io.Reader) error {
	d.format = Journal
	number := uint64(1)
	buf := make([]byte, 0, chunkBytes)
	for last := false; !last || len(buf) > 0; {
		if !last {
			if len(buf) == cap(buf) {
				buf = append(make([]byte, 0, 2*cap(buf)), buf...)
			}
			n, err := r.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			if err != nil {
				if last = true; ended(err) != nil {
					return ended(err) // what came of the last entry may not be all of it
				}
			}
		}
		c, used := d.chunk(number), 0
		for {
			n := journal.Next(buf[used:], last)
			if n == 0 {
				break
			}
			if entry := buf[used : used+n]; len(bytes.Trim(entry, "\n")) > 0 { // not only the empty lines between entries
				c.spans = append(c.spans, span{from: len(c.buf), to: len(c.buf) + n})
				c.buf = append(c.buf, entry...)
				number++
			}
			used += n
		}
		buf = buf[:copy(buf, buf[used:])]
		if len(c.spans) == 0 {
			c.Release()
			continue
		}
		if err := d.send(c); err != nil {
			return err
		}
	}
	return nil
}
