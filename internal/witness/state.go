package witness

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// Names in a witness's directory.
const (
	lockName        = "lock"
	keysName        = "keys" // two lines: the Ed25519 and the ML-DSA-44 private key; 0600
	logsDir         = "logs" // one file an origin, named by originHash: the newest cosigned checkpoint
	misbehaviourDir = "misbehaviour"
	nextDir         = "next" // temporaries
)

const (
	maxKeys         = 4 << 10
	maxMisbehaviour = 3*proof.MaxNote + 64<<10 // of one proof file
	// maxProofsPerOrigin bounds what somebody with a log's key can make this witness store. One proof says all there is to say.
	maxProofsPerOrigin = 8
)

// state is a witness's directory. A record is the note that was answered, with this witness's own signatures, so it proves
// itself when it is read back; it is durable before the answer is given.
type state struct {
	fs   vfs.FS
	dir  string
	lock io.Closer
	keys []*proof.PrivateKey // Ed25519, ML-DSA-44
}

// record is what the witness has cosigned last for one origin.
type record struct {
	note []byte // nil: nothing yet
	size uint64
	root proof.Hash
	time uint64 // of the cosignature, Unix seconds
}

// openState opens the directory for one process at a time, and makes it, with its keys, where there is none.
func openState(fsys vfs.FS, dir, name string) (st *state, err error) {
	if err := vfs.MkdirAll(fsys, dir, 0o700); err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // only for whoever reads the lock
	lock, err := fsys.Lock(filepath.Join(dir, lockName), fmt.Appendf(nil, "process %d on host %s", os.Getpid(), host))
	if err != nil {
		return nil, err
	}
	st = &state{fs: fsys, dir: dir, lock: lock}
	defer func() {
		if err != nil {
			_ = lock.Close() // err is why
		}
	}()
	if err := st.loadKeys(); !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return nil, err
		}
		return st, st.checkExisting(name)
	}
	return st, st.create(name)
}

// checkExisting refuses a directory that lost what it had: without its records a witness would cosign a second history.
func (st *state) checkExisting(name string) error {
	if has := st.keys[0].Key().Name(); name != "" && name != has {
		return fmt.Errorf("the witness in %s is named %s, not %s: leave --name out, or choose another --state-dir for another witness", st.dir, has, name)
	}
	for _, dir := range []string{logsDir, misbehaviourDir} {
		if _, err := st.fs.ReadDir(st.path(dir)); err != nil {
			return fmt.Errorf("%s has keys and no %s/: what this witness has cosigned was lost; restore it, or begin a witness with new keys in another directory: %w", st.dir, dir, err)
		}
	}
	if err := vfs.MkdirAll(st.fs, st.path(nextDir), 0o700); err != nil {
		return err
	}
	// A killed process may have left a record under its name that is not durable yet. It has cosignatures in it, which the
	// monitoring URL would give away.
	return st.fs.SyncDir(st.path(logsDir))
}

// create makes the directories and then, last, the keys: where they are, the rest was there.
func (st *state) create(name string) error {
	if name == "" {
		return fmt.Errorf("%s holds no witness yet: give it a name, a schema-less URL such as witness.example.com/1, with --name", st.dir)
	}
	if err := proof.CheckOrigin(name); err != nil {
		return fmt.Errorf("name of the witness: %w", err)
	}
	for _, dir := range []string{logsDir, misbehaviourDir, nextDir} {
		if err := vfs.MkdirAll(st.fs, st.path(dir), 0o700); err != nil {
			return err
		}
	}
	if names, err := st.fs.ReadDir(st.path(logsDir)); err != nil || len(names) > 0 {
		return errors.Join(err, fmt.Errorf("%s has %d records and no keys: bring the file %s back", st.dir, len(names), keysName))
	}
	var text strings.Builder
	for _, typ := range []byte{proof.TypeCosignature, proof.TypeMLDSA44} {
		var seed [32]byte
		_, _ = rand.Read(seed[:]) // never fails, crypto/rand says
		k, err := proof.NewKey(typ, name, seed)
		if err != nil {
			return err
		}
		st.keys = append(st.keys, k)
		text.WriteString(k.String() + "\n")
	}
	if st.keys[0].Key().ID() == st.keys[1].Key().ID() { // one chance in 2^32
		return errors.New("the two new keys have one key id: start again")
	}
	return vfs.WriteAtomic(st.fs, st.path(nextDir, keysName), st.path(keysName), []byte(text.String()), 0o600)
}

// ReadKeys returns the verifier keys of the witness in a directory, also while it runs.
func ReadKeys(fsys vfs.FS, dir string) ([]proof.Key, error) {
	st := &state{fs: fsys, dir: dir}
	if err := st.loadKeys(); err != nil {
		return nil, err
	}
	return st.public(), nil
}

func (st *state) loadKeys() error {
	data, err := vfs.ReadFile(st.fs, st.path(keysName), maxKeys)
	if err != nil {
		return fmt.Errorf("read the witness's keys: %w", err)
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) != 3 || lines[2] != "" {
		return fmt.Errorf("%s: want two lines", st.path(keysName))
	}
	for i, typ := range []byte{proof.TypeCosignature, proof.TypeMLDSA44} {
		k, err := parseCosigner(lines[i], typ)
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", st.path(keysName), i+1, err)
		}
		st.keys = append(st.keys, k)
	}
	if st.keys[0].Key().Name() != st.keys[1].Key().Name() {
		return fmt.Errorf("%s: the two keys have different names", st.path(keysName))
	}
	// The name may not be durable yet, where a killed process made it.
	return st.fs.SyncDir(st.dir)
}

func parseCosigner(line string, typ byte) (*proof.PrivateKey, error) {
	k, err := proof.ParsePrivateKey(line)
	if err != nil {
		return nil, err
	}
	if k.Key().Type() != typ {
		return nil, fmt.Errorf("the key has type %#02x, want %#02x", k.Key().Type(), typ)
	}
	return k, nil
}

func (st *state) path(parts ...string) string {
	return filepath.Join(append([]string{st.dir}, parts...)...)
}

func (st *state) close() error { return st.lock.Close() }

// public are the keys that verify what this witness signs.
func (st *state) public() []proof.Key {
	out := make([]proof.Key, len(st.keys))
	for i, k := range st.keys {
		out[i] = k.Key()
	}
	return out
}

// load reads what was cosigned last for an origin. A record that does not open under this witness's own keys is an error,
// never the beginning of a new history.
func (st *state) load(origin string) (record, error) {
	data, err := vfs.ReadFile(st.fs, st.path(logsDir, originHash(origin)), proof.MaxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return record{root: proof.EmptyRoot()}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read what was cosigned for %s: %w", origin, err)
	}
	r, err := st.parseRecord(data, origin)
	if err != nil {
		return record{}, fmt.Errorf("what was cosigned for %s is damaged; restore %s from a copy: %w", origin, st.path(logsDir, originHash(origin)), err)
	}
	return r, nil
}

func (st *state) parseRecord(data []byte, origin string) (record, error) {
	n, err := proof.ParseNote(data)
	if err != nil {
		return record{}, err
	}
	signed, err := n.Verify(st.public())
	if err != nil {
		return record{}, err
	}
	r := record{note: data}
	for _, s := range signed {
		r.time = max(r.time, uint64(s.Time.Unix()))
	}
	if len(signed) != len(st.keys) {
		return record{}, fmt.Errorf("%d of %d signatures of this witness", len(signed), len(st.keys))
	}
	c, err := proof.ParseCheckpoint(n.Text)
	if err != nil {
		return record{}, err
	}
	if c.Origin != origin {
		return record{}, fmt.Errorf("it is of %s", c.Origin)
	}
	r.size, r.root = c.Size, c.Root
	return r, nil
}

// save makes a record durable. After an error the file may be the old or the new one.
func (st *state) save(origin string, r *record) error {
	name := originHash(origin)
	return vfs.WriteAtomic(st.fs, st.path(nextDir, name), st.path(logsDir, name), r.note, 0o600)
}

// cosign signs a checkpoint's text and returns the signature lines, and the record to keep of it: the note with those
// lines, without signatures of ours that it carried and without unknown ones for which there is no room.
func (st *state) cosign(n *proof.Note, c proof.Checkpoint, trusted []proof.Key, unix uint64) (lines []byte, r record, err error) {
	for _, k := range st.keys {
		line, err := k.SignatureLine(n.Text, unix)
		if err != nil {
			return nil, record{}, fmt.Errorf("cosign: %w", err)
		}
		lines = append(lines, line...)
	}
	note := []byte(n.Text + "\n")
	note = appendSignatures(note, n.Signatures, func(s proof.Signature) bool { return signedBy(s, trusted) }, proof.MaxSignatures-len(st.keys), len(lines))
	ours := st.public()
	room := proof.MaxSignatures - len(st.keys) - count(n.Signatures, trusted)
	note = appendSignatures(note, n.Signatures, func(s proof.Signature) bool { return !signedBy(s, trusted) && !signedBy(s, ours) }, room, len(lines))
	return lines, record{note: append(note, lines...), size: c.Size, root: c.Root, time: unix}, nil
}

// appendSignatures appends the wanted signature lines, at most room of them, and as far as reserved bytes still fit.
func appendSignatures(note []byte, sigs []proof.Signature, want func(proof.Signature) bool, room, reserved int) []byte {
	for _, s := range sigs {
		line := appendSignature(nil, s)
		if !want(s) || room <= 0 || len(note)+len(line)+reserved > proof.MaxNote {
			continue
		}
		note = append(note, line...)
		room--
	}
	return note
}

// appendSignature writes a signature's line.
func appendSignature(dst []byte, s proof.Signature) []byte {
	raw := append(binary.BigEndian.AppendUint32(nil, s.ID), s.Bytes...)
	return fmt.Appendf(dst, "— %s %s\n", s.Name, base64.StdEncoding.EncodeToString(raw))
}

func signedBy(s proof.Signature, keys []proof.Key) bool {
	return slices.ContainsFunc(keys, func(k proof.Key) bool { return k.Name() == s.Name && k.ID() == s.ID })
}

func count(sigs []proof.Signature, keys []proof.Key) (n int) {
	for _, s := range sigs {
		if signedBy(s, keys) {
			n++
		}
	}
	return n
}

// saveMisbehaviour keeps a proof of misbehaviour and returns its name, which begins with the origin's hash.
func (st *state) saveMisbehaviour(origin string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	name := originHash(origin)[:16] + "-" + hex.EncodeToString(sum[:8])
	return name, vfs.WriteAtomic(st.fs, st.path(nextDir, "misbehaviour-"+name), st.path(misbehaviourDir, name), data, 0o600)
}

// misbehaviours lists the proofs that are kept, by the first 16 digits of the origin's hash.
func (st *state) misbehaviours() (map[string][]string, error) {
	names, err := st.fs.ReadDir(st.path(misbehaviourDir))
	if err != nil {
		return nil, fmt.Errorf("list the proofs of misbehaviour: %w", err)
	}
	out := map[string][]string{}
	for _, name := range names {
		if origin, _, found := strings.Cut(name, "-"); found {
			out[origin] = append(out[origin], name)
		}
	}
	return out, nil
}

// originHash is the name that C2SP tlog-witness gives an origin in its monitoring URL.
func originHash(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:])
}

// unixTime is the time to cosign with: never 0, which C2SP forbids, and never before what was already signed.
func unixTime(now time.Time, last uint64) uint64 {
	return max(uint64(max(now.Unix(), 1)), last)
}
