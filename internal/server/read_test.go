package server

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
	"github.com/tree-of-life-system/immutable/proof"
)

// fill appends n entries whose messages are their indexes.
func (sv *service) fill(n int) *tenant.Log {
	sv.t.Helper()
	l := sv.log("default", "main")
	events := make([]immutable.Event, n)
	for i := range events {
		events[i] = immutable.Event{Message: fmt.Sprint(i), Level: immutable.Level(i % 8), RawMetadata: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	if _, err := l.Append(sv.t.Context(), events...); err != nil {
		sv.t.Fatal(err)
	}
	return l
}

type pageAnswer struct {
	Entries []struct {
		Index   uint64
		Message string
		Leaf    string
	}
	Next       *string
	Size       uint64
	Root       string
	Checkpoint string
}

func TestPagesGoThroughEverythingOnce(t *testing.T) {
	sv := serve(t, nil)
	l := sv.fill(1000)
	for _, c := range []struct {
		query string
		want  func(i uint64) bool
		desc  bool
	}{
		{"", func(uint64) bool { return true }, true},
		{"order=asc&", func(uint64) bool { return true }, false},
		{"order=asc&from=700&", func(i uint64) bool { return i >= 700 }, false},
		{"from=300&", func(i uint64) bool { return i <= 300 }, true},
		{"q=n:%3E=500%20NOT%20level:audit&", func(i uint64) bool { return i >= 500 && i%8 != uint64(immutable.Audit) }, true},
		{"level=SECURITY,revenue&verified=true&", func(i uint64) bool { return i%8 == uint64(immutable.Security) || i%8 == uint64(immutable.Revenue) }, true},
		{"since=2020-01-01T00:00:00Z&q=since:-1h&", func(uint64) bool { return true }, true},
		{"until=2020-01-01T00:00:00Z&", func(uint64) bool { return false }, true},
	} {
		var got, want []uint64
		for i := range uint64(1000) {
			if c.want(i) {
				want = append(want, i)
			}
		}
		if c.desc {
			slices.Reverse(want)
		}
		cursor := ""
		for {
			var p pageAnswer
			sv.get(mainLog+"/entries?"+c.query+"limit=117"+cursor).want(t, http.StatusOK, &p)
			root, size := l.Root()
			if p.Size != size || p.Root != root.Base64() {
				t.Fatalf("%s: root %s of size %d, want %s of %d", c.query, p.Root, p.Size, root.Base64(), size)
			}
			if _, err := l.OpenCheckpoint([]byte(p.Checkpoint)); err != nil {
				t.Fatalf("%s: checkpoint: %v", c.query, err)
			}
			for _, e := range p.Entries {
				if e.Message != fmt.Sprint(e.Index) {
					t.Fatalf("entry %d is %q", e.Index, e.Message)
				}
				got = append(got, e.Index)
			}
			if p.Next == nil {
				break
			}
			cursor = "&cursor=" + *p.Next
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %d entries, want %d", c.query, len(got), len(want))
		}
	}
}

func TestPagesAreBounded(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	for range 2 {
		events := make([]immutable.Event, 50)
		for i := range events {
			events[i].Message = strings.Repeat("x", 50_000)
		}
		if _, err := l.Append(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	n, cursor := 0, ""
	for {
		var p pageAnswer
		a := sv.get(mainLog+"/entries?limit=10000"+cursor).want(t, http.StatusOK, &p)
		if len(a.body) > pageBytes+2*immutable.MaxEntryBytes {
			t.Fatalf("a page of %d bytes", len(a.body))
		}
		if n += len(p.Entries); p.Next == nil {
			break
		}
		cursor = "&cursor=" + *p.Next
	}
	if n != 100 {
		t.Errorf("got %d entries, want 100", n)
	}
}

func TestParametersAreReadStrictly(t *testing.T) {
	sv := serve(t, nil)
	sv.fill(10)
	for query, code := range map[string]string{
		"limit=0": "bad-parameter", "limit=10001": "bad-parameter", "limit=": "bad-parameter", "limit=1.0": "bad-parameter", "limit=-1": "bad-parameter", "limit=01": "bad-parameter",
		"limit=1&limit=2": "bad-parameter", "Limit=1": "bad-parameter", "filter=x": "bad-parameter", "q=a&q=b": "bad-parameter", "order=newest": "bad-parameter", "verified=1": "bad-parameter",
		"level=LOUD": "bad-parameter", "level=": "bad-parameter", "level=AUDIT,": "bad-parameter", "since=-24h": "bad-parameter", "since=yesterday": "bad-parameter", "until=2026-13-01T00:00:00Z": "bad-parameter",
		"from=-1": "bad-parameter", "from=9223372036854775808": "bad-parameter", "cursor=x": "bad-parameter", "q=failed%20AND": "bad-query", "q=" + strings.Repeat("a", 4097): "bad-query", "%zz=1": "bad-parameter", "a;b": "bad-parameter",
	} {
		a := sv.get(mainLog + "/entries?" + query)
		if p := a.problem(t, code); code == "bad-query" && p["offset"] == nil {
			t.Errorf("%s: no offset: %s", query, a.body)
		}
	}
	var p pageAnswer
	sv.get(mainLog+"/entries?limit=3").want(t, 200, &p)
	sv.get(mainLog+"/entries?limit=3&q=level:audit&cursor="+*p.Next).problem(t, "bad-parameter")
	for _, path := range []string{"/consistency", "/consistency?from=5&to=4", "/consistency?from=5&to=11", "/checkpoints?limit=1001"} {
		sv.get(mainLog+path).problem(t, "bad-parameter")
	}
	for _, what := range []string{"", "/block", "/proof", "/receipt"} {
		sv.get(mainLog+"/entries/10"+what).problem(t, "not-found")
	}
}

// Whoever has the keys from elsewhere verifies what the API answers without trusting it.
func TestProofsVerifyAwayFromTheServer(t *testing.T) {
	sv := serve(t, nil)
	l := sv.fill(600)
	keys := l.VerifierKeys()
	chain, err := proof.NewChain(l.Origin(), keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []int{0, 255, 256, 599} {
		var r receipt
		sv.get(fmt.Sprintf("%s/entries/%d/receipt", mainLog, index)).want(t, 200, &r)
		p, err := proof.ParseInclusionProof([]byte(r.Proof))
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := chain.Open(p.Checkpoint, proof.RequireAll)
		if err != nil {
			t.Fatal(err)
		}
		leaf := proof.LeafHash([]byte(r.Line))
		if leaf != r.Leaf || p.Index != uint64(index) || r.Index != p.Index || string(p.Checkpoint) != r.Checkpoint || r.Origin != l.Origin() || !slices.Equal(r.Keys, keys) {
			t.Errorf("receipt %+v does not fit itself", r)
		}
		if err := proof.CheckInclusion(p.Hashes, p.Index, c.Size, leaf, c.Root); err != nil {
			t.Errorf("entry %d: %v", index, err)
		}
		text := sv.get(fmt.Sprintf("%s/entries/%d/proof", mainLog, index)).want(t, 200, nil)
		if string(text.body) != r.Proof {
			t.Errorf("entry %d: proof and receipt differ", index)
		}
		var b struct{ Data, Hash, PreviousHash string }
		sv.get(fmt.Sprintf("%s/entries/%d/block", mainLog, index)).want(t, 200, &b)
		previous, err := proof.ParseHex(b.PreviousHash)
		if err != nil || b.Data != r.Line || proof.ChainHash(previous, leaf).String() != b.Hash {
			t.Errorf("entry %d: block %+v, %v", index, b, err)
		}
		e := sv.get(fmt.Sprintf("%s/entries/%d", mainLog, index)).want(t, 200, nil)
		if _, line, ok := bytes.Cut(e.body, []byte(`",`)); !ok || "{"+strings.TrimSuffix(string(line), "\n") != r.Line {
			t.Errorf("entry %d: %s is not its line behind index and leaf", index, e.body)
		}
	}
	for _, sizes := range [][2]uint64{{0, 600}, {1, 600}, {256, 257}, {300, 300}, {0, 0}, {511, 512}} {
		var c struct {
			From, To         uint64
			Hashes           []string
			RootFrom, RootTo string
		}
		sv.get(fmt.Sprintf("%s/consistency?from=%d&to=%d", mainLog, sizes[0], sizes[1])).want(t, 200, &c)
		var hashes []proof.Hash
		for _, text := range c.Hashes {
			h, err := proof.ParseHash(text)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, h)
		}
		a, errA := proof.ParseHash(c.RootFrom)
		b, errB := proof.ParseHash(c.RootTo)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if err := proof.CheckConsistency(hashes, sizes[0], sizes[1], a, b); err != nil {
			t.Errorf("from %d to %d: %v", sizes[0], sizes[1], err)
		}
	}
	var k struct {
		Origin  string
		Keys    []string
		Current []string
	}
	sv.get(mainLog+"/keys").want(t, 200, &k)
	if k.Origin != l.Origin() || !slices.Equal(k.Keys, keys) || !slices.Equal(k.Current, l.CurrentKeys()) {
		t.Errorf("keys: %+v", k)
	}
	var history struct {
		Checkpoints []checkpoint
		Next        *uint64
	}
	sv.get(mainLog+"/checkpoints").want(t, 200, &history)
	for _, c := range history.Checkpoints {
		opened, _, err := chain.Open([]byte(c.Note), proof.RequireAll)
		if err != nil || opened.Size != c.Size || opened.Root.Base64() != c.Root {
			t.Errorf("kept checkpoint of size %d: %+v, %v", c.Size, opened, err)
		}
	}
	if len(history.Checkpoints) == 0 {
		t.Error("no checkpoints are kept")
	}
}

func TestTilesAreServedForCaches(t *testing.T) {
	sv := serve(t, nil)
	l := sv.fill(600)
	if _, err := l.Proof(t.Context(), 599); err != nil { // a checkpoint over all
		t.Fatal(err)
	}
	const tlog = "/tlog/default/main/"
	whole := sv.get(tlog+"tile/0/000").want(t, 200, nil)
	if len(whole.body) != 256*32 || !strings.Contains(whole.header.Get("Cache-Control"), "immutable") || whole.header.Get("ETag") == "" {
		t.Errorf("a tile of %d bytes, %v", len(whole.body), whole.header)
	}
	first := proof.LeafHash(mustLine(t, l, 0))
	if !bytes.Equal(whole.body[:32], first[:]) {
		t.Error("the tile does not begin with the first leaf hash")
	}
	part := sv.do("GET", tlog+"tile/0/000", sv.root, nil, "Range", "bytes=32-95").want(t, 206, nil)
	if !bytes.Equal(part.body, whole.body[32:96]) {
		t.Error("a range is not of the tile")
	}
	sv.do("GET", tlog+"tile/0/000", sv.root, nil, "If-None-Match", whole.header.Get("ETag")).want(t, 304, nil)
	sv.do("GET", tlog+"tile/0/000", sv.root, nil, "Range", "bytes=9000-").want(t, 416, nil)
	plain := sv.do("GET", tlog+"tile/entries/001", sv.root, nil, "Accept-Encoding", "identity").want(t, 200, nil)
	packed := sv.do("GET", tlog+"tile/entries/001", sv.root, nil, "Accept-Encoding", "gzip").want(t, 200, nil)
	if packed.header.Get("Content-Encoding") != "gzip" || len(packed.body) >= len(plain.body) || packed.header.Get("ETag") == plain.header.Get("ETag") || !strings.Contains(packed.header.Get("Vary"), "Accept-Encoding") {
		t.Errorf("a packed bundle: %v", packed.header)
	}
	note := sv.get(tlog+"checkpoint").want(t, 200, nil)
	if c, err := l.OpenCheckpoint(note.body); err != nil || c.Size < 600 || strings.Contains(note.header.Get("Cache-Control"), "immutable") {
		t.Errorf("the checkpoint: %+v, %v, %v", c, err, note.header)
	}
	for _, path := range []string{"tile/0/003", "tile/0/002.p/200", "tile/5/000", "tile/entries/002", "x", "log.json", "epochs"} {
		sv.get(tlog+path).problem(t, "not-found")
	}
	sv.get(tlog+"tile/0/002.p/88").want(t, 200, nil)
}

func mustLine(t testing.TB, l *tenant.Log, index uint64) []byte {
	t.Helper()
	e, err := l.Entry(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	return e.Line
}

// Every read of entries is on record before it is answered: who, what, and how many.
func TestReadsAreOnRecord(t *testing.T) {
	sv := serve(t, nil)
	sv.fill(10)
	token := sv.token("default", tenant.TokenSpec{Role: tenant.Auditor})
	for _, path := range []string{"/entries", "/entries?q=level:audit", "/entries/3", "/entries/4/block", "/entries/5/receipt"} {
		sv.do("GET", mainLog+path, token, nil).want(t, 200, nil)
	}
	var found []string
	for e, err := range sv.log("default", tenant.SystemName).Entries(t.Context(), immutable.Query{Text: `action:"` + string(tenant.ReadBegin) + `"`}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, string(e.Metadata))
	}
	all := strings.Join(found, "\n")
	for _, want := range []string{"level:audit", "index=3", "index=4", "index=5", strings.Split(token, "_")[1]} {
		if !strings.Contains(all, want) {
			t.Errorf("the log of the log does not have %q:\n%s", want, all)
		}
	}
	if len(found) < 5 {
		t.Errorf("%d reads are on record:\n%s", len(found), all)
	}
}

func TestWhatRunsHereIsPublic(t *testing.T) {
	sv := serve(t, nil)
	for _, path := range []string{"/", "/healthz", "/readyz", "/errors/quota", "/api/v1/openapi.json"} {
		sv.do("GET", path, "", nil).want(t, 200, nil)
	}
	sv.do("GET", "/errors/none", "", nil).problem(t, "not-found")
	sv.do("GET", "/nothing", "", nil).problem(t, "not-found")
	var who struct {
		Tenant *string
		Role   string
	}
	sv.get("/api/v1/whoami").want(t, 200, &who)
	if who.Tenant != nil || who.Role != "admin" {
		t.Errorf("the first administrator is %+v", who)
	}
}
