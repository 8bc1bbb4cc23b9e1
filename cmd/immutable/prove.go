package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

const proveUsage = `immutable prove INDEX

Writes a proof that the entry at INDEX is in the log: its inclusion in a signed checkpoint, as c2sp.org/tlog-proof@v1; in the
newest one that witnesses have cosigned, if that covers the entry, else in the newest. Whoever has the entry's line, the log's name
and its keys checks it without the log. The proof is checked before it is written.

  immutable prove 12 --out entry12.tlog-proof --entry-out entry12.json
  immutable verify entry12.tlog-proof --entry-file entry12.json --key auditor-keys
  immutable verify --proof entry12.tlog-proof         against a copy of the log
  immutable prove 12 --json                  {"index","leaf","size","root","hashes","proof","origin","entry","signatures"}

  --out FILE             write the proof there, not to standard output; FILE must not exist. Once the log has changed its keys, the
                         chain of keys is written to FILE.epochs, where verify looks for it: hand both out
  --entry-out FILE       write the entry's line there; FILE must not exist
  --policy FILE          say whether the witnesses of this policy have cosigned the proof's checkpoint, and when` + serverFlags + dirFlags + commonFlags

func setupProve(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	out := c.set.String("out", "", "")
	entryOut := c.set.String("entry-out", "", "")
	policy := c.set.String("policy", "", "")
	return func() error {
		if err := c.arguments(1, 1, "one index"); err != nil {
			return err
		}
		index, err := c.index(c.args[0], "an index")
		if err != nil {
			return err
		}
		p := prover{c: c, index: index, out: *out, entryOut: *entryOut}
		if *policy != "" {
			data, err := readFile(*policy)
			if err != nil {
				return fmt.Errorf("--policy: %w", err)
			}
			if p.policy, err = proof.ParsePolicy(data); err != nil {
				return fmt.Errorf("%s: %w", *policy, err)
			}
		}
		return p.run()
	}
}

// prover is one run of prove.
type prover struct {
	c             *call
	index         uint64
	out, entryOut string
	policy        *proof.Policy
}

func (p *prover) run() (err error) {
	c := p.c
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	text, err := l.Proof(c.ctx, p.index)
	if err != nil {
		return err
	}
	e, err := l.Entry(c.ctx, p.index)
	var gone *immutable.RetiredError
	if d, ok := l.(directory); ok && errors.As(err, &gone) && p.entryOut == "" { // what is kept of it is enough
		c.remark("%s\n", err)
		e.Leaf, err = d.LeafHash(c.ctx, p.index)
	}
	if err != nil {
		return err
	}
	got, checkpoint, err := checkProof(l, text, e.Leaf)
	if err != nil {
		return evidence("the proof of entry %d does not hold: %w", p.index, err)
	}
	chain, err := l.KeyChain()
	if err != nil {
		return err
	}
	beside := ""
	if p.out != "" && len(chain) > 0 {
		beside = p.out + epochsSuffix
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{p.out, text}, {beside, chain}, {p.entryOut, append(e.Line[:len(e.Line):len(e.Line)], '\n')}} {
		if f.name == "" {
			continue
		}
		if err := writeNew(f.name, f.data); err != nil {
			return err
		}
		c.remark("wrote %s\n", f.name)
	}
	return p.print(l, text, got, &checkpoint, &e)
}

// print answers with a receipt: log, index, leaf, checkpoint, who signed it, and how old the signatures of witnesses are.
func (p *prover) print(l view, text []byte, got *proof.InclusionProof, checkpoint *proof.Checkpoint, e *immutable.Entry) error {
	c := p.c
	signatures, err := p.signatures(l, got.Checkpoint)
	if err != nil {
		return evidence("the proof of entry %d does not hold: %w", p.index, err)
	}
	switch {
	case c.json:
		hashes := make([]string, len(got.Hashes))
		for i, h := range got.Hashes {
			hashes[i] = h.Base64()
		}
		return c.answer(struct {
			Index      uint64          `json:"index"`
			Leaf       string          `json:"leaf"`
			Size       uint64          `json:"size"`
			Root       string          `json:"root"`
			Hashes     []string        `json:"hashes"`
			Proof      string          `json:"proof"`
			Origin     string          `json:"origin"`
			Entry      string          `json:"entry"`
			Signatures []fileSignature `json:"signatures"`
		}{p.index, e.Leaf.String(), checkpoint.Size, checkpoint.Root.Base64(), hashes, string(text), l.Origin(), string(e.Line), signatures})
	case p.out == "":
		return c.document(text)
	}
	c.out.printf("entry %d is in the log of %d entries with root %s\n", p.index, checkpoint.Size, checkpoint.Root.Base64())
	for _, s := range signatures {
		if s.Age != "" {
			c.out.printf("cosigned by %s+%s at %s, %s ago\n", s.Name, s.ID, s.Time.UTC().Format(time.RFC3339), s.Age)
		}
	}
	return nil
}

// signatures lists the signature lines of the checkpoint; those by the log's keys and by the policy's witnesses are verified.
// The log's own times prove nothing and are left out.
func (p *prover) signatures(l view, note []byte) ([]fileSignature, error) {
	n, err := proof.ParseNote(note)
	if err != nil {
		return nil, err
	}
	keys, err := everyKey(l)
	if err != nil {
		return nil, err
	}
	if p.policy != nil {
		for _, w := range p.policy.Witnesses() {
			keys = append(keys, w.Key)
		}
	}
	good, err := n.Verify(keys)
	if err != nil {
		return nil, err
	}
	out := make([]fileSignature, len(n.Signatures))
	for i, s := range n.Signatures {
		out[i] = fileSignature{Name: s.Name, ID: fmt.Sprintf("%08x", s.ID)}
		for _, g := range good {
			if g.Key.Name() != s.Name || g.Key.ID() != s.ID {
				continue
			}
			out[i].Good = true
			if s.Name != l.Origin() && !g.Time.IsZero() {
				out[i].Time, out[i].Age = g.Time, time.Since(g.Time).Round(time.Second).String()
			}
		}
	}
	return out, nil
}

// everyKey is the log key and the keys of every epoch.
func everyKey(l view) ([]proof.Key, error) {
	keys, err := logKeys(l)
	if err != nil {
		return nil, err
	}
	data, err := l.KeyChain()
	if err != nil {
		return nil, err
	}
	links, err := proof.ParseEpochLinks(data)
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		_, more, err := proof.ParseEpochEntry(link.Entry)
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

func logKeys(l view) ([]proof.Key, error) {
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

// checkProof verifies what is about to be handed out as its receiver will.
func checkProof(l view, text []byte, leaf immutable.Hash) (*proof.InclusionProof, proof.Checkpoint, error) {
	p, err := proof.ParseInclusionProof(text)
	if err != nil {
		return nil, proof.Checkpoint{}, err
	}
	checkpoint, err := l.OpenCheckpoint(p.Checkpoint)
	if err != nil {
		return nil, checkpoint, err
	}
	return p, checkpoint, proof.CheckInclusion(p.Hashes, p.Index, checkpoint.Size, leaf, checkpoint.Root)
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
