package proof

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/entry"
)

// Require says which keys of an epoch must have signed a checkpoint for it to be good, besides the log key.
type Require uint8

const (
	RequireAll     Require = iota // every key that the epoch has
	RequireEd25519                // the Ed25519 key
	RequireMLDSA44                // the ML-DSA-44 key; an epoch without one satisfies nobody
	RequireBoth                   // both, also where the epoch has one only, which then satisfies nobody
)

var requireNames = [...]string{"all", "ed25519", "ml-dsa-44", "both"}

// ParseRequire reads what [Require.String] writes: all, ed25519, ml-dsa-44 or both.
func ParseRequire(s string) (Require, error) {
	if i := slices.Index(requireNames[:], s); i >= 0 {
		return Require(i), nil
	}
	return 0, fmt.Errorf("required signatures %s: want one of %s", quote(s), strings.Join(requireNames[:], ", "))
}

func (r Require) String() string {
	if int(r) < len(requireNames) {
		return requireNames[r]
	}
	return fmt.Sprintf("Require(%d)", uint8(r))
}

// An Epoch is a time in a log's life in which certain keys sign its checkpoints (docs/format.md, "Keys").
type Epoch struct {
	Number uint64
	// After is the size of the checkpoint that closed the epoch before: this epoch's keys sign sizes above it. It is 0 for
	// epoch 0, which signs size 0 too.
	After uint64
	// Keys are the Ed25519 key and the ML-DSA-44 key, or in epoch 0 of a log with one key that key only; none if the log
	// does not sign.
	Keys []Key
}

// required returns the epoch's keys that r asks for, and the type of one that the epoch does not have, or 0.
func (e Epoch) required(r Require) (keys []Key, lacks byte) {
	for _, typ := range []byte{TypeEd25519, TypeMLDSA44} {
		// A value that is none of ours asks for everything: it must not let a checkpoint pass.
		asked := r >= RequireBoth || r == RequireEd25519 && typ == TypeEd25519 || r == RequireMLDSA44 && typ == TypeMLDSA44
		i := slices.IndexFunc(e.Keys, func(k Key) bool { return k.Type() == typ })
		switch {
		case i >= 0 && (asked || r == RequireAll):
			keys = append(keys, e.Keys[i])
		case i < 0 && asked:
			return nil, typ
		}
	}
	return keys, 0
}

// A StrippedError says that a checkpoint lacks signatures that were required: they were never made, or were taken away.
type StrippedError struct {
	Epoch   uint64
	Size    uint64
	Missing []Key
	Lacks   byte // the type of a required key that the epoch does not have at all, else 0
}

func (e *StrippedError) Error() string {
	if e.Lacks != 0 {
		return fmt.Sprintf("a key of type %#02x is required and epoch %d has none", e.Lacks, e.Epoch)
	}
	var b strings.Builder
	for i, k := range e.Missing {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s+%08x (type %#02x)", k.name, k.id, k.Type())
	}
	return fmt.Sprintf("the checkpoint of size %d belongs to epoch %d and lacks the signature of %s", e.Size, e.Epoch, b.String())
}

// Unwrap lets errors.Is find [ErrNoSignature].
func (e *StrippedError) Unwrap() error { return ErrNoSignature }

// A Chain is what is known of the keys of one log: the epochs from one on, each but the first proven by the one before.
// It may be read by several goroutines while none calls Add or SetRequire.
type Chain struct {
	origin  string
	logKey  *Key
	oneKey  bool // the log key is epoch 0's only key
	epochs  []Epoch
	known   keySet // every key; all have the log's name, so their ids differ
	require Require
}

// NewChain begins the chain with epoch 0, whose keys are among the vkeys of log.json: the log key alone, or the log key,
// an Ed25519 key and an ML-DSA-44 key. With no vkeys the log is an unsigned one: its notes carry no signature and prove nothing.
func NewChain(origin string, vkeys []string) (*Chain, error) {
	keys := make([]Key, len(vkeys))
	for i, v := range vkeys {
		var err error
		if keys[i], err = ParseKey(v); err != nil {
			return nil, fmt.Errorf("chain of keys: %w", err)
		}
	}
	switch len(keys) {
	case 0:
		return newChain(origin, Epoch{}, nil)
	case 1:
		return newChain(origin, Epoch{Keys: keys}, &keys[0])
	case 3:
		return newChain(origin, Epoch{Keys: keys[1:]}, &keys[0])
	}
	return nil, fmt.Errorf("chain of keys: %d keys, want none, the log key, or the log key and two keys of epoch 0", len(keys))
}

// NewChainFrom begins the chain with an epoch whose keys are known from elsewhere. Where first.After is not known it is 0, and
// then sizes that belong to earlier epochs are taken for the first one's. logKey is nil where it is not known.
func NewChainFrom(origin string, first Epoch, logKey *Key) (*Chain, error) {
	if len(first.Keys) == 0 {
		return nil, fmt.Errorf("chain of keys: epoch %d without keys", first.Number)
	}
	return newChain(origin, first, logKey)
}

func newChain(origin string, first Epoch, logKey *Key) (*Chain, error) {
	fail := func(format string, args ...any) (*Chain, error) {
		return nil, fmt.Errorf("chain of keys: %w", fmt.Errorf(format, args...))
	}
	if err := CheckOrigin(origin); err != nil {
		return fail("%w", err)
	}
	if first.Number == 0 && first.After != 0 || first.After > MaxSize || first.Number > MaxSize {
		return fail("epoch %d cannot begin after size %d", first.Number, first.After)
	}
	c := &Chain{origin: origin, known: keySet{}}
	if logKey != nil {
		k := *logKey
		if k.Type() != TypeEd25519 {
			return fail("the log key has type %#02x, want %#02x", k.Type(), TypeEd25519)
		}
		c.logKey = &k
	}
	first.Keys = slices.Clone(first.Keys)
	c.oneKey = first.Number == 0 && len(first.Keys) == 1 && logKey != nil && first.Keys[0].vkey == logKey.vkey
	// What is known of the first epoch may be one of its two keys.
	one := len(first.Keys) == 1 && first.Keys[0].signsForLog()
	if !one && len(first.Keys) != 0 {
		if err := checkEpochKeys(first.Keys); err != nil {
			return fail("epoch %d: %w", first.Number, err)
		}
	}
	all := slices.Clone(first.Keys)
	if logKey != nil && !c.oneKey {
		all = append(all, *logKey)
	}
	if err := c.admit(all); err != nil {
		return fail("epoch %d: %w", first.Number, err)
	}
	c.epochs = []Epoch{first}
	return c, nil
}

// checkEpochKeys returns nil if keys are of the types of an epoch's, in order.
func checkEpochKeys(keys []Key) error {
	if len(keys) == 2 && keys[0].Type() == TypeEd25519 && keys[1].Type() == TypeMLDSA44 {
		return nil
	}
	return fmt.Errorf("want an Ed25519 key (type %#02x) and an ML-DSA-44 key (type %#02x)", TypeEd25519, TypeMLDSA44)
}

// admit makes keys known. They are named like the log, and their ids differ from each other's and from all known ones'. On
// an error it has changed nothing.
func (c *Chain) admit(keys []Key) error {
	for i, k := range keys {
		if k.name != c.origin {
			return fmt.Errorf("%w: the key %s+%08x is not of %s", ErrOrigin, k.name, k.id, quote(c.origin))
		}
		if _, taken := c.known[keyRef{k.name, k.id}]; taken || slices.ContainsFunc(keys[:i], func(o Key) bool { return o.id == k.id }) {
			return fmt.Errorf("%w: two keys of the log have the id %08x", ErrAmbiguousKey, k.id)
		}
	}
	for _, k := range keys {
		c.known[keyRef{k.name, k.id}] = k
	}
	return nil
}

// SetRequire sets which keys of an epoch must have signed its closing checkpoint for Add to follow it to the next. The
// default is [RequireAll].
func (c *Chain) SetRequire(r Require) { c.require = r }

// Origin returns the name of the log.
func (c *Chain) Origin() string { return c.origin }

// LogKey returns the log key, if it is known.
func (c *Chain) LogKey() (Key, bool) {
	if c.logKey == nil {
		return Key{}, false
	}
	return *c.logKey, true
}

// Epochs returns the epochs that are known, in order.
func (c *Chain) Epochs() []Epoch { return slices.Clone(c.epochs) }

// Current returns the newest epoch.
func (c *Chain) Current() Epoch { return c.epochs[len(c.epochs)-1] }

// EpochOf returns the epoch that a checkpoint of this size belongs to; false if that is before the first one known.
func (c *Chain) EpochOf(size uint64) (Epoch, bool) {
	// The number of epochs that begin below size; each but the first does so above the one before it.
	n, _ := slices.BinarySearchFunc(c.epochs, size, func(e Epoch, size uint64) int {
		if e.After < size {
			return -1
		}
		return 1
	})
	if n == 0 {
		return c.epochs[0], size == 0 && c.epochs[0].Number == 0
	}
	return c.epochs[n-1], true
}

// Clone returns a chain that can be added to without changing c.
func (c *Chain) Clone() *Chain {
	d := *c
	d.epochs = slices.Clone(c.epochs)
	d.known = maps.Clone(c.known)
	return &d
}

// Open verifies a checkpoint note of the log: the log key, where it is known, and the keys that r asks for of the epoch
// that its size belongs to have signed it, no known key's signature is bad, and no known key of another epoch signed it. A
// checkpoint that lacks a signature is refused with a *[StrippedError].
func (c *Chain) Open(note []byte, r Require) (Checkpoint, Epoch, error) {
	cp, signed, err := c.read(note)
	if err != nil {
		return Checkpoint{}, Epoch{}, fmt.Errorf("open checkpoint of %s: %w", quote(c.origin), err)
	}
	e, found := c.EpochOf(cp.Size)
	if !found {
		return Checkpoint{}, Epoch{}, fmt.Errorf("open checkpoint of %s: size %d belongs to an epoch before %d, whose keys are not known", quote(c.origin), cp.Size, e.Number)
	}
	if err := c.satisfied(cp, e, r, signed); err != nil {
		return Checkpoint{}, Epoch{}, fmt.Errorf("open checkpoint of %s: %w", quote(c.origin), err)
	}
	return cp, e, nil
}

// read verifies every signature of a known key and returns the checkpoint and the keys that signed.
func (c *Chain) read(note []byte) (Checkpoint, []Signer, error) {
	var text string
	var signed []Signer
	if len(c.known) == 0 {
		var err error
		if text, err = unsignedText(note); err != nil {
			return Checkpoint{}, nil, err
		}
	} else {
		n, err := ParseNote(note)
		if err != nil {
			return Checkpoint{}, nil, err
		}
		if signed, err = n.verify(c.known); err != nil {
			return Checkpoint{}, nil, err
		}
		text = n.Text
	}
	cp, err := ParseCheckpoint(text)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if cp.Origin != c.origin {
		return Checkpoint{}, nil, fmt.Errorf("%w: %s", ErrOrigin, quote(cp.Origin))
	}
	return cp, signed, nil
}

// satisfied returns nil if the log key and what r asks for of e are among the signers, and no key of another epoch is.
func (c *Chain) satisfied(cp Checkpoint, e Epoch, r Require, signed []Signer) error {
	want, lacks := e.required(r)
	if lacks != 0 {
		return &StrippedError{Epoch: e.Number, Size: cp.Size, Lacks: lacks}
	}
	if c.logKey != nil && !slices.ContainsFunc(want, func(k Key) bool { return k.id == c.logKey.id }) {
		want = append([]Key{*c.logKey}, want...)
	}
	var missing []Key
	for _, k := range want {
		if !slices.ContainsFunc(signed, func(s Signer) bool { return s.Key.id == k.id }) {
			missing = append(missing, k)
		}
	}
	if len(missing) != 0 {
		return &StrippedError{Epoch: e.Number, Size: cp.Size, Missing: missing}
	}
	for _, s := range signed {
		own := func(k Key) bool { return k.id == s.Key.id }
		if !slices.ContainsFunc(e.Keys, own) && (c.logKey == nil || !own(*c.logKey)) {
			return fmt.Errorf("the checkpoint of size %d belongs to epoch %d and is also signed by %s+%08x, a key of another epoch", cp.Size, e.Number, s.Key.name, s.Key.id)
		}
	}
	return nil
}

// OpenSeal verifies a note of the log that is no checkpoint and returns its text: the Ed25519 key of any epoch has signed
// it, and no known key's signature is bad. The log key alone is not enough, except where it is epoch 0's.
func (c *Chain) OpenSeal(note []byte) (text string, err error) {
	if len(c.known) == 0 {
		if text, err = unsignedText(note); err != nil {
			return "", fmt.Errorf("open seal: %w", err)
		}
		return text, nil
	}
	n, err := ParseNote(note)
	if err != nil {
		return "", fmt.Errorf("open seal: %w", err)
	}
	signed, err := n.verify(c.known)
	if err != nil {
		return "", fmt.Errorf("open seal: %w", err)
	}
	for _, s := range signed {
		byLogKey := c.logKey != nil && s.Key.id == c.logKey.id
		if s.Key.Type() == TypeEd25519 && (!byLogKey || c.oneKey) {
			return n.Text, nil
		}
	}
	return "", fmt.Errorf("open seal: %w by an Ed25519 key of an epoch", ErrNoSignature)
}

// Add follows the chain by one epoch: the link's number is the next; its closing checkpoint is above the one before and
// good by the keys of the current epoch, see SetRequire; the epoch entry is under it, not before the current epoch's; and
// the entry names two new keys of the log. On an error, which says which link and why, the chain is as it was.
func (c *Chain) Add(l EpochLink) error {
	e, err := c.follow(l)
	if err == nil {
		err = c.admit(e.Keys)
	}
	if err != nil {
		return fmt.Errorf("chain of keys, link to epoch %d: %w", l.Number, err)
	}
	c.epochs = append(c.epochs, e)
	return nil
}

func (c *Chain) follow(l EpochLink) (Epoch, error) {
	cur := c.Current()
	if len(cur.Keys) == 0 {
		return Epoch{}, fmt.Errorf("an unsigned log has no epochs")
	}
	if l.Number != cur.Number+1 {
		return Epoch{}, fmt.Errorf("it does not follow epoch %d", cur.Number)
	}
	p, err := ParseInclusionProof(l.Proof)
	if err != nil {
		return Epoch{}, err
	}
	if p.Extra != nil {
		return Epoch{}, fmt.Errorf("the proof has an extra line")
	}
	cp, signed, err := c.read(p.Checkpoint)
	if err != nil {
		return Epoch{}, fmt.Errorf("closing checkpoint: %w", err)
	}
	if cp.Size <= cur.After {
		return Epoch{}, fmt.Errorf("closing checkpoint: its size %d is not above %d, where epoch %d begins", cp.Size, cur.After, cur.Number)
	}
	if err := c.satisfied(cp, cur, c.require, signed); err != nil {
		return Epoch{}, fmt.Errorf("closing checkpoint: %w", err)
	}
	if p.Index < cur.After {
		return Epoch{}, fmt.Errorf("the epoch entry stands at %d, below %d, where epoch %d begins", p.Index, cur.After, cur.Number)
	}
	if err := CheckInclusion(p.Hashes, p.Index, cp.Size, LeafHash(l.Entry), cp.Root); err != nil {
		return Epoch{}, fmt.Errorf("epoch entry %d: %w", p.Index, err)
	}
	number, keys, index32, err := parseEpochEntry(l.Entry)
	if err != nil {
		return Epoch{}, err
	}
	if number != l.Number {
		return Epoch{}, fmt.Errorf("the entry %d is of epoch %d", p.Index, number)
	}
	n, err := ParseNote(p.Checkpoint)
	if err != nil {
		return Epoch{}, fmt.Errorf("closing checkpoint: %w", err)
	}
	fresh := slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { _, known := c.known[keyRef{k.name, k.id}]; return known }) // admit refuses the others
	if early, err := n.Verify(fresh); err != nil || len(early) > 0 {
		return Epoch{}, fmt.Errorf("closing checkpoint: it carries a signature in the name of a key of epoch %d, which signs larger sizes only", l.Number)
	}
	if index32 != uint32(p.Index) {
		return Epoch{}, fmt.Errorf("the entry %d has the id of entry %d (modulo 2^32)", p.Index, index32)
	}
	return Epoch{Number: l.Number, After: cp.Size, Keys: keys}, nil
}

const (
	recordPrefix = `{"type":"epoch","epoch":`
	recordMiddle = `,"vkeys":["`
	recordSuffix = `"]}`
)

// EpochRecord returns the `log` member of the entry that begins an epoch.
func EpochRecord(number uint64, vkeys [2]string) []byte {
	return fmt.Appendf(nil, `%s%d%s%s","%s%s`, recordPrefix, number, recordMiddle, vkeys[0], vkeys[1], recordSuffix)
}

// ParseEpochEntry reads the entry that begins an epoch, its line without the newline: a well-formed line of level SYSTEM
// whose `log` member is exactly what [EpochRecord] writes, for a number of at least 1 and an Ed25519 and an ML-DSA-44 key of one name.
func ParseEpochEntry(line []byte) (number uint64, keys []Key, err error) {
	number, keys, _, err = parseEpochEntry(line)
	return number, keys, err
}

// parseEpochEntry also returns the index modulo 2^32 that the entry's id holds.
func parseEpochEntry(line []byte) (number uint64, keys []Key, index32 uint32, err error) {
	var l entry.Line
	// Decode lets only entries of level SYSTEM have a `log` member.
	if err := entry.Decode(line, &l); err != nil {
		return 0, nil, 0, fmt.Errorf("parse epoch entry: %w", err)
	}
	if number, keys, err = parseEpochRecord(string(l.Log)); err != nil {
		return 0, nil, 0, fmt.Errorf("parse epoch entry: %w", err)
	}
	return number, keys, l.Index32, nil
}

func parseEpochRecord(s string) (number uint64, keys []Key, err error) {
	rest, found := strings.CutPrefix(s, recordPrefix)
	digits, rest, found2 := strings.Cut(rest, recordMiddle)
	list, found3 := strings.CutSuffix(rest, recordSuffix)
	ed, ml, found4 := strings.Cut(list, `","`)
	if !found || !found2 || !found3 || !found4 {
		return 0, nil, fmt.Errorf("log %s: want the record of an epoch with two vkeys", quote(s))
	}
	if number, err = parseSize(digits); err != nil || number == 0 {
		return 0, nil, fmt.Errorf("number of an epoch %s: want at least 1", quote(digits))
	}
	for _, v := range []string{ed, ml} {
		k, err := ParseKey(v)
		if err != nil {
			return 0, nil, err
		}
		// A name that an origin cannot be could be spelled otherwise in JSON.
		if err := CheckOrigin(k.name); err != nil {
			return 0, nil, err
		}
		keys = append(keys, k)
	}
	if keys[0].name != keys[1].name {
		return 0, nil, fmt.Errorf("%w: the keys are named %s and %s", ErrOrigin, quote(keys[0].name), quote(keys[1].name))
	}
	return number, keys, checkEpochKeys(keys)
}
