package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/collect"
	"github.com/tree-of-life-system/immutable/internal/intake"
	"github.com/tree-of-life-system/immutable/internal/syslog"
	"github.com/tree-of-life-system/immutable/internal/trail"
)

const collectUsage = `immutable collect [flags] FILE|DIRECTORY|PATTERN…

Follows files and appends their lines, each once, until it is told to stop. It goes on where it stopped: files may be rotated by
renaming or by copying and truncating, truncated and removed, and the collector stopped or killed. Each entry says in the member
"collect" of its metadata which bytes of which file it is made of. A directory stands for the files in it, a pattern such as
'/var/log/*.log' for those that it matches at any time. Compressed files are left out. docs/collect.md has the details.

  immutable collect /var/log/auth.log --format authlog
  immutable collect '/var/log/nginx/*.log*' --format access --server https://logs.example.com --tenant web
  immutable collect app.log --multiline '^\d{4}-'
  immutable collect --once --json /var/log/app

  --format FORMAT        text: the line is the message; jsonl; syslog: lines as syslogd writes them; access, authlog: web servers'
                         access logs, sshd's and sudo's, taken apart (default text)
  --level LEVEL          of text lines (default info)
  --multiline REGEX      a record begins where a line matches; other lines go on with the one before (default: each line is one)
  --from-end             of files that are there at the first start take what is new only
  --once                 stop when all that is there is collected
  --source NAME          this host, in the entries (default: host name)
  --offsets FILE         what remembers how far (default: by the log, in the state directory)
  --poll TIME            how often to look where nothing tells of changes (default 1s)
  --quiet                no progress` + appendFlags + dirFlags + writeFlags + commonFlags

func setupCollect(c *call) func() error {
	c.writeFlags()
	c.flagsOfServer(false, "policy")
	cfg := collect.Config{}
	format := c.set.String("format", "text", "")
	level := c.set.String("level", "info", "")
	multiline := c.set.String("multiline", "", "")
	c.set.BoolVar(&cfg.FromEnd, "from-end", false, "")
	c.set.BoolVar(&cfg.Once, "once", false, "")
	c.set.StringVar(&cfg.Source, "source", "", "")
	c.set.StringVar(&cfg.Offsets, "offsets", "", "")
	c.set.DurationVar(&cfg.Poll, "poll", time.Second, "")
	return func() (err error) {
		if err := c.arguments(1, 10_000, "files, directories or patterns"); err != nil {
			return err
		}
		cfg.Paths = c.args
		if cfg.Level, err = immutable.ParseLevel(*level); err != nil {
			return c.usagef("%s", err)
		}
		if *multiline != "" {
			if cfg.Multiline, err = regexp.Compile(*multiline); err != nil {
				return c.usagef("--multiline: %s", err)
			}
		}
		if cfg.Poll < 10*time.Millisecond || cfg.Poll > time.Hour {
			return c.usagef("--poll is a time from 10ms to 1h")
		}
		if cfg.Decode, err = lineDecoder(*format, cfg.Level); err != nil {
			return c.usagef("%s", err)
		}
		if cfg.Source == "" {
			if cfg.Source, err = os.Hostname(); err != nil {
				return fmt.Errorf("find this host's name (or give --source): %w", err)
			}
		}
		return c.collect(cfg)
	}
}

// lineDecoder makes events of lines; nil for text.
func lineDecoder(format string, level immutable.Level) (func([]byte) (immutable.Event, error), error) {
	switch format {
	case "text":
		return nil, nil
	case "jsonl":
		o := &intake.Options{Format: intake.Lines, Level: level, NamedLevel: true}
		return func(line []byte) (immutable.Event, error) {
			r := intake.ParseLine(bytes.Clone(bytes.TrimSpace(line)), o)
			return r.Event, r.Err
		}, nil
	case "syslog":
		return func(line []byte) (immutable.Event, error) {
			raw := line
			if !bytes.HasPrefix(line, []byte("<")) { // files have no priority; 13 is what RFC 3164 gives such messages
				line = append([]byte("<13>"), line...)
			}
			m := syslog.Parse(line, time.Now())
			return m.Event(raw, netip.AddrPort{}), m.Err
		}, nil
	case string(trail.Access), string(trail.AuthLog):
		p, err := trail.New(trail.Format(format), trail.Options{})
		if err != nil {
			return nil, err
		}
		return func(line []byte) (immutable.Event, error) {
			es := p.Parse(nil, line)
			if len(es) != 1 {
				return immutable.Event{}, fmt.Errorf("the line is no event of the format %s", format)
			}
			return es[0], nil
		}, nil
	}
	return nil, fmt.Errorf("--format is text, jsonl, syslog, access or authlog, not %s", quote(format))
}

func (c *call) collect(cfg collect.Config) (err error) {
	l, err := c.openAppender()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	cfg.Append, cfg.Logger = l.Append, c.logger()
	if local, ok := l.(*immutable.Log); ok {
		cfg.Name, cfg.Entries = local.Origin(), local.Entries
	} else {
		// What a token that may only append has collected is known by the offsets and the keys.
		cfg.Name, cfg.Keys = c.address(), true
	}
	if cfg.Offsets == "" {
		dir := c.stateDir
		if dir == "" {
			if dir, err = immutable.DefaultStateDir(); err != nil {
				return err
			}
		}
		cfg.Offsets = filepath.Join(dir, "collect", strings.Map(fileRune, cfg.Name)+".json")
	}
	bar := c.newProgress("collecting", "lines")
	cfg.Progress = func(n int) { bar.add(uint64(n)) }
	stats, err := collect.Run(c.ctx, cfg)
	bar.end()
	if err != nil {
		return fmt.Errorf("%w (%d entries are durable)", c.ofServer(err), stats.Entries)
	}
	if stats.Left > 0 {
		c.remark("%d bytes at the ends of files are no whole lines yet: they are collected once their line ends\n", stats.Left)
	}
	if c.json {
		return c.answer(stats)
	}
	c.out.printf("%d entries from %d files\n", stats.Entries, stats.Files)
	if stats.Gaps > 0 {
		c.remark("%d files went before all of them was collected; entries with the action source.gap say which\n", stats.Gaps)
	}
	return nil
}

func fileRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
		return r
	}
	return '_'
}
