// Client sends events to a log on a server through a durable spool, then reads the newest ones back, each verified under a
// checkpoint that the pinned keys have signed. KEYS-FILE holds what `immutable key show` prints on the server's host; the token is
// in IMMUTABLE_TOKEN.
//
//	go run ./examples/client http://127.0.0.1:8080 KEYS-FILE DIR MESSAGE…
//
// Events that the server does not take in time stay in DIR, and the next run sends them.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
)

func main() {
	if err := run(context.Background(), log.New(os.Stdout, "", 0), os.Getenv("IMMUTABLE_TOKEN"), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out *log.Logger, token string, args []string) error {
	if len(args) < 4 {
		return errors.New("usage: client URL KEYS-FILE DIR MESSAGE…")
	}
	keys, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	dir := args[2]
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c, err := client.New(client.Config{URL: args[0], Token: token, Keys: strings.Fields(string(keys)), State: filepath.Join(dir, "state")})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // everything was said before
	if err := send(ctx, out, c, filepath.Join(dir, "spool"), args[3:]); err != nil {
		return err
	}
	for e, err := range c.Search(ctx, immutable.Query{Limit: 10}) {
		if m, ok := errors.AsType[*client.MisbehaviourError](err); ok {
			return report(m, dir)
		}
		if err != nil {
			return err
		}
		out.Printf("%d %s %s", e.Index, e.Level, e.Message)
	}
	return nil
}

// send gives the messages to the spool, and the spool ten seconds to reach the server.
func send(ctx context.Context, out *log.Logger, c *client.Client, spool string, messages []string) error {
	w, err := c.NewWriter(client.WriterConfig{Mode: client.Spool, Dir: spool})
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := w.Audit(ctx, m, nil); err != nil {
			return errors.Join(err, w.Close(ctx))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = w.Close(ctx)
	if left, ok := errors.AsType[*client.UndeliveredError](err); ok && left.Spooled {
		out.Printf("%d events wait in %s for the next run", left.Events, spool)
	}
	return err
}

// report keeps what shows others that the server has two histories.
func report(m *client.MisbehaviourError, dir string) error {
	if file, ok := m.Portable(); ok {
		name := filepath.Join(dir, "misbehaviour.txt")
		if err := os.WriteFile(name, file, 0o600); err != nil {
			return errors.Join(m, err)
		}
		return fmt.Errorf("%w (it is in %s)", m, name)
	}
	return m
}
