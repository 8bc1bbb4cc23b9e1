package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable/proof"
)

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestClientAndServerAgree asks our server with our client, with a URL that ends in a slash and one that does not.
func TestClientAndServerAgree(t *testing.T) {
	l := newLog(t, origin).grow(20, "entry")
	s := open(t, newDisk(), newNow(), l)
	c, ctx := NewClient(), context.Background()
	defer c.Close()
	for i, url := range []string{serve(t, s), serve(t, s) + "/"} {
		n := 5 + 7*i
		old := []int{0, 5}[i]
		lines, err := c.AddCheckpoint(ctx, url, s.Keys(), &Request{Old: uint64(old), Proof: l.consistency(old, n), Note: l.note(n)})
		must(t, err)
		if signers, err := signersOf(l.request(0, n), lines, s.Keys()); err != nil || len(signers) != 2 {
			t.Errorf("%v, %v", signers, err)
		}
		note, err := c.Checkpoint(ctx, url, origin)
		must(t, err)
		if textOf(t, note) != l.text(n) {
			t.Errorf("monitored %q", note)
		}
	}
	// Of a witness with two keys a policy may know one.
	lines, err := c.AddCheckpoint(ctx, serve(t, s), s.Keys()[1:], &Request{Old: 12, Note: l.note(12)})
	must(t, err)
	if bytes.Count(lines, []byte("\n")) != 1 {
		t.Errorf("lines %q", lines)
	}
	var size *SizeError
	if _, err = c.AddCheckpoint(ctx, serve(t, s), s.Keys(), &Request{Old: 1, Proof: l.consistency(1, 12), Note: l.note(12)}); !errors.As(err, &size) || size.Size != 12 {
		t.Errorf("another old size: %v", err)
	}
	var status *StatusError
	if _, err = c.AddCheckpoint(ctx, serve(t, s), s.Keys(), &Request{Old: 12, Note: l.note(14)}); !errors.As(err, &status) || status.Status != http.StatusUnprocessableEntity {
		t.Errorf("no proof: %v", err)
	}
	if _, err = c.Checkpoint(ctx, serve(t, s), "example.com/other"); !errors.As(err, &status) || status.Status != http.StatusNotFound {
		t.Errorf("unknown origin: %v", err)
	}
}

// TestAnswersAreTakenLineByLine holds each check of the client's answer parser.
func TestAnswersAreTakenLineByLine(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	mine, other := newKey(t, proof.TypeCosignature, "w.example.com", "a"), newKey(t, proof.TypeCosignature, "w.example.com", "b")
	keys := []proof.Key{mine.Key()}
	note := l.note(5)
	line := func(k *proof.PrivateKey, n int) string {
		b, err := k.SignatureLine(l.text(n), 1700000000)
		must(t, err)
		return string(b)
	}
	good := line(mine, 5)
	for _, tt := range []struct{ name, answer, want, err string }{
		{"one", good, good, ""},
		{"with an unknown one", line(other, 5) + good, good, ""},
		{"twice", good + good, good, ""},
		{"only unknown", line(other, 5), "", "none by the keys"},
		{"of another checkpoint", line(mine, 6), "", "bad signature"},
		{"good and bad", good + line(mine, 6), "", "bad signature"},
		{"nothing", "", "", "unusable answer"},
		{"no newline", strings.TrimSuffix(good, "\n"), "", "unusable answer"},
		{"a note", string(note) + good, "", "unusable answer"},
		{"lines, an empty line, lines", good + "\n" + good, "", "empty line"},
		{"too many", strings.Repeat(good, 17), "", "more than 16"},
		{"control characters", "\x1b" + good, "", "control"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseAnswer(note, []byte(tt.answer), keys)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || string(got) != tt.want {
				t.Errorf("%q, %v; want %q, %s", got, err, tt.want, tt.err)
			}
		})
	}
}

// TestStrangersTextIsCutShort: what a witness says in an error cannot flood a log file or a terminal.
func TestStrangersTextIsCutShort(t *testing.T) {
	url := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusTeapot)
		_, _ = rw.Write([]byte("\x1b[2J\n" + strings.Repeat("x", 10000)))
	}))
	l := newLog(t, origin).grow(9, "entry")
	_, err := NewClient().AddCheckpoint(context.Background(), url, nil, &Request{Note: l.note(5)})
	if err == nil || len(err.Error()) > 400 || strings.Contains(err.Error(), "\x1b") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q", err)
	}
}

func TestURLsAreChecked(t *testing.T) {
	for url, good := range map[string]bool{
		"https://w.example.com": true, "http://127.0.0.1:7381/a/b/": true,
		"": false, "w.example.com": false, "ftp://w.example.com": false, "https://": false, "https://u:p@w.example.com": false,
		"https://w.example.com/?a": false, "https://w.example.com/#a": false, "file:///etc/passwd": false, "https://w.example.com/%zz": false,
	} {
		if err := CheckURL(url); (err == nil) != good {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	l := newLog(f, origin).grow(9, "entry")
	f.Add(l.request(0, 5))
	f.Add(l.request(5, 9))
	f.Add([]byte("old 0\n\n\n"))
	f.Add([]byte("old 18446744073709551615\n\nx"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ParseRequest(body)
		if err != nil {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, body) {
			t.Errorf("%q reads as %q", body, got)
		}
		if len(r.Proof) > maxProofLines || r.Old > proof.MaxSize {
			t.Errorf("%d hashes, old %d", len(r.Proof), r.Old)
		}
	})
}

// FuzzAddCheckpoint: no request makes a server that has size 5 answer 200, but the ones that continue its history.
func FuzzAddCheckpoint(f *testing.F) {
	l := newLog(f, origin).grow(9, "entry")
	s := open(f, newDisk(), newNow(), l)
	cosigned(f, s, l.request(0, 5))
	f.Add(l.request(5, 5))
	f.Add(l.request(5, 9))
	f.Add(l.request(3, 9))
	f.Add(l.fork(4).grow(9, "fork").request(5, 9))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := s.logs[origin].known
		lines, no := s.add(body)
		after := s.logs[origin].known
		if (no == nil) != (len(lines) > 0) {
			t.Fatalf("lines %q, refusal %v", lines, no)
		}
		if no != nil && !bytes.Equal(before.note, after.note) {
			t.Fatal("a refused request changed the state")
		}
		if after.size > 9 || after.root != proof.Root(l.leaves[:after.size]) {
			t.Fatalf("cosigned size %d with another root than the log's", after.size)
		}
	})
}

// FuzzAnswer: whatever a witness answers, what is taken is good lines of its keys over the text that was asked, and a note
// stays a note with them.
func FuzzAnswer(f *testing.F) {
	l := newLog(f, origin).grow(9, "entry")
	k := newKey(f, proof.TypeCosignature, "w.example.com", "a")
	ml := newKey(f, proof.TypeMLDSA44, "w.example.com", "b")
	keys := []proof.Key{k.Key(), ml.Key()}
	note := l.note(5)
	for _, x := range []*proof.PrivateKey{k, ml} {
		line, err := x.SignatureLine(l.text(5), 1700000000)
		must(f, err)
		f.Add(line)
		f.Add(append(line, line...))
	}
	f.Add([]byte("— w.example.com AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		lines, err := parseAnswer(note, answer, keys)
		if err != nil {
			return
		}
		n, err := proof.ParseNote(append(bytes.Clone(note), lines...))
		if err != nil || n.Text != l.text(5) {
			t.Fatalf("%v: %q", err, lines)
		}
		signers, err := n.Verify(keys)
		if err != nil || len(signers) != len(n.Signatures)-1 || len(signers) == 0 {
			t.Fatalf("%v, %v", signers, err)
		}
	})
}

// TestServerStandsBehindItsLimits sends more at once than is worked on at once.
func TestServerStandsBehindItsLimits(t *testing.T) {
	l := newLog(t, origin).grow(9, "entry")
	s := open(t, newDisk(), newNow(), l)
	for range maxAtWork {
		s.atWork <- struct{}{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest("POST", "/add-checkpoint", bytes.NewReader(l.request(0, 5))).WithContext(ctx))
	if rec.Body.Len() != 0 || monitored(s, origin).status != http.StatusNotFound {
		t.Errorf("answered beyond the limit: %s", rec.Body)
	}
	for range maxAtWork {
		<-s.atWork
	}
	cosigned(t, s, l.request(0, 5))
	if fmt.Sprint(len(s.atWork)) != "0" {
		t.Error("a turn is not given back")
	}
}
