package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

// maxFileKeys is the most keys that are tried on a file: the log key, and those of a few epochs.
const maxFileKeys = 9

// A keyring is what is known of the keys of a log whose checkpoint came without the log: keys, and chains of keys.
type keyring struct {
	keys    []proof.Key
	chains  []keyChain
	require proof.Require
	oneKey  bool // somebody who knows says that the log has one key
}

// keyChain is a chain of keys as a file holds it. One that came beside the evidence is worth what it proves from the keys; one
// that was given must be of use, or the answer is unknown.
type keyChain struct {
	links []proof.EpochLink
	given bool
	err   error
}

func newKeyring(o *immutable.VerifyOptions, beside [][]byte, oneKey bool) (*keyring, error) {
	k := &keyring{require: o.Require, oneKey: oneKey}
	for _, s := range o.Keys {
		key, err := proof.ParseKey(s)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(k.keys, func(other proof.Key) bool { return other.String() == key.String() }) {
			k.keys = append(k.keys, key)
		}
	}
	for i, data := range slices.Concat(o.Epochs, beside) {
		c := keyChain{given: i < len(o.Epochs)}
		c.links, c.err = proof.ParseEpochLinks(data)
		k.chains = append(k.chains, c)
	}
	return k, nil
}

// An opinion is what the log's own signatures on a checkpoint are worth to whoever has the keyring. In all but one of the
// strings is nothing: a contradiction, what could not be told, or what was proven.
type opinion struct {
	refuted, open, proven string
	notes                 []string
	length                int // how many links of a chain of keys led to it
	chain                 *proof.Chain
	few                   bool // a key that was given has signed, and the others of its epoch are not known
}

// keys are all that it stands on: the log key, and those of each epoch that is known.
func (o *opinion) keys() (keys []proof.Key) {
	for _, e := range o.chain.Epochs() {
		keys = append(keys, e.Keys...)
	}
	if key, ok := o.chain.LogKey(); ok && !slices.ContainsFunc(keys, func(k proof.Key) bool { return k.String() == key.String() }) {
		keys = append(keys, key)
	}
	return keys
}

func unsure(format string, args ...any) opinion { return opinion{open: fmt.Sprintf(format, args...)} }

func contradicts(format string, args ...any) opinion {
	return opinion{refuted: fmt.Sprintf(format, args...)}
}

// judge looks at the log's own signatures on a note. Which key has which part is not guessed from where it stands: each way to
// read the keys that were given is tried, and proven is only what a whole set of an epoch's keys, the log key with them, has signed, or
// what a chain of keys leads to from there. A contradiction must be one in each way to read them.
func (k *keyring) judge(note []byte, n *proof.Note, c *proof.Checkpoint) opinion {
	for _, key := range k.keys {
		if key.Name() != c.Origin {
			return contradicts("the key %s is not of the log %s", keyName(key), c.Origin)
		}
	}
	signed, err := n.Verify(k.keys)
	var bad *proof.SignatureError
	switch {
	case errors.As(err, &bad):
		return contradicts("%s", err)
	case err != nil:
		return unsure("the keys given: %s", err)
	case k.oneKey && len(k.keys) != 1:
		return unsure("--one-key-log is said, and %s given: want the one key", plural(len(k.keys), "key"))
	case len(k.keys) > maxFileKeys:
		return unsure("%d keys are given: give the log key and those of one epoch, as `immutable key show` prints them", len(k.keys))
	}
	starts, lacking := k.starts(c.Origin)
	if len(starts) == 0 {
		return k.tooFew(signed, lacking)
	}
	var all []opinion
	for _, s := range starts {
		all = append(all, k.try(s, note, n, c, signed))
	}
	best := slices.MaxFunc(all, func(a, b opinion) int { return a.rank() - b.rank() })
	if best.proven == "" && best.refuted != "" && slices.ContainsFunc(all, func(o opinion) bool { return o.refuted == "" && o.length == best.length }) {
		return unsure("%s; or the keys given are not what `immutable key show` prints", best.refuted)
	}
	if best.proven != "" {
		k.unexplained(&best)
	}
	return best
}

// rank orders opinions: what is proven first, then what more links of a chain of keys led to.
func (o *opinion) rank() int {
	r := 2 * o.length
	if o.proven != "" {
		r += 4 * proof.MaxEpochs
	}
	if o.refuted != "" {
		r++
	}
	return r
}

// start is one way to read the keys: the log key, and what is known of one epoch's.
type start struct {
	log   *proof.Key
	epoch []proof.Key
}

// starts lists the ways to read the keys; none where they are too few for what is required, and then lacking says which.
func (k *keyring) starts(origin string) (list []start, lacking string) {
	var eds, mls []proof.Key
	for _, key := range k.keys {
		switch key.Type() {
		case proof.TypeEd25519:
			eds = append(eds, key)
		case proof.TypeMLDSA44:
			mls = append(mls, key)
		}
	}
	if k.oneKey && len(k.keys) == 1 && len(eds) == 1 {
		return []start{{log: &eds[0], epoch: eds}}, ""
	}
	for i := range eds {
		for j := range eds {
			for _, ml := range mls {
				if i != j {
					list = append(list, start{&eds[i], []proof.Key{eds[j], ml}})
				}
			}
			if i != j && len(mls) == 0 && k.require == proof.RequireEd25519 {
				list = append(list, start{&eds[i], eds[j : j+1]})
			}
		}
		if len(eds) == 1 && k.require == proof.RequireMLDSA44 {
			for j := range mls {
				list = append(list, start{&eds[i], mls[j : j+1]})
			}
		}
	}
	if len(eds) < 2 {
		lacking = "the log key and the Ed25519 key of an epoch"
	}
	if len(mls) == 0 && k.require != proof.RequireEd25519 {
		if lacking != "" {
			lacking += ", and "
		}
		lacking += "the ML-DSA-44 key of an epoch"
	}
	return list, lacking
}

// tooFew is the opinion where the keys given cannot prove anything by themselves.
func (k *keyring) tooFew(signed []proof.Signer, lacking string) opinion {
	who := "none of the keys given has signed it"
	if len(signed) > 0 {
		who = fmt.Sprintf("%s has signed it", keyName(signed[0].Key))
	}
	if lacking == "" {
		lacking = "the other keys of an epoch"
	}
	o := unsure("%s, and a whole set of keys is needed: give also %s, as `immutable key show` prints them", who, lacking)
	if len(k.keys) == 1 && k.keys[0].Type() == proof.TypeEd25519 {
		o = unsure("%s, which may be the log key: that signs for ever and can be stolen, so alone it proves nothing. Give all keys that `immutable key show` prints; if the log has one key only, say so with --one-key-log", who)
	}
	o.few = len(signed) > 0
	return o
}

// try follows the chains of keys from one way to read the keys, and opens the note with what they lead to.
func (k *keyring) try(s start, note []byte, n *proof.Note, c *proof.Checkpoint, signed []proof.Signer) opinion {
	first := proof.Epoch{Keys: s.epoch}
	alone, err := proof.NewChainFrom(c.Origin, first, s.log)
	if err != nil {
		return unsure("the keys given: %s", err)
	}
	alone.SetRequire(k.require)
	o := opinion{chain: alone}
	var useless []string
	for _, given := range k.chains {
		chain, err := follow(alone, s, given.links, k.require)
		if err == nil {
			err = given.err
		}
		if err != nil && given.given {
			useless = append(useless, "the chain of keys that was given does not go on from the keys given: "+err.Error())
		} else if err != nil {
			o.notes = append(o.notes, "the chain of keys that lies beside does not go on from the keys given: "+err.Error())
		}
		if other := diverge(o.chain, chain); other != "" {
			return contradicts("two chains of keys go on from the keys given, with other keys in epoch %s", other)
		}
		if len(chain.Epochs()) > len(o.chain.Epochs()) || chain.Current().After > o.chain.Current().After {
			o.chain = chain
		}
	}
	o.length = len(o.chain.Epochs()) - 1
	if o.length > 0 {
		o.notes = nil // another of the chains led on
	}
	k.open(&o, s, note, n, c, signed)
	if len(useless) > 0 && o.refuted == "" {
		o.open, o.proven = useless[0], ""
	}
	return o
}

// open opens the note with the chain of o, and says in o what comes of it.
func (k *keyring) open(o *opinion, s start, note []byte, n *proof.Note, c *proof.Checkpoint, signed []proof.Signer) {
	e, found := o.chain.EpochOf(c.Size)
	_, _, err := o.chain.Open(note, k.require)
	var stripped *proof.StrippedError
	switch {
	case err == nil && o.length > 0:
		o.proven = fmt.Sprintf("the keys given, and the chain of keys from there: the log key and those of epoch %d signed it", e.Number)
	case err == nil && k.oneKey:
		o.proven = "the key given, which is said to be the log's only key, signed it"
		o.notes = append(o.notes, "a log with one key, which is never destroyed: whoever has it can sign any history; `immutable key rotate` begins epochs")
		if slices.ContainsFunc(n.Signatures, func(sig proof.Signature) bool { return sig.Name == c.Origin && sig.ID != s.log.ID() }) {
			o.proven, o.open = "", "it is also signed in the log's name by a key that is not known: the log has more keys than one. Give the chain of keys with --epochs (`immutable key chain`)"
		}
	case err == nil:
		o.proven = "the keys given: the log key and those of one epoch signed it"
		o.notes = append(o.notes, "if the keys given are not those that the log began with, only its chain of keys shows which sizes they may sign: give it with --epochs, from the first ones")
	case !found:
		o.open = "it belongs to an epoch before that of the keys given: give those that `immutable key show` prints"
	case !errors.As(err, &stripped):
		o.refuted = err.Error()
	case stripped.Lacks != 0:
		o.open = "what --require asks for cannot be shown: " + err.Error()
	case e.Number < o.chain.Current().Number:
		o.refuted = err.Error() // the epoch is over, and the size of the checkpoint that closed it is known
	case len(signed) == 0 && (k.oneKey || len(k.keys) == 3 && s.whole()):
		o.refuted = "none of the keys given has signed it, not even the log key, which signs every checkpoint"
	case partly(s, e, n, o.length > 0):
		o.refuted = "it lacks the signature of " + keyNames(stripped.Missing) + ", and others of that epoch's keys have signed it"
	default:
		o.open = fmt.Sprintf("the keys that are known have not all signed the checkpoint of size %d: the log has changed its keys since, or somebody forged it. Give the chain of keys with --epochs (`immutable key chain` prints it)", c.Size)
	}
}

// whole says whether the keys are a log key and both of an epoch.
func (s *start) whole() bool { return len(s.epoch) == 2 }

// partly says whether some of the keys that always sign together have signed. Of the keys that were given either of two may be the
// log key, which signs in other epochs too: it alone says nothing.
func partly(s start, e proof.Epoch, n *proof.Note, led bool) bool {
	keys := e.Keys
	if !led {
		keys = append(slices.Clone(s.epoch), *s.log)
	}
	good, err := n.Verify(keys)
	if err != nil {
		return false
	}
	return len(good) > 1 || len(good) == 1 && (led || good[0].Key.Type() == proof.TypeMLDSA44)
}

// unexplained takes back what is proven where a key was given that is none of those it stands on.
func (k *keyring) unexplained(o *opinion) {
	known := o.keys()
	for _, key := range k.keys {
		if !slices.ContainsFunc(known, func(other proof.Key) bool { return other.String() == key.String() }) {
			o.proven, o.open = "", fmt.Sprintf("the key %s is given, and nothing shows that it is the log's: give the chain of keys with --epochs, or leave it out", keyName(key))
			return
		}
	}
}

func keyName(k proof.Key) string { return fmt.Sprintf("%s+%08x", k.Name(), k.ID()) }

func keyNames(keys []proof.Key) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = keyName(k)
	}
	return strings.Join(names, ", ")
}

// follow returns the chain from the keys of s on, as far as the links lead. Where a link names the keys of s, they are those of
// its epoch; else they are taken for those of epoch 0, which the first link then proves or not.
func follow(alone *proof.Chain, s start, links []proof.EpochLink, require proof.Require) (*proof.Chain, error) {
	chain, from := alone.Clone(), 0
	for i, l := range links {
		number, named, err := proof.ParseEpochEntry(l.Entry)
		if err != nil {
			return alone, err
		}
		if slices.ContainsFunc(s.epoch, func(k proof.Key) bool {
			return !slices.ContainsFunc(named, func(n proof.Key) bool { return n.String() == k.String() })
		}) {
			continue
		}
		closing, err := closingSize(l.Proof)
		if err != nil {
			return alone, err
		}
		if chain, err = proof.NewChainFrom(alone.Origin(), proof.Epoch{Number: number, After: closing, Keys: s.epoch}, s.log); err != nil {
			return alone, err
		}
		chain.SetRequire(require)
		from = i + 1
	}
	for _, l := range links[from:] {
		if err := chain.Add(l); err != nil {
			return chain, err
		}
	}
	return chain, nil
}

// diverge returns the number of an epoch in which two chains from the same keys have other keys, else nothing.
func diverge(a, b *proof.Chain) string {
	for _, x := range a.Epochs()[1:] {
		for _, y := range b.Epochs()[1:] {
			if x.Number == y.Number && !slices.EqualFunc(x.Keys, y.Keys, func(p, q proof.Key) bool { return p.String() == q.String() }) {
				return fmt.Sprint(x.Number)
			}
		}
	}
	return ""
}

func closingSize(receipt []byte) (uint64, error) {
	p, err := proof.ParseInclusionProof(receipt)
	if err != nil {
		return 0, err
	}
	n, err := proof.ParseNote(p.Checkpoint)
	if err != nil {
		return 0, err
	}
	c, err := proof.ParseCheckpoint(n.Text)
	return c.Size, err
}
