package keys

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/internal/vfs/vfstest"
	"github.com/tree-of-life-system/immutable/proof"
)

const unix = 1_700_000_000

func createEpoch(t testing.TB, d vfs.FS, number uint64) *Epoch {
	t.Helper()
	e, err := CreateEpoch(d, dir, origin, number, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func checkpoint() proof.Checkpoint {
	return proof.Checkpoint{Origin: origin, Size: 1, Root: proof.LeafHash([]byte("x"))}
}

func TestEpochKeysComeBack(t *testing.T) {
	d := vfstest.New()
	e := createEpoch(t, d, 7)
	again, err := LoadEpoch(d, dir, origin, 7)
	if err != nil || again.VKeys() != e.VKeys() || again.Number() != 7 {
		t.Fatalf("got %v, %v", again, err)
	}
	k := again.Keys()
	if len(k) != 2 || k[0].Type() != proof.TypeEd25519 || k[1].Type() != proof.TypeMLDSA44 || k[0].Name() != origin || k[1].Name() != origin {
		t.Errorf("got %v", k)
	}
	if [2]string{k[0].String(), k[1].String()} != again.VKeys() {
		t.Errorf("keys %v and vkeys %v differ", k, again.VKeys())
	}
	if other := createEpoch(t, d, 8); other.VKeys() == e.VKeys() {
		t.Error("two epochs have one key")
	}
	if open := d.OpenFiles(); len(open) != 0 {
		t.Errorf("left open: %v", open)
	}
}

func TestEpochKeyFileIsPrivateAndHasTwoLines(t *testing.T) {
	d := vfstest.New()
	createEpoch(t, d, 7)
	for name, want := range map[string]fs.FileMode{dir + "/epoch-7": 0o600, dir: 0o700} {
		info, err := d.Stat(name)
		if err != nil || info.Mode.Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", name, info.Mode, err, want)
		}
	}
	data, err := d.ReadFileRaw(dir + "/epoch-7")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) != 3 || lines[2] != "" || !strings.HasPrefix(lines[0], "PRIVATE+KEY+"+origin+"+") || !strings.HasPrefix(lines[1], "PRIVATE+KEY+"+origin+"+") {
		t.Errorf("got %d lines", len(lines))
	}
	if names, err := d.ReadDir(dir); err != nil || !slices.Equal(names, []string{"epoch-7"}) {
		t.Errorf("got %v, %v, want the key file alone", names, err)
	}
}

func TestCreateEpochNeverOverwrites(t *testing.T) {
	d := vfstest.New()
	e := createEpoch(t, d, 7)
	if _, err := CreateEpoch(d, dir, origin, 7, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	if again, err := LoadEpoch(d, dir, origin, 7); err != nil || again.VKeys() != e.VKeys() {
		t.Errorf("the keys changed: %v", err)
	}
	if _, err := CreateEpoch(vfstest.New(), dir, "a b", 1, nil); err == nil {
		t.Error("a bad origin was accepted")
	}
	longest := strings.Repeat("x", proof.MaxOrigin)
	long := vfstest.New()
	if _, err := CreateEpoch(long, dir, longest, 1<<64-1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadEpoch(long, dir, longest, 1<<64-1); err != nil {
		t.Error(err)
	}
	if err := DestroyEpoch(long, dir, 1<<64-1); err != nil {
		t.Error(err)
	}
}

// A draw is a key with the id of one to avoid until the fourth time.
func TestEqualKeyIDsAreDrawnAgain(t *testing.T) {
	var keys []*proof.PrivateKey
	for i := range byte(4) {
		k, err := proof.NewKey(proof.TypeEd25519, origin, [32]byte{i})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	var draws int
	got, err := drawOther(func() (*proof.PrivateKey, error) {
		draws++
		return keys[draws-1], nil
	}, []proof.Key{keys[0].Key(), keys[1].Key(), keys[2].Key()})
	if err != nil || draws != 4 || got != keys[3] {
		t.Errorf("got %v, %v after %d draws", got, err, draws)
	}
	if _, err := drawOther(func() (*proof.PrivateKey, error) { return nil, syscall.EIO }, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
}

func TestListEpochs(t *testing.T) {
	d := vfstest.New()
	if got, err := ListEpochs(d, dir); err != nil || len(got) != 0 {
		t.Errorf("no directory: got %v, %v", got, err)
	}
	create(t, d)
	for _, n := range []uint64{10, 9, 0, 1<<64 - 1} {
		createEpoch(t, d, n)
	}
	if err := d.WriteFileRaw(dir+"/epoch-11.tmp", []byte("x")); err != nil {
		t.Fatal(err)
	}
	want := []uint64{0, 9, 10, 1<<64 - 1}
	if got, err := ListEpochs(d, dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, name := range []string{"epoch-", "epoch-01", "epoch-1 (copy)", "epoch-x", "epoch-18446744073709551616", "epoch--1", "epoch-+1", "epoch-1.bak", "epoch-01.tmp", "epoch-1.tmp.tmp", "epoch-.tmp"} {
		name = filepath.Join(dir, name)
		if err := d.WriteFileRaw(name, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got, err := ListEpochs(d, dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if err := d.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadEpochRefusesAnythingElse(t *testing.T) {
	d := vfstest.New()
	log := create(t, d)
	createEpoch(t, d, 1)
	const file = dir + "/epoch-1"
	good, err := d.ReadFileRaw(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadEpoch(d, dir, "example.com/other", 1); !errors.Is(err, proof.ErrOrigin) {
		t.Errorf("another origin: got %v", err)
	}
	if _, err := LoadEpoch(d, dir, origin, 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another epoch: got %v", err)
	}
	lines := bytes.SplitAfter(good, []byte("\n"))
	other, err := proof.NewKey(proof.TypeMLDSA44, "example.com/other", [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	witness, err := proof.NewKey(proof.TypeCosignature, origin, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	secret := string(lines[1][len(lines[1])-41 : len(lines[1])-1])
	refused := func(what string, parts ...[]byte) {
		t.Helper()
		if err := d.WriteFileRaw(file, slices.Concat(parts...)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadEpoch(d, dir, origin, 1); err == nil {
			t.Errorf("%s: accepted", what)
		} else if strings.Contains(err.Error(), secret[4:20]) {
			t.Errorf("%s: the error shows the key: %v", what, err)
		}
	}
	for i := 0; i < len(good); i += 3 {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		refused("a flipped bit", bad)
		refused("cut", good[:i])
	}
	refused("zeros", make([]byte, len(good)))
	refused("one line", lines[0])
	refused("the other order", lines[1], lines[0])
	refused("the first twice", lines[0], lines[0])
	refused("a line more", good, lines[1])
	refused("an empty line", good, []byte("\n"))
	refused("no last newline", bytes.TrimSuffix(good, []byte("\n")))
	refused("a key of another log", lines[0], []byte(other.String()+"\n"))
	refused("a witness's key", []byte(witness.String()+"\n"), lines[1])
	refused("too long", good, make([]byte, maxFile))
	// The log key's file is no epoch's, and the other way round.
	if err := d.WriteFileRaw(dir+"/ed25519", good); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(d, dir, origin); err == nil {
		t.Error("an epoch's file was loaded as the log key")
	}
	if err := d.WriteFileRaw(dir+"/ed25519", lines[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(d, dir, origin); err == nil {
		t.Errorf("an ML-DSA key was loaded as the log key, once %s", log.VKey())
	}
}

// faults runs op once for each of its steps and each way in which the step can fail, and then hands the disk as a power cut
// leaves it to after.
func faults(t *testing.T, setup func(d *vfstest.Disk), op func(d *vfstest.Disk) error, after func(what string, d *vfstest.Disk, err error)) {
	t.Helper()
	d := vfstest.New()
	setup(d)
	before := d.Ops()
	if err := op(d); err != nil {
		t.Fatal(err)
	}
	steps := d.Ops() - before
	if steps == 0 {
		t.Fatal("no steps")
	}
	for step := uint64(1); step <= steps; step++ {
		for _, how := range []error{syscall.EIO, vfstest.Persisted(syscall.EIO), nil} {
			d := vfstest.New()
			setup(d)
			at := d.Ops() + step
			if how == nil {
				d.CutAfter(at - 1)
			} else {
				d.SetFail(func(op vfstest.Op) error {
					if op.N == at {
						return how
					}
					return nil
				})
			}
			err := op(d)
			for seed := range uint64(6) {
				after(fmt.Sprintf("step %d of %d, %v, seed %d", step, steps, how, seed), d.Crash(rand.New(rand.NewPCG(seed, step))), err)
			}
		}
	}
}

func TestCreateEpochAtEveryStep(t *testing.T) {
	faults(t,
		func(d *vfstest.Disk) { create(t, d) },
		func(d *vfstest.Disk) error {
			_, err := CreateEpoch(d, dir, origin, 1, nil)
			return err
		},
		func(what string, d *vfstest.Disk, err error) {
			_, loadErr := LoadEpoch(d, dir, origin, 1)
			switch {
			case err == nil && loadErr != nil:
				t.Fatalf("%s: created, but then %v", what, loadErr)
			case loadErr != nil && !errors.Is(loadErr, fs.ErrNotExist):
				t.Fatalf("%s: half a key file: %v", what, loadErr)
			case loadErr != nil:
				createEpoch(t, d, 1)
			}
			if got, err := ListEpochs(d, dir); err != nil || !slices.Equal(got, []uint64{1}) {
				t.Fatalf("%s: listed as %v, %v", what, got, err)
			}
			if _, err := Load(d, dir, origin); err != nil {
				t.Fatalf("%s: the log key: %v", what, err)
			}
		})
}

// Once DestroyEpoch has returned, no power cut brings a byte of the keys back; before, it can be called again.
func TestDestroyEpochAtEveryStep(t *testing.T) {
	var secrets []string
	setup := func(d *vfstest.Disk) {
		e := createEpoch(t, d, 1)
		createEpoch(t, d, 2)
		// A crash within CreateEpoch may have left the temporary name as well.
		if err := d.Link(dir+"/epoch-1", dir+"/epoch-1.tmp"); err != nil {
			t.Fatal(err)
		}
		if err := d.SyncDir(dir); err != nil {
			t.Fatal(err)
		}
		secrets = nil
		for _, p := range []*proof.PrivateKey{e.ed, e.ml} {
			s := p.String()
			secrets = append(secrets, s[len(s)-40:])
		}
	}
	gone := func(what string, d *vfstest.Disk) {
		t.Helper()
		names, err := d.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			data, err := d.ReadFileRaw(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range secrets {
				if bytes.Contains(data, []byte(s)) {
					t.Fatalf("%s: %s holds a destroyed key", what, name)
				}
			}
		}
		if !slices.Equal(names, []string{"epoch-2"}) {
			t.Fatalf("%s: left %v", what, names)
		}
		if _, err := LoadEpoch(d, dir, origin, 1); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: got %v", what, err)
		}
		if _, err := LoadEpoch(d, dir, origin, 2); err != nil {
			t.Fatalf("%s: the next epoch's keys: %v", what, err)
		}
	}
	faults(t, setup,
		func(d *vfstest.Disk) error { return DestroyEpoch(d, dir, 1) },
		func(what string, d *vfstest.Disk, err error) {
			if err == nil {
				gone(what, d)
			}
			for range 2 {
				if err := DestroyEpoch(d, dir, 1); err != nil {
					t.Fatalf("%s: again: %v", what, err)
				}
				gone(what, d)
			}
		})
}

// The zeros are durable before the name goes: an unlinked file's blocks would keep the key.
func TestKeysAreOverwrittenBeforeTheyAreUnlinked(t *testing.T) {
	d := vfstest.New()
	e := createEpoch(t, d, 1)
	// A second name shows what the file holds when its first is gone.
	if err := d.Link(dir+"/epoch-1", dir+"/backup"); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := DestroyEpoch(d, dir, 1); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(10) {
		after := d.Crash(rand.New(rand.NewPCG(seed, 0)))
		data, err := after.ReadFileRaw(dir + "/backup")
		if err != nil || len(data) == 0 || !bytes.Equal(data, make([]byte, len(data))) {
			t.Fatalf("%d bytes of epoch %d are not zeros, %v", len(data), e.Number(), err)
		}
	}
}

func TestDestroyEpochWithoutKeys(t *testing.T) {
	d := vfstest.New()
	if err := DestroyEpoch(d, dir, 1); err != nil {
		t.Errorf("no directory: %v", err)
	}
	create(t, d)
	if err := DestroyEpoch(d, dir, 1); err != nil {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(d, dir, origin); err != nil {
		t.Errorf("the log key: %v", err)
	}
	// What is no key file is not overwritten.
	big := bytes.Repeat([]byte("x"), maxFile+1)
	if err := d.WriteFileRaw(dir+"/epoch-1", big); err != nil {
		t.Fatal(err)
	}
	if err := DestroyEpoch(d, dir, 1); err == nil {
		t.Error("a large file was destroyed")
	}
	if data, err := d.ReadFileRaw(dir + "/epoch-1"); err != nil || !bytes.Equal(data, big) {
		t.Errorf("a large file was changed: %v", err)
	}
	failing := vfstest.New()
	create(t, failing)
	failing.SetFail(func(op vfstest.Op) error { return syscall.EIO })
	if err := DestroyEpoch(failing, dir, 1); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that fails: got %v", err)
	}
}

func TestCheckpointIsSignedByTheLogKeyAndBothOfTheEpoch(t *testing.T) {
	d := vfstest.New()
	log, e := create(t, d), createEpoch(t, d, 0)
	c := checkpoint()
	data, err := SignCheckpoint(log, e, c, unix)
	if err != nil {
		t.Fatal(err)
	}
	n, err := proof.ParseNote(data)
	if err != nil {
		t.Fatal(err)
	}
	signers, err := n.Verify(append([]proof.Key{log.Key()}, e.Keys()...))
	if err != nil || len(signers) != 3 || signers[0].Key.String() != log.VKey() || signers[1].Key.String() != e.VKeys()[0] || signers[2].Key.String() != e.VKeys()[1] || !signers[2].Time.Equal(time.Unix(unix, 0)) {
		t.Errorf("got %v, %v", signers, err)
	}
	chain, err := proof.NewChain(origin, []string{log.VKey(), e.VKeys()[0], e.VKeys()[1]})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := chain.Open(data, proof.RequireBoth); err != nil || got != c {
		t.Errorf("got %v, %v", got, err)
	}
	one, err := proof.NewChain(origin, []string{log.VKey()})
	if err != nil {
		t.Fatal(err)
	}
	data, err = SignCheckpoint(log, nil, c, unix)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := one.Open(data, proof.RequireAll); err != nil || got != c || bytes.Count(data, []byte("— ")) != 1 {
		t.Errorf("one key: got %v, %v", got, err)
	}
	seal, err := SignSeal(e, "immutable/seal/1\nx\n")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := chain.OpenSeal(seal); err != nil || text != "immutable/seal/1\nx\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestNothingBadIsSigned(t *testing.T) {
	d := vfstest.New()
	log, e := create(t, d), createEpoch(t, d, 0)
	for what, change := range map[string]func(c *proof.Checkpoint){
		"another log":        func(c *proof.Checkpoint) { c.Origin = "example.com/other" },
		"no origin":          func(c *proof.Checkpoint) { c.Origin = "" },
		"two lines in one":   func(c *proof.Checkpoint) { c.Origin += "\n8" },
		"a size beyond 2^63": func(c *proof.Checkpoint) { c.Size = 1 << 63 },
		"another empty tree": func(c *proof.Checkpoint) { c.Size = 0 },
	} {
		c := checkpoint()
		change(&c)
		for _, epoch := range []*Epoch{nil, e} {
			if data, err := SignCheckpoint(log, epoch, c, unix); err == nil {
				t.Errorf("%s: signed as %q", what, data)
			}
		}
	}
	other, err := CreateEpoch(d, dir, "example.com/other", 5, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := SignCheckpoint(log, other, checkpoint(), unix); !errors.Is(err, proof.ErrOrigin) {
		t.Errorf("another log's epoch: got %v", err)
	}
	for _, text := range []string{"", "no newline", "control\x01\n"} {
		if data, err := SignSeal(e, text); err == nil {
			t.Errorf("%q: signed as %q", text, data)
		}
	}
}

func BenchmarkSignCheckpoint(b *testing.B) {
	d := vfstest.New()
	log, err := Create(d, dir, origin)
	if err != nil {
		b.Fatal(err)
	}
	e := createEpoch(b, d, 0)
	for b.Loop() {
		if _, err := SignCheckpoint(log, e, checkpoint(), unix); err != nil {
			b.Fatal(err)
		}
	}
}
