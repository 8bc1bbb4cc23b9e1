package pgxcapture

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/sqlcapture"
)

// postgres starts a server of its own on a unix socket, and returns how to connect to it.
func postgres(t *testing.T) string {
	t.Helper()
	bin := ""
	if found, err := exec.LookPath("initdb"); err == nil {
		bin = filepath.Dir(found)
	} else if all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(all) > 0 {
		bin = filepath.Dir(all[len(all)-1])
	} else {
		t.Skip("there is no Postgres here (Debian: postgresql)")
	}
	dir, err := os.MkdirTemp("", "pg") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	as := asNobody(t, dir)
	data := filepath.Join(dir, "data")
	start := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Dir, c.SysProcAttr = dir, as
		c.Env = append(os.Environ(), "LC_ALL=C", "HOME="+dir)
		return c
	}
	if out, err := start("initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Skipf("initdb: %v\n%s", err, out)
	}
	server := start("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Wait()
	})
	url := "host=" + dir + " user=test dbname=postgres"
	for range 600 {
		c, err := pgx.Connect(t.Context(), url)
		if err == nil {
			c.Close(t.Context())
			return url
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the server does not start")
	return ""
}

type log struct {
	*immutable.Log
	t   testing.TB
	rec *capture.Recorder
}

func openLog(t *testing.T) *log {
	t.Helper()
	l, err := immutable.Open(t.TempDir(), &immutable.Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &log{l, t, capture.New(capture.Durable(l), capture.Config{OnError: func(err error) { t.Errorf("recording: %v", err) }})}
}

// told is what the log holds: action, transaction by its number, outcome, reason, rows and statement.
func (k *log) told() (out []string) {
	k.t.Helper()
	names := map[string]int{"": 0}
	for e, err := range k.Entries(context.Background(), immutable.Query{}) {
		if err != nil {
			k.t.Fatal(err)
		}
		if e.Control != nil {
			continue
		}
		var m struct {
			Action, Outcome, Reason string
			Database                struct {
				Statement, Transaction string
				Rows                   *int
				Parameters             []string
			}
		}
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			k.t.Fatal(err)
		}
		d := m.Database
		if _, known := names[d.Transaction]; !known {
			names[d.Transaction] = len(names)
		}
		rows := "-"
		if d.Rows != nil {
			rows = fmt.Sprint(*d.Rows)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %d %s %s %s | %s %v", strings.TrimPrefix(m.Action, "database."), names[d.Transaction], m.Outcome, m.Reason, rows, d.Statement, d.Parameters)))
		if strings.Contains(string(e.Line), "hunter2") {
			k.t.Errorf("a secret: %s", e.Line)
		}
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatPgxRunsIsRecorded(t *testing.T) {
	url := postgres(t)
	ctx := t.Context()
	k := openLog(t)
	cfg, err := pgx.ParseConfig(url)
	must(t, err)
	cfg.Tracer = New(k.rec, sqlcapture.Config{})
	c, err := pgx.ConnectConfig(ctx, cfg)
	must(t, err)
	run := func(q string, args ...any) error {
		_, err := c.Exec(ctx, q, args...)
		return err
	}
	must(t, run("create table users (name text primary key, password text)"))
	tx, err := c.Begin(ctx)
	must(t, err)
	_, err = tx.Exec(ctx, "insert into users values ($1, $2), ('b', 'hunter2')", "a", "hunter2")
	must(t, err)
	inner, err := tx.Begin(ctx) // a savepoint
	must(t, err)
	must(t, inner.Rollback(ctx))
	must(t, tx.Commit(ctx))
	tx, err = c.Begin(ctx)
	must(t, err)
	if _, err = tx.Exec(ctx, "insert into users values ($1, $2)", "a", "hunter2"); err == nil {
		t.Error("a duplicate is taken")
	}
	if err := tx.Commit(ctx); err == nil {
		t.Error("a failed transaction is committed")
	}
	rows, err := c.Query(ctx, "select name from users where password = $1", "hunter2")
	must(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	if len(names) != 2 {
		t.Errorf("%q", names)
	}
	b := &pgx.Batch{}
	b.Queue("update users set password = $1", "hunter2-2")
	b.Queue("select 'hunter2'")
	must(t, c.SendBatch(ctx, b).Close())
	_, err = c.CopyFrom(ctx, pgx.Identifier{"users"}, []string{"name", "password"}, pgx.CopyFromRows([][]any{{"c", "hunter2"}}))
	must(t, err)
	if err := run("select no_such_function('x')"); err == nil {
		t.Error("nonsense is taken")
	}
	got := k.told()
	want := []string{
		"exec 0 success  0 | create table users (name text primary key, password text) []",
		"begin 1 success  - | begin []",
		"exec 1 success  2 | insert into users values ($1, $2), (?, ?) []",
		"exec 1 success  0 | savepoint sp_1 []",
		"exec 1 success  0 | rollback to savepoint sp_1 []",
		"commit 1 success  - | commit []",
		"begin 2 success  - | begin []",
		"exec 2 failure SQLSTATE 23505 - | insert into users values ($1, $2) []",
		"rollback 2 success  - | commit []",
		"query 0 success  2 | select name from users where password = $1 []",
		"exec 0 success  2 | update users set password = $1 []",
		"query 0 success  1 | select ? []",
		`exec 0 success  1 | copy "users" (name, password) from stdin []`,
		"query 0 failure SQLSTATE 42883 - | select no_such_function(?) []",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	must(t, c.Close(ctx))
}

// pgx's own driver of database/sql is a real one with all there is.
func TestDriverOfPgxIsRecorded(t *testing.T) {
	url := postgres(t)
	ctx := t.Context()
	cfg, err := pgx.ParseConfig(url)
	must(t, err)
	k := openLog(t)
	db := sql.OpenDB(sqlcapture.Wrap(stdlib.GetConnector(*cfg), k.rec, sqlcapture.Config{Dialect: sqlcapture.Postgres, Parameters: sqlcapture.Hash}))
	defer db.Close()
	exec := func(q string, args ...any) {
		t.Helper()
		_, err := db.ExecContext(ctx, q, args...)
		must(t, err)
	}
	exec("create table t (a int, b text[])")
	exec("insert into t values ($1, $2)", 1, []string{"x", "hunter2"}) // a value that only the driver knows
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	must(t, err)
	rows, err := tx.QueryContext(ctx, "select a, b from t where 'hunter2' = any(b)")
	must(t, err)
	types, err := rows.ColumnTypes()
	must(t, err)
	if types[0].DatabaseTypeName() != "INT4" || types[0].ScanType() != reflect.TypeFor[int32]() {
		t.Errorf("%s %s", types[0].DatabaseTypeName(), types[0].ScanType())
	}
	for rows.Next() {
	}
	must(t, rows.Err())
	if _, err := tx.ExecContext(ctx, "insert into t values (2, null)"); err == nil {
		t.Error("a read-only transaction writes: its options were lost")
	}
	must(t, tx.Rollback())
	conn, err := db.Conn(ctx)
	must(t, err)
	must(t, conn.Raw(func(dc any) error {
		return sqlcapture.Unwrap(dc).(*stdlib.Conn).Conn().Ping(ctx)
	}))
	must(t, conn.Close())
	got := k.told()
	for i, want := range []string{
		"exec 0 success  0 | create table t (a int, b text[])", "exec 0 success  1 | insert into t values ($1, $2)", "begin 1 success  - |", "query 1 success  1 | select a, b from t where ? = any(b)",
		"exec 1 failure SQLSTATE 25006 - | insert into t values (?, null)", "rollback 1 success  - |",
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Fatalf("%d: got %q\nwant %q", i, got, want)
		}
	}
}
