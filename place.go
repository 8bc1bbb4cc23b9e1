package immutable

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/tree-of-life-system/immutable/internal/identity"
	"github.com/tree-of-life-system/immutable/internal/vfs"
)

// A log is found by the name in its own log.json, so whoever deletes a log and lets another one begin in its place shows a
// log that knows nothing of the old one. Two small records in the state directory remember which log lay where:
// places/<hex SHA-256(path)> holds the origin, and the log's own state holds the path in the file `dir`. They are written
// by every writer that opens the log, so a log that was moved and opened at its new place is not missed at the old one.
const (
	placesDir = "places"
	placeName = "dir"
	maxPlace  = 64 << 10
)

// missing says which log this host last knew in the directory, if that is another one than origin ("": none is there
// now), had entries, and was not opened elsewhere since.
func missing(fsys vfs.FS, state, dir, origin string) (head *identity.Head, record string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, "", err
	}
	record = placeFile(state, dir)
	was, err := readPlace(fsys, record)
	if err != nil || was == "" || was == origin {
		return nil, "", err
	}
	own := identity.Dir(state, was)
	where, err := readPlace(fsys, filepath.Join(own, placeName))
	if err != nil || where != dir {
		return nil, "", err
	}
	data, err := vfs.ReadFile(fsys, filepath.Join(own, identity.HeadName), identity.MaxBytes)
	if notExist(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if head, err = identity.ParseHead(data); err != nil || head.Size == 0 {
		return nil, "", err
	}
	return head, record, nil
}

// readPlace reads a record's one line, "" where there is none.
func readPlace(fsys vfs.FS, name string) (string, error) {
	data, err := vfs.ReadFile(fsys, name, maxPlace)
	if notExist(err) {
		return "", nil
	}
	return strings.TrimSuffix(string(data), "\n"), err
}

func placeFile(state, dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(state, placesDir, hex.EncodeToString(sum[:]))
}

// takePlace refuses a directory where this host last knew another log, and else remembers that this one is there.
func (l *Log) takePlace() error {
	head, record, err := missing(l.fs, l.cfg.StateDir, l.dir, l.id.Origin)
	if err != nil {
		return fmt.Errorf("look up which log was in %s: %w", l.dir, err)
	}
	if head != nil {
		return &RefusedError{
			Dir: l.dir, Reason: fmt.Sprintf("this host has signed %d entries of the log %s here, and the log %s is in its place: the old one was deleted, replaced or moved", head.Size, head.Origin, l.id.Origin),
			Known: headText(head), Next: "bring the old log back, or open it once where it lies now; if it was deleted on purpose, remove " + record,
		}
	}
	dir, err := filepath.Abs(l.dir)
	if err != nil {
		return err
	}
	if err := errors.Join(l.writePlace(placeFile(l.cfg.StateDir, dir), l.id.Origin), l.writePlace(l.statePath(placeName), dir)); err != nil {
		// Not a reason to stop: the log's own head is what guards it. The next open tries again.
		l.logger.Warn("not remembered which log lies here", "error", err)
	}
	return nil
}

// leavePlace remembers that the log is where it is now and not in dir, where it was until then: another may begin there, which says in its
// first entry that it continues this one. Without a record of it in dir there is nothing to do.
func (l *Log) leavePlace(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	own := identity.Dir(l.cfg.StateDir, l.id.Origin)
	where, err := readPlace(l.fs, filepath.Join(own, placeName))
	if err != nil || where != dir {
		return err
	}
	here, err := filepath.Abs(l.dir)
	if err != nil {
		return err
	}
	return l.writePlace(filepath.Join(own, placeName), here)
}

func (l *Log) writePlace(name, text string) error {
	if now, err := readPlace(l.fs, name); err == nil && now == text {
		return nil
	}
	if err := vfs.MkdirAll(l.fs, filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return vfs.WriteAtomic(l.fs, name+".new", name, []byte(text+"\n"), 0o600)
}

// refuteReplaced adds to a report that another log is missing where this one lies.
func refuteReplaced(fsys vfs.FS, state, dir string, rep *Report) error {
	head, record, err := missing(fsys, state, dir, rep.Origin)
	if err != nil || head == nil {
		return err
	}
	rep.Findings = append([]Finding{{
		File: identity.LogName, Offset: -1, Index: -1, What: fmt.Sprintf("another log was in this directory, of which this host has signed %d entries: it was deleted, replaced or moved", head.Size),
		Got: rep.Origin, Want: head.Origin, Hint: "bring it back, or open it once where it lies now; if it was deleted on purpose, remove " + record,
	}}, rep.Findings...)
	rep.Verdict = Refuted
	return nil
}
