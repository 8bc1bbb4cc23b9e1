package main

import (
	"encoding/json"
	"fmt"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/export"
	"github.com/tree-of-life-system/immutable/internal/server"
	"github.com/tree-of-life-system/immutable/proof"
)

const exportUsage = `immutable export [tiles OUT]

Prints the whole log, or a part of it, proven while it is read:

  jsonl       each entry's line exactly as it was hashed
  csv         RFC 4180 with a header and the leaf hash; cells that a spreadsheet would run as formulas get a ' in front
  marked      {"immutable":{"origin","index","leaf","size"},"entry":…}, one a line, for other systems: size is that of the newest
              checkpoint, and ` + "`immutable verify --from`" + ` compares their copy with the log later
  ocsf, ecs   events of OCSF 1.9, documents of ECS, one a line, with the exact line in them (docs/sinks.md), for verify --from too
  blockchain  the earlier system's blockchain.json: an array of {"index","timestamp","data","hash","previousHash"}, data = the entry's
              line, with this log's chain hashes
  log         the earlier system's immutable.log: {"id","timestamp","level","message","metadata","hostname","pid"}, one a line
  index       the log-index.json of that immutable.log: an array of {"index","id","timestamp","level","offset","length"}, bytes

tiles writes the log as C2SP tlog-tiles into the directory OUT: what clients and monitors of transparency logs read. A second time
it adds what is new, also after one that was cut short. It refuses a directory that holds what this log contradicts (exit code 1).
Beside the tiles lies the file epochs, once the log has changed its keys: what leads from the first keys to those that signed.
` + "`immutable verify OUT --key KEYS`" + ` recomputes it.

  immutable export tiles --dir /var/log/audit /srv/www/audit
  immutable export > logs.jsonl
  immutable export --format blockchain > blockchain.json
  immutable export --from 1000 --limit 1000
  immutable export --format ocsf --follow | vector --config siem.yaml

  --format FORMAT        jsonl, csv, marked, ocsf, ecs, blockchain, log or index (default jsonl)
  --from INDEX           from this entry on
  --limit N              at most so many
  --follow               go on with new entries as they come, until interrupted (jsonl, csv, marked, ocsf, ecs)` + serverFlags + dirFlags + commonFlags

func setupExport(c *call) func() error {
	c.dirFlags()
	c.flagsOfServer(true)
	format := c.set.String("format", "jsonl", "")
	var q immutable.Query
	c.set.Uint64Var(&q.From, "from", 0, "")
	c.set.IntVar(&q.Limit, "limit", 0, "")
	follow := c.set.Bool("follow", false, "")
	return func() error {
		if len(c.args) > 0 && c.args[0] == "tiles" {
			if len(c.args) != 2 || q.From > 0 || q.Limit != 0 || *format != "jsonl" {
				return c.usagef("want tiles OUT, the whole log")
			}
			return exportTiles(c, c.args[1])
		}
		if err := c.arguments(0, 0, "no arguments, or tiles OUT"); err != nil {
			return err
		}
		if q.Limit < 0 {
			return c.usagef("--limit is at least 1")
		}
		x := &exporter{c: c}
		write, ok := map[string]func(*immutable.Entry) ([]byte, error){"jsonl": jsonLine, "csv": csvLine, "marked": x.as("json"), "ocsf": x.as("ocsf"), "ecs": x.as("ecs"), "blockchain": x.block, "log": sketchLine, "index": x.indexed}[*format]
		if !ok {
			return c.usagef("--format is jsonl, csv, marked, ocsf, ecs, blockchain, log or index, not %s", quote(*format))
		}
		x.head = map[string]string{"csv": server.CSVColumns + "\r\n"}[*format]
		x.array = *format == "blockchain" || *format == "index"
		if *follow && (x.array || *format == "log") {
			return c.usagef("--follow goes with --format jsonl, csv, marked, ocsf or ecs")
		}
		x.follow = *follow
		return c.withView(func(l view) error {
			x.l = l
			return x.run(&q, write)
		})
	}
}

type exporter struct {
	c      *call
	l      view
	array  bool
	head   string
	follow bool
	size   uint64 // of the newest checkpoint, when it was asked for
	asked  uint64 // index from which on it is asked for again
	offset int64  // in the immutable.log that index describes

	chain   proof.Hash // after the block before
	chained uint64     // blocks so far
}

func (x *exporter) run(q *immutable.Query, write func(*immutable.Entry) ([]byte, error)) error {
	bar := x.c.newProgress("exporting", "entries")
	defer bar.end()
	total, err := x.l.end(x.c.ctx)
	if err != nil {
		return err
	}
	n := uint64(0)
	separator := ""
	x.c.out.raw(x.head)
	if x.array {
		x.c.out.raw("[")
		separator = "\n"
	}
	q.Explain = new(immutable.Explain)
	defer func() { x.c.sayRetired(q.Explain) }()
	entries := x.l.Entries
	if x.follow {
		entries = x.l.Follow
	}
	for e, err := range entries(x.c.ctx, *q) {
		if x.follow && x.c.ctx.Err() != nil {
			return nil // an interrupt is how it ends
		}
		if err != nil {
			return err
		}
		data, err := write(&e)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if x.array {
			x.c.out.raw(separator)
			separator = ",\n"
		}
		x.c.out.bytes(data)
		if n++; n%256 == 0 {
			bar.set(n, total)
		}
		if x.follow {
			if err := x.c.out.flush(); err != nil {
				return err
			}
		}
	}
	if x.array {
		x.c.out.raw("\n]\n")
	}
	return nil
}

func jsonLine(e *immutable.Entry) ([]byte, error) {
	return append(append(make([]byte, 0, len(e.Line)+1), e.Line...), '\n'), nil
}

func csvLine(e *immutable.Entry) ([]byte, error) { return server.AppendCSV(nil, e) }

// as writes entries with their marks. The size is that of the newest checkpoint, asked for again where an entry is above it.
func (x *exporter) as(format string) func(*immutable.Entry) ([]byte, error) {
	return func(e *immutable.Entry) ([]byte, error) {
		if x.size <= e.Index && x.asked <= e.Index {
			x.size, x.asked = export.CheckpointSize(x.l), e.Index+checkpointEvery
		}
		return export.Append(nil, format, x.l.Origin(), x.size, e)
	}
}

// checkpointEvery is for how many entries above the newest checkpoint it is not asked for again.
const checkpointEvery = 256

// block continues the chain from the entry before, which the log has proven.
func (x *exporter) block(e *immutable.Entry) ([]byte, error) {
	if x.chained == 0 && e.Index > 0 {
		b, err := x.l.Block(x.c.ctx, e.Index-1)
		if err != nil {
			return nil, err
		}
		x.chain = b.Hash
	}
	previous := x.chain
	x.chain = proof.ChainHash(previous, e.Leaf)
	x.chained++
	return marshal(block{e.Index, e.Timestamp.Format(exactTime), string(e.Line), x.chain.String(), previous.String()})
}

// sketch is an entry of the earlier system.
type sketch struct {
	ID        string          `json:"id"`
	Timestamp string          `json:"timestamp"`
	Level     string          `json:"level"`
	Message   string          `json:"message"`
	Metadata  json.RawMessage `json:"metadata"`
	Hostname  string          `json:"hostname"`
	PID       uint32          `json:"pid"`
}

func sketchLine(e *immutable.Entry) ([]byte, error) {
	line, err := marshal(sketch{e.ID.String(), e.Timestamp.Format(exactTime), e.Level.String(), e.Message, e.Metadata, e.Hostname, e.PID})
	return append(line, '\n'), err
}

func (x *exporter) indexed(e *immutable.Entry) ([]byte, error) {
	line, err := sketchLine(e)
	if err != nil {
		return nil, err
	}
	at := x.offset
	x.offset += int64(len(line))
	return marshal(indexEntry{e.Index, e.ID.String(), e.Timestamp.Format(exactTime), e.Level.String(), at, int64(len(line) - 1)})
}

// indexEntry is one element of log-index.json. Offset and length are bytes; the length is without the newline.
type indexEntry struct {
	Index     uint64 `json:"index"`
	ID        string `json:"id"`
	Timestamp string `json:"timestamp"`
	Level     string `json:"level"`
	Offset    int64  `json:"offset"`
	Length    int64  `json:"length"`
}
