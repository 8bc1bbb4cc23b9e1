package entry

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The naive twins say the same as the package in the slowest and plainest way, on top of encoding/json.

// naiveObject returns raw without whitespace if the format allows it inside metadata.
func naiveObject(raw []byte) ([]byte, bool) {
	if !utf8.Valid(raw) || !json.Valid(raw) || bytes.TrimLeft(raw, " \t\r\n")[0] != '{' {
		return nil, false
	}
	var out bytes.Buffer
	if err := json.Compact(&out, raw); err != nil || out.Len() > MaxLine {
		return nil, false
	}
	if !naiveSurrogates(out.String()) || !naiveTokens(out.Bytes()) {
		return nil, false
	}
	return out.Bytes(), true
}

var escapes = regexp.MustCompile(`(?s)\\(?:u[0-9a-fA-F]{4}|.)`)

// naiveSurrogates reports whether each half of a surrogate pair has its other half.
func naiveSurrogates(text string) bool {
	open := -1 // where the second half must begin
	for _, m := range escapes.FindAllStringIndex(text, -1) {
		var r uint64
		if m[1]-m[0] == 6 {
			r, _ = strconv.ParseUint(text[m[0]+2:m[1]], 16, 32)
		}
		low := r >= 0xdc00 && r <= 0xdfff
		if low != (open == m[0]) || (open >= 0 && !low) {
			return false
		}
		open = -1
		if r >= 0xd800 && r <= 0xdbff {
			open = m[1]
		}
	}
	return open < 0
}

// naiveTokens checks depth, duplicate names and numbers.
func naiveTokens(raw []byte) bool {
	type container struct {
		names  map[string]bool
		isName bool
	}
	var stack []container
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return len(stack) == 0
		}
		top := len(stack) - 1
		switch token {
		case json.Delim('{'), json.Delim('['):
			c := container{}
			if token == json.Delim('{') {
				c.names, c.isName = map[string]bool{}, true
			}
			if stack = append(stack, c); len(stack) > MaxDepth {
				return false
			}
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:top]
			top--
		default:
			if top >= 0 && stack[top].isName {
				if stack[top].names[token.(string)] {
					return false
				}
				stack[top].names[token.(string)] = true
				stack[top].isName = false
				continue
			}
			if n, ok := token.(json.Number); ok && !naiveNumber(string(n)) {
				return false
			}
		}
		if top >= 0 && stack[top].names != nil {
			stack[top].isName = true
		}
	}
}

var integer = regexp.MustCompile(`^-?[0-9]{1,20}$`)

func naiveNumber(s string) bool {
	if integer.MatchString(s) {
		return true
	}
	mantissa, exp, _ := strings.Cut(strings.ToLower(s), "e")
	if strings.Trim(mantissa, "-0.") == "" {
		return true
	}
	// A line is too short to bring a larger exponent back into float64's range.
	if e, err := strconv.Atoi(exp); exp != "" && (err != nil || e > 70000 || e < -70000) {
		return false
	}
	want, ok := new(big.Rat).SetString(s)
	f, _ := want.Float64() // strconv.ParseFloat stops reading exponents at 10000
	if math.IsInf(f, 0) {
		return false
	}
	got, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	return ok && got.Cmp(want) == 0
}

func naiveQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case strings.ContainsRune("\b\t\n\f\r", r):
			b.WriteString(strings.Trim(strconv.Quote(string(r)), `"`))
		case r < 0x20 || r >= 0x7f && r <= 0x9f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

var (
	naiveOrder = []string{
		"id", "timestamp", "level", "message", "metadata", "hostname", "pid",
		"eventTime", "traceId", "spanId", "idempotencyKey", "producer", "blob", "encrypted", "log",
	}
	naiveID    = regexp.MustCompile(`^"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$`)
	naiveEvent = regexp.MustCompile(`^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z"$`)
	naivePID   = regexp.MustCompile(`^(0|[1-9]\d{0,9})$`)
	naiveProd  = regexp.MustCompile(`^\{"key":"[0-9a-f]{16}","counter":([1-9]\d{0,18}),"signature":"([A-Za-z0-9+/=]*)"\}$`)
	naiveHex   = regexp.MustCompile(`^"[0-9a-f]+"$`)
)

// naiveDecode reports whether line is an entry.
func naiveDecode(line []byte) bool {
	if len(line) > MaxLine || !utf8.Valid(line) || !json.Valid(line) || line[0] != '{' {
		return false
	}
	members := map[string]string{}
	var names []string
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return false
	}
	var rebuilt strings.Builder // finds whitespace and escapes in names
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return false
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return false
		}
		name := token.(string)
		names = append(names, name)
		members[name] = string(raw)
		rebuilt.WriteString(`,"` + name + `":` + string(raw))
	}
	if len(names) < 7 || "{"+rebuilt.String()[1:]+"}" != string(line) || !slices.Equal(names[:7], naiveOrder[:7]) {
		return false
	}
	at := 0
	for _, n := range names {
		for at < len(naiveOrder) && naiveOrder[at] != n {
			at++
		}
		if at == len(naiveOrder) {
			return false
		}
		at++
	}
	return naiveMembers(members)
}

func naiveMembers(members map[string]string) bool {
	stamp, err := time.Parse(`"2006-01-02T15:04:05.000000000Z"`, members["timestamp"])
	if err != nil || stamp.Format(`"2006-01-02T15:04:05.000000000Z"`) != members["timestamp"] || stamp.Year() < 1970 || stamp.Year() > 2261 {
		return false
	}
	id := strings.ReplaceAll(members["id"], "-", "")
	if !naiveID.MatchString(members["id"]) || id[1:13] != fmt.Sprintf("%012x", stamp.UnixMilli()) {
		return false
	}
	if pid, err := strconv.ParseUint(members["pid"], 10, 32); err != nil || !naivePID.MatchString(members["pid"]) || pid > 1<<32-1 {
		return false
	}
	level := strings.Trim(members["level"], `"`)
	if !slices.Contains(levelNames[:], level) || members["level"] != `"`+level+`"` {
		return false
	}
	for name, raw := range members {
		switch name {
		case "message", "hostname", "idempotencyKey":
			var s string
			if json.Unmarshal([]byte(raw), &s) != nil || naiveQuote(s) != raw {
				return false
			}
			if name == "hostname" && len(s) > 255 || name == "idempotencyKey" && (s == "" || len(s) > 256) {
				return false
			}
		case "producer":
			if !naiveSignature(raw) || members["blob"] != "" || members["encrypted"] != "" || members["log"] != "" {
				return false
			}
		case "metadata", "blob", "encrypted", "log":
			if out, ok := naiveObject([]byte(raw)); !ok || string(out) != raw {
				return false
			}
			if name == "log" && (level != "SYSTEM" || !strings.HasPrefix(raw, `{"type":"`)) {
				return false
			}
		case "eventTime":
			if _, err := time.Parse(`"2006-01-02T15:04:05.999999999Z"`, raw); err != nil || !naiveEvent.MatchString(raw) {
				return false
			}
		case "traceId", "spanId":
			if n := map[string]int{"traceId": 34, "spanId": 18}[name]; len(raw) != n || !naiveHex.MatchString(raw) || strings.Trim(raw, `"0`) == "" {
				return false
			}
		}
	}
	return true
}

// naiveSignature reports whether raw is a producer's signature.
func naiveSignature(raw string) bool {
	m := naiveProd.FindStringSubmatch(raw)
	if m == nil {
		return false
	}
	_, err := strconv.ParseInt(m[1], 10, 64)
	sig, bad := base64.StdEncoding.DecodeString(m[2])
	return err == nil && bad == nil && (len(sig) == 64 || len(sig) == 2420) && base64.StdEncoding.EncodeToString(sig) == m[2]
}

// naiveSigned is what a producer signs of a line, by the names of its members: a decoder that walks over the tokens tells
// where level begins and where producer does.
func naiveSigned(line []byte) string {
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return ""
	}
	from, to := 0, len(line)-1
	for at := d.InputOffset(); d.More(); at = d.InputOffset() {
		name, err := d.Token()
		var skipped json.RawMessage
		if err != nil || d.Decode(&skipped) != nil {
			return ""
		}
		switch name {
		case "level":
			from = int(at) + 1
		case "producer":
			to = int(at)
		}
	}
	return "{" + string(line[from:to]) + "}"
}
