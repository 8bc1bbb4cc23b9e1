package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

const proveUsage = `immutable prove INDEX

Writes a proof that the entry at INDEX is in the log: its inclusion in the newest signed checkpoint, as c2sp.org/tlog-proof@v1.
Whoever has the entry's line, the log's name and its key checks it without the log. The proof is checked before it is written.

  immutable prove 12 --out entry12.tlog-proof
  immutable verify --proof entry12.tlog-proof
  immutable prove 12 --json                  {"index","leaf","size","root","hashes","proof"}

  --out FILE             write the proof there, not to standard output; FILE must not exist` + dirFlags + commonFlags

func setupProve(c *call) func() error {
	c.dirFlags()
	out := c.set.String("out", "", "")
	return func() error {
		if err := c.arguments(1, 1, "one index"); err != nil {
			return err
		}
		index, err := c.index(c.args[0], "an index")
		if err != nil {
			return err
		}
		return prove(c, index, *out)
	}
}

func prove(c *call, index uint64, out string) (err error) {
	l, err := c.openRead()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	text, err := l.Proof(c.ctx, index)
	if err != nil {
		return err
	}
	e, err := l.Entry(c.ctx, index)
	if err != nil {
		return err
	}
	p, checkpoint, err := checkProof(l, text, e.Line)
	if err != nil {
		return evidence("the proof of entry %d does not hold: %w", index, err)
	}
	if out != "" {
		if err := writeNew(out, text); err != nil {
			return err
		}
		c.remark("wrote %s\n", out)
	}
	switch {
	case c.json:
		hashes := make([]string, len(p.Hashes))
		for i, h := range p.Hashes {
			hashes[i] = h.Base64()
		}
		return c.answer(struct {
			Index  uint64   `json:"index"`
			Leaf   string   `json:"leaf"`
			Size   uint64   `json:"size"`
			Root   string   `json:"root"`
			Hashes []string `json:"hashes"`
			Proof  string   `json:"proof"`
		}{index, e.Leaf.String(), checkpoint.Size, checkpoint.Root.Base64(), hashes, string(text)})
	case out == "":
		return c.document(text)
	}
	c.out.printf("entry %d is in the log of %d entries with root %s\n", index, checkpoint.Size, checkpoint.Root.Base64())
	return nil
}

func checkProof(l *immutable.Log, text, line []byte) (*proof.InclusionProof, proof.Checkpoint, error) {
	keys, err := logKeys(l)
	if err != nil {
		return nil, proof.Checkpoint{}, err
	}
	p, err := proof.ParseInclusionProof(text)
	if err != nil {
		return nil, proof.Checkpoint{}, err
	}
	checkpoint, err := p.Verify(line, l.Origin(), keys)
	return p, checkpoint, err
}

func logKeys(l *immutable.Log) ([]proof.Key, error) {
	var keys []proof.Key
	for _, v := range l.VerifierKeys() {
		k, err := proof.ParseKey(v)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// document prints a note or proof, whose bytes others read. On a terminal it is made safe line by line; elsewhere it is
// written exactly, unless that could harm a terminal later.
func (c *call) document(text []byte) error {
	c.out.indentedBy("", string(text))
	for _, line := range lines(text) {
		if clean(line) != line {
			return errors.New("it holds characters that are shown as escapes here; --json prints it exactly")
		}
	}
	return nil
}

// writeNew writes a file that must not exist yet.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
