// Package proof checks what a log claims: hashes, inclusion and consistency proofs, signed checkpoints and receipts.
// It is pure: it reads no file, no network and no clock, so that a verifier elsewhere can use it as it is.
package proof

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/bits"
	"strings"
)

// HashSize is the length of a [Hash] in bytes.
const HashSize = sha256.Size

// Hash is a SHA-256 value: a leaf, a node or a root of the tree (RFC 6962, section 2.1), or a link of the chain.
type Hash [HashSize]byte

// LeafHash returns the hash of an entry's line, which is given without its newline.
func LeafHash(line []byte) Hash {
	// Typical lines are a few hundred bytes: for them the copy to the stack saves the allocation of a digest.
	var buf [1024]byte
	if len(line) < len(buf) {
		return sha256.Sum256(append(append(buf[:0], 0x00), line...))
	}
	h := sha256.New()
	h.Write([]byte{0x00})
	h.Write(line)
	var out Hash
	h.Sum(out[:0])
	return out
}

// NodeHash returns the hash of an inner node.
func NodeHash(l, r Hash) Hash {
	return tagged(0x01, &l, &r)
}

// ChainHash returns chain(i) from prev = chain(i-1) and leaf = leaf(i). The chain before the first entry is the zero Hash.
func ChainHash(prev, leaf Hash) Hash {
	return tagged(0x02, &prev, &leaf)
}

func tagged(tag byte, a, b *Hash) Hash {
	var buf [1 + 2*HashSize]byte
	buf[0] = tag
	copy(buf[1:], a[:])
	copy(buf[1+HashSize:], b[:])
	return sha256.Sum256(buf[:])
}

// EmptyRoot returns the root of the tree without leaves: SHA-256 of nothing.
func EmptyRoot() Hash {
	return sha256.Sum256(nil)
}

// Root returns the Merkle tree hash of leaves. It is linear in their number; a log that grows uses a frontier instead.
func Root(leaves []Hash) Hash {
	if len(leaves) == 0 {
		return EmptyRoot()
	}
	// peaks[l] is the root of a perfect subtree of 2^l leaves, valid if bit l of the number of leaves seen so far is set.
	var peaks [64]Hash
	for i, h := range leaves {
		l := 0
		for ; uint64(i)>>l&1 == 1; l++ {
			h = NodeHash(peaks[l], h)
		}
		peaks[l] = h
	}
	n := uint64(len(leaves))
	l := bits.TrailingZeros64(n)
	root := peaks[l]
	for l++; l < 64; l++ {
		if n>>l&1 == 1 {
			root = NodeHash(peaks[l], root)
		}
	}
	return root
}

// String returns h in lower-case hex, the form of the chain and of block hashes.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText gives the hash in lower-case hex, as String does, so that JSON shows it so.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (h *Hash) UnmarshalText(text []byte) error {
	v, err := ParseHex(string(text))
	if err != nil {
		return err
	}
	*h = v
	return nil
}

// Base64 returns h in standard base64 with padding, the form of roots and proofs.
func (h Hash) Base64() string { return base64.StdEncoding.EncodeToString(h[:]) }

// ParseHash reads the form of [Hash.Base64] and no other: 44 characters, unused bits zero.
func ParseHash(s string) (Hash, error) {
	b, err := decodeBase64(s)
	if err != nil || len(b) != HashSize {
		return Hash{}, fmt.Errorf("parse hash %s: want 44 characters of standard base64 of %d bytes", quote(s), HashSize)
	}
	return Hash(b), nil
}

// ParseHex reads the form of [Hash.String] and no other: 64 lower-case hex digits.
func ParseHex(s string) (Hash, error) {
	var h Hash
	if len(s) == 2*HashSize {
		if _, err := hex.Decode(h[:], []byte(s)); err == nil && h.String() == s {
			return h, nil
		}
	}
	return Hash{}, fmt.Errorf("parse hash %s: want %d lower-case hex digits", quote(s), 2*HashSize)
}

// decodeBase64 decodes the one canonical standard encoding. Package base64 alone would skip line breaks and, when not
// strict, ignore set bits behind the last byte; both would give one value many spellings.
func decodeBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, err
	}
	if base64.StdEncoding.EncodeToString(b) != s {
		return nil, fmt.Errorf("base64 is not in its canonical form")
	}
	return b, nil
}

// quote makes input from elsewhere safe and short enough for an error message.
func quote(s string) string {
	const most = 80
	if strings.Contains(s, "PRIVATE+KEY+") || strings.Contains(s, "PRODUCER+KEY+") {
		return "(a private key, which is not shown; the verifier key of it is wanted)"
	}
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}
