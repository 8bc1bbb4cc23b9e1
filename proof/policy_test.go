package proof

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// policyKeys are witnesses w0, w1, …: the even ones sign with Ed25519, the odd ones with ML-DSA-44.
func policyKeys(t testing.TB, n int) (keys []*PrivateKey) {
	for i := range n {
		keys = append(keys, privKey(t, []byte{TypeCosignature, TypeMLDSA44}[i%2], fmt.Sprintf("w%d.example", i), byte(50+i)))
	}
	return keys
}

func policyText(keys []*PrivateKey, rest ...string) string {
	var b strings.Builder
	for i, k := range keys {
		fmt.Fprintf(&b, "witness w%d %s\n", i, k.Key())
	}
	return b.String() + strings.Join(rest, "\n") + "\n"
}

func mustPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// signatures returns the lines of the log and of each of keys; noteOf puts together those of a set of keys.
func signatures(t testing.TB, text string, keys []*PrivateKey) (lines []string) {
	for _, k := range append([]*PrivateKey{privKey(t, TypeEd25519, testOrigin, 1)}, keys...) {
		lines = append(lines, lineBy(t, text, testUnix, k))
	}
	return lines
}

func noteOf(text string, lines []string, subset int) []byte {
	var note strings.Builder
	note.WriteString(text + "\n" + lines[0])
	for i, line := range lines[1:] {
		if subset>>i&1 == 1 {
			note.WriteString(line)
		}
	}
	return []byte(note.String())
}

func TestQuorumNeedsWhatItSays(t *testing.T) {
	w := policyKeys(t, 6)
	text := testCheckpoint(7).Text()
	signed := signatures(t, text, w)
	for _, c := range []struct {
		rest []string
		want func(s func(int) int) bool // s(i) is 1 if wi signed
	}{
		{[]string{"quorum none"}, func(func(int) int) bool { return true }},
		{[]string{"quorum w3"}, func(s func(int) int) bool { return s(3) == 1 }},
		{[]string{"group g all w0 w1 w2", "quorum g"}, func(s func(int) int) bool { return s(0)+s(1)+s(2) == 3 }},
		{[]string{"group g any w0 w1 w2", "quorum g"}, func(s func(int) int) bool { return s(0)+s(1)+s(2) >= 1 }},
		{[]string{"group g 2 w0 w1 w2", "quorum g"}, func(s func(int) int) bool { return s(0)+s(1)+s(2) >= 2 }},
		{
			[]string{"group x 2 w0 w1 w2", "group y any w3 w4", "group both all x y", "quorum both"},
			func(s func(int) int) bool { return s(0)+s(1)+s(2) >= 2 && s(3)+s(4) >= 1 },
		},
		{
			[]string{"group x all w0 w1", "group y 2 x w2 w3", "quorum y"},
			func(s func(int) int) bool { return s(0)*s(1)+s(2)+s(3) >= 2 },
		},
	} {
		p := mustPolicy(t, policyText(w, c.rest...))
		for subset := range 1 << len(w) {
			r := p.Check(noteOf(text, signed, subset))
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			want := c.want(func(i int) int { return subset >> i & 1 })
			if r.Satisfied != want || r.Checkpoint != testCheckpoint(7) || r.Quorum == "" {
				t.Errorf("%v, signed %06b: got %v (%s), want %v", c.rest, subset, r.Satisfied, r.Quorum, want)
			}
			for i, s := range r.Witnesses {
				if s.Signed != (subset>>i&1 == 1) || s.Name != fmt.Sprintf("w%d", i) || s.Key.String() != w[i].Key().String() || s.Signed != s.Time.Equal(time.Unix(testUnix, 0)) {
					t.Errorf("%v, signed %06b: witness %d is %v", c.rest, subset, i, s)
				}
			}
			// What is missing is what would help: with all of it the quorum is there.
			if len(r.Missing) == 0 != r.Satisfied {
				t.Errorf("%v, signed %06b: satisfied %v, missing %v", c.rest, subset, r.Satisfied, r.Missing)
			}
			all := subset
			for _, name := range r.Missing {
				var i int
				if _, err := fmt.Sscanf(name, "w%d", &i); err != nil || subset>>i&1 == 1 {
					t.Errorf("%v, signed %06b: missing %v", c.rest, subset, r.Missing)
				}
				all |= 1 << i
			}
			if !p.Check(noteOf(text, signed, all)).Satisfied {
				t.Errorf("%v, signed %06b: not satisfied with all of %v", c.rest, subset, r.Missing)
			}
		}
	}
}

func TestPolicySaysWhetherItNeedsWitnesses(t *testing.T) {
	k, err := NewKey(TypeCosignature, "example.com/w", [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	for quorum, want := range map[string]bool{"none": false, "w": true} {
		p, err := ParsePolicy([]byte("witness w " + k.Key().String() + "\nquorum " + quorum + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.NeedsWitnesses(); got != want {
			t.Errorf("quorum %s: %t", quorum, got)
		}
	}
}

func TestQuorumIsExplained(t *testing.T) {
	w := policyKeys(t, 4)
	p := mustPolicy(t, policyText(w, "group x 2 w0 w1 w2", "group both all x w3", "quorum both"))
	r := p.Check(signBy(t, testCheckpoint(7).Text(), w[1], w[2]))
	if want := "both 1 of 2 needed (x 2 of 2 needed (w0 no, w1 yes, w2 yes), w3 no)"; r.Quorum != want || !slices.Equal(r.Missing, []string{"w3"}) {
		t.Errorf("got %q, missing %v, want %q", r.Quorum, r.Missing, want)
	}
}

func TestPolicyWantsOneOfItsLogs(t *testing.T) {
	w := policyKeys(t, 2)
	log, ml := privKey(t, TypeEd25519, testOrigin, 1), privKey(t, TypeMLDSA44, testOrigin, 2)
	other := privKey(t, TypeEd25519, "example.com/other", 3)
	text := fmt.Sprintf("log %s https://log.example/\nlog %s\nlog %s\n", log.Key(), ml.Key(), other.Key()) + policyText(w, "quorum w0")
	p := mustPolicy(t, text)
	cp := testCheckpoint(7).Text()
	for what, c := range map[string]struct {
		by   []*PrivateKey
		logs int
	}{
		"no log":               {[]*PrivateKey{w[0]}, 0},
		"the log":              {[]*PrivateKey{log, w[0]}, 1},
		"the log's other key":  {[]*PrivateKey{ml, w[0]}, 1},
		"both":                 {[]*PrivateKey{log, ml, w[0]}, 2},
		"another log":          {[]*PrivateKey{other, w[0]}, 0},
		"the log twice":        {[]*PrivateKey{log, log, w[0]}, 1},
		"a stranger, as usual": {[]*PrivateKey{privKey(t, TypeEd25519, testOrigin, 9), w[0]}, 0},
	} {
		r := p.Check(signBy(t, cp, c.by...))
		if r.Err != nil || len(r.Logs) != c.logs || r.Satisfied != (c.logs > 0) || c.logs == 0 && !strings.Contains(r.Quorum, "none of the policy's 3 logs signed") {
			t.Errorf("%s: got %v, %d logs, %q, %v", what, r.Satisfied, len(r.Logs), r.Quorum, r.Err)
		}
	}
	if got := p.Logs(); len(got) != 3 || got[0].URL != "https://log.example/" || got[1].URL != "" {
		t.Errorf("got %v", got)
	}
}

func TestABadSignatureOfTheirsRejectsTheNote(t *testing.T) {
	w := policyKeys(t, 2)
	log := privKey(t, TypeEd25519, testOrigin, 1)
	p := mustPolicy(t, fmt.Sprintf("log %s\n", log.Key())+policyText(w, "quorum w0"))
	text := testCheckpoint(7).Text()
	for _, k := range []*PrivateKey{log, w[0], w[1]} {
		note := append(signBy(t, text, log, w[0], w[1]), lineBy(t, testCheckpoint(6).Text(), testUnix, k)...)
		r := p.Check(note)
		if r.Satisfied || !errors.As(r.Err, new(*SignatureError)) || len(r.Witnesses) != 2 || r.Witnesses[0].Signed || r.Quorum == "" {
			t.Errorf("a bad signature by %s: got %+v", k.Key().Name(), r)
		}
	}
	for what, note := range map[string][]byte{"no note": []byte("x"), "no checkpoint": signBy(t, "x\n", log, w[0])} {
		if r := p.Check(note); r.Err == nil || r.Satisfied {
			t.Errorf("%s: got %+v", what, r)
		}
	}
}

func TestTheNewestOfAWitnessesCosignaturesIsShown(t *testing.T) {
	w := policyKeys(t, 2)
	p := mustPolicy(t, policyText(w, "quorum w0"))
	text := testCheckpoint(7).Text()
	for _, order := range [][]uint64{{5, 9}, {9, 5}} {
		var note strings.Builder
		note.WriteString(text + "\n")
		for _, unix := range order {
			note.WriteString(lineBy(t, text, unix, w[0]))
		}
		r := p.Check([]byte(note.String()))
		if got := r.Witnesses[0].Time; !r.Satisfied || got.Unix() != 9 {
			t.Errorf("signed at %v: got %v, %v", order, got, r.Err)
		}
	}
}

func TestPolicyComesBack(t *testing.T) {
	w := policyKeys(t, 3)
	text := "# comment\n\n  \t\nlog " + privKey(t, TypeEd25519, testOrigin, 1).Key().String() + "\t https://log.example/ \n" +
		policyText(w[:2], "  group\tx  any w0 w1", "witness w\xff "+w[2].Key().String()+" https://w.example/#a", "group g 2 x w\xff", " # another", "quorum g")
	p := mustPolicy(t, text)
	got, err := p.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	again := mustPolicy(t, string(got))
	if twice, err := again.MarshalText(); err != nil || !bytes.Equal(got, twice) {
		t.Errorf("got %q, then %q, %v", got, twice, err)
	}
	ws := again.Witnesses()
	if len(ws) != 3 || ws[2].Name != "w\xff" || ws[2].URL != "https://w.example/#a" || ws[0].URL != "" {
		t.Errorf("got %v", ws)
	}
	note := signBy(t, testCheckpoint(7).Text(), privKey(t, TypeEd25519, testOrigin, 1), w[1], w[2])
	if a, b := p.Check(note), again.Check(note); !a.Satisfied || a.Quorum != b.Quorum {
		t.Errorf("got %+v and %+v", a, b)
	}
}

func TestParsePolicyRefusesWhatIsNone(t *testing.T) {
	w := policyKeys(t, 3)
	log := privKey(t, TypeEd25519, testOrigin, 1)
	v := func(i int) string { return w[i].Key().String() }
	// The same public key under another name, and the log's under a witness's type.
	twin := privKey(t, TypeCosignature, "twin.example", 50).Key().String()
	self := sameKey(t, TypeCosignature, log).String()
	for what, c := range map[string]struct{ text, says string }{
		"nothing":                  {"", "no quorum"},
		"no quorum":                {policyText(w), "no quorum"},
		"two quorums":              {policyText(w, "quorum w0", "quorum w1"), "second quorum"},
		"two times none":           {"quorum none\nquorum none\n", "second quorum"},
		"quorum of two":            {policyText(w, "quorum w0 w1"), "want quorum"},
		"quorum of nothing":        {policyText(w, "quorum"), "want quorum"},
		"unknown quorum":           {policyText(w, "quorum x"), "not defined above"},
		"quorum before":            {"quorum w0\n" + policyText(w), "not defined above"},
		"unknown word":             {policyText(w, "witnesses x", "quorum w0"), "unknown word"},
		"capitals":                 {policyText(w, "Quorum w0"), "unknown word"},
		"group before":             {"group g any w0\n" + policyText(w, "quorum w0"), "not defined above"},
		"group of itself":          {policyText(w, "group g any g", "quorum g"), "not defined above"},
		"group of none":            {policyText(w, "group g any none", "quorum g"), "not defined above"},
		"group of nobody":          {policyText(w, "group g any", "quorum g"), "want group"},
		"zero of":                  {policyText(w, "group g 0 w0", "quorum g"), "from 1 to 1"},
		"more than there are":      {policyText(w, "group g 3 w0 w1", "quorum g"), "from 1 to 2"},
		"leading zero":             {policyText(w, "group g 01 w0", "quorum g"), "from 1 to 1"},
		"a sign":                   {policyText(w, "group g +1 w0", "quorum g"), "from 1 to 1"},
		"ALL":                      {policyText(w, "group g ALL w0", "quorum g"), "from 1 to 1"},
		"a member twice":           {policyText(w, "group g 2 w0 w0", "quorum g"), "member of a group already"},
		"a member of two groups":   {policyText(w, "group g any w0", "group h all g w0", "quorum h"), "member of a group already"},
		"a name twice":             {policyText(w[:1], "witness w0 "+v(1), "quorum w0"), "is taken"},
		"a group's name twice":     {policyText(w, "group w0 any w1", "quorum w0"), "is taken"},
		"a witness named none":     {"witness none " + v(0) + "\nquorum none\n", "is taken"},
		"a key twice":              {policyText(w[:1], "witness x "+v(0), "quorum w0"), "one key counts once"},
		"a key under another name": {policyText(w[:1], "witness x "+twin, "quorum w0"), "one key counts once"},
		"a log twice":              {"log " + log.Key().String() + "\nlog " + log.Key().String() + "\nquorum none\n", "one key counts once"},
		"a log as its own witness": {"log " + log.Key().String() + "\nwitness x " + self + "\nquorum x\n", "one key counts once"},
		"a log's key as witness":   {"witness x " + log.Key().String() + "\nquorum x\n", "no witness's"},
		"a witness's key as log":   {"log " + v(0) + "\nquorum none\n", "no log's"},
		"a bad key":                {"witness x y\nquorum x\n", "parse key"},
		"log without key":          {"log\nquorum none\n", "want log"},
		"log with too much":        {"log " + log.Key().String() + " a b\nquorum none\n", "want log"},
		"witness without key":      {"witness x\nquorum none\n", "want witness"},
		"witness with too much":    {"witness x " + v(0) + " a b\nquorum none\n", "want witness"},
		"no newline at the end":    {"quorum none", "newline"},
		"carriage return":          {"quorum none\r\n", "control character"},
		"DEL":                      {"#\x7f\nquorum none\n", "control character"},
		"a comment behind":         {"quorum none # x\n", "want quorum"},
		"a wide space":             {"quorum\u2003none\n", "unknown word"},
	} {
		_, err := ParsePolicy([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error with %q", what, err, c.says)
		}
	}
}

// sameKey returns the key of another type with the public key of p.
func sameKey(t testing.TB, typ byte, p *PrivateKey) Key {
	t.Helper()
	q, err := NewKey(typ, "self.example", p.seed)
	if err != nil {
		t.Fatal(err)
	}
	return q.Key()
}

func TestPoliciesAreBounded(t *testing.T) {
	text := "quorum none\n"
	for over := range 2 {
		padded := text + strings.Repeat("#", MaxPolicy-len(text)-1+over) + "\n"
		if _, err := ParsePolicy([]byte(padded)); (err == nil) != (over == 0) {
			t.Errorf("%d bytes above the limit: got %v", over, err)
		}
	}
	// C2SP asks for 32 of each. An ML-DSA key takes most room.
	var b strings.Builder
	for i := range 32 {
		fmt.Fprintf(&b, "log %s\n", privKey(t, TypeMLDSA44, fmt.Sprintf("l%d", i), byte(100+i)).Key())
		fmt.Fprintf(&b, "witness w%d %s\n", i, privKey(t, TypeMLDSA44, fmt.Sprintf("w%d", i), byte(i)).Key())
		fmt.Fprintf(&b, "group g%d any w%d\n", i, i)
	}
	if _, err := ParsePolicy([]byte(b.String() + "quorum g7\n")); err != nil {
		t.Error(err)
	}
	for over := range 2 {
		var groups, logs strings.Builder
		fmt.Fprintf(&groups, "witness w %s\n", policyKeys(t, 1)[0].Key())
		last := "w"
		for i := range maxPolicyParts - 1 + over {
			name := fmt.Sprintf("g%d", i)
			fmt.Fprintf(&groups, "group %s any %s\n", name, last)
			last = name
		}
		if _, err := ParsePolicy([]byte(groups.String() + "quorum " + last + "\n")); (err == nil) != (over == 0) {
			t.Errorf("%d groups above the limit: got %v", over, err)
		}
		for i := range maxPolicyParts + over {
			p, err := NewKey(TypeEd25519, "l", [32]byte{byte(i), byte(i >> 8)})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&logs, "log %s\n", p.Key())
		}
		if _, err := ParsePolicy([]byte(logs.String() + "quorum none\n")); (err == nil) != (over == 0) {
			t.Errorf("%d logs above the limit: got %v", over, err)
		}
	}
}

// A naive twin counts signatures by walking the definitions from the quorum down.
func TestRandomPoliciesAgreeWithANaiveTwin(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	w := policyKeys(t, 8)
	text := testCheckpoint(7).Text()
	signed := signatures(t, text, w)
	var satisfied, not int
	for range 200 {
		type group struct {
			k       int
			members []string
		}
		groups := map[string]group{}
		free := []string{"w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"}
		var rest []string
		for g := 0; len(free) > 1; g++ {
			rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
			n := 1 + rng.IntN(min(4, len(free)))
			name := fmt.Sprintf("g%d", g)
			groups[name] = group{1 + rng.IntN(n), slices.Clone(free[:n])}
			rest = append(rest, fmt.Sprintf("group %s %d %s", name, groups[name].k, strings.Join(free[:n], " ")))
			free = append(free[n:], name)
			if g > 12 {
				break
			}
		}
		quorum := free[len(free)-1]
		p := mustPolicy(t, policyText(w, append(rest, "quorum "+quorum)...))
		subset := rng.IntN(1 << len(w))
		var holds func(name string) bool
		holds = func(name string) bool {
			g, isGroup := groups[name]
			if !isGroup {
				return subset>>(name[1]-'0')&1 == 1
			}
			n := 0
			for _, m := range g.members {
				if holds(m) {
					n++
				}
			}
			return n >= g.k
		}
		want := holds(quorum)
		if got := p.Check(noteOf(text, signed, subset)); got.Satisfied != want || got.Err != nil {
			t.Fatalf("seed %d: %v, quorum %s, signed %08b: got %v, %v, want %v", seed, rest, quorum, subset, got.Satisfied, got.Err, want)
		}
		if want {
			satisfied++
		} else {
			not++
		}
	}
	if satisfied < 30 || not < 30 {
		t.Errorf("%d satisfied, %d not: the test has no force", satisfied, not)
	}
}

func FuzzParsePolicy(f *testing.F) {
	w := policyKeys(f, 3)
	f.Add([]byte(policyText(w, "group x 2 w0 w1", "group y all x w2", "quorum y")))
	f.Add([]byte("# x\nquorum none\n"))
	f.Add([]byte("log " + privKey(f, TypeEd25519, testOrigin, 1).Key().String() + " u\nquorum none\n"))
	note := signBy(f, testCheckpoint(7).Text(), w...)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy(data)
		if err != nil {
			return
		}
		text, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParsePolicy(text)
		if err != nil {
			t.Fatalf("%q was accepted, and its text %q is not: %v", data, text, err)
		}
		if a, b := p.Check(note), again.Check(note); a.Satisfied != b.Satisfied || a.Quorum != b.Quorum {
			t.Fatalf("%q says %v, its text %v", data, a, b)
		}
	})
}
