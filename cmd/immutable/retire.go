package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
)

const retireUsage = `immutable retire --older-than TIME (--cold DIR | --delete | --dry-run)

Takes sealed segments out of the log whose entries are all older than TIME, the oldest first: they are moved to a cold directory, or
deleted. Their leaf hashes and control entries stay, so every proof of their entries is still made and still verifies; an entry of
the log, the tombstone, says what went, where, and why. While a legal hold is active nothing is retired: exit code 1.

  immutable retire --older-than 365d --dry-run
  immutable retire --older-than 365d --cold /archive/audit --reason "one year is over"
  immutable retire --older-than 10y --delete --reason "policy 7.3"
  immutable retire --list
  immutable retire --undo --reason "needed for the audit"
  immutable verify --cold /archive/audit

TIME is as in 90m, 24h, 30d, 8w or 10y (of 365 days). Entries with idempotency keys are not retired within 24 hours.

  --older-than TIME      retire segments whose newest entry is older
  --oldest               retire the oldest sealed segment, whatever its age
  --cold DIR             copy the segments there first; a directory of this log alone
  --delete               do not copy them
  --dry-run              print what would be retired, and change nothing
  --list                 print what is retired
  --undo                 bring the segment that was retired last back, from --cold or from where its tombstone says
  --reason TEXT          stands in the tombstone; at most 1,024 bytes
  --by NAME              who decided it (default: the user who runs this)` + dirFlags + writeFlags + commonFlags

type retireCall struct {
	*call
	olderThan          string
	oldest, list, undo bool
	dryRun             bool
	o                  immutable.RetireOptions
}

func setupRetire(c *call) func() error {
	c.writeFlags()
	r := &retireCall{call: c}
	c.set.StringVar(&r.olderThan, "older-than", "", "")
	c.set.BoolVar(&r.oldest, "oldest", false, "")
	c.set.BoolVar(&r.dryRun, "dry-run", false, "")
	c.set.BoolVar(&r.list, "list", false, "")
	c.set.BoolVar(&r.undo, "undo", false, "")
	c.set.StringVar(&r.o.ColdDir, "cold", "", "")
	c.set.BoolVar(&r.o.Delete, "delete", false, "")
	c.set.StringVar(&r.o.Reason, "reason", "", "")
	c.set.StringVar(&r.o.By, "by", "", "")
	return r.run
}

func (r *retireCall) run() error {
	if err := r.arguments(0, 0, "no arguments"); err != nil {
		return err
	}
	asked := 0
	for _, b := range []bool{r.olderThan != "", r.oldest, r.list, r.undo} {
		if b {
			asked++
		}
	}
	if asked != 1 {
		return r.usagef("want one of --older-than, --oldest, --list and --undo")
	}
	if r.o.By == "" {
		r.o.By = r.user()
	}
	switch {
	case r.dryRun && (r.list || r.undo):
		return r.usagef("--dry-run goes with --older-than or --oldest")
	case r.list:
		return r.printRetired()
	case r.undo:
		return r.restore()
	}
	keep := time.Duration(0)
	if r.olderThan != "" {
		var err error
		if keep, err = age(r.olderThan); err != nil {
			return r.usagef("--older-than %s: %s", quote(r.olderThan), err)
		}
	}
	if r.dryRun {
		return r.preview(keep)
	}
	if (r.o.ColdDir == "") == !r.o.Delete {
		return r.usagef("want one of --cold DIR and --delete")
	}
	return r.retire(keep)
}

// age reads a time in days, weeks or years, or as time.ParseDuration does.
func age(text string) (time.Duration, error) {
	units := map[string]int64{"d": 1, "w": 7, "y": 365}
	if n := len(text); n > 1 && units[text[n-1:]] > 0 {
		const most = 100_000 // days, some 270 years
		v, err := strconv.ParseInt(text[:n-1], 10, 64)
		if days := units[text[n-1:]]; err == nil && v >= 0 && v <= most/days {
			return time.Duration(v*days) * 24 * time.Hour, nil
		}
	} else if v, err := time.ParseDuration(text); err == nil && v >= 0 {
		return v, nil
	}
	return 0, errAge
}

var errAge = &usageError{"want a time such as 90m, 24h, 30d, 8w or 10y"}

func (r *retireCall) retire(keep time.Duration) (err error) {
	l, err := r.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	done := []immutable.Retired{}
	if r.oldest {
		var one immutable.Retired
		if sealed := l.SealedSegments(); len(sealed) == 0 {
			return r.say(done)
		} else if one, err = l.Retire(r.ctx, sealed[0], r.o); err == nil {
			done = append(done, one)
		}
	} else {
		var list []immutable.Retired
		list, err = l.RetireExpired(r.ctx, keep, r.o)
		done = append(done, list...)
	}
	if err != nil && len(done) == 0 {
		return heldBack(err)
	}
	if serr := r.say(done); serr != nil {
		return serr
	}
	return heldBack(err)
}

// preview prints what retire would do, and what it would be refused for.
func (r *retireCall) preview(keep time.Duration) (err error) {
	l, err := r.openRead()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	holds, err := l.Holds(r.ctx)
	if err != nil {
		return err
	}
	list, err := l.Expired(r.ctx, keep)
	if err != nil {
		return err
	}
	if r.oldest {
		list = list[:min(1, len(list))]
	}
	if len(holds) > 0 && len(list) > 0 {
		return heldBack(&immutable.HeldError{Holds: holds})
	}
	type segment struct {
		First uint64 `json:"first"`
		End   uint64 `json:"end"`
		Bytes int64  `json:"bytes"`
	}
	out := []segment{}
	for i := range list {
		out = append(out, segment{list[i].First, list[i].End, list[i].Bytes})
	}
	if r.json {
		return r.answer(out)
	}
	if len(out) == 0 {
		r.out.printf("nothing would be retired: no sealed segment is old enough\n")
	}
	for _, x := range out {
		r.out.printf("entries %d to %d: %s would be retired\n", x.First, x.End-1, size(x.Bytes))
	}
	return nil
}

func (r *retireCall) say(list []immutable.Retired) error {
	if r.json {
		return r.answer(list)
	}
	if len(list) == 0 {
		r.out.printf("nothing to retire: no sealed segment is old enough\n")
	}
	for i := range list {
		r.line(&list[i])
	}
	return nil
}

func (r *retireCall) line(x *immutable.Retired) {
	where := "deleted"
	if x.Cold != "" {
		where = "moved to " + x.Cold
	}
	var text strings.Builder
	for _, s := range []string{x.Reason, x.By} {
		if s != "" {
			text.WriteString(", " + s)
		}
	}
	r.out.printf("entries %d to %d: %s, %s, by entry %d of %s%s\n", x.First, x.End-1, size(x.Bytes), where, x.Entry, x.Time.Format(time.RFC3339), text.String())
}

func (r *retireCall) printRetired() (err error) {
	l, err := r.openRead()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	list, err := l.Retired(r.ctx)
	if err != nil {
		return err
	}
	if r.json {
		return r.answer(append([]immutable.Retired{}, list...))
	}
	if len(list) == 0 {
		r.out.printf("nothing is retired\n")
	}
	for i := range list {
		r.line(&list[i])
	}
	return nil
}

func (r *retireCall) restore() (err error) {
	l, err := r.openWrite(true)
	if err != nil {
		return err
	}
	defer closing(l, &err)
	x, err := l.Restore(r.ctx, immutable.RestoreOptions{ColdDir: r.o.ColdDir, Reason: r.o.Reason, By: r.o.By})
	if err != nil {
		return err
	}
	if r.json {
		return r.answer(x)
	}
	r.out.printf("entries %d to %d are back\n", x.First, x.End-1)
	return nil
}

// retiredRows say what is not there any more, and what may not go.
func retiredRows(s *immutable.Stats) (rows [][2]string) {
	if s.RetiredEntries > 0 {
		rows = append(rows, [2]string{"retired", strings.Join([]string{count(s.RetiredEntries) + " entries", size(s.RetiredBytes) + " of archives; `immutable retire --list`"}, ", ")})
	}
	if s.Holds > 0 {
		rows = append(rows, [2]string{"holds", plural(s.Holds, "legal hold") + " active: nothing is retired"})
	}
	return rows
}
