package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
)

// copyReport is what --from prints: what the copy holds beside the log, and the answer.
type copyReport struct {
	Verdict immutable.Verdict `json:"verdict"`
	File    string            `json:"file"`
	*export.CopyReport
}

// copied compares a copy in another system with the log. The entries are proven against the log's own state while they are read;
// whether that is what was signed, only the verification of the log says.
func (v *fileVerifier) copied() error {
	c := v.c
	if len(c.args) == 1 {
		c.dir = c.args[0]
	}
	if _, err := immutable.ParseFilter(v.query, time.Now()); err != nil {
		return c.usagef("--query: %s", err)
	}
	in, name := c.stdin, "standard input"
	if v.from != "-" {
		f, err := os.Open(v.from)
		if err != nil {
			return err
		}
		defer f.Close()
		in, name = f, v.from
	}
	return c.withLog(func(l *immutable.Log) error {
		bar := c.newProgress("comparing", "events")
		o := export.CopyOptions{Query: v.query, All: v.all, Progress: func(n uint64) { bar.set(n, 0) }}
		found, err := export.CheckCopy(c.ctx, l, io.Reader(in), o)
		bar.end()
		if err != nil {
			return err
		}
		r := copyReport{immutable.Consistent, name, found}
		if !found.Agrees() {
			r.Verdict = immutable.Refuted
		}
		v.said, v.verdict = r, r.Verdict
		if err := c.copyReport(&r); err != nil {
			return err
		}
		if r.Verdict == immutable.Refuted {
			return exit(exitNo)
		}
		return nil
	})
}

func (c *call) copyReport(r *copyReport) error {
	if c.json {
		return c.answer(r)
	}
	c.verdict(r.Verdict, r.File)
	c.out.printf("log %s, %s entries; the copy has %s: %s the same, %s by their mark only, %s more than once\n",
		r.Origin, count(r.Size), plural(int(r.Events), "event"), count(r.Same), count(r.Marked), count(r.Repeated))
	for _, f := range r.Changed {
		index := ""
		if f.Index >= 0 {
			index = fmt.Sprintf(", entry %d", f.Index)
		}
		c.out.printf("  %s line %d%s: %s\n", paint(red, "✗"), f.Line, index, quote(f.What))
		if f.Got != "" || f.Want != "" {
			c.out.printf("      copy  %s\n      log   %s\n", nothing(f.Got), nothing(f.Want))
		}
	}
	if r.Omitted > 0 {
		c.out.printf("  and %s more\n", count(r.Omitted))
	}
	for _, m := range r.Missing {
		if m.From == m.To {
			c.out.printf("  %s entry %d is missing\n", paint(red, "✗"), m.From)
		} else {
			c.out.printf("  %s entries %d to %d are missing\n", paint(red, "✗"), m.From, m.To)
		}
	}
	if len(r.Missing) > 0 {
		c.out.printf("  %s missing in all\n", plural(int(r.MissingN), "entry"))
	}
	c.out.printf("%s\n", paint(dim, "the copy was compared with the log; `immutable verify` says whether the log itself was changed"))
	return nil
}
