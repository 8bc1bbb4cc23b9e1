package intake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// foreignLevel maps the names that other systems use.
func foreignLevel(name string) (entry.Level, bool) {
	if l, err := entry.ParseLevel(name); err == nil {
		return l, true
	}
	switch strings.ToLower(name) {
	case "trace", "debug", "notice", "information", "informational":
		return entry.Info, true
	case "warning":
		return entry.Warn, true
	case "err":
		return entry.Error, true
	case "crit", "fatal", "alert", "emerg", "emergency", "panic":
		return entry.Critical, true
	}
	return 0, false
}

// foreignTime reads RFC 3339 and Unix times in seconds, milliseconds, microseconds or nanoseconds, as number or string.
func foreignTime(raw []byte) (time.Time, bool) {
	s := string(raw)
	if len(raw) > 0 && raw[0] == '"' {
		s = text(raw)
	}
	if t, err := ParseTime(s); err == nil {
		return t, true
	}
	return unixTime(s)
}

// ParseTime reads RFC 3339, also with a space between date and time.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			if t = t.UTC(); t.Year() >= 0 && t.Year() <= 9999 && !t.IsZero() {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time such as 2026-01-02T15:04:05.678Z", s)
}

// unixTime tells the unit by the number's size: each holds the years 1973 to 2286.
func unixTime(s string) (time.Time, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if len(whole) < 9 || len(fraction) > 9 {
		return time.Time{}, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, false
	}
	unit := int64(time.Second)
	for limit := int64(1e10); unit > 1 && n >= limit; limit *= 1000 {
		unit /= 1000
	}
	if n > (1<<63-1)/unit {
		return time.Time{}, false
	}
	nano := n * unit
	if fraction != "" {
		part, err := strconv.ParseUint(fraction, 10, 64)
		if err != nil {
			return time.Time{}, false
		}
		scale := uint64(1)
		for range len(fraction) {
			scale *= 10
		}
		nano += int64(part * uint64(unit) / scale)
	}
	return time.Unix(0, nano).UTC(), true
}

// Pairs makes a JSON object of arguments: key=value is a string, key:=json any JSON value. The order stays.
func Pairs(args []string) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, arg := range args {
		at := strings.IndexByte(arg, '=')
		if at < 1 || arg[:at] == ":" {
			return nil, fmt.Errorf("argument %q: want key=value, or key:=json", arg)
		}
		key, value := arg[:at], arg[at+1:]
		raw, isJSON := strings.CutSuffix(key, ":")
		if isJSON {
			key = raw
		}
		name, err := entry.AppendString(nil, key)
		if err != nil {
			return nil, fmt.Errorf("argument %q: key: %w", arg, err)
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(name)
		out.WriteByte(':')
		if isJSON {
			if !json.Valid([]byte(value)) {
				return nil, fmt.Errorf("argument %q: the value is not JSON; for a string write %s=…", arg, key)
			}
			out.WriteString(value)
			continue
		}
		text, err := entry.AppendString(nil, value)
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", arg, err)
		}
		out.Write(text)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}
