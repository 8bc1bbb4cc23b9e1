package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/client"
)

const sinksUsage = `immutable sinks [list | show NAME | add NAME | pause NAME | resume NAME | remove NAME | dead NAME | retry NAME | drop NAME]

Sinks send the entries of a log on a server on to other systems, each entry at least once, in order, and marked so that
` + "`immutable verify --from FILE`" + ` compares what arrived with the log. docs/sinks.md has the rest.

  immutable sinks add siem --type syslog --to siem.example.com:6514 --format ocsf
  immutable sinks add hook --type webhook --to https://example.com/in --secret-file whsec.txt --query 'level:security'
  immutable sinks add otel --type otlp --to https://collector.example.com/v1/logs --format ecs
  immutable sinks add archive --type file --rotate 1073741824
  immutable sinks                             how each does: state, lag, dead letters
  immutable sinks dead siem                   entries that the receiver has refused for good, and why
  immutable sinks retry siem 4711             try one again, or all; also ends a wait
  immutable sinks drop siem 4711              give one up, or all; the entry stays in the log

  --type TYPE            webhook, syslog (RFC 5424 over TLS), otlp (over HTTP) or file (JSON Lines on the server)
  --to URL|HOST:PORT     the receiver, for all types but file
  --format FORMAT        json, ocsf or ecs (default json)
  --query QUERY          only entries that it selects
  --level LEVEL          only these levels; several with commas, or repeated
  --from INDEX           from this entry on (default: the oldest)
  --title TEXT           for people
  --secret-file FILE     webhook: secrets that sign, one a line, "whsec_…"; otlp: what --header is to hold
                         (also IMMUTABLE_SINK_SECRET)
  --header NAME          otlp: the header of the secret (default "Authorization: Bearer")
  --receiver-ca FILE     PEM certificates of the authorities of the receiver's certificate
  --plain                syslog over TCP without TLS, where the server allows private addresses
  --rotate BYTES         file: begin a new file after so many (default 67108864)
  --keep N               file: keep so many files (default all)
  --paused               make it, and let it wait` + appendFlags + dirFlags + commonFlags

// sinkView is a sink as the server shows it, as far as it is printed here.
type sinkView struct {
	Name    string   `json:"name"`
	Log     string   `json:"log"`
	Type    string   `json:"type"`
	Format  string   `json:"format"`
	Query   string   `json:"query"`
	Levels  []string `json:"levels"`
	URL     string   `json:"url"`
	Address string   `json:"address"`
	Status  struct {
		State       string  `json:"state"`
		Error       string  `json:"error"`
		Tries       int     `json:"tries"`
		Next        uint64  `json:"next"`
		Lag         uint64  `json:"lag"`
		LagSeconds  float64 `json:"lagSeconds"`
		Delivered   uint64  `json:"delivered"`
		DeadLetters int     `json:"deadLetters"`
		Skipped     uint64  `json:"skipped"`
	} `json:"status"`
}

// newSink is what add sends.
type newSink struct {
	Name    string   `json:"name"`
	Title   string   `json:"title,omitempty"`
	Log     string   `json:"log"`
	Type    string   `json:"type"`
	Format  string   `json:"format,omitempty"`
	Query   string   `json:"query,omitempty"`
	Levels  []string `json:"levels,omitempty"`
	From    uint64   `json:"from,omitempty"`
	URL     string   `json:"url,omitempty"`
	Address string   `json:"address,omitempty"`
	Plain   bool     `json:"plain,omitempty"`
	CA      string   `json:"ca,omitempty"`
	Header  string   `json:"header,omitempty"`
	Secrets []string `json:"secrets,omitempty"`
	Rotate  int64    `json:"rotate,omitempty"`
	Keep    int      `json:"keep,omitempty"`
	Paused  bool     `json:"paused,omitempty"`
}

// sinksCall is one run of the command.
type sinksCall struct {
	*call
	s                     newSink
	to, secretFile, caPEM string
	levels                levelList
	api                   *client.Client
}

func setupSinks(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(false)
	x := &sinksCall{call: c}
	c.set.StringVar(&x.s.Type, "type", "", "")
	c.set.StringVar(&x.to, "to", "", "")
	c.set.StringVar(&x.s.Format, "format", "json", "")
	c.set.StringVar(&x.s.Query, "query", "", "")
	c.set.Var(&x.levels, "level", "")
	c.set.Uint64Var(&x.s.From, "from", 0, "")
	c.set.StringVar(&x.s.Title, "title", "", "")
	c.set.StringVar(&x.secretFile, "secret-file", "", "")
	c.set.StringVar(&x.s.Header, "header", "", "")
	c.set.StringVar(&x.caPEM, "receiver-ca", "", "")
	c.set.BoolVar(&x.s.Plain, "plain", false, "")
	c.set.Int64Var(&x.s.Rotate, "rotate", 0, "")
	c.set.IntVar(&x.s.Keep, "keep", 0, "")
	c.set.BoolVar(&x.s.Paused, "paused", false, "")
	return x.run
}

// sinkFlags are those of add alone.
var sinkFlags = []string{"type", "to", "format", "query", "level", "from", "title", "secret-file", "header", "receiver-ca", "plain", "rotate", "keep", "paused"}

func (x *sinksCall) run() (err error) {
	verb, rest := "list", x.args
	if len(rest) > 0 {
		verb, rest = rest[0], rest[1:]
	}
	verbs := map[string]func(name string, indexes []uint64) error{
		"show": x.show, "add": x.add, "pause": x.one(http.MethodPost, "/pause"), "resume": x.one(http.MethodPost, "/resume"), "remove": x.remove,
		"dead": x.dead, "retry": x.letters("/retry", "to be tried again"), "drop": x.letters("/dead-letters/drop", "given up"),
	}
	do := verbs[verb]
	switch {
	case verb == "list" && len(rest) > 0, verb != "list" && len(rest) == 0:
		return x.usagef("want %s and the name of a sink, or list without", verb)
	case verb != "list" && do == nil:
		return x.usagef("want list, show, add, pause, resume, remove, dead, retry or drop, not %s", quote(verb))
	case verb != "retry" && verb != "drop" && len(rest) > 1:
		return x.usagef("%s takes one name", verb)
	case !x.remote():
		return x.usagef("sinks are a server's: --server URL, or IMMUTABLE_SERVER, says which (for a log in a directory there is `immutable export --follow`)")
	}
	for _, name := range sinkFlags {
		if verb != "add" && x.given[name] {
			return x.usagef("--%s goes with add", name)
		}
	}
	var indexes []uint64
	for _, text := range rest[min(1, len(rest)):] {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return x.usagef("%s is not the index of an entry", quote(text))
		}
		indexes = append(indexes, n)
	}
	cfg, err := x.clientConfig(readRetry)
	if err != nil {
		return err
	}
	if x.api, err = client.New(cfg); err != nil {
		return err
	}
	defer closing(x.api, &err)
	if verb == "list" {
		return x.ofServer(x.list())
	}
	return x.ofServer(do(rest[0], indexes))
}

// ask sends one request about sinks, and prints the answer where JSON is wanted.
func (x *sinksCall) ask(method, path string, body, answer any) (printed bool, err error) {
	var raw json.RawMessage
	if err := x.api.Tenant(x.ctx, method, path, body, &raw); err != nil {
		return false, err
	}
	if x.json {
		return true, x.answer(raw)
	}
	return false, json.Unmarshal(raw, answer)
}

func (x *sinksCall) list() error {
	var a struct{ Sinks []sinkView }
	if printed, err := x.ask(http.MethodGet, "sinks", nil, &a); printed || err != nil {
		return err
	}
	if len(a.Sinks) == 0 {
		x.out.printf("there are no sinks; `immutable sinks add` makes one\n")
	}
	for i := range a.Sinks {
		x.line(&a.Sinks[i])
	}
	return nil
}

func (x *sinksCall) line(v *sinkView) {
	x.out.printf("%s  %s of log %s as %s to %s: %s, %s delivered, next %d", v.Name, v.Type, v.Log, v.Format, nothing(v.URL+v.Address), v.Status.State, count(v.Status.Delivered), v.Status.Next)
	if v.Status.Lag > 0 {
		x.out.printf(", %s to look at, for %s", count(v.Status.Lag), time.Duration(v.Status.LagSeconds*float64(time.Second)).Round(time.Second))
	}
	x.out.printf("\n")
	if v.Status.Error != "" {
		x.out.printf("    %s (tries: %d)\n", v.Status.Error, v.Status.Tries)
	}
	if v.Status.DeadLetters > 0 {
		x.out.printf("    dead letters: %d; `immutable sinks dead %s` lists them\n", v.Status.DeadLetters, v.Name)
	}
	if v.Status.Skipped > 0 {
		x.out.printf("    %s retired before they were delivered\n", pluralAre(v.Status.Skipped, "entry"))
	}
}

func (x *sinksCall) show(name string, _ []uint64) error {
	var v sinkView
	if printed, err := x.ask(http.MethodGet, "sinks/"+name, nil, &v); printed || err != nil {
		return err
	}
	x.line(&v)
	if v.Query != "" || len(v.Levels) > 0 {
		x.out.printf("    only %s\n", strings.TrimSpace(v.Query+" "+strings.Join(v.Levels, ",")))
	}
	return nil
}

// one is a request about one sink, which is answered with the sink.
func (x *sinksCall) one(method, path string) func(string, []uint64) error {
	return func(name string, _ []uint64) error {
		var v sinkView
		if printed, err := x.ask(method, "sinks/"+name+path, nil, &v); printed || err != nil {
			return err
		}
		x.line(&v)
		return nil
	}
}

func (x *sinksCall) add(name string, _ []uint64) error {
	s := &x.s
	s.Name, s.Log = name, x.server.log
	for _, l := range x.levels {
		s.Levels = append(s.Levels, l.String())
	}
	switch {
	case s.Type == "":
		return x.usagef("--type webhook, syslog, otlp or file says how the receiver is spoken to")
	case (x.to == "") != (s.Type == "file"):
		return x.usagef("--to says where the receiver is; only files have none")
	case s.Type == "syslog":
		s.Address = x.to
	default:
		s.URL = x.to
	}
	secret := x.getenv("IMMUTABLE_SINK_SECRET")
	if x.secretFile != "" {
		data, err := readFile(x.secretFile)
		if err != nil {
			return fmt.Errorf("--secret-file: %w", err)
		}
		secret = string(data)
	}
	for line := range strings.Lines(secret) {
		if line = strings.TrimSpace(line); line != "" {
			s.Secrets = append(s.Secrets, line)
		}
	}
	if x.caPEM != "" {
		data, err := readFile(x.caPEM)
		if err != nil {
			return fmt.Errorf("--receiver-ca: %w", err)
		}
		s.CA = string(data)
	}
	var v sinkView
	if printed, err := x.ask(http.MethodPost, "sinks", s, &v); printed || err != nil {
		return err
	}
	x.line(&v)
	return nil
}

func (x *sinksCall) remove(name string, _ []uint64) error {
	if err := x.api.Tenant(x.ctx, http.MethodDelete, "sinks/"+name, nil, nil); err != nil {
		return err
	}
	if x.json {
		return x.answer(map[string]any{"removed": name})
	}
	x.out.printf("%s is no more; what it has written stays\n", name)
	return nil
}

func (x *sinksCall) dead(name string, _ []uint64) error {
	var a struct {
		DeadLetters []struct {
			Index  uint64
			Reason string
			Time   time.Time
			Tries  int
			Retry  bool
		}
	}
	if printed, err := x.ask(http.MethodGet, "sinks/"+name+"/dead-letters", nil, &a); printed || err != nil {
		return err
	}
	if len(a.DeadLetters) == 0 {
		x.out.printf("there are no dead letters\n")
	}
	for _, d := range a.DeadLetters {
		again := ""
		if d.Retry {
			again = ", to be tried again"
		}
		x.out.printf("entry %d  %s, tries: %d%s: %s\n", d.Index, d.Time.Format(time.RFC3339), d.Tries, again, d.Reason)
	}
	return nil
}

// letters are requests about dead letters.
func (x *sinksCall) letters(path, what string) func(string, []uint64) error {
	return func(name string, indexes []uint64) error {
		var a struct{ DeadLetters int }
		body := map[string]any{}
		if len(indexes) > 0 {
			body["indexes"] = indexes
		}
		if printed, err := x.ask(http.MethodPost, "sinks/"+name+path, body, &a); printed || err != nil {
			return err
		}
		x.out.printf("dead letters %s: %d\n", what, a.DeadLetters)
		return nil
	}
}
