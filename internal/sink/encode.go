package sink

import (
	"bytes"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
)

// event is one entry on its way.
type event struct {
	entry *immutable.Entry
	data  []byte // the entry in the sink's format, one line without its end
}

// batch is what is sent at once.
type batch struct {
	origin string
	size   uint64 // of the newest checkpoint
	events []event
	next   uint64 // entries below it are in this batch or before it, or are not selected
	again  bool   // dead letters that are tried again, out of order
}

func (b *batch) first() uint64 { return b.events[0].entry.Index }
func (b *batch) last() *event  { return &b.events[len(b.events)-1] }

// part is the batch with some of its events.
func (b *batch) part(from, to int) *batch {
	p := *b
	p.events = b.events[from:to]
	if to < len(b.events) {
		p.next = b.events[to-1].entry.Index + 1
	}
	return &p
}

// encode writes an entry in a format.
func encode(f Format, origin string, size uint64, e *immutable.Entry) ([]byte, error) {
	line, err := export.Append(nil, string(f), origin, size, e)
	return bytes.TrimSuffix(line, []byte("\n")), err
}
