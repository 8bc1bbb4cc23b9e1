package index

import (
	"bytes"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A Filter says of a word that no text of some entries has it, or that one may: of a word that none has, one time in some hundred.
// It is no part of any format.
type Filter []uint64

const (
	filterBlock = 8  // words of 64 bits: what one look touches
	filterBits  = 12 // of a word that is there
	filterLooks = 5
	maxFilter   = 1 << 14 // words of 64 bits
)

// May says whether a text may have the word with this hash, see WordToken.
func (f Filter) May(hash uint64) bool {
	at, h := f.block(hash)
	for range filterLooks {
		if f[at+int(h>>6&7)]>>(h&63)&1 == 0 {
			return false
		}
		h >>= 9
	}
	return true
}

func (f Filter) add(hash uint64) {
	at, h := f.block(hash)
	for range filterLooks {
		f[at+int(h>>6&7)] |= 1 << (h & 63)
		h >>= 9
	}
}

// block is where a hash's bits are, and which.
func (f Filter) block(hash uint64) (at int, h uint64) {
	h = (hash + 1) * 0x9e3779b97f4a7c15
	return int(hash%uint64(len(f)/filterBlock)) * filterBlock, h ^ h>>29
}

// A FilterMaker makes filters; its zero value is ready. It keeps buffers from one to the next.
type FilterMaker struct {
	set    tokenSet
	words  []word
	walker Walker
	line   entry.Line
}

// Filter is that of some entry lines that were proven. Lines that are none are an error.
func (m *FilterMaker) Filter(lines [][]byte) (Filter, error) {
	m.set.reset()
	for _, line := range lines {
		// Names of members and what stands beside message and metadata come in too, which costs nothing but room.
		m.add(line[min(len(line), entry.ContentAt):])
		if bytes.IndexByte(line, '\\') < 0 {
			continue
		}
		// The words of the line are not those of its texts.
		if err := entry.Decode(line, &m.line); err != nil {
			return nil, err
		}
		if text, ok := m.walker.Text(m.line.Message); ok {
			m.add(text)
		}
		m.walker.Walk(m.line.Metadata, func(_, text []byte, _ Kind) bool {
			m.add(text)
			return true
		})
	}
	if m.set.used >= groupTokens {
		return nil, nil
	}
	blocks := min(m.set.used*filterBits/64/filterBlock+1, maxFilter/filterBlock)
	f := make(Filter, blocks*filterBlock)
	for _, h := range m.set.table {
		if h != 0 {
			f.add(h - 1)
		}
	}
	return f, nil
}

func (m *FilterMaker) add(text []byte) {
	m.words = appendWords(m.words[:0], text)
	for i := range m.words {
		m.set.add(m.words[i].hash)
	}
}
