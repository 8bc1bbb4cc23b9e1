package main

import (
	"errors"
	"slices"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/repair"
)

const repairUsage = `immutable repair --from BACKUP

Restores damaged files of the log from a backup, which may be older than the log. A candidate is put together of the log's own
good files and, where one is damaged, the backup's, and verified against what this host knows; only then are files replaced.
What they replace is moved to quarantine/. If the backup lacks what is needed, the missing entries are named and nothing is changed.

  immutable repair --from /backup/logs
  immutable verify --quiet || immutable repair --from /backup/logs --json

Exit code: 0 the log is good (again) · 1 it cannot be repaired from this backup · 2 it could not be tried.

  --from BACKUP          directory with a copy of the log; it is only read` + dirFlags + commonFlags

func setupRepair(c *call) func() error {
	c.dirFlags()
	from := c.set.String("from", "", "")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		if *from == "" {
			return c.usagef("want --from BACKUP")
		}
		return runRepair(c, *from)
	}
}

func runRepair(c *call, from string) error {
	state := c.stateDir
	if state == "" {
		var err error
		if state, err = immutable.DefaultStateDir(); err != nil {
			return err
		}
	}
	res, err := repair.Run(c.ctx, repair.Options{Dir: c.dir, Backup: from, State: state})
	var impossible *repair.Error
	if errors.As(err, &impossible) {
		return &noError{err}
	}
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(res)
	}
	if !res.Repaired {
		c.out.printf("nothing to repair: the log of %d entries is %s\n", res.Size, res.Verdict)
		return nil
	}
	for _, name := range res.Replaced {
		c.out.printf("restored %s\n", name)
	}
	for _, what := range res.Quarantined {
		c.out.printf("kept %s\n", what)
	}
	c.out.printf("repaired: %d entries\n", res.Size)
	if slices.Contains(res.Replaced, "log.json") {
		c.out.printf("next: `immutable adopt`: log.json is another file now, as in a copy\n")
	}
	if res.Rebuild {
		c.out.printf("next: `immutable rebuild` makes missing indexes and seals again\n")
	} else {
		c.out.printf("the log is %s\n", res.Verdict)
	}
	return nil
}
