package sqlcapture

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Dialect says how a database writes strings and names.
type Dialect int

const (
	// Unknown takes everything in quotes of any kind for a value.
	Unknown Dialect = iota
	// Postgres has names in double quotes, and values in $tag$…$tag$ and E'…'.
	Postgres
	// MySQL has names in backquotes, values in both other quotes, and backslashes in them.
	MySQL
	// SQLite has names in double quotes, backquotes and brackets. What is meant as a value and stands in double quotes is taken for a name.
	SQLite
)

// maxMasked is how much of a statement is looked at.
const maxMasked = 32 << 10

// Mask is a statement with "?" for each literal in it, and without comments. Where it cannot tell what belongs to a literal, it leaves out the
// rest of the statement: a "…" stands there. Masking a masked statement changes nothing.
func Mask(statement string, d Dialect) string {
	s := statement
	if len(s) > maxMasked {
		return Mask(s[:maxMasked], d) + "…"
	}
	var out strings.Builder
	out.Grow(len(s))
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\'':
			n := quoted(s[i:], c, escapes(s[:i], d))
			if n == 0 {
				return out.String() + "…"
			}
			dropPrefix(&out)
			i += n
			out.WriteByte('?')
		case c == '"' && d != Postgres && d != SQLite:
			n := quoted(s[i:], c, escapes("", d))
			if n == 0 {
				return out.String() + "…"
			}
			i += n
			out.WriteByte('?')
		case c == '"' || c == '`' && (d == MySQL || d == SQLite):
			n := quoted(s[i:], c, plainQuotes)
			if n == 0 {
				return out.String() + "…"
			}
			out.WriteString(s[i : i+n])
			i += n
		case c == '`', c == '#' && d != Postgres, c == '\\':
			return out.String() + "…"
		case c == '[' && d == SQLite:
			n := strings.IndexByte(s[i:], ']')
			if n < 0 {
				return out.String() + "…"
			}
			out.WriteString(s[i : i+n+1])
			i += n + 1
		case c == '$' && d != MySQL && (i == 0 || !wordByte(s[i-1])):
			n, ok := dollar(s[i:])
			if !ok {
				return out.String() + "…"
			}
			if n == 0 {
				out.WriteByte(c)
				i++
				continue
			}
			i += n
			out.WriteByte('?')
		case strings.HasPrefix(s[i:], "--"):
			if d == MySQL && i+2 < len(s) && s[i+2] > ' ' || d == Unknown {
				return out.String() + "…" // two minus signs in one, a comment in another
			}
			end := strings.IndexByte(s[i:], '\n')
			if end < 0 {
				return out.String()
			}
			i += end
		case strings.HasPrefix(s[i:], "/*"):
			n := comment(s[i:], d)
			if n == 0 {
				return out.String() + "…"
			}
			i += n
			out.WriteByte(' ')
		case '0' <= c && c <= '9':
			n := numberEnd(s[i:])
			if i > 0 && (s[i-1] == '$' || s[i-1] == '?' || s[i-1] == ':' || s[i-1] == '@') {
				out.WriteString(s[i : i+n]) // a parameter's place
			} else {
				out.WriteByte('?')
			}
			i += n
		case wordByte(c):
			n := 1
			for i+n < len(s) && (wordByte(s[i+n]) || s[i+n] == '$') {
				n++
			}
			out.WriteString(s[i : i+n])
			i += n
		default:
			out.WriteByte(c)
			i++
		}
	}
	return out.String()
}

// escaping says what a backslash in quotes is.
type escaping int

const (
	plainQuotes escaping = iota // itself
	backslashes                 // makes the next character part of the string
	nobodyKnows
)

// escapes says it for the string that begins after before.
func escapes(before string, d Dialect) escaping {
	prefix := byte(0)
	if n := len(before); n > 0 && (n == 1 || !wordByte(before[n-2])) {
		prefix = before[n-1] | 0x20
	}
	switch {
	case d == Postgres && prefix == 'e':
		return backslashes
	case d == SQLite:
		return plainQuotes
	}
	return nobodyKnows // standard_conforming_strings and NO_BACKSLASH_ESCAPES are settings
}

// quoted is the length of the quoted text at the beginning of s, 0 where its end cannot be told. A quote in it is doubled.
func quoted(s string, q byte, e escaping) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && e == nobodyKnows:
			return 0
		case s[i] == '\\' && e == backslashes:
			i++
		case s[i] == q && i+1 < len(s) && s[i+1] == q:
			i++
		case s[i] == q:
			return i + 1
		}
	}
	return 0
}

// dropPrefix takes the E, B, X or N of a string that became "?".
func dropPrefix(out *strings.Builder) {
	s := out.String()
	n := len(s)
	if n > 0 && strings.IndexByte("eEbBxXnN", s[n-1]) >= 0 && (n == 1 || !wordByte(s[n-2])) {
		out.Reset()
		out.WriteString(s[:n-1])
	}
}

// dollar is the length of the $tag$…$tag$ at the beginning of s; 0 where there is none, false where it has no end.
func dollar(s string) (int, bool) {
	end := 1
	for end < len(s) && wordByte(s[end]) {
		end++
	}
	if end >= len(s) || s[end] != '$' || end > 1 && '0' <= s[1] && s[1] <= '9' {
		return 0, true
	}
	tag := s[:end+1]
	n := strings.Index(s[len(tag):], tag)
	if n < 0 {
		return 0, false
	}
	return n + 2*len(tag), true
}

// comment is the length of the comment at the beginning of s, 0 where it cannot be told: some databases nest them, and MySQL runs what is
// in some.
func comment(s string, d Dialect) int {
	if strings.HasPrefix(s, "/*!") || strings.HasPrefix(s, "/*M!") || strings.HasPrefix(s, "/*+") && d == Unknown {
		return 0
	}
	end := strings.Index(s[2:], "*/")
	if end < 0 {
		return 0
	}
	if strings.Contains(s[2:2+end], "/*") && d != MySQL && d != SQLite {
		return 0
	}
	return end + 4
}

// numberEnd is the length of the number at the beginning of s: digits, letters of hexadecimal and exponents, points.
func numberEnd(s string) int {
	n := 1
	for n < len(s) && (wordByte(s[n]) || s[n] == '.' || (s[n] == '-' || s[n] == '+') && s[n-1]|0x20 == 'e' && n+1 < len(s) && '0' <= s[n+1] && s[n+1] <= '9') {
		n++
	}
	return n
}

func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' || c >= utf8.RuneSelf
}

// sqlState is the code of an error, where the driver has one: five letters or digits.
func sqlState(err error) (string, bool) {
	var with interface{ SQLState() string }
	if errors.As(err, &with) {
		return with.SQLState(), true
	}
	return "", false
}

// plain says that an error's text is a constant.
func plain(err error) bool {
	return slices.Contains([]error{
		context.Canceled, context.DeadlineExceeded, driver.ErrBadConn, sql.ErrConnDone, sql.ErrTxDone, sql.ErrNoRows, io.EOF, io.ErrUnexpectedEOF, errNamed, errIsolation, errReadOnly,
	}, err)
}
