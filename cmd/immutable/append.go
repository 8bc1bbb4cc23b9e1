package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
	"github.com/tree-of-life-system/immutable/internal/intake"
	"github.com/tree-of-life-system/immutable/internal/trail"
)

const appendUsage = `immutable append [FILE… | -]

Appends the records of files, or of standard input. Each input may be plain, gzip or zstd, and is told apart by its first bytes:

  JSON Lines          one object a line. An object of the form {"message":…,"level":…,"metadata":{…},"eventTime":…,"traceId":…,
                      "spanId":…,"idempotencyKey":…} (message alone is enough) is an event; any other object becomes the metadata,
                      as it is spelled, and its message is the first of message, msg, eventName, event, eventType, type, …
  JSON documents      objects one after the other; of an array, and of CloudTrail's {"Records":[…]}, each element
  text                each line is a message, exactly; of a line that is not UTF-8 metadata keeps {"raw_base64":"…"}

Whatever is ready is committed at once, in batches while more comes. A record that cannot become an entry is reported with its
number. Exit code: 0 all are in the log · 1 some were rejected · 2 it stopped early (the number of durable ones is printed).

  journalctl -o json -f | immutable append --message-field MESSAGE --time-field __REALTIME_TIMESTAMP
  immutable append --level audit cloudtrail/*.json.gz
  immutable append --json < events.jsonl     prints {"first":F,"last":L} for each durable batch, then
                                             {"accepted":N,"rejected":M,"size":S}

  --format FORMAT        auto, jsonl, json or text (default auto), or what wrote it: access (nginx, Apache), auditd,
                         authlog (sshd, PAM, sudo), cloudtrail, journald-export (journalctl -o export), k8s-audit. Its records become
                         actor, action, target, outcome, source beside the record; one that is not understood is kept with a parseError
  --level LEVEL          of records that name none; without it a member level that is one of ours counts, else info
  --level-field NAME     member of foreign objects that names the level, such as severity or log.level
  --message-field NAME   member that becomes the message
  --time-field NAME      member that becomes eventTime: RFC 3339, or Unix time in s, ms, µs or ns
  --on-error skip|stop   what a rejected record does (default skip)
  --receipts FILE        keep the receipts in this book, to hold the log to them later: ` + "`immutable verify DIR --receipts FILE`" + `
  --producer KEYFILE     sign and number each entry as this source: see ` + "`immutable producer -h`" + `
  --events               each line is an event of ours and nothing else, and may also say hostname, pid and producer
  --each                 with --json: a line for each record in place of {"first","last"}, its receipt {"line":N,"index":…,"id":…,
                         "hash":…,"leaf":…,"timestamp":…} or {"line":N,"error":…}
  --batch N              at most N entries in one commit (default 8192)` + appendFlags + dirFlags + writeFlags + commonFlags

func setupAppend(c *call) func() error {
	c.writeFlags()
	c.flagsOfServer(false, "policy", "producer")
	a := &appender{c: c}
	format := c.set.String("format", "auto", "")
	level := c.set.String("level", "", "")
	c.set.StringVar(&a.o.LevelField, "level-field", "", "")
	c.set.StringVar(&a.o.MessageField, "message-field", "", "")
	c.set.StringVar(&a.o.TimeField, "time-field", "", "")
	onError := c.set.String("on-error", "skip", "")
	c.set.IntVar(&a.batch, "batch", 8192, "")
	c.set.StringVar(&a.keyFile, "producer", "", "")
	c.set.StringVar(&a.bookFile, "receipts", "", "")
	c.set.BoolVar(&a.each, "each", false, "")
	c.set.BoolVar(&a.o.Events, "events", false, "")
	return func() error {
		var err error
		if err = a.format(*format); err != nil {
			return c.usagef("%s", err)
		}
		if *level == "" {
			a.o.NamedLevel = a.o.LevelField == ""
		} else if a.o.Level, err = immutable.ParseLevel(*level); err != nil {
			return c.usagef("%s", err)
		} else {
			a.level = &a.o.Level
		}
		if *onError != "skip" && *onError != "stop" {
			return c.usagef("--on-error is skip or stop, not %s", quote(*onError))
		}
		a.stop = *onError == "stop"
		if a.each && !c.json {
			return c.usagef("--each is for --json")
		}
		if a.batch < 1 || a.batch > immutable.MaxBatchEntries {
			return c.usagef("--batch is 1 to %d", immutable.MaxBatchEntries)
		}
		return a.run()
	}
}

// appender takes records from inputs to the log.
type appender struct {
	c     *call
	o     intake.Options
	batch int
	stop  bool
	each  bool // a line of JSON for each record

	keyFile  string
	producer *immutable.Producer // nil without --producer
	bookFile string
	book     *immutable.ReceiptBook // nil without --receipts
	l        appendable
	bar      *progress
	reader   *intake.Reader
	trail    trail.Parser // of the input, for a format of a trail
	trailOf  trail.Format
	events   []immutable.Event
	numbers  []uint64         // of the events, in their input
	last     uint64           // number of the newest record
	level    *immutable.Level // of all records of a trail, where --level says so
	bytes    int              // of the events, roughly
	size     uint64           // of the log behind the newest receipt
	accepted uint64
	repeated uint64
	rejected uint64
	noTime   uint64
}

// format is one of how the input is divided, or of who wrote it.
func (a *appender) format(name string) (err error) {
	if a.trailOf, err = trail.ParseFormat(name); err == nil {
		if a.o.Bytes = true; a.o.LevelField != "" || a.o.MessageField != "" || a.o.TimeField != "" || a.o.Events {
			return fmt.Errorf("--format %s knows its fields: leave out --level-field, --message-field, --time-field and --events", name)
		}
		switch a.o.Format = intake.Text; {
		case a.trailOf == trail.JournalExport:
			a.o.Format = intake.Journal
		case a.trailOf.JSON():
			a.o.Format = intake.Auto // lines, documents, deliveries
		}
		return nil
	}
	a.trailOf = ""
	if a.o.Format, err = intake.ParseFormat(name); err != nil {
		return fmt.Errorf("%w, or of what wrote the input: %s", err, strings.Join(trail.Names(), ", "))
	}
	return nil
}

// batchBytes bounds what is put into one commit, roughly: far enough below the format's limit for all escapes.
const batchBytes = 4 << 20

// errRejected ends an append with --on-error stop.
var errRejected = errors.New("a record was rejected")

func (a *appender) run() (err error) {
	inputs := a.c.args
	if len(inputs) == 0 {
		inputs = []string{"-"}
	}
	if a.keyFile != "" && !a.c.remote() {
		if a.producer, err = immutable.OpenProducer(a.keyFile); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.producer.Close()) }()
	}
	if a.l, err = a.c.openAppender(); err != nil {
		return err
	}
	if a.bookFile != "" {
		if a.book, err = a.openBook(); err != nil {
			return errors.Join(err, a.l.Close())
		}
		defer func() { err = errors.Join(err, a.book.Close()) }()
	}
	a.bar = a.c.newProgress("appending", "lines")
	for _, name := range inputs {
		if err = a.input(name); err != nil {
			break
		}
	}
	a.bar.end()
	if l, ok := a.l.(*immutable.Log); ok {
		a.size = l.Size()
	}
	if cerr := a.l.Close(); cerr != nil && (err == nil || errors.Is(err, errRejected)) {
		err = fmt.Errorf("close the log: %w", cerr)
	}
	a.summary(err)
	switch {
	case err != nil && !errors.Is(err, errRejected):
		return fmt.Errorf("%w (%d entries are durable)", err, a.accepted)
	case a.rejected > 0:
		return exit(exitNo)
	}
	return nil
}

// openBook opens the book of receipts, which is of one log.
func (a *appender) openBook() (*immutable.ReceiptBook, error) {
	if l, ok := a.l.(*immutable.Log); ok {
		return immutable.OpenReceipts(a.bookFile, l.Origin())
	}
	k, err := a.l.(*client.Client).Keys(a.c.ctx)
	if err != nil {
		return nil, fmt.Errorf("--receipts: %w", a.c.ofServer(err))
	}
	return immutable.OpenReceipts(a.bookFile, k.Origin)
}

func (a *appender) summary(err error) {
	if a.noTime > 0 {
		a.c.remark("%d records have no readable time in %s: their eventTime is unset\n", a.noTime, a.o.TimeField)
	}
	if errors.Is(err, errRejected) {
		a.c.remark("stopped at the rejected record; everything before it is durable\n")
	}
	unknown := a.c.remote() && a.size == 0 // no receipt has said
	if a.c.json {
		var size *uint64
		if !unknown {
			size = &a.size
		}
		_ = a.c.answer(struct {
			Accepted uint64  `json:"accepted"`
			Rejected uint64  `json:"rejected"`
			Size     *uint64 `json:"size,omitempty"`
			Repeated uint64  `json:"repeated,omitempty"`
		}{a.accepted, a.rejected, size, a.repeated}) // numbers always have a JSON form
		return
	}
	if unknown {
		a.c.out.printf("%d accepted, %d rejected\n", a.accepted, a.rejected)
		return
	}
	a.c.out.printf("%d accepted, %d rejected; the log has %d entries\n", a.accepted, a.rejected, a.size)
	if a.repeated > 0 {
		a.c.remark("%d were repeats of idempotency keys and were not written again\n", a.repeated)
	}
}

// input appends one file, or standard input.
func (a *appender) input(name string) error {
	in, label := a.c.stdin, "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in, label = f, name
	}
	o := a.o
	o.Name = name
	if a.trailOf != "" {
		var err error
		if a.trail, err = trail.New(a.trailOf, trail.Options{}); err != nil {
			return err
		}
	}
	a.reader = intake.NewReader(in, o)
	defer a.reader.Close()
	for {
		held, err := a.collect(label)
		if err != nil && a.trail != nil { // no more records will come
			a.events = a.trail.Flush(a.events)
			a.number(a.last)
		}
		if cerr := a.commit(label); err == nil || errors.Is(err, errRejected) || errors.Is(err, io.EOF) {
			if cerr != nil {
				err = cerr
			}
		}
		for _, chunk := range held {
			chunk.Release()
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && errors.Is(err, context.Canceled):
			return fmt.Errorf("interrupted")
		case err != nil && !errors.Is(err, errRejected):
			return fmt.Errorf("%s: %w", label, err)
		case err != nil:
			return err
		}
	}
}

// collect waits for records and takes what else is ready, up to one batch. The chunks they lie in are held until they are
// committed.
func (a *appender) collect(label string) (held []*intake.Chunk, err error) {
	chunk, err := a.wait()
	for err == nil && chunk != nil {
		held = append(held, chunk)
		for i := range chunk.Records {
			if err := a.take(label, &chunk.Records[i]); err != nil {
				return held, err
			}
		}
		if len(a.events) >= a.batch || a.bytes >= batchBytes {
			return held, nil
		}
		chunk = a.reader.Poll()
	}
	return held, err
}

// wait waits for input, or for being interrupted.
func (a *appender) wait() (*intake.Chunk, error) {
	select {
	case chunk, ok := <-a.reader.Chunks():
		if !ok {
			return a.reader.Next()
		}
		chunk.Ready()
		return chunk, nil
	case <-a.c.ctx.Done():
		return nil, context.Canceled
	}
}

func (a *appender) take(label string, r *intake.Record) error {
	if r.Err != nil {
		return a.reject(label, r.Number, r.Err)
	}
	if r.NoTime {
		a.noTime++
	}
	a.last = r.Number
	if a.trail != nil {
		a.events = a.trail.Parse(a.events, r.Bytes)
		a.number(r.Number)
		a.bytes += 3*len(r.Bytes) + 800
		return nil
	}
	a.events = append(a.events, r.Event)
	a.numbers = append(a.numbers, r.Number)
	a.bytes += 400 + len(r.Event.Message) + len(r.Event.RawMetadata)
	return nil
}

// number says which record the newest events came of, for messages: the last one of several.
func (a *appender) number(n uint64) {
	for len(a.numbers) < len(a.events) {
		if a.level != nil {
			a.events[len(a.numbers)].Level = *a.level
		}
		a.numbers = append(a.numbers, n)
	}
}

func (a *appender) reject(label string, number uint64, err error) error {
	a.rejected++
	a.bar.clear()
	a.c.errs.printf("%s: %s %d: %s\n", label, a.unit(), number, err)
	_ = a.c.errs.flush() // counted all the same
	if a.each {
		line, merr := json.Marshal(struct {
			Line  uint64 `json:"line"`
			Error string `json:"error"`
		}{number, err.Error()})
		if merr != nil {
			return merr
		}
		a.c.out.bytes(append(line, '\n'))
		if err := a.c.out.flush(); err != nil {
			return fmt.Errorf("write the rejection: %w", err)
		}
	}
	if a.stop {
		return errRejected
	}
	return nil
}

func (a *appender) unit() string {
	if f := a.reader.Format(); f == intake.JSON || f == intake.Journal {
		return "record"
	}
	return "line"
}

// commit makes what was collected durable.
func (a *appender) commit(label string) error {
	defer func() { a.events, a.numbers, a.bytes = a.events[:0], a.numbers[:0], 0 }()
	for from := 0; from < len(a.events); {
		to := min(from+a.batch, len(a.events))
		if err := a.append(label, from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// append appends events[from:to] as one commit where the log takes them, else in parts. The signal that ends the reading
// does not end the waiting for a commit: its outcome must be known.
func (a *appender) append(label string, from, to int) error {
	if from == to {
		return nil
	}
	rs, err := a.send(context.WithoutCancel(a.c.ctx), a.events[from:to])
	if err == nil {
		return a.acknowledge(rs, a.numbers[from:to])
	}
	var conflict *immutable.KeyConflictError
	bad := from
	for bad < to && intake.Check(&a.events[bad]) == nil {
		bad++
	}
	switch {
	case bad < to: // refused by what it holds
		if err := a.append(label, from, bad); err != nil {
			return err
		}
		if err := a.reject(label, a.numbers[bad], intake.Check(&a.events[bad])); err != nil {
			return err
		}
		return a.append(label, bad+1, to)
	case to-from > 1 && (errors.Is(err, immutable.ErrTooLarge) || errors.As(err, &conflict)):
		middle := from + (to-from)/2
		if err := a.append(label, from, middle); err != nil {
			return err
		}
		return a.append(label, middle, to)
	case errors.As(err, &conflict):
		return a.reject(label, a.numbers[from], err)
	}
	if errors.Is(err, immutable.ErrUncertain) {
		return fmt.Errorf("%s %d to %d may have been written or not, nothing after them: %w", a.unit(), a.numbers[from], a.numbers[to-1], err)
	}
	return fmt.Errorf("from %s %d on nothing was written: %w", a.unit(), a.numbers[from], a.c.ofServer(err))
}

func (a *appender) send(ctx context.Context, events []immutable.Event) ([]immutable.Receipt, error) {
	if l, ok := a.l.(*immutable.Log); ok && a.producer != nil {
		return l.AppendSigned(ctx, a.producer, events...)
	}
	return a.l.Append(ctx, events...)
}

// acknowledge reports what is durable, after the book of receipts has it.
func (a *appender) acknowledge(rs []immutable.Receipt, numbers []uint64) error {
	for i := range rs {
		a.size = max(a.size, rs[i].Index+1)
	}
	if a.book != nil {
		if err := a.book.Append(rs...); err != nil {
			a.accepted += uint64(len(rs))
			return fmt.Errorf("the entries are in the log, their receipts are not kept: %w", err)
		}
	}
	for i := 0; i < len(rs); {
		j := i + 1
		for j < len(rs) && rs[j].Repeated == rs[i].Repeated && rs[j].Index == rs[j-1].Index+1 {
			j++
		}
		if rs[i].Repeated {
			a.repeated += uint64(j - i)
		} else {
			a.accepted += uint64(j - i)
		}
		if a.each {
			if err := a.receipts(rs[i:j], numbers[i:j]); err != nil {
				return err
			}
		} else if a.c.json {
			ack := fmt.Appendf(nil, `{"first":%d,"last":%d`, rs[i].Index, rs[j-1].Index)
			if rs[i].Repeated {
				ack = append(ack, `,"repeated":true`...)
			}
			a.c.out.bytes(append(ack, "}\n"...))
		}
		i = j
	}
	a.bar.add(uint64(len(rs)))
	if !a.c.json {
		return nil
	}
	if err := a.c.out.flush(); err != nil {
		return fmt.Errorf("write the acknowledgement: %w", err)
	}
	return nil
}

// receipts prints what --each asks for.
func (a *appender) receipts(rs []immutable.Receipt, numbers []uint64) error {
	for i := range rs {
		line, err := json.Marshal(struct {
			Line uint64 `json:"line"`
			immutable.Receipt
		}{numbers[i], rs[i]})
		if err != nil {
			return err
		}
		a.c.out.bytes(append(line, '\n'))
	}
	return nil
}
