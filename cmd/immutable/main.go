// Command immutable keeps tamper-evident, append-only logs: it appends, reads, proves and verifies. See docs/cli.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes. They are stable; docs/cli.md says what each command means by them.
const (
	exitOK      = 0
	exitNo      = 1 // the evidence says no
	exitUnknown = 2 // could not tell, or could not run
)

// app is what one run of the program has of the world.
type app struct {
	ctx    context.Context // ends at the first SIGINT or SIGTERM
	stdin  io.Reader
	stdout *os.File
	stderr *os.File
	getenv func(string) string
}

func main() {
	os.Exit(runMain())
}

func runMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the default applies again: a second one ends the program at once.
	context.AfterFunc(ctx, stop)
	a := &app{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	return a.run(os.Args[1:])
}

// command is one subcommand. setup declares its flags on the call and returns what runs after they are parsed.
type command struct {
	name    string
	summary string
	usage   string
	setup   func(*call) func() error
}

func commands() []command {
	return []command{
		{"log", "append one entry", logUsage, setupLog},
		{"append", "append entries from files or standard input", appendUsage, setupAppend},
		{"collect", "follow files and append their lines, each once", collectUsage, setupCollect},
		{"search", "find entries by words, fields and times", searchUsage, setupSearch},
		{"read", "print entries", readUsage, setupRead},
		{"tail", "print the newest entries, and follow", tailUsage, setupTail},
		{"get", "print one entry, or its block", getUsage, setupGet},
		{"prove", "write a proof that an entry is in the log", proveUsage, setupProve},
		{"bundle", "write entries and what proves them into one page", bundleUsage, setupBundle},
		{"verify", "check everything; say what is refuted or proven", verifyUsage, setupVerify},
		{"stats", "print what the log holds and how it does", statsUsage, setupStats},
		{"checkpoint", "print, list and compare signed checkpoints", checkpointUsage, setupCheckpoint},
		{"key", "print the log's verifier keys, or rotate them", keyUsage, setupKey},
		{"time", "have the log's state time-stamped by an authority", timeUsage, setupTime},
		{"producer", "keys of sources that sign their events", producerUsage, setupProducer},
		{"export", "print the log as JSON Lines, or as the earlier system's files", exportUsage, setupExport},
		{"import", "append what export, or the earlier system, has written", importUsage, setupImport},
		{"init", "make a log with a name of your choice", initUsage, setupInit},
		{"rotate", "seal the open segment now", rotateUsage, setupRotate},
		{"retire", "move or delete old segments, and keep what proves them", retireUsage, setupRetire},
		{"hold", "legal holds: nothing is retired", holdUsage, setupHold},
		{"rebuild", "make tree, chain, indexes and seals again", rebuildUsage, setupRebuild},
		{"backup", "make a verified snapshot of a log, also while it is written", backupUsage, setupBackup},
		{"restore", "bring a log back from a snapshot", restoreUsage, setupRestore},
		{"repair", "restore damaged files from a backup", repairUsage, setupRepair},
		{"adopt", "make this host know a restored or moved log", adoptUsage, setupAdopt},
		{"continue", "begin a new log that anchors an old one", continueUsage, setupContinue},
		{"clock", "let timestamps go back after a wrong clock", clockUsage, setupClock},
		{"witness", "cosign the checkpoints of logs, for those who do not trust their operators", witnessUsage, setupWitness},
		{"bench", "measure this machine, beside the floor", benchUsage, setupBench},
		{"drill", "attack copies of a log, and show who notices", drillUsage, setupDrill},
		{"serve", "run the service: many logs, many tenants, one port", serveUsage, setupServe},
		{"sinks", "send a server's entries on: webhooks, syslog, OTLP, files", sinksUsage, setupSinks},
		{"hooks", "webhooks and GitHub Actions that send to a log on a server", hooksUsage, setupHooks},
		{"config", "print or check the service's settings", configUsage, setupConfig},
		{"healthcheck", "ask a service whether it takes requests", healthcheckUsage, setupHealthcheck},
		{"demo", "see it work, and see attacks fail", demoUsage, setupDemo},
		{"completion", "print a shell completion script", completionUsage, setupCompletion},
		{"version", "print the version", versionUsage, setupVersion},
	}
}

const helpHead = `immutable keeps tamper-evident, append-only logs.

usage: immutable COMMAND [flags] [arguments]

`

const helpTail = `
  immutable demo                      see it work, and see attacks fail
  immutable log audit "deploy done" commit=abc123
  immutable COMMAND -h                a command's flags and examples

The log is in --dir, else $IMMUTABLE_LOG_DIR, else ./logs. Each flag --some-name can be set as IMMUTABLE_SOME_NAME.
Exit codes: 0 yes · 1 the evidence says no · 2 could not tell, or could not run.
`

func (a *app) run(args []string) int {
	errs := newPrinter(a.stderr, a.getenv)
	defer func() { _ = errs.flush() }() // nowhere is left to say it
	if len(args) == 0 {
		errs.raw(helpText())
		return exitUnknown
	}
	name, rest := args[0], args[1:]
	switch name {
	case "help", "-h", "-help", "--help":
		if name != "help" || len(rest) == 0 {
			out := newPrinter(a.stdout, a.getenv)
			out.raw(helpText())
			return a.finish(errs, "help", out.flush())
		}
		name, rest = rest[0], []string{"-h"}
	case "--version", "-version":
		name = "version"
	}
	for _, cmd := range commands() {
		if cmd.name == name {
			return a.runCommand(&cmd, rest)
		}
	}
	errs.printf("immutable: no command %s; `immutable help` lists them%s\n", quote(name), didYouMean(name))
	return exitUnknown
}

func didYouMean(name string) string {
	for _, cmd := range commands() {
		if len(name) > 1 && (strings.HasPrefix(cmd.name, name) || strings.HasPrefix(name, cmd.name)) {
			return " (did you mean " + cmd.name + "?)"
		}
	}
	return ""
}

func (a *app) runCommand(cmd *command, args []string) int {
	c := newCall(a, cmd)
	run := cmd.setup(c)
	err := c.parse(args)
	if errors.Is(err, errHelp) {
		c.out.raw("usage: " + strings.TrimSpace(cmd.usage) + "\n")
		err = nil
	} else if err == nil {
		err = run()
	}
	if ferr := c.out.flush(); err == nil && ferr != nil {
		err = fmt.Errorf("write the answer: %w", ferr)
	}
	code := a.finish(c.errs, cmd.name, err)
	_ = c.errs.flush() // nowhere is left to say it
	return code
}

// finish prints the error for a person and returns the exit code.
func (a *app) finish(errs *printer, name string, err error) int {
	if err == nil {
		return exitOK
	}
	var told exit
	if errors.As(err, &told) {
		return int(told)
	}
	errs.failure("immutable "+name+": ", err)
	return exitCode(err)
}

func helpText() string {
	var b strings.Builder
	b.WriteString(helpHead)
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-12s %s\n", cmd.name, cmd.summary)
	}
	b.WriteString(helpTail)
	return b.String()
}
