package oracle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	mrand "math/rand/v2"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"golang.org/x/mod/sumdb/note"

	"github.com/tree-of-life-system/immutable/proof"
)

const trustOrigin = "example.com/log"

func trustKey(t testing.TB, typ byte, name string, rng *mrand.Rand) (*proof.PrivateKey, [32]byte) {
	t.Helper()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rng.Uint32())
	}
	k, err := proof.NewKey(typ, name, seed)
	if err != nil {
		t.Fatal(err)
	}
	return k, seed
}

func trustCheckpoint(rng *mrand.Rand) proof.Checkpoint {
	c := proof.Checkpoint{Origin: trustOrigin, Size: 1 + rng.Uint64N(proof.MaxSize)}
	for i := range c.Root {
		c.Root[i] = byte(rng.Uint32())
	}
	return c
}

func noteOf(t testing.TB, text string, lines ...[]byte) []byte {
	t.Helper()
	return append([]byte(text+"\n"), bytes.Join(lines, nil)...)
}

func line(t testing.TB, k *proof.PrivateKey, text string, unix uint64) []byte {
	t.Helper()
	l, err := k.SignatureLine(text, unix)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// subtreeMessage is the cosigned_message of C2SP tlog-cosignature, in the notation of RFC 8446.
func subtreeMessage(name string, unix uint64, c proof.Checkpoint) []byte {
	vector := func(s string) []byte { return append([]byte{byte(len(s))}, s...) }
	u64 := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	return bytes.Join([][]byte{[]byte("subtree/v1\n"), {0}, vector(name), u64(unix), vector(c.Origin), u64(0), u64(c.Size), c.Root[:]}, nil)
}

// Seeds, public keys, messages and signatures of type 0x06 are those of a second implementation of FIPS 204.
func TestMLDSASignaturesAgreeWithCircl(t *testing.T) {
	rng := newRand(t)
	for range 20 {
		name := []string{trustOrigin, "witness.example"}[rng.IntN(2)]
		ours, seed := trustKey(t, proof.TypeMLDSA44, name, rng)
		pub, theirs := mldsa44.NewKeyFromSeed(&seed)
		wantKey := append([]byte{proof.TypeMLDSA44}, pub.Bytes()...)
		if _, b64, _ := strings.Cut(strings.TrimPrefix(ours.Key().String(), name+"+"), "+"); b64 != base64.StdEncoding.EncodeToString(wantKey) {
			t.Fatal("public keys differ")
		}
		c, unix := trustCheckpoint(rng), 1+rng.Uint64N(1<<36)
		message := subtreeMessage(name, unix, c)
		parsed, err := proof.ParseNote(noteOf(t, c.Text(), line(t, ours, c.Text(), unix)))
		if err != nil {
			t.Fatal(err)
		}
		sig := parsed.Signatures[0].Bytes
		if binary.BigEndian.Uint64(sig) != unix || !mldsa44.Verify(pub, message, nil, sig[8:]) {
			t.Error("circl refuses our signature")
		}
		for _, randomized := range []bool{false, true} {
			b := make([]byte, mldsa44.SignatureSize)
			if err := mldsa44.SignTo(theirs, message, nil, randomized, b); err != nil {
				t.Fatal(err)
			}
			if !randomized && !bytes.Equal(b, sig[8:]) {
				t.Error("deterministic signatures differ")
			}
			signed := append(binary.BigEndian.AppendUint64(nil, unix), b...)
			n := proof.Note{Text: c.Text(), Signatures: []proof.Signature{{Name: name, ID: ours.Key().ID(), Bytes: signed}}}
			if s, err := n.Verify([]proof.Key{ours.Key()}); err != nil || len(s) != 1 || s[0].Time.Unix() != int64(unix) {
				t.Errorf("we refuse circl's signature: %v", err)
			}
			// The empty context is part of what is signed, and so is each member of the message.
			if err := mldsa44.SignTo(theirs, message, []byte("x"), false, b); err != nil {
				t.Fatal(err)
			}
			copy(signed[8:], b)
			if _, err := n.Verify([]proof.Key{ours.Key()}); err == nil {
				t.Error("a signature under another context was accepted")
			}
		}
	}
}

func TestCosignaturesAgreeWithTorchwood(t *testing.T) {
	rng := newRand(t)
	for range 20 {
		ours, seed := trustKey(t, proof.TypeCosignature, "witness.example", rng)
		c := trustCheckpoint(rng)
		v, err := torchwood.NewCosignatureVerifier(ours.Key().String())
		if err != nil {
			t.Fatal(err)
		}
		unix := 1 + rng.Uint64N(1<<36)
		data := noteOf(t, c.Text(), line(t, ours, c.Text(), unix))
		n, err := note.Open(data, note.VerifierList(v))
		if err != nil {
			t.Fatalf("torchwood refuses our cosignature: %v", err)
		}
		if at, err := torchwood.CosignatureTimestamp(n.Sigs[0]); err != nil || uint64(at) != unix {
			t.Errorf("torchwood reads the time %d, %v, want %d", at, err, unix)
		}
		s, err := torchwood.NewCosignatureSigner("witness.example", ed25519.NewKeyFromSeed(seed[:]))
		if err != nil {
			t.Fatal(err)
		}
		if s.Verifier().String() != ours.Key().String() {
			t.Errorf("keys differ: %s and %s", s.Verifier(), ours.Key())
		}
		theirs, err := note.Sign(&note.Note{Text: c.Text()}, s)
		if err != nil {
			t.Fatal(err)
		}
		p, err := proof.ParseNote(theirs)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Verify([]proof.Key{ours.Key()})
		if err != nil || len(got) != 1 {
			t.Fatalf("we refuse torchwood's cosignature: %v", err)
		}
		if at, err := torchwood.CosignatureTimestamp(note.Signature{Base64: base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, p.Signatures[0].ID), p.Signatures[0].Bytes...))}); err != nil || got[0].Time.Unix() != at {
			t.Errorf("got the time %v, torchwood says %d, %v", got[0].Time, at, err)
		}
	}
}

// Where both parse a policy they say the same of every checkpoint; ours refuses some that torchwood takes, never the other way round.
func TestPoliciesAgreeWithTorchwood(t *testing.T) {
	rng := newRand(t)
	log, _ := trustKey(t, proof.TypeEd25519, trustOrigin, rng)
	var witnesses []*proof.PrivateKey
	var head strings.Builder
	fmt.Fprintf(&head, "# a policy\n\nlog %s\n", log.Key())
	for i := range 5 {
		w, _ := trustKey(t, proof.TypeCosignature, fmt.Sprintf("w%d.example", i), rng)
		witnesses = append(witnesses, w)
		fmt.Fprintf(&head, "witness w%d %s https://w%d.example/\n", i, w.Key(), i)
	}
	c := trustCheckpoint(rng)
	lines := [][]byte{line(t, log, c.Text(), 1)}
	for _, w := range witnesses {
		lines = append(lines, line(t, w, c.Text(), 1_700_000_000))
	}
	bodies := []string{
		"quorum none\n", "quorum w3\n", "group g all w0 w1 w2 w3 w4\nquorum g\n", "group g any w0 w1\nquorum g\n",
		"group x 2 w0 w1 w2\ngroup y any w3 w4\ngroup z all x y\nquorum z\n", "group x 1 w0\n\tgroup y 2 x w1  w2 \nquorum y\n",
		"group g 3 w0 w1\nquorum g\n", "group g 0 w0\nquorum g\n", "quorum nobody\n", "quorum w0\nquorum w1\n", "", "group g any\nquorum g\n",
		"witness w0 x\nquorum w0\n", "group w0 any w1\nquorum w0\n", "word\nquorum none\n", "group g any w0 w0\nquorum g\n",
	}
	var satisfied, not, refused int
	for _, body := range bodies {
		text := head.String() + body
		ours, err := proof.ParsePolicy([]byte(text))
		theirs, theirErr := torchwood.ParsePolicy([]byte(text))
		if err != nil {
			refused++
			continue
		}
		if theirErr != nil {
			t.Errorf("%q: torchwood refuses it, %v, and we do not", body, theirErr)
			continue
		}
		for subset := range 1 << len(lines) {
			var by [][]byte
			for i, l := range lines {
				if subset>>i&1 == 1 {
					by = append(by, l)
				}
			}
			if len(by) == 0 {
				continue
			}
			data := noteOf(t, c.Text(), by...)
			r := ours.Check(data)
			_, _, err := torchwood.VerifyCheckpoint(data, theirs)
			if r.Satisfied != (err == nil) {
				t.Errorf("%q, signed %06b: we say %v (%s), torchwood %v", body, subset, r.Satisfied, r.Quorum, err)
			}
			if r.Satisfied {
				satisfied++
			} else {
				not++
			}
		}
	}
	if satisfied < 40 || not < 40 || refused != 10 {
		t.Errorf("%d satisfied, %d not, %d policies refused: the test has no force", satisfied, not, refused)
	}
}
