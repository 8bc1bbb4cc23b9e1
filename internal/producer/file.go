package producer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// maxKeyFile is more than any key file has.
const maxKeyFile = 1024

// CreateKeyFile writes a private key to a file that must not exist, mode 0600, durably.
func CreateKeyFile(fsys vfs.FS, name string, p *PrivateKey) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write the producer's key: %w", err)
		}
	}()
	// Under a temporary name first, so that the name never stands for half a key and never replaces one.
	tmp := name + ".new"
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(tmp, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(p.String()+"\n"), 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Link(tmp, name)
	}
	if rerr := fsys.Remove(tmp); err == nil {
		err = rerr
	}
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(name))
	}
	return err
}

// LoadKeyFile reads what CreateKeyFile wrote. Its errors show nothing of the key.
func LoadKeyFile(fsys vfs.FS, name string) (*PrivateKey, error) {
	data, err := vfs.ReadFile(fsys, name, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the producer's key: %w", err)
	}
	text, found := strings.CutSuffix(string(data), "\n")
	if !found {
		return nil, fmt.Errorf("producer's key file %s: it does not end in a newline", name)
	}
	p, err := ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("producer's key file %s: %w", name, err)
	}
	return p, nil
}
