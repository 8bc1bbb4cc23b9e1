// Package keys makes, keeps and uses the private keys with which a log signs.
package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	fileName = "ed25519"
	filePerm = 0o600
	dirPerm  = 0o700
	// maxFile is more than any key file has: prefix, origin, key id, base64 of 33 bytes and a newline.
	maxFile = 512
	// skeyPrefix begins the private form that package note defines; what follows is like a verifier key.
	skeyPrefix = "PRIVATE+KEY+"
)

// A Signer signs notes for one log with its Ed25519 key. It is safe for concurrent use.
type Signer struct {
	signer note.Signer
	key    proof.Key
}

// Create makes a new key for the log of the given origin and writes it to ed25519 in dir, durably, before it returns.
// It never overwrites a key: if there is one, also an unreadable one, the error is fs.ErrExist.
func Create(fsys vfs.FS, dir, origin string) (*Signer, error) {
	if err := proof.CheckOrigin(origin); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	skey, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	s, err := parse(skey+"\n", origin)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	if err := vfs.MkdirAll(fsys, dir, dirPerm); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	if err := write(fsys, dir, []byte(skey+"\n")); err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	return s, nil
}

// write makes the key file under a temporary name and links it to its own, so that the name never stands for half a key
// and never replaces one. A temporary file that a crash left holds a key that nothing was signed with.
func write(fsys vfs.FS, dir string, data []byte) (err error) {
	name := filepath.Join(dir, fileName)
	tmp := name + ".tmp"
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
	data, err := vfs.ReadFile(fsys, filepath.Join(dir, fileName), maxFile)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	s, err := parse(string(data), origin)
	if err != nil {
		// The contents are secret and stay out of the error.
		return nil, fmt.Errorf("load key %s: %w", filepath.Join(dir, fileName), err)
	}
	return s, nil
}

// parse reads a key file: one line with a key in the private form of package note, in its one spelling.
func parse(data, origin string) (*Signer, error) {
	line, found := strings.CutSuffix(data, "\n")
	rest, isKey := strings.CutPrefix(line, skeyPrefix)
	if !found || !isKey {
		return nil, fmt.Errorf("not a private key: want one line that begins with %s", skeyPrefix)
	}
	signer, err := note.NewSigner(line)
	if err != nil {
		return nil, err
	}
	if signer.Name() != origin {
		return nil, fmt.Errorf("%w: the key is of %q, the log is %q", proof.ErrOrigin, signer.Name(), origin)
	}
	// NewSigner has checked that this is base64 of a type byte and a seed. The public key is derived once more, so that
	// the verifier key is the one of the private key whatever the file says.
	_, b64, _ := strings.Cut(strings.TrimPrefix(rest, origin+"+"), "+")
	private, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || len(private) != 1+ed25519.SeedSize {
		return nil, errors.New("not a private key: want base64 of 33 bytes")
	}
	public := ed25519.NewKeyFromSeed(private[1:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(origin, public)
	if err != nil {
		return nil, err
	}
	key, err := proof.ParseKey(vkey)
	if err != nil {
		return nil, err
	}
	want := fmt.Sprintf("%s%s+%08x+%s", skeyPrefix, origin, key.ID(), base64.StdEncoding.EncodeToString(private))
	if want != line {
		return nil, errors.New("private key is not in its canonical form")
	}
	return &Signer{signer: signer, key: key}, nil
}

// VKey returns the verifier key, for log.json and for whoever pins it.
func (s *Signer) VKey() string { return s.key.String() }

// Key returns the verifier key ready to use.
func (s *Signer) Key() proof.Key { return s.key }

// Sign returns the signed note of text, which ends in a newline. The note is opened again before it is returned: a
// signature that a fault in the machine spoiled, which could betray the key, does not leave here.
func (s *Signer) Sign(text string) ([]byte, error) {
	data, err := note.Sign(&note.Note{Text: text}, s.signer)
	if err != nil {
		return nil, fmt.Errorf("sign note: %w", err)
	}
	got, err := proof.OpenNote(data, []proof.Key{s.key})
	if err != nil {
		return nil, fmt.Errorf("sign note: %w", err)
	}
	if got != text {
		return nil, errors.New("sign note: the note reads as another text than was signed")
	}
	return data, nil
}
