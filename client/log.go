package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tiles"
	"github.com/tree-of-life-system/immutable/proof"
)

// Keys are the keys of a log.
type Keys struct {
	Origin  string   // the log's name
	First   []string // verifier keys that the log began with
	Epoch   uint64   // the current one
	Current []string // verifier keys that sign now
	Chain   []byte   // what leads from First to Current, as `immutable key chain` prints it
}

// Keys asks for the log's keys. With pinned keys, these are among the first, and lead to the current ones. Without them, this is the
// server's word, and nobody should pin what only the server has said.
func (c *Client) Keys(ctx context.Context) (*Keys, error) {
	var a struct {
		Origin  string
		Keys    []string
		Epoch   uint64
		Current []string
		Chain   string
	}
	if err := c.getJSON(ctx, c.base+"/keys", &a); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	k := &Keys{a.Origin, a.Keys, a.Epoch, a.Current, []byte(a.Chain)}
	if c.trust == nil {
		return k, nil
	}
	if err := c.trust.checkKeys(k); err != nil {
		return nil, &VerificationError{Index: -1, What: "its keys are not those of the pinned ones", Err: err}
	}
	return k, nil
}

// checkKeys holds what a server says of its keys to the pinned ones.
func (t *trust) checkKeys(k *Keys) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pinned := range t.c.cfg.Keys {
		if !slices.Contains(k.First, pinned) {
			return fmt.Errorf("%s is not among them", pinned)
		}
	}
	if err := t.follow(k.Chain); err != nil {
		return err
	}
	for _, e := range t.chain.Epochs() {
		if e.Number != k.Epoch {
			continue
		}
		for _, key := range e.Keys {
			if !slices.Contains(k.Current, key.String()) {
				return fmt.Errorf("%s of epoch %d is not among those that it says sign now", key, k.Epoch)
			}
		}
		return nil
	}
	return fmt.Errorf("the chain of keys does not lead to epoch %d", k.Epoch)
}

// maxHistory bounds the pages of a history of checkpoints, of a thousand each.
const maxHistory = 10_000

// CheckpointHistory returns the checkpoints that the log keeps, oldest first, as notes. With pinned keys each is verified by the
// keys of its epoch; how they go together is for ConsistencyProof.
func (c *Client) CheckpointHistory(ctx context.Context) ([][]byte, error) {
	var notes [][]byte
	from := uint64(0)
	for range maxHistory {
		var a struct {
			Checkpoints []struct{ Note string }
			Next        *uint64
		}
		if err := c.getJSON(ctx, c.base+"/checkpoints?limit=1000&from="+strconv.FormatUint(from, 10), &a); err != nil {
			return nil, fmt.Errorf("checkpoints: %w", err)
		}
		for _, x := range a.Checkpoints {
			if c.trust != nil {
				if _, err := c.OpenCheckpoint(ctx, []byte(x.Note)); err != nil {
					return nil, fmt.Errorf("checkpoints: %w", err)
				}
			}
			notes = append(notes, []byte(x.Note))
		}
		if a.Next == nil {
			return notes, nil
		}
		if *a.Next <= from {
			return nil, &VerificationError{Index: -1, What: "the pages of its checkpoints do not go on"}
		}
		from = *a.Next
	}
	return nil, fmt.Errorf("checkpoints: there are more than %d thousand", maxHistory)
}

// OpenCheckpoint verifies a checkpoint note, from wherever it is, by the pinned keys and those that the chain leads to.
func (c *Client) OpenCheckpoint(ctx context.Context, note []byte) (proof.Checkpoint, error) {
	if c.trust == nil {
		return proof.Checkpoint{}, errors.New("open a checkpoint: there are no pinned keys to verify it by")
	}
	c.trust.mu.Lock()
	defer c.trust.mu.Unlock()
	cp, err := c.trust.open(ctx, note)
	if err != nil && !errors.Is(err, errAsk) {
		err = &VerificationError{Index: -1, What: "the checkpoint is not good by the pinned keys", Err: err}
	}
	return cp, err
}

// ConsistencyProof returns the server's proof that the log of b entries begins with the log of a. It proves what it does with
// proof.CheckConsistency, between two roots.
func (c *Client) ConsistencyProof(ctx context.Context, a, b uint64) ([]immutable.Hash, error) {
	hashes, err := c.consistency(ctx, a, b)
	if err != nil {
		return nil, fmt.Errorf("consistency proof: %w", err)
	}
	return hashes, nil
}

// RootAt returns the root over the first size entries, proven under the newest checkpoint, which must cover them.
func (c *Client) RootAt(ctx context.Context, size uint64) (immutable.Hash, error) {
	cp, _, err := c.checkpoint(ctx)
	if err != nil {
		return immutable.Hash{}, fmt.Errorf("root at %d: %w", size, err)
	}
	return c.rootUnder(ctx, &cp, size)
}

func (c *Client) rootUnder(ctx context.Context, cp *proof.Checkpoint, size uint64) (proof.Hash, error) {
	switch {
	case size > cp.Size:
		return proof.Hash{}, fmt.Errorf("root at %d: the newest checkpoint covers %d entries", size, cp.Size)
	case size == cp.Size:
		return cp.Root, nil
	case size == 0:
		return proof.EmptyRoot(), nil
	}
	q := url.Values{"from": {strconv.FormatUint(size, 10)}, "to": {strconv.FormatUint(cp.Size, 10)}}
	var a struct {
		Hashes   []string
		RootFrom string
	}
	if err := c.getJSON(ctx, c.base+"/consistency?"+q.Encode(), &a); err != nil {
		return proof.Hash{}, fmt.Errorf("root at %d: %w", size, err)
	}
	root, err := proof.ParseHash(a.RootFrom)
	hashes := make([]proof.Hash, len(a.Hashes))
	for i := 0; i < len(hashes) && err == nil; i++ {
		hashes[i], err = proof.ParseHash(a.Hashes[i])
	}
	if err == nil {
		err = proof.CheckConsistency(hashes, size, cp.Size, root, cp.Root)
	}
	if err != nil {
		return proof.Hash{}, &VerificationError{Index: -1, What: fmt.Sprintf("its root over %d entries is not that of the log whose checkpoint of %d it shows", size, cp.Size), Err: err}
	}
	return root, nil
}

// Bundle returns an evidence bundle, the document without the page around it (immutable.BundlePage makes that). It was
// verified here, with pinned keys by these. Policy and Program are the server's to set.
func (c *Client) Bundle(ctx context.Context, o immutable.BundleOptions) ([]byte, error) {
	if len(o.Policy) > 0 || o.Program != "" {
		return nil, errors.New("bundle: a server does not take Policy and Program")
	}
	v := queryValues(&immutable.Query{Text: o.Query, Levels: o.Levels, Since: o.Since, Until: o.Until, From: o.From})
	if o.To > 0 {
		v.Set("to", strconv.FormatUint(o.To, 10))
	}
	v.Set("format", "json")
	data, err := c.get(ctx, c.base+"/bundle?"+v.Encode())
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	rep, err := immutable.VerifyBundle(data, immutable.VerifyBundleOptions{Keys: c.cfg.Keys, Require: c.cfg.Require})
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if v := immutable.Verdict(rep.Verdict); v != immutable.Proven && (v != immutable.Consistent || c.trust != nil) {
		return nil, &VerificationError{Index: -1, What: "its bundle does not verify", Got: string(v), Err: errors.New(firstFinding(rep))}
	}
	return data, nil
}

// firstFinding is what is wrong with a bundle.
func firstFinding(r *immutable.BundleReport) string {
	if len(r.Findings) > 0 {
		return r.Findings[0].What
	}
	return "no pinned key has signed it"
}

// ExportTiles writes the log into dir as C2SP tlog-tiles, as Log.ExportTiles does, each tile and entry proven by the pinned
// keys, without which it refuses.
func (c *Client) ExportTiles(ctx context.Context, dir string, progress func(done, total uint64)) (*immutable.TilesExport, error) {
	if c.trust == nil {
		return nil, errors.New("export as tiles: there are no pinned keys to prove them by")
	}
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	k, err := c.Keys(ctx) // of the note or later
	if err != nil {
		return nil, err
	}
	cp, err := c.OpenCheckpoint(ctx, note)
	if err != nil {
		return nil, err
	}
	return tiles.Export(ctx, c.fs, dir, &tileSource{c, note, cp, k.Chain}, progress)
}

// tileSource is the log under one checkpoint.
type tileSource struct {
	c     *Client
	note  []byte
	cp    proof.Checkpoint
	chain []byte
}

func (s *tileSource) Note() ([]byte, proof.Checkpoint, error) { return s.note, s.cp, nil }
func (s *tileSource) Epochs() ([]byte, error)                 { return s.chain, nil }

func (s *tileSource) RootAt(ctx context.Context, size uint64) (proof.Hash, error) {
	return s.c.rootUnder(ctx, &s.cp, size)
}

func (s *tileSource) Lines(ctx context.Context, first uint64, n int) ([][]byte, error) {
	lines := make([][]byte, 0, n)
	for e, err := range s.c.Entries(ctx, immutable.Query{From: first, Limit: n}) {
		if err != nil {
			return nil, err
		}
		if e.Index != first+uint64(len(lines)) {
			break
		}
		lines = append(lines, e.Line)
	}
	if len(lines) < n {
		return nil, fmt.Errorf("entry %d is not shown: tiles are the whole log, for tokens that may read all levels", first+uint64(len(lines)))
	}
	return lines, nil
}

func (s *tileSource) Hashes(ctx context.Context, level int, first uint64, n int) ([]proof.Hash, error) {
	hashes, err := s.c.trust.tile(ctx, s.cp, tileID{level, first / tileWidth})
	if err == nil && len(hashes) < n {
		err = fmt.Errorf("tile %d of level %d has %d hashes, not %d", first/tileWidth, level, len(hashes), n)
	}
	if err != nil {
		return nil, err
	}
	return hashes[:n], nil
}

// Identity is who a token stands for.
type Identity struct {
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	Tenant string            `json:"tenant"` // empty: the whole installation
	Role   string            `json:"role"`
	Logs   []string          `json:"logs"`   // empty: all
	Levels []immutable.Level `json:"levels"` // empty: all
}

// WhoAmI asks who the server takes this client for.
func (c *Client) WhoAmI(ctx context.Context) (*Identity, error) {
	id := &struct {
		Identity
		Levels []string `json:"levels"`
	}{}
	if err := c.getJSON(ctx, c.root+"/api/v1/whoami", id); err != nil {
		return nil, fmt.Errorf("who am I: %w", err)
	}
	for _, name := range id.Levels {
		l, err := immutable.ParseLevel(name)
		if err != nil {
			return nil, fmt.Errorf("who am I: %w", err)
		}
		id.Identity.Levels = append(id.Identity.Levels, l)
	}
	return &id.Identity, nil
}

// Rotate seals the open segment, and returns how many are sealed and how many entries the log has.
func (c *Client) Rotate(ctx context.Context) (sealed int, size uint64, err error) {
	var a struct {
		SealedSegments int
		Size           uint64
	}
	if err := c.change(ctx, http.MethodPost, "/rotate", nil, &a); err != nil {
		return 0, 0, fmt.Errorf("rotate: %w", err)
	}
	return a.SealedSegments, a.Size, nil
}

// RotateKeys replaces the log's keys.
func (c *Client) RotateKeys(ctx context.Context) error {
	if err := c.change(ctx, http.MethodPost, "/rotate-keys", nil, &struct{}{}); err != nil {
		return fmt.Errorf("rotate the keys: %w", err)
	}
	return nil
}

// Hold begins a legal hold. Who did it is who the token stands for, whatever By says.
func (c *Client) Hold(ctx context.Context, h immutable.Hold) (r immutable.Receipt, err error) {
	if err := c.change(ctx, http.MethodPut, "/holds/"+url.PathEscape(h.ID), map[string]string{"reason": h.Reason}, &r); err != nil {
		return r, fmt.Errorf("hold %s: %w", h.ID, err)
	}
	return r, nil
}

// Release ends a legal hold.
func (c *Client) Release(ctx context.Context, h immutable.Hold) (r immutable.Receipt, err error) {
	path := "/holds/" + url.PathEscape(h.ID) + "?" + url.Values{"reason": {h.Reason}}.Encode()
	if err := c.change(ctx, http.MethodDelete, path, nil, &r); err != nil {
		return r, fmt.Errorf("release %s: %w", h.ID, err)
	}
	return r, nil
}

// Holds are the legal holds that are active, by the server's word.
func (c *Client) Holds(ctx context.Context) ([]immutable.Hold, error) {
	var a struct{ Holds []immutable.Hold }
	if err := c.getJSON(ctx, c.base+"/holds", &a); err != nil {
		return nil, fmt.Errorf("holds: %w", err)
	}
	return a.Holds, nil
}

// change asks for something that is not repeated when its answer was lost.
func (c *Client) change(ctx context.Context, method, path string, body, to any) error {
	a := &call{method: method, url: c.base + path, limit: maxAnswer, writes: true}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		a.body, a.kind = data, "application/json"
	}
	data, err := c.do(ctx, a)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return nil
}
