package proof

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// MaxOrigin is the most bytes an origin may have.
	MaxOrigin = 255
	// MaxSize is the largest tree size that is accepted; it keeps sizes and indexes inside an int64 everywhere, as other implementations need.
	MaxSize = 1<<63 - 1
	// reservedOrigin begins texts of ours that are signed but are no checkpoints, such as seals; no origin may look like one.
	reservedOrigin = "immutable/"
)

// ErrOrigin is in the chain of errors about a checkpoint or a signature of another log than the expected one.
var ErrOrigin = errors.New("other origin")

// A Checkpoint is what a log commits to: its name, how many entries it has, and the root of the tree over them.
// Its text form is the C2SP tlog-checkpoint without extension lines.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   Hash
}

// Text returns the three lines that are signed.
func (c Checkpoint) Text() string {
	return c.Origin + "\n" + strconv.FormatUint(c.Size, 10) + "\n" + c.Root.Base64() + "\n"
}

// ParseCheckpoint reads exactly what [Checkpoint.Text] writes: an origin that [CheckOrigin] accepts, a decimal size of at
// most [MaxSize], a root in strict base64, each ended by a newline, and nothing else. The root of size 0 is [EmptyRoot].
func ParseCheckpoint(text string) (Checkpoint, error) {
	// The longest text there is: a size of 19 digits, a root of 44 characters, three newlines.
	if len(text) > MaxOrigin+19+44+3 {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %d bytes are too many", len(text))
	}
	lines := strings.SplitAfterN(text, "\n", 4)
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("parse checkpoint %s: want exactly three lines: origin, size, root", quote(text))
	}
	var c Checkpoint
	var err error
	c.Origin = strings.TrimSuffix(lines[0], "\n")
	if err = CheckOrigin(c.Origin); err != nil {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w", err)
	}
	if c.Size, err = parseSize(strings.TrimSuffix(lines[1], "\n")); err != nil {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w", err)
	}
	if c.Root, err = ParseHash(strings.TrimSuffix(lines[2], "\n")); err != nil {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w", err)
	}
	if c.Size == 0 && c.Root != EmptyRoot() {
		return Checkpoint{}, fmt.Errorf("parse checkpoint: %w", &MismatchError{"root of size 0", EmptyRoot(), c.Root})
	}
	return c, nil
}

// CheckOrigin returns nil if s can be the origin of a log: 1 to [MaxOrigin] bytes of printable ASCII without space, plus,
// double quote and backslash, and not beginning with "immutable/".
func CheckOrigin(s string) error {
	if len(s) == 0 || len(s) > MaxOrigin {
		return fmt.Errorf("origin has %d bytes, want 1 to %d", len(s), MaxOrigin)
	}
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' || c == '+' {
			return fmt.Errorf("origin %s: byte %d is %q: use printable ASCII without space, plus, quote and backslash", quote(s), i, c)
		}
	}
	if strings.HasPrefix(s, reservedOrigin) {
		return fmt.Errorf("origin %s begins with %q, which is reserved", quote(s), reservedOrigin)
	}
	return nil
}

// parseSize reads a decimal number of at most MaxSize in its one spelling.
func parseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("number %s: want decimal digits without sign and leading zero, at most %d", quote(s), uint64(MaxSize))
	}
	return n, nil
}

// OpenCheckpoint verifies a checkpoint note and returns what it says. The checkpoint must be of the given origin and
// carry a good signature by one of keys whose name is that origin and whose type is a log's; signatures by other keys add nothing here, but a bad
// one by any of keys rejects the note. Without keys the log is an unsigned one: data must be the text and an empty line,
// nothing is proven by it, and a signed note is refused.
func OpenCheckpoint(data []byte, origin string, keys []Key) (Checkpoint, error) {
	text, err := checkpointText(data, origin, keys)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %w", quote(origin), err)
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %w", quote(origin), err)
	}
	if c.Origin != origin {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %w: %s", quote(origin), ErrOrigin, quote(c.Origin))
	}
	return c, nil
}

func checkpointText(data []byte, origin string, keys []Key) (string, error) {
	if len(keys) == 0 {
		return unsignedText(data)
	}
	n, err := ParseNote(data)
	if err != nil {
		return "", err
	}
	good, err := n.Verify(keys)
	if err != nil {
		return "", err
	}
	for _, s := range good {
		if s.Key.name == origin && s.Key.signsForLog() {
			return n.Text, nil
		}
	}
	return "", fmt.Errorf("%w by a key of the log's name", ErrNoSignature)
}

// unsignedText returns the text of a note of a log without keys: the text and an empty line only.
func unsignedText(data []byte) (string, error) {
	if len(data) > MaxNote {
		return "", fmt.Errorf("%w: %d bytes, at most %d are read", ErrMalformedNote, len(data), MaxNote)
	}
	text, found := bytes.CutSuffix(data, []byte("\n\n"))
	if !found || len(text) == 0 {
		return "", fmt.Errorf("%w: an unsigned note is its text and one empty line", ErrMalformedNote)
	}
	return string(data[:len(data)-1]), nil
}

// SplitNotes cuts a history of checkpoints into its notes, verbatim and in order: each is followed by one more empty line.
// Each note is three lines, an empty line and at most [MaxSignatures] signature lines. It checks this shape only; open each with
// [OpenCheckpoint]. On an error, a *[HistoryError], it also returns the notes before the bad place. The results alias history.
func SplitNotes(history []byte) ([][]byte, error) {
	var notes [][]byte
	for off := 0; off < len(history); {
		n, reason := noteLength(history[off:])
		if reason != "" {
			return notes, &HistoryError{Offset: int64(off), Note: len(notes), Reason: reason}
		}
		notes = append(notes, history[off:off+n:off+n])
		off += n + 1
	}
	return notes, nil
}

// A HistoryError says where a history of checkpoints stops being one: everything before Offset is whole notes.
type HistoryError struct {
	Offset int64 // in bytes, where the note begins
	Note   int   // its number, from zero
	Reason string
}

func (e *HistoryError) Error() string {
	return fmt.Sprintf("history of checkpoints: note %d at offset %d %s", e.Note, e.Offset, e.Reason)
}

// noteLength returns the length of the note that data begins with, without the empty line behind it.
func noteLength(data []byte) (n int, reason string) {
	line := func() ([]byte, bool) {
		i := bytes.IndexByte(data[n:], '\n')
		if i < 0 {
			return nil, false
		}
		l := data[n : n+i]
		n += i + 1
		return l, true
	}
	for range 3 {
		if l, ok := line(); !ok || len(l) == 0 {
			return 0, "does not begin with three lines of text"
		}
	}
	if l, ok := line(); !ok || len(l) != 0 {
		return 0, "has no empty line after the text"
	}
	for sigs := 0; ; sigs++ {
		end := n
		l, ok := line()
		switch {
		case !ok:
			return 0, "has no empty line after it"
		case end > MaxNote:
			return 0, fmt.Sprintf("is longer than %d bytes", MaxNote)
		case len(l) == 0:
			return end, ""
		case !bytes.HasPrefix(l, []byte(sigPrefix)):
			return 0, "has a line that is no signature after the text"
		case sigs == MaxSignatures:
			return 0, fmt.Sprintf("has more than %d signatures", MaxSignatures)
		}
	}
}
