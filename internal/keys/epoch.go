package keys

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const epochPrefix = "epoch-"

// An Epoch holds the two private keys of one epoch of a log (docs/format.md, "Keys"). It is safe for concurrent use.
type Epoch struct {
	number uint64
	ed, ml *proof.PrivateKey
}

// CreateEpoch makes new keys for an epoch and writes them to epoch-<number> in dir, durably, before it returns. Their ids
// differ from each other and from those of avoid: the log key and the keys of the epochs before. It never overwrites keys: if there are some for this
// epoch, the error is fs.ErrExist.
func CreateEpoch(fsys vfs.FS, dir, origin string, number uint64, avoid []proof.Key) (*Epoch, error) {
	if err := proof.CheckOrigin(origin); err != nil {
		return nil, fmt.Errorf("create keys of epoch %d: %w", number, err)
	}
	e := &Epoch{number: number}
	avoid = slices.Clone(avoid)
	for _, k := range []struct {
		typ byte
		to  **proof.PrivateKey
	}{{proof.TypeEd25519, &e.ed}, {proof.TypeMLDSA44, &e.ml}} {
		key, err := drawOther(func() (*proof.PrivateKey, error) { return draw(k.typ, origin) }, avoid)
		if err != nil {
			return nil, fmt.Errorf("create keys of epoch %d: %w", number, err)
		}
		avoid = append(avoid, key.Key())
		*k.to = key
	}
	if err := vfs.MkdirAll(fsys, dir, dirPerm); err != nil {
		return nil, fmt.Errorf("create keys of epoch %d: %w", number, err)
	}
	if err := write(fsys, dir, epochFile(number), []byte(e.ed.String()+"\n"+e.ml.String()+"\n")); err != nil {
		return nil, fmt.Errorf("create keys of epoch %d: %w", number, err)
	}
	return e, nil
}

// drawOther draws keys until one has an id that none of avoid has. Ids have 32 bits: with a thousand keys one draw in four
// million is repeated.
func drawOther(draw func() (*proof.PrivateKey, error), avoid []proof.Key) (*proof.PrivateKey, error) {
	for {
		key, err := draw()
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(avoid, func(k proof.Key) bool { return k.ID() == key.Key().ID() }) {
			return key, nil
		}
	}
}

func epochFile(number uint64) string { return epochPrefix + strconv.FormatUint(number, 10) }

// LoadEpoch reads the keys that CreateEpoch wrote. The error is fs.ErrNotExist when there are none, because they were
// never made or were destroyed; keys of another origin and a file in any other form are refused.
func LoadEpoch(fsys vfs.FS, dir, origin string, number uint64) (*Epoch, error) {
	keys, err := load(fsys, filepath.Join(dir, epochFile(number)), origin, proof.TypeEd25519, proof.TypeMLDSA44)
	if err != nil {
		return nil, fmt.Errorf("load keys of epoch %d: %w", number, err)
	}
	return &Epoch{number, keys[0], keys[1]}, nil
}

// ListEpochs returns the numbers of the epochs that have a key file in dir, ascending; none where there is no dir. A name
// that begins like a key file's and is none is an error: it may be keys that somebody copied.
func ListEpochs(fsys vfs.FS, dir string) ([]uint64, error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list epochs: %w", err)
	}
	var numbers []uint64
	for _, name := range names {
		digits, found := strings.CutPrefix(name, epochPrefix)
		if !found {
			continue
		}
		// A temporary file is what a crash within CreateEpoch left; the next call removes it.
		n, err := strconv.ParseUint(strings.TrimSuffix(digits, tmpSuffix), 10, 64)
		switch {
		case err == nil && epochFile(n) == name:
			numbers = append(numbers, n)
		case err != nil || epochFile(n)+tmpSuffix != name:
			return nil, fmt.Errorf("list epochs: %s is no key file of ours: move it away", filepath.Join(dir, name))
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// DestroyEpoch makes the private keys of an epoch unreadable: they are overwritten with zeros and synced, then the file
// is unlinked and the directory synced. It can be called again after a crash or an error, and where there is no file. What a
// file system or a disk keeps of overwritten blocks is beyond it.
func DestroyEpoch(fsys vfs.FS, dir string, number uint64) error {
	name := filepath.Join(dir, epochFile(number))
	var gone bool
	for _, n := range []string{name + tmpSuffix, name} {
		err := destroy(fsys, n)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("destroy keys of epoch %d: %w", number, err)
		}
		gone = errors.Is(err, fs.ErrNotExist)
	}
	// Where there is no dir there is nothing to sync.
	if err := fsys.SyncDir(dir); err != nil && !(gone && errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("destroy keys of epoch %d: %w", number, err)
	}
	return nil
}

// destroy overwrites a file in place and removes its name.
func destroy(fsys vfs.FS, name string) error {
	f, err := fsys.OpenRW(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > maxFile {
		return fmt.Errorf("%s has %d bytes, a key file has at most %d: it is no key file", name, size, maxFile)
	}
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return fsys.Remove(name)
}

// Number returns the number of the epoch.
func (e *Epoch) Number() uint64 { return e.number }

// Keys returns the verifier keys, Ed25519 first, for a [proof.Epoch].
func (e *Epoch) Keys() []proof.Key { return []proof.Key{e.ed.Key(), e.ml.Key()} }

// VKeys returns the verifier keys, Ed25519 first, for log.json or an epoch's record.
func (e *Epoch) VKeys() [2]string { return [2]string{e.ed.Key().String(), e.ml.Key().String()} }

// SignCheckpoint returns the note of a checkpoint, signed by the log key and then by the epoch's Ed25519 and ML-DSA-44
// keys; e is nil in a log that has one key. unix is the time in the ML-DSA signature, in seconds. The note is opened again
// before it is returned.
func SignCheckpoint(log *Signer, e *Epoch, c proof.Checkpoint, unix uint64) ([]byte, error) {
	// Whatever is wrong with a checkpoint must not get a signature: it could never be taken back.
	if _, err := proof.ParseCheckpoint(c.Text()); err != nil {
		return nil, fmt.Errorf("sign checkpoint: %w", err)
	}
	keys := []*proof.PrivateKey{log.key}
	if e != nil {
		keys = append(keys, e.ed, e.ml)
	}
	for _, k := range keys {
		if k.Key().Name() != c.Origin {
			return nil, fmt.Errorf("sign checkpoint: %w: a key is of %q, the checkpoint of %q", proof.ErrOrigin, k.Key().Name(), c.Origin)
		}
	}
	return sign(c.Text(), unix, keys...)
}

// SignSeal returns the note of a text that is no checkpoint, signed by the epoch's Ed25519 key: ML-DSA-44 keys sign
// checkpoints only. A log with one key signs it with [Signer.Sign].
func SignSeal(e *Epoch, text string) ([]byte, error) {
	return sign(text, 0, e.ed)
}

// sign returns the note of text with a signature by each of keys in this order, and opens it again.
func sign(text string, unix uint64, keys ...*proof.PrivateKey) ([]byte, error) {
	data := []byte(text + "\n")
	var known []proof.Key
	for _, k := range keys {
		line, err := k.SignatureLine(text, unix)
		if err != nil {
			return nil, fmt.Errorf("sign note: %w", err)
		}
		data = append(data, line...)
		known = append(known, k.Key())
	}
	n, err := proof.ParseNote(data)
	if err != nil {
		return nil, fmt.Errorf("sign note: %w", err)
	}
	signers, err := n.Verify(known)
	if err != nil {
		return nil, fmt.Errorf("sign note: %w", err)
	}
	if n.Text != text || len(signers) != len(keys) {
		return nil, errors.New("sign note: the note reads otherwise than it was signed")
	}
	return data, nil
}
