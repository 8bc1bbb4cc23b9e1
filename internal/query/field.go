package query

import (
	"strconv"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/index"
)

// roots are the fields that every entry may have. In front of a dot, such a name is a member of metadata, except for
// metadata, producer and control themselves.
var roots = map[string]Root{
	"level": Level, "message": Message, "hostname": Hostname, "pid": PID, "id": ID, "index": Index, "traceId": TraceID, "spanId": SpanID,
	"eventTime": EventTime, "timestamp": Timestamp, "idempotencyKey": IdempotencyKey, "producer": Producer, "control": Control,
}

// The names of conditions that look like fields. They are roots only while a condition is read.
const (
	since Root = 0xfd + iota
	until
	exists
)

var pseudo = map[string]Root{"since": since, "until": until, "exists": exists}

// named is the field of these names. plain: the first has no quotes.
func (p *parser) named(names []string, plain bool, at int) (Field, error) {
	if !plain {
		return Field{Path: strings.Join(names, ".")}, nil
	}
	if len(names) == 1 {
		if r, ok := pseudo[names[0]]; ok {
			return Field{Root: r}, nil
		}
		if r, ok := roots[names[0]]; ok {
			return Field{Root: r}, nil
		}
		if names[0] == "metadata" {
			return Field{}, p.errorf(at, "metadata needs a member's name: metadata.NAME")
		}
	}
	rest := strings.Join(names[1:], ".")
	switch names[0] {
	case "metadata":
		return Field{Path: rest}, nil
	case "producer":
		return Field{Root: Producer, Path: rest}, nil
	case "control":
		return Field{Root: Control, Path: rest}, nil
	}
	return Field{Path: strings.Join(names, ".")}, nil
}

// fieldCondition reads what follows the colon of f, which stands at at.
func (p *parser) fieldCondition(f Field, at int) (Node, error) {
	if p.pos == len(p.text) || isSpace(p.text[p.pos]) || p.text[p.pos] == ')' {
		return nil, p.errorf(p.pos, `a value is missing after the colon (no space before it; "" is the empty text)`)
	}
	switch f.Root {
	case since, until:
		return p.bound(f.Root)
	case exists:
		return p.existence()
	}
	f.scalar()
	start := p.pos
	switch p.text[p.pos] {
	case '~':
		if err := p.textual(f, at); err != nil {
			return nil, err
		}
		return p.substring(&f)
	case '/':
		if err := p.textual(f, at); err != nil {
			return nil, err
		}
		return p.regexp(&f)
	case '>', '<', '=':
		return p.comparison(f)
	case '"':
		text, err := p.quoted()
		if err != nil {
			return nil, err
		}
		if f.Root == Message {
			return p.phrase(&f, text, start)
		}
		begin := p.peek("*")
		if begin {
			p.pos++
		}
		if err := p.ended("the value"); err != nil {
			return nil, err
		}
		return p.value(f, text, begin, start)
	}
	token, err := p.token()
	if err != nil {
		return nil, err
	}
	if n, err := p.interval(f, token, start); n != nil || err != nil {
		return n, err
	}
	if f.Root == Message {
		return p.star(&f, token, start)
	}
	text, begin, err := p.cutStar(token, start)
	if err != nil {
		return nil, err
	}
	if begin && text == "" {
		return nil, p.errorf(start, "write exists:FIELD for entries that have the field")
	}
	if text[0] == ':' {
		return nil, p.errorf(start, "a second colon; put the whole in quotes where the colons are part of the text")
	}
	return p.value(f, text, begin, start)
}

// scalar makes producer and control, which are objects, the member of them that people mean.
func (f *Field) scalar() {
	switch {
	case f.Root == Producer && f.Path == "":
		f.Path = "key"
	case f.Root == Control && f.Path == "":
		f.Path = "type"
	}
}

// kindOf is what the values of a field are, where that is fixed.
func kindOf(f Field) (isTime, isNumber bool) {
	switch f.Root {
	case Timestamp, EventTime:
		return true, false
	case PID, Index:
		return false, true
	}
	return false, false
}

func (p *parser) textual(f Field, at int) error {
	if isTime, isNumber := kindOf(f); isTime || isNumber {
		return p.errorf(at, "%s is no text: compare it, with = > >= < <= or a range a..b", f)
	}
	return nil
}

// value makes a condition of a whole value, or of its beginning.
func (p *parser) value(f Field, text string, begin bool, at int) (Node, error) {
	if isTime, isNumber := kindOf(f); isTime || isNumber {
		if begin {
			return nil, p.errorf(at, "%s is no text that begins with something; give a range a..b", f)
		}
		v, err := p.operand(f, text, at)
		if err != nil {
			return nil, err
		}
		return Compare{f, Eq, v}, nil
	}
	folded := index.Fold(text)
	if begin {
		if folded == "" {
			return nil, p.errorf(at, "every value begins with the empty text")
		}
		return Begins{f, folded}, nil
	}
	if f.Root == Level {
		if _, err := entry.ParseLevel(text); err != nil {
			return nil, p.errorf(at, "%s", strings.TrimPrefix(err.Error(), "level: "))
		}
	}
	return Equal{f, folded}, nil
}

// comparison reads an operator and its operand.
func (p *parser) comparison(f Field) (Node, error) {
	n := Compare{Field: f}
	for _, o := range []struct {
		text string
		op   Op
	}{{">=", Ge}, {"<=", Le}, {">", Gt}, {"<", Lt}, {"=", Eq}} {
		if p.peek(o.text) {
			n.Op = o.op
			p.pos += len(o.text)
			break
		}
	}
	text, at, err := p.argument("a number or a time")
	if err != nil {
		return nil, err
	}
	n.Operand, err = p.operand(f, text, at)
	return n, err
}

// argument reads a token or a quoted text.
func (p *parser) argument(what string) (text string, at int, err error) {
	if at = p.pos; p.peek(`"`) {
		if text, err = p.quoted(); err == nil {
			err = p.ended("the value")
		}
		return text, at, err
	}
	if text, err = p.token(); err == nil && text == "" {
		err = p.errorf(at, "%s is missing here", what)
	}
	return text, at, err
}

// interval makes a Range of a token such as 5..10. The node is nil where the token is none.
func (p *parser) interval(f Field, token string, at int) (Node, error) {
	a, b, found := strings.Cut(token, "..")
	if !found {
		return nil, nil
	}
	from, errA := p.operand(f, a, at)
	to, errB := p.operand(f, b, at+len(a)+2)
	isTime, isNumber := kindOf(f)
	switch {
	case errA != nil && errB != nil && !isTime && !isNumber:
		return nil, nil
	case a == "" || b == "":
		return nil, p.errorf(at, "a range a..b has two ends; write >= or <= for one")
	case errA != nil:
		return nil, errA
	case errB != nil:
		return nil, errB
	case from.IsTime != to.IsTime:
		return nil, p.errorf(at, "one end of this range is a number and the other a time")
	case from.IsTime && from.From.After(to.To), !from.IsTime && from.Number.Cmp(to.Number) > 0:
		return nil, p.errorf(at, "this range ends before it begins")
	}
	return Range{f, from, to}, nil
}

// operand reads a number or a time to compare f with.
func (p *parser) operand(f Field, text string, at int) (Operand, error) {
	isTime, isNumber := kindOf(f)
	if f.Root == Level {
		return Operand{}, p.errorf(at, "levels have no order; write level:error OR level:critical")
	}
	if d, ok := ParseDecimal(text); ok && !isTime {
		return Operand{Number: d, Text: text}, nil
	}
	if v, ok := p.moment(text); ok && !isNumber {
		return v, nil
	}
	switch {
	case isTime:
		return Operand{}, p.errorf(at, "%s", timeWant)
	case isNumber:
		return Operand{}, p.errorf(at, "%s is compared with a number", f)
	}
	return Operand{}, p.errorf(at, "want a number such as 5, -0.1 or 1e3, or a time: %s", strings.TrimPrefix(timeWant, "want "))
}

const timeWant = "want a date such as 2026-01-31, a time such as 2026-01-31T12:00:00Z, or one before now such as -15m, -24h, -7d or now"

// moment reads a date, a time or a time before now.
func (p *parser) moment(text string) (Operand, bool) {
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return Operand{IsTime: true, From: t, To: t.AddDate(0, 0, 1).Add(-1), Text: text}, true
	}
	if t, ok := ParseTime(text); ok {
		return Operand{IsTime: true, From: t, To: t, Text: t.Format(time.RFC3339Nano)}, true
	}
	ago, ok := relative(text)
	t := p.now.Add(-ago).UTC()
	return Operand{IsTime: true, From: t, To: t, Text: text}, ok
}

// ParseTime reads a time in RFC 3339 form, in UTC, of the years 0000 to 9999.
func ParseTime(s string) (time.Time, bool) {
	if len(s) < len("2006-01-02T15:04:05Z") || s[4] != '-' {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if t = t.UTC(); err != nil || t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}, false
	}
	return t, true
}

// units are those of relative times, each shorter than the one before.
var units = []struct {
	name byte
	d    time.Duration
}{{'w', 7 * 24 * time.Hour}, {'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}

// relative reads now, or a time before now such as -15m or -1d12h, of at most 200 years.
func relative(s string) (ago time.Duration, ok bool) {
	if s == "now" {
		return 0, true
	}
	rest, ok := strings.CutPrefix(s, "-")
	if !ok || rest == "" {
		return 0, false
	}
	const limit = 200 * 365 * 24 * time.Hour
	for u := 0; rest != ""; u++ {
		n := digits(rest)
		if n == 0 || n > 9 || n == len(rest) {
			return 0, false
		}
		for u < len(units) && units[u].name != rest[n] {
			u++
		}
		if u == len(units) {
			return 0, false
		}
		v, _ := strconv.ParseInt(rest[:n], 10, 64) // nine digits fit
		if time.Duration(v) > limit/units[u].d {
			return 0, false
		}
		if ago += time.Duration(v) * units[u].d; ago > limit {
			return 0, false
		}
		rest = rest[n+1:]
	}
	return ago, true
}

// bound reads the time of since: or until:.
func (p *parser) bound(which Root) (Node, error) {
	text, at, err := p.argument("a time")
	if err != nil {
		return nil, err
	}
	v, ok := p.moment(text)
	if !ok {
		return nil, p.errorf(at, "%s", timeWant)
	}
	if which == since {
		return Since{v}, nil
	}
	return Until{v}, nil
}

// existence reads the field of exists:.
func (p *parser) existence() (Node, error) {
	at := p.pos
	names, plain, err := p.names()
	if err != nil {
		return nil, err
	}
	if names == nil {
		return nil, p.errorf(at, "want a field's name (letters, digits, _ - @ $ and dots, not a digit first; others in quotes)")
	}
	if err := p.ended("the field's name"); err != nil {
		return nil, err
	}
	f, err := p.named(names, plain, at)
	if err == nil && f.Root >= since {
		err = p.errorf(at, "%s is no field; write metadata.%s for a member of that name", names[0], names[0])
	}
	return Exists{f}, err
}
