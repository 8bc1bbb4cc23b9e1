package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
  --continue             of --data-dir: a log that cannot go on, because its keys are lost or more was signed than the snapshot has,
                         is kept in DIR/earlier, and a new one that anchors it takes its place
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
	goOn := c.set.Bool("continue", false, "")
	return func() error {
		if err := c.arguments(1, 1, "BACKUP, a snapshot or a directory of snapshots"); err != nil {
			return err
		}
		bar := c.copyProgress()
		defer bar.end()
		o := backup.RestoreOptions{From: c.args[0], Dir: c.dir, State: c.stateDir, Progress: bar.set}
		if *goOn && (*data == "" || *readOnly) {
			return c.usagef("--continue is of --data-dir, without --read-only; for one log: `immutable continue OLD NEW`")
		}
		if *data != "" {
			o.Dir = *data
			return c.restoreAll(o, bar, *readOnly, *goOn)
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
		return c.restored([]backup.Restored{*r}, func(*backup.Restored) string { return o.State }, nil, *readOnly, nil)
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

func (c *call) restoreAll(o backup.RestoreOptions, bar *copyProgress, readOnly, goOn bool) error {
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
	var proceed func(string, error) (string, error)
	if goOn {
		proceed = func(rel string, why error) (string, error) { return c.proceed(o, rel, why) }
		for rel, why := range failed {
			if fork := (*backup.ForkError)(nil); !errors.As(why, &fork) {
				continue
			}
			next, err := proceed(rel, why)
			if err != nil {
				failed[rel] = errors.Join(why, err)
				continue
			}
			delete(failed, rel)
			c.remark("%s: %s\n", rel, next)
		}
	}
	return c.restored(list, state, failed, readOnly, func(r *backup.Restored, why error) (string, error) {
		rel, err := filepath.Rel(o.Dir, r.Dir)
		if err != nil || proceed == nil {
			return "", errors.Join(why, err)
		}
		return proceed(filepath.ToSlash(rel), why)
	})
}

// proceed keeps the snapshot of a log that cannot go on in DIR/earlier, and begins one in its place that anchors it. It says what was done.
func (c *call) proceed(o backup.RestoreOptions, rel string, why error) (string, error) {
	state := backup.TenantState(o.Dir, o.State, rel)
	dir := filepath.Join(o.Dir, filepath.FromSlash(rel))
	if err := os.RemoveAll(dir); err != nil { // a copy of the snapshot, if anything
		return "", err
	}
	old, err := backup.Earlier(c.ctx, o, rel)
	if err != nil {
		return "", err
	}
	l, err := immutable.Continue(c.ctx, old.Dir, dir, &immutable.Config{StateDir: state, Origin: successor(old.Origin, rel)})
	if err != nil {
		return "", fmt.Errorf("continue %s: %w", old.Dir, err)
	}
	text := fmt.Sprintf("%s continues %s, of which %s has %s entries: %s", l.Origin(), old.Origin, old.Dir, count(old.Size), reason(why))
	return text, l.Close()
}

// successor is the origin of the log that continues another: <prefix>/<tenant>/<log>/2, …/3 and so on. rel is tenants/<tenant>/logs/<log>.
func successor(origin, rel string) string {
	if parts := strings.Split(rel, "/"); len(parts) == 4 && strings.HasSuffix(origin, "/"+parts[1]+"/"+parts[3]) {
		return origin + "/2"
	}
	at := strings.LastIndexByte(origin, '/')
	if n, err := strconv.Atoi(origin[at+1:]); err == nil {
		return origin[:at+1] + strconv.Itoa(n+1)
	}
	return origin + "/2"
}

// reason is an error in one line.
func reason(err error) string {
	if refused := (*immutable.RefusedError)(nil); errors.As(err, &refused) {
		return refused.Reason
	}
	if fork := (*backup.ForkError)(nil); errors.As(err, &fork) {
		return "this host has signed more than the snapshot has"
	}
	return err.Error()
}

// restoredLog is a restored log, and whether it can be written.
type restoredLog struct {
	backup.Restored
	Adopted   bool   `json:"adopted"`
	Why       string `json:"why,omitempty"`       // it cannot be written
	Continued string `json:"continued,omitempty"` // by which log
}

// restored adopts what was restored, and says all.
func (c *call) restored(list []backup.Restored, state func(*backup.Restored) string, failed map[string]error, readOnly bool, proceed func(*backup.Restored, error) (string, error)) error {
	logs := []restoredLog{}
	for i := range list {
		r := restoredLog{Restored: list[i]}
		if readOnly {
			r.Why = "--read-only was given"
		} else if r.Earlier {
			r.Why = "another log has continued it"
		} else if _, err := immutable.Adopt(c.ctx, r.Dir, &immutable.Config{StateDir: state(&list[i])}); err != nil {
			r.Why = reason(err)
			if proceed != nil {
				if r.Continued, err = proceed(&list[i], err); err != nil {
					r.Why = reason(err)
				}
			}
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
			switch {
			case r.Continued != "":
				c.out.printf("  %s\n", r.Continued)
			case !r.Adopted:
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
