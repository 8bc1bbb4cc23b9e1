// Package drill attacks a log and shows who notices.
//
// It makes a scratch log with keys, witnesses and a time authority of its own, carries out named attacks on copies of it,
// each with exactly what its attacker has, and lets verifiers judge that know different things. What each of them should say
// stands in one table, the matrix: the drill fails where reality differs. It judges with the verification that everybody uses;
// its forging tools are its own.
package drill

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/identity"
)

// Knowledge is what a verifier has besides the directory.
type Knowledge int

// Each knows the directory, and one thing more.
const (
	Directory Knowledge = iota // nothing
	Head                       // this host's state; it is the attacker's where he has root
	Key                        // the keys of epoch 0, and not the log key
	Receipt                    // the receipts of the last appends, and a checkpoint of some time ago
	Witnesses                  // a policy, what its witnesses saw last, and the roots of the time authority
	numKnowledge
)

// Names of Knowledge, as JSON has them. They are stable.
var knowledgeNames = [numKnowledge]string{"directory", "head", "key", "receipt", "witnesses"}

func (k Knowledge) String() string { return knowledgeNames[k] }

// Outcome is what a verifier says of an attacked log.
type Outcome string

// The outcomes. They are stable.
const (
	Refuted    Outcome = "refuted"    // the attack is found, with the place
	NotTold    Outcome = "unknown"    // it could not tell: no good log looks so at rest, and a crash may leave it
	Incomplete Outcome = "incomplete" // the log stands; what a source sent is missing or bad
	Clock      Outcome = "clock"      // the log stands; timestamps contradict outsiders
	Shorter    Outcome = "shorter"    // proven, or consistent, but it ends earlier than the log did: only who knows that sees it
	Uncovered  Outcome = "uncovered"  // proven, but not up to its end: the last entries only agree with the directory
	Unseen     Outcome = "undetected" // it passes
	NoSuch     Outcome = "n/a"        // such a verifier cannot be asked
)

// Options says how to run a drill.
type Options struct {
	Work     string                   // a directory that does not exist yet; everything happens in it
	Events   []immutable.Event        // what the scratch log is filled with, before events of the drill's own
	Progress func(done, total uint64) // may be nil; called from one goroutine at a time
}

// Result is what a drill found. Its JSON form is stable: members are added, never changed or removed.
type Result struct {
	Attacks      []Attack `json:"attacks"`
	Control      Control  `json:"control"`
	Entries      uint64   `json:"entries"` // of the scratch log
	AsDocumented bool     `json:"as_documented"`
}

// Attack is how one attack went.
type Attack struct {
	Name         string             `json:"name"`
	Powers       string             `json:"powers"`
	DetectedBy   map[string]Outcome `json:"detected_by"`
	AsDocumented bool               `json:"as_documented"`
	Explanation  string             `json:"explanation"`
	Found        map[string]string  `json:"found"` // what each verifier said first
	Differences  []string           `json:"differences,omitempty"`
}

// Control is the same without an attack: every verifier must be content.
type Control struct {
	DetectedBy map[string]Outcome `json:"detected_by"`
	Silent     bool               `json:"silent"`
	Said       []string           `json:"said,omitempty"` // what should not have been said
}

// Run makes the scratch log and carries out every attack. The error says that the drill could not be held; an attack that
// went otherwise than documented is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	return run(ctx, &o, matrix)
}

func run(ctx context.Context, o *Options, rows []row) (r *Result, err error) {
	if o.Progress == nil {
		o.Progress = func(uint64, uint64) {}
	}
	s, err := newScratch(ctx, o.Work, o.Events)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r = &Result{Attacks: make([]Attack, len(rows)), AsDocumented: true}
	if r.Control, r.Entries, err = s.control(ctx); err != nil {
		return nil, err
	}
	if err := s.all(ctx, rows, r.Attacks, o.Progress); err != nil {
		return nil, err
	}
	r.AsDocumented = r.Control.Silent
	for i := range r.Attacks {
		r.AsDocumented = r.AsDocumented && r.Attacks[i].AsDocumented
	}
	return r, nil
}

// all runs the attacks, as many at a time as there are processors.
func (s *scratch) all(ctx context.Context, rows []row, out []Attack, progress func(done, total uint64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	var mu sync.Mutex // guards done
	done := uint64(0)
	for range min(runtime.GOMAXPROCS(0), len(out)) {
		workers.Go(func() {
			for i := range next {
				a, err := s.attack(ctx, &rows[i], fmt.Sprintf("%02d", i+1))
				if err != nil {
					cancel(fmt.Errorf("attack %q: %w", rows[i].name, err))
					return
				}
				out[i] = a
				mu.Lock()
				done++
				progress(done, uint64(len(out)))
				mu.Unlock()
			}
		})
	}
	for i := range out {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// A target is one attack under way.
type target struct {
	*scratch
	*image // what the attacker leaves behind
	ctx    context.Context
	root   string // a directory of its own
	dir    string // where the log is for the verifiers
	host   string // the state directory of the host that they are on

	says    string // what the documented finding says
	indexes bool   // verifiers recompute the indexes
	had     uint64 // entries that the log had acknowledged before the attack

	acknowledged *immutable.Receipt // of an append that the scratch log's receipts do not have
}

// attack carries one out, in a directory of that name, and asks each verifier.
func (s *scratch) attack(ctx context.Context, row *row, name string) (Attack, error) {
	t := s.target(ctx, name)
	t.says, t.indexes = row.says, row.indexes
	if err := row.do(t); err != nil {
		return Attack{}, err
	}
	if t.image != nil {
		if err := t.write(t.dir, t.host); err != nil {
			return Attack{}, err
		}
	}
	a := Attack{
		Name: row.name, Powers: row.powers, Explanation: row.why, AsDocumented: true,
		DetectedBy: map[string]Outcome{}, Found: map[string]string{},
	}
	for k := range numKnowledge {
		ask := row.verify
		if ask == nil {
			ask = (*target).ask
		}
		got, said, err := ask(t, k)
		if err != nil {
			return Attack{}, fmt.Errorf("verifier that knows the %s: %w", k, err)
		}
		a.DetectedBy[k.String()], a.Found[k.String()] = got, said
		if want := row.want[k]; got != want {
			a.Differences = append(a.Differences, fmt.Sprintf("a verifier that knows the %s says %s, documented is %s", k, got, want))
		} else if got == Refuted && !contains(said, row.says) {
			a.Differences = append(a.Differences, fmt.Sprintf("a verifier that knows the %s refutes it for another reason than documented (%q): %s", k, row.says, said))
		}
	}
	a.AsDocumented = len(a.Differences) == 0
	return a, nil
}

func (s *scratch) target(ctx context.Context, name string) *target {
	root := filepath.Join(s.root, name)
	return &target{scratch: s, image: s.now.clone(), ctx: ctx, root: root, dir: filepath.Join(root, "log"), host: filepath.Join(root, "state"), had: s.size()}
}

// options is what a verifier knows. The state directory is never this host's own.
func (t *target) options(k Knowledge) immutable.VerifyOptions {
	o := immutable.VerifyOptions{NoHead: k != Head, Indexes: t.indexes, Workers: 1}
	switch k {
	case Key:
		o.Keys = t.keys
	case Receipt:
		o.Receipts, o.Checkpoints = t.receipts, [][]byte{t.early}
	case Witnesses:
		o.Policy, o.Checkpoints, o.TimeRoots = t.policy, t.seen, t.authority.roots()
	}
	return o
}

// ask is the verification of the directory as `immutable verify` does it.
func (t *target) ask(k Knowledge) (Outcome, string, error) { return t.askWith(k, t.options(k)) }

func (t *target) askWith(k Knowledge, o immutable.VerifyOptions) (Outcome, string, error) {
	rep, err := immutable.VerifyDir(t.ctx, t.dir, &immutable.Config{StateDir: t.host}, o)
	if err != nil {
		return "", "", err
	}
	switch {
	case rep.Verdict == immutable.Refuted:
		return Refuted, t.said(rep.Findings), nil
	case rep.Verdict == immutable.Unknown:
		return NotTold, t.said(rep.Notes), nil
	case rep.Completeness == immutable.Incomplete:
		p := &rep.Producers[0] // the scratch log has one
		return Incomplete, fmt.Sprintf("producer %s: %d of %d missing, %d bad", p.Name, p.Lacking, p.Highest, p.Bad), nil
	case rep.ClockOutside > 0:
		return Clock, fmt.Sprintf("%d timestamps outside their brackets, the first of entry %d", rep.ClockOutside, rep.Clock[0].From), nil
	case rep.Size < t.had:
		return Shorter, fmt.Sprintf("%s, %d entries", rep.Verdict, rep.Size), nil
	case rep.Verdict == immutable.Proven && rep.Covered < rep.Size:
		return Uncovered, fmt.Sprintf("%s up to entry %d of %d", rep.Verdict, rep.Covered, rep.Size), nil
	}
	return Unseen, fmt.Sprintf("%s, %d entries", rep.Verdict, rep.Size), nil
}

// size is how long the log was before the attack.
func (s *scratch) size() uint64 {
	h, err := identity.ParseHead(s.now.state[identity.HeadName])
	if err != nil {
		panic("drill: the scratch log has no head: " + err.Error()) // it was written by our own engine
	}
	return h.Size
}

// control verifies the scratch log itself, and a copy that has a segment which waits to be sealed.
func (s *scratch) control(ctx context.Context) (c Control, entries uint64, err error) {
	c.DetectedBy, c.Silent = map[string]Outcome{}, true
	for _, name := range []string{"control", "control-pending"} {
		t := s.target(ctx, name)
		t.indexes = true
		want := immutable.Proven
		if name == "control-pending" {
			if err := t.unseal(); err != nil {
				return c, 0, err
			}
		}
		if err := t.write(t.dir, t.host); err != nil {
			return c, 0, err
		}
		for k := range numKnowledge {
			o := t.options(k)
			o.OnReport = func(r *immutable.Report) {
				entries = r.Size
				if k == Directory {
					want = immutable.Consistent
				} else {
					want = immutable.Proven
				}
				if r.Verdict != want || len(r.Notes) > 0 || r.Completeness != immutable.Complete {
					c.Silent = false
					c.Said = append(c.Said, fmt.Sprintf("%s: the verifier that knows the %s says %s, sources %s: %s", name, k, r.Verdict, r.Completeness, t.said(append(r.Findings, r.Notes...))))
				}
			}
			got, _, err := t.askWith(k, o)
			if err != nil {
				return c, 0, err
			}
			c.DetectedBy[k.String()] = got
			if got != Unseen {
				c.Silent = false
				c.Said = append(c.Said, fmt.Sprintf("%s: the verifier that knows the %s says %s", name, k, got))
			}
		}
	}
	return c, entries, nil
}
