package server

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

// proveRoutes are what shows that entries are in the log, and that the log only grows. What they say of the log as a whole is
// made to be public, and is not on record as a read.
func proveRoutes() []route {
	return []route{
		{Method: "GET", Pattern: logPath + "/entries/{index}/proof", Permission: tenant.PermProve, ID: "getProof", Handle: getProof},
		{Method: "GET", Pattern: logPath + "/entries/{index}/receipt", Permission: tenant.PermProve, ID: "getReceipt", Handle: getReceipt},
		{Method: "GET", Pattern: logPath + "/checkpoint", Permission: tenant.PermProve, ID: "getCheckpoint", Handle: getCheckpoint},
		{Method: "GET", Pattern: logPath + "/checkpoints", Permission: tenant.PermProve, Query: []string{"from", "limit"}, ID: "listCheckpoints", Handle: listCheckpoints},
		{Method: "GET", Pattern: logPath + "/consistency", Permission: tenant.PermProve, Query: []string{"from", "to"}, ID: "getConsistency", Handle: getConsistency},
		{Method: "GET", Pattern: logPath + "/keys", Permission: tenant.PermProve, ID: "getKeys", Handle: getKeys},
	}
}

// getProof answers with a proof that stands alone: c2sp.org/tlog-proof@v1.
func getProof(r *request) error {
	e, end, err := r.one("prove")
	if err != nil {
		return err
	}
	text, err := r.proof(e.Index)
	if err == nil {
		err = r.send(http.StatusOK, "text/plain; charset=utf-8", text)
	}
	end(1, err)
	return err
}

// proof is the entry's inclusion proof under the newest checkpoint.
func (r *request) proof(index uint64) ([]byte, error) {
	if len(r.log.VerifierKeys()) == 0 {
		return nil, fault("conflict", "this log has no signatures, so there is no checkpoint to prove an entry against")
	}
	return r.log.Proof(r.Context(), index)
}

// receipt is everything that shows, without this server, that an entry is in the log. The keys in it prove nothing to whoever has
// them from here only.
type receipt struct {
	Index      uint64         `json:"index"`
	Line       string         `json:"line"` // the entry's exact bytes
	Leaf       immutable.Hash `json:"leaf"`
	Origin     string         `json:"origin"`
	Proof      string         `json:"proof"`      // c2sp.org/tlog-proof@v1
	Checkpoint string         `json:"checkpoint"` // the one in proof
	Cosigned   *string        `json:"cosigned"`   // the newest that satisfied the log's policy of witnesses
	Keys       []string       `json:"keys"`       // that the log began with
	Epochs     string         `json:"epochs"`     // what leads from them to those that signed
}

func getReceipt(r *request) error {
	e, end, err := r.one("prove")
	if err != nil {
		return err
	}
	out, err := r.receipt(&e)
	if err == nil {
		err = r.json(http.StatusOK, out)
	}
	end(1, err)
	return err
}

func (r *request) receipt(e *immutable.Entry) (*receipt, error) {
	text, err := r.proof(e.Index)
	if err != nil {
		return nil, err
	}
	p, err := proof.ParseInclusionProof(text)
	if err != nil {
		return nil, fmt.Errorf("read our own proof: %w", err)
	}
	out := &receipt{Index: e.Index, Line: string(e.Line), Leaf: e.Leaf, Origin: r.log.Origin(), Proof: string(text), Checkpoint: string(p.Checkpoint), Keys: r.log.VerifierKeys()}
	cosigned, err := r.log.Cosigned()
	if err == nil {
		note := string(cosigned)
		out.Cosigned = &note
	} else if !errors.Is(err, immutable.ErrNotFound) {
		return nil, err
	}
	epochs, err := r.log.KeyChain()
	if err != nil {
		return nil, err
	}
	out.Epochs = string(epochs)
	return out, nil
}

func getCheckpoint(r *request) error {
	note, err := r.log.Checkpoint()
	if err != nil {
		return err
	}
	return r.send(http.StatusOK, "text/plain; charset=utf-8", note)
}

const (
	defaultCheckpoints = 100
	maxCheckpoints     = 1000

	checkpointMemory = 16 << 10 // of one: its note of some 5 kB, and its JSON
)

// checkpoint is one of the history.
type checkpoint struct {
	Size uint64 `json:"size"`
	Root string `json:"root"` // base64
	Note string `json:"note"`
}

// listCheckpoints answers with those that the log keeps, oldest first, from a size on.
func listCheckpoints(r *request) error {
	from, err := r.number("from", 0, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	limit, err := r.number("limit", defaultCheckpoints, 1, maxCheckpoints)
	if err != nil {
		return err
	}
	give, err := r.takeMemory(min(int64(limit+1)*checkpointMemory, r.limits().Body))
	if err != nil {
		return err
	}
	defer give()
	notes, err := r.log.CheckpointsFrom(from, int(limit)+1)
	if err != nil {
		return err
	}
	out := struct {
		Checkpoints []checkpoint `json:"checkpoints"`
		Next        *uint64      `json:"next"` // from of the next page
	}{Checkpoints: []checkpoint{}}
	for _, note := range notes {
		text, _, _ := strings.Cut(string(note), "\n\n")
		c, err := proof.ParseCheckpoint(text + "\n")
		if err != nil {
			return fmt.Errorf("read a kept checkpoint: %w", err)
		}
		if uint64(len(out.Checkpoints)) == limit {
			out.Next = &c.Size
			break
		}
		out.Checkpoints = append(out.Checkpoints, checkpoint{c.Size, c.Root.Base64(), string(note)})
	}
	return r.json(http.StatusOK, out)
}

// getConsistency answers with the proof that the log of the first to entries begins with the log of the first from.
func getConsistency(r *request) error {
	size := r.log.Size()
	to, err := r.number("to", size, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	if !r.values.Has("from") {
		return fault("bad-parameter", "from: is missing; it is the smaller of the two sizes")
	}
	from, err := r.number("from", 0, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	if to > size || from > to {
		return fault("bad-parameter", fmt.Sprintf("from and to: want sizes, from at most to, and to at most the log's, %d", size))
	}
	out := struct {
		From     uint64   `json:"from"`
		To       uint64   `json:"to"`
		Hashes   []string `json:"hashes"` // base64, as in a proof
		RootFrom string   `json:"rootFrom"`
		RootTo   string   `json:"rootTo"`
	}{From: from, To: to, Hashes: []string{}}
	ctx := r.Context()
	if to > 0 { // to 0 would mean the whole log to the library
		hashes, err := r.log.ConsistencyProof(ctx, from, to)
		if err != nil {
			return err
		}
		for _, h := range hashes {
			out.Hashes = append(out.Hashes, h.Base64())
		}
	}
	rootFrom, err := r.log.RootAt(ctx, from)
	if err != nil {
		return err
	}
	rootTo, err := r.log.RootAt(ctx, to)
	if err != nil {
		return err
	}
	out.RootFrom, out.RootTo = rootFrom.Base64(), rootTo.Base64()
	return r.json(http.StatusOK, out)
}

// getKeys answers with what is needed to verify the log's checkpoints, for those who see to it that they have it from elsewhere too.
func getKeys(r *request) error {
	chain, err := r.log.KeyChain()
	if err != nil {
		return err
	}
	return r.json(http.StatusOK, struct {
		Origin  string   `json:"origin"`
		Keys    []string `json:"keys"` // that the log began with
		Epoch   uint64   `json:"epoch"`
		Current []string `json:"current"` // that sign now
		Chain   string   `json:"chain"`   // what leads from the first to the second
	}{r.log.Origin(), orEmpty(r.log.VerifierKeys()), r.log.Epoch(), orEmpty(r.log.CurrentKeys()), string(chain)})
}
