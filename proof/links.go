package proof

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

const (
	// MaxEpochs is the most links that [ParseEpochLinks] reads: an epoch a day for 179 years.
	MaxEpochs = 1 << 16
	// MaxEpochLink is the most bytes of one link. It is above what the largest entry and receipt take with every byte escaped.
	MaxEpochLink = 1 << 20

	linkPrefix = `{"epoch":`
	linkEntry  = `,"entry":`
	linkProof  = `,"proof":`
)

// An EpochLink is one line of the file `epochs`: what leads from one epoch's keys to the next.
type EpochLink struct {
	Number uint64 // of the epoch that begins
	Entry  []byte // the epoch entry's line, without its newline
	Proof  []byte // a receipt of it under the closing checkpoint of the epoch before, see [InclusionProof]
}

// Append appends the link's line, newline included.
func (l EpochLink) Append(dst []byte) []byte {
	dst = append(dst, linkPrefix...)
	dst = strconv.AppendUint(dst, l.Number, 10)
	dst = append(dst, linkEntry...)
	dst = appendJSON(dst, l.Entry)
	dst = append(dst, linkProof...)
	dst = appendJSON(dst, l.Proof)
	return append(dst, "}\n"...)
}

// appendJSON appends s as a string in the one spelling of docs/format.md, "Entry". Entries and receipts are valid UTF-8;
// what is not has no form, and ParseEpochLinks refuses the empty string that stands in its place.
func appendJSON(dst, s []byte) []byte {
	out, err := entry.AppendString(dst, string(s))
	if err != nil {
		return append(dst, `""`...)
	}
	return out
}

// ParseEpochLinks reads the file `epochs`: lines that [EpochLink.Append] writes, and nothing else. It proves nothing:
// that is [Chain.Add]. On an error it also returns the links before the bad line.
func ParseEpochLinks(data []byte) ([]EpochLink, error) {
	var links []EpochLink
	for len(data) > 0 {
		fail := func(format string, args ...any) ([]EpochLink, error) {
			return links, fmt.Errorf("chain of keys, line %d: %w", len(links)+1, fmt.Errorf(format, args...))
		}
		if len(links) == MaxEpochs {
			return fail("more than %d links", MaxEpochs)
		}
		n := bytes.IndexByte(data, '\n') + 1
		switch {
		case n == 0:
			return fail("it has no newline")
		case n > MaxEpochLink:
			return fail("%d bytes, at most %d are read", n, MaxEpochLink)
		}
		l, err := parseEpochLink(data[:n])
		if err != nil {
			return fail("%w", err)
		}
		links = append(links, l)
		data = data[n:]
	}
	return links, nil
}

func parseEpochLink(line []byte) (EpochLink, error) {
	// No string of the one spelling holds an unescaped quote, so the separators are where they first stand; that nothing
	// else differs is seen by writing the link again.
	rest, _ := strings.CutPrefix(string(line), linkPrefix)
	digits, rest, _ := strings.Cut(rest, linkEntry)
	first, rest, _ := strings.Cut(rest, linkProof)
	second, _ := strings.CutSuffix(rest, "}\n")
	var l EpochLink
	var err error
	if l.Number, err = parseSize(digits); err != nil || l.Number == 0 {
		return EpochLink{}, fmt.Errorf("number of an epoch %s: want at least 1", quote(digits))
	}
	for _, f := range []struct {
		to  *[]byte
		raw string
	}{{&l.Entry, first}, {&l.Proof, second}} {
		s, err := entry.Unquote([]byte(f.raw))
		if err != nil {
			return EpochLink{}, fmt.Errorf("string %s: %w", quote(f.raw), err)
		}
		if s == "" {
			return EpochLink{}, errors.New("the entry or the proof is empty")
		}
		*f.to = []byte(s)
	}
	if again := l.Append(nil); !bytes.Equal(again, line) {
		return EpochLink{}, fmt.Errorf("it is not spelled as a link is: want %s", quote(string(again)))
	}
	return l, nil
}
