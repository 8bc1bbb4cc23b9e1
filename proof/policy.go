package proof

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxPolicy is the most bytes of a policy that are read: 32 logs, 32 witnesses with ML-DSA-44 keys and 32 groups fit, as C2SP tlog-policy asks.
	MaxPolicy = 256 << 10
	// maxPolicyParts bounds logs, and witnesses with groups, each.
	maxPolicyParts = 1024

	quorumNone = "none"
)

// A Policy says whose signatures and cosignatures a checkpoint needs (C2SP tlog-policy): one of its logs', and those of
// enough of its witnesses.
type Policy struct {
	logs      []PolicyLog
	witnesses []PolicyWitness
	parts     []part // witnesses and groups in the order they are defined; groups refer to lower places only
	quorum    int    // the place of the quorum in parts, -1 for none
	known     keySet // of logs and witnesses
}

// A PolicyLog is a log that a policy accepts; its key's name is its origin.
type PolicyLog struct {
	Key Key
	URL string // "" where there is none
}

// A PolicyWitness is a witness that a policy knows.
type PolicyWitness struct {
	Name string // within the policy; the key has its own
	Key  Key
	URL  string // "" where there is none
}

// part is a witness or a group.
type part struct {
	name    string
	witness int   // its place in Policy.witnesses, -1 for a group
	members []int // places in Policy.parts
	need    int   // how many members must have witnessed
}

// ParsePolicy reads a policy file: lines `log <vkey> [url]`, `witness <name> <vkey> [url]`, `group <name> all|any|<k> <names…>`
// and one `quorum <name>|none`; items are separated by spaces and tabs, and lines that are empty or begin with # are skipped. Names
// refer to lines above, and each is a member of one group at most. A public key stands there once, whatever its name and type, so that
// nobody counts twice and no log is its own witness.
func ParsePolicy(data []byte) (*Policy, error) {
	if len(data) > MaxPolicy {
		return nil, fmt.Errorf("parse policy: %d bytes, at most %d are read", len(data), MaxPolicy)
	}
	for i, c := range data {
		if c < 0x20 && c != '\n' && c != '\t' || c == 0x7f {
			return nil, fmt.Errorf("parse policy: control character %#02x at byte %d", c, i)
		}
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		return nil, errors.New("parse policy: the last line is not ended by a newline")
	}
	b := policyBuilder{p: Policy{known: keySet{}}, names: map[string]int{}, keys: map[string]bool{}, member: map[int]bool{}}
	for i, line := range strings.Split(string(data), "\n") {
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := b.line(fields); err != nil {
			return nil, fmt.Errorf("parse policy, line %d: %w", i+1, err)
		}
	}
	if !b.hasQuorum {
		return nil, errors.New(`parse policy: no quorum line: add "quorum <name>" or "quorum none"`)
	}
	return &b.p, nil
}

// policyBuilder is a policy that is being read.
type policyBuilder struct {
	p         Policy
	names     map[string]int  // of witnesses and groups, to their places
	keys      map[string]bool // public keys without their types
	member    map[int]bool    // places that are a member of a group
	hasQuorum bool
}

func (b *policyBuilder) line(fields []string) error {
	switch args := fields[1:]; fields[0] {
	case "log":
		return b.log(args)
	case "witness":
		return b.witness(args)
	case "group":
		return b.group(args)
	case "quorum":
		return b.quorum(args)
	default:
		return fmt.Errorf("unknown word %s: want log, witness, group or quorum", quote(fields[0]))
	}
}

func (b *policyBuilder) log(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("want log <vkey> [<url>]")
	}
	if len(b.p.logs) == maxPolicyParts {
		return fmt.Errorf("more than %d logs", maxPolicyParts)
	}
	k, err := b.key(args[0])
	if err != nil {
		return err
	}
	if !k.signsForLog() {
		return fmt.Errorf("key %s has type %#02x, which is no log's", quote(k.vkey), k.Type())
	}
	b.p.logs = append(b.p.logs, PolicyLog{Key: k, URL: strings.Join(args[1:], "")})
	return nil
}

func (b *policyBuilder) witness(args []string) error {
	if len(args) < 2 || len(args) > 3 {
		return errors.New("want witness <name> <vkey> [<url>]")
	}
	k, err := b.key(args[1])
	if err != nil {
		return err
	}
	if k.Type() == TypeEd25519 {
		return fmt.Errorf("key %s has type %#02x, which is no witness's: want %#02x or %#02x", quote(k.vkey), TypeEd25519, TypeCosignature, TypeMLDSA44)
	}
	b.p.witnesses = append(b.p.witnesses, PolicyWitness{Name: args[0], Key: k, URL: strings.Join(args[2:], "")})
	return b.define(part{name: args[0], witness: len(b.p.witnesses) - 1})
}

// key reads a key whose public key has not been there.
func (b *policyBuilder) key(vkey string) (Key, error) {
	k, err := ParseKey(vkey)
	if err != nil {
		return Key{}, err
	}
	if b.keys[k.pub[1:]] {
		return Key{}, fmt.Errorf("the public key of %s is there twice, perhaps under another name or type: one key counts once", quote(vkey))
	}
	b.keys[k.pub[1:]] = true
	return k, b.p.known.add(k)
}

func (b *policyBuilder) define(p part) error {
	if len(b.p.parts) == maxPolicyParts {
		return fmt.Errorf("more than %d witnesses and groups", maxPolicyParts)
	}
	if _, taken := b.names[p.name]; taken || p.name == quorumNone {
		return fmt.Errorf("the name %s is taken", quote(p.name))
	}
	b.names[p.name] = len(b.p.parts)
	b.p.parts = append(b.p.parts, p)
	return nil
}

func (b *policyBuilder) group(args []string) error {
	if len(args) < 3 {
		return errors.New("want group <name> all|any|<k> <names…>")
	}
	g := part{name: args[0], witness: -1}
	for _, name := range args[2:] {
		place, found := b.names[name]
		if !found {
			return fmt.Errorf("group %s: %s is not defined above", quote(g.name), quote(name))
		}
		if b.member[place] {
			return fmt.Errorf("group %s: %s is a member of a group already", quote(g.name), quote(name))
		}
		b.member[place] = true
		g.members = append(g.members, place)
	}
	switch args[1] {
	case "all":
		g.need = len(g.members)
	case "any":
		g.need = 1
	default:
		k, err := parseSize(args[1])
		if err != nil || k < 1 || k > uint64(len(g.members)) {
			return fmt.Errorf("group %s: %s: want all, any or a number from 1 to %d", quote(g.name), quote(args[1]), len(g.members))
		}
		g.need = int(k)
	}
	return b.define(g)
}

func (b *policyBuilder) quorum(args []string) error {
	if len(args) != 1 {
		return errors.New("want quorum <name>|none")
	}
	if b.hasQuorum {
		return errors.New("a second quorum line")
	}
	b.hasQuorum = true
	if args[0] == quorumNone {
		b.p.quorum = -1
		return nil
	}
	place, found := b.names[args[0]]
	if !found {
		return fmt.Errorf("quorum: %s is not defined above", quote(args[0]))
	}
	b.p.quorum = place
	return nil
}

// MarshalText returns the policy without comments, in the order in which [ParsePolicy] found it, logs first.
func (p *Policy) MarshalText() ([]byte, error) {
	var b strings.Builder
	line := func(words ...string) {
		b.WriteString(strings.TrimSuffix(strings.Join(words, " "), " ") + "\n")
	}
	for _, l := range p.logs {
		line("log", l.Key.vkey, l.URL)
	}
	for _, c := range p.parts {
		if c.witness >= 0 {
			w := p.witnesses[c.witness]
			line("witness", w.Name, w.Key.vkey, w.URL)
			continue
		}
		words := []string{"group", c.name, strconv.Itoa(c.need)}
		for _, m := range c.members {
			words = append(words, p.parts[m].name)
		}
		line(words...)
	}
	if p.quorum < 0 {
		line("quorum", quorumNone)
	} else {
		line("quorum", p.parts[p.quorum].name)
	}
	return []byte(b.String()), nil
}

// Logs returns the logs that the policy accepts; none: any whose keys the caller knows.
func (p *Policy) Logs() []PolicyLog { return slices.Clone(p.logs) }

// Witnesses returns the witnesses that the policy knows, whether the quorum needs them or not.
func (p *Policy) Witnesses() []PolicyWitness { return slices.Clone(p.witnesses) }

// A PolicyResult says whether a checkpoint satisfies a policy, and why.
type PolicyResult struct {
	Satisfied bool
	// Err says why the note was rejected: it is malformed, or a log's or a witness's signature is bad. Then nothing is satisfied.
	Err        error
	Checkpoint Checkpoint
	// Logs are those of the policy's logs that signed. Where the policy names logs, one must have.
	Logs      []PolicyLog
	Witnesses []WitnessState // every witness of the policy, in its order
	// By and Since bound the time by the word of the quorum: witnesses enough for it say that they cosigned at By or earlier, and enough that
	// they did at Since or later. A witness that the quorum can do without moves neither. Zero where the policy is not satisfied, or needs
	// no witness: a quorum of none says nothing.
	By, Since time.Time
	// Quorum is one line for people: what the quorum needs, and what is there.
	Quorum string
	// Missing are the names of the witnesses that did not sign and whose signature would bring the quorum nearer.
	Missing []string
}

// A WitnessState says whether a witness cosigned, and when it says that it did.
type WitnessState struct {
	Name   string // within the policy
	Key    Key
	Signed bool
	Time   time.Time // the newest, where it cosigned more than once; zero if it did not
}

// NeedsWitnesses reports whether anybody must cosign: with "quorum none" nobody must, and a policy that is satisfied shows
// nothing then, whoever cosigned.
func (p *Policy) NeedsWitnesses() bool { return p.quorum >= 0 }

// Check says whether a checkpoint note satisfies the policy. How old cosignatures are is the caller's to judge; the times are
// in the result. Where the policy names no logs, the caller opens the note with the log's keys: see [Chain.Open].
func (p *Policy) Check(note []byte) PolicyResult {
	r := PolicyResult{Witnesses: make([]WitnessState, len(p.witnesses))}
	for i, w := range p.witnesses {
		r.Witnesses[i] = WitnessState{Name: w.Name, Key: w.Key}
	}
	c, signers, err := p.read(note)
	if err != nil {
		r.Err = fmt.Errorf("check policy: %w", err)
		r.Quorum = "the note is rejected: " + err.Error()
		return r
	}
	r.Checkpoint = c
	for _, l := range p.logs {
		if l.Key.name == c.Origin && slices.ContainsFunc(signers, func(s Signer) bool { return s.Key.vkey == l.Key.vkey }) {
			r.Logs = append(r.Logs, l)
		}
	}
	for _, s := range signers {
		for i := range r.Witnesses {
			if w := &r.Witnesses[i]; s.Key.vkey == w.Key.vkey && s.Time.After(w.Time) {
				w.Signed, w.Time = true, s.Time
			}
		}
	}
	p.judge(&r)
	return r
}

// read returns the checkpoint and who of the policy's logs and witnesses signed it.
func (p *Policy) read(note []byte) (Checkpoint, []Signer, error) {
	n, err := ParseNote(note)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	signers, err := n.verify(p.known)
	return c, signers, err
}

// judge fills in what follows from who signed.
func (p *Policy) judge(r *PolicyResult) {
	witnessed := p.witnessed(r, func(WitnessState) bool { return true })
	if p.quorum < 0 {
		r.Quorum = "no witnesses are required"
	} else {
		r.Quorum = p.explain(p.quorum, witnessed)
		r.Missing = p.missing(nil, p.quorum, witnessed)
	}
	r.Satisfied = p.quorum < 0 || witnessed[p.quorum]
	if len(p.logs) > 0 && len(r.Logs) == 0 {
		r.Satisfied = false
		r.Quorum = fmt.Sprintf("none of the policy's %d logs signed as %s; ", len(p.logs), quote(r.Checkpoint.Origin)) + r.Quorum
	}
	if r.Satisfied && p.quorum >= 0 {
		p.bound(r)
	}
}

// witnessed says which parts have witnessed, of the cosignatures that count. Groups refer to what is before them, so one pass in
// order knows every member.
func (p *Policy) witnessed(r *PolicyResult, counts func(WitnessState) bool) []bool {
	witnessed := make([]bool, len(p.parts))
	for i, c := range p.parts {
		if c.witness >= 0 {
			w := r.Witnesses[c.witness]
			witnessed[i] = w.Signed && counts(w)
			continue
		}
		witnessed[i] = c.count(witnessed) >= c.need
	}
	return witnessed
}

// bound fills in By and Since. A note has few signatures, so each of their times is tried.
func (p *Policy) bound(r *PolicyResult) {
	for _, w := range r.Witnesses {
		at := w.Time
		if !w.Signed {
			continue
		}
		if (r.By.IsZero() || at.Before(r.By)) && p.witnessed(r, func(o WitnessState) bool { return !o.Time.After(at) })[p.quorum] {
			r.By = at
		}
		if at.After(r.Since) && p.witnessed(r, func(o WitnessState) bool { return !o.Time.Before(at) })[p.quorum] {
			r.Since = at
		}
	}
}

func (c part) count(witnessed []bool) (n int) {
	for _, m := range c.members {
		if witnessed[m] {
			n++
		}
	}
	return n
}

// explain returns such as `both 1 of 2 needed (x 2 of 2 needed (a yes, b yes, c no), y no)`. Each part is a member once, so
// the text is linear in the policy; a group cannot contain itself, so it ends.
func (p *Policy) explain(place int, witnessed []bool) string {
	c := p.parts[place]
	if c.witness >= 0 {
		return c.name + map[bool]string{true: " yes", false: " no"}[witnessed[place]]
	}
	var of []string
	for _, m := range c.members {
		of = append(of, p.explain(m, witnessed))
	}
	return fmt.Sprintf("%s %d of %d needed (%s)", c.name, c.count(witnessed), c.need, strings.Join(of, ", "))
}

// missing appends the names of the witnesses below an unsatisfied part that did not sign.
func (p *Policy) missing(names []string, place int, witnessed []bool) []string {
	c := p.parts[place]
	if witnessed[place] {
		return names
	}
	if c.witness >= 0 {
		return append(names, c.name)
	}
	for _, m := range c.members {
		names = p.missing(names, m, witnessed)
	}
	return names
}
