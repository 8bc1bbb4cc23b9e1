package main

import (
	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/intake"
)

const logUsage = `immutable log LEVEL MESSAGE [key=value | key:=json …]

Appends one entry and prints its receipt once it is on the disk. LEVEL is info, warn, error, critical, audit, security,
revenue or system. The further arguments are its metadata: key=value is a string, key:=json any JSON value; their order stays.
A log that does not exist yet is made.

  immutable log audit "GitHub commit created" repo=tree-of-life-system sha=abc123
  immutable log revenue "invoice paid" amount:=4200 lines:='["seat","seat"]'
  immutable log --json --idempotency-key job-17 info "job done" > receipt.json

  --event-time TIME      when it happened, RFC 3339 (the entry has the log's own timestamp too)
  --trace-id HEX         32 hex digits (W3C Trace Context)
  --span-id HEX          16 hex digits
  --idempotency-key KEY  a repeat within 24 hours returns the first receipt and writes nothing` +
	appendFlags + dirFlags + writeFlags + commonFlags

func setupLog(c *call) func() error {
	c.writeFlags()
	c.flagsOfServer(false, "policy")
	var e immutable.Event
	var eventTime string
	c.set.StringVar(&eventTime, "event-time", "", "")
	c.set.StringVar(&e.TraceID, "trace-id", "", "")
	c.set.StringVar(&e.SpanID, "span-id", "", "")
	c.set.StringVar(&e.IdempotencyKey, "idempotency-key", "", "")
	return func() error {
		if len(c.args) < 2 {
			return c.usagef("want a level and a message")
		}
		var err error
		if e.Level, err = immutable.ParseLevel(c.args[0]); err != nil {
			return c.usagef("%s", err)
		}
		e.Message = c.args[1]
		if e.RawMetadata, err = intake.Pairs(c.args[2:]); err != nil {
			return c.usagef("%s", err)
		}
		if eventTime != "" {
			if e.EventTime, err = intake.ParseTime(eventTime); err != nil {
				return c.usagef("--event-time: %s", err)
			}
		}
		return logOne(c, &e)
	}
}

func logOne(c *call, e *immutable.Event) (err error) {
	l, err := c.openAppender()
	if err != nil {
		return err
	}
	defer closing(l, &err)
	rs, err := l.Append(c.ctx, *e)
	if err != nil {
		return c.ofServer(err)
	}
	r := rs[0]
	if c.json {
		return c.answer(receiptJSON(&r))
	}
	c.out.printf("entry %d  %s  %s  block %s\n", r.Index, r.Timestamp.Format(timeLayout), e.Level, r.Hash)
	if r.Repeated {
		c.remark("this idempotency key was seen before: that is the first append's receipt, nothing was written\n")
	}
	return nil
}

// exactTime is the spelling of an entry's timestamp.
const exactTime = "2006-01-02T15:04:05.000000000Z"

// receipt is the JSON form of a receipt; `immutable verify --receipt` reads it.
type receipt struct {
	Index     uint64 `json:"index"`
	ID        string `json:"id"`
	Hash      string `json:"hash"`
	Leaf      string `json:"leaf"`
	Timestamp string `json:"timestamp"`
	Repeated  bool   `json:"repeated,omitempty"`
}

func receiptJSON(r *immutable.Receipt) receipt {
	return receipt{r.Index, r.ID.String(), r.Hash.String(), r.Leaf.String(), r.Timestamp.Format(exactTime), r.Repeated}
}
