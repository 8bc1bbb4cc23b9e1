package drill

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// An image is a log as bytes: its directory, and what a host knows of it. Attacks change images; what they are written to is
// made for one attack and read by verifiers only.
type image struct {
	origin string
	log    map[string][]byte // by path in the log's directory, with slashes
	state  map[string][]byte // by path in the log's own directory of the state
}

// maxFile bounds a file of a scratch log.
const maxFile = 64 << 20

// readImage reads a log that nobody writes, and what the state directory knows of it.
func readImage(dir, stateRoot, origin string) (*image, error) {
	m := &image{origin: origin, log: map[string][]byte{}, state: map[string][]byte{}}
	if err := readTree(m.log, dir); err != nil {
		return nil, err
	}
	return m, readTree(m.state, identity.Dir(stateRoot, origin))
}

func readTree(files map[string][]byte, dir string) error {
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)], err = vfs.ReadFile(vfs.OS(), name, maxFile)
		return err
	})
}

func (m *image) clone() *image {
	return &image{m.origin, maps.Clone(m.log), maps.Clone(m.state)}
}

// write puts the image into two directories, which it makes. Where the head is of a log.json, it is of this copy of it: the
// attack is told apart from a copy that somebody made, which the head would tell too.
func (m *image) write(dir, stateRoot string) error {
	if err := writeTree(m.log, dir); err != nil {
		return err
	}
	state := maps.Clone(m.state)
	if h, err := identity.ParseHead(state[identity.HeadName]); err == nil {
		info, err := vfs.OS().Stat(filepath.Join(dir, identity.LogName))
		if err != nil {
			return err
		}
		h.Inode = info.Inode
		state[identity.HeadName] = h.Append(nil)
	}
	return writeTree(state, identity.Dir(stateRoot, m.origin))
}

func writeTree(files map[string][]byte, dir string) error {
	made := map[string]bool{}
	if err := mkdirs(dir, made); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		name, data := filepath.Join(dir, filepath.FromSlash(name)), files[name]
		if err := mkdirs(filepath.Dir(name), made); err != nil {
			return err
		}
		if err := writeFile(name, data); err != nil {
			return err
		}
	}
	return nil
}

// writeFile is not durable: nobody misses a drill after a power cut.
func writeFile(name string, data []byte) error {
	f, err := vfs.OS().Create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	return errors.Join(err, f.Close())
}

func mkdirs(dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := vfs.OS().Mkdir(dir, 0o700); errors.Is(err, fs.ErrNotExist) {
		if err := mkdirs(filepath.Dir(dir), made); err != nil {
			return err
		}
		if err := vfs.OS().Mkdir(dir, 0o700); err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made[dir] = true
	return nil
}

// file is one file of the log, which must be there.
func (m *image) file(name string) ([]byte, error) {
	data, found := m.log[name]
	if !found {
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	return bytes.Clone(data), nil
}

// named is the name of the n-th file in a directory whose name ends so.
func (m *image) named(dir, suffix string, n int) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(m.log)) {
		if path.Dir(name) != dir || !strings.HasSuffix(name, suffix) {
			continue
		}
		if n == 0 {
			return name, nil
		}
		n--
	}
	return "", fmt.Errorf("%s/*%s: %w", dir, suffix, os.ErrNotExist)
}

// flip changes one bit of a file, counted from its end where at is negative.
func (m *image) flip(name string, at int) error {
	data, err := m.file(name)
	if err != nil {
		return err
	}
	if at < 0 {
		at += len(data)
	}
	if at < 0 || at >= len(data) {
		return fmt.Errorf("%s has %d bytes, none at %d", name, len(data), at)
	}
	data[at] ^= 1
	m.log[name] = data
	return nil
}

// head changes what this host knows.
func (m *image) head(change func(h *identity.Head)) error {
	h, err := identity.ParseHead(m.state[identity.HeadName])
	if err != nil {
		return err
	}
	change(h)
	m.state[identity.HeadName] = h.Append(nil)
	return nil
}
