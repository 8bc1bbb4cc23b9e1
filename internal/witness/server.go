// Package witness is both sides of C2SP tlog-witness: a server that cosigns the checkpoints of logs and never two that
// contradict each other, and the client that a log asks its witnesses with.
package witness

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tree-of-life-system/immutable/internal/vfs"
	"github.com/tree-of-life-system/immutable/proof"
)

const (
	// maxAtWork bounds how many requests are checked at once; the others wait, and after waitForTurn are turned away.
	maxAtWork   = 64
	waitForTurn = 5 * time.Second
)

// Config says what a server watches.
type Config struct {
	// Name is the witness's, a schema-less URL; its keys are made with it on the first start. Empty is that of the keys.
	Name string

	// Logs are the keys of the logs to watch, Ed25519 (0x01) or ML-DSA-44 (0x06), each named by its log's origin. Of a log with
	// several, one good signature admits a checkpoint, and a bad one by any of them refuses it.
	Logs []proof.Key

	// Logger hears of forks and of a state that cannot be written. Nil is silent.
	Logger *slog.Logger

	now func() time.Time // tests
}

// Server is a witness. For each origin it knows the newest checkpoint that it has cosigned, and cosigns only what is
// consistent with that. The new one is durable before it is answered, so that no crash and no second request makes it sign
// another history. Its methods may be called from any number of goroutines.
type Server struct {
	st      *state
	name    string
	logger  *slog.Logger
	now     func() time.Time
	atWork  chan struct{}
	started time.Time
	handler http.Handler

	mu     sync.RWMutex        // guards what follows; not held across I/O
	logs   map[string]*watched // by origin: what is watched now
	hashes map[string]*watched // the same by the origin's hash

	setting sync.Mutex          // one SetLogs at a time; guards ever
	ever    map[string]*watched // since the start: a log has one of them, however often it is taken off the list and put on it
}

// watched is one origin.
type watched struct {
	origin string
	hash   string      // of the origin, as in the monitoring URL
	keys   []proof.Key // guarded by Server.mu

	turn  sync.Mutex // one request at a time: check, sign and persist are one step
	known record     // guarded by turn; durable. After a write that failed the disk may have a newer one, which nobody saw

	mu       sync.Mutex // guards what follows, for those who only look
	shown    record     // durable
	seen     time.Time  // when a checkpoint with a good signature came last
	refused  uint64     // requests since the start
	last     string     // why, the last time
	proofs   []string   // names of the proofs of misbehaviour
	dropped  uint64     // proofs that were not kept, because there are enough
	writeErr string     // of the last write, if it failed
}

// New opens a witness's directory, and makes it, with its keys, where there is none. One process at a time has it.
func New(fsys vfs.FS, dir string, c Config) (*Server, error) {
	st, err := openState(fsys, dir, c.Name)
	if err != nil {
		return nil, fmt.Errorf("open the witness in %s: %w", dir, err)
	}
	s := &Server{st: st, name: st.keys[0].Key().Name(), logger: c.Logger, now: c.now, atWork: make(chan struct{}, maxAtWork), ever: map[string]*watched{}}
	if s.now == nil {
		s.now = time.Now
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.started, s.handler = s.now(), s.routes()
	if err := s.SetLogs(c.Logs); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return s, nil
}

// Close gives up the directory. Requests must have ended.
func (s *Server) Close() error { return s.st.close() }

// Name is the witness's name.
func (s *Server) Name() string { return s.name }

// Keys are the witness's verifier keys: Ed25519 (0x04), then ML-DSA-44 (0x06).
func (s *Server) Keys() []proof.Key { return s.st.public() }

// SetLogs replaces the logs that are watched. What is known of a log that is no longer watched stays on the disk, and
// counts when it is watched again. On an error nothing changes.
func (s *Server) SetLogs(keys []proof.Key) error {
	byOrigin := map[string][]proof.Key{}
	for _, k := range keys {
		origin := k.Name()
		if err := proof.CheckOrigin(origin); err != nil {
			return fmt.Errorf("log key %s: %w", k, err)
		}
		if k.Type() != proof.TypeEd25519 && k.Type() != proof.TypeMLDSA44 {
			return fmt.Errorf("log key %s: it has type %#02x, a log's has 0x01 or 0x06", k, k.Type())
		}
		if origin == s.name {
			return fmt.Errorf("log key %s: the log has this witness's name, so that their signatures could be mistaken for each other: name the witness otherwise", k)
		}
		if !slices.ContainsFunc(byOrigin[origin], func(other proof.Key) bool { return other.String() == k.String() }) {
			byOrigin[origin] = append(byOrigin[origin], k)
		}
	}
	proofs, err := s.st.misbehaviours()
	if err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	logs, hashes := make(map[string]*watched, len(byOrigin)), make(map[string]*watched, len(byOrigin))
	for origin := range byOrigin {
		w := s.ever[origin]
		if w == nil {
			w = &watched{origin: origin, hash: originHash(origin)}
			if w.known, err = s.st.load(origin); err != nil {
				return err
			}
			w.shown, w.proofs = w.known, proofs[w.hash[:16]]
			s.ever[origin] = w
		}
		logs[origin], hashes[w.hash] = w, w
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for origin, w := range logs {
		w.keys = byOrigin[origin]
	}
	s.logs, s.hashes = logs, hashes
	return nil
}

// refusal is an answer other than 200.
type refusal struct {
	status int
	text   string
	size   uint64 // with 409: what this witness has
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// add is add-checkpoint: it returns the cosignature lines, or why there are none.
func (s *Server) add(body []byte) ([]byte, *refusal) {
	req, err := ParseRequest(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "malformed request: %s", err)
	}
	n, err := proof.ParseNote(req.Note)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "malformed request: %s", err)
	}
	origin, _, _ := strings.Cut(n.Text, "\n")
	s.mu.RLock()
	w := s.logs[origin]
	var keys []proof.Key
	if w != nil {
		keys = w.keys
	}
	s.mu.RUnlock()
	if w == nil {
		return nil, refuse(http.StatusNotFound, "this witness does not watch the log %.260q", origin)
	}
	lines, no := s.addTo(w, keys, req, n)
	if no != nil && no.status != http.StatusConflict { // which is how a log learns the size
		w.mu.Lock()
		w.refused++
		w.last = no.text
		w.mu.Unlock()
	}
	return lines, no
}

func (s *Server) addTo(w *watched, keys []proof.Key, req *Request, n *proof.Note) ([]byte, *refusal) {
	if _, err := n.Verify(keys); err != nil {
		return nil, refuse(http.StatusForbidden, "%s", err)
	}
	if count(n.Signatures, keys) == 0 {
		return nil, refuse(http.StatusForbidden, "no signature by a trusted key of the log")
	}
	c, err := proof.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%s", err)
	}
	w.mu.Lock()
	w.seen = s.now()
	w.mu.Unlock()
	if req.Old > c.Size {
		return nil, refuse(http.StatusBadRequest, "old size %d is above the checkpoint's size %d", req.Old, c.Size)
	}
	w.turn.Lock()
	defer w.turn.Unlock()
	if no := s.consistent(w, keys, req, c); no != nil {
		return nil, no
	}
	return s.advance(w, keys, n, c)
}

// consistent compares a checkpoint with what was cosigned before. A signed one that contradicts it is kept as a proof of
// misbehaviour, also where the answer is that the old size is another. w.turn is held.
func (s *Server) consistent(w *watched, keys []proof.Key, req *Request, c proof.Checkpoint) *refusal {
	if w.known.note != nil && c.Size == w.known.size && c.Root != w.known.root {
		s.accuse(w, keys, &proof.Misbehaviour{A: w.known.note, B: req.Note})
	}
	if req.Old != w.known.size {
		return &refusal{status: http.StatusConflict, text: fmt.Sprintf("old size %d, this witness has %d", req.Old, w.known.size), size: w.known.size}
	}
	if err := proof.CheckConsistency(req.Proof, req.Old, c.Size, w.known.root, c.Root); err != nil {
		if w.known.note != nil && req.Old < c.Size {
			s.accuse(w, keys, &proof.Misbehaviour{A: w.known.note, B: req.Note, Proof: req.Proof})
		}
		return refuse(http.StatusUnprocessableEntity, "the checkpoint of size %d is not shown to continue the one of size %d: %s", c.Size, w.known.size, err)
	}
	return nil
}

// advance signs, makes the new record durable, and only then gives the signatures away. w.turn is held.
func (s *Server) advance(w *watched, keys []proof.Key, n *proof.Note, c proof.Checkpoint) ([]byte, *refusal) {
	lines, r, err := s.st.cosign(n, c, keys, unixTime(s.now(), w.known.time))
	if err != nil {
		return nil, refuse(http.StatusInternalServerError, "%s", err)
	}
	if err := s.st.save(w.origin, &r); err != nil {
		return nil, s.cannotWrite(w, err)
	}
	// From here on a crash loses nothing that was answered.
	w.known = r
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown, w.writeErr = r, ""
	return lines, nil
}

func (s *Server) cannotWrite(w *watched, err error) *refusal {
	s.logger.Error("witness cannot write its state; nothing is cosigned", "origin", w.origin, "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeErr = err.Error()
	return refuse(http.StatusInternalServerError, "this witness cannot write its state")
}

// accuse keeps a proof that the log signed two histories, if it is one. w.turn is held.
func (s *Server) accuse(w *watched, keys []proof.Key, m *proof.Misbehaviour) {
	found, err := m.Verify(keys)
	if err != nil {
		return // a proof that shows nothing: a client's mistake, or noise
	}
	s.logger.Warn("log has signed two histories", "origin", w.origin, "size", found.Size)
	w.mu.Lock()
	enough := len(w.proofs) >= maxProofsPerOrigin
	if enough {
		w.dropped++
	}
	w.mu.Unlock()
	if enough {
		return
	}
	data, err := m.MarshalText()
	if err != nil {
		s.logger.Error("proof of misbehaviour not kept", "origin", w.origin, "error", err)
		return
	}
	name, err := s.st.saveMisbehaviour(w.origin, data)
	if err != nil {
		s.logger.Error("proof of misbehaviour not kept", "origin", w.origin, "error", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.proofs, name) {
		w.proofs = append(w.proofs, name)
	}
}

// ServeHTTP serves add-checkpoint, the monitoring URLs, the proofs of misbehaviour, /healthz and a page for people.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(rw, r) }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", s.serveAdd)
	mux.HandleFunc("GET /{hash}/{file}", s.serveCheckpoint)
	mux.HandleFunc("GET /misbehaviour/{name}", s.serveMisbehaviour)
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.HandleFunc("GET /{$}", s.servePage)
	return mux
}

func (s *Server) serveAdd(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, MaxRequest))
	if err != nil {
		http.Error(rw, fmt.Sprintf("read the request, of at most %d bytes: %s", MaxRequest, err), http.StatusBadRequest)
		return
	}
	turn := time.NewTimer(waitForTurn)
	defer turn.Stop()
	select {
	case s.atWork <- struct{}{}:
		defer func() { <-s.atWork }()
	case <-turn.C:
		rw.Header().Set("Retry-After", "5")
		http.Error(rw, "too many requests at once; try again", http.StatusServiceUnavailable)
		return
	case <-r.Context().Done():
		return
	}
	lines, no := s.add(body)
	switch {
	case no == nil:
		plain(rw, "no-store", lines)
	case no.status == http.StatusConflict:
		rw.Header().Set("Content-Type", sizeType)
		rw.WriteHeader(no.status)
		_, _ = fmt.Fprintf(rw, "%d\n", no.size) // a client that left asks again
	default:
		http.Error(rw, no.text, no.status)
	}
}

// plain answers with text.
func plain(rw http.ResponseWriter, cache string, data []byte) {
	h := rw.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", cache)
	_, _ = rw.Write(data) // a client that left asks again
}

func (s *Server) serveCheckpoint(rw http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	found := s.hashes[r.PathValue("hash")]
	s.mu.RUnlock()
	var note []byte
	if found != nil {
		found.mu.Lock()
		note = found.shown.note
		found.mu.Unlock()
	}
	if r.PathValue("file") != "checkpoint" || note == nil {
		http.Error(rw, "nothing was cosigned under this name", http.StatusNotFound)
		return
	}
	plain(rw, "max-age=5", note)
}

func (s *Server) serveMisbehaviour(rw http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	s.mu.RLock()
	known := false
	for _, w := range s.logs {
		w.mu.Lock()
		known = known || slices.Contains(w.proofs, name)
		w.mu.Unlock()
	}
	s.mu.RUnlock()
	if !known {
		http.Error(rw, "no such proof", http.StatusNotFound)
		return
	}
	data, err := vfs.ReadFile(s.st.fs, s.st.path(misbehaviourDir, name), maxMisbehaviour)
	if err != nil {
		s.logger.Error("proof of misbehaviour cannot be read", "error", err)
		http.Error(rw, "the proof cannot be read", http.StatusInternalServerError)
		return
	}
	plain(rw, "max-age=3600", data)
}

func (s *Server) serveHealth(rw http.ResponseWriter, _ *http.Request) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, w := range s.logs {
		w.mu.Lock()
		failed := w.writeErr != ""
		w.mu.Unlock()
		if failed {
			http.Error(rw, "the state cannot be written", http.StatusServiceUnavailable)
			return
		}
	}
	plain(rw, "no-store", []byte("ok\n"))
}

// HTTPServer is a server for h with limits for clients that are slow, or send without end.
func HTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
}
