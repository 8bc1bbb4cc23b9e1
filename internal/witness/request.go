package witness

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable/proof"
)

const (
	// maxProofLines is the most hashes that an add-checkpoint request may carry (C2SP tlog-witness).
	maxProofLines = 63
	// MaxRequest bounds the body of an add-checkpoint request: the old size, the proof, and a note.
	MaxRequest = 32 + maxProofLines*45 + proof.MaxNote
)

// A Request is the body of add-checkpoint: the size that the witness is thought to have, the consistency proof from there,
// and the checkpoint to cosign.
type Request struct {
	Old   uint64
	Proof []proof.Hash
	Note  []byte // verbatim; not checked here
}

// Append appends the request's one encoding to dst.
func (r *Request) Append(dst []byte) []byte {
	dst = append(dst, "old "...)
	dst = strconv.AppendUint(dst, r.Old, 10)
	dst = append(dst, '\n')
	for _, h := range r.Proof {
		dst = append(dst, h.Base64()...)
		dst = append(dst, '\n')
	}
	dst = append(dst, '\n')
	return append(dst, r.Note...)
}

// ParseRequest reads exactly what [Request.Append] writes. The note aliases body.
func ParseRequest(body []byte) (*Request, error) {
	if len(body) > MaxRequest {
		return nil, fmt.Errorf("request has more than %d bytes", MaxRequest)
	}
	head, note, found := bytes.Cut(body, []byte("\n\n"))
	if !found || len(note) == 0 {
		return nil, errors.New("want `old <size>`, proof lines, an empty line and a checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	size, found := strings.CutPrefix(lines[0], "old ")
	if !found {
		return nil, errors.New("the first line does not begin with `old `")
	}
	r := &Request{Note: note}
	var err error
	if r.Old, err = parseSize(size); err != nil {
		return nil, fmt.Errorf("old size: %w", err)
	}
	if len(lines)-1 > maxProofLines {
		return nil, fmt.Errorf("%d proof lines, at most %d are allowed", len(lines)-1, maxProofLines)
	}
	for i, line := range lines[1:] {
		h, err := proof.ParseHash(line)
		if err != nil {
			return nil, fmt.Errorf("proof line %d: %w", i, err)
		}
		r.Proof = append(r.Proof, h)
	}
	return r, nil
}

// parseSize reads a size in its one spelling.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%.40q is no decimal number of at most 2^63 - 1 without leading zeros", s)
	}
	return n, nil
}
