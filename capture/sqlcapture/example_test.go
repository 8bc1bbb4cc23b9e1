package sqlcapture_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/sqlcapture"
)

// printer stands for a log: it prints the messages.
type printer struct{}

func (printer) Append(_ context.Context, events ...immutable.Event) error {
	for _, e := range events {
		fmt.Println(e.Level, e.Message)
	}
	return nil
}

// connector stands for a driver's.
type connector struct{}

func (connector) Connect(context.Context) (driver.Conn, error) {
	return nil, errors.New("no database here")
}
func (connector) Driver() driver.Driver { return nil }

func ExampleWrap() {
	rec := capture.New(printer{}, capture.Config{})
	db := sql.OpenDB(sqlcapture.Wrap(connector{}, rec, sqlcapture.Config{Dialect: sqlcapture.Postgres}))
	defer func() { _ = db.Close() }()
	_, err := db.Exec("update orders set state = 'paid' where id = $1", 4711)
	fmt.Println(err)
	// Output:
	// ERROR network.connect
	// no database here
}

func ExampleMask() {
	fmt.Println(sqlcapture.Mask("select * from users where name = 'O''Brien' and age > 42", sqlcapture.Postgres))
	// Output: select * from users where name = ? and age > ?
}
