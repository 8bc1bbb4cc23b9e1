// Package evidencetest makes logs and bundles in memory for tests: everything is signed as a log signs it, with keys that
// follow from names, so that two runs make the same bytes.
package evidencetest

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/internal/evidence"
	"github.com/tree-of-life-system/immutable/proof"
)

// Origin is the name of the logs.
const Origin = "example.com/evidence"

// start is the timestamp of the first entry; each next one is a second later.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Log is a log in memory. What fails in it panics: a test made a mistake.
type Log struct {
	Lines  [][]byte
	Leaves []proof.Hash
	Key    *proof.PrivateKey // the log key
	Epochs [][2]*proof.PrivateKey
	Links  []byte // the file `epochs`
	Single bool   // it has the log key only, and no epochs: an old log
	seed   string
	edges  []uint64 // sizes of the closing checkpoints
}

// New makes an empty log in its epoch 0. seed tells logs of the same name apart.
func New(seed string) *Log {
	l := &Log{seed: seed, Key: Key(proof.TypeEd25519, Origin, seed+"log")}
	l.Epochs = [][2]*proof.PrivateKey{l.epochKeys(0)}
	return l
}

func (l *Log) epochKeys(n int) [2]*proof.PrivateKey {
	return [2]*proof.PrivateKey{
		Key(proof.TypeEd25519, Origin, fmt.Sprintf("%s ed %d", l.seed, n)),
		Key(proof.TypeMLDSA44, Origin, fmt.Sprintf("%s ml %d", l.seed, n)),
	}
}

// Key is the private key that follows from a seed.
func Key(typ byte, name, seed string) *proof.PrivateKey {
	return must(proof.NewKey(typ, name, sha256.Sum256([]byte(seed))))
}

// VKeys are those of log.json.
func (l *Log) VKeys() []string {
	if l.Single {
		return []string{l.Key.Key().String()}
	}
	return []string{l.Key.Key().String(), l.Epochs[0][0].Key().String(), l.Epochs[0][1].Key().String()}
}

// Append appends an event and returns its index.
func (l *Log) Append(e entry.Event) uint64 {
	index := uint64(len(l.Lines))
	line := must(entry.Append(nil, &e))
	entry.Patch(line, index, start.Add(time.Duration(index)*time.Second).UnixNano(), 1)
	l.Lines = append(l.Lines, line)
	l.Leaves = append(l.Leaves, proof.LeafHash(line))
	return index
}

// Fill appends n ordinary events.
func (l *Log) Fill(n int) {
	for range n {
		i := len(l.Lines)
		l.Append(entry.Event{
			Level: entry.Level(i % entry.NumLevels), Message: fmt.Sprintf("event %d", i),
			Metadata: entry.Fields{"n": i, "user": "ann@example.com", "path": "/api/v1/session"}, Hostname: "host", PID: 42,
		})
	}
}

// Rotate ends the epoch: an entry names the next keys, and the closing checkpoint covers it.
func (l *Log) Rotate() {
	next := len(l.Epochs)
	keys := l.epochKeys(next)
	at := l.Append(entry.Event{
		Level: entry.System, Message: "new keys", Hostname: "host", PID: 42,
		Log: proof.EpochRecord(uint64(next), [2]string{keys[0].Key().String(), keys[1].Key().String()}),
	})
	size := uint64(len(l.Lines))
	p := proof.InclusionProof{Index: at, Hashes: l.path(at, 0, size), Checkpoint: l.Note(size)}
	link := proof.EpochLink{Number: uint64(next), Entry: l.Lines[at], Proof: must(p.MarshalText())}
	l.Links = link.Append(l.Links)
	l.edges = append(l.edges, size)
	l.Epochs = append(l.Epochs, keys)
}

// Checkpoint is the log's state at a size.
func (l *Log) Checkpoint(size uint64) proof.Checkpoint {
	return proof.Checkpoint{Origin: Origin, Size: size, Root: proof.Root(l.Leaves[:size])}
}

// Note signs the checkpoint of a size with the keys of its epoch, and then with those of witnesses.
func (l *Log) Note(size uint64, witnesses ...*proof.PrivateKey) []byte {
	epoch := 0
	for _, c := range l.edges {
		if c < size {
			epoch++
		}
	}
	if l.Single {
		return Sign(l.Checkpoint(size).Text(), append([]*proof.PrivateKey{l.Key}, witnesses...)...)
	}
	return Sign(l.Checkpoint(size).Text(), append([]*proof.PrivateKey{l.Key, l.Epochs[epoch][0], l.Epochs[epoch][1]}, witnesses...)...)
}

// Cosigned is when witnesses sign.
var Cosigned = start.Add(24 * time.Hour)

// Sign makes a note.
func Sign(text string, keys ...*proof.PrivateKey) []byte {
	note := []byte(text + "\n")
	for _, k := range keys {
		note = append(note, must(k.SignatureLine(text, uint64(Cosigned.Unix())))...)
	}
	return note
}

// Bundle makes a bundle of the entries with these indexes under the checkpoint of all entries.
func (l *Log) Bundle(s evidence.Statement, indexes []uint64, witnesses ...*proof.PrivateKey) *evidence.Bundle {
	size := uint64(len(l.Lines))
	b := &evidence.Bundle{Statement: s, Origin: Origin, VKeys: l.VKeys(), Epochs: l.Links, Checkpoint: l.Note(size, witnesses...)}
	b.Statement.Count = uint64(len(indexes))
	b.Statement.Made, b.Statement.Program = "2026-03-02T00:00:00.000000000Z", "immutable test"
	for _, i := range indexes {
		b.Entries = append(b.Entries, evidence.Entry{Index: i, Leaf: l.Leaves[i], Line: l.Lines[i]})
	}
	b.Proof = must(evidence.Prove(size, indexes, func(lo, hi uint64) (proof.Hash, error) { return proof.Root(l.Leaves[lo:hi]), nil }))
	return b
}

// Consistency is the proof between two sizes.
func (l *Log) Consistency(a, b uint64) []proof.Hash {
	if a == 0 || a == b {
		return nil
	}
	var sub func(a, lo, hi uint64, whole bool) []proof.Hash
	sub = func(a, lo, hi uint64, whole bool) []proof.Hash {
		if a == hi-lo {
			if whole {
				return nil
			}
			return []proof.Hash{proof.Root(l.Leaves[lo:hi])}
		}
		k := half(hi - lo)
		if a <= k {
			return append(sub(a, lo, lo+k, whole), proof.Root(l.Leaves[lo+k:hi]))
		}
		return append(sub(a-k, lo+k, hi, false), proof.Root(l.Leaves[lo:lo+k]))
	}
	return sub(a, 0, b, true)
}

func (l *Log) path(i, lo, hi uint64) []proof.Hash {
	if hi-lo == 1 {
		return nil
	}
	k := lo + half(hi-lo)
	if i < k {
		return append(l.path(i, lo, k), proof.Root(l.Leaves[k:hi]))
	}
	return append(l.path(i, k, hi), proof.Root(l.Leaves[lo:k]))
}

// half is the largest power of two below n.
func half(n uint64) uint64 {
	k := uint64(1)
	for 2*k < n {
		k *= 2
	}
	return k
}

// Indexes lists from … to-1.
func Indexes(from, to uint64) []uint64 {
	var out []uint64
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// Data encodes a bundle.
func Data(b *evidence.Bundle) []byte { return must(b.Append(nil)) }

// Hostile is an event whose texts would break out of a page that does not escape them.
func Hostile() entry.Event {
	const text = "</script><script>document.title='broken'</script><!-- <img src=x onerror=alert(1)> & \u202egnp.exe\u2066 \u200b \u2028 '\"` \\u003c"
	return entry.Event{
		Level: entry.Security, Message: text, Hostname: "h<b>", PID: 1, IdempotencyKey: "</script>",
		RawMetadata: []byte(`{"</script>":"<!--<script>","big":12345678901234567890,"nested":{"a":[1,2,{}],"é":"` + strings.Repeat("x", 300) + `"},"rtl":"` + "\u202e" + `"}`),
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
