package server

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

// CSVColumns are the columns of an export as CSV, always all of them. metadata, producer, blob, encrypted and control are JSON
// as the entry has it; what an entry does not have is empty.
const CSVColumns = "index,id,timestamp,level,message,metadata,hostname,pid,eventTime,traceId,spanId,idempotencyKey,producer,blob,encrypted,control,leaf"

// AppendCSV appends an entry as a record of RFC 4180, ended by CR LF. Nothing is lost: entry's line can be made again from it, and
// has the leaf hash in the last column.
func AppendCSV(dst []byte, e *immutable.Entry) ([]byte, error) {
	var l entry.Line
	if err := entry.Decode(e.Line, &l); err != nil {
		return dst, fmt.Errorf("entry %d: %w", e.Index, err)
	}
	dst = strconv.AppendUint(dst, e.Index, 10)
	for _, plain := range [][]byte{l.ID[:], l.Timestamp, []byte(l.Level.String())} {
		dst = append(append(dst, ','), plain...)
	}
	dst = csvText(append(dst, ','), e.Message)
	dst = csvText(append(dst, ','), string(l.Metadata))
	dst = csvText(append(dst, ','), e.Hostname)
	dst = strconv.AppendUint(append(dst, ','), uint64(l.PID), 10)
	for _, plain := range [][]byte{l.EventTime, l.TraceID, l.SpanID} {
		dst = append(append(dst, ','), plain...)
	}
	dst = csvText(append(dst, ','), e.IdempotencyKey)
	for _, object := range [][]byte{l.Producer, l.Blob, l.Encrypted, l.Log} {
		dst = csvText(append(dst, ','), string(object))
	}
	dst = append(append(dst, ','), e.Leaf.String()...)
	return append(dst, '\r', '\n'), nil
}

// csvText appends a cell that holds text of strangers. A spreadsheet takes one that begins with = + - @, a tab or a line
// break for a formula, and would run it: such a cell gets a ' in front, which spreadsheets read as "this is text". One that begins
// with a ' gets another, so that whoever reads takes one ' from the front of each cell that has it, and has every byte back.
func csvText(dst []byte, text string) []byte {
	defused := csvDefused(text)
	if !defused && !strings.ContainsAny(text, ",;\"\r\n\t ") {
		return append(dst, text...)
	}
	dst = append(dst, '"')
	if defused {
		dst = append(dst, '\'')
	}
	dst = append(dst, bytes.ReplaceAll([]byte(text), []byte{'"'}, []byte{'"', '"'})...)
	return append(dst, '"')
}

// csvDefused says whether a cell needs a ' in front. Wide forms of the signs count: some spreadsheets read them as the narrow ones.
func csvDefused(text string) bool {
	first, _ := utf8.DecodeRuneInString(text)
	switch first {
	case '=', '+', '-', '@', '\t', '\r', '\n', '\'', '＝', '＋', '－', '＠':
		return true
	}
	// Blanks before such a sign are skipped by some.
	if trimmed := strings.TrimLeft(text, " \u00a0\u3000\ufeff"); len(trimmed) < len(text) && trimmed != "" {
		return csvDefused(trimmed)
	}
	return false
}
