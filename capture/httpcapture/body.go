package httpcapture

import (
	"crypto/sha256"
	hexenc "encoding/hex"
	"hash"
	"io"
	"mime"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/internal/meta"
)

// tap keeps the beginning of what passes, its size and its digest. A body may still be read when it is recorded: a transport may go on
// with a request's after its answer.
type tap struct {
	limit int

	mu    sync.Mutex // guards what follows
	head  []byte
	bytes int64
	sum   hash.Hash
}

func newTap(limit int) *tap { return &tap{limit: limit, sum: sha256.New()} }

func (t *tap) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += int64(len(p))
	t.sum.Write(p)
	if room := t.limit - len(t.head); room > 0 {
		t.head = append(t.head, p[:min(len(p), room)]...)
	}
	return len(p), nil
}

// write records what has passed, if anything was to be recorded.
func (t *tap) write(o *meta.Object, name, contentType, encoding string, red *capture.Redaction) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bytes == 0 {
		return
	}
	o.Open(name)
	o.Count("bytes", t.bytes)
	o.Text("sha256", hexenc.EncodeToString(t.sum.Sum(nil)))
	o.Text("type", capture.Text(contentType, 128))
	o.Text("encoding", capture.Text(encoding, 32))
	whole := t.bytes == int64(len(t.head))
	o.True("cut", !whole)
	if text, ok := readable(t.head, contentType, red); whole && ok && (encoding == "" || strings.EqualFold(encoding, "identity")) {
		o.Text("text", text)
	}
	o.Close()
}

// readable is a whole body as text without secrets, if it is of a type for which that can be said.
func readable(body []byte, contentType string, red *capture.Redaction) (string, bool) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || !utf8.Valid(body) || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return "", false
	}
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		clean, err := red.JSON(body)
		return string(clean), err == nil
	case kind == "application/x-www-form-urlencoded":
		return red.Query(string(body)), true
	case strings.HasPrefix(kind, "text/"):
		return string(body), true
	}
	return "", false
}

// tapReader is a body that is read through a tap.
type tapReader struct {
	io.ReadCloser
	tap io.Writer
}

func (r *tapReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	_, _ = r.tap.Write(p[:n])
	return n, err
}
