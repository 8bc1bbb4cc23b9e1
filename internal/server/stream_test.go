package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// sent is a server-sent event. One of no kind carries only an id.
type sent struct {
	id, kind, data string
	comment        string
}

// sse is a client of a stream.
type sse struct {
	t     testing.TB
	resp  *http.Response
	in    *bufio.Scanner
	close context.CancelFunc
}

// follow opens one. Headers are pairs.
func (sv *service) follow(path, token string, headers ...string) *sse {
	sv.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sv.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+sv.addr+path, nil)
	if err != nil {
		sv.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // sse.close closes it
	if err != nil {
		sv.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		sv.t.Fatalf("got status %d, type %q: %s", resp.StatusCode, resp.Header.Get("Content-Type"), body)
	}
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 1<<20)
	return &sse{sv.t, resp, in, func() { cancel(); _ = resp.Body.Close() }}
}

// next reads one event; ok is false at the stream's end.
func (s *sse) next() (e sent, ok bool) {
	seen := false
	for s.in.Scan() {
		line := s.in.Text()
		if line == "" {
			return e, true
		}
		seen = true
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			e.comment = value
		case "id":
			e.id = value
		case "event":
			e.kind = value
		case "data":
			e.data += value
		case "retry":
		default:
			s.t.Errorf("a line that is no part of an event: %q", line)
		}
	}
	if seen {
		s.t.Errorf("the stream ends in an event: %+v", e)
	}
	return e, false
}

// entry reads the next entry, over heartbeats.
func (s *sse) entry() (index uint64, message string) {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream has ended: %v", s.in.Err())
		}
		if e.kind == "" {
			continue
		}
		var v struct {
			Index   uint64
			Message string
			Leaf    string
		}
		if err := json.Unmarshal([]byte(e.data), &v); err != nil || e.kind != "entry" || len(v.Leaf) != 64 {
			s.t.Fatalf("%+v: %v", e, err)
		}
		if strconv.FormatUint(v.Index, 10) != e.id {
			s.t.Fatalf("entry %d under the id %s", v.Index, e.id)
		}
		return v.Index, v.Message
	}
}

// ending reads over all else to the event that says why the stream ends.
func (s *sse) ending() (code string, next uint64) {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended without a reason: %v", s.in.Err())
		}
		if e.kind != "error" {
			continue
		}
		var v struct {
			Code string
			Next uint64
		}
		if err := json.Unmarshal([]byte(e.data), &v); err != nil {
			s.t.Fatalf("%+v: %v", e, err)
		}
		if more, ok := s.next(); ok {
			s.t.Fatalf("something comes after the end: %+v", more)
		}
		return v.Code, v.Next
	}
}

// append appends n events to a log, a batch at a time.
func (sv *service) append(l *tenant.Log, from, n, batch int, level immutable.Level) {
	sv.t.Helper()
	for at := from; at < from+n; at += batch {
		var events []immutable.Event
		for i := at; i < min(at+batch, from+n); i++ {
			events = append(events, immutable.Event{Level: level, Message: fmt.Sprint("event ", i), Metadata: immutable.Fields{"n": i, "odd": i%2 == 1}})
		}
		if _, err := l.Append(context.Background(), events...); err != nil {
			sv.t.Error(err)
		}
	}
}

// Catch-up, the tail and what comes later are one sequence, whatever is appended meanwhile.
func TestStreamHasNoGapAndNoDuplicate(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 3000, 1000, immutable.Info)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { sv.append(l, 3000, 3000, 7, immutable.Info) })
	for _, from := range []int{0, 1, 255, 256, 2999, 3000} {
		wg.Go(func() {
			s := sv.follow(mainLog+"/stream?from="+strconv.Itoa(from), sv.root)
			defer s.close()
			for want := from; want < 6000; want++ {
				if index, message := s.entry(); index != uint64(want) || message != fmt.Sprint("event ", want) {
					t.Errorf("from %d: got entry %d, %q; want %d", from, index, message, want)
					return
				}
			}
		})
	}
}

// A client that is cut off at random, and comes back with the last id it saw, sees each entry once.
func TestReconnectingClientSeesEachEntryOnce(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 500, 500, immutable.Info)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { sv.append(l, 500, 1500, 5, immutable.Info) })
	for client := range 4 {
		wg.Go(func() {
			filter, step := "", 1
			if client%2 == 1 {
				filter, step = "&q=odd:true", 2
			}
			want, last := step-1, ""
			for stay := 1; want < 2000; stay = (stay*7 + client) % 97 {
				var headers []string
				if last != "" {
					headers = []string{"Last-Event-ID", last}
				}
				s := sv.follow(mainLog+"/stream?from=0"+filter, sv.root, headers...)
				for i := 0; i < stay && want < 2000; i++ {
					index, _ := s.entry()
					if index != uint64(want) {
						t.Errorf("client %d: got entry %d, want %d", client, index, want)
						s.close()
						return
					}
					last = strconv.FormatUint(index, 10)
					want += step
				}
				s.close()
			}
		})
	}
}

// What is selected is what the library selects, in catch-up and live.
func TestStreamSelectsAsTheLibraryDoes(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	some := func(from int) {
		for i := range 16 {
			sv.append(l, from+40*i, 40, 40, immutable.Level(i%immutable.NumLevels))
		}
	}
	some(0)
	filters := []immutable.Query{
		{Text: "odd:true"},
		{Text: "n:>=100 n:<900"},
		{Levels: []immutable.Level{immutable.Security, immutable.Warn}},
		{Text: "event NOT odd:true", Levels: []immutable.Level{immutable.Audit}},
		{Text: `~"nt 1"`},
		{Text: "nothing"},
		{Text: "since:-1h index:>5"},
	}
	var streams []*sse
	for _, q := range filters {
		path := mainLog + "/stream?from=3"
		if q.Text != "" {
			path += "&q=" + strings.NewReplacer(" ", "%20", `"`, "%22", ">", "%3E", "<", "%3C", "=", "%3D").Replace(q.Text)
		}
		var levels []string
		for _, v := range q.Levels {
			levels = append(levels, v.String())
		}
		if levels != nil {
			path += "&level=" + strings.Join(levels, ",")
		}
		streams = append(streams, sv.follow(path, sv.root))
	}
	some(640)
	for i, q := range filters {
		q.From = 3
		n := 0
		for e, err := range l.Entries(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := streams[i].entry(); got != e.Index {
				t.Fatalf("%+v: got entry %d, want %d", q, got, e.Index)
			}
			n++
		}
		if n == 0 && q.Text != "nothing" {
			t.Errorf("%+v selects nothing", q)
		}
		streams[i].close()
	}
}

// A heartbeat moves the id on, so that who comes back does not search the same entries again.
func TestHeartbeatsMoveTheIDOverWhatIsNotSelected(t *testing.T) {
	sv := serve(t, func(o *Options) { o.Limits.Heartbeat = 10 * time.Millisecond })
	l := sv.log("default", "main")
	sv.append(l, 0, 600, 600, immutable.Info)
	s := sv.follow(mainLog+"/stream?q=absent", sv.root)
	defer s.close()
	for live := range 2 {
		want := strconv.Itoa(600*(live+1) - 1)
		for {
			e, ok := s.next()
			if !ok || e.kind != "" {
				t.Fatalf("%+v, %v", e, ok)
			}
			if e.id == want {
				break
			}
		}
		if live == 0 {
			sv.append(l, 600, 600, 600, immutable.Info)
		}
	}
	for {
		if e, ok := s.next(); !ok {
			t.Fatal("the stream ended")
		} else if e.comment == "heartbeat" && e.id == "1199" {
			break
		}
	}
}

func TestStreamBeginsWhereItIsAsked(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	// Nothing is there yet, and nothing that comes is missed by who comes back.
	s := sv.follow(mainLog+"/stream?from=end", sv.root)
	first, _ := s.next()
	s.close()
	if first.id != "-1" {
		t.Errorf("the first event of an empty log is %+v", first)
	}
	sv.append(l, 0, 10, 10, immutable.Info)
	for _, c := range []struct {
		from, last string
		want       uint64
	}{{"", "", 0}, {"?from=7", "", 7}, {"?from=2", "4", 5}, {"?from=end", "8", 9}, {"?from=end", "-1", 0}} {
		var headers []string
		if c.last != "" {
			headers = []string{"Last-Event-ID", c.last}
		}
		s := sv.follow(mainLog+"/stream"+c.from, sv.root, headers...)
		if index, _ := s.entry(); index != c.want {
			t.Errorf("%+v: begins with %d", c, index)
		}
		s.close()
	}
	end := sv.follow(mainLog+"/stream?from=end", sv.root)
	defer end.close()
	if e, _ := end.next(); e.id != "9" {
		t.Errorf("the first event behind 10 entries is %+v", e)
	}
	sv.append(l, 10, 1, 1, immutable.Info)
	if index, _ := end.entry(); index != 10 {
		t.Errorf("from the end comes %d", index)
	}
}

func TestStreamRefusesWhatCannotBe(t *testing.T) {
	sv := serve(t, nil)
	sv.append(sv.log("default", "main"), 0, 10, 10, immutable.Info)
	for path, code := range map[string]string{
		"?from=11": "conflict", "?from=-1": "bad-parameter", "?from=x": "bad-parameter", "?from=01": "bad-parameter", "?from=18446744073709551615": "bad-parameter",
		"?q=(": "bad-query", "?level=LOUD": "bad-parameter", "?limit=3": "bad-parameter",
	} {
		sv.get(mainLog+"/stream"+path).problem(t, code)
	}
	for id, code := range map[string]string{"10": "conflict", "x": "bad-parameter", "-2": "bad-parameter", "99999999999999999999": "bad-parameter"} {
		sv.do("GET", mainLog+"/stream", sv.root, nil, "Last-Event-ID", id).problem(t, code)
	}
	sv.do("HEAD", mainLog+"/stream", sv.root, nil).want(t, 200, nil) // and does not last
}

// A reader sees the levels of its token in catch-up and live, whatever it asks for.
func TestStreamKeepsToTheLevelsOfTheToken(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	token := sv.token("default", tenant.TokenSpec{Role: tenant.Reader, Levels: []immutable.Level{immutable.Warn}})
	sv.append(l, 0, 5, 5, immutable.Info)
	sv.append(l, 5, 5, 5, immutable.Warn)
	all, other := sv.follow(mainLog+"/stream", token), sv.follow(mainLog+"/stream?level=INFO", token)
	defer all.close()
	defer other.close()
	sv.append(l, 10, 5, 5, immutable.Info)
	sv.append(l, 15, 5, 5, immutable.Warn)
	for _, want := range []uint64{5, 6, 7, 8, 9, 15, 16, 17, 18, 19} {
		if index, _ := all.entry(); index != want {
			t.Fatalf("got entry %d, want %d", index, want)
		}
	}
	sv.s.stop()
	for {
		e, ok := other.next()
		if !ok || e.kind == "entry" {
			t.Fatalf("a reader of WARN that asks for INFO gets %+v, %v", e, ok)
		}
		if e.kind == "error" {
			break
		}
	}
}

// A token that is revoked, and a tenant that is suspended, end the streams.
func TestStreamsEndWithTheirToken(t *testing.T) {
	t.Parallel()
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 3, 3, immutable.Info)
	tn := l.Tenant()
	plain, token, err := tn.CreateToken(t.Context(), tenant.Local("test"), tenant.TokenSpec{Name: "gone", Role: tenant.Reader})
	if err != nil {
		t.Fatal(err)
	}
	expiring := sv.token("default", tenant.TokenSpec{Role: tenant.Reader, Expires: time.Now().Add(1500 * time.Millisecond)})
	stays := sv.follow(mainLog+"/stream", sv.root)
	defer stays.close()
	a, b := sv.follow(mainLog+"/stream", plain), sv.follow(mainLog+"/stream", expiring)
	a.entry()
	began := time.Now()
	if err := tn.RevokeToken(t.Context(), tenant.Local("test"), token.ID); err != nil {
		t.Fatal(err)
	}
	if code, next := a.ending(); code != "unauthenticated" || next != 3 {
		t.Errorf("%s at %d", code, next)
	}
	if took := time.Since(began); took > 5*time.Second { // a second on a machine that has nothing else to do
		t.Errorf("it took %s", took)
	}
	if code, _ := b.ending(); code != "unauthenticated" {
		t.Errorf("after it expired: %s", code)
	}
	sv.do("GET", mainLog+"/stream", plain, nil).problem(t, "unauthenticated")
	other := sv.follow(mainLog+"/stream", sv.token("default", tenant.TokenSpec{Role: tenant.Reader}))
	s := tn.Settings()
	s.Suspended = true
	if err := tn.Update(t.Context(), tenant.Local("test"), s); err != nil {
		t.Fatal(err)
	}
	if code, _ := other.ending(); code != "unauthenticated" && code != "forbidden" {
		t.Errorf("of a suspended tenant: %s", code)
	}
	for range 3 {
		stays.entry() // nobody else is cut off
	}
}

// A shutdown ends streams with a reason; a client that comes back to the next process misses nothing.
func TestShutdownEndsStreamsAndNothingIsMissed(t *testing.T) {
	dir := t.TempDir()
	sv := serveIn(t, dir, nil)
	sv.append(sv.log("default", "main"), 0, 300, 300, immutable.Info)
	const clients = 8
	last := make([]string, clients)
	var ready, wg sync.WaitGroup
	ready.Add(clients)
	for i := range clients {
		s := sv.follow(mainLog+"/stream", sv.root)
		wg.Go(func() {
			defer s.close()
			for range 100 + i {
				index, _ := s.entry()
				last[i] = strconv.FormatUint(index, 10)
			}
			ready.Done()
			for {
				e, ok := s.next()
				switch {
				case !ok:
					t.Errorf("client %d: ended without a reason: %v", i, s.in.Err())
					return
				case e.kind == "entry":
					last[i] = e.id
				case e.kind == "error" && strings.Contains(e.data, `"shutting-down"`):
					return
				case e.kind != "":
					t.Errorf("client %d: %+v", i, e)
				}
			}
		})
	}
	ready.Wait()
	sv.append(sv.log("default", "main"), 300, 10, 1, immutable.Info)
	sv.close()
	wg.Wait()
	sv = serveIn(t, dir, nil)
	l := sv.log("default", "main")
	sv.append(l, 310, 5, 5, immutable.Info)
	for i := range clients {
		s := sv.follow(mainLog+"/stream", sv.root, "Last-Event-ID", last[i])
		n, _ := strconv.ParseUint(last[i], 10, 64)
		for want := n + 1; want < l.Size(); want++ {
			if index, _ := s.entry(); index != want {
				t.Fatalf("client %d, after %s: got %d, want %d", i, last[i], index, want)
			}
		}
		s.close()
	}
}

// rawStream asks for a stream over a connection of its own, whose buffers are small, and reads nothing.
func rawStream(t *testing.T, sv *service, path string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", sv.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.(*net.TCPConn).SetReadBuffer(256 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, sv.root); err != nil {
		t.Fatal(err)
	}
	return c
}

// big appends n entries of 3 kB: 5,000 are more than the buffers of a connection hold.
func (sv *service) big(l *tenant.Log, n int) {
	sv.t.Helper()
	events := make([]immutable.Event, 500)
	for i := range events {
		events[i].Message = strings.Repeat("x", 3000)
	}
	for at := 0; at < n; at += len(events) {
		if _, err := l.Append(context.Background(), events...); err != nil {
			sv.t.Error(err)
		}
	}
}

// A reader that was too slow, and reads again before its connection is given up, learns why the stream ends.
func TestSlowReaderIsToldWhy(t *testing.T) {
	t.Parallel()
	sv := serve(t, func(o *Options) { o.Limits.Slow, o.Limits.Patience = 100*time.Millisecond, time.Hour })
	l := sv.log("default", "main")
	c := rawStream(t, sv, mainLog+"/stream")
	sv.big(l, 5000)
	// It reads a little now and then: some write takes longer than it may.
	var data []byte
	some := make([]byte, 64<<10)
	for started := false; !started || len(sv.s.streams.all()) > 0; time.Sleep(200 * time.Millisecond) {
		n, err := io.ReadFull(c, some)
		if data = append(data, some[:n]...); err != nil {
			break
		}
		started = true
	}
	rest, err := io.ReadAll(c)
	data = append(data, rest...)
	if text := string(data); err != nil || !strings.Contains(text, `"code":"slow-reader"`) || !strings.HasSuffix(text, "\r\n0\r\n\r\n") {
		t.Errorf("%d bytes, error %v, ending in %.300q", len(data), err, text[max(0, len(text)-300):])
	}
}

// A reader that does not read loses its connection, does not slow down the writer, and delays no other reader.
func TestDeadReaderIsCutOffAndDelaysNobody(t *testing.T) {
	t.Parallel()
	sv := serve(t, func(o *Options) { o.Limits.Slow, o.Limits.Patience = time.Hour, 3*time.Second })
	l := sv.log("default", "main")
	fast := sv.follow(mainLog+"/stream", sv.root)
	defer fast.close()
	dead := rawStream(t, sv, mainLog+"/stream")
	const n = 5000 // 15 MB
	var wg sync.WaitGroup
	wg.Go(func() { sv.big(l, n) })
	for want := range n {
		if index, _ := fast.entry(); index != uint64(want) {
			t.Fatalf("got entry %d, want %d", index, want)
		}
	}
	wg.Wait()
	// Its connection ends in the middle, and that a read failed is on record.
	deadline(t, func() bool { return len(sv.s.streams.all()) == 1 }, "the dead reader's stream to end")
	if data, _ := io.ReadAll(dead); strings.Contains(string(data), "\r\n0\r\n\r\n") {
		t.Error("a stream that was cut off looks complete")
	}
	deadline(t, func() bool {
		c, err := sv.log("default", "system").Count(t.Context(), immutable.Query{Text: "action:read.end read:stream failed:>=1"})
		return err == nil && c.N > 0
	}, "the record of a stream that failed")
}

// deadline waits for something that has no other way to be noticed.
func deadline(t testing.TB, done func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// A token that is revoked while its stream is stuck in a write ends it all the same.
func TestRevocationEndsAStreamThatIsStuck(t *testing.T) {
	t.Parallel()
	sv := serve(t, func(o *Options) { o.Limits.Slow, o.Limits.Patience = time.Hour, time.Hour })
	l := sv.log("default", "main")
	sv.big(l, 5000)
	rawStream(t, sv, mainLog+"/stream")
	deadline(t, func() bool { return len(sv.s.streams.all()) == 1 }, "the stream to begin")
	id := ""
	for _, k := range sv.in.Tokens() {
		id = k.ID
	}
	if err := sv.in.RevokeToken(t.Context(), tenant.Local("test"), id); err != nil {
		t.Fatal(err)
	}
	deadline(t, func() bool { return len(sv.s.streams.all()) == 0 }, "the stream to end")
}

func TestStreamsAreLimited(t *testing.T) {
	sv := serve(t, func(o *Options) { o.Limits.Streams = 3 })
	other := sv.tenant(tenant.TenantSettings{Name: "small", Quota: tenant.Quota{Streams: 1}})
	s := sv.follow("/api/v1/tenants/small/logs/main/stream", sv.root)
	sv.get("/api/v1/tenants/small/logs/main/stream").problem(t, "quota")
	sv.follow(mainLog+"/stream", sv.root)
	sv.follow(mainLog+"/stream", sv.root)
	if a := sv.get(mainLog + "/stream"); a.problem(t, "busy") != nil && a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.close()
	deadline(t, func() bool { return other.Usage().Streams == 0 && len(sv.s.streams.all()) == 2 }, "the place")
	sv.follow("/api/v1/tenants/small/logs/main/stream", sv.root).close()
}

// Many come, stay for a moment and go. Nothing of them stays.
func TestReconnectStormLeavesNothing(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 2000, 1000, immutable.Info)
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1}}
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 2000; ; i++ {
			select {
			case <-stop:
				return
			default:
				sv.append(l, i, 1, 1, immutable.Info)
			}
		}
	})
	var clients sync.WaitGroup
	for c := range 40 {
		clients.Go(func() {
			for round := range 5 {
				req, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://%s%s/stream?from=%d", sv.addr, mainLog, c*50), nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+sv.root)
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.CopyN(io.Discard, resp.Body, int64(1+round*30_000)); err != nil {
					t.Error(err)
				}
				_ = resp.Body.Close()
			}
		})
	}
	clients.Wait()
	close(stop)
	wg.Wait()
	client.CloseIdleConnections()
	deadline(t, func() bool {
		sv.s.streams.mu.Lock()
		defer sv.s.streams.mu.Unlock()
		return len(sv.s.streams.live) == 0 && len(sv.s.streams.tails) == 0 && !sv.s.streams.watched && len(sv.s.turns.all) == 0
	}, "the streams to end")
	deadline(t, func() bool { return runtime.NumGoroutine() <= before+2 }, "their goroutines to end")
}

// The tail keeps what fits and no more, and whoever is behind it is told so.
func TestTailIsBoundedAndTellsWhoIsBehind(t *testing.T) {
	l := testLog(t)
	tl := startTail(l)
	defer tl.cancel()
	add := func(n, size int) {
		var events []immutable.Event
		for range n {
			events = append(events, immutable.Event{Message: strings.Repeat("x", size)})
		}
		if _, err := l.Append(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	reached := func() bool {
		tl.mu.RLock()
		defer tl.mu.RUnlock()
		if tl.size > maxTailBytes || len(tl.frames) > maxTailFrames {
			t.Fatalf("the tail holds %d bytes, %d entries", tl.size, len(tl.frames))
		}
		return tl.first+uint64(len(tl.frames)) == l.Size()
	}
	buf := make([]*frame, 10_000)
	n, grown, err := tl.take(0, buf, 1<<30)
	if n != 0 || err != nil {
		t.Fatal(n, err)
	}
	add(5000, 10)
	<-grown
	deadline(t, reached, "the tail")
	if tl.first == 0 {
		t.Error("it keeps more entries than it should")
	}
	if _, _, err := tl.take(0, buf, 1<<30); !errors.Is(err, errBehind) {
		t.Errorf("who is behind hears %v", err)
	}
	if n, _, err := tl.take(4990, buf, 1<<30); n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, _, err := tl.take(4990, buf, 1); n != 1 || err != nil {
		t.Errorf("the first is given whatever its size: %d, %v", n, err)
	}
	if n, _, err := tl.take(4990, buf[:3], 1<<30); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	add(100, 60_000)
	deadline(t, reached, "the tail")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	deadline(t, func() bool { _, _, err := tl.take(5100, buf, 1); return errors.Is(err, immutable.ErrClosed) }, "the tail to say that the log is closed")
}

// Where the oldest entries are retired nothing is left out unsaid: a stream from the beginning says where it begins, one from an
// index that is gone is refused, and an export names its first.
func TestRetiredEntriesAreSaidToBeRetired(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 1000, 1000, immutable.Info)
	if err := l.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Retire(t.Context(), 0, immutable.RetireOptions{Delete: true, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	retired, err := l.Retired(t.Context())
	if err != nil || len(retired) != 1 || retired[0].End == 0 {
		t.Fatal(retired, err)
	}
	oldest := retired[0].End
	for _, path := range []string{"/entries", "/entries?q=event&order=asc", "/entries?limit=1", "/count", "/count?q=event", "/counts?by=level", "/histogram?width=1h"} {
		var said struct{ Retired uint64 }
		if sv.get(mainLog+path).want(t, 200, &said); said.Retired != oldest {
			t.Errorf("%s says that %d entries were left out, want %d", path, said.Retired, oldest)
		}
	}
	for _, filter := range []string{"", "&q=event", "&q=odd:true"} {
		s := sv.follow(mainLog+"/stream?from=0"+filter, sv.root)
		if e, _ := s.next(); e.id != strconv.FormatUint(oldest-1, 10) {
			t.Errorf("%s: the stream says that it begins behind %s, want %d", filter, e.id, oldest-1)
		}
		if index, _ := s.entry(); index != oldest && (filter != "&q=odd:true" || index != oldest|1) {
			t.Errorf("%s: it begins with %d, want %d", filter, index, oldest)
		}
		s.close()
	}
	if p := sv.get(mainLog+"/stream?from=3").problem(t, "retired"); p["oldest"] != float64(oldest) {
		t.Errorf("%v", p)
	}
	sv.do("GET", mainLog+"/stream", sv.root, nil, "Last-Event-ID", "17").problem(t, "retired")
	body, header, n, err := sv.export(mainLog+"/export", sv.root)
	if err != nil || header.Get("Immutable-Oldest") != strconv.FormatUint(oldest, 10) || n != strconv.FormatUint(l.Size()-oldest, 10) || strings.Count(string(body), "\n") != int(l.Size()-oldest) {
		t.Errorf("%v, %s entries, %v", header, n, err)
	}
	sv.get(mainLog+"/export?from=3").problem(t, "retired")
}
