// Package identity reads and writes the two small records that say which log a directory holds and what this host
// knows of it: log.json and the head. docs/format.md specifies both; each has exactly one encoding.
package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/tree-of-life-system/immutable/internal/entry"
	"github.com/tree-of-life-system/immutable/proof"
)

// Names of the files. They are part of the format.
const (
	LogName  = "log.json"
	HeadName = "head"
)

// MaxBytes bounds either record.
const MaxBytes = 64 << 10

const format = "immutable/1"

// Log is log.json: a log's identity, written once.
type Log struct {
	Origin  string
	Created int64    // Unix nanoseconds
	VKeys   []string // verifier keys the log began with; none in a log without signatures
}

// Append adds log.json's one line, with its newline.
func (l *Log) Append(dst []byte) []byte {
	dst = append(dst, `{"format":"`+format+`","origin":"`+l.Origin+`","created":"`...)
	dst = entry.FormatTime(dst, l.Created)
	dst = append(dst, `","vkeys":[`...)
	for i, k := range l.VKeys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), k...), '"')
	}
	return append(dst, "]}\n"...)
}

// ParseLog reads log.json. It refuses everything Append would not have written.
func ParseLog(data []byte) (*Log, error) {
	var raw struct {
		Format, Origin, Created string
		VKeys                   []string
	}
	if err := decode(data, &raw); err != nil {
		return nil, err
	}
	if raw.Format != format {
		return nil, fmt.Errorf("format is %q, this program reads %q", raw.Format, format)
	}
	if err := proof.CheckOrigin(raw.Origin); err != nil {
		return nil, err
	}
	created, err := entry.ParseTime([]byte(raw.Created))
	if err != nil {
		return nil, fmt.Errorf("created: %w", err)
	}
	for i, k := range raw.VKeys {
		if slices.Contains(raw.VKeys[:i], k) {
			return nil, fmt.Errorf("vkeys: %s is listed twice", k)
		}
		key, err := proof.ParseKey(k)
		if err != nil {
			return nil, fmt.Errorf("vkeys: %w", err)
		}
		if key.Name() != raw.Origin {
			return nil, fmt.Errorf("vkeys: key is named %q, the log %q", key.Name(), raw.Origin)
		}
	}
	l := &Log{Origin: raw.Origin, Created: created, VKeys: raw.VKeys}
	if err := l.form(); err != nil {
		return nil, err
	}
	return l, exact(data, l.Append(nil))
}

// form holds the vkeys to one of the three forms that a log can begin with.
func (l *Log) form() error {
	keys, err := l.Keys()
	if err != nil {
		return err
	}
	var types []byte
	for _, k := range keys {
		types = append(types, k.Type())
	}
	switch string(types) {
	case "", string([]byte{proof.TypeEd25519}), string([]byte{proof.TypeEd25519, proof.TypeEd25519, proof.TypeMLDSA44}):
		return nil
	}
	return fmt.Errorf("vkeys: keys of types %x; want none, one of type 01, or three of types 01, 01, 06", types)
}

// Keys returns the verifier keys.
func (l *Log) Keys() ([]proof.Key, error) {
	keys := make([]proof.Key, len(l.VKeys))
	for i, v := range l.VKeys {
		k, err := proof.ParseKey(v)
		if err != nil {
			return nil, err
		}
		keys[i] = k
	}
	return keys, nil
}

// VKey returns the first verifier key, or "" in a log without signatures.
func (l *Log) VKey() string {
	if len(l.VKeys) == 0 {
		return ""
	}
	return l.VKeys[0]
}

// Dir returns where, under state, this host keeps what it knows of the log named origin.
func Dir(state, origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(state, hex.EncodeToString(sum[:]))
}

// Head is what this host knows of a log: the highest state it has ever signed, and how the last session ended.
type Head struct {
	Origin string
	VKey   string
	Log    [32]byte // SHA-256 of log.json
	Inode  uint64   // of log.json; 0 where the system has none
	Size   uint64
	Root   proof.Hash
	Kept   int64 // a length of the file checkpoints that is durable
	Clean  bool  // the writer closed after this and wrote nothing since
}

// Append adds the head's one line, with its newline.
func (h *Head) Append(dst []byte) []byte {
	return fmt.Appendf(dst, `{"origin":"%s","vkey":"%s","log":"%x","inode":%d,"size":%d,"root":"%s","kept":%d,"clean":%t}`+"\n",
		h.Origin, h.VKey, h.Log, h.Inode, h.Size, h.Root.Base64(), h.Kept, h.Clean)
}

// ParseHead reads a head. It refuses everything Append would not have written.
func ParseHead(data []byte) (*Head, error) {
	var raw struct {
		Origin, VKey, Log, Root string
		Inode, Size             json.Number
		Kept                    int64
		Clean                   bool
	}
	if err := decode(data, &raw); err != nil {
		return nil, err
	}
	if err := proof.CheckOrigin(raw.Origin); err != nil {
		return nil, err
	}
	h := &Head{Origin: raw.Origin, VKey: raw.VKey, Kept: raw.Kept, Clean: raw.Clean}
	log, err := proof.ParseHex(raw.Log)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	h.Log = log
	if h.Root, err = proof.ParseHash(raw.Root); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if h.Inode, err = strconv.ParseUint(raw.Inode.String(), 10, 64); err != nil {
		return nil, fmt.Errorf("inode: %w", err)
	}
	if h.Size, err = strconv.ParseUint(raw.Size.String(), 10, 64); err != nil {
		return nil, fmt.Errorf("size: %w", err)
	}
	if h.Size > proof.MaxSize {
		return nil, fmt.Errorf("size is %d, at most %d", h.Size, uint64(proof.MaxSize))
	}
	if h.Kept < 0 {
		return nil, fmt.Errorf("kept is %d, at least 0", h.Kept)
	}
	if h.VKey != "" {
		if _, err := proof.ParseKey(h.VKey); err != nil {
			return nil, fmt.Errorf("vkey: %w", err)
		}
	}
	return h, exact(data, h.Append(nil))
}

func decode(data []byte, v any) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("%d bytes, at most %d", len(data), MaxBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("not the expected JSON object: %w", err)
	}
	return nil
}

// exact holds a record to its one encoding: whatever a lenient JSON decoder let pass (case of names, order, spaces,
// duplicates, a second value) shows as a difference here.
func exact(got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	n := 0
	for n < len(got) && n < len(want) && got[n] == want[n] {
		n++
	}
	return fmt.Errorf("differs at offset %d from its one encoding: found %q, expected %q", n, clip(got[n:]), clip(want[n:]))
}

func clip(b []byte) []byte { return b[:min(len(b), 40)] }
