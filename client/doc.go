// Package client appends to a log of an Immutable server and reads it, with the methods of the library.
//
//	c, err := client.New(client.Config{URL: "https://logs.example.com", Token: token, Keys: keys, State: "/var/lib/app/log.state"})
//	r, err := c.Audit(ctx, "GitHub commit created", immutable.Fields{"repo": "tree-of-life-system", "sha": "abc123"})
//	for e, err := range c.Search(ctx, immutable.Query{Text: "level:security since:-24h"}) { … }
//
// An append that returned is on the server's disk, and lands once: each event has an idempotency key, so that an attempt whose
// answer was lost is repeated without harm. [Client.NewWriter] sends in the background, with a bounded buffer that makes
// callers wait, survives in files, or drops and says so in the log.
//
// # What is verified
//
// With the log's keys pinned ([Config].Keys) nothing is returned that the log has not signed:
//
//   - The leaf hash of each entry is computed again from its bytes, and proven by tiles or an inclusion proof under a checkpoint
//     that the keys of its epoch have signed; the chain of keys is followed from the pinned ones to today's.
//   - Each checkpoint is consistent with all that were seen before, in this process and, with [Config].State, in earlier ones. A
//     server that rolls back or forks its log gives a [*MisbehaviourError] with both notes, and with a proof for everybody where
//     the two contradict each other.
//   - A read or stream without a filter has every entry between its first and its last.
//   - The receipt of an append is of exactly the event that was sent.
//
// It is the server's word, as it cannot be otherwise: that a search left nothing out, the counts and statistics, the report of
// [Client.Verify], that there is nothing newer than the newest checkpoint, and that other people are shown the same log. Against
// the last, compare checkpoints with them, or have witnesses.
package client
