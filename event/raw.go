package event

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// The names under which metadata keeps the bytes that an event was made of. Either the whole, as one of the first two, or what
// identifies it and how it begins.
const (
	KeyRaw       = "raw"       // valid UTF-8, as it came
	KeyRaw64     = "raw64"     // base64 of bytes that are not valid UTF-8
	KeyRawSHA256 = "rawSha256" // hex, where the whole has no place in the entry
	KeyRawBytes  = "rawBytes"  // how many there were
	KeyRawHead   = "rawHead"   // the first of them, at most RawHead, with U+FFFD for what is not UTF-8
)

const (
	// RawHead is how many bytes of what does not fit are kept.
	RawHead = 16 << 10
	// RawLimit is what Raw takes for 0: room for the bytes that leaves a quarter of an entry to everything else.
	RawLimit = 48 << 10
)

// Raw puts the bytes that an event was made of into its metadata, whole if they take at most limit bytes as JSON (0 is RawLimit),
// else as digest, length and head. It reports whether they are whole. See Keep for the limit that is exact.
func Raw(f immutable.Fields, raw []byte, limit int) (whole bool) {
	if limit <= 0 {
		limit = RawLimit
	}
	for _, k := range [...]string{KeyRaw, KeyRaw64, KeyRawSHA256, KeyRawBytes, KeyRawHead} {
		delete(f, k)
	}
	if utf8.Valid(raw) {
		if jsonBytes(raw) <= limit {
			f[KeyRaw] = string(raw)
			return true
		}
	} else if base64.StdEncoding.EncodedLen(len(raw)) <= limit {
		f[KeyRaw64] = base64.StdEncoding.EncodeToString(raw)
		return true
	}
	digest := sha256.Sum256(raw)
	f[KeyRawSHA256], f[KeyRawBytes] = hex.EncodeToString(digest[:]), len(raw)
	if head := head(raw, min(limit, RawHead)); head != "" {
		f[KeyRawHead] = head
	}
	return false
}

// head is how raw begins, in at most n bytes of valid UTF-8 that take at most n bytes as JSON.
func head(raw []byte, n int) string {
	var out []byte
	for size := 0; len(raw) > 0; {
		r, width := utf8.DecodeRune(raw)
		if size += jsonBytes(raw[:width]); r == utf8.RuneError {
			size += utf8.UTFMax // more than U+FFFD takes
		}
		if size > n {
			break
		}
		out, raw = utf8.AppendRune(out, r), raw[width:]
	}
	return string(out)
}

// jsonBytes is what valid UTF-8 takes within the quotes of an entry's JSON: entry.AppendString escapes what is below U+00A0 and
// is a control character, a quote or a backslash.
func jsonBytes(raw []byte) int {
	n := len(raw)
	for i, b := range raw {
		switch {
		case b == '"' || b == '\\' || b >= '\b' && b <= '\r' && b != '\v':
			n++
		case b < ' ' || b == 0x7f:
			n += 5
		case b == 0xc2 && i+1 < len(raw) && raw[i+1] < 0xa0:
			n += 4
		}
	}
	return n
}

// Keep puts the bytes that an event was made of into its metadata, whole if the entry then takes no more than
// immutable.MaxEntryBytes, else as digest, length and as much of the head as fits. It reports whether they are whole. The error
// is the log's own where the event does not fit without them either, or is one that the format refuses.
func Keep(e *immutable.Event, raw []byte) (whole bool, err error) {
	if e.RawMetadata != nil {
		return false, errors.New("keep the raw bytes of an event: its metadata is raw JSON already; give it as Fields")
	}
	if e.Metadata == nil {
		e.Metadata = make(immutable.Fields, 1)
	}
	line := make([]byte, 0, min(2*len(raw), immutable.MaxEntryBytes)+1024)
	for limit := immutable.MaxEntryBytes; limit > 0; limit /= 4 {
		whole = Raw(e.Metadata, raw, limit)
		if _, err = entry.Append(line, e); err == nil {
			return whole, nil
		}
	}
	delete(e.Metadata, KeyRawHead)
	if _, err = entry.Append(line, e); err != nil {
		err = fmt.Errorf("keep the raw bytes of an event: %w", err)
	}
	return false, err
}
