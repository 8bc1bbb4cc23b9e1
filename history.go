package immutable

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

// historyPiece is how much of the history of checkpoints is read at once, and where a search by halves ends.
const historyPiece = 4 * maxNote

// CheckpointHistory returns the signed checkpoints that the log keeps, oldest first, as C2SP notes.
func (l *Log) CheckpointHistory() ([][]byte, error) { return l.keptFrom(0, -1) }

// CheckpointsFrom returns the first of the checkpoints in CheckpointHistory whose size is at least size, at most limit of them. It
// reads what it returns, and little more.
func (l *Log) CheckpointsFrom(size uint64, limit int) ([][]byte, error) {
	if limit < 0 {
		return nil, fmt.Errorf("read %d checkpoints: want at least 0", limit)
	}
	return l.keptFrom(size, limit)
}

// keptFrom reads notes of the history, all of them where limit is negative.
func (l *Log) keptFrom(size uint64, limit int) (notes [][]byte, err error) {
	f, err := l.fs.Open(l.path(checkpointsName))
	if err != nil {
		return nil, fmt.Errorf("open the history of checkpoints: %w", err)
	}
	defer f.Close()
	length, err := l.historyLength(f)
	if err != nil {
		return nil, err
	}
	off, err := l.findKept(f, size, length)
	if err != nil {
		return nil, err
	}
	for buf := []byte(nil); off < length && (limit < 0 || len(notes) < limit); {
		buf = make([]byte, min(historyPiece, length-off)) // not used again: the notes alias it
		if n, err := f.ReadAt(buf, off); n < len(buf) {
			return nil, fmt.Errorf("%s: %w", checkpointsName, err)
		}
		list, cut := proof.SplitNotes(buf)
		for _, note := range list {
			off += int64(len(note)) + 1
			at, err := sizeOfNote(note)
			if err != nil {
				return nil, &CorruptError{File: checkpointsName, Offset: off - int64(len(note)) - 1, What: err.Error()}
			}
			if at >= size && (limit < 0 || len(notes) < limit) {
				notes = append(notes, note)
			}
		}
		if bad := (*proof.HistoryError)(nil); errors.As(cut, &bad) && len(list) == 0 {
			if l.w == nil && off+int64(len(buf)) == length && len(notes) > 0 && l.torn(buf, 0) {
				break // of a writer that is at it, or that died there
			}
			return nil, &CorruptError{File: checkpointsName, Offset: off, What: "a note " + bad.Reason}
		}
	}
	return notes, nil
}

// historyLength is how far the history reaches: for a writer what it has made durable, for a reader what is there.
func (l *Log) historyLength(f vfs.File) (int64, error) {
	if l.w == nil {
		return f.Size()
	}
	l.publisher.mu.Lock()
	defer l.publisher.mu.Unlock()
	return l.publisher.length, nil
}

// findKept returns where a note begins, at or before the first whose size is at least size, by halves: sizes increase.
func (l *Log) findKept(f vfs.File, size uint64, length int64) (int64, error) {
	low, high := int64(0), length
	begin := []byte("\n\n" + l.id.Origin + "\n")
	window := make([]byte, 2*maxNote)
	for high-low > historyPiece {
		middle := low + (high-low)/2
		n, err := f.ReadAt(window, middle)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%s: %w", checkpointsName, err)
		}
		i := bytes.Index(window[:n], begin)
		if i < 0 {
			break // it is read from low on, and what is wrong is said then
		}
		note, _ := l.cutNote(window[i+2 : n])
		at, err := sizeOfNote(note)
		if err != nil {
			return low, nil //nolint:nilerr // the note is read again, and whoever reads says what is wrong
		}
		if at < size {
			low = middle + int64(i) + 2
		} else {
			high = middle
		}
	}
	return low, nil
}
