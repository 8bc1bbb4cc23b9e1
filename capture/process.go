package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
)

// ProcessOptions say what is recorded of a process. The zero value works.
type ProcessOptions struct {
	Name    string // empty is the program's file name
	Version string // empty is what the build says

	// Args records the command line, with the values of secrets left out by their flags' names.
	Args bool
	// Digest records the SHA-256 of the program's file, which is read for it.
	Digest bool

	Extra immutable.Fields
}

// Process is the program that was recorded as started.
type Process struct {
	rec     *Recorder
	target  event.Target
	started time.Time
}

// panicFlush bounds how long a panic waits for its record to be where the destination brings it.
const panicFlush = 5 * time.Second

// StartProcess records that this process has started: program, version, process ids, user, Go version.
func (r *Recorder) StartProcess(ctx context.Context, o ProcessOptions) (*Process, error) {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	build := map[string]any{"go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if o.Version == "" {
			o.Version = info.Main.Version
		}
		build["module"] = Text(info.Main.Path, maxName)
		for _, s := range info.Settings {
			if name, found := strings.CutPrefix(s.Key, "vcs."); found {
				build[name] = Text(s.Value, maxName)
			}
		}
	}
	process := map[string]any{"executable": Text(exe, maxValue), "parentPid": os.Getppid(), "version": Text(o.Version, maxName), "build": build}
	if u, err := user.Current(); err == nil {
		process["user"], process["uid"] = Text(u.Username, maxName), Text(u.Uid, maxName)
	}
	if o.Args {
		process["args"] = r.redact.args(os.Args[1:])
	}
	if o.Digest {
		if digest, err := fileDigest(exe); err == nil {
			process["sha256"] = digest
		} else {
			process["sha256Error"] = Text(err.Error(), maxName)
		}
	}
	p := &Process{rec: r, target: event.Target{Type: "process", ID: fmt.Sprint(os.Getpid()), Name: Text(first(o.Name, filepath.Base(exe)), maxName)}, started: time.Now()}
	return p, r.Record(ctx, immutable.System, "process started: "+p.target.Name, p.shape(event.ActionProcessStart, event.OutcomeSuccess, process, o.Extra))
}

func (p *Process) shape(action string, outcome event.Outcome, process map[string]any, extra immutable.Fields) event.Shape {
	f := make(immutable.Fields, len(extra)+1)
	maps.Copy(f, extra)
	f["process"] = process
	return event.Shape{Kind: event.KindProcess, Action: action, Outcome: outcome, Target: &p.target, Extra: f}
}

// Stop records that the process ends, and why, and waits for everything that was recorded, until ctx ends.
func (p *Process) Stop(ctx context.Context, reason string) error {
	s := p.shape(event.ActionProcessStop, event.OutcomeSuccess, map[string]any{"uptimeMs": time.Since(p.started).Milliseconds()}, nil)
	s.Reason = Text(reason, maxValue)
	if err := p.rec.Record(ctx, immutable.System, "process stops: "+p.target.Name, s); err != nil {
		return err
	}
	return p.rec.Flush(ctx)
}

// Panic is deferred, by main and by each goroutine whose panics shall be known: `defer rec.Panic(ctx)`. It records a panic with its
// value and the functions that it came through, waits at most five seconds for the record, and goes on panicking.
func (r *Recorder) Panic(ctx context.Context) {
	v := recover()
	if v == nil {
		return
	}
	pid := fmt.Sprint(os.Getpid())
	_ = r.Record(ctx, immutable.Critical, "panic: "+Text(fmt.Sprint(v), 200), event.Shape{ // the error was told to OnError
		Kind: event.KindProcess, Action: event.ActionProcessPanic, Outcome: event.OutcomeFailure,
		Target: &event.Target{Type: "process", ID: pid, Name: Text(filepath.Base(os.Args[0]), maxName)},
		Extra:  immutable.Fields{"panic": PanicFields(v)},
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), panicFlush)
	defer cancel()
	_ = r.Flush(ctx) // what is lost now is lost with the process
	panic(v)
}

// maxStack bounds the functions of a panic.
const maxStack = 32

// PanicFields describe a panic that was recovered by the function that calls it: value, type, and the functions that it came through. For
// adapters.
func PanicFields(v any) immutable.Fields {
	var pcs [64]uintptr
	var stack []string
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for len(stack) < maxStack {
		f, more := frames.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			stack = append(stack, fmt.Sprintf("%s %s:%d", Text(f.Function, maxName), Text(filepath.Base(f.File), maxName), f.Line))
		}
		if !more {
			break
		}
	}
	return immutable.Fields{"value": panicText(v), "type": fmt.Sprintf("%T", v), "stack": stack}
}

// panicText is a panic's value, whose methods may panic too; fmt says so then.
func panicText(v any) string { return Text(fmt.Sprint(v), 2000) }

// maxArgs bounds the arguments of a command line that are recorded.
const maxArgs = 100

// args is a command line without the values of flags that are secrets: --password=x, --password x, PASSWORD=x, and in addresses.
func (r *Redaction) args(all []string) []string {
	out := make([]string, 0, min(len(all), maxArgs))
	hidden := false
	for i, a := range all {
		if i == maxArgs {
			break
		}
		flag := strings.HasPrefix(a, "-")
		name, _, found := strings.Cut(a, "=")
		switch {
		case hidden && !flag:
			a, hidden = Redacted, false
		case found && r.Secret(strings.TrimLeft(name, "-")):
			a, hidden = name+"="+Redacted, false
		default:
			hidden = flag && !found && r.Secret(strings.TrimLeft(name, "-"))
			a = r.Location(a)
		}
		out = append(out, Text(a, 1000))
	}
	return out
}

func fileDigest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
