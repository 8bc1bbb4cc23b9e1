package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tree-of-life-system/immutable"
)

const demoUsage = `immutable demo

Writes a small log, shows and verifies it, then attacks copies of it and shows how each attack is caught. It works in a temporary
directory with its own keys and removes it.

  immutable demo
  immutable demo --keep      leave the directory, to look around in it

  --keep                 do not remove the directory` + commonFlags

func setupDemo(c *call) func() error {
	d := &demo{c: c}
	keep := c.set.Bool("keep", false, "")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		return d.run(*keep)
	}
}

type demo struct {
	c       *call
	root    string // holds everything
	results []demoResult
}

type demoResult struct {
	Attack  string `json:"attack"`
	Verdict string `json:"verdict"`
	Caught  bool   `json:"caught"`
	How     string `json:"how"`
}

const demoOrigin = "demo.example/audit"

func (d *demo) run(keep bool) (err error) {
	if d.root, err = os.MkdirTemp("", "immutable-demo-"); err != nil {
		return err
	}
	if !keep {
		defer func() {
			if rerr := os.RemoveAll(d.root); err == nil {
				err = rerr
			}
		}()
	}
	if err := d.write(); err != nil {
		return err
	}
	if err := d.show(); err != nil {
		return err
	}
	if err := d.attacks(); err != nil {
		return err
	}
	return d.conclude(keep)
}

func (d *demo) path(names ...string) string {
	return filepath.Join(append([]string{d.root}, names...)...)
}

// say prints for people; --json has only the results.
func (d *demo) say(format string, args ...any) {
	if !d.c.json {
		d.c.out.printf(format, args...)
	}
}

// demoEvents are what the demo logs, in two sessions of a writer.
func demoEvents() (first, second []immutable.Event) {
	event := func(l immutable.Level, message, metadata string) immutable.Event {
		return immutable.Event{Level: l, Message: message, RawMetadata: []byte(metadata), Hostname: "web-1", PID: 4711}
	}
	first = []immutable.Event{
		event(immutable.System, "service started", `{"version":"4.2.0"}`),
		event(immutable.Audit, "user signed in", `{"user":"ann","ip":"198.51.100.7","method":"password+totp"}`),
		event(immutable.Audit, "role granted", `{"by":"ann","to":"bob","role":"billing-admin"}`),
		event(immutable.Revenue, "invoice paid", `{"invoice":"in_1042","amount":129900,"currency":"EUR"}`),
		event(immutable.Security, "sign-in failed", `{"user":"root","ip":"203.0.113.99","reason":"unknown user"}`),
	}
	second = []immutable.Event{
		event(immutable.Audit, "payout account changed", `{"by":"bob","iban":"DE89…3000","ticket":null}`),
		event(immutable.Revenue, "payout sent", `{"amount":98000,"currency":"EUR","to":"DE89…3000"}`),
		event(immutable.Critical, "disk nearly full", `{"volume":"/var","free":"2%"}`),
		event(immutable.Audit, "user deleted", `{"by":"bob","user":"carol"}`),
	}
	return first, second
}

func (d *demo) open(log, state string) (*immutable.Log, error) {
	return immutable.Open(log, &immutable.Config{Origin: demoOrigin, StateDir: state})
}

// write makes the log in two sessions, and keeps a backup of the time between them.
func (d *demo) write() error {
	first, second := demoEvents()
	for i, events := range [][]immutable.Event{first, second} {
		if i == 1 {
			if err := copyTree(d.path("yesterday"), d.path("log")); err != nil {
				return err
			}
		}
		l, err := d.open(d.path("log"), d.path("state"))
		if err != nil {
			return err
		}
		for _, e := range events {
			if _, err := l.Append(d.c.ctx, e); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) show() (err error) {
	l, err := immutable.Open(d.path("log"), &immutable.Config{StateDir: d.path("state"), ReadOnly: true})
	if err != nil {
		return err
	}
	defer closing(l, &err)
	d.say("%s\n\n", paint(bold, "1. A log. Every entry was on the disk before its append returned."))
	if !d.c.json {
		for e, err := range l.Entries(d.c.ctx, immutable.Query{}) {
			if err != nil {
				return err
			}
			d.c.entry(&e)
		}
	}
	note, err := l.Checkpoint()
	if err != nil {
		return err
	}
	d.say("\n%s\n\n", paint(bold, "2. Its signed checkpoint: size and root over all entries. Keep one elsewhere."))
	if !d.c.json {
		d.c.out.indented(shortened(string(note)))
	}
	rep, err := d.verify(d.path("log"))
	if err != nil {
		return err
	}
	d.say("\n%s\n\n", paint(bold, "3. Verification reads everything again."))
	d.say("  %s: %d entries, signed, nothing contradicts\n", paint(green, strings.ToUpper(string(rep.Verdict))), rep.Size)
	if rep.Verdict != immutable.Proven {
		return evidence("the demo's own log is %s", rep.Verdict)
	}
	return nil
}

func (d *demo) verify(dir string) (*immutable.Report, error) {
	return immutable.VerifyDir(d.c.ctx, dir, &immutable.Config{StateDir: d.path("state")}, immutable.VerifyOptions{})
}

// attacks changes copies of the log, each in its own way.
func (d *demo) attacks() error {
	d.say("\n%s\n\n", paint(bold, "4. Attacks, each on a copy, by somebody who can write to every file of the log."))
	for i, a := range []struct {
		name string
		do   func(dir string) error
	}{
		{"edit an amount in one entry", d.edit},
		{"delete the entry that names the attacker", d.deleteEntry},
		{"swap two entries", d.reorder},
		{"cut off the last entry", d.cut},
		{"edit an entry and recompute the whole chain, tree and indexes", d.rechain},
		{"put an older signed checkpoint in the place of the newest", d.oldCheckpoint},
		{"replace everything by a forged log with its own key", d.replace},
		{"restore yesterday's backup, which is valid by itself", d.rollback},
	} {
		dir := d.path(fmt.Sprintf("attack-%d", i+1))
		if err := copyTree(dir, d.path("log")); err != nil {
			return err
		}
		if err := a.do(dir); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		rep, err := d.verify(dir)
		if err != nil {
			return fmt.Errorf("verify after: %s: %w", a.name, err)
		}
		r := demoResult{Attack: a.name, Verdict: string(rep.Verdict), Caught: rep.Verdict == immutable.Refuted, How: "not caught"}
		if r.Caught {
			f := &rep.Findings[0]
			r.How = place(f) + ": " + f.What
		}
		d.results = append(d.results, r)
		colour := green
		if !r.Caught {
			colour = red
		}
		d.say("  %s %s\n", styled{code: colour, text: strings.ToUpper(r.Verdict), width: 8}, r.Attack)
		d.say("  %s\n", paint(dim, "         "+r.How))
	}
	return nil
}

func (d *demo) conclude(keep bool) error {
	missed := 0
	for _, r := range d.results {
		if !r.Caught {
			missed++
		}
	}
	if d.c.json {
		if err := d.c.answer(struct {
			Attacks []demoResult `json:"attacks"`
			Dir     string       `json:"dir,omitempty"`
		}{d.results, kept(keep, d.root)}); err != nil {
			return err
		}
	}
	if missed > 0 {
		return evidence("%d attacks were not caught", missed)
	}
	d.say("\nAll %d were caught. The last two only because something was kept outside the directory: this host's head, or a checkpoint,\n", len(d.results))
	d.say("key or receipt kept elsewhere (`immutable verify --checkpoint FILE --key KEY`). Without that, a whole replaced log looks whole.\n")
	if keep {
		d.say("\nleft in %s: try `immutable verify --dir %s --state-dir %s`\n", d.root, d.path("attack-1"), d.path("state"))
	}
	return nil
}

func kept(keep bool, dir string) string {
	if keep {
		return dir
	}
	return ""
}

const segmentName = "immutable.log"

// rewrite changes a file of a copied log.
func rewrite(dir, name string, change func([]byte) ([]byte, error)) error {
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if data, err = change(data); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func replaceIn(from, to string) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		if !bytes.Contains(data, []byte(from)) {
			return nil, fmt.Errorf("%q is not there", from)
		}
		return bytes.Replace(data, []byte(from), []byte(to), 1), nil
	}
}

func (d *demo) edit(dir string) error {
	return rewrite(dir, segmentName, replaceIn(`"amount":98000`, `"amount":18000`))
}

// entryLines are the places of the entries among the lines of a segment.
func entryLines(data []byte) (all [][]byte, entries []int) {
	all = bytes.SplitAfter(data, []byte("\n"))
	for i, line := range all {
		if bytes.HasPrefix(line, []byte(`{"id":`)) {
			entries = append(entries, i)
		}
	}
	return all, entries
}

func (d *demo) deleteEntry(dir string) error {
	return rewrite(dir, segmentName, func(data []byte) ([]byte, error) {
		all, entries := entryLines(data)
		all[entries[5]] = nil
		return bytes.Join(all, nil), nil
	})
}

func (d *demo) reorder(dir string) error {
	return rewrite(dir, segmentName, func(data []byte) ([]byte, error) {
		all, entries := entryLines(data)
		a, b := entries[2], entries[3]
		all[a], all[b] = all[b], all[a]
		return bytes.Join(all, nil), nil
	})
}

// cut leaves a log that ends with a valid batch.
func (d *demo) cut(dir string) error {
	return rewrite(dir, segmentName, func(data []byte) ([]byte, error) {
		_, entries := entryLines(data)
		all := bytes.SplitAfter(data, []byte("\n"))
		return bytes.Join(all[:entries[len(entries)-1]], nil), nil
	})
}

// forge writes a log of its own with one entry changed: everything in it is recomputed, and signed with another key.
func (d *demo) forge(dir string) error {
	l, err := d.open(dir, dir+"-state")
	if err != nil {
		return err
	}
	first, second := demoEvents()
	for _, e := range append(first, second...) {
		e.RawMetadata = bytes.ReplaceAll(e.RawMetadata, []byte(`"by":"bob"`), []byte(`"by":"ann"`))
		if _, err := l.Append(d.c.ctx, e); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	return l.Close()
}

// rechain takes the forged entries and hashes, and leaves the signed checkpoints, for which there is no key.
func (d *demo) rechain(dir string) error {
	forged := dir + "-forged"
	if err := d.forge(forged); err != nil {
		return err
	}
	return rewrite(dir, segmentName, func([]byte) ([]byte, error) { return os.ReadFile(filepath.Join(forged, segmentName)) })
}

func (d *demo) oldCheckpoint(dir string) error {
	return rewrite(dir, "checkpoint", func([]byte) ([]byte, error) { return os.ReadFile(d.path("yesterday", "checkpoint")) })
}

func (d *demo) replace(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return d.forge(dir)
}

func (d *demo) rollback(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return copyTree(dir, d.path("yesterday"))
}

// copyTree copies a directory of files and directories.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Mkdir(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

// shortened cuts long lines, which are signatures (3 KB of ML-DSA), to what a person looks at.
func shortened(text string) string {
	const most = 100
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if r := []rune(line); len(r) > most+40 {
			lines[i] = fmt.Sprintf("%s… (%d characters in all)\n", string(r[:most]), len(r)-1)
		}
	}
	return strings.Join(lines, "")
}
