package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

const checkpointUsage = `immutable checkpoint [show [SIZE] | list | compare A B]

Signed checkpoints (C2SP signed notes) say how many entries the log had, and the root over them. Keep one elsewhere: whatever is
done to the log later, ` + "`immutable verify --checkpoint FILE`" + ` then shows whether those entries are still there, unchanged.

  immutable checkpoint > monday.txt       the newest; the same as show
  immutable checkpoint show 4096          the one of that size that the log keeps
  immutable checkpoint list
  immutable checkpoint compare monday.txt tuesday.txt
  immutable checkpoint compare 100 4096 --json      sizes instead of files: with the consistency proof

compare says whether the log of the larger checkpoint begins with the log of the smaller. Exit code: 0 consistent · 1 not · 2 it
cannot be told from this log.
` + serverFlags + dirFlags + commonFlags

func setupCheckpoint(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	return func() error {
		what := "show"
		args := c.args
		if len(args) > 0 {
			what, args = args[0], args[1:]
		}
		switch {
		case what == "show" && len(args) <= 1:
			return c.withView(func(l view) error { return showCheckpoint(c, l, args) })
		case what == "list" && len(args) == 0:
			return c.withView(func(l view) error { return listCheckpoints(c, l) })
		case what == "compare" && len(args) == 2:
			return c.withView(func(l view) error { return compareCheckpoints(c, l, args[0], args[1]) })
		}
		return c.usagef("want show [SIZE], list, or compare A B")
	}
}

// withLog runs f with the log open for reading.
func (c *call) withLog(f func(*immutable.Log) error) (err error) {
	l, err := c.openRead()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	return f(l)
}

// note is a checkpoint with the signed text it was read from.
type note struct {
	proof.Checkpoint
	text []byte
}

func openNote(l view, text []byte) (note, error) {
	cp, err := l.OpenCheckpoint(text)
	if err != nil {
		return note{}, evidence("checkpoint: %w", err)
	}
	return note{cp, text}, nil
}

func showCheckpoint(c *call, l view, args []string) error {
	if len(args) == 0 {
		text, err := l.Checkpoint()
		if err != nil {
			return err
		}
		n, err := openNote(l, text)
		if err != nil {
			return err
		}
		return c.printNote(n)
	}
	size, err := c.index(args[0], "a size")
	if err != nil {
		return err
	}
	n, err := keptOfSize(l, size)
	if err != nil {
		return err
	}
	return c.printNote(n)
}

// keptOfSize is the kept checkpoint of that size, or the newest if that has it.
func keptOfSize(l view, size uint64) (note, error) {
	notes, err := l.CheckpointHistory()
	if err != nil {
		return note{}, err
	}
	if newest, err := l.Checkpoint(); err == nil {
		notes = append(notes, newest)
	}
	for _, text := range notes {
		n, err := openNote(l, text)
		if err != nil {
			return note{}, err
		}
		if n.Size == size {
			return n, nil
		}
	}
	return note{}, fmt.Errorf("no checkpoint of %d entries is kept; `immutable checkpoint list` lists them", size)
}

func (c *call) printNote(n note) error {
	if c.json {
		return c.answer(noteJSON(n))
	}
	return c.document(n.text)
}

type checkpointJSON struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"`
	Note   string `json:"note,omitempty"`
}

func noteJSON(n note) checkpointJSON {
	return checkpointJSON{n.Origin, n.Size, n.Root.Base64(), string(n.text)}
}

func listCheckpoints(c *call, l view) error {
	notes, err := l.CheckpointHistory()
	if err != nil {
		return err
	}
	for _, text := range notes {
		n, err := openNote(l, text)
		if err != nil {
			return err
		}
		if c.json {
			if err := c.answer(noteJSON(n)); err != nil {
				return err
			}
			continue
		}
		c.out.printf("%10d  %s\n", n.Size, n.Root.Base64())
	}
	return nil
}

// side is a checkpoint to compare: from a file, or this log at a size.
func side(c *call, l view, arg string) (note, error) {
	if _, err := os.Stat(arg); err == nil || strings.ContainsAny(arg, "/.\\") {
		data, err := readFile(arg)
		if err != nil {
			return note{}, err
		}
		n, err := openNote(l, data)
		if err != nil {
			return note{}, fmt.Errorf("%s: %w", arg, err)
		}
		return n, nil
	}
	size, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		return note{}, c.usagef("%s is neither a file nor a size", quote(arg))
	}
	root, err := l.RootAt(c.ctx, size)
	if err != nil {
		return note{}, err
	}
	return note{Checkpoint: proof.Checkpoint{Origin: l.Origin(), Size: size, Root: root}}, nil
}

func compareCheckpoints(c *call, l view, argA, argB string) error {
	a, err := side(c, l, argA)
	if err != nil {
		return err
	}
	b, err := side(c, l, argB)
	if err != nil {
		return err
	}
	if a.Size > b.Size {
		a, b = b, a
	}
	size, err := l.end(c.ctx)
	if err != nil {
		return err
	}
	if b.Size > size {
		return fmt.Errorf("the log has %d entries and the checkpoint covers %d: %s is behind it, and cannot tell", size, b.Size, l.Dir())
	}
	hashes, err := l.ConsistencyProof(c.ctx, a.Size, b.Size)
	if err != nil {
		return err
	}
	err = proof.CheckConsistency(hashes, a.Size, b.Size, a.Root, b.Root)
	var mismatch *proof.MismatchError
	if err != nil && !errors.As(err, &mismatch) {
		return err
	}
	if err != nil {
		err = fmt.Errorf("the log of %d entries does not begin with that of %d: %w", b.Size, a.Size, err)
		for _, n := range []note{a, b} { // this log's own proof tells whose history a file is not of
			if root, rootErr := l.RootAt(c.ctx, n.Size); rootErr == nil && root != n.Root {
				err = fmt.Errorf("the checkpoint of %d entries is of another history than this log, whose root there is %s: keep it, one of the two is a fork", n.Size, root.Base64())
			}
		}
	}
	return c.printComparison(a, b, hashes, err)
}

func (c *call) printComparison(a, b note, hashes []proof.Hash, differ error) error {
	if c.json {
		list := make([]string, len(hashes))
		for i, h := range hashes {
			list[i] = h.Base64()
		}
		if err := c.answer(struct {
			Consistent bool           `json:"consistent"`
			A          checkpointJSON `json:"a"`
			B          checkpointJSON `json:"b"`
			Proof      []string       `json:"proof"`
		}{differ == nil, noteJSON(a), noteJSON(b), list}); err != nil {
			return err
		}
	} else {
		answer := styled{code: green, text: "consistent"}
		if differ != nil {
			answer = styled{code: red, text: "NOT consistent"}
		}
		c.out.printf("%s\n", answer)
		for _, n := range []note{a, b} {
			c.out.printf("  %d entries, root %s\n", n.Size, n.Root.Base64())
		}
		if differ == nil {
			c.out.printf("proof, %s:\n", plural(len(hashes), "hash"))
			for _, h := range hashes {
				c.out.printf("  %s\n", h.Base64())
			}
		}
	}
	if differ != nil {
		return &noError{differ}
	}
	return nil
}
