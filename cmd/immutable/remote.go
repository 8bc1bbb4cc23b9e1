package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"iter"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/proof"
)

// view is what commands that read ask of a log: one in a directory, or one on a server. What it returns is verified as far as the
// log can be: see directory and remote.
type view interface {
	Entries(context.Context, immutable.Query) iter.Seq2[immutable.Entry, error]
	Search(context.Context, immutable.Query) iter.Seq2[immutable.Entry, error]
	Follow(context.Context, immutable.Query) iter.Seq2[immutable.Entry, error]
	Entry(ctx context.Context, index uint64) (immutable.Entry, error)
	Block(ctx context.Context, index uint64) (immutable.Block, error)
	Proof(ctx context.Context, index uint64) ([]byte, error)
	Count(context.Context, immutable.Query) (immutable.Count, error)
	CountBy(ctx context.Context, q immutable.Query, field string) (immutable.Counts, error)
	Histogram(ctx context.Context, q immutable.Query, width time.Duration) (immutable.Histogram, error)
	Stats(context.Context) (*immutable.Stats, error)
	RootAt(ctx context.Context, size uint64) (immutable.Hash, error)
	ConsistencyProof(ctx context.Context, a, b uint64) ([]immutable.Hash, error)
	ExportTiles(ctx context.Context, dir string, progress func(done, total uint64)) (*immutable.TilesExport, error)
	Bundle(context.Context, immutable.BundleOptions) ([]byte, error)

	Origin() string
	Dir() string // or address
	VerifierKeys() []string
	CurrentKeys() []string
	Epoch() uint64
	KeyChain() ([]byte, error)
	Checkpoint() ([]byte, error)
	CheckpointHistory() ([][]byte, error)
	OpenCheckpoint(note []byte) (proof.Checkpoint, error)

	// end is the index after the newest entry that may be read.
	end(context.Context) (uint64, error)
	Close() error
}

// directory is a log in a directory: what it returns is proven against the tree in the directory.
type directory struct{ *immutable.Log }

func (d directory) end(context.Context) (uint64, error) { return d.Size(), nil }

// remote is a log on a server. What it returns is proven under checkpoints that the pinned keys have signed; where none were
// given, under those that the server itself names, and the person is told.
type remote struct {
	*client.Client
	c     *call
	plain *client.Client // knows no keys
	keys  *client.Keys
}

// serverCall are the flags that name a log on a server.
type serverCall struct {
	url, token, tokenFile, tenant, log, ca, clientCert, clientKey string
	retry                                                         time.Duration
	keys                                                          list // where the command verifies what it receives
	oneKey                                                        bool
	verifies                                                      bool
	refused                                                       []string // flags of the command that are for directories only
}

const appendFlags = `
  --server URL           the log is on this server (IMMUTABLE_SERVER), not in a directory: docs/cli.md, "On a server"
  --token TOKEN          to show it; better in IMMUTABLE_TOKEN, since others see the command line
  --token-file FILE      the file that the token is in
  --tenant NAME          whose log (default "default")
  --log NAME             which log (default "main")
  --ca FILE              PEM certificates of the authorities for https (default: the system's)
  --client-cert FILE     PEM certificate that says who asks, with or without a token; with --client-key
  --client-key FILE      its private key
  --retry-for TIME       how long to try while the server is away or busy (default 30s to write, 5s to read)`

const serverFlags = appendFlags + `
  --key VKEY|FILE        the log's keys on a server, kept from ` + "`immutable key show`" + `: what the server sends must be signed by them
  --one-key-log          the log has one key only, as early ones`

// flagsOfServer declares the flags of a command that works on a server too. refused are those of its flags that do not.
func (c *call) flagsOfServer(verifies bool, refused ...string) {
	s := &c.server
	s.verifies, s.refused = verifies, append(refused, "dir", "state-dir", "rotate-size", "origin", "time-authority", "blockchain-enabled", "witness-timeout", "epoch-duration", "epoch-entries")
	c.set.StringVar(&s.url, "server", "", "")
	c.set.StringVar(&s.token, "token", "", "")
	c.set.StringVar(&s.tokenFile, "token-file", "", "")
	c.set.StringVar(&s.tenant, "tenant", "default", "")
	c.set.StringVar(&s.log, "log", "main", "")
	c.set.StringVar(&s.ca, "ca", "", "")
	c.set.StringVar(&s.clientCert, "client-cert", "", "")
	c.set.StringVar(&s.clientKey, "client-key", "", "")
	c.set.DurationVar(&s.retry, "retry-for", 0, "")
	if verifies {
		c.set.Var(&s.keys, "key", "")
		c.set.BoolVar(&s.oneKey, "one-key-log", false, "")
	}
}

var serverFlagNames = []string{"server", "token", "token-file", "tenant", "log", "ca", "client-cert", "client-key", "retry-for"}

// where decides between directory and server: the command line wins over the environment. given are the flags of the command line.
func (c *call) where(given map[string]bool) error {
	if c.set.Lookup("server") == nil {
		return nil
	}
	if !given["server"] && (given["dir"] || given["state-dir"]) {
		c.server.url = ""
	}
	if c.server.url == "" {
		own := serverFlagNames
		if c.server.verifies {
			own = append([]string{"key", "one-key-log"}, own...)
		}
		for _, name := range own {
			if given[name] && name != "server" {
				return c.usagef("--%s goes with --server URL, or with IMMUTABLE_SERVER", name)
			}
		}
		return nil
	}
	for _, name := range c.server.refused {
		if given[name] {
			return c.usagef("--%s is for a log in a directory, and does not go with the server %s", name, c.server.url)
		}
	}
	if given["token"] && given["token-file"] {
		return c.usagef("--token, --token-file: one of them")
	}
	if given["token-file"] {
		c.server.token = ""
	}
	return nil
}

// remote says whether the log is on a server.
func (c *call) remote() bool { return c.server.url != "" }

// noServer is the error of a flag that says something about a server, for a command that has none.
func (c *call) noServer(name string) error {
	if !slices.Contains(serverFlagNames, name) {
		return nil
	}
	return c.usagef("it works on a log in a directory, not on a server: it has no flag --%s (--dir DIR says which)", name)
}

// address names the log for people.
func (c *call) address() string {
	return strings.TrimSuffix(c.server.url, "/") + " " + c.server.tenant + "/" + c.server.log
}

const (
	readRetry  = 5 * time.Second
	writeRetry = 30 * time.Second
)

// clientConfig is what the flags say, without keys.
func (c *call) clientConfig(retry time.Duration) (client.Config, error) {
	s := &c.server
	cfg := client.Config{URL: s.url, Tenant: s.tenant, Log: s.log, Token: s.token, RetryFor: retry}
	if s.retry != 0 {
		cfg.RetryFor = s.retry
	}
	if s.token == "" && s.tokenFile != "" {
		data, err := readFile(s.tokenFile)
		if err != nil {
			return cfg, fmt.Errorf("--token-file: %w", err)
		}
		if cfg.Token = strings.TrimSpace(string(data)); cfg.Token == "" {
			return cfg, fmt.Errorf("--token-file: %s is empty", s.tokenFile)
		}
	}
	if s.ca != "" {
		data, err := readFile(s.ca)
		if err != nil {
			return cfg, fmt.Errorf("--ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(data) {
			return cfg, fmt.Errorf("--ca: %s holds no certificate in PEM", s.ca)
		}
		cfg.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	if s.clientCert != "" || s.clientKey != "" {
		if s.clientCert == "" || s.clientKey == "" {
			return cfg, errors.New("--client-cert and --client-key go together: give both")
		}
		pair, err := tls.LoadX509KeyPair(s.clientCert, s.clientKey)
		if err != nil {
			return cfg, fmt.Errorf("--client-cert: %w", err)
		}
		if cfg.TLS == nil {
			cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		cfg.TLS.Certificates = []tls.Certificate{pair}
	}
	if u, err := url.Parse(s.url); err == nil && u.Scheme == "http" && cfg.Token != "" && !loopback(u.Hostname()) {
		c.remark("the token goes to %s without encryption; use https\n", u.Host)
	}
	return cfg, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// appendable is a log to append to: in a directory, or on a server.
type appendable interface {
	Append(context.Context, ...immutable.Event) ([]immutable.Receipt, error)
	Close() error
}

// openAppender opens the log for appending; in a directory it is made if there is none. On a server a token that may only append
// is enough.
func (c *call) openAppender() (appendable, error) {
	if !c.remote() {
		return c.openWrite(false)
	}
	cfg, err := c.clientConfig(writeRetry)
	if err != nil {
		return nil, err
	}
	return client.New(cfg)
}

// openView opens the log for reading, wherever it is.
func (c *call) openView() (view, error) {
	if c.remote() {
		r, err := c.openRemote()
		if err != nil {
			return nil, c.ofServer(err)
		}
		return r, nil
	}
	l, err := c.openRead()
	if err != nil {
		return nil, err
	}
	return directory{l}, nil
}

// withView runs f with the log open for reading.
func (c *call) withView(f func(view) error) (err error) {
	l, err := c.openView()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	return f(l)
}

// openRemote asks who the token stands for and what keys the log has, and pins these for this run where none were given.
func (c *call) openRemote() (*remote, error) {
	cfg, err := c.clientConfig(readRetry)
	if err != nil {
		return nil, err
	}
	r := &remote{c: c}
	if r.plain, err = client.New(cfg); err != nil {
		return nil, err
	}
	who, err := r.plain.WhoAmI(c.ctx)
	if err != nil {
		return nil, err
	}
	if cfg.Levels = who.Levels; len(who.Levels) > 0 {
		names := make([]string, len(who.Levels))
		for i, l := range who.Levels {
			names[i] = l.String()
		}
		c.remark("the server shows this token entries of %s only\n", strings.Join(names, ", "))
	}
	var given immutable.VerifyOptions
	if err := outside(&given, c.server.keys, nil, nil, nil); err != nil {
		return nil, err
	}
	cfg.Keys, cfg.OneKeyLog = given.Keys, c.server.oneKey
	if !r.pinned() {
		if r.keys, err = r.plain.Keys(c.ctx); err != nil {
			return nil, err
		}
		cfg.Keys, cfg.OneKeyLog = r.keys.First, len(r.keys.First) == 1
		c.sayUnpinned(len(cfg.Keys) > 0)
	}
	if r.Client, err = client.New(cfg); err != nil {
		return nil, err
	}
	if r.keys, err = r.Keys(c.ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (c *call) sayUnpinned(signed bool) {
	if !signed {
		c.remark("the log has no keys: what the server says is its word\n")
		return
	}
	c.remark("no --key was given: what follows is proven by keys that the server itself has named, so it is the server's word\n")
}

func (r *remote) pinned() bool { return len(r.c.server.keys) > 0 }

func (r *remote) Origin() string                       { return r.keys.Origin }
func (r *remote) Dir() string                          { return r.c.address() }
func (r *remote) VerifierKeys() []string               { return r.keys.First }
func (r *remote) CurrentKeys() []string                { return r.keys.Current }
func (r *remote) Epoch() uint64                        { return r.keys.Epoch }
func (r *remote) KeyChain() ([]byte, error)            { return r.keys.Chain, nil }
func (r *remote) Checkpoint() ([]byte, error)          { return r.Client.Checkpoint(r.c.ctx) }
func (r *remote) CheckpointHistory() ([][]byte, error) { return r.Client.CheckpointHistory(r.c.ctx) }

func (r *remote) OpenCheckpoint(note []byte) (proof.Checkpoint, error) {
	return r.Client.OpenCheckpoint(r.c.ctx, note)
}

func (r *remote) end(ctx context.Context) (uint64, error) {
	for e, err := range r.Search(ctx, immutable.Query{Limit: 1}) {
		return e.Index + 1, err
	}
	return 0, nil
}

// Stats are the server's word, whoever signs.
func (r *remote) Stats(ctx context.Context) (*immutable.Stats, error) {
	if r.pinned() {
		r.c.remark("statistics are the server's word; no key proves them\n")
	}
	return r.Client.Stats(ctx)
}

// Verify has the server verify its log. Keys that only the server has named are nothing from outside, and do not go with it.
func (r *remote) Verify(ctx context.Context, o immutable.VerifyOptions) (*immutable.Report, error) {
	if r.pinned() {
		return r.Client.Verify(ctx, o)
	}
	return r.plain.Verify(ctx, o)
}

func (r *remote) Close() error {
	return errors.Join(r.Client.Close(), r.plain.Close())
}

// ofServer says what to do about an error of the server as a whole.
func (c *call) ofServer(err error) error {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*client.Problem](err); ok {
		switch p.Status {
		case 401:
			return fmt.Errorf("%s: %w; give a token that is valid there: --token-file FILE or IMMUTABLE_TOKEN", c.server.url, err)
		case 404:
			return fmt.Errorf("%s: %w; --tenant and --log name the log, and the token must be allowed to know of it", c.address(), err)
		}
		return err
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("the server %s does not answer: %w", c.server.url, err)
	}
	return err
}

// lied says whether an error is evidence against the server.
func lied(err error) bool {
	_, wrong := errors.AsType[*client.VerificationError](err)
	_, twice := errors.AsType[*client.MisbehaviourError](err)
	return wrong || twice
}

// serverReport is the server's report with what was verified here.
type serverReport struct {
	report *immutable.Report
	Server serverCheck
}

// serverCheck is what this program has verified itself.
type serverCheck struct {
	URL      string            `json:"url"`
	Tenant   string            `json:"tenant"`
	Log      string            `json:"log"`
	Pinned   bool              `json:"pinned"` // by keys that were given, not by those that the server names
	Verdict  immutable.Verdict `json:"verdict"`
	Size     uint64            `json:"size"` // of the checkpoint
	Checked  []string          `json:"checked"`
	Findings []string          `json:"findings"`
	Notes    []string          `json:"notes"`
}

// MarshalJSON adds the member "server" to the report.
func (s *serverReport) MarshalJSON() ([]byte, error) {
	data, err := marshal(s.report)
	if err != nil {
		return nil, err
	}
	more, err := marshal(&s.Server)
	if err != nil {
		return nil, err
	}
	return append(append(append(data[:len(data)-1:len(data)-1], `,"server":`...), more...), '}'), nil
}

// verdict is the worse of the server's and our own.
func (s *serverReport) verdict() immutable.Verdict {
	for _, v := range []immutable.Verdict{immutable.Refuted, immutable.Unknown} {
		if s.Server.Verdict == v || s.report.Verdict == v {
			return v
		}
	}
	return s.report.Verdict
}

// remoteFlags are those that verify knows on a server.
var remoteFlags = append([]string{"json", "quiet", "key", "one-key-log", "checkpoint", "receipt", "policy", "require", "indexes", "alert"}, serverFlagNames...)

// server has the server verify its log, and verifies what can be verified from here.
func (v *fileVerifier) server(o *immutable.VerifyOptions, keys, checkpoints, receiptFiles list, policy, require string) (err error) {
	c := v.c
	if len(c.args) > 0 {
		return c.usagef("%s is here, and --server says that the log is there: one of them", quote(c.args[0]))
	}
	for name := range c.given {
		if !slices.Contains(remoteFlags, name) {
			return c.usagef("--%s does not go with --server; verify a copy of the log for that", name)
		}
	}
	if err := outside(o, keys, checkpoints, receiptFiles, nil); err != nil {
		return err
	}
	if err := trust(o, nil, nil, policy, "", require); err != nil {
		return err
	}
	c.server.keys, c.server.oneKey, c.dir = keys, v.oneKey, c.address()
	r, err := c.openRemote()
	if err != nil {
		return c.ofServer(err)
	}
	defer closing(r, &err)
	receipts := o.Receipts
	o.Receipts, o.NoHead, o.Workers = nil, false, 0
	bar := c.newProgress("the server verifies", "entries")
	o.Progress = func(p immutable.Progress) { bar.set(p.Entries, p.TotalEntries) }
	rep, err := r.Verify(c.ctx, *o)
	bar.end()
	if err != nil {
		return err
	}
	s := &serverReport{report: rep, Server: serverCheck{
		URL: c.server.url, Tenant: c.server.tenant, Log: c.server.log, Pinned: r.pinned(), Verdict: immutable.Consistent,
		Checked: []string{}, Findings: []string{}, Notes: []string{},
	}}
	if err := s.check(r, o.Checkpoints, receipts); err != nil {
		return err
	}
	v.said, v.verdict = s, s.verdict()
	if err := c.reportOfServer(s); err != nil {
		return err
	}
	if code := exitOf(s.verdict()); code != exitOK {
		return exit(code)
	}
	return nil
}

// check verifies from here: the newest checkpoint, that the report is of the log that it signs, and what was kept elsewhere.
func (s *serverReport) check(r *remote, kept [][]byte, receipts []immutable.Receipt) error {
	own, ctx := &s.Server, r.c.ctx
	if len(r.VerifierKeys()) == 0 {
		own.Verdict = immutable.Unknown
		own.Notes = append(own.Notes, "the log has no keys, so nothing can be verified from here")
		if s.report.Verdict == immutable.Consistent && len(kept)+len(receipts) == 0 {
			own.Verdict = immutable.Consistent // as of a directory: an unsigned log that agrees with itself
		}
		return nil
	}
	try := func(what string, err error) error {
		switch {
		case err == nil:
			own.Checked = append(own.Checked, what)
		case lied(err):
			own.Findings = append(own.Findings, what+": "+err.Error())
		default:
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	note, err := r.Checkpoint()
	var newest proof.Checkpoint
	if err == nil {
		newest, err = r.OpenCheckpoint(note)
	}
	if errors.Is(err, immutable.ErrNotFound) && s.report.Size == 0 {
		own.Notes = append(own.Notes, "the log has no checkpoint yet")
		return nil
	}
	own.Size = newest.Size
	steps := []error{try(fmt.Sprintf("the signatures of the newest checkpoint, of %d entries", newest.Size), err)}
	if s.report.Size <= newest.Size {
		err := r.sameRoot(ctx, s.report.Size, s.report.Root)
		steps = append(steps, try("the server's report is of the log that the checkpoint signs", err))
	} else {
		own.Notes = append(own.Notes, fmt.Sprintf("no checkpoint covers the entries from %d on yet", newest.Size))
	}
	for _, text := range kept {
		cp, err := r.OpenCheckpoint(text)
		if err == nil && cp.Size > newest.Size {
			err = &client.VerificationError{Index: -1, What: fmt.Sprintf("it shows %d entries, and has signed a checkpoint of %d", newest.Size, cp.Size)}
		}
		if err == nil {
			err = r.sameRoot(ctx, cp.Size, cp.Root)
		}
		steps = append(steps, try(fmt.Sprintf("the kept checkpoint of %d entries: the log begins with them", cp.Size), err))
	}
	for _, x := range receipts {
		steps = append(steps, try(fmt.Sprintf("the receipt of entry %d", x.Index), r.CheckReceipt(ctx, x)))
	}
	if len(own.Findings) > 0 {
		own.Verdict = immutable.Refuted
	} else if own.Pinned || len(kept)+len(receipts) > 0 {
		own.Verdict = immutable.Proven
	}
	return errors.Join(steps...)
}

// sameRoot holds the log's first size entries to a root.
func (r *remote) sameRoot(ctx context.Context, size uint64, want proof.Hash) error {
	got, err := r.RootAt(ctx, size)
	if err == nil && got != want {
		err = &client.VerificationError{Index: -1, What: fmt.Sprintf("the root over %d entries is another", size), Got: got.Base64(), Want: want.Base64()}
	}
	return err
}

// reportOfServer prints both, and which is whose.
func (c *call) reportOfServer(s *serverReport) error {
	if c.json {
		return c.answer(s)
	}
	c.out.printf("%s\n", paint(bold, "The server's word about its own disk:"))
	if err := c.report(s.report); err != nil {
		return err
	}
	by := "the keys that were given"
	if !s.Server.Pinned {
		by = "keys that the server itself has named (--key pins others)"
	}
	c.out.printf("%s\n", paint(bold, "Verified here, by "+by+":"))
	for _, text := range s.Server.Checked {
		c.out.printf("  %s %s\n", paint(green, "✓"), text)
	}
	for _, text := range s.Server.Findings {
		c.out.printf("  %s %s\n", paint(red, "✗"), text)
	}
	for _, text := range s.Server.Notes {
		c.out.printf("  %s %s\n", paint(yellow, "·"), text)
	}
	c.out.printf("%s\n", paint(dim, "cannot show from here: that the server read its disk. `immutable export tiles --server …` takes a copy, proven entry by entry, to verify."))
	return nil
}

// givenFlags are the flags of the command line.
func givenFlags(set *flag.FlagSet) map[string]bool {
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return given
}
