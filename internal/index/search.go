package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A Search reads the search index of a sealed segment. Every page that it uses is held against the seal's digests first. Its
// methods may be called from several goroutines.
//
// It answers about the groups 0 … Covered-1 of the segment. What it says of groups that are not covered, or loose, is nothing:
// anything may be in them.
type Search struct {
	First   uint64 // the segment's first entry
	Groups  uint32 // of the segment
	Covered uint32
	Dotted  bool // some member's name is empty or has a dot in it: paths do not tell where objects nest

	loose bool // there are loose groups

	r     io.ReaderAt
	size  int64 // of the pages
	table []byte

	headLen, streamLen, hashedLen int64
	keys                          uint32

	once sync.Once // guards dict and err
	dict *Dictionary
	err  error

	codes sync.Mutex // guards dict.decoders

	pagesMu sync.Mutex       // guards pages
	pages   map[int64][]byte // the latest that were read for Find, by number

	startsOnce sync.Once // guards the next two
	starts     []uint32
	startsErr  error
}

// A Dictionary is what entries of a segment have in common.
type Dictionary struct {
	Times   [][2]int64 // lowest and highest timestamp of each covered group, Unix nanoseconds
	Loose   Set        // groups whose tokens are not all known
	Paths   []Path
	KeySets [][]uint16 // of paths; the first is empty and stands for sets that are not known
	Shapes  []Shape

	columns  []int // paths that are columns
	decoders []decoder

	once sync.Once // of Prepare
}

// A Shape is a level, a message with some words left out, and the paths that an entry has.
type Shape struct {
	Level   entry.Level
	Known   bool     // Message is known
	Message []string // the texts between the words that are left out
	Keys    uint16   // in KeySets; 0: any paths
	Count   uint32   // entries

	// Made by Prepare.
	Folded []string // Message, folded
	Words  []Word   // its words
}

// A Word of a message is folded, or left out.
type Word struct {
	Text string
	Cut  bool
}

// A Path is a place in entries. The values of a column are known for each entry, those of others only by what is said of all.
type Path struct {
	Kind   byte
	Name   string
	Column int // its number plus one; 0 for those that are none
	Tuples []Tuple

	// Of a path that is no column:
	Wide    bool      // some text has characters beyond ASCII
	Nulls   bool      // some value is null
	Chars   [2]uint64 // ASCII characters of all texts
	Longest int       // bytes of a text
}

// A Tuple is what entries have at a path.
type Tuple struct {
	Values []Value
	Count  uint32 // entries
}

// A Value is a scalar, or an empty container.
type Value struct {
	Text   string
	Folded string // made by Prepare
	Kind   Kind
}

// Kinds of paths.
const (
	MetadataPath    = inMetadata
	HostnamePath    = hostname
	PIDPath         = processID
	TracePath       = traceID
	SpanPath        = spanID
	EventPath       = eventTime // this and the next have no values
	IdempotencyPath = idempotency
	ProducerPath    = producer
	ControlPath     = control
)

// IsScalar says whether the kind has a text.
func (k Kind) IsScalar() bool { return k < Null }

// OpenSearch reads the beginning of a search index that is size bytes long and whose table of page digests has SHA-256 table.
func OpenSearch(r io.ReaderAt, size int64, table [sha256.Size]byte) (*Search, error) {
	const perPage = pageSize + sha256.Size
	pages := (size + perPage - 1) / perPage
	s := &Search{r: r, size: size - pages*sha256.Size}
	if s.size < int64(searchFixed) || (s.size+pageSize-1)/pageSize != pages || pages > math.MaxInt32/sha256.Size {
		return nil, fmt.Errorf("search index: no file has %d bytes", size)
	}
	s.table = make([]byte, pages*sha256.Size)
	if err := readAt(r, s.table, s.size); err != nil {
		return nil, err
	}
	if sha256.Sum256(s.table) != table {
		return nil, errors.New("search index: its table of page digests is not the one in the seal")
	}
	fixed, err := s.read(nil, 0, int64(searchFixed))
	if err != nil {
		return nil, err
	}
	if string(fixed[:len(searchMagic)]) != searchMagic {
		return nil, fmt.Errorf("search index: byte 0: got %q, want %q", fixed[:len(searchMagic)], searchMagic)
	}
	le, n := binary.LittleEndian, fixed[len(searchMagic):]
	s.First, s.Groups, s.Covered = le.Uint64(n), le.Uint32(n[8:]), le.Uint32(n[12:])
	flags := le.Uint32(n[16:])
	s.loose, s.Dotted = flags&hasLoose != 0, flags&hasDotted != 0
	s.headLen, s.streamLen = int64(le.Uint32(n[20:])), int64(le.Uint32(n[24:]))
	s.keys, s.hashedLen = le.Uint32(n[28:]), int64(le.Uint32(n[32:]))
	switch {
	case s.Groups == 0 || s.Groups > maxGroups || s.Covered != min(s.Groups, coveredGroups):
		return nil, fmt.Errorf("search index: %d groups, %d of them covered", s.Groups, s.Covered)
	case flags > hasLoose|hasDotted:
		return nil, fmt.Errorf("search index: flags %#x", flags)
	case int64(searchFixed)+s.headLen+s.streamLen+s.hashedLen != s.size:
		return nil, errors.New("search index: its parts are not as long as the file")
	case 4*(int64(buckets(s.keys))+1) > s.hashedLen:
		return nil, errors.New("search index: too short for its directory")
	}
	return s, nil
}

func readAt(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("search index: read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// read returns n bytes at off, of pages that were checked. It uses buf's memory where that is large enough.
func (s *Search) read(buf []byte, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off+n > s.size {
		return nil, fmt.Errorf("search index: %d bytes at %d of %d", n, off, s.size)
	}
	from := off / pageSize * pageSize
	to := min((off+n+pageSize-1)/pageSize*pageSize, s.size)
	if int64(cap(buf)) < to-from {
		buf = make([]byte, to-from)
	}
	buf = buf[:to-from]
	if err := readAt(s.r, buf, from); err != nil {
		return nil, err
	}
	for at := from; at < to; at += pageSize {
		page := buf[at-from : min(at-from+pageSize, to-from)]
		if sum := sha256.Sum256(page); !bytes.Equal(sum[:], s.table[at/pageSize*sha256.Size:][:sha256.Size]) {
			return nil, fmt.Errorf("search index: the page at byte %d is not the one that was sealed", at)
		}
	}
	return buf[off-from : off-from+n], nil
}

// keptPages is how many pages are kept in memory, so that queries for the same words need not read them again.
const keptPages = 32

// few returns n bytes at off, of few pages.
func (s *Search) few(off, n int64) (out []byte, err error) {
	if off < 0 || n < 0 || off+n > s.size {
		return nil, fmt.Errorf("search index: %d bytes at %d of %d", n, off, s.size)
	}
	for at := off / pageSize; at*pageSize < off+n; at++ {
		page, err := s.page(at)
		if err != nil {
			return nil, err
		}
		part := page[max(off-at*pageSize, 0):min(off+n-at*pageSize, int64(len(page)))]
		if int64(len(part)) == n {
			return part, nil
		}
		out = append(out, part...)
	}
	return out, nil
}

func (s *Search) page(number int64) ([]byte, error) {
	s.pagesMu.Lock()
	page := s.pages[number]
	s.pagesMu.Unlock()
	if page != nil {
		return page, nil
	}
	page, err := s.read(nil, number*pageSize, min(pageSize, s.size-number*pageSize))
	if err != nil {
		return nil, err
	}
	s.pagesMu.Lock()
	defer s.pagesMu.Unlock()
	if s.pages == nil || len(s.pages) >= keptPages {
		s.pages = make(map[int64][]byte, keptPages)
	}
	s.pages[number] = page
	return page, nil
}

// Find returns the groups that may have a token elsewhere than in the dictionary, loose ones among them. in says whether the dictionary may have it.
func (s *Search) Find(hash uint64) (groups Set, in bool, err error) {
	n := buckets(s.keys)
	b, _ := position(hash, n)
	at := int64(searchFixed) + s.headLen + s.streamLen
	two, err := s.few(at+4*int64(b), 8)
	if err != nil {
		return nil, false, err
	}
	data := 4 * (int64(n) + 1)
	from, to, err := bucketRange(two, s.hashedLen-data)
	if err != nil {
		return nil, false, fmt.Errorf("search index: %w", err)
	}
	bucket, err := s.few(at+data+from, to-from)
	if err != nil {
		return nil, false, err
	}
	groups = NewSet(s.Covered + 1)
	if err := findHashed(bucket, hash, n, s.Covered+1, groups); err != nil {
		return nil, false, fmt.Errorf("search index: bucket %d: %w", b, err)
	}
	in = groups.Has(s.Covered)
	groups[s.Covered/64] &^= 1 << (s.Covered % 64)
	if s.loose {
		d, err := s.Dictionary()
		if err != nil {
			return nil, false, err
		}
		for g := range d.Loose.All() {
			groups.Add(g)
		}
	}
	return groups, in, nil
}

// Dictionary reads the dictionary, once.
func (s *Search) Dictionary() (*Dictionary, error) {
	s.once.Do(func() {
		var head []byte
		if head, s.err = s.read(nil, int64(searchFixed), s.headLen); s.err == nil {
			s.dict, s.err = parseDictionary(head, s.Covered)
		}
	})
	return s.dict, s.err
}

// Prepare makes what conditions on texts are asked of, once.
func (d *Dictionary) Prepare() {
	d.once.Do(func() {
		for i := range d.Shapes {
			d.Shapes[i].prepare()
		}
		for _, path := range d.columns {
			for _, t := range d.Paths[path].Tuples {
				for i := range t.Values {
					t.Values[i].Folded = foldShared(t.Values[i].Text)
				}
			}
		}
	})
}

func (s *Shape) prepare() {
	s.Folded = make([]string, len(s.Message))
	for i, part := range s.Message {
		if i > 0 {
			s.Words = append(s.Words, Word{Cut: true})
		}
		text := foldShared(part)
		s.Folded[i] = text
		for at := 0; at < len(text); {
			r, n := utf8.DecodeRuneInString(text[at:])
			from := at
			for IsWord(r) {
				at += n
				r, n = utf8.DecodeRuneInString(text[at:])
			}
			if at > from {
				s.Words = append(s.Words, Word{Text: text[from:at]})
			}
			at += n
		}
	}
}

// foldShared is Fold, without memory of its own where nothing changes.
func foldShared(text string) string {
	for i := range len(text) {
		if c := text[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return Fold(text)
		}
	}
	return text
}

// UnknownMessage is the token of groups with an entry of which the shape does not tell the message.
func UnknownMessage() uint64 { return hashFolded(unknownToken, "m") }

// UnknownPaths is the token of groups with an entry of which the shape does not tell the paths.
func UnknownPaths() uint64 { return hashFolded(unknownToken, "k") }

// WordToken is the hash of a word that is folded.
func WordToken(folded string) uint64 { return hashFolded(wordToken, folded) }

// PhraseTokens are the hashes of what any text has that has these folded words one after the other: first each word's, then
// others.
func PhraseTokens(words []string) []uint64 {
	var hashes, others []uint64
	var text []byte
	for _, w := range words {
		hashes = append(hashes, WordToken(w))
		text = append(append(text, w...), ' ')
	}
	split := appendWords(nil, text)
	for i := range split {
		if h, ok := quad(text, split[i:]); ok {
			others = append(others, h)
		}
	}
	return append(hashes, others...)
}

// ValueTokens are the hashes of what a metadata value has whose folded text is this.
func ValueTokens(folded string) []uint64 {
	var hashes []uint64
	tokens(nil, []byte(folded), true, func(h uint64) { hashes = append(hashes, h) })
	return hashes
}

// MemberToken is the hash of the whole value of a path that is not in metadata.
func MemberToken(kind byte, folded string) (hash uint64, ok bool) {
	switch kind {
	case hostname:
		return hashFolded(hostToken, folded), true
	case processID:
		return hashFolded(pidToken, folded), true
	case traceID:
		return hashFolded(traceToken, folded), true
	case spanID:
		return hashFolded(spanToken, folded), true
	}
	return 0, false
}
