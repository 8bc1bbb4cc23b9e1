// Quickstart opens a log, appends, reads back, and verifies.
//
//	go run ./examples/quickstart [DIR]
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/tree-of-life-system/immutable"
)

func main() {
	dir := "./logs"
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	if err := run(context.Background(), log.New(os.Stdout, "", 0), dir, nil); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out *log.Logger, dir string, config *immutable.Config) (err error) {
	// Open makes the log, its signing key and its first checkpoint if there is none.
	l, err := immutable.Open(dir, config)
	if err != nil {
		return err
	}
	defer func() {
		// Close signs a last checkpoint: its error matters.
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()

	// The entry is on the disk when Audit returns. Keep the receipt: it proves what was acknowledged.
	r, err := l.Audit(ctx, "GitHub commit created", immutable.Fields{"repo": "tree-of-life-system", "sha": "abc123"})
	if err != nil {
		return err
	}
	out.Printf("entry %d, hash %s", r.Index, r.Hash)

	// Several events as one batch: all of them or none. A retry with the same key does not append twice.
	_, err = l.Append(ctx,
		immutable.Event{Level: immutable.Security, Message: "login", Metadata: immutable.Fields{"user": "ann"}},
		immutable.Event{Level: immutable.Revenue, Message: "order paid", Metadata: immutable.Fields{"cents": 4200}, IdempotencyKey: "order-17"},
	)
	if err != nil {
		return err
	}

	// What a read returns was hashed again and proven against the log's tree.
	for e, err := range l.Entries(ctx, immutable.Query{Levels: []immutable.Level{immutable.Audit, immutable.Security}}) {
		if err != nil {
			return err
		}
		out.Printf("%d %s %s %s", e.Index, e.Level, e.Message, e.Metadata)
	}

	// Verify reads the files again. A key or receipt that was kept elsewhere proves more than what lies beside the log.
	rep, err := l.Verify(ctx, immutable.VerifyOptions{Keys: l.VerifierKeys(), Receipts: []immutable.Receipt{r}})
	if err != nil {
		return err
	}
	out.Printf("%s: %d entries, root %s", rep.Verdict, rep.Size, rep.Root.Base64())
	for _, f := range rep.Findings {
		out.Println(f)
	}
	return nil
}
