package entry

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
)

// Limits of the member producer. They are part of the format; never change.
const (
	MaxCounter       = math.MaxInt64 // counters begin with 1
	Ed25519Signature = 64            // bytes of a signature
	MLDSA44Signature = 2420
)

// Producer is a source's signature of its event (docs/format.md, "Producers"). The log carries it; whether it is good is
// the verifier's question, who knows the source's key.
type Producer struct {
	Key       string // the key's id: 16 lower-case hex digits
	Counter   uint64 // 1 to MaxCounter, without gaps
	Signature []byte // 64 bytes of Ed25519 or 2,420 of ML-DSA-44
}

// ProducerMessage appends what a producer signs. content is SignedContent of the entry's line.
func ProducerMessage(dst []byte, origin, key string, counter uint64, content []byte) []byte {
	dst = append(dst, "immutable/producer/1\n"...)
	dst = append(append(dst, origin...), '\n')
	dst = append(append(dst, key...), '\n')
	dst = append(appendUint(dst, counter), '\n')
	return append(dst, content...)
}

// SignedContent is what a producer signs of a line, patched or not: what the source said, and neither the log's id nor its
// timestamp. The line may have the member producer or be without it. It is nil for what is no line, and for a line with
// members that a signed entry cannot have.
func SignedContent(line []byte) []byte {
	var l Line
	if decode(line, &l) != nil {
		return nil
	}
	return l.AppendSigned(nil)
}

// AppendSigned is SignedContent of a decoded line.
func (l *Line) AppendSigned(dst []byte) []byte {
	if l.Blob != nil || l.Encrypted != nil || l.Log != nil {
		return dst
	}
	return append(append(append(dst, '{'), l.signed...), '}')
}

// Signature reads the member producer; ok is false where the line has none.
func (l *Line) Signature() (p Producer, ok bool) {
	if l.Producer == nil {
		return Producer{}, false
	}
	p.Key = string(l.Producer[producerKey : producerKey+16])
	at := producerKey + len(`0123456789abcdef","counter":`)
	p.Counter, at = counterAt(l.Producer, at)
	b64 := l.Producer[at+len(`,"signature":"`) : len(l.Producer)-len(`"}`)]
	p.Signature = make([]byte, base64.StdEncoding.DecodedLen(len(b64)))
	n, err := base64.StdEncoding.Strict().Decode(p.Signature, b64)
	if err != nil {
		return Producer{}, false // Decode has checked it: l is not what Decode made
	}
	p.Signature = p.Signature[:n]
	return p, true
}

// producerKey is where the key's id begins in the member.
const producerKey = len(`{"key":"`)

// AppendProducer appends the member to a line without the brace that ends it. On error dst is returned as it was.
func AppendProducer(dst []byte, p *Producer) ([]byte, error) {
	out, err := appendProducer(append(dst, `,"producer":`...), p)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// appendProducer appends the member's value.
func appendProducer(dst []byte, p *Producer) ([]byte, *FieldError) {
	if id, err := hex.DecodeString(p.Key); err != nil || hex.EncodeToString(id) != p.Key || len(id) != 8 {
		return dst, fault("producer.key", -1, "want 16 lower-case hex digits: the id of the producer's key")
	}
	if p.Counter < 1 || p.Counter > MaxCounter {
		return dst, fault("producer.counter", -1, fmt.Sprintf("%d; want 1 to %d", p.Counter, uint64(MaxCounter)))
	}
	if n := len(p.Signature); n != Ed25519Signature && n != MLDSA44Signature {
		return dst, fault("producer.signature", -1, fmt.Sprintf("%d bytes; %s", n, signatureWant))
	}
	dst = append(append(append(dst, `{"key":"`...), p.Key...), `","counter":`...)
	dst = append(appendUint(dst, p.Counter), `,"signature":"`...)
	return append(base64.StdEncoding.AppendEncode(dst, p.Signature), `"}`...), nil
}

const signatureWant = "want 64 (Ed25519) or 2420 (ML-DSA-44)"

// decodeProducer reads the member's value at p, in its one spelling.
func decodeProducer(line []byte, p int, l *Line) (int, *FieldError) {
	from := p
	if !hasAt(line, p, `{"key":"`) {
		return p, missing(line, p, `{"key":"`)
	}
	p += producerKey
	for i := range 16 {
		if p+i >= len(line) || lowerHex[line[p+i]] > 15 {
			return p, fault("key", p+i, "want 16 lower-case hex digits")
		}
	}
	if p += 16; !hasAt(line, p, `","counter":`) {
		return p, missing(line, p, `","counter":`)
	}
	p += len(`","counter":`)
	_, end := counterAt(line, p)
	if end == 0 {
		return p, fault("counter", p, fmt.Sprintf("want a number from 1 to %d without leading zeros", uint64(MaxCounter)))
	}
	if p = end; !hasAt(line, p, `,"signature":"`) {
		return p, missing(line, p, `,"signature":"`)
	}
	p += len(`,"signature":"`)
	n := bytes.IndexByte(line[p:], '"')
	if n < 0 {
		return p, fault("signature", p, "the string does not end")
	}
	if err := checkSignature(line[p : p+n]); err != nil {
		err.Offset += p
		return p, err.under("signature")
	}
	if p += n + 1; p >= len(line) || line[p] != '}' {
		return p, fault("", p, "want the end of the object")
	}
	l.Producer = line[from : p+1 : p+1]
	return p + 1, nil
}

// checkSignature says whether b64 is the one base64 spelling of as many bytes as a signature has.
func checkSignature(b64 []byte) *FieldError {
	var buf [MLDSA44Signature + 3]byte
	if n := len(b64); n != base64.StdEncoding.EncodedLen(Ed25519Signature) && n != base64.StdEncoding.EncodedLen(MLDSA44Signature) {
		return fault("", 0, fmt.Sprintf("%d characters of base64; %s bytes", n, signatureWant))
	}
	n, err := base64.StdEncoding.Strict().Decode(buf[:], b64)
	// Decode passes over newlines, so the length is looked at again: 88 characters with newlines hold less than 64 bytes.
	if err != nil || n != Ed25519Signature && n != MLDSA44Signature {
		return fault("", 0, "want base64 with padding, whose unused bits are zero")
	}
	return nil
}

// counterAt reads a counter; end is 0 if there is none.
func counterAt(b []byte, p int) (v uint64, end int) {
	from := p
	for p < len(b) && p < from+19 && b[p]-'0' <= 9 {
		v = v*10 + uint64(b[p]-'0')
		p++
	}
	if p == from || b[from] == '0' || v > MaxCounter {
		return 0, 0
	}
	return v, p
}
