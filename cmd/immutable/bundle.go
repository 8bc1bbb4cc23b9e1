package main

import (
	"fmt"

	"github.com/tree-of-life-system/immutable"
)

const bundleUsage = `immutable bundle --out FILE

Writes an evidence bundle: one HTML file with entries, one proof that the log holds them, the signed checkpoint that it leads to,
the chain of keys, cosignatures and time stamps. Opened in a browser, also offline, it verifies itself and shows the entries. The
same file is verified by ` + "`immutable verify FILE`" + `.

A bundle of a whole range of indexes proves that nothing in the range is missing. One of a selection (--query, --level, --since,
--until) proves what is in it, and not that nothing was left out. Exit code 2 where nothing matches.

  immutable bundle --from 1000 --to 2000 --out march.html
  immutable bundle --query 'level:security user:"ann@example.com"' --out ann.html
  immutable verify ann.html --key auditor-keys
  immutable verify --page --out verifier.html      the page without evidence, for whoever receives bundles

  --query QUERY          entries that match (docs/search.md)
  --level LEVEL[,LEVEL]  only these levels
  --since TIME           at or after: RFC 3339, a date, or a duration such as 90m or 24h before now
  --until TIME           before
  --from INDEX           from this index on (default 0)
  --to INDEX             up to, not including, this index (default: as far as the newest checkpoint goes)
  --policy FILE          a C2SP tlog-policy to put into the bundle, for readers who have none (IMMUTABLE_POLICY)
  --out FILE             where to write; FILE must not exist. - is standard output
  --data                 write the data only, as JSON, not the page` + serverFlags + dirFlags + commonFlags

func setupBundle(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true, "policy")
	var levels levelList
	var o immutable.BundleOptions
	c.set.StringVar(&o.Query, "query", "", "")
	c.set.Var(&levels, "level", "")
	since := c.set.String("since", "", "")
	until := c.set.String("until", "", "")
	c.set.Uint64Var(&o.From, "from", 0, "")
	c.set.Uint64Var(&o.To, "to", 0, "")
	policy := c.set.String("policy", "", "")
	out := c.set.String("out", "", "")
	bare := c.set.Bool("data", false, "")
	return func() (err error) {
		if err := c.arguments(0, 0, "no argument"); err != nil {
			return err
		}
		if *out == "" {
			return c.usagef("--out names the file to write")
		}
		if o.Levels = levels; !c.remote() { // a server says itself what it is
			o.Program = "immutable " + programVersion()
		}
		if o.Since, err = c.moment("since", *since); err != nil {
			return err
		}
		if o.Until, err = c.moment("until", *until); err != nil {
			return err
		}
		if *policy != "" && !c.remote() {
			if o.Policy, err = readFile(*policy); err != nil {
				return fmt.Errorf("--policy: %w", err)
			}
		}
		return writeBundle(c, o, *out, *bare)
	}
}

func writeBundle(c *call, o immutable.BundleOptions, out string, bare bool) (err error) {
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	data, err := l.Bundle(c.ctx, o)
	if err != nil {
		return err
	}
	rep, err := immutable.VerifyBundle(data, immutable.VerifyBundleOptions{})
	if err != nil {
		return err
	}
	file := append(data, '\n')
	if !bare {
		file = immutable.BundlePage(data[:len(data):len(data)])
	}
	if out == "-" {
		c.out.bytes(file)
		return nil
	}
	if err := writeNew(out, file); err != nil {
		return err
	}
	if c.json {
		return c.answer(struct {
			File     string `json:"file"`
			Origin   string `json:"origin"`
			Entries  int    `json:"entries"`
			From     uint64 `json:"from"`
			To       uint64 `json:"to"`
			Complete bool   `json:"complete"`
			Size     uint64 `json:"size"`
			Root     string `json:"root"`
			Bytes    int    `json:"bytes"`
		}{out, rep.Origin, rep.Entries, rep.Statement.From, rep.Statement.To, rep.Complete, rep.Size, rep.Root, len(file)})
	}
	what := "a selection from"
	if rep.Complete {
		what = "all of"
	}
	c.out.printf("wrote %s: %s, %s the indexes %d up to %d, under the checkpoint of %s entries (%s)\n", out, plural(rep.Entries, "entry"), what,
		rep.Statement.From, rep.Statement.To, count(rep.Size), size(int64(len(file))))
	c.remark("whoever gets it verifies it with `immutable verify %s --key KEY`; give them a key of the log another way (`immutable key show`)\n", out)
	return nil
}
