package sink

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"

	"github.com/tree-of-life-system/immutable"
)

// otlpWriter exports batches as OpenTelemetry log records, whose bodies are the events: OTLP 1.x over HTTP, protobuf, gzip.
type otlpWriter struct{ httpWay }

func (o *otlpWriter) send(ctx context.Context, b *batch) error {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(appendOTLP(nil, b)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	header := http.Header{"Content-Encoding": {"gzip"}}
	if len(o.s.Secrets) > 0 {
		if o.s.Header != "" {
			header.Set(o.s.Header, o.s.Secrets[0])
		} else {
			header.Set("Authorization", "Bearer "+o.s.Secrets[0])
		}
	}
	answer, err := o.post(ctx, "application/x-protobuf", packed.Bytes(), header)
	if err != nil {
		return err
	}
	if n, why := otlpRejected(answer); n > 0 { // the specification says: do not send them again as they are
		return &refusedError{fmt.Errorf("it rejected %d of %d records: %s", n, len(b.events), why)}
	}
	return nil
}

// The wire types of protobuf that are written here.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

func tag(dst []byte, field, wire uint64) []byte { return binary.AppendUvarint(dst, field<<3|wire) }

func sub(dst []byte, field uint64, message []byte) []byte {
	dst = binary.AppendUvarint(tag(dst, field, wireBytes), uint64(len(message)))
	return append(dst, message...)
}

func stamp(dst []byte, field uint64, at time.Time) []byte {
	return binary.LittleEndian.AppendUint64(tag(dst, field, wireFixed64), uint64(max(at.UnixNano(), 0)))
}

func integer(dst []byte, field, n uint64) []byte {
	return binary.AppendUvarint(tag(dst, field, wireVarint), n)
}

// attribute appends a KeyValue with a string, field 1 of AnyValue.
func attribute(dst []byte, field uint64, name, value string) []byte {
	return sub(dst, field, sub(sub(nil, 1, []byte(name)), 2, sub(nil, 1, []byte(value))))
}

// number appends a KeyValue with an int, field 3 of AnyValue.
func number(dst []byte, field uint64, name string, value uint64) []byte {
	return sub(dst, field, sub(sub(nil, 1, []byte(name)), 2, integer(nil, 3, value)))
}

// appendOTLP appends a batch as an ExportLogsServiceRequest: one ResourceLogs, one ScopeLogs.
func appendOTLP(dst []byte, b *batch) []byte {
	resource := attribute(attribute(nil, 1, "service.name", "immutable"), 1, "immutable.origin", b.origin)
	scope := sub(nil, 1, sub(nil, 1, []byte("immutable")))
	for i := range b.events {
		scope = sub(scope, 2, otlpRecord(b, &b.events[i]))
	}
	return sub(dst, 1, sub(sub(nil, 1, resource), 2, scope))
}

// otlpRecord is a LogRecord.
func otlpRecord(b *batch, e *event) []byte {
	x := e.entry
	at := x.Timestamp
	if !x.EventTime.IsZero() {
		at = x.EventTime
	}
	r := make([]byte, 0, len(e.data)+512)
	r = stamp(r, 1, at)
	r = integer(r, 2, otlpSeverity(x.Level))
	r = sub(r, 3, []byte(x.Level.String()))
	r = sub(r, 5, sub(nil, 1, e.data))
	r = number(r, 6, "immutable.index", x.Index)
	r = attribute(r, 6, "immutable.leaf", x.Leaf.String())
	r = number(r, 6, "immutable.size", b.size)
	r = attribute(r, 6, "host.name", x.Hostname)
	if id, err := hex.DecodeString(x.TraceID); err == nil && len(id) == 16 {
		r = sub(r, 9, id)
	}
	if id, err := hex.DecodeString(x.SpanID); err == nil && len(id) == 8 {
		r = sub(r, 10, id)
	}
	return stamp(r, 11, x.Timestamp)
}

// otlpSeverity is a SeverityNumber.
func otlpSeverity(l immutable.Level) uint64 {
	switch l {
	case immutable.Critical:
		return 21 // FATAL
	case immutable.Error:
		return 17 // ERROR
	case immutable.Warn, immutable.Security:
		return 13 // WARN
	case immutable.Audit, immutable.Revenue:
		return 10 // INFO2
	}
	return 9 // INFO
}

// otlpRejected reads the partial success of an ExportLogsServiceResponse: how many records were rejected, and why. An answer that
// is none says nothing was.
func otlpRejected(answer []byte) (n uint64, why string) {
	fields(answer, func(field uint64, _ uint64, partial []byte) {
		if field != 1 {
			return
		}
		fields(partial, func(field, value uint64, text []byte) {
			switch field {
			case 1:
				n = value
			case 2:
				why = string(text)
			}
		})
	})
	return n, why
}

// fields calls visit for each field of a message, until one that cannot be read.
func fields(b []byte, visit func(field, value uint64, bytes []byte)) {
	for len(b) > 0 {
		t, n := binary.Uvarint(b)
		if n <= 0 {
			return
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return
		}
		switch b = b[n:]; t & 7 {
		case wireVarint:
			visit(t>>3, v, nil)
		case wireBytes:
			if v > uint64(len(b)) {
				return
			}
			visit(t>>3, 0, b[:v])
			b = b[v:]
		default:
			return
		}
	}
}
