package proof

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

const (
	proofHeader = "c2sp.org/tlog-proof@v1\n"
	// MaxProofHashes is the most hashes an inclusion proof can have for sizes up to [MaxSize].
	MaxProofHashes = 63
	// MaxExtra is the most bytes of extra data in a receipt that are read.
	MaxExtra = 64 << 10
)

// An InclusionProof is a receipt that stands alone: together with the entry's line and the log's key it shows, offline,
// that the log committed to the entry. Its text form is C2SP tlog-proof.
type InclusionProof struct {
	Index      uint64
	Hashes     []Hash // the leaf's sibling first
	Checkpoint []byte // the note, verbatim
	Extra      []byte // for applications; nothing authenticates it; nil: there is no such line
}

// MarshalText returns the tlog-proof form. It refuses what [ParseInclusionProof] would.
func (p InclusionProof) MarshalText() ([]byte, error) {
	var b strings.Builder
	b.WriteString(proofHeader)
	if p.Extra != nil {
		b.WriteString("extra " + base64.StdEncoding.EncodeToString(p.Extra) + "\n")
	}
	b.WriteString("index " + strconv.FormatUint(p.Index, 10) + "\n")
	for _, h := range p.Hashes {
		b.WriteString(h.Base64() + "\n")
	}
	b.WriteString("\n")
	b.Write(p.Checkpoint)
	if _, err := ParseInclusionProof([]byte(b.String())); err != nil {
		return nil, fmt.Errorf("encode inclusion proof: %w", err)
	}
	return []byte(b.String()), nil
}

// ParseInclusionProof reads the tlog-proof form in its one spelling. The checkpoint in it has the shape of a signed or
// unsigned checkpoint note but is not verified: that is [InclusionProof.Verify].
func ParseInclusionProof(data []byte) (*InclusionProof, error) {
	p, err := parseInclusionProof(string(data))
	if err != nil {
		return nil, fmt.Errorf("parse inclusion proof: %w", err)
	}
	return p, nil
}

func parseInclusionProof(s string) (*InclusionProof, error) {
	if most := len(proofHeader) + 2*MaxExtra + 45*MaxProofHashes + MaxNote; len(s) > most {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(s), most)
	}
	rest, found := strings.CutPrefix(s, proofHeader)
	if !found {
		return nil, fmt.Errorf("first line is not %q", strings.TrimSpace(proofHeader))
	}
	head, checkpoint, found := strings.Cut(rest, "\n\n")
	if !found {
		return nil, fmt.Errorf("no empty line before the checkpoint")
	}
	lines := strings.Split(head, "\n")
	p := &InclusionProof{Checkpoint: []byte(checkpoint)}
	var err error
	if b64, found := strings.CutPrefix(lines[0], "extra "); found {
		if p.Extra, err = decodeBase64(b64); err != nil {
			return nil, fmt.Errorf("extra: %w", err)
		}
		if len(p.Extra) > MaxExtra {
			return nil, fmt.Errorf("extra has %d bytes, at most %d are read", len(p.Extra), MaxExtra)
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return nil, fmt.Errorf("no index line")
	}
	if p.Index, err = parseSize(strings.TrimPrefix(lines[0], "index ")); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	lines = lines[1:]
	if len(lines) > MaxProofHashes {
		return nil, fmt.Errorf("%d hashes, at most %d can be right", len(lines), MaxProofHashes)
	}
	for i, line := range lines {
		h, err := ParseHash(line)
		if err != nil {
			return nil, fmt.Errorf("hash %d: %w", i, err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	if err := checkCheckpointShape(p.Checkpoint); err != nil {
		return nil, err
	}
	return p, nil
}

// checkCheckpointShape returns nil if note could be a checkpoint, signed or not.
func checkCheckpointShape(data []byte) error {
	text, err := unsignedText(data)
	if err != nil {
		n, err := ParseNote(data)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		text = n.Text
	}
	if _, err := ParseCheckpoint(text); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// Verify returns the checkpoint exactly if it opens under origin and keys, see [OpenCheckpoint], and the entry, its line
// without the newline, stands at Index under the checkpoint's root.
//
// One good signature by any of keys is enough here, as for other programs of the transparency field. The log key of a log with
// epochs proves nothing by itself: to hold a checkpoint to the keys of its epoch, open it with [Chain.Open] and use [CheckInclusion].
func (p InclusionProof) Verify(entryLine []byte, origin string, keys []Key) (Checkpoint, error) {
	c, err := OpenCheckpoint(p.Checkpoint, origin, keys)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("verify inclusion proof: %w", err)
	}
	if err := CheckInclusion(p.Hashes, p.Index, c.Size, LeafHash(entryLine), c.Root); err != nil {
		return Checkpoint{}, fmt.Errorf("verify inclusion proof of entry %d: %w", p.Index, err)
	}
	return c, nil
}
