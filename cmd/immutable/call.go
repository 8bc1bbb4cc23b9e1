package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// call is one run of one subcommand: its flags, arguments and printers.
type call struct {
	*app
	cmd  *command
	set  *flag.FlagSet
	out  *printer // the answer
	errs *printer // everything else
	args []string

	json, quiet bool

	dir, stateDir string
	origin        string
	rotateSize    int64
	chained       bool // --blockchain-enabled
	authorities   urlList
	policy        string
	witnessTime   time.Duration
	epochDuration time.Duration
	epochEntries  uint64

	server serverCall
	given  map[string]bool // flags of the command line
}

func newCall(a *app, cmd *command) *call {
	c := &call{app: a, cmd: cmd, set: flag.NewFlagSet(cmd.name, flag.ContinueOnError), out: newPrinter(a.stdout, a.getenv), errs: newPrinter(a.stderr, a.getenv)}
	c.set.SetOutput(io.Discard)
	c.set.Usage = func() {}
	c.set.BoolVar(&c.json, "json", false, "")
	c.set.BoolVar(&c.quiet, "quiet", false, "")
	return c
}

const commonFlags = `
  --json                 print JSON
  --quiet                no progress, no remarks; errors are still printed
`

const dirFlags = `
  --dir DIR              the log (IMMUTABLE_LOG_DIR; default ./logs)
  --state-dir DIR        where this host keeps heads and private keys (IMMUTABLE_STATE_DIR)`

const writeFlags = `
  --rotate-size BYTES    seal the open segment at this size (default 104857600)
  --origin NAME          name of a log that is made now (default: host name and random digits)
  --time-authority URL   have checkpoints time-stamped (RFC 3161) by this authority, once an hour; more with commas or repeated
                         (IMMUTABLE_TIME_AUTHORITIES; default none)
  --blockchain-enabled=false
                         make a new log without keys and checkpoints
  --policy FILE          witnesses to ask for cosignatures: a C2SP tlog-policy (IMMUTABLE_POLICY; default none)
  --witness-timeout D    how long one witness may take (default 5s)` + epochFlags

const defaultDir = "./logs"

// dirFlags declares the flags of a command that reads a log.
func (c *call) dirFlags() {
	c.set.StringVar(&c.dir, "dir", defaultDir, "")
	c.set.StringVar(&c.stateDir, "state-dir", "", "")
}

// writeFlags declares the flags of a command that writes a log.
func (c *call) writeFlags() {
	c.dirFlags()
	c.set.Int64Var(&c.rotateSize, "rotate-size", 0, "")
	c.set.StringVar(&c.origin, "origin", "", "")
	c.set.BoolVar(&c.chained, "blockchain-enabled", true, "")
	c.set.Var(&c.authorities, "time-authority", "")
	c.set.StringVar(&c.policy, "policy", "", "")
	c.set.DurationVar(&c.witnessTime, "witness-timeout", 0, "")
	c.epochFlags()
}

var errHelp = errors.New("help was asked for")

// usageError is a mistake in the command line.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func (c *call) usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...) + "; `immutable " + c.cmd.name + " -h` shows how"}
}

// parse reads flags before, between and after the arguments; after -- everything is an argument. A flag that is not given
// takes its value from the environment.
func (c *call) parse(args []string) error {
	var flags []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			c.args = append(c.args, args[i+1:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			c.args = append(c.args, arg)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if name == "h" || name == "help" {
			return errHelp
		}
		f := c.set.Lookup(name)
		if f == nil {
			if err := c.noServer(name); err != nil {
				return err
			}
			return c.usagef("no flag %s (an argument that begins with - goes after --)", quote(arg))
		}
		flags = append(flags, arg)
		if hasValue || isBool(f) {
			continue
		}
		if i++; i == len(args) {
			return c.usagef("flag --%s needs a value", name)
		}
		flags = append(flags, args[i])
	}
	if err := c.set.Parse(flags); err != nil {
		return c.usagef("%s", err)
	}
	return c.environment()
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

func (c *call) environment() error {
	given := givenFlags(c.set)
	c.given = given
	var err error
	c.set.VisitAll(func(f *flag.Flag) {
		name := envName(f.Name)
		value := c.getenv(name)
		if given[f.Name] || value == "" || err != nil {
			return
		}
		if serr := c.set.Set(f.Name, value); serr != nil {
			err = c.usagef("%s=%s: %s", name, quote(value), serr)
		}
	})
	if err != nil {
		return err
	}
	return c.where(given)
}

// envName is the environment variable of a flag.
func envName(flagName string) string {
	switch flagName {
	case "dir":
		return "IMMUTABLE_LOG_DIR"
	case "time-authority":
		return "IMMUTABLE_TIME_AUTHORITIES"
	}
	return "IMMUTABLE_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// arguments checks how many there are; what names them for the error.
func (c *call) arguments(least, most int, what string) error {
	switch {
	case len(c.args) < least:
		return c.usagef("want %s", what)
	case len(c.args) > most:
		return c.usagef("want %s; %s is too much", what, quote(c.args[most]))
	}
	return nil
}

func (c *call) index(arg, what string) (uint64, error) {
	n, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		return 0, c.usagef("%s is a number from 0 on, not %s", what, quote(arg))
	}
	return n, nil
}

func (c *call) config() *immutable.Config {
	return &immutable.Config{
		Origin: c.origin, StateDir: c.stateDir, RotateSize: c.rotateSize, NoSignatures: !c.chained,
		TimeAuthorities: c.authorities,
		WitnessTimeout:  c.witnessTime, Logger: c.logger(),
		EpochDuration: c.epochDuration, EpochEntries: c.epochEntries,
	}
}

func (c *call) logger() *slog.Logger { return slog.New(&logHandler{c: c}) }

// readPolicy reads the file of --policy; nil without one.
func (c *call) readPolicy() (*proof.Policy, error) {
	if c.policy == "" {
		return nil, nil
	}
	data, err := readFile(c.policy)
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	p, err := proof.ParsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.policy, err)
	}
	return p, nil
}

// openWrite opens the log for appending; it is made if there is none and mustExist is false.
func (c *call) openWrite(mustExist bool) (*immutable.Log, error) {
	cfg := c.config()
	cfg.MustExist = mustExist
	var err error
	if cfg.Policy, err = c.readPolicy(); err != nil {
		return nil, err
	}
	return immutable.Open(c.dir, cfg)
}

func (c *call) openRead() (*immutable.Log, error) {
	cfg := c.config()
	cfg.ReadOnly, cfg.Origin, cfg.NoSignatures, cfg.TimeAuthorities = true, "", false, nil
	var err error
	if cfg.Policy, err = c.readPolicy(); err != nil {
		return nil, err
	}
	return immutable.Open(c.dir, cfg)
}

// closing closes a log at the end of a command and keeps the first error.
func closing(l io.Closer, err *error) {
	if cerr := l.Close(); cerr != nil && *err == nil {
		*err = fmt.Errorf("close the log: %w", cerr)
	}
}

// answer prints v as one line of JSON.
func (c *call) answer(v any) error {
	data, err := marshal(v)
	if err != nil {
		return err
	}
	c.out.bytes(append(data, '\n'))
	return nil
}

// marshal is JSON without escapes that only HTML needs.
func marshal(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}

// remark tells a person something that is not the answer.
func (c *call) remark(format string, args ...any) {
	if !c.quiet {
		c.errs.printf(format, args...)
		_ = c.errs.flush() // a remark that cannot be written is lost, nothing else
	}
}

// exit is the code of a command that has said everything itself.
type exit int

func (e exit) Error() string { return "exit code " + strconv.Itoa(int(e)) }

// noError is an error that the evidence gives: exit code 1.
type noError struct{ error }

func (e *noError) Unwrap() error { return e.error }

func evidence(format string, args ...any) error { return &noError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	var no *noError
	var damaged *immutable.CorruptError
	var refused *immutable.RefusedError
	switch {
	case errors.As(err, &no), errors.As(err, &damaged), lied(err):
		return exitNo
	case errors.As(err, &refused) && refused.Ours != "" && refused.Known != "":
		return exitNo // what this host has signed and what the directory shows contradict each other
	}
	return exitUnknown
}

// logHandler prints what the library reports to an operator.
type logHandler struct{ c *call }

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && (!h.c.quiet || l >= slog.LevelError)
}

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	h.c.errs.printf("%s: %s", strings.ToLower(r.Level.String()), r.Message)
	r.Attrs(func(a slog.Attr) bool {
		h.c.errs.printf(" %s=%s", a.Key, a.Value.String())
		return true
	})
	h.c.errs.printf("\n")
	return h.c.errs.flush()
}

func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *logHandler) WithGroup(string) slog.Handler      { return h }
