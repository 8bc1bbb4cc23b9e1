package proof

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// A toy is a small log with epochs, in memory, whose checkpoints anybody may sign: the thief as well.
type toy struct {
	t     testing.TB
	log   *PrivateKey
	pairs [][]*PrivateKey // keys of each epoch; epoch 0 may have one, which is the log key
	lines [][]byte
	at    []uint64 // index of the entry of epoch k at k-1
	after []uint64 // C(k) at k-1
}

func newToy(t testing.TB, oneKey bool) *toy {
	x := &toy{t: t, log: privKey(t, TypeEd25519, testOrigin, 1)}
	if oneKey {
		x.pairs = [][]*PrivateKey{{x.log}}
	} else {
		x.pairs = [][]*PrivateKey{x.pair(0)}
	}
	return x
}

// pair returns the keys of an epoch.
func (x *toy) pair(number int) []*PrivateKey {
	seed := byte(10 + number)
	return []*PrivateKey{privKey(x.t, TypeEd25519, testOrigin, seed), privKey(x.t, TypeMLDSA44, testOrigin, seed)}
}

func (x *toy) vkeys() []string {
	if len(x.pairs[0]) == 1 {
		return []string{x.log.Key().String()}
	}
	return []string{x.log.Key().String(), x.pairs[0][0].Key().String(), x.pairs[0][1].Key().String()}
}

// add appends n entries.
func (x *toy) add(n int) {
	for range n {
		x.append(&entry.Event{Level: entry.Info, Message: "x"})
	}
}

func (x *toy) append(e *entry.Event) {
	line, err := entry.Append(nil, e)
	if err != nil {
		x.t.Fatal(err)
	}
	entry.Patch(line, uint64(len(x.lines)), testUnix*1_000_000_000+int64(len(x.lines)), 7)
	x.lines = append(x.lines, line)
}

func record(number uint64, keys []*PrivateKey) []byte {
	return EpochRecord(number, [2]string{keys[0].Key().String(), keys[1].Key().String()})
}

// rotate begins the next epoch and adds entries until its closing checkpoint, which is at the returned link's size.
func (x *toy) rotate(more int) {
	n := len(x.pairs)
	x.at = append(x.at, uint64(len(x.lines)))
	x.append(&entry.Event{Level: entry.System, Message: "epoch", Log: record(uint64(n), x.pair(n))})
	x.add(more)
	x.pairs = append(x.pairs, x.pair(n))
	x.after = append(x.after, uint64(len(x.lines)))
}

func (x *toy) checkpoint(size uint64) Checkpoint {
	return Checkpoint{testOrigin, size, Root(leafHashes(x.lines[:size]))}
}

// note signs a size with keys, by default with those that shall sign it.
func (x *toy) note(size uint64, keys ...*PrivateKey) []byte {
	if len(keys) == 0 {
		e := 0
		for e < len(x.after) && x.after[e] < size {
			e++
		}
		keys = x.pairs[e]
		if keys[0] != x.log {
			keys = append([]*PrivateKey{x.log}, keys...)
		}
	}
	return signBy(x.t, x.checkpoint(size).Text(), keys...)
}

// link is the link to epoch k, with the closing checkpoint as given or, for nil, as it shall be.
func (x *toy) link(k int, closing []byte) EpochLink {
	if closing == nil {
		closing = x.note(x.after[k-1])
	}
	c, err := ParseCheckpoint(mustNote(x.t, closing).Text)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.linkAt(k, x.at[k-1], c.Size, closing)
}

func (x *toy) linkAt(k int, index, size uint64, closing []byte) EpochLink {
	p := InclusionProof{Index: index, Hashes: naivePath(int(index), x.lines[:size]), Checkpoint: closing}
	text, err := p.MarshalText()
	if err != nil {
		x.t.Fatal(err)
	}
	return EpochLink{Number: uint64(k), Entry: x.lines[index], Proof: text}
}

func (x *toy) chain() *Chain {
	x.t.Helper()
	c, err := NewChain(testOrigin, x.vkeys())
	if err != nil {
		x.t.Fatal(err)
	}
	return c
}

func (x *toy) follow(c *Chain, upTo int) {
	x.t.Helper()
	for k := int(c.Current().Number) + 1; k <= upTo; k++ {
		if err := c.Add(x.link(k, nil)); err != nil {
			x.t.Fatal(err)
		}
	}
}

func threeEpochs(t testing.TB, oneKey bool) *toy {
	x := newToy(t, oneKey)
	x.add(3)
	x.rotate(2) // entry 3, closing 6
	x.add(2)
	x.rotate(0) // entry 8, closing 9
	x.add(4)
	return x
}

func TestChainLeadsFromTheFirstKeysToTheNewest(t *testing.T) {
	for _, oneKey := range []bool{false, true} {
		x := threeEpochs(t, oneKey)
		c := x.chain()
		x.follow(c, 2)
		if got := c.Epochs(); len(got) != 3 || got[1].After != 6 || got[2].After != 9 || got[2].Keys[1].String() != x.pairs[2][1].Key().String() {
			t.Fatalf("got %v", got)
		}
		for size := uint64(0); size <= uint64(len(x.lines)); size++ {
			cp, e, err := c.Open(x.note(size), RequireAll)
			want := uint64(0)
			if size > 6 {
				want++
			}
			if size > 9 {
				want++
			}
			if err != nil || cp != x.checkpoint(size) || e.Number != want {
				t.Errorf("one key %v, size %d: got %v, epoch %d, %v, want epoch %d", oneKey, size, cp, e.Number, err, want)
			}
		}
		if k, ok := c.LogKey(); !ok || k.String() != x.log.Key().String() || c.Origin() != testOrigin {
			t.Errorf("got %v, %v, %q", k, ok, c.Origin())
		}
	}
}

// The point of epochs: who has today's keys and the log key cannot sign for a size at or below the closing checkpoint, nor
// give the chain another past.
func TestKeysOfOneEpochSignForNoOther(t *testing.T) {
	x := threeEpochs(t, false)
	c := x.chain()
	x.follow(c, 2)
	for _, size := range []uint64{0, 1, 5, 6, 7, 9, 10, 13} {
		right, _ := c.EpochOf(size)
		for e, pair := range x.pairs {
			_, _, err := c.Open(x.note(size, x.log, pair[0], pair[1]), RequireAll)
			var stripped *StrippedError
			if ok := uint64(e) == right.Number; (err == nil) != ok || !ok && (!errors.As(err, &stripped) || len(stripped.Missing) != 2) {
				t.Errorf("size %d signed by epoch %d, belongs to %d: got %v", size, e, right.Number, err)
			}
		}
	}
}

func TestEachRequiredSignatureIsNeeded(t *testing.T) {
	for _, oneKey := range []bool{false, true} {
		x := threeEpochs(t, oneKey)
		c := x.chain()
		x.follow(c, 2)
		for _, size := range []uint64{0, 5, 7, 12} {
			e, _ := c.EpochOf(size)
			keys := []*PrivateKey{x.log}
			if len(e.Keys) == 2 {
				keys = append(keys, x.pairs[e.Number]...)
			}
			for subset := range 1 << len(keys) {
				var by []*PrivateKey
				has := map[byte]bool{}
				for i, k := range keys {
					if subset>>i&1 == 1 {
						by = append(by, k)
						if i > 0 || len(keys) == 1 {
							has[k.Key().Type()] = true
						}
					}
				}
				if len(by) == 0 {
					by = []*PrivateKey{privKey(t, TypeEd25519, "stranger.example", 1)}
				}
				log := subset&1 == 1
				ed, ml := has[TypeEd25519], has[TypeMLDSA44]
				for r, want := range map[Require]bool{
					RequireAll:     log && ed && (ml || len(keys) == 1),
					RequireEd25519: log && ed,
					RequireMLDSA44: log && ml,
					RequireBoth:    log && ed && ml,
					Require(99):    log && ed && ml,
				} {
					_, _, err := c.Open(x.note(size, by...), r)
					if (err == nil) != want {
						t.Errorf("size %d, epoch %d of %d keys, %v required, subset %03b: got %v, want ok %v", size, e.Number, len(keys), r, subset, err, want)
					}
					if err != nil && (!errors.As(err, new(*StrippedError)) || !errors.Is(err, ErrNoSignature)) {
						t.Errorf("not a stripped signature: %v", err)
					}
				}
			}
		}
	}
}

func TestOpenRefusesWhatIsNotThisLogsCheckpoint(t *testing.T) {
	x := threeEpochs(t, false)
	c := x.chain()
	x.follow(c, 2)
	other := x.checkpoint(12)
	other.Origin = "example.com/other"
	// Only the Ed25519 signatures can be over another origin; with them alone the origin must still count.
	text := other.Text()
	if _, _, err := c.Open(signBy(t, text, x.log, x.pairs[2][0]), RequireEd25519); !errors.Is(err, ErrOrigin) {
		t.Errorf("another origin: got %v", err)
	}
	good := x.note(12)
	bad := bytes.Replace(good, []byte("\n12\n"), []byte("\n13\n"), 1)
	if _, _, err := c.Open(bad, RequireAll); !errors.As(err, new(*SignatureError)) {
		t.Errorf("an altered size: got %v", err)
	}
	// A signature by another epoch's key rejects, good or bad: that key signs nothing at this size.
	if _, _, err := c.Open(append(bytes.Clone(good), lineBy(t, x.checkpoint(12).Text(), testUnix, x.pairs[0][0])...), RequireAll); err == nil || !strings.Contains(err.Error(), "a key of another epoch") {
		t.Errorf("an older key besides: got %v", err)
	}
	if _, _, err := c.Open(append(bytes.Clone(good), lineBy(t, x.checkpoint(11).Text(), testUnix, x.pairs[0][0])...), RequireAll); !errors.As(err, new(*SignatureError)) {
		t.Errorf("an older key's bad signature: got %v", err)
	}
	if _, _, err := c.Open([]byte(x.checkpoint(12).Text()+"\n"), RequireAll); !errors.Is(err, ErrMalformedNote) {
		t.Errorf("no signatures: got %v", err)
	}
	if _, _, err := c.Open(signBy(t, "a\nb\n", x.log), RequireAll); err == nil {
		t.Error("a text that is no checkpoint was opened")
	}
}

// Each case breaks one rule of docs/format.md, "Keys", and nothing else: its maker has all private keys.
func TestAddRefusesALinkThatBreaksOneRule(t *testing.T) {
	x := threeEpochs(t, false)
	stranger := privKey(t, TypeEd25519, testOrigin, 200)
	e0, e1 := x.pairs[0], x.pairs[1]
	retold := func(change func(y *toy)) EpochLink {
		y := newToy(t, false)
		y.add(3)
		change(y)
		y.add(1)
		y.after = []uint64{uint64(len(y.lines))}
		return y.link(1, nil)
	}
	entryOf := func(e *entry.Event) EpochLink {
		return retold(func(y *toy) {
			y.at = []uint64{uint64(len(y.lines))}
			y.append(e)
		})
	}
	system := func(log []byte) EpochLink {
		return entryOf(&entry.Event{Level: entry.System, Message: "epoch", Log: log})
	}
	named := func(name string) []byte {
		return EpochRecord(1, [2]string{privKey(t, TypeEd25519, name, 11).Key().String(), privKey(t, TypeMLDSA44, name, 11).Key().String()})
	}
	if err := x.chain().Add(system(record(1, x.pair(1)))); err != nil {
		t.Fatalf("the retold link is not good by itself: %v", err)
	}
	withExtra := func() EpochLink {
		l := x.link(1, nil)
		p, err := ParseInclusionProof(l.Proof)
		if err != nil {
			t.Fatal(err)
		}
		p.Extra = []byte("x")
		if l.Proof, err = p.MarshalText(); err != nil {
			t.Fatal(err)
		}
		return l
	}
	cases := []struct {
		what, says string
		from       int // the epoch up to which the chain is followed first
		link       EpochLink
	}{
		{"another number", "does not follow", 0, EpochLink{2, x.link(1, nil).Entry, x.link(1, nil).Proof}},
		{"the same epoch again", "does not follow", 1, x.link(1, nil)},
		{"an epoch left out", "does not follow", 0, x.link(2, nil)},
		{"another epoch's entry", "is of epoch 2", 0, system(record(2, x.pair(2)))},
		{"no proof", "parse inclusion proof", 0, EpochLink{1, x.link(1, nil).Entry, nil}},
		{"an extra line", "extra line", 0, withExtra()},
		{"closed without the log key", "lacks the signature", 0, x.link(1, x.note(6, e0...))},
		{"closed without the Ed25519 key", "lacks the signature", 0, x.link(1, x.note(6, x.log, e0[1]))},
		{"closed without the ML-DSA key", "lacks the signature", 0, x.link(1, x.note(6, x.log, e0[0]))},
		{"closed by the next epoch's keys", "lacks the signature", 0, x.link(1, x.note(6, x.log, e1[0], e1[1]))},
		{"closed by a stranger", "lacks the signature", 0, x.link(1, x.note(6, stranger))},
		{"closed by the next epoch's keys as well", "in the name of a key of epoch 1", 0, x.link(1, x.note(6, x.log, e0[0], e0[1], e1[0]))},
		{"a bad signature besides", "bad signature", 0, x.link(1, append(x.note(6), lineBy(t, x.checkpoint(5).Text(), 1, x.log)...))},
		{"closed below where the epoch begins", "is not above", 1, x.linkAt(2, 5, 6, x.note(6, x.log, e1[0], e1[1]))},
		{"an entry before the epoch", "stands at 5, below 6", 1, x.linkAt(2, 5, 9, x.note(9))},
		{"another entry", "inclusion root differs", 0, EpochLink{1, x.lines[4], x.link(1, nil).Proof}},
		{"another level", "has level SYSTEM", 0, EpochLink{}},
		{"no record", "want the record", 0, entryOf(&entry.Event{Level: entry.System, Message: "epoch"})},
		{"another record", "want the record", 0, system([]byte(`{"type":"producer-end","name":"a","key":"b"}`))},
		{"keys in the other order", "want an Ed25519 key", 0, system(EpochRecord(1, [2]string{e1[1].Key().String(), e1[0].Key().String()}))},
		{"two Ed25519 keys", "want an Ed25519 key", 0, system(EpochRecord(1, [2]string{e1[0].Key().String(), stranger.Key().String()}))},
		{"keys of another name", "is not of", 0, system(named("example.com/other"))},
		{"the log key again", "have the id", 0, system(EpochRecord(1, [2]string{x.log.Key().String(), e1[1].Key().String()}))},
		{"the last Ed25519 key again", "have the id", 0, system(EpochRecord(1, [2]string{e0[0].Key().String(), e1[1].Key().String()}))},
		{"the last ML-DSA key again", "have the id", 0, system(EpochRecord(1, [2]string{e1[0].Key().String(), e0[1].Key().String()}))},
		{"the id of another index", "has the id of entry", 0, retold(func(y *toy) {
			y.at = []uint64{uint64(len(y.lines))}
			y.append(&entry.Event{Level: entry.System, Message: "epoch", Log: record(1, x.pair(1))})
			entry.Patch(y.lines[y.at[0]], 77, testUnix*1_000_000_000, 7)
		})},
	}
	for _, c := range cases {
		if c.link.Number == 0 {
			// The writer does not make control entries of another level; a forger's program does.
			l := retold(func(y *toy) {
				y.at = []uint64{uint64(len(y.lines))}
				y.append(&entry.Event{Level: entry.System, Message: "epoch", Log: record(1, x.pair(1))})
				y.lines[y.at[0]] = bytes.Replace(y.lines[y.at[0]], []byte(`"level":"SYSTEM"`), []byte(`"level":"AUDIT"`), 1)
			})
			c.link = l
		}
		chain := x.chain()
		x.follow(chain, c.from)
		before := fmt.Sprint(len(chain.Epochs()), len(chain.known))
		err := chain.Add(c.link)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want an error with %q", c.what, err, c.says)
		}
		if after := fmt.Sprint(len(chain.Epochs()), len(chain.known)); after != before {
			t.Errorf("%s: the chain changed from %s to %s", c.what, before, after)
		}
		x.follow(chain, 2)
	}
}

// The entry of the next epoch may be the very first one that the epoch signs.
func TestAnEpochMayEndWhereItBegins(t *testing.T) {
	x := newToy(t, false)
	x.rotate(0) // entry 0, closing 1
	x.rotate(0) // entry 1, closing 2
	x.rotate(0)
	c := x.chain()
	x.follow(c, 3)
	if c.Current().After != 3 {
		t.Errorf("got %v", c.Current())
	}
}

func TestSetRequireRelaxesTheLinks(t *testing.T) {
	x := threeEpochs(t, false)
	for r, keys := range map[Require][]*PrivateKey{
		RequireEd25519: {x.log, x.pairs[0][0]},
		RequireMLDSA44: {x.log, x.pairs[0][1]},
	} {
		c := x.chain()
		l := x.link(1, x.note(6, keys...))
		if err := c.Add(l); !errors.As(err, new(*StrippedError)) {
			t.Errorf("%v, not set: got %v", r, err)
		}
		c.SetRequire(r)
		if err := c.Add(l); err != nil {
			t.Errorf("%v: %v", r, err)
		}
	}
	one := threeEpochs(t, true).chain()
	one.SetRequire(RequireMLDSA44)
	if err := one.Add(threeEpochs(t, true).link(1, nil)); !errors.As(err, new(*StrippedError)) {
		t.Errorf("epoch 0 has no ML-DSA key: got %v", err)
	}
}

func TestChainFromALaterEpoch(t *testing.T) {
	x := threeEpochs(t, false)
	log := x.log.Key()
	first := Epoch{Number: 1, After: 6, Keys: []Key{x.pairs[1][0].Key(), x.pairs[1][1].Key()}}
	c, err := NewChainFrom(testOrigin, first, &log)
	if err != nil {
		t.Fatal(err)
	}
	x.follow(c, 2)
	for size, ok := range map[uint64]bool{0: false, 6: false, 7: true, 9: true, 10: true} {
		if _, _, err := c.Open(x.note(size), RequireAll); (err == nil) != ok {
			t.Errorf("size %d: got %v, want ok %v", size, err, ok)
		}
	}
	// A thief of the first known epoch's keys signs for a time that they do not belong to.
	for _, size := range []uint64{0, 5, 6} {
		if _, _, err := c.Open(x.note(size, x.log, x.pairs[1][0], x.pairs[1][1]), RequireAll); err == nil || !strings.Contains(err.Error(), "before 1") {
			t.Errorf("size %d signed by epoch 1: got %v", size, err)
		}
		if _, ok := c.EpochOf(size); ok {
			t.Errorf("size %d has a known epoch", size)
		}
	}
	// Without the log key nobody asks for its signature; with one of the two keys, for that one's.
	for i := range 2 {
		c, err := NewChainFrom(testOrigin, Epoch{Number: 1, After: 6, Keys: first.Keys[i : i+1]}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.LogKey(); ok {
			t.Error("a log key from nowhere")
		}
		if _, _, err := c.Open(x.note(8, x.pairs[1][i]), RequireAll); err != nil {
			t.Error(err)
		}
		if _, _, err := c.Open(x.note(8, x.pairs[1][1-i]), RequireAll); err == nil {
			t.Error("signed by a key that is not known")
		}
		x.follow(c, 2)
	}
	for what, bad := range map[string]Epoch{
		"no keys":             {Number: 1},
		"a witness's key":     {Number: 1, Keys: []Key{privKey(t, TypeCosignature, testOrigin, 1).Key()}},
		"the zero key":        {Number: 1, Keys: []Key{{}}},
		"another name":        {Number: 1, Keys: []Key{privKey(t, TypeEd25519, "other", 1).Key()}},
		"the other order":     {Number: 1, Keys: []Key{first.Keys[1], first.Keys[0]}},
		"the log key":         {Number: 1, Keys: []Key{log}},
		"three keys":          {Number: 1, Keys: append(slices.Clone(first.Keys), log)},
		"epoch 0 after 5":     {After: 5, Keys: first.Keys},
		"a size beyond 2^63":  {Number: 1, After: 1 << 63, Keys: first.Keys},
		"a number above 2^63": {Number: 1 << 63, Keys: first.Keys},
	} {
		if _, err := NewChainFrom(testOrigin, bad, &log); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	ml := x.pairs[0][1].Key()
	if _, err := NewChainFrom(testOrigin, first, &ml); err == nil {
		t.Error("an ML-DSA key as log key: accepted")
	}
}

func TestNewChainTakesTheThreeFormsOfLogJSON(t *testing.T) {
	x := newToy(t, false)
	v := x.vkeys()
	for what, bad := range map[string][]string{
		"two keys":        v[:2],
		"four keys":       append(slices.Clone(v), x.pair(9)[0].Key().String()),
		"no key":          {"x"},
		"the other order": {v[0], v[2], v[1]},
		"one key twice":   {v[0], v[0], v[2]},
		"a log of ML-DSA": {v[2]},
		"a witness's key": {privKey(t, TypeCosignature, testOrigin, 1).Key().String()},
	} {
		if _, err := NewChain(testOrigin, bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := NewChain("example.com/other", v); !errors.Is(err, ErrOrigin) {
		t.Errorf("another origin: got %v", err)
	}
	if _, err := NewChain("a b", nil); err == nil {
		t.Error("a bad origin: accepted")
	}
}

func TestChainOfAnUnsignedLogProvesNothingAndTakesNoSignature(t *testing.T) {
	x := threeEpochs(t, false)
	c, err := NewChain(testOrigin, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte(x.checkpoint(7).Text() + "\n")
	if cp, _, err := c.Open(plain, RequireAll); err != nil || cp != x.checkpoint(7) {
		t.Errorf("got %v, %v", cp, err)
	}
	if _, _, err := c.Open(plain, RequireEd25519); !errors.As(err, new(*StrippedError)) {
		t.Errorf("a signature is required: got %v", err)
	}
	if _, _, err := c.Open(x.note(7), RequireAll); err == nil {
		t.Error("a signed note was opened")
	}
	if text, err := c.OpenSeal([]byte("immutable/seal/1\nx\n\n")); err != nil || text != "immutable/seal/1\nx\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := c.OpenSeal(signBy(t, "immutable/seal/1\nx\n", x.log)); err == nil {
		t.Error("a signed seal was opened")
	}
	unsigned := x.linkAt(1, 3, 6, []byte(x.checkpoint(6).Text()+"\n"))
	for _, l := range []EpochLink{x.link(1, nil), unsigned} {
		if err := c.Add(l); err == nil {
			t.Error("an unsigned log has got an epoch")
		}
	}
	if err := x.chain().Add(unsigned); !errors.Is(err, ErrMalformedNote) {
		t.Errorf("an unsigned closing checkpoint: got %v", err)
	}
}

func TestSealNeedsTheEd25519KeyOfAnEpoch(t *testing.T) {
	const text = "immutable/seal/1\nx\n"
	x := threeEpochs(t, false)
	c := x.chain()
	x.follow(c, 2)
	for e, pair := range x.pairs {
		if got, err := c.OpenSeal(signBy(t, text, pair[0])); err != nil || got != text {
			t.Errorf("epoch %d: got %q, %v", e, got, err)
		}
	}
	if _, err := c.OpenSeal(signBy(t, text, x.log)); !errors.Is(err, ErrNoSignature) {
		t.Errorf("the log key alone: got %v", err)
	}
	if _, err := c.OpenSeal(signBy(t, text, privKey(t, TypeEd25519, testOrigin, 99))); !errors.Is(err, ErrNoSignature) {
		t.Errorf("a stranger: got %v", err)
	}
	bad := append(signBy(t, text, x.pairs[0][0]), lineBy(t, "y\n", 0, x.log)...)
	if _, err := c.OpenSeal(bad); !errors.As(err, new(*SignatureError)) {
		t.Errorf("a bad signature of the log key besides: got %v", err)
	}
	// The checkpoint's ML-DSA signature does not make it a seal by that key; the Ed25519 one beside it is missing here.
	if _, err := c.OpenSeal(signBy(t, x.checkpoint(12).Text(), x.pairs[2][1])); !errors.Is(err, ErrNoSignature) {
		t.Errorf("ML-DSA alone: got %v", err)
	}
	one := threeEpochs(t, true)
	c = one.chain()
	one.follow(c, 1)
	if got, err := c.OpenSeal(signBy(t, text, one.log)); err != nil || got != text {
		t.Errorf("the key of a log of one key: got %q, %v", got, err)
	}
}

func TestCloneDoesNotFollow(t *testing.T) {
	x := threeEpochs(t, false)
	c := x.chain()
	d := c.Clone()
	x.follow(d, 2)
	if c.Current().Number != 0 || d.Current().Number != 2 {
		t.Errorf("got epochs %d and %d", c.Current().Number, d.Current().Number)
	}
	if _, _, err := c.Open(append(x.note(5), lineBy(t, "x\n", 0, x.pairs[1][0])...), RequireAll); err != nil {
		t.Errorf("the original knows the keys of the clone: %v", err)
	}
	x.follow(c, 1)
}

func TestRequireComesBack(t *testing.T) {
	for r := range Require(4) {
		if got, err := ParseRequire(r.String()); err != nil || got != r {
			t.Errorf("%v: got %v, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "All", "ed25519 ", "none", Require(4).String()} {
		if _, err := ParseRequire(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestEpochEntryHasOneSpelling(t *testing.T) {
	x := newToy(t, false)
	v := x.pair(1)
	ed, ml := v[0].Key().String(), v[1].Key().String()
	line := func(log string) []byte {
		l, err := entry.Append(nil, &entry.Event{Level: entry.System, Message: "m", Log: []byte(log)})
		if err != nil {
			t.Fatal(err)
		}
		entry.Patch(l, 3, 1, 1)
		return l
	}
	good := string(EpochRecord(1, [2]string{ed, ml}))
	if n, keys, err := ParseEpochEntry(line(good)); err != nil || n != 1 || len(keys) != 2 || keys[1].String() != ml {
		t.Fatalf("got %d, %v, %v", n, keys, err)
	}
	for what, log := range map[string]string{
		"epoch 0":         strings.Replace(good, `"epoch":1`, `"epoch":0`, 1),
		"a fraction":      strings.Replace(good, `"epoch":1`, `"epoch":1.0`, 1),
		"a string":        strings.Replace(good, `"epoch":1`, `"epoch":"1"`, 1),
		"2^63":            strings.Replace(good, `"epoch":1`, `"epoch":9223372036854775808`, 1),
		"a member more":   strings.TrimSuffix(good, "}") + `,"x":1}`,
		"a key more":      strings.Replace(good, `"]`, `","`+ed+`"]`, 1),
		"one key":         string(fmt.Appendf(nil, `{"type":"epoch","epoch":1,"vkeys":["%s"]}`, ed)),
		"another order":   fmt.Sprintf(`{"type":"epoch","vkeys":["%s","%s"],"epoch":1}`, ed, ml),
		"an escape":       strings.Replace(good, "example", `ex\u0061mple`, 1),
		"another key":     strings.Replace(good, ed, "x"+ed, 1),
		"different names": string(EpochRecord(1, [2]string{privKey(t, TypeEd25519, "a", 1).Key().String(), ml})),
		"no origin":       string(EpochRecord(1, [2]string{privKey(t, TypeEd25519, "immutable/x", 1).Key().String(), privKey(t, TypeMLDSA44, "immutable/x", 1).Key().String()})),
	} {
		if _, _, err := ParseEpochEntry(line(log)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, _, err := ParseEpochEntry([]byte(good)); err == nil {
		t.Error("a record without its entry: accepted")
	}
}

// FuzzChainAdd wants a chain that accepts a link to accept it in one spelling only, and to name keys that can be parsed.
func FuzzChainAdd(f *testing.F) {
	x := threeEpochs(f, false)
	for k := 1; k <= 2; k++ {
		f.Add(x.link(k, nil).Append(nil))
	}
	vkeys := x.vkeys()
	want := x.link(1, nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		links, err := ParseEpochLinks(data)
		if err != nil || len(links) == 0 {
			return
		}
		c, err := NewChain(testOrigin, vkeys)
		if err != nil {
			t.Fatal(err)
		}
		// The fuzzer has no private key: only the one true link can be accepted, with signatures left or doubled at most.
		if c.Add(links[0]) == nil && !bytes.Equal(links[0].Entry, want.Entry) {
			t.Fatalf("accepted %q", links[0].Entry)
		}
	})
}

func BenchmarkChainOpen(b *testing.B) {
	x := threeEpochs(b, false)
	c := x.chain()
	x.follow(c, 2)
	note := x.note(12)
	for b.Loop() {
		if _, _, err := c.Open(note, RequireAll); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReceipt verifies a receipt among a thousand entries under a checkpoint with all three signatures.
func BenchmarkReceipt(b *testing.B) {
	x := newToy(b, false)
	x.add(1000)
	l := x.linkAt(0, 500, 1000, x.note(1000))
	c := x.chain()
	for b.Loop() {
		p, err := ParseInclusionProof(l.Proof)
		if err != nil {
			b.Fatal(err)
		}
		cp, _, err := c.Open(p.Checkpoint, RequireAll)
		if err != nil {
			b.Fatal(err)
		}
		if err := CheckInclusion(p.Hashes, p.Index, cp.Size, LeafHash(l.Entry), cp.Root); err != nil {
			b.Fatal(err)
		}
	}
}
