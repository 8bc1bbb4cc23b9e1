package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/entry"
)

func TestShapeComesBackFromItsFields(t *testing.T) {
	s := Shape{
		Kind: KindAuthentication, Action: ActionLogin, Outcome: OutcomeDenied, Reason: "locked",
		Actor:   &Actor{Type: ActorUser, ID: "7", Name: "ann", Email: "ann@example.com", Session: "s1"},
		Target:  &Target{Type: "host", ID: "h", Name: "web-1"},
		Source:  &Source{IP: "2001:db8::1", Port: 22, Host: "peer", UserAgent: "ua", Provider: "sshd"},
		Request: &Request{ID: "r", Method: "GET", Path: "/", Status: 403, TraceID: "t", SpanID: "s", DurationMS: 1.5},
		Extra:   immutable.Fields{"repo": "x", "kind": "overruled"},
	}
	want := s
	want.Extra = immutable.Fields{"repo": "x"}
	got, err := Of(s.Fields())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	line, err := entry.Append(nil, &immutable.Event{Message: "m", Metadata: s.Fields()})
	if err != nil {
		t.Fatal(err)
	}
	e, err := immutable.ParseEntry(0, line)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = Parse(e.Metadata); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("from the entry %+v, %v\nwant %+v", got, err, want)
	}
	if f := (Shape{Actor: &Actor{}, Request: &Request{}}).Fields(); len(f) != 0 {
		t.Errorf("an empty shape has %v", f)
	}
	if s.Extra["kind"] != "overruled" {
		t.Error("Fields changed Extra")
	}
}

// What somebody else calls actor or kind is theirs: it stays where it was, and the rest is read.
func TestForeignMetadataUnderWellKnownNamesStays(t *testing.T) {
	got, err := Parse([]byte(`{"actor":"bob","kind":7,"action":"a.b","source":{"port":"x"},"target":{"name":"n","more":1},"n":1e400}`))
	if err == nil || !strings.Contains(err.Error(), "metadata.kind") {
		t.Errorf("error %v, want the first member at fault", err)
	}
	if got.Action != "a.b" || got.Actor != nil || got.Kind != "" || got.Source != nil || got.Target == nil || got.Target.Name != "n" {
		t.Errorf("got %+v", got)
	}
	if got.Extra["actor"] != "bob" || got.Extra["source"] == nil || got.Extra["kind"] == nil || got.Extra["target"] != nil || len(got.Extra) != 4 {
		t.Errorf("extra %v", got.Extra)
	}
	for _, bad := range []string{`[]`, `"x"`, `{`, `{"a":1`} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if s, err := Parse(nil); err != nil || s.Extra != nil {
		t.Errorf("no metadata: %+v, %v", s, err)
	}
}

// restored is what the metadata says the raw bytes were.
func restored(t *testing.T, f immutable.Fields) []byte {
	t.Helper()
	if s, found := f[KeyRaw]; found {
		return []byte(s.(string))
	}
	raw, err := base64.StdEncoding.DecodeString(f[KeyRaw64].(string))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRawBytesAreWholeOrIdentified(t *testing.T) {
	for _, unit := range []string{"a", "\x00", "\"", "\n", "é", "\u0085", "\u00a0", "\u2028", "\xff", "日本", "a\x7f\xf0\x9f\x98\x80", "\v\b\f"} {
		for _, n := range []int{0, 1, 1000, 3000, 9000, 10_900, 16_000, 30_000, 48_000, 60_000, 65_000, 70_000, 300_000} {
			raw := []byte(strings.Repeat(unit, n/len(unit)))
			e := immutable.Event{Message: "m", Metadata: immutable.Fields{"k": "v"}}
			whole, err := Keep(&e, raw)
			if err != nil {
				t.Fatalf("%q × %d: %v", unit, n, err)
			}
			if _, err := entry.Append(nil, &e); err != nil {
				t.Fatalf("%q × %d: %v", unit, n, err)
			}
			if whole {
				if got := restored(t, e.Metadata); !bytes.Equal(got, raw) {
					t.Fatalf("%q × %d: %d bytes come back", unit, n, len(got))
				}
				continue
			}
			digest := sha256.Sum256(raw)
			head, _ := e.Metadata[KeyRawHead].(string)
			if e.Metadata[KeyRawSHA256] != hex.EncodeToString(digest[:]) || e.Metadata[KeyRawBytes] != len(raw) || len(head) > RawHead || len(head) < RawHead/8 || !utf8.ValidString(head) {
				t.Fatalf("%q × %d: a head of %d bytes, %v", unit, n, len(head), e.Metadata[KeyRawBytes])
			}
			if utf8.Valid(raw) && !strings.HasPrefix(string(raw), head) {
				t.Fatalf("%q × %d: the head is not how it begins", unit, n)
			}
		}
	}
}

// One byte more than fits, and the entry has the digest; the limit is the entry's own.
func TestKeepGoesToTheEntrysLimit(t *testing.T) {
	whole := func(n int) bool {
		e := immutable.Event{Message: "m"}
		ok, err := Keep(&e, bytes.Repeat([]byte("x"), n))
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	n := immutable.MaxEntryBytes
	for !whole(n) {
		if n--; n < immutable.MaxEntryBytes-500 {
			t.Fatal("what nearly fills an entry is not kept whole")
		}
	}
	e := immutable.Event{Message: "m", Metadata: immutable.Fields{KeyRaw: strings.Repeat("x", n+1)}}
	if _, err := entry.Append(nil, &e); err == nil {
		t.Errorf("%d bytes would have fitted", n+1)
	}
	// An event that leaves little room keeps what has a place; one that leaves none is an error.
	e = immutable.Event{Message: strings.Repeat("m", immutable.MaxEntryBytes-600)}
	if ok, err := Keep(&e, bytes.Repeat([]byte("x"), 5000)); ok || err != nil || e.Metadata[KeyRawSHA256] == nil {
		t.Errorf("in little room: %v, %v, %v", ok, err, e.Metadata)
	}
	e = immutable.Event{Message: strings.Repeat("m", immutable.MaxEntryBytes)}
	if _, err := Keep(&e, []byte("x")); err == nil {
		t.Error("an event that does not fit was kept")
	}
	if _, err := Keep(&immutable.Event{RawMetadata: []byte(`{}`)}, []byte("x")); err == nil {
		t.Error("raw metadata was changed")
	}
}

func TestRawHonoursItsLimit(t *testing.T) {
	for _, c := range []struct {
		raw   string
		limit int
		whole bool
	}{{"12345", 5, true}, {"123456", 5, false}, {"\n\n", 4, true}, {"\n\n", 3, false}, {"\xff\xff\xff", 4, true}, {"\xff\xff\xff\xff", 4, false}} {
		f := immutable.Fields{KeyRaw: "stale", KeyRawBytes: 1}
		if got := Raw(f, []byte(c.raw), c.limit); got != c.whole {
			t.Errorf("%q in %d: whole is %v", c.raw, c.limit, got)
		}
		if c.whole == (f[KeyRawSHA256] != nil) || c.whole && (len(f) != 1 || !bytes.Equal(restored(t, f), []byte(c.raw))) {
			t.Errorf("%q in %d: %v", c.raw, c.limit, f)
		}
	}
	f := immutable.Fields{}
	if !Raw(f, make([]byte, RawLimit/6), 0) || Raw(f, make([]byte, RawLimit/6+1), 0) {
		t.Error("0 is not RawLimit")
	}
}

func TestKindsAreAllThereIs(t *testing.T) {
	seen := map[Kind]bool{}
	for _, k := range Kinds() {
		if seen[k] || k == "" || strings.ToLower(string(k)) != string(k) {
			t.Errorf("kind %q", k)
		}
		seen[k] = true
	}
}
