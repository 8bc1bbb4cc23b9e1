package sqlcapture

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
)

// The drivers of these tests keep rows of one table. old has the interfaces that a driver must have, and no other; modern has all there are;
// columns converts values by column, as drivers did before named values.
type (
	store struct {
		mu      sync.Mutex
		rows    [][]driver.Value
		log     []string // what the driver was asked
		failing error
	}
	old     struct{ s *store }
	oldStmt struct {
		c     *old
		query string
	}
	modern     struct{ old }
	modernStmt struct{ oldStmt }
	columns    struct{ old }
	columnStmt struct{ oldStmt }
	result     int64
	oldRows    struct {
		rows [][]driver.Value
		err  error
	}
	modernRows struct {
		oldRows
		more int
	}
	oldTx struct{ s *store }
)

func (s *store) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (c *old) Prepare(q string) (driver.Stmt, error) {
	c.s.note("prepare %s", q)
	if strings.Contains(q, "syntax") {
		return nil, errors.New("syntax error near hunter2")
	}
	return &oldStmt{c, q}, nil
}
func (c *old) Close() error              { return nil }
func (c *old) Begin() (driver.Tx, error) { c.s.note("begin"); return oldTx{c.s}, nil }
func (t oldTx) Commit() error            { t.s.note("commit"); return t.s.failing }
func (t oldTx) Rollback() error          { t.s.note("rollback"); return nil }
func (s *oldStmt) Close() error          { return nil }
func (s *oldStmt) NumInput() int         { return strings.Count(s.query, "?") }

func (s *oldStmt) Exec(args []driver.Value) (driver.Result, error) {
	s.c.s.note("exec %s %v", s.query, args)
	if strings.Contains(s.query, "fail") {
		return nil, &stateError{"23505"}
	}
	s.c.s.mu.Lock()
	defer s.c.s.mu.Unlock()
	s.c.s.rows = append(s.c.s.rows, args)
	return result(1), nil
}

func (s *oldStmt) Query(args []driver.Value) (driver.Rows, error) {
	s.c.s.note("query %s %v", s.query, args)
	r := &oldRows{rows: s.c.s.rows}
	if strings.Contains(s.query, "fail") {
		r.err = errors.New("the disk is full of hunter2")
	}
	return r, nil
}

type stateError struct{ code string }

func (e *stateError) Error() string    { return "duplicate key (password)=(hunter2)" }
func (e *stateError) SQLState() string { return e.code }

func (r result) LastInsertId() (int64, error) { return 0, errors.New("no") }
func (r result) RowsAffected() (int64, error) { return int64(r), nil }

func (r *oldRows) Columns() []string { return []string{"a", "b"} }
func (r *oldRows) Close() error      { return nil }
func (r *oldRows) Next(dest []driver.Value) error {
	if len(r.rows) == 0 {
		if r.err != nil {
			return r.err
		}
		return io.EOF
	}
	for i := range dest {
		dest[i] = nil
		if i < len(r.rows[0]) {
			dest[i] = r.rows[0][i]
		}
	}
	r.rows = r.rows[1:]
	return nil
}

func (c *modern) PrepareContext(_ context.Context, q string) (driver.Stmt, error) {
	s, err := c.Prepare(q)
	if err != nil {
		return nil, err
	}
	return &modernStmt{*s.(*oldStmt)}, nil
}

func (c *modern) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if strings.HasPrefix(q, "prepared") {
		return nil, driver.ErrSkip
	}
	return (&modernStmt{oldStmt{&c.old, q}}).ExecContext(ctx, args)
}

func (c *modern) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if strings.HasPrefix(q, "prepared") {
		return nil, driver.ErrSkip
	}
	return (&modernStmt{oldStmt{&c.old, q}}).QueryContext(ctx, args)
}

func (c *modern) BeginTx(_ context.Context, o driver.TxOptions) (driver.Tx, error) {
	c.s.note("begin %v %v", o.Isolation, o.ReadOnly)
	return oldTx{c.s}, nil
}
func (c *modern) Ping(context.Context) error         { c.s.note("ping"); return nil }
func (c *modern) ResetSession(context.Context) error { c.s.note("reset"); return nil }
func (c *modern) IsValid() bool                      { c.s.note("valid"); return true }
func (c *modern) CheckNamedValue(v *driver.NamedValue) error {
	if list, ok := v.Value.([]int); ok {
		v.Value = fmt.Sprint(list)
		return nil
	}
	return driver.ErrSkip
}

func (s *modernStmt) ExecContext(_ context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.Exec(valuesOf(args))
}

func (s *modernStmt) QueryContext(_ context.Context, args []driver.NamedValue) (driver.Rows, error) {
	r, err := s.Query(valuesOf(args))
	if err != nil {
		return nil, err
	}
	return &modernRows{*r.(*oldRows), 1}, nil
}

func (s *modernStmt) CheckNamedValue(v *driver.NamedValue) error {
	if _, ok := v.Value.(struct{}); ok {
		return driver.ErrRemoveArgument
	}
	return (&modern{*s.c}).CheckNamedValue(v)
}

func valuesOf(args []driver.NamedValue) []driver.Value {
	out := []driver.Value{}
	for _, a := range args {
		out = append(out, a.Value)
	}
	return out
}

func (r *modernRows) HasNextResultSet() bool { return r.more > 0 }
func (r *modernRows) NextResultSet() error {
	if r.more--; r.more < 0 {
		return io.EOF
	}
	r.rows = [][]driver.Value{{"next"}}
	return nil
}

func (r *modernRows) ColumnTypeScanType(int) reflect.Type               { return reflect.TypeFor[string]() }
func (r *modernRows) ColumnTypeDatabaseTypeName(int) string             { return "TEXT" }
func (r *modernRows) ColumnTypeLength(int) (int64, bool)                { return 7, true }
func (r *modernRows) ColumnTypeNullable(int) (bool, bool)               { return true, true }
func (r *modernRows) ColumnTypePrecisionScale(int) (int64, int64, bool) { return 1, 2, true }

func (c *columns) Prepare(q string) (driver.Stmt, error) {
	s, err := c.old.Prepare(q)
	if err != nil {
		return nil, err
	}
	return &columnStmt{*s.(*oldStmt)}, nil
}
func (s *columnStmt) ColumnConverter(int) driver.ValueConverter { return driver.Bool }

// onlyExec and onlyQuery run some statements without preparing them; legacy does so by the methods that know no context.
type (
	onlyExec struct {
		driver.Conn
		driver.ExecerContext
	}
	onlyQuery struct {
		driver.Conn
		driver.QueryerContext
	}
	legacy struct{ old }
)

func (c *legacy) Exec(q string, args []driver.Value) (driver.Result, error) {
	return (&oldStmt{&c.old, q}).Exec(args)
}

func (c *legacy) Query(q string, args []driver.Value) (driver.Rows, error) {
	return (&oldStmt{&c.old, q}).Query(args)
}

// connect is a connector of one of the drivers.
type connect func() driver.Conn

func (c connect) Connect(context.Context) (driver.Conn, error) { return c(), nil }
func (c connect) Driver() driver.Driver                        { return nil }

var drivers = map[string]func(*store) driver.Conn{
	"old":     func(s *store) driver.Conn { return &old{s} },
	"modern":  func(s *store) driver.Conn { return &modern{old{s}} },
	"columns": func(s *store) driver.Conn { return &columns{old{s}} },
	"execer":  func(s *store) driver.Conn { return &onlyExec{&old{s}, &modern{old{s}}} },
	"queryer": func(s *store) driver.Conn { return &onlyQuery{&old{s}, &modern{old{s}}} },
	"legacy":  func(s *store) driver.Conn { return &legacy{old{s}} },
}

// use does with a database what an application may do, and returns all that it sees.
func use(ctx context.Context, db *sql.DB) (saw []string) {
	see := func(what ...any) { saw = append(saw, fmt.Sprint(what...)) }
	exec := func(q string, args ...any) {
		r, err := db.ExecContext(ctx, q, args...)
		if err != nil {
			see(q, err)
			return
		}
		n, nerr := r.RowsAffected()
		see(q, n, nerr)
	}
	see(db.PingContext(ctx))
	exec("insert ?", "1")
	exec("insert ? ?", true, nil)
	exec("insert ?", []int{1, 2})
	exec("insert ?", struct{}{})
	exec("insert ?", complex(1, 2))
	exec("insert ?", sql.Named("n", "true"))
	exec("insert", "too many")
	exec("prepared insert ?", "1")
	exec("fail ?", "0")
	exec("syntax")
	for _, q := range []string{"select", "prepared select", "select fail"} {
		rows, err := db.QueryContext(ctx, q)
		if err != nil {
			see(q, err)
			continue
		}
		types, err := rows.ColumnTypes()
		see(len(types), err)
		for _, t := range types {
			length, ok := t.Length()
			null, nok := t.Nullable()
			p, s, pok := t.DecimalSize()
			see(t.Name(), t.ScanType(), t.DatabaseTypeName(), length, ok, null, nok, p, s, pok)
		}
		for {
			for rows.Next() {
				var a, b any
				see(rows.Scan(&a, &b), a, b)
			}
			if !rows.NextResultSet() {
				break
			}
		}
		see(rows.Err(), rows.Close())
	}
	for _, o := range []*sql.TxOptions{nil, {ReadOnly: true}, {Isolation: sql.LevelSerializable}} {
		tx, err := db.BeginTx(ctx, o)
		see(err)
		if err != nil {
			continue
		}
		_, err = tx.ExecContext(ctx, "insert ?", "true")
		see(err)
		if o == nil {
			see(tx.Commit())
		} else {
			see(tx.Rollback())
		}
	}
	stmt, err := db.PrepareContext(ctx, "insert ?")
	see(err)
	for range 2 {
		_, err = stmt.ExecContext(ctx, "false")
		see(err)
	}
	see(stmt.Close())
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = db.ExecContext(ended, "insert ?", "1")
	see(err)
	return saw
}

// An application sees the same, and the driver is asked the same, with and without the wrapper.
func TestWrappedDriverBehavesAsItself(t *testing.T) {
	for name, open := range drivers {
		plain, wrapped := &store{}, &store{}
		k := openLog(t)
		a := sql.OpenDB(connect(func() driver.Conn { return open(plain) }))
		b := sql.OpenDB(Wrap(connect(func() driver.Conn { return open(wrapped) }), k.rec, Config{}))
		a.SetMaxOpenConns(1)
		b.SetMaxOpenConns(1)
		want, got := use(t.Context(), a), use(t.Context(), b)
		for i := range max(len(want), len(got)) {
			if i >= len(want) || i >= len(got) || want[i] != got[i] {
				t.Fatalf("%s: the application sees\n%q, want\n%q", name, got[min(i, len(got)):], want[min(i, len(want)):])
			}
		}
		// Whether a connection is valid and how it is reset is asked as often only where the driver can answer.
		if !reflect.DeepEqual(plain.log, wrapped.log) {
			t.Errorf("%s: the driver is asked\n%q, want\n%q", name, wrapped.log, plain.log)
		}
		if n := len(k.entries()); n < 15 {
			t.Errorf("%s: %d entries", name, n)
		}
		for _, e := range k.entries() {
			if strings.Contains(string(e.Line), "hunter2") {
				t.Errorf("%s: %s", name, e.Line)
			}
		}
		a.Close()
		b.Close()
	}
}

func TestTransactionsAreToldByTheirNames(t *testing.T) {
	k := openLog(t)
	s := &store{}
	db := sql.OpenDB(Wrap(connect(func() driver.Conn { return &modern{old{s}} }), k.rec, Config{Database: "shop"}))
	defer db.Close()
	for i := range 2 {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		rows, err := tx.Query("select fail")
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
		}
		rows.Close()
		if _, err := tx.Exec("insert ?", "x"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			err = tx.Rollback()
		} else {
			s.failing = &stateError{"40001"}
			if err = tx.Commit(); err != nil {
				err = nil
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec("insert ?", "y"); err != nil {
		t.Fatal(err)
	}
	var got []string
	names := map[any]int{nil: 0}
	for _, e := range k.entries() {
		m := e.metadata(t)
		name := at(m, "database", "transaction")
		if _, known := names[name]; !known {
			names[name] = len(names)
		}
		got = append(got, fmt.Sprint(at(m, "action"), " ", names[name], " ", at(m, "outcome"), " ", at(m, "reason"), " ", at(m, "database", "rows")))
	}
	want := []string{
		"database.begin 1 success <nil> <nil>", "database.query 1 failure *errors.errorString 0", "database.exec 1 success <nil> 1", "database.rollback 1 success <nil> <nil>",
		"database.begin 2 success <nil> <nil>", "database.query 2 failure *errors.errorString 1", "database.exec 2 success <nil> 1", "database.commit 2 failure SQLSTATE 40001 <nil>",
		"database.exec 0 success <nil> 1",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestParametersAreRecordedAsThePolicySays(t *testing.T) {
	for _, c := range []struct {
		cfg        Config
		parameters string
		statement  string
	}{
		{Config{}, "<nil>", "insert ?, ?, ?"},
		{Config{Parameters: Hash}, "[f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7 a7ffc6f8]", "insert ?, ?, ?"},
		{Config{Parameters: Hash, HashKey: []byte("k")}, "", "insert ?, ?, ?"},
		{Config{Parameters: All}, "[hunter2 7]", "insert ?, ?, 'hunter2'"},
	} {
		k := openLog(t)
		db := sql.OpenDB(Wrap(connect(func() driver.Conn { return &modern{old{&store{}}} }), k.rec, c.cfg))
		if _, err := db.Exec("insert ?, ?, 'hunter2'", "hunter2", 7); err != nil {
			t.Fatal(err)
		}
		db.Close()
		e := k.entries()[0]
		m := e.metadata(t)
		got := fmt.Sprint(at(m, "database", "parameters"))
		switch {
		case c.cfg.HashKey != nil:
			if strings.Contains(got, "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7") || len(got) != 2*64+3 {
				t.Errorf("with a key %s", got)
			}
		case c.cfg.Parameters == Hash:
			if !strings.HasPrefix(got, c.parameters[:66]) {
				t.Errorf("hashes %s", got)
			}
		case got != c.parameters:
			t.Errorf("%v: %s", c.cfg.Parameters, got)
		}
		if at(m, "database", "statement") != c.statement || at(m, "database", "parameterCount") != 2.0 || c.cfg.Parameters != All && strings.Contains(string(e.Line), "hunter2") {
			t.Errorf("%s", e.Line)
		}
	}
}

func TestUnwrapGivesTheDriversConnection(t *testing.T) {
	k := openLog(t)
	db := sql.OpenDB(Wrap(connect(func() driver.Conn { return &modern{old{&store{}}} }), k.rec, Config{Skip: func(q string) bool { return q != "" }}))
	defer db.Close()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Raw(func(dc any) error {
		if _, ok := Unwrap(dc).(*modern); !ok {
			return fmt.Errorf("it is a %T", Unwrap(dc))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if _, err := c.ExecContext(t.Context(), "insert ?", 1); err != nil || len(k.entries()) != 0 {
		t.Errorf("%v; a skipped statement is recorded: %d", err, len(k.entries()))
	}
}

type log struct {
	*immutable.Log
	t   testing.TB
	rec *capture.Recorder
}

type logged struct{ immutable.Entry }

func (e logged) metadata(t testing.TB) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal(e.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func openLog(t testing.TB) *log {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &log{l, t, capture.New(capture.Durable(l), capture.Config{OnError: func(err error) { t.Errorf("recording: %v", err) }})}
}

func (k *log) entries() (out []logged) {
	k.t.Helper()
	for e, err := range k.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			k.t.Fatal(err)
		}
		if e.Control == nil {
			out = append(out, logged{e})
		}
	}
	return out
}

func at(m any, path ...string) any {
	for _, name := range path {
		o, ok := m.(map[string]any)
		if !ok {
			return nil
		}
		m = o[name]
	}
	return m
}
