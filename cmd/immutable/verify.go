package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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
  immutable verify --json --alert http://alerts.internal:9093/hook || echo "exit $?"

  --key VKEY|FILE        verifier key that must be the log's, or a file of them; may be repeated
  --checkpoint FILE      a checkpoint kept from earlier (` + "`immutable checkpoint`" + ` prints one); may be repeated
  --receipt FILE         receipts as ` + "`immutable log --json`" + ` prints them, one a line; may be repeated
  --proof FILE           a proof as ` + "`immutable prove`" + ` writes it; may be repeated
  --indexes              recompute the derived indexes too
  --no-head              do not use what this host knows of the log
  --workers N            goroutines that read and hash (default: one for each processor)
  --alert URL            when the answer is refuted or unknown, POST the JSON report there (3 tries); a report that cannot be
                         delivered is said on standard error, and the exit code stays the answer's` + dirFlags + commonFlags

func setupVerify(c *call) func() error {
	c.dirFlags()
	var keys, checkpoints, receipts, proofs list
	c.set.Var(&keys, "key", "")
	c.set.Var(&checkpoints, "checkpoint", "")
	c.set.Var(&receipts, "receipt", "")
	c.set.Var(&proofs, "proof", "")
	var o immutable.VerifyOptions
	c.set.BoolVar(&o.Indexes, "indexes", false, "")
	c.set.BoolVar(&o.NoHead, "no-head", false, "")
	c.set.IntVar(&o.Workers, "workers", 0, "")
	alert := c.set.String("alert", "", "")
	return func() error {
		if err := c.arguments(0, 1, "at most one directory"); err != nil {
			return err
		}
		if len(c.args) == 1 {
			c.dir = c.args[0]
		}
		err := outside(&o, keys, checkpoints, receipts, proofs)
		var rep *immutable.Report
		if err == nil {
			rep, err = verify(c, &o)
		}
		if *alert != "" && (err != nil || exitOf(rep.Verdict) != exitOK) {
			sendAlert(c, *alert, rep, err)
		}
		if err != nil {
			return err
		}
		if err := c.report(rep); err != nil {
			return err
		}
		if code := exitOf(rep.Verdict); code != exitOK {
			return exit(code)
		}
		return nil
	}
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
	for _, f := range r.Findings {
		c.finding(red, "✗", f)
	}
	if r.Omitted > 0 {
		c.out.printf("  and %s more\n", count(r.Omitted))
	}
	for _, f := range r.Notes {
		c.finding(yellow, "·", f)
	}
	c.basis(r)
	return nil
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
	c.out.printf("checked: every entry, the hash chain, the Merkle tree, timestamps, files and gaps between them, %s\n", plural(int(r.Checkpoints), "kept checkpoint"))
	for _, b := range r.Basis {
		c.out.printf("stands on: %s: %s\n", b.Kind, b.Detail)
	}
	for _, k := range r.Controls {
		c.out.printf("control entry %d: %s\n", k.Index, k.Type)
	}
	if r.Verdict == immutable.Consistent {
		c.out.printf("%s\n", paint(dim, "cannot show: that it was not cut back, or replaced as a whole with its keys. Give it a key (--key), checkpoint or receipt kept elsewhere."))
		return
	}
	if r.Covered < r.Size {
		c.out.printf("%s\n", paint(dim, fmt.Sprintf("cannot show: that entries from %d on are what was appended; nothing from outside covers them yet.", r.Covered)))
		return
	}
	c.out.printf("%s\n", paint(dim, "cannot show: what somebody did who could change the directory and everything it stands on."))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "sh") {
		what += "e"
	}
	return count(n) + " " + what + "s"
}

const (
	alertTries   = 3
	alertTimeout = 10 * time.Second
	alertBackoff = time.Second // doubled after each try
)

// sendAlert posts the report. Without one, because verification could not run, it posts why.
func sendAlert(c *call, url string, r *immutable.Report, failed error) {
	var body []byte
	var err error
	if failed != nil {
		body, err = marshal(map[string]string{"verdict": string(immutable.Unknown), "dir": c.dir, "error": failed.Error()})
	} else {
		body, err = marshal(r)
	}
	wait := alertBackoff
	for try := 1; err == nil; try++ {
		var final bool
		if final, err = postAlert(c.ctx, url, body); err == nil {
			return
		}
		if final || try == alertTries {
			break
		}
		select {
		case <-time.After(wait):
			wait, err = 2*wait, nil
		case <-c.ctx.Done():
		}
	}
	c.errs.printf("alert not delivered: %s\n", err)
}

// postAlert says with final that another try is of no use.
func postAlert(ctx context.Context, url string, body []byte) (final bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, alertTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return true, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection ends in order
	if res.StatusCode/100 == 2 {
		return false, nil
	}
	return res.StatusCode/100 == 4 && res.StatusCode != http.StatusTooManyRequests, fmt.Errorf("%s answered %s", url, res.Status)
}
