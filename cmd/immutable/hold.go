package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
)

const holdUsage = `immutable hold [ID --reason TEXT]

While a legal hold is active nothing of the log is retired (` + "`immutable retire`" + `). Holds are entries of the log: when one began and
ended can be proven, and verification refutes a log of which something was retired in between. Without an ID it lists those that are
active.

  immutable hold case-2026-17 --reason "Smith v. Jones, letter of 3 March"
  immutable hold
  immutable hold --release case-2026-17 --reason "settled"

An ID is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit.

  --release              end the hold of this ID
  --reason TEXT          stands in the entry; at most 1,024 bytes
  --by NAME              who decided it (default: the user who runs this)` + appendFlags + dirFlags + writeFlags + commonFlags

func setupHold(c *call) func() error {
	c.writeFlags()
	c.flagsOfServer(false, "policy", "by")
	var h immutable.Hold
	release := c.set.Bool("release", false, "")
	c.set.StringVar(&h.Reason, "reason", "", "")
	c.set.StringVar(&h.By, "by", "", "")
	return func() error {
		if err := c.arguments(0, 1, "at most one ID"); err != nil {
			return err
		}
		if len(c.args) == 0 {
			if *release {
				return c.usagef("--release needs the ID of the hold")
			}
			return listHolds(c)
		}
		if h.ID = c.args[0]; h.By == "" {
			h.By = c.user()
		}
		return changeHold(c, h, *release)
	}
}

// user is who runs the program, as the environment says; it is the word of whoever runs it.
func (c *call) user() string {
	for _, name := range []string{"USER", "LOGNAME", "USERNAME"} {
		if s := strings.TrimSpace(c.getenv(name)); s != "" {
			return s
		}
	}
	return ""
}

// holder is a log with holds: in a directory, or on a server.
type holder interface {
	Hold(context.Context, immutable.Hold) (immutable.Receipt, error)
	Release(context.Context, immutable.Hold) (immutable.Receipt, error)
	Holds(context.Context) ([]immutable.Hold, error)
	Close() error
}

func (c *call) openHolds(write bool) (holder, error) {
	switch {
	case !c.remote() && write:
		return c.openWrite(true)
	case !c.remote():
		return c.openRead()
	}
	cfg, err := c.clientConfig(writeRetry)
	if err != nil {
		return nil, err
	}
	return client.New(cfg)
}

func changeHold(c *call, h immutable.Hold, release bool) (err error) {
	l, err := c.openHolds(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	change, what := l.Hold, "holds"
	if release {
		change, what = l.Release, "is released"
	}
	r, err := change(c.ctx, h)
	if err != nil {
		return c.ofServer(err)
	}
	if c.json {
		return c.answer(r)
	}
	c.out.printf("%s %s, as entry %d says\n", h.ID, what, r.Index)
	return nil
}

func listHolds(c *call) (err error) {
	l, err := c.openHolds(false)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	holds, err := l.Holds(c.ctx)
	if err != nil {
		return c.ofServer(err)
	}
	if c.json {
		return c.answer(append([]immutable.Hold{}, holds...))
	}
	if len(holds) == 0 {
		c.out.printf("no legal hold is active\n")
	}
	for _, h := range holds {
		c.out.printf("%s  since %s, entry %d, by %s: %s\n", h.ID, h.Since.Format(time.RFC3339), h.Index, quote(h.By), h.Reason)
	}
	return nil
}

// sayRetired tells a person that entries were asked for that are not there any more.
func (c *call) sayRetired(x *immutable.Explain) {
	if x != nil && x.Retired > 0 {
		c.remark("%s retired and not looked at; `immutable retire --list` says where they went\n", pluralAre(x.Retired, "entry"))
	}
}

func pluralAre(n uint64, what string) string {
	if n == 1 {
		return plural(1, what) + " is"
	}
	return plural(int(n), what) + " are"
}

// heldBack is the error of a retirement that a hold forbids: the answer is no.
func heldBack(err error) error {
	var held *immutable.HeldError
	if errors.As(err, &held) {
		return &noError{err}
	}
	return err
}
