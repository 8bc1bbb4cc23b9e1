package entry

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// Line is a decoded line. Its slices point into the line. Strings keep their JSON spelling with quotes (Unquote gives the
// value), objects their braces; times and hex values are without quotes. Optional members that are absent are nil.
type Line struct {
	ID        [36]byte // as spelled
	Index32   uint32   // the entry's index mod 2^32, from ID
	Session   uint64   // the writer session's 42 bits, from ID
	Time      int64    // timestamp in Unix nanoseconds, 0 to MaxTime
	Timestamp []byte   // as spelled, 30 bytes
	Level     Level
	Message   []byte
	Metadata  []byte
	Hostname  []byte
	PID       uint32

	EventTime      []byte
	TraceID        []byte
	SpanID         []byte
	IdempotencyKey []byte
	Producer       []byte
	Blob           []byte
	Encrypted      []byte
	Log            []byte

	// What AppendContent joins.
	content, optional []byte
	// What a producer signs, without its braces.
	signed []byte
}

// Decode reads a line, without its newline, strictly: it accepts exactly what a writer of this format can make, and
// does not allocate. On error, always a *FieldError whose offset is in the line, l is of no use. Decode cannot know the
// entry's index; its caller compares Index32.
func Decode(line []byte, l *Line) error {
	if err := decode(line, l); err != nil {
		return err
	}
	return nil
}

func decode(line []byte, l *Line) *FieldError {
	if len(line) > MaxLine {
		return fault("", -1, fmt.Sprintf("a line of %d bytes; at most %d", len(line), MaxLine))
	}
	if len(line) < minLine {
		return fault("", -1, fmt.Sprintf("a line of %d bytes; an entry has at least %d", len(line), minLine))
	}
	*l = Line{}
	if err := decodeHead(line, l); err != nil {
		return err
	}
	p := timeStart + 30
	if !hasAt(line, p, `","level":"`) {
		return missing(line, p, `","level":"`)
	}
	from := timeStart + 32
	if l.Level, p = scanLevel(line, levelText); l.Level >= NumLevels {
		return fault("level", p, "no level's name")
	}
	if !hasAt(line, p, `,"message":`) {
		return missing(line, p, `,"message":`)
	}
	p += len(`,"message":`)
	end, _, err := canonical(line, p)
	if err != nil {
		return err.under("message")
	}
	l.Message = line[p:end:end]
	if p = end; !hasAt(line, p, `,"metadata":`) {
		return missing(line, p, `,"metadata":`)
	}
	p += len(`,"metadata":`)
	s := scanner{src: line}
	if l.Metadata, p, err = s.member(p); err != nil {
		return err.under("metadata")
	}
	l.content = line[from:p:p]
	if !hasAt(line, p, `,"hostname":`) {
		return missing(line, p, `,"hostname":`)
	}
	p += len(`,"hostname":`)
	end, size, err := canonical(line, p)
	if err != nil {
		return err.under("hostname")
	}
	if size > MaxHostname {
		return fault("hostname", p, fmt.Sprintf("%d bytes; at most %d", size, MaxHostname))
	}
	l.Hostname = line[p:end:end]
	if p = end; !hasAt(line, p, `,"pid":`) {
		return missing(line, p, `,"pid":`)
	}
	p += len(`,"pid":`)
	if l.PID, end = pidAt(line, p); end == 0 {
		return fault("pid", p, "want a number from 0 to 4294967295 without leading zeros")
	}
	p = end
	if p < len(line) && line[p] == ',' {
		if p, err = decodeOptional(line, p, l, &s); err != nil {
			return err
		}
	}
	if p >= len(line) || line[p] != '}' {
		return fault("", p, "want the end of the object, or the next optional member in its order")
	}
	if l.signed == nil {
		l.signed = line[levelText-len(`"level":"`) : p : p]
	}
	if p+1 != len(line) {
		return fault("", p+1, "bytes after the object")
	}
	return nil
}

// decodeHead reads id and timestamp and compares them with each other.
func decodeHead(line []byte, l *Line) *FieldError {
	if !hasAt(line, 0, head[:idStart]) {
		return missing(line, 0, head[:idStart])
	}
	id := line[idStart : idStart+36]
	copy(l.ID[:], id)
	milli, session, index, bad := parseID(id)
	if bad >= 0 {
		return fault("id", idStart+bad, "want a UUIDv7 in lower case: version 7, variant 10")
	}
	l.Session, l.Index32 = session, index
	if between := head[idStart+36 : timeStart]; !hasAt(line, idStart+36, between) {
		return missing(line, idStart+36, between)
	}
	var ok bool
	if l.Time, ok = scanTime(line[timeStart:]); !ok {
		return fault("timestamp", timeStart, timeWant)
	}
	if uint64(l.Time)/1e6 != milli {
		return fault("id", idStart, fmt.Sprintf("has millisecond %d; the timestamp has %d", milli, uint64(l.Time)/1e6))
	}
	l.Timestamp = line[timeStart : timeStart+30 : timeStart+30]
	return nil
}

// decodeOptional reads the optional members from the comma at p on, in the order of the format.
func decodeOptional(line []byte, p int, l *Line, s *scanner) (int, *FieldError) {
	from := p
	if hasAt(line, p, `,"eventTime":"`) {
		p += len(`,"eventTime":"`)
		n := eventTimeAt(line[p:])
		if n == 0 || !hasAt(line, p+n, `"`) {
			return p, fault("eventTime", p, eventTimeWant)
		}
		l.EventTime = line[p : p+n : p+n]
		p += n + 1
	}
	var err *FieldError
	if hasAt(line, p, `,"traceId":"`) {
		p += len(`,"traceId":"`)
		if l.TraceID, p, err = hexMember(line, p, 32); err != nil {
			return p, err.under("traceId")
		}
	}
	if hasAt(line, p, `,"spanId":"`) {
		p += len(`,"spanId":"`)
		if l.SpanID, p, err = hexMember(line, p, 16); err != nil {
			return p, err.under("spanId")
		}
	}
	l.optional = line[from:p:p]
	if hasAt(line, p, `,"idempotencyKey":`) {
		p += len(`,"idempotencyKey":`)
		end, size, err := canonical(line, p)
		if err != nil {
			return p, err.under("idempotencyKey")
		}
		if size < 1 || size > MaxKey {
			return p, fault("idempotencyKey", p, fmt.Sprintf("%d bytes; want 1 to %d", size, MaxKey))
		}
		l.IdempotencyKey = line[p:end:end]
		p = end
	}
	if p < len(line) && line[p] == ',' {
		return decodeObjects(line, p, l, s)
	}
	return p, nil
}

// decodeObjects reads the optional objects.
func decodeObjects(line []byte, p int, l *Line, s *scanner) (int, *FieldError) {
	var err *FieldError
	if hasAt(line, p, `,"producer":`) {
		l.signed = line[levelText-len(`"level":"`) : p : p]
		if p, err = decodeProducer(line, p+len(`,"producer":`), l); err != nil {
			return p, err.under("producer")
		}
		return p, nil // nothing follows a producer's signature
	}
	if hasAt(line, p, `,"blob":`) {
		if l.Blob, p, err = s.member(p + len(`,"blob":`)); err != nil {
			return p, err.under("blob")
		}
	}
	if hasAt(line, p, `,"encrypted":`) {
		if l.Encrypted, p, err = s.member(p + len(`,"encrypted":`)); err != nil {
			return p, err.under("encrypted")
		}
	}
	if hasAt(line, p, `,"log":`) {
		p += len(`,"log":`)
		from := p
		if l.Log, p, err = s.member(p); err != nil {
			return p, err.under("log")
		}
		if !isControl(l.Log) {
			return p, fault("log", from, controlWant)
		}
		if l.Level != System {
			return p, fault("log", from, "a control entry has level SYSTEM, not "+l.Level.String())
		}
	}
	return p, nil
}

// member scans the object at p.
func (s *scanner) member(p int) ([]byte, int, *FieldError) {
	if p >= len(s.src) || s.src[p] != '{' {
		return nil, p, s.unexpected(p, "an object")
	}
	end, err := s.object(p, 1)
	if err != nil {
		return nil, p, err
	}
	return s.src[p:end:end], end, nil
}

// hexMember reads n hex digits and a closing quote.
func hexMember(line []byte, p, n int) ([]byte, int, *FieldError) {
	if p+n >= len(line) || line[p+n] != '"' {
		return nil, p, fault("", p, fmt.Sprintf("want %d lower-case hex digits", n))
	}
	if at, msg := badHex(line[p:p+n], n); msg != "" {
		return nil, p, fault("", p+at, msg)
	}
	return line[p : p+n : p+n], p + n + 1, nil
}

// pidAt reads a number of 32 bits; end is 0 if there is none.
func pidAt(line []byte, p int) (pid uint32, end int) {
	v, from := uint64(0), p
	for p < len(line) && p < from+10 && line[p]-'0' <= 9 {
		v = v*10 + uint64(line[p]-'0')
		p++
	}
	if p == from || v > math.MaxUint32 || (line[from] == '0' && p > from+1) {
		return 0, 0
	}
	return uint32(v), p
}

func missing(line []byte, p int, want string) *FieldError {
	for i := 0; i < len(want) && p < len(line) && line[p] == want[i]; i++ {
		p++
	}
	return fault("", p, "want "+want+" at this place; the members have one order and no whitespace")
}

// parseID reads a UUIDv7. bad is -1, or the offset of a character that cannot stand there.
func parseID(id []byte) (milli, session uint64, index uint32, bad int) {
	_ = id[35]
	a, okA := unhex(binary.LittleEndian.Uint64(id))
	b, okB := unhex(uint64(binary.LittleEndian.Uint32(id[9:])) | uint64(binary.LittleEndian.Uint32(id[14:]))<<32)
	c, okC := unhex(uint64(binary.LittleEndian.Uint32(id[19:])) | uint64(binary.LittleEndian.Uint32(id[24:]))<<32)
	d, okD := unhex(binary.LittleEndian.Uint64(id[28:]))
	hyphens := id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-'
	if !okA || !okB || !okC || !okD || !hyphens || b>>12&15 != 7 || c>>30 != 2 {
		return 0, 0, 0, badID(id)
	}
	// 42 bits of session: 12 in rand_a, 30 in the upper part of rand_b; the rest of rand_b is the index.
	return uint64(a)<<16 | uint64(b>>16), uint64(b&0xfff)<<30 | uint64(c&(1<<30-1)), d, -1
}

// badID finds the first character that no id has at its place.
func badID(id []byte) int {
	const form = "xxxxxxxx-xxxx-7xxx-vxxx-xxxxxxxxxxxx"
	for i, c := range id {
		switch f := form[i]; {
		case f == 'x' && lowerHex[c] < 16, f == 'v' && lowerHex[c]>>2 == 2, f == c && f != 'x' && f != 'v':
		default:
			return i
		}
	}
	return 0
}

// Patch writes id and timestamp into a line that Append made. session's low 42 bits are used. It panics outside 0 to
// MaxTime, like FormatTime.
func Patch(line []byte, index uint64, unixNano int64, session uint64) {
	_ = line[len(head)-1]
	putTime((*[30]byte)(line[timeStart:]), unixNano)
	milli := uint64(unixNano) / 1e6
	session &= 1<<42 - 1
	// 42 bits of session, then 32 of index: 12 bits in rand_a, 62 in rand_b.
	randA := session >> 30
	randB := (session&(1<<30-1))<<32 | index&math.MaxUint32
	id := line[idStart : idStart+36]
	a := hexText(uint32(milli >> 16))
	b := hexText(uint32(milli&0xffff)<<16 | 0x7000 | uint32(randA))
	c := hexText(uint32(1<<31 | randB>>32))
	d := hexText(uint32(randB))
	binary.LittleEndian.PutUint64(id, a)
	id[8] = '-'
	binary.LittleEndian.PutUint32(id[9:], uint32(b))
	id[13] = '-'
	binary.LittleEndian.PutUint32(id[14:], uint32(b>>32))
	id[18] = '-'
	binary.LittleEndian.PutUint32(id[19:], uint32(c))
	id[23] = '-'
	binary.LittleEndian.PutUint32(id[24:], uint32(c>>32))
	binary.LittleEndian.PutUint64(id[28:], d)
}

// AppendContent appends what a repeat under the same idempotency key must equal: level, message, metadata, eventTime,
// traceId and spanId. It is equal for two lines if and only if all six have the same spelling.
func (l *Line) AppendContent(dst []byte) []byte {
	dst = append(dst, l.content...)
	return append(dst, l.optional...)
}

// SameContent reports whether l and o have equal content.
func (l *Line) SameContent(o *Line) bool {
	return string(l.content) == string(o.content) && string(l.optional) == string(o.optional)
}

// Content is AppendContent of a line, patched or not; nil if it is none.
func Content(line []byte) []byte {
	var l Line
	if decode(line, &l) != nil {
		return nil
	}
	return l.AppendContent(nil)
}

// Event returns what the source said. Append and Patch of it give the line again, unless the line has members that no
// version 1 writer emits, or an eventTime of 0001-01-01T00:00:00Z, which Event cannot tell from an absent one.
// RawMetadata and Log point into the line.
func (l *Line) Event() (*Event, error) {
	e := &Event{Level: l.Level, RawMetadata: l.Metadata, PID: l.PID, TraceID: string(l.TraceID), SpanID: string(l.SpanID), Log: l.Log}
	if p, ok := l.Signature(); ok {
		e.Producer = &p
	}
	var err error
	if e.Message, err = Unquote(l.Message); err != nil {
		return nil, err
	}
	if e.Hostname, err = Unquote(l.Hostname); err != nil {
		return nil, err
	}
	if l.EventTime != nil {
		if e.EventTime, err = ParseEventTime(l.EventTime); err != nil {
			return nil, err
		}
	}
	if l.IdempotencyKey != nil {
		if e.IdempotencyKey, err = Unquote(l.IdempotencyKey); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// EventNano is eventTime in Unix nanoseconds, clamped to int64; ok is false if the entry has none.
func (l *Line) EventNano() (ns int64, ok bool) {
	if l.EventTime == nil {
		return 0, false
	}
	t, err := ParseEventTime(l.EventTime)
	if err != nil {
		return 0, false
	}
	switch s := t.Unix(); {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64, true
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64, true
	default:
		return s*1e9 + int64(t.Nanosecond()), true
	}
}
