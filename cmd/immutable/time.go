package main

import (
	"strings"

	"github.com/tree-of-life-system/immutable"
)

const timeUsage = `immutable time stamp [DIR] --authority URL

Asks a time-stamping authority (RFC 3161, over HTTP) for its word on the newest state of the log: everything that is in it now
existed before the authority's time. The stamp is kept in evidence/, and an entry names it: what is appended after that entry is
not older. Nobody is trusted by asking: ` + "`immutable verify --tsa-roots`" + ` says whose word counts.

  immutable time stamp --authority http://timestamp.example.com/tsr
  immutable time stamp /var/log/audit --authority http://timestamp.example.com/tsr --json

Long-running writers do this by themselves, with --time-authority or IMMUTABLE_TIME_AUTHORITIES. Exit code: 0 it is stamped · 2 it
is not, because the authority cannot be reached, refuses, or gave an answer that is not to the question.

  --authority URL        whom to ask` + dirFlags + writeFlags + commonFlags

func setupTime(c *call) func() error {
	c.writeFlags()
	authority := c.set.String("authority", "", "")
	return func() error {
		if len(c.args) < 1 || len(c.args) > 2 || c.args[0] != "stamp" {
			return c.usagef("want stamp [DIR]")
		}
		if len(c.args) == 2 {
			c.dir = c.args[1]
		}
		if *authority == "" {
			return c.usagef("want --authority URL")
		}
		c.authorities = nil // this one is asked, once
		return stampTime(c, *authority)
	}
}

func stampTime(c *call, authority string) (err error) {
	l, err := c.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	ts, err := l.StampTime(c.ctx, authority)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(struct {
			Size      uint64  `json:"size"`
			Time      string  `json:"time"`
			Accuracy  float64 `json:"accuracySeconds"`
			Authority string  `json:"authority"`
			Name      string  `json:"name"`
			File      string  `json:"file"`
			Index     uint64  `json:"index"`
		}{ts.Size, ts.Time.Format(exactTime), ts.Accuracy.Seconds(), ts.Authority, ts.Name, ts.File, ts.Anchor})
	}
	c.out.printf("%d entries existed before %s ± %v, says %s\nkept in %s, named by entry %d\n", ts.Size, ts.Time.Format(exactTime), ts.Accuracy, ts.Name, ts.File, ts.Anchor)
	return nil
}

// urlList is a flag that may be repeated, or have several values with commas.
type urlList []string

func (l *urlList) String() string { return strings.Join(*l, ",") }

func (l *urlList) Set(s string) error {
	for u := range strings.SplitSeq(s, ",") {
		if u = strings.TrimSpace(u); u != "" {
			*l = append(*l, u)
		}
	}
	return nil
}

const producerUsage = `immutable producer new KEYFILE --name NAME | register KEY | end KEY | list

A producer is a source that signs its events and numbers them without gaps. Verification then says which events are the source's,
and which of them never came: completeness beside integrity.

  immutable producer new billing.key --name billing.example.com     makes a key, prints its public part
  immutable producer register billing.key                           the key counts in this log from now on
  tail -F app.jsonl | immutable append --producer billing.key       each entry signed and numbered
  immutable producer list
  immutable producer end billing.key                                entries that it signs from now on are bad

KEY is a public key, a file that holds one, or the key file. The key file has mode 0600; the files beside it hold the numbers that
were used. Keep them together, and never use a copy on a second host: it would give out numbers again.

  --name NAME            of the source, for new
  --algorithm ALGORITHM  of the key, for new: ed25519 (default) or ml-dsa-44` + dirFlags + writeFlags + commonFlags

func setupProducer(c *call) func() error {
	c.writeFlags()
	name := c.set.String("name", "", "")
	algorithm := c.set.String("algorithm", immutable.ProducerEd25519, "")
	return func() error {
		what, args := "", c.args
		if len(args) > 0 {
			what, args = args[0], args[1:]
		}
		switch {
		case what == "new" && len(args) == 1 && *name != "":
			return newProducer(c, args[0], *name, *algorithm)
		case what == "new" && len(args) == 1:
			return c.usagef("new wants --name NAME, the source's name")
		case what == "list" && len(args) == 0:
			return c.withLog(func(l *immutable.Log) error { return listProducers(c, l) })
		case (what == "register" || what == "end") && len(args) == 1:
			return registerProducer(c, what, args[0])
		}
		return c.usagef("want new KEYFILE, register KEY, end KEY, or list")
	}
}

func newProducer(c *call, file, name, algorithm string) error {
	p, err := immutable.NewProducer(file, name, algorithm)
	if err != nil {
		return err
	}
	key, id := p.Key(), p.ID()
	if err := p.Close(); err != nil {
		return err
	}
	if c.json {
		return c.answer(struct {
			Name string `json:"name"`
			ID   string `json:"id"`
			Key  string `json:"key"`
			File string `json:"file"`
		}{name, id, key, file})
	}
	c.out.printf("%s\n", key)
	c.remark("the private key is in %s; register the public one with `immutable producer register`\n", file)
	return nil
}

// producerKey reads a public key, a file that holds one, or a private key's file.
func producerKey(arg string) (string, error) {
	if strings.Count(arg, "+") >= 2 {
		return arg, nil
	}
	data, err := readFile(arg)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(string(data), "PRODUCER+KEY+") {
		return strings.TrimSpace(string(data)), nil
	}
	p, err := immutable.OpenProducer(arg)
	if err != nil {
		return "", err
	}
	return p.Key(), p.Close()
}

func registerProducer(c *call, what, arg string) (err error) {
	key, err := producerKey(arg)
	if err != nil {
		return err
	}
	l, err := c.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	do := l.RegisterProducer
	if what == "end" {
		do = l.EndProducer
	}
	r, err := do(c.ctx, key)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(struct {
			Key   string `json:"key"`
			Index uint64 `json:"index"`
		}{key, r.Index})
	}
	if what == "end" {
		c.out.printf("entries from %d on that this key signs are bad\n", r.Index+1)
		return nil
	}
	c.out.printf("the key counts from entry %d on\n", r.Index+1)
	return nil
}

func listProducers(c *call, l *immutable.Log) error {
	list, err := l.Producers(c.ctx)
	if err != nil {
		return err
	}
	if c.json {
		if list == nil {
			list = []immutable.ProducerKey{}
		}
		return c.answer(struct {
			Producers []immutable.ProducerKey `json:"producers"`
		}{list})
	}
	for _, p := range list {
		c.out.printf("%s  %s  from entry %d", p.ID, p.Name, p.From)
		if p.Ended {
			c.out.printf(" to %d", p.End)
		}
		c.out.printf("\n")
	}
	if len(list) == 0 {
		c.remark("no producer's key is registered\n")
	}
	return nil
}
