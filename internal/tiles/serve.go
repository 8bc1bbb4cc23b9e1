package tiles

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
)

// Handler serves a live log under the paths of C2SP tlog-tiles. Everything but the checkpoint never changes, and may be
// cached for ever. Bundles are compressed for those who take gzip. What fails inside is 500, and is told to failed, which may
// be nil, and to nobody else.
func Handler(src Source, failed func(error)) http.Handler {
	if failed == nil {
		failed = func(error) {}
	}
	return &server{src: src, failed: failed}
}

type server struct {
	src    Source
	failed func(error)
}

const (
	keepForever = "public, max-age=31536000, immutable"
	keepShort   = "public, max-age=2"
)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	note, c, err := s.src.Note()
	if err != nil {
		s.fail(w, err)
		return
	}
	if name == CheckpointPath {
		w.Header().Set("Cache-Control", keepShort)
		s.send(w, r, "text/plain; charset=utf-8", note)
		return
	}
	level, n, wide, ok := parsePath(name)
	if !ok || n > count(level, c.Size)/width || n*width+uint64(wide) > count(level, c.Size) {
		w.Header().Set("Cache-Control", keepShort) // it may be there soon
		http.Error(w, "no such tile", http.StatusNotFound)
		return
	}
	var data []byte
	if level == entries {
		var lines [][]byte
		if lines, err = s.src.Lines(r.Context(), n*width, wide); err == nil {
			data, err = bundle(lines)
		}
	} else {
		list, herr := s.src.Hashes(r.Context(), level, n*width, wide)
		data, err = tile(list), herr
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Cache-Control", keepForever)
	if level == entries {
		w.Header().Set("Vary", "Accept-Encoding")
		if data, err = compressed(w, r, data); err != nil {
			s.fail(w, err)
			return
		}
	}
	s.send(w, r, "application/octet-stream", data)
}

// compressed is data as the client takes it.
func compressed(w http.ResponseWriter, r *http.Request, data []byte) ([]byte, error) {
	takes := false
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		q = strings.ReplaceAll(q, " ", "")
		takes = takes || strings.EqualFold(strings.TrimSpace(name), "gzip") && q != "q=0" && !strings.HasPrefix(q, "q=0.0")
	}
	if !takes {
		return data, nil
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	w.Header().Set("Content-Encoding", "gzip")
	return out.Bytes(), nil
}

func (s *server) send(w http.ResponseWriter, r *http.Request, kind string, data []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	if r.Method == http.MethodHead {
		return
	}
	_, _ = w.Write(data) // the client may be gone
}

// ErrGone is wrapped by a Source whose log does not have entries any more, only their hashes.
var ErrGone = errors.New("these entries are not there any more")

func (s *server) fail(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrGone) { // C2SP tlog-tiles, "Pruning"
		w.Header().Set("Cache-Control", keepShort)
		http.Error(w, "these entries are retired; their hashes are there", http.StatusNotFound)
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "no checkpoint yet", http.StatusNotFound)
		return
	}
	s.failed(err)
	http.Error(w, "the log cannot be read", http.StatusInternalServerError)
}
