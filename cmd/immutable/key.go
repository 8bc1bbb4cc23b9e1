package main

import (
	"errors"
	"time"

	"github.com/tree-of-life-system/immutable/proof"
)

const keyUsage = `immutable key show [--current] | chain | rotate

show prints the log's verifier keys, one a line, as C2SP signed-note keys: NAME+ID+KEY. The first is the log key, the others are
those of epoch 0, the first epoch of keys. Keep them elsewhere: ` + "`immutable verify --key`" + ` takes them.

Keys are replaced every day of use, and the old private ones destroyed: whoever steals today's cannot rewrite what was signed
before. chain prints what proves each epoch's keys by those of the epoch before. rotate replaces them now.

  immutable key show > audit.vkeys
  immutable key show --current            the log key, and the keys that sign now
  immutable key chain > audit.epochs      for those who verify receipts without the log
  immutable key rotate                    for example after a break-in

  --current              the keys of the current epoch instead of those of the first` +
	serverFlags + dirFlags + commonFlags

const epochFlags = `
  --epoch-duration TIME  replace the keys after this time in use: 12h, or never (default 24h)
  --epoch-entries N      replace the keys after N entries (default: no limit)`

// epochFlags declares the flags of a command that writes a log and may rotate its keys.
func (c *call) epochFlags() {
	c.set.Func("epoch-duration", "", func(s string) error {
		if s == "never" {
			c.epochDuration = -1
			return nil
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return errors.New("want a time such as 24h or 90m, or never")
		}
		c.epochDuration = d
		return nil
	})
	c.set.Uint64Var(&c.epochEntries, "epoch-entries", 0, "")
}

func setupKey(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	c.chained = true
	current := c.set.Bool("current", false, "")
	return func() error {
		what := ""
		if len(c.args) == 1 {
			what = c.args[0]
		}
		switch {
		case *current && what != "show":
		case what == "show" && *current:
			return c.withView(func(l view) error { return c.printKeys(l, l.CurrentKeys()) })
		case what == "show":
			return c.withView(func(l view) error { return c.printKeys(l, l.VerifierKeys()) })
		case what == "chain":
			return c.withView(func(l view) error { return printChain(c, l) })
		case what == "rotate":
			return rotateKeys(c)
		}
		return c.usagef("want show [--current], chain or rotate")
	}
}

func (c *call) printKeys(l view, keys []string) error {
	if c.json {
		if keys == nil {
			keys = []string{}
		}
		return c.answer(struct {
			Origin string   `json:"origin"`
			Dir    string   `json:"dir"`
			Keys   []string `json:"keys"`
			Epoch  uint64   `json:"epoch"` // the current one
		}{l.Origin(), l.Dir(), keys, l.Epoch()})
	}
	if len(keys) == 0 {
		c.out.printf("%s has no keys: it is unsigned\n", l.Origin())
	}
	for _, k := range keys {
		c.out.printf("%s\n", k)
	}
	return nil
}

// epochJSON is an epoch of keys as key chain --json lists it.
type epochJSON struct {
	Epoch uint64   `json:"epoch"`
	After uint64   `json:"after"` // its keys sign the checkpoints of sizes above this
	Keys  []string `json:"keys"`
}

// printChain prints the chain of keys, which it verifies first.
func printChain(c *call, l view) error {
	data, err := l.KeyChain()
	if err != nil {
		return err
	}
	links, err := proof.ParseEpochLinks(data)
	if err != nil {
		return evidence("%w; `immutable rebuild` makes it again", err)
	}
	chain, err := proof.NewChain(l.Origin(), l.VerifierKeys())
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := chain.Add(link); err != nil {
			return evidence("%w; `immutable rebuild` makes it again", err)
		}
	}
	if !c.json {
		if len(links) == 0 {
			c.remark("the keys were never rotated: there is nothing to prove\n")
			return nil
		}
		return c.document(data)
	}
	epochs := []epochJSON{}
	for _, e := range chain.Epochs() {
		out := epochJSON{Epoch: e.Number, After: e.After, Keys: []string{}}
		for _, k := range e.Keys {
			out.Keys = append(out.Keys, k.String())
		}
		epochs = append(epochs, out)
	}
	return c.answer(struct {
		Origin string      `json:"origin"`
		Epochs []epochJSON `json:"epochs"`
	}{l.Origin(), epochs})
}

func rotateKeys(c *call) (err error) {
	if c.remote() {
		return c.withView(func(l view) error {
			r := l.(*remote)
			if err := r.RotateKeys(c.ctx); err != nil {
				return err
			}
			if r.keys, err = r.Keys(c.ctx); err != nil {
				return err
			}
			return c.sayRotated(r)
		})
	}
	l, err := c.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	if err := l.RotateKeys(c.ctx); err != nil {
		return err
	}
	return c.sayRotated(directory{l})
}

func (c *call) sayRotated(l view) error {
	if c.json {
		return c.printKeys(l, l.CurrentKeys())
	}
	c.out.printf("epoch %d of keys began; the keys before it are destroyed, and what they signed can be signed by nobody again\n", l.Epoch())
	return nil
}
