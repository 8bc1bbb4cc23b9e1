package trail

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/event"
	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/journal"
)

func journalEntries(t testing.TB, b []byte) (out [][]byte) {
	t.Helper()
	for len(b) > 0 {
		n := journal.Next(b, true)
		out = append(out, b[:n])
		b = b[n:]
	}
	return out
}

func TestJournalOfSystemdIsUnderstood(t *testing.T) {
	raw, err := os.ReadFile("../journal/testdata/journalctl.export")
	if err != nil {
		t.Fatal(err)
	}
	const sec = immutable.Security
	const ok, failed = event.OutcomeSuccess, event.OutcomeFailure
	p := parser(t, JournalExport, when)
	var es []immutable.Event
	keys := map[string]bool{}
	for _, e := range journalEntries(t, raw) {
		es = p.Parse(es, e)
		keys[es[len(es)-1].IdempotencyKey] = true
		comesBack(t, e, &es[len(es)-1])
	}
	if len(es) != 7 || len(keys) != 7 || keys[""] {
		t.Fatalf("%d events with the keys %v", len(es), keys)
	}
	for _, w := range []want{
		{1, "2024-05-01T08:00:00Z", "user.login", "pi", "", "203.0.113.9", "invalid user", failed, sec, "unit=ssh.service"},
		{2, "2024-05-01T08:00:01Z", "message", "1000", "", "", "", "", immutable.Error, "program=shop"},
		{3, "2024-05-01T08:00:02Z", "message", "", "", "", "", "", immutable.Info, ""},
		{4, "2024-05-01T08:00:03Z", "message", "", "", "", "", "", immutable.Warn, "program=kernel"},
		{5, "2024-05-01T08:00:04Z", "user.login", "ann", "", "", "", ok, sec, "auditType=USER_LOGIN"},
		{6, "2024-05-01T08:00:05Z", "message", "", "", "", "", "", immutable.Critical, "program=dump"},
		{7, "2024-05-01T08:00:06Z", "privilege.use", "ann", "root", "", "", ok, sec, "command=/bin/ls"},
	} {
		w.check(t, "journal", &es[w.line-1])
	}
	if e := es[0]; e.Hostname != "web1" || e.PID != 2414 || e.EventTime.Nanosecond() != 123000_000 {
		t.Errorf("host %q, pid %d, time %v", e.Hostname, e.PID, e.EventTime)
	}
	if es[1].Message != "Traceback:\n  at a\n  at b" {
		t.Errorf("message %q", es[1].Message)
	}
	// The same entry through another machine's journal, which numbers it anew, has another cursor; the same cursor with another text is another entry.
	changed := p.Parse(nil, bytes.Replace(journalEntries(t, raw)[3], []byte("Out of"), []byte("out of"), 1))
	if changed[0].IdempotencyKey == es[3].IdempotencyKey {
		t.Error("another entry has the same key, and would be lost")
	}
	sequenced := p.Parse(nil, bytes.Replace(journalEntries(t, raw)[3], []byte("_BOOT_ID"), []byte("__SEQNUM=7\n_BOOT_ID"), 1))
	if sequenced[0].IdempotencyKey != es[3].IdempotencyKey {
		t.Error("what tells where an entry lies is part of its key")
	}
}

// comesBack holds that an entry of ours has each field of the journal's.
func comesBack(t testing.TB, raw []byte, e *immutable.Event) {
	t.Helper()
	line, err := entry.Append(nil, e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := immutable.ParseEntry(0, line)
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Journal map[string]json.RawMessage }
	if err := json.Unmarshal(back.Metadata, &m); err != nil || m.Journal == nil {
		t.Fatalf("%v: %.300s", err, back.Metadata)
	}
	fields, err := journal.Fields(raw)
	if err != nil {
		t.Fatal(err)
	}
	var in, out []string
	for _, f := range fields {
		if f.Name != "MESSAGE" || string(f.Value) != back.Message {
			in = append(in, f.Name+"="+string(f.Value))
		}
	}
	for name, value := range m.Journal {
		list := []json.RawMessage{value}
		if value[0] == '[' {
			if err := json.Unmarshal(value, &list); err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range list {
			var text string
			if v[0] == '{' {
				var o struct{ Base64 []byte }
				if err := json.Unmarshal(v, &o); err != nil {
					t.Fatal(err)
				}
				text = string(o.Base64)
			} else if err := json.Unmarshal(v, &text); err != nil {
				t.Fatal(err)
			}
			out = append(out, name+"="+text)
		}
	}
	slices.Sort(in)
	slices.Sort(out)
	if !slices.Equal(in, out) {
		t.Fatalf("in  %q\nout %q", in, out)
	}
}

// Whatever bytes fields have, they come back, as long as they fit; and what does not fit leaves its digest.
func TestJournalFieldsComeBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var raw []byte
		for i := range 1 + rng.IntN(12) {
			value := make([]byte, rng.IntN(200))
			for k := range value {
				value[k] = byte(rng.IntN(256)) % byte(1+rng.IntN(255))
			}
			name := []string{"MESSAGE", "_HOSTNAME", "_PID", "PRIORITY", "SYSLOG_FACILITY", "_TRANSPORT", "__CURSOR", "__REALTIME_TIMESTAMP", fmt.Sprintf("F%d", i%3)}[rng.IntN(9)]
			raw = append(append(raw, name...), '\n')
			raw = append(append(binary.LittleEndian.AppendUint64(raw, uint64(len(value))), value...), '\n')
		}
		comesBack(t, raw, &parser(t, JournalExport, when).Parse(nil, raw)[0])
	}
	large := []byte("__CURSOR=c\n_HOSTNAME=h\nMESSAGE=dumped\nSTACK=" + strings.Repeat("x", 100_000) + "\n\n")
	e := parser(t, JournalExport, when).Parse(nil, large)[0]
	if _, err := entry.Append(nil, &e); err != nil || e.Hostname != "h" || e.Message != "dumped" || e.Metadata[event.KeyRawBytes] != len(large) || e.Metadata[keyJournal].(immutable.Fields)["__CURSOR"] != "c" {
		t.Errorf("%v: %.300v", err, e.Metadata)
	}
	var many []byte
	for i := range journal.MaxFields {
		many = append(many, fmt.Sprintf("F%d=%s\n", i, base64.StdEncoding.EncodeToString(make([]byte, 600)))...)
	}
	e = parser(t, JournalExport, when).Parse(nil, many)[0]
	if _, err := entry.Append(nil, &e); err != nil || e.Metadata[event.KeyRawBytes] != len(many) {
		t.Errorf("%v: %.300v", err, e.Metadata)
	}
}
