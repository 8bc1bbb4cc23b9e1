// Verify-elsewhere checks that a log committed to an entry, on a machine that has neither the log nor this library's
// writer: with the log's verifier keys, which `immutable key show` printed and which it pinned beforehand, the entry's line,
// the receipt that `immutable prove INDEX` prints, and, where the keys were rotated since, what `immutable key chain`
// prints. It uses package proof only, which reads no files and asks no network.
//
//	go run ./examples/verify-elsewhere KEYS-FILE ENTRY-FILE PROOF-FILE [CHAIN-FILE]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/tree-of-life-system/immutable/proof"
)

func main() {
	if err := run(log.New(os.Stdout, "", 0), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "verify-elsewhere:", err)
		os.Exit(1)
	}
}

func run(out *log.Logger, args []string) error {
	if len(args) != 3 && len(args) != 4 {
		return errors.New("usage: verify-elsewhere KEYS-FILE ENTRY-FILE PROOF-FILE [CHAIN-FILE]")
	}
	files := make([][]byte, 4)
	for i, name := range args {
		var err error
		if files[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	at, err := check(strings.Fields(string(files[0])), bytes.TrimSuffix(files[1], []byte("\n")), files[2], files[3])
	if err != nil {
		return err
	}
	out.Printf("proven: the entry is in %s, of %d entries with root %s", at.Origin, at.Size, at.Root.Base64())
	return nil
}

// check returns the checkpoint under which the entry stands. The name of the pinned keys is the log's origin: a receipt
// of another log, also a good one, is refused. The chain leads from the pinned keys to those that signed the receipt.
func check(vkeys []string, line, receipt, chainFile []byte) (proof.Checkpoint, error) {
	if len(vkeys) != 3 { // one would be the log key, which is never destroyed and can be stolen
		return proof.Checkpoint{}, fmt.Errorf("%d pinned keys: want the log key and both of epoch 0", len(vkeys))
	}
	key, err := proof.ParseKey(vkeys[0])
	if err != nil {
		return proof.Checkpoint{}, fmt.Errorf("pinned key: %w", err)
	}
	chain, err := proof.NewChain(key.Name(), vkeys)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	links, err := proof.ParseEpochLinks(chainFile)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	for _, l := range links {
		if err := chain.Add(l); err != nil {
			return proof.Checkpoint{}, err
		}
	}
	p, err := proof.ParseInclusionProof(receipt)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	c, _, err := chain.Open(p.Checkpoint, proof.RequireAll)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return c, proof.CheckInclusion(p.Hashes, p.Index, c.Size, proof.LeafHash(line), c.Root)
}
