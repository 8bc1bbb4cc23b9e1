package proof

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"testing"
)

// seededProof is the proof that ConsistencyRoot takes, by the definition of RFC 9162.
func seededProof(a int, d [][]byte) []Hash {
	p := naiveProof(a, d)
	if bits.OnesCount(uint(a)) == 1 {
		p = append([]Hash{naiveRoot(d[:a])}, p...)
	}
	return p
}

// forked returns n lines of which those from index at on differ from lines(n).
func forked(n, at int) [][]byte {
	d := lines(n)
	for i := at; i < n; i++ {
		d[i] = fmt.Appendf(nil, "fork %d", i)
	}
	return d
}

func checkpointOf(d [][]byte) Checkpoint {
	return Checkpoint{testOrigin, uint64(len(d)), naiveRoot(d)}
}

func TestConsistencyRootIsTheRootOfTheFirstLeaves(t *testing.T) {
	const most = 70
	d := lines(most)
	for b := 2; b <= most; b++ {
		rootB := naiveRoot(d[:b])
		for a := 1; a < b; a++ {
			p := seededProof(a, d[:b])
			want := naiveRoot(d[:a])
			got, err := ConsistencyRoot(p, uint64(a), uint64(b), rootB)
			if err != nil || got != want {
				t.Fatalf("from %d to %d: got %v, %v, want %v", a, b, got, err, want)
			}
			if b%7 != 0 {
				continue
			}
			checkEveryMutation(t, fmt.Sprintf("from %d to %d", a, b), p, func(p []Hash) error {
				got, err := ConsistencyRoot(p, uint64(a), uint64(b), rootB)
				if err == nil && got != want {
					t.Fatalf("from %d to %d: another proof leads to %v", a, b, got)
				}
				return err
			})
			var m *MismatchError
			if _, err := ConsistencyRoot(p, uint64(a), uint64(b), Hash{1}); !errors.As(err, &m) {
				t.Fatalf("another newer root: got %v", err)
			}
		}
	}
	for _, s := range [][2]uint64{{0, 0}, {0, 1}, {1, 1}, {2, 1}, {1 << 63, 5}} {
		if _, err := ConsistencyRoot([]Hash{EmptyRoot()}, s[0], s[1], EmptyRoot()); !errors.Is(err, ErrProofShape) {
			t.Errorf("from %d to %d: got %v", s[0], s[1], err)
		}
	}
	for a := uint64(1); a < 5; a++ {
		if _, err := ConsistencyRoot(nil, a, 5, Hash{}); !errors.Is(err, ErrProofShape) {
			t.Errorf("no hashes from %d: got %v", a, err)
		}
	}
}

func TestForksAreProvenAndComeBack(t *testing.T) {
	log := privKey(t, TypeEd25519, testOrigin, 1)
	keys := []Key{log.Key()}
	for _, s := range []struct{ a, b, at int }{{1, 1, 0}, {7, 7, 3}, {1, 2, 0}, {4, 7, 2}, {4, 8, 3}, {5, 6, 0}, {5, 70, 4}, {64, 70, 10}, {69, 70, 68}} {
		d, f := lines(s.a), forked(s.b, s.at)
		m := Misbehaviour{A: signBy(t, checkpointOf(d).Text(), log), B: signBy(t, checkpointOf(f).Text(), log)}
		if s.a < s.b {
			m.Proof = seededProof(s.a, f)
		}
		text, err := m.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseMisbehaviour(text)
		if err != nil || !bytes.Equal(again.A, m.A) || !bytes.Equal(again.B, m.B) || fmt.Sprint(again.Proof) != fmt.Sprint(m.Proof) {
			t.Fatalf("%v: got %v, %v", s, again, err)
		}
		c, err := again.Verify(keys)
		if err != nil || c.Origin != testOrigin || c.Size != uint64(s.a) || c.SizeB != uint64(s.b) || c.RootA != naiveRoot(d) || c.RootB != naiveRoot(f[:s.a]) || len(c.KeysA) != 1 || len(c.KeysB) != 1 {
			t.Errorf("%v: got %v, %v", s, c, err)
		}
		for _, want := range []string{testOrigin, c.RootA.Base64(), c.RootB.Base64(), fmt.Sprintf("%08x", log.Key().ID())} {
			if !strings.Contains(c.String(), want) {
				t.Errorf("%q does not say %q", c, want)
			}
		}
	}
}

func TestWhatIsNoMisbehaviourIsRefused(t *testing.T) {
	log, ml := privKey(t, TypeEd25519, testOrigin, 1), privKey(t, TypeMLDSA44, testOrigin, 2)
	stranger := privKey(t, TypeEd25519, testOrigin, 3)
	w := privKey(t, TypeCosignature, testOrigin, 4)
	d, f := lines(8), forked(8, 3)
	at := func(d [][]byte, n int, by ...*PrivateKey) []byte { return signBy(t, checkpointOf(d[:n]).Text(), by...) }
	other := checkpointOf(f)
	other.Origin = "example.com/other"
	otherLog := privKey(t, TypeEd25519, other.Origin, 5)
	keys := []Key{log.Key(), ml.Key(), w.Key(), otherLog.Key()}
	good := Misbehaviour{at(d, 5, log), at(f, 8, ml), seededProof(5, f)}
	c, err := good.Verify(keys)
	if err != nil || c.KeysA[0].String() != log.Key().String() || c.KeysB[0].String() != ml.Key().String() {
		t.Fatalf("got %v, %v", c, err)
	}
	for what, c := range map[string]struct {
		m    Misbehaviour
		want error
	}{
		"one history":                      {Misbehaviour{at(d, 5, log), at(d, 8, log), seededProof(5, d)}, ErrConsistent},
		"one history to a power of two":    {Misbehaviour{at(d, 4, log), at(d, 8, log), seededProof(4, d)}, ErrConsistent},
		"a fork behind the first size":     {Misbehaviour{at(d, 3, log), at(f, 8, log), seededProof(3, f)}, ErrConsistent},
		"the same checkpoint":              {Misbehaviour{at(d, 5, log), at(d, 5, log), nil}, ErrConsistent},
		"size 0":                           {Misbehaviour{at(d, 0, log), at(f, 8, log), nil}, ErrProofShape},
		"no proof":                         {Misbehaviour{at(d, 5, log), at(f, 8, log), nil}, ErrProofShape},
		"the proof without the first":      {Misbehaviour{at(d, 4, log), at(f, 8, log), seededProof(4, f)[1:]}, ErrProofShape},
		"a proof for equal sizes":          {Misbehaviour{at(d, 5, log), at(f, 5, log), seededProof(3, f[:5])}, ErrProofShape},
		"the larger one first":             {Misbehaviour{at(f, 8, log), at(d, 5, log), seededProof(5, f)}, ErrProofShape},
		"A by a stranger":                  {Misbehaviour{at(d, 5, stranger), at(f, 8, log), seededProof(5, f)}, ErrNoSignature},
		"B by a stranger":                  {Misbehaviour{at(d, 5, log), at(f, 8, stranger), seededProof(5, f)}, ErrNoSignature},
		"A by a witness":                   {Misbehaviour{at(d, 5, w), at(f, 8, log), seededProof(5, f)}, ErrNoSignature},
		"two logs":                         {Misbehaviour{at(d, 8, log), signBy(t, other.Text(), otherLog), nil}, ErrOrigin},
		"another log's key":                {Misbehaviour{at(d, 5, log), signBy(t, checkpointOf(f).Text(), otherLog), seededProof(5, f)}, ErrNoSignature},
		"A is no note":                     {Misbehaviour{[]byte("x"), at(f, 8, log), seededProof(5, f)}, ErrMalformedNote},
		"B is no note":                     {Misbehaviour{at(d, 5, log), []byte("x"), seededProof(5, f)}, ErrMalformedNote},
		"unsigned":                         {Misbehaviour{[]byte(checkpointOf(d[:5]).Text() + "\n"), at(f, 8, log), seededProof(5, f)}, ErrMalformedNote},
		"another proof, of the old tree":   {Misbehaviour{at(d, 5, log), at(f, 8, log), seededProof(5, d)}, new(MismatchError)},
		"a proof from another size":        {Misbehaviour{at(d, 5, log), at(f, 8, log), seededProof(6, f)}, nil},
		"a bad signature besides":          {Misbehaviour{append(at(d, 5, log), lineBy(t, "x\n", 0, stranger)...), append(at(f, 8, log), lineBy(t, checkpointOf(d).Text(), 1, ml)...), seededProof(5, f)}, new(SignatureError)},
		"a text that is no checkpoint":     {Misbehaviour{signBy(t, "x\n", log), at(f, 8, log), seededProof(5, f)}, nil},
		"a signature under another size":   {Misbehaviour{bytes.Replace(at(d, 5, log), []byte("\n5\n"), []byte("\n6\n"), 1), at(f, 8, log), seededProof(6, f)}, new(SignatureError)},
		"a signature under another origin": {Misbehaviour{bytes.Replace(at(d, 8, log), []byte(testOrigin+"\n"), []byte(other.Origin+"\n"), 1), signBy(t, other.Text(), otherLog), nil}, nil},
	} {
		got, err := c.m.Verify(keys)
		ok := err != nil
		switch want := c.want.(type) {
		case nil:
		case *MismatchError:
			ok = errors.As(err, &want)
		case *SignatureError:
			ok = errors.As(err, &want)
		default:
			ok = errors.Is(err, want)
		}
		if !ok {
			t.Errorf("%s: got %v, %v, want %v", what, got, err, c.want)
		}
	}
	if _, err := good.Verify(nil); !errors.Is(err, ErrNoSignature) {
		t.Errorf("without keys: got %v", err)
	}
}

func TestEveryByteOfAMisbehaviourProofCounts(t *testing.T) {
	log := privKey(t, TypeEd25519, testOrigin, 1)
	d, f := lines(5), forked(8, 3)
	m := Misbehaviour{signBy(t, checkpointOf(d).Text(), log), signBy(t, checkpointOf(f).Text(), log), seededProof(5, f)}
	text, err := m.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	accepted := func(data []byte) bool {
		m, err := ParseMisbehaviour(data)
		if err != nil {
			return false
		}
		_, err = m.Verify([]Key{log.Key()})
		return err == nil
	}
	if !accepted(text) {
		t.Fatal("the proof itself is refused")
	}
	for i := range text {
		for bit := range 8 {
			bad := bytes.Clone(text)
			bad[i] ^= 1 << bit
			if accepted(bad) {
				t.Fatalf("byte %d, bit %d flipped: accepted", i, bit)
			}
		}
		if accepted(text[:i]) || accepted(append(bytes.Clone(text[:i]), text[i+1:]...)) {
			t.Fatalf("accepted when cut to %d bytes, or without byte %d", i, i)
		}
	}
}

func TestParseMisbehaviourRefusesEveryOtherSpelling(t *testing.T) {
	log := privKey(t, TypeEd25519, testOrigin, 1)
	d, f := lines(5), forked(8, 3)
	a, b := string(signBy(t, checkpointOf(d).Text(), log)), string(signBy(t, checkpointOf(f).Text(), log))
	other := checkpointOf(f)
	other.Origin = "example.com/other"
	h := Hash{1}.Base64() + "\n"
	good := misbehaviourHeader + h + "\n" + a + "\n" + b
	if _, err := ParseMisbehaviour([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]string{
		"nothing":             "",
		"no header":           h + "\n" + a + "\n" + b,
		"another version":     strings.Replace(good, "/1\n", "/2\n", 1),
		"no empty line":       misbehaviourHeader + h + a + "\n" + b,
		"two empty lines":     misbehaviourHeader + h + "\n\n" + a + "\n" + b,
		"lax hash":            misbehaviourHeader + flipPaddingBit(strings.TrimSpace(h)) + "\n\n" + a + "\n" + b,
		"hex":                 misbehaviourHeader + Hash{1}.String() + "\n\n" + a + "\n" + b,
		"too many hashes":     misbehaviourHeader + strings.Repeat(h, MaxProofHashes+2) + "\n" + a + "\n" + b,
		"one note":            misbehaviourHeader + h + "\n" + a,
		"three notes":         good + "\n" + b,
		"a newline more":      good + "\n",
		"a newline less":      strings.TrimSuffix(good, "\n"),
		"notes run together":  misbehaviourHeader + h + "\n" + a + b,
		"larger first":        misbehaviourHeader + h + "\n" + b + "\n" + a,
		"unsigned A":          misbehaviourHeader + h + "\n" + checkpointOf(d).Text() + "\n\n" + b,
		"unsigned B":          misbehaviourHeader + h + "\n" + a + "\n" + checkpointOf(f).Text() + "\n",
		"not a checkpoint":    misbehaviourHeader + h + "\n" + strings.Replace(a, "\n5\n", "\n05\n", 1) + "\n" + b,
		"another origin":      misbehaviourHeader + h + "\n" + a + "\n" + string(signBy(t, other.Text(), privKey(t, TypeEd25519, other.Origin, 1))),
		"CRLF":                strings.ReplaceAll(good, "\n", "\r\n"),
		"too long":            misbehaviourHeader + strings.Repeat("x", maxMisbehaviour),
		"lax base64 in a sig": strings.Replace(good, "— "+testOrigin+" ", "— "+testOrigin+"  ", 1),
	} {
		if _, err := ParseMisbehaviour([]byte(s)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	// Long input is refused before it is read: notes and hashes would stop it only later.
	if _, err := ParseMisbehaviour([]byte(good + strings.Repeat("x", maxMisbehaviour))); err == nil || !strings.Contains(err.Error(), "bytes, at most") {
		t.Errorf("too long: got %v", err)
	}
	if _, err := ParseMisbehaviour([]byte(misbehaviourHeader + strings.Repeat(h, MaxProofHashes+1) + "\n" + a + "\n" + b)); err != nil {
		t.Errorf("%d hashes: %v", MaxProofHashes+1, err)
	}
	for what, m := range map[string]Misbehaviour{
		"nothing":             {},
		"the larger first":    {A: []byte(b), B: []byte(a)},
		"a note in two":       {A: []byte(a + "\n" + b), B: nil},
		"no end of A":         {A: []byte(strings.TrimSuffix(a, "\n")), B: []byte("\n" + b)},
		"too many hashes":     {A: []byte(a), B: []byte(b), Proof: make([]Hash, MaxProofHashes+2)},
		"an empty line at A":  {A: []byte("\n" + a), B: []byte(b)},
		"a hash in front":     {A: []byte(h + "\n" + a), B: []byte(b)},
		"bytes that are none": {A: []byte(a), B: []byte(base64.StdEncoding.EncodeToString([]byte(b)))},
	} {
		if text, err := m.MarshalText(); err == nil {
			t.Errorf("encode %s: accepted as %q", what, text)
		}
	}
}

func FuzzParseMisbehaviour(f *testing.F) {
	log := privKey(f, TypeEd25519, testOrigin, 1)
	d, fk := lines(5), forked(8, 3)
	for _, m := range []Misbehaviour{
		{signBy(f, checkpointOf(d).Text(), log), signBy(f, checkpointOf(fk).Text(), log), seededProof(5, fk)},
		{signBy(f, checkpointOf(d).Text(), log), signBy(f, checkpointOf(fk[:5]).Text(), log), nil},
	} {
		text, err := m.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMisbehaviour(data)
		if err != nil {
			return
		}
		text, err := m.MarshalText()
		if err != nil || !bytes.Equal(text, data) {
			t.Fatalf("%q was accepted and is written %q, %v", data, text, err)
		}
		// Whatever verifies contradicts: the older tree's root, computed by the twin of CheckConsistency, is another.
		if c, err := m.Verify([]Key{log.Key()}); err == nil && c.RootA == c.RootB {
			t.Fatalf("%q proves nothing", data)
		}
	})
}
