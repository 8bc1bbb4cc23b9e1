package collect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// Limits of the offsets file.
const (
	maxOffsets    = 64 << 20 // bytes
	offsetsFormat = "immutable-collect/v1"
	keepGone      = 7 * 24 * time.Hour // how long a file that is not there any more is remembered, should it come back
)

// offsets is what is kept beside the log. It is a hint of where to go on: the entries from Size on are read at the start, and win.
type offsets struct {
	Format string      `json:"format"`
	Log    string      `json:"log"`  // the log that these are of
	Size   uint64      `json:"size"` // of the log: every entry below is accounted for in Files
	Files  []fileState `json:"files"`
}

// fileState is how far a file was collected. Inode, First and Generation tell it from others that had or will have its name.
type fileState struct {
	Path       string `json:"path"`
	Dev        uint64 `json:"dev"`
	Inode      uint64 `json:"inode"`
	First      string `json:"first"`      // hex of the hash of its first line, or of the first firstBytes
	FirstBytes int64  `json:"firstBytes"` // how many bytes that is
	Generation int    `json:"generation"` // how often the file was truncated
	Offset     int64  `json:"offset"`     // bytes that are in the log
	Part       int    `json:"part,omitempty"`
	Last       int64  `json:"last"`    // bytes of the last record
	LastSum    string `json:"lastSum"` // hex of its hash
	Size       int64  `json:"size"`    // when last seen

	Before []before  `json:"before,omitempty"` // what it was before it was truncated, the newest first
	Over   bool      `json:"over,omitempty"`   // it was seen empty: what comes next is another life
	Gone   time.Time `json:"gone,omitzero"`    // since when it is not there
	CopyOf *copyOf   `json:"copyOf,omitempty"` // the file that still has all of this one
}

// copyOf names a life of another file.
type copyOf struct {
	Inode      uint64 `json:"inode"`
	Generation int    `json:"generation"`
}

// before is what identifies a copy of a file that was truncated.
type before struct {
	Generation int    `json:"generation"`
	Path       string `json:"path"`
	First      string `json:"first"`
	FirstBytes int64  `json:"firstBytes"`
	Offset     int64  `json:"offset"`
	Part       int    `json:"part,omitempty"`
	Last       int64  `json:"last"`
	LastSum    string `json:"lastSum"`
}

// sum is a short name of bytes: 128 bits of SHA-256.
func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:16])
}

// place is what each entry says about where it came from: member "collect" of its metadata.
type place struct {
	Source     string `json:"source"`
	Path       string `json:"path"`
	Dev        uint64 `json:"dev,omitempty"`
	Inode      uint64 `json:"inode"`
	First      string `json:"first"`
	FirstBytes int64  `json:"firstBytes"`
	Generation int    `json:"generation,omitempty"`
	Offset     int64  `json:"offset"`
	Bytes      int64  `json:"bytes"`
	Sum        string `json:"sum"` // of the bytes
	Part       int    `json:"part,omitempty"`
	More       bool   `json:"more,omitempty"`
}

// key is the idempotency key of the record: the same record has the same, whatever its file is called now.
func (p *place) key() string {
	return "collect:" + sum(fmt.Appendf(nil, "%q %d %s %d %d %d", p.Source, p.Inode, p.First, p.FirstBytes, p.Generation, p.Offset))
}

// load reads the offsets, and brings them up to what the log holds.
func (c *collector) load(ctx context.Context) error {
	data, err := vfs.ReadFile(c.fs, c.Offsets, maxOffsets)
	var o offsets
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read the offsets: %w", err)
	default:
		err := json.Unmarshal(data, &o)
		if err == nil && o.Format != offsetsFormat {
			err = fmt.Errorf("its format is %q", o.Format)
		}
		if err != nil {
			return fmt.Errorf("%s is no file of offsets (%w); move it away to read where collecting stopped from the log itself", c.Offsets, err)
		}
		if o.Log != c.Name {
			return fmt.Errorf("%s has the offsets of the log %s, not of %s; give another --offsets", c.Offsets, o.Log, c.Name)
		}
	}
	c.size = o.Size
	for i := range o.Files {
		c.known = append(c.known, &o.Files[i])
	}
	if c.Entries == nil {
		return nil
	}
	if err := c.replay(ctx); err != nil {
		return fmt.Errorf("read from the log where collecting stopped: %w", err)
	}
	return nil
}

// replay takes into account what was appended after the offsets were written.
func (c *collector) replay(ctx context.Context) error {
	from := c.size
	for {
		var retired *immutable.RetiredError
		err := c.replayFrom(ctx, from)
		if !errors.As(err, &retired) || retired.End <= from {
			return err
		}
		from = retired.End
	}
}

func (c *collector) replayFrom(ctx context.Context, from uint64) error {
	for e, err := range c.Entries(ctx, immutable.Query{From: from}) {
		if err != nil {
			return err
		}
		c.size = max(c.size, e.Index+1)
		var m struct{ Collect *place }
		if e.Control != nil || json.Unmarshal(e.Metadata, &m) != nil || m.Collect == nil || m.Collect.Source != c.Source {
			continue
		}
		c.account(m.Collect)
	}
	return nil
}

// account notes that a record is in the log.
func (c *collector) account(p *place) {
	var s *fileState
	for _, k := range c.known {
		if k.Inode == p.Inode && k.First == p.First && k.FirstBytes == p.FirstBytes && k.Generation == p.Generation {
			s = k
		}
	}
	if s == nil {
		s = &fileState{Dev: p.Dev, Inode: p.Inode, First: p.First, FirstBytes: p.FirstBytes, Generation: p.Generation}
		for _, k := range c.known { // an earlier life of the same inode, whose copy may still come
			if k.Inode == p.Inode && k.Generation < p.Generation {
				s.Before, k.Gone = k.lives(), c.now()
			}
		}
		c.known = append(c.known, s)
	}
	if p.Offset+p.Bytes <= s.Offset {
		return
	}
	s.Path, s.Offset, s.Last, s.LastSum, s.Part = p.Path, p.Offset+p.Bytes, p.Bytes, p.Sum, 0
	if p.More {
		s.Part = p.Part
	}
	s.Size = max(s.Size, s.Offset)
}

// maxLives is how many former lives of a file are remembered, for copies that turn up late.
const maxLives = 8

// lives are what the file was and is, as those after the next truncation will know it.
func (s *fileState) lives() []before {
	all := append([]before{*s.life()}, s.Before...)
	return all[:min(len(all), maxLives)]
}

func (s *fileState) life() *before {
	return &before{Generation: s.Generation, Path: s.Path, First: s.First, FirstBytes: s.FirstBytes, Offset: s.Offset, Part: s.Part, Last: s.Last, LastSum: s.LastSum}
}

// save writes the offsets. A crash before it costs reading some entries again, nothing else.
func (c *collector) save() error {
	o := offsets{Format: offsetsFormat, Log: c.Name, Size: c.size}
	now := c.now()
	for _, s := range c.known {
		if s.Gone.IsZero() || now.Sub(s.Gone) < keepGone {
			o.Files = append(o.Files, *s)
		}
	}
	data, err := json.MarshalIndent(&o, "", " ")
	if err != nil {
		return err
	}
	if err := vfs.WriteAtomic(c.fs, c.Offsets+".tmp", c.Offsets, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the offsets: %w", err)
	}
	c.saved, c.dirty = now, false
	return nil
}

// lock keeps a second collector off the same offsets.
func (c *collector) lock() (func(), error) {
	if err := mkdirAll(c.fs, filepath.Dir(c.Offsets)); err != nil {
		return nil, err
	}
	l, err := c.fs.Lock(c.Offsets+".lock", fmt.Appendf(nil, "immutable collect of %s", c.Source))
	if err != nil {
		return nil, fmt.Errorf("another collector has these offsets: %w", err)
	}
	return func() { _ = l.Close() }, nil
}

func mkdirAll(fsys vfs.FS, dir string) error {
	err := fsys.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := mkdirAll(fsys, filepath.Dir(dir)); err != nil {
			return err
		}
		err = fsys.Mkdir(dir, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
