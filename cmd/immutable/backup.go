package main

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/backup"
)

const backupUsage = `immutable backup OUT

Makes a snapshot of the log in OUT, also while it is written. A snapshot is a log's directory; it gets its name, time and number of
entries, only once it has been verified. Sealed segments are shared with the snapshot before as hard links, so that a further
snapshot takes what was written since. Heads and private keys are never in it: see docs/operations.md for what brings a log back.

  immutable backup /backup/audit
  immutable backup --data-dir /var/lib/immutable /backup/all     every log, setting and token of a server
  immutable verify --no-head /backup/audit/20261123T191500-4711

Remove old snapshots as directories; the others keep what they need.
Exit code: 0 done · 1 a log does not verify: there is no snapshot of it · 2 it could not be tried.

  --data-dir DIR         copy a server's whole data directory, which may be running
  --full                 share nothing with the snapshot before` + dirFlags + commonFlags

const restoreUsage = `immutable restore BACKUP

Brings a log back from a snapshot, or from the newest in a directory of snapshots, into --dir, which must not exist or be empty. The
snapshot is verified by itself, and beside what this host has signed: where that is more, nothing is restored, because a log
that goes on from an older state forks. Then the log is adopted, so that it can be written, if this host has its keys.

  immutable restore /backup/audit --dir /var/log/audit
  immutable restore /backup/all --data-dir /var/lib/immutable    a server's: it must have nothing but, at most, its state directory
  immutable restore /backup/audit --dir look --read-only         only to look at

Exit code: 0 restored · 1 the evidence is against it · 2 it could not be tried.

  --data-dir DIR         restore a server's whole data directory
  --read-only            do not adopt: the log is there to be read and verified` + dirFlags + commonFlags

func setupBackup(c *call) func() error {
	c.dirFlags()
	data := c.set.String("data-dir", "", "")
	full := c.set.Bool("full", false, "")
	return func() error {
		if err := c.arguments(1, 1, "OUT, the directory for snapshots"); err != nil {
			return err
		}
		o := backup.Options{Dir: c.dir, Out: c.args[0], Full: *full}
		bar := c.copyProgress()
		defer bar.end()
		o.Progress = bar.set
		if *data != "" {
			o.Dir = *data
			return c.backupAll(o, bar)
		}
		r, err := backup.Run(c.ctx, o)
		bar.end()
		var bad *backup.Error
		if errors.As(err, &bad) {
			return &noError{err}
		}
		if err != nil {
			return err
		}
		if c.json {
			return c.answer(r)
		}
		c.snapshot(r)
		return nil
	}
}

func (c *call) backupAll(o backup.Options, bar *copyProgress) error {
	r, err := backup.RunAll(c.ctx, o)
	bar.end()
	if err != nil {
		return err
	}
	if c.json {
		if err := c.answer(r); err != nil {
			return err
		}
	} else {
		for i := range r.Logs {
			c.snapshot(&r.Logs[i])
		}
		c.out.printf("%s of settings\n", plural(r.Files, "file"))
	}
	for _, rel := range slices.Sorted(maps.Keys(r.Failed)) {
		c.errs.printf("%s %s: %s\n", paint(red, "no snapshot of"), rel, r.Failed[rel])
	}
	if len(r.Failed) > 0 {
		return exit(exitNo)
	}
	return nil
}

func (c *call) snapshot(r *backup.Result) {
	c.out.printf("%s\n  log %s, %s entries, %s of them under a checkpoint; %s copied, %s shared\n",
		r.Snapshot, r.Origin, count(r.Size), count(r.Checkpoint), size(r.Copied), size(r.Shared))
}

func setupRestore(c *call) func() error {
	c.dirFlags()
	data := c.set.String("data-dir", "", "")
	readOnly := c.set.Bool("read-only", false, "")
	return func() error {
		if err := c.arguments(1, 1, "BACKUP, a snapshot or a directory of snapshots"); err != nil {
			return err
		}
		bar := c.copyProgress()
		defer bar.end()
		o := backup.RestoreOptions{From: c.args[0], Dir: c.dir, State: c.stateDir, Progress: bar.set}
		if *data != "" {
			o.Dir = *data
			return c.restoreAll(o, bar, *readOnly)
		}
		if o.State == "" && !*readOnly {
			var err error
			if o.State, err = immutable.DefaultStateDir(); err != nil {
				return err
			}
		}
		r, err := backup.Restore(c.ctx, o)
		bar.end()
		if err != nil {
			return restoreError(err)
		}
		return c.restored([]backup.Restored{*r}, func(*backup.Restored) string { return o.State }, nil, *readOnly)
	}
}

// restoreError gives what the evidence says its own exit code.
func restoreError(err error) error {
	var bad *backup.Error
	var fork *backup.ForkError
	if errors.As(err, &bad) || errors.As(err, &fork) {
		return &noError{err}
	}
	return err
}

func (c *call) restoreAll(o backup.RestoreOptions, bar *copyProgress, readOnly bool) error {
	list, failed, err := backup.RestoreAll(c.ctx, o)
	bar.end()
	if err != nil {
		return err
	}
	state := func(r *backup.Restored) string {
		rel, err := filepath.Rel(o.Dir, r.Dir)
		if err != nil {
			return o.State // both are of one kind
		}
		return backup.TenantState(o.Dir, o.State, filepath.ToSlash(rel))
	}
	return c.restored(list, state, failed, readOnly)
}

// restoredLog is a restored log, and whether it can be written.
type restoredLog struct {
	backup.Restored
	Adopted bool   `json:"adopted"`
	Why     string `json:"why,omitempty"` // it cannot be written
}

// restored adopts what was restored, and says all.
func (c *call) restored(list []backup.Restored, state func(*backup.Restored) string, failed map[string]error, readOnly bool) error {
	logs := []restoredLog{}
	for i := range list {
		r := restoredLog{Restored: list[i]}
		if readOnly {
			r.Why = "--read-only was given"
		} else if _, err := immutable.Adopt(c.ctx, r.Dir, &immutable.Config{StateDir: state(&list[i])}); err != nil {
			r.Why = err.Error()
		} else {
			r.Adopted = true
		}
		logs = append(logs, r)
	}
	reasons := map[string]string{}
	for rel, err := range failed {
		reasons[rel] = err.Error()
	}
	if c.json {
		err := c.answer(struct {
			Logs   []restoredLog     `json:"logs"`
			Failed map[string]string `json:"failed"`
		}{logs, reasons})
		if err != nil {
			return err
		}
	} else {
		for _, r := range logs {
			known := "this host knew nothing of it, so whether there was more cannot be told here"
			if r.Known {
				known = "it agrees with what this host has signed"
			}
			c.out.printf("%s\n  log %s, %s entries, from %s: %s\n", r.Dir, r.Origin, count(r.Size), r.Snapshot, known)
			if !r.Adopted {
				c.out.printf("  %s %s\n", paint(yellow, "to be read only:"), r.Why)
			}
		}
	}
	for _, rel := range slices.Sorted(maps.Keys(reasons)) {
		c.errs.printf("%s %s: %s\n", paint(red, "not restored:"), rel, reasons[rel])
	}
	if len(failed) > 0 {
		return exit(exitNo)
	}
	return nil
}

// copyProgress shows what is under way, copying or verifying.
type copyProgress struct {
	c    *call
	mu   sync.Mutex
	what string
	bar  *progress
}

func (c *call) copyProgress() *copyProgress { return &copyProgress{c: c} }

func (p *copyProgress) set(what string, done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if what != p.what {
		p.bar.end()
		unit := "bytes"
		if what == "verifying" {
			unit = "entries"
		}
		p.what, p.bar = what, p.c.newProgress(what, unit)
	}
	p.bar.set(done, total)
}

func (p *copyProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bar.end()
	p.what, p.bar = "", nil
}
