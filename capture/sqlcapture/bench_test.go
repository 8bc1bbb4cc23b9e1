package sqlcapture

import (
	"context"
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/cost"
	"github.com/tree-of-life-system/immutable/client"
)

// What the wrapper adds to a statement: the driver behind it does nothing.
func BenchmarkStatement(b *testing.B) {
	l, err := immutable.Open(b.TempDir(), &immutable.Config{StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	w, err := client.NewLogWriter(l, client.WriterConfig{Mode: client.Drop, MaxBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var left *client.UndeliveredError
		if err := w.Close(ctx); err != nil && !errors.As(err, &left) {
			b.Error(err)
		}
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}()
	c, err := Wrap(connect(func() driver.Conn { return idle{} }), capture.New(w, capture.Config{}), Config{Dialect: Postgres}).Connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	args := []driver.NamedValue{{Ordinal: 1, Value: "ann"}, {Ordinal: 2, Value: int64(7)}}
	ctx := b.Context()
	cost.PerCall(b, func() {
		if _, err := c.(driver.ExecerContext).ExecContext(ctx, "UPDATE orders SET customer = $1, state = 'paid' WHERE id = $2", args); err != nil {
			b.Fatal(err)
		}
	})
}

type idle struct{ driver.Conn }

func (idle) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), nil
}
