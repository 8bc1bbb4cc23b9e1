package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/intake"
	"github.com/tree-of-life-system/immutable/proof"
)

const importUsage = `immutable import FILE

Appends the entries of another log, oldest first. Level, message, metadata, host name, pid, eventTime, traceId and spanId stay;
the old timestamp becomes eventTime where there is none; the old id makes the idempotency key "import:<id>", so that an import
that was interrupted can be repeated within 24 hours. What control entries recorded is left out, and they are counted.

  jsonl       what ` + "`immutable export`" + ` or ` + "`immutable read --json`" + ` prints; - is standard input
  log         the earlier system's immutable.log
  blockchain  the earlier system's blockchain.json: its hashes and links are checked, every broken one is reported, and the first
              new entry records the old head and the number of broken links
  index       the earlier system's log-index.json: the entries it names, from the immutable.log beside it

  immutable import backup.jsonl
  immutable import --format blockchain blockchain.json

Exit code: 0 all are in the log · 1 some were rejected, or links were broken · 2 it stopped early.

  --format FORMAT        jsonl, log, blockchain or index (default jsonl)` + dirFlags + writeFlags + commonFlags

func setupImport(c *call) func() error {
	c.writeFlags()
	format := c.set.String("format", "jsonl", "")
	return func() error {
		if err := c.arguments(1, 1, "one file"); err != nil {
			return err
		}
		m := &importer{c: c}
		read, ok := map[string]func(string) error{"jsonl": m.lines, "log": m.lines, "blockchain": m.blocks, "index": m.index}[*format]
		if !ok {
			return c.usagef("--format is jsonl, log, blockchain or index, not %s", quote(*format))
		}
		return m.run(read, c.args[0])
	}
}

// importBatch is how many entries one commit takes.
const importBatch = 4096

type importer struct {
	c *call
	l *immutable.Log

	events  []immutable.Event
	bytes   int
	numbers []uint64

	imported, repeated, rejected, control, broken uint64
	bar                                           *progress
}

func (m *importer) run(read func(string) error, name string) (err error) {
	if m.l, err = m.c.openWrite(false); err != nil {
		return err
	}
	m.bar = m.c.newProgress("importing", "entries")
	if err = read(name); err == nil {
		err = m.commit()
	}
	m.bar.end()
	size := m.l.Size()
	if cerr := m.l.Close(); cerr != nil && err == nil {
		err = fmt.Errorf("close the log: %w", cerr)
	}
	if m.c.json {
		_ = m.c.answer(struct {
			Imported uint64 `json:"imported"`
			Rejected uint64 `json:"rejected"`
			Repeated uint64 `json:"repeated"`
			Control  uint64 `json:"control"`
			Broken   uint64 `json:"broken"`
			Size     uint64 `json:"size"`
		}{m.imported, m.rejected, m.repeated, m.control, m.broken, size}) // numbers always have a JSON form
	} else {
		m.c.out.printf("%d imported, %d rejected; the log has %d entries\n", m.imported, m.rejected, size)
		for _, o := range []struct {
			n    uint64
			what string
		}{{m.repeated, "were there already"}, {m.control, "were control entries of the other log: what they recorded was left out"}, {m.broken, "links of the old chain are broken"}} {
			if o.n > 0 {
				m.c.out.printf("%d %s\n", o.n, o.what)
			}
		}
	}
	switch {
	case err != nil:
		return err
	case m.rejected+m.broken > 0:
		return exit(exitNo)
	}
	return nil
}

// maxImportLine bounds one line or block of the other log.
const maxImportLine = 1 << 20

func (m *importer) lines(name string) error {
	in := m.c.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 64<<10), maxImportLine)
	for number := uint64(1); s.Scan(); number++ {
		if len(s.Bytes()) == 0 {
			continue
		}
		if err := m.add(number, s.Bytes()); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// add takes one entry of the other log.
func (m *importer) add(number uint64, line []byte) error {
	if m.c.ctx.Err() != nil {
		return fmt.Errorf("interrupted at entry %d of the input", number)
	}
	e, control, err := intake.Exported(line)
	if err == nil {
		e.RawMetadata = append([]byte(nil), e.RawMetadata...)
		err = intake.Check(&e)
	}
	if err != nil {
		m.reject(number, err)
		return nil
	}
	if control {
		m.control++
	}
	m.events = append(m.events, e)
	m.numbers = append(m.numbers, number)
	m.bytes += 400 + len(e.Message) + len(e.RawMetadata)
	if len(m.events) < importBatch && m.bytes < batchBytes {
		return nil
	}
	return m.commit()
}

func (m *importer) reject(number uint64, err error) {
	m.rejected++
	m.bar.clear()
	m.c.errs.printf("entry %d: %s\n", number, err)
	_ = m.c.errs.flush() // counted all the same
}

func (m *importer) commit() error {
	err := m.append(0, len(m.events))
	m.bar.add(uint64(len(m.events)))
	m.events, m.numbers, m.bytes = m.events[:0], m.numbers[:0], 0
	return err
}

func (m *importer) append(from, to int) error {
	if from == to {
		return nil
	}
	rs, err := m.l.Append(context.WithoutCancel(m.c.ctx), m.events[from:to]...)
	var conflict *immutable.KeyConflictError
	switch {
	case err == nil:
		for _, r := range rs {
			if r.Repeated {
				m.repeated++
			} else {
				m.imported++
			}
		}
		return nil
	case to-from > 1 && (errors.Is(err, immutable.ErrTooLarge) || errors.As(err, &conflict)):
		middle := from + (to-from)/2
		if err := m.append(from, middle); err != nil {
			return err
		}
		return m.append(middle, to)
	case errors.As(err, &conflict):
		m.reject(m.numbers[from], err)
		return nil
	}
	return fmt.Errorf("from entry %d of the input on nothing was written: %w", m.numbers[from], err)
}

// foreignBlock is a block of the earlier system, or of an export of ours.
type foreignBlock struct {
	Index        uint64
	Timestamp    string
	Data         string
	Hash         string
	PreviousHash string
}

// blocks reads the file twice: what the chain says comes before its first entry.
func (m *importer) blocks(name string) error {
	var count uint64
	var head string
	check := func(n uint64, b *foreignBlock) error {
		if problem := m.link(n, b, head); problem != "" {
			m.broken++
			m.c.errs.printf("block %d: %s\n", n, problem)
		}
		head = b.Hash
		count = n + 1
		return nil
	}
	if err := eachBlock(name, check); err != nil {
		return err
	}
	if _, err := m.l.ImportRecord(context.WithoutCancel(m.c.ctx), "blockchain", count, head, m.broken); err != nil {
		return err
	}
	return eachBlock(name, func(n uint64, b *foreignBlock) error { return m.add(n, []byte(b.Data)) })
}

// link says what is broken between a block and the one before it. The first sketch hashed data alone; this system's chain
// hash covers everything before.
func (m *importer) link(n uint64, b *foreignBlock, previous string) string {
	if n == 0 {
		previous = "0"
		if b.PreviousHash == (proof.Hash{}).String() {
			previous = b.PreviousHash
		}
	}
	alone := sha256.Sum256([]byte(b.Data))
	want := hex.EncodeToString(alone[:])
	if before, err := proof.ParseHex(b.PreviousHash); err == nil {
		if chained := proof.ChainHash(before, proof.LeafHash([]byte(b.Data))).String(); b.Hash == chained {
			want = chained
		}
	}
	switch {
	case b.Index != n:
		return fmt.Sprintf("its index is %d", b.Index)
	case b.Hash != want:
		return fmt.Sprintf("its data was changed: hash %s, its data has %s", b.Hash, want)
	case b.PreviousHash != previous:
		return fmt.Sprintf("it does not follow the block before it: previousHash %s, that block's hash is %s", b.PreviousHash, previous)
	}
	return ""
}

// eachBlock streams a JSON array.
func eachBlock[T any](name string, visit func(n uint64, b *T) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	d := json.NewDecoder(bufio.NewReaderSize(f, 64<<10))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("%s: want a JSON array", name)
	}
	n := uint64(0)
	for ; d.More(); n++ {
		var b T
		if err := d.Decode(&b); err != nil {
			return fmt.Errorf("%s, element %d: %w", name, n, err)
		}
		if err := visit(n, &b); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("%s: the array does not end after %d elements: %w", name, n, err)
	}
	return nil
}

// index reads the entries that log-index.json names from the immutable.log beside it.
func (m *importer) index(name string) error {
	log, err := os.Open(filepath.Join(filepath.Dir(name), "immutable.log"))
	if err != nil {
		return fmt.Errorf("the log that the index is of: %w", err)
	}
	defer log.Close()
	return eachBlock(name, func(n uint64, x *indexEntry) error {
		if x.Offset < 0 || x.Length < 0 || x.Length > maxImportLine {
			m.reject(n, fmt.Errorf("offset %d and length %d are no place of an entry", x.Offset, x.Length))
			return nil
		}
		line := make([]byte, x.Length)
		if _, err := log.ReadAt(line, x.Offset); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read entry %d: %w", n, err)
		}
		var named sketch
		if err := json.Unmarshal(line, &named); err != nil {
			m.reject(n, fmt.Errorf("offset %d: %w", x.Offset, err))
			return nil
		}
		if named.ID != x.ID || named.Timestamp != x.Timestamp || named.Level != x.Level {
			m.reject(n, fmt.Errorf("the index names entry %s of %s, %s; at offset %d is %s of %s, %s", x.ID, x.Timestamp, x.Level, x.Offset, named.ID, named.Timestamp, named.Level))
			return nil
		}
		return m.add(n, line)
	})
}
