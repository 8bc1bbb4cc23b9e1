// Verify-elsewhere checks that a log committed to an entry, on a machine that has neither the log nor this library's
// writer: with the log's verifier key, which it pinned beforehand, the entry's line, and the receipt that
// `immutable prove INDEX` prints. It uses package proof only, which reads no files and asks no network.
//
//	go run ./examples/verify-elsewhere VKEY ENTRY-FILE PROOF-FILE
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/tree-of-life-system/immutable/proof"
)

func main() {
	if err := run(log.New(os.Stdout, "", 0), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "verify-elsewhere:", err)
		os.Exit(1)
	}
}

func run(out *log.Logger, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: verify-elsewhere VKEY ENTRY-FILE PROOF-FILE")
	}
	line, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	receipt, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	at, err := check(args[0], bytes.TrimSuffix(line, []byte("\n")), receipt)
	if err != nil {
		return err
	}
	out.Printf("proven: the entry is in %s, of %d entries with root %s", at.Origin, at.Size, at.Root.Base64())
	return nil
}

// check returns the checkpoint under which the entry stands. The name of the pinned key is the log's origin: a receipt
// of another log, also a good one, is refused.
func check(vkey string, line, receipt []byte) (proof.Checkpoint, error) {
	key, err := proof.ParseKey(vkey)
	if err != nil {
		return proof.Checkpoint{}, fmt.Errorf("pinned key: %w", err)
	}
	p, err := proof.ParseInclusionProof(receipt)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return p.Verify(line, key.Name(), []proof.Key{key})
}
