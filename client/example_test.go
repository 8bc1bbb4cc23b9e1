package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/client"
)

func Example() {
	c, err := client.New(client.Config{
		URL: "https://logs.example.com", Token: os.Getenv("IMMUTABLE_TOKEN"),
		// Pinned: from `immutable key show` on the server's host, not from the server.
		Keys:  []string{"…", "…", "…"},
		State: "/var/lib/app/log.state",
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()
	ctx := context.Background()
	r, err := c.Audit(ctx, "GitHub commit created", immutable.Fields{"repo": "tree-of-life-system", "sha": "abc123"})
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println("entry", r.Index, "is on the server's disk")
	for e, err := range c.Search(ctx, immutable.Query{Text: "level:security since:-24h", Limit: 100}) {
		var m *client.MisbehaviourError
		if errors.As(err, &m) {
			if file, ok := m.Portable(); ok {
				_ = os.WriteFile("misbehaviour.txt", file, 0o600) // `immutable verify misbehaviour.txt --key …` explains it
			}
		}
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Println(e.Index, e.Timestamp, e.Message)
	}
}

func ExampleClient_NewWriter() {
	c, err := client.New(client.Config{URL: "https://logs.example.com", Token: os.Getenv("IMMUTABLE_TOKEN")})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()
	w, err := c.NewWriter(client.WriterConfig{Mode: client.Spool, Dir: "/var/lib/app/spool"})
	if err != nil {
		log.Print(err)
		return
	}
	if err := w.Revenue(context.Background(), "Invoice paid", immutable.Fields{"amount": 9900, "currency": "USD"}); err != nil {
		log.Print(err) // nil: it is in the spool, and reaches the log once, whatever happens to this process
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var left *client.UndeliveredError
	if err := w.Close(end); errors.As(err, &left) {
		log.Printf("%d events wait in the spool for the next start: %v", left.Events, left.Err)
	}
}
