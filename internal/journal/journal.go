// Package journal reads systemd's Journal Export Format, in which journalctl -o export writes and systemd-journal-upload sends:
// entries of fields, each "NAME=value" in a line or, where the value holds bytes that are no plain text, the name in a line, the
// length in eight bytes and the value. An empty line ends an entry. Pure.
package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of one entry.
const (
	MaxEntry  = 1 << 20 // bytes; a longer one comes in pieces
	MaxFields = 1024    // what journald itself takes
	maxName   = 64      // bytes of a field's name, as journald has it
)

// Field is one field. Value refers to the entry's bytes.
type Field struct {
	Name  string
	Value []byte
}

// cursor begins every entry that systemd writes. Behind an empty line it is where reading goes on after what is no entry: within a
// value such bytes cannot be told from it, and what follows is then kept as pieces that are no entries either.
var cursor = []byte("\n\n__CURSOR=")

// Next says how many bytes the first entry takes, with the empty line behind it; 0 where more bytes are needed, which with last
// are none, and are never more than MaxEntry + 16 in all. What is no entry is cut off before the next one, or in pieces of
// MaxEntry bytes: Fields says what is wrong with it.
func Next(b []byte, last bool) int {
	n, err := scan(b, nil)
	switch {
	case err == nil && n <= MaxEntry:
		return n
	case errors.Is(err, errMore) && last:
		return len(b)
	case errors.Is(err, errMore) && len(b) < MaxEntry+len(cursor):
		return 0
	}
	window := b[:min(len(b), MaxEntry+len(cursor))]
	if at := bytes.Index(window, cursor); at >= 0 {
		return at + 2
	}
	switch {
	case len(b) >= MaxEntry+len(cursor):
		return MaxEntry
	case last:
		return len(b)
	}
	return 0
}

// Fields are those of one entry as Next cuts it. The last empty line may be missing.
func Fields(entry []byte) ([]Field, error) {
	if len(entry) > MaxEntry {
		return nil, fmt.Errorf("journal: the entry is longer than %d bytes", MaxEntry)
	}
	var fields []Field
	n, err := scan(entry, func(name, value []byte) error {
		if !validName(name) {
			return fmt.Errorf("journal: %q is no name of a field: want up to %d of A-Z, 0-9 and _", name[:min(len(name), maxName)], maxName)
		}
		if len(fields) == MaxFields {
			return fmt.Errorf("journal: the entry has more than %d fields", MaxFields)
		}
		fields = append(fields, Field{string(name), value})
		return nil
	})
	switch {
	case errors.Is(err, errMore) && n == len(entry): // it ends behind a field
		err = nil
	case errors.Is(err, errMore):
		err = errors.New("journal: the entry ends within a field")
	case err == nil && n < len(entry):
		err = errors.New("journal: there are bytes behind the entry")
	}
	if err == nil && len(fields) == 0 {
		err = errors.New("journal: an entry without fields")
	}
	return fields, err
}

// errMore says that the bytes end before the entry does.
var errMore = errors.New("journal: the entry goes on")

// scan goes through the fields of the first entry to behind its empty line. With an error, n is where the field begins that it is
// about; empty lines in front belong to the entry.
func scan(b []byte, visit func(name, value []byte) error) (n int, err error) {
	for n < len(b) && b[n] == '\n' {
		n++
	}
	for {
		if n == len(b) {
			return n, errMore
		}
		end := bytes.IndexByte(b[n:], '\n')
		if end == 0 {
			return n + 1, nil
		}
		if end < 0 {
			return n, errMore
		}
		name, value, text := bytes.Cut(b[n:n+end], []byte("="))
		next := n + end + 1
		if !text {
			if value, next, err = binaryValue(b, name, next); err != nil {
				return n, err
			}
		}
		if visit != nil {
			if err := visit(name, value); err != nil {
				return n, err
			}
		}
		n = next
	}
}

// binaryValue reads the length at b[p:], the value and the newline behind it.
func binaryValue(b, name []byte, p int) (value []byte, next int, err error) {
	if !validName(name) {
		return nil, 0, fmt.Errorf("journal: %q is neither NAME=value nor the name of a field", name[:min(len(name), maxName)])
	}
	if len(b)-p < 8 {
		return nil, 0, errMore
	}
	size := binary.LittleEndian.Uint64(b[p:])
	if size > MaxEntry {
		return nil, 0, fmt.Errorf("journal: the field %s has %d bytes; an entry has at most %d", name, size, MaxEntry)
	}
	p += 8
	if next = p + int(size); len(b) <= next {
		return nil, 0, errMore
	}
	if b[next] != '\n' {
		return nil, 0, fmt.Errorf("journal: no newline behind the %d bytes of the field %s", size, name)
	}
	return b[p:next], next + 1, nil
}

func validName(name []byte) bool {
	if len(name) == 0 || len(name) > maxName || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for _, c := range name {
		if c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
