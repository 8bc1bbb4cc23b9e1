package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/fsck"
	"github.com/tree-of-life-system/immutable/proof"
)

const verifyUsage = `immutable verify [DIR]

Reads the whole log again and recomputes every hash, root and signature. It answers with one of
  proven      everything agrees, also with something from outside the directory (named in the report)
  consistent  everything agrees with itself; nothing else was known
  refuted     something contradicts: each finding has file, place, and both values
  unknown     could not tell
Exit code: 0 proven or consistent · 1 refuted · 2 unknown, or it could not run. A log may be verified while it is written.

A key that lies beside the log proves little. Give it what was kept elsewhere:

  immutable verify --key example.com/audit+1a2b3c4d+AbC… --checkpoint monday.txt
  immutable verify /backup/logs --no-head --receipt receipt.json --proof entry12.tlog-proof
  immutable verify proof-of-misbehaviour --key example.com/audit+1a2b3c4d+AbC…   what a witness has kept; 1 if it holds
  immutable verify --key auditor-keys --policy policy.txt --tsa-roots authorities.pem --entry 4711 --require-covered
  immutable verify --server https://logs.example.com --key auditor-keys     the server's word, and what is verified from here
  immutable verify --json --alert http://alerts.internal:9093/hook || echo "exit $?"

  --key VKEY|FILE        verifier key that must be the log's, of any epoch, or a file of them, one a line; may be repeated
  --checkpoint FILE      a checkpoint kept from earlier (` + "`immutable checkpoint`" + ` prints one); may be repeated
  --receipt FILE         receipts as ` + "`immutable log --json`" + ` prints them, one a line; may be repeated
  --proof FILE           a proof as ` + "`immutable prove`" + ` writes it; may be repeated
  --epochs FILE          the log's file epochs as it was kept earlier: the chain of keys must go on from it; may be repeated
  --policy FILE          witnesses whose cosignatures count, and how many it takes (C2SP tlog-policy)
  --tsa-roots FILE       PEM certificates of the roots of the time-stamping authorities whose word counts
  --require WHICH        which keys of its epoch must have signed a checkpoint, beside the log key: all (default, those that
                         the epoch has), ed25519, ml-dsa-44, both
  --entry N              print between what times entry N came into the log; may be repeated
  --require-covered      exit code 1 unless something from outside covers every entry
  --indexes              recompute the derived indexes too
  --no-head              do not use what this host knows of the log
  --cold DIR             read retired segments there (` + "`immutable retire`" + ` moved them); without it their content is not read
  --workers N            goroutines that read and hash (default: one for each processor)
  --alert URL            when the answer is refuted or unknown, POST the JSON report there (3 tries); a report that cannot be
                         delivered is said on standard error, and the exit code stays the answer's. It is signed after
                         Standard Webhooks where IMMUTABLE_ALERT_SECRET is set: whsec_… and base64 of 24 to 64 bytes, up to
                         three of them, separated by spaces

Files are verified too, each by its kind:
` + fileUsage + appendFlags + dirFlags + commonFlags

func setupVerify(c *call) func() error {
	c.dirFlags()
	var keys, checkpoints, receipts, proofs, epochs, entries list
	c.set.Var(&keys, "key", "")
	c.set.Var(&checkpoints, "checkpoint", "")
	c.set.Var(&receipts, "receipt", "")
	c.set.Var(&proofs, "proof", "")
	c.set.Var(&epochs, "epochs", "")
	c.set.Var(&entries, "entry", "")
	policy := c.set.String("policy", "", "")
	roots := c.set.String("tsa-roots", "", "")
	require := c.set.String("require", "all", "")
	var o immutable.VerifyOptions
	c.set.BoolVar(&o.Indexes, "indexes", false, "")
	c.set.BoolVar(&o.NoHead, "no-head", false, "")
	c.set.StringVar(&o.Cold, "cold", "", "")
	c.set.IntVar(&o.Workers, "workers", 0, "")
	alert := c.set.String("alert", "", "")
	files := fileFlags(c)
	c.flagsOfServer(false)
	return func() error {
		if err := c.arguments(0, 1, "at most one directory"); err != nil {
			return err
		}
		secrets, err := alertSecrets(c)
		if err != nil && *alert != "" {
			return err
		}
		if len(c.args) == 1 && !c.given["server"] {
			c.server.url = "" // what is named is here, whatever the environment says
		}
		err = func() error {
			if c.remote() {
				return files.server(&o, keys, checkpoints, receipts, *policy, *require)
			}
			kind, err := files.kind()
			if err != nil {
				return err
			}
			if err := files.applies(kind); err != nil {
				return err
			}
			if err := outside(&o, keys, checkpoints, receipts, proofs); err != nil {
				return err
			}
			if err := trust(&o, epochs, entries, *policy, *roots, *require); err != nil {
				return err
			}
			if kind != kindLog {
				return files.run(kind, &o)
			}
			if len(c.args) == 1 {
				c.dir = c.args[0]
			}
			return files.log(&o)
		}()
		if *alert != "" && (files.said == nil && err != nil || files.said != nil && exitOf(files.verdict) != exitOK) {
			name := c.dir
			if len(c.args) == 1 {
				name = c.args[0]
			}
			sendAlert(c, *alert, secrets, name, files.said, err)
		}
		return err
	}
}

// log verifies the log in the directory.
func (v *fileVerifier) log(o *immutable.VerifyOptions) error {
	c := v.c
	rep, err := verify(c, o)
	if err == nil {
		err = v.receipts(rep, c.dir, c.stateDir)
	}
	if err != nil {
		return err
	}
	v.said, v.verdict = rep, rep.Verdict
	if err := c.report(rep); err != nil {
		return err
	}
	if code := exitOf(rep.Verdict); code != exitOK {
		return exit(code)
	}
	if v.covered && rep.Covered < rep.Size {
		return evidence("nothing from outside covers the entries from %d to %d, and --require-covered asks for all", rep.Covered, rep.Size-1)
	}
	if len(rep.Brackets) < len(o.Entries) {
		return fmt.Errorf("--entry: the log has %d entries", rep.Size)
	}
	return nil
}

func exitOf(v fsck.Verdict) int {
	switch v {
	case immutable.Proven, immutable.Consistent:
		return exitOK
	case immutable.Refuted:
		return exitNo
	}
	return exitUnknown
}

// list is the value of a flag that may be repeated.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// maxOutside bounds a file given from outside the log.
const maxOutside = 64 << 20

// outside reads what was kept elsewhere.
func outside(o *immutable.VerifyOptions, keys, checkpoints, receipts, proofs []string) error {
	for _, k := range keys {
		if _, err := proof.ParseKey(k); err == nil {
			o.Keys = append(o.Keys, k)
			continue
		}
		data, err := readFile(k)
		if err != nil {
			return fmt.Errorf("--key is neither a verifier key nor a file of them: %w", err)
		}
		before := len(o.Keys)
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			if _, err := proof.ParseKey(line); err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
			o.Keys = append(o.Keys, line)
		}
		if len(o.Keys) == before { // else an emptied file would pin nothing, and nobody would be told
			return fmt.Errorf("%s holds no verifier key", k)
		}
	}
	for _, name := range checkpoints {
		data, err := readFile(name)
		if err != nil {
			return err
		}
		o.Checkpoints = append(o.Checkpoints, data)
	}
	for _, name := range proofs {
		data, err := readFile(name)
		if err != nil {
			return err
		}
		o.Proofs = append(o.Proofs, data)
	}
	for _, name := range receipts {
		rs, err := readReceipts(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		o.Receipts = append(o.Receipts, rs...)
	}
	return nil
}

// trust reads whose word counts, and what is asked of the log.
func trust(o *immutable.VerifyOptions, epochs, entries []string, policy, roots, require string) error {
	for _, name := range epochs {
		data, err := readFile(name)
		if err != nil {
			return err
		}
		o.Epochs = append(o.Epochs, data)
	}
	for _, s := range entries {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return fmt.Errorf("--entry %q: want the index of an entry", s)
		}
		if !slices.Contains(o.Entries, n) {
			o.Entries = append(o.Entries, n)
		}
	}
	var err error
	if o.Require, err = proof.ParseRequire(require); err != nil {
		return fmt.Errorf("--require: %w", err)
	}
	if policy != "" {
		data, err := readFile(policy)
		if err != nil {
			return err
		}
		if o.Policy, err = proof.ParsePolicy(data); err != nil {
			return fmt.Errorf("%s: %w", policy, err)
		}
	}
	if roots != "" {
		data, err := readFile(roots)
		if err != nil {
			return err
		}
		if o.TimeRoots = x509.NewCertPool(); !o.TimeRoots.AppendCertsFromPEM(data) {
			return fmt.Errorf("%s holds no certificate in PEM", roots)
		}
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxOutside+1))
	if err == nil && len(data) > maxOutside {
		err = fmt.Errorf("%s: more than %d bytes", name, maxOutside)
	}
	return data, err
}

// readReceipts reads JSON receipts one after the other.
func readReceipts(name string) ([]immutable.Receipt, error) {
	data, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var out []immutable.Receipt
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var raw struct {
			Index      *uint64
			Hash, Leaf string
		}
		if err := d.Decode(&raw); err != nil {
			if errors.Is(err, io.EOF) && len(out) > 0 {
				return out, nil
			}
			return nil, fmt.Errorf("receipt %d: %w", len(out)+1, err)
		}
		if raw.Index == nil {
			return nil, fmt.Errorf("receipt %d has no index", len(out)+1)
		}
		r := immutable.Receipt{Index: *raw.Index}
		for _, h := range []struct {
			text string
			to   *proof.Hash
		}{{raw.Hash, &r.Hash}, {raw.Leaf, &r.Leaf}} {
			if h.text == "" {
				continue
			}
			if *h.to, err = proof.ParseHex(h.text); err != nil {
				return nil, fmt.Errorf("receipt %d: %w", len(out)+1, err)
			}
		}
		out = append(out, r)
	}
}

func verify(c *call, o *immutable.VerifyOptions) (*immutable.Report, error) {
	bar := c.newProgress("verifying", "entries")
	defer bar.end()
	o.Progress = func(p immutable.Progress) { bar.set(p.Entries, p.TotalEntries) }
	return immutable.VerifyDir(c.ctx, c.dir, &immutable.Config{StateDir: c.stateDir}, *o)
}

// report prints a verification for a person.
func (c *call) report(r *immutable.Report) error {
	if c.json {
		return c.answer(r)
	}
	colour, say := green, ""
	switch r.Verdict {
	case immutable.Proven:
		say = fmt.Sprintf("%s of %s entries are covered by something from outside the directory", count(r.Covered), count(r.Size))
		if r.RetiredEntries > 0 {
			say += fmt.Sprintf("; %s of them are retired, and only their hashes were read", count(r.RetiredEntries))
		}
	case immutable.Consistent:
		colour, say = yellow, "everything agrees with itself; nothing from outside was there to compare it with"
		if len(r.Basis) > 0 {
			say = "everything agrees with itself; what was there from outside covers none of its entries"
		}
	case immutable.Refuted:
		colour, say = red, fmt.Sprintf("%s found", plural(len(r.Findings)+r.Omitted, "contradiction"))
	default:
		colour, say = yellow, "could not tell; the notes say why"
	}
	c.out.printf("%s  %s: %s\n", paint(bold+";"+colour, strings.ToUpper(string(r.Verdict))), c.dir, say)
	signed := "signed"
	if !r.Signed {
		signed = "unsigned"
	}
	c.out.printf("log %s (%s), %s entries in %s, %s read in %s\n", r.Origin, signed, count(r.Size), plural(r.Segments, "segment"), size(r.Bytes), r.Duration.Round(time.Millisecond))
	c.out.printf("root %s\n", r.Root.Base64())
	if n := len(r.Epochs); n > 0 && (n > 1 || len(r.Epochs[0].VKeys) > 1) {
		e := r.Epochs[n-1]
		above := ", which sign sizes above " + count(e.After)
		if e.Number == 0 {
			above = ", the first"
		}
		c.out.printf("keys of epoch %d%s\n", e.Number, above)
	}
	for _, f := range r.Findings {
		c.finding(red, "✗", f)
	}
	if r.Omitted > 0 {
		c.out.printf("  and %s more\n", count(r.Omitted))
	}
	for _, f := range r.Notes {
		c.finding(yellow, "·", f)
	}
	c.sources(r)
	c.times(r)
	c.basis(r)
	return nil
}

// most is how many runs and ranges are printed for people; --json has more.
const most = 20

// sources says what the producers' signatures show: completeness, which is another question than the verdict's.
func (c *call) sources(r *immutable.Report) {
	if r.Completeness == immutable.NoProducers || r.Completeness == "" {
		return
	}
	colour := green
	if r.Completeness != immutable.Complete {
		colour = yellow
	}
	c.out.printf("%s  sources: %s signed, %s with a signature that does not count, %s unsigned\n", paint(bold+";"+colour, strings.ToUpper(string(r.Completeness))),
		plural(int(r.ProducerSigned), "entry"), count(r.ProducerBad), count(r.Unsigned))
	for _, p := range r.Producers {
		name := p.Name
		if name == "" {
			name = "a key that was never registered"
		}
		c.out.printf("  %s (%s): %s signed, the highest counter is %d\n", name, p.ID, plural(int(p.Signed), "entry"), p.Highest)
		if p.Bad > 0 {
			c.finding(colour, "✗", immutable.Finding{File: name, Offset: -1, Index: p.FirstBad, What: plural(int(p.Bad), "entry") + " with a signature that does not count; of the first, " + p.Why})
		}
		if p.Lacking == 0 {
			continue
		}
		var ranges []string
		for _, m := range p.Missing[:min(most, len(p.Missing))] {
			if m.From == m.To {
				ranges = append(ranges, fmt.Sprint(m.From))
			} else {
				ranges = append(ranges, fmt.Sprintf("%d to %d", m.From, m.To))
			}
		}
		if len(p.Missing) > most {
			ranges = append(ranges, "…")
		}
		c.out.printf("  %s %s missing: %s\n", paint(colour, "✗"), plural(int(p.Lacking), "counter"), strings.Join(ranges, ", "))
	}
}

// times says what outside parties say about when they saw the log.
func (c *call) times(r *immutable.Report) {
	if w := r.Witnessed; w != nil {
		satisfied := "the policy is satisfied"
		if !w.Satisfied {
			satisfied = "the policy is not satisfied"
		}
		c.out.printf("witnesses: %s of %s entries, the oldest at %s; %s\n", strings.Join(w.Names, ", "), count(w.Size), timeOr(w.Time), satisfied)
	}
	for _, o := range r.Clock[:min(most, len(r.Clock))] {
		side := "before"
		if o.Late {
			side = "after"
		}
		c.out.printf("  %s clock: entries %d to %d have timestamps from %s on, %s %s, when %s saw the log (%s)\n", paint(yellow, "✗"), o.From, o.To,
			o.Timestamp.Format(time.RFC3339Nano), side, o.Mark.Time.Format(time.RFC3339Nano), o.Mark.Name, o.Mark.File)
	}
	if r.ClockOutside > 0 {
		c.out.printf("clock: %s outside what trusted parties say\n", plural(int(r.ClockOutside), "timestamp"))
	}
	for _, b := range r.Brackets {
		say := func(m *immutable.TimeMark, none string) string {
			if m == nil {
				return none
			}
			return fmt.Sprintf("%s (%s, %s)", m.Time.Format(time.RFC3339Nano), m.Name, m.File)
		}
		c.out.printf("entry %d: timestamp %s, not before %s, not after %s\n", b.Index, b.Timestamp.Format(time.RFC3339Nano),
			say(b.NotBefore, "anything that a trusted party said"), say(b.NotAfter, "anything that a trusted party said"))
	}
}

func timeOr(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return t.Format(time.RFC3339)
}

func (c *call) finding(colour, mark string, f immutable.Finding) {
	c.out.printf("  %s %s: %s\n", paint(colour, mark), place(&f), f.What)
	if f.Got != "" || f.Want != "" {
		c.out.printf("      found     %s\n      expected  %s\n", nothing(f.Got), nothing(f.Want))
	}
	if f.Hint != "" {
		c.out.printf("%s\n", paint(dim, "      "+f.Hint))
	}
}

// place is where a finding is.
func place(f *immutable.Finding) string {
	s := f.File
	if f.Offset >= 0 {
		s += fmt.Sprintf(", offset %d", f.Offset)
	}
	if f.Index >= 0 {
		s += fmt.Sprintf(", entry %d", f.Index)
	}
	return s
}

func nothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// basis says what the answer stands on, and what it cannot show.
func (c *call) basis(r *immutable.Report) {
	if r.Verdict != immutable.Proven && r.Verdict != immutable.Consistent {
		return
	}
	entries := "every entry"
	if r.RetiredEntries > 0 {
		entries = fmt.Sprintf("every entry but the %s retired ones, of which the leaf hashes", count(r.RetiredEntries))
	}
	c.out.printf("checked: %s, the hash chain, the Merkle tree, timestamps, files and gaps between them, %s\n", entries, plural(int(r.Checkpoints), "kept checkpoint"))
	for _, b := range r.Basis {
		c.out.printf("stands on: %s: %s\n", b.Kind, b.Detail)
	}
	for _, k := range r.Controls {
		c.out.printf("control entry %d: %s\n", k.Index, k.Type)
	}
	if r.Verdict == immutable.Consistent {
		c.out.printf("%s\n", paint(dim, "cannot show: that it was not cut back to an earlier signed state or epoch of keys, or replaced as a whole with its keys. Give it a key (--key), checkpoint or receipt kept elsewhere."))
		return
	}
	if onlyKeys(r) {
		c.out.printf("%s\n", paint(dim, "cannot show: that it was not cut back to an earlier epoch or signed state: a key says who signed, not what was signed last."))
	}
	if r.Covered < r.Size {
		c.out.printf("%s\n", paint(dim, fmt.Sprintf("cannot show: that entries from %d on are what was appended; nothing from outside covers them yet.", r.Covered)))
		return
	}
	c.out.printf("%s\n", paint(dim, "cannot show: what somebody did who could change the directory and everything it stands on."))
}

// onlyKeys says whether nothing but keys stands behind the verdict.
func onlyKeys(r *immutable.Report) bool {
	return !slices.ContainsFunc(r.Basis, func(b immutable.Basis) bool { return b.Kind != "key" })
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "sh") {
		what += "e"
	}
	if stem, found := strings.CutSuffix(what, "ry"); found {
		what = stem + "rie"
	}
	return count(n) + " " + what + "s"
}
