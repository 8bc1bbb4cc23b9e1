package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	stateFormat = "immutable/client/1"
	// maxState bounds the state file: a note and the chain of keys, which grows by some eight kilobytes a day.
	maxState = 64 << 20
	// coverWait is how long a read waits for a checkpoint over entries that are younger than the newest. A log publishes every
	// second while there is something new.
	coverWait = 30 * time.Second
	coverPoll = 100 * time.Millisecond
)

// trust is what a client knows of the log apart from what the server says at the moment: the chain of keys from the pinned ones
// on, and the newest checkpoint that it has verified.
type trust struct {
	c       *Client
	origin  string
	require proof.Require
	lock    io.Closer // of the state file; nil without one

	// mu makes what is accepted one sequence: whoever has accepted a checkpoint knows that every later one is consistent with
	// it. It is held across the questions to the server that this takes.
	mu    sync.Mutex
	chain *proof.Chain
	links []byte           // what the chain was made of, for the state file
	note  []byte           // the newest checkpoint; nil: none yet
	at    proof.Checkpoint // what it says
	tree  tree
}

// state is the state file.
type state struct {
	Format     string `json:"format"`
	Origin     string `json:"origin"`
	Checkpoint string `json:"checkpoint"` // the note
	Epochs     string `json:"epochs"`     // the chain of keys, as `immutable key chain` prints it
}

func newTrust(c *Client) (*trust, error) {
	if len(c.cfg.Keys) == 1 && !c.cfg.OneKeyLog {
		return nil, errors.New("one pinned key: a log's own key alone proves little, as it is never replaced; give all that `immutable key show` prints, or say OneKeyLog for a log that has no others")
	}
	first, err := proof.ParseKey(c.cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("pinned key: %w", err)
	}
	t := &trust{c: c, origin: first.Name(), require: c.cfg.Require}
	if t.chain, err = proof.NewChain(t.origin, c.cfg.Keys); err != nil {
		return nil, fmt.Errorf("pinned keys: %w", err)
	}
	t.chain.SetRequire(t.require)
	t.tree.full = map[tileID][]proof.Hash{}
	if c.cfg.State == "" {
		return t, nil
	}
	if t.lock, err = c.fs.Lock(c.cfg.State+".lock", nil); err != nil {
		return nil, fmt.Errorf("state file %s: another client has it: %w", c.cfg.State, err)
	}
	if err := t.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", c.cfg.State, err), t.lock.Close())
	}
	return t, nil
}

func (t *trust) close() error {
	if t.lock == nil {
		return nil
	}
	return t.lock.Close()
}

// load reads the state file. It proves itself: chain and checkpoint are verified as if the server had sent them.
func (t *trust) load() error {
	data, err := vfs.ReadFile(t.c.fs, t.c.cfg.State, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil || s.Format != stateFormat {
		return fmt.Errorf("it is not one of %s; if nothing else wrote it, it is damaged: restore it, since without it this client forgets what the server showed it", stateFormat)
	}
	if s.Origin != t.origin {
		return fmt.Errorf("it is of the log %s, the pinned keys are of %s", s.Origin, t.origin)
	}
	if err := t.follow([]byte(s.Epochs)); err != nil {
		return err
	}
	if t.at, _, err = t.chain.Open([]byte(s.Checkpoint), t.require); err != nil {
		return err
	}
	t.note = []byte(s.Checkpoint)
	return nil
}

// save makes what is known durable. Without a state file there is nothing to do.
func (t *trust) save() error {
	if t.lock == nil {
		return nil
	}
	data, err := json.Marshal(state{stateFormat, t.origin, string(t.note), string(t.links)})
	if err == nil {
		err = vfs.WriteAtomic(t.c.fs, t.c.cfg.State+".new", t.c.cfg.State, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember the checkpoint: %w", err)
	}
	return nil
}

// follow adds what a chain of keys has beyond the one that is known.
func (t *trust) follow(chain []byte) error {
	links, err := proof.ParseEpochLinks(chain)
	if err != nil {
		return fmt.Errorf("chain of keys: %w", err)
	}
	grown, current := t.chain.Clone(), t.chain.Current().Number
	for _, l := range links {
		if l.Number <= current {
			continue
		}
		if err := grown.Add(l); err != nil {
			return err
		}
		t.links = l.Append(t.links)
	}
	t.chain = grown
	return nil
}

// known is the size of the newest checkpoint that was verified: an answer to a question that is asked from now on must not
// be about less.
func (t *trust) known() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at.Size
}

// accept verifies a checkpoint that the server sent in answer to a question that was asked when the size known was known. It is
// good if the log's keys have signed it and it is consistent with the newest that was seen; then it is remembered.
func (t *trust) accept(ctx context.Context, note []byte, known uint64) (proof.Checkpoint, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.note != nil && string(note) == string(t.note) {
		return t.at, nil
	}
	cp, err := t.open(ctx, note)
	if errors.Is(err, errAsk) {
		return proof.Checkpoint{}, err
	}
	if err != nil {
		return proof.Checkpoint{}, &VerificationError{Index: -1, What: "its checkpoint is not good by the pinned keys", Err: err}
	}
	switch {
	case t.note == nil:
	case cp.Size < known:
		return cp, t.misbehaviour(ctx, note, cp, fmt.Sprintf("it has shown a checkpoint of %d entries and now shows one of %d: it was rolled back, or hides its end", t.at.Size, cp.Size))
	case cp.Size == t.at.Size && cp.Root != t.at.Root:
		return cp, t.misbehaviour(ctx, note, cp, fmt.Sprintf("for %d entries it has signed two roots: it has forked", cp.Size))
	case cp.Size < t.at.Size: // overtaken on its way by a newer one
		return cp, t.consistent(ctx, cp, t.at, note)
	case cp.Size > t.at.Size:
		if err := t.consistent(ctx, t.at, cp, note); err != nil {
			return cp, err
		}
	}
	t.note, t.at = append([]byte(nil), note...), cp
	return cp, t.save()
}

// errAsk says that a checkpoint could not be judged.
var errAsk = errors.New("ask for the chain of keys, without which a checkpoint does not verify")

// open verifies a note by the keys of its epoch. Where it does not verify the server may have changed its keys since the
// chain was read: that is asked, once.
func (t *trust) open(ctx context.Context, note []byte) (proof.Checkpoint, error) {
	cp, _, err := t.chain.Open(note, t.require)
	if err == nil {
		return cp, nil
	}
	var keys struct {
		Chain string `json:"chain"`
	}
	if kerr := t.c.getJSON(ctx, t.c.base+"/keys", &keys); kerr != nil {
		return cp, fmt.Errorf("%w: %w", errAsk, kerr)
	}
	before := t.chain.Current().Number
	if ferr := t.follow([]byte(keys.Chain)); ferr != nil {
		return cp, errors.Join(err, ferr)
	}
	if t.chain.Current().Number == before {
		return cp, err
	}
	cp, _, err = t.chain.Open(note, t.require)
	return cp, err
}

// consistent asks for the proof that the log of b begins with the log of a, and checks it. got is the note that is new.
func (t *trust) consistent(ctx context.Context, a, b proof.Checkpoint, got []byte) error {
	if a.Size == b.Size || a.Size == 0 {
		return nil
	}
	hashes, err := t.c.consistency(ctx, a.Size, b.Size)
	if p, ok := errors.AsType[*Problem](err); ok && (p.Status == 400 || p.Status == 404) {
		return t.misbehaviour(ctx, got, b, fmt.Sprintf("it has no proof that its %d entries begin with the %d that it had", b.Size, a.Size))
	}
	if err != nil {
		return fmt.Errorf("ask whether the log is consistent with what it was: %w", err)
	}
	if proof.CheckConsistency(hashes, a.Size, b.Size, a.Root, b.Root) == nil {
		return nil
	}
	e := t.misbehaviour(ctx, got, b, fmt.Sprintf("its %d entries do not begin with the %d that it had: it has forked", b.Size, a.Size))
	t.makePortable(ctx, e, hashes, a, b)
	return e
}

// misbehaviour is the error with both notes. Two roots of one size are a portable proof by themselves.
func (t *trust) misbehaviour(_ context.Context, got []byte, cp proof.Checkpoint, what string) *MisbehaviourError {
	return &MisbehaviourError{
		Origin: t.origin, What: what, Known: append([]byte(nil), t.note...), Got: append([]byte(nil), got...),
		portable: cp.Size == t.at.Size && cp.Root != t.at.Root,
	}
}

// makePortable adds the proof that b's tree begins with other entries than a says, if the server's own hashes show that.
func (t *trust) makePortable(ctx context.Context, e *MisbehaviourError, hashes []proof.Hash, a, b proof.Checkpoint) {
	if a.Size&(a.Size-1) == 0 {
		// The usual proof leaves out the first hash here, the root of the older tree. The server's tiles have it.
		root, err := t.subtree(ctx, b, a.Size)
		if err != nil {
			return
		}
		hashes = append([]proof.Hash{root}, hashes...)
	}
	if root, err := proof.ConsistencyRoot(hashes, a.Size, b.Size, b.Root); err == nil && root != a.Root {
		e.Proof, e.portable = hashes, true
	}
}

// cover returns a verified checkpoint of at least size entries, and waits for it to be published.
func (t *trust) cover(ctx context.Context, size uint64) (proof.Checkpoint, error) {
	until := t.c.now().Add(coverWait)
	for {
		t.mu.Lock()
		at := t.at
		t.mu.Unlock()
		if at.Size >= size {
			return at, nil
		}
		cp, _, err := t.c.checkpoint(ctx)
		if err != nil || cp.Size >= size {
			return cp, err
		}
		if t.c.now().After(until) {
			return cp, fmt.Errorf("no checkpoint covers entry %d yet: the newest is of %d entries; the log's statistics say why it publishes none", size-1, cp.Size)
		}
		if err := t.c.pause(ctx, coverPoll); err != nil {
			return cp, err
		}
	}
}

// consistency asks for a consistency proof. It checks nothing.
func (c *Client) consistency(ctx context.Context, from, to uint64) ([]proof.Hash, error) {
	q := url.Values{"from": {strconv.FormatUint(from, 10)}, "to": {strconv.FormatUint(to, 10)}}
	var answer struct {
		Hashes []string `json:"hashes"`
	}
	if err := c.getJSON(ctx, c.base+"/consistency?"+q.Encode(), &answer); err != nil {
		return nil, err
	}
	hashes := make([]proof.Hash, len(answer.Hashes))
	for i, text := range answer.Hashes {
		var err error
		if hashes[i], err = proof.ParseHash(text); err != nil {
			return nil, &VerificationError{Index: -1, What: "its consistency proof is none", Err: err}
		}
	}
	return hashes, nil
}

// checkpoint asks for the newest checkpoint and, with pinned keys, verifies it.
func (c *Client) checkpoint(ctx context.Context) (proof.Checkpoint, []byte, error) {
	var known uint64
	if c.trust != nil {
		known = c.trust.known()
	}
	note, err := c.do(ctx, &call{method: "GET", url: c.base + "/checkpoint", limit: proof.MaxNote, repeatable: true})
	if err != nil {
		return proof.Checkpoint{}, nil, err
	}
	if c.trust == nil {
		cp, err := checkpointOf(note)
		return cp, note, err
	}
	cp, err := c.trust.accept(ctx, note, known)
	return cp, note, err
}
