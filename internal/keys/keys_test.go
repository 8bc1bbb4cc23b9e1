package keys

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	origin = "example.com/log"
	dir    = "state/keys"
	file   = dir + "/ed25519"
)

func create(t *testing.T, d vfs.FS) *Signer {
	t.Helper()
	s, err := Create(d, dir, origin)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeyComesBackAndSigns(t *testing.T) {
	d := vfstest.New()
	s := create(t, d)
	again, err := Load(d, dir, origin)
	if err != nil || again.VKey() != s.VKey() {
		t.Fatalf("got %v, %v, want %s", again, err, s.VKey())
	}
	c := proof.Checkpoint{Origin: origin, Size: 0, Root: proof.EmptyRoot()}
	for _, s := range []*Signer{s, again} {
		data, err := s.Sign(c.Text())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := proof.OpenCheckpoint(data, origin, []proof.Key{again.Key()}); err != nil || got != c {
			t.Errorf("got %v, %v", got, err)
		}
		v, err := note.NewVerifier(s.VKey())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := note.Open(data, note.VerifierList(v)); err != nil || n.Text != c.Text() {
			t.Errorf("x/mod: got %v, %v", n, err)
		}
	}
	if open := d.OpenFiles(); len(open) != 0 {
		t.Errorf("left open: %v", open)
	}
}

func TestKeyFileIsPrivateAndAlone(t *testing.T) {
	d := vfstest.New()
	create(t, d)
	for name, want := range map[string]fs.FileMode{file: 0o600, dir: 0o700} {
		info, err := d.Stat(name)
		if err != nil || info.Mode.Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", name, info.Mode, err, want)
		}
	}
	if names, err := d.ReadDir(dir); err != nil || len(names) != 1 || names[0] != "ed25519" {
		t.Errorf("got %v, %v, want the key alone", names, err)
	}
}

func TestTwoKeysDiffer(t *testing.T) {
	if a, b := create(t, vfstest.New()), create(t, vfstest.New()); a.VKey() == b.VKey() {
		t.Error("two logs have one key")
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	d := vfstest.New()
	s := create(t, d)
	if _, err := Create(d, dir, origin); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	if again, err := Load(d, dir, origin); err != nil || again.VKey() != s.VKey() {
		t.Errorf("the key changed: %v", err)
	}
	if err := d.WriteFileRaw(file, []byte("not a key")); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(d, dir, origin); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a broken one: got %v, want %v", err, fs.ErrExist)
	}
	if b, err := d.ReadFileRaw(file); err != nil || string(b) != "not a key" {
		t.Errorf("the broken one is now %q, %v", b, err)
	}
}

func TestLoadWithoutKeySaysSo(t *testing.T) {
	if _, err := Load(vfstest.New(), dir, origin); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestKeySurvivesAPowerCutOnceCreated(t *testing.T) {
	for seed := range uint64(40) {
		d := vfstest.New()
		s := create(t, d)
		after := d.Crash(rand.New(rand.NewPCG(seed, 0)))
		if again, err := Load(after, dir, origin); err != nil || again.VKey() != s.VKey() {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// At each step: it fails, it fails but was carried out, the power goes off. Afterwards there is a whole key or none, and
// Create can be called again if there is none.
func TestCreateAtEveryStep(t *testing.T) {
	d := vfstest.New()
	create(t, d)
	steps := d.Ops()
	for step := uint64(1); step <= steps; step++ {
		for _, how := range []error{syscall.EIO, vfstest.Persisted(syscall.EIO), nil} {
			d := vfstest.New()
			if how == nil {
				d.CutAfter(step - 1)
			} else {
				d.SetFail(func(op vfstest.Op) error {
					if op.N == step {
						return how
					}
					return nil
				})
			}
			// Removing a leftover that is not there may fail without harm; everything else must not.
			_, err := Create(d, dir, origin)
			for seed := range uint64(6) {
				after := d.Crash(rand.New(rand.NewPCG(seed, step)))
				_, loadErr := Load(after, dir, origin)
				switch {
				case err == nil && loadErr != nil:
					t.Fatalf("step %d, %v: created, but then %v", step, how, loadErr)
				case loadErr != nil && !errors.Is(loadErr, fs.ErrNotExist):
					t.Fatalf("step %d, %v: half a key: %v", step, how, loadErr)
				case loadErr != nil:
					create(t, after)
				}
			}
		}
	}
}

func TestLoadRefusesAnythingElse(t *testing.T) {
	d := vfstest.New()
	create(t, d)
	good, err := d.ReadFileRaw(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(d, dir, "example.com/other"); !errors.Is(err, proof.ErrOrigin) {
		t.Errorf("another origin: got %v, want %v", err, proof.ErrOrigin)
	}
	refused := func(what string, data []byte) {
		t.Helper()
		if err := d.WriteFileRaw(file, data); err != nil {
			t.Fatal(err)
		}
		_, err := Load(d, dir, origin)
		if err == nil {
			t.Errorf("%s: accepted", what)
			return
		}
		secret := string(good[bytes.LastIndexByte(good, '+')+1:])
		if len(secret) > 10 && strings.Contains(err.Error(), secret[2:20]) {
			t.Errorf("%s: the error shows the key: %v", what, err)
		}
	}
	for i := range good {
		for _, bit := range []byte{1, 0x20} {
			bad := bytes.Clone(good)
			bad[i] ^= bit
			refused("a flipped bit", bad)
		}
		refused("cut", good[:i])
	}
	refused("a byte more", append(bytes.Clone(good), '\n'))
	refused("too long", append(bytes.Clone(good), make([]byte, maxFile)...))
	id := len("PRIVATE+KEY+" + origin + "+")
	upper := append(append(bytes.Clone(good[:id]), bytes.ToUpper(good[id:id+8])...), good[id+8:]...)
	if !bytes.Equal(upper, good) { // an id of digits only has no other spelling
		refused("upper-case id", upper)
	}
	refused("line break in base64", append(append(bytes.Clone(good[:len(good)-9]), '\n'), good[len(good)-9:]...))
}

// The base64 of 33 bytes has no unused bits, so that a lax decoder's freedom is in line breaks only: this keeps it so.
func TestPrivateKeyHasNoPaddingBits(t *testing.T) {
	if base64.StdEncoding.EncodedLen(33) != base64.RawStdEncoding.EncodedLen(33) {
		t.Error("33 bytes need padding")
	}
}

func TestCreateRefusesBadOrigins(t *testing.T) {
	for _, bad := range []string{"", "a b", "a+b", "immutable/x", strings.Repeat("x", 256)} {
		d := vfstest.New()
		if _, err := Create(d, dir, bad); err == nil || d.Ops() != 0 {
			t.Errorf("%q: got %v after %d operations", bad, err, d.Ops())
		}
	}
	longest := strings.Repeat("x", 255)
	d := vfstest.New()
	if _, err := Create(d, dir, longest); err != nil {
		t.Error(err)
	}
	if _, err := Load(d, dir, longest); err != nil {
		t.Error(err)
	}
}

func TestSignRefusesWhatIsNoText(t *testing.T) {
	s := create(t, vfstest.New())
	for _, bad := range []string{"", "no newline", "control\x01\n", "invalid \xff\n"} {
		if data, err := s.Sign(bad); err == nil {
			t.Errorf("%q: signed as %q", bad, data)
		}
	}
}
