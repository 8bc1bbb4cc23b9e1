package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// progress tells a person how far a long command is: a bar on a terminal, a line now and then elsewhere, nothing with
// --quiet or before two seconds have passed.
type progress struct {
	p     *printer
	what  string
	unit  string
	start time.Time

	mu          sync.Mutex // guards what follows: work is counted where it is done
	done, total uint64     // total 0: not known
	shown       time.Time
	visible     bool // a bar stands in the terminal's line
}

const (
	progressAfter = 2 * time.Second
	barInterval   = 200 * time.Millisecond
	lineInterval  = 5 * time.Second
)

// newProgress returns nil with --quiet; all methods take a nil progress.
func (c *call) newProgress(what, unit string) *progress {
	if c.quiet {
		return nil
	}
	return &progress{p: c.errs, what: what, unit: unit, start: time.Now()}
}

func (g *progress) add(n uint64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done += n
	g.show()
}

// set is for work that counts itself. total may grow.
func (g *progress) set(done, total uint64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done, g.total = done, total
	g.show()
}

// show prints when it is time to. g.mu is held.
func (g *progress) show() {
	now := time.Now()
	interval := lineInterval
	if g.p.terminal {
		interval = barInterval
	}
	if now.Sub(g.start) < progressAfter || now.Sub(g.shown) < interval {
		return
	}
	g.shown = now
	text := g.line(now)
	if g.p.terminal {
		g.p.raw("\r\x1b[K" + clean(text))
		g.visible = true
	} else {
		g.p.printf("%s\n", text)
	}
	_ = g.p.flush() // progress that cannot be shown is lost, nothing else
}

func (g *progress) line(now time.Time) string {
	seconds := now.Sub(g.start).Seconds()
	rate := float64(g.done) / seconds
	if g.total == 0 || g.done > g.total {
		return fmt.Sprintf("%s: %s %s, %s/s", g.what, count(g.done), g.unit, count(uint64(rate)))
	}
	share := float64(g.done) / float64(g.total)
	left := ""
	if rate > 0 {
		left = ", " + time.Duration(float64(g.total-g.done)/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	bar := ""
	if g.p.terminal {
		const width = 24
		full := int(share * width)
		bar = " [" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
	}
	return fmt.Sprintf("%s:%s %.0f%%, %s of %s %s, %s/s%s", g.what, bar, share*100, count(g.done), count(g.total), g.unit, count(uint64(rate)), left)
}

// clear removes the bar, so that something else can be printed.
func (g *progress) clear() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.visible {
		g.p.raw("\r\x1b[K")
		_ = g.p.flush() // as in show
		g.visible = false
	}
}

func (g *progress) end() { g.clear() }

// count is a number with its digits in threes.
func count[N int | int64 | uint64](n N) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size is a number of bytes.
func size(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[u])
}
