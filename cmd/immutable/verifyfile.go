package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// fileUsage is the part of verify's usage about files.
const fileUsage = `
  immutable verify ann.html --key auditor-keys       an evidence bundle (` + "`immutable bundle`" + `), as a page or as data
  immutable verify entry12.tlog-proof --entry-file entry12.json --key auditor-keys
  immutable verify all.jsonl --checkpoint monday.txt                        an export (` + "`immutable export`" + `)
  immutable verify /srv/www/audit --key auditor-keys                        an export (` + "`immutable export tiles`" + `)
  immutable verify --page --out verifier.html        the page that verifies bundles, without one
  immutable verify DIR --from siem.jsonl             a copy in another system (` + "`immutable export --format marked`" + `): what was
                                                     changed there, and what is missing

  --from FILE            JSON objects, one a line, each with the member immutable that says which entry it is; - is standard input
  --query QUERY          of --from: the copy was supposed to take only these entries
  --all                  of --from: the copy was supposed to take all of the log, not only what is between its first and last event
  --entry-file FILE      the entry that a .tlog-proof is of, as ` + "`immutable prove --entry-out`" + ` writes it
  --one-key-log          the one key given is the log's only key: on its own word, a log key alone proves nothing
  --receipts FILE        a book of receipts (` + "`immutable append --receipts`" + `): the log must hold all it promised; may be repeated
  --page                 write the page that verifies bundles, without one, to --out FILE or standard output
  --out FILE             of --page; FILE must not exist`

// fileVerifier is verify for files that are no log: each kind is known by how it begins.
type fileVerifier struct {
	c     *call
	entry string
	page  bool
	out   string
	from  string // a copy to compare with the log
	query string // what the copy was supposed to take
	all   bool   // the copy is supposed to have all of the log
	books list
	// oneKey says that the log has one key, which then is enough.
	oneKey bool
	// covered asks that something from outside covers every entry.
	covered bool
	// said and verdict are the report when there is one.
	said    any
	verdict immutable.Verdict
}

// fileFlags declares what only files, and books of receipts, need.
func fileFlags(c *call) *fileVerifier {
	v := &fileVerifier{c: c}
	c.set.StringVar(&v.entry, "entry-file", "", "")
	c.set.BoolVar(&v.page, "page", false, "")
	c.set.StringVar(&v.out, "out", "", "")
	c.set.StringVar(&v.from, "from", "", "")
	c.set.StringVar(&v.query, "query", "", "")
	c.set.BoolVar(&v.all, "all", false, "")
	c.set.Var(&v.books, "receipts", "")
	c.set.BoolVar(&v.oneKey, "one-key-log", false, "")
	c.set.BoolVar(&v.covered, "require-covered", false, "")
	return v
}

// The kinds of evidence.
const (
	kindLog          = "log's directory"
	kindPage         = "page"
	kindMisbehaviour = "proof of misbehaviour"
	kindBundle       = "evidence bundle"
	kindProof        = ".tlog-proof"
	kindExport       = "export"
	kindTiles        = "export as tiles"
	kindCopy         = "log to compare a copy with"
)

// flagsOf are the flags that each kind looks at, beside json, quiet, alert and require-covered. Any other is refused: who gave
// it expects it to be looked at, and whoever can replace a log's directory by something else must not take it away.
var flagsOf = map[string][]string{
	kindLog: {
		"dir", "state-dir", "key", "checkpoint", "receipt", "proof", "epochs", "entry", "policy", "tsa-roots", "require",
		"indexes", "no-head", "cold", "workers", "receipts",
	},
	kindPage:         {"page", "out"},
	kindMisbehaviour: {"dir", "state-dir", "key"},
	kindBundle:       {"key", "checkpoint", "policy", "tsa-roots", "require"},
	kindProof:        {"key", "checkpoint", "epochs", "policy", "require", "entry-file", "one-key-log"},
	kindExport:       {"key", "checkpoint", "epochs", "policy", "require", "one-key-log"},
	kindTiles:        {"key", "checkpoint", "epochs", "policy", "require", "one-key-log"},
	kindCopy:         {"dir", "state-dir", "from", "query", "all"},
}

// kind says what the arguments ask for. A file is known by how it begins; it is a log where it cannot be told.
func (v *fileVerifier) kind() (string, error) {
	if v.page {
		return kindPage, nil
	}
	if v.from != "" {
		return kindCopy, nil
	}
	if len(v.c.args) == 0 {
		return kindLog, nil
	}
	name := v.c.args[0]
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		if isTiles(v.c.args) {
			return kindTiles, nil
		}
		return kindLog, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 64)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte(misbehaviourLine)):
		return kindMisbehaviour, nil
	case bytes.HasPrefix(head, []byte("c2sp.org/tlog-proof@")):
		return kindProof, nil
	case bytes.HasPrefix(head, []byte(`{"id":"`)):
		return kindExport, nil
	case bytes.HasPrefix(head, []byte(`{"format":"immutable/receipts/`)), bytes.HasPrefix(head, []byte(`{"index":`)):
		return "", v.c.usagef("%s holds receipts, which say something about a log: verify the log's directory with --receipts or --receipt %s", quote(name), quote(name))
	}
	return kindBundle, nil
}

// applies refuses flags that say nothing to this kind. What the environment says about the log, for all commands, is not meant.
func (v *fileVerifier) applies(kind string) error {
	var unused []string
	v.c.set.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "json", "quiet", "alert", "require-covered":
			return
		case "dir", "state-dir", "policy":
			if f.Value.String() == v.c.getenv(envName(f.Name)) {
				return
			}
		}
		if slices.Contains(serverFlagNames, f.Name) {
			return // of the environment: this is here
		}
		if !slices.Contains(flagsOf[kind], f.Name) {
			unused = append(unused, "--"+f.Name)
		}
	})
	if len(unused) == 0 {
		return nil
	}
	what := "a " + kind
	if strings.HasPrefix(kind, "e") {
		what = "an " + kind
	}
	if len(v.c.args) > 0 {
		what = quote(v.c.args[0]) + " is " + what
	} else {
		what = "this is " + what
	}
	return v.c.usagef("%s, to which %s says nothing", what, strings.Join(unused, " "))
}

// run verifies evidence of a kind that is no log, with what o knows from elsewhere.
func (v *fileVerifier) run(kind string, o *immutable.VerifyOptions) error {
	switch kind {
	case kindPage:
		return v.writePage()
	case kindCopy:
		return v.copied()
	case kindTiles:
		return v.tiles(v.c.args[0], o)
	case kindMisbehaviour:
		err := explainMisbehaviour(v.c, v.c.args[0], o.Keys)
		if told := exit(exitNo); errors.Is(err, told) {
			v.verdict, v.said = immutable.Refuted, map[string]string{"verdict": string(immutable.Refuted), "kind": "misbehaviour", "file": v.c.args[0]}
		}
		return err
	}
	name := v.c.args[0]
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	switch kind {
	case kindProof:
		return v.proof(name, in, o)
	case kindExport:
		return v.export(name, in, o)
	}
	return v.bundle(name, in, o)
}

// writePage writes the page that verifies bundles.
func (v *fileVerifier) writePage() error {
	if v.out == "" {
		v.c.out.bytes(immutable.BundlePage(nil))
		return nil
	}
	if err := writeNew(v.out, immutable.BundlePage(nil)); err != nil {
		return err
	}
	v.c.remark("wrote %s; open it in a browser and drop a bundle into it\n", v.out)
	return nil
}

// bundle verifies an evidence bundle.
func (v *fileVerifier) bundle(name string, in io.Reader, o *immutable.VerifyOptions) error {
	const most = 128 << 20 // the page and its data
	file, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return err
	}
	if len(file) > most {
		return fmt.Errorf("%s: more than %d bytes are no bundle", quote(name), most)
	}
	rep, err := immutable.VerifyBundle(file, immutable.VerifyBundleOptions{
		Keys: o.Keys, Checkpoints: o.Checkpoints, Policy: o.Policy, Require: o.Require, TimeRoots: o.TimeRoots,
	})
	if errors.Is(err, immutable.ErrNotBundle) {
		return fmt.Errorf("%s is none of what verify reads: a log's directory, an evidence bundle, a .tlog-proof, a proof of misbehaviour, an export", quote(name))
	}
	if err != nil {
		return err
	}
	v.said, v.verdict = rep, immutable.Verdict(rep.Verdict)
	if v.c.json {
		if err := v.c.answer(rep); err != nil {
			return err
		}
	} else {
		v.printBundle(name, rep)
	}
	return v.exit(uint64(rep.Covered), uint64(rep.Entries))
}

// exit is the exit code of the verdict, where something from outside covers so many of the entries.
func (v *fileVerifier) exit(covered, entries uint64) error {
	if code := exitOf(v.verdict); code != exitOK {
		return exit(code)
	}
	if v.covered && covered < entries {
		return evidence("something from outside covers %s of %s, and --require-covered asks for all", count(covered), plural(int(entries), "entry"))
	}
	return nil
}

func (v *fileVerifier) printBundle(name string, r *immutable.BundleReport) {
	c := v.c
	c.verdict(immutable.Verdict(r.Verdict), name)
	if r.Origin != "" {
		c.out.printf("log %s, %s under the checkpoint of %s entries, root %s\n", r.Origin, plural(r.Entries, "entry"), count(r.Size), r.Root)
	}
	if s := r.Statement; r.Origin != "" {
		c.out.printf("asked for: indexes %d up to %d", s.From, s.To)
		for _, part := range []struct{ name, value string }{{"query", s.Query}, {"since", s.Since}, {"until", s.Until}} {
			if part.value != "" {
				c.out.printf(", %s %s", part.name, part.value)
			}
		}
		if len(s.Levels) > 0 {
			c.out.printf(", levels %s", strings.Join(s.Levels, ", "))
		}
		c.out.printf("; made %s with %s\n", s.Made, s.Program)
	}
	for _, f := range r.Findings {
		place := f.Where
		if f.Index >= 0 {
			place += fmt.Sprintf(", entry %d", f.Index)
		}
		c.out.printf("  %s %s: %s\n", paint(red, "✗"), place, f.What)
		if f.Got != "" || f.Want != "" {
			c.out.printf("      found     %s\n      expected  %s\n", nothing(f.Got), nothing(f.Want))
		}
	}
	if r.Omitted > 0 {
		c.out.printf("  and %s more\n", count(r.Omitted))
	}
	for _, s := range r.Signatures {
		mark, role := paint(green, "✓"), s.Role
		if !s.Good {
			mark = styled{text: "·"}
		}
		if s.Role == "witness" {
			role += " at " + s.Time.UTC().Format(time.RFC3339)
		}
		c.out.printf("  %s signature by %s+%s (%s)\n", mark, s.Name, s.ID, role)
	}
	for _, t := range r.Times {
		trusted := "not by somebody you named"
		if t.Trusted {
			trusted = "trusted"
		}
		c.out.printf("  · %s had seen size %d at %s (%s, %s)\n", t.Name, t.Size, t.Time.UTC().Format(time.RFC3339), t.Kind, trusted)
	}
	for _, s := range r.Notes {
		c.out.printf("  %s %s\n", paint(yellow, "·"), s)
	}
	for _, b := range r.Basis {
		c.out.printf("stands on: %s: %s\n", b.Kind, b.Detail)
	}
	for _, s := range r.Proves {
		c.out.printf("shows: %s\n", s)
	}
	for _, s := range r.Limits {
		c.out.printf("%s\n", paint(dim, "does not show: "+s))
	}
}

// verdict prints the first line of a report about a file.
func (c *call) verdict(v immutable.Verdict, name string) {
	colour := map[immutable.Verdict]string{immutable.Proven: green, immutable.Refuted: red}[v]
	if colour == "" {
		colour = yellow
	}
	c.out.printf("%s  %s\n", styled{code: bold + ";" + colour, text: strings.ToUpper(string(v))}, name)
}

// fileReport is what is said about a .tlog-proof or an export.
type fileReport struct {
	Verdict    immutable.Verdict `json:"verdict"`
	Kind       string            `json:"kind"` // "tlog-proof" or "export"
	Findings   []string          `json:"findings"`
	Open       []string          `json:"open"`
	Basis      []string          `json:"basis"`
	Notes      []string          `json:"notes"`
	Origin     string            `json:"origin,omitempty"`
	Index      *uint64           `json:"index,omitempty"`
	Leaf       string            `json:"leaf,omitempty"`
	Entries    int               `json:"entries,omitempty"`
	Covered    uint64            `json:"covered"` // how many of them, from the first on, the basis covers
	Size       uint64            `json:"size"`
	Root       string            `json:"root"`
	Signatures []fileSignature   `json:"signatures,omitempty"`
}

type fileSignature struct {
	Name string    `json:"name"`
	ID   string    `json:"id"`
	Good bool      `json:"good"` // by a key that was given; others were not checked
	Time time.Time `json:"time,omitzero"`
	Age  string    `json:"age,omitempty"`
}

func newFileReport(kind string) *fileReport {
	return &fileReport{Kind: kind, Findings: []string{}, Open: []string{}, Basis: []string{}, Notes: []string{}}
}

// tell decides and prints.
func (v *fileVerifier) tell(name string, r *fileReport) error {
	switch {
	case len(r.Findings) > 0:
		r.Verdict = immutable.Refuted
	case len(r.Open) > 0 || len(r.Basis) == 0:
		r.Verdict = immutable.Unknown
	default:
		r.Verdict = immutable.Proven
	}
	if r.Verdict != immutable.Proven {
		r.Covered = 0
	}
	v.said, v.verdict = r, r.Verdict
	c := v.c
	if c.json {
		if err := c.answer(r); err != nil {
			return err
		}
		return v.exit(r.Covered, uint64(r.Entries))
	}
	c.verdict(r.Verdict, name)
	if r.Index != nil {
		c.out.printf("log %s, entry %d, leaf %s\n", r.Origin, *r.Index, r.Leaf)
	}
	if r.Kind != "tlog-proof" {
		c.out.printf("%s\n", plural(r.Entries, "entry"))
	}
	c.out.printf("checkpoint of %s entries, root %s\n", count(r.Size), r.Root)
	for _, f := range r.Findings {
		c.out.printf("  %s %s\n", paint(red, "✗"), f)
	}
	for _, s := range r.Signatures {
		mark, more := paint(green, "✓"), ""
		if !s.Good {
			mark, more = styled{text: "·"}, ", not checked: its key was not given"
		}
		if s.Age != "" {
			more += ", " + s.Time.UTC().Format(time.RFC3339) + ", " + s.Age + " ago"
		}
		c.out.printf("  %s signature by %s+%s%s\n", mark, s.Name, s.ID, more)
	}
	for _, s := range slices.Concat(r.Open, r.Notes) {
		c.out.printf("  %s %s\n", paint(yellow, "·"), s)
	}
	for _, s := range r.Basis {
		c.out.printf("stands on: %s\n", s)
	}
	return v.exit(r.Covered, uint64(r.Entries))
}

// proof explains a .tlog-proof: whether the entry is under its checkpoint, and who signed that.
func (v *fileVerifier) proof(name string, in io.Reader, o *immutable.VerifyOptions) error {
	data, err := io.ReadAll(io.LimitReader(in, maxOutside))
	if err != nil {
		return err
	}
	if v.entry == "" {
		return v.c.usagef("a proof is of an entry: give the entry's line with --entry-file FILE (`immutable prove --entry-out` writes it)")
	}
	line, err := readFile(v.entry)
	if err != nil {
		return err
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	r := newFileReport("tlog-proof")
	p, err := proof.ParseInclusionProof(data)
	if err != nil {
		r.Findings = append(r.Findings, err.Error())
		return v.tell(name, r)
	}
	leaf := proof.LeafHash(line)
	r.Index, r.Leaf = &p.Index, leaf.String()
	beside, err := besideFile(r, name+epochsSuffix)
	if err != nil {
		return err
	}
	c := v.checkpoint(r, p.Checkpoint, o, beside...)
	if c == nil {
		return v.tell(name, r)
	}
	for _, note := range o.Checkpoints {
		v.kept(r, c, note)
	}
	r.Entries, r.Covered = 1, 1
	if err := proof.CheckInclusion(p.Hashes, p.Index, c.Size, leaf, c.Root); err != nil {
		r.Findings = append(r.Findings, fmt.Sprintf("the entry is not at %d under this checkpoint: %s", p.Index, err))
	}
	if p.Extra != nil {
		r.Notes = append(r.Notes, "the proof has a line extra, which nothing authenticates")
	}
	return v.tell(name, r)
}

// checkpoint says who of those that o names signed a note, in words of the report. It returns nil where the note says nothing.
// beside are chains of keys that came with the evidence.
func (v *fileVerifier) checkpoint(r *fileReport, note []byte, o *immutable.VerifyOptions, beside ...[]byte) *proof.Checkpoint {
	n, err := proof.ParseNote(note)
	if err != nil {
		r.Findings = append(r.Findings, "the checkpoint is no signed note: "+err.Error())
		return nil
	}
	c, err := proof.ParseCheckpoint(n.Text)
	if err != nil {
		r.Findings = append(r.Findings, err.Error())
		return nil
	}
	r.Origin, r.Size, r.Root = c.Origin, c.Size, c.Root.Base64()
	ring, err := newKeyring(o, beside, v.oneKey)
	if err != nil {
		r.Open = append(r.Open, err.Error())
		return &c
	}
	checked := ring.keys
	defer func() { v.signers(r, n, checked, o.Policy) }()
	witnessed := o.Policy != nil && quorum(r, note, o.Policy)
	switch {
	case len(ring.keys) > 0:
		said := ring.judge(note, n, &c)
		r.Notes = append(r.Notes, said.notes...)
		switch {
		case said.refuted != "":
			r.Findings = append(r.Findings, said.refuted)
		case said.proven != "":
			r.Basis = append(r.Basis, said.proven)
			checked = said.keys()
		case witnessed && said.few: // the key says which log it is, and the witnesses that it has one history
			r.Notes = append(r.Notes, said.open)
		default:
			r.Open = append(r.Open, said.open)
		}
	case o.Policy == nil:
		r.Open = append(r.Open, noKeys)
	case len(o.Policy.Logs()) == 0:
		r.Open = append(r.Open, "the policy names no log, so nothing says whose checkpoint it is: give the log's keys with --key")
	}
	return &c
}

const noKeys = "no signature was checked: give the log's keys with --key, from a place that you trust"

// quorum says whether witnesses that the policy demands have signed the note.
func quorum(r *fileReport, note []byte, p *proof.Policy) bool {
	switch got := p.Check(note); {
	case got.Err != nil:
		r.Findings = append(r.Findings, got.Err.Error())
	case !got.Satisfied:
		r.Open = append(r.Open, "the policy's quorum has not signed: "+got.Quorum)
	case !p.NeedsWitnesses():
		r.Notes = append(r.Notes, "the policy demands no witness, so it shows nothing, whoever cosigned")
	default:
		r.Basis = append(r.Basis, "the policy's quorum of witnesses has signed: "+got.Quorum)
		return true
	}
	return false
}

// epochsSuffix is how the file ends that prove writes beside a proof: the chain of keys.
const epochsSuffix = ".epochs"

// besideFile reads a chain of keys that came with the evidence, if there is one.
func besideFile(r *fileReport, name string) ([][]byte, error) {
	data, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.Notes = append(r.Notes, "the chain of keys is also read from "+name+", which proves itself by the keys given")
	return [][]byte{data}, nil
}

// keep takes over what was said about a checkpoint that was kept. That nobody's signature was asked for is no matter there: it
// was kept by whoever verifies.
func (r *fileReport) keep(sub *fileReport) {
	r.Findings = append(r.Findings, sub.Findings...)
	r.Signatures = append(r.Signatures, sub.Signatures...)
	for _, s := range sub.Open {
		if s != noKeys {
			r.Open = append(r.Open, "the checkpoint that was kept: "+s)
		}
	}
	for _, s := range sub.Notes {
		r.Notes = append(r.Notes, "the checkpoint that was kept: "+s)
	}
}

// kept compares a checkpoint that was kept with the one that the evidence has.
func (v *fileVerifier) kept(r *fileReport, c *proof.Checkpoint, note []byte) {
	k, err := parseKept(note)
	switch {
	case err != nil:
		r.Findings = append(r.Findings, "the checkpoint that was kept: "+err.Error())
	case k.Origin != c.Origin:
		r.Findings = append(r.Findings, fmt.Sprintf("the checkpoint of size %d that was kept is of %s, this is of %s", k.Size, k.Origin, c.Origin))
	case k.Size != c.Size:
		r.Open = append(r.Open, fmt.Sprintf("the checkpoint that was kept has size %d, this one %d: compare the two in the log with `immutable checkpoint compare`", k.Size, c.Size))
	case k.Root != c.Root:
		r.Findings = append(r.Findings, fmt.Sprintf("the log had another root at size %d: the checkpoint that was kept says %s, this one %s: two histories", k.Size, k.Root.Base64(), c.Root.Base64()))
	default:
		r.Basis = append(r.Basis, fmt.Sprintf("the checkpoint of size %d that was kept", k.Size))
	}
}

func parseKept(note []byte) (proof.Checkpoint, error) {
	n, err := proof.ParseNote(note)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return proof.ParseCheckpoint(n.Text)
}

// signers lists the signature lines, with the age of those that have a time.
func (v *fileVerifier) signers(r *fileReport, n *proof.Note, keys []proof.Key, policy *proof.Policy) {
	all := slices.Clone(keys)
	if policy != nil {
		for _, w := range policy.Witnesses() {
			if !slices.ContainsFunc(all, func(k proof.Key) bool { return k.String() == w.Key.String() }) {
				all = append(all, w.Key)
			}
		}
	}
	good, _ := n.Verify(all) // a bad signature is a finding of whoever judges
	for _, s := range n.Signatures {
		f := fileSignature{Name: s.Name, ID: fmt.Sprintf("%08x", s.ID)}
		for _, g := range good {
			if g.Key.Name() == s.Name && g.Key.ID() == s.ID {
				f.Good, f.Time = true, g.Time
			}
		}
		if !f.Time.IsZero() {
			f.Age = time.Since(f.Time).Round(time.Second).String()
		}
		r.Signatures = append(r.Signatures, f)
	}
}

// maxExported is the most entries of an export that are compared: 32 bytes of memory for each.
const maxExported = 1 << 26

// export recomputes the root over the lines of an export, which begins with the log's first entry, and compares it with
// checkpoints that were kept.
func (v *fileVerifier) export(name string, in *bufio.Reader, o *immutable.VerifyOptions) error {
	r := newFileReport("export")
	var leaves []proof.Hash
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err != nil || !bytes.HasPrefix(line, []byte(`{"id":"`)) || len(leaves) == maxExported {
			r.Findings = append(r.Findings, fmt.Sprintf("line %d is no whole entry", len(leaves)+1))
			break
		}
		leaves = append(leaves, proof.LeafHash(line[:len(line)-1]))
		if err := v.c.ctx.Err(); err != nil {
			return err
		}
	}
	r.Entries = len(leaves)
	r.Size, r.Root = uint64(len(leaves)), proof.Root(leaves).Base64()
	if len(o.Checkpoints) == 0 {
		r.Open = append(r.Open, "there is nothing to compare it with: give a checkpoint of the log with --checkpoint")
	}
	for _, note := range o.Checkpoints {
		sub := newFileReport("export")
		c := v.checkpoint(sub, note, o)
		r.keep(sub)
		switch {
		case c == nil:
		case r.Origin != "" && c.Origin != r.Origin:
			r.Findings = append(r.Findings, fmt.Sprintf("the checkpoints that were kept are of %s and of %s", r.Origin, c.Origin))
		case c.Size > uint64(len(leaves)):
			r.Open = append(r.Open, fmt.Sprintf("the checkpoint is of %d entries: the export ends before that", c.Size))
		case proof.Root(leaves[:c.Size]) != c.Root:
			r.Findings = append(r.Findings, fmt.Sprintf("its first %d entries have the root %s, the checkpoint says %s: entries differ, or the export does not begin with entry 0", c.Size, proof.Root(leaves[:c.Size]).Base64(), c.Root.Base64()))
		case c.Size == 0:
			r.Notes = append(r.Notes, "a checkpoint of size 0 says nothing about entries")
		default:
			r.Origin, r.Size, r.Root = c.Origin, c.Size, c.Root.Base64()
			r.Covered = max(r.Covered, c.Size)
			r.Basis = append(r.Basis, fmt.Sprintf("the checkpoint of size %d that was kept: its entries are these", c.Size))
			if c.Size < uint64(len(leaves)) {
				r.Notes = append(r.Notes, fmt.Sprintf("nothing covers the entries from %d on", c.Size))
			}
		}
	}
	return v.tell(name, r)
}

// receipts checks the log in dir against books of receipts and adds what it found to the report.
func (v *fileVerifier) receipts(rep *immutable.Report, dir, state string) error {
	for _, name := range v.books {
		err := v.book(rep, name, dir, state)
		if err != nil && rep.Verdict == immutable.Refuted { // a damaged log may not open; that it is damaged is said already
			v.c.remark("receipts in %s not checked: %s\n", name, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("--receipts %s: %w", quote(name), err)
		}
	}
	return nil
}

func (v *fileVerifier) book(rep *immutable.Report, name, dir, state string) (err error) {
	b, err := immutable.ReadReceipts(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	l, err := immutable.Open(dir, &immutable.Config{ReadOnly: true, StateDir: state, Logger: slog.New(&logHandler{c: v.c})})
	if err != nil {
		return err
	}
	defer closing(l, &err)
	found, err := b.Check(v.c.ctx, l)
	if err != nil {
		return err
	}
	for _, broken := range found.Broken {
		rep.Findings = append(rep.Findings, immutable.Finding{
			File: name, Offset: -1, Index: int64(broken.Receipt.Index), What: "the log does not hold what this receipt promises: " + broken.What,
		})
	}
	if bad := found.Receipts - found.Kept; bad > 0 {
		rep.Omitted += int(bad) - len(found.Broken)
		rep.Verdict = immutable.Refuted
		return nil
	}
	highest, any, err := b.Highest()
	if err != nil || !any {
		return err
	}
	rep.Basis = append(rep.Basis, immutable.Basis{Kind: "receipts", Detail: fmt.Sprintf("all %s of %s are kept", plural(int(found.Receipts), "receipt"), name)})
	rep.Covered = max(rep.Covered, highest.Index+1)
	if rep.Verdict == immutable.Consistent {
		rep.Verdict = immutable.Proven
	}
	return nil
}
