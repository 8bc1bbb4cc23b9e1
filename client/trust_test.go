package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/proof"
)

func takenState(t *testing.T, keys []string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "state")
	c, err := New(Config{URL: "http://h", Keys: keys, State: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return name
}

func junkState(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// rewrite changes the bodies of answers whose path ends so.
func rewrite(suffix string, change func([]byte) []byte) hook {
	return func(_, path string, body io.ReadCloser) (io.ReadCloser, error) {
		if !strings.HasSuffix(path, suffix) {
			return body, nil
		}
		data, err := io.ReadAll(body)
		return io.NopCloser(bytes.NewReader(change(data))), err
	}
}

// readAllOf reads everything and returns the error that ends it.
func readAllOf(t *testing.T, c *Client) (n int, err error) {
	t.Helper()
	for _, err := range c.Entries(t.Context(), immutable.Query{}) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// forged gives an entry in an answer another number in its metadata, and the leaf hash that goes with it.
func forged(data []byte, index int) (changed []byte, leaf proof.Hash) {
	at := bytes.Index(data, fmt.Appendf(nil, `{"index":%d,`, index))
	if at < 0 {
		return data, leaf
	}
	raw := data[at:]
	depth := 0
	for i, b := range raw {
		if b == '{' {
			depth++
		} else if b == '}' {
			if depth--; depth == 0 {
				raw = raw[:i+1]
				break
			}
		}
	}
	line := append([]byte{'{'}, raw[len(`{"index":300,"leaf":"",`)+64:]...)
	line = bytes.Replace(line, fmt.Appendf(nil, `"n":%d`, index), fmt.Appendf(nil, `"n":%d`, index+1), 1)
	leaf = proof.LeafHash(line)
	fresh := append(fmt.Appendf(nil, `{"index":%d,"leaf":"%s",`, index, leaf), line[1:]...)
	return bytes.Replace(data, raw, fresh, 1), leaf
}

// The lie may go as far up the tree as the server likes: it ends at the root that the log has signed.
func TestAlteredEntryWithItsTilesIsCaught(t *testing.T) {
	s := serve(t)
	s.fill(700)
	for _, index := range []int{300, 600} { // under a full tile, and at the right edge
		f := s.front()
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		var leaf proof.Hash
		f.changes(func(_, path string, body io.ReadCloser) (io.ReadCloser, error) {
			data, err := io.ReadAll(body)
			switch {
			case strings.HasSuffix(path, fmt.Sprintf("/entries/%d", index)):
				data, leaf = forged(data, index)
			case strings.Contains(path, fmt.Sprintf("/tile/0/%03d", index/256)):
				copy(data[index%256*proof.HashSize:], leaf[:])
			}
			return io.NopCloser(bytes.NewReader(data)), err
		})
		if _, err := c.Entry(t.Context(), uint64(index)); !errors.As(err, new(*VerificationError)) {
			t.Errorf("entry %d: got %v", index, err)
		}
	}
}

// A server that changes an entry can make everything in its answer fit together, but for what the log has signed.
func TestAlteredEntryIsCaught(t *testing.T) {
	s := serve(t)
	s.fill(700)
	forge := func(data []byte) []byte { changed, _ := forged(data, 300); return changed }
	for _, path := range []string{"/entries", "/entries/300", "/stream"} {
		f := s.front()
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		if n, err := readAllOf(t, c); n != 700 || err != nil {
			t.Fatalf("an honest server: %d entries, %v", n, err)
		}
		f.changes(rewrite(path, forge))
		var err error
		switch path {
		case "/entries":
			_, err = readAllOf(t, c)
		case "/entries/300":
			_, err = c.Entry(t.Context(), 300)
		default:
			f.changes(func(_, asked string, body io.ReadCloser) (io.ReadCloser, error) {
				if !strings.HasSuffix(asked, path) {
					return body, nil
				}
				return struct {
					io.Reader
					io.Closer
				}{&forgingReader{r: body, forge: forge}, body}, nil
			})
			for _, ferr := range c.Subscribe(t.Context(), 290) {
				if err = ferr; err != nil {
					break
				}
			}
		}
		var v *VerificationError
		if !errors.As(err, &v) || v.Index != 300 {
			t.Errorf("%s: got %v, want a finding at entry 300", path, err)
		}
	}
}

// forgingReader changes a stream, a line at a time.
type forgingReader struct {
	r     io.Reader
	forge func([]byte) []byte
	held  []byte
	out   []byte
}

func (f *forgingReader) Read(p []byte) (int, error) {
	for len(f.out) == 0 {
		buf := make([]byte, 4096)
		n, err := f.r.Read(buf)
		f.held = append(f.held, buf[:n]...)
		if end := bytes.LastIndexByte(f.held, '\n'); end >= 0 {
			for _, line := range bytes.SplitAfter(f.held[:end+1], []byte("\n")) {
				f.out = append(f.out, f.forge(line)...)
			}
			f.held = append([]byte(nil), f.held[end+1:]...)
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, f.out)
	f.out = f.out[n:]
	return n, nil
}

func TestLeftOutEntryIsCaught(t *testing.T) {
	s := serve(t)
	s.fill(40)
	f := s.front()
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	if _, err := c.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	drop := func(gone ...int) func(data []byte) []byte {
		return func(data []byte) []byte {
			var p struct {
				Entries    []json.RawMessage `json:"entries"`
				Next       *string           `json:"next"`
				Size       uint64            `json:"size"`
				Root       string            `json:"root"`
				Checkpoint string            `json:"checkpoint"`
			}
			if err := json.Unmarshal(data, &p); err != nil {
				t.Error(err)
				return data
			}
			kept := p.Entries[:0]
			for _, raw := range p.Entries {
				var e struct{ Index int }
				if err := json.Unmarshal(raw, &e); err != nil {
					t.Error(err)
				}
				out := false
				for _, g := range gone {
					out = out || e.Index == g
				}
				if !out {
					kept = append(kept, raw)
				}
			}
			p.Entries = kept
			changed, err := json.Marshal(p)
			if err != nil {
				t.Error(err)
			}
			return changed
		}
	}
	for _, gone := range [][]int{{0}, {17}, {39}, {38, 39}} {
		f.changes(rewrite("/entries", drop(gone...)))
		for _, reverse := range []bool{false, true} {
			var last error
			for _, err := range c.Entries(t.Context(), immutable.Query{Reverse: reverse}) {
				last = err
			}
			if !errors.As(last, new(*VerificationError)) {
				t.Errorf("without %v, reverse %v: got %v", gone, reverse, last)
			}
		}
	}
	f.changes(honest)
	f.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/entries/17") {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"code":"not-found"}`)
			return true
		}
		return false
	})
	if _, err := c.Entry(t.Context(), 17); !errors.As(err, new(*VerificationError)) {
		t.Errorf("an entry that is denied: %v", err)
	}
}

func TestStrippedAndSwappedCheckpointsAreCaught(t *testing.T) {
	s := serve(t)
	s.fill(10)
	other := serve(t)
	other.fill(10)
	foreign, err := other.log().Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	var stripped *proof.StrippedError
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		want   any
	}{
		"ML-DSA signature stripped": {func(note []byte) []byte {
			lines := bytes.SplitAfter(note, []byte("\n"))
			return bytes.Join(lines[:len(lines)-2], nil) // after the last line there is an empty one
		}, &stripped},
		"all but the log key stripped": {func(note []byte) []byte {
			lines := bytes.SplitAfter(note, []byte("\n"))
			return bytes.Join(lines[:5], nil)
		}, &stripped},
		"another log's":   {func([]byte) []byte { return foreign }, nil},
		"size raised":     {func(note []byte) []byte { return bytes.Replace(note, []byte("\n10\n"), []byte("\n11\n"), 1) }, nil},
		"nothing of note": {func([]byte) []byte { return []byte("hello\n") }, nil},
	} {
		f := s.front()
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		f.changes(rewrite("/checkpoint", tc.change))
		_, err := c.Checkpoint(t.Context())
		if !errors.As(err, new(*VerificationError)) {
			t.Errorf("%s: got %v", name, err)
		}
		if tc.want != nil && !errors.As(err, tc.want) {
			t.Errorf("%s: got %v, want %T", name, err, tc.want)
		}
	}
}

// A client that has seen the end of a log knows it when the server has forgotten it, also after it was started anew.
func TestRolledBackServerIsCaught(t *testing.T) {
	s := serve(t)
	s.fill(20)
	f := s.front()
	state := filepath.Join(t.TempDir(), "state")
	c := s.client(func(cfg *Config) { cfg.URL, cfg.State = f.url, state })
	early, err := c.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.fill(5)
	if n, err := readAllOf(t, c); n != 25 || err != nil {
		t.Fatalf("%d entries, %v", n, err)
	}
	late, err := c.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	f.changes(rewrite("/checkpoint", func([]byte) []byte { return early }))
	c = s.client(func(cfg *Config) { cfg.URL, cfg.State = f.url, state })
	_, err = c.Checkpoint(t.Context())
	var m *MisbehaviourError
	if !errors.As(err, &m) || !bytes.Equal(m.Known, late) || !bytes.Equal(m.Got, early) {
		t.Fatalf("got %v, want both notes", err)
	}
	if _, ok := m.Portable(); ok {
		t.Error("an old checkpoint is said to prove something to others")
	}
}

// copyTree copies a directory's files over another's; files that are there keep their inode, those that are not in from go.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(to, path)
		if _, serr := os.Lstat(filepath.Join(from, rel)); serr != nil {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			if d.IsDir() {
				return filepath.SkipDir
			}
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	err = filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_ = os.Chmod(target, 0o600)
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A server whose machine was put back to a snapshot, and goes on, signs a second history. The client catches it, and has the
// proof for everybody.
func TestForkIsCaughtAndProven(t *testing.T) {
	for _, sizes := range [][3]int{{10, 6, 9}, {10, 6, 6}, {500, 12, 40}, {12, 4, 9}} { // common, then shown, then forked; 16 is a power of two
		s := serve(t)
		s.fill(sizes[0])
		s.stop()
		snapshot := filepath.Join(t.TempDir(), "snapshot")
		copyTree(t, s.dir, snapshot)
		s.start()
		s.fill(sizes[1])
		c := s.client(nil)
		if n, err := readAllOf(t, c); n != sizes[0]+sizes[1] || err != nil {
			t.Fatalf("%d entries, %v", n, err)
		}
		s.stop()
		copyTree(t, snapshot, s.dir)
		s.start()
		s.fill(sizes[2])
		_, err := readAllOf(t, c)
		var m *MisbehaviourError
		if !errors.As(err, &m) {
			t.Fatalf("%v: got %v, want misbehaviour", sizes, err)
		}
		file, ok := m.Portable()
		if !ok {
			t.Fatalf("%v: no portable proof in %v", sizes, err)
		}
		parsed, err := proof.ParseMisbehaviour(file)
		if err != nil {
			t.Fatal(err)
		}
		key, err := proof.ParseKey(s.log().VerifierKeys()[0])
		if err != nil {
			t.Fatal(err)
		}
		if contradiction, err := parsed.Verify([]proof.Key{key}); err != nil || contradiction.Size != uint64(sizes[0]+sizes[1]) {
			t.Errorf("%v: %v, %v", sizes, contradiction, err)
		}
	}
}

func TestKeysAreFollowedOverEpochs(t *testing.T) {
	s := serve(t)
	state := filepath.Join(t.TempDir(), "state")
	c := s.client(func(cfg *Config) { cfg.State = state })
	keys := c.cfg.Keys
	for range 3 {
		s.fill(5)
		if _, err := readAllOf(t, c); err != nil {
			t.Fatal(err)
		}
		if err := s.log().RotateKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.fill(5)
	if n, err := readAllOf(t, c); n != 23 || err != nil { // three entries begin epochs
		t.Fatalf("%d entries, %v", n, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = s.client(func(cfg *Config) { cfg.State, cfg.Keys = state, keys })
	if c.trust.at.Size != 23 || c.trust.chain.Current().Number != 3 {
		t.Errorf("the state remembers %d entries and epoch %d", c.trust.at.Size, c.trust.chain.Current().Number)
	}
	if _, err := readAllOf(t, c); err != nil {
		t.Error(err)
	}
}

func TestTilesAreProvenAtEverySize(t *testing.T) {
	s := serve(t)
	f := s.front()
	sizes := []int{1, 2, 3, 255, 256, 257, 511, 512, 700}
	at := 0
	for _, size := range sizes {
		s.fill(size - at)
		at = size
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		if n, err := readAllOf(t, c); n != size || err != nil {
			t.Fatalf("size %d: %d entries, %v", size, n, err)
		}
	}
	// A tile with one wrong byte is refused, wherever it is.
	for _, suffix := range []string{"/tile/0/000", "/tile/0/001", "/tile/0/002.p/188", "/tile/1/000.p/2"} {
		c := s.client(func(cfg *Config) { cfg.URL = f.url })
		f.changes(rewrite(suffix, func(data []byte) []byte { data[len(data)-1] ^= 1; return data }))
		if _, err := readAllOf(t, c); !errors.As(err, new(*VerificationError)) {
			t.Errorf("%s: got %v", suffix, err)
		}
	}
	// Without tiles there are proofs.
	f.changes(honest)
	f.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/tlog/") {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	for _, index := range []uint64{0, 256, 699} {
		if _, err := c.Entry(t.Context(), index); err != nil {
			t.Error(err)
		}
	}
	if !c.trust.tree.denied {
		t.Error("tiles were read")
	}
}

func TestForgedReceiptOfAnAppendIsCaught(t *testing.T) {
	s := serve(t)
	f := s.front()
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	f.answers(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost { // on the way there
			data, _ := io.ReadAll(r.Body)
			data = bytes.Replace(data, []byte("100"), []byte("999"), 1)
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		return false
	})
	if _, err := c.Revenue(t.Context(), "paid", immutable.Fields{"amount": 100}); !errors.As(err, new(*VerificationError)) {
		t.Errorf("an event that was changed on its way: %v", err)
	}
}

// Without tiles, and without pinned keys, the same lies are told.
func TestLiesInProofsBlocksAndLeavesAreCaught(t *testing.T) {
	s := serve(t)
	s.fill(20)
	f := s.front()
	swap := func(old, fresh string) func([]byte) []byte {
		return func(data []byte) []byte { return bytes.Replace(data, []byte(old), []byte(fresh), 1) }
	}
	caught := func(what string, err error) {
		t.Helper()
		if !errors.As(err, new(*VerificationError)) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	unpinned := s.client(func(cfg *Config) { cfg.URL, cfg.Keys = f.url, nil })
	f.changes(rewrite("/entries/7", swap(`"n":7`, `"n":8`)))
	_, err := unpinned.Entry(t.Context(), 7)
	caught("an entry with the leaf hash of another", err)

	f.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/tlog/") {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	other, err := s.log().Proof(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	f.changes(rewrite("/proof", func([]byte) []byte { return other }))
	_, err = c.Entry(t.Context(), 7)
	caught("another entry's proof", err)
	f.changes(rewrite("/proof", swap("index 7\n", "index 8\n")))
	_, err = c.Proof(t.Context(), 7)
	caught("a proof that names another entry", err)
	f.changes(rewrite("/proof", func(data []byte) []byte {
		p, err := proof.ParseInclusionProof(data)
		if err != nil {
			t.Error(err)
			return data
		}
		p.Hashes[0][3] ^= 1
		text, err := p.MarshalText()
		if err != nil {
			t.Error(err)
		}
		return text
	}))
	_, err = c.Entry(t.Context(), 7)
	caught("a proof with one wrong bit", err)
	f.answers(func(http.ResponseWriter, *http.Request) bool { return false })

	b, err := s.log().Block(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	c = s.client(func(cfg *Config) { cfg.URL = f.url })
	f.changes(rewrite("/block", swap(b.Hash.String(), b.PreviousHash.String())))
	_, err = c.Block(t.Context(), 7)
	caught("a block with another hash", err)
	f.changes(rewrite("/block", swap(`\"n\":7`, `\"n\":8`)))
	_, err = c.Block(t.Context(), 7)
	caught("a block with other data", err)
	f.changes(rewrite("/entries/7", swap(`{"index":7`, `{"index":8`)))
	_, err = c.Entry(t.Context(), 7)
	caught("an entry at another index", err)
	eighth, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.indexed(8), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.answers(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/entries/7") {
			r.URL.Path = eighth.URL.Path
		}
		return false
	})
	_, err = c.Entry(t.Context(), 7)
	caught("the next entry", err)
}

func TestEntryLeftOutOfAStreamIsCaught(t *testing.T) {
	s := serve(t)
	s.fill(20)
	f := s.front()
	c := s.client(func(cfg *Config) { cfg.URL = f.url })
	hidden := false
	f.changes(func(_, path string, body io.ReadCloser) (io.ReadCloser, error) {
		if !strings.HasSuffix(path, "/stream") {
			return body, nil
		}
		return struct {
			io.Reader
			io.Closer
		}{&forgingReader{r: body, forge: func(line []byte) []byte {
			if hidden = (hidden || string(line) == "id: 7\n") && string(line) != "\n"; hidden {
				return []byte(": nothing to see here\n")
			}
			return line
		}}, body}, nil
	})
	var last error
	var v *VerificationError
	for e, err := range c.Subscribe(t.Context(), 0) {
		if last = err; err == nil && e.Index > 7 {
			t.Fatalf("entry %d came", e.Index)
		}
	}
	if !errors.As(last, &v) || v.Index != 7 {
		t.Errorf("got %v, want a finding at entry 7", last)
	}
}

// What the state file says is verified like what the server says.
func TestTamperedStateIsRefused(t *testing.T) {
	s := serve(t)
	s.fill(20)
	name := filepath.Join(t.TempDir(), "state")
	c := s.client(func(cfg *Config) { cfg.State = name })
	if _, err := c.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{{"\\n20\\n", "\\n19\\n"}, {"/main", "/mein"}, {"immutable/client/1", "immutable/client/2"}} {
		bad := bytes.Replace(good, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%q is not in the state", change[0])
		}
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := New(Config{URL: s.url(), Keys: s.log().VerifierKeys(), State: name}); err == nil {
			t.Errorf("%q: taken", change)
			_ = c.Close()
		}
	}
}
