package capture

import (
	"log/slog"
	"slices"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/capture/internal/meta"
)

// writer writes the metadata of a record as JSON at once, which costs less than a builder's maps. It does so only where it surely
// writes what a builder would: attributes of plain types, with names that do not come again. Else it gives up.
type writer struct {
	redact *Redaction
	o      *meta.Object

	names [maxPlain]string // in the objects that are open
	count int
	base  int // the first of the innermost object
}

// Limits of what a writer writes.
const (
	maxPlain   = 24      // names of one record, of groups too
	maxExact   = 1 << 53 // up to which all integers are JSON numbers
	leastFloat = 1e-6    // between which floats are written without an exponent
	mostFloat  = 1e21
)

// scopes is builder.scopes, and says whether everything was written.
func (w *writer) scopes(with []scope, record *slog.Record) bool {
	opened := 0
	for i, s := range with {
		empty := record.NumAttrs() == 0
		for _, inner := range with[i:] {
			empty = empty && len(inner.attrs) == 0
		}
		if empty {
			break
		}
		if s.name != "" {
			if !w.name(s.name) {
				return false
			}
			w.o.Begin(s.name)
			w.base = w.count
			opened++
		}
		for _, a := range s.attrs {
			if !w.attr(a) {
				return false
			}
		}
	}
	written := true
	record.Attrs(func(a slog.Attr) bool {
		written = w.attr(a)
		return written
	})
	for range opened {
		w.o.Close()
	}
	return written
}

// name says whether a name stands for the first time in its object, and is written as it is.
func (w *writer) name(name string) bool {
	if w.count == maxPlain || len(name) > maxName || !utf8.ValidString(name) {
		return false
	}
	if slices.Contains(w.names[w.base:w.count], name) {
		return false
	}
	w.names[w.count] = name
	w.count++
	return true
}

func (w *writer) attr(a slog.Attr) bool {
	if a.Key == "" || !w.name(a.Key) {
		return false
	}
	if w.redact.Secret(a.Key) {
		if k := a.Value.Kind(); k == slog.KindAny || k == slog.KindLogValuer {
			return false // perhaps an empty one
		}
		w.o.PutText(a.Key, Redacted)
		return true
	}
	switch a.Value.Kind() {
	case slog.KindString:
		w.o.PutText(a.Key, Text(a.Value.String(), maxValue))
	case slog.KindBool:
		w.o.PutBool(a.Key, a.Value.Bool())
	case slog.KindDuration:
		w.o.PutText(a.Key, a.Value.Duration().String())
	case slog.KindInt64:
		n := a.Value.Int64()
		if n < -maxExact || n > maxExact {
			return false
		}
		w.o.PutInt(a.Key, n)
	case slog.KindUint64:
		n := a.Value.Uint64()
		if n > maxExact {
			return false
		}
		w.o.PutInt(a.Key, int64(n))
	case slog.KindFloat64:
		return w.float(a.Key, a.Value.Float64())
	case slog.KindGroup:
		return w.group(a.Key, a.Value.Group())
	default:
		return false
	}
	return true
}

func (w *writer) float(name string, f float64) bool {
	if size := max(f, -f); !(size >= leastFloat && size < mostFloat) {
		return false
	}
	w.o.PutFloat(name, f)
	return true
}

// group writes a group in its object; a group that has nothing is left out by the builder.
func (w *writer) group(name string, attrs []slog.Attr) bool {
	if len(attrs) == 0 {
		return false
	}
	outer := w.base
	w.o.Begin(name)
	w.base = w.count
	for _, a := range attrs {
		if !w.attr(a) {
			return false
		}
	}
	w.o.Close()
	w.count, w.base = w.base, outer // its names may come again behind it
	return true
}
