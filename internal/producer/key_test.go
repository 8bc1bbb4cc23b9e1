package producer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

func testKey(t testing.TB, algorithm string) *PrivateKey {
	t.Helper()
	p, err := NewKey("billing.example.com", algorithm, [32]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSignatureCoversEverything(t *testing.T) {
	content := []byte(`{"level":"INFO","message":"x"}`)
	for _, algorithm := range []string{Ed25519, MLDSA44} {
		p := testKey(t, algorithm)
		sig, err := p.Sign("example.com/a", 7, content)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey(p.Key().String())
		if err != nil {
			t.Fatal(err)
		}
		if !k.Verify("example.com/a", sig, content) {
			t.Fatalf("%s: a good signature is refused", algorithm)
		}
		other := func(change func(*entry.Producer)) entry.Producer {
			s := sig
			s.Signature = bytes.Clone(sig.Signature)
			change(&s)
			return s
		}
		for name, bad := range map[string]bool{
			"origin":    k.Verify("example.com/b", sig, content),
			"content":   k.Verify("example.com/a", sig, append(bytes.Clone(content), ' ')),
			"no line":   k.Verify("example.com/a", sig, nil),
			"counter":   k.Verify("example.com/a", other(func(s *entry.Producer) { s.Counter++ }), content),
			"key":       k.Verify("example.com/a", other(func(s *entry.Producer) { s.Key = "0123456789abcdef" }), content),
			"signature": k.Verify("example.com/a", other(func(s *entry.Producer) { s.Signature[5] ^= 1 }), content),
			"length":    k.Verify("example.com/a", other(func(s *entry.Producer) { s.Signature = s.Signature[1:] }), content),
			"no key":    Key{}.Verify("example.com/a", other(func(s *entry.Producer) { s.Key = "" }), content),
		} {
			if bad {
				t.Errorf("%s: another %s is accepted", algorithm, name)
			}
		}
		// One signature under another key of the same name.
		again, err := NewKey("billing.example.com", algorithm, [32]byte{9})
		if err != nil {
			t.Fatal(err)
		}
		if again.Key().Verify("example.com/a", other(func(s *entry.Producer) { s.Key = again.Key().ID() }), content) {
			t.Errorf("%s: another key accepts the signature", algorithm)
		}
	}
}

func TestKeyHasOneSpelling(t *testing.T) {
	for _, algorithm := range []string{Ed25519, MLDSA44} {
		p := testKey(t, algorithm)
		again, err := ParsePrivateKey(p.String())
		if err != nil || again.Key().String() != p.Key().String() || again.String() != p.String() {
			t.Errorf("%s: the private form reads back as %v, %v", algorithm, again, err)
		}
		key, private := p.Key().String(), p.String()
		for _, bad := range []string{
			"", "x", key[1:] + "+", strings.TrimSuffix(key, "="), key + "\n", " " + key, strings.Replace(key, algorithm, "ed448", 1), "+" + key,
			strings.Replace(key, "billing", "bill ing", 1), strings.Replace(key, "billing", "bill\x1bing", 1), strings.Replace(key, "billing", "bill\xffing", 1),
			strings.Replace(key, "billing", `bill"ing`, 1), strings.Replace(key, "billing", strings.Repeat("b", 256), 1), strings.TrimPrefix(key, "billing.example.com"),
			strings.TrimSuffix(key, "=") + "\n=", key[:len(key)-4] + "====",
		} {
			if _, err := ParseKey(bad); err == nil {
				t.Errorf("%s: key %.60q is read", algorithm, bad)
			} else if len(err.Error()) > 600 {
				t.Errorf("%s: an error of %d bytes", algorithm, len(err.Error()))
			}
		}
		secret := private[strings.LastIndexByte(private, '+')+1:]
		for _, bad := range []string{
			"", key, private + "\n", strings.TrimPrefix(private, privatePrefix), strings.TrimSuffix(private, "="), strings.Replace(private, algorithm, "ed448", 1),
			strings.Replace(private, "billing", "bill ing", 1), private[:len(private)-2] + "B=",
		} {
			if _, err := ParsePrivateKey(bad); err == nil || strings.Contains(err.Error(), secret[:8]) {
				t.Errorf("%s: private key %.30q…: got %v", algorithm, bad, err)
			}
		}
	}
}

func TestKeyIDsAreTheOnesOfTheFormat(t *testing.T) {
	const key = "billing.example.com+ed25519+iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
	k, err := ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	// printf %s "$key" | sha256sum | cut -c1-16
	if got, want := k.ID(), "aeddfe61b100fe8c"; got != want || k.Name() != "billing.example.com" || k.Algorithm() != Ed25519 {
		t.Errorf("got %s %s %s, want %s", got, k.Name(), k.Algorithm(), want)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(testKey(f, Ed25519).Key().String())
	f.Add(testKey(f, MLDSA44).Key().String())
	f.Add(testKey(f, Ed25519).String())
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Errorf("%q reads as %q", s, k)
		}
		if p, err := ParsePrivateKey(s); err == nil && p.String() != s {
			t.Errorf("%q reads as %q", s, p)
		}
	})
}
