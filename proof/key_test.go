package proof

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const testUnix = 1_700_000_000

var allTypes = []byte{TypeEd25519, TypeCosignature, TypeMLDSA44}

// privKey returns the same key in each run; another seed byte is another key.
func privKey(t testing.TB, typ byte, name string, seed byte) *PrivateKey {
	t.Helper()
	p, err := NewKey(typ, name, [32]byte{seed, typ})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// signBy returns the note of text with a signature by each of keys at testUnix.
func signBy(t testing.TB, text string, keys ...*PrivateKey) []byte {
	t.Helper()
	data := []byte(text + "\n")
	for _, p := range keys {
		data = append(data, lineBy(t, text, testUnix, p)...)
	}
	return data
}

func lineBy(t testing.TB, text string, unix uint64, p *PrivateKey) string {
	t.Helper()
	line, err := p.SignatureLine(text, unix)
	if err != nil {
		t.Fatal(err)
	}
	return string(line)
}

func mustNote(t testing.TB, data []byte) *Note {
	t.Helper()
	n, err := ParseNote(data)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKeysComeBack(t *testing.T) {
	for _, typ := range allTypes {
		for _, name := range []string{"a", testOrigin, strings.Repeat("n", MaxKeyName), "héé"} {
			p := privKey(t, typ, name, 1)
			k, err := ParseKey(p.Key().String())
			if err != nil || k.String() != p.Key().String() || k.Type() != typ || k.Name() != name || k.ID() != p.Key().ID() || k.IsZero() {
				t.Errorf("type %#02x: got %v, %v, want %v", typ, k, err, p.Key())
			}
			again, err := ParsePrivateKey(p.String())
			if err != nil || again.String() != p.String() || again.Key().String() != p.Key().String() {
				t.Errorf("type %#02x: got %v", typ, err)
			}
		}
	}
	if k := (Key{}); !k.IsZero() || k.Type() != 0 {
		t.Errorf("the zero key has type %#02x", k.Type())
	}
}

// Type 0x01 is that of x/mod's package note, in both directions.
func TestEd25519KeysAreThoseOfTheNotePackage(t *testing.T) {
	p := privKey(t, TypeEd25519, testOrigin, 1)
	s, err := note.NewSigner(p.String())
	if err != nil {
		t.Fatal(err)
	}
	text := testCheckpoint(7).Text()
	if got, want := string(signBy(t, text, p)), string(sign(t, text, s)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	v, err := note.NewVerifier(p.Key().String())
	if err != nil || v.KeyHash() != p.Key().ID() {
		t.Errorf("got %v, %v", v, err)
	}
}

func TestParseKeyRefusesEveryOtherSpellingOfEachType(t *testing.T) {
	for _, typ := range allTypes {
		good := privKey(t, typ, testOrigin, 1).Key().String()
		name, rest, _ := strings.Cut(good, "+")
		id, b64, _ := strings.Cut(rest, "+")
		pub, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			t.Fatal(err)
		}
		vkey := func(name string, pub []byte) string {
			return fmt.Sprintf("%s+%08x+%s", name, keyID(name, pub), base64.StdEncoding.EncodeToString(pub))
		}
		if vkey(name, pub) != good {
			t.Fatal("the test encodes keys otherwise than the key does")
		}
		bad := map[string]string{
			"another id":     name + "+00000000+" + b64,
			"upper-case id":  name + "+" + strings.ToUpper(id) + "+" + b64,
			"another name":   "x" + good,
			"no name":        vkey("", pub),
			"space in name":  vkey("a b", pub),
			"long name":      vkey(strings.Repeat("n", MaxKeyName+1), pub),
			"a byte more":    vkey(name, append(bytes.Clone(pub), 0)),
			"a byte less":    vkey(name, pub[:len(pub)-1]),
			"type only":      vkey(name, pub[:1]),
			"nothing":        vkey(name, nil),
			"newline inside": name + "+" + id + "+" + b64[:8] + "\n" + b64[8:],
			"no padding":     strings.TrimRight(good, "=") + "+",
			"private":        privatePrefix + good,
		}
		for other := range 256 {
			if slot := byte(other); slot != typ && !(len(pub) == 33 && (slot == TypeEd25519 || slot == TypeCosignature)) {
				bad[fmt.Sprintf("type %#02x", other)] = vkey(name, append([]byte{slot}, pub[1:]...))
			}
		}
		if strings.ToUpper(id) == id {
			delete(bad, "upper-case id")
		}
		for what, s := range bad {
			if _, err := ParseKey(s); err == nil {
				t.Errorf("type %#02x, %s: accepted", typ, what)
			}
		}
	}
}

func TestParsePrivateKeyRefusesAnythingElseAndShowsNothing(t *testing.T) {
	for _, typ := range allTypes {
		good := privKey(t, typ, testOrigin, 1).String()
		secret := good[len(good)-40:]
		refused := func(what, s string) {
			t.Helper()
			_, err := ParsePrivateKey(s)
			if err == nil {
				t.Errorf("type %#02x, %s: accepted", typ, what)
			} else if strings.Contains(err.Error(), secret[4:20]) {
				t.Errorf("type %#02x, %s: the error shows the key: %v", typ, what, err)
			}
		}
		for i := range good {
			refused("cut", good[:i])
			refused("a flipped bit", good[:i]+string(good[i]^1)+good[i+1:])
		}
		refused("a newline", good+"\n")
		refused("a verifier key", strings.TrimPrefix(good, privatePrefix))
		refused("a line break", good[:len(good)-8]+"\n"+good[len(good)-8:])
	}
	if _, err := NewKey(0x02, testOrigin, [32]byte{}); err == nil {
		t.Error("a key of type 0x02 was made")
	}
	if _, err := NewKey(TypeEd25519, "a b", [32]byte{}); err == nil {
		t.Error("a key with a space in its name was made")
	}
}

func TestTheBytesOfASignatureOfEachTypeCount(t *testing.T) {
	text := testCheckpoint(7).Text()
	for _, typ := range allTypes {
		p := privKey(t, typ, testOrigin, 1)
		sig := mustNote(t, signBy(t, text, p)).Signatures[0]
		wantLen := map[byte]int{TypeEd25519: 64, TypeCosignature: 8 + 64, TypeMLDSA44: 8 + 2420}[typ]
		if len(sig.Bytes) != wantLen {
			t.Errorf("type %#02x: a signature has %d bytes, want %d", typ, len(sig.Bytes), wantLen)
		}
		verify := func(text string, b []byte) error {
			_, err := (&Note{Text: text, Signatures: []Signature{{sig.Name, sig.ID, b}}}).Verify([]Key{p.Key()})
			return err
		}
		if err := verify(text, sig.Bytes); err != nil {
			t.Fatal(err)
		}
		var bad *SignatureError
		// Every byte of the time and of an Ed25519 signature, and samples of the 2,420 bytes of an ML-DSA signature.
		for i := 0; i < len(sig.Bytes); i += 1 + i/73*6 {
			b := bytes.Clone(sig.Bytes)
			b[i] ^= 1 << (i % 8)
			if err := verify(text, b); !errors.As(err, &bad) {
				t.Fatalf("type %#02x, byte %d flipped: got %v", typ, i, err)
			}
		}
		for _, b := range [][]byte{nil, sig.Bytes[:7], sig.Bytes[:8], sig.Bytes[:len(sig.Bytes)-1], append(bytes.Clone(sig.Bytes), 0)} {
			if err := verify(text, b); !errors.As(err, &bad) || bad.Reason == "" {
				t.Errorf("type %#02x, %d bytes: got %v", typ, len(b), err)
			}
		}
		if err := verify(testCheckpoint(6).Text(), sig.Bytes); !errors.As(err, &bad) {
			t.Errorf("type %#02x: another text: got %v", typ, err)
		}
	}
}

func TestVerifyReturnsWhoSignedInTheOrderOfTheNote(t *testing.T) {
	text := testCheckpoint(7).Text()
	log, ml := privKey(t, TypeEd25519, testOrigin, 1), privKey(t, TypeMLDSA44, testOrigin, 2)
	w4, w6 := privKey(t, TypeCosignature, "w.example", 3), privKey(t, TypeMLDSA44, "w.example", 4)
	data := signBy(t, text, w6, log, privKey(t, TypeEd25519, "unknown.example", 9), ml, w4)
	got, err := mustNote(t, data).Verify([]Key{log.Key(), ml.Key(), w4.Key(), w6.Key()})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(testUnix, 0).UTC()
	want := []Signer{{w6.Key(), at}, {log.Key(), time.Time{}}, {ml.Key(), at}, {w4.Key(), at}}
	if fmt.Sprint(describe(got)) != fmt.Sprint(describe(want)) {
		t.Errorf("got %v, want %v", describe(got), describe(want))
	}
	if got, err := mustNote(t, data).Verify(nil); err != nil || len(got) != 0 {
		t.Errorf("without keys: got %v, %v", got, err)
	}
	if got, err := mustNote(t, data).Verify([]Key{{}}); err != nil || len(got) != 0 {
		t.Errorf("the zero key: got %v, %v", got, err)
	}
	if _, err := mustNote(t, data).Verify([]Key{log.Key(), log.Key()}); !errors.Is(err, ErrAmbiguousKey) {
		t.Errorf("a key twice: got %v", err)
	}
}

func describe(signers []Signer) (s []string) {
	for _, x := range signers {
		s = append(s, x.Key.String()[:40]+" "+x.Time.String())
	}
	return s
}

// The ML-DSA message binds name, time, origin, size and root; the Ed25519 cosignature binds time and text.
func TestWhatACosignatureSigns(t *testing.T) {
	c := Checkpoint{"o.example", 0x0102, Hash{0xaa}}
	w := privKey(t, TypeMLDSA44, "w", 1).Key()
	got, err := w.message(c.Text(), 0x0304)
	want := "subtree/v1\n\x00" + "\x01w" + "\x00\x00\x00\x00\x00\x00\x03\x04" + "\x09o.example" + strings.Repeat("\x00", 8) + "\x00\x00\x00\x00\x00\x00\x01\x02" + string(c.Root[:])
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	got, err = privKey(t, TypeCosignature, "w", 1).Key().message(c.Text(), 1679315147)
	if want := "cosignature/v1\ntime 1679315147\n" + c.Text(); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestTimesOfCosignatures(t *testing.T) {
	text := testCheckpoint(7).Text()
	for _, c := range []struct {
		what string
		key  *PrivateKey
		unix uint64
		ok   bool
	}{
		{"a log without a time", privKey(t, TypeMLDSA44, testOrigin, 1), 0, true},
		{"a witness without a time", privKey(t, TypeMLDSA44, "w.example", 1), 0, false},
		{"an Ed25519 witness without a time", privKey(t, TypeCosignature, "w.example", 1), 0, false},
		{"a witness at 1", privKey(t, TypeMLDSA44, "w.example", 1), 1, true},
		{"an Ed25519 witness at 1", privKey(t, TypeCosignature, "w.example", 1), 1, true},
		{"the end of the year 9999", privKey(t, TypeMLDSA44, "w.example", 1), maxUnix, true},
		{"after the year 9999", privKey(t, TypeMLDSA44, "w.example", 1), maxUnix + 1, false},
		{"Ed25519 at the end of the year 9999", privKey(t, TypeCosignature, "w.example", 1), maxUnix, true},
		{"Ed25519 after the year 9999", privKey(t, TypeCosignature, "w.example", 1), maxUnix + 1, false},
		{"2^64 - 1", privKey(t, TypeMLDSA44, testOrigin, 1), 1<<64 - 1, false},
		{"a log's Ed25519 signature has none", privKey(t, TypeEd25519, testOrigin, 1), 1<<64 - 1, true},
	} {
		line, err := c.key.SignatureLine(text, c.unix)
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v, want ok %v", c.what, err, c.ok)
			continue
		}
		if !c.ok {
			continue
		}
		s, err := mustNote(t, []byte(text+"\n"+string(line))).Verify([]Key{c.key.Key()})
		var want time.Time
		if c.unix != 0 && c.key.Key().Type() != TypeEd25519 {
			want = time.Unix(int64(c.unix), 0).UTC()
		}
		if err != nil || len(s) != 1 || !s[0].Time.Equal(want) || s[0].Time.IsZero() != want.IsZero() {
			t.Errorf("%s: got %v, %v, want %v", c.what, s, err, want)
		}
	}
}

// A verifier must refuse such a signature also where the signer did not: it is made here by hand.
func TestAWitnessesGoodSignatureWithoutATimeIsRefused(t *testing.T) {
	text := testCheckpoint(7).Text()
	w := privKey(t, TypeCosignature, "w.example", 1)
	line := mustNote(t, signBy(t, text, w)).Signatures[0]
	sig := append(binary.BigEndian.AppendUint64(nil, 0), edSign(w, cosignaturePrefix+"0\n"+text)...)
	_, err := (&Note{Text: text, Signatures: []Signature{{line.Name, line.ID, sig}}}).Verify([]Key{w.Key()})
	var bad *SignatureError
	if !errors.As(err, &bad) || !strings.Contains(bad.Reason, "without a time") {
		t.Errorf("got %v", err)
	}
}

func edSign(p *PrivateKey, message string) []byte {
	q := *p
	q.key.pub = string([]byte{TypeEd25519}) + q.key.pub[1:]
	sig, _ := q.sign(message, 0)
	return sig
}

func TestMLDSASignsCheckpointsOnly(t *testing.T) {
	p := privKey(t, TypeMLDSA44, testOrigin, 1)
	for _, text := range []string{"immutable/seal/1\n7\n", testCheckpoint(7).Text() + "extension\n", "", "x"} {
		if _, err := p.SignatureLine(text, testUnix); err == nil {
			t.Errorf("%q was signed", text)
		}
	}
	sig := mustNote(t, signBy(t, testCheckpoint(7).Text(), p)).Signatures[0]
	_, err := (&Note{Text: "a\nb\n", Signatures: []Signature{sig}}).Verify([]Key{p.Key()})
	if !errors.As(err, new(*SignatureError)) {
		t.Errorf("over another text: got %v", err)
	}
	for _, typ := range []byte{TypeEd25519, TypeCosignature} {
		if _, err := privKey(t, typ, testOrigin, 1).SignatureLine("any\ntext\n", testUnix); err != nil {
			t.Errorf("type %#02x: %v", typ, err)
		}
		for _, text := range []string{"", "no newline", "control\x01\n", "invalid \xff\n"} {
			if _, err := privKey(t, typ, testOrigin, 1).SignatureLine(text, testUnix); !errors.Is(err, ErrMalformedNote) {
				t.Errorf("type %#02x, %q: got %v", typ, text, err)
			}
		}
	}
}

func TestSignaturesAreDeterministic(t *testing.T) {
	for _, typ := range allTypes {
		p := privKey(t, typ, testOrigin, 1)
		text := testCheckpoint(7).Text()
		if a, b := lineBy(t, text, testUnix, p), lineBy(t, text, testUnix, p); a != b {
			t.Errorf("type %#02x: two signatures of one text differ", typ)
		}
	}
}

func TestCheckpointOpensWithEitherKeyOfTheLogButNoCosignature(t *testing.T) {
	c := testCheckpoint(7)
	for _, typ := range allTypes {
		p := privKey(t, typ, testOrigin, 1)
		_, err := OpenCheckpoint(signBy(t, c.Text(), p), testOrigin, []Key{p.Key()})
		if ok := typ != TypeCosignature; (err == nil) != ok || !ok && !errors.Is(err, ErrNoSignature) {
			t.Errorf("type %#02x: got %v", typ, err)
		}
	}
	ml := privKey(t, TypeMLDSA44, testOrigin, 1)
	c.Origin = "example.com/other"
	if _, err := OpenCheckpoint(signBy(t, c.Text(), ml), testOrigin, []Key{ml.Key()}); !errors.Is(err, ErrOrigin) {
		t.Errorf("another origin: got %v", err)
	}
}

// Package time is allowed for values; a verdict must not depend on when it is asked for.
func TestProofReadsNoClock(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) < 5 {
		t.Fatal(names, err)
	}
	allowed := map[string]bool{"Time": true, "Unix": true}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && !allowed[s.Sel.Name] {
					t.Errorf("%s uses time.%s", name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

func FuzzParseKey(f *testing.F) {
	for _, typ := range allTypes {
		f.Add(privKey(f, typ, testOrigin, 1).Key().String())
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Fatalf("%q was accepted and is written %q", s, k.String())
		}
	})
}

// BenchmarkSignCheckpointMLDSA includes the verification of what was signed.
func BenchmarkSignCheckpointMLDSA(b *testing.B) {
	p := privKey(b, TypeMLDSA44, testOrigin, 1)
	text := testCheckpoint(7).Text()
	for b.Loop() {
		if _, err := p.SignatureLine(text, testUnix); err != nil {
			b.Fatal(err)
		}
	}
}
