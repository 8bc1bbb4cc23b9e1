// Package keys makes, keeps and uses the private keys with which a log signs.
package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	fileName = "ed25519"
	filePerm = 0o600
	dirPerm  = 0o700
	// maxFile is more than any key file has: twice prefix, origin, key id, base64 of 33 bytes and a newline.
	maxFile   = 1024
	tmpSuffix = ".tmp"
)

// A Signer signs notes for one log with its Ed25519 key, the log key. It is safe for concurrent use.
type Signer struct {
	key *proof.PrivateKey
}

// Create makes a new key for the log of the given origin and writes it to ed25519 in dir, durably, before it returns.
// It never overwrites a key: if there is one, also an unreadable one, the error is fs.ErrExist.
func Create(fsys vfs.FS, dir, origin string) (*Signer, error) {
	if err := proof.CheckOrigin(origin); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	key, err := draw(proof.TypeEd25519, origin)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	if err := vfs.MkdirAll(fsys, dir, dirPerm); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	if err := write(fsys, dir, fileName, []byte(key.String()+"\n")); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	return &Signer{key}, nil
}

func draw(typ byte, name string) (*proof.PrivateKey, error) {
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	return proof.NewKey(typ, name, seed)
}

// write makes a key file under a temporary name and links it to its own, so that the name never stands for half a key
// and never replaces one. A temporary file that a crash left holds a key that nothing was signed with.
func write(fsys vfs.FS, dir, base string, data []byte) (err error) {
	name := filepath.Join(dir, base)
	tmp := name + tmpSuffix
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp, filePerm)
	if err != nil {
		return err
	}
	defer func() {
		// What is left after an error is garbage and a secret; the first error counts.
		if rmErr := fsys.Remove(tmp); err == nil {
			err = rmErr
		}
		if err == nil {
			err = fsys.SyncDir(dir)
		}
	}()
	if _, err := f.WriteAt(data, 0); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return fsys.Link(tmp, name)
}

// Load reads the key that Create wrote. The error is fs.ErrNotExist when there is none; a key of another origin and a
// file in any other form than Create's are refused.
func Load(fsys vfs.FS, dir, origin string) (*Signer, error) {
	keys, err := load(fsys, filepath.Join(dir, fileName), origin, proof.TypeEd25519)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	return &Signer{keys[0]}, nil
}

// load reads a file of one line for each of the types, in this order. Its errors hold nothing of the contents, which are secret.
func load(fsys vfs.FS, name, origin string, types ...byte) ([]*proof.PrivateKey, error) {
	data, err := vfs.ReadFile(fsys, name, maxFile)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(data), "\n")
	if len(lines) != len(types)+1 || lines[len(types)] != "" {
		return nil, fmt.Errorf("%s: want %d lines with a private key each", name, len(types))
	}
	var keys []*proof.PrivateKey
	for i, typ := range types {
		key, err := proof.ParsePrivateKey(strings.TrimSuffix(lines[i], "\n"))
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, i+1, err)
		}
		if key.Key().Name() != origin {
			return nil, fmt.Errorf("%s: line %d: %w: the key is of %q, the log is %q", name, i+1, proof.ErrOrigin, key.Key().Name(), origin)
		}
		if key.Key().Type() != typ {
			return nil, fmt.Errorf("%s: line %d: the key has type %#02x, want %#02x", name, i+1, key.Key().Type(), typ)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// VKey returns the verifier key, for log.json and for whoever pins it.
func (s *Signer) VKey() string { return s.key.Key().String() }

// Key returns the verifier key ready to use.
func (s *Signer) Key() proof.Key { return s.key.Key() }

// Sign returns the signed note of text, which ends in a newline, by the log key alone. The note is opened again before it
// is returned: a signature that a fault in the machine spoiled, which could betray the key, does not leave here.
func (s *Signer) Sign(text string) ([]byte, error) {
	return sign(text, 0, s.key)
}
