package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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
  immutable verify entry12.tlog-proof --entry-file entry12.json --key auditor-keys --epochs epochs
  immutable verify all.jsonl --checkpoint monday.txt --key auditor-keys     an export (` + "`immutable export`" + `)
  immutable verify /srv/www/audit --key auditor-keys                        an export (` + "`immutable export tiles`" + `)
  immutable verify --page --out verifier.html        the page that verifies bundles, without one

  --entry-file FILE      the entry that a .tlog-proof is of, as ` + "`immutable prove --entry-out`" + ` writes it
  --receipts FILE        a book of receipts (` + "`immutable append --receipts`" + `): the log must hold all it promised; may be repeated
  --page                 write the page that verifies bundles, without one, to --out FILE or standard output
  --out FILE             of --page; FILE must not exist`

// fileVerifier is verify for files that are no log: each kind is known by how it begins.
type fileVerifier struct {
	c     *call
	entry string
	page  bool
	out   string
	books list
}

// fileFlags declares what only files, and books of receipts, need.
func fileFlags(c *call) *fileVerifier {
	v := &fileVerifier{c: c}
	c.set.StringVar(&v.entry, "entry-file", "", "")
	c.set.BoolVar(&v.page, "page", false, "")
	c.set.StringVar(&v.out, "out", "", "")
	c.set.Var(&v.books, "receipts", "")
	return v
}

// wanted says whether the arguments ask for a file or for the page, and not for a log.
func (v *fileVerifier) wanted() bool {
	if v.page {
		return true
	}
	if len(v.c.args) != 1 {
		return false
	}
	info, err := os.Stat(v.c.args[0])
	return err == nil && info.Mode().IsRegular()
}

// run verifies the file, with what o knows from elsewhere.
func (v *fileVerifier) run(o *immutable.VerifyOptions) error {
	if v.page {
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
	name := v.c.args[0]
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	head, err := in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(head, []byte("c2sp.org/tlog-proof@")):
		return v.proof(name, in, o)
	case bytes.HasPrefix(head, []byte(`{"id":"`)):
		return v.export(name, in, o)
	case bytes.HasPrefix(head, []byte(`{"format":"immutable/receipts/`)), bytes.HasPrefix(head, []byte(`{"index":`)):
		return v.c.usagef("%s holds receipts, which say something about a log: verify the log's directory with --receipts or --receipt %s", quote(name), quote(name))
	}
	return v.bundle(name, in, o)
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
	if v.c.json {
		if err := v.c.answer(rep); err != nil {
			return err
		}
	} else {
		v.printBundle(name, rep)
	}
	return verdictExit(immutable.Verdict(rep.Verdict))
}

func verdictExit(verdict immutable.Verdict) error {
	if code := exitOf(verdict); code != exitOK {
		return exit(code)
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
	c := v.c
	if c.json {
		if err := c.answer(r); err != nil {
			return err
		}
		return verdictExit(r.Verdict)
	}
	c.verdict(r.Verdict, name)
	if r.Index != nil {
		c.out.printf("log %s, entry %d, leaf %s\n", r.Origin, *r.Index, r.Leaf)
	}
	if r.Kind == "export" {
		c.out.printf("%s\n", plural(r.Entries, "entry"))
	}
	c.out.printf("checkpoint of %s entries, root %s\n", count(r.Size), r.Root)
	for _, f := range r.Findings {
		c.out.printf("  %s %s\n", paint(red, "✗"), f)
	}
	for _, s := range r.Signatures {
		mark, more := paint(green, "✓"), ""
		if !s.Good {
			mark, more = styled{text: "·"}, ", not checked: no key of that name was given"
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
	return verdictExit(r.Verdict)
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
	c := v.checkpoint(r, p.Checkpoint, o)
	if c == nil {
		return v.tell(name, r)
	}
	if err := proof.CheckInclusion(p.Hashes, p.Index, c.Size, leaf, c.Root); err != nil {
		r.Findings = append(r.Findings, fmt.Sprintf("the entry is not at %d under this checkpoint: %s", p.Index, err))
	}
	if p.Extra != nil {
		r.Notes = append(r.Notes, "the proof has a line extra, which nothing authenticates")
	}
	return v.tell(name, r)
}

// checkpoint says who of those that o names signed a note. It returns nil where the note says nothing.
func (v *fileVerifier) checkpoint(r *fileReport, note []byte, o *immutable.VerifyOptions) *proof.Checkpoint {
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
	var keys []proof.Key
	for _, s := range o.Keys {
		k, err := proof.ParseKey(s)
		if err != nil {
			r.Open = append(r.Open, err.Error())
			return &c
		}
		if !slices.ContainsFunc(keys, func(other proof.Key) bool { return other.String() == k.String() }) {
			keys = append(keys, k)
		}
	}
	v.signers(r, n, keys, o.Policy)
	if err := judge(r, note, &c, n, keys, o); err != nil {
		r.Findings = append(r.Findings, err.Error())
	}
	if o.Policy == nil {
		return &c
	}
	switch p := o.Policy.Check(note); {
	case p.Err != nil:
		r.Findings = append(r.Findings, p.Err.Error())
	case !p.Satisfied:
		r.Open = append(r.Open, "the policy's quorum has not signed: "+p.Quorum)
	case slices.ContainsFunc(p.Witnesses, func(w proof.WitnessState) bool { return w.Signed }):
		r.Basis = append(r.Basis, "the policy's quorum of witnesses has signed: "+p.Quorum)
	}
	return &c
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

// judge says what the log's own signatures are worth to somebody who knows these keys. The error is a contradiction.
func judge(r *fileReport, note []byte, c *proof.Checkpoint, n *proof.Note, keys []proof.Key, o *immutable.VerifyOptions) error {
	if len(keys) == 0 {
		if o.Policy == nil {
			r.Open = append(r.Open, "no signature was checked: give the log's keys with --key, from a place that you trust")
		}
		return nil
	}
	chain, err := keyChain(c.Origin, keys, o.Epochs)
	if err != nil {
		return err
	}
	if chain != nil {
		chain.SetRequire(o.Require)
		_, epoch, err := chain.Open(note, o.Require)
		if err != nil {
			return err
		}
		r.Basis = append(r.Basis, fmt.Sprintf("the keys given, of which those of epoch %d signed it", epoch.Number))
		return nil
	}
	signed, err := n.Verify(keys)
	if err != nil {
		return err
	}
	if len(signed) == 0 {
		return fmt.Errorf("none of the %d keys given has signed the checkpoint; where the log has changed its keys since, give --epochs and both keys of an epoch", len(keys))
	}
	if o.Require == proof.RequireBoth || o.Require == proof.RequireMLDSA44 || o.Require == proof.RequireEd25519 {
		r.Open = append(r.Open, "--require needs both keys of an epoch, with --key")
		return nil
	}
	// The log's own lines stand in the order log key, Ed25519, ML-DSA-44: the first of several is by the log key.
	own := slices.DeleteFunc(slices.Clone(n.Signatures), func(s proof.Signature) bool { return s.Name != c.Origin })
	for _, s := range signed {
		if len(own) == 1 || s.Key.Name() != c.Origin || s.Key.ID() != own[0].ID {
			r.Basis = append(r.Basis, fmt.Sprintf("the key given, %s+%08x, signed it", s.Key.Name(), s.Key.ID()))
		}
	}
	if len(r.Basis) == 0 {
		r.Open = append(r.Open, "the key given is the log key, which signs for ever and can be stolen: alone it proves nothing. Give a key of the epoch")
	}
	return nil
}

// keyChain is the chain of keys from both keys of an epoch, with or without the log key, on; nil where keys are not these.
func keyChain(origin string, keys []proof.Key, epochs [][]byte) (*proof.Chain, error) {
	var ed, ml []proof.Key
	for _, k := range keys {
		switch {
		case k.Name() != origin:
			return nil, fmt.Errorf("the key %s+%08x is not of the log %s", k.Name(), k.ID(), origin)
		case k.Type() == proof.TypeMLDSA44:
			ml = append(ml, k)
		default:
			ed = append(ed, k)
		}
	}
	if len(ml) != 1 || len(ed) < 1 || len(ed) > 2 {
		return nil, nil
	}
	first := proof.Epoch{Keys: []proof.Key{ed[len(ed)-1], ml[0]}}
	var logKey *proof.Key
	if len(ed) == 2 {
		logKey = &ed[0]
	}
	var links []proof.EpochLink
	for _, data := range epochs {
		more, err := proof.ParseEpochLinks(data)
		if err != nil {
			return nil, err
		}
		if len(more) > len(links) {
			links = more
		}
	}
	for _, l := range links {
		number, named, err := proof.ParseEpochEntry(l.Entry)
		if err != nil {
			return nil, err
		}
		if named[0].String() == first.Keys[0].String() && named[1].String() == first.Keys[1].String() {
			p, err := proof.ParseInclusionProof(l.Proof)
			if err != nil {
				return nil, err
			}
			closing, err := closingSize(p.Checkpoint)
			if err != nil {
				return nil, err
			}
			first.Number, first.After = number, closing
		}
	}
	chain, err := proof.NewChainFrom(origin, first, logKey)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Number > first.Number {
			if err := chain.Add(l); err != nil {
				return nil, err
			}
		}
	}
	return chain, nil
}

func closingSize(note []byte) (uint64, error) {
	n, err := proof.ParseNote(note)
	if err != nil {
		return 0, err
	}
	c, err := proof.ParseCheckpoint(n.Text)
	return c.Size, err
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
		r.Findings = append(r.Findings, sub.Findings...)
		r.Signatures = append(r.Signatures, sub.Signatures...)
		switch {
		case c == nil:
		case c.Size > uint64(len(leaves)):
			r.Open = append(r.Open, fmt.Sprintf("the checkpoint is of %d entries: the export ends before that", c.Size))
		case proof.Root(leaves[:c.Size]) != c.Root:
			r.Findings = append(r.Findings, fmt.Sprintf("its first %d entries have the root %s, the checkpoint says %s: entries differ, or the export does not begin with entry 0", c.Size, proof.Root(leaves[:c.Size]).Base64(), c.Root.Base64()))
		case c.Size == 0:
			r.Notes = append(r.Notes, "a checkpoint of size 0 says nothing about entries")
		default:
			r.Origin, r.Size, r.Root = c.Origin, c.Size, c.Root.Base64()
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
