package immutable

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/keys"
	"github.com/tree-of-life-system/immutable/internal/segment"
	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// logDirs are the directories in a log's directory.
var logDirs = []string{pendingDir, archiveDir, indexDir, quarantineDir, nextDir, "tree"}

// create makes a new log in a directory that holds none. log.json comes last: a crash before it leaves a directory
// that the next Open takes for empty, and at most a key that signs nothing.
func (l *Log) create() error {
	if err := l.checkEmpty(); err != nil {
		return err
	}
	l.id = &identity.Log{Origin: l.cfg.Origin, Created: l.unixNano()}
	if l.id.Origin == "" {
		l.id.Origin = l.newOrigin()
	}
	l.state = identity.Dir(l.cfg.StateDir, l.id.Origin)
	// A head of size 0 is of a log that a crash kept from being made, or that never had an entry.
	if head, err := l.loadHead(); err == nil && head.Size > 0 {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the directory is empty, and this host has signed %d entries of the log %s: it was deleted, or lies elsewhere", head.Size, head.Origin),
			Known: headText(head), Next: "open it where it lies, restore it, or choose another --origin for a new log",
		}
	} else if err != nil && !notExist(err) {
		return err
	}
	if head, record, err := missing(l.fs, l.cfg.StateDir, l.dir, l.id.Origin); err != nil {
		return fmt.Errorf("look up which log was in %s: %w", l.dir, err)
	} else if head != nil {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("the directory holds no log, and this host has signed %d entries of the log %s here: it was deleted or moved", head.Size, head.Origin),
			Known: headText(head), Next: "bring it back, or open it once where it lies now; if it was deleted on purpose, remove " + record,
		}
	}
	for _, dir := range logDirs {
		if err := vfs.MkdirAll(l.fs, l.path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := vfs.MkdirAll(l.fs, l.statePath(keysDir), 0o700); err != nil {
		return err
	}
	if !l.cfg.NoSignatures {
		if err := l.createKey(); err != nil {
			return err
		}
	}
	header := segment.AppendHeader(nil, 0, Hash{})
	if err := vfs.WriteAtomic(l.fs, l.path(nextDir, openName), l.path(openName), header, 0o444); err != nil {
		return err
	}
	return l.createRecords()
}

// createRecords writes the first checkpoint, of the empty tree, then log.json and the head that knows it.
func (l *Log) createRecords() error {
	note, err := l.newCheckpoint(l.epochKeys, proof.Checkpoint{Origin: l.id.Origin, Root: proof.EmptyRoot()})
	if err != nil {
		return err
	}
	history := append(append([]byte(nil), note...), '\n')
	if err := vfs.WriteAtomic(l.fs, l.path(nextDir, checkpointsName), l.path(checkpointsName), history, 0o600); err != nil {
		return err
	}
	if err := vfs.WriteAtomic(l.fs, l.path(nextDir, checkpointName), l.path(checkpointName), note, 0o600); err != nil {
		return err
	}
	// The head names log.json's inode, so log.json is written first under its temporary name, and renamed last.
	data := l.id.Append(nil)
	tmp := l.path(nextDir, identity.LogName)
	if err := vfs.WriteAtomic(l.fs, tmp+".new", tmp, data, 0o444); err != nil {
		return err
	}
	info, err := l.fs.Stat(tmp)
	if err != nil {
		return err
	}
	head := &identity.Head{
		Origin: l.id.Origin, VKey: l.id.VKey(), Log: sha256.Sum256(data), Inode: info.Inode,
		Root: proof.EmptyRoot(), Kept: int64(len(history)), Clean: true,
	}
	if err := l.writeHead(head); err != nil {
		return err
	}
	if err := l.fs.Rename(tmp, l.path(identity.LogName)); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.path()); err != nil {
		return err
	}
	chain, err := proof.NewChain(l.id.Origin, l.id.VKeys)
	l.chain.Store(chain)
	return err
}

func (l *Log) createKey() error {
	signer, err := keys.Create(l.fs, l.statePath(keysDir), l.id.Origin)
	if err != nil {
		// A crash may have left the key of a log that never came to be; it has signed nothing but the empty tree.
		var loadErr error
		if signer, loadErr = keys.Load(l.fs, l.statePath(keysDir), l.id.Origin); loadErr != nil {
			return errors.Join(err, loadErr)
		}
		if err := l.fs.SyncDir(l.statePath(keysDir)); err != nil { // its name may not be durable yet
			return err
		}
	}
	l.signer = signer
	l.id.VKeys = []string{signer.VKey()}
	if l.cfg.vkeys == 1 {
		return nil
	}
	return l.createEpoch()
}

// createEpoch makes the keys of epoch 0.
func (l *Log) createEpoch() error {
	dir := l.statePath(keysDir)
	e, err := keys.LoadEpoch(l.fs, dir, l.id.Origin, 0)
	if notExist(err) {
		e, err = keys.CreateEpoch(l.fs, dir, l.id.Origin, 0, []proof.Key{l.signer.Key()})
	} else if err == nil { // a crash left it, as above
		err = l.fs.SyncDir(dir)
	}
	if err != nil {
		return err
	}
	first := e.VKeys()
	l.epochKeys, l.id.VKeys = e, append(l.id.VKeys, first[:]...)
	return nil
}

// checkEmpty refuses a directory that holds a log's files but no log.json: that is damage, not a place for a new log.
func (l *Log) checkEmpty() error {
	for _, dir := range []string{archiveDir, pendingDir, indexDir, quarantineDir} {
		names, err := l.fs.ReadDir(l.path(dir))
		if err != nil && !notExist(err) {
			return err
		}
		if len(names) > 0 {
			return &CorruptError{File: identity.LogName, What: fmt.Sprintf("it is missing, and %s/%s is there", dir, names[0])}
		}
	}
	note, err := vfs.ReadFile(l.fs, l.path(checkpointName), maxNote)
	if err != nil && !notExist(err) {
		return err
	}
	if lines := strings.SplitN(string(note), "\n", 3); err == nil && len(lines) > 1 && lines[1] != "0" {
		return &CorruptError{File: identity.LogName, What: "it is missing, and a checkpoint is there", Got: lines[1] + " entries of " + lines[0]}
	}
	info, err := l.fs.Stat(l.path(openName))
	if notExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if want := int64(len(segment.AppendHeader(nil, 0, Hash{}))); info.Size > want {
		return &CorruptError{File: identity.LogName, What: "it is missing, and immutable.log is there", Got: fmt.Sprintf("%d bytes of entries", info.Size-want)}
	}
	return l.fs.Chmod(l.path(openName), 0o600)
}

// newOrigin names a log after its host, with random digits, because no two logs may share an origin.
func (l *Log) newOrigin() string {
	host := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, l.hostname)
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand says
	return fmt.Sprintf("%s/log/%x", host, b)
}
