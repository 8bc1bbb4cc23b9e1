package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/drill"
)

const drillUsage = `immutable drill

Attacks a log and shows who notices. It makes a scratch log in a temporary directory, with keys, three witnesses and a time
authority of its own, carries out each named attack on a copy with exactly what its attacker has, and lets five verifiers judge: one
that knows nothing but the directory, and four that know one thing more. Exit code 0 if every attack came out as documented
(docs/threat-model.md) and nobody objected to the log that was not attacked, else 1.

With --dir (or IMMUTABLE_LOG_DIR) the scratch log holds the first entries of that log. It is only read: nothing is attacked but
copies in the temporary directory, and no key or state of this host is used or changed. With --append one AUDIT entry with the
result, which the log signs as it does all entries, is added to it.

  immutable drill
  immutable drill --dir /var/log/audit --append
  immutable drill --json > drill.json
  immutable drill --keep ./drill && immutable verify --dir ./drill/04/log --state-dir ./drill/04/state

  --keep DIR             work in DIR, which must not exist, and leave it: a directory for each attack
  --append               append the result to the log in --dir` + drillDirFlags + commonFlags

const drillDirFlags = `
  --dir DIR              take events from this log (IMMUTABLE_LOG_DIR; default: events of the drill's own)
  --state-dir DIR        where this host keeps heads and private keys (IMMUTABLE_STATE_DIR), for --append`

// Limits of what is taken from a log.
const (
	drillEvents = 1000
	drillBytes  = 1 << 20
)

func setupDrill(c *call) func() error {
	c.set.StringVar(&c.dir, "dir", "", "")
	c.set.StringVar(&c.stateDir, "state-dir", "", "")
	keep := c.set.String("keep", "", "")
	add := c.set.Bool("append", false, "")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		if *add && c.dir == "" {
			return c.usagef("--append needs --dir: the log to append to")
		}
		return runDrill(c, *keep, *add)
	}
}

func runDrill(c *call, keep string, add bool) (err error) {
	o := drill.Options{}
	if c.dir != "" {
		if o.Events, err = c.drillEvents(); err != nil {
			return err
		}
	}
	work, remove, err := drillWork(keep)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	bar := c.newProgress("attacking", "attacks")
	if bar != nil {
		o.Progress = bar.set
	}
	o.Work = work
	r, err := drill.Run(c.ctx, o)
	bar.end()
	if err != nil {
		return err
	}
	data, err := marshal(r)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if c.json {
		c.out.bytes(data)
	} else {
		c.printDrill(r, keep)
	}
	if add {
		if err := c.appendDrill(r, data); err != nil {
			return err
		}
	}
	if !r.AsDocumented {
		return evidence("%d of %d attacks did not come out as documented%s", differing(r), len(r.Attacks), objected(r))
	}
	return nil
}

// drillWork is where a drill works, and how it is taken away after.
func drillWork(keep string) (work string, remove func() error, err error) {
	if keep != "" {
		if _, err := os.Lstat(keep); err == nil {
			return "", nil, fmt.Errorf("--keep %s: it exists; name a new directory", quote(keep))
		}
		work, err = filepath.Abs(keep)
		return work, func() error { return nil }, err
	}
	temp, err := os.MkdirTemp("", "immutable-drill-")
	return filepath.Join(temp, "drill"), func() error { return os.RemoveAll(temp) }, err
}

// drillEvents are the first entries of the log that its newest checkpoint covers, as events. What the log itself wrote, and the
// signatures of producers, are left out: they mean nothing in another log.
func (c *call) drillEvents() (list []immutable.Event, err error) {
	l, err := c.openRead()
	if err != nil {
		return nil, err
	}
	defer closing(l, &err)
	note, err := l.Checkpoint()
	if err != nil {
		return nil, err
	}
	at, err := l.OpenCheckpoint(note)
	if err != nil {
		return nil, err
	}
	left, keys := drillBytes, map[string]bool{}
	for e, err := range l.Entries(c.ctx, immutable.Query{Limit: drillEvents}) {
		if err != nil {
			return nil, err
		}
		if e.Control != nil {
			continue
		}
		if left -= len(e.Line); left < 0 || e.Index >= at.Size {
			break
		}
		if e.IdempotencyKey != "" && keys[e.IdempotencyKey] {
			e.IdempotencyKey = "" // used again after its time was over, which does not pass here
		}
		keys[e.IdempotencyKey] = true
		list = append(list, immutable.Event{
			Level: e.Level, Message: e.Message, RawMetadata: e.Metadata, Hostname: e.Hostname, PID: e.PID,
			EventTime: e.EventTime, TraceID: e.TraceID, SpanID: e.SpanID, IdempotencyKey: e.IdempotencyKey,
		})
	}
	return list, nil
}

// printDrill prints the matrix for people.
func (c *call) printDrill(r *drill.Result, keep string) {
	width := 0
	for _, a := range r.Attacks {
		width = max(width, len([]rune(a.Name)))
	}
	c.out.printf("%-*s", width, "attack")
	for _, name := range drill.Columns {
		c.out.printf("  %-12s", name)
	}
	c.out.printf("\n")
	for _, a := range r.Attacks {
		c.out.printf("%-*s", width, a.Name)
		for _, name := range drill.Columns {
			o := a.DetectedBy[name]
			c.out.printf("  %s", styled{code: drillColour(o), text: o.Word(), width: 12})
		}
		c.out.printf("\n")
		for _, d := range a.Differences {
			c.out.printf("  %s\n", styled{code: red, text: "NOT AS DOCUMENTED: " + d})
		}
	}
	for _, text := range r.Control.Said {
		c.out.printf("%s\n", styled{code: red, text: "CONTROL: " + text})
	}
	c.out.raw("\n" + drill.Legend + "\n\n") // a constant of this program
	c.out.printf("%s on a log of %s; %s as documented; the log that was not attacked: %s\n", plural(len(r.Attacks), "attack"), plural(int(r.Entries), "entry"),
		allBut(len(r.Attacks)-differing(r), len(r.Attacks)), silence(r))
	if keep != "" {
		c.out.printf("left in %s: a directory for each attack, in this order; --json says what each verifier found\n", keep)
	}
}

func drillColour(o drill.Outcome) string {
	switch o {
	case drill.Refuted, drill.NotTold, drill.Incomplete, drill.Clock:
		return green
	case drill.Shorter, drill.Uncovered:
		return yellow
	case drill.Unseen:
		return red
	}
	return ""
}

func allBut(good, all int) string {
	if good == all {
		return "all"
	}
	return fmt.Sprintf("%d of %d", good, all)
}

func silence(r *drill.Result) string {
	if r.Control.Silent {
		return "nobody objects"
	}
	return "somebody objects"
}

func objected(r *drill.Result) string {
	if r.Control.Silent {
		return ""
	}
	return ", and a verifier objects to the log that was not attacked"
}

func differing(r *drill.Result) (n int) {
	for _, a := range r.Attacks {
		if !a.AsDocumented {
			n++
		}
	}
	return n
}

// appendDrill adds the result to the log. data is what --json prints.
func (c *call) appendDrill(r *drill.Result, data []byte) (err error) {
	l, err := c.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	outcomes := map[string]map[drill.Outcome]int{}
	for _, name := range drill.Columns {
		outcomes[name] = map[drill.Outcome]int{}
		for _, a := range r.Attacks {
			outcomes[name][a.DetectedBy[name]]++
		}
	}
	receipt, err := l.Audit(c.ctx, "drill: attacks on a copy of this log", immutable.Fields{
		"attacks": len(r.Attacks), "asDocumented": r.AsDocumented, "differing": differing(r), "controlSilent": r.Control.Silent,
		"outcomes": outcomes, "sha256": fmt.Sprintf("%x", sha256.Sum256(data)), "program": "immutable " + programVersion(),
	})
	if err != nil {
		return err
	}
	c.remark("entry %d of %s holds the result\n", receipt.Index, c.dir)
	return nil
}
