package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
)

const initUsage = `immutable init --origin NAME

Makes a new log and prints its verifier keys. Other commands that write make a log too, with a name of host and random digits;
init is for a name of your choice: a URL without https://, that no other log has.

  immutable init --origin example.com/audit --dir /var/log/audit

Keep the printed keys elsewhere and give them to those who shall verify the log.
` + dirFlags + writeFlags + commonFlags

func setupInit(c *call) func() error {
	c.writeFlags()
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		return initLog(c)
	}
}

func initLog(c *call) (err error) {
	if l, err := c.openRead(); err == nil {
		origin := l.Origin()
		return errors.Join(fmt.Errorf("%s holds the log %s already", c.dir, origin), l.Close())
	} else if !errors.Is(err, immutable.ErrNotFound) {
		return err
	}
	l, err := c.openWrite(false)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	return c.printKeys(directory{l}, l.VerifierKeys())
}

const rotateUsage = `immutable rotate

Seals the open segment now, whatever its size, and waits until it is compressed, indexed and signed. Entries after the last whole
group of 256 stay in the open segment.

  immutable rotate
` + appendFlags + dirFlags + writeFlags + commonFlags

func setupRotate(c *call) func() error {
	c.writeFlags()
	c.flagsOfServer(false, "policy")
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		return rotate(c)
	}
}

func rotate(c *call) (err error) {
	if c.remote() {
		return rotateRemote(c)
	}
	l, err := c.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	before := len(l.SealedSegments())
	if err := l.Rotate(c.ctx); err != nil {
		return err
	}
	return c.saySealed(before, len(l.SealedSegments()), l.Size())
}

func (c *call) saySealed(before, sealed int, size uint64) error {
	if c.json {
		return c.answer(struct {
			Sealed   int    `json:"sealed"`
			Segments int    `json:"segments"`
			Size     uint64 `json:"size"`
		}{sealed - before, sealed + 1, size})
	}
	if sealed == before {
		c.out.printf("nothing to seal: the open segment has no whole group of 256 entries\n")
		return nil
	}
	c.out.printf("sealed %s; %d are sealed now\n", plural(sealed-before, "segment"), sealed)
	return nil
}

// rotateRemote counts the sealed segments before by the server's statistics, which have the open one too.
func rotateRemote(c *call) (err error) {
	cfg, err := c.clientConfig(writeRetry)
	if err != nil {
		return err
	}
	l, err := client.New(cfg)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	s, err := l.Stats(c.ctx)
	if err != nil {
		return c.ofServer(err)
	}
	sealed, size, err := l.Rotate(c.ctx)
	if err != nil {
		return err
	}
	return c.saySealed(min(sealed, max(0, s.Segments-1-s.Pending)), sealed, size)
}

const rebuildUsage = `immutable rebuild

Makes tree/, chain, epochs (the chain of keys), indexes and seals again from the entries, which must yield what this host has
signed. Entries and checkpoints are not touched.

  immutable rebuild
` + dirFlags + writeFlags + commonFlags

func setupRebuild(c *call) func() error {
	c.writeFlags()
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		return rebuild(c)
	}
}

func rebuild(c *call) (err error) {
	l, err := c.openWrite(true)
	if errors.Is(err, immutable.ErrEpochs) {
		c.remark("%s\nmaking the chain of keys again, from the entries and the kept checkpoints\n", err)
		if _, err := immutable.RebuildEpochs(c.ctx, c.dir, c.config()); err != nil {
			return err
		}
		l, err = c.openWrite(true)
	}
	if err != nil {
		return err
	}
	defer closing(l, &err)
	bar := c.newProgress("rebuilding", "segments")
	done, err := l.Rebuild(c.ctx, bar.set)
	bar.end()
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(done)
	}
	c.out.printf("rebuilt tree and chain of %s, and index and seal of %s\n", plural(int(done.Groups), "group"), plural(done.Segments, "sealed segment"))
	if done.Epochs > 0 {
		c.out.printf("rebuilt the chain of keys: %s\n", plural(done.Epochs, "rotation"))
	}
	return nil
}

const adoptUsage = `immutable adopt [DIR]

Makes this host know a log whose head it does not have (its state was lost), or a copy that shall take the original's place. The
directory is verified first. Refused where it is behind what this host has signed, or where the private key is not here.

  immutable adopt /restored/logs

It trusts that the directory is the newest state there is: a restored backup that is older would fork the log.
Exit code: 0 adopted · 1 the evidence is against it · 2 it could not be tried.
` + dirFlags + commonFlags

func setupAdopt(c *call) func() error {
	c.dirFlags()
	return func() error {
		if err := c.arguments(0, 1, "at most one directory"); err != nil {
			return err
		}
		if len(c.args) == 1 {
			c.dir = c.args[0]
		}
		a, err := immutable.Adopt(c.ctx, c.dir, &immutable.Config{StateDir: c.stateDir})
		var refused *immutable.RefusedError
		if errors.As(err, &refused) {
			return &noError{err}
		}
		if err != nil {
			return err
		}
		if c.json {
			return c.answer(struct {
				Origin  string `json:"origin"`
				Size    uint64 `json:"size"`
				Root    string `json:"root"`
				Trusted string `json:"trusted"`
			}{a.Origin, a.Size, a.Root.Base64(), a.Trusted})
		}
		c.out.printf("adopted %s at %d entries, root %s\n", a.Origin, a.Size, a.Root.Base64())
		c.out.printf("it stands on: %s\n", a.Trusted)
		return nil
	}
}

const continueUsage = `immutable continue OLD NEW

Makes a new log in NEW whose first entry holds the newest checkpoint of the log in OLD, and what its verification says. OLD may be
damaged, refused or from elsewhere; it is not changed.

  immutable continue /old/logs /var/log/audit --origin example.com/audit-2
` + `
  --state-dir DIR        where this host keeps heads and private keys (IMMUTABLE_STATE_DIR)
  --rotate-size BYTES    seal the open segment at this size (default 104857600)
  --origin NAME          name of the new log (default: host name and random digits)
  --blockchain-enabled=false
                         make the new log without keys and checkpoints` + epochFlags + commonFlags

func setupContinue(c *call) func() error {
	c.set.StringVar(&c.stateDir, "state-dir", "", "")
	c.set.Int64Var(&c.rotateSize, "rotate-size", 0, "")
	c.set.StringVar(&c.origin, "origin", "", "")
	c.set.BoolVar(&c.chained, "blockchain-enabled", true, "")
	c.epochFlags()
	return func() error {
		if err := c.arguments(2, 2, "the old and the new directory"); err != nil {
			return err
		}
		return continueLog(c, c.args[0], c.args[1])
	}
}

func continueLog(c *call, from, to string) (err error) {
	l, err := immutable.Continue(c.ctx, from, to, c.config())
	if err != nil {
		return err
	}
	defer closing(l, &err)
	e, err := l.Entry(c.ctx, 0)
	if err != nil {
		return err
	}
	if c.json {
		return c.answer(struct {
			Origin  string `json:"origin"`
			Dir     string `json:"dir"`
			Control string `json:"control"`
		}{l.Origin(), l.Dir(), string(e.Control)})
	}
	c.out.printf("made %s in %s; its first entry says\n  %s\n", l.Origin(), l.Dir(), e.Control)
	return nil
}

const clockUsage = `immutable clock reset

Lets timestamps go back, after this host's clock had run ahead and was corrected: until the clock has caught up, new entries would
otherwise hold the last entry's timestamp. A control entry records it. Where it is not needed it does nothing.

  immutable clock reset
` + dirFlags + writeFlags + commonFlags

func setupClock(c *call) func() error {
	c.writeFlags()
	return func() error {
		if len(c.args) != 1 || c.args[0] != "reset" {
			return c.usagef("want reset")
		}
		return resetClock(c)
	}
}

func resetClock(c *call) (err error) {
	l, err := c.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	r, wrote, err := l.ResetClock(c.ctx)
	if err != nil {
		return err
	}
	if c.json {
		out := struct {
			Wrote   bool     `json:"wrote"`
			Receipt *receipt `json:"receipt,omitempty"`
		}{Wrote: wrote}
		if wrote {
			j := receiptJSON(&r)
			out.Receipt = &j
		}
		return c.answer(out)
	}
	if !wrote {
		c.out.printf("not needed: the clock is not behind the last entry\n")
		return nil
	}
	c.out.printf("entry %d records that the clock was reset\n", r.Index)
	return nil
}

const versionUsage = `immutable version

Prints the program's version, the Go version it was built with, and the on-disk format it writes.
` + commonFlags

const formatVersion = "immutable/1"

func setupVersion(c *call) func() error {
	return func() error {
		if err := c.arguments(0, 0, "no arguments"); err != nil {
			return err
		}
		version := programVersion()
		if c.json {
			return c.answer(map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "format": formatVersion})
		}
		c.out.printf("immutable %s, %s %s/%s, format %s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, formatVersion)
		return nil
	}
}

func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
