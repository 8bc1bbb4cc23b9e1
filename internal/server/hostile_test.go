package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// peak calls f and returns by how much the heap grew meanwhile, as far as looking at it now and then shows.
func peak(f func()) uint64 {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	most := before.HeapAlloc
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				runtime.ReadMemStats(&now)
				most = max(most, now.HeapAlloc)
			case <-done:
				return
			}
		}
	})
	f()
	close(done)
	wg.Wait()
	return most - before.HeapAlloc
}

// endless is a body that repeats a block up to a length.
type endless struct {
	block []byte
	left  int64
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(int64(len(p)), e.left)], e.block[e.at:])
	e.at = (e.at + n) % len(e.block)
	e.left -= int64(n)
	return n, nil
}

const muchMemory = 192 << 20 // what no single request may take, with what the collector has not taken back yet

// alive checks that the service goes on.
func (sv *service) alive() {
	sv.t.Helper()
	sv.post(mainLog+"/entries", `{"message":"alive"}`).want(sv.t, 201, nil)
}

func TestHugeBodiesTakeBoundedMemory(t *testing.T) {
	sv := serve(t, nil)
	const huge = 10 << 30
	// A JSON body that says how long it is, and one that does not.
	status, body := sv.send(fmt.Appendf(nil, "POST %s/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", mainLog, sv.root, huge))
	if status != 413 || !bytes.Contains(body, []byte("too-large")) {
		t.Errorf("10 GB announced: %d %s", status, body)
	}
	grown := peak(func() {
		status, body := sv.upload("application/json", "", &endless{block: bytes.Repeat([]byte(" "), 1<<16), left: huge})
		if status != 413 || !bytes.Contains(body, []byte("too-large")) {
			t.Errorf("10 GB of JSON: %d %s", status, body)
		}
	})
	if grown > muchMemory {
		t.Errorf("10 GB of JSON took %d MiB", grown>>20)
	}
	// NDJSON may be of any length: a quarter of a gigabyte without a newline is one line that is refused.
	length := int64(256 << 20)
	if testing.Short() {
		length = 32 << 20
	}
	grown = peak(func() {
		status, body := sv.upload("application/x-ndjson", "", io.MultiReader(&endless{block: bytes.Repeat([]byte("x"), 1<<16), left: length}, strings.NewReader("\n{\"message\":\"behind it\"}\n")))
		if status != 200 || !bytes.Contains(body, []byte(`"done":true,"accepted":1,"rejected":1`)) {
			t.Errorf("a long line: %d %.300s", status, body)
		}
	})
	if grown > muchMemory {
		t.Errorf("a line of %d MiB took %d MiB", length>>20, grown>>20)
	}
	sv.alive()
}

// upload posts a body of unknown length, as far as the server takes it.
func (sv *service) upload(kind, encoding string, body io.Reader) (int, []byte) {
	sv.t.Helper()
	req, err := http.NewRequestWithContext(sv.t.Context(), "POST", "http://"+sv.addr+mainLog+"/entries", io.NopCloser(body))
	if err != nil {
		sv.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+sv.root)
	req.Header.Set("Content-Type", kind)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		sv.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body) // the connection may be cut behind the answer, while the body is still being sent
	return resp.StatusCode, data
}

// bomb is length bytes of a block over and over, packed.
func bomb(t testing.TB, encoding string, block []byte, length int64) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	if encoding == "gzip" {
		w, err = gzip.NewWriterLevel(&out, gzip.BestSpeed)
	} else {
		w, err = zstd.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, &endless{block: block, left: length}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBombsAreDisarmed(t *testing.T) {
	sv := serve(t, func(o *Options) { o.Limits.Ratio = 64 }) // gzip at its fastest packs 1:230
	length := int64(32 << 20)
	for _, encoding := range []string{"gzip", "zstd"} {
		packed := bomb(t, encoding, bytes.Repeat([]byte(" "), 1<<16), length)
		grown := peak(func() {
			status, body := sv.upload("application/json", encoding, bytes.NewReader(packed))
			if status != 413 {
				t.Errorf("%s of %d bytes as JSON: %d %.300s", encoding, len(packed), status, body)
			}
			status, body = sv.upload("application/x-ndjson", encoding, bytes.NewReader(packed))
			if (status != 413 && status != 200) || !bytes.Contains(lastLine(body), []byte("expands-too-much")) {
				t.Errorf("%s of %d bytes as NDJSON: %d %.300s", encoding, len(packed), status, body)
			}
		})
		if grown > muchMemory {
			t.Errorf("a %s bomb took %d MiB", encoding, grown>>20)
		}
	}
	// Behind lines that were accepted the rest is refused in the last line of the answer.
	packed := bomb(t, "zstd", []byte(`{"message":"x"}`+"\n"), freeExpansion+1<<19)
	status, body := sv.upload("application/x-ndjson", "zstd", bytes.NewReader(packed))
	if last := lastLine(body); status != 200 || !bytes.Contains(last, []byte(`{"done":false,"accepted":`)) || !bytes.Contains(last, []byte("expands-too-much")) {
		t.Errorf("a bomb of good lines: %d %.300s", status, last)
	}
	// A window is the decoder's memory: 8 MiB are taken, the next larger one and a gigabyte are not.
	for window, want := range map[byte]int{0x68: 200, 0x69: 400, 0xa0: 400} {
		frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, window, 0x09, 0x00, 0x00, 'x'}
		if status, body := sv.upload("application/x-ndjson", "zstd", bytes.NewReader(frame)); status != want || want == 400 && !bytes.Contains(body, []byte("bad-encoding")) {
			t.Errorf("window %#x: %d %s, want %d", window, status, body, want)
		}
	}
	sv.alive()
}

func lastLine(body []byte) []byte {
	body = bytes.TrimSuffix(body, []byte("\n"))
	return body[bytes.LastIndexByte(body, '\n')+1:]
}

// Clients that stop in the middle are answered and let go of, and hold nothing that others need.
func TestSlowBodiesAreEnded(t *testing.T) {
	sv := serve(t, func(o *Options) {
		o.Limits.Patience, o.Limits.Idle = 300*time.Millisecond, 300*time.Millisecond
		o.Limits.Ingests = 8
	})
	head := "POST " + mainLog + "/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer " + sv.root + "\r\nContent-Type: %s\r\nContent-Length: 1000\r\n\r\n%s"
	for _, c := range []struct{ kind, body, want string }{
		{"application/json", "", "timeout"},
		{"application/json", `{"message":"m`, "timeout"},
		{"application/x-ndjson", "", "timeout"},
		{"application/x-ndjson", `{"message":"m"`, "timeout"},
		{"application/x-ndjson", "{\"message\":\"taken\"}\n{\"mess", `"done":false,"accepted":1,"rejected":0`},
	} {
		c1, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", sv.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c1.Close()
		if _, err := fmt.Fprintf(c1, head, c.kind, c.body); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c1)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q of %s: %v", c.body, c.kind, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Contains(body, []byte(c.want)) {
			t.Errorf("%q of %s: %d %s, %v, want %s", c.body, c.kind, resp.StatusCode, body, err, c.want)
		}
		// What the rest of the body looks like is the client's to choose: it must not be taken for the next request.
		if _, err := io.WriteString(c1, "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"); err == nil {
			if next, err := http.ReadResponse(r, nil); err == nil {
				next.Body.Close()
				t.Errorf("%q of %s: what follows is answered with %d", c.body, c.kind, next.StatusCode)
			}
		}
	}
	sv.alive()
}

// A tenant whose clients hold every place that it may have leaves the others theirs.
func TestOneTenantCannotTakeEveryPlace(t *testing.T) {
	sv := serve(t, func(o *Options) {
		o.Limits.Ingests, o.Limits.BodyMemory, o.Limits.Body, o.Limits.Patience = 8, 4<<20, 1<<20, 2*time.Second
	})
	sv.tenant(tenant.TenantSettings{Name: "acme"})
	// NDJSON: a quarter of the places.
	var held []net.Conn
	for i := range 2 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", sv.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "POST %s/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n{\"message\":\"%d\"}\n", mainLog, sv.root, i); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(c).ReadString('}'); err != nil { // it is being read
			t.Fatal(err)
		}
		held = append(held, c)
	}
	a := sv.do("POST", mainLog+"/entries", sv.root, strings.NewReader("{\"message\":\"m\"}\n"), "Content-Type", "application/x-ndjson")
	a.problem(t, "busy")
	if a.header.Get("Retry-After") == "" {
		t.Error("busy without Retry-After")
	}
	sv.do("POST", "/api/v1/tenants/acme/logs/main/entries", sv.root, strings.NewReader("{\"message\":\"m\"}\n"), "Content-Type", "application/x-ndjson").want(t, 200, nil)
	sv.alive() // one event needs no place
	for _, c := range held {
		c.Close()
	}
	// Large JSON bodies: the same of memory.
	for range 4 {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", sv.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "POST %s/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", mainLog, sv.root, 1<<20, strings.Repeat(" ", 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	large := `{"message":"m","metadata":{"v":"` + strings.Repeat("v", 30_000) + `"}}`
	sv.do("POST", "/api/v1/tenants/acme/logs/main/entries", sv.root, strings.NewReader(large), "Content-Type", "application/json").want(t, 201, nil)
}

// TestPathTricks sends request targets that a proxy, a file system or a careless router would take for something else.
func TestPathTricks(t *testing.T) {
	sv := serve(t, nil)
	for _, target := range []string{
		"//healthz", "/healthz/", "/./healthz", "/../healthz", "/x/../healthz", "/%68ealthz", "/healthz%00", "/healthz%2f", "/healthz;x", "/healthz%3fx",
		"/tlog/default/main/../../../installation.json", "/tlog/default/main/..%2f..%2f..%2finstallation.json", "/tlog/default/main/%2e%2e/%2e%2e/installation.json",
		`/tlog/default/main/..\..\installation.json`, "/tlog/default/main//checkpoint", "/tlog/default%2fmain/checkpoint", "/tlog/default/main/tile/../checkpoint", "/tlog/default/main/.%2e/checkpoint",
		"/tlog/../default/main/checkpoint", "/tlog/./main/checkpoint", "/tlog/default/./checkpoint", "/tlog/default/main/", "/tlog/default/main/tile/entries/000/", "/tlog/default/main/tile/entries/-1",
		"/tlog/default/main/tile/entries/x001/", "/tlog/default/main/tile/99999999999999999999/000", "/tlog/default/main/tile/0/000.p/0", "/tlog/default/main/tile/0/000.p/257", "/tlog/default/main/TILE/0/000",
		mainLog + "/entries/", mainLog + "//entries", mainLog + "/../../../default/logs/main/entries", mainLog + "/%65ntries", mainLog + "/entries%00", mainLog + "/entries%0a", mainLog + "/entries/%30",
		mainLog + "/entries/00", mainLog + "/entries/-1", mainLog + "/entries/+1", mainLog + "/entries/1e3", mainLog + "/entries/18446744073709551616", mainLog + "/entries/0x0", mainLog + "/entries/\u0661",
		"/api/v1/tenants/DEFAULT/logs/main/entries", "/api/v1/tenants/default./logs/main/entries", "/api/v1/tenants/default%20/logs/main/entries", "/api/v1/tenants/../tenants/default/logs/main/entries",
		"/api/v1/tenants//logs/main/entries", "/api/v1/tenants/default/logs/../main/entries", "/api/v1/tenants/system/logs/main", "/api/v1/tenants/" + strings.Repeat("a", 2000) + "/logs/main/entries", "/api/v1/tenants/con/logs/main/entries",
		"/api/v2/whoami", "/API/v1/whoami", "/metrics/..%2fhealthz", "/debug/pprof/", "/debug/vars", "/.git/config", "/errors/..%2fopenapi.json", "/errors/", "*", "healthz",
	} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", sv.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", target, sv.root); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		c.Close()
		if resp.StatusCode != 400 && resp.StatusCode != 404 {
			t.Errorf("%.100s: status %d, %.200s; want it refused", target, resp.StatusCode, body)
		}
	}
	sv.get(mainLog+"/entries?"+strings.Repeat("x", 9000)).problem(t, "bad-path")
	a := sv.do("DELETE", mainLog+"/entries", sv.root, nil)
	a.problem(t, "method-not-allowed")
	if got := a.header.Get("Allow"); got != "GET, POST, HEAD" {
		t.Errorf("Allow is %q", got)
	}
	for _, method := range []string{"TRACE", "CONNECT", "OPTIONS", "PROPFIND", "get"} {
		if status, body := sv.send(fmt.Appendf(nil, "%s %s/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %s\r\n\r\n", method, mainLog, sv.root)); status != 405 && status != 400 {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
	if a := sv.do("HEAD", mainLog+"/entries", sv.root, nil); a.status != 200 || len(a.body) != 0 || a.header.Get("Content-Length") == "" {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
	sv.alive()
}

func TestHeaderFloodsAndSmuggling(t *testing.T) {
	sv := serve(t, nil)
	start := "GET /healthz HTTP/1.1\r\nHost: t\r\n"
	post := "POST " + mainLog + "/entries HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer " + sv.root + "\r\nContent-Type: application/json\r\n"
	for name, request := range map[string]string{
		"many headers":          start + strings.Repeat("X-A: b\r\n", 20_000) + "\r\n",
		"a long header":         start + "X: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"a long target":         "GET /" + strings.Repeat("a", 1<<20) + " HTTP/1.1\r\nHost: t\r\n\r\n",
		"two lengths":           post + "Content-Length: 15\r\nContent-Length: 16\r\n\r\n{\"message\":\"m\"}",
		"a negative length":     post + "Content-Length: -1\r\n\r\n{\"message\":\"m\"}",
		"a length with a plus":  post + "Content-Length: +15\r\n\r\n{\"message\":\"m\"}",
		"another encoding":      post + "Transfer-Encoding: chunked, gzip\r\n\r\nf\r\n{\"message\":\"m\"}\r\n0\r\n\r\n",
		"a bad chunk":           post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{\"message\":\"m\"}\r\n0\r\n\r\n",
		"an endless chunk size": post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 1<<16),
		"a header with a space": start + "Content-Length : 5\r\n\r\n",
		"no host":               "GET /healthz HTTP/1.1\r\n\r\n",
		"two hosts":             start + "Host: u\r\n\r\n",
	} {
		if status, body := sv.send([]byte(request)); status != 0 && status < 400 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if got := sv.messages("default", "main"); len(got) > 0 {
		t.Errorf("the log has %q", got)
	}
	// Two answers to one request would be the next client's.
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", sv.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, post+"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for i := 0; ; i++ {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			break
		}
		if resp.StatusCode == 200 && i == 0 {
			t.Errorf("the first answer is that of the smuggled request")
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	sv.alive()
}

// Shutdown ends NDJSON streams behind what they have answered, and loses nothing.
func TestShutdownAnswersWhatItTook(t *testing.T) {
	dir := t.TempDir()
	sv := serveIn(t, dir, nil)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+sv.addr+mainLog+"/entries", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+sv.root)
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "{\"message\":\"%d\"}\n", i); err != nil {
				return
			}
		}
	}()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(resp.Body)
	for range 1000 {
		if _, err := answers.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan struct{})
	go func() {
		sv.close()
		close(closed)
	}()
	n := 1000
	last := ""
	for {
		line, err := answers.ReadString('\n')
		if err != nil {
			break
		}
		if strings.HasPrefix(line, `{"line":`) {
			n++
		}
		last = line
	}
	resp.Body.Close()
	w.Close()
	<-closed
	if want := fmt.Sprintf(`{"done":false,"accepted":%d,"rejected":0,`, n); !strings.HasPrefix(last, want) || !strings.Contains(last, "shutting-down") {
		t.Errorf("the last line is %q, want it to begin with %s", last, want)
	}
	again := serveIn(t, dir, nil)
	got := again.messages("default", "main")
	if len(got) != n {
		t.Errorf("the log has %d entries, %d were receipted", len(got), n)
	}
	for i, m := range got {
		if m != fmt.Sprint(i) {
			t.Fatalf("entry %d is %q", i, m)
		}
	}
}
