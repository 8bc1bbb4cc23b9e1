package proof

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

const testOrigin = "example.com/log"

// testKey returns the signer and the verifier key of a name, the same in each run.
func testKey(t testing.TB, name string) (note.Signer, Key) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(bytes.NewReader(bytes.Repeat([]byte(name[:1]), 64)), name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, k
}

func sign(t testing.TB, text string, signers ...note.Signer) []byte {
	t.Helper()
	data, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func testCheckpoint(n int) Checkpoint {
	return Checkpoint{Origin: testOrigin, Size: uint64(n), Root: naiveRoot(lines(n))}
}

func TestCheckpointTextComesBack(t *testing.T) {
	for _, c := range []Checkpoint{testCheckpoint(0), testCheckpoint(1), testCheckpoint(7), {strings.Repeat("o", MaxOrigin), MaxSize, Hash{1}}} {
		got, err := ParseCheckpoint(c.Text())
		if err != nil || got != c {
			t.Errorf("got %v, %v, want %v", got, err, c)
		}
	}
}

func TestParseCheckpointRefusesEveryOtherSpelling(t *testing.T) {
	good := testCheckpoint(7)
	root := good.Root.Base64()
	text := func(parts ...string) string { return strings.Join(parts, "\n") }
	for name, s := range map[string]string{
		"nothing":             "",
		"no last newline":     text(testOrigin, "7", root),
		"a line more":         text(testOrigin, "7", root, "x", ""),
		"an empty line more":  text(testOrigin, "7", root, "", ""),
		"two lines":           text(testOrigin, "7", ""),
		"no origin":           text("", "7", root, ""),
		"origin too long":     text(strings.Repeat("o", MaxOrigin+1), "7", root, ""),
		"origin with a space": text("a b", "7", root, ""),
		"origin with a plus":  text("a+b", "7", root, ""),
		"origin with a quote": text(`a"b`, "7", root, ""),
		"backslash in origin": text(`a\b`, "7", root, ""),
		"origin with DEL":     text("a\x7f", "7", root, ""),
		"origin not ASCII":    text("é", "7", root, ""),
		"origin of a seal":    text("immutable/seal/1", "7", root, ""),
		"carriage return":     text(testOrigin, "7\r", root, ""),
		"leading zero":        text(testOrigin, "07", root, ""),
		"plus sign":           text(testOrigin, "+7", root, ""),
		"minus sign":          text(testOrigin, "-7", root, ""),
		"hex":                 text(testOrigin, "0x7", root, ""),
		"underscore":          text(testOrigin, "1_0", root, ""),
		"space":               text(testOrigin, " 7", root, ""),
		"no size":             text(testOrigin, "", root, ""),
		"2^63":                text(testOrigin, "9223372036854775808", root, ""),
		"no padding":          text(testOrigin, "7", strings.TrimRight(root, "="), ""),
		"padding bits":        text(testOrigin, "7", flipPaddingBit(root), ""),
		"short root":          text(testOrigin, "7", base64.StdEncoding.EncodeToString(make([]byte, 31)), ""),
		"long root":           text(testOrigin, "7", base64.StdEncoding.EncodeToString(make([]byte, 33)), ""),
		"URL base64":          text(testOrigin, "7", strings.Repeat("_", 42)+"8=", ""),
		"size 0, other root":  text(testOrigin, "0", root, ""),
	} {
		if c, err := ParseCheckpoint(s); err == nil {
			t.Errorf("%s: accepted as %v", name, c)
		}
	}
	// With the empty tree's root nothing else stands against a size that is read as 0.
	for _, size := range []string{"", "00", "+0", "-0", "0x0", " 0", "x", "9223372036854775808"} {
		if c, err := ParseCheckpoint(text(testOrigin, size, EmptyRoot().Base64(), "")); err == nil {
			t.Errorf("size %q: accepted as %v", size, c)
		}
	}
}

// flipPaddingBit sets the lowest unused bit in the base64 of a hash; a lax decoder reads the same hash.
func flipPaddingBit(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	i := len(s) - 2
	return s[:i] + string(alphabet[strings.IndexByte(alphabet, s[i])|1]) + s[i+1:]
}

func TestParseHashRefusesEveryOtherSpelling(t *testing.T) {
	h := LeafHash([]byte("x"))
	if got, err := ParseHash(h.Base64()); err != nil || got != h {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ParseHex(h.String()); err != nil || got != h {
		t.Errorf("got %v, %v", got, err)
	}
	b := h.Base64()
	for _, s := range []string{"", b[:43], b + "=", b + "\n", b[:20] + "\n" + b[20:], b[:20] + "\r\n" + b[20:], flipPaddingBit(b), " " + b, h.String()} {
		if _, err := ParseHash(s); err == nil {
			t.Errorf("hash %q accepted", s)
		}
	}
	for _, s := range []string{"", h.String()[:62], h.String() + "00", strings.ToUpper(h.String()), b, strings.Repeat("g", 64)} {
		if _, err := ParseHex(s); err == nil {
			t.Errorf("hex %q accepted", s)
		}
		if err := new(Hash).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("text %q accepted", s)
		}
	}
}

func TestSignedNoteVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(sharedData(t, "tlog-logs"), "signed-note-vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		GoodVkeys []string                `json:"good_vkeys"`
		Bad       []struct{ Vkey string } `json:"bad_vkeys"`
		Notes     []struct {
			Name      string
			Note      []byte `json:"note_b64"`
			Verifiers []string
			Valid     bool
			Error     string
		}
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	for _, s := range v.GoodVkeys {
		if k, err := ParseKey(s); err != nil || k.String() != s {
			t.Errorf("key %s: got %v, %v", s, k, err)
		}
	}
	for _, b := range v.Bad {
		if _, err := ParseKey(b.Vkey); err == nil {
			t.Errorf("key %s accepted", b.Vkey)
		}
	}
	if len(v.GoodVkeys) == 0 || len(v.Bad) == 0 || len(v.Notes) == 0 {
		t.Fatal("vectors are missing from the file")
	}
	for _, n := range v.Notes {
		var keys []Key
		for _, s := range n.Verifiers {
			k, err := ParseKey(s)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, k)
		}
		text, err := OpenNote(n.Note, keys)
		if (err == nil) != n.Valid {
			t.Errorf("%s: got %v, want valid %v (%s)", n.Name, err, n.Valid, n.Error)
		}
		if n.Valid && !bytes.HasPrefix(n.Note, []byte(text+"\n— ")) {
			t.Errorf("%s: text is %q", n.Name, text)
		}
		want := map[string]error{"malformed note": ErrMalformedNote, "note has no verifiable signatures": ErrNoSignature}[n.Error]
		if want != nil && !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", n.Name, err, want)
		}
		if strings.HasPrefix(n.Error, "ambiguous") && !errors.Is(err, ErrAmbiguousKey) {
			t.Errorf("%s: got %v, want %v", n.Name, err, ErrAmbiguousKey)
		}
		var sig *SignatureError
		if strings.HasPrefix(n.Error, "invalid signature") && !errors.As(err, &sig) {
			t.Errorf("%s: got %v, want a signature error", n.Name, err)
		}
	}
}

func TestEveryByteOfASignedCheckpointCounts(t *testing.T) {
	s, k := testKey(t, testOrigin)
	c := testCheckpoint(7)
	data := sign(t, c.Text(), s)
	if got, err := OpenCheckpoint(data, testOrigin, []Key{k}); err != nil || got != c {
		t.Fatalf("got %v, %v, want %v", got, err, c)
	}
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			if got, err := OpenCheckpoint(bad, testOrigin, []Key{k}); err == nil {
				t.Fatalf("byte %d, bit %d flipped: accepted as %v", i, bit, got)
			}
		}
		if _, err := OpenCheckpoint(data[:i], testOrigin, []Key{k}); err == nil {
			t.Fatalf("accepted when cut to %d bytes", i)
		}
		if _, err := OpenCheckpoint(append(bytes.Clone(data[:i]), data[i+1:]...), testOrigin, []Key{k}); err == nil {
			t.Fatalf("accepted without byte %d", i)
		}
	}
}

func TestOpenNoteChecksEverySignatureOfAKnownKey(t *testing.T) {
	s, k := testKey(t, testOrigin)
	other, otherKey := testKey(t, "witness.example")
	text := testCheckpoint(7).Text()
	good := sigLine(t, text, s)
	wrong := sigLine(t, testCheckpoint(6).Text(), s)
	foreign := sigLine(t, text, other)
	badForeign := sigLine(t, "x\n", other)
	for _, c := range []struct {
		name string
		sigs string
		keys []Key
		ok   bool
	}{
		{"one", good, []Key{k}, true},
		{"twice the same", good + good, []Key{k}, true},
		{"a second, bad one by the same key", good + wrong, []Key{k}, false},
		{"a first, bad one by the same key", wrong + good, []Key{k}, false},
		{"an unknown one beside it", foreign + good, []Key{k}, true},
		{"a bad unknown one beside it", badForeign + good, []Key{k}, true},
		{"both known", good + foreign, []Key{k, otherKey}, true},
		{"both known, one bad", good + badForeign, []Key{k, otherKey}, false},
		{"only another known", foreign, []Key{k}, false},
		{"no keys", good, nil, false},
		{"the zero key", good, []Key{{}}, false},
		{"the same key twice", good, []Key{k, k}, false},
		{"sixteen", strings.Repeat(foreign, MaxSignatures-1) + good, []Key{k}, true},
		{"seventeen", strings.Repeat(foreign, MaxSignatures) + good, []Key{k}, false},
		{"an empty line between", good + "\n" + good, []Key{k}, false},
		{"text without signature", "", []Key{k}, false},
		{"a line that is no signature", good + "x\n", []Key{k}, false},
		{"line breaks in base64", strings.Replace(good, "=", "\r=", 1), []Key{k}, false},
		{"a hyphen for the dash", strings.Replace(good, "—", "-", 1), []Key{k}, false},
		{"two spaces", strings.Replace(good, " ", "  ", 1), []Key{k}, false},
		{"a space at the end", strings.Replace(good, "\n", " \n", 1), []Key{k}, false},
		{"only a key id", "— x AAAAAA==\n" + good, []Key{k}, false},
		{"padding bits of an unknown one", "— x AAAAAAF=\n" + good, []Key{k}, false},
		{"a plus in a name", "— x+y AAAAAAA=\n" + good, []Key{k}, false},
		{"no name", "—  AAAAAAA=\n" + good, []Key{k}, false},
		{"a wide space in a name", "— x\u2003y AAAAAAA=\n" + good, []Key{k}, false},
		{"no dash", strings.TrimPrefix(good, "— "), []Key{k}, false},
	} {
		got, err := OpenNote([]byte(text+"\n"+c.sigs), c.keys)
		if (err == nil) != c.ok || c.ok && got != text {
			t.Errorf("%s: got %q, %v, want ok %v", c.name, got, err, c.ok)
		}
	}
}

func TestOpenNoteRefusesSignedTextThatIsNoText(t *testing.T) {
	s, k := testKey(t, testOrigin)
	for _, text := range []string{"invalid \xff\n", "control \x01\n", "tab\t\n", "return\r\n"} {
		if _, err := OpenNote(sign(t, text, s), []Key{k}); !errors.Is(err, ErrMalformedNote) {
			t.Errorf("%q: got %v, want %v", text, err, ErrMalformedNote)
		}
	}
}

func sigLine(t *testing.T, text string, s note.Signer) string {
	t.Helper()
	_, sig, _ := strings.Cut(string(sign(t, text, s)), "\n\n")
	return sig
}

func TestNoteSizeLimit(t *testing.T) {
	s, k := testKey(t, testOrigin)
	overhead := len(sign(t, "\n", s)) - 1
	for over := range 2 {
		text := strings.Repeat("x", MaxNote-overhead-1+over) + "\n"
		_, err := OpenNote(sign(t, text, s), []Key{k})
		if (err == nil) != (over == 0) {
			t.Errorf("%d bytes above the limit: got %v", over, err)
		}
	}
}

func TestCheckpointNeedsTheLogsOwnSignature(t *testing.T) {
	s, k := testKey(t, testOrigin)
	other, otherKey := testKey(t, "witness.example")
	c := testCheckpoint(7)
	if _, err := OpenCheckpoint(sign(t, c.Text(), other), testOrigin, []Key{k, otherKey}); !errors.Is(err, ErrNoSignature) {
		t.Errorf("only a witness signed: got %v, want %v", err, ErrNoSignature)
	}
	if _, err := OpenCheckpoint(sign(t, c.Text(), s, other), testOrigin, []Key{otherKey}); !errors.Is(err, ErrNoSignature) {
		t.Errorf("only a witness is known: got %v, want %v", err, ErrNoSignature)
	}
	if _, err := OpenCheckpoint(sign(t, c.Text(), s, other), testOrigin, []Key{k, otherKey}); err != nil {
		t.Errorf("both signed: got %v", err)
	}
	c.Origin = "example.com/other"
	if _, err := OpenCheckpoint(sign(t, c.Text(), s), testOrigin, []Key{k}); !errors.Is(err, ErrOrigin) {
		t.Errorf("another origin signed by the log's key: got %v, want %v", err, ErrOrigin)
	}
	seal := "immutable/seal/1\n7\n" + c.Root.Base64() + "\n"
	if _, err := OpenCheckpoint(sign(t, seal, s), "immutable/seal/1", []Key{k}); err == nil {
		t.Error("a seal was accepted as a checkpoint")
	}
}

// Whoever opens a checkpoint, alone or in a receipt, can tell bytes that are no note, a note that is altered and one that
// somebody else signed from each other.
func TestCheckpointErrorsSayWhatIsWrong(t *testing.T) {
	s, k := testKey(t, testOrigin)
	other, _ := testKey(t, "witness.example")
	c := testCheckpoint(7)
	signature := func(err error) bool { return errors.As(err, new(*SignatureError)) }
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for name, tt := range map[string]struct {
		data []byte
		want func(error) bool
	}{
		"another signer": {sign(t, c.Text(), other), is(ErrNoSignature)},
		"altered":        {[]byte(testCheckpoint(6).Text() + "\n" + sigLine(t, c.Text(), s)), signature},
		"no note":        {[]byte(c.Text()), is(ErrMalformedNote)},
	} {
		if got, err := OpenCheckpoint(tt.data, testOrigin, []Key{k}); !tt.want(err) || got != (Checkpoint{}) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		p := InclusionProof{Index: 3, Hashes: naivePath(3, lines(7)), Checkpoint: tt.data}
		if got, err := p.Verify(lines(7)[3], testOrigin, []Key{k}); !tt.want(err) || got != (Checkpoint{}) {
			t.Errorf("receipt, %s: got %v, %v", name, got, err)
		}
	}
}

func TestUnsignedCheckpointIsTextAndEmptyLineOnly(t *testing.T) {
	s, k := testKey(t, testOrigin)
	c := testCheckpoint(7)
	if got, err := OpenCheckpoint([]byte(c.Text()+"\n"), testOrigin, nil); err != nil || got != c {
		t.Errorf("got %v, %v, want %v", got, err, c)
	}
	for name, data := range map[string]string{
		"signed":         string(sign(t, c.Text(), s)),
		"no empty line":  c.Text(),
		"two":            c.Text() + "\n\n",
		"text behind it": c.Text() + "\nx\n",
		"nothing":        "",
		"only newlines":  "\n\n",
	} {
		if _, err := OpenCheckpoint([]byte(data), testOrigin, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if got, err := OpenCheckpoint([]byte(data), "", nil); err == nil {
			t.Errorf("%s: accepted as %v where no origin is given", name, got)
		}
	}
	if _, err := OpenCheckpoint([]byte(c.Text()+"\n"), testOrigin, []Key{k}); err == nil {
		t.Error("an unsigned checkpoint was accepted although a key is known")
	}
}

func TestParseKeyRefusesEveryOtherSpelling(t *testing.T) {
	_, k := testKey(t, testOrigin)
	name, rest, _ := strings.Cut(k.String(), "+")
	id, b64, _ := strings.Cut(rest, "+")
	pub, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(name string, pub []byte) string {
		v, err := note.NewEd25519VerifierKey(name, ed25519.PublicKey(pub[1:33]))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(v, "+")
		id, _, _ := strings.Cut(rest, "+")
		return name + "+" + id + "+" + base64.StdEncoding.EncodeToString(pub)
	}
	if encode(name, pub) != k.String() {
		t.Fatal("the test encodes keys otherwise than the key does")
	}
	mldsa := bytes.Clone(pub)
	mldsa[0] = 0x06
	for what, s := range map[string]string{
		"nothing":        "",
		"upper-case id":  name + "+" + strings.ToUpper(id) + "+" + b64,
		"other name":     "x" + k.String(),
		"other id":       name + "+00000000+" + b64,
		"long":           encode(name, append(bytes.Clone(pub), 0)),
		"newline at end": k.String() + "\n",
		"newline inside": name + "+" + id + "+" + b64[:8] + "\n" + b64[8:],
		"space in name":  encode("a b", pub),
		"no name":        encode("", pub),
		"control":        encode("a\x01", pub),
		"long name":      encode(strings.Repeat("n", MaxKeyName+1), pub),
		"no id":          name + "+" + b64,
		"no key":         name + "+" + id + "+",
	} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("%s: accepted %q", what, s)
		}
	}
	if id != strings.ToLower(id) || strings.ToUpper(id) == id {
		t.Fatalf("key id %s has no letter: choose another test key", id)
	}
}

func TestSplitNotesComesBackAndSaysWhereItStops(t *testing.T) {
	s, _ := testKey(t, testOrigin)
	other, _ := testKey(t, "witness.example")
	var history []byte
	var want [][]byte
	for n := range 6 {
		c := testCheckpoint(n)
		data := sign(t, c.Text(), s)
		switch n {
		case 2:
			data = sign(t, c.Text(), s, other)
		case 3:
			data = []byte(c.Text() + "\n")
		}
		want = append(want, data)
		history = append(append(history, data...), '\n')
	}
	got, err := SplitNotes(history)
	if err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
	for cut := range history {
		got, err := SplitNotes(history[:cut])
		whole, at := 0, 0
		for whole < len(want) && at+len(want[whole])+1 <= cut {
			at += len(want[whole]) + 1
			whole++
		}
		if len(got) != whole {
			t.Fatalf("cut at %d: %d notes, want %d", cut, len(got), whole)
		}
		var h *HistoryError
		if at == cut {
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
		} else if !errors.As(err, &h) || h.Offset != int64(at) || h.Note != whole {
			t.Fatalf("cut at %d: got %v, want an error at %d", cut, err, at)
		}
	}
	one := string(want[0])
	many := testCheckpoint(1).Text() + "\n" + strings.Repeat("— x AAAAAAA=\n", MaxSignatures)
	if _, err := SplitNotes([]byte(many + "\n")); err != nil {
		t.Errorf("%d signatures: %v", MaxSignatures, err)
	}
	for name, bad := range map[string]string{
		"an empty line before":  "\n" + one + "\n",
		"two empty lines":       one + "\n\n",
		"a line more":           one + "x\n\n",
		"four lines":            "a\n" + one + "\n",
		"no origin":             strings.TrimPrefix(one, testOrigin) + "\n",
		"no empty line inside":  strings.Replace(one, "\n\n", "\n", 1) + "\n",
		"too many signatures":   many + "— x AAAAAAA=\n\n",
		"longer than a note is": testCheckpoint(1).Text() + "\n— " + strings.Repeat("x", MaxNote) + "\n\n",
	} {
		if _, err := SplitNotes([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTesseraCheckpointsAndTheirConsistency(t *testing.T) {
	dir := filepath.Join(sharedData(t, "tlog-logs"), "tessera-log")
	names, err := filepath.Glob(filepath.Join(dir, "checkpoint*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no checkpoints: %v", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := ParseNote(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c, err := ParseCheckpoint(n.Text); err != nil || c.Text() != n.Text {
			t.Errorf("%s: got %v, %v", name, c, err)
		}
	}
}

func TestInclusionProofComesBackAndVerifies(t *testing.T) {
	s, k := testKey(t, testOrigin)
	for _, size := range []int{1, 2, 7, 70} {
		d := lines(size)
		note := sign(t, testCheckpoint(size).Text(), s)
		for index := range size {
			p := InclusionProof{Index: uint64(index), Hashes: naivePath(index, d), Checkpoint: note}
			p.Extra = [][]byte{nil, {}, []byte("extra")}[index%3]
			text, err := p.MarshalText()
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseInclusionProof(text)
			if err != nil || !reflect.DeepEqual(*got, p) {
				t.Fatalf("got %v, %v, want %v", got, err, p)
			}
			if c, err := got.Verify(d[index], testOrigin, []Key{k}); err != nil || c != testCheckpoint(size) {
				t.Fatalf("got %v, %v", c, err)
			}
			if _, err := got.Verify([]byte("another line"), testOrigin, []Key{k}); err == nil {
				t.Fatal("verified for another line")
			}
			if _, err := got.Verify(d[index], "example.com/other", []Key{k}); err == nil {
				t.Fatal("verified for another log")
			}
		}
	}
}

// All but the extra line, which nothing authenticates, must count.
func TestEveryByteOfAReceiptCounts(t *testing.T) {
	s, k := testKey(t, testOrigin)
	d := lines(7)
	p := InclusionProof{Index: 3, Hashes: naivePath(3, d), Checkpoint: sign(t, testCheckpoint(7).Text(), s)}
	text, err := p.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		for bit := range 8 {
			bad := bytes.Clone(text)
			bad[i] ^= 1 << bit
			if p, err := ParseInclusionProof(bad); err == nil {
				if _, err := p.Verify(d[3], testOrigin, []Key{k}); err == nil {
					t.Fatalf("byte %d, bit %d flipped: accepted", i, bit)
				}
			}
		}
		// Without its signatures a checkpoint has the shape of an unsigned one, which the known key then refuses.
		if p, err := ParseInclusionProof(text[:i]); err == nil {
			if _, err := p.Verify(d[3], testOrigin, []Key{k}); err == nil {
				t.Fatalf("accepted when cut to %d bytes", i)
			}
		}
	}
}

func TestParseInclusionProofRefusesEveryOtherSpelling(t *testing.T) {
	cp := testCheckpoint(7).Text() + "\n"
	h := Hash{1}.Base64()
	if _, err := ParseInclusionProof([]byte(proofHeader + "index 3\n" + h + "\n\n" + cp)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"no header":         "index 3\n\n" + cp,
		"other version":     "c2sp.org/tlog-proof@v2\nindex 3\n\n" + cp,
		"no index":          proofHeader + h + "\n\n" + cp,
		"a bare number":     proofHeader + "3\n" + h + "\n\n" + cp,
		"only extra":        proofHeader + "extra AA==\n\n" + cp,
		"index twice":       proofHeader + "index 3\nindex 3\n\n" + cp,
		"leading zero":      proofHeader + "index 03\n\n" + cp,
		"index 2^63":        proofHeader + "index 9223372036854775808\n\n" + cp,
		"extra, no space":   proofHeader + "extra\nindex 3\n\n" + cp,
		"extra behind":      proofHeader + "index 3\nextra AA==\n\n" + cp,
		"extra twice":       proofHeader + "extra AA==\nextra AA==\nindex 3\n\n" + cp,
		"lax extra":         proofHeader + "extra AB==\nindex 3\n\n" + cp,
		"extra too long":    proofHeader + "extra " + base64.StdEncoding.EncodeToString(make([]byte, MaxExtra+1)) + "\nindex 3\n\n" + cp,
		"lax hash":          proofHeader + "index 3\n" + flipPaddingBit(h) + "\n\n" + cp,
		"too many hashes":   proofHeader + "index 3\n" + strings.Repeat(h+"\n", MaxProofHashes+1) + "\n" + cp,
		"no checkpoint":     proofHeader + "index 3\n" + h + "\n\n",
		"two empty lines":   proofHeader + "index 3\n" + h + "\n\n\n" + cp,
		"checkpoint is bad": proofHeader + "index 3\n" + h + "\n\n" + "x" + cp + "\n",
		"CRLF":              strings.ReplaceAll(proofHeader+"index 3\n"+h+"\n\n"+cp, "\n", "\r\n"),
	} {
		if _, err := ParseInclusionProof([]byte(s)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, p := range map[string]InclusionProof{
		"no checkpoint":   {Index: 3},
		"index too large": {Index: 1 << 63, Checkpoint: []byte(cp)},
		"extra too long":  {Index: 3, Checkpoint: []byte(cp), Extra: make([]byte, MaxExtra+1)},
	} {
		if _, err := p.MarshalText(); err == nil {
			t.Errorf("encode %s: accepted", name)
		}
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(testCheckpoint(0).Text())
	f.Add(testCheckpoint(7).Text())
	f.Add("a\n01\n" + Hash{}.Base64() + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := ParseCheckpoint(s); err == nil && c.Text() != s {
			t.Fatalf("%q was accepted and is written %q", s, c.Text())
		}
	})
}

// FuzzOpenNote wants whatever we accept to be accepted by x/mod, with the same text: ours is the stricter.
func FuzzOpenNote(f *testing.F) {
	s, k := testKey(f, testOrigin)
	other, _ := testKey(f, "witness.example")
	v, err := note.NewVerifier(k.String())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sign(f, testCheckpoint(7).Text(), s))
	f.Add(sign(f, testCheckpoint(7).Text(), s, other))
	f.Add(sign(f, "a\n\nb\n", s))
	f.Add([]byte(testCheckpoint(7).Text() + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := OpenNote(data, []Key{k})
		n, xerr := note.Open(data, note.VerifierList(v))
		if err == nil && (xerr != nil || n.Text != text) {
			t.Fatalf("accepted %q as %q; x/mod says %v", data, text, xerr)
		}
		if parsed, err := ParseNote(data); err == nil {
			var b strings.Builder
			b.WriteString(parsed.Text + "\n")
			for _, sig := range parsed.Signatures {
				id := []byte{byte(sig.ID >> 24), byte(sig.ID >> 16), byte(sig.ID >> 8), byte(sig.ID)}
				b.WriteString("— " + sig.Name + " " + base64.StdEncoding.EncodeToString(append(id, sig.Bytes...)) + "\n")
			}
			if b.String() != string(data) {
				t.Fatalf("%q was taken apart and is put together as %q", data, b.String())
			}
		}
	})
}

func FuzzParseInclusionProof(f *testing.F) {
	s, k := testKey(f, testOrigin)
	d := lines(7)
	for _, extra := range [][]byte{nil, {}, []byte("extra")} {
		for _, cp := range [][]byte{sign(f, testCheckpoint(7).Text(), s), []byte(testCheckpoint(7).Text() + "\n")} {
			text, err := InclusionProof{Index: 3, Hashes: naivePath(3, d), Checkpoint: cp, Extra: extra}.MarshalText()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseInclusionProof(data)
		if err != nil {
			return
		}
		text, err := p.MarshalText()
		if err != nil || !bytes.Equal(text, data) {
			t.Fatalf("%q was accepted and is written %q, %v", data, text, err)
		}
		if _, err := p.Verify(d[3], testOrigin, []Key{k}); err == nil && (p.Index != 3 || fmt.Sprint(p.Hashes) != fmt.Sprint(naivePath(3, d))) {
			t.Fatalf("%q verified", data)
		}
	})
}
