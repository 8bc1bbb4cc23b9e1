package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Exported makes an event of a line that a log has exported, of this system or the earlier one. Its timestamp becomes eventTime
// where the entry has none, its id the idempotency key. control reports that it was a control entry: what it recorded is of
// another log, and is left out.
func Exported(line []byte) (e entry.Event, control bool, err error) {
	if !utf8.Valid(line) {
		return e, false, errors.New("not UTF-8")
	}
	var in struct {
		Index                      *uint64
		ID, Timestamp, Level       string
		Message, Hostname          json.RawMessage
		Metadata, Log              json.RawMessage
		PID                        uint64
		EventTime, TraceID, SpanID string
		IdempotencyKey             string
		Producer, Blob, Encrypted  json.RawMessage
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return e, false, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return e, false, errors.New("bytes after the entry")
	}
	switch {
	case in.Message == nil:
		return e, false, errors.New("no message")
	case in.Producer != nil || in.Blob != nil || in.Encrypted != nil:
		return e, false, errors.New("producer, blob and encrypted are not imported")
	case in.PID > math.MaxUint32:
		return e, false, fmt.Errorf("pid %d is larger than %d", in.PID, uint32(math.MaxUint32))
	}
	if e.Level, err = entry.ParseLevel(in.Level); err != nil {
		return e, false, err
	}
	if e.Message, err = entry.Unquote(in.Message); err != nil {
		return e, false, fmt.Errorf("message: %w", err)
	}
	if len(in.Hostname) > 0 {
		if e.Hostname, err = entry.Unquote(in.Hostname); err != nil {
			return e, false, fmt.Errorf("hostname: %w", err)
		}
	}
	e.PID, e.TraceID, e.SpanID = uint32(in.PID), in.TraceID, in.SpanID
	if string(in.Metadata) != "null" {
		e.RawMetadata = in.Metadata
	}
	when := in.EventTime
	if when == "" {
		when = in.Timestamp
	}
	if when != "" {
		if e.EventTime, err = ParseTime(when); err != nil {
			return e, false, err
		}
	}
	if in.ID != "" {
		e.IdempotencyKey = "import:" + in.ID
	}
	return e, in.Log != nil, nil
}
