package identity

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/proof"
)

func testLog() *Log {
	return &Log{Origin: "example.com/log", Created: 1_700_000_000_123_456_789}
}

func testHead() *Head {
	return &Head{Origin: "example.com/log", Log: sha256.Sum256([]byte("x")), Inode: 18446744073709551615, Size: 7, Root: proof.EmptyRoot(), Kept: 120, Clean: true}
}

func TestRecordsHaveOneEncoding(t *testing.T) {
	log, head := testLog().Append(nil), testHead().Append(nil)
	if got, err := ParseLog(log); err != nil || !bytes.Equal(got.Append(nil), log) {
		t.Fatalf("ParseLog(%s) = %+v, %v", log, got, err)
	}
	if got, err := ParseHead(head); err != nil || *got != *testHead() {
		t.Fatalf("ParseHead(%s) = %+v, %v", head, got, err)
	}
	spoil := func(s string) []string {
		return []string{
			"", s[:len(s)-1], s + "\n", s + "{}", " " + s, strings.Replace(s, `"origin"`, `"Origin"`, 1),
			strings.Replace(s, `,`, `, `, 1), strings.Replace(s, `}`, `,"x":1}`, 1), strings.Replace(s, "example", "ex\\u0061mple", 1),
			strings.Replace(s, "example.com/log", "a b", 1), strings.Replace(s, `{`, `{"size":1,`, 1),
		}
	}
	for _, s := range spoil(string(log)) {
		if l, err := ParseLog([]byte(s)); err == nil {
			t.Errorf("ParseLog(%q) = %+v, want an error", s, l)
		}
	}
	for _, s := range append(spoil(string(head)), strings.Replace(string(head), `"size":7`, `"size":07`, 1), strings.Replace(string(head), `"size":7`, `"size":7.0`, 1),
		strings.Replace(string(head), `"size":7`, `"size":9223372036854775808`, 1), strings.Replace(string(head), `"kept":1`, `"kept":-1`, 1)) {
		if h, err := ParseHead([]byte(s)); err == nil {
			t.Errorf("ParseHead(%q) = %+v, want an error", s, h)
		}
	}
}

// Every byte of a record counts: flipping any bit gives an error or other values, never the same ones.
func TestNoByteOfARecordIsIgnored(t *testing.T) {
	head := testHead().Append(nil)
	for i := range head {
		for bit := range 8 {
			b := bytes.Clone(head)
			b[i] ^= 1 << bit
			if h, err := ParseHead(b); err == nil && *h == *testHead() {
				t.Fatalf("offset %d bit %d: flipped head reads the same", i, bit)
			}
		}
	}
}

func TestAKeyIsListedOnce(t *testing.T) {
	const key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
	l := &Log{Origin: "PeterNeumann", VKeys: []string{key}}
	if _, err := ParseLog(l.Append(nil)); err != nil {
		t.Fatal(err)
	}
	l.VKeys = append(l.VKeys, key)
	if l, err := ParseLog(l.Append(nil)); err == nil {
		t.Errorf("read %+v, want an error", l)
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add(testLog().Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := ParseLog(data); err == nil && !bytes.Equal(l.Append(nil), data) {
			t.Fatalf("accepted %q, writes %q", data, l.Append(nil))
		}
	})
}

func FuzzParseHead(f *testing.F) {
	f.Add(testHead().Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := ParseHead(data); err == nil && !bytes.Equal(h.Append(nil), data) {
			t.Fatalf("accepted %q, writes %q", data, h.Append(nil))
		}
	})
}

// TestKeysHaveOneOfThreeForms reads log.json with every number and order of keys.
func TestKeysHaveOneOfThreeForms(t *testing.T) {
	key := func(typ byte, seed byte) string {
		k, err := proof.NewKey(typ, "example.com/log", [32]byte{seed})
		if err != nil {
			t.Fatal(err)
		}
		return k.Key().String()
	}
	log, ed, ml, third := key(proof.TypeEd25519, 1), key(proof.TypeEd25519, 2), key(proof.TypeMLDSA44, 3), key(proof.TypeEd25519, 4)
	for _, tt := range []struct {
		keys []string
		good bool
	}{
		{nil, true},
		{[]string{log}, true},
		{[]string{log, ed, ml}, true},
		{[]string{ml}, false},
		{[]string{log, ed}, false},
		{[]string{log, ml}, false},
		{[]string{log, ml, ed}, false},
		{[]string{log, ed, third}, false},
		{[]string{log, ed, ml, third}, false},
		{[]string{key(proof.TypeCosignature, 5)}, false},
	} {
		l := Log{Origin: "example.com/log", Created: 1, VKeys: tt.keys}
		if _, err := ParseLog(l.Append(nil)); (err == nil) != tt.good {
			t.Errorf("%q: %v", tt.keys, err)
		}
	}
}
