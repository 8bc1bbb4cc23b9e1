package main

import (
	"errors"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// misbehaviourLine is the first line of a proof of misbehaviour (docs/format.md, "Misbehaviour proofs").
const misbehaviourLine = "immutable/misbehaviour/1\n"

// explainMisbehaviour checks a proof of misbehaviour with the given verifier keys, else with those of the log in --dir if it
// is that log, and says what it proves. A good proof refutes the log: exit code 1. One that proves nothing is exit code 2.
func explainMisbehaviour(c *call, name string, vkeys []string) error {
	data, err := readFile(name)
	if err != nil {
		return err
	}
	m, err := proof.ParseMisbehaviour(data)
	if err != nil {
		return err
	}
	first, err := proof.ParseNote(m.A)
	if err != nil {
		return err
	}
	origin := lines([]byte(first.Text))[0]
	keys, from, err := misbehaviourKeys(c, origin, vkeys)
	if err != nil {
		return err
	}
	found, err := m.Verify(keys)
	if err != nil {
		var none *proof.SignatureError
		if errors.Is(err, proof.ErrNoSignature) && !errors.As(err, &none) {
			c.remark("give the key of %s, from a place that you trust, with --key\n", origin)
		}
		return err
	}
	if c.json {
		if err := c.answer(misbehaviourJSON(&found, from)); err != nil {
			return err
		}
		return exit(exitNo)
	}
	c.out.printf("%s\n", styled{code: red, text: "refuted: " + origin + " signed two histories"})
	c.out.printf("\none checkpoint says that its first %d entries have the root %s:\n", found.Size, found.RootA.Base64())
	c.printSigned(m.A)
	if found.SizeB == found.Size {
		c.out.printf("another one of the same size says %s:\n", found.RootB.Base64())
	} else {
		c.out.printf("another one covers %d entries, and the hashes in the proof lead to its root only if the root of the first %d is %s:\n", found.SizeB, found.Size, found.RootB.Base64())
	}
	c.printSigned(m.B)
	c.out.printf("Both signatures are good, by the keys %s. A log only ever grows, so the two cannot be of one history: whoever has the key\nsigned entries away or changed them, restored an older state and went on, or runs two logs with one key. The proof does not say which of the two is\nthe true one, and who did it: compare with receipts and checkpoints that were kept elsewhere.\n", from)
	return exit(exitNo)
}

func (c *call) printSigned(note []byte) {
	c.out.indentedBy("    ", string(note))
	c.out.printf("\n")
}

// misbehaviourKeys are the keys to check with, and where they come from.
func misbehaviourKeys(c *call, origin string, vkeys []string) (keys []proof.Key, from string, err error) {
	from = "that you gave"
	if len(vkeys) == 0 {
		l, err := c.openRead()
		if errors.Is(err, immutable.ErrNotFound) {
			return nil, from, nil
		}
		if err != nil {
			return nil, "", err
		}
		defer closing(l, &err)
		if l.Origin() == origin {
			vkeys, from = l.VerifierKeys(), "that lie in "+c.dir
		}
	}
	for _, v := range vkeys {
		k, err := proof.ParseKey(v)
		if err != nil {
			return nil, "", err
		}
		keys = append(keys, k)
	}
	return keys, from, nil
}

func misbehaviourJSON(f *proof.Contradiction, from string) any {
	return struct {
		Verdict string `json:"verdict"`
		Kind    string `json:"kind"`
		Origin  string `json:"origin"`
		Size    uint64 `json:"size"`
		SizeB   uint64 `json:"sizeB"`
		RootA   string `json:"rootA"`
		RootB   string `json:"rootB"`
		Keys    string `json:"keys"`
	}{string(immutable.Refuted), "misbehaviour", f.Origin, f.Size, f.SizeB, f.RootA.Base64(), f.RootB.Base64(), from}
}
