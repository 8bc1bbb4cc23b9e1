package index

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable/proof"
)

const (
	sealMagic       = "immutable/seal/1" // of a segment without a search index
	searchSealMagic = "immutable/seal/2"
)

// A Seal names the files of a sealed segment by length and SHA-256. Its text is what the log signs.
type Seal struct {
	Origin               string
	First, End           uint64 // entries First … End-1: whole groups
	Archive, Index       [sha256.Size]byte
	ArchiveLen, IndexLen int64

	// Of the search index, and of its table of page digests. A seal of version 1 has none: SearchLen is 0.
	Search, Table [sha256.Size]byte
	SearchLen     int64
}

// Text is the text of the note: five lines, and a sixth where there is a search index.
func (s Seal) Text() string {
	if s.SearchLen > 0 {
		return fmt.Sprintf("%s\n%s\n%d %d\n%x %d\n%x %d\n%x %d %x\n", searchSealMagic, s.Origin, s.First, s.End,
			s.Archive, s.ArchiveLen, s.Index, s.IndexLen, s.Search, s.SearchLen, s.Table)
	}
	return fmt.Sprintf("%s\n%s\n%d %d\n%x %d\n%x %d\n", sealMagic, s.Origin, s.First, s.End, s.Archive, s.ArchiveLen, s.Index, s.IndexLen)
}

// ParseSeal is the inverse of Text. It accepts nothing that Text would not write for a segment that can exist.
func ParseSeal(text string) (Seal, error) {
	s, err := parseSeal(text)
	if err != nil {
		return Seal{}, fmt.Errorf("parse seal: %w", err)
	}
	return s, nil
}

func parseSeal(text string) (s Seal, err error) {
	lines := strings.Split(text, "\n")
	switch last := len(lines) - 1; {
	case lines[0] != sealMagic && lines[0] != searchSealMagic:
		return s, fmt.Errorf("line 1: got %s, want %s or %s", quote(lines[0]), sealMagic, searchSealMagic)
	case lines[last] != "" || lines[0] == sealMagic && last != 5 || lines[0] == searchSealMagic && last != 6:
		return s, fmt.Errorf("%d newlines, want five lines of version 1 or six of version 2", last)
	}
	if err := proof.CheckOrigin(lines[1]); err != nil {
		return s, fmt.Errorf("line 2: %w", err)
	}
	s.Origin = lines[1]
	first, end, _ := strings.Cut(lines[2], " ")
	if s.First, err = parseNumber(first); err != nil {
		return s, fmt.Errorf("line 3: %w", err)
	}
	if s.End, err = parseNumber(end); err != nil {
		return s, fmt.Errorf("line 3: %w", err)
	}
	if s.First%GroupSize != 0 || s.End%GroupSize != 0 || s.First >= s.End || s.End-s.First > maxGroups*GroupSize {
		return s, fmt.Errorf("line 3: entries %d to %d, want 1 to %d groups of %d", s.First, s.End, maxGroups, GroupSize)
	}
	if s.Archive, s.ArchiveLen, err = parseFile(lines[3]); err != nil {
		return s, fmt.Errorf("line 4: %w", err)
	}
	if s.Index, s.IndexLen, err = parseFile(lines[4]); err != nil {
		return s, fmt.Errorf("line 5: %w", err)
	}
	if lines[0] == searchSealMagic {
		i := strings.LastIndexByte(lines[5], ' ')
		if s.Search, s.SearchLen, err = parseFile(lines[5][:max(i, 0)]); err == nil {
			s.Table, err = parseHash(lines[5][i+1:])
		}
		if err != nil {
			return s, fmt.Errorf("line 6: %w", err)
		}
	}
	return s, nil
}

func parseHash(digits string) (h [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(h) || hex.EncodeToString(b) != digits {
		return h, fmt.Errorf("got %s, want 64 lower-case hex digits", quote(digits))
	}
	return [sha256.Size]byte(b), nil
}

// parseFile reads a file's hash and length.
func parseFile(line string) (h [sha256.Size]byte, n int64, err error) {
	digits, length, _ := strings.Cut(line, " ")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(h) || hex.EncodeToString(b) != digits {
		return h, 0, fmt.Errorf("got %s, want 64 lower-case hex digits, a space and a length", quote(line))
	}
	v, err := parseNumber(length)
	if err == nil && v == 0 {
		err = fmt.Errorf("length 0")
	}
	return [sha256.Size]byte(b), int64(v), err
}

// parseNumber reads a number up to proof.MaxSize, which fits int64, in its one spelling.
func parseNumber(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > proof.MaxSize || strconv.FormatUint(v, 10) != s {
		return 0, fmt.Errorf("got %s, want a decimal number below 2^63 without leading zeros", quote(s))
	}
	return v, nil
}

// quote makes hostile text short and safe to print.
func quote(s string) string {
	if len(s) > 100 {
		return strconv.QuoteToASCII(s[:100]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
