package sqlcapture

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"time"

	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/event"
)

// Wrap returns a connector for sql.OpenDB whose connections record what runs on them. Everything that the driver can is passed on: contexts,
// isolation levels, named and driver's own values, several results, column types, session resets. Rows are counted, and a query is
// recorded when they are closed; a statement that the driver wants prepared instead of run at once is recorded as prepared.
//
// sql.Conn.Raw gives the wrapped connection: Unwrap it.
func Wrap(c driver.Connector, rec *capture.Recorder, cfg Config) driver.Connector {
	return &connector{c, NewRecorder(rec, cfg)}
}

// Open is Wrap for a driver that has no connector, or to have one made of a data source's name.
func Open(d driver.Driver, name string, rec *capture.Recorder, cfg Config) (driver.Connector, error) {
	if with, ok := d.(driver.DriverContext); ok {
		c, err := with.OpenConnector(name)
		if err != nil {
			return nil, err
		}
		return Wrap(c, rec, cfg), nil
	}
	return Wrap(named{d, name}, rec, cfg), nil
}

// named is the connector of a driver that has none.
type named struct {
	d    driver.Driver
	name string
}

func (n named) Connect(context.Context) (driver.Conn, error) { return n.d.Open(n.name) }
func (n named) Driver() driver.Driver                        { return n.d }

// Unwrap returns the driver's own connection, from what sql.Conn.Raw gives.
func Unwrap(driverConn any) any {
	if c, ok := driverConn.(interface{ unwrap() driver.Conn }); ok {
		return c.unwrap()
	}
	return driverConn
}

type connector struct {
	driver.Connector
	rec *Recorder
}

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	started := time.Now()
	dc, err := c.Connector.Connect(ctx)
	if err != nil {
		c.rec.Record(ctx, &Statement{Action: event.ActionConnect, Rows: -1, Started: started, Err: err})
		return nil, err
	}
	return wrapConn(&conn{Conn: dc, rec: c.rec}), nil
}

// Close implements io.Closer, for sql.DB.Close.
func (c *connector) Close() error {
	if closer, ok := c.Connector.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

func (c *conn) unwrap() driver.Conn { return c.Conn }

// What runs a statement without preparing it, a connection has only where the driver's has it: database/sql converts values in another way
// for one that has.
type (
	execing  struct{ *conn }
	querying struct{ *conn }
	running  struct {
		execing
		query querying
	}
)

func wrapConn(c *conn) driver.Conn {
	_, exec := c.Conn.(driver.ExecerContext)
	if !exec {
		_, exec = c.Conn.(driver.Execer) //nolint:staticcheck // older drivers have it
	}
	_, query := c.Conn.(driver.QueryerContext)
	if !query {
		_, query = c.Conn.(driver.Queryer) //nolint:staticcheck // older drivers have it
	}
	switch {
	case exec && query:
		return running{execing{c}, querying{c}}
	case exec:
		return execing{c}
	case query:
		return querying{c}
	}
	return c
}

// QueryContext implements driver.QueryerContext.
func (c running) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query.QueryContext(ctx, query, args)
}

// conn is a connection. Like the driver's own it is used by one goroutine at a time.
type conn struct {
	driver.Conn
	rec *Recorder
	tx  string // "" outside a transaction
}

var (
	errNamed     = errors.New("sql: driver does not support the use of Named Parameters")
	errIsolation = errors.New("sql: driver does not support non-default isolation level")
	errReadOnly  = errors.New("sql: driver does not support read-only transactions")
)

// plainValues is for the methods of drivers that are older than named values.
func plainValues(args []driver.NamedValue) ([]driver.Value, error) {
	out := make([]driver.Value, len(args))
	for i, a := range args {
		if a.Name != "" {
			return nil, errNamed
		}
		out[i] = a.Value
	}
	return out, nil
}

// older runs f as database/sql does for a method that knows no context.
func older[T any](ctx context.Context, args []driver.NamedValue, f func([]driver.Value) (T, error)) (out T, err error) {
	values, err := plainValues(args)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return out, err
	}
	return f(values)
}

// ExecContext implements driver.ExecerContext.
func (c execing) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	started := time.Now()
	var res driver.Result
	err := driver.ErrSkip
	if e, ok := c.Conn.(driver.ExecerContext); ok {
		res, err = e.ExecContext(ctx, query, args)
	} else if e, ok := c.Conn.(driver.Execer); ok { //nolint:staticcheck // older drivers have it
		res, err = older(ctx, args, func(v []driver.Value) (driver.Result, error) { return e.Exec(query, v) })
	}
	c.executed(ctx, query, args, started, res, err, false)
	return res, err
}

func (c *conn) executed(ctx context.Context, query string, args []driver.NamedValue, started time.Time, res driver.Result, err error, prepared bool) {
	if errors.Is(err, driver.ErrSkip) { // database/sql prepares it now
		return
	}
	rows := int64(-1)
	if err == nil && res != nil {
		if n, rerr := res.RowsAffected(); rerr == nil {
			rows = n
		}
	}
	c.rec.Record(ctx, &Statement{Action: event.ActionExec, Text: query, Args: args, Rows: rows, Started: started, Err: err, Transaction: c.tx, Prepared: prepared})
}

// QueryContext implements driver.QueryerContext.
func (c querying) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	started := time.Now()
	var rows driver.Rows
	err := driver.ErrSkip
	if q, ok := c.Conn.(driver.QueryerContext); ok {
		rows, err = q.QueryContext(ctx, query, args)
	} else if q, ok := c.Conn.(driver.Queryer); ok { //nolint:staticcheck // older drivers have it
		rows, err = older(ctx, args, func(v []driver.Value) (driver.Rows, error) { return q.Query(query, v) })
	}
	return c.queried(ctx, query, args, started, rows, err, false)
}

func (c *conn) queried(ctx context.Context, query string, args []driver.NamedValue, started time.Time, r driver.Rows, err error, prepared bool) (driver.Rows, error) {
	s := &Statement{Action: event.ActionQuery, Text: query, Args: args, Rows: -1, Started: started, Err: err, Transaction: c.tx, Prepared: prepared}
	switch {
	case errors.Is(err, driver.ErrSkip):
		return nil, err
	case err != nil:
		c.rec.Record(ctx, s)
		return nil, err
	}
	s.Rows = 0
	return &rows{Rows: r, ctx: ctx, rec: c.rec, s: s}, nil
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	started := time.Now()
	var ds driver.Stmt
	var err error
	if p, ok := c.Conn.(driver.ConnPrepareContext); ok {
		ds, err = p.PrepareContext(ctx, query)
	} else {
		if ds, err = c.Conn.Prepare(query); err == nil && ctx.Err() != nil {
			_ = ds.Close() // the context's error is what counts
			ds, err = nil, ctx.Err()
		}
	}
	if err != nil {
		c.rec.Record(ctx, &Statement{Action: event.ActionExec, Text: query, Rows: -1, Started: started, Err: err, Transaction: c.tx, Prepared: true})
		return nil, err
	}
	return wrapStmt(&stmt{Stmt: ds, c: c, query: query}), nil
}

// Prepare implements driver.Conn.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// BeginTx implements driver.ConnBeginTx.
func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	started := time.Now()
	name := c.rec.Transaction()
	t, err := c.begin(ctx, opts)
	c.rec.Record(ctx, &Statement{Action: event.ActionBegin, Rows: -1, Started: started, Err: err, Transaction: name})
	if err != nil {
		return nil, err
	}
	c.tx = name
	return &tx{Tx: t, c: c, ctx: context.WithoutCancel(ctx)}, nil
}

func (c *conn) begin(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if b, ok := c.Conn.(driver.ConnBeginTx); ok {
		return b.BeginTx(ctx, opts)
	}
	switch {
	case opts.Isolation != 0:
		return nil, errIsolation
	case opts.ReadOnly:
		return nil, errReadOnly
	}
	t, err := c.Conn.Begin() //nolint:staticcheck // older drivers have no other
	if err == nil && ctx.Err() != nil {
		_ = t.Rollback() // the context's error is what counts
		return nil, ctx.Err()
	}
	return t, err
}

// Begin implements driver.Conn.
func (c *conn) Begin() (driver.Tx, error) { return c.BeginTx(context.Background(), driver.TxOptions{}) }

// Ping implements driver.Pinger.
func (c *conn) Ping(ctx context.Context) error {
	if p, ok := c.Conn.(driver.Pinger); ok {
		return p.Ping(ctx)
	}
	return nil
}

// ResetSession implements driver.SessionResetter.
func (c *conn) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

// IsValid implements driver.Validator.
func (c *conn) IsValid() bool {
	if v, ok := c.Conn.(driver.Validator); ok {
		return v.IsValid()
	}
	return true
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := c.Conn.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

type tx struct {
	driver.Tx
	c   *conn
	ctx context.Context
}

func (t *tx) Commit() error { return t.end(event.ActionCommit, t.Tx.Commit) }

func (t *tx) Rollback() error { return t.end(event.ActionRollback, t.Tx.Rollback) }

func (t *tx) end(action string, f func() error) error {
	started := time.Now()
	err := f()
	t.c.rec.Record(t.ctx, &Statement{Action: action, Rows: -1, Started: started, Err: err, Transaction: t.c.tx})
	t.c.tx = ""
	return err
}

type stmt struct {
	driver.Stmt
	c     *conn
	query string
}

// converting is a statement that converts values by column, which database/sql treats in another way.
type converting struct {
	*stmt
	cc driver.ColumnConverter //nolint:staticcheck // older drivers have it
}

func (s converting) ColumnConverter(i int) driver.ValueConverter { return s.cc.ColumnConverter(i) }

func wrapStmt(s *stmt) driver.Stmt {
	if cc, ok := s.Stmt.(driver.ColumnConverter); ok { //nolint:staticcheck // older drivers have it
		return converting{s, cc}
	}
	return s
}

// ExecContext implements driver.StmtExecContext.
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	started := time.Now()
	var res driver.Result
	var err error
	if e, ok := s.Stmt.(driver.StmtExecContext); ok {
		res, err = e.ExecContext(ctx, args)
	} else {
		res, err = older(ctx, args, s.Stmt.Exec) //nolint:staticcheck // older drivers have no other
	}
	s.c.executed(ctx, s.query, args, started, res, err, true)
	return res, err
}

// QueryContext implements driver.StmtQueryContext.
func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	started := time.Now()
	var r driver.Rows
	var err error
	if q, ok := s.Stmt.(driver.StmtQueryContext); ok {
		r, err = q.QueryContext(ctx, args)
	} else {
		r, err = older(ctx, args, s.Stmt.Query) //nolint:staticcheck // older drivers have no other
	}
	return s.c.queried(ctx, s.query, args, started, r, err, true)
}

// CheckNamedValue implements driver.NamedValueChecker.
func (s *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := s.Stmt.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return s.c.CheckNamedValue(v)
}

// rows counts what is read.
type rows struct {
	driver.Rows
	ctx   context.Context
	rec   *Recorder
	s     *Statement
	ended bool // of the newest result
	done  bool
}

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	switch {
	case err == nil:
		r.s.Rows++
	case errors.Is(err, io.EOF):
		r.ended = true
	default:
		r.s.Err = err
	}
	return err
}

// Close implements driver.Rows.
func (r *rows) Close() error {
	err := r.Rows.Close()
	if r.done {
		return err
	}
	r.done = true
	if r.s.Err == nil {
		r.s.Err = err
	}
	r.s.Cut = !r.ended && r.s.Err == nil
	r.rec.Record(r.ctx, r.s)
	return err
}

// HasNextResultSet implements driver.RowsNextResultSet, and so does NextResultSet.
func (r *rows) HasNextResultSet() bool {
	n, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && n.HasNextResultSet()
}

func (r *rows) NextResultSet() error {
	n, ok := r.Rows.(driver.RowsNextResultSet)
	if !ok {
		return io.EOF
	}
	err := n.NextResultSet()
	if err == nil {
		r.ended = false
	} else if !errors.Is(err, io.EOF) {
		r.s.Err = err
	}
	return err
}

// ColumnTypeScanType and what follows implement what a driver may say of columns; what it does not say is what database/sql assumes.
func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	if c, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return c.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	if c, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return c.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

func (r *rows) ColumnTypeLength(i int) (int64, bool) {
	if c, ok := r.Rows.(driver.RowsColumnTypeLength); ok {
		return c.ColumnTypeLength(i)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if c, is := r.Rows.(driver.RowsColumnTypeNullable); is {
		return c.ColumnTypeNullable(i)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if c, is := r.Rows.(driver.RowsColumnTypePrecisionScale); is {
		return c.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}
