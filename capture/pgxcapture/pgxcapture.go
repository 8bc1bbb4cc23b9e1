// Package pgxcapture records what pgx runs in an Immutable log: statements, batches, copies and transactions. It is a module of its own, so
// that nobody else has pgx among his dependencies.
//
//	cfg.ConnConfig.Tracer = pgxcapture.New(rec, sqlcapture.Config{})
//
// What is recorded of a statement, and which of its values, package sqlcapture says; the dialect is always Postgres.
package pgxcapture

import (
	"context"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/sqlcapture"
	"github.com/tree-of-life-system/immutable/event"
)

// Tracer is a pgx.QueryTracer, BatchTracer, CopyFromTracer, PrepareTracer and ConnectTracer.
type Tracer struct {
	rec *sqlcapture.Recorder
}

// New returns a Tracer for pgx.ConnConfig.Tracer.
func New(rec *capture.Recorder, cfg sqlcapture.Config) *Tracer {
	cfg.Dialect = sqlcapture.Postgres
	return &Tracer{sqlcapture.NewRecorder(rec, cfg)}
}

// transactionKey is where a connection keeps the name of its open transaction.
const transactionKey = "immutable.transaction"

type key int

const (
	queryKey key = iota
	batchKey
	copyKey
	prepareKey
	connectKey
)

// begun is a statement on its way.
type begun struct {
	at   time.Time
	text string
	args []any
}

// TraceQueryStart implements pgx.QueryTracer.
func (t *Tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, queryKey, begun{time.Now(), d.SQL, d.Args})
}

// TraceQueryEnd implements pgx.QueryTracer.
func (t *Tracer) TraceQueryEnd(ctx context.Context, c *pgx.Conn, d pgx.TraceQueryEndData) {
	b, ok := ctx.Value(queryKey).(begun)
	if !ok {
		return
	}
	s := &sqlcapture.Statement{Action: action(b.text), Text: b.text, Args: named(b.args), Rows: -1, Started: b.at, Err: d.Err}
	if d.Err == nil {
		s.Rows = d.CommandTag.RowsAffected()
	}
	t.transaction(c, s, d.CommandTag.String())
	t.rec.Record(ctx, s)
}

// transaction names the transaction that a statement is of, by what the server says it has done: COMMIT of a failed transaction is a
// ROLLBACK. Statements that are not of a transaction have none.
func (t *Tracer) transaction(c *pgx.Conn, s *sqlcapture.Statement, tag string) {
	own := c.PgConn().CustomData() // goes with the connection
	s.Transaction, _ = own[transactionKey].(string)
	switch open := c.PgConn().TxStatus() != 'I' && !c.IsClosed(); {
	case !open:
		delete(own, transactionKey)
	case s.Transaction == "":
		s.Transaction = t.rec.Transaction()
		own[transactionKey] = s.Transaction
	}
	if s.Action == event.ActionCommit && s.Err == nil && tag == "ROLLBACK" {
		s.Action = event.ActionRollback
	}
	switch s.Action {
	case event.ActionBegin, event.ActionCommit, event.ActionRollback:
		s.Rows = -1
	}
}

// action is what a statement does, by its first word.
func action(text string) string {
	word, _, _ := strings.Cut(strings.TrimLeft(text[:min(len(text), 100)], " \t\r\n("), " ")
	switch strings.ToLower(strings.TrimRight(word, ";\r\n\t")) {
	case "begin", "start":
		return event.ActionBegin
	case "commit", "end":
		return event.ActionCommit
	case "rollback", "abort":
		if strings.Contains(strings.ToLower(text[:min(len(text), 100)]), " to ") { // a savepoint
			return event.ActionExec
		}
		return event.ActionRollback
	case "select", "with", "show", "values", "table", "fetch":
		return event.ActionQuery
	}
	return event.ActionExec
}

// named are the arguments without those that say how pgx runs a statement.
func named(args []any) []driver.NamedValue {
	var out []driver.NamedValue
	for _, a := range args {
		switch v := a.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID, pgx.QueryRewriter:
			continue
		default:
			out = append(out, driver.NamedValue{Ordinal: len(out) + 1, Value: v})
		}
	}
	return out
}

// TraceBatchStart implements pgx.BatchTracer.
func (t *Tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return context.WithValue(ctx, batchKey, time.Now())
}

// TraceBatchQuery implements pgx.BatchTracer: each statement of a batch is recorded, with the time since the batch began.
func (t *Tracer) TraceBatchQuery(ctx context.Context, c *pgx.Conn, d pgx.TraceBatchQueryData) {
	started, _ := ctx.Value(batchKey).(time.Time)
	s := &sqlcapture.Statement{Action: action(d.SQL), Text: d.SQL, Args: named(d.Args), Rows: -1, Started: started, Err: d.Err}
	if d.Err == nil {
		s.Rows = d.CommandTag.RowsAffected()
	}
	t.transaction(c, s, d.CommandTag.String())
	t.rec.Record(ctx, s)
}

// TraceBatchEnd implements pgx.BatchTracer.
func (t *Tracer) TraceBatchEnd(ctx context.Context, c *pgx.Conn, d pgx.TraceBatchEndData) {
	started, _ := ctx.Value(batchKey).(time.Time)
	if d.Err != nil { // of the batch, not of one of its statements
		t.rec.Record(ctx, &sqlcapture.Statement{Action: event.ActionExec, Text: "batch", Rows: -1, Started: started, Err: d.Err})
	}
	t.transaction(c, &sqlcapture.Statement{Action: event.ActionExec}, "")
}

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (t *Tracer) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceCopyFromStartData) context.Context {
	text := "copy " + d.TableName.Sanitize() + " (" + strings.Join(d.ColumnNames, ", ") + ") from stdin"
	return context.WithValue(ctx, copyKey, begun{time.Now(), text, nil})
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (t *Tracer) TraceCopyFromEnd(ctx context.Context, c *pgx.Conn, d pgx.TraceCopyFromEndData) {
	b, ok := ctx.Value(copyKey).(begun)
	if !ok {
		return
	}
	s := &sqlcapture.Statement{Action: event.ActionExec, Text: b.text, Rows: -1, Started: b.at, Err: d.Err}
	if d.Err == nil {
		s.Rows = d.CommandTag.RowsAffected()
	}
	t.transaction(c, s, d.CommandTag.String())
	t.rec.Record(ctx, s)
}

// TracePrepareStart implements pgx.PrepareTracer.
func (t *Tracer) TracePrepareStart(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareStartData) context.Context {
	return context.WithValue(ctx, prepareKey, begun{time.Now(), d.SQL, nil})
}

// TracePrepareEnd implements pgx.PrepareTracer: only what could not be prepared is recorded, and would be run otherwise.
func (t *Tracer) TracePrepareEnd(ctx context.Context, _ *pgx.Conn, d pgx.TracePrepareEndData) {
	if b, ok := ctx.Value(prepareKey).(begun); ok && d.Err != nil {
		t.rec.Record(ctx, &sqlcapture.Statement{Action: event.ActionExec, Text: b.text, Rows: -1, Started: b.at, Err: d.Err, Prepared: true})
	}
}

// TraceConnectStart implements pgx.ConnectTracer.
func (t *Tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return context.WithValue(ctx, connectKey, time.Now())
}

// TraceConnectEnd implements pgx.ConnectTracer: only what failed is recorded.
func (t *Tracer) TraceConnectEnd(ctx context.Context, d pgx.TraceConnectEndData) {
	if started, ok := ctx.Value(connectKey).(time.Time); ok && d.Err != nil {
		t.rec.Record(ctx, &sqlcapture.Statement{Action: event.ActionConnect, Rows: -1, Started: started, Err: d.Err})
	}
}
