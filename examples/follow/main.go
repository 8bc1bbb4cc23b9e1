// Follow prints the entries of a log as they are committed, also by another process. It can be stopped and goes on where
// it was told to.
//
//	go run ./examples/follow DIR [FROM]
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"

	"github.com/tree-of-life-system/immutable"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := start(ctx, log.New(os.Stdout, "", 0), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "follow:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, out *log.Logger, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("usage: follow DIR [FROM]")
	}
	from := uint64(0)
	if len(args) == 2 {
		var err error
		if from, err = strconv.ParseUint(args[1], 10, 64); err != nil {
			return err
		}
	}
	return follow(ctx, out, args[0], from, nil)
}

// follow prints entries from index from on until ctx ends.
func follow(ctx context.Context, out *log.Logger, dir string, from uint64, config *immutable.Config) error {
	var c immutable.Config
	if config != nil {
		c = *config
	}
	c.ReadOnly = true // beside the writer, which may be another process
	l, err := immutable.Open(dir, &c)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // nothing was written
	for e, err := range l.Subscribe(ctx, from) {
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		// %q keeps escape sequences in a message from colouring the terminal. Who keeps e.Index+1 can go on from there.
		out.Printf("%d %s %s %q", e.Index, e.Timestamp.Format("15:04:05.000"), e.Level, e.Message)
	}
	return nil
}
