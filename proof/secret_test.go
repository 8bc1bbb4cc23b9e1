package proof

import (
	"strings"
	"testing"
)

// TestErrorsDoNotShowPrivateKeys gives private keys where public ones belong, as people do by mistake: the error goes to terminals,
// alerts and logs.
func TestErrorsDoNotShowPrivateKeys(t *testing.T) {
	for _, typ := range []byte{TypeEd25519, TypeCosignature, TypeMLDSA44} {
		p, err := NewKey(typ, "a.example", [32]byte{1, 2, 3, typ})
		if err != nil {
			t.Fatal(err)
		}
		secret := p.String()
		part := secret[len(secret)-20:]
		_, err1 := ParseKey(secret)
		_, err2 := ParseKey(secret + "\n")
		_, err3 := ParsePolicy([]byte("log " + secret + "\nquorum none\n"))
		_, err4 := ParsePolicy([]byte("witness a " + secret + "\nquorum none\n"))
		_, err5 := ParsePolicy([]byte(secret + "\nquorum none\n"))
		_, err6 := NewChain("a.example", []string{secret})
		for i, err := range []error{err1, err2, err3, err4, err5, err6} {
			switch {
			case err == nil:
				t.Errorf("type %#02x, %d: a private key was taken for a public one", typ, i+1)
			case strings.Contains(err.Error(), part) || strings.Contains(err.Error(), secret[len(secret)-44:len(secret)-24]):
				t.Errorf("type %#02x, %d: the error shows the key: %v", typ, i+1, err)
			}
		}
	}
}
