package server

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/internal/tenant"
)

// export reads a whole export, and says how many entries its trailers name. Without the trailers it is -1.
func (sv *service) export(path, token string) (body []byte, header http.Header, entries string, err error) {
	sv.t.Helper()
	req, err := http.NewRequestWithContext(sv.t.Context(), "GET", "http://"+sv.addr+path, nil)
	if err != nil {
		sv.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		sv.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(resp.Body)
		sv.t.Fatalf("%s: status %d: %s", path, resp.StatusCode, data)
	}
	body, err = io.ReadAll(resp.Body)
	if resp.Trailer.Get(completeTrailer) != "true" {
		return body, resp.Header, "", err
	}
	return body, resp.Header, resp.Trailer.Get(entriesTrailer), err
}

func TestExportsHoldExactlyWhatIsSelected(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	for i := range 8 {
		sv.append(l, i*200, 200, 200, immutable.Level(i))
	}
	for _, c := range []struct {
		parameters string
		q          immutable.Query
	}{
		{"", immutable.Query{}},
		{"&q=odd:true", immutable.Query{Text: "odd:true"}},
		{"&level=SECURITY,WARN", immutable.Query{Levels: []immutable.Level{immutable.Security, immutable.Warn}}},
		{"&from=700&limit=50", immutable.Query{From: 700, Limit: 50}},
		{"&q=absent", immutable.Query{Text: "absent"}},
		{"&q=odd:true&verified=true&limit=3", immutable.Query{Text: "odd:true", Limit: 3}},
	} {
		var want []immutable.Entry
		var lines bytes.Buffer
		for e, err := range l.Entries(t.Context(), c.q) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, e)
			lines.Write(append(e.Line, '\n'))
		}
		body, header, n, err := sv.export(mainLog+"/export?format=jsonl"+c.parameters, sv.root)
		if err != nil || n != fmt.Sprint(len(want)) || !bytes.Equal(body, lines.Bytes()) {
			t.Errorf("jsonl%s: %d bytes, want %d; %s entries, want %d; %v", c.parameters, len(body), lines.Len(), n, len(want), err)
		}
		if root, size := l.Root(); header.Get("Immutable-Size") != fmt.Sprint(size) || header.Get("Immutable-Root") != root.Base64() {
			t.Errorf("headers %v", header)
		}
		body, _, n, err = sv.export(mainLog+"/export?format=csv"+c.parameters, sv.root)
		rows, ok := readCSV(string(body))
		if err != nil || !ok || len(rows) != len(want)+1 || n != fmt.Sprint(len(want)) || strings.Join(rows[0], ",") != CSVColumns {
			t.Fatalf("csv%s: %d rows, %v", c.parameters, len(rows), err)
		}
		for i, row := range rows[1:] {
			if row[0] != fmt.Sprint(want[i].Index) || row[16] != want[i].Leaf.String() || row[4] != want[i].Message {
				t.Fatalf("csv%s: row %q, want %+v", c.parameters, row, want[i])
			}
		}
		if body, _, _, err = sv.export(mainLog+"/export?format=marked"+c.parameters, sv.root); err != nil || bytes.Count(body, []byte(l.Origin())) != len(want) {
			t.Errorf("marked%s: %.200s, %v", c.parameters, body, err)
		}
	}
	for path, code := range map[string]string{"?format=xml": "bad-parameter", "?q=(": "bad-query", "?limit=-1": "bad-parameter", "?limit=99999999999999999999": "bad-parameter", "?format=tiles&q=x": "bad-parameter", "?order=asc": "bad-parameter"} {
		sv.get(mainLog+"/export"+path).problem(t, code)
	}
	sv.do("HEAD", mainLog+"/export", sv.root, nil).want(t, 200, nil)
}

// A tar of tiles, unpacked, verifies, and is what the library's own export is.
func TestTilesInATarAreTheLibrarysExport(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	if _, _, n, err := sv.export(mainLog+"/export?format=tiles", sv.root); n != "0" || err != nil {
		t.Errorf("an empty log has %s entries, %v", n, err)
	}
	sv.append(l, 0, 600, 600, immutable.Info)
	if err := l.RotateKeys(t.Context()); err != nil { // publishes, and makes a chain of keys
		t.Fatal(err)
	}
	body, _, n, err := sv.export(mainLog+"/export?format=tiles", sv.root)
	if err != nil || n != fmt.Sprint(l.Size()) {
		t.Fatalf("%s entries of %d, %v", n, l.Size(), err)
	}
	dir := t.TempDir()
	last := ""
	for r := tar.NewReader(bytes.NewReader(body)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = h.Name
		data, err := io.ReadAll(r)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(dir, h.Name)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, h.Name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if last != "checkpoint" {
		t.Errorf("the last file is %s", last)
	}
	rep, err := immutable.VerifyTiles(t.Context(), dir, l.OpenCheckpoint, nil, nil)
	if err != nil || len(rep.Findings)+len(rep.Unread) > 0 || rep.Checkpoint.Size != l.Size() {
		t.Fatalf("%+v, %v", rep, err)
	}
	// The library's own finds nothing to add.
	if x, err := l.ExportTiles(t.Context(), dir, nil); err != nil || x.Written != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	limited := sv.token("default", tenant.TokenSpec{Role: tenant.Auditor, Levels: []immutable.Level{immutable.Warn}})
	sv.do("GET", mainLog+"/export?format=tiles", limited, nil).problem(t, "forbidden")
	if body, _, n, err := sv.export(mainLog+"/export", limited); err != nil || n != "0" || len(body) > 0 {
		t.Errorf("whoever reads WARN only gets %.100s", body)
	}
}

// An export that fails in the middle is not taken for a whole one.
func TestExportThatFailsIsCutOff(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 10_000, 10_000, immutable.Info)
	// Somebody changes an entry that is far behind.
	file := filepath.Join(l.Dir(), "immutable.log")
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(live, []byte("event 9000"))
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("event 9999"), int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"jsonl", "csv", "marked"} {
		body, _, n, err := sv.export(mainLog+"/export?format="+format, sv.root)
		if err == nil || n != "" || len(body) < 1<<20 {
			t.Errorf("%s: %d bytes, trailer %q, error %v: that is taken for a whole export", format, len(body), n, err)
		}
	}
	// Where nothing was sent there is a problem.
	sv.get(mainLog+"/export?from=8990").problem(t, "corrupt")
}

// Exports that are cancelled, and one whose client stops reading, leave nothing behind.
func TestCancelledExportsLeaveNothing(t *testing.T) {
	sv := serve(t, func(o *Options) { o.Limits.Patience, o.Limits.Exports = time.Second, 4 })
	l := sv.log("default", "main")
	sv.big(l, 6000)
	if err := l.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	for _, format := range []string{"jsonl", "csv", "tiles", "jsonl&q=xxx*"} {
		c := rawStream(t, sv, mainLog+"/export?format="+format)
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	stuck := rawStream(t, sv, mainLog+"/export")
	idle := func() bool {
		sv.s.exports.mu.Lock()
		defer sv.s.exports.mu.Unlock()
		return sv.s.exports.left == 4
	}
	deadline(t, func() bool { return !idle() || len(sv.records("default", tenant.ReadBegin)) > 0 }, "the exports to begin")
	if data, _ := io.ReadAll(bufio.NewReader(&pausing{stuck, 3 * time.Second})); strings.Contains(string(data), completeTrailer+": true") {
		t.Error("an export that was not read in time looks complete")
	}
	deadline(t, idle, "the exports to end")
	deadline(t, func() bool { return runtime.NumGoroutine() <= before+3 }, "their goroutines to end")
	// And they can be made again, within the tenant's share.
	if _, _, n, err := sv.export(mainLog+"/export", sv.root); err != nil || n != fmt.Sprint(l.Size()) {
		t.Errorf("%s, %v", n, err)
	}
	if !sv.s.exports.try("default", 1) {
		t.Fatal("no place")
	}
	sv.get(mainLog+"/export").problem(t, "busy")
	sv.s.exports.give("default", 1)
}

// pausing waits once, before the first byte is read.
type pausing struct {
	in io.Reader
	d  time.Duration
}

func (p *pausing) Read(b []byte) (int, error) {
	time.Sleep(p.d)
	p.d = 0
	return p.in.Read(b)
}

// A token that is revoked in the middle of an export ends it, noticeably.
func TestRevocationEndsAnExport(t *testing.T) {
	t.Parallel()
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.big(l, 6000)
	plain, token, err := l.Tenant().CreateToken(t.Context(), tenant.Local("test"), tenant.TokenSpec{Name: "x", Role: tenant.Auditor})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+sv.addr+mainLog+"/export", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+plain)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 1000); err != nil {
		t.Fatal(err)
	}
	if err := l.Tenant().RevokeToken(t.Context(), tenant.Local("test"), token.ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * recheck)
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || resp.Trailer.Get(completeTrailer) == "true" {
		t.Errorf("%d bytes more, and the trailer %q", n, resp.Trailer.Get(completeTrailer))
	}
}

// Each way to take entries out is on record: who, what filter, how many.
func TestExportsAndCountsAreOnRecord(t *testing.T) {
	sv := serve(t, nil)
	l := sv.log("default", "main")
	sv.append(l, 0, 40, 40, immutable.Info)
	if err := l.RotateKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/export?format=csv&q=odd:true", "/bundle?q=odd:true", "/count?q=odd:true", "/counts?by=level&q=odd:true", "/histogram?width=1h&q=odd:true"} {
		sv.get(mainLog+path).want(t, 200, nil)
	}
	sv.close()
	again := serveIn(t, sv.dir, nil)
	seen := map[string]bool{}
	for _, m := range again.records("default", tenant.ReadEnd) {
		if m["entries"] == float64(20) && m["log"] == "main" && strings.Contains(m["filter"].(string), "q=odd:true") {
			seen[m["read"].(string)+" "+strings.SplitN(m["filter"].(string), " ", 2)[0]] = true
		}
	}
	for _, want := range []string{"export csv", "bundle q=odd:true", "search count", "search histogram"} {
		if !seen[want] {
			t.Errorf("%s is not on record: %v", want, seen)
		}
	}
}

// TestTenantWithoutTurnsLeavesThoseOfOthers takes all turns that a tenant has for reading. Its exports and its streams wait, another
// tenant's do not; and when it has turns again it goes on.
func TestTenantWithoutTurnsLeavesThoseOfOthers(t *testing.T) {
	sv := serve(t, nil)
	sv.tenant(tenant.TenantSettings{Name: "other"})
	const otherLog = "/api/v1/tenants/other/logs/main"
	for _, path := range []string{mainLog, otherLog} {
		sv.post(path+"/entries", `{"message":"m"}`).want(t, 201, nil)
	}
	share := sv.s.turns.share
	if got, want := share, max(1, cap(sv.s.turns.all)/4); got != want {
		t.Fatalf("a tenant has %d turns of %d, want %d", got, cap(sv.s.turns.all), want)
	}
	for range share {
		if err := sv.s.turns.take(t.Context(), "default"); err != nil {
			t.Fatal(err)
		}
	}
	waiting := make(chan string)
	go func() {
		_, _, entries, _ := sv.export(mainLog+"/export", sv.root)
		waiting <- entries
	}()
	if _, _, entries, err := sv.export(otherLog+"/export", sv.root); err != nil || entries != "1" {
		t.Errorf("the other tenant's export: %s entries, %v", entries, err)
	}
	if index, message := sv.follow(otherLog+"/stream", sv.root).entry(); index != 0 || message != "m" {
		t.Errorf("the other tenant's stream: %d %q", index, message)
	}
	select {
	case entries := <-waiting:
		t.Errorf("an export without a turn has %s entries", entries)
	default:
	}
	for range share {
		sv.s.turns.give("default")
	}
	if entries := <-waiting; entries != "1" {
		t.Errorf("the export with a turn: %q entries", entries)
	}
}
