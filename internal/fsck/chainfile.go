package fsck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// A chainFile compares the file epochs, and chains of keys from outside, with what the entries and the history give.
type chainFile struct {
	c      *check
	file   vfs.File
	size   int64
	err    error // why it cannot be read; that is reported
	at     int64 // where the next line begins
	lost   bool  // a line could not be made, or differed: what follows is not compared
	absent int   // lines that the file does not have
	given  []*givenChain
}

// A givenChain is a chain of keys from outside.
type givenChain struct {
	name  string
	lines [][]byte
	equal int
	size  uint64 // of the last closing checkpoint that is equal
	bad   bool
}

func (c *check) openEpochs() {
	f := &c.chainFile
	f.c = c
	if f.file, f.size, f.err = c.open(epochsName); errors.Is(f.err, fs.ErrNotExist) {
		f.err = nil // no line; whether there ought to be one, the entries say
	} else if f.err != nil {
		c.fault(epochsName, -1, f.err, hintRebuild)
	}
}

func (f *chainFile) close() {
	if f.file != nil {
		_ = f.file.Close()
		f.file = nil
	}
}

// compare takes the next line.
func (f *chainFile) compare(line []byte, number, size uint64) {
	for _, g := range f.given {
		g.compare(f.c, line, number, size)
	}
	if f.lost || f.err != nil {
		return
	}
	got := make([]byte, min(int64(len(line)), f.size-f.at))
	if len(got) > 0 {
		if n, err := f.file.ReadAt(got, f.at); n < len(got) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			f.err = err
			f.c.fault(epochsName, -1, err, hintRebuild)
			return
		}
	}
	if f.at += int64(len(got)); bytes.Equal(got, line) {
		return
	}
	if bytes.HasPrefix(line, got) {
		f.absent++
		return
	}
	i := 0
	for got[i] == line[i] {
		i++
	}
	f.lost = true
	f.c.find(Finding{
		File: epochsName, Offset: f.at - int64(len(got)) + int64(i), Index: -1, What: fmt.Sprintf("the line of epoch %d is not what the entries and the kept checkpoints give", number),
		Got: clip(got[i:]), Want: clip(line[i:]), Hint: hintRebuild,
	})
}

func clip(b []byte) string {
	if len(b) > 80 {
		return fmt.Sprintf("%q…", b[:80])
	}
	return fmt.Sprintf("%q", b)
}

// finish compares the length. A crash may leave the file without its newest line, or with a beginning of it, until the newest epoch's
// keys have signed. signed is the largest size of a checkpoint that they did; 0 where there is none.
func (f *chainFile) finish(whole bool, signed uint64) {
	c := f.c
	for _, g := range f.given {
		g.finish(c, whole)
	}
	if f.err != nil || f.lost || !whole {
		return
	}
	at := Finding{File: epochsName, Offset: f.at, Index: -1, Hint: hintRebuild}
	switch {
	case f.at < f.size:
		at.What, at.Got, at.Want = "holds more than the entries and the kept checkpoints give", fmt.Sprintf("%d bytes", f.size), fmt.Sprint(f.at)
		c.find(at)
	case f.absent == 1 && signed > 0:
		at.What = fmt.Sprintf("does not hold the line of the newest epoch, whose keys signed a checkpoint of size %d: nothing is signed before that line is durable", signed)
		c.find(at)
	case f.absent == 1:
		at.What = "does not hold the line of the newest epoch"
		c.leftover(at)
	case f.absent > 1:
		at.What = fmt.Sprintf("does not hold the lines of the newest %d epochs", f.absent)
		c.find(at)
	}
}

// addGiven takes the chains of keys from outside.
func (c *check) addGiven() {
	for i, data := range c.o.Epochs {
		g := &givenChain{name: fmt.Sprintf("given epochs %d", i+1)}
		links, err := proof.ParseEpochLinks(data)
		if err != nil || len(links) == 0 {
			what := "holds no epoch"
			if err != nil {
				what = err.Error()
			}
			c.note(Finding{File: g.name, Offset: -1, Index: -1, What: "is not a chain of keys: " + what})
			c.unreadable++
			continue
		}
		for line := range bytes.Lines(data) {
			g.lines = append(g.lines, line)
		}
		c.chainFile.given = append(c.chainFile.given, g)
	}
}

// compare takes the line of the next epoch.
func (g *givenChain) compare(c *check, line []byte, number, size uint64) {
	if g.bad || g.equal == len(g.lines) {
		return
	}
	if got := g.lines[g.equal]; !bytes.Equal(got, line) {
		g.bad = true
		i := 0
		for i < min(len(got), len(line)) && got[i] == line[i] {
			i++
		}
		c.find(Finding{
			File: g.name, Offset: -1, Index: -1, What: fmt.Sprintf("the log has another epoch %d than this chain of keys", number), Got: clip(line[i:]), Want: clip(got[i:]),
			Hint: "it is of another log, or the log was rewritten, or shows different histories to different people",
		})
		return
	}
	g.equal++
	g.size = size
}

// finish says what the chain is worth. One that goes on after the log's does not fit the log.
func (g *givenChain) finish(c *check, whole bool) {
	f := Finding{File: g.name, Offset: -1, Index: -1}
	switch {
	case g.bad:
	case g.equal == len(g.lines):
		c.basis(Basis{Kind: "epochs", Detail: g.name, Size: g.size})
	case !whole:
		f.What = "was not compared to its end, because entries are missing"
		c.note(f)
	default:
		f.What, f.Got, f.Want = "names more epochs than the log has", fmt.Sprintf("%d closed epochs", g.equal), fmt.Sprint(len(g.lines))
		f.Hint = "the directory was cut back to an earlier epoch"
		c.find(f)
	}
}
