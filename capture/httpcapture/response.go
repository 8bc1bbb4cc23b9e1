package httpcapture

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// response is the ResponseWriter that a handler gets: it sees what is written.
type response struct {
	http.ResponseWriter
	status                       int // 0 until the header is written
	bytes                        int64
	hijacked                     bool
	tap                          *tap // nil if the body is not recorded
	contentType, contentEncoding string
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// begin notes the status that is sent, which the first call decides.
func (w *response) begin(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if w.tap != nil {
		w.contentType, w.contentEncoding = w.Header().Get("Content-Type"), w.Header().Get("Content-Encoding")
	}
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols { // others come before the one that counts
		w.begin(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	n, err := w.ResponseWriter.Write(p)
	w.wrote(p[:max(n, 0)])
	return n, err
}

func (w *response) wrote(p []byte) {
	w.bytes += int64(len(p))
	if w.tap != nil {
		if w.contentType == "" { // net/http looks at the first bytes then
			w.contentType = http.DetectContentType(p)
		}
		_, _ = w.tap.Write(p)
	}
}

// ReadFrom implements io.ReaderFrom, so that files still go out by the kernel, unless the body is recorded.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	if w.tap != nil {
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	w.begin(http.StatusOK)
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// The interfaces that a server's own ResponseWriter may have, in the sets in which net/http's have them: HTTP/1 flushes and is hijacked,
// HTTP/2 flushes and pushes.
type (
	flushing  struct{ *response }
	hijacking struct{ flushing }
	pushing   struct{ flushing }
)

// wrap gives the handler what the server's ResponseWriter has.
func wrap(w *response) http.ResponseWriter {
	if _, ok := w.ResponseWriter.(http.Flusher); !ok {
		if _, ok := w.ResponseWriter.(interface{ FlushError() error }); !ok {
			return w
		}
	}
	if _, ok := w.ResponseWriter.(http.Hijacker); ok {
		return hijacking{flushing{w}}
	}
	if _, ok := w.ResponseWriter.(http.Pusher); ok {
		return pushing{flushing{w}}
	}
	return flushing{w}
}

// Flush implements http.Flusher.
func (w flushing) Flush() { _ = w.FlushError() } // http.Flusher has no error

// FlushError is what http.ResponseController calls.
func (w flushing) FlushError() error {
	w.begin(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker.
func (w hijacking) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	w.hijacked = w.hijacked || err == nil
	return c, rw, err
}

// Push implements http.Pusher.
func (w pushing) Push(target string, opts *http.PushOptions) error {
	return w.ResponseWriter.(http.Pusher).Push(target, opts)
}
