// Package sqlcapture records statements and transactions of database/sql in an Immutable log.
//
//	db := sql.OpenDB(sqlcapture.Wrap(connector, rec, sqlcapture.Config{Dialect: sqlcapture.Postgres}))
//
// A statement is recorded with its duration, the rows it changed or returned, its transaction and how it ended. Values are left out unless
// Config.Parameters asks for them: those that are passed to it, and those that stand in its text.
package sqlcapture

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
	"github.com/tree-of-life-system/immutable/event"
)

// Parameters says what is recorded of the values in a statement.
type Parameters int

const (
	// None records how many there are. Literals in the statement's text become "?".
	None Parameters = iota
	// Hash records their SHA-256, or HMAC-SHA-256 with Config.HashKey: the same value has the same hash. Without a key, what can be guessed can
	// be found by its hash. Literals in the text become "?".
	Hash
	// All records the values, and the text as it is.
	All
)

// Config says what is recorded. The zero value works.
type Config struct {
	Parameters Parameters
	HashKey    []byte // of Hash

	// Dialect says how to tell literals in a statement from the rest.
	Dialect Dialect

	// Database is the target's name: which database this is.
	Database string

	// Actor says on whose behalf a statement is run, by its context. May be nil.
	Actor func(context.Context) *event.Actor

	// Skip names statements that are not recorded, as they are written in the program; "" are begin, commit and rollback.
	Skip func(statement string) bool

	// Level is that of statements that went well; those that failed are at ERROR.
	Level immutable.Level
}

// Limits of what is recorded of a statement.
const (
	maxStatement  = 8 << 10
	maxParameters = 100
	maxParameter  = 256
	maxError      = 1 << 10
)

// Recorder records statements. Wrap uses one; other drivers' tracers use it too.
type Recorder struct {
	rec  *capture.Recorder
	cfg  Config
	id   string        // of this process's connections
	next atomic.Uint64 // numbers transactions
}

// NewRecorder returns a Recorder.
func NewRecorder(rec *capture.Recorder, cfg Config) *Recorder {
	return &Recorder{rec: rec, cfg: cfg, id: rand.Text()[:8]}
}

// Transaction returns a name for a transaction, by which its statements are found.
func (r *Recorder) Transaction() string { return r.id + "-" + strconv.FormatUint(r.next.Add(1), 10) }

// Statement is what is known of one. Rows is -1 where it is not known.
type Statement struct {
	Action      string // event.ActionQuery, ActionExec, ActionBegin, ActionCommit or ActionRollback
	Text        string
	Args        []driver.NamedValue
	Rows        int64 // that it changed, or returned
	Started     time.Time
	Err         error
	Transaction string
	Prepared    bool
	Cut         bool // its rows were not read to their end
}

// Record records a statement.
func (r *Recorder) Record(ctx context.Context, s *Statement) {
	if r.cfg.Skip != nil && r.cfg.Skip(s.Text) {
		return
	}
	shape := event.Shape{
		Kind: event.KindDatabase, Action: s.Action, Outcome: event.OutcomeSuccess,
		Request: &event.Request{DurationMS: float64(time.Since(s.Started).Microseconds()) / 1000},
	}
	level := r.cfg.Level
	if s.Err != nil {
		level, shape.Outcome = immutable.Error, event.OutcomeFailure
		shape.Reason = r.reason(s.Err)
	}
	if r.cfg.Database != "" {
		shape.Target = &event.Target{Type: "database", Name: r.cfg.Database}
	}
	if r.cfg.Actor != nil {
		shape.Actor = r.cfg.Actor(ctx)
	}
	text := s.Text
	if r.cfg.Parameters != All {
		text = Mask(text, r.cfg.Dialect)
	}
	text = capture.Text(text, maxStatement)
	o := meta.New()
	defer o.Free()
	o.Shape(&shape)
	o.Open("database")
	o.Text("statement", text)
	o.Text("transaction", s.Transaction)
	if s.Rows >= 0 {
		o.Count("rows", s.Rows)
	}
	o.True("prepared", s.Prepared)
	o.True("cut", s.Cut)
	r.parameters(o, s.Args)
	o.Close()
	message := capture.Text(text, 200)
	if message == "" {
		message = s.Action
	}
	_ = r.rec.Append(ctx, immutable.Event{Level: level, Message: message, RawMetadata: o.Bytes(), EventTime: s.Started}) // the error was told to OnError
}

// reason is why a statement failed. A database's message quotes values ("duplicate key (email)=(…)"), so that without All only its
// code, where the driver has one, or the error's type is recorded.
func (r *Recorder) reason(err error) string {
	if r.cfg.Parameters == All {
		return capture.Text(err.Error(), maxError)
	}
	if state, ok := sqlState(err); ok {
		return "SQLSTATE " + capture.Text(state, 16)
	}
	if plain(err) {
		return capture.Text(err.Error(), maxError)
	}
	return capture.Text(fmt.Sprintf("%T", err), maxError)
}

func (r *Recorder) parameters(o *meta.Object, args []driver.NamedValue) {
	if len(args) == 0 {
		return
	}
	o.Count("parameterCount", int64(len(args)))
	if r.cfg.Parameters == None {
		return
	}
	out := make([]string, 0, min(len(args), maxParameters))
	for _, a := range args[:min(len(args), maxParameters)] {
		v := valueText(a.Value)
		if r.cfg.Parameters == Hash {
			v = r.hash(v)
		} else {
			v = capture.Text(v, maxParameter)
		}
		if a.Name != "" {
			v = capture.Text(a.Name, 64) + "=" + v
		}
		out = append(out, v)
	}
	o.Any("parameters", out)
}

func (r *Recorder) hash(v string) string {
	if len(r.cfg.HashKey) > 0 {
		h := hmac.New(sha256.New, r.cfg.HashKey)
		_, _ = io.WriteString(h, v)
		return hex.EncodeToString(h.Sum(nil))
	}
	sum := sha256.Sum256([]byte(v))
	return hex.EncodeToString(sum[:])
}

// valueText is a value as text, one for each value that drivers know. A method of a value of another type may panic.
func valueText(v any) (s string) {
	defer func() {
		if p := recover(); p != nil {
			s = fmt.Sprintf("%T: its method panics", v)
		}
	}()
	switch v := v.(type) {
	case nil:
		return "NULL"
	case string:
		return v
	case []byte:
		return string(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}
