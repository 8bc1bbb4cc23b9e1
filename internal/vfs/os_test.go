package vfs

import (
	"bytes"
	"errors"
	"testing"
)

// shortWriter is a file on a disk with room for limit bytes.
type shortWriter struct {
	buf   bytes.Buffer
	limit int
}

var errFull = errors.New("full")

func (w *shortWriter) WriteAt(p []byte, off int64) (int, error) {
	if off != int64(w.buf.Len()) {
		return 0, errors.New("not at the end")
	}
	if room := w.limit - w.buf.Len(); len(p) > room {
		w.buf.Write(p[:room])
		return room, errFull
	}
	return w.buf.Write(p)
}

func TestWriteZerosFillsExactly(t *testing.T) {
	for _, n := range []int64{0, 3, 4, 65536, 65540, 200_001} {
		w := &shortWriter{limit: 1 << 20}
		w.buf.WriteString("abc")
		if err := writeZeros(w, 3, n); err != nil {
			t.Fatal(err)
		}
		want := append([]byte("abc"), make([]byte, max(0, n-3))...)
		if !bytes.Equal(w.buf.Bytes(), want) {
			t.Errorf("to %d: got %d bytes", n, w.buf.Len())
		}
	}
	if err := writeZeros(&shortWriter{limit: 100_000}, 0, 200_000); !errors.Is(err, errFull) {
		t.Errorf("got %v, want the disk's error", err)
	}
}
