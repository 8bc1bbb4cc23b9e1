package immutable

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/tree"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	receiptsHeader = `{"format":"immutable/receipts/1","origin":"`
	// receiptsChunk is the most bytes of one write to a book, and so the most that a crash can leave torn.
	receiptsChunk = 1 << 20
	// maxReceiptLine bounds a line of a book.
	maxReceiptLine = 1 << 10
	// maxBroken is how many broken promises a report lists; the others are counted.
	maxBroken = 100
)

// A ReceiptBook keeps the receipts of one log in a file, for a producer that wants to hold the log to them later. It holds
// nothing in memory. docs/format.md, "Receipts", has the file's form. It is safe for concurrent use.
type ReceiptBook struct {
	fs     vfs.FS
	path   string
	origin string
	lock   io.Closer // nil: for reading only

	mu     sync.Mutex // one append at a time
	file   vfs.File
	size   int64
	failed error
}

// OpenReceipts opens a book for appending, and makes it if there is none. origin is the log's name; a book of another log
// is refused, and "" takes what an existing book says. What a crash left of an append that was not acknowledged is moved to a
// file beside it.
func OpenReceipts(path, origin string) (*ReceiptBook, error) {
	return openReceipts(vfs.OS(), path, origin)
}

func openReceipts(fsys vfs.FS, path, origin string) (*ReceiptBook, error) {
	b := &ReceiptBook{fs: fsys, path: path, origin: origin}
	var err error
	if b.lock, err = fsys.Lock(path+".lock", nil); err != nil {
		return nil, fmt.Errorf("open receipts: %w", err)
	}
	if err := b.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open receipts: %w", err), b.Close())
	}
	return b, nil
}

// ReadReceipts opens a book for reading, beside whoever appends to it.
func ReadReceipts(path string) (*ReceiptBook, error) { return readReceipts(vfs.OS(), path) }

func readReceipts(fsys vfs.FS, path string) (*ReceiptBook, error) {
	b := &ReceiptBook{fs: fsys, path: path}
	var err error
	if b.file, err = fsys.Open(path); err == nil {
		if b.size, err = b.file.Size(); err == nil {
			err = b.readHeader()
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read receipts: %w", err), b.Close())
	}
	return b, nil
}

func (b *ReceiptBook) open() error {
	var err error
	if b.file, err = b.fs.OpenRW(b.path); notExist(err) {
		if err := proof.CheckOrigin(b.origin); err != nil {
			return fmt.Errorf("%s is new, and needs the log's name: %w", b.path, err)
		}
		// Whole or not there: a book without its first line would be nobody's.
		header := []byte(receiptsHeader + b.origin + "\"}\n")
		if err := vfs.WriteAtomic(b.fs, b.path+".new", b.path, header, 0o600); err != nil {
			return err
		}
		b.file, err = b.fs.OpenRW(b.path)
	}
	if err != nil {
		return err
	}
	if b.size, err = b.file.Size(); err != nil {
		return err
	}
	if err := b.readHeader(); err != nil {
		return err
	}
	return b.recover()
}

func (b *ReceiptBook) readHeader() error {
	line, err := bufio.NewReader(io.NewSectionReader(b.file, 0, min(b.size, maxReceiptLine))).ReadBytes('\n')
	origin, found := bytes.CutPrefix(line, []byte(receiptsHeader))
	origin, ended := bytes.CutSuffix(origin, []byte("\"}\n"))
	if err != nil || !found || !ended || proof.CheckOrigin(string(origin)) != nil {
		return fmt.Errorf("%s: its first line is not that of a book of receipts", b.path)
	}
	if b.origin != "" && b.origin != string(origin) {
		return fmt.Errorf("%s holds receipts of the log %s, not of %s", b.path, origin, b.origin)
	}
	b.origin = string(origin)
	return nil
}

// recover finds where the whole receipts end. What follows is of an append that a crash cut short, if it is no more than one write
// could be; then it is moved aside.
func (b *ReceiptBook) recover() error {
	end := int64(len(receiptsHeader) + len(b.origin) + len("\"}\n"))
	var torn error
	for r, err := range b.Receipts() {
		if err != nil {
			torn = err
			break
		}
		end += int64(len(appendReceipt(nil, &r)))
	}
	if end == b.size {
		return nil
	}
	if torn == nil || b.size-end > receiptsChunk {
		return fmt.Errorf("%s is damaged: %w", b.path, torn)
	}
	rest := make([]byte, b.size-end)
	if n, err := b.file.ReadAt(rest, end); n < len(rest) {
		return err
	}
	aside := fmt.Sprintf("%s.torn-%d", b.path, end)
	if err := vfs.WriteAtomic(b.fs, aside+".new", aside, rest, 0o600); err != nil {
		return err
	}
	if err := b.file.Truncate(end); err != nil {
		return err
	}
	b.size = end
	return b.file.Sync()
}

// Origin is the name of the log that the receipts are of.
func (b *ReceiptBook) Origin() string { return b.origin }

// Append adds receipts. When it returns nil they are durable. After an error it is unknown which of them are; the book takes
// nothing more then, and OpenReceipts finds out.
func (b *ReceiptBook) Append(rs ...Receipt) error {
	if b.lock == nil {
		return fmt.Errorf("append to %s: %w", b.path, ErrReadOnly)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed != nil {
		return b.failed
	}
	var chunk []byte
	for i := range rs {
		chunk = appendReceipt(chunk, &rs[i])
		if len(chunk) < receiptsChunk-maxReceiptLine && i < len(rs)-1 {
			continue
		}
		_, err := b.file.WriteAt(chunk, b.size)
		if err == nil {
			err = b.file.Sync()
		}
		if err != nil {
			b.failed = fmt.Errorf("append to %s: %w", b.path, err)
			return b.failed
		}
		b.size += int64(len(chunk))
		chunk = chunk[:0]
	}
	return nil
}

// appendReceipt writes a receipt in its one form: as `immutable log --json` prints it, and a check against bad disks.
func appendReceipt(dst []byte, r *Receipt) []byte {
	start := len(dst)
	dst = fmt.Appendf(dst, `{"index":%d,"id":"%s","hash":"%s","leaf":"%s","timestamp":"%s"`, r.Index, r.ID, r.Hash, r.Leaf, r.Timestamp.UTC().Format(time.RFC3339Nano))
	sum := sha256.Sum256(dst[start:])
	dst = append(dst, `,"check":"`...)
	dst = hex.AppendEncode(dst, sum[:4])
	return append(dst, "\"}\n"...)
}

// Receipts returns what the book holds, in the order in which it was appended. An error ends it: a line is damaged.
func (b *ReceiptBook) Receipts() iter.Seq2[Receipt, error] {
	return func(yield func(Receipt, error) bool) {
		b.mu.Lock()
		size := b.size
		b.mu.Unlock()
		from := int64(len(receiptsHeader) + len(b.origin) + len("\"}\n"))
		lines := bufio.NewReaderSize(io.NewSectionReader(b.file, from, size-from), 64<<10)
		for n := 1; ; n++ {
			line, err := lines.ReadSlice('\n')
			if errors.Is(err, io.EOF) && len(line) == 0 {
				return
			}
			r, ok := parseReceipt(line)
			if !ok {
				yield(Receipt{}, fmt.Errorf("%s: receipt %d is damaged or not ended", b.path, n))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

func parseReceipt(line []byte) (r Receipt, ok bool) {
	var raw struct {
		Index      uint64
		ID         string
		Hash, Leaf Hash
		Timestamp  time.Time
	}
	if len(line) > maxReceiptLine || json.Unmarshal(line, &raw) != nil || len(raw.ID) != len(r.ID) {
		return r, false
	}
	r = Receipt{Index: raw.Index, ID: ID([]byte(raw.ID)), Hash: raw.Hash, Leaf: raw.Leaf, Timestamp: raw.Timestamp}
	return r, bytes.Equal(appendReceipt(nil, &r), line)
}

// Highest is the receipt with the highest index, whose chain hash covers every entry before it; false in an empty book.
func (b *ReceiptBook) Highest() (highest Receipt, found bool, err error) {
	for r, err := range b.Receipts() {
		if err != nil {
			return Receipt{}, false, err
		}
		if !found || r.Index >= highest.Index {
			highest, found = r, true
		}
	}
	return highest, found, nil
}

// ReceiptsReport says whether a log holds everything that it promised.
type ReceiptsReport struct {
	Origin   string          `json:"origin"`
	Receipts uint64          `json:"receipts"` // in the book
	Kept     uint64          `json:"kept"`     // whose entry the log holds, unchanged, after the same entries
	Broken   []BrokenReceipt `json:"broken"`   // at most 100 of the others
}

// BrokenReceipt is a receipt that a log does not honour.
type BrokenReceipt struct {
	Receipt Receipt `json:"receipt"`
	What    string  `json:"what"`
}

// Check says whether l, any copy of the log, still holds everything that the receipts promise: at each index an entry
// with that leaf, and before it the entries that the chain hash covers. The error says that it could not be told.
func (b *ReceiptBook) Check(ctx context.Context, l *Log) (*ReceiptsReport, error) {
	rep := &ReceiptsReport{Origin: b.origin, Broken: []BrokenReceipt{}}
	if l.Origin() != b.origin {
		return nil, fmt.Errorf("the receipts are of the log %s, not of %s", b.origin, l.Origin())
	}
	if err := l.refresh(); err != nil {
		return nil, err
	}
	if damage := l.damaged(); damage != nil {
		return nil, fmt.Errorf("the log cannot be read to its end: %w", damage)
	}
	c := receiptChecker{l: l}
	for r, err := range b.Receipts() {
		if err != nil {
			return nil, err
		}
		rep.Receipts++
		what, err := c.check(ctx, &r)
		switch {
		case err != nil:
			return nil, err
		case what == "":
			rep.Kept++
		case len(rep.Broken) < maxBroken:
			rep.Broken = append(rep.Broken, BrokenReceipt{r, what})
		}
	}
	return rep, nil
}

// receiptChecker keeps the group that it has read last: receipts mostly come in the order of their entries.
type receiptChecker struct {
	l      *Log
	number uint64
	chain  []Hash // of the group's entries; nil: none was read
	leaves []Hash
}

func (c *receiptChecker) check(ctx context.Context, r *Receipt) (what string, err error) {
	if size := c.l.Size(); r.Index >= size {
		return fmt.Sprintf("the log ends before it, at %d entries", size), nil
	}
	if i := r.Index % tree.GroupSize; c.chain == nil || c.number != r.Index/tree.GroupSize || i >= uint64(len(c.leaves)) {
		if err := c.read(ctx, r.Index); err != nil {
			return "", err
		}
	}
	i := r.Index % tree.GroupSize
	switch {
	case c.leaves[i] != r.Leaf:
		return "the log holds another entry there, with the leaf " + c.leaves[i].String(), nil
	case c.chain[i] != r.Hash:
		return "the entries before it are other ones: the chain hash there is " + c.chain[i].String(), nil
	}
	return "", nil
}

// read takes in the group of an index: its leaves, which the tree proves, and the chain through it.
func (c *receiptChecker) read(ctx context.Context, index uint64) error {
	g, at, err := c.l.groupOf(ctx, index)
	if err != nil {
		return err
	}
	chain, _, err := c.l.chainAround(g, at, g.number*tree.GroupSize)
	if err != nil {
		return err
	}
	c.number, c.leaves, c.chain = g.number, g.leaves, make([]Hash, 0, len(g.leaves))
	for _, leaf := range g.leaves {
		chain = proof.ChainHash(chain, leaf)
		c.chain = append(c.chain, chain)
	}
	return nil
}

// Close lets go of the book.
func (b *ReceiptBook) Close() error {
	var err error
	if b.file != nil {
		err = b.file.Close()
	}
	if b.lock != nil {
		err = errors.Join(err, b.lock.Close())
	}
	return err
}
